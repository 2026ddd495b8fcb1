"""Which files on a storage path nobody needs any more, and their removal."""

import time
from dataclasses import dataclass
from pathlib import Path

from upath import UPath

from ail_ray.files import TEMPORARY, is_local, remove_tree
from ail_ray.runs.trial import Trial, trials_in

SETTLED = 86_400.0  # seconds


@dataclass(frozen=True)
class Rubbish:
    """A folder or file that nobody needs, and why."""

    path: UPath
    reason: str
    bytes: int


def rubbish(storage: UPath, *, failed: bool, older: float | None, names: tuple[str, ...] = ()) -> list[Rubbish]:
    """What can be removed: runs that failed, are older or are named, and shards and errors that no other run needs.

    Args:
        failed: include runs that failed, or that cannot be read.
        older: include runs whose last commit was more than so many seconds ago, if they can be read.
        names: names of runs to include in any case.

    A run that somebody works on is never included, nor what it needs, nor what changed in the last day, since a sweep
    may be about to use it.
    """
    goes, kept = list[Rubbish](), list[Trial]()
    for s in trials_in(storage):
        reasons = {
            "failed": failed and s.status in ("failed", "unreadable"),
            "old": older is not None and older < s.age < float("inf"),
            "named": s.run in names,
        }
        reason = next((reason for reason, holds in reasons.items() if holds and s.status != "working"), None)
        if reason is None:
            kept.append(s)
        else:
            goes.append(_rubbish(storage / "runs" / s.run, f"{reason}: {s.name or s.reason}"))
    if any(s.manifest is None for s in kept):
        return goes  # who knows what these need
    needed = {s.manifest.corpus for s in kept if s.manifest}
    for path in _children(storage / "corpora"):
        if path.name not in needed and _settled(path):
            goes.append(_rubbish(path, "shards that no run needs; built again from the images"))
    for kind in ("errors", "outputs"):
        for path in _children(storage / kind):
            if path.name.split("-")[1:2] and path.name.split("-")[1] not in needed and _settled(path):
                goes.append(_rubbish(path, f"teacher {kind} that no run needs; computed again"))
    if is_local(storage):
        for left in Path(str(storage)).rglob(f".*{TEMPORARY}"):
            if time.time() - left.stat().st_mtime > SETTLED:
                goes.append(Rubbish(UPath(left), "written half by a process that was killed", left.stat().st_size))
    for path in _children(storage / "ray"):
        if all(s.status != "working" for s in kept) and _settled(path):
            goes.append(_rubbish(path, "what Ray wrote about jobs that are over"))
    return goes


def remove(goes: list[Rubbish]) -> None:
    """Remove files and folders, and of a run the manifest first, so that a half-removed run is not taken for one."""
    for each in goes:
        if each.path.is_file():
            each.path.unlink(missing_ok=True)
        elif each.path.parent.name == "runs" or _settled(each.path):  # a sweep may use it since it was looked at
            (each.path / "manifest.json").unlink(missing_ok=True)
            remove_tree(each.path)


def _rubbish(path: UPath, reason: str) -> Rubbish:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Rubbish(path, reason, size)


def _settled(folder: UPath) -> bool:
    """Whether nothing in a folder has changed for a day."""
    times = [file.stat().st_mtime for file in folder.rglob("*") if file.is_file()]
    newest = max([*times, folder.stat().st_mtime if is_local(folder) else 0.0])
    return time.time() - newest > SETTLED


def _children(folder: UPath) -> list[UPath]:
    return sorted((p for p in folder.iterdir() if p.is_dir()), key=lambda p: p.name) if folder.exists() else []

"""The chain of a run's manifests: which is the last commit, and who may make the next one.

A commit is the manifest with the next number, which the storage takes from one process only. A job that was overtaken
therefore cannot commit, whenever it wakes up: the number is taken, or there are later ones.
"""

import json
import re
from contextlib import suppress
from dataclasses import replace

import msgspec
from upath import UPath

from ail_ray.files import FileError, create, digest_of, read_json, write_json
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.records import Manifest, as_manifest

FORMAT = 3
KEPT = 2
NUMBER = re.compile(r"(?:commit-)?(\d{8})\.\w+")


class OtherFormatError(FileError):
    """A run directory that another version of this program has written."""


class Manifests:
    """The manifests of one run directory."""

    def __init__(self, path: UPath, holder: str | None) -> None:
        """
        Args:
            path: the run directory.
            holder: of the lease that this process works under; None, who needs no lease, always may commit.
        """
        self.path, self.holder = path, holder
        self._opened = -1  # the commit that was the last when this process took the run over

    def taken_over(self) -> tuple[Manifest | None, int]:
        """The manifest to go on from, None for a run that has not begun, and the number of the last commit.

        From now on this process may make the next commit.

        Raises:
            FileError: as `newest`, of a run that has begun.
        """
        mark = self.path / "manifest.json"
        begun = mark.exists() and (self._format() != FORMAT or self._numbers())
        if not begun:
            write_json(mark, {"format": FORMAT})
        there, self._opened = self.newest()[:2] if begun else (None, 0)
        return there, self._opened

    def check(self) -> tuple[Manifest, int]:
        """The manifest that the next commit of this process changes, and the number of that commit.

        Raises:
            LeaseLostError: another job has taken the run over.
        """
        manifest, number, _ = self.newest()
        if self.holder is not None and manifest.holder != self.holder and number != self._opened:
            raise LeaseLostError(f"{self.path}: another job has taken this run over ({manifest.holder})")
        return manifest, number + 1

    def newest(self) -> tuple[Manifest, int, list[str]]:
        """The newest manifest that is whole, the number of the last commit, and what is damaged, a line each.

        Raises:
            FileError: missing, damaged (with the one before), or of another format.
        """
        if self._format() == 2 and not self._numbers():  # else it is just being converted
            return self._newest_of_format_2()
        while True:
            numbers, damages = self._numbers(), list[FileError]()
            for number in reversed(numbers):
                path = self._manifest_path(number)
                try:
                    return self._manifest(path), numbers[-1], [str(damage) for damage in damages]
                except OtherFormatError:
                    raise
                except FileError as damage:
                    damages.append(damage)
                    if not path.exists():  # there is a newer one by now
                        break
            else:
                raise damages[0] if damages else FileError(f"{self.path}: damaged, it has no manifest")

    def _newest_of_format_2(self) -> tuple[Manifest, int, list[str]]:
        try:
            return self._manifest(self.path / "manifest.json"), 0, []
        except FileError as damage:
            with suppress(FileError):
                return self._manifest(self.path / "manifest-previous.json"), 0, [str(damage)]
            raise

    def _format(self) -> int:
        """The format of the directory, 2 where its manifest is so damaged that it does not say."""
        path = self.path / "manifest.json"
        try:
            content = read_json(path)
        except FileError:
            if not path.exists():
                raise
            content = None
        found = content.get("format") if isinstance(content, dict) else 2
        if found not in (2, FORMAT):
            raise OtherFormatError(f"{self.path}: format {found}, this version reads 2 and {FORMAT}")
        return int(found)

    def _numbers(self) -> list[int]:
        """The numbers of the commits whose manifests are there, in order."""
        folder = self.path / "manifests"
        names = [NUMBER.fullmatch(path.name) for path in folder.iterdir()] if folder.exists() else []
        return sorted(int(name[1]) for name in names if name)

    def _manifest_path(self, number: int) -> UPath:
        return self.path / "manifests" / f"{number:08d}.json"

    def _manifest(self, path: UPath) -> Manifest:
        content = read_json(path)
        if not isinstance(content, dict) or not isinstance(content.get("format"), int):
            raise FileError(f"{path}: damaged, not a manifest")
        if content["format"] not in (2, FORMAT):
            raise OtherFormatError(f"{path}: format {content['format']}, this version reads 2 and {FORMAT}")
        if content.pop("sha256", None) != digest_of(content, length=64):
            raise FileError(f"{path}: damaged, its content differs from its checksum")
        return as_manifest(content, path)

    def write(self, manifest: Manifest, number: int | None = None) -> Manifest:
        """Write the manifest of a commit, and return it.

        Args:
            number: that of the commit, by which others notice it; by default the next one.

        Raises:
            LeaseLostError: another job has made a commit of this number, or later ones.
        """
        number = self._numbers()[-1] + 1 if number is None else number
        manifest = replace(manifest, format=FORMAT, holder=self.holder or manifest.holder)
        content = msgspec.to_builtins(manifest)
        text = json.dumps(content | {"sha256": digest_of(content, length=64)}, indent=1, allow_nan=False)
        if not create(self._manifest_path(number), text.encode()) or self._numbers()[-1] != number:
            raise LeaseLostError(f"{self.path}: another job has taken this run over (at commit {number})")
        if self._format() != FORMAT:
            write_json(self.path / "manifest.json", {"format": FORMAT})
            for name in ("manifest-previous.json", "failure.json"):
                (self.path / name).unlink(missing_ok=True)
        for old in self._numbers():
            if old <= number - KEPT:
                self._manifest_path(old).unlink(missing_ok=True)
        return manifest

r"""List the runs on a storage path, look at one of them, or remove those that nobody needs.

    # all runs in ./ail_out: state, rounds, PSNR, time left
    ail runs

    # one run, round by round
    ail runs --show 9923ddf8fbc0636f

    # what could be removed; with --yes it is removed
    ail runs --storage s3://bucket/ail --prune \
        --older 30 --failed

Exit codes: 0 when it was listed, shown or removed, 2 when the command was refused.
"""

from dataclasses import dataclass

from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.entry import say
from ail_ray.errors import one_line, printable
from ail_ray.files import as_path
from ail_ray.runs.prune import remove, rubbish
from ail_ray.runs.trial import trials_in
from ail_ray.sweeps.terminal import rounds, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to look at, or to remove."""

    storage: str = "ail_out"
    """Folder or address of the runs: the --storage of a sweep or, where it had none, its --out."""
    show: str | None = None
    """Name of a run to show round by round."""
    prune: bool = False
    """List what could be removed: runs chosen by --older, --failed and --run, and caches that no other run needs."""
    older: float | None = None
    """Choose the runs that nothing was added to for so many days."""
    failed: bool = False
    """Choose the runs that have failed or cannot be read."""
    run: tuple[str, ...] = ()
    """Choose the runs with these names."""
    yes: bool = False
    """Remove what --prune lists."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, look, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail runs", description=__doc__ or "")
    storage = as_path(o.storage)
    prune = o.prune or o.older is not None or o.failed or bool(o.run)
    problems = [f"older must be 0 or more days, got {o.older:g}"] if o.older is not None and o.older < 0 else []
    problems += ["yes goes with --prune, --older, --failed or --run"] if o.yes and not prune else []
    if problems:
        refuse(problems)
    try:
        if not storage.exists() or storage.is_file():
            refuse([f"{storage}: no such folder"])
    except Exception as error:  # whatever an object store's library raises, or that it is not installed
        refuse([f"{storage}: cannot be read ({one_line(error)})"])
    missing = [name for name in (o.show, *o.run) if name and not (storage / "runs" / name / "manifest.json").exists()]
    if missing:
        refuse([f"{storage / 'runs'}: no run {name}" for name in missing])
    if prune:
        goes = rubbish(storage, failed=o.failed, older=None if o.older is None else o.older * 86400, names=o.run)
        for each in goes:
            say(printable(f"{each.bytes / 2**20:10.1f} MiB  {each.path}  ({each.reason})"))
        if o.yes:
            remove(goes)
        total = sum(each.bytes for each in goes) / 2**20
        say(f"{total:10.1f} MiB  {'removed' if o.yes else 'could go: --yes removes it'}")
    else:
        say("\n".join(rounds(storage / "runs" / o.show) if o.show else table(trials_in(storage))))
    return 0

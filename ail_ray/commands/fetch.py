"""Fetch public image sets. Every file is verified by its SHA-256.

    # which sets there are, and how much of each is here
    ail fetch --list

    # the 291 training images, Set5 and Set14: 74 MB
    ail fetch --to ~/data

    # are these two here and whole? This uses no network.
    ail fetch --sets BSD100 Urban100 --check

Nothing else in this project downloads images. The same command, started again, fetches only what is missing or damaged.
Exit codes: 0 when all files are whole, 1 when one is missing, 2 when the command was refused and nothing was started.
"""

import sys
from dataclasses import dataclass

from ail_ray.commands.parsing import parse, refusals, refuse
from ail_ray.entry import say
from ail_ray.imaging.public_sets import check, default_folder, fetch, fetch_command, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to fetch, or to look at."""

    sets: tuple[str, ...] = ("T91", "BSDS200", "Set5", "Set14")
    """Names of the sets to fetch, or to check. --list shows them all."""
    to: str = default_folder()
    """Folder in which every set becomes a folder; by default $AIL_DATA_DIR, and without it ~/.cache/ail_ray/data."""
    base: str | None = None
    """Address of a mirror that has the files as SET/FILE, to fetch from instead of the sets' own addresses."""
    list: bool = False
    """Show all sets: number of images, size, how much of each is in --to, and where it comes from."""
    check: bool = False
    """Read the files in --to, and say which are missing or damaged. This uses no network."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, fetch or look, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail fetch", description=__doc__ or "")
    try:
        if o.list:
            say("\n".join(table(o.to)))
            return 0
        problems = check(o.sets, o.to) if o.check else fetch(o.sets, o.to, base=o.base, say=say)
    except OSError as error:
        refuse([f"to: cannot be read ({error})"])
    for problem in problems:
        say(problem, sys.stderr, level="ERROR")
    again = f"Files that are not there: {len(problems)}; again: {fetch_command(o.sets, o.to, o.base)}"
    say(again if problems else "All files are whole.")
    return int(bool(problems))

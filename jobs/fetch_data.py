"""Fetch public image sets, every file verified by its SHA-256. Nothing else in this project downloads images.

    python jobs/fetch_data.py --list                            which there are, and how much of each is here
    python jobs/fetch_data.py --to ~/data                       the 291 training images, Set5 and Set14: 74 MB
    python jobs/fetch_data.py --sets BSD100 Urban100 --check    are they here and whole? Without any network

Started again, the same command fetches what is missing or damaged and nothing else. Exit code 1: something is missing;
2: nothing was started.
"""

import sys
from dataclasses import dataclass

from ail_ray.entry import GOES_ON, run, say

from ail_ray.commandline import parse, refuse
from ail_ray.errors import ConfigError
from ail_ray.imaging.registry import check, default_folder, fetch, fetch_command, table


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to fetch, or to look at."""

    sets: tuple[str, ...] = ("T91", "BSDS200", "Set5", "Set14")
    """Names of sets; --list shows them."""
    to: str = default_folder()
    """Folder of the sets, each becomes a folder in it: by default $AIL_DATA_DIR, else ~/.cache/ail_ray/data."""
    base: str | None = None
    """Address of a mirror that has SET/FILE, instead of the sets' own addresses."""
    list: bool = False
    """Show all sets: images, size, whether they are in --to and whole, where they come from."""
    check: bool = False
    """Read the files that are there, and say which are missing or damaged, without any network."""


def main(arguments: list[str]) -> int:
    """Parse, fetch or look, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="fetch_data.py", description=__doc__ or "")
    try:
        if o.list:
            print("\n".join(table(o.to)))
            return 0
        problems = check(o.sets, o.to) if o.check else fetch(o.sets, o.to, base=o.base, say=say)
    except ConfigError as error:
        refuse(error.problems)
    except OSError as error:
        refuse([f"to: cannot be read ({error})"])
    print("".join(f"{problem}\n" for problem in problems), end="", file=sys.stderr)
    again = f"Files that are not there: {len(problems)}; again: {fetch_command(o.sets, o.to, o.base)}"
    print(again if problems else "All files are whole.")
    return int(bool(problems))


if __name__ == "__main__":
    run(main, again=GOES_ON)

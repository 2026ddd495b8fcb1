r"""Write one HTML page about a sweep, finished or not, or about a table run: what was asked and what was found.

    # ail_out/report.html, about the sweep in ail_out
    python jobs/report.py --out ail_out

    # a page about what paper_tables.py has written
    python jobs/report.py --out docs/results/mini \
        --to tables.html

The page needs no network and no other file. Exit codes: 0 when it was written, 2 when there is nothing to report on, or
something there is damaged.
"""

import shlex
from dataclasses import dataclass

from ail_ray.entry import run, say

from ail_ray.commands.parsing import parse, refuse
from ail_ray.errors import ConfigError
from ail_ray.files import as_path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to report on."""

    out: str = "ail_out"
    """Folder or address to report on: the --out of a sweep, or a folder docs/results/BUDGET of paper_tables.py."""
    to: str | None = None
    """File for the page; by default report.html in --out."""


def main(arguments: list[str]) -> int:
    """Parse, write, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="report.py", description=__doc__ or "")
    out = as_path(o.out)
    to = as_path(o.to) if o.to else out / "report.html"
    command = shlex.join(["python", "jobs/report.py", *arguments])
    from ail_ray.paper.page import tables_page  # here: they take seconds to load
    from ail_ray.reporting.page import write_page
    from ail_ray.reporting.sweep_page import sweep_page

    kinds = {"sweep.json": sweep_page, "summary.json": sweep_page, "table_*.json": tables_page}
    try:
        found = write_page(out, to, command, kinds)
    except ConfigError as error:
        refuse(error.problems)
    say(f"{found}\n{to}, {to.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    run(main)

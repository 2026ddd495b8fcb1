"""One self-contained HTML page of a sweep, finished or not, or of a table run: what was asked and what was found.

    python jobs/report.py --out ail_out                     ail_out/report.html, of a sweep's --out
    python jobs/report.py --out docs/results/mini --to tables.html      of what paper_tables.py wrote

The page needs no network and no other file. Exit code 2: there is nothing to report, or it is damaged.
"""

import shlex
from dataclasses import dataclass

from ail_ray.entry import run

from ail_ray.commandline import parse, refuse
from ail_ray.errors import ConfigError
from ail_ray.files import as_path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to report on."""

    out: str = "ail_out"
    """Folder or address: a sweep's --out, or the folder of a budget that paper_tables.py wrote."""
    to: str | None = None
    """File for the page; report.html in --out by default."""


def main(arguments: list[str]) -> int:
    """Parse, write, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="report.py", description=__doc__ or "")
    out = as_path(o.out)
    to = as_path(o.to) if o.to else out / "report.html"
    command = shlex.join(["python", "jobs/report.py", *arguments])
    from ail_ray.reporting.page import write_page  # here: with MLflow it takes two seconds to load

    try:
        found = write_page(out, to, command)
    except ConfigError as error:
        refuse(error.problems)
    print(f"{found}\n{to}, {to.stat().st_size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    run(main)

r"""Write one HTML page about a sweep, finished or not, or about a table run: what was asked and what was found.

    # ail_out/report.html, about the sweep in ail_out
    ail report --out ail_out

    # a page about tables that were made at budget mini
    ail report --out docs/results/mini \
        --to tables.html

The page needs no network and no other file. Exit codes: 0 when it was written, 2 when there is nothing to report on, or
something there is damaged.
"""

from dataclasses import dataclass

from ail_ray.commands.parsing import parse, refusals
from ail_ray.entry import called, say
from ail_ray.files import as_path


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to report on."""

    out: str = "ail_out"
    """Folder or address to report on: the --out of a sweep, or a folder docs/results/BUDGET of `ail paper`."""
    to: str | None = None
    """File for the page; by default report.html in --out."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, write, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail report", description=__doc__ or "")
    out = as_path(o.out)
    to = as_path(o.to) if o.to else out / "report.html"
    from ail_ray.paper.page import tables_page  # here: they take seconds to load
    from ail_ray.reporting.page import write_page
    from ail_ray.reporting.sweep_page import sweep_page

    kinds = {"sweep.json": sweep_page, "summary.json": sweep_page, "table_*.json": tables_page}
    found = write_page(out, to, called("report", *arguments), kinds)
    say(f"{found}\n{to}, {to.stat().st_size / 1e6:.1f} MB")
    return 0

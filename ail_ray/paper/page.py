"""What the page of a table run shows, as plain data, charts and pictures for its template."""

import io
import re
from collections.abc import Iterator, Sequence

from markupsafe import Markup
from PIL import Image
from upath import UPath

from ail_ray.errors import counted
from ail_ray.files import read_record
from ail_ray.imaging.panels import UNREADABLE
from ail_ray.paper.methods import METHODS, TABLES
from ail_ray.paper.tables import RunRow, RunTable, SizeTable
from ail_ray.reporting import sentences
from ail_ray.reporting.films import Frame, frame
from ail_ray.reporting.page import Content
from ail_ray.reporting.svg import differences

ROWS = 200  # of a table
TITLES = {str(n): table.title for n, table in TABLES.items()} | {"3": "size, work and time of the networks"}


def tables_page(out: UPath) -> Content:
    """The values that `page.html` shows of a table run.

    Raises:
        FileError: a table is damaged, or is something else.
    """
    tables = [_table(path) for path in sorted(out.glob("table_*.json"), key=lambda path: path.name)]
    rows = [row for table in tables for row in table["rows"] if isinstance(row, RunRow)]
    notes = [line for table in tables for line in re.findall(r"`([^`]+)`", table["note"])]
    return {
        "kind": "tables", "title": f"The paper's tables, budget {out.name}", "answers": list(_compared(out.name, rows)),
        "tables": tables, "figures": list(_figures(out)),
        "commands": [("These tables", command) for command in dict.fromkeys(notes)],
    }  # fmt: skip


def _table(path: UPath) -> Content:
    """A table, a chart of its rows against their controls, and its note in pieces, of which every second is code."""
    number = path.stem.partition("_")[2]
    sizes = number == "3"
    table: SizeTable | RunTable = read_record(path, SizeTable) if sizes else read_record(path, RunTable)
    gains = [
        (f"{r.method}, {r.where}", r.gain, r.gain_interval, r.method in METHODS and METHODS[r.method].is_control)
        for r in (table.rows if isinstance(table, RunTable) else ())
        if r.gain is not None
    ]
    chart = differences(f"Table {number}: PSNR against the control", "dB against w = 1", gains) if gains else ""
    return {
        "number": number, "title": TITLES.get(number, ""), "rows": table.rows[:ROWS], "sizes": sizes,
        "note": table.note, "pieces": table.note.split("`"), "missing": table.missing, "chart": Markup(chart),
        "any_gain": bool(gains),
    }  # fmt: skip


def _compared(budget: str, rows: Sequence[RunRow]) -> Iterator[str]:
    """A sentence about the rows that have a control."""
    gains = {(r.method, r.where): (r, r.gain, r.gain_interval) for r in rows if r.gain is not None}
    judged = [(r, gain, half) for r, gain, half in gains.values() if half is not None]
    better = [each for each in judged if each[1] - each[2] > 0]
    worse = [each for each in judged if each[1] + each[2] < 0]
    if not gains:
        yield "No row here has a matched control: nothing can be said about whether importance helped."
    elif not judged:
        yield f"{counted(len(gains), 'comparison')} with a matched control, each of one seed: no more than hints"
    else:
        yield (
            f"Of {counted(len(judged), 'comparison')} with a matched control over several seeds, {len(better)} "
            f"{'is' if len(better) == 1 else 'are'} better and {len(worse)} worse beyond the 95 % interval"
        )
    if budget == "smoke":
        yield "The budget smoke shows that everything runs. Its numbers mean nothing."
    for kind, found in (("Better", better), ("Worse", worse)):
        if found:
            listed = (
                f"{r.method} on {r.where} by {sentences.number(gain, sentences.SIGNED)} ± "
                f"{sentences.number(half)} dB ({len(r.gain_seeds)} seeds)" for r, gain, half in found[:ROWS]
            )  # fmt: skip
            yield f"{kind}: {'; '.join(listed)}."
    if len(gains) > len(judged) > 0:
        single = len(gains) - len(judged)
        yield f"{single} more {'has' if single == 1 else 'have'} one seed, which says nothing about chance."
    if len(judged) > 1:
        yield "One of twenty such intervals misses its truth by chance; none here is corrected for their number."


def _figures(out: UPath) -> Iterator[tuple[str, Frame]]:
    for path in sorted(out.glob("figure_*.png"), key=lambda path: path.name):
        try:
            with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
                yield path.stem.partition("_")[2], frame("", image, exact=True, longest=1200)
        except UNREADABLE:
            continue

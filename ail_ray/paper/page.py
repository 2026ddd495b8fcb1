"""What the page of a table run shows, as plain data, charts and pictures for its template."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup
from PIL import Image
from upath import UPath

from ail_ray.errors import counted
from ail_ray.files import read_json
from ail_ray.imaging.panels import UNREADABLE
from ail_ray.paper.methods import METHODS, TABLES
from ail_ray.reporting import sentences
from ail_ray.reporting.films import frame
from ail_ray.reporting.svg import differences

ROWS = 200  # of a table
NUMBERS = (
    "psnr", "psnr_interval", "ssim", "gain", "gain_interval", "paper_psnr", "paper_ssim", "parameters",
    "multiply_accumulates", "seconds",
)  # fmt: skip
TITLES = {str(n): table.title for n, table in TABLES.items()} | {"3": "size, work and time of the networks"}


def tables_page(out: UPath) -> dict[str, Any]:
    """The values that `page.html` shows of a table run."""
    tables = [_table(path) for path in sorted(out.glob("table_*.json"), key=lambda path: path.name)]
    rows = [row for table in tables for row in table["rows"]]
    notes = [line for table in tables for line in re.findall(r"`([^`]+)`", table["note"])]
    return {
        "kind": "tables", "title": f"The paper's tables, budget {out.name}", "answers": list(_compared(out.name, rows)),
        "tables": tables, "figures": list(_figures(out)),
        "commands": [("These tables", command) for command in dict.fromkeys(notes)],
    }  # fmt: skip


def _table(path: UPath) -> dict[str, Any]:
    """A table, a chart of its rows against their controls, and its note in pieces, of which every second is code."""
    content, number = read_json(path), path.stem.partition("_")[2]
    rows, note = content["rows"], str(content["note"])
    sizes = bool(rows) and "multiply_accumulates" in rows[0]
    for row in rows:  # numbers are numbers, whoever wrote the file
        row |= {name: float(row[name]) for name in NUMBERS if row.get(name) is not None}
    gains = [
        (f"{r['method']}, {r['set']} ×{r['scale']}", r["gain"], r["gain_interval"], _is_control(r["method"]))
        for r in rows
        if "gain" in r
    ]
    chart = differences(f"Table {number}: PSNR against the control", "dB against w = 1", gains) if gains else ""
    return {
        "number": number, "title": TITLES.get(number, ""), "rows": rows[:ROWS], "sizes": sizes, "note": note,
        "pieces": note.split("`"),
        "missing": [str(line) for line in content["missing"]], "chart": Markup(chart), "any_gain": bool(gains),
    }  # fmt: skip


def _is_control(name: str) -> bool:
    """Whether a method is plain training itself, as under one schedule, and so another kind of control."""
    condition = METHODS[name].condition if name in METHODS else {}
    return condition.get("rule") == ("uniform",) and "beta" not in condition


def _compared(budget: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """A sentence about the rows that have a control."""
    gains = {(r["method"], r["set"], r["scale"]): r for r in rows if "gain" in r}
    judged = [r for r in gains.values() if r["gain_interval"] is not None]
    better = [r for r in judged if r["gain"] - r["gain_interval"] > 0]
    worse = [r for r in judged if r["gain"] + r["gain_interval"] < 0]
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
                f"{r['method']} on {r['set']} ×{r['scale']} by {sentences.number(r['gain'], sentences.SIGNED)} ± "
                f"{sentences.number(r['gain_interval'])} dB ({len(r['gain_seeds'])} seeds)" for r in found[:ROWS]
            )  # fmt: skip
            yield f"{kind}: {'; '.join(listed)}."
    if len(gains) > len(judged) > 0:
        single = len(gains) - len(judged)
        yield f"{single} more {'has' if single == 1 else 'have'} one seed, which says nothing about chance."
    if len(judged) > 1:
        yield "One of twenty such intervals misses its truth by chance; none here is corrected for their number."


def _figures(out: UPath) -> Iterator[tuple[str, Any]]:
    for path in sorted(out.glob("figure_*.png"), key=lambda path: path.name):
        try:
            with Image.open(io.BytesIO(path.read_bytes()), formats=["PNG"]) as image:
                yield path.stem.partition("_")[2], frame("", image, exact=True, longest=1200)
        except UNREADABLE:
            continue

"""Trials and runs as tables for a terminal."""

import shutil
import sys
from collections.abc import Iterator
from io import StringIO
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from upath import UPath

from ail_ray.learning.inference import mean_psnr
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.references import verdict
from ail_ray.runs.status import Status, describe, status


def table(found: list[Status]) -> Iterator[str]:
    """The runs as lines, grouped by the data they can be compared on, with bicubic and teachers on that data."""
    groups: dict[str, list[Status]] = {}
    for s in found:
        groups.setdefault(s.data, []).append(s)
    for data, runs in groups.items():
        table = Table("run", "state", "round", "best", "left", "commit", "trial", title=data, **LEFT)
        for s in runs:
            over = {"status": s.state, "dead": s.dead, "below_bicubic": s.below_bicubic, "draws": s.draws}
            state = "working" if s.works else verdict(over) if s.state == "finished" else s.state
            of = f"{s.round if s.round >= 0 else '-'} of {s.rounds}" if s.name else "-"
            table.add_row(
                s.run, state, of, f"{s.best:.2f} dB" if s.best else "-",
                in_words(s.seconds_left) if s.seconds_left else "-", in_words(s.age) if s.age < 1e9 else "-",
                Text("\n".join(filter(None, (s.name, s.reason)))),
            )  # fmt: skip
        for name, rows in {name: rows for s in runs for name, rows in s.references.items()}.items():
            table.add_row(Text(name), "", "", f"{mean_psnr(rows['validation'] or rows['test']):.2f} dB")
        yield from as_lines(table)


def rounds(path: UPath) -> Iterator[str]:
    """One run, with a line for each round."""
    found = status(path)
    worker = f", {found.state} works on it" if found.works else f", {found.state}"
    yield f"{found.name or path.name}{worker}{': ' + found.reason if found.reason else ''}"
    for line in RunDirectory(path).incidents():
        yield f"incident: {line}"
    if found.name:
        yield from (describe(record) for record in RunDirectory(path).records())


def in_words(seconds: float) -> str:
    """A length of time in words, such as `1.5 h`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


LEFT: dict[str, Any] = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0), "title_justify": "left"}
"""Layout of a table of rich whose rows are to be read as lines, without a frame."""


def as_lines(table: Table) -> list[str]:
    """The lines of a table: no wider than the terminal, or, where standard output is none, a line for each row."""
    written = StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1000
    Console(file=written, width=width, color_system=None).print(table)
    return [line.rstrip() for line in written.getvalue().splitlines()]


def trials_table(summary: dict[str, Any]) -> str:
    """A line for each trial, the best first, and for what they are compared with: PSNR in dB and SSIM on every set."""
    references = summary.get("references", {})
    measured = [*summary["trials"], *references.values()]
    sets = dict.fromkeys(
        (g, row["set"], row["scale"]) for g in ("validation", "test") for m in measured for row in m[g]
    )
    table = Table(**LEFT)
    table.add_column("trial", overflow="fold")
    table.add_column("rounds", justify="right")
    table.add_column("status")
    for _, name, scale in sets:
        table.add_column(f"{name} ×{scale}, dB SSIM", justify="right")

    def cells(rows: dict[str, Any]) -> list[str]:
        found = {(g, row["set"], row["scale"]): row for g in ("validation", "test") for row in rows[g]}
        shown = [found.get(key) for key in sets]
        return [f"{row['psnr']:.2f} {row['ssim']:.4f}" if row else "" for row in shown]

    for trial in summary["trials"]:
        rounds = str(trial["rounds"]) if trial["rounds"] >= 0 else "none"
        table.add_row(Text(trial["name"]), rounds, verdict(trial), *cells(trial))
    for name, rows in references.items():
        table.add_row(Text(name), "", "", *cells(rows))
    return "\n".join(as_lines(table))

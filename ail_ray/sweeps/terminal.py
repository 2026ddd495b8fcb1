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

from ail_ray.errors import printable
from ail_ray.learning.records import Row, Rows
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps.sweep_file import Summary


def table(found: list[Trial]) -> Iterator[str]:
    """The runs as lines, grouped by the data they can be compared on, with bicubic and teachers on that data."""
    groups: dict[str, list[Trial]] = {}
    for trial in found:
        groups.setdefault(trial.data, []).append(trial)
    for data, runs in groups.items():
        table = Table("run", "state", "round", "best", "left", "commit", "trial", title=data, **LEFT)
        for t in runs:
            state = t.verdict if t.status == "finished" else t.status
            of = f"{t.rounds if t.rounds >= 0 else '-'} of {t.asked}" if t.name else "-"
            table.add_row(
                t.run, state, of, f"{t.best:.2f} dB" if t.best else "-",
                in_words(t.seconds_left) if t.seconds_left else "-", in_words(t.age) if t.age < 1e9 else "-",
                Text("\n".join(filter(None, (t.name, printable(t.reason))))),
            )  # fmt: skip
        for name, rows in {name: rows for t in runs for name, rows in t.references.items()}.items():
            table.add_row(Text(name), "", "", f"{rows.psnr:.2f} dB")
        yield from as_lines(table)


def rounds(path: UPath) -> Iterator[str]:
    """One run, with a line for each round."""
    found = read_trial(path)
    worker = f"{found.worker} works on it" if found.worker else found.status
    yield printable(f"{found.name or path.name}, {worker}{': ' + found.reason if found.reason else ''}")
    for line in found.manifest.incidents if found.manifest else ():
        yield printable(f"incident: {line}")
    yield from map(str, found.records)


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


def trials_table(summary: Summary) -> str:
    """A line for each trial, the best first, and for what they are compared with: PSNR in dB and SSIM on every set."""
    measured: list[Rows] = [*summary.trials, *summary.references.values()]
    groups = ("validation", "test")
    sets = dict.fromkeys((group, row.where) for group in groups for rows in measured for row in getattr(rows, group))
    table = Table(**LEFT)
    table.add_column("trial", overflow="fold")
    table.add_column("rounds", justify="right")
    table.add_column("status")
    for _, where in sets:
        table.add_column(f"{where}, dB SSIM", justify="right")

    def cells(rows: Rows) -> list[str]:
        found: dict[tuple[str, str], Row] = {(g, r.where): r for g in groups for r in getattr(rows, g)}
        shown = [found.get(key) for key in sets]
        return [f"{row.psnr:.2f} {row.ssim:.4f}" if row else "" for row in shown]

    for trial in summary.trials:
        rounds = str(trial.rounds) if trial.rounds >= 0 else "none"
        table.add_row(Text(trial.name), rounds, trial.verdict, *cells(trial))
    for name, rows in summary.references.items():
        table.add_row(Text(name), "", "", *cells(rows))
    return "\n".join(as_lines(table))

"""A terminal shows how far every trial is; a log has the plain lines and nothing else."""

import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from upath import UPath

from ail_ray.learning.records import Measured
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.run import TrialPlan, run_local
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps import progress


class StoppedError(BaseException):
    """The process is gone."""


@pytest.fixture(scope="module")
def monitor(make_plan: Callable[..., TrialPlan], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One trial of two that is over, and one in the middle of round 2 of 3."""

    def stop(measured: Measured) -> None:
        if measured.round == 1:
            raise StoppedError

    storage = tmp_path_factory.mktemp("progress")
    plans = [make_plan(storage, lam=lam) for lam in (0.1, 0.2)]
    for plan in plans:
        with pytest.raises(StoppedError):
            run_local(plan, 1, torch.device("cpu"), stop)
    over, going = (plan.directory.name for plan in plans)
    return SimpleNamespace(plans={over: plans[0], going: plans[1]}, over={over: ("stopped", "")})


def printed(table: Any) -> list[list[str]]:
    """The cells of the table's lines."""
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines]


def test_a_row_for_what_is_worked_on_and_the_sweep_below(monitor: Any) -> None:
    plan = list(monitor.plans.values())[1]
    records = [*RunDirectory(plan.directory).follow()]
    log = RunDirectory(plan.directory).manifest().epochs[-1]
    best = max(record.validation[0].psnr for record in records)
    header, row, caption = printed(progress.Board([monitor], asked=3).table())
    assert header == ["trial", "round", "epoch", "crops/s", "best", "left"]
    assert row[0].startswith("vdsr-f3 ×2 λ=0.2")
    assert row[1:5] == ["2 of 3", "1 of 2", f"{log.crops / log.seconds:.0f}", f"{best:.2f} dB"]
    others = RunDirectory(next(iter(monitor.plans.values())).directory).follow()
    best = max(best, *(record.validation[0].psnr for record in others))
    assert caption == [f"1 of 3 trials over, best {best:.2f} dB"]  # nothing was done since: no time left to tell


def test_a_trial_that_is_over_is_looked_at_once(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = list[str]()

    def counted(path: UPath, *how: Any) -> Trial:
        looked.append(path.name)
        return read_trial(path, *how)

    monkeypatch.setattr(progress, "read_trial", counted)
    board = progress.Board([monitor], asked=3)
    first, second = printed(board.table()), printed(board.table())
    over, going = monitor.plans
    assert looked == [over, going, going]
    assert second == first


def test_a_name_is_shown_as_it_is(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    named = replace(read_trial(list(monitor.plans.values())[1].directory), name="teacher=[bold]mine[/]")
    monkeypatch.setattr(progress, "read_trial", lambda path, asked, seen: named)
    _, row, _ = printed(progress.Board([monitor], asked=3).table())
    assert row[0] == named.name


def test_the_time_left_follows_from_what_was_done_since(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    board = progress.Board([monitor], asked=2)
    board.since = 0.0
    over, going = monitor.plans
    board.before = {
        (0, over): 0.5,
        (0, going): 0.25,
    }  # since then: half a trial and a quarter of one; half a trial is left
    monkeypatch.setattr(progress.time, "monotonic", lambda: 90.0)
    *_, caption = printed(board.table())
    assert caption[0].endswith(", 1.0 min left")


NOTHING_YET: Any = SimpleNamespace(plans={}, over={})  # as it is when the table is drawn first


def test_the_table_is_drawn_before_the_first_trial_begins() -> None:
    _, caption = printed(progress.Board([NOTHING_YET], asked=3).table())
    assert caption == ["0 of 3 trials over"]


def test_a_look_that_fails_leaves_what_was_seen_before(monkeypatch: pytest.MonkeyPatch) -> None:
    board = progress.Board([NOTHING_YET], asked=3)
    seen = board.look()

    def fail() -> Any:
        raise RuntimeError("whatever it may be")

    monkeypatch.setattr(board, "table", fail)
    assert board.look() is seen
    monkeypatch.setattr(first := progress.Board([NOTHING_YET], asked=3), "table", fail)
    assert printed(first.look()) == []


def test_the_last_line_leaves_room_for_what_a_terminal_shows_of_ctrl_c() -> None:
    console = Console(file=io.StringIO(), width=60)
    console.print(progress.Board([NOTHING_YET], asked=3).look())
    assert console.file.getvalue().splitlines()[-1] == "0 of 3 trials over"  # type: ignore[attr-defined]


def test_a_log_gets_the_plain_lines_alone(monitor: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown([monitor], asked=2, storage=UPath("/")):
        print("a line")
    assert capsys.readouterr().out == "a line\n"


def test_a_terminal_gets_the_table_below_the_lines(monitor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": "150", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", terminal)
        with progress.shown([monitor], asked=2, storage=UPath("/")):
            print("a line")
    parts = list[bytes]()
    with suppress(OSError):  # Linux's way to say that the terminal is closed
        while part := os.read(master, 2**16):
            parts.append(part)
    os.close(master)
    seen = b"".join(parts).decode()
    assert "a line\r\n" in seen
    assert "2 of 3" in seen[seen.index("a line") :]
    assert "1 of 2 trials over" in seen
    assert seen.endswith("\x1b[2K")  # the table goes when the sweep is over
    assert not re.search(r"\x1b\[[0-9;]*[349][0-7]m", seen), "a colour"

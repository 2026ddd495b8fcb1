"""A sweep's trials as a table: a line each, in the order given, numbers as they are quoted in papers."""

import io
import os
from typing import Any

import pytest

from ail_ray.learning.records import Row, Rows
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.terminal import trials_table


def row(name: str, psnr: float, ssim: float) -> Row:
    return Row(set=name, scale=2, psnr=psnr, ssim=ssim)


def trial(name: str, **values: Any) -> Trial:
    return Trial(**{"name": name, "directory": "", "parameters": {}, "status": "finished", **values})


SUMMARY = Summary(
    trials=(
        trial("vdsr-f13 ×2 λ=0.15 teacher=vdsr seed=0", rounds=10, validation=(row("val", 33.456, 0.92345),),
              test=(row("Set5", 37.005, 0.95), row("Set14", 28.0, 0.7))),
        trial("vdsr-f13 ×2 w=1 (control) seed=0", rounds=3, below_bicubic=True, dead=("layers.3",), draws=2,
              validation=(row("val", 29.996, 1.0),)),
        trial("[broken]", status="failed"),
    ),
    references={"bicubic": Rows(validation=(row("val", 30.5, 0.9),), test=(row("Set5", 33.66, 0.93),))},
)  # fmt: skip


def test_a_line_for_every_trial_and_for_what_it_is_held_against() -> None:
    header, *lines = trials_table(SUMMARY).splitlines()
    assert header.split("  ")[0] == "trial"
    assert [" ".join(line.split()) for line in lines] == [
        "vdsr-f13 ×2 λ=0.15 teacher=vdsr seed=0 10 finished 33.46 0.9234 37.01 0.9500 28.00 0.7000",
        "vdsr-f13 ×2 w=1 (control) seed=0 3 finished, dead, at or below bicubic, drawn again 2× 30.00 1.0000",
        "[broken] none failed",
        "bicubic 30.50 0.9000 33.66 0.9300",
    ]
    assert header.index("Set14") > header.index("Set5") > header.index("val ×2, dB SSIM")


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_it_is_no_wider_than_the_terminal_and_loses_nothing(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", _Terminal())
    monkeypatch.setattr("shutil.get_terminal_size", lambda *_: os.terminal_size((columns, 24)))
    lines = trials_table(SUMMARY).splitlines()
    assert max(map(len, lines)) <= columns
    text = "".join("".join(lines).split())
    for value in ("33.46", "0.9234", "37.01", "28.00", "30.50", "33.66"):
        assert value in text


def test_a_sweep_without_trials_is_an_empty_table() -> None:
    assert trials_table(Summary(trials=())).split() == ["trial", "rounds", "status"]

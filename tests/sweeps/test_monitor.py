"""What the driver says: every run by a name that tells it from the others of its sweep."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_files import PlanMaker
from upath import UPath

from ail_ray.entry import say
from ail_ray.files import write_record
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import Row, Rows, Spread
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Trial, read_trial, title
from ail_ray.sweeps.controls import Reached
from ail_ray.sweeps.listeners import Monitor
from ail_ray.sweeps.sweep_file import Ledger
from ail_ray.sweeps.terminal import table


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (RunConfig(), "λ=0.15 teacher=vdsr seed=0"),
        (RunConfig(scales=(2, 3), rule="exact", teacher="/w/t.st"), "exact λ=0.15 teacher=t.st seed=0"),
        (RunConfig(rule="hard-first", lam=0.1, seed=2), "hard-first λ=0.1 teacher=vdsr seed=2"),
        (RunConfig(rule="uniform"), "w=1 (control) seed=0"),
        (RunConfig(rule="uniform", beta=0.1), "w=1 β=0.1 teacher=vdsr seed=0"),
        (RunConfig(rule="uniform", restart="never", start="/w/s.safetensors"),
         "w=1 (control) one schedule from s.safetensors seed=0"),
    ],
)  # fmt: skip
def test_a_run_is_named_by_what_it_reads(config: RunConfig, words: str) -> None:
    scales = ",".join(map(str, config.scales))
    assert title(replace(config, init="identity")) == f"vdsr-f13 ×{scales} {words}"
    he = title(config)
    assert ("init=he" in he) == (config.start is None), "given weights are not drawn"


class _Record:
    """A record that takes everything."""

    def __init__(self) -> None:
        self.below: list[bool] = []

    def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> None:
        self.below.append(trial.below_bicubic)

    def ids(self) -> dict[str, str]:
        return {}


def test_a_trial_is_told_as_what_it_is_and_so_is_a_student_of_no_use(
    make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows(psnr: float) -> tuple[Row]:
        return (Row(set="val", scale=2, psnr=psnr, ssim=0.9),)

    def reach(*decibels: float) -> None:
        spread = Spread(mean=1.0, saturated=1.0, p05=1.0, p25=1.0, p50=1.0, p75=1.0, p95=1.0)
        for t, psnr in enumerate(decibels):
            made = RoundRecord(
                round=t, time=1e9 + t, seconds={"theta": 1.0}, importance=spread, validation=rows(psnr), epochs=(),
                loss=None, squared_error=None, patches_per_second=None,
            )  # fmt: skip
            write_record(directory.record_path(t), made)
        directory.manifests.write(replace(directory.manifest(), last_round=len(decibels) - 1))

    def monitored() -> Monitor:
        return Monitor(record, ledger, said.append, {})  # type: ignore[arg-type]

    plan = replace(make_plan(tmp_path, rounds=1), references={"bicubic": Rows(validation=rows(30.0))})
    said, record = list[str](), _Record()
    directory = RunDirectory(plan.directory)
    plan.open(directory, Placement())
    assert any("- of 1" in line for line in table([read_trial(plan.directory)])), "no round yet is no round −1"
    ledger = Ledger(UPath(tmp_path / "s.json"), name="n", command="", config={}, asked=1)
    for decibels, how in (
        ((), "started ("),
        ((29.0,), "started, going on after round 0 ("),
        ((29.0, 29.5), "is finished already ("),
        ((29.0, 30.5), "is finished already ("),
    ):
        reach(*decibels)
        monitor = monitored()
        monitor.started(plan)
        assert said.pop().startswith(f"[{title(plan.config)}] {how}")
        monitor.ended(plan, None)
        below = bool(decibels) and decibels[-1] <= 30.0
        of_no_use = f"[{title(plan.config)}] ends at or below bicubic interpolation: this student is of no use"
        assert said == [of_no_use] * below
        assert record.below.pop() is below
        assert monitor.trials()[0].below_bicubic is below
        said.clear()
    reach(29.0)
    monitor = monitored()
    monitor.started(plan)
    said.clear()
    monitor.ended(plan, "the loss is nan")
    assert said == [f"[{title(plan.config)}] failed: the loss is nan"]
    monkeypatch.setenv("AIL_LOG", "json")
    monitor.say = say
    monitor.ended(plan, "the loss is nan")
    logged = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (logged["run"], logged["levelname"]) == (plan.directory.name, "ERROR")

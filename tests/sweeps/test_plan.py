"""What a sweep will cost: the counts exactly, the times in proportion, and what cannot fit is refused."""

import multiprocessing
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_files import TinyFiles, as_options
from upath import UPath

from ail_ray.commands.sweep import main
from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import OurWeights, Teacher
from ail_ray.networks.architectures import VDSR
from ail_ray.networks.counts import parameter_count
from ail_ray.orchestration import inbox
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import build_data, data_key, plan_data
from ail_ray.runs.teacher_maps import teacher_maps
from ail_ray.sweeps import cost as planning
from ail_ray.sweeps import speed
from ail_ray.sweeps.bill import BOOT, IDLE, PULL, Bill
from ail_ray.sweeps.cost import ROUND, SHARE, START, TRIAL, Plan, describe_plan, plan_sweep
from ail_ray.sweeps.speed import ASSUMED_SPEED, STEPS

pytestmark = pytest.mark.long

BANK = 5  # bytes a pixel
PIXELS = sum(height * width for height, width in [(64, 64), (64, 80), (80, 64), (72, 72), (80, 96), (96, 80)])


def planned(tiny_files: TinyFiles, placement: Placement, max_workers: int | None = None, **changes: Any) -> Plan:
    values = {"width": (2, 3), "lam": (0.05,), "teacher": ("none", str(tiny_files.teacher)), **changes}
    sweep = SweepConfig.of(**{**tiny_files.protocol(), **values})
    inputs = {data_key(sweep.base): plan_data(sweep.base, UPath("/nowhere"))}
    teachers: dict[str, Teacher | None] = {"none": None, str(tiny_files.teacher): OurWeights(UPath(tiny_files.teacher))}
    return plan_sweep(sweep, inputs, placement, teachers, max_workers=max_workers, local=False)


@pytest.fixture(scope="module")
def gpus(tiny_files: TinyFiles) -> Plan:
    """Two GPUs that are not there, so that nothing is measured: 4 trials, 2 at once."""
    return planned(tiny_files, Placement(gpu=True), max_workers=2)


def test_the_counts_are_those_of_the_sweep(gpus: Plan, tiny_files: TinyFiles) -> None:
    assert (gpus.pixels, gpus.pairs, gpus.at_once, len(gpus.trials)) == (PIXELS, 6, 2, 4)
    assert gpus.evaluation_pixels == 64 * 64 + 64 * 80
    crops = {(trial.config.student_width, trial.config.teacher == "none"): trial.crops for trial in gpus.trials}
    whole = 4 * 2 * 32  # rounds 0..3 of 2 epochs of 32 crops; without a teacher round 0 trains nothing
    assert crops == {(2, False): whole, (3, False): whole, (2, True): whole * 3 // 4, (3, True): whole * 3 // 4}
    assert {trial.error_passes for trial in gpus.trials} == {3}
    (control,) = planned(tiny_files, Placement(gpu=True), rule=("uniform",), width=(2,)).trials
    assert control.error_passes == 0
    assert control.seconds < min(trial.seconds for trial in gpus.trials if trial.config.teacher != "none")


def test_an_assumed_speed_counts_multiply_accumulates(gpus: Plan) -> None:
    """By hand, for VDSR-f3 of depth 3: 9 (3 + 9 + 3) = 135 weights, each used once a pixel."""
    trial = next(t for t in gpus.trials if t.config.student_width == 3 and t.config.teacher != "none")
    macs = 135 / ASSUMED_SPEED
    training = 4 * 2 * 4 * (3 * macs * 16 * 16 * 8)  # rounds × epochs × steps × forward and backward
    passes = 3 * PIXELS * macs + 4 * gpus.evaluation_pixels * 4 * macs
    assert parameter_count(VDSR(3, 3)) == 135
    assert trial.seconds == pytest.approx(TRIAL + 4 * ROUND + training + passes, rel=1e-9)
    assert trial.memory - trial.speed.memory == BANK * PIXELS + 6 * gpus.evaluation_pixels


def test_trials_share_what_runs_at_once(gpus: Plan) -> None:
    """Two slots start once each, on two nodes that have to come first, and serve two trials each."""
    each = [trial.seconds for trial in gpus.trials]
    assert gpus.seconds == pytest.approx(BOOT + PULL + START + sum(each) / 2, rel=0.01)
    assert gpus.worker_hours == pytest.approx((2 * START + sum(each) + sum(gpus.teachers.values())) / 3600)


def test_an_elastic_run_starts_processes_of_its_own(gpus: Plan, tiny_files: TinyFiles) -> None:
    elastic = planned(tiny_files, Placement(gpu=True, workers="1..2"), max_workers=2)
    assert {trial.start for trial in elastic.trials} == {START + TRIAL}
    assert {trial.start for trial in gpus.trials} == {TRIAL}
    busy = sum(trial.seconds for trial in elastic.trials) * 2 + sum(elastic.teachers.values())
    assert elastic.worker_hours == pytest.approx(busy / 3600)


def test_a_teacher_costs_only_what_it_has_not_seen(tiny_files: TinyFiles, tmp_path: Path) -> None:
    sweep = SweepConfig.of(**{**tiny_files.protocol(), "width": (3,), "teacher": (str(tiny_files.teacher),)})
    config, teacher = sweep.base, OurWeights(UPath(tiny_files.teacher))
    prepared = plan_data(config, UPath(tmp_path))

    def asked() -> Plan:
        weights: dict[str, Teacher | None] = {str(tiny_files.teacher): teacher}
        inputs = {data_key(config): prepared}
        return plan_sweep(sweep, inputs, Placement(gpu=True), weights, max_workers=1, local=False)

    (whole,) = asked().teachers.values()
    build_data(prepared)
    maps = teacher_maps(teacher, config, prepared, "fp64", device="cpu", threads=1, say=lambda _: None)
    assert config.precision == "fp64"
    assert asked().teachers == {}
    assert "none to run" in describe_plan(asked(), Placement(gpu=True))[3]
    lost = 1
    (maps.folder / prepared.data.shard_paths[lost].name).unlink()
    (rest,) = asked().teachers.values()
    assert rest == pytest.approx(whole * prepared.shard_pixels[lost] / PIXELS)


def test_the_words_say_hours_and_price(gpus: Plan) -> None:
    lines = describe_plan(gpus, Placement(gpu=True), 3.0)
    assert "4, 2 at once, 1 worker × 1 thread each" in lines[0]
    assert any("assumed at 3 T multiply-accumulates/s" in line for line in lines)
    assert lines[-1].endswith("at 3 for a GPU-hour, without the head (--head-price)")
    assert "2 × (3 min of boot, 4 min of image pull, 5.5 min idle before it goes), all assumed" in lines[-3]


def bill(**changes: Any) -> Bill:
    values = {"unit": "GPU", "work": 10.0, "units": 4, "seconds": 9000.0, "grows": True, "price": 2.0}
    return Bill(**{"head_price": 0.5, **values, **changes})


def test_a_bill_has_boots_idle_minutes_and_the_head() -> None:
    """By hand: four nodes of 3 + 4 + 5.5 minutes are 50 minutes; the head takes 9,000 s and its own 7 minutes."""
    made = bill()
    assert made.around == pytest.approx(50 / 60)
    assert made.head == pytest.approx(2.5 + 7 / 60)
    assert made.rows()[-1] == (
        "price",
        "22.98: 20.00 of work and 1.67 beside it at 2 for a GPU-hour, 1.31 of the head at 0.5 for an hour",
    )
    assert bill(units=4 * 0.25).around == pytest.approx(12.5 / 60), "four trials on one GPU"
    there = bill(grows=False, head_price=None)
    assert there.rows() == [("price", "20.00: 20.00 of work at 2 for a GPU-hour")], "machines that are there anyway"
    assert [name for name, _ in bill(price=None, head_price=None).rows()] == ["nodes", "head"]


def test_the_idle_minutes_are_those_of_the_cluster_files() -> None:
    for name in ("aws", "gcp"):
        content = yaml.safe_load((Path(__file__).parents[2] / "cluster" / f"{name}.yaml").read_text())
        assert 60 * content["idle_timeout_minutes"] + inbox.IDLE == IDLE


def test_more_workers_share_the_corpus_and_the_batch(tiny_files: TinyFiles) -> None:
    one, four = (planned(tiny_files, Placement(gpu=True, workers=n), width=(3,)) for n in (1, 4))
    assert four.trials[0].speed.step == pytest.approx(one.trials[0].speed.step / 4)
    shares = [made.trials[0].memory - made.trials[0].speed.memory - 6 * made.evaluation_pixels for made in (one, four)]
    assert shares == [BANK * PIXELS, BANK * PIXELS // 4]


def test_here_it_is_measured(tiny_files: TinyFiles, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**tiny_files.protocol(), "width": (3,), "teacher": (str(tiny_files.teacher),), "rule": ("eq7",)}
    prices = ["--price", "0.5", "--head-price", "0.2"]
    assert main(["demo", *as_options(values), "--plan", *prices, "--out", "/nowhere/else"]) == 0
    printed = capsys.readouterr().out
    assert "measured here" in printed
    assert "for a worker-hour" in printed
    assert "of the head at 0.2 for an hour" in printed
    assert "of boot" not in printed, "without --max-workers nothing comes and goes"


def test_it_is_measured_beside_as_many_as_will_run(tiny_files: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four trials of two threads on six cores: three at once, one of them timed, two beside it."""
    seen = []

    def median(work: object, device: object) -> float:
        seen.append(len(multiprocessing.active_children()))
        return 1.0

    monkeypatch.setattr(speed, "_median", median)
    monkeypatch.setattr(planning, "cores", lambda: 6)
    monkeypatch.setattr(planning, "_refuse_what_does_not_fit", lambda *_: None)
    full = planned(tiny_files, Placement(threads=2), teacher=("none",), lam=(0.05, 0.1))
    assert seen
    assert set(seen) == {2}
    assert not multiprocessing.active_children()
    spare = planned(tiny_files, Placement(threads=2), teacher=("none",), lam=(0.05, 0.1), max_workers=1)
    assert seen[-1] == 0
    assert spare.trials[0].speed.step == pytest.approx(1 / STEPS)
    assert full.trials[0].speed.step == pytest.approx(1 / STEPS / SHARE)


def test_what_trains_beside_ends_with_a_killed_plan(tmp_path: Path) -> None:
    script = tmp_path / "plan_and_wait.py"
    script.write_text(
        "import time\n"
        "from ail_ray.learning.config import RunConfig\n"
        "from ail_ray.sweeps.speed import company\n"
        "if __name__ == '__main__':\n"
        "    with company(1, RunConfig(crop=16, batch=2), 'fp32'):\n"
        "        print('in company', flush=True)\n"
        "        time.sleep(300)\n"
    )
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"in company\n"
    process.kill()
    assert process.communicate(timeout=30) == (b"", None)  # the end of the file: nobody else holds it


def test_what_cannot_train_beside_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "COMPANY", 0.0)
    with pytest.raises(ConfigError, match="only 0 of 2 processes could train"), speed.company(2, RunConfig(), "fp32"):
        pytest.fail("it measures alone")
    assert not multiprocessing.active_children()


def test_what_cannot_fit_is_refused(tiny_files: TinyFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "memory", lambda: 4096 * 1000)
    monkeypatch.setattr(speed, "_median", lambda work, device: 1.0)
    with pytest.raises(ConfigError, match=r"2 workers .* would need .* GiB of memory, this machine has 0\.0"):
        planned(tiny_files, Placement(workers=2), width=(3,))

"""The benchmark: every key comes out, whatever the machine is at; the other side of a comparison computes the same."""

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ail_ray.benchmarks import targets, whole_runs
from ail_ray.benchmarks.kernels import commit, epoch_vs_bare, inference, step_vs_reference, update_vs_copy
from ail_ray.benchmarks.memory import Watch, descendants, end, held, named
from ail_ray.benchmarks.race import race
from ail_ray.benchmarks.released import released_importance, released_step
from ail_ray.benchmarks.self_check import features
from ail_ray.benchmarks.timing import in_turns, ratio
from ail_ray.benchmarks.whole_runs import (
    bytes_per_pixel,
    first_round,
    importance_tax,
    ray_vs_local,
    sweep_overhead,
    two_workers,
)
from ail_ray.commands.benchmark import main
from ail_ray.imaging.bank import Crops
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import Measured
from ail_ray.learning.rules import first_importance, next_importance
from ail_ray.learning.theta import weighted_loss
from ail_ray.learning.weights import save_model
from ail_ray.machine import machine
from ail_ray.networks.architectures import VDSR
from ail_ray.networks.building import build_model
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.run import TrialPlan, run_local

pytestmark = pytest.mark.long

QUICK: dict[str, Callable[[], dict[str, Any]]] = {
    "update_vs_copy": partial(update_vs_copy, 2, pixels=300_000),
    "inference": partial(inference, 2, height=40, width=60, threads=1),
    "step_vs_reference": partial(step_vs_reference, 2, batch=4, depth=3),
    "epoch_vs_bare": partial(epoch_vs_bare, 2, steps=1),
    "commit": partial(commit, 2),
}


def crops(n: int = 3, side: int = 12) -> Crops:
    generator = np.random.default_rng(0)
    planes = generator.random((3, n, 1, side, side))
    return Crops(
        torch.from_numpy(planes[0].astype(np.float16)),
        torch.from_numpy((255 * planes[1]).astype(np.uint8)),
        torch.from_numpy(planes[2].astype(np.float16)),
    )


def networks() -> tuple[VDSR, VDSR, VDSR]:
    """Student, teacher and the student of the round before, in float64."""
    torch.manual_seed(0)
    return VDSR(3, 3).double(), VDSR(5, 3).double(), VDSR(3, 3).double()


@pytest.mark.parametrize("t", [0, 1, 3])
def test_the_released_importance_is_our_reference_rule(t: int) -> None:
    config, batch = RunConfig(rule="reference", mu0=0.2, alpha0=5.0, lam=0.02), crops()
    _, teacher, previous = networks()
    inputs, hr = batch.inputs.double(), batch.hr.double() / 255
    released = released_importance(teacher, previous if t else None, inputs, hr, t, config).numpy()
    with torch.no_grad():
        errors = [(hr - model(inputs)).abs().numpy().ravel().astype(np.float16) for model in (teacher, previous)]
    ours = first = first_importance(errors[0], mu0=config.mu0, alpha0=config.alpha0)
    if t:
        ours = next_importance("reference", first, errors[1], lam=config.lam, round=t, first=first)
    assert 0 < released.min() < released.max() <= 1
    np.testing.assert_allclose(ours, released.ravel(), atol=2e-3)  # ours keeps errors and importance in half precision


def test_the_released_step_is_ours_when_the_weights_are_equal() -> None:
    config, batch = RunConfig(rule="reference", mu0=0.2, alpha0=5.0, clip=1e9), crops()
    student, teacher, previous = networks()
    ours = copy.deepcopy(student)
    importance = released_importance(teacher, previous, batch.inputs.double(), batch.hr.double() / 255, 2, config)
    loss, _ = weighted_loss(ours, replace(batch, importance=importance), "fp64")
    gradients = torch.autograd.grad(loss, list(ours.parameters()))
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    assert released_step(student, optimizer, teacher, previous, batch, 2, config).item() == pytest.approx(
        loss.item(), rel=1e-12
    )
    for theirs, mine, gradient in zip(student.parameters(), ours.parameters(), gradients, strict=True):
        torch.testing.assert_close(theirs.grad, gradient, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(theirs.detach(), mine.detach() - 0.1 * gradient, rtol=1e-10, atol=1e-12)


def test_a_released_step_is_clipped() -> None:
    config = RunConfig(rule="reference", clip=1e-3)
    student, teacher, _ = networks()
    before = copy.deepcopy(student)
    released_step(student, torch.optim.SGD(student.parameters(), 1.0), teacher, None, crops(), 0, config)
    moved = [a.detach() - b.detach() for a, b in zip(student.parameters(), before.parameters(), strict=True)]
    assert torch.cat([m.ravel() for m in moved]).norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_turns_alternate_and_the_first_does_not_count() -> None:
    calls: list[str] = []
    threads = torch.get_num_threads()

    def work(name: str) -> Callable[[], None]:
        return lambda: calls.append(f"{name}{torch.get_num_threads()}")

    pairs = in_turns([work("a"), work("b")], 2, threads=2)
    assert calls == ["a2", "b2"] * 3
    assert torch.get_num_threads() == threads
    assert len(pairs) == 2
    figure = ratio([(2.0, 1.0), (1.0, 1.0), (1.0, 4.0)], unit="crops", amount=10, precision="bf16")
    assert figure == {
        "ratio": 1.0, "lowest": 0.5, "highest": 4.0, "speed": 10.0, "unit": "crops/s", "precision": "bf16",
    }  # fmt: skip


@pytest.mark.parametrize("key", QUICK)
def test_each_figure_in_one_process_comes_out(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    figure = QUICK[key]()
    assert 0 < figure["lowest"] <= figure["ratio"] <= figure["highest"]
    assert figure["plain_ms" if key == "commit" else "speed"] > 0
    json.dumps(figure, allow_nan=False)
    if key == "inference":
        assert figure["apart"] < 1e-4, "both sides enlarge the image alike"


def test_two_workers_are_timed_together_and_alone(local_ray: None) -> None:
    figure = two_workers(2, steps=1, batch=4)
    assert 0 < figure["lowest"] <= figure["ratio"] <= figure["highest"]
    json.dumps(figure, allow_nan=False)


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs through Ray become runs in this process; says which they were."""
    runs: list[str] = []

    def run(plan: TrialPlan, placement: Placement, report: Callable[[Measured], None]) -> RunDirectory:
        runs.append(str(plan.directory))
        return run_local(plan, 1, torch.device("cpu"), report)

    monkeypatch.setattr(whole_runs, "cluster", nullcontext)
    monkeypatch.setattr(whole_runs, "run_on_ray", run)
    return runs


def test_a_round_through_ray_is_compared_with_one_without(no_ray: list[str]) -> None:
    figure = ray_vs_local(seconds=0.2, turns=2)
    assert len(set(no_ray)) == 2, "every turn is a new run"
    assert 0.1 < figure["ratio"] < 10, "both sides are the same here"
    assert figure["round_seconds"] > 0.1


def test_memory_is_a_slope_over_two_corpora(no_ray: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {16: 1_000_000, 17: 9_000_000}  # what a node holds, by images
    seen: list[int] = []
    real = whole_runs._pictures

    def pictures(folder: Any, side: int, count: int) -> None:
        seen.append(count)
        real(folder, side, count)

    monkeypatch.setattr(whole_runs, "_pictures", pictures)
    monkeypatch.setattr("ail_ray.benchmarks.memory.held", lambda pids: sizes[seen[-1]])
    figure = bytes_per_pixel(images=(16, 17), side=48, width=2, crops=16)
    assert figure["ratio"] == pytest.approx(8_000_000 / 48**2)
    assert figure["update_adds"] == 0
    assert figure["pixels"] == 17 * 48**2


def test_what_a_process_holds_is_seen(tmp_path: Path) -> None:
    code = "import time; block = bytearray(b'x') * 50_000_000; print('there', flush=True); time.sleep(100)"
    with Watch(["python"], 0.05) as watch:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        assert process.pid in descendants(os.getpid())
        assert 50e6 < held([process.pid]) < 80e6
        assert named([process.pid], ["pyth"]) == [process.pid]
        assert named([process.pid], ["raylet"]) == []
        deadline = time.time() + 60
        while not watch.samples or watch.samples[-1][1] < 50e6:
            assert time.time() < deadline, watch.samples
            time.sleep(0.05)
        now = time.time()
    end(process)
    assert process.poll() is not None
    assert max(watch.between(now - 10, now)) > 50e6
    assert held([process.pid]) == 0


TINY_SWEEP = (
    "demo", "--width", "2", "--depth", "3", "--downsizes", "0.25", "0.2", "--crops", "16", "--teacher", "none",
    "--rule", "eq7", "--rounds", "1", "--epochs", "1", "--local",
)  # fmt: skip


def test_commands_are_timed_to_their_first_step_and_to_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    started = time.time()
    assert 0 < first_round(words=TINY_SWEEP)["ratio"] < time.time() - started
    monkeypatch.setattr(whole_runs, "crops_in", lambda seconds: 16)
    figure = sweep_overhead(trials=2, more=[*TINY_SWEEP[1:8], "--shards", "8", "--local"])
    assert figure["ratio"] > 1
    assert 0 < figure["shortest_trial"] < figure["seconds"]


def test_the_job_prints_a_line_and_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = {
        "inference": targets.Benchmark(measure=QUICK["inference"], target=1e-9, compares="something"),
        "first_round": targets.Benchmark(
            measure=lambda: {"ratio": 99.0, "unit": "s"}, target=45, at_most=True, compares="seconds"
        ),
    }
    monkeypatch.setattr(targets, "BENCHMARKS", lines)
    assert main(["--only", *lines, "--json", "-"]) == 0
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert list(figures) == list(lines)
    assert figures["first_round"]["ratio"] == 99
    assert (figures["first_round"]["reached"], figures["inference"]["reached"]) == (False, True)
    assert {"ratio", "target", "reached", "seconds_taken"} <= figures["inference"].keys()
    assert "MISSED" in next(line for line in printed.err.splitlines() if line.startswith("first_round"))
    assert printed.err.splitlines()[0] == f"{machine()['processor']}: {features()}"


def test_a_figure_that_fails_costs_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> Any:
        raise OSError("no space left")

    lines = {
        "first_round": targets.Benchmark(measure=fail, target=45, compares="seconds"),
        "inference": targets.Benchmark(measure=lambda: {"ratio": 1.0, "unit": "s"}, target=0.9, compares="something"),
    }
    monkeypatch.setattr(targets, "BENCHMARKS", lines)
    assert main(["--only", *lines, "--json", "-"]) == 1
    printed = capsys.readouterr()
    figures = json.loads(printed.out)
    assert figures["first_round"] == {"error": "OSError: no space left"}
    assert figures["inference"]["reached"]
    assert "FAILED   OSError: no space left" in printed.err


def test_all_are_there_and_wrong_words_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(targets.BENCHMARKS) == {
        *QUICK, "two_workers", "ray_vs_local", "bytes_per_pixel", "sweep_overhead", "first_round", "importance_tax",
    }  # fmt: skip
    with pytest.raises(SystemExit) as left:
        main(["--only", "speed", "--race", "0"])
    assert left.value.code == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("error: only: no 'speed'")
    assert errors[1] == "error: race must be positive, got 0"
    for more in (["--race", "1"], ["--check"]):
        with pytest.raises(SystemExit) as left:
            main(["--only", "inference", *more])
        assert left.value.code == 2
        assert capsys.readouterr().err == "error: only goes with neither --race nor --check\n"


def test_a_race_gives_both_curves(tmp_path: Path) -> None:
    torch.manual_seed(1)
    save_model(tmp_path / "teacher.safetensors", build_model("vdsr", width=4, depth=3))
    config = RunConfig(
        train=("sample",), validation=(), test=("sample-val",), downsizes=(0.25,), width=3, depth=3, epochs=1, crops=16,
        batch=16, shards=4, optimizer="adam", learning_rate=3e-3, schedule="cosine", rule="reference",
        teacher=str(tmp_path / "teacher.safetensors"),
    )  # fmt: skip
    said: list[str] = []
    picture = tmp_path / "race.png"
    result = race(1.2 / 60, say=said.append, config=config, marks=3, picture=str(picture))
    for curve in result["points"].values():
        assert [p["minutes"] for p in curve] == sorted(p["minutes"] for p in curve)
        assert curve[0]["minutes"] >= 0.4 / 60
        assert all(np.isfinite(p["psnr"]) for p in curve)
        assert curve[-1]["round"] >= 1, "it went on to a round with a student before it"
    assert result["bicubic"] > 20
    assert picture.stat().st_size > 10_000
    assert sum("round" in line for line in said) == 6


def test_the_tax_of_importance_is_what_its_rounds_add() -> None:
    figure = importance_tax(rounds=1)
    assert 1 < figure["lowest"] == figure["ratio"] == figure["highest"] < 10

"""How a sweep searches: random, Optuna, early stopping, how many trials at once; and commands that are refused."""

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from mlflow import MlflowClient
from tiny_files import Bench, TinyFiles
from upath import UPath

from ail_ray import entry
from ail_ray.commands.sweep import run_sweep
from ail_ray.errors import ConfigError, Interrupted
from ail_ray.files import read_json, write_json
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.told import parameters
from ail_ray.orchestration.cluster import concurrency
from ail_ray.reporting.findings import findings
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.sweeps import sweep
from ail_ray.sweeps.controls import is_control, matched
from ail_ray.sweeps.trials import proposals
from ail_ray.tracking import listener
from ail_ray.tracking.mirror import LAST_ROUND

pytestmark = pytest.mark.long

REPOSITORY = Path(__file__).parents[2]
REFUSED = {
    "values": (
        ["--rho", "1.5", "--lam", "-1", "--crop", "4", "--batsh", "3", "--workers", "0", "--rounds", "x"],
        ["rho must", "lam must", "crop must", "--batsh: no such option; did you mean --batch", "workers must",
         "--rounds"],
    ),
    "data": (
        ["--train", "/absent/images", "--validation", "/absent/too", "--teacher", "/absent.safetensors",
         "--out", "file"],
        ["train: /absent/images", "validation: /absent/too", "teacher /absent.safetensors", "file: cannot be created",
         "RAY_ADDRESS=127.0.0.1:1: no cluster"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_bad_command_is_refused_at_once_in_all_its_parts(tmp_path: Path, kind: str) -> None:
    """No cluster is touched: the one named is not there, to wait for it would take minutes, and it is said too."""
    arguments, expected = REFUSED[kind]
    (tmp_path / "file").write_text("in the way")
    environment = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    script = REPOSITORY / "jobs" / "ail_sweep.py"
    done = subprocess.run(
        [sys.executable, str(script), "demo", *arguments],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert all(line.startswith("error: ") for line in lines), done.stderr
    for words in expected:
        assert [words in line for line in lines].count(True) == 1, (words, lines)
    assert len(lines) == len(expected)
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_random_search_is_the_same_every_time_and_within_its_ranges() -> None:
    def drawn(seed: int, **changes: Any) -> list[RunConfig]:
        values = {"lam": (0.5, 0.05), "width": (4, 9), "teacher": ("none", "random"), "samples": 200, **changes}
        return proposals(SweepConfig.of(search="random", seed=(seed,), **values))

    first = drawn(1)
    assert first == drawn(1)
    assert first[:20] == drawn(1, samples=20)
    assert first != drawn(2)
    lam = np.array([values.lam for values in first])
    assert 0.05 <= lam.min() < 0.08
    assert 0.47 < lam.max() <= 0.5
    assert {values.width for values in first} == {4, 5, 6, 7, 8, 9}
    assert {values.teacher for values in first} == {"none", "random"}
    assert {values.seed for values in first} == {1}
    assert {values.lam for values in drawn(1, lam=(0.3,))} == {0.3}
    pairs = drawn(1, rule=("eq7", "uniform"), samples=20)
    assert [values for values in pairs if values.rule == "eq7"] == first[:20]
    controls = [values.width for values in pairs if values.rule == "uniform"]
    assert sorted(controls) == sorted({values.width for values in first[:20]}), "one for each width"
    plain = drawn(1, rule=("uniform",))  # reads neither λ nor teacher: 6 widths are all there is
    assert sorted(values.width for values in plain) == [4, 5, 6, 7, 8, 9]


@pytest.mark.parametrize(
    ("workers", "threads", "max_workers", "expected"), [(1, 1, None, 4), (2, 1, None, 2), (1, 3, None, 1), (2, 1, 7, 3)]
)
def test_as_many_trials_at_once_as_fit(
    local_ray: None, workers: int, threads: int, max_workers: int | None, expected: int
) -> None:
    assert concurrency(Placement(workers=workers, threads=threads), max_workers) == expected


def test_a_trial_that_can_never_fit_is_refused(local_ray: None) -> None:
    with pytest.raises(ConfigError, match=r"needs 6 CPU, the cluster has 4 CPU.*--max-workers"):
        concurrency(Placement(workers=2, threads=3), None)
    with pytest.raises(ConfigError, match=r"needs 1 CPU and 1 GPU, the cluster has 4 CPU and 0 GPU"):
        concurrency(Placement(gpu=True), None)


def test_without_ray_too_a_failed_trial_does_not_sink_the_others(tiny_files: TinyFiles, tmp_path: Path) -> None:
    bench, said = Bench(tmp_path, tiny_files), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        job = bench.job(local=True, width=(2,), lam=(0.1, 0.2, 0.3), teacher=("none",), rounds=0)
        done = run_sweep(job, say=said.append)
        broken = next(t for t in done.trials if t.parameters["lam"] == 0.2)
        write_json(UPath(broken.directory) / "manifest.json", {"format": 99})
        again = run_sweep(job, say=said.append)
    assert {t.parameters["lam"]: t.status for t in done.trials} == dict.fromkeys((0.1, 0.2, 0.3), "finished")
    statuses = {t.parameters["lam"]: t.status for t in again.trials}
    assert statuses == {0.1: "finished", 0.2: "failed", 0.3: "finished"}
    assert len([line for line in said if "failed: OtherFormatError: " in line and "format 99" in line]) == 1
    assert "format 99" in (RunDirectory(UPath(broken.directory)).failure() or "")


def test_a_run_that_has_more_rounds_is_reported_as_it_was_asked_for(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(tmp_path, tiny_files)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def sweep(rounds: int, *rules: str) -> dict[str, dict[str, Any]]:
        job = bench.job(local=True, width=(2,), lam=(0.1,), teacher=("none",), rule=rules, rounds=rounds)
        return {trial.parameters["rule"]: trial for trial in run_sweep(job, say=lambda line: None).trials}

    long = sweep(2, "eq7")["eq7"]
    short = sweep(1, "eq7", "uniform")
    directory = RunDirectory(UPath(long.directory))
    assert [trial.rounds for trial in (long, short["eq7"], short["uniform"])] == [2, 1, 1]
    assert short["eq7"].validation[0].psnr == directory.record(1).validation[0].psnr
    assert short["eq7"].weights == str(directory.student_path(1))
    history = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    sent = {history.get_run(short[rule].mlflow_run_id).data.tags[LAST_ROUND] for rule in short}
    assert sent == {"1"}
    student = history.download_artifacts(short["eq7"].mlflow_run_id, "student.safetensors")
    assert Path(student).read_bytes() == directory.student_path(1).read_bytes() != Path(long.weights).read_bytes()
    assert sweep(2, "eq7")["eq7"] == long


@pytest.mark.parametrize("moment", ["table", "crown"])
def test_an_interruption_in_the_middle_of_a_transaction_is_recorded(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes, moment: str
) -> None:
    """What MLflow is just writing it writes to its end, and then the interruption."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(entry._stop, "number", 0)
    written = getattr(listener, moment)

    def interrupted(*arguments: Any) -> Any:
        transaction = sqlite3.connect(tmp_path / "mlflow.db")
        transaction.execute("BEGIN IMMEDIATE")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.5)
        transaction.close()
        return written(*arguments)

    monkeypatch.setattr(listener, moment, interrupted)
    job = Bench(tmp_path, tiny_files).job(local=True, width=(2,), lam=(0.1,), teacher=("none",), rounds=0)
    said = list[str]()
    before = signal.signal(signal.SIGINT, entry._stop)
    try:
        with pytest.raises(Interrupted):
            run_sweep(job, say=said.append)
    finally:
        signal.signal(signal.SIGINT, before)
    assert [line for line in said if "MLflow did not take" in line] == []
    assert _parent_of(tmp_path) == "KILLED"
    monkeypatch.setattr(listener, moment, written)
    run_sweep(job, say=said.append)
    assert _parent_of(tmp_path) == "FINISHED"


def _parent_of(folder: Path) -> str:
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("ail_ray")
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`ail.run` = 'parent'")
    return str(parent.info.status)


def test_an_interruption_that_a_library_makes_another_error_of_is_one(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes
) -> None:
    """A C extension that is interrupted while it is imported raises ImportError; the trial has not failed then."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(entry._stop, "number", 0)

    def run_local(*_: Any) -> None:
        with pytest.raises(Interrupted):
            entry._stop(signal.SIGINT, None)
        raise ImportError("initialization failed")

    monkeypatch.setattr(sweep, "run_local", run_local)
    job = Bench(tmp_path, tiny_files).job(local=True, width=(2,), lam=(0.1,), teacher=("none",), rounds=0)
    said = list[str]()
    with pytest.raises(Interrupted):
        run_sweep(job, say=said.append)
    assert [line for line in said if "failed" in line] == []
    assert _parent_of(tmp_path) == "KILLED"


OWN = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=3, depth=3):
        super().__init__()
        maps = [1, *[width] * (depth - 1), 1]
        self.layers = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in zip(maps, maps[1:]))

    def forward(self, x):
        features = x
        for layer in self.layers:
            features = layer(features).relu()
        return x + features - 0.5 * features

def rule(p, *, gamma: float = 0.5):
    return p.importance + gamma * (1 - p.importance)
"""


def own_code(folder: Path) -> dict[str, Any]:
    """Two versions of one file with a network, and a rule with a parameter."""
    for version in ("one", "two"):
        (folder / version).mkdir(parents=True)
        (folder / version / "own.py").write_text(OWN if version == "one" else OWN.replace("0.5 * f", "0.4 * f"))
    return {"network": tuple(f"{folder / v}/own.py:Net" for v in ("one", "two")), "rule": f"{folder}/one/own.py:rule"}


def test_optuna_records_its_proposals_and_repeats_them_also_of_ones_own_code(bench: Bench, tmp_path: Path) -> None:
    job = bench.job(
        out="optuna", search="optuna", samples=3, lam=(0.05, 0.5), width=(2, 4), teacher=("none",), max_workers=2,
        rounds=0, loss=("squared", "huber"), **own_code(tmp_path), **{"rule.gamma": (0.1, 0.9)},
    )  # fmt: skip
    one = run_sweep(job)
    assert {trial.status for trial in one.trials} == {"finished"}
    proposals = read_json(UPath(bench.folder / "optuna" / "sweeps" / f"{one.sweep}.json"))
    names = ("width", "lam", "network", "loss", "rule.gamma")
    found = {tuple(p[name] for name in names) for p in proposals}
    assert len(found) == 3
    for width, lam, network, loss, gamma in found:
        assert 2 <= width <= 4
        assert 0.05 <= lam <= 0.5
        assert 0.1 <= gamma <= 0.9
        assert network in job.sweep.axes["network"]
        assert loss in ("squared", "huber")
    assert {tuple(t.parameters[name] for name in names) for t in one.trials} == found
    assert run_sweep(job) == one


def test_a_rule_with_parameters_has_its_control(tmp_path: Path) -> None:
    own = own_code(tmp_path)
    values = {"network": own["network"], "rule": (own["rule"], "uniform"), "loss": ("squared", "huber")}
    sweep = SweepConfig.of(**values, **{"rule.gamma": (0.1, 0.9), "loss.delta": (0.01, 0.1)}, teacher="none")
    found = [parameters(run, sweep.axes) for run in sweep.grid()]
    controls = [matched(each) for each in found if is_control(each)]
    assert len(controls) == len(set(controls)) == 2 * 3  # networks, and squared or huber with two deltas
    weighed = [matched(each) for each in found if not is_control(each)]
    assert len(weighed) == 2 * len(controls)
    assert {*weighed} == {*controls}


def test_two_versions_of_one_file_are_two_trials(bench: Bench, tmp_path: Path) -> None:
    values = own_code(tmp_path) | {"rule": ("uniform",)}
    summary = run_sweep(bench.job(out="versions", asha=True, max_workers=2, teacher=("none",), rounds=1, **values))
    assert {trial.rounds >= 0 for trial in summary.trials} == {True}
    assert len({trial.name for trial in summary.trials}) == 2
    assert all(re.fullmatch(r"own\.py:Net@\w{6} ×2 w=1 \(control\) .*seed=0", trial.name) for trial in summary.trials)
    weights = [trial.cost.weights for trial in summary.trials if trial.cost]
    assert weights[0] == weights[1]
    assert len({Path(trial.weights or "").read_bytes() for trial in summary.trials}) == 2


def test_random_search_draws_from_ranges_and_choices(tmp_path: Path) -> None:
    sweep = SweepConfig.of(
        search="random", samples=20, loss=("squared", "huber", "absolute"), batch=(8, 16), learning_rate=(1e-3, 1e-2),
        **own_code(tmp_path), **{"rule.gamma": (0.1, 0.9)},
    )  # fmt: skip
    runs = proposals(sweep)
    assert len(runs) == 20
    assert proposals(sweep) == runs
    assert {run.loss for run in runs} == {"squared", "huber", "absolute"}
    assert {run.batch for run in runs} == {8, 16}
    assert len({run.network for run in runs}) == 2
    gammas = [dict(run.of("rule"))["gamma"] for run in runs]
    assert len(set(gammas)) == 20
    assert all(0.1 <= gamma <= 0.9 for gamma in gammas)


def test_asha_stops_a_trial_and_frees_what_it_held(bench: Bench) -> None:
    """One after the other, the good one first: with SGD a tiny λ hardly moves the student. All by the same workers."""
    table = ray.util.placement_group_table
    before = set(table())
    summary = run_sweep(
        bench.job(
            out="asha", asha=True, max_workers=1, lam=(0.9, 1e-4, 2e-4, 0.8), teacher=("none",), width=(3,), rounds=12,
            optimizer="sgd", learning_rate=0.01,
        )
    )  # fmt: skip
    statuses = {t.parameters["lam"]: (t.status, t.rounds) for t in summary.trials}
    assert statuses[0.9] == ("finished", 12)
    assert statuses[1e-4][0] == "stopped"
    assert 1 <= statuses[1e-4][1] < 12
    assert statuses[2e-4][0] == "stopped", "the one after a stopped one begins, and is stopped itself"
    assert 1 <= statuses[2e-4][1] < 12
    assert statuses[0.8][0] in ("finished", "stopped")
    assert statuses[0.8][1] >= 1
    stopped = next(t for t in summary.trials if t.status == "stopped")
    assert Path(stopped.weights).name == f"round-{stopped.rounds:03d}.safetensors"
    deadline = time.monotonic() + 60
    while held := [g for key, g in table().items() if key not in before and g["state"] == "CREATED"]:
        assert time.monotonic() < deadline, held
        time.sleep(0.2)


def test_trials_that_differ_in_any_field_have_names_and_controls_of_their_own(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    job = Bench(tmp_path, tiny_files).job(
        local=True, width=2, lam=0.1, teacher="none", rule=("eq7", "uniform"), learning_rate=(1e-3, 3e-3), rounds=1
    )
    summary = run_sweep(job, say=lambda line: None)
    assert {trial.name for trial in summary.trials} == {
        f"vdsr-f2 ×2 {kind} learning_rate={rate} seed=0"
        for kind in ("λ=0.1 teacher=none", "w=1 (control)")
        for rate in (0.001, 0.003)
    }
    found = findings(UPath(tmp_path / "out"))
    for condition in found.conditions:
        if not condition.is_control:
            control = found.control(condition)
            assert control is not None
            assert control.parameters["learning_rate"] == condition.parameters["learning_rate"]
            assert condition.gain is not None
            assert condition.gain.mean == condition.psnr.mean - control.psnr.mean
    assert sum(condition.is_control for condition in found.conditions) == 2

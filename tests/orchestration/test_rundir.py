"""The run directory: what is committed is there, what is not needed any more is not, nothing of another format."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from upath import UPath

from ail_ray.files import FileError, read_json, read_tensors, write_bytes, write_json, write_tensors
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.models import VDSR
from ail_ray.learning.theta import EpochLog, TrainState
from ail_ray.orchestration.rundir import RunDirectory, RunJournal, describe

CONFIG = RunConfig(rounds=6, epochs=2, width=2, depth=3, optimizer="adam", teacher="none")


def state(seed: int, steps: int = 1) -> TrainState:
    """A student whose optimizer has taken some steps."""
    torch.manual_seed(seed)
    made = TrainState(VDSR(width=2, depth=3), CONFIG)
    for _ in range(steps):
        made.student(torch.rand(1, 1, 8, 8)).square().sum().backward()
        made.optimizer.step()
    return made


def log(t: int, e: int) -> EpochLog:
    return EpochLog(round=t, epoch=e, loss=1 / (t + e + 1), squared_error=0.5, crops=100, seconds=2.0)


def record(t: int, psnr: float = 30.0) -> dict[str, Any]:
    return {
        "round": t, "importance": {"mean": 0.5, "saturated": 0.25}, "seconds": {"evaluation": 0.1},
        "validation": [{"set": "val", "scale": 2, "psnr": psnr, "ssim": 0.9, "images": 1}], "test": [],
    }  # fmt: skip


def whole_round(directory: RunDirectory, t: int, psnr: float = 30.0) -> None:
    """Importance, two epochs and the commit, as a worker writes them."""
    write_tensors(directory.importance_path(t, 0), {"importance": np.full(9, t / 10, np.float16)})
    for e in range(CONFIG.epochs):
        directory.commit_epoch(log(t, e), state(10 * t + e).tensors())
    directory.commit_round(record(t, psnr), state(10 * t + CONFIG.epochs - 1))


def names(folder: UPath) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(UPath(tmp_path / "0123abcd"))
    made.create(CONFIG, precision="fp64", threads=1, workers=2)
    return made


def test_a_new_run_is_recorded_and_an_old_one_decides(directory: RunDirectory) -> None:
    manifest = directory.manifest()
    assert (manifest["run"], manifest["last_round"], manifest["state"]) == ("0123abcd", -1, None)
    assert (manifest["precision"], manifest["threads"], manifest["workers"]) == ("fp64", 1, 2)
    assert manifest["config"]["width"] == 2
    assert set(manifest["versions"]) == {"torch", "ray", "numpy", "mlflow"}
    assert directory.last_round == -1
    assert directory.records() == []
    written = (directory.path / "manifest.json").stat().st_mtime_ns
    assert directory.create(CONFIG, precision="bf16", threads=8, workers=1) == manifest
    assert (directory.path / "manifest.json").stat().st_mtime_ns == written


def test_more_rounds_extend_a_run(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    extended = RunConfig(**{**CONFIG.__dict__, "rounds": 9})
    assert directory.create(extended, precision="bf16")["config"]["rounds"] == 9
    manifest = directory.manifest()
    assert (manifest["config"]["rounds"], manifest["last_round"], manifest["precision"]) == (9, 0, "fp64")


def test_another_format_and_a_damaged_manifest_are_refused(directory: RunDirectory) -> None:
    path = directory.path / "manifest.json"
    manifest = read_json(path)
    write_json(path, manifest | {"format": 2})
    with pytest.raises(FileError, match=r"0123abcd: format 2, this version reads 1"):
        directory.create(CONFIG)
    assert read_json(path) == manifest | {"format": 2}
    write_bytes(path, b'{"format": 1, "run')
    with pytest.raises(FileError, match="not valid JSON"):
        directory.manifest()
    with pytest.raises(FileError, match="no such file"):
        RunDirectory(directory.path / "absent").manifest()


def test_resuming_goes_on_after_the_last_commit(directory: RunDirectory) -> None:
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None)
    fresh = state(99)
    before = fresh.tensors()
    assert journal.resume(fresh) == (0, 0)
    assert all(np.array_equal(fresh.tensors()[name], before[name]) for name in before)
    whole_round(directory, 0)
    assert journal.resume(state(99)) == (1, 0)
    directory.commit_epoch(log(1, 0), state(10, steps=3).tensors())
    resumed, expected = state(99), state(10, steps=3).tensors()
    assert journal.resume(resumed) == (1, 1)
    assert resumed.tensors().keys() == expected.keys()
    assert any(name.startswith("optimizer.") for name in expected)
    for name, array in expected.items():
        assert resumed.tensors()[name].tobytes() == array.tobytes(), name


def test_a_record_gathers_its_epochs(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    whole_round(directory, 1)
    for t, found in enumerate(directory.records()):
        assert [(entry["round"], entry["epoch"]) for entry in found["epochs"]] == [(t, 0), (t, 1)]
        assert found["loss"] == 1 / (t + 2)
        assert found["seconds"]["theta"] == 4.0
        assert found["patches_per_second"] == 50.0
        student, metadata = read_tensors(directory.student_path(t))
        assert metadata["round"] == str(t)
        assert np.array_equal(student["layers.0.weight"], state(10 * t + 1).tensors()["student.layers.0.weight"])
    text = describe(directory.records()[1])
    assert text == "round 1: val ×2 30.00 dB; importance mean 0.500, saturated 25.0 %, 50 patches/s"


def test_an_epoch_trained_again_is_recorded_once(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    for e in (0, 0, 1, 0, 1):
        directory.commit_epoch(log(1, e), state(e).tensors())
    directory.commit_round(record(1), state(1))
    assert [entry["epoch"] for entry in directory.records()[1]["epochs"]] == [0, 1]


def test_a_round_that_trains_nothing_has_no_loss(directory: RunDirectory) -> None:
    write_tensors(directory.importance_path(0, 0), {"importance": np.zeros(9, np.float16)})
    directory.commit_round(record(0), state(0))
    (found,) = directory.records()
    assert (found["loss"], found["squared_error"], found["patches_per_second"]) == (None, None, None)
    assert found["epochs"] == []
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None)
    assert journal.resume(state(5)) == (1, 0)


def test_only_what_may_be_needed_is_kept(directory: RunDirectory) -> None:
    best = 2
    for t in range(7):
        whole_round(directory, t, psnr=31.0 if t == best else 30.0 - t / 10)
        kept = {0, best if t >= best else 0, t - 1, t} - {-1}
        assert names(directory.path / "importance") == [f"round-{r:03d}" for r in sorted(kept)]
        assert 1 <= len(names(directory.path / "state")) <= 2
        assert directory.manifest()["state"]["file"] in names(directory.path / "state")
        assert directory.load_state() is not None
    assert len(names(directory.path / "students")) == 7
    assert [r["round"] for r in directory.records()] == list(range(7))


def test_the_journal_draws_commits_then_reports(directory: RunDirectory) -> None:
    heard: list[tuple[int, int, list[str]]] = []

    def report(committed: dict[str, Any]) -> None:
        pictures = [path.name for path in directory.pictures(committed["round"])]
        heard.append((committed["round"], directory.last_round, pictures))

    journal = RunJournal(directory, Group(), draw=lambda t: {"b.png": b"b", "a.png": b"a"}, report=report)
    write_tensors(directory.importance_path(0, 0), {"importance": np.zeros(9, np.float16)})
    journal.commit_round(record(0), state(0))
    assert heard == [(0, 0, ["a.png", "b.png"])]


def test_finalising_again_changes_nothing(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    whole_round(directory, 1)

    def result() -> list[str]:
        directory.finalise()
        files = ("student.safetensors", "config.json", "manifest.json")
        return [hashlib.sha256((directory.path / name).read_bytes()).hexdigest() for name in files]

    assert result() == result()
    assert (directory.path / "student.safetensors").read_bytes() == directory.student_path(1).read_bytes()
    config = read_json(directory.path / "config.json")
    assert config["config"]["width"] == 2
    assert {"precision", "threads", "workers", "versions", "machine", "run"} <= set(config)

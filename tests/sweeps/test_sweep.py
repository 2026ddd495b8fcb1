"""A sweep of tiny runs, end to end: Ray Tune, run directories, summary.json and MLflow; and the same command again."""

import hashlib
import itertools
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from tiny_files import Bench, as_options
from upath import UPath

from ail_ray.commands.sweep import main, run_sweep, run_sweeps
from ail_ray.files import read_json, read_record, write_json
from ail_ray.imaging.metrics import psnr
from ail_ray.imaging.panels import panels
from ail_ray.imaging.shards import Shard
from ail_ray.learning.weights import load_model
from ail_ray.runs.directory import RunDirectory
from ail_ray.sweeps import sweep
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.tensors import read_tensors

WIDTH, LAMBDA = 3, 0.05


def grid(bench: Bench) -> dict[str, Any]:
    return {"width": (WIDTH,), "lam": (LAMBDA,), "teacher": (str(bench.files.teacher), "none")}


@pytest.fixture(scope="module")
def first(bench: Bench) -> Summary:
    """With a teacher and without; whoever listens is slow, so that trials end while their last round is on its way."""
    return run_sweep(bench.job(**grid(bench)), name="tiny", command="the command", say=lambda line: time.sleep(0.2))


def history(client: mlflow.MlflowClient, run: str, metric: str) -> list[int]:
    return [entry.step for entry in client.get_metric_history(run, metric)]


def test_the_summary_names_every_trial_and_its_result(first: Summary, bench: Bench) -> None:
    assert read_record(UPath(bench.folder / "out" / "summary.json"), Summary) == first
    trials = first.trials
    assert len(trials) == 2
    assert {trial.parameters["teacher"] for trial in trials} == {str(bench.files.teacher), "none"}
    for trial in trials:
        assert (trial.status, trial.rounds) == ("finished", 1)
        assert [(row.set, row.scale) for row in trial.validation] == [("val", 2)]
        assert 5 < trial.validation[0].psnr < 40
        assert -1 <= trial.validation[0].ssim < 1
        assert trial.test == ()
        weights = Path(trial.weights)
        assert weights.is_absolute()
        assert read_tensors(UPath(weights))[0]["layers.0.weight"].shape[0] == WIDTH
    assert len({trial.mlflow_run_id for trial in trials}) == 2
    order = [(-trial.validation[0].psnr, trial.name) for trial in trials]
    assert order == sorted(order)


def test_mlflow_has_a_parent_and_every_round_of_its_children_once(first: Summary, bench: Bench) -> None:
    runs = {run.info.run_id: run for run in bench.runs(first.sweep)}
    parent = runs.pop(first.mlflow_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.info.run_name == "tiny: vdsr ×2, teacher teacher.safetensors none"
    assert "teacher teacher.safetensors or none?" in parent.data.tags["mlflow.note.content"]
    assert "**Command.** `the command`" in parent.data.tags["mlflow.note.content"]
    assert set(runs) == {trial.mlflow_run_id for trial in first.trials}
    client = mlflow.MlflowClient(f"sqlite:///{bench.folder / 'mlflow.db'}")
    for run_id, run in runs.items():
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert run.info.status == "FINISHED"
        assert history(client, run_id, "importance/mean") == [0, 1]
        assert history(client, run_id, "dB/val_val_x2") == [0, 1]
        assert {"student.safetensors", "config.json"} <= {file.path for file in client.list_artifacts(run_id)}
        assert run.data.params.keys() >= {"width", "teacher", "rule", "seed", "student", "student_weights"}
        assert "None" not in run.data.params.values()
        read = {i.tags[0].value: (i.dataset.name, i.dataset.digest) for i in run.inputs.dataset_inputs}
        (corpus,) = (bench.folder / "out" / "corpora").iterdir()
        (evaluation,) = (bench.folder / "out" / "evaluation").glob("*.safetensors")
        assert read == {"training": ("train", corpus.name), "validation": ("val ×2", evaluation.stem)}
        pictures = [file.path for file in client.list_artifacts(run_id, "images")]
        keys = [picture.split("/")[1].split("+")[0] for picture in pictures if picture.endswith(".png")]
        # In both rounds importance of two images, crops of two others, and each as a WebP too.
        assert Counter(keys) == {f"pictures~{k}": 2 for k in ("importance-0", "importance-2", "val-x2-0", "val-x2-1")}
        assert len(pictures) == 16
        for picture in pictures:
            with Image.open(client.download_artifacts(run_id, picture)) as image:
                image.load()
                assert (image.format, image.mode) in (("PNG", "L"), ("WEBP", "RGB"))


def test_every_finished_run_has_its_student_as_onnx(first: Summary) -> None:
    for trial in first.trials:
        folder = UPath(trial.directory)
        student, inputs = load_model(folder / "student.safetensors"), torch.rand(2, 1, 9, 13)
        session = onnxruntime.InferenceSession((folder / "student.onnx").read_bytes())
        (sr,) = session.run(None, {"luma": inputs.numpy()})
        np.testing.assert_allclose(sr, student(inputs).detach().numpy(), rtol=0, atol=1e-5)


def teacher_run(first: Summary, bench: Bench) -> tuple[RunDirectory, list[UPath]]:
    trial = next(t for t in first.trials if t.parameters["teacher"] == str(bench.files.teacher))
    directory = RunDirectory(UPath(trial.directory))
    corpus = UPath(bench.folder / "out" / "corpora" / directory.manifest().corpus)
    return directory, sorted(corpus.iterdir(), key=str)


def edges_and_flats(hr: np.ndarray, importance: np.ndarray) -> tuple[float, float]:
    """Mean importance where the gradient is in its top tenth, and where in its lower half."""
    gradient = np.hypot(*np.gradient(hr.astype(float)))
    edges, flats = gradient >= np.quantile(gradient, 0.9), gradient <= np.quantile(gradient, 0.5)
    return float(importance[edges].mean()), float(importance[flats].mean())


def test_a_teacher_makes_edges_less_important_than_flat_areas(first: Summary, bench: Bench) -> None:
    directory, shards = teacher_run(first, bench)
    for t in (0, 1):
        for s, path in enumerate(shards):
            importance = read_tensors(directory.importance_path(t, s))[0]["importance"].astype(np.float32)
            for place, _, hr in Shard(path).images():
                edges, flats = edges_and_flats(hr.numpy(), importance[place].reshape(hr.shape))
                assert edges < flats - 0.2


def test_what_tune_writes_down_does_not_hold_the_address_of_mlflow(first: Summary, bench: Bench) -> None:
    files = [path for path in (bench.folder / "out" / "ray").rglob("*") if path.is_file()]
    assert any(path.name == "tuner.pkl" for path in files)
    assert not [path for path in files if b"mlflow.db" in path.read_bytes()]


def test_the_pictures_show_the_importance_and_the_student(first: Summary, bench: Bench) -> None:
    directory, shards = teacher_run(first, bench)
    pictures = {path.name: path.read_bytes() for path in directory.pictures(1)}
    (caption, shown), (_, error), (_, image), (_, sr) = arrays(pictures["importance-0.png"])
    place, _, hr = max(Shard(shards[0]).images(), key=lambda entry: entry[2].numel())
    importance = read_tensors(directory.importance_path(1, 0))[0]["importance"][place].reshape(hr.shape)
    assert np.array_equal(image, hr.numpy())
    assert np.abs(shown / 255 - importance.astype(float)).max() <= 0.5 / 255 + 1e-6
    assert caption == f"importance, mean {importance.mean(dtype=float):.3f}"
    # Black 0, white an error of 0.1, so ten times as bright; the student's output is shown rounded and clipped.
    expected = np.minimum(10 * np.abs(sr.astype(int) - hr.numpy()), 255)
    assert np.abs(error - expected)[(sr > 0) & (sr < 255)].max() <= 6

    crops = dict(arrays(pictures["val-x2-0.png"]))
    truth = np.asarray(Image.open(bench.files.validation / "0.png"))
    assert np.array_equal(crops["original"], truth.repeat(2, 0).repeat(2, 1))
    names = ("low resolution", "bicubic", "teacher", "student")
    measured = {name: next((c, image) for c, image in crops.items() if c.startswith(name)) for name in names}
    assert len(crops) == 6
    for name, (caption, image) in measured.items():
        assert caption == f"{name} {psnr(truth, image[::2, ::2], 2):.2f} dB"
    for one, other in itertools.combinations(measured.values(), 2):
        assert (one[1] != other[1]).mean() > 0.01
    error = next(image for caption, image in crops.items() if "error" in caption)
    assert (
        np.abs(error - np.minimum(10 * np.abs(measured["student"][1].astype(int) - crops["original"]), 255)).max() < 1
    )


def arrays(png: bytes) -> list[tuple[str, np.ndarray]]:
    """The images of a picture with their captions."""
    return [(caption, np.asarray(image)) for caption, image in panels(png)]


def traces(bench: Bench) -> dict[str, tuple[float, str]]:
    """Time and SHA-256 of every file of the run directories, but for the result, which may be written again."""
    files = (path for path in (bench.folder / "out" / "runs").rglob("*") if path.is_file())
    return {
        str(path): (path.stat().st_mtime, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in files
        if path.name not in ("student.safetensors", "config.json")
    }


def test_the_same_command_trains_nothing_and_adding_a_value_trains_only_the_new(
    first: Summary, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    before = traces(bench)
    assert run_sweep(bench.job(**grid(bench)), name="tiny", command="the command") == first
    assert traces(bench) == before
    client = mlflow.MlflowClient(f"sqlite:///{bench.folder / 'mlflow.db'}")
    assert len(bench.runs(first.sweep)) == 3
    for trial in first.trials:
        assert history(client, trial.mlflow_run_id, "importance/mean") == [0, 1]

    one = next(t for t in first.trials if t.parameters["teacher"] == "none")
    job = bench.job(width=(WIDTH,), lam=(LAMBDA, 0.4, 0.8), teacher=("none",))
    broken = next(p for p in job.sweep.grid() if p.lam == 0.8)
    evaluation = [path.stem for path in (bench.folder / "out" / "evaluation").glob("*.safetensors")]
    corpus = RunDirectory(UPath(one.directory)).manifest().corpus
    run = broken.digest(corpus=corpus, evaluation=evaluation, teacher=None)
    write_json(UPath(bench.folder / "out" / "runs" / run / "manifest.json"), {"format": 99})

    out = str(bench.folder / "out")
    values = bench.values(width=(WIDTH,), lam=(LAMBDA, 0.4, 0.8), teacher=("none",), rule=("eq7",), out=out)
    assert main(as_options(values)) == 1
    printed = capsys.readouterr().out
    summary = read_record(UPath(bench.folder / "out" / "summary.json"), Summary)
    assert {t.parameters["lam"]: t.status for t in summary.trials} == {
        0.05: "finished", 0.4: "finished", 0.8: "failed",
    }  # fmt: skip
    failed = next(t for t in summary.trials if t.status == "failed")
    assert (failed.rounds, failed.weights, failed.validation) == (-1, None, ())
    assert "λ=0.8" in printed
    assert "format 99, this version reads 2" in printed
    after = traces(bench)
    assert before.items() <= after.items()
    new = {Path(path).relative_to(bench.folder / "out" / "runs").parts[0] for path in after.keys() - before.keys()}
    assert len(new) == 2
    assert run in new
    statuses = {r.data.tags["ail.run"]: r.info.status for r in bench.runs(summary.sweep)}
    assert statuses.pop("parent") == statuses.pop(run) == "FAILED"
    assert list(statuses.values()) == ["FINISHED"] * 2


def test_without_ray_the_same_sweep_gives_the_same_bytes(first: Summary, bench: Bench) -> None:
    ray_trial = next(t for t in first.trials if Path(t.parameters["teacher"]).is_absolute())
    local = run_sweep(
        bench.job(out="local", local=True, width=(WIDTH,), lam=(LAMBDA,), teacher=(ray_trial.parameters["teacher"],))
    ).trials[0]
    assert local.run == ray_trial.run
    assert local.weights != ray_trial.weights
    assert Path(str(local.weights)).read_bytes() == Path(str(ray_trial.weights)).read_bytes()
    assert local.validation == ray_trial.validation


def together(bench: Bench, folder: str, **sweeps: dict[str, Any]) -> dict[str, SweepJob]:
    """Sweeps of one trial on one storage path."""
    local = folder == "local-together"
    return {
        name: replace(
            bench.job(out=f"{folder}/{name}", local=local, width=(2,), lam=(0.05,), teacher=("none",), **values),
            storage=str(bench.folder / folder),
        )
        for name, values in sweeps.items()
    }


def test_sweeps_run_beside_each_other_and_each_ends_by_itself(bench: Bench) -> None:
    jobs = together(bench, "together", short={"rounds": 0}, long={"rounds": 40, "rule": ("uniform",)})
    said, there = list[str](), list[bool]()

    def say(line: str) -> None:
        said.append(line)
        if "round 40:" in line:
            there.append((bench.folder / "together" / "short" / "summary.json").exists())

    summaries = run_sweeps(jobs, command="both", say=say)
    assert [summary.trials[0].rounds for summary in summaries] == [0, 40]
    assert there == [True], "nobody waits for the other sweep's end"
    started, first_end = ([i for i, line in enumerate(said) if word in line] for word in ("] started", "round 0:"))
    assert len(started) == 2
    assert max(started) < min(first_end), "both at once: there is room for two"
    assert {line.partition(":")[0] for line in said if "training pairs" in line} == {"short", "long"}
    for name, summary in zip(jobs, summaries, strict=True):
        folder = UPath(bench.folder / "together" / name)
        assert read_record(folder / "summary.json", Summary) == summary
        assert read_json(folder / "sweep.json")["state"] == "finished"
        assert {run.info.status for run in bench.runs(summary.sweep)} == {"FINISHED"}
        assert len(bench.runs(summary.sweep)) == 2


def test_an_interruption_leaves_finished_what_is_finished(bench: Bench) -> None:
    jobs = together(bench, "local-together", first={"rounds": 0}, second={"rounds": 0, "rule": ("uniform",)})

    def say(line: str) -> None:
        if "] started" in line and "control" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_sweeps(jobs, say=say)
    folder = UPath(bench.folder / "local-together")
    assert {name: read_json(folder / name / "sweep.json")["state"] for name in jobs} == {
        "first": "finished", "second": "stopped",
    }  # fmt: skip
    assert (folder / "first" / "summary.json").exists()
    assert not (folder / "second" / "summary.json").exists()


def test_a_summary_that_cannot_be_written_leaves_no_finished_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: UPath, summary: Summary) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(sweep, "write_summary", full)
    with pytest.raises(OSError, match="no space left"):
        run_sweep(bench.job(out="full", local=True, width=(2,), lam=(0.05,), teacher=("none",)), say=lambda line: None)
    assert read_json(UPath(bench.folder / "full" / "sweep.json"))["state"] == "stopped"


def test_what_compares_all_trials_wants_tune_for_itself(bench: Bench) -> None:
    with pytest.raises(ValueError, match="for itself"):
        run_sweeps(together(bench, "together", short={}, halved={"asha": True, "rounds": 2}), say=lambda line: None)

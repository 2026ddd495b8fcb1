"""Sweeps on pictures that a recipe has made worse, and students that restore them at scale 1."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_files import TinyFiles

import ail_ray as ail
from ail_ray.commands.evaluate import main as evaluate
from ail_ray.commands.runs import main as runs
from ail_ray.commands.teacher import main as teacher
from ail_ray.commands.upscale import main as upscale
from ail_ray.errors import ConfigError
from ail_ray.files import as_path
from ail_ray.imaging.metrics import psnr
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.tensors import read_tensors

pytestmark = pytest.mark.long


@pytest.fixture
def values(tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    protocol = {**tiny_files.protocol(), "width": 4, "rounds": 1, "crops": 2000, "learning_rate": 3e-3}
    return {**protocol, "precision": "fp32", "say": lambda line: None}


def test_a_student_learns_to_take_noise_away(values: dict[str, object], tiny_files: TinyFiles, tmp_path: Path) -> None:
    recipe = {"degrade": "luma,noise=25", "scales": (1,)}
    teacher = ail.train(rule="uniform", out="teacher", **{**values, **recipe, "width": 6})
    trial = ail.train(teacher=str(teacher.weights), out="student", **values, **recipe, copies=2)
    assert trial.status == "finished"
    (noisy,) = trial.references["bicubic"].validation
    (row,) = trial.validation
    assert (noisy.set, noisy.scale) == ("val", 1)
    assert noisy.psnr == pytest.approx(20 * np.log10(255 / 25), abs=0.4), "the noisy picture, nothing shaved off"
    assert row.psnr > noisy.psnr + 1, "it restores"
    (taught,) = trial.references["teacher=student.safetensors"].validation
    assert taught.psnr > noisy.psnr + 1
    errors = [read_tensors(as_path(path))[0]["error"] for path in tmp_path.glob("student/errors/*/shard-0000*")]
    (middle,) = (float(np.median(error)) for error in errors)
    assert trial.manifest is not None
    assert trial.manifest.config.mu0 == pytest.approx(middle, rel=0.05), "µ0 follows the teacher's errors"
    again = ail.train(teacher=str(teacher.weights), out="student", **values, **recipe, copies=2)
    assert again.directory == trial.directory, "and gives the same run again"
    words = ["--sets", str(tiny_files.validation), "--scales", "1", "--degrade", "luma,noise=25", "--json", "rows.json"]
    for model, expected in (("bicubic", noisy.psnr), (str(trial.weights), row.psnr)):
        assert evaluate(["--model", model, *words]) == 0
        (found,) = json.loads((tmp_path / "rows.json").read_text())
        assert found["psnr"] == pytest.approx(expected, abs=1e-3)
    clean = np.asarray(Image.open(tiny_files.validation / "0.png"))
    generator = np.random.default_rng(0)
    spoilt = np.stack([clean + generator.normal(0, 25, clean.shape)] * 3, axis=-1).clip(0, 255).round().astype(np.uint8)
    Image.fromarray(spoilt).save("photo.png")
    assert upscale(["photo.png", "--model", str(trial.weights), "--scale", "1", "--out", "."]) == 0
    restored = np.asarray(Image.open("photo-x1.png").convert("RGB"))
    assert restored.shape == spoilt.shape
    assert psnr(clean, restored[..., 1], 0) > psnr(clean, spoilt[..., 1], 0) + 1
    assert upscale(["photo.png", "--model", str(trial.weights), "--scale", "1", "--out", "all", "--chroma"]) == 0
    pictures = list(trial.path.rglob("*val-x1-0*"))
    assert pictures, "rounds are drawn at scale 1 too"


def test_two_seeds_share_what_is_drawn(values: dict[str, object], tmp_path: Path) -> None:
    recipe = {"degrade": "blur=0.5..1,noise=0..8,jpeg=60..95", "copies": 2, "rounds": 0, "crops": 32}
    summary = ail.sweep(local=True, rule="uniform", seed=[0, 1], **{**values, **recipe})
    assert [trial.status for trial in summary.trials] == ["finished", "finished"]
    assert len(list((tmp_path / "ail_out" / "corpora").iterdir())) == 1
    ail.sweep(local=True, rule="uniform", degrade_seed=1, **{**values, **recipe})
    assert len(list((tmp_path / "ail_out" / "corpora").iterdir())) == 2
    assert len(list((tmp_path / "ail_out" / "runs").iterdir())) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1,)}, "scales: 1 restores what --degrade has spoilt: name a recipe"),
        ({"copies": 2}, "copies goes with --degrade"),
        ({"degrade": "noise=300"}, "degrade: noise must be a range within 0..255, got 300"),
        ({"degrade": "noise=3", "copies": 0}, "copies must lie in 1..1000, got 0"),
        ({"degrade": "noise=3", "scales": (1,), "network": "fsrcnn", "crop": 42},
         "scales: fsrcnn enlarges by itself, it cannot restore at scale 1"),
        ({"scales": (5,)}, "scales must be 1, 2, 3 or 4, got 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RunConfig(**changes)  # type: ignore[arg-type]
    assert message in refused.value.problems


def test_a_recipe_is_the_same_however_it_is_written() -> None:
    runs = [RunConfig(degrade=text) for text in ("noise=5", "noise=5..5", " noise=5.0 ,")]
    assert len({run.digest(corpus="", evaluation=[], teacher="") for run in runs}) == 1
    assert RunConfig().content.keys().isdisjoint({"degrade", "copies", "degrade_seed"}), "old runs keep their names"
    with pytest.raises(ConfigError, match=r"degrade: students of several cannot be compared"):
        SweepConfig.of(degrade=("noise=5", "noise=25"), rule="uniform")
    assert SweepConfig.of(degrade=("noise=5,",), rule="uniform").plain["degrade"] == "noise=5..5"


def test_they_are_listed_apart_and_never_become_champion(
    values: dict[str, object], tiny_files: TinyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"rounds": 0, "crops": 32, "rule": "uniform"}
    said = list[str]()
    for recipe in ({}, {"degrade": "noise=20"}):
        ail.sweep(local=True, **{**values, **small, **recipe, "say": said.append})
    assert sum("students of a recipe" in line for line in said) == 1
    assert runs(["--storage", "ail_out"]) == 0
    listed = capsys.readouterr().out
    assert listed.count("trained on train, compared on val, ×2") == 2
    assert listed.count("×2, degraded by noise=20..20 (seed 0)") == 1


def test_a_teacher_for_a_recipe_has_a_card_of_it(
    values: dict[str, object], tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIL_DATA_DIR", raising=False)
    words = [
        "--scales",
        "1",
        "--degrade",
        "luma,noise=25",
        "--train",
        str(tiny_files.train),
        "--width",
        "3",
        "--crop",
        "16",
    ]
    assert teacher([*words, "--epochs", "1", "--crops", "32", "--local", "--to", "denoiser.safetensors"]) == 0
    card = (tmp_path / "denoiser.md").read_text()
    assert "`luma,noise=25..25` (seed 0, 1 of each)" in card
    assert "| sample-val ×1 |" in card

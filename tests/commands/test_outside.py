"""A network of one's own, from its training to its pictures, and its results where its code is not."""

import importlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_files import TinyFiles

import ail_ray as ail
from ail_ray.learning.weights import WeightsError, load_model
from ail_ray.networks.code import resolve
from ail_ray.tensors import read_tensors, write_tensors

pytestmark = pytest.mark.long

NET = """
from torch import nn

class Net(nn.Module):
    defaults = {"crop": 16, "init": "he"}

    def __init__(self, width=6, scale=2):
        super().__init__()
        self.register_buffer("mean", __import__("torch").tensor(0.5))
        self.layers = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, scale**2, 3, padding=1), nn.PixelShuffle(scale),
        )
        self.coarse = nn.Upsample(scale_factor=scale, mode="bicubic")

    def forward(self, x):
        return self.coarse(x) + self.layers(x - self.mean)
"""


def run(name: str, *words: str) -> int:
    code = importlib.import_module(f"ail_ray.commands.{name}").main([*words])
    return int(code or 0)


@pytest.fixture(scope="module")
def made(tiny_files: TinyFiles, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, ail.Trial]:
    """The file of the network, the folder of results, and the trial, in MLflow too."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "code").mkdir()
    file = folder / "code" / "net.py"
    file.write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        values = {name: value for name, value in tiny_files.protocol().items() if name not in ("depth", "crop", "init")}
        values |= {"rounds": 1, "precision": "fp32", "rule": ("eq7", "uniform"), "teacher": "none"}
        summary = ail.sweep(out=folder / "out", local=True, network=f"{file}:Net", say=lambda line: None, **values)
    assert [trial.status for trial in summary.trials] == ["finished", "finished"]
    return file, folder, summary.trials[0]


def test_it_upscales_is_measured_and_exported_with_its_code_named(
    made: tuple[Path, Path, ail.Trial], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _, trial = made
    picture = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(picture)
    named = ("--model", str(trial.weights), "--network", f"{file}:Net")
    assert run("upscale", str(picture), *named, "--out", str(tmp_path)) == 0
    with Image.open(tmp_path / "photo-x2.png") as enlarged:
        assert enlarged.size == (100, 80)
    assert run("export", *named, "--out", str(tmp_path)) == 0
    exported = next(tmp_path.glob("*.onnx"))
    rows = [
        ail.evaluate(str(trial.weights), ["sample-val"], network=f"{file}:Net"),
        ail.evaluate(str(exported), ["sample-val"]),
    ]
    assert rows[0].rows[0].psnr == pytest.approx(rows[1].rows[0].psnr, abs=1e-3)
    assert (trial.path / "student.onnx").exists()
    model = ail.load(str(trial.weights), network=f"{file}:Net")
    assert model.traits.upsampling == 2
    assert model.mean.item() == 0.5, "buffers are part of a network"  # type: ignore[operator]


def test_where_its_code_is_not_everything_but_its_use_works(
    made: tuple[Path, Path, ail.Trial],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, folder, trial = made
    there = tmp_path / "copy"
    shutil.copytree(folder, there)
    shutil.rmtree(there / "code")
    monkeypatch.chdir(there)
    monkeypatch.setattr("ail_ray.networks.code.obtain", lambda code: pytest.fail("code was loaded"))
    out = str(there / "out")
    capsys.readouterr()
    assert run("runs", "--storage", out) == 0
    listed = capsys.readouterr().out
    assert "net.py:Net ×2 w=1 (control)" in listed
    assert listed.count("finished") == 2
    assert run("report", "--out", out) == 0
    page = (there / "out" / "report.html").read_text(encoding="utf-8")
    assert "net.py:Net" in page
    assert run("runs", "--storage", out, "--prune") == 0
    with pytest.raises(SystemExit) as refused:
        run(
            "evaluate",
            "--model",
            str(there / "out" / "runs" / trial.run / "student.safetensors"),
            "--sets",
            "sample-val",
        )
    assert refused.value.code == 2
    said = capsys.readouterr().err
    assert "whose code no file brings: name it, --network net.py:Net" in said


def test_weights_load_no_code_whatever_they_say(made: tuple[Path, Path, ail.Trial], tmp_path: Path) -> None:
    file, _, trial = made
    tensors, metadata = read_tensors(Path(str(trial.weights)))  # type: ignore[arg-type]
    code = resolve(f"{file}:Net", "network")
    refusals: dict[str, Callable[[], object]] = {}

    def written(name: str, **changes: str) -> Path:
        path = tmp_path / f"{name}.safetensors"
        write_tensors(path, tensors, metadata | changes)  # type: ignore[arg-type]
        return path

    evil = written("evil", network="os:system@1a2b3c")
    refusals["weights of os:system@1a2b3c, whose code no file brings: name it, --network os:system"] = lambda: (
        load_model(evil)
    )
    refusals["weights of os:system@1a2b3c, and not of net.py:Net@"] = lambda: load_model(evil, code)
    wide = written("wide", width="7")
    refusals["needs layers.0.weight (7, 1, 3, 3), the file has (6, 1, 3, 3)"] = lambda: load_model(wide, code)
    edited = tmp_path / "net.py"
    edited.write_text(NET.replace("width, 3, padding=1), nn.ReLU", "width, 5, padding=2), nn.ReLU"))
    other = resolve(f"{edited}:Net", "network")
    refusals["(its code has changed since: "] = lambda: load_model(str(trial.weights), other)
    for line, load in refusals.items():
        with pytest.raises(WeightsError) as error:
            load()
        assert line in str(error.value)
    commented = tmp_path / "net.py"
    commented.write_text(NET + "# a remark\n")
    assert load_model(str(trial.weights), resolve(f"{commented}:Net", "network")).traits.upsampling == 2

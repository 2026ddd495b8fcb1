"""A network of one's own, from its training to its pictures, and its results where its code is not."""

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pytest
from mlflow_server import answered, server
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


def refused(capsys: pytest.CaptureFixture[str], name: str, *words: str) -> str:
    """The lines of a command's refusal."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(name, *words)
    assert left.value.code == 2
    return capsys.readouterr().err


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
    with server(there, "ui", "--workers", "1", "--backend-store-uri", "sqlite:///mlflow.db") as url:
        asked = json.dumps({"experiment_ids": ["1"], "filter": f"tags.`ail.run` = '{trial.run}'"}).encode()
        (found,) = json.loads(answered(f"{url}/api/2.0/mlflow/runs/search", asked))["runs"]
        weights = urlencode({"path": "student.safetensors", "run_uuid": found["info"]["run_id"]})
        assert answered(f"{url}/get-artifact?{weights}") == Path(str(trial.weights)).read_bytes()
    assert "net.py:Net" in json.dumps(found["data"])
    student = str(there / "out" / "runs" / trial.run / "student.safetensors")
    said = refused(capsys, "evaluate", "--model", student, "--sets", "sample-val")
    assert "whose code no file brings: name it, --network net.py:Net" in said


def test_code_that_a_model_does_not_need_is_refused(
    made: tuple[Path, Path, ail.Trial], tiny_files: TinyFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    file, _, _ = made
    said = refused(capsys, "evaluate", "--model", str(tiny_files.teacher), "--network", f"{file}:Net")
    assert "teacher.safetensors is a vdsr of width 3, depth 3, which needs no net.py:Net@" in said


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
    nameless = written("nameless", network="net.py:Net")
    refusals["whose code no file brings: name it, --network net.py:Net"] = lambda: load_model(nameless)
    huge = written("huge", width="70000")
    refusals["it says {'width': 70000}, no more than 10000 is believed"] = lambda: load_model(huge, code)
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

"""The library as a notebook uses it: what an import loads, what each function returns, and what it leaves alone."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import ail_ray as ail

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
TINY = {
    "depth": 4, "downsizes": (0.25,), "shards": 2, "rounds": 1, "epochs": 1, "crops": 64, "teacher": "none",
    "rule": "eq7",
}  # fmt: skip
CELL = "import sys; loaded = sorted({'torch', 'numpy', 'ray', 'mlflow', 'onnx', 'matplotlib'} & sys.modules.keys())"


def in_a_process(code: str, folder: Path) -> str:
    """What Python prints of some lines."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def test_an_import_loads_and_changes_nothing(tmp_path: Path) -> None:
    code = (
        "import os, logging\nseen = lambda: (dict(os.environ), dict(logging.root.manager.loggerDict))\n"
        f"before = seen()\nimport ail_ray as ail; dir(ail)\n{CELL}; print(loaded, before == seen())"
    )
    assert in_a_process(code, tmp_path) == "[] True"


def test_what_is_not_there_is_no_attribute() -> None:
    assert {"sweep", "train", "evaluate", "upscale", "load", "Summary", "Trial"} <= set(dir(ail))
    with pytest.raises(AttributeError, match="module 'ail_ray' has no attribute 'swep'"):
        ail.swep  # noqa: B018


def test_a_run_is_trained_without_ray_and_mlflow(tmp_path: Path) -> None:
    code = (
        "import os\nkept = lambda: {k: v for k, v in os.environ.items() if not k.startswith('TORCH')}  # torch's own\n"
        "before = kept()\nimport ail_ray as ail\n"
        f"trial = ail.train(out='out', say=lambda line: None, **{TINY})\n"
        f"{CELL}; print(loaded, before == kept()); print(trial.run, trial.status, len(trial.records))\n"
        f"print(ail.train(out='out', say=lambda line: None, **{TINY}) == trial)"
    )
    loaded, run, again = in_a_process(code, tmp_path).splitlines()
    assert not {"'ray'", "'mlflow'", "'matplotlib'"} & {*loaded.strip("[]").split(", ")}
    assert loaded.endswith("True"), "the environment is what it was"
    name, status, rounds = run.split()
    assert (status, rounds) == ("finished", "2")
    assert (tmp_path / "out" / "runs" / name / "student.safetensors").exists()
    assert not (tmp_path / "mlflow.db").exists()
    assert again == "True", "what is finished is returned"


def test_one_run_takes_one_value_of_everything(folder: Path) -> None:
    with pytest.raises(ail.ConfigError, match=r"^lam has several values: one run is trained, a sweep takes several$"):
        ail.train(**TINY | {"lam": (0.1, 0.2)})
    with pytest.raises(ail.ConfigError) as refused:
        ail.train(**TINY | {"crop": 3, "lam": -1.0})
    assert refused.value.problems == ["crop must be at least 8 pixels, got 3", "lam must be positive, got -1.0"]
    assert list(folder.iterdir()) == []


def test_a_sweep_returns_what_its_files_say(folder: Path) -> None:
    summary = ail.sweep(local=True, out="out", say=lambda line: None, **TINY | {"lam": [0.1, 0.2]})
    assert [trial.parameters["lam"] for trial in sorted(summary.trials, key=lambda t: t.name)] == [0.1, 0.2]
    table = summary.to_pandas()
    assert list(table["lam"]) == [trial.parameters["lam"] for trial in summary.trials]
    assert list(table["psnr"]) == [trial.psnr for trial in summary.trials] == sorted(table["psnr"], reverse=True)
    assert (folder / "mlflow.db").exists()


def test_pictures_are_enlarged_and_measured(folder: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    Image.fromarray(picture).save("a.png")
    assert ail.upscale("a.png", "bicubic", out="large") == [Path("large/a-x2.png").absolute()]
    with Image.open("large/a-x2.png") as enlarged:
        assert enlarged.size == (60, 48)
    found = ail.evaluate("bicubic", ["sample-val"], [2])
    assert found.rows[0].psnr == pytest.approx(30.659, abs=0.005)
    assert list(found.to_pandas()["model"]) == ["bicubic"]
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    with pytest.raises(RuntimeError, match=r"broken.png: failed: "):
        ail.upscale([folder / "broken.png", "a.png"], "bicubic", out="larger")
    assert (folder / "larger" / "a-x2.png").exists()


def test_a_model_is_a_module_of_torch() -> None:
    network = ail.load("vdsr")
    luma = torch.rand(1, 1, 20, 24)
    with torch.inference_mode():
        assert network(luma).shape == luma.shape
    with pytest.raises(ValueError, match="nobody: no such model; there are bicubic, champion, vdsr"):
        ail.load("nobody")


def listening(pids: Iterator[int]) -> set[str]:
    """The addresses at which processes listen for TCP, as the kernel writes them: 0100007F is 127.0.0.1."""
    inodes = set[str]()
    for pid in pids:
        for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                name = os.readlink(descriptor)
            except OSError:
                continue
            inodes |= {name[8:-1]} if name.startswith("socket:[") else set()
    found = set[str]()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text(encoding="utf-8").splitlines()[1:]:
            _, address, _, state, *rest = line.split()
            found |= {address.split(":")[0]} if state == "0A" and rest[5] in inodes else set()
    return found


@pytest.mark.ray
def test_a_sweep_after_somebody_elses_import_of_ray_stays_on_the_loopback(tmp_path: Path) -> None:
    tests = [str(ROOT / "tests"), str(ROOT / "tests" / "orchestration")]
    code = (
        f"import ray\nimport ail_ray as ail\nimport os, sys; sys.path[:0] = {tests}\n"
        "from ail_ray.orchestration.cluster import cluster\nfrom heads import descendants\n"
        "from test_api import listening\n"
        "with cluster():\n    print(sorted(listening([os.getpid(), *descendants(os.getpid())])))"
    )
    addresses = in_a_process(code, tmp_path)
    assert addresses in ("['0100007F']", "['0000000000000000FFFF00000100007F', '0100007F']")


def test_the_notebook_runs(tmp_path: Path) -> None:
    notebook = nbformat.read(ROOT / "docs" / "notebook.ipynb", as_version=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        NotebookClient(notebook, timeout=540, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert (tmp_path / "enlarged").is_dir()

"""The wheel, installed into an environment of its own: complete, and its commands work in an empty folder."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import heads
import pytest
from PIL import Image

pytestmark = pytest.mark.long

PROJECT = Path(__file__).parents[2]
TINY = [
    "--depth",
    "4",
    "--downsizes",
    "0.25",
    "--shards",
    "2",
    "--rounds",
    "1",
    "--epochs",
    "1",
    "--crops",
    "64",
    "--teacher",
    "none",
    "--rule",
    "eq7",
]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from what it needs of this checkout."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    shutil.copytree(PROJECT / "ail_ray", source / "ail_ray", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source], check=True)
    (file,) = built.iterdir()
    return file


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the programs of an environment with the wheel; other packages are those of these tests."""
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib"))  # whose own .pth files are not read
    pip = [sys.executable, "-m", "pip", "--python", environment / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", wheel], check=True)
    return environment / "bin"


def ail(installed: Path, folder: Path, *words: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the installed package in a folder."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "MLFLOW_T"))}
    path = f"{installed}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [str(installed / "ail"), *words], cwd=folder, env=kept | {"AIL_DATA_DIR": "", "PATH": path} | changes,
        capture_output=True, encoding="utf-8", check=False,
    )  # fmt: skip


def test_the_wheel_has_every_file_of_the_package_and_no_other(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "ail_ray"], cwd=PROJECT, capture_output=True, encoding="utf-8", check=True
    ).stdout.split()
    with zipfile.ZipFile(wheel) as packed:
        assert sorted(name for name in packed.namelist() if ".dist-info/" not in name) == sorted(tracked)


def test_a_sweep_and_all_that_follows_work_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    Image.new("RGB", (24, 16)).save(tmp_path / "a.png")
    swept = ail(installed, tmp_path, "sweep", "demo", "--local", *TINY)
    assert swept.returncode == 0, swept.stderr
    assert f"As one page: ail report --out {tmp_path}/ail_out" in swept.stdout.splitlines()
    (student,) = tmp_path.glob("ail_out/runs/*/student.safetensors")
    for words in (
        ["runs"], ["report"], ["upscale", "a.png", "--model", str(student)], ["export", "--model", str(student)],
        ["evaluate", "--model", str(student), "--sets", "sample-val"], ["fetch", "--list"],
        ["teacher-inputs"], ["data", "sample"],
        ["paper", "--tables", "1", "--scales", "2", "--local", "--collect"],
    ):  # fmt: skip
        done = ail(installed, tmp_path, *words)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), (words, done.stdout, done.stderr)
    assert "version 0.1.0" in max((student.parent / "manifests").iterdir()).read_text()
    page = (tmp_path / "ail_out" / "report.html").read_text()
    assert f"ail runs --storage {tmp_path}/ail_out --show {student.parent.name}" in page


@pytest.mark.ray
def test_an_installed_package_goes_along_with_the_job_that_it_submits(installed: Path, tmp_path: Path) -> None:
    """The head has the package of this checkout, or none; what runs there says of itself that it is the wheel's."""
    folder, out = tmp_path / "folder", tmp_path / "out"
    (folder / ".venv").mkdir(parents=True)
    with heads.head(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}") as head:
        told = {name: value for name, value in head.environment.items() if name.startswith("RAY_")}
        command = ["ail", "sweep", "demo", *TINY, "--max-workers", "1", "--out", str(out)]
        submitted = ail(installed, folder, "submit", "--address", head.address, "--", *command, **told)
        assert submitted.returncode == 0, submitted.stdout
    assert f"Summary: {out}/summary.json" in submitted.stdout, "its log is followed"
    manifest = max(out.glob("runs/*/manifests/*.json"))
    assert json.loads(manifest.read_bytes())["machine"]["commit"] == "version 0.1.0"

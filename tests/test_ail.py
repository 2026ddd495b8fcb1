"""The command `ail`: its list, a word that is no command, and which libraries each command loads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ail_ray.commands.ail import COMMANDS
from ail_ray.delivery.onnx import to_onnx
from ail_ray.networks.building import build_model

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[1]
HEAVY = {
    "ray", "mlflow", "torch", "numpy", "scipy", "skimage", "onnx", "onnxruntime", "matplotlib", "pooch", "requests",
    "optuna", "sqlalchemy",
}  # fmt: skip
LIGHT = {"torch", "numpy", "scipy", "skimage"}
"""What a command may load that starts nothing: its flags have defaults that these are asked for."""
SWEEP = "--depth 4 --downsizes 0.25 --shards 2"


def ail(*words: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIL_DATA_DIR": ""}
    return subprocess.run(
        [sys.executable, "-m", "ail_ray", *words], cwd=folder, env=environment, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip


def loaded(folder: Path, *commands: str) -> set[str]:
    """The heavy libraries of a process in which these commands have ended well, one after the other."""
    code = (
        "import shlex, sys\nfrom ail_ray.commands.ail import main\n"
        f"for command in {commands}:\n    sys.argv = ['ail', *shlex.split(command)]\n"
        "    try: main()\n    except SystemExit as left: assert not left.code, command\n"
        f"print('loaded', *({HEAVY} & sys.modules.keys()))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIL_DATA_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize("words", [(), ("--help",), ("-h",)])
def test_ail_lists_its_commands_a_line_each(words: tuple[str, ...]) -> None:
    done = ail(*words)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("  ")]
    assert [line.split()[0] for line in lines] == list(COMMANDS)
    assert all(len(line.split()) > 2 for line in lines)
    assert max(map(len, done.stdout.splitlines())) <= 60


@pytest.mark.parametrize(
    ("word", "remedy"),
    [("swep", "did you mean sweep?"), ("evalute", "did you mean evaluate?"), ("xyz", "there are sweep, submit, ")],
)
def test_a_word_that_is_no_command_is_refused(word: str, remedy: str) -> None:
    done = ail(word, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {word}: no such command; {remedy}")


def test_the_list_loads_nothing_heavy(tmp_path: Path) -> None:
    assert loaded(tmp_path, "--help") == set()


def test_help_pages_and_a_plan_load_little(tmp_path: Path) -> None:
    assert loaded(tmp_path, *(f"{name} --help" for name in COMMANDS), f"sweep --plan {SWEEP}") <= LIGHT


def test_models_but_for_the_champion_need_no_mlflow(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    light = ("evaluate --model bicubic --sets sample-val", "upscale a.png --model vdsr")
    assert loaded(tmp_path, *light) <= LIGHT
    (tmp_path / "net.onnx").write_bytes(to_onnx(build_model("vdsr", width=2, depth=2)))
    onnx = ("export --model vdsr --shape 64x64", "upscale a.png --model net.onnx --out b")
    assert loaded(tmp_path, *onnx) - LIGHT == {"onnx", "onnxruntime"}


def test_the_champion_needs_mlflow_and_no_ray() -> None:
    code = "import sys, ail_ray.tracking.champion; print(*({'ray', 'mlflow'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["mlflow"]


@pytest.mark.parametrize(
    ("package", "command", "line"),
    [
        ("s3fs", "runs --storage s3://bucket/ail", "s3://bucket/ail: cannot be read ({})"),
        ("s3fs", "sweep --out s3://bucket/ail --local", "s3://bucket/ail: cannot be written ({})"),
        ("s3fs", "report --out s3://bucket/ail", "s3://bucket/ail: cannot be read ({})"),
        ("gcsfs", "evaluate --sets gs://bucket/images", "gs://bucket/images: cannot be listed ({})"),
    ],
)
def test_an_extra_that_is_not_installed_is_named(package: str, command: str, line: str, tmp_path: Path) -> None:
    code = (
        f"import shlex, sys\nsys.modules['{package}'] = None\nfrom ail_ray.commands.ail import main\n"
        f"sys.argv = shlex.split('ail {command}')\nmain()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "AIL_DATA_DIR": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, encoding="utf-8", check=False
    )
    extra = {"s3fs": "s3", "gcsfs": "gcs"}[package]
    assert line.format(f"needs {package}: pip install 'ail-ray[{extra}]'") in done.stderr
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)

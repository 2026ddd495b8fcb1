"""Environments for converters that do not fit beside this project, and programs that run in them.

Each is a folder `ail-ray/NAME` below the user's folder for caches, and has what PACKAGES says. The programs are files
of this package that import nothing of it, so that the environment need not have it.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch

from ail_ray.errors import ConfigError, one_line

PACKAGES = {
    # It pins an xdsl that wants typing-extensions below 4.13. torch is named so that pip takes no other build of it.
    "litert": ("litert-torch==0.10.0", "onnx==1.23.2", f"torch=={torch.__version__.partition('+')[0]}"),
    "coreml": ("coremltools==9.0", "numpy<2.4", "onnx==1.23.2"),
}
"""What each environment has; the converter first."""
STAMP = "ail-ray.txt"  # is written last: what has been installed


def folder(name: str) -> Path:
    """Where an environment lies, whether it is there or not."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "ail-ray" / name


def exists(name: str) -> bool:
    """Whether an environment is there, whole, with what it needs today."""
    stamp = folder(name) / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == "\n".join(PACKAGES[name])


def make(name: str) -> None:
    """Make an environment, or complete it.

    Raises:
        ConfigError: pip does not succeed; the last line it says is in the message.
    """
    place = folder(name)
    try:
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True, capture_output=True)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
        subprocess.run([str(place / "bin" / "python"), *install], check=True, capture_output=True, encoding="utf-8")
        (place / STAMP).write_text("\n".join(PACKAGES[name]), encoding="utf-8")
    except subprocess.CalledProcessError as error:
        said = (error.stderr if isinstance(error.stderr, str) else "").strip().splitlines() or ["no more is known"]
        raise ConfigError([f"make-environment: {place} cannot be made: {said[-1]}"]) from None
    except OSError as error:
        raise ConfigError([f"make-environment: {place} cannot be made: {one_line(error)}"]) from None


def run(name: str, program: str, inputs: Mapping[str, bytes], *words: str) -> dict[str, bytes]:
    """Run a program of this folder in an environment; returns the files that it wrote, by path below its folder.

    Args:
        program: its file, which is called with a folder that holds the inputs, an empty one for what it writes, and
            the words.

    Raises:
        ConfigError: it failed; the last line it said is in the message.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, made = Path(scratch, "given"), Path(scratch, "made")
        given.mkdir()
        made.mkdir()
        for file, content in inputs.items():
            (given / file).write_bytes(content)
        # Isolated, or the files beside the program would hide packages of their names.
        python = [str(folder(name) / "bin" / "python"), "-I"]
        command = [*python, str(Path(__file__).parent / program), str(given), str(made)]
        done = subprocess.run([*command, *words], capture_output=True, encoding="utf-8", check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise ConfigError([f"target: {name}: {said[-1]}"])
        return {
            str(path.relative_to(made)): path.read_bytes() for path in sorted(made.rglob("*")) if path.is_file()
        }  # fmt: skip

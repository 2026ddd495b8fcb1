"""What a record says about the machine and the code that made it."""

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str | None]:
    """Processor and number of cores, Python, and the commit, if the code runs from a repository."""
    return {"processor": _processor(), "python": platform.python_version(), "commit": _commit()}


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on."""
    return {name: version(name) for name in ("torch", "ray", "numpy", "mlflow")}


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux has one
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} × {os.cpu_count()}"


def _commit() -> str | None:
    """The commit of the code, if it runs from a repository."""
    try:
        git = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=False,
        )  # fmt: skip
    except OSError:  # no git, as in the cluster's image
        return None
    return git.stdout.strip() or None

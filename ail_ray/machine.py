"""What a process may use of its machine, and what a record says of that and of the code that made it."""

import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from ail_ray import __version__

PACKAGE = Path(__file__).parent
"""The folder of this package, in a checkout or where it was installed."""
CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def cores() -> int:
    """How many processors this process may keep busy: those it is bound to (`taskset`), by its control groups' time."""
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(bound)]
    for group in _groups("cpu"):
        quota, period = _numbers(group / "cpu.max") or (
            *_numbers(group / "cpu.cfs_quota_us"), *_numbers(group / "cpu.cfs_period_us")
        ) or (-1, 1)  # fmt: skip
        if quota > 0:
            shares.append(quota / period)
    return max(1, int(min(shares)))


def memory() -> int:
    """How much memory there is for this process, bytes: the machine's, or less where its control groups hold less."""
    limits = [whole_memory()]
    for group in _groups("memory"):
        limits += (*_numbers(group / "memory.max"), *_numbers(group / "memory.limit_in_bytes"))
    return min(limits)


def whole_memory() -> int:
    """The machine's memory, bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _groups(controller: str) -> Iterator[Path]:
    """The control groups of either version that this process is in, each with those around it.

    In a container the path may be the one outside; what of it is there is then the container's own group.
    """
    for line in OWN.read_text(encoding="utf-8").splitlines() if OWN.exists() else ():
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            mount = CGROUPS / controllers if controllers else CGROUPS
            group = mount / path.strip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(mount) and each.is_dir())


def _numbers(file: Path) -> tuple[int, ...]:
    """What a file of a control group says; nothing where it is not there, or says `max`."""
    words = file.read_text(encoding="utf-8").split() if file.exists() else []
    return tuple(map(int, words)) if words and words[0] != "max" else ()


def machine() -> dict[str, str]:
    """Processor and number of cores for us, Python, and the commit of this package's code, or else its version."""
    commit = _commit() or f"version {__version__}"
    return {"processor": _processor(), "python": platform.python_version(), "commit": commit}


def versions() -> dict[str, str]:
    """The versions of the libraries that results depend on."""
    return {name: version(name) for name in ("torch", "ray", "numpy", "mlflow")}


def peak_memory() -> int:
    """The most bytes of memory that this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # Linux has one
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()} × {cores()}"


def checkout() -> Path | None:
    """The folder of this project that the code runs from; None if the package was installed."""
    project = PACKAGE.parent / "pyproject.toml"
    ours = project.is_file() and 'name = "ail-ray"' in project.read_text(encoding="utf-8")
    return PACKAGE.parent if ours else None


def _commit() -> str:
    """The commit of the code; empty if it runs from no repository of its own, but perhaps inside another."""
    if not (folder := checkout()):
        return ""
    ask = ["git", "rev-parse", "--show-prefix", "HEAD", "HEAD:./ail_ray/machine.py"]
    try:
        git = subprocess.run(ask, cwd=folder, capture_output=True, encoding="utf-8", check=False)
    except OSError:  # no git, as in the cluster's image
        return ""
    below, commit, *_ = git.stdout.split("\n") if git.returncode == 0 else ("", "")
    return "" if below else commit[:12]

"""A job on its way to a cluster: what is uploaded with it and whether Ray takes so much, and what it is told.

Ray uploads the folder before any of our code runs on the cluster, and refuses one that is too large only when all of
it has been sent.
"""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ray._private.ray_constants import (
    DASHBOARD_CLIENT_MAX_SIZE,
    RAY_RUNTIME_ENV_IGNORE_GITIGNORE,
    get_runtime_env_default_excludes,
)
from ray._private.runtime_env.packaging import GCS_STORAGE_MAX_SIZE, _dir_travel, _get_excludes
from ray.job_submission import JobSubmissionClient

from ail_ray.errors import one_line

LIMIT = min(GCS_STORAGE_MAX_SIZE, DASHBOARD_CLIENT_MAX_SIZE)  # bytes
FORWARDED = (
    "AIL_DATA_DIR", "AIL_TEACHER_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD",
    "AIL_LOG",
)  # fmt: skip
"""Settings that a job reads on the cluster; each goes along as it is set here."""


def uploaded(folder: Path) -> Counter[str]:
    """Bytes of a folder's entries as Ray would upload them: without `.venv` and what .rayignore and .gitignore name."""
    sizes = Counter[str]()

    def count(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder).parts[0]] += path.stat().st_size

    ignored = os.environ.get(RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1"
    left_out = [_get_excludes(folder, get_runtime_env_default_excludes())]
    _dir_travel(folder, left_out, count, ignored, logging.getLogger(__name__))  # Ray's own names every such file
    return sizes


def too_large(folder: Path) -> list[str]:
    """A line if Ray would refuse to take a folder."""
    sizes = uploaded(folder)
    if sizes.total() < LIMIT:
        return []
    largest = ", ".join(f"{name} {size / 2**20:.0f} MiB" for name, size in sizes.most_common(3))
    total, most = sizes.total() / 2**20, LIMIT / 2**20
    return [
        f"{folder}: {total:.0f} MiB would be uploaded, and Ray takes less than {most:.0f}; the largest are {largest}: "
        f"name in .rayignore what the job does not need"
    ]


def no_answer(address: str | None) -> list[str]:
    """A line if no cluster takes jobs at an address, by default Ray's own choice."""
    try:
        JobSubmissionClient(address)
    except Exception as error:  # whatever Ray, its HTTP library or a missing token raises
        return [f"address: no cluster takes jobs at {address or 'the address in RAY_ADDRESS'} ({one_line(error)})"]
    return []


def told(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings of this environment that go along."""
    return {name: environment[name] for name in FORWARDED if environment.get(name)}


def relative(settings: Mapping[str, str]) -> list[str]:
    """A line for each folder among the settings that means nothing on another machine."""
    return [
        f"{name} must be an absolute path or an address on the cluster, got {settings[name]}"
        for name in ("AIL_DATA_DIR", "AIL_TEACHER_DIR")
        if name in settings and "://" not in settings[name] and not Path(settings[name]).is_absolute()
    ]

"""What a user asks for (a sweep, where it runs, where its results go), and everything that can be wrong with it."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, is_local, unwritable
from ail_ray.learning import losses, rules
from ail_ray.learning.importance import MU0
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import Teacher, find_teacher
from ail_ray.networks.building import build_model
from ail_ray.networks.code import Code
from ail_ray.networks.probe import problems_of
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import DataKey, Prepared, data_key, find_start, plan_data
from ail_ray.runs.records import Weights
from ail_ray.sweeps.cost import describe_plan, plan_sweep

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SweepJob:
    """A sweep, where it runs, and where its results go."""

    sweep: SweepConfig = field(default_factory=SweepConfig)
    placement: Placement = field(default_factory=Placement)
    out: str | None = None
    """Folder for summary.json; by default ./ail_out. In a submitted job it has to be an absolute path, and is ~/ail_out
    by default."""
    storage: str | None = None
    """Folder or address (s3://, gs://) for runs, shards and errors of teachers, seen by all nodes; by default --out."""
    max_workers: int | None = None
    """Train workers that the cluster can grow to, all trials together; by default as many as have CPUs or GPUs now."""
    local: bool = False
    """Train one trial after the other in this process, without Ray."""
    plan: bool = False
    """Start nothing, and say what the sweep would cost: trials, crops, hours, memory and disk. The speed is measured on
    this machine for some seconds."""
    price: float | None = None
    """With --plan: price of one worker (with --gpu, of one GPU) for an hour, in any currency. With --max-workers, boot,
    image pull and idle minutes of the machines are counted as well."""
    head_price: float | None = None
    """With --plan: price of the cluster's head for an hour, in the same currency."""

    def __post_init__(self) -> None:
        p, problems = self.placement, list[str]()
        try:
            fewest, most = p.fewest, p.most
        except ValueError:
            fewest = most = 1
            problems.append(f"workers must be a number, or a range such as 1..4, got {p.workers}")
        if fewest > most:
            problems.append(f"workers must be a range from fewer to more, got {p.workers}")
        counts = {"workers": fewest, "threads": p.threads}
        problems += [f"{name} must be at least 1, got {count}" for name, count in counts.items() if count < 1]
        fewest_shards = min(self.sweep.axes.get("shards", (self.sweep.base.shards,)))
        if most > fewest_shards:
            problems.append(f"workers must not exceed the {fewest_shards} shards, got {p.workers}")
        if self.max_workers is not None and self.max_workers < fewest:
            problems.append(f"max-workers is {self.max_workers}, but one trial needs {fewest}")
        if not 0 < p.gpus_per_worker <= 1:
            problems.append(f"gpus-per-worker must lie in (0, 1], got {p.gpus_per_worker:g}")
        elif p.gpus_per_worker < 1:
            problems += [] if p.gpu else ["gpus-per-worker goes with --gpu"]
            problems += ["gpus-per-worker: workers of one run cannot share a GPU (NCCL)"] if most > 1 else []
        prices = {"price": self.price, "head-price": self.head_price}
        problems += [f"{name} must be positive, got {price}" for name, price in prices.items()
                     if price is not None and not 0 < price < math.inf]  # fmt: skip
        if self.local and (most > 1 or self.sweep.asha or self.sweep.search == "optuna"):
            problems.append("local runs one process: it goes with neither workers > 1, asha nor search optuna")
        problems += relative_in_job(out=self.out, storage=self.storage)
        if problems:
            raise ConfigError(problems)

    @property
    def out_path(self) -> UPath:
        """The folder that summary.json is written to."""
        return as_path(self.out or ("~/ail_out" if IN_JOB else "ail_out"))

    @property
    def storage_path(self) -> UPath:
        """The folder of runs, shards and errors of teachers."""
        return as_path(self.storage) if self.storage else self.out_path

    @property
    def tracking_uri(self) -> str:
        """The address of MLflow's record."""
        return tracking_uri(self.out_path)


def tracking_uri(out: UPath) -> str:
    """MLFLOW_TRACKING_URI, or else a database in the folder where the user stands (in a submitted job, in --out)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(record_folder(out) / "mlflow.db")


def record_folder(out: UPath) -> UPath:
    """The local folder of MLflow's database and files, unless a server has them."""
    if not IN_JOB:
        return as_path(".")
    return out if is_local(out) else as_path("~/ail_out")


def sqlite_uri(database: UPath) -> str:
    """The address of a SQLite file, any character in whose path SQLAlchemy takes as it is."""
    path = str(database)
    escaped = path.replace("%", "%25").replace("?", "%3F")
    # With the driver named, MLflow leaves the path alone; without, it makes a folder named like the escaped one.
    return f"sqlite:///{path}" if escaped == path else f"sqlite+pysqlite:///{escaped}"


def relative_in_job(**paths: str | None) -> list[str]:
    """A line for each relative path in a submitted job, since the working directory of such a job is deleted."""
    return [
        f"{name} must be an absolute path in a submitted job, got {value}"
        for name, value in paths.items()
        if IN_JOB and value is not None and "://" not in value and not Path(value).expanduser().is_absolute()
    ]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What the trials of a sweep read, found and checked, and nothing of it made yet."""

    prepared: dict[DataKey, Prepared]
    teachers: dict[str, Teacher | None]  # by name, None where it makes no maps
    starts: dict[str | None, Weights | None]  # that students start from


def costs(job: SweepJob) -> list[str]:
    """Say in lines what the sweep would cost, and start nothing.

    Raises:
        ConfigError: what `run_sweeps` would refuse, or a sweep that does not fit.
    """
    inputs = check(job)
    plan = plan_sweep(
        job.sweep, inputs.prepared, job.placement, inputs.teachers, max_workers=job.max_workers, local=job.local
    )
    return describe_plan(plan, job.placement, job.price, job.head_price)


def check(job: SweepJob) -> Inputs:
    """Look for everything that can be wrong and can be known before anything starts.

    Raises:
        ConfigError: with a line for everything that was found.
    """
    problems, inputs = list[str](), Inputs(prepared={}, teachers={}, starts={})

    def find(known: dict[Any, T], key: Any, finder: Callable[..., T], *arguments: Any) -> None:
        if (key, id(known)) not in looked:
            looked.add((key, id(known)))
            try:
                known[key] = finder(*arguments)
            except ConfigError as error:
                problems.extend(error.problems)

    looked, asked, configs = set[tuple[Any, int]](), set[tuple[str, DataKey]](), list(job.sweep.grid())
    for c in configs:
        find(inputs.prepared, data_key(c), plan_data, c, job.storage_path)
        find(inputs.starts, c.start, find_start, c.start, [each for each in configs if each.start == c.start])
        if "teacher" in c.reads:
            find(inputs.teachers, c.teacher, find_teacher, c.teacher, c.scales, [each.network for each in configs])
            teacher, prepared = inputs.teachers.get(c.teacher), inputs.prepared.get(data_key(c))
            if teacher and prepared and (c.teacher, data_key(c)) not in asked:
                asked.add((c.teacher, data_key(c)))
                problems += [f"teacher {line}" for line in teacher.lacks(prepared.pairs)]
        problems += _code_problems(c.network, c.width, c.depth, c.scale, c.rho, c.scales)
        mu0 = MU0 if c.mu0 is None else c.mu0
        problems += rules.problems_of(c.rule, c.of("rule"), mu0, c.lam) if isinstance(c.rule, Code) else []
        problems += losses.problems_of(c.loss, c.of("loss")) if isinstance(c.loss, Code) else []
    for folder in dict.fromkeys((job.storage_path, job.out_path)):
        problems += unwritable(folder)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return inputs


@cache
def _code_problems(
    network: str, width: int | None, depth: int | None, scale: int | None, rho: float, scales: tuple[int, ...]
) -> list[str]:
    """What a network from outside does that no run could cope with, a line each."""
    if not isinstance(network, Code):
        return []
    with torch.random.fork_rng(devices=[]):
        return problems_of(build_model(network, width=width, depth=depth, scale=scale, rho=rho), scales)


IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # set by `ray job submit` for its entrypoint

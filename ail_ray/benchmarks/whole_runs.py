"""How fast whole runs and sweeps are, with Ray and without, with one worker and two, and how much memory they take."""

import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import ray.train
import torch
from PIL import Image
from ray.train.torch import TorchTrainer
from upath import UPath

from ail_ray.benchmarks.kernels import CPU, trainer
from ail_ray.benchmarks.memory import Watch, end
from ail_ray.benchmarks.timing import Figure, in_turns, ratio
from ail_ray.files import FileError, as_path, read_json, read_record, write_json
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import Plain, RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import Precision, fastest, placed
from ail_ray.learning.presets import mini
from ail_ray.learning.teachers import find_teacher
from ail_ray.learning.theta import TrainState, train_epoch
from ail_ray.machine import PACKAGE, cores
from ail_ray.orchestration.cluster import cluster
from ail_ray.orchestration.trials import run_on_ray
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import build_data, plan_data
from ail_ray.runs.run import TrialPlan, run_local
from ail_ray.runs.teacher_maps import teacher_maps
from ail_ray.sweeps.sweep_file import Summary

WORKING = ("RayTrainWorker", "StoreActor", "raylet")  # processes that hold pixels, the last in shared memory


def run_config(**changes: Any) -> RunConfig:
    """A run of `mini` on the bundled photographs, without a teacher: round 0 trains nothing, round 1 is whole."""
    values: Plain = {
        "train": ("sample",), "validation": ("sample-val",), "test": (), "downsizes": (1.0, 0.7, 0.5), "rounds": 1,
    } | changes  # fmt: skip
    return mini().run(rule="eq7", teacher="none", **values)


def crops_in(seconds: float, **changes: Any) -> int:
    """How many crops one thread of this machine trains a run's student on in so many seconds."""
    with trainer(**changes) as ours:
        steps = 10
        taken = statistics.median(t for (t,) in in_turns([lambda: ours.epoch(steps)], 3))
    return math.ceil(seconds / taken * steps) * ours.config.batch


def ray_vs_local(*, seconds: float = 62.0, turns: int = 2) -> Figure:
    """A round through Ray with one worker, against one in this process, in turns and from commit to commit."""
    crops = crops_in(seconds) // 2  # a round has two epochs
    local, through_ray = list[float](), list[float]()
    with _storage() as storage, cluster():
        for turn in range(turns):
            plan = _plan(run_config(crops=crops, seed=turn), storage / f"turn-{turn}")
            other = _plan(plan.config, storage / f"turn-{turn}-ray")
            for through in (False, True) if turn % 2 == 0 else (True, False):  # what drifts meets both alike
                if through:
                    directory = run_on_ray(other, Placement(), lambda record: None)
                    through_ray.append(_second_round(directory))
                else:
                    directory = run_local(plan, 1, CPU, lambda record: None)
                    local.append(_second_round(directory))
    pairs = list(zip(through_ray, local, strict=True))
    return ratio(pairs, unit="rounds", amount=1, round_seconds=statistics.median(through_ray))


def two_workers(repeats: int = 7, *, steps: int = 15, batch: int = 128) -> Figure:
    """Two Ray workers with one thread each on one run, against the same two each on a run of its own, in turns.

    A step of the run has `batch` crops, one of its own half of them, so that the kernels are the same.
    """
    config = run_config(batch=batch)
    with _storage() as storage, cluster():
        plan = _plan(config, storage)
        found = storage / "pairs.json"
        TorchTrainer(
            _together_and_alone,
            train_loop_config={
                "config": config,
                "data": plan.data,
                "steps": steps,
                "repeats": repeats,
                "to": found,
            },
            scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
            run_config=ray.train.RunConfig(name="two", storage_path=str(storage / "ray")),
        ).fit()
        pairs = read_json(found)
    return ratio(pairs, unit="crops", amount=steps * batch, precision=fastest(CPU))


def _together_and_alone(job: dict[str, Any]) -> None:
    """What a worker does in `two_workers`: pairs of seconds, together and alone, for the same number of crops."""
    config, data = job["config"], job["data"]
    torch.set_num_threads(1)
    context = ray.train.get_context()
    group, precision = Group(context.get_world_rank(), context.get_world_size()), fastest(CPU)
    shards = {s: Shard(path) for s, path in enumerate(data.shard_paths) if s % group.size == group.rank}
    shared = Bank(shards, total_shards=config.shards, crop=config.crop, seed=0)
    own = Bank(dict(enumerate(shards.values())), total_shards=len(shards), crop=config.crop, seed=group.rank)
    for bank in (shared, own):
        for s, shard in bank.shards.items():
            bank.weigh(s, np.full(shard.pixels, 0.5, np.float16))
    half = replace(config, batch=config.batch // group.size)
    pairs = []
    states = [TrainState(placed(each.student(), precision, CPU), each) for each in (config, half)]
    for _ in range(job["repeats"] + 1):
        taken = []
        for state, bank, members in zip(states, (shared, own), (group, Group()), strict=True):
            group.barrier()
            started = time.perf_counter()
            train_epoch(
                state, bank, round=0, epoch=0, crops=job["steps"] * state.config.batch, group=members,
                precision=precision,
            )  # fmt: skip
            seconds = torch.zeros(group.size, dtype=torch.float64)
            seconds[group.rank] = time.perf_counter() - started
            taken.append(group.sum(seconds))
        together, alone = taken
        pairs.append((float(together.max()), group.size / float((1 / alone).sum())))  # of their speeds together
    if group.rank == 0:
        write_json(job["to"], pairs[1:])


def bytes_per_pixel(
    *, images: tuple[int, int] = (16, 128), side: int = 800, width: int = 13, crops: int = 2000, rounds: int = 3
) -> Figure:
    """How many bytes the processes of a node hold for each training pixel while two workers train, and in an update.

    It is the slope of their memory between two corpora of 16 shards, so that what they hold anyway is left out. What
    several of them share counts once, and includes mapped files and Ray's shared memory. The slope is a mean over
    rounds, since malloc sometimes keeps some feature maps for later and sometimes none.
    """
    pixels, steady, most = list[int](), list[float](), list[float]()
    for count in images:
        with _storage() as storage, cluster():
            _pictures(storage / "images", side, count)
            config = run_config(
                train=(str(storage / "images"),), downsizes=(1.0,), width=width, rounds=rounds, epochs=1, crops=crops,
            )  # fmt: skip
            plan = _plan(config, storage)
            with Watch(WORKING) as watch:
                records = [*run_on_ray(plan, Placement(workers=2), lambda record: None).follow()]
        training, whole = list[float](), list[float]()
        for before, record in pairwise(records):
            trained = record.time - record.seconds["evaluation"]
            training.append(statistics.median(watch.between(trained - 0.6 * record.seconds["theta"], trained)))
            whole.append(max(watch.between(before.time, trained)))
        pixels.append(plan.data.pixels)
        steady.append(statistics.mean(training))
        most.append(statistics.mean(whole))
    if not min(steady) > 0:
        raise RuntimeError(
            "nothing of the workers' memory was seen: does RAY_ADDRESS name a Ray that was there before?"
        )
    span = pixels[1] - pixels[0]
    each = (steady[1] - steady[0]) / span
    return {"ratio": each, "unit": "bytes", "update_adds": (most[1] - most[0]) / span - each, "pixels": pixels[1]}


def sweep_overhead(*, trials: int = 40, seconds: float = 30.0, more: Sequence[str] = ()) -> Figure:
    """The time of a sweep from command to end, against the training time of its trials, as many at once."""
    rounds, at_once = 2, cores()
    crops = crops_in(seconds) // rounds
    lams = [f"{0.05 * (i + 1):.2f}" for i in range(trials)]
    words = [
        "mini", "--train", "sample", "--validation", "sample-val", "--test", "--rule", "eq7", "--teacher",
        "none", "--epochs", "1", "--rounds", str(rounds), "--crops", str(crops), "--lam", *lams, *more,
    ]  # fmt: skip
    with _storage() as storage:
        started = time.perf_counter()
        subprocess.run(**_command(words, storage), check=True)
        taken = time.perf_counter() - started
        summary = read_record(storage / "ail_out" / "summary.json", Summary)
        trained = [_training_seconds(trial.path) for trial in summary.trials]
    at_best = sum(trained) / min(at_once, trials)
    return {"ratio": taken / at_best, "unit": "times", "seconds": taken, "shortest_trial": min(trained)}


def importance_tax(*, rounds: int = 10) -> Figure:
    """A round of AIL against one of its control: what the error passes and updates of Eq. 7 add to training.

    The run is `mini`, an epoch of half as many crops as would cover the pixels, on the bundled photographs with the
    bundled teacher, in this process; the mean over its rounds after round 0. The control trains as this run does.
    """
    with _storage() as storage:
        teacher = find_teacher("vdsr", (2,))
        assert teacher is not None
        config = mini().run(rule="eq7", teacher="vdsr", train=("sample",), validation=("sample-val",), test=(),
                            rounds=rounds)  # fmt: skip
        prepared, precision = plan_data(config, storage), fastest(CPU)
        config = replace(config, crops=math.ceil(prepared.corpus.pixels / config.crop**2 / 2))
        build_data(prepared, say=lambda line: None)
        how: dict[str, Any] = {"device": "cpu", "threads": 1, "say": lambda line: None}
        maps = teacher_maps(teacher, config, prepared, precision, **how)
        plan = TrialPlan(config=config, data=prepared.data, maps=maps, precision=precision)
        records = [*run_local(plan, 1, CPU, lambda measured: None).follow()][1:]
    added = [record.seconds["importance"] / record.seconds["theta"] for record in records]
    return {
        "ratio": 1 + statistics.mean(added), "unit": "times", "lowest": 1 + min(added), "highest": 1 + max(added),
        "first_half": 1 + statistics.mean(added[: -(-len(added) // 2)]),
    }  # fmt: skip


def first_round(*, words: Sequence[str] = (), patience: float = 600.0) -> Figure:
    """How many seconds pass from the demo's command to its first training step."""
    with _storage() as storage:
        started = time.time()
        process = subprocess.Popen(**_command(words or ("demo",), storage))
        try:
            step = None
            while step is None and process.poll() is None and time.time() < started + patience:
                time.sleep(0.1)
                step = _first_step(storage / "ail_out" / "runs")
        finally:
            end(process)
    if step is None:
        raise RuntimeError(
            f"the demo trained nothing in {time.time() - started:.0f} s, its exit code {process.returncode}"
        )
    return {"ratio": step - started, "unit": "s"}


def _first_step(runs: UPath) -> float | None:
    """When the first epoch that was committed began."""
    for path in runs.glob("*") if runs.exists() else ():
        try:
            epochs = RunDirectory(path).manifest().epochs
        except FileError:  # not there yet
            continue
        if epochs:
            newest = max(path.glob("manifests/*.json"), key=lambda commit: commit.name)
            return float(newest.stat().st_mtime - epochs[0].seconds)
    return None


def _command(words: Sequence[str], folder: UPath) -> dict[str, Any]:
    """How to start a sweep in a folder of its own, silently."""
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        "args": [sys.executable, "-m", "ail_ray", "sweep", *words], "cwd": str(folder),
        "env": os.environ | {"PYTHONPATH": path, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"},
        "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
    }  # fmt: skip


def _training_seconds(run: UPath) -> float:
    """How many seconds both subproblems of a run took, over all its rounds."""
    seconds = [record.seconds for record in RunDirectory(run).follow()]
    return sum(each["theta"] + each.get("importance", 0.0) for each in seconds)


def _second_round(directory: RunDirectory) -> float:
    """How many seconds passed from the commit of round 0 to that of round 1."""
    first, second = (record.time for record in directory.follow())
    return float(second - first)


def _plan(config: RunConfig, storage: UPath) -> TrialPlan:
    prepared = plan_data(config, storage)
    build_data(prepared, say=lambda line: None)
    precision: Precision = fastest(CPU)
    return TrialPlan(config=config, data=prepared.data, maps=None, precision=precision)


def _pictures(folder: UPath, side: int, count: int) -> None:
    """Write smooth pictures with noise as files."""
    folder.mkdir(parents=True)
    rows, columns = np.indices((side, side), np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (side, side)).astype(np.float32)
    for i in range(count):
        picture = 128 + 60 * np.sin(rows / (20 + i)) + 50 * np.cos(columns / (30 + i)) + np.roll(noise, 17 * i)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(str(folder / f"{i:03d}.bmp"))


@contextmanager
def _storage() -> Iterator[UPath]:
    with tempfile.TemporaryDirectory(prefix="ail-bench-") as folder:
        yield as_path(folder)

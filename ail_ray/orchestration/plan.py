"""What a sweep will cost, before it is started: work, hours, memory, disk and price, and whether it fits.

Speed and memory are measured for a few seconds in this process, on the device that the workers will have and beside as
many others as will share a machine like this one. Where the device is a GPU and there is none here, the time follows
from the multiply-accumulates at an assumed speed, and the plan says so.
"""

import math
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore

import numpy as np
import torch
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import as_path, write_tensors
from ail_ray.imaging.bank import Bank, Shard
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.images import image_size
from ail_ray.learning.config import RunConfig, SweepConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, evaluate, super_resolve
from ail_ray.learning.models import Network, multiply_accumulates, parameter_count
from ail_ray.learning.precision import Precision, fastest, placed
from ail_ray.learning.theta import TrainState, train_epoch
from ail_ray.learning.weights import load_model
from ail_ray.orchestration.machine import peak_memory
from ail_ray.orchestration.prepare import Prepared
from ail_ray.orchestration.search import proposals
from ail_ray.orchestration.trial import Placement

ASSUMED_SPEED = 3e12  # multiply-accumulates a second of a GPU where none can be measured: an L4's bf16 at a tenth
START = 20.0  # seconds from a trial's start to its first step, and from its last to the next trial's start
ROUND = 1.0  # seconds of a round for commits and pictures
ACTOR = 400_000_000  # bytes of a store actor's process beside the importance (Linux, torch for CPUs)
LARGEST_MEASURED = 512 * 512  # pixels of an image that the memory of an error pass is measured on
STEPS = 5  # of training, timed at once
SHARE = 0.9  # of a core, left to a worker where workers take all cores: Ray's own processes need the rest
COMPANY = 60.0  # seconds in which a process beside the measured one must have begun to train


@dataclass(frozen=True, kw_only=True)
class Speed:
    """One worker's seconds for one student, and the memory it takes."""

    step: float  # a step on this worker's share of the batch
    error_pass: float  # a pixel, in the run's precision
    evaluation: float  # a pixel, in fp32, with PSNR and SSIM
    memory: int  # bytes of the process at most, without bank and store
    measured: bool

    @property
    def origin(self) -> str:
        return "measured here" if self.measured else f"assumed at {ASSUMED_SPEED / 1e12:g} T multiply-accumulates/s"


@dataclass(frozen=True, kw_only=True)
class TrialCost:
    """One trial on its workers."""

    config: RunConfig
    crops: int
    error_passes: int
    seconds: float
    memory: int  # bytes, a worker
    disk: int  # bytes, the run directory
    speed: Speed


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole sweep."""

    trials: tuple[TrialCost, ...]
    teachers: dict[str, float]  # seconds of each teacher's pass over the corpus, on one worker
    at_once: int
    workers: int
    pixels: int
    pairs: int
    shards: int  # bytes
    evaluation_pixels: int
    store_memory: int  # bytes, a worker's store actor

    @property
    def seconds(self) -> float:
        """Of the whole sweep: trials start in order, each as soon as there is room for it."""
        free = [sum(self.teachers.values()) / (self.at_once * self.workers)] * self.at_once
        for trial in self.trials:
            free[free.index(min(free))] += trial.seconds
        return max(free)

    @property
    def worker_hours(self) -> float:
        trials = sum(trial.seconds for trial in self.trials) * self.workers
        return (trials + sum(self.teachers.values())) / 3600


def plan_sweep(
    sweep: SweepConfig,
    prepared: Prepared,
    placement: Placement,
    teachers: Mapping[str, UPath | None],
    *,
    max_workers: int | None,
    local: bool,
) -> Plan:
    """Count and measure.

    Args:
        teachers: path of the weights of each named teacher, None for those without a file.
        max_workers: train workers at once; by default what this machine has room for.

    Raises:
        ConfigError: a worker needs more memory than this machine, or its GPU, has.
    """
    device = torch.device("cuda" if placement.gpu and torch.cuda.is_available() else "cpu")
    assumed = placement.gpu and device.type == "cpu"
    precision: Precision = fastest(device) if sweep.precision == "auto" else sweep.precision
    precision = "bf16" if assumed and sweep.precision == "auto" else precision
    torch.set_num_threads(placement.threads)
    workers = placement.most
    room = torch.cuda.device_count() if device.type == "cuda" else (os.cpu_count() or 1) // placement.threads
    configs = [sweep.run(**searched) for searched in proposals(sweep)]
    at_once = min(len(configs), 1 if local else max(1, (max_workers or room) // workers))
    beside = min(room, at_once * workers) - 1 if device.type == "cpu" else 0
    share = SHARE if device.type == "cpu" and not local and at_once * workers >= room else 1.0
    largest = max(pair.pixels for pair in prepared.corpus.pairs)
    evaluation = sum(_pixels(file.images.paths) for file in (*prepared.validation, *prepared.test))
    speeds: dict[tuple[int, int], Speed] = {}
    trials = []
    with _company(0 if assumed else beside, configs[0], precision):
        for config in configs:
            key = (config.student_width, config.student_depth)
            if key not in speeds:
                speeds[key] = (
                    _assumed(config, workers)
                    if assumed
                    else _measured(config, workers, precision, device, largest, share)
                )
            trials.append(_cost(config, prepared, speeds[key], workers, evaluation))
        passes = {name: _teacher(path, prepared, precision, device, assumed) for name, path in teachers.items() if path}
    plan = Plan(
        trials=tuple(trials), teachers=passes, at_once=at_once, workers=workers,
        pixels=prepared.corpus.pixels, pairs=len(prepared.corpus.pairs), evaluation_pixels=evaluation,
        shards=sum(3 * pair.pixels + 2 * pair.pixels // pair.scale**2 for pair in prepared.corpus.pairs),
        store_memory=ACTOR + 3 * 2 * max(prepared.shard_pixels),
    )  # fmt: skip
    if not assumed:
        _refuse_what_does_not_fit(plan, device, workers if local or max_workers is None else 1)
    return plan


def describe_plan(plan: Plan, placement: Placement, price: float | None = None) -> list[str]:
    """The plan as lines of a table; `price` is that of a worker (of its GPU) for an hour."""
    trial, kind = plan.trials[0], "GPU" if placement.gpu else "worker"
    each = f"{plan.workers} workers × {placement.threads} threads"
    c = trial.config
    crops = sum(trial.crops for trial in plan.trials)
    passes = [f"{name} {_time(seconds)} on one worker" for name, seconds in plan.teachers.items()]
    rows = [
        ("trials", f"{len(plan.trials)}, {plan.at_once} at once, {each} each"),
        ("data", f"{plan.pairs} pairs, {plan.pixels / 1e6:.1f} M pixels in {c.shards} shards; "
                 f"{plan.evaluation_pixels / 1e6:.1f} M pixels evaluated every round"),
        ("work", f"a trial: {c.rounds + 1} rounds × {c.epochs} epochs, {trial.crops / 1e6:.3g} M crops of "
                 f"{c.crop}×{c.crop}, {c.rounds} error passes; {crops / 1e6:.3g} M crops in all"),
        ("teachers", ", ".join(passes) or "none to run"),
    ]  # fmt: skip
    for speed, config in {trial.speed: trial.config for trial in plan.trials}.items():
        student, per_second = f"{config.network}-f{config.student_width}", config.batch / plan.workers / speed.step
        errors = 1e-6 / speed.error_pass
        rows.append(
            ("speed", f"{student}: {per_second:.0f} crops/s, {errors:.2f} M pixels/s of errors; {speed.origin}")
        )
    seconds = [trial.seconds for trial in plan.trials]
    hours = plan.worker_hours
    bank, most = _bank(c) * plan.pixels / plan.workers, max(trial.memory for trial in plan.trials)
    rows += [
        ("time", f"{_time(min(seconds))} to {_time(max(seconds))} a trial, {_time(plan.seconds)} in all; "
                 f"{hours:.2f} {kind}-hours"),
        ("memory", f"{most / 2**30:.2f} GiB a worker, {bank / 2**30:.2f} of them its pixels; "
                   f"{plan.store_memory / 2**30:.2f} GiB its store actor"),
        ("disk", f"{max(trial.disk for trial in plan.trials) / 2**30:.2f} GiB a run; shared: shards "
                 f"{plan.shards / 2**30:.2f} GiB, maps of each teacher {2 * plan.pixels / 2**30:.2f} GiB"),
    ]  # fmt: skip
    if price is not None:
        rows.append(("price", f"{hours * price:.2f} at {price:g} for a {kind}-hour"))
    return [f"{name:10}{text}" for name, text in rows]


def _cost(config: RunConfig, prepared: Prepared, speed: Speed, workers: int, evaluation: int) -> TrialCost:
    crops, pixels = prepared.crops_per_epoch(config), prepared.corpus.pixels
    steps = config.epochs * math.ceil(crops / config.batch)
    trained = config.rounds + (config.initialisation != "zeros")
    seconds = START + trained * steps * speed.step + config.rounds * pixels / workers * speed.error_pass
    seconds += (config.rounds + 1) * (evaluation / workers * speed.evaluation + ROUND)
    student = 4 * parameter_count(config.student())
    return TrialCost(
        config=config, crops=trained * steps * config.batch, error_passes=config.rounds, seconds=seconds,
        memory=speed.memory + int(_bank(config) * pixels / workers) + 6 * evaluation, speed=speed,
        disk=4 * 2 * pixels + 8 * student + (config.rounds + 1) * (student + 200_000),
    )  # fmt: skip


def _bank(config: RunConfig) -> float:
    """Bytes a pixel: luma 1, input 2 for each that the network reads, importance 2, and 2 for a teacher's outputs."""
    return 3 + 2 / config.upsampling**2 + (2 if config.beta > 0 else 0)


def _measured(
    config: RunConfig, workers: int, precision: Precision, device: torch.device, largest: int, share: float
) -> Speed:
    """Times and memory of the run's own functions on random pixels, some seconds each.

    Args:
        share: of the time measured here that a worker will have.
    """
    config = replace(config, batch=max(1, config.batch // workers))
    side = int(min(largest, LARGEST_MEASURED) ** 0.5)
    train, student, shard = _training(config, side, precision, device)
    step = _median(train, device) / STEPS
    before = peak_memory()
    error_pass = _median(lambda: error_map(student, shard, precision), device) / shard.pixels
    grown = (peak_memory() - before) * max(0.0, largest / shard.pixels - 1)  # a larger image takes more
    image = np.random.default_rng(0).integers(0, 256, (240, 240), np.uint8)
    sample = EvaluationImages("plan", config.scales[0], [image])
    evaluation = _median(lambda: evaluate(student.float(), sample), device) / image.size
    return Speed(
        step=step / share, error_pass=error_pass / share, evaluation=evaluation / share,
        memory=peak_memory() + int(grown), measured=True,
    )  # fmt: skip


def _training(
    config: RunConfig, side: int, precision: Precision, device: torch.device
) -> tuple[Callable[[], None], Network, Shard]:
    """Some steps on a shard of one square image, the student they train, and the shard."""
    student = placed(config.student(), precision, device)
    side = side // student.upsampling * student.upsampling
    hr, geometry = np.random.default_rng(0).integers(0, 256, side**2, np.uint8), np.array([side], np.int64)
    inputs = (hr / 255).astype(np.float16)
    small = inputs[: (side // student.upsampling) ** 2]
    tensors = {"hr": hr, "inputs": inputs, "small": small, "heights": geometry, "widths": geometry}
    with tempfile.TemporaryDirectory() as folder:
        path = as_path(folder) / "shard.safetensors"
        write_tensors(path, tensors | {"scales": np.array(config.scales[:1])})
        shard = Shard(path, device, student.upsampling)
    bank = Bank({0: shard}, total_shards=1, crop=config.crop, seed=0)
    bank.weigh(0, np.full(shard.pixels, 0.5, np.float16))
    if config.beta > 0:
        bank.teach(0, np.full(shard.pixels, 0.5, np.float16))
    state, group = TrainState(student, config), Group()

    def train() -> None:
        train_epoch(state, bank, round=0, epoch=0, crops=STEPS * config.batch, group=group, precision=precision)

    return train, student, shard


@contextmanager
def _company(others: int, config: RunConfig, precision: Precision) -> Iterator[None]:
    """So many processes that train: the workers of a machine share its cores, its caches and its memory's speed."""
    context = multiprocessing.get_context("spawn")
    training = context.Semaphore(0)
    arguments = (config, precision, torch.get_num_threads(), training)
    processes: list[SpawnProcess] = []
    try:
        for _ in range(others):
            process = context.Process(target=_keep_training, args=arguments, daemon=True)
            process.start()
            processes.append(process)
        for _ in processes:
            training.acquire(timeout=COMPANY)
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _keep_training(config: RunConfig, precision: Precision, threads: int, training: Semaphore) -> None:
    """Train until the process that asked for it is gone."""
    torch.set_num_threads(threads)
    train, _, _ = _training(config, int(LARGEST_MEASURED**0.5), precision, torch.device("cpu"))
    train()
    training.release()
    asked = multiprocessing.parent_process()
    while asked and asked.is_alive():
        train()


def _assumed(config: RunConfig, workers: int) -> Speed:
    """Forward and backward are three times the multiply-accumulates of a forward pass."""
    pixel = _work(config.student()) / ASSUMED_SPEED
    return Speed(
        step=3 * pixel * config.crop**2 * config.batch / workers, error_pass=pixel, evaluation=4 * pixel,
        memory=peak_memory(), measured=False,
    )  # fmt: skip


def _teacher(path: UPath, prepared: Prepared, precision: Precision, device: torch.device, assumed: bool) -> float:
    """Seconds of a teacher's pass over the corpus."""
    teacher = load_model(path)
    pixels = prepared.corpus.pixels
    if assumed:
        return pixels * _work(teacher) / ASSUMED_SPEED
    teacher_placed = placed(teacher, precision, device)
    image = torch.rand(160, 160, device=device).half()
    area = (160 * teacher.upsampling) ** 2
    return _median(lambda: super_resolve(teacher_placed, image, precision), device) / area * pixels


def _work(model: Network) -> float:
    """Multiply-accumulates for a pixel of the output."""
    return multiply_accumulates(model, 240, 240) / 240**2


def _median(work: Callable[[], object], device: torch.device, seconds: float = 1.5) -> float:
    """Seconds of a piece of work: the median of as many as fit into the time, at least three, after one to warm up."""
    times: list[float] = []
    work()
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _refuse_what_does_not_fit(plan: Plan, device: torch.device, workers: int) -> None:
    """Compare a node like this one with so many workers on it."""
    worker = max(trial.memory for trial in plan.trials)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    needed = workers * (worker + plan.store_memory)
    problems = []
    if needed > there:
        problems.append(
            f"{workers} workers and their store actors need {needed / 2**30:.1f} GiB of memory, this machine has "
            f"{there / 2**30:.1f}: more workers on more machines share the corpus, fewer downsizes make it smaller"
        )
    if device.type == "cuda":
        bank, has = (
            int(_bank(plan.trials[0].config) * plan.pixels / plan.workers),
            torch.cuda.get_device_properties(device).total_memory,
        )
        needed = bank + torch.cuda.max_memory_allocated(device)
        if needed > has:
            problems.append(
                f"a worker needs {needed / 2**30:.1f} GiB of GPU memory, this GPU has {has / 2**30:.1f}: more workers "
                f"share the corpus, a smaller --batch takes less"
            )
    if problems:
        raise ConfigError(problems)


def _pixels(images: Iterable[UPath]) -> int:
    return sum(height * width for height, width in map(image_size, images))


def _time(seconds: float) -> str:
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{seconds / 60:.1f} min"

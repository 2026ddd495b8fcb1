"""How fast a worker is, and how much memory it takes: measured for seconds, or assumed for a GPU that is not here."""

import multiprocessing
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Semaphore

import numpy as np
import torch

from ail_ray.errors import ConfigError
from ail_ray.files import as_path
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.pairs import Pair
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, evaluate
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.teachers import OurWeights, Teacher
from ail_ray.learning.theta import TrainState, train_epoch
from ail_ray.machine import peak_memory
from ail_ray.networks.architectures import Network
from ail_ray.networks.counts import multiply_accumulates
from ail_ray.tensors import write_tensors

ASSUMED_SPEED = 3e12  # multiply-accumulates a second of a GPU where none can be measured: an L4's bf16 at a tenth
LARGEST_MEASURED = 512 * 512  # pixels of an image that the memory of an error pass is measured on
STEPS = 5  # of training, timed at once
COMPANY = 60.0  # seconds in which a process beside the measured one must have begun to train


@dataclass(frozen=True, kw_only=True)
class Speed:
    """How many seconds one worker takes for one student, and how much memory."""

    step: float  # a step on this worker's share of the batch
    error_pass: float  # a pixel, in the run's precision
    evaluation: float  # a pixel, in fp32, with PSNR and SSIM
    memory: int  # bytes of the process at most, without bank and store
    measured: bool
    gpu: str = ""  # the name of the GPU that it was measured on

    @property
    def origin(self) -> str:
        here = f"measured here, on one {self.gpu}" if self.gpu else "measured here"
        return here if self.measured else f"assumed at {ASSUMED_SPEED / 1e12:g} T multiply-accumulates/s"


@contextmanager
def company(others: int, config: RunConfig, precision: Precision) -> Iterator[None]:
    """Let so many processes train beside this block, since workers of a machine share cores, caches and memory."""
    context = multiprocessing.get_context("spawn")
    training = context.Semaphore(0)
    arguments = (config, precision, torch.get_num_threads(), training)
    processes: list[SpawnProcess] = []
    try:
        for _ in range(others):
            process = context.Process(target=_keep_training, args=arguments, daemon=True)
            with _deaf():
                process.start()
            processes.append(process)
        deadline = time.monotonic() + COMPANY
        began = [training.acquire(timeout=max(0.0, deadline - time.monotonic())) for _ in processes]
        if not all(began):
            died = any(not process.is_alive() for process in processes)
            why = "has this machine memory for so many?" if died else "is this machine busy with other work?"
            raise ConfigError([
                f"only {sum(began)} of {others} processes could train beside the one that is measured, as they would "
                f"in the sweep: {why}"
            ])  # fmt: skip
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


@contextmanager
def _deaf() -> Iterator[None]:
    """Let processes that start in this block ignore Ctrl-C, which a terminal sends to all; this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _keep_training(config: RunConfig, precision: Precision, threads: int, training: Semaphore) -> None:
    """Train until the process that asked for it is gone."""
    torch.set_num_threads(threads)
    try:
        train, _, _ = _training(config, int(LARGEST_MEASURED**0.5), precision, torch.device("cpu"))
        train()
    except (MemoryError, RuntimeError):  # torch's own; that it ended is all that is to be known
        raise SystemExit(1) from None
    training.release()
    asked = multiprocessing.parent_process()
    while asked and asked.is_alive():
        train()


def measured_speed(
    config: RunConfig, workers: int, precision: Precision, device: torch.device, largest: int, share: float
) -> Speed:
    """Measure times and memory of the run's own functions on random pixels, for some seconds each.

    Args:
        share: what share of the speed measured here a worker will have.
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
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
    )  # fmt: skip


def _training(
    config: RunConfig, side: int, precision: Precision, device: torch.device
) -> tuple[Callable[[], None], Network, Shard]:
    """A function that does some steps on a shard of one square image, the student that it trains, and the shard."""
    student = placed(config.student(), precision, device)
    side = side // student.traits.upsampling * student.traits.upsampling
    hr, geometry = np.random.default_rng(0).integers(0, 256, side**2, np.uint8), np.array([side], np.int64)
    inputs = (hr / 255).astype(np.float16)
    small = inputs[: (side // student.traits.upsampling) ** 2]
    tensors = {"hr": hr, "inputs": inputs, "small": small, "heights": geometry, "widths": geometry}
    with tempfile.TemporaryDirectory() as folder:
        path = as_path(folder) / "shard.safetensors"
        write_tensors(path, tensors | {"scales": np.array(config.scales[:1])})
        shard = Shard(path, device, student.traits.upsampling)
    bank = Bank({0: shard}, total_shards=1, crop=config.crop, seed=0)
    bank.weigh(0, np.full(shard.pixels, 0.5, np.float16))
    if config.beta > 0:
        bank.teach(0, np.full(shard.pixels, 0.5, np.float16))
    state, group = TrainState(student, config), Group()

    def train() -> None:
        train_epoch(state, bank, round=0, epoch=0, crops=STEPS * config.batch, group=group, precision=precision)

    return train, student, shard


def assumed_speed(config: RunConfig, workers: int) -> Speed:
    """Compute times from multiply-accumulates; a step has three times as many as a forward pass."""
    pixel = _work(config.student()) / ASSUMED_SPEED
    return Speed(
        step=3 * pixel * config.crop**2 * config.batch / workers, error_pass=pixel, evaluation=4 * pixel,
        memory=peak_memory(), measured=False,
    )  # fmt: skip


def teacher_seconds(
    teacher: Teacher, pair: Pair, pixels: int, precision: Precision, device: torch.device, assumed: bool
) -> float:
    """How many seconds a teacher takes for so many pixels; measured on one pair."""
    if assumed and isinstance(teacher, OurWeights):
        return pixels * _work(teacher.model()) / ASSUMED_SPEED
    luma, sides = teacher.ready(precision, device), pair.sides()
    return _median(lambda: luma(sides), device) / sides.hr.size * pixels


def _work(model: Network) -> float:
    """Multiply-accumulates of a network for one pixel of the output."""
    return multiply_accumulates(model, 240, 240) / 240**2


def _median(work: Callable[[], object], device: torch.device, seconds: float = 1.5) -> float:
    """How many seconds a piece of work takes: the median of at least three, or as many as fit, after one to warm up."""
    times: list[float] = []
    work()
    while len(times) < 3 or sum(times) < seconds:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - started)
    return float(np.median(times))

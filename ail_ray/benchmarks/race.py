"""PSNR at equal wall time: importance learning as we do it and as the released code does, in turns on one machine.

Both train the same student from the same weights on the same crops by the same rule and schedule. Ours pays for the
teacher once, for the student of the round before once a round; the other pays for both on every step.
"""

import copy
import math
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ail_ray.benchmarks.released import released_step
from ail_ray.files import as_path
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, evaluate
from ail_ray.learning.precision import fastest, placed
from ail_ray.learning.presets import mini
from ail_ray.learning.rules import first_importance, next_importance
from ail_ray.learning.teachers import find_our_weights
from ail_ray.learning.theta import TrainState, learning_rate, schedule_progress, train_epoch
from ail_ray.machine import cores
from ail_ray.networks.architectures import Network
from ail_ray.runs.preparation import build_data, plan_data

CPU = torch.device("cpu")
Result = dict[str, Any]
"""Plain data: `title`, `bicubic` (PSNR in dB), and `points`. These are, for each way and at the end of every turn, the
`minutes` of training so far, the `round`, and the `psnr` on the first test set in dB.
"""


class Racer(ABC):
    """One of the two racers: a student, and work on it that pauses whenever a turn is over."""

    def __init__(self, config: RunConfig, bank: Bank, teacher: Network, crops: int) -> None:
        """
        Args:
            crops: how many crops an epoch has.
        """
        torch.manual_seed(config.seed)
        self.config, self.bank, self.teacher, self.crops = config, bank, teacher, crops
        self.student, self.round, self.seconds, self._until = config.student(), 0, 0.0, 0.0
        self._work = self.work()

    def turn(self, until: float) -> None:
        """Work until so many seconds of work are done, those of the turns before included."""
        if self.seconds < until:
            started = time.perf_counter()
            self._until = started + until - self.seconds
            next(self._work)
            self.seconds += time.perf_counter() - started

    def over(self) -> bool:
        """Whether this turn is over."""
        return time.perf_counter() >= self._until

    @abstractmethod
    def work(self) -> Iterator[None]:
        """Train round after round without an end, and pause where a turn is over."""


class Ours(Racer):
    """Our way: importance from the bank, the fastest precision, and `train_epoch`; it pauses behind an epoch."""

    def work(self) -> Iterator[None]:
        c, bank, precision = self.config, self.bank, fastest(CPU)
        self.student, teacher = (placed(model, precision, CPU) for model in (self.student, self.teacher))
        first, importance, state = {}, {}, TrainState(self.student, c)
        for s, shard in bank.shards.items():
            first[s] = importance[s] = first_importance(
                error_map(teacher, shard, precision), mu0=c.known_mu0, alpha0=c.alpha0
            )
            bank.weigh(s, first[s])
            if self.over():
                yield
        for self.round in count():
            state.restart()
            for s, shard in bank.shards.items() if self.round else ():
                error = error_map(self.student, shard, precision)
                importance[s] = next_importance(
                    c.rule, importance[s], error, lam=c.lam, round=self.round, first=first[s]
                )
                bank.weigh(s, importance[s])
                if self.over():
                    yield
            for epoch in range(c.epochs):
                train_epoch(
                    state, bank, round=self.round, epoch=epoch, crops=self.crops, group=Group(), precision=precision
                )
                if self.over():
                    yield


class Released(Racer):
    """The released way: float32, with teacher and previous student on every step."""

    def work(self) -> Iterator[None]:
        c, steps = self.config, math.ceil(self.crops / self.config.batch)
        previous = None
        for self.round in count():
            optimizer = TrainState(self.student, c).optimizer
            for epoch in range(c.epochs):
                for step in range(steps):
                    crops = self.bank.crops(round=self.round, epoch=epoch, step=step, batch=c.batch)
                    for options in optimizer.param_groups:
                        options["lr"] = learning_rate(c, schedule_progress(c, self.round, epoch + step / steps))
                    released_step(self.student, optimizer, self.teacher, previous, crops, self.round, c)
                    if self.over():
                        yield
            previous = copy.deepcopy(self.student)


def race(
    minutes: float,
    *,
    say: Callable[[str], None],
    config: RunConfig | None = None,
    marks: int = 40,
    picture: str = "race.png",
) -> Result:
    """Train both for so long, in turns, measure the students after every turn with the clock stopped, and draw curves.

    Args:
        config: by default `mini` with --init he and the rule `reference`, on the 291 images less ten.
        marks: how many turns each has.
        picture: PNG file for the curves.

    Raises:
        ConfigError: images or teacher are not there.
    """
    config = config or mini().run(init="he", rule="reference", teacher="vdsr", seed=0)
    found = find_our_weights(config.teacher, config.scales)
    if found is None:
        raise ValueError(f"a race needs a teacher with weights, got {config.teacher}")
    with tempfile.TemporaryDirectory() as folder:
        prepared = plan_data(config, as_path(folder))
        build_data(prepared, say=say)
        shards = {s: Shard(path) for s, path in enumerate(prepared.data.shard_paths)}
        images = EvaluationImages.load(prepared.test[0].path)
    crops, threads = prepared.data.crops_per_epoch(config), torch.get_num_threads()
    racers = {}
    for name, kind in (("ours", Ours), ("the released way", Released)):
        bank = Bank(shards, total_shards=len(shards), crop=config.crop, seed=config.seed)
        if kind is Released:  # it reads no importance, but a bank's crops carry some
            for s in shards:
                bank.weigh(s, np.zeros(shards[s].pixels, np.float16))
        racers[name] = kind(config, bank, found.model().eval(), crops)
    points: dict[str, list[dict[str, float]]] = {name: [] for name in racers}
    torch.set_num_threads(cores())
    try:
        for mark in range(marks):
            until = 60 * minutes * (mark + 1) / marks
            for name, racer in racers.items():
                racer.turn(until)
                until = racer.seconds  # ours, whose epochs end when they end, goes first; the other works as long
                psnr = evaluate(racer.student, images).psnr
                points[name].append({"minutes": racer.seconds / 60, "round": racer.round, "psnr": psnr})
                say(f"{racer.seconds / 60:6.1f} min  {name:16} round {racer.round:2}  {images.set} {psnr:.2f} dB")
    finally:
        torch.set_num_threads(threads)
    title = f"{config.network}-f{config.student_width}, {images.set} ×{images.scale}, {config.rule} rule"
    result = {"title": title, "bicubic": evaluate(None, images).psnr, "points": points}
    race_figure(result).savefig(picture, dpi=100)
    return result


def race_figure(result: Result) -> Figure:
    """Draw PSNR against minutes of training, a curve for each way, from a little below bicubic interpolation."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, curve in result["points"].items():
        axes.plot([p["minutes"] for p in curve], [p["psnr"] for p in curve], marker=".", label=name)
    axes.axhline(result["bicubic"], color="grey", linestyle=":", label="bicubic")
    axes.set(xlabel="minutes of training, teacher and importance included", ylabel="PSNR, dB", title=result["title"])
    axes.set_ylim(bottom=result["bicubic"] - 0.5)
    axes.legend()
    return figure

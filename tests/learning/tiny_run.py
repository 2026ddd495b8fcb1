"""Algorithm 1 in one process, seconds long: an importance store and a journal without files, a tiny configuration."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning.algorithm import Run
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.importance import random_importance
from ail_ray.learning.records import EpochLog, Measured
from ail_ray.learning.rules import first_importance, next_importance
from ail_ray.learning.theta import TrainState
from ail_ray.networks.architectures import VDSR

TINY = RunConfig(
    train=("tiny",), validation=(), test=(), downsizes=(1.0,), width=4, depth=3, rounds=2, epochs=2, crops=12,
    crop=12, batch=4, shards=2, optimizer="adam", learning_rate=3e-3, schedule="cosine", precision="fp32",
    teacher="tiny", mu0=0.05, alpha0=20.0,
)  # fmt: skip


class MemoryImportance:
    """W of every round and shard in a dictionary; `calls` says what was asked, in order."""

    def __init__(self, config: RunConfig, shards: dict[int, Shard], calls: list[tuple[Any, ...]] | None = None) -> None:
        self.config, self.calls = config, [] if calls is None else calls
        self.errors: dict[tuple[int, int], np.ndarray] = {}
        self.shards, self.held = shards, dict[tuple[int, int], np.ndarray]()

    def initialise(self, shard: int, pixels: int) -> None:
        assert pixels == self.shards[shard].pixels
        self.held.setdefault((0, shard), self._first(shard, self.shards[shard]))

    def update(self, round: int, shard: int, error: np.ndarray) -> None:
        self.calls.append(("update", round, shard))
        if (round, shard) in self.held:
            np.testing.assert_array_equal(error, self.errors[round, shard])  # the promise of a repeated update
            return
        c, self.errors[round, shard] = self.config, error.copy()
        previous = self.held[round - 1, shard]
        self.held[round, shard] = next_importance(
            c.rule, previous, error, lam=c.lam, unit=c.error_unit, factor=c.error_factor,
            round=round, mu0=c.mu0, first=self.held[0, shard], arguments=c.of("rule"), loss=c.loss,
            loss_arguments=c.of("loss"), seed=c.seed, shard=shard,
        )  # fmt: skip

    def read(self, round: int, shard: int) -> np.ndarray:
        self.calls.append(("read", round, shard))
        return self.held[round, shard]

    def _first(self, s: int, shard: Shard) -> np.ndarray:
        if self.config.initialisation == "random":
            return random_importance(self.config.seed, s, shard.pixels)
        if self.config.initialisation in ("teacher", "rule"):  # a teacher that is no better than bicubic
            error = (shard.hr.float() / 255 - shard.inputs.float()).abs().half().numpy()
            return first_importance(
                error, mu0=self.config.mu0, alpha0=self.config.alpha0, rule=self.config.rule,
                arguments=self.config.of("rule"), seed=self.config.seed, shard=s,
            )  # fmt: skip
        return np.full(shard.pixels, float(self.config.initialisation == "ones"), np.float16)


class StoppedError(Exception):
    """The process is gone."""


@dataclass
class MemoryJournal:
    """What was committed, as copies; after `stop_after` commits the process is gone."""

    calls: list[tuple[Any, ...]] = field(default_factory=list)
    stop_after: int | None = None
    arrays: dict[str, np.ndarray] | None = None
    place: tuple[int, int] = (0, 0)
    logs: list[EpochLog] = field(default_factory=list)
    records: list[Measured] = field(default_factory=list)
    seconds: list[dict[str, float]] = field(default_factory=list)
    students: list[dict[str, np.ndarray]] = field(default_factory=list)
    deaths: list[list[str]] = field(default_factory=list)

    def resume(self, state: TrainState) -> tuple[int, int]:
        if self.arrays is not None:
            state.load(self.arrays)
        return self.place

    def attempts(self) -> int:
        return len(self.deaths)

    def commit_death(self, round: int, epoch: int, silent: list[str]) -> None:
        self.deaths.append(silent)
        self.logs = [log for log in self.logs if log.round < round]
        self.arrays, self.place = (self.arrays if round else None), (round, 0)
        self._committed(("death", round, epoch))

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        self.logs.append(log)
        self._commit(("epoch", log.round, log.epoch), state, (log.round, log.epoch + 1))

    def commit_round(self, measured: Measured, seconds: dict[str, float], state: TrainState) -> None:
        self.records.append(measured)
        self.seconds.append(seconds)
        self.students.append(student_arrays(state))
        self._commit(("round", measured.round), state, (measured.round + 1, 0))

    def _commit(self, call: tuple[Any, ...], state: TrainState, place: tuple[int, int]) -> None:
        self.arrays = {name: array.copy() for name, array in state.tensors().items()}
        self.place = place
        self._committed(call)

    def _committed(self, call: tuple[Any, ...]) -> None:
        self.calls.append(call)
        if self.stop_after is not None:
            self.stop_after -= 1
            if self.stop_after == 0:
                self.stop_after = None
                raise StoppedError


def student_arrays(state: TrainState) -> dict[str, np.ndarray]:
    return {name: array.copy() for name, array in state.tensors().items() if name.startswith("student.")}


def fresh_state(config: RunConfig) -> TrainState:
    torch.manual_seed(config.seed)
    student = VDSR(config.student_width, config.student_depth)
    return TrainState(student.double() if config.precision == "fp64" else student, config)


def tiny_run(
    shards: dict[int, Shard],
    config: RunConfig = TINY,
    *,
    importance: MemoryImportance | None = None,
    journal: MemoryJournal | None = None,
    validation: tuple[EvaluationImages, ...] = (),
) -> Run:
    """A run of one process; a new importance and journal if none are given."""
    calls: list[tuple[Any, ...]] = []
    return Run(
        config=config, state=fresh_state(config), importance=importance or MemoryImportance(config, shards, calls),
        bank=Bank(shards, total_shards=len(shards), crop=config.crop, seed=config.seed),
        journal=journal or MemoryJournal(calls), validation=validation, test=(), crops=config.crops or 12,
        precision="fp64" if config.precision == "fp64" else "fp32", group=Group(),
    )  # fmt: skip


def tiny(**changed: Any) -> RunConfig:
    return replace(TINY, **changed)

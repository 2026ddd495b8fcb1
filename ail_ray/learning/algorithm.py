"""Algorithm 1: adaptive importance learning, over a bank of pixels, an importance store and a process group.

The same lines run in one process and on every worker of a cluster; who holds which shard is the caller's affair.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from ail_ray.files import FileError
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.importance import HISTOGRAM_BINS, histogram, spread
from ail_ray.learning.inference import error_map, evaluate_all
from ail_ray.learning.precision import Precision
from ail_ray.learning.records import EpochLog, Measured
from ail_ray.learning.theta import TrainState, silent_layers, train_epoch

DRAWS = 10
"""How often a student is drawn again; if the last one dies too, it is kept and said to be dead."""


class Importance(Protocol):
    """The importance W of every shard, by round."""

    def initialise(self, shard: int, pixels: int) -> None:
        """Make `W_0` of a shard, unless it is there."""

    def update(self, round: int, shard: int, error: np.ndarray) -> None:
        """Solve the W-subproblem of a shard from `|y - s|`, (pixels,) float16. Called again, it does nothing."""

    def read(self, round: int, shard: int) -> np.ndarray:
        """The importance of a shard in a round: (pixels,) float16, read-only."""


class Journal(Protocol):
    """The run's memory: what is committed is never done again."""

    def resume(self, state: TrainState) -> tuple[int, int]:
        """Bring the state to the last commit; return the round that is to be done, and how many of its epochs are."""

    def attempts(self) -> int:
        """How many students have died in their first training so far."""

    def commit_death(self, round: int, epoch: int, silent: list[str]) -> None:
        """Remember that the student died in an epoch of its first training, and forget the epochs of that round."""

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        """Remember an epoch."""

    def commit_round(self, measured: Measured, seconds: dict[str, float], state: TrainState) -> None:
        """Remember a round, and how many seconds its parts took, on every worker before any goes on."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """All that Algorithm 1 works on, as one worker sees it."""

    config: RunConfig
    state: TrainState
    bank: Bank
    importance: Importance
    journal: Journal
    validation: Sequence[EvaluationImages]
    test: Sequence[EvaluationImages]
    crops: int  # per epoch, over all workers
    precision: Precision
    group: Group


def adaptive_importance_learning(run: Run) -> None:
    """Rounds 0..T: solve for W, then for θ; each round measured and committed before the next begins."""
    for shard, pixels in run.bank.shards.items():
        run.importance.initialise(shard, pixels.pixels)
    first, epochs_done = run.journal.resume(run.state)
    for t in range(first, run.config.rounds + 1):
        seconds = dict[str, float]()
        if t > 0 and not epochs_done:
            with timed(seconds, "importance"):
                w_subproblem(run, t)
            if run.config.restart == "round":
                run.state.restart()
        weigh(run, t)
        with timed(seconds, "theta"):
            theta_subproblem(run, t, epochs_done)
        with timed(seconds, "evaluation"):
            measured = measure(run, t)
        run.journal.commit_round(measured, seconds, run.state)
        epochs_done = 0


def w_subproblem(run: Run, t: int) -> None:
    """Raise the importance of every pixel by the error of the student of the round before (Eq. 7).

    That student is committed, so a restart repeats exactly these updates.
    """
    for shard, pixels in run.bank.shards.items():
        if run.config.error_passes:
            settled = None
            if run.config.settles:
                with suppress(FileError):  # pruned or damaged, in a run that is taken up where W_t is there already
                    settled = run.importance.read(t - 1, shard)
            error = error_map(run.state.student, pixels, run.precision, settled)
        else:
            error = np.zeros(pixels.pixels, np.float16)
        run.importance.update(t, shard, error)


def weigh(run: Run, t: int) -> None:
    """Let the bank's crops carry `W_t`."""
    for shard in run.bank.shards:
        run.bank.weigh(shard, run.importance.read(t, shard))


def theta_subproblem(run: Run, t: int, epochs_done: int = 0) -> None:
    """Train the student under the weighted loss (Eq. 4), and commit each epoch.

    With all importance zero there is nothing to learn, and not even weight decay touches the student. One that dies in
    the first round that trains is drawn again, where the configuration allows that, and the round begins anew.
    """
    if t < run.config.first_trained:
        return
    attempt = run.journal.attempts() if t == run.config.first_trained else 0
    if attempt and not epochs_done:
        run.state.begin(run.config.drawn(attempt))
    while epochs_done < run.config.epochs:
        log = train_epoch(
            run.state, run.bank, round=t, epoch=epochs_done, crops=run.crops, group=run.group, precision=run.precision
        )
        may_redraw = t == run.config.first_trained and attempt < DRAWS and run.config.redraws
        if may_redraw and (silent := dead(run, t, epochs_done)):
            run.journal.commit_death(t, epochs_done, silent)
            attempt, epochs_done = attempt + 1, 0
            run.state.begin(run.config.drawn(attempt))
            continue
        run.journal.commit_epoch(log, run.state)
        epochs_done += 1


def dead(run: Run, t: int, epoch: int) -> list[str]:
    """The layers that keep the student from ever learning again; empty as long as it can."""
    return silent_layers(run.state, run.bank, round=t, epoch=epoch, group=run.group, precision=run.precision)


def measure(run: Run, t: int) -> Measured:
    """What the round has made of the student, in float32 or the run's float64, and of the importance."""
    precision: Precision = "fp64" if run.precision == "fp64" else "fp32"
    validation, test = (
        evaluate_all(run.state.student, sets, precision=precision, group=run.group)
        for sets in (run.validation, run.test)
    )
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for shard in run.bank.shards:
        counts += histogram(run.importance.read(t, shard))
    whole = run.group.sum(torch.from_numpy(counts)).numpy()  # all workers' shards together
    return Measured(
        round=t, importance=spread(whole), dead=tuple(dead(run, t, run.config.epochs)), validation=validation, test=test
    )


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Write down how many seconds this block has taken, under the name of a part of the round."""
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started

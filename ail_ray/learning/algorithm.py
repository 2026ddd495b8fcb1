"""Algorithm 1: adaptive importance learning, over a bank of pixels, an importance store and a process group.

The same lines run in one process and on every worker of a cluster; who holds which shard is the caller's affair.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.importance import HISTOGRAM_BINS, histogram, summary
from ail_ray.learning.inference import error_map, evaluate_all
from ail_ray.learning.precision import Precision
from ail_ray.learning.theta import EpochLog, TrainState, silent_layers, train_epoch

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

    def resume(self, state: TrainState) -> tuple[int, int, int]:
        """Bring the state to the last commit; return its round, the epochs done of it, and the steps of the next."""

    def attempts(self) -> int:
        """How many students have died in their first training so far."""

    def commit_death(self, round: int, epoch: int, silent: list[str]) -> None:
        """Remember that the student died in an epoch of its first training, and forget the epochs of that round."""

    def may_leave(self, state: TrainState | None = None, *, round: int = 0, epoch: int = 0, steps: int = 0) -> None:
        """Called where the run may end if its process has been asked to; a given state is remembered before that."""

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        """Remember an epoch."""

    def commit_round(self, record: dict[str, Any], state: TrainState) -> None:
        """Remember a round, on every worker before any goes on."""


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
    first, epochs, steps = run.journal.resume(run.state)
    for t in range(first, run.config.rounds + 1):
        seconds = {}
        if t > 0 and epochs == steps == 0:
            seconds["importance"] = w_subproblem(run, t)
            if run.config.restart == "round":
                run.state.restart()
        counts = weigh(run, t)
        seconds["theta"] = theta_subproblem(run, t, epochs, steps)
        run.journal.commit_round(measure(run, t, counts, seconds), run.state)
        epochs = steps = 0


def w_subproblem(run: Run, t: int) -> float:
    """Raise the importance of every pixel by the error of the student of the round before (Eq. 7).

    Returns:
        Seconds taken. That student is committed, so a restart repeats exactly these updates.
    """
    started = time.perf_counter()
    for shard, pixels in run.bank.shards.items():
        run.journal.may_leave()
        if run.config.error_passes:
            error = error_map(run.state.student, pixels, run.precision)
        else:
            error = np.zeros(pixels.pixels, np.float16)
        run.importance.update(t, shard, error)
    return time.perf_counter() - started


def weigh(run: Run, t: int) -> np.ndarray:
    """Let the bank's crops carry `W_t`; return the histogram of the whole of it, all workers' shards together."""
    counts = np.zeros(HISTOGRAM_BINS, np.int64)
    for shard in run.bank.shards:
        importance = run.importance.read(t, shard)
        run.bank.weigh(shard, importance)
        counts += histogram(importance)
    return run.group.sum(torch.from_numpy(counts)).numpy()


def theta_subproblem(run: Run, t: int, epochs: int = 0, steps: int = 0) -> float:
    """Train the student under the weighted loss (Eq. 4), and commit each epoch; returns the seconds taken.

    `epochs` epochs, and `steps` steps of the next one, have been done already.

    With all importance zero there is nothing to learn, and not even weight decay touches the student. One that dies in
    the first round that trains is drawn again, where the configuration allows that, and the round begins anew.
    """
    started, e = time.perf_counter(), epochs
    if t < run.config.first_trained:
        return 0.0
    attempt = run.journal.attempts() if t == run.config.first_trained else 0
    if attempt and e == steps == 0:
        run.state.begin(run.config.drawn(attempt))
    while e < run.config.epochs:
        log = train_epoch(
            run.state, run.bank, round=t, epoch=e, crops=run.crops, group=run.group, precision=run.precision,
            done=steps,
            after_step=lambda done, e=e: run.journal.may_leave(run.state, round=t, epoch=e, steps=done),  # type: ignore[misc]
        )  # fmt: skip
        steps = 0
        if t == run.config.first_trained and attempt < DRAWS and run.config.redraws and (silent := dead(run, t, e)):
            run.journal.commit_death(t, e, silent)
            attempt, e = attempt + 1, 0
            run.state.begin(run.config.drawn(attempt))
            continue
        run.journal.commit_epoch(log, run.state)
        e += 1
    return time.perf_counter() - started


def dead(run: Run, t: int, epoch: int) -> list[str]:
    """The layers that keep the student from ever learning again; empty as long as it can."""
    return silent_layers(run.state, run.bank, round=t, epoch=epoch, group=run.group, precision=run.precision)


def measure(run: Run, t: int, counts: np.ndarray, seconds: dict[str, float]) -> dict[str, Any]:
    """The record of a round: importance, seconds, validation and test rows (in float32, or the run's float64), and
    the layers that keep the student from ever learning again."""
    started = time.perf_counter()
    precision: Precision = "fp64" if run.precision == "fp64" else "fp32"
    rows = {
        name: evaluate_all(run.state.student, sets, precision=precision, group=run.group)
        for name, sets in (("validation", run.validation), ("test", run.test))
    }
    seconds["evaluation"] = time.perf_counter() - started
    silent = dead(run, t, run.config.epochs)
    return {"round": t, "importance": summary(counts), "seconds": seconds, "dead": silent, **rows}

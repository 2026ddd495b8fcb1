"""What a control is, and how trials are compared with theirs: gains, intervals of means, students that none beats."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from ail_ray.learning.config import Value
from ail_ray.learning.rules import READABLE
from ail_ray.runs.trial import Trial

Reached = tuple[float, dict[str, float]]
"""What the trials of a sweep have reached together after a round: the time, seconds since 1970, and values in dB."""


CONTROL = "uniform"
"""The rule of plain training."""


def is_control(parameters: Mapping[str, object]) -> bool:
    """Whether a run is plain training: importance 1 everywhere, and no teacher whose outputs are learned."""
    return parameters["rule"] == CONTROL and parameters["teacher"] is None


def from_zeros(parameters: Mapping[str, object]) -> bool:
    """Whether round 0 trains nothing, so that there is one round of training less than in the control."""
    return parameters["teacher"] == "none"


def matched(parameters: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """What a run has in common with its control, the seed included: all values but those of its importance."""
    own = READABLE | {"rule", "rho"}  # of ρ only the width counts that it gives
    kept = (name for name in parameters if name not in own and not name.startswith("rule."))
    return tuple((name, parameters[name]) for name in sorted(kept))


def condition(parameters: Mapping[str, Value]) -> tuple[tuple[str, Value], ...]:
    """What is the same in the trials that differ in nothing but the seed."""
    return tuple((name, value) for name, value in parameters.items() if name != "seed")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over seeds, and half the width of its 95 % interval (Student's t), which is None for a single seed."""

    mean: float
    half: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Estimate":
        return cls(mean=float(np.mean(values)), half=interval(values), count=len(values))

    @property
    def low(self) -> float:
        return self.mean - (self.half or 0.0)

    @property
    def high(self) -> float:
        return self.mean + (self.half or 0.0)


def interval(values: Sequence[float]) -> float | None:
    """Half the width of the 95 % interval of the mean (Student's t); None for a single value."""
    if len(values) < 2:
        return None
    return float(stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the (cost, quality) that no other beats, by rising cost: each better than all that cost no more."""
    front: list[int] = []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[i][1] > points[front[-1]][1]:
            front.append(i)
    return front


def by_round(trials: Iterable[Trial], last: int) -> list[Reached]:
    """What a sweep has reached after each of its rounds 0 to `last`: the time, and values in dB by name.

    They are `best`, the best PSNR of a trial until then, and `gain`, what the trials of this round have more than their
    controls: the mean of the differences, absent where no trial has one.
    """
    begun = [trial for trial in trials if trial.records]
    control = {matched(trial.parameters): trial for trial in begun if is_control(trial.parameters)}
    reached = []
    for t in range(last + 1):
        best = max(record.psnr for trial in begun for record in trial.records[: t + 1])
        pairs = [
            (trial.records[t], plain.records[t])
            for trial in begun
            if (plain := control.get(matched(trial.parameters))) is not None
            and plain is not trial
            and min(len(trial.records), len(plain.records)) > t
        ]
        gains = [record.psnr - plain.psnr for record, plain in pairs]
        metrics = {"best": best} | ({"gain": sum(gains) / len(gains)} if gains else {})
        reached.append((max(trial.records[t].time for trial in begun if len(trial.records) > t), metrics))
    return reached

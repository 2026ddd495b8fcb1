"""How trials are compared: intervals of means, and the students that no other beats."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import stdtrit

Reached = tuple[float, dict[str, float]]
"""What the trials of a sweep have reached together after a round: the time, seconds since 1970, and values in dB."""


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


def by_round(trials: Sequence[tuple[dict[str, Any], Sequence[tuple[float, float]]]], last: int) -> list[Reached]:
    """What a sweep has reached after each of its rounds 0 to `last`: the time, and values in dB by name.

    They are `best`, the best PSNR of a trial until then, and `gain`, what the trials of this round have more than their
    controls: the mean of the differences to the control of the same width and seed, absent where there is no such pair.

    Args:
        trials: for each its searched values, and for each round its time (seconds since 1970) and its PSNR in dB.
    """
    control = {
        (values["width"], values["seed"]): curve
        for values, curve in trials
        if values["rule"] == "uniform" and values["teacher"] is None
    }
    reached = []
    for t in range(last + 1):
        best = max(psnr for _, curve in trials for _, psnr in curve[: t + 1])
        pairs = [
            (curve, plain)
            for values, curve in trials
            if (plain := control.get((values["width"], values["seed"]))) not in (None, curve)
            and min(len(curve), len(plain or ())) > t
        ]
        gains = [curve[t][1] - plain[t][1] for curve, plain in pairs if plain]
        metrics = {"best": best} | ({"gain": sum(gains) / len(gains)} if gains else {})
        reached.append((max(curve[t][0] for _, curve in trials if len(curve) > t), metrics))
    return reached

"""Figures of the docs, drawn by matplotlib."""

import numpy as np
from matplotlib.figure import Figure

from ail_ray.files import AnyPath
from ail_ray.learning.importance import ErrorUnit, Rule, first_importance, next_importance

ROUNDS = (0, 1, 3, 7)
PANELS: tuple[tuple[str, Rule, ErrorUnit, float], ...] = (
    ("eq7", "eq7", "squared", 1.0),
    ("exact", "exact", "squared", 1.0),
    ("reference", "reference", "squared", 1.0),
    ("eq7, d = 100 |e|", "eq7", "absolute", 100.0),
    ("exact, d = 100 |e|", "exact", "absolute", 100.0),
    ("hard-first", "hard-first", "squared", 1.0),
)


def draw_rules(path: AnyPath, *, lam: float = 0.15, mu0: float = 0.01, alpha0: float = 100.0) -> None:
    """Write a PNG of `w` against `|e|` in rounds 0, 1, 3 and 7 under each rule but `uniform`, which is 1 throughout.

    Every pixel is taken to err as it did under the teacher in all rounds: what is seen is the rule, not the learning.
    """
    error = np.linspace(0, 0.05, 501).astype(np.float16)
    figure = Figure(figsize=(10, 5.6), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True, sharey=True)
    for axis, (title, rule, unit, factor) in zip(axes.flat, PANELS, strict=True):
        first = importance = first_importance(error, mu0=mu0, alpha0=alpha0, rule=rule)
        for t in range(max(ROUNDS) + 1):
            if t > 0:
                importance = next_importance(
                    rule, importance, error, lam=lam, unit=unit, factor=factor, round=t, mu0=mu0, first=first
                )
            if t in ROUNDS:
                axis.plot(error, importance, label=f"round {t}", color=f"{0.75 - 0.75 * t / max(ROUNDS):.2f}")
        axis.set_title(title)
    axes[0, 0].legend()
    figure.supxlabel("|e|, absolute error on [0, 1] luma")
    figure.supylabel("w, importance")
    figure.savefig(str(path), dpi=100)

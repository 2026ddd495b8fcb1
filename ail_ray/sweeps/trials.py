"""Which trials a sweep has: those of a grid or of a random search; Optuna proposes its own."""

from typing import Any

import numpy as np

from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig, identity
from ail_ray.sweeps.controls import CONTROL


def proposals(sweep: SweepConfig) -> list[RunConfig]:
    """Every trial of a grid, or those of `samples` random draws, seeded by the first seed.

    Where `uniform` is among the rules, every draw of another has its control beside it. Draws that come to the same run
    are one trial.
    """
    if sweep.search == "grid":
        return list(sweep.grid())
    generator = np.random.Generator(np.random.Philox(sweep.base.seed))
    rules = sweep.axes.get("rule", (sweep.base.rule,))
    drawn = dict(sweep.axes) | ({"rule": tuple(r for r in rules if r != CONTROL)} if "rule" in sweep.axes else {})
    distinct: dict[str, RunConfig] = {}
    for _ in range(sweep.samples):
        values = {name: _drawn(generator, name, options) for name, options in drawn.items()}
        for more in ({}, {"rule": CONTROL}) if CONTROL in rules else ({},):
            run = sweep.run(values | more)
            distinct.setdefault(identity(run), run)
    return list(distinct.values())


def is_range(name: str, options: tuple[Any, ...]) -> bool:
    """Whether random search and Optuna draw between the values given, instead of choosing one of them."""
    return len(options) > 1 and (name == "width" or all(isinstance(option, float) for option in options))


def _drawn(generator: np.random.Generator, name: str, options: tuple[Any, ...]) -> Any:
    if not is_range(name, options):
        return options[int(generator.integers(len(options)))]
    if name == "width":
        return int(generator.integers(min(options), max(options) + 1))
    return float(generator.uniform(min(options), max(options)))

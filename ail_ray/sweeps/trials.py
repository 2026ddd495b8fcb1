"""What a sweep searches over: the trials of a grid or of a random search, and the space for Optuna."""

from typing import Any

import numpy as np

from ail_ray.learning.config import SweepConfig, identity


def proposals(config: SweepConfig) -> list[dict[str, Any]]:
    """The searched values of every trial of a grid, or of `samples` random draws, seeded by the first seed.

    Where `uniform` is among the rules, every draw of another has its control beside it. Draws that come to the same run
    are one trial.
    """
    if config.search == "grid":
        return [{name: getattr(run, name) for name in axes(config)} for run in config.grid()]
    generator = np.random.Generator(np.random.Philox(config.seed[0]))
    distinct: dict[tuple[Any, ...], dict[str, Any]] = {}
    drawn = axes(config) | {"rule": tuple(rule for rule in config.rule if rule != "uniform") or config.rule}
    for _ in range(config.samples):
        values = {name: _drawn(generator, name, options) for name, options in drawn.items()}
        control = values | {"rule": "uniform"}
        for each in (values, control) if "uniform" in config.rule else (values,):
            distinct.setdefault(identity(config.run(**each)), each)
    return list(distinct.values())


def axes(config: SweepConfig) -> dict[str, tuple[Any, ...]]:
    """The names of the values that are searched over, and what was given for each."""
    size = "width" if config.width else "rho"
    return {name: getattr(config, name) for name in (size, "lam", "teacher", "rule", "seed")}


def is_range(name: str, options: tuple[Any, ...]) -> bool:
    """Whether random search and Optuna draw between the values given, instead of choosing one of them."""
    return name in ("rho", "width", "lam") and len(options) > 1


def _drawn(generator: np.random.Generator, name: str, options: tuple[Any, ...]) -> Any:
    if not is_range(name, options):
        return options[int(generator.integers(len(options)))]
    if name == "width":
        return int(generator.integers(min(options), max(options) + 1))
    return float(generator.uniform(min(options), max(options)))

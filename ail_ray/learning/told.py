"""What people compare runs by, and what only the code of a run tells of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import torch

from ail_ray.learning.config import RunConfig, Value
from ail_ray.learning.losses import loss_function
from ail_ray.learning.rules import READABLE, recipe_of, rule_function
from ail_ray.networks.code import Code, parameters_of
from ail_ray.networks.counts import multiply_accumulates, parameter_count

PARAMETERS = ("rho", "width", "lam", "teacher", "rule", "seed")
"""The fields that runs are compared by, whatever else a sweep varies."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What only the code of network and rule tells of a run; the manifest keeps it for those who have no such code."""

    width: int | None
    depth: int | None
    weights: int
    multiply_accumulates: int  # for an output of 256×256 pixels
    reads: tuple[str, ...]  # of `READABLE`
    needs_first: bool
    usual: tuple[str, ...] = ()  # parameters of rule and loss that have their defaults


@cache
def told(config: RunConfig) -> Told:
    """What the code of a run tells of it; ValueError where it is not here."""
    with torch.random.fork_rng(devices=[]):
        student = config.student()
    return Told(
        width=config.student_width, depth=config.student_depth, weights=parameter_count(student),
        multiply_accumulates=multiply_accumulates(student), reads=tuple(sorted(config.reads)),
        needs_first=recipe_of(config.rule).needs_first, usual=_usual(config),
    )  # fmt: skip


def _usual(config: RunConfig) -> tuple[str, ...]:
    if not config.arguments:
        return ()
    defaults = {
        f"{kind}.{name}": value
        for kind, function in (("rule", rule_function(config.rule)), ("loss", loss_function(config.loss)))
        for name, value in parameters_of(function).items()
    }
    return tuple(name for name, value in config.arguments if defaults.get(name) == value)


def parameters(config: RunConfig, also: Iterable[str] = (), known: Told | None = None) -> dict[str, Value]:
    """The values of a run that people compare; what it does not read is None.

    Args:
        also: further fields by name, such as what a sweep varies, and parameters such as `rule.gamma`.
        known: what its code tells, where it is known already.
    """
    width, reads = (known.width, set(known.reads)) if known else (config.student_width, config.reads)
    own = dict(config.arguments)
    names = dict.fromkeys((*PARAMETERS, *also, *(["loss"] if config.loss != "squared" else []), *own))
    values = {name: own.get(name) if "." in name else getattr(config, name) for name in names}
    values |= {"width": width} | ({"rho": None} if config.width is not None or width is None else {})
    values |= dict.fromkeys((READABLE - reads) & values.keys())
    values = {name: str(value) if isinstance(value, Code) else value for name, value in values.items()}
    return {name: " ".join(map(str, value)) if isinstance(value, tuple) else value for name, value in values.items()}

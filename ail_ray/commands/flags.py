"""The flags of a sweep, made from the dataclasses that it is made of; a field of a run may be given several values."""

from collections.abc import Sequence
from dataclasses import fields, make_dataclass
from types import NoneType
from typing import Annotated, Any, get_args, get_origin

import tyro

from ail_ray.commands.help_page import texts
from ail_ray.commands.parsing import names_in, values_of
from ail_ray.errors import ConfigError
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import NAMES, SweepConfig
from ail_ray.networks.code import parameters_of, resolve
from ail_ray.networks.notebooks import CodeError
from ail_ray.runs.placement import Placement
from ail_ray.sweeps.sweep_job import SweepJob

RUN = tuple(each for each in fields(RunConfig) if each.name != "arguments")
OWN = tuple(each for each in fields(SweepConfig) if each.name not in ("single", "axes", "given"))
WHERE = tuple(each for each in fields(SweepJob) if each.name not in ("sweep", "placement"))


def _several(kind: Any) -> Any:
    """The type of one or more values of a field of a run; a field that is a tuple keeps its type."""
    if get_origin(kind) is tuple:
        return kind
    without_none = [part for part in get_args(kind) if part is not NoneType] if NoneType in get_args(kind) else [kind]
    several = tuple[without_none[0], ...]  # type: ignore[valid-type]
    return several | None if NoneType in get_args(kind) else several


def flags_for(arguments: Sequence[str]) -> Any:
    """The dataclass of the flags that a command may have: those of every sweep, and the parameters of its own code.

    Args:
        arguments: the command's words, which name rules and losses and say what is given.
    """
    own = dict[str, Any]()
    for kind in ("rule", "loss"):
        for each in values_of(f"--{kind}", arguments):
            for name, default in _parameters(kind, each).items():
                full = f"{kind}.{name}"
                own[full] = _common(full, own.get(full, default), default)
    return make_dataclass(
        "Flags",
        [
            *((each.name, _several(each.type)) for each in RUN),
            *((_field(name), _parameter(name, default)) for name, default in own.items()),
            *((each.name, each.type) for each in OWN),
            ("placement", Placement),
            *((each.name, each.type) for each in WHERE),
        ],
        frozen=True, kw_only=True,
        namespace={
            "__post_init__": lambda self: job_of(self),  # refuses what a sweep refuses
            "texts": texts(RunConfig) | texts(SweepConfig) | texts(SweepJob) | {
                _field(name): f"Parameter of the {name.partition('.')[0]}." for name in own
            },
            "given": frozenset(names_in(arguments)),
            "own": own,
        },
    )  # fmt: skip


def _parameters(kind: str, name: str) -> dict[str, Any]:
    try:
        return parameters_of(NAMES[kind](resolve(name, kind)))
    except (ConfigError, CodeError, ValueError):  # the sweep says so
        return {}


def _common(name: str, one: Any, other: Any) -> Any:
    """A default of the type that a flag has for two rules, or losses, which have a parameter of this name."""
    kinds = {type(one), type(other)}
    if len(kinds) == 1:
        return one
    if kinds == {int, float}:
        return float(one)
    said = " and of type ".join(sorted(kind.__name__ for kind in kinds))
    raise ConfigError([f"{name}: is of type {said}; sweep over them apart"])


def _field(name: str) -> str:
    """`rule.gamma` as the name of a field of a dataclass."""
    return name.replace(".", "__")


def _parameter(name: str, default: Any) -> Any:
    return Annotated[tuple[type(default), ...] | None, tyro.conf.arg(name=name)]  # type: ignore[misc]


def flags_of(kind: Any, job: SweepJob, *, shown: bool = False) -> Any:
    """The flags, of the dataclass that `flags_for` has made, that ask for a sweep.

    Args:
        shown: whether parameters have their defaults, as a help page shows them, or are not given.
    """
    values = {}
    for each in RUN:
        value = job.sweep.values[each.name]
        whole = get_origin(each.type) is tuple or each.name in job.sweep.axes or value is None
        values[each.name] = value if whole else (value,)
    values |= {_field(name): (default,) if shown else None for name, default in kind.own.items()}
    values |= {each.name: getattr(job.sweep, each.name) for each in OWN}
    return kind(**values, placement=job.placement, **{each.name: getattr(job, each.name) for each in WHERE})


def job_of(flags: Any) -> SweepJob:
    """The sweep that flags ask for; ConfigError with everything that is wrong with it."""
    asked = {each.name: getattr(flags, each.name) for each in (*RUN, *OWN)}
    own = {name: value for name in flags.own if (value := getattr(flags, _field(name))) is not None}
    asked |= own
    if empty := [name for name, values in own.items() if not values]:
        raise ConfigError([f"{name}: a value is missing" for name in empty])
    where = {each.name: getattr(flags, each.name) for each in WHERE}
    return SweepJob(sweep=SweepConfig.of(given=flags.given, **asked), placement=flags.placement, **where)

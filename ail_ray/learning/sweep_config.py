"""The configuration of a sweep: a run's configuration, and several values for some of its fields."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

from ail_ray.errors import ConfigError
from ail_ray.files import digest_of
from ail_ray.learning.config import OFF, PARAMETERS, Plain, RunConfig


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search: the configuration of a run, and several values for some of its fields; see `SweepConfig.of`."""

    base: RunConfig = field(default_factory=RunConfig)  # has the first value of every axis
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # in the order of the fields
    search: Literal["grid", "random", "optuna"] = "grid"
    """`grid` trains every combination of values; `random` and `optuna` draw some, with rho, width and lam as ranges."""
    samples: int = 8
    """Number of draws. If `uniform` is a rule, `random` trains it in addition, for every width and seed drawn."""
    asha: bool = False
    """Stop trials that are behind others after the same number of rounds (asynchronous successive halving)."""

    def __post_init__(self) -> None:
        found = [] if self.samples >= 1 else [f"samples must be at least 1, got {self.samples}"]
        for name, asked in (("asha", self.asha), ("search optuna", self.search == "optuna")):
            if asked and not self.base.validation:
                found.append(f"{name} compares trials on validation images: name a set with --validation")
        if found:
            raise ConfigError(found)

    @classmethod
    def of(cls, **values: Any) -> "SweepConfig":
        """A sweep by the fields of `RunConfig`, any of which may be given several values, and by its own fields.

        A field with a list or a tuple for its value has several; one that is a tuple itself, such as `scales`, has
        several if it is given several tuples. For a field that may be None an empty tuple means that.

        Raises:
            ConfigError: with a line for everything that is wrong in any combination.
        """
        kinds = {each.name: each for each in fields(RunConfig)}
        own = {name: values.pop(name) for name in ("search", "samples", "asha") if name in values}
        if unknown := values.keys() - kinds.keys():
            raise TypeError(f"no such field: {', '.join(sorted(unknown))}")
        single, axes, problems = Plain(), dict[str, tuple[Any, ...]](), list[str]()
        for name in (name for name in kinds if name in values):
            given, whole = values[name], get_origin(kinds[name].type) is tuple
            several = whole and bool(given) and all(isinstance(each, tuple | list) for each in given)
            if whole and not several:
                single[name] = tuple(given)
                continue
            each = tuple(tuple(v) if whole else v for v in given) if isinstance(given, list | tuple) else (given,)
            if each:
                single[name] = each[0]
                axes |= {name: each} if len(dict.fromkeys(each)) > 1 else {}
            elif type(None) not in get_args(kinds[name].type):
                problems.append(f"{name} must have at least one value")
        base = RunConfig()
        try:
            base = RunConfig(**single)
        except ConfigError as error:
            problems += error.problems
        for combination in itertools.product(*axes.values()):
            try:
                RunConfig(**single | dict(zip(axes, combination, strict=True)))
            except ConfigError as error:
                problems += error.problems
        try:
            sweep = cls(base=base, axes=axes, **own)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return sweep

    @cached_property
    def values(self) -> Plain:
        """The sweep as `of` takes it: every field of a run with its value, or with the values of its axis."""
        return {each.name: getattr(self.base, each.name) for each in fields(RunConfig)} | dict(self.axes)

    def where(self, **values: Any) -> "SweepConfig":
        """The same sweep with other values."""
        own = {name: getattr(self, name) for name in ("search", "samples", "asha")}
        return SweepConfig.of(**{**self.values, **own, **values})

    def grid(self) -> Iterator[RunConfig]:
        """Every combination once; a run that reads no λ or no teacher, as the control, once for all of them."""
        seen = set()
        for combination in itertools.product(*self.axes.values()):
            run = self.run(dict(zip(self.axes, combination, strict=True)))
            if (key := identity(run)) not in seen:
                seen.add(key)
                yield run

    def run(self, searched: Mapping[str, Any] | None = None, **more: Any) -> RunConfig:
        """The run with these values of what is searched, and the first value of everything else."""
        return replace(self.base, **(searched or {}), **more)

    @property
    def plain(self) -> Plain:
        """The sweep as plain data: a list for each of `PARAMETERS` and for every axis, and one value for all else."""
        values = {name: value for name, value in self.values.items() if name not in OFF or value != OFF[name]}
        listed = {name: list(self.axes.get(name, [values[name]])) for name in (*PARAMETERS, *self.axes)}
        listed["width"] = [] if listed["width"] == [None] else listed["width"]
        return values | listed | {"search": self.search, "samples": self.samples, "asha": self.asha}


def identity(config: RunConfig) -> str:
    """What makes two trials of a sweep the same one: all that makes them what they are, ρ by the width it gives."""
    sets = [config.train, config.validation, config.test, config.rounds]
    return digest_of([config.content, sets])

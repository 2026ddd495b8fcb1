"""The configuration of a sweep: a run's configuration, and several values for some of its fields."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from typing import Any, Literal, get_args, get_origin

from ail_ray.errors import ConfigError
from ail_ray.files import digest_of
from ail_ray.learning.config import OFF, Plain, RunConfig
from ail_ray.learning.losses import LOSSES, loss_function, loss_traits
from ail_ray.learning.rules import RULES, rule_function
from ail_ray.learning.told import PARAMETERS
from ail_ray.networks.architectures import NETWORKS
from ail_ray.networks.building import network_class, traits_of
from ail_ray.networks.code import Code, label, parameters_of, resolve
from ail_ray.networks.notebooks import CodeError

NAMES: dict[str, Callable[[str], Any]] = {
    "network": network_class, "rule": rule_function, "loss": loss_function, "teacher": str,
}  # fmt: skip
"""The fields that may name code, and what finds it; a teacher's is looked for where its maps are planned."""
OURS: dict[str, Mapping[str, Any]] = {"network": NETWORKS, "rule": RULES, "loss": LOSSES, "teacher": {}}
FIELDS = {each.name: each for each in fields(RunConfig)}


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """A search: the configuration of a run, and several values for some of its fields; see `SweepConfig.of`.

    What is not given in a run is as its loss has it, or else its network, or else the preset.
    """

    single: Mapping[str, Any] = field(default_factory=dict)  # what has one value, as it was given or as a preset has it
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)  # in the order of the fields
    given: frozenset[str] = frozenset()  # what no loss and no network has another value for
    search: Literal["grid", "random", "optuna"] = "grid"
    """`grid` trains every combination of values; `random` and `optuna` draw some, with numbers as ranges."""
    samples: int = 8
    """Number of draws. If `uniform` is a rule, `random` trains it in addition, for every width and seed drawn."""
    asha: bool = False
    """Stop trials that are behind others after the same number of rounds (asynchronous successive halving)."""

    def __post_init__(self) -> None:
        found = [] if self.samples >= 1 else [f"samples must be at least 1, got {self.samples}"]
        validation = self.single.get("validation", RunConfig.validation)
        for name, asked in (("asha", self.asha), ("search optuna", self.search == "optuna")):
            if asked and not validation:
                found.append(f"{name} compares trials on validation images: name a set with --validation")
        if found:
            raise ConfigError(found)

    @classmethod
    def of(cls, *, given: Iterable[str] | None = None, **values: Any) -> "SweepConfig":
        """A sweep by the fields of `RunConfig`, any of which may be given several values, and by its own fields.

        A field with a list or a tuple for its value has several; one that is a tuple itself, such as `scales`, has
        several if it is given several tuples. For a field that may be None an empty tuple means that. Parameters of
        rule and loss are given as `rule.gamma`, `loss.delta`; network, rule, loss, teacher as names or as objects.

        Args:
            given: the names of those values that no loss and no network may have another default for; all if None.

        Raises:
            ConfigError: with a line for everything that is wrong in any combination.
        """
        own = {name: values.pop(name) for name in ("search", "samples", "asha") if name in values}
        if unknown := {name for name in values if name not in FIELDS and not _is_parameter(name)}:
            raise TypeError(f"no such field: {', '.join(sorted(unknown))}")
        given = frozenset(values if given is None else given)
        single, axes, problems = Plain(), dict[str, tuple[Any, ...]](), list[str]()
        for name in (*(name for name in FIELDS if name in values), *filter(_is_parameter, values)):
            value = values[name]
            kind = FIELDS[name].type if name in FIELDS else float
            whole = get_origin(kind) is tuple
            several = whole and bool(value) and all(isinstance(each, tuple | list) for each in value)
            if whole and (not several or name == "arguments"):
                single[name] = tuple(value)
                continue
            each = tuple(tuple(v) if whole else v for v in value) if isinstance(value, list | tuple) else (value,)
            if not each and type(None) not in get_args(kind):
                problems.append(f"{name} must have at least one value")
            if name in NAMES:
                each, found = _resolved(name, each)
                problems += found
            if each:
                single[name] = each[0]
                axes |= {name: each} if len(dict.fromkeys(each)) > 1 else {}
        for name in sorted({"degrade", "degrade_seed"} & axes.keys()):
            flag = name.replace("_", "-")
            problems.append(f"{flag}: students of several cannot be compared, each is measured on its own: one a sweep")
        asked = cls(single=single, axes=axes, given=given)
        problems += asked.problems()
        try:
            sweep = replace(asked, **own)
        except ConfigError as error:
            problems += error.problems
        if problems:
            raise ConfigError(list(dict.fromkeys(problems)))
        return sweep

    def problems(self) -> list[str]:
        """A line for everything that is wrong in any combination of the values."""
        found = list[str]()
        for combination in itertools.product(*self.axes.values()):
            try:
                self.run(dict(zip(self.axes, combination, strict=True)))
            except ConfigError as error:
                found += error.problems
        return found + self._unread_parameters()

    def _unread_parameters(self) -> list[str]:
        """A line for each parameter that none of the rules, or of the losses, has."""
        found = []
        for name in filter(_is_parameter, self.single):
            kind, _, own = name.partition(".")
            if not any(own in _parameters(kind, each) for each in self._all(kind)):
                said = ", ".join(str(each) for each in self._all(kind))
                found.append(f"{name}: {kind} {said} has no such parameter")
        return found

    def _all(self, name: str) -> tuple[Any, ...]:
        """The values of a field."""
        return self.axes.get(name, (self.single.get(name, getattr(RunConfig, name)),))

    @cached_property
    def base(self) -> RunConfig:
        """The run with the first value of everything."""
        return self.run()

    @cached_property
    def values(self) -> Plain:
        """The sweep as `of` takes it: every field of a run with its value, or with the values of its axis."""
        every = {name: each.default for name, each in FIELDS.items() if each.default is not MISSING}
        return every | dict(self.single) | dict(self.axes)

    def for_run(self, chosen: Mapping[str, Any]) -> "SweepConfig":
        """The same sweep, with the values that the run has which is chosen."""
        run = self.run({name: resolve(value, name) for name, value in chosen.items()})
        axes = {name: values for name, values in self.axes.items() if name not in chosen}
        return replace(self, axes=axes, single={**self.single, **{name: getattr(run, name) for name in FIELDS}})

    def first(self) -> "SweepConfig":
        """The sweep of one run, that with the first value of everything."""
        return replace(self, axes={})

    def where(self, **values: Any) -> "SweepConfig":
        """The same sweep with other values."""
        own = {name: getattr(self, name) for name in ("search", "samples", "asha")}
        return SweepConfig.of(given=self.given | values.keys(), **{**self.values, **own, **values})

    def grid(self) -> Iterator[RunConfig]:
        """Every combination once; a run that reads no λ or no teacher, as the control, once for all of them."""
        seen = set()
        for combination in itertools.product(*self.axes.values()):
            run = self.run(dict(zip(self.axes, combination, strict=True)))
            if (key := identity(run)) not in seen:
                seen.add(key)
                yield run

    def run(self, searched: Mapping[str, Any] | None = None, **more: Any) -> RunConfig:
        """The run with these values of what is searched, and the first value of everything else.

        Raises:
            ConfigError: with a line for everything that is wrong with it.
        """
        chosen = {**(searched or {}), **more}
        for kind in NAMES.keys() & chosen.keys():  # the code, where a record has brought its name only
            chosen[kind] = next((each for each in self._all(kind) if each == chosen[kind]), chosen[kind])
        values = {**self.single, **chosen}
        fixed = self.given | self.axes.keys() | chosen.keys()
        kinds = {kind: values.get(kind, getattr(RunConfig, kind)) for kind in NAMES}
        for name, value in _defaults(kinds["network"], kinds["loss"], values).items():
            if name not in fixed:
                values[name] = value
        if (values.get("degrade") or values.get("train_lr")) and "mu0" not in fixed:
            values["mu0"] = None  # that of Eq. 8 is for errors of bicubic pictures
        if isinstance(kinds["network"], Code) and "crop" not in fixed:
            with suppress(ConfigError, CodeError):  # which the run itself says
                values["crop"] = _on_grid(values)
        arguments = dict(values.pop("arguments", ()))
        for kind in ("rule", "loss"):
            own = _parameters(kind, kinds[kind])
            for name, default in own.items():
                full = f"{kind}.{name}"
                arguments[full] = _typed(full, values.get(full, default), type(default))
        values = {name: value for name, value in values.items() if not _is_parameter(name)}
        return RunConfig(**values, arguments=tuple(sorted(arguments.items())))

    @property
    def plain(self) -> Plain:
        """The sweep as plain data: a list for each of `PARAMETERS` and for every axis, and one value for all else."""
        values = {name: getattr(self.base, name) for name in FIELDS} | dict(self.axes)
        values = {name: value for name, value in values.items() if name not in OFF or value != OFF[name]}
        listed = {name: list(self.axes.get(name, [values[name]])) for name in (*PARAMETERS, *self.axes)}
        listed["width"] = [] if listed["width"] == [None] else listed["width"]
        for name in NAMES:
            if name in values:
                values[name] = str(values[name])
            if name in listed:
                listed[name] = [str(value) for value in listed[name]]
        defaults = {name for network in self._all("network") for loss in self._all("loss")
                    for name in _defaults(network, loss, {"learning_rate": 1.0})}  # fmt: skip
        open_to = sorted(self.given & defaults) if {"network", "loss"} & self.axes.keys() else []
        own = {"search": self.search, "samples": self.samples, "asha": self.asha}
        return values | listed | own | ({"given": open_to} if open_to else {})


def _on_grid(values: Plain) -> int:
    """The crop of these values, or the next larger one that a network from outside can take.

    Raises:
        ConfigError: there is no such network.
    """
    names = ("network", "width", "rho", "depth", "scales", "crop")
    network, width, rho, depth, scales, crop = (values.get(name, getattr(RunConfig, name)) for name in names)
    traits = traits_of(network, width, rho, depth, scales[0] if len(scales) == 1 else None)
    return int(crop + -crop % (traits.upsampling * traits.multiple))


def _is_parameter(name: str) -> bool:
    """Whether a name is that of a parameter of rule or loss: `rule.gamma`."""
    return name.startswith(("rule.", "loss."))


def _typed(name: str, value: Any, kind: type) -> Any:
    """The value of a parameter in the type of its default, so that 1 and 1.0 are one run; else ConfigError."""
    if kind is float and type(value) is int:
        return float(value)
    if kind is int and type(value) is float and value.is_integer():  # of a flag that another rule has as a float
        return int(value)
    if type(value) is not kind:
        raise ConfigError([f"{name} must be of type {kind.__name__}, got {value!r}"])
    return value


def _resolved(kind: str, named: Iterable[Any]) -> tuple[tuple[str, ...], list[str]]:
    """What network, rule or loss is named, and a line for each that there is not."""
    found, problems = list[str](), list[str]()
    for each in named:
        try:
            name = next((name for name, known in OURS[kind].items() if known is each), None) or resolve(each, kind)
            NAMES[kind](name)
            found.append(name)
        except ConfigError as error:
            problems += error.problems
        except ValueError as error:
            problems.append(str(error))
    return tuple(found), problems


def _parameters(kind: str, name: str) -> dict[str, Any]:
    """The parameters of a rule or a loss with their defaults; none of one that is not known here."""
    try:
        return parameters_of(NAMES[kind](name))
    except (ValueError, CodeError):
        return {}


def _defaults(network: str, loss: str, values: Mapping[str, Any]) -> Plain:
    """What a run with this network and this loss has unless it is given; the loss comes before the network."""
    found: Plain = {"width": None, "depth": None} if isinstance(network, Code) else {}  # a preset's are those of ours
    with suppress(ValueError, CodeError):
        found |= _checked(f"network {label(network)}", getattr(network_class(network), "defaults", {}))
    with suppress(ValueError, CodeError):
        traits = loss_traits(loss_function(loss))
        own = {**traits.defaults} | ({} if traits.clip is None else {"clip": traits.clip})
        found |= _checked(f"loss {label(loss)}", own)
        if traits.rate != 1:
            rate: float = found.get("learning_rate", values.get("learning_rate", RunConfig.learning_rate))
            found["learning_rate"] = rate * traits.rate
    return found


def _checked(who: str, defaults: Any) -> Plain:
    """The defaults that a network or a loss declares; ConfigError if they are none of a run's."""
    if not isinstance(defaults, Mapping):
        raise ConfigError([f"{who}: its defaults must be a dictionary, got {type(defaults).__name__}"])
    problems = []
    for name, value in defaults.items():
        usual = FIELDS[name].default if name in FIELDS and name not in (*NAMES, "arguments") else MISSING
        kinds = (int, float) if type(usual) is float else (type(usual), int, str, type(None))
        if usual is MISSING or isinstance(usual, tuple):
            problems.append(f"{who}: its default {name} is none that it may have")
        elif isinstance(value, bool) or not isinstance(value, kinds) or (type(usual) is int and type(value) is not int):
            problems.append(f"{who}: its default {name} is {value!r}, which is no value of it")
    if problems:
        raise ConfigError(problems)
    return dict(defaults)


def identity(config: RunConfig) -> str:
    """What makes two trials of a sweep the same one: all that makes them what they are, ρ by the width it gives."""
    sets = [config.train, config.validation, config.test, config.rounds]
    return digest_of([config.content, sets])

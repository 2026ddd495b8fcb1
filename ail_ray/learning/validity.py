"""What can be wrong with the values of a run's configuration, a line each."""

import math
import re
from typing import TYPE_CHECKING, Any

from ail_ray.errors import ConfigError
from ail_ray.imaging.recipes import Recipe, RecipeError
from ail_ray.learning.losses import loss_function
from ail_ray.learning.rules import RETIRED, rule_function
from ail_ray.networks.architectures import NETWORKS, SCALES
from ail_ray.networks.building import depth_rule, network_class, taken, traits_of
from ail_ray.networks.code import Code, is_reference, label, parameters_of
from ail_ray.networks.notebooks import CodeError

if TYPE_CHECKING:
    from ail_ray.learning.config import RunConfig


def problems_of(config: "RunConfig") -> list[str]:
    """A line for everything that is wrong with the values."""
    ranges: list[tuple[str, Any, bool, str]] = [
        ("train", config.train, len(config.train) > 0, "name at least one set"),
        ("scales", config.scales, bool(config.scales) and set(config.scales) <= set(SCALES), "be 1, 2, 3 or 4"),
        ("downsizes", config.downsizes, bool(config.downsizes) and all(0 < f <= 1 for f in config.downsizes),
         "lie in (0, 1]"),
        ("mu0", config.mu0, config.mu0 is None or 0 <= config.mu0 <= 1, "lie in [0, 1]"),
        ("alpha0", config.alpha0, 0 < config.alpha0 < math.inf, "be positive"),
        ("error-factor", config.error_factor, 0 < config.error_factor < math.inf, "be positive"),
        ("rounds", config.rounds, 0 <= config.rounds < 10**6, "lie in 0..999999"),
        ("epochs", config.epochs, 1 <= config.epochs < 10**6, "lie in 1..999999"),
        ("crops", config.crops, config.crops is None or config.crops >= 1, "be at least 1"),
        ("crop", config.crop, config.crop >= 8, "be at least 8 pixels"),
        ("batch", config.batch, 1 <= config.batch <= 2**16, "lie in 1..65536"),
        ("learning-rate", config.learning_rate, 0 < config.learning_rate < math.inf, "be positive"),
        ("weight-decay", config.weight_decay, 0 <= config.weight_decay < math.inf, "be 0 or more"),
        ("clip", config.clip, 0 < config.clip < math.inf, "be positive"),
        ("init-noise", config.init_noise, 0 < config.init_noise < math.inf, "be positive"),
        ("beta", config.beta, 0 <= config.beta < math.inf, "be 0 or more"),
        ("shards", config.shards, 1 <= config.shards <= 100_000, "lie in 1..100000"),
        ("rho", config.rho, 0 <= config.rho < 1, "be in [0, 1)"),
        ("width", config.width, config.width is None or config.width >= 1, "be at least 1"),
        ("lam", config.lam, 0 < config.lam < math.inf, "be positive"),
        ("seed", config.seed, 0 <= config.seed < 2**63, "be 0 or more"),
        ("degrade-seed", config.degrade_seed, 0 <= config.degrade_seed < 2**63, "be 0 or more"),
        ("copies", config.copies, 1 <= config.copies <= 1000, "lie in 1..1000"),
    ]  # fmt: skip
    found = [f"{name} must {rule}, got {_shown(value)}" for name, value, holds, rule in ranges if not holds]
    for name, value in config.arguments:
        if not re.fullmatch(r"(rule|loss)\.[A-Za-z_]\w*", name):
            found.append(f"arguments: {name!r} is no parameter of rule or loss")
        elif isinstance(value, float) and not math.isfinite(value):
            found.append(f"{name} must be finite, got {value}")
    return (
        found
        + _recipe_problems(config)
        + _name_problems(config)
        + _network_problems(config)
        + _combination_problems(config)
    )


def _recipe_problems(config: "RunConfig") -> list[str]:
    given = {role: getattr(config, f"{role}_lr") for role in ("train", "validation", "test")}
    found = [
        f"{role}-lr must name a folder for each set of --{role}, got {len(folders)} for {len(getattr(config, role))}"
        for role, folders in given.items()
        if folders and len(folders) != len(getattr(config, role))
    ]
    if config.train_lr:
        found += [f"train-lr goes with one scale, got {_shown(config.scales)}"] if len(config.scales) > 1 else []
        whole = "train-lr has pictures of one size only: pass --downsizes 1"
        found += [whole] if config.downsizes != (1.0,) else []
        found += ["train-lr goes without --degrade"] if config.degrade else []
        return found
    if not config.degrade:
        found += [f"{name} goes with --degrade" for name in ("copies", "degrade_seed")
                 if getattr(config, name) != getattr(type(config), name)]  # fmt: skip
        restores = 1 in config.scales
        return found + (["scales: 1 restores what --degrade has spoilt: name a recipe"] if restores else [])
    try:
        Recipe.of(config.degrade)
    except RecipeError as error:
        found.append(f"degrade: {error}")
    return found


def _name_problems(config: "RunConfig") -> list[str]:
    """A line for network, rule and loss if there is none of that name, and for parameters that they do not have."""
    found = []
    for kind, name, find in (
        ("network", config.network, network_class), ("rule", config.rule, rule_function),
        ("loss", config.loss, loss_function),
    ):  # fmt: skip
        if _is_elsewhere(name):
            continue  # what may not be asked for is no reason to refuse a record of it
        try:
            function, own = find(name), config.of(kind)
            lacking = sorted(dict(own).keys() - parameters_of(function).keys()) if own else []
            found += [f"{kind}.{each}: {kind} {label(name)} has no such parameter" for each in lacking]
        except (ValueError, CodeError) as error:
            found.append(str(error))
    return found


def _is_elsewhere(name: str) -> bool:
    """Whether a name is that of code which is not here: a record of it has been read."""
    return not isinstance(name, Code) and (is_reference(name) or name in RETIRED)


def _network_problems(config: "RunConfig") -> list[str]:
    found, network = [], config.network
    if config.init != "identity" and config.init_noise != type(config).init_noise:
        found.append(f"init-noise goes with init identity, got init {config.init}")
    if not isinstance(network, Code) and network not in NETWORKS:
        return found
    defaults = getattr(network_class(network), "defaults", {})
    if config.width is not None and config.rho not in (type(config).rho, defaults.get("rho")):
        found.append(f"width is instead of rho: give one, got width {config.width} and rho {config.rho}")
    if isinstance(network, Code):
        wanted = {"width": config.width, "depth": config.depth}
        lacks = [
            name for name, value in wanted.items() if value is not None and name not in taken(network_class(network))
        ]
        found += [f"{name}: network {label(network)} takes none" for name in lacks]
        if found or not config.scales or not set(config.scales) <= set(SCALES):
            return found
        try:
            traits = traits_of(network, config.width, config.rho, config.depth, config.scale)
            upsampling, multiple = traits.upsampling, traits.multiple
        except ConfigError as error:
            return error.problems
        except CodeError as error:
            return [str(error)]
    else:
        upsampling, multiple = config.upsampling, 1
        if config.depth is not None and config.depth not in NETWORKS[network].depths:
            found.append(f"depth must {depth_rule(network)}, got {config.depth}")
        if NETWORKS[network].upsamples and 1 in config.scales:
            found.append(f"scales: {network} enlarges by itself, it cannot restore at scale 1")
        elif NETWORKS[network].upsamples and len(config.scales) > 1:
            said = _shown(config.scales)
            found.append(f"scales must be one for {network}, which upsamples by itself, got {said}")
    grid = upsampling * multiple
    if set(config.scales) <= set(SCALES) and config.crop % grid:
        up, of = config.crop + -config.crop % grid, "the scale" if multiple == 1 else str(grid)
        found.append(f"crop must be a multiple of {of} for {label(network)}, got {config.crop}: pass --crop {up}")
    return found


def _combination_problems(config: "RunConfig") -> list[str]:
    found = []
    if config.beta > 0 and not config.unweighed:
        found.append(f"beta goes with rule uniform only, got rule {config.rule}")
    if config.beta > 0 and config.teacher in ("none", "random"):
        found.append(f"beta needs a teacher with weights, got teacher {config.teacher}")
    if config.rule == "fixed" and config.teacher == "none":
        found.append("rule fixed keeps the importance of round 0, which teacher none makes 0: it would train nothing")
    return found


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) or "nothing" if isinstance(value, tuple) else str(value)

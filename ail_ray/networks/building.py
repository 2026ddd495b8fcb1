"""A network by its name: one of ours, or one from outside, which says what it is or is measured."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any, cast

import torch
from torch import nn

from ail_ray.errors import ConfigError
from ail_ray.networks.architectures import ENLARGING, NETWORKS, SCALES, Made, Network, Traits
from ail_ray.networks.code import Code, find, label
from ail_ray.networks.probe import radius_of, upsampling_of


def network_class(name: str) -> Any:
    """The class of a network: one of ours, or one from outside.

    Raises:
        ValueError, CodeError: as `find`.
    """
    return find(name, "network", NETWORKS)


def build_model(
    name: str,
    *,
    width: int | None = None,
    rho: float | None = None,
    depth: int | None = None,
    scale: int | None = None,
) -> Network:
    """A network with fresh weights.

    Args:
        name: `vdsr`, `drrn`, `fsrcnn`, `abpn`, or a `Code`.
        width: feature maps per layer; overrides `rho`.
        rho: share of the full network's filters to remove, in [0, 1); without either, the full network.
        depth: number of convolutions; the network's own by default.
        scale: 1, 2, 3 or 4. A network that enlarges by itself needs one above 1; the others serve every scale.

    Raises:
        ValueError: an unknown name, or a width, ρ, depth or scale outside its range.
        ConfigError: a network from outside that cannot be made of this, or says of itself what is no `Traits`.
        CodeError: as `network_class`.
    """
    network = network_class(name)
    if scale is not None and scale not in SCALES:
        raise ValueError(f"scale must be 1, 2, 3 or 4, got {scale}")
    width = resolved_width(name, width=width, rho=rho)
    if isinstance(name, Code):
        return _adopted(name, network, Made(network=name, **_given(network, width=width, depth=depth, scale=scale)))
    depth = network.full_depth if depth is None else depth
    if depth not in network.depths:
        raise ValueError(f"depth must {depth_rule(name)}, got {depth}")
    if not network.upsamples:
        return cast(Network, network(width, depth))
    if scale not in ENLARGING:
        raise ValueError(f"{name} upsamples by itself: name the scale, 2, 3 or 4")
    return cast(Network, network(width, depth, scale))


@cache
def traits_of(network: str, width: int | None, rho: float, depth: int | None, scale: int | None) -> Traits:
    """What a network made of this says of itself, or what was measured of it; raises what `build_model` does."""
    with torch.random.fork_rng(devices=[]):
        return build_model(network, width=width, rho=rho, depth=depth, scale=scale).traits


def taken(network: Callable[..., Any]) -> set[str]:
    """Which of width, depth and scale the constructor of a network takes."""
    return {"width", "depth", "scale"} & inspect.signature(network).parameters.keys()


def _given(network: Callable[..., Any], **values: int | None) -> dict[str, int]:
    return {name: value for name, value in values.items() if value is not None and name in taken(network)}


def _adopted(name: Code, network: Callable[..., Any], made: Made) -> Network:
    """A network from outside, as one of this program."""
    given = {key: value for key, value in vars(made).items() if key != "network" and value is not None}
    try:
        model = network(**given)
    except (Exception, SystemExit) as error:  # whatever somebody else's code raises
        arguments = ", ".join(f"{key}={value}" for key, value in given.items())
        raise ConfigError([f"network {label(name)}({arguments}): {type(error).__name__}: {error}"]) from error
    if not isinstance(model, nn.Module):
        raise ConfigError([f"network {label(name)}: makes a {type(model).__name__}, and no torch.nn.Module"])
    said = getattr(model, "traits", None)
    if said is not None and not isinstance(said, Traits):
        raise ConfigError([f"network {label(name)}: its traits must be a Traits, got {type(said).__name__}"])
    try:
        model.made = made  # type: ignore[assignment]
        if said is None or said.radius is None:
            model.traits = _measured(name, given, said, model)  # type: ignore[assignment]
    except AttributeError:
        line = "made and traits are set here; state its radius, or set traits in its constructor"
        raise ConfigError([f"network {label(name)}: {line}"]) from None
    return cast(Network, model)


def _measured(name: Code, given: dict[str, int], said: Traits | None, model: nn.Module) -> Traits:
    """What a network says of itself, and what it does not say, from what it does."""
    key = (name, tuple(sorted(given.items())))
    if key not in _MEASURED:
        known = said or Traits(upsampling=upsampling_of(model, 1))
        _MEASURED[key] = replace(known, radius=radius_of(model, known.multiple, known.upsampling))
    return _MEASURED[key]


_MEASURED: dict[tuple[Any, ...], Traits] = {}  # of this process


def depth_rule(name: str) -> str:
    """What the depth of a network of ours must be, in words."""
    depths = NETWORKS[name].depths
    return f"{'be even and ' if depths.step == 2 else ''}lie in {depths[0]}..{depths[-1]}"


def resolved_width(name: str, *, width: int | None = None, rho: float | None = None) -> int | None:
    """Feature maps of a student: `width` if given, else the full width less the share ρ (64: 13 at ρ = 0.8).

    None for a network from outside that has neither: then it has as many as it has by itself.
    """
    network = network_class(name)
    if width is None:
        if rho is not None and not 0 <= rho < 1:
            raise ValueError(f"rho must be in [0, 1), got {rho}")
        full = getattr(network, "full_width", None)
        if hasattr(network, "thinned"):
            return int(network.thinned(rho or 0.0))
        return None if full is None else max(1, round(full * (1 - (rho or 0.0))))
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    return width

"""The losses of the θ-subproblem: functions of the weighed residual, element by element.

Eq. 4 has the importance on the residual: a loss is given `w (y - s)`, on luma in [0, 1], and its sum over a batch is
what is trained on; `d` of Eqs. 6 and 7 is the same loss of `|y - s|`. To try another one, write one such function, with
its parameters named only, and name it as `--loss file.py:name`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch

from ail_ray.networks.code import find, label, parameters_of

Loss = Callable[..., torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class LossTraits:
    """What a run with a loss has unless it is given otherwise."""

    clip: float | None = None
    """Largest norm of the gradient of the sum; None: as the run's configuration has it, 0.4."""
    rate: float = 1.0
    """Factor on the learning rate of the preset."""
    defaults: Mapping[str, Any] = field(default_factory=lambda: {"error_unit": "loss"})
    """Further fields of a run's configuration."""


def loss(*, clip: float | None = None, rate: float = 1.0, **defaults: Any) -> Callable[[Loss], Loss]:
    """Declare what a loss wants of a run: the norm that gradients are clipped to, a factor on the learning rate."""

    def declare(function: Loss) -> Loss:
        function.traits = LossTraits(clip=clip, rate=rate, defaults={"error_unit": "loss"} | defaults)  # type: ignore[attr-defined]
        return function

    return declare


@loss(error_unit="squared")
def squared(residual: torch.Tensor) -> torch.Tensor:
    """`r²`, the paper's."""
    return residual.square()


@loss(error_unit="absolute")
def absolute(residual: torch.Tensor) -> torch.Tensor:
    """`|r|`: outliers count no more than in proportion."""
    return residual.abs()


@loss()
def huber(residual: torch.Tensor, *, delta: float = 0.01) -> torch.Tensor:
    """`r² / 2` up to δ and `δ (|r| - δ / 2)` beyond (Huber 1964), divided by δ: about `|r|` for large residuals."""
    size = residual.abs()
    return torch.where(size <= delta, residual.square() / (2 * delta), size - delta / 2)


@loss()
def charbonnier(residual: torch.Tensor, *, delta: float = 0.001) -> torch.Tensor:
    """`sqrt(r² + δ²) - δ` (Charbonnier et al. 1994), about `|r|`, smooth at 0."""
    return (residual.square() + delta**2).sqrt() - delta


LOSSES: dict[str, Loss] = {each.__name__: each for each in (squared, absolute, huber, charbonnier)}


def loss_function(name: str) -> Loss:
    """A loss by its name, or one from outside.

    Raises:
        ValueError, CodeError: as `find`.
    """
    return find(name, "loss", LOSSES)


def loss_traits(function: Loss) -> LossTraits:
    """What a loss declares; the same as `squared` of one that declares nothing, and its own unit."""
    found: LossTraits = getattr(function, "traits", LossTraits())
    return found


@cache
def bound(name: str, arguments: tuple[tuple[str, Any], ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """A loss with its parameters, as a function of the residual alone; those that are left out have their defaults."""
    return partial(loss_function(name), **dict(arguments)) if arguments else loss_function(name)


def problems_of(name: str, arguments: tuple[tuple[str, Any], ...]) -> list[str]:
    """A line for everything that is wrong with a loss from outside, found out by trying it."""
    function, where = bound(name, arguments), f"loss {label(name)}"
    residual = torch.tensor([[-0.5, -0.01, 0.0, 0.01, 0.5]], requires_grad=True)
    try:
        parameters_of(function.func if isinstance(function, partial) else function)
        made = function(residual)
        if not isinstance(made, torch.Tensor) or made.shape != residual.shape:
            found = list(made.shape) if isinstance(made, torch.Tensor) else type(made).__name__
            return [f"{where}: makes {found} of {list(residual.shape)}; needed is a value for every residual"]
        (slope,) = torch.autograd.grad(made.sum(), residual)
        pixel = function(residual[:, :1].detach())
    except Exception as error:  # whatever somebody else's code raises
        return [f"{where}: {type(error).__name__}: {error}"]
    if not made.isfinite().all() or not slope.isfinite().all() or (made < 0).any():
        return [f"{where}: it and its slope must be finite, and it must not be negative"]
    if not torch.equal(pixel, made[:, :1].detach()):
        return [f"{where}: a pixel's loss must depend on nothing but its own residual"]
    return []

"""The rules of the W-subproblem, each a function, and a shard's importance by them.

To try another rule, write one function of a `Subproblem` into a file of your own and name it as `--rule file.py:name`.
docs/RULES.md compares those that are there, and docs/examples/rules.py has some to start from.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch

from ail_ray.learning.importance import (
    CHUNK,
    MOST,
    Arguments,
    Array,
    ErrorUnit,
    as_float32,
    initial_importance,
    pixel_loss,
    update_importance,
)
from ail_ray.networks.code import Code, find, label, parameters_of
from ail_ray.tensors import as_tensor


@dataclass(frozen=True, kw_only=True)
class Subproblem:
    """The W-subproblem of a chunk of pixels: all that a rule may read.

    `importance`, `error` and `first` are (n,) float32, converted from the stored float16 whenever they are read.
    """

    halves: dict[str, torch.Tensor]  # what is stored, by name, (n,) float16; `first` only if the rule needs it
    round: int  # t, from 1
    lam: float
    mu0: float
    unit: ErrorUnit = "squared"
    factor: float = 1.0
    loss_name: str = "squared"
    loss_arguments: Arguments = ()
    place: tuple[int, int, int] = (0, 0, 0)  # seed of the run, shard, chunk

    @property
    def importance(self) -> Array:
        """`w'`, the importance of round t-1."""
        return self.halves["importance"].float().numpy()

    @property
    def error(self) -> Array:
        """`|y - s|` of the student of round t-1."""
        return self.halves["error"].float().numpy()

    @property
    def loss(self) -> Array:
        """`d` of Eqs. 6 and 7: the loss of that error, in the unit that the configuration names."""
        return pixel_loss(self.error, self.unit, self.factor, self.loss_name, self.loss_arguments)

    @property
    def first(self) -> Array:
        """`w_0`, the importance of round 0; only for a rule that declares `needs_first`."""
        return self.halves["first"].float().numpy()

    @property
    def random(self) -> np.random.Generator:
        """Random numbers for this chunk in this round, the same whenever they are drawn again."""
        seed, shard, chunk = self.place
        return np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**62 + chunk, shard, self.round]))


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a rule may read that sets the importance of round 0 itself, for a chunk of pixels."""

    pixels: int
    error: Array | None  # `|teacher - y|` on [0, 1], (pixels,) float32; None if the run has no teacher with weights
    lam: float
    mu0: float
    alpha0: float
    place: tuple[int, int, int] = (0, 0, 0)  # seed of the run, shard, chunk

    @property
    def random(self) -> np.random.Generator:
        """Random numbers for this chunk, the same whenever they are drawn again."""
        seed, shard, chunk = self.place
        return np.random.Generator(np.random.Philox(key=seed, counter=[0, 2**62 + chunk, shard, 0]))


Rule = Callable[..., Array]
"""The importance of the next round, (n,), from a `Subproblem`; what else it takes is named only and has a default."""
Start = Callable[..., Array]
"""The importance of round 0, (n,), from a `Beginning`, and from those parameters of the rule that it takes too."""
AnyRule = TypeVar("AnyRule", bound=Rule)

READABLE = frozenset({"lam", "teacher", "mu0", "alpha0", "error_unit", "error_factor"})
"""What rules may or may not read of a configuration; a run's name leaves out what its rule does not read."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a rule declares: how it begins, what of a configuration it reads, and what has to be there for it."""

    reads: frozenset[str] = READABLE
    start: Start | None = None  # None: as `--teacher` says, Eq. 8 for one with weights
    needs_first: bool = False
    needs_error: bool = True
    whole: bool = False  # whether it gets all pixels of a shard at once, and not one chunk after the other
    settles: bool = False  # whether it leaves an importance of 1 as it is, whatever the error


def rule(
    *,
    reads: frozenset[str] | set[str] = READABLE,
    start: Start | None = None,
    needs_first: bool = False,
    needs_error: bool = True,
    whole: bool = False,
    settles: bool = False,
) -> Callable[[AnyRule], AnyRule]:
    """Declare what a rule needs, as `Recipe` has it; a function that declares nothing has a recipe's defaults."""

    def declare(function: AnyRule) -> AnyRule:
        function.recipe = Recipe(  # type: ignore[attr-defined]
            reads=frozenset(reads),
            start=start,
            needs_first=needs_first,
            needs_error=needs_error,
            whole=whole,
            settles=settles,
        )
        return function

    return declare


@rule(settles=True)
def eq7(p: Subproblem) -> Array:
    """The paper's rule: `w = min(1, w' + lam * exp(-d))`."""
    return update_importance(p.importance, p.loss, p.lam)


@rule(reads=READABLE - {"error_unit", "error_factor"}, needs_first=True)
def reference(p: Subproblem) -> Array:
    """The authors' released code: `w = clip(w_0 + (lam + lam * (t - 1)) * exp(-10 |e|), 0, 1)`.

    The importance of round 0 stays the base, the absolute error decides, the step grows with the round. A pixel that
    the student has come to reconstruct worse can fall again.
    """
    raised = np.exp(np.float32(-10) * p.error)
    raised *= np.float32(p.lam + p.lam * (p.round - 1))
    raised += p.first
    return np.clip(raised, 0, 1, out=raised)


@rule(reads=frozenset(), needs_error=False)
def uniform(p: Subproblem) -> Array:
    """`w = 1` for every pixel: plain training (Eq. 1) with the same rounds, the control."""
    return np.ones(p.halves["importance"].shape, np.float32)


@rule(reads={"teacher", "mu0", "alpha0"}, needs_error=False)
def fixed(p: Subproblem) -> Array:
    """`w = w_0` in every round (Eq. 9 alone), the control for the updates: what do they add to the start?"""
    return p.importance


RULES: dict[str, Rule] = {each.__name__: each for each in (eq7, reference, uniform, fixed)}
RETIRED = {"exact": Recipe(), "hard-first": Recipe(reads=READABLE - {"error_unit", "error_factor"})}
"""Rules that this package had before, whose runs are listed as ever; docs/examples/rules.py has them."""


def rule_function(name: str) -> Rule:
    """A rule by its name, or one from outside.

    Raises:
        ValueError, CodeError: as `find`.
    """
    if name in RETIRED:
        raise ValueError(f"rule {name} is an example now: --rule docs/examples/rules.py:{name.replace('-', '_')}")
    return find(name, "rule", RULES)


@cache
def recipe_of(name: str) -> Recipe:
    """What a rule declares; ValueError as `rule_function`, but for the retired ones."""
    if not isinstance(name, Code) and name in RETIRED:
        return RETIRED[name]
    found: Recipe = getattr(rule_function(name), "recipe", Recipe())
    return found


class RuleError(RuntimeError):
    """A rule that made no importance; the message says what it made."""


def next_importance(
    name: str,
    importance: Array,
    error: Array,
    *,
    lam: float,
    unit: ErrorUnit = "squared",
    factor: float = 1.0,
    round: int = 1,
    mu0: float = 0.01,
    first: Array | None = None,
    arguments: Arguments = (),
    loss: str = "squared",
    loss_arguments: Arguments = (),
    seed: int = 0,
    shard: int = 0,
) -> Array:
    """Solve the W-subproblem for a whole shard, in chunks that fit into the cache.

    Args:
        name: of the rule.
        importance: (N,) float16, `w'`.
        error: (N,) float16, `|y - s|`.
        round: t, from 1.
        first: (N,) float16, `w_0`, for a rule that `needs_first`.
        arguments: parameters of the rule.

    Returns:
        (N,) float16.

    Raises:
        RuleError: a rule from outside made something else than importance.
    """
    solve, halves = rule_function(name), {"importance": importance, "error": error}
    halves |= {} if first is None else {"first": first}
    result = np.empty(importance.shape, np.float16)
    parts = {key: as_tensor(array).split(_chunk(name, array.size)) for key, array in halves.items()}
    for i, target in enumerate(torch.from_numpy(result).split(_chunk(name, result.size))):
        chunk = {key: tensors[i] for key, tensors in parts.items()}
        subproblem = Subproblem(
            halves=chunk, round=round, lam=lam, mu0=mu0, unit=unit, factor=factor, loss_name=loss,
            loss_arguments=loss_arguments, place=(seed, shard, i),
        )  # fmt: skip
        target.copy_(_checked(name, solve(subproblem, **dict(arguments)), len(target)))
    return result


def first_importance(
    error: Array | None,
    *,
    mu0: float,
    alpha0: float,
    rule: str = eq7.__name__,
    pixels: int = 0,
    lam: float = 0.15,
    arguments: Arguments = (),
    seed: int = 0,
    shard: int = 0,
) -> Array:
    """Eq. 8, or what the rule starts from instead, for a whole shard in chunks.

    Args:
        error: (N,) float16 errors of the teacher, None where there are none.
        pixels: how many there are; only read without errors.
        arguments: parameters of the rule, of which a start gets those that it takes.

    Returns:
        (N,) float16.
    """
    start, pixels = recipe_of(rule).start, pixels if error is None else error.size
    own = {key: value for key, value in arguments if start and key in parameters_of(start)}
    result = np.empty(pixels, np.float16)
    for i, begin in enumerate(range(0, pixels, _chunk(rule, pixels))):
        part = slice(begin, begin + _chunk(rule, pixels))
        errors = None if error is None else as_float32(error[part])
        if start is None:
            assert errors is not None
            made: Array = initial_importance(errors, mu0, alpha0)
        else:
            count = len(result[part])
            beginning = Beginning(
                pixels=count, error=errors, lam=lam, mu0=mu0, alpha0=alpha0, place=(seed, shard, i)
            )  # fmt: skip
            made = start(beginning, **own)
        torch.from_numpy(result[part]).copy_(_checked(rule, made, len(result[part])))
    return result


def _chunk(name: str, pixels: int) -> int:
    return max(1, pixels) if recipe_of(name).whole else CHUNK


def _checked(name: str, made: Any, pixels: int) -> torch.Tensor:
    """What a rule made, as a tensor; of our own it is what it should be."""
    if not isinstance(name, Code):
        return torch.from_numpy(made)
    array = np.asarray(made)
    if array.shape != (pixels,) or array.dtype.kind not in "fiub":
        raise RuleError(f"rule {label(name)}: makes {array.dtype} {list(array.shape)}; needed is [{pixels}] of numbers")
    array = array.astype(np.float32)
    if not (np.isfinite(array).all() and array.min(initial=0) >= 0 and array.max(initial=0) <= MOST):
        found = f"{array.min():g} to {array.max():g}"
        raise RuleError(f"rule {label(name)}: importance must lie in [0, {MOST:g}] for every pixel, it made {found}")
    return torch.from_numpy(array)


def problems_of(name: str, arguments: Arguments, mu0: float, lam: float) -> list[str]:
    """A line for everything that is wrong with a rule from outside, found out by trying it on some pixels."""
    values: Mapping[str, Array] = {
        key: np.linspace(low, high, 64, dtype=np.float16)
        for key, low, high in (("importance", 0, 1), ("error", 0.2, 0), ("first", 0, 0.5))
    }
    try:
        recipe = recipe_of(name)
        if unknown := recipe.reads - READABLE:
            return [f"rule {label(name)}: reads {', '.join(sorted(unknown))}; there are {', '.join(sorted(READABLE))}"]
        parameters_of(rule_function(name))
        if recipe.start:
            for error in (values["error"], None):
                first_importance(error, mu0=mu0, alpha0=100.0, rule=name, pixels=64, lam=lam, arguments=arguments)
        next_importance(
            name, values["importance"], values["error"], lam=lam, mu0=mu0, arguments=arguments,
            first=values["first"] if recipe.needs_first else None,
        )  # fmt: skip
    except RuleError as error:
        return [str(error)]
    except Exception as error:  # whatever somebody else's code raises
        return [f"rule {label(name)}: {type(error).__name__}: {error}"]
    return []

r"""Measure how fast this machine is and how much of it we use. Every figure has something to compare it with.

    # the table: 25 minutes on two cores that are idle
    ail benchmark

    # one figure only, as JSON
    ail benchmark --only update_vs_copy \
        --json -

    # our training and the released code's, 30 minutes each
    ail benchmark --race 30

    # does this machine compute rightly? A minute.
    ail benchmark --check

Exit codes: 0 when all was measured, 1 when a figure could not be measured or the check has found something wrong, 2
when the command was refused and nothing was started.
"""

import sys
from dataclasses import dataclass
from functools import partial

import torch

from ail_ray.commands.parsing import deliver, parse, refusals, refuse, undeliverable
from ail_ray.entry import say
from ail_ray.machine import machine


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    only: tuple[str, ...] | None = None
    """Names of the figures to measure, by default of all: update_vs_copy, inference, step_vs_reference, epoch_vs_bare,
    commit, two_workers, bytes_per_pixel, first_round, ray_vs_local, sweep_overhead and importance_tax."""
    race: float | None = None
    """Instead of the figures: train one student our way and one the released way for so many minutes each, in turns, on
    281 of the 291 images, and draw ./race.png."""
    check: bool = False
    """Instead of the figures: check that this machine computes rightly, and print a verdict to paste into a report."""
    gpu: bool = False
    """With --check: check its GPUs."""
    json: str | None = None
    """File for the measurements as JSON; `-` is standard output."""


@refusals()
def main(arguments: list[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="ail benchmark", description=__doc__ or "")
    from ail_ray.benchmarks.race import race  # here: with Ray they take seconds to load
    from ail_ray.benchmarks.self_check import check, features
    from ail_ray.benchmarks.targets import BENCHMARKS, measure

    only = tuple(BENCHMARKS) if o.only is None else o.only
    problems = [f"only: no {key!r}; there are {', '.join(BENCHMARKS)}" for key in set(only) - BENCHMARKS.keys()]
    problems += [] if only else ["only must name at least one"]
    problems += [f"race must be positive, got {o.race:g}"] if o.race is not None and not o.race > 0 else []
    problems += ["gpu: torch sees none here"] if o.gpu and not torch.cuda.is_available() else []
    alone = o.race is not None or o.check
    problems += ["only goes with neither --race nor --check"] if alone and o.only is not None else []
    problems += ["gpu goes with --check"] if o.gpu and not o.check else []
    problems += undeliverable(o.json)
    if problems:
        refuse(problems)
    tell = partial(say, file=sys.stderr if o.json == "-" else sys.stdout)
    tell(f"{machine()['processor']}: {features()}")
    if o.check:
        return int(not check(o.gpu))
    found = race(o.race, say=tell) if o.race else measure(only, tell)
    deliver(found, o.json)
    return int(any("error" in figure for figure in found.values() if isinstance(figure, dict)))

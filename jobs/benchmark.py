"""How fast is this machine, and how much of it do we use: each figure against something measured beside it.

    python jobs/benchmark.py                the table, under 25 minutes on two cores that do nothing else
    python jobs/benchmark.py --only update_vs_copy inference --json -
    python jobs/benchmark.py --race 30      PSNR at equal wall time: ours and the released way; an hour
    python jobs/benchmark.py --check        is this machine right: precision, a round, store, all-reduce; a minute

Exit code 1: a figure could not be measured, or the check found something wrong; 2: nothing was started.
"""

import sys
from dataclasses import dataclass
from functools import partial

from ail_ray.entry import run, say

import torch

from ail_ray.commandline import deliver, parse, refuse, undeliverable
from ail_ray.errors import ConfigError
from ail_ray.orchestration.machine import machine
from ail_ray.reporting.benchmark import BENCHMARKS, measure
from ail_ray.reporting.check import check, features
from ail_ray.reporting.race import race


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    only: tuple[str, ...] = tuple(BENCHMARKS)
    """Figures to measure; all of them by default."""
    race: float | None = None
    """Instead: minutes that each way trains a student for, in turns, on 281 of the 291 images; draws ./race.png."""
    check: bool = False
    """Instead: whether this machine computes what it should, with a verdict to paste into a report."""
    gpu: bool = False
    """With --check: on its GPUs."""
    json: str | None = None
    """File for what was measured as JSON; `-` is standard output."""


def main(arguments: list[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    o = parse(Options, arguments, default=Options(), prog="benchmark.py", description=__doc__ or "")
    problems = [f"only: no {key!r}; there are {', '.join(BENCHMARKS)}" for key in set(o.only) - BENCHMARKS.keys()]
    problems += [] if o.only else ["only must name at least one"]
    problems += [f"race must be positive, got {o.race:g}"] if o.race is not None and not o.race > 0 else []
    problems += ["gpu: torch sees none here"] if o.gpu and not torch.cuda.is_available() else []
    alone = o.race is not None or o.check
    problems += ["only goes with neither --race nor --check"] if alone and o.only != Options.only else []
    problems += ["gpu goes with --check"] if o.gpu and not o.check else []
    problems += undeliverable(o.json)
    if problems:
        refuse(problems)
    tell = partial(say, file=sys.stderr if o.json == "-" else sys.stdout)
    tell(f"{machine()['processor']}: {features()}")
    try:
        if o.check:
            return int(not check(o.gpu))
        found = race(o.race, say=tell) if o.race else measure(o.only, tell)
    except ConfigError as error:
        refuse(error.problems)
    deliver(found, o.json)
    return int(any("error" in figure for figure in found.values() if isinstance(figure, dict)))


if __name__ == "__main__":
    run(main)

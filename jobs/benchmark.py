"""How fast is this machine, and how much of it do we use: each figure a ratio of two things measured in turns.

python jobs/benchmark.py                        all figures, about two minutes
python jobs/benchmark.py --keys update_vs_copy --json -
python jobs/benchmark.py --check                is this machine right: precision, a round, store, all-reduce; a minute
"""

import sys
from dataclasses import dataclass

import torch

from ail_ray.commandline import deliver, parse, refuse
from ail_ray.reporting.benchmark import BENCHMARKS
from ail_ray.reporting.check import check


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to measure."""

    keys: tuple[str, ...] = tuple(BENCHMARKS)
    """Figures to measure; all of them by default."""
    repeats: int = 5
    """Pairs of measurements for each figure, after one that does not count."""
    check: bool = False
    """Instead: whether this machine computes what it should, with a verdict to paste into a report."""
    gpu: bool = False
    """With --check: on its GPUs."""
    json: str | None = None
    """File for the figures as JSON; `-` is standard output."""


def main(arguments: list[str]) -> int:
    """Parse, measure, print; returns the exit code."""
    options = parse(Options, arguments, default=Options(), prog="benchmark.py", description=__doc__ or "")
    problems = [f"keys: no {key!r}; there are {', '.join(BENCHMARKS)}" for key in set(options.keys) - BENCHMARKS.keys()]
    if options.repeats < 1:
        problems.append(f"repeats must be at least 1, got {options.repeats}")
    if options.gpu and not torch.cuda.is_available():
        problems.append("gpu: torch sees none here")
    if problems:
        refuse(problems)
    if options.check:
        return int(not check(options.gpu))
    out = sys.stderr if options.json == "-" else sys.stdout
    print(f"CPU {torch.backends.cpu.get_cpu_capability()}, one thread", file=out, flush=True)
    figures = {}
    for key in options.keys:
        figures[key] = figure = BENCHMARKS[key](options.repeats)
        spread = f"{figure['lowest']:.3f} to {figure['highest']:.3f}"
        print(f"{key}: {figure['ratio']:.3f} ({spread}), {figure['speed']:.4g} {figure['unit']}", file=out, flush=True)
    deliver(figures, options.json)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""How fast this machine is and how much of it we use: figures, each compared with something measured beside it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ail_ray.benchmarks.kernels import commit, epoch_vs_bare, inference, step_vs_reference, update_vs_copy
from ail_ray.benchmarks.timing import Figure
from ail_ray.benchmarks.whole_runs import (
    bytes_per_pixel,
    first_round,
    importance_tax,
    ray_vs_local,
    sweep_overhead,
    two_workers,
)

AMX = torch.cpu._is_amx_tile_supported()


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A figure: a line of the table."""

    measure: Callable[[], Figure]
    target: float  # on two cores
    compares: str
    at_most: bool = False

    def reached(self, value: float) -> bool:
        return value <= self.target if self.at_most else value >= self.target


BENCHMARKS = {
    "update_vs_copy": Benchmark(
        measure=update_vs_copy, target=0.2, compares="Eq. 7 on a shard, against a copy of the same bytes"
    ),
    "inference": Benchmark(measure=inference, target=0.9, compares="VDSR-f13, 1280×720, fp32, against ONNX Runtime"),
    "step_vs_reference": Benchmark(
        measure=step_vs_reference, target=15 if AMX else 6, compares="a step, against one as the released code does it"
    ),
    "epoch_vs_bare": Benchmark(
        measure=epoch_vs_bare, target=0.95, compares="an epoch, against a bare loop over one batch"
    ),
    "commit": Benchmark(
        measure=commit, target=50, at_most=True, compares="milliseconds of an epoch's commit, which lasts and is fenced"
    ),
    "two_workers": Benchmark(measure=two_workers, target=0.95, compares="two workers, against two separate processes"),
    "bytes_per_pixel": Benchmark(
        measure=bytes_per_pixel, target=6, at_most=True, compares="held per training pixel on a node with two workers"
    ),
    "first_round": Benchmark(
        measure=first_round, target=20, at_most=True, compares="seconds from the command to the first training step"
    ),
    "ray_vs_local": Benchmark(measure=ray_vs_local, target=0.97, compares="a round through Ray, against in-process"),
    "sweep_overhead": Benchmark(
        measure=sweep_overhead, target=1.1, at_most=True, compares="a sweep, against its trials' training seconds"
    ),
    "importance_tax": Benchmark(
        measure=importance_tax, target=1.2, at_most=True, compares="a round of AIL, against one of its control"
    ),
}


def measure(keys: Sequence[str], say: Callable[[str], None]) -> dict[str, Figure]:
    """Measure some figures, and say each as a line of the table as soon as it is there.

    Returns:
        For each key: `ratio`, which the target is about, `target`, `reached`, `seconds_taken` and what explains it; or
        only `error`, if it could not be measured.
    """
    say(f"{'':18}{'':>9}  {'target':>8}")
    figures = {}
    for key in keys:
        benchmark, started = BENCHMARKS[key], time.perf_counter()
        try:
            figure = benchmark.measure()
        except Exception as error:  # the others are worth having all the same
            figures[key] = {"error": f"{type(error).__name__}: {error}"}
            say(f"{key:18}{'':9}  {'':>8}  FAILED   {figures[key]['error']}")
            continue
        figures[key] = figure | {
            "target": benchmark.target, "reached": benchmark.reached(figure["ratio"]),
            "seconds_taken": time.perf_counter() - started,
        }  # fmt: skip
        say(_line(key, figures[key]))
    return figures


def _line(key: str, figure: Figure) -> str:
    """A line with the figure, its target, whether that is reached, what is compared, and in brackets the rest."""
    benchmark = BENCHMARKS[key]
    known = ("ratio", "target", "reached", "lowest", "highest", "speed", "unit", "seconds_taken")
    words = [f"{figure['speed']:.4g} {figure['unit']}"] if "speed" in figure else []
    words += [f"{figure['lowest']:.3g} to {figure['highest']:.3g}"] if "lowest" in figure else []
    words += [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
              for name, value in figure.items() if name not in known]  # fmt: skip
    target = f"{'≤' if benchmark.at_most else '≥'} {benchmark.target:g}"
    verdict = "reached" if figure["reached"] else "MISSED"
    return f"{key:18}{figure['ratio']:9.3f}  {target:>8}  {verdict:8} {benchmark.compares} ({'; '.join(words)})"

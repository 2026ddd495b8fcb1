"""Two or more things timed in turns, so that whatever else the machine does meets all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Figure = dict[str, Any]
"""What a benchmark found: `ratio` is what its target is about, the rest explains it. Plain data."""


def in_turns(works: Sequence[Callable[[], Any]], repeats: int, threads: int = 1) -> list[tuple[float, ...]]:
    """Seconds of each piece of work, done alternately `repeats` times after a warm-up of each, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rounds = [tuple(seconds(work) for work in works) for _ in range(repeats + 1)]
    finally:
        torch.set_num_threads(before)
    return rounds[1:]


def seconds(work: Callable[[], Any]) -> float:
    """Of wall time."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(pairs: Sequence[tuple[float, ...]], *, unit: str, amount: float, **more: Any) -> Figure:
    """Our speed over the other's, from pairs of (ours, the other's) seconds: the median pair by pair, its extremes.

    Args:
        unit, amount: of what a turn does; `speed` is ours, in the unit per second.
        more: goes into the figure as it is.
    """
    ratios = [other / ours for ours, other in pairs]
    return {
        "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
        "speed": amount / statistics.median(ours for ours, _ in pairs), "unit": f"{unit}/s", **more,
    }  # fmt: skip

"""Timing two or more things in turns, so that whatever else the machine does affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

Figure = dict[str, Any]
"""What a benchmark found, as plain data: `ratio` is what its target is about, and the rest explains it."""


def in_turns(works: Sequence[Callable[[], Any]], repeats: int, threads: int = 1) -> list[tuple[float, ...]]:
    """Seconds of each piece of work, done in turns `repeats` times after a warm-up, with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rounds = [tuple(seconds(work) for work in works) for _ in range(repeats + 1)]
    finally:
        torch.set_num_threads(before)
    return rounds[1:]


def seconds(work: Callable[[], Any]) -> float:
    """How many seconds of wall time a piece of work takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def ratio(pairs: Sequence[tuple[float, ...]], *, unit: str, amount: float, **more: Any) -> Figure:
    """Our speed divided by the other's, from pairs of seconds (ours, the other's): the median and the extremes.

    Args:
        unit, amount: how much of what a turn does; `speed` is ours, in this unit per second.
        more: goes into the figure as it is.
    """
    ratios = [other / ours for ours, other in pairs]
    return {
        "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
        "speed": amount / statistics.median(ours for ours, _ in pairs), "unit": f"{unit}/s", **more,
    }  # fmt: skip

"""How fast the parts are, each as a ratio of two things measured in turns in one run: medians, one thread."""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ail_ray.files import as_path
from ail_ray.imaging.bank import Bank, Shard
from ail_ray.learning.config import demo
from ail_ray.learning.group import Group
from ail_ray.learning.importance import next_importance
from ail_ray.learning.models import build_model
from ail_ray.learning.precision import fastest, placed
from ail_ray.learning.theta import TrainState, train_epoch, weighted_loss
from ail_ray.orchestration.prepare import build_data, plan_data


def update_vs_copy(repeats: int, pixels: int = 20_000_000) -> dict[str, Any]:
    """The W-subproblem's closed form (Eq. 7) on a shard, against a copy of the same 6 bytes a pixel."""
    generator = np.random.default_rng(0)
    importance, error = (generator.random(pixels, np.float32).astype(np.float16) for _ in range(2))
    source, target = np.ones((3, pixels), np.float16), np.zeros((3, pixels), np.float16)
    seconds = in_turns(
        lambda: next_importance("eq7", importance, error, lam=0.15), lambda: np.copyto(target, source), repeats
    )
    return ratio(seconds, unit="pixels/s", amount=pixels)


def epoch_vs_bare(repeats: int, steps: int = 30) -> dict[str, Any]:
    """An epoch of VDSR-f13 through bank and loop, against a bare loop over one ready batch with the same kernels."""
    device, sweep = torch.device("cpu"), demo()
    precision = fastest(device)
    config = replace(sweep.run(rule="eq7", lam=0.15, teacher="none", rho=0.8), depth=None)
    with tempfile.TemporaryDirectory() as folder:
        prepared = plan_data(sweep, as_path(folder))
        build_data(prepared, say=lambda line: None)
        shards = {s: Shard(path) for s, path in enumerate(prepared.shard_paths)}
    bank = Bank(shards, total_shards=len(shards), crop=config.crop, seed=0)
    for s, shard in shards.items():
        bank.weigh(s, np.full(shard.pixels, 0.5, np.float16))
    state = TrainState(placed(build_model("vdsr", width=13), precision, device), config)
    batch = bank.crops(round=0, epoch=0, step=0, batch=config.batch)

    def epoch() -> None:
        crops = steps * config.batch
        train_epoch(state, bank, round=0, epoch=0, crops=crops, group=Group(), precision=precision)

    def bare() -> None:
        for _ in range(steps):
            state.optimizer.zero_grad()
            weighted_loss(state.student, batch, precision)[0].backward()
            torch.nn.utils.clip_grad_norm_(state.student.parameters(), config.clip)
            state.optimizer.step()

    return ratio(in_turns(epoch, bare, repeats), unit="patches/s", amount=steps * config.batch)


BENCHMARKS: dict[str, Callable[[int], dict[str, Any]]] = {
    "update_vs_copy": update_vs_copy,
    "epoch_vs_bare": epoch_vs_bare,
}


def in_turns(ours: Callable[[], Any], other: Callable[[], Any], repeats: int) -> list[tuple[float, float]]:
    """Seconds of both, measured alternately after a warm-up of each, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        pairs = [(_seconds(ours), _seconds(other)) for _ in range(repeats + 1)]
    finally:
        torch.set_num_threads(threads)
    return pairs[1:]


def ratio(pairs: list[tuple[float, float]], *, unit: str, amount: float) -> dict[str, Any]:
    """Our speed over the other's, the median pair by pair with its extremes, and our speed itself."""
    ratios = [other / ours for ours, other in pairs]
    return {
        "ratio": statistics.median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "speed": amount / statistics.median(ours for ours, _ in pairs),
        "unit": unit,
    }


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started

"""What each phase costs against pixels, shards, workers and trials: `python tests/scaling.py`, some minutes.

Measures on this machine as far as it reaches, fits `a + b n`, prints both and draws docs/scaling.png. Workers
are processes that share these cores and only add up their gradients; trials are run directories without training.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from matplotlib.figure import Figure
from PIL import Image
from upath import UPath

from ail_ray.imaging.bank import Bank
from ail_ray.imaging.pairs import Pair, _deal, plan_corpus
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import histogram
from ail_ray.learning.inference import error_map
from ail_ray.learning.precision import fastest, placed
from ail_ray.learning.records import Row, Spread
from ail_ray.networks.architectures import VDSR
from ail_ray.networks.counts import parameter_count
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.importance_store import ImportanceStore
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.tensors import write_tensors
from ail_ray.tracking.mirror import Tracker

SIDE = 400  # pixels of a synthetic image
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Phase:
    """A phase measured at several sizes."""

    name: str
    against: str
    sizes: list[int]
    seconds: list[float]
    power: int = 1

    def fit(self) -> tuple[float, float]:
        """`a` and `b` of `a + b n^power`, none negative, every size counting alike (relative errors are minimised)."""
        n, y = np.array(self.sizes, float) ** self.power, np.array(self.seconds)
        a, b = np.linalg.lstsq(np.stack([1 / y, n / y], axis=1), np.ones(len(n)), rcond=None)[0]
        if b < 0:
            return float(np.median(y)), 0.0
        return (0.0, float(np.median(y / n))) if a < 0 else (float(a), float(b))


def main() -> None:
    """Measure, fit, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", help="file for the measurements")
    parser.add_argument("--picture", default=str(Path(__file__).parents[1] / "docs" / "scaling.png"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    phases = []
    for measure in (over_pixels, over_images, over_shards, over_workers, over_trials):
        with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
            for phase in measure(UPath(folder)):
                phases.append(phase)
                a, b = phase.fit()
                shown = ", ".join(f"{n:,}: {s:.3g}" for n, s in zip(phase.sizes, phase.seconds, strict=True))
                print(
                    f"{phase.name} by {phase.against}: {a:.2g} s + {b:.3g} s × n^{phase.power}   ({shown} s)",
                    flush=True,
                )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps([asdict(phase) for phase in phases], indent=1) + "\n")
    draw(phases).savefig(arguments.picture, dpi=100)


def over_pixels(folder: UPath) -> Iterator[Phase]:
    """Phases of a round on one shard: what the student errs, the update and its commit, reading it, its histogram."""
    student, precision = placed(VDSR(13), fastest(CPU), CPU), fastest(CPU)
    counts = [1, 3, 10]
    shards = [synthetic(folder / f"{n}.safetensors", n) for n in counts]
    seconds = [timed(lambda shard=shard: error_map(student, shard, precision), 2) for shard in shards]
    yield Phase("error pass", "pixels", [shard.pixels for shard in shards], seconds)
    sizes, update, read, count = [10**6, 10**7, 10**8], list[float](), list[float](), list[float]()
    config = RunConfig(teacher="random", rule="eq7")
    for n in sizes:
        error = np.full(n, 0.01, np.float16)
        store = ImportanceStore(folder / f"run-{n}", config, None)
        store.initialise(0, n)
        update.append(timed(lambda s=store, e=error: s.update(1, 0, e), 1))
        read.append(timed(lambda s=store: s.read(1, 0), 1))
        importance = store.read(1, 0)
        count.append(timed(lambda w=importance: histogram(w), 1))
    yield Phase("update and commit of W", "pixels", sizes, update)
    yield Phase("reading W with its checksum", "pixels", sizes, read)
    yield Phase("histogram of W", "pixels", sizes, count)
    batches = [batch_seconds([shard] * 4) for shard in shards]
    yield Phase("a batch of 16 crops", "pixels", [4 * shard.pixels for shard in shards], batches)


def over_images(folder: UPath) -> Iterator[Phase]:
    """Planning a corpus: looking at its files, and dealing pairs out to shards."""
    for i in range(1000):
        Image.fromarray(np.full((48, 48), i % 256, np.uint8)).save(str(folder / f"{i:04d}.png"))
    files = sorted(folder.glob("*.png"))
    sizes = [10, 100, 1000]
    plans = [
        timed(lambda n=n: plan_corpus(files[:n], downsizes=(1.0,), scales=(2,), crop=41, shards=4), 1) for n in sizes
    ]
    yield Phase("planning from local files", "images", sizes, plans)
    many = [10**3, 10**4, 10**5]
    pairs = [Pair(content="", downsize=1.0, scale=2, height=300 + i % 200, width=400, path="") for i in range(many[-1])]
    yield Phase(
        "dealing out to 1,000 shards", "images", many,
        [timed(lambda n=n: _deal(pairs[:n], 1000), 1) for n in many],
    )  # fmt: skip


def over_shards(folder: UPath) -> Iterator[Phase]:
    """A step's crops from many shards, and the update of that many small ones."""
    shard, sizes = synthetic(folder / "shard.safetensors", 1), [1, 10, 100, 1000]
    yield Phase("a batch of 16 crops", "shards", sizes, [batch_seconds([shard] * n) for n in sizes])
    seconds = []
    for n in sizes:
        store = ImportanceStore(folder / f"run-{n}", RunConfig(teacher="none", rule="eq7"), None)
        for s in range(n):
            store.initialise(s, 1000)
        error = np.zeros(1000, np.float16)
        seconds.append(timed(lambda n=n, s=store, e=error: [s.update(1, i, e) for i in range(n)], 1))
    yield Phase("update of W, shards of 1,000 pixels", "shards", sizes, seconds)


def over_workers(folder: UPath) -> Iterator[Phase]:
    """The sum of a VDSR-f13's gradients over processes that all run on these cores."""
    sizes, seconds = [2, 4, 8, 16, 32, 64], []
    for n in sizes:
        found = folder / f"{n}.json"
        mp.start_processes(_sums, (n, str(folder / f"meet-{n}"), str(found)), n, start_method="fork")
        seconds.append(json.loads(found.read_text()))
    yield Phase("sum of gradients, all on these cores", "workers", sizes, seconds, power=2)


def _sums(rank: int, size: int, meet: str, found: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}", rank=rank, world_size=size)
    gradient = torch.zeros(parameter_count(VDSR(13)) + 2)
    for _ in range(3):
        dist.all_reduce(gradient)
    dist.barrier()
    seconds = timed(lambda: [dist.all_reduce(gradient) for _ in range(20)], 1) / 20
    if rank == 0:
        Path(found).write_text(json.dumps(seconds))
    dist.destroy_process_group()


def over_trials(folder: UPath) -> Iterator[Phase]:
    """What the sweep's driver does for the rounds of many trials: it reads their records and sends them to MLflow."""
    tracker = Tracker(
        f"sqlite:///{folder / 'mlflow.db'}", sweep="scaling", name="scaling", note="", params={}
    )  # fmt: skip
    sizes, seconds = [1, 10, 50], []
    for n in sizes:
        runs = [_recorded(folder / f"sweep-{n}" / f"{n}-{i}") for i in range(n)]
        seconds.append(timed(lambda runs=runs: [tracker.mirror(run, {}) for run in runs], 1))
    yield Phase("first round of each in MLflow (SQLite)", "trials", sizes, seconds)


def _recorded(path: UPath) -> Trial:
    """A run whose round 0 is committed, without a student."""
    run = RunDirectory(path)
    manifest = run.create(RunConfig(), corpus="c", precision="fp32", threads=1, workers=1)
    rows = [Row(set=name, scale=2, psnr=30.0, ssim=0.9) for name in ("a", "b", "c")]
    spread = Spread(mean=0.5, saturated=0.0, p05=0.5, p25=0.5, p50=0.5, p75=0.5, p95=0.5)
    record = RoundRecord(
        round=0, time=time.time(), importance=spread, seconds={"theta": 1.0}, epochs=(), loss=0.1, squared_error=0.1,
        patches_per_second=100.0, validation=tuple(rows[:1]), test=tuple(rows[1:]),
    )  # fmt: skip
    run.manifests.write(replace(manifest, last_round=0, record=record))
    return replace(read_trial(path), name="trial")


def synthetic(path: UPath, images: int) -> Shard:
    """A shard of noise."""
    hr = np.random.default_rng(0).integers(0, 256, images * SIDE**2, np.uint8)
    sides = np.full(images, SIDE)
    write_tensors(
        path,
        {"hr": hr, "inputs": (hr / 255).astype(np.float16), "small": np.zeros(images * (SIDE // 2) ** 2, np.float16),
         "heights": sides, "widths": sides, "scales": np.full(images, 2)},
    )  # fmt: skip
    return Shard(path)


def batch_seconds(shards: list[Shard]) -> float:
    """Of cutting a batch of 16 crops from a bank of these shards."""
    bank = Bank(dict(enumerate(shards)), total_shards=len(shards), crop=41, seed=0)
    half = np.full(max(shard.pixels for shard in shards), 0.5, np.float16)
    for s, shard in enumerate(shards):
        bank.weigh(s, half[: shard.pixels])
    return timed(lambda: [bank.crops(round=0, epoch=0, step=step, batch=16) for step in range(20)], 5) / 20


def timed(work: Callable[[], object], repeats: int) -> float:
    """Seconds: the median of some repeats."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def draw(phases: list[Phase]) -> Figure:
    """A panel for each quantity: points are measured, lines are fitted and go on to where nothing was measured."""
    ends = {"pixels": 1e9, "images": 1e6, "shards": 1e4, "workers": 64, "trials": 100}
    figure = Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    for axis, (against, end) in zip(axes.flat, ends.items(), strict=False):
        for phase in (phase for phase in phases if phase.against == against):
            a, b = phase.fit()
            n = np.geomspace(phase.sizes[0], end, 50)
            (line,) = axis.loglog(n, a + b * n**phase.power, "--")
            axis.loglog(phase.sizes, phase.seconds, "o", color=line.get_color(), label=phase.name)
        if against == "workers":
            axis.set_xscale("log", base=2)
        axis.set(xlabel=against, ylabel="seconds")
        axis.legend(fontsize="small")
    axes[-1, -1].set_axis_off()
    return figure


if __name__ == "__main__":
    main()

"""How fast the parts of a run are in one process: a step, an epoch, the closed form, an enlargement."""

import copy
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from ail_ray.benchmarks.released import released_step
from ail_ray.benchmarks.timing import Figure, in_turns, ratio
from ail_ray.delivery.onnx import INPUT, to_onnx
from ail_ray.files import as_path, write_bytes
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, super_resolve
from ail_ray.learning.precision import Precision, fastest, placed
from ail_ray.learning.presets import demo
from ail_ray.learning.records import EpochLog
from ail_ray.learning.rules import next_importance
from ail_ray.learning.theta import TrainState, train_epoch, weighted_loss
from ail_ray.machine import cores
from ail_ray.networks.building import build_model
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.preparation import build_data, plan_data
from ail_ray.tensors import write_tensors

CPU = torch.device("cpu")
EPOCHS = 2  # of a round, that its error pass is shared by


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A student at work on the bundled photographs, as a run would have it."""

    config: RunConfig
    bank: Bank
    state: TrainState
    precision: Precision

    def epoch(self, steps: int) -> None:
        """Train for so many steps through bank, loop and log."""
        train_epoch(
            self.state, self.bank, round=0, epoch=0, crops=steps * self.config.batch, group=Group(),
            precision=self.precision,
        )  # fmt: skip


@contextmanager
def trainer(**changes: object) -> Iterator[Trainer]:
    """A trainer of VDSR-f13 by the demo's protocol with these changes, where all importance is one half."""
    config = demo().run({"rule": "reference", "teacher": "none", "depth": None, **changes})
    with tempfile.TemporaryDirectory() as folder:
        prepared = plan_data(config, as_path(folder))
        build_data(prepared, say=lambda line: None)
        shards = {s: Shard(path) for s, path in enumerate(prepared.data.shard_paths)}
        bank = Bank(shards, total_shards=len(shards), crop=config.crop, seed=0)
        for s, shard in shards.items():
            bank.weigh(s, np.full(shard.pixels, 0.5, np.float16))
        precision = fastest(CPU)
        yield Trainer(
            config=config, bank=bank, precision=precision,
            state=TrainState(placed(config.student(), precision, CPU), config),
        )  # fmt: skip


def step_vs_reference(repeats: int = 5, *, batch: int = 128, depth: int | None = None) -> Figure:
    """Our weighted step against one that runs VDSR-64 as teacher and the previous student too, on all cores.

    Ours goes through bank and loop, and includes its share of the error pass and of the update, of which a round has
    one each. The other has its batch at hand.
    """
    with trainer(batch=batch, depth=depth, optimizer="sgd", learning_rate=1e-4) as ours:
        config, shard = ours.config, ours.bank.shards[0]
        crops = ours.bank.crops(round=0, epoch=0, step=0, batch=batch)
        student = config.student()
        previous, teacher = copy.deepcopy(student), build_model("vdsr", width=64, depth=depth)
        optimizer = torch.optim.SGD(student.parameters(), 1e-4, momentum=0.9, weight_decay=1e-4)
        before = np.zeros(shard.pixels, np.float16)

        def w_subproblem() -> None:
            next_importance("eq7", before, error_map(ours.state.student, shard, ours.precision), lam=config.lam)

        works: list[Callable[[], object]] = [
            lambda: ours.epoch(1),
            w_subproblem,
            lambda: released_step(student, optimizer, teacher, previous, crops, 1, config),
        ]
        rounds = in_turns(works, repeats, threads=cores())
        share = batch * config.crop**2 / EPOCHS / shard.pixels
        pairs = [(step + share * update, other) for step, update, other in rounds]
        shares = sorted(share * update / (step + share * update) for step, update, _ in rounds)
        return ratio(pairs, unit="crops", amount=batch, precision=ours.precision, w_share=shares[len(shares) // 2])


def epoch_vs_bare(repeats: int = 9, *, steps: int = 20) -> Figure:
    """An epoch of VDSR-f13 through bank, loop and log, against a bare loop over one ready batch, on one thread."""
    with trainer() as ours:
        config, state = ours.config, ours.state
        crops = ours.bank.crops(round=0, epoch=0, step=0, batch=config.batch)

        def bare() -> None:
            for _ in range(steps):
                state.optimizer.zero_grad()
                weighted_loss(state.student, crops, ours.precision)[0].backward()
                torch.nn.utils.clip_grad_norm_(state.student.parameters(), config.clip)
                state.optimizer.step()

        pairs = in_turns([lambda: ours.epoch(steps), bare], repeats)
        return ratio(pairs, unit="crops", amount=steps * config.batch, precision=ours.precision)


def update_vs_copy(repeats: int = 15, *, pixels: int = 20_000_000) -> Figure:
    """Eq. 7 on a shard as its actor solves it, against a copy of the same 6 bytes a pixel, on one thread."""
    generator = np.random.default_rng(0)
    importance, error = (generator.random(pixels, np.float32).astype(np.float16) for _ in range(2))
    source, target = np.ones((3, pixels), np.float16), np.zeros((3, pixels), np.float16)
    pairs = in_turns(
        [lambda: next_importance("eq7", importance, error, lam=0.15), lambda: np.copyto(target, source)], repeats
    )
    return ratio(pairs, unit="pixels", amount=pixels)


def commit(repeats: int = 31) -> Figure:
    """An epoch's commit of a VDSR-f13 with Adam, as a run makes it, where you stand; in milliseconds, medians.

    Besides: the two files that it consists of written so that they last, but by whoever comes; the same written
    plainly; and the flushing of a folder alone.
    """
    config = RunConfig(optimizer="adam", teacher="none")
    state = TrainState(config.student(), config)
    state.student(torch.rand(1, 1, 8, 8)).square().sum().backward()
    state.optimizer.step()
    arrays, epochs = state.tensors(), iter(range(repeats + 1))
    with tempfile.TemporaryDirectory(dir=".", prefix=".commit-") as folder:
        directory = RunDirectory(as_path(folder) / "run", holder="benchmark")
        directory.create(config, corpus="", precision="fp32", threads=1, workers=1)
        place = as_path(folder) / "state.safetensors"
        write_tensors(place, arrays)
        content, (manifest,) = place.read_bytes(), [p.read_bytes() for p in (directory.path / "manifests").iterdir()]

        def epoch() -> None:
            log = EpochLog(round=0, epoch=next(epochs), loss=1.0, squared_error=1.0, crops=1, seconds=1.0)
            directory.commit_epoch(log, arrays)

        def lasting() -> None:
            write_tensors(place, arrays)
            write_bytes(as_path(folder) / "manifest.json", manifest)

        def plain() -> None:
            (Path(folder) / "plain").write_bytes(content)
            (Path(folder) / "plain.json").write_bytes(manifest)

        def flush() -> None:
            handle = os.open(folder, os.O_RDONLY)
            os.fsync(handle)
            os.close(handle)

        found = list(zip(*in_turns([epoch, lasting, plain, flush], repeats), strict=True))
    whole, lasts, plainly, flushed = (1000 * statistics.median(seconds) for seconds in found)
    return {"ratio": whole, "lowest": 1000 * min(found[0]), "highest": 1000 * max(found[0]),
            "lasting_ms": lasts, "plain_ms": plainly, "folder_flush_ms": flushed}  # fmt: skip


def inference(repeats: int = 9, *, height: int = 720, width: int = 1280, threads: int = 2) -> Figure:
    """VDSR-f13 on an image enlarged to 1280×720, against ONNX Runtime on the same network, both in fp32."""
    model = build_model("vdsr", width=13)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(to_onnx(model), options, providers=["CPUExecutionProvider"])
    ours, image = placed(model, "fp32", CPU).eval(), torch.rand(height, width)
    batch = {INPUT: image[None, None].numpy()}
    found, other = super_resolve(ours, image, "fp32").numpy(), session.run(None, batch)[0][0, 0]
    pairs = in_turns(
        [lambda: super_resolve(ours, image, "fp32"), lambda: session.run(None, batch)], repeats, threads=threads
    )
    off = float(np.abs(found - other).max())
    return ratio(pairs, unit="images", amount=1, apart=off)

"""What a GPU makes of the training: `make gpu`, or `python tests/gpu.py --json gpu.json`, at most eight minutes.

For a bare machine with a GPU: of the package's dependencies it needs torch, numpy, pillow, scipy, scikit-image,
safetensors, universal-pathlib, msgspec, pyyaml and what these need, but neither Ray nor MLflow. In the root of a
checkout the package need not be installed: `PYTHONPATH=. python tests/gpu.py`.

It measures golden numbers, agreement with the processor, steps a second and what bounds them, PSNR after 36,000 crops
of the bundled photographs, and how fast several trainings on one GPU are together. Exit code: 0, 1 if a number is
wrong, 2 without a GPU.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from operator_calls import per_step

from ail_ray.files import as_path, write_bytes
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.metrics import border, psnr
from ail_ray.imaging.shards import Shard
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.importance import initial_importance, update_importance
from ail_ray.learning.inference import error_map, predict
from ail_ray.learning.precision import Precision, placed
from ail_ray.learning.presets import demo
from ail_ray.learning.theta import TrainState, train_epoch
from ail_ray.runs.preparation import build_data, plan_data

CPU = torch.device("cpu")
Found = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; by default what takes a GPU some minutes."""

    batch: int = 64
    depth: int = 20
    steps: int = 300  # timed at once
    together: int = 20  # steps that the processor trains too
    crops: int = 36_000
    trials: tuple[int, ...] = (1, 2, 4, 8)
    seconds: float = 10  # of each count of trials


QUICK = Size(batch=8, depth=3, steps=2, together=2, crops=16, trials=(), seconds=0)


class Sample:
    """The bundled photographs, prepared once, and trainings on them."""

    def __init__(self, folder: str, size: Size) -> None:
        self.size = size
        self.config: RunConfig = demo().run(
            {"rule": "uniform", "teacher": "none", "depth": size.depth, "batch": size.batch, "seed": 0}
        )
        prepared = plan_data(self.config, as_path(folder))
        build_data(prepared, say=lambda line: None)
        self.paths = prepared.data.shard_paths
        (path, *_) = prepared.data.validation
        self.validation = EvaluationImages.load(path)

    def training(self, device: torch.device, precision: Precision) -> "Training":
        """One that begins anew; all pixels have importance 1."""
        shards = {s: Shard(path, device) for s, path in enumerate(self.paths)}
        bank = Bank(shards, total_shards=len(shards), crop=self.config.crop, seed=0)
        for s, shard in shards.items():
            bank.weigh(s, np.ones(shard.pixels, np.float16))
        student = placed(self.config.drawn(), precision, device)
        return Training(bank=bank, state=TrainState(student, self.config), precision=precision)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A student at work."""

    bank: Bank
    state: TrainState
    precision: Precision

    def __call__(self, steps: int) -> tuple[float, float]:
        """Loss and seconds of an epoch of so many steps."""
        log = train_epoch(
            self.state, self.bank, round=0, epoch=0, crops=steps * self.state.config.batch, group=Group(),
            precision=self.precision,
        )  # fmt: skip
        return log.loss, log.seconds


def golden(sample: Sample, device: torch.device) -> Found:
    """Eqs. 7 and 8 and PSNR by known numbers, and the errors of a student that changes nothing, on the device."""
    first = initial_importance(np.array([0, 0.01, 0.05], np.float32), mu0=0.01, alpha0=100.0)
    raised = update_importance(np.array([0.2, 0.2, 0.95], np.float32), np.array([0, 1, 0], np.float32), lam=0.15)
    flat = np.full((16, 16), 100, np.uint8)
    off = [
        float(np.abs(first - [1, 0.683940, 0.0246024]).max()),
        float(np.abs(raised - [0.35, 0.2551819, 1]).max()),
        abs(psnr(flat, flat + np.uint8(1), 0) - 48.130804),
    ]
    student = placed(sample.config.drawn(), "fp32", device)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()  # what is left is the skip: the enlarged input
    here = Shard(sample.paths[0])
    error = (here.hr.float() / 255 - here.inputs.float()).abs().half().numpy()
    off.append(float(np.abs(error_map(student, Shard(sample.paths[0], device), "fp32") - error).max()))
    return {
        "holds": max(off[:3]) < 1e-5 and off[3] < 1e-3,
        "eq8": off[0],
        "eq7": off[1],
        "psnr": off[2],
        "error_map": off[3],
    }


def agreement(sample: Sample, device: torch.device) -> Found:
    """The same steps in fp32 on the device and on the processor; a GPU's convolutions may compute in TF32."""
    steps = sample.size.together
    ours, theirs = (sample.training(each, "fp32") for each in (device, CPU))
    losses = [ours(steps)[0], theirs(steps)[0]]
    apart = abs(losses[0] / losses[1] - 1)
    arrays = [each.state.tensors() for each in (ours, theirs)]
    weights = max(float(np.abs(arrays[0][name] - arrays[1][name]).max()) for name in arrays[1])
    return {"holds": apart < 0.01, "steps": steps, "losses": losses, "relative": apart, "largest_difference": weights}


def speed(sample: Sample, device: torch.device, precision: Precision) -> Found:
    """Steps a second, and what bounds them: launches, copies and waits of a step, and how busy the GPU is."""
    train, steps = sample.training(device, precision), sample.size.steps
    train(max(1, steps // 10))
    seconds = min(train(steps)[1] for _ in range(3))
    found: Found = {"steps_per_second": steps / seconds, "crops_per_second": steps * sample.size.batch / seconds}
    if device.type == "cuda":
        return found | profiled(train, steps // 3) | {"waits_of_an_epoch": waits(train, steps)}
    return found | per_step(train, min(steps, 5))


def waits(train: Callable[[int], object], steps: int) -> int:
    """How often an epoch waits for the GPU, as torch counts it; a step that did would make it as many as steps."""
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            train(steps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in said)


def profiled(train: Callable[[int], object], steps: int) -> Found:
    """Of a step, by torch's profiler: kernels, copies, launches and waits; and how busy the GPU is."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as profile:
        started = time.perf_counter()
        train(steps)
        wall = time.perf_counter() - started
    there = [e for e in profile.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    names = Counter(event.name.split(" ")[0] for event in profile.events())
    copies = sum(event.name.startswith("Memcpy") for event in there)
    return {
        "kernels": (len(there) - copies) / steps,
        "copies": copies / steps,
        "launches": sum(n for name, n in names.items() if name.startswith(("cudaLaunch", "cuLaunch"))) / steps,
        "waits": sum(n for name, n in names.items() if name.endswith("Synchronize")) / steps,
        "busy": sum(event.time_range.elapsed_us() for event in there) / 1e6 / wall,  # while profiled
    }


def quality(sample: Sample, device: torch.device) -> Found:
    """PSNR (dB) of bicubic interpolation, and of a student after so many crops, on the photographs held back."""
    train, images = sample.training(device, "fp32"), sample.validation
    train(-(-sample.size.crops // sample.size.batch))

    def mean(model: Any) -> float:
        made = [predict(model, inputs) for inputs in images.inputs(1)]
        shaved = border(images.scale)
        return float(np.mean([psnr(hr, sr, shaved) for hr, sr in zip(images.hr, made, strict=True)]))

    return {"crops": sample.size.crops, "bicubic": mean(None), "student": mean(train.state.student.eval())}


def shared(sample: Sample, device: torch.device) -> dict[str, float]:
    """Steps a second of all together, for each count of one-worker trainings at once, each a process of its own."""
    return {str(count): _together(count, sample.size.seconds, device) for count in sample.size.trials}


def _together(count: int, seconds: float, device: torch.device) -> float:
    command = [sys.executable, __file__, "--device", str(device), "--trial", str(seconds)]
    trials = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    for trial in trials:
        assert trial.stdout is not None
        trial.stdout.readline()  # it is warm
    for trial in trials:
        assert trial.stdin is not None
        trial.stdin.write("go\n")
        trial.stdin.flush()
    return sum(float(trial.communicate()[0]) for trial in trials)


def trial(sample: Sample, device: torch.device, seconds: float, say: Callable[[str], None], wait: Any) -> None:
    """Train until somebody waits no longer, then for so many seconds; say how many steps a second that were."""
    train, steps, done = sample.training(device, "fp32"), sample.size.steps, 0
    train(steps)
    say("warm")
    wait()
    started = time.perf_counter()
    while not done or time.perf_counter() - started < seconds:
        train(steps)
        done += steps
    say(str(done / (time.perf_counter() - started)))


def measure(sample: Sample, device: torch.device) -> Found:
    """Everything, and a line for each part as soon as it is there."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    found: Found = {"device": name, "torch": torch.__version__, "cuda": torch.version.cuda, "cores": os.cpu_count()}
    parts: dict[str, Callable[[], Found]] = {
        "golden": lambda: golden(sample, device),
        "agreement": lambda: agreement(sample, device),
        "fp32": lambda: speed(sample, device, "fp32"),
        "bf16": lambda: speed(sample, device, "bf16"),
        "quality": lambda: quality(sample, device),
        "trials": lambda: shared(sample, device),
    }
    for part, work in parts.items():
        started = time.perf_counter()
        found[part] = work()
        print(f"{part:10}{time.perf_counter() - started:6.1f} s  {json.dumps(found[part])}", flush=True)
    return found


def main(words: list[str] | None = None) -> int:
    """Measure, print and write; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="so little that it only shows that the script works")
    parser.add_argument("--json", default="gpu.json", help="file for what was measured")
    parser.add_argument("--trial", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    device = torch.device(given.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("gpu: torch sees none here; --device cpu --quick tries the script on the processor", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(folder, QUICK if given.quick else Size())
        if given.trial is not None:
            trial(sample, device, given.trial, lambda line: print(line, flush=True), sys.stdin.readline)
            return 0
        found = measure(sample, device)
    write_bytes(as_path(given.json), (json.dumps(found, indent=1) + "\n").encode())
    return int(not (found["golden"]["holds"] and found["agreement"]["holds"]))


if __name__ == "__main__":
    sys.exit(main())

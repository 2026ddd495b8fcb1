"""A check, which takes a minute, that this machine computes what it should, with a verdict to paste into a report."""

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from upath import UPath

from ail_ray.learning.config import RunConfig
from ail_ray.learning.inference import super_resolve
from ail_ray.learning.precision import Precision, fastest, placed
from ail_ray.machine import machine, versions
from ail_ray.networks.architectures import VDSR
from ail_ray.orchestration.cluster import cluster
from ail_ray.orchestration.trials import run_on_ray
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import build_data, plan_data
from ail_ray.runs.run import TrialPlan, run_local
from ail_ray.tensors import read_tensors

# Two rounds in float64 on the bundled photographs, as they came out on x86-64 with torch 2.13.
SQUARED_ERROR, IMPORTANCE, PSNR = 0.342143478, 0.588611, 11.506473
CONFIG = RunConfig(
    train=("sample",), validation=("sample-val",), test=(), width=4, depth=4, downsizes=(0.5,), shards=4, rounds=1,
    epochs=1, crops=64, batch=16, optimizer="adam", learning_rate=3e-3, schedule="cosine", weight_decay=0.0,
    teacher="random", precision="fp64",
)  # fmt: skip

Line = tuple[str, bool, str]
"""A line of the check: what was looked at, whether it is as it should be, and what was found."""


def check(gpu: bool, say: Callable[[str], None] = print) -> bool:
    """Look at everything, and print a line for each; returns whether all is as it should be."""
    started, right = time.perf_counter(), True
    for what, holds, found in _lines(torch.device("cuda" if gpu else "cpu")):
        say(f"{'ok' if holds else 'WRONG':7}{what:22}{found}")
        right = right and holds
    say(f"{'all is well' if right else 'something is wrong'}, {time.perf_counter() - started:.0f} s")
    return right


def _lines(device: torch.device) -> Iterator[Line]:
    yield "machine", True, "; ".join(f"{name} {value}" for name, value in {**machine(), **versions()}.items())
    yield "device", True, f"{torch.cuda.get_device_name(device) if device.type == 'cuda' else features()}"
    yield _precision(device)
    with tempfile.TemporaryDirectory() as folder:
        here, there = (_plan(UPath(folder) / name) for name in ("here", "there"))
        in_process = run_local(here, 1, device, lambda record: None)
        yield _values(in_process)
        count = min(2, torch.cuda.device_count()) if device.type == "cuda" else 2
        with cluster():
            placement = Placement(workers=count, gpu=device.type == "cuda")
            yield _agreement(in_process, run_on_ray(there, placement, lambda record: None), count)


def features() -> str:
    """The features of this processor that decide how fast torch is, and which of them torch uses."""
    flags = {
        word
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("flags")
        for word in line.split()
    }
    found = sorted(flags & {"avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16"})
    return f"CPU, torch uses {torch.backends.cpu.get_cpu_capability()}; it has {' '.join(found)}"


def _precision(device: torch.device) -> Line:
    """The precision that `auto` means here, and how far a network's output is from that in float64."""
    chosen = fastest(device)
    torch.manual_seed(0)
    network, image = VDSR(13), torch.rand(64, 64)
    outputs = []
    for precision in (chosen, "fp64"):
        kind: Precision = precision
        outputs.append(super_resolve(placed(network, kind, device), image.to(device), kind).double().cpu())
    off = float((outputs[0] - outputs[1]).abs().max() / outputs[1].abs().max())
    return "precision", off < (0.05 if chosen == "bf16" else 1e-4), f"auto is {chosen}, off by {off:.1e} of the largest"


def _plan(storage: UPath) -> TrialPlan:
    prepared = plan_data(CONFIG, storage)
    build_data(prepared, say=lambda line: None)
    return TrialPlan(config=CONFIG, data=prepared.data, maps=None, precision="fp64")


def _values(run: RunDirectory) -> Line:
    """Compare the last record of a run with the stored one."""
    record = run.record(run.last_round)
    found = (record.squared_error or 0.0, record.importance.mean, record.validation[0].psnr)
    expected = (SQUARED_ERROR, IMPORTANCE, PSNR)
    text = "squared error {:.9f}, importance {:.6f}, {:.6f} dB".format(*found)
    return "one AIL round", bool(np.allclose(found, expected, rtol=1e-5)), text


def _agreement(one: RunDirectory, other: RunDirectory, workers: int) -> Line:
    """Compare the same run in one process and on Ray, whose actors and all-reduce must change nothing."""
    students = [read_tensors(run.student_path(run.last_round))[0] for run in (one, other)]
    off = max(float(np.abs(students[0][name] - students[1][name]).max()) for name in students[0])
    return "store and all-reduce", off < 1e-10, f"{workers} Ray workers against one process: {off:.1e} apart"

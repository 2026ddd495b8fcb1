"""The door for a notebook and for programs: `import ail_ray as ail`, then `ail.train(...)`, `ail.sweep(...)` and so on.

Each function does what the command of its name does, refuses bad values with a `ConfigError` that has a line for each,
and returns typed results. Nothing is loaded that a function does not use: Ray and MLflow only by a sweep.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ail_ray.commands.chosen import chosen_model
from ail_ray.commands.sweep import run_sweep
from ail_ray.delivery.evaluate import benchmark
from ail_ray.delivery.upscale import enlarge_files, prepare
from ail_ray.errors import ConfigError
from ail_ray.imaging.colour import Format
from ail_ray.learning.precision import Precision
from ail_ray.learning.presets import preset as preset_of
from ail_ray.learning.records import Row
from ail_ray.networks.architectures import Network
from ail_ray.runs.placement import Placement
from ail_ray.runs.trial import Trial, read_trial
from ail_ray.sweeps.listeners import Unrecorded
from ail_ray.sweeps.sweep import InThisProcess, run_sweeps
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob

__all__ = ["ConfigError", "Measurements", "Summary", "Trial", "evaluate", "load", "sweep", "train", "upscale"]
Folder = str | PathLike[str]


@dataclass(frozen=True)
class Measurements:
    """PSNR in dB and SSIM of a model, a row for each image set and scale."""

    model: str
    rows: tuple[Row, ...]

    def to_pandas(self) -> Any:
        """The rows as a `pandas.DataFrame`."""
        import pandas  # comes with MLflow, and is asked for here only

        return pandas.DataFrame([{"model": self.model, **vars(row)} for row in self.rows])


def train(
    *,
    out: Folder = "ail_out",
    preset: str = "demo",
    threads: int = 1,
    gpu: bool = False,
    say: Callable[[str], None] = print,
    **config: Any,
) -> Trial:
    """Train one student by adaptive importance learning, in this process: no Ray, and no record in MLflow.

    The same call goes on where it was interrupted, and returns at once what is finished.

    Args:
        out: folder for the run directory.
        preset: `demo`, `mini` or `paper`; the first value of each of its fields is what `config` overrides.
        threads: CPU threads.
        say: is called with a line whenever something happens.
        config: fields of `ail_ray.learning.config.RunConfig`, such as `train=("photos",)`, `width=16`, `seed=1`.

    Returns:
        The run with all its records, pictures and weights: `trial.psnr`, `trial.weights`, `trial.records`.

    Raises:
        ConfigError: with a line for everything that is wrong; nothing has been started then.
        RuntimeError: the training failed, as with a loss that is no longer finite.
    """
    single = preset_of(preset).first().where(**config)
    if single.axes:
        raise ConfigError(
            [f"{name} has several values: one run is trained, a sweep takes several" for name in single.axes]
        )
    placement = Placement(threads=threads, gpu=gpu)
    job = SweepJob(sweep=single, placement=placement, out=str(out), local=True)
    (summary,) = run_sweeps({"run": job}, InThisProcess(), Unrecorded(), say=say)
    (trial,) = summary.trials
    if trial.status != "finished":
        raise RuntimeError(trial.reason or f"the run is {trial.status}")
    return read_trial(trial.path, trial.asked)


def sweep(
    *,
    out: Folder = "ail_out",
    preset: str = "demo",
    storage: str | None = None,
    workers: int | str = 1,
    threads: int = 1,
    gpu: bool = False,
    gpus_per_worker: float = 1.0,
    max_workers: int | None = None,
    local: bool = False,
    say: Callable[[str], None] = print,
    **config: Any,
) -> Summary:
    """Train students in every combination of the values given, on Ray or with `local` in this process.

    They are compared by PSNR on validation images, and MLflow records every round. The same call goes on where it was
    interrupted.

    Args:
        out: folder for `summary.json`; `storage`, by default the same, has the runs.
        preset: `demo`, `mini` or `paper`, which `config` overrides.
        workers: train workers of every trial, or a range such as `"1..4"`; each has `threads` CPU threads.
        gpus_per_worker: how much of a GPU a worker takes with `gpu`; trials of one worker may share one.
        max_workers: train workers that the cluster can grow to, all trials together.
        config: fields of `RunConfig` and `SweepConfig`; any of the former may have several values: `lam=[0.1, 0.15]`.

    Raises:
        ConfigError: with a line for everything that is wrong; nothing has been started then.
    """
    asked = preset_of(preset).where(**config)
    placement = Placement(workers=workers, threads=threads, gpu=gpu, gpus_per_worker=gpus_per_worker)
    job = SweepJob(
        sweep=asked, placement=placement, out=str(out), storage=storage, max_workers=max_workers, local=local
    )
    return run_sweep(job, name=preset, command="ail.sweep(...)", say=say)


def evaluate(
    model: str,
    sets: Sequence[str] = ("Set5", "Set14"),
    scales: Sequence[int] = (2,),
    *,
    network: Any = None,
    precision: Precision = "fp32",
    device: str | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Measurements:
    """Measure a model on image sets, on luma, without a border as wide as the scale.

    Args:
        model: `bicubic`, `champion`, a teacher's name, or the path of a .safetensors or .onnx file.
        sets: names of folders in $AIL_DATA_DIR, paths or addresses of folders, or `sample-val`.
        network: class of the model, or `file.py:Name`, if it is a network of your own.

    Raises:
        ConfigError: with a line for the model, each set, each scale and each image that cannot be used.
    """
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    rows = benchmark(
        model, sets, scales, precision=precision, device=where, say=say, load=partial(chosen_model, network=network)
    )
    return Measurements(model, tuple(rows))


def upscale(
    images: Folder | Sequence[Folder],
    model: str = "champion",
    *,
    scale: int = 2,
    out: Folder = "enlarged",
    format: Format | None = None,
    network: Any = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Enlarge pictures; colour, transparency, profile and camera data are kept, and no file is replaced.

    Args:
        images: image files, folders of images, or names of image sets.
        model, network: as in `evaluate`.
        format: `jpeg`, `png` or `webp`; by default that of each picture.

    Returns:
        The files in `out`, named NAME-x2.jpg and so on, in the order of the pictures; those that were there included.

    Raises:
        ConfigError: with a line for everything that is wrong; nothing has been enlarged then.
        RuntimeError: with a line for each picture that failed; the others were enlarged.
    """
    several = [images] if isinstance(images, str | PathLike) else images
    work = prepare(
        partial(chosen_model, network=network), model, scale, [str(image) for image in several], str(out), format
    )
    failures = list[str]()

    def heard(line: str) -> None:
        failures.extend([line] if ": failed: " in line else [])
        say(line)

    if enlarge_files(work, scale, say=heard, advance=lambda pixels: None):
        raise RuntimeError("\n".join(failures))
    return [Path(str(job.target)) for job in work.jobs]


def load(model: str, scale: int = 2, *, network: Any = None) -> Network:
    """A network as a `torch.nn.Module` from luma to luma; `model` and `network` are as in `evaluate`.

    Its `traits.upsampling` is 1 where it reads the bicubic-upsampled image, (N, 1, H, W) float32 on [0, 1].

    Raises:
        FileError (a ValueError): there is nothing of that name, or its file cannot be used.
        ConfigError: MLflow knows no champion for this scale, or cannot be asked.
    """
    return chosen_model(model, scale, network).eval()

"""Folders of sweeps with chosen numbers, as a driver and its workers leave them, without any training."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from upath import UPath

from ail_ray.files import digest_of, write_bytes, write_record
from ail_ray.imaging.panels import as_png, grey_map, side_by_side
from ail_ray.learning.config import RunConfig, described
from ail_ray.learning.records import Row, Rows, Spread
from ail_ray.learning.told import parameters
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.trial import title
from ail_ray.sweeps.sweep_file import Begun, Ledger

AIL = {"rule": "eq7", "teacher": "tiny"}
CONTROL = {"rule": "uniform"}


class MadeSweep:
    """A sweep whose driver is still there: trials are added one by one."""

    def __init__(
        self, out: Path, *, rounds: int = 2, command: str = "python jobs/ail_sweep.py demo", **protocol: Any
    ) -> None:
        self.out = UPath(out)
        self.protocol = {
            "train": ("sample",), "validation": ("val",), "test": ("Set5",), "depth": 4, "crops": 64, "rounds": rounds,
            "init": "identity",
        } | protocol  # fmt: skip
        searched = {
            "rho": [0.8],
            "width": [],
            "lam": [0.15],
            "teacher": ["tiny"],
            "rule": ["eq7", "uniform"],
            "seed": [0],
        }
        config = {k: list(v) if isinstance(v, tuple) else v for k, v in described(RunConfig(**self.protocol)).items()}
        self.ledger = Ledger(self.out / "sweep.json", name="made", command=command, config=config | searched, asked=6)

    def trial(self, *psnrs: float, pictures: bool = False, **searched: Any) -> RunDirectory:
        """A trial that has measured so many dB in its rounds; `finished` if those are all."""
        config = RunConfig(**self.protocol, **searched)
        directory = RunDirectory(self.out / "runs" / digest_of(described(config)))
        begun = Begun(
            name=title(config), directory=str(directory.path), parameters=parameters(config), rounds=config.rounds
        )
        self.ledger.began(begun)
        manifest = directory.create(
            config, corpus="0123456789abcdef", pairs=14, pixels=2_000_000, precision="fp32", threads=1, workers=1
        )
        for t, psnr in enumerate(psnrs):
            write_record(directory.record_path(t), record(config, t, psnr))
            if pictures:
                for name, png in drawn(t, psnr).items():
                    write_bytes(directory.record_path(t).with_suffix("") / name, png)
        directory.manifests.write(replace(manifest, last_round=len(psnrs) - 1))
        return directory

    def seeds(self, psnrs: Sequence[float], **searched: Any) -> None:
        """A finished trial for each seed 0, 1, …, by its last PSNR."""
        for seed, psnr in enumerate(psnrs):
            self.trial(psnr - 2, psnr - 1, psnr, seed=seed, **searched)


def row(name: str, psnr: float) -> Row:
    return Row(set=name, scale=2, psnr=psnr, ssim=0.9, images=3)


def rows(validation: float, test: float | None = None) -> Rows:
    """What something has measured on `val`, and maybe on Set5."""
    return Rows(validation=(row("val", validation),), test=() if test is None else (row("Set5", test),))


def record(config: RunConfig, t: int, psnr: float) -> RoundRecord:
    """What a round measures: `psnr` on validation images, 3 dB more on test images."""
    mean = 1.0 if config.rule == "uniform" else 0.5 + 0.125 * t
    quantiles = dict.fromkeys(("p05", "p25", "p50", "p75", "p95"), mean)
    return RoundRecord(
        round=t, time=1e9 + t, seconds={"theta": 1.0}, importance=Spread(mean=mean, saturated=mean / 2, **quantiles),
        validation=tuple(row(name, psnr) for name in config.validation),
        test=tuple(row(name, psnr + 3) for name in config.test), epochs=(), loss=1e-3 / (t + 1),
        squared_error=2e-3 / (t + 1), patches_per_second=100.0,
    )  # fmt: skip


def drawn(t: int, psnr: float) -> dict[str, bytes]:
    """The pictures of a round, small, under captions as a run's: a training image with its importance, and crops."""
    generator = np.random.default_rng(t)
    image = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    importance = [grey_map(np.full((48, 64), 0.1 * t, np.float32)), image, image, image]
    crops = [generator.integers(0, 255, (32, 32), np.uint8) for _ in range(4)]
    named = {
        "importance-0.png": (
            importance,
            [f"importance, mean {0.1 * t:.3f}", "student's error, mean 0", "training image", "student"],
        ),
        "val-x2-0.png": (crops, ["bicubic 25.00 dB", f"student {psnr:.2f} dB", "original", "student's error"]),
    }
    return {name: as_png(side_by_side(images, captions), captions) for name, (images, captions) in named.items()}

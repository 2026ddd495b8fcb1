"""A few synthetic images, a small teacher, and runs so small that they last a second."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.entities import Run
from PIL import Image
from upath import UPath

from ail_ray.files import digest_of, read_json, write_json
from ail_ray.learning.config import RunConfig
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.learning.teachers import OurWeights
from ail_ray.learning.weights import save_model
from ail_ray.networks.architectures import VDSR
from ail_ray.runs.preparation import build_data, find_start, here, plan_data
from ail_ray.runs.run import TrialPlan
from ail_ray.runs.teacher_maps import teacher_maps
from ail_ray.sweeps.sweep_job import SweepJob

SIDES = [(64, 64), (64, 80), (80, 64), (72, 72), (80, 96), (96, 80)]  # (height, width), pixels


@dataclass(frozen=True)
class TinyFiles:
    """Folders of images and the weights of a teacher."""

    train: Path
    validation: Path
    teacher: Path

    def protocol(self) -> dict[str, Any]:
        """A protocol on these images that trains in about a second, in float64."""
        return {
            "train": (str(self.train),), "validation": (str(self.validation),), "test": (), "downsizes": (1.0,),
            "depth": 3, "shards": 4, "crop": 16, "batch": 8, "crops": 32, "rounds": 3, "epochs": 2,
            "optimizer": "adam", "learning_rate": 1e-3, "schedule": "cosine", "weight_decay": 0.0, "precision": "fp64",
            "init": "identity",
        }  # fmt: skip


def as_options(values: dict[str, Any]) -> list[str]:
    """Values of a configuration as the words of a command line."""
    words = []
    for name, value in values.items():
        listed = value if isinstance(value, tuple) else (value,)
        words += [f"--{name.replace('_', '-')}", *map(str, listed)]
    return words


PlanMaker = Callable[..., TrialPlan]


def newest_manifest(run: UPath) -> UPath:
    """The manifest of a run's last commit."""
    return max((run / "manifests").glob("*.json"), key=lambda path: path.name)


def rewrite_manifest(path: UPath, **changes: Any) -> None:
    """Change a manifest, whose checksum is right again, as whoever can write one can."""
    content = {name: value for name, value in read_json(path).items() if name != "sha256"} | changes
    write_json(path, content | {"sha256": digest_of(content, length=64)})


def as_format_2(run: UPath) -> None:
    """Make of a run what the versions before have left: one manifest, and states named by their places."""
    newest = newest_manifest(run)
    content = read_json(newest)
    for place in [*content["places"], *content["ends"]]:
        state = run / "state" / f"commit-{place[3]:08d}.safetensors"
        old = f"round-{place[0]:03d}-epoch-{place[1]:02d}-step-{place[2]:06d}.safetensors"
        if state.exists():
            state.rename(run / "state" / old)
    places = [place[:3] for place in content["places"]]
    rewrite_manifest(newest, format=2, places=places)
    content = {k: v for k, v in read_json(newest).items() if k not in ("record", "holder", "failure", "ends", "sha256")}
    write_json(run / "manifest.json", content | {"sha256": digest_of(content, length=64)})
    shutil.rmtree(str(run / "manifests"))


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth ramp, sharp bars and boxes, and one corner of noise: (height, width) uint8."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    image = 90 + 50 * np.sin(rows / 23 + seed) + 40 * np.cos(columns / 19)
    for _ in range(3):
        top, left = generator.integers(0, height // 2), generator.integers(0, width // 2)
        image[top : top + height // 4, left : left + width // 4] += generator.choice([-70, 70])
    bars = (slice(-height // 4, None), slice(0, width // 2))
    image[bars] += 50 * ((columns[bars] + rows[bars] // 2) // 5 % 2)
    image[: height // 4, -width // 4 :] += generator.normal(0, 12, (height // 4, width // 4))
    return np.clip(image, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> TinyFiles:
    """Six training images, two others to validate on, and a network that errs a little as the teacher."""
    return make_tiny_files(tmp_path_factory.mktemp("tiny"))


def make_tiny_files(folder: Path) -> TinyFiles:
    """The same files every time, in a folder of one's own."""
    files = TinyFiles(folder / "train", folder / "val", folder / "teacher.safetensors")
    for path, sides, first in ((files.train, SIDES, 0), (files.validation, SIDES[:2], 100)):
        path.mkdir()
        for i, (height, width) in enumerate(sides):
            Image.fromarray(picture(first + i, height, width)).save(path / f"{i}.png")
    torch.manual_seed(7)
    teacher = VDSR(width=3, depth=3)
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter *= 0.1
    save_model(files.teacher, teacher)
    return files


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A fresh MLflow database: creating one takes seconds, copying it does not."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture(scope="session")
def make_plan(tiny_files: TinyFiles) -> PlanMaker:
    """`make_plan(storage, **changes)`: a run of the tiny protocol whose data, teacher and start are there."""

    def plan(storage: Path, **changes: Any) -> TrialPlan:
        values = {"width": 3, "lam": 0.05, "teacher": str(tiny_files.teacher), **tiny_files.protocol(), **changes}
        config = RunConfig(**values)
        prepared = plan_data(config, UPath(storage))
        build_data(prepared)
        maps = None
        if config.beta > 0 or config.initialisation == "teacher":
            teacher = OurWeights(UPath(config.teacher))
            maps = teacher_maps(teacher, config, prepared, "fp64", device="cpu", threads=1, everywhere=here)
        start = find_start(config.start, [config])
        return TrialPlan(config=config, data=prepared.data, maps=maps, precision="fp64", start=start)

    return plan


@dataclass(frozen=True)
class Bench:
    """A folder with a database of its own, and the values all sweeps here share."""

    folder: Path
    files: TinyFiles

    def values(self, **changes: Any) -> dict[str, Any]:
        return {**self.files.protocol(), "rounds": 1, "epochs": 1, "crops": 256, **changes}

    def job(self, *, out: str = "out", local: bool = False, max_workers: int | None = None, **sweep: Any) -> SweepJob:
        config = SweepConfig.of(**self.values(**sweep))
        return SweepJob(
            sweep=config, out=str(self.folder / out), local=local, max_workers=max_workers,
        )  # fmt: skip

    def runs(self, sweep: str) -> list[Run]:
        """The runs of a sweep and of its trials in MLflow, without those of bicubic interpolation and teachers."""
        client = mlflow.MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("ail_ray")
        found = client.search_runs([experiment.experiment_id], f"tags.`ail.sweep` = '{sweep}'")
        return [run for run in found if not run.data.tags["ail.run"].startswith("reference ")]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, tiny_files: TinyFiles, local_ray: None) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        yield Bench(folder, tiny_files)

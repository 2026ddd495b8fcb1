"""The champion: a registered model that only a better student replaces, and that gives the same pixels as ours."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _get_store
from tiny_files import TinyFiles
from upath import UPath

from ail_ray.commands.chosen import chosen_model
from ail_ray.delivery.onnx import to_onnx
from ail_ray.errors import ConfigError
from ail_ray.files import FileError
from ail_ray.imaging.evaluation import EvaluationImages, write_evaluation
from ail_ray.imaging.image_sets import find
from ail_ray.imaging.pairs import Pair, plan_corpus
from ail_ray.learning.inference import evaluate
from ail_ray.learning.records import Row
from ail_ray.learning.weights import load_model, save_model
from ail_ray.networks.architectures import Network
from ail_ray.networks.building import build_model
from ail_ray.runs.trial import State, Trial
from ail_ray.tracking import champion
from ail_ray.tracking.champion import crown, fetch_champion

NAME = "ail-ray-x2"


@pytest.fixture
def one_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same ONNX for every student, where it does not matter: writing one takes a second."""
    written = to_onnx(student(1.0))
    monkeypatch.setattr(champion, "to_onnx", lambda model: written)


def pairs_of(folder: Path) -> list[Pair]:
    """The pairs of a folder's images in their whole size, at scale 2."""
    images = find(str(folder)).paths
    found = plan_corpus(images, downsizes=(1.0,), scales=(2,), crop=16, shards=1).pairs
    return sorted(found, key=lambda pair: pair.path)


class Registry:
    """A database of one's own, and trials whose students are as good as asked."""

    def __init__(self, folder: Path, images: UPath) -> None:
        self.folder, self.images, self.uri = folder, images, f"sqlite:///{folder / 'mlflow.db'}"
        self.client = mlflow.MlflowClient(self.uri)
        self.experiment = self.client.create_experiment("ail_ray", artifact_location=str(folder / "artifacts"))

    def trial(self, noise: float, *, network: str = "vdsr", status: State = "finished") -> Trial:
        """A student that adds so much noise to its input, and what a sweep's summary says of it."""
        model = student(noise, network)
        weights = self.folder / f"{network}-{noise}.safetensors"
        save_model(weights, model)
        return Trial(
            name=f"student {noise}", directory="", parameters={}, status=status, weights=str(weights),
            validation=(evaluate(model, EvaluationImages.load(self.images)),),
            mlflow_run_id=self.client.create_run(self.experiment).info.run_id,
        )  # fmt: skip

    def crown(self, *trials: Trial, images: UPath | None = None, bicubic: float = 0.0) -> list[str]:
        rows = [Row(set="val", scale=scale, psnr=bicubic + 20 * (scale - 2), ssim=0.9) for scale in (2, 3)]
        return crown(self.client, trials, {2: [images or self.images]}, rows)

    def versions(self) -> dict[int, str]:
        """Run of each version."""
        return {int(v.version): v.run_id or "" for v in self.client.search_model_versions(f"name = '{NAME}'")}

    def remove_for_good(self, run: str) -> None:
        """As `mlflow gc` does."""
        self.client.delete_run(run)
        _get_store(self.uri)._hard_delete_run(run)

    @property
    def champion(self) -> int:
        return int(self.client.get_model_version_by_alias(NAME, "champion").version)


def student(noise: float, network: str = "vdsr") -> Network:
    torch.manual_seed(3)
    model = build_model(network, width=3, depth={"vdsr": 3, "drrn": 4, "fsrcnn": 5, "abpn": 3}[network], scale=2)
    if network == "vdsr":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter *= noise
    return model.eval()


@pytest.fixture
def registry(tmp_path: Path, empty_database: bytes, tiny_files: TinyFiles) -> Registry:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    images = UPath(tmp_path / "val.safetensors")
    write_evaluation(images, "val", 2, pairs_of(tiny_files.validation))
    return Registry(tmp_path, images)


def test_only_a_better_student_replaces_the_champion_and_repeating_changes_nothing(
    registry: Registry, one_export: None
) -> None:
    good, better, bad = registry.trial(0.4), registry.trial(0.2), registry.trial(0.9)
    for _ in range(2):
        said = registry.crown(bad, good)
        assert registry.versions() == {1: good.mlflow_run_id}
    assert said == []
    assert registry.crown(better)[0].startswith("student 0.2 is the champion for ×2: ")
    assert (registry.versions(), registry.champion) == ({1: good.mlflow_run_id, 2: better.mlflow_run_id}, 2)
    assert registry.crown(bad, good) == registry.crown(bad, better) == []
    assert (len(registry.versions()), registry.champion) == (2, 2)
    weights = fetch_champion(registry.uri, 2, registry.folder)
    assert weights.read_bytes() == Path(better.weights or "").read_bytes()


def test_a_server_of_mlflow_2_where_a_search_finds_no_model_has_champions_too(
    registry: Registry, one_export: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What version 3 of the client asks of a search, version 2.9 of the server answers with nothing."""
    monkeypatch.setattr(mlflow.MlflowClient, "search_registered_models", lambda *_, **__: [])
    good, better = registry.trial(0.4), registry.trial(0.2)
    for trial in (good, good, better):
        registry.crown(trial)
    assert (set(registry.versions()), registry.champion) == ({1, 2}, 2)
    weights = fetch_champion(registry.uri, 2, registry.folder)
    assert weights.read_bytes() == Path(better.weights or "").read_bytes()


def test_a_failed_or_unselected_trial_is_no_champion(registry: Registry) -> None:
    assert registry.crown(registry.trial(0.1, status="failed"), registry.trial(0.2, status="stopped")) == []
    assert crown(registry.client, [registry.trial(0.1)], {}) == []
    for name in ("mlflow.db", "none.db"):
        with pytest.raises(ConfigError, match="no champion for scale 2"):
            fetch_champion(f"sqlite:///{registry.folder / name}", 2, registry.folder)
    assert not (registry.folder / "none.db").exists()


def test_a_student_at_or_below_bicubic_is_never_champion(registry: Registry, one_export: None) -> None:
    good, bad = registry.trial(0.2), registry.trial(0.6)
    refused = ["×2 gets no new champion: every student ended at or below bicubic interpolation"]
    assert registry.crown(replace(bad, below_bicubic=True)) == refused, "on the mean of all scales"
    assert registry.crown(bad, bicubic=bad.psnr) == refused, "at this scale"
    assert registry.versions() == {}
    between = (good.psnr + bad.psnr) / 2
    (line,) = registry.crown(bad, good, bicubic=between)
    assert line.startswith("student 0.2 is the champion for ×2: ")


def test_a_champion_of_other_images_is_measured_on_these(
    registry: Registry, one_export: None, tiny_files: TinyFiles
) -> None:
    """A low score on other images gives nobody the title."""
    best = registry.trial(0.1)
    (row,) = best.validation
    registry.crown(replace(best, validation=(replace(row, psnr=5.0),)))  # as on images that are harder
    others = UPath(registry.folder / "others.safetensors")
    write_evaluation(others, "train", 2, pairs_of(tiny_files.train)[:1])
    assert registry.crown(registry.trial(0.9), images=others) == []
    assert registry.champion == 1


@pytest.mark.parametrize("lost", ["weights", "run"])
def test_a_champion_without_weights_gives_way_and_the_same_student_may_return(
    registry: Registry, one_export: None, lost: str
) -> None:
    best, good = registry.trial(0.1), registry.trial(0.4)
    registry.crown(best)
    if lost == "weights":
        shutil.rmtree(registry.folder / "artifacts")
    else:
        registry.remove_for_good(best.mlflow_run_id or "")
        best = replace(best, mlflow_run_id=registry.client.create_run(registry.experiment).info.run_id)
    said = registry.crown(good)
    assert said[0] == f"{NAME} version 1 has lost its weights, and is champion no more"
    assert said[1].startswith("student 0.4 is the champion for ×2: ")
    assert registry.champion == 2
    assert registry.crown(best)[0].startswith("student 0.1 is the champion for ×2: ")
    assert (list(registry.versions()), registry.champion) == ([3, 2, 1], 3)
    assert fetch_champion(registry.uri, 2, registry.folder).read_bytes() == Path(best.weights or "").read_bytes()


@pytest.mark.parametrize("moment", ["get_registered_model", "create_model_version", "set_registered_model_alias"])
@pytest.mark.parametrize("first", [0.2, 0.4])
def test_of_two_sweeps_that_end_at_once_the_better_student_is_champion(
    registry: Registry, one_export: None, monkeypatch: pytest.MonkeyPatch, moment: str, first: float
) -> None:
    """Before a call of the one to MLflow the other does all of its own."""
    registry.crown(registry.trial(0.6))
    here, beside, told = registry.trial(first), registry.trial(0.6 - first), list[str]()
    client = mlflow.MlflowClient(registry.uri)
    there = getattr(client, moment)

    def interleaved(*arguments: Any, **options: Any) -> Any:
        monkeypatch.undo()
        told.extend(registry.crown(beside))
        return there(*arguments, **options)

    monkeypatch.setattr(client, moment, interleaved)
    told.extend(crown(client, [here], {2: [registry.images]}))
    held = registry.client.get_model_version_by_alias(NAME, "champion")
    better = min((here, beside), key=lambda trial: float(trial.name.split()[1]))
    assert held.run_id == better.mlflow_run_id, told


@pytest.mark.parametrize("broken", ["log_artifacts", "create_model_version", "set_registered_model_alias"])
def test_an_outage_leaves_no_second_version(
    registry: Registry, one_export: None, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    trial = registry.trial(0.3)
    with monkeypatch.context() as patch:

        def away(*_: Any, **__: Any) -> None:
            raise MlflowException("the server is away")

        patch.setattr(registry.client, broken, away)
        with pytest.raises(MlflowException, match="is away"):
            registry.crown(trial)
    assert len(registry.crown(trial)) == 1
    assert (list(registry.versions()), registry.champion) == ([1], 1)


@pytest.mark.parametrize("network", ["vdsr", "drrn", "fsrcnn", "abpn"])
def test_mlflow_loads_it_and_gives_the_same_pixels(registry: Registry, network: str) -> None:
    registry.crown(registry.trial(0.3, network=network))
    (version,) = registry.client.search_model_versions(f"name = '{NAME}'")
    assert "bicubic" in version.description if network in ("vdsr", "drrn") else "low-resolution" in version.description
    folder = Path(registry.client.download_artifacts(version.run_id, "model"))
    names = {path.name for path in folder.rglob("*") if path.is_file()}
    assert {"MLmodel", "model.onnx", "student.safetensors", "input_example.json"} <= names
    assert not [name for name in names if name.endswith((".pkl", ".pickle", ".pt", ".pth"))]
    loaded = mlflow.pyfunc.load_model(str(folder))
    (spec,) = loaded.metadata.signature.inputs.inputs
    assert (spec.name, spec.shape, spec.type) == ("luma", (-1, 1, -1, -1), np.dtype("float32"))
    assert loaded.metadata.load_input_example(str(folder))["luma"].shape[1] == 1
    model = load_model(folder / "student.safetensors").eval()
    for shape in ((1, 1, 21, 30), (2, 1, 8, 5)):
        luma = np.random.default_rng(0).random(shape, np.float32)
        with torch.inference_mode():
            ours = model(torch.from_numpy(luma)).numpy()
        theirs = loaded.predict({"luma": luma})["sr"]
        assert np.abs(theirs - ours).max() <= 1e-5
        assert np.array_equal(to_grey(theirs), to_grey(ours))


def to_grey(sr: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(sr, 0, 1) * 255)


def test_a_network_is_named_by_its_path_or_as_the_champion_of_its_scale(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", registry.uri)
    trial = registry.trial(0.5)
    weights = trial.weights or ""
    assert chosen_model(weights, 2).width == load_model(weights).width
    with pytest.raises(FileError, match="no such file"):
        chosen_model("champion.safetensors", 2)
    with pytest.raises(ConfigError, match="there is no champion for scale 2"):
        chosen_model("champion", 2)
    registry.crown(trial)
    for ours, theirs in zip(chosen_model("champion", 2).parameters(), load_model(weights).parameters(), strict=True):
        assert torch.equal(ours, theirs)

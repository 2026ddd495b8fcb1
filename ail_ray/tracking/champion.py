"""The champion: of all students trained for a scale, the best on validation images, as a registered model of MLflow.

One model a scale, `ail-ray-x2`, whose alias `champion` moves when a sweep has a better student. A version is ONNX in
MLflow's layout, so that MLflow loads and serves it, with the weights beside it; nothing in it is pickled.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts, list_artifacts
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import Schema, TensorSpec
from upath import UPath

from ail_ray.addresses import without_password
from ail_ray.delivery.onnx import INPUT, OUTPUT, to_onnx
from ail_ray.delivery.onnx_file import OnnxFile
from ail_ray.errors import ConfigError
from ail_ray.files import FileError, as_path, digest_of
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.panels import central_crop
from ail_ray.learning.inference import evaluate
from ail_ray.learning.records import Row, mean_psnr
from ail_ray.learning.weights import WeightsError, load_model, weights_digest
from ail_ray.networks.architectures import Network
from ail_ray.runs.directory import STUDENT
from ail_ray.runs.trial import Trial
from ail_ray.sweeps.sweep_job import tracking_uri
from ail_ray.tracking.connection import database_of, folder_of, unusable
from ail_ray.tracking.descriptions import some

ALIAS, FOLDER, MODEL = "champion", "model", "model.onnx"
PSNR, IMAGES, DIGEST = "ail.psnr_dB", "ail.validation", "ail.weights"
EXAMPLE = 16  # pixels
BESIDE = 3600.0  # seconds since its registration in which a version's sweep may still be crowning it


def registered_name(scale: int) -> str:
    """Name of the registered model whose versions are the champions of a scale."""
    return f"ail-ray-x{scale}"


def fetch_champion(uri: str, scale: int, folder: Path) -> UPath:
    """Copy the weights of the champion for a scale into an existing folder, and return their path.

    Raises:
        ConfigError: the server or database at `uri` cannot be used, or has no champion for this scale.
    """
    held = None
    database = database_of(uri)
    if database is None or database.exists():  # MLflow would make one
        try:
            client = MlflowClient(tracking_uri=uri)
            if held := _champion(client, registered_name(scale)):
                return _weights(client, held, str(folder))
        except Exception as error:  # whatever client, database driver or HTTP library raises
            raise ConfigError([unusable(uri, error)]) from error
    where = f"MLflow at {without_password(uri)}"
    raise ConfigError([f"there is no champion for scale {scale} in {where}; a sweep with validation images makes one"])


def load_champion(scale: int, network: str = "") -> Network:
    """Load the champion for a scale from the MLflow that this folder uses; ConfigError as in `fetch_champion`."""
    with tempfile.TemporaryDirectory() as folder:
        path = fetch_champion(tracking_uri(as_path(".")), scale, Path(folder))
        try:
            return load_model(path, network)
        except FileError as error:
            raise FileError(str(error).replace(f"{path}", f"champion ×{scale}")) from None


def crown(
    client: MlflowClient,
    trials: Sequence[Trial],
    validation: Mapping[int, Sequence[UPath]],
    bicubic: Sequence[Row] = (),
    own_work: Callable[[], AbstractContextManager[object]] = nullcontext,
    networks: Mapping[str, str] = {},
) -> list[str]:
    """Register the best finished student for each scale it was validated on, where it beats the champion there is.

    A champion that was measured on other images is measured on these first. Repeated, it changes nothing.

    Args:
        trials: the trials of a sweep's summary.
        validation: for each scale the files of its evaluation images.
        bicubic: rows of bicubic interpolation on them; who is no better at a scale is never its champion.
        own_work: is entered for what takes long without MLflow.
        networks: of the trials, by the names of their runs, with the code of those from outside.

    Returns:
        A line for each new champion, and for each scale where no student was better than bicubic interpolation.
    """
    lines = []
    for scale, files in validation.items():
        finished = [trial for trial in trials if trial.status == "finished" and trial.weights]
        least = _psnr(bicubic, scale)
        better = [t for t in finished if _psnr(t.validation, scale) > least and not t.below_bicubic]
        if finished and not better:
            lines.append(f"×{scale} gets no new champion: every student ended at or below bicubic interpolation")
        if better:
            best = max(better, key=lambda trial: _psnr(trial.validation, scale))
            lines += _challenge(client, scale, files, best, own_work, networks.get(best.run, ""))
    return lines


def _challenge(
    client: MlflowClient,
    scale: int,
    files: Sequence[UPath],
    trial: Trial,
    own_work: Callable[[], AbstractContextManager[object]],
    network: str,
) -> list[str]:
    psnr, name, images = _psnr(trial.validation, scale), registered_name(scale), digest_of([f.stem for f in files])
    if _registered_model(client, name) is None:
        about = f"The best student for ×{scale}, by PSNR on validation images. Luma in, luma out, any size."
        client.create_registered_model(name, tags={"ail.scale": str(scale)}, description=about)
    held, lines = _champion(client, name), list[str]()
    if held is not None and not _has_weights(client, held):
        lines.append(f"{name} version {held.version} has lost its weights, and is champion no more")
        held = None
    digest = weights_digest(as_path(trial.weights or ""))
    if held is not None and held.tags.get(DIGEST) == digest:
        return []
    if held is not None and psnr <= _measured(client, held, scale, files, images, own_work):
        return []
    versions = client.search_model_versions(f"name = '{name}'")
    there = [v for v in versions if v.tags.get(DIGEST) == digest and _has_weights(client, v)]
    if there:
        number = int(there[0].version)
    else:
        tags = {PSNR: f"{psnr:.4f}", IMAGES: images, DIGEST: digest}
        number = _registered(client, name, trial, tags, EvaluationImages.load(files[0]), network)
    client.set_registered_model_alias(name, ALIAS, str(number))
    if rival := _rival(client, name, images, psnr):
        client.set_registered_model_alias(name, ALIAS, str(rival.version))
        return [*lines, f"{trial.name} is not the champion for ×{scale}: {name} version {rival.version} is better"]
    return [*lines, f"{trial.name} is the champion for ×{scale}: {psnr:.2f} dB, {name} version {number} in MLflow"]


def _rival(client: MlflowClient, name: str, images: str, psnr: float) -> ModelVersion | None:
    """A better version of a sweep that has ended just now, and whose title this one may have taken unawares.

    Of two such sweeps each looks when its own version is registered and has the title: whoever looks last sees both.
    Older ones stay as they are: somebody may have taken the title from them.
    """
    since, apart = 1000 * (time.time() - BESIDE), 1e-4  # of what the tag says, in dB, which has four places
    found = [v for v in client.search_model_versions(f"name = '{name}'") if v.tags.get(IMAGES) == images]
    better = [v for v in found if v.creation_timestamp > since and float(v.tags.get(PSNR, 0)) > psnr + apart]
    return max((v for v in better if _has_weights(client, v)), key=lambda v: float(v.tags[PSNR]), default=None)


def _has_weights(client: MlflowClient, version: ModelVersion) -> bool:
    """Whether the weights of a version are still there; whatever keeps MLflow from answering is raised."""
    try:
        place = folder_of(client.tracking_uri, client.get_run(str(version.run_id)).info.artifact_uri)
        files = list_artifacts(f"{place}/{FOLDER}", tracking_uri=client.tracking_uri)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # its run was removed for good
            return False
        raise
    return any(Path(file.path).name == STUDENT for file in files)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    model = _registered_model(client, name)
    return client.get_model_version(name, str(model.aliases[ALIAS])) if model and ALIAS in model.aliases else None


def _registered_model(client: MlflowClient, name: str) -> RegisteredModel | None:
    """The model of that name, not searched for: what this client asks then, a server of MLflow 2 misunderstands."""
    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _weights(client: MlflowClient, held: ModelVersion, folder: str) -> UPath:
    return _stored(client, held, STUDENT, folder)


def _stored(client: MlflowClient, held: ModelVersion, name: str, folder: str) -> UPath:
    uri = client.tracking_uri
    place = folder_of(uri, client.get_run(str(held.run_id)).info.artifact_uri)
    return as_path(download_artifacts(f"{place}/{FOLDER}/{name}", dst_path=folder, tracking_uri=uri))


def _psnr(rows: Sequence[Row], scale: int) -> float:
    return mean_psnr([row for row in rows if row.scale == scale])


def _measured(
    client: MlflowClient,
    held: ModelVersion,
    scale: int,
    files: Sequence[UPath],
    images: str,
    own_work: Callable[[], AbstractContextManager[object]],
) -> float:
    """The champion's mean PSNR on these images."""
    if held.tags.get(IMAGES) == images:
        return float(held.tags[PSNR])
    with tempfile.TemporaryDirectory() as folder:
        try:
            model = load_model(_weights(client, held, folder))
        except WeightsError:  # of somebody's own network, whose code is not here: what it was exported to is
            model = OnnxFile(_stored(client, held, MODEL, folder))
        with own_work():
            return mean_psnr([evaluate(model, EvaluationImages.load(file)) for file in files])


def _registered(
    client: MlflowClient, name: str, trial: Trial, tags: dict[str, str], images: EvaluationImages, network: str
) -> int:
    """Put the student into its run as a model of MLflow, and register it; returns the number of the version."""
    run_id, weights = trial.mlflow_run_id or "", as_path(trial.weights or "")
    model = load_model(weights, network)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / FOLDER
        example = central_crop(images.inputs(model.traits.upsampling)[0], EXAMPLE)[None, None].astype(np.float32)
        exported = weights.with_name("student.onnx")
        save_servable(folder, exported.read_bytes() if exported.exists() else to_onnx(model), example)
        (folder / STUDENT).write_bytes(weights.read_bytes())
        client.log_artifacts(run_id, str(folder), FOLDER)
    reads = "the bicubic-upsampled image" if model.traits.upsampling == 1 else "the low-resolution image"
    rows = some(list(map(str, trial.all)), ", ", 4000)
    made = client.create_model_version(
        name, source=f"{client.get_run(run_id).info.artifact_uri}/{FOLDER}", run_id=run_id, tags=tags,
        await_creation_for=0,
        description=f"{trial.name}: {rows}. Reads {reads}: luma, float32 on [0, 1], (N, 1, H, W).",
    )  # fmt: skip
    return int(made.version)


def save_servable(folder: Path, written: bytes, example: np.ndarray) -> None:
    """Write a network as a model of MLflow's ONNX flavour: any batch and size, its signature and an example.

    Args:
        written: the network by `to_onnx`.
        example: (N, 1, H, W) float32, an input.
    """
    shape = (-1, 1, -1, -1)
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.float32), shape, INPUT)]),
        Schema([TensorSpec(np.dtype(np.float32), shape, OUTPUT)]),
    )
    needs = [f"{package}=={version(package)}" for package in ("mlflow", "numpy", "onnx", "onnxruntime")]
    mlflow.onnx.save_model(
        onnx.load_model_from_string(written), str(folder), signature=signature,
        input_example={INPUT: example}, pip_requirements=needs, save_as_external_data=False,
        onnx_execution_providers=["CPUExecutionProvider"],
    )  # fmt: skip

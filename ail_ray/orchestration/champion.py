"""The network that MLflow's registry calls the champion, or any other by its path."""

import os
import tempfile
from pathlib import Path

import mlflow

from ail_ray.errors import ConfigError
from ail_ray.files import as_path
from ail_ray.learning.models import Network
from ail_ray.learning.weights import load_model

REGISTERED, CHAMPION = "ail-ray", "champion"


def load_named(name: str) -> Network:
    """A network by the path of its weights; for `champion` that of the registered model `ail-ray` with this alias.

    Raises:
        FileError: as `load_model`.
        ConfigError: there is no such registered model, it has no `student.safetensors`, or MLflow cannot be reached.
    """
    if name != CHAMPION:
        return load_model(name)
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{as_path('mlflow.db')}"
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():  # asked, MLflow would make it
        raise ConfigError([f"model: {uri} is not there; set MLFLOW_TRACKING_URI, or name a path"])
    with tempfile.TemporaryDirectory() as scratch:
        try:
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"models:/{REGISTERED}@{CHAMPION}", dst_path=scratch, tracking_uri=uri
            )
        except Exception as error:  # whatever client, database driver or HTTP library raises
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError([f"model: MLflow has no usable {REGISTERED}@{CHAMPION} ({reason})"]) from error
        found = sorted(Path(scratch).rglob("student.safetensors"))
        if not found:
            raise ConfigError([f"model: {REGISTERED}@{CHAMPION} has no student.safetensors"])
        return load_model(found[0])

"""The champion of MLflow's registry, by name; everything else by path."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from ail_ray.errors import ConfigError
from ail_ray.files import FileError
from ail_ray.learning.models import FSRCNN
from ail_ray.learning.weights import model_tensors, save_model
from ail_ray.orchestration.champion import load_named


def test_the_champion_comes_from_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mlflow\.db is not there; set MLFLOW_TRACKING_URI, or name a path"):
        load_named("champion")
    assert list(tmp_path.iterdir()) == [], "asking makes no database"
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    client.create_registered_model("ail-ray")
    with pytest.raises(ConfigError, match="model: MLflow has no usable ail-ray@champion"):
        load_named("champion")
    torch.manual_seed(0)
    student = FSRCNN(6, 5, 3)
    for folder, number in (("empty", "1"), ("model/extra", "2")):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "MLmodel").write_text("flavors: {}\n")
        client.create_model_version("ail-ray", str(tmp_path / folder.split("/")[0]))
        client.set_registered_model_alias("ail-ray", "champion", number)
        if number == "1":
            with pytest.raises(ConfigError, match=r"ail-ray@champion has no student\.safetensors"):
                load_named("champion")
            save_model(tmp_path / "model" / "extra" / "student.safetensors", student)
    champion = load_named("champion")
    assert (champion.name, champion.upsampling) == ("fsrcnn", 3)
    for name, tensor in model_tensors(student).items():
        np.testing.assert_array_equal(model_tensors(champion)[name], tensor)


def test_a_path_is_a_path(tmp_path: Path) -> None:
    save_model(tmp_path / "champion.safetensors", FSRCNN(4, 5, 2))
    assert load_named(str(tmp_path / "champion.safetensors")).width == 4
    with pytest.raises(FileError, match="no such file"):
        load_named(str(tmp_path / "champion"))

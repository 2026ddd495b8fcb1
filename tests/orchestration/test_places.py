"""Where people work: any name of a folder, no home, limits of cores and memory, addresses of no cluster, full disks."""

import os
import shlex
import shutil
from pathlib import Path

import mlflow
import pytest
from conftest import TinyFiles, as_options
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.orchestration import job
from ail_ray.orchestration.champion import fetch_champion
from ail_ray.orchestration.job import tracking_uri
from ail_ray.orchestration.mlflow_store import connect, database_of
from jobs.ail_sweep import main

ODD = ["plain", "q?a=b", "half#way", "100%25 'sure' \"yes\"", "me@corp:é\\"]


@pytest.mark.parametrize("name", ODD)
def test_a_record_lies_where_the_user_stands(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes
) -> None:
    """The database, and what MLflow keeps beside it, in a folder of any name; nothing is made anywhere else."""
    here = tmp_path / name
    here.mkdir()
    (here / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    uri = tracking_uri(UPath("ail_out"))
    assert database_of(uri) == Path(here / "mlflow.db")
    client, experiment = connect(uri)
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "a picture", "images/a b.txt")
    (written,) = (here / "mlartifacts").rglob("a b.txt")
    assert written.read_text() == "a picture"
    assert [file.path for file in client.list_artifacts(run, "images")] == ["images/a b.txt"]
    assert sorted(path.name for path in here.iterdir()) == ["mlartifacts", "mlflow.db"]
    assert [path.name for path in tmp_path.iterdir()] == [name]
    again = mlflow.MlflowClient(tracking_uri(UPath("ail_out")))
    assert again.get_experiment_by_name("ail_ray").experiment_id == experiment


def test_the_printed_commands_can_be_pasted(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    here = tmp_path / ODD[3]
    here.mkdir()
    (here / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(here)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    values = tiny_files.protocol() | {"teacher": ("none",), "rule": ("uniform",), "width": (2,), "rounds": 0}
    assert main(["demo", *as_options(values), "--local"]) == 0
    printed = {line.partition(": ")[0]: line.partition(": ")[2] for line in capsys.readouterr().out.splitlines()}
    report = shlex.split(printed["As one page"])
    assert report[-2:] == ["--out", str(here / "ail_out")]
    mlflow_ui = shlex.split(printed["Compare in MLflow"])
    assert mlflow_ui[:3] == ["mlflow", "ui", "--backend-store-uri"]
    assert database_of(mlflow_ui[3]) == Path(here / "mlflow.db")


def test_a_plain_folder_has_the_address_that_it_always_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(UPath("ail_out")) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(job, "IN_JOB", True)
    assert tracking_uri(UPath("/data/out")) == "sqlite:////data/out/mlflow.db"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracking_uri(UPath("memory://bucket/out")) == f"sqlite:///{tmp_path}/ail_out/mlflow.db"


def test_no_champion_is_looked_for_in_a_database_that_is_not_there(tmp_path: Path) -> None:
    for name in ODD:
        uri = job.sqlite_uri(UPath(tmp_path / name / "mlflow.db"))
        with pytest.raises(ConfigError, match="there is no champion for scale 2"):
            fetch_champion(uri, 2, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_database_that_cannot_be_written_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and real(path, mode))  # tests may run as root
    remedy = r"not writable; stand elsewhere, or set MLFLOW_TRACKING_URI$"
    for folder in (tmp_path, tmp_path / "inside"):
        with pytest.raises(ConfigError, match=rf"^MLflow's database: {folder}(/mlflow.db)?: {remedy}"):
            connect(job.sqlite_uri(UPath(folder / "mlflow.db")))
    shutil.rmtree(tmp_path / "inside")

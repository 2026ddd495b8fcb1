"""Where MLflow's record is: a folder that is moved or copied keeps its files, and a sweep's page has an address."""

import shutil
import sqlite3
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from mlflow import MlflowClient

from ail_ray.errors import ConfigError
from ail_ray.tracking import connection
from ail_ray.tracking.connection import PLACES, connect, database_of, folder_of, opened_by, page_of

URI = "sqlite:///mlflow.db"


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes) -> Path:
    """A folder with an empty database, where somebody stands who has not said where MLflow is."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return stand(tmp_path / "checkout", monkeypatch, empty_database)


def stand(folder: Path, monkeypatch: pytest.MonkeyPatch, database: bytes = b"") -> Path:
    """Go to a folder, with a database if there is none."""
    folder.mkdir(exist_ok=True)
    if database:
        (folder / "mlflow.db").write_bytes(database)
    monkeypatch.chdir(folder)
    return folder


def here() -> str:
    """The address of the database where one stands, in full: MLflow opens one of each name only once in a process."""
    return f"sqlite:///{quote(str(Path.cwd() / 'mlflow.db'))}"


def run_with_picture(uri: str, content: str) -> str:
    """A run that a sweep leaves, with one file and a registered model."""
    client, experiment = connect(uri)
    run = client.create_run(experiment)
    client.log_text(run.info.run_id, content, "images/picture.txt")
    if not client.search_registered_models():
        client.create_registered_model("ail-ray-x2")
    client.create_model_version("ail-ray-x2", source=f"{run.info.artifact_uri}/images", run_id=run.info.run_id)
    return str(run.info.run_id)


def shown(run: str, uri: str) -> str:
    """The file of a run, as MLflow finds it, and as its model."""
    client = MlflowClient(uri)
    (version,) = (v for v in client.search_model_versions("name = 'ail-ray-x2'") if v.run_id == run)
    place = client.get_model_version_download_uri("ail-ray-x2", version.version)
    text = Path(client.download_artifacts(run, "images/picture.txt")).read_text()
    assert Path(folder_of(uri, place), "picture.txt").read_text() == text
    return text


def content(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(p): (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("made_by", ["this version", "an older version"])
def test_a_copy_shows_its_own_files_and_writes_nothing_into_the_original(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, made_by: str
) -> None:
    if made_by == "an older version":
        MlflowClient(here()).create_experiment("ail_ray", artifact_location=str(checkout / "mlartifacts"))
        with monkeypatch.context() as patch:
            patch.setattr(connection, "_settle", lambda *_: None)
            first = run_with_picture(here(), "of the original")
    else:
        first = run_with_picture(here(), "of the original")
    copy = checkout.with_name("copy ?#")
    shutil.copytree(checkout, copy)
    before = content(checkout)
    stand(copy, monkeypatch)
    if made_by == "an older version":
        connect(here())  # it names the original's files until somebody works here
    next((copy / "mlartifacts").rglob("picture.txt")).write_text("of the copy")
    assert shown(first, here()) == "of the copy"
    second = run_with_picture(here(), "made in the copy")
    assert shown(second, here()) == "made in the copy"
    assert len(list((copy / "mlartifacts").rglob("picture.txt"))) == 2
    assert content(checkout) == before
    stand(checkout, monkeypatch)
    connect(here())
    assert shown(first, here()) == "of the original"


def test_a_moved_folder_shows_its_files(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_with_picture(here(), "a picture")
    stand(checkout.rename(checkout.with_name("moved")), monkeypatch)
    assert shown(run, here()) == "a picture"  # nobody has done anything here yet


def test_a_database_elsewhere_names_its_files_for_whoever_reads_it(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, uri = run_with_picture(here(), "a picture"), here()
    stand(checkout.with_name("elsewhere"), monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    place = folder_of(uri, MlflowClient(uri).get_run(run).info.artifact_uri)
    assert Path(place, "images", "picture.txt").read_text() == "a picture"
    other = run_with_picture(uri, "from elsewhere")
    assert shown(run, uri) == "a picture"
    assert shown(other, uri) == "from elsewhere"
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("location", ["s3://bucket/mlartifacts", "{there}/mlartifacts", "{there}/others"])
def test_a_database_that_somebody_named_is_left_as_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    uri = f"sqlite:///{checkout / 'mlflow.db'}"
    experiment = MlflowClient(uri).create_experiment(
        "ail_ray", artifact_location=location.format(there=checkout.with_name("files"))
    )
    client = MlflowClient(uri)
    client.create_run(experiment)
    stand(checkout.with_name("elsewhere"), monkeypatch)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    before = places(checkout)
    connect(uri)
    assert places(checkout) == before


def places(folder: Path) -> list[list[tuple[str]]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return [database.execute(f"SELECT {column} FROM {table}").fetchall() for table, column in PLACES]


def test_other_experiments_in_the_same_database_keep_their_places(checkout: Path) -> None:
    client = MlflowClient(here())
    theirs = client.create_experiment("theirs", artifact_location=str(checkout / "mlartifacts-of-theirs"))
    run = client.create_run(theirs)
    connect(here())
    assert client.get_experiment(theirs).artifact_location == str(checkout / "mlartifacts-of-theirs")
    assert client.get_run(run.info.run_id).info.artifact_uri.startswith(str(checkout / "mlartifacts-of-theirs"))


@pytest.mark.parametrize("named", [True, False])
def test_a_deleted_experiment_is_said_with_what_brings_it_back(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    client, experiment = connect(here())
    client.delete_experiment(experiment)
    if named:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", here())
    with pytest.raises(ConfigError) as caught:
        connect(here())
    command = f"mlflow experiments restore -x {experiment}"
    assert str(caught.value) == (
        f"the experiment ail_ray was deleted in MLflow at {here()}; restore it: "
        f"{command if named else f'MLFLOW_TRACKING_URI={here()} {command}'}"
    )
    client.restore_experiment(experiment)
    assert connect(here())[1] == experiment


@pytest.mark.parametrize(
    ("uri", "printed"),
    [
        ("https://alice:s3cret@mlflow.corp/", "https://mlflow.corp{page}"),
        ("sqlite:///mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db\nthen open {local}{page}"),
        ("sqlite:///{here}/mlflow.db", "mlflow ui --backend-store-uri sqlite:///mlflow.db\nthen open {local}{page}"),
        (
            "sqlite:////data/a b/mlflow.db",
            "mlflow ui --backend-store-uri 'sqlite:////data/a b/mlflow.db'\nthen open {local}{page}",
        ),
    ],
)
def test_a_person_is_told_how_to_get_to_the_page(checkout: Path, uri: str, printed: str) -> None:
    page = page_of("7", "0123abcd")
    local = "http://127.0.0.1:5000"
    assert opened_by(uri.format(here=checkout), page) == printed.format(page=page, local=local)


def test_the_page_is_of_this_sweep_and_shows_charts() -> None:
    address = page_of("7", "0123abcd")
    assert address.startswith("/#/experiments/7/runs?")
    assert not set(address) & set(" '\"`")  # a terminal makes all of it one link
    asked = parse_qs(urlsplit(urlsplit(address).fragment).query)
    assert asked["searchFilter"] == ["tags.`ail.sweep` = '0123abcd'"]
    assert (asked["workflowType"], asked["compareRunsMode"]) == (["machine_learning"], ["CHART"])


def test_only_a_database_in_a_file_has_a_folder(checkout: Path) -> None:
    assert database_of(URI) == checkout / "mlflow.db"
    assert database_of("sqlite:////data/mlflow.db") == Path("/data/mlflow.db")
    assert [database_of(uri) for uri in ("sqlite://", "http://mlflow:5000", "postgresql://u:p@db/mlflow")] == [None] * 3

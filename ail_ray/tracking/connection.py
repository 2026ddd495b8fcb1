"""MLflow's server or database: how it is reached, where its files are, and which page shows a sweep.

A database where the user stands names its files by a relative path, so that the folder can be moved or copied: what
`mlflow ui` shows there is the folder's own, and so is what a sweep writes. Every other database names them by an
absolute path.
"""

import fcntl
import os
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlencode

from mlflow import MlflowClient
from mlflow.entities import Experiment, LifecycleStage
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE
from mlflow.utils.uri import is_local_uri
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ail_ray.addresses import without_password
from ail_ray.errors import ConfigError
from ail_ray.files import as_path, unwritable_file

NAME = "ail_ray"
SWEEP = "ail.sweep"
PSNR = "dB/PSNR"  # what trials are compared by; before the importance, since the pages of MLflow are sorted
FILES = "mlartifacts"
TAGS = {
    "mlflow.experimentKind": "custom_model_development",  # else the UI takes it for one about language models
    MLFLOW_RUN_NOTE: "Small super-resolution networks trained by adaptive importance learning. One run a sweep, and "
    "nested in it one a trial; a step is a round. The best student of all is the model `ail-ray-x2` (×3, ×4).",
}
PLACES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "source"), ("model_versions", "storage_location"),
)  # fmt: skip
"""Tables and columns of MLflow's database in which folders of files are named."""


def connect(uri: str) -> tuple[MlflowClient, str]:
    """A client, and the id of the experiment of all sweeps; it and its database are made if they are not there.

    Args:
        uri: the tracking server, which has its own place for files, or the database, beside which they lie.

    Raises:
        ConfigError: the server or database cannot be reached, or the experiment was deleted there.
    """
    database = database_of(uri)
    if database and (problems := unwritable_file(as_path(database))):
        raise ConfigError(
            [f"MLflow's database: {line}; stand elsewhere, or set MLFLOW_TRACKING_URI" for line in problems]
        )
    try:
        with alone(uri):
            client = MlflowClient(tracking_uri=uri)
            found = client.get_experiment_by_name(NAME) or _created(client, database)
            if found.lifecycle_stage != LifecycleStage.DELETED:
                for key, value in TAGS.items():
                    if key not in found.tags:
                        client.set_experiment_tag(found.experiment_id, key, value)
                _settle(uri, found)
                return client, str(found.experiment_id)
    except Exception as error:  # whatever client, database driver or HTTP library raises
        raise ConfigError([unusable(uri, error)]) from error
    where = "" if os.environ.get("MLFLOW_TRACKING_URI") else f"MLFLOW_TRACKING_URI={shlex.quote(uri)} "
    restore = f"{where}mlflow experiments restore -x {found.experiment_id}"
    raise ConfigError(
        [f"the experiment {NAME} was deleted in MLflow at {without_password(uri)}; restore it: {restore}"]
    )


def _created(client: MlflowClient, database: Path | None) -> Experiment:
    try:
        client.create_experiment(NAME, artifact_location=str(database.parent / FILES) if database else None, tags=TAGS)
    except MlflowException as error:  # somebody else has been faster
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    found = client.get_experiment_by_name(NAME)
    assert found is not None
    return found


@contextmanager
def alone(uri: str) -> Iterator[None]:
    """Keep the others from a database in a file, which two who come first at once would both make.

    What is locked is its folder, so that no file is left of the lock.
    """
    if (database := database_of(uri)) is None:
        yield
        return
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def database_of(uri: str) -> Path | None:
    """The file of an SQLite database, absolute; None for every other database and for a server."""
    if not uri.startswith("sqlite"):
        return None
    with suppress(ArgumentError):
        name = make_url(uri).database
        return Path(name).absolute() if name and name != ":memory:" else None
    return None


def folder_of(uri: str, place: str) -> str:
    """A place of files that MLflow names, made absolute; a relative one starts from the database's folder."""
    database = database_of(uri)
    relative = database is not None and is_local_uri(place) and not Path(local_file_uri_to_path(place)).is_absolute()
    return str(database.parent / place) if database and relative else place


def page_of(experiment: str, sweep: str) -> str:
    """What follows a server's address to see the charts of one sweep, its trials in one list, the best first."""
    asked = {
        "workflowType": "machine_learning",  # else the UI opens its pages about language models
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`{SWEEP}` = '{sweep}'",
        "orderByKey": f"metrics.`{PSNR}`",  # by anything but a date: else trials are folded into their parent
        "orderByAsc": "false",
    }
    return f"/#/experiments/{experiment}/runs?{urlencode(asked, quote_via=quote)}"


def opened_by(uri: str, page: str) -> str:
    """How a person opens a page: its address on a server, or the command for a server and its address there."""
    if uri.startswith("http"):
        return f"{without_password(uri).rstrip('/')}{page}"
    database = database_of(uri)
    if database and database.parent == Path.cwd():
        uri = f"sqlite:///{database.name}"
    command = shlex.join(["mlflow", "ui", "--backend-store-uri", without_password(uri)])
    return f"{command}\nthen open http://127.0.0.1:5000{page}"


def unusable(uri: str, error: Exception) -> str:
    """Why MLflow cannot be used, in a line that holds no password."""
    return f"MLflow at {without_password(uri)} cannot be used: {reason(error)}"


def reason(error: Exception) -> str:
    """What MLflow, a database driver or an HTTP library says, in one line that holds no password."""
    return without_password((str(error).strip() or type(error).__name__).splitlines()[0])[:300]


def _settle(uri: str, experiment: Experiment) -> None:
    """Let our own database name the folder beside it; if it names another, both were moved or copied.

    Somebody else's, given by MLFLOW_TRACKING_URI, is left alone unless it lies where the user stands.
    """
    database, there = database_of(uri), experiment.artifact_location
    if database is None or not is_local_uri(there):
        return
    here = database.parent == Path.cwd()
    wanted, named = FILES if here else str(database.parent / FILES), Path(local_file_uri_to_path(there))
    ours = here or not named.is_absolute() or not os.environ.get("MLFLOW_TRACKING_URI")
    lost = not named.is_absolute() or (database.parent / FILES).exists() or not named.exists()
    if ours and lost and there != wanted and named.name == FILES:
        with closing(sqlite3.connect(database)) as connection, connection:
            for table, column in PLACES:
                connection.execute(
                    f"UPDATE {table} SET {column} = :wanted || substr({column}, length(:there) + 1) "
                    f"WHERE {column} = :there OR substr({column}, 1, length(:there) + 1) = :there || '/'",
                    {"there": there, "wanted": wanted},
                )

"""Where people work: any name of a folder, no home, limits of cores and memory, addresses of no cluster, full disks."""

import errno
import getpass
import os
import pwd
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import ray
from ray._private.utils import validate_socket_filepath
from tiny_files import TinyFiles, as_options
from upath import UPath

from ail_ray import machine
from ail_ray.commands.sweep import main
from ail_ray.errors import ConfigError
from ail_ray.files import as_path
from ail_ray.home import settle
from ail_ray.orchestration import cluster
from ail_ray.orchestration.cluster import start_own
from ail_ray.sweeps import sweep_job
from ail_ray.sweeps.sweep_job import tracking_uri
from ail_ray.tracking.champion import fetch_champion
from ail_ray.tracking.connection import connect, database_of

pytestmark = pytest.mark.long

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


def test_a_full_disk_ends_a_sweep_in_one_line(
    tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """While shards and evaluation files are written, and at the end; with room again, the same command goes on."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    real, full = os.replace, ""

    def replace(source: str, target: str) -> None:
        if full and full in target:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    values = tiny_files.protocol() | {"teacher": ("none",), "rule": ("uniform",), "width": (2,), "rounds": 0}
    words = ["demo", *as_options(values), "--local"]
    for full in ("shard-0002.safetensors", "/evaluation/", "summary.json"):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {tmp_path}/ail_out/")
        assert full in line
        assert line.endswith(": cannot be written (No space left on device); make room, then the same command goes on")
    full = ""
    assert main(words) == 0


def test_a_plain_folder_has_the_address_that_it_always_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(UPath("ail_out")) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setattr(sweep_job, "IN_JOB", True)
    assert tracking_uri(UPath("/data/out")) == "sqlite:////data/out/mlflow.db"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tracking_uri(UPath("memory://bucket/out")) == f"sqlite:///{tmp_path}/ail_out/mlflow.db"


def test_no_champion_is_looked_for_in_a_database_that_is_not_there(tmp_path: Path) -> None:
    for name in ODD:
        uri = sweep_job.sqlite_uri(UPath(tmp_path / name / "mlflow.db"))
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
            connect(sweep_job.sqlite_uri(UPath(folder / "mlflow.db")))
    shutil.rmtree(tmp_path / "inside")


def nobody(uid: int) -> Any:
    """As `pwd.getpwuid`, in a container that runs under any number."""
    raise KeyError(f"uid not found: {uid}")


@pytest.fixture
def anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A process of a user whom nobody knows; where it makes temporary files."""
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")  # put back by the test's end
        monkeypatch.delenv(name)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_somebody_without_a_home_or_a_name_gets_both(anybody: Path) -> None:
    settle()
    home = Path.home()
    assert home == anybody / f"ail-home-{os.getuid()}"
    assert home.stat().st_mode & 0o777 == 0o700
    assert getpass.getuser() == f"uid-{os.getuid()}"
    settle()
    assert Path.home() == home


def test_a_home_that_is_there_stays_and_a_strange_folder_is_not_used(
    anybody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(anybody))
    monkeypatch.setenv("USER", "alice")
    settle()
    assert (os.environ["HOME"], os.environ["USER"]) == (str(anybody), "alice")
    assert "MPLCONFIGDIR" not in os.environ
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(anybody) and real(path, mode))
    settle()
    assert os.environ["HOME"] == str(anybody)  # credentials may be read there
    assert os.environ["MPLCONFIGDIR"] == str(anybody / f"ail-home-{os.getuid()}")
    (anybody / f"ail-home-{os.getuid()}").rmdir()
    (anybody / f"ail-home-{os.getuid()}").symlink_to(anybody)  # set up by somebody else
    monkeypatch.setenv("HOME", "/nonexistent")
    settle()
    assert Path.home().parent == anybody
    assert Path.home().name.startswith("ail-home-")
    assert not Path.home().is_symlink()


def test_the_libraries_can_be_imported_by_somebody_without_a_home(tmp_path: Path) -> None:
    """MLflow asks for a home as soon as it is imported."""
    code = "import pwd\ndef nobody(uid): raise KeyError(uid)\npwd.getpwuid = nobody\nimport ail_ray.tracking.mirror"
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_folder_that_is_gone_is_said_in_a_line(tmp_path: Path) -> None:
    """Torch is not loaded then: its libraries would end the process without a word."""
    job = Path(__file__).parents[2] / "jobs" / "runs.py"
    words = ["sh", "-c", 'mkdir gone && cd gone && rmdir ../gone && exec "$@"', "sh", sys.executable, str(job)]
    environment = os.environ | {"PYTHONPATH": str(job.parents[1])}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    line = "error: the folder that you stand in is gone; change into one that is there\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)


def test_a_home_of_nobody_is_a_name_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/alice")
    assert as_path("~/runs") == UPath("/home/alice/runs")
    assert as_path("~nosuchuser/runs") == UPath(tmp_path / "~nosuchuser" / "runs")  # as a shell takes it


def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Ray is asked for."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.setenv(name, "")
    asked = list[dict[str, Any]]()
    monkeypatch.setattr(ray, "init", lambda **options: asked.append(options))
    monkeypatch.setattr(cluster, "_private_folder", lambda: "r")
    start_own()
    return asked[0]


def test_ray_keeps_its_token_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    started(monkeypatch)
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("HOME", "/nonexistent")
    started(monkeypatch)
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_sockets_find_a_short_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = str(tmp_path / ("long" * 20))
    socket = f"ail-{os.getuid()}/r/session_2026-11-27_01-29-34_737862_4194304/sockets/plasma_store"
    longest = "/".ljust(106 - len(socket), "x")
    validate_socket_filepath(f"{longest}/{socket}")
    with pytest.raises(OSError, match="cannot exceed 107 bytes"):
        validate_socket_filepath(f"{longest}z/{socket}")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    for given, used in ((longest, longest), (long, "/tmp")):
        monkeypatch.setenv("TMPDIR", given)
        started(monkeypatch)
        assert os.environ["TMPDIR"] == used
    monkeypatch.setenv("RAY_TMPDIR", long)
    with pytest.raises(ConfigError, match=rf"^RAY_TMPDIR={long}: too long a path .*; set it to .* at most \d\d bytes$"):
        start_own()


def test_nobody_else_enters_the_folder_of_our_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for _ in range(2):
        folder = Path(cluster._private_folder()).parent
        assert (folder.parent, folder.stat().st_mode & 0o777) == (tmp_path, 0o700)
        folder.chmod(0o755)
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="not a folder of yours"):
        cluster._private_folder()


V1_UNLIMITED = 9223372036854771712


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("", {}, (4, 8000)),
        ("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, (4, 8000)),
        ("0::/", {"cpu.max": "250000 100000", "memory.max": "5000"}, (2, 5000)),
        ("0::/", {"cpu.max": "50000 100000"}, (1, 8000)),
        ("0::/slice/job", {"slice/job/cpu.max": "max 100000", "slice/cpu.max": "300000 100000",
                           "slice/job/memory.max": "4000", "slice/memory.max": "6000"}, (3, 4000)),
        ("0::/docker/of/the/host", {"cpu.max": "200000 100000", "memory.max": "7000"}, (2, 7000)),
        ("4:memory:/a\n1:cpu,cpuacct:/b\n0::/",
         {"memory/a/memory.limit_in_bytes": "3000", "memory/memory.limit_in_bytes": str(V1_UNLIMITED),
          "cpu,cpuacct/b/cpu.cfs_quota_us": "300000", "cpu,cpuacct/b/cpu.cfs_period_us": "100000",
          "cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, (3, 3000)),
    ],
)  # fmt: skip
def test_limits_of_cores_and_memory_are_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], expected: tuple[int, int]
) -> None:
    """On a machine of eight cores and 8000 bytes, by a process that is bound to four of the cores."""
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{content}\n")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path)
    monkeypatch.setattr(machine, "OWN", tmp_path / "own")
    (tmp_path / "own").write_text(groups)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3})
    monkeypatch.setattr(machine, "whole_memory", lambda: 8000)
    assert (machine.cores(), machine.memory()) == expected


def test_our_own_ray_is_as_large_as_this_process_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "cores", lambda: 3)
    assert started(monkeypatch)["num_cpus"] == 3
    monkeypatch.setattr(cluster, "memory", lambda: 10 * 2**30)
    monkeypatch.setattr(cluster, "whole_memory", lambda: 64 * 2**30)
    asked = started(monkeypatch)
    assert (asked["_memory"], asked["object_store_memory"]) == (7 * 2**30, 3 * 2**30)

"""Sending a job: what would be uploaded is counted as Ray counts it, and what the job is told is what is set here."""

import json
import os
import sys
import zipfile
from pathlib import Path

import heads
import pytest
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

from ail_ray.commands.submit import main
from ail_ray.machine import PACKAGE
from ail_ray.orchestration import submission
from ail_ray.orchestration.submission import FORWARDED, uploaded


class BecameAnotherError(Exception):
    """The process has become another."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Code, and what runs and data leave beside it: some of it ignored, here or in a folder inside."""
    folder = tmp_path / "checkout"
    for name, size in {
        "jobs/a.py": 100, "enlarged/big.png": 3000, "photos/one.jpg": 2000, "photos/two.jpg": 2000,
        "photos/raw/three.raw": 5000, "ail_out/state": 7000, "data/set.zip": 9000, "README.md": 50,
        ".venv/lib/torch.so": 9000,
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(size))
    (folder / ".rayignore").write_text("/data/\n")
    (folder / ".gitignore").write_text("ail_out/\n")
    (folder / "photos" / ".rayignore").write_text("raw\n")
    return folder


def test_the_size_is_that_of_what_ray_packs(checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for ignored in ("0", "1"):
        monkeypatch.setenv("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", ignored)
        package = tmp_path / f"{ignored}.zip"
        create_package(
            str(checkout), package, include_gitignore=ignored == "0", excludes=get_runtime_env_default_excludes()
        )
        with zipfile.ZipFile(package) as packed:
            assert uploaded(checkout).total() == sum(file.file_size for file in packed.infolist())
        assert ("ail_out" in uploaded(checkout)) == (ignored == "1")


def test_a_folder_that_is_too_large_is_refused_before_it_is_sent(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was sent"))
    monkeypatch.setattr(submission, "LIMIT", 7000)
    for name in FORWARDED:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIL_DATA_DIR", "data")
    with pytest.raises(SystemExit) as left:
        main(["--working-dir", str(checkout)])
    assert left.value.code == 2
    command, data, size = capsys.readouterr().err.splitlines()
    assert command == "error: name the command to run on the cluster after --"
    assert data == "error: AIL_DATA_DIR must be an absolute path or an address on the cluster, got data"
    assert size.startswith(
        f"error: {checkout}: 0 MiB would be uploaded, and Ray takes less than 0; the largest are photos "
    )
    assert size.endswith("name in .rayignore what the job does not need")
    assert "data 0" not in size
    assert size.index("photos") < size.index("enlarged") < size.index("jobs")


def test_it_becomes_rays_own_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    became = list[list[str]]()

    def execv(program: str, words: list[str]) -> None:
        became.append(words)
        raise BecameAnotherError

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(submission, "JobSubmissionClient", lambda address: None)
    for name in FORWARDED:
        monkeypatch.delenv(name, raising=False)
    job = ["python", "jobs/ail_sweep.py", "demo", "--out", "/data/out", "--no-wait"]
    with pytest.raises(BecameAnotherError):
        main(["--", *job])
    ray = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(PACKAGE.parent)]
    assert became[-1] == [*ray, "--", *job]
    with pytest.raises(BecameAnotherError):
        main(["--", "ail", "sweep", "demo", "--no-wait"])
    assert became[-1] == [*ray, "--", "python", "-m", "ail_ray", "sweep", "demo", "--no-wait"]
    monkeypatch.setenv("AIL_DATA_DIR", "s3://bucket/data")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    monkeypatch.setenv("AIL_TEACHER_DIR", "")
    with pytest.raises(BecameAnotherError):
        main(["--address", "http://127.0.0.1:8265", "--submission-id", "first", "--no-wait", "--", *job])
    options = became[-1][len(ray) : became[-1].index("--")]
    assert options[:5] == ["--address", "http://127.0.0.1:8265", "--submission-id", "first", "--no-wait"]
    assert options[-2] == "--runtime-env"
    assert not any("s3cret" in word for word in became[-1]), "everybody may read the words of a command"
    assert json.loads(Path(options[-1]).read_bytes()) == {
        "env_vars": {"AIL_DATA_DIR": "s3://bucket/data", "MLFLOW_TRACKING_PASSWORD": "s3cret"}
    }
    printed = capsys.readouterr().out
    assert printed == "The job is told AIL_DATA_DIR, MLFLOW_TRACKING_PASSWORD as set here\n"


def test_a_cluster_that_does_not_answer_is_named(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it was sent"))
    (port,) = heads.free_ports(1)
    address = f"http://127.0.0.1:{port}"
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", *FORWARDED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with pytest.raises(SystemExit) as left:
        main(["--address", address, "--working-dir", str(checkout), "--", "python", "x.py"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: address: no cluster takes jobs at {address} (")


def test_this_repository_is_small_enough() -> None:
    assert uploaded(PACKAGE.parent).total() < submission.LIMIT / 4

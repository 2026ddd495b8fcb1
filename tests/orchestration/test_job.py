"""`ray job submit` against a head of its own: the job's status, its results, and a relative folder refused."""

import hashlib
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import heads
import pytest
from heads import Head
from tiny_files import TinyFiles, as_options
from upath import UPath

from ail_ray.commands.sweep import run_sweep
from ail_ray.files import read_record
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.sweeps.sweep_file import Summary
from ail_ray.sweeps.sweep_job import SweepJob

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with heads.head() as made:
        yield made


def students(summary: Summary) -> dict[str, str]:
    """SHA-256 of each trial's student."""
    return {trial.name: hashlib.sha256(Path(trial.weights or "").read_bytes()).hexdigest() for trial in summary.trials}


def test_a_submitted_sweep_ends_as_a_local_one(
    head: Head, tiny_files: TinyFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(urllib.error.HTTPError, match=r"401|403"):
        head.ask("/api/jobs/", token="another")
    values = {
        **tiny_files.protocol(), "rounds": 1, "epochs": 1, "crops": 16, "width": (2,), "lam": (0.05,), "rule": ("eq7",),
        "teacher": (str(tiny_files.teacher), "none"),
    }  # fmt: skip
    out = tmp_path / "submitted"
    head.submit("sweep", ["demo", *as_options(values), "--out", str(out)])
    job = head.result("sweep")
    assert job["status"] == "SUCCEEDED", job["logs"]
    summary = read_record(UPath(out / "summary.json"), Summary)
    assert [trial.status for trial in summary.trials] == ["finished", "finished"]
    assert summary.tracking_uri == f"sqlite:///{out / 'mlflow.db'}"
    assert str(out / "summary.json") in job["logs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = run_sweep(SweepJob(sweep=SweepConfig.of(**values), out=str(tmp_path / "local"), local=True))
    assert students(local) == students(summary)
    assert len(set(students(summary).values())) == 2


def test_a_submitted_job_refuses_a_relative_folder(head: Head) -> None:
    head.submit("relative", ["demo", "--out", "results", "--storage", "runs"])
    job = head.result("relative")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    lines = [line for line in job["logs"].splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: out must be an absolute path in a submitted job, got results",
        "error: storage must be an absolute path in a submitted job, got runs",
    ]
    assert "Traceback" not in job["logs"]

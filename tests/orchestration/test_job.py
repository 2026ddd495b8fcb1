"""`ray job submit` against a head of its own: the job's status, its results, and a relative folder refused."""

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import TinyFiles, as_options

from ail_ray.learning.config import SweepConfig
from ail_ray.orchestration.sweep import SweepJob, run_sweep

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 400  # seconds; a quiet machine needs 30
EXCLUDES = [".git", "tests", "docs", "*.db", "ail_out", "mlruns", ".venv"]


@dataclass(frozen=True)
class Head:
    """A head that asks for a token."""

    address: str
    token: str
    environment: dict[str, str]

    def ask(self, path: str, token: str | None = None) -> Any:
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {token or self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def submit(self, name: str, arguments: list[str]) -> dict[str, Any]:
        """Submit the sweep, wait for its end; what the head says of it, its log included."""
        submission = subprocess.run(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--address", self.address, "--no-wait"),
                *("--submission-id", name, "--working-dir", str(REPOSITORY)),
                *("--runtime-env-json", json.dumps({"excludes": EXCLUDES})),
                *("--", sys.executable, "jobs/ail_sweep.py", *arguments),
            ],
            env=self.environment, check=False, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert submission.returncode == 0, submission.stderr
        deadline = time.monotonic() + PATIENCE
        while (job := self.ask(f"/api/jobs/{name}"))["status"] in ("PENDING", "RUNNING"):
            assert time.monotonic() < deadline, self.ask(f"/api/jobs/{name}/logs")["logs"]
            time.sleep(1)
        return {**job, **self.ask(f"/api/jobs/{name}/logs")}


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = Path(tempfile.mkdtemp(prefix="ail"))  # short: Ray puts sockets there
    token = folder / "token"
    token.write_text("a-token-of-this-test-0123456789abcdef")
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment |= {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 0: stays on the loopback
    }  # fmt: skip
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=2"),
                *("--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", f"--temp-dir={folder / 'ray'}"),
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        made = Head(f"http://127.0.0.1:{ports['dashboard-port']}", token.read_text(), environment)
        wait_for_agent(made, process, folder / "head.log")
        yield made
    finally:
        end_tree(process, str(folder))
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_agent(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the head lists its jobs (there are none)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            assert head.ask("/api/jobs/") == []
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def end_tree(process: subprocess.Popen[bytes], folder: str) -> None:
    """End the head and all its descendants, by process and never by name; nothing may be left."""
    while family := descendants(process.pid):
        for pid in (process.pid, *family):  # parents first, so that nobody is started again
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process.poll() is not None:
            break
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while left := [pid for pid, words in command_lines().items() if folder in words]:
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.2)


def descendants(pid: int) -> list[int]:
    """Children and their children, nearest first."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for parent in family:
        family += [child for child, its in parents.items() if its == parent]
    return family[1:]


def command_lines() -> dict[int, str]:
    lines = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines[int(entry.parent.name)] = entry.read_text()
    return lines


def students(summary: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of each trial's student."""
    return {
        trial["name"]: hashlib.sha256(Path(trial["weights"]).read_bytes()).hexdigest() for trial in summary["trials"]
    }


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
    job = head.submit("sweep", ["demo", *as_options(values), "--out", str(out)])
    assert job["status"] == "SUCCEEDED", job["logs"]
    summary = json.loads((out / "summary.json").read_text())
    assert [trial["status"] for trial in summary["trials"]] == ["finished", "finished"]
    assert summary["tracking_uri"] == f"sqlite:///{out / 'mlflow.db'}"
    assert str(out / "summary.json") in job["logs"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    local = run_sweep(SweepJob(sweep=SweepConfig(**values), out=str(tmp_path / "local"), local=True))
    assert students(local) == students(summary)
    assert len(set(students(summary).values())) == 2


def test_a_submitted_job_refuses_a_relative_folder(head: Head) -> None:
    job = head.submit("relative", ["demo", "--out", "results", "--storage", "runs"])
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    lines = [line for line in job["logs"].splitlines() if line.startswith("error: ")]
    assert lines == [
        "error: out must be an absolute path in a submitted job, got results",
        "error: storage must be an absolute path in a submitted job, got runs",
    ]
    assert "Traceback" not in job["logs"]

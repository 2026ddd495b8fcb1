"""MLflow's own servers, for tests that look at what they show and answer."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

PATIENCE = 180  # seconds, on a busy machine


@contextlib.contextmanager
def server(folder: Path, *command: str) -> Iterator[str]:
    """One of MLflow's servers on a free port of the loopback; its address, where it answers only after a while."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow calls uvicorn by its name
    environment = {**os.environ, "PATH": programs, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / f"{command[0]}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command, "--host", "127.0.0.1", "--port", str(port)],
            cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answered(url: str, data: bytes | None = None) -> bytes:
    """What a server answers, once it does."""
    asked = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                return bytes(answer.read())
        except OSError:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.3)

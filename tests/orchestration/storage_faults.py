"""What a disk, and whoever else uses it, may do to a run in one process; cases of `make faults`."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mlflow import MlflowClient
from moto.server import ThreadedMotoServer
from upath import UPath

if TYPE_CHECKING:
    from faults import Case

sys.path.insert(0, str(Path(__file__).parents[1] / "runs"))
from made_run import slept

STEPS = 12  # sizes of the disk that is too small
POINTS = 200  # at which a job is held up
FIRST = 20  # times that two sweeps begin at once


@contextlib.contextmanager
def disk(folder: Path, size: int) -> Iterator[None]:
    """A disk of so many bytes; this program has its mounts for itself."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "small", str(folder)], check=True)
    try:
        yield
    finally:
        kept = folder.with_name("kept")
        shutil.copytree(folder, kept)
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()
        kept.rename(folder)


def remount(folder: Path, options: str) -> None:
    """Change a disk under whoever uses it."""
    deadline = time.monotonic() + 60
    while subprocess.run(
        ["mount", "-o", f"remount,{options}", str(folder)], check=False, stderr=subprocess.DEVNULL
    ).returncode:
        assert time.monotonic() < deadline, f"{folder}: always busy"  # while a file there is being written


def said(case: "Case", words: str, since: int) -> int:
    """Make sure that the command ended with words for people; how long its log is."""
    log = (case.folder / "log").read_text()
    assert words in log[since:], log[since:]
    assert "Traceback" not in log[since:], log[since:]
    return len(log)


def disk_full_everywhere(case: "Case") -> None:
    """A disk that is too small by ever less; whatever is written then is what finds no room."""
    out, seen = case.folder / "out", 0
    case.folder.mkdir()
    with disk(out, 2**30):
        case.finish(case.start())
        needed = sum(path.stat().st_blocks * 512 for path in out.rglob("*")) + 4096 * sum(1 for _ in out.rglob("*"))
    shutil.rmtree(out)
    (case.folder / "mlflow.db").unlink()
    with disk(out, 4096):
        for step in range(STEPS):
            remount(out, f"size={(1 + needed * step // STEPS) // 4096 * 4096 + 4096}")
            process = case.start()
            case.note(process.pid)
            case.until(lambda process=process: process.poll() is not None)
            if process.returncode == 0:
                break
            assert process.returncode in (1, 2), case.log()
            seen = said(case, "No space left on device", seen)
        remount(out, f"size={2**30}")
        case.finish(case.start())


def read_only(case: "Case") -> None:
    """In the middle of a round the disk lets nobody write any more, as it does after an error."""
    case.points = {"slow": 0.2}
    out = case.folder / "out"
    case.folder.mkdir()
    with disk(out, 2**30):
        process = case.start()
        case.until(lambda: case.place()[0] >= 1 or process.poll() is not None)
        remount(out, "ro")
        case.note(process.pid)
        case.until(lambda: process.poll() is not None)
        assert process.returncode in (1, 2), case.log()
        said(case, "Read-only file system", 0)
        remount(out, "rw")
        again = case.start()
        case.until(lambda: case.recovered(lambda: again.poll() is not None))
        case.finish(again)


def folder_deleted(case: "Case") -> None:
    """Somebody deletes the results of a sweep that is running."""
    case.points = {"slow": 0.2}
    process = case.start()
    case.until(lambda: case.place()[0] >= 1 or process.poll() is not None)
    case.note(process.pid)
    shutil.rmtree(case.folder / "out", ignore_errors=True)
    case.until(lambda: process.poll() is not None)
    assert process.returncode in (1, 2), case.log()
    said(case, "failed: ", 0)
    case.points = {}
    shutil.rmtree(case.folder / "out", ignore_errors=True)  # what it wrote since
    case.finish(case.start())


def stopped_and_overtaken(case: "Case") -> None:
    """Jobs that sleep (SIGSTOP) until another has done all, then wake up; then 200 points of a commit."""
    case.points = {"slow": 0.1}
    for seed in range(3):
        both = replace(case, folder=case.folder / str(seed), hits=case.hits)
        first = both.start(MLFLOW_TRACKING_URI=f"sqlite:///{both.folder / 'first.db'}")  # it may stop with it locked
        both.until(lambda both=both, first=first: both.place()[0] >= 0 or first.poll() is not None)
        time.sleep(np.random.default_rng(seed).uniform(0, 1.5))
        both.kill(first.pid, signal.SIGSTOP)
        try:  # its lease is not renewed, which is noticed after 45 seconds
            both.finish(both.start())
            whole = both.digest()
        finally:
            first.send_signal(signal.SIGCONT)
        both.finish(first)
        assert both.digest() == whole, "the first one spoiled what the second one did"
    case.points = {}
    case.finish(case.start())  # the usual run, to be compared
    with tempfile.TemporaryDirectory() as name:
        assert sleepers(UPath(name)) >= POINTS


def stopped_in_a_bucket(case: "Case") -> None:
    """The same 200 points of a commit to S3."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # else a line for every request is among the results
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    try:
        bucket = UPath("s3://ail")
        bucket.mkdir()
        assert sleepers(bucket) >= POINTS
    finally:
        server.stop()
        for name in (*keys, "AWS_ENDPOINT_URL"):
            del os.environ[name]
    process = case.start()
    case.note(process.pid)
    case.finish(process)  # the usual run, to be compared


def sleepers(place: UPath) -> int:
    """Hold a job up at seeded points of its commits until another has overtaken it; returns how many points."""
    done = 0
    for kind in ("epoch", "round"):
        for later in (0, 1, 5):
            lines = slept(place / f"{kind}-{later}", kind, later, 0)
            for point in np.random.default_rng(later).choice(lines, min(-(-POINTS // 6), lines), replace=False):
                slept(place / f"{kind}-{later}-{point}", kind, later, int(point) + 1)
                done += 1
    return done


def two_first_sweeps(case: "Case") -> None:
    """Twenty times two sweeps that differ begin at once where nothing is: one database, a parent run for each."""
    for number in range(FIRST):
        both = replace(case, folder=case.folder / str(number), hits=[])
        one = both.start()
        both.options = {"lam": (0.07,)}
        other = both.start()
        both.finish(one)
        both.finish(other)
        case.note(one.pid)
        client = MlflowClient(f"sqlite:///{both.folder / 'mlflow.db'}")
        (experiment,) = [each for each in client.search_experiments() if each.name == "ail_ray"]
        runs = client.search_runs([experiment.experiment_id], "tags.`ail.run` = 'parent'")
        assert [run.info.status for run in runs] == ["FINISHED"] * 2, both.log()
    case.finish(case.start())  # the usual run, to be compared

"""Kill every part of a run, look at what the same command makes of it afterwards: `make faults`.

Each fault is a SIGKILL (or SIGTERM, a full disk, a lost server) of another process at a named point; the run goes on by
itself or by the same command. The table gives the point, the process, how often it was hit, the seconds from there to
the next commit, and the SHA-256 over student and importance beside that of an uninterrupted run. Exit code 1: they
differ somewhere.
"""

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
import heads
import numpy as np
import storage_faults
from mlflow import MlflowClient
from tiny_files import TinyFiles, as_options, make_tiny_files
from upath import UPath

from ail_ray.files import FileError, read_json
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.records import Place
from ail_ray.tensors import read_tensors

INJECTOR = Path(__file__).parent / "injector"
PATIENCE = 400  # seconds, for one command
ROUNDS = 3
HALTS = {  # point and the call of it, counted in each process, at which the first to come there is killed
    "θ": 14, "error pass": 2, "between epochs": 2, "checkpoint": 4, "before an update": 5, "in an update": 4,
    "after an update": 4,
}  # fmt: skip


@dataclass
class Case:
    """A folder with a run of its own, and what was done to it."""

    folder: Path
    files: TinyFiles
    local: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    points: dict[str, float] = field(default_factory=dict)
    hits: list[int] = field(default_factory=list)  # pids
    recoveries: list[float] = field(default_factory=list)  # seconds

    def arguments(self) -> list[str]:
        values = {
            **self.files.protocol(), "rounds": ROUNDS, "width": (3,), "lam": (0.05,), "rule": ("eq7",),
            "teacher": (str(self.files.teacher),), **self.options,
        }  # fmt: skip
        where = ["--local"] if self.local else ["--workers", str(values.pop("workers", 2))]
        return ["demo", *as_options(values), *where, "--out", str(self.folder / "out")]

    def environment(self) -> dict[str, str]:
        fault = json.dumps({"folder": str(self.folder), "points": self.points}) if self.points else "{}"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_TRACKING"))}
        path = os.pathsep.join([str(INJECTOR), str(heads.REPOSITORY)])
        return {**inherited, "PYTHONPATH": path, "AIL_FAULT": fault, "PYTHONUNBUFFERED": "1"}

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """The command a user types."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, str(heads.REPOSITORY / "jobs" / "ail_sweep.py"), *self.arguments()],
                cwd=self.folder, env=self.environment() | environment, stdout=log, stderr=log,
            )  # fmt: skip

    def finish(self, process: subprocess.Popen[bytes], *, code: int = 0) -> None:
        """Wait for the end of the command, killing whoever halts on the way."""
        self.until(lambda: process.poll() is not None)
        assert process.returncode == code, f"exit code {process.returncode}: {self.log()}"

    def until(self, what: Callable[[], bool]) -> None:
        """Wait for something, killing whoever halts on the way."""
        deadline = time.monotonic() + PATIENCE
        while not what():
            for point in set(HALTS) & set(self.points):
                halted = self.folder / point
                if halted.exists() and (pid := halted.read_text()) and halted.stat().st_size:
                    self.kill(int(pid))
                    halted.write_text("")  # exists, so that nobody halts here again
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        """Kill a process that is not this one, and note it."""
        assert pid != os.getpid()
        self.note(pid)
        os.kill(pid, number)

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill a process with all below it, and note it once they are gone."""
        heads.end_tree(process)
        self.note(process.pid)

    def note(self, pid: int) -> None:
        """Something happens to a process now."""
        self.hits.append(pid)
        self.count_from_here()

    def count_from_here(self) -> None:
        """Only what is committed from now on has been recovered."""
        self._place_hit, self._hit = self.place(), time.monotonic()

    def recovered(self, code: Callable[[], bool]) -> bool:
        """Whether there is a commit since the kill, and how long that took, or the command is over."""
        if self.place() != self._place_hit:
            self.recoveries.append(time.monotonic() - self._hit)
            return True
        return code()

    def run(self) -> RunDirectory | None:
        runs = [path for path in (self.folder / "out" / "runs").glob("*") if (path / "manifest.json").exists()]
        return RunDirectory(UPath(runs[0])) if runs else None

    def place(self) -> tuple[int, Any]:
        with contextlib.suppress(FileError):
            if run := self.run():
                return run.last_round, run.place
        return -1, None

    def log(self) -> str:
        log = self.folder / "log"  # there is none if all was done by jobs
        return f"{log}: {log.read_text()[-2000:] if log.exists() else 'nothing was written'}"

    def digest(self) -> str:
        """SHA-256 over the student and every snapshot of importance that is kept."""
        run = self.run()
        assert run is not None, "no run directory"
        digest = hashlib.sha256()
        for path in [run.path / "student.safetensors", *sorted(Path(str(run.path / "importance")).rglob("*.safe*"))]:
            digest.update(Path(str(path)).read_bytes())
        return digest.hexdigest()

    def rounds_in_mlflow(self, uri: str | None = None) -> list[int]:
        """The steps of the trial's run, of which there must be one, beside those of what it is compared with."""
        client = MlflowClient(uri or f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("ail_ray")
        runs = client.search_runs([experiment.experiment_id])
        kinds = {run.info.run_id: run.data.tags["ail.run"] for run in runs}
        (trial,) = [run for run, kind in kinds.items() if kind != "parent" and not kind.startswith("reference ")]
        return [metric.step for metric in client.get_metric_history(trial, "importance/mean")]


def killed_in_a_worker(case: Case, point: str) -> None:
    """The first process that comes to the point; the sweep goes on without being told to."""
    case.points = {point: HALTS[point]}
    process = case.start()
    case.until(lambda: bool(case.hits) or process.poll() is not None)
    assert case.hits, f"{point} was not reached: {case.log()}"
    case.until(lambda: case.recovered(lambda: process.poll() is not None))
    case.finish(process)


def trial_killed(case: Case) -> None:
    """The process of the trial, which holds the lease."""
    case.points = {"slow": 0.3}
    process = case.start()
    case.until(lambda: case.place()[0] >= 1 or process.poll() is not None)
    run = case.run()
    assert run is not None
    case.kill(read_json(run.path / "lease.json")["pid"])
    case.until(lambda: case.recovered(lambda: process.poll() is not None))
    case.finish(process)


def driver_killed(case: Case) -> None:
    """The command itself; then the same command again."""
    case.points = {"slow": 0.3}
    process = case.start()
    case.until(lambda: case.place()[0] >= 1 or process.poll() is not None)
    orphans = set(heads.descendants(process.pid))
    case.kill(process.pid)
    process.wait()
    case.until(lambda: not orphans & heads.command_lines().keys())  # its Ray goes by itself
    case.count_from_here()
    again = case.start()
    case.until(lambda: case.recovered(lambda: again.poll() is not None))
    case.finish(again)


def terminated(case: Case) -> None:
    """A spot machine's notice: the command leaves with 143, its last whole epoch stands; then again."""
    case.points = {"slow": 0.2}
    process = case.start()
    case.until(lambda: case.place()[0] >= 1 or process.poll() is not None)
    time.sleep(0.5)
    case.kill(process.pid, signal.SIGTERM)
    case.finish(process, code=143)
    assert case.place()[0] >= 1
    case.points = {}
    again = case.start()
    case.until(lambda: case.recovered(lambda: again.poll() is not None))
    case.finish(again)


def two_at_once(case: Case) -> None:
    """The second waits for the first (which sleeps until it does), then finds everything done."""
    case.points = {"slow": 0.1}
    first = case.start()
    # Not before an epoch of round 1: until then it may be writing to MLflow's database, and would stop with it locked.
    case.until(lambda: case.place() >= (0, Place(1, 1)) or first.poll() is not None)
    case.kill(first.pid, signal.SIGSTOP)
    case.points = {}
    try:
        second = case.start()
        case.until(lambda: f"waits for process {first.pid}" in case.log() or second.poll() is not None)
        assert second.poll() is None, f"the second did not wait: {case.log()}"
    finally:
        first.send_signal(signal.SIGCONT)
    case.finish(first)
    case.finish(second)


def disk_full(case: Case) -> None:
    """Writing the third state fails for want of space, every time; the commit before stands."""
    case.points = {"disk full": 3}
    process = case.start()
    case.finish(process, code=1)
    assert "No space left on device" in case.log()
    last, place = case.place()
    assert (last, place.round, place.epochs) == (0, 0, 2)
    case.points = {}
    case.note(process.pid)
    again = case.start()
    case.until(lambda: case.recovered(lambda: again.poll() is not None))
    case.finish(again)


def head_killed(case: Case) -> None:
    """The head with all that runs on it; then the job submitted again to a new one."""
    case.points = {"slow": 0.3}
    with heads.head(**case.environment()) as head:
        head.submit("job", case.arguments())
        case.until(lambda: case.place()[0] >= 1 or not head.running("job"))
        case.end(head.process)
    with heads.head(**case.environment()) as head:
        head.submit("job", case.arguments())
        case.until(lambda: case.recovered(lambda: not head.running("job")))
        job = head.result("job")
        assert job["status"] == "SUCCEEDED", job["logs"]


def node_replaced(case: Case) -> None:
    """The node with the workers goes, another comes."""
    case.points = {"slow": 0.3}
    with heads.head(0, **case.environment()) as head:
        with head.node(2) as node:
            head.submit("job", [*case.arguments(), "--max-workers", "2"])
            case.until(lambda: case.place()[0] >= 1 or not head.running("job"))
            case.end(node)
        with head.node(2):
            case.until(lambda: case.recovered(lambda: not head.running("job")))
            job = head.result("job")
            assert job["status"] == "SUCCEEDED", job["logs"]


def host_cut_off(case: Case) -> None:
    """Of three hosts two work on a run; the cable of one of them is pulled, and the third takes its place."""
    case.points = {"slow": 0.3}
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(heads.head(0, **case.environment()))
        nodes = {host: stack.enter_context(head.node(1, host)) for host in (2, 3, 4)}
        head.submit("job", [*case.arguments(), "--max-workers", "2"])
        case.until(lambda: case.place()[0] >= 1 or not head.running("job"))
        busy = [
            host
            for host, node in nodes.items()
            if any("RayTrainWorker" in heads.command_lines().get(pid, "") for pid in heads.descendants(node.pid))
        ]
        assert len(busy) == 2, f"hosts with a worker: {busy}"
        case.note(nodes[busy[0]].pid)
        heads.ip(f"-n h{busy[0]} link set eth0 down")
        stack.callback(heads.ip, f"-n h{busy[0]} link set eth0 up")  # for whoever is next on this host
        case.until(lambda: case.recovered(lambda: not head.running("job")))
        job = head.result("job")
        assert job["status"] == "SUCCEEDED", job["logs"]


def job_stopped(case: Case) -> None:
    """`ray job stop` in round 2, and the job submitted again."""
    case.points = {"slow": 0.3}
    with heads.head(**case.environment()) as head:
        head.submit("job", case.arguments())
        case.until(lambda: case.place()[0] >= 1 or not head.running("job"))
        lines = heads.command_lines()
        case.note(next(pid for pid in heads.descendants(head.process.pid) if "ail_sweep" in lines.get(pid, "")))
        head.stop("job")
        assert head.result("job")["status"] == "STOPPED"
        head.submit("again", case.arguments())
        case.until(lambda: case.recovered(lambda: not head.running("again")))
        job = head.result("again")
        assert job["status"] == "SUCCEEDED", job["logs"]


def server_away(case: Case) -> None:
    """MLflow is gone for a minute; afterwards every round is there once."""
    case.points = {"slow": 3.0}
    port = heads.free_ports(1)[0]
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(case.folder, port) as server:
        process = case.start(MLFLOW_TRACKING_URI=uri)
        case.until(lambda: case.place()[0] >= 0 or process.poll() is not None)
        case.end(server)
        gone = time.monotonic()
        case.until(lambda: time.monotonic() - gone > 60 or process.poll() is not None)
    with mlflow_server(case.folder, port):
        case.until(lambda: case.recovered(lambda: process.poll() is not None))
        case.finish(process)
        assert case.rounds_in_mlflow(uri) == list(range(ROUNDS + 1))


def server_silent(case: Case) -> None:
    """MLflow accepts and never answers: that costs 30 seconds at the end and a line; the same command sends it all."""
    port = heads.free_ports(1)[0]
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(case.folder, port) as server:
        process = case.start(MLFLOW_TRACKING_URI=uri)
        case.until(lambda: case.place()[0] >= 0 or process.poll() is not None)
        os.killpg(server.pid, signal.SIGSTOP)
        case.note(server.pid)
        case.until(lambda: case.place()[0] == ROUNDS or process.poll() is not None)
        trained = time.monotonic()
        case.finish(process)
        assert time.monotonic() - trained < 45, case.log()
        assert "MLflow did not take all of the sweep in time" in case.log()
    with mlflow_server(case.folder, port):
        again = case.start(MLFLOW_TRACKING_URI=uri)
        case.finish(again)
        assert case.rounds_in_mlflow(uri) == list(range(ROUNDS + 1))


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A tracking server on the loopback."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "server.log").open("ab") as log:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)),
                *("--workers", "1"),
                *("--backend-store-uri", "sqlite:///mlflow.db", "--artifacts-destination", "artifacts"),
            ],
            cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + 120
    try:
        while True:
            with contextlib.suppress(Exception):
                MlflowClient(f"http://127.0.0.1:{port}").search_experiments()
                break
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield server
    finally:
        heads.end_tree(server)


def elastic(case: Case) -> None:
    """Three workers, then one, then three again; with a rule that adds 1/16, every pixel has had exactly T updates."""
    case.options = {"workers": "1..3", "teacher": ("none",)}
    case.points = {"slow": 4.0, "count": 1}  # long enough for a look for more workers, every 30 seconds
    seen = set()

    def workers() -> bool:
        run = case.run()
        with contextlib.suppress(FileError):
            if run is not None:
                seen.update(log.workers for record in run.follow() for log in record.epochs)
        return False

    with heads.head(1, **case.environment()) as head:
        with head.node(2) as node:
            head.submit("job", [*case.arguments(), "--max-workers", "3"])
            case.until(lambda: case.place()[0] >= 0 or not head.running("job"))
            case.end(node)
        case.until(lambda: case.recovered(lambda: not head.running("job")))
        with head.node(2):
            case.until(lambda: workers() or not head.running("job"))
            job = head.result("job")
            assert job["status"] == "SUCCEEDED", job["logs"]
    run = case.run()
    assert run is not None
    assert run.last_round == ROUNDS
    for path in Path(str(run.path / "importance" / f"round-{ROUNDS:03d}")).glob("*.safetensors"):
        importance = read_tensors(UPath(path))[0]["importance"]
        assert np.all(importance == np.float16(ROUNDS / 16)), np.unique(importance)
    assert len(seen) > 1, f"always {seen} workers"


CASES: dict[str, tuple[Callable[[Case], None], bool]] = {  # what is done, and whether without Ray
    **{f"killed: {point}": (lambda case, point=point: killed_in_a_worker(case, point), False) for point in HALTS},
    "killed: trial driver": (trial_killed, False),
    "killed: Tune driver": (driver_killed, False),
    "killed: head, submitted again": (head_killed, False),
    "killed: node, another added": (node_replaced, False),
    "a host of three cut off": (host_cut_off, False),
    "job stopped, submitted again": (job_stopped, False),
    "MLflow gone for a minute": (server_away, False),
    "MLflow silent": (server_silent, True),
    "disk full at a checkpoint": (disk_full, False),
    "SIGTERM, without Ray": (terminated, True),
    "two at once, without Ray": (two_at_once, True),
    "disk full, wherever it writes": (storage_faults.disk_full_everywhere, True),
    "disk read-only in mid-run": (storage_faults.read_only, True),
    "results deleted in mid-run": (storage_faults.folder_deleted, True),
    "stopped, overtaken, continued": (storage_faults.stopped_and_overtaken, True),
    "held up in a commit to S3": (storage_faults.stopped_in_a_bucket, True),
    "two first sweeps, 20 times": (storage_faults.two_first_sweeps, True),
    "elastic 1..3, node lost and added": (elastic, False),
}

KINDS = {
    **{f"killed: {point}": "store actor" if "update" in point else "worker" for point in HALTS},
    "killed: node, another added": "node", "killed: head, submitted again": "head",
}  # fmt: skip


def main() -> int:
    """Run all cases, or those whose name holds one of the words given; print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only the cases whose names hold one of these")
    parser.add_argument("--repeat", type=int, default=1, help="how often to do each, for medians of the seconds")
    options = parser.parse_args()
    heads.enter_private_network()
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    files = make_tiny_files(folder)
    whole: dict[bool, str] = {}
    wrong = 0
    print(f"{'fault':36}{'process':>9}{'hits':>5}{'seconds':>9}  {'student + importance':22}{'uninterrupted':16}")
    chosen = [name for name in CASES if not options.words or any(word in name for word in options.words)]
    seconds: dict[str, list[float]] = {}
    for number, name in enumerate(chosen * options.repeat):
        do, local = CASES[name]
        if local not in whole and do is not elastic:
            whole[local] = uninterrupted(folder / f"whole-{local}", files, local)
        case = Case(folder / f"case-{number}", files, local)
        try:
            line, right = attempt(case, do, whole.get(local, ""))
        except AssertionError as error:
            line, right = f"{'FAILED':16}  {error}", False
        wrong += not right
        took = f"{case.recoveries[0]:.1f}" if case.recoveries else "-"
        print(f"{name:36}{case.hits[0] if case.hits else '-':>9}{len(case.hits):>5}{took:>9}  {line}", flush=True)
        seconds.setdefault(KINDS.get(name, ""), []).extend(case.recoveries)
    print(f"{wrong} wrong; uninterrupted: " + ", ".join(f"{digest[:12]}" for digest in whole.values()))
    for kind, found in seconds.items():
        if kind and found:
            print(f"{kind}: median {median(found):.1f} s to the next commit ({len(found)} kills)")
    if not wrong:
        shutil.rmtree(folder)
    return int(wrong > 0)


def uninterrupted(folder: Path, files: TinyFiles, local: bool, **options: Any) -> str:
    """The digest of a run that nothing happens to."""
    case = Case(folder, files, local, options)
    case.finish(case.start())
    return case.digest()


def attempt(case: Case, do: Callable[[Case], None], expected: str) -> tuple[str, bool]:
    """Do it; what to print, and whether all is as it must be."""
    do(case)
    assert case.hits, "nothing was hit"
    if do is elastic:
        return f"{'every pixel':16}  {ROUNDS} updates of every pixel", True
    found = case.digest()
    if do not in (server_away, server_silent):  # which look at MLflow themselves
        job = case.folder / "out" / "mlflow.db"
        steps = case.rounds_in_mlflow(f"sqlite:///{job}" if job.exists() else None)
        assert steps == list(range(ROUNDS + 1)), f"in MLflow: {steps}"
    return f"{found[:12]:22}{expected[:12]:16}{'equal' if found == expected else 'DIFFERENT'}", found == expected


if __name__ == "__main__":
    sys.exit(main())

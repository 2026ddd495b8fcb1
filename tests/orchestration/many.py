"""Many short trials on a few slots, undisturbed and with slots that are killed: `make many`, about half an hour.

The first sweep is timed, and its processes and their memory are compared between its beginning and its end. In the
second, of the same trials in a storage of its own, workers are killed at seeded moments; its students must be the same,
bit for bit. Nothing may be left of either. Exit code 1: something is not so, or a figure is missed.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from heads import descendants

from ail_ray.benchmarks.whole_runs import crops_in
from ail_ray.files import as_path
from ail_ray.machine import cores
from ail_ray.runs.directory import STUDENT
from ail_ray.runs.trial import Trial, trials_in

ROUNDS = 2  # that train; round 0 has no importance yet
FACTOR, START = 1.25, 20.0  # most seconds: of what training takes, with all cores in use, and for the start


@dataclass(frozen=True)
class Look:
    """The processes of a sweep at one moment."""

    finished: int
    processes: int
    memory: int  # bytes; what several share counts once

    def __str__(self) -> str:
        return f"after {self.finished} trials {self.processes} processes with {self.memory / 1e9:.2f} GB"


def main() -> int:
    """Run both sweeps; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=10.0, help="of training in each")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    o = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="many-"))
    words = [
        "mini", "--train", "sample", "--validation", "sample-val", "--test", "--rule", "eq7", "--teacher", "none",
        "--epochs", "1", "--rounds", str(ROUNDS), "--crops", str(crops_in(o.seconds) // ROUNDS),
        "--seed", *map(str, range(o.trials)),
    ]  # fmt: skip
    print(f"{o.trials} trials of about {o.seconds:g} s, {cores()} at once", flush=True)
    began = time.perf_counter()
    looks, left = sweep(folder / "whole", words, lambda pid: None)
    taken, whole = time.perf_counter() - began, students(folder / "whole")
    training = sum(trained(trial) for trial in trials_in(as_path(folder / "whole" / "ail_out")))
    most = FACTOR * training / cores() + START
    early, late = looks[len(looks) // 10], looks[-1]
    print(f"{taken:.0f} s, of at most {most:.0f}: their training took {training:.0f}; {early}; {late}", flush=True)

    generator, killed = random.Random(o.seed), list[int]()
    after = [generator.uniform(0.5, 1.5) * taken / (o.kills + 1) for _ in range(o.kills)]
    next_one = [time.monotonic() + after[0] + START] if after else []

    def kill(driver: int) -> None:
        if len(killed) < o.kills and time.monotonic() > next_one[0]:
            victims = [pid for pid in descendants(driver) if is_worker(pid)]
            if victims:
                killed.append(generator.choice(sorted(victims)))
                os.kill(killed[-1], 9)
                next_one[0] = time.monotonic() + after[len(killed) - 1]

    _, left_again = sweep(folder / "killed", words, kill)
    again = students(folder / "killed")
    same = sum(again.get(run) == weights for run, weights in whole.items())
    print(f"{len(killed)} slots killed: {same} of {len(whole)} students equal; left behind: {left + left_again}")
    grown = late.processes > early.processes or late.memory > 1.1 * early.memory
    problems = [taken > most, grown, same < o.trials, len(killed) < o.kills, bool(left + left_again)]
    if not any(problems):
        shutil.rmtree(folder)
    return int(any(problems))


def sweep(folder: Path, words: list[str], look: Callable[[int], None]) -> tuple[list[Look], list[int]]:
    """Run a sweep in a folder, call `look` with its process id each second, and count its processes at times.

    Returns:
        One look whenever a trial was over, and the processes that are left a while after its end.
    """
    folder.mkdir()
    command = [sys.executable, "-m", "ail_ray", "sweep", *words]
    environment = os.environ | {"MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}"}
    looks, seen = list[Look](), set[int]()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        while process.poll() is None:
            look(process.pid)
            finished = len(list((folder / "ail_out" / "runs").glob(f"*/{STUDENT}")))
            if finished > (looks[-1].finished if looks else 0):
                there = descendants(process.pid)
                seen |= {*there}
                looks.append(Look(finished, len(there), sum(map(memory, there))))
            time.sleep(1)
    if process.returncode:
        raise SystemExit(f"exit code {process.returncode}: {(folder / 'log').read_text()[-2000:]}")
    deadline = time.monotonic() + 30
    while (left := [pid for pid in seen if psutil.pid_exists(pid)]) and time.monotonic() < deadline:
        time.sleep(1)
    return looks, left


def students(folder: Path) -> dict[str, bytes]:
    """The weights of all finished runs by their names."""
    return {path.parent.name: path.read_bytes() for path in folder.glob(f"ail_out/runs/*/{STUDENT}")}


def trained(trial: Trial) -> float:
    """Seconds that both subproblems of a run took."""
    return sum(record.seconds["theta"] + record.seconds.get("importance", 0.0) for record in trial.records)


def memory(pid: int) -> int:
    """Bytes of a process, with its part of what it shares; 0 for one that is gone."""
    try:
        return int(psutil.Process(pid).memory_full_info().pss)
    except (psutil.Error, OSError):
        return 0


def is_worker(pid: int) -> bool:
    """Whether a process is one that trains."""
    try:
        return "RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main())

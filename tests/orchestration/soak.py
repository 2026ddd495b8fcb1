"""Kill runs over and over and compare the last bit: `make soak`, at most half an hour.

Forty SIGKILLs of a run in one process at seeded moments, each followed by the same command; then ten of processes of
a run on Ray (workers, store actors, trials, the sweep's driver), chosen by the seed. At the end student and importance
must be those of an uninterrupted run, MLflow must show each round once, and no process, actor, placement group or file
in shared memory may be left. Exit code 1: something is not so.
"""

import argparse
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))
import heads
from faults import Case, uninterrupted
from tiny_files import make_tiny_files

from ail_ray.files import FileError, read_json

ROUNDS = 40
SLOW = {True: 0.5, False: 0.1}  # seconds a step without and with Ray, so that no run ends before its last kill


def main() -> int:
    """Soak; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--local", type=int, default=40, help="kills of the run in one process")
    parser.add_argument("--ray", type=int, default=10, help="kills of the run on Ray")
    options = parser.parse_args()
    generator, folder, began = random.Random(options.seed), Path(tempfile.mkdtemp(prefix="soak-")), time.monotonic()
    files, shared = make_tiny_files(folder), set(os.listdir("/dev/shm"))
    problems: list[str] = []
    for name, kills, soak, local in (
        ("one process", options.local, soak_local, True),
        ("Ray", options.ray, soak_ray, False),
    ):
        whole = uninterrupted(folder / f"whole-{name}", files, local, rounds=ROUNDS)
        case = Case(folder / name.replace(" ", "-"), files, local, {"rounds": ROUNDS})
        case.points = {"slow": SLOW[local]}
        uri, left = soak(case, kills, generator)
        found, steps = case.digest(), case.rounds_in_mlflow(uri)
        recovery = median(case.recoveries or [0])
        print(
            f"{name}: {len(case.hits)} kills; {found[:12]} {'equal' if found == whole else 'DIFFERENT'} {whole[:12]}; "
            f"rounds in MLflow {'each once' if steps == list(range(ROUNDS + 1)) else steps}; "
            f"left behind: {left or 'nothing'}; median seconds from a kill to a commit: {recovery:.1f}",
            flush=True,
        )  # fmt: skip
        problems += left
        problems += [name] * (found != whole or steps != list(range(ROUNDS + 1)) or len(case.hits) < kills)
    files_left = sorted(set(os.listdir("/dev/shm")) - shared)
    print(f"shared memory: {files_left or 'nothing left'}; {time.monotonic() - began:.0f} s, seed {options.seed}")
    if not problems and not files_left:
        shutil.rmtree(folder)
    return int(bool(problems or files_left))


def soak_local(case: Case, kills: int, generator: random.Random) -> tuple[str | None, list[str]]:
    """Kill the command, one time in four while it starts, else within 2.5 s of its work, and start it again."""
    for _ in range(kills):
        process = case.start()
        starting, seconds = generator.random() < 0.25, generator.uniform(0, 2.5)
        case.until(lambda starting=starting, process=process: starting or at_work(case, process))  # type: ignore[misc]
        time.sleep(seconds)
        assert process.poll() is None, f"over before it was killed: {case.log()}"
        case.kill(process.pid)
        process.wait()
    process = case.start()
    case.until(lambda: case.recovered(lambda: process.poll() is not None))
    case.finish(process)
    return None, [f"process {pid}" for pid in case.hits if Path(f"/proc/{pid}").exists()]


def at_work(case: Case, process: subprocess.Popen[bytes]) -> bool:
    """Whether a command has begun with the run, or is over."""
    with contextlib.suppress(FileError):
        if (run := case.run()) and read_json(run.path / "lease.json")["pid"] == process.pid:
            return True
    return process.poll() is not None


def soak_ray(case: Case, kills: int, generator: random.Random) -> tuple[str | None, list[str]]:
    """Kill something of the job every few seconds; submit again when it was the job's own driver."""
    with heads.head(**case.environment()) as head:
        job = 0
        head.submit(f"job-{job}", case.arguments())
        while len(case.hits) < kills:
            before = case.place()
            try:
                case.until(lambda before=before, job=job: case.place() != before or not head.running(f"job-{job}"))  # type: ignore[misc]
            except AssertionError:
                raise AssertionError(head.ask(f"/api/jobs/job-{job}/logs")["logs"]) from None
            if case.hits:
                case.recovered(lambda: False)
            time.sleep(generator.uniform(0, 3))
            if not head.running(f"job-{job}"):
                job += 1
                head.submit(f"job-{job}", case.arguments())
                continue
            victims = {pid: words for pid in heads.descendants(head.process.pid) if (words := role(pid))}
            if victims:
                victim = generator.choice(sorted(victims))
                print(f"at {case.place()}: kill {victim}, {victims[victim]}", flush=True)
                case.kill(victim)
        while (done := head.result(f"job-{job}"))["status"] != "SUCCEEDED":
            assert job < kills + 2, done["logs"]
            job += 1
            head.submit(f"job-{job}", case.arguments())
        left = remaining(head)
    return f"sqlite:///{case.folder / 'out' / 'mlflow.db'}", left


def role(pid: int) -> str:
    """What a process of the job is, if it may be killed: an actor of ours, or the sweep's driver."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()
    except OSError:
        return ""
    ours = (
        "ray::RayTrainWorker",
        "ray::StoreActor",
        "ray::Inbox",
        "ray::ImplicitFunc",
        "ray::_trial",
        "ray::TrainController",
    )
    if any(word in words for word in ours) or ("ail_sweep.py" in words and "ray" not in Path(words.split()[0]).name):
        return words
    return ""


def remaining(head: heads.Head) -> list[str]:
    """Actors and placement groups that outlived the job."""
    ours = ("RayTrainWorker", "StoreActor", "Inbox", "TrainController")
    deadline = time.monotonic() + 60
    while True:
        actors, groups = (
            head.ask(f"/api/v0/{what}?limit=1000")["data"]["result"]["result"]
            for what in ("actors", "placement_groups")
        )
        left = [f"actor {a['class_name']}" for a in actors if a["state"] != "DEAD" and a["class_name"] in ours]
        left += [f"placement group {g['placement_group_id']}" for g in groups if g["state"] != "REMOVED"]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(1)


if __name__ == "__main__":
    sys.exit(main())

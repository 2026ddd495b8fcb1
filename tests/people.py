"""Use every job as people do, and see how it ends: `make people`.

Two tables. Every job on a terminal of 80 columns, into a pipe, and into a pipe that nobody reads; and a sweep that is
stopped by Ctrl-C and by SIGTERM at five moments, with Ray and without. Each line has the exit code, the last line that
was shown, and what was recorded of the sweep (`sweep.json`, the parent run in MLflow). Exit code 1: a traceback, a
hidden cursor, rests of the live table, another exit code or another record than there must be.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from skimage import data
from terminal import PATIENCE, Terminal

JOBS = Path(__file__).parents[1] / "jobs"
INJECTOR = Path(__file__).parent / "orchestration" / "injector"
SWEEP = ("demo", *shlex.split("--depth 4 --downsizes 0.25 --shards 2 --rounds 1 --epochs 1 --crops 64 --teacher none"))
TABLE = re.compile(r"trials? over|^trial .* epoch .* crops/s")  # of the live table, which must not stay on the screen


@dataclass
class Seen:
    """How a command ended, as a person sees it."""

    code: int
    lines: list[str]
    cursor: bool = True

    @property
    def last(self) -> str:
        return next((line for line in reversed(self.lines) if line.strip()), "")

    @property
    def problems(self) -> list[str]:
        words = ("Traceback", "Exception ignored", "SIGTERM received", "KeyboardInterrupt")
        found = [word for word in words if any(word in line for line in self.lines)]
        found += ["rests of the table"] * any(TABLE.search(line) for line in self.lines)
        return found + ["no cursor"] * (not self.cursor)


@dataclass
class Person:
    """A folder to work in, and the environment of whoever works there."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, job: str, *words: str) -> list[str]:
        return [sys.executable, str(JOBS / f"{job}.py"), *words]

    def whole_environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "MLFLOW_TRACKING", "AIL_FAULT"))}
        path = os.pathsep.join([str(INJECTOR), str(JOBS.parent)])
        return {**inherited, "TERM": "xterm-256color", "PYTHONPATH": path, **self.environment}

    def terminal(self, job: str, *words: str, columns: int = 80) -> Terminal:
        command = self.command(job, *words)
        return Terminal(command, columns=columns, cwd=self.folder, environment=self.whole_environment())

    def at_terminal(self, job: str, *words: str, columns: int = 80) -> Seen:
        """Look on until the job has ended."""
        terminal = self.terminal(job, *words, columns=columns)
        try:
            return Seen(terminal.end(), terminal.lines, terminal.cursor)
        finally:
            terminal.close()

    def into_pipe(self, job: str, *words: str) -> Seen:
        """Read all that it prints."""
        done = subprocess.run(
            self.command(job, *words), cwd=self.folder, env=self.whole_environment(), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, encoding="utf-8", check=False, timeout=PATIENCE,
        )  # fmt: skip
        return Seen(_as_shell(done.returncode), done.stdout.splitlines())

    def into_closed_pipe(self, job: str, *words: str) -> Seen:
        """As `| head` that has read enough; what is shown is standard error."""
        reader, writer = os.pipe()
        os.close(reader)
        try:
            done = subprocess.run(
                self.command(job, *words), cwd=self.folder, env=self.whole_environment(), stdout=writer,
                stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, encoding="utf-8", check=False, timeout=PATIENCE,
            )  # fmt: skip
        finally:
            os.close(writer)
        return Seen(_as_shell(done.returncode), done.stderr.splitlines())

    def recorded(self, out: str = "out") -> str:
        """What `sweep.json` and MLflow's parent run say of the last sweep; `-` where there is none."""
        path = self.folder / out / "sweep.json"
        state = json.loads(path.read_bytes())["state"] if path.exists() else "-"
        if not (self.folder / "mlflow.db").exists():
            return f"{state} -"
        from mlflow import MlflowClient  # seconds

        client = MlflowClient(f"sqlite:///{self.folder / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("ail_ray")
        runs = client.search_runs([experiment.experiment_id], "tags.`ail.run` = 'parent'") if experiment else []
        return f"{state} {runs[0].info.status if runs else '-'}"


def _as_shell(code: int) -> int:
    return 128 - code if code < 0 else code


STOPS: dict[str, Callable[[Person, Terminal], object]] = {
    "planning": lambda person, terminal: (person.folder / "θ").exists(),  # the first step of what is measured
    "shards": lambda person, terminal: "shards of training pairs" in terminal.text,
    "first round": lambda person, terminal: len(list(person.folder.glob("out/runs/*/lease.json"))) > 0,
    "between trials": lambda person, terminal: "round 1:" in terminal.text,
    "summary": lambda person, terminal: (person.folder / "out" / "summary.json").exists(),
}
"""The moments at which a sweep is stopped, and how one knows them."""
RECORDED = {
    "planning": {"- -"}, "shards": {"- -"}, "first round": {"stopped KILLED"}, "between trials": {"stopped KILLED"},
    "summary": {"finished KILLED"},
}  # fmt: skip
"""What must be recorded then: nothing before a sweep has begun its record, and one that is summed up is finished."""


def stopped(person: Person, moment: str, number: int, *, local: bool, times: int = 1) -> tuple[Seen, str]:
    """Stop a sweep at a moment by a signal; how it ended, and what was recorded."""
    words = [*SWEEP, "--out", "out", *(["--local"] if local else ["--max-workers", "1"])]
    words += ["--plan"] * (moment == "planning")
    # The summary is sent in a tenth of a second, in which nobody could press anything.
    points = {"θ": 1} if moment == "planning" else {"slow": 0.3, "slow summary": 0.3}
    fault = json.dumps({"folder": str(person.folder), "points": points})
    person = Person(person.folder, {"AIL_FAULT": fault, "AIL_DATA_DIR": ""})
    terminal = person.terminal("ail_sweep", *words)
    try:
        terminal.until(lambda: STOPS[moment](person, terminal))
        for _ in range(times):
            if number == signal.SIGINT:
                terminal.press_ctrl_c()
            else:
                os.kill(terminal.process.pid, number)
        seen = Seen(terminal.end(), terminal.lines, terminal.cursor)
    finally:
        terminal.close()
    return seen, person.recorded()


def stop_is_right(seen: Seen, recorded: str, moment: str, number: int) -> list[str]:
    """What is wrong with it."""
    wrong = seen.problems
    wrong += [f"exit code {seen.code}"] * (seen.code != 128 + number)
    wrong += [f"recorded {recorded}"] * (recorded not in RECORDED[moment])
    wrong += ["no word how to go on"] * ("the same command" not in seen.last)
    return wrong


def commands(person: Person) -> dict[str, tuple[list[str], int]]:
    """Every job with words for something small to do, and the exit code that it must have; a sweep is there."""
    student = next(person.folder.glob("out/runs/*/student.safetensors"))
    picture = person.folder / "picture.png"
    Image.fromarray(data.astronaut()[:96, :128]).save(picture)
    work = {
        "ail_sweep": [*SWEEP, "--out", "out", "--local"],
        "runs": ["--storage", "out"],
        "report": ["--out", "out"],
        "evaluate": ["--model", str(student), "--sets", "sample-val", "--json", "-"],
        "upscale": [str(picture), "--model", str(student)],
        "export": ["--model", str(student), "--out", "enlarged"],
        "fetch_data": ["--list"],
        "train_teacher": shlex.split("--width 3 --scales 2 --train sample --epochs 1 --crops 32 --local --out teacher"),
        "teacher_inputs": [],
        "data": ["sample"],
        "paper_tables": shlex.split("--tables 1 --scales 2 --local --collect"),
        "benchmark": ["--only", "update_vs_copy"],
    }
    refused = {"submit": shlex.split("--address http://127.0.0.1:1 -- python jobs/ail_sweep.py demo")}
    return {job: (words, 0) for job, words in work.items()} | {job: (words, 2) for job, words in refused.items()}


def look_at_jobs(person: Person) -> int:
    """Print the first table; returns how many lines of it are wrong."""
    print(f"{'job':15}{'where':13}{'code':>5}  last line", flush=True)
    wrong = 0
    made = person.into_pipe("ail_sweep", *SWEEP, "--out", "out", "--local")  # what the others look at
    assert made.code == 0, made.lines
    for job, (words, code) in commands(person).items():
        for where, look in (
            ("terminal", person.at_terminal), ("pipe", person.into_pipe), ("closed pipe", person.into_closed_pipe),
        ):  # fmt: skip
            seen = look(job, *words)
            expected = 141 if where == "closed pipe" and not code else code  # a refusal prints nothing there
            problems = seen.problems + [f"exit code {seen.code}"] * (seen.code != expected)
            print(f"{job:15}{where:13}{seen.code:>5}  {seen.last[:90]}  {'; '.join(problems)}".rstrip(), flush=True)
            wrong += bool(problems)
            for left in ("enlarged", "teacher"):  # so that there is something to do the next time
                shutil.rmtree(person.folder / left, ignore_errors=True)
    return wrong


def look_at_stops(folder: Path) -> int:
    """Print the second table; returns how many lines of it are wrong."""
    print(f"\n{'moment':16}{'signal':9}{'where':8}{'code':>5}  {'recorded':20}last line", flush=True)
    wrong = 0
    for moment in STOPS:
        for number in (signal.SIGINT, signal.SIGTERM):
            for local in (False, True):
                person = Person(Path(tempfile.mkdtemp(dir=folder)))
                seen, recorded = stopped(person, moment, number, local=local)
                problems = stop_is_right(seen, recorded, moment, number)
                name, where = "Ctrl-C" if number == signal.SIGINT else "SIGTERM", "--local" if local else "Ray"
                line = (
                    f"{moment:16}{name:9}{where:8}{seen.code:>5}  {recorded:20}{seen.last[:70]}  {'; '.join(problems)}"
                )
                print(line.rstrip(), flush=True)
                if problems:
                    print("\n".join(f"    | {each}" for each in seen.lines[-60:]), flush=True)
                wrong += bool(problems)
    return wrong


def main() -> int:
    """Look at it all; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("jobs", "stops"))
    options = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory(prefix="ail") as name:
        folder = Path(name)
        (folder / "jobs").mkdir()
        if options.only != "stops":
            wrong += look_at_jobs(Person(folder / "jobs"))
        if options.only != "jobs":
            wrong += look_at_stops(folder)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

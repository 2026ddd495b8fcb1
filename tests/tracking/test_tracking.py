"""Run directories mirrored into MLflow: everything once, whatever is repeated, restarted or away for a while."""

import math
import re
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Dataset, DatasetInput, InputTag, Run
from mlflow.exceptions import MlflowException
from PIL import Image
from upath import UPath

from ail_ray.addresses import without_password
from ail_ray.errors import ConfigError
from ail_ray.files import write_bytes, write_record
from ail_ray.imaging.panels import as_png
from ail_ray.learning.config import RunConfig
from ail_ray.learning.records import Row, Rows, Spread
from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import RoundRecord
from ail_ray.runs.run import TrialPlan
from ail_ray.runs.trial import State, Trial, read_trial
from ail_ray.sweeps.controls import Reached
from ail_ray.sweeps.listeners import Monitor
from ail_ray.sweeps.sweep_file import Facts, Ledger, Summary
from ail_ray.sweeps.sweep_job import SweepJob
from ail_ray.tracking import sender
from ail_ray.tracking.descriptions import datasets, sweep_note, sweep_params, sweep_title, trial_note
from ail_ray.tracking.listener import InMLflow, MLflow
from ail_ray.tracking.mirror import Tracker, metrics_of
from ail_ray.tracking.sender import Sender

DATASETS = [
    DatasetInput(Dataset(name, digest, "images", "{}"), [InputTag("mlflow.data.context", context)])
    for name, digest, context in (("T91", "0123", "training"), ("val ×2", "4567", "validation"))
]
PARAMS = {"lam": 0.15, "teacher": "none", "seed": 0}


def row(name: str, psnr: float, scale: int = 2, ssim: float = 0.9) -> Row:
    return Row(set=name, scale=scale, psnr=psnr, ssim=ssim, images=2)


def record(t: int) -> RoundRecord:
    spread = Spread(mean=0.1 * t, saturated=0.0, p05=0.0, p25=0.1 * t, p50=0.2 * t, p75=0.3 * t, p95=0.3 * t)
    return RoundRecord(
        round=t, time=1_700_000_000.0 + 60 * t, loss=0.5 / (t + 1) if t else None,
        squared_error=0.25 / (t + 1) if t else None, patches_per_second=100.0 * t if t else None,
        importance=spread, seconds={"theta": 3.0, "evaluation": 0.5}, epochs=(),
        system={"memory_GB": 0.5, "workers": 2}, validation=(row("val", 30.0 + t),),
        test=(row("Set5", 31.0 + t, scale=3, ssim=0.8),),
    )  # fmt: skip


def picture(t: int) -> bytes:
    """What a round looks like, each another grey."""
    return as_png(np.full((8, 8), 40 * t, np.uint8))


def commit(directory: RunDirectory, t: int) -> None:
    """What a worker leaves of a round, as far as MLflow is concerned."""
    write_record(directory.record_path(t), record(t))
    write_bytes(directory.record_path(t).with_suffix("") / "importance-0.png", picture(t))
    directory.manifests.write(replace(directory.manifest(), last_round=t))


def trial(directory: RunDirectory, asked: int | None = None, **changes: Any) -> Trial:
    """The run as its directory says, with as many rounds as were asked for, and what is changed in it."""
    return replace(read_trial(directory.path, asked), **{"name": "a trial", **changes})


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(UPath(tmp_path / "runs" / "0123abcd"))
    made.create(RunConfig(rounds=3), corpus="0123", precision="fp32", threads=1, workers=1)
    return made


@pytest.fixture
def track(tmp_path: Path, empty_database: bytes) -> Callable[..., Tracker]:
    """Connects as a job does when it starts."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)

    def connect(sweep: str = "sweep-1", note: str = "`the command`", **more: Any) -> Tracker:
        return Tracker(
            f"sqlite:///{tmp_path / 'mlflow.db'}", sweep=sweep, name="mini", note=note,
            params={"epochs": 3}, datasets=DATASETS, **more,
        )  # fmt: skip

    return connect


def runs(tracker: Tracker) -> list[Run]:
    return list(tracker.client.search_runs([tracker.experiment]))


def rounds_sent(tracker: Tracker, run_id: str, metric: str = "importance/mean") -> list[tuple[int, float, int]]:
    return [(m.step, m.value, m.timestamp) for m in tracker.client.get_metric_history(run_id, metric)]


def images(tracker: Tracker, run_id: str, t: int) -> list[str]:
    """Paths of the images of a step, as MLflow's UI reads their names: the PNG and what it shows first."""
    files = [file.path for file in tracker.client.list_artifacts(run_id, "images")]
    return sorted((file for file in files if file.split("+")[1:3] == ["step", str(t)]), key=lambda file: file[-4:])


def expected(last: int) -> list[tuple[int, float, int]]:
    return [(t, 0.1 * t, 1_700_000_000_000 + 60_000 * t) for t in range(last + 1)]


def test_a_sweep_is_a_parent_and_a_trial_its_child(track: Callable[..., Tracker], directory: RunDirectory) -> None:
    tracker = track()
    commit(directory, 0)
    child = tracker.client.get_run(tracker.mirror(trial(directory), PARAMS))
    parent = tracker.client.get_run(tracker.parent)
    assert (parent.info.run_name, parent.data.params) == ("mini", {"epochs": "3"})
    assert parent.data.tags["mlflow.note.content"] == "`the command`"
    assert (parent.data.tags["ail.sweep"], parent.data.tags["ail.run"]) == ("sweep-1", "parent")
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert (child.data.tags["ail.sweep"], child.data.tags["ail.run"]) == ("sweep-1", "0123abcd")
    assert child.info.run_name == "a trial"
    assert child.data.tags["mlflow.note.content"].startswith("`the command`")
    assert "runs/0123abcd" in child.data.tags["mlflow.note.content"]
    for run in (parent, child):
        read = [(i.dataset.name, i.dataset.digest, i.tags[0].value) for i in run.inputs.dataset_inputs]
        assert sorted(read) == [("T91", "0123", "training"), ("val ×2", "4567", "validation")]
    assert child.data.params == {key: str(value) for key, value in PARAMS.items()}
    assert len(runs(tracker)) == 2


def test_every_round_is_sent_once_with_its_own_step_and_time(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    tracker, seen = track(), set()
    for t in range(3):
        commit(directory, t)
        for again in (tracker, tracker, track()):  # the last one is a restarted job
            seen.add(again.mirror(trial(directory), PARAMS))
    (run_id,) = seen
    assert rounds_sent(tracker, run_id) == expected(2)
    assert [step for step, _, _ in rounds_sent(tracker, run_id, "theta/loss")] == [1, 2]
    assert len(runs(tracker)) == 2
    for t in range(3):
        png, webp = images(tracker, run_id, t)
        assert Path(tracker.client.download_artifacts(run_id, png)).read_bytes() == picture(t)
        with Image.open(tracker.client.download_artifacts(run_id, webp)) as image:
            assert (image.format, image.size) == ("WEBP", (8, 8))
            assert abs(np.asarray(image.convert("L")).astype(int) - 40 * t).max() <= 3


def test_another_sweep_has_its_own_runs(track: Callable[..., Tracker], directory: RunDirectory) -> None:
    commit(directory, 0)
    one, two = track("sweep-1"), track("sweep-2")
    assert one.parent != two.parent
    assert one.mirror(trial(directory), PARAMS) != two.mirror(trial(directory), PARAMS)
    assert len(runs(one)) == 4


@pytest.mark.parametrize("broken", ["log_batch", "log_artifacts", "log_inputs", "get_run", "create_run", "search_runs"])
def test_an_outage_loses_and_repeats_nothing(
    track: Callable[..., Tracker], directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    tracker, first = track(), 0
    if broken not in ("create_run", "search_runs", "log_inputs"):
        first = 1
        commit(directory, 0)
        tracker.mirror(trial(directory), PARAMS)
    with monkeypatch.context() as patch:

        def away(*_: Any, **__: Any) -> None:
            raise MlflowException("the server is away")

        patch.setattr(tracker.client, broken, away)
        for t in range(first, 3):
            commit(directory, t)
            with pytest.raises(MlflowException, match="is away"):
                tracker.mirror(trial(directory), PARAMS)
    run_id = tracker.mirror(trial(directory), PARAMS)
    assert rounds_sent(tracker, run_id) == expected(2)
    assert [len(images(tracker, run_id, t)) for t in range(3)] == [2, 2, 2]
    assert len(tracker.client.get_run(run_id).inputs.dataset_inputs) == 2
    assert len(runs(tracker)) == 2


def test_an_outage_between_a_run_and_its_parameters_loses_neither(
    track: Callable[..., Tracker], directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = track()
    commit(directory, 0)
    with monkeypatch.context() as patch:

        def away(*_: Any, **__: Any) -> None:
            raise MlflowException("the server is away")

        patch.setattr(tracker.client, "log_batch", away)
        with pytest.raises(MlflowException, match="is away"):
            tracker.mirror(trial(directory), PARAMS)
    run = tracker.client.get_run(tracker.mirror(trial(directory), PARAMS))
    assert run.data.params == {key: str(value) for key, value in PARAMS.items()}
    assert rounds_sent(tracker, run.info.run_id) == expected(0)


@pytest.mark.parametrize(("status", "shown"), [("finished", "FINISHED"), ("failed", "FAILED"), ("stopped", "KILLED")])
def test_how_a_trial_ended_is_shown(
    track: Callable[..., Tracker], directory: RunDirectory, status: State, shown: str
) -> None:
    tracker = track()
    commit(directory, 0)
    for name in ("student.safetensors", "config.json"):
        write_bytes(directory.path / name, name.encode())
    run_id = tracker.mirror(trial(directory), PARAMS)
    for _ in range(2):
        tracker.finish_trial(run_id, trial(directory, asked=0, status=status))
    run = tracker.client.get_run(run_id)
    assert (run.info.status, run.data.tags["ail.result"]) == (shown, status)
    # However late it is sent, it began when its directory was made and ended with its last round.
    assert run.info.start_time == int(directory.manifest().created * 1000)
    assert run.info.end_time == 1_700_000_000_000
    files = {file.path for file in tracker.client.list_artifacts(run_id) if not file.is_dir}
    assert files == ({"student.safetensors", "config.json"} if status == "finished" else set())


def test_what_a_stop_kept_from_being_written_is_sent_when_it_is_there(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    tracker = track()
    commit(directory, 0)
    write_bytes(directory.student_path(0), b"student")
    run_id = tracker.mirror(trial(directory), PARAMS)
    sent = list[set[str]]()
    for there in ((), ("student.safetensors", "config.json")):
        for name in there:
            write_bytes(directory.path / name, b"student")
        tracker.finish_trial(run_id, trial(directory, asked=0))
        assert tracker.client.get_run(run_id).info.status == "FINISHED"
        sent.append({file.path for file in tracker.client.list_artifacts(run_id) if not file.is_dir})
    assert sent == [{"student.safetensors"}, {"student.safetensors", "config.json"}]


def test_a_server_that_is_not_there_is_said_at_once_and_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # not listening: refuses
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(ConfigError, match=rf"MLflow at http://{address} cannot be used") as caught:
            Tracker(
                f"http://somebody:hunter2@{address}", sweep="s", name="n", note="", params={}
            )  # fmt: skip
    assert time.monotonic() - began < 30
    assert "hunter2" not in str(caught.value)
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://alice:s3cret@mlflow.corp:5000", "http://mlflow.corp:5000"),
        ("API request to https://alice:p@ss@mlflow/api failed", "API request to https://mlflow/api failed"),
        ("mysql+pymysql://u:p/w@db/mlflow", "mysql+pymysql://db/mlflow"),
        ("postgresql://u:p@db/mlflow", "postgresql://db/mlflow"),
        ("postgresql://db/mlflow?user=u&password=s3cret", "postgresql://db/mlflow"),
        ("https://mlflow.corp/?token=s3cret#s3cret", "https://mlflow.corp/"),
        ("failed at https://u:p@mlflow/api?access_token=s3cret, again", "failed at https://mlflow/api again"),
        ("sqlite:////home/me@corp/mlflow.db", "sqlite:////home/me@corp/mlflow.db"),
        ("see http://a/b, ask x@y", "see http://a/b, ask x@y"),
    ],
)
def test_an_address_is_shown_without_user_and_password(text: str, shown: str) -> None:
    assert without_password(text) == shown


def test_a_server_that_goes_away_is_said_without_its_password(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Away:
        sweep = "s"

        def mirror(self, *_: object) -> str:
            raise OSError("API request to http://alice:s3cret@127.0.0.1:9/api failed\nwith a page of HTML")

    plan = make_plan(tmp_path)
    plan.open(RunDirectory(plan.directory), Placement())
    ledger = Ledger(UPath(tmp_path / "s.json"), name="n", command="", config={}, asked=1)
    calls = Sender()
    monitor = Monitor(InMLflow(Away(), calls, Facts(), print), ledger, print, {})  # type: ignore[arg-type]
    monitor.started(plan)
    monitor.heard(plan)
    assert calls.settle()
    said = "".join(capsys.readouterr())
    assert "API request to http://127.0.0.1:9/api failed" in said
    assert "s3cret" not in said
    assert "HTML" not in said


def test_a_server_that_never_answers_costs_a_sweep_no_more_than_its_patience(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, empty_database: bytes
) -> None:
    """Not a round, half a second at the end, and one line; what it would have taken it is sent by the next command."""
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    answers = threading.Event()

    class Silent(Tracker):
        def mirror(self, *arguments: Any) -> str:
            answers.wait()
            return super().mirror(*arguments)

    def begin(kind: type[Tracker], patience: float) -> tuple[InMLflow, Monitor]:
        tracker = kind(f"sqlite:///{tmp_path / 'mlflow.db'}", sweep="s", name="n", note="", params={})
        in_mlflow = InMLflow(tracker, Sender(patience), Facts(), said.append)
        ledger = Ledger(UPath(tmp_path / "s.json"), name="n", command="", config={}, asked=1)
        return in_mlflow, Monitor(in_mlflow, ledger, lambda line: None, {})

    def end(in_mlflow: InMLflow, monitor: Monitor) -> str | None:
        (trial,) = monitor.trials()
        bicubic = {"bicubic": Rows()}
        in_mlflow.finish(Summary(trials=(trial,), references=bicubic), [])
        return trial.mlflow_run_id

    said, plan = list[str](), make_plan(tmp_path)
    plan.open(RunDirectory(plan.directory), Placement())
    in_mlflow, monitor = begin(Silent, 0.5)
    monitor.started(plan)
    for t in range(3):
        commit(RunDirectory(plan.directory), t)
        monitor.heard(plan)
    monitor.ended(plan, None)
    began = time.monotonic()
    assert end(in_mlflow, monitor) is None
    assert time.monotonic() - began < 5, "and not the twenty seconds of a request"
    assert said == ["MLflow did not take all of the sweep in time; the same command sends it when MLflow is back"]
    in_mlflow, monitor = begin(Tracker, 30)
    monitor.started(plan)
    monitor.ended(plan, None)
    run_id = end(in_mlflow, monitor)
    assert run_id is not None
    assert len(said) == 1
    assert [step for step, *_ in rounds_sent(in_mlflow.tracker, run_id)] == [0, 1, 2]
    answers.set()


class Unwell(BaseHTTPRequestHandler):
    """A tracking server in trouble: `how` is told by the class that is made of it."""

    how = ""

    def do_GET(self) -> None:
        if self.how == "500":
            self.send_error(500)
        elif self.how == "redirect":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        else:
            with suppress(OSError):
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                for _ in range(100 if self.how == "slow" else 0):
                    self.wfile.write(b" ")
                    time.sleep(0.1)
                time.sleep(10)  # silent from here on

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *words: object) -> None:
        pass


@pytest.mark.parametrize("how", ["silent", "500", "redirect", "slow"])
def test_a_server_in_trouble_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(sender, "START", 2.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Unwell,), {"how": how})) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@{address}")
        job, began = SweepJob(sweep=SweepConfig(), out=str(tmp_path)), time.monotonic()
        with pytest.raises(ConfigError) as caught:
            MLflow().place(job)
        assert time.monotonic() - began < 30
        server.shutdown()
        server.block_on_close = False
    (line,) = caught.value.problems
    assert line.startswith(f"MLflow at http://{address} cannot be used: ")
    assert "hunter2" not in line


def test_names_do_nothing_in_the_notes() -> None:
    """MLflow's pages render them as Markdown; a name may hold anything but a slash."""
    hostile = "*a* [b](javascript:1) <img src=x onerror=alert(1)>`\n# c\x1b[2J"
    sweep = SweepConfig.of(train=(f"/data/{hostile}",), teacher=("none", f"/teachers/{hostile}"))
    note = trial_note(hostile, "0", sweep_note(sweep, f"ail sweep demo --train '{hostile}'"))
    assert "\x1b" not in note
    assert "\n# c" not in note
    assert r"\*a\* \[b\](javascript:1) \<img src=x onerror=alert(1)\>" in note
    code = re.findall(r"``.*?``", note)
    assert len(code) == 1, "a backtick ends no code"
    shown = note.replace(code[0], "")
    assert not re.search(r"(?<!\\)(<img|\[b\]|\*a\*)", shown)
    assert "\n" not in sweep_title(hostile, sweep)


def test_a_database_that_somebody_else_keeps_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: bytes
) -> None:
    monkeypatch.setattr(sender, "START", 2.0)
    (tmp_path / "mlflow.db").write_bytes(empty_database)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ConfigError, match=r"mlflow\.db cannot be used: (no answer within 2|.*database is locked)"):
            MLflow().place(SweepJob(sweep=SweepConfig(), out=str(tmp_path)))


@pytest.mark.long
def test_two_first_sweeps_at_once_make_one_database_and_one_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom ail_ray.tracking.mirror import Tracker\n"
        "print('ready', flush=True)\nsys.stdin.readline()\n"
        "print(Tracker('sqlite:///mlflow.db', sweep='s', name='n', note='', params={'epochs': 3}).parent)\n"
    )
    for attempt in range(3):
        (folder := tmp_path / str(attempt)).mkdir()
        started = [
            subprocess.Popen([sys.executable, "-c", code], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True)
            for _ in range(2)
        ]  # fmt: skip
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        answers = []
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in started:
            said, wrong = process.communicate(timeout=120)
            assert process.returncode == 0, wrong
            answers.append(said)
        assert answers[0] == answers[1], "one sweep, one parent"
        assert sorted(path.name for path in folder.iterdir()) == ["mlflow.db"]


def test_of_calls_that_wait_under_one_name_the_latest_is_made() -> None:
    made, first = list[int](), threading.Event()
    calls = Sender()
    calls.send("first", first.wait)
    for number in range(3):
        calls.send("same", partial(made.append, number))
    calls.send("other", partial(made.append, 9))
    first.set()
    assert calls.settle()
    assert made == [2, 9]


def test_what_is_worked_without_mlflow_is_not_waited_for_in_vain() -> None:
    """Measuring a champion on other images takes as long as it takes."""
    calls, made = Sender(patience=0.2), list[int]()

    def measure() -> None:
        with calls.own_work():
            time.sleep(1.0)
        made.append(1)

    calls.send("measure", measure)
    assert calls.settle()
    assert made == [1]


def test_a_parent_gets_a_round_when_no_trial_can_change_it(make_plan: Callable[..., TrialPlan], tmp_path: Path) -> None:
    class Told:
        rounds: Sequence[Reached] = ()

        def trial(self, trial: Trial, config: RunConfig, reached: Sequence[Reached], *, over: bool) -> None:
            self.rounds = reached

    def reach(plan: TrialPlan, *decibels: float) -> None:
        directory = RunDirectory(plan.directory)
        for t, psnr in enumerate(decibels):
            write_record(directory.record_path(t), replace(record(t), validation=(row("v", psnr),)))
        directory.manifests.write(replace(directory.manifest(), last_round=len(decibels) - 1))

    def told() -> list[float]:
        return [values["best"] for _, values in record_of_both.rounds]

    plans = [make_plan(tmp_path, seed=seed) for seed in range(2)]
    for plan in plans:
        plan.open(RunDirectory(plan.directory), Placement())
    record_of_both = Told()
    ledger = Ledger(UPath(tmp_path / "s.json"), name="n", command="", config={}, asked=2)
    monitor = Monitor(record_of_both, ledger, lambda line: None, {})  # type: ignore[arg-type]
    for plan, decibels, known in (
        (plans[0], (30.0, 31.0), []),  # the other one has not begun
        (plans[1], (30.5,), [30.5]),
        (plans[1], (30.5, 30.8, 32.0), [30.5, 31.0]),
    ):
        monitor.started(plan)
        reach(plan, *decibels)
        monitor.heard(plan)
        assert told() == known
    monitor.ended(plans[0], "it failed")
    assert told() == [30.5, 31.0, 32.0]


def test_metrics_are_named_with_their_units_and_absent_ones_left_out() -> None:
    assert set(metrics_of(record(0))) == {
        "importance/mean", "importance/saturated", "importance/p05", "importance/p25", "importance/p50",
        "importance/p75", "importance/p95", "time/theta_s", "time/evaluation_s",
        "system/memory_GB", "system/workers", "dB/PSNR",
        "dB/val_val_x2", "ssim/val_val_x2",
        "dB/test_Set5_x3", "ssim/test_Set5_x3",
    }  # fmt: skip
    metrics = metrics_of(record(1))
    assert set(metrics) - set(metrics_of(record(0))) == {
        "theta/loss", "theta/squared_error", "theta/crops_per_s",
    }  # fmt: skip
    assert metrics["dB/test_Set5_x3"] == 32.0
    assert metrics["dB/PSNR"] == 31.0  # of the validation images
    assert metrics_of(replace(record(1), validation=()))["dB/PSNR"] == 32.0
    assert metrics["theta/crops_per_s"] == 100.0
    assert all(math.isfinite(value) for value in metrics.values())


def test_what_mlflow_would_refuse_in_a_name_is_left_out_of_it() -> None:
    named = replace(record(0), validation=(row("photos (1)", 30.0),))
    assert {"dB/val_photos-1_x2", "ssim/val_photos-1_x2"} <= set(metrics_of(named))


def test_a_finished_run_that_goes_on_gets_its_new_student(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    tracker = track()
    for t, weights in enumerate((b"first", b"second")):
        commit(directory, t)
        for name in ("student.safetensors", "config.json"):
            write_bytes(directory.path / name, weights)
        run_id = tracker.mirror(trial(directory), PARAMS)
        assert tracker.client.get_run(run_id).data.tags["ail.result"] == "running"
        tracker.finish_trial(run_id, trial(directory, asked=t))
        assert Path(tracker.client.download_artifacts(run_id, "student.safetensors")).read_bytes() == weights


def test_a_description_that_somebody_wrote_stays_and_ours_follows_the_command(track: Callable[..., Tracker]) -> None:
    def note() -> str:
        return str(track(note="`again`").client.get_run(tracker.parent).data.tags["mlflow.note.content"])

    tracker = track()
    assert note() == "`again`"
    tracker.client.set_tag(tracker.parent, "mlflow.note.content", "the network was down on Monday")
    assert note() == "the network was down on Monday"


def test_the_ui_is_told_what_kind_of_experiment_it_shows(track: Callable[..., Tracker]) -> None:
    tracker = track()
    assert tracker.client.get_experiment(tracker.experiment).tags["mlflow.experimentKind"] == "custom_model_development"
    tracker.client.delete_experiment_tag(tracker.experiment, "mlflow.experimentKind")  # made by an older version
    assert track().client.get_experiment(tracker.experiment).tags["mlflow.experimentKind"] == "custom_model_development"


def test_what_compares_the_trials_replaces_itself(track: Callable[..., Tracker]) -> None:
    for content in (b'{"columns": ["trial"], "data": []}', b'{"columns": ["trial"], "data": [["a trial"]]}'):
        tracker = track()
        tracker.close({"trials.json": content, "parallel-coordinates.png": picture(1)}, failed=False)
    files = [file.path for file in tracker.client.list_artifacts(tracker.parent)]
    assert files == ["parallel-coordinates.png", "trials.json"]
    assert Path(tracker.client.download_artifacts(tracker.parent, "trials.json")).read_bytes() == content
    parent = tracker.client.get_run(tracker.parent)
    assert parent.info.status == "FINISHED"
    # As `log_table` marks them, for the UI to show a table.
    assert parent.data.tags["mlflow.loggedArtifacts"] == '[{"path": "trials.json", "type": "table"}]'


def test_a_run_at_or_below_bicubic_is_tagged_and_loses_the_tag_when_it_gets_better(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    tracker = track()
    commit(directory, 0)
    run_id = tracker.mirror(trial(directory), PARAMS)
    for below, tag in ((True, "true"), (False, "false")):
        tracker.finish_trial(run_id, trial(directory, below_bicubic=below))
        assert tracker.client.get_run(run_id).data.tags["ail.below_bicubic"] == tag


REFERENCES = {
    "bicubic": Rows(validation=(row("val", 29.5, ssim=0.8),)),
    "teacher=vdsr": Rows(validation=(row("val", 33.0, ssim=0.95),)),
}
REACHED = [(1_700_000_000.0 + 60 * t, {"best": best, "gain": 0.25 * t}) for t, best in enumerate((30.0, 31.5, 31.5))]


def curve(tracker: Tracker, run_id: str, metric: str) -> list[tuple[int, float]]:
    return [(step, value) for step, value, _ in rounds_sent(tracker, run_id, metric)]


def test_a_parent_has_what_its_trials_reached_and_flat_lines_to_compare_it_with(track: Callable[..., Tracker]) -> None:
    for last in (1, 2, 3, 3):  # the last is the same command again
        tracker = track(references=REFERENCES)
        tracker.compare(REACHED[:last])
    assert curve(tracker, tracker.parent, "dB/PSNR") == [(0, 30.0), (1, 31.5), (2, 31.5)]
    assert curve(tracker, tracker.parent, "dB/gain") == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert curve(tracker, tracker.parent, "dB/bicubic") == [(0, 29.5), (1, 29.5), (2, 29.5)]
    assert curve(tracker, tracker.parent, "dB/teacher-vdsr") == [(0, 33.0), (1, 33.0), (2, 33.0)]
    rows = {run.info.run_name: run for run in runs(tracker) if run.info.run_id != tracker.parent}
    assert set(rows) == {"bicubic", "teacher=vdsr"}
    for name, psnr in (("bicubic", 29.5), ("teacher=vdsr", 33.0)):  # in the chart of the trials
        assert curve(tracker, rows[name].info.run_id, "dB/PSNR") == [(0, psnr), (1, psnr), (2, psnr)]
        assert rows[name].data.tags["mlflow.parentRunId"] == tracker.parent
        assert rows[name].info.status == "FINISHED"


def test_rounds_that_an_older_version_sent_are_sent_under_their_new_names(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    for t in range(2):
        commit(directory, t)
    tracker = track()
    run_id = tracker.mirror(trial(directory, asked=0), PARAMS)
    tracker.client.delete_tag(run_id, "ail.last_round_2")
    tracker.client.set_tag(run_id, "ail.last_round", "1")
    assert track().mirror(trial(directory), PARAMS) == run_id
    assert curve(tracker, run_id, "dB/PSNR") == [(0, 30.0), (1, 31.0)]
    assert rounds_sent(tracker, run_id) == expected(1)  # one that kept its name is not there twice


@pytest.mark.parametrize("restarted", [True, False])
@pytest.mark.parametrize("deleted", ["parent", "child", "both"])
def test_what_somebody_deleted_is_there_again(
    track: Callable[..., Tracker], directory: RunDirectory, deleted: str, restarted: bool
) -> None:
    tracker = track()
    commit(directory, 0)
    child = tracker.mirror(trial(directory), PARAMS)
    tracker.compare(REACHED[:1])
    for run_id in [tracker.parent] * (deleted != "child") + [child] * (deleted != "parent"):
        tracker.client.delete_run(run_id)
    commit(directory, 1)
    tracker = track() if restarted else tracker
    child = tracker.mirror(trial(directory), PARAMS)
    tracker.compare(REACHED[:2])
    if deleted != "child":
        tracker.client.delete_run(tracker.parent)
    tracker.close({"trials.json": b"{}"}, failed=False)
    assert {run.info.run_id for run in runs(tracker)} == {tracker.parent, child}  # none that is deleted
    assert tracker.client.get_run(child).data.tags["mlflow.parentRunId"] == tracker.parent
    assert rounds_sent(tracker, child) == expected(1)
    assert curve(tracker, tracker.parent, "dB/PSNR") == [(0, 30.0), (1, 31.5)]


def test_a_run_that_is_gone_for_good_is_made_anew_with_all_its_rounds(
    track: Callable[..., Tracker], directory: RunDirectory
) -> None:
    tracker = track()
    commit(directory, 0)
    gone = [tracker.mirror(trial(directory), PARAMS), tracker.parent]
    store = tracker.client._tracking_client.store
    for run_id in gone:  # as `mlflow gc` does
        tracker.client.delete_run(run_id)
        store._hard_delete_run(run_id)
    commit(directory, 1)
    with pytest.raises(MlflowException):  # told as an outage is
        tracker.mirror(trial(directory), PARAMS)
    again = track()
    child = again.mirror(trial(directory), PARAMS)
    assert child not in gone
    assert again.client.get_run(child).data.tags["mlflow.parentRunId"] == again.parent
    assert rounds_sent(again, child) == expected(1)


def test_what_is_longer_than_mlflow_takes_is_clipped_and_counted(
    track: Callable[..., Tracker], directory: RunDirectory, tmp_path: Path
) -> None:
    folders = tuple(f"{tmp_path}/{'a photographer of birds ' * 3}{i:03}" for i in range(130))
    sweep = SweepConfig.of(train=folders, teacher=tuple(f"teacher-{i:03}" for i in range(130)), width=(8, 13))
    name, note = sweep_title("mini", sweep), sweep_note(sweep, f"python jobs/ail_sweep.py {' '.join(folders)}")
    pair = SimpleNamespace(content="0")
    corpus = SimpleNamespace(pairs=[pair] * 130, digest="0123456789abcdef", pixels=10**7)
    inputs = datasets(sweep, [SimpleNamespace(corpus=corpus, validation=[], test=[])])  # type: ignore[list-item]
    tracker = Tracker(
        f"sqlite:///{tmp_path / 'mlflow.db'}", sweep="long", name=name, note=note, params=sweep_params(sweep),
        datasets=inputs,
    )  # fmt: skip
    commit(directory, 0)
    write_record(directory.record_path(0), replace(record(0), validation=(row("s" * 250, 30.0),)))
    write_bytes(directory.record_path(0).with_suffix("") / f"{'s' * 240}-x2-0.png", picture(0))
    child = tracker.client.get_run(tracker.mirror(trial(directory, name="t" * 400), {"teacher": "v" * 9000}))
    parent = tracker.client.get_run(tracker.parent)
    assert re.fullmatch(r"mini: vdsr ×2, width 8 13, teacher teacher-000 .* and 12\d more", parent.info.run_name)
    assert re.search(r"Trained on .*birds 000, .* and 12\d more; rounds", parent.data.tags["mlflow.note.content"])
    assert re.search(r"…? and \d+ characters more`", parent.data.tags["mlflow.note.content"])
    assert re.search(r"000 .* and 12\d more$", parent.data.params["train"])
    for run in (parent, child):
        assert len(run.info.run_name) <= 250
        assert max(map(len, run.data.params.values())) <= 500
        assert max(map(len, run.data.tags.values())) <= 5000
        (read,) = (each.dataset for each in run.inputs.dataset_inputs)
        assert re.search(r"000\+.* and 12\d more$", read.name)
        assert len(read.name) <= 250
        assert len(read.source) <= 65_535
    assert max(map(len, child.data.metrics)) <= 250
    assert child.data.params["teacher"].endswith(" characters more")
    assert len(images(tracker, child.info.run_id, 0)) == 4  # two pictures, as PNG and WebP


def test_a_picture_that_is_deleted_as_it_is_sent_is_left_out(
    track: Callable[..., Tracker], directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(directory, 0)
    listed = RunDirectory.pictures

    def gone(self: RunDirectory, round: int) -> list[UPath]:
        paths = listed(self, round)
        for path in paths:
            path.unlink()
        return paths

    monkeypatch.setattr(RunDirectory, "pictures", gone)
    tracker = track()
    run_id = tracker.mirror(trial(directory), PARAMS)
    assert rounds_sent(tracker, run_id) == expected(0)
    assert images(tracker, run_id, 0) == []

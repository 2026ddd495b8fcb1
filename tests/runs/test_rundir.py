"""The run directory: what is committed is there, what is not needed any more is not, nothing of another format."""

import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from made_run import CONFIG, RESOLVED, SECONDS, log, measured, names, slept, state, whole_round
from tiny_files import as_format_2, newest_manifest, rewrite_manifest
from upath import UPath

from ail_ray import __version__
from ail_ray.delivery import onnx
from ail_ray.files import FileError, read_json, read_record, write_bytes, write_json
from ail_ray.learning.group import Group
from ail_ray.learning.records import Measured
from ail_ray.learning.theta import TrainState
from ail_ray.machine import machine
from ail_ray.orchestration import trials
from ail_ray.runs import directory as run_directory
from ail_ray.runs import lease, manifests, run
from ail_ray.runs.commits import RunJournal
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease, LeaseLostError
from ail_ray.runs.placement import Placement
from ail_ray.runs.records import Death, Place, RoundRecord
from ail_ray.runs.run import TrialPlan, complete_with_onnx, run_local
from ail_ray.runs.trial import read_trial
from ail_ray.tensors import read_tensors, write_tensors


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(UPath(tmp_path / "0123abcd"))
    made.create(CONFIG, **RESOLVED)
    return made


def test_a_new_run_is_recorded_and_an_old_one_decides(directory: RunDirectory) -> None:
    manifest = directory.manifest()
    assert (manifest.run, manifest.last_round, manifest.places) == ("0123abcd", -1, ())
    assert (manifest.precision, manifest.threads, manifest.workers) == ("fp64", 1, 2)
    assert manifest.config == CONFIG
    assert set(manifest.versions) == {"torch", "ray", "numpy", "mlflow"}
    assert directory.last_round == -1
    assert [*directory.follow()] == []
    assert names(directory.path / "manifests") == ["00000001.json"]
    assert directory.create(CONFIG, corpus="c", precision="bf16", threads=8, workers=1) == manifest
    assert names(directory.path / "manifests") == ["00000001.json"]


def test_more_rounds_extend_a_run(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    assert directory.create(replace(CONFIG, rounds=9), precision="bf16").config.rounds == 9
    manifest = directory.manifest()
    assert (manifest.config.rounds, manifest.last_round, manifest.precision) == (9, 0, "fp64")
    assert directory.create(CONFIG).config.rounds == 9, "who asks for fewer takes none away"


def test_another_format_and_a_damaged_manifest_are_refused(directory: RunDirectory) -> None:
    path, newest = directory.path / "manifest.json", newest_manifest(directory.path)
    write_json(path, {"format": 4})
    with pytest.raises(FileError, match=r"0123abcd: format 4, this version reads 2 and 3"):
        directory.create(CONFIG)
    assert read_json(path) == {"format": 4}
    write_json(path, {"format": 3})
    manifest = read_json(newest)
    write_json(newest, manifest | {"last_round": 3})
    with pytest.raises(FileError, match=r"00000001.json: damaged, its content differs from its checksum"):
        directory.create(CONFIG)
    write_bytes(newest, b'{"format": 3, "run')
    with pytest.raises(FileError, match="not valid JSON"):
        directory.manifest()
    newest.unlink()
    with pytest.raises(FileError, match="0123abcd: damaged, it has no manifest"):
        directory.manifest()
    with pytest.raises(FileError, match="no such file"):
        RunDirectory(directory.path / "absent").manifest()


def test_a_run_that_was_killed_before_its_first_manifest_begins(tmp_path: Path) -> None:
    directory = RunDirectory(UPath(tmp_path / "0123abcd"))
    write_json(directory.path / "manifest.json", {"format": 3})
    assert directory.create(CONFIG, **RESOLVED).last_round == -1
    whole_round(directory, 0)
    assert directory.last_round == 0


@pytest.mark.parametrize("restart", ["round", "never"])
def test_a_run_of_the_older_format_is_read_and_its_first_commit_converts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restart: Any
) -> None:
    directory = RunDirectory(UPath(tmp_path / "0123abcd"), "us")
    directory.create(replace(CONFIG, restart=restart), **RESOLVED)
    interrupted_round(directory)
    as_format_2(directory.path)
    write_json(directory.path / "manifest-previous.json", {})
    before = directory.manifest()
    assert (before.format, before.last_round) == (2, 1)
    assert [found.round for found in directory.follow()] == [0, 1]
    assert before.places[-1][:3] == (2, 1, 0)

    def killed(*_: object) -> None:
        raise StoppedError

    with monkeypatch.context() as patch:
        patch.setattr(manifests, "write_json", killed)  # the manifest is there then, and the mark is not
        with pytest.raises(StoppedError):
            directory.create(replace(CONFIG, restart=restart), **RESOLVED)
    assert directory.manifest() == replace(before, format=3, holder="us")
    directory.create(replace(CONFIG, restart=restart), **RESOLVED)
    assert directory.mend(shards=1) == []
    resumed = state(99)
    assert RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None).resume(resumed) == (2, 1)
    assert np.array_equal(bits_of(resumed), bits_of(state(20)))
    directory.commit_epoch(log(2, 1), state(21).tensors())
    directory.commit_round(measured(2), SECONDS, {}, state(21))
    assert read_json(directory.path / "manifest.json") == {"format": 3}
    assert not (directory.path / "manifest-previous.json").exists()
    assert [found.round for found in directory.follow()] == [0, 1, 2]
    assert directory.manifest().format == 3
    whole_round(directory, 3)
    old = [name for name in names(directory.path / "state") if name.startswith("round-")]
    assert old == ([Place(0, 2).file, Place(1, 2).file] if restart == "never" else [])


class StoppedError(Exception):
    """The process ends here."""


def test_resuming_goes_on_after_the_last_commit(directory: RunDirectory) -> None:
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None)
    fresh = state(99)
    before = fresh.tensors()
    assert journal.resume(fresh) == (0, 0)
    assert all(np.array_equal(fresh.tensors()[name], before[name]) for name in before)
    whole_round(directory, 0)
    assert journal.resume(state(99)) == (1, 0)
    directory.commit_epoch(log(1, 0), state(10, steps=3).tensors())
    resumed, expected = state(99), state(10, steps=3).tensors()
    assert journal.resume(resumed) == (1, 1)
    assert resumed.tensors().keys() == expected.keys()
    assert any(name.startswith("optimizer.") for name in expected)
    for name, array in expected.items():
        assert resumed.tensors()[name].tobytes() == array.tobytes(), name


def test_a_record_gathers_its_epochs(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    whole_round(directory, 1)
    for t, found in enumerate(directory.follow()):
        assert [(entry.round, entry.epoch) for entry in found.epochs] == [(t, 0), (t, 1)]
        assert found.loss == 1 / (t + 2)
        assert found.seconds == {"evaluation": 0.1, "theta": 4.0}
        assert found.patches_per_second == 50.0
        student, metadata = read_tensors(directory.student_path(t))
        assert metadata["round"] == str(t)
        assert np.array_equal(student["layers.0.weight"], state(10 * t + 1).tensors()["student.layers.0.weight"])
    text = str(directory.record(1))
    assert text == "round 1: val ×2 30.00 dB; importance mean 0.500, saturated 25.0 %, 50 crops/s"


def test_an_epoch_trained_again_is_recorded_once(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    for e in (0, 0, 1, 0, 1):
        directory.commit_epoch(log(1, e), state(e).tensors())
    directory.commit_round(measured(1), SECONDS, {}, state(1))
    assert [entry.epoch for entry in directory.record(1).epochs] == [0, 1]


def test_a_round_that_trains_nothing_has_no_loss(directory: RunDirectory) -> None:
    write_tensors(directory.importance_path(0, 0), {"importance": np.zeros(9, np.float16)})
    directory.commit_round(measured(0), SECONDS, {}, state(0))
    (found,) = directory.follow()
    assert (found.loss, found.squared_error, found.patches_per_second) == (None, None, None)
    assert found.epochs == ()
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None)
    assert journal.resume(state(5)) == (1, 0)


def test_only_what_may_be_needed_is_kept(directory: RunDirectory) -> None:
    best = 2
    for t in range(7):
        whole_round(directory, t, psnr=31.0 if t == best else 30.0 - t / 10)
        kept = {0, best if t >= best else 0, t - 1, t} - {-1}
        assert names(directory.path / "importance") == [f"round-{r:03d}" for r in sorted(kept)]
        assert 1 <= len(names(directory.path / "state")) <= 2
        place = directory.place
        assert place is not None
        assert place.file in names(directory.path / "state")
        assert directory.load_state() is not None
    assert len(names(directory.path / "students")) == 7
    assert [found.round for found in directory.follow()] == list(range(7))


def test_whoever_follows_a_run_reads_each_record_once(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    read, seen = list[str](), tuple[RoundRecord, ...]()

    def counted(path: UPath, kind: type) -> Any:
        read.append(path.name)
        return read_record(path, kind)

    monkeypatch.setattr(run_directory, "read_record", counted)
    for t in range(6):
        whole_round(directory, t)
        if t % 2:
            seen = read_trial(directory.path, seen=seen).records
    assert [found.round for found in seen] == list(range(6))
    assert read == [f"round-{t:03d}.json" for t in (0, 2, 4)], "and the others from the manifest"


def test_the_journal_draws_commits_then_reports(directory: RunDirectory) -> None:
    heard: list[tuple[int, int, list[str]]] = []

    def report(committed: Measured) -> None:
        pictures = [path.name for path in directory.pictures(committed.round)]
        heard.append((committed.round, directory.last_round, pictures))

    journal = RunJournal(directory, Group(), draw=lambda t: {"b.png": b"b", "a.png": b"a"}, report=report)
    write_tensors(directory.importance_path(0, 0), {"importance": np.zeros(9, np.float16)})
    journal.commit_round(measured(0), SECONDS, state(0))
    assert heard == [(0, 0, ["a.png", "b.png"])]


def test_a_death_takes_back_the_round_and_is_told(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    write_tensors(directory.importance_path(1, 0), {"importance": np.full(9, 0.1, np.float16)})
    directory.commit_epoch(log(1, 0), state(10).tensors())
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda record: None)
    assert journal.attempts() == 0
    journal.commit_death(1, 1, ["layers.3"])
    assert journal.attempts() == 1, "as another process would read it"
    assert journal.resume(state(0)) == (1, 0), "the round begins anew"
    assert directory.manifest().draws == (Death(round=1, epoch=1, silent=("layers.3",)),)
    assert directory.manifest().epochs == ()
    assert directory.manifest().incidents == (
        "draw 1 of the student died in round 1, epoch 1 (layers.3 lets nothing through); drawn again",
    )


def test_a_student_that_stays_dead_is_told_once(directory: RunDirectory) -> None:
    journal = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda record: None)
    for t in (0, 1):
        write_tensors(directory.importance_path(t, 0), {"importance": np.zeros(9, np.float16)})
        journal.commit_round(measured(t, dead=("layers.3",)), SECONDS, state(t))
    (line,) = directory.manifest().incidents
    assert line.startswith("the student is dead: layers.3 lets nothing through")
    assert [each.dead for each in directory.follow()] == [("layers.3",)] * 2


def test_a_new_attempt_forgets_why_the_last_one_failed_even_at_a_finished_run(directory: RunDirectory) -> None:
    """Its rounds were done, and then the disk had no room for the result."""
    for t in range(CONFIG.rounds + 1):
        whole_round(directory, t)
    directory.fail("no space left on device")
    assert directory.failure() == "no space left on device"
    RunDirectory(directory.path, "another job").create(CONFIG)
    assert directory.failure() is None
    before = names(directory.path / "manifests")
    RunDirectory(directory.path, "a third job").create(CONFIG)
    assert names(directory.path / "manifests") == before, "there is nothing to take over"


def test_finalising_again_changes_nothing(directory: RunDirectory) -> None:
    whole_round(directory, 0)
    whole_round(directory, 1)

    def result() -> list[str]:
        directory.finalise()
        files = ("student.safetensors", "config.json", "manifest.json")
        return [hashlib.sha256((directory.path / name).read_bytes()).hexdigest() for name in files]

    assert result() == result()
    assert (directory.path / "student.safetensors").read_bytes() == directory.student_path(1).read_bytes()
    write_bytes(directory.path / "student.onnx", b"of this student")
    directory.finalise()
    assert (directory.path / "student.onnx").exists()
    whole_round(directory, 2)
    directory.finalise()
    assert not (directory.path / "student.onnx").exists(), "it was of fewer rounds"
    config = read_json(directory.path / "config.json")
    assert config["config"]["width"] == 2
    assert {"precision", "threads", "workers", "versions", "machine", "run"} <= set(config)


def interrupted_round(directory: RunDirectory) -> None:
    """Rounds 0 and 1 are committed; round 2 has its importance and one epoch."""
    for t in (0, 1):
        whole_round(directory, t)
    write_tensors(directory.importance_path(2, 0), {"importance": np.full(9, 0.2, np.float16)})
    directory.commit_epoch(log(2, 0), state(20).tensors())


def damage(path: UPath) -> None:
    """Turn one bit in the middle of a file; a record has no checksum, so half of it goes."""
    data = bytearray(path.read_bytes())
    data[len(data) - len(data) // 3] ^= 1
    path.write_bytes(bytes(data[: len(data) // 2] if path.parent.name == "rounds" else data))


DAMAGES: dict[str, tuple[list[str], tuple[int, int], str]] = {
    "the last state": (["state/commit-00000008.safetensors"], (2, 0), "commit-00000008"),
    "both states": (["state/commit-00000008.safetensors",
                     "state/commit-00000006.safetensors"], (2, 0), "commit-00000006"),
    "the importance in use": (["importance/round-002/shard-0000.safetensors"], (2, 0), "round-002/shard-0000"),
    "and the one before": (["importance/round-002/shard-0000.safetensors",
                            "importance/round-001/shard-0000.safetensors"], (1, 0), "after round 0"),
    "the last student": (["students/round-001.safetensors"], (1, 2), "after round 0"),
    "all students": (["students/round-001.safetensors", "students/round-000.safetensors"], (0, 0), "after round -1"),
    "the last record": (["rounds/round-001.json"], (2, 1), "written again from the manifest"),
    "an earlier record": (["rounds/round-000.json"], (0, 0), "after round -1"),
    "the manifest": (["manifests/00000008.json"], (2, 0), "00000008.json: .*; the one before is used"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGES)
def test_what_is_damaged_is_noticed_and_the_one_before_is_used(directory: RunDirectory, what: str) -> None:
    paths, place, words = DAMAGES[what]
    interrupted_round(directory)
    for path in paths:
        damage(directory.path / path)
    lines = directory.mend(shards=1)
    assert re.search(words, "\n".join(lines)), lines
    assert directory.manifest().incidents == tuple(lines)
    assert directory.mend(shards=1) == [], "mended once, it is whole"
    resumed = state(99)
    assert RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None).resume(resumed) == place
    if place == (2, 0):
        assert np.array_equal(bits_of(resumed), bits_of(state(11)))


def test_without_restarts_the_optimizer_outlives_its_round(tmp_path: Path) -> None:
    directory = RunDirectory(UPath(tmp_path / "never"))
    directory.create(replace(CONFIG, restart="never"), **RESOLVED)
    for t in range(3):
        whole_round(directory, t)
    files = [Place(0, 0, commit=commit).file for commit in (3, 6, 8, 9)]
    assert names(directory.path / "state") == files
    expected = {(3, 0): state(21), (2, 1): state(20), (2, 0): state(11), (1, 0): state(1)}
    for lost, (place, whole) in zip((None, *files[:0:-1]), expected.items(), strict=True):
        if lost:
            damage(directory.path / "state" / lost)
            assert any(lost in line for line in directory.mend(shards=1))
        resumed = state(99)
        assert RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None).resume(resumed) == place
        assert {k: v.tobytes() for k, v in resumed.tensors().items()} == {
            k: v.tobytes() for k, v in whole.tensors().items()
        }


def bits_of(made: TrainState) -> np.ndarray:
    return made.tensors()["student.layers.0.weight"]


def test_nothing_is_mended_in_a_whole_run_and_what_a_kill_left_is_swept_up(directory: RunDirectory) -> None:
    interrupted_round(directory)
    left = directory.path / "importance" / "round-002" / ".shard-0001.safetensors.0a1b2c3d.tmp"
    left.write_bytes(b"half")
    before = directory.manifest()
    assert directory.mend(shards=1) == []
    assert directory.manifest() == before
    assert not left.exists()
    assert directory.place == Place(2, 1, commit=8)


def test_a_finished_run_needs_no_state_until_it_is_extended(directory: RunDirectory) -> None:
    for t in range(CONFIG.rounds + 1):
        whole_round(directory, t)
    for file in directory.path.glob("state/*"):
        file.unlink()
    before = directory.manifest()
    assert directory.mend(shards=1) == []
    assert directory.manifest() == before
    directory.create(replace(CONFIG, rounds=CONFIG.rounds + 1), **RESOLVED)
    last = Place(CONFIG.rounds, CONFIG.epochs, commit=3 * CONFIG.rounds + 3)
    assert any(last.file in line for line in directory.mend(shards=1))
    saved = directory.load_state()
    assert saved is not None
    assert saved[1] == Place(CONFIG.rounds, CONFIG.epochs)


@pytest.mark.parametrize("number", [-1, 1.5, "../../secret", True, None, 10**12])
@pytest.mark.parametrize("which", [0, 3])
def test_a_manifest_cannot_lead_out_of_its_folder(directory: RunDirectory, number: object, which: int) -> None:
    whole_round(directory, 0)
    place: list[object] = [0, 2, 0, 3]
    place[which] = number
    rewrite_manifest(newest_manifest(directory.path), places=[place])
    saved = directory.load_state()
    assert saved is not None
    assert saved[1][:3] == (0, 2, 0), "that of the manifest before"
    wrong = rf"damaged, or written by another version \(Expected `int`.* - at `\$.places\[0\]\[{which}\]`\)"
    assert re.search(f"{wrong}; the one before is used", directory.mend(1)[0])
    for path in directory.path.glob("manifests/*.json"):
        rewrite_manifest(path, places=[place])
    for reading in (directory.load_state, lambda: directory.mend(1), lambda: directory.place):
        with pytest.raises(FileError, match=wrong):
            reading()


def test_a_manifest_of_a_later_version_is_not_taken_for_one_of_this(directory: RunDirectory) -> None:
    path = newest_manifest(directory.path)
    rewrite_manifest(path, config=read_json(path)["config"] | {"patience": 3})
    with pytest.raises(FileError, match=r"written by another version, its configuration has patience$"):
        directory.manifest()


@pytest.mark.parametrize("both", [False, True])
def test_a_run_that_an_older_version_left_within_an_epoch_goes_on_from_a_whole_one(
    directory: RunDirectory, both: bool
) -> None:
    whole_round(directory, 0)
    directory.commit_epoch(log(1, 0), state(10).tensors())
    as_format_2(directory.path)
    path = directory.path / "manifest.json"
    for steps in (3, 5) if both else (3,):
        write_tensors(directory.path / "state" / Place(1, 1, steps).file, state(50).tensors())
        rewrite_manifest(path, places=[*read_json(path)["places"][-1:], [1, 1, steps]])
    journal, resumed = RunJournal(directory, Group(), draw=lambda t: {}, report=lambda r: None), state(99)
    assert journal.resume(resumed) == ((1, 0) if both else (1, 1)), "two in one epoch: the round begins anew"
    assert np.array_equal(bits_of(resumed), bits_of(state(1 if both else 10)))
    directory.commit_epoch(log(1, 1), state(11).tensors())
    assert journal.resume(state(99)) == (1, 2)


def test_a_lease_keeps_a_second_job_waiting_until_the_first_is_done(directory: RunDirectory) -> None:
    order: list[str] = []

    def second() -> None:
        with Lease(directory.path):
            order.append("second")

    waiter = threading.Thread(target=second)
    with Lease(directory.path) as lease:
        waiter.start()
        assert Lease(directory.path).worker() == f"process {os.getpid()} on {socket.gethostname()}"
        waiter.join(1)
        assert waiter.is_alive()
        assert lease.held_by() == lease.holder
        order.append("first")
    waiter.join(10)
    assert order == ["first", "second"]
    assert lease.held_by() is None


def test_a_lease_of_a_process_that_was_killed_is_free_at_once(directory: RunDirectory) -> None:
    script = (
        "import sys, time\nfrom upath import UPath\nfrom ail_ray.runs.lease import Lease\n"
        "with Lease(UPath(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(directory.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert Lease(directory.path).worker() == f"process {holder.pid} on {socket.gethostname()}"
        holder.kill()
    assert Lease(directory.path).worker() is None
    began = time.monotonic()
    with Lease(directory.path) as lease:
        assert lease.held_by() == lease.holder
    assert time.monotonic() - began < Lease.DEAD / 2


@pytest.mark.parametrize("hidden", [FileNotFoundError, PermissionError, ProcessLookupError])
def test_a_lease_of_a_process_of_which_proc_tells_nothing_is_not_taken(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, hidden: type[OSError]
) -> None:
    """As where `/proc` is mounted with hidepid, or the process ends just now."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        mine = lease._process(os.getpid())
        assert mine is not None
        content = {"holder": "x", "pid": other.pid, "renewed": time.time(), **mine, "started": "7"}
        write_json(directory.path / "lease.json", content)
        read = Path.read_bytes

        def hiding(path: Path) -> bytes:
            if path == Path(f"/proc/{other.pid}/stat"):
                raise hidden(path)
            return read(path)

        monkeypatch.setattr(Path, "read_bytes", hiding)
        assert Lease(directory.path).worker() == f"process {other.pid} on {socket.gethostname()}"
        other.kill()
        other.wait()
        assert Lease(directory.path).worker() is None


@pytest.mark.parametrize("pid", [0, -1, 10**12])
def test_a_lease_with_a_number_that_no_process_has_is_free(directory: RunDirectory, pid: int) -> None:
    mine = lease._process(os.getpid())
    assert mine is not None
    write_json(directory.path / "lease.json", {"holder": "x", "pid": pid, "renewed": time.time(), **mine})
    assert Lease(directory.path).worker() is None


def test_a_lease_from_elsewhere_counts_as_long_as_it_is_renewed(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "DEAD", 1.0)  # how long nobody may renew it

    def left(renewed: float) -> str | None:
        content = {"holder": "x", "pid": 7, "host": "old-head", "space": "another boot", "renewed": renewed}
        write_json(directory.path / "lease.json", content)
        return Lease(directory.path).worker()

    assert left(time.time() - 60) == "process 7 on old-head"
    assert left(time.time() - 86_400) is None
    with Lease(directory.path):  # a process of this machine that lives may have been asleep for long
        content = read_json(directory.path / "lease.json")
        write_json(directory.path / "lease.json", content | {"renewed": time.time() - 86_400})
        assert Lease(directory.path).worker() == f"process {os.getpid()} on {socket.gethostname()}"


@pytest.mark.parametrize("content", [b"", b"[]", b'{"holder": 1, "pid": "x", "renewed": null}', b"\xff"])
def test_a_lease_that_nobody_renews_is_free_after_a_while(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr(Lease, "DEAD", 0.5)
    (directory.path / "lease.json").write_bytes(content)
    with Lease(directory.path) as lease:
        assert lease.held_by() == lease.holder


def test_a_job_that_was_overtaken_cannot_commit(directory: RunDirectory) -> None:
    overtaken, other = RunDirectory(directory.path, "an older job"), RunDirectory(directory.path, "another job")
    overtaken.create(CONFIG)
    overtaken.commit_epoch(log(0, 0), state(0).tensors())
    other.create(CONFIG)
    other.commit_epoch(log(0, 1), state(1).tensors())
    for write in (
        lambda: overtaken.commit_epoch(log(0, 1), state(2).tensors()),
        lambda: overtaken.commit_round(measured(0), SECONDS, {}, state(2)),
        lambda: overtaken.commit_death(0, 1, ["layers.1"]),
        lambda: overtaken.fail("the loss is nan"),
        lambda: overtaken.note("no ONNX"),
    ):
        with pytest.raises(LeaseLostError, match="another job has taken this run over"):
            write()
    assert directory.place is not None
    assert directory.place[:2] == (0, 2)
    assert not directory.student_path(0).exists()
    assert directory.failure() is None
    write_tensors(directory.importance_path(0, 0), {"importance": np.zeros(9, np.float16)})
    other.commit_round(measured(0), SECONDS, {}, state(1))


@pytest.mark.long
@pytest.mark.parametrize("later", [0, 1, 5])
@pytest.mark.parametrize("kind", ["epoch", "round"])
def test_a_job_that_slept_at_any_point_of_a_commit_leaves_the_winner_as_it_is(
    tmp_path: Path, kind: str, later: int
) -> None:
    lines = slept(tmp_path / "whole", kind, later, 0)
    assert lines > 100
    for point in np.random.default_rng(later).choice(lines, 12, replace=False):
        slept(tmp_path / str(point), kind, later, int(point) + 1)


def test_in_an_object_store_too_one_job_holds_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """There a file can be created twice: nobody is told that it was there already."""
    folder, at_once = UPath("memory://leases/run"), threading.Barrier(2)

    def create(path: UPath, data: bytes) -> bool:
        at_once.wait(60)
        path.write_bytes(data)
        at_once.wait(60)
        return True

    monkeypatch.setattr(lease, "create", create)
    inside, most = 0, 0

    def job() -> None:
        nonlocal inside, most
        with Lease(folder):
            inside += 1
            most = max(most, inside)
            time.sleep(1)
            inside -= 1
            monkeypatch.undo()

    jobs = [threading.Thread(target=job) for _ in range(2)]
    for each in jobs:
        each.start()
    for each in jobs:
        each.join(30)
    assert (most, inside) == (1, 0)


def test_a_job_that_lost_its_run_leaves_it_as_it_is(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path)
    half_written = Path(str(plan.directory)) / "state" / ".of-the-other-job.tmp"

    def lose(*_: object) -> str:
        RunDirectory(plan.directory, "another job").create(plan.config)
        half_written.parent.mkdir()
        half_written.touch()
        return "its workers failed"

    slot = SimpleNamespace(follow=lose)
    monkeypatch.setattr(trials.slots, "give", lambda *_: (slot, 0))
    with pytest.raises(LeaseLostError):
        trials.run_on_ray(plan, Placement(), lambda record: None)
    assert half_written.exists()
    assert RunDirectory(plan.directory).failure() is None

    def lose_and_fail(*_: object) -> None:
        RunDirectory(plan.directory, "another job").create(plan.config)
        raise FileNotFoundError("what the other job has cleared away")

    monkeypatch.setattr(run, "work", lose_and_fail)
    with pytest.raises(LeaseLostError):
        run_local(plan, 1, torch.device("cpu"), lambda record: None)
    assert RunDirectory(plan.directory).failure() is None


def test_without_git_a_run_has_a_version(directory: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(directory.path))
    assert machine()["commit"] == f"version {__version__}"


def test_a_student_that_cannot_be_exported_yet_is_noted_and_exported_later(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_local(make_plan(tmp_path, rounds=1, epochs=1), 1, torch.device("cpu"), lambda record: None)
    with monkeypatch.context() as patch:
        patch.setattr(onnx, "to_onnx", lambda model: 1 / 0)
        complete_with_onnx(run)
        complete_with_onnx(run)
        monkeypatch.setattr(run, "note", lambda incident: 1 / 0)  # on the same full disk
        complete_with_onnx(run)
    assert run.manifest().incidents == ("no ONNX, the same command tries again: division by zero",)
    assert not (run.path / "student.onnx").exists()
    complete_with_onnx(run)
    assert (run.path / "student.onnx").read_bytes()
    assert len(run.manifest().incidents) == 1


def test_ten_rounds_stay_within_the_stated_bound(make_plan: Callable[..., TrialPlan], tmp_path: Path) -> None:
    """docs/OPERATIONS.md: four snapshots of two bytes a pixel, and per round a student, a record and pictures."""
    plan = make_plan(tmp_path, rounds=10, epochs=1)
    run_local(plan, 1, torch.device("cpu"), lambda record: None)
    sizes = {path: path.stat().st_size for path in Path(str(plan.directory)).rglob("*") if path.is_file()}
    importance = sum(size for path, size in sizes.items() if "importance" in path.parts)
    shards, pixels = plan.data.shards, plan.data.pixels
    assert 2 * 2 * pixels < importance <= 4 * (2 * pixels + 512 * shards)
    student = (plan.directory / "student.safetensors").stat().st_size
    states = sum(size for path, size in sizes.items() if "state" in path.parts)
    assert states <= 2 * (4 * student + 8192)
    pictures = 4 * (4 * 96 * 96 + 3 * 80 * 96 + 20_000)
    assert sum(sizes.values()) <= importance + states + 11 * (student + 8192 + pictures) + 65_536

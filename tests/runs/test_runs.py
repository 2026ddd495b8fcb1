"""Runs on a storage path: their states, one round by round, and what can be removed without losing anything."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_files import as_format_2, newest_manifest, rewrite_manifest
from upath import UPath

from ail_ray.commands.runs import main
from ail_ray.files import TEMPORARY, read_json, write_json
from ail_ray.learning.records import Measured
from ail_ray.runs import prune
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import Lease
from ail_ray.runs.placement import Placement
from ail_ray.runs.prune import remove, rubbish
from ail_ray.runs.run import TrialPlan, run_local
from ail_ray.runs.trial import read_trial, trials_in
from ail_ray.sweeps.terminal import rounds, table

PlanMaker = Callable[..., TrialPlan]


class StoppedError(BaseException):
    """The process is gone."""


@pytest.fixture
def storage(make_plan: PlanMaker, tmp_path: Path) -> UPath:
    """A finished run, one that was interrupted after round 1, one that failed, and a folder that is none."""

    def stop(measured: Measured) -> None:
        if measured.round == 1:
            raise StoppedError

    run(make_plan(tmp_path, lam=0.1))
    with pytest.raises(StoppedError):
        run_local(make_plan(tmp_path, lam=0.2), 1, torch.device("cpu"), stop)
    failed = make_plan(tmp_path, lam=0.3)
    with pytest.raises(StoppedError):
        run_local(failed, 1, torch.device("cpu"), stop)
    RunDirectory(failed.directory).fail("the loss is nan")
    write_json(UPath(tmp_path / "runs" / "strange" / "manifest.json"), {"format": 99})
    return UPath(tmp_path)


def run(plan: TrialPlan) -> RunDirectory:
    return run_local(plan, 1, torch.device("cpu"), lambda record: None)


def named(storage: UPath) -> dict[str, str]:
    """Names of the runs, by λ."""
    return {s.name.split("λ=")[1].split()[0] if s.name else "": s.run for s in trials_in(storage)}


def test_each_run_has_its_state(storage: UPath) -> None:
    found = {s.run: s for s in trials_in(storage)}
    runs = named(storage)
    finished, interrupted, failed, strange = (found[runs[lam]] for lam in ("0.1", "0.2", "0.3", ""))
    assert [s.status for s in (finished, interrupted, failed, strange)] == [
        "finished", "stopped", "failed", "unreadable",
    ]  # fmt: skip
    assert [(s.rounds, s.asked) for s in (finished, interrupted, failed)] == [(3, 3), (1, 3), (1, 3)]
    assert finished.seconds_left == 0 < interrupted.seconds_left < 60
    records = [*RunDirectory(storage / "runs" / finished.run).follow()]
    assert finished.best == max(record.validation[0].psnr for record in records)
    lines = list(table(trials_in(storage)))
    assert len(lines) == (2 + 3 + 1) + (2 + 1)  # of each data its name and a heading; the runs; why one failed
    assert lines[0] == "trained on train, compared on val, ×2"
    assert any("the loss is nan" in line for line in lines)
    assert any("1 of 3" in line and f"{interrupted.best:.2f} dB" in line for line in lines)


def test_the_weights_of_a_run_that_was_stopped_before_its_result_was_written_are_its_last_student(
    make_plan: PlanMaker, tmp_path: Path
) -> None:
    plan, device = make_plan(tmp_path), torch.device("cpu")
    directory = run_local(plan, 1, device, lambda measured: None, complete=lambda directory: None)
    found = read_trial(plan.directory)
    assert (found.status, found.rounds, found.asked) == ("finished", 3, 3)
    assert found.weights == str(directory.student_path(3))
    directory.student_path(3).rename(tmp_path / "kept")
    assert read_trial(plan.directory).weights is None, "as of records that were copied without it"
    (tmp_path / "kept").rename(directory.student_path(3))
    run(plan)
    found = read_trial(plan.directory)
    assert (found.status, found.weights) == ("finished", str(plan.directory / "student.safetensors"))


@pytest.mark.parametrize("content", ["{}", "null", "[]", '"text"', "7", ""])
@pytest.mark.parametrize("what", ["manifest.json", "newest manifest", "lease.json", "rounds/round-001.json"])
def test_a_file_that_says_something_else_costs_its_own_run_only(
    make_plan: PlanMaker,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    content: str,
) -> None:
    monkeypatch.setattr(Lease, "DEAD", 0.1)  # a damaged one might still be renewed
    whole, damaged = make_plan(tmp_path, lam=0.1), make_plan(tmp_path, lam=0.2)
    run(whole)
    shutil.copytree(str(whole.directory), str(damaged.directory))
    path = newest_manifest(damaged.directory) if what == "newest manifest" else damaged.directory / what
    path.write_text(content)
    assert main(["--storage", str(tmp_path)]) == 0
    assert any("λ=0.1" in line and "3 of 3" in line for line in capsys.readouterr().out.splitlines())
    found = {trial.run: trial.status for trial in trials_in(UPath(tmp_path))}
    assert found.keys() == {whole.directory.name, damaged.directory.name}
    assert found[whole.directory.name] == "finished"
    if what != "manifest.json":  # which says nothing: then nothing in the folder is known
        run(damaged)
        assert read_trial(damaged.directory).status == "finished"


def test_runs_that_differ_in_any_field_have_names_of_their_own(make_plan: PlanMaker, tmp_path: Path) -> None:
    for changes in ({}, {"learning_rate": 0.02}, {"init": "he"}, {"init_noise": 0.5}):
        plan = make_plan(tmp_path, **changes)
        plan.open(RunDirectory(plan.directory), Placement(workers=1))
    names = {trial.name for trial in trials_in(UPath(tmp_path))}
    assert len(names) == 4
    assert all("learning_rate=" in name for name in names)
    assert sum("learning_rate=0.02" in name for name in names) == 1
    assert sum("init_noise=0.5" in name for name in names) == 1


def test_what_a_run_does_not_read_does_not_tell_it_from_another(make_plan: PlanMaker, tmp_path: Path) -> None:
    for changes in ({}, {"rule": "uniform"}, {"teacher": "none"}):
        plan = make_plan(tmp_path, **changes)
        plan.open(RunDirectory(plan.directory), Placement(workers=1))
    assert {trial.name for trial in trials_in(UPath(tmp_path))} == {
        f"vdsr-f3 ×2 {words} seed=0"
        for words in ("λ=0.05 teacher=teacher.safetensors", "w=1 (control)", "λ=0.05 teacher=none")
    }


def test_one_run_is_shown_round_by_round(storage: UPath, capsys: pytest.CaptureFixture[str]) -> None:
    run_name = named(storage)["0.2"]
    assert main(["--storage", str(storage), "--show", run_name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == list(rounds(storage / "runs" / run_name))
    assert lines[0].endswith(", stopped")
    assert [line.split(":")[0] for line in lines[1:]] == ["round 0", "round 1"]


def test_a_run_that_is_not_there_is_refused(storage: UPath, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        main(["--storage", str(storage), "--show", "nobody", "--run", "neither"])
    assert refused.value.code == 2
    assert capsys.readouterr().err.count("no run") == 2
    with pytest.raises(SystemExit) as refused:
        main(["--storage", str(storage), "--yes"])
    assert refused.value.code == 2
    assert capsys.readouterr().err == "error: yes goes with --prune, --older, --failed or --run\n"


def test_pruning_shows_first_and_removes_what_was_chosen(storage: UPath, capsys: pytest.CaptureFixture[str]) -> None:
    runs = named(storage)
    before = {path.name for path in (storage / "runs").iterdir()}
    assert main(["--storage", str(storage), "--failed"]) == 0
    assert "could go" in capsys.readouterr().out
    assert {path.name for path in (storage / "runs").iterdir()} == before
    assert main(["--storage", str(storage), "--failed", "--yes"]) == 0
    assert {path.name for path in (storage / "runs").iterdir()} == before - {runs["0.3"], "strange"}
    assert len(list((storage / "corpora").iterdir())) == 1  # the runs that are left need it


def test_a_run_that_cannot_be_read_has_no_age(storage: UPath) -> None:
    goes = {each.path.name for each in rubbish(storage, failed=False, older=0.0)}
    assert goes == set(named(storage).values()) - {"strange"}


def test_a_damaged_failure_of_the_older_format_is_one_all_the_same(storage: UPath) -> None:
    run = storage / "runs" / named(storage)["0.3"]
    as_format_2(run)
    (run / "failure.json").write_text("[")
    found = read_trial(run)
    assert (found.status, found.reason) == ("failed", f"{run}/failure.json: damaged")


def test_what_nobody_needs_goes_and_is_built_again_to_the_same_bytes(
    make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path)
    first = run(plan).finalise().read_bytes()
    fresh = rubbish(UPath(tmp_path), failed=False, older=0.0)
    assert {each.path.parent.name for each in fresh} == {"runs"}, "a sweep may be about to begin with the rest"
    monkeypatch.setattr(prune, "SETTLED", 0.0)
    goes = rubbish(UPath(tmp_path), failed=False, older=0.0)
    assert {each.path.parent.name for each in goes} == {"runs", "corpora", "errors"}
    assert sum(each.bytes for each in goes) > 100_000
    remove(goes)
    assert trials_in(UPath(tmp_path)) == []
    assert run(make_plan(tmp_path)).finalise().read_bytes() == first


def test_what_a_sweep_uses_again_is_not_pruned_under_it(
    make_plan: PlanMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has touched the shards for days; they are listed, and then a sweep decides to use them."""
    make_plan(tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1e9, 1e9))
    goes = rubbish(UPath(tmp_path), failed=False, older=None)
    assert {each.path.parent.name for each in goes} == {"corpora", "errors"}
    make_plan(tmp_path)
    assert rubbish(UPath(tmp_path), failed=False, older=None) == []
    remove(goes)
    assert len(list(tmp_path.glob("corpora/*/*"))) == len(list(tmp_path.glob("errors/*/shard*"))) == 4


def test_files_that_a_kill_left_half_written_can_be_pruned(make_plan: PlanMaker, tmp_path: Path) -> None:
    make_plan(tmp_path)
    old, new = (tmp_path / "evaluation" / f".{name}{TEMPORARY}" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (1e9, 1e9))
    goes = rubbish(UPath(tmp_path), failed=False, older=None)
    assert [(each.path.name, each.bytes) for each in goes] == [(old.name, 4)]
    remove(goes)
    assert (old.exists(), new.exists()) == (False, True)


def test_a_run_that_has_just_begun_is_not_one_that_cannot_be_read(tmp_path: Path) -> None:
    path = UPath(tmp_path / "runs" / "begun")
    path.mkdir(parents=True)
    with Lease(path):
        assert read_trial(path).status == "working"
        assert rubbish(UPath(tmp_path), failed=True, older=0.0) == []
    assert read_trial(path).status == "unreadable"


def test_a_run_by_a_rule_that_is_no_more_is_unreadable_and_no_other(make_plan: PlanMaker, tmp_path: Path) -> None:
    old, plan = make_plan(tmp_path, lam=0.1), make_plan(tmp_path, lam=0.2)
    for each in (old, plan):
        each.open(RunDirectory(each.directory), Placement())
    path = newest_manifest(old.directory)
    rewrite_manifest(path, config=read_json(path)["config"] | {"rule": "greedy"})
    found = {s.run: s for s in trials_in(UPath(tmp_path))}
    assert (found[old.directory.name].status, found[plan.directory.name].status) == ("unreadable", "stopped")
    assert f"{path}: damaged, or written by another version" in found[old.directory.name].reason
    assert "got 'greedy'" in found[old.directory.name].reason


def test_a_storage_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words, said in (
        (["--storage", "/nonexistent/typo"], "/nonexistent/typo: no such folder"),
        (["--storage", __file__], f"{__file__}: no such folder"),
        (["--older", "-1"], "older must be 0 or more days, got -1"),
        (["--storage", "no-such-store://bucket/x"], "no-such-store"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(words)
        assert refused.value.code == 2
        assert said in capsys.readouterr().err


def test_a_run_that_somebody_works_on_stays_with_what_it_needs(make_plan: PlanMaker, tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    run(plan)
    RunDirectory(plan.directory).create(replace(plan.config, rounds=9))  # not finished
    with Lease(plan.directory):
        found = read_trial(plan.directory)
        assert found.status == "working"
        assert f"process {os.getpid()}" in found.worker
        assert rubbish(UPath(tmp_path), failed=True, older=0.0, names=(plan.directory.name,)) == []

"""One run, several routes: in this process, on one Ray worker, on two, and stopped anywhere, always the same result."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.util.state import list_actors
from tiny_files import TinyFiles
from upath import UPath

from ail_ray.files import read_json
from ail_ray.learning.records import Measured
from ail_ray.learning.weights import load_model
from ail_ray.orchestration.trials import run_on_ray
from ail_ray.runs.commits import RunJournal
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.importance_store import ImportanceStore
from ail_ray.runs.placement import Placement
from ail_ray.runs.run import TrialPlan, run_local
from ail_ray.tensors import read_tensors

ROUNDS = 3
CPU = torch.device("cpu")


class StoppedError(BaseException):
    """Stands for a kill."""


@dataclass(frozen=True)
class Route:
    """What a run left behind, and the processes of its Ray Train workers."""

    plan: TrialPlan
    directory: RunDirectory
    pids: tuple[int, ...] = ()

    def students(self) -> list[dict[str, np.ndarray]]:
        return [read_tensors(self.directory.student_path(t))[0] for t in range(ROUNDS + 1)]

    def importance(self, shard: int) -> np.ndarray:
        return read_tensors(self.directory.importance_path(ROUNDS, shard))[0]["importance"]


def in_process(plan: TrialPlan, report: Callable[[dict[str, Any]], None] = lambda record: None) -> Route:
    return Route(plan, run_local(plan, 1, CPU, report))


def on_ray(plan: TrialPlan, workers: int) -> Route:
    def actors() -> dict[str, Any]:
        here = ray.get_runtime_context().gcs_address  # this machine may have others
        return {actor.actor_id: actor for actor in list_actors(here, limit=10_000, detail=True)}

    before = actors()
    told = []

    def report(record: Measured) -> None:  # the last may be the end of this process: the result is there then
        told.append((record.round, (plan.directory / "student.safetensors").exists()))

    directory = run_on_ray(plan, Placement(workers=workers), report)
    assert told == [(t, t == ROUNDS) for t in range(ROUNDS + 1)]
    new = [actor for key, actor in actors().items() if key not in before]
    pids = tuple(actor.pid for actor in new if actor.class_name == "RayTrainWorker")
    return Route(plan, directory, pids)


@pytest.fixture(scope="module")
def routes(
    make_plan: Callable[..., TrialPlan], tmp_path_factory: pytest.TempPathFactory, local_ray: None
) -> dict[str, Route]:
    """The same run three ways, each on a storage path of its own."""
    plans = {name: make_plan(tmp_path_factory.mktemp(name)) for name in ("in process", "1 worker", "2 workers")}
    assert len({plan.directory.name for plan in plans.values()}) == 1
    assert len({str(plan.directory) for plan in plans.values()}) == 3
    return {
        "in process": in_process(plans["in process"]),
        "1 worker": on_ray(plans["1 worker"], 1),
        "2 workers": on_ray(plans["2 workers"], 2),
    }


@pytest.mark.parametrize("other", ["1 worker", "2 workers"])
def test_students_agree_to_1e_10_after_every_round(routes: dict[str, Route], other: str) -> None:
    for t, (one, two) in enumerate(zip(routes["in process"].students(), routes[other].students(), strict=True)):
        assert one.keys() == two.keys()
        for name in one:
            assert one[name].dtype == np.float64
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-10, err_msg=f"round {t}, {name}")
    first, last = routes[other].students()[0], routes[other].students()[-1]
    assert max(np.abs(last[name] - first[name]).max() for name in first) > 1e-4, "nothing was learned"


@pytest.mark.parametrize("other", ["1 worker", "2 workers"])
def test_importance_is_equal_in_every_bit_and_not_saturated(routes: dict[str, Route], other: str) -> None:
    shards = [(routes["in process"].importance(s), routes[other].importance(s)) for s in range(4)]
    for one, two in shards:
        assert one.dtype == np.float16
        assert one.tobytes() == two.tobytes()
    below = np.concatenate([one for one, _ in shards]) < 1
    assert 0.1 < below.mean() < 0.9


@pytest.mark.parametrize("other", ["1 worker", "2 workers"])
def test_records_agree(routes: dict[str, Route], other: str) -> None:
    for one, two in zip(routes["in process"].directory.follow(), routes[other].directory.follow(), strict=True):
        assert one.importance == two.importance
        assert one.squared_error == pytest.approx(two.squared_error, rel=1e-10)
        assert [row.psnr for row in one.validation] == pytest.approx([row.psnr for row in two.validation])
        assert [log.crops for log in one.epochs] == [log.crops for log in two.epochs]


def test_the_workers_are_processes_of_their_own(routes: dict[str, Route]) -> None:
    for name, count in (("1 worker", 1), ("2 workers", 2)):
        pids = routes[name].pids
        assert len(set(pids)) == len(pids) == count
        assert os.getpid() not in pids
        assert routes[name].directory.manifest().workers == count


def test_a_run_that_lacks_only_its_result_is_completed_before_anybody_hears_of_it(routes: dict[str, Route]) -> None:
    """Whoever hears of a round may end the run; a scheduler would do so again each time."""
    route = routes["1 worker"]
    result = route.directory.path / "student.safetensors"
    before = result.read_bytes()
    result.unlink()

    def stop(record: Measured) -> None:
        raise StoppedError

    with pytest.raises(StoppedError):
        run_on_ray(route.plan, Placement(), stop)
    assert result.read_bytes() == before


def test_a_damaged_record_is_made_again(
    routes: dict[str, Route], make_plan: Callable[..., TrialPlan], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path)
    in_process(plan)
    damaged = RunDirectory(plan.directory).record_path(1)
    damaged.write_bytes(damaged.read_bytes()[:100])
    told = list[int]()
    again = Route(plan, run_on_ray(plan, Placement(), lambda record: told.append(record.round)))
    assert told == list(range(ROUNDS + 1))
    assert [line for line in again.directory.manifest().incidents if "going on after round 0" in line]
    for one, two in zip(routes["in process"].students(), again.students(), strict=True):
        for name in one:
            np.testing.assert_allclose(two[name], one[name], rtol=0, atol=1e-10)


def everything(directory: RunDirectory) -> dict[str, str]:
    """SHA-256 of every file that the run's identity decides, and the records without their clocks."""
    found = {}
    manifest = directory.manifest()  # which knows what the states, that have the numbers of their commits, are of
    states = {place.file: f"round {place.round} epoch {place.epochs}" for place in (*manifest.ends, *manifest.places)}
    for path in sorted(Path(str(directory.path)).rglob("*")):
        name = states.get(path.name, str(path.relative_to(str(directory.path))))
        if path.suffix in (".safetensors", ".png"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif name.startswith("rounds/") and path.is_file():
            record = read_json(path)  # type: ignore[arg-type]
            for clock in ("time", "seconds", "patches_per_second", "system"):
                del record[clock]
            record["epochs"] = [{k: v for k, v in log.items() if k != "seconds"} for log in record["epochs"]]
            found[name] = repr(record)
    return found


@pytest.fixture(scope="module")
def uninterrupted(make_plan: Callable[..., TrialPlan], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return everything(in_process(make_plan(tmp_path_factory.mktemp("whole"))).directory)


def stop_when(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, number: int, *, after: bool = True) -> None:
    """The `number`-th call of a function (from 1) is the process's last deed, or is not done any more."""
    original, calls = getattr(owner, name), iter(range(1, 10**6))

    def stopping(*arguments: Any, **options: Any) -> Any:
        last = next(calls) == number
        if last and not after:
            raise StoppedError
        result = original(*arguments, **options)
        if last:
            raise StoppedError
        return result

    monkeypatch.setattr(owner, name, stopping)


STOPS: dict[str, tuple[Any, str, int]] = {
    "after the first epoch": (RunJournal, "commit_epoch", 1),
    "after an epoch of round 1": (RunJournal, "commit_epoch", 3),
    "after the last epoch of round 2": (RunJournal, "commit_epoch", 6),
    "half-way through the W-subproblem": (ImportanceStore, "update", 4 + 2),
    "after the W-subproblem": (ImportanceStore, "update", 4 + 4),
    "after round 1 is committed": (RunJournal, "commit_round", 2),
    "before the result is written": (RunJournal, "commit_round", 4),
}


@pytest.mark.parametrize("stop", STOPS)
def test_a_run_stopped_anywhere_ends_with_the_same_bytes(
    make_plan: Callable[..., TrialPlan], uninterrupted: dict[str, str], tmp_path: Path, stop: str
) -> None:
    plan = make_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_when(patch, *STOPS[stop])
        with pytest.raises(StoppedError):
            in_process(plan)
    assert not (plan.directory / "student.safetensors").exists()
    assert everything(in_process(plan).directory) == uninterrupted


@pytest.mark.parametrize(
    ("write", "number"), [*(("replace", n) for n in (2, 7, 13, 20, 26, 33, 40)), *(("link", n) for n in (1, 2, 5, 12))]
)
def test_a_run_that_loses_any_write_ends_with_the_same_bytes(
    make_plan: Callable[..., TrialPlan], uninterrupted: dict[str, str], tmp_path: Path, write: str, number: int
) -> None:
    """Every durable file appears by a rename, or by a link if it must be new: the process dies before the given one."""
    plan = make_plan(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        stop_when(patch, os, write, number, after=False)
        with pytest.raises(StoppedError):
            in_process(plan)
    assert everything(in_process(plan).directory) == uninterrupted


def test_a_listener_that_fails_after_round_1_costs_nothing(
    make_plan: Callable[..., TrialPlan], uninterrupted: dict[str, str], tmp_path: Path
) -> None:
    plan, heard = make_plan(tmp_path), []

    def report(record: Measured) -> None:
        heard.append(record.round)
        if heard == [0, 1]:
            raise StoppedError

    with pytest.raises(StoppedError):
        in_process(plan, report)
    route = in_process(plan, report)
    assert heard == [0, 1, 2, 3]
    assert everything(route.directory) == uninterrupted


CONDITIONS: dict[str, dict[str, Any]] = {
    "one schedule": {"restart": "never"},
    "one schedule, SGD": {"restart": "never", "optimizer": "sgd", "learning_rate": 0.01, "rule": "uniform"},
    "the reference rule": {"rule": "reference"},
    "distillation": {"rule": "uniform", "beta": 0.1},
    "a network with a recursion": {"network": "drrn", "depth": 8},
    "a network that upsamples": {"network": "fsrcnn", "depth": 6, "width": 8},
}


@pytest.mark.long
@pytest.mark.parametrize("condition", CONDITIONS)
def test_a_run_under_any_condition_is_stopped_without_a_trace(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, condition: str
) -> None:
    whole = everything(in_process(make_plan(tmp_path / "whole", **CONDITIONS[condition])).directory)
    for number, stop in enumerate(("after an epoch of round 1", "after round 1 is committed")):
        plan = make_plan(tmp_path / str(number), **CONDITIONS[condition])
        with pytest.MonkeyPatch.context() as patch:
            stop_when(patch, *STOPS[stop])
            with pytest.raises(StoppedError):
                in_process(plan)
        assert everything(in_process(plan).directory) == whole


@pytest.mark.long
@pytest.mark.parametrize(
    ("condition", "folder", "stop"),
    [
        ("one schedule", "state", "after round 1 is committed"),
        ("one schedule", "state/commit-00000006*", "after the last epoch of round 2"),
        ("the reference rule", "importance/round-000", "after round 1 is committed"),
    ],
)
def test_what_outlives_a_round_may_be_damaged(
    make_plan: Callable[..., TrialPlan], tmp_path: Path, condition: str, folder: str, stop: str
) -> None:
    whole = everything(in_process(make_plan(tmp_path / "whole", **CONDITIONS[condition])).directory)
    plan = make_plan(tmp_path / "damaged", **CONDITIONS[condition])
    with pytest.MonkeyPatch.context() as patch:
        stop_when(patch, *STOPS[stop])
        with pytest.raises(StoppedError):
            in_process(plan)
    found = [p for p in Path(str(plan.directory)).rglob("*.safetensors") if fnmatch(str(p), f"*/{folder}*")]
    assert found
    for path in found:
        path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert everything(in_process(plan).directory) == whole
    assert len(RunDirectory(plan.directory).manifest().incidents) >= len(found)


@pytest.mark.parametrize("condition", ["a network with a recursion", "a network that upsamples"])
def test_every_network_learns(make_plan: Callable[..., TrialPlan], tmp_path: Path, condition: str) -> None:
    directory = in_process(make_plan(tmp_path, init="he", **CONDITIONS[condition])).directory
    first, *_, last = directory.follow()
    assert last.squared_error < 0.9 * first.squared_error
    assert last.validation[0].psnr > first.validation[0].psnr
    assert 0.1 < last.importance.mean < 0.99
    network = load_model(directory.student_path(ROUNDS))
    assert (network.name, network.depth) == (CONDITIONS[condition]["network"], CONDITIONS[condition]["depth"])


def test_distillation_is_seen_in_the_loss_and_in_the_student(
    make_plan: Callable[..., TrialPlan], tmp_path: Path
) -> None:
    distilled, plain = (in_process(make_plan(tmp_path, rule="uniform", beta=beta)) for beta in (0.1, 0.0))
    for record in plain.directory.follow():
        assert record.loss == pytest.approx(record.squared_error, rel=1e-6)
    for record in distilled.directory.follow():
        assert record.loss > 1.001 * record.squared_error
    for name, array in distilled.students()[0].items():
        assert np.abs(array - plain.students()[0][name]).max() > 1e-6


def test_a_student_starts_from_the_weights_given(
    make_plan: Callable[..., TrialPlan], tiny_files: TinyFiles, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, teacher="none", start=str(tiny_files.teacher))
    route = in_process(plan)
    given, first = read_tensors(UPath(tiny_files.teacher))[0], route.students()[0]
    assert given.keys() == first.keys()
    for name, array in given.items():  # zero importance: round 0 leaves them as they are
        np.testing.assert_array_equal(first[name], array)
    assert plan.directory.name != make_plan(tmp_path, teacher="none").directory.name

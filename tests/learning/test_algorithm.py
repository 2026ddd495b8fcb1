"""Algorithm 1 in one process: the order of its calls, the rise of W, controls, extension, and a stop anywhere."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_run import TINY, MemoryImportance, MemoryJournal, StoppedError, fresh_state, tiny, tiny_run

from ail_ray.files import FileError
from ail_ray.imaging.bank import Bank
from ail_ray.imaging.evaluation import EvaluationImages
from ail_ray.imaging.shards import Shard
from ail_ray.learning import algorithm, inference
from ail_ray.learning.algorithm import Run, adaptive_importance_learning, w_subproblem
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.inference import error_map, evaluate
from ail_ray.learning.precision import autocast
from ail_ray.learning.theta import TrainState, silent_layers, train_epoch
from ail_ray.networks.architectures import Network
from ail_ray.networks.code import resolve

Arrays = dict[str, np.ndarray]
EXAMPLES = Path(__file__).parents[2] / "docs" / "examples" / "rules.py"


def finished(shards: dict[int, Shard], config: RunConfig = TINY) -> tuple[MemoryJournal, MemoryImportance]:
    run = tiny_run(shards, config)
    adaptive_importance_learning(run)
    return run.journal, run.importance  # type: ignore[return-value]


def assert_same_bits(one: Arrays | None, other: Arrays | None) -> None:
    assert one is not None
    assert other is not None
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(one[name], other[name], name)


def test_w_of_a_round_follows_the_commit_of_the_round_before(shards: dict[int, Shard]) -> None:
    journal, _ = finished(shards)
    expected: list[tuple[object, ...]] = []
    for t in range(3):
        for s in (0, 1) if t else ():
            expected += [("read", t - 1, s), ("update", t, s)]  # it needs no errors where W is 1
        expected += [("read", t, 0), ("read", t, 1), ("epoch", t, 0), ("epoch", t, 1)]
        expected += [("read", t, 0), ("read", t, 1), ("round", t)]  # of the histogram
    assert journal.calls == expected


def test_w_is_updated_by_the_committed_student_of_the_round_before(shards: dict[int, Shard]) -> None:
    journal, importance = finished(shards)
    for t in (1, 2):
        state = fresh_state(TINY)
        state.load(journal.students[t - 1])
        for s, shard in shards.items():
            np.testing.assert_array_equal(importance.errors[t, s], error_map(state.student, shard, "fp32"))


def test_importance_rises_from_round_to_round(shards: dict[int, Shard]) -> None:
    journal, importance = finished(shards, tiny(rounds=4))
    for s in shards:
        ws = [importance.held[t, s] for t in range(5)]
        for before, after in pairwise(ws):
            assert np.all(before <= after)
            assert np.all(after <= 1)
            assert np.any(before < after)
    means = [record.importance.mean for record in journal.records]
    exact = [np.concatenate([importance.held[t, s] for s in shards]).astype(float).mean() for t in range(5)]
    np.testing.assert_allclose(means, exact, atol=5e-4)
    assert [record.round for record in journal.records] == [0, 1, 2, 3, 4]


def test_errors_that_eq7_cannot_heed_are_not_computed_and_change_no_bit(
    shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, passes = tiny(rounds=4, lam=0.5, error_unit="squared", error_factor=1e-3), list[int]()

    def counted(*arguments: Any) -> Any:
        passes.append(0)
        return autocast(*arguments)

    monkeypatch.setattr(inference, "autocast", counted)
    monkeypatch.setattr(inference, "STRIP", 200)
    journal, importance = finished(shards, config)
    fewer = len(passes)
    assert all((importance.held[3, s] == 1).all() for s in shards), "in the end all is settled"
    monkeypatch.setattr(RunConfig, "settles", False)
    passes.clear()
    plain_journal, plain = finished(shards, config)
    assert_same_bits(journal.arrays, plain_journal.arrays)
    for key, w in plain.held.items():
        np.testing.assert_array_equal(importance.held[key], w)
    assert fewer < 0.8 * len(passes)


def test_what_is_not_there_any_more_is_not_needed(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may be taken up where `W_t` is there already, and the one before is pruned."""
    run = tiny_run(shards, TINY)
    for s, shard in shards.items():
        run.importance.initialise(s, shard.pixels)

    def gone(round: int, shard: int) -> np.ndarray:
        raise FileError(f"round {round} of shard {shard}: no such file")

    monkeypatch.setattr(run.importance, "read", gone)
    w_subproblem(run, 1)
    for s, shard in shards.items():
        np.testing.assert_array_equal(
            run.importance.errors[1, s],  # type: ignore[attr-defined]
            error_map(run.state.student, shard, "fp32"),
        )


def test_a_strip_with_one_pixel_below_1_is_computed(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    student, shard = fresh_state(TINY).student, shards[0]
    monkeypatch.setattr(inference, "STRIP", 200)
    whole, importance = error_map(student, shard, "fp32"), np.ones(shard.pixels, np.float16)
    assert not np.array_equal(error_map(student, shard, "fp32", importance), whole)
    place = int(shard.offsets[1]) + 3
    for other in (np.nextafter(np.float16(1), np.float16(0)), np.float16(2), np.float16(np.nan)):
        importance[place] = other
        assert error_map(student, shard, "fp32", importance)[place] == whole[place]
    np.testing.assert_array_equal(error_map(student, shard, "fp32", np.zeros_like(importance)), whole)


def test_the_weights_really_weigh(shards: dict[int, Shard]) -> None:
    journal, _ = finished(shards)
    control, _ = finished(shards, tiny(rule="uniform"))
    assert all(0 < log.loss < 0.99 * log.squared_error for log in journal.logs if log.round == 0)
    assert all(log.loss == pytest.approx(log.squared_error) for log in control.logs)
    assert any((control.students[0][name] != journal.students[0][name]).any() for name in control.students[0])


def test_the_uniform_rule_is_plain_training_restarted(
    shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(rule="uniform")
    with monkeypatch.context() as patch:
        patch.setattr(algorithm, "error_map", lambda *_: pytest.fail("it asks for errors that nothing reads"))
        journal, importance = finished(shards, config)
    assert all(np.all(w == 1) for w in importance.held.values())
    state = fresh_state(config)
    bank = Bank(shards, total_shards=2, crop=config.crop, seed=config.seed)
    for s, shard in shards.items():
        bank.weigh(s, np.ones(shard.pixels, np.float16))
    for t in range(3):
        state.restart()
        for e in range(2):
            train_epoch(state, bank, round=t, epoch=e, crops=12, group=Group(), precision="fp32")
    assert_same_bits(journal.arrays, state.tensors())


def test_a_run_extended_is_a_longer_run(shards: dict[int, Shard]) -> None:
    longer, long_importance = finished(shards, tiny(rounds=3))
    run = tiny_run(shards, tiny(rounds=1))
    adaptive_importance_learning(run)
    extended = tiny_run(shards, tiny(rounds=3), importance=run.importance, journal=run.journal)  # type: ignore[arg-type]
    adaptive_importance_learning(extended)
    assert_same_bits(extended.journal.arrays, longer.arrays)  # type: ignore[attr-defined]
    for key, w in long_importance.held.items():
        np.testing.assert_array_equal(run.importance.held[key], w)  # type: ignore[attr-defined]
    calls = list(longer.calls)
    adaptive_importance_learning(tiny_run(shards, tiny(rounds=3), importance=long_importance, journal=longer))
    assert longer.calls == calls, "a finished run does nothing"


@settings(max_examples=12)
@given(
    stop=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    adam=st.booleans(),
    restart=st.sampled_from(["round", "never"]),
)
def test_a_stop_after_any_commit_leaves_no_trace(
    shards: dict[int, Shard], stop: list[int], adam: bool, restart: str
) -> None:
    config = tiny(optimizer="adam" if adam else "sgd", learning_rate=3e-3 if adam else 0.01, restart=restart)
    whole, whole_importance = finished(shards, config)
    journal, importance = MemoryJournal(), MemoryImportance(config, shards)
    for commits in [*stop, None]:
        journal.stop_after = commits
        try:
            adaptive_importance_learning(tiny_run(shards, config, importance=importance, journal=journal))
        except StoppedError:
            continue
    assert_same_bits(journal.arrays, whole.arrays)
    assert [(log.round, log.epoch, log.loss) for log in journal.logs] == [
        (log.round, log.epoch, log.loss) for log in whole.logs
    ]
    for key, w in whole_importance.held.items():
        np.testing.assert_array_equal(importance.held[key], w)


def test_a_stop_between_two_updates_repeats_the_first(shards: dict[int, Shard]) -> None:
    whole, _ = finished(shards)
    journal, importance = MemoryJournal(), MemoryImportance(TINY, shards)
    update, done = importance.update, []

    def once(round: int, shard: int, error: np.ndarray) -> None:
        update(round, shard, error)
        done.append((round, shard))
        if done == [(1, 0)]:
            raise StoppedError

    importance.update = once  # type: ignore[method-assign]
    with pytest.raises(StoppedError):
        adaptive_importance_learning(tiny_run(shards, importance=importance, journal=journal))
    adaptive_importance_learning(tiny_run(shards, importance=importance, journal=journal))
    assert done == [(1, 0), (1, 0), (1, 1), (2, 0), (2, 1)]
    assert_same_bits(journal.arrays, whole.arrays)


def test_the_reference_rule_goes_on_from_round_0(shards: dict[int, Shard]) -> None:
    _, importance = finished(shards, tiny(rule="reference", lam=0.1))
    for t in (1, 2):
        for s in shards:
            step = 0.1 * t * np.exp(-10 * importance.errors[t, s].astype(np.float64))
            expected = np.minimum(importance.held[0, s] + step, 1)
            np.testing.assert_allclose(importance.held[t, s].astype(np.float64), expected, rtol=0, atol=2**-11)


def test_hard_first_begins_where_eq7_ends(shards: dict[int, Shard]) -> None:
    _, easy = finished(shards)
    _, hard = finished(shards, tiny(rule=resolve(f"{EXAMPLES}:hard_first", "rule"), lam=0.5))
    for s in shards:
        np.testing.assert_allclose(hard.held[0, s].astype(float), 1 - easy.held[0, s].astype(float), atol=2**-10)
        above = hard.errors[1, s] >= 0.5 * TINY.mu0
        np.testing.assert_array_equal(hard.held[1, s], np.where(above, 1, hard.held[0, s]))
        assert np.all(hard.held[2, s] == 1)


def test_fixed_trains_every_round_on_the_importance_of_the_first(shards: dict[int, Shard]) -> None:
    journal, importance = finished(shards, tiny(rule="fixed"))
    for (t, s), held in importance.held.items():
        np.testing.assert_array_equal(held, importance.held[0, s])
        assert t == 0 or not importance.errors[t, s].any(), "no error pass"
    assert len({record.importance.mean for record in journal.records}) == 1
    assert journal.records[0].importance.mean < 1


@pytest.mark.parametrize("rule", ["eq7", "reference", resolve(f"{EXAMPLES}:exact", "rule")])
def test_without_a_teacher_round_0_touches_nothing(shards: dict[int, Shard], rule: str) -> None:
    config = tiny(teacher="none", weight_decay=0.1, rule=rule)
    journal, importance = finished(shards, config)
    student = {name: array for name, array in fresh_state(config).tensors().items() if name.startswith("student.")}
    assert_same_bits(journal.students[0], student)
    assert all(np.all(importance.held[0, s] == 0) for s in shards)
    assert [(log.round, log.epoch) for log in journal.logs] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert any((journal.students[1][name] != student[name]).any() for name in student)


def test_every_round_is_measured(shards: dict[int, Shard]) -> None:
    hr = [np.random.default_rng(i).integers(0, 256, (24, 30), np.uint8) for i in range(2)]
    images = EvaluationImages("noise", 2, hr)
    run = tiny_run(shards, tiny(rounds=1), validation=(images,))
    adaptive_importance_learning(run)
    state = fresh_state(TINY)
    for record, student in zip(run.journal.records, run.journal.students, strict=True):  # type: ignore[attr-defined]
        state.load(student)
        assert record.validation == (evaluate(state.student, images),)
        assert record.test == ()
    assert [set(each) for each in run.journal.seconds] == [  # type: ignore[attr-defined]
        {"theta", "evaluation"}, {"importance", "theta", "evaluation"}
    ]  # fmt: skip
    torch.testing.assert_close(state.student.layers[0].weight, run.state.student.layers[0].weight)


def dying(deaths: int, monkeypatch: pytest.MonkeyPatch) -> tuple[RunConfig, list[int]]:
    """A configuration whose first so many students are dead from the start, and the attempts that were drawn."""
    config, drawn = tiny(init="identity", rounds=1, weight_decay=0.0), list[int]()
    draw = RunConfig.drawn

    def drawn_or_dead(self: RunConfig, attempt: int = 0) -> Network:
        drawn.append(attempt)
        student = draw(self, attempt)
        if attempt < deaths:
            with torch.no_grad():
                student.layers[1].weight.copy_(-student.layers[1].weight.abs())  # type: ignore[operator, index, union-attr]
        return student

    monkeypatch.setattr(RunConfig, "drawn", drawn_or_dead)
    return config, drawn


def begun(shards: dict[int, Shard], config: RunConfig, **there: Any) -> Run:
    """A run with its first draw, as a worker begins it."""
    run = tiny_run(shards, config, **there)
    run.state.begin(config.drawn())
    return run


def test_a_student_that_dies_is_drawn_again(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    config, drawn = dying(2, monkeypatch)
    run = begun(shards, config)
    adaptive_importance_learning(run)
    journal = run.journal
    assert isinstance(journal, MemoryJournal)
    assert drawn == [0, 1, 2]
    assert [call for call in journal.calls if call[0] == "death"] == [("death", 0, 0)] * 2
    assert journal.deaths == [["layers.1"]] * 2
    assert [record.dead for record in journal.records] == [(), ()]
    alive = tiny_run(shards, config)
    alive.state.begin(config.drawn(2))
    adaptive_importance_learning(alive)
    assert_same_bits(journal.students[-1], alive.journal.students[-1])  # type: ignore[attr-defined]


@pytest.mark.parametrize("stop", range(1, 8))
def test_a_run_that_died_and_was_killed_ends_with_the_same_bits(
    shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    config, _ = dying(2, monkeypatch)
    whole = begun(shards, config)
    adaptive_importance_learning(whole)
    calls = list[tuple[Any, ...]]()
    journal, importance = MemoryJournal(calls, stop_after=stop), MemoryImportance(config, shards, calls)
    try:
        adaptive_importance_learning(begun(shards, config, journal=journal, importance=importance))
    except StoppedError:
        adaptive_importance_learning(begun(shards, config, journal=journal, importance=importance))
    assert_same_bits(journal.students[-1], whole.journal.students[-1])  # type: ignore[attr-defined]
    assert len(journal.deaths) == 2


def test_a_student_from_zeros_is_drawn_again_in_the_first_round_that_trains(
    shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, drawn = dying(1, monkeypatch)
    run = begun(shards, replace(config, teacher="none"))
    adaptive_importance_learning(run)
    assert drawn == [0, 1]
    assert [call for call in run.journal.calls if call[0] == "death"] == [("death", 1, 0)]  # type: ignore[attr-defined]
    assert [bool(record.dead) for record in run.journal.records] == [True, False]  # type: ignore[attr-defined]


def test_a_dead_student_of_he_is_named_and_kept(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    config, drawn = dying(1, monkeypatch)
    run = begun(shards, replace(config, init="he"))
    before = {name: value.clone() for name, value in run.state.student.state_dict().items()}
    adaptive_importance_learning(run)
    assert drawn == [0]
    assert [record.dead for record in run.journal.records] == [("layers.1",)] * 2  # type: ignore[attr-defined]
    after = run.state.student.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "nothing moved: so it will never learn"


def test_drawing_again_has_an_end(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    config, drawn = dying(1000, monkeypatch)
    run = begun(shards, replace(config, rounds=0))
    adaptive_importance_learning(run)
    assert drawn == list(range(algorithm.DRAWS + 1))
    assert run.journal.records[-1].dead == ("layers.1",)  # type: ignore[attr-defined]


@pytest.mark.parametrize("network", ["vdsr", "drrn"])
@pytest.mark.parametrize("init", ["he", "identity"])
def test_a_living_student_has_no_silent_layer(shards: dict[int, Shard], network: str, init: str) -> None:
    config = tiny(network=network, init=init, scales=(2,), depth=None, width=8)
    run = tiny_run(shards, config)
    state = TrainState(config.drawn(), config)
    bank = run.bank
    for s, shard in shards.items():
        bank.weigh(s, np.zeros(shard.pixels, np.float16))  # importance does not count
    assert silent_layers(state, bank, round=0, epoch=0, group=Group(), precision="fp32") == []

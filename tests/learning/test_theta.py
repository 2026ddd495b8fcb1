"""The θ-subproblem: the loss, the schedule, the clip, restarts, and a state that continues bit for bit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_run import TINY, MemoryJournal, fresh_state, tiny, tiny_run
from upath import UPath

from ail_ray.imaging.bank import Bank, Crops
from ail_ray.imaging.shards import Shard
from ail_ray.learning.algorithm import adaptive_importance_learning
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.records import EpochLog
from ail_ray.learning.theta import NonFiniteLossError, TrainState, learning_rate, train_epoch, weighted_loss
from ail_ray.networks.architectures import VDSR
from ail_ray.tensors import read_tensors, write_tensors


def batch(seed: int, n: int = 3, side: int = 6) -> Crops:
    generator = np.random.default_rng(seed)
    return Crops(
        torch.from_numpy(generator.random((n, 1, side, side)).astype(np.float16)),
        torch.from_numpy(generator.integers(0, 256, (n, 1, side, side), np.uint8)),
        torch.from_numpy(generator.random((n, 1, side, side)).astype(np.float16)),
    )


def bank_of(shards: dict[int, Shard], config: RunConfig = TINY, importance: float = 1.0) -> Bank:
    bank = Bank(shards, total_shards=len(shards), crop=config.crop, seed=config.seed)
    for s, shard in shards.items():
        bank.weigh(s, np.full(shard.pixels, importance, np.float16))
    return bank


def epoch(state: TrainState, bank: Bank, *, round: int = 0, epoch: int = 0, crops: int = 12) -> EpochLog:
    return train_epoch(state, bank, round=round, epoch=epoch, crops=crops, group=Group(), precision="fp32")


def bits(state: TrainState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.tensors().items()}


@given(seed=st.integers(0, 2**32), n=st.integers(1, 4))
def test_weight_acts_squared(seed: int, n: int) -> None:
    crops = batch(seed, n)
    student = VDSR(width=2, depth=2).double()
    loss, squared_error = weighted_loss(student, crops, "fp64")
    with torch.no_grad():
        s = student(crops.inputs.double()).numpy()
    w, y = crops.importance.numpy().astype(np.float64), crops.hr.numpy() / 255
    assert loss.item() == pytest.approx(np.sum(w**2 * (y - s) ** 2), rel=1e-12)
    assert squared_error.item() == pytest.approx(np.sum((y - s) ** 2), rel=1e-12)
    assert not squared_error.requires_grad


@given(seed=st.integers(0, 2**32), beta=st.floats(0.01, 2))
def test_distillation_adds_the_distance_to_the_teacher(seed: int, beta: float) -> None:
    crops, outputs = batch(seed), torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(seed)).half()
    student = VDSR(width=2, depth=2).double()
    plain, squared_error = weighted_loss(student, crops, "fp64", beta)
    loss, same = weighted_loss(student, replace(crops, outputs=outputs), "fp64", beta)
    with torch.no_grad():
        s = student(crops.inputs.double())
    assert (loss - plain).item() == pytest.approx(beta * (outputs.double() - s).square().sum().item(), rel=1e-9)
    assert same.item() == squared_error.item()


def test_an_epoch_of_distillation_counts_the_term(shards: dict[int, Shard]) -> None:
    config = tiny(rule="uniform", beta=0.5, precision="fp64")
    bank = bank_of(shards, config)
    for s, shard in shards.items():
        bank.teach(s, (shard.hr.double() / 255).numpy().astype(np.float16))  # a teacher that makes no error
    log = train_epoch(fresh_state(config), bank, round=0, epoch=0, crops=12, group=Group(), precision="fp64")
    assert log.loss == pytest.approx(1.5 * log.squared_error, rel=1e-2)  # half precision rounds its outputs


def test_steps_of_the_learning_rate() -> None:
    config = tiny(schedule="step", learning_rate=0.1)
    progress = {0.0: 0.1, 0.19: 0.1, 0.2: 0.01, 0.39: 0.01, 0.4: 1e-3, 0.6: 1e-4, 0.8: 1e-5, 0.999: 1e-5}
    for point, expected in progress.items():
        assert learning_rate(config, point) == pytest.approx(expected, rel=1e-12)
    # the paper's: a tenth after every ten of 50 epochs, to the step
    for e in (10, 20, 30, 40):
        assert learning_rate(config, e / 50) == pytest.approx(0.1 * 0.1 ** (e // 10), rel=1e-12)
        assert learning_rate(config, (e - 1 + 0.999) / 50) == pytest.approx(0.1 * 0.1 ** (e // 10 - 1), rel=1e-12)


def test_cosine_of_the_learning_rate() -> None:
    config = tiny(schedule="cosine", learning_rate=3e-3)
    for point, factor in {0.0: 1e-3, 0.015: 0.5, 0.03: 1.0, 0.515: 0.5, 0.7575: 0.5 - 0.5**1.5, 1.0: 0.0}.items():
        assert learning_rate(config, point) == pytest.approx(3e-3 * factor, abs=1e-12)
    rates = [learning_rate(config, point) for point in np.linspace(0.03, 1, 50)]
    assert all(np.diff(rates) < 0)


class SpyingJournal(MemoryJournal):
    """Also remembers the learning rate and how many steps the optimizer has behind it, at the end of each epoch."""

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        super().commit_epoch(log, state)
        slots = state.optimizer.state_dict()["state"][0]
        self.seen = [*getattr(self, "seen", []), (state.optimizer.param_groups[0]["lr"], float(slots["step"]))]


def test_every_round_starts_with_a_fresh_optimizer(shards: dict[int, Shard]) -> None:
    journal = SpyingJournal()
    adaptive_importance_learning(tiny_run(shards, tiny(rounds=2), journal=journal))
    # 12 crops in batches of 4: three steps an epoch, two epochs a round; Adam counts its own steps.
    assert [steps for _, steps in journal.seen] == [3, 6, 3, 6, 3, 6]
    assert [rate for rate, _ in journal.seen] == [learning_rate(TINY, (e + 2 / 3) / 2) for e in (0, 1)] * 3


def test_without_restarts_there_is_one_schedule_and_one_optimizer(shards: dict[int, Shard]) -> None:
    journal, config = SpyingJournal(), tiny(rounds=2, restart="never")
    adaptive_importance_learning(tiny_run(shards, config, journal=journal))
    assert [steps for _, steps in journal.seen] == [3, 6, 9, 12, 15, 18]
    # Of 6 epochs of 3 steps: the last step of each, as of one round of 6 epochs.
    assert [rate for rate, _ in journal.seen] == pytest.approx(
        [learning_rate(config, (3 * e + 2) / 18) for e in range(6)], rel=1e-12
    )
    one_round = SpyingJournal()
    adaptive_importance_learning(tiny_run(shards, tiny(rounds=0, epochs=6), journal=one_round))
    assert [rate for rate, _ in journal.seen] == pytest.approx([rate for rate, _ in one_round.seen], rel=1e-12)


def test_momentum_does_not_cross_into_the_next_round(shards: dict[int, Shard]) -> None:
    config = tiny(rounds=1, optimizer="sgd", learning_rate=0.05, rule="uniform", epochs=1)
    journal = MemoryJournal()
    adaptive_importance_learning(tiny_run(shards, config, journal=journal))
    state, bank = fresh_state(config), bank_of(shards, config)
    state.load(journal.students[0])  # without the optimizer
    epoch(state, bank, round=1)
    assert bits(state) == {name: array.tobytes() for name, array in (journal.arrays or {}).items()}


@pytest.mark.parametrize("clip", [1e-3, 1e9])
def test_the_gradient_of_the_sum_is_clipped(shards: dict[int, Shard], clip: float) -> None:
    config = tiny(optimizer="sgd", schedule="step", learning_rate=1e-3, weight_decay=0.0, clip=clip, epochs=1)
    state, bank = fresh_state(config), bank_of(shards, config, importance=0.5)
    crops = bank.crops(round=0, epoch=0, step=0, batch=4)
    before = [parameter.detach().clone() for parameter in state.student.parameters()]
    loss, _ = weighted_loss(state.student, crops, "fp32")
    gradients = torch.autograd.grad(loss, list(state.student.parameters()))
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    assert 1e-2 < norm < 1e6
    log = epoch(state, bank, crops=4)
    assert log.loss == pytest.approx(loss.item() / (4 * 12 * 12), rel=1e-5)
    assert log.squared_error == pytest.approx(4 * log.loss, rel=1e-4)
    for parameter, old, gradient in zip(state.student.parameters(), before, gradients, strict=True):
        expected = old - 1e-3 * gradient * min(1, clip / norm)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-6, atol=1e-7)


def test_a_partial_batch_is_filled_and_counted(shards: dict[int, Shard]) -> None:
    log = epoch(fresh_state(TINY), bank_of(shards), crops=9)
    assert log.crops == 12
    assert bits_after(shards, 9) == bits_after(shards, 12) != bits_after(shards, 8)


def bits_after(shards: dict[int, Shard], crops: int) -> dict[str, bytes]:
    state = fresh_state(tiny(schedule="step"))
    epoch(state, bank_of(shards), crops=crops)
    return bits(state)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_step(shards: dict[int, Shard], bad: float) -> None:
    state = fresh_state(TINY)
    epoch(state, bank_of(shards))
    before = bits(state)
    with pytest.raises(NonFiniteLossError, match=r"round 3, epoch 1, step 0: the loss is (nan|inf)"):
        epoch(state, bank_of(shards, importance=bad), round=3, epoch=1)
    assert bits(state) == before


def test_the_record_to_blame_is_named(shards: dict[int, Shard]) -> None:
    bank = bank_of(shards)
    sources = bank.sources(round=0, epoch=0, step=0, batch=4)
    assert sorted(place for place, _, _ in sources) == [0, 1, 2, 3]
    _, s, record = next(source for source in sources if source[0] == 2)
    begin, end = shards[s].offsets[record : record + 2]
    importance = np.ones(shards[s].pixels, np.float16)
    importance[begin:end] = np.nan
    bank.weigh(s, importance)
    with pytest.raises(NonFiniteLossError, match=rf"step 0: the loss is nan.*; first in shard {s}, record {record}$"):
        epoch(fresh_state(TINY), bank)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_state_that_was_saved_continues_bit_for_bit(shards: dict[int, Shard], optimizer: str, tmp_path: Path) -> None:
    config = tiny(optimizer=optimizer, learning_rate=1e-3, weight_decay=1e-4)
    bank, state = bank_of(shards, config), fresh_state(config)
    epoch(state, bank)
    path = UPath(tmp_path / "state.safetensors")
    write_tensors(path, state.tensors())
    other = fresh_state(tiny(optimizer=optimizer, learning_rate=1e-3, weight_decay=1e-4, seed=9))
    assert bits(other) != bits(state)
    other.load(read_tensors(path)[0])
    assert bits(other) == bits(state)
    epoch(state, bank, epoch=1)
    epoch(other, bank, epoch=1)
    assert bits(other) == bits(state)
    stale = fresh_state(config)
    stale.load({name: array for name, array in read_tensors(path)[0].items() if name.startswith("student.")})
    epoch(stale, bank, epoch=1)
    assert bits(stale) != bits(state), "the optimizer's memory is part of it"


def test_importance_of_zero_teaches_nothing(shards: dict[int, Shard]) -> None:
    state = fresh_state(tiny(optimizer="sgd", weight_decay=0.0))
    before = [parameter.detach().clone() for parameter in state.student.parameters()]
    log = epoch(state, bank_of(shards, importance=0.0))
    assert log.loss == 0
    assert log.squared_error > 0
    assert all(torch.equal(a, b) for a, b in zip(before, state.student.parameters(), strict=True))

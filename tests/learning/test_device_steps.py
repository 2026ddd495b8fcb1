"""Steps as a GPU takes them, here on the processor: nothing is read back, and a bad step changes nothing.

`apart` is what the code asks whether it has a device beside the processor; here it says so of the processor itself.
"""

import copy
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from operator_calls import per_step
from tiny_run import fresh_state, tiny

from ail_ray.imaging import bank as banks
from ail_ray.imaging.bank import Bank, Crops
from ail_ray.imaging.shards import Shard
from ail_ray.learning import theta
from ail_ray.learning.config import RunConfig
from ail_ray.learning.group import Group
from ail_ray.learning.precision import placed
from ail_ray.learning.theta import NonFiniteLossError, TrainState, train_epoch

BATCH = 4
CONFIGS = {
    "adam": tiny(schedule="step", epochs=100, optimizer="adam", weight_decay=1e-4),
    "sgd": tiny(schedule="step", epochs=100, optimizer="sgd", learning_rate=0.05, weight_decay=1e-4),
}
"""Their learning rate is the same all through an epoch, however long that is."""


class SpoiltBank(Bank):
    """A bank whose crops carry no finite importance in some steps."""

    spoilt: frozenset[int] = frozenset()

    def batches(self, *, round: int, epoch: int, steps: range, batch: int) -> Iterator[Crops]:
        for step, crops in zip(steps, super().batches(round=round, epoch=epoch, steps=steps, batch=batch), strict=True):
            bad = step in self.spoilt and len(crops.hr)
            yield replace(crops, importance=crops.importance * torch.nan) if bad else crops


def bank_of(shards: dict[int, Shard], total: int | None = None, spoilt: tuple[int, ...] = ()) -> Bank:
    bank = SpoiltBank({s: copy.copy(shard) for s, shard in shards.items()}, total_shards=total or 2, crop=12, seed=0)
    bank.spoilt = frozenset(spoilt)
    for s, shard in shards.items():
        bank.weigh(s, np.full(shard.pixels, 0.5, np.float16))
    return bank


def state_of(config: RunConfig) -> TrainState:
    """A student whose weights are channels-last, as runs have them."""
    return TrainState(placed(fresh_state(config).student, "fp32", torch.device("cpu")), config)


def trained(
    state: TrainState, bank: Bank, steps: int, epoch: int = 0, group: Group | None = None
) -> tuple[float, float]:
    log = train_epoch(state, bank, round=0, epoch=epoch, crops=steps * BATCH, group=group or Group(), precision="fp32")
    return log.loss, log.squared_error


def bits(state: TrainState) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.tensors().items()}


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (banks, theta):
        monkeypatch.setattr(module, "apart", lambda device: True)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_looking_late_changes_no_bit(
    shards: dict[int, Shard], config: RunConfig, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for look in (1, 3, 500):
        monkeypatch.setattr(theta, "LOOK", look)
        state, bank = state_of(config), bank_of(shards)
        logs = [trained(state, bank, 7, epoch) for epoch in (0, 1)]
        found.append((logs, bits(state)))
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_device_trains_what_the_processor_trains(
    shards: dict[int, Shard], config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fused optimizers round otherwise; a gradient that is laid out otherwise than its weight would be far off."""
    here = state_of(config)
    logs = trained(here, bank_of(shards), 6)
    for module in (banks, theta):
        monkeypatch.setattr(module, "apart", lambda device: True)
    there = state_of(config)
    assert trained(there, bank_of(shards), 6) == pytest.approx(logs, rel=1e-4)
    expected, found = here.tensors(), there.tensors()
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_saved_state_continues_bit_for_bit_on_a_device(
    shards: dict[int, Shard], config: RunConfig, device: None
) -> None:
    state, bank = state_of(config), bank_of(shards)
    trained(state, bank, 3)
    other = state_of(replace(config, seed=9))
    other.load({name: array.copy() for name, array in state.tensors().items()})
    for each in (state, other):
        trained(each, bank, 3, epoch=1)
    assert bits(other) == bits(state)
    for parameter, slots in other.optimizer.state.items():
        assert {slot.stride() for slot in slots.values() if slot.shape == parameter.shape} == {parameter.stride()}


@pytest.mark.parametrize("bad", [0, 2])
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_from_the_first_bad_step_on_nothing_changes(
    shards: dict[int, Shard], config: RunConfig, bad: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NonFiniteLossError, match=rf"^round 0, epoch 0, step {bad}: the loss is nan.* in shard") as here:
        trained(state_of(config), bank_of(shards, spoilt=(bad, 4)), 7)
    for module in (banks, theta):
        monkeypatch.setattr(module, "apart", lambda device: True)
    before, state = state_of(config), state_of(config)
    if bad:
        trained(before, bank_of(shards), bad)
    with pytest.raises(NonFiniteLossError) as there:
        trained(state, bank_of(shards, spoilt=(bad, 4)), 7)
    assert str(there.value) == str(here.value)
    for name, array in state.tensors().items():  # of Adam, a first step that is held leaves zeros
        assert array.tobytes() == before.tensors().get(name, np.zeros_like(array)).tobytes(), name


def test_all_workers_stop_at_the_same_step(shards: dict[int, Shard], device: None) -> None:
    meet, given, said = threading.Barrier(2), dict[int, torch.Tensor](), dict[int, str]()

    class Threads(Group):
        def sum(self, tensor: torch.Tensor) -> torch.Tensor:
            given[self.rank] = tensor.clone()
            meet.wait(20)
            tensor.copy_(given[0] + given[1])
            meet.wait(20)
            return tensor

    def work(rank: int) -> None:
        bank = bank_of({rank: shards[rank]}, total=2, spoilt=(3,) if rank else ())
        try:
            trained(state_of(CONFIGS["adam"]), bank, 6, group=Threads(rank=rank, size=2))
        except NonFiniteLossError as error:
            said[rank] = str(error)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert said[0] == said[1]
    assert "step 3: the loss is nan" in said[0]
    assert "in shard 1" in said[0]


def test_no_step_reads_anything_from_the_device(shards: dict[int, Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors on `meta`, which have no values, every read is an error."""
    monkeypatch.setattr(theta, "autocast", lambda precision, device: nullcontext())  # torch has none there
    monkeypatch.setattr(TrainState, "hold", lambda *told: None)  # and no fused optimizer
    there = torch.device("meta")
    held = {s: copy.copy(shard) for s, shard in shards.items()}
    for shard in held.values():
        shard.hr, shard.inputs = shard.hr.to(there), shard.inputs.to(there)
    state = TrainState(fresh_state(CONFIGS["sgd"]).student.to(there), CONFIGS["sgd"])
    state.optimizer, steps = torch.optim.SGD(state.student.parameters(), 0.1), []
    state.optimizer.register_step_post_hook(lambda *told: steps.append(told))
    with pytest.raises(NotImplementedError, match="meta"):
        trained(state, bank_of(held), 7)
    assert len(steps) == 6, "all steps but that at whose look it is read"


def test_a_step_on_a_device_asks_for_few_operators(shards: dict[int, Shard], device: None) -> None:
    state, bank = state_of(CONFIGS["adam"]), bank_of(shards)
    found = per_step(lambda steps: trained(state, bank, steps))
    assert found["reads"] == 0
    assert found["kernels"] <= 57, "for three layers; counted with torch 2.13"

"""Slots: workers that serve run after run, and keep nothing of one for the next."""

import asyncio
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.util.state import list_actors

from ail_ray.networks.code import resolve
from ail_ray.orchestration import slots
from ail_ray.orchestration.inbox import Inbox
from ail_ray.orchestration.leftovers import Found, forget
from ail_ray.orchestration.trials import run_on_ray
from ail_ray.runs.directory import STUDENT, RunDirectory
from ail_ray.runs.placement import Placement
from ail_ray.runs.run import RunError, TrialPlan, run_local

CPU = torch.device("cpu")
Planned = Callable[..., TrialPlan]


def test_workers_take_what_they_are_given_in_order() -> None:
    async def story() -> None:
        inbox = Inbox(idle=5.0)
        first = asyncio.create_task(inbox.take(0))
        assert await inbox.put("a") == 0
        assert await inbox.put("b") == 1
        assert await first == "a"
        assert await inbox.take(0) == "a", "another worker of the group, or one that was started again"
        ended = asyncio.create_task(inbox.ended(0))
        await inbox.end(0, "out of order")
        await inbox.end(0, "once more")
        assert await ended == "out of order"
        assert await inbox.take(1) == "b"
        await inbox.close()
        assert await inbox.take(2) is None
        assert await inbox.put("c") is None, "nobody would take it"
        assert await inbox.wanted(1)
        await inbox.abandon(1)
        assert not await inbox.wanted(1)

    asyncio.run(story())


def test_a_slot_ends_when_it_has_been_idle_but_not_while_a_worker_is_ahead_of_the_others() -> None:
    async def story() -> None:
        inbox = Inbox(idle=0.1)
        await inbox.put("a")
        ahead = asyncio.create_task(inbox.take(1))
        await asyncio.sleep(0.4)
        assert not ahead.done(), "the first worker still has to say how it ended"
        assert await inbox.put("b") == 1
        assert await ahead == "b"
        await inbox.end(0, "")
        await inbox.end(1, "")
        assert await inbox.take(2) is None
        assert inbox.closed

    asyncio.run(story())


def test_settings_are_left_as_they_were_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIL_TRIED", "before")

    def settings() -> tuple[Any, ...]:
        torch_state, numpy_state = torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()
        own = random.getstate(), torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()
        modes = torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision()
        return torch_state, numpy_state, own, modes, os.getcwd(), dict(os.environ)

    before, found = settings(), Found()
    try:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        torch.set_num_threads(3)
        torch.set_default_dtype(torch.float64)
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(True)
        torch.set_float32_matmul_precision("medium")
        os.chdir(tmp_path)
        os.environ.update(AIL_TRIED="after", AIL_MORE="1")
        assert all(a != b for a, b in zip(before, settings(), strict=True))
    finally:
        found.restore()
    assert settings() == before


RULE = """
import numpy as np, os, random, torch
met = []
def remembers(p, *, fails=False, dies=False):
    met.append(p.round)
    torch.set_default_dtype(torch.float64)
    random.seed(1)
    if fails and p.round == 2:
        raise MemoryError("no room")
    if dies and p.round == 2:
        os.kill(os.getpid(), 9)
    return np.minimum(p.importance + 0.1 / len(met), 1)
"""


def workers() -> set[int]:
    """The processes of Ray Train's workers that are there now."""
    found = list_actors(ray.get_runtime_context().gcs_address, limit=10_000, detail=True)
    return {actor.pid for actor in found if actor.class_name == "RayTrainWorker" and actor.state == "ALIVE"}


@pytest.fixture
def slot(local_ray: None) -> Iterator[None]:
    slots.close()
    yield
    slots.close()


def student(directory: RunDirectory) -> bytes:
    return bytes((directory.path / STUDENT).read_bytes())


@pytest.mark.long
def test_many_runs_share_the_processes_and_nothing_else(make_plan: Planned, tmp_path: Path, slot: None) -> None:
    """A rule that counts its calls in its module and spoils its process's settings, runs beside it, two that fail."""
    (tmp_path / "rule.py").write_text(RULE)
    remembers = resolve(f"{tmp_path}/rule.py:remembers", "rule")
    conditions: list[dict[str, Any]] = [
        {"rule": remembers}, {"seed": 1}, {"rule": remembers, "seed": 2},
        {"rule": remembers, "arguments": (("rule.fails", True),)},
        {"rule": remembers, "arguments": (("rule.dies", True),)}, {"rule": remembers, "seed": 3},
    ]  # fmt: skip
    seen, there, found = list[set[int]](), list[bytes](), Found()
    for changes in conditions:
        plan = make_plan(tmp_path / "ray", **changes)
        if "arguments" in changes:
            ((name, _),) = changes["arguments"]
            reason = {"rule.fails": "no room", "rule.dies": "killed for want of memory"}[name]
            with pytest.raises(RunError, match=reason):
                run_on_ray(plan, Placement(), lambda record: None)
            assert reason in (RunDirectory(plan.directory).failure() or "")
        else:
            there.append(student(run_on_ray(plan, Placement(), lambda record: None)))
        seen.append(workers())
    assert len(seen[0]) == 1
    assert all(each == seen[0] for each in seen), "not one process more"
    here = list[bytes]()
    for i, changes in enumerate(conditions):
        if "arguments" not in changes:
            plan = make_plan(tmp_path / str(i), **changes)
            here.append(student(run_local(plan, 1, CPU, lambda record: None)))
            found.restore()
            forget()
    assert there == here, "as in processes of their own"
    assert len(set(here)) == 4

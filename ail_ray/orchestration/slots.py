"""Slots: groups of Ray Train workers that serve run after run, so that processes start once and not for every trial.

The process of a trial holds the lease of its run, hands an assignment to its slot, and follows the run directory. A
slot holds nothing of a run that is over; one without work ends by itself, and one that has died is replaced.
"""

import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any

import ray
import ray.train
import torch
from ray import cloudpickle, train
from ray.train import TrainingFailedError
from ray.train.torch import TorchTrainer, get_device
from upath import UPath

from ail_ray.errors import one_line
from ail_ray.files import FileError
from ail_ray.learning.group import Group
from ail_ray.learning.rules import RuleError
from ail_ray.learning.theta import NonFiniteLossError
from ail_ray.networks.notebooks import CodeError
from ail_ray.orchestration.actors import ActorStore, StoreLostError, store_actor
from ail_ray.orchestration.inbox import Inbox
from ail_ray.orchestration.leftovers import Found, forget
from ail_ray.orchestration.process_group import OwnAddress
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.lease import LeaseLostError
from ail_ray.runs.placement import Placement
from ail_ray.runs.work import Assignment, work

START_TIMEOUT = 7 * 24 * 3600  # seconds: nodes may have to boot, and other jobs may have to end
ELASTIC_START_TIMEOUT = 60  # seconds: it takes what is there, and a node that was there may just have gone
RESIZE_INTERVAL = 30.0  # seconds between looks for more workers, in an elastic slot
PATIENCE = 60.0  # seconds, for workers that are asked to end; they do so after an epoch
LOOK = 1.0  # seconds between looks for rounds that were committed


class Slot:
    """A `TorchTrainer.fit()` in a thread of this process, whose workers do what they are given, one after the other."""

    def __init__(self, placement: Placement, storage: UPath) -> None:
        """
        Args:
            placement: workers, threads and GPUs; an elastic one may change its size between epochs.
            storage: where Ray Train keeps what it writes itself.
        """
        self.shape = placement, str(storage)
        self._inbox: Any = ray.remote(num_cpus=0)(Inbox).remote()
        self._fitting = _aside(_trainer(placement, storage, self._inbox).fit)

    def give(self, assignment: Assignment) -> int | None:
        """Hand a run to the workers; its number here, or None if they have ended."""
        if self._fitting.done():
            return None
        with suppress(ray.exceptions.RayActorError):
            packed = cloudpickle.dumps(assignment)  # unpacked by workers only: to know what it is would take torch
            number: int | None = ray.get(self._inbox.put.remote(packed))
            return number
        return None

    def follow(self, number: int, tell: Callable[[], None]) -> str | None:
        """Wait until the run with this number is over, and call `tell` about once a second.

        Ray's own way from Train to Tune (`TuneReportCallback`) waits for ever when a trial ends while its last report
        is still on the way. The run directory knows all rounds anyway.

        Returns:
            Why it ended early, if it did.
        """
        ended = self._inbox.ended.remote(number)
        try:
            while not self._fitting.done():
                over, _ = ray.wait([ended], timeout=LOOK)
                tell()
                if over:
                    failure: str = ray.get(ended)
                    return failure or None
        except ray.exceptions.RayActorError:  # without its inbox it will end
            self.close()
        except BaseException:
            self._inbox.abandon.remote(number)
            raise
        error = self._fitting.exception()
        if error is not None and not isinstance(error, TrainingFailedError):
            raise error
        return one_line(error) if error else None

    def close(self) -> None:
        """Let the workers end, and wait a while until they have."""
        with suppress(ray.exceptions.RayError):
            ray.get(self._inbox.close.remote(), timeout=PATIENCE)
        with suppress(Exception):  # whatever ended them is told by `follow`, or is nobody's any more
            self._fitting.result(PATIENCE)  # a group that still waits for its nodes does not hear of it
        ray.kill(self._inbox)


_slot: Slot | None = None  # of this process


def give(assignment: Assignment, placement: Placement, storage: UPath) -> tuple[Slot, int]:
    """Hand a run to the slot of this process: the one that is there, if it has this shape, else a new one."""
    global _slot
    fixed = placement.fewest == placement.most  # the next run may find other workers free
    if _slot is not None and fixed and _slot.shape == (placement, str(storage)):
        number = _slot.give(assignment)
        if number is not None:
            return _slot, number
    close()
    _slot = Slot(placement, storage)
    number = _slot.give(assignment)
    assert number is not None, "a slot was idle before it was asked anything"
    return _slot, number


def close() -> None:
    """End the slot of this process, if there is one."""
    global _slot
    ending, _slot = _slot, None
    if ending is not None and ray.is_initialized():
        ending.close()


def _aside(function: Callable[[], Any]) -> "Future[Any]":
    """Call a function in a thread that no process waits for when it ends."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True, name="slot").start()
    return future


def _trainer(placement: Placement, storage: UPath, inbox: Any) -> TorchTrainer:
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"  # else two seconds, also until it sees that all is done
    # A process less for each slot: that a node will go changes nothing here, and that it went is seen anyway.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    fixed = placement.fewest == placement.most
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(START_TIMEOUT if fixed else ELASTIC_START_TIMEOUT)
    return TorchTrainer(
        serve,
        train_loop_config={"inbox": inbox},
        torch_config=OwnAddress(),
        scaling_config=train.ScalingConfig(
            num_workers=placement.most if fixed else (placement.fewest, placement.most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=RESIZE_INTERVAL, use_gpu=placement.gpu,  # type: ignore[call-arg]
            resources_per_worker=placement.worker_resources(),
        ),
        run_config=train.RunConfig(
            name=f"slot-{os.urandom(8).hex()}",
            storage_path=str(storage / "ray"),
            # Not retried there: a controller that is killed while it starts a group leaves the group's resources held.
            # The second limit is for groups that cannot start; by default Ray tries for ever.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=3),  # type: ignore[call-arg]
        ),
    )  # fmt: skip


class AbandonedError(Exception):
    """Nobody wants the result of this run any more."""


def serve(job: dict[str, Any]) -> None:
    """The function Ray Train runs on each worker: do what lies in the inbox until that is closed."""
    inbox, context, device = job["inbox"], ray.train.get_context(), get_device()
    group = Group(context.get_world_rank(), context.get_world_size(), str(device))
    actor, found, number = store_actor(), Found(), 0
    try:
        while (packed := ray.get(inbox.take.remote(number))) is not None:
            failure = _attempt(cloudpickle.loads(packed), actor, group, device, partial(heed, inbox, number, group))
            if group.rank == 0:
                ray.get(inbox.end.remote(number, failure))
            if failure:  # what the run has asked of its store may still be under way
                ray.kill(actor)
                actor = store_actor()
            number += 1
            found.restore()
            forget()
    finally:
        ray.kill(actor)


def heed(inbox: Any, number: int, group: Group) -> None:
    """Called by every worker after each epoch: all of them give up together what nobody wants any more."""
    wanted = ray.get(inbox.wanted.remote(number)) if group.rank == 0 else True
    if group.sum(torch.tensor([0.0 if wanted else 1.0])).item():
        raise AbandonedError


def _attempt(
    assignment: Assignment, actor: Any, group: Group, device: torch.device, each_epoch: Callable[[], None]
) -> str:
    """Do one run; returns why it failed, empty if it did not.

    What fails on one worker of several ends the slot, since the others wait for that one.
    """
    directory = RunDirectory(assignment.directory, assignment.holder)
    store = ActorStore(actor, assignment.directory, assignment.config, assignment.maps)
    try:
        work(assignment, store, group, device, each_epoch=each_epoch)
    except AbandonedError:
        return "nobody waits for it any more"
    except NonFiniteLossError as error:  # on every worker at once; the same numbers would fail again
        if group.rank == 0:
            with suppress(LeaseLostError, FileError):
                directory.fail(str(error))
        return str(error)
    except (Exception, SystemExit) as error:
        if isinstance(error, CodeError | RuleError | StoreLostError):  # somebody's own code: again would fail again
            with suppress(LeaseLostError, FileError):  # another worker says so just now
                directory.fail(str(getattr(error, "cause", error)))
        if group.size > 1:
            raise
        # Into the worker's log; Ray writes it as JSON where that is asked for.
        logging.getLogger(__name__).exception("the run failed", extra={"run": assignment.directory.name})
        return f"{type(error).__name__}: {one_line(error)}"
    return ""

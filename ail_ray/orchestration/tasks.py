"""Functions as Ray tasks: on many nodes at once, or on one that a worker could be on."""

import itertools
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from ail_ray.errors import ConfigError
from ail_ray.files import is_local, write_bytes
from ail_ray.orchestration.cluster import T
from ail_ray.runs.placement import Placement


@dataclass(frozen=True)
class OnCluster:
    """Calls the function as Ray tasks with so many CPUs (and GPUs) each, and so many at once."""

    cpus: float = 1
    gpus: float = 0
    most: int | None = None  # by default all, whatever nodes an autoscaler brings for them

    def __call__(self, function: Callable[..., Any], calls: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        task, left = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(function), iter(calls)
        waiting = [task.remote(*arguments) for arguments in itertools.islice(left, self.most)]
        while waiting:
            done, waiting = ray.wait(waiting)
            waiting += [task.remote(*arguments) for arguments in itertools.islice(left, 1)]
            yield ray.get(done[0])


SOON = 15.0  # seconds: a node that is there has answered by then
AGAIN = 600.0  # seconds between lines of somebody who waits


def first_answer(
    function: Callable[..., T], arguments: tuple[Any, ...], placement: Placement, say: Callable[[str], None]
) -> T:
    """Call a function on a node that a worker could be on, as soon as there is room on one.

    A cluster that grows may have to bring that node first, and on one that is busy other jobs may have to end; either
    is waited for, and said.
    """
    needs = placement.worker_resources()
    task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))(function).remote(*arguments)
    wanted, patience = " and ".join(f"{need:g} {kind}" for kind, need in needs.items()), SOON
    while not ray.wait([task], timeout=patience)[0]:
        there, free = ray.cluster_resources(), ray.available_resources()
        held = ", ".join(f"{free.get(kind, 0):g} of {there.get(kind, 0):g} {kind} free" for kind in needs)
        say(f"waiting for a node with {wanted} free: the cluster has {held}")
        patience = AGAIN
    answer: T = ray.get(task)
    return answer


def check_shared(folder: UPath) -> None:
    """Make sure that every node that is there now reads what this one writes.

    Raises:
        ConfigError: a line for each node that does not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not is_local(folder) or len(nodes) == 1:
        return
    probe = folder / f".shared-{uuid.uuid4().hex}"
    write_bytes(probe, b"is this file seen everywhere?")
    try:
        seen = {
            node["NodeManagerAddress"]: ray.remote(num_cpus=0)(_sees)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(str(probe))
            for node in nodes
        }
        problems = [
            f"storage {folder}: not the same folder on node {address}; it must be a shared file system or a bucket"
            for address, answer in seen.items()
            if not ray.get(answer)
        ]
    finally:
        probe.unlink()
    if problems:
        raise ConfigError(problems)


def _sees(path: str) -> bool:
    return os.path.exists(path)

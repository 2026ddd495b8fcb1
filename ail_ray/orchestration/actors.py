"""The importance store as Ray actors, one beside each worker."""

from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from ail_ray.learning.config import RunConfig
from ail_ray.runs.importance_store import ImportanceStore
from ail_ray.runs.teacher_maps import TeacherMaps

ON_THEIR_WAY = 2  # updates: one that is solved, one that is sent


class ActorStore:
    """The store as a Train worker sees it: an actor on the same node owns its shards and updates them beside it.

    Only errors are sent, through the shared memory of the node. Snapshots are mapped from storage, so that W is nowhere
    in memory twice, and no node has to stay for objects on it. The actor ends with the worker, and the next worker has
    an actor of its own.
    """

    def __init__(self, directory: UPath, config: RunConfig, maps: TeacherMaps | None) -> None:
        """Start the actor; the arguments are those of `ImportanceStore`."""
        node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(ImportanceStore)
        self.actor: Any = remote.options(scheduling_strategy=node).remote(directory, config, maps)
        self._snapshots = ImportanceStore(directory, config, maps)
        self._pending: dict[int, Any] = {}

    def stop(self) -> None:
        """End the actor; what it has acknowledged is on disk."""
        ray.kill(self.actor)

    def initialise(self, shard: int, pixels: int) -> None:
        """Write `W_0` of a shard in this process, so that training need not wait for the actor to start."""
        self._snapshots.initialise(shard, pixels)

    def update(self, round: int, shard: int, error: np.ndarray) -> None:
        """Ask for an update without waiting; `read` of the same shard waits for it, and raises what went wrong.

        If too many updates are on their way it first waits for the oldest, since errors that wait take memory.
        """
        while len(self._pending) >= ON_THEIR_WAY:
            ray.get(self._pending.pop(next(iter(self._pending))))
        self._pending[shard] = self.actor.update.remote(round, shard, error)

    def read(self, round: int, shard: int) -> np.ndarray:
        """Read `W_round` of a shard, mapped from its snapshot."""
        if shard in self._pending:
            ray.get(self._pending.pop(shard))
        return self._snapshots.read(round, shard)

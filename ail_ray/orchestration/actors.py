"""The importance store as Ray actors, one beside each worker."""

from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from ail_ray.learning.config import RunConfig
from ail_ray.orchestration.leftovers import Found, forget
from ail_ray.runs.importance_store import ImportanceStore, StoreError
from ail_ray.runs.teacher_maps import TeacherMaps

Run = tuple[UPath, RunConfig, TeacherMaps | None]
"""What an `ImportanceStore` is made of."""
ON_THEIR_WAY = 2  # updates: one that is solved, one that is sent
TRIES_AGAIN = 5  # for an update whose process has ended; Ray counts each end about twice


class StoreLostError(StoreError):
    """An update ends the process that makes it, every time."""


class StoreActor:
    """The process that owns a worker's shards of whichever run its slot has; every call names that run.

    One that was killed and started again is whole, since an `ImportanceStore` is a cache over snapshots.
    """

    def __init__(self) -> None:
        self._directory: UPath | None = None
        self._store: ImportanceStore
        self._found = Found()

    def update(self, run: Run, round: int, shard: int, error: np.ndarray) -> None:
        """`ImportanceStore.update` of a run."""
        if self._directory != run[0]:
            self._found.restore()
            forget()
            self._directory, self._store = run[0], ImportanceStore(*run)
        self._store.update(round, shard, error)


def store_actor() -> Any:
    """Start such a process on this node."""
    node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    remote = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=TRIES_AGAIN)(StoreActor)
    return remote.options(scheduling_strategy=node).remote()


class ActorStore:
    """The store as a Train worker sees it: an actor on the same node owns its shards and updates them beside it.

    Only errors are sent, through the shared memory of the node. Snapshots are mapped from storage, so that W is nowhere
    in memory twice, and no node has to stay for objects on it.
    """

    def __init__(self, actor: Any, directory: UPath, config: RunConfig, maps: TeacherMaps | None) -> None:
        """The store of one run, by an actor that `store_actor` has made; the others are those of `ImportanceStore`."""
        self.actor, self._run = actor, (directory, config, maps)
        self._snapshots = ImportanceStore(directory, config, maps)
        self._pending: dict[int, Any] = {}

    def initialise(self, shard: int, pixels: int) -> None:
        """Write `W_0` of a shard in this process, so that training need not wait for the actor to start."""
        self._snapshots.initialise(shard, pixels)

    def update(self, round: int, shard: int, error: np.ndarray) -> None:
        """Ask for an update without waiting; `read` of the same shard waits for it, and raises what went wrong.

        If too many updates are on their way it first waits for the oldest, since errors that wait take memory.
        """
        while len(self._pending) >= ON_THEIR_WAY:
            self._wait(next(iter(self._pending)))
        self._pending[shard] = self.actor.update.remote(self._run, round, shard, error)

    def read(self, round: int, shard: int) -> np.ndarray:
        """Read `W_round` of a shard, mapped from its snapshot."""
        if shard in self._pending:
            self._wait(shard)
        return self._snapshots.read(round, shard)

    def _wait(self, shard: int) -> None:
        """Wait for the update of a shard.

        Raises:
            StoreLostError: its process has ended each time that the update was tried.
        """
        try:
            ray.get(self._pending.pop(shard))
        except ray.exceptions.RayActorError as error:
            raise StoreLostError(
                f"shard {shard}: the process that updates its importance ends whenever it tries to; is it killed for "
                "want of memory?"
            ) from error

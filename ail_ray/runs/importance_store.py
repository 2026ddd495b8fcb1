"""The importance store: owns shards of W, and is a cache over snapshots in the run directory.

`W` of a round never changes. A store that is asked for something it does not hold loads it from storage, so one
that was restarted is whole again; an update that is asked for twice is done once. A snapshot is whole on disk before
the update is acknowledged.
"""

import numpy as np
from upath import UPath

from ail_ray.learning.config import RunConfig
from ail_ray.learning.importance import random_importance
from ail_ray.learning.rules import first_importance, next_importance, recipe_of
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.teacher_maps import TeacherMaps
from ail_ray.tensors import read_tensors, write_tensors


class StoreError(RuntimeError):
    """A request that does not fit the state of the store; the message names shard and rounds."""


class ImportanceStore:
    """The importance of some or all shards of a run; a plain class, of which Ray makes an actor."""

    def __init__(self, directory: UPath, config: RunConfig, maps: TeacherMaps | None) -> None:
        """
        Args:
            directory: the run directory, where snapshots lie.
            config: names the rule and all that it reads.
            maps: the teacher's errors; needed if the importance starts from a teacher.
        """
        self.directory, self.config, self.maps = RunDirectory(directory), config, maps
        self._held: dict[int, tuple[int, np.ndarray]] = {}  # round and W of a shard, as read last

    def initialise(self, shard: int, pixels: int) -> None:
        """Write `W_0` of a shard with so many pixels, unless it is there."""
        path = self.directory.importance_path(0, shard)
        if not path.exists():
            self._write(0, shard, self._first(shard, pixels))

    def update(self, round: int, shard: int, error: np.ndarray) -> None:
        """Compute `W_round` of a shard from `W_{round-1}` and `|y - s|`, (pixels,) float16; only once.

        Raises:
            StoreError: the round does not follow what the store holds, or the error has another shape.
        """
        if self.directory.importance_path(round, shard).exists():
            return
        if round < 1 or not self.directory.importance_path(round - 1, shard).exists():
            raise StoreError(f"shard {shard}: asked for round {round}, but round {round - 1} is not in the store")
        previous = self.read(round - 1, shard)
        del self._held[shard]  # not needed again, so not kept mapped
        if error.shape != previous.shape:
            raise StoreError(f"shard {shard}: error of shape {error.shape} for importance of shape {previous.shape}")
        c = self.config
        first = self._snapshot(0, shard) if recipe_of(c.rule).needs_first else None
        importance = next_importance(
            c.rule, previous, error, lam=c.lam, unit=c.error_unit, factor=c.error_factor, round=round, mu0=c.known_mu0,
            first=first, arguments=c.of("rule"), loss=c.loss, loss_arguments=c.of("loss"), seed=c.seed, shard=shard,
        )  # fmt: skip
        self._write(round, shard, importance)

    def read(self, round: int, shard: int) -> np.ndarray:
        """Read `W_round` of a shard: (pixels,) float16, mapped from its snapshot, read-only.

        Raises:
            FileError: there is no such snapshot, or it is damaged.
        """
        held = self._held.get(shard)
        if held is None or held[0] != round:
            self._held[shard] = held = (round, self._snapshot(round, shard))
        return held[1]

    def _snapshot(self, round: int, shard: int) -> np.ndarray:
        tensors, _ = read_tensors(self.directory.importance_path(round, shard))
        return tensors["importance"]

    def _write(self, round: int, shard: int, importance: np.ndarray) -> None:
        metadata = {"round": str(round), "shard": str(shard)}
        write_tensors(self.directory.importance_path(round, shard), {"importance": importance}, metadata)

    def _first(self, shard: int, pixels: int) -> np.ndarray:
        kind = self.config.initialisation
        if kind == "ones":
            return np.ones(pixels, np.float16)
        if kind == "zeros":
            return np.zeros(pixels, np.float16)
        if kind == "random":
            return random_importance(self.config.seed, shard, pixels)
        if self.maps is None and kind == "teacher":
            raise StoreError(f"shard {shard}: the importance starts from a teacher, but there are no teacher errors")
        errors, c = self.maps.of(f"shard-{shard:04d}.safetensors") if self.maps else None, self.config
        return first_importance(
            errors, pixels=pixels, mu0=c.known_mu0, alpha0=c.alpha0, lam=c.lam, rule=c.rule, arguments=c.of("rule"),
            seed=c.seed, shard=shard,
        )  # fmt: skip

"""The journal of Algorithm 1, kept in a run directory."""

from collections.abc import Callable

from ail_ray.files import write_bytes
from ail_ray.learning.group import Group
from ail_ray.learning.records import EpochLog, Measured
from ail_ray.learning.theta import TrainState
from ail_ray.machine import peak_memory
from ail_ray.runs.directory import RunDirectory


class RunJournal:
    """The algorithm's memory, kept in a run directory: rank 0 writes, everybody reads."""

    def __init__(
        self,
        directory: RunDirectory,
        group: Group,
        *,
        draw: Callable[[int], dict[str, bytes]],
        report: Callable[[Measured], None],
        each_epoch: Callable[[], None] = lambda: None,
    ) -> None:
        """
        Args:
            draw: makes this worker's pictures of a round, as PNG by file name.
            report: is called on every worker with what was measured of every committed round.
            each_epoch: is called on every worker after every committed epoch.
        """
        self.directory, self.group, self.draw = directory, group, draw
        self.report, self.each_epoch = report, each_epoch

    def resume(self, state: TrainState) -> tuple[int, int]:
        """Load the last commit, if any."""
        saved = self.directory.load_state()
        if saved is None:
            return 0, 0
        arrays, place = saved
        state.load(arrays)
        over = place.round <= self.directory.last_round
        return (place.round + 1, 0) if over else (place.round, place.epochs)

    def attempts(self) -> int:
        """How many students have died in their first training so far, as the manifest says."""
        return len(self.directory.manifest().draws)

    def commit_death(self, round: int, epoch: int, silent: list[str]) -> None:
        """Rank 0 writes."""
        if self.group.rank == 0:
            self.directory.commit_death(round, epoch, silent)

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        """Rank 0 writes."""
        if self.group.rank == 0:
            self.directory.commit_epoch(log, state.tensors())
        self.each_epoch()

    def commit_round(self, measured: Measured, seconds: dict[str, float], state: TrainState) -> None:
        """Everybody draws, rank 0 commits, nobody goes on before."""
        folder = self.directory.record_path(measured.round).with_suffix("")
        for name, png in self.draw(measured.round).items():
            write_bytes(folder / name, png)
        self.group.barrier()
        if self.group.rank == 0:
            system = {"memory_GB": peak_memory() / 1e9, "workers": float(self.group.size)}
            record = self.directory.commit_round(measured, seconds, system, state)
            if record.dead:
                self.directory.note(
                    f"the student is dead: {', '.join(record.dead)} lets nothing through, so it can learn no more; "
                    f"--init identity, another --seed or a smaller --learning-rate makes one that lives"
                )
        self.group.barrier()
        self.report(measured)

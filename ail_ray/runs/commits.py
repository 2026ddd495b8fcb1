"""The journal of Algorithm 1, kept in a run directory."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from ail_ray.entry import STOPS, listen
from ail_ray.errors import Interrupted
from ail_ray.files import write_bytes
from ail_ray.learning.group import Group
from ail_ray.learning.theta import EpochLog, TrainState
from ail_ray.machine import peak_memory
from ail_ray.runs.directory import RunDirectory
from ail_ray.runs.manifest import Place


@contextmanager
def asked_to_leave(say: Callable[[str], None]) -> Iterator[Callable[[], int]]:
    """Turn the first SIGTERM (a spot machine's notice) or Ctrl-C in this block into a wish, granted at its next step.

    Yields what tells the signal, 0 before there is one. A second signal does what it did before this block.

    Raises:
        Interrupted: the wish came in the last step.
    """
    asked = 0

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            before = handlers[signal.Signals(number)]
            if callable(before):
                before(number, frame)
            raise Interrupted(number)
        asked = number
        # Aside, since the signal may have come in the middle of another line.
        words = "stopping at the next step, with everything committed; a second Ctrl-C stops at once"
        threading.Thread(target=say, args=(words,), daemon=True).start()

    handlers = {int(number): signal.getsignal(number) for number in STOPS}
    listen(ask)
    try:
        yield lambda: asked
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if asked:
        raise Interrupted(asked)


class RunJournal:
    """The algorithm's memory, kept in a run directory: rank 0 writes, everybody reads."""

    def __init__(
        self,
        directory: RunDirectory,
        group: Group,
        *,
        draw: Callable[[int], dict[str, bytes]],
        report: Callable[[dict[str, Any]], None],
        asked: Callable[[], int] = lambda: 0,
    ) -> None:
        """
        Args:
            draw: makes this worker's pictures of a round, as PNG by file name.
            report: is called with every committed round, on every worker.
            asked: the signal that has asked this process to leave, which then is the run's only one; 0 for none.
        """
        self.directory, self.group, self.draw, self.report, self.asked = directory, group, draw, report, asked

    def resume(self, state: TrainState) -> tuple[int, int, int]:
        """Load the last commit, if any."""
        saved = self.directory.load_state()
        if saved is None:
            return 0, 0, 0
        arrays, place = saved
        state.load(arrays)
        if place.round <= self.directory.last_round:
            return place.round + 1, 0, 0
        return place.round, place.epochs, place.steps

    def may_leave(self, state: TrainState | None = None, *, round: int = 0, epoch: int = 0, steps: int = 0) -> None:
        """If the process was asked to leave, commit the steps done and do so.

        Raises:
            Interrupted: the process ends with it.
        """
        if number := self.asked():
            if state is not None:
                self.directory.commit_steps(Place(round, epoch, steps), state.tensors())
            raise Interrupted(number)

    def attempts(self) -> int:
        """How many students have died in their first training so far, as the manifest says."""
        return self.directory.draws()

    def commit_death(self, round: int, epoch: int, silent: list[str]) -> None:
        """Rank 0 writes."""
        if self.group.rank == 0:
            self.directory.commit_death(round, epoch, silent)

    def commit_epoch(self, log: EpochLog, state: TrainState) -> None:
        """Rank 0 writes."""
        if self.group.rank == 0:
            self.directory.commit_epoch(log, state.tensors())

    def commit_round(self, record: dict[str, Any], state: TrainState) -> None:
        """Everybody draws, rank 0 commits, nobody goes on before."""
        folder = self.directory.record_path(record["round"]).with_suffix("")
        for name, png in self.draw(record["round"]).items():
            write_bytes(folder / name, png)
        self.group.barrier()
        if self.group.rank == 0:
            system = {"memory_GB": peak_memory() / 1e9, "workers": self.group.size}
            record = self.directory.commit_round({**record, "system": system}, state)
            if record["dead"]:
                self.directory.note(
                    f"the student is dead: {', '.join(record['dead'])} lets nothing through, so it can learn no more; "
                    f"--init identity, another --seed or a smaller --learning-rate makes one that lives"
                )
        self.group.barrier()
        self.report(record)

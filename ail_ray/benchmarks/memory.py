"""How much memory the processes of a run hold, from Linux's own accounts."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started, as far as Linux still knows that."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = stat.read_bytes().rpartition(b")")[2].split()[1]  # a name may hold anything, a ")" too
            children.setdefault(int(parent), []).append(int(stat.parent.name))
    found = list(children.get(pid, ()))
    for child in found:  # it grows meanwhile
        found += children.get(child, ())
    return found


def held(pids: list[int]) -> int:
    """How many bytes some processes hold in memory together; files and memory that several share count once.

    Libraries are left out, since the share of one process changes with every other one that comes and goes.
    """
    total = 0
    for pid in pids:
        with suppress(OSError):
            library = False
            for line in Path(f"/proc/{pid}/smaps").read_text(encoding="utf-8").splitlines():
                name, *values = line.split()
                if not name.endswith(":"):  # the head of a mapping: its addresses, ..., its file
                    library = ".so" in values[-1]
                elif name == "Pss:" and not library:
                    total += int(values[0]) * 1024
    return total


def named(pids: list[int], words: Sequence[str]) -> list[int]:
    """The processes whose command has one of these words."""
    found = []
    for pid in pids:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[0]
            found += [pid] if any(word in command for word in words) else []
    return found


class Watch:
    """Records at intervals, while it is open, how much memory descendants of this process hold."""

    def __init__(self, words: Sequence[str], every: float = 0.2) -> None:
        """
        Args:
            words: a process counts if its name has one of these.
            every: seconds between two looks.
        """
        self.words, self.every = words, every
        self.samples = list[tuple[float, int]]()  # time since the epoch, bytes
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def between(self, start: float, end: float) -> list[int]:
        """How much was held at each look in this time, or at the nearest look if there was none."""
        inside = [size for at, size in self.samples if start <= at <= end]
        return inside or [min(self.samples, key=lambda sample: abs(sample[0] - end))[1]]

    def _look(self) -> None:
        while not self._over.wait(self.every):
            self.samples.append((time.time(), held(named(descendants(os.getpid()), self.words))))


def end(process: Popen[bytes], patience: float = 60) -> None:
    """Tell a process of ours to leave, and make sure that neither it nor any that it started is left.

    By SIGTERM, since a process in the background of a shell may have been told not to hear Ctrl-C.
    """
    started = descendants(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(TimeoutExpired):
            process.wait(patience)
    for pid in (process.pid, *started):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()

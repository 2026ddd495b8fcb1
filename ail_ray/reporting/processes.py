"""What the processes of a run hold, from Linux's own books."""

import os
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import Popen, TimeoutExpired


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and theirs, as far as they are still its kin."""
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
    """Bytes in memory of some processes together; what several share, files and shared memory too, counts once.

    Libraries are left out: how much of them is one process's share changes with every other that comes and goes.
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
    """Those whose command has one of these words."""
    found = []
    for pid in pids:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[0]
            found += [pid] if any(word in command for word in words) else []
    return found


class Watch:
    """Notes every so often, while it is open, what this process's descendants of certain names hold."""

    def __init__(self, words: Sequence[str], every: float = 0.2) -> None:
        """
        Args:
            words: of which one must be in the name of a process that counts.
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
        """What was held at each look in this time; at the nearest one if there was none."""
        inside = [size for at, size in self.samples if start <= at <= end]
        return inside or [min(self.samples, key=lambda sample: abs(sample[0] - end))[1]]

    def _look(self) -> None:
        while not self._over.wait(self.every):
            self.samples.append((time.time(), held(named(descendants(os.getpid()), self.words))))


def end(process: Popen[bytes], patience: float = 60) -> None:
    """Interrupt a process of ours as Ctrl-C does, and see that neither it nor one that it started is left."""
    started = descendants(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        with suppress(TimeoutExpired):
            process.wait(patience)
    for pid in (process.pid, *started):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()

"""What a head holds in memory, and what each trial that runs at once adds to it: some minutes.

    python tests/cluster/head_memory.py

A head without CPUs, as in `cluster/`, and another host on which the workers train; on it sweeps of one, two and four
trials at once. Prints what the processes of the head hold together at most, by their kinds, and what a trial adds:
memory that several processes share counts once (`Pss` of /proc/PID/smaps_rollup), the shared memory of the object store
included. Exit code 1: a sweep has failed, or a number of trials at once was never seen.
"""

import contextlib
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
import heads
from faults import Case
from tiny_files import make_tiny_files

AT_ONCE = (1, 2, 4)
VALUES = {
    "depth": 6, "width": (16,), "lam": (0.1,), "teacher": ("none",), "rule": ("eq7",), "rounds": 4, "epochs": 1,
    "crops": 2400, "workers": 1,
}  # fmt: skip
KINDS = {  # what a process is called, and the words by which it is known
    "processes that follow a trial": r"^ray::ImplicitFunc", "controllers of slots": r"^ray::.*TrainController",
    "inboxes of slots": r"^ray::Inbox", "other actors of Ray Train": r"^ray::(PlacementGroupCleaner|Synchronization)",
    "the sweep's driver": r"ail_sweep\.py", "other workers of Ray": r"^ray::", "Ray itself": r"",
}  # fmt: skip


def main() -> int:
    """Run the sweeps and print; returns the exit code."""
    heads.enter_private_network()
    folder = Path(tempfile.mkdtemp(prefix="head-"))
    files = make_tiny_files(folder)
    most, failed = dict[int, Counter[str]](), 0
    for count in AT_ONCE:
        case = Case(folder / str(count), files, options={**VALUES, "seed": tuple(range(count))})
        with heads.head(0, **case.environment()) as head, head.node(count):
            head.submit("job", [*case.arguments(), "--max-workers", str(count)])
            while head.running("job"):
                held, followed = look(head.process.pid)
                if followed == count and held.total() > most.get(count, Counter()).total():
                    most[count] = held
                time.sleep(1)
            failed += head.result("job")["status"] != "SUCCEEDED"
        held = most.get(count, Counter())
        parts = ", ".join(f"{kind} {held[kind] / 2**20:.0f}" for kind in KINDS)
        print(f"{count} at once: {held.total() / 2**20:.0f} MiB ({parts})", flush=True)
    few, many = min(most), max(most)
    added = (most[many].total() - most[few].total()) / (many - few) if many > few else 0
    print(f"each adds {added / 2**20:.0f} MiB")
    return int(failed > 0 or len(most) < len(AT_ONCE))


def look(pid: int) -> tuple[Counter[str], int]:
    """Bytes that the descendants of a process hold now, by kind, and how many of them follow a trial."""
    held, followed = Counter[str](), 0
    for each in heads.descendants(pid):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{each}/cmdline").read_text(errors="replace").replace("\0", " ")
            kind = next(kind for kind, pattern in KINDS.items() if re.search(pattern, words))
            pss = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{each}/smaps_rollup").read_text(), re.MULTILINE)
            held[kind] += int(pss[1]) * 1024 if pss else 0
            followed += kind == next(iter(KINDS))
    return held, followed


if __name__ == "__main__":
    sys.exit(main())

"""A corpus that no node could hold: `make memory`, some minutes.

Five hosts, each of which may hold a quarter of the importance (its object store is that large, and not larger), one
Train worker on each, and two rounds. Prints what every process held at most beside what the plan said. Exit code 1: an
estimate is more than a fifth off, or the run did not end.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
import heads
import numpy as np
from faults import Case, TinyFiles
from PIL import Image
from upath import UPath

from ail_ray.learning.sweep_config import SweepConfig
from ail_ray.runs.placement import Placement
from ail_ray.runs.preparation import data_key, plan_data
from ail_ray.sweeps.cost import plan_sweep

HOSTS = 5
HELD = 80_000_000  # bytes that a host may hold: the least that Ray accepts is 75 MiB
SIDE, IMAGES = 1600, 64  # 164 M pixels, whose importance is 328 MB


def main() -> int:
    """Make the corpus, train two rounds on it, compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    heads.enter_private_network()
    folder = Path(tempfile.mkdtemp(prefix="memory-"))
    files = corpus(folder)
    values = {
        **files.protocol(), "width": (2,), "lam": (0.1,), "teacher": ("none",), "rule": ("eq7",), "rounds": 1,
        "epochs": 1, "crops": 200, "batch": 20, "shards": 20, "precision": "fp32",
    }  # fmt: skip
    sweep = SweepConfig.of(**values)
    prepared = plan_data(sweep.base, UPath(folder / "plan"))
    plan = plan_sweep(
        sweep, {data_key(sweep.base): prepared}, Placement(workers=HOSTS), {}, max_workers=HOSTS, local=False
    )
    importance = 2 * prepared.corpus.pixels
    print(f"importance {importance / 1e6:.0f} MB, {importance / HELD:.1f} times what a host may hold", flush=True)
    case = Case(folder / "case", files, options={**values, "workers": HOSTS})
    most: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        head = stack.enter_context(heads.head(0, **case.environment()))
        nodes = [
            stack.enter_context(head.node(1, host, f"--object-store-memory={HELD}")) for host in range(2, HOSTS + 2)
        ]
        head.submit("job", [*case.arguments(), "--max-workers", str(HOSTS)])
        while head.running("job"):
            for node in nodes:
                for pid in heads.descendants(node.pid):
                    with contextlib.suppress(OSError, KeyError):
                        note(pid, most)
            time.sleep(0.5)
        job = head.result("job")
        assert job["status"] == "SUCCEEDED", job["logs"]
    wrong = 0
    for kind, expected in (("RayTrainWorker", plan.trials[0].memory), ("StoreActor", plan.store_memory)):
        found = [size for name, size in most.items() if kind in name]
        off = max(found) / expected - 1
        wrong += abs(off) > 0.2 or len(found) < HOSTS
        sizes = " ".join(f"{size / 1e6:.0f}" for size in sorted(found))
        print(f"{kind}: at most {sizes} MB, planned {expected / 1e6:.0f} MB, {100 * off:+.0f} %")
    return int(wrong > 0)


def note(pid: int, most: dict[str, int]) -> None:
    """Remember the most that a process of ours has held so far, by kind and number."""
    name = Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]
    if "RayTrainWorker" in name or "StoreActor" in name:
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        most[f"{name} {pid}"] = int(status["VmHWM"].split()[0]) * 1024


def corpus(folder: Path) -> TinyFiles:
    """Smooth pictures with some noise, and one small one to validate on."""
    files = TinyFiles(folder / "train", folder / "val", folder / "none")
    files.train.mkdir(parents=True)
    files.validation.mkdir()
    rows, columns = np.indices((SIDE, SIDE), np.float32)
    noise = np.random.default_rng(0).normal(0, 6, (SIDE, SIDE)).astype(np.float32)
    for i in range(IMAGES):
        picture = 128 + 60 * np.sin(rows / (20 + i)) + 50 * np.cos(columns / (30 + i)) + np.roll(noise, 17 * i)
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(files.train / f"{i:03d}.bmp")
    Image.fromarray(np.clip(picture[:96, :96], 0, 255).astype(np.uint8)).save(files.validation / "0.bmp")
    return files


if __name__ == "__main__":
    sys.exit(main())

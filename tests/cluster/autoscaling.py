"""A sweep brings nodes and lets them go: `make autoscaling`, three minutes.

A head without CPUs, Ray's autoscaler with nodes that are processes of this machine, and a sweep of four trials
with room for two. Writes what was there second by second as JSON and as a picture, and compares all students with those
of the same sweep without a cluster. Exit code 1: they differ, or the nodes did not come and go.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "orchestration"))
import heads
import matplotlib
from faults import Case
from tiny_files import make_tiny_files
from upath import UPath

from ail_ray.runs.trial import trials_in

matplotlib.use("Agg")
from matplotlib import pyplot

MOST = 2  # nodes
IDLE = 0.1  # minutes
HEAD = "ray.head.default"  # what the provider calls the head
PROVIDER = {
    "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
}  # fmt: skip


def main() -> int:
    """Run both sweeps, write and compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("docs/results"), help="folder of timeline and picture")
    to = parser.parse_args().to
    folder = Path(tempfile.mkdtemp(prefix="autoscaling-"))
    files = make_tiny_files(folder)
    options = {"workers": 1, "width": (2, 3), "lam": (0.05, 0.1), "rounds": 2}
    laptop, cluster = (Case(folder / name, files, options=options) for name in ("laptop", "cluster"))
    cluster.points = {"slow": 0.3}
    laptop.finish(laptop.start())
    timeline = watch(cluster)
    equal = students(laptop) == students(cluster)
    to.mkdir(parents=True, exist_ok=True)
    (to / "autoscaling.json").write_text(json.dumps(timeline) + "\n")
    draw(timeline, to / "autoscaling.png")
    nodes = [moment["nodes"] for moment in timeline]
    print(f"nodes: {nodes[0]} at the start, at most {max(nodes)}, {nodes[-1]} at the end, {timeline[-1]['seconds']} s")
    print(f"students of {len(students(cluster))} trials: {'equal' if equal else 'DIFFERENT'}")
    return int(not (equal and nodes[0] == nodes[-1] == 0 and max(nodes) == MOST))


def watch(case: Case) -> list[dict[str, Any]]:
    """Submit, and look every second until the last node has gone."""
    case.folder.mkdir()
    settings, (port,) = case.folder / "autoscaling.json", heads.free_ports(1)
    node = {"resources": {"CPU": 1, "object_store_memory": 10**9}, "node_config": {}, "min_workers": 0}
    settings.write_text(
        json.dumps(
            {
                "cluster_name": "test", "max_workers": MOST, "idle_timeout_minutes": IDLE, "upscaling_speed": 10.0,
                "provider": PROVIDER | {"gcs_address": f"{heads.address_of(1)}:{port}"},
                "head_node_type": HEAD, "auth": {}, "docker": {}, "file_mounts": {},
                "available_node_types": {
                    HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
                    "worker": {**node, "max_workers": MOST},
                },
                "initialization_commands": [], "setup_commands": [], "head_setup_commands": [],
                "worker_setup_commands": [], "head_start_ray_commands": [], "worker_start_ray_commands": [],
                "cluster_synced_files": [], "rsync_exclude": [], "rsync_filter": [],
            }
        )
    )  # fmt: skip
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    timeline: list[dict[str, Any]] = []
    with heads.head(0, f"--autoscaling-config={settings}", port=port, **case.environment(), **environment) as head:
        began = time.monotonic()

        def look() -> int:
            nodes = max(1, alive(head)) - 1  # the head is one of them, from its first seconds on
            runs = trials_in(UPath(case.folder / "out"))
            timeline.append(
                {
                    "seconds": round(time.monotonic() - began), "nodes": nodes,
                    "working": sum(run.status == "working" for run in runs),
                    "finished": sum(run.status == "finished" for run in runs),
                }
            )  # fmt: skip
            return nodes

        look()
        head.submit("sweep", [*case.arguments(), "--max-workers", str(MOST)], packed=False)
        deadline = time.monotonic() + 400
        while look() or head.running("sweep"):
            assert time.monotonic() < deadline, head.ask("/api/jobs/sweep/logs")["logs"]
            time.sleep(1)
        job = head.result("sweep")
        assert job["status"] == "SUCCEEDED", job["logs"]
    return timeline


def alive(head: heads.Head) -> int:
    """Nodes that the head lists as alive."""
    found = head.ask("/nodes?view=summary")["data"]["summary"]
    return sum(node["raylet"].get("state") == "ALIVE" for node in found)


def students(case: Case) -> dict[str, str]:
    """SHA-256 of the student of every run."""
    return {
        path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (case.folder / "out" / "runs").glob("*/student.safetensors")
    }


def draw(timeline: list[dict[str, Any]], path: Path) -> None:
    """Nodes, and trials working and finished, by the second."""
    figure, axes = pyplot.subplots(figsize=(8, 3), layout="constrained")
    seconds = [moment["seconds"] for moment in timeline]
    for name, style in (("nodes", "-"), ("working", "--"), ("finished", ":")):
        label = name if name == "nodes" else f"trials {name}"
        axes.step(seconds, [moment[name] for moment in timeline], style, where="post", label=label)
    axes.set(xlabel="seconds since the head was up", ylabel="number", title="A sweep of four trials, room for two")
    axes.legend()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())

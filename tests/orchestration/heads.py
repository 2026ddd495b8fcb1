"""Heads and nodes of a Ray cluster as processes of their own, and jobs submitted to them.

A head alone listens on the loopback. Nodes beside it are hosts of a private network, which `enter_private_network`
moves the program into: a bridge that leads nowhere else, and for every host a network namespace with an address on it.
"""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 400  # seconds; a quiet machine needs 30
EXCLUDES = [".git", "tests", "docs", "*.db", "ail_out", "mlruns", ".venv"]
RAY = (sys.executable, "-m", "ray.scripts.scripts")
PRIVATE = "AIL_PRIVATE_NETWORK"


def enter_private_network(hosts: int = 7) -> None:
    """Start this program again where no packet leaves, and make the hosts there; needs no rights but its user's."""
    if PRIVATE not in os.environ:
        unshare = ["unshare", "--net", "--mount", "--map-root-user", sys.executable, *sys.argv]
        os.execvpe(unshare[0], unshare, os.environ | {PRIVATE: "1"})
    subprocess.run(["mount", "-t", "tmpfs", "hosts", "/run"], check=True)  # where `ip` keeps the names of namespaces
    ip("link set lo up")
    ip("link add hosts type bridge")
    ip("link set hosts up")
    ip("address add 10.77.0.254/24 dev hosts")
    for host in range(1, hosts + 1):
        ip(f"netns add h{host}")
        ip(f"link add to{host} type veth peer name eth0 netns h{host}")
        ip(f"link set to{host} master hosts up")
        ip(f"-n h{host} link set lo up")
        ip(f"-n h{host} link set eth0 up")
        ip(f"-n h{host} address add {address_of(host)}/24 dev eth0")


def ip(words: str) -> None:
    """As on a command line."""
    subprocess.run(["ip", *words.split()], check=True)


def address_of(host: int) -> str:
    """Of the head (1) or a node (2..7)."""
    return f"10.77.0.{host}" if PRIVATE in os.environ else "127.0.0.1"


def on(host: int) -> tuple[str, ...]:
    """Before a command that is to run on a host."""
    return ("ip", "netns", "exec", f"h{host}") if PRIVATE in os.environ else ()


@dataclass(frozen=True)
class Head:
    """A head that asks for a token."""

    address: str
    gcs: str
    token: str
    environment: dict[str, str]
    folder: Path
    process: subprocess.Popen[bytes]

    def ask(self, path: str, token: str | None = None) -> Any:
        request = urllib.request.Request(
            self.address + path, headers={"Authorization": f"Bearer {token or self.token}"}
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def submit(self, name: str, arguments: list[str], *, packed: bool = True, folder: Path | None = None) -> None:
        """Submit the sweep and go on.

        Args:
            packed: the code goes along, into a folder of each node; else all nodes run it from where it is. Nodes that
                share a disk must: a new one empties the folder that the others' code is in.
            folder: somebody's own, which goes along instead of the code.
        """
        packed, uploaded = packed and folder is None, folder or (REPOSITORY if packed else None)
        environment = {"excludes": EXCLUDES} if packed else {"env_vars": {"PYTHONPATH": str(REPOSITORY)}}
        job = "jobs/ail_sweep.py" if packed else str(REPOSITORY / "jobs" / "ail_sweep.py")
        submission = subprocess.run(
            [
                *(*RAY, "job", "submit", "--address", self.address, "--no-wait"),
                *("--submission-id", name, *(("--working-dir", str(uploaded)) if uploaded else ())),
                *("--runtime-env-json", json.dumps(environment)),
                *("--", sys.executable, job, *arguments),
            ],
            env=self.environment, check=False, capture_output=True, text=True, timeout=PATIENCE,
        )  # fmt: skip
        assert submission.returncode == 0, submission.stderr

    def running(self, name: str) -> bool:
        """Whether a submitted job has not ended yet."""
        return self.ask(f"/api/jobs/{name}")["status"] in ("PENDING", "RUNNING")

    def stop(self, name: str) -> None:
        """As `ray job stop`, which waits until the job has ended."""
        words = [*RAY, "job", "stop", "--address", self.address, name]
        subprocess.run(words, env=self.environment, check=True, capture_output=True, timeout=PATIENCE)

    def result(self, name: str) -> dict[str, Any]:
        """Wait for a job's end; what the head says of it, its log included."""
        deadline = time.monotonic() + PATIENCE
        while self.running(name):
            assert time.monotonic() < deadline, self.ask(f"/api/jobs/{name}/logs")["logs"]
            time.sleep(1)
        return {**self.ask(f"/api/jobs/{name}"), **self.ask(f"/api/jobs/{name}/logs")}

    @contextlib.contextmanager
    def node(self, cpus: int, host: int = 2, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Another node of this head's cluster, until the end of the block; `end_tree` kills it before."""
        assert PRIVATE in os.environ, "nodes need a private network"
        own, shared = self.folder / f"host-{host}", self.folder / "ray"  # a host has a disk of its own for Ray's files
        own.mkdir(exist_ok=True)
        with (self.folder / "node.log").open("ab") as log:
            process = subprocess.Popen(
                [
                    *(*on(host), "sh", "-c", 'mount --bind "$1" "$2" && shift 2 && exec "$@"', "sh"),
                    *(str(own), str(shared), *RAY, "start", f"--address={self.gcs}"),
                    *("--block", f"--num-cpus={cpus}"),
                    f"--node-ip-address={address_of(host)}", *words,
                ],
                env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            self.wait_for(host)
            yield process
        finally:
            end_tree(process)

    def wait_for(self, host: int) -> None:
        """Until a host is part of the cluster."""
        deadline = time.monotonic() + PATIENCE
        while address_of(host) not in {
            node.get("ip")
            for node in self.ask("/nodes?view=summary")["data"]["summary"]
            if node["raylet"].get("state") == "ALIVE"
        }:
            assert time.monotonic() < deadline, (self.folder / "node.log").read_text()
            time.sleep(0.5)


@contextlib.contextmanager
def head(cpus: int = 2, *words: str, port: int | None = None, **environment: str) -> Iterator[Head]:
    """A head that asks for a token, ended with all its descendants at the end of the block.

    Args:
        words: more of the command line of `ray start`.
        port: of the GCS; any by default.
    """
    folder = Path(tempfile.mkdtemp(prefix="ail"))  # short: Ray puts sockets there
    token = folder / "token"
    token.write_text("a-token-of-this-test-0123456789abcdef")
    names = ("port", "dashboard-port", "dashboard-agent-listen-port", "ray-client-server-port", "metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    ports["port"] = port or ports["port"]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment = inherited | environment | {
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": str(int(PRIVATE in os.environ)),  # 0: stays on the loopback
    }  # fmt: skip
    if (
        PRIVATE in os.environ
    ):  # gloo would ask for the address of this machine's name; a lost host is noticed in seconds
        environment |= {
            "GLOO_SOCKET_IFNAME": "eth0", "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "2000",
            "RAY_health_check_failure_threshold": "5",
        }  # fmt: skip
    with (folder / "head.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(*on(1), *RAY, "start", "--head", "--block", f"--num-cpus={cpus}"),
                *(f"--node-ip-address={address_of(1)}", f"--dashboard-host={address_of(1)}"),
                f"--temp-dir={folder / 'ray'}", *words,
                *(f"--{name}={port}" for name, port in ports.items()),
            ],
            env=environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    address = f"http://{address_of(1)}:{ports['dashboard-port']}"
    try:
        made = Head(address, f"{address_of(1)}:{ports['port']}", token.read_text(), environment, folder, process)
        wait_for_agent(made, process, folder / "head.log")
        yield made
    finally:
        end_tree(process, str(folder))
        shutil.rmtree(folder)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for_agent(head: Head, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the head lists its jobs (there are none)."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            assert head.ask("/api/jobs/") == []
            return
        time.sleep(0.5)
    raise AssertionError(log.read_text())


def end_tree(process: subprocess.Popen[bytes], folder: str | None = None) -> None:
    """Kill a head or node and all its descendants, by process and never by name; of its folder nothing may be left."""
    while family := descendants(process.pid):
        for pid in (process.pid, *family):  # parents first, so that nobody is started again
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if process.poll() is not None:
            break
    process.kill()
    process.wait(30)
    deadline = time.monotonic() + 30
    while folder and (left := [pid for pid, words in command_lines().items() if folder in words]):
        assert time.monotonic() < deadline, f"left running: {left}"
        time.sleep(0.2)


def descendants(pid: int) -> list[int]:
    """Children and their children, nearest first."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    family = [pid]
    for parent in family:
        family += [child for child, its in parents.items() if its == parent]
    return family[1:]


def command_lines() -> dict[int, str]:
    """Of every process that has one: those that have ended do not, even if nobody has waited for them yet."""
    lines = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines[int(entry.parent.name)] = entry.read_text()
    return {pid: words for pid, words in lines.items() if words}

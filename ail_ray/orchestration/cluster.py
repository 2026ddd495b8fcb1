"""The cluster a sweep runs on: the one it was submitted to, or a Ray of our own on this machine's loopback."""

import logging
import os
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from upath import UPath

from ail_ray.errors import ConfigError, one_line
from ail_ray.files import is_local, write_bytes
from ail_ray.orchestration.placement import NODE_TIMEOUT, Placement

T = TypeVar("T")
SOON = 15.0  # seconds: a node that is there has answered by then
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ  # set by `ray job submit` for its entrypoint


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS, else start a Ray that ends with this block.

    A Ray of our own listens on the loopback only (see __init__.py) and asks for its token, as Ray does by default.
    """
    if ray.is_initialized():
        yield
        return
    if address := os.environ.get("RAY_ADDRESS"):
        told = {"env_vars": {"RAY_API_SERVER_ADDRESS": address}}  # why: see start_own
        try:
            _init(runtime_env=told)
        except (ValueError, ConnectionError, RuntimeError) as error:
            why = one_line(error)
            raise ConfigError([f"RAY_ADDRESS={address}: no cluster to connect to from here ({why})"]) from error
    else:
        start_own()
    try:
        yield
    finally:
        ray.shutdown()


def start_own(**options: Any) -> None:
    """Start a Ray on this machine's loopback; `options` are those of `ray.init`.

    Its processes are told where the dashboard is: Ray Train asks it whether the trial of a worker group still lives,
    and where several Rays run on a machine it gives up asking, and the group's resources with it.

    Raises:
        ConfigError: it did not start in time, twice: Ray gives itself 30 seconds, which a busy machine may not have.
    """
    try:
        _start(**options)
    except Exception as error:
        if "timed out during startup" not in str(error):
            raise
        ray.shutdown()
        try:
            _start(**options)
        except Exception as again:
            raise ConfigError([f"Ray did not start, twice ({again}); try when the machine is less busy"]) from again


def _start(**options: Any) -> None:
    port = _free_port()
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")  # trials are several processes each
    _init(
        address="local",
        _node_ip_address="127.0.0.1",
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        include_dashboard=True,  # without it, trials that a scheduler stops keep their placement groups
        **options,
    )


def _init(**options: Any) -> None:
    """Connect to Ray, or start one, quietly; SIGTERM remains ours.

    Ray's own handlers, of which it sets two in Python and one in C++, would write a stack into the log and end the
    process before it has recorded anything.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _free_port() -> int:
    """One that the kernel gives out anew each time: two commands that start together must not settle on the same."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def concurrency(placement: Placement, max_workers: int | None) -> int:
    """How many trials may run at once: as many as the workers that the cluster has, or can grow to, suffice for.

    Raises:
        ConfigError: not even one.
    """
    p = placement
    if max_workers is not None:
        if max_workers < p.fewest:
            raise ConfigError([f"a trial was begun with {p.fewest} workers, max-workers is {max_workers}"])
        return max(1, max_workers // p.most)
    there = ray.cluster_resources()
    workers = min(int(there.get(kind, 0) // need) for kind, need in p.worker_resources().items())
    if workers < p.fewest:
        needs = " and ".join(f"{need * p.fewest:g} {kind}" for kind, need in p.worker_resources().items())
        has = " and ".join(f"{there.get(kind, 0):g} {kind}" for kind in p.worker_resources())
        raise ConfigError(
            [f"a trial needs {needs}, the cluster has {has}: ask for fewer workers or threads, or, if it can grow, "
             f"say how far with --max-workers"]
        )  # fmt: skip
    return max(1, workers // p.most)


def first_answer(
    function: Callable[..., T], arguments: tuple[Any, ...], placement: Placement, say: Callable[[str], None]
) -> T:
    """Call a function where a worker will be; a cluster that grows may have to bring the node first.

    Raises:
        ConfigError: none came in half an hour, as long as a trial would wait too.
    """
    needs = placement.worker_resources()
    task = ray.remote(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0))(function).remote(*arguments)
    wanted = " and ".join(f"{need:g} {kind}" for kind, need in needs.items())
    if not ray.wait([task], timeout=SOON)[0]:
        say(f"waiting for a node with {wanted} free")
    try:
        answer: T = ray.get(task, timeout=NODE_TIMEOUT)
    except ray.exceptions.GetTimeoutError:
        waited = f"no node with {wanted} free in {NODE_TIMEOUT / 60:.0f} minutes"
        raise ConfigError([f"{waited}: does any have as many, and can the cluster grow?"]) from None
    return answer


def check_shared(folder: UPath) -> None:
    """See that every node there is now reads what this one writes.

    Raises:
        ConfigError: a line for each node that does not.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if not is_local(folder) or len(nodes) == 1:
        return
    probe = folder / f".shared-{uuid.uuid4().hex}"
    write_bytes(probe, b"is this file seen everywhere?")
    try:
        seen = {
            node["NodeManagerAddress"]: ray.remote(num_cpus=0)(_sees)
            .options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False))
            .remote(str(probe))
            for node in nodes
        }
        problems = [
            f"storage {folder}: not the same folder on node {address}; it must be a shared file system or a bucket"
            for address, answer in seen.items()
            if not ray.get(answer)
        ]
    finally:
        probe.unlink()
    if problems:
        raise ConfigError(problems)


def _sees(path: str) -> bool:
    return os.path.exists(path)

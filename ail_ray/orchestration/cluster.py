"""The cluster a sweep runs on: the one it was submitted to, or a Ray of our own on this machine's loopback."""

import logging
import os
import secrets
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import grpc
import ray
from ray._private import ray_constants
from ray._private.grpc_utils import init_grpc_channel
from ray._private.services import canonicalize_bootstrap_address_or_die

from ail_ray.addresses import without_password
from ail_ray.entry import logs_json
from ail_ray.errors import ConfigError, counted, one_line
from ail_ray.machine import cores, memory, whole_memory
from ail_ray.orchestration import NO_CLUSTER, slots
from ail_ray.runs.placement import Placement
from ail_ray.sweeps.sweep import no_gpu

T = TypeVar("T")
ANSWER = 5.0  # seconds in which a head that is there has answered
PRIVATE = f"ail-{os.getuid()}"  # folder of this user's Rays
SOCKET = f"/{PRIVATE}/r/session_2026-11-27_01-29-34_737862_4194304/sockets/plasma_store"
LONGEST_FOLDER = 107 - len(SOCKET)  # bytes, of Linux


@contextmanager
def cluster() -> Iterator[None]:
    """Connect to the cluster named by RAY_ADDRESS, else start a Ray that ends with this block.

    A Ray of our own listens on the loopback only (see __init__.py) and asks for its token, as Ray does by default.
    """
    before = ray.is_initialized()
    if not before:
        start_own() if own_ray() else _join()
    try:
        yield
    finally:
        try:
            slots.close()
        finally:
            if not before:
                ray.shutdown()


def own_ray() -> bool:
    """Whether a sweep starts a Ray of its own, which it does if RAY_ADDRESS names no cluster."""
    return os.environ.get("RAY_ADDRESS", "") in NO_CLUSTER


def cannot_start(placement: Placement) -> list[str]:
    """A line for what keeps trials from running on the cluster named by RAY_ADDRESS, or on a Ray of our own.

    Whether a cluster has GPUs is not asked here: its head often has none, and nodes that have may yet come.
    """
    if ray.is_initialized():
        return []
    if own_ray():
        return no_gpu(placement)
    try:
        _check_answers(os.environ["RAY_ADDRESS"])
    except (ValueError, ConnectionError) as error:
        return [_no_cluster(error)]
    return []


def _join() -> None:
    """Connect to the cluster named by RAY_ADDRESS; ConfigError if there is none."""
    told = {"env_vars": {"RAY_API_SERVER_ADDRESS": os.environ["RAY_ADDRESS"]}}  # why: see start_own
    try:
        _init(runtime_env=told)
    except (ValueError, ConnectionError, RuntimeError, AssertionError) as error:  # the last from Ray before 2.58
        raise ConfigError([_no_cluster(error)]) from error


def _no_cluster(error: Exception) -> str:
    remedy = "name the head's HOST:PORT, or unset it for a Ray of this machine's own"
    line = f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: no cluster to connect to from here ({one_line(error)}); {remedy}"
    return without_password(line)


def _check_answers(address: str) -> None:
    """Make sure that a Ray answers at an address; Ray itself would go on asking for nine minutes.

    Raises:
        ConnectionError: none does; ValueError: it is no address.
    """
    scheme, _, place = address.rpartition("://")
    if scheme in ("", "ray"):  # Ray refuses all others at once
        place = place if scheme else canonicalize_bootstrap_address_or_die(place)
        with init_grpc_channel(place, ray_constants.GLOBAL_GRPC_OPTIONS) as channel:
            try:
                grpc.channel_ready_future(channel).result(timeout=ANSWER)
            except grpc.FutureTimeoutError:
                raise ConnectionError(f"no Ray answered at {place} in {ANSWER:.0f} seconds") from None


def start_own(**options: Any) -> None:
    """Start a Ray on this machine's loopback, as large as this process may be; `options` are those of `ray.init`.

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
    os.environ.pop("RAY_ADDRESS", None)  # `local` is no address to the processes that inherit it
    if not os.access(os.path.expanduser("~"), os.W_OK):  # where Ray would keep its token
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    ray_constants.ENABLE_RAY_CLUSTER = False  # read when Ray was imported, by somebody else perhaps; see __init__.py
    port = _free_port()
    os.environ["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    _shorten()
    own: dict[str, Any] = {"num_cpus": cores()}
    if (limit := memory()) < whole_memory():
        own |= {"_memory": int(0.7 * limit), "object_store_memory": int(0.3 * limit)}  # Ray's own shares
    os.environ.setdefault("RAY_worker_maximum_startup_concurrency", "8")  # trials are several processes each
    with suppress(OSError):  # it is there, or there is no home; Ray would let everybody read its token in it
        os.mkdir(os.path.expanduser("~/.ray"), mode=0o700)
    _init(
        address="local",
        _temp_dir=_private_folder(),
        _node_ip_address="127.0.0.1",
        dashboard_host="127.0.0.1",
        dashboard_port=port,
        include_dashboard=True,  # without it, trials that a scheduler stops keep their placement groups
        **own | options,
    )
    with suppress(OSError):
        os.chmod(os.path.expanduser("~/.ray/auth_token"), 0o600)


def _init(**options: Any) -> None:
    """Connect to Ray, or start one, quietly; SIGTERM remains ours.

    Ray's own handlers, of which it sets two in Python and one in C++, would write a stack into the log and end the
    process before it has recorded anything.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if logs_json():  # workers too
        options["logging_config"] = ray.LoggingConfig(encoding="JSON", log_level="WARNING")
    try:
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _shorten() -> None:
    """Let Ray put its sockets, whose paths must not be long, into /tmp where TMPDIR is too long for them.

    Raises:
        ConfigError: RAY_TMPDIR is too long, or TMPDIR is and /tmp cannot take its place.
    """
    for variable in ("RAY_TMPDIR", "TMPDIR"):  # Ray puts some into the first, and its dashboard others into the second
        folder = os.environ.get(variable, "")
        if len(os.fsencode(folder)) <= LONGEST_FOLDER:
            continue
        if variable == "RAY_TMPDIR" or not os.access("/tmp", os.W_OK):
            problem = f"{variable}={folder}: too long a path for the sockets that Ray puts there"
            raise ConfigError([f"{problem}; set it to a folder whose path has at most {LONGEST_FOLDER} bytes"])
        os.environ[variable] = "/tmp"


def _private_folder() -> str:
    """Where Ray puts logs and sockets, which it opens to everybody: in a folder that only this user may enter."""
    folder = os.path.join(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp", PRIVATE)
    with suppress(FileExistsError):
        os.makedirs(folder, mode=0o700)
    found = os.lstat(folder)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():  # somebody else was here first
        raise ConfigError([f"{folder}: not a folder of yours, in which Ray would put logs and sockets; set RAY_TMPDIR"])
    os.chmod(folder, 0o700)
    return os.path.join(folder, "r")


def _free_port() -> int:
    """A free port, chosen by the kernel, so that two commands that start together do not take the same one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def concurrency(placement: Placement, max_workers: int | None) -> int:
    """How many trials may run at once, with the workers that the cluster has or can grow to.

    Raises:
        ConfigError: there is not room for even one.
    """
    p = placement
    if max_workers is not None:
        if max_workers < p.fewest:
            raise ConfigError([f"a trial was begun with {counted(p.fewest, 'worker')}, max-workers is {max_workers}"])
        return max(1, max_workers // p.most)
    there = ray.cluster_resources()
    workers = min(_room(there.get(kind, 0), need) for kind, need in p.worker_resources().items())
    if workers < p.fewest:
        needs = " and ".join(f"{need * p.fewest:g} {kind}" for kind, need in p.worker_resources().items())
        has = " and ".join(f"{there.get(kind, 0):g} {kind}" for kind in p.worker_resources())
        raise ConfigError(
            [f"a trial needs {needs}, the cluster has {has}: ask for fewer workers or threads, or, if it can grow, "
             f"say how far with --max-workers"]
        )  # fmt: skip
    return max(1, workers // p.most)


def _room(there: float, need: float) -> int:
    """How many workers find what they need; a part of a GPU lies on one of them."""
    return int(there) * int(1 / need + 1e-9) if 0 < need < 1 else int(there // need)

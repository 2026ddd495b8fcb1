"""The process group of a run's workers, which listens where its node is known to the cluster and nowhere else.

Ray Train lets torch open a store that listens on all addresses of the machine, and that whoever reaches it may write
into. Under a Ray of our own every node is 127.0.0.1.
"""

import os
import socket
from datetime import timedelta
from typing import Any

import psutil
import ray
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

_listening: list[socket.socket] = []


class OwnAddress(TorchConfig):
    """Gloo on CPUs and NCCL on GPUs, as Ray Train has them, at the address of each worker's own node."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        kind = "nccl" if worker_group.get_resources_per_worker().get("GPU", 0) > 0 else "gloo"
        worker_group.execute(_set_torch_distributed_env_vars)
        address, port = worker_group.execute_single(0, _listen)
        size = len(worker_group)
        ray.get(
            [
                worker_group.execute_single_async(
                    rank, _join, kind, address, port, rank, size, timedelta(seconds=backend_config.timeout_s)
                )
                for rank in range(size)
            ]
        )


def _listen() -> tuple[str, int]:
    """Open what torch's store will listen on: address and port."""
    address = ray.util.get_node_ip_address()
    _listening.append(socket.create_server((address, 0), family=_family(address)))
    return address, int(_listening[-1].getsockname()[1])


def _join(kind: str, address: str, port: int, rank: int, size: int, timeout: timedelta) -> None:
    """Join the group; its connections go through the interface that has this node's address."""
    interface = _interface(ray.util.get_node_ip_address())
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if interface:
            os.environ.setdefault(variable, interface)
    open_already = {"master_listen_fd": _listening.pop().detach()} if rank == 0 else {}
    store = dist.TCPStore(address, port, size, rank == 0, timeout, **open_already)  # type: ignore[attr-defined, arg-type]
    dist.init_process_group(kind, store=store, rank=rank, world_size=size, timeout=timeout)


def _interface(address: str) -> str | None:
    """The network interface that has an address."""
    found = psutil.net_if_addrs().items()
    return next((name for name, all_of_it in found if any(one.address == address for one in all_of_it)), None)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET

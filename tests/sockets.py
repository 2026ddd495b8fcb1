"""Every socket on which a process and its descendants wait for others, looked for ten times a second."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from socket import SOCK_DGRAM

import psutil

from ail_ray.benchmarks.memory import descendants

PAUSE = 0.1  # seconds


@dataclass(frozen=True, order=True)
class Waiting:
    """A socket that takes connections (TCP), or datagrams from anybody (UDP)."""

    address: str
    kind: str
    pid: int
    name: str
    """Of the process."""


@dataclass
class Watch:
    """What was seen so far."""

    pid: int
    seen: set[Waiting] = field(default_factory=set)
    looks: int = 0

    def look(self) -> None:
        sockets = psutil.net_connections("inet")
        family = {self.pid, *descendants(self.pid)}
        for each in sockets:
            datagrams = each.type == SOCK_DGRAM
            if each.pid in family and not each.raddr and (datagrams or each.status == psutil.CONN_LISTEN):
                address = each.laddr.ip.removeprefix("::ffff:")  # IPv4 in IPv6's clothes
                self.seen.add(Waiting(address, "udp" if datagrams else "tcp", each.pid, _name_of(each.pid)))
        self.looks += 1


def _name_of(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:  # it has just ended
        return "?"


@contextmanager
def watched(pid: int | None = None) -> Iterator[Watch]:
    """Look until the end of the block; by default at this process and what it has started."""
    watch, ended = Watch(pid or os.getpid()), threading.Event()

    def look_on() -> None:
        while not ended.wait(PAUSE):
            watch.look()

    looking = threading.Thread(target=look_on)
    looking.start()
    try:
        yield watch
    finally:
        ended.set()
        looking.join()

"""The lease on a run directory: one job works on a run at a time, on whichever machine."""

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from upath import UPath

from ail_ray.files import FileError, create, is_local, read_json, write_bytes

FORGOTTEN = 600.0  # seconds without renewal, with room for clocks that differ


class LeaseLostError(RuntimeError):
    """Another job has taken the run over: whatever this one was about to write is not its to write any more."""


class Lease:
    """Keeps two jobs off one run: whoever holds it renews a file, and a file that is not renewed any more is free.

    Entering the block waits for the job that holds the run; one whose process has gone from this machine is not
    waited for. Should two jobs ever both believe that they hold a run, the storage refuses the commits of one of them.
    """

    RENEWED, DEAD = 10.0, 45.0  # seconds

    def __init__(self, directory: UPath) -> None:
        self.path = directory / "lease.json"
        self.holder = uuid.uuid4().hex
        self._left = threading.Event()

    def held_by(self) -> str | None:
        """The holder now, None if there is none."""
        return (self._content() or {}).get("holder")

    def worker(self) -> str | None:
        """Process and machine of the holder in words; None if there is no holder, or its process has gone."""
        content = self._content()
        if not content or _gone(content) or _forgotten(content):
            return None
        return f"process {content.get('pid')} on {content.get('host')}"

    def __enter__(self) -> "Lease":
        seen, since = None, time.monotonic()
        while True:
            content = self._content()
            if content != seen:
                seen, since = content, time.monotonic()
            written = False
            if content is None:
                written = create(self.path, self._mine())
                if written and is_local(self.path):
                    break
            elif _gone(content) or time.monotonic() - since > self.DEAD:
                write_bytes(self.path, self._mine())
                written = True
            if written:
                time.sleep(0.5)  # another may just have done the same: the last one holds
                if self.held_by() == self.holder:
                    break
            time.sleep(0.2)
        self._renewal = threading.Thread(target=self._renew, daemon=True)
        self._renewal.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._renewal.join()
        if self.held_by() == self.holder:
            self.path.unlink(missing_ok=True)

    def _content(self) -> dict[str, Any] | None:
        if not self.path.exists():
            return None
        try:
            content = read_json(self.path)
        except FileError:
            content = None
        return content if isinstance(content, dict) else {}  # damaged: as good as one that nobody renews

    def _mine(self) -> bytes:
        mine = {"holder": self.holder, "renewed": time.time(), "pid": os.getpid(), **(_process(os.getpid()) or {})}
        return json.dumps(mine).encode()

    def _renew(self) -> None:
        while not self._left.wait(self.RENEWED):
            with suppress(Exception):  # whatever an object store's library raises; the next renewal may do
                if self.held_by() != self.holder:
                    return
                write_bytes(self.path, self._mine())


def _process(pid: int) -> dict[str, str] | None:
    """What is known to tell a process from any other with its number, here or elsewhere; None if it has gone."""
    if pid <= 0:
        return None
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:  # somebody else's, of whom /proc may tell nothing
        pass
    try:
        started = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode()
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes().decode().strip()
        space = f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # it has just ended, or is hidden, or there is no /proc at all
        return {"host": socket.gethostname()}
    return {"host": socket.gethostname(), "space": space, "started": started}


def _forgotten(content: dict[str, Any]) -> bool:
    """Whether a lease from another machine was not renewed for minutes by its clock: that machine may be dead."""
    here, renewed = _process(os.getpid()) or {}, content.get("renewed")
    if content.get("space") == here.get("space"):
        return False
    return not isinstance(renewed, float) or time.time() - renewed > FORGOTTEN


def _gone(content: dict[str, Any]) -> bool:
    """Whether the process that wrote a lease ran on this machine and does not any more."""
    here, pid = _process(os.getpid()) or {}, content.get("pid")
    if "space" not in here or content.get("space") != here["space"] or type(pid) is not int:
        return False
    found = _process(pid)
    return found is None or found.get("started", content.get("started")) != content.get("started")

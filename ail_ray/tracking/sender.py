"""MLflow in a thread of its own: one that is slow or gone holds up no sweep, and no signal interrupts a transaction."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from ail_ray.entry import leave_threads_behind
from ail_ray.errors import Interrupted

Made = TypeVar("Made")

START, PATIENCE, STOP = 60.0, 30.0, 10.0
"""Seconds that a sweep waits for MLflow: at its start each time, at its end in all, and when it is stopped."""
TICK = 0.1  # seconds


class Sender:
    """Makes calls in their order. Of calls that wait under the same name only the latest is made."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._calls: dict[str, Callable[[], object]] = {}
        self._busy, self._ours = False, False
        self._changed = threading.Condition()
        threading.Thread(target=self._work, name="MLflow", daemon=True).start()

    def send(self, name: str, call: Callable[[], object]) -> None:
        """Have a call made, which is to handle its own errors, and go on."""
        with self._changed:
            self._calls[name] = call
            self._changed.notify_all()

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until all calls are made; whether they are.

        Args:
            seconds: how long at most; by default as long as there is patience left for the end of the sweep.
        """
        left = self._patience if seconds is None else seconds
        with self._changed:
            while (self._busy or self._calls) and left > 0:
                begun, ours = time.monotonic(), self._ours
                self._changed.wait(TICK)
                left -= 0 if ours else time.monotonic() - begun
            if seconds is None:
                self._patience = left
            made = not (self._busy or self._calls)
        if not made:
            leave_threads_behind()
        return made

    def answer(self, call: Callable[[], Made]) -> Made:
        """What a call returns or raises.

        Raises:
            TimeoutError: MLflow did not answer.
        """
        made, failed = list[Made](), list[Exception]()

        def answered() -> None:
            try:
                made.append(call())
            except Exception as error:  # whatever client, database driver or HTTP library raises
                failed.append(error)

        self.send(f"answer {id(made)}", answered)
        if not self.settle(START):
            raise TimeoutError(f"no answer within {START:.0f} seconds")
        if failed:
            raise failed[0]
        return made[0]

    @contextmanager
    def own_work(self) -> Iterator[None]:
        """For a call that works without MLflow: that is not what a sweep has little patience with."""
        self._ours = True
        try:
            yield
        finally:
            self._ours = False

    def _work(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._calls)
                call = self._calls.pop(next(iter(self._calls)))
                self._busy = True
            with suppress(Exception, Interrupted):  # nobody reads its line: the sweep finds out by itself
                call()

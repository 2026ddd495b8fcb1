"""What a slot is asked to do, in order, and what came of it; an actor between whoever asks and the workers.

It imports nothing but asyncio, and what it is given is bytes that it need not understand, so that its process is there
at once and takes little memory.
"""

import asyncio
from typing import Any

IDLE = 30.0  # seconds without work after which a slot ends, so that its node can go


class Inbox:
    """Assignments of one slot by number, from 0; workers take each of them, and the first worker says how it ended."""

    def __init__(self, idle: float = IDLE) -> None:
        """
        Args:
            idle: seconds without work after which it is closed.
        """
        self.idle, self.closed = idle, False
        self._given: list[Any] = []
        self._ended: list[str] = []
        self._abandoned = set[int]()
        self._changed = asyncio.Condition()

    async def put(self, assignment: Any) -> int | None:
        """Give the workers an assignment; returns its number, or None if they have ended."""
        if self.closed:
            return None
        self._given.append(assignment)
        await self._notify()
        return len(self._given) - 1

    async def take(self, number: int) -> Any:
        """An assignment by its number, as soon as it is given; None if there will be no such."""
        while len(self._given) <= number and not self.closed:
            idle = len(self._ended) >= number  # else others of the group still work
            try:
                async with self._changed:
                    await asyncio.wait_for(self._changed.wait(), self.idle)
            except TimeoutError:
                if idle and len(self._given) <= number:
                    await self.close()
        return self._given[number] if number < len(self._given) else None

    async def end(self, number: int, failure: str) -> None:
        """The workers have done an assignment, or have failed at it; asked again, nothing happens."""
        if len(self._ended) == number:
            self._ended.append(failure)
            self._given[number] = None  # what it carries is not needed any more
            await self._notify()

    async def ended(self, number: int) -> str:
        """Wait for the end of an assignment; returns why it failed, empty if it did not."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._ended) > number)
        return self._ended[number]

    async def abandon(self, number: int) -> None:
        """Nobody wants the result of an assignment any more."""
        self._abandoned.add(number)

    async def wanted(self, number: int) -> bool:
        """Whether somebody still wants its result."""
        return number not in self._abandoned

    async def close(self) -> None:
        """Let the workers end when they have done what they were given."""
        self.closed = True
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

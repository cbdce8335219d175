# unasync: skip
"""Work beside the caller, and the signals between the two: tasks here, threads on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class Signal:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wake everybody who waits, and the next one who does."""
        self._event.set()

    async def wait(self, timeout: float | None) -> None:
        """Return once it was given since the last wait, or after ``timeout`` seconds (None: never)."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout)
        except TimeoutError:
            return
        self._event.clear()


class Worker:
    """A call that runs beside the caller, from ``start`` to its own end."""

    def __init__(self, work: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._work = work
        self._name = name
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._work(), name=self._name)

    async def join(self) -> None:
        """Wait until it has ended; the work itself sees to it that this is soon."""
        if self._task is not None:
            await asyncio.shield(self._task)

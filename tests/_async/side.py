# unasync: skip
"""How a test runs calls at the same time: as tasks here, as threads on the other side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

ASYNC = True
sleep = asyncio.sleep


async def together(*calls: Callable[[], Coroutine[Any, Any, Any]]) -> list[Any]:
    """Run the calls at the same time and return their results in order; an exception is a result too."""
    return await asyncio.gather(*[call() for call in calls], return_exceptions=True)


async def elsewhere(call: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Return the result of a call made by another task."""
    return await asyncio.create_task(call())


class Started:
    """A call that runs while the test goes on."""

    def __init__(self, call: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._task = asyncio.create_task(call())

    async def result(self, timeout: float = 20) -> Any:
        """Return its result, or raise its exception."""
        return await asyncio.wait_for(self._task, timeout)

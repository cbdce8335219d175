# unasync: skip
"""How a test runs calls at the same time: as threads here, as tasks on the other side."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ASYNC = False
sleep = time.sleep


def together(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at the same time and return their results in order; an exception is a result too."""
    with ThreadPoolExecutor(len(calls)) as executor:
        futures = [executor.submit(call) for call in calls]
        return [future.exception() or future.result() for future in futures]


def elsewhere(call: Callable[[], Any]) -> Any:
    """Return the result of a call made by another thread."""
    with ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result()


class Started:
    """A call that runs while the test goes on."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._future = self._executor.submit(call)
        self._executor.shutdown(wait=False)

    def result(self, timeout: float = 20) -> Any:
        """Return its result, or raise its exception."""
        return self._future.result(timeout)

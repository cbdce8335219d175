"""What is remembered of how many documents pass a filter, so that the server is asked once and not at each search."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from time import monotonic

KEPT = 1024
FRESH_SECONDS = 30.0
"""An estimate that is out of date costs time, never results: it only chooses between two ways to the same answer."""


class Estimates:
    """Numbers by key, the latest ``KEPT`` of them, each for ``FRESH_SECONDS``; for any thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._found: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def get(self, key: Hashable) -> float | None:
        """Return what is remembered, None when it is nothing or too old."""
        with self._lock:
            entry = self._found.get(key)
            if entry is None or entry[1] < monotonic():
                return None
            self._found.move_to_end(key)
            return entry[0]

    def put(self, key: Hashable, rows: float) -> None:
        """Remember a number."""
        with self._lock:
            self._found[key] = rows, monotonic() + FRESH_SECONDS
            self._found.move_to_end(key)
            while len(self._found) > KEPT:
                self._found.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._found.clear()

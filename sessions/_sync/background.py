# unasync: skip
"""Work beside the caller, and the signals between the two: threads here, tasks on the other side."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Signal:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def give(self) -> None:
        """Wake everybody who waits, and the next one who does."""
        self._event.set()

    def wait(self, timeout: float | None) -> None:
        """Return once it was given since the last wait, or after ``timeout`` seconds (None: never)."""
        if self._event.wait(timeout):
            self._event.clear()


class Worker:
    """A call that runs beside the caller, from ``start`` to its own end."""

    def __init__(self, work: Callable[[], None], name: str) -> None:
        self._thread = threading.Thread(target=work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self) -> None:
        """Wait until it has ended; the work itself sees to it that this is soon."""
        if self._thread.ident is not None:
            self._thread.join()

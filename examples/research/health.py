"""Watches the health of a manager's connections in the background."""

from __future__ import annotations

from threading import Event, Thread
from time import perf_counter
from types import TracebackType
from typing import Self

from persistence import DatabaseManager, HealthStatus


class HealthWatch:
    """Polls every ``interval`` seconds while its ``with`` block runs, and remembers each change.

    ``last`` is the status of each connection, ``changes`` the statuses that differed from the one before,
    ``seconds`` what each poll of all connections took.
    """

    def __init__(self, manager: DatabaseManager, interval: float = 0.05) -> None:
        self.last: dict[str, HealthStatus] = {}
        self.changes: list[HealthStatus] = []
        self.seconds: list[float] = []
        self._manager = manager
        self._interval = interval
        self._stop = Event()
        self._thread = Thread(target=self._run, name="health")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            started = perf_counter()
            statuses = self._manager.health_check()
            self.seconds.append(perf_counter() - started)
            for name, status in statuses.items():
                if name not in self.last or self.last[name].healthy != status.healthy:
                    self.changes.append(status)
            self.last = statuses
            if self._stop.wait(self._interval):
                return

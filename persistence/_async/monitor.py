"""Polls the health of a manager's connections again and again, and tells what changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from persistence._async.compat import check_callback, finish
from persistence._async.manager import AsyncDatabaseManager, check_manager
from persistence._async.recurring import GRACE, AsyncRecurring
from persistence.fields import Duration
from persistence.health import HealthChange, HealthHistory, HealthStatus
from persistence.validation import check_duration, check_whole, shown

_log = logging.getLogger("persistence.health")


class AsyncHealthMonitor(AsyncRecurring):
    """Polls every connection of a manager from ``start`` until ``stop``, at once and then each ``interval`` seconds.

    ``on_change`` (on the async side a coroutine function too) is called for each connection that falls ill or gets well
    again, one change after the other; the next poll waits for it. What it raises is logged (``persistence.health``),
    and polling goes on. A connection is ill after ``failures`` failed polls in a row. Changes are logged too, without
    secrets.
    """

    def __init__(
        self,
        manager: AsyncDatabaseManager,
        *,
        interval: Duration = 30.0,
        timeout: Duration = 2.0,
        failures: int = 1,
        on_change: Callable[[HealthChange], Any] | None = None,
        grace: Duration = GRACE,
    ) -> None:
        """``timeout`` bounds a poll, and ``grace`` is how many seconds ``stop`` waits for it and for ``on_change``."""
        super().__init__("health monitor", grace)
        check_manager(manager)
        self._manager = manager
        self._interval = check_duration("interval", interval)
        self._timeout = check_duration("timeout", timeout)
        self._history = HealthHistory(check_whole("failures", failures))
        if on_change is not None:
            check_callback("on_change", on_change)
        self._on_change = on_change
        self._statuses: dict[str, HealthStatus] = {}
        self._telling: str | None = None

    @property
    def statuses(self) -> dict[str, HealthStatus]:
        """What the last poll found, by name; empty before the first."""
        return dict(self._statuses)

    def _under_way(self) -> str:
        return "a poll" if self._telling is None else f"on_change of {shown(self._telling)}"

    async def _turn(self) -> float:
        await self.poll()
        return self._interval

    async def poll(self) -> dict[str, HealthStatus]:
        """Poll once, now, tell what changed, and return the status of each connection.

        Raises:
            ClosedError: the manager was closed.
        """
        self._telling = None
        self._statuses = await self._manager.health_check(timeout=self._timeout)
        for change in self._history.changes(self._statuses):
            if change.healthy:
                _log.info("%s is well again after %.1f s", change.name, change.outage)
            else:
                _log.warning("%s is ill: %s", change.name, change.status.error)
            if self._on_change is not None:
                self._telling = change.name
                try:
                    await finish("on_change", self._on_change(change))
                except Exception:
                    _log.exception("on_change failed for %s", change.name)
        return self.statuses

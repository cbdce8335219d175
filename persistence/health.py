"""What a health poll and the statistics of a connection report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class PoolStats:
    """The state of one connection's pool, in the manner of Go's ``sql.DBStats``.

    ``requests`` and ``errors`` count operations since the pool was opened; ``waits`` how many had to wait for a
    connection, ``wait_seconds`` for how long together; ``opened`` and ``discarded`` count connections. ``dedicated``
    counts those outside the pool, one for each open subscription.
    """

    open: int
    in_use: int
    idle: int
    waiting: int
    max_open: int
    max_idle: int
    requests: int = 0
    errors: int = 0
    waits: int = 0
    wait_seconds: float = 0.0
    opened: int = 0
    discarded: int = 0
    dedicated: int = 0


@dataclass(frozen=True, slots=True)
class HealthStatus:
    """One connection's answer to a health poll; truthy when healthy.

    ``latency`` is in seconds, up to the failure where there was one. ``error`` says what is wrong, without secrets.
    ``replicas`` are those of a PostgreSQL server, each healthy while it is read from; ``lag`` is such a one's, in
    seconds, None where it isn't known. A replica that is ill makes its primary no worse.
    """

    name: str
    kind: str
    healthy: bool
    latency: float
    checked_at: datetime
    error: str | None = None
    server_version: str | None = None
    pool: PoolStats | None = None
    lag: float | None = None
    replicas: tuple[HealthStatus, ...] = ()

    def __bool__(self) -> bool:
        return self.healthy


@dataclass(frozen=True, slots=True)
class HealthChange:
    """A connection that fell ill or got well again.

    ``outage`` is how long it was ill, in seconds from its first failed poll; None while it is ill. ``failing`` names
    every connection that is ill now, in the order of registration.
    """

    status: HealthStatus
    failing: tuple[str, ...]
    outage: float | None = None

    @property
    def name(self) -> str:
        """The connection's name."""
        return self.status.name

    @property
    def healthy(self) -> bool:
        """Whether it is well now."""
        return self.status.healthy


class HealthHistory:
    """What polls have shown: who is ill since when, and which polls are changes.

    A connection is ill after ``failures`` failed polls in a row, and well after one that succeeds.
    """

    def __init__(self, failures: int) -> None:
        self._needed = failures
        self._failed: dict[str, tuple[int, datetime]] = {}
        self._ill: dict[str, datetime] = {}

    def changes(self, statuses: Mapping[str, HealthStatus]) -> list[HealthChange]:
        """Return what a poll changes, in its order; a connection that is registered no more is forgotten."""
        for gone in [name for name in self._failed if name not in statuses]:
            del self._failed[gone]
            self._ill.pop(gone, None)
        found: list[tuple[HealthStatus, float | None]] = []
        for name, status in statuses.items():
            if status:
                self._failed.pop(name, None)
                since = self._ill.pop(name, None)
                if since is not None:
                    found.append((status, (status.checked_at - since).total_seconds()))
                continue
            count, first = self._failed.get(name, (0, status.checked_at))
            self._failed[name] = (count + 1, first)
            if count + 1 == self._needed:
                self._ill[name] = first
                found.append((status, None))
        failing = tuple(name for name in statuses if name in self._ill)
        return [HealthChange(status, failing, outage) for status, outage in found]

"""What a health poll and the statistics of a connection report."""

from __future__ import annotations

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

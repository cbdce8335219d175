"""Metrics for Prometheus (extra ``metrics``): statements by connection and operation, and the state of the pools.

A statement that ends costs one append to a list; it is counted when Prometheus asks, or when ``DRAIN`` of them wait.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Any, Protocol

from persistence.errors import ValidationError
from persistence.extras import extra
from persistence.health import PoolStats
from persistence.observing import Listener, StatementEvent

with extra("metrics"):
    from prometheus_client import REGISTRY, CollectorRegistry
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The upper bounds of the histogram, in seconds."""
DRAIN = 10_000

_POOL = (
    ("open", "Connections that are open."),
    ("in_use", "Connections in use."),
    ("idle", "Connections that wait for use."),
    ("waiting", "Calls that wait for a connection."),
    ("max_open", "How many connections may be open."),
)
_POOL_TOTALS = (
    ("waits", "Calls that had to wait for a connection."),
    ("wait_seconds", "How long calls waited for connections."),
    ("opened", "Connections that were opened."),
    ("discarded", "Connections that were discarded."),
    ("errors", "Operations that failed."),
)


class Watched(Protocol):
    """What is measured: a ``DatabaseManager`` or its async twin."""

    on_statement: list[Listener]

    def stats(self) -> Mapping[str, PoolStats]:
        """Return the state of each connection's pool by name."""


class _Sums:
    """One series of the histogram."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.total = 0.0


class PrometheusMetrics:
    """Measures a manager from now until ``close``, in a registry (left out: prometheus_client's own).

    ``holdfast_statement_seconds`` is a histogram by connection, operation and outcome (``ok``, or the error's class);
    each pool has ``holdfast_pool_…``. No label holds a statement's text or a value.

    Raises:
        ValidationError: the registry measures a manager under this prefix already.
    """

    def __init__(
        self, manager: Watched, *, registry: CollectorRegistry | None = None, prefix: str = "holdfast"
    ) -> None:
        self._manager = manager
        self._registry = REGISTRY if registry is None else registry
        self._prefix = prefix
        self._ended: deque[tuple[str, str, str, float]] = deque()
        self._guard = Lock()
        self._sums: dict[tuple[str, str, str], _Sums] = {}
        try:
            self._registry.register(self)
        except ValueError as exc:
            raise ValidationError(
                f"a manager is measured as {prefix!r} already", hint="close() the other, or give a prefix"
            ) from exc
        manager.on_statement.append(self._note)

    def close(self) -> None:
        """Measure no more, and leave the registry; safe to call twice."""
        if self._note in self._manager.on_statement:
            self._manager.on_statement.remove(self._note)
            self._registry.unregister(self)

    def _note(self, event: StatementEvent) -> None:
        error = event.error
        outcome = "ok" if error is None else type(error).__name__
        self._ended.append((event.connection, event.operation, outcome, event.seconds))
        if len(self._ended) > DRAIN:
            self._drain()

    def _drain(self) -> None:
        with self._guard:
            while self._ended:
                connection, operation, outcome, seconds = self._ended.popleft()
                key = (connection, operation, outcome)
                sums = self._sums.get(key)
                if sums is None:
                    sums = self._sums[key] = _Sums()
                sums.buckets[bisect_left(BUCKETS, seconds)] += 1
                sums.total += seconds

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples, so that a registry can tell that names are taken."""
        return [self._histogram(), *self._pool_families({})]

    def collect(self) -> Iterable[Metric]:
        """Return what there is now; the registry's call."""
        self._drain()
        family = self._histogram()
        with self._guard:
            for key, sums in sorted(self._sums.items()):
                count, buckets = 0, []
                for bound, number in zip((*map(str, BUCKETS), "+Inf"), sums.buckets, strict=True):
                    count += number
                    buckets.append((bound, count))
                family.add_metric(list(key), buckets, sums.total)
        yield family
        yield from self._pool_families(self._manager.stats())

    def _histogram(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(
            f"{self._prefix}_statement_seconds",
            "Statements, batches and Redis commands, the wait for a connection included.",
            labels=["connection", "operation", "outcome"],
        )

    def _pool_families(self, stats: Mapping[str, PoolStats]) -> Iterable[Metric]:
        for kind, fields in ((GaugeMetricFamily, _POOL), (CounterMetricFamily, _POOL_TOTALS)):
            for name, text in fields:
                family: Any = kind(f"{self._prefix}_pool_{name}", text, labels=["connection"])
                for connection, pool in stats.items():
                    family.add_metric([connection], getattr(pool, name))
                yield family

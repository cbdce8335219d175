"""Spans and a histogram for OpenTelemetry (extra ``opentelemetry``), by its semantic conventions for databases.

A span covers one statement, batch or Redis command, under the span that its caller is in. The text of a statement is
recorded, as it holds no values: parameters are sent apart from it.
"""

from __future__ import annotations

from time import time_ns
from typing import Protocol

from persistence.dialect import compile_statement
from persistence.extras import extra
from persistence.observing import Listener, StatementEvent

with extra("opentelemetry"):
    from opentelemetry import metrics, trace
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

# What statements are: https://opentelemetry.io/docs/specs/semconv/database/ (stable since 1.33).
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)


class Traced(Protocol):
    """What is observed: a ``DatabaseManager`` or its async twin."""

    on_statement: list[Listener]


class OpenTelemetryObserver:
    """Makes a span of every statement of a manager and measures it, from now until ``close``.

    Spans have ``db.system.name``, ``db.namespace`` (the connection's name here), ``db.operation.name``,
    ``db.query.text``, ``db.response.returned_rows``, and where it failed ``error.type`` and
    ``db.response.status_code``. The histogram is ``db.client.operation.duration``. Providers left out are the global
    ones.
    """

    def __init__(
        self,
        manager: Traced,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._manager = manager
        self._tracer = trace.get_tracer("holdfast", tracer_provider=tracer_provider)
        self._duration = metrics.get_meter("holdfast", meter_provider=meter_provider).create_histogram(
            "db.client.operation.duration",
            unit="s",
            description="Duration of database client operations.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        manager.on_statement.append(self._note)

    def close(self) -> None:
        """Observe no more; safe to call twice."""
        if self._note in self._manager.on_statement:
            self._manager.on_statement.remove(self._note)

    def _note(self, event: StatementEvent) -> None:
        attributes: dict[str, str | int] = {
            "db.system.name": "postgresql" if event.kind == "pgvector" else event.kind,
            "db.namespace": event.connection,
            "db.operation.name": _operation(event),
        }
        error = event.error
        if error is not None:
            attributes["error.type"] = type(error).__name__
            code = getattr(error, "code", None)
            if code is not None:
                attributes["db.response.status_code"] = str(code)
        self._duration.record(event.seconds, attributes)
        end = time_ns()
        span = self._tracer.start_span(
            f"{attributes['db.operation.name']} {event.connection}",
            kind=SpanKind.CLIENT,
            start_time=end - int(event.seconds * 1e9),
            attributes={**attributes, "db.query.text": event.statement, "holdfast.operation": event.operation},
        )
        if event.rows is not None:
            span.set_attribute("db.response.returned_rows", event.rows)
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))
        span.end(end)


def _operation(event: StatementEvent) -> str:
    """Return the verb of a statement, or the name of a Redis command."""
    if event.operation == "fetch_batch":
        return "BATCH"
    if event.kind == "redis":
        return event.operation.upper()
    return compile_statement(event.statement, "sqlite" if event.kind == "sqlite" else "postgresql").verb

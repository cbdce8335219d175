"""Metrics and spans of real statements: what Prometheus reads, and what OpenTelemetry's own exporters get."""

from __future__ import annotations

import json
import re
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest

from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    PostgreSQLConfig,
    QueryError,
    RedisConfig,
    ValidationError,
)
from persistence.opentelemetry import OpenTelemetryObserver
from persistence.prometheus import PrometheusMetrics
from tests.unasync import ROOT


def samples(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Return the samples of a name by the values of their labels."""
    return {
        tuple(sample.labels.values()): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name == name
    }


def test_statements_and_pools_are_counted_exactly(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    registry = CollectorRegistry()
    with DatabaseManager() as manager:
        metrics = PrometheusMetrics(manager, registry=registry)
        main = manager.add_postgresql("main", postgresql_config)
        manager.add_redis("cache", redis_config)
        for _ in range(3):
            assert main.fetch_value("SELECT :secret", {"secret": "s3cret"}) == "s3cret"
        with pytest.raises(QueryError):
            main.execute("SELECT nothing")
        manager.get_redis("cache").client.get("k")
        counts = samples(registry, "holdfast_statement_seconds_count")
        assert counts["main", "fetch_value", "ok"] == 3
        assert counts["main", "execute", "QueryError"] == 1
        assert counts["cache", "GET", "ok"] == 1
        assert samples(registry, "holdfast_pool_open")["main",] == 1
        assert samples(registry, "holdfast_pool_errors_total")["main",] == 1
        text = generate_latest(registry).decode()
        assert (
            'holdfast_statement_seconds_bucket{connection="main",le="+Inf",operation="fetch_value",outcome="ok"} 3.0'
            in text
        )
        assert "s3cret" not in text
        assert "SELECT" not in text
        metrics.close()
        metrics.close()
        main.fetch_value("SELECT 1")
        assert list(registry.collect()) == []
        assert manager.on_statement == []


async def test_the_async_side_is_measured_alike() -> None:
    registry = CollectorRegistry()
    async with AsyncDatabaseManager() as manager:
        PrometheusMetrics(manager, registry=registry, prefix="mine")
        database = await manager.add_sqlite("local", "sqlite://")
        await database.fetch_value("SELECT 1")
        assert samples(registry, "mine_statement_seconds_count")["local", "fetch_value", "ok"] == 1
        with pytest.raises(ValidationError, match="measured as 'mine' already"):
            PrometheusMetrics(manager, registry=registry, prefix="mine")
        assert len(manager.on_statement) == 1


def test_no_count_is_lost_between_threads() -> None:
    registry = CollectorRegistry()
    with DatabaseManager() as manager:
        PrometheusMetrics(manager, registry=registry)
        database = manager.add_sqlite("local", "sqlite://")

        def work() -> None:
            for _ in range(1500):
                database.fetch_value("SELECT 1")

        threads = [Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            samples(registry, "holdfast_statement_seconds_count")
        assert samples(registry, "holdfast_statement_seconds_count")["local", "fetch_value", "ok"] == 12_000


def test_a_span_says_what_was_done_and_hangs_under_the_callers(postgresql_config: PostgreSQLConfig) -> None:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    with DatabaseManager() as manager:
        observer = OpenTelemetryObserver(manager, tracer_provider=tracers, meter_provider=meters)
        main = manager.add_postgresql("main", postgresql_config)
        exporter.clear()
        with tracers.get_tracer("test").start_as_current_span("request") as request:
            main.fetch_all("-- a comment\nSELECT :n AS n", {"n": "s3cret"})
            with pytest.raises(QueryError):
                main.execute("SELECT nothing")
        read, failed, _ = exporter.get_finished_spans()
        assert read.name == "SELECT main"
        assert read.kind is SpanKind.CLIENT
        assert read.parent is not None
        assert read.parent.span_id == request.get_span_context().span_id
        attributes: dict[str, Any] = dict(read.attributes or {})
        assert attributes == {
            "db.system.name": "postgresql",
            "db.namespace": "main",
            "db.operation.name": "SELECT",
            "db.query.text": "-- a comment\nSELECT :n AS n",
            "db.response.returned_rows": 1,
            "holdfast.operation": "fetch_all",
        }
        assert read.end_time is not None
        assert read.start_time is not None
        assert 0 < read.end_time - read.start_time < 10**9
        assert failed.status.status_code is StatusCode.ERROR
        assert (failed.attributes or {})["error.type"] == "QueryError"
        assert (failed.attributes or {})["db.response.status_code"] == "42703"
        observer.close()
        observer.close()
        main.fetch_value("SELECT 1")
        assert len(exporter.get_finished_spans()) == 3
    data = reader.get_metrics_data()
    assert data is not None
    [metric] = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]
    assert metric.name == "db.client.operation.duration"
    points = {dict(point.attributes or {}).get("error.type"): point for point in metric.data.data_points}
    assert points["QueryError"].count == 1  # type: ignore[union-attr]
    assert "s3cret" not in str(data)


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    registry = CollectorRegistry()
    with DatabaseManager() as manager:
        PrometheusMetrics(manager, registry=registry)
        manager.add_sqlite("local", "sqlite://").fetch_value("SELECT 1")
        known = {sample.name for family in registry.collect() for sample in family.samples}
    dashboard = json.loads(Path(ROOT, "docs", "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"holdfast_\w+", target["expr"])
    }
    assert asked
    assert asked <= known

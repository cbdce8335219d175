"""What an event costs next to the plainest INSERT and COPY, and a day's sums among ever more days.

``python -m tests.benchmarks.events [--quick]``. The floor is psycopg alone, on the same table with its partitions and
indexes; beside it a table of the same columns with nothing but its primary key. Everything is durable (fsync), on one
server, timed in turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psycopg
from psycopg.types.json import Jsonb

from persistence import DatabaseManager, EmbeddedPostgreSQL, PostgreSQLConfig
from sessions import Event, EventLog
from tests.benchmarks.measure import in_turns, report

COLUMNS = "tenant_id, at, id, retention, kind, service, name, value, tags"
TAGS = {"model": "small", "agent": "planner", "ok": True}
DAY = timedelta(days=1)
START = datetime(2026, 1, 5, tzinfo=UTC)
INSERT = "INSERT INTO {} (" + COLUMNS + ") VALUES ('default', %s, %s, 'raw', 'metric', 'worker', 'latency', %s, %s)"


class Floor:
    """The plainest code on psycopg: a row an event, in a table that is named."""

    def __init__(self, config: PostgreSQLConfig, table: str) -> None:
        self._numbers = count(1)
        self._table = table
        self.connection = psycopg.connect(**config.connection_parameters(), autocommit=True)

    def append(self) -> None:
        moment = datetime.now(UTC)
        self.connection.execute(INSERT.format(self._table), (moment, next(self._numbers), 0.25, json.dumps(TAGS)))

    def append_many(self, values: list[float]) -> None:
        statement = f"COPY {self._table} ({COLUMNS}) FROM STDIN (FORMAT binary)"
        with self.connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.set_types(["text", "timestamptz", "int8", "text", "text", "text", "text", "float8", "jsonb"])
            for value in values:
                number, tags = next(self._numbers), Jsonb(TAGS)
                copy.write_row(
                    ("default", datetime.now(UTC), number, "raw", "metric", "worker", "latency", value, tags)
                )


def event(value: float) -> Event:
    return Event(kind="metric", name="latency", value=value, service="worker", tags=TAGS)


def appends(config: PostgreSQLConfig, log: EventLog, quick: bool) -> None:
    """Print what one event and many at once cost."""
    rounds, calls = (7, 30) if quick else (15, 60)
    log.append(event(0))
    same = Floor(config, "holdfast_events")
    same.connection.execute(
        "CREATE TABLE bare (LIKE holdfast_events INCLUDING DEFAULTS, PRIMARY KEY (tenant_id, at, id, retention))"
    )
    bare = Floor(config, "bare")
    one: dict[str, Callable[[], Any]] = {
        "floor": same.append,
        "append": lambda: log.append(event(0.25)),
        "INSERT into a table with no index but its key": bare.append,
        "audit": lambda: log.audit("x", tags=TAGS),
    }
    report("append one event, durable", in_turns(one, rounds=rounds, calls=calls), floor="floor", bound=1.3)
    values = [n / 4 for n in range(5000)]
    many: dict[str, Callable[[], Any]] = {
        "floor": partial(same.append_many, values),
        "append_many": lambda: log.append_many([event(value) for value in values]),
        "append_many, of events made before": lambda: log.append_many(made.pop()),
        "COPY into a table with no index but its key": partial(bare.append_many, values),
    }
    times: dict[str, list[float]] = {name: [] for name in many}
    made: list[list[Event]] = []
    for _ in range(15 if quick else 25):
        made.append([event(value) for value in values])
        for name, way in many.items():
            started = perf_counter()
            way()
            times[name].append(perf_counter() - started)
    print("\nappend 5,000 events, rows a second (bound: 0.7 of the floor)")
    best = {name: 5000 / median(found) for name, found in times.items()}
    for name, rate in best.items():
        print(f"  {name:<50} {rate:>10,.0f} /s   x{rate / best['floor']:.2f}")
    for each in (same, bare):
        each.connection.close()


def fill(connection: psycopg.Connection[Any], log: EventLog, first: int, last: int, each: int) -> None:
    """Store ``each`` events on every day from ``first`` to below ``last``, of 20 series, by the server itself."""
    for day in range(first, last):
        log.append(Event(kind="metric", name="n", value=0, time=START + day * DAY))  # makes the partition
    connection.execute(
        "INSERT INTO holdfast_events (tenant_id, at, id, retention, kind, service, name, value) "
        "SELECT 'default', %s + n * INTERVAL '1 microsecond' * %s, n, 'raw', 'metric', 'worker', 'series ' || n %% 20, "
        "n %% 977 FROM generate_series(0::bigint, %s) AS n",
        (START + first * DAY, 86_400_000_000 // each, each * (last - first) - 1),
    )
    for day in range(first, last):
        connection.execute(f"VACUUM ANALYZE holdfast_events_raw_{START + day * DAY:%Y%m%d}")


def windows(config: PostgreSQLConfig, log: EventLog, quick: bool) -> None:
    """Print how long one day's sums by the hour take as the days that are stored grow."""
    each, steps = (50_000, (1, 10)) if quick else (100_000, (1, 10, 40))
    window = {"since": START, "until": START + DAY, "kinds": ["metric"]}
    connection = psycopg.connect(**config.connection_parameters(), autocommit=True)
    print(f"\none day of {each:,} events summed by the hour, as more days are stored (bound: it doesn't grow)")
    done = 0
    for days in steps:
        fill(connection, log, done, days, each)
        done = days
        ways: dict[str, Callable[[], Any]] = {
            "count, avg": lambda: log.aggregate(3600, ["count", "avg"], **window),  # type: ignore[arg-type]
            "by series": lambda: log.aggregate(3600, ["count", "avg", "max"], by="name", **window),  # type: ignore[arg-type]
            "p50, p95, p99": lambda: log.aggregate(3600, ["p50", "p95", "p99"], **window),  # type: ignore[arg-type]
            "query 100 of a series": lambda: log.query(name="series 7", **window),  # type: ignore[arg-type]
            "latest of a series": lambda: log.latest("series 7"),
        }
        for name, way in ways.items():
            times = []
            for _ in range(5):
                started = perf_counter()
                way()
                times.append(perf_counter() - started)
            print(f"  {days:>4} days, {each * days:>12,} events   {name:<24} {median(times) * 1e3:>10.1f} ms")
    connection.close()


def main() -> None:
    """Run everything on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.events")
    parser.add_argument("--quick", action="store_true", help="few rounds, and half a million events instead of four")
    quick = parser.parse_known_args()[0].quick
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgreSQL(folder / "postgresql", settings={"shared_buffers": "512MB"}))
        manager = stack.enter_context(DatabaseManager())
        manager.add_postgresql("main", server.config())
        log = EventLog(manager, "main")
        appends(server.config(), log, quick)
        windows(server.config(), log, quick)


if __name__ == "__main__":
    main()

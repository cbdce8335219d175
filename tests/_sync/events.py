# Generated from ../_async/events.py by tests/unasync.py: edit that one.
"""What the tests of events share: a log on each backend, its second connection, and a day to put events on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from persistence import DatabaseManager, PostgreSQLDatabase, SQLiteDatabase, SQLiteConfig
from sessions import EventLog, Event
from tests._sync.side import sleep

BACKENDS = ("postgresql", "sqlite")
DAY = datetime(2026, 3, 9, tzinfo=UTC)
"""A Monday."""
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def open_log(manager: DatabaseManager, request: pytest.FixtureRequest, folder: Path) -> EventLog:
    """Return the log ``main`` of the backend that the fixture is parametrised by, with a second one, ``elsewhere``."""
    if request.param == "postgresql":
        config = request.getfixturevalue("postgresql_config")
        for name in ("main", "elsewhere"):
            manager.add_postgresql(name, config)
    else:
        for name in ("main", "elsewhere"):
            manager.add_sqlite(name, SQLiteConfig(path=str(folder / "main.db")))
    return EventLog(manager, "main")


def is_postgresql(log: EventLog) -> bool:
    return isinstance(log._manager.get("main"), PostgreSQLDatabase)


def database_of(log: EventLog) -> PostgreSQLDatabase | SQLiteDatabase:
    found = log._manager.get(log._name)
    assert isinstance(found, PostgreSQLDatabase | SQLiteDatabase)
    return found


def metric(value: float, at: datetime = DAY, **more: Any) -> Event:
    return Event(kind="metric", name=more.pop("name", "cpu"), value=value, time=at, **more)


def stored(event: Event) -> dict[str, Any]:
    """Return what of an event is told from any other."""
    return {name: getattr(event, name) for name in ("kind", "name", "value", "time", "retention", "tags", "id")}


def settle(log: EventLog) -> None:
    """Wait until no transaction of another test, which may be on the same server, holds back what is stored by now."""
    database = database_of(log)
    if isinstance(database, SQLiteDatabase):
        return
    last = database.fetch_value("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
    horizon = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
    while database.fetch_value(horizon) <= last:
        sleep(0.005)

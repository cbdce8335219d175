"""What the tests of events share: a log on each backend, its second connection, and a day to put events on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from persistence import AsyncDatabaseManager, AsyncPostgreSQLDatabase, AsyncSQLiteDatabase, SQLiteConfig
from sessions import AsyncEventLog, Event
from tests._async.side import sleep

BACKENDS = ("postgresql", "sqlite")
DAY = datetime(2026, 3, 9, tzinfo=UTC)
"""A Monday."""
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


async def open_log(manager: AsyncDatabaseManager, request: pytest.FixtureRequest, folder: Path) -> AsyncEventLog:
    """Return the log ``main`` of the backend that the fixture is parametrised by, with a second one, ``elsewhere``."""
    if request.param == "postgresql":
        config = request.getfixturevalue("postgresql_config")
        for name in ("main", "elsewhere"):
            await manager.add_postgresql(name, config)
    else:
        for name in ("main", "elsewhere"):
            await manager.add_sqlite(name, SQLiteConfig(path=str(folder / "main.db")))
    return AsyncEventLog(manager, "main")


def is_postgresql(log: AsyncEventLog) -> bool:
    return isinstance(log._manager.get("main"), AsyncPostgreSQLDatabase)


def database_of(log: AsyncEventLog) -> AsyncPostgreSQLDatabase | AsyncSQLiteDatabase:
    found = log._manager.get(log._name)
    assert isinstance(found, AsyncPostgreSQLDatabase | AsyncSQLiteDatabase)
    return found


def metric(value: float, at: datetime = DAY, **more: Any) -> Event:
    return Event(kind="metric", name=more.pop("name", "cpu"), value=value, time=at, **more)


def stored(event: Event) -> dict[str, Any]:
    """Return what of an event is told from any other."""
    return {name: getattr(event, name) for name in ("kind", "name", "value", "time", "retention", "tags", "id")}


async def settle(log: AsyncEventLog) -> None:
    """Wait until no transaction of another test, which may be on the same server, holds back what is stored by now."""
    database = database_of(log)
    if isinstance(database, AsyncSQLiteDatabase):
        return
    last = await database.fetch_value("SELECT CAST(CAST(pg_current_xact_id() AS text) AS bigint)")
    horizon = "SELECT CAST(CAST(pg_snapshot_xmin(pg_current_snapshot()) AS text) AS bigint)"
    while await database.fetch_value(horizon) <= last:
        await sleep(0.005)

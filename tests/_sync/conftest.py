# Generated from ../_async/conftest.py by tests/unasync.py: edit that one.
"""A manager for each test, and the SQL databases and the checkpointers that a contract runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest

from checkpoint import Checkpointer, DatabaseCheckpointer, MemoryCheckpointer
from persistence import Database, DatabaseManager, SQLiteConfig

SQL_BACKENDS = ("postgresql", "sqlite", "memory")


@pytest.fixture
def manager() -> Iterator[DatabaseManager]:
    """A manager, closed at the end of the test."""
    with DatabaseManager() as made:
        yield made


@pytest.fixture(params=SQL_BACKENDS)
def database(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> Database:
    """The connection ``main`` of the manager: PostgreSQL, a SQLite file, or SQLite in memory."""
    if request.param == "postgresql":
        return manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
    return manager.add_sqlite("main", SQLiteConfig(path=path))


@pytest.fixture(params=("process", *SQL_BACKENDS, "redis"))
def checkpointer(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> Checkpointer:
    """An empty checkpointer: in the process, on PostgreSQL, on a SQLite file, on SQLite in memory, on Redis."""
    if request.param == "process":
        return MemoryCheckpointer()
    if request.param == "redis":
        manager.add_redis("main", request.getfixturevalue("redis_config"))
    elif request.param == "postgresql":
        manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
    else:
        path = ":memory:" if request.param == "memory" else str(tmp_path / "main.db")
        manager.add_sqlite("main", SQLiteConfig(path=path))
    return DatabaseCheckpointer(manager, "main")


@pytest.fixture
def stored(manager: DatabaseManager, database: Database) -> DatabaseCheckpointer:
    """A checkpointer on the connection ``main``, its tables made."""
    checkpointer = DatabaseCheckpointer(manager, "main")
    checkpointer.latest("t")
    return checkpointer

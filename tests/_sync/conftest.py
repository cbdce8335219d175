# Generated from ../_async/conftest.py by tests/unasync.py: edit that one.
"""A manager for each test, and the SQL databases that a contract runs on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest

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

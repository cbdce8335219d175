# Generated from ../_async/store.py by tests/unasync.py: edit that one.
"""What the stores of this package share: their tables, and the tenant and time that each of their statements takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from persistence import Database, SQLStore, MigrationLine, Row
from persistence.dialect import Dialect
from persistence.queries import load_queries

R = TypeVar("R")


class SessionsStore(SQLStore):
    """A store on the tables of this package."""

    line = MigrationLine.of_package("sessions")

    def _prepared(self, database: Database, name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return a statement and its parameters; PostgreSQL reads its own clock, SQLite is given ours."""
        sql: str = getattr(load_queries("sessions", database.kind), name)
        clock = {} if database.kind == "postgresql" else {"now": datetime.now(UTC)}
        return sql, {"tenant": self._tenant, **clock, **values}

    def _read_one(self, build: Callable[[Row, Dialect], R], name: str, values: dict[str, Any]) -> R | None:
        database = self._database()
        row = database.fetch_one(*self._prepared(database, name, values))
        return None if row is None else build(row, database.dialect)

    def _read_all(self, build: Callable[[Row, Dialect], R], name: str, values: dict[str, Any]) -> list[R]:
        database = self._database()
        rows = database.fetch_all(*self._prepared(database, name, values))
        return [build(row, database.dialect) for row in rows]

    def _read_value(self, name: str, values: dict[str, Any]) -> Any:
        database = self._database()
        return database.fetch_value(*self._prepared(database, name, values))

    def _change(self, name: str, values: dict[str, Any]) -> int:
        database = self._database()
        return database.execute(*self._prepared(database, name, values))

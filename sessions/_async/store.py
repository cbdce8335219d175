"""What the stores of this package share: their tables, and the tenant and time that each of their statements takes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar, cast

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncRedisConnection,
    AsyncSQLStore,
    MigrationLine,
    Row,
)
from persistence._async.manager import named_connection
from persistence.dialect import Dialect, compile_statement
from persistence.errors import ConflictError, NotFoundError
from persistence.queries import load_queries
from persistence.validation import check_tenant, shown
from sessions._async.redis_statements import AsyncRedisStatements
from sessions.records import Session, session_from_row

R = TypeVar("R")


class AsyncSessionsStore(AsyncSQLStore):
    """A store on the tables of this package."""

    line = MigrationLine.of_package("sessions")
    on_redis: ClassVar[bool] = False
    """Whether a Redis connection will do."""

    @named_connection
    def __init__(
        self, manager: AsyncDatabaseManager, name: str, *, tenant: str = "default", migrate: bool = True
    ) -> None:
        if self.on_redis and manager.get(name).kind == "redis":
            self._manager, self._name, self._tenant = manager, name, check_tenant(tenant)
        else:
            super().__init__(manager, name, tenant=tenant, migrate=migrate)

    @property
    def _is_on_redis(self) -> bool:
        return self.on_redis and self._manager.get(self._name).kind == "redis"

    async def _database(self) -> AsyncDatabase:
        connection = self._manager.get(self._name)
        if isinstance(connection, AsyncRedisConnection) and self.on_redis:
            return cast(AsyncDatabase, AsyncRedisStatements(connection))
        return await super()._database()

    def _prepared(
        self, database: AsyncDatabase | AsyncRedisStatements, name: str, values: dict[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """Return a statement and its parameters; PostgreSQL and Redis read their own clock, SQLite is given ours."""
        if isinstance(database, AsyncRedisStatements):
            return name, {"tenant": self._tenant, **values}
        sql: str = getattr(load_queries("sessions", database.kind), name)
        given = {"tenant": self._tenant, **values}
        if database.kind != "postgresql":
            given["now"] = datetime.now(UTC)
        # PostgreSQL's and SQLite's statements of one name need not take the same.
        return sql, {parameter: given[parameter] for parameter in compile_statement(sql, database.kind).names}

    async def _read_one(self, build: Callable[[Row, Dialect], R], name: str, values: dict[str, Any]) -> R | None:
        database = await self._database()
        row = await database.fetch_one(*self._prepared(database, name, values))
        return None if row is None else build(row, database.dialect)

    async def _read_all(self, build: Callable[[Row, Dialect], R], name: str, values: dict[str, Any]) -> list[R]:
        database = await self._database()
        rows = await database.fetch_all(*self._prepared(database, name, values))
        return [build(row, database.dialect) for row in rows]

    async def _read_value(self, name: str, values: dict[str, Any]) -> Any:
        database = await self._database()
        return await database.fetch_value(*self._prepared(database, name, values))

    async def _change(self, name: str, values: dict[str, Any]) -> int:
        database = await self._database()
        return await database.execute(*self._prepared(database, name, values))

    async def _change_session(self, name: str, values: dict[str, Any]) -> Session:
        """Run a change of a session that checks a version; only where it found no row, a second statement tells why."""
        stored = await self._read_one(session_from_row, name, values)
        if stored is not None:
            return stored
        session_id, expected = values["id"], values["expected"]
        current = None
        if expected is not None:
            current = await self._read_one(session_from_row, "get_session", {"id": session_id})
        if current is None:
            raise self._missing_session(session_id, name)
        raise self._outdated(f"session {shown(session_id)}", name, expected, current.version)

    def _outdated(self, what: str, operation: str, expected: int, actual: int | None) -> ConflictError:
        """Return the error of a change that expected another version than ``what`` has."""
        return ConflictError(
            f"{what} has version {actual}, not {expected}",
            expected=expected,
            actual=actual,
            hint="read it again, and repeat the change on what is there now",
            operation=operation,
            connection=self._name,
        )

    def _missing_session(self, session_id: str, operation: str) -> NotFoundError:
        return NotFoundError(
            f"there is no session {shown(session_id)}",
            hint="it was never created, was deleted, or has expired",
            operation=operation,
            connection=self._name,
        )

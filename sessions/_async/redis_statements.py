"""Sessions, threads and messages on Redis: each statement of theirs is one call of the Lua script.

The stores run statements by name and read rows. Here the names are those of the script's functions, and the rows have
the columns and the forms of values that SQLite's have. All keys of a tenant lie on one slot of a cluster.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any
from urllib.parse import quote

from persistence import AsyncRedisConnection, Row
from persistence.dialect import Dialect
from persistence.scripts import call_script
from sessions.redis_rows import FORGETTING, READS, arguments, rows_of


class AsyncRedisStatements:
    """The face of a database that the stores of this package use, on a Redis connection."""

    kind = "redis"
    dialect = Dialect("sqlite")
    in_transaction = False

    def __init__(self, connection: AsyncRedisConnection) -> None:
        self._connection = connection

    async def fetch_all(self, name: str, values: dict[str, Any], *, prepare: bool | None = None) -> list[Row]:
        """Return the rows of a statement by name; there is no plan that ``prepare`` could be about.

        One that reads is sent again after a dropped connection.
        """
        root = f"holdfast:{{{quote(values['tenant'], safe='')}}}"
        given = [name, *arguments(name, values)]
        reads = name in READS or name in FORGETTING
        answer = await self._connection.run_script(
            call_script("sessions", "sessions", name), [root], given, reads=reads
        )
        return rows_of(name, answer, values)

    async def fetch_one(self, name: str, values: dict[str, Any]) -> Row | None:
        """Return the first row, or None."""
        rows = await self.fetch_all(name, values)
        return rows[0] if rows else None

    async def fetch_value(self, name: str, values: dict[str, Any]) -> Any:
        """Return the first column of the first row, or None."""
        row = await self.fetch_one(name, values)
        return None if row is None else next(iter(row.values()))

    async def execute(self, name: str, values: dict[str, Any]) -> int:
        """Return how many records a statement changed."""
        return int(await self.fetch_value(name, values) or 0)

    def transaction(self) -> AsyncNoTransaction:
        """Return what holds nothing together: each call is atomic by itself."""
        return AsyncNoTransaction()


class AsyncNoTransaction:
    """Stands where a database has a transaction."""

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None

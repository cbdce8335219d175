# Generated from ../_async/executor.py by tests/unasync.py: edit that one.
"""Running statements: what a database and a transaction have in common, the same on PostgreSQL and SQLite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from persistence._sync.pool import Poolable
from persistence.dialect import Dialect, Kind, Statement, quote_identifier
from persistence.errors import ValidationError
from persistence.fields import Duration

if TYPE_CHECKING:
    from persistence._sync.transaction import Transaction

Row = dict[str, Any]
Parameters = Mapping[str, Any]
Isolation = Literal["read committed", "repeatable read", "serializable"]


class Options(NamedTuple):
    """How a transaction was asked for; ``timeout`` in seconds."""

    isolation: Isolation | None = None
    read_only: bool = False
    timeout: float | None = None


class Hints(NamedTuple):
    """How PostgreSQL is to treat a statement."""

    prepare: bool | None = None
    binary: bool = False


NO_HINTS = Hints()


def _hints(prepare: bool | None, binary: bool) -> Hints:
    return NO_HINTS if prepare is None and not binary else Hints(prepare, binary)


class Link(Poolable, Protocol):
    """A driver connection, as databases and transactions use it."""

    def is_usable(self) -> bool:
        """Tell whether a next statement may follow, now that one has failed."""

    def run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float, hints: Hints
    ) -> tuple[list[Row], int]:
        """Return at most ``rows`` rows (None: all) and the number of rows affected."""

    def run_many(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        """Run the statement for each set of values, inside the transaction that is open."""

    def script(self, text: str, deadline: float) -> None:
        """Run statements without parameters."""

    def roll_back(self, deadline: float) -> None:
        """Undo the open transaction, if the database has not done so already."""


class Executor(ABC):
    """What a database and a transaction have in common: running statements.

    ``sql`` names its parameters ``:name``; rows are dicts by column name. ``timeout`` (seconds) bounds the whole call,
    the wait for a connection included. ``prepare=False`` has PostgreSQL plan the statement for these very values;
    ``binary=True`` has it send rows in binary, which is faster for bytea and numbers, but gives bytes for types that
    psycopg has no binary form of (enums of your own). SQLite ignores both.
    """

    kind: Kind
    dialect: Dialect
    name: str

    @abstractmethod
    def _run(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]: ...

    def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
    ) -> int:
        """Run a statement and return the number of rows it affected."""
        return (self._run("execute", sql, parameters, 0, timeout, _hints(prepare, False)))[1]

    @abstractmethod
    def execute_many(self, sql: str, parameters: Iterable[Parameters], *, timeout: Duration | None = None) -> int:
        """Run a statement for each set of parameters, all or none, and return the number of rows affected."""

    def fetch_one(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> Row | None:
        """Return the first row, or None when there is none."""
        found = (self._run("fetch_one", sql, parameters, 1, timeout, _hints(prepare, binary)))[0]
        return found[0] if found else None

    def fetch_all(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> list[Row]:
        """Return all rows, in the statement's order."""
        return (self._run("fetch_all", sql, parameters, None, timeout, _hints(prepare, binary)))[0]

    def fetch_value(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
    ) -> Any:
        """Return the first column of the first row, or None when there is no row."""
        found = (self._run("fetch_value", sql, parameters, 1, timeout, _hints(prepare, binary)))[0]
        return next(iter(found[0].values())) if found else None

    def iterate(
        self, sql: str, parameters: Parameters | None = None, *, key: str, batch_size: int = 1000
    ) -> Iterator[Row]:
        """Yield the rows of a SELECT in the order of its column ``key``, in batches of one round trip each.

        ``key`` must be unique and never NULL. No connection is held between batches, so the loop may use the
        database, take its time and outlive a restart of the server; rows changed meanwhile are seen as they are then
        (run it in a ``repeatable read`` transaction for a snapshot).
        """
        if batch_size < 1:
            raise ValidationError(f"batch_size {batch_size} is below 1")
        column = f"page.{quote_identifier(key)}"  # unqualified, SQLite would take an unknown name for a text
        given = dict(parameters or {})
        inner = sql.rstrip().removesuffix(";")
        first = f"SELECT * FROM (\n{inner}\n) AS page ORDER BY {column} LIMIT :page_size"
        later = f"SELECT * FROM (\n{inner}\n) AS page WHERE {column} > :page_after ORDER BY {column} LIMIT :page_size"
        page = self.fetch_all(first, {**given, "page_size": batch_size})
        while page:
            for row in page:
                yield row
            if len(page) < batch_size:
                return
            page = self.fetch_all(later, {**given, "page_size": batch_size, "page_after": page[-1][key]})

    @abstractmethod
    def transaction(
        self, *, isolation: Isolation | None = None, read_only: bool = False, timeout: Duration | None = None
    ) -> Transaction:
        """Open a transaction, or a savepoint within the one that this task is in, by ``with``.

        It commits on success and rolls back on any exception, cancellation included. ``timeout`` bounds it as a whole.
        """

"""Running statements: what a database and a transaction have in common, the same on PostgreSQL and SQLite."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from persistence._async.pool import Poolable
from persistence.dialect import Dialect, Kind, Statement, chunked, compile_statement, quote_identifier
from persistence.errors import DeadlineError, QueryError, ReadOnlyError, TransactionError, ValidationError
from persistence.fields import Duration
from persistence.places import Place
from persistence.routing import parse_position
from persistence.validation import check_text, check_whole

if TYPE_CHECKING:
    from persistence._async.transaction import AsyncTransaction

Row = dict[str, Any]
Parameters = Mapping[str, Any]
Call = tuple[str, Parameters | None]
"""A statement of a batch, and its parameters."""
Isolation = Literal["read committed", "repeatable read", "serializable"]


class Options(NamedTuple):
    """How a transaction was asked for, and where; ``timeout`` in seconds, ``after`` a position in the log."""

    isolation: Isolation | None = None
    read_only: bool = False
    timeout: float | None = None
    after: int = 0
    place: Place | None = None


class Hints(NamedTuple):
    """How PostgreSQL is to treat a statement.

    ``after`` is a position in the log that a replica must have reached; ``meanwhile`` is done once it was sent.
    """

    prepare: bool | None = None
    binary: bool = False
    read_only: bool = False
    after: int = 0
    meanwhile: Callable[[], object] | None = None


NO_HINTS = Hints()


def _hints(prepare: bool | None, binary: bool, read_only: bool = False, after: str | None = None) -> Hints:
    if prepare is None and not binary and not read_only and after is None:
        return NO_HINTS
    return Hints(prepare, binary, read_only, read_after(read_only, after))


def read_after(read_only: bool, after: str | None) -> int:
    """Return the position that a read must include, as a number; 0 for any."""
    if after is None:
        return 0
    if not read_only:
        raise ValidationError("after is for reads from replicas", hint="give read_only=True with it")
    return parse_position(after)


def check_reads(statement: Statement) -> None:
    """Refuse a statement that writes although it was said to read only; a server may be asked that could do it."""
    if not statement.reads:
        raise ReadOnlyError(f"{statement.verb or 'the statement'} with read_only=True", hint="leave out read_only")


class FailedPart(Exception):
    """A driver's error, and which part of the call it came from: ``calls[2]``, ``row 7``."""

    def __init__(self, part: str, error: Exception) -> None:
        super().__init__(part)
        self.part = part
        self.error = error


def returns_no_rows() -> QueryError:
    """Return the error of fetching from a statement that gives no rows."""
    return QueryError("the statement returns no rows", hint="use execute, or add RETURNING")


def left_open() -> TransactionError:
    """Return the error of a statement that opened a transaction on a connection that others have next."""
    return TransactionError("the statement left a transaction open; it was undone", hint="with transaction(): …")


def too_late() -> DeadlineError:
    """Return the error of a call whose deadline has passed."""
    return DeadlineError("it did not end within its timeout", hint="raise timeout=, or look what it waited for")


class Link(Poolable, Protocol):
    """A driver connection, as databases and transactions use it."""

    def is_usable(self) -> bool:
        """Tell whether a next statement may follow, now that one has failed."""

    def is_free(self) -> bool:
        """Tell whether no transaction is open on it, so that anybody may have it next."""

    async def run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float, hints: Hints
    ) -> tuple[list[Row], int]:
        """Return at most ``rows`` rows (None: all) and the number of rows affected."""

    async def run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float, hints: Hints
    ) -> list[list[Row]]:
        """Run statements, all or none, and return the rows of each; ``alone``: in a transaction of their own."""

    async def run_many(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        """Run the statement for each set of values, inside the transaction that is open."""

    async def copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], alone: bool, deadline: float
    ) -> int:
        """Append rows to a table, all or none, and return their number; ``alone``: in a transaction of their own."""

    async def script(self, text: str, deadline: float) -> None:
        """Run statements without parameters."""

    async def roll_back(self, deadline: float) -> None:
        """Undo the open transaction, if the database has not done so already."""


class AsyncExecutor(ABC):
    """What a database and a transaction have in common: running statements.

    ``sql`` names its parameters ``:name``; rows are dicts by column name. ``timeout`` (seconds) bounds the whole call,
    the wait for a connection included. ``prepare=False`` has PostgreSQL plan the statement for these very values;
    ``binary=True`` has it send rows in binary, which is faster for bytea and numbers, but gives bytes for types that
    psycopg has no binary form of (enums of your own). SQLite ignores both.

    ``read_only=True`` lets a replica answer, where the database has some: the least busy one that doesn't lag too far,
    the primary when there is none. What it shows may be a little old, unless ``after`` is the ``position()`` after a
    write: then it shows that write and all before it. Inside a transaction
    they change nothing: those that open it decide.
    """

    kind: Kind
    dialect: Dialect
    name: str

    @abstractmethod
    async def _run(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]: ...

    async def execute(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        meanwhile: Callable[[], object] | None = None,
    ) -> int:
        """Run a statement and return the number of rows it affected.

        ``meanwhile`` is work for the time that PostgreSQL takes to answer: a quick call, which neither waits nor uses
        the database, made once the statement has been sent. It isn't made where there is no such time, and again when
        the statement has to be sent again.
        """
        hints = _hints(prepare, False) if meanwhile is None else Hints(prepare, meanwhile=meanwhile)
        return (await self._run("execute", sql, parameters, 0, timeout, hints))[1]

    @abstractmethod
    async def execute_many(self, sql: str, parameters: Iterable[Parameters], *, timeout: Duration | None = None) -> int:
        """Run a statement for each set of parameters, all or none, and return the number of rows affected."""

    async def fetch_one(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        read_only: bool = False,
        after: str | None = None,
    ) -> Row | None:
        """Return the first row, or None when there is none."""
        found = (await self._run("fetch_one", sql, parameters, 1, timeout, _hints(prepare, binary, read_only, after)))[
            0
        ]
        return found[0] if found else None

    async def fetch_all(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        read_only: bool = False,
        after: str | None = None,
    ) -> list[Row]:
        """Return all rows, in the statement's order."""
        return (
            await self._run("fetch_all", sql, parameters, None, timeout, _hints(prepare, binary, read_only, after))
        )[0]

    async def fetch_value(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        read_only: bool = False,
        after: str | None = None,
    ) -> Any:
        """Return the first column of the first row, or None when there is no row."""
        found = (
            await self._run("fetch_value", sql, parameters, 1, timeout, _hints(prepare, binary, read_only, after))
        )[0]
        return next(iter(found[0].values())) if found else None

    async def fetch_batch(
        self,
        calls: Iterable[Call],
        *,
        timeout: Duration | None = None,
        prepare: bool | None = None,
        binary: bool = False,
        read_only: bool = False,
        after: str | None = None,
    ) -> list[list[Row]]:
        """Run several statements and return the rows of each, in order; one without rows has an empty list.

        ``calls`` are pairs of SQL and parameters. On PostgreSQL they are one round trip, and outside a transaction one
        commit on either database: a later call sees what an earlier one did, and all take effect or none. Those that
        can't run in a transaction (VACUUM, CREATE DATABASE) can't be here.

        Raises:
            PersistenceError: a call failed; the message names it (``calls[2]``), and nothing of the batch is kept. In a
                transaction, it can only be rolled back then.
        """
        compiled = []
        for number, (sql, parameters) in enumerate(calls):
            statement = compile_statement(sql, self.kind)
            try:
                compiled.append((statement, statement.values(parameters)))
            except ValidationError as exc:
                raise ValidationError(f"calls[{number}]: {exc.message}") from None
        if not compiled:
            return []
        return await self._run_batch(compiled, timeout, _hints(prepare, binary, read_only, after))

    @abstractmethod
    async def _run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], timeout: Duration | None, hints: Hints
    ) -> list[list[Row]]: ...

    async def copy_into(
        self,
        table: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[Any]],
        *,
        timeout: Duration | None = None,
    ) -> int:
        """Append rows to a table, all or none, and return their number: the fastest way for many of them.

        ``rows`` are tuples or lists in the order of ``columns``; they are taken one after the other and never held all
        at once. PostgreSQL takes them by COPY, in the type of each column: an int for an integer column, an aware
        datetime for a timestamptz one, a dict, a list or JSON text for a jsonb one, an array of shape (n,) for a vector
        one. Nothing is done to rows that are there already; ``execute_many`` with an ON CONFLICT does so.

        Raises:
            ValidationError: a row can't be stored; the message names it, counted from 0 (``rows[7]``).
            PersistenceError: the database refused a row; where it says which one, the message names it.
        """
        if isinstance(columns, str) or not columns:
            raise ValidationError("copy_into needs the names of one column or more")
        for name in (table, *columns):
            quote_identifier(check_text("a name in SQL", name))
        if isinstance(rows, str | bytes | Mapping) or not isinstance(rows, Iterable):
            raise ValidationError(f"the rows are a {type(rows).__name__}, not an iterable of tuples")
        return await self._copy_into(table, columns, iter(rows), timeout)

    @abstractmethod
    async def _copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], timeout: Duration | None
    ) -> int: ...

    async def iterate(
        self,
        sql: str,
        parameters: Parameters | None = None,
        *,
        key: str,
        batch_size: int = 1000,
        read_only: bool = False,
        after: str | None = None,
    ) -> AsyncIterator[Row]:
        """Yield the rows of a SELECT in the order of its column ``key``, in batches of one round trip each.

        ``key`` must be unique and never NULL. No connection is held between batches, so the loop may use the
        database, take its time and outlive a restart of the server; rows changed meanwhile are seen as they are then
        (run it in a ``repeatable read`` transaction for a snapshot).
        """
        check_whole("batch_size", batch_size)
        column = f"page.{quote_identifier(key)}"  # unqualified, SQLite would take an unknown name for a text
        given = dict(parameters or {})
        inner = sql.rstrip().removesuffix(";")
        first = f"SELECT * FROM (\n{inner}\n) AS page ORDER BY {column} LIMIT :page_size"
        later = f"SELECT * FROM (\n{inner}\n) AS page WHERE {column} > :page_after ORDER BY {column} LIMIT :page_size"
        source: dict[str, Any] = {"read_only": read_only, "after": after}
        page = await self.fetch_all(first, {**given, "page_size": batch_size}, **source)
        while page:
            for row in page:
                yield row
            if len(page) < batch_size:
                return
            place = {"page_size": batch_size, "page_after": page[-1][key]}
            page = await self.fetch_all(later, {**given, **place}, **source)

    async def fetch_by_keys(
        self,
        table: str,
        keys: Iterable[Any],
        *,
        key: str = "id",
        columns: Sequence[str] | None = None,
        batch_size: int = 1000,
    ) -> list[Row]:
        """Return the rows of a table whose column ``key`` is among ``keys``, however many, in no particular order.

        Each of the keys is asked for once, ``batch_size`` of them in one statement; a statement's text does not depend
        on their number. ``columns`` None are all columns.
        """
        check_whole("batch_size", batch_size)
        wanted = ", ".join(quote_identifier(name) for name in columns) if columns else "*"
        column = quote_identifier(key)
        among = self.dialect.among(f"{quote_identifier(table)}.{column}", ":page_keys")
        statement = f"SELECT {wanted} FROM {quote_identifier(table)} WHERE {among}"
        found: list[Row] = []
        for part in chunked(dict.fromkeys(keys), batch_size):
            found += await self.fetch_all(statement, {"page_keys": self.dialect.keys(part)})
        return found

    async def existing_keys(
        self, table: str, keys: Iterable[Any], *, key: str = "id", batch_size: int = 1000
    ) -> set[Any]:
        """Return those of ``keys`` that the column ``key`` of a table holds; asked as by ``fetch_by_keys``."""
        rows = await self.fetch_by_keys(table, keys, key=key, columns=[key], batch_size=batch_size)
        return {row[key] for row in rows}

    @abstractmethod
    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: Duration | None = None,
        after: str | None = None,
    ) -> AsyncTransaction:
        """Open a transaction, or a savepoint within the one that this task is in, by ``async with``.

        It commits on success and rolls back on any exception, cancellation included. ``timeout`` bounds it as a whole.
        """

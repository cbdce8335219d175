"""SQLite: write-ahead log, one writer, readers beside it; the same face as PostgreSQL.

Protocol: one connection writes, up to ``max_readers`` read; each is used by one caller at a time. A write transaction
begins with BEGIN IMMEDIATE, so it never has to upgrade a lock and fail half-way. A database in memory has one
connection for both. Deadlines are held by SQLite's progress handler, which looks at the clock as a statement runs.
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from time import monotonic
from typing import Any

from persistence._async.compat import Threads
from persistence._async.database import AsyncDatabase
from persistence._async.executor import NO_HINTS, FailedPart, Hints, Link, Options, Row, returns_no_rows, too_late
from persistence._async.pool import AsyncPool
from persistence.backups import copy_sqlite, restore_sqlite
from persistence.capabilities import Capabilities
from persistence.config import SQLiteConfig
from persistence.copying import check_rows
from persistence.dialect import Statement, compile_statement, quote_identifier, split_statements, sqlite_value
from persistence.errors import ConnectError, CorruptError, PersistenceError, from_sqlite
from persistence.fields import Duration, seconds, seconds_or_none
from persistence.health import PoolStats

_PLAIN = frozenset((str, int, bytes, type(None), bool))
_NAME = itemgetter(0)
_PROGRESS_STEPS = 20_000
COPY_ROWS = 1000
"""How many rows of a copy are held at a time."""


def _bind(values: Sequence[Any]) -> Sequence[Any]:
    if _PLAIN.issuperset(map(type, values)):
        return values
    return [value if type(value) in _PLAIN else sqlite_value(value) for value in values]


def _rows(description: Sequence[Sequence[Any]], fetched: Iterable[Any]) -> list[Row]:
    names = tuple(map(_NAME, description))
    return [dict(zip(names, row)) for row in fetched]  # noqa: B905 - strict=True costs a third more


class SQLiteLink(Link):
    """One connection; its calls run in the threads of the database."""

    def __init__(self, raw: sqlite3.Connection, threads: Threads, busy_timeout: float, in_memory: bool) -> None:
        self.raw = raw
        self._threads = threads
        self._busy_timeout = busy_timeout
        self._in_memory = in_memory
        self._deadline = float("inf")
        self._shortened = self._interrupted = self._closed = False
        raw.set_progress_handler(self._is_late, _PROGRESS_STEPS)

    def _is_late(self) -> bool:
        return self._interrupted or monotonic() >= self._deadline

    def is_alive(self) -> bool:
        return not self._closed

    def is_usable(self) -> bool:
        return not self._closed  # an interrupted statement is undone, and the connection goes on

    def is_free(self) -> bool:
        return not self._closed and not self.raw.in_transaction

    def recover(self) -> bool:
        # A file's connection is discarded instead, which undoes too. A database in memory would go with it.
        if self._in_memory and not self._closed and self.raw.in_transaction:
            self._settle()
            self.raw.execute("ROLLBACK")
            self.raw.execute("PRAGMA query_only = OFF")
        return self.is_free()

    def discard(self) -> None:
        self._closed = True
        self.raw.close()

    def interrupt(self) -> None:
        self._interrupted = True
        if not self._closed:
            self.raw.interrupt()

    def _until(self, deadline: float) -> None:
        self._deadline, self._interrupted = deadline, False
        left = deadline - monotonic()
        if left < self._busy_timeout:
            self._shortened = True
            self.raw.execute(f"PRAGMA busy_timeout = {max(1, int(left * 1000))}")

    def _settle(self) -> None:
        self._deadline, self._interrupted = float("inf"), False
        if self._shortened and not self._closed:
            self._shortened = False
            self.raw.execute(f"PRAGMA busy_timeout = {int(self._busy_timeout * 1000)}")

    async def run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float, hints: Hints
    ) -> tuple[list[Row], int]:
        return await self._threads.run(self.interrupt, self._run, statement, values, rows, deadline)

    def _run(
        self, statement: Statement, values: Sequence[Any], rows: int | None, deadline: float
    ) -> tuple[list[Row], int]:
        self._until(deadline)
        try:
            return self._step(statement, values, rows)
        finally:
            self._settle()

    def _step(self, statement: Statement, values: Sequence[Any], rows: int | None) -> tuple[list[Row], int]:
        cursor = self.raw.execute(statement.text, _bind(values))
        description = cursor.description
        if rows == 0:
            if description is not None:
                cursor.fetchall()  # a statement with RETURNING takes effect as it is stepped through
            return [], 0 if statement.reads else max(cursor.rowcount, 0)
        if description is None:
            raise returns_no_rows()
        if rows is None or not statement.reads:
            fetched = cursor.fetchall()
        else:
            fetched = cursor.fetchmany(rows)
            cursor.close()  # or it would keep its snapshot
        return _rows(description, fetched), cursor.rowcount

    async def run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float, hints: Hints
    ) -> list[list[Row]]:
        return await self._threads.run(self.interrupt, self._run_batch, calls, alone, deadline)

    def _run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], alone: bool, deadline: float
    ) -> list[list[Row]]:
        self._until(deadline)
        try:
            if alone:
                self.raw.execute("BEGIN" if all(each.reads for each, _ in calls) else "BEGIN IMMEDIATE")
            found = [self._part(number, *call) for number, call in enumerate(calls)]
            if alone:
                self.raw.execute("COMMIT")
            return found
        except BaseException:
            self._deadline, self._interrupted = float("inf"), False
            if alone and self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            raise
        finally:
            self._settle()

    def _part(self, number: int, statement: Statement, values: Sequence[Any]) -> list[Row]:
        try:
            cursor = self.raw.execute(statement.text, _bind(values))
            return _rows(cursor.description or (), cursor.fetchall())
        except Exception as exc:
            raise FailedPart(f"calls[{number}]", exc) from exc

    async def run_many(self, statement: Statement, values: Sequence[Sequence[Any]], deadline: float) -> int:
        return await self._insert(statement.text, values, "parameters", 0, deadline)

    async def _insert(self, text: str, values: Sequence[Sequence[Any]], what: str, first: int, deadline: float) -> int:
        return await self._threads.run(self.interrupt, self._run_many, text, values, what, first, deadline)

    def _run_many(self, text: str, values: Sequence[Sequence[Any]], what: str, first: int, deadline: float) -> int:
        current = first

        def bound() -> Iterator[Sequence[Any]]:
            nonlocal current
            for current, each in enumerate(values, first):  # noqa: B007 - the handler below names the current one
                yield _bind(each)

        self._until(deadline)
        try:
            return max(self.raw.executemany(text, bound()).rowcount, 0)
        except Exception as exc:
            raise FailedPart(f"{what}[{current}]", exc) from exc
        finally:
            self._settle()

    async def copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], alone: bool, deadline: float
    ) -> int:
        names = ", ".join(quote_identifier(column) for column in columns)
        insert = f"INSERT INTO {quote_identifier(table)} ({names}) VALUES"
        text = f"{insert} ({', '.join('?' * len(columns))})"
        done = 0
        if alone:
            await self.script("BEGIN IMMEDIATE", deadline)
        try:
            while batch := list(islice(rows, COPY_ROWS)):
                check_rows(batch, len(columns), done)
                await self._insert(text, batch, "rows", done, deadline)
                done += len(batch)
                if monotonic() >= deadline:
                    raise too_late()
            if not done:  # a table or a column that isn't there is told all the same
                explained = compile_statement(f"EXPLAIN {insert} ({', '.join(['NULL'] * len(columns))})", "sqlite")
                await self.run(explained, (), 0, deadline, NO_HINTS)
            if alone:
                await self.script("COMMIT", deadline)
        except BaseException:
            if alone:
                await self.roll_back(float("inf"))
            raise
        return done

    async def script(self, text: str, deadline: float) -> None:
        await self._threads.run(self.interrupt, self._script, text, deadline)

    def _script(self, text: str, deadline: float) -> None:
        self._until(deadline)
        try:
            for statement in split_statements(text) if ";" in text else (text,):
                self.raw.execute(statement)
            if self._in_memory and text in ("COMMIT", "ROLLBACK"):
                self.raw.execute("PRAGMA query_only = OFF")  # a read-only transaction had set it
        finally:
            self._settle()

    async def through(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Run what takes the whole connection; it goes on to its end."""
        await self._threads.run(_nothing, work, self.raw)

    async def roll_back(self, deadline: float) -> None:
        if self.raw.in_transaction:
            await self.script("ROLLBACK", deadline)


class AsyncSQLiteDatabase(AsyncDatabase):
    """A named SQLite file; made by ``AsyncDatabaseManager.add_sqlite``."""

    def __init__(self, name: str, config: SQLiteConfig) -> None:
        super().__init__(
            name,
            "sqlite",
            timeout=seconds(config.timeout),
            pool_timeout=seconds(config.pool_timeout),
            slow_threshold=seconds_or_none(config.slow_threshold),
        )
        self.config = config
        self._in_memory = config.path == ":memory:"
        self._threads = Threads(config.max_readers + 1, f"holdfast-{name}")
        leak_after = seconds_or_none(config.leak_after)
        self._writer: AsyncPool[SQLiteLink] = AsyncPool(
            name, self._open_writer, max_open=1, max_idle=1, leak_after=leak_after
        )
        self._readers = self._writer
        if not self._in_memory:
            self._readers = AsyncPool(
                name,
                self._open_reader,
                max_open=config.max_readers,
                max_idle=config.max_readers,
                leak_after=leak_after,
            )

    async def open(self) -> None:
        """Create the file if it is new, or open it.

        Raises:
            ConnectError: it can't be opened.
            CorruptError: it is not a SQLite database, or a damaged one; it is left as it is.
        """
        link = await self._acquire(self._writer, self._deadline(None))
        self._writer.release(link)

    async def _open_writer(self, deadline: float) -> SQLiteLink:
        return await self._open(self._make, self.config.read_only, deadline)

    async def _open_reader(self, deadline: float) -> SQLiteLink:
        return await self._open(self._make, True, deadline)

    async def _open(self, make: Callable[[bool, float], SQLiteLink], read_only: bool, deadline: float) -> SQLiteLink:
        try:
            return await self._threads.run(_nothing, make, read_only, deadline)
        except sqlite3.Error as exc:
            error = from_sqlite(exc, operation="open", connection=self.name)
            kind = CorruptError if isinstance(error, CorruptError) else ConnectError
            hint = "restore it from a backup; it was left as it is" if kind is CorruptError else "check the path"
            raise kind(
                f"can't open SQLite file {self.config.path}: {exc}",
                hint=hint,
                operation="open",
                connection=self.name,
                code=error.code,
            ) from exc
        except OSError as exc:
            raise ConnectError(
                f"can't open SQLite file {self.config.path}: {exc.strerror}",
                hint="check the path and its permissions",
                operation="open",
                connection=self.name,
            ) from exc

    def _make(self, read_only: bool, deadline: float) -> SQLiteLink:
        path = self.config.path
        if not self._in_memory and not self.config.read_only:
            _make_private(os.path.realpath(path))
        location = path if self._in_memory else _file_uri(path, self.config.read_only)
        busy = seconds(self.config.busy_timeout)
        raw = sqlite3.connect(
            location,
            timeout=max(0.001, min(busy, deadline - monotonic())),
            isolation_level=None,
            check_same_thread=False,
            uri=not self._in_memory,
            cached_statements=256,
        )
        try:
            raw.execute(f"PRAGMA busy_timeout = {int(busy * 1000)}")
            if not self._in_memory and not self.config.read_only:
                _use_write_ahead_log(raw, min(deadline, monotonic() + busy))
            raw.execute(f"PRAGMA synchronous = {self.config.synchronous}")
            # Libraries are built with either, and ours shouldn't depend on whose it is.
            raw.execute(f"PRAGMA secure_delete = {'ON' if self.config.secure_delete else 'OFF'}")
            raw.execute("PRAGMA foreign_keys = ON")
            raw.execute("PRAGMA temp_store = MEMORY")
            raw.execute(f"PRAGMA cache_size = -{self.config.cache_size}")
            raw.execute(f"PRAGMA query_only = {'ON' if read_only else 'OFF'}")
            raw.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except BaseException:
            raw.close()
            raise
        return SQLiteLink(raw, self._threads, busy, self._in_memory)

    def _pool_for(self, statement: Statement) -> AsyncPool[Any]:
        return self._readers if statement.reads else self._writer

    def _transaction_pool(self, options: Options) -> AsyncPool[Any]:
        return self._readers if options.read_only else self._writer

    def _begin_statements(self, options: Options) -> str:
        # SQLite's transactions are serializable, so every isolation level that is asked for is given.
        if not options.read_only:
            return "BEGIN IMMEDIATE"
        return "BEGIN; PRAGMA query_only = ON" if self._in_memory else "BEGIN"

    def _translate(self, exc: Exception, operation: str) -> PersistenceError | None:
        if isinstance(exc, sqlite3.Error | OverflowError | UnicodeError):
            return from_sqlite(exc, operation=operation, connection=self.name)
        return None

    async def capabilities(self) -> Capabilities:
        """Return what this SQLite library can do."""
        version = sqlite3.sqlite_version_info
        link = await self._acquire(self._readers, self._deadline(None))
        try:
            options = {row[0] for row in link.raw.execute("PRAGMA compile_options")}
        finally:
            self._readers.release(link)
        return Capabilities(
            kind=self.kind,
            server_version=version,
            returning=version >= (3, 35),
            json=version >= (3, 38) or "ENABLE_JSON1" in options,
            full_text_search="ENABLE_FTS5" in options,
        )

    async def _dump(self, path: Path, timeout: float) -> None:
        deadline = monotonic() + timeout
        await self._lend(
            "back_up", self._readers, deadline, lambda link: link.through(lambda raw: copy_sqlite(raw, path))
        )

    async def _load(self, path: Path, timeout: float) -> None:
        deadline = monotonic() + timeout
        await self._lend(
            "restore", self._writer, deadline, lambda link: link.through(lambda raw: restore_sqlite(path, raw))
        )

    async def ping(self, *, timeout: Duration | None = None) -> None:
        """Read from the file.

        Raises:
            UnavailableError: it can't be read now, with the reason.
            CorruptError: it is damaged.
        """
        await self._run_apart("ping", "SELECT count(*) FROM sqlite_master", None, 1, timeout, NO_HINTS)

    @property
    def server_version(self) -> str:
        """The SQLite library's version."""
        return sqlite3.sqlite_version

    def stats(self) -> PoolStats:
        """Return the state of the writer and the readers together."""
        writer, readers = self._writer.stats(), self._readers.stats()
        if self._in_memory:
            return writer
        return PoolStats(
            open=writer.open + readers.open,
            in_use=writer.in_use + readers.in_use,
            idle=writer.idle + readers.idle,
            waiting=writer.waiting + readers.waiting,
            max_open=writer.max_open + readers.max_open,
            max_idle=writer.max_idle + readers.max_idle,
            requests=writer.requests + readers.requests,
            errors=writer.errors + readers.errors,
            waits=writer.waits + readers.waits,
            wait_seconds=writer.wait_seconds + readers.wait_seconds,
            opened=writer.opened + readers.opened,
            discarded=writer.discarded + readers.discarded,
        )

    async def aclose(self) -> None:
        """Close every connection; calls under way fail with ClosedError. Safe to call twice."""
        # The readers first: the last connection to go folds the write-ahead log into the file.
        self._readers.close()
        self._writer.close()
        self._threads.close()


def _nothing() -> None:
    """What interrupting an open or a copy means: let it end."""


def _use_write_ahead_log(raw: sqlite3.Connection, until: float) -> None:
    """Have the file keep a write-ahead log, trying until ``until`` (monotonic seconds).

    The first to open a new file changes it, and that needs the file alone: where two do so at once, SQLite doesn't wait
    but says to one of them that the file is locked, whatever its busy_timeout.
    """
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or monotonic() >= until:
                raise
        time.sleep(0.002)


def _make_private(path: str) -> None:
    """Make the file, for its owner alone, unless it is there.

    It is made under another name and linked, and never opened here once it is a database: closing any descriptor of a
    file drops every lock that SQLite holds on it in this process (POSIX), and then another process may take the
    write-ahead log away from under it.
    """
    if os.path.exists(path):
        return
    descriptor, draft = tempfile.mkstemp(prefix=".holdfast-", dir=os.path.dirname(path))
    os.close(descriptor)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another made it meanwhile
    except OSError:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # a file system without links
    finally:
        os.unlink(draft)


def _file_uri(path: str, read_only: bool) -> str:
    escaped = os.path.abspath(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file://{escaped}?mode={'ro' if read_only else 'rw'}"

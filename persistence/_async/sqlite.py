"""SQLite: write-ahead log, one writer, readers beside it; the same face as PostgreSQL.

Protocol: one connection writes, up to ``max_readers`` read; each is used by one caller at a time. A write transaction
begins with BEGIN IMMEDIATE, so it never has to upgrade a lock and fail half-way. A database in memory has one
connection for both.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from time import monotonic
from typing import Any

from persistence._async.compat import Threads
from persistence._async.database import AsyncDatabase
from persistence._async.executor import NO_HINTS, Options
from persistence._async.pool import AsyncPool
from persistence._async.sqlite_link import SQLiteLink, let_it_end
from persistence.backups import copy_sqlite, restore_sqlite
from persistence.capabilities import Capabilities
from persistence.config import SQLiteConfig
from persistence.dialect import Statement
from persistence.errors import ConnectError, CorruptError, PersistenceError, from_sqlite
from persistence.fields import Duration, seconds, seconds_or_none
from persistence.health import PoolStats
from persistence.sqlite_files import is_missing, open_file


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
        leak_after, max_waiting = seconds_or_none(config.leak_after), config.max_waiting
        self._writer: AsyncPool[SQLiteLink] = AsyncPool(
            name, self._open_writer, max_open=1, max_idle=1, leak_after=leak_after, max_waiting=max_waiting
        )
        self._readers = self._writer
        if not self._in_memory:
            self._readers = AsyncPool(
                name,
                self._open_reader,
                max_open=config.max_readers,
                max_idle=config.max_readers,
                leak_after=leak_after,
                max_waiting=max_waiting,
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
        return await self._open(self.config.read_only, deadline)

    async def _open_reader(self, deadline: float) -> SQLiteLink:
        return await self._open(True, deadline)

    async def _open(self, read_only: bool, deadline: float) -> SQLiteLink:
        try:
            raw = await self._threads.run(let_it_end, open_file, self.config, read_only, deadline)
        except sqlite3.Error as exc:
            error = from_sqlite(exc, operation="open", connection=self.name)
            kind: type[PersistenceError] = ConnectError
            what, hint = str(exc), "check the path"
            if isinstance(error, CorruptError):
                kind, hint = CorruptError, "restore it from a backup; it was left as it is"
            elif is_missing(self.config):
                what, hint = "there is no such file", "holdfast migrate up makes it; or check the path"
            raise kind(
                f"can't open SQLite file {self.config.path}: {what}",
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
        return SQLiteLink(raw, self._threads, seconds(self.config.busy_timeout), self._in_memory)

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

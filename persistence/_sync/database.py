# Generated from ../_async/database.py by tests/unasync.py: edit that one.
"""A named SQL database: the small face that every store stands on, the same on PostgreSQL and SQLite."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from persistence._sync.compat import in_background, sleep
from persistence._sync.executor import NO_HINTS, Isolation, Link, Options, Parameters, Row, read_after
from persistence._sync.pool import Pool
from persistence._sync.pooled import PooledExecutor
from persistence._sync.transaction import Transaction
from persistence.backups import Backup, existing_file, new_file, put_in_place
from persistence.capabilities import Capabilities
from persistence.dialect import Kind
from persistence.errors import PersistenceError, TransactionError, ValidationError
from persistence.fields import Duration
from persistence.health import PoolStats
from persistence.places import calling_place
from persistence.retry import Backoff, is_transient
from persistence.validation import check_timeout

T = TypeVar("T")

BACKUP_SECONDS = 3600.0
"""How long a backup, or a restore, may take."""


class Database(PooledExecutor):
    """A named connection to a SQL database; made by a manager, safe for every task at once."""

    def __init__(
        self, name: str, kind: Kind, *, timeout: float, pool_timeout: float, slow_threshold: float | None = None
    ) -> None:
        super().__init__(name, kind, timeout=timeout, pool_timeout=pool_timeout, slow_threshold=slow_threshold)
        self.migrated: set[str] = set()
        """The migration lines known to be up to date, so that a store asks only once."""
        self.has_migrations = False
        """Whether the table that records migrations is known to be there."""
        self.partitions: set[tuple[str, str]] = set()
        """The partitions known to be there, each by its table and its suffix, so that a store asks only once."""

    @abstractmethod
    def _begin_statements(self, options: Options) -> str: ...

    @abstractmethod
    def capabilities(self) -> Capabilities:
        """Return what the live server can do; asked once per connection to it, then remembered."""

    @abstractmethod
    def ping(self, *, timeout: Duration | None = None) -> None:
        """Make one round trip to the server.

        Raises:
            UnavailableError: it can't be used now, with the reason.
        """

    @abstractmethod
    def stats(self) -> PoolStats:
        """Return the state of the pool."""

    @abstractmethod
    def close(self) -> None:
        """Close every connection; calls under way fail with ClosedError. Safe to call twice."""

    @property
    @abstractmethod
    def server_version(self) -> str | None:
        """The server's version, None before the first connection."""

    @abstractmethod
    def open(self) -> None:
        """Make the first connection.

        Raises:
            ConnectError: the server can't be reached or refuses us.
        """

    @property
    def timeout(self) -> float:
        """How long a call may take that doesn't say it, in seconds."""
        return self._timeout

    @property
    def is_closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._transaction_pool(Options()).closed

    @property
    def in_transaction(self) -> bool:
        """Whether this task is inside a transaction on this database."""
        return self._current() is not None

    def fetch_apart(self, sql: str, parameters: Parameters | None = None) -> Row | None:
        """Return the first row of a query that runs outside any transaction of this task."""
        found = (self._run_apart("fetch_apart", sql, parameters, 1, None, NO_HINTS))[0]
        return found[0] if found else None

    def run_apart(
        self, sql: str, parameters: Parameters | None = None, *, answers: bool, timeout: Duration | None = None
    ) -> list[Row]:
        """Run a statement outside any transaction, also when this task is in one; ``answers``: return its rows.

        It is for statements that can't run in a transaction, such as VACUUM or CREATE INDEX CONCURRENTLY.
        """
        if answers:
            return (self._run_apart("run_apart", sql, parameters, None, timeout, NO_HINTS))[0]
        deadline = self._deadline(timeout)
        pool = self._transaction_pool(Options())
        self._lend("run_apart", pool, deadline, lambda link: link.script(sql, deadline))
        return []

    def execute_many(self, sql: str, parameters: Iterable[Parameters], *, timeout: Duration | None = None) -> int:
        """Run a statement for each set of parameters, all or none, and return the number of rows affected."""
        with self.transaction(timeout=timeout) as transaction:
            return transaction.execute_many(sql, parameters)

    def _begin(self, options: Options, deadline: float) -> tuple[Pool[Any], Link]:
        """Return a connection on which a transaction was begun, and the pool that it is to be given back to."""
        pool = self._transaction_pool(options)
        link = self._acquire(pool, deadline, place=options.place)
        try:
            link.script(self._begin_statements(options), deadline)
        except BaseException as exc:
            self._give_back(exc, link, "begin", pool)
        return pool, link

    def _commit(self, link: Link, options: Options, deadline: float) -> str | None:
        """Commit, and return where that is in the log, if this database was told of replicas."""
        link.script("COMMIT", deadline)
        return None

    def position(self) -> str:
        """Return a token of all that is committed by now: a read with it as ``after=`` sees that, from a replica too.

        It is text such as ``16/B374D848``, to be kept where the user's next request finds it. Where there are no
        replicas every read sees what is committed, and it is ``0/0``.
        """
        return "0/0"

    def back_up(self, path: str | Path, *, timeout: Duration = BACKUP_SECONDS) -> Backup:
        """Write the whole database to a new file that its owner alone can read, beside readers and writers.

        SQLite writes a database file by its online backup, and checks it; PostgreSQL writes an archive of ``pg_dump
        --format=custom``, which ``pg_restore`` reads. The file has its name once it is whole and durable.

        Raises:
            ValidationError: the file is there already, or can't be written.
            CapabilityError: there is no ``pg_dump``, or it is older than the server.
            UnavailableError: it failed; the message is the program's.
            DeadlineError: it took longer than ``timeout`` seconds (PostgreSQL).
            TransactionError: called in a transaction.
        """
        limit = check_timeout("timeout", timeout)
        target, draft = new_file(path)
        try:
            self._check_outside("back_up")
            self._dump(draft, limit)
            return in_background(lambda: put_in_place(draft, target))
        finally:
            draft.unlink(missing_ok=True)

    def restore(self, path: str | Path, *, timeout: Duration = BACKUP_SECONDS) -> None:
        """Replace what the database holds by what a backup of ``back_up`` holds, all or nothing.

        PostgreSQL drops and makes again what the archive names, in one transaction; other objects stay. SQLite replaces
        all that the file holds. Let nobody else use the database meanwhile.

        Raises:
            ValidationError: the file isn't there.
            CorruptError: the file is damaged or no SQLite database; nothing was changed.
            CapabilityError: there is no ``pg_restore``, or it is older than the server.
            UnavailableError: it failed; the message is the program's, and nothing was changed.
            TransactionError: called in a transaction.
        """
        limit = check_timeout("timeout", timeout)
        source = existing_file(path)
        self._check_outside("restore")
        self._load(source, limit)
        self.migrated.clear()
        self.partitions.clear()
        self.has_migrations = False

    def _check_outside(self, operation: str) -> None:
        if self.in_transaction:
            raise TransactionError(
                f"{operation} in a transaction", hint="it sees what is committed: call it outside", connection=self.name
            )

    @abstractmethod
    def _dump(self, path: Path, timeout: float) -> None:
        """Write the whole database to an empty file."""

    @abstractmethod
    def _load(self, path: Path, timeout: float) -> None:
        """Replace what the database holds by what the file holds."""

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: Duration | None = None,
        after: str | None = None,
    ) -> Transaction:
        """Open a transaction, or a savepoint within the one that this task is in, by ``with``.

        It commits on success and rolls back on any exception, cancellation included. ``timeout`` (seconds; None: no
        limit but the statements' own) bounds it as a whole. Isolation left out is the server's default. With
        ``read_only=True`` it may be a replica's, also for the stores that join it; ``after`` is as for statements.
        """
        if isolation is not None and isolation not in ("read committed", "repeatable read", "serializable"):
            raise ValidationError(
                f"{isolation!r} is no isolation level", hint="read committed, repeatable read or serializable"
            )
        limit = None if timeout is None else check_timeout("timeout", timeout)
        position, place = read_after(read_only, after), calling_place()
        return Transaction(self, Options(isolation, read_only, limit, position, place))

    def run_transaction(
        self,
        work: Callable[[Transaction], T],
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: Duration | None = None,
        after: str | None = None,
        backoff: Backoff | None = None,
    ) -> T:
        """Run ``work(transaction)`` in a transaction of its own and return its result.

        A serialization failure or a deadlock rolls everything back and runs ``work`` again, after a growing delay, so
        ``work`` must not act outside the database. ``timeout`` bounds each try; the other options are those of
        ``transaction``.

        Raises:
            TransactionError: called inside a transaction, which can't be run again from here.
        """
        if self._current() is not None:
            raise TransactionError("run_transaction inside a transaction", hint="retry the outermost one")
        delays = (backoff or Backoff()).delays()
        options: dict[str, Any] = {"isolation": isolation, "read_only": read_only, "timeout": timeout, "after": after}
        while True:
            try:
                with self.transaction(**options) as transaction:
                    return work(transaction)
            except PersistenceError as exc:
                delay = next(delays, None) if is_transient(exc) else None
                if delay is None:
                    raise
            sleep(delay)

"""Every error that holdfast raises, and the one place where a driver's error becomes ours.

::

    PersistenceError
    ├── ConfigError                 a configuration that can't work; lists every problem
    ├── ValidationError             a value that can't be stored faithfully, refused before anything is written
    ├── CapabilityError             the server can't do it (no pgvector, too old, …)
    │   └── MissingExtraError       a package of an extra is not installed
    ├── ClosedError                 the manager or connection was closed
    ├── WrongLoopError              an async connection used from another event loop
    ├── UnavailableError            the server could not be used; nothing else is wrong with the call
    │   ├── ConnectError            no connection could be made
    │   ├── ConnectionLostError     the connection broke while the statement ran
    │   ├── PoolTimeoutError        every connection stayed in use until the deadline
    │   │   ├── NestedCheckoutError those who have the connections wait for one themselves
    │   │   └── PoolFullError       as many as may wait do so already
    │   ├── DeadlineError           the operation did not end within its timeout
    │   ├── NotReplicatedError      a write to Redis took effect, but too few replicas have it
    │   ├── StorageFullError        no room left, or the server's memory limit is reached
    │   └── LockTimeoutError        another writer held the lock until the limit
    ├── NotFoundError               what was named isn't there
    │   └── UnknownConnectionError  no connection has that name
    ├── WrongKindError              the connection has that name but is of another kind
    ├── ConstraintError             the database refused the row
    │   ├── DuplicateError          it is there already (23505)
    │   └── ForeignKeyError         it refers to what isn't there (23503)
    ├── ConflictError               somebody else changed it first (optimistic version)
    ├── TransactionError            a transaction could not go on
    │   ├── SerializationError      retry the whole transaction (40001)
    │   ├── DeadlockError           retry the whole transaction (40P01)
    │   ├── ReadOnlyError           a write in a read-only transaction, on a replica or in a read-only file
    │   ├── SavepointError          a nested transaction ended out of order
    │   └── CommitUnknownError      the connection broke during COMMIT: it may or may not be durable
    ├── MigrationError              a schema migration can't be applied
    ├── CorruptError                stored bytes are not what was written
    └── QueryError                  the statement itself is wrong

Each carries ``hint`` (the way out), ``operation``, ``connection`` (the registered name) and ``code`` (SQLSTATE or the
driver's own code). No message contains a password or a stored value.
"""

from __future__ import annotations

import re
import sqlite3
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

UNIQUE_VIOLATION, FOREIGN_KEY_VIOLATION = "23505", "23503"
"""PostgreSQL's codes of what is there already, and of what refers to nothing; also where a store found it itself."""
NO_RIGHT = "42501"
"""PostgreSQL's code of what a role may not do."""
_NO_RIGHT_HINT = "grant the role the right; tables, collections and partitions of events are made by their owner"


class PersistenceError(Exception):
    """The root of every error that holdfast raises."""

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        operation: str | None = None,
        connection: str | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.operation = operation
        self.connection = connection
        self.code = code

    def __str__(self) -> str:
        where = f"{self.connection}: " if self.connection else ""
        code = f" [{self.code}]" if self.code else ""
        hint = f" ({self.hint})" if self.hint else ""
        return f"{where}{self.message}{code}{hint}"


class ConfigError(PersistenceError):
    """A configuration that can't work; ``problems`` lists all of them."""

    def __init__(self, message: str, *, problems: tuple[str, ...] = (), hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.problems = problems or (message,)


class ValidationError(PersistenceError):
    """A value that can't be stored faithfully; refused before anything was written."""


class CapabilityError(PersistenceError):
    """The server, as it is, can't do what was asked."""


class MissingExtraError(CapabilityError, ImportError):
    """A package of an extra is not installed, or too old; ``except ImportError`` catches it too."""


class ClosedError(PersistenceError):
    """The manager or connection was closed."""


class WrongLoopError(PersistenceError):
    """An async connection was used from an event loop other than the one that opened it."""


class UnavailableError(PersistenceError):
    """The server could not be used; the call itself may be right."""


class ConnectError(UnavailableError):
    """No connection could be made."""


class ConnectionLostError(UnavailableError):
    """The connection broke while a statement ran; whether it took effect is unknown."""


class PoolTimeoutError(UnavailableError):
    """Every connection of the pool stayed in use until the deadline."""


class NestedCheckoutError(PoolTimeoutError):
    """Every connection is held by who waits for another one, so that none would come back; told at once."""


class PoolFullError(PoolTimeoutError):
    """Every connection is in use, and as many callers as ``max_waiting`` allows wait for one; told at once."""


class DeadlineError(UnavailableError):
    """The operation did not end within its timeout; the connection that it was on was thrown away.

    Of what goes on in the background, it had not ended in the time that it was given, and says what it was at.
    """


class NotReplicatedError(UnavailableError):
    """A write to Redis took effect, but fewer replicas than were asked for had it in time: a failover may lose it."""


class StorageFullError(UnavailableError):
    """There is no room left on the server; nothing was written."""


class LockTimeoutError(UnavailableError):
    """Another writer held the lock until the limit; nothing was written."""


class NotFoundError(PersistenceError):
    """What was named isn't there."""


class UnknownConnectionError(NotFoundError):
    """No connection is registered under that name."""


class WrongKindError(PersistenceError):
    """A connection is registered under that name, but it is of another kind; or the manager is of the other side."""


class ConstraintError(PersistenceError):
    """The database refused the row (a check, a missing value, …)."""


class DuplicateError(ConstraintError):
    """It is there already."""


class ForeignKeyError(ConstraintError):
    """It refers to something that isn't there."""


class ConflictError(PersistenceError):
    """Somebody else changed it first."""

    def __init__(
        self,
        message: str,
        *,
        expected: int | None = None,
        actual: int | None = None,
        hint: str | None = None,
        operation: str | None = None,
        connection: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, operation=operation, connection=connection)
        self.expected = expected
        self.actual = actual


class TransactionError(PersistenceError):
    """A transaction could not go on; it was rolled back."""


class SerializationError(TransactionError):
    """A concurrent transaction got in the way; retry the whole transaction."""


class DeadlockError(TransactionError):
    """Two transactions waited for each other; retry the whole transaction."""


class ReadOnlyError(TransactionError):
    """A write where only reads are allowed: a read-only transaction, a replica or a read-only file."""


class SavepointError(TransactionError):
    """A nested transaction ended out of order."""


class CommitUnknownError(TransactionError):
    """The connection broke during COMMIT: the transaction may or may not be durable."""


class MigrationError(PersistenceError):
    """A schema migration can't be applied."""


class CorruptError(PersistenceError):
    """Stored bytes are not what was written."""


class QueryError(PersistenceError):
    """The statement itself is wrong: its syntax, a name, or the type of a value."""


_BY_SQLSTATE: dict[str, type[PersistenceError]] = {
    UNIQUE_VIOLATION: DuplicateError,
    FOREIGN_KEY_VIOLATION: ForeignKeyError,
    "40001": SerializationError,
    "40P01": DeadlockError,
    "55P03": LockTimeoutError,
    "57014": DeadlineError,
    "53100": StorageFullError,
    "53200": StorageFullError,
    "25006": ReadOnlyError,
    "25P02": TransactionError,
    "25P03": ConnectionLostError,
    "3B001": SavepointError,
    "0A000": CapabilityError,
    "XX001": CorruptError,
    "XX002": CorruptError,
}
_BY_CLASS: dict[str, type[PersistenceError]] = {
    "08": ConnectionLostError,
    "22": ValidationError,
    "23": ConstraintError,
    "25": TransactionError,
    "28": ConnectError,
    "40": TransactionError,
    "42": QueryError,
    "53": UnavailableError,
    "54": ValidationError,
    "57": ConnectionLostError,
    "58": UnavailableError,
}
_HINTS: dict[type[PersistenceError], str] = {
    SerializationError: "run it again as a whole: run_transaction() does so",
    DeadlockError: "run it again as a whole: run_transaction() does so",
    ReadOnlyError: "leave out read_only=True; or another server has taken over, and the next call finds it",
    ConnectionLostError: "the next call opens a new connection; repeat this one only if it is idempotent",
    StorageFullError: "make room on the server; it heals without a restart",
}


_QUOTED = re.compile('".*"', re.DOTALL)  # to the last quote, for a value may have some
_BAD_ENCODING = "22021"  # it quotes the encoding's name, and bytes in hexadecimal


def from_psycopg(exc: psycopg.Error, *, operation: str, connection: str) -> PersistenceError:
    """Return our error for one of psycopg's, by its SQLSTATE.

    The server's primary message is kept; its DETAIL is not, because it repeats stored values, nor what the message of a
    refused value (class 22) quotes: the value itself. Both are taken out of the driver's error too, which a traceback
    prints as the cause; ``diag`` still has them.
    """
    import psycopg

    code = exc.sqlstate
    message = exc.diag.message_primary or str(exc).partition("\n")[0]
    if code and code.startswith("22") and code != _BAD_ENCODING:
        message = _QUOTED.sub('"…"', message)
    if exc.diag.message_primary:
        exc.args = (message,)
    kind: type[PersistenceError]
    if code:
        kind = _BY_SQLSTATE.get(code) or _BY_CLASS.get(code[:2], PersistenceError)
    elif isinstance(exc, psycopg.OperationalError):
        kind = ConnectionLostError
    elif isinstance(exc, psycopg.DataError | psycopg.NotSupportedError):
        kind = ValidationError
    elif isinstance(exc, psycopg.ProgrammingError):
        kind = QueryError
    else:
        kind = PersistenceError
    if kind in (DuplicateError, ForeignKeyError) and exc.diag.constraint_name:
        message = f"{message} (table {exc.diag.table_name})"
    hint = _NO_RIGHT_HINT if code == NO_RIGHT else _HINTS.get(kind)
    return kind(message, hint=hint, operation=operation, connection=connection, code=code)


_BY_SQLITE_NAME: dict[str, type[PersistenceError]] = {
    "SQLITE_CONSTRAINT_PRIMARYKEY": DuplicateError,
    "SQLITE_CONSTRAINT_UNIQUE": DuplicateError,
    "SQLITE_CONSTRAINT_ROWID": DuplicateError,
    "SQLITE_CONSTRAINT_FOREIGNKEY": ForeignKeyError,
    "SQLITE_BUSY": LockTimeoutError,
    "SQLITE_BUSY_SNAPSHOT": SerializationError,
    "SQLITE_LOCKED": LockTimeoutError,
    "SQLITE_FULL": StorageFullError,
    "SQLITE_CORRUPT": CorruptError,
    "SQLITE_NOTADB": CorruptError,
    "SQLITE_CANTOPEN": ConnectError,
    "SQLITE_INTERRUPT": DeadlineError,
    "SQLITE_READONLY": ReadOnlyError,
    "SQLITE_TOOBIG": ValidationError,
    "SQLITE_MISMATCH": ValidationError,
}


def from_sqlite(exc: Exception, *, operation: str, connection: str) -> PersistenceError:
    """Return our error for one that Python's sqlite3 raised, by its extended result code."""
    code = getattr(exc, "sqlite_errorname", None)
    kind: type[PersistenceError] | None = None
    if code:
        base = "_".join(code.split("_")[:2])
        kind = _BY_SQLITE_NAME.get(code) or _BY_SQLITE_NAME.get(base)
        if kind is None:
            kind = {"SQLITE_CONSTRAINT": ConstraintError, "SQLITE_ERROR": QueryError}.get(base, UnavailableError)
    elif isinstance(exc, OverflowError | UnicodeError | sqlite3.DataError | sqlite3.InterfaceError | ValueError):
        kind = ValidationError
    elif isinstance(exc, sqlite3.ProgrammingError):
        kind = QueryError
    return (kind or PersistenceError)(str(exc), hint=_HINTS.get(kind or PersistenceError),
                                      operation=operation, connection=connection, code=code)  # fmt: skip


_IN_A_SCRIPT = re.compile(r"Error running script .*?: -([A-Z]+) ")


def from_redis(exc: Exception, *, operation: str, connection: str) -> PersistenceError:
    """Return our error for one of redis-py's, by its class and the server's error word."""
    import redis
    from redis.sentinel import MasterNotFoundError

    text = str(exc)
    # What a command says inside a script, Redis before 7 puts behind words of its own.
    within = _IN_A_SCRIPT.match(text)
    word = within[1] if within else text.split(" ", 1)[0]
    kind: type[PersistenceError] = QueryError
    if isinstance(exc, redis.exceptions.RedisClusterException):
        # It may have come up while redis-py asked for the nodes anew, because a connection broke under a command.
        if isinstance(exc.__context__, redis.ConnectionError | redis.TimeoutError):
            return from_redis(exc.__context__, operation=operation, connection=connection)
        down = ("cannot be connected" in text, "not covered" in text)
        kind = ConnectError if down[0] else UnavailableError if down[1] else QueryError
    elif isinstance(exc, redis.AuthenticationError | redis.exceptions.NoPermissionError | MasterNotFoundError):
        kind = ConnectError
    elif isinstance(exc, redis.exceptions.MaxConnectionsError) or text == "No connection available.":
        kind = PoolTimeoutError
    elif isinstance(exc, redis.TimeoutError):
        kind = DeadlineError
    elif isinstance(exc, redis.exceptions.OutOfMemoryError) or word in ("OOM", "MISCONF"):
        kind = StorageFullError
    elif isinstance(exc, redis.exceptions.ReadOnlyError) or word == "READONLY":
        kind = ReadOnlyError
    elif isinstance(exc, redis.exceptions.BusyLoadingError | redis.exceptions.ClusterError) or word in (
        "LOADING",
        "CLUSTERDOWN",
        "NOREPLICAS",
    ):
        kind = UnavailableError
    elif isinstance(exc, redis.ConnectionError):
        kind = ConnectionLostError
    elif isinstance(exc, redis.DataError):
        kind = ValidationError
    return kind(
        text, hint=_HINTS.get(kind), operation=operation, connection=connection, code=word if word.isupper() else None
    )

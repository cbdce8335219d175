# Generated from ../_async/pooled.py by tests/unasync.py: edit that one.
"""How a database runs statements: in the transaction of its task, or on a pooled connection that it gives back.

Protocol: a statement outside a transaction takes a pooled connection, runs, commits and gives it back before it
returns; one that the server undid for another's sake, as in a deadlock, is run anew. Inside a transaction, statements
of the task that opened it run on the transaction's connection; other tasks' don't. A connection whose state is in doubt
(a deadline, a broken socket, a failed rollback) is discarded.
"""

from __future__ import annotations

import weakref
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from persistence._sync.compat import current_owner, sleep
from persistence._sync.executor import (
    Executor,
    FailedPart,
    Hints,
    Link,
    Options,
    Parameters,
    Row,
    check_reads,
    left_open,
)
from persistence._sync.pool import Pool
from persistence.dialect import Dialect, Kind, Statement, compile_statement
from persistence.errors import (
    ClosedError,
    ConnectionLostError,
    DeadlineError,
    DeadlockError,
    PersistenceError,
    ReadOnlyError,
    SerializationError,
)
from persistence.fields import Duration
from persistence.observing import Observation, Observers
from persistence.places import Place, calling_place
from persistence.retry import Backoff
from persistence.validation import check_timeout

if TYPE_CHECKING:
    from persistence._sync.transaction import Transaction

T = TypeVar("T")

_READ_ONLY = "25006"


class PooledExecutor(Executor):
    """What a database does with connections, and with the errors that come out of them."""

    def __init__(
        self, name: str, kind: Kind, *, timeout: float, pool_timeout: float, slow_threshold: float | None
    ) -> None:
        self.name = name
        self.kind = kind
        self.dialect = Dialect(kind)
        self.observers = Observers(name, kind, slow_threshold)
        self._timeout = timeout
        self._pool_timeout = pool_timeout
        self._joined: dict[object, weakref.ref[Transaction]] = {}
        """The innermost transaction of each owner, which alone keeps it: one that is dropped ends itself."""

    @abstractmethod
    def _pool_for(self, statement: Statement) -> Pool[Any]:
        """Return the pool of connections that may run the statement."""

    @abstractmethod
    def _transaction_pool(self, options: Options) -> Pool[Any]: ...

    @abstractmethod
    def _translate(self, exc: Exception, operation: str) -> PersistenceError | None:
        """Return our error for a driver's; None for what isn't a driver's."""

    def _deadline(self, timeout: Duration | None, started: float | None = None) -> float:
        limit = self._timeout if timeout is None else check_timeout("timeout", timeout)
        return (monotonic() if started is None else started) + limit

    def _current(self) -> Transaction | None:
        """Return the innermost transaction of this task."""
        found = self._joined.get(current_owner()) if self._joined else None
        current = None if found is None else found()
        # In a forked child the parent's transactions are not ours to join.
        return None if current is None or current.is_foreign else current

    def _acquire(
        self, pool: Pool[Any], deadline: float, seen: Observation | None = None, place: Place | None = None
    ) -> Any:
        try:
            return pool.acquire(min(deadline, monotonic() + self._pool_timeout), place)
        except BaseException as exc:
            if seen is not None:
                seen.failed(exc)
            raise

    def _failure(self, exc: BaseException, operation: str, pool: Pool[Any]) -> BaseException:
        """Return the error to raise for one that came out of a driver connection."""
        if isinstance(exc, FailedPart):
            failure = self._failure(exc.error, operation, pool)
            if isinstance(failure, PersistenceError):
                failure.message = f"{exc.part}: {failure.message}"
            return failure
        pool.count_error()
        if not isinstance(exc, Exception):
            return exc
        ours = exc if isinstance(exc, PersistenceError) else self._translate(exc, operation)
        if ours is exc and ours.connection is None:
            ours.connection, ours.operation = self.name, operation
        if pool.closed and (ours is None or isinstance(ours, ConnectionLostError | DeadlineError)):
            return ClosedError("it was closed while this ran", operation=operation, connection=self.name)
        return exc if ours is None else ours

    def _run(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]:
        current = self._current()
        if current is not None:
            return current._run(operation, sql, parameters, rows, timeout, hints)
        if hints.read_only:
            return self._run_reading(operation, sql, parameters, rows, timeout, hints)
        started = monotonic()
        try:
            return self._run_apart(operation, sql, parameters, rows, timeout, hints)
        except (DeadlockError, SerializationError) as exc:
            return self._run_anew(
                exc,
                self._deadline(timeout, started),
                lambda left: self._run_apart(operation, sql, parameters, rows, left, hints),
            )

    def _run_anew(self, undone: PersistenceError, deadline: float, attempt: Callable[[float], T]) -> T:
        """Return what an attempt within some seconds gives, after one that the server undid: nothing of it is there."""
        for delay in Backoff().delays():
            if monotonic() + delay >= deadline:
                break
            sleep(delay)
            try:
                return attempt(deadline - monotonic())
            except (DeadlockError, SerializationError) as exc:
                undone = exc
        raise undone

    def _run_reading(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]:
        """Run a statement that was said to read only, where that is best done."""
        check_reads(compile_statement(sql, self.kind))
        return self._run_apart(operation, sql, parameters, rows, timeout, hints)

    def _run_apart(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]:
        """Run a statement on a connection of its own, also when this task is in a transaction."""
        statement = compile_statement(sql, self.kind)
        values = statement.values(parameters)
        deadline = self._deadline(timeout)
        pool = self._pool_for(statement)
        seen = self.observers.begin(operation, sql)
        link = self._acquire(pool, deadline, seen)
        try:
            result: tuple[list[Row], int] = link.run(statement, values, rows, deadline, hints)
        except BaseException as exc:
            self._give_back(exc, link, operation, pool, seen)
        if not link.is_free():
            self._give_back(left_open(), link, operation, pool, seen)
        pool.release(link)
        if seen is not None:
            seen.done(len(result[0]) or result[1])
        return result

    def _run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], timeout: Duration | None, hints: Hints
    ) -> list[list[Row]]:
        current = self._current()
        if current is not None:
            return current._run_batch(calls, timeout, hints)
        if hints.read_only:
            for statement, _ in calls:
                check_reads(statement)
        started = monotonic()
        try:
            return self._run_batch_apart(calls, timeout, hints)
        except (DeadlockError, SerializationError) as exc:
            return self._run_anew(
                exc,
                self._deadline(timeout, started),
                lambda left: self._run_batch_apart(calls, left, hints),
            )

    def _run_batch_apart(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], timeout: Duration | None, hints: Hints
    ) -> list[list[Row]]:
        pool = self._pool_for(next((each for each, _ in calls if not each.reads), calls[0][0]))
        deadline = self._deadline(timeout)
        seen = self.observers.begin_many("fetch_batch", (each.text for each, _ in calls))
        found: list[list[Row]] = self._lend(
            "fetch_batch", pool, deadline, lambda link: link.run_batch(calls, True, deadline, hints), seen
        )
        if seen is not None:
            seen.done(sum(map(len, found)))
        return found

    def _copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], timeout: Duration | None
    ) -> int:
        current = self._current()
        if current is not None:
            return current._copy_into(table, columns, rows, timeout)
        pool, deadline = self._transaction_pool(Options()), self._deadline(timeout)
        seen = self.observers.begin("copy_into", f"COPY {table} ({', '.join(columns)})")
        count: int = self._lend(
            "copy_into",
            pool,
            deadline,
            lambda link: link.copy_into(table, columns, rows, True, deadline),
            seen,
            calling_place(),
        )
        if seen is not None:
            seen.done(count)
        return count

    def _lend(
        self,
        operation: str,
        pool: Pool[Any],
        deadline: float,
        work: Callable[[Any], T],
        seen: Observation | None = None,
        place: Place | None = None,
    ) -> T:
        """Return what ``work`` does with a connection of its own; ``place`` is for what may call the program."""
        link = self._acquire(pool, deadline, seen, place)
        try:
            result = work(link)
        except BaseException as exc:
            self._give_back(exc, link, operation, pool, seen)
        if not link.is_free():
            self._give_back(left_open(), link, operation, pool, seen)
        pool.release(link)
        return result

    def _give_back(
        self, exc: BaseException, link: Link, operation: str, pool: Pool[Any], seen: Observation | None = None
    ) -> NoReturn:
        """Give a connection back on which a call failed, and raise the error."""
        pool.release(link, broken=not link.recover())
        self._reraise(exc, operation, pool, seen)

    def _reraise(
        self, exc: BaseException, operation: str, pool: Pool[Any], seen: Observation | None = None
    ) -> NoReturn:
        failure = self._failure(exc, operation, pool)
        self._notice(failure, pool)
        if seen is not None:
            seen.failed(failure)
        if failure is exc:
            raise exc
        raise failure from (exc.error if isinstance(exc, FailedPart) else exc)

    def _notice(self, failure: BaseException, pool: Pool[Any]) -> None:
        """Have connections made anew where a server says that it only reads: another one may have taken over."""
        if isinstance(failure, ReadOnlyError) and failure.code == _READ_ONLY:
            pool.renew()

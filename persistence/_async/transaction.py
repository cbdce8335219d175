"""Transactions: commit on success, roll back on any exception, nest as savepoints on the same connection.

Protocol: the task that enters a transaction is its owner, and the database keeps the innermost one of each owner, so
that stores called in the ``with`` block join it. A transaction runs statements only while no nested one is open. One
that is dropped without being ended gives its connection back to be rolled back.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Self

from persistence._async.compat import current_owner
from persistence._async.executor import (
    AsyncExecutor,
    FailedPart,
    Hints,
    Isolation,
    Link,
    Options,
    Parameters,
    Row,
    check_reads,
)
from persistence._async.pool import AsyncPool
from persistence.dialect import Statement, compile_statement
from persistence.errors import (
    CommitUnknownError,
    DeadlineError,
    PersistenceError,
    SavepointError,
    TransactionError,
)
from persistence.fields import Duration
from persistence.observing import Observation

if TYPE_CHECKING:
    from persistence._async.database import AsyncDatabase


class AsyncTransaction(AsyncExecutor):
    """A transaction, or a savepoint in one; it runs statements itself, and so does the database in the same task.

    After a failed statement it can only be rolled back, on every database alike; put what may fail in a nested
    ``transaction()``.
    """

    def __init__(self, database: AsyncDatabase, options: Options, parent: AsyncTransaction | None = None) -> None:
        self.name = database.name
        self.kind = database.kind
        self.dialect = database.dialect
        self._database = database
        self._options = options
        self._parent = parent
        self._child: AsyncTransaction | None = None
        self._owner: object = None
        self._deadline = float("inf")
        self._depth = 0
        self._copying = False
        self._state: Literal["new", "active", "failed", "ended"] = "new"
        self._cause: BaseException | None = None
        self.position: str | None = None
        """Where its commit is in the log, for ``after=``; None before, and where the database knows no replicas."""
        self._link: Link
        self._pool: AsyncPool[Any]
        self._generation = 0
        self._holds = False
        """Whether the connection is its to give back."""
        self._own = weakref.ref(self)

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise TransactionError("a transaction can be entered once", connection=self.name)
        self._owner = current_owner()
        if self._parent is None:
            self._parent = self._database._current()
        if self._options.timeout is not None:
            self._deadline = monotonic() + self._options.timeout
        if self._parent is None:
            await self._begin()
        else:
            await self._savepoint(self._parent)
        self._state = "active"
        self._database._joined[self._owner] = self._own
        return self

    async def _begin(self) -> None:
        database = self._database
        self._pool, self._link = await database._begin(self._options, self._limit(None))
        self._generation = self._pool.generation
        self._holds = True

    def __del__(self) -> None:
        if self._state == "new" and not self._holds:
            return
        if self._database._joined.get(self._owner) is self._own:
            del self._database._joined[self._owner]
        if self._holds and not self.is_foreign:
            self._pool.lose(self._link)

    def _give_back(self, *, broken: bool = False) -> None:
        self._holds = False
        self._pool.release(self._link, broken=broken)

    async def _savepoint(self, parent: AsyncTransaction) -> None:
        parent._check_active()
        wanted, outer = self._options, parent._options
        if wanted.isolation not in (None, outer.isolation) or (wanted.read_only and not outer.read_only):
            raise TransactionError(
                "a nested transaction can't change isolation or access", hint="ask for it on the outermost one"
            )
        if wanted.after > outer.after:
            raise TransactionError("a nested transaction can't wait for a replica", hint="say after= on the outermost")
        self._options = outer
        self._link, self._pool, self._depth = parent._link, parent._pool, parent._depth + 1
        self._generation = parent._generation
        self._deadline = min(self._deadline, parent._deadline)
        await parent._command("savepoint", f"SAVEPOINT holdfast_{self._depth}")
        parent._child = self

    @property
    def is_foreign(self) -> bool:
        """Whether it belongs to the process that this one was forked from."""
        return self._generation != self._pool.generation

    def _limit(self, timeout: Duration | None) -> float:
        return min(self._database._deadline(timeout), self._deadline)

    def _check_active(self) -> None:
        if self._state == "failed":
            raise TransactionError(
                "the transaction failed before and can only be rolled back",
                hint="put a statement that may fail in a nested transaction()",
                connection=self.name,
            ) from self._cause
        if self._state != "active":
            raise TransactionError(f"the transaction is {self._state}", hint="use it inside its 'with' block")
        if self.is_foreign:
            raise TransactionError("the transaction belongs to the process that was forked", connection=self.name)
        if self._copying:
            raise TransactionError(
                "rows are being copied in the transaction",
                hint="the iterable of rows can't use the transaction that takes them",
                connection=self.name,
            )
        if self._child is not None:
            raise SavepointError(
                "a nested transaction is open", hint="run the statement on the nested one", connection=self.name
            )

    def _fail(self, exc: BaseException, operation: str, seen: Observation | None) -> NoReturn:
        """Mark the transaction as failed and raise the error."""
        failure = self._database._failure(exc, operation, self._pool)
        if not self._options.read_only:
            self._database._notice(failure, self._pool)
        if seen is not None:
            seen.failed(failure)
        self._state, self._cause = "failed", failure
        if failure is exc:
            raise exc
        raise failure from (exc.error if isinstance(exc, FailedPart) else exc)

    async def _run(
        self,
        operation: str,
        sql: str,
        parameters: Parameters | None,
        rows: int | None,
        timeout: Duration | None,
        hints: Hints,
    ) -> tuple[list[Row], int]:
        statement = compile_statement(sql, self.kind)
        values = statement.values(parameters)
        self._check_active()
        if hints.read_only:
            self._check_reads([statement], hints)
        seen = self._database.observers.begin(operation, sql)
        try:
            result: tuple[list[Row], int]
            result = await self._link.run(statement, values, rows, self._limit(timeout), hints)
        except BaseException as exc:
            self._fail(exc, operation, seen)
        if seen is not None:
            seen.done(len(result[0]) or result[1])
        return result

    def _check_reads(self, statements: Sequence[Statement], hints: Hints) -> None:
        for statement in statements:
            check_reads(statement)
        if self._options.read_only and hints.after > self._options.after:
            raise TransactionError("a statement can't wait for a replica", hint="say after= on the transaction")

    async def _run_batch(
        self, calls: Sequence[tuple[Statement, Sequence[Any]]], timeout: Duration | None, hints: Hints
    ) -> list[list[Row]]:
        self._check_active()
        if hints.read_only:
            self._check_reads([statement for statement, _ in calls], hints)
        seen = self._database.observers.begin_many("fetch_batch", (each.text for each, _ in calls))
        try:
            found: list[list[Row]] = await self._link.run_batch(calls, False, self._limit(timeout), hints)
        except BaseException as exc:
            self._fail(exc, "fetch_batch", seen)
        if seen is not None:
            seen.done(sum(map(len, found)))
        return found

    async def _copy_into(
        self, table: str, columns: Sequence[str], rows: Iterator[Sequence[Any]], timeout: Duration | None
    ) -> int:
        self._check_active()
        self._copying = True
        seen = self._database.observers.begin("copy_into", f"COPY {table} ({', '.join(columns)})")
        try:
            count: int = await self._link.copy_into(table, columns, rows, False, self._limit(timeout))
        except BaseException as exc:
            self._fail(exc, "copy_into", seen)
        finally:
            self._copying = False
        if seen is not None:
            seen.done(count)
        return count

    async def execute_many(self, sql: str, parameters: Iterable[Parameters], *, timeout: Duration | None = None) -> int:
        """Run a statement for each set of parameters, all or none, and return the number of rows affected."""
        statement = compile_statement(sql, self.kind)
        values = [statement.values(each) for each in parameters]
        self._check_active()
        seen = self._database.observers.begin("execute_many", sql)
        try:
            count: int = await self._link.run_many(statement, values, self._limit(timeout))
        except BaseException as exc:
            self._fail(exc, "execute_many", seen)
        if seen is not None:
            seen.done(count)
        return count

    async def script(self, text: str, *, timeout: Duration | None = None) -> None:
        """Run statements separated by semicolons, without parameters, as they are."""
        await self._command("script", text, timeout)

    async def _command(self, operation: str, text: str, timeout: Duration | None = None) -> None:
        self._check_active()
        seen = self._database.observers.begin(operation, text)
        try:
            await self._link.script(text, self._limit(timeout))
        except BaseException as exc:
            self._fail(exc, operation, seen)
        if seen is not None:
            seen.done(None)

    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        read_only: bool = False,
        timeout: Duration | None = None,
        after: str | None = None,
    ) -> AsyncTransaction:
        """Open a savepoint by ``async with``: its failure undoes its own statements and leaves the rest."""
        nested = self._database.transaction(isolation=isolation, read_only=read_only, timeout=timeout, after=after)
        nested._parent = self
        return nested

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._state not in ("active", "failed"):
            raise SavepointError(f"the transaction is {self._state}", connection=self.name)
        if self._child is not None:
            self._state, self._cause = "failed", SavepointError("a nested transaction was left open")
            self._child._end_early()
        self._leave()
        if exc is None and self._state == "active":
            await (self._commit() if self._parent is None else self._release(self._parent))
            return
        self._state = "ended"
        await (self._roll_back() if self._parent is None else self._roll_back_to(self._parent))
        if exc is None:
            raise TransactionError(
                "rolled back, because a statement in it failed although its error was caught",
                hint="put a statement that may fail in a nested transaction()",
                connection=self.name,
            ) from self._cause

    def _end_early(self) -> None:
        """End with the enclosing transaction, and those within first."""
        if self._child is not None:
            self._child._end_early()
        self._state = "ended"
        self._leave()

    def _leave(self) -> None:
        """Give the owner's place back to the enclosing transaction."""
        if self._parent is not None and self._parent._child is self:
            self._parent._child = None
        joined = self._database._joined
        if joined.get(self._owner) is self._own:
            if self._parent is not None and self._parent._owner == self._owner:
                joined[self._owner] = self._parent._own
            else:
                del joined[self._owner]

    async def _release(self, parent: AsyncTransaction) -> None:
        self._state = "ended"
        await parent._command("release savepoint", f"RELEASE SAVEPOINT holdfast_{self._depth}")

    async def _roll_back_to(self, parent: AsyncTransaction) -> None:
        """Undo the savepoint; where that fails, the enclosing transaction has failed too."""
        name = f"holdfast_{self._depth}"
        if parent._state != "active":
            return
        if not self._link.is_usable():
            parent._state, parent._cause = "failed", self._cause
            return
        await parent._command("rollback to savepoint", f"ROLLBACK TO SAVEPOINT {name}; RELEASE SAVEPOINT {name}")

    async def _commit(self) -> None:
        self._state = "ended"
        if monotonic() >= self._deadline:
            await self._roll_back()
            raise DeadlineError(
                "the transaction's timeout passed before COMMIT; it was rolled back", connection=self.name
            )
        if self._link.is_free():
            self._give_back()
            raise TransactionError(
                "a statement in the transaction had ended it",
                hint="leave that to its 'with' block",
                connection=self.name,
            )
        seen = self._database.observers.begin("commit", "COMMIT")
        try:
            self.position = await self._database._commit(self._link, self._options, self._limit(None))
        except BaseException as exc:
            failure = self._database._failure(exc, "commit", self._pool)
            if seen is not None:
                seen.failed(failure)
            if self._link.is_usable():
                # The server refused it and said so. SQLite, when busy, keeps the transaction open.
                await self._roll_back()
            else:
                self._give_back(broken=True)
                failure = self._unknown(failure)
            if failure is exc:
                raise
            raise failure from exc
        self._give_back()
        if seen is not None:
            seen.done(None)

    def _unknown(self, failure: BaseException) -> BaseException:
        if not isinstance(failure, PersistenceError) or isinstance(failure, TransactionError):
            return failure
        return CommitUnknownError(
            f"the connection broke during COMMIT: {failure.message}",
            hint="the transaction may be durable: look, or repeat it with an idempotency key",
            operation="commit",
            connection=self.name,
            code=failure.code,
        )

    async def _roll_back(self) -> None:
        """Undo; a connection that can't is discarded, at which the server undoes."""
        done = False
        try:
            if self._link.is_usable():
                await self._link.roll_back(self._database._deadline(None))
                done = True
        except Exception:
            # The first error is on its way to the caller and says more than this one.
            self._pool.count_error()
        finally:
            self._give_back(broken=not done and not self._link.recover())

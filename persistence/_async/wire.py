"""A connection to PostgreSQL spoken to through libpq itself, with a deadline on every wait.

Protocol: the caller queues what it has to say by ``pgconn.send_…``, then calls ``exchange``, which sends it and returns
the server's answer; or it queues several statements between ``begin_pipeline`` and ``exchange_pipeline``, which are
sent together and end with one Sync, so that they are one round trip and, outside a transaction block, one transaction.
psycopg dials, and finishes a message that is larger than the socket's buffer; its exceptions say what went wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from time import monotonic
from typing import Any, NoReturn

import psycopg
from psycopg.abc import PQGen, PQGenConn
from psycopg.pq import ConnStatus, ExecStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult
from psycopg.rows import dict_row
from psycopg.waiting import Ready, Wait

from persistence._async.compat import SocketWatch
from persistence._async.executor import Row, too_late

CANCEL_SECONDS = 0.1
"""How long a server gets to take a cancel request for a statement that passed its deadline."""
DRAIN_SECONDS = 5.0
"""How long a server gets to take, and to obey, a cancel request for a statement whose caller gave up."""

# Plain numbers, because libpq's answers are: comparing with a member of an IntEnum is slower.
FATAL_ERROR = int(ExecStatus.FATAL_ERROR)
_PIPELINE_SYNC = int(ExecStatus.PIPELINE_SYNC)
_COPIES = frozenset((int(ExecStatus.COPY_IN), int(ExecStatus.COPY_OUT), int(ExecStatus.COPY_BOTH)))

dial_deadline: ContextVar[float] = ContextVar("holdfast_dial_deadline", default=float("inf"))
"""When the dialling that this task does must end (monotonic seconds)."""


def sending(pgconn: PGconn) -> PQGen[None]:
    """Send what is queued, for ``wait``.

    Where the caller gives up meanwhile psycopg takes it up once more, so that the server has the whole statement before
    it is asked to end it; psycopg's own, as compiled, fails there, and the connection is lost.
    """
    while pgconn.flush():
        ready = yield Wait.RW
        if ready and ready & Ready.R:  # it is None when it is taken up once more
            pgconn.consume_input()


class AsyncWireConnection(psycopg.AsyncConnection[Row]):
    """A psycopg connection each of whose waits ends at ``deadline`` (monotonic seconds), or at one that it is given."""

    deadline = float("inf")

    def __init__(self, pgconn: PGconn, row_factory: Any = dict_row) -> None:
        super().__init__(pgconn, row_factory)
        self._watch = SocketWatch(pgconn.socket, self._arrived)
        self._answers: list[list[PGresult]] = []
        self._results: list[PGresult] = []
        self.is_silent = self._watch.is_silent

    @classmethod
    def _connect_gen(cls, *args: Any, **kwargs: Any) -> PQGenConn[Any]:
        # psycopg bounds dialling in whole seconds, two at least. It wakes this generator every tenth of a second, so
        # that the deadline of the call that dials is held here.
        inner = super()._connect_gen(*args, **kwargs)
        deadline = dial_deadline.get()
        try:
            wanted = next(inner)
            while True:
                ready = yield wanted
                if monotonic() >= deadline:
                    inner.close()
                    raise psycopg.errors.ConnectionTimeout("connection timeout expired")
                wanted = inner.send(ready)
        except StopIteration as done:
            return done.value

    async def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Run one of psycopg's protocol steps until the deadline.

        Raises:
            DeadlineError: it did not end in time. The server was asked to cancel it, and the connection is closed.
        """
        self._watch.stop()
        limit = self.deadline - monotonic()
        if limit > 86400:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, max(limit, 0.001))
        except psycopg.OperationalError as exc:
            if type(exc) is not psycopg.errors._WaitTimeout:
                raise
        await self.give_up()

    async def give_up(self) -> NoReturn:
        """Close the connection, because a deadline has passed, and raise DeadlineError."""
        self.deadline = float("inf")
        try:
            await self.cancel_safe(timeout=CANCEL_SECONDS)
        except psycopg.Error:
            pass  # a server that is gone or stopped has nothing left to cancel
        finally:
            self.hang_up()
        raise too_late()

    def hang_up(self) -> None:
        """Close the connection at once, whatever state it is in."""
        self._watch.stop()
        self.pgconn.finish()

    def stop_watching(self) -> None:
        """Let the event loop leave the socket alone, which libpq closes when the connection breaks."""
        self._watch.stop()

    async def query(self, text: str, deadline: float) -> list[PGresult]:
        """Run statements without parameters and return their results; raises what ``exchange`` does."""
        try:
            self.pgconn.send_query(text.encode(self.info.encoding))
        except psycopg.Error:
            self._watch.stop()
            raise
        return await self.exchange(deadline)

    async def exchange(self, deadline: float, meanwhile: Callable[[], object] | None = None) -> list[PGresult]:
        """Send what is queued and return the server's results for it; failures are results too.

        ``meanwhile`` is called once all is sent. When it raises, and on cancellation, the server is asked to end the
        statement, and what it still says is read.

        Raises:
            DeadlineError: they had not come by ``deadline`` (monotonic seconds). The connection is closed.
            psycopg.OperationalError: the connection is lost.
        """
        self._results = []
        await self._converse(deadline, meanwhile)
        results, self._results = self._results, []
        if not results:
            raise psycopg.OperationalError("the connection was lost")
        return results

    def begin_pipeline(self) -> None:
        """Queue what follows until ``exchange_pipeline``."""
        self.pgconn.enter_pipeline_mode()
        self._answers, self._results = [], []

    async def exchange_pipeline(self, deadline: float) -> list[list[PGresult]]:
        """End the pipeline and return the results of each statement in it; raises what ``exchange`` does.

        What follows a failure is not run, and its result says PIPELINE_ABORTED. A failure of the commit at the end is
        one more answer.
        """
        pgconn = self.pgconn
        try:
            pgconn.pipeline_sync()
            await self._converse(deadline)
        finally:
            self.end_pipeline()
        answers, self._answers = self._answers, []
        if self._results:
            answers.append(self._results)
            self._results = []
        return answers

    def end_pipeline(self) -> None:
        """Leave the pipeline, or the connection where answers are outstanding."""
        if self.pgconn.status != ConnStatus.OK:
            self._watch.stop()
            return
        try:
            self.pgconn.exit_pipeline_mode()
        except psycopg.Error:
            self.hang_up()

    async def _converse(self, deadline: float, meanwhile: Callable[[], object] | None = None) -> None:
        try:
            if self.pgconn.flush():
                self.deadline = deadline
                await self.wait(sending(self.pgconn))
                if self._is_complete():
                    return  # it answered before it had heard everything
            if meanwhile is not None:
                meanwhile()
            if await self._watch.until_arrived(deadline):
                return
        except psycopg.Error:
            # The connection is lost; the server may have said why before it went.
            self._watch.stop()
            if any(result.status == FATAL_ERROR for result in self._results):
                return
            raise
        except BaseException:
            await self._abandon()
            raise
        await self.give_up()

    def _arrived(self) -> bool:
        self.pgconn.consume_input()
        return self._is_complete()

    def _is_complete(self) -> bool:
        """Take the results that have come; tell whether they are all."""
        pgconn = self.pgconn
        while not pgconn.is_busy():
            result = pgconn.get_result()
            if result is None:
                if not (self._results and pgconn.pipeline_status):
                    return True
                self._answers.append(self._results)
                self._results = []
            elif result.status == _PIPELINE_SYNC:
                return True
            else:
                self._results.append(result)
                if result.status in _COPIES:
                    return True  # libpq would repeat this result for ever
        return False

    def failure(self, result: PGresult) -> psycopg.Error:
        """Return psycopg's exception for a result that is a failure."""
        if self.pgconn.status != ConnStatus.OK:
            self._watch.stop()
        if result.status == FATAL_ERROR:
            return psycopg.errors.error_from_result(result, encoding=self.info.encoding)
        if result.status in _COPIES:
            return psycopg.ProgrammingError("COPY can't be run as a statement: its data would have nowhere to go")
        return psycopg.InternalError(f"unexpected answer of the server: {ExecStatus(result.status).name}")

    async def _abandon(self) -> None:
        """End a statement whose caller gave up, so that the connection is as good as before, or else closed.

        A server that is asked before it has read the statement ignores it, and is asked again.
        """
        if self.pgconn.transaction_status != TransactionStatus.ACTIVE:
            return
        until, patience, drained = monotonic() + DRAIN_SECONDS, 0.05, False
        try:
            while not drained and (left := until - monotonic()) > 0:
                await self.cancel_safe(timeout=left)
                drained = await self._watch.until_arrived(min(until, monotonic() + patience))
                patience *= 2
        except psycopg.Error:
            drained = False
        except BaseException:
            self.hang_up()
            raise
        if not drained:
            self.hang_up()

"""Events written beside the caller, many at a time.

Protocol: callers put events at the end of the buffer, one worker writes from its front, and takes away what is stored.
A batch is stored whole or not at all; where an answer was lost it is tried again, and what is stored already is told by
its id. After a failure the buffer is as it was, and the worker tries again after a while or when it is asked to.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self

from persistence._async.compat import Mutex
from persistence.errors import ClosedError, DeadlineError, DuplicateError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_whole
from sessions._async.background import Signal, Worker
from sessions._async.events_base import AsyncEventsBase
from sessions.events import Event, event_row
from sessions.records import micros_of

LONGEST_PAUSE = 5.0
"""The longest time between two tries while the database is away, in seconds."""


class AsyncEventWriter:
    """Takes events at once and stores them in batches; made by ``EventLog.writer``, and used by ``async with``.

    A batch is written when ``size`` events wait or the oldest has waited for ``age`` seconds. At most ``capacity``
    wait: then ``add`` waits for room, or with ``when_full="drop"`` drops the event and counts it in ``dropped``.
    ``flush`` and the end of the block return once everything is stored.

    An error of the database is raised by the next call, unless a later try went well; the events are kept, and tried
    again. Those of a process that dies are lost, and so this is no place for audit events that must be there.
    """

    def __init__(
        self,
        log: AsyncEventsBase,
        *,
        size: int,
        age: Duration,
        capacity: int,
        when_full: Literal["block", "drop"],
        timeout: Duration,
    ) -> None:
        self._log = log
        self._size = check_whole("size", size, most=100_000)
        self._age = micros_of("age", age) / 1e6
        self._capacity = check_whole("capacity", capacity, least=size, most=10_000_000)
        if when_full not in ("block", "drop"):
            raise ValidationError(f"when_full is {str(when_full)[:80]!r}", hint="block or drop")
        self._drops = when_full == "drop"
        self._timeout = micros_of("timeout", timeout) / 1e6
        self._guard = Mutex()
        self._waiting: deque[tuple[float, Event, tuple[Any, ...]]] = deque()
        self._added = self._written = self._dropped = 0
        self._flush_to = 0
        self._error: Exception | None = None
        self._tries = self._failures = 0
        self._retry_at = 0.0
        self._running = self._stopping = False
        self._work, self._change = Signal(), Signal()

    @property
    def pending(self) -> list[Event]:
        """The events that wait to be stored, oldest first."""
        with self._guard:
            return [event for _, event, _ in self._waiting]

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer was full."""
        return self._dropped

    @property
    def written(self) -> int:
        """How many events were stored."""
        return self._written

    def start(self) -> None:
        """Begin to write; ``async with`` does so. A writer whose close failed may be started again."""
        if self._running:
            raise ValidationError("the writer runs already")
        self._running, self._stopping = True, False
        self._worker = Worker(self._run, "holdfast-events")
        self._worker.start()

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def add(self, event: Event) -> bool:
        """Take an event to be stored; False when it was dropped.

        Raises:
            ValidationError: it can't be stored; it was not taken.
            PersistenceError: a batch before it could not be stored, as told; this event was not taken.
            DeadlineError: there was no room within ``timeout`` seconds; it was not taken.
            ClosedError: the writer was not started, or was closed.
        """
        row = event_row(self._log._tenant, event)
        deadline = None
        while True:
            with self._guard:
                self._check_running()
                self._raise_error()
                if len(self._waiting) < self._capacity:
                    self._waiting.append((monotonic(), event, row))
                    self._added += 1
                    is_due = len(self._waiting) in (1, self._size)
                    break
                if self._drops:
                    self._dropped += 1
                    return False
            deadline = monotonic() + self._timeout if deadline is None else deadline
            await self._wait_for_change(deadline, "the buffer was full all the time")
        if is_due:
            self._work.give()
        return True

    async def flush(self) -> None:
        """Return once every event that was added before is stored.

        Raises:
            PersistenceError: they could not be stored; they are kept, and tried again.
            DeadlineError: it took longer than ``timeout`` seconds; they are kept, and tried again.
        """
        deadline = monotonic() + self._timeout
        with self._guard:
            self._check_running()
            target = self._flush_to = self._added
            tries = self._tries
            self._try_at_once()
        while True:
            with self._guard:
                if self._written >= target:
                    return
                if self._tries > tries:
                    self._raise_error()
                elif self._error is not None:  # of a try that was under way
                    self._try_at_once()
            await self._wait_for_change(deadline, "not everything was stored")

    async def aclose(self) -> None:
        """Store what waits, and stop; safe to call twice.

        Raises:
            PersistenceError: not everything could be stored. The writer has stopped; ``pending`` has what is left.
        """
        if not self._running:
            return
        try:
            await self.flush()
        finally:
            self._stopping = True
            self._work.give()
            await self._worker.join()
            self._running = False

    def _check_running(self) -> None:
        if not self._running or self._stopping:
            raise ClosedError("the writer of events doesn't run", hint="use it in a with block, or call start()")

    def _try_at_once(self) -> None:
        self._error, self._retry_at = None, 0.0
        self._work.give()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    async def _wait_for_change(self, deadline: float, problem: str) -> None:
        left = deadline - monotonic()
        if left <= 0:
            raise DeadlineError(f"{problem} within {self._timeout:g} s", hint="is the database slow, or away?")
        # Several may wait, and one of them may take the signal of all.
        await self._change.wait(min(left, 0.05))

    async def _run(self) -> None:
        while not self._stopping:
            await self._work.wait(self._pause())
            while self._is_due():
                await self._write_batch()

    def _pause(self) -> float | None:
        """Return how long nothing is to be done, in seconds; None: until something is added."""
        with self._guard:
            if not self._waiting:
                return None
            is_due = len(self._waiting) >= self._size or self._written < self._flush_to
            due_at = 0.0 if is_due else self._waiting[0][0] + self._age
            return max(due_at - monotonic(), self._retry_at - monotonic(), 0.0)

    def _is_due(self) -> bool:
        with self._guard:
            if self._stopping or not self._waiting or monotonic() < self._retry_at:
                return False
            is_old = monotonic() >= self._waiting[0][0] + self._age
            return is_old or len(self._waiting) >= self._size or self._written < self._flush_to

    async def _write_batch(self) -> None:
        with self._guard:
            self._tries += 1
            rows = [row for _, _, row in islice(self._waiting, self._size)]
        try:
            await self._store(rows)
        except Exception as exc:
            with self._guard:
                self._failures += 1
                self._error = exc
                self._retry_at = monotonic() + min(0.1 * 2 ** min(self._failures, 10), LONGEST_PAUSE)
        else:
            with self._guard:
                for _ in rows:
                    self._waiting.popleft()
                self._written += len(rows)
                self._failures, self._error = 0, None
        self._change.give()

    async def _store(self, rows: Sequence[tuple[Any, ...]]) -> None:
        try:
            await self._log._write(rows)
        except DuplicateError:
            # A batch whose answer was lost, or an event that was added twice: each is looked at by itself.
            for row in rows:
                try:
                    await self._log._write([row])
                except DuplicateError:
                    continue

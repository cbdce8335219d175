# Generated from ../_async/writebehind.py by tests/unasync.py: edit that one.
"""Items written beside the caller, many at a time.

Protocol: callers put items at the end of the buffer. One worker takes a batch from its front and hands it to ``write``;
a batch that failed is handed over again as it was, before anything that came later. Whoever reads or changes the buffer
holds the guard, and nobody waits while holding it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from typing import Any, Generic, Literal, Self, TypeVar
from weakref import WeakSet

from persistence._sync.compat import Background, Mutex, Signal, check_callback, finish
from persistence.errors import ClosedError, DeadlineError, ValidationError
from persistence.fields import Duration
from persistence.retry import Backoff
from persistence.validation import check_duration, check_whole

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting(Generic[T]):
    """An item that waits: since when, and the number of the ``add`` that it came with."""

    since: float
    number: int
    item: T
    key: Hashable


class WriteBehind(Generic[T]):
    """Takes items at once and hands them to ``write`` in batches; used by ``with``, or ``start`` and ``close``.

    A batch is written when ``size`` items wait or the oldest has waited for ``age`` seconds; one is under way at a
    time, in the order of the calls. At most ``capacity`` items are held: then ``add`` waits for room, or with
    ``when_full="drop"`` drops the item and counts it in ``dropped``. ``flush`` and the end of the block return once
    everything is written.

    With ``key`` an item takes the place of one that waits and has the same key: of a value that changes often the last
    one is written. What is under way already is written before it.

    What ``write`` raises is raised by the next call, unless a later try went well. The batch is kept and written again
    as ``backoff`` says, however often it takes, its ``retries`` notwithstanding: so ``write`` must take a batch twice,
    whose answer was lost. **What a process holds when it is killed is lost**: that is the price of not waiting, and an
    ``Outbox`` is for what must not be.

    In a process that was forked it holds nothing and doesn't run until it is started there.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Any],
        *,
        size: int = 100,
        age: Duration = 1.0,
        capacity: int = 10_000,
        when_full: Literal["block", "drop"] = "block",
        key: Callable[[T], Hashable] | None = None,
        timeout: Duration = 60.0,
        backoff: Backoff | None = None,
    ) -> None:
        """Set the bounds; ``timeout`` is how many seconds ``add`` waits for room, ``flush`` and ``close`` for all."""
        check_callback("write", write)
        self._write = write
        self._size = check_whole("size", size, most=100_000)
        self._age = check_duration("age", age)
        self._capacity = check_whole("capacity", capacity, least=size, most=10_000_000)
        if when_full not in ("block", "drop"):
            raise ValidationError(f"when_full is {str(when_full)[:80]!r}", hint="block or drop")
        self._drops = when_full == "drop"
        self._key = key
        self._timeout = check_duration("timeout", timeout)
        self._backoff = backoff or Backoff(base=0.2, cap=5.0)
        self._begin_anew()
        _writers.add(self)

    def _begin_anew(self) -> None:
        """Hold nothing and not run, as in a process that was forked: what its parent held is the parent's to write."""
        self._guard = Mutex()
        self._waiting: deque[_Waiting[T]] = deque()
        self._by_key: dict[Hashable, _Waiting[T]] = {}
        self._under_way: list[_Waiting[T]] = []
        self._added = self._written = self._dropped = self._coalesced = 0
        self._flush_to = 0
        self._error: Exception | None = None
        self._tries = self._failures = 0
        self._retry_at = 0.0
        self._running = self._stopping = False
        self._work, self._change = Signal(), Signal()
        self._background = Background("holdfast-write-behind")

    @property
    def pending(self) -> list[T]:
        """The items that wait to be written, oldest first; those under way too."""
        with self._guard:
            return [each.item for each in (*self._under_way, *self._waiting)]

    @property
    def written(self) -> int:
        """How many items were written."""
        return self._written

    @property
    def dropped(self) -> int:
        """How many items were dropped because the buffer was full."""
        return self._dropped

    @property
    def coalesced(self) -> int:
        """How many items were never written because a later one of the same key took their place."""
        return self._coalesced

    def start(self) -> None:
        """Begin to write; ``with`` does so. One whose close failed may be started again, and goes on.

        Raises:
            ValidationError: it runs already, or a ``write`` that its close did not wait for has not ended yet.
        """
        if self._running:
            raise ValidationError("the writer runs already")
        if self._background.is_running:
            raise ValidationError(
                f"the writer was closed, and write has not ended with {len(self._under_way):,} items",
                hint="make write end: give it a timeout of its own",
            )
        self._running, self._stopping = True, False
        self._background.start(self._run)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, item: T) -> bool:
        """Take an item to be written; False when it was dropped.

        Raises:
            Exception: what ``write`` raised for a batch before it; this item was not taken.
            ValidationError: its key is not hashable; it was not taken.
            DeadlineError: there was no room within ``timeout`` seconds; it was not taken.
            ClosedError: the writer was not started, or was closed.
        """
        key = self._key_of(item)
        deadline = None
        while True:
            with self._guard:
                self._check_running()
                self._raise_error()
                if self._has_replaced(key, item):
                    return True
                if len(self._waiting) + len(self._under_way) < self._capacity:
                    self._append(key, item)
                    is_due = len(self._waiting) in (1, self._size)
                    break
                if self._drops:
                    self._dropped += 1
                    return False
            deadline = monotonic() + self._timeout if deadline is None else deadline
            self._wait_for_change(deadline, "the buffer was full all the time")
        if is_due:
            self._work.give()
        return True

    def flush(self) -> None:
        """Return once every item that was added before is written.

        Raises:
            Exception: what ``write`` raised; the items are kept, and written again.
            DeadlineError: it took longer than ``timeout`` seconds; the items are kept, and written again.
            ClosedError: the writer was not started, or was closed.
        """
        deadline = monotonic() + self._timeout
        with self._guard:
            self._check_running()
            target = self._flush_to = self._added
            tries = self._tries
            self._try_at_once()
        while True:
            with self._guard:
                if self._is_written(target):
                    return
                if self._tries > tries:
                    self._raise_error()
                elif self._error is not None:  # of a try that was under way
                    self._try_at_once()
            self._wait_for_change(deadline, "not everything was written")

    def close(self) -> None:
        """Write what waits, and stop; safe to call twice.

        Raises:
            Exception: what ``write`` raised. The writer has stopped; ``pending`` has what is left.
            DeadlineError: it took longer than ``timeout`` seconds, likewise. A ``write`` that goes on all the same, as
                a thread does, may take place yet: its items leave ``pending`` then.
        """
        if not self._running:
            return
        deadline = monotonic() + self._timeout
        try:
            self.flush()
        finally:
            self._stopping = True
            self._work.give()
            has_ended = self._background.stop(max(deadline - monotonic(), 0.0))
            self._running = False
            if not has_ended:
                raise self._unended()

    def _unended(self) -> DeadlineError:
        with self._guard:
            begun, waiting = len(self._under_way), len(self._waiting)
        return DeadlineError(
            f"write had not ended within {self._timeout:g} s with {begun:,} items, and {waiting:,} more wait",
            hint=f"{self._background.fate}; pending has what is not written. Give write a timeout of its own",
            operation="close",
        )

    def _key_of(self, item: T) -> Hashable:
        if self._key is None:
            return None
        key = self._key(item)
        try:
            hash(key)
        except TypeError as exc:
            raise ValidationError(f"the key of an item is a {type(key).__name__}, which is not hashable") from exc
        return key

    def _has_replaced(self, key: Hashable, item: T) -> bool:
        if self._key is None or (found := self._by_key.get(key)) is None:
            return False
        found.item = item
        self._added += 1
        self._coalesced += 1
        return True

    def _append(self, key: Hashable, item: T) -> None:
        self._added += 1
        self._waiting.append(_Waiting(monotonic(), self._added, item, key))
        if self._key is not None:
            self._by_key[key] = self._waiting[-1]

    def _is_written(self, target: int) -> bool:
        oldest = self._under_way[0] if self._under_way else self._waiting[0] if self._waiting else None
        return oldest is None or oldest.number > target

    def _check_running(self) -> None:
        if not self._running or self._stopping:
            raise ClosedError("the writer doesn't run", hint="use it in a with block, or call start()")

    def _try_at_once(self) -> None:
        self._error, self._retry_at = None, 0.0
        self._work.give()

    def _raise_error(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _wait_for_change(self, deadline: float, problem: str) -> None:
        left = deadline - monotonic()
        if left <= 0:
            raise DeadlineError(
                f"{problem} within {self._timeout:g} s", hint="is what it writes to slow, or away?", operation="write"
            )
        # Several may wait, and one of them may take the signal of all.
        self._change.wait(min(left, 0.05))

    def _run(self) -> None:
        while not self._stopping:
            self._work.wait(self._pause())
            while self._is_due():
                self._write_batch()

    def _pause(self) -> float | None:
        """Return how long nothing is to be done, in seconds; None: until something is added."""
        with self._guard:
            if self._under_way:  # of a try that failed
                return max(self._retry_at - monotonic(), 0.0)
            if not self._waiting:
                return None
            is_due = len(self._waiting) >= self._size or not self._is_written(self._flush_to)
            return 0.0 if is_due else max(self._waiting[0].since + self._age - monotonic(), 0.0)

    def _is_due(self) -> bool:
        with self._guard:
            if self._stopping or monotonic() < self._retry_at:
                return False
            if self._under_way:
                return True
            if not self._waiting:
                return False
            is_old = monotonic() >= self._waiting[0].since + self._age
            return is_old or len(self._waiting) >= self._size or not self._is_written(self._flush_to)

    def _write_batch(self) -> None:
        with self._guard:
            self._tries += 1
            if not self._under_way:
                self._under_way = [self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))]
                if self._key is not None:
                    for each in self._under_way:
                        del self._by_key[each.key]
            batch = [each.item for each in self._under_way]
        try:
            finish("write", self._write(batch))
        except Exception as exc:
            with self._guard:
                self._error = exc
                self._retry_at = monotonic() + self._backoff.delay(self._failures)
                self._failures += 1
        else:
            with self._guard:
                self._under_way = []
                self._written += len(batch)
                self._failures, self._error, self._retry_at = 0, None, 0.0
        self._change.give()


_writers: WeakSet[WriteBehind[Any]] = WeakSet()


def _after_fork() -> None:
    for writer in list(_writers):
        writer._begin_anew()


os.register_at_fork(after_in_child=_after_fork)

# Generated from ../_async/events_writer.py by tests/unasync.py: edit that one.
"""Events written beside the caller, many at a time: a ``WriteBehind`` whose batches are stored once.

A batch is stored whole or not at all; where an answer was lost it is tried again, and what is stored already is told by
its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self

from persistence import WriteBehind
from persistence.errors import DuplicateError
from persistence.fields import Duration
from sessions._sync.events_base import EventsBase
from sessions.events import Event, event_row


class EventWriter:
    """Takes events at once and stores them in batches; made by ``EventLog.writer``, and used by ``with``.

    A batch is written when ``size`` events wait or the oldest has waited for ``age`` seconds. At most ``capacity``
    wait: then ``add`` waits for room, or with ``when_full="drop"`` drops the event and counts it in ``dropped``.
    ``flush`` and the end of the block return once everything is stored.

    An error of the database is raised by the next call, unless a later try went well; the events are kept, and tried
    again. Those of a process that dies are lost, and so this is no place for audit events that must be there.
    """

    def __init__(
        self,
        log: EventsBase,
        *,
        size: int,
        age: Duration,
        capacity: int,
        when_full: Literal["block", "drop"],
        timeout: Duration,
    ) -> None:
        self._log = log
        self._buffer = WriteBehind[tuple[Event, tuple[Any, ...]]](
            self._store, size=size, age=age, capacity=capacity, when_full=when_full, timeout=timeout
        )

    @property
    def pending(self) -> list[Event]:
        """The events that wait to be stored, oldest first."""
        return [event for event, _ in self._buffer.pending]

    @property
    def dropped(self) -> int:
        """How many events were dropped because the buffer was full."""
        return self._buffer.dropped

    @property
    def written(self) -> int:
        """How many events were stored."""
        return self._buffer.written

    def start(self) -> None:
        """Begin to write; ``with`` does so. A writer whose close failed may be started again."""
        self._buffer.start()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def add(self, event: Event) -> bool:
        """Take an event to be stored; False when it was dropped.

        Raises:
            ValidationError: it can't be stored; it was not taken.
            PersistenceError: a batch before it could not be stored, as told; this event was not taken.
            DeadlineError: there was no room within ``timeout`` seconds; it was not taken.
            ClosedError: the writer was not started, or was closed.
        """
        [event], [row] = self._log._rows([event], [event_row(self._log._tenant, event)])
        return self._buffer.add((event, row))

    def flush(self) -> None:
        """Return once every event that was added before is stored.

        Raises:
            PersistenceError: they could not be stored; they are kept, and tried again.
            DeadlineError: it took longer than ``timeout`` seconds; they are kept, and tried again.
        """
        self._buffer.flush()

    def close(self) -> None:
        """Store what waits, and stop; safe to call twice.

        Raises:
            PersistenceError: not everything could be stored. The writer has stopped; ``pending`` has what is left.
            DeadlineError: it took longer than ``timeout`` seconds, likewise. A batch that a server has already, or that
                waits for the lock of a file, may be stored yet: its events leave ``pending`` then.
        """
        self._buffer.close()

    def _store(self, batch: Sequence[tuple[Event, tuple[Any, ...]]]) -> None:
        rows = [row for _, row in batch]
        try:
            self._log._write(rows)
        except DuplicateError:
            # A batch whose answer was lost, or an event that was added twice: each is looked at by itself.
            for row in rows:
                try:
                    self._log._write([row])
                except DuplicateError:
                    continue

"""Watching statements: what listeners are told of each, and the log of slow ones.

An event holds a statement's text with its ``:names``, never a value of a parameter. Nothing here runs, and no clock is
read, while nobody listens and no threshold is set.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import NamedTuple

SHOWN_CHARACTERS = 500
"""How much of a slow statement the log shows."""

_log = logging.getLogger("persistence.slow")


class StatementEvent(NamedTuple):
    """A statement, a batch of them (joined by ``;``) or a Redis command that has ended.

    ``seconds`` include the wait for a connection. ``rows`` is how many rows were returned or affected, None where it
    failed or isn't known; ``error`` what the caller got instead.
    """

    connection: str
    kind: str
    operation: str
    statement: str
    seconds: float
    rows: int | None = None
    error: BaseException | None = None


Listener = Callable[[StatementEvent], object]


class Observers:
    """Who watches a connection: the listeners of its manager, and the threshold (seconds) of its slow log."""

    __slots__ = ("connection", "kind", "listeners", "threshold")

    def __init__(self, connection: str, kind: str, threshold: float | None) -> None:
        self.connection = connection
        self.kind = kind
        self.threshold = threshold
        self.listeners: list[Listener] = []

    def begin(self, operation: str, statement: str) -> Observation | None:
        """Return the observation of a statement that begins now; None when nobody watches."""
        if self.listeners or self.threshold is not None:
            return Observation(self, operation, statement)
        return None

    def begin_many(self, operation: str, statements: Iterable[str]) -> Observation | None:
        """Return the observation of statements that begin now together."""
        if self.listeners or self.threshold is not None:
            return Observation(self, operation, "; ".join(statements))
        return None


class Observation:
    """A statement under way; one of its methods is called when it has ended."""

    __slots__ = ("_observers", "_operation", "_started", "_statement")

    def __init__(self, observers: Observers, operation: str, statement: str) -> None:
        self._observers = observers
        self._operation = operation
        self._statement = statement
        self._started = monotonic()

    def done(self, rows: int | None) -> None:
        """Report that it went well."""
        self._report(rows, None)

    def failed(self, error: BaseException) -> None:
        """Report what the caller gets instead of a result."""
        self._report(None, error)

    def _report(self, rows: int | None, error: BaseException | None) -> None:
        observers, taken = self._observers, monotonic() - self._started
        if observers.threshold is not None and taken >= observers.threshold:
            text = " ".join(self._statement.split())
            _log.warning(
                "%s: %s took %.3f s%s: %s",
                observers.connection,
                self._operation,
                taken,
                "" if error is None else f" and failed with {type(error).__name__}",
                text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…",
            )
        if observers.listeners:
            event = StatementEvent(
                observers.connection, observers.kind, self._operation, self._statement, taken, rows, error
            )
            for listener in tuple(observers.listeners):
                try:
                    listener(event)
                except Exception:
                    # The statement has taken effect: its caller must not take it for failed.
                    _log.exception("%s: a listener failed", observers.connection)

# Generated from ../_async/group.py by tests/unasync.py: edit that one.
"""Group commit: saves that come while others are on their way share the next round trip and commit.

A save that finds fewer than ``LEADERS`` under way goes by itself, at once. Any other waits in the queue, and as soon as
one under way has ended, its first becomes the leader of all that wait: one batch, one commit. So nobody waits on
purpose, a lone writer pays nothing, and the more write the more share a commit (DeWitt et al., 1984).

A batch in which a statement fails is rolled back as a whole, and its members go one by one. They are ordered by thread,
so that two batches never wait for each other's locks in a circle.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from persistence._sync.compat import Mutex, Waiter, undisturbed
from persistence._sync.database import Database
from persistence.errors import (
    CommitUnknownError,
    ConnectionLostError,
    DeadlineError,
    PersistenceError,
    UnavailableError,
)

LEADERS = 2
"""How many batches are under way at once: while the disk syncs one, the next one is worked on."""
MOST = 64
"""How many saves share a commit at most."""
MOST_BYTES = 4 * 1024 * 1024
"""A batch isn't made larger than this, its first save aside."""
_UNKNOWN = (CommitUnknownError, ConnectionLostError, DeadlineError, UnavailableError)


class _Item:
    """A save that waits for its turn."""

    def __init__(self, statement: str, values: dict[str, Any]) -> None:
        self.statement = statement
        self.values = values
        self.size = len(values["data"] or b"")
        self.turn: Waiter[_Turn] = Waiter()

    @property
    def order(self) -> tuple[str, str, str]:
        return self.values["tenant"], self.values["thread"], self.values["namespace"]


class _Turn(NamedTuple):
    """What a waiting save is told: to lead a batch, to go alone, or how it went."""

    batch: list[_Item] | None = None
    saved: bool | None = None
    failure: PersistenceError | None = None


class GroupCommit:
    """The saves of one checkpointer that are on their way."""

    def __init__(self) -> None:
        self._mutex = Mutex()
        self._leaders = 0
        self._queue: list[_Item] = []

    def run(self, database: Database, statement: str, values: dict[str, Any]) -> bool:
        """Run a save, alone or with others; tell whether it changed anything.

        Raises:
            PersistenceError: as from ``execute``.
        """
        with self._mutex:
            goes = self._leaders < LEADERS
            if goes:
                self._leaders += 1
            else:
                item = _Item(statement, values)
                self._queue.append(item)
        if goes:
            try:
                return bool(database.execute(statement, values))
            finally:
                self._pass_on()
        # Those before it end within the timeout of a statement, and so does its own batch.
        turn = self._await_turn(item, 2 * database.timeout)
        if turn.batch is not None:
            return undisturbed(lambda: self._lead(database, item, turn.batch or []))
        if turn.failure is not None:
            raise turn.failure
        return bool(database.execute(statement, values)) if turn.saved is None else turn.saved

    def _await_turn(self, item: _Item, timeout: float) -> _Turn:
        turn = None
        try:
            turn = item.turn.wait(timeout)
        finally:
            if turn is None:
                turn = item.turn.give_up()
                with self._mutex:
                    waits = item in self._queue
                    if waits:
                        self._queue.remove(item)
                if turn is not None and turn.batch is not None:
                    # Its turn came at the last moment: another has to lead.
                    self._pass_on(turn.batch[1:])
                    turn = None
        if turn is None:
            raise DeadlineError(
                "a save did not end within its timeout",
                hint="it was not sent" if waits else "it may have been saved: look, or save it again with its key",
                operation="save_checkpoint",
            )
        return turn

    def _lead(self, database: Database, mine: _Item, batch: list[_Item]) -> bool:
        """Save a batch, tell its other members how it went, and return how it went for this one."""
        others = [item for item in batch if item is not mine]
        batch = sorted(batch, key=lambda item: item.order)
        failure: PersistenceError | None = None
        try:
            if not others:
                return bool(database.execute(mine.statement, mine.values))
            calls = [(f"{item.statement}\nRETURNING version", item.values) for item in batch]
            found = database.fetch_batch(calls)
        except PersistenceError as exc:
            failure = exc
        except BaseException:
            for item in others:
                item.turn.hand_over(_Turn(failure=CommitUnknownError("the save it shared a commit with was stopped")))
            raise
        finally:
            self._pass_on()
        if failure is None:
            saved = dict(zip(map(id, batch), map(bool, found), strict=True))
            for item in others:
                item.turn.hand_over(_Turn(saved=saved[id(item)]))
            return saved[id(mine)]
        if not others:
            raise failure
        # What is known to be undone is done again, one by one; what may have been done is for the caller to look at.
        is_unknown = isinstance(failure, _UNKNOWN)
        for item in others:
            item.turn.hand_over(_Turn(failure=_copy(failure)) if is_unknown else _Turn())
        if is_unknown:
            raise failure
        return bool(database.execute(mine.statement, mine.values))

    def _pass_on(self, batch: list[_Item] | None = None) -> None:
        """Let the next lead, with all that wait; without any there is one leader less."""
        with self._mutex:
            waiting = (batch or []) + self._queue
            while waiting:
                size, count = 0, 0
                for item in waiting[:MOST]:
                    size += item.size
                    if count and size > MOST_BYTES:
                        break
                    count += 1
                mine, self._queue = waiting[:count], waiting[count:]
                if mine[0].turn.hand_over(_Turn(batch=mine)):
                    return
                waiting = mine[1:] + self._queue
            self._queue = []
            self._leaders -= 1


def _copy(failure: PersistenceError) -> PersistenceError:
    """Return the same error for another caller: a traceback belongs to one."""
    copied = type(failure)(
        failure.message, hint=failure.hint, operation=failure.operation, connection=failure.connection
    )
    copied.__cause__ = failure
    return copied

# Generated from ../_async/pool.py by tests/unasync.py: edit that one.
"""A pool of driver connections with the behaviour of Go's ``sql.DB``.

It has no thread or task of its own: a connection is opened by the caller that needs it, checked when it is taken and
thrown away when it is dead, too old or idle for too long. Waiters are served first in, first out; who would wait for
ever, because those who have the connections wait for one themselves, is told so at once.

Protocol: ``_mutex`` guards every field and is never held across a wait. A slot (``_open``) is taken before a
connection is dialled and given back if that fails. A released connection, or a freed slot, goes straight to the
oldest waiter, so nobody can overtake it. A destructor may run at any moment, also while its thread has ``_mutex``: it
only leaves a note in ``_lost``, which is seen to right after.
"""

from __future__ import annotations

import logging
import os
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from persistence._sync.compat import Mutex, Waiter, check_home, current_home, current_owner, when_free
from persistence.errors import ClosedError, NestedCheckoutError, PoolFullError, PoolTimeoutError
from persistence.health import PoolStats
from persistence.places import Place, show_place

SURPLUS_SECONDS = 10.0
"""How long a connection beyond ``max_idle`` may stay idle: a burst that comes back finds it open."""
LOOK_SECONDS = 0.5
"""How often who waits looks for connections that were lost, or are out for too long."""
SHOWN_PLACES = 3
"""How many places an error names."""

_log = logging.getLogger("persistence.leaks")


class Poolable(Protocol):
    """What the pool asks of a driver connection; its calls return at once."""

    def is_alive(self) -> bool:
        """Tell whether the server still holds the other end, without a round trip."""

    def discard(self) -> None:
        """Close it, whatever state it is in; nobody else uses it."""

    def interrupt(self) -> None:
        """Make what another thread or task does on it fail now."""

    def recover(self) -> bool:
        """Undo what a call that was cut short left open, where that needs no wait; tell whether it is free then."""


class Dedicated(Protocol):
    """What holds a connection outside the pool, as a subscription does."""

    def cut_off(self) -> None:
        """Close it, because the database or server that it belongs to is closed."""


C = TypeVar("C", bound=Poolable)


class _Entry(Generic[C]):
    __slots__ = ("connection", "expires_at", "idle_since", "owner", "place", "reported", "taken_at")

    def __init__(self, connection: C, expires_at: float) -> None:
        self.connection = connection
        self.expires_at = expires_at
        self.idle_since = 0.0
        self.taken_at = 0.0
        self.owner: object = None
        self.place: Place | None = None
        self.reported = False


class Pool(Generic[C]):
    """At most ``max_open`` connections made by ``connect(deadline)``; durations in seconds."""

    def __init__(
        self,
        name: str,
        connect: Callable[[float], C],
        *,
        max_open: int,
        max_idle: int,
        max_lifetime: float = float("inf"),
        max_idle_time: float = float("inf"),
        leak_after: float | None = None,
        max_waiting: int | None = None,
    ) -> None:
        self._name = name
        self._connect = connect
        self._max_open = max_open
        self._max_idle = max_idle
        self._max_lifetime = max_lifetime
        self._max_idle_time = max_idle_time
        self._leak_after = leak_after
        self._max_waiting = max_waiting
        self._look_at = 0.0
        """When to look for connections that are out for too long (monotonic seconds)."""
        self._requests = self._errors = self._waits = self._opened = self._discarded = 0
        self._wait_seconds = 0.0
        self._closed = False
        self.generation = 0
        """Grows when a fork makes every earlier connection somebody else's."""
        self._home = current_home()
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._mutex = Mutex()
        self._idle: deque[_Entry[C]] = deque()
        self._busy: dict[int, _Entry[C]] = {}
        self._waiters: deque[Waiter[_Entry[C] | bool]] = deque()
        self._lost: deque[C] = deque()
        self._open = 0

    def forget(self) -> None:
        """Start empty in a child process: the connections belong to the parent, and closing them would end its."""
        _parents.append((list(self._idle), dict(self._busy)))
        self.generation += 1
        self._reset()

    def acquire(self, deadline: float, place: Place | None = None) -> C:
        """Return a connection that was alive just now; ``place`` says where, if it is to be held beyond one call.

        Raises:
            PoolTimeoutError: all are in use and none came back before ``deadline`` (monotonic seconds).
            NestedCheckoutError: all are in use, and those who have them wait for one themselves.
            PoolFullError: all are in use, and ``max_waiting`` callers wait for one.
            ClosedError: the pool was closed.
            ConnectError: a new connection could not be made.
        """
        check_home(self._home, self._name)
        if self._lost or self._leak_after is not None:
            self._look()
        owner = current_owner()
        dead: list[_Entry[C]] = []
        waiter: Waiter[_Entry[C] | bool] | None = None
        with self._mutex:
            self._check_open()
            self._requests += 1
            entry = self._take_idle(dead)
            if entry is None:
                if self._open < self._max_open:
                    self._open += 1
                else:
                    self._check_waiting(owner)
                    if self._max_waiting is not None and len(self._waiters) >= self._max_waiting:
                        raise self._full_error(self._max_waiting)
                    waiter = Waiter(owner)
                    self._waiters.append(waiter)
                    self._waits += 1
        for other in dead:
            other.connection.discard()
        if waiter is not None:
            entry = self._wait(waiter, deadline)
        if entry is None:
            entry = self._dial(deadline)
        entry.owner, entry.place = owner, place
        if self._leak_after is not None:
            entry.taken_at, entry.reported = monotonic(), False
        return entry.connection

    def _check_waiting(self, owner: object) -> None:
        """Refuse to wait where no connection can come back: each one's owner waits for one."""
        held = [entry for entry in self._busy.values() if entry.owner == owner]
        if not held or len(self._busy) < self._open:
            return  # it has none, or one is being made
        waiting = {waiter.owner for waiter in self._waiters}
        if all(entry.owner in waiting for entry in self._busy.values() if entry.owner != owner):
            raise NestedCheckoutError(
                f"a connection is needed by who has {'one' if len(held) == 1 else len(held)} already, and "
                + ("there is no other" if self._max_open == 1 else f"all {self._max_open} are held by such")
                + _places(held),
                hint="use the transaction that is open, end it first, or raise the pool size",
                connection=self._name,
            )

    def _full_error(self, limit: int) -> PoolFullError:
        return PoolFullError(
            f"all {self._max_open} connections are in use, and {limit} callers wait for one (max_waiting)"
            + _places(self._busy.values()),
            hint="try again later, shorten transactions, or raise max_waiting or the pool size",
            connection=self._name,
        )

    def _take_idle(self, dead: list[_Entry[C]]) -> _Entry[C] | None:
        now = monotonic()
        while self._idle:
            entry = self._idle.pop()
            if now < entry.expires_at and now - entry.idle_since < self._max_idle_time and entry.connection.is_alive():
                self._busy[id(entry.connection)] = entry
                return entry
            self._open -= 1
            self._discarded += 1
            dead.append(entry)
        return None

    def _wait(self, waiter: Waiter[_Entry[C] | bool], deadline: float) -> _Entry[C] | None:
        """Wait for a released connection (returned) or a free slot (None)."""
        started = monotonic()
        got: _Entry[C] | bool | None = None
        try:
            while got is None and (left := deadline - monotonic()) > 0:
                got = waiter.wait(min(left, LOOK_SECONDS))
                if got is None:
                    self._look()
        finally:
            if got is None:
                with self._mutex:
                    late = waiter.give_up()
                    if late is None:
                        self._waiters.remove(waiter)
                if late is not None:
                    self._pass_on(late)
            with self._mutex:
                self._wait_seconds += monotonic() - started
        if got is None:
            with self._mutex:
                held = list(self._busy.values())
            raise PoolTimeoutError(
                f"all {self._max_open} connections stayed in use for {monotonic() - started:.1f} s{_places(held)}",
                hint="raise the pool size, shorten transactions, or look for a connection that is never given back",
                connection=self._name,
            )
        if got is False:
            self._check_open()
        return None if isinstance(got, bool) else got

    def _pass_on(self, got: _Entry[C] | bool) -> None:
        """Give away what arrived just as its waiter gave up."""
        if isinstance(got, _Entry):
            self.release(got.connection)
        elif got:
            with self._mutex:
                self._free_slot()

    def _dial(self, deadline: float) -> _Entry[C]:
        """Open a connection in a slot that is already ours."""
        try:
            connection = self._connect(deadline)
        except BaseException:
            with self._mutex:
                self._free_slot()
            raise
        # A tenth of jitter, so that connections opened together don't all expire together.
        lifetime = self._max_lifetime * (1 - 0.1 * random.random())
        with self._mutex:
            if not self._closed:
                self._opened += 1
                entry = self._busy[id(connection)] = _Entry(connection, monotonic() + lifetime)
                return entry
        connection.discard()
        raise self._closed_error()

    def _free_slot(self) -> None:
        while self._waiters:
            if self._waiters.popleft().hand_over(True):
                return
        self._open -= 1

    def release(self, connection: C, *, broken: bool = False) -> None:
        """Take a connection back; a broken one is discarded, and its slot is free."""
        surplus: list[C] = []
        with self._mutex:
            entry = self._busy.pop(id(connection), None)
            if entry is None:
                return  # the pool was closed, or forgotten by a fork, meanwhile
            entry.owner = entry.place = None
            now = monotonic()
            if broken or self._closed or now >= entry.expires_at:
                self._discarded += 1
                surplus.append(connection)
                self._free_slot()
            elif not self._hand_over(entry):
                entry.idle_since = now
                self._idle.append(entry)
                self._trim(now, surplus)
        for other in surplus:
            other.discard()

    def _hand_over(self, entry: _Entry[C]) -> bool:
        while self._waiters:
            self._busy[id(entry.connection)] = entry
            waiter = self._waiters.popleft()
            entry.owner = waiter.owner  # until it wakes up and says so itself
            if waiter.hand_over(entry):
                return True
            entry.owner = None
            del self._busy[id(entry.connection)]
        return False

    def _trim(self, now: float, surplus: list[C]) -> None:
        while self._idle:
            limit = self._max_idle_time
            if len(self._idle) > self._max_idle:
                limit = min(limit, SURPLUS_SECONDS)
            if now - self._idle[0].idle_since < limit:
                return
            surplus.append(self._idle.popleft().connection)
            self._open -= 1
            self._discarded += 1

    def renew(self) -> None:
        """Discard the idle connections now, and those in use when they come back: all are to be made anew."""
        with self._mutex:
            idle = list(self._idle)
            self._idle.clear()
            self._open -= len(idle)
            self._discarded += len(idle)
            for entry in self._busy.values():
                entry.expires_at = 0.0
        for entry in idle:
            entry.connection.discard()

    def lose(self, connection: C) -> None:
        """Take back a connection whose holder was dropped with it; a destructor may call this."""
        self._lost.append(connection)
        when_free(self._home, self._mutex, self._look)

    def _look(self) -> None:
        """See to the connections that were lost, and report those that are out for too long."""
        while self._lost:
            self._reclaim(self._lost.popleft())
        if self._leak_after is not None and monotonic() >= self._look_at:
            self._report_leaks(self._leak_after)

    def _reclaim(self, connection: C) -> None:
        with self._mutex:
            entry = self._busy.get(id(connection))
        if entry is None:
            return  # the pool was forgotten by a fork
        _log.warning("%s: a connection was dropped without being given back%s", self._name, _places([entry]))
        self.release(connection, broken=not connection.recover())

    def _report_leaks(self, limit: float) -> None:
        now = monotonic()
        with self._mutex:
            self._look_at = now + limit / 10
            found = [each for each in self._busy.values() if each.place and now - each.taken_at >= limit]
            leaks = [each for each in found if not each.reported]
            for each in leaks:
                each.reported = True
        for each in leaks:
            _log.warning("%s: a connection has been out for %.1f s%s", self._name, now - each.taken_at, _places([each]))

    def count_error(self) -> None:
        """Count a failed operation in the statistics."""
        with self._mutex:
            self._errors += 1

    def stats(self) -> PoolStats:
        """Return the pool's state now."""
        self._look()
        with self._mutex:
            return PoolStats(
                open=self._open,
                in_use=self._open - len(self._idle),
                idle=len(self._idle),
                waiting=len(self._waiters),
                max_open=self._max_open,
                max_idle=self._max_idle,
                requests=self._requests,
                errors=self._errors,
                waits=self._waits,
                wait_seconds=self._wait_seconds,
                opened=self._opened,
                discarded=self._discarded,
            )

    def close(self) -> None:
        """Discard the idle connections, make calls under way fail and wake the waiters; safe to call twice."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            idle, busy, waiters = list(self._idle), list(self._busy.values()), list(self._waiters)
            self._idle.clear()
            self._waiters.clear()
            self._open -= len(idle)
        for waiter in waiters:
            waiter.hand_over(False)
        for entry in idle:
            entry.connection.discard()
        for entry in busy:
            entry.connection.interrupt()

    def check_usable(self) -> None:
        """Refuse use of a closed pool, or from another event loop."""
        check_home(self._home, self._name)
        self._check_open()

    def _check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> ClosedError:
        return ClosedError("it was closed", hint="add it to a manager again", connection=self._name)

    @property
    def load(self) -> int:
        """How many connections are in use or waited for."""
        return self._open - len(self._idle) + len(self._waiters)

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed


def _places(entries: Iterable[_Entry[Any]]) -> str:
    """Return where connections were taken that are held beyond one call, for a message."""
    found = dict.fromkeys(show_place(entry.place) for entry in entries if entry.place is not None)
    shown = ", ".join(list(found)[:SHOWN_PLACES])
    more = len(found) - SHOWN_PLACES
    return (f"; taken at {shown}" if shown else "") + (f" and {more} other places" if more > 0 else "")


_pools: weakref.WeakSet[Pool[Any]] = weakref.WeakSet()
_parents: list[object] = []
"""In a child process: the parent's connections, kept so that no destructor ever closes them."""


def _after_fork() -> None:
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_after_fork)

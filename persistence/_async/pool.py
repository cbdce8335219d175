"""A pool of driver connections with the behaviour of Go's ``sql.DB``.

It has no thread or task of its own: a connection is opened by the caller that needs it, checked when it is taken and
thrown away when it is dead, too old or idle for too long. Waiters are served first in, first out.

Protocol: ``_mutex`` guards every field and is never held across a wait. A slot (``_open``) is taken before a
connection is dialled and given back if that fails. A released connection, or a freed slot, goes straight to the
oldest waiter, so nobody can overtake it.
"""

from __future__ import annotations

import os
import random
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, Generic, Protocol, TypeVar

from persistence._async.compat import Mutex, Waiter, check_home, current_home
from persistence.errors import ClosedError, PoolTimeoutError
from persistence.health import PoolStats

SURPLUS_SECONDS = 10.0
"""How long a connection beyond ``max_idle`` may stay idle: a burst that comes back finds it open."""


class Poolable(Protocol):
    """What the pool asks of a driver connection; both calls return at once."""

    def is_alive(self) -> bool:
        """Tell whether the server still holds the other end, without a round trip."""

    def discard(self) -> None:
        """Close it, whatever state it is in; nobody else uses it."""

    def interrupt(self) -> None:
        """Make what another thread or task does on it fail now."""


class AsyncDedicated(Protocol):
    """What holds a connection outside the pool, as a subscription does."""

    async def cut_off(self) -> None:
        """Close it, because the database or server that it belongs to is closed."""


C = TypeVar("C", bound=Poolable)


class _Entry(Generic[C]):
    __slots__ = ("connection", "expires_at", "idle_since")

    def __init__(self, connection: C, expires_at: float) -> None:
        self.connection = connection
        self.expires_at = expires_at
        self.idle_since = 0.0


class AsyncPool(Generic[C]):
    """At most ``max_open`` connections made by ``connect(deadline)``; durations in seconds."""

    def __init__(
        self,
        name: str,
        connect: Callable[[float], Awaitable[C]],
        *,
        max_open: int,
        max_idle: int,
        max_lifetime: float = float("inf"),
        max_idle_time: float = float("inf"),
    ) -> None:
        self._name = name
        self._connect = connect
        self._max_open = max_open
        self._max_idle = max_idle
        self._max_lifetime = max_lifetime
        self._max_idle_time = max_idle_time
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
        self._open = 0

    def forget(self) -> None:
        """Start empty in a child process: the connections belong to the parent, and closing them would end its."""
        _parents.append((list(self._idle), dict(self._busy)))
        self.generation += 1
        self._reset()

    async def acquire(self, deadline: float) -> C:
        """Return a connection that was alive just now.

        Raises:
            PoolTimeoutError: all are in use and none came back before ``deadline`` (monotonic seconds).
            ClosedError: the pool was closed.
            ConnectError: a new connection could not be made.
        """
        check_home(self._home, self._name)
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
                    waiter = Waiter()
                    self._waiters.append(waiter)
                    self._waits += 1
        for other in dead:
            other.connection.discard()
        if waiter is not None:
            entry = await self._wait(waiter, deadline)
        return entry.connection if entry is not None else await self._dial(deadline)

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

    async def _wait(self, waiter: Waiter[_Entry[C] | bool], deadline: float) -> _Entry[C] | None:
        """Wait for a released connection (returned) or a free slot (None)."""
        started = monotonic()
        got: _Entry[C] | bool | None = None
        try:
            got = await waiter.wait(deadline - started)
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
            raise PoolTimeoutError(
                f"all {self._max_open} connections stayed in use for {monotonic() - started:.1f} s",
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

    async def _dial(self, deadline: float) -> C:
        """Open a connection in a slot that is already ours."""
        try:
            connection = await self._connect(deadline)
        except BaseException:
            with self._mutex:
                self._free_slot()
            raise
        # A tenth of jitter, so that connections opened together don't all expire together.
        lifetime = self._max_lifetime * (1 - 0.1 * random.random())
        with self._mutex:
            if not self._closed:
                self._opened += 1
                self._busy[id(connection)] = _Entry(connection, monotonic() + lifetime)
                return connection
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
            if self._waiters.popleft().hand_over(entry):
                return True
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

    def count_error(self) -> None:
        """Count a failed operation in the statistics."""
        with self._mutex:
            self._errors += 1

    def stats(self) -> PoolStats:
        """Return the pool's state now."""
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


_pools: weakref.WeakSet[AsyncPool[Any]] = weakref.WeakSet()
_parents: list[object] = []
"""In a child process: the parent's connections, kept so that no destructor ever closes them."""


def _after_fork() -> None:
    for pool in list(_pools):
        pool.forget()


os.register_at_fork(after_in_child=_after_fork)

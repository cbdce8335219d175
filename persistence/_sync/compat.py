# unasync: skip
"""What differs by nature between asyncio and threads, under the names that both sides share."""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from inspect import isawaitable, iscoroutinefunction
from queue import SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar, TypeVarTuple

from persistence.errors import ConfigError, PersistenceError, ValidationError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Lock = threading.Lock
Mutex = threading.Lock
ReentrantMutex = threading.RLock
sleep = time.sleep
current_owner = threading.get_ident

_LEEWAY = 0.5
"""How many seconds longer than it was told a thread is waited for, which no one can end from outside."""
_THREADS = 64
"""The most threads of one ``Parallel``."""


class Waiter(Generic[T]):
    """A one-shot hand-over of a value from one thread to another."""

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        """Who waits, as ``current_owner`` says."""
        self._arrived = threading.Lock()
        self._arrived.acquire()
        self._guard = threading.Lock()
        self._gone = False
        self._value: T | None = None

    def hand_over(self, value: T) -> bool:
        """Give the value; False when the waiter has gone."""
        with self._guard:
            if self._gone:
                return False
            self._value = value
            self._arrived.release()
            return True

    def wait(self, timeout: float) -> T | None:
        """Return the value, or None when none came within ``timeout`` seconds."""
        return self._value if self._arrived.acquire(timeout=max(0.0, timeout)) else None

    def give_up(self) -> T | None:
        """Take no value from now on; return one that had come already."""
        with self._guard:
            self._gone = True
            return self._value


def check_callback(what: str, function: object) -> None:
    """Refuse what can't be called here.

    Raises:
        ValidationError: it is no function.
        ConfigError: it is asynchronous.
    """
    if not callable(function):
        raise ValidationError(f"{what} is a {type(function).__name__}, which can't be called")
    if iscoroutinefunction(function) or iscoroutinefunction(type(function).__call__):
        raise _asynchronous(what)


def finish(what: str, given: Any) -> Any:
    """Return what a function of the caller's gave.

    Raises:
        ConfigError: the function is asynchronous.
    """
    if isawaitable(given):
        getattr(given, "close", list)()  # a coroutine that nobody runs would warn
        raise _asynchronous(what)
    return given


def _asynchronous(what: str) -> ConfigError:
    return ConfigError(f"{what} is asynchronous", hint="the class whose name begins with Async takes it")


def current_home() -> object:
    """Return what a pool is bound to: nothing, threads share it."""
    return None


def check_home(home: object, name: str) -> None:
    """Do nothing: every thread may use the pool."""


def when_free(home: Any, mutex: threading.Lock, call: Callable[[], object]) -> None:
    """Make a call that takes the mutex, unless somebody has it: a destructor's own thread may, and would wait for ever.

    Then it is left to those who come next.
    """
    if not sys.is_finalizing() and mutex.acquire(blocking=False):
        mutex.release()
        call()


class Threads:
    """The threads in which a driver without async calls runs: the caller's own."""

    def __init__(self, size: int, name: str) -> None:
        pass

    def run(self, interrupt: Callable[[], object], call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``call(*args)`` where we are."""
        return call(*args)

    def close(self) -> None:
        """Do nothing."""


class _Call(Generic[T]):
    """A call that another thread makes."""

    __slots__ = ("_call", "_ended", "_error", "_result")

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._result: T
        self._error: BaseException | None = None
        self._ended = threading.Lock()
        self._ended.acquire()

    def make(self) -> None:
        """Make it, in this thread."""
        try:
            self._result = self._call()
        except BaseException as exc:
            self._error = exc

    def end(self) -> None:
        """Let the one who waits for it go on."""
        self._ended.release()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._ended.acquire()

    def result(self) -> T:
        """Return what it returned, or raise what it raised."""
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # the traceback would hold this frame, and it the error
        return self._result


class _Crew:
    """Threads that make calls; as many as there are calls at once. They end with the program, whatever they do."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._guard = threading.Lock()
        self._started = self._under_way = 0
        self.process = os.getpid()

    def hand_over(self, call: _Call[Any]) -> None:
        """Have a thread make a call."""
        with self._guard:
            if self._started < min(self._under_way + 1, _THREADS):
                name = f"holdfast-parallel_{self._started + 1}"
                threading.Thread(target=self._work, name=name, daemon=True).start()
                self._started += 1
            self._under_way += 1
        self._calls.put(call)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call.make()
            with self._guard:
                self._under_way -= 1
            call.end()
            del call

    def close(self) -> None:
        """Let the threads end; calls under way go on."""
        for _ in range(self._started):
            self._calls.put(None)


class Parallel:
    """Runs calls side by side and returns their results in order; its threads last until ``close``."""

    def __init__(self) -> None:
        self._crew: _Crew | None = None
        self._guard = threading.Lock()

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Return the results in the order of the calls; an exception is raised after all have ended."""
        if len(calls) == 1:
            return [calls[0]()]
        with _waits.guard:
            _waits.count += 1  # none of those who wait is alone
        try:
            # The caller's own thread takes the last call: one thread less to wake.
            others = [_Call(call) for call in calls[:-1]]
            handed: list[_Call[T]] = []
            try:
                with self._guard:
                    if self._crew is None or self._crew.process != os.getpid():  # a fork has no threads
                        self._crew = _Crew()
                    for each in others:
                        self._crew.hand_over(each)
                        handed.append(each)
                last = calls[-1]()
            finally:
                for each in handed:
                    each.wait()
        finally:
            with _waits.guard:
                _waits.count -= 1
        return [*(each.result() for each in others), last]

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let the threads end."""
        with self._guard:
            if self._crew is not None:
                self._crew.close()
                self._crew = None


_SIGNAL_SECONDS = 1.0
"""How long an interrupt may wait that the system told to another thread, which doesn't end the wait of this one."""
_SPIN_SECONDS = 0.0002
"""How long a thread looks for an answer before it sleeps."""
_let_others_run = getattr(os, "sched_yield", lambda: None)
_MANY_CORES = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) > 1


class _Waits:
    """How many threads wait for an answer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in a process that was forked while threads of its parent waited."""
        self.guard = threading.Lock()
        self.count = 0


_waits = _Waits()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_waits.reset)


class SocketWatch:
    """Waits for what arrives on the socket of a connection."""

    def __init__(self, descriptor: int, arrived: Callable[[], bool]) -> None:
        """``arrived`` takes in what has come, without blocking, and tells whether it was all."""
        self._arrived = arrived
        self._soon = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | select.POLLRDHUP)

    def is_silent(self) -> bool:
        """Tell whether nothing has come, not even the end of the connection."""
        return not self._poll.poll(0)

    def until_arrived(self, deadline: float) -> bool:
        """Wait until ``arrived`` says so; False when ``deadline`` (monotonic seconds) came first."""
        started = monotonic()
        with _waits.guard:
            _waits.count += 1
        try:
            # Alone, and on a connection that answered at once the last time: looking a few times costs less than
            # being put to sleep and woken up.
            while self._soon and _waits.count == 1 and monotonic() - started < _SPIN_SECONDS:
                if self._poll.poll(0) and self._arrived():
                    return True
                _let_others_run()  # the server's process, when it was put on this very core
            while (left := deadline - monotonic()) > 0:
                if self._poll.poll(min(left, _SIGNAL_SECONDS) * 1000) and self._arrived():
                    self._soon = _MANY_CORES and monotonic() - started < 2 * _SPIN_SECONDS
                    return True
            return False
        finally:
            with _waits.guard:
                _waits.count -= 1

    def stop(self) -> None:
        """Do nothing: the socket is watched only while somebody waits."""


def undisturbed(call: Callable[[], T]) -> T:
    """Return the result of a call that goes on to its end."""
    return call()


def undone_if_interrupted(call: Callable[[], T], undo: Callable[[], object], timeout: float) -> T:
    """Return the result of a call; when it is interrupted (Ctrl-C), ``undo`` what it may have done.

    ``undo`` must be safe where the call did nothing; its own errors of ours are left out, for the interruption goes
    first. It keeps to its own timeout: ``timeout`` is for the other side.
    """
    try:
        return call()
    except Exception:
        raise
    except BaseException:
        with suppress(PersistenceError):
            undo()
        raise


def in_background(call: Callable[[], T]) -> T:
    """Return the result of a call that blocks, by blocking."""
    return call()


def descriptor_of(connection: Any) -> int | None:
    """Return the file descriptor of a redis-py connection, None when it isn't connected."""
    found = connection._sock
    return None if found is None else int(found.fileno())


def bounded(call: Callable[[], T], timeout: float) -> T:
    """Return the result of the call, which keeps its own deadlines: a thread can't be stopped from outside."""
    return call()


class Background:
    """A call that goes on beside its caller, from ``start`` until it is told to ``stop``: a thread."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._told = threading.Event()
        self._error: BaseException | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def start(self, call: Callable[[], None]) -> None:
        """Start it; it asks ``pause`` for how long to go on."""
        self._told.clear()
        self._error = None
        self._thread = threading.Thread(target=self._run, args=(call,), name=self._name, daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            self._error = exc  # raised by stop

    def pause(self, seconds: float) -> bool:
        """Wait, and tell whether to go on: False at once when told to stop."""
        return not self._told.wait(seconds)

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, and has not ended."""
        return self.is_running and self._told.is_set()

    @property
    def fate(self) -> str:
        """What becomes of it when it had not ended in time."""
        return "its thread, which nothing ends from outside, goes on until that returns or the program ends"

    def cancel(self) -> None:
        """Do nothing: a thread can't be ended from outside."""

    def stop(self, timeout: float) -> bool:
        """Tell it to stop, and wait for its end, at most ``timeout`` seconds; raise what ended it early.

        False where it had not ended by then: it goes on, as ``is_running`` says, and ends with the program at last.
        What calls this itself ends once it returns.
        """
        self._told.set()
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(min(timeout + _LEEWAY, threading.TIMEOUT_MAX))
        if thread.is_alive():
            return False
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error
        return True


class Signal:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def give(self) -> None:
        """Wake everybody who waits, and the next one who does."""
        self._event.set()

    def wait(self, timeout: float | None) -> None:
        """Return once it was given since the last wait, or after ``timeout`` seconds (None: never)."""
        if self._event.wait(timeout):
            self._event.clear()

# unasync: skip
"""What differs by nature between asyncio and threads, under the names that both sides share."""

from __future__ import annotations

import asyncio
import select
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from inspect import isawaitable
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, Generic, TypeVar, TypeVarTuple

from persistence.errors import ClosedError, PersistenceError, ValidationError, WrongLoopError

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Lock = asyncio.Lock
sleep = asyncio.sleep

_LEEWAY = 0.5
"""How many seconds what was cancelled has to end."""


class Mutex:
    """Guards state that is never held across a wait: nothing to do on one event loop."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        return None


ReentrantMutex = Mutex


class Waiter(Generic[T]):
    """A one-shot hand-over of a value from one task to another."""

    def __init__(self, owner: object = None) -> None:
        self.owner = owner
        """Who waits, as ``current_owner`` says."""
        self._future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def hand_over(self, value: T) -> bool:
        """Give the value; False when the waiter has gone."""
        if self._future.done():
            return False
        self._future.set_result(value)
        return True

    async def wait(self, timeout: float) -> T | None:
        """Return the value, or None when none came within ``timeout`` seconds."""
        await asyncio.wait((self._future,), timeout=timeout)
        return self._future.result() if self._future.done() else None

    def give_up(self) -> T | None:
        """Take no value from now on; return one that had come already."""
        if self._future.done() and not self._future.cancelled():
            return self._future.result()
        self._future.cancel()
        return None


def check_callback(what: str, function: object) -> None:
    """Refuse what can't be called.

    Raises:
        ValidationError: it is no function.
    """
    if not callable(function):
        raise ValidationError(f"{what} is a {type(function).__name__}, which can't be called")


async def finish(what: str, given: Any) -> Any:
    """Return what a function of the caller's gave, waiting for it where the function is asynchronous."""
    return await given if isawaitable(given) else given


def current_owner() -> object:
    """Return what a transaction is bound to: the running task."""
    return asyncio.current_task()


def current_home() -> object:
    """Return what a pool is bound to: the running event loop."""
    return asyncio.get_running_loop()


def check_home(home: object, name: str) -> None:
    """Refuse use from another event loop than the one that opened the pool."""
    if asyncio.get_running_loop() is not home:
        raise WrongLoopError(
            "opened on another event loop",
            hint="give each event loop an AsyncDatabaseManager of its own, or use DatabaseManager",
            connection=name,
        )


def when_free(home: Any, mutex: Mutex, call: Callable[[], object]) -> None:
    """Make a call soon, on the loop that it belongs to; a destructor may ask for it, in any thread."""
    if not (home.is_closed() or sys.is_finalizing()):
        home.call_soon_threadsafe(call)


class _Job:
    """A call that a thread makes for a task."""

    __slots__ = ("args", "call", "ended", "future", "left", "loop")

    def __init__(self, call: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.left: asyncio.Future[None] | None = None
        """What waits for the thread, when the task was cancelled."""
        self.ended = False
        self.call = call
        self.args = args

    def end(self, result: Any, error: BaseException | None) -> None:
        """Hand over what came of it, on the loop."""
        self.ended = True
        if self.left is not None and not self.left.done():
            self.left.set_result(None)
        if self.future.done():
            return  # nobody waits
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)


def _work(jobs: SimpleQueue[_Job | None]) -> None:
    while (job := jobs.get()) is not None:
        result = error = None
        if job.left is None:  # or its task has gone before it began
            try:
                result = job.call(*job.args)
            except BaseException as exc:
                error = exc
        with suppress(RuntimeError):  # the loop has been closed meanwhile
            job.loop.call_soon_threadsafe(job.end, result, error)
        del job, result, error


class Threads:
    """The threads in which a driver without async calls runs; none until the first call.

    An executor of the standard library makes four objects and takes five locks for a call, which is more than most
    statements take.
    """

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._started = self._under_way = 0
        self._closed = False

    async def run(self, interrupt: Callable[[], object], call: Callable[[*Ts], T], *args: *Ts) -> T:
        """Run ``call(*args)`` in a thread; on cancellation ``interrupt`` it, and wait until the thread let go."""
        if self._closed:
            raise ClosedError("it was closed")
        job = _Job(call, args)
        self._under_way += 1
        if self._started < min(self._under_way, self._size):
            self._started += 1
            # They end with the program: whoever waits for a call in one has been cancelled by then.
            name = f"{self._name}_{self._started}"
            Thread(target=_work, args=(self._jobs,), name=name, daemon=True).start()
        self._jobs.put(job)
        try:
            result: T = await job.future
            return result
        except asyncio.CancelledError:
            while not job.ended:
                job.left = job.loop.create_future()
                interrupt()
                with suppress(asyncio.CancelledError):  # what the thread works on is nobody else's before it let go
                    await job.left
            raise
        finally:
            self._under_way -= 1

    def close(self) -> None:
        """Let the threads end; calls under way go on."""
        self._closed = True
        for _ in range(self._started):
            self._jobs.put(None)


class Parallel:
    """Runs calls side by side and returns their results in order."""

    async def run(self, calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
        """Return the results in the order of the calls; an exception is raised after all have ended."""
        if len(calls) == 1:
            return [await calls[0]()]
        tasks = [asyncio.ensure_future(call()) for call in calls]
        # Exceptions as results: otherwise gather would let the first one, or a cancellation, overtake the other calls.
        await asyncio.gather(*tasks, return_exceptions=True)
        return [task.result() for task in tasks]

    def close(self) -> None:
        """Release what ``run`` used."""


class _Awaited:
    """One wait after the other for what a callback of the loop brings; a wait ends at its deadline."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[bool] | None = None
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def _begin(self, deadline: float) -> asyncio.Future[bool]:
        """Return what to wait for; it says False at ``deadline`` (monotonic seconds)."""
        self._deadline = deadline
        if self._timer is None or self._timer_at > deadline:
            self._set_timer()
        self._future = self._loop.create_future()
        return self._future

    def _set_timer(self) -> None:
        # One timer outlasts many waits: it looks at the deadline of the wait that it finds when it goes off.
        self._stop_timer()
        self._timer_at = self._deadline
        self._timer = self._loop.call_later(min(self._deadline - monotonic(), 86400.0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        future = self._future
        if future is None or future.done():
            return
        if monotonic() >= self._deadline:
            future.set_result(False)
        else:
            self._set_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class SocketWatch(_Awaited):
    """Waits for what arrives on the socket of a connection.

    The event loop watches it from the first wait until ``stop``, instead of being told anew for each statement: that
    would be two system calls each time. ``stop`` must come before the descriptor is closed, or the loop would take
    the next socket of that number for this one.
    """

    def __init__(self, descriptor: int, arrived: Callable[[], bool]) -> None:
        """``arrived`` takes in what has come, without blocking, and tells whether it was all."""
        super().__init__()
        self._descriptor = descriptor
        self._arrived = arrived
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN | select.POLLRDHUP)
        self._watched = False

    def is_silent(self) -> bool:
        """Tell whether nothing has come, not even the end of the connection."""
        return not self._poll.poll(0)

    async def until_arrived(self, deadline: float) -> bool:
        """Wait until ``arrived`` says so; False when ``deadline`` (monotonic seconds) came first."""
        if not self._watched:
            self._loop.add_reader(self._descriptor, self._on_readable)
            self._watched = True
        try:
            return await self._begin(deadline)
        finally:
            self._future = None

    def _on_readable(self) -> None:
        future = self._future
        if future is None or future.done():
            self.stop()  # nobody asked: it stays in the socket until somebody does
            return
        try:
            if self._arrived():
                future.set_result(True)
        except BaseException as exc:
            self.stop()
            future.set_exception(exc)

    def stop(self) -> None:
        """Watch no more until the next wait."""
        self._stop_timer()
        if self._watched:
            self._watched = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)


async def undisturbed(call: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Return the result of a call that goes on to its end even when the caller is cancelled."""
    task = asyncio.ensure_future(call())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return await asyncio.shield(task)


async def undone_if_interrupted(
    call: Callable[[], Coroutine[Any, Any, T]],
    undo: Callable[[], Coroutine[Any, Any, object]],
    timeout: float,
) -> T:
    """Return the result of a call; when the caller is cancelled, ``undo`` what it did once it has ended.

    The cancellation waits for both, at most ``timeout`` seconds, however often it comes: until the call has ended,
    nobody knows what there is to undo. ``undo`` must be safe where the call did nothing; its own errors of ours are
    left out, for the cancellation goes first.
    """
    task = asyncio.ensure_future(call())
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        undoing = asyncio.ensure_future(_undo(task, undo, timeout))
        while not undoing.done():
            with suppress(asyncio.CancelledError):
                await asyncio.shield(undoing)
        undoing.result()
        raise


async def _undo(task: asyncio.Task[Any], undo: Callable[[], Coroutine[Any, Any, object]], timeout: float) -> None:
    try:
        with suppress(TimeoutError, PersistenceError):
            async with asyncio.timeout(timeout):
                await asyncio.wait((task,))
                await undo()
    finally:
        if task.done():
            task.cancelled() or task.exception()  # it is seen: its caller has gone
        else:
            task.cancel()


async def in_background(call: Callable[[], T]) -> T:
    """Return the result of a call that blocks, without blocking the loop."""
    return await asyncio.to_thread(call)


def descriptor_of(connection: Any) -> int | None:
    """Return the file descriptor of a redis-py connection, None when it isn't connected."""
    writer = connection._writer
    found = None if writer is None else writer.get_extra_info("socket")
    return None if found is None else int(found.fileno())


async def bounded(call: Callable[[], Coroutine[Any, Any, T]], timeout: float) -> T:
    """Return the result of the call.

    Raises:
        TimeoutError: it took longer than ``timeout`` seconds; the call was cancelled.
    """
    async with asyncio.timeout(timeout):
        return await call()


class Background:
    """A call that goes on beside its caller, from ``start`` until it is told to ``stop``: a task of the loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._task: asyncio.Task[None] | None = None
        self._told = asyncio.Event()
        self._was_cancelled = False

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._task is not None and not self._task.done()

    def start(self, call: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start it; it asks ``pause`` for how long to go on."""
        self._told.clear()
        self._was_cancelled = False
        self._task = asyncio.create_task(call(), name=self._name)

    async def pause(self, seconds: float) -> bool:
        """Wait, and tell whether to go on: False at once when told to stop."""
        try:
            async with asyncio.timeout(seconds):
                await self._told.wait()
        except TimeoutError:
            return True
        return False

    @property
    def is_stopping(self) -> bool:
        """Whether it was told to stop, and has not ended."""
        return self.is_running and self._told.is_set()

    @property
    def fate(self) -> str:
        """What becomes of it when it had not ended in time."""
        return "it goes on although it was cancelled" if self.is_running else "it was cancelled"

    def cancel(self) -> None:
        """Break off what it does; it may not heed that."""
        if self._task is not None and not self._was_cancelled:  # a second time would break off what it cleans up
            self._was_cancelled = self._task.cancel()

    async def stop(self, timeout: float) -> bool:
        """Tell it to stop, and wait for its end, at most ``timeout`` seconds; raise what ended it early.

        False where it had not ended by then, and was cancelled; ``is_running`` says whether it goes on all the same.
        What calls this itself ends once it returns.
        """
        self._told.set()
        task = self._task
        if task is None or task is asyncio.current_task():
            return True
        try:
            await asyncio.wait((task,), timeout=timeout)
        finally:
            is_in_time = task.done()
            if not is_in_time:  # or the caller was cancelled
                self.cancel()
                await asyncio.wait((task,), timeout=_LEEWAY)
        if task.done():
            self._task = None
            if not (self._was_cancelled and task.cancelled()):
                task.result()
        return is_in_time


class Signal:
    """Wakes those who wait for something to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wake everybody who waits, and the next one who does."""
        self._event.set()

    async def wait(self, timeout: float | None) -> None:
        """Return once it was given since the last wait, or after ``timeout`` seconds (None: never)."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            return
        self._event.clear()

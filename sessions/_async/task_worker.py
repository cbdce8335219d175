"""A worker on tasks: it claims them, renews their leases while handlers run, and lets go when it is told to stop.

Protocol: as many lanes as handlers may run at once claim a task each and, where there are notices, one part listens;
they run in the background of ``run``, which renews what is held. It returns when all of them have ended, and nothing
goes on behind it. Where a handler doesn't end in time, its error says so, and the worker takes nothing more.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from persistence import AsyncPubSub, AsyncSubscription
from persistence._async.compat import (
    Background,
    Mutex,
    Parallel,
    ReentrantMutex,
    Waiter,
    check_callback,
    finish,
    sleep,
    undisturbed,
)
from persistence.errors import (
    ClosedError,
    ConflictError,
    DeadlineError,
    NotFoundError,
    PersistenceError,
    UnavailableError,
    ValidationError,
)
from persistence.fields import Duration
from persistence.retry import PASSING, Backoff
from persistence.validation import check_duration, check_timeout, check_whole, shown
from sessions._async.tasks import AsyncTaskStore
from sessions.tasks import Task, check_kind, check_owner, lease_micros

T = TypeVar("T")
Handler = Callable[[Task], Any]

LANES = 60
"""The most handlers that one worker runs at once."""
_CLOSING = 5.0
"""How many seconds the parts of a worker have to end when no handler runs."""

_log = logging.getLogger(__name__)


class AsyncBell:
    """Wakes those who wait; who looked before it rang doesn't wait at all."""

    def __init__(self) -> None:
        self._guard = ReentrantMutex()  # a signal may come to who has it, and rings from within
        self._waiters: set[Waiter[bool]] = set()
        self.rung = 0

    def ring(self) -> None:
        """Wake all."""
        with self._guard:
            self.rung += 1
            with suppress(KeyError):  # none is left; each is woken once
                while True:
                    self._waiters.pop().hand_over(True)

    async def wait(self, seen: int, timeout: float) -> None:
        """Wait until it rings after it had rung ``seen`` times, but no longer than ``timeout`` seconds."""
        waiter: Waiter[bool] = Waiter()
        with self._guard:
            self._waiters.add(waiter)  # first, or who rings from within would wake all but this one
        try:
            if self.rung == seen:
                await waiter.wait(timeout)
        finally:
            with self._guard:
                self._waiters.discard(waiter)


class _Held(NamedTuple):
    """A task, and when its lease began, in monotonic seconds."""

    task: Task
    since: float


class AsyncTaskWorker:
    """Does the tasks of some kinds, each by its handler, for one owner.

    A handler takes the task; what it returns (any JSON) is the result. On the async side it may be a coroutine
    function; any other holds up the event loop while it runs. An exception of it fails the attempt, which is tried
    again after the store's backoff. A handler may run twice where a lease was lost, but one of them completes.
    """

    def __init__(
        self,
        tasks: AsyncTaskStore,
        handlers: Mapping[str, Handler],
        owner: str | None = None,
        *,
        concurrency: int = 1,
        lease: Duration = 60.0,
        poll: Duration = 5.0,
        grace: Duration = 30.0,
    ) -> None:
        """``owner`` must be this worker's alone. ``concurrency`` is how many handlers run at once (up to 60).

        A ``lease`` is renewed when a third of it has passed. Where there is nothing to claim, it looks again after
        ``poll`` seconds, or at once when the store's ``notices`` say that there is something. When it is told to
        stop, handlers have ``grace`` seconds to end; then they are cancelled, and their tasks given back.
        """
        if not handlers:
            raise ValidationError("a worker needs a handler")
        if owner is None and tasks.owner is None:
            raise ValidationError("a worker needs an owner", hint="owner=, or the store of for_owner()")
        self._tasks = tasks if owner is None or tasks.owner is not None else tasks.for_owner(check_owner(owner))
        self._handlers = {check_kind(kind): handler for kind, handler in handlers.items()}
        for kind, handler in self._handlers.items():
            check_callback(f"the handler of {kind!r}", handler)
        self._lanes = check_whole("concurrency", concurrency, most=LANES)
        lease_micros(lease)
        self._lease = check_duration("lease", lease)
        self._poll, self._grace = check_duration("poll", poll), check_timeout("grace", grace)
        self._notices = self._tasks.notices
        self._bell = AsyncBell()
        self._guard = Mutex()
        self._held: dict[str, _Held] = {}
        self._handled: dict[str, str] = {}
        """The kinds of the tasks whose handlers run, by id."""
        self._background = Background("holdfast-tasks")
        self._stopping = self._idle_ends = self._is_over = False
        self._running = 0
        self._error: Exception | None = None
        self._subscription: AsyncSubscription | None = None
        self.completed = 0
        """How many tasks it has completed."""
        self.failed = 0
        """How many attempts have failed."""
        self.lost = 0
        """How many tasks it had to let go before their handlers had ended."""

    async def run(self, *, until_idle: bool = False) -> None:
        """Work until ``stop`` is called, or with ``until_idle`` until there is nothing to claim.

        It outlives an outage of the database. Whatever ends it, a cancellation too, what it holds is given back. Where
        it was told to stop before, it returns at once; after it has returned, it can be run again.

        Raises:
            DeadlineError: it was told to stop, and handlers go on past their ``grace``: they don't heed that they were
                cancelled, or are threads, which nothing ends from outside. It names their tasks, which were given back.
            ValidationError: handlers of the run before go on.
        """
        if self._background.is_running:
            raise ValidationError(f"the run before has not ended: {self._going_on()}", hint="make its handlers end")
        if self._is_over:
            self._is_over = self._stopping = False
        self._idle_ends, self._running = until_idle, self._lanes
        patience = self._grace
        try:
            self._background.start(self._work)
            await self._part(self._keep)
            patience = 0.0
        finally:
            self.stop()
            await undisturbed(partial(self._end, patience))
        error, self._error = self._error, None
        if self._is_over:
            raise DeadlineError(
                f"the worker was told to stop, and past its grace of {self._grace:g} s {self._going_on()}",
                hint=f"{self._background.fate}; its task was given back. Give what it calls a timeout of its own",
                operation="run",
            ) from error
        if error is not None:
            raise error

    async def _work(self) -> None:
        """Run the lanes, and what listens, until all of them have ended."""
        parts: list[Callable[[], Awaitable[None]]] = [self._lane] * self._lanes
        if self._notices is not None:
            parts.insert(0, partial(self._listen, self._notices))
        calls: list[Callable[[], Any]] = [partial(self._part, part) for part in parts]
        parallel = Parallel()
        try:
            await parallel.run(calls)
        finally:
            parallel.close()

    async def _end(self, patience: float) -> None:
        """End the lanes where they have not ended, within ``patience`` seconds, and give back what is held."""
        self._is_over = True
        if self._running:
            self._background.cancel()
        else:
            patience = max(patience, _CLOSING)
        try:
            await self._let_go()
            await self._background.stop(patience)
        finally:
            self._is_over = self._stopping = self._background.is_running
        if self._is_over:
            _log.warning("the worker was told to stop, and %s", self._going_on())

    def _going_on(self) -> str:
        handled = sorted(self._handled.copy().items())
        if not handled:
            return "it still waits for the database"
        named = ", ".join(f"{shown(id)} ({kind})" for id, kind in handled[:5])
        return f"the handlers of {len(handled)} tasks go on: {named}{', …' if len(handled) > 5 else ''}"

    def stop(self) -> None:
        """Claim no more; ``run`` returns when the handlers that run have ended. May be called from a signal handler."""
        self._stopping = True
        self._bell.ring()

    async def _part(self, part: Callable[[], Awaitable[None]]) -> None:
        """Run a part; its error ends the others too, and is raised when they have ended."""
        try:
            await part()
        except Exception as exc:
            self._error = self._error or exc
            self.stop()
        except BaseException:
            self.stop()
            raise

    async def _lane(self) -> None:
        """Claim a task and do it, one after the other."""
        try:
            while not self._stopping:
                seen = self._bell.rung
                try:
                    found = await self._tasks.claim_next(list(self._handlers), lease=self._lease)
                except PASSING as exc:
                    _log.warning("tasks can't be claimed now: %s", exc)
                    await self._bell.wait(seen, self._poll)
                    continue
                for task in found:
                    await self._do(task)
                if not found and self._idle_ends:
                    return
                if not found:
                    await self._bell.wait(seen, self._poll)
        finally:
            with self._guard:
                self._running -= 1
            self._bell.ring()
            if not self._running and self._subscription is not None:
                await self._subscription.aclose()

    async def _do(self, task: Task) -> None:
        task_id = task.id or ""
        with self._guard:
            self._held[task_id] = _Held(task, monotonic())
            self._handled[task_id] = task.kind
        try:
            if self._is_over:  # it was claimed as the run ended
                await self._let_go()
                return
            await self._handle(task, task_id)
            with self._guard:
                self._held.pop(task_id, None)
        except Exception:
            raise
        except BaseException:  # cancelled: it is given back as the run ends
            self._count(lost=1)
            raise
        finally:
            with self._guard:
                self._handled.pop(task_id, None)

    async def _handle(self, task: Task, task_id: str) -> None:
        """Call the handler, and end the task as it ended."""
        has_failed = False
        try:
            result = await finish(f"the handler of {task.kind!r}", self._handlers[task.kind](task))
        except Exception as exc:
            _log.info("task %s failed: %s", task_id, type(exc).__name__)
            has_failed, ending = True, partial(self._tasks.fail, task, exc)
        else:
            ending = partial(self._tasks.complete, task, result)
        try:
            try:
                await self._told(ending)
            except ValidationError as exc:  # a result that can't be stored
                has_failed = True
                await self._told(partial(self._tasks.fail, task, exc))
        except (ConflictError, NotFoundError, *PASSING) as exc:
            _log.warning("task %s could not be ended: %s", task_id, exc)
            self._count(lost=1)
        else:
            self._count(failed=1) if has_failed else self._count(completed=1)

    def _count(self, *, completed: int = 0, failed: int = 0, lost: int = 0) -> None:
        with self._guard:
            self.completed += completed
            self.failed += failed
            self.lost += lost

    async def _told(self, call: Callable[[], Awaitable[T]]) -> T:
        """Return the answer of a call that may be repeated, and is while the server is away."""
        for delay in Backoff(base=0.05).delays():
            try:
                return await call()
            except PASSING:
                await sleep(delay)
        return await call()

    async def _keep(self) -> None:
        """Renew what is held until the lanes have ended, or the grace has passed."""
        stopped: float | None = None
        while self._running:
            seen = self._bell.rung
            if self._stopping and stopped is None:
                stopped = monotonic()
            if stopped is not None and monotonic() >= stopped + self._grace:
                return
            left = self._lease / 3 if stopped is None else min(self._lease / 3, stopped + self._grace - monotonic())
            await self._bell.wait(seen, max(left, 0.001))
            for held in self._snapshot():
                if monotonic() >= held.since + self._lease / 3:
                    await self._renew(held.task)

    def _snapshot(self) -> list[_Held]:
        with self._guard:
            return list(self._held.values())

    async def _renew(self, task: Task) -> None:
        task_id = task.id or ""
        try:
            await self._tasks.renew(task)
        except PASSING as exc:
            _log.warning("task %s can't be renewed now: %s", task_id, exc)
        except PersistenceError as exc:
            _log.warning("task %s is lost: %s", task_id, exc)
            with self._guard:
                self._held.pop(task_id, None)  # its handler is told when it ends
        else:
            with self._guard:
                if task_id in self._held:
                    self._held[task_id] = _Held(task, monotonic())

    async def _let_go(self) -> None:
        """Give back what is still held; what a server that is away doesn't take back is free when its lease ends."""
        is_away = False
        for held in self._snapshot():
            try:
                if not is_away:
                    await self._tasks.release(held.task)
            except PersistenceError as exc:
                is_away = isinstance(exc, PASSING)
                _log.info("task %s was not given back: %s", held.task.id, exc)
            with self._guard:
                self._held.pop(held.task.id or "", None)

    async def _listen(self, notices: AsyncPubSub) -> None:
        """Ring when there is something to claim; where notices can't be had, polling goes on."""
        while self._running and not self._is_over:
            try:
                async with notices.subscribe(self._tasks.channel) as subscription:
                    self._subscription = subscription
                    self._bell.ring()  # for what came before it listened
                    while self._running and not self._is_over:
                        if await subscription.get(timeout=self._poll) is not None:
                            self._bell.ring()
            except ClosedError:
                if self._running:
                    raise  # the connection was closed, not by the last lane
            except UnavailableError as exc:
                _log.warning("tasks are polled for, notices can't be had: %s", exc)
                await self._bell.wait(self._bell.rung, self._poll)

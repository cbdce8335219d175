"""Runs the jobs that keep databases small, batch by batch, by one program at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from persistence._async.compat import check_callback, finish
from persistence._async.locks import AsyncLeaseLock
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.recurring import GRACE, AsyncRecurring
from persistence.errors import ClosedError, LockTimeoutError, PersistenceError, ValidationError
from persistence.fields import Duration
from persistence.maintaining import JobReport, MaintenanceReport, check_rows
from persistence.validation import check_duration, check_id, check_whole, shown

_log = logging.getLogger("persistence.maintenance")


@dataclass(frozen=True, slots=True)
class _Job:
    name: str
    run: Callable[[], Any]
    count: Callable[[], Any] | None


class AsyncMaintenance(AsyncRecurring):
    """Jobs that ``run_once`` runs, and ``start`` at once and then each ``interval`` seconds, until ``stop``.

    Of all programs with the same connection ``name`` (PostgreSQL, SQLite or Redis), tenant and ``lock``, one runs the
    jobs at a time: it holds a lease of ``lease`` seconds, renewed before each batch, so a batch must take less. A job
    that fails is reported and logged (``persistence.maintenance``), and the others run.
    """

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        interval: Duration = 3600.0,
        lease: Duration = 300.0,
        batches: int = 1000,
        lock: str = "maintenance",
        tenant: str = "default",
        grace: Duration = GRACE,
    ) -> None:
        """``batches`` bounds how many of a job one run does, ``grace`` how many seconds ``stop`` waits for a batch."""
        super().__init__("maintenance", grace)
        self._interval = check_duration("interval", interval)
        self._batches = check_whole("batches", batches)
        self._lock = AsyncLeaseLock(manager, name, lock, ttl=lease, tenant=tenant)
        self._jobs: dict[str, _Job] = {}
        self._at: str | None = None

    def add(self, job: str, run: Callable[[], Any], *, count: Callable[[], Any] | None = None) -> None:
        """Register a job: ``run`` does one bounded batch and returns its rows, and is called until there are none.

        ``count`` returns how many rows there are to do, for a dry run. On the async side either may be a coroutine
        function.

        Raises:
            ValidationError: the name is taken, or what is to be called can't be.
        """
        name = check_id("the job", job)
        if name in self._jobs:
            raise ValidationError(f"there is a job {shown(name)} already", hint="give each a name of its own")
        for given in (run, count or run):
            check_callback(f"the job {shown(name)}", given)
        self._jobs[name] = _Job(name, run, count)

    async def run_once(self, *, dry_run: bool = False) -> MaintenanceReport:
        """Run every job, in the order of registration, unless another program is at it; return what was done.

        ``dry_run`` only counts, for which it needs no lease.

        Raises:
            ConflictError: the lease was lost in between, as a batch took too long; the jobs behind it did not run.
        """
        if dry_run:
            return MaintenanceReport(tuple([await self._counted(job) for job in [*self._jobs.values()]]))
        try:
            await self._lock.acquire(timeout=0)
        except LockTimeoutError:
            return MaintenanceReport((), ran=False)
        try:
            return MaintenanceReport(tuple([await self._run_job(job) for job in [*self._jobs.values()]]))
        finally:
            await self._lock.release()

    async def _counted(self, job: _Job) -> JobReport:
        begun = monotonic()
        try:
            rows = None if job.count is None else check_rows(job.name, await finish(job.name, job.count()))
        except Exception as exc:
            return self._failed(job, 0, begun, exc)
        return JobReport(job.name, rows, monotonic() - begun)

    async def _run_job(self, job: _Job) -> JobReport:
        begun, rows, is_over = monotonic(), 0, False
        self._at = job.name
        for _ in range(self._batches):
            await self._lock.renew()
            try:
                done = check_rows(job.name, await finish(job.name, job.run()))
            except Exception as exc:
                return self._failed(job, rows, begun, exc)
            rows += done
            is_over = not done
            if is_over:
                break
        return JobReport(job.name, rows, monotonic() - begun, is_over)

    def _failed(self, job: _Job, rows: int, begun: float, exc: Exception) -> JobReport:
        _log.error("the job %s failed: %s", job.name, exc, exc_info=exc)
        return JobReport(job.name, rows, monotonic() - begun, False, f"{type(exc).__name__}: {exc}")

    def _under_way(self) -> str:
        where = "it waits for the database" if self._at is None else f"the job {shown(self._at)} runs"
        return f"{where}; the jobs behind it did not run, and no other program runs any before its lease ends"

    async def _turn(self) -> float:
        self._at = None
        try:
            await self.run_once()
        except ClosedError:
            raise
        except PersistenceError:
            _log.exception("a run of maintenance failed")
        return self._interval

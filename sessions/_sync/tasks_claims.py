# Generated from ../_async/tasks_claims.py by tests/unasync.py: edit that one.
"""Claims of tasks, and what their holder does: renew, complete, fail, give back; each call one round trip.

Protocol: a claim raises the task's token and gives it a lease by the server's clock. Whatever the holder does names the
token and takes effect only while the task still has it and the lease has not ended, compared under the row's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from persistence.errors import ConflictError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_whole, metadata_json, shown
from sessions._sync.tasks_base import SHARED, TasksBase
from sessions.contents import to_text
from sessions.records import lasting_moment, micros_of
from sessions.tasks import (
    BATCH,
    Period,
    Status,
    Task,
    check_key,
    check_kind,
    check_owner,
    error_text,
    held_values,
    json_or_none,
    keyed_id,
    lease_micros,
    names_of,
    period_key,
    task_from_row,
)

LEASE = 60.0
"""How long a claim lasts unless it is told, in seconds."""
WOKEN = 100
"""How many tasks whose time has come a claim on SQLite looks at first; one on PostgreSQL and Redis does the same."""

SOME = 100
"""How many tasks of one kind a claim takes by the statement that PostgreSQL need not plan anew."""


class TaskClaims(TasksBase):
    """Claims tasks and ends them."""

    def claim(
        self,
        kind: str,
        owner: str | None = None,
        *,
        key: str | None = None,
        period: Period = "day",
        lease: Duration = LEASE,
        payload: Any = None,
        priority: int = 0,
        max_attempts: int = 5,
        metadata: dict[str, Any] | None = None,
    ) -> tuple[Task, bool]:
        """Claim the one shared task of a kind and key, made at the first claim; return it, and whether it is yours.

        Of any number of claimers one gets True, the others the task as it is and False: until it is completed, and
        after. ``key`` left out is the ``period`` that the store's clock is in, in UTC: one task a day. The rest is for
        the task that is made. Where the winner died, the first claim after its ``lease`` (seconds or a timedelta) is
        the next winner, with a larger token; after ``max_attempts`` of them the task is dead.

        Raises:
            ConflictError: the id of the task is that of one owner's own task.
        """
        holder = self._holder(owner)
        name = check_kind(kind)
        place = period_key(period, self._clock) if key is None else check_key(key)
        id = check_id("the task's id", keyed_id(name, place))
        values = {
            "id": id,
            "kind": name,
            "key": place,
            "owner": holder,
            "lease": lease_micros(lease),
            "payload": json_or_none("payload", payload),
            "priority": check_whole("priority", priority, least=-(2**31), most=2**31 - 1),
            "max_attempts": check_whole("max_attempts", max_attempts, most=2**31 - 1),
            "metadata": metadata_json({} if metadata is None else metadata),
        }
        claimed = self._read_one(task_from_row, "task_claim", values)
        if claimed is not None:
            return claimed, claimed.status == "active"
        found = self._get(id, SHARED)
        if found is None:
            raise ConflictError(
                f"task {shown(id)} is one owner's own",
                hint="claim another kind or key",
                operation="claim",
                connection=self._name,
            )
        return found, False

    def claim_next(
        self, kinds: str | Sequence[str], owner: str | None = None, n: int = 1, *, lease: Duration = LEASE
    ) -> list[Task]:
        """Claim the next tasks of some kinds, at most ``n``: the highest priority first, then the oldest.

        Anybody's and the owner's own; never one that another owner has. A task whose lease ran out, or that is
        deferred and due, is among them. ``[]`` where there is none now. Each has its own ``lease`` (seconds or a
        timedelta), token and attempt.
        """
        holder = self._holder(owner)
        values: dict[str, Any] = {
            "kinds": names_of("kinds", kinds, check_kind),
            "owners": [SHARED, holder],
            "owner": holder,
            "limit": check_whole("n", n, most=BATCH),
            "lease": lease_micros(lease),
        }
        database = self._database()
        if database.kind != "sqlite":
            name = "task_claim_some" if n <= SOME and len(values["kinds"]) == 1 else "task_claim_next"
            return self._read_all(task_from_row, name, {**values, "kind": values["kinds"][0]})
        calls = [self._prepared(database, "task_release_expired", {"limit": WOKEN})]
        calls += [self._prepared(database, "task_claim_one", values)] * n
        rows = database.fetch_batch(calls)
        return [task_from_row(row, database.dialect) for found in rows for row in found]

    def renew(self, task: Task, *, lease: Duration | None = None) -> Task:
        """Extend the lease of a task that a claim returned: from now, for as long as before or as ``lease`` says.

        Raises:
            LeaseLostError: it is no longer yours, since its lease ran out or somebody moved or cancelled it.
            ConflictError: it was ended.
            NotFoundError: it isn't there.
        """
        values = {**held_values(task), "lease": None if lease is None else lease_micros(lease)}
        return self._hold("task_renew", "renew", task, None, values)

    def complete(self, task: Task, result: Any = None) -> Task:
        """End a task that a claim returned, with a result (any JSON). A repeat of the same call changes nothing.

        Raises:
            LeaseLostError: it is no longer yours; nothing was written.
            ConflictError: it was ended otherwise.
            NotFoundError: it isn't there.
        """
        return self._settle("complete", task, "completed", result=json_or_none("the result", result))

    def complete_many(self, tasks: Sequence[Task], results: Sequence[Any] | None = None) -> list[Task]:
        """End up to 10,000 tasks that claims returned, in one statement, each with its result where there are some.

        Returns those that it completed, by id. One that is missing there is no longer yours, or was ended before:
        unlike ``complete``, this goes on with the others.
        """
        if not isinstance(tasks, list | tuple) or len(tasks) > BATCH:
            raise ValidationError(f"the tasks are no list of at most {BATCH:,}")
        given = [None] * len(tasks) if results is None else list(results)
        if len(given) != len(tasks):
            raise ValidationError(f"{len(given):,} results for {len(tasks):,} tasks")
        rows = [
            {**held_values(task), "result": json_or_none("a result", result)}
            for task, result in zip(tasks, given, strict=True)
        ]
        ids = [row["id"] for row in rows]
        if len(set(ids)) != len(ids):
            raise ValidationError("a task is among them twice")
        if not rows:
            return []
        lean = [{name: value for name, value in row.items() if value is not None} for row in rows]
        values = {"rows": to_text(lean), "ids": ids, "view": self._owner}
        return sorted(self._read_all(task_from_row, "task_complete_many", values), key=lambda task: task.id or "")

    def fail(
        self, task: Task, error: str | BaseException, *, retry: bool = True, retry_in: Duration | None = None
    ) -> Task:
        """Say that an attempt failed: the task is deferred until the next one, or ``dead`` after the last.

        The wait is the store's backoff for the number of attempts, or ``retry_in`` (seconds or a timedelta).
        ``retry=False`` ends it as ``failed`` at once.

        Raises:
            LeaseLostError: it is no longer yours; nothing was written.
        """
        text = error_text(error)
        if not retry:
            return self._settle("fail", task, "failed", error=text)
        held = held_values(task)
        delay: Duration = self._backoff.delay(max(task.attempts - 1, 0)) if retry_in is None else retry_in
        values = {**held, "error": text, "delay": 1 if delay == 0 else micros_of("retry_in", delay)}
        return self._hold("task_fail", "fail", task, "deferred", values)

    def reject(self, task: Task, reason: str) -> Task:
        """End a task that a claim returned as one that is not to be done.

        Raises:
            LeaseLostError: it is no longer yours; nothing was written.
        """
        return self._settle("reject", task, "rejected", error=error_text(reason))

    def release(self, task: Task) -> Task:
        """Give back a task that a claim returned, at once and without counting the attempt.

        Raises:
            LeaseLostError: it is no longer yours; nothing was written.
        """
        stored = self._settle("release", task, "pending", refund=1)
        self._tell([stored])
        return stored

    def defer(self, task: Task | str, until: datetime | Duration) -> Task:
        """Put a task off: one that a claim returned, which doesn't count as an attempt, or by id one that nobody holds.

        ``until`` is a time with a time zone, or how long from now (seconds or a timedelta) by the server's clock.

        Raises:
            LeaseLostError: the claimed task is no longer yours; nothing was written.
            ConflictError: somebody holds the task of this id, or it was ended.
            NotFoundError: it isn't there, or is another owner's.
        """
        when: dict[str, Any] = {"until": None, "delay": None}
        if isinstance(until, datetime):
            when["until"] = lasting_moment("until", until)
        else:
            when["delay"] = micros_of("until", until)
        if not isinstance(task, str):
            return self._settle("defer", task, "deferred", refund=1, **when)
        values = {"id": check_id("the task's id", task), "view": self._view, **when}
        stored = self._read_one(task_from_row, "task_defer", values)
        if stored is not None:
            return stored
        current = self._refused("defer", task, "deferred", self._view)
        raise ConflictError(
            f"task {shown(task)} is held by {shown(current.owner or '')}",
            hint="only its holder can put it off, by the record that the claim returned; or cancel or transfer it",
            operation="defer",
            connection=self._name,
        )

    def _settle(self, operation: str, task: Task, status: Status, **given: Any) -> Task:
        values = {"result": None, "error": None, "delay": None, "until": None, "refund": 0, **given}
        return self._hold(
            "task_settle", operation, task, status, {**values, **held_values(task), "status": status}
        )

    def _hold(self, name: str, operation: str, task: Task, wanted: Status | None, values: dict[str, Any]) -> Task:
        """Run a change by the holder; only where it found no row, a second statement tells why."""
        # The record and its token name the task; whose it is matters to the store of one owner only.
        stored = self._read_one(task_from_row, name, {**values, "view": self._owner})
        if stored is not None:
            return stored
        current = self._get(values["id"], self._owner)
        if current is None:
            raise self._missing(values["id"], operation)
        ends = (wanted, "dead") if operation == "fail" else (wanted,)
        is_alike = current.token == task.token and current.attempts == task.attempts - values.get("refund", 0)
        if is_alike and current.status in ends and wanted != "pending" and task.token:
            return current  # the answer of the same call was lost
        if current.token != task.token or current.status == "active":
            raise self._lost(operation, task, current)
        return self._refused_by_status(operation, current, wanted)

    def _refused_by_status(self, operation: str, current: Task, wanted: Status | None) -> Task:
        what = f"become {wanted}" if wanted else "be renewed"
        raise ConflictError(
            f"task {shown(current.id or '')} is {current.status} and can't {what}",
            hint="claim it first" if current.is_open else "it was ended",
            operation=operation,
            connection=self._name,
        )

    def _holder(self, owner: str | None) -> str:
        """Return who claims: the owner of this store, or the one that is named."""
        if owner is None and self._owner is None:
            raise ValidationError("a claim needs an owner", hint="claim_next(kinds, owner), or for_owner(owner)")
        found = check_owner(self._owner if owner is None else owner)
        if self._owner not in (None, found):
            raise ValidationError(
                f"the store of owner {shown(self._owner or '')} can't claim for {shown(found)}",
                hint="use for_owner() of the other, or the tenant's store",
            )
        return found

"""Tasks, the work that exactly one owner does: added once, claimed by lease, handed on, kept in order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from persistence.errors import UNIQUE_VIOLATION, ConflictError, DuplicateError, ForeignKeyError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, shown
from sessions._async.erasing import erase_tasks, export_tasks
from sessions._async.tasks_base import SHARED
from sessions._async.tasks_claims import LEASE, AsyncTaskClaims
from sessions.records import micros_of
from sessions.tasks import (
    BATCH,
    MAX_INT,
    OPEN,
    Status,
    Task,
    check_owner,
    check_parents,
    check_status,
    error_text,
    lease_micros,
    names_of,
    rows_json,
    task_from_row,
    task_row,
)

AUDIT_CHAIN = "tasks"
"""The chain of audit events that tells of tasks that changed hands."""
UPKEEP = 1000
"""How many tasks one statement of the upkeep changes or deletes."""


class AsyncTaskStore(AsyncTaskClaims):
    """The tasks of one tenant, on a PostgreSQL or SQLite connection of a manager.

    The store itself holds what all owners share; ``for_owner`` gives the store of one owner, which sees nothing of the
    others, and ``all_owners`` sees all. Whoever claims a task gets it alone, for the time of a lease by the server's
    clock (ours on SQLite), and a token that no earlier holder has.

    Every call commits before it returns, or joins the transaction that its task is in.
    """

    async def add(self, task: Task) -> Task:
        """Store a new task and return it; where its key or id is there already, return that one, unchanged.

        In the store of one owner it is the owner's own, otherwise shared.

        Raises:
            ForeignKeyError: its parent isn't there; the transaction that it is in has failed.
            DuplicateError: the id is another owner's.
            ValidationError: something in it can't be stored; nothing was written.
        """
        return (await self.add_many([task]))[0]

    async def add_many(self, tasks: Sequence[Task]) -> list[Task]:
        """Store up to 10,000 tasks, all or none, as ``add`` does, and return them in the same order.

        A parent may be among them, before its children. Of equal priority, an earlier one is claimed first.

        Raises:
            ValidationError: a task comes before its parent, or is its own.
        """
        if not isinstance(tasks, list | tuple) or len(tasks) > BATCH:
            raise ValidationError(f"the tasks are no list of at most {BATCH:,}")
        rows = [task_row(task, self._owner) for task in tasks]
        if not rows:
            return []
        check_parents(rows)
        database = await self._database()
        # Only an id that was given can be there already, and belong to somebody else.
        if len(rows) == 1 or all(task.id is None and task.key is None for task in tasks):
            return await self._added(rows)
        async with database.transaction():
            return await self._added(rows)

    async def _added(self, rows: list[dict[str, Any]]) -> list[Task]:
        distinct = list({row["id"]: row for row in reversed(rows)}.values())[::-1]
        values = {"rows": rows_json(distinct), "owner": self._owner or SHARED, "view": self._view}
        try:
            stored = await self._read_all(task_from_row, "task_add", values)
            await self._tell(stored)
        except ForeignKeyError as exc:
            raise ForeignKeyError(
                "the parent of a task isn't there",
                hint="add the parent first, or before its children in one add_many",
                operation="add",
                connection=self._name,
                code=exc.code,
            ) from exc
        found = {task.id: task for task in stored}
        left = [row["id"] for row in distinct if row["id"] not in found]
        if left:
            found |= {task.id: task for task in await self._by_id(left)}
        for row in rows:
            if row["id"] not in found:
                raise DuplicateError(
                    f"the id {shown(row['id'])} is that of a task that this store doesn't see",
                    hint="leave id out to have one generated, or take a key: keys of owners are apart",
                    operation="add",
                    connection=self._name,
                    code=UNIQUE_VIOLATION,
                )
        return [found[row["id"]] for row in rows]

    async def cancel(self, task_id: str, *, reason: str | None = None, with_children: bool = True) -> Task:
        """End an open task, whoever holds it, and the open tasks below it; a holder finds its lease lost.

        Raises:
            NotFoundError: it isn't there, or is another owner's.
            ConflictError: it was ended before.
        """
        values = {
            "id": check_id("the task's id", task_id),
            "error": None if reason is None else error_text(reason),
            "with_children": _check_flag("with_children", with_children),
            "view": self._view,
        }
        return await self._change_open("task_cancel", "cancel", "cancelled", values)

    async def escalate(self, task_id: str) -> Task:
        """Raise the level of an open task by one and return it; its status, owner and token stay.

        Raises:
            NotFoundError: it isn't there, or is another owner's.
            ConflictError: it was ended, or has the highest level, 2,147,483,647.
        """
        values = {"id": check_id("the task's id", task_id), "view": self._view}
        return await self._change_open("task_escalate", "escalate", "cancelled", values)

    async def retry(self, task_id: str) -> Task:
        """Begin a task anew that failed, is dead, was cancelled or rejected: pending, its attempts uncounted.

        Raises:
            NotFoundError: it isn't there, or is another owner's.
            ConflictError: it is open, or completed.
        """
        values = {"id": check_id("the task's id", task_id), "view": self._view}
        return await self._change_open("task_retry", "retry", "pending", values)

    async def _change_open(self, name: str, operation: str, wanted: Status, values: dict[str, Any]) -> Task:
        rows = await self._read_all(task_from_row, name, values)
        stored = next((task for task in rows if task.id == values["id"]), None)
        if stored is not None:
            await self._tell([stored])
            return stored
        current = await self._refused(operation, values["id"], wanted, self._view)
        at_the_top = operation == "escalate" and current.level == MAX_INT
        said = f"has the highest level, {MAX_INT:,}" if at_the_top else f"is {current.status}"
        raise ConflictError(
            f"task {shown(values['id'])} {said}: {operation} is not for it",
            hint="read it again",
            operation=operation,
            connection=self._name,
        )

    async def transfer(
        self,
        task_id: str,
        from_owner: str | None,
        to_owner: str | None,
        *,
        with_children: bool = True,
        lease: Duration = LEASE,
    ) -> Task:
        """Give an open task to another owner if it still is the first one's, with the tasks below it that this one has.

        None is nobody: anybody may claim it then. Who held it finds the lease lost; the task waits for its new owner,
        the attempt uncounted. A shared task stays shared: ``latest`` and ``claim`` see it as before, and it waits no
        longer than ``lease`` (seconds or a timedelta; a deferred one from when it is due): one that its new owner has
        not claimed by then is anybody's again. An owner's own task waits for its new owner for ever.

        Raises:
            NotFoundError: it isn't there.
            ConflictError: it is not ``from_owner``'s, or was ended; nothing has moved.
        """
        if self._owner not in (None, from_owner):
            raise ValidationError("the store of one owner gives away what is this owner's only")
        values = {
            "id": check_id("the task's id", task_id),
            "from_owner": SHARED if from_owner is None else check_owner(from_owner),
            "to_owner": SHARED if to_owner is None else check_owner(to_owner),
            "with_children": _check_flag("with_children", with_children),
            "lease": lease_micros(lease),
        }
        if values["from_owner"] == values["to_owner"]:
            raise ValidationError("from_owner and to_owner are the same")
        if self._audit is None:
            return await self._moved(task_id, values)
        async with (await self._database()).transaction():
            task = await self._moved(task_id, values)
            tags = {"task": task_id, "kind": task.kind, "from": from_owner, "to": to_owner}
            await self._audit.audit("task.transfer", chain=AUDIT_CHAIN, tags={**tags, "with_children": with_children})
        return task

    async def _moved(self, task_id: str, values: dict[str, Any]) -> Task:
        rows = await self._read_all(task_from_row, "task_transfer", values)
        stored = next((task for task in rows if task.id == task_id), None)
        if stored is not None:
            await self._tell([stored])
            return stored
        current = await self._get(task_id, None)
        if current is None:
            raise self._missing(task_id, "transfer")
        said = f"is {current.status}" if not current.is_open else f"has the owner {shown(current.owner or 'nobody')}"
        raise ConflictError(
            f"task {shown(task_id)} {said}",
            hint="read it again: somebody else was first",
            operation="transfer",
            connection=self._name,
        )

    async def hand_over(self, owner: str | None = None, to: str | None = None, *, lease: Duration = LEASE) -> int:
        """Let go of what an owner has, as it shuts down, and return how many tasks that were.

        With ``to``, all that is open goes to that owner, shared tasks for a ``lease`` as in ``transfer``. Without, all
        shared tasks go back to anybody, those too that were handed to this owner and wait for it; of its own, those
        that are held go back to its own queue. No attempt is counted; whoever still works on one finds its lease lost.
        """
        micros = lease_micros(lease)
        values = {
            "owner": self._holder(owner),
            "to_owner": None if to is None else check_owner(to),
            "lease": None if to is None else micros,
            "limit": UPKEEP,
        }
        if values["owner"] == to:
            raise ValidationError("owner and to are the same")
        if self._audit is None:
            return await self._repeated("task_hand_over", values, UPKEEP)
        async with (await self._database()).transaction():
            count = await self._repeated("task_hand_over", values, UPKEEP)
            if count:
                tags = {"from": values["owner"], "to": to, "tasks": count}
                await self._audit.audit("task.hand_over", chain=AUDIT_CHAIN, tags=tags)
        return count

    async def release_expired(self, *, batch: int = UPKEEP) -> int:
        """Make claimable what the clock has freed, ``batch`` tasks a statement, and return how many they were.

        Those whose lease ran out become pending, or dead after their last attempt; deferred ones that are due become
        pending. Every ``claim_next`` does the same for some: call it where nobody claims. No running work is touched.
        """
        self._check_wide("release_expired")
        size = check_limit(batch, "batch")
        return await self._repeated("task_release_expired", {"limit": size}, size)

    async def delete_finished(
        self, older_than: Duration, *, status: Status | Sequence[Status] | None = None, batch: int = UPKEEP
    ) -> int:
        """Delete tasks that ended ``older_than`` ago (seconds or a timedelta), and return how many they were.

        ``batch`` of them a statement, of every owner; only those in ``status`` where it is given. One with children
        goes after these: as long as one of them is open or too young, it stays. Open tasks are never touched.
        """
        self._check_wide("delete_finished")
        size = check_limit(batch, "batch")
        statuses = None if status is None else names_of("statuses", status, check_status)
        if statuses is not None and OPEN.intersection(statuses):
            raise ValidationError("an open task isn't finished", hint="cancel it first")
        values = {"older_than": micros_of("older_than", older_than), "statuses": statuses, "limit": size}
        return await self._repeated("task_delete_finished", values, size, until_none=True)

    async def delete(self, task_id: str) -> bool:
        """Delete a finished task without children, and tell whether it was there.

        Raises:
            ConflictError: it is open, or has children.
        """
        values = {"id": check_id("the task's id", task_id), "view": self._view}
        if await self._change("task_delete", values):
            return True
        current = await self._get(task_id, self._view)
        if current is None:
            return False
        raise ConflictError(
            f"task {shown(task_id)} is {current.status if current.is_open else 'the parent of others'}",
            hint="cancel it first" if current.is_open else "delete its children first, or delete_finished()",
            operation="delete",
            connection=self._name,
        )

    def export_user(self, user_id: str) -> AsyncIterator[str]:
        """Yield the tasks of a user as JSON lines, newest first, each followed by those below it; a task comes once.

        They are those whose metadata has the id as ``user_id``. Each task is a statement.
        """
        return export_tasks(self if self._owner is not None else self.all_owners(), user_id)

    async def erase_user(self, user_id: str) -> dict[str, int]:
        """Delete the tasks of a user and all below them, open ones too; return how many ``tasks`` went.

        They are those whose metadata has the id as ``user_id``, of every owner, or of the one that the store is bound
        to. Who holds one finds its lease lost. Each task takes some statements.
        """
        return await erase_tasks(self if self._owner is not None else self.all_owners(), user_id)

    async def _repeated(self, name: str, values: dict[str, Any], size: int, *, until_none: bool = False) -> int:
        """Run a statement that changes at most ``size`` tasks until it changes fewer, or none."""
        total = found = await self._change(name, values)
        while found and (until_none or found == size):
            found = await self._change(name, values)
            total += found
        return total

    def _check_wide(self, operation: str) -> None:
        if self._owner is not None:
            raise ValidationError(
                f"{operation} is not for the store of one owner", hint="call it on the tenant's store"
            )


def _check_flag(what: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValidationError(f"{what} is a {type(value).__name__}, not a bool")
    return value

# Generated from ../_async/tasks_base.py by tests/unasync.py: edit that one.
"""What the parts of the task store share: whose tasks it sees, reading them, and how a refused change is told."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self, cast

from persistence import Database, DatabaseManager, PubSub, RedisConnection, Row
from persistence._sync.manager import named_connection
from persistence.errors import ConflictError, NotFoundError, UnavailableError, ValidationError
from persistence.fields import Duration
from persistence.retry import Backoff
from persistence.validation import check_id, shown
from sessions._sync.store import SessionsStore
from sessions._sync.task_redis import RedisTasks
from sessions.records import micros_of
from sessions.tasks import (
    BATCH,
    MOVES,
    LeaseLostError,
    Status,
    Task,
    beyond_doubles,
    check_kind,
    check_owner,
    check_status,
    counted,
    cursor_values,
    find_values,
    names_of,
    task_from_row,
    utc_now,
)

if TYPE_CHECKING:
    from sessions._sync.events import EventLog

SHARED = ""
"""What a column holds for an owner where there is none."""
BACKOFF = Backoff(base=5.0, cap=3600.0)
"""How long a failed task waits unless the store is told otherwise: 5 s, 10 s, 20 s, … up to an hour."""


_log = logging.getLogger(__name__)


class TasksBase(SessionsStore):
    """The tasks of one tenant: those that are shared, or those of one owner, or all."""

    on_redis = True
    _owner: str | None = None
    _view: str | None = SHARED

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        tenant: str = "default",
        migrate: bool = True,
        backoff: Backoff = BACKOFF,
        clock: Callable[[], datetime] = utc_now,
        notices: PubSub | None = None,
        audit: EventLog | None = None,
    ) -> None:
        """``backoff`` says when a failed task is tried again; its ``retries`` don't count, ``max_attempts`` does.

        ``clock`` names the periods of ``claim`` and nothing else: the server's clock decides about leases.
        With ``notices`` the store tells workers when there is something to claim, which polling would find later; on
        PostgreSQL that costs each writer the lock that all notices share.

        With ``audit``, a log on the same connection, each ``transfer`` and ``hand_over`` is an event of its chain
        ``tasks``, in the transaction that moves the tasks.
        """
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._backoff = backoff
        self._clock = clock
        self._notices = notices
        if audit is not None and (audit._manager is not manager or audit._name != name):
            raise ValidationError(
                "the audit log lies on another connection than the tasks: they can't be one transaction",
                hint=f"EventLog(manager, {name!r})",
                connection=name,
            )
        self._audit = audit

    def _database(self) -> Database:
        connection = self._manager.get(self._name)
        if isinstance(connection, RedisConnection):
            return cast(Database, RedisTasks(connection))
        return super()._database()

    def for_owner(self, owner: str) -> Self:
        """Return the store of one owner: it sees what this owner has, and adds what is this owner's alone.

        Raises:
            ValidationError: the owner is empty, too long or no text. There is no owner that stands for everybody.
        """
        bound = copy.copy(self)
        bound._owner = bound._view = check_owner(owner)
        return bound

    def all_owners(self) -> Self:
        """Return the store that sees the tasks of every owner and the shared ones: for dashboards and upkeep."""
        if self._owner is not None:
            raise ValidationError(
                "all_owners() is not for the store of one owner", hint="call it on the tenant's store"
            )
        wide = copy.copy(self)
        wide._view = None
        return wide

    @property
    def owner(self) -> str | None:
        """Whose tasks they are; None is what all owners share, or all."""
        return self._owner

    @property
    def notices(self) -> PubSub | None:
        """Through what the store tells workers that there is something to claim."""
        return self._notices

    @property
    def channel(self) -> str:
        """The channel of these notices: one a tenant."""
        return f"tasks:{self._tenant}"

    def _tell(self, tasks: Sequence[Task]) -> None:
        """Say that there is something to claim, if there is; one notice, for however many tasks."""
        if self._notices is None or not any(task.status == "pending" for task in tasks):
            return
        try:
            self._notices.publish(self.channel)
        except UnavailableError as exc:
            _log.warning("%s: workers find the new tasks by polling: %s", self._name, exc)

    def get(self, task_id: str) -> Task:
        """Return a task.

        Raises:
            NotFoundError: it isn't there, or is another owner's.
        """
        found = self._get(check_id("the task's id", task_id), self._view)
        if found is None:
            raise self._missing(task_id, "get")
        return found

    def get_many(self, task_ids: Sequence[str]) -> list[Task]:
        """Return the tasks with these ids, by id; those that aren't there, or are another owner's, are left out."""
        if not isinstance(task_ids, list | tuple) or len(task_ids) > BATCH:
            raise ValidationError(f"task_ids are no list of at most {BATCH:,} ids")
        ids = sorted({check_id("the task's id", each) for each in task_ids})
        return self._by_id(ids) if ids else []

    def find(
        self,
        *,
        kind: str | Sequence[str] | None = None,
        status: Status | Sequence[Status] | None = None,
        parent: str | None = None,
        level: int = 0,
        within: Duration | None = None,
        where: dict[str, Any] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Task]:
        """Return the tasks that meet every filter, newest first, at most ``limit`` (up to 10,000).

        ``level`` is the least one, ``within`` (seconds or a timedelta) how long ago they were added at most, ``where``
        what their metadata must hold: texts, numbers, bools or None. ``after`` is the ``cursor`` of the last task of
        the page before.
        """
        values = {**find_values(kind, status, parent, level, within, where, limit, after), "view": self._view}
        database = self._database()
        if database.kind == "sqlite" and parent is not None:
            return self._read_all(task_from_row, "list_child_tasks", values)
        exact = beyond_doubles(where) if self._is_on_redis else {}  # which compares numbers as doubles
        found: list[Task] = []
        while True:
            page = [task_from_row(row, database.dialect) for row in self._filtered("list_tasks", values)]
            found += [task for task in page if exact.items() <= task.metadata.items()]
            if not exact or len(page) < limit or len(found) >= limit:
                return found[:limit]
            values |= cursor_values(page[-1].cursor)

    def children(self, task_id: str, *, limit: int = 100, after: str | None = None) -> list[Task]:
        """Return the tasks whose parent it is, of those that this store sees, newest first."""
        return self.find(parent=task_id, limit=limit, after=after)

    def counts(
        self, *, kind: str | Sequence[str] | None = None, within: Duration | None = None
    ) -> dict[str, int]:
        """Return how many tasks there are of each status, 0 where there is none, in one statement."""
        values = {
            "view": self._view,
            "kinds": None if kind is None else names_of("kinds", kind, check_kind),
            "within": None if within is None else micros_of("within", within),
        }
        return counted(self._filtered("task_counts", values))

    def latest(self, kind: str, *, within: Duration | None = None, status: Status | None = None) -> Task | None:
        """Return the newest task of a kind, or None: one added ``within`` so long, in ``status``, if they are given.

        On the tenant's store it is a shared one, whoever holds it, was handed it or has completed it.
        """
        values = {
            "view": self._view,
            "kind": check_kind(kind),
            "status": None if status is None else check_status(status),
            "within": None if within is None else micros_of("within", within),
        }
        return self._read_one(task_from_row, "task_latest", values)

    def status(self, kind: str, *, within: Duration | None = None) -> Status | None:
        """Return the status of the newest task of a kind, added ``within`` so long; None where there is none."""
        found = self.latest(kind, within=within)
        return None if found is None else found.status

    def is_completed(self, kind: str, *, within: Duration | None = None) -> bool:
        """Tell whether a task of a kind, added ``within`` so long, is completed."""
        return self.latest(kind, within=within, status="completed") is not None

    def _filtered(self, name: str, values: dict[str, Any]) -> list[Row]:
        """Return rows of a statement whose filters may be None; PostgreSQL plans it for those that are there."""
        database = self._database()
        sql, parameters = self._prepared(database, name, values)
        return database.fetch_all(sql, parameters, prepare=False)

    def _get(self, task_id: str, view: str | None) -> Task | None:
        return self._read_one(task_from_row, "task_get", {"id": task_id, "view": view})

    def _by_id(self, ids: list[str]) -> list[Task]:
        values = {"ids": ids, "view": self._view, "limit": len(ids)}
        return self._read_all(task_from_row, "list_tasks_by_id", values)

    def _refused(self, operation: str, task_id: str, wanted: Status, view: str | None) -> Task:
        """Return the task that a change of its status found no row of; the caller can't tell better than this why.

        Raises:
            NotFoundError: it isn't there, or is another owner's.
            ConflictError: from its status it can't go there.
        """
        current = self._get(task_id, view)
        if current is None:
            raise self._missing(task_id, operation)
        if wanted not in MOVES[current.status]:
            what = "be escalated" if operation == "escalate" else f"become {wanted}"
            raise ConflictError(
                f"task {shown(task_id)} is {current.status} and can't {what}",
                hint=f"from {current.status} it goes to {', '.join(sorted(MOVES[current.status])) or 'nothing else'}",
                operation=operation,
                connection=self._name,
            )
        return current

    def _lost(self, operation: str, task: Task, current: Task) -> LeaseLostError:
        if current.token != task.token:
            held = f"is {current.status} under token {current.token}; {task.token} holds it no more"
        else:
            held = f"is held no more: its lease ended at {current.wake_at}"
        return LeaseLostError(
            f"task {shown(current.id or '')} {held}",
            expected=task.token,
            actual=current.token,
            hint="stop working on it: others may have it. Renew sooner, or claim it with a longer lease",
            operation=operation,
            connection=self._name,
        )

    def _missing(self, task_id: str, operation: str) -> NotFoundError:
        return NotFoundError(
            f"there is no task {shown(task_id)}",
            hint="it was never added, was deleted, or is not one that this store sees",
            operation=operation,
            connection=self._name,
        )

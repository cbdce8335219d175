"""Own the records of tasks: their statuses and the moves between these, what is refused, how rows become records."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, cast, get_args

from persistence.dialect import Dialect, from_json, from_micros, to_micros
from persistence.errors import ConflictError, CorruptError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, check_whole, metadata_json, shown, storable
from sessions.contents import content_json, decoded, to_text
from sessions.records import lasting_moment, micros_of, new_id, where_json

Status = Literal["pending", "active", "deferred", "completed", "failed", "cancelled", "rejected", "dead"]
Period = Literal["hour", "day", "week", "month"]

STATUSES: tuple[Status, ...] = get_args(Status)
OPEN: frozenset[Status] = frozenset(("pending", "active", "deferred"))
"""The statuses of a task that is still to be done; every other one is final, but for ``retry``."""
MOVES: dict[Status, frozenset[Status]] = {
    "pending": frozenset(("active", "deferred", "cancelled")),
    "active": frozenset(("pending", "deferred", "completed", "failed", "cancelled", "rejected", "dead")),
    "deferred": frozenset(("pending", "active", "deferred", "cancelled")),
    "completed": frozenset(),
    "failed": frozenset(("pending",)),
    "cancelled": frozenset(("pending",)),
    "rejected": frozenset(("pending",)),
    "dead": frozenset(("pending",)),
}
"""Where a task may go from each status; any other move is a ConflictError."""

NAME_BYTES = 255
"""The longest kind, key and owner in bytes of UTF-8: an index holds two of them."""
BATCH = 10_000
"""The most tasks of one ``add_many`` and of one claim."""
ERROR_CHARACTERS = 10_000
"""How much is kept of what a failed task says."""
MAX_INT = 2**31 - 1
"""The highest priority, level and number of attempts."""

_PERIODS: dict[Period, str] = {"hour": "%Y-%m-%dT%H", "day": "%Y-%m-%d", "week": "%G-W%V", "month": "%Y-%m"}


class LeaseLostError(ConflictError):
    """The task is no longer this worker's: its lease ran out, or somebody else claimed, cancelled or moved it."""


@dataclass(kw_only=True, slots=True)
class Task:
    """Work that one owner does at a time; with ``parent_id``, a part of another task (a thought, a step).

    ``id`` is generated when it is left out; that of a task with a ``key`` is made of kind, owner and key, so that it is
    added once. ``payload`` and ``result`` are any JSON and come back equal. Higher ``priority`` is claimed first, then
    what is older. ``max_attempts`` is how often it may be claimed before it is ``dead``. ``level`` says how far it was
    escalated. ``wake_at`` in the future defers a new task; in a stored one it is when the lease ends (``active``), when
    it may be claimed (``deferred``), or until when it waits for the owner that it was handed to (``pending``).

    ``owner`` is who holds it, or who alone may claim it (None: anybody), ``shared`` whether it goes back to anybody
    when the owner lets go, or didn't come for it in time. These and ``status``, ``attempts``, ``token`` (which grows
    whenever the task changes hands), ``lease``, ``result``, ``error`` and the times are the store's: what a new task
    holds there is not stored.
    """

    kind: str
    payload: Any = None
    key: str | None = None
    id: str | None = None
    priority: int = 0
    parent_id: str | None = None
    level: int = 0
    max_attempts: int = 5
    metadata: dict[str, Any] = field(default_factory=dict)
    wake_at: datetime | None = None
    owner: str | None = None
    shared: bool = True
    status: Status = "pending"
    attempts: int = 0
    token: int = 0
    lease: timedelta | None = None
    result: Any = None
    error: str | None = None
    created_at: datetime | None = None
    updated_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is still to be done."""
        return self.status in OPEN

    @property
    def cursor(self) -> str:
        """Where a listing goes on after this task: pass it as ``after``. Opaque, and safe within a URL.

        Raises:
            ValidationError: the task was not read from a store.
        """
        if self.created_at is None or self.id is None:
            raise ValidationError("a task that is not stored has no cursor")
        return urlsafe_b64encode(f"{to_micros(self.created_at)}:{self.id}".encode()).decode().rstrip("=")


def utc_now() -> datetime:
    """Return the time of this process, in UTC: what periods are named by unless the store is given another clock."""
    return datetime.now(UTC)


def period_key(period: Period, clock: Callable[[], datetime]) -> str:
    """Return the name of the period that the clock is in, in UTC: ``2026-11-29`` for a day, ``2026-W48`` for a week.

    Raises:
        ValidationError: the period is none of hour, day, week and month, or the clock gives no aware datetime.
    """
    if period not in _PERIODS:
        raise ValidationError(f"{period!r} is no period", hint=", ".join(_PERIODS))
    moment = clock()
    if not isinstance(cast(object, moment), datetime) or moment.tzinfo is None:
        raise ValidationError("the clock gives no datetime with a time zone", hint="datetime.now(timezone.utc)")
    return moment.astimezone(UTC).strftime(_PERIODS[period])


def keyed_id(kind: str, key: str, owner: str | None = None) -> str:
    """Return the id of the task with a key: ``kind:key``, or ``kind:owner:key`` of one owner's own."""
    parts = (kind, key) if owner is None else (kind, owner, key)
    return ":".join(part.replace("%", "%25").replace(":", "%3A") for part in parts)


def check_kind(kind: object) -> str:
    """Return a kind: a text of 1 to 255 bytes."""
    return check_id("the task's kind", kind, limit=NAME_BYTES)


def check_key(key: object) -> str:
    """Return a key: a text of 1 to 255 bytes."""
    return check_id("the task's key", key, limit=NAME_BYTES)


def check_owner(owner: object) -> str:
    """Return an owner: a text of 1 to 255 bytes."""
    return check_id("the owner", owner, limit=NAME_BYTES)


def names_of(what: str, names: object, check: Callable[[object], str]) -> list[str]:
    """Return one name or several, checked and without repeats.

    Raises:
        ValidationError: there is none, or more than 100.
    """
    given = [names] if isinstance(names, str) else names
    if not isinstance(given, list | tuple | set | frozenset):
        raise ValidationError(f"{what} are a {type(names).__name__}, not a str or a list of them")
    found = list(dict.fromkeys(check(name) for name in given))
    if not 1 <= len(found) <= 100:
        raise ValidationError(f"{len(found)} {what}, not 1 to 100")
    return found


def check_status(status: object) -> str:
    """Return a status.

    Raises:
        ValidationError: it is none.
    """
    if status not in STATUSES:
        raise ValidationError(f"{status!r} is no status of a task", hint=", ".join(STATUSES))
    return cast(str, status)


def task_row(task: object, owner: str | None) -> dict[str, Any]:
    """Return what is stored of a new task of an owner (None: shared), None left out."""
    if not isinstance(task, Task):
        raise ValidationError(f"a {type(task).__name__} is no Task")
    kind = check_kind(task.kind)
    id = task.id
    if task.key is not None:
        made = keyed_id(kind, check_key(task.key), owner)
        if id not in (None, made):
            raise ValidationError("a task has an id or a key", hint="the id of one with a key is made of it")
        id = made
    row = {
        "id": new_id() if id is None else check_id("the task's id", id),
        "kind": kind,
        "key": task.key,
        "parent_id": None if task.parent_id is None else check_id("the task's parent_id", task.parent_id),
        "priority": check_whole("priority", task.priority, least=-MAX_INT, most=MAX_INT),
        "level": check_whole("level", task.level, least=0, most=MAX_INT),
        "max_attempts": check_whole("max_attempts", task.max_attempts, most=MAX_INT),
        "payload": json_or_none("payload", task.payload),
        "metadata": metadata_json(task.metadata),
        "wake_at": None if task.wake_at is None else to_micros(lasting_moment("wake_at", task.wake_at)),
    }
    return {name: value for name, value in row.items() if value is not None}


def check_parents(rows: Sequence[dict[str, Any]]) -> None:
    """See that new tasks come after their parents, so that no task lies below itself.

    Raises:
        ValidationError: one doesn't.
    """
    ids, met = {row["id"] for row in rows}, set()
    for number, row in enumerate(rows):
        parent = row.get("parent_id")
        if parent in ids and parent not in met:
            raise ValidationError(
                f"tasks[{number}] comes before its parent {shown(str(parent))}",
                hint="a parent stands before its children",
            )
        met.add(row["id"])


def rows_json(rows: Iterable[dict[str, Any]]) -> str:
    """Return new tasks as the one JSON list in which they travel, each with its place from 0."""
    return to_text([{**row, "place": place} for place, row in enumerate(rows)])


def json_or_none(what: str, value: object) -> str | None:
    """Return any JSON value as text; None stays None."""
    return None if value is None else content_json(value, what)


def error_text(error: object) -> str:
    """Return what a failed task says: of an exception its class and message, of any text what can be stored of it."""
    if isinstance(error, BaseException):
        error = f"{type(error).__name__}: {error}"
    if not isinstance(error, str):
        raise ValidationError(f"the error is a {type(error).__name__}, not a str or an exception")
    return storable(error, ERROR_CHARACTERS)


def held_values(task: object) -> dict[str, Any]:
    """Return by what a worker names the task that it holds."""
    if not isinstance(task, Task):
        raise ValidationError(f"a {type(task).__name__} is no Task", hint="pass what the claim returned")
    id, token = check_id("the task's id", task.id), check_whole("the task's token", task.token, least=0)
    return {"id": id, "token": token}


def lease_micros(lease: Duration) -> int:
    """Return a lease (seconds or a timedelta) in microseconds."""
    return micros_of("the lease", lease)


def find_values(
    kinds: object,
    statuses: object,
    parent: object,
    level: object,
    within: Duration | None,
    where: object,
    limit: object,
    after: object,
) -> dict[str, Any]:
    """Return what the listing takes, checked.

    Raises:
        ValidationError: a filter is none, or ``after`` no cursor of ours.
    """
    return {
        "kinds": None if kinds is None else names_of("kinds", kinds, check_kind),
        "statuses": None if statuses is None else names_of("statuses", statuses, check_status),
        "parent": None if parent is None else check_id("the parent's id", parent),
        "level": check_whole("level", level, least=0, most=MAX_INT),
        "within": None if within is None else micros_of("within", within),
        "where": where_json(where),
        "limit": check_limit(limit),
        **cursor_values(after),
    }


def cursor_values(after: object) -> dict[str, Any]:
    """Return the place in a listing after which it goes on; None is its beginning.

    Raises:
        ValidationError: ``after`` is no cursor of ours.
    """
    if after is None:
        return {"after_time": None, "after_id": None}
    try:
        text = cast(str, after)
        found = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        micros, _, id = found.partition(":")
        moment = from_micros(int(micros))
    except (TypeError, ValueError, OverflowError):
        raise ValidationError("after is no cursor", hint="pass the cursor of a task that the listing gave") from None
    return {"after_time": moment, "after_id": check_id("the cursor's id", id)}


def beyond_doubles(where: dict[str, Any] | None) -> dict[str, int | float]:
    """Return what a filter asks of numbers that a double doesn't tell from their neighbours."""
    return {key: value for key, value in (where or {}).items() if type(value) in (int, float) and abs(value) >= 2**53}


def task_from_row(row: dict[str, Any], dialect: Dialect) -> Task:
    """Return the task that a row holds.

    Raises:
        CorruptError: its status is none of ours.
    """
    status = row["status"]
    if status not in MOVES:
        raise CorruptError(f"a stored task has the status {status!r}", hint="was it written by other means?")
    lease, payload, result = row["lease_micros"], row["payload"], row["result"]
    return Task(
        id=row["id"],
        kind=row["kind"],
        key=row["key"],
        parent_id=row["parent_id"],
        owner=row["owner"] or None,
        shared=bool(row["shared"]),
        status=status,
        priority=row["priority"],
        level=row["level"],
        attempts=row["attempts"],
        max_attempts=row["max_attempts"],
        token=row["token"],
        lease=None if lease is None else timedelta(microseconds=lease),
        wake_at=dialect.moment(row["wake_at"]),
        payload=None if payload is None else decoded(payload),
        result=None if result is None else decoded(result),
        error=row["error"],
        metadata=from_json(row["metadata"]),
        created_at=dialect.moment(row["created_at"]),
        updated_at=dialect.moment(row["updated_at"]),
        finished_at=dialect.moment(row["finished_at"]),
    )


def counted(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many tasks each status has, in the order of ``STATUSES``, 0 where there is none."""
    found = {row["status"]: int(row["tasks"]) for row in rows}
    return {status: found.get(status, 0) for status in STATUSES}

"""Own the form of what is exported: JSON lines; those of a thread's messages begin with one that says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from persistence.dialect import Dialect
from persistence.errors import ValidationError
from persistence.validation import check_moment, check_whole
from sessions.contents import content_json, decoded, json_object
from sessions.context import ContextItem
from sessions.items import LABEL_END
from sessions.messages import Message, message_values
from sessions.records import Session, Thread

FORMAT = "holdfast messages"
VERSION = 1

_TYPED = ("role", "content", "metadata", "input_tokens", "output_tokens", "models", "sources", "answers")
_MICROSECOND = timedelta(microseconds=1)
_PLACED = ("seq", "version", "summary_through")


@dataclass(frozen=True)
class Header:
    """What the first line says."""

    thread: Thread


def header_line(thread: Thread) -> str:
    """Return the first line of a thread's export."""
    return content_json(
        {
            "format": FORMAT,
            "version": VERSION,
            "thread_id": thread.id,
            "user_id": thread.user_id,
            "title": thread.title,
            "metadata": thread.metadata,
        }
    )


def message_line(message: Message) -> str:
    """Return a message as one line; what it hasn't got is left out."""
    return content_json(_fields(message))


def _fields(message: Message) -> dict[str, Any]:
    fields = {name: getattr(message, name) for name in (*_PLACED, *_TYPED)}
    latency, cost = message.latency, message.cost
    fields |= {
        "created_at": _time(message.created_at),
        "latency": None if latency is None else latency // _MICROSECOND,
        "cost": None if cost is None else str(cost),
    }
    kept = {name: value for name, value in fields.items() if value is not None or name == "content"}
    if not message.metadata:
        del kept["metadata"]
    return kept


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def record_line(record: dict[str, Any]) -> str:
    """Return a record as one line."""
    return content_json(record)


def message_record(message: Message) -> dict[str, Any]:
    """Return what a user's export says of a message."""
    return {"kind": "message", "thread_id": message.thread_id, **_fields(message)}


def session_record(session: Session) -> dict[str, Any]:
    """Return what a user's export says of a session."""
    return {
        "kind": "session",
        "id": session.id,
        "user_id": session.user_id,
        "title": session.title,
        "metadata": session.metadata,
        "expires_at": _time(session.expires_at),
        "created_at": _time(session.created_at),
        "updated_at": _time(session.updated_at),
    }


def thread_record(thread: Thread) -> dict[str, Any]:
    """Return what a user's export says of a thread."""
    return {
        "kind": "thread",
        "id": thread.id,
        "session_id": thread.session_id,
        "user_id": thread.user_id,
        "title": thread.title,
        "metadata": thread.metadata,
        "created_at": _time(thread.created_at),
        "updated_at": _time(thread.updated_at),
    }


def item_line(row: dict[str, Any], dialect: Dialect) -> str:
    """Return what a user's export says of an item: its namespace is a list of labels."""
    return content_json(
        {
            "kind": "item",
            "namespace": row["namespace"].split(LABEL_END)[:-1],
            "key": row["key"],
            "value": decoded(row["value"]),
            "expires_at": _time(dialect.moment(row["expires_at"])),
            "created_at": _time(dialect.moment(row["created_at"])),
            "updated_at": _time(dialect.moment(row["updated_at"])),
        }
    )


def context_item_line(item: ContextItem) -> str:
    """Return the same for an item of the shared context."""
    return content_json(
        {
            "kind": "item",
            "namespace": ["context"],
            "key": item.key,
            "value": item.value,
            "expires_at": _time(item.expires_at),
            "created_at": _time(item.created_at),
            "updated_at": _time(item.updated_at),
        }
    )


def read_header(line: str) -> Header:
    """Return what the first line of an export says.

    Raises:
        ValidationError: it is no first line of an export, or of a later version than this.
    """
    found = json_object(1, line)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise ValidationError(
            f"line 1 is not that of an export: format {FORMAT!r}, version {VERSION}",
            hint="import what export_messages() gave",
        )
    try:
        return Header(
            Thread(id=found["thread_id"], user_id=found["user_id"], title=found["title"], metadata=found["metadata"])
        )
    except KeyError as exc:
        raise ValidationError(f"line 1 has no {exc.args[0]}") from None


def read_message(number: int, line: str) -> tuple[Message, dict[str, Any]]:
    """Return the message that a line holds, and its row, checked like a new one.

    Raises:
        ValidationError: it holds none, names an unknown field, or something in it can't be stored.
    """
    found = json_object(number, line)
    unknown = sorted(set(found) - {*_TYPED, *_PLACED, "created_at", "latency", "cost"})
    if unknown:
        raise ValidationError(f"line {number} has the unknown field {unknown[0][:80]!r}")
    try:
        latency, cost = found.pop("latency", None), found.pop("cost", None)
        moment = check_moment("created_at", datetime.fromisoformat(found.pop("created_at")))
        message = Message(
            **found,
            created_at=moment,
            cost=None if cost is None else Decimal(cost),
            latency=None if latency is None else timedelta(microseconds=latency),
        )
        row = message_values(message) | {
            "seq": check_whole("seq", message.seq),
            "version": check_whole("version", message.version),
            "created_at": moment,
            "summary_through": None,
        }
        if message.summary_through is not None:
            row["summary_through"] = check_whole("summary_through", message.summary_through)
    except ValidationError as exc:
        raise ValidationError(f"line {number}: {exc.message}", hint=exc.hint) from None
    except (KeyError, TypeError, ValueError, OverflowError, InvalidOperation) as exc:
        raise ValidationError(f"line {number} holds no message: {type(exc).__name__}") from None
    return message, row

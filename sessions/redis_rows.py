"""Own how statements and their rows travel to and from the Lua script, in the forms that SQLite's have."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, cast

from persistence.dialect import to_micros
from sessions.messages import decoded, to_text

Result = Literal["sessions", "threads", "messages", "appended", "conversation", "value"]

RESULTS: dict[str, Result] = {
    "create_session": "sessions",
    "get_session": "sessions",
    "update_session": "sessions",
    "touch_session": "sessions",
    "patch_session": "sessions",
    "list_user_sessions": "sessions",
    "delete_session": "value",
    "delete_expired_sessions": "value",
    "create_thread": "threads",
    "get_thread": "threads",
    "update_thread": "threads",
    "touch_thread": "threads",
    "patch_thread": "threads",
    "list_session_threads": "threads",
    "list_user_threads": "threads",
    "fork_thread": "threads",
    "delete_thread": "value",
    "append_message": "appended",
    "append_messages": "appended",
    "replace_messages": "appended",
    "pop_message": "messages",
    "list_messages_before": "messages",
    "list_messages_after": "messages",
    "list_context": "messages",
    "last_message_seq": "value",
    "conversation": "conversation",
}
"""What the script answers to each statement that it knows."""

_MESSAGE = (
    "role",
    "content",
    "metadata",
    "input_tokens",
    "output_tokens",
    "cost_nanos",
    "latency_micros",
    "models",
    "sources",
    "question_seq",
)
_SESSION = {"user_id": "user", "title": "title"}
_TIMES = {"created_at": "created", "updated_at": "updated"}


def arguments(name: str, values: dict[str, Any]) -> list[str]:
    """Return a statement's parameters as pairs of name and value; None is left out."""
    given = dict(values)
    pairs: list[str] = []
    if name == "append_message":
        pairs += ("row", to_text({field: given.pop(field) for field in _MESSAGE if given[field] is not None}))
        given = {field: value for field, value in given.items() if field not in _MESSAGE}
    for row in json.loads(given.pop("rows", "[]")):
        pairs += ("row", to_text({field: value for field, value in row.items() if value is not None}))
    for key in json.loads(given.pop("touched", None) or "{}"):
        pairs += ("unset", key)
    for key, value in json.loads(given.pop("metadata", None) or given.pop("changes", None) or "{}").items():
        pairs += ("set", f"{key}\0{to_text(value)}")
    for field, value in given.items():
        if value is not None:
            pairs += (field, str(to_micros(value)) if isinstance(value, datetime) else str(value))
    return pairs


def rows_of(name: str, answer: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that the script answered."""
    kind = RESULTS[name]
    if kind == "value":
        return [{"value": value if isinstance(value, int) else _plain(value)} for value in answer]
    rows = [_BUILDERS[kind](each, values) for each in answer]
    return _page(rows, values) if name.startswith("list_") and kind in ("sessions", "threads") else rows


def _plain(value: bytes) -> int | str:
    text = value.decode()
    return int(text) if text.isdigit() else text


def _record(answer: Any) -> tuple[str, dict[str, str], str]:
    """Return a record's id, its fields, and its metadata as JSON text."""
    flat = [part.decode() for part in answer[1]]
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    metadata = [f"{to_text(key[2:])}:{text}" for key, text in fields.items() if key.startswith("m:")]
    return answer[0].decode(), fields, "{" + ",".join(metadata) + "}"


def _number(fields: dict[str, str], name: str) -> int | None:
    return int(fields[name]) if name in fields else None


def _session(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    id, fields, metadata = _record(answer)
    row: dict[str, Any] = {"id": id, "metadata": metadata, "version": int(fields["version"])}
    row |= {column: fields.get(name) for column, name in _SESSION.items()}
    row |= {column: int(fields[name]) for column, name in _TIMES.items()}
    return {**row, "sliding_micros": _number(fields, "sliding"), "expires_at": _number(fields, "expires")}


def _thread(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    id, fields, metadata = _record(answer)
    row: dict[str, Any] = {"id": id, "metadata": metadata, "version": int(fields["version"])}
    row |= {column: fields.get(name) for column, name in _SESSION.items()}
    row |= {column: int(fields[name]) for column, name in _TIMES.items()}
    return {**row, "session_id": fields.get("session")}


def _message(answer: bytes, values: dict[str, Any]) -> dict[str, Any]:
    seq, version, created, through, body = answer.decode().split(":", 4)
    found = decoded(body)
    return {
        **{field: found.get(field) for field in _MESSAGE},
        "thread_id": values["thread"],
        "seq": int(seq),
        "version": int(version),
        "created_at": int(created),
        "summary_through": int(through) if through else None,
    }


def _appended(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    seq, version, created = (int(part) for part in answer)
    return {"seq": seq, "version": version, "created_at": created}


def _conversation(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    id, version, last, window, summary, parent, parent_seq, kept = (part.decode() for part in answer)
    key = [int(part) for part in kept.split(":")] if kept else [None, None, None]
    return {
        "id": id,
        "message_version": int(version),
        "last_seq": int(last),
        "window_seq": int(window),
        "summary_seq": int(summary) if summary else None,
        "parent_id": parent or None,
        "parent_seq": int(parent_seq) if parent_seq else None,
        "key_seq": key[0],
        "key_version": key[1],
        "key_time": key[2],
    }


_BUILDERS: dict[Result, Callable[[Any, dict[str, Any]], dict[str, Any]]] = {
    "sessions": _session,
    "threads": _thread,
    "messages": _message,
    "appended": _appended,
    "conversation": _conversation,
}


def _page(rows: list[dict[str, Any]], values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a page of a listing: newest activity first, filtered, after the cursor."""
    where = json.loads(values["where"] or "{}")
    after = None
    if values["after_time"] is not None:
        after = (to_micros(values["after_time"]), cast(str, values["after_id"]))
    found = [
        row
        for row in rows
        if (after is None or (row["updated_at"], row["id"]) < after) and _holds(row["metadata"], where)
    ]
    found.sort(key=lambda row: (row["updated_at"], row["id"]), reverse=True)
    return found[: values["limit"]]


def _holds(metadata: str, where: dict[str, Any]) -> bool:
    if not where:
        return True
    found = json.loads(metadata)
    return all(
        key in found
        and found[key] == value
        # True is 1 for Python, but not for a database.
        and isinstance(found[key], bool) == isinstance(value, bool)
        for key, value in where.items()
    )

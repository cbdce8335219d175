"""Own how statements and their rows travel to and from the Lua script, in the forms that SQLite's have."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Literal, cast

from persistence.dialect import to_micros
from sessions.contents import decoded, to_text
from sessions.items import LABEL_END
from sessions.redis_usage import Used, usage_rows

Result = Literal[
    "sessions",
    "threads",
    "messages",
    "contents",
    "appended",
    "conversation",
    "value",
    "counts",
    "scope",
    "state",
    "items",
    "usage",
]

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
    "list_contents": "contents",
    "list_context": "messages",
    "last_message_seq": "value",
    "conversation": "conversation",
    "import_messages": "value",
    "cut_by_age": "value",
    "cut_by_count": "value",
    "cut_by_tokens": "value",
    "prune_messages": "value",
    "list_threads_to_prune": "value",
    "list_usage": "usage",
    "list_scope": "scope",
    "erase_session": "counts",
    "erase_user": "counts",
    "export_user_sessions": "sessions",
    "export_user_threads": "threads",
    "export_user_items": "items",
    "export_thread_messages": "messages",
    "load_state": "state",
    "update_state": "sessions",
}
"""What the script answers to each statement that it knows."""

READS = frozenset(
    "conversation cut_by_age cut_by_count cut_by_tokens export_thread_messages export_user_items export_user_sessions"
    " export_user_threads get_session get_thread last_message_seq list_contents list_context list_messages_after"
    " list_messages_before list_threads_to_prune list_usage load_state".split()
)
"""Statements that change nothing, so that sending one twice is sending it once."""

FORGETTING = frozenset(("list_scope", "list_session_threads", "list_user_sessions", "list_user_threads"))
"""Statements that only read, but for ids of what is gone, which they forget: that is as well done twice."""

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
_USE = ("input_tokens", "output_tokens", "cost_nanos", "latency_micros")
"""What stands before a message's JSON, with the models, so that the script needs no JSON to sum it up."""
_SESSION = {"user_id": "user", "title": "title"}
_TIMES = {"created_at": "created", "updated_at": "updated"}


def arguments(name: str, values: dict[str, Any]) -> list[str]:
    """Return a statement's parameters as pairs of name and value; None is left out."""
    given = dict(values)
    pairs: list[str] = []
    if name == "append_message":
        pairs += ("row", _body({field: given.pop(field) for field in _MESSAGE}))
    for member in given.pop("members", ()):
        pairs += ("row", member)
    for row in json.loads(given.pop("rows", "[]")):
        if name == "update_state":
            pairs += ("row", f"{row['scope']}\0{row['key']}\0{row['value'] or ''}")
        else:
            pairs += ("row", _body(row))
    for key in json.loads(given.pop("touched", None) or "{}"):
        pairs += ("unset", key)
    for key, value in json.loads(given.pop("metadata", None) or given.pop("changes", None) or "{}").items():
        pairs += ("set", f"{key}\0{to_text(value)}")
    for field, value in given.items():
        if value is not None:
            pairs += (field, str(to_micros(value)) if isinstance(value, datetime) else str(value))
    return pairs


def _body(row: dict[str, Any]) -> str:
    """Return a message as it is kept: what it used, which the script sums up, the rest as JSON, and the content."""
    kept = {field: value for field, value in row.items() if value is not None}
    use = ":".join(str(kept.pop(field, "")) for field in _USE)
    models = kept.pop("models", "")
    place = kept.pop("place", 0)
    if "question_place" in kept:
        # What the question's number is less than the answer's.
        kept["question_before"] = place - kept.pop("question_place")
    content = kept.pop("content")
    rest = to_text(kept)
    return f"{use}:{len(models.encode())}:{len(rest.encode())}:{models}{rest}{content}"


def imported_member(row: dict[str, Any]) -> str:
    """Return a message of an export as it is kept: its number, version and time stand before the rest."""
    fields = dict(row)
    seq, version, through = fields.pop("seq"), fields.pop("version"), fields.pop("summary_through")
    created = to_micros(fields.pop("created_at"))
    return f"{seq}:{version}:{created}:{'' if through is None else through}:{_body(fields)}"


def rows_of(name: str, answer: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows that the script answered."""
    kind = RESULTS[name]
    if kind == "value":
        return [{"value": value if isinstance(value, int) else _plain(value)} for value in answer]
    if kind == "usage":
        return usage_rows([_used(each) for each in answer], values)
    if kind == "state":
        return [row for each in answer for row in _state(each, values)]
    if kind == "items":
        return _items(answer, values)
    if name == "export_user_sessions" or name == "export_user_threads":
        found = sorted((_BUILDERS[kind](each, values) for each in answer), key=lambda row: str(row["id"]))
        return [row for row in found if row["id"] > values["after"]][: values["limit"]]
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
    seq, version, created, through, used_in, used_out, cost, latency, size, length, texts = answer.split(b":", 10)
    start = int(size)
    end = start + int(length)
    models = texts[:start]
    found: dict[str, Any] = decoded(texts[start:end].decode())
    get = found.get
    return {
        "role": found["role"],
        "content": texts[end:].decode(),
        "metadata": get("metadata"),
        "input_tokens": int(used_in) if used_in else None,
        "output_tokens": int(used_out) if used_out else None,
        "cost_nanos": int(cost) if cost else None,
        "latency_micros": int(latency) if latency else None,
        "models": models.decode() if models else None,
        "sources": get("sources"),
        "question_seq": int(seq) - found["question_before"] if "question_before" in found else get("question_seq"),
        "thread_id": values["thread"],
        "seq": int(seq),
        "version": int(version),
        "created_at": int(created),
        "summary_through": int(through) if through else None,
    }


def _content(answer: bytes, values: dict[str, Any]) -> dict[str, Any]:
    parts = answer.split(b":", 10)
    return {"seq": int(parts[0]), "content": parts[10][int(parts[8]) + int(parts[9]) :].decode()}


def _flat(answer: list[bytes]) -> dict[str, str]:
    parts = [part.decode() for part in answer]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def _used(answer: Any) -> Used:
    thread, session, user, sums = answer
    return Used(thread.decode(), session.decode(), user.decode(), _flat(sums))


def _counts(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    return dict(zip(("messages", "threads", "sessions", "items"), answer, strict=False))


def _scope(answer: Any, values: dict[str, Any]) -> dict[str, Any]:
    thread, count, user, copied, owners = answer
    former = sorted((int(last), user or None) for last, user in _flat(owners).items())
    row = {"thread": thread.decode(), "messages": count, "user": user.decode(), "copied": int(copied)}
    return {**row, "former": former}


def _state(answer: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the session with each key that it shares, as the join of the SQL databases does."""
    session, namespace = _session(answer[0], values), values["namespace"]
    app = [("app", key, value) for key, value in _flat(answer[1]).items()]
    user = [
        ("user", key.removeprefix(namespace), value)
        for key, value in _flat(answer[2]).items()
        if key.startswith(namespace)
    ]
    rows = [{**session, "scope": scope, "key": key, "value": value} for scope, key, value in app + user]
    return rows or [{**session, "scope": None, "key": None, "value": None}]


def _items(answer: Any, values: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a page of a user's state as items, which have no times here."""
    rows = []
    for field, value in _flat(answer).items():
        kind, app, key = field.split(LABEL_END, 2)
        rows.append({"namespace": f"{kind}{LABEL_END}{app}{LABEL_END}", "key": key, "value": value})
    after = values["after_namespace"], values["after_key"]
    found = sorted((row for row in rows if (row["namespace"], row["key"]) > after), key=lambda row: tuple(row.values()))
    return [{**row, "expires_at": None, "created_at": None, "updated_at": None} for row in found[: values["limit"]]]


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
    "contents": _content,
    "appended": _appended,
    "conversation": _conversation,
    "counts": _counts,
    "scope": _scope,
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

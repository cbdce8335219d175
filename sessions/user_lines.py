"""Own the lines that a user's export has of nodes, edges, events and tasks, each with its ``kind``."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta
from typing import Any

from sessions.events import Event
from sessions.graph import Edge, Node
from sessions.tasks import Task
from sessions.transfer import record_line

USER_ID = "user_id"
"""The attribute of a node, the tag of an event and the metadata of a task that says whose it is."""

_MICROSECOND = timedelta(microseconds=1)


def node_line(node: Node) -> str:
    """Return a node as one line."""
    return _line("node", node)


def edge_line(edge: Edge) -> str:
    """Return an edge as one line."""
    return _line("edge", edge)


def event_line(event: Event) -> str:
    """Return an event as one line; its own kind is ``event_kind``."""
    return _line("event", event)


def task_line(task: Task) -> str:
    """Return a task as one line; its own kind is ``task_kind``."""
    return _line("task", task)


def _line(kind: str, record: Node | Edge | Event | Task) -> str:
    """Return what a record holds as one line; what it hasn't got is left out."""
    found = {each.name: _plain(getattr(record, each.name)) for each in fields(record)}
    if "kind" in found:
        found[f"{kind}_kind"] = found.pop("kind")
    return record_line({"kind": kind, **{name: value for name, value in found.items() if value is not None}})


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value // _MICROSECOND
    if isinstance(value, bytes):
        return value.hex()
    by, reason = getattr(value, "by", None), getattr(value, "reason", None)
    return {"by": by, "reason": reason} if by is not None else value

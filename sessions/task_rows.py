"""Own how statements about tasks travel to the Lua script, and its rows back, in the forms that SQLite's have."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from persistence.dialect import to_micros
from persistence.errors import FOREIGN_KEY_VIOLATION, ForeignKeyError
from sessions.contents import to_text

_NUMBERS = frozenset(
    (
        "shared", "priority", "level", "attempts", "max_attempts", "token", "lease_micros", "wake_at", "created_at",
        "updated_at", "finished_at", "tasks", "value",
    )
)  # fmt: skip
_COLUMNS = (
    "id", "kind", "key", "parent_id", "owner", "shared", "status", "priority", "level", "attempts", "max_attempts",
    "token", "lease_micros", "wake_at", "payload", "result", "error", "metadata", "created_at", "updated_at",
    "finished_at",
)  # fmt: skip

READS = frozenset(("list_tasks", "list_tasks_by_id", "task_counts", "task_get", "task_latest"))
"""Statements that change nothing, so that sending one twice is sending it once."""


def task_arguments(values: dict[str, Any]) -> list[str]:
    """Return a statement's parameters as pairs of name and value; None is left out."""
    pairs: list[str] = []
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, datetime):
            value = to_micros(value)
        elif isinstance(value, list):
            value = to_text(value)
        elif isinstance(value, bool):
            value = int(value)
        pairs += (name, str(value))
    return pairs


def task_rows(answer: Any) -> list[dict[str, Any]]:
    """Return the rows that the script answered.

    Raises:
        ForeignKeyError: the parent of a new task isn't there.
    """
    if answer == b"no parent":
        raise ForeignKeyError("the parent of a task isn't there", code=FOREIGN_KEY_VIOLATION)
    return [_row([part.decode() for part in flat]) for flat in answer]


def _row(flat: Sequence[str]) -> dict[str, Any]:
    found = {name: int(value) if name in _NUMBERS else value for name, value in zip(flat[::2], flat[1::2], strict=True)}
    return {**dict.fromkeys(_COLUMNS), **found} if "id" in found else found

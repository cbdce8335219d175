"""Whether metadata contains what is asked for, as PostgreSQL's ``jsonb @>`` decides it; for backends without it."""

from __future__ import annotations

from typing import Any


def contains(value: Any, wanted: Any) -> bool:
    """Tell whether a JSON value contains another: each key of a dict, each item of a list, an equal scalar."""
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(key in value and contains(value[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        return isinstance(value, list) and all(any(contains(item, each) for item in value) for each in wanted)
    if isinstance(wanted, bool) or isinstance(value, bool):
        return value is wanted
    return not isinstance(value, dict | list) and bool(value == wanted)

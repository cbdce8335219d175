"""Own the scopes of state: which key belongs to which, and what the statements take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from persistence.errors import ValidationError
from persistence.validation import check_id, shown
from sessions.contents import content_json
from sessions.items import LABEL_END
from sessions.records import patch_values

SCOPES = ("app", "user")
"""The scopes that are kept beside the session, each the prefix of its keys."""
TEMPORARY = "temp:"


@dataclass(frozen=True)
class StateChanges:
    """Changes of state by scope: the session's as a patch, the shared ones as rows, and what is not stored."""

    patch: dict[str, str]
    shared: list[dict[str, Any]]
    temporary: dict[str, Any]


def state_namespace(app: object) -> str:
    """Return the namespace of an application's state: labels, each closed by U+001F."""
    name = check_id("app", app, limit=512)
    if LABEL_END in name:
        raise ValidationError("app has the character U+001F, which closes labels")
    return f"state{LABEL_END}{name}{LABEL_END}"


def split_state(changes: object) -> StateChanges:
    """Return changes by their scopes, checked.

    Raises:
        ValidationError: they are no dict, a key is no id, or a value can't be stored.
    """
    if not isinstance(changes, dict):
        raise ValidationError(f"changes is a {type(changes).__name__}, not a dict")
    own: dict[str, Any] = {}
    shared: list[dict[str, Any]] = []
    temporary: dict[str, Any] = {}
    for key, value in changes.items():
        check_id("a key of state", key)
        scope, colon, rest = key.partition(":")
        if key.startswith(TEMPORARY):
            temporary[key] = value
        elif colon and scope in SCOPES:
            text = None if value is None else content_json(value, f"state[{shown(key)}]")
            shared.append({"scope": scope, "key": check_id("a key of state", rest), "value": text})
        else:
            own[key] = value
    return StateChanges(patch_values(own), shared, temporary)


def merged_state(own: dict[str, Any], shared: Iterable[tuple[str, str, Any]]) -> dict[str, Any]:
    """Return state as one dict, in which the keys of shared scopes have their prefix."""
    return {**own, **{f"{scope}:{key}": value for scope, key, value in shared}}

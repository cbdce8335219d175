"""Secrets taken out of texts and of values nested from them, for good, or refused. It does no I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from persistence.errors import ValidationError
from persistence.secret_search import find_secrets, kind_by_name

V = TypeVar("V")

Change = Callable[[str, str], str]
"""Makes a text of a text and of the name under which a mapping holds it (empty where none does)."""

DEPTH = 200
"""How deep a value may be nested."""


def redact(value: V) -> V:
    """Return a value of the same shape with ``[REDACTED kind]`` in place of each secret in its texts.

    It goes into dicts, keys too, lists and tuples. The value itself stays as it is, and is returned where nothing was
    found; what is redacted already stays too. A text in a dict is also judged by its key (``{"password": …}``).

    Raises:
        ValidationError: it is nested deeper than 200 levels.
    """
    return cast(V, map_texts(value, _redacted))


def refuse(value: V, what: str) -> V:
    """Return a value in which there is no secret; ``what`` names it.

    Raises:
        ValidationError: there is one. Its kind is named, and what it is is not.
    """

    def look(text: str, name: str) -> str:
        for kind, _, _ in secrets_in(text, name):
            raise ValidationError(
                f"{what} holds a secret ({kind})", hint="take it out, or give the store a SecretVault"
            )
        return text

    map_texts(value, look)
    return value


def secrets_in(text: str, name: str = "") -> list[tuple[str, int, int]]:
    """Return kind, start and end of the secrets in a text that a mapping holds under a name."""
    kind = kind_by_name(name, text) if name else None
    if kind is not None:
        # A form of its own says more than the name does.
        inside = find_secrets(text)
        whole = len(inside) == 1 and (inside[0].start, inside[0].end) == (0, len(text))
        return [(inside[0].kind if whole else kind, 0, len(text))]
    return [(each.kind, each.start, each.end) for each in find_secrets(text)]


def map_texts(value: Any, change: Change, name: str = "", depth: int = DEPTH) -> Any:
    """Return a nested value with every text changed; what holds no changed text is the same object as before."""
    if isinstance(value, str):
        return change(value, name)
    if not isinstance(value, dict | list | tuple):
        return value
    if not depth:
        raise ValidationError(f"it is nested deeper than {DEPTH} levels, and is not looked through for secrets")
    if isinstance(value, dict):
        return _map_dict(value, change, depth - 1)
    changed = [map_texts(item, change, name, depth - 1) for item in value]
    if all(new is old for new, old in zip(changed, value, strict=True)):
        return value
    if isinstance(value, list):
        return changed
    # A named tuple takes its parts one by one.
    return type(value)(*changed) if hasattr(value, "_fields") else tuple(changed)


def _map_dict(value: dict[Any, Any], change: Change, depth: int) -> dict[Any, Any]:
    changed: dict[Any, Any] = {}
    same = True
    for key, item in value.items():
        new_key = change(key, "") if isinstance(key, str) else key
        if new_key is not key:
            number, base = 1, new_key
            while new_key in changed or new_key in value:
                number += 1
                new_key = f"{base} {number}"
        new = map_texts(item, change, key if isinstance(key, str) else "", depth)
        same = same and new is item and new_key is key
        changed[new_key] = new
    return value if same else changed


def _redacted(text: str, name: str) -> str:
    found = secrets_in(text, name)
    if not found:
        return text
    parts: list[str] = []
    at = 0
    for kind, start, end in found:
        parts += (text[at:start], f"[REDACTED {kind}]")
        at = end
    return "".join((*parts, text[at:]))

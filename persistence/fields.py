"""The fields of a configuration: secrets, durations, and what turns a given value into the field's type."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

Duration = float | timedelta


class Secret:
    """A text that shows itself only to :meth:`reveal`; its ``str`` and ``repr`` are ``***``."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __repr__(self) -> str:
        return "***" if self._text else "''"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


def reveal(password: str | Secret) -> str:
    """Return a password field in clear."""
    return password.reveal() if isinstance(password, Secret) else password


def scrub(message: str, password: str | Secret) -> str:
    """Return a driver's message without the password, should it be in there."""
    text = reveal(password)
    return message.replace(text, "***") if len(text) > 2 else message


_UNITS = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d|)\s*")


def seconds_or_none(value: Duration | None) -> float | None:
    """Return a duration that was checked in seconds, None where none was given."""
    return None if value is None else seconds(value)


def seconds(value: Duration) -> float:
    """Return a duration that was checked in seconds: a field of a configuration, or what ``validation`` lets pass."""
    return value.total_seconds() if isinstance(value, timedelta) else float(value)


def milliseconds(limit: float) -> int:
    """Return a time limit in seconds as databases take it: 1 to 2,147,483,647 ms, which is 24 days."""
    return max(1, min(int(limit * 1000), 2**31 - 1))


def _duration(value: object) -> float:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if not match:
            raise ValueError("is no duration: seconds, a timedelta, or text like '250ms', '30s', '5m', '1h', '7d'")
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("is no duration: seconds, a timedelta, or text like '250ms', '30s', '5m', '1h', '7d'")
    return float(value)


def _integer(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("is no whole number")
    return value


def _boolean(value: object) -> bool:
    if isinstance(value, str) and value.lower() in ("1", "true", "yes", "on", "0", "false", "no", "off"):
        return value.lower() in ("1", "true", "yes", "on")
    if not isinstance(value, bool):
        raise ValueError("is neither true nor false")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("is no text")
    if "\0" in value:
        raise ValueError("has a NUL character")
    return value


def _secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(value))


def _mapping(value: object) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError("is no mapping")
    return dict(value)


def _names(value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(part for part in value.split(",") if part)
    if isinstance(value, Iterable):
        return tuple(_text(part) for part in value)
    raise ValueError("is no list of texts")


def _list(value: object) -> tuple[Any, ...]:
    if isinstance(value, str):
        return tuple(value.split())
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        return tuple(value)
    raise ValueError("is no list")


_CONVERTERS: dict[Any, Any] = {
    Duration: _duration,
    int: _integer,
    bool: _boolean,
    str: _text,
    Mapping[str, Any]: _mapping,
    tuple[str, ...]: _names,
    str | Secret: _secret,
}


_found: dict[type, dict[str, tuple[Any, bool]]] = {}


def converters(cls: type) -> dict[str, tuple[Any, bool]]:
    """Return for each field the function that checks its value, and whether None is allowed."""
    if cls in _found:
        return _found[cls]
    found = _found.setdefault(cls, {})
    hints = typing.get_type_hints(cls)
    for item in dataclasses.fields(cls):
        hint = hints[item.name]
        members = set(typing.get_args(hint)) if not isinstance(hint, type) else set()
        optional = type(None) in members
        if optional:
            rest = tuple(m for m in typing.get_args(hint) if m is not type(None))
            hint = rest[0] if len(rest) == 1 else typing.Union[rest]  # noqa: UP007 - built at run time
        if typing.get_origin(hint) is Literal:
            choices = typing.get_args(hint)

            def convert(value: object, choices: tuple[str, ...] = choices) -> str:
                if value not in choices:
                    raise ValueError("is none of " + ", ".join(choices))
                return str(value)

            found[item.name] = (convert, optional)
        elif typing.get_origin(hint) is Sequence:
            found[item.name] = (_list, optional)
        else:
            found[item.name] = (_CONVERTERS[hint], optional)
    return found

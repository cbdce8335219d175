"""Keys and values: what a value may be, how it is stored, and what a store tells of it.

A whole number of 64 bits is stored as such, so that it can be counted up where it lies. Bytes are a ``b`` and
themselves; everything else is a ``j`` and JSON in ASCII, which keeps NUL, lone surrogates and every int and float.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from persistence.errors import CorruptError, ValidationError
from persistence.fields import Duration
from persistence.validation import METADATA_DEPTH, check_duration, check_id, shown

VALUE_BYTES = 256 * 1024 * 1024
"""The largest value, in bytes as it is stored."""
MANY = 1000
"""How many keys one statement or script takes."""

_INT64 = 2**63
_LAST = "\U0010ffff"
_decode = json.JSONDecoder().decode
_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key with its value and version; ``expires_at`` is in UTC, None for never."""

    key: str
    value: Any
    version: int
    expires_at: datetime | None = None


def check_key(key: object) -> str:
    """Return a key: a text of 1 to 1,024 bytes."""
    return check_id("the key", key)


def pack(value: object) -> int | bytes:
    """Return a value as it is stored: a number, or a letter and bytes.

    Raises:
        ValidationError: what is read back would not be equal to it.
    """
    kind = type(value)
    if kind is int and -_INT64 <= cast(int, value) < _INT64:
        return cast(int, value)
    if kind is bytes:
        packed = b"b" + cast(bytes, value)
    elif kind in (bytearray, memoryview):
        raise ValidationError(f"the value is a {kind.__name__}, which would come back as bytes", hint="bytes(value)")
    else:
        if kind is not str:
            _check(value, "the value", 1)
        packed = b"j" + _encode(value).encode("ascii")
    if len(packed) > VALUE_BYTES:
        raise ValidationError(f"the value has {len(packed):,} bytes, more than the limit of {VALUE_BYTES:,}")
    return packed


def _check(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind in (str, int, bool, type(None)):
        return
    if kind is float:
        if not math.isfinite(cast(float, value)):
            raise ValidationError(f"{path} is {value!r}, which JSON has no form for")
    elif kind in (dict, list):
        if depth > METADATA_DEPTH:
            raise ValidationError(f"{path[:80]}… is nested deeper than {METADATA_DEPTH} levels")
        if kind is dict:
            for key, item in cast("dict[object, object]", value).items():
                if type(key) is not str:
                    raise ValidationError(f"{path} has a key of type {type(key).__name__}; JSON has str keys only")
                _check(item, f"{path}[{shown(key)}]", depth + 1)
        else:
            for place, item in enumerate(cast("list[object]", value)):
                _check(item, f"{path}[{place}]", depth + 1)
    else:
        raise ValidationError(f"{path} is a {kind.__name__}, which JSON would give back as something else")


def unpack(stored: int | bytes) -> Any:
    """Return the value that :func:`pack` made it of.

    Raises:
        CorruptError: it is nothing that it makes.
    """
    if isinstance(stored, int):
        return stored
    try:
        if stored[:1] == b"j":
            return _decode(stored[1:].decode("ascii"))
        if stored[:1] == b"b":
            return bytes(stored[1:])
        return int(stored)  # a number as Redis has it
    except (ValueError, RecursionError):
        raise CorruptError("a stored value is not what was written") from None


def check_ttl(ttl: Duration | None) -> float | None:
    """Return how long something lives, in seconds, to the millisecond; None for ever.

    Raises:
        ValidationError: it is below a millisecond or above a century, or no duration.
    """
    if ttl is None:
        return None
    found = check_duration("a lifetime", ttl)
    if found < 0.001:
        raise ValidationError(f"a lifetime of {found:g} s is below a millisecond")
    return found


def check_items(values: object) -> dict[str, int | bytes]:
    """Return a mapping's values as they are stored, in the order of their keys, which no two writers cross."""
    if not isinstance(values, Mapping):
        raise ValidationError(f"the values are a {type(values).__name__}, not a mapping of keys to values")
    packed = {check_key(key): value for key, value in values.items()}
    return {key: pack(packed[key]) for key in sorted(packed)}


def end_of(prefix: str) -> str:
    """Return the least text that comes after every key with the prefix, in the order of code points."""
    kept = prefix.rstrip(_LAST)
    if not kept:
        return _LAST * 257  # longer than any key
    following = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)

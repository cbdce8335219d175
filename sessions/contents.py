"""Any JSON value as the text in which the stores of this package keep it; what comes back is equal to the last bit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, cast

from persistence.errors import CorruptError, ValidationError

CONTENT_BYTES = 64 * 1024 * 1024
"""The longest content in bytes of JSON text; larger things belong into a file, and the reference to it here."""
CONTENT_DEPTH = 200
"""How deep content may be nested."""
INTEGER_BITS = 14_000
"""The largest integer in content; Python itself reads no more than 4,300 digits."""

# One encoder, which json.dumps would make anew each time.
to_text = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
# Past the wrappers of json.loads: what we wrote begins and ends with the value.
_scan: Callable[[str, int], tuple[Any, int]] = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
_SURROGATE = re.compile("[\ud800-\udfff]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def content_json(content: object, what: str = "content") -> str:
    """Return any JSON value as the text that is stored; what is read back is equal to it, to the last bit.

    Raises:
        ValidationError: it holds what JSON would give back as something else (a key that is no str, a tuple, NaN, …),
            is nested deeper than 200 levels, or is longer than 64 MiB.
    """
    if type(content) is not str:
        _check_content(content, what, 1)
    text = to_text(content)
    if not text.isascii() and _SURROGATE.search(text):
        if _PAIR.search(text):
            raise ValidationError(f"{what} has a surrogate pair as two characters, which JSON gives back as one")
        text = _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
    if len(text) > CONTENT_BYTES // 4 and len(text.encode()) > CONTENT_BYTES:
        raise ValidationError(
            f"{what} has {len(text.encode()):,} bytes as JSON, more than the limit of {CONTENT_BYTES:,}",
            hint="store it in a file, and a reference to it here",
        )
    return text


def _check_content(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return
    if kind is int:
        if cast(int, value).bit_length() > INTEGER_BITS:
            raise ValidationError(
                f"{path[:80]} holds an int of more than {INTEGER_BITS:,} bits", hint="store it as text"
            )
    elif kind is float:
        if not math.isfinite(cast(float, value)):
            raise ValidationError(f"{path[:80]} holds {value!r}, which JSON has no form for")
    elif kind is dict or kind is list:
        if depth > CONTENT_DEPTH:
            raise ValidationError(f"{path[:80]} is nested deeper than {CONTENT_DEPTH} levels")
        if kind is list:
            for item in cast("list[object]", value):
                _check_content(item, path, depth + 1)
            return
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise ValidationError(f"{path[:80]} has a key of type {type(key).__name__}; JSON has str keys only")
            _check_content(item, path, depth + 1)
    else:
        raise ValidationError(f"{path[:80]} holds a {kind.__name__}, which JSON would give back as something else")


def decoded(text: str) -> Any:
    """Return the value of a JSON text that a statement gave.

    Raises:
        CorruptError: it is no JSON, or is nested deeper than anything that was ever stored.
    """
    try:
        return _scan(text, 0)[0]
    except (ValueError, StopIteration, RecursionError):
        raise CorruptError("a stored message is not what was written") from None


def json_object(number: int, line: str) -> dict[str, Any]:
    """Return the JSON object that a line of an export is.

    Raises:
        ValidationError: it is none.
    """
    try:
        found = json.loads(line)
    except (TypeError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValidationError(f"line {number} is no JSON object")
    return found

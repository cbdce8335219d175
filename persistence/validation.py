"""What every store refuses before it reads or writes anything, the same on every backend."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

from persistence.errors import ValidationError, WrongKindError
from persistence.fields import Duration, seconds

ID_BYTES = 1024
"""The longest id in bytes of UTF-8: a tenant and two ids fit into one index entry of PostgreSQL together."""
TENANT_BYTES = 512
"""The longest tenant in bytes of UTF-8."""
LIMIT = 10_000
"""The most rows that one listing gives."""
LONGEST = 36_500 * 86_400
"""The longest duration in seconds."""
METADATA_DEPTH = 100
"""How deep metadata may be nested."""

_INT64 = 2**63
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_LARGE_FLOAT = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.]*e\+\d+')


def shown(text: str) -> str:
    """Return a text as messages show it: quoted, and cut when it is long."""
    return repr(text if len(text) <= 80 else f"{text[:77]}…")


def storable(text: str, limit: int) -> str:
    """Return what every database holds of a text that nobody chose: ``limit`` characters, NUL and surrogates spelt."""
    return text[:limit].replace("\0", "\\0").encode("utf-8", "backslashreplace").decode()[:limit]


def check_text(what: str, value: object, *, limit: int | None = None, may_be_empty: bool = True) -> str:
    """Return a text that every database holds faithfully; ``limit`` is in bytes of UTF-8.

    Raises:
        ValidationError: it is no str, empty where it may not be, too long, or has a NUL or a lone surrogate.
    """
    if not isinstance(value, str):
        raise ValidationError(f"{what} is a {type(value).__name__}, not a str")
    if not value and not may_be_empty:
        raise ValidationError(f"{what} is empty")
    if "\0" in value:
        raise ValidationError(f"{what} has a NUL character")
    try:
        size = len(value) if value.isascii() else len(value.encode())
    except UnicodeEncodeError:
        raise ValidationError(f"{what} has a lone surrogate") from None
    if limit is not None and size > limit:
        raise ValidationError(f"{what} {shown(value)} has {size:,} bytes in UTF-8, more than the limit of {limit:,}")
    return value


def check_id(what: str, value: object, *, limit: int = ID_BYTES) -> str:
    """Return an id: a text that is not empty, of at most ``limit`` bytes."""
    return check_text(what, value, limit=limit, may_be_empty=False)


def check_tenant(tenant: object) -> str:
    """Return a tenant's name: a text of 1 to 512 bytes."""
    return check_id("the tenant", tenant, limit=TENANT_BYTES)


def check_whole(what: str, value: object, *, least: int = 1, most: int = 2**62) -> int:
    """Return a whole number within bounds; True and False are none.

    Raises:
        ValidationError: it is no int, or out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValidationError(f"{what} is a {type(value).__name__}, not a whole number")
    if not least <= value <= most:
        number = str(value) if value.bit_length() < 128 else f"of {value.bit_length()} bits"
        raise ValidationError(f"{what} {number} is not within {least:,} and {most:,}")
    return value


def check_duration(what: str, value: Duration) -> float:
    """Return a duration in seconds: above 0, and at most 36,500 days.

    Raises:
        ValidationError: it is neither a number nor a timedelta, or out of bounds.
    """
    found = _seconds(what, value)
    if not 0 < found <= LONGEST:
        raise ValidationError(f"{what} of {found:g} s is not above 0 and at most {LONGEST:,} s")
    return found


def check_timeout(what: str, value: Duration) -> float:
    """Return how long to wait, in seconds: 0 (not at all) or more, and at most 36,500 days.

    Raises:
        ValidationError: it is neither a number nor a timedelta, or out of bounds.
    """
    found = _seconds(what, value)
    if not 0 <= found <= LONGEST:
        raise ValidationError(f"{what} of {found:g} s is not within 0 and {LONGEST:,} s")
    return found


def _seconds(what: str, value: Duration) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise ValidationError(f"{what} is a {type(value).__name__}, not seconds or a timedelta")
    try:
        return seconds(value)
    except OverflowError:
        return math.inf


def check_moment(what: str, moment: object, hint: str = "datetime.now(timezone.utc)") -> datetime:
    """Return a time in UTC.

    Raises:
        ValidationError: it is no datetime (a date is none), has no time zone, or is in UTC beyond the years 1 to 9999.
    """
    if not isinstance(moment, datetime):
        kind = "date" if isinstance(moment, date) else type(moment).__name__
        raise ValidationError(f"{what} is a {kind}, not a datetime")
    if moment.utcoffset() is None:
        raise ValidationError(f"{what}, {moment.isoformat()}, has no time zone", hint=hint)
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValidationError(f"{what}, {moment.isoformat()}, is in UTC beyond the years 1 to 9999") from None


def check_limit(limit: object, what: str = "limit") -> int:
    """Return how many rows a listing may give, or a batch may take: 1 to 10,000."""
    return check_whole(what, limit, most=LIMIT)


def metadata_json(metadata: object, what: str = "metadata") -> str:
    """Return metadata as the JSON text that is stored; what is read back is equal to it on every database.

    Raises:
        ValidationError: it is no dict, or holds what JSON or PostgreSQL's jsonb would give back as something else: a
            key that is no str, a tuple, NaN, an int of more than 64 bits, a NUL, a lone surrogate, 100 levels, ….
    """
    if not isinstance(metadata, dict):
        raise ValidationError(f"{what} is a {type(metadata).__name__}, not a dict")
    if not metadata:
        return "{}"
    if not is_plain_json(metadata):
        _check_json(metadata, what, 1)
    text = _encode(metadata)
    if "e+" in text:
        # jsonb keeps decimal digits: 1e+16 would come back as an int, so a float is written out with its point.
        text = _LARGE_FLOAT.sub(lambda found: found[0] if found[0][0] == '"' else f"{Decimal(found[0]):f}.0", text)
    return text


def is_plain_json(value: dict[Any, Any], depth: int = METADATA_DEPTH) -> bool:
    """Tell at once of the commonest metadata, short ASCII texts and numbers in dicts, that they are faithful."""
    for key, item in value.items():
        kind = type(item)
        if type(key) is not str or not key.isascii() or "\0" in key:
            return False
        if kind is str:
            if not item.isascii() or "\0" in item:
                return False
        elif kind is int:
            if not -_INT64 <= item < _INT64:
                return False
        elif kind is dict:
            if depth < 2 or not is_plain_json(item, depth - 1):
                return False
        elif kind is not bool and item is not None:
            return False
    return True


def _check_json(value: object, path: str, depth: int) -> None:
    kind = type(value)
    if kind is str:
        check_text(path, value)
    elif kind is dict:
        if depth > METADATA_DEPTH:
            raise ValidationError(f"{path[:80]}… is nested deeper than {METADATA_DEPTH} levels")
        for key, item in cast("dict[object, object]", value).items():
            if type(key) is not str:
                raise ValidationError(f"{path} has a key of type {type(key).__name__}; JSON has str keys only")
            check_text(f"a key of {path}", key)
            _check_json(item, f"{path}[{shown(key)}]", depth + 1)
    elif kind is list:
        if depth > METADATA_DEPTH:
            raise ValidationError(f"{path[:80]}… is nested deeper than {METADATA_DEPTH} levels")
        for place, item in enumerate(cast("list[object]", value)):
            _check_json(item, f"{path}[{place}]", depth + 1)
    elif kind is float:
        if not math.isfinite(cast(float, value)):
            raise ValidationError(f"{path} is {value!r}, which JSON has no form for")
    elif kind is int:
        if not -_INT64 <= cast(int, value) < _INT64:
            raise ValidationError(f"{path} needs more than 64 bits", hint="store it as text")
    elif kind is not bool and value is not None:
        raise ValidationError(f"{path} is a {kind.__name__}, which JSON would give back as something else")


def wrong_manager(given: object, wanted: str) -> WrongKindError:
    """Return the error for what is no manager of a store's side."""
    return WrongKindError(
        f"a {type(given).__name__} is no {wanted}",
        hint="stores whose names begin with Async take an AsyncDatabaseManager, the others a DatabaseManager",
    )

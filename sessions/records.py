"""Own the records of sessions and threads: what they hold, what is refused, and how rows become records."""

from __future__ import annotations

import secrets
import time
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from persistence.dialect import Dialect, from_json, from_micros, to_json, to_micros
from persistence.errors import CorruptError, ValidationError
from persistence.fields import Duration
from persistence.validation import ID_BYTES, check_id, check_limit, check_moment, check_text, metadata_json, shown

MAX_TTL = timedelta(days=36_525)
"""The longest time to live: a hundred years."""
WHERE_KEYS = 32
"""The most keys of one filter of metadata."""

_MICROSECOND = timedelta(microseconds=1)


def new_id() -> str:
    """Return a new id: a UUID version 7 (RFC 9562), which begins with the time, so that new keys lie side by side."""
    random = secrets.randbits(74)
    bits = (time.time_ns() // 1_000_000) << 80 | 0x7 << 76 | (random >> 62) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return str(UUID(int=bits))


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True, slots=True)
class Session:
    """One visit or app session of a user; threads may belong to it.

    ``id`` is generated when it is left out or None. ``metadata`` is any JSON object. ``expires_at`` is when the session
    ends (None: never); with ``sliding``, each touch, patch and update moves it to that long after the call.

    ``created_at``, ``updated_at`` (the last activity) and ``version`` are the database's: what a new record holds
    there is not stored. ``version`` counts the changes of content, from 1; None says: not read from the database.
    """

    user_id: str
    id: str = field(default_factory=new_id)
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    expires_at: datetime | None = None
    sliding: timedelta | None = None
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)
    version: int | None = None

    def __post_init__(self) -> None:
        if cast("str | None", self.id) is None:
            self.id = new_id()

    @property
    def cursor(self) -> str:
        """Where a listing goes on after this record: pass it as ``after``. Opaque, and safe within a URL."""
        return encode_cursor(self.updated_at, self.id)


@dataclass(kw_only=True, slots=True)
class Thread:
    """One conversation of a user, within a session or by itself.

    ``id`` is generated when it is left out or None. ``user_id`` left out is the session's owner when the thread is
    created, and stays as it is when it is updated; a thread that was read always has one.

    ``created_at``, ``updated_at`` (the last activity) and ``version`` are the database's: what a new record holds
    there is not stored. ``version`` counts the changes of content, from 1; None says: not read from the database.
    """

    id: str = field(default_factory=new_id)
    session_id: str | None = None
    user_id: str | None = None
    title: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)
    version: int | None = None

    def __post_init__(self) -> None:
        if cast("str | None", self.id) is None:
            self.id = new_id()

    @property
    def cursor(self) -> str:
        """Where a listing goes on after this record: pass it as ``after``. Opaque, and safe within a URL."""
        return encode_cursor(self.updated_at, self.id)


def _optional_text(what: str, value: object, *, may_be_empty: bool = False) -> str | None:
    return None if value is None else check_text(what, value, limit=ID_BYTES, may_be_empty=may_be_empty)


def patch_values(metadata: object) -> dict[str, str]:
    """Return a patch as the statements take it: the keys that it names, and the values that it sets."""
    metadata_json(metadata)
    given = cast("dict[str, Any]", metadata)
    return {
        "touched": to_json(dict.fromkeys(given)),
        "changes": metadata_json({key: value for key, value in given.items() if value is not None}),
    }


def moment_or_none(what: str, moment: object) -> datetime | None:
    """Return a time in UTC as ``check_moment`` does, or None."""
    return None if moment is None else check_moment(what, moment)


def ttl_micros(what: str, ttl: Duration | None) -> int | None:
    """Return a time to live (seconds or a timedelta) in microseconds, None for None."""
    return None if ttl is None else micros_of(what, ttl)


def micros_of(what: str, ttl: Duration) -> int:
    """Return a duration (seconds or a timedelta) in microseconds.

    Raises:
        ValidationError: it is no duration, not above 0 or longer than MAX_TTL.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float | timedelta):
        raise ValidationError(f"{what} is a {type(ttl).__name__}, not seconds or a timedelta")
    given = ttl
    if not isinstance(ttl, timedelta):
        # Out of bounds, and NaN, is what no timedelta could hold.
        ttl = timedelta(seconds=ttl) if 0 < ttl <= MAX_TTL.total_seconds() else timedelta(0)
    if not timedelta(0) < ttl <= MAX_TTL:
        raise ValidationError(f"{what} {given} is not within 1 µs and {MAX_TTL.days:,} days")
    return ttl // _MICROSECOND


def lasting_moment(what: str, moment: object) -> datetime:
    """Return a time in UTC, of a year that every database holds.

    Raises:
        ValidationError: as of ``check_moment``, or it isn't within the years 1970 and 9998.
    """
    found = check_moment(what, moment, "datetime.now(timezone.utc) + timedelta(…)")
    if not 1970 <= found.year <= 9998:
        raise ValidationError(f"{what} lies in the year {found.year}, not within 1970 and 9998")
    return found


def expected_of(own: object, given: object) -> int | None:
    """Return the version that a change expects: the one given, or the record's own; None expects none."""
    for version in (given, own):
        if version is not None:
            if isinstance(version, bool) or not isinstance(version, int) or not 0 <= version < 2**63:
                raise ValidationError(f"{version!r} is no version")
            return version
    return None


def session_values(session: object) -> dict[str, Any]:
    """Return what the statements store of a session, checked."""
    if not isinstance(session, Session):
        raise ValidationError(f"a {type(session).__name__} is no Session")
    if session.sliding is not None and not isinstance(session.sliding, timedelta):
        raise ValidationError(f"sliding is a {type(session.sliding).__name__}, not a timedelta")
    return {
        "id": check_id("the session's id", session.id),
        "user_id": check_id("the session's user_id", session.user_id),
        "title": _optional_text("the session's title", session.title, may_be_empty=True),
        "metadata": metadata_json(session.metadata),
        "sliding": ttl_micros("sliding", session.sliding),
        "expires_at": None if session.expires_at is None else lasting_moment("expires_at", session.expires_at),
    }


def new_session_values(session: object, ttl: Duration | None, sliding: bool) -> dict[str, Any]:
    """Return what the statements store of a new session that ends ``ttl`` after the call, or as it says itself."""
    values = session_values(session)
    life = ttl_micros("ttl", ttl)
    own = values["sliding"]
    if life is not None and (own is not None or values["expires_at"] is not None):
        raise ValidationError("ttl goes with neither expires_at nor sliding of the session", hint="give one of them")
    if sliding and life is None and own is None:
        raise ValidationError("sliding=True needs a ttl", hint="ttl=3600 for an hour")
    return {**values, "sliding": life if sliding and own is None else own, "ttl": own if life is None else life}


def thread_values(thread: object) -> dict[str, Any]:
    """Return what the statements store of a thread, checked."""
    if not isinstance(thread, Thread):
        raise ValidationError(f"a {type(thread).__name__} is no Thread")
    return {
        "id": check_id("the thread's id", thread.id),
        "session_id": _optional_text("the thread's session_id", thread.session_id),
        "user_id": _optional_text("the thread's user_id", thread.user_id),
        "title": _optional_text("the thread's title", thread.title, may_be_empty=True),
        "metadata": metadata_json(thread.metadata),
    }


def where_json(where: object) -> str | None:
    """Return a filter of metadata as the statements take it.

    Raises:
        ValidationError: it is no dict of 1 to 32 keys, or a value is neither text, number, bool nor None.
    """
    if where is None:
        return None
    text = metadata_json(where, "where")
    found = cast("dict[str, Any]", where)
    if not 1 <= len(found) <= WHERE_KEYS:
        raise ValidationError(f"where has {len(found)} keys, not 1 to {WHERE_KEYS}")
    for key, value in found.items():
        if isinstance(value, dict | list):
            raise ValidationError(f"where[{shown(key)}] is a {type(value).__name__}; texts, numbers and bools compare")
    return text


def encode_cursor(moment: datetime, id: str) -> str:
    """Return the place of a record in a listing by activity."""
    return urlsafe_b64encode(f"{to_micros(moment)}:{id}".encode()).decode().rstrip("=")


def page_values(limit: object, after: object, where: object = None) -> dict[str, Any]:
    """Return what the listings take: how many records, the place they follow, and what their metadata must hold.

    Raises:
        ValidationError: the limit is out of range, ``after`` is no cursor of ours, or ``where`` can't be compared.
    """
    values: dict[str, Any] = {"limit": check_limit(limit), "where": where_json(where)}
    values |= {"after_time": None, "after_id": None}
    if after is None:
        return values
    try:
        text = cast(str, after)
        micros, _, id = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode().partition(":")
        moment = from_micros(int(micros))
    except (TypeError, ValueError, OverflowError):
        raise ValidationError("after is no cursor", hint="pass the cursor of a record that the listing gave") from None
    return {**values, "after_time": moment, "after_id": check_id("the cursor's id", id)}


def record_time(dialect: Dialect, stored: Any) -> datetime:
    """Return the time that a column holds, which is never NULL."""
    moment = dialect.moment(stored)
    if moment is None:
        raise CorruptError("a row without its time", hint="was it written by other means?")
    return moment


def session_from_row(row: dict[str, Any], dialect: Dialect) -> Session:
    """Return the session that a row holds."""
    sliding = row["sliding_micros"]
    return Session(
        id=row["id"],
        user_id=row["user_id"],
        title=row["title"],
        metadata=from_json(row["metadata"]),
        expires_at=dialect.moment(row["expires_at"]),
        sliding=None if sliding is None else timedelta(microseconds=sliding),
        created_at=record_time(dialect, row["created_at"]),
        updated_at=record_time(dialect, row["updated_at"]),
        version=row["version"],
    )


def thread_from_row(row: dict[str, Any], dialect: Dialect) -> Thread:
    """Return the thread that a row holds."""
    return Thread(
        id=row["id"],
        session_id=row["session_id"],
        user_id=row["user_id"],
        title=row["title"],
        metadata=from_json(row["metadata"]),
        created_at=record_time(dialect, row["created_at"]),
        updated_at=record_time(dialect, row["updated_at"]),
        version=row["version"],
    )

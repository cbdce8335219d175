"""Own the records of events: what they hold, what is refused, and how rows become records."""

from __future__ import annotations

import math
import random
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from operator import is_
from typing import Any, Literal, cast, get_args

from persistence.dialect import Dialect, from_json, from_micros, to_micros
from persistence.errors import CorruptError, ValidationError
from persistence.validation import check_id, check_moment, check_text, check_whole, metadata_json, shown

EventRetention = Literal["raw", "aggregated", "downsampled", "kept"]
EventLevel = Literal["debug", "info", "warning", "error", "critical"]

STAGES: tuple[EventRetention, ...] = get_args(EventRetention)
LEVELS: tuple[EventLevel, ...] = get_args(EventLevel)
"""From the least to the gravest."""
AUDIT = "audit"
MAIN_CHAIN = "main"
KIND_BYTES = 100
"""The longest kind in bytes of UTF-8."""
MESSAGE_BYTES = 1024 * 1024
"""The longest message in bytes of UTF-8."""
KNOWN_TAGS = 4096
"""Of how many tags the JSON is remembered."""
KNOWN_TAGS_LENGTH = 500
"""Longer ones are not, in characters of JSON."""
FIRST_MOMENT = datetime(1970, 1, 1, tzinfo=UTC)
LAST_MOMENT = datetime(9998, 1, 1, tzinfo=UTC)
"""Events lie from FIRST_MOMENT to below LAST_MOMENT."""

COLUMNS = (
    "tenant_id",
    "at",
    "id",
    "retention",
    "kind",
    "service",
    "name",
    "value",
    "level",
    "message",
    "correlation",
    "tags",
    "chain",
    "chain_seq",
    "hash",
)
"""The columns that an append fills, in the order of ``event_row``."""

_COUNTER = count(1)


def new_event_id() -> int:
    """Return the id of a new event: it grows within a process, and hardly meets one of another process."""
    # 24 random bits: what a fork takes along of the counter it doesn't take along of them.
    return next(_COUNTER) << 24 | random.getrandbits(24)


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(kw_only=True, slots=True)
class Event:
    """Something that happened: a metric, a log entry, an audit event, a correlation, or a kind of your own.

    ``time`` is when, by the clock of the program; ``id`` tells events of one moment apart, and grows as they are made.
    ``service`` and ``correlation`` say who it was and what it belongs to. ``value`` is finite, ``tags`` are a JSON
    object. ``retention`` is the stage at which it stands: ``raw`` is rolled up to ``aggregated``, that to
    ``downsampled``; ``kept`` stays, as every audit event does. ``chain`` is the chain of an audit event.

    The rest is the store's. A rolled-up event stands for ``samples`` events; ``value`` is the sum over the ``valued``
    ones of them that have a value, ``low`` and ``high`` are its bounds. ``chain_seq`` and ``hash`` are the place and
    the hash of an audit event. ``position`` is where ``follow`` goes on after it, and None from any other call.
    """

    kind: str
    name: str | None = None
    value: float | None = None
    level: EventLevel | None = None
    message: str | None = None
    service: str | None = None
    correlation: str | None = None
    tags: dict[str, Any] = field(default_factory=dict)
    time: datetime = field(default_factory=_now)
    retention: EventRetention = "raw"
    chain: str | None = None
    id: int = field(default_factory=new_event_id)
    samples: int | None = None
    valued: int | None = None
    low: float | None = None
    high: float | None = None
    chain_seq: int | None = None
    hash: bytes | None = None
    position: str | None = None

    @property
    def cursor(self) -> str:
        """Where a query goes on after this event: pass it as ``after``. Opaque, and safe within a URL."""
        return _encode(to_micros(self.time), self.id)


class Position:
    """Where a follow stands: below which transaction it has read, and from which time on it looks."""

    __slots__ = ("floor", "id", "xid")

    def __init__(self, xid: int, id: int, floor: int) -> None:
        self.xid = xid
        self.id = id
        self.floor = floor

    def encode(self) -> str:
        """Return it as the text that ``Event.position`` holds."""
        return _encode(self.xid, self.id, self.floor)

    @classmethod
    def decode(cls, text: object) -> Position:
        """Return the position that a text holds.

        Raises:
            ValidationError: it is none of ours.
        """
        xid, id, floor = _decode("after", text, 3)
        if xid < 0 or floor >= to_micros(LAST_MOMENT):
            raise ValidationError("after is no cursor of ours", hint="pass on what an event gave, unchanged")
        return cls(xid, id, floor)


def _encode(*numbers: int) -> str:
    return urlsafe_b64encode(":".join(map(str, numbers)).encode()).decode().rstrip("=")


def _decode(what: str, text: object, size: int) -> list[int]:
    try:
        given = cast(str, text)
        numbers = b64decode(given + "=" * (-len(given) % 4), altchars=b"-_", validate=True).decode("ascii").split(":")
        found = [check_whole("a cursor's number", int(number), least=-1, most=2**63 - 1) for number in numbers]
    except (TypeError, ValueError, ValidationError):
        found = []
    if len(found) != size:
        raise ValidationError(f"{what} is no cursor of ours", hint="pass on what an event gave, unchanged")
    return found


def decode_cursor(after: object) -> tuple[datetime, int]:
    """Return the place of an event in a query.

    Raises:
        ValidationError: ``after`` is no cursor of ours.
    """
    micros, id = _decode("after", after, 2)
    if micros >= to_micros(LAST_MOMENT):
        raise ValidationError("after is no cursor of ours", hint="pass on what an event gave, unchanged")
    return from_micros(micros), id


@lru_cache(maxsize=4096)
def _checked_word(what: str, value: str, limit: int) -> str:
    return check_id(what, value, limit=limit)


def check_word(what: str, value: object, limit: int = 1024) -> str:
    """Return a text that comes again and again, as a name does: a check that is made once."""
    return _checked_word(what, value, limit) if type(value) is str else check_id(what, value, limit=limit)


def check_value(value: object) -> float | None:
    """Return a number as float8, exactly.

    Raises:
        ValidationError: it is no int or float, not finite, or an int that float8 would round.
    """
    if value is None or (type(value) is float and math.isfinite(value)):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValidationError(f"the value is a {type(value).__name__}, not a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValidationError(f"the value is {value!r}, which is no finite number")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if found != value:
        raise ValidationError("the value is an int that a float can't hold exactly", hint="put it into tags, as text")
    return found


def check_level(level: object) -> EventLevel | None:
    """Return a level, or None.

    Raises:
        ValidationError: it is none of the five.
    """
    if level is not None and level not in LEVELS:
        raise ValidationError(f"{shown(str(level))} is no level", hint=", ".join(LEVELS))
    return level


def check_stage(retention: object) -> EventRetention:
    """Return a stage of retention.

    Raises:
        ValidationError: it is none of the four.
    """
    if retention not in STAGES:
        raise ValidationError(f"{shown(str(retention))} is no retention", hint=", ".join(STAGES))
    return retention


def check_time(what: str, moment: object) -> datetime:
    """Return a time that an event may have.

    Raises:
        ValidationError: it is no datetime, has no time zone, or lies outside 1970 to 9997.
    """
    if type(moment) is datetime and moment.tzinfo is UTC and 1970 <= moment.year < 9998:
        return moment
    found = check_moment(what, moment)
    if not FIRST_MOMENT <= found < LAST_MOMENT:
        raise ValidationError(f"{what} lies in the year {found.year}, not within 1970 and 9997")
    return found


_known_tags: dict[tuple[Any, ...], str] = {}


def tags_json(tags: object) -> str | None:
    """Return tags as the JSON text that is stored, None for none; those of a series come again and again.

    Keys are in the order in which jsonb has them, so that equal tags are one text, and one series, on SQLite too.

    Raises:
        ValidationError: they are no dict, or hold what either database would give back as something else.
    """
    if type(tags) is not dict:
        return _ordered_json(tags)
    if not tags:
        return None
    # With the types, because 1, 1.0 and True are equal.
    key = (*map(type, tags.values()), *tags.items())
    try:
        text = _known_tags.get(key)
    except TypeError:  # a list or a dict within
        return _ordered_json(tags)
    if text is None:
        text = _ordered_json(tags)
        if len(text) <= KNOWN_TAGS_LENGTH:
            if len(_known_tags) >= KNOWN_TAGS:
                _known_tags.clear()
            _known_tags[key] = text
    return text


def _ordered_json(tags: object) -> str:
    text = metadata_json(tags, "tags")
    ordered = _ordered(tags)
    return text if ordered is tags else metadata_json(ordered, "tags")


def _ordered(value: Any) -> Any:
    """Return a JSON value whose objects have their keys in the order of jsonb: itself, where they have."""
    if isinstance(value, list):
        items = [_ordered(item) for item in value]
        return value if all(map(is_, items, value)) else items
    if not isinstance(value, dict):
        return value
    found = {key: _ordered(value[key]) for key in sorted(value, key=_place_of)}
    same = list(found) == list(value) and all(map(is_, found.values(), value.values()))
    return value if same else found


def _place_of(key: str) -> tuple[int, bytes]:
    text = key.encode()
    return len(text), text


def _check_series(
    kind: object, service: object, name: object, level: object
) -> tuple[str, str | None, str | None, EventLevel | None]:
    """Return what the events of a series have in common, checked."""
    return (
        check_word("the event's kind", kind, KIND_BYTES),
        None if service is None else check_word("the event's service", service),
        None if name is None else check_word("the event's name", name),
        check_level(level),
    )


_checked_series = lru_cache(maxsize=4096)(_check_series)


def event_row(tenant: str, event: object) -> tuple[Any, ...]:
    """Return what is stored of an event, in the order of COLUMNS, checked; without its place in a chain."""
    if type(event) is not Event:
        raise ValidationError(f"a {type(event).__name__} is no Event")
    stage, chain = event.retention, event.chain
    try:
        kind, service, name, level = _checked_series(event.kind, event.service, event.name, event.level)
    except TypeError:  # one that can't be hashed is none of them
        kind, service, name, level = _check_series(event.kind, event.service, event.name, event.level)
    if kind == AUDIT:
        chain = check_word("the event's chain", MAIN_CHAIN if chain is None else chain)
        if stage not in ("raw", "kept"):
            raise ValidationError("an audit event is kept, and never rolled up", hint="leave retention out")
        stage = "kept"
    elif chain is not None:
        raise ValidationError("only an audit event is in a chain", hint='kind="audit"')
    message, correlation = event.message, event.correlation
    return (
        tenant,
        check_time("the event's time", event.time),
        event.id
        if type(event.id) is int and 0 <= event.id < 2**63
        else check_whole("the event's id", event.id, least=0),
        "raw" if stage == "raw" else check_stage(stage),
        kind,
        service,
        name,
        check_value(event.value),
        level,
        None if message is None else check_text("the event's message", message, limit=MESSAGE_BYTES),
        None if correlation is None else check_id("the event's correlation", correlation),
        tags_json(event.tags),
        chain,
        None,
        None,
    )


def row_values(row: tuple[Any, ...]) -> dict[str, Any]:
    """Return a row as the parameters of a statement."""
    values = dict(zip(COLUMNS, row, strict=True))
    del values["tenant_id"]
    return values


def event_from_row(row: dict[str, Any], dialect: Dialect) -> Event:
    """Return the event that a row holds."""
    moment = dialect.moment(row["at"])
    if moment is None:
        raise CorruptError("an event without its time", hint="was it written by other means?")
    tags = row["tags"]
    return Event(
        kind=row["kind"],
        name=row["name"],
        value=row["value"],
        level=row["level"],
        message=row["message"],
        service=row["service"],
        correlation=row["correlation"],
        tags={} if tags is None else from_json(tags),
        time=moment,
        retention=row["retention"],
        chain=row["chain"],
        id=row["id"],
        samples=row["samples"],
        valued=row["valued"],
        low=row["low"],
        high=row["high"],
        chain_seq=row["chain_seq"],
        hash=row["hash"],
    )

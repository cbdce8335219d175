"""The stored form of Python's own types that msgpack has no type for: which extension code each has, and both ways.

A scalar is one msgpack extension (codes 1 to 63) whose data is its value. A container is a msgpack array whose first
item is an empty extension (codes 64 to 127), its tag; what follows is packed by the same C loop, so nesting costs
neither a Python call a level nor stack. Codes are part of the format: they are never reused, and a new type takes a new
one.
"""

from __future__ import annotations

import re
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, InvalidOperation
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgpack import ExtType

from persistence.errors import CorruptError, ValidationError

FIRST_TAG = 64


def extension(code: int, data: bytes = b"") -> Any:
    """Return a msgpack extension; twice as fast as calling ``ExtType``, whose checks are made by construction here."""
    return tuple.__new__(ExtType, (code, data))


class ByteArray:
    """A bytearray on its way to the packer, which would otherwise store it as bytes without asking."""

    __slots__ = ("data",)

    def __init__(self, data: bytearray) -> None:
        self.data = data


# Times. A zone is the rest of the data: nothing, U (UTC), F (offset), N (offset and name) or Z (IANA key).

_DATETIME = struct.Struct(">HBBBBBIB")
_DATE = struct.Struct(">HBB")
_TIME = struct.Struct(">BBBIB")
_DELTA = struct.Struct(">iiI")
_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def _dump_zone(zone: tzinfo | None) -> bytes:
    if zone is None:
        return b""
    if zone is UTC:
        return b"U"
    if type(zone) is timezone:
        # The arguments that it was made with are the only place where "no name" and a name differ.
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        packed = _DELTA.pack(offset.days, offset.seconds, offset.microseconds)
        return b"N" + packed + name[0].encode("utf-8", "surrogatepass") if name else b"F" + packed
    if type(zone) is ZoneInfo:
        if not _KEY.fullmatch(zone.key):
            raise ValidationError("has a ZoneInfo without a key of the IANA database", hint="ZoneInfo(key)")
        return b"Z" + zone.key.encode()
    raise ValidationError(
        f"has a time zone of type {type_name(type(zone))}", hint="zoneinfo.ZoneInfo and datetime.timezone are stored"
    )


def _load_zone(data: bytes) -> tzinfo | None:
    match data[:1]:
        case b"":
            return None
        case b"U" if len(data) == 1:
            return UTC
        case b"F" if len(data) == 1 + _DELTA.size:
            return timezone(_load_timedelta(data[1:]))
        case b"N":
            name = data[1 + _DELTA.size :].decode("utf-8", "surrogatepass")
            return timezone(_load_timedelta(data[1 : 1 + _DELTA.size]), name)
        case b"Z":
            key = data[1:].decode()
            # ZoneInfo looks a key up in files and in the package tzdata: nothing but a plain key may get there.
            if not _KEY.fullmatch(key):
                raise CorruptError("a stored time zone has no valid key")
            try:
                return ZoneInfo(key)
            except ZoneInfoNotFoundError:
                raise CorruptError(f"the time zone {key[:80]!r} isn't known here", hint="install tzdata") from None
    raise CorruptError("a stored time zone is damaged")


def _dump_zone_alone(zone: tzinfo) -> Any:
    return extension(9, _dump_zone(zone))


def _load_zone_alone(data: bytes) -> tzinfo:
    zone = _load_zone(data)
    if zone is None:
        raise CorruptError("a stored time zone is empty")
    return zone


def _dump_datetime(value: datetime) -> Any:
    packed = _DATETIME.pack(value.year, value.month, value.day, value.hour, value.minute, value.second,
                            value.microsecond, value.fold)  # fmt: skip
    zone = value.tzinfo
    return extension(2, packed + (b"U" if zone is UTC else _dump_zone(zone)))


def _load_datetime(data: bytes) -> datetime:
    year, month, day, hour, minute, second, micro, fold = _DATETIME.unpack_from(data)
    zone = _load_zone(data[_DATETIME.size :])
    return datetime(year, month, day, hour, minute, second, micro, zone, fold=fold)


def _dump_date(value: date) -> Any:
    return extension(3, _DATE.pack(value.year, value.month, value.day))


def _load_date(data: bytes) -> date:
    return date(*_DATE.unpack(data))


def _dump_time(value: time) -> Any:
    packed = _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)
    return extension(4, packed + _dump_zone(value.tzinfo))


def _load_time(data: bytes) -> time:
    hour, minute, second, micro, fold = _TIME.unpack_from(data)
    return time(hour, minute, second, micro, _load_zone(data[_TIME.size :]), fold=fold)


def _dump_timedelta(value: timedelta) -> Any:
    return extension(5, _DELTA.pack(value.days, value.seconds, value.microseconds))


def _load_timedelta(data: bytes) -> timedelta:
    return timedelta(*_DELTA.unpack(data))


# Numbers.


def _dump_int(value: int) -> Any:
    return extension(1, value.to_bytes((value.bit_length() + 8) // 8, "big", signed=True))


def _load_int(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _decimal_context() -> Context:
    # Not the caller's: its traps and its spelling of exponents must not change what is stored.
    return Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, capitals=1, traps=[InvalidOperation])


def _dump_decimal(value: Decimal) -> Any:
    return extension(6, _decimal_context().to_sci_string(value).encode())


def _load_decimal(data: bytes) -> Decimal:
    return Decimal(data.decode(), _decimal_context())


_COMPLEX = struct.Struct(">dd")


def _dump_complex(value: complex) -> Any:
    return extension(8, _COMPLEX.pack(value.real, value.imag))


def _load_complex(data: bytes) -> complex:
    return complex(*_COMPLEX.unpack(data))


# Bytes, identities, paths.


def _dump_uuid(value: UUID) -> Any:
    return extension(7, value.bytes)


def _load_uuid(data: bytes) -> UUID:
    return UUID(bytes=data)


def _dump_bytearray(value: ByteArray) -> Any:
    return extension(10, bytes(value.data))


_PATHS: dict[bytes, type[PurePosixPath | PureWindowsPath]] = {
    b"p": PurePosixPath,
    b"w": PureWindowsPath,
    b"P": PosixPath,
    b"W": WindowsPath,
}
_PATH_LETTERS = {kind: letter for letter, kind in _PATHS.items()}


def _dump_path(value: PurePosixPath | PureWindowsPath) -> Any:
    return extension(11, _PATH_LETTERS[type(value)] + str(value).encode("utf-8", "surrogatepass"))


def _load_path(data: bytes) -> PurePosixPath | PureWindowsPath:
    kind = _PATHS[data[:1]]
    try:
        return kind(data[1:].decode("utf-8", "surrogatepass"))
    except NotImplementedError:
        raise CorruptError(f"a {kind.__name__} can't be made on this system", hint="store pure paths") from None


SCALAR_DUMPS: dict[type, Callable[[Any], Any]] = {
    int: _dump_int,  # only those beyond 64 bits arrive here
    datetime: _dump_datetime,
    date: _dump_date,
    time: _dump_time,
    timedelta: _dump_timedelta,
    Decimal: _dump_decimal,
    UUID: _dump_uuid,
    complex: _dump_complex,
    timezone: _dump_zone_alone,
    ZoneInfo: _dump_zone_alone,
    ByteArray: _dump_bytearray,
    **dict.fromkeys(_PATH_LETTERS, _dump_path),
}
SCALAR_LOADS: dict[int, Callable[[bytes], Any]] = {
    1: _load_int,
    2: _load_datetime,
    3: _load_date,
    4: _load_time,
    5: _load_timedelta,
    6: _load_decimal,
    7: _load_uuid,
    8: _load_complex,
    9: _load_zone_alone,
    10: bytearray,
    11: _load_path,
}


# Containers. Each dump returns the tagged array; each load gets the whole array, tag included.

TUPLE = extension(64)
SET = extension(65)
FROZENSET = extension(66)
DEQUE = extension(67)
ORDERED_DICT = extension(68)
DEFAULT_DICT = extension(69)
COUNTER = extension(70)
RANGE = extension(71)
SLICE = extension(72)
# 73 to 75 are arrays.py's, 80 to 84 registry.py's.

_SORTABLE = ({str}, {int}, {bytes})


def steady(members: Iterable[Any]) -> Iterable[Any]:
    """Return a set's members in an order that doesn't change from process to process, where they have one.

    Stored pieces are addressed by their content: an equal set is then, nearly always, an equal piece.
    """
    members = list(members)
    return sorted(members) if set(map(type, members)) in _SORTABLE else members


def pairs(mapping: Iterable[tuple[Any, Any]]) -> list[Any]:
    """Return a mapping's items as one flat list: key, value, key, value, …"""
    return [part for item in mapping for part in item]


def unpair(items: Sequence[Any], start: int) -> dict[Any, Any]:
    """Return the dict whose flat items begin at ``start``.

    Raises:
        CorruptError: the last key has no value.
    """
    if (len(items) - start) % 2:
        raise CorruptError("a stored mapping has a key without a value")
    return dict(zip(items[start::2], items[start + 1 :: 2], strict=True))


def _load_deque(items: list[Any]) -> deque[Any]:
    maxlen = items[1]
    if maxlen is not None and (type(maxlen) is not int or maxlen < len(items) - 2):
        raise CorruptError("a stored deque is longer than its maxlen")
    return deque(items[2:], maxlen)


_FACTORIES: tuple[type, ...] = (list, dict, set, frozenset, tuple, str, bytes, bytearray, int, float, complex, bool)
FACTORIES: dict[str, Any] = {kind.__name__: kind for kind in (*_FACTORIES, deque, OrderedDict, Counter, defaultdict)}
FACTORY_NAMES: dict[Any, str] = {kind: name for name, kind in FACTORIES.items()}

CONTAINER_DUMPS: dict[type, Callable[[Any], list[Any]]] = {
    tuple: lambda value: [TUPLE, *value],
    set: lambda value: [SET, *steady(value)],
    frozenset: lambda value: [FROZENSET, *steady(value)],
    deque: lambda value: [DEQUE, value.maxlen, *value],
    OrderedDict: lambda value: [ORDERED_DICT, *pairs(value.items())],
    Counter: lambda value: [COUNTER, *pairs(value.items())],
    range: lambda value: [RANGE, value.start, value.stop, value.step],
    slice: lambda value: [SLICE, value.start, value.stop, value.step],
}


def _load_range(items: list[Any]) -> range:
    _, start, stop, step = items
    return range(start, stop, step)


def _load_slice(items: list[Any]) -> slice:
    _, start, stop, step = items
    return slice(start, stop, step)


def _load_counter(items: list[Any]) -> Counter[Any]:
    counter: Counter[Any] = Counter()
    dict.update(counter, unpair(items, 1))
    return counter


CONTAINER_LOADS: dict[int, Callable[[list[Any]], Any]] = {
    TUPLE.code: lambda items: tuple(items[1:]),
    SET.code: lambda items: set(items[1:]),
    FROZENSET.code: lambda items: frozenset(items[1:]),
    DEQUE.code: _load_deque,
    ORDERED_DICT.code: lambda items: OrderedDict(unpair(items, 1)),
    COUNTER.code: _load_counter,
    RANGE.code: _load_range,
    SLICE.code: _load_slice,
}


def type_name(kind: type) -> str:
    """Return a class's ``module:qualname``, the name under which it is registered when none is given."""
    return f"{kind.__module__}:{kind.__qualname__}"

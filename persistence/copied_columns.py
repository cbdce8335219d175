"""How a value goes from one database to another: how it is read, what becomes of it, and how it is compared.

A value is read in a plain form (a time as microseconds, what PostgreSQL alone has as its text), made into what the
target's column takes, and written by a cast to the column's type. What a SQLite file has no room for is refused by the
column's type before anything is read, and by its value before anything is written.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import numpy as np

from persistence.dialect import Kind, from_micros, quote_identifier
from persistence.errors import CapabilityError

Route = tuple[Kind, Kind]
"""The kinds of the source and of the target."""
RawRow = Mapping[str, Any]
Value = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalogue tells it; ``place`` is its place in the primary key."""

    name: str
    type: str
    generated: bool = False
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Derived:
    """A column that is made in a way of its own, from the source's row.

    ``read`` and ``shown`` are the expressions that read it from the source and from the target, with ``…`` for its
    name; ``same`` makes what was made and what is read comparable.
    """

    make: Callable[[RawRow], Any]
    shown: str = "…"
    same: Value = lambda value: value
    read: str = "…"


@dataclass(frozen=True, slots=True)
class CopiedColumn:
    """A column on its way: the expressions that read it on both sides and write it, and what becomes of its value.

    ``asked`` are the casts under which a key is looked for on either side, and what it is made into there; ``types``
    are those of both sides, empty where one hasn't the column.
    """

    name: str
    read: str | None
    make: Callable[[RawRow], Any]
    cast: str | None
    shown: str
    made: Callable[[RawRow], Any]
    same: Value
    asked: tuple[tuple[str | None, Value], tuple[str | None, Value]]
    types: tuple[str, str]


def derived_column(column: Column, derived: Derived, route: Route, *, source: Column | None) -> CopiedColumn:
    """Return a column that is made in a way of its own; ``source`` is the source's of this name."""
    place = f"copied.{quote_identifier(column.name)}"
    cast = column.type if route[1] == "postgresql" else None
    return CopiedColumn(
        column.name,
        derived.read.replace("…", place) if source is not None else None,
        derived.make,
        cast,
        derived.shown.replace("…", place),
        derived.make,
        derived.same,
        ((None, _as_it_is), (cast, _as_it_is)),
        ("" if source is None else source.type, column.type),
    )


def same_column(source: Column, target: Column, route: Route) -> CopiedColumn:
    """Return a column that both sides have.

    Raises:
        CapabilityError: SQLite has nothing for its type.
    """
    if route == ("postgresql", "sqlite"):
        return _to_sqlite(source, target)
    name = target.name
    place = f"copied.{quote_identifier(name)}"
    value: Value = _as_it_is
    same: Value = _as_it_is
    shown = place
    read = _plain(place, source.type) if route[0] == "postgresql" else place
    if route[1] == "postgresql":
        shown = _plain(place, target.type)
        if target.type == "timestamp with time zone":
            value = from_micros
        elif route[0] == "sqlite":
            value, shown, same = _from_sqlite(target.type, place, shown)
    cast = target.type if route[1] == "postgresql" else None
    return CopiedColumn(
        name,
        read,
        lambda row: None if row[name] is None else value(row[name]),
        cast,
        shown,
        lambda row: row[name],
        lambda found: None if found is None else same(found),
        ((cast, value) if route[0] == "postgresql" else (None, _as_it_is), (cast, value)),
        (source.type, target.type),
    )


_NUMBERS = ("smallint", "integer", "bigint", "real", "double precision")
_AS_THEY_ARE = (*_NUMBERS, "boolean", "text", "character varying", "bytea")
_LISTS = ("smallint[]", "integer[]", "bigint[]", "text[]")
_TIME = "timestamp with time zone"


def _plain(place: str, type: str) -> str:
    """Return the expression that reads a column of PostgreSQL in its plain form."""
    if type in _AS_THEY_ARE:
        return place
    return _micros(place) if type == _TIME else f"CAST({place} AS text)"


def _micros(place: str) -> str:
    return f"CAST(extract(epoch FROM {place}) * 1000000 AS bigint)"


def _from_sqlite(type: str, place: str, shown: str) -> tuple[Value, str, Value]:
    """Return what is made of SQLite's value, the expression that reads it again, and what makes both comparable."""
    match type:
        case "boolean":
            return bool, shown, bool
        case "interval":
            return (lambda value: timedelta(microseconds=value)), _micros(place), _as_it_is
        case "jsonb":
            return _as_it_is, shown, _json_value
        case "real[]":
            return _floats, f"CAST(array_to_json({place}) AS text)", _vector_bytes
        case "integer[]" | "bigint[]" | "text[]":
            return json.loads, f"CAST(array_to_json({place}) AS text)", json.loads
        case "double precision" | "real":
            return float, shown, float
    return _as_it_is, shown, _as_it_is


def _to_sqlite(source: Column, target: Column) -> CopiedColumn:
    name, type = target.name, source.type
    place = f"copied.{quote_identifier(name)}"
    value: Value = _as_it_is
    if type in _AS_THEY_ARE:
        read = place
        value = int if type == "boolean" else _as_it_is
    elif type in (_TIME, "interval"):
        read = _micros(place)
    elif type in _LISTS:
        read = f"CAST(array_to_json({place}) AS text)"
    elif type == "real[]" or type.startswith("vector"):
        read = f"CAST({place} AS real[])" if type != "real[]" else place
        read, value = f"CAST(array_to_json({read}) AS text)", _vector_bytes
    elif type in ("json", "jsonb"):
        read = f"CAST({place} AS text)"
    else:
        raise CapabilityError(f"SQLite has nothing for the type {type} of the column {name}")
    asked = (type, from_micros if type == _TIME else _as_it_is)
    make: Callable[[RawRow], Any] = lambda row: None if row[name] is None else value(row[name])  # noqa: E731
    types = (type, target.type)
    return CopiedColumn(name, read, make, None, place, make, _as_it_is, (asked, (None, _as_it_is)), types)


def measure(name: str, type: str, kind: Kind) -> str | None:
    """Return the expression for how many bytes a value has, or about; None: never more than a few.

    None of them makes the server unpack or send the value.
    """
    place = f"copied.{quote_identifier(name)}"
    if kind == "sqlite":
        return f"coalesce(length({place}), 0)" if type in ("text", "blob") else None
    if type in (*_NUMBERS, _TIME, "boolean", "interval", ""):
        return None
    function = "octet_length" if type in ("text", "character varying", "bytea") else "pg_column_size"
    return f"coalesce({function}({place}), 0)"


def unfit(column: Column) -> str | None:
    """Return the condition under which a value of PostgreSQL has no form in a SQLite file; None: each has one."""
    place = f"copied.{quote_identifier(column.name)}"
    if column.type in ("double precision", "real"):
        return f"{place} = 'NaN'"  # SQLite makes NULL of it
    return f"NOT isfinite({place})" if column.type == _TIME else None


def _as_it_is(value: Any) -> Any:
    return value


def _json_value(text: str) -> Any:
    """Return a JSON value as jsonb tells it apart: 1.0 and 1 are one number, whatever their digits."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def _floats(stored: bytes) -> list[float]:
    return np.frombuffer(stored, "<f4").tolist()  # type: ignore[no-any-return]


def _vector_bytes(value: bytes | str) -> bytes:
    return value if isinstance(value, bytes) else np.asarray(json.loads(value), "<f4").tobytes()

"""Rows as PostgreSQL's COPY takes them, in binary where the types of the columns allow it and else as text.

In binary the server takes what comes for the column's type and converts nothing. psycopg's dumpers refuse most of what
doesn't fit, but would cut an int that is too large for its column and take any text for a true bool: columns of such
types are checked first, a batch of rows at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple, cast
from uuid import UUID

import numpy as np
import psycopg
from psycopg._copy_base import format_row_binary, format_row_text
from psycopg.adapt import AdaptersMap, Dumper, PyFormat, Transformer
from psycopg.pq import Format

from persistence.dialect import to_json
from persistence.errors import ValidationError
from persistence.vectors import pack_vector

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"


class ColumnKind(NamedTuple):
    """A type of column: its name, what may be stored in it, and the bounds of a whole number.

    ``trusting`` ones have a dumper that stores what doesn't fit as something else.
    """

    name: str
    types: tuple[type, ...]
    bits: int = 0
    trusting: bool = False

    def problem(self, value: Any) -> str | None:
        """Return why a value can't be stored, if it can't."""
        if value is None:
            return None
        # A datetime is a date, but a column of dates would drop its time.
        if not isinstance(value, self.types) or (type(value) is datetime and datetime not in self.types):
            return f"is a {type(value).__name__}, and the column has the type {self.name}"
        if self.bits and not _is_within(cast("list[int]", [value]), self.bits):
            return f"is out of the range of the type {self.name}"
        return None

    def are_fine(self, values: Sequence[Any]) -> bool:
        """Tell whether all can be stored; False also where that needs a closer look."""
        found = set(map(type, values))
        if type(None) in found:
            found.discard(type(None))
            values = [value for value in values if value is not None]
        return found.issubset(self.types) and not (self.bits and values and not _is_within(values, self.bits))


_JSON = (dict, list, str)
_KINDS = {
    16: ColumnKind("boolean", (bool,), trusting=True),
    17: ColumnKind("bytea", (bytes, bytearray, memoryview)),
    20: ColumnKind("bigint", (int, bool), 64),
    21: ColumnKind("smallint", (int, bool), 16, trusting=True),
    23: ColumnKind("integer", (int, bool), 32, trusting=True),
    25: ColumnKind("text", (str,)),
    114: ColumnKind("json", _JSON),
    700: ColumnKind("real", (float, int)),
    701: ColumnKind("double precision", (float, int)),
    1043: ColumnKind("varchar", (str,)),
    1082: ColumnKind("date", (date,), trusting=True),
    1083: ColumnKind("time", (time,)),
    1114: ColumnKind("timestamp", (datetime,)),
    1184: ColumnKind("timestamptz", (datetime,)),
    1186: ColumnKind("interval", (timedelta,)),
    1700: ColumnKind("numeric", (Decimal, int)),
    2950: ColumnKind("uuid", (UUID,)),
    3802: ColumnKind("jsonb", _JSON),
}
_VECTOR = ColumnKind("vector", (np.ndarray, list, tuple))


class _JsonDumper(Dumper):
    """Takes a str for JSON text, as a statement does."""

    format = Format.BINARY
    oid = 114
    prefix = b""

    def dump(self, obj: Any) -> bytes:
        if not isinstance(obj, _JSON):
            raise TypeError(f"a {type(obj).__name__} is no JSON document")
        return self.prefix + (obj if isinstance(obj, str) else to_json(obj)).encode()


class _JsonbDumper(_JsonDumper):
    oid = 3802
    prefix = b"\x01"


class _VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: Any) -> bytes:
        vector = np.asarray(obj)
        if vector.ndim != 1:
            raise ValidationError(f"an array of shape {vector.shape} is no vector")
        return pack_vector(vector)


class _VectorTextDumper(Dumper):
    def dump(self, obj: Any) -> bytes:
        return str(np.asarray(obj, np.float32).tolist()).encode()


class CopyRows:
    """Turns batches of rows into COPY's form, texts in UTF-8; ``oids`` are the types of the columns."""

    def __init__(self, columns: Sequence[str], oids: Sequence[int], adapters: AdaptersMap) -> None:
        self._columns = columns
        adapters = AdaptersMap(adapters)
        kinds = dict(_KINDS)
        vector = _vector_oid(adapters)
        if vector is not None:
            kinds[vector] = _VECTOR
            adapters.register_dumper(None, type("VectorDumper", (_VectorDumper,), {"oid": vector}))
            adapters.register_dumper(np.ndarray, _VectorTextDumper)
        adapters.register_dumper(None, _JsonDumper)
        adapters.register_dumper(None, _JsonbDumper)
        self._transformer = Transformer(adapters)
        self._kinds: list[ColumnKind] = []
        self._trusting: list[int] = []
        self.binary = all(oid in kinds for oid in oids)
        self._format = format_row_text
        if self.binary:
            self._kinds = [kinds[oid] for oid in oids]
            self._trusting = [place for place, kind in enumerate(self._kinds) if kind.trusting]
            self._transformer.set_dumper_types(oids, Format.BINARY)
            self._format = format_row_binary

    def start(self) -> bytearray:
        """Return what comes before the first row."""
        return bytearray(HEADER if self.binary else b"")

    def end(self) -> bytes:
        """Return what comes after the last row."""
        return TRAILER if self.binary else b""

    def add(self, rows: Sequence[Sequence[Any]], first: int, out: bytearray) -> None:
        """Append rows; ``first`` is the number of the first of them.

        Raises:
            ValidationError: one can't be stored; the message names it (``rows[7]``).
        """
        check_rows(rows, len(self._columns), first)
        for place in self._trusting:
            if not self._kinds[place].are_fine([row[place] for row in rows]):
                for number, row in enumerate(rows, first):
                    self._check(number, row)
        number, form, transformer = first, self._format, self._transformer
        try:
            for row in rows:
                form(row, transformer, out)
                number += 1
        except (psycopg.Error, ValidationError, TypeError, ValueError, OverflowError, AttributeError) as exc:
            self._check(number, rows[number - first])
            raise ValidationError(f"rows[{number}]: {exc}") from exc

    def _check(self, number: int, row: Sequence[Any]) -> None:
        for column, kind, value in zip(self._columns, self._kinds, row, strict=False):
            problem = kind.problem(value)
            if problem:
                raise ValidationError(f"rows[{number}]: {column} {problem}")


def check_rows(rows: Sequence[object], width: int, first: int = 0) -> None:
    """Refuse rows that are no sequences of ``width`` values; ``first`` is the number of the first of them.

    Raises:
        ValidationError: one is none; the message names it (``rows[7]``).
    """
    if {*map(type, rows)} <= {tuple, list} and {*map(len, cast("Sequence[Sequence[Any]]", rows))} <= {width}:
        return
    for number, row in enumerate(rows, first):
        if not isinstance(row, tuple | list):
            raise ValidationError(f"rows[{number}] is a {type(row).__name__}, not a tuple")
        if len(row) != width:
            raise ValidationError(f"rows[{number}] has {len(row)} values, and there are {width} columns")


def _is_within(column: Sequence[int], bits: int) -> bool:
    bound = 1 << (bits - 1)
    return -bound <= min(column) and max(column) < bound


def _vector_oid(adapters: AdaptersMap) -> int | None:
    try:
        return adapters.get_dumper(np.ndarray, PyFormat.BINARY).oid
    except psycopg.ProgrammingError:
        return None

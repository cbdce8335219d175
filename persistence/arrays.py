"""A batch's columns as PostgreSQL's binary arrays, one parameter each: the fastest way to send many rows at once.

A statement takes them apart with ``unnest(CAST(:ids AS text[]), CAST(:embeddings AS vector[]))``. The form is that of
``array_send``: dimensions, a flag for NULLs, the elements' type, length and lower bound, then each element behind its
length, all big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format

_ARRAY = struct.Struct(">iiIii")
_LENGTH = struct.Struct(">i")
_TEXT, _TEXT_ARRAY = 25, 1009
_NULL = _LENGTH.pack(-1)


class TextColumn:
    """Texts, or None for NULL, as a parameter of the type ``text[]``."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[str | None]) -> None:
        self.items = items


class VectorColumn:
    """The rows of a float32 array of shape ``(n, dim)`` as a parameter of the type ``vector[]``."""

    __slots__ = ("rows",)

    def __init__(self, rows: np.ndarray[Any, Any]) -> None:
        self.rows = rows


class _TextDumper(Dumper):
    format = Format.BINARY
    oid = _TEXT_ARRAY

    def dump(self, obj: TextColumn) -> bytes:
        items = obj.items
        nulls = items.count(None)
        head = _ARRAY.pack(1, nulls > 0, _TEXT, len(items), 1)
        if nulls == len(items):
            return head + _NULL * nulls
        parts = [head]
        for item in items:
            if item is None:
                parts.append(_NULL)
            else:
                data = item.encode()
                parts += _LENGTH.pack(len(data)), data
        return b"".join(parts)


class _VectorDumper(Dumper):
    format = Format.BINARY  # without an oid: the statement's CAST says what it is
    element = 0

    def dump(self, obj: VectorColumn) -> bytearray:
        count, dimensions = obj.rows.shape
        element = np.dtype(
            [("length", ">i4"), ("dimensions", ">u2"), ("unused", ">u2"), ("numbers", ">f4", (dimensions,))]
        )
        data = bytearray(_ARRAY.size + count * element.itemsize)
        _ARRAY.pack_into(data, 0, 1, 0, self.element, count, 1)
        packed = np.frombuffer(data, element, count, _ARRAY.size)  # written where it is sent from
        packed["length"] = 4 + 4 * dimensions
        packed["dimensions"] = dimensions
        packed["numbers"] = obj.rows
        return data


def register_columns(adapters: AdaptersMap, vector_oid: int) -> None:
    """Have psycopg send both kinds of columns; ``vector_oid`` is that of pgvector's type."""
    adapters.register_dumper(TextColumn, _TextDumper)
    adapters.register_dumper(VectorColumn, type("VectorColumnDumper", (_VectorDumper,), {"element": vector_oid}))

"""How databases have refs.

PostgreSQL has them as numbers in a text, for an array of integers takes three times the bytes: block 0 of so many
versions ago is that number, any other block is its ref below zero. The statements read the text as an array again
(sql/postgresql.sql). SQLite has refs as they are, in a JSON array.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from checkpoint.blocks import LAST_ORDINAL
from checkpoint.layout import LARGEST_REF
from checkpoint.records import describe
from persistence.errors import CorruptError, QueryError, ValidationError

_NO_NUMBERS = ("22P02", "22003")
"""What PostgreSQL says of a text that it can't read as integers, or of one that is too large."""
_NO_JSON = "malformed JSON"
"""What SQLite says of a text that it can't read as JSON; of the columns, these statements read refs alone as that."""
_INTEGER = frozenset((int,))


def pack_refs(refs: Sequence[int]) -> str:
    """Return refs as the column has them."""
    return ",".join([str(-ref if ref & LAST_ORDINAL else ref >> 8) for ref in refs])


def unpack_refs(numbers: Sequence[int]) -> list[int]:
    """Return the refs that the numbers in the column mean.

    Raises:
        CorruptError: they mean none.
    """
    try:
        refs = [-number if number < 0 else number << 8 for number in numbers]
    except TypeError as exc:
        raise CorruptError("its refs are damaged: they are no numbers") from exc
    if refs and max(refs) > LARGEST_REF:
        raise CorruptError(f"its refs are damaged: {max(refs)} is too large")
    return refs


def read_refs(column: str | list[int]) -> list[int]:
    """Return the refs in a row of either database: JSON from SQLite, numbers from PostgreSQL.

    Raises:
        CorruptError: they are none.
    """
    if isinstance(column, list):
        return unpack_refs(column)
    try:
        refs = json.loads(column)
    except (TypeError, ValueError) as exc:
        raise CorruptError("its refs are damaged: they are no JSON") from exc
    if type(refs) is not list or not _INTEGER.issuperset(map(type, refs)):
        raise CorruptError("its refs are damaged: they are no list of numbers")
    if refs and not 0 <= min(refs) <= max(refs) <= LARGEST_REF:
        raise CorruptError(f"its refs are damaged: not all are from 0 to {LARGEST_REF}")
    return refs


class ReadingRefs:
    """Around a statement that reads refs: says of which thread they are if the server can't read them."""

    __slots__ = ("_connection", "_keys")

    def __init__(self, connection: str | None, keys: Mapping[str, Any]) -> None:
        self._connection = connection
        self._keys = keys

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if (isinstance(exc, ValidationError) and exc.code in _NO_NUMBERS) or (
            isinstance(exc, QueryError) and exc.message == _NO_JSON
        ):
            raise CorruptError(
                f"{describe(self._keys['thread'], self._keys['namespace'])} has a checkpoint whose refs are damaged",
                hint="load an earlier version, or restore a backup",
                connection=self._connection,
                code=exc.code,
            ) from exc

"""The journal of a file index's version: what changed since it was written, appended durably and checked when read.

A record is the length and the CRC of its payload, the CRC of these two, and the payload: a line of JSON, the vectors.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from persistence.errors import CorruptError
from vectorstore.distance import Matrix
from vectorstore.durable import sync_file

EMPTY_JOURNAL = b"holdfast journal 1\n"
"""What a journal begins with."""
_RECORD = struct.Struct("<QII")  # the payload's length and crc, and the crc of these two


class Change(NamedTuple):
    """One change of a journal: ids that were added, with vectors and metadata, or removed, without."""

    ids: list[str]
    vectors: Matrix | None
    metadata: list[str]


def read_journal(path: Path, dimensions: int) -> tuple[list[Change], int, int]:
    """Return the changes of a version's journal, where the last one ends, and how many bytes were read.

    Behind the last one there is what a killed writer left, or what another is about to write.

    Raises:
        CorruptError: it is damaged before its end.
    """
    try:
        data = (path / "journal").read_bytes()
    except OSError as exc:
        raise damaged(path, f"its journal can't be read: {exc.strerror}") from exc
    if not data.startswith(EMPTY_JOURNAL):
        raise damaged(path, "its journal is no journal")
    found, place = list[Change](), len(EMPTY_JOURNAL)
    while place < len(data):
        begin = place + _RECORD.size
        if begin > len(data) or not data[place:].strip(b"\0"):
            break
        length, crc, own = _RECORD.unpack_from(data, place)
        if own != zlib.crc32(data[place : place + 12]):
            raise damaged(path, f"its journal is damaged at byte {place:,}")
        payload = data[begin : begin + length]
        if len(payload) < length or zlib.crc32(payload) != crc:
            if begin + length < len(data):
                raise damaged(path, f"its journal is damaged at byte {begin:,}")
            break
        found.append(_change(payload, dimensions))
        place = begin + length
    return found, place, len(data)


def append_change(path: Path, end: int, change: Change) -> int:
    """Append a change to a version's journal behind the last whole one, durably, and return where it ends then.

    What fails is taken back, so that the journal ends where it did.
    """
    head = {"ids": change.ids, "metadata": change.metadata, "added": change.vectors is not None}
    payload = json.dumps(head, ensure_ascii=False).encode() + b"\n"
    if change.vectors is not None:
        payload += change.vectors.astype("<f4").tobytes()
    told = struct.pack("<QI", len(payload), zlib.crc32(payload))
    try:
        with open(path / "journal", "r+b") as file:
            file.truncate(end)
            file.seek(end)
            file.write(told + struct.pack("<I", zlib.crc32(told)) + payload)
            sync_file(file)
            return file.tell()
    except BaseException:
        os.truncate(path / "journal", end)
        raise


def journal_size(path: Path) -> int:
    """Return how many bytes a version's journal has."""
    return (path / "journal").stat().st_size


def _change(payload: bytes, dimensions: int) -> Change:
    head, _, numbers = payload.partition(b"\n")
    told = json.loads(head)
    vectors = np.frombuffer(numbers, "<f4").reshape(-1, dimensions) if told["added"] else None
    return Change(told["ids"], vectors, told["metadata"])


def damaged(path: Path, why: str) -> CorruptError:
    """Return the error of a version that is not what was written."""
    return CorruptError(
        f"{path} is no whole version of a vector index: {why}",
        hint="load an older version, or restore a backup",
        operation="load",
    )

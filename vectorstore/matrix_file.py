"""A matrix of vectors as a file that is mapped into memory: a cache that may be deleted at any time.

The file has a line of JSON that says what it holds, and behind it, each at a multiple of 64 bytes, the positions, the
ends and the vectors. It is written under another name and then takes its place, so nobody ever opens half of one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from persistence.config import Metric
from vectorstore.distance import Matrix, Positions
from vectorstore.matrix import VectorMatrix

_MAGIC = b"holdfast vectors 1\n"
_HEADER_BYTES = 4096
_ALIGN = 64


def matrix_path(database: str, tenant: str, collection: str, namespace: str) -> Path:
    """Return where the matrix of a namespace lies, in a folder beside its SQLite file; the name tells nobody whose."""
    name = hashlib.sha256(json.dumps([tenant, collection, namespace]).encode()).hexdigest()[:32]
    return Path(f"{database}-vectors") / f"{name}.matrix"


def save_matrix(path: Path, matrix: VectorMatrix) -> None:
    """Write the rows that are not taken out.

    Raises:
        OSError: it can't be written; what was there before stays.
    """
    stays = matrix.ends != 0
    positions: Positions = np.ascontiguousarray(matrix.positions[stays], "<i8")
    ends: Positions = np.ascontiguousarray(matrix.ends[stays], "<i8")
    rows, dimensions = len(positions), matrix.vectors.shape[1]
    told = {"rows": rows, "dimensions": dimensions, "metric": matrix.metric}
    told["crc"] = zlib.crc32(ends.data, zlib.crc32(positions.data))
    header = _MAGIC + json.dumps(told).encode() + b"\n"
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle, draft = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".draft", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(header.ljust(_HEADER_BYTES, b"\0"))
            file.write(positions.data)
            file.seek(_aligned(_HEADER_BYTES + 8 * rows))
            file.write(ends.data)
            file.seek(_places(rows)[1])
            vectors = matrix.vectors
            for start in range(0, len(vectors), 4096):
                block = vectors[start : start + 4096][stays[start : start + 4096]]
                file.write(np.ascontiguousarray(block, "<f4").data)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name with old or no data
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def open_matrix(path: Path, dimensions: int, metric: Metric) -> VectorMatrix | None:
    """Map a file that :func:`save_matrix` wrote; None where there is none, or no whole one of such vectors."""
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            size = os.fstat(file.fileno()).st_size
            told = _read(header)
            if told is None or (told["dimensions"], told["metric"]) != (dimensions, metric):
                return None
            rows = told["rows"]
            ends_at, vectors_at = _places(rows)
            if rows == 0 or size != vectors_at + 4 * rows * dimensions:
                return None
            mapped = np.memmap(file, np.uint8, "r")
    except FileNotFoundError:
        return None
    data = np.asarray(mapped)
    positions = data[_HEADER_BYTES : _HEADER_BYTES + 8 * rows].view("<i8")
    ends = data[ends_at : ends_at + 8 * rows].view("<i8")
    if zlib.crc32(ends.data, zlib.crc32(positions.data)) != told["crc"]:
        return None
    vectors: Matrix = data[vectors_at:].view("<f4").reshape(rows, dimensions)
    return VectorMatrix.of(positions, vectors, ends, metric)


def _read(header: bytes) -> dict[str, Any] | None:
    if not header.startswith(_MAGIC):
        return None
    try:
        told = json.loads(header[len(_MAGIC) :].partition(b"\n")[0])
    except (ValueError, RecursionError):
        return None
    whole = isinstance(told, dict) and {"rows", "dimensions", "metric", "crc"} <= told.keys()
    whole = whole and type(told["rows"]) is int and told["rows"] >= 0
    return told if whole else None


def _places(rows: int) -> tuple[int, int]:
    """Return where the ends and the vectors begin."""
    ends = _aligned(_HEADER_BYTES + 8 * rows)
    return ends, _aligned(ends + 8 * rows)


def _aligned(place: int) -> int:
    return place + -place % _ALIGN

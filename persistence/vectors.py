"""numpy vectors as pgvector's binary wire forms, so that no vector is ever turned into text.

The forms are those of pgvector's ``vector_send``/``halfvec_send``: the dimension and a zero as two 16-bit integers,
then the elements, all big-endian. Types are found by name once per database; a dumper with the right oid is then
registered on each new connection without a round trip.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import psycopg
from psycopg.adapt import Dumper, Loader
from psycopg.pq import Format

from persistence.arrays import register_columns

_HEADER = struct.Struct(">HH")


def pack_vector(vector: np.ndarray[Any, Any]) -> bytes:
    """Return a one-dimensional array as pgvector's binary ``vector``."""
    return _HEADER.pack(vector.shape[0], 0) + vector.astype(">f4").tobytes()


def unpack_vector(data: bytes | bytearray | memoryview) -> np.ndarray[Any, Any]:
    """Return pgvector's binary ``vector`` as a float32 array of shape (n,)."""
    return np.frombuffer(data, ">f4", offset=_HEADER.size).astype(np.float32)


class _VectorDumper(Dumper):
    format = Format.BINARY

    def dump(self, obj: np.ndarray[Any, Any]) -> bytes:
        return pack_vector(obj)


class _VectorBinaryLoader(Loader):
    format = Format.BINARY

    def load(self, data: Any) -> np.ndarray[Any, Any]:
        return unpack_vector(data)


class _VectorTextLoader(Loader):
    def load(self, data: Any) -> np.ndarray[Any, Any]:
        return np.array(bytes(data)[1:-1].split(b","), dtype=np.float32)


def vector_adapters(oid: int) -> psycopg.adapt.AdaptersMap:
    """Return psycopg's adapters with numpy arrays sent and read as the type ``vector`` of that oid."""
    adapters = psycopg.adapt.AdaptersMap(psycopg.adapters)
    adapters.register_dumper(np.ndarray, type("VectorDumper", (_VectorDumper,), {"oid": oid}))
    adapters.register_loader(oid, _VectorBinaryLoader)
    adapters.register_loader(oid, _VectorTextLoader)
    register_columns(adapters, oid)
    return adapters

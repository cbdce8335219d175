"""The stored form of numpy's arrays and scalars.

An array's bytes lie outside the msgpack body, aligned to 16, so that loading one is a read-only view of the stored
bytes and copies nothing. A dtype is stored as its own string; one with fields as a nested list of names, offsets and
dtypes. Only kinds whose bytes mean the same in another process are stored: never objects, never pointers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from checkpoint.codecs import extension
from persistence.errors import CorruptError, ValidationError

ARRAY = extension(73)
SCALAR = extension(74)
TEXT = extension(75)
ALIGNMENT = 16

_SIMPLE = re.compile(r"[<>|][biufcmMSUV]\d{0,10}(\[\d*[A-Za-z]{1,2}(/\d+)?\])?")
_DEEPEST = 16
# Text is kept as text: through a dtype, trailing NULs would be lost.
_TEXTS: tuple[type, ...] = (np.str_, np.bytes_)

Spec = str | list[Any]


@lru_cache(maxsize=256)
def describe(dtype: np.dtype[Any]) -> Spec:
    """Return the stored form of a dtype.

    Raises:
        ValidationError: it holds objects or pointers, or another library defined it.
    """
    try:
        spec = _describe(dtype, 0)
        if rebuild(spec) == dtype:
            return spec
    except (CorruptError, TypeError, ValueError):
        pass  # no numpy dtype of its own: another library's
    raise _refusal(dtype)


def _describe(dtype: np.dtype[Any], depth: int) -> Spec:
    if depth > _DEEPEST or dtype.hasobject or dtype.kind not in "biufcmMSUV":
        raise _refusal(dtype)
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return ["array", _describe(base, depth + 1), *shape]
    if dtype.fields is None:
        if np.dtype(dtype.str).kind != dtype.kind or (dtype.kind == "V" and dtype.type is not np.void):
            raise _refusal(dtype)
        return dtype.str
    if dtype.type is not np.void:
        raise _refusal(dtype)
    fields: list[Any] = []
    for name in dtype.names or ():
        kind, offset, *title = dtype.fields[name]
        if title and type(title[0]) is not str:
            raise _refusal(dtype)
        fields += [name, int(offset), _describe(kind, depth + 1), title[0] if title else None]
    return ["fields", dtype.itemsize, dtype.isalignedstruct, *fields]


def _refusal(dtype: np.dtype[Any]) -> ValidationError:
    return ValidationError(
        f"has the numpy dtype {str(dtype)[:80]}, which can't be stored faithfully",
        hint="objects and pointers aren't stored: convert it, or store .tolist()",
    )


def rebuild(spec: Any, depth: int = 0) -> np.dtype[Any]:
    """Return the dtype that :func:`describe` described.

    Raises:
        CorruptError: it is no such description.
    """
    if type(spec) is str and _SIMPLE.fullmatch(spec):
        return np.dtype(spec)
    if type(spec) is list and spec and depth <= _DEEPEST:
        if spec[0] == "array":
            return np.dtype((rebuild(spec[1], depth + 1), tuple(map(_size, spec[2:]))))
        if spec[0] == "fields" and len(spec) % 4 == 3:
            return _rebuild_fields(spec, depth)
    raise CorruptError("a stored numpy dtype is damaged")


def _rebuild_fields(spec: list[Any], depth: int) -> np.dtype[Any]:
    parts: dict[str, Any] = {
        "names": spec[3::4],
        "offsets": list(map(_size, spec[4::4])),
        "formats": [rebuild(kind, depth + 1) for kind in spec[5::4]],
        "itemsize": _size(spec[1]),
    }
    if any(title is not None for title in spec[6::4]):
        parts["titles"] = spec[6::4]
    dtype: np.dtype[Any] = np.dtype(parts, align=bool(spec[2]))  # type: ignore[call-overload]
    return dtype


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise CorruptError("a stored numpy shape is damaged")
    return value


class Buffers:
    """The arrays' bytes of one value: gathered while it is packed, each at the next aligned offset."""

    __slots__ = ("parts", "size")

    def __init__(self) -> None:
        self.parts: list[Any] = []
        self.size = 0

    def add(self, data: Any, size: int) -> int:
        """Append bytes and return where they lie."""
        gap = -self.size % ALIGNMENT
        if gap:
            self.parts.append(bytes(gap))
        offset = self.size + gap
        self.parts.append(data)
        self.size = offset + size
        return offset


def dump_array(array: np.ndarray[Any, Any], buffers: Buffers) -> list[Any]:
    """Return an array as a tagged list; its bytes go to ``buffers``, without a copy where it is contiguous."""
    spec = describe(array.dtype)
    if array.dtype.fields is not None:
        array = _without_padding(array)
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    # uint8, because numpy exports neither datetime64 nor text through the buffer protocol.
    flat = np.ascontiguousarray(array.T if fortran else array).reshape(-1)
    data: Any = flat.view(np.uint8) if flat.nbytes else b""
    return [ARRAY, spec, fortran, buffers.add(data, flat.nbytes), *array.shape]


def load_array(items: list[Any], data: memoryview) -> np.ndarray[Any, Any]:
    """Return an array as a view of ``data``.

    Raises:
        CorruptError: its bytes aren't all there.
    """
    _, spec, fortran, offset, *shape = items
    dtype = rebuild(spec)
    size = dtype.itemsize * math.prod(map(_size, shape))
    if type(fortran) is not bool or _size(offset) + size > len(data):
        raise CorruptError("a stored numpy array is damaged")
    order = "F" if fortran else "C"
    array: np.ndarray[Any, Any] = np.ndarray(shape, dtype, data[offset : offset + size], order=order)  # type: ignore[arg-type]
    return array


def dump_scalar(value: np.generic) -> list[Any]:
    """Return a numpy scalar as a tagged list."""
    spec = describe(value.dtype)
    if rebuild(spec).type is not type(value):
        raise ValidationError(
            f"is a numpy.{type(value).__name__}, which has another size elsewhere",
            hint="use a type with a fixed size, such as numpy.int64",
        )
    data = _without_padding(np.asarray(value)) if value.dtype.fields is not None else value
    return [SCALAR, spec, data.tobytes()]


def _without_padding(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a copy whose bytes between fields are zero: numpy leaves there whatever the memory held before."""
    # Not zeros_like, which sets the fields to zero and leaves what is between them.
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    clean = np.zeros(array.shape, array.dtype, order="F" if fortran else "C")
    _copy_fields(array, clean)
    return clean


def _copy_fields(source: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    # One by one: a copy of the whole, from numpy 2.5 on, takes along what is between them.
    for name in source.dtype.names or ():
        if source.dtype[name].base.fields is None:
            target[name] = source[name]
        else:
            _copy_fields(source[name], target[name])


def load_scalar(items: list[Any]) -> np.generic:
    """Return the numpy scalar of a tagged list."""
    _, spec, data = items
    dtype = rebuild(spec)
    if type(data) is not bytes or len(data) != dtype.itemsize:
        raise CorruptError("a stored numpy scalar is damaged")
    # The copy is for structured scalars, which are views of the array that they come from.
    array: Any = np.ndarray((), dtype, data)
    scalar: np.generic = array.copy()[()]
    return scalar


def _dump_str(value: np.str_) -> list[Any]:
    return [TEXT, str.__str__(value)]


def _dump_bytes(value: np.bytes_) -> list[Any]:
    return [TEXT, bytes.__getitem__(value, slice(None))]


def load_text(items: list[Any]) -> np.generic:
    """Return the ``numpy.str_`` or ``numpy.bytes_`` of a tagged list."""
    _, text = items
    if type(text) is str:
        return np.str_(text)
    if type(text) is bytes:
        return np.bytes_(text)
    raise CorruptError("a stored numpy text is damaged")


SCALAR_DUMPS: dict[type, Callable[[Any], list[Any]]] = {
    kind: dump_scalar
    for char in np.typecodes["All"]
    if not issubclass(kind := np.dtype(char).type, (np.object_, *_TEXTS))
}
SCALAR_DUMPS[np.str_] = _dump_str
SCALAR_DUMPS[np.bytes_] = _dump_bytes

"""How one value becomes bytes: msgpack's packer, a hook for what it doesn't know, and a search for what it mistakes."""

from __future__ import annotations

from collections import defaultdict
from gc import get_referents
from types import BuiltinFunctionType, CoroutineType, FunctionType, GeneratorType, MethodType, ModuleType
from typing import Any

import msgpack
import numpy as np
from msgpack import ExtType, Timestamp

from checkpoint import arrays, codecs
from checkpoint.codecs import ByteArray, type_name
from checkpoint.registry import Registry
from persistence.errors import ValidationError

FORMAT = 1
# Flags, the second byte.
TAGGED = 1
BUFFERS = 2

ATOMS = frozenset((str, int, float, bool, type(None), bytes))
NATIVE = frozenset((dict, list))
PLAIN = ATOMS | NATIVE
_CODE = (
    BuiltinFunctionType,
    CoroutineType,
    FunctionType,
    GeneratorType,
    MethodType,
    ModuleType,
)
# msgpack packs these without asking, as bytes or as extensions, however strict its types are.
TAKEN_SILENTLY = frozenset((bytearray, memoryview, ExtType, Timestamp))
# With which byte those begin: a packed value that has none of them anywhere holds none of those types.
_MARKERS = (*range(0xC4, 0xCA), *range(0xD4, 0xD9))


class Packing:
    """One value on its way to bytes."""

    __slots__ = ("_buffers", "_flags", "_keep_bytearrays", "_opened", "_registry")

    def __init__(self, registry: Registry, *, keep_bytearrays: bool = False) -> None:
        self._registry = registry
        self._keep_bytearrays = keep_bytearrays
        # Containers that were packed as tagged lists: the search for silently taken types goes on inside them.
        self._opened: list[Any] = []
        self._buffers = arrays.Buffers()
        self._flags = 0

    def pack(self, value: Any, errors: str | None) -> bytes:
        """Return a value in format 1; ``errors`` is how texts that aren't UTF-8 are encoded."""
        packer = msgpack.Packer(
            default=self._default, strict_types=True, autoreset=False, buf_size=1024, unicode_errors=errors
        )
        # The list around it, whose byte is dropped, makes the packer's limit of levels the unpacker's.
        packer.pack([_with_bytearrays(value) if self._keep_bytearrays else value])
        with memoryview(packer) as whole, whole[1:] as body:
            if not self._flags & BUFFERS:
                return b"".join((bytes((FORMAT, self._flags)), body))
            head = bytes((FORMAT, self._flags)) + len(body).to_bytes(8, "little")
            gap = bytes(-(len(head) + len(body)) % arrays.ALIGNMENT)
            return b"".join((head, body, gap, *self._buffers.parts))

    def _default(self, value: Any) -> Any:
        kind = type(value)
        scalar = codecs.SCALAR_DUMPS.get(kind)
        if scalar is not None:
            return scalar(value)
        items = self.open(value, kind)
        return [items[0], *_with_bytearrays(items[1:])] if self._keep_bytearrays else items

    def open(self, value: Any, kind: type) -> list[Any]:
        """Return a container, array or registered instance as a tagged list.

        Raises:
            ValidationError: it can't be stored.
        """
        self._flags |= TAGGED
        container = codecs.CONTAINER_DUMPS.get(kind)
        if container is not None:
            self._opened.append(value)
            return container(value)
        entry = self._registry.by_type.get(kind)
        if entry is not None:
            items = entry.dump(value)
            self._opened.append(items[1:])
            return items
        if kind is np.ndarray:
            self._flags |= BUFFERS
            return arrays.dump_array(value, self._buffers)
        numpy_scalar = arrays.SCALAR_DUMPS.get(kind)
        if numpy_scalar is not None:
            return numpy_scalar(value)
        if kind is defaultdict:
            self._opened.append(value)
            return [codecs.DEFAULT_DICT, self._factory(value.default_factory), *codecs.pairs(value.items())]
        raise _unknown(value)

    def _factory(self, factory: Any) -> str | None:
        if factory is None:
            return None
        if isinstance(factory, type):
            name = codecs.FACTORY_NAMES.get(factory)
            if name is not None:
                return f"={name}"
            entry = self._registry.by_type.get(factory)
            if entry is not None:
                return f"@{entry.name}"
        raise ValidationError(
            "is a defaultdict whose factory is neither a builtin type nor registered", hint="dict(value) is stored"
        )

    def took_silently(self, value: Any, packed: bytes) -> bool:
        """Return whether a bytearray was packed as bytes.

        Raises:
            ValidationError: something else was packed that is no value.
        """
        if not (self._flags & BUFFERS or has_marker(packed)):
            return False
        # What was packed is finite and without cycles, so level follows level until nothing native is left.
        level = [value]
        if self._opened:
            level += get_referents(*self._opened)
        found = False
        while level:
            kinds = set(map(type, level))
            silent = kinds & TAKEN_SILENTLY
            if silent:
                if silent != {bytearray}:
                    raise ValidationError("holds a view or a msgpack extension")
                found = True
            if kinds.isdisjoint(NATIVE):
                break
            if not kinds <= PLAIN:
                # The referents of anything else, an instance's class say, are no part of the value.
                level = [item for item in level if type(item) in NATIVE]
            level = get_referents(*level)
        return found


def has_marker(packed: bytes) -> bool:
    """Tell whether a byte occurs with which msgpack begins what it packs silently, or one that looks the same."""
    # Eleven searches for one byte take a quarter of a microsecond; any(), or a regular expression, ten times as long.
    for marker in _MARKERS:  # noqa: SIM110
        if marker in packed:
            return True
    return False


def _with_bytearrays(value: Any) -> Any:
    """Return a value with every bytearray in its lists and dicts marked as one."""
    holder = [value]
    todo: list[tuple[Any, Any, Any]] = [(value, holder, 0)]
    while todo:
        item, parent, key = todo.pop()
        kind = type(item)
        copy: Any
        if kind is bytearray:
            parent[key] = ByteArray(item)
        elif kind is list:
            parent[key] = copy = list(item)
            todo += [(part, copy, index) for index, part in enumerate(item)]
        elif kind is dict:
            parent[key] = copy = dict(item)
            todo += [(part, copy, name) for name, part in item.items()]
    return holder[0]


def _unknown(value: Any) -> ValidationError:
    """Return the error for a value whose type isn't stored; the path is put before its message."""
    kind = type(value)
    if isinstance(value, type):
        return ValidationError(f"is a class, {type_name(value)}", hint="store its name, or an instance of it")
    if isinstance(value, memoryview):
        return ValidationError("is a memoryview, which is a view of something else", hint="bytes(value)")
    if kind in TAKEN_SILENTLY:
        return ValidationError(f"is a {type_name(kind)}, which is no value", hint="store what it stands for")
    if isinstance(value, np.ndarray):
        return ValidationError(f"is a {type_name(kind)}", hint="numpy.asarray(value), or register() the class")
    if isinstance(value, _CODE):
        return ValidationError(f"is a {type_name(kind)}, which is no value", hint="store what it gives, or its name")
    return ValidationError(
        f"is a {type_name(kind)}, which isn't registered",
        hint=f"Serializer().register({kind.__name__}) allows it to be stored; give the store that serializer=",
    )

"""Values as bytes and back, exactly and safely: what a state may hold, and the format in which it is kept.

Format 1 is ``01``, a byte of flags, and one msgpack value: ``TAGGED`` says that it has containers or classes of ours
(codecs.py, registry.py); ``BUFFERS`` that eight bytes with the length of the msgpack value follow, and after it, at the
next multiple of 16, the bytes of numpy arrays (arrays.py). Old formats stay readable for ever; a new one takes a new
first byte.

Plain states, made of dict, list, str, int, float, bool, None and bytes, are packed and unpacked by msgpack's C code
alone. Three things need care around it. Its packer takes a few types silently for others (packing.py), so what was
packed is searched for them, level by level in C, when the output has a byte that they would have caused. Its unpacker
allocates by declared lengths, so the structure is walked once without allocating (unpacking.py). And everything that
nests goes through its one loop, which stops at 1,024 levels: nothing here recurses, and no input can exhaust the stack.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar, overload

import numpy as np

from checkpoint import arrays, codecs
from checkpoint.packing import ATOMS, BUFFERS, FORMAT, PLAIN, TAGGED, TAKEN_SILENTLY, Packing
from checkpoint.refusals import explain
from checkpoint.registry import Registry
from checkpoint.unpacking import Unpacking, check_structure, unpack_plain
from persistence.errors import CorruptError, PersistenceError, ValidationError

Cls = TypeVar("Cls", bound=type)

_KNOWN = PLAIN | TAKEN_SILENTLY | codecs.SCALAR_DUMPS.keys() | codecs.CONTAINER_DUMPS.keys()
_KNOWN |= arrays.SCALAR_DUMPS.keys() | {np.ndarray, defaultdict}


class Serializer:
    """Turns values into bytes and back: equal, of the same types, and never running what the bytes say.

    Stored as they are: None, bool, int of any size, float (NaN, infinities, -0.0), complex, str (with NUL and lone
    surrogates), bytes, bytearray, list, tuple, set, frozenset, dict (any of these as keys, order kept), OrderedDict,
    defaultdict of a builtin or registered factory, Counter, deque, range, slice, datetime, date, time, timedelta,
    timezone, ZoneInfo, Decimal, UUID, paths, numpy arrays and scalars without objects. Enums, dataclasses, pydantic
    models, named tuples, subclasses of builtin types and whatever has ``to_state``/``from_state`` are stored once
    registered; anything else is refused. An object met twice becomes two equal ones.

    One serializer may be used by many threads; register before that.
    """

    def __init__(self) -> None:
        self._registry = Registry()

    @overload
    def register(
        self,
        cls: Cls,
        name: str | None = None,
        to_state: Callable[[Any], Any] | None = None,
        from_state: Callable[[Any], Any] | None = None,
        *,
        aliases: Iterable[str] = (),
    ) -> Cls: ...
    @overload
    def register(
        self,
        cls: None = None,
        name: str | None = None,
        to_state: Callable[[Any], Any] | None = None,
        from_state: Callable[[Any], Any] | None = None,
        *,
        aliases: Iterable[str] = (),
    ) -> Callable[[Cls], Cls]: ...
    def register(
        self,
        cls: type | None = None,
        name: str | None = None,
        to_state: Callable[[Any], Any] | None = None,
        from_state: Callable[[Any], Any] | None = None,
        *,
        aliases: Iterable[str] = (),
    ) -> Any:
        """Allow a class to be stored, and return it; without ``cls``, return a decorator.

        ``name`` is what the bytes say, by default ``module:qualname``; a class that moved or was renamed lists its old
        names in ``aliases``, which are read and no longer written. ``to_state`` returns what is stored for an instance,
        made of anything storable; ``from_state`` gets that, or the dict of a class's fields, and returns the instance.
        Without them an instance is restored field by field, without ``__init__`` and without validation; a field that
        the bytes lack gets its default. A subclass is another class and is registered by itself.

        Raises:
            ValidationError: it is of a kind that needs ``to_state`` and ``from_state``.
            DuplicateError: another class has the name.
        """
        if cls is None:
            return lambda decorated: self.register(decorated, name, to_state, from_state, aliases=aliases)
        if not isinstance(cls, type):
            raise ValidationError(f"register() takes a class, not a {type(cls).__name__}")
        if cls in _KNOWN:
            raise ValidationError(f"{codecs.type_name(cls)} needs no registering, and can't be stored in another way")
        self._registry.add(cls, name, aliases, to_state, from_state)
        return cls

    def dumps(self, value: Any, *, where: str = "state") -> bytes:
        """Return a value as bytes.

        The same value gives the same bytes in every process, sets of mixed types aside. ``where`` is what errors call
        the value, as in ``state['messages'][3].tool``.

        Raises:
            ValidationError: something inside is of an unknown type, or contains itself, or lies deeper than 1,000
                levels; the message says what and where.
        """
        try:
            try:
                return self._dumps(value, None)
            except UnicodeEncodeError:
                # Lone surrogates; the handler isn't the default because it makes a copy of every text.
                return self._dumps(value, "surrogatepass")
        except MemoryError:
            raise
        except Exception as exc:
            raise explain(value, where, self._registry, exc) from (
                exc.__cause__ if isinstance(exc, PersistenceError) else exc
            )

    def _dumps(self, value: Any, errors: str | None) -> bytes:
        packing = Packing(self._registry)
        packed = packing.pack(value, errors)
        if packing.took_silently(value, packed):
            packing = Packing(self._registry, keep_bytearrays=True)
            packed = packing.pack(value, errors)
        return packed

    def loads(self, data: bytes | bytearray | memoryview) -> Any:
        """Return the value that :meth:`dumps` made bytes of.

        Numpy arrays are read-only views of ``data``, so an array keeps it alive; ``.copy()`` is writable. Mutable
        ``data`` is copied first.

        Raises:
            CorruptError: these aren't such bytes, or a class among them isn't registered or no longer fits.
        """
        try:
            return self._loads(data)
        except (CorruptError, MemoryError):
            raise
        except Exception as exc:
            raise CorruptError(f"the stored value is damaged: {type(exc).__name__} while reading it") from exc

    def read_back(self, data: bytes) -> Any:
        """Return the value of bytes that this process made, or has read before.

        What :meth:`loads` checks of the bytes isn't checked anew.
        """
        return self.loads(data) if data[1] else unpack_plain(memoryview(data)[2:])

    def reader(self, data: bytes) -> Reader:
        """Return a reader of a value that is wanted more than once."""
        return Reader(self, data)

    def _loads(self, data: bytes | bytearray | memoryview) -> Any:
        view = memoryview(data)
        view = view.cast("B") if view.readonly and view.c_contiguous else memoryview(view.tobytes())
        if len(view) < 3:
            raise CorruptError(f"the stored value is cut off: it has {len(view)} bytes")
        if view[0] != FORMAT or view[1] & ~(TAGGED | BUFFERS):
            raise CorruptError(
                f"the stored value begins with {bytes(view[:2]).hex()}, which is no format known here",
                hint="it was written by something else, or by a newer version",
            )
        body, buffers = view[2:], view[:0]
        if view[1] & BUFFERS:
            end = 10 + int.from_bytes(view[2:10], "little")
            if end > len(view):
                raise CorruptError("the stored value is cut off")
            body, buffers = view[10:end], view[end + -end % arrays.ALIGNMENT :]
        check_structure(body)
        if not view[1] & TAGGED:
            return unpack_plain(body)
        return Unpacking(self._registry, buffers).unpack(body)


class Reader:
    """Stored bytes of which ``read()`` makes a value, the caller's own each time.

    What :meth:`Serializer.loads` checks of the bytes is checked the first time only, and a value that can't be changed
    is the same object each time.
    """

    __slots__ = ("_data", "_serializer", "read")

    def __init__(self, serializer: Serializer, data: bytes) -> None:
        self._serializer = serializer
        self._data = data
        self.read: Callable[[], Any] = self._read_first

    def _read_first(self) -> Any:
        value = self._serializer.loads(self._data)
        if type(value) in ATOMS:
            self.read = lambda: value
        elif not self._data[1]:
            self.read = self._read_again
        else:
            self.read = partial(self._serializer.loads, self._data)
        return value

    def _read_again(self) -> Any:
        value = unpack_plain(memoryview(self._data)[2:])
        copies = _copier(value)
        if copies is None:
            self.read = partial(unpack_plain, memoryview(self._data)[2:])
            return value
        self.read = copies
        return copies()


def _copier(value: Any) -> Callable[[], Any] | None:
    """Return what makes copies of a value of few levels, in which texts are shared; None for any other."""
    if _is_flat(value):
        copies: Callable[[], Any] = value.copy
        return copies
    if type(value) is list and all(map(_is_flat, value)):
        return lambda: [each.copy() for each in value]
    return None


def _is_flat(value: object) -> bool:
    """Tell whether it is a list or a dict of nothing that can be changed."""
    if type(value) is dict:
        return ATOMS.issuperset(map(type, value.values()))
    return type(value) is list and ATOMS.issuperset(map(type, value))

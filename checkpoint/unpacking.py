"""How bytes become a value: msgpack's unpacker behind a check of the structure, and hooks for what it doesn't know."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import msgpack

from checkpoint import arrays, codecs
from checkpoint.registry import TAGS as CLASS_TAGS
from checkpoint.registry import Registry
from persistence.errors import CorruptError


def check_structure(body: memoryview) -> None:
    """Walk a msgpack value without making anything of it.

    A list is allocated by its declared length before its items are seen, once a level: without this, a few bytes could
    claim gigabytes.

    Raises:
        CorruptError: it is cut off, too deep, malformed or followed by something.
    """
    walker = msgpack.Unpacker(None, max_buffer_size=len(body))
    walker.feed(body)
    try:
        walker.skip()
    except (msgpack.UnpackException, ValueError) as exc:
        raise CorruptError(f"the stored value is cut off or damaged ({type(exc).__name__})") from None
    if walker.tell() != len(body):
        raise CorruptError(f"the stored value is followed by {len(body) - walker.tell()} bytes that aren't part of it")


def load_scalar(code: int, data: bytes) -> Any:
    """Return the value of an extension that is no tag.

    Raises:
        CorruptError: there is no such extension.
    """
    load = codecs.SCALAR_LOADS.get(code)
    if load is None:
        raise CorruptError(f"the stored value has a part of an unknown kind ({code})", hint="update this program")
    return load(data)


def unpack_plain(body: memoryview) -> Any:
    """Return the value of bytes whose structure was checked and that hold no tag."""
    return msgpack.unpackb(body, ext_hook=load_scalar, strict_map_key=False, unicode_errors="surrogatepass")


class _Tag:
    """The first item of a tagged list while it is unpacked."""

    __slots__ = ("code", "load")

    def __init__(self, code: int) -> None:
        self.code = code
        self.load = codecs.CONTAINER_LOADS.get(code)


_TAGS = {code: _Tag(code) for code in range(codecs.FIRST_TAG, 128)}


class Unpacking:
    """One tagged value on its way back; inner lists are complete before outer ones."""

    __slots__ = ("_astray", "_buffers", "_registry")

    def __init__(self, registry: Registry, buffers: memoryview) -> None:
        self._registry = registry
        self._buffers = buffers
        # Tags seen, less those that were a list's first item.
        self._astray = 0

    def unpack(self, body: memoryview) -> Any:
        """Return the value.

        Raises:
            CorruptError: a tag is where none can be. Other exceptions mean damage too.
        """
        value = msgpack.unpackb(
            body, ext_hook=self._extension, list_hook=self._list, strict_map_key=False, unicode_errors="surrogatepass"
        )
        if self._astray:
            raise CorruptError("the stored value has a tag that is no list's first item")
        return value

    def _extension(self, code: int, data: bytes) -> Any:
        if code >= codecs.FIRST_TAG:
            self._astray += 1
            return _TAGS[code]
        return load_scalar(code, data)

    def _list(self, items: list[Any]) -> Any:
        if not items or type(items[0]) is not _Tag:
            return items
        self._astray -= 1
        tag = items[0]
        if tag.load is not None:
            return tag.load(items)
        code = tag.code
        if code in CLASS_TAGS:
            return self._registry.load(items)
        if code == arrays.ARRAY.code:
            return arrays.load_array(items, self._buffers)
        if code == arrays.SCALAR.code:
            return arrays.load_scalar(items)
        if code == arrays.TEXT.code:
            return arrays.load_text(items)
        if code == codecs.DEFAULT_DICT.code:
            return self._defaultdict(items)
        raise CorruptError(f"the stored value has a part of an unknown kind ({code})", hint="update this program")

    def _defaultdict(self, items: list[Any]) -> defaultdict[Any, Any]:
        stored = items[1]
        factory: Callable[[], Any] | None = None
        if stored is not None:
            is_builtin = stored[0] == "="
            factory = codecs.FACTORIES[stored[1:]] if is_builtin else self._registry.named(stored[1:]).cls
        return defaultdict(factory, codecs.unpair(items, 2))

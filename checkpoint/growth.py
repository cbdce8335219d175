"""What a channel's next value shares with what is stored of it: nothing, everything, or its beginning.

A value's serialized bytes are a head (the format, the flags, msgpack's type and length) and a body. A list that grew by
its tail has a body that begins with the old one; so have a text, bytes or a dict that got more at the end. Such a
channel is kept in parts, whose bodies end to end are its body: the parts whose bytes are still there stay, and the rest
becomes a new part. Nothing is believed of the objects: the value is packed anew, and its bytes are compared.

Parts are merged in tiers, each eight times as large as the one before, as in a log-structured merge tree: as soon as
eight of the last ones are of no higher tier than the very last, they become one. So a body of n tails is in at most
7·log8(n) parts, and each byte is stored log8(n) times at most.
"""

from __future__ import annotations

import threading
from typing import Any, NamedTuple

import msgpack

from checkpoint.packing import BUFFERS, FORMAT, TAGGED, has_marker
from checkpoint.serializer import Serializer
from persistence.errors import ValidationError

INLINE_BYTES = 32
"""A channel whose bytes are no longer than this is kept in the manifest: a piece would take as much."""
VOLATILE_BYTES = 4096
"""So is one up to this that is said to change with every save: no later version would refer to its piece."""
MERGED = 8
"""How many parts of a tier become one."""
MOST_PARTS = 64
"""Beyond this all parts become one, whatever their tiers."""
SMALL_BITS = 9
"""Parts of less than 2**9 bytes are of the lowest tier."""
SHARED_BYTES = 64
"""A beginning that is no longer than this is stored again: a part costs as much."""

UNKNOWN = object()
"""The source of a channel that was made of an object which may change."""
_SOURCES = frozenset((str, bytes, int, float, bool, type(None)))
_PREFIX = bytes((FORMAT, 0))
_PLAIN, _TAGGED = b"\0", bytes((TAGGED,))
_EXTENSIONS = frozenset(bytes((first,)) for first in (*range(0xC7, 0xCA), *range(0xD4, 0xD9)))
_CONTAINERS = frozenset((dict, list))
_SMALL = 16 * 1024
_KEEP_BUFFER = 4 * 1024 * 1024
# The bytes that msgpack's types with a length in bytes of their own take: bin, ext, str, array, map.
_HEADERS = {0xC4: 2, 0xC5: 3, 0xC6: 5, 0xD9: 2, 0xDA: 3, 0xDB: 5, 0xDC: 3, 0xDD: 5, 0xDE: 3, 0xDF: 5}


class Part:
    """A piece of a channel: its content, and its name, empty until it has been packed."""

    __slots__ = ("content", "name")

    def __init__(self, content: bytes, name: bytes = b"") -> None:
        self.content = content
        self.name = name


class Stored(NamedTuple):
    """A channel as it is stored.

    Its bytes are ``head``, the content of the first part from ``skip`` on, and that of all the others; without parts
    it lies in the manifest and ``head`` is all of it. ``source`` is the object that it was made of, if that is of a
    type whose objects never change: meeting it again is knowing its bytes. ``quiet`` tells whether equal bytes are
    proof of an equal value without looking at its types (None: not looked at yet): see ``_is_quiet``.
    """

    head: bytes
    skip: int
    parts: tuple[Part, ...]
    source: object
    quiet: bool | None
    is_whole: bool
    """Whether there is one part, which holds the head as well."""
    size: int
    """How much memory it takes, about."""

    def content(self) -> bytes:
        """Return the channel's serialized bytes."""
        if not self.parts:
            return self.head
        if self.is_whole:
            return self.parts[0].content
        return b"".join((self.head, *self.bodies()))

    def bodies(self) -> list[memoryview]:
        """Return what of each part belongs to the body."""
        return [memoryview(part.content)[0 if place else self.skip :] for place, part in enumerate(self.parts)]


def source_of(value: object) -> object:
    """Return the object if it is of a type whose objects never change, and something that nothing is otherwise."""
    return value if type(value) in _SOURCES else UNKNOWN


def as_stored(
    content: bytes,
    value: object,
    part: Part | None = None,
    *,
    inline: int = INLINE_BYTES,
    quiet: bool | None = None,
) -> Stored:
    """Return a channel that shares nothing; ``part`` is the piece that its bytes are, where there is one.

    Bytes no longer than ``inline`` are kept in the manifest.
    """
    source = source_of(value)
    size = len(content)
    if quiet is None and size <= _SMALL:
        quiet = size > 2 and content[1] == 0 and not has_marker(content)
    if part is None and size <= inline:
        return Stored(content, 0, (), source, quiet, False, 512 + size)
    head = b"" if size < 3 or content[1] & BUFFERS else content[: 2 + _header_size(content[2])]
    takes = 512 + (size if source is UNKNOWN else 2 * size)
    return Stored(head, len(head), (part or Part(content),), source, quiet, True, takes)


def in_parts(head: bytes, skip: int, parts: tuple[Part, ...], value: object, quiet: bool | None = None) -> Stored:
    """Return a channel in these parts; without any it is all head."""
    is_whole = len(parts) == 1 and skip == len(head) and parts[0].content.startswith(head)
    source = source_of(value)
    size = sum([len(part.content) + 128 for part in parts])
    return Stored(head, skip, parts, source, quiet, is_whole, 512 + (size if source is UNKNOWN else 2 * size))


def with_source(stored: Stored, value: object) -> Stored:
    """Return the channel as made of another object with the same bytes."""
    source = source_of(value)
    return stored if source is stored.source else stored._replace(source=source)


def store(
    value: Any, before: Stored | None, serializer: Serializer, channel: str, inline: int = INLINE_BYTES
) -> Stored:
    """Return how a channel's value is stored, in parts of ``before`` as far as they are its bytes.

    ``before`` itself is returned when it is those bytes, made of the same object. A value that shares nothing and is no
    longer than ``inline`` is kept in the manifest.

    Raises:
        ValidationError: it can't be stored faithfully.
    """
    if before is not None and type(value) in _CONTAINERS:
        if before.quiet is None and before.parts:
            before = before._replace(quiet=_is_quiet(before))
        if before.quiet:
            small = _is_small(before)
            found = _store_small(value, before, inline) if small else _store_quietly(value, before)
            if found is not None:
                return found
    content = _dump_plain(value) or serializer.dumps(value, where=place_of(channel))
    if before is None:
        return as_stored(content, value, inline=inline)
    if not before.head or not before.parts or content[1] & BUFFERS:
        same = content == before.content()
        return with_source(before, value) if same else as_stored(content, value, inline=inline)
    with memoryview(content)[2:] as packed:
        # What is new may have such bytes, or be of other types than what had no such bytes.
        found = _share(before, content[:2], packed, value, quiet=None if before.quiet else before.quiet)
    return found or as_stored(content, value, inline=inline)


def place_of(channel: str) -> str:
    """Return how messages name a channel's value."""
    return f"state[{channel[:80]!r}]"


def store_packed(value: object, packed: bytes, before: Stored) -> Stored | None:
    """Return how a value is stored that has changed and that msgpack alone packs so; None: store() must look at it."""
    if has_marker(packed):
        return None  # it may be of another type
    if before.is_whole:
        body = memoryview(before.parts[0].content)[before.skip :]
        if len(body) >= SHARED_BYTES and packed.startswith(body, _header_size(packed[0])):
            return None  # it has grown
    return as_stored(_PREFIX + packed, value, quiet=True)


def store_appended(value: object, count: int, before: Stored, serializer: Serializer) -> Stored | None:
    """Return how a list is stored that is ``before`` and ``count`` more items; None: store() must look at all of it.

    What ``before`` holds isn't compared, but for how many items that is.
    """
    if type(value) is not list or not before.parts or before.head[1:2] not in (_PLAIN, _TAGGED):
        return None
    held = _array_length(before.head)
    if held is None or held + count != len(value) or before.bodies()[0][:1].tobytes() in _EXTENSIONS:
        return None  # a list of its own kind begins with a tag, and so has an item more
    if not count:
        return before
    added = value[held:]
    try:
        content = _dump_plain(added) or serializer.dumps(added)
    except ValidationError:
        return None  # store() says where it is
    if content[1] & BUFFERS:
        return None
    head = bytes((FORMAT, before.head[1] | content[1])) + array_header(len(value))
    parts, skip = _with_tail([*before.parts], before.skip, content[2 + _header_size(content[2]) :])
    quiet = before.quiet if content[1] == 0 and not has_marker(content) else False
    return in_parts(head, skip, tuple(parts), value, quiet)


def array_header(count: int) -> bytes:
    """Return what msgpack begins a list of so many items with."""
    packed: bytes = msgpack.Packer().pack_array_header(count)
    return packed


def _array_length(head: bytes) -> int | None:
    """Return how many items a list has whose bytes begin so; None: it is no list."""
    if 0x90 <= head[2] <= 0x9F:
        return head[2] & 0x0F
    return int.from_bytes(head[3:], "big") if head[2] in (0xDC, 0xDD) else None


class _Local(threading.local):
    """The packers of a thread, whose buffers are used again and again; without a hook they refuse what isn't plain."""

    def __init__(self) -> None:
        self.packer = msgpack.Packer(strict_types=True, autoreset=False)
        self.small = msgpack.Packer(strict_types=True)


_local = _Local()
_NOT_PLAIN = (TypeError, ValueError, OverflowError, RuntimeError)
"""What msgpack raises of a value that it doesn't know, that is too large or too deep, or that changes meanwhile."""


def _is_small(stored: Stored) -> bool:
    """Tell whether it is one small piece, or lies in the manifest."""
    return not stored.parts or (stored.is_whole and len(stored.parts[0].content) <= _SMALL)


def pack_plain(value: object) -> bytes | None:
    """Return a value as msgpack alone packs it; None where the serializer has to, or has to say what is wrong."""
    try:
        packed: bytes = _local.small.pack(value)
    except _NOT_PLAIN:
        return None
    return packed


def _dump_plain(value: object) -> bytes | None:
    """Return what the serializer would of a value that msgpack alone packs; None where that can't be told at once."""
    packed = pack_plain([value])
    return None if packed is None or has_marker(packed) else _PREFIX + packed[1:]


def _store_small(value: Any, before: Stored, inline: int) -> Stored | None:
    """Do what ``store`` does for a small list or dict in the fewest steps; None where that can't be told."""
    packed = pack_plain([value])  # in a list, as in Packing.pack
    if packed is None:
        return None
    content = before.parts[0].content if before.parts else before.head
    if len(packed) + 1 == len(content) and content.startswith(packed[1:], len(_PREFIX)):
        return before
    if has_marker(packed):
        return None
    if before.parts:
        start = 1 + _header_size(packed[1])
        if packed.startswith(content[before.skip : before.skip + SHARED_BYTES], start):  # or they share too little
            with memoryview(packed)[1:] as body:
                found = _share(before, _PREFIX, body, value, quiet=True)
            if found is not None:
                return found
    return as_stored(_PREFIX + packed[1:], value, inline=inline, quiet=True)


def _store_quietly(value: Any, before: Stored) -> Stored | None:
    """Do what ``store`` does without making bytes of what is there already; None where that can't be told."""
    packer = _local.packer
    try:
        packer.pack([value])  # in a list, as in Packing.pack
    except _NOT_PLAIN:
        packer.reset()
        return None  # the serializer knows more types, or says what is wrong
    with memoryview(packer) as whole, whole[1:] as packed:
        size = len(whole)
        content = before.parts[0].content
        if before.is_whole and len(content) == size + 1 and content.startswith(packed, len(_PREFIX)):
            found: Stored | None = before
        else:
            found = _share(before, _PREFIX, packed, value, quiet=True)
    if size > _KEEP_BUFFER:
        _local.packer = msgpack.Packer(strict_types=True, autoreset=False)
    else:
        packer.reset()
    return found if found is None or found is before or not has_marker(_added(before, found)) else None


def _added(before: Stored, found: Stored) -> bytes:
    """Return the bytes that are new in ``found``, at least."""
    shared = len(before.parts)
    while found.parts[:shared] != before.parts[:shared]:
        shared -= 1
    return b"".join([part.content for part in found.parts[shared:]])


def _is_quiet(stored: Stored) -> bool:
    """Tell whether the bytes have none of those with which msgpack begins what it takes for something else.

    A bytearray is packed as bytes are, so equal bytes may be another value. Where not even such a byte occurs, there
    is no bytes object to be mistaken for.
    """
    return bool(stored.head) and stored.head[1] == 0 and not any(has_marker(part.content) for part in stored.parts)


def _header_size(first: int) -> int:
    """Return how many bytes msgpack's type and length take in a value that begins with this one."""
    return _HEADERS.get(first, 1)


def _share(before: Stored, prefix: bytes, packed: memoryview, value: object, *, quiet: bool | None) -> Stored | None:
    """Return a channel in the leading parts of ``before`` that are in its bytes; None when it is too little."""
    start = _header_size(packed[0])
    place = start
    kept = 0
    for body in before.bodies():
        end = place + len(body)
        # memoryviews compare byte by byte in C; startswith is one memcmp.
        content = before.parts[kept].content
        if end > len(packed) or not content.startswith(packed[place:end], len(content) - len(body)):
            break
        place = end
        kept += 1
    head = prefix + bytes(packed[:start])
    if kept == len(before.parts) and place == len(packed) and head == before.head:
        return with_source(before, value)
    if place - start < SHARED_BYTES:
        return None
    parts = list(before.parts[:kept])
    skip = before.skip
    if place < len(packed):
        parts, skip = _with_tail(parts, skip, bytes(packed[place:]))
    return in_parts(head, skip, tuple(parts), value, quiet)


def _with_tail(parts: list[Part], skip: int, tail: bytes) -> tuple[list[Part], int]:
    """Return the parts with one more, merged as their tiers ask for, and how much of the first is no body."""
    sizes = [len(part.content) for part in parts]
    sizes[0] -= skip
    sizes.append(len(tail))
    first = len(parts)  # the first part of those that become one
    while True:
        tier = _tier(sum(sizes[first:]))
        run = first
        while run and _tier(sizes[run - 1]) <= tier:
            run -= 1
        count = first - run + 1
        if count < MERGED and first < MOST_PARTS:
            break
        first = run if count >= MERGED else 0
        if not first:
            break
    bodies = [part.content for part in parts[first:]]
    if first == 0:
        bodies[0] = bodies[0][skip:]
        skip = 0
    content = b"".join((*bodies, tail))
    return [*parts[:first], Part(content)], skip


def _tier(size: int) -> int:
    return max(size.bit_length(), SMALL_BITS) // 3

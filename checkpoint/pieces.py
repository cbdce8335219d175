"""How a state becomes stored bytes and back: a manifest, and pieces addressed by their content (docs/formats.md).

Each channel of a state is serialized alone. What is at most ``INLINE_BYTES`` long lies in the manifest; anything else
is a piece, named by the first 16 bytes of its SHA-256, and stored once however many checkpoints hold it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from checkpoint.serializer import Serializer
from persistence.errors import CorruptError, ValidationError

INLINE_BYTES = 32
"""A channel whose bytes are no longer than this is kept in the manifest; a piece of its own costs some 250 bytes."""
HASH_BYTES = 16
MANIFEST_FORMAT = 1
PLAIN = b"\0"
"""The kind of a piece whose bytes follow as they are, the only one until there are compressed ones."""

_HEAD = struct.Struct(">BI")


class Stored(NamedTuple):
    """A channel's serialized bytes, their hash, and the text or bytes object that they were made of, if it was one.

    Such an object never changes, so meeting it again is knowing its bytes.
    """

    content: bytes
    key: bytes
    source: str | bytes | None


class Base(NamedTuple):
    """A checkpoint of a thread as this process saw it last: what a next save need not send.

    ``stamp`` is the head's at that moment; while it is the same nothing was saved to or deleted from the thread.
    ``latest`` is the thread's latest version then, None when not known.
    """

    stamp: int
    latest: int | None
    channels: Mapping[str, Stored]
    hashes: frozenset[bytes]


@dataclass(frozen=True, slots=True)
class Encoded:
    """A state as it is stored; ``refs`` are the hashes end to end, ``pieces`` the serialized bytes by hash."""

    manifest: bytes
    refs: bytes
    pieces: dict[bytes, bytes]
    channels: dict[str, Stored]

    def missing(self, base: Base | None) -> list[bytes]:
        """Return the hashes of the pieces that ``base`` doesn't hold, in order."""
        return [key for key in self.pieces if base is None or key not in base.hashes]

    def as_base(self, stamp: int, latest: int | None) -> Base:
        """Return what to remember once this is stored."""
        return Base(stamp, latest, self.channels, frozenset(self.pieces))


def content_hash(serialized: bytes | memoryview) -> bytes:
    """Return the name of a piece."""
    return hashlib.sha256(serialized).digest()[:HASH_BYTES]


def serialize_state(
    state: Mapping[str, Any], serializer: Serializer, base: Base | None = None
) -> dict[str, tuple[bytes, str | bytes | None]]:
    """Return each channel's bytes, and the text or bytes object that they were made of, if it was one.

    Such an object that ``base`` was made of is not serialized again.

    Raises:
        ValidationError: a value can't be stored faithfully; the message says where it is.
    """
    serialized: dict[str, tuple[bytes, str | bytes | None]] = {}
    known = {} if base is None else base.channels
    for channel, value in state.items():
        if type(channel) is not str:
            raise ValidationError(
                f"the state has a key of type {type(channel).__name__}", hint="channels have str names"
            )
        before = known.get(channel)
        if before is not None and before.source is value and value is not None:
            serialized[channel] = (before.content, before.source)
            continue
        serialized[channel] = (serializer.dumps(value, where=f"state[{channel[:80]!r}]"), _source(value))
    return serialized


def encode_state(serialized: Mapping[str, tuple[bytes, str | bytes | None]], base: Base | None) -> Encoded:
    """Return a state as it is stored; a channel with the same bytes as in ``base`` is not hashed again."""
    entries: dict[str, int | bytes] = {}
    pieces: dict[bytes, bytes] = {}
    channels: dict[str, Stored] = {}
    places: dict[bytes, int] = {}
    known = {} if base is None else base.channels
    for channel, (content, source) in serialized.items():
        if len(content) <= INLINE_BYTES:
            entries[channel] = content
            continue
        stored = known.get(channel)
        if stored is None or stored.content != content:
            stored = Stored(content, content_hash(content), source)
        channels[channel] = stored
        key = stored.key
        pieces[key] = stored.content
        entries[channel] = places.setdefault(key, len(places))
    refs = b"".join(pieces)
    return Encoded(_pack_manifest(entries, refs), refs, pieces, channels)


def _source(value: object) -> str | bytes | None:
    return value if isinstance(value, str | bytes) and type(value) in (str, bytes) else None


def _pack_manifest(entries: dict[str, int | bytes], refs: bytes) -> bytes:
    body: bytes = msgpack.packb(entries, unicode_errors="surrogatepass")
    return _HEAD.pack(MANIFEST_FORMAT, crc32(refs, crc32(body))) + body


def split_refs(refs: bytes) -> list[bytes]:
    """Return the hashes that a checkpoint refers to."""
    return [refs[place : place + HASH_BYTES] for place in range(0, len(refs), HASH_BYTES)]


def decode_state(
    manifest: bytes, refs: bytes, pieces: Sequence[bytes | memoryview | None], serializer: Serializer
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return the state, and its channels' bytes for a base; ``pieces`` as stored, in the order of ``refs``.

    Raises:
        CorruptError: a piece is missing or damaged, or the manifest is.
    """
    keys = split_refs(refs)
    if len(keys) != len(pieces) or len(refs) % HASH_BYTES:
        raise CorruptError(f"{len(refs)} bytes refer to {len(pieces)} pieces")
    entries = _unpack_manifest(manifest, refs)
    state: dict[str, Any] = {}
    channels: dict[str, Stored] = {}
    opened: dict[int, bytes] = {}
    for channel, entry in entries.items():
        try:
            if isinstance(entry, bytes):
                state[channel] = serializer.loads(entry)
                continue
            if type(entry) is not int or not 0 <= entry < len(keys):
                raise CorruptError("the manifest's entry is of no known kind")
            if entry not in opened:
                opened[entry] = open_piece(pieces[entry], keys[entry])
            state[channel] = serializer.loads(opened[entry])
        except CorruptError as exc:
            raise CorruptError(f"channel {channel[:80]!r}: {exc.message}", hint=exc.hint) from exc
        channels[channel] = Stored(opened[entry], keys[entry], _source(state[channel]))
    return state, channels


def _unpack_manifest(manifest: bytes, refs: bytes) -> dict[str, Any]:
    if manifest[:1] not in (b"", bytes((MANIFEST_FORMAT,))):
        raise CorruptError(f"its manifest has format {manifest[0]}, not {MANIFEST_FORMAT}", hint="update this program")
    body = manifest[_HEAD.size :]
    if manifest[: _HEAD.size] != _HEAD.pack(MANIFEST_FORMAT, crc32(refs, crc32(body))):
        raise CorruptError("its manifest is damaged")
    try:
        entries: dict[str, Any] = msgpack.unpackb(body, unicode_errors="surrogatepass")
    except (ValueError, msgpack.UnpackException) as exc:
        raise CorruptError("its manifest is damaged") from exc
    return entries


def open_piece(stored: bytes | memoryview | None, key: bytes) -> bytes:
    """Return the serialized bytes of a stored piece.

    Raises:
        CorruptError: it is missing, of a kind that this program doesn't know, or not what its hash says.
    """
    if stored is None:
        raise CorruptError(f"piece {key.hex()} is missing")
    if stored[:1] != PLAIN:
        raise CorruptError(
            f"piece {key.hex()} is of kind {bytes(stored[:1]).hex() or 'none'}", hint="update this program"
        )
    serialized = bytes(stored[1:])
    if content_hash(serialized) != key:
        raise CorruptError(f"piece {key.hex()} is damaged: its content has another hash")
    return serialized


def cut(data: bytes | None, sizes: str | None) -> list[memoryview | None]:
    """Return the pieces that lie end to end in ``data``; their sizes are text, -1 where one is missing."""
    whole = memoryview(data or b"")
    found: list[memoryview | None] = []
    start = 0
    for size in map(int, sizes.split(",") if sizes else ()):
        found.append(whole[start : start + size] if size >= 0 else None)
        start += max(size, 0)
    return found


class Bases:
    """The last checkpoint seen of each thread, within a bound on threads and bytes; the longest unused goes first.

    Not guarded: its user holds a mutex around each call.
    """

    def __init__(self, max_threads: int, max_bytes: int) -> None:
        self._max_threads = max_threads
        self._max_bytes = max_bytes
        self._bytes = 0
        self._found: OrderedDict[tuple[object, ...], tuple[Base, int]] = OrderedDict()

    def get(self, key: tuple[object, ...]) -> Base | None:
        """Return what is known of the thread, None when nothing is."""
        found = self._found.get(key)
        if found is None:
            return None
        self._found.move_to_end(key)
        return found[0]

    def put(self, key: tuple[object, ...], base: Base) -> None:
        """Remember a checkpoint in place of what was known; one larger than a quarter of the bound is not kept."""
        self.drop(key)
        size = _size(base.channels.values())
        if size > self._max_bytes // 4:
            return
        self._found[key] = (base, size)
        self._bytes += size
        while len(self._found) > self._max_threads or self._bytes > self._max_bytes:
            self._bytes -= self._found.popitem(last=False)[1][1]

    def drop(self, key: tuple[object, ...]) -> None:
        """Forget a thread."""
        gone = self._found.pop(key, None)
        if gone is not None:
            self._bytes -= gone[1]


def _size(channels: Iterable[Stored]) -> int:
    return sum(len(each.content) * (1 if each.source is None else 2) + 256 for each in channels)

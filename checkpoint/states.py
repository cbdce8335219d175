"""How a state becomes a manifest and pieces, and back, and what a process remembers of it (docs/formats.md)."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from checkpoint.growth import UNKNOWN, Part, Stored, as_stored, in_parts, store, with_source
from checkpoint.pieces import HASH_BYTES, open_piece, split_refs
from checkpoint.serializer import Serializer
from persistence.errors import CorruptError, ValidationError

MANIFEST_FORMAT = 1
IN_PARTS = 1
"""What the entry of a channel in several pieces begins with."""

_HEAD = struct.Struct(">BI")


class Base(NamedTuple):
    """A checkpoint of a thread as this process saw it last: what a next save need not send.

    ``stamp`` is the head's at that moment; while it is the same nothing was saved to or deleted from the thread.
    ``latest`` is the thread's latest version then, None when not known.
    """

    stamp: int
    latest: int | None
    channels: Mapping[str, Stored]
    hashes: frozenset[bytes]

    @property
    def size(self) -> int:
        """How much memory it takes, about."""
        return sum([stored.size for stored in self.channels.values()])


@dataclass(frozen=True, slots=True)
class Encoded:
    """A state as it is stored; ``refs`` are the hashes end to end, ``pieces`` the contents by hash."""

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


def serialize_state(state: Mapping[str, Any], serializer: Serializer) -> dict[str, bytes]:
    """Return each channel's bytes.

    Raises:
        ValidationError: a value can't be stored faithfully; the message says where it is.
    """
    return {_checked(channel): serializer.dumps(value, where=_where(channel)) for channel, value in state.items()}


def encode_state(state: Mapping[str, Any], serializer: Serializer, base: Base | None) -> Encoded:
    """Return a state as it is stored, in the pieces of ``base`` as far as they are its bytes.

    Raises:
        ValidationError: a value can't be stored faithfully; the message says where it is.
    """
    known = {} if base is None else base.channels
    entries: dict[str, int | bytes | list[int | bytes]] = {}
    pieces: dict[bytes, bytes] = {}
    channels: dict[str, Stored] = {}
    places: dict[bytes, int] = {}
    for channel, value in state.items():
        stored = known.get(channel)
        if stored is None or stored.source is not value:
            stored = store(value, stored, serializer, _where(_checked(channel)))
        channels[channel] = stored
        if not stored.parts:
            entries[channel] = stored.head
            continue
        if stored.is_whole:
            key, content = stored.parts[0]
            pieces[key] = content
            entries[channel] = places.setdefault(key, len(places))
            continue
        found: list[int | bytes] = []
        for key, content in stored.parts:
            pieces[key] = content
            found.append(places.setdefault(key, len(places)))
        entries[channel] = [IN_PARTS, stored.head, stored.skip, *found]
    refs = b"".join(pieces)
    return Encoded(_pack_manifest(entries, refs), refs, pieces, channels)


def _where(channel: str) -> str:
    return f"state[{channel[:80]!r}]"


def _checked(channel: object) -> str:
    if type(channel) is not str:
        raise ValidationError(f"the state has a key of type {type(channel).__name__}", hint="channels have str names")
    return channel


def _pack_manifest(entries: Mapping[str, object], refs: bytes) -> bytes:
    body: bytes = msgpack.packb(entries, unicode_errors="surrogatepass")
    return _HEAD.pack(MANIFEST_FORMAT, crc32(refs, crc32(body))) + body


def decode_state(
    manifest: bytes,
    refs: bytes,
    pieces: Sequence[bytes | memoryview | None],
    serializer: Serializer,
    opened: dict[bytes, Part] | None = None,
) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Return the state, and its channels as they are stored; ``pieces`` as stored, in the order of ``refs``.

    ``opened`` takes the pieces by hash as they are opened; one that is there already need not be in ``pieces``.

    Raises:
        CorruptError: a piece is missing or damaged, or the manifest is.
    """
    keys = split_refs(refs)
    if len(keys) != len(pieces) or len(refs) % HASH_BYTES:
        raise CorruptError(f"{len(refs)} bytes refer to {len(pieces)} pieces")
    entries = _unpack_manifest(manifest, refs)
    state: dict[str, Any] = {}
    channels: dict[str, Stored] = {}
    opened = {} if opened is None else opened
    for channel, entry in entries.items():
        try:
            stored = _open_channel(entry, keys, pieces, opened)
            value = serializer.loads(stored.content())
        except CorruptError as exc:
            raise CorruptError(f"channel {channel[:80]!r}: {exc.message}", hint=exc.hint) from exc
        state[channel] = value
        channels[channel] = with_source(stored, value)
    return state, channels


def restore_state(channels: Mapping[str, Stored], serializer: Serializer) -> dict[str, Any]:
    """Return a state that is the caller's own from its channels as they are stored."""
    return {
        channel: serializer.loads(stored.content()) if stored.source is UNKNOWN else stored.source
        for channel, stored in channels.items()
    }


def _open_channel(
    entry: object, keys: list[bytes], pieces: Sequence[bytes | memoryview | None], opened: dict[bytes, Part]
) -> Stored:
    if isinstance(entry, bytes):
        return as_stored(entry, ())
    places: list[Any] = [entry]
    if isinstance(entry, list) and [*map(type, entry[:3])] == [int, bytes, int] and entry[0] == IN_PARTS and entry[3:]:
        places = entry[3:]
    for place in places:
        if type(place) is not int or not 0 <= place < len(keys):
            raise CorruptError("the manifest's entry is of no known kind", hint="update this program")
        if keys[place] not in opened:
            opened[keys[place]] = Part(keys[place], open_piece(pieces[place], keys[place]))
    parts = tuple([opened[keys[place]] for place in places])
    if not isinstance(entry, list):
        return as_stored(parts[0].content, (), parts[0].key)
    return in_parts(entry[1], entry[2], parts, ())


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
        """Remember a checkpoint in place of what was known; one larger than half of the bound is not kept."""
        self.drop(key)
        size = base.size
        if size > self._max_bytes // 2:
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

"""How a state becomes a manifest and pieces, and what a process remembers of it (docs/formats.md)."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple
from zlib import crc32

import msgpack

from checkpoint.blocks import Added, Place
from checkpoint.compare import Packed, find_change, pack_stored
from checkpoint.growth import (
    INLINE_BYTES,
    UNKNOWN,
    VOLATILE_BYTES,
    Stored,
    as_stored,
    place_of,
    store,
    store_appended,
    store_packed,
)
from checkpoint.layout import (
    Entry,
    Layout,
    lay_out,
    lay_out_changes,
)
from checkpoint.records import Checkpoint
from checkpoint.serializer import Serializer
from persistence.errors import CorruptError, ValidationError

MANIFEST_FORMAT = 1
SPARE_PLACES = 64
"""How many pieces of earlier versions are remembered, in case a channel returns to one of them."""

_HEAD = struct.Struct(">BII")


class Base(NamedTuple):
    """A checkpoint of a thread as this process saw it last: what a next save need not send.

    ``stamp`` is the head's at that moment, and while it is the same nothing was saved to or deleted from the thread;
    ``counter`` the highest version given then, and ``latest`` the latest version, None when not known. ``names`` is
    the list of channels as it is stored, ``places`` says where pieces of the thread lie.
    """

    stamp: int
    counter: int
    latest: int | None
    channels: Mapping[str, Stored]
    names: Stored
    layout: Layout
    places: Mapping[bytes, Place]
    packed: Packed | None
    size: int
    """How much memory it takes, about."""

    def is_of(self, stamp: int, version: int) -> bool:
        """Tell whether it is this version, the latest of a thread whose head has this stamp."""
        return self.stamp == stamp and self.latest == version

    def after_delete(self, stamp: int) -> Base:
        """Return what is left of it when others of its thread were deleted, and the head got a new stamp for it."""
        mine = {part.name for stored in (self.names, *self.channels.values()) for part in stored.parts}
        places = {name: place for name, place in self.places.items() if name in mine}
        return self._replace(stamp=stamp, places=places)


def base_size(channels: Mapping[str, Stored], places: Mapping[bytes, Place], packed: Packed | None) -> int:
    """Return how much memory a base takes, about."""
    known = 0 if packed is None else len(packed.data)
    return sum([stored.size for stored in channels.values()]) + 256 * len(places) + known


def head_alone(stamp: int, counter: int, latest: int) -> Base:
    """Return the base of a save that knows of a thread no more than its head."""
    return Base(stamp, counter, latest, {}, as_stored(b"", ()), Layout(counter, [], [], []), {}, None, 0)


class Written(NamedTuple):
    """A state as one save stores it; ``refs`` as in the layout."""

    manifest: bytes
    layout: Layout
    added: Added

    @property
    def refs(self) -> list[int]:
        """The blocks that it needs."""
        return self.layout.refs


@dataclass(frozen=True, slots=True)
class Encoded:
    """A state in pieces; ``changed`` are those channels, by their places among the entries, that differ from the base.

    None where that is not known, or the channels are others.
    """

    channels: dict[str, Stored]
    names: Stored
    changed: dict[int, Stored] | None
    packed: Packed | None

    def write(self, base: Base | None, version: int) -> Written:
        """Return it as a save of this version stores it, on the pieces of ``base``; without one it is whole."""
        found = None
        if base is not None and self.changed is not None:
            found = lay_out_changes(base.layout, self.changed, base.places, version)
        if found is None:
            found = lay_out((self.names, *self.channels.values()), {} if base is None else base.places, version)
        layout, added = found
        named = [part.name for stored in (self.names, *self.channels.values()) for part in stored.parts]
        return Written(_pack_manifest(layout.entries, layout.refs, crc32(b"".join(named))), layout, added)

    def as_base(self, stamp: int, version: int, counter: int, written: Written, before: Base | None) -> Base:
        """Return what to remember once this is stored as a version."""
        layout = written.layout if written.layout.version == version else written.layout.at(version)
        places = {key: Place(version, *place) for key, place in written.added.places.items()}
        if before is not None:
            places = {**before.places, **places}
            needed = sum(layout.users)
            if len(places) > needed + 2 * SPARE_PLACES:
                mine = {part.name for stored in (self.names, *self.channels.values()) for part in stored.parts}
                spare = [key for key in places if key not in mine][-SPARE_PLACES:]
                places = {key: places[key] for key in (*spare, *mine)}
        latest = version if version == counter else None
        size = base_size(self.channels, places, self.packed)
        return Base(stamp, counter, latest, self.channels, self.names, layout, places, self.packed, size)


def serialize_state(state: Mapping[str, Any], serializer: Serializer) -> dict[str, bytes]:
    """Return each channel's bytes.

    Raises:
        ValidationError: a value can't be stored faithfully; the message says where it is.
    """
    return {_checked(channel): serializer.dumps(value, where=place_of(channel)) for channel, value in state.items()}


class Hints(NamedTuple):
    """What a save is told of channels: see ``Checkpoint``."""

    unchanged: Set[str] = frozenset()
    """They have the values that the base has, and are not looked at."""
    appended: Mapping[str, int] = MappingProxyType({})
    """As many items at their end are looked at; those before are the ones that the base has."""
    volatile: Set[str] = frozenset()
    """They are kept in the manifest, unless they are large."""


NO_HINTS = Hints()


def hints_of(checkpoint: Checkpoint, base: Base | None) -> Hints:
    """Return what a checkpoint says of its channels, as far as it holds: the base has to be its parent."""
    if base is None or checkpoint.parent_version is None or checkpoint.parent_version != base.latest:
        return Hints(volatile=checkpoint.volatile)
    return Hints(checkpoint.unchanged, checkpoint.appended or {}, checkpoint.volatile)


def encode_state(
    state: Mapping[str, Any],
    serializer: Serializer,
    base: Base | None,
    hints: Hints = NO_HINTS,
) -> Encoded:
    """Return a state in pieces, in those of ``base`` as far as they are its bytes.

    Raises:
        ValidationError: a value can't be stored faithfully; the message says where it is.
    """
    unchanged, appended, volatile = hints
    known = {} if base is None else base.channels
    is_like_base = base is not None and [*known] == [*state]
    if is_like_base and not unchanged:
        # Objects that never change are known again. Where most are such, the others are looked at one by one.
        same = {channel for channel, value in state.items() if known[channel].source is value}
        unchanged = same if 2 * len(same) >= len(state) else unchanged
    is_hinted = bool(unchanged or appended)
    if base is not None and is_like_base and base.packed is not None and not is_hinted:
        found = _encode_change(state, base, base.packed)
        if found is not None:
            return found
    channels: dict[str, Stored] = {**known} if is_like_base else {}
    changed: dict[int, Stored] = {}
    for place, (channel, value) in enumerate(state.items(), 1):
        before = known.get(channel)
        if before is not None and (channel in unchanged or before.source is value):
            channels[channel] = before
            continue
        grown = None
        if before is not None and channel in appended:
            grown = store_appended(value, appended[channel], before, serializer)
        inline = VOLATILE_BYTES if channel in volatile else INLINE_BYTES
        stored = grown or store(value, before, serializer, _checked(channel), inline)
        channels[channel] = stored
        if stored is not before and (before is None or stored.parts != before.parts or stored.head != before.head):
            changed[place] = stored
    packed = None if is_hinted else pack_stored(channels.values())
    if base is not None and is_like_base:
        return Encoded(channels, base.names, changed, packed)
    return Encoded(channels, _names(channels), None, packed)


def _encode_change(state: Mapping[str, Any], base: Base, packed: Packed) -> Encoded | None:
    """Return a state that differs from the base's in one channel at most; None where that can't be told at once."""
    values = [*state.values()]
    change = find_change(values, packed)
    if change is None:
        return None
    place = change.place
    if place is None:
        return Encoded({**base.channels}, base.names, {}, packed)
    channel = [*state][place]
    stored = store_packed(values[place], change.content, base.channels[channel])
    if stored is None:
        return None
    return Encoded({**base.channels, channel: stored}, base.names, {place + 1: stored}, change.packed)


def _names(channels: Mapping[str, Stored]) -> Stored:
    """Return the list of channels as it is stored: once, as long as it stays."""
    return as_stored(_pack([*channels]), ())


def _checked(channel: object) -> str:
    if type(channel) is not str:
        raise ValidationError(f"the state has a key of type {type(channel).__name__}", hint="channels have str names")
    return channel


def _pack(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def unpack(packed: bytes) -> Any:
    """Return what a manifest's bytes, or those of the list of channels, hold.

    Raises:
        CorruptError: they are damaged.
    """
    try:
        return msgpack.unpackb(packed, unicode_errors="surrogatepass")
    except (ValueError, msgpack.UnpackException) as exc:
        raise CorruptError("its manifest is damaged") from exc


def _pack_manifest(entries: Sequence[Entry], refs: Sequence[int], pieces: int) -> bytes:
    body = _pack(entries)
    return _HEAD.pack(MANIFEST_FORMAT, _check(body, refs, pieces), pieces) + body


def _check(body: bytes, refs: Sequence[int], pieces: int) -> int:
    return crc32(struct.pack(f">{len(refs)}iI", *refs, pieces), crc32(body))


def move_manifest(manifest: bytes, refs: Sequence[int], versions: int) -> tuple[bytes, list[int]]:
    """Return a manifest and its refs as they are for a checkpoint so many versions later.

    Raises:
        CorruptError: it is damaged.
        ValidationError: its pieces lie too many versions back then.
    """
    entries, pieces = unpack_manifest(manifest, refs)
    moved = [ref + (versions << 8) for ref in refs]
    if moved and max(moved) >= 2**31:
        raise ValidationError("it was saved too many versions ago", hint="load it, and save its state")
    return _pack_manifest(entries, moved, pieces), moved


def restore_state(channels: Mapping[str, Stored], serializer: Serializer) -> dict[str, Any]:
    """Return a state that is the caller's own from its channels as they are remembered."""
    return {
        channel: serializer.read_back(stored.content()) if stored.source is UNKNOWN else stored.source
        for channel, stored in channels.items()
    }


def unpack_manifest(manifest: bytes, refs: Sequence[int]) -> tuple[list[Any], int]:
    """Return the entries, and the check of the names of all pieces in their order.

    Raises:
        CorruptError: it is damaged, or of a format that this program doesn't know.
    """
    if manifest[:1] not in (b"", bytes((MANIFEST_FORMAT,))):
        raise CorruptError(f"its manifest has format {manifest[0]}, not {MANIFEST_FORMAT}", hint="update this program")
    body = bytes(manifest[_HEAD.size :])
    pieces = int.from_bytes(manifest[_HEAD.size - 4 : _HEAD.size], "big")
    if manifest[: _HEAD.size] != _HEAD.pack(MANIFEST_FORMAT, _check(body, refs, pieces), pieces):
        raise CorruptError("its manifest is damaged")
    entries = unpack(body)
    if type(entries) is not list:
        raise CorruptError("its manifest is damaged")
    return entries, pieces


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

"""How a manifest and pieces become a state again, one alone or several that have much in common (docs/formats.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from zlib import crc32

from checkpoint.blocks import Block, Blocks, Place
from checkpoint.growth import Part, Stored, as_stored, in_parts
from checkpoint.layout import IN_PARTS, MOST_SLOTS, Layout, count_users, numbers_of
from checkpoint.serializer import Reader, Serializer
from checkpoint.states import Base, base_size, unpack, unpack_manifest
from persistence.errors import CorruptError


class Decoded(NamedTuple):
    """A state as it was loaded, the entries of its manifest, the list of channels first, and the blocks of refs."""

    state: dict[str, Any]
    version: int
    refs: Sequence[int]
    entries: list[Any]
    blocks: Blocks

    def as_base(self, stamp: int, counter: int, latest: int) -> Base:
        """Return what to remember of it, the latest of its thread."""
        layout = Layout(self.version, [*self.refs], count_users(self.refs, self.entries), self.entries)
        places: dict[bytes, Place] = {}
        found = [_open_entry(entry, self.blocks) for entry in self.entries]
        for entry, opened in zip(self.entries, found, strict=True):
            for part, number in zip(opened.parts, numbers_of(entry), strict=True):
                places[part.name] = layout.place(number)
        channels = {
            channel: opened.as_stored(value)
            for (channel, value), opened in zip(self.state.items(), found[1:], strict=True)
        }
        names, size = found[0].as_stored(()), base_size(channels, places, None)
        return Base(stamp, counter, latest, channels, names, layout, places, None, size)


class Source(NamedTuple):
    """Where an entry's value comes from, and the names of its pieces end to end."""

    reader: Reader
    names: bytes


class Neighbour(NamedTuple):
    """A checkpoint that was read, for the one that is read next: neighbours have most of their channels in common."""

    version: int
    refs: Sequence[int]
    entries: list[Any]
    names: list[str]
    sources: list[Source | None]

    def sources_of(self, version: int, refs: Sequence[int], entries: list[Any]) -> list[Source | None]:
        """Return the sources of another checkpoint's entries, as far as they are those of this one."""
        if len(entries) != len(self.entries):
            return [None] * len(entries)
        step = version - self.version << 8
        kept = [ref == old + step for ref, old in zip(refs, self.refs, strict=False)]
        return [
            source if entry == old and _lies_in(entry, kept) else None
            for entry, old, source in zip(entries, self.entries, self.sources, strict=True)
        ]


def _lies_in(entry: object, kept: list[bool]) -> bool:
    """Tell whether an entry's blocks are in slots that are kept."""
    if type(entry) is int:
        slot = entry % MOST_SLOTS
        return slot < len(kept) and kept[slot]
    if isinstance(entry, list):
        return all(_lies_in(number, kept) for number in entry[3:])
    return isinstance(entry, bytes)


class Shared:
    """What checkpoints that are read one after the other have in common: blocks, opened once, and the one before."""

    def __init__(self) -> None:
        self.opened: dict[tuple[int, int], Block] = {}
        self.before: Neighbour | None = None


def decode_state(
    version: int,
    manifest: bytes,
    refs: Sequence[int],
    stored: Sequence[bytes | memoryview | None],
    serializer: Serializer,
    shared: Shared | None = None,
) -> Decoded:
    """Return the state of a version; ``stored`` are the blocks in the order of ``refs``.

    ``shared`` is what it has in common with others that are read with it; a block that is there need not be in
    ``stored``. Values are never shared, but for those that can't be changed.

    Raises:
        CorruptError: a piece is missing or damaged, or the manifest is.
    """
    if len(refs) != len(stored):
        raise CorruptError(f"it refers to {len(refs)} blocks, not {len(stored)}")
    shared = shared or Shared()
    entries, pieces = unpack_manifest(manifest, refs)
    blocks = Blocks(refs, version, stored, shared.opened)
    before = shared.before
    sources: list[Source | None] = [None] * len(entries)
    if before is not None:
        sources = before.sources_of(version, refs, entries)
    if before is not None and sources and sources[0] is not None:
        names = before.names
    else:
        first = _open_entry(entries[0] if entries else None, blocks)
        names = _names_in(first.content(), len(entries) - 1)
        sources[0] = _source_of(first, serializer)
    state: dict[str, Any] = {}
    for place, channel in enumerate(names, 1):
        try:
            source = sources[place]
            if source is None:
                source = sources[place] = _source_of(_open_entry(entries[place], blocks), serializer)
            state[channel] = source.reader.read()
        except CorruptError as exc:
            raise CorruptError(f"channel {channel[:80]!r}: {exc.message}", hint=exc.hint) from exc
    named = [source.names for source in sources if source is not None]
    if crc32(b"".join(named)) != pieces:
        raise CorruptError("its pieces are not those that it was saved with")
    shared.before = Neighbour(version, refs, entries, names, sources)
    return Decoded(state, version, refs, entries, blocks)


def _names_in(content: bytes, count: int) -> list[str]:
    """Return the list of channels."""
    names: list[str] = unpack(content)
    if type(names) is not list or len(names) != count or set(map(type, names)) - {str}:
        raise CorruptError("its manifest is damaged")
    return names


class Opened(NamedTuple):
    """An entry of a manifest with its pieces; ``head`` and ``skip`` are those of ``Stored``."""

    head: bytes
    skip: int
    parts: tuple[Part, ...]

    def content(self) -> bytes:
        """Return the channel's serialized bytes."""
        if len(self.parts) == 1 and not self.head:
            return self.parts[0].content
        if not self.parts:
            return self.head
        first = memoryview(self.parts[0].content)[self.skip :]
        return b"".join((self.head, first, *[part.content for part in self.parts[1:]]))

    def as_stored(self, value: object) -> Stored:
        """Return the channel as it is stored, made of this value."""
        if len(self.parts) == 1 and not self.head:
            return as_stored(self.parts[0].content, value, self.parts[0])
        if not self.parts:
            return as_stored(self.head, value, inline=len(self.head))
        return in_parts(self.head, self.skip, self.parts, value)


def _source_of(opened: Opened, serializer: Serializer) -> Source:
    return Source(serializer.reader(opened.content()), b"".join([part.name for part in opened.parts]))


def _open_entry(entry: object, blocks: Blocks) -> Opened:
    if isinstance(entry, bytes):
        return Opened(entry, 0, ())
    if type(entry) is int:
        return Opened(b"", 0, (_part(entry, blocks),))
    if type(entry) is list and [*map(type, entry[:3])] == [int, bytes, int] and entry[0] == IN_PARTS and entry[3:]:
        return Opened(entry[1], entry[2], tuple([_part(number, blocks) for number in entry[3:]]))
    raise _unknown()


def _part(number: object, blocks: Blocks) -> Part:
    if type(number) is not int or number < 0 or number % MOST_SLOTS >= len(blocks):
        raise _unknown()
    return blocks[number % MOST_SLOTS].part(number // MOST_SLOTS)


def _unknown() -> CorruptError:
    return CorruptError("the manifest's entry is of no known kind", hint="update this program")

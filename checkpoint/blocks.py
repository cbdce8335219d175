"""Blocks: the pieces that one save stores, framed end to end, and where in a thread a piece lies (docs/formats.md).

What a save adds goes into one block beside its checkpoint when that is small or a single piece; otherwise large pieces
get a block each. A checkpoint refers to a block by how many versions ago it was saved, so that its bytes stay true
when it is copied to another thread together with its blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from checkpoint.growth import Part
from checkpoint.pieces import name_piece, open_piece, pack_piece
from persistence.errors import CorruptError

CHECK_BYTES = 8
"""How much of a piece's name is stored with it."""
BLOCK_BYTES = 4096
"""Several pieces lie in one block as long as it is no larger: a load reads blocks as a whole."""
OWN_BYTES = 512
"""Of a larger save, pieces of this size get a block of their own."""
LAST_ORDINAL = 255


class Place(NamedTuple):
    """Where a piece lies: block ``ordinal`` of ``version`` (0: beside the checkpoint), and which of its pieces."""

    version: int
    ordinal: int
    nth: int


class Added(NamedTuple):
    """What a save stores of its new pieces: one block beside the checkpoint, if any, and blocks 1, 2, …

    ``places`` are ordinal and place in the block of each piece, by its name.
    """

    places: dict[bytes, tuple[int, int]]
    beside: bytes | None
    extra: list[bytes]


NOTHING_ADDED = Added({}, None, [])


def gather(frames: Mapping[bytes, bytes]) -> Added:
    """Return pieces, framed, by their names, in the blocks of one save."""
    if len(frames) == 1:
        ((key, framed),) = frames.items()
        return Added({key: (0, 0)}, framed, [])
    places: dict[bytes, tuple[int, int]] = {}
    beside: list[bytes] = []
    extra: list[bytes] = []
    is_split = sum(map(len, frames.values())) > BLOCK_BYTES
    for key, framed in frames.items():
        if is_split and len(framed) >= OWN_BYTES and len(extra) < LAST_ORDINAL:
            extra.append(framed)
            places[key] = len(extra), 0
        else:
            places[key] = 0, len(beside)
            beside.append(framed)
    return Added(places, b"".join(beside) if beside else None, extra)


def frame(part: Part) -> bytes:
    """Return a piece as it lies in a block: kind, the beginning of its name, its length (LEB128), itself. Names it."""
    kind, packed = pack_piece(part.content)
    part.name = name_piece(kind, packed)
    left = len(packed)
    size = bytearray()
    while left > 0x7F:
        size.append(left & 0x7F | 0x80)
        left >>= 7
    size.append(left)
    return b"".join((kind, part.name[:CHECK_BYTES], size, packed))


class Block:
    """A stored block; its pieces are opened and checked when they are asked for, each once."""

    def __init__(self, data: bytes | memoryview, name: str) -> None:
        self._frames = _cut(memoryview(data), name)
        self._parts: dict[int, Part] = {}
        self._name = name

    def part(self, index: int) -> Part:
        """Return a piece.

        Raises:
            CorruptError: it is damaged, or not there.
        """
        found = self._parts.get(index)
        if found is None:
            if not 0 <= index < len(self._frames):
                raise CorruptError(f"{self._name} has no piece {index}")
            found = self._parts[index] = Part(*open_piece(*self._frames[index]))
        return found


def _cut(data: memoryview, name: str) -> list[tuple[bytes, memoryview, bytes]]:
    """Return the pieces of a block: kind, what is stored, and check of each."""
    frames = []
    place = 0
    while place < len(data):
        start = place + 1 + CHECK_BYTES
        size = shift = 0
        while start < len(data) and shift < 35:  # no piece needs more than five bytes to tell its length
            size |= (data[start] & 0x7F) << shift
            shift += 7
            start += 1
            if data[start - 1] < 0x80:
                break
        end = start + size
        if end > len(data) or not shift or data[start - 1] > 0x7F:
            raise CorruptError(f"{name} is damaged: it was cut")
        check = bytes(data[place + 1 : place + 1 + CHECK_BYTES])
        frames.append((bytes(data[place : place + 1]), data[start:end], check))
        place = end
    return frames


class Blocks:
    """The blocks that a checkpoint refers to, each opened when it is asked for.

    Those in ``opened`` already need not be in ``stored``, which is in the order of the refs.
    """

    def __init__(
        self,
        refs: Sequence[int],
        version: int,
        stored: Sequence[bytes | memoryview | None],
        opened: dict[tuple[int, int], Block],
    ) -> None:
        self._refs = refs
        self._version = version
        self._stored = stored
        self._opened = opened

    def __len__(self) -> int:
        return len(self._refs)

    def __getitem__(self, slot: int) -> Block:
        """Return the block in a slot.

        Raises:
            CorruptError: it is missing or damaged.
        """
        ref = self._refs[slot]
        key = (self._version - (ref >> 8), ref & LAST_ORDINAL)
        block = self._opened.get(key)
        if block is None:
            name, data = f"block {key[0]}.{key[1]}", self._stored[slot]
            if data is None:
                raise CorruptError(f"{name} is missing")
            block = self._opened[key] = Block(data, name)
        return block

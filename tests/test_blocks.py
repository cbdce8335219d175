"""Pieces, the blocks that they lie in, and the layout of manifests: what needs no database."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
import zstandard

from checkpoint import Serializer
from checkpoint.blocks import BLOCK_BYTES, LAST_ORDINAL, OWN_BYTES, Block, frame, gather
from checkpoint.decoding import decode_state
from checkpoint.growth import Part
from checkpoint.layout import LARGEST_REF, MOST_SLOTS
from checkpoint.pieces import name_piece, open_piece, pack_piece
from checkpoint.states import Base, Written, encode_state, move_manifest
from persistence import CorruptError, ValidationError
from tests._async import checkpoints as told

LONG = "x" * 40
SERIALIZER = Serializer()
NOISE = random.Random(5).randbytes(20_000)


def noise(size: int, start: int = 0) -> str:
    return NOISE[start : start + size].hex()[:size]


# Pieces


def test_a_piece_is_opened_by_what_its_name_begins_with() -> None:
    for content in (b"", b"\1\0\xc0", b"ab" * 5000, NOISE, b"\0" * (2**24 + 5)):
        kind, packed = pack_piece(content)
        assert len(packed) <= len(content)
        name = name_piece(kind, packed)
        assert open_piece(kind, packed, name[:8]) == (content, name)
        other = name_piece(b"\0", content)
        assert open_piece(b"\0", content, other[:8]) == (content, other)
        with pytest.raises(CorruptError, match=f"piece {name[:8].hex()} is damaged"):
            open_piece(kind, bytes(packed) + b"\0", name[:8])


def lying(declared: int, content: bytes) -> bytes:
    """Return a frame of one raw block that declares another size."""
    head = b"\x28\xb5\x2f\xfd\xe0" + declared.to_bytes(8, "little")
    return head + (1 | len(content) << 3).to_bytes(3, "little") + content


FRAME = zstandard.ZstdCompressor(level=1).compress(b"ab" * 5000)
OTHER = zstandard.ZstdCompressor(level=1).compress(b"ac" * 5000)
WHOLE = (OTHER, b"ab" * 4999)


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\2" + FRAME,
        b"\1",
        b"\1" + FRAME[:-1],
        b"\1" + FRAME + b"more",
        b"\1" + FRAME + FRAME,
        b"\1" + lying(2**62, b"ab"),
        b"\1" + lying(2**30, b"ab"),
        b"\1" + lying(2**25, b"ab"),
        b"\1" + lying(1, b"ab" * 500),
        b"\1" + zstandard.ZstdCompressor(write_content_size=False).compress(b"ab" * 5000),
        b"\1" + OTHER,
        b"\0" + b"ab" * 4999,
    ],
    ids=[
        "empty", "kind", "no frame", "cut", "followed", "twice", "huge", "large", "larger", "more", "unknown size",
        "other", "short",
    ],
)  # fmt: skip
def test_a_damaged_or_lying_piece_is_named_and_takes_no_memory(packed: bytes) -> None:
    kind, stored = packed[:1], packed[1:]
    # As who made it would name it, so that the name is no help; but for the last two, which are whole.
    named = stored if stored not in WHOLE else b"another"
    check = name_piece(kind, named)[:8]
    with pytest.raises(CorruptError, match=f"piece {check.hex()} is "):
        open_piece(kind, stored, check)


def test_a_bomb_gives_no_more_than_it_declares() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(2**27))
    assert len(bomb) < 20_000
    # The same blocks under a header that declares 32 MiB: reading stops there.
    size = zstandard.frame_header_size(bomb)
    packed = b"\x28\xb5\x2f\xfd\xa0" + (2**25).to_bytes(4, "little") + bomb[size:]
    with pytest.raises(CorruptError, match="is damaged"):
        open_piece(b"\1", packed, name_piece(b"\1", packed)[:8])


# Blocks


def framed(*contents: bytes) -> dict[bytes, bytes]:
    """Return pieces as they lie in blocks, by their names."""
    parts = [Part(content) for content in contents]
    frames = [frame(part) for part in parts]
    return {part.name: data for part, data in zip(parts, frames, strict=True)}


@pytest.mark.parametrize("size", [0, 1, 127, 128, 129, 16_383, 16_384, 16_385, 2**21 - 1, 2**21])
def test_a_piece_lies_in_its_block_as_the_format_says(size: int) -> None:
    content = random.Random(size).randbytes(size)
    ((name, data),) = framed(content).items()
    assert data == told.frame(content)
    assert [piece.content for piece in told.cut(data + data)] == [content, content]
    found = Block(data + data, "b").part(1)
    assert (found.content, found.name) == (content, name)


def test_a_small_save_is_one_block_and_of_a_larger_one_the_large_pieces_are_apart() -> None:
    small, medium = NOISE[:100], NOISE[: OWN_BYTES - 12]
    assert gather(framed(NOISE)).extra == []  # a single piece, however large
    fitting = framed(small, medium, NOISE[:3000])
    assert sum(map(len, fitting.values())) < BLOCK_BYTES
    assert gather(fitting) == ({key: (0, nth) for nth, key in enumerate(fitting)}, b"".join(fitting.values()), [])
    larger = framed(small, NOISE[:2000], medium, NOISE[:3000], NOISE[:501])
    keys, frames = [*larger], [*larger.values()]
    places = dict(zip(keys, [(0, 0), (1, 0), (0, 1), (2, 0), (0, 2)], strict=True))
    assert [len(each) < OWN_BYTES for each in frames] == [True, False, True, False, False]
    places[keys[4]] = (3, 0)
    beside, *extra = frames[0] + frames[2], frames[1], frames[3], frames[4]
    assert gather(larger) == (places, beside, extra)


def test_a_save_of_exactly_the_size_of_a_block_is_one_block() -> None:
    one = next(iter(framed(NOISE[:2000]).values()))
    rest = BLOCK_BYTES - len(one) - 11
    for more, count in ((0, 0), (1, 2)):
        frames = framed(NOISE[:2000], NOISE[2000 : 2000 + rest + more])
        assert sum(map(len, frames.values())) == BLOCK_BYTES + more
        assert len(gather(frames).extra) == count


def test_what_is_beyond_the_last_ordinal_lies_beside() -> None:
    frames = framed(*[random.Random(n).randbytes(600) for n in range(LAST_ORDINAL + 45)])
    added = gather(frames)
    assert len(added.extra) == LAST_ORDINAL
    assert added.beside == b"".join([*frames.values()][LAST_ORDINAL:])
    for nth, (key, place) in enumerate(added.places.items()):
        assert place == ((nth + 1, 0) if nth < LAST_ORDINAL else (0, nth - LAST_ORDINAL))
        data = added.beside if place[0] == 0 else added.extra[place[0] - 1]
        assert Block(data, "b").part(place[1]).name == key


def test_a_block_that_was_cut_anywhere_is_damaged_or_ends_after_a_whole_piece() -> None:
    contents = [b"", LONG.encode(), NOISE[:300], b"ab" * 5000]
    frames = [*framed(*contents).values()]
    ends = [sum(map(len, frames[:count])) for count in range(5)]
    whole = b"".join(frames)
    for size in range(len(whole)):
        if size in ends:
            block = Block(whole[:size], "block 7.0")
            assert [block.part(nth).content for nth in range(ends.index(size))] == contents[: ends.index(size)]
            with pytest.raises(CorruptError, match=f"block 7.0 has no piece {ends.index(size)}"):
                block.part(ends.index(size))
        else:
            with pytest.raises(CorruptError, match=r"block 7\.0 is damaged: it was cut"):
                Block(whole[:size], "block 7.0")


@pytest.mark.parametrize("nth", [-1, 4, 2**40])
def test_a_piece_that_a_block_does_not_have_is_named(nth: int) -> None:
    with pytest.raises(CorruptError, match=f"block 7.0 has no piece {nth}"):
        Block(b"".join(framed(b"a", b"b", b"c", b"d").values()), "block 7.0").part(nth)


# States


class Thread:
    """What a thread would hold: saves build on the base, as those of one process do."""

    def __init__(self) -> None:
        self.base: Base | None = None
        self.blocks: dict[tuple[int, int], bytes] = {}
        self.saved: dict[int, Written] = {}

    def save(self, state: dict[str, Any], version: int | None = None) -> Written:
        base = self.base
        version = version or (1 if base is None else base.counter + 1)
        counter = max(version, 0 if base is None else base.counter)
        encoded = encode_state(state, SERIALIZER, base)
        written = encoded.write(base, version if base is not None else 0)
        for ordinal, data in enumerate([written.added.beside, *written.added.extra]):
            if data is not None:
                self.blocks[version, ordinal] = data
        self.saved[version] = written
        self.base = encoded.as_base(version, version, counter, written, base)
        return written

    def stored(self, version: int) -> list[bytes | None]:
        return [self.blocks.get((version - (ref >> 8), ref & 255)) for ref in self.saved[version].refs]

    def load(self, version: int, stored: list[bytes | None] | None = None) -> dict[str, Any]:
        written = self.saved[version]
        found = self.stored(version) if stored is None else stored
        return decode_state(version, written.manifest, written.refs, found, SERIALIZER).state

    def load_as_base(self, version: int) -> None:
        written = self.saved[version]
        decoded = decode_state(version, written.manifest, written.refs, self.stored(version), SERIALIZER)
        self.base = decoded.as_base(version, max(self.saved), version)

    @property
    def added(self) -> int:
        return sum(map(len, self.blocks.values()))


def test_a_return_to_an_earlier_value_stores_nothing() -> None:
    thread = Thread()
    for value in ("a" * 50, "b" * 50, "c" * 50):
        thread.save({"v": value, "same": LONG})
    before = dict(thread.blocks)
    for value in ("a" * 50, "c" * 50, "b" * 50, "a" * 50):
        assert thread.save({"v": value, "same": LONG}).added == ({}, None, [])
    assert thread.blocks == before
    assert [thread.load(version)["v"][0] for version in thread.saved] == [*"abcacba"]


def test_equal_values_share_a_piece_in_one_save_and_across_saves() -> None:
    thread = Thread()
    thread.save({"a": LONG, "b": LONG})
    assert thread.blocks == {(1, 0): told.frame(SERIALIZER.dumps(LONG))}
    thread.save({"a": LONG, "b": LONG, "c": LONG, "d": [1]})
    assert len(thread.blocks) == 1
    assert thread.load(2) == {"a": LONG, "b": LONG, "c": LONG, "d": [1]}


def test_slots_that_are_given_up_are_taken_again() -> None:
    thread = Thread()
    state = {f"c{n}": noise(50, n) for n in range(5)}
    for turn in range(300):
        state[f"c{turn % 5}"] = noise(50, turn + 10)
        written = thread.save(state)
        assert len(written.refs) <= 5
        assert len(set(written.refs)) == len(written.refs)
    for version in thread.saved:
        assert thread.load(version) == {
            f"c{n}": noise(50, turns[-1] + 10) if (turns := [t for t in range(version) if t % 5 == n]) else noise(50, n)
            for n in range(5)
        }


def walk(seed: int) -> Iterator[tuple[dict[str, Any], int | None, bool]]:
    """Yield states, the versions that they are saved as, and whether what is remembered is loaded anew before."""
    chance = random.Random(seed)
    state: dict[str, Any] = {}
    version = 0
    for _ in range(60):
        for channel in chance.sample("abcdefgh", chance.choice((0, 1, 1, 2, 8))):
            if chance.random() < 0.2:
                state.pop(channel, None)
            else:
                small = chance.choice((1, [LONG], {"k": 1}, LONG, LONG * 2))
                state[channel] = chance.choice((small, noise(chance.choice((40, 600, 3000)), chance.randrange(9))))
        jump = chance.choice((1, 1, 1, 1, 7, 2**23 - 8, 2**23 - 1, 2**23, 2**40))
        version += jump
        yield dict(state), version if jump > 1 else None, chance.random() < 0.2


@pytest.mark.parametrize("seed", range(20))
def test_every_state_of_a_random_walk_over_far_versions_is_as_it_was(seed: int) -> None:
    thread = Thread()
    kept: dict[int, dict[str, Any]] = {}
    for state, version, loads in walk(seed):
        if loads and kept:
            thread.load_as_base(max(kept))
        written = thread.save(state, version)
        kept[max(thread.saved)] = state
        assert all(0 <= ref <= LARGEST_REF for ref in written.refs)
        assert 0 not in written.layout.users
    for version, state in kept.items():
        loaded = thread.load(version)
        assert (loaded, list(loaded)) == (state, list(state))


def test_a_manifest_that_moves_refers_to_the_same_blocks() -> None:
    thread = Thread()
    thread.save({"a": LONG})
    thread.save({"a": LONG, "b": LONG * 2, "n": 1})
    written = thread.saved[2]
    manifest, refs = move_manifest(written.manifest, written.refs, 7)
    assert refs == [ref + 7 * 256 for ref in written.refs]
    state = decode_state(9, manifest, refs, thread.stored(2), SERIALIZER).state
    assert state == {"a": LONG, "b": LONG * 2, "n": 1}
    with pytest.raises(CorruptError, match="manifest is damaged"):
        move_manifest(written.manifest, refs, 1)
    with pytest.raises(ValidationError, match="too many versions ago"):
        move_manifest(written.manifest, written.refs, 2**23 - 1)


def test_names_of_channels_are_any_texts_and_their_order_stays() -> None:
    thread = Thread()
    names = ["", "\0", "\ud800", "ż" * 10_000, "x" * 10_000, "1", *[f"channel {n}" for n in range(1000)]]
    state = {name: len(name) for name in names}
    thread.save(state)
    (data,) = thread.blocks.values()
    assert [piece.content for piece in told.cut(data)] == [msgpack.packb(names, unicode_errors="surrogatepass")]
    turned = dict(reversed(state.items()))
    thread.save(turned)
    thread.save(state)
    assert [list(thread.load(version)) for version in (1, 2, 3)] == [names, names[::-1], names]
    assert len(thread.blocks) == 2


# Damage


def damaged_thread() -> Thread:
    """Return a thread whose version 2 needs some, not all, pieces of block 1.0, and its own.

    The frame of b is 64 bytes long, so that one flipped bit in the length of a makes that end where b ends.
    """
    thread = Thread()
    thread.save({"a": LONG, "b": "b" * 50, "c": "c" * 60, "d": noise(300)})
    thread.save({"a": LONG * 2, "b": "b" * 50, "c": "c" * 60, "d": noise(300, 9)})
    return thread


@pytest.mark.parametrize("version", [1, 2])
def test_no_flipped_bit_of_any_block_makes_another_state(version: int) -> None:
    thread = damaged_thread()
    state, stored = thread.load(version), thread.stored(version)
    named = 0
    for which, data in enumerate(stored):
        for at in range(len(data or b"") * 8):
            flipped = bytearray(data or b"")
            flipped[at // 8] ^= 1 << at % 8
            try:
                loaded = thread.load(version, [*stored[:which], bytes(flipped), *stored[which + 1 :]])
            except CorruptError as exc:
                named += 1
                assert "piece" in str(exc) or "block" in str(exc)  # noqa: PT017 - not every flip is damage
            else:
                assert loaded == state  # a piece that this version doesn't need
    assert named > 1000


def test_a_block_in_the_place_of_another_is_noticed() -> None:
    thread = damaged_thread()
    other = Thread()
    other.save({"a": LONG, "b": "another " * 7, "c": "c" * 60, "d": noise(300)})
    stored = [block if block != thread.blocks[1, 0] else other.blocks[1, 0] for block in thread.stored(2)]
    with pytest.raises(CorruptError):
        thread.load(2, stored)


def test_a_length_of_more_bytes_than_any_needs_is_damage() -> None:
    with pytest.raises(CorruptError, match=r"block 7\.0 is damaged"):
        Block(b"\0" * 9 + b"\x80" * 10 + b"\0", "block 7.0")


def test_a_missing_block_is_named_with_the_channel_that_needs_it() -> None:
    thread = damaged_thread()
    stored = thread.stored(2)
    for which, ref in enumerate(thread.saved[2].refs):
        with pytest.raises(CorruptError, match=rf"channel '[a-d]': block {2 - (ref >> 8)}\.0 is missing"):
            thread.load(2, [*stored[:which], None, *stored[which + 1 :]])
    with pytest.raises(CorruptError, match="refers to 2 blocks, not 1"):
        thread.load(2, stored[:1])


def test_a_number_of_a_slot_or_piece_that_is_not_there_is_damage() -> None:
    thread = Thread()
    thread.save({"a": LONG})
    for number in (1, MOST_SLOTS - 1, MOST_SLOTS, 7 * MOST_SLOTS, 2**62, -1):
        manifest = told.manifest_of(msgpack.packb([msgpack.packb(["a"]), number]), [0])
        with pytest.raises(CorruptError, match=r"channel 'a': (block 1\.0 has no piece|the manifest's entry is of no)"):
            decode_state(1, manifest, [0], thread.stored(1), SERIALIZER)

"""What checkpoints take: a channel that grows costs its tail, a large one is compressed, each load is bounded."""

from __future__ import annotations

import random
from collections import deque
from typing import Any
from zlib import crc32

import msgpack
import pytest
import pytest_asyncio
import zstandard

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint, Serializer
from checkpoint.pieces import content_hash, open_piece, pack_piece
from persistence import AsyncDatabase, AsyncDatabaseManager, CorruptError
from persistence._async.compat import Parallel

LONG = "x" * 40  # long enough to be a piece


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    """A checkpointer on each SQL database."""
    return AsyncDatabaseCheckpointer(manager, "main")


def fresh(manager: AsyncDatabaseManager) -> AsyncDatabaseCheckpointer:
    """Return a checkpointer that remembers nothing, as in another process."""
    return AsyncDatabaseCheckpointer(manager, "main")


def message(number: int) -> dict[str, Any]:
    return {"role": "user", "id": f"m{number}", "content": random.Random(number).randbytes(280).hex()}


async def pieces(database: AsyncDatabase) -> list[bytes]:
    """Return what is stored of all pieces."""
    rows = await database.fetch_all("SELECT data FROM holdfast_checkpoint_pieces ORDER BY hash")
    return [bytes(row["data"]) for row in rows]


async def grow(checkpointer: AsyncDatabaseCheckpointer, steps: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number in range(steps):
        messages.append(message(number))
        await checkpointer.save_checkpoint(Checkpoint("t", {"messages": messages, "n": number}))
    return messages


async def test_each_version_of_a_list_that_grew_comes_back_equal(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    messages = await grow(stored, 100)
    reader = fresh(manager)
    for version in (1, 2, 7, 8, 9, 63, 64, 65, 99, 100):
        loaded = await reader.load_checkpoint("t", version)
        assert loaded.state == {"messages": messages[:version], "n": version - 1}
    assert (await stored.load_checkpoint("t")).state == {"messages": messages, "n": 99}


async def test_a_list_that_grows_costs_its_tail_and_not_the_whole(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    messages = await grow(stored, 300)
    found = await pieces(database)
    whole = len(Serializer().dumps(messages))
    assert len(found) == 300
    # Each byte is stored once as a tail and once more for each tier of eight; compressing hex halves it again.
    assert sum(map(len, found)) < 3 * whole
    # Stored as a whole each time it would be 150 times.


async def test_a_load_reads_few_pieces_however_long_the_list_became(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await grow(stored, 520)
    most = await database.fetch_value("SELECT max(length(refs)) FROM holdfast_checkpoints")
    assert most // 16 <= 3 * 7 + 1


async def test_a_list_that_stays_costs_no_piece(stored: AsyncDatabaseCheckpointer, database: AsyncDatabase) -> None:
    messages = await grow(stored, 10)
    before = await pieces(database)
    for number in range(3):
        copied = [dict(each) for each in messages]
        await stored.save_checkpoint(Checkpoint("t", {"messages": copied, "n": number}))
    assert await pieces(database) == before
    assert (await stored.load_checkpoint("t")).state["messages"] == messages


async def test_a_list_goes_on_growing_from_what_was_loaded(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    messages = await grow(stored, 40)
    other = fresh(manager)
    state = (await other.load_checkpoint("t")).state
    before = sum(map(len, await pieces(database)))
    state["messages"].append("one more" * 10)
    await other.save_checkpoint(Checkpoint("t", state))
    assert sum(map(len, await pieces(database))) - before < 200
    assert (await fresh(manager).load_checkpoint("t")).state["messages"] == [*messages, "one more" * 10]


@pytest.mark.parametrize(
    "change",
    [
        lambda items: items[3].update(content="changed"),
        lambda items: items[3].update(content=items[3]["content"][:-1] + "!"),
        lambda items: items.pop(),
        lambda items: items.clear(),
        lambda items: items.insert(0, "first" * 20),
        lambda items: items.__delitem__(slice(10, None)),
        lambda items: items.reverse(),
        lambda items: items.__setitem__(-1, "last" * 20),
        lambda items: items.extend(["ź" * 30, b"bytes", bytearray(b"more"), (1, 2), {3}]),
        lambda items: items.append(None),
        lambda items: items.append(items[0]),
    ],
    ids=["inside", "last letter", "pop", "clear", "insert", "cut", "reverse", "replace", "types", "none", "again"],
)
async def test_a_list_changed_in_place_is_noticed_whatever_was_done_to_it(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, change: Any
) -> None:
    messages = await grow(stored, 20)
    kept = [dict(each) for each in messages]
    change(messages)
    await stored.save_checkpoint(Checkpoint("t", {"messages": messages}))
    assert (await fresh(manager).load_checkpoint("t")).state == {"messages": messages}
    assert (await fresh(manager).load_checkpoint("t", 20)).state == {"messages": kept, "n": 19}
    messages.append("after")
    await stored.save_checkpoint(Checkpoint("t", {"messages": messages}))
    assert (await fresh(manager).load_checkpoint("t")).state == {"messages": messages}


async def test_an_item_replaced_by_an_equal_one_of_another_type_is_noticed(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    pairs: list[tuple[Any, Any]] = [(1, True), (1, 1.0), (0.0, -0.0), (b"b" * 70, bytearray(b"b" * 70)), ((1,), [1])]
    for before, after in pairs:
        items: list[Any] = [LONG * 3, before, LONG * 3]
        await stored.save_checkpoint(Checkpoint("t", {"items": items}))
        items[1] = after
        items.append("tail" * 20)
        await stored.save_checkpoint(Checkpoint("t", {"items": items}))
        loaded = (await fresh(manager).load_checkpoint("t")).state["items"]
        assert (type(loaded[1]), repr(loaded)) == (type(after), repr(items))


async def test_a_list_that_becomes_a_dict_of_the_same_bytes_is_another_value(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    # msgpack packs the items of both in the same way.
    values: list[Any] = [[LONG * 2, LONG * 3], {LONG * 2: LONG * 3}, [LONG * 2, LONG * 3], [LONG * 2]]
    for value in values:
        await stored.save_checkpoint(Checkpoint("t", {"a": value}))
    for version, value in enumerate(values, 1):
        assert (await fresh(manager).load_checkpoint("t", version)).state == {"a": value}


@pytest.mark.parametrize(
    ("start", "step"),
    [
        ("", lambda value, n: value + f"word {n} " * 9),
        (b"", lambda value, n: value + random.Random(n).randbytes(90)),
        ({}, lambda value, n: {**value, f"key {n}": "v" * 90}),
        ((), lambda value, n: (*value, "v" * 90)),
        (deque(), lambda value, n: deque([*value, f"{n}" * 50])),
    ],
    ids=["str", "bytes", "dict", "tuple", "deque"],
)
async def test_other_types_that_grow_at_their_end_cost_their_tail_too(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase, start: Any, step: Any
) -> None:
    values = [start]
    for number in range(60):
        values.append(step(values[-1], number))
        await stored.save_checkpoint(Checkpoint("t", {"value": values[-1]}))
    for version in (1, 8, 30, 60):
        loaded = (await fresh(manager).load_checkpoint("t", version)).state["value"]
        assert (type(loaded), loaded) == (type(start), values[version])
    assert sum(map(len, await pieces(database))) < 4 * len(Serializer().dumps(values[-1]))


async def test_random_changes_come_back_as_they_were(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    chance = random.Random(7)
    items: list[Any] = []
    kept: list[list[Any]] = []
    makers: list[Any] = [
        lambda: "ab" * chance.randrange(300),
        lambda: {"content": "ź" * chance.randrange(200)},
        lambda: chance.choice([None, True, 1, 1.5, (1, "t" * 40), b"b" * 40]),
    ]
    for _ in range(120):
        action = chance.randrange(8)
        if action == 0 and items:
            items = items[: chance.randrange(len(items))]
        elif action == 1 and items:
            items = [*items]
            items[chance.randrange(len(items))] = chance.choice(makers)()
        else:
            items = items + [chance.choice(makers)() for _ in range(chance.choice((1, 1, 2, 9)))]
        kept.append(items)
        await stored.save_checkpoint(Checkpoint("t", {"items": items}))
    for version in range(1, 121, 7):
        loaded = (await fresh(manager).load_checkpoint("t", version)).state["items"]
        assert repr(loaded) == repr(kept[version - 1])


async def test_saves_of_growing_lists_side_by_side_stay_whole(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    async def run(worker: int) -> None:
        items: list[Any] = []
        for number in range(30):
            items = [*items, f"{worker} {number} " * 20]
            await stored.save_checkpoint(Checkpoint(f"t{worker}", {"items": items}))

    parallel = Parallel()
    try:
        await parallel.run([lambda worker=worker: run(worker) for worker in range(6)])
    finally:
        parallel.close()
    for worker in range(6):
        loaded = (await fresh(manager).load_checkpoint(f"t{worker}")).state["items"]
        assert loaded == [f"{worker} {number} " * 20 for number in range(30)]


async def test_saving_and_loading_a_list_that_grew_is_one_request_each(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    messages = await grow(stored, 20)
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {"messages": [*messages, message(20)], "n": 1})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.load_checkpoint("t", 20),
    ):
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1


async def test_the_latest_is_not_sent_again_to_who_has_it(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    state: dict[str, Any] = {"a": LONG, "items": [LONG * 2, {"deep": [1]}], "small": {"k": [1]}}
    await stored.save_checkpoint(Checkpoint("t", state))
    await database.execute("DELETE FROM holdfast_checkpoint_pieces")  # so that sending them is an error
    first = (await stored.load_checkpoint("t")).state
    assert first == state
    first["items"][1]["deep"].append(2)
    first["small"]["k"].clear()
    assert (await stored.load_checkpoint("t")).state == state
    with pytest.raises(CorruptError, match="is missing"):
        await fresh(manager).load_checkpoint("t")


async def test_the_latest_of_another_process_is_seen_at_once(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    other = fresh(manager)
    for number in range(4):
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": number}))
        assert (await other.load_checkpoint("t")).state == {"a": LONG, "n": number}
        await other.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": number}))
        loaded = await stored.load_checkpoint("t")
        assert (loaded.version, loaded.state) == (2 * number + 2, {"a": LONG * 2, "n": number})
    await other.delete_checkpoint("t", 8)
    loaded = await stored.load_checkpoint("t")
    assert (loaded.version, loaded.state) == (7, {"a": LONG, "n": 3})
    await stored.save_checkpoint(Checkpoint("t", {"a": "lower"}, version=100))
    await stored.save_checkpoint(Checkpoint("t", {"a": "not the latest"}, version=50))
    loaded = await stored.load_checkpoint("t")
    assert (loaded.version, loaded.state) == (100, {"a": "lower"})


# How pieces are packed


async def test_a_large_value_is_compressed_where_that_pays(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    noise = random.Random(1).randbytes(20_000)
    for value in ("a sentence of an agent " * 1000, noise, "x" * 400):
        await stored.save_checkpoint(Checkpoint("t", {"v": value}))
    for version, value in enumerate(("a sentence of an agent " * 1000, noise, "x" * 400), 1):
        assert (await fresh(manager).load_checkpoint("t", version)).state == {"v": value}
    found = sorted(await pieces(database), key=len)
    assert [each[0] for each in found] == [1, 0, 0]
    assert len(found[0]) < 200
    assert [len(each) for each in found[1:]] == [len(Serializer().dumps("x" * 400)) + 1, 20_006]


async def test_a_piece_compressed_or_not_has_the_hash_of_its_content() -> None:
    for content in (b"", b"\1\0\xc0", b"ab" * 5000, random.Random(3).randbytes(5000), b"\0" * (2**24 + 5)):
        packed = pack_piece(content)
        assert len(packed) <= len(content) + 1
        assert open_piece(packed, content_hash(content)) == content
        assert open_piece(b"\0" + content, content_hash(content)) == content


def lying(declared: int, content: bytes) -> bytes:
    """Return a frame of one raw block that declares another size."""
    head = b"\x28\xb5\x2f\xfd\xe0" + declared.to_bytes(8, "little")
    return head + (1 | len(content) << 3).to_bytes(3, "little") + content


FRAME = zstandard.ZstdCompressor(level=1).compress(b"ab" * 5000)


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
        b"\1" + zstandard.ZstdCompressor(level=1).compress(b"ac" * 5000),
        b"\0" + b"ab" * 4999,
    ],
    ids=[
        "empty", "kind", "no frame", "cut", "followed", "twice", "huge", "large", "larger", "more", "unknown size",
        "other", "short",
    ],
)  # fmt: skip
async def test_a_damaged_or_lying_piece_is_named_and_takes_no_memory(packed: bytes) -> None:
    key = content_hash(b"ab" * 5000)
    with pytest.raises(CorruptError, match=key.hex()):
        open_piece(packed, key)


async def test_a_bomb_gives_no_more_than_it_declares() -> None:
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(2**27))
    assert len(bomb) < 20_000
    # The same blocks under a header that declares 32 MiB: reading stops there.
    size = zstandard.frame_header_size(bomb)
    packed = b"\1\x28\xb5\x2f\xfd\xa0" + (2**25).to_bytes(4, "little") + bomb[size:]
    with pytest.raises(CorruptError, match="is damaged"):
        open_piece(packed, content_hash(bytes(2**27)))


async def test_a_manifest_with_an_unknown_entry_is_named(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    refs = bytes(await database.fetch_value("SELECT refs FROM holdfast_checkpoints"))
    entries: list[Any] = [7, -1, None, [], [1], [1, b""], [1, b"", 0], [2, b"", 0, 0], [1, "", 0, 0], [1, b"", 0, 9]]
    for entry in entries:
        body = msgpack.packb({"a": entry})
        manifest = b"\1" + crc32(refs, crc32(body)).to_bytes(4, "big") + body
        await database.execute("UPDATE holdfast_checkpoints SET manifest = :manifest", {"manifest": manifest})
        with pytest.raises(CorruptError, match="channel 'a': the manifest's entry is of no known kind"):
            await fresh(manager).load_checkpoint("t")


async def test_states_in_a_list_share_their_pieces_and_are_each_as_they_were(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    states: list[dict[str, Any]] = []
    for number in range(12):
        # "back" returns to a piece that the row before doesn't have.
        back = ("a" if number % 3 else "b") * 50
        states.append(
            {"same": [LONG], "own": f"{number} " * 40, "back": back, "list": [LONG] * (number * 3), "n": number}
        )
        await stored.save_checkpoint(Checkpoint("t", states[-1]))
    for checkpointer in (stored, fresh(manager)):
        listed = await checkpointer.list_checkpoints("t", states=True, limit=11)
        assert [found.state for found in listed] == states[:0:-1]
        listed[0].state["same"].append("mine")
        assert listed[1].state["same"] == [LONG]
    key = content_hash(Serializer().dumps("b" * 50))
    await database.execute("DELETE FROM holdfast_checkpoint_pieces WHERE hash = :key", {"key": key})
    with pytest.raises(
        CorruptError, match=rf"checkpoint 10 of thread 't': channel 'back': piece {key.hex()} is missing"
    ):
        await fresh(manager).list_checkpoints("t", states=True)

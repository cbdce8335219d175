# Generated from ../_async/test_checkpoint_storage.py by tests/unasync.py: edit that one.
"""What checkpoints take: a channel that grows costs its tail, a large one is compressed, each load is bounded."""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import msgpack
import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import Database, DatabaseManager, CorruptError
from tests._sync.checkpoints import (
    LONG,
    blocks,
    content_of,
    frame,
    fresh,
    manifest_of,
    pieces,
    refs,
    stored_bytes,
    take_away_blocks,
    together,
)

pytestmark = pytest.mark.tables("checkpoint")


def message(number: int) -> dict[str, Any]:
    return {"role": "user", "id": f"m{number}", "content": random.Random(number).randbytes(280).hex()}


def grow(checkpointer: DatabaseCheckpointer, steps: int) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for number in range(steps):
        messages.append(message(number))
        checkpointer.save_checkpoint(Checkpoint("t", {"messages": messages, "n": number}))
    return messages


def test_each_version_of_a_list_that_grew_comes_back_equal(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    messages = grow(stored, 100)
    reader = fresh(manager)
    for version in (1, 2, 7, 8, 9, 63, 64, 65, 99, 100):
        loaded = reader.load_checkpoint("t", version)
        assert loaded.state == {"messages": messages[:version], "n": version - 1}
    assert (stored.load_checkpoint("t")).state == {"messages": messages, "n": 99}


def test_a_list_that_grows_costs_its_tail_and_not_the_whole(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    messages = grow(stored, 300)
    found = pieces(database)
    whole = len(content_of(messages))
    assert len(found) == 300
    # Each byte is stored once as a tail and once more for each tier of eight; compressing hex halves it again.
    assert stored_bytes(database) < 3 * whole
    # Stored as a whole each time it would be 150 times.


def test_a_load_reads_few_pieces_however_long_the_list_became(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    grow(stored, 520)
    assert max(map(len, (refs(database)).values())) <= 3 * 7 + 1


def test_a_list_that_stays_costs_no_piece(stored: DatabaseCheckpointer, database: Database) -> None:
    messages = grow(stored, 10)
    before = pieces(database)
    for number in range(3):
        copied = [dict(each) for each in messages]
        stored.save_checkpoint(Checkpoint("t", {"messages": copied, "n": number}))
    assert pieces(database) == before
    assert (stored.load_checkpoint("t")).state["messages"] == messages


def test_a_list_goes_on_growing_from_what_was_loaded(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    messages = grow(stored, 40)
    other = fresh(manager)
    state = (other.load_checkpoint("t")).state
    before = stored_bytes(database)
    state["messages"].append("one more" * 10)
    other.save_checkpoint(Checkpoint("t", state))
    assert stored_bytes(database) - before < 200
    assert (fresh(manager).load_checkpoint("t")).state["messages"] == [*messages, "one more" * 10]


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
def test_a_list_changed_in_place_is_noticed_whatever_was_done_to_it(
    stored: DatabaseCheckpointer, manager: DatabaseManager, change: Any
) -> None:
    messages = grow(stored, 20)
    kept = [dict(each) for each in messages]
    change(messages)
    stored.save_checkpoint(Checkpoint("t", {"messages": messages}))
    assert (fresh(manager).load_checkpoint("t")).state == {"messages": messages}
    assert (fresh(manager).load_checkpoint("t", 20)).state == {"messages": kept, "n": 19}
    messages.append("after")
    stored.save_checkpoint(Checkpoint("t", {"messages": messages}))
    assert (fresh(manager).load_checkpoint("t")).state == {"messages": messages}


def test_an_item_replaced_by_an_equal_one_of_another_type_is_noticed(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    pairs: list[tuple[Any, Any]] = [(1, True), (1, 1.0), (0.0, -0.0), (b"b" * 70, bytearray(b"b" * 70)), ((1,), [1])]
    for before, after in pairs:
        items: list[Any] = [LONG * 3, before, LONG * 3]
        stored.save_checkpoint(Checkpoint("t", {"items": items}))
        items[1] = after
        items.append("tail" * 20)
        stored.save_checkpoint(Checkpoint("t", {"items": items}))
        loaded = (fresh(manager).load_checkpoint("t")).state["items"]
        assert (type(loaded[1]), repr(loaded)) == (type(after), repr(items))


def test_a_list_that_becomes_a_dict_of_the_same_bytes_is_another_value(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    # msgpack packs the items of both in the same way.
    values: list[Any] = [[LONG * 2, LONG * 3], {LONG * 2: LONG * 3}, [LONG * 2, LONG * 3], [LONG * 2]]
    for value in values:
        stored.save_checkpoint(Checkpoint("t", {"a": value}))
    for version, value in enumerate(values, 1):
        assert (fresh(manager).load_checkpoint("t", version)).state == {"a": value}


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
def test_other_types_that_grow_at_their_end_cost_their_tail_too(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database, start: Any, step: Any
) -> None:
    values = [start]
    for number in range(60):
        values.append(step(values[-1], number))
        stored.save_checkpoint(Checkpoint("t", {"value": values[-1]}))
    for version in (1, 8, 30, 60):
        loaded = (fresh(manager).load_checkpoint("t", version)).state["value"]
        assert (type(loaded), loaded) == (type(start), values[version])
    assert stored_bytes(database) < 4 * len(content_of(values[-1]))


def test_random_changes_come_back_as_they_were(
    stored: DatabaseCheckpointer, manager: DatabaseManager
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
        stored.save_checkpoint(Checkpoint("t", {"items": items}))
    for version in range(1, 121, 7):
        loaded = (fresh(manager).load_checkpoint("t", version)).state["items"]
        assert repr(loaded) == repr(kept[version - 1])


def test_saves_of_growing_lists_side_by_side_stay_whole(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    def run(worker: int) -> None:
        items: list[Any] = []
        for number in range(30):
            items = [*items, f"{worker} {number} " * 20]
            stored.save_checkpoint(Checkpoint(f"t{worker}", {"items": items}))

    together([lambda worker=worker: run(worker) for worker in range(6)])  # type: ignore[misc]
    for worker in range(6):
        loaded = (fresh(manager).load_checkpoint(f"t{worker}")).state["items"]
        assert loaded == [f"{worker} {number} " * 20 for number in range(30)]


def test_saving_and_loading_a_list_that_grew_is_one_request_each(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    messages = grow(stored, 20)
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {"messages": [*messages, message(20)], "n": 1})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.load_checkpoint("t", 20),
    ):
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1


def test_the_latest_is_not_sent_again_to_who_has_it(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {"a": LONG, "items": [LONG * 2, {"deep": [1]}], "small": {"k": [1]}}
    stored.save_checkpoint(Checkpoint("t", state))
    take_away_blocks(database)  # so that sending them is an error
    first = (stored.load_checkpoint("t")).state
    assert first == state
    first["items"][1]["deep"].append(2)
    first["small"]["k"].clear()
    assert (stored.load_checkpoint("t")).state == state
    with pytest.raises(CorruptError, match=r"block 1\.0 is missing"):
        fresh(manager).load_checkpoint("t")


def test_the_latest_of_another_process_is_seen_at_once(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    other = fresh(manager)
    for number in range(4):
        stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": number}))
        assert (other.load_checkpoint("t")).state == {"a": LONG, "n": number}
        other.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": number}))
        loaded = stored.load_checkpoint("t")
        assert (loaded.version, loaded.state) == (2 * number + 2, {"a": LONG * 2, "n": number})
    other.delete_checkpoint("t", 8)
    loaded = stored.load_checkpoint("t")
    assert (loaded.version, loaded.state) == (7, {"a": LONG, "n": 3})
    stored.save_checkpoint(Checkpoint("t", {"a": "lower"}, version=100))
    stored.save_checkpoint(Checkpoint("t", {"a": "not the latest"}, version=50))
    loaded = stored.load_checkpoint("t")
    assert (loaded.version, loaded.state) == (100, {"a": "lower"})


# How pieces are packed


def test_a_large_value_is_compressed_where_that_pays(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    noise = random.Random(1).randbytes(20_000)
    for value in ("a sentence of an agent " * 1000, noise, "x" * 400):
        stored.save_checkpoint(Checkpoint("t", {"v": value}))
    for version, value in enumerate(("a sentence of an agent " * 1000, noise, "x" * 400), 1):
        assert (fresh(manager).load_checkpoint("t", version)).state == {"v": value}
    packed, *plain = (blocks(database)).values()
    assert packed[0] == 1
    assert len(packed) < 200
    assert plain == [frame(content_of(noise)), frame(content_of("x" * 400))]


def test_a_manifest_with_an_unknown_entry_is_named(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    unknown: list[Any] = [-1, None, [], [1], [1, b""], [1, b"", 0], [2, b"", 0, 0], [1, "", 0, 0], [1, b"", 0, "0"]]
    unknown += [1, [1, b"", 0, 0, 1]]  # there is only the block in slot 0
    missing: list[Any] = [7 << 20, [1, b"", 0, 9 << 20]]
    for entry in unknown + missing:
        manifest = manifest_of(msgpack.packb([msgpack.packb(["a"]), entry]), [0])
        database.execute("UPDATE holdfast_checkpoints SET manifest = :manifest", {"manifest": manifest})
        said = "the manifest's entry is of no known kind" if entry in unknown else r"block 1\.0 has no piece"
        with pytest.raises(CorruptError, match=rf"checkpoint 1 of thread 't': channel 'a': {said}"):
            fresh(manager).load_checkpoint("t")


def test_a_manifest_whose_list_of_channels_is_none_is_damaged(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": 1}))
    value = content_of(1)
    wrong: list[Any] = [7, [], [b"names"], [msgpack.packb({"a": 1}), value], [msgpack.packb(["a", "b"]), value]]
    wrong += [[b"", value], [b"\xc1", value]]
    for entries in wrong:
        manifest = manifest_of(msgpack.packb(entries), [])
        database.execute("UPDATE holdfast_checkpoints SET manifest = :manifest", {"manifest": manifest})
        with pytest.raises(CorruptError, match=r"checkpoint 1 of thread 't': (its|the) manifest"):
            fresh(manager).load_checkpoint("t")


def test_a_list_of_channels_that_are_no_texts_is_damaged(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": 1}))
    for names in ([1], [["a"]], [None], [b"a"]):
        values = [content_of(1)] * len(names)  # type: ignore[arg-type]
        manifest = manifest_of(msgpack.packb([msgpack.packb(names), *values]), [])
        database.execute("UPDATE holdfast_checkpoints SET manifest = :manifest", {"manifest": manifest})
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its manifest"):
            fresh(manager).load_checkpoint("t")


def test_states_in_a_list_share_their_pieces_and_are_each_as_they_were(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    states: list[dict[str, Any]] = []
    for number in range(12):
        # "back" returns to a piece that the row before doesn't have.
        back = ("a" if number % 3 else "b") * 50
        states.append(
            {"same": [LONG], "own": f"{number} " * 40, "back": back, "list": [LONG] * (number * 3), "n": number}
        )
        stored.save_checkpoint(Checkpoint("t", states[-1]))
    for checkpointer in (stored, fresh(manager)):
        listed = checkpointer.list_checkpoints("t", states=True, limit=11)
        assert [found.state for found in listed] == states[:0:-1]
        listed[0].state["same"].append("mine")
        assert listed[1].state["same"] == [LONG]
    database.execute("UPDATE holdfast_checkpoints SET data = NULL WHERE version = 10")
    with pytest.raises(CorruptError, match=r"checkpoint 10 of thread 't': channel 'own': block 10\.0 is missing"):
        fresh(manager).list_checkpoints("t", states=True)

"""What checkpointers on SQL databases promise besides: what is stored, requests, other processes, damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from checkpoint import AsyncCheckpointer, AsyncDatabaseCheckpointer, Checkpoint
from checkpoint.refs import pack_refs
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    MigrationError,
    SQLiteConfig,
    ValidationError,
)
from tests._async.checkpoints import (
    LONG,
    RICH,
    another,
    blocks,
    check_blocks,
    check_of,
    content_of,
    frame,
    fresh,
    manifest_of,
    pieces,
    refs,
    take_away_blocks,
    together,
    versions,
)


async def test_what_was_saved_is_read_back_by_another_connection(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    saved = await stored.save_checkpoint(Checkpoint("t", RICH, metadata={"a": 1}))
    other = await another(manager, database)
    assert await other.load_checkpoint("t") == saved


async def test_the_columns_hold_what_is_said(stored: AsyncDatabaseCheckpointer, database: AsyncDatabase) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"long": [LONG], "short": 7}, metadata={"source": "loop"}))
    row = await database.fetch_one("SELECT metadata, manifest, refs, data FROM holdfast_checkpoints")
    assert row is not None
    metadata = row["metadata"] if database.kind == "postgresql" else json.loads(row["metadata"])
    assert metadata == {"source": "loop"}
    assert bytes(row["data"]) == frame(content_of([LONG]))
    assert row["refs"] == ("0" if database.kind == "postgresql" else "[0]")
    # An array of the list of channels, the number of the piece, and what is short.
    names, short = msgpack.packb(["long", "short"]), content_of(7)
    piece = hashlib.sha256(b"\0" + content_of([LONG])).digest()[:16]
    assert row["manifest"] == manifest_of(msgpack.packb([names, 0, short]), [0], piece)
    assert await database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_blocks") == 0


async def test_a_save_stores_only_the_channels_that_changed(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    state: dict[str, Any] = {f"c{n}": f"{n}" * 50 for n in range(10)}
    other = fresh(manager)
    counts = []
    for n in range(5):
        state["c3"] = f"changed {n} " * 10
        await (stored if n < 3 else other).save_checkpoint(Checkpoint("t", state))
        # The first save of a process that has seen nothing of the thread stores every piece.
        counts.append(len(await pieces(database)))
    assert counts == [10, 11, 12, 22, 23]
    await other.save_checkpoint(Checkpoint("t", state))
    await stored.load_checkpoint("t")
    await stored.save_checkpoint(Checkpoint("t", state))
    assert len(await pieces(database)) == 23


async def test_a_piece_that_is_known_to_be_stored_is_not_sent(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    """Blocks taken away by hand, behind the checkpointers' backs, stay away until somebody sends them."""
    state = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    reader = fresh(manager)
    await reader.latest("t")
    await take_away_blocks(database)
    await reader.save_checkpoint(Checkpoint("t", {**state, "n": 1}))
    assert await pieces(database) == []
    await reader.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
    assert await pieces(database) == [content_of(LONG * 3)]
    await reader.save_checkpoint(Checkpoint("t", {**state, "d": LONG * 4, "e": LONG * 5}))
    assert await pieces(database) == [content_of(LONG * n) for n in (3, 4, 5)]
    await fresh(manager).save_checkpoint(Checkpoint("t", state))
    assert await pieces(database) == [content_of(LONG * n) for n in (3, 4, 5, 1, 2)]


async def test_a_text_that_is_the_same_object_or_only_equal_comes_back(stored: AsyncDatabaseCheckpointer) -> None:
    texts = ["text " * 20, b"bytes" * 20, "text " * 21]
    for text in (texts[0], texts[0], texts[1], texts[1], "text " * 20, texts[2], texts[0]):
        await stored.save_checkpoint(Checkpoint("t", {"v": text, "same": LONG}))
    loaded = [(await stored.load_checkpoint("t", n)).state["v"] for n in range(1, 8)]
    assert loaded == [texts[0], texts[0], texts[1], texts[1], texts[0], texts[2], texts[0]]


async def test_each_call_is_one_request(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    async def requests(call: Callable[[], Any]) -> int:
        before = manager.stats()["main"].requests
        await call()
        return manager.stats()["main"].requests - before

    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 0}

    async def save(**changes: Any) -> None:
        state.update(changes)
        await stored.save_checkpoint(Checkpoint("t", state))

    assert await requests(save) == 1  # a new thread
    assert await requests(save) == 1  # nothing changed
    assert await requests(lambda: save(n=1)) == 1
    assert await requests(lambda: save(a=LONG * 3)) == 1
    assert await requests(lambda: save(a=LONG * 4, b=LONG * 5, c=LONG * 6)) == 1
    expecting = Checkpoint("t", state)
    assert await requests(lambda: stored.save_checkpoint(expecting, expected_version=5)) == 1
    assert await requests(lambda: stored.save_checkpoint(Checkpoint("t", state, version=9))) == 1
    assert await requests(lambda: stored.load_checkpoint("t")) == 1
    assert await requests(lambda: stored.load_checkpoint("t", 2)) == 1
    assert await requests(lambda: stored.latest("ghost")) == 1
    assert await requests(lambda: stored.list_checkpoints("t")) == 1
    assert await requests(lambda: stored.list_threads()) == 1
    assert await requests(lambda: stored.delete_checkpoint("t", 1)) == 1
    assert await requests(lambda: stored.delete_thread("t")) == 1


async def test_a_delete_gives_back_every_block_that_nobody_needs(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    async def found() -> list[tuple[int, int]]:
        await check_blocks(database)
        return [key[3:] for key in await blocks(database)]

    for n in range(4):
        await stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": f"{n}" * 50, "pair": f"{n // 2}" * 60}))
    assert len(await pieces(database)) == 7
    assert await found() == [(1, 0), (2, 0), (3, 0), (4, 0)]
    await stored.delete_checkpoint("t", 1)  # its block has what all need, and moves
    assert await found() == [(2, 0), (3, 0), (4, 0), (1, 0)]
    await stored.delete_checkpoint("t", 2)
    assert await found() == [(3, 0), (4, 0), (1, 0)]
    await stored.delete_thread("t")
    for table in ("s", "_threads", "_blocks"):
        assert await database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint{table}") == 0


async def test_what_another_process_deleted_or_saved_is_noticed_and_sent_again(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    other = await another(manager, database)
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    await other.delete_thread("t")
    assert (await stored.save_checkpoint(Checkpoint("t", state))).version == 1
    assert (await other.load_checkpoint("t")).state == state
    await other.delete_checkpoint("t", 1)
    assert (await stored.save_checkpoint(Checkpoint("t", {**state, "n": 1}))).version == 2
    assert (await other.load_checkpoint("t", 2)).state == {**state, "n": 1}
    await other.save_checkpoint(Checkpoint("t", {"c": LONG}))
    await other.delete_checkpoint("t", 2)
    assert (await stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))).version == 4
    assert (await other.load_checkpoint("t", 4)).state == {**state, "n": 2}
    await other.delete_thread("t")
    with pytest.raises(ConflictError) as caught:
        await stored.save_checkpoint(Checkpoint("t", state), expected_version=4)
    assert caught.value.actual == 0


async def test_a_save_of_another_process_is_a_conflict_for_who_expects_the_version_before(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    other = await another(manager, database)
    await other.save_checkpoint(Checkpoint("t", {"a": LONG}))
    with pytest.raises(ConflictError) as caught:
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG}), expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


async def test_saves_and_deletes_of_two_processes_stay_whole(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    other = await another(manager, database)
    kept: dict[int, dict[str, Any]] = {}

    async def save(checkpointer: AsyncCheckpointer, worker: int) -> None:
        for n in range(20):
            state = {"same": LONG, "turn": f"{n % 2}" * 50, "own": f"{worker}/{n} " * 20}
            saved = await checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    async def delete() -> None:
        for _ in range(20):
            for found in (await other.list_checkpoints("t", limit=3))[1:]:
                await other.delete_checkpoint("t", found.version)

    await together([lambda: save(stored, 1), lambda: save(other, 2), delete])
    assert sorted(kept) == list(range(1, 41))
    reader = fresh(manager)
    for version in await versions(reader, "t"):
        assert (await reader.load_checkpoint("t", version)).state == kept[version]


async def test_a_thread_put_back_by_hand_to_an_older_time_is_noticed(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    """As after a failover or a restored backup: the last commits, and their blocks, are gone."""
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    stamp = await database.fetch_value("SELECT stamp FROM holdfast_checkpoint_threads")
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2}))
    await database.execute("DELETE FROM holdfast_checkpoints WHERE version = 2")
    await database.execute(
        "UPDATE holdfast_checkpoint_threads SET latest = 1, counter = 1, stamp = :stamp", {"stamp": stamp}
    )
    assert (await stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": 1}))).version == 2
    assert (await stored.load_checkpoint("t")).state == {"a": LONG * 2, "n": 1}


async def test_a_save_joins_the_transaction_and_goes_with_it(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    await stored.save_checkpoint(Checkpoint("t", state))
    with pytest.raises(RuntimeError, match="undo"):
        async with database.transaction():
            await stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3, "n": 0}))
            await stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
            await stored.save_checkpoint(Checkpoint("new", {**state, "c": LONG * 3}))
            assert (await stored.load_checkpoint("t")).state == {**state, "c": LONG * 3}
            await stored.delete_checkpoint("t", 1)
            raise RuntimeError("undo")
    other = await another(manager, database)
    assert await versions(other, "t") == [1]
    assert await other.latest("new") is None
    # Pieces that were rolled back are not believed stored.
    for thread in ("t", "new"):
        await stored.save_checkpoint(Checkpoint(thread, {**state, "c": LONG * 3, "n": 1}))
        assert (await other.load_checkpoint(thread)).state == {**state, "c": LONG * 3, "n": 1}
    async with database.transaction():
        await stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
        await stored.delete_thread("new")
    assert (await other.load_checkpoint("t")).state == {**state, "n": 2}
    assert await other.latest("new") is None


async def test_a_refused_save_leaves_the_transaction_usable(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"n": 1}))
    async with database.transaction():
        with pytest.raises(DuplicateError):
            await stored.save_checkpoint(Checkpoint("t", {"n": 0}, version=1))
        with pytest.raises(ConflictError):
            await stored.save_checkpoint(Checkpoint("t", {"n": 0}), expected_version=7)
        await stored.save_checkpoint(Checkpoint("t", {"n": 2}))
    assert (await stored.load_checkpoint("t")).state == {"n": 2}


async def test_tenants_with_equal_ids_never_meet(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    one = AsyncDatabaseCheckpointer(manager, "main", tenant="one")
    two = AsyncDatabaseCheckpointer(manager, "main", tenant="two")
    await one.save_checkpoint(Checkpoint("t", {"who": "one" * 20, "same": LONG}))
    await one.save_checkpoint(Checkpoint("t", {"who": "one" * 30, "same": LONG}))
    assert await two.list_threads() == []
    assert await two.latest("t") is None
    assert await two.delete_checkpoint("t", 1) is False
    assert await two.delete_thread("t") == 0
    assert (await two.save_checkpoint(Checkpoint("t", {"who": "two" * 20, "same": LONG}))).version == 1
    assert await two.delete_thread("t") == 1
    assert (await one.load_checkpoint("t", 2)).state == {"who": "one" * 30, "same": LONG}
    assert await versions(one, "t") == [2, 1]


@pytest.mark.parametrize("bad", ["", "\0", "x" * 513, 7, None], ids=repr)
async def test_a_bad_tenant_is_refused(manager: AsyncDatabaseManager, bad: Any) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    with pytest.raises(ValidationError, match="tenant"):
        AsyncDatabaseCheckpointer(manager, "main", tenant=bad)


async def test_a_closed_manager_says_so(stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager) -> None:
    await manager.aclose()
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.list_checkpoints("t"),
        lambda: stored.delete_thread("t"),
    ):
        with pytest.raises(ClosedError):
            await call()


async def test_without_migrating_a_missing_migration_is_named(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    checkpointer = AsyncDatabaseCheckpointer(manager, "main", migrate=False)
    with pytest.raises(MigrationError, match="checkpoint/0001_checkpoints"):
        await checkpointer.save_checkpoint(Checkpoint("t", {}))


async def test_a_damaged_piece_is_named_with_its_channel_and_the_others_stay_readable(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"good": LONG}))
    await stored.save_checkpoint(Checkpoint("t", {"good": LONG, "bad": LONG * 2}))
    whole, check = frame(content_of(LONG * 2)), check_of(LONG * 2).hex()
    damages = {
        whole[:-1]: "block 2.0 is damaged: it was cut",
        whole[:5]: "block 2.0 is damaged: it was cut",
        whole + b"\0": "block 2.0 is damaged: it was cut",
        b"": "block 2.0 has no piece 0",
        whole[:-1] + bytes([whole[-1] ^ 1]): f"piece {check} is damaged: what is stored has another hash",
        b"\x63" + whole[1:]: f"piece {check} is of kind 63",
        b"\1" + whole[1:]: f"piece {check} is damaged",
    }
    for damage, said in damages.items():
        await database.execute("UPDATE holdfast_checkpoints SET data = :data WHERE version = 2", {"data": damage})
        with pytest.raises(CorruptError, match=rf"checkpoint 2 of thread 't': channel 'bad': {said}"):
            await fresh(manager).load_checkpoint("t")
        assert (await fresh(manager).load_checkpoint("t", 1)).state == {"good": LONG}
    await database.execute("UPDATE holdfast_checkpoints SET data = NULL WHERE version = 2")
    with pytest.raises(CorruptError, match=r"checkpoint 2 of thread 't': channel 'bad': block 2\.0 is missing"):
        await fresh(manager).load_checkpoint("t")
    assert (await stored.load_checkpoint("t", 1)).state == {"good": LONG}


async def test_a_damaged_manifest_is_never_read_as_another_state(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"b": LONG * 2}))
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "b": LONG * 2, "n": 7}))
    row = await database.fetch_one("SELECT manifest, refs FROM holdfast_checkpoints WHERE version = 2")
    assert row is not None
    manifest = bytes(row["manifest"])
    damaged = [b"", manifest[:-1], manifest + b"\0", b"\x03" + manifest[1:]]
    damaged += [manifest[:at] + bytes((manifest[at] ^ 1,)) + manifest[at + 1 :] for at in range(len(manifest))]
    for wrong in damaged:
        values = {"wrong": wrong}
        await database.execute("UPDATE holdfast_checkpoints SET manifest = :wrong WHERE version = 2", values)
        with pytest.raises(CorruptError, match="checkpoint 2 of thread 't': its manifest"):
            await fresh(manager).load_checkpoint("t")
        with pytest.raises(CorruptError, match="manifest"):
            await fresh(manager).rewind("t", 2)
    await database.execute("UPDATE holdfast_checkpoints SET manifest = :m WHERE version = 2", {"m": manifest})
    written = (await refs(database))["default", "t", "", 2, 0]
    assert sorted(written) == [0, 256]
    # Swapped, fewer, more, another ordinal, another version.
    for wrong_refs in (written[::-1], [0], [256], [], [0, 256, 512], [0, 257], [1, 256], [0, 512]):
        values = {"refs": pack_refs(wrong_refs) if database.kind == "postgresql" else str(wrong_refs)}
        await database.execute("UPDATE holdfast_checkpoints SET refs = :refs WHERE version = 2", values)
        with pytest.raises(CorruptError, match="checkpoint 2 of thread 't': its manifest is damaged"):
            await fresh(manager).load_checkpoint("t")

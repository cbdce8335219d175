# Generated from ../_async/test_checkpoint_tables.py by tests/unasync.py: edit that one.
"""What checkpointers on SQL databases promise besides: what is stored, requests, other processes, damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from checkpoint import Checkpointer, DatabaseCheckpointer, Checkpoint
from checkpoint.refs import pack_refs
from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    MigrationError,
    SQLiteConfig,
    ValidationError,
)
from tests._sync.checkpoints import (
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


def test_what_was_saved_is_read_back_by_another_connection(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    saved = stored.save_checkpoint(Checkpoint("t", RICH, metadata={"a": 1}))
    other = another(manager, database)
    assert other.load_checkpoint("t") == saved


def test_the_columns_hold_what_is_said(stored: DatabaseCheckpointer, database: Database) -> None:
    stored.save_checkpoint(Checkpoint("t", {"long": [LONG], "short": 7}, metadata={"source": "loop"}))
    row = database.fetch_one("SELECT metadata, manifest, refs, data FROM holdfast_checkpoints")
    assert row is not None
    metadata = row["metadata"] if database.kind == "postgresql" else json.loads(row["metadata"])
    assert metadata == {"source": "loop"}
    assert bytes(row["data"]) == frame(content_of([LONG]))
    assert row["refs"] == ("0" if database.kind == "postgresql" else "[0]")
    # An array of the list of channels, the number of the piece, and what is short.
    names, short = msgpack.packb(["long", "short"]), content_of(7)
    piece = hashlib.sha256(b"\0" + content_of([LONG])).digest()[:16]
    assert row["manifest"] == manifest_of(msgpack.packb([names, 0, short]), [0], piece)
    assert database.fetch_value("SELECT count(*) FROM holdfast_checkpoint_blocks") == 0


def test_a_save_stores_only_the_channels_that_changed(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {f"c{n}": f"{n}" * 50 for n in range(10)}
    other = fresh(manager)
    counts = []
    for n in range(5):
        state["c3"] = f"changed {n} " * 10
        (stored if n < 3 else other).save_checkpoint(Checkpoint("t", state))
        # The first save of a process that has seen nothing of the thread stores every piece.
        counts.append(len(pieces(database)))
    assert counts == [10, 11, 12, 22, 23]
    other.save_checkpoint(Checkpoint("t", state))
    stored.load_checkpoint("t")
    stored.save_checkpoint(Checkpoint("t", state))
    assert len(pieces(database)) == 23


def test_a_piece_that_is_known_to_be_stored_is_not_sent(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    """Blocks taken away by hand, behind the checkpointers' backs, stay away until somebody sends them."""
    state = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    reader = fresh(manager)
    reader.latest("t")
    take_away_blocks(database)
    reader.save_checkpoint(Checkpoint("t", {**state, "n": 1}))
    assert pieces(database) == []
    reader.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
    assert pieces(database) == [content_of(LONG * 3)]
    reader.save_checkpoint(Checkpoint("t", {**state, "d": LONG * 4, "e": LONG * 5}))
    assert pieces(database) == [content_of(LONG * n) for n in (3, 4, 5)]
    fresh(manager).save_checkpoint(Checkpoint("t", state))
    assert pieces(database) == [content_of(LONG * n) for n in (3, 4, 5, 1, 2)]


def test_a_text_that_is_the_same_object_or_only_equal_comes_back(stored: DatabaseCheckpointer) -> None:
    texts = ["text " * 20, b"bytes" * 20, "text " * 21]
    for text in (texts[0], texts[0], texts[1], texts[1], "text " * 20, texts[2], texts[0]):
        stored.save_checkpoint(Checkpoint("t", {"v": text, "same": LONG}))
    loaded = [(stored.load_checkpoint("t", n)).state["v"] for n in range(1, 8)]
    assert loaded == [texts[0], texts[0], texts[1], texts[1], texts[0], texts[2], texts[0]]


def test_each_call_is_one_request(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    def requests(call: Callable[[], Any]) -> int:
        before = manager.stats()["main"].requests
        call()
        return manager.stats()["main"].requests - before

    state: dict[str, Any] = {"a": LONG, "b": LONG * 2, "n": 0}

    def save(**changes: Any) -> None:
        state.update(changes)
        stored.save_checkpoint(Checkpoint("t", state))

    assert requests(save) == 1  # a new thread
    assert requests(save) == 1  # nothing changed
    assert requests(lambda: save(n=1)) == 1
    assert requests(lambda: save(a=LONG * 3)) == 1
    assert requests(lambda: save(a=LONG * 4, b=LONG * 5, c=LONG * 6)) == 1
    expecting = Checkpoint("t", state)
    assert requests(lambda: stored.save_checkpoint(expecting, expected_version=5)) == 1
    assert requests(lambda: stored.save_checkpoint(Checkpoint("t", state, version=9))) == 1
    assert requests(lambda: stored.load_checkpoint("t")) == 1
    assert requests(lambda: stored.load_checkpoint("t", 2)) == 1
    assert requests(lambda: stored.latest("ghost")) == 1
    assert requests(lambda: stored.list_checkpoints("t")) == 1
    assert requests(lambda: stored.list_threads()) == 1
    assert requests(lambda: stored.delete_checkpoint("t", 1)) == 1
    assert requests(lambda: stored.delete_thread("t")) == 1


def test_a_delete_gives_back_every_block_that_nobody_needs(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    def found() -> list[tuple[int, int]]:
        check_blocks(database)
        return [key[3:] for key in blocks(database)]

    for n in range(4):
        stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": f"{n}" * 50, "pair": f"{n // 2}" * 60}))
    assert len(pieces(database)) == 7
    assert found() == [(1, 0), (2, 0), (3, 0), (4, 0)]
    stored.delete_checkpoint("t", 1)  # its block has what all need, and moves
    assert found() == [(2, 0), (3, 0), (4, 0), (1, 0)]
    stored.delete_checkpoint("t", 2)
    assert found() == [(3, 0), (4, 0), (1, 0)]
    stored.delete_thread("t")
    for table in ("s", "_threads", "_blocks"):
        assert database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint{table}") == 0


def test_what_another_process_deleted_or_saved_is_noticed_and_sent_again(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = another(manager, database)
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    other.delete_thread("t")
    assert (stored.save_checkpoint(Checkpoint("t", state))).version == 1
    assert (other.load_checkpoint("t")).state == state
    other.delete_checkpoint("t", 1)
    assert (stored.save_checkpoint(Checkpoint("t", {**state, "n": 1}))).version == 2
    assert (other.load_checkpoint("t", 2)).state == {**state, "n": 1}
    other.save_checkpoint(Checkpoint("t", {"c": LONG}))
    other.delete_checkpoint("t", 2)
    assert (stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))).version == 4
    assert (other.load_checkpoint("t", 4)).state == {**state, "n": 2}
    other.delete_thread("t")
    with pytest.raises(ConflictError) as caught:
        stored.save_checkpoint(Checkpoint("t", state), expected_version=4)
    assert caught.value.actual == 0


def test_a_save_of_another_process_is_a_conflict_for_who_expects_the_version_before(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    other = another(manager, database)
    other.save_checkpoint(Checkpoint("t", {"a": LONG}))
    with pytest.raises(ConflictError) as caught:
        stored.save_checkpoint(Checkpoint("t", {"a": LONG}), expected_version=1)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


def test_saves_and_deletes_of_two_processes_stay_whole(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = another(manager, database)
    kept: dict[int, dict[str, Any]] = {}

    def save(checkpointer: Checkpointer, worker: int) -> None:
        for n in range(20):
            state = {"same": LONG, "turn": f"{n % 2}" * 50, "own": f"{worker}/{n} " * 20}
            saved = checkpointer.save_checkpoint(Checkpoint("t", state))
            kept[saved.version or 0] = state

    def delete() -> None:
        for _ in range(20):
            for found in (other.list_checkpoints("t", limit=3))[1:]:
                other.delete_checkpoint("t", found.version)

    together([lambda: save(stored, 1), lambda: save(other, 2), delete])
    assert sorted(kept) == list(range(1, 41))
    reader = fresh(manager)
    for version in versions(reader, "t"):
        assert (reader.load_checkpoint("t", version)).state == kept[version]


def test_a_thread_put_back_by_hand_to_an_older_time_is_noticed(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    """As after a failover or a restored backup: the last commits, and their blocks, are gone."""
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    stamp = database.fetch_value("SELECT stamp FROM holdfast_checkpoint_threads")
    stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2}))
    database.execute("DELETE FROM holdfast_checkpoints WHERE version = 2")
    database.execute(
        "UPDATE holdfast_checkpoint_threads SET latest = 1, counter = 1, stamp = :stamp", {"stamp": stamp}
    )
    assert (stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2, "n": 1}))).version == 2
    assert (stored.load_checkpoint("t")).state == {"a": LONG * 2, "n": 1}


def test_a_save_joins_the_transaction_and_goes_with_it(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {"a": LONG, "b": LONG * 2}
    stored.save_checkpoint(Checkpoint("t", state))
    with pytest.raises(RuntimeError, match="undo"):
        with database.transaction():
            stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3, "n": 0}))
            stored.save_checkpoint(Checkpoint("t", {**state, "c": LONG * 3}))
            stored.save_checkpoint(Checkpoint("new", {**state, "c": LONG * 3}))
            assert (stored.load_checkpoint("t")).state == {**state, "c": LONG * 3}
            stored.delete_checkpoint("t", 1)
            raise RuntimeError("undo")
    other = another(manager, database)
    assert versions(other, "t") == [1]
    assert other.latest("new") is None
    # Pieces that were rolled back are not believed stored.
    for thread in ("t", "new"):
        stored.save_checkpoint(Checkpoint(thread, {**state, "c": LONG * 3, "n": 1}))
        assert (other.load_checkpoint(thread)).state == {**state, "c": LONG * 3, "n": 1}
    with database.transaction():
        stored.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
        stored.delete_thread("new")
    assert (other.load_checkpoint("t")).state == {**state, "n": 2}
    assert other.latest("new") is None


def test_a_refused_save_leaves_the_transaction_usable(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"n": 1}))
    with database.transaction():
        with pytest.raises(DuplicateError):
            stored.save_checkpoint(Checkpoint("t", {"n": 0}, version=1))
        with pytest.raises(ConflictError):
            stored.save_checkpoint(Checkpoint("t", {"n": 0}), expected_version=7)
        stored.save_checkpoint(Checkpoint("t", {"n": 2}))
    assert (stored.load_checkpoint("t")).state == {"n": 2}


def test_tenants_with_equal_ids_never_meet(manager: DatabaseManager, database: Database) -> None:
    one = DatabaseCheckpointer(manager, "main", tenant="one")
    two = DatabaseCheckpointer(manager, "main", tenant="two")
    one.save_checkpoint(Checkpoint("t", {"who": "one" * 20, "same": LONG}))
    one.save_checkpoint(Checkpoint("t", {"who": "one" * 30, "same": LONG}))
    assert two.list_threads() == []
    assert two.latest("t") is None
    assert two.delete_checkpoint("t", 1) is False
    assert two.delete_thread("t") == 0
    assert (two.save_checkpoint(Checkpoint("t", {"who": "two" * 20, "same": LONG}))).version == 1
    assert two.delete_thread("t") == 1
    assert (one.load_checkpoint("t", 2)).state == {"who": "one" * 30, "same": LONG}
    assert versions(one, "t") == [2, 1]


@pytest.mark.parametrize("bad", ["", "\0", "x" * 513, 7, None], ids=repr)
def test_a_bad_tenant_is_refused(manager: DatabaseManager, bad: Any) -> None:
    manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    with pytest.raises(ValidationError, match="tenant"):
        DatabaseCheckpointer(manager, "main", tenant=bad)


def test_a_closed_manager_says_so(stored: DatabaseCheckpointer, manager: DatabaseManager) -> None:
    manager.close()
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {})),
        lambda: stored.load_checkpoint("t"),
        lambda: stored.list_checkpoints("t"),
        lambda: stored.delete_thread("t"),
    ):
        with pytest.raises(ClosedError):
            call()


def test_without_migrating_a_missing_migration_is_named(
    manager: DatabaseManager, database: Database
) -> None:
    checkpointer = DatabaseCheckpointer(manager, "main", migrate=False)
    with pytest.raises(MigrationError, match="checkpoint/0001_checkpoints"):
        checkpointer.save_checkpoint(Checkpoint("t", {}))


def test_a_damaged_piece_is_named_with_its_channel_and_the_others_stay_readable(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"good": LONG}))
    stored.save_checkpoint(Checkpoint("t", {"good": LONG, "bad": LONG * 2}))
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
        database.execute("UPDATE holdfast_checkpoints SET data = :data WHERE version = 2", {"data": damage})
        with pytest.raises(CorruptError, match=rf"checkpoint 2 of thread 't': channel 'bad': {said}"):
            fresh(manager).load_checkpoint("t")
        assert (fresh(manager).load_checkpoint("t", 1)).state == {"good": LONG}
    database.execute("UPDATE holdfast_checkpoints SET data = NULL WHERE version = 2")
    with pytest.raises(CorruptError, match=r"checkpoint 2 of thread 't': channel 'bad': block 2\.0 is missing"):
        fresh(manager).load_checkpoint("t")
    assert (stored.load_checkpoint("t", 1)).state == {"good": LONG}


def test_a_damaged_manifest_is_never_read_as_another_state(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"b": LONG * 2}))
    stored.save_checkpoint(Checkpoint("t", {"a": LONG, "b": LONG * 2, "n": 7}))
    row = database.fetch_one("SELECT manifest, refs FROM holdfast_checkpoints WHERE version = 2")
    assert row is not None
    manifest = bytes(row["manifest"])
    damaged = [b"", manifest[:-1], manifest + b"\0", b"\x03" + manifest[1:]]
    damaged += [manifest[:at] + bytes((manifest[at] ^ 1,)) + manifest[at + 1 :] for at in range(len(manifest))]
    for wrong in damaged:
        values = {"wrong": wrong}
        database.execute("UPDATE holdfast_checkpoints SET manifest = :wrong WHERE version = 2", values)
        with pytest.raises(CorruptError, match="checkpoint 2 of thread 't': its manifest"):
            fresh(manager).load_checkpoint("t")
        with pytest.raises(CorruptError, match="manifest"):
            fresh(manager).rewind("t", 2)
    database.execute("UPDATE holdfast_checkpoints SET manifest = :m WHERE version = 2", {"m": manifest})
    written = (refs(database))["default", "t", "", 2, 0]
    assert sorted(written) == [0, 256]
    # Swapped, fewer, more, another ordinal, another version.
    for wrong_refs in (written[::-1], [0], [256], [], [0, 256, 512], [0, 257], [1, 256], [0, 512]):
        values = {"refs": pack_refs(wrong_refs) if database.kind == "postgresql" else str(wrong_refs)}
        database.execute("UPDATE holdfast_checkpoints SET refs = :refs WHERE version = 2", values)
        with pytest.raises(CorruptError, match="checkpoint 2 of thread 't': its manifest is damaged"):
            fresh(manager).load_checkpoint("t")

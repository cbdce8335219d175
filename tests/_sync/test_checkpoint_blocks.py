# Generated from ../_async/test_checkpoint_blocks.py by tests/unasync.py: edit that one.
"""Blocks in the tables: which a save adds, which move when their version goes, and that none is lost or left over."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest

from checkpoint import Checkpointer, DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    CorruptError,
    DuplicateError,
    NotFoundError,
    PostgreSQLConfig,
)
from tests._sync.checkpoints import (
    LONG,
    another,
    blocks,
    check_blocks,
    content_of,
    cut,
    frame,
    fresh,
    pieces,
    refs,
    together,
    versions,
)

pytestmark = pytest.mark.tables("checkpoint")


def noise(size: int, seed: int) -> bytes:
    """Return bytes that don't get smaller."""
    return random.Random(seed).randbytes(size)


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "same": LONG, "pair": f"{n // 2}" * 60, "own": f"{n} " * 30}


def fill(checkpointer: Checkpointer, thread_id: str = "t", count: int = 6) -> None:
    for n in range(1, count + 1):
        checkpointer.save_checkpoint(Checkpoint(thread_id, state_of(n)))


def places(database: Database, thread_id: str = "t") -> list[tuple[int, int]]:
    """Return versions and ordinals of the blocks of a thread, those beside their checkpoint first."""
    return [key[3:] for key in blocks(database) if key[1] == thread_id]


def in_table(database: Database, thread_id: str = "t") -> list[tuple[int, int]]:
    """Return versions and ordinals of the blocks that don't lie beside their checkpoint."""
    rows = database.fetch_all(
        "SELECT version, ordinal FROM holdfast_checkpoint_blocks WHERE thread_id = :thread ORDER BY version, ordinal",
        {"thread": thread_id},
    )
    return [(row["version"], row["ordinal"]) for row in rows]


def check_states(
    checkpointer: Checkpointer, expected: dict[int, dict[str, Any]], thread_id: str = "t"
) -> None:
    """Compare every state of a thread, listed and loaded one by one."""
    listed = checkpointer.list_checkpoints(thread_id, states=True, limit=1000)
    assert {one.version: one.state for one in listed} == expected
    for version, state in expected.items():
        loaded = (checkpointer.load_checkpoint(thread_id, version)).state
        assert [*loaded.items()] == [*state.items()]


# What a save adds


def test_two_channels_with_equal_values_share_a_piece(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    large = noise(5000, 1)
    stored.save_checkpoint(Checkpoint("t", {"a": LONG, "b": LONG}))
    stored.save_checkpoint(Checkpoint("t", {"a": large, "b": large, "c": LONG}))
    assert blocks(database) == {
        ("default", "t", "", 1, 0): frame(content_of(LONG)),
        ("default", "t", "", 2, 0): frame(content_of(large)),
    }
    check_states(fresh(manager), {1: {"a": LONG, "b": LONG}, 2: {"a": large, "b": large, "c": LONG}})


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_save_after_ones_own_prune_adds_what_changed_and_no_more(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database, dry_run: bool
) -> None:
    fill(stored)
    report = stored.prune("t", keep_last=2, batch=3, dry_run=dry_run)
    assert report.checkpoints == 4
    state = {**state_of(6), "own": "seventh " * 20}
    stored.save_checkpoint(Checkpoint("t", state))
    assert (blocks(database))["default", "t", "", 7, 0] == frame(content_of("seventh " * 20))
    # A piece of a version that went is stored again.
    stored.save_checkpoint(Checkpoint("t", {**state, "pair": state_of(2)["pair"]}))
    assert [key[3] for key in blocks(database) if key[3] == 8] == ([] if dry_run else [8])
    kept = range(1, 7) if dry_run else (5, 6)
    expected = {n: state_of(n) for n in kept} | {7: state, 8: {**state, "pair": state_of(2)["pair"]}}
    check_states(fresh(manager), expected)
    check_states(stored, expected)
    check_blocks(database)


def test_a_return_to_an_earlier_value_stores_nothing(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    values: list[Any] = ["a" * 100, ["b" * 60], {"c": noise(900, 1)}]
    turns = [0, 1, 2, 0, 2, 1, 0, 0]
    for turn in turns:
        stored.save_checkpoint(Checkpoint("t", {"v": values[turn], "same": LONG}))
    assert places(database) == [(1, 0), (2, 0), (3, 0)]
    check_states(fresh(manager), {n: {"v": values[turn], "same": LONG} for n, turn in enumerate(turns, 1)})


def test_large_pieces_of_a_save_lie_apart_and_small_ones_together(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {}
    for n in range(4):
        state |= {f"large {n}": noise(3000, n), f"small {n}": f"{n}" * 90}
    stored.save_checkpoint(Checkpoint("t", state))
    found = {key[3:]: data for key, data in (blocks(database)).items()}
    assert {place: data for place, data in found.items() if place[1]} == {
        (1, n + 1): frame(content_of(state[f"large {n}"])) for n in range(4)
    }
    # With them lies the list of channels, which is a piece too.
    names, *small = [piece.content for piece in cut(found[1, 0])]
    assert [name.encode() in names for name in state] == [True] * 8
    assert small == [content_of(state[f"small {n}"]) for n in range(4)]
    one = {"large 2": state["large 2"], "n": 1}
    stored.save_checkpoint(Checkpoint("t", one))
    assert (refs(database))["default", "t", "", 2, 0] == [256 + 3]
    for version in (1, 2):
        check_states(fresh(manager), {1: state, 2: one} if version == 1 else {2: one})
        stored.delete_checkpoint("t", 1)
    assert in_table(database) == [(1, 3)]


def test_a_save_of_more_large_channels_than_blocks_can_be_numbered_is_whole(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state: dict[str, Any] = {f"c{n}": noise(600, n) for n in range(300)}
    kept = {1: state}

    def save() -> None:
        stored.save_checkpoint(Checkpoint("t", dict(kept[max(kept)])))

    before = manager.stats()["main"].requests
    save()
    assert manager.stats()["main"].requests - before == 1
    assert in_table(database) == [(1, ordinal) for ordinal in range(1, 256)]
    for changed in (("c0",), ("c299",), ("c1", "c298", *(f"c{n}" for n in range(2, 290)))):
        kept[max(kept) + 1] = {**kept[max(kept)], **{name: noise(700, 1000 + len(name)) for name in changed}}
        save()
    check_states(fresh(manager), kept)
    for gone in (1, 3):
        stored.delete_checkpoint("t", gone)
        del kept[gone]
        check_blocks(database)
    # A channel that changed has no use for its first block, nor has anybody else, but for version 2.
    assert in_table(database) != []
    check_states(fresh(manager), kept)
    stored.delete_checkpoint("t", 2)
    check_blocks(database)
    check_states(fresh(manager), {4: kept[4]})


def test_channels_come_and_go_and_change_places(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    odd = ["", "\0", "\ud800", "ż" * 10_000, "x" * 10_000, "channel\n'\"; --"]
    many = {f"channel {n}": LONG + str(n % 10) for n in range(1000)}
    states: list[dict[str, Any]] = [
        dict.fromkeys(odd, LONG),
        dict.fromkeys(odd[::-1], LONG),
        many,
        dict(reversed(many.items())),
        {**many, "one more": 1},
        dict.fromkeys(odd, LONG),
        {},
        many,
    ]
    sizes = []
    for state in states:
        before = manager.stats()["main"].requests
        stored.save_checkpoint(Checkpoint("t", state))
        assert manager.stats()["main"].requests - before == 1
        sizes.append(len(pieces(database)))
    # The list of channels is a piece, which is stored once for each set and order.
    assert [after - before for before, after in zip([0, *sizes], sizes, strict=False)] == [2, 1, 11, 1, 1, 0, 0, 0]
    check_states(fresh(manager), dict(enumerate(states, 1)))
    check_states(stored, dict(enumerate(states, 1)))


@pytest.mark.parametrize("jump", [2**23 - 2, 2**23 - 1, 2**23, 10**15, 2**61])
def test_a_piece_that_lies_too_many_versions_back_is_stored_again(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database, jump: int
) -> None:
    state = {"a": LONG, "b": LONG * 2, "n": 1}
    kept = {1: state, 1 + jump: {**state, "n": 2}, 2 + jump: {**state, "n": 3}}
    stored.save_checkpoint(Checkpoint("t", state))
    stored.save_checkpoint(Checkpoint("t", kept[1 + jump], version=1 + jump))
    assert len(pieces(database)) == (2 if jump < 2**23 else 4)
    stored.save_checkpoint(Checkpoint("t", kept[2 + jump]))
    assert len(pieces(database)) == (2 if jump + 1 < 2**23 else 4)
    check_states(fresh(manager), kept)
    lower = {"n": 4, "b": LONG * 2, "a": LONG}
    stored.save_checkpoint(Checkpoint("t", lower, version=jump // 2))
    check_states(fresh(manager), kept := {**kept, jump // 2: lower})
    stored.delete_checkpoint("t", 1)
    del kept[1]
    check_blocks(database)
    forked = stored.fork("t", 2 + jump, "new")
    assert forked.state == kept[2 + jump]
    check_states(fresh(manager), kept)
    check_blocks(database)


def test_a_rewind_over_any_distance_saves_the_state_again(
    checkpointer: Checkpointer,
) -> None:
    state = {"a": LONG, "items": [LONG] * 9, "n": 1}
    checkpointer.save_checkpoint(Checkpoint("t", state, metadata={"m": [1]}, node="node", step=7, key="k"))
    for version in (2**23 - 1, 2**23 + 9, 10**15):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": version}, version=version))
        again = checkpointer.rewind("t", 1)
        assert (again.version, again.parent_version, again.state) == (version + 1, 1, state)
        assert (again.metadata, again.node, again.step, again.key) == ({"m": [1]}, "node", 7, None)
        assert checkpointer.latest("t") == again
    saved = checkpointer.save_checkpoint(Checkpoint("t", {**state, "n": 2}))
    assert (saved.version, saved.parent_version) == (10**15 + 2, 10**15 + 1)
    checkpointer.delete_checkpoint("t", 1)
    assert (checkpointer.load_checkpoint("t")).state == {**state, "n": 2}
    with pytest.raises(NotFoundError):
        checkpointer.rewind("t", 1)


# What stays when a version goes


def test_a_block_beside_a_pruned_version_that_is_still_needed_moves_and_reads_on(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    fill(stored, count=3)
    first = (blocks(database))["default", "t", "", 1, 0]
    for n in range(3, 9):
        stored.prune("t", keep_last=1)
        assert in_table(database) == ([(1, 0)] if n % 2 == 0 else [(1, 0), (n - 1, 0)])
        assert (blocks(database))["default", "t", "", 1, 0] == first
        check_blocks(database)
        check_states(fresh(manager), {n: state_of(n)})
        stored.load_checkpoint("t")  # who has pruned a thread believes nothing stored
        stored.save_checkpoint(Checkpoint("t", state_of(n + 1)))
        check_states(fresh(manager), {n: state_of(n), n + 1: state_of(n + 1)})
    stored.save_checkpoint(Checkpoint("t", {"nothing": "of this"}))
    stored.prune("t", keep_last=1)
    assert places(database) == []


def test_forks_of_forks_read_on_whatever_goes(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    fill(stored)
    stored.prune("t", keep_last=2)
    thread, state = "t", state_of(6)
    latest = 6
    for turn in range(4):
        assert (stored.fork(thread, latest, f"fork {turn}")).state == state
        stored.delete_thread(thread)
        thread = f"fork {turn}"
        check_blocks(database)
        kept = {1: state}
        other = fresh(manager)  # who has loaded nothing, and so saves everything
        for version, checkpointer in ((2, stored), (3, other), (4, other)):
            state = {**state, "n": version, "own": f"{turn} {version} " * 20}
            checkpointer.save_checkpoint(Checkpoint(thread, state))
            kept[version] = state
        check_states(fresh(manager), kept, thread)
        (stored if turn % 2 else fresh(manager)).prune(thread, keep_last=1)
        check_states(fresh(manager), {4: state}, thread)
        check_blocks(database)
        latest = 4
    stored.fork(thread, 4, "last")
    assert min(place[0] for place in places(database, "last")) <= 0  # what a fork brings lies before version 1
    saved = stored.save_checkpoint(Checkpoint("last", {**state, "more": LONG * 9}))
    assert saved.version == 2
    stored.delete_checkpoint("last", 1)
    check_states(fresh(manager), {2: {**state, "more": LONG * 9}}, "last")
    check_blocks(database)


def test_a_rewind_onto_what_has_moved_reads_on(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    fill(stored, count=4)
    for gone in (1, 2):
        stored.delete_checkpoint("t", gone)
    assert (stored.rewind("t", 3)).state == state_of(3)
    assert (stored.rewind("t", 5)).state == state_of(3)  # of what has no block of its own
    stored.delete_checkpoint("t", 3)
    stored.delete_checkpoint("t", 5)
    check_blocks(database)
    check_states(fresh(manager), {4: state_of(4), 6: state_of(3)})
    stored.load_checkpoint("t")
    stored.save_checkpoint(Checkpoint("t", {**state_of(3), "n": 7}))
    stored.prune("t", keep_last=1)
    assert places(database) == [(1, 0), (2, 0), (3, 0)]
    check_states(fresh(manager), {7: {**state_of(3), "n": 7}})


def test_a_copy_of_a_pruned_thread_has_all_that_it_needs(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    fill(stored)
    stored.prune("t", keep_last=2)
    stored.copy_thread("t", "new")
    assert places(database, "new") == places(database)
    stored.delete_thread("t")
    check_states(fresh(manager), {5: state_of(5), 6: state_of(6)}, "new")
    stored.load_checkpoint("new")
    stored.save_checkpoint(Checkpoint("new", state_of(7)))
    stored.prune("new", keep_last=1)
    check_states(fresh(manager), {7: state_of(7)}, "new")
    check_blocks(database)
    with pytest.raises(DuplicateError, match="checkpoint 1 of thread 'new' was deleted, and others still need a part"):
        fresh(manager).save_checkpoint(Checkpoint("new", {}, version=1))


def test_a_deleted_version_whose_block_is_needed_cannot_be_saved_again(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    large = {"x": noise(3000, 1), "y": noise(3000, 2), "z": LONG}
    stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": "1" * 50}))
    stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": "2" * 50}))
    stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": "3" * 50, **large}))
    stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": "4" * 50, "y": large["y"]}))
    for gone in (1, 2, 3):
        stored.delete_checkpoint("t", gone)
    before = blocks(database)
    assert sorted(in_table(database)) == [(1, 0), (3, 2)]
    for checkpointer in (stored, fresh(manager), another(manager, database)):
        for held in (1, 3):
            said = f"checkpoint {held} of thread 't' was deleted, and others still need a part of it"
            with pytest.raises(DuplicateError, match=said):
                checkpointer.save_checkpoint(Checkpoint("t", {"v": "other" * 20}, version=held))
    assert blocks(database) == before
    assert versions(stored) == [4]
    # Nobody needs anything of version 2, nor of the others when version 4 is gone.
    again = {"same": LONG, "own": "again" * 20}
    assert (stored.save_checkpoint(Checkpoint("t", again, version=2))).version == 2
    check_states(fresh(manager), {2: again, 4: {"same": LONG, "own": "4" * 50, "y": large["y"]}})
    stored.delete_checkpoint("t", 4)
    for free in (1, 3, 4):
        fresh(manager).save_checkpoint(Checkpoint("t", {**again, "n": free}, version=free))
    check_states(fresh(manager), {2: again, **{n: {**again, "n": n} for n in (1, 3, 4)}})
    check_blocks(database)


def test_another_thread_namespace_or_tenant_holds_no_version(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    elsewhere = [(fresh(manager, "two"), "t", ""), (stored, "u", ""), (stored, "t", "sub")]
    for checkpointer, thread, namespace in [(stored, "t", ""), *elsewhere]:
        for n in (1, 2):
            checkpointer.save_checkpoint(Checkpoint(thread, {"a": LONG, "n": n}, namespace=namespace))
    stored.delete_checkpoint("t", 1)
    for checkpointer, thread, namespace in elsewhere:
        checkpointer.delete_checkpoint(thread, 2, namespace=namespace)
        checkpointer.delete_checkpoint(thread, 1, namespace=namespace)
        saved = checkpointer.save_checkpoint(Checkpoint(thread, {"b": 1}, namespace=namespace, version=1))
        assert saved.version == 1
    with pytest.raises(DuplicateError, match="was deleted"):
        stored.save_checkpoint(Checkpoint("t", {"b": 1}, version=1))
    check_states(stored, {2: {"a": LONG, "n": 2}})


# Many at once


def test_two_processes_that_save_prune_fork_rewind_and_copy_leave_nothing_lost_or_over(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = another(manager, database)
    kept: dict[int, dict[str, Any]] = {}
    made: dict[str, dict[str, Any]] = {}

    def write(worker: int) -> None:
        checkpointer = (stored, other)[worker % 2]
        for turn in range(5):
            n = worker * 10 + turn
            state = {**state_of(n), "large": noise(3000, n % 4), "also": noise(2000, n)}
            saved = checkpointer.save_checkpoint(Checkpoint("t", state, metadata={"tag": 1} if turn == 2 else {}))
            kept[saved.version or 0] = state

    def prune(checkpointer: Checkpointer) -> None:
        for _ in range(8):
            checkpointer.prune("t", keep_last=3, batch=2)

    def branch(checkpointer: Checkpointer, name: str) -> None:
        for turn in range(6):
            for found in (checkpointer.list_checkpoints("t", limit=4))[-1:]:
                try:
                    forked = checkpointer.fork("t", found.version, f"{name} {turn}")
                    made[forked.thread_id] = forked.state
                    again = checkpointer.rewind("t", found.version)
                    kept[again.version or 0] = again.state
                except NotFoundError:
                    continue  # pruned since it was listed
            checkpointer.copy_thread("t", f"{name} copy {turn}")

    stored.save_checkpoint(Checkpoint("t", state_of(0)))
    kept[1] = state_of(0)
    together(
        [(lambda worker=worker: write(worker)) for worker in range(16)]  # type: ignore[misc]
        + [lambda: prune(stored), lambda: prune(other), lambda: branch(stored, "a"), lambda: branch(other, "b")]
    )
    check_blocks(database)
    reader = fresh(manager)
    assert max(kept) == len(kept) == (versions(reader))[0]
    check_states(reader, {version: kept[version] for version in versions(reader)})
    for thread, state in made.items():
        check_states(reader, {1: state}, thread)
    for thread in reader.list_threads(limit=1000):
        if "copy" in thread.thread_id:
            copied = {version: kept[version] for version in versions(reader, thread.thread_id)}
            check_states(reader, copied, thread.thread_id)


WAITING = """
SELECT count(*) FROM pg_locks
WHERE locktype = 'advisory' AND objid = 42 AND granted = :granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
TRIGGER = (
    "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NEW; END $$",
    "CREATE TRIGGER wait BEFORE INSERT ON holdfast_checkpoint_threads FOR EACH ROW EXECUTE FUNCTION wait()",
)


def test_a_version_that_comes_and_goes_while_a_save_of_it_waits_is_not_stored_twice(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    """The save has its snapshot, and waits in a trigger for the lock of the row as it might in a queue."""
    database = manager.add_postgresql("main", postgresql_config)
    holder = manager.add_postgresql("second", postgresql_config)
    stored = fresh(manager)
    stored.save_checkpoint(Checkpoint("t", {"v": "first" * 20}))
    for statement in TRIGGER:
        database.execute(statement)

    def reached(granted: bool) -> None:
        for _ in range(100_000):
            if database.fetch_value(WAITING, {"granted": granted}):
                return
        raise AssertionError("it never came")

    def late() -> None:
        reached(granted=True)
        with suppress(DuplicateError):
            fresh(manager).save_checkpoint(Checkpoint("t", {"v": "late" * 25}, version=5))

    def others() -> None:
        with holder.transaction():
            holder.fetch_value("SELECT pg_advisory_xact_lock(42)")
            reached(granted=False)
            stored.save_checkpoint(Checkpoint("t", {"v": "fifth" * 20}, version=5))
            stored.save_checkpoint(Checkpoint("t", {"v": "fifth" * 20, "n": 6}))
            assert stored.delete_checkpoint("t", 5)

    together([late, others])
    assert (fresh(manager).load_checkpoint("t", 6)).state == {"v": "fifth" * 20, "n": 6}
    check_blocks(database)


# Damage


def test_each_byte_of_a_block_matters_and_what_is_missing_is_named(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": "a" * 33, "b": [1] * 40}))
    (data,) = (blocks(database)).values()
    statement = "UPDATE holdfast_checkpoints SET data = :data"
    said = r"main: checkpoint 1 of thread 't': channel '[ab]': (piece [0-9a-f]{16} is|block 1\.0 (is damaged|has no))"
    for at in range(len(data)):
        database.execute(statement, {"data": data[:at] + bytes((data[at] ^ 0x55,)) + data[at + 1 :]})
        with pytest.raises(CorruptError, match=said):
            fresh(manager).load_checkpoint("t")
    for size in (0, 1, 9, 30, len(data) - 1):
        database.execute(statement, {"data": data[:size]})
        with pytest.raises(CorruptError, match=said):
            fresh(manager).list_checkpoints("t", states=True)


def test_a_large_block_that_is_missing_or_damaged_is_named_and_others_read_on(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    state = {"a": noise(3000, 1), "b": noise(3000, 2), "c": LONG}
    stored.save_checkpoint(Checkpoint("t", state))
    stored.save_checkpoint(Checkpoint("t", {"a": state["a"], "c": LONG}))
    stored.save_checkpoint(Checkpoint("t", {"b": state["b"], "c": LONG}))
    for version in (1, 3):
        assert (stored.load_checkpoint("t", version)).state["b"] == state["b"]
    for damage in ("UPDATE holdfast_checkpoint_blocks SET data = :data", "DELETE FROM holdfast_checkpoint_blocks"):
        values = {"data": frame(content_of(state["b"]))[:-1]} if "data" in damage else {}
        database.execute(f"{damage} WHERE version = 1 AND ordinal = 2", values)
        for version in (1, 3):
            said = "is damaged: it was cut" if values else "is missing"
            with pytest.raises(
                CorruptError, match=rf"checkpoint {version} of thread 't': channel 'b': block 1\.2 {said}"
            ):
                fresh(manager).load_checkpoint("t", version)
        assert (fresh(manager).load_checkpoint("t", 2)).state == {"a": state["a"], "c": LONG}
    forked = stored.fork("t", 2, "new")
    assert forked.state == {"a": state["a"], "c": LONG}

# Generated from ../_async/test_checkpoint_writes.py by tests/unasync.py: edit that one.
"""Idempotency keys, pending writes, filters and listings with states: the contract of every checkpointer."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from checkpoint import (
    Checkpointer,
    DatabaseCheckpointer,
    Checkpoint,
    CheckpointInfo,
    PendingWrite,
)
from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    NotFoundError,
    ValidationError,
)
from persistence.dialect import compile_statement
from tests._sync.checkpoints import LONG, another, fresh, together, versions

pytestmark = pytest.mark.tables("checkpoint")

# Keys


def test_saving_a_key_again_gives_the_checkpoint_that_is_there_and_writes_nothing(
    checkpointer: Checkpointer,
) -> None:
    first = checkpointer.save_checkpoint(Checkpoint("t", {"v": LONG}, key="k1", metadata={"n": 1}))
    assert (first.version, first.key) == (1, "k1")
    again = checkpointer.save_checkpoint(Checkpoint("t", {"v": "another"}, key="k1", metadata={"n": 2}))
    assert again == first
    second = checkpointer.save_checkpoint(Checkpoint("t", {"v": LONG * 2}, key="k2"))
    assert checkpointer.save_checkpoint(Checkpoint("t", {"v": LONG}, key="k1")) == first
    assert checkpointer.load_checkpoint("t") == second
    assert versions(checkpointer, "t") == [2, 1]
    assert (checkpointer.save_checkpoint(Checkpoint("t", {}))).version == 3


def test_a_retry_of_an_acknowledged_save_is_neither_a_conflict_nor_a_duplicate(
    checkpointer: Checkpointer,
) -> None:
    first = checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, key="k", version=4), expected_version=0)
    assert (
        checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, key="k", version=4), expected_version=0) == first
    )
    with pytest.raises(ConflictError):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, key="other"), expected_version=0)
    with pytest.raises(DuplicateError):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, key="other", version=4))


def test_a_key_is_unique_in_its_thread_and_namespace_only(checkpointer: Checkpointer) -> None:
    for thread in ("a", "b"):
        for namespace in ("", "sub"):
            state = {"where": f"{thread}/{namespace}"}
            saved = checkpointer.save_checkpoint(Checkpoint(thread, state, key="k", namespace=namespace))
            assert saved.version == 1
            assert (checkpointer.load_checkpoint(thread, key="k", namespace=namespace)).state == state
    checkpointer.save_checkpoint(Checkpoint("a", {}))
    checkpointer.save_checkpoint(Checkpoint("a", {}))
    assert versions(checkpointer, "a") == [3, 2, 1]


def test_a_checkpoint_is_loaded_by_its_key(checkpointer: Checkpointer) -> None:
    for n in range(1, 4):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "long": LONG * n}, key=f"k{n}"))
    loaded = checkpointer.load_checkpoint("t", key="k2")
    assert (loaded.version, loaded.key, loaded.state) == (2, "k2", {"n": 2, "long": LONG * 2})
    assert [found.key for found in checkpointer.list_checkpoints("t")] == ["k3", "k2", "k1"]
    with pytest.raises(NotFoundError, match="no checkpoint with the key 'k9' of thread 't'"):
        checkpointer.load_checkpoint("t", key="k9")
    with pytest.raises(ValidationError, match="not both"):
        checkpointer.load_checkpoint("t", 1, key="k1")


def test_a_key_may_be_used_again_after_its_checkpoint_was_deleted(checkpointer: Checkpointer) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, key="k"))
    checkpointer.delete_checkpoint("t", 1)
    saved = checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}, key="k"))
    assert (saved.version, (checkpointer.load_checkpoint("t", key="k")).state) == (2, {"n": 2})


def test_of_sixteen_saves_of_one_key_at_once_one_is_stored(checkpointer: Checkpointer) -> None:
    def save(n: int) -> Callable[[], Any]:
        return lambda: checkpointer.save_checkpoint(Checkpoint("t", {"n": n, "v": f"{n} " * 30}, key="k"))

    for thread in range(3):
        saved = together([save(n) for n in range(16)])
        assert {(one.version, one.state["n"]) for one in saved} == {(1, saved[0].state["n"])}
        assert versions(checkpointer, "t") == [1]
        assert (checkpointer.load_checkpoint("t", key="k")).state == saved[0].state
        assert (checkpointer.save_checkpoint(Checkpoint("t", {"next": thread}))).version == 2
        checkpointer.delete_thread("t")


def test_a_long_key_shares_its_limit_with_the_thread(checkpointer: Checkpointer) -> None:
    thread, key = "t" * 1000, "k" * 1024
    checkpointer.save_checkpoint(Checkpoint(thread, {"v": LONG}, key=key))
    assert (checkpointer.load_checkpoint(thread, key=key)).state == {"v": LONG}
    with pytest.raises(ValidationError, match="have 2,049 bytes in UTF-8 together, more than the limit of 2,048"):
        checkpointer.save_checkpoint(Checkpoint(thread, {}, key=key, namespace="n" * 25))
    with pytest.raises(ValidationError, match="and the task id have 2,049 bytes"):
        checkpointer.put_writes(thread, key, "t" * 25, [("c", 1)])


# Pending writes


def test_pending_writes_come_back_in_order_before_and_after_their_checkpoint(
    checkpointer: Checkpointer,
) -> None:
    checkpointer.put_writes("t", "k", "b", [("out", {"n": 1}), ("log", (1, 2))], task_path="2")
    checkpointer.put_writes("t", "k", "a", [("out", Decimal("1.10"))], task_path="2")
    checkpointer.put_writes("t", "k", "c", [("out\0ü".replace("\0", ""), None)], task_path="1")
    expected = [
        PendingWrite(task_id="c", channel="outü", value=None, index=0, task_path="1"),
        PendingWrite(task_id="a", channel="out", value=Decimal("1.10"), index=0, task_path="2"),
        PendingWrite(task_id="b", channel="out", value={"n": 1}, index=0, task_path="2"),
        PendingWrite(task_id="b", channel="log", value=(1, 2), index=1, task_path="2"),
    ]
    assert checkpointer.pending_writes("t", "k") == expected
    saved = checkpointer.save_checkpoint(Checkpoint("t", {"v": LONG}, key="k"), expected_version=0)
    assert (saved.version, saved.writes) == (1, ())
    assert checkpointer.pending_writes("t", "k") == expected
    for loaded in (
        checkpointer.load_checkpoint("t", writes=True),
        checkpointer.load_checkpoint("t", 1, writes=True),
        checkpointer.load_checkpoint("t", key="k", writes=True),
        checkpointer.latest("t", writes=True),
    ):
        assert loaded is not None
        assert (loaded.state, loaded.writes) == ({"v": LONG}, tuple(expected))
    assert (checkpointer.load_checkpoint("t")).writes == ()


def test_a_write_of_an_index_that_is_there_is_kept_and_a_special_one_replaced(
    checkpointer: Checkpointer,
) -> None:
    checkpointer.put_writes("t", "k", "a", [("x", 1), ("y", 2)])
    checkpointer.put_writes("t", "k", "a", [("x", "late"), ("z", "late"), ("z", 3)])
    checkpointer.put_writes("t", "k", "a", [("w", 4)], start=7)
    checkpointer.put_writes("t", "k", "a", [("error", "first"), ("resume", 1)], indices=[-1, -4])
    checkpointer.put_writes("t", "k", "a", [("error", "second")], indices=[-1], task_path="p")
    found = [(write.index, write.channel, write.value) for write in checkpointer.pending_writes("t", "k")]
    assert sorted(found) == [
        (-4, "resume", 1),
        (-1, "error", "second"),
        (0, "x", 1),
        (1, "y", 2),
        (2, "z", 3),
        (7, "w", 4),
    ]


def test_pending_writes_go_with_their_checkpoint_and_with_their_thread(checkpointer: Checkpointer) -> None:
    for n in (1, 2):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n}, key=f"k{n}"))
        checkpointer.put_writes("t", f"k{n}", "a", [("x", n)])
    checkpointer.save_checkpoint(Checkpoint("other", {}, key="k1"))
    checkpointer.put_writes("other", "k1", "a", [("x", "other")])
    checkpointer.delete_checkpoint("t", 1)
    assert checkpointer.pending_writes("t", "k1") == []
    assert [write.value for write in checkpointer.pending_writes("t", "k2")] == [2]
    checkpointer.delete_thread("t")
    assert checkpointer.pending_writes("t", "k2") == []
    checkpointer.save_checkpoint(Checkpoint("t", {}, key="k2"))
    assert (checkpointer.load_checkpoint("t", writes=True)).writes == ()
    assert [write.value for write in checkpointer.pending_writes("other", "k1")] == ["other"]


def test_pending_writes_register_their_thread(checkpointer: Checkpointer) -> None:
    checkpointer.put_writes("t", "k", "a", [("x", 1)], namespace="sub")
    assert [found.versions for found in checkpointer.list_threads()] == [{"sub": 0}]
    assert checkpointer.pending_writes("t", "k") == []
    assert checkpointer.latest("t", namespace="sub") is None
    assert checkpointer.delete_thread("t") == 0
    assert checkpointer.list_threads() == []
    assert checkpointer.pending_writes("t", "k", namespace="sub") == []


BAD_WRITES: list[Any] = [None, "xy", [("x",)], [("x", 1, 2)], [(1, 2)], [("\0", 1)], [("x", object())], 7]


def test_bad_writes_are_refused(checkpointer: Checkpointer) -> None:
    for bad in BAD_WRITES:
        with pytest.raises(ValidationError):
            checkpointer.put_writes("t", "k", "a", bad)
    for bad in ([1], [0, 0], [0, True], "ab", 5):
        with pytest.raises(ValidationError):
            checkpointer.put_writes("t", "k", "a", [("x", 1), ("y", 2)], indices=bad)
    for bad_id in ("", "a\0b", "\ud800", "x" * 10_000, 7, None):
        for call in (
            lambda bad=bad_id: checkpointer.put_writes(bad, "k", "a", [("x", 1)]),
            lambda bad=bad_id: checkpointer.put_writes("t", bad, "a", [("x", 1)]),
            lambda bad=bad_id: checkpointer.put_writes("t", "k", bad, [("x", 1)]),
            lambda bad=bad_id: checkpointer.pending_writes("t", bad),
            lambda bad=bad_id: checkpointer.save_checkpoint(Checkpoint("t", {}, key=bad)),
        ):
            if bad_id is not None:
                with pytest.raises(ValidationError):
                    call()
    with pytest.raises(ValidationError, match="start"):
        checkpointer.put_writes("t", "k", "a", [("x", 1)], start=-1)
    checkpointer.put_writes("t", "k", "a", [])
    assert checkpointer.list_threads() == []


# Listings


def test_a_filter_asks_for_equal_values_at_any_depth(checkpointer: Checkpointer) -> None:
    given: list[dict[str, Any]] = [
        {"source": "loop", "n": 1, "tags": ["a", "b"], "deep": {"x": {"y": 1, "z": 2}}},
        {"source": "input", "n": True, "tags": ["b"], "deep": {"x": {"y": 2}}},
        {"source": "loop", "n": 1.0, "tags": [["a"]], "deep": None},
        {},
    ]
    for metadata in given:
        checkpointer.save_checkpoint(Checkpoint("t", {}, metadata=metadata))

    def found(wanted: dict[str, Any], **more: Any) -> list[int]:
        return [one.version for one in checkpointer.list_checkpoints("t", filter=wanted, **more)]

    assert found({}) == [4, 3, 2, 1]
    assert found({"source": "loop"}) == [3, 1]
    assert found({"source": "loop"}, limit=1) == [3]
    assert found({"source": "loop"}, before=3) == [1]
    assert found({"n": 1}) == [3, 1]
    assert found({"n": True}) == [2]
    assert found({"tags": ["b"]}) == [2, 1]
    assert found({"tags": ["b", "a"]}) == [1]
    assert found({"tags": [["a"]]}) == [3]
    assert found({"deep": {"x": {"y": 1}}}) == [1]
    assert found({"deep": {"x": {}}}) == [2, 1]
    assert found({"deep": None}) == [3]
    assert found({"source": "loop", "n": 2}) == []
    assert found({"absent": None}) == []
    for bad in ([], "x", {1: 2}, {"a": float("nan")}):
        with pytest.raises(ValidationError, match="filter"):
            checkpointer.list_checkpoints("t", filter=bad)  # type: ignore[arg-type]


def test_a_filter_finds_what_lies_beyond_many_that_do_not_match(checkpointer: Checkpointer) -> None:
    checkpointer.save_checkpoint(Checkpoint("t", {"n": 0}, metadata={"rare": True}))
    for n in range(1, 520):
        checkpointer.save_checkpoint(Checkpoint("t", {"n": n}, metadata={"rare": False}))
    assert [one.version for one in checkpointer.list_checkpoints("t", filter={"rare": True})] == [1]


def test_states_and_writes_are_listed_when_asked_for(checkpointer: Checkpointer) -> None:
    saved = []
    for n in range(1, 5):
        state = {"n": n, "long": LONG * n, "same": LONG}
        saved.append(
            checkpointer.save_checkpoint(Checkpoint("t", state, key=f"k{n}", metadata={"odd": n % 2 == 1}))
        )
        checkpointer.put_writes("t", f"k{n}", "a", [("x", n), ("y", LONG)])
    saved.append(checkpointer.save_checkpoint(Checkpoint("t", {"no": "key"})))
    assert checkpointer.list_checkpoints("t", states=True) == saved[::-1]
    assert checkpointer.list_checkpoints("t", states=True, limit=2, before=4) == [saved[2], saved[1]]
    assert checkpointer.list_checkpoints("t", states=True, filter={"odd": True}) == [saved[2], saved[0]]
    listed = checkpointer.list_checkpoints("t", states=True, writes=True)
    assert [[write.value for write in one.writes] for one in listed] == [[]] + [[n, LONG] for n in (4, 3, 2, 1)]
    assert [one.state for one in listed] == [one.state for one in saved[::-1]]
    assert checkpointer.list_checkpoints("ghost", states=True, writes=True) == []
    infos = checkpointer.list_checkpoints("t", limit=1)
    assert type(infos[0]) is CheckpointInfo
    with pytest.raises(ValidationError, match="with states only"):
        checkpointer.list_checkpoints("t", writes=True)  # type: ignore[call-overload]


def test_threads_are_found_by_the_metadata_of_their_latest_checkpoint(checkpointer: Checkpointer) -> None:
    for name, users in (("a", ["u1"]), ("b", ["u1", "u2"]), ("c", ["u2", "u1"]), ("d", ["u1"])):
        for user in users:
            checkpointer.save_checkpoint(Checkpoint(name, {}, metadata={"user": {"id": user}}))
    checkpointer.save_checkpoint(Checkpoint("e", {}, metadata={"user": {"id": "u1"}}, namespace="sub"))
    wanted = {"user": {"id": "u1"}}
    assert [found.thread_id for found in checkpointer.list_threads(filter=wanted)] == ["a", "c", "d"]
    page = checkpointer.list_threads(filter=wanted, limit=1, after="a")
    assert [(found.thread_id, found.versions) for found in page] == [("c", {"": 2})]
    assert len(checkpointer.list_threads()) == 5


# What those on a SQL database promise besides


def test_ten_states_with_their_writes_take_no_more_statements_than_two(
    stored: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    for n in range(10):
        stored.save_checkpoint(Checkpoint("t", {"n": n, "long": LONG * n}, key=f"k{n}"))
        stored.put_writes("t", f"k{n}", "a", [("x", n)])
    statements: list[str] = []
    manager.on_statement.append(lambda event: statements.append(event.statement))
    counts = []
    for limit in (2, 10):
        found = stored.list_checkpoints("t", states=True, writes=True, limit=limit)
        assert [[write.value for write in one.writes] for one in found] == [[9 - n] for n in range(limit)]
        counts.append(len(statements))
        statements.clear()
    assert counts[0] == counts[1] <= 6  # on SQLite with BEGIN and COMMIT


def test_pending_writes_come_in_the_statement_that_loads_their_checkpoint_and_by_its_key(
    stored: DatabaseCheckpointer, database: Database, manager: DatabaseManager
) -> None:
    for n in range(3):
        stored.save_checkpoint(Checkpoint("t", {"n": n, "long": LONG * n}, key=f"k{n}"))
        stored.put_writes("t", f"k{n}", "b", [("y", -n), ("x", n)])
        stored.put_writes("t", f"k{n}", "a", [("x", n)])
    statements: list[str] = []
    manager.on_statement.append(lambda event: statements.append(event.statement))
    loads: list[tuple[int, dict[str, Any]]] = [(2, {}), (1, {"version": 2}), (0, {"key": "k0"})]
    for n, which in loads:
        for base in (stored, fresh(manager)):
            found = base.load_checkpoint("t", writes=True, **which)
            assert found.state == {"n": n, "long": LONG * n}
            assert [(each.task_id, each.channel, each.value) for each in found.writes] == [
                ("a", "x", n),
                ("b", "y", -n),
                ("b", "x", n),
            ]
        assert len(statements) == 2
        if database.kind == "sqlite":
            names = compile_statement(statements[0], "sqlite").names
            plan = database.fetch_all(f"EXPLAIN QUERY PLAN {statements[0]}", dict.fromkeys(names))
            (way,) = [row["detail"] for row in plan if row["detail"].startswith("SEARCH w ")]
            assert way.endswith("(tenant_id=? AND thread_id=? AND namespace=? AND key=?)")
        statements.clear()


def test_each_call_is_one_request(stored: DatabaseCheckpointer, manager: DatabaseManager) -> None:
    def requests(call: Callable[[], Any]) -> int:
        before = manager.stats()["main"].requests
        call()
        return manager.stats()["main"].requests - before

    keyed = Checkpoint("t", {"a": LONG}, key="k")
    writes = [("x", 1), ("y", LONG * 100)]
    assert requests(lambda: stored.put_writes("t", "k", "a", writes)) == 1
    assert requests(lambda: stored.put_writes("t", "k", "a", writes)) == 1
    assert requests(lambda: stored.save_checkpoint(keyed)) == 1
    assert requests(lambda: stored.pending_writes("t", "k")) == 1
    assert requests(lambda: stored.load_checkpoint("t", key="k")) == 1
    assert requests(lambda: stored.load_checkpoint("t", writes=True)) == 1
    assert requests(lambda: stored.load_checkpoint("t", key="k", writes=True)) == 1
    assert requests(lambda: stored.list_checkpoints("t", states=True, writes=True)) == 1
    assert requests(lambda: stored.list_checkpoints("t", filter={"a": 1})) == 1
    assert requests(lambda: stored.list_threads(filter={"a": 1})) == 1


def test_writes_join_the_transaction_and_go_with_it(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    other = another(manager, database)
    with pytest.raises(RuntimeError, match="undo"):
        with database.transaction():
            stored.put_writes("t", "k", "a", [("x", 1)])
            stored.save_checkpoint(Checkpoint("t", {"a": LONG}, key="k"))
            again = stored.save_checkpoint(Checkpoint("t", {"b": LONG}, key="k"))
            assert (again.version, again.state) == (1, {"a": LONG})
            assert len((stored.load_checkpoint("t", writes=True)).writes) == 1
            raise RuntimeError("undo")
    assert other.list_threads() == []
    assert other.pending_writes("t", "k") == []
    with database.transaction():
        stored.put_writes("t", "k", "a", [("x", 1)])
    assert [write.value for write in other.pending_writes("t", "k")] == [1]


def test_a_retry_by_another_process_is_one_checkpoint(
    stored: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    """As after a commit whose answer was lost: whoever saves again doesn't know the stamp that it left."""
    other = another(manager, database)
    stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 0}, key="k0"))
    saved = other.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 1}, key="k1"))
    assert stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 1}, key="k1")) == saved
    assert versions(stored, "t") == [2, 1]


def test_keys_and_writes_of_tenants_never_meet(manager: DatabaseManager, database: Database) -> None:
    one = DatabaseCheckpointer(manager, "main", tenant="one")
    two = DatabaseCheckpointer(manager, "main", tenant="two")
    for who, name in ((one, "one"), (two, "two")):
        saved = who.save_checkpoint(Checkpoint("t", {"who": name}, key="k", metadata={"who": name}))
        assert (saved.version, saved.state) == (1, {"who": name})
        who.put_writes("t", "k", "a", [("x", name)])
    two.delete_checkpoint("t", 1)
    loaded = one.load_checkpoint("t", key="k", writes=True)
    assert (loaded.state, [write.value for write in loaded.writes]) == ({"who": "one"}, ["one"])
    assert two.pending_writes("t", "k") == []
    assert one.list_threads(filter={"who": "two"}) == []


def test_a_damaged_write_is_named(stored: DatabaseCheckpointer, database: Database) -> None:
    stored.put_writes("t", "k", "task 7", [("out", LONG)])
    data = bytes(database.fetch_value("SELECT data FROM holdfast_checkpoint_writes"))
    assert LONG.encode() in data
    for damaged in (data[:-1], b"", data[:-1] + bytes([data[-1] ^ 1]), b"\1" + data[1:]):
        database.execute("UPDATE holdfast_checkpoint_writes SET data = :data", {"data": damaged})
        with pytest.raises(CorruptError, match="task 'task 7' to channel 'out'"):
            stored.pending_writes("t", "k")


def test_a_thread_leaves_no_write_behind(stored: DatabaseCheckpointer, database: Database) -> None:
    for namespace in ("", "sub"):
        stored.put_writes("t", "never saved", "a", [("x", 1)], namespace=namespace)
    stored.delete_thread("t")
    for table in ("writes", "threads"):
        assert database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint_{table}") == 0


def test_a_closed_manager_says_so(stored: DatabaseCheckpointer, manager: DatabaseManager) -> None:
    manager.close()
    for call in (
        lambda: stored.put_writes("t", "k", "a", [("x", 1)]),
        lambda: stored.pending_writes("t", "k"),
        lambda: stored.load_checkpoint("t", key="k", writes=True),
    ):
        with pytest.raises(ClosedError):
            call()

# Generated from ../_async/test_checkpoint_history.py by tests/unasync.py: edit that one.
"""Time travel: history, differences, forks, copies and rewinds; the contract of every checkpointer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from checkpoint import (
    Checkpointer,
    DatabaseCheckpointer,
    Checkpoint,
    StateDiff,
)
from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    DuplicateError,
    NotFoundError,
    ValidationError,
)
from tests._sync.checkpoints import LONG, blocks, check_blocks, fresh, refs, versions

pytestmark = pytest.mark.tables("checkpoint")


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "same": LONG, "own": f"{n} " * 30, "items": [LONG] * n}


def fill(checkpointer: Checkpointer, thread_id: str = "t", count: int = 5, namespace: str = "") -> None:
    for n in range(1, count + 1):
        checkpointer.save_checkpoint(
            Checkpoint(
                thread_id,
                state_of(n),
                metadata={"n": n},
                node="even" if n % 2 == 0 else "odd",
                step=n // 2,
                key=f"k{n}",
                namespace=namespace,
            )
        )


def chain(checkpointer: Checkpointer, thread_id: str = "t", **more: Any) -> list[int]:
    return [found.version for found in checkpointer.history(thread_id, **more)]


def test_history_goes_from_parent_to_parent_and_leaves_out_other_branches(
    checkpointer: Checkpointer,
) -> None:
    fill(checkpointer, count=4)
    checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=2))  # 5, a branch from 2
    checkpointer.save_checkpoint(Checkpoint("t", {}))
    assert chain(checkpointer) == [6, 5, 2, 1]
    assert chain(checkpointer, limit=2) == [6, 5]
    assert chain(checkpointer, limit=2, before=5) == [2, 1]
    assert chain(checkpointer, limit=1, before=2) == [1]
    assert chain(checkpointer, before=1) == []
    assert chain(checkpointer, "ghost") == []
    assert (checkpointer.history("t"))[2:] == [
        found for found in checkpointer.list_checkpoints("t") if found.version in (2, 1)
    ]


def test_history_ends_where_a_parent_is_gone_and_never_goes_in_a_circle(checkpointer: Checkpointer) -> None:
    fill(checkpointer, count=4)
    checkpointer.delete_checkpoint("t", 2)
    assert chain(checkpointer) == [4, 3]
    checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=5))  # itself
    assert chain(checkpointer) == [5]
    checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=99))
    assert chain(checkpointer) == [6]


def test_the_latest_of_a_step_and_of_a_node_are_found(checkpointer: Checkpointer) -> None:
    fill(checkpointer)
    for found, version in (
        (checkpointer.at_step("t", 1), 3),
        (checkpointer.at_step("t", 2), 5),
        (checkpointer.at_node("t", "even"), 4),
        (checkpointer.at_node("t", "odd"), 5),
    ):
        assert found == checkpointer.load_checkpoint("t", version)
        assert found.state == state_of(version)
    assert checkpointer.at_step("t", 7) is None
    assert checkpointer.at_node("t", "other") is None
    assert checkpointer.at_step("t", 1, namespace="sub") is None
    assert checkpointer.at_node("ghost", "even") is None


def test_a_diff_tells_what_was_added_removed_and_changed(checkpointer: Checkpointer) -> None:
    array = np.arange(50.0)
    states: list[dict[str, Any]] = [
        {"same": [LONG], "gone": LONG, "n": 1, "kind": 1, "nan": float("nan"), "array": array},
        {"same": [LONG], "n": 2, "kind": True, "nan": float("nan"), "array": array.copy(), "new": (1, 2)},
    ]
    for state in states:
        checkpointer.save_checkpoint(Checkpoint("t", state))
    assert checkpointer.diff("t", 1, 2) == StateDiff(
        added={"new": (1, 2)}, removed={"gone": LONG}, changed={"n": (1, 2), "kind": (1, True)}
    )
    assert (checkpointer.diff("t", 2, 1)).added == {"gone": LONG}
    assert checkpointer.diff("t", 2, 2) == StateDiff(added={}, removed={}, changed={})
    with pytest.raises(NotFoundError, match="no checkpoint 3 of thread 't'"):
        checkpointer.diff("t", 1, 3)


def test_a_fork_begins_a_thread_that_shares_nothing_with_the_old_one(checkpointer: Checkpointer) -> None:
    fill(checkpointer)
    checkpointer.put_writes("t", "k3", "a", [("x", 1)])
    forked = checkpointer.fork("t", 3, "new")
    assert (forked.thread_id, forked.version, forked.parent_version, forked.key) == ("new", 1, None, "k3")
    assert (forked.state, forked.metadata, forked.node, forked.step) == (state_of(3), {"n": 3}, "odd", 1)
    assert forked.timestamp == (checkpointer.load_checkpoint("t", 3)).timestamp
    assert checkpointer.pending_writes("new", "k3") == []
    checkpointer.delete_thread("t")
    saved = checkpointer.save_checkpoint(Checkpoint("new", {**state_of(3), "more": 1}))
    assert (saved.version, saved.parent_version) == (2, 1)
    assert (checkpointer.load_checkpoint("new", 1)).state == state_of(3)
    assert (checkpointer.load_checkpoint("new", 2)).state == {**state_of(3), "more": 1}


def test_a_fork_of_what_is_not_there_or_onto_what_is_there_is_refused(checkpointer: Checkpointer) -> None:
    fill(checkpointer, "t", 2)
    fill(checkpointer, "other", 1)
    with pytest.raises(NotFoundError, match="no checkpoint 9 of thread 't'"):
        checkpointer.fork("t", 9, "new")
    with pytest.raises(NotFoundError, match="no checkpoint 1 of thread 'ghost'"):
        checkpointer.fork("ghost", 1, "new")
    with pytest.raises(DuplicateError, match="thread 'other' already exists"):
        checkpointer.fork("t", 1, "other")
    with pytest.raises(ValidationError, match="onto itself"):
        checkpointer.fork("t", 1, "t")
    assert [found.thread_id for found in checkpointer.list_threads()] == ["other", "t"]
    assert versions(checkpointer, "other") == [1]
    fill(checkpointer, "t", 1, "sub")
    assert (checkpointer.fork("t", 1, "other", namespace="sub")).namespace == "sub"
    checkpointer.put_writes("waiting", "k", "a", [("x", 1)])
    assert (checkpointer.fork("t", 1, "waiting")).version == 1


def test_a_copied_thread_has_everything_and_is_its_own(checkpointer: Checkpointer) -> None:
    fill(checkpointer)
    fill(checkpointer, count=2, namespace="sub")
    checkpointer.put_writes("t", "k5", "a", [("x", LONG)])
    checkpointer.put_writes("t", "later", "a", [("x", 2)], namespace="sub")
    checkpointer.delete_checkpoint("t", 2)
    assert checkpointer.copy_thread("t", "new") == 6
    for namespace in ("", "sub"):
        old = checkpointer.list_checkpoints("t", states=True, writes=True, namespace=namespace)
        new = checkpointer.list_checkpoints("new", states=True, writes=True, namespace=namespace)
        assert [(one.version, one.parent_version, one.key, one.state, one.writes) for one in new] == [
            (one.version, one.parent_version, one.key, one.state, one.writes) for one in old
        ]
        assert [one.metadata for one in new] == [one.metadata for one in old]
    assert [write.value for write in checkpointer.pending_writes("new", "later", namespace="sub")] == [2]
    checkpointer.delete_thread("t")
    assert (checkpointer.load_checkpoint("new", 3)).state == state_of(3)
    assert (checkpointer.save_checkpoint(Checkpoint("new", state_of(6)))).version == 6
    with pytest.raises(NotFoundError, match="thread 't'"):
        checkpointer.copy_thread("t", "third")


def test_a_copy_onto_a_thread_that_is_there_is_refused(checkpointer: Checkpointer) -> None:
    fill(checkpointer, "t", 2)
    fill(checkpointer, "other", 1, "sub")
    with pytest.raises(DuplicateError, match="thread 'other' already exists"):
        checkpointer.copy_thread("t", "other")
    with pytest.raises(ValidationError, match="onto itself"):
        checkpointer.copy_thread("t", "t")
    with pytest.raises(NotFoundError, match="thread 'nobody'"):  # whether the new thread is there or not
        checkpointer.copy_thread("nobody", "other")
    assert [found.versions for found in checkpointer.list_threads()] == [{"sub": 1}, {"": 2}]


def test_a_rewind_saves_an_earlier_state_again_and_keeps_everything(checkpointer: Checkpointer) -> None:
    fill(checkpointer)
    before = datetime.now(UTC)
    again = checkpointer.rewind("t", 2)
    assert (again.version, again.parent_version, again.key) == (6, 2, None)
    assert (again.state, again.metadata, again.node, again.step) == (state_of(2), {"n": 2}, "even", 1)
    assert again.timestamp is not None
    assert before <= again.timestamp <= datetime.now(UTC)
    assert checkpointer.latest("t") == again
    assert versions(checkpointer, "t") == [6, 5, 4, 3, 2, 1]
    assert chain(checkpointer) == [6, 2, 1]
    checkpointer.delete_checkpoint("t", 2)
    saved = checkpointer.save_checkpoint(Checkpoint("t", {**state_of(2), "more": 1}))
    assert (saved.version, saved.parent_version) == (7, 6)
    assert (checkpointer.load_checkpoint("t", 6)).state == state_of(2)
    assert (checkpointer.load_checkpoint("t")).state == {**state_of(2), "more": 1}
    huge = checkpointer.save_checkpoint(Checkpoint("huge", {}, metadata={"n": 1e300}))
    assert (checkpointer.rewind("huge", 1)).metadata == huge.metadata
    for thread, version in (("t", 99), ("ghost", 1)):
        with pytest.raises(NotFoundError, match=f"no checkpoint {version} of thread"):
            checkpointer.rewind(thread, version)
    assert versions(checkpointer, "t") == [7, 6, 5, 4, 3, 1]


def calls(checkpointer: Checkpointer, bad: Any) -> list[Callable[[], Any]]:
    return [
        lambda: checkpointer.history(bad),
        lambda: checkpointer.at_step(bad, 1),
        lambda: checkpointer.at_node(bad, "n"),
        lambda: checkpointer.at_node("t", bad),
        lambda: checkpointer.diff(bad, 1, 2),
        lambda: checkpointer.fork(bad, 1, "new"),
        lambda: checkpointer.fork("t", 1, bad),
        lambda: checkpointer.copy_thread(bad, "new"),
        lambda: checkpointer.copy_thread("t", bad),
        lambda: checkpointer.rewind(bad, 1),
    ]


def test_a_bad_id_or_version_is_refused_by_every_call(checkpointer: Checkpointer) -> None:
    for bad in ("", "a\0b", "\ud800", "x" * 10_000, 7, None):
        for call in calls(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"thread id|node"):
                call()
    for wrong in (0, True, "1", 1.0, None):
        for call in (
            lambda bad=wrong: checkpointer.diff("t", bad, 1),
            lambda bad=wrong: checkpointer.fork("t", bad, "new"),
            lambda bad=wrong: checkpointer.rewind("t", bad),
            lambda bad=wrong: checkpointer.history("t", limit=bad),
        ):
            with pytest.raises(ValidationError):
                call()
    assert checkpointer.list_threads() == []


# What those on a SQL database promise besides


def test_forks_copies_and_rewinds_join_the_transaction_and_go_with_it(
    stored: DatabaseCheckpointer, database: Database, manager: DatabaseManager
) -> None:
    fill(stored, count=3)
    with pytest.raises(RuntimeError, match="undo"):
        with database.transaction():
            stored.fork("t", 2, "forked")
            stored.copy_thread("t", "copied")
            assert (stored.rewind("t", 1)).version == 4
            assert len(stored.list_threads()) == 3
            raise RuntimeError("undo")
    assert [found.versions for found in stored.list_threads()] == [{"": 3}]
    saved = stored.save_checkpoint(Checkpoint("t", {**state_of(1), "n": 4}))
    assert saved.version == 4
    assert (fresh(manager).load_checkpoint("t")).state == {**state_of(1), "n": 4}


def test_a_fork_takes_the_blocks_of_its_checkpoint_only(
    stored: DatabaseCheckpointer, database: Database
) -> None:
    fill(stored, count=4)
    stored.fork("t", 3, "new")
    found = blocks(database)
    taken = {key[3:]: data for key, data in found.items() if key[1] == "new"}
    source = ("default", "t", "", 3, 0)
    needed = (refs(database))[source]
    assert taken == {(1 - (ref >> 8), ref & 255): found[(*source[:3], 3 - (ref >> 8), ref & 255)] for ref in needed}
    assert len(taken) == 3
    check_blocks(database)


def test_tenants_never_reach_each_other(manager: DatabaseManager, database: Database) -> None:
    one = DatabaseCheckpointer(manager, "main", tenant="one")
    two = DatabaseCheckpointer(manager, "main", tenant="two")
    fill(one, count=2)
    for call in (
        lambda: two.fork("t", 1, "new"),
        lambda: two.copy_thread("t", "new"),
        lambda: two.rewind("t", 1),
        lambda: two.diff("t", 1, 2),
    ):
        with pytest.raises(NotFoundError):
            call()
    assert two.history("t") == []
    assert two.at_node("t", "odd") is None
    fill(two, count=1)
    two.fork("t", 1, "new")
    assert [found.thread_id for found in one.list_threads()] == ["t"]


def test_a_closed_manager_says_so(stored: DatabaseCheckpointer, manager: DatabaseManager) -> None:
    manager.close()
    for call in (
        lambda: stored.history("t"),
        lambda: stored.fork("t", 1, "new"),
        lambda: stored.copy_thread("t", "new"),
        lambda: stored.rewind("t", 1),
    ):
        with pytest.raises(ClosedError):
            call()

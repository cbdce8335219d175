"""Time travel: history, differences, forks, copies and rewinds; the contract of every checkpointer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from checkpoint import (
    AsyncCheckpointer,
    AsyncDatabaseCheckpointer,
    Checkpoint,
    StateDiff,
)
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    DuplicateError,
    NotFoundError,
    ValidationError,
)
from tests._async.checkpoints import LONG, blocks, check_blocks, fresh, refs, versions

pytestmark = pytest.mark.tables("checkpoint")


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "same": LONG, "own": f"{n} " * 30, "items": [LONG] * n}


async def fill(checkpointer: AsyncCheckpointer, thread_id: str = "t", count: int = 5, namespace: str = "") -> None:
    for n in range(1, count + 1):
        await checkpointer.save_checkpoint(
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


async def chain(checkpointer: AsyncCheckpointer, thread_id: str = "t", **more: Any) -> list[int]:
    return [found.version for found in await checkpointer.history(thread_id, **more)]


async def test_history_goes_from_parent_to_parent_and_leaves_out_other_branches(
    checkpointer: AsyncCheckpointer,
) -> None:
    await fill(checkpointer, count=4)
    await checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=2))  # 5, a branch from 2
    await checkpointer.save_checkpoint(Checkpoint("t", {}))
    assert await chain(checkpointer) == [6, 5, 2, 1]
    assert await chain(checkpointer, limit=2) == [6, 5]
    assert await chain(checkpointer, limit=2, before=5) == [2, 1]
    assert await chain(checkpointer, limit=1, before=2) == [1]
    assert await chain(checkpointer, before=1) == []
    assert await chain(checkpointer, "ghost") == []
    assert (await checkpointer.history("t"))[2:] == [
        found for found in await checkpointer.list_checkpoints("t") if found.version in (2, 1)
    ]


async def test_history_ends_where_a_parent_is_gone_and_never_goes_in_a_circle(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, count=4)
    await checkpointer.delete_checkpoint("t", 2)
    assert await chain(checkpointer) == [4, 3]
    await checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=5))  # itself
    assert await chain(checkpointer) == [5]
    await checkpointer.save_checkpoint(Checkpoint("t", {}, parent_version=99))
    assert await chain(checkpointer) == [6]


async def test_the_latest_of_a_step_and_of_a_node_are_found(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    for found, version in (
        (await checkpointer.at_step("t", 1), 3),
        (await checkpointer.at_step("t", 2), 5),
        (await checkpointer.at_node("t", "even"), 4),
        (await checkpointer.at_node("t", "odd"), 5),
    ):
        assert found == await checkpointer.load_checkpoint("t", version)
        assert found.state == state_of(version)
    assert await checkpointer.at_step("t", 7) is None
    assert await checkpointer.at_node("t", "other") is None
    assert await checkpointer.at_step("t", 1, namespace="sub") is None
    assert await checkpointer.at_node("ghost", "even") is None


async def test_a_diff_tells_what_was_added_removed_and_changed(checkpointer: AsyncCheckpointer) -> None:
    array = np.arange(50.0)
    states: list[dict[str, Any]] = [
        {"same": [LONG], "gone": LONG, "n": 1, "kind": 1, "nan": float("nan"), "array": array},
        {"same": [LONG], "n": 2, "kind": True, "nan": float("nan"), "array": array.copy(), "new": (1, 2)},
    ]
    for state in states:
        await checkpointer.save_checkpoint(Checkpoint("t", state))
    assert await checkpointer.diff("t", 1, 2) == StateDiff(
        added={"new": (1, 2)}, removed={"gone": LONG}, changed={"n": (1, 2), "kind": (1, True)}
    )
    assert (await checkpointer.diff("t", 2, 1)).added == {"gone": LONG}
    assert await checkpointer.diff("t", 2, 2) == StateDiff(added={}, removed={}, changed={})
    with pytest.raises(NotFoundError, match="no checkpoint 3 of thread 't'"):
        await checkpointer.diff("t", 1, 3)


async def test_a_fork_begins_a_thread_that_shares_nothing_with_the_old_one(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    await checkpointer.put_writes("t", "k3", "a", [("x", 1)])
    forked = await checkpointer.fork("t", 3, "new")
    assert (forked.thread_id, forked.version, forked.parent_version, forked.key) == ("new", 1, None, "k3")
    assert (forked.state, forked.metadata, forked.node, forked.step) == (state_of(3), {"n": 3}, "odd", 1)
    assert forked.timestamp == (await checkpointer.load_checkpoint("t", 3)).timestamp
    assert await checkpointer.pending_writes("new", "k3") == []
    await checkpointer.delete_thread("t")
    saved = await checkpointer.save_checkpoint(Checkpoint("new", {**state_of(3), "more": 1}))
    assert (saved.version, saved.parent_version) == (2, 1)
    assert (await checkpointer.load_checkpoint("new", 1)).state == state_of(3)
    assert (await checkpointer.load_checkpoint("new", 2)).state == {**state_of(3), "more": 1}


async def test_a_fork_of_what_is_not_there_or_onto_what_is_there_is_refused(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, "t", 2)
    await fill(checkpointer, "other", 1)
    with pytest.raises(NotFoundError, match="no checkpoint 9 of thread 't'"):
        await checkpointer.fork("t", 9, "new")
    with pytest.raises(NotFoundError, match="no checkpoint 1 of thread 'ghost'"):
        await checkpointer.fork("ghost", 1, "new")
    with pytest.raises(DuplicateError, match="thread 'other' already exists"):
        await checkpointer.fork("t", 1, "other")
    with pytest.raises(ValidationError, match="onto itself"):
        await checkpointer.fork("t", 1, "t")
    assert [found.thread_id for found in await checkpointer.list_threads()] == ["other", "t"]
    assert await versions(checkpointer, "other") == [1]
    await fill(checkpointer, "t", 1, "sub")
    assert (await checkpointer.fork("t", 1, "other", namespace="sub")).namespace == "sub"
    await checkpointer.put_writes("waiting", "k", "a", [("x", 1)])
    assert (await checkpointer.fork("t", 1, "waiting")).version == 1


async def test_a_copied_thread_has_everything_and_is_its_own(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    await fill(checkpointer, count=2, namespace="sub")
    await checkpointer.put_writes("t", "k5", "a", [("x", LONG)])
    await checkpointer.put_writes("t", "later", "a", [("x", 2)], namespace="sub")
    await checkpointer.delete_checkpoint("t", 2)
    assert await checkpointer.copy_thread("t", "new") == 6
    for namespace in ("", "sub"):
        old = await checkpointer.list_checkpoints("t", states=True, writes=True, namespace=namespace)
        new = await checkpointer.list_checkpoints("new", states=True, writes=True, namespace=namespace)
        assert [(one.version, one.parent_version, one.key, one.state, one.writes) for one in new] == [
            (one.version, one.parent_version, one.key, one.state, one.writes) for one in old
        ]
        assert [one.metadata for one in new] == [one.metadata for one in old]
    assert [write.value for write in await checkpointer.pending_writes("new", "later", namespace="sub")] == [2]
    await checkpointer.delete_thread("t")
    assert (await checkpointer.load_checkpoint("new", 3)).state == state_of(3)
    assert (await checkpointer.save_checkpoint(Checkpoint("new", state_of(6)))).version == 6
    with pytest.raises(NotFoundError, match="thread 't'"):
        await checkpointer.copy_thread("t", "third")


async def test_a_copy_onto_a_thread_that_is_there_is_refused(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, "t", 2)
    await fill(checkpointer, "other", 1, "sub")
    with pytest.raises(DuplicateError, match="thread 'other' already exists"):
        await checkpointer.copy_thread("t", "other")
    with pytest.raises(ValidationError, match="onto itself"):
        await checkpointer.copy_thread("t", "t")
    with pytest.raises(NotFoundError, match="thread 'nobody'"):  # whether the new thread is there or not
        await checkpointer.copy_thread("nobody", "other")
    assert [found.versions for found in await checkpointer.list_threads()] == [{"sub": 1}, {"": 2}]


async def test_a_rewind_saves_an_earlier_state_again_and_keeps_everything(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    before = datetime.now(UTC)
    again = await checkpointer.rewind("t", 2)
    assert (again.version, again.parent_version, again.key) == (6, 2, None)
    assert (again.state, again.metadata, again.node, again.step) == (state_of(2), {"n": 2}, "even", 1)
    assert again.timestamp is not None
    assert before <= again.timestamp <= datetime.now(UTC)
    assert await checkpointer.latest("t") == again
    assert await versions(checkpointer, "t") == [6, 5, 4, 3, 2, 1]
    assert await chain(checkpointer) == [6, 2, 1]
    await checkpointer.delete_checkpoint("t", 2)
    saved = await checkpointer.save_checkpoint(Checkpoint("t", {**state_of(2), "more": 1}))
    assert (saved.version, saved.parent_version) == (7, 6)
    assert (await checkpointer.load_checkpoint("t", 6)).state == state_of(2)
    assert (await checkpointer.load_checkpoint("t")).state == {**state_of(2), "more": 1}
    huge = await checkpointer.save_checkpoint(Checkpoint("huge", {}, metadata={"n": 1e300}))
    assert (await checkpointer.rewind("huge", 1)).metadata == huge.metadata
    for thread, version in (("t", 99), ("ghost", 1)):
        with pytest.raises(NotFoundError, match=f"no checkpoint {version} of thread"):
            await checkpointer.rewind(thread, version)
    assert await versions(checkpointer, "t") == [7, 6, 5, 4, 3, 1]


def calls(checkpointer: AsyncCheckpointer, bad: Any) -> list[Callable[[], Any]]:
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


async def test_a_bad_id_or_version_is_refused_by_every_call(checkpointer: AsyncCheckpointer) -> None:
    for bad in ("", "a\0b", "\ud800", "x" * 10_000, 7, None):
        for call in calls(checkpointer, bad):
            with pytest.raises(ValidationError, match=r"thread id|node"):
                await call()
    for wrong in (0, True, "1", 1.0, None):
        for call in (
            lambda bad=wrong: checkpointer.diff("t", bad, 1),
            lambda bad=wrong: checkpointer.fork("t", bad, "new"),
            lambda bad=wrong: checkpointer.rewind("t", bad),
            lambda bad=wrong: checkpointer.history("t", limit=bad),
        ):
            with pytest.raises(ValidationError):
                await call()
    assert await checkpointer.list_threads() == []


# What those on a SQL database promise besides


async def test_forks_copies_and_rewinds_join_the_transaction_and_go_with_it(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase, manager: AsyncDatabaseManager
) -> None:
    await fill(stored, count=3)
    with pytest.raises(RuntimeError, match="undo"):
        async with database.transaction():
            await stored.fork("t", 2, "forked")
            await stored.copy_thread("t", "copied")
            assert (await stored.rewind("t", 1)).version == 4
            assert len(await stored.list_threads()) == 3
            raise RuntimeError("undo")
    assert [found.versions for found in await stored.list_threads()] == [{"": 3}]
    saved = await stored.save_checkpoint(Checkpoint("t", {**state_of(1), "n": 4}))
    assert saved.version == 4
    assert (await fresh(manager).load_checkpoint("t")).state == {**state_of(1), "n": 4}


async def test_a_fork_takes_the_blocks_of_its_checkpoint_only(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await fill(stored, count=4)
    await stored.fork("t", 3, "new")
    found = await blocks(database)
    taken = {key[3:]: data for key, data in found.items() if key[1] == "new"}
    source = ("default", "t", "", 3, 0)
    needed = (await refs(database))[source]
    assert taken == {(1 - (ref >> 8), ref & 255): found[(*source[:3], 3 - (ref >> 8), ref & 255)] for ref in needed}
    assert len(taken) == 3
    await check_blocks(database)


async def test_tenants_never_reach_each_other(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    one = AsyncDatabaseCheckpointer(manager, "main", tenant="one")
    two = AsyncDatabaseCheckpointer(manager, "main", tenant="two")
    await fill(one, count=2)
    for call in (
        lambda: two.fork("t", 1, "new"),
        lambda: two.copy_thread("t", "new"),
        lambda: two.rewind("t", 1),
        lambda: two.diff("t", 1, 2),
    ):
        with pytest.raises(NotFoundError):
            await call()
    assert await two.history("t") == []
    assert await two.at_node("t", "odd") is None
    await fill(two, count=1)
    await two.fork("t", 1, "new")
    assert [found.thread_id for found in await one.list_threads()] == ["t"]


async def test_a_closed_manager_says_so(stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager) -> None:
    await manager.aclose()
    for call in (
        lambda: stored.history("t"),
        lambda: stored.fork("t", 1, "new"),
        lambda: stored.copy_thread("t", "new"),
        lambda: stored.rewind("t", 1),
    ):
        with pytest.raises(ClosedError):
            await call()

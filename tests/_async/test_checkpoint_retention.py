"""Pruning, times to live and the deletion of threads: the contract of every checkpointer."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from checkpoint import (
    AsyncCheckpointer,
    AsyncDatabaseCheckpointer,
    Checkpoint,
    PruneReport,
)
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    DuplicateError,
    NotFoundError,
    ValidationError,
)
from tests._async.checkpoints import LONG, another, blocks, check_blocks, stored_bytes, together, versions

pytestmark = pytest.mark.tables("checkpoint")

PAST = timedelta(microseconds=1)
NOW = datetime.now(UTC)


def state_of(n: int) -> dict[str, Any]:
    return {"n": n, "same": LONG, "pair": f"{n // 2}" * 60, "own": f"{n} " * 30}


async def fill(checkpointer: AsyncCheckpointer, thread_id: str = "t", count: int = 8, namespace: str = "") -> None:
    """Save versions 1, 2, …; version n is as many days old as there come after it, every third has a tag."""
    for n in range(1, count + 1):
        await checkpointer.save_checkpoint(
            Checkpoint(
                thread_id,
                state_of(n),
                metadata={"tag": None} if n % 3 == 0 else {"n": n},
                timestamp=NOW - timedelta(days=count - n),
                key=f"k{n}",
                namespace=namespace,
            )
        )


async def threads(checkpointer: AsyncCheckpointer) -> list[str]:
    return [found.thread_id for found in await checkpointer.list_threads()]


async def whole(checkpointer: AsyncCheckpointer, thread_id: str = "t", namespace: str = "") -> None:
    """Load every checkpoint, and find its state as it was saved."""
    for loaded in await checkpointer.list_checkpoints(thread_id, states=True, namespace=namespace, limit=1000):
        assert loaded.state == state_of(loaded.state["n"])


# Pruning


async def test_a_prune_keeps_the_newest_and_the_tagged(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    report = await checkpointer.prune("t", keep_last=2)
    assert report.checkpoints == 4
    assert await versions(checkpointer) == [8, 7, 6, 3]
    await whole(checkpointer)
    assert (await checkpointer.prune("t", keep_last=2)).checkpoints == 0
    assert (await checkpointer.prune("t", keep_last=2, keep_tagged=False)).checkpoints == 2
    assert await versions(checkpointer) == [8, 7]
    assert (await checkpointer.save_checkpoint(Checkpoint("t", state_of(9)))).version == 9
    await whole(checkpointer)


async def test_a_prune_by_age_keeps_what_is_younger_and_always_the_latest(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    assert (await checkpointer.prune("t", older_than=NOW - timedelta(days=3), keep_tagged=False)).checkpoints == 4
    assert await versions(checkpointer) == [8, 7, 6, 5]
    assert (await checkpointer.prune("t", older_than=timedelta(days=2.5), keep_last=3)).checkpoints == 1
    assert await versions(checkpointer) == [8, 7, 6]
    assert (await checkpointer.prune("t", older_than=timedelta(days=-1), keep_tagged=False)).checkpoints == 2
    assert await versions(checkpointer) == [8]
    await whole(checkpointer)


async def test_both_rules_together_remove_what_both_allow(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    older = timedelta(days=4.5)
    assert (await checkpointer.prune("t", keep_last=2, older_than=older, keep_tagged=False)).checkpoints == 3
    assert await versions(checkpointer) == [8, 7, 6, 5, 4]


async def test_a_dry_run_reports_what_the_prune_then_removes(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer)
    dry = await checkpointer.prune("t", keep_last=2, dry_run=True, batch=1)
    assert await versions(checkpointer) == [8, 7, 6, 5, 4, 3, 2, 1]
    await whole(checkpointer)
    assert dry.checkpoints == 4
    assert dry.bytes > 0
    assert await checkpointer.prune("t", keep_last=2) == dry
    assert await checkpointer.prune("t", keep_last=2) == PruneReport(checkpoints=0, bytes=0)


async def test_a_prune_of_every_thread_reaches_each_namespace_in_batches(checkpointer: AsyncCheckpointer) -> None:
    for thread in ("a", "b", "é"):
        for namespace in ("", "sub", "sub:1"):
            await fill(checkpointer, thread, 5, namespace)
    await fill(checkpointer, "single", 1)
    report = await checkpointer.prune(keep_last=1, keep_tagged=False, batch=3)
    assert report.checkpoints == 3 * 3 * 4
    for thread in ("a", "b", "é"):
        for namespace in ("", "sub", "sub:1"):
            assert await versions(checkpointer, thread, namespace) == [5]
            await whole(checkpointer, thread, namespace)
    assert await versions(checkpointer, "single") == [1]


async def test_a_prune_of_one_thread_reaches_all_its_namespaces_and_no_other_thread(
    checkpointer: AsyncCheckpointer,
) -> None:
    for thread in ("a", "ab"):
        for namespace in ("", "sub"):
            await fill(checkpointer, thread, 4, namespace)
    assert (await checkpointer.prune("a", keep_last=1, keep_tagged=False)).checkpoints == 6
    assert await versions(checkpointer, "ab") == await versions(checkpointer, "ab", "sub") == [4, 3, 2, 1]
    assert (await checkpointer.prune("ghost", keep_last=1)).checkpoints == 0


async def test_pending_writes_go_with_what_is_pruned(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, count=4)
    for n in range(1, 6):
        await checkpointer.put_writes("t", f"k{n}", "a", [("x", n)])
    await checkpointer.prune("t", keep_last=1)
    left = [n for n in range(1, 6) if await checkpointer.pending_writes("t", f"k{n}")]
    assert left == [3, 4, 5]


async def test_a_prune_without_a_rule_or_with_a_bad_one_is_refused(checkpointer: AsyncCheckpointer) -> None:
    with pytest.raises(ValidationError, match="needs keep_last or older_than"):
        await checkpointer.prune("t")
    for bad in (0, -1, True, "1", 1.5):
        with pytest.raises(ValidationError, match="keep_last"):
            await checkpointer.prune("t", keep_last=bad)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="batch"):
            await checkpointer.prune("t", keep_last=1, batch=bad)  # type: ignore[arg-type]
    for moment in (datetime(2024, 1, 1), 5, "1d", timedelta.max):  # noqa: DTZ001 - the point
        with pytest.raises(ValidationError):
            await checkpointer.prune("t", older_than=moment)  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            await checkpointer.delete_threads(older_than=moment)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="thread id"):
        await checkpointer.prune("", keep_last=1)


async def test_nothing_is_lost_when_sixteen_writers_a_prune_and_forks_run_together(
    checkpointer: AsyncCheckpointer,
) -> None:
    async def write(worker: int) -> None:
        for turn in range(6):
            n = worker * 100 + turn
            await checkpointer.save_checkpoint(Checkpoint("t", state_of(n), metadata={"tag": n} if turn == 3 else {}))

    async def prune() -> None:
        for _ in range(8):
            await checkpointer.prune("t", keep_last=4, batch=3)
            await checkpointer.prune(keep_last=5, batch=2)

    async def fork() -> None:
        for turn in range(12):
            for found in (await checkpointer.list_checkpoints("t", limit=4))[-1:]:
                try:
                    forked = await checkpointer.fork("t", found.version, f"fork {turn}")
                except NotFoundError:
                    continue  # pruned since it was listed
                assert forked.state == state_of(forked.state["n"])
                again = await checkpointer.save_checkpoint(Checkpoint(f"fork {turn}", {**forked.state, "n": 1}))
                assert again.version == 2

    async def rewind() -> None:
        for _ in range(8):
            for found in (await checkpointer.list_checkpoints("t", limit=5))[-1:]:
                try:
                    again = await checkpointer.rewind("t", found.version)
                except NotFoundError:
                    continue
                assert again.state == state_of(again.state["n"])

    await checkpointer.save_checkpoint(Checkpoint("t", state_of(0)))
    await together([(lambda worker=worker: write(worker)) for worker in range(1, 17)] + [prune, fork, prune, rewind])  # type: ignore[misc]
    await whole(checkpointer)
    found = await checkpointer.list_checkpoints("t", filter={}, limit=1000)
    assert len([one for one in found if "tag" in one.metadata and one.parent_version is not None]) >= 16
    for thread in await threads(checkpointer):
        if thread != "t":
            loaded = await checkpointer.load_checkpoint(thread, 1)
            assert loaded.state == state_of(loaded.state["n"])
            assert (await checkpointer.load_checkpoint(thread, 2)).state == {**loaded.state, "n": 1}
    await checkpointer.prune("t", keep_last=2, keep_tagged=False)
    await whole(checkpointer)


# Times to live


def reads(checkpointer: AsyncCheckpointer) -> list[Callable[[], Any]]:
    """Return every read of thread t: each must find nothing."""
    return [
        lambda: checkpointer.latest("t"),
        lambda: checkpointer.latest("t", namespace="sub"),
        lambda: checkpointer.list_checkpoints("t"),
        lambda: checkpointer.list_checkpoints("t", states=True, writes=True),
        lambda: checkpointer.list_threads(),
        lambda: checkpointer.list_threads(filter={"n": 1}),
        lambda: checkpointer.pending_writes("t", "k1"),
        lambda: checkpointer.history("t"),
        lambda: checkpointer.at_step("t", 1),
        lambda: checkpointer.at_node("t", "node"),
    ]


async def test_an_expired_thread_is_seen_by_no_read(checkpointer: AsyncCheckpointer) -> None:
    await checkpointer.save_checkpoint(Checkpoint("t", {}, metadata={"n": 1}, step=1, node="node", key="k1"))
    await checkpointer.save_checkpoint(Checkpoint("t", {}, metadata={"n": 1}))
    await checkpointer.save_checkpoint(Checkpoint("t", {}, namespace="sub"))
    await checkpointer.put_writes("t", "k1", "a", [("x", 1)])
    for read in reads(checkpointer):
        assert await read()
    await checkpointer.set_ttl("t", timedelta(hours=1))
    for read in reads(checkpointer):
        assert await read()
    await checkpointer.set_ttl("t", PAST)
    for read in reads(checkpointer):
        assert not await read()
    for call in (
        lambda: checkpointer.load_checkpoint("t"),
        lambda: checkpointer.load_checkpoint("t", 1),
        lambda: checkpointer.load_checkpoint("t", key="k1", writes=True),
        lambda: checkpointer.diff("t", 1, 1),
        lambda: checkpointer.fork("t", 1, "new"),
        lambda: checkpointer.copy_thread("t", "new"),
        lambda: checkpointer.rewind("t", 1),
        lambda: checkpointer.set_ttl("t", None),
    ):
        with pytest.raises(NotFoundError):
            await call()
    assert not await checkpointer.delete_checkpoint("t", 1)
    assert (await checkpointer.prune(keep_last=1)).checkpoints == 0
    assert await checkpointer.delete_thread("t") == 0


async def test_a_save_to_an_expired_thread_begins_it_anew(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, count=3)
    await checkpointer.save_checkpoint(Checkpoint("t", {"old": 1}, namespace="sub"))
    await checkpointer.put_writes("t", "k3", "a", [("x", 1)])
    await checkpointer.set_ttl("t", PAST)
    saved = await checkpointer.save_checkpoint(Checkpoint("t", state_of(4), key="k3"), expected_version=0)
    assert (saved.version, saved.parent_version) == (1, None)
    assert await versions(checkpointer) == [1]
    assert await versions(checkpointer, namespace="sub") == []
    assert (await checkpointer.load_checkpoint("t", writes=True)).writes == ()
    await whole(checkpointer)


async def test_a_first_save_to_another_namespace_of_an_expired_thread_begins_it_anew(
    checkpointer: AsyncCheckpointer,
) -> None:
    await fill(checkpointer, count=2)
    await checkpointer.set_ttl("t", PAST)
    assert (await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}, namespace="new"))).version == 1
    assert [found.versions for found in await checkpointer.list_threads()] == [{"new": 1}]


async def test_writes_forks_and_copies_to_an_expired_thread_begin_it_anew(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, "source", 2)
    for call in (
        lambda: checkpointer.put_writes("t", "k1", "a", [("x", 2)]),
        lambda: checkpointer.fork("source", 2, "t"),
        lambda: checkpointer.copy_thread("source", "t"),
    ):
        await fill(checkpointer, count=3)
        await checkpointer.set_ttl("t", PAST)
        await call()
        assert await threads(checkpointer) == ["source", "t"]
        assert len(await versions(checkpointer)) < 3
        await checkpointer.delete_thread("t")


async def test_a_ttl_can_be_taken_away_and_bad_ones_are_refused(checkpointer: AsyncCheckpointer) -> None:
    await fill(checkpointer, count=1)
    await checkpointer.set_ttl("t", 3600)
    await checkpointer.set_ttl("t", None)
    assert await checkpointer.delete_expired() == 0
    for bad in (0, -1, timedelta(0), float("nan"), float("inf"), 1e300, "1h", True):
        with pytest.raises(ValidationError, match="ttl"):
            await checkpointer.set_ttl("t", bad)  # type: ignore[arg-type]
    with pytest.raises(NotFoundError, match="thread 'ghost'"):
        await checkpointer.set_ttl("ghost", 1)
    assert await versions(checkpointer) == [1]


async def test_expired_threads_are_deleted_and_no_others(checkpointer: AsyncCheckpointer) -> None:
    for name in ("a", "b", "c", "d", "e"):
        await fill(checkpointer, name, 2)
        await fill(checkpointer, name, 1, "sub")
    for name in ("a", "c", "e"):
        await checkpointer.set_ttl(name, PAST)
    await checkpointer.set_ttl("d", 3600, sliding=False)
    assert await threads(checkpointer) == ["b", "d"]
    assert await checkpointer.delete_expired(limit=2) == 2
    assert await checkpointer.delete_expired() == 1
    assert await checkpointer.delete_expired() == 0
    assert await threads(checkpointer) == ["b", "d"]


async def test_threads_that_nobody_uses_are_deleted_by_age_and_by_metadata(checkpointer: AsyncCheckpointer) -> None:
    for name, user in (("a", 1), ("b", 2), ("c", 1), ("d", 1)):
        await checkpointer.save_checkpoint(Checkpoint(name, {"v": LONG}, metadata={"user": user}))
    assert await checkpointer.delete_threads(older_than=timedelta(hours=1)) == 0
    assert await checkpointer.delete_threads(filter={"user": 1}, older_than=timedelta(hours=1)) == 0
    assert await checkpointer.delete_threads(filter={"user": 1}, limit=2) == 2
    assert await threads(checkpointer) == ["b", "d"]
    assert await checkpointer.delete_threads(filter={"user": 1}, older_than=datetime.now(UTC)) == 1
    assert await checkpointer.delete_threads(older_than=timedelta(seconds=-60)) == 1
    assert await threads(checkpointer) == []
    for empty in ({}, {"filter": {}}):
        with pytest.raises(ValidationError, match="needs older_than or a filter"):
            await checkpointer.delete_threads(**empty)


# What those on a SQL database promise besides


async def counts(database: AsyncDatabase) -> list[int]:
    tables = ("threads", "writes", "blocks")
    found = [await database.fetch_value(f"SELECT count(*) FROM holdfast_checkpoint_{table}") for table in tables]
    return [*found, await database.fetch_value("SELECT count(*) FROM holdfast_checkpoints")]


async def test_a_prune_leaves_exactly_the_blocks_that_are_needed(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await fill(stored)
    await stored.prune("t", keep_last=1, keep_tagged=False, batch=3)
    # Version 8 needs what version 1 began with, and what it added itself.
    assert [key[3:] for key in await blocks(database)] == [(8, 0), (1, 0)]
    await check_blocks(database)
    assert await counts(database) == [1, 0, 1, 1]
    await stored.set_ttl("t", PAST)
    assert await counts(database) == [1, 0, 1, 1]
    await stored.delete_expired()
    assert await counts(database) == [0, 0, 0, 0]


@pytest.mark.parametrize("batch", [1, 3, 500])
async def test_the_bytes_of_a_report_are_those_that_went(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase, batch: int
) -> None:
    async def size() -> int:
        manifests = await database.fetch_value(
            "SELECT coalesce(sum(length(manifest) + length(refs)), 0) FROM holdfast_checkpoints"
        )
        return int(manifests) + await stored_bytes(database)

    await fill(stored, count=12)
    for keep_last, keep_tagged in ((5, True), (4, False), (1, False)):
        before = await size()
        dry = await stored.prune("t", keep_last=keep_last, keep_tagged=keep_tagged, batch=batch, dry_run=True)
        assert await size() == before
        report = await stored.prune("t", keep_last=keep_last, keep_tagged=keep_tagged, batch=batch)
        assert report == dry
        assert report.bytes == before - await size() > 0
        await check_blocks(database)


async def test_a_prune_is_as_many_transactions_as_batches(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await fill(stored, count=8)
    before = manager.stats()["main"].requests
    await stored.prune("t", keep_last=1, keep_tagged=False, batch=3)
    assert manager.stats()["main"].requests - before == 5  # two listings of heads, 3 + 3 + 1 checkpoints


async def test_a_save_after_anothers_prune_is_whole(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    other = await another(manager, database)
    await fill(stored, count=2)
    await stored.load_checkpoint("t", 1)
    await other.save_checkpoint(Checkpoint("t", {"n": 3}))
    await other.prune("t", keep_last=1, keep_tagged=False)
    await stored.save_checkpoint(Checkpoint("t", state_of(2)))
    await whole_of(other, "t", 4, 2)


async def whole_of(checkpointer: AsyncCheckpointer, thread_id: str, version: int, n: int) -> None:
    assert (await checkpointer.load_checkpoint(thread_id, version)).state == state_of(n)


async def test_retention_joins_the_transaction_and_goes_with_it(
    stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await fill(stored)
    await fill(stored, "other", 1)
    await fill(stored, "third", 1)
    await stored.set_ttl("third", PAST)
    before = await counts(database)
    with pytest.raises(RuntimeError, match="undo"):
        async with database.transaction():
            assert (await stored.prune("t", keep_last=1, dry_run=True)).checkpoints == 5
            assert (await stored.prune("t", keep_last=1)).checkpoints == 5
            assert await stored.delete_threads(older_than=timedelta(days=-1), limit=1) == 1
            assert await stored.delete_expired() == 1
            await stored.set_ttl("t", PAST)
            raise RuntimeError("undo")
    assert await counts(database) == before
    other = await another(manager, database)
    assert await threads(other) == ["other", "t"]
    await whole(other)


def ttl_of(database: AsyncDatabase, row: dict[str, Any]) -> timedelta:
    moment = database.dialect.moment(row["expires_at"])
    if moment is None:
        raise AssertionError("it has no expiry")
    return moment - datetime.now(UTC)


async def test_a_sliding_ttl_moves_with_each_save_and_a_fixed_one_stays(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    async def left(namespace: str) -> timedelta:
        row = await database.fetch_one(
            "SELECT expires_at FROM holdfast_checkpoint_threads WHERE namespace = :n", {"n": namespace}
        )
        assert row is not None
        return ttl_of(database, row)

    soon = {"soon": database.dialect.time(datetime.now(UTC) + timedelta(minutes=5))}
    hour, minute = timedelta(hours=1), timedelta(minutes=1)
    await fill(stored, count=1)
    for sliding, expected in ((True, hour), (False, timedelta(minutes=5))):
        await stored.set_ttl("t", hour, sliding=sliding)
        assert abs(await left("") - hour) < minute
        await database.execute("UPDATE holdfast_checkpoint_threads SET expires_at = :soon", soon)
        await stored.save_checkpoint(Checkpoint("t", {"sliding": sliding, "v": LONG}))
        assert abs(await left("") - expected) < minute
        await stored.save_checkpoint(Checkpoint("t", {}, namespace=str(sliding)))
        assert abs(await left(str(sliding)) - expected) < minute


async def test_a_namespace_that_was_idle_lives_on_with_its_thread(
    stored: AsyncDatabaseCheckpointer, database: AsyncDatabase
) -> None:
    await fill(stored, count=2)
    await fill(stored, count=1, namespace="busy")
    await stored.set_ttl("t", 3600)
    await database.execute(
        "UPDATE holdfast_checkpoint_threads SET expires_at = :past WHERE namespace = ''",
        {"past": database.dialect.time(datetime.now(UTC) - timedelta(hours=1))},
    )
    assert await versions(stored) == [2, 1]
    assert await stored.delete_expired() == 0
    assert (await stored.save_checkpoint(Checkpoint("t", state_of(3)))).version == 3
    assert await versions(stored) == [3, 2, 1]
    await whole(stored)


async def test_a_key_that_expired_is_saved_again(stored: AsyncDatabaseCheckpointer) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"n": 1}, key="k"))
    await stored.set_ttl("t", PAST)
    assert (await stored.save_checkpoint(Checkpoint("t", {"n": 2}, key="k"))).state == {"n": 2}
    with pytest.raises(DuplicateError):
        await stored.save_checkpoint(Checkpoint("t", {"n": 2}, version=1))


async def test_tenants_keep_what_is_theirs(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    one = AsyncDatabaseCheckpointer(manager, "main", tenant="one")
    two = AsyncDatabaseCheckpointer(manager, "main", tenant="two")
    for checkpointer in (one, two):
        await fill(checkpointer, count=4)
    await one.set_ttl("t", PAST)
    assert await two.delete_expired() == 0
    assert await versions(two) == [4, 3, 2, 1]
    await two.prune(keep_last=1, keep_tagged=False)
    await two.delete_threads(older_than=timedelta(days=-1))
    assert await two.list_threads() == []
    await one.delete_expired()
    assert await counts(database) == [0, 0, 0, 0]


async def test_a_closed_manager_says_so(stored: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager) -> None:
    await manager.aclose()
    for call in (
        lambda: stored.prune(keep_last=1),
        lambda: stored.prune("t", keep_last=1),
        lambda: stored.set_ttl("t", 1),
        lambda: stored.delete_expired(),
        lambda: stored.delete_threads(filter={"a": 1}),
    ):
        with pytest.raises(ClosedError):
            await call()

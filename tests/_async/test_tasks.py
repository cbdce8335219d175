"""The contract of claims: one winner, a lease by the server's clock, a token that no earlier holder has."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from persistence import (
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    ForeignKeyError,
    NotFoundError,
    PersistenceError,
    UnavailableError,
    ValidationError,
)
from persistence._async.compat import Parallel
from persistence.retry import Backoff
from sessions import AsyncTaskStore, LeaseLostError, Task
from tests._async import taskstores
from tests._async.redis_contract import teach
from tests._async.taskstores import Backend

pytestmark = pytest.mark.tables("sessions")

backend, tasks, elsewhere = taskstores.backend, taskstores.tasks, taskstores.elsewhere
shared_config, parallel = taskstores.shared_config, taskstores.parallel

DAY = timedelta(days=1)


async def claimed(tasks: AsyncTaskStore, owner: str = "i1", kind: str = "work") -> Task:
    """Add a task and claim it."""
    await tasks.add(Task(kind=kind))
    (task,) = await tasks.claim_next(kind, owner)
    return task


async def holder_calls(tasks: AsyncTaskStore, task: Task) -> list[Exception]:
    """Return what each call of a holder raises."""
    raised = []
    for call in (
        partial(tasks.renew, task),
        partial(tasks.complete, task, 1),
        partial(tasks.fail, task, "no"),
        partial(tasks.fail, task, "no", retry=False),
        partial(tasks.reject, task, "no"),
        partial(tasks.release, task),
        partial(tasks.defer, task, 5),
    ):
        with pytest.raises(PersistenceError) as caught:
            await call()
        raised.append(caught.value)
    return raised


async def test_a_new_task_comes_back_as_it_is_stored(tasks: AsyncTaskStore, elsewhere: AsyncTaskStore) -> None:
    payload = {"z": [1, None, 1e16], "a": "é\0\ud800", "b": {"nested": True}}
    given = Task(kind="a:b%", payload=payload, priority=-3, level=2, max_attempts=7, metadata={"channel": "é"})
    before = datetime.now(UTC) - timedelta(seconds=5)
    stored = await tasks.add(given)
    assert UUID(stored.id).version == 7
    assert stored == replace(given, id=stored.id, created_at=stored.created_at, updated_at=stored.created_at)
    assert (stored.status, stored.owner, stored.shared, stored.attempts, stored.token) == ("pending", None, True, 0, 0)
    assert list(stored.payload) == ["z", "a", "b"]
    assert stored.created_at is not None
    assert before < stored.created_at < before + timedelta(seconds=60)
    assert stored.created_at.tzinfo is UTC
    assert given.id is None
    assert await elsewhere.get(stored.id or "") == stored


async def test_a_key_is_added_once(tasks: AsyncTaskStore, elsewhere: AsyncTaskStore, parallel: Parallel) -> None:
    calls = [partial(store.add, Task(kind="k", key="a:1", payload=n)) for n, store in enumerate([tasks, elsewhere] * 8)]
    found = await parallel.run(calls)
    assert {task.id for task in found} == {"k:a%3A1"}
    assert len({task.payload for task in found}) == 1
    assert await elsewhere.find() == [found[0]]
    own = await tasks.for_owner("k").add(Task(kind="k", key="a:1"))
    assert own.id == "k:k:a%3A1"
    assert await tasks.add(Task(id="free", kind="k")) == await tasks.add(Task(id="free", kind="other"))
    with pytest.raises(DuplicateError, match="'free'"):
        await tasks.for_owner("i1").add(Task(id="free", kind="k"))


async def test_many_are_added_in_order_all_or_none(tasks: AsyncTaskStore) -> None:
    given = [Task(kind="k", payload=n, key=str(n % 3) if n < 6 else None) for n in range(20)]
    stored = await tasks.add_many(given)
    assert [task.payload for task in stored] == [0, 1, 2, 0, 1, 2, *range(6, 20)]
    assert [task.payload for task in await tasks.claim_next("k", "i1", 100)] == [0, 1, 2, *range(6, 20)]
    with pytest.raises(ForeignKeyError, match="parent"):
        await tasks.add_many([Task(kind="new"), Task(kind="new", parent_id="nobody")])
    assert await tasks.find(kind="new") == []
    family = await tasks.add_many([Task(id="p", kind="p"), Task(kind="c", parent_id="p")])
    assert [task.parent_id for task in family] == [None, "p"]
    again = await tasks.add(Task(id="p", kind="p", parent_id="nobody"))
    assert (again.id, again.parent_id) == ("p", None)  # it was there
    assert await tasks.children("p") == family[1:]
    with pytest.raises(DuplicateError):
        await tasks.for_owner("i1").add_many([Task(kind="mine"), Task(id="p", kind="mine")])
    assert await tasks.all_owners().find(kind="mine") == []
    assert await tasks.add_many([]) == []


async def test_the_highest_priority_is_claimed_first_then_the_oldest(tasks: AsyncTaskStore) -> None:
    for n, (kind, priority) in enumerate([("a", 0), ("b", 5), ("a", 5), ("c", 9), ("b", -1), ("a", 0)]):
        await tasks.add(Task(kind=kind, priority=priority, payload=n))
    first = await tasks.claim_next(["a", "b"], "i1", 3, lease=30)
    assert [task.payload for task in first] == [1, 2, 0]
    assert {(task.status, task.owner, task.attempts, task.token > 0, task.lease) for task in first} == {
        ("active", "i1", 1, True, timedelta(seconds=30))
    }
    assert [task.payload for task in await tasks.claim_next(["b", "a"], "i2", 3)] == [5, 4]
    assert await tasks.claim_next(["a", "b"], "i1") == []
    assert [task.payload for task in await tasks.claim_next("c", "i1")] == [3]


async def test_of_concurrent_claims_none_gets_a_task_of_another(
    tasks: AsyncTaskStore, elsewhere: AsyncTaskStore, parallel: Parallel
) -> None:
    await tasks.add_many([Task(kind="work", payload=n) for n in range(40)])

    async def work(owner: str, store: AsyncTaskStore) -> list[int]:
        found = []
        while taken := await store.claim_next("work", owner, 3):
            for task in taken:
                assert task.owner == owner
                await store.complete(task, owner)
                found.append(task.payload)
        return found

    done = await parallel.run([partial(work, f"i{n}", store) for n, store in enumerate([tasks, elsewhere] * 4)])
    assert sorted(n for found in done for n in found) == list(range(40))
    assert (await tasks.counts())["completed"] == 40


async def test_one_of_many_claimers_makes_the_shared_task_of_a_period(
    tasks: AsyncTaskStore, elsewhere: AsyncTaskStore, parallel: Parallel
) -> None:
    calls = [
        partial(store.claim, "WAKEUP", f"i{n}", key="2026-11-29") for n, store in enumerate([tasks, elsewhere] * 8)
    ]
    results = await parallel.run(calls)
    (winner,) = [task for task, created in results if created]
    assert {task.id for task, _ in results} == {"WAKEUP:2026-11-29"}
    assert {task.owner for task, _ in results} == {winner.owner}
    assert await elsewhere.get("WAKEUP:2026-11-29") == winner
    assert (await tasks.claim("SHUTDOWN", "i9", key="2026-11-29"))[1] is True
    assert (await tasks.claim("WAKEUP", "i9", key="2026-11-30"))[1] is True
    assert (await tasks.for_owner("i9").claim("WAKEUP", key="2026-11-29"))[1] is False


async def test_a_period_is_named_by_a_clock_that_is_asked_once(backend: Backend) -> None:
    moments = iter([datetime(2026, 11, 29, 23, 59, 59, tzinfo=UTC), datetime(2026, 11, 30, tzinfo=UTC)])
    tasks = backend.store(clock=lambda: next(moments))
    before, created = await tasks.claim("WAKEUP", "i1")
    assert (before.key, created) == ("2026-11-29", True)
    after, created = await tasks.claim("WAKEUP", "i2")
    assert (after.key, created) == ("2026-11-30", True)
    # Across midnight the first is still the first's, by its record.
    assert (await tasks.complete(before)).key == "2026-11-29"
    moment = datetime(2027, 1, 1, 1, tzinfo=UTC)
    keys = []
    for period in ("hour", "day", "week", "month"):
        named = backend.store(clock=lambda: moment)
        keys.append((await named.claim(period, "i1", period=period))[0].key)  # type: ignore[arg-type]
    assert keys == ["2027-01-01T01", "2027-01-01", "2026-W53", "2027-01"]
    naive = backend.store(clock=lambda: datetime(2026, 1, 1))  # noqa: DTZ001
    with pytest.raises(ValidationError, match="time zone"):
        await naive.claim("WAKEUP", "i1")


async def test_a_dead_winner_blocks_the_period_no_longer_than_its_lease(
    tasks: AsyncTaskStore, backend: Backend, parallel: Parallel
) -> None:
    first, _ = await tasks.claim("WAKEUP", "i1", key="d", lease=60)
    await backend.lapse(first, 5)
    assert await tasks.claim("WAKEUP", "i2", key="d") == (await tasks.get("WAKEUP:d"), False)
    await backend.lapse(first)
    results = await parallel.run([partial(tasks.claim, "WAKEUP", f"i{n}", key="d") for n in range(2, 10)])
    (second,) = [task for task, created in results if created]
    assert (second.token > first.token, second.attempts, second.error) == (True, 2, "the lease ran out")
    for exc in await holder_calls(tasks, first):
        assert isinstance(exc, LeaseLostError)
        assert (exc.expected, exc.actual, exc.connection) == (first.token, second.token, "main")
    assert await tasks.get("WAKEUP:d") == second
    assert (await tasks.complete(second, {"ok": True})).result == {"ok": True}


async def test_a_task_that_is_made_again_under_its_id_has_a_token_that_no_earlier_holder_had(
    tasks: AsyncTaskStore,
) -> None:
    for claim in (partial(tasks.claim, "k", "i1", key="x"), partial(tasks.claim_next, "k", "i1")):
        await tasks.add(Task(kind="k", key="x"))
        (first,) = await tasks.claim_next("k", "i1")
        await tasks.cancel("k:x")
        await tasks.delete("k:x")
        await tasks.add(Task(kind="k", key="x"))
        made = await claim()
        second = made[0]
        assert second.token > first.token
        with pytest.raises(LeaseLostError):
            await tasks.complete(first)
        assert (await tasks.get("k:x")) == second
        await tasks.complete(second)
        await tasks.delete("k:x")
        third, is_new = await tasks.claim("k", "i3", key="x")  # which makes it
        assert is_new
        assert third.token > second.token
        await tasks.complete(third)
        await tasks.delete("k:x")


async def test_no_task_lies_below_itself(tasks: AsyncTaskStore, elsewhere: AsyncTaskStore) -> None:
    for family in (
        [Task(id="a", kind="k", parent_id="a")],
        [Task(id="a", kind="k", parent_id="b"), Task(id="b", kind="k", parent_id="a")],
        [Task(kind="k"), Task(id="a", kind="k", parent_id="k:b"), Task(kind="k", key="b")],
    ):
        with pytest.raises(ValidationError, match=r"tasks\[\d\] comes before its parent"):
            await tasks.add_many(family)
    with pytest.raises(ValidationError, match="comes before its parent 'a'"):
        await tasks.add(Task(id="a", kind="k", parent_id="a"))
    assert await elsewhere.find() == []


async def test_large_whole_numbers_are_told_apart_in_a_filter(tasks: AsyncTaskStore) -> None:
    chat = 1234567890123456788
    stored = await tasks.add_many([Task(kind="k", metadata={"chat": chat + n % 2, "n": n}) for n in range(9)])
    wanted = stored[::2][::-1]
    assert await tasks.find(where={"chat": chat}) == wanted
    assert await tasks.find(where={"chat": chat}, limit=2) == wanted[:2]
    assert await tasks.find(where={"chat": chat}, limit=2, after=wanted[1].cursor) == wanted[2:4]
    assert await tasks.find(where={"chat": chat, "n": 8}) == wanted[:1]
    assert await tasks.find(where={"chat": -chat}) == []
    edge = await tasks.add_many([Task(kind="k", metadata={"edge": 2**53 + n}) for n in range(2)])
    assert await tasks.find(where={"edge": 2**53}) == edge[:1]


async def test_another_end_than_the_one_before_is_no_repeat(tasks: AsyncTaskStore) -> None:
    task = await claimed(tasks)
    failed = await tasks.fail(task, "no", retry_in=60)
    assert await tasks.fail(task, "no", retry_in=60) == failed  # as after a lost answer
    with pytest.raises(ConflictError):
        await tasks.defer(task, 3600)
    assert await tasks.get(task.id or "") == failed
    other = await claimed(tasks)
    deferred = await tasks.defer(other, 3600)
    assert await tasks.defer(other, 3600) == deferred
    with pytest.raises(ConflictError):
        await tasks.fail(other, "no", retry_in=60)


@pytest.mark.parametrize("end", ["completed", "failed", "cancelled", "rejected", "dead"])
async def test_what_was_ended_is_not_claimed_again_in_its_period(tasks: AsyncTaskStore, end: str) -> None:
    task, _ = await tasks.claim("WAKEUP", "i1", key="d", max_attempts=1)
    ended = await {
        "completed": partial(tasks.complete, task),
        "failed": partial(tasks.fail, task, "no", retry=False),
        "cancelled": partial(tasks.cancel, "WAKEUP:d"),
        "rejected": partial(tasks.reject, task, "no"),
        "dead": partial(tasks.fail, task, "no"),
    }[end]()
    assert ended.status == end
    assert ended.finished_at is not None
    assert await tasks.claim("WAKEUP", "i1", key="d") == (ended, False)
    assert await tasks.claim_next("WAKEUP", "i1") == []


async def test_a_lease_that_ran_out_holds_nothing_even_where_nobody_took_the_task(
    tasks: AsyncTaskStore, backend: Backend
) -> None:
    task = await claimed(tasks)
    await backend.lapse(task)
    for exc in await holder_calls(tasks, task):
        assert isinstance(exc, LeaseLostError)
        assert "lease ended" in str(exc)
    (again,) = await tasks.claim_next("work", "i2")
    assert (again.id, again.owner, again.attempts) == (task.id, "i2", 2)
    assert again.token > task.token


async def test_a_task_whose_holders_all_died_is_dead_after_its_attempts(
    tasks: AsyncTaskStore, backend: Backend
) -> None:
    await tasks.add(Task(kind="work", max_attempts=2))
    for _ in range(2):
        (task,) = await tasks.claim_next("work", "i1")
        await backend.lapse(task)
    assert await tasks.claim_next("work", "i1") == []
    dead = await tasks.get(task.id or "")
    assert (dead.status, dead.attempts, dead.error, dead.wake_at) == ("dead", 2, "the lease ran out", None)
    begun = await tasks.retry(task.id or "")
    assert (begun.status, begun.attempts, begun.owner, begun.finished_at) == ("pending", 0, None, None)
    keyed, _ = await tasks.claim("WAKEUP", "i1", key="d", max_attempts=1)
    await backend.lapse(keyed)
    found, created = await tasks.claim("WAKEUP", "i2", key="d", lease=3600)
    assert (found.status, found.owner, found.lease, created) == ("dead", "i1", keyed.lease, False)


async def test_a_renewed_lease_lasts_from_the_renewal(tasks: AsyncTaskStore, backend: Backend) -> None:
    task = await claimed(tasks)
    await backend.lapse(task, 5)
    renewed = await tasks.renew(task)
    assert renewed.wake_at is not None
    assert renewed.updated_at is not None
    assert timedelta(seconds=55) < renewed.wake_at - renewed.updated_at < timedelta(seconds=65)
    longer = await tasks.renew(task, lease=timedelta(hours=2))
    assert longer.lease == timedelta(hours=2)
    assert (await tasks.complete(task)).status == "completed"


async def test_the_answer_of_a_completion_may_be_lost(tasks: AsyncTaskStore) -> None:
    task = await claimed(tasks)
    done = await tasks.complete(task, [1])
    assert await tasks.complete(task, [1]) == done
    assert await tasks.complete(task, [2]) == done
    for call in (partial(tasks.fail, task, "no"), partial(tasks.renew, task), partial(tasks.release, task)):
        with pytest.raises(ConflictError, match="is completed and can't"):
            await call()
    failing = await claimed(tasks)
    assert await tasks.fail(failing, "no") == await tasks.fail(failing, "no")


async def test_many_are_completed_at_once_but_those_that_are_lost(tasks: AsyncTaskStore, backend: Backend) -> None:
    await tasks.add_many([Task(kind="work", payload=n) for n in range(5)])
    held = await tasks.claim_next("work", "i1", 5)
    await backend.lapse(held[1])
    await tasks.cancel(held[2].id or "")
    results = [{"n": 0, "nul": "\0"}, 1, 2, None, 4]
    done = await tasks.complete_many(held, results)
    assert {(task.payload, task.status) for task in done} == {(n, "completed") for n in (0, 3, 4)}
    assert {task.payload: task.result for task in await tasks.find(status="completed")} == {
        0: results[0],
        3: None,
        4: 4,
    }
    assert [task.id for task in done] == sorted(task.id or "" for task in done)
    assert await tasks.complete_many(held) == []
    assert await tasks.complete_many([]) == []


async def test_a_task_is_refused_moves_that_its_status_does_not_allow(tasks: AsyncTaskStore) -> None:
    pending = await tasks.add(Task(kind="work"))
    for exc in (await holder_calls(tasks, pending))[:6]:
        assert isinstance(exc, ConflictError)
        assert "is pending and can't" in str(exc)
    with pytest.raises(ConflictError, match="is pending"):
        await tasks.retry(pending.id or "")
    task = (await tasks.claim_next("work", "i1"))[0]
    with pytest.raises(ConflictError, match="held by 'i1'"):
        await tasks.defer(task.id or "", 5)
    await tasks.complete(task)
    for call in (
        partial(tasks.cancel, task.id or ""),
        partial(tasks.defer, task.id or "", 5),
        partial(tasks.retry, task.id or ""),
        partial(tasks.escalate, task.id or ""),
        partial(tasks.transfer, task.id or "", "i1", "i2"),
    ):
        with pytest.raises(ConflictError, match="completed"):
            await call()
    for call in (tasks.cancel, tasks.retry, tasks.escalate, tasks.get):
        with pytest.raises(NotFoundError, match="'nobody'"):
            await call("nobody")


async def test_a_failed_attempt_waits_longer_each_time_until_the_last(backend: Backend) -> None:
    tasks = backend.store(backoff=Backoff(base=10, cap=25, jitter=0))
    await tasks.add(Task(kind="work", max_attempts=4))
    waits = []
    for attempt in range(1, 4):
        (task,) = await tasks.claim_next("work", "i1")
        failed = await tasks.fail(task, ValueError(f"\0{attempt}\ud800"))
        assert (failed.status, failed.owner, failed.attempts) == ("deferred", None, attempt)
        assert failed.error == f"ValueError: \\0{attempt}\\ud800"
        assert failed.wake_at is not None
        assert failed.updated_at is not None
        waits.append((failed.wake_at - failed.updated_at).total_seconds())
        assert await tasks.claim_next("work", "i1") == []
        await backend.lapse(failed)
    assert waits == [10, 20, 25]
    (task,) = await tasks.claim_next("work", "i1")
    dead = await tasks.fail(task, "x" * 20_000)
    assert (dead.status, dead.attempts, dead.wake_at, len(dead.error or "")) == ("dead", 4, None, 10_000)
    assert await tasks.find(status="dead") == [dead]


async def test_giving_a_task_back_or_putting_it_off_is_no_attempt(tasks: AsyncTaskStore, backend: Backend) -> None:
    task = await claimed(tasks)
    back = await tasks.release(task)
    assert (back.status, back.owner, back.attempts) == ("pending", None, 0)
    (task,) = await tasks.claim_next("work", "i2")
    later = datetime.now(UTC) + DAY
    off = await tasks.defer(task, later)
    assert (off.status, off.owner, off.attempts, off.wake_at) == ("deferred", None, 0, later)
    again = await tasks.defer(off.id or "", timedelta(hours=1))
    assert again.wake_at is not None
    assert again.wake_at < later
    assert await tasks.claim_next("work", "i1") == []
    await backend.lapse(again)
    assert [found.attempts for found in await tasks.claim_next("work", "i1")] == [1]
    waiting = await tasks.add(Task(kind="late", wake_at=later))
    assert (waiting.status, waiting.wake_at) == ("deferred", later)
    assert (await tasks.add(Task(kind="late", wake_at=later - 2 * DAY))).status == "pending"


async def test_what_has_become_due_is_claimed_by_its_priority(tasks: AsyncTaskStore, backend: Backend) -> None:
    for priority in (1, 2, 3):
        await tasks.add(Task(kind="work", priority=priority))
    for task in await tasks.claim_next("work", "i1", 2):
        await backend.lapse(task)
    await tasks.add(Task(kind="work", priority=9))
    assert [task.priority for task in await tasks.claim_next("work", "i2", 2)] == [9, 3]
    assert (await tasks.counts()) | {"pending": 2, "active": 2} == await tasks.counts()


async def test_cancelling_takes_the_task_from_its_holder_and_its_children_along(tasks: AsyncTaskStore) -> None:
    task = await claimed(tasks)
    child = await tasks.add(Task(kind="thought", parent_id=task.id))
    below = await tasks.add(Task(kind="thought", parent_id=child.id))
    (done,) = await tasks.claim_next("thought", "i1")
    await tasks.complete(done)
    ended = await tasks.cancel(task.id or "", reason="not needed")
    assert (ended.status, ended.error, ended.token) == ("cancelled", "not needed", task.token + 1)
    assert [(await tasks.get(each.id or "")).status for each in (child, below)] == ["completed", "cancelled"]
    with pytest.raises(LeaseLostError):
        await tasks.complete(task)
    parent = await tasks.add(Task(kind="p"))
    kept = await tasks.add(Task(kind="c", parent_id=parent.id))
    await tasks.cancel(parent.id or "", with_children=False)
    assert await tasks.get(kept.id or "") == kept


async def test_a_thought_is_escalated_level_by_level(tasks: AsyncTaskStore) -> None:
    parent = await tasks.add(Task(kind="task"))
    await tasks.add(Task(kind="thought", parent_id=parent.id, payload="hm", level=1))
    (thought,) = await tasks.claim_next("thought", "i1")
    for level in (2, 3):
        assert (await tasks.escalate(thought.id or "")).level == level
    assert [task.id for task in await tasks.find(parent=parent.id, level=3)] == [thought.id]
    assert await tasks.find(parent=parent.id, level=4) == []
    assert (await tasks.complete(thought)).level == 3
    await tasks.add(Task(kind="top", level=2**31 - 1))
    (top,) = await tasks.claim_next("top", "i1")
    with pytest.raises(ConflictError, match="has the highest level, 2,147,483,647: escalate is not for it"):
        await tasks.escalate(top.id or "")
    with pytest.raises(ConflictError, match="is active: retry is not for it"):
        await tasks.retry(top.id or "")
    assert await tasks.get(top.id or "") == top


async def test_each_call_is_one_statement(
    manager: AsyncDatabaseManager, tasks: AsyncTaskStore, backend: Backend
) -> None:
    await teach(manager)
    await tasks.add_many([Task(kind="work") for _ in range(20)])
    held = await tasks.claim_next("work", "i1", 8)
    ids = [task.id or "" for task in held]
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: tasks.add(Task(kind="x")),
        lambda: tasks.add_many([Task(kind="x")] * 3),
        lambda: tasks.claim("WAKEUP", "i1", key="d"),
        lambda: tasks.claim_next("work", "i1", 5),
        lambda: tasks.renew(held[0]),
        lambda: tasks.complete(held[0], 1),
        lambda: tasks.fail(held[1], "no"),
        lambda: tasks.complete_many(held[5:7]),
        lambda: tasks.defer(held[2], 5),
        lambda: tasks.escalate(ids[3]),
        lambda: tasks.transfer(ids[3], "i1", "i2"),
        lambda: tasks.cancel(ids[4]),
        lambda: tasks.retry(ids[4]),
        lambda: tasks.get(ids[0]),
        lambda: tasks.find(kind="work", limit=5),
        lambda: tasks.latest("work", within=DAY),
        lambda: tasks.counts(),
        lambda: tasks.hand_over("i1"),
        lambda: tasks.release_expired(),
    ]
    for number, call in enumerate(calls):
        before = backend.manager.stats()["main"].requests
        await call()
        assert backend.manager.stats()["main"].requests - before == 1, number


async def test_a_claim_is_one_round_trip(backend: Backend, tasks: AsyncTaskStore) -> None:
    database = backend.manager.get_database("main") if backend.kind != "redis" else None
    await tasks.add_many([Task(kind="work") for _ in range(20)])
    if not isinstance(database, AsyncPostgreSQLDatabase):
        return
    async with database.transaction() as transaction:
        raw = transaction._link.raw
        trips: list[int] = []
        original = raw._converse

        async def counting(*given: Any) -> None:
            trips.append(1)
            await original(*given)

        raw._converse = counting
        assert len(await tasks.claim_next(["work", "other"], "i1", 5)) == 5
        assert len(await tasks.claim_next("work", "i1")) == 1
        del raw._converse
    assert len(trips) == 2


async def test_a_claim_joins_the_transaction_that_it_is_in(
    backend: Backend, tasks: AsyncTaskStore, elsewhere: AsyncTaskStore
) -> None:
    if backend.kind == "redis":
        return
    task = await tasks.add(Task(kind="work"))
    database = backend.manager.get_database("main")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            (held,) = await tasks.claim_next("work", "i1")
            await tasks.complete(held)
            await tasks.add(Task(kind="more", parent_id=held.id))
            with pytest.raises(LeaseLostError):
                await tasks.complete(replace(held, token=7))
            raise ZeroDivisionError
    assert await elsewhere.all_owners().find() == [task]


ON_ONE: list[Callable[[AsyncTaskStore], Awaitable[Any]]] = [
    lambda tasks: tasks.add(Task(kind="k")),
    lambda tasks: tasks.get("t"),
    lambda tasks: tasks.find(),
    lambda tasks: tasks.counts(),
    lambda tasks: tasks.latest("k"),
    lambda tasks: tasks.is_completed("k"),
    lambda tasks: tasks.claim("k", "i1"),
    lambda tasks: tasks.claim_next("k", "i1"),
    lambda tasks: tasks.complete(Task(id="t", kind="k", token=1)),
    lambda tasks: tasks.cancel("t"),
    lambda tasks: tasks.transfer("t", "a", "b"),
    lambda tasks: tasks.hand_over("a"),
    lambda tasks: tasks.release_expired(),
    lambda tasks: tasks.delete_finished(1),
]


async def test_an_outage_is_an_error_and_never_an_empty_answer(backend: Backend, tasks: AsyncTaskStore) -> None:
    if backend.kind == "postgresql":
        gone = replace(backend.config, host="127.0.0.1", port=1, password="hunter2", sslmode="disable")
        tasks = AsyncTaskStore(backend.manager, await _unreachable(backend.manager, gone))
        for call in ON_ONE:
            with pytest.raises(UnavailableError) as caught:
                await call(tasks)
            assert "hunter2" not in f"{caught.value!r}{caught.value}"
    await backend.manager.aclose()
    for call in ON_ONE:
        with pytest.raises(ClosedError):
            await call(tasks)


async def _unreachable(manager: AsyncDatabaseManager, config: Any) -> str:
    await manager.add_postgresql("gone", config, lazy=True)
    return "gone"


async def test_a_stored_status_that_is_none_of_ours_is_corrupt(backend: Backend, tasks: AsyncTaskStore) -> None:
    if backend.kind == "redis":
        return
    task = await tasks.add(Task(kind="work"))
    await backend.manager.get_database("main").execute(
        "UPDATE holdfast_tasks SET status = 'busy' WHERE id = :id", {"id": task.id}
    )
    with pytest.raises(CorruptError, match="'busy'"):
        await tasks.get(task.id or "")


WRONG: list[Callable[[AsyncTaskStore, Any], Awaitable[Any]]] = [
    lambda tasks, bad: tasks.add(Task(kind=bad)),
    lambda tasks, bad: tasks.add(Task(kind="k", id=bad)),
    lambda tasks, bad: tasks.add(Task(kind="k", key=bad)),
    lambda tasks, bad: tasks.add(Task(kind="k", parent_id=bad)),
    lambda tasks, bad: tasks.get(bad),
    lambda tasks, bad: tasks.get_many([bad]),
    lambda tasks, bad: tasks.find(kind=bad),
    lambda tasks, bad: tasks.find(kind=["k", bad]),
    lambda tasks, bad: tasks.find(status=bad),
    lambda tasks, bad: tasks.find(parent=bad),
    lambda tasks, bad: tasks.counts(kind=bad),
    lambda tasks, bad: tasks.latest(bad),
    lambda tasks, bad: tasks.claim(bad, "i1"),
    lambda tasks, bad: tasks.claim("k", bad),
    lambda tasks, bad: tasks.claim("k", "i1", key=bad),
    lambda tasks, bad: tasks.claim("k", "i1", period=bad),
    lambda tasks, bad: tasks.claim_next(bad, "i1"),
    lambda tasks, bad: tasks.claim_next("k", bad),
    lambda tasks, bad: tasks.cancel(bad),
    lambda tasks, bad: tasks.escalate(bad),
    lambda tasks, bad: tasks.retry(bad),
    lambda tasks, bad: tasks.transfer(bad, "a", "b"),
    lambda tasks, bad: tasks.transfer("t", bad, "b"),
    lambda tasks, bad: tasks.transfer("t", "a", bad),
    lambda tasks, bad: tasks.hand_over(bad),
    lambda tasks, bad: tasks.hand_over("a", bad),
    lambda tasks, bad: tasks.delete(bad),
    lambda tasks, bad: tasks.delete_finished(1, status=bad),
    lambda tasks, bad: tasks.complete(bad),
    lambda tasks, bad: tasks.defer("t", bad),
]
NOT_STORABLE: list[Callable[[AsyncTaskStore], Awaitable[Any]]] = [
    lambda tasks: tasks.add(Task(kind="k", payload=float("nan"))),
    lambda tasks: tasks.add(Task(kind="k", payload={1: 2})),  # type: ignore[dict-item]
    lambda tasks: tasks.add(Task(kind="k", metadata={"a": "\0"})),
    lambda tasks: tasks.add(Task(kind="k", priority=2**31)),
    lambda tasks: tasks.add(Task(kind="k", priority=True)),
    lambda tasks: tasks.add(Task(kind="k", level=-1)),
    lambda tasks: tasks.add(Task(kind="k", max_attempts=0)),
    lambda tasks: tasks.add(Task(kind="k", wake_at=datetime(2026, 1, 1))),  # noqa: DTZ001
    lambda tasks: tasks.add(Task(kind="k", id="x", key="y")),
    lambda tasks: tasks.add_many([Task(kind="k")] * 10_001),
    lambda tasks: tasks.claim_next("k"),
    lambda tasks: tasks.claim_next([], "i1"),
    lambda tasks: tasks.claim_next("k", "i1", 0),
    lambda tasks: tasks.claim_next("k", "i1", lease=0),
    lambda tasks: tasks.claim_next("k", "i1", lease=float("nan")),
    lambda tasks: tasks.for_owner("i1").claim_next("k", "i2"),
    lambda tasks: tasks.complete(Task(id="t", kind="k"), {1: 2}),
    lambda tasks: tasks.complete_many([Task(id="t", kind="k")], []),
    lambda tasks: tasks.complete_many([Task(id="t", kind="k")] * 2),
    lambda tasks: tasks.fail(Task(id="t", kind="k", token=1), "no", retry_in=float("inf")),
    lambda tasks: tasks.fail(Task(id="t", kind="k", token=1), 7),  # type: ignore[arg-type]
    lambda tasks: tasks.find(limit=0),
    lambda tasks: tasks.find(after="x"),
    lambda tasks: tasks.find(where={"a": []}),
    lambda tasks: tasks.find(within=-1),
    lambda tasks: tasks.find(level=-1),
    lambda tasks: tasks.transfer("t", "a", "a"),
    lambda tasks: tasks.hand_over("a", "a"),
    lambda tasks: tasks.delete_finished(0),
    lambda tasks: tasks.delete_finished(1, status="active"),
    lambda tasks: tasks.delete_finished(1, batch=0),
    lambda tasks: tasks.cancel("t", with_children=1),  # type: ignore[arg-type]
    lambda tasks: tasks.for_owner("a").release_expired(),
    lambda tasks: tasks.for_owner("a").transfer("t", "b", "a"),
]


async def test_what_cannot_be_stored_or_means_nothing_is_refused_before_anything_is_sent(
    tasks: AsyncTaskStore, backend: Backend
) -> None:
    await tasks.counts()
    before = backend.manager.stats()["main"].requests
    for bad in ("", "a\0b", "\ud800", "x" * 10_000, 7, b"x"):
        for number, call in enumerate(WRONG):
            if number == len(WRONG) - 1 and bad == 7:
                continue  # seven seconds
            with pytest.raises(ValidationError):
                await call(tasks, bad)
        with pytest.raises(ValidationError):
            tasks.for_owner(bad)  # type: ignore[arg-type]
    for refused in NOT_STORABLE:
        with pytest.raises(ValidationError):
            await refused(tasks)
    with pytest.raises(ValidationError):
        tasks.for_owner("a").all_owners()
    assert backend.manager.stats()["main"].requests == before


@pytest.mark.parametrize("text", ["'; DROP TABLE holdfast_tasks; --", "%:_{}*?[a]", "\U0001f9f6" * 60])
async def test_any_text_is_a_kind_a_key_and_an_owner(tasks: AsyncTaskStore, text: str) -> None:
    own = await tasks.for_owner(text).add(Task(kind=text, key=text, metadata={text: text}))
    shared, created = await tasks.claim(text, text, key=text)
    assert created
    assert (shared.kind, shared.key, shared.owner) == (text, text, text)
    assert await tasks.for_owner(text).find(kind=text) == [shared, own]
    assert await tasks.for_owner(text).find(where={text: text}) == [own]
    (held,) = await tasks.claim_next(text, text)
    assert held.id == own.id
    assert await tasks.hand_over(text) == 2
    assert await tasks.for_owner("other").find() == []

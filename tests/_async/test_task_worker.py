"""A worker: what its handlers return and raise, renewal, being told to stop, and notices in place of polling."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

import pytest

from persistence import (
    AsyncDatabaseManager,
    AsyncPubSub,
    ClosedError,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    ValidationError,
)
from persistence.retry import Backoff
from sessions import AsyncTaskStore, AsyncTaskWorker, Task
from tests._async import taskstores
from tests._async.side import Started, sleep
from tests._async.taskstores import Backend

pytestmark = pytest.mark.tables("sessions")

backend, shared_config = taskstores.backend, taskstores.shared_config


@pytest.fixture
def squares() -> Any:
    async def square(task: Task) -> Any:
        return task.payload**2

    return square


async def until(met: Any) -> None:
    """Wait until ``met()`` is true, twenty seconds at most."""
    last = monotonic() + 20
    while not await met():
        assert monotonic() < last
        await sleep(0.005)


async def file_store(manager: AsyncDatabaseManager, path: Any, **options: Any) -> AsyncTaskStore:
    await manager.add_sqlite("file", SQLiteConfig(path=str(path / "file.db")))
    return AsyncTaskStore(manager, "file", **options)


async def test_a_worker_outlives_a_server_that_became_read_only(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    tasks = AsyncTaskStore(manager, "main")
    await tasks.add(Task(id="t", kind="work"))

    async def handle(task: Task) -> Any:
        await database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
        return 7

    await database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    worker = AsyncTaskWorker(tasks, {"work": handle}, "w1", poll=0.01)
    running = Started(worker.run)
    await until(lambda: tasks.is_completed("work"))
    worker.stop()
    await running.result()
    assert (await tasks.get("t")).result == 7
    assert worker.completed == 1
    assert database.stats().errors >= 1


async def test_each_task_ends_as_its_handler_does(backend: Backend, squares: Any) -> None:
    tasks = backend.store(backoff=Backoff(base=3600, cap=3600))
    await tasks.add_many([Task(kind="square", payload=n) for n in (1, 2, 3, "x", 5)])
    await tasks.add(Task(kind="odd", max_attempts=1))
    await tasks.add(Task(kind="other"))

    async def odd(task: Task) -> Any:
        return {1: "no JSON"}

    worker = AsyncTaskWorker(tasks, {"square": squares, "odd": odd}, "w1", concurrency=3)
    await worker.run(until_idle=True)
    assert (worker.completed, worker.failed, worker.lost) == (4, 2, 0)
    found = await tasks.find()
    assert {(task.kind, task.payload): (task.status, task.result) for task in found} == {
        **{("square", n): ("completed", n**2) for n in (1, 2, 3, 5)},
        ("square", "x"): ("deferred", None),
        ("odd", None): ("dead", None),
        ("other", None): ("pending", None),
    }
    (failed,) = await tasks.find(status="deferred")
    assert (failed.error or "").startswith("TypeError: ")
    await tasks.add(Task(kind="square", payload=6))
    await worker.run(until_idle=True)
    assert worker.completed == 5


async def test_a_worker_that_is_told_to_stop_ends_what_it_does_and_takes_no_more(
    manager: AsyncDatabaseManager, tmp_path: Any
) -> None:
    tasks = await file_store(manager, tmp_path)
    await tasks.add_many([Task(kind="k") for _ in range(3)])

    async def handle(task: Task) -> None:
        worker.stop()

    worker = AsyncTaskWorker(tasks.for_owner("w1"), {"k": handle})
    await worker.run()
    assert (worker.completed, (await tasks.counts())["pending"]) == (1, 2)
    worker.stop()
    await worker.run()
    assert worker.completed == 1


async def test_a_lease_is_renewed_while_its_handler_runs(manager: AsyncDatabaseManager, tmp_path: Any) -> None:
    tasks = await file_store(manager, tmp_path)
    await tasks.add(Task(kind="k"))

    async def handle(task: Task) -> None:
        async def is_renewed_twice() -> bool:
            found = await tasks.get(task.id or "")
            assert found.wake_at is not None
            assert task.wake_at is not None
            return found.status == "active" and (found.wake_at - task.wake_at).total_seconds() > 0.3

        await until(is_renewed_twice)

    worker = AsyncTaskWorker(tasks, {"k": handle}, "w1", lease=0.9)
    await worker.run(until_idle=True)
    assert (worker.completed, worker.lost) == (1, 0)
    assert (await tasks.find())[0].attempts == 1


async def test_a_task_that_was_taken_from_its_handler_is_not_completed(
    manager: AsyncDatabaseManager, tmp_path: Any
) -> None:
    tasks = await file_store(manager, tmp_path)
    await tasks.add(Task(kind="k"))

    async def handle(task: Task) -> str:
        await tasks.cancel(task.id or "")
        return "too late"

    worker = AsyncTaskWorker(tasks, {"k": handle}, "w1")
    await worker.run(until_idle=True)
    assert (worker.completed, worker.lost) == (0, 1)
    assert [(task.status, task.result) for task in await tasks.find()] == [("cancelled", None)]


async def test_past_its_grace_a_worker_gives_back_what_its_handlers_still_do(
    manager: AsyncDatabaseManager, tmp_path: Any
) -> None:
    tasks = await file_store(manager, tmp_path)
    await tasks.add(Task(kind="k"))

    async def handle(task: Task) -> None:
        worker.stop()

        async def is_given_back() -> bool:
            return (await tasks.get(task.id or "")).status == "pending"

        await until(is_given_back)

    worker = AsyncTaskWorker(tasks, {"k": handle}, "w1", grace=0)
    await worker.run()
    assert (worker.completed, worker.lost) == (0, 1)
    assert [(task.status, task.attempts, task.owner) for task in await tasks.find()] == [("pending", 0, None)]


async def test_a_notice_wakes_a_worker_that_would_look_again_in_an_hour(backend: Backend, squares: Any) -> None:
    if backend.kind == "sqlite":
        return
    notices = AsyncPubSub(backend.manager, "main")
    tasks = backend.store(notices=notices)
    worker = AsyncTaskWorker(tasks, {"square": squares}, "w1", poll=3600)
    running = Started(partial(worker.run))
    for n in (2, 3):
        await tasks.add(Task(kind="square", payload=n))

        async def is_done(n: int = n) -> bool:
            return worker.completed == n - 1

        await until(is_done)
    worker.stop()
    await running.result()
    assert sorted(task.result for task in await tasks.find()) == [4, 9]


async def test_tasks_are_added_where_notices_cannot_be_sent(manager: AsyncDatabaseManager, tmp_path: Any) -> None:
    await manager.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    tasks = await file_store(manager, tmp_path, notices=AsyncPubSub(manager, "gone"))
    stored = await tasks.add(Task(kind="k"))
    assert await tasks.find() == [stored]


async def test_an_error_that_is_no_outage_ends_the_worker(manager: AsyncDatabaseManager, tmp_path: Any) -> None:
    tasks = await file_store(manager, tmp_path)
    await tasks.add(Task(kind="k"))

    async def handle(task: Task) -> None:
        await manager.remove("file")

    worker = AsyncTaskWorker(tasks, {"k": handle}, "w1", concurrency=4, poll=3600)
    with pytest.raises((UnknownConnectionError, ClosedError)):
        await worker.run()


async def test_what_is_no_worker_is_refused(manager: AsyncDatabaseManager, tmp_path: Any, squares: Any) -> None:
    tasks = await file_store(manager, tmp_path)
    for handlers, options in (
        ({}, {"owner": "w"}),
        ({"k": squares}, {}),
        ({"": squares}, {"owner": "w"}),
        ({"k": squares}, {"owner": ""}),
        ({"k": squares}, {"owner": "w", "concurrency": 0}),
        ({"k": squares}, {"owner": "w", "lease": 0}),
    ):
        with pytest.raises(ValidationError):
            AsyncTaskWorker(tasks, handlers, **options)


# [async-only]
async def test_a_worker_that_is_cancelled_gives_back_what_it_holds(
    manager: AsyncDatabaseManager, tmp_path: Any
) -> None:
    import asyncio

    tasks = await file_store(manager, tmp_path)
    await tasks.add(Task(kind="k"))
    began = asyncio.Event()

    async def handle(task: Task) -> None:
        began.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(AsyncTaskWorker(tasks, {"k": handle}, "w1").run())
    await asyncio.wait_for(began.wait(), 20)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert [(task.status, task.attempts) for task in await tasks.find()] == [("pending", 0)]


# [/async-only]

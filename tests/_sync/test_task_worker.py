# Generated from ../_async/test_task_worker.py by tests/unasync.py: edit that one.
"""A worker: what its handlers return and raise, renewal, being told to stop, and notices in place of polling."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import Any

import pytest

from persistence import (
    DatabaseManager,
    PubSub,
    ClosedError,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    ValidationError,
)
from persistence.retry import Backoff
from sessions import TaskStore, TaskWorker, Task
from tests._sync import taskstores
from tests._sync.side import Started, sleep
from tests._sync.taskstores import Backend

pytestmark = pytest.mark.tables("sessions")

backend, shared_config = taskstores.backend, taskstores.shared_config


@pytest.fixture
def squares() -> Any:
    def square(task: Task) -> Any:
        return task.payload**2

    return square


def until(met: Any) -> None:
    """Wait until ``met()`` is true, twenty seconds at most."""
    last = monotonic() + 20
    while not met():
        assert monotonic() < last
        sleep(0.005)


def file_store(manager: DatabaseManager, path: Any, **options: Any) -> TaskStore:
    manager.add_sqlite("file", SQLiteConfig(path=str(path / "file.db")))
    return TaskStore(manager, "file", **options)


def test_a_worker_outlives_a_server_that_became_read_only(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    tasks = TaskStore(manager, "main")
    tasks.add(Task(id="t", kind="work"))

    def handle(task: Task) -> Any:
        database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
        return 7

    database.fetch_apart("SELECT set_config('default_transaction_read_only', 'on', false)")
    worker = TaskWorker(tasks, {"work": handle}, "w1", poll=0.01)
    running = Started(worker.run)
    until(lambda: tasks.is_completed("work"))
    worker.stop()
    running.result()
    assert (tasks.get("t")).result == 7
    assert worker.completed == 1
    assert database.stats().errors >= 1


def test_each_task_ends_as_its_handler_does(backend: Backend, squares: Any) -> None:
    tasks = backend.store(backoff=Backoff(base=3600, cap=3600))
    tasks.add_many([Task(kind="square", payload=n) for n in (1, 2, 3, "x", 5)])
    tasks.add(Task(kind="odd", max_attempts=1))
    tasks.add(Task(kind="other"))

    def odd(task: Task) -> Any:
        return {1: "no JSON"}

    worker = TaskWorker(tasks, {"square": squares, "odd": odd}, "w1", concurrency=3)
    worker.run(until_idle=True)
    assert (worker.completed, worker.failed, worker.lost) == (4, 2, 0)
    found = tasks.find()
    assert {(task.kind, task.payload): (task.status, task.result) for task in found} == {
        **{("square", n): ("completed", n**2) for n in (1, 2, 3, 5)},
        ("square", "x"): ("deferred", None),
        ("odd", None): ("dead", None),
        ("other", None): ("pending", None),
    }
    (failed,) = tasks.find(status="deferred")
    assert (failed.error or "").startswith("TypeError: ")
    tasks.add(Task(kind="square", payload=6))
    worker.run(until_idle=True)
    assert worker.completed == 5


def test_a_worker_that_is_told_to_stop_ends_what_it_does_and_takes_no_more(
    manager: DatabaseManager, tmp_path: Any
) -> None:
    tasks = file_store(manager, tmp_path)
    tasks.add_many([Task(kind="k") for _ in range(3)])

    def handle(task: Task) -> None:
        worker.stop()

    worker = TaskWorker(tasks.for_owner("w1"), {"k": handle})
    worker.run()
    assert (worker.completed, (tasks.counts())["pending"]) == (1, 2)
    worker.stop()
    worker.run()
    assert worker.completed == 1


def test_a_lease_is_renewed_while_its_handler_runs(manager: DatabaseManager, tmp_path: Any) -> None:
    tasks = file_store(manager, tmp_path)
    tasks.add(Task(kind="k"))

    def handle(task: Task) -> None:
        def is_renewed_twice() -> bool:
            found = tasks.get(task.id or "")
            assert found.wake_at is not None
            assert task.wake_at is not None
            return found.status == "active" and (found.wake_at - task.wake_at).total_seconds() > 0.3

        until(is_renewed_twice)

    worker = TaskWorker(tasks, {"k": handle}, "w1", lease=0.9)
    worker.run(until_idle=True)
    assert (worker.completed, worker.lost) == (1, 0)
    assert (tasks.find())[0].attempts == 1


def test_a_task_that_was_taken_from_its_handler_is_not_completed(
    manager: DatabaseManager, tmp_path: Any
) -> None:
    tasks = file_store(manager, tmp_path)
    tasks.add(Task(kind="k"))

    def handle(task: Task) -> str:
        tasks.cancel(task.id or "")
        return "too late"

    worker = TaskWorker(tasks, {"k": handle}, "w1")
    worker.run(until_idle=True)
    assert (worker.completed, worker.lost) == (0, 1)
    assert [(task.status, task.result) for task in tasks.find()] == [("cancelled", None)]


def test_past_its_grace_a_worker_gives_back_what_its_handlers_still_do(
    manager: DatabaseManager, tmp_path: Any
) -> None:
    tasks = file_store(manager, tmp_path)
    tasks.add(Task(kind="k"))

    def handle(task: Task) -> None:
        worker.stop()

        def is_given_back() -> bool:
            return (tasks.get(task.id or "")).status == "pending"

        until(is_given_back)

    worker = TaskWorker(tasks, {"k": handle}, "w1", grace=0)
    worker.run()
    assert (worker.completed, worker.lost) == (0, 1)
    assert [(task.status, task.attempts, task.owner) for task in tasks.find()] == [("pending", 0, None)]


def test_a_notice_wakes_a_worker_that_would_look_again_in_an_hour(backend: Backend, squares: Any) -> None:
    if backend.kind == "sqlite":
        return
    notices = PubSub(backend.manager, "main")
    tasks = backend.store(notices=notices)
    worker = TaskWorker(tasks, {"square": squares}, "w1", poll=3600)
    running = Started(partial(worker.run))
    for n in (2, 3):
        tasks.add(Task(kind="square", payload=n))

        def is_done(n: int = n) -> bool:
            return worker.completed == n - 1

        until(is_done)
    worker.stop()
    running.result()
    assert sorted(task.result for task in tasks.find()) == [4, 9]


def test_tasks_are_added_where_notices_cannot_be_sent(manager: DatabaseManager, tmp_path: Any) -> None:
    manager.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    tasks = file_store(manager, tmp_path, notices=PubSub(manager, "gone"))
    stored = tasks.add(Task(kind="k"))
    assert tasks.find() == [stored]


def test_an_error_that_is_no_outage_ends_the_worker(manager: DatabaseManager, tmp_path: Any) -> None:
    tasks = file_store(manager, tmp_path)
    tasks.add(Task(kind="k"))

    def handle(task: Task) -> None:
        manager.remove("file")

    worker = TaskWorker(tasks, {"k": handle}, "w1", concurrency=4, poll=3600)
    with pytest.raises((UnknownConnectionError, ClosedError)):
        worker.run()


def test_what_is_no_worker_is_refused(manager: DatabaseManager, tmp_path: Any, squares: Any) -> None:
    tasks = file_store(manager, tmp_path)
    for handlers, options in (
        ({}, {"owner": "w"}),
        ({"k": squares}, {}),
        ({"": squares}, {"owner": "w"}),
        ({"k": squares}, {"owner": ""}),
        ({"k": squares}, {"owner": "w", "concurrency": 0}),
        ({"k": squares}, {"owner": "w", "lease": 0}),
    ):
        with pytest.raises(ValidationError):
            TaskWorker(tasks, handlers, **options)



# Generated from ../_async/test_stopping.py by tests/unasync.py: edit that one.
"""What goes on in the background is stopped in the time that it was given, also while what it calls hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest

from persistence import (
    DatabaseManager,
    HealthMonitor,
    Maintenance,
    Outbox,
    Relay,
    WriteBehind,
    DeadlineError,
    HealthChange,
    OutboxItem,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import EventLog, TaskStore, TaskWorker, Event, Task
from tests._sync.side import ASYNC, Started, sleep
from tests._sync.test_monitor import until

FATE = "it was cancelled" if ASYNC else "its thread, which nothing ends from outside, goes on"


class Hanging:
    """A call that returns only when it is let go."""

    def __init__(self) -> None:
        self.has_begun = self.may_end = False
        self.calls = 0

    def __call__(self, *given: Any) -> int:
        self.calls += 1
        self.has_begun = True
        while not self.may_end:
            sleep(0.002)
        return 0

    def begun(self) -> None:
        until(lambda: self.has_begun)


@pytest.fixture
def main(manager: DatabaseManager, tmp_path: Path) -> DatabaseManager:
    manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return manager


def stopped(background: Any, hanging: Hanging) -> str:
    """Stop it while the call hangs, and return the error; then let the call go, and see that it ends."""
    background.start()
    hanging.begun()
    began = monotonic()
    with pytest.raises(DeadlineError) as raised:
        background.stop()
    assert 0.04 < monotonic() - began < 5
    assert FATE in str(raised.value)
    assert background.is_running is not ASYNC
    assert all(each.daemon for each in threading.enumerate() if each.name.startswith("holdfast-"))
    if not ASYNC:
        with pytest.raises(ValidationError, match="was told to stop, and has not ended"):
            background.start()
    hanging.may_end = True
    until(lambda: not background.is_running)
    return str(raised.value)


def test_a_relay_whose_sink_hangs_stops_and_the_item_stays_in_its_outbox(main: DatabaseManager) -> None:
    outbox, hanging = Outbox(main, "main", "orders"), Hanging()
    outbox.put_many([("a", 1), ("b", 2)])

    def sink(item: OutboxItem) -> None:
        if item.key == "b":
            assert (outbox.status()).pending >= 1  # it isn't taken out before it is delivered
            hanging(item)

    relay = Relay(outbox, sink, lease=0.5, poll=0.01, grace=0.05)
    told = stopped(relay, hanging)
    assert (
        "the relay had not ended 0.05 s after it was told to stop: the sink has item 1 of key 'b'; what isn't" in told
    )
    with relay:
        outbox.put("b", 3)
        until(lambda: hanging.calls == 2 + ASYNC)  # what was cancelled is delivered again
    assert (relay.flush()).left == 0


def test_maintenance_whose_job_hangs_stops_and_names_the_job(main: DatabaseManager) -> None:
    hanging = Hanging()
    maintenance = Maintenance(main, "main", lease=1, interval=0.01, grace=0.05)
    maintenance.add("purge", hanging)
    told = stopped(maintenance, hanging)
    with maintenance:
        until(lambda: hanging.calls > 1)
    assert (
        "the maintenance had not ended 0.05 s after it was told to stop: the job 'purge' runs; the jobs behind" in told
    )


def test_a_monitor_whose_callback_hangs_stops_and_names_the_connection(main: DatabaseManager) -> None:
    main.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    hanging = Hanging()

    def on_change(change: HealthChange) -> None:
        hanging(change)
        raise ZeroDivisionError  # so that it is told of the same again

    monitor = HealthMonitor(main, interval=0.01, on_change=on_change, grace=0.05)
    monitor.start()
    hanging.begun()
    with pytest.raises(DeadlineError, match=r"health monitor had not ended .*on_change of 'gone'") as raised:
        monitor.stop()
    assert FATE in str(raised.value)
    hanging.may_end = True
    until(lambda: not monitor.is_running)
    monitor.stop()


def test_what_is_stopped_from_within_its_own_call_ends_after_it(main: DatabaseManager) -> None:
    main.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    told: list[str] = []

    def on_change(change: HealthChange) -> None:
        monitor.stop()
        told.append(change.name)

    monitor = HealthMonitor(main, interval=0.01, on_change=on_change, grace=60)
    monitor.start()
    until(lambda: not monitor.is_running)
    assert told == ["gone"]
    monitor.stop()


def test_a_writer_whose_write_hangs_is_closed_and_has_what_is_left() -> None:
    hanging = Hanging()
    writer = WriteBehind[int](hanging, size=2, age=0.01, timeout=0.05)
    writer.start()
    writer.add(1)
    hanging.begun()
    writer.add(2)
    began = monotonic()
    with pytest.raises(DeadlineError, match=r"had not ended within 0.05 s with 1 items, and 1 more wait") as raised:
        writer.close()
    assert 0.04 < monotonic() - began < 5
    assert FATE in str(raised.value)
    assert (writer.pending, writer.written) == ([1, 2], 0)
    if not ASYNC:
        with pytest.raises(ValidationError, match="write has not ended with 1 items"):
            writer.start()
    hanging.may_end = True
    until(lambda: ASYNC or writer.pending == [2])  # a thread's write takes place yet
    with writer:
        pass
    assert (writer.pending, writer.written) == ([], 2)


@pytest.mark.tables("sessions")
def test_a_writer_of_events_is_closed_while_somebody_else_has_locked_the_file(
    main: DatabaseManager, tmp_path: Path
) -> None:
    log = EventLog(main, "main")
    log.append(Event(kind="log", name="first"))
    other = main.add_sqlite("other", SQLiteConfig(path=str(tmp_path / "main.db")))
    writer = log.writer(age=0.01, timeout=0.05)
    writer.start()
    with other.transaction():
        other.execute("UPDATE holdfast_events SET name = 'changed'")
        writer.add(Event(kind="log", name="second"))
        began = monotonic()
        with pytest.raises(DeadlineError, match="pending has what is not written"):
            writer.close()
        assert monotonic() - began < 4
        assert [event.name for event in writer.pending] == ["second"]
    while True:
        try:
            with writer:
                break
        except ValidationError:  # what waited for the lock is about to end
            sleep(0.005)
    assert writer.pending == []
    assert [event.name for event in log.query()] == ["second", "changed"]


@pytest.mark.tables("sessions")
def test_a_worker_whose_handler_hangs_ends_and_gives_its_task_back(main: DatabaseManager) -> None:
    tasks, hanging = TaskStore(main, "main"), Hanging()
    tasks.add(Task(id="t", kind="hangs"))
    tasks.add(Task(id="u", kind="quick"))
    worker = TaskWorker(tasks, {"hangs": hanging, "quick": Hanging()}, "w1", grace=0.05, poll=0.01)
    running = Started(worker.run)
    hanging.begun()
    began = monotonic()
    worker.stop()
    if ASYNC:
        running.result()
        assert worker.lost == 1
    else:
        with pytest.raises(
            DeadlineError, match=r"past its grace of 0.05 s the handlers of 1 tasks go on: 't' \(hangs\)"
        ):
            running.result()
        with pytest.raises(ValidationError, match=r"the run before has not ended: .*'t' \(hangs\)"):
            worker.run()
    assert monotonic() - began < 5
    assert [(task.id, task.status, task.attempts) for task in tasks.find()] == [
        ("u", "pending", 0),
        ("t", "pending", 0),
    ]
    hanging.may_end = True
    until(lambda: worker.lost == 1)
    tasks.cancel("u")
    while worker.completed == 0:
        try:
            worker.run(until_idle=True)
        except ValidationError:  # the lane of the handler is about to end
            sleep(0.005)
    assert (tasks.get("t")).status == "completed"



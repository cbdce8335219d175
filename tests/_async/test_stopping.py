"""What goes on in the background is stopped in the time that it was given, also while what it calls hangs."""

from __future__ import annotations

import threading
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncHealthMonitor,
    AsyncMaintenance,
    AsyncOutbox,
    AsyncRelay,
    AsyncWriteBehind,
    DeadlineError,
    HealthChange,
    OutboxItem,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import AsyncEventLog, AsyncTaskStore, AsyncTaskWorker, Event, Task
from tests._async.side import ASYNC, Started, sleep
from tests._async.test_monitor import until

FATE = "it was cancelled" if ASYNC else "its thread, which nothing ends from outside, goes on"


class Hanging:
    """A call that returns only when it is let go."""

    def __init__(self) -> None:
        self.has_begun = self.may_end = False
        self.calls = 0

    async def __call__(self, *given: Any) -> int:
        self.calls += 1
        self.has_begun = True
        while not self.may_end:
            await sleep(0.002)
        return 0

    async def begun(self) -> None:
        await until(lambda: self.has_begun)


@pytest_asyncio.fixture
async def main(manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncDatabaseManager:
    await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    return manager


async def stopped(background: Any, hanging: Hanging) -> str:
    """Stop it while the call hangs, and return the error; then let the call go, and see that it ends."""
    background.start()
    await hanging.begun()
    began = monotonic()
    with pytest.raises(DeadlineError) as raised:
        await background.stop()
    assert 0.04 < monotonic() - began < 5
    assert FATE in str(raised.value)
    assert background.is_running is not ASYNC
    assert all(each.daemon for each in threading.enumerate() if each.name.startswith("holdfast-"))
    if not ASYNC:
        with pytest.raises(ValidationError, match="was told to stop, and has not ended"):
            background.start()
    hanging.may_end = True
    await until(lambda: not background.is_running)
    return str(raised.value)


async def test_a_relay_whose_sink_hangs_stops_and_the_item_stays_in_its_outbox(main: AsyncDatabaseManager) -> None:
    outbox, hanging = AsyncOutbox(main, "main", "orders"), Hanging()
    await outbox.put_many([("a", 1), ("b", 2)])

    async def sink(item: OutboxItem) -> None:
        if item.key == "b":
            assert (await outbox.status()).pending >= 1  # it isn't taken out before it is delivered
            await hanging(item)

    relay = AsyncRelay(outbox, sink, lease=0.5, poll=0.01, grace=0.05)
    told = await stopped(relay, hanging)
    assert (
        "the relay had not ended 0.05 s after it was told to stop: the sink has item 1 of key 'b'; what isn't" in told
    )
    async with relay:
        await outbox.put("b", 3)
        await until(lambda: hanging.calls == 2 + ASYNC)  # what was cancelled is delivered again
    assert (await relay.flush()).left == 0


async def test_maintenance_whose_job_hangs_stops_and_names_the_job(main: AsyncDatabaseManager) -> None:
    hanging = Hanging()
    maintenance = AsyncMaintenance(main, "main", lease=1, interval=0.01, grace=0.05)
    maintenance.add("purge", hanging)
    told = await stopped(maintenance, hanging)
    async with maintenance:
        await until(lambda: hanging.calls > 1)
    assert (
        "the maintenance had not ended 0.05 s after it was told to stop: the job 'purge' runs; the jobs behind" in told
    )


async def test_a_monitor_whose_callback_hangs_stops_and_names_the_connection(main: AsyncDatabaseManager) -> None:
    await main.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    hanging = Hanging()

    async def on_change(change: HealthChange) -> None:
        await hanging(change)
        raise ZeroDivisionError  # so that it is told of the same again

    monitor = AsyncHealthMonitor(main, interval=0.01, on_change=on_change, grace=0.05)
    monitor.start()
    await hanging.begun()
    with pytest.raises(DeadlineError, match=r"health monitor had not ended .*on_change of 'gone'") as raised:
        await monitor.stop()
    assert FATE in str(raised.value)
    hanging.may_end = True
    await until(lambda: not monitor.is_running)
    await monitor.stop()


async def test_what_is_stopped_from_within_its_own_call_ends_after_it(main: AsyncDatabaseManager) -> None:
    await main.add_redis("gone", RedisConfig(host="127.0.0.1", port=1), lazy=True)
    told: list[str] = []

    async def on_change(change: HealthChange) -> None:
        await monitor.stop()
        told.append(change.name)

    monitor = AsyncHealthMonitor(main, interval=0.01, on_change=on_change, grace=60)
    monitor.start()
    await until(lambda: not monitor.is_running)
    assert told == ["gone"]
    await monitor.stop()


async def test_a_writer_whose_write_hangs_is_closed_and_has_what_is_left() -> None:
    hanging = Hanging()
    writer = AsyncWriteBehind[int](hanging, size=2, age=0.01, timeout=0.05)
    writer.start()
    await writer.add(1)
    await hanging.begun()
    await writer.add(2)
    began = monotonic()
    with pytest.raises(DeadlineError, match=r"had not ended within 0.05 s with 1 items, and 1 more wait") as raised:
        await writer.aclose()
    assert 0.04 < monotonic() - began < 5
    assert FATE in str(raised.value)
    assert (writer.pending, writer.written) == ([1, 2], 0)
    if not ASYNC:
        with pytest.raises(ValidationError, match="write has not ended with 1 items"):
            writer.start()
    hanging.may_end = True
    await until(lambda: ASYNC or writer.pending == [2])  # a thread's write takes place yet
    async with writer:
        pass
    assert (writer.pending, writer.written) == ([], 2)


@pytest.mark.tables("sessions")
async def test_a_writer_of_events_is_closed_while_somebody_else_has_locked_the_file(
    main: AsyncDatabaseManager, tmp_path: Path
) -> None:
    log = AsyncEventLog(main, "main")
    await log.append(Event(kind="log", name="first"))
    other = await main.add_sqlite("other", SQLiteConfig(path=str(tmp_path / "main.db")))
    writer = log.writer(age=0.01, timeout=0.05)
    writer.start()
    async with other.transaction():
        await other.execute("UPDATE holdfast_events SET name = 'changed'")
        await writer.add(Event(kind="log", name="second"))
        began = monotonic()
        with pytest.raises(DeadlineError, match="pending has what is not written"):
            await writer.aclose()
        assert monotonic() - began < 4
        assert [event.name for event in writer.pending] == ["second"]
    while True:
        try:
            async with writer:
                break
        except ValidationError:  # what waited for the lock is about to end
            await sleep(0.005)
    assert writer.pending == []
    assert [event.name for event in await log.query()] == ["second", "changed"]


@pytest.mark.tables("sessions")
async def test_a_worker_whose_handler_hangs_ends_and_gives_its_task_back(main: AsyncDatabaseManager) -> None:
    tasks, hanging = AsyncTaskStore(main, "main"), Hanging()
    await tasks.add(Task(id="t", kind="hangs"))
    await tasks.add(Task(id="u", kind="quick"))
    worker = AsyncTaskWorker(tasks, {"hangs": hanging, "quick": Hanging()}, "w1", grace=0.05, poll=0.01)
    running = Started(worker.run)
    await hanging.begun()
    began = monotonic()
    worker.stop()
    if ASYNC:
        await running.result()
        assert worker.lost == 1
    else:
        with pytest.raises(
            DeadlineError, match=r"past its grace of 0.05 s the handlers of 1 tasks go on: 't' \(hangs\)"
        ):
            await running.result()
        with pytest.raises(ValidationError, match=r"the run before has not ended: .*'t' \(hangs\)"):
            await worker.run()
    assert monotonic() - began < 5
    assert [(task.id, task.status, task.attempts) for task in await tasks.find()] == [
        ("u", "pending", 0),
        ("t", "pending", 0),
    ]
    hanging.may_end = True
    await until(lambda: worker.lost == 1)
    await tasks.cancel("u")
    while worker.completed == 0:
        try:
            await worker.run(until_idle=True)
        except ValidationError:  # the lane of the handler is about to end
            await sleep(0.005)
    assert (await tasks.get("t")).status == "completed"


# [async-only]
async def test_what_does_not_heed_that_it_was_cancelled_is_told(main: AsyncDatabaseManager) -> None:
    import asyncio

    hanging = Hanging()

    async def swallows() -> int:
        while not hanging.may_end:
            try:
                await hanging()
            except asyncio.CancelledError:
                continue
        return 0

    maintenance = AsyncMaintenance(main, "main", grace=0)
    maintenance.add("stubborn", swallows)
    maintenance.start()
    await hanging.begun()
    with pytest.raises(DeadlineError, match=r"'stubborn' runs.*it goes on although it was cancelled"):
        await maintenance.stop()
    assert maintenance.is_running
    hanging.may_end = True
    await until(lambda: not maintenance.is_running)
    await maintenance.stop()


async def test_a_stop_that_is_cancelled_cancels_what_it_waits_for(main: AsyncDatabaseManager) -> None:
    import asyncio

    hanging = Hanging()
    maintenance = AsyncMaintenance(main, "main")
    maintenance.add("purge", hanging)
    maintenance.start()
    await hanging.begun()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await maintenance.stop()
    assert not maintenance.is_running


# [/async-only]

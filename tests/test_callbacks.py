"""What a class of the async side calls may be asynchronous or not; the sync side refuses what it can't await."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from persistence import (
    AsyncCache,
    AsyncDatabaseManager,
    AsyncHealthMonitor,
    AsyncMaintenance,
    AsyncOutbox,
    AsyncRelay,
    AsyncWriteBehind,
    Cache,
    ConfigError,
    DatabaseManager,
    HealthMonitor,
    Maintenance,
    Outbox,
    Relay,
    SQLiteConfig,
    ValidationError,
    WriteBehind,
)
from sessions import AsyncTaskStore, AsyncTaskWorker, AsyncUserData, Task, TaskStore, TaskWorker, UserData


async def test_a_plain_function_does_on_the_async_side() -> None:
    seen: list[Any] = []

    def note(*given: Any) -> int:
        seen.append(given)
        return 0

    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
        monitor = AsyncHealthMonitor(manager, on_change=note)
        await monitor.poll()
        await manager.add_sqlite("gone", SQLiteConfig(path="/nowhere/at/all.db"), lazy=True)
        await monitor.poll()
        (change,) = seen.pop()
        assert (change.name, change.healthy) == ("gone", False)
        await manager.remove("gone")

        maintenance = AsyncMaintenance(manager, "main")
        maintenance.add("plain", note, count=note)
        report = await maintenance.run_once()
        assert [(job.name, job.rows, job.error) for job in report.jobs] == [("plain", 0, None)]
        assert [job.rows for job in (await maintenance.run_once(dry_run=True)).jobs] == [0]
        assert seen == [(), ()]
        seen.clear()

        outbox = AsyncOutbox(manager, "main", "topic")
        await outbox.put("key", {"n": 1})
        assert (await AsyncRelay(outbox, note).run_once()).delivered == 1
        assert seen.pop()[0].payload == {"n": 1}

        async with AsyncWriteBehind(note, size=2) as writes:
            await writes.add(1)
            await writes.add(2)
        assert seen.pop() == ([1, 2],)

        assert await AsyncCache().get_or_load("key", lambda: 7) == 7

        tasks = AsyncTaskStore(manager, "main")
        plain = await tasks.add(Task(kind="plain", payload=1))
        other = await tasks.add(Task(kind="other", payload=2))

        async def awaited(task: Task) -> Any:
            worker.stop()
            return {"awaited": task.payload}

        worker = AsyncTaskWorker(tasks, {"plain": lambda task: {"plain": task.payload}, "other": awaited}, "o")
        await worker.run()
        assert (await tasks.get(plain.id or "")).result == {"plain": 1}
        assert (await tasks.get(other.id or "")).result == {"awaited": 2}

        assert (await AsyncUserData(manager, "main").erase_user("u", also={"mail": lambda user: 3}))["mail"] == 3


async def later(*given: Any) -> int:
    raise AssertionError("never run")


def test_a_coroutine_function_is_refused_on_the_sync_side_before_anything_is_done() -> None:
    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
        tasks, outbox = TaskStore(manager, "main"), Outbox(manager, "main", "topic")
        given: Any = later
        made: dict[str, Callable[[], Any]] = {
            "on_change": lambda: HealthMonitor(manager, on_change=given),
            "the job 'a'": lambda: Maintenance(manager, "main").add("a", given),
            "the job 'b'": lambda: Maintenance(manager, "main").add("b", lambda: 0, count=given),
            "the sink": lambda: Relay(outbox, given),
            "write": lambda: WriteBehind(given),
            "the handler of 'k'": lambda: TaskWorker(tasks, {"k": given}, "o"),
            "the loader": lambda: Cache().get_or_load("key", given),
            r"also\['mail'\]": lambda: UserData(manager, "main").erase_user("u", also={"mail": given}),
        }
        for what, call in made.items():
            with pytest.raises(ConfigError, match=f"{what} is asynchronous.*Async"):
                call()
        for call in (
            lambda: HealthMonitor(manager, on_change=7),  # type: ignore[arg-type]
            lambda: Relay(outbox, "print"),  # type: ignore[arg-type]
            lambda: WriteBehind(None),  # type: ignore[arg-type]
            lambda: TaskWorker(tasks, {"k": None}, "o"),  # type: ignore[dict-item]
        ):
            with pytest.raises(ValidationError, match="can't be called"):
                call()

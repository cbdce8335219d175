"""Maintenance: each job batch by batch, whatever becomes of the others, by one program at a time."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncLeaseLock,
    AsyncMaintenance,
    ClosedError,
    ConflictError,
    MaintenanceReport,
    SQLiteConfig,
    ValidationError,
)
from tests._async.test_monitor import until


@pytest_asyncio.fixture
async def values(manager: AsyncDatabaseManager, tmp_path: Path) -> AsyncKeyValueStore:
    """Five values on the connection ``main``."""
    await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    made = AsyncKeyValueStore(manager, "main")
    await made.put_many({f"k{number}": number for number in range(5)})
    return made


class Deleting:
    """A job that deletes two values at a time."""

    def __init__(self, values: AsyncKeyValueStore) -> None:
        self.values = values
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        found = await self.values.get_many([f"k{number}" for number in range(5)])
        return sum([await self.values.delete(key) for key in [*found][:2]])

    async def count(self) -> int:
        return len(await self.values.get_many([f"k{number}" for number in range(5)]))


def shown(report: MaintenanceReport) -> list[tuple[Any, ...]]:
    assert all(job.seconds >= 0 for job in report.jobs)
    return [(job.name, job.rows, job.is_over, job.error) for job in report.jobs]


async def nothing() -> int:
    return 0


async def test_jobs_run_in_batches_and_a_failure_stops_no_other(
    manager: AsyncDatabaseManager, values: AsyncKeyValueStore, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail() -> int:
        raise OSError("no disk")

    async def lie() -> Any:
        return None

    maintenance, deleting = AsyncMaintenance(manager, "main"), Deleting(values)
    maintenance.add("failing", fail)
    maintenance.add("deleting", deleting, count=deleting.count)
    maintenance.add("lying", lie)
    assert shown(await maintenance.run_once(dry_run=True)) == [
        ("failing", None, True, None),
        ("deleting", 5, True, None),
        ("lying", None, True, None),
    ]
    assert deleting.calls == 0
    report = await maintenance.run_once()
    assert shown(report) == [
        ("failing", 0, False, "OSError: no disk"),
        ("deleting", 5, True, None),
        ("lying", 0, False, "ValidationError: the job 'lying' returned a NoneType (return the number of rows)"),
    ]
    assert deleting.calls == 4
    assert [job.name for job in report.failed] == ["failing", "lying"]
    assert [record.levelno for record in caplog.records if record.name == "persistence.maintenance"] == [
        logging.ERROR
    ] * 2
    assert await values.get_many(["k0", "k4"]) == {}


async def test_a_run_is_bounded(manager: AsyncDatabaseManager, values: AsyncKeyValueStore) -> None:
    maintenance = AsyncMaintenance(manager, "main", batches=2)
    maintenance.add("deleting", Deleting(values))
    assert shown(await maintenance.run_once()) == [("deleting", 4, False, None)]
    assert shown(await maintenance.run_once()) == [("deleting", 1, True, None)]


async def test_one_program_runs_at_a_time(manager: AsyncDatabaseManager, values: AsyncKeyValueStore) -> None:
    first, second = AsyncMaintenance(manager, "main"), AsyncMaintenance(manager, "main")
    deleting, reports = Deleting(values), list[MaintenanceReport]()
    second.add("deleting", deleting)

    async def meanwhile() -> int:
        reports.append(await second.run_once())
        return 0

    first.add("meanwhile", meanwhile)
    assert (await first.run_once()).ran
    assert reports == [MaintenanceReport((), ran=False)]
    assert deleting.calls == 0
    assert (await second.run_once()).ran


async def test_a_lost_lease_ends_the_run(manager: AsyncDatabaseManager, values: AsyncKeyValueStore) -> None:
    maintenance, deleting = AsyncMaintenance(manager, "main"), Deleting(values)

    async def lose() -> int:
        await manager.get_database("main").execute("UPDATE holdfast_leases SET expires_at = 0")
        await AsyncLeaseLock(manager, "main", "maintenance").acquire()
        return 0

    maintenance.add("losing", lose)
    maintenance.add("deleting", deleting)
    with pytest.raises(ConflictError, match="'maintenance' was lost"):
        await maintenance.run_once()
    assert deleting.calls == 0


async def test_it_runs_each_interval_until_it_is_stopped(
    manager: AsyncDatabaseManager, values: AsyncKeyValueStore
) -> None:
    calls: list[int] = []

    async def note() -> int:
        calls.append(len(calls))
        return 0

    async with AsyncMaintenance(manager, "main", interval=0.01) as maintenance:
        maintenance.add("noting", note)
        await until(lambda: len(calls) >= 3)
        assert maintenance.is_running
    assert not maintenance.is_running
    maintenance.start()
    await until(lambda: len(calls) >= 4)
    await manager.aclose()
    await until(lambda: not maintenance.is_running)
    await maintenance.stop()


async def test_what_is_no_job_is_refused(manager: AsyncDatabaseManager, values: AsyncKeyValueStore) -> None:
    maintenance = AsyncMaintenance(manager, "main")
    maintenance.add("one", nothing)
    with pytest.raises(ValidationError, match="a job 'one' already"):
        maintenance.add("one", nothing)
    for name in ("", "a\0b", "x" * 10_000, 7):
        with pytest.raises(ValidationError, match="the job"):
            maintenance.add(name, nothing)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="can't be called"):
        maintenance.add("two", 7)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="batches"):
        AsyncMaintenance(manager, "main", batches=0)
    with pytest.raises(ValidationError, match="interval"):
        AsyncMaintenance(manager, "main", interval=float("nan"))
    await manager.aclose()
    with pytest.raises(ClosedError):
        await maintenance.run_once()

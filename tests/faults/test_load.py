"""More callers than connections, for a while: nobody is forgotten, nothing grows, and the figures are printed.

``HOLDFAST_FAULTS=full`` runs for two minutes where a quick run takes a second or two. Figures are for ``pytest -rP``;
what is asserted is what must hold on any machine.
"""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    EmbeddedPostgreSQL,
    PoolTimeoutError,
    PostgreSQLConfig,
    RedisConfig,
)
from persistence.fields import reveal

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
CALLERS = 1_000 if FULL else 200
TASKS = 5_000 if FULL else 1_000
SAVES = 50_000 if FULL else 1_500
CONNECTIONS = 500 if FULL else 60
EACH = 200 if FULL else 5
"""How many checkpoints each writer saves."""


@pytest.fixture
def callers() -> Iterator[ThreadPoolExecutor]:
    """As many threads as callers, with small stacks."""
    before = threading.stack_size(256 * 1024)
    with ThreadPoolExecutor(CALLERS) as threads:
        yield threads
    threading.stack_size(before)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[int(part * (len(values) - 1))]


def test_of_many_threads_on_ten_connections_each_is_served_or_told_in_time(
    postgresql_config: PostgreSQLConfig, callers: ThreadPoolExecutor
) -> None:
    with DatabaseManager() as manager:
        config = replace(postgresql_config, max_connections=10, pool_timeout=60)
        main = manager.add_postgresql("main", config)
        together = threading.Barrier(CALLERS)

        def patient(number: int) -> float:
            together.wait(60)
            started = monotonic()
            assert main.fetch_value("SELECT :n::integer FROM pg_sleep(0.005)", {"n": number}, timeout=60) == number
            return monotonic() - started

        waits = list(callers.map(patient, range(CALLERS)))
        print(f"{CALLERS} threads, 10 connections: p50 {percentile(waits, 0.5):.2f} s, worst {max(waits):.2f} s")
        stats = main.stats()
        assert (stats.in_use, stats.waiting, stats.errors) == (0, 0, 0)
        assert stats.open <= 10

        hurried = manager.add_postgresql("hurried", replace(config, pool_timeout=0.2))

        def impatient(_: int) -> float | None:
            together.wait(60)
            started = monotonic()
            try:
                hurried.fetch_value("SELECT pg_sleep(0.05)", timeout=30)
            except PoolTimeoutError:
                return monotonic() - started
            return None

        told = list(callers.map(impatient, range(CALLERS)))
        late = [each for each in told if each is not None]
        print(f"of {CALLERS} that wait 0.2 s, {len(late)} were told, after {min(late):.2f} to {max(late):.2f} s")
        assert 0 < len(late) < CALLERS
        assert min(late) >= 0.19
        assert max(late) < 3
        assert hurried.fetch_value("SELECT 1") == 1
        stats = hurried.stats()
        assert (stats.in_use, stats.waiting) == (0, 0)
        assert stats.open <= 10


def test_no_task_starves_on_twenty_connections(postgresql_config: PostgreSQLConfig) -> None:
    async def run() -> list[float]:
        async with AsyncDatabaseManager() as manager:
            main = await manager.add_postgresql("main", replace(postgresql_config, max_connections=20, pool_timeout=60))

            async def call(number: int) -> float:
                started = monotonic()
                assert await main.fetch_value("SELECT :n::integer", {"n": number}, timeout=60) == number
                return monotonic() - started

            waits = await asyncio.gather(*[call(number) for number in range(TASKS)])
            assert (main.stats().in_use, main.stats().waiting, main.stats().errors) == (0, 0, 0)
            return waits

    waits = asyncio.run(run())
    mean, late = sum(waits) / len(waits), percentile(waits, 0.99)
    print(
        f"{TASKS} tasks, 20 connections: mean {mean * 1000:.0f} ms, p99 {late * 1000:.0f} ms, {late / mean:.2f} times"
    )
    assert late < 3 * mean  # in order: the last waits for all before it, which is twice the mean


@pytest.mark.parametrize(
    ("writers", "shared"), [(100, False), (16, False), (16, True)], ids=["100", "16", "16 of one thread"]
)
def test_many_writers_save_beside_one_another_and_leave_no_gap(
    postgresql_config: PostgreSQLConfig, writers: int, shared: bool
) -> None:
    with DatabaseManager() as manager, ThreadPoolExecutor(writers) as threads:
        main = manager.add_postgresql("main", replace(postgresql_config, max_connections=10, pool_timeout=60))
        checkpoints = DatabaseCheckpointer(manager, "main")
        checkpoints.save_checkpoint(Checkpoint("first", {}))
        together = threading.Barrier(writers)

        def write(number: int) -> tuple[list[float], float]:
            thread, waits = "shared" if shared else f"thread {number}", list[float]()
            together.wait(60)
            started = monotonic()
            for step in range(EACH):
                before = monotonic()
                checkpoints.save_checkpoint(Checkpoint(thread, {"n": step, "by": number}))
                waits.append(monotonic() - before)
            return waits, started

        found = list(threads.map(write, range(writers)))
        took = monotonic() - min(started for _, started in found)
        waits = [wait for each, _ in found for wait in each]
        versions = main.fetch_all(
            "SELECT max(version) AS last, count(*) AS number FROM holdfast_checkpoints"
            " WHERE thread_id <> 'first' GROUP BY thread_id ORDER BY thread_id"
        )
        assert [(row["last"], row["number"]) for row in versions] == (
            [(writers * EACH,) * 2] if shared else [(EACH, EACH)] * writers
        )
        late = percentile(waits, 0.99) * 1000
        of = " of one thread" if shared else ""
        print(f"{writers} writers{of}, 10 connections: {len(waits) / took:,.0f} saves a second, p99 {late:.0f} ms")


IDLE = """
import gc, os, sys, threading, time
from persistence import DatabaseManager
from persistence.config import PostgreSQLConfig, RedisConfig
def woken():
    found = 0
    for task in os.listdir("/proc/self/task"):
        with open(f"/proc/self/task/{task}/status") as file:
            found += sum(int(line.split()[1]) for line in file if "voluntary_ctxt" in line)
    return found
with DatabaseManager() as manager:
    for number in range(8):
        manager.add(f"postgresql {number}", os.environ["PG"]).fetch_value("SELECT 1")
        manager.add_sqlite(f"sqlite {number}", "sqlite://").fetch_value("SELECT 1")
        manager.add(f"redis {number}", os.environ["REDIS"]).client.ping()
    gc.collect()
    before = woken()
    time.sleep(float(sys.argv[1]))
    print(threading.active_count(), woken() - before)
"""


def test_twenty_four_idle_connections_have_no_thread_and_wake_nobody(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    sql, cache = postgresql_config, redis_config
    environment = {
        **os.environ,
        "PG": f"postgresql://{sql.username}:{reveal(sql.password)}@/{sql.database}?host={sql.host}&port={sql.port}",
        "REDIS": f"unix://:{reveal(cache.password)}@{cache.unix_socket}?database={cache.database}",
    }
    seconds = 10 if FULL else 0.5
    command = [sys.executable, "-c", IDLE, str(seconds)]
    for _ in range(3):  # a busy machine wakes it for reasons of its own
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
        threads, woken = map(int, ran.stdout.split())
        if woken <= 3 + seconds:
            break
    print(f"24 idle connections: {threads} thread, woken {woken} times in {seconds:g} s")
    assert threads == 1
    assert woken <= 3 + seconds


@pytest.fixture
def roomy(postgresql_config: PostgreSQLConfig, tmp_path: Path) -> Iterator[PostgreSQLConfig]:
    """A server that takes as many connections: the others' has room for a quick run."""
    if not FULL:
        yield postgresql_config
        return
    settings = {"max_connections": str(CONNECTIONS + 20), "fsync": "off"}
    with EmbeddedPostgreSQL(tmp_path / "postgresql", settings=settings) as server:
        yield server.config()


def own_memory(pid: int) -> float | None:
    """Return what a process has for itself, in MiB; None where it is another user's."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) / 1024


def test_many_connections_are_open_at_once_and_each_is_its_own(roomy: PostgreSQLConfig) -> None:
    async def run() -> None:
        async with AsyncDatabaseManager() as manager:
            config = replace(roomy, max_connections=CONNECTIONS, max_idle_connections=5, connect_timeout=60)
            main = await manager.add_postgresql("main", replace(config, pool_timeout=60, timeout=60))
            everybody, started = asyncio.Barrier(CONNECTIONS + 1), monotonic()

            async def hold() -> int:
                async with main.transaction() as transaction:
                    pid: int = await transaction.fetch_value("SELECT pg_backend_pid()")
                    await everybody.wait()  # all are open
                    await everybody.wait()  # and were looked at
                    return pid

            holding = [asyncio.create_task(hold()) for _ in range(CONNECTIONS)]
            await everybody.wait()
            took = monotonic() - started
            assert (main.stats().open, main.stats().in_use) == (CONNECTIONS, CONNECTIONS)
            found = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            with psycopg.connect(**roomy.connection_parameters()) as beside:
                pids = {row[0] for row in beside.execute(found).fetchall()}
            sizes = [size for size in map(own_memory, pids) if size is not None]
            await everybody.wait()
            assert set(await asyncio.gather(*holding)) == pids
            assert (main.stats().in_use, main.stats().errors) == (0, 0)
            each = (
                f"{sum(sizes) / len(sizes):.2f} MiB of the server's memory each" if sizes else "memory not to be seen"
            )
            print(f"{CONNECTIONS} connections: open after {took:.2f} s, {each}")
            assert took < 60

    asyncio.run(run())


def test_what_is_held_does_not_grow_with_the_calls_that_were_made(postgresql_config: PostgreSQLConfig) -> None:
    def resident() -> float:
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    with DatabaseManager() as manager, ThreadPoolExecutor(8) as threads:
        main = manager.add_postgresql("main", replace(postgresql_config, max_connections=8))
        checkpoints = DatabaseCheckpointer(manager, "main")

        def save(number: int) -> None:
            thread = f"thread {number % 16}"
            checkpoints.save_checkpoint(Checkpoint(thread, {"n": number}))
            if number % 9 == 0:
                checkpoints.prune(thread, keep_last=3)
                checkpoints.load_checkpoint(thread)

        def work(count: int) -> None:
            numbers = iter(range(count))  # shared, so that no list of calls grows here
            taking = threading.Lock()

            def some() -> None:
                while True:
                    with taking:
                        number = next(numbers, None)
                    if number is None:
                        return
                    save(number)

            for each in [threads.submit(some) for _ in range(8)]:
                each.result()

        work(SAVES // 3)
        opened, files, size = main.stats().opened, len(os.listdir("/proc/self/fd")), resident()
        started = monotonic()
        work(SAVES)
        grown = resident() - size
        print(f"{SAVES / (monotonic() - started):,.0f} saves a second, {grown:+.2f} MiB after {SAVES:,}")
        assert main.stats().opened == opened
        assert len(os.listdir("/proc/self/fd")) <= files
        assert grown < 8
        assert main.fetch_value("SELECT count(*) FROM holdfast_checkpoints") < 16 * 30

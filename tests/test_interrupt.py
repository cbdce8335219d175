"""Ctrl-C or a cancelled task in the middle of a statement: no later call gets its answer."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Thread, get_ident
from time import monotonic, sleep
from types import FrameType
from typing import Any

import pytest

from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    DeadlineError,
    LeaseLock,
    PostgreSQLConfig,
    RedisConfig,
    Transaction,
)
from persistence._sync.sqlite_link import SQLiteLink
from tests.proxy import FaultyProxy


@pytest.fixture
def interrupted_soon() -> Iterator[Callable[[], object]]:
    """What brings about a KeyboardInterrupt, 0.2 s after it is called."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield partial(signal.setitimer, signal.ITIMER_REAL, 0.2)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_interrupted_statement_ends_and_its_connection_goes_on(
    postgresql_config: PostgreSQLConfig, in_transaction: bool, interrupted_soon: Callable[[], object]
) -> None:
    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", replace(postgresql_config, max_connections=1))
        pid = main.fetch_value("SELECT pg_backend_pid()")
        started = monotonic()
        with pytest.raises(KeyboardInterrupt):
            interrupted_soon()
            if in_transaction:
                with main.transaction():
                    main.fetch_value("SELECT pg_sleep(30)")
            else:
                main.fetch_value("SELECT pg_sleep(30)")
        assert monotonic() - started < 15
        assert main.fetch_value("SELECT pg_backend_pid()") == pid
        assert main.stats().in_use == 0


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_interrupted_statement_on_sqlite_ends_and_is_undone(
    tmp_path: Path, in_transaction: bool, interrupted_soon: Callable[[], object]
) -> None:
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n"
    with DatabaseManager() as manager:
        main = manager.add_sqlite("main", f"sqlite:///{tmp_path / 'a.db'}")
        main.execute("CREATE TABLE counts (n integer)")
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                interrupted_soon()
                with main.transaction() if in_transaction else nullcontext():
                    main.execute(f"INSERT INTO counts {endless}", timeout=15)
        assert main.fetch_value("SELECT count(*) FROM counts") == 0
        with pytest.raises(DeadlineError):
            main.fetch_value(endless, timeout=0.05)
        assert main.execute("INSERT INTO counts VALUES (1)") == 1
        assert main.stats().in_use == 0


def test_an_interrupt_at_whatever_place_of_a_look_ends_a_statement_on_sqlite_and_no_later_one() -> None:
    counted = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 20000) SELECT count(*) FROM n"
    looks, places, wanted = SQLiteLink._looks.__code__, set[int](), -1

    def at_a_place(frame: FrameType, event: str, argument: object) -> Any:
        if event == "opcode":
            places.add(frame.f_lasti)
            if frame.f_lasti == wanted:
                sys.settrace(None)
                raise KeyboardInterrupt
        return at_a_place

    def at_a_call(frame: FrameType, event: str, argument: object) -> Any:
        if frame.f_code is not looks:
            return None
        frame.f_trace_opcodes = True
        return at_a_place

    before = sys.gettrace()
    with DatabaseManager() as manager:
        main = manager.add_sqlite("main", "sqlite://")
        assert main.fetch_value(counted) == 20_000  # now the looks are behind their beginning
        try:
            sys.settrace(at_a_call)
            assert main.fetch_value(counted) == 20_000
            assert len(places) > 5
            for wanted in sorted(places):  # noqa: B007 - at_a_place reads it
                with pytest.raises(KeyboardInterrupt):
                    sys.settrace(at_a_call)
                    main.fetch_value(counted)
                assert main.fetch_value(counted) == 20_000
        finally:
            sys.settrace(before)


def test_an_interrupt_at_the_moment_a_transaction_has_begun_costs_no_connection() -> None:
    begun = Transaction._begin.__code__

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "return" and frame.f_code is begun:
            sys.setprofile(None)
            raise KeyboardInterrupt

    with DatabaseManager() as manager:
        main = manager.add_sqlite("main", "sqlite://")
        with pytest.raises(KeyboardInterrupt):
            sys.setprofile(interrupt)
            with main.transaction():
                pytest.fail("it was not entered")
        gc.collect()
        assert main.execute("CREATE TABLE t (n integer)", timeout=5) == 0
        assert main.stats().in_use == 0


def test_an_interrupt_that_comes_by_way_of_another_thread_ends_a_statement(
    postgresql_config: PostgreSQLConfig, interrupted_soon: Callable[[], object]
) -> None:
    def interrupt_me() -> None:
        sleep(0.2)
        signal.pthread_kill(get_ident(), signal.SIGALRM)

    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", postgresql_config)
        beside = Thread(target=interrupt_me)
        started = monotonic()
        with pytest.raises(KeyboardInterrupt):
            beside.start()
            main.fetch_value("SELECT pg_sleep(30)")
        assert monotonic() - started < 15
        beside.join()


def test_a_statement_that_is_cancelled_while_it_is_sent_ends_and_its_connection_goes_on(
    postgresql_config: PostgreSQLConfig, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with AsyncDatabaseManager() as manager:
            through = replace(postgresql_config, host="127.0.0.1", port=proxy.port, max_connections=1)
            main = await manager.add_postgresql("main", through)
            pid = await main.fetch_value("SELECT pg_backend_pid()")
            proxy.mode = "hold requests"
            asyncio.get_running_loop().call_later(0.6, setattr, proxy, "mode", "pass")
            started = monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await main.fetch_all("SELECT :b::bytea, pg_sleep(30)", {"b": b"x" * 30_000_000})
            assert monotonic() - started < 15
            assert await main.fetch_value("SELECT pg_backend_pid()") == pid

    host, port = postgresql_config.host, postgresql_config.port
    with FaultyProxy(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else (host, port)) as proxy:
        asyncio.run(run())
    assert caplog.records == []


def test_the_answer_of_an_interrupted_redis_command_reaches_nobody(
    redis_config: RedisConfig, interrupted_soon: Callable[[], object]
) -> None:
    with DatabaseManager() as manager:
        cache = manager.add_redis("cache", replace(redis_config, pool_size=1))
        with pytest.raises(KeyboardInterrupt):
            interrupted_soon()
            cache.client.blpop(["list"], timeout=2)
        cache.client.rpush("list", "the answer of the command that was interrupted")
        assert cache.client.get("k") is None
        assert (cache.stats().open, cache.stats().in_use) == (1, 0)


def test_a_lease_that_was_given_to_an_interrupted_acquire_is_given_back(redis_config: RedisConfig) -> None:
    target = redis_config.unix_socket or (redis_config.host, redis_config.port)
    with FaultyProxy(target) as proxy, DatabaseManager() as manager:
        through = replace(redis_config, unix_socket=None, host="127.0.0.1", port=proxy.port)
        beside = manager.add_redis("main", redis_config)
        manager.add_redis("proxied", through)
        lease = LeaseLock(manager, "proxied", "l")
        assert LeaseLock(manager, "proxied", "other").acquire(timeout=0) == 1  # the script is known now

        def interrupt(number: int, frame: FrameType | None) -> None:
            if not beside.client.exists("holdfast:{default:l}:lease"):
                signal.setitimer(signal.ITIMER_REAL, 0.02)  # it isn't there yet
                return
            proxy.mode = "pass"
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        proxy.mode = "hold replies"
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(KeyboardInterrupt):
            lease.acquire()
        signal.signal(signal.SIGALRM, before)
        assert not lease.held
        assert LeaseLock(manager, "main", "l").acquire(timeout=0) == 2


def test_the_answer_of_a_cancelled_redis_command_reaches_nobody(redis_config: RedisConfig) -> None:
    async def run() -> None:
        async with AsyncDatabaseManager() as manager:
            cache = await manager.add_redis("cache", replace(redis_config, pool_size=1))
            blocked = asyncio.ensure_future(cache.client.blpop(["list"], timeout=2))
            await asyncio.sleep(0)
            assert cache.stats().in_use == 1
            blocked.cancel()
            with pytest.raises(asyncio.CancelledError):
                await blocked
            await cache.client.rpush("list", "the answer of the command that was cancelled")
            assert await cache.client.get("k") is None
            assert (cache.stats().open, cache.stats().in_use) == (1, 0)

    asyncio.run(run())

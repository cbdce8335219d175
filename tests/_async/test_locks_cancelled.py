# unasync: skip
"""A cancelled ``acquire`` leaves no lease behind that nobody knows of."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from persistence import AsyncDatabaseManager, AsyncLeaseLock, AsyncRedisConnection, SQLiteConfig
from persistence._async import locks
from tests._async.side import sleep
from tests.proxy import FaultyProxy


@contextmanager
def held_answers(request: pytest.FixtureRequest, kind: str) -> Iterator[tuple[FaultyProxy, Any]]:
    """A proxy before a server, and the configuration of a connection through it."""
    config = request.getfixturevalue(f"{kind}_config")
    socket = config.unix_socket if kind == "redis" else f"{config.host}/.s.PGSQL.{config.port}"
    changes: dict[str, Any] = {"unix_socket": None} if kind == "redis" else {}
    with FaultyProxy(socket or (config.host, config.port)) as proxy:
        yield proxy, replace(config, host="127.0.0.1", port=proxy.port, **changes)


async def is_taken(manager: AsyncDatabaseManager) -> bool:
    """Tell whether anybody has the lease ``l``, by what ``main`` holds."""
    main = manager.get("main")
    if isinstance(main, AsyncRedisConnection):
        return bool(await main.client.exists("holdfast:{default:l}:lease"))
    rows = await main.fetch_all("SELECT holder FROM holdfast_leases WHERE expires_at > clock_timestamp()")
    return rows != []


@pytest.mark.parametrize(("kind", "times"), [("postgresql", 1), ("redis", 3)])
async def test_a_cancelled_acquire_gives_back_what_the_server_had_given_it(
    manager: AsyncDatabaseManager, request: pytest.FixtureRequest, kind: str, times: int
) -> None:
    with held_answers(request, kind) as (proxy, through):
        await getattr(manager, f"add_{kind}")("main", request.getfixturevalue(f"{kind}_config"))
        await getattr(manager, f"add_{kind}")("proxied", through)
        lease = AsyncLeaseLock(manager, "proxied", "l")
        assert await lease.acquire() == 1
        assert await lease.release()
        proxy.mode = "hold replies"
        taking = asyncio.create_task(lease.acquire())
        while not await is_taken(manager):
            await sleep(0)
        for _ in range(times):
            taking.cancel()
            await sleep(0)
        assert not taking.done()
        proxy.mode = "pass"
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert not lease.held
        assert not await is_taken(manager)
        assert await lease.acquire(timeout=0) == 3
        await manager.aclose()


async def test_a_cancelled_acquire_waits_for_a_silent_server_no_longer_than_it_says(
    manager: AsyncDatabaseManager, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "GIVE_BACK_SECONDS", 0.1)
    with held_answers(request, "redis") as (proxy, through):
        await manager.add_redis("proxied", through)
        lease = AsyncLeaseLock(manager, "proxied", "l")
        proxy.mode = "black hole"
        taking = asyncio.create_task(lease.acquire())
        while not manager.stats()["proxied"].in_use:
            await sleep(0)
        taking.cancel()
        started = monotonic()
        with pytest.raises(asyncio.CancelledError):
            await taking
        assert 0.1 <= monotonic() - started < 2
        assert not lease.held
        proxy.mode = "pass"
        assert await lease.acquire(timeout=5)


async def test_a_cancelled_acquire_gives_back_what_a_file_had_given_it(
    manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    path = tmp_path / "main.db"
    await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
    lease = AsyncLeaseLock(manager, "main", "l")
    assert await lease.acquire() == 1
    assert await lease.release()
    taking = asyncio.create_task(lease.acquire())
    await sleep(0)
    await sleep(0)
    with closing(sqlite3.connect(path)) as beside:  # the loop stands still: the answer lies there when it is cancelled
        wait_until(lambda: beside.execute("SELECT fence FROM holdfast_leases").fetchall() == [(2,)])
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert not lease.held
    assert await AsyncLeaseLock(manager, "main", "l").acquire(timeout=0) == 3


def wait_until(found: Callable[[], bool]) -> None:
    """Wait in this thread until something is so."""
    end = monotonic() + 10
    while not found():
        assert monotonic() < end

"""Checkpoints on a Redis that is killed, restarted, frozen or cut off: what was acknowledged is there, and once."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from checkpoint import Checkpoint
from checkpoint._async.redis import AsyncRedisCheckpointer
from persistence import AsyncDatabaseManager, EmbeddedRedis, PersistenceError, RedisConfig, UnavailableError
from tests._async.checkpoints import LONG, versions
from tests._async.side import Started, sleep
from tests.proxy import FaultyProxy

WORKERS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which answers a write when it is on disk."""
    with EmbeddedRedis(tmp_path / "redis", settings={"appendfsync": "always"}) as running:
        yield running


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, server: EmbeddedRedis) -> AsyncIterator[AsyncRedisCheckpointer]:
    await manager.add_redis("main", replace(server.config(), read_timeout=2, write_timeout=2))
    yield AsyncRedisCheckpointer(manager, "main")
    await manager.aclose()


def state_of(worker: int, n: int) -> dict[str, Any]:
    return {"n": n, "by": worker, "same": LONG, "items": [f"{item} of {worker} " * 20 for item in range(n % 40)]}


async def save_until_it_fails(checkpointer: AsyncRedisCheckpointer, worker: int, acknowledged: list[int]) -> None:
    n = len(acknowledged)
    while True:
        try:
            saved = await checkpointer.save_checkpoint(Checkpoint(f"t{worker}", state_of(worker, n), key=f"k{n}"))
        except PersistenceError:
            return
        acknowledged.append(saved.version or 0)
        n += 1


async def test_after_a_kill_every_acknowledged_checkpoint_is_there_and_equal(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, server: EmbeddedRedis
) -> None:
    acknowledged: list[list[int]] = [[] for _ in range(WORKERS)]
    for kill in range(1, 4):
        calls: list[Callable[[], Any]] = [
            lambda worker=worker: save_until_it_fails(stored, worker, acknowledged[worker]) for worker in range(WORKERS)
        ]
        running = [Started(call) for call in calls]
        enough = 25 * kill
        while min(map(len, acknowledged)) < enough:
            await sleep(0.002)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        for call in running:
            await call.result()
        server.stop()
        server.start()
        reader = AsyncRedisCheckpointer(manager, "main")
        assert {found.thread_id for found in await reader.list_threads()} == {f"t{n}" for n in range(WORKERS)}
        for worker in range(WORKERS):
            listed = await reader.list_checkpoints(f"t{worker}", states=True, limit=10_000)
            there = {one.version: one for one in listed}
            assert sorted(there) == list(range(1, len(there) + 1))
            assert set(acknowledged[worker]) <= set(there)
            # At most the one whose answer was lost is there besides; its key says which it was.
            assert len(there) - len(acknowledged[worker]) in (0, 1)
            for version, one in there.items():
                assert one.key == f"k{(version or 0) - 1}"
                assert one.state == state_of(worker, (version or 0) - 1)
            acknowledged[worker] = sorted(version or 0 for version in there)


async def test_a_restart_costs_no_call_an_error(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, server: EmbeddedRedis
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    server.stop()
    server.start()
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 2}))
    server.stop()
    server.start()
    await stored.save_checkpoint(Checkpoint("new", {"a": LONG}))
    server.stop()
    server.start()
    assert (await stored.load_checkpoint("t")).state == {"a": LONG, "n": 2}
    assert manager.stats()["main"].errors == 0


async def test_a_save_whose_answer_is_lost_is_one_checkpoint_when_it_is_repeated(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, server: EmbeddedRedis
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}, key="first"))
    socket = server.config().unix_socket
    assert socket is not None
    with FaultyProxy(socket) as proxy:
        config = RedisConfig(host="127.0.0.1", port=proxy.port, password=server.config().password)
        await manager.add_redis("proxied", config)
        proxied = AsyncRedisCheckpointer(manager, "proxied")
        await proxied.latest("t")
        for n, thread in enumerate(("t", "new", "t")):
            given = Checkpoint(thread, {"a": LONG, "n": n}, key=f"k{n}")
            proxy.mode = "swallow replies"
            with pytest.raises(UnavailableError):
                await proxied.save_checkpoint(given)
            proxy.mode = "pass"
            saved = await proxied.save_checkpoint(given)
            assert (await stored.load_checkpoint(thread, key=f"k{n}")).version == saved.version
        assert await versions(stored) == [3, 2, 1]
        assert await versions(stored, "new") == [1]
        # A read is sent again by itself.
        before = proxy.connections
        proxy.mode = "swallow replies"
        with pytest.raises(UnavailableError):
            await proxied.latest("t")
        assert proxy.connections - before == config.max_retries  # besides the connection that there was
        proxy.mode = "pass"
        assert (await proxied.load_checkpoint("t")).state == {"a": LONG, "n": 2}
        await manager.aclose()

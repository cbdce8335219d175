# Generated from ../_async/test_checkpoint_redis_faults.py by tests/unasync.py: edit that one.
"""Checkpoints on a Redis that is killed, restarted, frozen or cut off: what was acknowledged is there, and once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest

from checkpoint import Checkpoint
from checkpoint._sync.redis import RedisCheckpointer
from persistence import DatabaseManager, EmbeddedRedis, PersistenceError, RedisConfig, UnavailableError
from tests._sync.checkpoints import LONG, versions
from tests._sync.side import Started, sleep
from tests.proxy import FaultyProxy

WORKERS = 4


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A Redis of this test's own, which answers a write when it is on disk."""
    with EmbeddedRedis(tmp_path / "redis", settings={"appendfsync": "always"}) as running:
        yield running


@pytest.fixture
def stored(manager: DatabaseManager, server: EmbeddedRedis) -> Iterator[RedisCheckpointer]:
    manager.add_redis("main", replace(server.config(), read_timeout=2, write_timeout=2))
    yield RedisCheckpointer(manager, "main")
    manager.close()


def state_of(worker: int, n: int) -> dict[str, Any]:
    return {"n": n, "by": worker, "same": LONG, "items": [f"{item} of {worker} " * 20 for item in range(n % 40)]}


def save_until_it_fails(checkpointer: RedisCheckpointer, worker: int, acknowledged: list[int]) -> None:
    n = len(acknowledged)
    while True:
        try:
            saved = checkpointer.save_checkpoint(Checkpoint(f"t{worker}", state_of(worker, n), key=f"k{n}"))
        except PersistenceError:
            return
        acknowledged.append(saved.version or 0)
        n += 1


def test_after_a_kill_every_acknowledged_checkpoint_is_there_and_equal(
    stored: RedisCheckpointer, manager: DatabaseManager, server: EmbeddedRedis
) -> None:
    acknowledged: list[list[int]] = [[] for _ in range(WORKERS)]
    for kill in range(1, 4):
        calls: list[Callable[[], Any]] = [
            lambda worker=worker: save_until_it_fails(stored, worker, acknowledged[worker]) for worker in range(WORKERS)
        ]
        running = [Started(call) for call in calls]
        enough = 25 * kill
        while min(map(len, acknowledged)) < enough:
            sleep(0.002)
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        for call in running:
            call.result()
        server.stop()
        server.start()
        reader = RedisCheckpointer(manager, "main")
        assert {found.thread_id for found in reader.list_threads()} == {f"t{n}" for n in range(WORKERS)}
        for worker in range(WORKERS):
            listed = reader.list_checkpoints(f"t{worker}", states=True, limit=10_000)
            there = {one.version: one for one in listed}
            assert sorted(there) == list(range(1, len(there) + 1))
            assert set(acknowledged[worker]) <= set(there)
            # At most the one whose answer was lost is there besides; its key says which it was.
            assert len(there) - len(acknowledged[worker]) in (0, 1)
            for version, one in there.items():
                assert one.key == f"k{(version or 0) - 1}"
                assert one.state == state_of(worker, (version or 0) - 1)
            acknowledged[worker] = sorted(version or 0 for version in there)


def test_a_restart_costs_no_call_an_error(
    stored: RedisCheckpointer, manager: DatabaseManager, server: EmbeddedRedis
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    server.stop()
    server.start()
    stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 2}))
    server.stop()
    server.start()
    stored.save_checkpoint(Checkpoint("new", {"a": LONG}))
    server.stop()
    server.start()
    assert (stored.load_checkpoint("t")).state == {"a": LONG, "n": 2}
    assert manager.stats()["main"].errors == 0


def test_a_save_whose_answer_is_lost_is_one_checkpoint_when_it_is_repeated(
    stored: RedisCheckpointer, manager: DatabaseManager, server: EmbeddedRedis
) -> None:
    stored.save_checkpoint(Checkpoint("t", {"a": LONG}, key="first"))
    socket = server.config().unix_socket
    assert socket is not None
    with FaultyProxy(socket) as proxy:
        config = RedisConfig(host="127.0.0.1", port=proxy.port, password=server.config().password)
        manager.add_redis("proxied", config)
        proxied = RedisCheckpointer(manager, "proxied")
        proxied.latest("t")
        for n, thread in enumerate(("t", "new", "t")):
            given = Checkpoint(thread, {"a": LONG, "n": n}, key=f"k{n}")
            proxy.mode = "swallow replies"
            with pytest.raises(UnavailableError):
                proxied.save_checkpoint(given)
            proxy.mode = "pass"
            saved = proxied.save_checkpoint(given)
            assert (stored.load_checkpoint(thread, key=f"k{n}")).version == saved.version
        assert versions(stored) == [3, 2, 1]
        assert versions(stored, "new") == [1]
        # A read is sent again by itself.
        before = proxy.connections
        proxy.mode = "swallow replies"
        with pytest.raises(UnavailableError):
            proxied.latest("t")
        assert proxy.connections - before == config.max_retries  # besides the connection that there was
        proxy.mode = "pass"
        assert (proxied.load_checkpoint("t")).state == {"a": LONG, "n": 2}
        manager.close()

"""A Redis master is killed under writers, in a cluster and under Sentinels: the program goes on with the new one.

Every write counts one key up by one and names itself, so that a write that took effect twice would show. What was
acknowledged is compared with what the new masters have; Redis replicates asynchronously, so a crash may lose the last
writes in principle, and the figures are printed (``pytest -rP``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Event
from time import monotonic, sleep

import pytest

from persistence import DatabaseManager, PersistenceError, RedisConfig, RedisConnection, UnavailableError
from tests.redis_servers import PARTS, RedisClusterServers, SentinelServers, wait_until

WRITERS = 6


def count_up(connection: RedisConnection, key: str, stop: Event, errors: list[PersistenceError]) -> tuple[int, float]:
    """Return how many writes were acknowledged, and the longest time between two of them."""
    acknowledged, longest, last = 0, 0.0, monotonic()
    while not stop.is_set():
        try:
            connection.client.incr(key)
        except PersistenceError as exc:
            errors.append(exc)
            sleep(0.005)
            continue
        acknowledged += 1
        longest, last = max(longest, monotonic() - last), monotonic()
    return acknowledged, longest


def answers(connection: RedisConnection) -> bool:
    try:
        connection.ping()
    except UnavailableError:
        return False
    return True


def write_through_a_kill(config: RedisConfig, kill: Callable[[], None], took_over: Callable[[], bool]) -> str:
    with DatabaseManager() as manager:
        connection = manager.add_redis("main", replace(config, read_timeout=1, write_timeout=1))
        stop, errors = Event(), list[PersistenceError]()
        keys = [f"counted:{number}" for number in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS) as executor:
            running = [executor.submit(count_up, connection, key, stop, errors) for key in keys]
            try:
                sleep(0.3)
                kill()
                wait_until(took_over, "no replica took over")
                wait_until(lambda: answers(connection), "the new master was never found")
                sleep(0.3)
            finally:
                stop.set()
            found = [each.result(30) for each in running]
        there = [int(connection.client.get(key) or 0) for key in keys]
        assert manager.health_check()["main"].healthy
    acknowledged = [count for count, _ in found]
    assert all(isinstance(exc, UnavailableError) for exc in errors), {repr(exc) for exc in errors}
    for count, value in zip(acknowledged, there, strict=True):
        assert value - count <= len(errors)  # nothing took effect twice but what may have, by an error
    lost = sum(max(0, count - value) for count, value in zip(acknowledged, there, strict=True))
    gap = max(longest for _, longest in found)
    assert gap < 10
    return f"{sum(acknowledged):,} acknowledged, {lost} lost, {len(errors)} errors, longest gap {gap:.1f} s"


@pytest.mark.skipif(os.environ.get("HOLDFAST_FAULTS") != "full", reason="long: HOLDFAST_FAULTS=full")
def test_a_master_of_a_cluster_is_killed_under_writers(tmp_path: Path) -> None:
    cluster = RedisClusterServers(tmp_path / "cluster")
    try:
        cluster.start()

        def kill() -> None:
            assert cluster.servers[0].pid is not None
            os.kill(cluster.servers[0].pid, signal.SIGKILL)

        def took_over() -> bool:
            with cluster.client(PARTS) as client:
                return bool(client.info("replication")["role"] == "master")

        print("cluster:", write_through_a_kill(cluster.config(), kill, took_over))
    finally:
        cluster.stop()


def test_a_master_that_sentinels_watch_is_killed_under_writers(tmp_path: Path) -> None:
    watched = SentinelServers(tmp_path / "watched")
    try:
        watched.start()

        def kill() -> None:
            assert watched.servers[0].pid is not None
            os.kill(watched.servers[0].pid, signal.SIGKILL)

        def took_over() -> bool:
            with watched.client(1) as client:
                return bool(client.info("replication")["role"] == "master")

        print("Sentinel:", write_through_a_kill(watched.config(), kill, took_over))
    finally:
        watched.stop()

"""Servers that go and come back under many callers: none sees less than was acknowledged, and health stays in time.

``HOLDFAST_FAULTS=full`` restarts PostgreSQL fifty times where a quick run does it four times. The seed of the moments
is printed with a failure and can be given as ``HOLDFAST_FAULT_SEED``.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    CommitUnknownError,
    ConnectionLostError,
    DatabaseManager,
    EmbeddedPostgreSQL,
    EmbeddedRedis,
    UnavailableError,
)
from tests.proxy import FaultyProxy
from tests.unasync import ROOT

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
RESTARTS = 50 if FULL else 4
THREADS = 8 if FULL else 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgreSQL]:
    """A PostgreSQL of these tests' own, which they stop and kill."""
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("outages") / "server", settings={"fsync": "off"}) as running:
        yield running


class Line:
    """A thread of checkpoints with one writer, who repeats under its key what was not acknowledged, and one reader."""

    def __init__(self, checkpoints: DatabaseCheckpointer, name: str, done: threading.Event) -> None:
        self.checkpoints, self.name, self.done = checkpoints, name, done
        self.acknowledged = 0
        self.reads = self.failed = 0

    def write(self) -> None:
        n = 0
        while not self.done.is_set():
            n += 1
            until = monotonic() + 30
            while True:
                try:
                    saved = self.checkpoints.save_checkpoint(Checkpoint(self.name, {"n": n}, key=f"step {n}"))
                    break
                except (UnavailableError, CommitUnknownError):
                    self.failed += 1
                    assert monotonic() < until
            assert saved.version == n
            self.acknowledged = n

    def read(self) -> None:
        while not self.done.is_set():
            least = self.acknowledged
            try:
                found = self.checkpoints.latest(self.name)
            except UnavailableError:
                continue
            assert (found.version or 0 if found else 0) >= least
            assert found is None or found.state == {"n": found.version}
            self.reads += 1


def test_through_restarts_at_any_moment_no_reader_sees_less_than_was_acknowledged(
    server: EmbeddedPostgreSQL, chance: random.Random
) -> None:
    done = threading.Event()
    with DatabaseManager() as manager, ThreadPoolExecutor(2 * THREADS) as threads:
        database = manager.add_postgresql("main", server.config(max_connections=10))
        checkpoints = DatabaseCheckpointer(manager, "main")
        lines = [Line(checkpoints, f"line {n}", done) for n in range(THREADS)]
        checkpoints.latest("line 0")  # its tables are made
        calls = [threads.submit(call) for line in lines for call in (line.write, line.read)]
        try:
            for _ in range(RESTARTS):
                sleep(chance.uniform(0.05, 0.3))
                if chance.random() < 0.5:
                    server.stop()
                else:
                    assert server.pid is not None
                    os.kill(server.pid, signal.SIGKILL)
                server.start()
        finally:
            sleep(0.1)
            done.set()
        for call in calls:
            call.result(60)
        print(
            f"{sum(line.acknowledged for line in lines)} saves, {sum(line.failed for line in lines)} of them repeated"
        )
        assert all(line.acknowledged and line.reads for line in lines)
        assert sum(line.failed for line in lines) > 0  # the restarts were felt
        stored = database.fetch_all(
            "SELECT thread_id, count(*) AS n FROM holdfast_checkpoints GROUP BY thread_id ORDER BY thread_id"
        )
        assert [(row["thread_id"], row["n"]) for row in stored] == [(line.name, line.acknowledged) for line in lines]


def test_a_listing_whose_connection_breaks_is_an_error_and_never_a_short_list(server: EmbeddedPostgreSQL) -> None:
    breaking = (
        "SELECT n, CASE WHEN n = 50000 THEN pg_terminate_backend(pg_backend_pid()) END AS broken"
        " FROM generate_series(1, 100000) AS n ORDER BY n"
    )
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", server.config())
        with pytest.raises(ConnectionLostError):
            database.fetch_all(breaking)
        assert len(database.fetch_all("SELECT n FROM generate_series(1, 1000) AS n ORDER BY n")) == 1000


def test_health_of_twenty_connections_of_which_five_are_silent_is_in_time(
    server: EmbeddedPostgreSQL, tmp_path: Path
) -> None:
    socket = f"{server.config().host}/.s.PGSQL.{server.config().port}"
    with EmbeddedRedis(tmp_path / "redis") as redis, FaultyProxy(socket) as proxy, DatabaseManager() as manager:
        silent = replace(server.config(), host="127.0.0.1", port=proxy.port, max_connections=2)
        for n in range(5):
            manager.add_postgresql(f"silent {n}", silent)
            manager.add_postgresql(f"well {n}", replace(server.config(), max_connections=2))
            manager.add_redis(f"redis {n}", redis.config())
            manager.add_sqlite(f"file {n}", f"sqlite:///{tmp_path}/{n}.db")
        assert all(manager.health_check().values())
        started = monotonic()
        assert all(manager.health_check().values())
        print(f"all well: {(monotonic() - started) * 1000:.1f} ms")
        proxy.mode = "black hole"
        started = monotonic()
        health = manager.health_check(timeout=1)
        took = monotonic() - started
        print(f"five silent: {took:.3f} s")
        assert 0.9 < took < 2
        assert sorted(name for name, status in health.items() if not status) == [f"silent {n}" for n in range(5)]
        assert all(health[f"silent {n}"].error for n in range(5))
        assert len(health) == 20
        for n in range(5):  # the poll holds nobody's place
            assert manager.get_postgresql(f"well {n}").stats().in_use == 0
            assert manager.get_postgresql(f"silent {n}").stats().in_use == 0


PROGRAM = """
import sys, threading, time
from persistence import DatabaseManager

manager = DatabaseManager()
manager.add("main", sys.argv[1])
manager.add("local", sys.argv[2])
manager.add("cache", sys.argv[3])

def work(call):
    while True:
        call()

calls = [
    lambda: manager.get_postgresql("main").fetch_value("SELECT pg_sleep(0.01)"),
    lambda: manager.get_sqlite("local").fetch_value("SELECT 1"),
    lambda: manager.get_redis("cache").client.ping(),
]
for call in calls * 2:
    threading.Thread(target=work, args=(call,), daemon=True).start()
time.sleep(0.2)
print("end", flush=True)
"""


def test_a_program_that_ends_without_closing_ends_at_once_and_says_nothing(
    server: EmbeddedPostgreSQL, tmp_path: Path
) -> None:
    with EmbeddedRedis(tmp_path / "redis") as redis:
        started = monotonic()
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, server.url, f"sqlite:///{tmp_path}/x.db", redis.url],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")
    assert monotonic() - started < 10

"""A restart of PostgreSQL under idle connections: what HoldfastSaver's callers see, and LangGraph's own saver's.

Theirs is the control: it must fail here, or the test would show nothing. The counts are printed (``pytest -rP``).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.postgres import PostgresSaver
from psycopg.rows import dict_row
from psycopg_pool import ConnectionPool

from checkpoint import DatabaseCheckpointer
from checkpoint.langgraph import HoldfastSaver
from persistence import DatabaseManager, EmbeddedPostgreSQL, PostgreSQLDatabase

SAVES = 20
IDLE = 10


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgreSQL]:
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("restarted") / "server", settings={"fsync": "off"}) as running:
        yield running


def hold(database: PostgreSQLDatabase) -> None:
    """Leave ``IDLE`` idle connections in the pool: so many transactions are open at the same time."""
    barrier = threading.Barrier(IDLE)

    def work() -> None:
        with database.transaction():
            database.fetch_value("SELECT 1")
            barrier.wait(10)

    with ThreadPoolExecutor(IDLE) as threads:
        for each in [threads.submit(work) for _ in range(IDLE)]:
            each.result()
    assert database.stats().idle == IDLE


def failures(saver: Any, prefix: str) -> int:
    """Return how many of 20 puts fail."""
    count = 0
    for n in range(SAVES):
        checkpoint = {**empty_checkpoint(), "channel_values": {"n": n}, "channel_versions": {"n": 1}}
        config = {"configurable": {"thread_id": f"{prefix} {n}", "checkpoint_ns": ""}}
        try:
            saver.put(config, checkpoint, {"source": "loop", "step": n, "parents": {}}, {"n": 1})
        except Exception as exc:
            print(f"{prefix}, put {n}: {type(exc).__name__}: {str(exc).partition(chr(10))[0]}")
            count += 1
    return count


def test_after_a_restart_no_put_of_ours_fails_and_of_the_other_saver_some_do(server: EmbeddedPostgreSQL) -> None:
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    with ExitStack() as stack:
        manager = stack.enter_context(DatabaseManager())
        config = server.config(max_connections=IDLE, max_idle_connections=IDLE)
        database = manager.add_postgresql("main", config)
        pool: Any = stack.enter_context(
            ConnectionPool(server.url, min_size=IDLE, max_size=IDLE, kwargs=options, open=True)
        )
        pool.wait(20)
        savers: dict[str, Any] = {
            "HoldfastSaver": HoldfastSaver(DatabaseCheckpointer(manager, "main")),
            "PostgresSaver with a pool": PostgresSaver(pool),
            "PostgresSaver from a connection string": stack.enter_context(PostgresSaver.from_conn_string(server.url)),
        }
        savers["PostgresSaver with a pool"].setup()
        for name, saver in savers.items():
            assert failures(saver, f"before, {name}") == 0
        hold(database)
        server.stop()
        server.start()
        failed = {name: failures(saver, name) for name, saver in savers.items()}
        for name, count in failed.items():
            print(f"{name}: {count} of {SAVES} puts failed after the restart")
        assert failed["HoldfastSaver"] == 0
        assert database.stats().errors == 0
        assert failed["PostgresSaver with a pool"] > 0
        assert failed["PostgresSaver from a connection string"] == SAVES
        found = list(savers["HoldfastSaver"].list(None))
        assert len(found) == 2 * SAVES

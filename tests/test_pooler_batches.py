"""Batches behind PgBouncer in transaction mode: one server connection serves each as a whole."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from persistence import DatabaseManager, DuplicateError, PostgreSQLConfig
from tests.test_pooler import pooled, pytestmark

__all__ = ["pooled", "pytestmark"]


def test_a_batch_is_one_transaction_behind_a_pooler(pooled: PostgreSQLConfig) -> None:
    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", replace(pooled, max_connections=12))
        main.execute("CREATE TABLE t (id integer PRIMARY KEY)")

        def work(number: int) -> None:
            for turn in range(30):
                found = main.fetch_batch(
                    [
                        ("SELECT pg_backend_pid() AS pid", None),
                        ("INSERT INTO t VALUES (:id) RETURNING id", {"id": number * 100 + turn}),
                        ("SELECT pg_backend_pid() AS pid", None),
                    ]
                )
                assert found[1] == [{"id": number * 100 + turn}]
                assert found[0] == found[2]

        with ThreadPoolExecutor(12) as executor:
            list(executor.map(work, range(12)))
        with pytest.raises(DuplicateError, match=r"calls\[1\]"):
            main.fetch_batch([("INSERT INTO t VALUES (:id)", {"id": 5000}), ("INSERT INTO t VALUES (0)", None)])
        assert main.fetch_value("SELECT count(*) FROM t") == 360

# Generated from ../_async/test_database.py by tests/unasync.py: edit that one.
"""The contract of every SQL database: statements, rows, errors, deadlines."""

from __future__ import annotations

import pytest

from persistence import Database, DuplicateError


def test_a_row_comes_back_by_name(database: Database) -> None:
    database.execute("CREATE TABLE t (id integer PRIMARY KEY, body text)")
    assert database.execute("INSERT INTO t VALUES (:id, :body)", {"id": 1, "body": "one"}) == 1
    assert database.fetch_one("SELECT * FROM t WHERE id = :id", {"id": 1}) == {"id": 1, "body": "one"}
    with pytest.raises(DuplicateError):
        database.execute("INSERT INTO t VALUES (:id, :body)", {"id": 1, "body": "two"})

# Generated from ../_async/test_sqlite.py by tests/unasync.py: edit that one.
"""What is SQLite's own: its file, its settings, one writer among several processes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from persistence import DatabaseManager, ConnectError, LockTimeoutError, ReadOnlyError, SQLiteConfig
from tests._sync.side import together

BUMP = "UPDATE t SET n = :n"


def test_the_settings_that_make_commits_durable_are_on(manager: DatabaseManager, tmp_path: Path) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db")))
    with database.transaction():
        for pragma, expected in (("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("query_only", 0)):
            assert database.fetch_value(f"PRAGMA {pragma}") == expected
    with database.transaction(read_only=True):
        assert database.fetch_value("PRAGMA query_only") == 1


@pytest.mark.parametrize("overwritten", [False, True])
def test_what_is_deleted_is_overwritten_where_that_was_asked_for(
    manager: DatabaseManager, tmp_path: Path, overwritten: bool
) -> None:
    path = tmp_path / "x.db"
    database = manager.add_sqlite("main", SQLiteConfig(path=str(path), secure_delete=overwritten))
    assert database.fetch_value("PRAGMA secure_delete") == int(overwritten)
    database.execute("CREATE TABLE t (n integer, body blob)")
    database.execute("INSERT INTO t VALUES (1, :body)", {"body": b"a secret of many pages " * 1000})
    database.execute("DELETE FROM t")
    manager.close()  # the log is folded into the file
    assert (b"a secret of many pages" in path.read_bytes()) is not overwritten


def test_a_new_file_is_its_owners_alone(manager: DatabaseManager, tmp_path: Path) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db")))
    database.execute("CREATE TABLE t (n integer)")
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "x.db": 0o600,
        "x.db-wal": 0o600,
        "x.db-shm": 0o600,
    }
    manager.close()
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]  # the log was folded into the file


def test_all_who_open_a_new_file_at_once_get_it(tmp_path: Path) -> None:
    def make(path: Path) -> object:
        with DatabaseManager() as own:
            database = own.add_sqlite("main", SQLiteConfig(path=str(path)))
            return database.fetch_value("PRAGMA journal_mode")

    for number in range(40):  # without a guard one of some fifty rounds fails
        path = tmp_path / f"{number}.db"
        assert together(*[lambda path=path: make(path)] * 4) == ["wal"] * 4


@pytest.mark.parametrize("name", ["a b.db", "a?b.db", "a#b.db", "a%41.db", "ü😀.db", "a'b.db", "file:x.db"])
def test_any_path_is_taken_as_it_is(manager: DatabaseManager, tmp_path: Path, name: str) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / name)))
    database.execute("CREATE TABLE t (n integer)")
    assert database.fetch_all("SELECT * FROM t") == []
    assert (tmp_path / name).stat().st_size > 0
    assert all(path.name.startswith(name) for path in tmp_path.iterdir())


def test_a_read_only_file_is_read_and_never_written(manager: DatabaseManager, tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    with pytest.raises(ConnectError):
        manager.add_sqlite("main", SQLiteConfig(path=path, read_only=True))
    assert not (tmp_path / "x.db").exists()
    writer = manager.add_sqlite("writer", SQLiteConfig(path=path))
    writer.execute("CREATE TABLE t (n integer)")
    writer.execute("INSERT INTO t VALUES (1)")
    reader = manager.add_sqlite("main", SQLiteConfig(path=path, read_only=True))
    assert reader.fetch_all("SELECT n FROM t") == [{"n": 1}]
    with pytest.raises(ReadOnlyError):
        reader.execute("INSERT INTO t VALUES (2)")
    assert writer.fetch_all("SELECT n FROM t") == [{"n": 1}]


def test_memory_is_shared_by_many_callers(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    database.execute("CREATE TABLE t (n integer)")

    def work(number: int) -> int:
        database.execute("INSERT INTO t VALUES (:n)", {"n": number})
        with database.transaction():
            database.execute("INSERT INTO t VALUES (:n)", {"n": -number})
        return int(database.fetch_value("SELECT count(*) FROM t WHERE abs(n) = :n", {"n": number}))

    assert together(*[lambda number=number: work(number) for number in range(1, 31)]) == [2] * 30
    assert database.fetch_value("SELECT count(*) FROM t") == 60


def test_readers_go_on_beside_the_writer(manager: DatabaseManager, tmp_path: Path) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db"), max_readers=2))
    database.execute("CREATE TABLE t (n integer)")
    database.execute("INSERT INTO t VALUES (1)")
    with database.transaction():
        database.execute(BUMP, {"n": 2})

        def read() -> int:
            return int(database.fetch_value("SELECT n FROM t"))

        assert together(*[read] * 8) == [1] * 8
        assert read() == 2  # our own write
    assert together(*[read] * 8) == [2] * 8


def test_a_lock_that_another_process_holds_times_out_by_name(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    path = str(tmp_path / "x.db")
    database = manager.add_sqlite("main", SQLiteConfig(path=path, busy_timeout=0.1))
    database.execute("CREATE TABLE t (n integer)")
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(LockTimeoutError):
        database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(LockTimeoutError):
        with database.transaction():
            raise AssertionError("not to be reached")
    holder.execute("COMMIT")
    holder.close()
    database.execute("INSERT INTO t VALUES (1)")


WORKER = """
import sys
from persistence import DatabaseManager, SQLiteConfig
with DatabaseManager() as manager:
    database = manager.add_sqlite("main", SQLiteConfig(path=sys.argv[1]))
    for _ in range(100):
        with database.transaction():
            n = database.fetch_value("SELECT n FROM t")
            database.execute("UPDATE t SET n = :n", {"n": n + 1})
"""


def test_eight_processes_that_read_and_then_write_lose_nothing(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "x.db")))
    database.execute("CREATE TABLE t (n integer)")
    database.execute("INSERT INTO t VALUES (0)")
    command = [sys.executable, "-c", WORKER, str(tmp_path / "x.db")]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    errors = [worker.communicate(timeout=60)[1] for worker in workers]
    assert errors == [""] * 8
    assert database.fetch_value("SELECT n FROM t") == 800

# Generated from ../_async/test_migrator.py by tests/unasync.py: edit that one.
"""Migration lines: applied once, in order, whole; edited, missing and unknown ones are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from persistence import (
    Database,
    DatabaseManager,
    Migrator,
    LockTimeoutError,
    MigrationError,
    MigrationLine,
    PostgreSQLConfig,
    SQLiteConfig,
)
from persistence.migrations import shipped_lines
from tests._sync.side import Started, together


def write(folder: Path, *bodies: str) -> MigrationLine:
    """Write numbered migrations and return their line, read afresh."""
    for kind in ("postgresql", "sqlite"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for old in (folder / kind).iterdir():
            old.unlink()
        for number, body in enumerate(bodies, 1):
            (folder / kind / f"{number:04}_step.sql").write_text(body)
    return MigrationLine("app", folder)


FIRST = """-- up
CREATE TABLE a (id integer);
INSERT INTO a VALUES (1); -- a comment; with a semicolon
-- down
DROP TABLE a;
"""
SECOND = (
    "-- up\nALTER TABLE a ADD COLUMN note text DEFAULT 'it''s 12:30; :no';\n-- down\nALTER TABLE a DROP COLUMN note;"
)
BROKEN = "-- up\nCREATE TABLE c (id integer);\nINSERT INTO nowhere VALUES (1);"


def test_a_line_is_applied_in_order_and_once(database: Database, tmp_path: Path) -> None:
    line = write(tmp_path / "app", FIRST, SECOND)
    migrator = Migrator(database)
    assert [str(each) for each in migrator.pending(line)] == ["app/0001_step", "app/0002_step"]
    assert [str(each) for each in migrator.up(line)] == ["app/0001_step", "app/0002_step"]
    assert migrator.up(line) == ()
    assert migrator.pending(line) == ()
    assert database.fetch_all("SELECT * FROM a") == [{"id": 1, "note": "it's 12:30; :no"}]
    records = database.fetch_all("SELECT line, number, name, checksum FROM holdfast_migrations ORDER BY number")
    assert [(row["line"], row["number"], row["name"]) for row in records] == [("app", 1, "step"), ("app", 2, "step")]
    assert [row["checksum"] for row in records] == [each.checksum for each in line.load(database.kind)]


def test_nothing_due_costs_one_statement_a_line_and_one_for_all(
    manager: DatabaseManager, database: Database
) -> None:
    lines = [line for line in shipped_lines() if line.name != "vectorstore"]  # which needs an extension
    for line in lines:
        Migrator(database).up(line)
    seen: list[str] = []
    manager.on_statement.append(lambda event: seen.append(event.operation))
    for known in (False, True):
        database.has_migrations = known
        for line in lines:
            assert Migrator(database).up(line) == ()
    manager.on_statement.clear()
    assert seen == ["fetch_value", "fetch_all", "fetch_all", "fetch_all", "fetch_all", "fetch_all", "fetch_all"]


def test_a_failing_migration_leaves_those_before_it_and_nothing_of_its_own(
    database: Database, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST, BROKEN)
    with pytest.raises(MigrationError, match=r"app/0002_step: .*nowhere"):
        Migrator(database).up(line)
    assert database.fetch_all("SELECT * FROM a") == [{"id": 1}]
    assert database.fetch_value("SELECT count(*) FROM holdfast_migrations") == 1
    line = MigrationLine(
        "app2", write(tmp_path / "mended", FIRST.replace(" a ", " c ").replace("TABLE a", "TABLE c")).folder
    )
    Migrator(database).up(line)
    assert database.fetch_all("SELECT * FROM c") == [{"id": 1}]  # the broken one's table had gone


def test_an_edited_migration_is_refused(database: Database, tmp_path: Path) -> None:
    Migrator(database).up(write(tmp_path / "app", FIRST))
    edited = write(tmp_path / "edited", FIRST + "\n-- changed", SECOND)
    with pytest.raises(MigrationError, match=r"app/0001_step was applied with other content"):
        Migrator(database).up(edited)
    crlf = write(tmp_path / "crlf", FIRST.replace("\n", "\r\n"), SECOND)
    assert len(Migrator(database).up(crlf)) == 1


def test_a_database_newer_than_the_program_is_refused(database: Database, tmp_path: Path) -> None:
    Migrator(database).up(write(tmp_path / "new", FIRST, SECOND))
    with pytest.raises(MigrationError, match=r"app/0002_step was applied, but this program doesn't know it"):
        Migrator(database).up(write(tmp_path / "old", FIRST))


def test_check_names_what_is_missing(database: Database, tmp_path: Path) -> None:
    line = write(tmp_path / "app", FIRST)
    with pytest.raises(MigrationError, match=r"app/0001_step was not applied yet"):
        Migrator(database).check(line)
    Migrator(database).ensure(line)
    Migrator(database).check(line)


def test_a_migration_in_a_transaction_that_rolls_back_is_made_again(
    database: Database, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST)
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            Migrator(database).ensure(line)
            assert database.fetch_all("SELECT * FROM a") == [{"id": 1}]
            raise ZeroDivisionError
    Migrator(database).ensure(line)
    assert database.fetch_all("SELECT * FROM a") == [{"id": 1}]
    before = database.stats().requests
    Migrator(database).ensure(line)
    assert database.stats().requests == before


def test_of_eight_programs_starting_at_once_each_migration_is_applied_by_one(
    postgresql_config: PostgreSQLConfig, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST, SECOND)
    for name in ("postgresql", "sqlite"):
        counts = together(*[lambda name=name: migrate(name, postgresql_config, tmp_path, line)] * 8)
        assert sum(counts) == 2  # each migration was applied by exactly one of them


def migrate(kind: str, config: PostgreSQLConfig, folder: Path, line: MigrationLine) -> int:
    with DatabaseManager() as manager:
        database: Database
        if kind == "postgresql":
            database = manager.add_postgresql("main", config)
        else:
            database = manager.add_sqlite("main", SQLiteConfig(path=str(folder / "x.db")))
        return len(Migrator(database).up(line))


def test_a_lock_that_is_held_times_out_and_names_its_holder(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, tmp_path: Path
) -> None:
    holder = manager.add_postgresql("holder", replace(postgresql_config, application_name="slow-starter"))
    waiter = manager.add_postgresql("waiter", postgresql_config)
    line = write(tmp_path / "app", FIRST)
    with holder.transaction() as transaction:
        transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('holdfast_migrations', 0))")
        pid = transaction.fetch_value("SELECT pg_backend_pid()")
        for limit in (0.2, 0):  # 0: not at all, where PostgreSQL's own 0 is for ever
            call = Started(lambda limit=limit: Migrator(waiter).up(line, lock_timeout=limit))
            with pytest.raises(LockTimeoutError, match=rf"pid {pid}, slow-starter, idle in transaction"):
                call.result()
    assert len(Migrator(waiter).up(line, lock_timeout=timedelta(days=30))) == 1


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"1_x.sql": FIRST}, "is no migration's name"),
        ({"0002_x.sql": FIRST}, r"numbered \[2\]"),
        ({"0001_x.sql": FIRST, "0001_y.sql": FIRST}, r"numbered \[1, 1\]"),
        ({"0001_x.sql": "CREATE TABLE a (id integer);"}, "headed '-- up'"),
        ({"0001_x.sql": "-- up\n-- nothing\n-- down\n"}, "no statement"),
        ({"0001_x.sql": FIRST + "\n-- up\nSELECT 1;\n-- down\nSELECT 1;"}, "headed '-- up'"),
        ({"0001_x.sql": "-- up\nCREATE TABLE a (id integer);\n-- up\nCREATE TABLE b (id integer);"}, "headed '-- up'"),
    ],
)
def test_files_that_can_not_be_read_are_refused(
    manager: DatabaseManager, tmp_path: Path, files: dict[str, str], part: str
) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    (tmp_path / "app" / "sqlite").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "app" / "sqlite" / name).write_text(text)
    with pytest.raises(MigrationError, match=part):
        Migrator(database).up(MigrationLine("app", tmp_path / "app"))

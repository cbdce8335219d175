"""Migration lines: applied once, in order, whole; edited, missing and unknown ones are refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncMigrator,
    LockTimeoutError,
    MigrationError,
    MigrationLine,
    PostgreSQLConfig,
    SQLiteConfig,
)
from persistence.migrations import shipped_lines
from tests._async.side import Started, together


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


async def test_a_line_is_applied_in_order_and_once(database: AsyncDatabase, tmp_path: Path) -> None:
    line = write(tmp_path / "app", FIRST, SECOND)
    migrator = AsyncMigrator(database)
    assert [str(each) for each in await migrator.pending(line)] == ["app/0001_step", "app/0002_step"]
    assert [str(each) for each in await migrator.up(line)] == ["app/0001_step", "app/0002_step"]
    assert await migrator.up(line) == ()
    assert await migrator.pending(line) == ()
    assert await database.fetch_all("SELECT * FROM a") == [{"id": 1, "note": "it's 12:30; :no"}]
    records = await database.fetch_all("SELECT line, number, name, checksum FROM holdfast_migrations ORDER BY number")
    assert [(row["line"], row["number"], row["name"]) for row in records] == [("app", 1, "step"), ("app", 2, "step")]
    assert [row["checksum"] for row in records] == [each.checksum for each in line.load(database.kind)]


async def test_nothing_due_costs_one_statement_a_line_and_one_for_all(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    lines = [line for line in shipped_lines() if line.name != "vectorstore"]  # which needs an extension
    for line in lines:
        await AsyncMigrator(database).up(line)
    seen: list[str] = []
    manager.on_statement.append(lambda event: seen.append(event.operation))
    for known in (False, True):
        database.has_migrations = known
        for line in lines:
            assert await AsyncMigrator(database).up(line) == ()
    manager.on_statement.clear()
    assert seen == ["fetch_value", "fetch_all", "fetch_all", "fetch_all", "fetch_all", "fetch_all", "fetch_all"]


async def test_a_failing_migration_leaves_those_before_it_and_nothing_of_its_own(
    database: AsyncDatabase, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST, BROKEN)
    with pytest.raises(MigrationError, match=r"app/0002_step: .*nowhere"):
        await AsyncMigrator(database).up(line)
    assert await database.fetch_all("SELECT * FROM a") == [{"id": 1}]
    assert await database.fetch_value("SELECT count(*) FROM holdfast_migrations") == 1
    line = MigrationLine(
        "app2", write(tmp_path / "mended", FIRST.replace(" a ", " c ").replace("TABLE a", "TABLE c")).folder
    )
    await AsyncMigrator(database).up(line)
    assert await database.fetch_all("SELECT * FROM c") == [{"id": 1}]  # the broken one's table had gone


async def test_an_edited_migration_is_refused(database: AsyncDatabase, tmp_path: Path) -> None:
    await AsyncMigrator(database).up(write(tmp_path / "app", FIRST))
    edited = write(tmp_path / "edited", FIRST + "\n-- changed", SECOND)
    with pytest.raises(MigrationError, match=r"app/0001_step was applied with other content"):
        await AsyncMigrator(database).up(edited)
    crlf = write(tmp_path / "crlf", FIRST.replace("\n", "\r\n"), SECOND)
    assert len(await AsyncMigrator(database).up(crlf)) == 1


async def test_a_database_newer_than_the_program_is_refused(database: AsyncDatabase, tmp_path: Path) -> None:
    await AsyncMigrator(database).up(write(tmp_path / "new", FIRST, SECOND))
    with pytest.raises(MigrationError, match=r"app/0002_step was applied, but this program doesn't know it"):
        await AsyncMigrator(database).up(write(tmp_path / "old", FIRST))


async def test_check_names_what_is_missing(database: AsyncDatabase, tmp_path: Path) -> None:
    line = write(tmp_path / "app", FIRST)
    with pytest.raises(MigrationError, match=r"app/0001_step was not applied yet"):
        await AsyncMigrator(database).check(line)
    await AsyncMigrator(database).ensure(line)
    await AsyncMigrator(database).check(line)


async def test_a_migration_in_a_transaction_that_rolls_back_is_made_again(
    database: AsyncDatabase, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST)
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await AsyncMigrator(database).ensure(line)
            assert await database.fetch_all("SELECT * FROM a") == [{"id": 1}]
            raise ZeroDivisionError
    await AsyncMigrator(database).ensure(line)
    assert await database.fetch_all("SELECT * FROM a") == [{"id": 1}]
    before = database.stats().requests
    await AsyncMigrator(database).ensure(line)
    assert database.stats().requests == before


async def test_of_eight_programs_starting_at_once_each_migration_is_applied_by_one(
    postgresql_config: PostgreSQLConfig, tmp_path: Path
) -> None:
    line = write(tmp_path / "app", FIRST, SECOND)
    for name in ("postgresql", "sqlite"):
        counts = await together(*[lambda name=name: migrate(name, postgresql_config, tmp_path, line)] * 8)
        assert sum(counts) == 2  # each migration was applied by exactly one of them


async def migrate(kind: str, config: PostgreSQLConfig, folder: Path, line: MigrationLine) -> int:
    async with AsyncDatabaseManager() as manager:
        database: AsyncDatabase
        if kind == "postgresql":
            database = await manager.add_postgresql("main", config)
        else:
            database = await manager.add_sqlite("main", SQLiteConfig(path=str(folder / "x.db")))
        return len(await AsyncMigrator(database).up(line))


async def test_a_lock_that_is_held_times_out_and_names_its_holder(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, tmp_path: Path
) -> None:
    holder = await manager.add_postgresql("holder", replace(postgresql_config, application_name="slow-starter"))
    waiter = await manager.add_postgresql("waiter", postgresql_config)
    line = write(tmp_path / "app", FIRST)
    async with holder.transaction() as transaction:
        await transaction.execute("SELECT pg_advisory_xact_lock(hashtextextended('holdfast_migrations', 0))")
        pid = await transaction.fetch_value("SELECT pg_backend_pid()")
        for limit in (0.2, 0):  # 0: not at all, where PostgreSQL's own 0 is for ever
            call = Started(lambda limit=limit: AsyncMigrator(waiter).up(line, lock_timeout=limit))
            with pytest.raises(LockTimeoutError, match=rf"pid {pid}, slow-starter, idle in transaction"):
                await call.result()
    assert len(await AsyncMigrator(waiter).up(line, lock_timeout=timedelta(days=30))) == 1


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
async def test_files_that_can_not_be_read_are_refused(
    manager: AsyncDatabaseManager, tmp_path: Path, files: dict[str, str], part: str
) -> None:
    database = await manager.add_sqlite("main", "sqlite://")
    (tmp_path / "app" / "sqlite").mkdir(parents=True)
    for name, text in files.items():
        (tmp_path / "app" / "sqlite" / name).write_text(text)
    with pytest.raises(MigrationError, match=part):
        await AsyncMigrator(database).up(MigrationLine("app", tmp_path / "app"))

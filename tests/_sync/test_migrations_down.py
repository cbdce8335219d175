# Generated from ../_async/test_migrations_down.py by tests/unasync.py: edit that one.
"""Migration lines beyond up: down, to a number, status, history, dry runs, Python, without a transaction, adoption."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from persistence import (
    Database,
    DatabaseManager,
    Migrator,
    MigrationError,
    MigrationLine,
    PostgreSQLConfig,
    TransactionError,
    ValidationError,
)
from persistence.schemas import Difference
from sessions import EventLog, Event
from tests._sync.side import Started, sleep

FIRST = "-- up\nCREATE TABLE a (id integer PRIMARY KEY, note text);\n-- down\nDROP TABLE a;\n"
SECOND = """-- up
CREATE TABLE b (id integer PRIMARY KEY);
CREATE INDEX a_note ON a (note);
-- down
DROP INDEX a_note;
DROP TABLE b;
"""
IN_PYTHON = '''"""Doubles what is there."""


def upgrade():
    rows = yield "SELECT id, note FROM a ORDER BY id"
    for row in rows:
        yield "INSERT INTO b (id) VALUES (:id)", {"id": row["id"] * 2}


def downgrade():
    yield "DELETE FROM b"
'''
NO_WAY_BACK = "-- up\nDROP TABLE b;\n"


def line_of(folder: Path, **files: str) -> MigrationLine:
    """Write the files of both databases, each named ``n1_name``, and return their line."""
    for kind in ("postgresql", "sqlite"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for name, body in files.items():
            number, _, rest = name.removeprefix("n").partition("_")
            suffix = "py" if body.startswith('"""') else "sql"
            (folder / kind / f"{int(number):04}_{rest}.{suffix}").write_text(body)
    return MigrationLine("app", folder)


def tables(database: Database) -> list[str]:
    found = "SELECT table_name AS name FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY 1"
    if database.kind == "sqlite":
        found = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
    return [row["name"] for row in database.fetch_all(found) if not row["name"].startswith("holdfast")]


def test_down_undoes_the_last_one_or_all_above_a_number(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    migrator.up(line)
    assert [str(each) for each in migrator.down(line)] == ["app/0002_b"]
    assert tables(database) == ["a"]
    status = migrator.status(line)
    assert (status.current, status.target, status.begun) == (1, 2, None)
    assert [str(each) for each in status.pending] == ["app/0002_b"]
    migrator.up(line)
    assert [str(each) for each in migrator.history(line)] == ["app/0002_b", "app/0001_a"]
    assert [str(each) for each in migrator.down(line, to=0)] == ["app/0002_b", "app/0001_a"]
    assert tables(database) == []
    assert migrator.down(line, to=0) == ()
    assert migrator.history(line) == ()


def test_up_stops_at_the_number_that_is_asked_for(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    assert [str(each) for each in migrator.up(line, to=1)] == ["app/0001_a"]
    assert migrator.up(line, to=1) == ()
    with pytest.raises(ValidationError, match=r"to 3 is not within 0 and 2"):
        migrator.up(line, to=3)
    with pytest.raises(ValidationError, match=r"to 2 is not within 0 and 1"):
        migrator.down(line, to=2)


def test_nothing_is_undone_where_one_has_no_way_back(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND, n3_gone=NO_WAY_BACK)
    migrator = Migrator(database)
    migrator.up(line)
    with pytest.raises(MigrationError, match=r"app/0003_gone has no down part"):
        migrator.down(line, to=0)
    assert (migrator.status(line)).current == 3
    assert tables(database) == ["a"]


def test_a_way_back_that_fails_leaves_its_migration_applied(database: Database, tmp_path: Path) -> None:
    line = line_of(
        tmp_path, n1_a=FIRST, n2_b="-- up\nCREATE TABLE b (id integer);\n-- down\nDROP TABLE b;\nDROP TABLE no;"
    )
    migrator = Migrator(database)
    migrator.up(line)
    with pytest.raises(MigrationError, match=r"app/0002_b: .*no"):
        migrator.down(line, to=0)
    assert tables(database) == ["a", "b"]
    assert (migrator.status(line)).current == 2


def test_a_dry_run_runs_everything_and_changes_nothing(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    found = migrator.dry_run(line)
    assert [(str(each.migration), each.tried) for each in found] == [("app/0001_a", True), ("app/0002_b", True)]
    assert found[1].statements == ("CREATE TABLE b (id integer PRIMARY KEY)", "CREATE INDEX a_note ON a (note)")
    assert tables(database) == []
    migrator.up(line)
    found = migrator.dry_run(line, down=True, to=0)
    assert [(str(each.migration), each.statements) for each in found] == [
        ("app/0002_b", ("DROP INDEX a_note", "DROP TABLE b")),
        ("app/0001_a", ("DROP TABLE a",)),
    ]
    assert tables(database) == ["a", "b"]
    assert (migrator.status(line)).current == 2


def test_a_dry_run_fails_as_the_migration_would(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b="-- up\nCREATE TABLE a (id integer);\n")
    with pytest.raises(MigrationError, match=r"app/0002_b: .*\ba\b.* already exists"):
        Migrator(database).dry_run(line)
    assert tables(database) == []


def test_a_migration_in_python_is_answered_by_its_rows(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND, n3_double=IN_PYTHON)
    migrator = Migrator(database)
    migrator.up(line, to=2)
    database.execute("INSERT INTO a (id, note) VALUES (1, 'x'), (21, NULL)")
    found = migrator.dry_run(line)
    assert [each.statements[0] for each in found] == ["SELECT id, note FROM a ORDER BY id"]
    assert database.fetch_all("SELECT id FROM b ORDER BY id") == []
    migrator.up(line)
    assert database.fetch_all("SELECT id FROM b ORDER BY id") == [{"id": 2}, {"id": 42}]
    migrator.down(line)
    assert database.fetch_all("SELECT id FROM b ORDER BY id") == []


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('"""x"""\n', r"needs a function upgrade"),
        ('"""x"""\nimport nothing_of_that_name\n', r"can't be imported: ModuleNotFoundError"),
        ('"""x"""\ndef upgrade():\n    yield 7\n', r"app/0001_x yields a int"),
    ],
)
def test_a_python_file_that_is_no_migration_is_refused(
    database: Database, tmp_path: Path, body: str, part: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))  # of its own: a line is read once in a process
    with pytest.raises(MigrationError, match=part):
        Migrator(database).up(line_of(folder, n1_x=body))


def test_what_runs_without_a_transaction_is_recorded_before_and_after(
    database: Database, tmp_path: Path
) -> None:
    concurrently = "CONCURRENTLY " if database.kind == "postgresql" else ""
    alone = (
        f"-- no transaction\n-- up\nDROP INDEX {concurrently}IF EXISTS a_note;\n"
        f"CREATE INDEX {concurrently}a_note ON a (note);\nVACUUM;\n-- down\nDROP INDEX {concurrently}a_note;\n"
    )
    line = line_of(tmp_path, n1_a=FIRST, n2_note=alone)
    migrator = Migrator(database)
    assert [str(each) for each in migrator.up(line)] == ["app/0001_a", "app/0002_note"]
    assert (migrator.status(line)).begun is None
    assert migrator.validate(line) == ()
    [tried] = migrator.dry_run(line, down=True)
    assert not tried.tried
    assert [str(each) for each in migrator.down(line)] == ["app/0002_note"]
    with database.transaction():
        with pytest.raises(MigrationError, match=r"app/0002_note runs without a transaction"):
            migrator.up(line)
    # One that fails half way is seen, and is run again from its first statement.
    broken = line_of(tmp_path / "broken", n1_a=FIRST, n2_note=alone.replace("VACUUM", "INSERT INTO no VALUES (1)"))
    with pytest.raises(MigrationError, match=r"app/0002_note: .*no"):
        migrator.up(broken)
    assert (migrator.status(line)).begun == "app/0002_note"
    assert [str(each) for each in migrator.up(line)] == ["app/0002_note"]
    assert (migrator.status(line)).begun is None


def test_validation_names_what_is_not_as_the_migrations_make_it(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    assert migrator.validate(line) == ()
    migrator.up(line)
    database.execute("CREATE TABLE mine (id integer)")
    assert migrator.validate(line) == ()
    database.execute("DROP TABLE b")
    database.execute("DROP INDEX a_note")
    database.execute("ALTER TABLE a ADD COLUMN more text")
    database.execute("ALTER TABLE a RENAME COLUMN note TO remark")
    found = migrator.validate(line)
    assert [(each.kind, each.table, each.name) for each in found] == [
        ("missing column", "a", "note"),
        ("unexpected column", "a", "more"),
        ("unexpected column", "a", "remark"),
        ("missing index", "a", "a_note"),
        ("missing table", "b", None),
    ]
    assert str(found[0]) == "missing column a.note"


def test_a_changed_type_is_told_with_both_types(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, tmp_path: Path
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    migrator, line = Migrator(database), line_of(tmp_path, n1_a=FIRST)
    migrator.up(line)
    database.execute("ALTER TABLE a ALTER COLUMN note TYPE varchar(20)")
    assert migrator.validate(line) == (
        Difference("changed column", "a", "note", expected="text", actual="character varying(20)"),
    )


def test_tables_that_are_there_already_are_adopted_at_a_version(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    database.execute("CREATE TABLE a (id integer PRIMARY KEY, note text)")
    with pytest.raises(MigrationError, match=r"not as app/0002_b leaves them: missing index a.a_note; missing table b"):
        migrator.adopt(line, 2)
    assert migrator.history(line) == ()
    migrator.adopt(line, 1)
    assert [str(each) for each in migrator.up(line)] == ["app/0002_b"]
    with pytest.raises(MigrationError, match=r"line 'app' has applied migrations already"):
        migrator.adopt(line, 1)


def test_a_new_file_has_the_next_number(database: Database, tmp_path: Path) -> None:
    line = MigrationLine("app", tmp_path)
    assert line.create("customers", database.kind) == tmp_path / database.kind / "0001_customers.sql"
    assert line.create("fill", database.kind, language="py").name == "0002_fill.py"
    for name in ("Customers", "a b", "../x", ""):
        with pytest.raises(MigrationError, match="no migration's name"):
            line.create(name, database.kind)
    (tmp_path / database.kind / "0001_customers.sql").write_text(FIRST)
    assert len(Migrator(database).up(line)) == 2


def test_a_backup_is_made_before_anything_is_applied(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path / "app", n1_a=FIRST, n2_b=SECOND)
    migrator = Migrator(database)
    migrator.up(line, to=1)
    database.execute("INSERT INTO a (id, note) VALUES (7, 'kept')")
    migrator.up(line, backup=tmp_path / "before")
    database.execute("DELETE FROM a")
    with pytest.raises(ValidationError, match="is there already"):
        migrator.down(line, backup=tmp_path / "before")
    assert (migrator.status(line)).current == 2
    database.restore(tmp_path / "before")
    assert database.fetch_all("SELECT * FROM a") == [{"id": 7, "note": "kept"}]
    assert (tmp_path / "before").stat().st_mode & 0o777 == 0o600
    with database.transaction():
        with pytest.raises(TransactionError, match="back_up in a transaction"):
            database.back_up(tmp_path / "inside")


def test_events_in_partitions_are_restored_over_those_that_are_there(
    manager: DatabaseManager, database: Database, tmp_path: Path
) -> None:
    days = [datetime(2024, 2, day, tzinfo=UTC) for day in (1, 2, 3)]
    log = EventLog(manager, "main")
    log.append_many([Event(kind="log", message="kept", time=day) for day in days[:2]])
    log.audit("login", "kept")
    database.back_up(tmp_path / "before")
    log.append_many([Event(kind="log", message="later", time=day) for day in days])
    database.restore(tmp_path / "before")
    assert [each.message for each in log.query(limit=10)] == ["kept"] * 3
    log.append_many([Event(kind="log", message="again", time=day) for day in days])
    assert [each.message for each in log.query(limit=10)].count("again") == 3
    assert log.verify()


def test_one_backup_is_made_where_another_program_migrates_meanwhile(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    line = line_of(tmp_path, n1_a=FIRST, n2_b=SECOND)
    other, ours = [manager.add_sqlite(name, f"sqlite:///{tmp_path}/main.db") for name in ("other", "ours")]
    with other.transaction():
        Migrator(other).up(line, to=1)
        call = Started(lambda: Migrator(ours).up(line, backup=tmp_path / "before"))
        while not (tmp_path / "before").exists():
            sleep(0)  # until it has seen that both are missing, and waits for the lock
    assert [str(each) for each in call.result()] == ["app/0002_b"]
    assert tables(ours) == ["a", "b"]


def test_what_was_undone_before_one_failed_is_made_again(database: Database, tmp_path: Path) -> None:
    line = line_of(tmp_path, n1_a=FIRST.replace("DROP TABLE a", "DROP TABLE no"), n2_b=SECOND)
    migrator = Migrator(database)
    migrator.ensure(line)
    with pytest.raises(MigrationError, match=r"app/0001_a: .*no"):
        migrator.down(line, to=0)
    assert tables(database) == ["a"]
    migrator.ensure(line)
    assert tables(database) == ["a", "b"]


def test_a_file_that_is_no_backup_changes_nothing(database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE a (id integer)")
    (tmp_path / "torn").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.raises(Exception, match=r"damaged|no SQLite database|pg_restore ended") as caught:
        database.restore(tmp_path / "torn")
    assert type(caught.value).__name__ in ("CorruptError", "UnavailableError")
    with pytest.raises(ValidationError, match="is no file"):
        database.restore(tmp_path / "none")
    assert tables(database) == ["a"]


def test_what_ships_is_as_its_migrations_make_it_and_goes_without_a_trace(
    database: Database, tmp_path: Path
) -> None:
    migrator = Migrator(database)
    lines = [MigrationLine.of_package(name) for name in ("checkpoint", "vectorstore", "sessions")]
    for line in lines:
        migrator.up(line)
    for line in lines:
        assert migrator.validate(line) == ()
    for line in lines:
        migrator.down(line, to=0)
    database.execute("DROP TABLE holdfast_migrations")
    database.execute("DROP TABLE holdfast_migrations_begun")
    left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'holdfast%'"
    if database.kind == "sqlite":
        left = "SELECT count(*) FROM sqlite_master WHERE name LIKE 'holdfast%'"
    assert database.fetch_value(left) == 0

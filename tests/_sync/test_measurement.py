# Generated from ../_async/test_measurement.py by tests/unasync.py: edit that one.
"""How large tables are, and how far the number of their rows can be trusted: on a server, in a file, in memory."""

from __future__ import annotations

from time import monotonic

import pytest

from persistence import Database, DatabaseManager, ValidationError
from persistence._sync.measurement import count_rows, count_tables, measure
from persistence.measuring import COUNTED_ROWS, TableSize

NUMBERS = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :rows) SELECT"


def fill(database: Database) -> None:
    """Make a wide table, a narrow one with an index, and an empty one, none of which was analyzed."""
    database.execute("CREATE TABLE wide (id bigint PRIMARY KEY, body text NOT NULL)")
    database.execute("CREATE TABLE narrow (id bigint PRIMARY KEY, label text NOT NULL)")
    database.execute("CREATE INDEX narrow_labels ON narrow (label)")
    database.execute('CREATE TABLE "an empty one" (id bigint PRIMARY KEY)')
    body = "CAST(:body AS text)"
    database.execute(f"INSERT INTO wide (id, body) {NUMBERS} n, {body} FROM n", {"rows": 1958, "body": "x" * 400})
    database.execute(f"INSERT INTO narrow (id, label) {NUMBERS} n, {body} FROM n", {"rows": 300, "body": "x"})


def test_tables_are_told_the_largest_first_with_their_rows(database: Database) -> None:
    fill(database)
    found = measure(database)
    assert [(each.name, each.rows, each.rows_are) for each in found.tables] == [
        ("wide", 1958, "counted"),
        ("narrow", 300, "counted"),
        ("an empty one", 0, "counted"),
    ]
    sizes = [each.bytes or 0 for each in found.tables]
    assert sizes[0] > 1958 * 400 > sizes[1] > sizes[2] > 0
    assert found.bytes > sum(sizes)
    assert found.note is None
    assert [each.name for each in (measure(database, limit=1)).tables] == ["wide"]


def test_the_room_of_a_table_is_with_its_indexes(database: Database) -> None:
    fill(database)
    with_index = {each.name: each.bytes or 0 for each in (measure(database)).tables}
    database.execute("DROP INDEX narrow_labels")
    without = {each.name: each.bytes or 0 for each in (measure(database)).tables}
    assert without["narrow"] < with_index["narrow"]
    assert without["wide"] == with_index["wide"]


def test_the_rows_of_a_table_without_rowid_are_counted_on_every_level(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    database.execute("CREATE TABLE kept (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")
    database.execute(f"INSERT INTO kept (id, body) {NUMBERS} 'key ' || n, 'x' FROM n", {"rows": 5000})
    assert [(each.rows, each.rows_are) for each in (measure(database)).tables] == [(5000, "counted")]


def test_the_fullest_come_first_where_a_file_tells_no_sizes(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    fill(database)
    database.execute("CREATE VIRTUAL TABLE words USING fts5(body, content = '')")
    found = count_tables(database, 2, monotonic() + 60)
    assert found == (TableSize("wide", None, 1958, "counted"), TableSize("narrow", None, 300, "counted"))
    assert count_rows(database, "wide", monotonic() - 1) == TableSize("wide", None, None, "unknown")
    database.execute(f"INSERT INTO narrow (id, label) {NUMBERS} -n, 'x' FROM n", {"rows": COUNTED_ROWS})
    most = TableSize("narrow", None, COUNTED_ROWS, "at least")
    assert count_tables(database, 1, monotonic() + 60) == (most,)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_server_estimates_once_it_has_looked_and_never_says_0_for_unknown(database: Database) -> None:
    fill(database)
    database.execute("ANALYZE")
    assert [(each.rows, each.rows_are) for each in (measure(database)).tables][:2] == [
        (1958, "estimated"),
        (300, "estimated"),
    ]
    # What came since is in the estimate, by the pages that it took.
    text = f"INSERT INTO wide (id, body) {NUMBERS} -n, CAST(:body AS text) FROM n"
    database.execute(text, {"rows": 1958, "body": "x" * 400})
    (wide,) = (measure(database, limit=1)).tables
    assert wide.rows_are == "estimated"
    assert abs((wide.rows or 0) - 2 * 1958) < 100
    # Analyzed while it was empty: the planner knows of no row, and there are some.
    database.execute('INSERT INTO "an empty one" VALUES (1), (2)')
    rows = {each.name: (each.rows, each.rows_are) for each in (measure(database)).tables}
    assert rows["an empty one"] == (2, "counted")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
def test_a_table_that_the_role_may_not_see_all_of_is_unknown(database: Database) -> None:
    fill(database)
    database.execute("ALTER TABLE narrow ENABLE ROW LEVEL SECURITY")
    with database.transaction():
        role = database.fetch_value("SELECT 'reader_' || current_database()")
        database.execute(f'CREATE ROLE "{role}"')
        database.execute(f'GRANT SELECT ON narrow TO "{role}"')
        database.execute(f'SET LOCAL ROLE "{role}"')
        found = {each.name: (each.rows, each.rows_are) for each in (measure(database)).tables}
        database.execute("RESET ROLE")
        database.execute(f'DROP OWNED BY "{role}"')
        database.execute(f'DROP ROLE "{role}"')
    assert found == {"wide": (None, "unknown"), "narrow": (None, "unknown"), "an empty one": (0, "counted")}


def test_a_time_that_is_none_is_refused(database: Database) -> None:
    with pytest.raises(ValidationError):
        measure(database, timeout=float("nan"))

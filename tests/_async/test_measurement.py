"""How large tables are, and how far the number of their rows can be trusted: on a server, in a file, in memory."""

from __future__ import annotations

from time import monotonic

import pytest

from persistence import AsyncDatabase, AsyncDatabaseManager, ValidationError
from persistence._async.measurement import count_rows, count_tables, measure
from persistence.measuring import COUNTED_ROWS, TableSize

NUMBERS = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :rows) SELECT"


async def fill(database: AsyncDatabase) -> None:
    """Make a wide table, a narrow one with an index, and an empty one, none of which was analyzed."""
    await database.execute("CREATE TABLE wide (id bigint PRIMARY KEY, body text NOT NULL)")
    await database.execute("CREATE TABLE narrow (id bigint PRIMARY KEY, label text NOT NULL)")
    await database.execute("CREATE INDEX narrow_labels ON narrow (label)")
    await database.execute('CREATE TABLE "an empty one" (id bigint PRIMARY KEY)')
    body = "CAST(:body AS text)"
    await database.execute(f"INSERT INTO wide (id, body) {NUMBERS} n, {body} FROM n", {"rows": 1958, "body": "x" * 400})
    await database.execute(f"INSERT INTO narrow (id, label) {NUMBERS} n, {body} FROM n", {"rows": 300, "body": "x"})


async def test_tables_are_told_the_largest_first_with_their_rows(database: AsyncDatabase) -> None:
    await fill(database)
    found = await measure(database)
    assert [(each.name, each.rows, each.rows_are) for each in found.tables] == [
        ("wide", 1958, "counted"),
        ("narrow", 300, "counted"),
        ("an empty one", 0, "counted"),
    ]
    sizes = [each.bytes or 0 for each in found.tables]
    assert sizes[0] > 1958 * 400 > sizes[1] > sizes[2] > 0
    assert found.bytes > sum(sizes)
    assert found.note is None
    assert [each.name for each in (await measure(database, limit=1)).tables] == ["wide"]


async def test_the_room_of_a_table_is_with_its_indexes(database: AsyncDatabase) -> None:
    await fill(database)
    with_index = {each.name: each.bytes or 0 for each in (await measure(database)).tables}
    await database.execute("DROP INDEX narrow_labels")
    without = {each.name: each.bytes or 0 for each in (await measure(database)).tables}
    assert without["narrow"] < with_index["narrow"]
    assert without["wide"] == with_index["wide"]


async def test_the_rows_of_a_table_without_rowid_are_counted_on_every_level(manager: AsyncDatabaseManager) -> None:
    database = await manager.add_sqlite("main", "sqlite://")
    await database.execute("CREATE TABLE kept (id TEXT PRIMARY KEY, body TEXT) WITHOUT ROWID")
    await database.execute(f"INSERT INTO kept (id, body) {NUMBERS} 'key ' || n, 'x' FROM n", {"rows": 5000})
    assert [(each.rows, each.rows_are) for each in (await measure(database)).tables] == [(5000, "counted")]


async def test_the_fullest_come_first_where_a_file_tells_no_sizes(manager: AsyncDatabaseManager) -> None:
    database = await manager.add_sqlite("main", "sqlite://")
    await fill(database)
    await database.execute("CREATE VIRTUAL TABLE words USING fts5(body, content = '')")
    found = await count_tables(database, 2, monotonic() + 60)
    assert found == (TableSize("wide", None, 1958, "counted"), TableSize("narrow", None, 300, "counted"))
    assert await count_rows(database, "wide", monotonic() - 1) == TableSize("wide", None, None, "unknown")
    await database.execute(f"INSERT INTO narrow (id, label) {NUMBERS} -n, 'x' FROM n", {"rows": COUNTED_ROWS})
    most = TableSize("narrow", None, COUNTED_ROWS, "at least")
    assert await count_tables(database, 1, monotonic() + 60) == (most,)


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_server_estimates_once_it_has_looked_and_never_says_0_for_unknown(database: AsyncDatabase) -> None:
    await fill(database)
    await database.execute("ANALYZE")
    assert [(each.rows, each.rows_are) for each in (await measure(database)).tables][:2] == [
        (1958, "estimated"),
        (300, "estimated"),
    ]
    # What came since is in the estimate, by the pages that it took.
    text = f"INSERT INTO wide (id, body) {NUMBERS} -n, CAST(:body AS text) FROM n"
    await database.execute(text, {"rows": 1958, "body": "x" * 400})
    (wide,) = (await measure(database, limit=1)).tables
    assert wide.rows_are == "estimated"
    assert abs((wide.rows or 0) - 2 * 1958) < 100
    # Analyzed while it was empty: the planner knows of no row, and there are some.
    await database.execute('INSERT INTO "an empty one" VALUES (1), (2)')
    rows = {each.name: (each.rows, each.rows_are) for each in (await measure(database)).tables}
    assert rows["an empty one"] == (2, "counted")


@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
async def test_a_table_that_the_role_may_not_see_all_of_is_unknown(database: AsyncDatabase) -> None:
    await fill(database)
    await database.execute("ALTER TABLE narrow ENABLE ROW LEVEL SECURITY")
    async with database.transaction():
        role = await database.fetch_value("SELECT 'reader_' || current_database()")
        await database.execute(f'CREATE ROLE "{role}"')
        await database.execute(f'GRANT SELECT ON narrow TO "{role}"')
        await database.execute(f'SET LOCAL ROLE "{role}"')
        found = {each.name: (each.rows, each.rows_are) for each in (await measure(database)).tables}
        await database.execute("RESET ROLE")
        await database.execute(f'DROP OWNED BY "{role}"')
        await database.execute(f'DROP ROLE "{role}"')
    assert found == {"wide": (None, "unknown"), "narrow": (None, "unknown"), "an empty one": (0, "counted")}


async def test_a_time_that_is_none_is_refused(database: AsyncDatabase) -> None:
    with pytest.raises(ValidationError):
        await measure(database, timeout=float("nan"))

"""Every statement that a package ships: it prepares on its database, and a hot one finds its rows by an index.

Hot is a statement that has a comment line beginning ``-- hot``. PostgreSQL plans it generically, as it does once a
statement is prepared for good, over tables filled with rows that are all different. What no database
can prepare (CREATE, ALTER, …) is left to the package.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql

from persistence import DatabaseManager, MigrationLine, Migrator, SQLiteConfig
from persistence.dialect import Kind, compile_statement, tokens
from persistence.queries import parse_queries
from tests.servers import TestServers
from tests.unasync import PACKAGES, ROOT

ROWS = 5000

# What a column is filled with where its type doesn't tell: a CHECK, or a value that must mean something.
SPECIAL: dict[tuple[str, str], str] = {
    ("holdfast_events", "retention"): "'raw'",
    ("holdfast_key_values", "number"): "NULL::bigint",
}


class Query(NamedTuple):
    """One statement of a package's ``sql`` folder."""

    package: str
    kind: Kind
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.package}-{self.kind}-{self.name}"

    @property
    def is_hot(self) -> bool:
        return bool(re.search(r"(?m)^\s*-- hot\b", self.text))

    @property
    def is_preparable(self) -> bool:
        verbs = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE", "REPLACE")
        return next(token.text.upper() for token in tokens(self.text) if token.kind == "word") in verbs

    @property
    def is_listing(self) -> bool:
        return self.name.startswith(("list_", "search_", "find_"))


def shipped(kind: Kind) -> list[Query]:
    return [
        Query(package, kind, name, text)
        for package in PACKAGES
        for path in sorted((ROOT / package / "sql").glob(f"*{kind}.sql"))
        for name, text in parse_queries(path.read_text("utf-8")).items()
    ]


ON_POSTGRESQL, ON_SQLITE = shipped("postgresql"), shipped("sqlite")
PREPARABLE = {
    "postgresql": [query for query in ON_POSTGRESQL if query.is_preparable],
    "sqlite": [query for query in ON_SQLITE if query.is_preparable],
}
LINES = [package for package in PACKAGES if any((ROOT / package / "migrations").glob("*/*.sql"))]


def hot(queries: list[Query]) -> list[Query]:
    return [query for query in queries if query.is_hot]


@pytest.fixture(scope="module")
def postgresql(servers: TestServers) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to a database on which every package's migrations have run, its tables filled."""
    config = servers.fresh_database()
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", config)
        for package in LINES:
            Migrator(database).up(MigrationLine.of_package(package))
    with psycopg.connect(**config.connection_parameters(), autocommit=True) as connection:
        fill(connection)
        yield connection
    servers.drop_database(config)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sqlite3.Connection]:
    """A connection to a file on which every package's migrations have run."""
    path: Path = tmp_path_factory.mktemp("queries") / "main.db"
    with DatabaseManager() as manager:
        database = manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        for package in LINES:
            Migrator(database).up(MigrationLine.of_package(package))
    connection = sqlite3.connect(path, isolation_level=None)
    yield connection
    connection.close()


COLUMNS = """
SELECT c.relname, a.attname, format_type(a.atttypid, NULL), a.atttypmod
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relname LIKE 'holdfast\\_%' AND c.relname <> 'holdfast_migrations'
  AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a'
ORDER BY c.relname, a.attnum
"""


PARTED_BY_RANGE = """
SELECT c.relname FROM pg_class AS c JOIN pg_partitioned_table AS p ON p.partrelid = c.oid
WHERE p.partstrat = 'r' ORDER BY c.relname
"""


def fill(connection: psycopg.Connection[tuple[Any, ...]]) -> None:
    """Give each table ROWS rows, a parent before its children: row n of each refers to row n of the other."""
    for (table,) in connection.execute(PARTED_BY_RANGE).fetchall():
        rest = sql.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT")
        connection.execute(rest.format(sql.Identifier(f"{table}_rest"), sql.Identifier(table)))
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind, modifier in connection.execute(COLUMNS):
        tables.setdefault(table, {})[column] = SPECIAL.get((table, column)) or value(column, kind, modifier)
    waiting = list(tables)
    while waiting:
        table, left = waiting.pop(0), len(waiting)
        statement = sql.SQL("INSERT INTO {} ({}) SELECT {} FROM generate_series(1, {}) AS n").format(
            sql.Identifier(table),
            sql.SQL(", ").join(map(sql.Identifier, tables[table])),
            sql.SQL(", ").join(sql.SQL(expression) for expression in tables[table].values()),
            ROWS,
        )
        try:
            connection.execute(statement)
        except psycopg.errors.ForeignKeyViolation:
            if left == 0:
                raise
            waiting.append(table)
    connection.execute("VACUUM ANALYZE")


def value(column: str, kind: str, modifier: int) -> str:
    """Return an expression for row n of a column; keys are told apart by n, a tenant has a fifth of the rows."""
    if column == "tenant_id":
        return "'tenant ' || n % 5"
    if kind == "vector":
        return f"array_fill((n % 97)::real, ARRAY[{max(modifier, 3)}])::vector"
    known = {
        "text": "'key ' || n",
        "character varying": "'key ' || n",
        "smallint": "(n % 100)",
        "integer": "n",
        "bigint": "n",
        "real": "n",
        "double precision": "n",
        "numeric": "n",
        "boolean": "(n % 2 = 0)",
        "json": "'{}'",
        "jsonb": "'{}'",
        "xid8": "pg_current_xact_id()",
        "bytea": "convert_to('key ' || n, 'UTF8')",
        "uuid": "gen_random_uuid()",
        "interval": "n * INTERVAL '1 second'",
        "timestamp with time zone": "now() + n * INTERVAL '1 hour'",
        "text[]": "ARRAY['key ' || n]",
        "integer[]": "ARRAY[0, 256]",
        "real[]": "ARRAY[n]",
        "tsvector": "to_tsvector('simple', 'key ' || n)",
    }
    return known[kind]


READ = (
    "SELECT replace(body, 'a', 'b') FROM t",
    "SELECT replace /* x */ (body, 'a', 'b'), t.delete, update AS merge FROM t WHERE insert(a) = update",
    "WITH x AS (SELECT (replace(body, 'a', 'b')) AS b FROM t) SELECT replace(b, 'b', 'a') FROM x",
    "VALUES (replace('a', 'a', 'b'))",
    "EXPLAIN SELECT 'INSERT INTO t', \"update\" FROM t -- DELETE FROM t",
)
WRITE = (
    "WITH x AS (SELECT replace('a', 'a', 'b')) INSERT INTO t SELECT * FROM x",
    "WITH x AS (SELECT 1) REPLACE INTO t SELECT * FROM x",
    "WITH x AS NOT MATERIALIZED (\n-- what goes\nDELETE FROM t RETURNING n) SELECT n FROM x",
    'WITH x (n) AS (SELECT 1) SEARCH DEPTH FIRST BY n SET "o" UPDATE ONLY t SET n = 1',
    "WITH x AS (SELECT 1) MERGE INTO t USING x ON true WHEN MATCHED THEN DO NOTHING",
    "SELECT n FROM t FOR UPDATE SKIP LOCKED",
    "SELECT n FROM t FOR NO KEY UPDATE",
    "EXPLAIN (ANALYZE, TIMING false) UPDATE t SET n = 1",
    "EXPLAIN ANALYZE DELETE FROM t",
    "SELECT 1; DELETE FROM t",
    "REPLACE INTO t VALUES (1)",
    "WITH x AS (SELECT 1) UPDATE [t] SET n = 1",
    "WITH x AS (SELECT 1) UPDATE 't' SET n = 1",
)


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_statement_that_writes_is_told_from_one_with_functions_and_columns_named_so(kind: Kind) -> None:
    assert [text for text in READ if not compile_statement(text, kind).reads] == []
    assert [text for text in WRITE if compile_statement(text, kind).reads] == []


@pytest.mark.parametrize("query", PREPARABLE["postgresql"], ids=str)
def test_a_statement_prepares_on_postgresql(postgresql: psycopg.Connection[tuple[Any, ...]], query: Query) -> None:
    text = compile_statement(query.text, "postgresql").text
    postgresql.execute(f"PREPARE checked AS {text}")
    postgresql.execute("DEALLOCATE checked")


@pytest.mark.parametrize("query", PREPARABLE["sqlite"], ids=str)
def test_a_statement_prepares_on_sqlite(sqlite: sqlite3.Connection, query: Query) -> None:
    statement = compile_statement(query.text, "sqlite")
    if (
        "dbstat" in statement.text
        and not sqlite.execute("SELECT 1 FROM pragma_module_list WHERE name = 'dbstat'").fetchone()
    ):
        pytest.skip("the SQLite library was built without dbstat")
    assert sqlite.execute(f"EXPLAIN {statement.text}", dict.fromkeys(statement.names)).fetchall()


def scans(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the nodes of a plan that read a table or an index."""
    if plan["Node Type"].endswith("Scan") and ("Relation Name" in plan or "Index Name" in plan):
        yield plan
    for child in plan.get("Plans", ()):
        yield from scans(child)


def is_by_index(scan: dict[str, Any]) -> bool:
    """Tell whether a scan reads what it looks for: by a condition on more than the tenant, or by the index's order."""
    if scan["Node Type"] == "Bitmap Heap Scan":
        return True  # its index scan is a node of its own
    condition = re.sub(r"\((?:\w+\.)?tenant_id = [^()]*\)", "", scan.get("Index Cond", ""))
    return "Index Name" in scan and (bool(re.search(r"\w \S", condition)) or "Order By" in scan)


@pytest.mark.parametrize("query", hot(ON_POSTGRESQL), ids=str)
def test_a_hot_statement_finds_its_rows_by_an_index_on_postgresql(
    postgresql: psycopg.Connection[tuple[Any, ...]], query: Query
) -> None:
    text = compile_statement(query.text, "postgresql").text
    row = postgresql.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}").fetchone()
    assert row is not None
    found = list(scans(row[0][0]["Plan"]))
    assert found or "INSERT" in text
    assert [scan for scan in found if not is_by_index(scan)] == []


SECOND_COLUMN = """
SELECT c.relname, pg_get_indexdef(i.indexrelid, 2, true) FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
WHERE i.indnkeyatts > 1 AND pg_get_indexdef(i.indexrelid, 1, true) = 'tenant_id'
"""


def is_skipping(scan: dict[str, Any], second: dict[str, str]) -> bool:
    """Tell whether a scan reads all of a tenant in an index whose second column its condition says nothing of."""
    column = second.get(scan.get("Index Name", ""), "")
    return column.isidentifier() and not re.search(rf"\b{column}\b", scan.get("Index Cond", column))


SWEEPING = {
    "vectorstore-postgresql-delete_expired",
    *(f"sessions-postgresql-{name}" for name in ("item_delete_expired", "delete_expired_sessions", "task_cancel")),
    *(f"sessions-postgresql-task_{name}" for name in ("transfer", "hand_over", "delete_finished")),
}
"""What may go through all of a tenant until its tables have statistics."""


def test_a_row_is_found_by_its_key_before_the_planner_knows_anything_of_its_table(servers: TestServers) -> None:
    config = servers.fresh_database(*sorted(LINES))
    among_all = []
    with psycopg.connect(**config.connection_parameters(), autocommit=True) as connection:
        second = dict(connection.execute(SECOND_COLUMN).fetchall())
        for query in hot(ON_POSTGRESQL):
            text = compile_statement(query.text, "postgresql").text
            row = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}").fetchone()
            assert row is not None
            found = scans(row[0][0]["Plan"])
            if connection.info.server_version < 17_00_00:  # which makes no condition of a list before it has statistics
                found = [scan for scan in found if "= ANY" not in scan.get("Filter", "")]
            among_all += [(str(query), scan) for scan in found if not is_by_index(scan) or is_skipping(scan, second)]
    servers.drop_database(config)
    assert {name for name, _ in among_all} <= SWEEPING, among_all


@pytest.mark.parametrize("query", hot(ON_SQLITE), ids=str)
def test_a_hot_statement_finds_its_rows_by_an_index_on_sqlite(sqlite: sqlite3.Connection, query: Query) -> None:
    statement = compile_statement(query.text, "sqlite")
    plan = sqlite.execute(f"EXPLAIN QUERY PLAN {statement.text}", dict.fromkeys(statement.names)).fetchall()
    details = [detail for *_, detail in plan]
    # What it made itself it may read from end to end.
    made = {match[1] for detail in details if (match := re.match(r"(?:CO-ROUTINE|MATERIALIZE) (\S+)", detail))}
    harmless = {"CONSTANT", "json_each", "json_tree", *made}
    scanned = [detail for detail in details if detail.startswith("SCAN ") and detail.split()[1] not in harmless]
    assert scanned == []
    assert [detail for detail in details if detail.endswith("(tenant_id=?)")] == []


@pytest.mark.parametrize("query", [query for query in PREPARABLE["sqlite"] if "pragma_" not in query.text], ids=str)
def test_a_statement_is_planned_once_on_sqlite(sqlite: sqlite3.Connection, query: Query) -> None:
    # Where a parameter is compared with a column that a partial index holds to a constant, SQLite plans the statement
    # anew whenever something is bound to it, in case that is the constant.
    statement = compile_statement(query.text, "sqlite")
    planned: list[object] = []

    def note(*about: object) -> int:
        planned.append(about)
        return sqlite3.SQLITE_OK

    sqlite.set_authorizer(note)
    sqlite.execute("BEGIN")
    try:
        for _ in range(2):
            planned.clear()
            with suppress(sqlite3.IntegrityError):
                sqlite.execute(statement.text, dict.fromkeys(statement.names)).fetchall()
        assert planned == []
    finally:
        sqlite.execute("ROLLBACK")
        sqlite.set_authorizer(None)


@pytest.mark.parametrize("query", [query for query in ON_POSTGRESQL + ON_SQLITE if query.is_listing], ids=str)
def test_a_listing_has_an_order_and_a_limit(query: Query) -> None:
    words = [token.text.upper() for token in tokens(query.text) if token.kind == "word"]
    assert "ORDER BY" in " ".join(words)
    assert "LIMIT" in words

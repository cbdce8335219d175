"""The plan for Citus, and what it takes for granted, found in the real schema and the real plans of every statement."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from persistence import DatabaseManager, MigrationLine, Migrator, PostgreSQLConfig
from persistence.citus import LOCAL, ForeignKey, Table, UniqueKey, plan, read_tables
from persistence.cli import FAILED, NOT_AS_IT_SHOULD, main
from persistence.dialect import compile_statement
from tests.servers import TestServers, url_of
from tests.test_queries import LINES, PREPARABLE, Query

PINNED = re.compile(r"tenant_id\)?(?:::\w+)? = (?:\(?\$\d+|\(?\w+\.tenant_id|'\w+'::text)")

ELSEWHERE = frozenset(
    (
        "import_refused",  # tables of other products, and of your own that have no tenants
        "import_rows",
        "upsert_adopted",
        "update_adopted",
        "patch_adopted",
        "selected_refused",  # a query of your own, whose rows are stored
        "store_selected",
        "sample",  # what the server's statistics are asked for: docs/scaling.md says what that means on Citus
        "search_words",
    )
)


@pytest.fixture(scope="module")
def config(servers: TestServers) -> Iterator[PostgreSQLConfig]:
    """A database on which every package's migrations have run."""
    made = servers.fresh_database()
    with DatabaseManager() as manager:
        database = manager.add_postgresql("main", made)
        for package in LINES:
            Migrator(database).up(MigrationLine.of_package(package))
    yield made
    servers.drop_database(made)


@pytest.fixture(scope="module")
def connection(config: PostgreSQLConfig) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(**config.connection_parameters(), autocommit=True, row_factory=dict_row) as opened:
        yield opened


@pytest.fixture(scope="module")
def distributed(connection: psycopg.Connection[Any]) -> set[str]:
    """The tables whose rows lie with their tenant."""
    return {table.name for table in read_tables(connection) if table.is_distributed} - LOCAL


def test_every_key_of_every_table_is_within_one_tenant(connection: psycopg.Connection[Any]) -> None:
    tables = read_tables(connection)
    found = plan(tables)
    assert found.problems == ()
    named = "\n".join(found.statements)
    for table in tables:
        if table.name not in LOCAL:
            assert f"'{table.name}'" in named
    assert {table.name for table in tables if table.is_nested} == {"holdfast_events"}
    assert len(found.statements) == len(tables) - len(LOCAL)
    reference = [statement for statement in found.statements if "create_reference_table" in statement]
    assert [re.findall(r"create_reference_table\('(\w+)'\)", each) for each in reference] == [["holdfast_collections"]]
    distributed = [statement for statement in found.statements if "create_distributed_table" in statement]
    assert all("'tenant_id'" in statement for statement in distributed)
    first = re.findall(r"create_distributed_table\('(\w+)'", distributed[0])[0]
    assert "colocate_with => 'none'" in distributed[0]
    assert all(f"colocate_with => '{first}'" in statement for statement in distributed[1:])
    made = [re.findall(r"create_\w+_table\('(\w+)'", statement)[0] for statement in found.statements]
    for table in tables:
        for link in table.foreign:
            assert made.index(link.target) <= made.index(table.name)  # one may refer to itself
            assert not {table.name, link.target} & LOCAL


def scans(node: dict[str, Any], distributed: set[str]) -> Iterator[tuple[str, str]]:
    """Yield each table that a plan looks into, with the conditions by which it does."""
    if node.get("Relation Name") in distributed and node["Node Type"] != "ModifyTable":
        below = [child for child in node.get("Plans", []) if "Relation Name" not in child]
        conditions = [node, *below, *(deep for child in below for deep in child.get("Plans", []))]
        kinds = ("Filter", "Index Cond", "Recheck Cond", "Join Filter", "Hash Cond", "Merge Cond")
        yield node["Relation Name"], " ".join(str(each.get(kind, "")) for each in conditions for kind in kinds)
    for child in node.get("Plans", []):
        yield from scans(child, distributed)


@pytest.mark.parametrize("query", [query for query in PREPARABLE["postgresql"] if query.name not in ELSEWHERE], ids=str)
def test_a_statement_stays_with_one_tenant(
    query: Query, connection: psycopg.Connection[Any], distributed: set[str]
) -> None:
    text = compile_statement(query.text, "postgresql").text
    row = connection.execute(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}".encode()).fetchone()
    assert row is not None
    (found,) = row["QUERY PLAN"]
    for table, conditions in scans(found["Plan"], distributed):
        assert PINNED.search(conditions), f"{table} is looked into by: {conditions}"


def test_what_stands_in_the_way_is_named() -> None:
    key = UniqueKey("p_pkey", ("tenant_id", "id"), is_primary=True)
    tables = [
        Table("holdfast_a", "text C", (UniqueKey("a_pkey", ("id", "tenant_id"), is_primary=True),)),
        Table("holdfast_b", "text C", (key, UniqueKey("b_mail", ("mail",)), UniqueKey("b_low", (None,)))),
        Table(
            "holdfast_c", "integer", (key,), (ForeignKey("c_b", ("x", "tenant_id"), "holdfast_b", ("tenant_id", "id")),)
        ),
        Table("holdfast_d", "text C", (), (ForeignKey("d_e", ("e",), "others", ("id",)),)),
        Table("others", None, (UniqueKey("o_pkey", ("id",), is_primary=True),)),
        Table("Yours", "text C", (key,), is_nested=True),
    ]
    found = plan(tables)
    text = "\n".join(found.problems)
    for part in (
        "the primary key of holdfast_a does not begin with tenant_id",
        "b_mail of holdfast_b is unique without tenant_id",
        "b_low of holdfast_b is unique without tenant_id",
        "c_b of holdfast_c may lead to another tenant's row of holdfast_b",
        "tenant_id of holdfast_c is integer",
        "holdfast_d has no primary key",
        "Yours is partitioned twice",
        "d_e of holdfast_d refers to others, which is not distributed",
    ):
        assert part in text
    assert any("""create_distributed_table('"Yours"', 'tenant_id'""" in each for each in found.statements)
    assert not any("others" in each for each in found.statements)
    assert "-- In the way: holdfast_d has no primary key" in found.script()


def test_the_command_prints_the_script_and_changes_nothing(
    config: PostgreSQLConfig, connection: psycopg.Connection[Any], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.delenv("HOLDFAST_URL", raising=False)
    assert main(["citus-plan"]) == FAILED
    capsys.readouterr()
    assert main(["citus-plan", "--url", url_of(config)]) == 0
    script = capsys.readouterr().out
    assert script == plan(read_tables(connection)).script()
    monkeypatch.setenv("HOLDFAST_URL", url_of(config))
    assert main(["citus-plan", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    assert (values["problems"], len(values["statements"])) == ([], script.count("WHERE NOT EXISTS"))
    connection.execute('CREATE TABLE holdfast_wrong (tenant_id text COLLATE "C", id text PRIMARY KEY)')
    try:
        assert main(["citus-plan"]) == NOT_AS_IT_SHOULD
        assert "-- In the way: the primary key of holdfast_wrong" in capsys.readouterr().out
    finally:
        connection.execute("DROP TABLE holdfast_wrong")
    assert main(["citus-plan", "--url", "postgresql://nobody:s3cret@127.0.0.1:1/x"]) == 1
    assert "s3cret" not in capsys.readouterr().err

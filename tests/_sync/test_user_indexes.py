# Generated from ../_async/test_user_indexes.py by tests/unasync.py: edit that one.
"""What one user has among five thousand records of others: found by an index, never by reading the tenant."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    Migrator,
    CorruptError,
    MigrationLine,
    SQLiteConfig,
    StatementEvent,
)
from persistence.dialect import compile_statement, split_statements
from sessions import EventLog, MemoryGraph, TaskStore, UserData, Event, Node, Task
from tests.test_queries import is_by_index, scans

OTHERS = 5000
KINDS = ["checkpoint", "event", "node", "task"]

# Each row is copied with another id and user, beside the one of the user that is looked for.
COPIED = {
    "holdfast_graph_nodes": ("id", "attributes"),
    "holdfast_graph_history": ("id", "attributes"),
    "holdfast_events": ("id", "tags"),
    "holdfast_tasks": ("id", "metadata"),
    "holdfast_checkpoint_threads": ("thread_id", None),
    "holdfast_checkpoints": ("thread_id", "metadata"),
}


def filled(manager: DatabaseManager, database: Database) -> UserData:
    """Return the data of ``ada``, who has one record of each kind among OTHERS of other users."""
    checkpoints, log = DatabaseCheckpointer(manager, "main"), EventLog(manager, "main")
    graph, tasks = MemoryGraph(manager, "main"), TaskStore(manager, "main")
    for user in ("ada", "other"):
        checkpoints.save_checkpoint(Checkpoint(f"of {user}", {}, metadata={"user_id": user}))
        log.append(Event(kind="log", message="m", tags={"user_id": user}))
        graph.add_node(Node(f"of {user}", "USER", {"user_id": user}))
        tasks.add(Task(kind="k", metadata={"user_id": user}))
    for table, (key, body) in COPIED.items():
        if database.kind == "sqlite" and table == "holdfast_graph_history":
            continue  # a trigger writes it there
        copy_others(database, table, key, body)
    if database.kind == "postgresql":
        database.execute("ANALYZE")
    return UserData(manager, "main", stores=[checkpoints, log, graph, tasks])


def copy_others(database: Database, table: str, key: str, body: str | None) -> None:
    found = f"SELECT * FROM {table} WHERE CAST({body or key} AS text) LIKE '%other%' ORDER BY {key} LIMIT 1"
    row = (database.fetch_all(found))[0]
    places = {name: name for name in row if name not in ("seq", "search")}
    places[key] = f"{key} + n.n" if isinstance(row[key], int) else f"{key} || ' ' || n.n"
    build, numbers = "jsonb_build_object", f"generate_series(1, {OTHERS}) AS n (n)"
    if database.kind == "sqlite":
        series = f"WITH RECURSIVE n (n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM n LIMIT {OTHERS}) SELECT n FROM n"
        build, numbers = "json_object", f"({series}) AS n"
    if body:
        places[body] = f"{build}('user_id', 'other ' || n.n)"
    copy = f"SELECT {', '.join(places.values())} FROM {table} CROSS JOIN {numbers} WHERE {key} = :key"
    database.execute(f"INSERT INTO {table} ({', '.join(places)}) {copy}", {"key": row[key]})


def read_whole(database: Database, sql: str) -> list[str]:
    """Return what a statement reads from end to end, or all of a tenant's, whatever it is called with."""
    statement = compile_statement(sql, database.kind)
    if database.kind == "postgresql":
        (row,) = database.fetch_all(f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement.text}")
        found = scans(row["QUERY PLAN"][0]["Plan"])
        return [str(scan) for scan in found if scan["Total Cost"] > 50 and not is_by_index(scan)]
    rows = database.fetch_all(f"EXPLAIN QUERY PLAN {sql}", dict.fromkeys(statement.names))
    details = [row["detail"] for row in rows if "VIRTUAL TABLE" not in row["detail"]]
    return [each for each in details if each.endswith("(tenant_id=?)") or re.match("SCAN (?!.* USING INDEX)", each)]


def test_neither_an_export_nor_an_erasure_reads_a_tenant_from_end_to_end(
    manager: DatabaseManager, database: Database
) -> None:
    users = filled(manager, database)
    events: list[StatementEvent] = []
    manager.on_statement.append(events.append)
    lines = [json.loads(line) for line in users.export_user("ada")]
    assert sorted(line["kind"] for line in lines) == KINDS
    assert len(events) <= 24
    counts = users.erase_user("ada")
    manager.on_statement.clear()
    assert {kind: count for kind, count in counts.items() if count} == {
        "checkpoints": 1,
        "events": 1,
        "nodes": 1,
        "tasks": 1,
    }
    statements = dict.fromkeys(part for event in events for part in split_statements(event.statement))
    read = [each for each in statements if "'user_id'" in each or "$.user_id" in each]
    assert len(read) == 5
    for statement in read:
        assert (statement, read_whole(database, statement)) == (statement, [])
    assert [line for line in users.export_user("ada")] == []
    assert len([line for line in users.export_user("other 7")]) == 4


def test_a_name_is_a_text_and_of_any_length(manager: DatabaseManager, database: Database) -> None:
    log, graph = EventLog(manager, "main"), MemoryGraph(manager, "main")
    for number, user in enumerate(("5", 5, None, ["5"], {"5": 5}, "x" * 100_000, "5 ")):
        log.append(Event(kind="log", message="m", tags={"user_id": user}))
        graph.add_node(Node(f"n{number}", "USER", {"user_id": user}))
    users = UserData(manager, "main", stores=[log, graph])
    assert len([line for line in users.export_user("5")]) == 2
    counts = users.erase_user("5")
    assert (counts["events"], counts["nodes"]) == (1, 1)
    assert len(log.query()) == len(graph.find()) == 6


def test_a_row_whose_json_is_damaged_is_corrupt_alone_and_can_be_deleted(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    database = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "main.db")))
    checkpoints, log = DatabaseCheckpointer(manager, "main"), EventLog(manager, "main")
    graph, tasks = MemoryGraph(manager, "main"), TaskStore(manager, "main")
    named = {"user_id": "ada"}
    for name in ("damaged", "well"):
        checkpoints.save_checkpoint(Checkpoint(name, {}, metadata=named))
        log.append(Event(kind="log", message=name, tags=named))
        graph.add_node(Node(name, "USER", named))
        tasks.add(Task(kind="k", id=name, metadata=named))
        tasks.cancel(name)
    users = UserData(manager, "main", stores=[checkpoints, log, graph, tasks])
    assert len([line for line in users.export_user("ada")]) == 8
    places = {
        "checkpoints SET metadata": "thread_id",
        "events SET tags": "message",
        "graph_nodes SET attributes": "id",
        "graph_history SET attributes": "id",
        "tasks SET metadata": "id",
    }
    for place, key in places.items():
        assert database.execute(f"UPDATE holdfast_{place} = '{{\"user_id' WHERE {key} = 'damaged'")
    reads: list[Callable[[], Any]] = [
        lambda: checkpoints.list_checkpoints("damaged"),
        lambda: log.query(),
        lambda: graph.get_node("damaged"),
        lambda: tasks.get("damaged"),
    ]
    for read in reads:
        with pytest.raises(CorruptError):
            read()
    assert [json.loads(line)["kind"] for line in users.export_user("ada")] == KINDS
    assert checkpoints.delete_thread("damaged") == 1
    assert database.execute("DELETE FROM holdfast_events WHERE message = 'damaged'") == 1
    assert graph.delete_node("damaged")
    assert tasks.delete("damaged")
    assert [event.message for event in log.query()] == ["well"]
    counts = users.erase_user("ada")
    assert [counts[kind] for kind in ("checkpoints", "events", "nodes", "tasks")] == [1, 1, 1, 1]


def test_the_indexes_of_before_come_back(manager: DatabaseManager) -> None:
    database = manager.add_sqlite("main", "sqlite://")
    migrator = Migrator(database)
    for package, before, count in (("sessions", 9, 4), ("checkpoint", 2, 1)):
        line = MigrationLine.of_package(package)
        migrator.up(line)
        now = user_indexes(database)
        assert ["json_valid" in each for each in now] == [True] * count
        migrator.down(line, to=before)
        assert ["json_valid" in each for each in user_indexes(database)] == [False] * count
        migrator.up(line)
        assert user_indexes(database) == now
        migrator.down(line, to=0)


def user_indexes(database: Database) -> list[str]:
    rows = database.fetch_all("SELECT sql FROM sqlite_master WHERE sql LIKE '%$.user_id%' ORDER BY name")
    return [row["sql"] for row in rows]

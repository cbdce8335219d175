# Generated from ../_async/graphs.py by tests/unasync.py: edit that one.
"""What the tests of the memory graph share: graphs on each backend, and how to look at them from elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from persistence import Database, DatabaseManager, PostgreSQLDatabase, SQLiteDatabase
from persistence.errors import PersistenceError
from sessions import MemoryGraph, Edge, Node


def second_connection(manager: DatabaseManager, database: Database) -> str:
    """Return the name of a second connection to the same database; one in memory has only the one."""
    if isinstance(database, PostgreSQLDatabase):
        manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, SQLiteDatabase) and database.config.path != ":memory:":
        manager.add_sqlite("elsewhere", database.config)
    else:
        return "main"
    return "elsewhere"


def outcome(call: Callable[[], Any]) -> Any:
    """Return what a call gives, or the error that it raises."""
    try:
        return call()
    except PersistenceError as exc:
        return exc


def connect(graph: MemoryGraph, *edges: str) -> None:
    """Add edges written ``a-knows-b`` or ``a-knows-b:0.5``, and the nodes that they need."""
    found = []
    for text in edges:
        ends, _, weight = text.partition(":")
        source, relationship, target = ends.split("-")
        found.append(Edge(source, relationship, target, weight=float(weight or 1)))
    names = dict.fromkeys(name for edge in found for name in (edge.source, edge.target))
    graph.add_nodes([Node(name, "CONCEPT") for name in names])
    graph.add_edges(found)

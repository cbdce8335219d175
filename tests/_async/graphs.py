"""What the tests of the memory graph share: graphs on each backend, and how to look at them from elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from persistence import AsyncDatabase, AsyncDatabaseManager, AsyncPostgreSQLDatabase, AsyncSQLiteDatabase
from persistence.errors import PersistenceError
from sessions import AsyncMemoryGraph, Edge, Node


async def second_connection(manager: AsyncDatabaseManager, database: AsyncDatabase) -> str:
    """Return the name of a second connection to the same database; one in memory has only the one."""
    if isinstance(database, AsyncPostgreSQLDatabase):
        await manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, AsyncSQLiteDatabase) and database.config.path != ":memory:":
        await manager.add_sqlite("elsewhere", database.config)
    else:
        return "main"
    return "elsewhere"


async def outcome(call: Callable[[], Awaitable[Any]]) -> Any:
    """Return what a call gives, or the error that it raises."""
    try:
        return await call()
    except PersistenceError as exc:
        return exc


async def connect(graph: AsyncMemoryGraph, *edges: str) -> None:
    """Add edges written ``a-knows-b`` or ``a-knows-b:0.5``, and the nodes that they need."""
    found = []
    for text in edges:
        ends, _, weight = text.partition(":")
        source, relationship, target = ends.split("-")
        found.append(Edge(source, relationship, target, weight=float(weight or 1)))
    names = dict.fromkeys(name for edge in found for name in (edge.source, edge.target))
    await graph.add_nodes([Node(name, "CONCEPT") for name in names])
    await graph.add_edges(found)

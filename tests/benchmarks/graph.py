"""What a walk through the memory graph costs, next to the recursive SQL that one would write by hand.

``python -m tests.benchmarks.graph [--quick] [--edges=N]``. A graph of a tenth as many nodes as edges (a million;
with ``--quick`` 100,000), each with ten edges to nodes at random, is loaded by COPY. The floor is psycopg with the
statement written by hand, prepared, for the same tables and the same columns, and its rows as psycopg gives them.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import psycopg
from psycopg.rows import dict_row

from persistence import DatabaseManager, EmbeddedPostgreSQL, PostgreSQLConfig, PostgreSQLDatabase
from sessions import Edge, MemoryGraph, Node
from tests.benchmarks.measure import in_turns, report

BY_HAND = """
WITH RECURSIVE walk (id, depth) AS (
    SELECT CAST(%(id)s AS text) COLLATE "C", 0
    UNION
    SELECT e.target, w.depth + 1
    FROM walk AS w JOIN holdfast_graph_edges AS e
        ON e.tenant_id = 'default' AND e.scope = 'LOCAL' AND e.source = w.id
    WHERE w.depth < %(depth)s
)
SELECT f.depth, n.id, n.scope, n.type, n.attributes, n.version, n.created_by, n.updated_by, n.created_at, n.updated_at
FROM (SELECT id, min(depth) AS depth FROM walk GROUP BY id HAVING min(depth) > 0 ORDER BY 2, 1 LIMIT %(limit)s) AS f
JOIN holdfast_graph_nodes AS n ON n.tenant_id = 'default' AND n.scope = 'LOCAL' AND n.id = f.id
ORDER BY f.depth, f.id
"""
NODE_COLUMNS = ("tenant_id", "scope", "id", "type", "attributes", "words", "version", "created_at", "updated_at")
EDGE_COLUMNS = (
    "tenant_id", "scope", "source", "relationship", "target", "weight", "attributes", "version", "created_at",
    "updated_at",
)  # fmt: skip


def load(database: PostgreSQLDatabase, edges: int) -> None:
    """Fill the tables by COPY; the foreign keys hold by construction, so they are not checked a million times."""
    nodes, now, rng = edges // 10, datetime.now(UTC), random.Random(7)

    def node_rows() -> Iterator[tuple[Any, ...]]:
        for number in range(nodes):
            attributes = {"name": f"node {number}", "rank": number % 97}
            yield "default", "LOCAL", f"n{number}", "CONCEPT", attributes, {"name": ["node"]}, 1, now, now

    def edge_rows() -> Iterator[tuple[Any, ...]]:
        for number in range(nodes):
            for target in rng.sample(range(nodes), 10):
                yield "default", "LOCAL", f"n{number}", "knows", f"n{target}", 1.0, {}, 1, now, now

    started = perf_counter()
    with database.transaction(timeout=600) as transaction:
        transaction.execute("SET LOCAL session_replication_role = replica")
        transaction.copy_into("holdfast_graph_nodes", NODE_COLUMNS, node_rows(), timeout=300)
        transaction.copy_into("holdfast_graph_edges", EDGE_COLUMNS, edge_rows(), timeout=300)
    database.execute("VACUUM ANALYZE holdfast_graph_nodes, holdfast_graph_edges", timeout=300)
    print(f"{nodes:,} nodes and {edges:,} edges by COPY in {perf_counter() - started:.1f} s")


def walks(config: PostgreSQLConfig, graph: MemoryGraph, nodes: int, rounds: int, calls: int) -> None:
    """Print walks of one to three steps, whole and cut to their first hundred nodes."""
    connection = psycopg.connect(**config.connection_parameters(), autocommit=True, row_factory=dict_row)
    rng = random.Random(11)
    starts = [f"n{rng.randrange(nodes)}" for _ in range(50)]

    def by_hand(depth: int, limit: int, names: Iterator[str]) -> list[Any]:
        values = {"id": next(names), "depth": depth, "limit": limit}
        return connection.execute(BY_HAND, values, prepare=True).fetchall()

    def ours(depth: int, limit: int, names: Iterator[str]) -> list[Any]:
        return graph.neighbours(next(names), depth=depth, limit=limit)

    for depth, limit in ((1, 100), (2, 1000), (3, 100), (3, 10_000)):
        mine, theirs = ours(depth, limit, iter(starts)), by_hand(depth, limit, iter(starts))
        assert [(each.node.id, each.depth) for each in mine] == [(row["id"], row["depth"]) for row in theirs]
        found = in_turns(
            {
                "recursive SQL by hand": partial(by_hand, depth, limit, cycle(starts)),
                "neighbours": partial(ours, depth, limit, cycle(starts)),
            },
            rounds=rounds,
            calls=calls,
        )
        title = f"{depth} steps, at most {limit:,} nodes ({len(mine):,} found)"
        report(title, found, floor="recursive SQL by hand", bound=1.3)
    connection.close()


def others(graph: MemoryGraph, nodes: int, rounds: int, calls: int) -> None:
    """Print what the other calls cost on a graph of this size."""
    rng = random.Random(13)

    def name() -> str:
        return f"n{rng.randrange(nodes)}"

    ways: dict[str, Callable[[], Any]] = {
        "get_node": lambda: graph.get_node(name()),
        "add_node (a merge)": lambda: graph.add_node(Node(name(), "CONCEPT", {"seen": True})),
        "add_edge": lambda: graph.add_edge(Edge(name(), "likes", name())),
        "edges": lambda: graph.edges(name()),
        "find": lambda: graph.find(type="CONCEPT", limit=20),
        "shortest_path": lambda: graph.shortest_path(name(), name()),
    }
    report("one call each, writes durable", in_turns(ways, rounds=rounds, calls=calls), floor="get_node")


def main(arguments: list[str] | None = None) -> None:
    """Run all of it on an embedded PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--edges", type=int)
    options = parser.parse_args(arguments)
    edges = options.edges or (100_000 if options.quick else 1_000_000)
    rounds, calls = (5, 4) if options.quick else (15, 10)
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedPostgreSQL(Path(folder)) as server,
        DatabaseManager() as manager,
    ):
        database = manager.add_postgresql("main", server.config())
        graph = MemoryGraph(manager, "main")
        graph.count()
        load(database, edges)
        walks(server.config(), graph, edges // 10, rounds, calls)
        others(graph, edges // 10, rounds, calls)


if __name__ == "__main__":
    main()

# Generated from ../_async/test_graph_walk.py by tests/unasync.py: edit that one.
"""Walks through the memory graph: neighbourhoods with cycles in them, and shortest paths, against plain Python."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import pytest

from persistence import Database, DatabaseManager, PostgreSQLConfig, ValidationError
from persistence.dialect import compile_statement
from persistence.queries import load_queries
from sessions import MemoryGraph, Edge, GraphPath, Node
from tests._sync.graphs import connect, outcome

pytestmark = pytest.mark.tables("sessions")

INFINITE = float("inf")


@pytest.fixture
def graph(manager: DatabaseManager, database: Database) -> MemoryGraph:
    return MemoryGraph(manager, "main")


def walk(graph: MemoryGraph, node: str, **options: Any) -> dict[str, int]:
    return {each.node.id: each.depth for each in graph.neighbours(node, **options)}


def test_each_neighbour_comes_once_at_its_least_depth(graph: MemoryGraph) -> None:
    connect(graph, "a-r-b", "b-r-c", "c-r-a", "a-s-c", "c-r-d", "d-r-d", "d-r-b", "e-r-a")
    assert walk(graph, "a") == {"b": 1, "c": 1}
    assert walk(graph, "a", depth=3) == {"b": 1, "c": 1, "d": 2}
    assert walk(graph, "a", depth=32, relationship="r") == {"b": 1, "c": 2, "d": 3}
    assert walk(graph, "a", depth=2, relationship=["r", "s"]) == {"b": 1, "c": 1, "d": 2}
    assert walk(graph, "a", depth=2, direction="in") == {"c": 1, "e": 1, "b": 2}
    assert walk(graph, "d", depth=2, direction="both") == {"b": 1, "c": 1, "a": 2}
    assert walk(graph, "a", relationship="none") == {}
    assert walk(graph, "nobody", depth=3) == {}
    found = (graph.neighbours("a"))[0].node
    assert found == graph.get_node("b")


def test_neighbours_come_in_pages_nearest_first(graph: MemoryGraph) -> None:
    connect(graph, "a-r-z", "a-r-y", "z-r-b", "y-r-c", "c-r-a")
    pages: list[Any] = []
    while page := graph.neighbours("a", depth=3, limit=2, after=pages[-1].cursor if pages else None):
        pages += page
    assert [(each.node.id, each.depth) for each in pages] == [("y", 1), ("z", 1), ("b", 2), ("c", 2)]
    for after in ("x", pages[0].node.cursor):
        with pytest.raises(ValidationError, match="cursor"):
            graph.neighbours("a", after=after)


def test_a_shortest_path_goes_by_steps_or_by_weight(graph: MemoryGraph) -> None:
    connect(graph, "a-r-b:5", "b-r-z:5", "a-s-c:1", "c-s-d:1", "d-s-z:1", "z-back-a:0")
    assert graph.shortest_path("a", "z") == GraphPath(("a", "b", "z"), ("r", "r"), 10.0)
    light = GraphPath(("a", "c", "d", "z"), ("s", "s", "s"), 3.0)
    assert graph.shortest_path("a", "z", weighted=True) == light
    assert graph.shortest_path("a", "z", relationship="s") == light
    assert graph.shortest_path("a", "z", weighted=True, max_depth=2) == GraphPath(
        ("a", "b", "z"), ("r", "r"), 10.0
    )
    assert graph.shortest_path("a", "z", direction="in") == GraphPath(("a", "z"), ("back",), 0.0)
    assert graph.shortest_path("b", "c", direction="both") == GraphPath(("b", "a", "c"), ("r", "s"), 6.0)
    assert graph.shortest_path("a", "z", max_depth=1) is None
    assert graph.shortest_path("a", "nobody") is None
    here = graph.shortest_path("a", "a")
    assert here == GraphPath(("a",), (), 0.0)
    assert (len(here), bool(here)) == (0, True)
    assert graph.shortest_path("nobody", "nobody") is None


def test_a_path_takes_no_more_statements_than_steps(
    graph: MemoryGraph, manager: DatabaseManager
) -> None:
    connect(graph, *[f"n{number}-r-n{number + 1}" for number in range(9)])
    for weighted in (False, True):
        for max_depth in (4, 9):
            before = manager.stats()["main"].requests
            found = graph.shortest_path("n0", "n9", max_depth=max_depth, weighted=weighted)
            assert (found is not None) == (max_depth == 9)
            assert manager.stats()["main"].requests - before <= max_depth


def test_a_path_gives_up_loudly_on_too_many_edges_and_on_negative_weights(graph: MemoryGraph) -> None:
    connect(graph, *[f"hub-r-n{number}" for number in range(20)], "n1-r-n2:-1")
    with pytest.raises(ValidationError, match="max_edges"):
        graph.shortest_path("hub", "none", max_edges=19)
    assert graph.shortest_path("hub", "none", max_edges=20, max_depth=1) is None
    with pytest.raises(ValidationError, match=r"weight -1"):
        graph.shortest_path("hub", "none", weighted=True)


def test_walks_and_paths_agree_with_plain_python(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", "sqlite://")
    graph = MemoryGraph(manager, "main")
    rng = random.Random(7)
    edges = {(f"n{rng.randrange(40):02}", f"n{rng.randrange(40):02}"): float(rng.randrange(1, 9)) for _ in range(90)}
    graph.add_nodes([Node(f"n{number:02}", "T") for number in range(40)])
    graph.add_edges([Edge(source, "r", target, weight=weight) for (source, target), weight in edges.items()])
    for start in ("n00", "n13", "n27"):
        hops = levels(edges, start)
        assert walk(graph, start, depth=4) == {name: depth for name, depth in hops.items() if 0 < depth <= 4}
        weights = least_weights(edges, start, 5)
        for number in range(40):
            end = f"n{number:02}"
            path = graph.shortest_path(start, end, max_depth=5)
            assert (INFINITE if path is None else len(path)) == (
                hops.get(end, INFINITE) if hops.get(end, 9) <= 5 else INFINITE
            )
            light = graph.shortest_path(start, end, max_depth=5, weighted=True)
            assert (INFINITE if light is None else light.weight) == weights.get(end, INFINITE)
            for found in (path, light):
                if found is not None:
                    assert sum(edges[step] for step in zip(found.nodes, found.nodes[1:], strict=False)) == found.weight


def levels(edges: dict[tuple[str, str], float], start: str) -> dict[str, int]:
    """Return the least number of steps to each node."""
    found, front = {start: 0}, [start]
    while front:
        reached = sorted({target for source, target in edges if source in front} - found.keys())
        found |= dict.fromkeys(reached, found[front[0]] + 1)
        front = reached
    return found


def least_weights(edges: dict[tuple[str, str], float], start: str, steps: int) -> dict[str, float]:
    """Return the least weight to each node within a number of steps."""
    found = {start: 0.0}
    for _ in range(steps):
        before = dict(found)
        for (source, target), weight in edges.items():
            if source in before:
                found[target] = min(found.get(target, INFINITE), before[source] + weight)
    return found


def scans(plan: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how a plan reads each table: its node and its index, or the table itself."""
    if "Relation Name" in plan or "Index Name" in plan:
        yield plan["Node Type"], plan.get("Index Name", plan.get("Relation Name", ""))
    for child in plan.get("Plans", ()):
        yield from scans(child)


def test_postgresql_reads_only_what_it_gives_and_by_the_indexes_meant(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    """FEATURES 2.3, 10: whole tables were loaded and counted in Python."""
    database = manager.add_postgresql("main", postgresql_config)
    graph = MemoryGraph(manager, "main")
    graph.add_nodes([Node(f"n{n}", f"T{n % 40}", {"text": f"word{n % 500}"}) for n in range(4000)])
    graph.add_edges([Edge(f"n{n}", "r", f"n{n * 7 % 4000}") for n in range(4000)])
    database.execute("VACUUM ANALYZE holdfast_graph_nodes, holdfast_graph_edges, holdfast_graph_history")
    bound: dict[str, Any] = {"tenant": "default", "scope": "LOCAL"}
    found: dict[str, Any] = dict.fromkeys(("type", "since", "until", "after_time", "after_id", "where"))
    walk = {"id": "n1", "depth": 3, "relationships": None, "after_depth": 0, "after_id": "n1", "limit": 100}
    expected = {
        "find_graph_nodes": ({**found, "limit": 20}, {"holdfast_graph_nodes_time"}),
        "find_graph_nodes typed": ({**found, "type": "T1", "limit": 20}, {"holdfast_graph_nodes_type"}),
        "search_graph_nodes": (
            {"type": None, "words": ["word7"], "query": "word7", "limit": 20},
            {"holdfast_graph_nodes_search", "holdfast_graph_nodes_pkey", "holdfast_graph_nodes"},
        ),
        "list_graph_neighbours_out": (walk, {"holdfast_graph_edges_pkey", "holdfast_graph_nodes_pkey"}),
        "list_graph_neighbours_in": (walk, {"holdfast_graph_edges_target", "holdfast_graph_nodes_pkey"}),
        "list_graph_neighbours_both": (
            walk,
            {"holdfast_graph_edges_pkey", "holdfast_graph_edges_target", "holdfast_graph_nodes_pkey"},
        ),
    }
    for name, (values, indexes) in expected.items():
        sql = getattr(load_queries("sessions", "postgresql"), name.partition(" ")[0])
        given = {**bound, **values}
        names = compile_statement(sql, "postgresql").names
        row = database.fetch_one(
            f"EXPLAIN (FORMAT JSON, ANALYZE) {sql}", {name: given[name] for name in names}, prepare=False
        )
        assert row is not None
        used = set(scans(row["QUERY PLAN"][0]["Plan"]))
        assert {index for _, index in used} <= indexes, name
        assert not [each for each in used if each[0] == "Seq Scan"], name
        assert used, name


def test_a_walk_checks_its_options_before_anything_is_asked(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", "sqlite://")
    graph = MemoryGraph(manager, "main")
    before = manager.stats()["main"].requests
    for call in (
        partial(graph.neighbours, "", depth=2),
        partial(graph.neighbours, "a", limit=10_001),
        partial(graph.shortest_path, "a", "", max_depth=2),
        partial(graph.shortest_path, "a", "b", max_depth=33),
        partial(graph.shortest_path, "a", "b", direction=None),  # type: ignore[arg-type]
    ):
        assert isinstance(outcome(call), ValidationError), call
    assert manager.stats()["main"].requests == before

"""A memory graph as a networkx graph and back: whole, and with networkx's own algorithms on it."""

from __future__ import annotations

from collections.abc import Iterator

import networkx
import pytest

from persistence import DatabaseManager, ValidationError
from sessions import Edge, MemoryGraph, Node
from sessions.networkx_graph import export_networkx, from_networkx


@pytest.fixture
def memory() -> Iterator[MemoryGraph]:
    with DatabaseManager() as manager:
        manager.add_sqlite("main", "sqlite://")
        yield MemoryGraph(manager, "main")


def test_a_graph_goes_to_networkx_and_back_whole(memory: MemoryGraph) -> None:
    memory.add_nodes([Node("a", "USER", {"type": "inner", "\0": [1]}), Node("b", "CONCEPT"), Node("c", "CONCEPT")])
    memory.add_edges(
        [
            Edge("a", "r", "b", weight=5.0, attributes={"weight": "inner", "key": None}),
            Edge("a", "s", "b"),
            Edge("b", "r", "c", weight=0.5),
            Edge("c", "r", "c"),
        ]
    )
    lines = list(memory.export_graph())
    graph = export_networkx(lines)
    assert graph.nodes["a"] == {"type": "USER", "attributes": {"type": "inner", "\0": [1]}}
    assert graph.edges["a", "b", "r"] == {"weight": 5.0, "attributes": {"weight": "inner", "key": None}}
    assert list(from_networkx(graph)) == lines
    ours = memory.shortest_path("a", "c", weighted=True)
    assert ours is not None
    assert list(ours.nodes) == networkx.dijkstra_path(graph, "a", "c")
    assert ours.weight == networkx.dijkstra_path_length(graph, "a", "c")


def test_any_networkx_graph_is_taken_over(memory: MemoryGraph) -> None:
    graph = networkx.relabel_nodes(networkx.karate_club_graph(), str)
    assert memory.import_graph(from_networkx(graph, node_type="MEMBER", relationship="meets")) == (34, 78)
    assert memory.count(type="MEMBER") == 34
    member = memory.get_node("0")
    assert member is not None
    assert member.attributes == {"club": "Mr. Hi"}
    reached = {each.node.id: each.depth for each in memory.neighbours("0", depth=3, direction="both")}
    assert {"0": 0, **reached} == networkx.single_source_shortest_path_length(graph, "0", cutoff=3)


def test_what_has_no_place_in_a_memory_graph_is_refused() -> None:
    twice = networkx.MultiDiGraph()
    twice.add_edge("a", "b")
    twice.add_edge("a", "b")
    for graph, told in ((networkx.path_graph(2), "int, not a str"), (twice, "two edges")):
        with pytest.raises(ValidationError, match=told):
            list(from_networkx(graph))
    for lines in ([], ["{}"]):
        with pytest.raises(ValidationError, match="line 1"):
            export_networkx(lines)

# Generated from ../_async/test_graph_recall.py by tests/unasync.py: edit that one.
"""Recall by meaning: embeddings beside their nodes, ranked the same on both databases, and gone with their nodes."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import pytest

from persistence import Database, DatabaseManager, ForeignKeyError, PostgreSQLConfig, ValidationError
from sessions import MemoryGraph, Edge, Node, NotPermittedError, ScopePolicy
from tests._sync.graphs import outcome, second_connection

pytestmark = pytest.mark.tables("sessions")


@pytest.fixture
def graph(manager: DatabaseManager, database: Database) -> MemoryGraph:
    """The nodes ``east``, ``north`` and ``between``, and ``far`` of another type, each with its embedding."""
    made = MemoryGraph(manager, "main")
    made.add_nodes([Node(name, "CONCEPT") for name in ("east", "north", "between")] + [Node("far", "USER")])
    made.set_embeddings(
        {"east": [2, 0, 0], "north": [0, 1, 0], "between": [1, 1, 0], "far": np.array([-1.0, 0.0, 0.0])}
    )
    return made


def recalled(graph: MemoryGraph, embedding: list[float], **options: str | int) -> list[tuple[str, float]]:
    found = graph.recall(embedding, **options)  # type: ignore[arg-type]
    return [(each.node.id, round(each.score, 5)) for each in found]


def test_nodes_are_recalled_by_direction(
    graph: MemoryGraph, manager: DatabaseManager, database: Database
) -> None:
    elsewhere = MemoryGraph(manager, second_connection(manager, database))
    everything = [("east", 1.0), ("between", 0.70711), ("north", 0.0), ("far", -1.0)]
    assert recalled(elsewhere, [5, 0, 0]) == everything
    assert recalled(elsewhere, [5, 0, 0], limit=2) == everything[:2]
    assert recalled(elsewhere, [5, 0, 0], type="USER") == everything[3:]
    assert recalled(elsewhere, [0, 0, 0]) == []
    assert recalled(elsewhere.in_scope("COMMUNITY"), [5, 0, 0]) == []
    assert (elsewhere.recall([5, 0, 0]))[0].node == graph.get_node("east")
    graph.set_embeddings({"north": [3, 0, 0]})
    graph.patch("between", {"text": "its embedding stays"})
    graph.delete_node("east")
    assert recalled(elsewhere, [5, 0, 0]) == [("north", 1.0), ("between", 0.70711), ("far", -1.0)]
    stored = database.fetch_value("SELECT count(*) FROM holdfast_graph_vectors")
    assert stored == 3


def test_an_embedding_of_another_length_is_refused_with_both_lengths(graph: MemoryGraph) -> None:
    for options in ({}, {"type": "USER"}):
        with pytest.raises(ValidationError, match="has 2 numbers, those of the scope LOCAL have 3") as raised:
            recalled(graph, [5, 0], **options)
        assert (raised.value.connection, raised.value.operation) == ("main", "recall")
    assert recalled(graph, [5, 0], type="NOBODY") == []
    graph.set_embeddings({"north": [1, 2]})  # of another model
    assert recalled(graph, [1, 2]) == [("north", 1.0)]
    assert [name for name, _ in recalled(graph, [5, 0, 0])] == ["east", "between", "far"]
    with pytest.raises(ValidationError, match="has 4 numbers, those of the scope LOCAL have 2 or 3"):
        recalled(graph, [1, 2, 3, 4])


def test_a_score_is_a_cosine_and_never_beyond_one(graph: MemoryGraph) -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 24)).astype(np.float32)
    graph.add_nodes([Node(f"{n:02}", "CONCEPT") for n in range(60)])
    graph.set_embeddings({f"{n:02}": vector for n, vector in enumerate(vectors)})
    for n, vector in enumerate(vectors):
        for sign in (1, -1):
            found = {each.node.id: each.score for each in graph.recall((sign * vector).tolist(), limit=60)}
            assert all(-1 <= score <= 1 for score in found.values())
            assert found[f"{n:02}"] == pytest.approx(sign, abs=1e-6)


def test_an_embedding_needs_its_node_and_finite_numbers(graph: MemoryGraph) -> None:
    with pytest.raises(ForeignKeyError, match="no node 'nobody' in the scope LOCAL"):
        graph.set_embeddings({"north": [9, 9, 9], "nobody": [1, 0, 0]})
    for wrong in (
        {},
        [],
        {"north": []},
        {"north": "text"},
        {"north": [float("nan")]},
        {"north": [1e39]},
        {"north": ["1"]},
        {"": [1]},
    ):
        assert isinstance(outcome(partial(graph.set_embeddings, wrong)), ValidationError), wrong
    for vector in ([], [[1, 0, 0]], None, ["a"], ["1", "0", "0"], [True], [1, "0"], [float("inf")], [0.0] * 16_001):
        assert isinstance(outcome(partial(graph.recall, vector)), ValidationError)
    assert (recalled(graph, [0, 1, 0]))[0] == ("north", 1.0)


def test_the_longest_names_fit_into_every_index(manager: DatabaseManager, database: Database) -> None:
    rng = random.Random(5)

    def name(size: int) -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))

    graph = MemoryGraph(manager, "main", tenant=name(512)).in_scope(name(64)).for_actor(name(1024))
    source, target, relationship = name(768), name(768), name(256)
    graph.add_nodes([Node(source, name(256)), Node(target, name(256))], approved_by=name(1024))
    graph.add_edge(Edge(source, relationship, target), approved_by=name(1024))
    graph.set_embeddings({source: [1.0]})
    assert [each.node.id for each in graph.neighbours(source)] == [target]
    assert len(graph.approvals()) == 3


def test_an_embedding_takes_a_writer_and_a_recall_a_reader(manager: DatabaseManager) -> None:
    manager.add_sqlite("main", "sqlite://")
    policies = {"IDENTITY": ScopePolicy(needs_approval=True, readers=["agent"], writers=["agent"])}  # type: ignore[arg-type]
    graph = MemoryGraph(manager, "main", policies=policies).in_scope("IDENTITY")
    graph.for_actor("agent").add_node(Node("self", "AGENT"), approved_by="wise")
    graph.for_actor("agent").set_embeddings({"self": [1, 0]})
    assert len(graph.for_actor("agent").recall([1, 0])) == 1
    for call in (partial(graph.set_embeddings, {"self": [0, 1]}), partial(graph.recall, [1, 0])):
        assert isinstance(outcome(call), NotPermittedError)


def test_pgvector_is_created_by_the_first_embedding(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    server = manager.add_postgresql("bare", postgresql_config)
    server.execute("DROP EXTENSION vector")
    server.capabilities(refresh=True)
    told = MemoryGraph(manager, "bare", migrate=False)
    told.add_node(Node("east", "CONCEPT"))
    for call in (partial(told.set_embeddings, {"east": [1, 0]}), partial(told.recall, [1, 0])):
        assert "CREATE EXTENSION vector" in str(outcome(call))
    assert server.fetch_value("SELECT count(*) FROM holdfast_graph_vectors") == 0
    graph = MemoryGraph(manager, "bare")
    graph.set_embeddings({"east": [1, 0]})
    assert recalled(graph, [1, 0]) == [("east", 1.0)]

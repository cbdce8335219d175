"""Recall by meaning: embeddings beside their nodes, ranked the same on both databases, and gone with their nodes."""

from __future__ import annotations

import random
from functools import partial

import numpy as np
import pytest
import pytest_asyncio

from persistence import AsyncDatabase, AsyncDatabaseManager, ForeignKeyError, PostgreSQLConfig, ValidationError
from sessions import AsyncMemoryGraph, Edge, Node, NotPermittedError, ScopePolicy
from tests._async.graphs import outcome, second_connection

pytestmark = pytest.mark.tables("sessions")


@pytest_asyncio.fixture
async def graph(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncMemoryGraph:
    """The nodes ``east``, ``north`` and ``between``, and ``far`` of another type, each with its embedding."""
    made = AsyncMemoryGraph(manager, "main")
    await made.add_nodes([Node(name, "CONCEPT") for name in ("east", "north", "between")] + [Node("far", "USER")])
    await made.set_embeddings(
        {"east": [2, 0, 0], "north": [0, 1, 0], "between": [1, 1, 0], "far": np.array([-1.0, 0.0, 0.0])}
    )
    return made


async def recalled(graph: AsyncMemoryGraph, embedding: list[float], **options: str | int) -> list[tuple[str, float]]:
    found = await graph.recall(embedding, **options)  # type: ignore[arg-type]
    return [(each.node.id, round(each.score, 5)) for each in found]


async def test_nodes_are_recalled_by_direction(
    graph: AsyncMemoryGraph, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    elsewhere = AsyncMemoryGraph(manager, await second_connection(manager, database))
    everything = [("east", 1.0), ("between", 0.70711), ("north", 0.0), ("far", -1.0)]
    assert await recalled(elsewhere, [5, 0, 0]) == everything
    assert await recalled(elsewhere, [5, 0, 0], limit=2) == everything[:2]
    assert await recalled(elsewhere, [5, 0, 0], type="USER") == everything[3:]
    assert await recalled(elsewhere, [0, 0, 0]) == []
    assert await recalled(elsewhere.in_scope("COMMUNITY"), [5, 0, 0]) == []
    assert (await elsewhere.recall([5, 0, 0]))[0].node == await graph.get_node("east")
    await graph.set_embeddings({"north": [3, 0, 0]})
    await graph.patch("between", {"text": "its embedding stays"})
    await graph.delete_node("east")
    assert await recalled(elsewhere, [5, 0, 0]) == [("north", 1.0), ("between", 0.70711), ("far", -1.0)]
    stored = await database.fetch_value("SELECT count(*) FROM holdfast_graph_vectors")
    assert stored == 3


async def test_an_embedding_of_another_length_is_refused_with_both_lengths(graph: AsyncMemoryGraph) -> None:
    for options in ({}, {"type": "USER"}):
        with pytest.raises(ValidationError, match="has 2 numbers, those of the scope LOCAL have 3") as raised:
            await recalled(graph, [5, 0], **options)
        assert (raised.value.connection, raised.value.operation) == ("main", "recall")
    assert await recalled(graph, [5, 0], type="NOBODY") == []
    await graph.set_embeddings({"north": [1, 2]})  # of another model
    assert await recalled(graph, [1, 2]) == [("north", 1.0)]
    assert [name for name, _ in await recalled(graph, [5, 0, 0])] == ["east", "between", "far"]
    with pytest.raises(ValidationError, match="has 4 numbers, those of the scope LOCAL have 2 or 3"):
        await recalled(graph, [1, 2, 3, 4])


async def test_a_score_is_a_cosine_and_never_beyond_one(graph: AsyncMemoryGraph) -> None:
    vectors = np.random.default_rng(5).normal(size=(60, 24)).astype(np.float32)
    await graph.add_nodes([Node(f"{n:02}", "CONCEPT") for n in range(60)])
    await graph.set_embeddings({f"{n:02}": vector for n, vector in enumerate(vectors)})
    for n, vector in enumerate(vectors):
        for sign in (1, -1):
            found = {each.node.id: each.score for each in await graph.recall((sign * vector).tolist(), limit=60)}
            assert all(-1 <= score <= 1 for score in found.values())
            assert found[f"{n:02}"] == pytest.approx(sign, abs=1e-6)


async def test_an_embedding_needs_its_node_and_finite_numbers(graph: AsyncMemoryGraph) -> None:
    with pytest.raises(ForeignKeyError, match="no node 'nobody' in the scope LOCAL"):
        await graph.set_embeddings({"north": [9, 9, 9], "nobody": [1, 0, 0]})
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
        assert isinstance(await outcome(partial(graph.set_embeddings, wrong)), ValidationError), wrong
    for vector in ([], [[1, 0, 0]], None, ["a"], ["1", "0", "0"], [True], [1, "0"], [float("inf")], [0.0] * 16_001):
        assert isinstance(await outcome(partial(graph.recall, vector)), ValidationError)
    assert (await recalled(graph, [0, 1, 0]))[0] == ("north", 1.0)


async def test_the_longest_names_fit_into_every_index(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    rng = random.Random(5)

    def name(size: int) -> str:
        return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=size))

    graph = AsyncMemoryGraph(manager, "main", tenant=name(512)).in_scope(name(64)).for_actor(name(1024))
    source, target, relationship = name(768), name(768), name(256)
    await graph.add_nodes([Node(source, name(256)), Node(target, name(256))], approved_by=name(1024))
    await graph.add_edge(Edge(source, relationship, target), approved_by=name(1024))
    await graph.set_embeddings({source: [1.0]})
    assert [each.node.id for each in await graph.neighbours(source)] == [target]
    assert len(await graph.approvals()) == 3


async def test_an_embedding_takes_a_writer_and_a_recall_a_reader(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", "sqlite://")
    policies = {"IDENTITY": ScopePolicy(needs_approval=True, readers=["agent"], writers=["agent"])}  # type: ignore[arg-type]
    graph = AsyncMemoryGraph(manager, "main", policies=policies).in_scope("IDENTITY")
    await graph.for_actor("agent").add_node(Node("self", "AGENT"), approved_by="wise")
    await graph.for_actor("agent").set_embeddings({"self": [1, 0]})
    assert len(await graph.for_actor("agent").recall([1, 0])) == 1
    for call in (partial(graph.set_embeddings, {"self": [0, 1]}), partial(graph.recall, [1, 0])):
        assert isinstance(await outcome(call), NotPermittedError)


async def test_pgvector_is_created_by_the_first_embedding(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    server = await manager.add_postgresql("bare", postgresql_config)
    await server.execute("DROP EXTENSION vector")
    await server.capabilities(refresh=True)
    told = AsyncMemoryGraph(manager, "bare", migrate=False)
    await told.add_node(Node("east", "CONCEPT"))
    for call in (partial(told.set_embeddings, {"east": [1, 0]}), partial(told.recall, [1, 0])):
        assert "CREATE EXTENSION vector" in str(await outcome(call))
    assert await server.fetch_value("SELECT count(*) FROM holdfast_graph_vectors") == 0
    graph = AsyncMemoryGraph(manager, "bare")
    await graph.set_embeddings({"east": [1, 0]})
    assert await recalled(graph, [1, 0]) == [("east", 1.0)]

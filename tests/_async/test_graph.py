"""The contract of the memory graph: its nodes and edges, merged without loss, found, and deleted together."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    ConflictError,
    EmbeddedPostgreSQL,
    ForeignKeyError,
    MigrationError,
    NotFoundError,
    PostgreSQLConfig,
    RedisConfig,
    UnavailableError,
    ValidationError,
    WrongKindError,
)
from persistence._async.compat import Parallel
from persistence._sync.manager import DatabaseManager as BlockingManager
from sessions import AsyncMemoryGraph, Deleted, Edge, Node
from sessions._sync.graph import MemoryGraph as BlockingGraph
from tests._async.graphs import connect, outcome, second_connection

pytestmark = pytest.mark.tables("sessions")

WHOLE = {
    "text": "naïve 🚀 'quoted' \"double\" \\ /",
    "nul \0 and \ud800": "\0\udfff\x1a0000 \\u001a",
    "\x1aid": [None, True, False, 0, -(2**63), 2**63 - 1, 1.0, 1e16, 0.1, {"": {}, "a": []}],
}
HARD_NAMES = ["? %s :id $1", "'; DROP TABLE holdfast_graph_nodes; --", "a\x1fb", "näme", "config", "x" * 768]


@pytest_asyncio.fixture
async def graph(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncMemoryGraph:
    return AsyncMemoryGraph(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncMemoryGraph:
    """The same graph through a second connection."""
    return AsyncMemoryGraph(manager, await second_connection(manager, database))


@pytest_asyncio.fixture
async def parallel() -> AsyncIterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


def ids(nodes: list[Node]) -> list[str]:
    return [node.id for node in nodes]


def names(edges: list[Edge]) -> list[str]:
    return [f"{edge.source}-{edge.relationship}-{edge.target}" for edge in edges]


async def test_a_node_comes_back_as_it_was_written(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    stored = await graph.for_actor("planner").add_node(Node("ada", "USER", WHOLE))
    assert (stored.id, stored.type, stored.scope, stored.version) == ("ada", "USER", "LOCAL", 1)
    assert (stored.created_by, stored.updated_by, stored.approval) == ("planner", "planner", None)
    assert stored.attributes == WHOLE
    assert [type(value) for value in stored.attributes["\x1aid"][3:9]] == [int, int, int, float, float, float]
    assert before < stored.created_at == stored.updated_at < datetime.now(UTC) + timedelta(seconds=5)
    assert await elsewhere.get_node("ada") == stored
    assert await elsewhere.get_node("bob") is None


async def test_new_attributes_win_and_the_others_stay(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    first = await graph.for_actor("a").add_node(Node("ada", "USER", {**WHOLE, "old": {"x": 1, "y": 2}}))
    second = await graph.for_actor("b").add_node(Node("ada", "AGENT", {"old": {"x": 3}, "new": None}))
    assert second.attributes == {**WHOLE, "old": {"x": 3}, "new": None}
    assert (second.type, second.version, second.created_by, second.updated_by) == ("AGENT", 2, "a", "b")
    assert (second.created_at, second.updated_at >= first.updated_at) == (first.created_at, True)
    third = await graph.add_node(Node("ada", "AGENT", {"only": 1}), replace=True)
    assert (third.attributes, third.version, third.updated_by) == ({"only": 1}, 3, None)
    assert await elsewhere.get_node("ada") == third


async def test_concurrent_merges_lose_no_attribute(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, parallel: Parallel
) -> None:
    """FEATURES 2.3, 9: a read, a merge in Python and an UPDATE lose what others wrote in between."""
    calls = [
        partial((graph, elsewhere)[number % 2].add_node, Node("ada", "USER", {f"k{number}": number}))
        for number in range(20)
    ]
    versions = [node.version for node in await parallel.run(calls)]
    stored = await elsewhere.get_node("ada")
    assert stored is not None
    assert stored.attributes == {f"k{number}": number for number in range(20)}
    assert sorted(versions) == list(range(1, 21))


async def test_a_version_is_written_over_once(graph: AsyncMemoryGraph, parallel: Parallel) -> None:
    await graph.add_node(Node("ada", "USER"))
    calls = [
        partial(outcome, partial(graph.add_node, Node("ada", "USER", {"by": n}), expected_version=1)) for n in range(8)
    ]
    found = await parallel.run(calls)
    assert len([each for each in found if isinstance(each, ConflictError)]) == 7
    with pytest.raises(ConflictError, match=r"node 'ada' has version 2, not 1") as caught:
        await graph.patch("ada", {"a": 1}, expected_version=1)
    assert (caught.value.expected, caught.value.actual, caught.value.connection) == (1, 2, "main")
    with pytest.raises(ConflictError):
        await graph.add_node(Node("ada", "USER"), expected_version=0)
    for version in (0, 1):
        with pytest.raises(ConflictError):
            await graph.delete_node("ada", expected_version=version)
    assert await graph.delete_node("bob", expected_version=1) == Deleted(0, 0)
    for missing in (
        partial(graph.add_node, Node("bob", "USER"), expected_version=3),
        partial(graph.patch, "bob", {"a": 1}),
    ):
        with pytest.raises(NotFoundError, match="no node 'bob' in the scope LOCAL"):
            await missing()
    assert (await graph.add_node(Node("bob", "USER"), expected_version=0)).version == 1
    assert (await graph.add_node(Node("ada", "USER"), expected_version=2)).version == 3


async def test_a_patch_sets_replaces_and_removes(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    await graph.add_node(Node("ada", "USER", {**WHOLE, "a": 1, "b": {"c": 1}}))
    changes: dict[str, Any] = dict.fromkeys(WHOLE) | {"a": None, "b": {"d": None}, "new \0": "\0", "gone": None}
    stored = await graph.patch("ada", changes)
    assert stored.attributes == {"b": {"d": None}, "new \0": "\0"}
    assert (stored.version, stored.type) == (2, "USER")
    assert await elsewhere.get_node("ada") == stored
    assert (await graph.patch("ada", {})).attributes == stored.attributes
    with pytest.raises(NotFoundError):
        await graph.patch("bob", {"a": 1})


async def test_many_nodes_are_one_round_trip_and_all_or_none(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, manager: AsyncDatabaseManager
) -> None:
    await graph.add_node(Node("n3", "OLD", {"kept": True}))
    nodes = [Node(f"n{number}", "CONCEPT", {"number": number}) for number in (5, 3, 9, 1)]
    before = manager.stats()["main"].requests
    stored = await graph.add_nodes(nodes)
    found = await graph.get_nodes(["n9", "n3", "none", "n9"])
    assert manager.stats()["main"].requests - before == 2
    assert [(node.id, node.version) for node in stored] == [("n5", 1), ("n3", 2), ("n9", 1), ("n1", 1)]
    assert [(node.id, node.attributes) for node in found] == [
        ("n9", {"number": 9}),
        ("n3", {"number": 3, "kept": True}),
    ]
    assert await elsewhere.get_nodes([]) == []
    for wrong in ([Node("x", "T"), Node("y", "T", {"nan": float("nan")})], [Node("x", "T"), Node("x", "T")], [], "x"):
        with pytest.raises(ValidationError):
            await graph.add_nodes(wrong)  # type: ignore[arg-type]
    assert await elsewhere.count() == 4


async def test_names_with_sql_in_them_are_only_names(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    """FEATURES 2.3, 3 and 4: markers replaced in SQL as text broke on such names, and no edge could be written."""
    await graph.add_nodes([Node(name, "T", {name: name}) for name in HARD_NAMES])
    for name in HARD_NAMES:
        await graph.add_edge(Edge(HARD_NAMES[0], name[:256], name, attributes={name: name}))
        assert ids(await elsewhere.find(where={name: name})) == [name]
        assert names(await elsewhere.edges(name, direction="in")) == [f"{HARD_NAMES[0]}-{name[:256]}-{name}"]
    assert sorted(each.node.id for each in await elsewhere.neighbours(HARD_NAMES[0])) == sorted(HARD_NAMES[1:])


async def test_an_edge_is_written_merged_and_read(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    await graph.add_nodes([Node("ada", "USER"), Node("bob", "USER")])
    first = await graph.for_actor("a").add_edge(Edge("ada", "knows", "bob", weight=0.5, attributes=WHOLE))
    assert (first.weight, first.attributes, first.version, first.scope) == (0.5, WHOLE, 1, "LOCAL")
    assert await elsewhere.get_edge("ada", "knows", "bob") == first
    second = await graph.for_actor("b").add_edge(Edge("ada", "knows", "bob", attributes={"since": 2020}))
    assert (second.weight, second.attributes) == (1.0, {**WHOLE, "since": 2020})
    assert (second.version, second.created_by, second.updated_by) == (2, "a", "b")
    assert (await graph.add_edge(Edge("ada", "knows", "bob"), replace=True)).attributes == {}
    with pytest.raises(ConflictError, match=r"edge 'ada -knows-> bob' has version 3, not 1"):
        await graph.add_edge(Edge("ada", "knows", "bob"), expected_version=1)
    with pytest.raises(NotFoundError, match="bob -knows-> ada"):
        await graph.add_edge(Edge("bob", "knows", "ada"), expected_version=1)
    assert await graph.delete_edge("ada", "knows", "bob") is True
    assert await graph.delete_edge("ada", "knows", "bob") is False
    assert await elsewhere.get_edge("ada", "knows", "bob") is None


async def test_an_edge_needs_its_nodes_and_says_which_is_missing(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    await graph.add_node(Node("ada", "USER"))
    await graph.in_scope("COMMUNITY").add_node(Node("bob", "USER"))
    async with database.transaction():
        for edges in ([Edge("ada", "knows", "bob")], [Edge("ada", "is", "ada"), Edge("zoe", "knows", "bob")]):
            with pytest.raises(ForeignKeyError, match=r"no node 'bob' for the edge in the scope LOCAL"):
                await graph.add_edges(edges)
        await graph.add_edge(Edge("ada", "likes", "ada"))
    assert names(await elsewhere.edges("ada")) == ["ada-likes-ada"]


async def test_edges_whose_node_comes_after_they_looked_for_it_are_written(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    await manager.add_postgresql("main", postgresql_config)
    graph = AsyncMemoryGraph(manager, "main")
    await graph.add_node(Node("a", "NOTE"))
    with BlockingManager() as beside:
        beside.add_postgresql("main", postgresql_config)
        other = BlockingGraph(beside, "main")
        for number, write in enumerate((graph.add_edge, lambda edge: graph.add_edges([edge]))):
            missing = Node(f"late {number}", "NOTE")

            def add(_: object, node: Node = missing) -> None:
                manager.on_statement.clear()
                other.add_node(node)

            manager.on_statement.append(add)
            await write(Edge("a", "knows", missing.id))
            assert [edge.target for edge in await graph.edges("a")][number:] == [missing.id]


async def test_edges_are_listed_by_direction_and_relationship_in_pages(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    await connect(graph, "a-r1-b", "a-r1-c", "a-r2-b", "a-r1-a", "b-r1-a", "c-r2-a", "c-r1-b")
    out = ["a-r1-a", "a-r1-b", "a-r1-c", "a-r2-b"]
    assert names(await elsewhere.edges("a")) == out
    assert names(await elsewhere.edges("a", direction="in")) == ["a-r1-a", "b-r1-a", "c-r2-a"]
    everything = [*out, "b-r1-a", "c-r2-a"]
    assert names(await elsewhere.edges("a", direction="both")) == everything
    assert names(await elsewhere.edges("a", relationship="r2", direction="both")) == ["a-r2-b", "c-r2-a"]
    assert names(await elsewhere.edges("a", relationship=["r1", "r2"])) == out
    for size in (1, 2, 4):
        paged: list[Edge] = []
        while page := await elsewhere.edges(
            "a", direction="both", limit=size, after=paged[-1].cursor if paged else None
        ):
            assert len(page) <= size
            paged += page
        assert names(paged) == everything
    assert await elsewhere.edges("nobody") == []
    other = (await elsewhere.edges("c"))[0]
    for after in ("x", other.cursor, 3):
        with pytest.raises(ValidationError, match="cursor"):
            await elsewhere.edges("a", after=after)  # type: ignore[arg-type]


async def test_a_deleted_node_takes_its_edges_along_and_says_how_many(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    await connect(graph, "a-r-b", "b-r-a", "a-r-a", "b-r-c")
    gone = await graph.delete_node("a", expected_version=1)
    assert gone == Deleted(nodes=1, edges=3)
    again = await graph.delete_node("a")
    assert (again, bool(gone), bool(again)) == (Deleted(0, 0), True, False)
    assert names(await elsewhere.edges("b", direction="both")) == ["b-r-c"]
    assert (await elsewhere.count(), await elsewhere.count_edges()) == (2, 1)
    assert (await graph.add_node(Node("a", "CONCEPT"))).version == 3  # 2 was the deletion
    assert (await graph.delete_node("a", forget_history=True)).nodes == 1
    assert (await graph.add_node(Node("a", "CONCEPT"))).version == 1


async def test_the_history_of_a_node_that_was_deleted_before_is_forgotten(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    await connect(graph, "a-r-b")
    await graph.delete_node("a")
    assert not await graph.delete_node("a", expected_version=1, forget_history=True)
    assert [change.version for change in await elsewhere.history("a")] == [2, 1]
    assert await graph.delete_node("a", forget_history=True) == Deleted(0, 0)
    assert await elsewhere.history("a") == []
    assert [change.version for change in await elsewhere.history("b")] == [1]
    with pytest.raises(ConflictError):
        await graph.delete_node("b", expected_version=7, forget_history=True)
    assert [change.version for change in await elsewhere.history("b")] == [1]


async def test_nodes_are_found_by_type_time_and_attributes_newest_first(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    stored = [
        await graph.add_node(
            Node(f"n{number}", "EVEN" if number % 2 == 0 else "ODD", {"n": number, "third": number % 3})
        )
        for number in range(6)
    ]
    assert ids(await elsewhere.find()) == ["n5", "n4", "n3", "n2", "n1", "n0"]
    assert ids(await elsewhere.find(type="EVEN")) == ["n4", "n2", "n0"]
    assert ids(await elsewhere.find(where={"third": 0.0})) == ["n3", "n0"]
    assert ids(await elsewhere.find(type="ODD", where={"third": 0, "n": 3})) == ["n3"]
    assert ids(await elsewhere.find(since=stored[1].updated_at, until=stored[3].updated_at)) == ["n2", "n1"]
    await graph.patch("n0", {"n": None})
    assert ids(await elsewhere.find(type="EVEN")) == ["n0", "n4", "n2"]
    first = await elsewhere.find(limit=4)
    assert ids([*first, *await elsewhere.find(limit=4, after=first[-1].cursor)]) == ["n0", "n5", "n4", "n3", "n2", "n1"]
    assert await elsewhere.find(type="NONE") == []
    for wrong in ({}, {"a": [1]}, {"a": float("nan")}, "a"):
        with pytest.raises(ValidationError):
            await elsewhere.find(where=wrong)  # type: ignore[arg-type]


async def test_a_search_finds_any_word_and_ranks_by_how_many(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    await graph.add_nodes(
        [
            Node(
                "bridge-1",
                "CONCEPT",
                {"text": "The LONGEST bridge, Straße 7", "tags": ["steel", {"deep": "cable_stayed"}]},
            ),
            Node("bridge-2", "CONCEPT", {"text": "the highest bridge"}),
            Node("ada", "USER", {"name": "Ada\0Love", "bridge": 1}),
        ]
    )

    async def found(query: str, **options: Any) -> list[tuple[str, float]]:
        return [(each.node.id, each.score) for each in await elsewhere.search(query, **options)]

    assert await found("highest steel bridge") == [("bridge-2", 2 / 3), ("bridge-1", 2 / 3)]
    assert await found("longest STRASSE cable_stayed") == [("bridge-1", 1.0)]
    assert await found("love") == [("ada", 1.0)]  # keys are no words, texts around a NUL are
    assert await found("bridge", type="USER") == []
    assert await found("the ada", limit=1) == [("bridge-2", 0.5)]
    await graph.patch("bridge-1", {"tags": None, "text": "short"})
    assert await found("longest steel short") == [("bridge-1", 1 / 3)]
    await graph.add_node(Node("bridge-1", "CONCEPT", {"tags": "wood"}))
    assert await found("wood short") == [("bridge-1", 1.0)]
    await graph.delete_node("bridge-1")
    assert await found("wood short") == []
    for wrong in ("", "?!", " ".join(f"w{n}" for n in range(33)), None):
        with pytest.raises(ValidationError):
            await elsewhere.search(wrong)  # type: ignore[arg-type]


async def test_scopes_and_tenants_see_nothing_of_each_other(
    graph: AsyncMemoryGraph, manager: AsyncDatabaseManager
) -> None:
    others = [graph.in_scope("COMMUNITY"), graph.in_scope("user:ada"), AsyncMemoryGraph(manager, "main", tenant="t2")]
    for other in (graph, *others):
        await connect(other, "a-r-b")
        await other.add_node(Node("b", "CONCEPT", {"in": other.scope, "word": "same"}))
    await graph.delete_node("a")
    await graph.patch("b", {"word": "other"})
    for other in others:
        assert [(node.id, node.scope, node.attributes.get("in")) for node in await other.find()] == [
            ("b", other.scope, other.scope),
            ("a", other.scope, None),
        ]
        assert names(await other.edges("b", direction="both")) == ["a-r-b"]
        assert [each.node.id for each in await other.search("same")] == ["b"]
        assert [change.version for change in await other.history("b")] == [2, 1]
    assert await graph.search("same") == []
    with pytest.raises(ValidationError, match="'COMMUNITY', the graph is bound to 'LOCAL'"):
        await graph.add_node(Node("x", "T", scope="COMMUNITY"))


async def test_nodes_that_nobody_writes_are_forgotten(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    await connect(graph, "a-r-b", "b-r-c", "c-r-d")
    await graph.add_node(Node("t", "TSDB_DATA"))
    day = datetime.now(UTC) - timedelta(days=1)
    for name in ("a", "b", "t"):
        await database.execute(
            "UPDATE holdfast_graph_nodes SET updated_at = :day WHERE id = :id", {"day": day, "id": name}
        )
    hour = timedelta(hours=1)
    assert await graph.forget(older_than=hour, type="TSDB_DATA") == Deleted(1, 0)
    assert await graph.forget(older_than=hour, limit=1) == Deleted(1, 1)
    assert await graph.forget(older_than=hour) == Deleted(1, 1)
    assert await graph.forget(older_than=hour) == Deleted(0, 0)
    assert sorted(ids(await elsewhere.find())) == ["c", "d"]
    assert await elsewhere.history("a") == []
    for wrong in (0, -1, float("nan"), "1"):
        with pytest.raises(ValidationError):
            await graph.forget(older_than=wrong)  # type: ignore[arg-type]


async def test_a_graph_joins_the_transaction_that_it_is_in(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    await graph.count()
    with pytest.raises(RuntimeError, match="undo"):
        async with database.transaction():
            await connect(graph, "a-r-b")
            assert await graph.count() == 2
            raise RuntimeError("undo")
    assert (await elsewhere.count(), await elsewhere.history("a")) == (0, [])
    async with database.transaction():
        with pytest.raises(NotFoundError):
            await graph.patch("a", {"x": 1})
        await graph.add_node(Node("a", "CONCEPT"))
        assert (await graph.delete_node("a")).nodes == 1
    assert [change.deleted for change in await elsewhere.history("a")] == [True, False]


UNSTORABLE: list[Any] = [
    Node("", "T"),
    Node("x" * 10_000, "T"),
    Node("a\0b", "T"),
    Node("\ud800", "T"),
    Node("a", ""),
    Node("a", "T" * 257),
    Node("a", "T", {"a": float("inf")}),
    Node("a", "T", {"a": 2**63}),
    Node("a", "T", {"a": (1,)}),
    Node("a", "T", {"a": datetime.now(UTC)}),
    Node("a", "T", {1: 2}),  # type: ignore[dict-item]
    Node("a", "T", []),  # type: ignore[arg-type]
    Node(7, "T"),  # type: ignore[arg-type]
    Node("config/key", "T"),
    {"id": "a", "type": "T"},
]


async def test_what_cannot_be_stored_is_refused_before_anything_is_asked(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", "sqlite://")
    graph = AsyncMemoryGraph(manager, "main")
    before = manager.stats()["main"].requests
    for node in UNSTORABLE:
        assert isinstance(await outcome(partial(graph.add_node, node)), ValidationError), node
    assert manager.stats()["main"].requests == before


async def test_wrong_options_are_refused(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", "sqlite://")
    graph = AsyncMemoryGraph(manager, "main")
    deep: Any = {}
    for _ in range(200):
        deep = {"d": deep, "\0": 1}
    calls = [
        partial(graph.add_node, Node("a", "T", deep)),
        partial(graph.add_node, Node("a", "T"), expected_version=-1),
        partial(graph.add_node, Node("a", "T"), expected_version=True),
        partial(graph.add_edge, Edge("a", "r", "b", weight=float("nan"))),
        partial(graph.add_edge, Edge("a", "r", "b", weight="1")),  # type: ignore[arg-type]
        partial(graph.add_edge, Edge("a", "", "b")),
        partial(graph.add_edge, Node("a", "T")),  # type: ignore[arg-type]
        partial(graph.edges, "a", direction="up"),  # type: ignore[arg-type]
        partial(graph.edges, "a", relationship=[]),
        partial(graph.edges, "a", relationship=7),  # type: ignore[arg-type]
        partial(graph.find, limit=0),
        partial(graph.find, limit=10_001),
        partial(graph.find, since=datetime(2026, 1, 1)),  # noqa: DTZ001 - without a zone on purpose
        partial(graph.get_nodes, "ab"),  # type: ignore[arg-type]
        partial(graph.neighbours, "a", depth=0),
        partial(graph.neighbours, "a", depth=33),
        partial(graph.shortest_path, "a", "b", max_edges=0),
        partial(graph.history, "a", before=0),
        partial(graph.as_of, "a"),
        partial(graph.as_of, "a", version=1, time=datetime.now(UTC)),
        partial(graph.prune_history, keep_last=0),
    ]
    for call in calls:
        assert isinstance(await outcome(call), ValidationError), call
    for wrong in (lambda: graph.in_scope(""), lambda: graph.in_scope("s" * 65), lambda: graph.for_actor("a\0")):
        with pytest.raises(ValidationError):
            wrong()
    with pytest.raises(TypeError):
        await graph.find(filter={})  # type: ignore[call-arg]


@pytest.mark.tables
async def test_a_closed_manager_a_missing_migration_and_redis_are_clear_errors(
    manager: AsyncDatabaseManager, graph: AsyncMemoryGraph, redis_config: RedisConfig
) -> None:
    with pytest.raises(MigrationError):
        await AsyncMemoryGraph(manager, "main", migrate=False).find()
    await manager.add_redis("cache", redis_config)
    with pytest.raises(WrongKindError):
        AsyncMemoryGraph(manager, "cache")
    await manager.aclose()
    with pytest.raises(ClosedError):
        await graph.find()


async def test_a_dead_database_is_an_error_and_never_an_empty_answer(
    manager: AsyncDatabaseManager, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """FEATURES 2.3, 1: errors were logged and became [], None or False."""
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("own")) as server:
        await manager.add_postgresql("main", server.config())
        graph = AsyncMemoryGraph(manager, "main")
        await connect(graph, "a-r-b")
        server.stop()
        calls = [
            partial(graph.get_node, "a"),
            partial(graph.edges, "a"),
            partial(graph.find),
            partial(graph.search, "a"),
            partial(graph.neighbours, "a"),
            partial(graph.count),
            partial(graph.delete_edge, "a", "r", "b"),
            partial(graph.get_config, "key", "default"),
            partial(graph.add_edge, Edge("a", "r", "b")),
        ]
        for call in calls:
            assert isinstance(await outcome(call), UnavailableError), call


async def test_no_attribute_is_logged(graph: AsyncMemoryGraph, caplog: pytest.LogCaptureFixture) -> None:
    """FEATURES 2.3, 9: whole parameters were logged at INFO."""
    caplog.set_level(logging.DEBUG)
    await graph.add_node(Node("ada", "USER", {"token": "sk-4711"}))
    await outcome(partial(graph.add_node, Node("ada", "USER", {"token": "sk-4711"}), expected_version=9))
    await graph.find(where={"token": "sk-4711"})
    assert "sk-4711" not in caplog.text


async def test_each_call_is_one_statement(graph: AsyncMemoryGraph, manager: AsyncDatabaseManager) -> None:
    await connect(graph, "a-r-b", "b-r-c")
    node, edge = Node("a", "CONCEPT", {"x": 1}), Edge("a", "r", "b")
    calls = [
        partial(graph.add_node, node),
        partial(graph.add_nodes, [node, Node("d", "CONCEPT")]),
        partial(graph.get_node, "a"),
        partial(graph.patch, "a", {"x": 2}),
        partial(graph.add_edge, edge),
        partial(graph.add_edges, [edge, Edge("b", "r", "a")]),
        partial(graph.edges, "a", direction="both"),
        partial(graph.find, type="CONCEPT", where={"x": 2}),
        partial(graph.search, "a"),
        partial(graph.neighbours, "a", depth=3, direction="both"),
        partial(graph.history, "a"),
        partial(graph.as_of, "a", version=1),
        partial(graph.set_config, "k", 1),
        partial(graph.get_config, "k"),
        partial(graph.delete_edge, "a", "r", "b"),
        partial(graph.delete_node, "b"),
        partial(graph.forget, older_than=3600),
    ]
    for call in calls:
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1, call


async def test_a_record_can_be_changed_and_written_back(graph: AsyncMemoryGraph) -> None:
    read = await graph.add_node(Node("ada", "USER", {"a": 1}))
    again = await graph.add_node(replace(read, attributes={"b": 2}), expected_version=read.version)
    assert (again.attributes, again.version) == ({"a": 1, "b": 2}, 2)

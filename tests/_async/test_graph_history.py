"""The memory graph over time: versions, approvals and who may what, configuration, export and import."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabase, AsyncDatabaseManager, ConflictError, ForeignKeyError, ValidationError
from persistence._async.compat import Parallel
from sessions import (
    Approval,
    AsyncMemoryGraph,
    ConfigVersion,
    Edge,
    GraphChange,
    Node,
    NotPermittedError,
    ScopePolicy,
)
from tests._async.graphs import connect, outcome, second_connection

pytestmark = pytest.mark.tables("sessions")


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


def told(change: GraphChange) -> tuple[Any, ...]:
    return change.version, change.type, change.attributes, change.deleted, change.by


async def test_every_version_of_a_node_is_kept_the_deletion_too(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    await graph.for_actor("a").add_node(Node("ada", "USER", {"n": 1, "\0": "\0"}))
    await graph.for_actor("b").patch("ada", {"n": 2})
    await graph.for_actor("c").delete_node("ada")
    await graph.for_actor("d").add_node(Node("ada", "AGENT"))
    expected = [
        (4, "AGENT", {}, False, "d"),
        (3, "USER", {}, True, "c"),
        (2, "USER", {"n": 2, "\0": "\0"}, False, "b"),
        (1, "USER", {"n": 1, "\0": "\0"}, False, "a"),
    ]
    history = await elsewhere.history("ada")
    assert [told(change) for change in history] == expected
    assert [told(each) for each in await elsewhere.history("ada", limit=2, before=4)] == expected[1:3]
    assert await elsewhere.history("nobody") == []
    assert (history[0].relationship, history[0].target, history[0].weight, history[0].scope) == (
        None,
        None,
        None,
        "LOCAL",
    )


async def test_a_node_is_read_as_it_was(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    stored = [await graph.add_node(Node("ada", "USER", {"n": n}), replace=True) for n in range(3)]
    await graph.delete_node("ada")
    start = datetime(2026, 1, 1, tzinfo=UTC)
    for version in range(1, 5):
        moment = start + timedelta(days=version)
        await database.execute(
            "UPDATE holdfast_graph_history SET updated_at = :moment WHERE version = :version",
            {"moment": moment, "version": version},
        )
    for version, node in enumerate(stored, 1):
        found = await elsewhere.as_of("ada", version=version)
        assert found is not None
        assert (found.attributes, found.version, found.created_at) == (node.attributes, version, stored[0].created_at)
    assert [await elsewhere.as_of("ada", version=version) for version in (4, 5)] == [None, None]
    for hours, expected in ((0, None), (24, 0), (47, 0), (48, 1), (95, 2), (96, None), (10_000, None)):
        found = await elsewhere.as_of("ada", time=start + timedelta(hours=hours))
        assert (found and found.attributes["n"]) == expected
    assert await elsewhere.as_of("nobody", time=datetime.now(UTC)) is None


async def test_deletions_and_writes_of_one_node_take_no_version_twice(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, parallel: Parallel
) -> None:
    calls = []
    for number in range(12):
        calls += [
            partial(graph.add_node, Node("ada", "USER", {"n": number})),
            partial(elsewhere.delete_node, "ada"),
        ]
    results = await parallel.run([partial(outcome, call) for call in calls])
    assert [each for each in results if isinstance(each, Exception)] == []
    versions = [change.version for change in await elsewhere.history("ada")]
    assert versions == list(range(len(versions), 0, -1))


async def test_identity_is_written_with_an_approval_only_and_it_is_recorded(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    identity = graph.in_scope("IDENTITY").for_actor("agent")
    for call in (
        partial(identity.add_node, Node("self", "AGENT")),
        partial(identity.add_nodes, [Node("self", "AGENT")]),
        partial(identity.set_config, "tone", "calm"),
        partial(identity.patch, "self", {"a": 1}),
        partial(identity.delete_node, "self"),
        partial(identity.forget, older_than=1),
        partial(identity.add_edge, Edge("self", "is", "self")),
        partial(identity.delete_edge, "self", "is", "self"),
    ):
        refused = await outcome(call)
        assert isinstance(refused, NotPermittedError), call
        assert "needs an approval" in refused.message
        own = await outcome(partial(call, approved_by="agent"))
        assert isinstance(own, NotPermittedError), call
        assert "may not approve what they write" in own.message
    assert await elsewhere.in_scope("IDENTITY").count() == 0

    grave = Approval("wise", "reviewed on Monday")
    stored = await identity.add_node(Node("self", "AGENT", {"name": "one"}), approved_by=grave)
    assert stored.approval == grave
    await identity.patch("self", {"name": "two"}, approved_by="other")
    await identity.add_node(Node("tone", "CONCEPT"), approved_by="wise")
    await identity.add_edge(Edge("self", "has", "tone", weight=2), approved_by=grave)
    await identity.delete_edge("self", "has", "tone", approved_by="wise")
    for _ in range(2):
        await identity.delete_node("tone", forget_history=True, approved_by="wise")
    log = await elsewhere.in_scope("IDENTITY").approvals()
    assert [(c.id, c.relationship, c.target, c.version, c.deleted, c.weight, c.approval, c.by) for c in log] == [
        ("tone", None, None, 2, True, None, Approval("wise"), "agent"),
        ("self", "has", "tone", 2, True, 2.0, Approval("wise"), "agent"),
        ("self", "has", "tone", 1, False, 2.0, grave, "agent"),
        ("self", None, None, 2, False, None, Approval("other"), "agent"),
        ("self", None, None, 1, False, None, grave, "agent"),
    ]
    paged = await elsewhere.in_scope("IDENTITY").approvals(limit=3)
    assert [*paged, *await elsewhere.in_scope("IDENTITY").approvals(after=paged[-1].cursor)] == log
    assert [change.approval for change in await identity.history("self")] == [Approval("other"), grave]
    assert await graph.approvals() == []


async def test_an_approval_goes_with_its_write_when_that_is_rolled_back(
    graph: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    identity = graph.in_scope("IDENTITY")
    await identity.count()
    with pytest.raises(RuntimeError):
        async with database.transaction():
            await identity.add_node(Node("self", "AGENT"), approved_by="wise")
            assert len(await identity.approvals()) == 1
            raise RuntimeError
    assert await identity.approvals() == []


async def test_policies_say_who_reads_writes_and_approves(manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", "sqlite://")
    policies = {
        "IDENTITY": ScopePolicy(needs_approval=True, approvers=frozenset({"wise"})),
        "COMMUNITY": ScopePolicy(writers=frozenset({"planner"})),
        "user:ada": ScopePolicy(readers=frozenset({"ada"}), writers=frozenset({"ada"})),
    }
    graph = AsyncMemoryGraph(manager, "main", policies=policies)
    await graph.in_scope("IDENTITY").add_node(Node("x", "T"), approved_by="wise")
    await graph.in_scope("COMMUNITY").for_actor("planner").add_node(Node("x", "T"))
    await graph.in_scope("user:ada").for_actor("ada").add_node(Node("x", "T"))
    assert len(await graph.in_scope("COMMUNITY").find()) == 1
    theirs = graph.in_scope("user:ada").for_actor("bob")
    for call in (
        partial(graph.in_scope("IDENTITY").add_node, Node("x", "T"), approved_by="other"),
        partial(graph.in_scope("COMMUNITY").add_node, Node("x", "T")),
        partial(graph.in_scope("COMMUNITY").for_actor("bob").prune_history, keep_last=1),
        partial(theirs.get_node, "x"),
        partial(theirs.get_nodes, ["x"]),
        partial(theirs.find),
        partial(theirs.search, "x"),
        partial(theirs.edges, "x"),
        partial(theirs.get_edge, "x", "r", "x"),
        partial(theirs.neighbours, "x"),
        partial(theirs.shortest_path, "x", "x"),
        partial(theirs.history, "x"),
        partial(theirs.as_of, "x", version=1),
        partial(theirs.approvals),
        partial(theirs.configs),
        partial(theirs.get_config, "x"),
        partial(theirs.count),
        partial(theirs.count_edges),
        partial(exported, theirs),
        partial(graph.in_scope("user:ada").find),
    ):
        assert isinstance(await outcome(call), NotPermittedError), call
    for wrong in ({"X": None}, {"": ScopePolicy()}, [], {"X": "open"}):
        with pytest.raises(ValidationError):
            AsyncMemoryGraph(manager, "main", policies=wrong)  # type: ignore[arg-type]
    for names in ("ada", [""], [7], 3):
        with pytest.raises(ValidationError):
            ScopePolicy(readers=names)  # type: ignore[arg-type]
    for approval in ("", 7, Approval(""), Approval("a", "x" * 10_001), Approval(None)):  # type: ignore[arg-type]
        with pytest.raises(ValidationError):
            await graph.add_node(Node("x", "T"), approved_by=approval)  # type: ignore[arg-type]


async def test_configuration_is_versioned_and_read_as_of_then(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph, database: AsyncDatabase
) -> None:
    assert await elsewhere.get_config("filter.spam") is None
    assert await elsewhere.get_config("filter.spam", 0.5) == 0.5
    values: list[Any] = [{"on": True}, None, [1, "\0"]]
    for number, value in enumerate(values, 1):
        stored = await graph.for_actor("admin").set_config("filter.spam", value)
        assert (stored.key, stored.value, stored.version, stored.by) == ("filter.spam", value, number, "admin")
    await graph.set_config("filter", 1)
    await graph.set_config("filter.\U0010ffff", 2)
    await graph.set_config("channel", 3, expected_version=0)
    assert await elsewhere.get_config("filter.spam", "default") == [1, "\0"]
    assert [await elsewhere.get_config("filter.spam", "d", as_of=n) for n in (1, 2, 3, 4)] == [*values, "d"]
    start = datetime(2026, 1, 1, tzinfo=UTC)
    await database.execute("UPDATE holdfast_graph_history SET updated_at = :t WHERE version = 1", {"t": start})
    assert await elsewhere.get_config("filter.spam", as_of=start + timedelta(days=1)) == {"on": True}
    assert await elsewhere.get_config("filter.spam", "d", as_of=start - timedelta(days=1)) == "d"
    assert [config.key for config in await elsewhere.configs()] == [
        "channel",
        "filter",
        "filter.spam",
        "filter.\U0010ffff",
    ]
    assert [config.key for config in await elsewhere.configs("filter.", limit=1)] == ["filter.spam"]
    assert [c.key for c in await elsewhere.configs("filter.", after="filter.spam")] == ["filter.\U0010ffff"]
    assert [c.key for c in await elsewhere.configs("filter.\U0010ffff")] == ["filter.\U0010ffff"]
    history = await elsewhere.config_history("filter.spam", limit=2)
    assert [(type(each), each.value, each.version) for each in history] == [
        (ConfigVersion, [1, "\0"], 3),
        (ConfigVersion, None, 2),
    ]
    with pytest.raises(ConflictError, match="has version 3, not 2"):
        await graph.set_config("filter.spam", 0, expected_version=2)
    assert (await graph.delete_node("config/filter.spam")).nodes == 1
    assert [each.deleted for each in await elsewhere.config_history("filter.spam", limit=1)] == [True]
    for wrong in ("", "k" * 1000, 7):
        with pytest.raises(ValidationError):
            await graph.set_config(wrong, 1)  # type: ignore[arg-type]


async def test_old_versions_are_pruned_but_not_what_was_approved(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    for name in ("a", "b"):
        for number in range(5):
            await graph.add_node(Node(name, "T", {"n": number}), approved_by="wise" if number == 1 else None)
    assert await graph.prune_history(id="a", keep_last=2) == 2
    assert [change.version for change in await elsewhere.history("a")] == [5, 4, 2]
    assert await graph.prune_history(keep_last=1) == 4
    for name in ("a", "b"):
        assert [change.version for change in await elsewhere.history(name)] == [5, 2]
    assert (await graph.add_node(Node("a", "T"))).version == 6


async def exported(graph: AsyncMemoryGraph) -> list[str]:
    return [line async for line in graph.export_graph()]


async def test_an_export_is_imported_whole(graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph) -> None:
    await connect(graph, "a-r-b:0.25", "b-r-a", "a-s-a")
    await graph.add_node(Node("a", "USER", {"\0": "\ud800", "n": 1e16}))
    await graph.add_edge(Edge("a", "r", "b", weight=0.25, attributes={"k": [None]}))
    lines = await exported(graph)
    copy = elsewhere.in_scope("copy")
    assert await copy.import_graph(lines) == (2, 3)
    assert (await exported(copy))[1:] == lines[1:]
    read = await graph.in_scope("copy").get_node("a")
    assert read is not None
    assert (read.type, read.attributes, read.version) == ("USER", {"\0": "\ud800", "n": 1e16}, 1)
    assert await copy.import_graph(lines) == (2, 3)
    assert [change.version for change in await copy.history("a")] == [2, 1]


async def test_an_import_is_all_or_nothing_and_names_the_line(
    graph: AsyncMemoryGraph, elsewhere: AsyncMemoryGraph
) -> None:
    header = '{"format":"holdfast graph","version":1,"scope":"LOCAL"}'
    node = '{"node":"a","type":"T","attributes":{}}'
    edge = '{"source":"a","relationship":"r","target":"%s","weight":1,"attributes":{}}'
    for lines, number in (
        ([], 1),
        ([node], 1),
        ([header.replace("1", "2")], 1),
        ([header, node, "{"], 3),
        ([header, node, '{"node":"b"}'], 3),
        ([header, node, node.replace("{}", "[]")], 3),
        ([header, node, (edge % "a").replace("1", '"1"')], 3),
    ):
        with pytest.raises(ValidationError, match=f"line {number}"):
            await graph.import_graph(lines)
    with pytest.raises(ForeignKeyError, match="no node 'z'"):
        await graph.import_graph([header, node, edge % "a", edge % "z"])
    assert (await elsewhere.count(), await elsewhere.count_edges()) == (0, 0)
    assert await graph.import_graph([header, node, node, edge % "a"]) == (1, 1)
    assert json.loads((await exported(elsewhere))[0])["scope"] == "LOCAL"

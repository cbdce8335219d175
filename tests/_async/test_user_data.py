"""The contract of a user's data: exported whole, erased whole, and nobody else's touched."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    ClosedError,
    NotFoundError,
    PostgreSQLConfig,
    RedisConfig,
    ValidationError,
)
from sessions import (
    AsyncContextStore,
    AsyncEventLog,
    AsyncMemoryGraph,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncTaskStore,
    AsyncThreadManager,
    AsyncUserData,
    Edge,
    Event,
    Message,
    Node,
    NotPermittedError,
    Query,
    Session,
    Task,
    Thread,
)
from tests._async.side import Started, sleep
from vectorstore import AsyncMemoryVectorStore, Document

pytestmark = pytest.mark.tables("checkpoint", "sessions")

TABLES = ("holdfast_sessions", "holdfast_threads", "holdfast_messages", "holdfast_items", "holdfast_context_agents")
SECRET = "ada-4711"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest_asyncio.fixture
async def users(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncUserData:
    """Data of the user SECRET and of ``bob``, whose thread ``guest`` is in SECRET's session."""
    sessions, threads = AsyncSessionManager(manager, "main"), AsyncThreadManager(manager, "main")
    messages, context = AsyncMessageStore(manager, "main", searchable=True), AsyncContextStore(manager, "main")
    for user, session in ((SECRET, "s1"), ("bob", "s2")):
        await sessions.create_session(Session(id=session, user_id=user, title=f"of {user}"), ttl=3600)
        for number in range(3):
            thread = await threads.create_thread(Thread(id=f"{session}.{number}", session_id=session))
            await messages.append_many(thread.id, [Message(role="user", content=f"{user}\0{n}") for n in range(4)])
        await messages.save_query(Query(question="q", answer=user, user_id=user))
        await context.for_user(user).push("note", {"by": user}, topics=["t"])
        await context.for_user(user).register_topics("agent", ["t"])
    await threads.create_thread(Thread(id="guest", session_id="s1", user_id="bob"))
    await messages.append("guest", Message(role="user", content="of bob"))
    return AsyncUserData(manager, "main")


async def rows(database: AsyncDatabase) -> dict[str, list[str]]:
    return {table: [repr(row) for row in await database.fetch_all(f"SELECT * FROM {table}")] for table in TABLES}


async def lines(users: AsyncUserData, user_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) async for line in users.export_user(user_id)]


async def test_erasing_a_user_leaves_no_trace_and_everybody_else_as_they_were(
    users: AsyncUserData, database: AsyncDatabase
) -> None:
    before = await rows(database)
    erased = await users.erase_user(SECRET)
    assert erased == {"messages": 15, "threads": 5, "sessions": 1, "items": 1, "agents": 1}
    after = await rows(database)
    left = {
        table: [row for row in found if SECRET not in row and "guest" not in row] for table, found in before.items()
    }
    assert {table: sorted(found) for table, found in after.items()} == {
        table: sorted(row for row in found if "'s1" not in row) for table, found in left.items()
    }
    assert SECRET not in repr(after)
    assert await lines(users, SECRET) == []
    assert await users.erase_user(SECRET) == dict.fromkeys(erased, 0)


async def test_who_asked_is_forgotten_in_a_thread_that_became_anothers(
    manager: AsyncDatabaseManager, users: AsyncUserData, database: AsyncDatabase
) -> None:
    threads = AsyncThreadManager(manager, "main")
    await threads.update_thread(Thread(id=f"queries:{SECRET}", user_id="bob"))
    await users.erase_user(SECRET)
    found = await AsyncMessageStore(manager, "main").last(f"queries:{SECRET}")
    assert [message.content for message in found] == ["q", SECRET]
    column = "SELECT count(*) FROM holdfast_messages WHERE asked_by = :user"
    assert await database.fetch_value(column, {"user": SECRET}) == 0


async def test_what_else_is_erased_is_counted_too_and_all_or_nothing(
    users: AsyncUserData, database: AsyncDatabase
) -> None:
    await database.execute("CREATE TABLE other (user_id TEXT)")
    await database.execute("INSERT INTO other VALUES (:user)", {"user": SECRET})

    async def erase(user_id: str) -> int:
        return await database.execute("DELETE FROM other WHERE user_id = :user", {"user": user_id})

    async def fail(user_id: str) -> int:
        raise ZeroDivisionError

    before = await rows(database)
    with pytest.raises(ZeroDivisionError):
        await users.erase_user(SECRET, also={"other": erase, "broken": fail})
    assert await rows(database) == before
    assert await database.fetch_value("SELECT count(*) FROM other") == 1
    assert (await users.erase_user(SECRET, also={"other": erase}))["other"] == 1
    assert await database.fetch_value("SELECT count(*) FROM other") == 0


async def test_other_stores_are_erased_and_exported_too_and_all_or_nothing(
    manager: AsyncDatabaseManager, users: AsyncUserData, database: AsyncDatabase
) -> None:
    checkpoints = AsyncDatabaseCheckpointer(manager, "main")
    documents = AsyncMemoryVectorStore(dimensions=2)
    for user in (SECRET, "bob"):
        for version in (1, 2):
            state = {"said": (user, version, b"\xff", float("inf"), {7: {1.5}})}
            await checkpoints.save_checkpoint(Checkpoint(f"of {user}", state, metadata={"user_id": user}))
        await checkpoints.save_checkpoint(Checkpoint(f"of {user}", {}, namespace="sub"))
        await documents.store_documents([Document(f"d-{user}", user, {"user_id": user}, [1.0, 0.0])])

    class Broken:
        async def erase_user(self, user_id: str) -> dict[str, int]:
            raise ZeroDivisionError

        async def export_user(self, user_id: str) -> AsyncIterator[str]:
            yield "{}"

    counted = "SELECT count(*) FROM holdfast_checkpoints"
    before = await rows(database)
    with pytest.raises(ZeroDivisionError):
        await AsyncUserData(manager, "main", stores=[checkpoints, Broken()]).erase_user(SECRET)
    assert await rows(database) == before
    assert await database.fetch_value(counted) == 6
    users = AsyncUserData(manager, "main", stores=[checkpoints, documents])
    found = [line for line in await lines(users, SECRET) if line["kind"] in ("checkpoint", "document")]
    assert [(line["kind"], line.get("namespace"), line.get("version")) for line in found] == [
        ("checkpoint", "", 2),
        ("checkpoint", "", 1),
        ("checkpoint", "sub", 1),
        ("document", None, None),
    ]
    assert found[0]["state"] == {"said": [SECRET, 2, "/w==", "inf", {"7": [1.5]}]}
    assert (found[3]["content"], found[3]["metadata"]) == (SECRET, {"user_id": SECRET})
    assert "bob" not in repr(found)
    report = await users.erase_user(SECRET)
    assert (report["checkpoints"], report["documents"], report["sessions"]) == (3, 1, 1)
    assert await database.fetch_value(counted) == 3
    assert [document.id async for document in documents.iterate()] == ["d-bob"]
    assert [line["kind"] for line in await lines(users, SECRET)] == []


async def test_an_export_is_all_that_a_user_has(
    manager: AsyncDatabaseManager, users: AsyncUserData, database: AsyncDatabase
) -> None:
    await database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment", {"moment": datetime.now(UTC) - timedelta(seconds=1)}
    )
    found = await lines(users, SECRET)
    assert [line["kind"] for line in found] == [
        "session",
        "thread",
        "message",
        "message",
        *["thread", *["message"] * 4] * 3,
        "item",
        "agent",
    ]
    assert found[0]["title"] == f"of {SECRET}"
    messages = [line for line in found if line["kind"] == "message"]
    assert [line["content"] for line in messages if line["thread_id"] == "s1.2"] == [f"{SECRET}\0{n}" for n in range(4)]
    assert (found[-2]["key"], found[-2]["value"]) == ("note", {"by": SECRET})
    assert found[-1] == {"kind": "agent", "agent": "agent", "topics": ["t"], "permissions": None}
    assert "bob" not in repr(found)
    assert "of bob" in repr(await lines(users, "bob"))


async def test_an_export_of_many_is_whole(manager: AsyncDatabaseManager, users: AsyncUserData) -> None:
    messages = AsyncMessageStore(manager, "main").for_user("eve")
    await messages.append_many("long", [Message(role="user", content=number) for number in range(1201)])
    found = await lines(users, "eve")
    assert [line["content"] for line in found[1:]] == list(range(1201))


async def test_erasing_a_session_counts_what_it_had(
    manager: AsyncDatabaseManager, users: AsyncUserData, database: AsyncDatabase
) -> None:
    sessions = AsyncSessionManager(manager, "main")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await sessions.erase_session("s1")
            _ = 1 / 0
    assert await sessions.erase_session("s1") == {"messages": 13, "threads": 4, "sessions": 1}
    assert await sessions.erase_session("s1") == {"messages": 0, "threads": 0, "sessions": 0}
    assert len(await AsyncThreadManager(manager, "main").list_session_threads("s2")) == 3


@pytest.mark.parametrize("of", ["user", "session"])
async def test_an_erasure_lets_others_finish_and_counts_what_they_leave(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig, of: str
) -> None:
    database = await manager.add_postgresql("main", postgresql_config)
    sessions, messages = AsyncSessionManager(manager, "main"), AsyncMessageStore(manager, "main")
    await sessions.create_session(Session(id="s", user_id=SECRET))
    await AsyncThreadManager(manager, "main").create_thread(Thread(id="t", session_id="s"))
    await messages.append_many("t", [Message(role="user", content=number) for number in range(3)])
    erase = partial(AsyncUserData(manager, "main").erase_user, SECRET)
    async with database.transaction():
        await messages.append("t", Message(role="user", content=3))
        other = Started(erase if of == "user" else partial(sessions.erase_session, "s"))
        while not (await database.fetch_apart(WAITING) or {})["count"]:
            await sleep(0.001)
        taken = [await messages.pop_last("t") for _ in range(2)]
        assert [message and message.content for message in taken] == [3, 2]
        await messages.append("t", Message(role="user", content=4))
    erased = await other.result()
    assert {kind: count for kind, count in erased.items() if count} == {"messages": 3, "threads": 1, "sessions": 1}
    with pytest.raises(NotFoundError):
        await messages.append("t", Message(role="user", content=5))


async def test_another_tenant_of_the_same_user_keeps_everything(
    manager: AsyncDatabaseManager, users: AsyncUserData, database: AsyncDatabase
) -> None:
    before = await rows(database)
    others = AsyncUserData(manager, "main", tenant="others")
    assert sum((await others.erase_user(SECRET)).values()) == 0
    assert await lines(others, SECRET) == []
    assert await rows(database) == before


async def test_what_is_no_user_is_refused_and_a_closed_manager_is_a_clear_error(
    manager: AsyncDatabaseManager, users: AsyncUserData
) -> None:
    async def erase(user_id: str) -> int:
        return 0

    before = manager.stats()["main"].requests
    wrong: Any
    for wrong in ("", "a\0", "\ud800", None, 7, "x" * 1025):
        for call in (partial(users.erase_user, wrong), partial(lines, users, wrong)):
            with pytest.raises(ValidationError):
                await call()
    with pytest.raises(ValidationError, match="'threads'"):
        await users.erase_user("ada", also={"threads": erase})
    assert manager.stats()["main"].requests == before
    await manager.aclose()
    for call in (partial(users.erase_user, SECRET), partial(lines, users, SECRET)):
        with pytest.raises(ClosedError):
            await call()


OTHER_TABLES = ("holdfast_graph_nodes", "holdfast_graph_edges", "holdfast_graph_history", "holdfast_tasks")


async def test_nodes_events_and_tasks_of_a_user_are_exported_and_erased(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    graph, log = AsyncMemoryGraph(manager, "main"), AsyncEventLog(manager, "main")
    tasks = AsyncTaskStore(manager, "main")
    for user in (SECRET, "bob"):
        await graph.add_nodes([Node(f"{user}.{n}", "NOTE", {"user_id": user, "n": n}) for n in range(3)])
        await graph.add_node(Node(f"{user}.gone", "NOTE", {"user_id": user}))
        await graph.delete_node(f"{user}.gone")
        await graph.add_edge(Edge(f"{user}.0", "next", f"{user}.1"))
        await log.append_many([Event(kind="k", message=f"of {user}", tags={"user_id": user}) for _ in range(3)])
        parent = await tasks.for_owner("w1").add(Task(kind="think", payload={"of": user}, metadata={"user_id": user}))
        child = await tasks.for_owner("w2").add(Task(kind="step", payload=user, parent_id=parent.id))
        await tasks.add(Task(kind="step", payload=user, parent_id=child.id))
        await tasks.add(Task(kind="other", payload=user, metadata={"user_id": user}))
    await graph.add_node(Node("shared", "NOTE", {"user_id": 7}))
    await graph.add_edge(Edge("shared", "about", f"{SECRET}.0"))
    held = [task for task in await tasks.claim_next("other", "w3", 2) if task.payload == SECRET]
    await log.append(Event(kind="k", message="of nobody"))
    audit = await log.audit("login", tags={"user_id": SECRET})
    users = AsyncUserData(manager, "main", stores=[graph, log, tasks])
    found = await lines(users, SECRET)
    kinds = ["node", "node", "node", "edge", "edge"] + ["event"] * 4 + ["task"] * 4
    assert [line["kind"] for line in found] == kinds
    nodes = [(line["id"], line["attributes"]["n"]) for line in found[:3]]
    assert nodes == [(f"{SECRET}.{n}", n) for n in (2, 1, 0)]
    edges = [(line["source"], line["relationship"], line["target"]) for line in found[3:5]]
    assert edges == [(f"{SECRET}.0", "next", f"{SECRET}.1"), ("shared", "about", f"{SECRET}.0")]
    assert [line["event_kind"] for line in found[5:9]] == ["audit", "k", "k", "k"]
    of_tasks = [(line["task_kind"], line["payload"]) for line in found[9:]]
    assert of_tasks == [("other", SECRET), ("think", {"of": SECRET}), ("step", SECRET), ("step", SECRET)]
    erased = await users.erase_user(SECRET)
    assert {kind: erased[kind] for kind in ("nodes", "edges", "events", "tasks")} == {
        "nodes": 3,
        "edges": 2,
        "events": 3,
        "tasks": 4,
    }
    stored = {table: repr(await database.fetch_all(f"SELECT * FROM {table}")) for table in OTHER_TABLES}
    assert SECRET not in repr(stored)
    left = await log.query(limit=100)
    assert sorted(event.message or "" for event in left) == ["", "of bob", "of bob", "of bob", "of nobody"]
    assert [event.hash for event in left if event.kind == "audit"] == [audit.hash]
    assert await log.verify()
    assert sorted(node.id for node in await graph.find()) == ["bob.0", "bob.1", "bob.2", "shared"]
    assert len(await graph.history("bob.gone")) == 2
    assert len(await tasks.all_owners().find()) == 4
    [lost] = held
    with pytest.raises(NotFoundError):  # its worker finds it gone
        await tasks.complete(lost)
    again = await users.erase_user(SECRET)
    assert (again["nodes"], again["edges"], again["events"], again["tasks"]) == (0, 0, 0, 0)


async def test_a_scope_that_wants_an_approval_wants_one_to_erase_a_user_too(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    graph = AsyncMemoryGraph(manager, "main").in_scope("IDENTITY")
    await graph.add_node(Node("a", "NOTE", {"user_id": SECRET}), approved_by="wise")
    with pytest.raises(NotPermittedError):
        await graph.erase_user(SECRET)
    assert await AsyncMemoryGraph(manager, "main").erase_user(SECRET) == {"nodes": 0, "edges": 0}
    assert await graph.erase_user(SECRET, approved_by="wise") == {"nodes": 1, "edges": 0}
    assert SECRET not in repr(await database.fetch_all("SELECT * FROM holdfast_graph_history"))


async def test_tasks_of_a_user_are_erased_on_redis_and_by_one_owner_alone(
    manager: AsyncDatabaseManager, redis_config: RedisConfig
) -> None:
    await manager.add_redis("cache", redis_config)
    tasks = AsyncTaskStore(manager, "cache")
    for owner in ("w1", "w2"):
        parent = await tasks.for_owner(owner).add(Task(kind="think", metadata={"user_id": SECRET}))
        await tasks.for_owner(owner).add(Task(kind="step", parent_id=parent.id))
    await tasks.add(Task(kind="think", metadata={"user_id": "bob"}))
    assert await tasks.for_owner("w1").erase_user(SECRET) == {"tasks": 2}
    assert len([line async for line in tasks.export_user(SECRET)]) == 2
    assert await tasks.erase_user(SECRET) == {"tasks": 2}
    assert [task.metadata for task in await tasks.all_owners().find()] == [{"user_id": "bob"}]
    for store in (tasks, tasks.for_owner("w1")):
        with pytest.raises(ValidationError):
            await store.erase_user("")

# Generated from ../_async/test_user_data.py by tests/unasync.py: edit that one.
"""The contract of a user's data: exported whole, erased whole, and nobody else's touched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    ClosedError,
    NotFoundError,
    PostgreSQLConfig,
    RedisConfig,
    ValidationError,
)
from sessions import (
    ContextStore,
    EventLog,
    MemoryGraph,
    MessageStore,
    SessionManager,
    TaskStore,
    ThreadManager,
    UserData,
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
from tests._sync.side import Started, sleep
from vectorstore import MemoryVectorStore, Document

pytestmark = pytest.mark.tables("checkpoint", "sessions")

TABLES = ("holdfast_sessions", "holdfast_threads", "holdfast_messages", "holdfast_items", "holdfast_context_agents")
SECRET = "ada-4711"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"


@pytest.fixture
def users(manager: DatabaseManager, database: Database) -> UserData:
    """Data of the user SECRET and of ``bob``, whose thread ``guest`` is in SECRET's session."""
    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    messages, context = MessageStore(manager, "main", searchable=True), ContextStore(manager, "main")
    for user, session in ((SECRET, "s1"), ("bob", "s2")):
        sessions.create_session(Session(id=session, user_id=user, title=f"of {user}"), ttl=3600)
        for number in range(3):
            thread = threads.create_thread(Thread(id=f"{session}.{number}", session_id=session))
            messages.append_many(thread.id, [Message(role="user", content=f"{user}\0{n}") for n in range(4)])
        messages.save_query(Query(question="q", answer=user, user_id=user))
        context.for_user(user).push("note", {"by": user}, topics=["t"])
        context.for_user(user).register_topics("agent", ["t"])
    threads.create_thread(Thread(id="guest", session_id="s1", user_id="bob"))
    messages.append("guest", Message(role="user", content="of bob"))
    return UserData(manager, "main")


def rows(database: Database) -> dict[str, list[str]]:
    return {table: [repr(row) for row in database.fetch_all(f"SELECT * FROM {table}")] for table in TABLES}


def lines(users: UserData, user_id: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in users.export_user(user_id)]


def test_erasing_a_user_leaves_no_trace_and_everybody_else_as_they_were(
    users: UserData, database: Database
) -> None:
    before = rows(database)
    erased = users.erase_user(SECRET)
    assert erased == {"messages": 15, "threads": 5, "sessions": 1, "items": 1, "agents": 1}
    after = rows(database)
    left = {
        table: [row for row in found if SECRET not in row and "guest" not in row] for table, found in before.items()
    }
    assert {table: sorted(found) for table, found in after.items()} == {
        table: sorted(row for row in found if "'s1" not in row) for table, found in left.items()
    }
    assert SECRET not in repr(after)
    assert lines(users, SECRET) == []
    assert users.erase_user(SECRET) == dict.fromkeys(erased, 0)


def test_who_asked_is_forgotten_in_a_thread_that_became_anothers(
    manager: DatabaseManager, users: UserData, database: Database
) -> None:
    threads = ThreadManager(manager, "main")
    threads.update_thread(Thread(id=f"queries:{SECRET}", user_id="bob"))
    users.erase_user(SECRET)
    found = MessageStore(manager, "main").last(f"queries:{SECRET}")
    assert [message.content for message in found] == ["q", SECRET]
    column = "SELECT count(*) FROM holdfast_messages WHERE asked_by = :user"
    assert database.fetch_value(column, {"user": SECRET}) == 0


def test_what_else_is_erased_is_counted_too_and_all_or_nothing(
    users: UserData, database: Database
) -> None:
    database.execute("CREATE TABLE other (user_id TEXT)")
    database.execute("INSERT INTO other VALUES (:user)", {"user": SECRET})

    def erase(user_id: str) -> int:
        return database.execute("DELETE FROM other WHERE user_id = :user", {"user": user_id})

    def fail(user_id: str) -> int:
        raise ZeroDivisionError

    before = rows(database)
    with pytest.raises(ZeroDivisionError):
        users.erase_user(SECRET, also={"other": erase, "broken": fail})
    assert rows(database) == before
    assert database.fetch_value("SELECT count(*) FROM other") == 1
    assert (users.erase_user(SECRET, also={"other": erase}))["other"] == 1
    assert database.fetch_value("SELECT count(*) FROM other") == 0


def test_other_stores_are_erased_and_exported_too_and_all_or_nothing(
    manager: DatabaseManager, users: UserData, database: Database
) -> None:
    checkpoints = DatabaseCheckpointer(manager, "main")
    documents = MemoryVectorStore(dimensions=2)
    for user in (SECRET, "bob"):
        for version in (1, 2):
            state = {"said": (user, version, b"\xff", float("inf"), {7: {1.5}})}
            checkpoints.save_checkpoint(Checkpoint(f"of {user}", state, metadata={"user_id": user}))
        checkpoints.save_checkpoint(Checkpoint(f"of {user}", {}, namespace="sub"))
        documents.store_documents([Document(f"d-{user}", user, {"user_id": user}, [1.0, 0.0])])

    class Broken:
        def erase_user(self, user_id: str) -> dict[str, int]:
            raise ZeroDivisionError

        def export_user(self, user_id: str) -> Iterator[str]:
            yield "{}"

    counted = "SELECT count(*) FROM holdfast_checkpoints"
    before = rows(database)
    with pytest.raises(ZeroDivisionError):
        UserData(manager, "main", stores=[checkpoints, Broken()]).erase_user(SECRET)
    assert rows(database) == before
    assert database.fetch_value(counted) == 6
    users = UserData(manager, "main", stores=[checkpoints, documents])
    found = [line for line in lines(users, SECRET) if line["kind"] in ("checkpoint", "document")]
    assert [(line["kind"], line.get("namespace"), line.get("version")) for line in found] == [
        ("checkpoint", "", 2),
        ("checkpoint", "", 1),
        ("checkpoint", "sub", 1),
        ("document", None, None),
    ]
    assert found[0]["state"] == {"said": [SECRET, 2, "/w==", "inf", {"7": [1.5]}]}
    assert (found[3]["content"], found[3]["metadata"]) == (SECRET, {"user_id": SECRET})
    assert "bob" not in repr(found)
    report = users.erase_user(SECRET)
    assert (report["checkpoints"], report["documents"], report["sessions"]) == (3, 1, 1)
    assert database.fetch_value(counted) == 3
    assert [document.id for document in documents.iterate()] == ["d-bob"]
    assert [line["kind"] for line in lines(users, SECRET)] == []


def test_an_export_is_all_that_a_user_has(
    manager: DatabaseManager, users: UserData, database: Database
) -> None:
    database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment", {"moment": datetime.now(UTC) - timedelta(seconds=1)}
    )
    found = lines(users, SECRET)
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
    assert "of bob" in repr(lines(users, "bob"))


def test_an_export_of_many_is_whole(manager: DatabaseManager, users: UserData) -> None:
    messages = MessageStore(manager, "main").for_user("eve")
    messages.append_many("long", [Message(role="user", content=number) for number in range(1201)])
    found = lines(users, "eve")
    assert [line["content"] for line in found[1:]] == list(range(1201))


def test_erasing_a_session_counts_what_it_had(
    manager: DatabaseManager, users: UserData, database: Database
) -> None:
    sessions = SessionManager(manager, "main")
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            sessions.erase_session("s1")
            _ = 1 / 0
    assert sessions.erase_session("s1") == {"messages": 13, "threads": 4, "sessions": 1}
    assert sessions.erase_session("s1") == {"messages": 0, "threads": 0, "sessions": 0}
    assert len(ThreadManager(manager, "main").list_session_threads("s2")) == 3


@pytest.mark.parametrize("of", ["user", "session"])
def test_an_erasure_lets_others_finish_and_counts_what_they_leave(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, of: str
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    sessions, messages = SessionManager(manager, "main"), MessageStore(manager, "main")
    sessions.create_session(Session(id="s", user_id=SECRET))
    ThreadManager(manager, "main").create_thread(Thread(id="t", session_id="s"))
    messages.append_many("t", [Message(role="user", content=number) for number in range(3)])
    erase = partial(UserData(manager, "main").erase_user, SECRET)
    with database.transaction():
        messages.append("t", Message(role="user", content=3))
        other = Started(erase if of == "user" else partial(sessions.erase_session, "s"))
        while not (database.fetch_apart(WAITING) or {})["count"]:
            sleep(0.001)
        taken = [messages.pop_last("t") for _ in range(2)]
        assert [message and message.content for message in taken] == [3, 2]
        messages.append("t", Message(role="user", content=4))
    erased = other.result()
    assert {kind: count for kind, count in erased.items() if count} == {"messages": 3, "threads": 1, "sessions": 1}
    with pytest.raises(NotFoundError):
        messages.append("t", Message(role="user", content=5))


def test_another_tenant_of_the_same_user_keeps_everything(
    manager: DatabaseManager, users: UserData, database: Database
) -> None:
    before = rows(database)
    others = UserData(manager, "main", tenant="others")
    assert sum((others.erase_user(SECRET)).values()) == 0
    assert lines(others, SECRET) == []
    assert rows(database) == before


def test_what_is_no_user_is_refused_and_a_closed_manager_is_a_clear_error(
    manager: DatabaseManager, users: UserData
) -> None:
    def erase(user_id: str) -> int:
        return 0

    before = manager.stats()["main"].requests
    wrong: Any
    for wrong in ("", "a\0", "\ud800", None, 7, "x" * 1025):
        for call in (partial(users.erase_user, wrong), partial(lines, users, wrong)):
            with pytest.raises(ValidationError):
                call()
    with pytest.raises(ValidationError, match="'threads'"):
        users.erase_user("ada", also={"threads": erase})
    assert manager.stats()["main"].requests == before
    manager.close()
    for call in (partial(users.erase_user, SECRET), partial(lines, users, SECRET)):
        with pytest.raises(ClosedError):
            call()


OTHER_TABLES = ("holdfast_graph_nodes", "holdfast_graph_edges", "holdfast_graph_history", "holdfast_tasks")


def test_nodes_events_and_tasks_of_a_user_are_exported_and_erased(
    manager: DatabaseManager, database: Database
) -> None:
    graph, log = MemoryGraph(manager, "main"), EventLog(manager, "main")
    tasks = TaskStore(manager, "main")
    for user in (SECRET, "bob"):
        graph.add_nodes([Node(f"{user}.{n}", "NOTE", {"user_id": user, "n": n}) for n in range(3)])
        graph.add_node(Node(f"{user}.gone", "NOTE", {"user_id": user}))
        graph.delete_node(f"{user}.gone")
        graph.add_edge(Edge(f"{user}.0", "next", f"{user}.1"))
        log.append_many([Event(kind="k", message=f"of {user}", tags={"user_id": user}) for _ in range(3)])
        parent = tasks.for_owner("w1").add(Task(kind="think", payload={"of": user}, metadata={"user_id": user}))
        child = tasks.for_owner("w2").add(Task(kind="step", payload=user, parent_id=parent.id))
        tasks.add(Task(kind="step", payload=user, parent_id=child.id))
        tasks.add(Task(kind="other", payload=user, metadata={"user_id": user}))
    graph.add_node(Node("shared", "NOTE", {"user_id": 7}))
    graph.add_edge(Edge("shared", "about", f"{SECRET}.0"))
    held = [task for task in tasks.claim_next("other", "w3", 2) if task.payload == SECRET]
    log.append(Event(kind="k", message="of nobody"))
    audit = log.audit("login", tags={"user_id": SECRET})
    users = UserData(manager, "main", stores=[graph, log, tasks])
    found = lines(users, SECRET)
    kinds = ["node", "node", "node", "edge", "edge"] + ["event"] * 4 + ["task"] * 4
    assert [line["kind"] for line in found] == kinds
    nodes = [(line["id"], line["attributes"]["n"]) for line in found[:3]]
    assert nodes == [(f"{SECRET}.{n}", n) for n in (2, 1, 0)]
    edges = [(line["source"], line["relationship"], line["target"]) for line in found[3:5]]
    assert edges == [(f"{SECRET}.0", "next", f"{SECRET}.1"), ("shared", "about", f"{SECRET}.0")]
    assert [line["event_kind"] for line in found[5:9]] == ["audit", "k", "k", "k"]
    of_tasks = [(line["task_kind"], line["payload"]) for line in found[9:]]
    assert of_tasks == [("other", SECRET), ("think", {"of": SECRET}), ("step", SECRET), ("step", SECRET)]
    erased = users.erase_user(SECRET)
    assert {kind: erased[kind] for kind in ("nodes", "edges", "events", "tasks")} == {
        "nodes": 3,
        "edges": 2,
        "events": 3,
        "tasks": 4,
    }
    stored = {table: repr(database.fetch_all(f"SELECT * FROM {table}")) for table in OTHER_TABLES}
    assert SECRET not in repr(stored)
    left = log.query(limit=100)
    assert sorted(event.message or "" for event in left) == ["", "of bob", "of bob", "of bob", "of nobody"]
    assert [event.hash for event in left if event.kind == "audit"] == [audit.hash]
    assert log.verify()
    assert sorted(node.id for node in graph.find()) == ["bob.0", "bob.1", "bob.2", "shared"]
    assert len(graph.history("bob.gone")) == 2
    assert len(tasks.all_owners().find()) == 4
    [lost] = held
    with pytest.raises(NotFoundError):  # its worker finds it gone
        tasks.complete(lost)
    again = users.erase_user(SECRET)
    assert (again["nodes"], again["edges"], again["events"], again["tasks"]) == (0, 0, 0, 0)


def test_a_scope_that_wants_an_approval_wants_one_to_erase_a_user_too(
    manager: DatabaseManager, database: Database
) -> None:
    graph = MemoryGraph(manager, "main").in_scope("IDENTITY")
    graph.add_node(Node("a", "NOTE", {"user_id": SECRET}), approved_by="wise")
    with pytest.raises(NotPermittedError):
        graph.erase_user(SECRET)
    assert MemoryGraph(manager, "main").erase_user(SECRET) == {"nodes": 0, "edges": 0}
    assert graph.erase_user(SECRET, approved_by="wise") == {"nodes": 1, "edges": 0}
    assert SECRET not in repr(database.fetch_all("SELECT * FROM holdfast_graph_history"))


def test_tasks_of_a_user_are_erased_on_redis_and_by_one_owner_alone(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    manager.add_redis("cache", redis_config)
    tasks = TaskStore(manager, "cache")
    for owner in ("w1", "w2"):
        parent = tasks.for_owner(owner).add(Task(kind="think", metadata={"user_id": SECRET}))
        tasks.for_owner(owner).add(Task(kind="step", parent_id=parent.id))
    tasks.add(Task(kind="think", metadata={"user_id": "bob"}))
    assert tasks.for_owner("w1").erase_user(SECRET) == {"tasks": 2}
    assert len([line for line in tasks.export_user(SECRET)]) == 2
    assert tasks.erase_user(SECRET) == {"tasks": 2}
    assert [task.metadata for task in tasks.all_owners().find()] == [{"user_id": "bob"}]
    for store in (tasks, tasks.for_owner("w1")):
        with pytest.raises(ValidationError):
            store.erase_user("")

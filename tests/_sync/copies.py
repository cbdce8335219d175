# Generated from ../_async/copies.py by tests/unasync.py: edit that one.
"""A database with something of every store of the packages in it, and all of it read back through their own calls."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    DatabaseManager,
    KeyValueStore,
    LeaseLock,
    Outbox,
    SecretVault,
    Cipher,
)
from persistence.dialect import to_json
from sessions import (
    ContextStore,
    EventLog,
    MemoryGraph,
    MessageStore,
    SessionManager,
    StateStore,
    TaskStore,
    ThreadManager,
    Edge,
    Event,
    Message,
    Node,
    Query,
    Session,
    Task,
    Thread,
)
from sessions._sync.items import ItemStore
from sessions.item_batches import Batch, Condition, Get, Put, Search
from sessions.items import namespace_key
from vectorstore import PgVectorStore, SQLiteVectorStore, VectorStore, Document

ODD = {"nul": "a\0b", "lone": "\ud800", "large": 2**70, "small": 1.0, "z": 1, "a": [None, True]}
DAY = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
LABELS = namespace_key(["memories", "ada"])


def vectors(manager: DatabaseManager, name: str, collection: str = "docs", **options: Any) -> VectorStore:
    """Return the documents of a connection, whatever its kind."""
    made = SQLiteVectorStore if manager.get_database(name).kind == "sqlite" else PgVectorStore
    return made(manager, name, collection=collection, dimensions=3, metric="cosine", text_search="english", **options)


def embedding(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).standard_normal(3).astype(np.float32)


def fill(manager: DatabaseManager, name: str, tenant: str = "default") -> None:
    """Put something of a tenant into every store, and a checkpoint of another."""
    fill_checkpoints(manager, name, tenant)
    fill_conversations(manager, name, tenant)
    fill_knowledge(manager, name, tenant)
    fill_work(manager, name, tenant)


def fill_checkpoints(manager: DatabaseManager, name: str, tenant: str = "default") -> None:
    checkpointer = DatabaseCheckpointer(manager, name, tenant=tenant)
    for step in range(8):
        state = {"step": step, "big": np.arange(3000 + step), "messages": [f"m{n}" for n in range(step)]}
        if step:  # which later versions need of the one that is deleted
            state["kept"] = np.random.default_rng(7).bytes(20_000)
        checkpointer.save_checkpoint(
            Checkpoint("t1", state, step=step, node=f"n{step % 2}", key=f"k{step}", metadata={"ü": [step, 1.50]})
        )
    checkpointer.fork("t1", 3, "forked")
    checkpointer.save_checkpoint(Checkpoint("forked", {"own": np.random.default_rng(1).bytes(600_000)}))
    checkpointer.save_checkpoint(Checkpoint("t1", {"sub": 1}, namespace="sub"))
    checkpointer.put_writes("t1", "k6", "task", [("a", b"\0\xff"), ("b", {"x": 1})])
    checkpointer.delete_checkpoint("t1", 2)
    checkpointer.delete_checkpoint("t1", 8)
    checkpointer.set_ttl("forked", 90_061.5)
    other = DatabaseCheckpointer(manager, name, tenant="other")
    other.save_checkpoint(Checkpoint("t1", {"whose": "other"}))


def fill_conversations(manager: DatabaseManager, name: str, tenant: str = "default") -> None:
    sessions, threads = (
        SessionManager(manager, name, tenant=tenant),
        ThreadManager(manager, name, tenant=tenant),
    )
    messages = MessageStore(manager, name, searchable=True, tenant=tenant)
    sessions.create_session(Session(id="s1", user_id="ada", title="T", metadata={"a": 1}), ttl=3600, sliding=True)
    threads.create_thread(Thread(id="th1", session_id="s1", title="Bridges"))
    threads.create_thread(Thread(id="th2", user_id="bob", metadata={"k": [1]}))
    messages.append_many("th1", [Message(role="user", content=ODD), Message(role="user", content="Long BRIDGES")])
    messages.append("th1", Message(role="assistant", content="an answer", metadata={"m": 1}), key="once")
    messages.append_many("th2", [Message(role="user", content=f"number {n}") for n in range(120)])
    messages.compact("th2", Message(role="system", content="a summary"), through=50)
    messages.pop_last("th2")
    messages.fork("th2", at=60, new_thread_id="th3")
    messages.save_query(Query(question="why?", answer="because", user_id="ada", models=["m1"]))
    StateStore(manager, name, tenant=tenant).update("s1", {"step": 1, "user:theme": ODD, "app:model": "m"})


def fill_knowledge(manager: DatabaseManager, name: str, tenant: str = "default") -> None:
    context = ContextStore(manager, name, tenant=tenant)
    context.push("note", ODD, topics=["t", "ü"], subscribers=["x"], ttl=3600)
    context.for_user("ada").push("note", [1])
    context.register_topics("agent", ["t"])
    context.set_permissions("agent", [])
    items = ItemStore(manager, name, tenant=tenant)
    items.run(Batch(puts=[Put(LABELS, "k", to_json({"n": 5, "s": "x"}), 10**9, [[1.0, 0.1, -0.3]])]))
    graph = MemoryGraph(manager, name, tenant=tenant)
    graph.add_nodes([Node("a", "thing", {"t": "red\0 bridge"}), Node("b", "thing", {"n": 1.5})])
    graph.patch("a", {"more": [1, 2]})
    graph.add_edge(Edge("a", "knows", "b", weight=0.1))
    graph.set_embeddings({"a": [0.1, 0.2, 0.3]})
    graph.delete_node("gone") if graph.add_node(Node("gone", "thing")) else None
    graph.set_config("limit", {"n": 3})
    documents = vectors(manager, name, tenant=tenant)
    documents.store_documents(
        [Document(f"d{n:03}", f"the text {n} of bridges", {"n": n, "f": 0.5}, embedding(n)) for n in range(70)]
    )
    documents.update_document("d001", metadata={"n": 100})
    documents.delete(["d002"])
    documents.in_namespace("second").store_documents([Document("d", "another", {}, embedding(1))])
    vectors(manager, name, "empty", tenant=tenant).count()


def fill_work(manager: DatabaseManager, name: str, tenant: str = "default") -> None:
    events = EventLog(manager, name, tenant=tenant)
    events.append_many(
        Event(kind="metric", name="m", value=n / 7, tags={"n": n}, time=DAY + timedelta(hours=11 * n)) for n in range(9)
    )
    for number in range(3):
        events.audit("login", f"no {number}", tags={"who": "ada"}, time=DAY + timedelta(days=40 * number))
    tasks = TaskStore(manager, name, tenant=tenant)
    # The child's id is before its parent's, which it refers to.
    tasks.add_many(
        [Task(kind="work", payload=ODD, id="z"), Task(kind="part", id="a", parent_id="z"), Task(kind="w", key="k")]
    )
    claimed = tasks.claim_next("w", "worker")
    tasks.complete(claimed[0], {"ok": ODD})
    tasks.claim_next("work", "worker")
    values = KeyValueStore(manager, name, tenant=tenant)
    values.put_many({"bytes": b"\0\xff", "json": ODD, "text": "ü"}, ttl=3600)
    values.increment("count", 41)
    outbox = Outbox(manager, name, "orders", tenant=tenant)
    outbox.put_many([("a", {"n": 1}), ("b", 2), ("a", 3)])
    lock = LeaseLock(manager, name, "job", tenant=tenant)
    with lock:
        pass
    vault = vault_of(manager, name, tenant)
    protected = vault.protect("password=correct-horse-battery", context="chat")
    assert vault.restore(protected, context="chat", actor="ada")


def vault_of(manager: DatabaseManager, name: str, tenant: str = "default") -> SecretVault:
    return SecretVault(manager, name, Cipher({"k": bytes(range(32))}, "k"), tenant=tenant)


def read(manager: DatabaseManager, name: str) -> dict[str, Any]:
    """Return what every store gives back."""
    return {
        **read_checkpoints(manager, name),
        **read_conversations(manager, name),
        **read_knowledge(manager, name),
        **read_work(manager, name),
    }


def plain(value: Any) -> Any:
    """Return records as values that compare, arrays too."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {"": type(value).__name__, **{key: plain(each) for key, each in fields.items()}}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


def read_checkpoints(manager: DatabaseManager, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tenant in ("default", "other"):
        checkpointer = DatabaseCheckpointer(manager, name, tenant=tenant)
        threads = checkpointer.list_threads()
        found[f"threads of {tenant}"] = plain(threads)
        for thread in {each.thread_id for each in threads}:
            for namespace in ("", "sub"):
                listed = checkpointer.list_checkpoints(thread, namespace=namespace)
                for each in listed:
                    loaded = checkpointer.load_checkpoint(thread, each.version, namespace=namespace, writes=True)
                    found[f"checkpoint {tenant} {thread} {namespace} {each.version}"] = plain(loaded)
    return found


def read_conversations(manager: DatabaseManager, name: str) -> dict[str, Any]:
    sessions, threads = SessionManager(manager, name), ThreadManager(manager, name)
    messages = MessageStore(manager, name, searchable=True)
    found: dict[str, Any] = {"sessions": plain(sessions.list_user_sessions("ada"))}
    listed = [*threads.list_user_threads("ada"), *threads.list_user_threads("bob")]
    found["conversations"] = plain(listed)
    for thread in listed:
        assert thread.id is not None
        found[f"messages {thread.id}"] = plain(messages.list_messages(thread.id, limit=1000))
        found[f"conversation {thread.id}"] = plain(messages.conversation(thread.id))
        found[f"context {thread.id}"] = plain(messages.context(thread.id))
    found["search"] = plain(messages.search("bridges"))
    found["queries"] = plain(messages.recent_queries())
    found["state"] = plain(StateStore(manager, name).load("s1"))
    return found


def read_knowledge(manager: DatabaseManager, name: str) -> dict[str, Any]:
    context, graph = ContextStore(manager, name), MemoryGraph(manager, name)
    items, documents = ItemStore(manager, name), vectors(manager, name)
    condition: Condition = {"path": ["n"], "op": "$gt", "value": 4}
    answers = items.run(
        Batch(gets=[Get(LABELS, "k", False)], searches=[Search(LABELS, [condition], 10, 0, False)])
    )
    return {
        "note": plain(context.get("note", "x")),
        "note of ada": plain(context.for_user("ada").get_item("note")),
        "agents": plain(context.agents()),
        "items": plain(answers.gets + answers.searches[0]),
        "nodes": plain(graph.find(limit=100)),
        "edges": plain(graph.edges("a")),
        "history": plain(graph.history("a") + graph.history("gone")),
        "graph search": plain(graph.search("bridge")),
        "recalled": plain([each.node.id for each in graph.recall([0.1, 0.2, 0.3])]),
        "config": plain(graph.configs()),
        "documents": plain([each for each in documents.iterate(with_embeddings=True)]),
        "second": plain(documents.in_namespace("second").get("d", with_embedding=True)),
        "similar": [each.id for each in documents.search(embedding(5), k=5)],
        "words": [each.id for each in documents.search("text 41", k=1, mode="text")],
        "empty": vectors(manager, name, "empty").count(),
    }


def read_work(manager: DatabaseManager, name: str) -> dict[str, Any]:
    events, tasks = EventLog(manager, name), TaskStore(manager, name)
    values, outbox = KeyValueStore(manager, name), Outbox(manager, name, "orders")
    vault = vault_of(manager, name)
    return {
        "events": plain(events.query(limit=100)),
        "chain": plain(events.verify()),
        "tasks": plain(tasks.get_many(["z", "a"]) + tasks.find(kind="w")),
        "values": plain([values.get_item(key) for key in ("bytes", "json", "text", "count")]),
        "outbox": plain(outbox.status()),
        "secrets": plain(vault.list_secrets("chat")),
        "accesses": plain(vault.accesses()),
    }


def go_on(manager: DatabaseManager, name: str) -> dict[str, Any]:
    """Write on in every store, and return the numbers that are given."""
    checkpointer, messages = DatabaseCheckpointer(manager, name), MessageStore(manager, name)
    graph, tasks = MemoryGraph(manager, name), TaskStore(manager, name)
    events, documents = EventLog(manager, name), vectors(manager, name)
    lock = LeaseLock(manager, name, "job")
    saved = checkpointer.save_checkpoint(Checkpoint("t1", {"next": True}))
    repeated = checkpointer.save_checkpoint(Checkpoint("t1", {"other": True}, key="k5"))
    appended = messages.append("th2", Message(role="user", content="next"))
    once = messages.append("th1", Message(role="assistant", content="an answer", metadata={"m": 1}), key="once")
    again = graph.add_node(Node("gone", "thing"))
    events.audit("login", "again")
    documents.store_documents([Document("d000", "anew", {}, embedding(0)), Document("new", "", {}, embedding(1))])
    renewed = documents.get("d000")
    assert renewed is not None
    with lock:
        fence = lock.fence
    vault = vault_of(manager, name)
    reference = (vault.list_secrets("chat"))[0].reference
    secret = vault.reveal(reference, context="chat", actor="bob")
    return {
        "secret": (secret, (vault.accesses())[0].number),
        "checkpoint": (saved.version, saved.parent_version, repeated.version),
        "message": (appended.seq, once.seq),
        "node": again.version,
        "chain": plain(events.verify())["entries"],
        "document": (renewed.content, documents.count()),
        "task": len(tasks.add_many([Task(kind="w", key="k")])),
        "counter": KeyValueStore(manager, name).increment("count"),
        "outbox": Outbox(manager, name, "orders").put_many([("a", 4), ("c", 5)]),
        "fence": fence,
    }

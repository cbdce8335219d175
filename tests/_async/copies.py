"""A database with something of every store of the packages in it, and all of it read back through their own calls."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabaseManager,
    AsyncKeyValueStore,
    AsyncLeaseLock,
    AsyncOutbox,
    AsyncSecretVault,
    Cipher,
)
from persistence.dialect import to_json
from sessions import (
    AsyncContextStore,
    AsyncEventLog,
    AsyncMemoryGraph,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncStateStore,
    AsyncTaskStore,
    AsyncThreadManager,
    Edge,
    Event,
    Message,
    Node,
    Query,
    Session,
    Task,
    Thread,
)
from sessions._async.items import AsyncItemStore
from sessions.item_batches import Batch, Condition, Get, Put, Search
from sessions.items import namespace_key
from vectorstore import AsyncPgVectorStore, AsyncSQLiteVectorStore, AsyncVectorStore, Document

ODD = {"nul": "a\0b", "lone": "\ud800", "large": 2**70, "small": 1.0, "z": 1, "a": [None, True]}
DAY = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
LABELS = namespace_key(["memories", "ada"])


def vectors(manager: AsyncDatabaseManager, name: str, collection: str = "docs", **options: Any) -> AsyncVectorStore:
    """Return the documents of a connection, whatever its kind."""
    made = AsyncSQLiteVectorStore if manager.get_database(name).kind == "sqlite" else AsyncPgVectorStore
    return made(manager, name, collection=collection, dimensions=3, metric="cosine", text_search="english", **options)


def embedding(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).standard_normal(3).astype(np.float32)


async def fill(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> None:
    """Put something of a tenant into every store, and a checkpoint of another."""
    await fill_checkpoints(manager, name, tenant)
    await fill_conversations(manager, name, tenant)
    await fill_knowledge(manager, name, tenant)
    await fill_work(manager, name, tenant)


async def fill_checkpoints(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> None:
    checkpointer = AsyncDatabaseCheckpointer(manager, name, tenant=tenant)
    for step in range(8):
        state = {"step": step, "big": np.arange(3000 + step), "messages": [f"m{n}" for n in range(step)]}
        if step:  # which later versions need of the one that is deleted
            state["kept"] = np.random.default_rng(7).bytes(20_000)
        await checkpointer.save_checkpoint(
            Checkpoint("t1", state, step=step, node=f"n{step % 2}", key=f"k{step}", metadata={"ü": [step, 1.50]})
        )
    await checkpointer.fork("t1", 3, "forked")
    await checkpointer.save_checkpoint(Checkpoint("forked", {"own": np.random.default_rng(1).bytes(600_000)}))
    await checkpointer.save_checkpoint(Checkpoint("t1", {"sub": 1}, namespace="sub"))
    await checkpointer.put_writes("t1", "k6", "task", [("a", b"\0\xff"), ("b", {"x": 1})])
    await checkpointer.delete_checkpoint("t1", 2)
    await checkpointer.delete_checkpoint("t1", 8)
    await checkpointer.set_ttl("forked", 90_061.5)
    other = AsyncDatabaseCheckpointer(manager, name, tenant="other")
    await other.save_checkpoint(Checkpoint("t1", {"whose": "other"}))


async def fill_conversations(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> None:
    sessions, threads = (
        AsyncSessionManager(manager, name, tenant=tenant),
        AsyncThreadManager(manager, name, tenant=tenant),
    )
    messages = AsyncMessageStore(manager, name, searchable=True, tenant=tenant)
    await sessions.create_session(Session(id="s1", user_id="ada", title="T", metadata={"a": 1}), ttl=3600, sliding=True)
    await threads.create_thread(Thread(id="th1", session_id="s1", title="Bridges"))
    await threads.create_thread(Thread(id="th2", user_id="bob", metadata={"k": [1]}))
    await messages.append_many("th1", [Message(role="user", content=ODD), Message(role="user", content="Long BRIDGES")])
    await messages.append("th1", Message(role="assistant", content="an answer", metadata={"m": 1}), key="once")
    await messages.append_many("th2", [Message(role="user", content=f"number {n}") for n in range(120)])
    await messages.compact("th2", Message(role="system", content="a summary"), through=50)
    await messages.pop_last("th2")
    await messages.fork("th2", at=60, new_thread_id="th3")
    await messages.save_query(Query(question="why?", answer="because", user_id="ada", models=["m1"]))
    await AsyncStateStore(manager, name, tenant=tenant).update("s1", {"step": 1, "user:theme": ODD, "app:model": "m"})


async def fill_knowledge(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> None:
    context = AsyncContextStore(manager, name, tenant=tenant)
    await context.push("note", ODD, topics=["t", "ü"], subscribers=["x"], ttl=3600)
    await context.for_user("ada").push("note", [1])
    await context.register_topics("agent", ["t"])
    await context.set_permissions("agent", [])
    items = AsyncItemStore(manager, name, tenant=tenant)
    await items.run(Batch(puts=[Put(LABELS, "k", to_json({"n": 5, "s": "x"}), 10**9, [[1.0, 0.1, -0.3]])]))
    graph = AsyncMemoryGraph(manager, name, tenant=tenant)
    await graph.add_nodes([Node("a", "thing", {"t": "red\0 bridge"}), Node("b", "thing", {"n": 1.5})])
    await graph.patch("a", {"more": [1, 2]})
    await graph.add_edge(Edge("a", "knows", "b", weight=0.1))
    await graph.set_embeddings({"a": [0.1, 0.2, 0.3]})
    await graph.delete_node("gone") if await graph.add_node(Node("gone", "thing")) else None
    await graph.set_config("limit", {"n": 3})
    documents = vectors(manager, name, tenant=tenant)
    await documents.store_documents(
        [Document(f"d{n:03}", f"the text {n} of bridges", {"n": n, "f": 0.5}, embedding(n)) for n in range(70)]
    )
    await documents.update_document("d001", metadata={"n": 100})
    await documents.delete(["d002"])
    await documents.in_namespace("second").store_documents([Document("d", "another", {}, embedding(1))])
    await vectors(manager, name, "empty", tenant=tenant).count()


async def fill_work(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> None:
    events = AsyncEventLog(manager, name, tenant=tenant)
    await events.append_many(
        Event(kind="metric", name="m", value=n / 7, tags={"n": n}, time=DAY + timedelta(hours=11 * n)) for n in range(9)
    )
    for number in range(3):
        await events.audit("login", f"no {number}", tags={"who": "ada"}, time=DAY + timedelta(days=40 * number))
    tasks = AsyncTaskStore(manager, name, tenant=tenant)
    # The child's id is before its parent's, which it refers to.
    await tasks.add_many(
        [Task(kind="work", payload=ODD, id="z"), Task(kind="part", id="a", parent_id="z"), Task(kind="w", key="k")]
    )
    claimed = await tasks.claim_next("w", "worker")
    await tasks.complete(claimed[0], {"ok": ODD})
    await tasks.claim_next("work", "worker")
    values = AsyncKeyValueStore(manager, name, tenant=tenant)
    await values.put_many({"bytes": b"\0\xff", "json": ODD, "text": "ü"}, ttl=3600)
    await values.increment("count", 41)
    outbox = AsyncOutbox(manager, name, "orders", tenant=tenant)
    await outbox.put_many([("a", {"n": 1}), ("b", 2), ("a", 3)])
    lock = AsyncLeaseLock(manager, name, "job", tenant=tenant)
    async with lock:
        pass
    vault = vault_of(manager, name, tenant)
    protected = await vault.protect("password=correct-horse-battery", context="chat")
    assert await vault.restore(protected, context="chat", actor="ada")


def vault_of(manager: AsyncDatabaseManager, name: str, tenant: str = "default") -> AsyncSecretVault:
    return AsyncSecretVault(manager, name, Cipher({"k": bytes(range(32))}, "k"), tenant=tenant)


async def read(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    """Return what every store gives back."""
    return {
        **await read_checkpoints(manager, name),
        **await read_conversations(manager, name),
        **await read_knowledge(manager, name),
        **await read_work(manager, name),
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


async def read_checkpoints(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for tenant in ("default", "other"):
        checkpointer = AsyncDatabaseCheckpointer(manager, name, tenant=tenant)
        threads = await checkpointer.list_threads()
        found[f"threads of {tenant}"] = plain(threads)
        for thread in {each.thread_id for each in threads}:
            for namespace in ("", "sub"):
                listed = await checkpointer.list_checkpoints(thread, namespace=namespace)
                for each in listed:
                    loaded = await checkpointer.load_checkpoint(thread, each.version, namespace=namespace, writes=True)
                    found[f"checkpoint {tenant} {thread} {namespace} {each.version}"] = plain(loaded)
    return found


async def read_conversations(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    sessions, threads = AsyncSessionManager(manager, name), AsyncThreadManager(manager, name)
    messages = AsyncMessageStore(manager, name, searchable=True)
    found: dict[str, Any] = {"sessions": plain(await sessions.list_user_sessions("ada"))}
    listed = [*await threads.list_user_threads("ada"), *await threads.list_user_threads("bob")]
    found["conversations"] = plain(listed)
    for thread in listed:
        assert thread.id is not None
        found[f"messages {thread.id}"] = plain(await messages.list_messages(thread.id, limit=1000))
        found[f"conversation {thread.id}"] = plain(await messages.conversation(thread.id))
        found[f"context {thread.id}"] = plain(await messages.context(thread.id))
    found["search"] = plain(await messages.search("bridges"))
    found["queries"] = plain(await messages.recent_queries())
    found["state"] = plain(await AsyncStateStore(manager, name).load("s1"))
    return found


async def read_knowledge(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    context, graph = AsyncContextStore(manager, name), AsyncMemoryGraph(manager, name)
    items, documents = AsyncItemStore(manager, name), vectors(manager, name)
    condition: Condition = {"path": ["n"], "op": "$gt", "value": 4}
    answers = await items.run(
        Batch(gets=[Get(LABELS, "k", False)], searches=[Search(LABELS, [condition], 10, 0, False)])
    )
    return {
        "note": plain(await context.get("note", "x")),
        "note of ada": plain(await context.for_user("ada").get_item("note")),
        "agents": plain(await context.agents()),
        "items": plain(answers.gets + answers.searches[0]),
        "nodes": plain(await graph.find(limit=100)),
        "edges": plain(await graph.edges("a")),
        "history": plain(await graph.history("a") + await graph.history("gone")),
        "graph search": plain(await graph.search("bridge")),
        "recalled": plain([each.node.id for each in await graph.recall([0.1, 0.2, 0.3])]),
        "config": plain(await graph.configs()),
        "documents": plain([each async for each in documents.iterate(with_embeddings=True)]),
        "second": plain(await documents.in_namespace("second").get("d", with_embedding=True)),
        "similar": [each.id for each in await documents.search(embedding(5), k=5)],
        "words": [each.id for each in await documents.search("text 41", k=1, mode="text")],
        "empty": await vectors(manager, name, "empty").count(),
    }


async def read_work(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    events, tasks = AsyncEventLog(manager, name), AsyncTaskStore(manager, name)
    values, outbox = AsyncKeyValueStore(manager, name), AsyncOutbox(manager, name, "orders")
    vault = vault_of(manager, name)
    return {
        "events": plain(await events.query(limit=100)),
        "chain": plain(await events.verify()),
        "tasks": plain(await tasks.get_many(["z", "a"]) + await tasks.find(kind="w")),
        "values": plain([await values.get_item(key) for key in ("bytes", "json", "text", "count")]),
        "outbox": plain(await outbox.status()),
        "secrets": plain(await vault.list_secrets("chat")),
        "accesses": plain(await vault.accesses()),
    }


async def go_on(manager: AsyncDatabaseManager, name: str) -> dict[str, Any]:
    """Write on in every store, and return the numbers that are given."""
    checkpointer, messages = AsyncDatabaseCheckpointer(manager, name), AsyncMessageStore(manager, name)
    graph, tasks = AsyncMemoryGraph(manager, name), AsyncTaskStore(manager, name)
    events, documents = AsyncEventLog(manager, name), vectors(manager, name)
    lock = AsyncLeaseLock(manager, name, "job")
    saved = await checkpointer.save_checkpoint(Checkpoint("t1", {"next": True}))
    repeated = await checkpointer.save_checkpoint(Checkpoint("t1", {"other": True}, key="k5"))
    appended = await messages.append("th2", Message(role="user", content="next"))
    once = await messages.append("th1", Message(role="assistant", content="an answer", metadata={"m": 1}), key="once")
    again = await graph.add_node(Node("gone", "thing"))
    await events.audit("login", "again")
    await documents.store_documents([Document("d000", "anew", {}, embedding(0)), Document("new", "", {}, embedding(1))])
    renewed = await documents.get("d000")
    assert renewed is not None
    async with lock:
        fence = lock.fence
    vault = vault_of(manager, name)
    reference = (await vault.list_secrets("chat"))[0].reference
    secret = await vault.reveal(reference, context="chat", actor="bob")
    return {
        "secret": (secret, (await vault.accesses())[0].number),
        "checkpoint": (saved.version, saved.parent_version, repeated.version),
        "message": (appended.seq, once.seq),
        "node": again.version,
        "chain": plain(await events.verify())["entries"],
        "document": (renewed.content, await documents.count()),
        "task": len(await tasks.add_many([Task(kind="w", key="k")])),
        "counter": await AsyncKeyValueStore(manager, name).increment("count"),
        "outbox": await AsyncOutbox(manager, name, "orders").put_many([("a", 4), ("c", 5)]),
        "fence": fence,
    }

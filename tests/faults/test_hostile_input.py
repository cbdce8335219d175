"""Nasty texts as ids, values and filters of every store: kept exactly or refused, on each backend alike.

Every text is either read back as it went in, or is one ``ValidationError`` that sent nothing to the server; which of
the two, and what a filter finds, is the same everywhere, and the rows that were there before stay as they were.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import DatabaseManager, KeyValueStore, PgVectorConfig, RedisConfig, StatementEvent, ValidationError
from sessions import (
    ContextStore,
    Event,
    EventLog,
    MemoryGraph,
    Message,
    MessageStore,
    Node,
    Session,
    SessionManager,
    StateStore,
    Task,
    TaskStore,
    Thread,
    ThreadManager,
)
from vectorstore import Document, PgVectorStore, SQLiteVectorStore

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
SEED = os.environ.get("HOLDFAST_FAULT_SEED") or "hostile"
RANDOM = 300 if FULL else 12
TEXTS = [
    "'; DROP TABLE holdfast_checkpoints; --",
    "x') OR '1'='1",
    "a\"b'c`d",
    "$1 :id ::text ? %s %(id)s {0} {id}",
    "a.b.c[0]->>'x' #>> $.x ..*",
    "$where",
    "/* */ -- \\",
    "\\'; SELECT pg_sleep(10) --",
    "a:b",
    "a:b:c",
    "{a}:{b}",
    "{}",
    "*?[a-z]%_",
    "../../etc/passwd",
    "\r\n\t\x01\x7f",
    " leading and trailing ",
    "\u00e9",
    "e\u0301",
    "\u202eright to left",
    "\U0001f600" * 20,
    "İıſK",
    "NULL",
    "NaN",
    "0",
    "-1",
    "true",
    "__proto__",
    "\ufeff",
    "\uffff",
    "x" * 1024,
    "x" * 1025,
    "",
    "a\0b",
    "\ud800",
]
ALPHABET = "ab'\"\\;:-%_*?[]{}()$#/.,<>=|&^~` \t\n\0é😀\ud800"


def nasty() -> list[str]:
    """The texts above, and random ones of what is special anywhere, by a seed that is printed."""
    print(f"HOLDFAST_FAULT_SEED={SEED}")
    chance = random.Random(SEED)
    made = ["".join(chance.choices(ALPHABET, k=chance.randrange(1, 12))) for _ in range(RANDOM)]
    return list(dict.fromkeys([*TEXTS, *made]))


Use = Callable[[str], Any]


def uses(manager: DatabaseManager, sql: bool) -> Iterator[tuple[str, Use]]:
    """Yield how each store takes a text: what it gives back for it, which is the text itself."""
    checkpoints = DatabaseCheckpointer(manager, "main")

    def checkpoint(text: str) -> Any:
        checkpoints.save_checkpoint(Checkpoint(text, {text: text}, namespace=text, metadata={text: text}, key=text))
        found = checkpoints.load_checkpoint(text, namespace=text)
        assert (found.state, found.metadata, found.key) == ({text: text}, {text: text}, text)
        return found.thread_id

    def filtered_checkpoint(text: str) -> Any:
        checkpoints.save_checkpoint(Checkpoint("filters", {}, metadata={"kind": text}))
        return checkpoints.list_checkpoints("filters", filter={"kind": text})[0].metadata["kind"]

    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    messages, values = MessageStore(manager, "main"), KeyValueStore(manager, "main")
    context, states, tasks = ContextStore(manager, "main"), StateStore(manager, "main"), TaskStore(manager, "main")

    def session(text: str) -> Any:
        sessions.create_session(Session(id=f"s{text}", user_id=text, title=text, metadata={text: text}))
        found = sessions.list_user_sessions(text, where={text: text})
        assert [each.metadata for each in found] == [{text: text}]
        return found[0].user_id

    def thread(text: str) -> Any:
        threads.create_thread(Thread(id=text, user_id="u", metadata={"kind": text}))
        assert [each.id for each in threads.list_user_threads("u", where={"kind": text})] == [text]
        return threads.get_thread(text).id

    def message(text: str) -> Any:
        messages.append("m", Message(role="user", content={"said": text}), key=text)
        again = messages.append("m", Message(role="user", content={"said": text}), key=text)
        return messages.get_message("m", again.seq or 0).content["said"]

    def key_value(text: str) -> Any:
        values.put(text, text)
        assert text in [item.key for item in values.scan(text, limit=1000)]
        return values.get(text)

    def shared(text: str) -> Any:
        context.subscribe(text, [text])
        context.for_user(text).push(text, text, topics=[text], subscribers=[text])
        assert context.topics_of(text) == [text]
        return context.for_user(text).get(text)

    def state(text: str) -> Any:
        return states.update("s", {f"k{text}": text})[f"k{text}"]

    def task(text: str) -> Any:
        made = tasks.add(Task(kind=text, key=text, payload=text, metadata={"kind": text}))
        assert [each.id for each in tasks.find(kind=text, where={"kind": text})] == [made.id]
        return tasks.get(made.id or "").payload

    threads.create_thread(Thread(id="m", user_id="owner"))
    sessions.create_session(Session(id="s", user_id="owner"))
    yield "checkpoint", checkpoint
    yield "checkpoint by a filter", filtered_checkpoint
    yield from {"session": session, "thread": thread, "message": message, "key and value": key_value}.items()
    yield from {"context": shared, "state": state, "task": task}.items()
    if not sql:
        return
    graph, events = MemoryGraph(manager, "main"), EventLog(manager, "main")

    def node(text: str) -> Any:
        graph.add_node(Node(text, "t", {text: text}))
        assert text in [each.id for each in graph.find(where={text: text})]
        with suppress(ValidationError):  # it may have no word in it
            graph.search(text)
        return graph.get_node(text).id  # type: ignore[union-attr]

    def event(text: str) -> Any:
        events.append(Event(kind="log", name=text, message=text, level="info", tags={text: text}))
        return events.query(name=text, tags={text: text})[0].name

    yield from {"node": node, "event": event}.items()


def documents(vectors: PgVectorStore | SQLiteVectorStore) -> Iterator[tuple[str, Use]]:
    def document(text: str) -> Any:
        vectors.store_documents([Document(text, text, {"kind": text}, [1, 0, 0])])
        assert [found.id for found in vectors.search([1, 0, 0], 5, filter={"kind": text})] == [text]
        return vectors.get(text).content  # type: ignore[union-attr]

    def filtered(text: str) -> Any:
        assert vectors.count(filter={f"k{text}": {"$in": [text]}}) == 0
        return text

    yield from {"document": document, "filter of documents": filtered}.items()


def outcomes(
    manager: DatabaseManager, stores: Iterator[tuple[str, Use]], texts: list[str]
) -> dict[tuple[str, str], str]:
    """Return what became of each text in each store."""
    sent: list[StatementEvent] = []
    found = {}
    for name, use in stores:
        for text in texts:
            manager.on_statement[:] = [sent.append]
            sent.clear()
            try:
                back = use(text)
            except ValidationError:
                assert sent == [], (name, text)
                found[name, text] = "refused"
            else:
                assert back == text, (name, text)
                assert sent
                found[name, text] = "kept"
    manager.on_statement.clear()
    return found


def test_a_nasty_text_is_kept_exactly_or_refused_before_anything_is_sent_on_each_backend_alike(
    pgvector_config: PgVectorConfig, redis_config: RedisConfig, tmp_path: Path
) -> None:
    found, texts = {}, nasty()
    for backend in ("postgresql", "sqlite", "redis"):
        with DatabaseManager() as manager:
            if backend == "postgresql":
                manager.add_pgvector("main", pgvector_config)
            elif backend == "sqlite":
                manager.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")
            else:
                manager.add_redis("main", redis_config)
            kept = DatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("there before", {"n": 1}))
            stores = uses(manager, backend != "redis")
            if backend == "postgresql":
                stores = chain(stores, documents(PgVectorStore(manager, "main", dimensions=3)))
            elif backend == "sqlite":
                stores = chain(stores, documents(SQLiteVectorStore(manager, "main", dimensions=3)))
            found[backend] = outcomes(manager, stores, texts)
            assert DatabaseCheckpointer(manager, "main").load_checkpoint("there before") == kept
    assert found["postgresql"] == found["sqlite"]
    assert found["redis"] == {key: found["sqlite"][key] for key in found["redis"]}
    assert set(found["sqlite"].values()) == {"kept", "refused"}
    for name in {name for name, _ in found["sqlite"]}:
        assert found["sqlite"][name, TEXTS[0]] == "kept"
        assert found["sqlite"][name, "\ud800"] == "refused"

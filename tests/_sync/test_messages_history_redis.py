# Generated from ../_async/test_messages_history_redis.py by tests/unasync.py: edit that one.
"""Sums, search, queries, retention, import, state and a user's data on Redis: the same answers as SQLite's."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import pytest

from persistence import (
    DatabaseManager,
    CapabilityError,
    ConflictError,
    NotFoundError,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import (
    ContextStore,
    MessageStore,
    SessionManager,
    StateStore,
    ThreadManager,
    UserData,
    Message,
    Query,
    Session,
    Thread,
    Usage,
)
from tests._sync import test_messages_history as contract
from tests._sync import test_state as state_contract
from tests._sync.redis_contract import reused
from tests._sync.side import together

globals().update(reused(state_contract))
test_pruning_keeps_the_summary_in_use = contract.test_pruning_keeps_the_summary_in_use
test_following_gives_each_message_once_and_in_order = contract.test_following_gives_each_message_once_and_in_order
test_what_is_out_of_range_is_refused = contract.test_what_is_out_of_range_is_refused_before_anything_is_sent
test_what_a_user_asked_stays_theirs = contract.test_what_a_user_asked_stays_theirs_when_the_thread_becomes_anothers
test_a_closed_manager_is_a_clear_error = contract.test_a_closed_manager_is_a_clear_error

THREADS = ("t1", "t2", "t3")


@pytest.fixture
def database(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    """The connection ``main``, a Redis, and ``sqlite``, whose answers are compared."""
    manager.add_redis("main", redis_config)
    manager.add_sqlite("sqlite", SQLiteConfig(path=":memory:"))


state = state_contract.state


@pytest.fixture
def messages(manager: DatabaseManager, database: None) -> MessageStore:
    """Messages on Redis, beside ``t1`` and ``t2`` of ``ada`` in ``s1``, and ``t3`` of ``bob`` by itself."""
    return beginning(manager, "main")


def beginning(manager: DatabaseManager, name: str) -> MessageStore:
    SessionManager(manager, name).create_session(Session(id="s1", user_id="ada"))
    for thread, session in (("t1", "s1"), ("t2", "s1"), ("t3", None)):
        user = None if session else "bob"
        ThreadManager(manager, name).create_thread(Thread(id=thread, session_id=session, user_id=user))
    return MessageStore(manager, name, searchable=True)


def said(content: Any, role: str = "user", **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


def talk(store: MessageStore) -> None:
    """Append, take back, replace, fork, compact, prune: whatever changes what the sums are over."""
    second = timedelta(seconds=1)
    for thread in THREADS:
        store.append(thread, said(f"the bridge of {thread}\0\ud800", cost=Decimal("0.1"), models=["m", "é\\"]))
        store.append_many(
            thread,
            [
                said({"text": ["A BRIDGE"]}, "assistant", input_tokens=2**53, latency=second, models=["m"]),
                said(number := 1, cost=999_999_999, output_tokens=7, latency=3 * second),
                said(number + 1, cost=Decimal("0.000000001"), models=[]),
            ],
        )
    store.pop_last("t1")
    store.replace_tail("t2", 3, [said("bridge again", output_tokens=3), said("end")])
    store.fork("t3", new_thread_id="fork", at=3)
    store.append("fork", said("only here", input_tokens=1))
    store.pop_last("fork")
    store.pop_last("fork")  # what was copied was not counted
    store.append("fork", said("a bridge", output_tokens=5))
    store.compact("t3", said("summary", input_tokens=4), through=3)
    query = Query(question="why a bridge?", answer="because", user_id="bob", mode="x", models=["m"], latency=second)
    store.save_query(query)
    store.save_query(replace(query, thread_id="t3", sources=[1]), key="k")
    store.save_query(replace(query, thread_id="t3", sources=[1]), key="k")
    assert store.prune(thread_id="t3", keep_last=6) == 1


Ask = Callable[[MessageStore], Any]


def test_sums_searches_and_queries_are_those_of_sqlite(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    other = beginning(manager, "sqlite")
    for store in (messages, other):
        talk(store)
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    scopes: list[dict[str, Any]] = [
        *[{"thread_id": thread} for thread in (*THREADS, "fork", "nix")],
        {"session_id": "s1"},
        {"user_id": "ada"},
        {"user_id": "bob"},
        {"user_id": "bob", "session_id": "s1"},
        {"user_id": "bob", "since": today - timedelta(days=1), "until": today + timedelta(days=2)},
        {"user_id": "bob", "until": today - timedelta(days=1)},
    ]
    for scope in scopes:
        assert messages.usage(**scope) == other.usage(**scope), scope
        for by in ("day", "models", "session", "thread", "user"):
            assert messages.usage_by(by, **scope) == other.usage_by(by, **scope), (scope, by)
    assert (messages.usage(user_id="bob")).cost == Decimal("1000000000.100000001") - Decimal("0.1") - 1
    assert messages.usage_by("thread", user_id="bob", limit=1, after="fork") == other.usage_by(
        "thread", user_id="bob", limit=1, after="fork"
    )

    def plain(found: list[Any]) -> list[Any]:
        return [replace(one, created_at=None) for one in found]

    asks: list[Ask] = [
        lambda store: store.search("BRIDGE", user_id="bob"),
        lambda store: store.search("bridge", session_id="s1", limit=2),
        lambda store: store.search("bridge", thread_id="t1", role="assistant"),
        lambda store: store.search("bridge nowhere", thread_id="t1"),
        lambda store: store.for_user("bob").search("bridge"),
        lambda store: store.recent_queries(user_id="bob"),
        lambda store: store.recent_queries(thread_id="t3"),
        lambda store: store.for_user("ada").recent_queries(),
        *[partial(MessageStore.context, thread_id=thread) for thread in THREADS],
    ]
    for ask in asks:
        assert plain(ask(messages)) == plain(ask(other))
    assert len(messages.search("bridge", user_id="bob")) > 3
    first, *_ = messages.search("bridge", user_id="bob", limit=1)
    rest = messages.search("bridge", user_id="bob", after=first.cursor)
    assert [first, *rest] == messages.search("bridge", user_id="bob")
    assert messages.index_messages() == 0


def test_who_asked_in_a_thread_that_is_gone_is_forgotten(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    client, name = manager.get_redis("main").client, "holdfast:{default}:asked-threads:bob"
    messages.save_query(Query(question="q", answer="a", user_id="bob", thread_id="t3"))
    for user in ("eve", "bob", "eve"):
        ThreadManager(manager, "main").update_thread(Thread(id="t3", user_id=user))
    assert client.smembers(name) == {b"t3"}
    client.delete("holdfast:{default}:thread:t3")  # as one that ended with its session
    assert messages.recent_queries(user_id="bob") == []
    assert client.exists(name) == 0


def test_retention_is_that_of_sqlite(manager: DatabaseManager, messages: MessageStore) -> None:
    other = beginning(manager, "sqlite")

    def left(store: MessageStore) -> list[Any]:
        return [(message.thread_id, message.seq) for thread in THREADS for message in store.last(thread, 100)]

    for store in (messages, other):
        for thread in THREADS:
            store.append_many(thread, [said(n, input_tokens=10, output_tokens=1) for n in range(10)])
    steps: list[Ask] = [
        lambda store: store.prune(thread_id="t1", keep_last=8),
        lambda store: store.prune(thread_id="t1", keep_tokens=65),
        lambda store: store.prune(thread_id="t1", keep_tokens=55),
        lambda store: store.for_user("bob").prune(thread_id="t1", keep_last=0),
        lambda store: store.for_user("ada").prune(keep_last=4, limit=5),
        lambda store: store.for_user("ada").prune(keep_last=4, older_than=3600),
        lambda store: store.prune(thread_id="t2", older_than=3600),
    ]
    for step in steps:
        assert step(messages) == step(other)
        assert left(messages) == left(other)
        assert messages.usage(user_id="ada") == other.usage(user_id="ada")
    client = manager.get_redis("main").client
    members = client.zrange("holdfast:{default}:messages:t3", 0, 3)
    for place, member in enumerate(members):  # four messages grow old
        seq, version, _, rest = member.split(b":", 3)
        client.zrem("holdfast:{default}:messages:t3", member)
        client.zadd(
            "holdfast:{default}:messages:t3", {b"%s:%s:%d:%s" % (seq, version, place + 1, rest): place + 1}
        )
    assert messages.prune(thread_id="t3", older_than=3600) == 4
    assert [message.seq for message in messages.last("t3")] == list(range(5, 11))
    messages.prune(thread_id="t2", keep_last=0)
    assert messages.usage(thread_id="t2") == Usage()
    assert client.exists("holdfast:{default}:usage:t2") == 0
    assert (messages.append("t2", said("next"))).seq == 11


def test_an_export_is_imported_as_it_was(manager: DatabaseManager, messages: MessageStore) -> None:
    talk(messages)
    lines = [line for line in messages.export_messages("t3")]
    others = MessageStore(manager, "main", tenant="others")
    assert others.import_messages(lines) == len(lines) - 1
    assert [line for line in others.export_messages("t3")] == lines
    before, after = messages.conversation("t3"), others.conversation("t3")
    assert (after.version, after.window_seq, after.summary_seq) == (
        (messages.last("t3", 1))[0].version,
        before.window_seq,
        before.summary_seq,
    )
    assert others.usage(thread_id="t3") == messages.usage(thread_id="t3")
    assert (ThreadManager(manager, "main", tenant="others").get_thread("t3")).user_id == "bob"
    for again in (lines, [lines[0], lines[1], lines[1]]):
        with pytest.raises(ConflictError, match="numbers"):
            others.import_messages(again)
    with pytest.raises(ValidationError, match="line"):
        others.import_messages([*lines, "{}"], thread_id="new")
    assert others.last("new") == []
    assert messages.for_user("eve").import_messages(lines[:2], thread_id="eve's") == 1
    eve = ThreadManager(manager, "main").get_thread("eve's")
    for given in (lines[:1], lines[:2]):
        with pytest.raises(NotFoundError, match="eve's"):
            messages.for_user("bob").import_messages(given, thread_id="eve's")
    assert messages.for_user("eve").import_messages(lines[:1], thread_id="eve's") == 0
    assert ThreadManager(manager, "main").get_thread("eve's") == eve
    assert (ThreadManager(manager, "main").get_thread("eve's")).user_id == "eve"


def test_what_reads_every_thread_or_too_much_says_so(
    manager: DatabaseManager, messages: MessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages.append_many("t1", [said("x")] * 5)
    noon = datetime(2026, 5, 6, 12, tzinfo=UTC)
    for call in (
        partial(messages.search, "x"),
        partial(messages.usage),
        partial(messages.usage_by, "day"),
        partial(messages.usage, thread_id="t1", since=noon),
        partial(messages.recent_queries),
        partial(messages.prune, keep_last=1),
    ):
        with pytest.raises(CapabilityError):
            call()
    monkeypatch.setattr("sessions._sync.messages_scan.SCANNED", 4)
    with pytest.raises(CapabilityError, match="these are 5, more than 4"):
        messages.search("x", thread_id="t1")
    assert len(messages.last("t1")) == 5


def test_sums_of_concurrent_appends_miss_none(messages: MessageStore) -> None:
    calls = [partial(messages.append, "t1", said(n, input_tokens=n, cost=n)) for n in range(40)]
    assert [type(one) for one in together(*calls)] == [Message] * 40
    assert messages.usage(session_id="s1") == Usage(messages=40, input_tokens=780, cost=Decimal(780))


def test_erasing_a_user_leaves_no_key_and_the_export_is_all_they_have(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    sessions, client = SessionManager(manager, "main"), manager.get_redis("main").client
    talk(messages)
    state, context = StateStore(manager, "main"), ContextStore(manager, "main")
    state.update("s1", {"user:theme": "dark", "own": 1, "app:model": "m"})
    context.for_user("ada").push("note", "for ada")
    context.for_user("ada").register_topics("agent", ["t"])
    messages.for_user("bob").append("bob's own", said("of bob"))
    users = UserData(manager, "main")
    found = [json.loads(line) for line in users.export_user("ada")]
    kinds = [line["kind"] for line in found]
    assert (kinds.count("session"), kinds.count("thread"), kinds.count("message")) == (1, 2, 7)
    items = [(line["namespace"], line["key"], line["value"]) for line in found if line["kind"] == "item"]
    assert items == [(["state", "default"], "theme", "dark"), (["context"], "note", "for ada")]
    assert "bob" not in repr(found)
    report = users.erase_user("ada")
    assert report == {"messages": 7, "threads": 2, "sessions": 1, "items": 2, "agents": 1}
    assert [line for line in users.export_user("ada")] == []
    left = {key.decode() for key in client.keys("*")}
    assert [key for key in left if "ada" in key or key.endswith((":t1", ":t2", ":s1"))] == []
    assert users.erase_user("ada") == dict.fromkeys(report, 0)
    assert len(messages.last("t3", 100)) > 5
    sessions.create_session(Session(id="s9", user_id="bob"))
    messages.for_user("bob").append("later", said(1))
    ThreadManager(manager, "main").update_thread(Thread(id="later", user_id="bob", session_id="s9"))
    assert sessions.erase_session("s9") == {"messages": 1, "threads": 1, "sessions": 1}
    assert sessions.erase_session("s9") == {"messages": 0, "threads": 0, "sessions": 0}
    assert state.load((sessions.create_session(Session(user_id="ada"))).id) == {"app:model": "m"}

"""Sums, search, queries, retention, import, state and a user's data on Redis: the same answers as SQLite's."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    CapabilityError,
    ConflictError,
    NotFoundError,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import (
    AsyncContextStore,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncStateStore,
    AsyncThreadManager,
    AsyncUserData,
    Message,
    Query,
    Session,
    Thread,
    Usage,
)
from tests._async import test_messages_history as contract
from tests._async import test_state as state_contract
from tests._async.redis_contract import reused
from tests._async.side import together

globals().update(reused(state_contract))
test_pruning_keeps_the_summary_in_use = contract.test_pruning_keeps_the_summary_in_use
test_following_gives_each_message_once_and_in_order = contract.test_following_gives_each_message_once_and_in_order
test_what_is_out_of_range_is_refused = contract.test_what_is_out_of_range_is_refused_before_anything_is_sent
test_what_a_user_asked_stays_theirs = contract.test_what_a_user_asked_stays_theirs_when_the_thread_becomes_anothers
test_a_closed_manager_is_a_clear_error = contract.test_a_closed_manager_is_a_clear_error

THREADS = ("t1", "t2", "t3")


@pytest_asyncio.fixture
async def database(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    """The connection ``main``, a Redis, and ``sqlite``, whose answers are compared."""
    await manager.add_redis("main", redis_config)
    await manager.add_sqlite("sqlite", SQLiteConfig(path=":memory:"))


state = state_contract.state


@pytest_asyncio.fixture
async def messages(manager: AsyncDatabaseManager, database: None) -> AsyncMessageStore:
    """Messages on Redis, beside ``t1`` and ``t2`` of ``ada`` in ``s1``, and ``t3`` of ``bob`` by itself."""
    return await beginning(manager, "main")


async def beginning(manager: AsyncDatabaseManager, name: str) -> AsyncMessageStore:
    await AsyncSessionManager(manager, name).create_session(Session(id="s1", user_id="ada"))
    for thread, session in (("t1", "s1"), ("t2", "s1"), ("t3", None)):
        user = None if session else "bob"
        await AsyncThreadManager(manager, name).create_thread(Thread(id=thread, session_id=session, user_id=user))
    return AsyncMessageStore(manager, name, searchable=True)


def said(content: Any, role: str = "user", **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


async def talk(store: AsyncMessageStore) -> None:
    """Append, take back, replace, fork, compact, prune: whatever changes what the sums are over."""
    second = timedelta(seconds=1)
    for thread in THREADS:
        await store.append(thread, said(f"the bridge of {thread}\0\ud800", cost=Decimal("0.1"), models=["m", "é\\"]))
        await store.append_many(
            thread,
            [
                said({"text": ["A BRIDGE"]}, "assistant", input_tokens=2**53, latency=second, models=["m"]),
                said(number := 1, cost=999_999_999, output_tokens=7, latency=3 * second),
                said(number + 1, cost=Decimal("0.000000001"), models=[]),
            ],
        )
    await store.pop_last("t1")
    await store.replace_tail("t2", 3, [said("bridge again", output_tokens=3), said("end")])
    await store.fork("t3", new_thread_id="fork", at=3)
    await store.append("fork", said("only here", input_tokens=1))
    await store.pop_last("fork")
    await store.pop_last("fork")  # what was copied was not counted
    await store.append("fork", said("a bridge", output_tokens=5))
    await store.compact("t3", said("summary", input_tokens=4), through=3)
    query = Query(question="why a bridge?", answer="because", user_id="bob", mode="x", models=["m"], latency=second)
    await store.save_query(query)
    await store.save_query(replace(query, thread_id="t3", sources=[1]), key="k")
    await store.save_query(replace(query, thread_id="t3", sources=[1]), key="k")
    assert await store.prune(thread_id="t3", keep_last=6) == 1


Ask = Callable[[AsyncMessageStore], Awaitable[Any]]


async def test_sums_searches_and_queries_are_those_of_sqlite(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    other = await beginning(manager, "sqlite")
    for store in (messages, other):
        await talk(store)
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
        assert await messages.usage(**scope) == await other.usage(**scope), scope
        for by in ("day", "models", "session", "thread", "user"):
            assert await messages.usage_by(by, **scope) == await other.usage_by(by, **scope), (scope, by)
    assert (await messages.usage(user_id="bob")).cost == Decimal("1000000000.100000001") - Decimal("0.1") - 1
    assert await messages.usage_by("thread", user_id="bob", limit=1, after="fork") == await other.usage_by(
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
        *[partial(AsyncMessageStore.context, thread_id=thread) for thread in THREADS],
    ]
    for ask in asks:
        assert plain(await ask(messages)) == plain(await ask(other))
    assert len(await messages.search("bridge", user_id="bob")) > 3
    first, *_ = await messages.search("bridge", user_id="bob", limit=1)
    rest = await messages.search("bridge", user_id="bob", after=first.cursor)
    assert [first, *rest] == await messages.search("bridge", user_id="bob")
    assert await messages.index_messages() == 0


async def test_who_asked_in_a_thread_that_is_gone_is_forgotten(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    client, name = manager.get_redis("main").client, "holdfast:{default}:asked-threads:bob"
    await messages.save_query(Query(question="q", answer="a", user_id="bob", thread_id="t3"))
    for user in ("eve", "bob", "eve"):
        await AsyncThreadManager(manager, "main").update_thread(Thread(id="t3", user_id=user))
    assert await client.smembers(name) == {b"t3"}
    await client.delete("holdfast:{default}:thread:t3")  # as one that ended with its session
    assert await messages.recent_queries(user_id="bob") == []
    assert await client.exists(name) == 0


async def test_retention_is_that_of_sqlite(manager: AsyncDatabaseManager, messages: AsyncMessageStore) -> None:
    other = await beginning(manager, "sqlite")

    async def left(store: AsyncMessageStore) -> list[Any]:
        return [(message.thread_id, message.seq) for thread in THREADS for message in await store.last(thread, 100)]

    for store in (messages, other):
        for thread in THREADS:
            await store.append_many(thread, [said(n, input_tokens=10, output_tokens=1) for n in range(10)])
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
        assert await step(messages) == await step(other)
        assert await left(messages) == await left(other)
        assert await messages.usage(user_id="ada") == await other.usage(user_id="ada")
    client = manager.get_redis("main").client
    members = await client.zrange("holdfast:{default}:messages:t3", 0, 3)
    for place, member in enumerate(members):  # four messages grow old
        seq, version, _, rest = member.split(b":", 3)
        await client.zrem("holdfast:{default}:messages:t3", member)
        await client.zadd(
            "holdfast:{default}:messages:t3", {b"%s:%s:%d:%s" % (seq, version, place + 1, rest): place + 1}
        )
    assert await messages.prune(thread_id="t3", older_than=3600) == 4
    assert [message.seq for message in await messages.last("t3")] == list(range(5, 11))
    await messages.prune(thread_id="t2", keep_last=0)
    assert await messages.usage(thread_id="t2") == Usage()
    assert await client.exists("holdfast:{default}:usage:t2") == 0
    assert (await messages.append("t2", said("next"))).seq == 11


async def test_an_export_is_imported_as_it_was(manager: AsyncDatabaseManager, messages: AsyncMessageStore) -> None:
    await talk(messages)
    lines = [line async for line in messages.export_messages("t3")]
    others = AsyncMessageStore(manager, "main", tenant="others")
    assert await others.import_messages(lines) == len(lines) - 1
    assert [line async for line in others.export_messages("t3")] == lines
    before, after = await messages.conversation("t3"), await others.conversation("t3")
    assert (after.version, after.window_seq, after.summary_seq) == (
        (await messages.last("t3", 1))[0].version,
        before.window_seq,
        before.summary_seq,
    )
    assert await others.usage(thread_id="t3") == await messages.usage(thread_id="t3")
    assert (await AsyncThreadManager(manager, "main", tenant="others").get_thread("t3")).user_id == "bob"
    for again in (lines, [lines[0], lines[1], lines[1]]):
        with pytest.raises(ConflictError, match="numbers"):
            await others.import_messages(again)
    with pytest.raises(ValidationError, match="line"):
        await others.import_messages([*lines, "{}"], thread_id="new")
    assert await others.last("new") == []
    assert await messages.for_user("eve").import_messages(lines[:2], thread_id="eve's") == 1
    eve = await AsyncThreadManager(manager, "main").get_thread("eve's")
    for given in (lines[:1], lines[:2]):
        with pytest.raises(NotFoundError, match="eve's"):
            await messages.for_user("bob").import_messages(given, thread_id="eve's")
    assert await messages.for_user("eve").import_messages(lines[:1], thread_id="eve's") == 0
    assert await AsyncThreadManager(manager, "main").get_thread("eve's") == eve
    assert (await AsyncThreadManager(manager, "main").get_thread("eve's")).user_id == "eve"


async def test_what_reads_every_thread_or_too_much_says_so(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await messages.append_many("t1", [said("x")] * 5)
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
            await call()
    monkeypatch.setattr("sessions._async.messages_scan.SCANNED", 4)
    with pytest.raises(CapabilityError, match="these are 5, more than 4"):
        await messages.search("x", thread_id="t1")
    assert len(await messages.last("t1")) == 5


async def test_sums_of_concurrent_appends_miss_none(messages: AsyncMessageStore) -> None:
    calls = [partial(messages.append, "t1", said(n, input_tokens=n, cost=n)) for n in range(40)]
    assert [type(one) for one in await together(*calls)] == [Message] * 40
    assert await messages.usage(session_id="s1") == Usage(messages=40, input_tokens=780, cost=Decimal(780))


async def test_erasing_a_user_leaves_no_key_and_the_export_is_all_they_have(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    sessions, client = AsyncSessionManager(manager, "main"), manager.get_redis("main").client
    await talk(messages)
    state, context = AsyncStateStore(manager, "main"), AsyncContextStore(manager, "main")
    await state.update("s1", {"user:theme": "dark", "own": 1, "app:model": "m"})
    await context.for_user("ada").push("note", "for ada")
    await context.for_user("ada").register_topics("agent", ["t"])
    await messages.for_user("bob").append("bob's own", said("of bob"))
    users = AsyncUserData(manager, "main")
    found = [json.loads(line) async for line in users.export_user("ada")]
    kinds = [line["kind"] for line in found]
    assert (kinds.count("session"), kinds.count("thread"), kinds.count("message")) == (1, 2, 7)
    items = [(line["namespace"], line["key"], line["value"]) for line in found if line["kind"] == "item"]
    assert items == [(["state", "default"], "theme", "dark"), (["context"], "note", "for ada")]
    assert "bob" not in repr(found)
    report = await users.erase_user("ada")
    assert report == {"messages": 7, "threads": 2, "sessions": 1, "items": 2, "agents": 1}
    assert [line async for line in users.export_user("ada")] == []
    left = {key.decode() for key in await client.keys("*")}
    assert [key for key in left if "ada" in key or key.endswith((":t1", ":t2", ":s1"))] == []
    assert await users.erase_user("ada") == dict.fromkeys(report, 0)
    assert len(await messages.last("t3", 100)) > 5
    await sessions.create_session(Session(id="s9", user_id="bob"))
    await messages.for_user("bob").append("later", said(1))
    await AsyncThreadManager(manager, "main").update_thread(Thread(id="later", user_id="bob", session_id="s9"))
    assert await sessions.erase_session("s9") == {"messages": 1, "threads": 1, "sessions": 1}
    assert await sessions.erase_session("s9") == {"messages": 0, "threads": 0, "sessions": 0}
    assert await state.load((await sessions.create_session(Session(user_id="ada"))).id) == {"app:model": "m"}

"""A connection to Redis that drops before the answer: what only reads is asked again, and what writes says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, AsyncKeyValueStore, ConnectionLostError, RedisConfig
from sessions import (
    AsyncContextStore,
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncStateStore,
    AsyncTaskStore,
    AsyncThreadManager,
    Message,
    Session,
    Task,
    Thread,
)
from tests._async.redis_contract import teach
from tests.proxy import FaultyProxy


class Stores(NamedTuple):
    """Every store of sessions on one connection, and one of values."""

    sessions: AsyncSessionManager
    threads: AsyncThreadManager
    messages: AsyncMessageStore
    state: AsyncStateStore
    context: AsyncContextStore
    tasks: AsyncTaskStore
    values: AsyncKeyValueStore


READS: dict[str, list[Callable[[Stores], Awaitable[Any]]]] = {
    "sessions": [lambda at: at.sessions.get_session("s1"), lambda at: at.sessions.list_user_sessions("ada")],
    "threads": [
        lambda at: at.threads.get_thread("t1"),
        lambda at: at.threads.list_session_threads("s1"),
        lambda at: at.threads.list_user_threads("ada"),
    ],
    "messages": [
        lambda at: at.messages.last("t1"),
        lambda at: at.messages.list_messages("t1"),
        lambda at: at.messages.get_message("t1", 1),
        lambda at: at.messages.conversation("t1"),
        lambda at: at.messages.context("t1"),
        lambda at: at.messages.usage(thread_id="t1"),
    ],
    "state": [lambda at: at.state.load("s1")],
    "context": [
        lambda at: at.context.get("k"),
        lambda at: at.context.items(),
        lambda at: at.context.topics_of("agent"),
        lambda at: at.context.topics(),
        lambda at: at.context.agents(),
        lambda at: at.context.stats(),
    ],
    "tasks": [
        lambda at: at.tasks.get("job"),
        lambda at: at.tasks.get_many(["job"]),
        lambda at: at.tasks.find(kind="work"),
        lambda at: at.tasks.counts(),
        lambda at: at.tasks.latest("work"),
    ],
    "values": [
        lambda at: at.values.get("k"),
        lambda at: at.values.get_many(["k", "l"]),
        lambda at: at.values.scan(),
    ],
}
WRITES: dict[str, Callable[[Stores], Awaitable[Any]]] = {
    "sessions": lambda at: at.sessions.touch("s1"),
    "threads": lambda at: at.threads.patch("t1", {"a": 1}),
    "messages": lambda at: at.messages.append("t1", Message(role="user", content="again")),
    "state": lambda at: at.state.update("s1", {"a": 2}),
    "context": lambda at: at.context.push("k", 2),
    "tasks": lambda at: at.tasks.escalate("job"),
    "values": lambda at: at.values.increment("n"),
}


def stores(manager: AsyncDatabaseManager, name: str) -> Stores:
    return Stores(
        AsyncSessionManager(manager, name),
        AsyncThreadManager(manager, name),
        AsyncMessageStore(manager, name),
        AsyncStateStore(manager, name, app="app"),
        AsyncContextStore(manager, name).for_user("ada"),
        AsyncTaskStore(manager, name),
        AsyncKeyValueStore(manager, name),
    )


@pytest_asyncio.fixture
async def proxied(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncIterator[FaultyProxy]:
    """A proxy before a Redis with one of each thing: ``main`` is a connection to it, and ``proxied`` through it."""
    with FaultyProxy(redis_config.unix_socket or (redis_config.host, redis_config.port)) as proxy:
        through = replace(redis_config, unix_socket=None, host="127.0.0.1", port=proxy.port, max_retries=1)
        await manager.add_redis("main", redis_config)
        await manager.add_redis("proxied", through)
        main = stores(manager, "main")
        await main.sessions.create_session(Session(id="s1", user_id="ada"), ttl=timedelta(hours=1), sliding=True)
        await main.threads.create_thread(Thread(id="t1", session_id="s1"))
        await main.messages.append("t1", Message(role="user", content="hi", input_tokens=3))
        await main.state.update("s1", {"a": 1})
        await main.context.push("k", 1)
        await main.context.register_topics("agent", ["news"])
        await main.tasks.add(Task(kind="work", id="job"))
        await main.values.put("k", 1)
        await main.values.increment("n")  # so that the server knows the script
        await teach(manager)  # so that the answer that is lost is not that a server doesn't know the script
        yield proxy
        await manager.aclose()


async def dump(manager: AsyncDatabaseManager) -> dict[bytes, bytes | None]:
    """Return what the server holds."""
    client = manager.get_redis("main").client
    return {key: await client.dump(key) for key in await client.keys()}


@pytest.mark.parametrize("kind", READS)
async def test_a_read_is_asked_again_and_a_write_is_not(
    manager: AsyncDatabaseManager, proxied: FaultyProxy, kind: str
) -> None:
    main, through = stores(manager, "main"), stores(manager, "proxied")
    before = await dump(manager)
    for read in READS[kind]:
        expected = await read(main)
        assert expected
        proxied.mode = "swallow a reply"
        assert await read(through) == expected
        assert proxied.mode == "pass"  # the answer was lost, and asked for again
    assert await dump(manager) == before
    proxied.mode = "swallow a reply"
    with pytest.raises(ConnectionLostError):
        await WRITES[kind](through)
    assert proxied.mode == "pass"
    assert await dump(manager) != before

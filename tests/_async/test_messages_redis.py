"""Messages on Redis: the contract of the SQL databases, but for what looks into their tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, RedisConfig
from sessions import (
    AsyncMessageStore,
    AsyncSessionManager,
    AsyncThreadManager,
    Message,
    Session,
    Thread,
)
from tests._async import test_messages as contract
from tests._async import test_messages_order as order
from tests._async.redis_contract import reused, teach

globals().update(reused(contract))
parallel = contract.parallel
test_sixteen_writers_leave_no_gap = order.test_sixteen_writers_of_one_thread_leave_no_gap_and_every_reader_sees_a_prefix


@pytest_asyncio.fixture
async def database(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> None:
    """The connection ``main``, for a test that asks for a database but only uses the stores."""
    await manager.add_redis("main", redis_config)


@pytest_asyncio.fixture
async def messages(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncMessageStore:
    """Messages, beside the thread ``t1`` of ``ada`` in the session ``s1``."""
    await manager.add_redis("main", redis_config)
    await AsyncSessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    await AsyncThreadManager(manager, "main").create_thread(Thread(id="t1", session_id="s1"))
    return AsyncMessageStore(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore, redis_config: RedisConfig
) -> AsyncMessageStore:
    """The same messages through a second connection."""
    await manager.add_redis("elsewhere", redis_config)
    return AsyncMessageStore(manager, "elsewhere")


def said(content: Any) -> Message:
    return Message(role="user", content=content)


async def test_a_key_leaves_nothing_behind_and_one_stored_without_its_number_goes_too(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    client, keys = manager.get_redis("main").client, "holdfast:{default}:message-keys:t1"
    await messages.append("t1", said("a"), key="k")
    assert await client.hkeys(keys) == [b"k", b"\x001"]
    await messages.pop_last("t1")
    assert not await client.exists(keys)
    await messages.append("t1", said("a"), key="k")
    await client.hdel(keys, "\x002")
    await messages.pop_last("t1")
    assert await client.hkeys(keys) == [b"k"]
    assert (await messages.append("t1", said("b"), key="k")).seq == 3
    assert [message.content for message in await messages.last("t1")] == ["b"]


async def test_each_call_is_one_script(manager: AsyncDatabaseManager, messages: AsyncMessageStore) -> None:
    await teach(manager)
    await messages.append_many("t1", [said(number) for number in range(6)])
    for call in (
        partial(messages.append, "t1", said("x"), key="k", expected_version=1),
        partial(messages.append_many, "t1", [said("x"), said("y")]),
        partial(messages.last, "t1"),
        partial(messages.list_messages, "t1", after=2),
        partial(messages.context, "t1"),
        partial(messages.conversation, "t1"),
        partial(messages.compact, "t1", said("s"), through=2),
        partial(messages.pop_last, "t1"),
        partial(messages.replace_tail, "t1", 3, [said("g"), said("h")]),
        partial(messages.replace_tail, "t1", 3, []),
        partial(messages.fork, "t1"),
    ):
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1


async def test_content_is_kept_to_the_last_bit(messages: AsyncMessageStore, elsewhere: AsyncMessageStore) -> None:
    await messages.append_many("t1", [said(content) for content in contract.CONTENTS])
    for content in contract.CONTENTS:
        await messages.append("t1", said(content))
    found = [message.content for message in await elsewhere.last("t1", 1000)]
    assert [repr(content) for content in found] == [repr(content) for content in contract.CONTENTS * 2]
    assert (await messages.append("t1", contract.FULL)).content == contract.FULL.content
    (stored,) = await elsewhere.last("t1", 1)
    for name in ("metadata", "input_tokens", "output_tokens", "cost", "models", "latency", "sources", "answers"):
        assert getattr(stored, name) == getattr(contract.FULL, name)


async def test_messages_end_with_their_session_and_leave_no_key(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    sessions, client = AsyncSessionManager(manager, "main"), manager.get_redis("main").client
    await messages.append("t1", said("a"), key="k")
    await messages.fork("t1", new_thread_id="t2")
    names = {b"thread:t1", b"messages:t1", b"message-keys:t1", b"thread:t2", b"messages:t2", b"session:s1"}
    keys = [b"holdfast:{default}:" + name for name in names]
    assert [await client.pttl(name) for name in keys] == [-1] * 6
    session = await sessions.get_session("s1")
    session.sliding = contract.timedelta(hours=1)
    await sessions.update_session(session)
    await messages.append("t1", said("b"), key="l")
    for name in keys:
        assert 3_600_000 < await client.pttl(name) <= 3_661_000
    await client.hset("holdfast:{default}:session:s1", "expires", "1")
    assert await messages.last("t1") == []
    with pytest.raises(contract.NotFoundError):
        await messages.append("t1", said("c"))
    assert await sessions.delete_session("s1") is False
    assert await client.keys("*") == []


async def test_tenants_with_odd_names_have_keys_of_their_own(
    manager: AsyncDatabaseManager, messages: AsyncMessageStore
) -> None:
    for tenant in ("a}:session:{b", "a", "*", "{", "é"):
        store = AsyncMessageStore(manager, "main", tenant=tenant).for_user("ada")
        assert (await store.append("t1", said(tenant))).seq == 1
        assert [message.content for message in await store.last("t1")] == [tenant]
    assert await messages.last("t1") == []

# Generated from ../_async/test_messages_redis.py by tests/unasync.py: edit that one.
"""Messages on Redis: the contract of the SQL databases, but for what looks into their tables."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, RedisConfig
from sessions import (
    MessageStore,
    SessionManager,
    ThreadManager,
    Message,
    Session,
    Thread,
)
from tests._sync import test_messages as contract
from tests._sync import test_messages_order as order
from tests._sync.redis_contract import reused, teach

globals().update(reused(contract))
parallel = contract.parallel
test_sixteen_writers_leave_no_gap = order.test_sixteen_writers_of_one_thread_leave_no_gap_and_every_reader_sees_a_prefix


@pytest.fixture
def database(manager: DatabaseManager, redis_config: RedisConfig) -> None:
    """The connection ``main``, for a test that asks for a database but only uses the stores."""
    manager.add_redis("main", redis_config)


@pytest.fixture
def messages(manager: DatabaseManager, redis_config: RedisConfig) -> MessageStore:
    """Messages, beside the thread ``t1`` of ``ada`` in the session ``s1``."""
    manager.add_redis("main", redis_config)
    SessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    ThreadManager(manager, "main").create_thread(Thread(id="t1", session_id="s1"))
    return MessageStore(manager, "main")


@pytest.fixture
def elsewhere(
    manager: DatabaseManager, messages: MessageStore, redis_config: RedisConfig
) -> MessageStore:
    """The same messages through a second connection."""
    manager.add_redis("elsewhere", redis_config)
    return MessageStore(manager, "elsewhere")


def said(content: Any) -> Message:
    return Message(role="user", content=content)


def test_a_key_leaves_nothing_behind_and_one_stored_without_its_number_goes_too(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    client, keys = manager.get_redis("main").client, "holdfast:{default}:message-keys:t1"
    messages.append("t1", said("a"), key="k")
    assert client.hkeys(keys) == [b"k", b"\x001"]
    messages.pop_last("t1")
    assert not client.exists(keys)
    messages.append("t1", said("a"), key="k")
    client.hdel(keys, "\x002")
    messages.pop_last("t1")
    assert client.hkeys(keys) == [b"k"]
    assert (messages.append("t1", said("b"), key="k")).seq == 3
    assert [message.content for message in messages.last("t1")] == ["b"]


def test_each_call_is_one_script(manager: DatabaseManager, messages: MessageStore) -> None:
    teach(manager)
    messages.append_many("t1", [said(number) for number in range(6)])
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
        call()
        assert manager.stats()["main"].requests - before == 1


def test_content_is_kept_to_the_last_bit(messages: MessageStore, elsewhere: MessageStore) -> None:
    messages.append_many("t1", [said(content) for content in contract.CONTENTS])
    for content in contract.CONTENTS:
        messages.append("t1", said(content))
    found = [message.content for message in elsewhere.last("t1", 1000)]
    assert [repr(content) for content in found] == [repr(content) for content in contract.CONTENTS * 2]
    assert (messages.append("t1", contract.FULL)).content == contract.FULL.content
    (stored,) = elsewhere.last("t1", 1)
    for name in ("metadata", "input_tokens", "output_tokens", "cost", "models", "latency", "sources", "answers"):
        assert getattr(stored, name) == getattr(contract.FULL, name)


def test_messages_end_with_their_session_and_leave_no_key(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    sessions, client = SessionManager(manager, "main"), manager.get_redis("main").client
    messages.append("t1", said("a"), key="k")
    messages.fork("t1", new_thread_id="t2")
    names = {b"thread:t1", b"messages:t1", b"message-keys:t1", b"thread:t2", b"messages:t2", b"session:s1"}
    keys = [b"holdfast:{default}:" + name for name in names]
    assert [client.pttl(name) for name in keys] == [-1] * 6
    session = sessions.get_session("s1")
    session.sliding = contract.timedelta(hours=1)
    sessions.update_session(session)
    messages.append("t1", said("b"), key="l")
    for name in keys:
        assert 3_600_000 < client.pttl(name) <= 3_661_000
    client.hset("holdfast:{default}:session:s1", "expires", "1")
    assert messages.last("t1") == []
    with pytest.raises(contract.NotFoundError):
        messages.append("t1", said("c"))
    assert sessions.delete_session("s1") is False
    assert client.keys("*") == []


def test_tenants_with_odd_names_have_keys_of_their_own(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    for tenant in ("a}:session:{b", "a", "*", "{", "é"):
        store = MessageStore(manager, "main", tenant=tenant).for_user("ada")
        assert (store.append("t1", said(tenant))).seq == 1
        assert [message.content for message in store.last("t1")] == [tenant]
    assert messages.last("t1") == []

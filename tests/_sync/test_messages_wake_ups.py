# Generated from ../_async/test_messages_wake_ups.py by tests/unasync.py: edit that one.
"""Wake-ups of followers: opt-in, coalesced, after the commit, and never what makes a message arrive at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, CapabilityError, SQLiteConfig, ValidationError
from sessions import MessageStore, Message
from sessions._sync import following
from tests._sync.side import Started, sleep

pytestmark = pytest.mark.tables("sessions")


@pytest.fixture(params=["postgresql", "redis"])
def connection(request: pytest.FixtureRequest, manager: DatabaseManager) -> str:
    """The connections ``main`` and ``elsewhere`` to one server; a store on it, with the thread ``t``."""
    for name in ("main", "elsewhere"):
        if request.param == "redis":
            manager.add_redis(name, request.getfixturevalue("redis_config"))
        else:
            manager.add_postgresql(name, request.getfixturevalue("postgresql_config"))
    MessageStore(manager, "main").for_user("ada").append("t", said("first"))
    return str(request.param)


def said(content: Any) -> Message:
    return Message(role="user", content=content)


def followed(store: MessageStore, wanted: int) -> list[Any]:
    """Return what comes after the first message, as soon as there is that much of it."""
    found: list[Any] = []
    for message in store.follow("t", after=1, poll=60, timeout=20):
        found.append(message.content)
        if len(found) == wanted:
            return found
    return found


def listening(manager: DatabaseManager) -> None:
    """Return once the follower has its connection."""
    for _ in range(2000):
        if manager.stats()["elsewhere"].dedicated:
            return
        sleep(0.01)
    raise AssertionError("nobody listens")


def test_a_notice_ends_the_wait_of_a_follower(
    manager: DatabaseManager, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever asked first has nothing to find, and would ask again in 20 s.
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    store = MessageStore(manager, "main", notify=1e-6)
    follower = Started(partial(followed, MessageStore(manager, "elsewhere", notify=60), 3))
    listening(manager)
    store.append("t", said(2))
    store.append_many("t", [said(3), said(4)])
    assert follower.result(timeout=15) == [2, 3, 4]


def test_a_message_without_a_notice_is_found_all_the_same(manager: DatabaseManager, connection: str) -> None:
    store = MessageStore(manager, "main", notify=60)
    follower = Started(partial(followed, MessageStore(manager, "elsewhere", notify=60), 2))
    listening(manager)
    store.append("t", said(2))  # tells
    store.append("t", said(3))  # too soon to tell again
    assert follower.result(timeout=15) == [2, 3]


def test_a_thread_is_told_of_once_in_a_while_and_a_store_without_notify_tells_nobody(
    manager: DatabaseManager, connection: str
) -> None:
    def requests(store: MessageStore, thread: str, calls: int) -> int:
        store.append(thread, said(0))
        before = manager.stats()["main"].requests
        for number in range(calls):
            store.append(thread, said(number))
        return manager.stats()["main"].requests - before

    quiet = MessageStore(manager, "main").for_user("ada")
    rare = MessageStore(manager, "main", notify=60).for_user("ada")
    often = MessageStore(manager, "main", notify=1e-6).for_user("ada")
    assert requests(quiet, "a", 5) == 5
    assert requests(rare, "b", 5) == 5
    assert requests(often, "c", 5) == 10
    before = manager.stats()["main"].requests
    rare.for_user("ada").append("a", said(1))  # another thread, and another face of the same store
    rare.append("a", said(2))
    assert manager.stats()["main"].requests - before == 3


def test_what_a_transaction_appends_is_told_as_it_commits(
    manager: DatabaseManager, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection == "redis":
        pytest.skip("transactions: Redis has none that stores join")
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    store = MessageStore(manager, "main", notify=60)
    follower = Started(partial(followed, MessageStore(manager, "elsewhere", notify=60), 2))
    listening(manager)
    database = manager.get_database("main")
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            store.append("t", said("never"))
            _ = 1 / 0
    with database.transaction():
        store.append("t", said(2))
        store.append("t", said(3))
    assert follower.result(timeout=15) == [2, 3]


def test_sqlite_has_no_notices_and_a_while_is_a_duration(manager: DatabaseManager, connection: str) -> None:
    manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(CapabilityError, match="no notices"):
        MessageStore(manager, "file", notify=1)
    wrong: Any
    for wrong in (0, -1, "1", True, float("nan")):
        with pytest.raises(ValidationError):
            MessageStore(manager, "main", notify=wrong)

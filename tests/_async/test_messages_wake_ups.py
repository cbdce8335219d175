"""Wake-ups of followers: opt-in, coalesced, after the commit, and never what makes a message arrive at all."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, CapabilityError, SQLiteConfig, ValidationError
from sessions import AsyncMessageStore, Message
from sessions._async import following
from tests._async.side import Started, sleep

pytestmark = pytest.mark.tables("sessions")


@pytest_asyncio.fixture(params=["postgresql", "redis"])
async def connection(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> str:
    """The connections ``main`` and ``elsewhere`` to one server; a store on it, with the thread ``t``."""
    for name in ("main", "elsewhere"):
        if request.param == "redis":
            await manager.add_redis(name, request.getfixturevalue("redis_config"))
        else:
            await manager.add_postgresql(name, request.getfixturevalue("postgresql_config"))
    await AsyncMessageStore(manager, "main").for_user("ada").append("t", said("first"))
    return str(request.param)


def said(content: Any) -> Message:
    return Message(role="user", content=content)


async def followed(store: AsyncMessageStore, wanted: int) -> list[Any]:
    """Return what comes after the first message, as soon as there is that much of it."""
    found: list[Any] = []
    async for message in store.follow("t", after=1, poll=60, timeout=20):
        found.append(message.content)
        if len(found) == wanted:
            return found
    return found


async def listening(manager: AsyncDatabaseManager) -> None:
    """Return once the follower has its connection."""
    for _ in range(2000):
        if manager.stats()["elsewhere"].dedicated:
            return
        await sleep(0.01)
    raise AssertionError("nobody listens")


async def test_a_notice_ends_the_wait_of_a_follower(
    manager: AsyncDatabaseManager, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever asked first has nothing to find, and would ask again in 20 s.
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    store = AsyncMessageStore(manager, "main", notify=1e-6)
    follower = Started(partial(followed, AsyncMessageStore(manager, "elsewhere", notify=60), 3))
    await listening(manager)
    await store.append("t", said(2))
    await store.append_many("t", [said(3), said(4)])
    assert await follower.result(timeout=15) == [2, 3, 4]


async def test_a_message_without_a_notice_is_found_all_the_same(manager: AsyncDatabaseManager, connection: str) -> None:
    store = AsyncMessageStore(manager, "main", notify=60)
    follower = Started(partial(followed, AsyncMessageStore(manager, "elsewhere", notify=60), 2))
    await listening(manager)
    await store.append("t", said(2))  # tells
    await store.append("t", said(3))  # too soon to tell again
    assert await follower.result(timeout=15) == [2, 3]


async def test_a_thread_is_told_of_once_in_a_while_and_a_store_without_notify_tells_nobody(
    manager: AsyncDatabaseManager, connection: str
) -> None:
    async def requests(store: AsyncMessageStore, thread: str, calls: int) -> int:
        await store.append(thread, said(0))
        before = manager.stats()["main"].requests
        for number in range(calls):
            await store.append(thread, said(number))
        return manager.stats()["main"].requests - before

    quiet = AsyncMessageStore(manager, "main").for_user("ada")
    rare = AsyncMessageStore(manager, "main", notify=60).for_user("ada")
    often = AsyncMessageStore(manager, "main", notify=1e-6).for_user("ada")
    assert await requests(quiet, "a", 5) == 5
    assert await requests(rare, "b", 5) == 5
    assert await requests(often, "c", 5) == 10
    before = manager.stats()["main"].requests
    await rare.for_user("ada").append("a", said(1))  # another thread, and another face of the same store
    await rare.append("a", said(2))
    assert manager.stats()["main"].requests - before == 3


async def test_what_a_transaction_appends_is_told_as_it_commits(
    manager: AsyncDatabaseManager, connection: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection == "redis":
        pytest.skip("transactions: Redis has none that stores join")
    monkeypatch.setattr(following, "SHORTEST_WAIT", 20.0)
    store = AsyncMessageStore(manager, "main", notify=60)
    follower = Started(partial(followed, AsyncMessageStore(manager, "elsewhere", notify=60), 2))
    await listening(manager)
    database = manager.get_database("main")
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await store.append("t", said("never"))
            _ = 1 / 0
    async with database.transaction():
        await store.append("t", said(2))
        await store.append("t", said(3))
    assert await follower.result(timeout=15) == [2, 3]


async def test_sqlite_has_no_notices_and_a_while_is_a_duration(manager: AsyncDatabaseManager, connection: str) -> None:
    await manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(CapabilityError, match="no notices"):
        AsyncMessageStore(manager, "file", notify=1)
    wrong: Any
    for wrong in (0, -1, "1", True, float("nan")):
        with pytest.raises(ValidationError):
            AsyncMessageStore(manager, "main", notify=wrong)

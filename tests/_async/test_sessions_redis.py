"""Sessions on Redis: the contract of the SQL databases, but for what looks into their tables."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, NotFoundError, RedisConfig
from sessions import AsyncSessionManager, AsyncThreadManager, Session, Thread
from tests._async import test_sessions as contract
from tests._async.redis_contract import reused

globals().update(reused(contract))
parallel = contract.parallel


@pytest_asyncio.fixture
async def sessions(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncSessionManager:
    await manager.add_redis("main", redis_config)
    return AsyncSessionManager(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager, redis_config: RedisConfig
) -> AsyncSessionManager:
    """The same sessions through a second connection."""
    await manager.add_redis("elsewhere", redis_config)
    return AsyncSessionManager(manager, "elsewhere")


async def test_a_session_comes_back_as_it_is_stored(
    sessions: AsyncSessionManager, elsewhere: AsyncSessionManager
) -> None:
    far = datetime(9998, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    metadata = {"a": [1.5, None, {}], "": "x", "é\U0001f9f6": 2**62, "big": 1e16, "m:": True}
    given = Session(id="s1", user_id="ada", title="", metadata=metadata, expires_at=far)
    stored = await sessions.create_session(given)
    assert await elsewhere.get_session("s1") == stored
    assert (stored.title, stored.metadata, stored.expires_at, stored.version) == ("", metadata, far, 1)
    assert repr(stored.metadata["big"]) == "1e+16"


async def test_what_has_expired_is_gone_for_every_call(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager
) -> None:
    client, threads = manager.get_redis("main").client, AsyncThreadManager(manager, "main")
    never = []
    for call in (
        partial(sessions.get_session, "s1"),
        partial(sessions.touch, "s1"),
        partial(sessions.patch, "s1", {"a": 1}),
        partial(sessions.update_session, Session(id="s1", user_id="ada")),
    ):
        with pytest.raises(NotFoundError) as caught:
            await call()
        never.append((call, str(caught.value)))
    for number in range(3):
        await sessions.create_session(Session(id=f"s{number}", user_id="ada"), ttl=3600)
        await threads.create_thread(Thread(id=f"t{number}", session_id=f"s{number}"))
    for number in range(2):
        await client.hset(f"holdfast:{{default}}:session:s{number}", "expires", "1")
        await client.zadd("holdfast:{default}:expiry", {f"s{number}": 1})
    for call, told in never:
        with pytest.raises(NotFoundError) as caught:
            await call()
        assert str(caught.value) == told
    assert [session.id for session in await sessions.list_user_sessions("ada")] == ["s2"]
    assert [thread.id for thread in await threads.list_user_threads("ada")] == ["t2"]
    assert (await sessions.create_session(Session(id="s1", user_id="eve"))).version == 1
    assert [await sessions.delete_expired(limit=1) for _ in range(2)] == [1, 0]
    assert await sessions.list_user_sessions("eve") == [await sessions.get_session("s1")]
    left = {key.decode().partition("}:")[2] for key in await client.keys("*")}
    assert left == {
        "session:s1",
        "session:s2",
        "session-threads:s2",
        "thread:t2",
        "user-sessions:ada",
        "user-sessions:eve",
        "user-threads:ada",
        "expiry",
    }


async def test_keys_end_by_themselves_and_are_forgotten(
    manager: AsyncDatabaseManager, sessions: AsyncSessionManager
) -> None:
    client = manager.get_redis("main").client
    await sessions.create_session(Session(id="s1", user_id="ada"), ttl=timedelta(hours=1), sliding=True)
    assert 3_600_000 < await client.pttl("holdfast:{default}:session:s1") <= 3_661_000
    await client.delete("holdfast:{default}:session:s1")
    assert await sessions.list_user_sessions("ada") == []
    assert await client.exists("holdfast:{default}:user-sessions:ada") == 0

"""Threads on Redis: the contract of the SQL databases, but for what looks into their tables."""

from __future__ import annotations

import pytest_asyncio

from persistence import AsyncDatabaseManager, RedisConfig
from sessions import AsyncSessionManager, AsyncThreadManager, Session
from tests._async import test_threads as contract
from tests._async.redis_contract import reused

globals().update(reused(contract))
parallel = contract.parallel


@pytest_asyncio.fixture
async def sessions(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncSessionManager:
    await manager.add_redis("main", redis_config)
    return AsyncSessionManager(manager, "main")


@pytest_asyncio.fixture
async def threads(manager: AsyncDatabaseManager, sessions: AsyncSessionManager) -> AsyncThreadManager:
    """Threads, beside the session ``s1`` of ``ada``."""
    await sessions.create_session(Session(id="s1", user_id="ada"))
    return AsyncThreadManager(manager, "main")


@pytest_asyncio.fixture
async def elsewhere(
    manager: AsyncDatabaseManager, threads: AsyncThreadManager, redis_config: RedisConfig
) -> AsyncThreadManager:
    """The same threads through a second connection."""
    await manager.add_redis("elsewhere", redis_config)
    return AsyncThreadManager(manager, "elsewhere")

"""The shared context on a cluster."""

from __future__ import annotations

import pytest_asyncio

from persistence import AsyncDatabaseManager, RedisConfig
from sessions import AsyncContextStore
from tests._async import test_context as contract
from tests._async.redis_contract import repeated

globals().update(repeated(contract, "context", "server"))


@pytest_asyncio.fixture
async def context(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncContextStore:
    await manager.add_redis("main", redis_config)
    return AsyncContextStore(manager, "main")


@pytest_asyncio.fixture
async def server(context: AsyncContextStore) -> AsyncContextStore:
    return context

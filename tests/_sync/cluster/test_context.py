# Generated from ../_async/cluster/test_context.py by tests/unasync.py: edit that one.
"""The shared context on a cluster."""

from __future__ import annotations

import pytest

from persistence import DatabaseManager, RedisConfig
from sessions import ContextStore
from tests._sync import test_context as contract
from tests._sync.redis_contract import repeated

globals().update(repeated(contract, "context", "server"))


@pytest.fixture
def context(manager: DatabaseManager, redis_config: RedisConfig) -> ContextStore:
    manager.add_redis("main", redis_config)
    return ContextStore(manager, "main")


@pytest.fixture
def server(context: ContextStore) -> ContextStore:
    return context

# Generated from ../_async/test_threads_redis.py by tests/unasync.py: edit that one.
"""Threads on Redis: the contract of the SQL databases, but for what looks into their tables."""

from __future__ import annotations

import pytest

from persistence import DatabaseManager, RedisConfig
from sessions import SessionManager, ThreadManager, Session
from tests._sync import test_threads as contract
from tests._sync.redis_contract import reused

globals().update(reused(contract))
parallel = contract.parallel


@pytest.fixture
def sessions(manager: DatabaseManager, redis_config: RedisConfig) -> SessionManager:
    manager.add_redis("main", redis_config)
    return SessionManager(manager, "main")


@pytest.fixture
def threads(manager: DatabaseManager, sessions: SessionManager) -> ThreadManager:
    """Threads, beside the session ``s1`` of ``ada``."""
    sessions.create_session(Session(id="s1", user_id="ada"))
    return ThreadManager(manager, "main")


@pytest.fixture
def elsewhere(
    manager: DatabaseManager, threads: ThreadManager, redis_config: RedisConfig
) -> ThreadManager:
    """The same threads through a second connection."""
    manager.add_redis("elsewhere", redis_config)
    return ThreadManager(manager, "elsewhere")

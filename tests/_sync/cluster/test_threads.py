# Generated from ../_async/cluster/test_threads.py by tests/unasync.py: edit that one.
"""Threads on a cluster."""

from __future__ import annotations

from tests._sync import test_threads_redis
from tests._sync.redis_contract import repeated

globals().update(repeated(test_threads_redis))

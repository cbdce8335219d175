"""Threads on a cluster."""

from __future__ import annotations

from tests._async import test_threads_redis
from tests._async.redis_contract import repeated

globals().update(repeated(test_threads_redis))

# Generated from ../_async/cluster/test_sessions.py by tests/unasync.py: edit that one.
"""Sessions on a cluster, but for the test that lists the keys of one server."""

from __future__ import annotations

from tests._sync import test_sessions_redis
from tests._sync.redis_contract import repeated

globals().update(repeated(test_sessions_redis, "test_what_has_expired_is_gone_for_every_call"))

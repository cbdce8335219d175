"""Sessions on a cluster, but for the test that lists the keys of one server."""

from __future__ import annotations

from tests._async import test_sessions_redis
from tests._async.redis_contract import repeated

globals().update(repeated(test_sessions_redis, "test_what_has_expired_is_gone_for_every_call"))

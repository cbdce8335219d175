# Generated from ../_async/cluster/test_messages.py by tests/unasync.py: edit that one.
"""Messages on a cluster."""

from __future__ import annotations

from tests._sync import test_messages_redis
from tests._sync.redis_contract import repeated

globals().update(repeated(test_messages_redis))

"""Sealed checkpoints on a cluster."""

from __future__ import annotations

from tests._async import test_checkpoint_redis_sealing
from tests._async.redis_contract import repeated

globals().update(repeated(test_checkpoint_redis_sealing))

# Generated from ../_async/cluster/test_sealing.py by tests/unasync.py: edit that one.
"""Sealed checkpoints on a cluster."""

from __future__ import annotations

from tests._sync import test_checkpoint_redis_sealing
from tests._sync.redis_contract import repeated

globals().update(repeated(test_checkpoint_redis_sealing))

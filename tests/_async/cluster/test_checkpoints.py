"""Checkpoints on a cluster: every thread on a slot of its own, the names of all on another."""

from __future__ import annotations

from tests._async import test_checkpoint_history, test_checkpoint_retention, test_checkpoint_writes, test_checkpointer
from tests._async.redis_contract import repeated, reused

for contract in (test_checkpointer, test_checkpoint_history, test_checkpoint_writes, test_checkpoint_retention):
    globals().update({name: test for name, test in reused(contract).items() if name in repeated(contract)})

"""What Redis in front of PostgreSQL buys: loads of the latest by a process that has not seen the thread, and its price.

``python -m tests.benchmarks.cached_checkpoints [--quick]``. Both servers are on this machine, reached by sockets; the
ways are timed in turns. Values are random letters.
"""

from __future__ import annotations

import argparse
import base64
import random
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from checkpoint import CachedCheckpointer, Checkpoint, DatabaseCheckpointer
from persistence import DatabaseManager, EmbeddedPostgreSQL, EmbeddedRedis
from tests.benchmarks.measure import in_turns, report

SIZES = {"1 KiB": 2**10, "64 KiB": 2**16, "1 MiB": 2**20, "8 MiB": 2**23}


def state_of(size: int) -> dict[str, Any]:
    """Return a state of ten channels that are together so large."""
    chance = random.Random(size)
    return {f"channel_{number}": base64.b64encode(chance.randbytes(size * 3 // 40)).decode() for number in range(10)}


def forgetting(checkpointer: DatabaseCheckpointer) -> Callable[[], object]:
    """Return a load by a process that remembers nothing of the thread."""

    def load() -> object:
        checkpointer._bases.drop(("t", ""))
        return checkpointer.load_checkpoint("t")

    return load


def saving(checkpointer: DatabaseCheckpointer, state: dict[str, Any]) -> Callable[[], object]:
    """Return a save that changes one channel of ten."""
    chance = random.Random(1)
    size = len(state["channel_0"])

    def save() -> object:
        changed = base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
        return checkpointer.save_checkpoint(Checkpoint("t", {**state, "channel_0": changed}))

    return save


def main() -> None:
    """Print the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer turns")
    turns = 20 if parser.parse_args().quick else 200
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(EmbeddedPostgreSQL(folder / "postgresql"))
        redis = stack.enter_context(EmbeddedRedis(folder / "redis"))
        manager = stack.enter_context(DatabaseManager())
        manager.add_redis("cache", redis.config())
        for name, size in SIZES.items():
            database = f"db_{size}"
            server.create_database(database)
            manager.add_postgresql(database, server.config(database))
            state = state_of(size)
            plain = DatabaseCheckpointer(manager, database, tenant="plain")
            cached = stack.enter_context(CachedCheckpointer(manager, database, "cache", tenant=f"cached {name}"))
            warm = DatabaseCheckpointer(manager, database, tenant="plain")
            for each in (plain, cached):
                each.save_checkpoint(Checkpoint("t", state))
            warm.load_checkpoint("t")
            count = max(5, turns // 4) if size > 2**20 else turns
            loads = in_turns(
                {
                    "PostgreSQL": forgetting(plain),
                    "with Redis": forgetting(cached),
                    "in the process": lambda warm=warm: warm.load_checkpoint("t"),  # type: ignore[misc]
                },
                rounds=count,
                calls=3,
            )
            if cached.stats().misses or cached.stats().errors:
                raise RuntimeError(f"Redis did not have it: {cached.stats()}")
            report(f"{name}: load of the latest", loads, floor="PostgreSQL")
            ways = {"PostgreSQL": saving(plain, state), "with Redis": saving(cached, state)}
            report(f"{name}: save of a tenth", in_turns(ways, rounds=count, calls=3), floor="PostgreSQL")


if __name__ == "__main__":
    main()

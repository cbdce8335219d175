"""What a program says that ends with saves held back: their threads, as Python names files that are not closed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import asyncio, atexit, os, sys
from checkpoint import AsyncDatabaseCheckpointer, Checkpoint, DatabaseCheckpointer, MemoryCheckpointer
from persistence import AsyncDatabaseManager, DatabaseManager

with DatabaseManager() as manager:
    manager.add_sqlite("main", sys.argv[1])
    lost = DatabaseCheckpointer(manager, "main", durability="exit")
    lost.save_checkpoint(Checkpoint("lost", {"secret": 1}))
    flushed = DatabaseCheckpointer(manager, "main", durability="exit")
    flushed.save_checkpoint(Checkpoint("flushed", {}))
    flushed.flush()


async def main():
    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", sys.argv[1])
        other = AsyncDatabaseCheckpointer(manager, "main", durability="exit")
        await other.save_checkpoint(Checkpoint("lost by a task", {}))


asyncio.run(main())
late = MemoryCheckpointer(durability="exit")
late.save_checkpoint(Checkpoint("flushed at exit", {}))
atexit.register(late.flush)
dropped = MemoryCheckpointer(durability="exit")
dropped.save_checkpoint(Checkpoint("dropped", {}))
dropped.discard_held()
if os.fork() == 0:
    sys.exit()
os.wait()
"""


def test_a_program_that_ends_with_saves_held_back_names_their_threads_once(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", PROGRAM, f"sqlite:///{tmp_path}/a.db"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line.partition("ResourceWarning: ")[2] for line in done.stderr.splitlines()]
    told = sorted(line for line in lines if line and not line.startswith("Enable tracemalloc"))
    rest = " (flush(), close() or `with` saves them, discard_held() drops them)"
    assert told == [
        f"main: 1 save with durability=\"exit\" never flushed: thread 'lost by a task'{rest}",
        f"main: 1 save with durability=\"exit\" never flushed: thread 'lost'{rest}",
    ]
    assert "secret" not in done.stderr

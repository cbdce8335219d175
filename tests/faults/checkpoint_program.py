"""A program that saves checkpoints until it is killed, run by the tests beside it: ``python -m … '{"task": …}'``.

It writes a line for each save that was acknowledged, at once and by one system call, so that a line is there exactly
when the save had returned before the kill.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from checkpoint import (
    AsyncCheckpointer,
    AsyncDatabaseCheckpointer,
    AsyncFileCheckpointer,
    CachedCheckpointer,
    Checkpoint,
    Checkpointer,
    DatabaseCheckpointer,
    FileCheckpointer,
)
from persistence import (
    AsyncDatabaseManager,
    CommitUnknownError,
    ConflictError,
    DatabaseManager,
    PersistenceError,
    UnavailableError,
)

THREAD = "workflow: é*?[a]'\"--"
"""One thread id for all, with what SQL and glob patterns give a meaning to."""
LOST = (UnavailableError, CommitUnknownError)
"""After these nobody knows whether the save took place."""


def state_of(n: int) -> dict[str, Any]:
    """Return the state of step ``n``: a list that grows and begins anew, a large value that stays, some that change."""
    return {
        "n": n,
        "messages": [f"message {i}: " + "word " * (i % 7) + "\0\ud800" for i in range(n - n % 150, n + 1)],
        "document": random.Random(n // 40).randbytes(7000),
        "notes": {"odd": n % 2 == 1, "text": f"note {n} " * 60},
        "nan": [float("inf"), 2**70 + n],
    }


def checkpoint_of(n: int) -> Checkpoint:
    return Checkpoint(THREAD, state_of(n), metadata={"n": n}, step=n, key=f"step {n}")


def tell(*words: object) -> None:
    """Write a line: a pipe takes one so short whole or not at all, whatever other processes write to it."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def next_step(latest: Checkpoint | None) -> int:
    """Return the step after the latest checkpoint, which must be whole."""
    if latest is None:
        return 1
    if latest.state != state_of(latest.state["n"]):
        raise RuntimeError(f"checkpoint {latest.version} is not as it was saved")
    return int(latest.state["n"]) + 1


def save_steps(checkpointer: Checkpointer, last: int, patience: float) -> None:
    """Go on after the latest step."""
    for n in range(next_step(checkpointer.latest(THREAD)), last + 1):
        save(checkpointer, checkpoint_of(n), patience)


def save(checkpointer: Checkpointer, checkpoint: Checkpoint, patience: float) -> None:
    """Save and say so; a save whose answer was lost is repeated with its key for so many seconds."""
    n = checkpoint.state["n"]
    until = time.monotonic() + patience
    while True:
        try:
            saved = checkpointer.save_checkpoint(checkpoint)
            break
        except LOST as exc:
            if time.monotonic() > until:
                raise
            tell("lost", n, type(exc).__name__)
            time.sleep(0.01)
    tell("saved", n, saved.version)


async def asave_steps(checkpointer: AsyncCheckpointer, last: int, patience: float) -> None:
    """As ``save_steps``, and ``save``."""
    for n in range(next_step(await checkpointer.latest(THREAD)), last + 1):
        until = time.monotonic() + patience
        while True:
            try:
                saved = await checkpointer.save_checkpoint(checkpoint_of(n))
                break
            except LOST as exc:
                if time.monotonic() > until:
                    raise
                tell("lost", n, type(exc).__name__)
                await asyncio.sleep(0.01)
        tell("saved", n, saved.version)


def save_side_by_side(checkpointer: Checkpointer, process: int, threads: int, count: int, patience: float) -> None:
    """Save from several threads at once, without expecting any version."""

    def work(thread: int) -> None:
        for turn in range(count):
            save(checkpointer, checkpoint_of(process * 10_000 + thread * 1000 + turn), patience)

    run_threads([lambda thread=thread: work(thread) for thread in range(threads)])  # type: ignore[misc]


def race(checkpointer: Checkpointer, process: int, threads: int, rounds: int) -> None:
    """Try to be the one that makes each version from the one before, and say who was."""

    def work(thread: int) -> None:
        latest = 0
        while latest < rounds:
            n = process * 100 + thread
            try:
                saved = checkpointer.save_checkpoint(
                    Checkpoint(THREAD, {"n": n, "long": f"{n} " * 200}), expected_version=latest
                )
            except ConflictError as exc:
                tell("lost", n, exc.expected)
                latest = exc.actual or 0
            else:
                latest = saved.version or 0
                tell("won", n, latest)

    run_threads([lambda thread=thread: work(thread) for thread in range(threads)])  # type: ignore[misc]


def run_threads(calls: list[Callable[[], None]]) -> None:
    """Run the calls at the same time; a program in which one of them fails ends at once."""

    def run(call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as exc:
            sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
            sys.stderr.flush()
            os._exit(1)

    started = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


async def run_async(task: dict[str, Any]) -> None:
    """Perform a task that saves steps, on asyncio."""
    async with AsyncDatabaseManager() as manager:
        if "path" in task:
            async with AsyncFileCheckpointer(task["path"]) as checkpointer:
                await asave_steps(checkpointer, task["last"], task["patience"])
        else:
            await manager.add("main", task["url"])
            await asave_steps(AsyncDatabaseCheckpointer(manager, "main"), task["last"], task["patience"])


def run(task: dict[str, Any]) -> None:
    """Perform a task."""
    with DatabaseManager() as manager:
        checkpointer: Checkpointer
        if "path" in task:
            checkpointer = FileCheckpointer(task["path"])
        else:
            manager.add("main", task["url"])
            checkpointer = DatabaseCheckpointer(manager, "main", group_commit=task.get("group_commit", False))
            if "cache" in task:
                manager.add("cache", task["cache"])
                checkpointer = CachedCheckpointer(manager, "main", "cache")
        with checkpointer:
            if task["task"] == "steps":
                save_steps(checkpointer, task["last"], task["patience"])
            elif task["task"] == "side by side":
                save_side_by_side(checkpointer, task["process"], task["threads"], task["count"], task["patience"])
            else:
                race(checkpointer, task["process"], task["threads"], task["rounds"])


def main() -> int:
    """Perform the task of the command line; an error of ours is one line, and exit code 1."""
    task = json.loads(sys.argv[1])
    try:
        if task["async"]:
            asyncio.run(run_async(task))
        else:
            run(task)
    except PersistenceError as exc:
        sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

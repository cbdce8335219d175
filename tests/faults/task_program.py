"""A program that claims tasks until it is killed, run by the tests beside it: ``python -m … '{"task": …}'``.

What a task does is one row in ``effects``, under the token of its claim; the row and the completion are one
transaction, so that a worker whose token is old leaves none.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from persistence import DatabaseManager, PersistenceError
from sessions import LeaseLostError, TaskStore


def tell(*words: object) -> None:
    """Write a line by one system call."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def ready(tasks: TaskStore) -> None:
    """Connect, say so, and wait to be told to begin."""
    tasks.get_many(["nobody"])
    tell("ready")
    sys.stdin.readline()


def work(manager: DatabaseManager, owner: str, lease: float, batch: int) -> None:
    """Claim and do tasks until none is open."""
    tasks, database = TaskStore(manager, "main"), manager.get_database("main")
    ready(tasks)
    while True:
        held = tasks.claim_next("work", owner, batch, lease=lease)
        if not held:
            counts = tasks.counts()
            if not counts["pending"] and not counts["active"] and not counts["deferred"]:
                return
            time.sleep(0.02)
        for task in held:
            try:
                with database.transaction():
                    database.execute(
                        "INSERT INTO effects (task, token, owner) VALUES (:task, :token, :owner)",
                        {"task": task.id, "token": task.token, "owner": owner},
                    )
                    tasks.complete(task, owner)
            except LeaseLostError:
                tell("lost", task.id)
            else:
                tell("done", task.id)


def race(manager: DatabaseManager, process: int, threads: int, rounds: int) -> None:
    """Claim the shared task of each round in so many threads at once; say who won."""
    tasks = TaskStore(manager, "main")
    start = threading.Barrier(threads)
    ready(tasks)

    def run(thread: int) -> None:
        owner = f"{process}-{thread}"
        for number in range(rounds):
            start.wait()
            task, created = tasks.claim("shared", owner, key=f"round {number}")
            tell("won" if created else "lost", number, owner, task.owner)

    running = [threading.Thread(target=run, args=(thread,)) for thread in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join()


def main() -> int:
    """Perform the task of the command line; an error of ours is one line, and exit code 1."""
    task: dict[str, Any] = json.loads(sys.argv[1])
    try:
        with DatabaseManager() as manager:
            manager.add("main", task["url"])
            if task["task"] == "work":
                work(manager, task["owner"], task["lease"], task["batch"])
            else:
                race(manager, task["process"], task["threads"], task["rounds"])
    except PersistenceError as exc:
        sys.stderr.write(f"{type(exc).__name__}: {exc}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

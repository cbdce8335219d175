"""Several programs share work on one PostgreSQL; one of them is killed, and nothing is done twice or left undone.

A real PostgreSQL is started for it. The instances race for the one wake-up of the day, then take tasks from one queue.
"""

import multiprocessing
import os
import signal
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from persistence import DatabaseManager, EmbeddedPostgreSQL, PostgreSQLConfig
from sessions import Task, TaskStore, TaskWorker

TASKS = 60
LEASE = 1.0  # seconds; a minute is more usual, but this is to be quick


def instance(config: PostgreSQLConfig, name: str) -> None:
    """Claim the wake-up, which one instance does, and then work until there is nothing left."""
    with DatabaseManager() as manager:
        manager.add_postgresql("main", config)
        tasks = TaskStore(manager, "main")
        task, created = tasks.claim("wakeup", name)
        if created:
            tasks.complete(task, f"done by {name}")

        def square(task: Task) -> int:
            time.sleep(0.01)  # the work
            return int(task.payload) ** 2

        worker = TaskWorker(tasks, {"square": square}, name, lease=LEASE)
        while (counts := tasks.counts(kind="square"))["pending"] or counts["active"]:
            worker.run(until_idle=True)
            time.sleep(0.05)


def main() -> None:
    """Start four instances, kill one, and look at what was done."""
    start = multiprocessing.get_context("spawn").Process
    with (
        TemporaryDirectory() as folder,
        EmbeddedPostgreSQL(Path(folder) / "postgresql") as server,
        DatabaseManager() as manager,
    ):
        manager.add_postgresql("main", server.config())
        tasks = TaskStore(manager, "main")
        tasks.add_many([Task(kind="square", payload=number) for number in range(TASKS)])
        running = {f"instance-{n}": start(target=instance, args=(server.config(), f"instance-{n}")) for n in range(4)}
        for process in running.values():
            process.start()
        while not (held := tasks.find(kind="square", status="active")):
            time.sleep(0.005)
        victim = held[0].owner or ""
        os.kill(running[victim].pid or 0, signal.SIGKILL)
        print(f"killed:     {victim}, while it held a task")
        for process in running.values():
            process.join()

        wakeup = tasks.latest("wakeup")
        print(f"wake-up:    {wakeup.result if wakeup else None}, attempts {wakeup.attempts if wakeup else 0}")
        done = tasks.find(kind="square", limit=TASKS)
        print(f"counts:     {tasks.counts(kind='square')}")
        print(f"done by:    {dict(sorted(Counter(task.owner for task in done).items()))}")
        print(f"twice held: {sum(task.attempts > 1 for task in done)} of {len(done)}")
        assert {task.payload: task.result for task in done} == {number: number**2 for number in range(TASKS)}


if __name__ == "__main__":
    main()

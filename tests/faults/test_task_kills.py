"""kill -9 of programs that claim tasks: each task is done once, by the rule of tokens; a shared task has one winner.

``HOLDFAST_FAULTS=full`` has 16 processes do 20,000 tasks, and 64 claimers race for 1,000 shared ones. Kills come at
random moments; their seed is printed with a failure and can be given as ``HOLDFAST_FAULT_SEED``.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from time import monotonic, sleep
from typing import Any

import pytest

from persistence import DatabaseManager, PostgreSQLConfig
from sessions import Task, TaskStore
from tests.servers import url_of
from tests.unasync import ROOT

pytestmark = pytest.mark.tables("sessions")

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
PROCESSES = 16 if FULL else 4
TASKS = 20_000 if FULL else 600
CLAIMERS, ROUNDS = (64, 1000) if FULL else (16, 50)
LEASE = 3.0 if FULL else 0.5


class Program:
    """A running ``task_program``; a thread reads what it says."""

    def __init__(self, config: PostgreSQLConfig, **task: Any) -> None:
        self.owner = task.get("owner", "")
        self.lines: list[list[str]] = []
        self.said = threading.Semaphore(0)
        self.has_ended = False
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.task_program", json.dumps({"url": url_of(config), **task})],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.lines.append(line.split())
            self.said.release()
        self.has_ended = True
        self.said.release()

    def hear(self, lines: int, has_enough: Callable[[], bool] = lambda: True) -> None:
        """Wait until it has said so many lines, or has ended, or is silent and doesn't have enough to do."""
        until = monotonic() + 60
        while len(self.lines) < lines and not self.has_ended:
            if not self.said.acquire(timeout=1):
                if not has_enough():
                    return
                assert monotonic() < until

    def begin(self) -> None:
        """Have it begin, once it is ready."""
        self.hear(1)
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def finish(self) -> None:
        """Wait for its end; it must have done what it was asked to."""
        assert self.process.stderr is not None
        errors = self.process.stderr.read()
        assert self.process.wait(300) == 0, errors

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self._reader.join()
        self.process.communicate()


@pytest.fixture
def manager(postgresql_config: PostgreSQLConfig) -> Iterator[DatabaseManager]:
    with DatabaseManager() as made:
        made.add_postgresql("main", postgresql_config)
        yield made


def test_each_task_is_done_once_although_every_tenth_program_is_killed(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, chance: random.Random
) -> None:
    tasks, database = TaskStore(manager, "main"), manager.get_database("main")
    database.execute("CREATE TABLE effects (task text, token bigint, owner text)")
    for start in range(0, TASKS, 10_000):
        tasks.add_many([Task(kind="work", max_attempts=100) for _ in range(min(10_000, TASKS - start))])
    with ExitStack() as stack:

        def start() -> Program:
            worker = f"worker {secrets.token_hex(4)}"
            program = Program(postgresql_config, task="work", owner=worker, lease=LEASE, batch=20)
            return stack.enter_context(program)

        running = [start() for _ in range(PROCESSES)]
        for program in running:
            program.hear(1)
        # One is stopped while it holds tasks, whose leases then run out; when it goes on, it must find them lost. The
        # others begin thereafter, or they might have done everything before it is caught.
        paused = running[0]
        paused.begin()
        held = 0
        while not held:
            paused.hear(len(paused.lines) + 1)
            assert not paused.has_ended
            os.kill(paused.process.pid, signal.SIGSTOP)
            held = database.execute(
                "UPDATE holdfast_tasks SET wake_at = now() WHERE tenant_id = 'default' AND id IN ("
                "SELECT id FROM holdfast_tasks WHERE owner = :owner AND status = 'active' FOR UPDATE SKIP LOCKED)",
                {"owner": paused.owner},
            )
            if not held:  # it was between two claims
                os.kill(paused.process.pid, signal.SIGCONT)
        for program in running[1:]:
            program.begin()
        # Every tenth, and at least two, are killed after a number of their answers that is drawn; others follow.
        for _ in range(max(2, PROCESSES // 10)):
            victim = running.pop(chance.randrange(1, len(running)))
            # On a busy machine the others may have done everything, but for what the paused one holds.
            victim.hear(len(victim.lines) + chance.randint(1, 19), lambda: tasks.counts()["pending"] > 0)
            victim.process.kill()
            running.append(start())
            running[-1].begin()
        # The others take them over, but for those it was about to end: its transaction holds them until it goes on.
        lapsed = (
            "SELECT count(*) FROM (SELECT FROM holdfast_tasks WHERE owner = :owner AND status = 'active'"
            " AND wake_at <= now() FOR UPDATE SKIP LOCKED) AS free"
        )
        until = monotonic() + 60
        while database.fetch_value(lapsed, {"owner": paused.owner}):
            assert monotonic() < until
            sleep(0.01)
        os.kill(paused.process.pid, signal.SIGCONT)
        for program in running:
            program.finish()
        assert any(line[0] == "lost" for line in paused.lines)
    assert tasks.counts() == {**dict.fromkeys(tasks.counts(), 0), "completed": TASKS}
    effects = database.fetch_all("SELECT task, token, owner FROM effects")
    assert Counter(Counter(row["task"] for row in effects).values()) == {1: TASKS}
    rows = database.fetch_all("SELECT id, token, owner, result #>> '{}' AS done FROM holdfast_tasks")
    assert {(row["id"], row["token"], row["owner"]) for row in rows} == {
        (row["task"], row["token"], row["owner"]) for row in effects
    }
    assert all(row["done"] == row["owner"] for row in rows)


def test_of_all_who_claim_a_shared_task_at_once_one_wins_each_round(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    tasks = TaskStore(manager, "main")
    tasks.counts()
    with ExitStack() as stack:
        programs = [
            stack.enter_context(
                Program(postgresql_config, task="race", process=number, threads=CLAIMERS // 4, rounds=ROUNDS)
            )
            for number in range(4)
        ]
        for program in programs:
            program.begin()
        for program in programs:
            program.finish()
        lines = [line for program in programs for line in program.lines[1:]]
    winners: dict[str, set[str]] = {}
    seen: dict[str, set[str]] = {}
    for outcome, number, owner, holder in lines:
        seen.setdefault(number, set()).add(holder)
        if outcome == "won":
            winners.setdefault(number, set()).add(owner)
    assert len(lines) == CLAIMERS * ROUNDS
    assert len(winners) == ROUNDS
    assert all(len(each) == 1 for each in winners.values())
    assert sum(line[0] == "won" for line in lines) == ROUNDS
    assert seen == winners
    assert {task.owner for task in tasks.find(limit=10_000)} == {next(iter(each)) for each in winners.values()}

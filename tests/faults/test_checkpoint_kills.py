"""kill -9 of the program that saves, and of PostgreSQL: what was acknowledged is there, and nothing half-written ever.

``HOLDFAST_FAULTS=full`` makes 10,000 saves where a quick run makes a few hundred. Kills come at random moments; their
seed is printed with a failure and can be given as ``HOLDFAST_FAULT_SEED``.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from checkpoint import CachedCheckpointer, Checkpoint, Checkpointer, DatabaseCheckpointer, FileCheckpointer
from persistence import DatabaseManager, EmbeddedPostgreSQL, EmbeddedRedis, NotFoundError
from tests.faults.checkpoint_program import THREAD, state_of
from tests.unasync import ROOT

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
SAVES = 10_000 if FULL else 200
KILLS = 30 if FULL else 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgreSQL]:
    """A PostgreSQL of these tests' own, with fsync as in production."""
    with EmbeddedPostgreSQL(tmp_path_factory.mktemp("killed") / "server") as running:
        yield running


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, Any]]:
    """Where the programs save, as their task says it: a SQLite file, or a new database of the server."""
    if request.param == "sqlite":
        yield {"path": str(tmp_path / "checkpoints.db")}
        return
    server: EmbeddedPostgreSQL = request.getfixturevalue("server")
    name = f"db_{secrets.token_hex(6)}"
    server.create_database(name)
    yield {"url": server.url.replace("/postgres?", f"/{name}?")}
    server.drop_database(name)


@contextmanager
def opened(place: dict[str, Any]) -> Iterator[Checkpointer]:
    """A checkpointer of this process, which remembers nothing of what others saved."""
    if "path" in place:
        with FileCheckpointer(place["path"]) as checkpointer:
            yield checkpointer
        return
    with DatabaseManager() as manager:
        manager.add("main", place["url"])
        yield DatabaseCheckpointer(manager, "main")


class Program:
    """A running ``checkpoint_program``; what it acknowledges is read line by line."""

    def __init__(self, **task: Any) -> None:
        self.lines: list[list[str]] = []
        task = {"task": "steps", "async": False, "patience": 0, **task}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.checkpoint_program", json.dumps(task)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *exc: object) -> None:
        self.process.kill()
        self.process.communicate()

    def read(self) -> bool:
        """Read one line; False at the end."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line.endswith("\n"):
            self.lines.append(line.split())
            return True
        return False

    def finish(self) -> None:
        """Read the rest; the program must have done what it was asked to."""
        while self.read():
            pass
        assert self.process.stderr is not None
        assert self.process.wait(60) == 0, self.process.stderr.read()

    def kill(self) -> bool:
        """Kill it, and read what it had acknowledged until then; False when it had done everything by then."""
        self.process.kill()
        while self.read():
            pass
        status = self.process.wait(60)
        assert status in (0, -signal.SIGKILL)
        return status != 0

    @property
    def saved(self) -> dict[int, int]:
        """The versions that were acknowledged, by step."""
        return {int(line[1]): int(line[2]) for line in self.lines if line[0] == "saved"}


def check_whole(place: dict[str, Any], acknowledged: dict[int, int], since: int = 0) -> int:
    """Check that every acknowledged step is there once and as it was saved, and the others too; return how many.

    States are read of the versions above ``since``.
    """
    with opened(place) as checkpointer:
        found = checkpointer.list_checkpoints(THREAD, limit=10_000)
        count = len(found)
        assert [each.version for each in found] == list(range(count, 0, -1))
        assert [each.metadata["n"] for each in found] == list(range(count, 0, -1))
        assert {step: step for step in acknowledged} == acknowledged
        assert set(acknowledged) <= set(range(1, count + 1))
        before = count + 1
        while before > since + 1:
            states = checkpointer.list_checkpoints(
                THREAD, states=True, limit=min(200, before - since - 1), before=before
            )
            for each in states:
                assert each.state == state_of(each.version or 0)
            before -= len(states)
        if count:
            assert (checkpointer.load_checkpoint(THREAD).version or 0) >= count  # more, where the program still runs
    return count


@pytest.mark.parametrize(("place", "is_async"), [("sqlite", False), ("postgresql", True)], indirect=["place"])
def test_a_client_killed_between_its_saves_loses_none_that_was_acknowledged(
    place: dict[str, Any], is_async: bool, chance: random.Random
) -> None:
    acknowledged: dict[int, int] = {}
    kills = count = 0
    for _ in range(KILLS):
        with Program(**place, **{"async": is_async}, last=SAVES) as program:
            for _ in range(chance.randint(1, SAVES // (KILLS + 1))):
                if not program.read():
                    break
            time.sleep(chance.uniform(0, 0.003))  # not to wait: to be killed at any moment of a save
            kills += program.kill()
            acknowledged |= program.saved
        count = check_whole(place, acknowledged, count)
        assert count - len(acknowledged) <= kills  # what was in flight at a kill may be there
    assert kills
    with Program(**place, **{"async": is_async}, last=SAVES) as program:
        program.finish()
        acknowledged |= program.saved
    assert check_whole(place, acknowledged) == SAVES


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_killed_postgresql_loses_nothing_and_each_step_is_saved_once(
    server: EmbeddedPostgreSQL, is_async: bool, chance: random.Random
) -> None:
    for _ in range(5):  # a program that was quicker than its reader had ended by the kill
        if lose_the_server(server, is_async, chance):
            return
    raise AssertionError("no kill was noticed")


def lose_the_server(server: EmbeddedPostgreSQL, is_async: bool, chance: random.Random) -> int:
    """Kill PostgreSQL while a program saves, check what is there, and return how many saves had to be made again."""
    name = f"db_{secrets.token_hex(6)}"
    server.create_database(name)
    place = {"url": server.url.replace("/postgres?", f"/{name}?")}
    try:
        count = 0
        with Program(**place, **{"async": is_async}, last=SAVES, patience=60) as program:
            for _ in range(max(2, KILLS // 5)):
                for _ in range(chance.randint(1, SAVES // max(3, KILLS // 5))):
                    assert program.read()
                time.sleep(chance.uniform(0, 0.003))
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
                server.start()
                count = check_whole(place, program.saved, count)
            program.finish()
        assert len(program.saved) == SAVES
        assert check_whole(place, program.saved) == SAVES
        return sum(line[0] == "lost" for line in program.lines)
    finally:
        server.drop_database(name)


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_saves_that_share_a_commit_are_each_there_once_after_postgresql_was_killed(
    server: EmbeddedPostgreSQL, place: dict[str, Any], chance: random.Random
) -> None:
    count = 100 if FULL else 10
    with opened(place) as checkpointer, ExitStack() as stack:
        checkpointer.save_checkpoint(Checkpoint(THREAD, state_of(0)))
        programs = [
            stack.enter_context(
                Program(
                    **place,
                    task="side by side",
                    process=process,
                    threads=8,
                    count=count,
                    group_commit=True,
                    patience=60,
                )
            )
            for process in (1, 2)
        ]
        assert programs[1].read()
        for _ in range(chance.randint(1, 4 * count)):
            assert programs[0].read()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        server.start()
        for program in programs:
            program.finish()
        assert any(line[0] == "lost" for program in programs for line in program.lines)
        acknowledged = {step: version for program in programs for step, version in program.saved.items()}
        found = checkpointer.list_checkpoints(THREAD, states=True, limit=10_000)
        assert [each.version for each in found] == list(range(16 * count + 1, 0, -1))
        assert {each.state["n"]: each.version for each in found[:-1]} == acknowledged
        for each in found:
            assert each.state == state_of(each.state["n"])


@pytest.mark.parametrize("place", ["postgresql"], indirect=True)
def test_a_writer_killed_between_its_commit_and_redis_leaves_nothing_that_is_behind(
    place: dict[str, Any], tmp_path: Path, chance: random.Random
) -> None:
    acknowledged = hits = 0
    with EmbeddedRedis(tmp_path / "redis") as redis, DatabaseManager() as manager:
        manager.add("main", place["url"])
        manager.add_redis("cache", redis.config())
        for _ in range(KILLS):
            with Program(**place, cache=redis.url, last=100 * SAVES) as program:  # it never gets there
                for _ in range(chance.randint(1, SAVES // (KILLS + 1))):
                    assert program.read()
                    with CachedCheckpointer(manager, "main", "cache") as reader:
                        found = reader.load_checkpoint(THREAD)
                        assert (found.version or 0) >= max(program.saved.values())
                        assert found.state == state_of(found.version or 0)
                        hits += reader.stats().hits
                time.sleep(chance.uniform(0, 0.003))
                assert program.kill()
                acknowledged = max([acknowledged, *program.saved.values()])
            with CachedCheckpointer(manager, "main", "cache") as reader:
                found = reader.load_checkpoint(THREAD)
                assert (found.version or 0) >= acknowledged
                assert found == DatabaseCheckpointer(manager, "main").load_checkpoint(THREAD)
    assert hits


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_sixteen_writers_of_four_processes_share_the_versions_beside_prunes_and_forks(place: dict[str, Any]) -> None:
    count = 100 if FULL else 4
    with opened(place) as checkpointer, ExitStack() as stack:
        checkpointer.save_checkpoint(Checkpoint(THREAD, state_of(0)))
        programs = [
            stack.enter_context(Program(**place, task="side by side", process=process, threads=4, count=count))
            for process in range(1, 5)
        ]
        forks: dict[str, int] = {}
        while any(program.process.poll() is None for program in programs):
            checkpointer.prune(THREAD, keep_last=5, batch=7)
            for listed in checkpointer.list_checkpoints(THREAD, limit=5)[-1:]:
                try:
                    forked = checkpointer.fork(THREAD, listed.version, f"fork {len(forks)}")
                except NotFoundError:
                    continue  # pruned by then
                forks[forked.thread_id] = forked.state["n"]
        for program in programs:
            program.finish()
        acknowledged = {step: version for program in programs for step, version in program.saved.items()}
        total = 16 * count
        assert len(acknowledged) == total
        assert sorted(acknowledged.values()) == list(range(2, total + 2))
        steps = {version: step for step, version in acknowledged.items()} | {1: 0}
        kept = checkpointer.list_checkpoints(THREAD, states=True, limit=10_000)
        assert kept[0].version == total + 1
        assert {each.version: each.state for each in kept} == {
            each.version: state_of(steps[each.version or 0]) for each in kept
        }
        assert forks
        for thread, step in forks.items():
            assert checkpointer.load_checkpoint(thread).state == state_of(step)
        checkpointer.prune(THREAD, keep_last=2)
        with opened(place) as another:
            assert [each.state for each in another.list_checkpoints(THREAD, states=True)] == [
                state_of(steps[total + 1]),
                state_of(steps[total]),
            ]


@pytest.mark.parametrize("place", ["sqlite", "postgresql"], indirect=True)
def test_of_sixteen_writers_that_expect_a_version_exactly_one_wins_each_round(place: dict[str, Any]) -> None:
    rounds = 200 if FULL else 12
    with ExitStack() as stack:
        programs = [
            stack.enter_context(Program(**place, task="race", process=process, threads=4, rounds=rounds))
            for process in range(1, 5)
        ]
        for program in programs:
            program.finish()
    won = {}
    for line in (line for program in programs for line in program.lines if line[0] == "won"):
        assert int(line[2]) not in won
        won[int(line[2])] = int(line[1])
    assert any(line[0] == "lost" for program in programs for line in program.lines)
    assert set(range(1, rounds + 1)) <= set(won)
    with opened(place) as checkpointer:
        stored = {each.version: each.state["n"] for each in checkpointer.list_checkpoints(THREAD, states=True)}
        assert stored == {version: n for version, n in won.items() if version in stored}
        assert [each.version for each in checkpointer.list_checkpoints(THREAD, limit=1000)] == sorted(won, reverse=True)

# Generated from ../_async/test_soak.py by tests/unasync.py: edit that one.
"""Mixed work over PostgreSQL, SQLite and Redis for a while: every answer is right, and nothing that is held grows.

``HOLDFAST_SOAK`` says for how many seconds (1 by default, a minute with ``HOLDFAST_FAULTS=full``). From LONG on, memory
is compared with what it was after WARM_UP rounds. By then statements are prepared, SQLite's page caches are full, and
malloc has found the room for what so many callers hold at once, which in threads it takes from heaps of their own: that
makes some 5 MiB, whatever follows. The figures are for ``pytest -rP``.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path
from time import monotonic

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import DatabaseManager, KeyValueStore, PgVectorConfig, RedisConfig, SQLiteConfig
from sessions import MessageStore, TaskStore, ThreadManager, Message, Task, Thread
from tests._sync.side import together
from vectorstore import PgVectorStore, SQLiteVectorStore, VectorStore, Document

SECONDS = float(os.environ.get("HOLDFAST_SOAK", "60" if os.environ.get("HOLDFAST_FAULTS") == "full" else "1"))
LONG = 30
"""From how many seconds on there is time to warm up."""
WARM_UP = 8000
GROWTH = {True: 1.9, False: 16.0}
"""By how much memory may grow, in MiB, after warming up (2 MB) and without."""
BACKENDS = ("postgresql", "sqlite", "redis")
WORKERS = 3
KEPT = 5
"""How many checkpoints of a thread are kept."""
MESSAGES = 40
"""After how many messages a thread is deleted and begun anew."""
DOCUMENTS = 50


class Worker:
    """One caller of every store on one connection, who knows what each must answer."""

    def __init__(self, manager: DatabaseManager, backend: str, number: int) -> None:
        self.name = f"{backend} {number}"
        self.steps = 0
        self._checkpoints = DatabaseCheckpointer(manager, backend)
        self._threads = ThreadManager(manager, backend)
        self._messages = MessageStore(manager, backend)
        self._values = KeyValueStore(manager, backend)
        self._tasks = TaskStore(manager, backend)
        self._vectors: VectorStore | None = None  # Redis before 8 has none
        if backend == "postgresql":
            self._vectors = PgVectorStore(manager, backend, dimensions=3)
        elif backend == "sqlite":
            self._vectors = SQLiteVectorStore(manager, backend, dimensions=3)

    def work(self, until: float) -> None:
        """Do one thing after the other, at least one of each."""
        while True:
            self._checkpoint(self.steps)
            self._talk(self.steps)
            self._count(self.steps)
            self._task(self.steps)
            if self._vectors is not None:
                self._search(self._vectors, self.steps)
            self.steps += 1
            if monotonic() >= until:
                break
        assert self._values.get(f"{self.name} counted") == self.steps

    def _checkpoint(self, number: int) -> None:
        state = {"n": number, "log": list(range(number % 50)), "text": f"{self.name} " * 20}
        saved = self._checkpoints.save_checkpoint(Checkpoint(self.name, state, key=str(number)))
        loaded = self._checkpoints.load_checkpoint(self.name)
        assert (loaded.version, loaded.state) == (saved.version, state)
        if number % 10 == 0:
            self._checkpoints.prune(self.name, keep_last=KEPT)
            left = self._checkpoints.list_checkpoints(self.name)
            assert [each.version for each in left] == list(range(saved.version, max(0, saved.version - KEPT), -1))

    def _talk(self, number: int) -> None:
        thread, place = f"{self.name}/{number // MESSAGES}", number % MESSAGES
        if place == 0:
            self._threads.create_thread(Thread(user_id=self.name, id=thread))
        self._messages.append(thread, Message(role="user", content={"n": number}), key=str(number))
        self._messages.append(
            thread, Message(role="user", content={"n": number}), key=str(number)
        )  # the same once more
        last = self._messages.last(thread, 3)
        assert [each.content["n"] for each in last] == list(range(number - min(place, 2), number + 1))
        if place == MESSAGES - 1:
            assert self._threads.delete_thread(thread)
            assert self._messages.last(thread, 3) == []

    def _count(self, number: int) -> None:
        key = f"{self.name} value {number % 20}"
        self._values.put(key, {"n": number}, ttl=3600)
        assert self._values.get(key) == {"n": number}
        assert self._values.increment(f"{self.name} counted") == number + 1

    def _task(self, number: int) -> None:
        added = self._tasks.add(Task(kind=self.name, payload=number))
        (claimed,) = self._tasks.claim_next(self.name, owner=self.name)
        assert (claimed.id, claimed.payload) == (added.id, number)
        done = self._tasks.complete(claimed, {"n": number})
        assert done.result == {"n": number}
        assert self._tasks.delete(added.id)

    def _search(self, vectors: VectorStore, number: int) -> None:
        name = f"{self.name} {number % DOCUMENTS}"
        vector = [1.0, float(number % DOCUMENTS), 0.5]
        vectors.store_documents([Document(name, "text", {"of": self.name}, embedding=vector)])
        (found,) = vectors.search(vector, 1, filter={"of": self.name})
        assert (found.id, found.metadata) == (name, {"of": self.name})


def held() -> dict[str, float]:
    """Return what this process holds: memory in MiB, files, threads."""
    gc.collect()
    # What is free in the arenas of malloc is held by nobody: with nine threads it still grew after 25 minutes.
    getattr(ctypes.CDLL(None), "malloc_trim", lambda pad: None)(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return {"MiB": pages * os.sysconf("SC_PAGE_SIZE") / 2**20, "files": files, "threads": threading.active_count()}


def settle() -> None:
    """Let the interpreter's table of interned strings take the size that it keeps.

    A place in it is used up by each string that comes, also where one goes, and once all are used the table is made
    anew, twice as large where more than a third are taken: 3.7 MiB at once after 28,000 rounds, and never again.
    """
    for number in range(200_000):
        sys.intern(f"soak {number}")


def work(manager: DatabaseManager, workers: list[Worker], seconds: float) -> None:
    until = monotonic() + seconds
    for found in together(*[lambda each=each: each.work(until) for each in workers]):
        if found is not None:
            raise found


def test_mixed_work_is_answered_rightly_and_holds_no_more_for_having_gone_on(
    manager: DatabaseManager, pgvector_config: PgVectorConfig, redis_config: RedisConfig, tmp_path: Path
) -> None:
    config = replace(pgvector_config, max_connections=WORKERS, max_idle_connections=WORKERS)
    manager.add_pgvector("postgresql", config)
    manager.add_sqlite("sqlite", SQLiteConfig(path=str(tmp_path / "soak.db"), max_readers=2))
    manager.add_redis("redis", replace(redis_config, pool_size=WORKERS))
    workers = [Worker(manager, backend, number) for backend in BACKENDS for number in range(WORKERS)]
    settle()
    work(manager, workers, SECONDS / 4)
    while SECONDS >= LONG and sum(each.steps for each in workers) < WARM_UP:
        work(manager, workers, SECONDS / 4)
    opened = {name: stats.opened - stats.discarded for name, stats in manager.stats().items()}
    before, steps, started = held(), sum(each.steps for each in workers), monotonic()
    work(manager, workers, SECONDS)
    after, done, took = held(), sum(each.steps for each in workers) - steps, monotonic() - started
    for backend in BACKENDS:
        print(f"{backend}: {sum(each.steps for each in workers if each.name.startswith(backend)):,} rounds")
    grown = {name: round(after[name] - before[name], 2) for name in after}
    print(f"{done:,} rounds in {took:.0f} s, {done / took:,.0f} a second; grown by {grown}")
    assert grown["files"] <= 0
    assert grown["threads"] <= 0
    assert grown["MiB"] < GROWTH[SECONDS >= LONG]
    for name, stats in manager.stats().items():
        assert (stats.in_use, stats.waiting, stats.errors) == (0, 0, 0), name
        assert stats.opened - stats.discarded == opened[name], name
    main = manager.get_database("postgresql")
    assert main.fetch_value("SELECT count(*) FROM holdfast_checkpoints") <= WORKERS * (KEPT + 10)
    assert main.fetch_value("SELECT count(*) FROM holdfast_messages") <= WORKERS * MESSAGES

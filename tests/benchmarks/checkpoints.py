"""What a checkpoint costs, next to the plainest INSERT of what changed, and next to LangGraph's own savers.

``python -m tests.benchmarks.checkpoints [--quick] [--place=PostgreSQL] [--part=saves,reads]``. The floor inserts the
changed channel's bytes with one commit, and reads the ten channels by their keys. Every way has a database of its own
on the same server, and a connection or pool that is open already; ways are timed in turns. Values are random letters,
which compress to some four fifths, each in a dict; saves are also timed with bare texts, which PostgresSaver stores in
each checkpoint again. Messages of the growing list are words.
"""

from __future__ import annotations

import argparse
import base64
import random
import sqlite3
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, TypedDict

import psycopg
import psycopg_pool
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.rows import dict_row

from checkpoint import Checkpoint, Checkpointer, DatabaseCheckpointer
from checkpoint.langgraph import HoldfastSaver
from persistence import DatabaseManager, EmbeddedPostgreSQL, SQLiteConfig
from tests.benchmarks.measure import in_turns, report

CHANNELS = 10
SIZES = {"1 KiB": 1024, "64 KiB": 65536, "1 MiB": 1048576}
WORDS = "the agent found that a tool result for this query was not what user memory says so it asks again".split()

State = dict[str, Any]


class Floor:
    """The plainest code: the changed channel's bytes in, the latest of each channel out."""

    def __init__(self, connect: Callable[[], Any], mark: str) -> None:
        self._connect = connect
        self._mine: dict[int, Any] = {0: connect()}
        self._insert = f"INSERT INTO floor VALUES ({', '.join([mark] * 4)})"
        self._select = f"SELECT data FROM floor WHERE thread = {mark} AND channel = {mark} ORDER BY step DESC LIMIT 1"
        self._mine[0].execute(
            "CREATE TABLE IF NOT EXISTS floor (thread text, channel text, step bigint, data bytea, "
            "PRIMARY KEY (thread, channel, step))"
        )

    def save(self, thread: str, step: int, state: State, changed: list[str], slot: int = 0) -> None:
        connection = self._mine.get(slot)
        if connection is None:
            connection = self._mine[slot] = self._connect()
        for channel in changed:
            connection.execute(self._insert, (thread, channel, step, _bytes_of(state[channel])))

    def load(self, thread: str) -> Any:
        return [
            self._mine[0].execute(self._select, (thread, f"channel_{number}")).fetchone() for number in range(CHANNELS)
        ]

    def listed(self, thread: str) -> Any:
        return None


def _bytes_of(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    return (value["text"] if isinstance(value, dict) else repr(value[-1])).encode()


class Native:
    """Our own API."""

    def __init__(self, make: Callable[[], Checkpointer]) -> None:
        self.checkpointer = make()
        self._make = make

    def save(self, thread: str, step: int, state: State, changed: list[str], slot: int = 0) -> None:
        self.checkpointer.save_checkpoint(Checkpoint(thread, state, step=step))

    def load(self, thread: str) -> Any:
        return self.checkpointer.load_checkpoint(thread)

    def load_anew(self, thread: str) -> Any:
        """As a process does that has not seen the thread."""
        return self._make().load_checkpoint(thread)

    def listed(self, thread: str) -> Any:
        return self.checkpointer.list_checkpoints(thread, limit=10, states=True)


class Appending(Native):
    """Our own API, told of each list how many items it got."""

    def save(self, thread: str, step: int, state: State, changed: list[str], slot: int = 0) -> None:
        parent = step if step else None  # the versions of a thread begin with 1
        hinted = Checkpoint(thread, state, step=step, parent_version=parent, appended=dict.fromkeys(changed, 1))
        self.checkpointer.save_checkpoint(hinted)


class Saver:
    """A LangGraph saver: what a graph's loop gives it."""

    def __init__(self, saver: Any) -> None:
        self.saver = saver
        self._last: dict[str, tuple[Any, dict[str, Any]]] = {}

    def save(self, thread: str, step: int, state: State, changed: list[str], slot: int = 0) -> None:
        config, versions = self._last.get(thread) or ({"configurable": {"thread_id": thread, "checkpoint_ns": ""}}, {})
        new = {channel: self.saver.get_next_version(versions.get(channel), None) for channel in changed}
        versions = {**versions, **new}
        checkpoint = {
            **empty_checkpoint(),
            "id": str(uuid6(clock_seq=step)),
            "channel_values": state,
            "channel_versions": versions,
            "versions_seen": {"node": versions},
            "updated_channels": changed,
        }
        metadata = {"source": "loop", "step": step, "parents": {}}
        self._last[thread] = self.saver.put(config, checkpoint, metadata, new), versions

    def load(self, thread: str) -> Any:
        return self.saver.get_tuple({"configurable": {"thread_id": thread, "checkpoint_ns": ""}})

    def listed(self, thread: str) -> Any:
        return list(self.saver.list({"configurable": {"thread_id": thread, "checkpoint_ns": ""}}, limit=10))


class Thread:
    """A thread of ten channels, one of which changes a step; the same values for every way."""

    def __init__(self, way: Any, name: str, size: int, slot: int = 0, *, kind: str = "dicts") -> None:
        self.way, self.name, self.slot = way, name, slot
        self.step = 0
        self._kind = kind
        self._size = size // CHANNELS
        chance = random.Random(1)
        if kind == "words":
            self._noise = " ".join(chance.choices(WORDS, k=self._size // 2 + 4096))
        else:
            self._noise = base64.b85encode(chance.randbytes(2 * self._size + 4096)).decode()
        self.state = {f"channel_{number}": self._value(number) for number in range(CHANNELS)}
        way.save(name, 0, dict(self.state), list(self.state), slot)

    def _value(self, number: int) -> dict[str, str] | str:
        text = f"{number:08}" + self._noise[number % 4096 :][: max(self._size - 8, 1)]
        return text if self._kind == "texts" else {"text": text}

    def next(self) -> None:
        self.step += 1
        channel = f"channel_{self.step % CHANNELS}"
        self.state[channel] = self._value(self.step + CHANNELS)
        self.way.save(self.name, self.step, dict(self.state), [channel], self.slot)

    def go_to(self, step: int) -> None:
        while self.step < step:
            self.next()


def message(number: int) -> dict[str, str]:
    chance = random.Random(number)
    content = " ".join(chance.choice(WORDS) for _ in range(125))
    return {"role": "user" if number % 2 else "assistant", "id": f"message-{number}", "content": content}


def letters(number: int) -> dict[str, str]:
    """Return a message that hardly gets smaller, of 3 KiB."""
    content = base64.b85encode(random.Random(number).randbytes(2400)).decode()
    return {"role": "user" if number % 2 else "assistant", "id": f"message-{number}", "content": content}


class Bench:
    """Servers, and the ways on each of them."""

    def __init__(self, stack: ExitStack, quick: bool) -> None:
        self.quick = quick
        self.folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.server = stack.enter_context(EmbeddedPostgreSQL(self.folder / "postgresql"))
        self.manager = stack.enter_context(DatabaseManager())
        self._stack = stack
        self._count = 0

    def postgresql(self) -> dict[str, Any]:
        """Return every way on PostgreSQL, each in a new database."""
        return {
            "floor": Floor(self._connector(self._database()), "%s"),
            "holdfast": Native(self._native(self._add(self._database()))),
            "HoldfastSaver": Saver(HoldfastSaver(self._native(self._add(self._database()))())),
            "PostgresSaver": Saver(self._postgres_saver(self._database())),
        }

    def appending(self, place: str) -> dict[str, Any]:
        """Return our ways that look at no more than what is new, each in a new database."""
        names = [self._add(self._database()) if place == "PostgreSQL" else self._sqlite() for _ in range(2)]
        saver = HoldfastSaver(self._native(names[1])(), append_only=["messages"])
        return {"holdfast, appended=": Appending(self._native(names[0])), "HoldfastSaver, append_only=": Saver(saver)}

    def sqlite(self) -> dict[str, Any]:
        """Return every way on SQLite, each on a new file; all commit durably (synchronous=FULL)."""
        ours, saver = self._sqlite(), self._sqlite()
        return {
            "floor": Floor(self._sqlite_connector(self._file()), "?"),
            "holdfast": Native(self._native(ours)),
            "HoldfastSaver": Saver(HoldfastSaver(self._native(saver)())),
            "SqliteSaver": self.sqlite_saver(),
        }

    def sqlite_saver(self, *pragmas: str) -> Saver:
        """Return SqliteSaver on a file of its own, with the settings of sqlite3.connect but for what is given."""
        connection = sqlite3.connect(self._file(), check_same_thread=False)
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        theirs = SqliteSaver(connection)
        theirs.setup()
        return Saver(theirs)

    def _sqlite(self) -> str:
        path = self._file()
        self.manager.add_sqlite(path.name, SQLiteConfig(path=str(path)))
        return path.name

    def _file(self) -> Path:
        self._count += 1
        return self.folder / f"{self._count}.db"

    def _database(self) -> Any:
        self._count += 1
        name = f"bench{self._count}"
        self.server.create_database(name)
        return self.server.config(name)

    def _add(self, config: Any) -> str:
        return str(self.manager.add_postgresql(config.database, replace(config, max_connections=10)).name)

    def _native(self, name: str) -> Callable[[], DatabaseCheckpointer]:
        return lambda: DatabaseCheckpointer(self.manager, name)

    def _connector(self, config: Any) -> Callable[[], Any]:
        return lambda: self._stack.enter_context(psycopg.connect(**config.connection_parameters(), autocommit=True))

    def _sqlite_connector(self, path: Path) -> Callable[[], Any]:
        def connect() -> Any:
            made = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            made.execute("PRAGMA journal_mode = WAL")
            return made

        return connect

    def _postgres_saver(self, config: Any) -> PostgresSaver:
        kwargs = {**config.connection_parameters(), "autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
        pool = self._stack.enter_context(psycopg_pool.ConnectionPool(kwargs=kwargs, min_size=8, max_size=10))
        pool.wait()
        saver = PostgresSaver(pool)
        saver.setup()
        return saver

    def stored(self, name: str, way: Any) -> int:
        """Return how many bytes the tables of a way on PostgreSQL take, with their indexes."""
        sql = """SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class AS c
                 JOIN pg_namespace AS n ON n.oid = c.relnamespace
                 WHERE c.relkind = 'r' AND n.nspname = 'public'"""
        if isinstance(way, Floor):
            return int(way._mine[0].execute(sql).fetchone()[0])
        if name == "PostgresSaver":
            with way.saver.conn.connection() as connection:
                return int(connection.execute(sql).fetchone()["coalesce"])
        checkpointer = way.checkpointer if isinstance(way, Native) else way.saver._sync
        return int(checkpointer._manager.get_postgresql(checkpointer._place).fetch_value(sql))


def saves(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """Save at three sizes."""
    rounds, calls = (5, 20) if bench.quick else (15, 50)
    for kind in ("dicts", "words", "texts"):
        for label, size in SIZES.items():
            threads = {name: Thread(way, f"s{size}{kind}", size, kind=kind) for name, way in ways.items()}
            found = in_turns({name: thread.next for name, thread in threads.items()}, rounds=rounds, calls=calls)
            report(f"save, {label} of {kind}, {place}", found, floor="floor")


def sizes(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """The bytes that a step takes in the tables and their indexes."""
    steps = 200 if bench.quick else 1000
    for label, size in SIZES.items():
        if size > 100_000 and bench.quick:
            continue
        threads = {name: Thread(way, f"b{size}", size) for name, way in ways.items()}
        before = {name: bench.stored(name, way) for name, way in ways.items()}
        for thread in threads.values():
            thread.go_to(steps)
        print(f"\nbytes a step, {label}, {place}, {steps} steps")
        floor = 0.0
        for name, way in ways.items():
            found = (bench.stored(name, way) - before[name]) / steps
            floor = floor or found
            print(f"  {name:<44} {found:>10,.0f}      x{found / floor:.2f}")


def reads(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """Load the latest and list ten, at 64 KiB after 100 and 1,000 steps."""
    for steps in (100,) if bench.quick else (100, 1000):
        _read(ways, place, steps)


def _read(ways: dict[str, Any], place: str, steps: int) -> None:
    thread = f"r{steps}"
    for way in ways.values():
        Thread(way, thread, SIZES["64 KiB"]).go_to(steps)
    calls: dict[str, Any] = {name: lambda way=way: way.load(thread) for name, way in ways.items()}
    calls["holdfast, new process"] = lambda: ways["holdfast"].load_anew(thread)
    found = in_turns(calls, rounds=7, calls=20)
    report(f"load the latest, 64 KiB, {steps} steps, {place}", found, floor="floor")
    calls = {name: lambda way=way: way.listed(thread) for name, way in ways.items() if name != "floor"}
    found = in_turns(calls, rounds=5, calls=5)
    report(f"list 10 with their states, 64 KiB, {steps} steps, {place}", found, floor=list(calls)[-1])


def growing(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """A conversation that gets one message a step, of words and of letters."""
    ways = {**ways, **bench.appending(place)}
    _grow(bench, ways, f"words, {place}", message)
    _grow(bench, ways, f"letters, {place}", letters)


def _grow(bench: Bench, ways: dict[str, Any], label: str, make: Callable[[int], dict[str, str]]) -> None:
    steps = 300 if bench.quick else 1000
    messages: list[Any] = []
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way.save(f"first {label}", 0, {"messages": [make(0)]}, ["messages"])
    before = {name: bench.stored(name, way) for name, way in ways.items()} if "PostgreSQL" in label else {}
    for step in range(steps):
        messages = [*messages, make(step)]
        for name in random.sample(list(ways), len(ways)):
            started = perf_counter()
            ways[name].save(label, step, {"messages": messages}, ["messages"])
            times[name].append(perf_counter() - started)
    print(f"\n(the list has {len(repr(messages)) / 1024:,.0f} KiB)", end="")
    last = {name: median(found[-50:]) for name, found in times.items()}
    report(f"save a list that grows by one, at {steps} messages of {label}", last, floor="floor")
    if before:
        print("  bytes a step:", end="")
        for name, way in ways.items():
            print(f"  {name} {(bench.stored(name, way) - before[name]) / steps:,.0f}", end="")
        print()
    loads: dict[str, Any] = {n: lambda way=way: way.load(label) for n, way in ways.items() if n != "floor"}
    loads["holdfast, new process"] = lambda: ways["holdfast"].load_anew(label)
    found = in_turns(loads, rounds=5, calls=10)
    report(f"load it, {label}", found, floor="holdfast")


def writers(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """Eight threads, each with a thread of its own."""
    seconds = 1.0 if bench.quick else 3.0
    for label, size in SIZES.items():
        print(f"\neight writers, {label}, {place}: saves a second")
        rates: dict[str, list[float]] = {name: [] for name in ways}
        threads = {name: [Thread(way, f"w{size}/{n}", size, n) for n in range(8)] for name, way in ways.items()}
        with ThreadPoolExecutor(8) as executor:
            for _ in range(3):
                for name, mine in threads.items():
                    end = perf_counter() + seconds / 3

                    def run(thread: Thread, end: float = end) -> int:
                        count = 0
                        while perf_counter() < end:
                            thread.next()
                            count += 1
                        return count

                    rates[name].append(sum(executor.map(run, mine)) / (seconds / 3))
        for name, found in rates.items():
            print(f"  {name:<44} {median(found):>10,.0f}   x{median(found) / median(rates['floor']):.2f}")


def lengths(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """Whether anything grows with the history."""
    way = ways["holdfast"]
    thread = Thread(way, "long", SIZES["1 KiB"])
    for steps in (10, 100, 1000) if bench.quick else (10, 100, 1000, 10_000):
        thread.go_to(steps)
        calls = {
            "save": thread.next,
            "load the latest": lambda: way.load("long"),
            "load the latest, new process": lambda: way.load_anew("long"),
            "load version 5": lambda: way.checkpointer.load_checkpoint("long", 5),
            "list 10": lambda: way.checkpointer.list_checkpoints("long", limit=10),
        }
        found = in_turns(calls, rounds=3, calls=5 if steps == 10 else 30)
        report(f"a thread of {steps:,} steps, 1 KiB, {place}", found, floor="save")


def graphs(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """A LangGraph graph of one node that changes one of ten channels a step, with sync durability."""
    steps = 100 if bench.quick else 300
    savers = {name: way.saver for name, way in ways.items() if isinstance(way, Saver)}
    for label, size in SIZES.items():
        rates: dict[str, list[float]] = {name: [] for name in savers}
        for turn in range(3):
            for name in random.sample(list(savers), len(savers)):
                graph = _graph(savers[name], size, steps)
                config = {"configurable": {"thread_id": f"g{size}/{turn}"}, "recursion_limit": steps + 5}
                started = perf_counter()
                graph.invoke({"step": 0}, config, durability="sync")
                rates[name].append(steps / (perf_counter() - started))
        slowest = median(rates[list(rates)[-1]])
        print(f"\na graph, {label} of state, {place}: steps a second")
        for name, found in rates.items():
            print(f"  {name:<44} {median(found):>10,.0f}   x{median(found) / slowest:.2f}")


def _graph(saver: Any, size: int, steps: int) -> Any:
    noise = base64.b85encode(random.Random(1).randbytes(2 * size)).decode()
    each = size // CHANNELS

    def work(state: State) -> State:
        step = state["step"] + 1
        text = f"{step:08}" + noise[step % 4096 :][: max(each - 8, 1)]
        return {"step": step, f"channel_{step % CHANNELS}": {"text": text}}

    fields = {"step": int, **{f"channel_{number}": dict for number in range(CHANNELS)}}
    builder = StateGraph(TypedDict("GraphState", fields, total=False))  # type: ignore[operator]
    builder.add_node("work", work)
    builder.add_edge(START, "work")
    builder.add_conditional_edges("work", lambda state: "work" if state["step"] < steps else END, ["work", END])
    return builder.compile(checkpointer=saver)


def deletes(bench: Bench, ways: dict[str, Any], place: str) -> None:
    """Delete a long thread of 1 MiB."""
    steps = 100 if bench.quick else 1000
    found = {}
    if (
        place == "SQLite"
    ):  # many libraries overwrite what is deleted unless told not to; our connections do when told to
        ways = {"SqliteSaver, secure_delete = OFF": bench.sqlite_saver("secure_delete = OFF"), **ways}
    for name, way in ways.items():
        if name == "floor":
            continue
        Thread(way, "gone", SIZES["1 MiB"]).go_to(steps)
        started = perf_counter()
        (way.checkpointer if isinstance(way, Native) else way.saver).delete_thread("gone")
        found[name] = perf_counter() - started
    report(f"delete a thread of {steps:,} steps, 1 MiB, {place}", found, floor=list(found)[-1])


PARTS = {part.__name__: part for part in (saves, sizes, reads, growing, writers, lengths, graphs, deletes)}
PLACES = ("PostgreSQL", "SQLite")


def main(arguments: list[str] | None = None) -> None:
    """Run everything, or the parts that are named, on a server of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checkpoints", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and shorter threads")
    parser.add_argument("--part", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}, with commas between")
    parser.add_argument("--place", default=",".join(PLACES), help=f"which of {', '.join(PLACES)}")
    options = parser.parse_args([] if arguments is None else arguments)
    for place in options.place.split(","):
        for name in options.part.split(","):
            if place == "SQLite" and name in ("sizes", "writers"):
                continue  # one writer at a time, whoever writes
            with ExitStack() as stack:
                bench = Bench(stack, options.quick)
                PARTS[name](bench, bench.postgresql() if place == "PostgreSQL" else bench.sqlite(), place)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])

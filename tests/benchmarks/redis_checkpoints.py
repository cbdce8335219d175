"""What a checkpoint on Redis costs, next to the plainest HSET of what changed.

``python -m tests.benchmarks.redis_checkpoints [--quick]``. The floor sends the changed channel's bytes as one field,
and reads the ten latest fields, whose names it knows, in one HMGET; both with redis-py alone. Ways are timed in turns,
on one server without fsync and on one with ``appendfsync always``. LangGraph's RedisSaver needs the server modules
RedisJSON and RediSearch, which the embedded server has not.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any

import redis

from checkpoint._sync.redis import RedisCheckpointer
from checkpoint.langgraph import HoldfastSaver
from persistence import DatabaseManager, EmbeddedRedis, RedisConfig
from tests.benchmarks.checkpoints import SIZES, Native, Saver, State, Thread, message
from tests.benchmarks.measure import in_turns, report


class Floor:
    """The plainest code: the changed channel's bytes in, the latest of each channel out."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._latest: dict[str, dict[str, str]] = {}

    def save(self, thread: str, step: int, state: State, changed: list[str], slot: int = 0) -> None:
        values = {}
        for channel in changed:
            value = state[channel]
            data = (value["text"] if isinstance(value, dict) else repr(value[-1])).encode()
            field = self._latest.setdefault(thread, {})[channel] = f"{channel}:{step}"
            values[field] = data
        self._client.hset(f"floor:{thread}", mapping=values)

    def load(self, thread: str) -> Any:
        return self._client.hmget(f"floor:{thread}", [*self._latest[thread].values()])


class Bench:
    """A server, and the ways on it."""

    def __init__(self, stack: ExitStack, folder: Path, fsync: str) -> None:
        self.server = stack.enter_context(EmbeddedRedis(folder / fsync, settings={"appendfsync": fsync}))
        self.manager = stack.enter_context(DatabaseManager())
        config = self.server.config()
        self.manager.add_redis("main", config)
        self.client = stack.enter_context(client(config))

    def ways(self) -> dict[str, Any]:
        return {
            "floor": Floor(self.client),
            "holdfast": Native(lambda: RedisCheckpointer(self.manager, "main")),
            "HoldfastSaver": Saver(HoldfastSaver(RedisCheckpointer(self.manager, "main", tenant="saver"))),
        }

    def used(self) -> int:
        return int(self.client.info("memory")["used_memory"])


def client(config: RedisConfig) -> redis.Redis:
    password = config.password if isinstance(config.password, str | None) else config.password.reveal()
    return redis.Redis(unix_socket_path=config.unix_socket, password=password)


def saves(ways: dict[str, Any], place: str, quick: bool) -> None:
    """Save at three sizes."""
    for label, size in SIZES.items():
        threads = {name: Thread(way, f"s{size}", size) for name, way in ways.items()}
        calls = {name: thread.next for name, thread in threads.items()}
        found = in_turns(calls, rounds=5 if quick else 15, calls=20 if quick else 50)
        report(f"save, {label}, {place}", found, floor="floor", bound=1.5)


def lengths(ways: dict[str, Any], place: str, quick: bool) -> None:
    """Save, load and list after ten steps, a thousand and ten thousand: nothing grows."""
    for steps in (10, 300) if quick else (10, 1000, 10_000):
        name = f"l{steps}"
        thread = Thread(ways["holdfast"], name, SIZES["1 KiB"])
        thread.go_to(steps)
        way = ways["holdfast"]
        calls: dict[str, Callable[[], Any]] = {
            "load": lambda way=way, name=name: way.load_anew(name),
            "list 10": lambda way=way, name=name: way.checkpointer.list_checkpoints(name, limit=10),
            "save": thread.next,
        }
        report(f"{steps} steps, 1 KiB, {place}", in_turns(calls, rounds=7, calls=20), floor="load")


def reads(ways: dict[str, Any], place: str, quick: bool) -> None:
    """Load the latest and list ten."""
    for label, size in SIZES.items():
        thread, steps = f"r{size}", 30 if quick else 100
        for way in ways.values():
            Thread(way, thread, size).go_to(steps)
        calls: dict[str, Any] = {name: lambda way=way, thread=thread: way.load(thread) for name, way in ways.items()}
        calls["holdfast, new process"] = lambda thread=thread: ways["holdfast"].load_anew(thread)
        found = in_turns(calls, rounds=7, calls=20)
        report(f"load the latest, {label}, {steps} steps, {place}", found, floor="floor", bound=1.0)
        calls = {
            name: lambda way=way, thread=thread: way.listed(thread) for name, way in ways.items() if name != "floor"
        }
        report(f"list 10 with their states, {label}, {place}", in_turns(calls, rounds=5, calls=5), floor="holdfast")


def growing(bench: Bench, ways: dict[str, Any], place: str, quick: bool) -> None:
    """A conversation that gets one message a step, and the memory that a step takes."""
    steps = 100 if quick else 1000
    for name, way in ways.items():
        messages: list[Any] = []
        before, started = bench.used(), perf_counter()
        for step in range(steps):
            messages = [*messages, message(step)]
            way.save("growing", step, {"messages": messages}, ["messages"])
        took = (perf_counter() - started) / steps
        print(f"  growing list, {place}, {name:<24} {took * 1e6:>10.1f} us   {(bench.used() - before) / steps:,.0f} B")


def sizes(bench: Bench, ways: dict[str, Any], place: str, quick: bool) -> None:
    """The memory of the server that a step takes."""
    steps = 100 if quick else 1000
    for label, size in SIZES.items():
        if size > 100_000:
            continue
        for name, way in ways.items():
            thread = Thread(way, f"b{size}", size)
            before = bench.used()
            thread.go_to(steps)
            print(f"  memory a step, {label}, {place}, {name:<24} {(bench.used() - before) / steps:>10,.0f} B")


def writers(ways: dict[str, Any], place: str, quick: bool) -> None:
    """Eight threads, each with a thread of its own."""
    seconds = 1.0 if quick else 3.0
    for label, size in SIZES.items():
        print(f"\neight writers, {label}, {place}: saves a second")
        for name, way in ways.items():
            threads = [Thread(way, f"w{size}/{n}", size, n) for n in range(8)]
            end = perf_counter() + seconds

            def run(thread: Thread, end: float = end) -> int:
                count = 0
                while perf_counter() < end:
                    thread.next()
                    count += 1
                return count

            with ThreadPoolExecutor(8) as executor:
                print(f"  {name:<24} {sum(executor.map(run, threads)) / seconds:>10,.0f}")


def prunes(bench: Bench, place: str, quick: bool) -> None:
    """How long a prune and a delete take, and for how long each of their scripts keeps the server busy."""
    steps = 300 if quick else 10_000
    way = Native(lambda: RedisCheckpointer(bench.manager, "main"))
    thread = Thread(way, "prune", SIZES["1 KiB"])
    thread.go_to(steps)
    bench.client.config_resetstat()
    started = perf_counter()
    way.checkpointer.prune("prune", keep_last=steps // 2)
    pruned = perf_counter() - started
    slowest = bench.client.info("commandstats")["cmdstat_evalsha"]["usec_per_call"]
    started = perf_counter()
    way.checkpointer.delete_thread("prune")
    took = perf_counter() - started
    print(f"\n{steps} steps, {place}: half pruned in {pruned * 1e3:.1f} ms, {slowest / 1e3:.1f} ms a script on average")
    print(f"  the rest deleted in {took * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_known_args()[0].quick
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for fsync in ("no", "always"):
            bench = Bench(stack, folder, fsync)
            ways = bench.ways()
            place = f"appendfsync {fsync}"
            saves(ways, place, quick)
            writers(ways, place, quick)
            if fsync == "always":
                continue
            reads(ways, place, quick)
            print()
            growing(bench, ways, place, quick)
            sizes(bench, ways, place, quick)
            lengths(ways, place, quick)
            prunes(bench, place, quick)


if __name__ == "__main__":
    main()

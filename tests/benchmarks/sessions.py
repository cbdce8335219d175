"""What a message costs, next to the plainest INSERT, and next to the sessions of other frameworks.

``python -m tests.benchmarks.sessions [--quick] [--only PART]``. The floor is psycopg alone: one INSERT of a row whose
number the client knows. Everything is durable (fsync), on one server or disk, timed in turns. The sessions of the
OpenAI Agents SDK and of Google's ADK are measured where they are installed; what is missing is said.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path
from threading import Thread as Worker
from time import perf_counter, process_time
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from redis.asyncio import Redis

from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    EmbeddedPostgreSQL,
    EmbeddedRedis,
    PostgreSQLConfig,
    SQLiteConfig,
)
from sessions import AsyncMessageStore, Message, MessageStore, Session, SessionManager, Thread, ThreadManager
from tests.benchmarks.measure import in_turns, in_turns_async, report

TEXT = "the agent found that a tool result for this query was not what user memory said, so it asks again; " * 2
CONTENT = {"type": "message", "text": TEXT, "finish_reason": "stop"}
INSERT = "INSERT INTO floor VALUES ('default', %s, %s, 'user', %s)"
WRITERS = 8


class Floor:
    """The plainest code on psycopg: a row a message, numbered by the client."""

    def __init__(self, config: PostgreSQLConfig, thread: str = "t") -> None:
        self._numbers = count(1)
        self._thread = thread
        self.connection = psycopg.connect(**config.connection_parameters(), autocommit=True)
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS floor (tenant text, thread text, seq bigint, role text, content json, "
            "PRIMARY KEY (tenant, thread, seq))"
        )

    def append(self) -> None:
        self.connection.execute(INSERT, (self._thread, next(self._numbers), json.dumps(CONTENT)))

    def append_ten(self) -> None:
        rows = [(self._thread, next(self._numbers), json.dumps(CONTENT)) for _ in range(10)]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(INSERT, rows)

    def last(self) -> Any:
        select = (
            "SELECT seq, role, content FROM floor WHERE tenant = 'default' AND thread = %s ORDER BY seq DESC LIMIT 20"
        )
        return self.connection.execute(select, (self._thread,)).fetchall()


def message() -> Message:
    return Message(role="user", content=CONTENT)


def rate(makers: list[Callable[[], Callable[[], Any]]], each: int) -> float:
    """Return calls a second of several threads, each of which calls what its maker gave."""
    calls = [make() for make in makers]

    def work(call: Callable[[], Any]) -> None:
        for _ in range(each):
            call()

    workers = [Worker(target=work, args=(call,)) for call in calls]
    started = perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(calls) * each / (perf_counter() - started)


def on_postgresql(config: PostgreSQLConfig, quick: bool) -> None:
    """Print what one client, eight writers and readers of short and long threads see."""
    rounds, calls = (5, 20) if quick else (25, 60)
    with DatabaseManager() as manager:
        manager.add_postgresql("main", config)
        threads, messages = ThreadManager(manager, "main"), MessageStore(manager, "main")
        for name in ("t", *(f"w{number}" for number in range(WRITERS))):
            threads.create_thread(Thread(id=name, user_id="ada"))
        floor = Floor(config)
        found = in_turns(
            {"floor": floor.append, "append": lambda: messages.append("t", message())}, rounds=rounds, calls=calls
        )
        report("append one message, durable", found, floor="floor", bound=1.6)
        found = in_turns(
            {
                "floor": floor.append_ten,
                "append_many": lambda: messages.append_many("t", [message() for _ in range(10)]),
            },
            rounds=rounds,
            calls=calls // 3,
        )
        report("append ten in one call, durable", found, floor="floor", bound=1.33)
        writers(manager, config, messages, rounds)
        lengths(manager, messages, floor, quick)
        session_get(manager, floor, rounds, calls)
        floor.connection.close()


def writers(manager: DatabaseManager, config: PostgreSQLConfig, messages: MessageStore, rounds: int) -> None:
    """Print the rates of eight writers, each on a thread of its own, and what waking followers takes from them."""
    floors = [Floor(config, f"w{number}") for number in range(WRITERS)]
    stores = {
        "append": messages,
        "append, notify=0.05": MessageStore(manager, "main", notify=0.05),
        "append, a notice each time": MessageStore(manager, "main", notify=1e-6),
    }
    ways: dict[str, list[Callable[[], Callable[[], Any]]]] = {
        "floor": [partial(lambda floor: floor.append, floor) for floor in floors]
    }
    for title, store in stores.items():
        ways[title] = [partial(appender, store, f"w{number}") for number in range(WRITERS)]
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(max(rounds // 2, 3)):
        for name, makers in ways.items():
            rates[name].append(rate(makers, 60))
    middle = {name: sorted(found)[len(found) // 2] for name, found in rates.items()}
    print(f"\n{WRITERS} writers on their own threads, messages a second (bound 0.6 of the floor)")
    for name, found in middle.items():
        print(f"  {name:<44} {found:>10.0f} /s   x{found / middle['floor']:.2f}")
    for floor in floors:
        floor.connection.close()


def appender(store: MessageStore, thread: str) -> Callable[[], Any]:
    """Return what appends to a thread."""
    return lambda: store.append(thread, message())


def lengths(manager: DatabaseManager, messages: MessageStore, floor: Floor, quick: bool) -> None:
    """Print how long the last 20 messages take in threads of 10, 1,000 and 100,000."""
    ways: dict[str, Callable[[], Any]] = {"floor": floor.last}
    for length in (10, 1000, 10_000 if quick else 100_000):
        name = f"long {length}"
        ThreadManager(manager, "main").create_thread(Thread(id=name, user_id="ada"))
        for start in range(0, length, 5000):
            messages.append_many(name, [message() for _ in range(min(5000, length - start))])
        ways[f"last(20) of {length:,}"] = partial(messages.last, name, 20)
    floor.connection.execute("VACUUM ANALYZE holdfast_messages")
    report("the last 20 messages", in_turns(ways, rounds=15, calls=40), floor="floor")


def session_get(manager: DatabaseManager, floor: Floor, rounds: int, calls: int) -> None:
    """Print what reading a session costs, in time and in statements."""
    sessions = SessionManager(manager, "main")
    sessions.create_session(Session(id="s", user_id="ada", metadata={"locale": "en", "agent": "a1"}))
    before = manager.stats()["main"].requests
    sessions.get_session("s")
    statements = manager.stats()["main"].requests - before
    select = "SELECT id, user_id, metadata FROM holdfast_sessions WHERE tenant_id = 'default' AND id = %s"
    ways = {
        "floor": lambda: floor.connection.execute(select, ("s",)).fetchone(),
        "get_session": lambda: sessions.get_session("s"),
    }
    report(f"read a session, {statements} statement", in_turns(ways, rounds=rounds, calls=calls), floor="floor")


Way = Callable[[], Awaitable[Any]]


async def print_cpu(ways: dict[str, Way], calls: int) -> None:
    """Print this process's own time a call, which other programs on the machine hardly change."""
    print("\nclient CPU of the same append")
    for name, way in ways.items():
        started = process_time()
        for _ in range(calls):
            await way()
        print(f"  {name:<44} {(process_time() - started) / calls * 1e6:>10.0f} us")


async def peers_on_postgresql(config: PostgreSQLConfig, quick: bool) -> None:
    """Print what the same append costs through the sessions of other frameworks, all of them async."""
    rounds, calls = (4, 10) if quick else (12, 25)
    url = make_conninfo(**config.connection_parameters())
    print("\nasync, on the same server (the peers through asyncpg, as they say)")
    async with AsyncDatabaseManager() as manager:
        await manager.add_postgresql("main", config)
        Floor(config).connection.close()  # its table is there
        connection = await psycopg.AsyncConnection.connect(url, autocommit=True)
        async with PeerServices(config, manager) as peers:
            for length in (10, 1000) if quick else (10, 1000, 20_000):
                await peers.fill(length)
                numbers = count(10_000_000 * length)

                async def floor(numbers: count[int] = numbers) -> None:
                    await connection.execute(INSERT, ("async", next(numbers), json.dumps(CONTENT)))

                one = {"floor: one INSERT": floor, **peers.one}
                found = await in_turns_async(one, rounds=rounds, calls=calls)
                for title, names in {
                    "OpenAI Agents SDK: add_items of one": (FLOOR, NATIVE, OPENAI, "SQLAlchemySession"),
                    "Google ADK: append_event": (FLOOR, NATIVE, ADK, "DatabaseSessionService"),
                }.items():
                    part = {name: found[name] for name in names if name in found}
                    report(f"{title}, after {length:,}", part, floor=names[2])
            await print_cpu(one, 20 if quick else 150)
            found = await in_turns_async(peers.ten, rounds=rounds, calls=max(calls // 5, 2))
            report("ten items in one call", found, floor=OPENAI)
            report("the last 20", await in_turns_async(peers.last, rounds=rounds, calls=calls), floor=NATIVE)
            await eight_tasks(peers, 10 if quick else 60)
        await connection.close()


async def eight_tasks(peers: PeerServices, each: int) -> None:
    """Print the rates of eight tasks of one process, each on a session of its own."""

    async def work(call: Way) -> None:
        for _ in range(each):
            await call()

    print(f"\n{WRITERS} tasks, each on a session of its own, messages a second")
    for name, make in peers.many.items():
        calls = [await make(f"task {number}") for number in range(WRITERS)]
        await asyncio.gather(*[work(call) for call in calls])  # connections are opened
        started = perf_counter()
        await asyncio.gather(*[work(call) for call in calls])
        print(f"  {name:<44} {WRITERS * each / (perf_counter() - started):>10.0f} /s")


FLOOR, NATIVE = "floor: one INSERT", "MessageStore.append"
OPENAI, ADK = "HoldfastSession", "HoldfastSessionService"


class PeerServices:
    """The sessions of other frameworks on PostgreSQL, theirs and ours, as far as they are installed."""

    def __init__(self, config: PostgreSQLConfig, manager: AsyncDatabaseManager) -> None:
        self._config = config
        self._manager = manager
        self._close: list[Callable[[], Awaitable[Any]]] = []
        self._fill: list[Callable[[int], Awaitable[Any]]] = []
        self.one: dict[str, Way] = {}
        self.ten: dict[str, Way] = {}
        self.last: dict[str, Way] = {}
        self.many: dict[str, Callable[[str], Awaitable[Way]]] = {}

    async def __aenter__(self) -> PeerServices:
        for add in (self._native, self._openai, self._adk):
            try:
                await add()
            except ImportError as exc:
                print(f"  missing: {exc}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        for close in self._close:
            await close()

    async def fill(self, length: int) -> None:
        """Bring each session to a length."""
        for fill in self._fill:
            await fill(length)

    async def _native(self) -> None:
        messages = AsyncMessageStore(self._manager, "main").for_user("ada")

        async def fill(length: int) -> None:
            for _ in range(0, length, 1000):
                await messages.append_many("async", [message() for _ in range(min(length, 1000))])

        async def make(name: str) -> Way:
            return lambda: messages.append(name, message())

        self._fill.append(fill)
        self.one[NATIVE] = await make("async")
        self.ten["MessageStore.append_many"] = lambda: messages.append_many("async", [message() for _ in range(10)])
        self.last[NATIVE] = lambda: messages.last("async", 20)
        self.many[NATIVE] = make

    def _engine(self) -> Any:
        from sqlalchemy import URL
        from sqlalchemy.ext.asyncio import create_async_engine

        found = self._config.connection_parameters()
        url = URL.create(
            "postgresql+asyncpg",
            username=str(found["user"]),
            password=str(found.get("password") or "") or None,
            database=str(found["dbname"]),
            query={"host": str(found["host"]), "port": str(found["port"])},
        )
        return url, create_async_engine

    async def _openai(self) -> None:
        from sessions.openai_agents import HoldfastSession

        # The same items, and the same call of the SDK's protocol.
        item: Any = {"role": "user", "content": json.dumps(CONTENT)}
        makers: dict[str, Callable[[str], Any]] = {OPENAI: lambda name: HoldfastSession(name, self._manager)}
        try:
            from agents.extensions.memory import SQLAlchemySession

            url, create = self._engine()
            engine = create(url)
        except ImportError as exc:
            print(f"  missing: {exc}")
        else:
            self._close.append(engine.dispose)
            makers["SQLAlchemySession"] = lambda name: SQLAlchemySession(name, engine=engine, create_tables=True)
        for name, make in makers.items():
            self._add_session(name, make, item)

    def _add_session(self, name: str, make: Callable[[str], Any], item: Any) -> None:
        session = make("openai")

        async def fill(length: int) -> None:
            for _ in range(0, length, 1000):
                await session.add_items([item] * min(length, 1000))

        async def other(task: str) -> Way:
            found = make(task)
            return lambda: found.add_items([item])

        self._fill.append(fill)
        self.one[name] = lambda: session.add_items([item])
        self.ten[name] = lambda: session.add_items([item] * 10)
        self.last[name] = lambda: session.get_items(20)
        self.many[name] = other

    async def _adk(self) -> None:
        from google.adk.sessions import DatabaseSessionService

        from sessions.google_adk import HoldfastSessionService

        services: dict[str, Any] = {ADK: HoldfastSessionService(self._manager)}
        try:
            url, _ = self._engine()
            theirs = DatabaseSessionService(db_url=url.render_as_string(hide_password=False))
            services["DatabaseSessionService"] = theirs
        except ImportError as exc:
            print(f"  missing: {exc}")
        for name, service in services.items():
            await self._add_service(name, service)

    async def _add_service(self, name: str, service: Any) -> None:
        from google.adk.events import Event
        from google.adk.sessions.base_session_service import GetSessionConfig
        from google.genai import types

        async def make(task: str) -> Way:
            # As a runner reads it: with the newest events only.
            place = {"app_name": "app", "user_id": "ada", "session_id": task}
            session = await service.create_session(**place)
            events: list[Event] = []

            async def append() -> None:
                if not events:  # many at once: making them is no part of the median
                    content = types.Content(role="user", parts=[types.Part(text=json.dumps(CONTENT))])
                    events.extend(Event(author="user", content=content) for _ in range(200))
                await service.append_event(session, events.pop())

            return append

        append = await make("adk")

        async def fill(length: int) -> None:
            for _ in range(min(length, 2000)):
                await append()

        config = GetSessionConfig(num_recent_events=20)
        self._fill.append(fill)
        self.one[name] = append
        self.last[name] = lambda: service.get_session(app_name="app", user_id="ada", session_id="adk", config=config)
        self.many[name] = make


def add_sessions(sessions: dict[str, Any], one: dict[str, Way], ten: dict[str, Way], last: dict[str, Way]) -> None:
    """Add the calls of sessions of the OpenAI Agents SDK, ours and theirs."""
    item: Any = {"role": "user", "content": json.dumps(CONTENT)}
    for name, session in sessions.items():
        one[name] = partial(session.add_items, [item])
        ten[name] = partial(session.add_items, [item] * 10)
        last[name] = partial(session.get_items, 20)


async def on_sqlite(folder: Path, quick: bool) -> None:
    """Print what an append costs on a SQLite file, beside the OpenAI Agents SDK's SQLiteSession."""
    rounds, calls = (4, 10) if quick else (20, 40)
    raw = sqlite3.connect(folder / "floor.db", isolation_level=None, check_same_thread=False)
    raw.execute("PRAGMA journal_mode = WAL")
    raw.execute("CREATE TABLE floor (thread TEXT, seq INTEGER, role TEXT, content TEXT, PRIMARY KEY (thread, seq))")
    numbers = count(1)

    async def floor() -> None:
        def insert() -> None:
            raw.execute("INSERT INTO floor VALUES ('t', ?, 'user', ?)", (next(numbers), json.dumps(CONTENT)))

        await asyncio.to_thread(insert)

    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=str(folder / "ours.db")))
        messages = AsyncMessageStore(manager, "main").for_user("ada")
        one: dict[str, Way] = {"floor in a thread": floor, "append": lambda: messages.append("t", message())}
        ten: dict[str, Way] = {"append_many": lambda: messages.append_many("t", [message() for _ in range(10)])}
        last: dict[str, Way] = {"last(20)": lambda: messages.last("t", 20)}
        try:
            from agents import SQLiteSession
        except ImportError as exc:
            print(f"\n  missing: {exc}")
        else:
            from sessions.openai_agents import HoldfastSession

            sessions = {
                OPENAI: HoldfastSession("s", manager),
                "SQLiteSession": SQLiteSession("t", folder / "openai.db"),
            }
            add_sessions(sessions, one, ten, last)
        await messages.append("t", message())
        report("append one, SQLite, async", await in_turns_async(one, rounds=rounds, calls=calls), floor="append")
        await print_cpu(one, 20 if quick else 150)
        report("append ten, SQLite, async", await in_turns_async(ten, rounds=rounds, calls=calls), floor="append_many")
        report("the last 20, SQLite, async", await in_turns_async(last, rounds=rounds, calls=calls), floor="last(20)")
    raw.close()


async def on_redis(folder: Path, quick: bool) -> None:
    """Print what messages cost on Redis, beside the OpenAI Agents SDK's RedisSession and bare RPUSH and LRANGE."""
    rounds, calls = (4, 20) if quick else (20, 40)
    with EmbeddedRedis(folder / "redis") as server:
        async with AsyncDatabaseManager() as manager:
            connection = await manager.add_redis("main", server.config())
            messages = AsyncMessageStore(manager, "main").for_user("ada")
            options = connection.client.connection_pool.connection_kwargs
            plain, text = Redis(unix_socket_path=options["path"], password=options["password"]), json.dumps(CONTENT)
            one: dict[str, Way] = {
                "RPUSH": lambda: plain.rpush("floor", text),
                "append": lambda: messages.append("t", message()),
            }
            last: dict[str, Way] = {
                "LRANGE": lambda: plain.lrange("floor", -20, -1),
                "last(20)": lambda: messages.last("t", 20),
            }
            ten: dict[str, Way] = {"append_many": lambda: messages.append_many("t", [message() for _ in range(10)])}
            whole: dict[str, Way] = {}
            try:
                from agents.extensions.memory import RedisSession
            except ImportError as exc:
                print(f"\n  missing: {exc}")
            else:
                from sessions.openai_agents import HoldfastSession

                def both(name: str) -> dict[str, Any]:
                    return {
                        OPENAI: HoldfastSession(name, manager),
                        "RedisSession": RedisSession(name, redis_client=plain),
                    }

                add_sessions(both("s"), one, ten, last)
                for name, session in both("whole").items():
                    await session.add_items([{"role": "user", "content": text}] * 200)
                    whole[name] = session.get_items
            await messages.append("t", message())
            for title, ways, floor in (
                ("append one", one, "append"),
                ("append ten", ten, "append_many"),
                ("the last 20", last, "last(20)"),
                ("a session of 200 items", whole, OPENAI),
            ):
                if ways:
                    found = await in_turns_async(ways, rounds=rounds, calls=calls)
                    report(f"{title}, Redis, async", found, floor=floor)
            await plain.aclose()


def main() -> None:
    """Run everything on a server and a file of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sessions")
    parser.add_argument("--quick", action="store_true", help="few rounds, and 10,000 messages at most")
    parser.add_argument("--only", choices=["postgresql", "peers", "sqlite", "redis"], help="one part of it")
    given = parser.parse_known_args()[0]
    quick, only = given.quick, given.only
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if only in (None, "postgresql", "peers"):
            settings = {"shared_buffers": "512MB"}
            server = stack.enter_context(EmbeddedPostgreSQL(folder / "postgresql", settings=settings))
        if only in (None, "postgresql"):
            on_postgresql(server.config(), quick)
        if only in (None, "peers"):
            asyncio.run(peers_on_postgresql(server.config(), quick))
        if only in (None, "sqlite"):
            asyncio.run(on_sqlite(folder, quick))
        if only in (None, "redis"):
            asyncio.run(on_redis(folder, quick))


if __name__ == "__main__":
    main()

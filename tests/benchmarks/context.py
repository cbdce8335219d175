"""What the shared context and LangGraph's store cost over the plainest psycopg, redis-py and LangGraph's own store.

Everything is durable as it is by default: PostgreSQL with fsync, SQLite with synchronous=FULL.
"""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import psycopg
import redis
from langgraph.store.postgres import PostgresStore

from persistence import DatabaseManager, EmbeddedPostgreSQL, EmbeddedRedis, PostgreSQLConfig, SQLiteConfig
from sessions import ContextStore
from sessions.langgraph_store import HoldfastStore
from tests.benchmarks.measure import in_turns, report
from tests.servers import redis_client

VALUE = {"name": "Grace", "stage": 2, "notes": "x" * 200}
TEXT = '{"name":"Grace","stage":2,"notes":"' + "x" * 200 + '"}'
UPSERT = (
    "INSERT INTO floor (scope, key, value, at) VALUES (%s, %s, %s, now())"
    " ON CONFLICT (scope, key) DO UPDATE SET value = excluded.value, at = excluded.at"
)


def on_postgresql(config: PostgreSQLConfig) -> None:
    """Time the shared context beside single statements on one connection."""
    with (
        psycopg.connect(**config.connection_parameters(), autocommit=True) as floor,
        DatabaseManager() as manager,
    ):
        floor.execute("CREATE TABLE floor (scope text, key text, value json, at timestamptz, PRIMARY KEY (scope, key))")
        manager.add_postgresql("main", config)
        store = ContextStore(manager, "main").for_user("ada")
        guarded = ContextStore(manager, "main", row_security=True).for_user("ada")
        store.register_topics("agent", ["t"])
        numbers = itertools.count()

        def key() -> str:
            return f"k{next(numbers) % 100}"

        pushes = {
            "psycopg: one upsert": lambda: floor.execute(UPSERT, ["ada", key(), TEXT]),
            "push": lambda: store.push(key(), VALUE),
            "push of an agent to topics, checked": lambda: store.push(key(), VALUE, topics=["t"], agent="agent"),
            "push with row_security": lambda: guarded.push(key(), VALUE),
        }
        report("PostgreSQL: push", in_turns(pushes, rounds=30, calls=20), floor="psycopg: one upsert")
        select = "SELECT value FROM floor WHERE scope = %s AND key = %s"
        gets = {
            "psycopg: one select": lambda: floor.execute(select, ["ada", key()]).fetchone(),
            "get": lambda: store.get(key()),
            "get of an agent": lambda: store.get(key(), "agent"),
            "get with row_security": lambda: guarded.get(key()),
        }
        report("PostgreSQL: get", in_turns(gets, rounds=30, calls=50), floor="psycopg: one select")


def on_redis(client: redis.Redis, server: EmbeddedRedis, path: str) -> None:
    """Time the shared context on Redis beside a hash, and on SQLite."""
    with DatabaseManager() as manager:
        manager.add_redis("main", server.config())
        manager.add_sqlite("file", SQLiteConfig(path=path))
        store = ContextStore(manager, "main").for_user("ada")
        file = ContextStore(manager, "file").for_user("ada")
        ways: dict[str, Any] = {
            "redis-py: one HSET": lambda: client.hset("floor", "k", TEXT),
            "push on Redis": lambda: store.push("k", VALUE),
            "get on Redis": lambda: store.get("k"),
            "push on SQLite": lambda: file.push("k", VALUE),
            "get on SQLite": lambda: file.get("k"),
        }
        report("Redis and SQLite", in_turns(ways, rounds=30, calls=20), floor="redis-py: one HSET")


def against_langgraph(config: PostgreSQLConfig, other: PostgreSQLConfig) -> None:
    """Time LangGraph's own PostgreSQL store and ours, each in its own database of 10,000 items."""
    parameters = " ".join(f"{name}='{value}'" for name, value in config.connection_parameters().items() if value)
    with PostgresStore.from_conn_string(parameters) as theirs, DatabaseManager() as manager:
        theirs.setup()
        manager.add_postgresql("main", other)
        ours = HoldfastStore(manager)
        for store in (theirs, ours):
            for start in range(0, 10_000, 1000):
                items = range(start, start + 1000)
                store.batch([_put(("users", f"u{n % 500}"), f"k{n}", {**VALUE, "n": n}) for n in items])
        for url in (config, other):
            with psycopg.connect(**url.connection_parameters(), autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        numbers = itertools.count()

        def place() -> tuple[tuple[str, ...], str]:
            number = next(numbers) % 10_000
            return ("users", f"u{number % 500}"), f"k{number}"

        for name, call in {
            "put": lambda store: store.put(*place(), VALUE),
            "get": lambda store: store.get(*place()),
            "search one namespace by a field": lambda store: store.search(place()[0], filter={"stage": 2}),
            "search all by a field, newest ten": lambda store: store.search(("users",), filter={"stage": 2}),
        }.items():
            ways = {
                "langgraph's PostgresStore": lambda call=call: call(theirs),  # type: ignore[misc]
                "HoldfastStore": lambda call=call: call(ours),  # type: ignore[misc]
            }
            found = in_turns(ways, rounds=20, calls=5 if "all" in name else 20)
            report(f"LangGraph: {name}", found, floor="langgraph's PostgresStore")


def _put(namespace: tuple[str, ...], key: str, value: dict[str, Any]) -> Any:
    from langgraph.store.base import PutOp

    return PutOp(namespace, key, value)


def main() -> None:
    """Run all of it on servers of its own."""
    with tempfile.TemporaryDirectory() as folder:
        with EmbeddedPostgreSQL(Path(folder) / "postgresql") as server:
            configs = []
            with psycopg.connect(**server.config().connection_parameters(), autocommit=True) as admin:
                for name in ("context", "theirs", "ours"):
                    admin.execute(f"CREATE DATABASE {name}")
                    configs.append(server.config(database=name))
            on_postgresql(configs[0])
            against_langgraph(configs[1], configs[2])
        with EmbeddedRedis(Path(folder) / "redis") as redis_server, redis_client(redis_server.config()) as client:
            on_redis(client, redis_server, str(Path(folder) / "main.db"))

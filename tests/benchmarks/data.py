"""What repositories, keys and values, and watched statements cost over the plainest psycopg and redis-py code.

The floors are a ``psycopg_pool`` pool in autocommit mode that builds the same entity, and a redis-py client that keeps
the same JSON. redis-py's SET keeps no version and no order of keys: the floor of a put is a script that does.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import redis
from psycopg.rows import class_row

from persistence import (
    DatabaseManager,
    EmbeddedPostgreSQL,
    EmbeddedRedis,
    KeyValueStore,
    PostgreSQLConfig,
    PubSub,
    RedisConfig,
    Repository,
    Secret,
)
from tests.benchmarks.measure import in_turns, report

ROUNDS, CALLS = 25, 150
VALUE = {"name": "small", "temperature": 0.2, "tags": ["a", "b"]}


@dataclass
class Thing:
    """A row."""

    id: str
    a: int
    b: str


def repository(config: PostgreSQLConfig) -> None:
    """Compare Repository.get with psycopg, and statements with and without a listener."""
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5
        ) as pool,
        DatabaseManager() as manager,
    ):
        pool.wait()
        database = manager.add_postgresql("main", config)
        database.execute("CREATE TABLE t (id text PRIMARY KEY, a integer NOT NULL, b text NOT NULL)")
        things = Repository(manager, "main", "t", Thing)
        things.save_many([Thing(f"k{n}", n, "x" * 50) for n in range(1000)])

        def floor() -> Any:
            with pool.connection() as connection, connection.cursor(row_factory=class_row(Thing)) as cursor:
                return cursor.execute("SELECT id, a, b FROM t WHERE id = %s", ("k500",)).fetchone()

        ways = {"psycopg_pool": floor, "Repository.get": lambda: things.get("k500")}
        report("one row as an entity", in_turns(ways, rounds=ROUNDS, calls=CALLS), floor="psycopg_pool", bound=1.3)

        sql, given = "SELECT id, a, b FROM t WHERE id = :id", {"id": "k500"}

        def watched() -> Any:
            manager.on_statement.append(lambda event: None)
            try:
                return database.fetch_one(sql, given)
            finally:
                manager.on_statement.clear()

        found = in_turns(
            {"unwatched": lambda: database.fetch_one(sql, given), "watched": watched}, rounds=ROUNDS, calls=CALLS
        )
        report("a statement, with and without a listener", found, floor="unwatched")


def key_values(config: RedisConfig) -> None:
    """Compare KeyValueStore on Redis with redis-py."""
    password = config.password.reveal() if isinstance(config.password, Secret) else config.password
    where: dict[str, Any] = {"host": config.host, "port": config.port}
    if config.unix_socket:
        where = {"unix_socket_path": config.unix_socket}
    with redis.Redis(**where, password=password or None, db=config.database) as plain, DatabaseManager() as manager:
        manager.add_redis("main", config)
        store = KeyValueStore(manager, "main")
        store.put("k", VALUE)
        plain.set("k", json.dumps(VALUE))
        versioned = plain.register_script(
            "redis.call('HINCRBY', KEYS[1], 'n', 1); redis.call('ZADD', KEYS[2], 0, KEYS[1])"
            " return redis.call('HSET', KEYS[1], 'v', ARGV[1])"
        )
        ways = {"redis-py GET": lambda: json.loads(plain.get("k") or b""), "get": lambda: store.get("k")}
        report("get", in_turns(ways, rounds=ROUNDS, calls=CALLS), floor="redis-py GET", bound=1.2)
        puts = {
            "redis-py, a script": lambda: versioned(["h", "x"], [json.dumps(VALUE)]),
            "redis-py SET": lambda: plain.set("k", json.dumps(VALUE)),
            "put": lambda: store.put("k", VALUE),
        }
        report("put", in_turns(puts, rounds=ROUNDS, calls=CALLS), floor="redis-py, a script", bound=1.2)
        sums = {"redis-py INCR": lambda: plain.incr("n"), "increment": lambda: store.increment("n")}
        report("increment", in_turns(sums, rounds=ROUNDS, calls=CALLS), floor="redis-py INCR")


def notices(config: PostgreSQLConfig) -> None:
    """Measure a notice from publish to get, on PostgreSQL."""
    with (
        DatabaseManager() as manager,
        psycopg.connect(**config.connection_parameters(), autocommit=True) as speaker,
        psycopg.connect(**config.connection_parameters(), autocommit=True) as listener,
    ):
        manager.add_postgresql("main", config)
        pubsub = PubSub(manager, "main")
        listener.execute("LISTEN plain")

        def floor() -> Any:
            speaker.execute("SELECT pg_notify('plain', 'x')")
            return list(listener.notifies(timeout=5, stop_after=1))

        with pubsub.subscribe("a") as subscription:

            def ours() -> Any:
                pubsub.publish("a", "x")
                return subscription.get(timeout=5)

            ways = {"psycopg": floor, "PubSub": ours}
            report("a notice there and back", in_turns(ways, rounds=ROUNDS, calls=50), floor="psycopg")


def main() -> None:
    """Run everything on servers of its own."""
    with tempfile.TemporaryDirectory() as folder:
        with EmbeddedPostgreSQL(Path(folder) / "postgresql", settings={"fsync": "off"}) as server:
            repository(server.config())
            notices(server.config())
        with EmbeddedRedis(Path(folder) / "redis") as cache:
            key_values(cache.config())

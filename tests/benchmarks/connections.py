"""What the connections layer costs over the plainest psycopg, redis-py and sqlite3 code.

The floors keep connections of the same kind open: a ``psycopg_pool`` pool in autocommit mode, or one connection where
it says so, a redis-py client, a sqlite3 connection. Each run connects anew several times, because where the kernel
places a server process decides more than any code here.
"""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psycopg
import psycopg_pool
import redis

from persistence import (
    AsyncDatabaseManager,
    DatabaseManager,
    EmbeddedPostgreSQL,
    EmbeddedRedis,
    PostgreSQLConfig,
    RedisConfig,
    Secret,
    SQLiteConfig,
)
from tests.benchmarks.measure import in_turns, in_turns_async, report

REPEATS = 7
KEY = "k500"


def merged(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of several runs."""
    return {name: median(run[name] for run in runs) for name in runs[0]}


def fill(config: PostgreSQLConfig, path: str) -> None:
    with DatabaseManager() as manager:
        for database in (manager.add_postgresql("p", config), manager.add_sqlite("s", SQLiteConfig(path=path))):
            database.execute("CREATE TABLE t (id text PRIMARY KEY, a integer, b text)")
            database.execute_many(
                "INSERT INTO t VALUES (:id, :a, :b)", [{"id": f"k{n}", "a": n, "b": "x" * 50} for n in range(1000)]
            )
            database.execute("ANALYZE t")


def fetch_one(config: PostgreSQLConfig) -> dict[str, float]:
    sql = "SELECT id, a, b FROM t WHERE id = :id"
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5
        ) as pool,
        DatabaseManager() as manager,
    ):
        pool.wait()
        database = manager.add_postgresql("main", config)

        def floor() -> Any:
            with pool.connection() as connection:
                return connection.execute("SELECT id, a, b FROM t WHERE id = %s", (KEY,)).fetchone()

        return in_turns(
            {"psycopg_pool": floor, "holdfast": lambda: database.fetch_one(sql, {"id": KEY})}, rounds=15, calls=200
        )


async def fetch_one_async(config: PostgreSQLConfig) -> dict[str, float]:
    sql = "SELECT id, a, b FROM t WHERE id = :id"
    pool = psycopg_pool.AsyncConnectionPool(
        kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5, open=False
    )
    async with pool, AsyncDatabaseManager() as manager:
        await pool.wait()
        database = await manager.add_postgresql("main", config)

        async def floor() -> Any:
            async with pool.connection() as connection:
                cursor = await connection.execute("SELECT id, a, b FROM t WHERE id = %s", (KEY,))
                return await cursor.fetchone()

        async def ours() -> Any:
            return await database.fetch_one(sql, {"id": KEY})

        return await in_turns_async({"psycopg_pool": floor, "holdfast": ours}, rounds=15, calls=200)


def prepared(config: PostgreSQLConfig) -> dict[str, float]:
    sql = "SELECT id, a, b FROM t WHERE id = :id"
    with (
        psycopg.connect(**config.connection_parameters(), autocommit=True) as connection,
        DatabaseManager() as manager,
    ):
        database = manager.add_postgresql("main", config)

        def floor() -> Any:
            return connection.execute("SELECT id, a, b FROM t WHERE id = %s", (KEY,), prepare=True).fetchone()

        ours = {"holdfast": lambda: database.fetch_one(sql, {"id": KEY})}
        return in_turns({"psycopg, without a pool": floor, **ours}, rounds=15, calls=200)


async def prepared_async(config: PostgreSQLConfig) -> dict[str, float]:
    sql = "SELECT id, a, b FROM t WHERE id = :id"
    connection = await psycopg.AsyncConnection.connect(**config.connection_parameters(), autocommit=True)
    async with connection, AsyncDatabaseManager() as manager:
        database = await manager.add_postgresql("main", config)

        async def floor() -> Any:
            cursor = await connection.execute("SELECT id, a, b FROM t WHERE id = %s", (KEY,), prepare=True)
            return await cursor.fetchone()

        async def ours() -> Any:
            return await database.fetch_one(sql, {"id": KEY})

        return await in_turns_async({"psycopg, without a pool": floor, "holdfast": ours}, rounds=15, calls=200)


def batch(config: PostgreSQLConfig) -> dict[str, float]:
    read, write = "SELECT id, a, b FROM t WHERE id = :id", "UPDATE t SET a = a + 1 WHERE id = :id"
    calls: list[tuple[str, dict[str, str]]] = [(write, {"id": f"k{n}"}) for n in range(4)] + [(read, {"id": KEY})]
    with (
        psycopg.connect(**config.connection_parameters(), autocommit=True) as connection,
        DatabaseManager() as manager,
    ):
        database = manager.add_postgresql("main", config)

        def one_by_one() -> None:
            for sql, parameters in calls:
                database.fetch_all(sql, parameters) if sql is read else database.execute(sql, parameters)

        def floor() -> Any:
            with connection.pipeline():
                for number in range(4):
                    connection.execute("UPDATE t SET a = a + 1 WHERE id = %s", (f"k{number}",), prepare=True)
                cursor = connection.execute("SELECT id, a, b FROM t WHERE id = %s", (KEY,), prepare=True)
            return cursor.fetchall()

        ways = {
            "psycopg's pipeline": floor,
            "one by one": one_by_one,
            "fetch_batch": lambda: database.fetch_batch(calls),
        }
        return in_turns(ways, rounds=15, calls=50)


def copy(config: PostgreSQLConfig) -> dict[str, float]:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    rows = [(f"id{n}", n, n * 0.5, moment, None) for n in range(20_000)]
    columns, types = ("a", "b", "c", "d", "e"), ("text", "int8", "float8", "timestamptz", "text")
    with (
        psycopg.connect(**config.connection_parameters(), autocommit=True) as connection,
        DatabaseManager() as manager,
    ):
        database = manager.add_postgresql("main", config)
        names = ", ".join(f"{name} {kind}" for name, kind in zip(columns, types, strict=True))
        connection.execute(f"DROP TABLE IF EXISTS c; CREATE UNLOGGED TABLE c ({names})")

        def floor() -> None:
            with connection.cursor().copy("COPY c FROM STDIN (FORMAT BINARY)") as writer:
                writer.set_types(types)
                for row in rows:
                    writer.write_row(row)
            connection.execute("TRUNCATE c")

        def ours() -> None:
            database.copy_into("c", columns, rows)
            connection.execute("TRUNCATE c")

        return in_turns({"psycopg's write_row": floor, "copy_into": ours}, rounds=5, calls=2)


def transaction(config: PostgreSQLConfig) -> dict[str, float]:
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5
        ) as pool,
        DatabaseManager() as manager,
    ):
        pool.wait()
        database = manager.add_postgresql("main", config)

        def floor() -> None:
            with pool.connection() as connection, connection.transaction():
                connection.execute("UPDATE t SET a = a + 1 WHERE id = %s", (KEY,))
                connection.execute("UPDATE t SET a = a - 1 WHERE id = %s", (KEY,))

        def ours() -> None:
            with database.transaction() as inner:
                inner.execute("UPDATE t SET a = a + 1 WHERE id = :id", {"id": KEY})
                inner.execute("UPDATE t SET a = a - 1 WHERE id = :id", {"id": KEY})

        return in_turns({"psycopg_pool": floor, "holdfast": ours}, rounds=10, calls=50)


def health(config: PostgreSQLConfig, cache: RedisConfig, path: str) -> dict[str, float]:
    password = cache.password.reveal() if isinstance(cache.password, Secret) else cache.password
    with (
        psycopg_pool.ConnectionPool(
            kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5
        ) as pool,
        redis.Redis(unix_socket_path=cache.unix_socket, password=password) as client,
        ThreadPoolExecutor(3) as executor,
        DatabaseManager() as manager,
    ):
        pool.wait()
        local = sqlite3.connect(path, check_same_thread=False)
        manager.add_postgresql("main", config)
        manager.add_redis("cache", cache)
        manager.add_sqlite("local", SQLiteConfig(path=path))

        def ping_postgresql() -> None:
            with pool.connection() as connection:
                connection.execute("SELECT 1").fetchone()

        def ping_sqlite() -> None:
            local.execute("SELECT count(*) FROM sqlite_master").fetchone()

        def floor() -> None:
            for future in [executor.submit(ping) for ping in (ping_postgresql, client.ping, ping_sqlite)]:
                future.result()

        found = in_turns({"three pings in threads": floor, "health_check": manager.health_check}, rounds=15, calls=100)
        local.close()
        return found


async def health_async(config: PostgreSQLConfig, cache: RedisConfig) -> dict[str, float]:
    password = cache.password.reveal() if isinstance(cache.password, Secret) else cache.password
    pool = psycopg_pool.AsyncConnectionPool(
        kwargs={**config.connection_parameters(), "autocommit": True}, min_size=1, max_size=5, open=False
    )
    client = redis.asyncio.Redis(unix_socket_path=cache.unix_socket, password=password)
    async with pool, client, AsyncDatabaseManager() as manager:
        await pool.wait()
        await manager.add_postgresql("main", config)
        await manager.add_postgresql("vectors", config)
        await manager.add_redis("cache", cache)

        async def ping() -> None:
            async with pool.connection() as connection:
                await (await connection.execute("SELECT 1")).fetchone()

        async def floor() -> None:
            await asyncio.gather(ping(), ping(), client.ping())

        return await in_turns_async(
            {"three pings in tasks": floor, "health_check": manager.health_check}, rounds=15, calls=100
        )


def fetch_one_sqlite(path: str) -> dict[str, float]:
    with DatabaseManager() as manager:
        database = manager.add_sqlite("main", SQLiteConfig(path=path))
        local = sqlite3.connect(path)
        found = in_turns(
            {
                "sqlite3": lambda: local.execute("SELECT id, a, b FROM t WHERE id = ?", (KEY,)).fetchone(),
                "holdfast": lambda: database.fetch_one("SELECT id, a, b FROM t WHERE id = :id", {"id": KEY}),
            },
            rounds=15,
            calls=500,
        )
        local.close()
        return found


def main() -> None:
    """Run everything on servers of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedRedis(f"{folder}/redis") as redis_server,
        EmbeddedPostgreSQL(f"{folder}/postgresql") as server,
    ):
        path = str(Path(folder) / "bench.db")
        config, cache = server.config(), redis_server.config()
        fill(config, path)
        bare = "psycopg, without a pool"
        pool, threads, tasks = "psycopg_pool", "three pings in threads", "three pings in tasks"
        cases: list[tuple[str, Any, str, float | None]] = [
            ("fetch_one by key, PostgreSQL, sync", lambda: fetch_one(config), pool, 1),
            ("fetch_one by key, PostgreSQL, async", lambda: asyncio.run(fetch_one_async(config)), pool, 1),
            ("fetch_one by key, prepared, sync", lambda: prepared(config), bare, 0.85),
            ("fetch_one by key, prepared, async", lambda: asyncio.run(prepared_async(config)), bare, 0.85),
            ("four updates and a read, PostgreSQL, sync", lambda: batch(config), "psycopg's pipeline", 1),
            ("20,000 rows by COPY, PostgreSQL, sync", lambda: copy(config), "psycopg's write_row", 1.1),
            ("transaction of two updates, PostgreSQL, sync", lambda: transaction(config), pool, None),
            ("health of PostgreSQL, Redis, SQLite, sync", lambda: health(config, cache, path), threads, 1.5),
            ("health of PostgreSQL twice, Redis, async", lambda: asyncio.run(health_async(config, cache)), tasks, 1.5),
            ("fetch_one by key, SQLite, sync", lambda: fetch_one_sqlite(path), "sqlite3", None),
        ]
        for title, run, floor, bound in cases:
            report(title, merged([run() for _ in range(REPEATS)]), floor=floor, bound=bound)


if __name__ == "__main__":
    main()

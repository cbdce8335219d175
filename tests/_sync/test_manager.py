# Generated from ../_async/test_manager.py by tests/unasync.py: edit that one.
"""The registry of named connections: adding, getting, removing, health, closing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import pytest

from persistence import (
    DatabaseManager,
    PgVectorDatabase,
    PostgreSQLDatabase,
    RedisConnection,
    SQLiteDatabase,
    CapabilityError,
    ClosedError,
    ConfigError,
    ConnectError,
    CorruptError,
    DuplicateError,
    EmbeddedPostgreSQL,
    PgVectorConfig,
    PostgreSQLConfig,
    RedisConfig,
    SQLiteConfig,
    UnknownConnectionError,
    WrongKindError,
)
from tests._sync.side import Started, elsewhere, sleep, together


def add_all(
    manager: DatabaseManager, main: PostgreSQLConfig, vectors: PgVectorConfig, cache: RedisConfig
) -> None:
    manager.add_postgresql("main", main)
    manager.add_redis("cache", cache)
    manager.add_pgvector("vectors", vectors)
    manager.add_sqlite("local", "sqlite://")


def test_connections_are_registered_handed_out_by_kind_and_closed(
    postgresql_config: PostgreSQLConfig, pgvector_config: PgVectorConfig, redis_config: RedisConfig
) -> None:
    with DatabaseManager() as manager:
        add_all(manager, postgresql_config, pgvector_config, redis_config)
        kinds = {"main": "postgresql", "cache": "redis", "vectors": "pgvector", "local": "sqlite"}
        assert manager.names() == kinds
        assert list(manager.names()) == list(kinds)
        assert type(manager.get_postgresql("main")) is PostgreSQLDatabase
        assert type(manager.get_redis("cache")) is RedisConnection
        assert type(manager.get_pgvector("vectors")) is PgVectorDatabase
        assert type(manager.get_sqlite("local")) is SQLiteDatabase
        assert manager.get_postgresql("vectors") is manager.get_pgvector("vectors")
        assert manager.get_database("local").fetch_value("SELECT 1") == 1
        assert list(manager.stats()) == list(kinds)
        assert all(stats.open >= 1 for stats in manager.stats().values())


def test_the_three_mistakes_of_getting_are_three_errors(
    manager: DatabaseManager, redis_config: RedisConfig
) -> None:
    manager.add_redis("cache", redis_config)
    manager.add_sqlite("local", "sqlite://")
    with pytest.raises(UnknownConnectionError, match=r"no connection is named 'cach' \(there are: cache, local\)"):
        manager.get_redis("cach")
    with pytest.raises(WrongKindError, match="'cache' is a redis connection, not a PostgreSQLDatabase"):
        manager.get_postgresql("cache")
    with pytest.raises(WrongKindError):
        manager.get_database("cache")
    with pytest.raises(WrongKindError):
        manager.get_pgvector("local")
    manager.close()
    manager.close()
    for get in (manager.get_redis, manager.get_sqlite, manager.get_database, manager.get):
        with pytest.raises(ClosedError):
            get("cache")
    with pytest.raises(ClosedError):
        manager.add_sqlite("other", "sqlite://")
    with pytest.raises(ClosedError):
        manager.health_check()
    with pytest.raises(ClosedError):
        manager.stats()


def test_a_dead_server_is_reported_when_it_is_added(manager: DatabaseManager, tmp_path: Path) -> None:
    started = monotonic()
    for add, config in (
        (manager.add_postgresql, PostgreSQLConfig(host="127.0.0.1", port=9, username="u", password="canary")),
        (manager.add_pgvector, PgVectorConfig(host="127.0.0.1", port=9, username="u", password="canary")),
        (manager.add_redis, RedisConfig(host="127.0.0.1", port=9, password="canary")),
    ):
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:9.*is the server running") as caught:
            add("main", config)  # type: ignore[operator]
        assert "canary" not in str(caught.value)
    with pytest.raises(ConnectError, match="No such file"):
        manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "nowhere" / "x.db")))
    (tmp_path / "text.db").write_text("this is no database, " * 100)
    with pytest.raises(CorruptError, match=r"text\.db"):
        manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "text.db")))
    assert (tmp_path / "text.db").read_text().startswith("this is no database")
    assert manager.names() == {}
    assert monotonic() - started < 5


def test_wrong_credentials_say_so(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    with pytest.raises(ConnectError, match="check username and password") as caught:
        manager.add_postgresql("main", replace(postgresql_config, password="canary-wrong"))
    assert "canary" not in str(caught.value)
    with pytest.raises(ConnectError, match=r"create it, or check the name"):
        manager.add_postgresql("main", replace(postgresql_config, database="no_such_database"))
    with pytest.raises(ConnectError, match="check username and password") as caught:
        manager.add_redis("cache", replace(redis_config, password="canary-wrong"))
    assert "canary" not in str(caught.value)


def test_a_lazy_connection_connects_on_first_use(manager: DatabaseManager) -> None:
    dead = manager.add_postgresql("main", PostgreSQLConfig(host="127.0.0.1", port=9), lazy=True)
    assert manager.names() == {"main": "postgresql"}
    with pytest.raises(ConnectError):
        dead.fetch_value("SELECT 1")
    status = (manager.health_check())["main"]
    assert not status
    assert status.error is not None
    assert "127.0.0.1:9" in status.error


def test_a_taken_name_is_refused_unless_it_is_to_be_replaced(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    first = manager.add_sqlite("main", "sqlite://")
    with pytest.raises(DuplicateError, match="'main' is taken"):
        manager.add_sqlite("main", "sqlite://")
    assert manager.get_sqlite("main") is first
    second = manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "b.db")), replace=True)
    assert manager.get_sqlite("main") is second
    assert first.is_closed
    with pytest.raises(ClosedError):
        first.fetch_value("SELECT 1")
    with pytest.raises(ConnectError):
        manager.add_sqlite("main", SQLiteConfig(path="/nowhere/x.db"), replace=True)
    assert manager.get_sqlite("main").fetch_value("SELECT 1") == 1
    manager.remove("main")
    assert second.is_closed
    with pytest.raises(UnknownConnectionError):
        manager.remove("main")
    manager.add_sqlite("main", "sqlite://")


def test_bad_names_and_urls_are_refused(manager: DatabaseManager) -> None:
    for name in ("", "x" * 201):
        with pytest.raises(ConfigError, match="name"):
            manager.add_sqlite(name, "sqlite://")
    for url in ("nonsense", "mysql://h/d", ""):
        with pytest.raises(ConfigError):
            manager.add("main", url)
    with pytest.raises(ConfigError):
        manager.add_postgresql("main", "redis://h/0")
    assert manager.names() == {}


def test_one_url_chooses_the_engine(
    manager: DatabaseManager, redis_config: RedisConfig, tmp_path: Path
) -> None:
    manager.add("local", f"sqlite:///{tmp_path}/x.db")
    password = redis_config.password.reveal()  # type: ignore[union-attr]
    manager.add("cache", f"unix://:{password}@{redis_config.unix_socket}?database={redis_config.database}")
    assert manager.names() == {"local": "sqlite", "cache": "redis"}


def test_what_is_no_configuration_is_refused_by_its_type(manager: DatabaseManager, tmp_path: Path) -> None:
    calls: list[Any] = [
        manager.add_postgresql,
        manager.add_pgvector,
        manager.add_redis,
        manager.add_sqlite,
        manager.add,
    ]
    for add in calls:
        for given in (tmp_path / "x.db", None, {"path": "x.db"}, b"sqlite://", 5):
            with pytest.raises(ConfigError, match=f"a {type(given).__name__} is no .*(URL|://)"):
                add("main", given)
    with pytest.raises(ConfigError, match="a PostgreSQLConfig is no PgVectorConfig"):
        calls[1]("main", PostgreSQLConfig(), dimensions=3)
    with pytest.raises(ConfigError, match=r"no scheme \(.*sqlite:///file\.db"):
        manager.add_sqlite("main", "x.db")
    for name in (None, 5, "", "a" * 201):
        with pytest.raises(ConfigError, match="a connection's name is a text"):
            calls[3](name, "sqlite://")
    assert manager.names() == {}


def test_a_server_whose_connection_is_refused_is_given_back(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    url = f"embedded+postgresql://{tmp_path}/server"
    with pytest.raises(ConfigError, match="starts a EmbeddedPostgreSQL, which is no RedisConfig"):
        manager.add_redis("cache", url)
    assert not (tmp_path / "server").exists()
    with EmbeddedPostgreSQL(tmp_path / "server", settings={"fsync": "off"}) as server:
        for options, error in (({"dimensions": 0}, ConfigError), ({"dimension": 3}, TypeError)):
            with pytest.raises(error):
                manager.add_pgvector("vectors", url, **options)
        vectors = manager.add_pgvector("vectors", url, lazy=True)
        assert vectors.config.dimensions == server.pgvector_config().dimensions == PgVectorConfig().dimensions
        manager.remove("vectors")
    assert not server.is_running()


def test_health_tells_of_each_connection(
    manager: DatabaseManager,
    postgresql_config: PostgreSQLConfig,
    pgvector_config: PgVectorConfig,
    redis_config: RedisConfig,
) -> None:
    assert manager.health_check() == {}
    add_all(manager, postgresql_config, pgvector_config, redis_config)
    health = manager.health_check()
    assert {name: bool(status) for name, status in health.items()} == dict.fromkeys(manager.names(), True)
    for name, status in health.items():
        assert (status.name, status.kind, status.error) == (name, manager.names()[name], None)
        assert status.server_version
        assert 0 < status.latency < 2
        assert status.checked_at.tzinfo is not None
        assert status.pool is not None
        assert status.pool.max_open >= 1


def test_a_missing_extension_is_unhealthy_until_it_is_there(
    manager: DatabaseManager, pgvector_config: PgVectorConfig
) -> None:
    database = manager.add_pgvector("vectors", pgvector_config)
    database.execute("DROP EXTENSION vector")
    status = (manager.health_check())["vectors"]
    assert not status
    assert status.error is not None
    assert "CREATE EXTENSION vector" in status.error
    with pytest.raises(CapabilityError, match="CREATE EXTENSION vector"):
        manager.add_pgvector("other", replace(pgvector_config, create_extension=False))
    other = manager.add_pgvector("other", pgvector_config)
    assert all((manager.health_check()).values())
    vector = np.array([1, 2, 3], dtype=np.float32)
    found = other.fetch_value("SELECT :v + :v", {"v": vector})  # on the connection that made the extension
    assert found.tolist() == [2.0, 4.0, 6.0]


def test_a_full_pool_is_unhealthy_and_says_so(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", replace(postgresql_config, max_connections=1))
    with database.transaction():
        started = monotonic()
        status = (elsewhere(lambda: manager.health_check(timeout=0.3)))["main"]
        assert 0.25 < monotonic() - started < 3
        assert not status
        assert status.error is not None
        assert "all 1 connections stayed in use" in status.error
        started = monotonic()
        own = (manager.health_check(timeout=5))["main"]  # who has the connection need not wait to be told
        assert monotonic() - started < 4
        assert "needed by who has one already" in str(own.error)
        assert status.pool is not None
        assert (status.pool.in_use, status.pool.idle) == (1, 0)
    assert (manager.health_check())["main"]


def test_closing_ends_what_is_under_way(
    manager: DatabaseManager,
    postgresql_config: PostgreSQLConfig,
    redis_config: RedisConfig,
    tmp_path: Path,
) -> None:
    main = manager.add_postgresql("main", replace(postgresql_config, max_connections=2))
    cache = manager.add_redis("cache", redis_config)
    local = manager.add_sqlite("local", SQLiteConfig(path=str(tmp_path / "x.db")))
    endless = "WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    calls = [Started(lambda: main.fetch_all("SELECT pg_sleep(20)")) for _ in range(4)]
    calls.append(Started(lambda: local.fetch_all(endless)))
    calls.append(Started(lambda: cache.client.blpop(["nothing"], timeout=2)))
    while cache.stats().in_use < 1 or main.stats().in_use + main.stats().waiting < 4 or local.stats().in_use < 1:
        sleep(0.005)
    sleep(0.05)
    started = monotonic()
    manager.close()
    for call in calls:
        with pytest.raises(ClosedError):
            call.result()
    assert monotonic() - started < 2


def test_sixteen_at_once_add_get_and_remove_without_losing_any(
    manager: DatabaseManager, tmp_path: Path
) -> None:
    manager.add_sqlite("shared", "sqlite://")

    def work(number: int) -> int:
        seen = 0
        for turn in range(10):
            name = f"own-{number}-{turn}"
            manager.add_sqlite(name, SQLiteConfig(path=str(tmp_path / f"{number}.db")))
            seen += manager.get_sqlite(name).fetch_value("SELECT 1")
            seen += manager.get_database("shared").fetch_value("SELECT 1")
            assert name in manager.names()
            if turn % 2:
                manager.remove(name)
        return seen

    calls: list[Any] = [lambda number=number: work(number) for number in range(16)]
    assert together(*calls) == [20] * 16
    assert sorted(manager.names()) == sorted(
        ["shared", *[f"own-{number}-{turn}" for number in range(16) for turn in range(0, 10, 2)]]
    )


def test_of_sixteen_adding_one_name_one_wins(manager: DatabaseManager) -> None:
    results = together(*[lambda: manager.add_sqlite("main", "sqlite://")] * 16)
    assert sorted(type(result).__name__ for result in results).count("DuplicateError") == 15
    winner = next(result for result in results if not isinstance(result, Exception))
    assert manager.get("main") is winner

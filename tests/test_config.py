"""Settings: what is accepted, what is refused and how, and that every password reaches its server intact."""

from __future__ import annotations

import secrets
from dataclasses import replace
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
import redis
from psycopg import sql

from persistence import (
    ConfigError,
    ConnectError,
    DatabaseManager,
    PgVectorConfig,
    PostgreSQLConfig,
    RedisConfig,
    Secret,
    SQLiteConfig,
)
from tests.servers import TestServers

PASSWORDS = [
    "p@ss",
    "two@@ats",
    "co:lon",
    "sl/ash",
    "ha#sh",
    "per%cent",
    "100%",
    "[bracket",
    "bra]cket",
    "{curly}",
    " spaces ",
    "question?x=1",
    "a=b&c=d",
    "quo'te",
    'dou"ble',
    "back\\slash",
    "all@:/#%[]{}?&=",
    "://",
    "ünïcödé",
    "x host=evil dbname=other",
    "sl/ash@host:1/db",
]


def password_of(config: PostgreSQLConfig | RedisConfig) -> str:
    assert isinstance(config.password, Secret)
    return config.password.reveal()


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_is_read_from_a_url_percent_encoded_or_not(password: str) -> None:
    urls = [f"postgresql://me:{quote(password, safe='')}@db.example:5433/app?sslmode=disable"]
    if "%" not in password and "?" not in password:
        urls.append(f"postgresql://me:{password}@db.example:5433/app?sslmode=disable")
    if "%" not in password:
        urls.append(f"postgresql://me:{password}@db.example:5433/app")
    for url in urls:
        config = PostgreSQLConfig.from_url(url)
        found = (config.username, password_of(config), config.host, config.port, config.database)
        assert found == ("me", password, "db.example", 5433, "app")
    config = RedisConfig.from_url(f"redis://:{quote(password, safe='')}@cache.example:6380/2")
    assert (password_of(config), config.host, config.port, config.database) == (password, "cache.example", 6380, 2)


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_reaches_postgresql_intact_by_url_and_by_field(servers: TestServers, password: str) -> None:
    admin = servers.postgresql
    role = f"role_{secrets.token_hex(6)}"
    with psycopg.connect(**admin.connection_parameters(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(sql.Identifier(role), sql.Literal(password))
        )
        try:
            by_field = replace(admin, username=role, password=password, database="postgres")
            host = f"?host={quote(admin.host, safe='')}&port={admin.port}"
            by_url = PostgreSQLConfig.from_url(f"postgresql://{role}:{quote(password, safe='')}@/postgres{host}")
            for config in (by_field, by_url):
                with DatabaseManager() as manager:
                    database = manager.add_postgresql("main", config)
                    assert database.fetch_value("SELECT current_user") == role
            with DatabaseManager() as manager, pytest.raises(ConnectError, match="authentication failed"):
                manager.add_postgresql("main", replace(by_field, password=password + "x"))
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.mark.parametrize("password", PASSWORDS)
def test_a_password_reaches_redis_intact_by_url_and_by_field(servers: TestServers, password: str) -> None:
    admin = servers.redis
    user = f"user_{secrets.token_hex(6)}"
    with redis.Redis(unix_socket_path=admin.unix_socket, password=password_of(admin)) as client:
        client.acl_setuser(user, enabled=True, passwords=[f"+{password}"], categories=["+@all"], keys=["*"])
        try:
            assert admin.unix_socket is not None
            by_url = RedisConfig.from_url(f"unix://{user}:{quote(password, safe='')}@{admin.unix_socket}")
            for config in (replace(admin, username=user, password=password), by_url):
                with DatabaseManager() as manager:
                    assert manager.add_redis("cache", config).client.acl_whoami() == user
        finally:
            client.acl_deluser(user)


def test_an_empty_password_moves_no_other_parameter() -> None:
    for config in (
        PostgreSQLConfig(host="h", username="u", password="", database="d"),
        PostgreSQLConfig.from_url("postgresql://u:@h/d"),
    ):
        parameters = config.connection_parameters()
        assert "password" not in parameters
        assert (parameters["host"], parameters["user"], parameters["dbname"]) == ("h", "u", "d")


def test_the_seeds_fields_have_the_seeds_defaults() -> None:
    config = PostgreSQLConfig()
    assert (config.host, config.port, config.max_connections, config.max_idle_connections) == ("localhost", 5432, 25, 5)
    assert (config.conn_max_lifetime, config.conn_max_idle_time) == (1800.0, 300.0)
    cache = RedisConfig()
    assert (cache.port, cache.database, cache.pool_size, cache.max_retries) == (6379, 0, 10, 3)
    assert (cache.dial_timeout, cache.read_timeout, cache.write_timeout) == (5.0, 3.0, 3.0)
    assert (cache.pool_timeout, cache.idle_timeout, cache.min_idle_connections) == (4.0, 300.0, 3)
    vectors = PgVectorConfig(index_type="ivfflat", index_options={"lists": 100}, distance_metric="euclidean")  # type: ignore[arg-type]
    assert (vectors.dimensions, vectors.index_options, vectors.distance_metric) == (1536, {"lists": 100}, "l2")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("30", 30.0),
        ("250ms", 0.25),
        ("5m", 300.0),
        ("1h", 3600.0),
        ("7d", 604800.0),
        (timedelta(minutes=2), 120.0),
        (3, 3.0),
    ],
)
def test_a_duration_is_seconds_a_timedelta_or_text(given: Any, expected: float) -> None:
    assert PostgreSQLConfig(timeout=given).timeout == expected


def test_every_problem_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        PostgreSQLConfig(port="abc", timeout="banana", sslmode="maybe", max_connections=True)  # type: ignore[arg-type]
    assert len(caught.value.problems) == 4
    for name in ("port", "timeout", "sslmode", "max_connections"):
        assert name in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        RedisConfig(port=0, pool_size=0, min_idle_connections=-5, read_timeout=0, tls_cert="c")
    assert len(caught.value.problems) == 6


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: PostgreSQLConfig(host=""), "host is empty"),
        (lambda: PostgreSQLConfig(port=70000), "port 70000"),
        (lambda: PostgreSQLConfig(max_connections=-1), "max_connections -1"),
        (lambda: PostgreSQLConfig(max_idle_connections=-1), "max_idle_connections -1"),
        (lambda: PostgreSQLConfig(timeout=0), "timeout 0.0"),
        (lambda: PostgreSQLConfig(timeout=float("nan")), "timeout nan"),
        (lambda: PostgreSQLConfig(tcp_user_timeout=-1), "tcp_user_timeout -1.0"),
        (lambda: PostgreSQLConfig(keepalives_count=-1), "keepalives_count -1"),
        (lambda: PostgreSQLConfig(sslcert="c.pem"), "sslcert and sslkey"),
        (lambda: PostgreSQLConfig(database="a\0b"), "NUL"),
        (lambda: PgVectorConfig(dimensions=0), "dimensions 0"),
        (lambda: PgVectorConfig(distance_metric="hamming2"), "distance_metric"),  # type: ignore[arg-type]
        (lambda: PgVectorConfig(index_options={"lists": 3}), "'lists' is none of hnsw's"),
        (lambda: PgVectorConfig(index_type="ivfflat", index_options={"lists": 0}), "lists 0"),
        (lambda: RedisConfig(database=-1), "database -1"),
        (lambda: RedisConfig(tls=True, unix_socket="/s"), "exclude"),
        (lambda: SQLiteConfig(path=""), "path is empty"),
        (lambda: SQLiteConfig(path=":memory:", read_only=True), "exclude"),
        (lambda: SQLiteConfig(synchronous="SOMETIMES"), "synchronous"),  # type: ignore[arg-type]
    ],
)
def test_what_can_not_work_is_refused_by_name(make: Any, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        make()


def test_an_unknown_option_is_refused_and_the_right_one_named() -> None:
    with pytest.raises(ConfigError, match="unknown option 'max_connection', did you mean 'max_connections'"):
        PostgreSQLConfig.from_url("postgresql://h/db?max_connection=3")
    with pytest.raises(ConfigError, match="unknown option 'pool_sise'"):
        RedisConfig.from_url("redis://h/0?pool_sise=3")
    with pytest.raises(TypeError):
        PostgreSQLConfig(max_connection=3)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "url", ["", "postgresql", "mysql://h/d", "postgresql://h:port/d", "postgresql://h/d?sslmode=sometimes", "sqlite://h/x"]
)  # fmt: skip
def test_a_url_that_can_not_be_read_is_refused(url: str) -> None:
    kind = SQLiteConfig if url.startswith("sqlite") else PostgreSQLConfig
    with pytest.raises(ConfigError):
        kind.from_url(url)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "postgresql+psycopg://u:secret@h/d",
            "postgresql+psycopg:// is no scheme that is known here (write postgresql://",
        ),
        ("postgresql+psycopg2://u:secret@h/d", "(write postgresql://…; there are "),
        ("postgresql+asyncpg://u:secret@h/d", "(write postgresql://…; there are "),
        ("sqlite+aiosqlite:///a.db", "(write sqlite://…; there are "),
        ("sqlite+pysqlite:///a.db", "(write sqlite://…; there are "),
        ("redis+asyncio://:secret@h/0", "(write redis://…; there are "),
        ("PostgreSQL://u:secret@h/d", "(write postgresql://…; there are "),
        ("mysql://u:secret@h/d", "mysql:// is no scheme that is known here (there are postgresql, postgres, redis, "),
        ("u:secret@h/d?as=postgresql://", "the URL begins with no scheme that is known here (there are "),
    ],
)
def test_an_unknown_scheme_says_what_to_write_and_no_password(url: str, said: str) -> None:
    with DatabaseManager() as manager, pytest.raises(ConfigError) as by_manager:
        manager.add("p", url)
    assert said in str(by_manager.value)
    known = "unix, sqlite, sqlite3, embedded+postgresql, embedded+redis)"
    assert str(by_manager.value).endswith(known)
    with pytest.raises(ConfigError) as by_config:
        {"s": SQLiteConfig, "r": RedisConfig}.get(url[0], PostgreSQLConfig).from_url(url)
    for exc in (by_manager.value, by_config.value):
        assert "secret" not in str(exc)
    assert ("(write " in str(by_config.value)) == ("(write " in said)


def test_urls_of_every_kind_are_read() -> None:
    config = PostgreSQLConfig.from_url("postgres://u:p@[::1]:5433/my%20db?application_name=a@b&max_connections=7")
    assert (config.host, config.port, config.database) == ("::1", 5433, "my db")
    assert (config.application_name, config.max_connections) == ("a@b", 7)
    assert PostgreSQLConfig.from_url("postgresql:///d?host=/run/pg").host == "/run/pg"
    assert PostgreSQLConfig.from_url("postgresql://h/d?application_name=a+b%2Bc%20d").application_name == "a+b+c d"
    assert PostgreSQLConfig.from_url("postgresql://a,b/d").host == "a,b"
    assert PostgreSQLConfig.from_url("postgresql://h/d", max_connections=3).max_connections == 3
    assert RedisConfig.from_url("rediss://h:1/5").tls
    assert RedisConfig.from_url("unix:///run/redis.sock").unix_socket == "/run/redis.sock"
    assert SQLiteConfig.from_url("sqlite:///a/b.db").path == "a/b.db"
    assert SQLiteConfig.from_url("sqlite:////a/b.db").path == "/a/b.db"
    assert SQLiteConfig.from_url("sqlite://").path == ":memory:"


def test_the_environment_is_read_by_prefix_and_the_unknown_refused() -> None:
    environ = {"DB_HOST": "h", "DB_NAME": "n", "DB_USER": "u", "DB_PASSWORD": "p@", "OTHER": "x"}
    config = PostgreSQLConfig.from_env("DB_", environ=environ)
    assert (config.host, config.database, config.username, password_of(config)) == ("h", "n", "u", "p@")
    config = PostgreSQLConfig.from_env("DB_", environ={"DB_URL": "postgresql://h/d", "DB_PORT": "99"})
    assert (config.host, config.database, config.port) == ("h", "d", 99)
    with pytest.raises(ConfigError, match="hots"):
        PostgreSQLConfig.from_env("DB_", environ={"DB_HOTS": "h"})


def test_a_remote_host_is_verified_unless_said_otherwise() -> None:
    remote = PostgreSQLConfig(host="db.example").connection_parameters()
    assert (remote["sslmode"], remote["sslrootcert"]) == ("verify-full", "system")
    assert PostgreSQLConfig(host="localhost").connection_parameters()["sslmode"] == "prefer"
    assert PostgreSQLConfig(host="/run/pg").connection_parameters()["sslmode"] == "prefer"
    assert PostgreSQLConfig(host="localhost,db.example").connection_parameters()["sslmode"] == "verify-full"
    chosen = PostgreSQLConfig(host="db.example", sslmode="require", sslcert="c", sslkey="k", sslrootcert="r")
    parameters = chosen.connection_parameters()
    assert [parameters[key] for key in ("sslmode", "sslcert", "sslkey", "sslrootcert")] == ["require", "c", "k", "r"]


def test_no_password_shows_in_a_repr_or_in_an_error() -> None:
    for config in (
        PostgreSQLConfig(password="canary-secret"),
        PgVectorConfig(password="canary-secret"),
        RedisConfig(password="canary-secret"),
    ):
        assert "canary" not in repr(config) + str(config)
    for url in ("postgresql://u:canary-secret@h:port/d", "postgresql://u:canary-secret@h/d?nope=1", "canary-secret"):
        with pytest.raises(ConfigError) as caught:
            PostgreSQLConfig.from_url(url)
        assert "canary" not in str(caught.value) + repr(caught.value.problems)
    with pytest.raises(ConfigError) as caught:
        PostgreSQLConfig(password="canary-secret\0")
    assert "canary" not in str(caught.value)


def test_each_of_several_hosts_may_have_a_port_of_its_own() -> None:
    by_url = PostgreSQLConfig.from_url("postgresql://u@db1:5433,db2,[::1]:5435/app?target_session_attrs=read-write")
    assert by_url.hosts == (("db1", 5433), ("db2", 5432), ("::1", 5435))
    assert by_url == PostgreSQLConfig(
        host="db1:5433,db2,[::1]:5435", username="u", database="app", target_session_attrs="read-write"
    )
    parameters = by_url.connection_parameters(first=1)
    assert (parameters["host"], parameters["port"]) == ("db2,::1,db1", "5432,5435,5433")
    for hosts, found in (
        ("db1,db2:6000", (("db1", 5432), ("db2", 6000))),
        ("db1:6000,db2", (("db1", 6000), ("db2", 5432))),
    ):
        assert PostgreSQLConfig.from_url(f"postgresql://{hosts}/app").hosts == found  # as libpq reads it
        assert PostgreSQLConfig(host=hosts).hosts == found
    assert PostgreSQLConfig(host="/run/a:1,/run/b", port=6000).hosts == (("/run/a:1", 6000), ("/run/b", 6000))
    assert PostgreSQLConfig(host="::1").hosts == (("::1", 5432),)
    for wrong in ("db1:0", "db1:70000", "db1,,db2", "db1,"):
        with pytest.raises(ConfigError):
            PostgreSQLConfig(host=wrong)


def test_replicas_are_configurations_or_urls() -> None:
    secret = "h1dden"
    made = PostgreSQLConfig.from_env(
        environ={
            "POSTGRESQL_URL": "postgresql://app:s3cret@db1/app?max_connections=7",
            "POSTGRESQL_REPLICAS": f"postgresql://db2 postgresql://reader:{secret}@db3:5433/other",
        }
    )
    assert secret not in repr(made)
    assert [(each.host, each.port, each.database, each.username, each.max_connections) for each in made.replicas] == [
        ("db2", 5432, "app", "app", 7),
        ("db3", 5433, "other", "reader", 7),
    ]
    assert replace(made, replicas=()).replicas == ()
    for wrong in ([made], [5], 5, ["db2"], ["redis://db2"], ["postgresql://db2?nonsense=1"]):
        with pytest.raises(ConfigError) as caught:
            PostgreSQLConfig(replicas=wrong)  # type: ignore[arg-type]
        assert secret not in str(caught.value)


def test_a_redis_is_one_server_a_cluster_or_what_sentinels_name() -> None:
    by_url = RedisConfig.from_url("redis://:p@h1:7000,h2,[::1]:7002?cluster=true")
    assert by_url == RedisConfig(cluster=True, nodes=("h1:7000", "h2", "[::1]:7002"), password="p")
    assert by_url.addresses == (("h1", 7000), ("h2", 6379), ("::1", 7002))
    watched = RedisConfig.from_env(
        environ={"REDIS_SENTINEL": "s1,s2:26380", "REDIS_MASTER_NAME": "main", "REDIS_SENTINEL_PASSWORD": "h1dden"}
    )
    assert watched.addresses == (("s1", 26379), ("s2", 26380))
    assert "h1dden" not in repr(watched)
    assert RedisConfig.from_url("redis://s1,s2:26380/2?master_name=main") == RedisConfig(
        sentinel=("s1", "s2:26380"), master_name="main", database=2
    )
    wrong: list[dict[str, Any]] = [
        {"nodes": ("h1",)},
        {"sentinel": ("s1",)},
        {"master_name": "main"},
        {"cluster": True, "sentinel": ("s1",), "master_name": "main"},
        {"cluster": True, "database": 1},
        {"cluster": True, "unix_socket": "/x"},
        {"cluster": True, "nodes": ("",)},
        {"cluster": True, "nodes": ("h1:0",)},
        {"cluster": True, "nodes": ("/run/redis.sock",)},
        {"cluster": "perhaps"},
    ]
    for options in wrong:
        with pytest.raises(ConfigError):
            RedisConfig(**options)

"""The servers that the tests run against: started once a run, in a temporary folder that goes at its end.

The process that makes the first ``TestServers`` (pytest, or pytest-xdist's controller) owns the folder and names it in
``HOLDFAST_TEST_SERVERS``, which its workers inherit: they share the folder, and so the servers. The URLs in
``HOLDFAST_TEST_POSTGRES`` and ``HOLDFAST_TEST_REDIS`` name servers to use instead; on those only what the run itself
made is ever deleted. A server that can't be had is an error, never a skip.

The shared PostgreSQL runs without fsync: what a test says about durability, it says about a server of its own.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import psycopg
import redis
from psycopg import sql

from persistence import DatabaseManager, MigrationLine, Migrator
from persistence.config import PostgreSQLConfig, RedisConfig
from persistence.embedded import EmbeddedPostgreSQL, EmbeddedRedis
from persistence.fields import Secret, reveal
from tests.canary import give_password
from tests.redis_servers import RedisClusterServers
from tests.replication import ReplicaSet

_FOLDER = "HOLDFAST_TEST_SERVERS"
_POSTGRESQL_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "on",
    "shared_buffers": "128MB",
    "max_connections": "200",
}
_KEPT = 2
"""How many databases that are to be dropped wait for their sessions to end."""
_TEMPLATE_LOCK = 0x686F6C64  # the advisory lock under which one worker makes the template


class TestServers:
    """A PostgreSQL, one with replicas, a Redis and a Redis Cluster, each started when first asked for."""

    __test__ = False  # not a test, whatever its name says to pytest

    def __init__(self) -> None:
        shared = os.environ.get(_FOLDER)
        self._owns_folder = shared is None
        self._folder = Path(shared or tempfile.mkdtemp(prefix="holdfast-tests-"))
        if not self._folder.is_dir():
            raise RuntimeError(f"{_FOLDER} names {self._folder}, which is not there: unset it")
        os.environ[_FOLDER] = str(self._folder)
        self._run = self._folder.name
        self._templates: dict[tuple[str, ...], str] = {}
        self._unused: list[str] = []
        self._administrator: psycopg.Connection[tuple[Any, ...]] | None = None
        self._postgresql_server: EmbeddedPostgreSQL | None = None
        self._redis_server: EmbeddedRedis | None = None
        self._replica_set: ReplicaSet | None = None
        self._redis_cluster: RedisClusterServers | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @cached_property
    def postgresql(self) -> PostgreSQLConfig:
        """How to connect to the PostgreSQL (18, or HOLDFAST_TEST_POSTGRES_VERSION), as one who may create databases."""
        url = os.environ.get("HOLDFAST_TEST_POSTGRES")
        if url is not None:
            return PostgreSQLConfig.from_url(url)
        version: Any = int(os.environ.get("HOLDFAST_TEST_POSTGRES_VERSION", "18"))
        give_password(self._folder / "postgresql")
        server = EmbeddedPostgreSQL(self._folder / "postgresql", version=version, settings=_POSTGRESQL_SETTINGS)
        self._postgresql_server = server.start()
        config = server.config()
        # Tests connect often, and 4,096 rounds of hashing were a third of the time that it takes.
        with self._connect(config) as connection:
            connection.execute("SET scram_iterations = 1")
            again = sql.SQL("ALTER ROLE {} PASSWORD {}")
            connection.execute(again.format(sql.Identifier(config.username), sql.Literal(reveal(config.password))))
        return config

    @cached_property
    def replica_set(self) -> ReplicaSet:
        """A PostgreSQL of its own with two streaming replicas."""
        self._replica_set = ReplicaSet(self._folder / "replicas")
        return self._replica_set.start()

    @cached_property
    def redis_cluster(self) -> RedisClusterServers:
        """A Redis Cluster of six servers."""
        self._redis_cluster = RedisClusterServers(self._folder / "cluster")
        return self._redis_cluster.start()

    @cached_property
    def redis(self) -> RedisConfig:
        """How to connect to the Redis, at its database 0, where no test stores anything but under a key prefix."""
        url = os.environ.get("HOLDFAST_TEST_REDIS")
        if url is not None:
            return RedisConfig.from_url(url)
        give_password(self._folder / "redis")
        self._redis_server = EmbeddedRedis(self._folder / "redis", settings={"databases": "256"}).start()
        return self._redis_server.config()

    def fresh_database(self, *packages: str) -> PostgreSQLConfig:
        """Create a database with the extension ``vector`` and the tables of the packages, empty but for those."""
        template = self._template(packages)
        name = f"{self._run}-{secrets.token_hex(6)}"
        # Measured here: 9.8 ms copying files, 11.3 ms through the WAL; with fsync on it is the other way round.
        strategy: Literal["file_copy", "wal_log"] = "file_copy" if self._postgresql_server else "wal_log"
        statement = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY {}")
        self._administer(statement.format(*map(sql.Identifier, (name, template, strategy))))
        return replace(self.postgresql, database=name)

    def drop_database(self, config: PostgreSQLConfig) -> None:
        """Drop a database of ``fresh_database``, ending its sessions: this one soon, one that was given before now.

        DROP DATABASE looks every 100 ms whether the sessions are gone, which those of a moment ago are not yet.
        """
        if not config.database.startswith(f"{self._run}-"):
            raise ValueError(f"{config.database} is not one of ours")
        self._unused.append(config.database)
        while len(self._unused) > _KEPT:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            self._administer(drop.format(sql.Identifier(self._unused.pop(0))))

    def key_prefix(self) -> str:
        """Return a prefix of Redis keys that nobody else uses."""
        return f"{self._run}:{secrets.token_hex(6)}:"

    def fresh_redis(self) -> RedisConfig:
        """Lease an empty Redis database until ``release_redis``, which empties it again."""
        with redis_client(self.redis) as client:
            databases = int(client.config_get("databases")["databases"])
            for index in range(1, databases):
                if client.set(f"{self._run}:lease:{index}", os.getpid(), nx=True, ex=3600):
                    config = replace(self.redis, database=index)
                    with redis_client(config) as leased:
                        if leased.dbsize() == 0:
                            return config
        raise RuntimeError(f"none of the {databases} Redis databases is free and empty")

    def release_redis(self, config: RedisConfig) -> None:
        """Empty a leased database and give it back."""
        with redis_client(self.redis) as client:
            if not client.exists(f"{self._run}:lease:{config.database}"):
                raise ValueError(f"Redis database {config.database} is not leased")
            with redis_client(config) as leased:
                leased.flushdb()
            client.delete(f"{self._run}:lease:{config.database}")

    def close(self) -> None:
        """Stop what this process started; the owner also removes the folder, and what is left on the user's servers."""
        try:
            if self._owns_folder:
                self._clean_foreign_servers()
        finally:
            if self._administrator is not None:
                self._administrator.close()
            for server in (self._postgresql_server, self._redis_server, self._replica_set, self._redis_cluster):
                if server is not None:
                    server.stop()
            if self._owns_folder:
                os.environ.pop(_FOLDER, None)
                self._remove_folder()

    def _template(self, packages: tuple[str, ...]) -> str:
        """Return the name of the database to copy, which the first worker that asks for it makes."""
        if packages in self._templates:
            return self._templates[packages]
        initials = "".join(package[0] for package in packages)  # a name has 63 bytes at most
        name = f"{self._run}-template-{initials}"
        with self._connect(self.postgresql) as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", [_TEMPLATE_LOCK])
            if not connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone():
                # Made under another name, so that it is complete, and nobody connected to it, once it can be found.
                draft = f"{name}-draft"
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(draft)))
                connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(draft)))
                self._fill_template(replace(self.postgresql, database=draft), packages)
                rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
                connection.execute(rename.format(*map(sql.Identifier, (draft, name))))
        self._templates[packages] = name
        return name

    def _fill_template(self, config: PostgreSQLConfig, packages: tuple[str, ...]) -> None:
        with self._connect(config) as inside:
            inside.execute("CREATE EXTENSION vector")
        with DatabaseManager() as manager:
            if packages:
                migrator = Migrator(manager.add_postgresql("template", config))
                for package in packages:
                    migrator.up(MigrationLine.of_package(package))

    def _connect(self, config: PostgreSQLConfig) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(**config.connection_parameters(), autocommit=True)

    def _administer(self, statement: sql.Composed) -> None:
        if self._administrator is None:
            self._administrator = self._connect(self.postgresql)
        self._administrator.execute(statement)

    def _clean_foreign_servers(self) -> None:
        if "HOLDFAST_TEST_POSTGRES" in os.environ:
            with self._connect(self.postgresql) as connection:
                ours = "SELECT datname FROM pg_database WHERE starts_with(datname, %s) ORDER BY datname"
                for (name,) in connection.execute(ours, [f"{self._run}-"]).fetchall():
                    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))
        if "HOLDFAST_TEST_REDIS" in os.environ:
            with redis_client(self.redis) as client:
                for key in client.scan_iter(match=f"{self._run}:*", count=1000):
                    client.delete(key)

    def _remove_folder(self) -> None:
        # A worker that was killed leaves its server to the supervisor, which needs a moment.
        servers = (
            EmbeddedPostgreSQL(self._folder / "postgresql"),
            EmbeddedRedis(self._folder / "redis"),
            ReplicaSet(self._folder / "replicas"),
            RedisClusterServers(self._folder / "cluster"),
        )
        deadline = time.monotonic() + 10
        while any(server.is_running() for server in servers):
            if time.monotonic() > deadline:
                raise RuntimeError(f"a server still runs in {self._folder}: a test left a process behind")
            time.sleep(0.005)
        shutil.rmtree(self._folder)


def redis_client(config: RedisConfig) -> redis.Redis:
    """Return a plain client, for arranging and checking what a test needs; close it, or use it in a with statement."""
    password = config.password.reveal() if isinstance(config.password, Secret) else config.password
    if config.unix_socket is not None:
        where: dict[str, Any] = {"unix_socket_path": config.unix_socket}
    else:
        where = {"host": config.host, "port": config.port, "ssl": config.tls, "ssl_ca_certs": config.tls_ca}
        where = {name: value for name, value in where.items() if value not in (None, False)}
    return redis.Redis(
        **where, username=config.username, password=password or None, db=config.database, decode_responses=True
    )


def url_of(config: PostgreSQLConfig) -> str:
    """Return the URL of a database, its password in it."""
    host = f"host={quote(config.host, safe='')}&port={config.port}"
    return f"postgresql://{config.username}:{quote(reveal(config.password), safe='')}@/{config.database}?{host}"


def redis_url(config: RedisConfig) -> str:
    """Return the URL of a Redis database, its password in it."""
    password = quote(reveal(config.password), safe="")
    if config.unix_socket:
        return f"unix://:{password}@{config.unix_socket}?db={config.database}"
    return f"redis://:{password}@{config.host}:{config.port}/{config.database}"

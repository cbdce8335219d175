"""Connection settings: frozen, checked as a whole on construction, and silent about secrets.

Every class takes keyword arguments, a URL (``from_url``) or environment variables (``from_env``). All problems of a
configuration are reported at once, in one :class:`~persistence.errors.ConfigError`. Durations are seconds, a
``timedelta`` or text such as ``"250ms"``, ``"30s"``, ``"5m"``, ``"1h"``, ``"7d"``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self
from urllib.parse import unquote

from persistence.errors import ConfigError
from persistence.fields import Duration, Secret, converters, reveal, seconds
from persistence.urls import Url, host_and_port, hosts_and_ports, split_url


@dataclass(frozen=True, kw_only=True)
class Config:
    """What every connection's settings share: checking, reading from a URL or the environment, a safe repr."""

    schemes: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[Mapping[str, str]] = {}

    def __post_init__(self) -> None:
        problems = []
        for name, (convert, optional) in converters(type(self)).items():
            value = getattr(self, name)
            if value is None and optional:
                continue
            try:
                object.__setattr__(self, name, convert(value))
            except ValueError as exc:
                shown = "" if "password" in name else f" {value!r}"
                problems.append(f"{name}{shown} {exc}")
        for name in ("slow_threshold", "leak_after"):
            limit = getattr(self, name, None)
            if not problems and limit is not None and limit <= 0:
                problems.append(f"{name} {limit} is not above 0")
        if not problems:
            problems.extend(self._problems())
        if problems:
            raise ConfigError(f"{type(self).__name__}: {'; '.join(problems)}", problems=tuple(problems))

    def _problems(self) -> Iterable[str]:
        """Yield what is wrong between fields that are each of the right type."""
        return ()

    @classmethod
    def _from_options(cls, options: Mapping[str, Any], source: str) -> Self:
        known = [item.name for item in dataclasses.fields(cls)]
        given: dict[str, Any] = {}
        problems = []
        for key, value in options.items():
            name = cls.aliases.get(key, key)
            if name in known:
                given[name] = value
            else:
                close = difflib.get_close_matches(key, [*known, *cls.aliases], n=1)
                problems.append(f"unknown option {key!r}" + (f", did you mean {close[0]!r}?" if close else ""))
        if problems:
            raise ConfigError(f"{cls.__name__} from {source}: {'; '.join(problems)}", problems=tuple(problems))
        return cls(**given)

    @classmethod
    def from_url(cls, url: str, **overrides: Any) -> Self:
        """Read a URL; its query holds further options by field name; keyword arguments win over it."""
        names = [item.name for item in dataclasses.fields(cls)]
        parts = split_url(url, [*names, *cls.aliases])
        if parts.scheme not in cls.schemes:
            raise ConfigError(f"{cls.__name__}: {parts.scheme}:// is none of its schemes: {', '.join(cls.schemes)}")
        return cls._from_options({**cls._from_parts(parts), **parts.options, **overrides}, "a URL")

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def from_env(cls, prefix: str | None = None, *, environ: Mapping[str, str] | None = None, **overrides: Any) -> Self:
        """Read variables ``<prefix><FIELD>`` (or ``<prefix>URL``, which the others then refine).

        The prefix defaults to the class's own, such as ``POSTGRESQL_``. ``NAME`` and ``USER`` stand for the database
        and the user name. A variable with the prefix that names no field is an error.
        """
        prefix = prefix if prefix is not None else cls.__name__.removesuffix("Config").upper() + "_"
        if not prefix:
            raise ConfigError("from_env needs a prefix", hint="for example 'DB_' for DB_HOST, DB_NAME, DB_USER")
        source = os.environ if environ is None else environ
        found = {k.removeprefix(prefix).lower(): v for k, v in source.items() if k.startswith(prefix)}
        url = found.pop("url", None)
        options = {cls.aliases.get(key, key): value for key, value in found.items()}
        if url is not None:
            return cls.from_url(url, **options, **overrides)
        return cls._from_options({**options, **overrides}, f"the environment ({prefix}…)")


@dataclass(frozen=True, kw_only=True)
class PostgreSQLConfig(Config):
    """A PostgreSQL server and the pool of connections to it.

    ``host`` is a name, an address, a socket directory (it begins with ``/``) or several of these separated by commas,
    each with a port of its own if it says one (``db1:5433,db2``). They are tried in order, the one that was right the
    last time first: with ``target_session_attrs="read-write"`` that finds the primary, and a new one after a failover.
    ``sslmode`` left out means ``prefer`` for loopback addresses and sockets and ``verify-full`` for every other host.
    ``pooler`` says whether a transaction pooler such as PgBouncer stands in front (None: find out). ``timeout`` bounds
    each operation, ``pool_timeout`` the wait for a connection, ``connect_timeout`` the dialling of each host.
    A statement that takes ``slow_threshold`` or longer is logged, without its values; a connection that is held for
    ``leak_after`` or longer is, with the line of the program that took it.

    ``replicas`` are streaming replicas, as configurations or URLs; what a URL leaves out is as here. One that is down
    or lags by more than ``max_replica_lag`` is not read from. They are looked at by reads, ``replica_check_interval``
    apart; a read ``after`` a write waits for a replica to have it, ``replica_wait`` at most.
    """

    host: str = "localhost"
    port: int = 5432
    database: str = "postgres"
    username: str | None = None
    password: str | Secret = field(default="")
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    sslrootcert: str | None = None
    max_connections: int = 25
    max_idle_connections: int = 5
    conn_max_lifetime: Duration = 1800.0
    conn_max_idle_time: Duration = 300.0
    connect_timeout: Duration = 5.0
    pool_timeout: Duration = 10.0
    timeout: Duration = 30.0
    tcp_user_timeout: Duration = 5.0
    keepalives_idle: Duration = 5.0
    keepalives_interval: Duration = 2.0
    keepalives_count: int = 3
    target_session_attrs: Literal[
        "any", "read-write", "read-only", "primary", "standby", "prefer-standby"
    ] = "any"  # fmt: skip
    prepare_threshold: int | None = 5
    pooler: bool | None = None
    search_path: str | None = None
    application_name: str = "holdfast"
    replicas: Sequence[PostgreSQLConfig | str] = ()
    max_replica_lag: Duration = 10.0
    replica_check_interval: Duration = 1.0
    replica_wait: Duration = 0.2
    slow_threshold: Duration | None = None
    leak_after: Duration | None = None

    schemes: ClassVar[tuple[str, ...]] = ("postgresql", "postgres")
    aliases: ClassVar[Mapping[str, str]] = {
        "name": "database",
        "dbname": "database",
        "db_name": "database",
        "user": "username",
        "max_idle_conns": "max_idle_connections",
        "ssl_mode": "sslmode",
    }

    def _problems(self) -> Iterable[str]:
        if not self.host:
            yield "host is empty"
        for host, port in self.hosts:
            if not 1 <= port <= 65535:
                yield f"port {port} is not within 1 and 65535"
            if not host:
                yield "a host is empty"
        if not self.database:
            yield "database is empty"
        if self.max_connections < 1:
            yield f"max_connections {self.max_connections} is below 1"
        if self.max_idle_connections < 0:
            yield f"max_idle_connections {self.max_idle_connections} is below 0"
        for name in ("conn_max_lifetime", "conn_max_idle_time", "connect_timeout", "pool_timeout", "timeout"):
            if getattr(self, name) <= 0:
                yield f"{name} {getattr(self, name)} is not above 0"
        if (self.sslcert is None) != (self.sslkey is None):
            yield "sslcert and sslkey go together"
        if self.prepare_threshold is not None and self.prepare_threshold < 0:
            yield f"prepare_threshold {self.prepare_threshold} is below 0"
        for name in ("max_replica_lag", "replica_check_interval", "replica_wait"):
            if getattr(self, name) < 0:
                yield f"{name} {getattr(self, name)} is below 0"
        given: Sequence[object] = self.replicas
        for number, each in enumerate(given, 1):
            if not isinstance(each, PostgreSQLConfig | str):
                yield f"replica {number} is a {type(each).__name__}, neither a configuration nor a URL"
            elif isinstance(each, PostgreSQLConfig) and each.replicas:
                yield f"replica {number} has replicas of its own"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "replicas", tuple(map(self._replica, self.replicas)))

    def _replica(self, given: PostgreSQLConfig | str) -> PostgreSQLConfig:
        """Return a replica's settings: what a URL leaves out is as here."""
        if isinstance(given, PostgreSQLConfig):
            return given
        common = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        common |= {"replicas": (), "target_session_attrs": "any"}
        parts = split_url(given, [*common, *self.aliases])
        if parts.scheme not in self.schemes:
            raise ConfigError(f"{type(self).__name__}: a replica's URL begins with {' or '.join(self.schemes)}")
        return self._from_options({**common, **self._from_parts(parts), **parts.options}, "a replica's URL")

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        given: dict[str, Any] = {}
        if parts.user is not None:
            given["username"] = parts.user
        if parts.password is not None:
            given["password"] = parts.password
        if parts.path:
            given["database"] = parts.path
        hosts, ports = hosts_and_ports(parts.hosts)
        if hosts:
            given["host"] = hosts
        if len(ports) > 1:
            given["host"] = unquote(parts.hosts)
        elif ports:
            given["port"] = ports[0]
        return given

    @property
    def hosts(self) -> tuple[tuple[str, int], ...]:
        """Each host and its port, in the order in which they are tried."""
        return tuple(host_and_port(entry, self.port) for entry in self.host.split(","))

    def connection_parameters(self, *, first: int = 0) -> dict[str, Any]:
        """Return libpq's parameters for one connection; the password is in clear, so never log them.

        ``first`` is the place in ``hosts`` of the one to try first.
        """
        hosts = self.hosts[first:] + self.hosts[:first]
        given = {
            "host": ",".join(host for host, _ in hosts),
            "port": ",".join(str(port) for _, port in hosts) if len(hosts) > 1 else hosts[0][1],
            "dbname": self.database,
            "user": self.username,
            "password": reveal(self.password) or None,
            "sslmode": self.sslmode or ("prefer" if self.is_local else "verify-full"),
            "sslcert": self.sslcert,
            "sslkey": self.sslkey,
            "sslrootcert": self.sslrootcert or (None if self.is_local or self.sslmode else "system"),
            "connect_timeout": max(2, math.ceil(seconds(self.connect_timeout))),
            "tcp_user_timeout": int(seconds(self.tcp_user_timeout) * 1000),
            "keepalives": 1,
            "keepalives_idle": max(1, int(seconds(self.keepalives_idle))),
            "keepalives_interval": max(1, int(seconds(self.keepalives_interval))),
            "keepalives_count": self.keepalives_count,
            "target_session_attrs": self.target_session_attrs,
            "application_name": self.application_name,
            "client_encoding": "UTF8",
            "options": f"-c search_path={_escape_option(self.search_path)}" if self.search_path else None,
        }
        return {key: value for key, value in given.items() if value is not None}

    @property
    def is_local(self) -> bool:
        """Whether every host is a socket or a loopback address, where traffic leaves no machine."""
        return all(
            host.startswith(("/", "@")) or host in ("localhost", "::1") or host.startswith("127.")
            for host, _ in self.hosts
        )

    @property
    def address(self) -> str:
        """Where the server is, for messages: ``host:port/database``."""
        return f"{self.host}:{self.port}/{self.database}"


def _escape_option(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


Metric = Literal["cosine", "l2", "inner_product", "l1"]
_METRIC_NAMES = {"euclidean": "l2", "dot_product": "inner_product", "dot": "inner_product", "ip": "inner_product"}


@dataclass(frozen=True, kw_only=True)
class PgVectorConfig(PostgreSQLConfig):
    """A PostgreSQL server with the pgvector extension, and how vectors are kept there.

    ``index_options`` go to the index: ``lists`` for ivfflat, ``m`` and ``ef_construction`` for hnsw. The extension
    is created when it is missing, unless ``create_extension`` is false.
    """

    dimensions: int = 1536
    index_type: Literal["hnsw", "ivfflat", "none"] = "hnsw"
    index_options: Mapping[str, Any] = field(default_factory=dict)
    distance_metric: Metric = "cosine"
    create_extension: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.distance_metric, str):
            object.__setattr__(self, "distance_metric", _METRIC_NAMES.get(self.distance_metric, self.distance_metric))
        super().__post_init__()

    def _problems(self) -> Iterable[str]:
        yield from super()._problems()
        if not 1 <= self.dimensions <= 16000:
            yield f"dimensions {self.dimensions} is not within 1 and 16000"
        allowed = {"hnsw": {"m": (2, 100), "ef_construction": (4, 1000)}, "ivfflat": {"lists": (1, 32768)}}
        limits = allowed.get(self.index_type, {})
        for name, value in self.index_options.items():
            if name not in limits:
                yield f"index_options {name!r} is none of {self.index_type}'s: {', '.join(limits) or 'it has none'}"
            elif not isinstance(value, int) or not limits[name][0] <= value <= limits[name][1]:
                yield f"index_options {name} {value!r} is not within {limits[name][0]} and {limits[name][1]}"


@dataclass(frozen=True, kw_only=True)
class RedisConfig(Config):
    """A Redis server, a Redis Cluster or a master that Sentinels watch, and the pool of connections to it.

    ``max_retries`` is for commands that only read; a write is sent once. ``unix_socket`` replaces host and port.
    ``tls`` verifies the server's certificate unless ``tls_verify`` is false.

    ``cluster=True`` speaks to a cluster; ``nodes`` (``host:port``) are some of its servers, which name the others.
    ``sentinel`` (``host:port`` too) are Sentinels: the server is the one that they say is the master ``master_name``.

    With ``min_replicas`` a write is acknowledged once so many replicas have it; ``replica_timeout`` bounds the wait.
    """

    host: str = "localhost"
    port: int = 6379
    unix_socket: str | None = None
    username: str | None = None
    password: str | Secret = field(default="")
    database: int = 0
    cluster: bool = False
    nodes: tuple[str, ...] = ()
    sentinel: tuple[str, ...] = ()
    master_name: str | None = None
    sentinel_username: str | None = None
    sentinel_password: str | Secret = field(default="")
    pool_size: int = 10
    min_idle_connections: int = 3
    max_retries: int = 3
    dial_timeout: Duration = 5.0
    read_timeout: Duration = 3.0
    write_timeout: Duration = 3.0
    pool_timeout: Duration = 4.0
    idle_timeout: Duration = 300.0
    tls: bool = False
    tls_verify: bool = True
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    min_replicas: int = 0
    replica_timeout: Duration = 1.0
    slow_threshold: Duration | None = None
    leak_after: Duration | None = None

    schemes: ClassVar[tuple[str, ...]] = ("redis", "rediss", "redis+unix", "unix")
    aliases: ClassVar[Mapping[str, str]] = {
        "db": "database",
        "name": "database",
        "user": "username",
        "min_idle_conns": "min_idle_connections",
    }

    def _problems(self) -> Iterable[str]:
        if not self.host:
            yield "host is empty"
        if not 1 <= self.port <= 65535:
            yield f"port {self.port} is not within 1 and 65535"
        if self.database < 0:
            yield f"database {self.database} is below 0"
        if self.pool_size < 1:
            yield f"pool_size {self.pool_size} is below 1"
        if self.min_idle_connections < 0:
            yield f"min_idle_connections {self.min_idle_connections} is below 0"
        if self.max_retries < 0:
            yield f"max_retries {self.max_retries} is below 0"
        if self.min_replicas < 0:
            yield f"min_replicas {self.min_replicas} is below 0"
        if self.min_replicas and not 0 < seconds(self.replica_timeout) < self.answer_timeout:
            yield f"replica_timeout {self.replica_timeout} is not within 0 and read_timeout {self.answer_timeout:g}"
        for name in ("dial_timeout", "read_timeout", "write_timeout", "pool_timeout", "idle_timeout"):
            if getattr(self, name) <= 0:
                yield f"{name} {getattr(self, name)} is not above 0"
        if self.tls and self.unix_socket:
            yield "tls and unix_socket exclude each other"
        yield from self._problems_of_several()
        if (self.tls_cert is None) != (self.tls_key is None):
            yield "tls_cert and tls_key go together"
        if not self.tls and (self.tls_ca or self.tls_cert):
            yield "tls_ca and tls_cert need tls=True (or a rediss:// URL)"

    def _problems_of_several(self) -> Iterable[str]:
        if self.nodes and not self.cluster:
            yield "nodes are a cluster's: cluster=True"
        if bool(self.sentinel) != bool(self.master_name):
            yield "sentinel and master_name go together"
        if self.cluster and self.sentinel:
            yield "cluster and sentinel exclude each other"
        if self.unix_socket and (self.cluster or self.sentinel):
            yield "a cluster or Sentinels have no unix_socket"
        if self.cluster and self.min_replicas:
            yield "cluster and min_replicas exclude each other"
        if self.cluster and self.database:
            yield f"a cluster has no database {self.database}, only 0"
        for entry in (*self.nodes, *self.sentinel):
            host, port = host_and_port(entry, 1)
            if not host or not 1 <= port <= 65535 or host.startswith("/"):
                yield f"{entry!r} is no host:port"

    @property
    def answer_timeout(self) -> float:
        """How long an answer may take, in seconds; redis-py knows one timeout for both directions."""
        return max(seconds(self.read_timeout), seconds(self.write_timeout))

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Each node's, or else each Sentinel's, or else the one server's host and port."""
        if self.sentinel:
            return tuple(host_and_port(entry, 26379) for entry in self.sentinel)
        return tuple(host_and_port(entry, self.port) for entry in self.nodes) or ((self.host, self.port),)

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        given: dict[str, Any] = {"tls": True} if parts.scheme == "rediss" else {}
        if parts.user:
            given["username"] = parts.user
        if parts.password is not None:
            given["password"] = parts.password
        if parts.scheme in ("unix", "redis+unix"):
            given["unix_socket"] = "/" + parts.path
            return given
        hosts, ports = hosts_and_ports(parts.hosts)
        if "master_name" in parts.options:
            given["sentinel"] = unquote(parts.hosts)
        elif "cluster" in parts.options:
            given["nodes"] = unquote(parts.hosts)
        else:
            given["host"] = hosts or "localhost"
            given |= {"port": ports[0]} if ports else {}
        if parts.path:
            given["database"] = parts.path
        return given

    @property
    def address(self) -> str:
        """Where the server is, for messages: ``host:port/database``."""
        if self.cluster or self.sentinel:
            found = ",".join(f"{host}:{port}" for host, port in self.addresses)
            return f"the cluster of {found}" if self.cluster else f"{self.master_name} (Sentinels {found})"
        return f"{self.unix_socket or f'{self.host}:{self.port}'}/{self.database}"


@dataclass(frozen=True, kw_only=True)
class SQLiteConfig(Config):
    """One SQLite file (or memory, ``path=":memory:"``), with one writer and readers beside it.

    ``synchronous="FULL"`` makes each commit survive a power cut; ``NORMAL`` may lose the last ones.
    ``busy_timeout`` bounds the wait for another process's write. A new file is readable by its owner alone. What is
    deleted stays in the file's free pages until their room is used again, unless ``secure_delete`` has it overwritten
    with zeros, which writes as much as was deleted.
    """

    path: str = "holdfast.db"
    busy_timeout: Duration = 10.0
    synchronous: Literal["FULL", "NORMAL", "EXTRA", "OFF"] = "FULL"
    secure_delete: bool = False
    max_readers: int = 4
    pool_timeout: Duration = 10.0
    timeout: Duration = 30.0
    cache_size: int = 16384
    read_only: bool = False
    slow_threshold: Duration | None = None
    leak_after: Duration | None = None

    schemes: ClassVar[tuple[str, ...]] = ("sqlite", "sqlite3")
    aliases: ClassVar[Mapping[str, str]] = {"db_path": "path", "name": "path", "database": "path"}

    def _problems(self) -> Iterable[str]:
        if not self.path:
            yield "path is empty"
        if self.max_readers < 1:
            yield f"max_readers {self.max_readers} is below 1"
        if self.cache_size < 0:
            yield f"cache_size {self.cache_size} (KiB) is below 0"
        for name in ("busy_timeout", "pool_timeout", "timeout"):
            if getattr(self, name) <= 0:
                yield f"{name} {getattr(self, name)} is not above 0"
        if self.read_only and self.path == ":memory:":
            yield "read_only and :memory: exclude each other"

    @classmethod
    def _from_parts(cls, parts: Url) -> dict[str, Any]:
        # sqlite:///relative.db, sqlite:////absolute.db and sqlite:// (memory), as SQLAlchemy's URLs.
        if parts.hosts or parts.user:
            raise ConfigError("a SQLite URL has no host", hint="sqlite:///relative.db or sqlite:////absolute.db")
        return {"path": parts.path or ":memory:"}

    @property
    def address(self) -> str:
        """Where the database is, for messages: its path."""
        return self.path

"""The settings of a PostgreSQL server, with pgvector or without, and of the pool of connections to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal
from urllib.parse import unquote

from persistence.config_base import Config
from persistence.errors import ConfigError
from persistence.fields import Duration, Secret, reveal, seconds
from persistence.urls import Url, host_and_port, hosts_and_ports, split_url


@dataclass(frozen=True, kw_only=True)
class PostgreSQLConfig(Config):
    """A PostgreSQL server and the pool of connections to it.

    ``host`` is a name, an address, a socket directory (it begins with ``/``) or several of these separated by commas,
    each with a port of its own if it says one (``db1:5433,db2``). They are tried in order, the one that was right the
    last time first: with ``target_session_attrs="read-write"`` that finds the primary, and a new one after a failover.
    ``sslmode`` left out means ``prefer`` for loopback addresses and sockets and ``verify-full`` for every other host.
    ``pooler`` says whether a transaction pooler such as PgBouncer stands in front (None: find out). ``timeout`` bounds
    each operation, ``pool_timeout`` the wait for a connection, ``connect_timeout`` the dialling of each host. Where
    ``max_waiting`` callers wait for a connection, the next one is refused at once (None: they all may wait).
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
    max_waiting: int | None = None
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
        for name in (
            "tcp_user_timeout",
            "keepalives_idle",
            "keepalives_interval",
            "keepalives_count",
            "max_replica_lag",
            "replica_check_interval",
            "replica_wait",
        ):
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
        if ports and "," in parts.hosts:
            given["host"] = unquote(parts.hosts)  # a host without a port has the usual one
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

"""The settings of a Redis server, a cluster or a master that Sentinels watch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import unquote

from persistence.config_base import Config
from persistence.fields import Duration, Secret, seconds
from persistence.urls import Url, host_and_port, hosts_and_ports


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
    max_waiting: int | None = None
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

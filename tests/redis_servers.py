"""Several Redis servers that belong together: a cluster, a master with a replica, and one that Sentinels watch."""

from __future__ import annotations

import fcntl
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from persistence._binaries import redis_server
from persistence.config import RedisConfig
from persistence.embedded import EmbeddedRedis
from persistence.fields import reveal
from tests.canary import CANARY
from tests.proxy import FaultyProxy

SLOTS = 16384
PARTS = 3
_SETTINGS = {"appendonly": "no", "repl-diskless-sync": "yes", "repl-diskless-sync-delay": "0"}


def wait_until(ready: Callable[[], Any], what: str, seconds: float = 30) -> None:
    """Ask until it says yes."""
    until = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > until:
            raise TimeoutError(what)
        time.sleep(0.01)


class RedisServers:
    """Redis servers in a folder, on ports of 127.0.0.1 and with one password; processes may share them."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder = folder
        self._count = count
        self.servers: list[EmbeddedRedis] = []

    def _start(self, settings: Callable[[str], dict[str, str]]) -> bool:
        """Start the servers or attach to them; tell whether they are new."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        new = not (self._folder / "ports").exists()
        if new:
            (self._folder / "ports").write_text(" ".join(map(str, free_ports(self._count))))
        self.ports = [int(port) for port in (self._folder / "ports").read_text().split()]
        password = CANARY
        for number, port in enumerate(self.ports):
            path = self._folder / f"redis-{number}"
            if new:
                path.mkdir(mode=0o700)
                (path / "password").write_text(password)
                (path / "start.lock").touch(mode=0o600)  # by which a folder shows that it is a server's
            password = (path / "password").read_text()
            self.servers.append(EmbeddedRedis(path, port=port, settings={**_SETTINGS, **settings(password)}).start())
        self.password = password
        return new

    def client(self, number: int) -> redis.Redis:
        """Return a plain client of one server."""
        return redis.Redis(host="127.0.0.1", port=self.ports[number], password=self.password, decode_responses=True)

    def run(self, number: int, *command: str) -> Any:
        """Run a command on one server."""
        with self.client(number) as client:
            return client.execute_command(*command)

    def is_running(self) -> bool:
        """Tell whether one of them runs."""
        return any(EmbeddedRedis(self._folder / f"redis-{number}").is_running() for number in range(self._count))

    def stop(self) -> None:
        """Let go of them; who is the last stops them."""
        for server in self.servers:
            server.stop()
        self.servers = []

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with open(self._folder.with_name(f"{self._folder.name}.{name}"), "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


class RedisClusterServers(RedisServers):
    """A cluster: three masters with a third of the slots each, and a replica of each."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2 * PARTS)

    def start(self) -> RedisClusterServers:
        """Start it, or attach to it."""

        def settings(password: str) -> dict[str, str]:
            return {"cluster-enabled": "yes", "cluster-node-timeout": "1000", "masterauth": password}

        with self._locked("making"):
            if self._start(settings):
                self._join()
        return self

    def _join(self) -> None:
        for number in range(PARTS):
            slots = range(number * SLOTS // PARTS, (number + 1) * SLOTS // PARTS)
            self.run(number, "CLUSTER", "ADDSLOTS", *map(str, slots))
            self.run(number, "CLUSTER", "SET-CONFIG-EPOCH", str(number + 1))
        for number in range(1, 2 * PARTS):
            self.run(number, "CLUSTER", "MEET", "127.0.0.1", str(self.ports[0]))
        ids = [self.run(number, "CLUSTER", "MYID") for number in range(PARTS)]
        for number in range(PARTS, 2 * PARTS):
            master = ids[number - PARTS]
            wait_until(lambda n=number, m=master: m in str(self.run(n, "CLUSTER", "NODES")), "the nodes never met")
            self.run(number, "CLUSTER", "REPLICATE", master)
        for number in range(2 * PARTS):
            wait_until(lambda n=number: self._is_whole(n), f"node {number} never knew the whole cluster")

    def _is_whole(self, number: int) -> bool:
        with self.client(number) as client:
            state = client.cluster("info")
            # Every replica follows its master, or nobody can take over.
            linked = number < PARTS or client.info("replication")["master_link_status"] == "up"
            return bool(linked and state["cluster_state"] == "ok" and len(client.cluster("nodes")) == 2 * PARTS)

    def config(self, **options: Any) -> RedisConfig:
        """Return how to connect to it, knowing two of its nodes."""
        nodes = tuple(f"127.0.0.1:{port}" for port in self.ports[:2])
        return RedisConfig(**{"cluster": True, "nodes": nodes, "password": self.password, **options})

    @contextmanager
    def empty(self) -> Iterator[RedisConfig]:
        """The cluster, emptied, and used by nobody else meanwhile."""
        with self._locked("using"):
            for number in range(PARTS):
                self.run(number, "FLUSHALL")
            yield self.config()


class RedisPair(RedisServers):
    """A master and a replica that hears of it through a proxy, which can cut them apart; clients reach both."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2)

    def start(self) -> RedisPair:
        """Start them."""
        self._start(lambda password: {"masterauth": password, "repl-ping-replica-period": "1"})
        self.between = FaultyProxy(("127.0.0.1", self.ports[0])).__enter__()
        self.follow(1, self.between.port)
        return self

    def follow(self, number: int, port: int) -> None:
        """Have a server replicate the one at a port, forgetting what it has of its own."""
        self.run(number, "REPLICAOF", "127.0.0.1", str(port))
        wait_until(lambda: self._replication(number)["master_link_status"] == "up", "the replica never followed")

    def _replication(self, number: int) -> Any:
        with self.client(number) as client:
            return client.info("replication")

    def promote(self) -> None:
        """Make the replica a master of its own."""
        self.run(1, "REPLICAOF", "NO", "ONE")

    def config(self, **options: Any) -> RedisConfig:
        """Return how to connect to the first."""
        return RedisConfig(**{"host": "127.0.0.1", "port": self.ports[0], "password": self.password, **options})

    def stop(self) -> None:
        """Stop them."""
        self.between.__exit__(None, None, None)
        super().stop()


class SentinelServers(RedisServers):
    """A master, one replica and three Sentinels that watch them; its master is called ``main``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 2)
        self._sentinels: list[subprocess.Popen[bytes]] = []
        self.sentinel_ports: list[int] = []

    def start(self) -> SentinelServers:
        """Start them."""
        self._start(lambda password: {"masterauth": password})
        self.run(1, "REPLICAOF", "127.0.0.1", str(self.ports[0]))
        wait_until(lambda: self._link() == "up", "the replica never followed")
        self.sentinel_ports = free_ports(3)
        program = redis_server()
        for port in self.sentinel_ports:
            file = self._folder / f"sentinel-{port}.conf"
            file.write_text(
                f"port {port}\nbind 127.0.0.1\nrequirepass watch\n"
                f"sentinel monitor main 127.0.0.1 {self.ports[0]} 2\nsentinel auth-pass main {self.password}\n"
                "sentinel down-after-milliseconds main 400\nsentinel failover-timeout main 2000\n"
            )
            self._sentinels.append(
                subprocess.Popen([str(program), str(file), "--sentinel"], stdout=subprocess.DEVNULL, cwd=self._folder)
            )
        for port in self.sentinel_ports:
            wait_until(lambda p=port: self._knows_all(p), "a Sentinel never knew the others")
        return self

    def _link(self) -> Any:
        with self.client(1) as client:
            return client.info("replication")["master_link_status"]

    def _knows_all(self, port: int) -> bool:
        try:
            with redis.Redis(host="127.0.0.1", port=port, password="watch", decode_responses=True) as client:
                known = client.sentinel_masters()["main"]
                return bool(known["num-other-sentinels"] == 2 and known["num-slaves"] == 1)
        except redis.ConnectionError:
            return False

    def config(self, **options: Any) -> RedisConfig:
        """Return how to connect to the master that the Sentinels name."""
        given = {
            "sentinel": tuple(f"127.0.0.1:{port}" for port in self.sentinel_ports),
            "master_name": "main",
            "sentinel_password": "watch",
            "password": reveal(self.password),
        }
        return RedisConfig(**{**given, **options})

    def stop(self) -> None:
        """Stop them."""
        for each in self._sentinels:
            each.kill()
            each.wait()
        self._sentinels = []
        super().stop()


def free_ports(count: int) -> list[int]:
    """Return free ports whose cluster bus, 10,000 above, is free too; below those that the system hands out."""
    found: list[int] = []
    while len(found) < count:
        port = 12_000 + secrets.randbelow(10_000)
        try:
            with socket.create_server(("127.0.0.1", port)), socket.create_server(("127.0.0.1", port + 10_000)):
                found.append(port)
        except OSError:
            continue
    return sorted(set(found)) if len(set(found)) == count else free_ports(count)

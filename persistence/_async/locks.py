"""Locks between programs: an advisory lock for as long as a transaction, and a lease that outlives connections.

A lease runs out by the server's clock, so a holder that is paused may wake up without it and not know. What it then
writes is held off by its fencing token: a number that grows each time the lease changes hands, which the place that is
written to compares with the largest that it has seen (M. Kleppmann, "How to do distributed locking", 2016).
"""

from __future__ import annotations

import random
import secrets
from time import monotonic
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from persistence._async.compat import sleep, undone_if_interrupted
from persistence._async.keyvalue_backends import AsyncSQLValues
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.redis import AsyncRedisConnection
from persistence.errors import CapabilityError, ConflictError, LockTimeoutError, TransactionError, ValidationError
from persistence.fields import Duration, milliseconds
from persistence.keyvalues import check_ttl
from persistence.leases import advisory_key, check_lock
from persistence.queries import load_queries
from persistence.scripts import packaged_script
from persistence.validation import check_tenant, check_timeout, shown

GIVE_BACK_SECONDS = 5.0
"""How long the cancellation of an ``acquire`` may wait to give back what it took."""


class AsyncAdvisoryLock:
    """A lock for the rest of the transaction that its caller is in, on a PostgreSQL connection of a manager.

    The transaction's end gives it back, whatever ends it, and so does the rollback of a savepoint that it was taken in.
    It is for short critical sections: the transaction stays open meanwhile. Who has it may take it again.
    """

    @named_connection
    def __init__(self, manager: AsyncDatabaseManager, name: str, lock: str, *, tenant: str = "default") -> None:
        """Raise CapabilityError on SQLite, where a transaction that writes is alone anyway."""
        self._manager = manager
        self._name = name
        self._lock = check_lock(lock)
        self._number = advisory_key(check_tenant(tenant), self._lock)
        if manager.get_database(name).kind != "postgresql":
            raise CapabilityError(
                "SQLite has no advisory locks",
                hint="its transactions write one at a time; or use LeaseLock",
                connection=name,
            )

    async def acquire(self, timeout: Duration = 10.0) -> None:
        """Take the lock; one round trip, beside the wait.

        Raises:
            LockTimeoutError: another transaction had it for ``timeout`` seconds; this one can only be rolled back then.
            TransactionError: this task is in no transaction.
        """
        database, limit = self._manager.get_postgresql(self._name), check_timeout("timeout", timeout)
        if not database.in_transaction:
            raise TransactionError(
                "an advisory lock needs a transaction", hint="with database.transaction(): …", connection=self._name
            )
        queries = load_queries("persistence", "postgresql")
        try:
            await database.fetch_batch(
                [
                    (queries.limit_advisory_lock, {"limit": str(milliseconds(limit))}),
                    (queries.take_advisory_lock, {"number": self._number}),
                    (queries.unlimit_advisory_lock, None),
                ],
                timeout=limit + 5,
            )
        except LockTimeoutError as exc:
            raise LockTimeoutError(
                f"another transaction had the lock {shown(self._lock)} for {limit:g} s",
                operation="acquire",
                connection=self._name,
            ) from exc


class AsyncLeaseLock:
    """A lock that its holder has for ``ttl`` seconds at a time, on a PostgreSQL, SQLite or Redis connection.

    It is taken by ``acquire`` or ``async with``, held by no connection, and given back by ``release`` or by time.
    Nothing renews it by itself: a holder that works for longer calls ``renew``, and learns there that it lost it.
    ``fence`` is the holder's token; write it beside what the lock guards, and refuse a smaller one there. On Redis a
    lease is as safe as that server's memory: one that forgets gives the lock away twice, with tokens that begin anew.
    """

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        lock: str,
        *,
        ttl: Duration = 30.0,
        timeout: Duration = 10.0,
        tenant: str = "default",
        migrate: bool = True,
    ) -> None:
        """``timeout`` (seconds) is for ``async with``, and for an ``acquire`` that doesn't say its own."""
        self._manager = manager
        self._name = name
        self._lock = check_lock(lock)
        self._tenant = check_tenant(tenant)
        found = check_ttl(ttl)
        if found is None:
            raise ValidationError("a lease needs a lifetime", hint="ttl=30.0")
        self._ttl = found
        self._timeout = check_timeout("timeout", timeout)
        self._sql: AsyncSQLValues | None = None
        if not isinstance(manager.get(name), AsyncRedisConnection):
            self._sql = AsyncSQLValues(manager, name, tenant=tenant, migrate=migrate)
            self._sql.bind("")
        self._holder = ""
        self._fence = 0
        self._until = 0.0

    @property
    def held(self) -> bool:
        """Whether the lease should still be ours, by this computer's clock; only the fencing token proves it."""
        return bool(self._holder) and monotonic() < self._until

    @property
    def fence(self) -> int:
        """The token of the lease that was taken last: it grows each time the lock changes hands.

        Raises:
            ConflictError: it was never taken, or was given back.
        """
        if not self._holder:
            raise self._lost("is not held")
        return self._fence

    async def acquire(self, timeout: Duration | None = None) -> int:
        """Take the lease and return its fencing token; wait for it up to ``timeout`` seconds (0: try once).

        An ``acquire`` that is cancelled has taken nothing: a lease that the server gave it is given back before
        the cancellation goes on, which waits for the server up to 5 s. A server that answers neither lets it run out.

        Raises:
            LockTimeoutError: somebody else had it all the time.
            TransactionError: this task is in a transaction, where nobody would see the lease.
        """
        limit = self._timeout if timeout is None else check_timeout("timeout", timeout)
        deadline = monotonic() + limit
        if self.held:
            raise ConflictError(f"the lock {shown(self._lock)} is held already", hint="renew()", connection=self._name)
        self._check_alone()
        pause = 0.005
        while True:
            holder, asked = secrets.token_hex(16), monotonic()
            fence = await self._take(holder)
            if fence:
                self._holder, self._fence, self._until = holder, fence, asked + self._ttl
                return fence
            left = deadline - monotonic()
            if left <= 0:
                raise LockTimeoutError(
                    f"somebody else had the lock {shown(self._lock)} for {limit:g} s",
                    hint="wait longer, or look whether its holder still lives; it runs out by itself",
                    operation="acquire",
                    connection=self._name,
                )
            await sleep(min(left, pause * random.uniform(0.5, 1.5)))
            pause = min(pause * 2, 0.25)

    async def _take(self, holder: str) -> int:
        """Return the token of the lease, 0 where somebody else has it."""

        async def take() -> int:
            return await self._call("take", holder)

        async def give_back() -> int:
            return await self._call("release", holder)

        return await undone_if_interrupted(take, give_back, GIVE_BACK_SECONDS)

    async def renew(self) -> None:
        """Begin the lease's time anew.

        Raises:
            ConflictError: it has run out, whether or not somebody else has it since; what it guarded may have changed.
        """
        asked = monotonic()
        self._check_alone()
        if not self._holder or not await self._call("renew", self._holder):
            self._holder = ""
            raise self._lost("was lost")
        self._until = asked + self._ttl

    async def release(self) -> bool:
        """Give the lease back; tell whether it was still ours. Safe to call twice, and again after an error.

        Raises:
            TransactionError: this task is in a transaction, whose rollback would take the lease again.
        """
        holder = self._holder
        if not holder:
            return False
        self._check_alone()
        was_ours = bool(await self._call("release", holder))
        if self._holder == holder:  # it may have been acquired anew meanwhile
            self._holder = ""
        return was_ours

    def _lost(self, how: str) -> ConflictError:
        return ConflictError(
            f"the lock {shown(self._lock)} {how}",
            hint="acquire it, and look again at what it guards",
            connection=self._name,
        )

    def _check_alone(self) -> None:
        if self._sql is not None and self._manager.get_database(self._name).in_transaction:
            raise TransactionError(
                "a lease is not for use inside a transaction: others would see it only after",
                hint="take it around the transaction, or use AdvisoryLock",
                connection=self._name,
            )

    async def _call(self, call: str, holder: str) -> int:
        if self._sql is not None:
            values: dict[str, Any] = {"name": self._lock, "holder": holder, "ttl": self._ttl}
            if call == "take":
                rows = await self._sql._rows("take_lease", **values)
                return rows[0]["fence"] if rows else 0
            return await self._sql._change(f"{call}_lease", **values)
        root = f"holdfast:{{{quote(self._tenant, safe='')}:{quote(self._lock, safe='')}}}:lease"
        answer: int = await self._manager.get_redis(self._name).run_script(
            packaged_script("persistence", "leases"),
            [root, f"{root}:fence"],
            [call, holder, max(1, round(self._ttl * 1000))],
        )
        return answer

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give it back.

        Raises:
            ConflictError: the block ended well, but the lease had run out before.
        """
        was_ours = await self.release()
        if exc is None and not was_ours:
            raise self._lost("ran out before its block ended")

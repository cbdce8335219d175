"""Streaming replicas of a PostgreSQL server: who is looked at when, and which one a read goes to.

Protocol: nothing runs by itself. A read that finds a look at some replicas due takes it upon itself, while others go on
with what is known; so does a health poll, and a failure is noted by the read that meets it. A replica is used while it
answers and lags no more than ``max_replica_lag``; the one with the fewest connections in use comes first.
"""

from __future__ import annotations

from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from persistence._async.compat import Mutex, sleep
from persistence._async.executor import NO_HINTS
from persistence.errors import ClosedError, DeadlineError, PersistenceError, PoolTimeoutError, UnavailableError
from persistence.fields import seconds
from persistence.health import HealthStatus, PoolStats
from persistence.queries import load_queries
from persistence.routing import PrimaryLog, ReplicaState, parse_position, shortest

if TYPE_CHECKING:
    from persistence._async.postgresql import AsyncPostgreSQLDatabase

LOOK_SECONDS = 1.0
"""How long the look that a read takes at the replicas may last, together."""

_QUERIES = load_queries("persistence", "postgresql")


class AsyncReplica:
    """One replica: the connection to it, and what is known of it."""

    def __init__(self, database: AsyncPostgreSQLDatabase) -> None:
        self.database = database
        self.state = ReplicaState()

    @property
    def name(self) -> str:
        return self.database.name

    async def find_position(self, timeout: float) -> tuple[int, float | None]:
        """Return how far it has replayed the log, and how long ago its last transaction was committed, if it knows."""
        rows, _ = await self.database._run_apart("look", _QUERIES.read_replayed, None, 1, timeout, NO_HINTS)
        return parse_position(rows[0]["position"]), rows[0]["age"]


class AsyncReplicas:
    """The replicas of one database."""

    def __init__(self, primary: AsyncPostgreSQLDatabase, made: list[AsyncPostgreSQLDatabase]) -> None:
        self.all = [AsyncReplica(database) for database in made]
        self._primary = primary
        self._interval = seconds(primary.config.replica_check_interval)
        self._limit = seconds(primary.config.max_replica_lag)
        self._wait_limit = seconds(primary.config.replica_wait)
        self._log = PrimaryLog()
        self._mutex = Mutex()
        self._turn = 0

    async def pick(self, after: int, deadline: float, tried: list[AsyncReplica]) -> AsyncReplica | None:
        """Return the replica that a read goes to, of those not tried yet; None where it is the primary's to answer.

        It has replayed the log up to ``after``: the read waits for that, ``replica_wait`` seconds at most.
        """
        await self._look_when_due()
        usable = [each for each in self.all if each.state.is_usable and each not in tried]
        if not usable:
            return None
        self._turn += 1  # among equals they take turns
        usable = usable[self._turn % len(usable) :] + usable[: self._turn % len(usable)]
        ready = [each for each in usable if each.state.position >= after]
        chosen = min(ready or usable, key=lambda each: each.database.load)
        if ready or await self._wait(chosen, after, min(deadline, monotonic() + self._wait_limit)):
            return chosen
        return None

    async def _wait(self, replica: AsyncReplica, after: int, deadline: float) -> bool:
        """Tell whether the replica reached the position in time."""
        pause = 0.0005
        while (left := deadline - monotonic()) > 0:
            try:
                position, _ = await replica.find_position(left)
            except (PoolTimeoutError, DeadlineError):
                return False  # it is busy, not ill; the next look gives it longer
            except UnavailableError as exc:
                self.note_failure(replica, exc)
                return False
            replica.state.position = max(replica.state.position, position)
            if position >= after:
                return True
            await sleep(min(pause, max(0.0, deadline - monotonic())))
            pause = min(2 * pause, 0.02)
        return False

    async def _look_when_due(self) -> None:
        now = monotonic()
        due = []
        with self._mutex:
            for each in self.all:
                if now >= each.state.due_at:
                    each.state.due_at = now + self._interval
                    due.append(each)
        if not due:
            return
        until = now + LOOK_SECONDS
        await self.note_primary(until - monotonic())
        for each in due:
            await self.look_at(each, max(0.01, until - monotonic()))

    async def note_primary(self, timeout: float) -> None:
        """Remember where the primary's log is now; while it doesn't answer, what is known of it stands."""
        try:
            rows, _ = await self._primary._run_apart("look", _QUERIES.read_replayed, None, 1, timeout, NO_HINTS)
        except ClosedError:
            raise
        except PersistenceError:
            return  # whoever needs the primary will learn so; replicas can be read without it
        self._log.note(monotonic(), parse_position(rows[0]["position"]))

    async def look_at(self, replica: AsyncReplica, timeout: float) -> None:
        """See whether a replica answers, and how far it lags."""
        try:
            position, age = await replica.find_position(timeout)
        except ClosedError:
            raise
        except PoolTimeoutError:
            return  # it is busy, not ill
        except PersistenceError as exc:
            self.note_failure(replica, exc)
            return
        now = monotonic()
        replica.state.answered(position, shortest(self._log.age(position, now), age), self._limit)
        replica.state.due_at = now + self._interval

    def note_failure(self, replica: AsyncReplica, exc: PersistenceError) -> None:
        """Leave a replica out until it answers again."""
        replica.state.failed(exc.message, monotonic(), self._interval)

    async def health(self, replica: AsyncReplica, timeout: float) -> HealthStatus:
        """Look at a replica and return what was seen."""
        started = monotonic()
        try:
            await self.look_at(replica, timeout)
        except ClosedError as exc:
            self.note_failure(replica, exc)
        database, state = replica.database, replica.state
        return HealthStatus(
            name=database.name,
            kind=database.kind,
            healthy=state.is_usable,
            latency=monotonic() - started,
            checked_at=datetime.now(UTC),
            error=state.error,
            server_version=database.server_version,
            pool=database.stats(),
            lag=state.lag,
        )

    def stats(self) -> dict[str, PoolStats]:
        """Return the state of each replica's pool by name."""
        return {each.name: each.database.stats() for each in self.all}

    async def aclose(self) -> None:
        """Close every connection to them."""
        for each in self.all:
            await each.database.aclose()

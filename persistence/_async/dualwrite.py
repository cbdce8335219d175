"""A program moved from one keyed store to another while it runs, and back.

Protocol: while both stores are written, the second is never told a value. It is told that a key has changed, and is
given what the first store has for it by then; one at a time works on a key. So a repeated or a late second write does
no harm, and a backfill can overwrite nothing newer. On a SQL database the key goes into an outbox in the transaction of
the first write. Elsewhere it is carried over after the first write, under a lease, and a failure is recorded.

Each program knows the phase for ``cache_for`` seconds. Where the direction of the second write turns, writers are held
up until nobody can know the old phase any more and all that was written has been carried over: two directions at once
could take newer values back. A write that comes to its end too late for that is rolled back and made again.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Literal

from persistence._async.compat import sleep
from persistence._async.dualphase import AsyncSharedPhase
from persistence._async.keyed import AsyncKeyedStore
from persistence._async.keyvalue import AsyncKeyValueStore
from persistence._async.outbox import AsyncOutbox
from persistence._async.relay import AsyncRelay
from persistence.dualwrite import Backfilled, Divergence, DualStatus, Phase, Standing, is_same
from persistence.errors import ConflictError, DeadlineError, ValidationError
from persistence.fields import Duration
from persistence.outbox import OutboxItem
from persistence.retry import Backoff
from persistence.validation import LIMIT, check_duration, check_id, check_limit, shown

PAGE = 1000
"""How many keys are compared at a time."""
RECHECKED = 1000
"""How many keys may still be under way when a switch begins; each is looked at again before it ends."""
ATTEMPTS = 3
"""How often a write is made at most that came to its end too late and was rolled back: a pause is no reason to fail."""


class _TooLateError(Exception):
    """A write came to its end when the phase that it went by may have changed; it is rolled back."""

    def __init__(self, connection: str) -> None:
        super().__init__(connection)
        self.connection = connection


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the stores, the phases in which it is first, and the outbox on its database."""

    store: AsyncKeyedStore
    phases: tuple[Phase, Phase]
    outbox: AsyncOutbox | None


class AsyncDualWrite:
    """One keyed store to its callers, and two behind it: ``old`` and ``new``, used as the phase of the move says.

    ``old`` → ``old_first`` (both written, the old one read) → ``new_first`` (the new one read) → ``new``, by ``start``,
    ``switch`` and ``finish``, and back by ``roll_back``. The phase lies in ``phases``, which all programs share, and
    each asks for it every ``cache_for`` seconds: no write may take longer than that, and no two clocks differ by more.

    A ``relay`` must run in some program while both are written and the first is on a SQL database. Writers wait during
    a ``switch`` for a little more than ``2 * cache_for`` seconds, at most ``timeout``; readers never.
    """

    def __init__(
        self,
        name: str,
        old: AsyncKeyedStore,
        new: AsyncKeyedStore,
        phases: AsyncKeyValueStore,
        *,
        cache_for: Duration = 1.0,
        timeout: Duration = 30.0,
        tenant: str = "default",
    ) -> None:
        self._name = check_id("the name", name, limit=100)
        if ":" in name:
            raise ValidationError(f"the name {shown(name)} has a colon")
        self._phases = phases
        self._cache_for = check_duration("cache_for", cache_for)
        self._timeout = check_duration("timeout", timeout)
        if self._timeout < 6 * self._cache_for:
            raise ValidationError("the timeout is too short for a switch", hint="at least 6 * cache_for")
        self._phase = AsyncSharedPhase(name, phases, cache_for=self._cache_for, timeout=self._timeout)
        self._old = _Side(old, ("old", "old_first"), _outbox(old, f"dual-write:{name}:new", tenant))
        self._new = _Side(new, ("new", "new_first"), _outbox(new, f"dual-write:{name}:old", tenant))

    async def phase(self) -> Phase:
        """Return the phase, as it is stored now."""
        return (await self._phase.read()).phase

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value that the store which is read has, or ``default``."""
        found = await self.get_many([key])
        return found.get(key, default)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that the store which is read has."""
        first, _ = self._sides(await self._phase.known())
        return await first.store.get_many([self._check_key(key) for key in keys])

    async def scan(self, *, after: str | None = None, limit: int = 100) -> list[tuple[str, Any]]:
        """Return pairs of the store which is read, in its order; ``after`` is the last key of the page before."""
        first, _ = self._sides(await self._phase.known())
        return await first.store.scan(after, check_limit(limit))

    async def put(self, key: str, value: Any) -> None:
        """Store a value.

        Raises:
            ConflictError: the write took so long, three times, that the phase may have changed; each was rolled back.
            DeadlineError: a switch held it up for too long; nothing was written.
        """
        await self._change(key, lambda store: store.put(key, value))

    async def delete(self, key: str) -> bool:
        """Delete a value; tell whether the store which is read had it. Raises as ``put`` does."""
        return bool(await self._change(key, lambda store: store.delete(key)))

    async def _change(self, key: str, change: Callable[[AsyncKeyedStore], Awaitable[Any]]) -> Any:
        self._check_key(key)
        connection = None
        for _ in range(ATTEMPTS):
            try:
                return await self._change_once(key, change)
            except _TooLateError as exc:
                connection = exc.connection
        raise ConflictError(
            f"writing {shown(key)} took longer than the phase is known for, and was rolled back",
            hint="is cache_for too short?",
            operation="put",
            connection=connection,
        )

    async def _change_once(self, key: str, change: Callable[[AsyncKeyedStore], Awaitable[Any]]) -> Any:
        standing = await self._phase.for_writing()
        first, second = self._sides(standing)
        if second is None:
            return await change(first.store)
        if first.outbox is None:
            done = await change(first.store)
            await self._carry_or_record(key, first, second)
            return done
        assert first.store.home is not None  # noqa: S101 - it has an outbox there
        manager, name = first.store.home
        async with manager.get_database(name).transaction():
            done = await change(first.store)
            await first.outbox.put(key, None)
            if monotonic() > standing.read_at + 2 * self._cache_for:
                raise _TooLateError(name)
        return done

    async def _carry(self, key: str, first: _Side, second: _Side) -> None:
        found = await first.store.get_many([key])
        if key in found:
            await second.store.put(key, found[key])
        else:
            await second.store.delete(key)

    async def _carry_alone(self, key: str, first: _Side, second: _Side) -> None:
        async with self._phases.lease(f"{self._name}:{key}", ttl=self._timeout, timeout=self._timeout):
            await self._carry(key, first, second)

    async def _carry_or_record(self, key: str, first: _Side, second: _Side) -> None:
        try:
            await self._carry_alone(key, first, second)
        except Exception as exc:
            await self._phases.put(self._failed(key), type(exc).__name__)

    def relay(self, to: Literal["old", "new"] = "new", *, backoff: Backoff | None = None) -> AsyncRelay:
        """Return a relay that carries to one store what was written to the other first; start and stop it.

        Let one to ``new`` run until ``switch``, and one to ``old`` from then on, or both all the time. It retries as
        ``backoff`` says; a key that is given up is a dead letter, found by ``compare`` and mended by ``repair``.

        Raises:
            ValidationError: the other store is not on a SQL database, and its writes are carried over directly.
        """
        if to not in ("old", "new"):
            raise ValidationError(f"a relay to {str(to)[:80]!r}", hint="old or new")
        first, second = (self._old, self._new) if to == "new" else (self._new, self._old)
        if first.outbox is None:
            raise ValidationError(f"what is written elsewhere needs no relay to {to}", hint="it is carried directly")
        return self._relay(first, second, backoff)

    def _relay(self, first: _Side, second: _Side, backoff: Backoff | None = None) -> AsyncRelay:
        assert first.outbox is not None  # noqa: S101 - the caller looked

        async def deliver(item: OutboxItem) -> None:
            phase = (await self._phase.known()).phase
            if phase not in first.phases:
                raise ConflictError(f"{shown(item.key)} was written to the store that is no longer first ({phase})")
            await self._carry(item.key, first, second)

        return AsyncRelay(first.outbox, deliver, poll=min(0.2, self._cache_for), backoff=backoff)

    async def start(self) -> None:
        """Begin to write to both stores; the old one is read. Then ``backfill``, until it is at its end.

        Raises:
            ConflictError: the phase is another than ``old``, or somebody else moved at the same time.
        """
        await self._phase.move("old", "old_first")

    async def finish(self) -> None:
        """Stop writing to the old store.

        Raises:
            ConflictError: the phase is another than ``new_first``, or somebody else moved at the same time.
        """
        await self._phase.move("new_first", "new")

    async def switch(self) -> None:
        """Read the new store from now on, and write it first.

        Raises:
            ConflictError: the stores differ, second writes wait or failed, the phase is another than ``old_first``, or
                somebody else moved at the same time; the phase is as it was.
            DeadlineError: it took longer than ``timeout`` seconds; the phase is as it was.
        """
        await self._turn("old_first", "new_first")

    async def roll_back(self) -> Phase:
        """Go one phase back, and return it. From ``new_first`` it is a turn, with the conditions of ``switch``.

        From ``new`` the old store has missed what was written since: ``backfill`` carries it over.

        Raises:
            ConflictError: the phase is ``old`` already, or as ``switch``.
            DeadlineError: as ``switch``.
        """
        phase = await self.phase()
        if phase == "old":
            raise ConflictError("there is no phase before old", operation="roll_back")
        if phase == "new_first":
            await self._turn("new_first", "old_first")
            return "old_first"
        following: Phase = "new_first" if phase == "new" else "old"
        await self._phase.move(phase, following)
        return following

    async def backfill(self, *, batch: int = 500, after: str | None = None) -> Backfilled:
        """Carry over what the second store lacks or has otherwise, of one batch of keys after ``after``.

        Call it again with the ``after`` of what it returns, until that is None; kept somewhere, it resumes there. It
        tells of keys, not of values, so it never overwrites a newer one. On SQL the relay does the carrying.

        Raises:
            ConflictError: only one store is written.
        """
        first, second = await self._both()
        page = await first.store.scan(after, check_limit(batch, "batch"))
        theirs = await second.store.get_many([key for key, _ in page])
        keys = [key for key, value in page if key not in theirs or not is_same(value, theirs[key])]
        await self._carry_all(keys, first, second)
        return Backfilled(len(page), len(keys), page[-1][0] if len(page) == batch else None)

    async def compare(self, *, limit: int = 100) -> list[Divergence]:
        """Return keys that the second store has otherwise, at most ``limit``; what is still under way is among them.

        It reads both stores whole, a thousand keys at a time. Those missing or different come first.

        Raises:
            ConflictError: only one store is written.
        """
        first, second = await self._both()
        return await self._compare(first, second, check_limit(limit))

    async def repair(self, divergences: Iterable[Divergence]) -> int:
        """Carry these keys over again, extra ones being deleted, and return how many; on SQL the relay does it."""
        first, second = await self._both()
        keys = list(dict.fromkeys(self._check_key(each.key) for each in divergences))
        await self._carry_all(keys, first, second)
        return len(keys)

    async def retry_failed(self, *, limit: int = 1000) -> int:
        """Carry over what is recorded as failed, at most ``limit`` keys, and return how many.

        Raises:
            PersistenceError: the second store is still away; the rest stays recorded.
        """
        first, second = await self._both()
        prefix = self._failed("")
        failed = await self._phases.scan(prefix, limit=check_limit(limit))
        for item in failed:
            await self._carry_alone(item.key.removeprefix(prefix), first, second)
            await self._phases.delete(item.key, expected_version=item.version)
        return len(failed)

    async def status(self) -> DualStatus:
        """Return the phase, and how much waits to be carried over."""
        standing = await self._phase.read()
        first, _ = self._sides(standing)
        failed = len(await self._phases.scan(self._failed(""), limit=LIMIT))
        paused = standing.paused_until > time.time()
        if first.outbox is None:
            return DualStatus(standing.phase, paused, 0, 0, failed)
        waiting = await first.outbox.status()
        return DualStatus(standing.phase, paused, waiting.pending, waiting.dead, failed)

    async def _carry_all(self, keys: list[str], first: _Side, second: _Side) -> None:
        if first.outbox is not None:
            await first.outbox.put_many([(key, None) for key in keys])
            return
        for key in keys:
            await self._carry_alone(key, first, second)

    async def _compare(self, first: _Side, second: _Side, limit: int) -> list[Divergence]:
        found: list[Divergence] = []
        for one, other in ((first, second), (second, first)):
            after: str | None = None
            while len(found) < limit:
                page = await one.store.scan(after, PAGE)
                theirs = await other.store.get_many([key for key, _ in page])
                for key, value in page:
                    if key not in theirs:
                        found.append(Divergence(key, "missing" if one is first else "extra"))
                    elif one is first and not is_same(value, theirs[key]):
                        found.append(Divergence(key, "different"))
                if len(page) < PAGE:
                    break
                after = page[-1][0]
        return found[:limit]

    async def _turn(self, phase: Phase, following: Phase) -> None:
        """Go to a phase in which the other store is first, once the stores are the same and no writer is unaware."""
        first, second = await self._both(phase)
        found = await self._compare(first, second, RECHECKED + 1)
        if len(found) > RECHECKED:
            raise _refused(f"{len(found):,} keys or more differ", found)
        deadline = monotonic() + self._timeout
        standing = await self._phase.read_as(phase)
        paused = await self._phase.write(replace(standing, paused_until=time.time() + self._timeout))
        try:
            await sleep(2 * self._cache_for)  # now nobody writes who has not seen it
            await self._drain(first, deadline - 3 * self._cache_for)
            await self._check_same(first, second, found)
            if monotonic() > deadline - 2 * self._cache_for:
                raise DeadlineError(f"the switch took longer than {self._timeout:g} s", operation="switch")
        except Exception:
            await self._phase.write(replace(paused, paused_until=0.0))
            raise
        await self._phase.write(replace(paused, phase=following, since=time.time(), paused_until=0.0))

    async def _drain(self, first: _Side, deadline: float) -> None:
        if first.outbox is None:
            await self.retry_failed(limit=LIMIT)
            return
        second = self._new if first is self._old else self._old
        await self._relay(first, second).flush(timeout=max(deadline - monotonic(), 0.001))
        left = (await first.outbox.status()).pending
        if left:
            raise ConflictError(
                f"{left:,} keys wait to be carried over", hint="is the second store up?", operation="switch"
            )

    async def _check_same(self, first: _Side, second: _Side, found: list[Divergence]) -> None:
        keys = [each.key for each in found]
        ours, theirs = await first.store.get_many(keys), await second.store.get_many(keys)
        left = [
            each
            for each in found
            if (each.key in ours) != (each.key in theirs)
            or (each.key in ours and not is_same(ours[each.key], theirs[each.key]))
        ]
        if left:
            raise _refused(f"{len(left):,} keys differ", left)

    async def _both(self, phase: Phase | None = None) -> tuple[_Side, _Side]:
        """Return both sides, once every program writes to both."""
        standing = await (self._phase.read() if phase is None else self._phase.read_as(phase))
        first, second = self._sides(standing)
        if second is None:
            raise ConflictError(f"the phase is {standing.phase}: one store is written", hint="start()")
        left = standing.since + 2 * self._cache_for - time.time()
        if left > 0:
            await sleep(min(left, 2 * self._cache_for))
        return first, second

    def _sides(self, standing: Standing) -> tuple[_Side, _Side | None]:
        first, other = (self._old, self._new) if standing.phase in self._old.phases else (self._new, self._old)
        return first, other if standing.phase in ("old_first", "new_first") else None

    def _failed(self, key: str) -> str:
        return f"{self._name}:failed:{key}"

    def _check_key(self, key: str) -> str:
        return check_id("the key", key, limit=900)


def _outbox(store: AsyncKeyedStore, topic: str, tenant: str) -> AsyncOutbox | None:
    return None if store.home is None else AsyncOutbox(store.home[0], store.home[1], topic, tenant=tenant)


def _refused(what: str, found: list[Divergence]) -> ConflictError:
    shown_keys = ", ".join(f"{shown(each.key)} ({each.kind})" for each in found[:3])
    return ConflictError(
        f"the stores are not the same: {what}, such as {shown_keys}",
        hint="backfill() and repair(compare()), let the relay work, then try again",
        operation="switch",
    )

# Generated from ../_async/relay.py by tests/unasync.py: edit that one.
"""A relay: takes from an outbox what is due, hands it to a sink, and records how that ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

from persistence._sync.compat import Parallel, check_callback, finish, sleep
from persistence._sync.outbox import Outbox
from persistence._sync.recurring import GRACE, Recurring
from persistence.fields import Duration
from persistence.outbox import OutboxItem, RelayReport, Settled, told
from persistence.retry import PASSING, Backoff
from persistence.validation import check_duration, check_timeout, check_whole, shown

_log = logging.getLogger("persistence.relay")


class Relay(Recurring):
    """Delivers the items of an outbox to ``sink``, each at least once, those of a key in order.

    Any number of relays, in any number of programs, may work on one outbox: a key is claimed by one at a time, for
    ``lease`` seconds, after which another may take it over. An item that was delivered by a relay which died before it
    could record that is delivered again, so ``sink`` should take an item twice without harm (its ``key`` and ``number``
    tell it apart from every other).

    What ``sink`` raises is a failed try: the key waits as ``backoff`` says, and its later items with it. After
    ``backoff.retries`` retries the item is a dead letter, and the key goes on with the next. Other keys never wait.
    """

    def __init__(
        self,
        outbox: Outbox,
        sink: Callable[[OutboxItem], Any],
        *,
        keys: int = 50,
        each: int = 20,
        lease: Duration = 60.0,
        poll: Duration = 1.0,
        side_by_side: int = 8,
        backoff: Backoff | None = None,
        grace: Duration = GRACE,
    ) -> None:
        """Set how much one claim takes: ``keys`` keys, at most ``each`` items of one, ``side_by_side`` keys at a time.

        ``poll`` is how many seconds it waits, in the background, once nothing is due; ``grace`` is how many ``stop``
        waits for what the sink has.
        """
        super().__init__("relay", grace)
        self._outbox = outbox
        check_callback("the sink", sink)
        self._sink = sink
        self._keys = check_whole("keys", keys, most=1000)
        self._each = check_whole("each", each, most=1000)
        self._lease = check_duration("lease", lease)
        self._poll = check_duration("poll", poll)
        self._side_by_side = check_whole("side_by_side", side_by_side, most=64)
        self._backoff = backoff or Backoff(retries=8, base=0.5, cap=60.0)
        self._parallel = Parallel()
        self._handed: dict[str, int] = {}

    def stop(self) -> None:
        """Take nothing more, and return once what was taken has been settled.

        Raises:
            DeadlineError: the sink had not ended within ``grace`` seconds. It says which items it has, and was
                cancelled; what was not settled stays in the outbox, and is delivered again once its lease ends.
        """
        try:
            super().stop()
        finally:
            self._parallel.close()

    def _under_way(self) -> str:
        handed = [f"item {number} of key {shown(key)}" for key, number in sorted(self._handed.copy().items())]
        if len(handed) > 5:
            handed[5:] = [f"{len(handed) - 5} more"]
        where = f"the sink has {', '.join(handed)}" if handed else "it waits for the database"
        return f"{where}; what isn't settled stays in the outbox, and is due again when its lease ends"

    def _turn(self) -> float:
        self._handed.clear()
        try:
            report = self.run_once()
        except PASSING as exc:
            _log.warning("the outbox can't be used now: %s", exc)
            return self._poll
        return 0.0 if report.delivered or report.failed or report.dead else self._poll

    def run_once(self) -> RelayReport:
        """Take what is due, deliver it, and say how that went; nothing was due where all counts are 0."""
        until = monotonic() + self._lease * 0.8
        claimed = self._outbox.claim(self._keys, self._each, self._lease)
        settled: list[Settled] = []
        for start in range(0, len(claimed), self._side_by_side):
            chosen = claimed[start : start + self._side_by_side]
            settled += self._parallel.run([_Delivery(self, *each, until).run for each in chosen])
        if not settled:
            return RelayReport()
        held = self._outbox.settle(settled)
        for lost in [each for each in settled if each.key not in held]:
            _log.warning("the lease of key %r ran out: what was delivered will be delivered again", lost.key[:80])
        return RelayReport(
            delivered=sum(each.delivered for each in settled),
            failed=sum(each.error is not None for each in settled),
            dead=sum(each.dead is not None for each in settled if each.key in held),
        )

    def flush(self, *, timeout: Duration = 30.0) -> RelayReport:
        """Deliver until nothing waits, and say how it went: everything put before the call is delivered or dead then.

        It waits for tries that are to be repeated, and for what other relays have in hand. After ``timeout`` seconds it
        returns all the same, once the sink has ended; ``left`` of the report says how many items wait still.
        """
        until = monotonic() + check_timeout("timeout", timeout)
        total = RelayReport()
        while True:
            report = self.run_once()
            total += report
            if (report.delivered or report.failed or report.dead) and monotonic() < until:
                continue
            wait = self._outbox.next_due()
            if wait is None:
                return total
            if monotonic() >= until:
                left = (self._outbox.status()).pending
                return RelayReport(total.delivered, total.failed, total.dead, left)
            # What another has in hand is due once its lease ends, but most often done long before.
            sleep(min(max(wait, 0.001), self._poll, 0.05))


class _Delivery:
    """The items of one claimed key, handed over one after the other."""

    def __init__(self, relay: Relay, fence: int, items: list[OutboxItem], until: float) -> None:
        self._relay = relay
        self._items = items
        self._until = until
        self._fence = fence

    def run(self) -> Settled:
        first = self._items[0]
        handed = self._relay._handed
        settled = Settled(first.key, self._fence, first.number - 1, attempts=first.attempts)
        for item in self._items:
            if monotonic() >= self._until:
                break  # the lease is about to end: another relay goes on
            handed[item.key] = item.number
            try:
                finish("the sink", self._relay._sink(item))
            except Exception as exc:
                self._fail(settled, item, exc)
                break
            settled.done, settled.attempts = item.number, 0
            settled.delivered += 1
        handed.pop(first.key, None)  # of one that was cancelled stop still says that the sink had it
        return settled

    def _fail(self, settled: Settled, item: OutboxItem, exc: Exception) -> None:
        backoff = self._relay._backoff
        settled.attempts = item.attempts + 1
        settled.error = told(exc)
        if settled.attempts > backoff.retries:
            settled.done = settled.dead = item.number
            _log.error(
                "item %d of key %r is given up after %d tries: %s",
                item.number,
                item.key[:80],
                settled.attempts,
                type(exc).__name__,
            )
        else:
            settled.delay = backoff.delay(item.attempts)

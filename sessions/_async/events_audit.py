"""Audit events: chained by hashes as they are appended, and looked through for the first that doesn't fit."""

from __future__ import annotations

from persistence.validation import check_id, check_limit
from sessions._async.events_base import AsyncEventsBase
from sessions.event_chains import ChainHead, ChainReport, ChainWalk, head_from_row
from sessions.events import MAIN_CHAIN

PAGE = 1000
"""How many entries ``verify`` reads at a time."""


class AsyncEventAudit(AsyncEventsBase):
    """The part of the event log that looks after chains of audit events."""

    async def chain_head(self, chain: str = MAIN_CHAIN) -> ChainHead | None:
        """Return the newest entry of a chain; None when it has none.

        Noted where nobody who can write to the database can write, it lets ``verify`` find what was written anew.
        """
        return await self._read_one(head_from_row, "event_chain", {"chain": check_id("chain", chain)})

    async def list_chains(self, *, limit: int = 100, after: str | None = None) -> list[ChainHead]:
        """Return the newest entry of each chain, by the chain's name, at most ``limit`` (up to 10,000).

        ``after`` is the ``chain`` of the last one of the page before.
        """
        values = {"after": "" if after is None else check_id("after", after), "limit": check_limit(limit)}
        return await self._read_all(head_from_row, "list_event_chains", values)

    async def verify(self, chain: str = MAIN_CHAIN, *, anchor: ChainHead | None = None) -> ChainReport:
        """Compute the hashes of a chain anew, from its first entry on, and return where it breaks, if it does.

        It finds entries that were changed, moved, removed or put in, and an end that was cut off: the head says how
        long the chain is. Somebody who writes all hashes and the head anew is found by an ``anchor``, a head that was
        noted before. What is appended meanwhile is not looked at. It reads every entry of the chain, a page at a time.
        """
        database = await self._database()
        walk = ChainWalk(check_id("chain", chain), await self.chain_head(chain), anchor)
        while not walk.is_over:
            values = {"chain": chain, "after": walk.seq, "limit": PAGE}
            rows = await database.fetch_all(*self._prepared(database, "list_chained_events", values), prepare=False)
            walk.look_at([{**row, "at": database.dialect.moment(row["at"])} for row in rows])
        return walk.report()

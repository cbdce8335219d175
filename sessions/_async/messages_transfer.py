"""Messages over time: followed as they come, pruned as they age, exported and imported as JSON lines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

from persistence import AsyncDatabase, Row
from persistence.dialect import to_micros
from persistence.errors import CapabilityError, ConflictError, ValidationError
from persistence.fields import Duration
from persistence.validation import check_id, check_limit, check_whole, shown
from sessions._async.following import AsyncFollowing
from sessions._async.messages_base import AsyncMessagesBase, rows_json
from sessions._async.wake_ups import AsyncWaiting
from sessions.messages import Message, message_from_row
from sessions.records import micros_of, thread_from_row, thread_values
from sessions.redis_rows import imported_member
from sessions.transfer import Header, header_line, message_line, read_header, read_message

_Imported = tuple[Message, dict[str, Any]]
PAGE = 500
"""How many messages are read or written at once."""


class AsyncMessageTransfer(AsyncMessagesBase):
    """The part of the message store that follows, prunes, exports and imports."""

    async def follow(
        self,
        thread_id: str,
        *,
        after: int | None = None,
        poll: Duration = 0.5,
        timeout: Duration | None = None,
        patience: Duration = 60,
    ) -> AsyncIterator[Message]:
        """Yield the messages of a thread as they are committed, from number ``after`` on (None: those to come).

        Each comes once and in order: it asks by the last number that it has seen, so nothing is missed or doubled
        while the database is away. It asks right after a message, then less and less often, down to every ``poll``
        seconds; a store with ``notify`` asks at once when a notice comes. It ends ``timeout`` seconds after the last
        message (None: never). No connection of the pool is held in between.

        Raises:
            NotFoundError: there is no such thread, and ``after`` is None.
            UnavailableError: the database has been away for ``patience`` seconds.
        """
        check_id("the thread's id", thread_id)
        following = AsyncFollowing(poll, timeout, patience)
        seen = None if after is None else check_whole("after", after, least=0)
        # It listens first, so that no notice falls between the first question and that.
        async with AsyncWaiting(None) if self._wake_ups is None else self._wake_ups.listen(thread_id) as waiting:
            place = (await self._checked_state("follow", thread_id, None)).last_seq if seen is None else seen

            async def read() -> list[Message]:
                nonlocal place
                page = await self._page(thread_id, place)
                place = page[-1].seq or place if page else place
                return page

            async with aclosing(following.pages(read, waiting)) as messages:
                async for message in messages:
                    yield message

    async def _page(self, thread_id: str, after: int) -> list[Message]:
        values = {"thread": thread_id, "after": after, "limit": PAGE}
        return await self._read_all(message_from_row, "list_messages_after", values)

    async def prune(
        self,
        *,
        thread_id: str | None = None,
        older_than: Duration | None = None,
        keep_last: int | None = None,
        keep_tokens: int | None = None,
        limit: int = 10_000,
    ) -> int:
        """Delete old messages of a thread (None: of every thread of the tenant, or of the bound user); return how many.

        What goes is older than ``older_than`` (seconds or a timedelta), or not among the newest ``keep_last``, or
        older than the newest messages whose input and output tokens together make up at most ``keep_tokens``. The
        summary in use stays. At most ``limit`` go, the oldest of each thread first; call it again until it returns
        less than that.

        Raises:
            ValidationError: none of the three is given, or one is out of range.
        """
        if older_than is None and keep_last is None and keep_tokens is None:
            raise ValidationError("prune needs older_than, keep_last or keep_tokens")
        cuts: list[tuple[str, dict[str, Any]]] = []
        if older_than is not None:
            age = timedelta(microseconds=micros_of("older_than", older_than))
            cuts.append(("cut_by_age", {"moment": datetime.now(UTC) - age}))
        if keep_last is not None:
            cuts.append(("cut_by_count", {"keep": check_whole("keep_last", keep_last, least=0)}))
        if keep_tokens is not None:
            cuts.append(("cut_by_tokens", {"keep": check_whole("keep_tokens", keep_tokens, least=0)}))
        left = check_limit(limit)
        if thread_id is not None:
            return await self._prune_one(check_id("thread_id", thread_id), cuts, left)
        if self._is_on_redis and self._user is None:
            raise CapabilityError(
                "prune on Redis is of a thread, or of a user's threads",
                hint="name a thread_id, or bind the store by for_user()",
                operation="prune",
                connection=self._name,
            )
        removed, after = 0, ""
        while removed < left:
            names = await self._threads_to_prune(after)
            for name in names:
                removed += await self._prune_one(name, cuts, left - removed)
                if removed >= left:
                    break
            if len(names) < PAGE:
                break
            after = names[-1]
        return removed

    async def _threads_to_prune(self, after: str) -> list[str]:
        values = {"after": after, "limit": PAGE}
        if not self._is_on_redis:
            return await self._read_all(_id_of, "list_threads_to_prune", values)
        names = await self._read_all(lambda row, _: str(row["value"]), "list_threads_to_prune", values)
        return sorted(name for name in names if name > after)[:PAGE]

    async def _prune_one(self, thread_id: str, cuts: list[tuple[str, dict[str, Any]]], limit: int) -> int:
        found = [await self._read_value(name, {"thread": thread_id, **values}) for name, values in cuts]
        cut = max((seq for seq in found if seq is not None), default=None)
        if cut is None:
            return 0
        return await self._change("prune_messages", {"thread": thread_id, "cut": cut, "limit": limit})

    async def export_messages(self, thread_id: str) -> AsyncIterator[str]:
        """Yield a thread as JSON lines: first what it is, then each message, oldest first; no line ends in a newline.

        No connection is held between pages; what is appended meanwhile comes too.

        Raises:
            NotFoundError: there is no such thread.
        """
        await self._checked_state("export_messages", check_id("the thread's id", thread_id), None)
        thread = await self._read_one(thread_from_row, "get_thread", {"id": thread_id})
        if thread is None:
            raise self._missing(thread_id, "export_messages")
        yield header_line(thread)
        page = await self._page(thread_id, 0)
        while page:
            for message in page:
                yield message_line(message)
            page = await self._page(thread_id, page[-1].seq or 0)

    async def import_messages(self, lines: Iterable[str], *, thread_id: str | None = None) -> int:
        """Store what ``export_messages`` gave, all or nothing, and return how many messages there were.

        Numbers, times and summaries are kept. The thread (``thread_id``, or the one that was exported) is created
        where it is missing, as that of the user who had it, or to whom this store is bound.

        Raises:
            ConflictError: the thread has messages of those numbers or later ones; nothing was written.
            ValidationError: a line is not what an export gives; it is named by its number, and nothing was written.
        """
        numbered = iter(enumerate(lines, 1))
        header = read_header(next(numbered, (1, ""))[1])
        name = header.thread.id if thread_id is None else check_id("thread_id", thread_id)
        database = await self._database()
        if self._is_on_redis:
            return await self._import_at_once(database, name, header, _pages(numbered))
        count = 0
        async with database.transaction():
            await self._create_imported(database, name, header)
            for page in _pages(numbered):
                self._add_words(database, [message for message, _ in page], [row for _, row in page])
                rows = [_with_time(database, row) for _, row in page]
                sent = {"thread": name, "rows": rows_json(rows)}
                if await database.execute(*self._prepared(database, "import_messages", sent)) != len(page):
                    raise self._numbers_taken(name)
                count += len(page)
            if count and database.kind == "sqlite":  # whose trigger goes by the messages' own times
                await database.execute(*self._prepared(database, "touch_thread", {"id": name}))
        return count

    async def _import_at_once(
        self, database: AsyncDatabase, thread_id: str, header: Header, pages: Iterator[list[_Imported]]
    ) -> int:
        """Import by one script, which is atomic: all messages are in this process at once."""
        rows = sorted((row for page in pages for _, row in page), key=lambda row: int(row["seq"]))
        if len({row["seq"] for row in rows}) < len(rows):
            raise self._numbers_taken(thread_id)
        values = self._imported_thread(thread_id, header)
        sent = {**values, "thread": thread_id, "members": [imported_member(row) for row in rows]}
        count = await database.execute(*self._prepared(database, "import_messages", sent))
        if count < 0:
            raise self._missing(thread_id, "import_messages")
        if count != len(rows):
            raise self._numbers_taken(thread_id)
        return count

    def _numbers_taken(self, thread_id: str) -> ConflictError:
        return ConflictError(
            f"thread {shown(thread_id)} has messages of these numbers, or later ones",
            hint="import into another thread_id, or delete the thread first",
            operation="import_messages",
            connection=self._name,
        )

    def _imported_thread(self, thread_id: str, header: Header) -> dict[str, Any]:
        values = thread_values(header.thread) | {"id": thread_id, "session_id": None}
        return values if self._user is None else values | {"user_id": self._user}

    async def _create_imported(self, database: AsyncDatabase, thread_id: str, header: Header) -> None:
        if await self._state(thread_id) is not None:
            return
        values = self._imported_thread(thread_id, header)
        if await database.fetch_one(*self._prepared(database, "create_thread", values)) is None:
            raise self._missing(thread_id, "import_messages")


def _pages(numbered: Iterator[tuple[int, str]]) -> Iterator[list[_Imported]]:
    """Yield what the lines hold, as records and as rows, a page at a time."""
    for first in numbered:
        page = [read_message(*first)]
        for line in numbered:
            page.append(read_message(*line))
            if len(page) == PAGE:
                break
        yield page


def _with_time(database: AsyncDatabase, row: dict[str, Any]) -> dict[str, Any]:
    moment: datetime = row["created_at"]
    return {**row, "created_at": moment.isoformat() if database.kind == "postgresql" else to_micros(moment)}


def _id_of(row: Row, dialect: object) -> str:
    return str(row["id"])

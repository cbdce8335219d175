"""Messages that change state as they come: the events of a session, each stored together with what it changes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from persistence import AsyncDatabaseManager
from persistence.dialect import chunked
from persistence.validation import LIMIT
from sessions._async.items import AsyncItemStore
from sessions._async.messages import AsyncMessageStore
from sessions._async.messages_base import append_values
from sessions.contents import decoded
from sessions.item_batches import Batch, Put, filterable
from sessions.items import SHARED
from sessions.messages import Message, message_values


class AsyncThreadEvents(AsyncMessageStore):
    """A message store that writes items with a message: on PostgreSQL in the same statement."""

    def __init__(self, manager: AsyncDatabaseManager, name: str, *, tenant: str = "default") -> None:
        super().__init__(manager, name, tenant=tenant)
        self._items = AsyncItemStore(manager, name, tenant=tenant)

    async def append_event(self, thread_id: str, message: Message, puts: Sequence[Put]) -> bool:
        """Append a message that has a role and a content only, and write items; False where its content is there.

        Then nothing is written: the state may have been changed since.

        Raises:
            NotFoundError: there is no such thread.
        """
        row = message_values(message)
        key = hashlib.sha256(row["content"].encode()).hexdigest()
        values: dict[str, Any] = {**append_values(thread_id, key, None), **row, "through": None, "words": None}
        database = await self._database()
        if not puts:
            return (await self._appended("append_event", thread_id, [message], "append_message", values))[1]
        if database.kind == "postgresql":
            # A later write of a key counts; one statement can't write it twice.
            last = {(put.namespace, put.key): put for put in puts}.values()
            values |= {
                "owner": SHARED,
                "put_namespaces": [put.namespace for put in last],
                "put_keys": [put.key for put in last],
                "put_values": [put.value for put in last],
                "put_fields": [filterable(put.value) for put in last],
            }
            return (await self._appended("append_event", thread_id, [message], "append_with_items", values))[1]
        async with database.transaction():
            stored = (await self._appended("append_event", thread_id, [message], "append_message", values))[1]
            if stored:
                await self._items.run(Batch(puts=list(puts)))
        return stored

    async def last_contents(self, thread_ids: Sequence[str]) -> dict[str, Any]:
        """Return the content of each thread's last message; threads without one are left out."""
        database = await self._database()
        found: dict[str, Any] = {}
        for some in chunked(thread_ids, LIMIT):
            given = {"threads": database.dialect.keys(some)}
            rows = await database.fetch_all(*self._prepared(database, "last_contents", given))
            found.update((row["thread_id"], decoded(row["content"])) for row in rows)
        return found

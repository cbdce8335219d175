# Generated from ../_async/outbox.py by tests/unasync.py: edit that one.
"""An outbox: what is to be delivered elsewhere, put in the transaction that decided it, kept in order by key."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from persistence._sync.database import Database
from persistence._sync.executor import Call, Row
from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.store import SQLStore
from persistence.dialect import to_micros
from persistence.errors import NotFoundError
from persistence.fields import Duration
from persistence.migrations import MigrationLine
from persistence.outbox import (
    DeadLetter,
    OutboxItem,
    OutboxStatus,
    Settled,
    dead_from_row,
    item_from_row,
    pack_payload,
    status_from_row,
)
from persistence.queries import load_queries
from persistence.validation import check_id, check_limit, check_timeout, check_whole, shown

BATCH = 1000
"""How many items one statement puts."""


class Outbox(SQLStore):
    """Items of one topic that a ``Relay`` delivers, at least once and in order for each key.

    ``put`` joins the transaction that its task is in: what is rolled back is never delivered, and what is committed is,
    also when the program is killed the moment after. The numbers of a key's items are in the order of the commits: who
    puts to a key holds its row until the transaction ends, so let such transactions be short.
    """

    line = MigrationLine.of_package("persistence")

    @named_connection
    def __init__(
        self, manager: DatabaseManager, name: str, topic: str, *, tenant: str = "default", migrate: bool = True
    ) -> None:
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self.topic = check_id("the topic", topic)

    def put(self, key: str, payload: Any) -> int:
        """Put an item (bytes, or what JSON holds) behind those of its key, and return its number there, from 1.

        Raises:
            ValidationError: the payload would not come back equal; nothing was put.
        """
        return (self.put_many([(key, payload)]))[0]

    def put_many(self, items: Iterable[tuple[str, Any]]) -> list[int]:
        """Put pairs of key and payload, all or none, and return their numbers in order; a thousand to a statement."""
        given = [(check_id("the key", key), pack_payload(payload)) for key, payload in items]
        if not given:
            return []
        database = self._database()
        if len(given) <= BATCH:
            return self._put(database, given)
        numbers: list[int] = []
        with database.transaction():
            for start in range(0, len(given), BATCH):
                numbers += self._put(database, given[start : start + BATCH])
        return numbers

    def _put(self, database: Database, given: Sequence[tuple[str, bytes]]) -> list[int]:
        queries = load_queries("persistence", database.kind)
        if database.kind == "postgresql":
            values = {**self._where(), "keys": [key for key, _ in given], "payloads": [payload for _, payload in given]}
            return [row["number"] for row in database.fetch_all(queries.put_in_outbox, values)]
        calls: list[Call] = []
        for key, payload in given:
            values = {**self._where(), "key": key, "now": _now()}
            calls += [(queries.put_in_outbox, values), (queries.put_item_in_outbox, {**values, "payload": payload})]
        return [rows[0]["number"] for rows in (database.fetch_batch(calls))[1::2]]

    def status(self) -> OutboxStatus:
        """Return how much waits, of what is committed."""
        database = self._database()
        row = database.fetch_one(load_queries("persistence", database.kind).outbox_status, self._where())
        assert row is not None  # noqa: S101 - counts are always a row
        return status_from_row(row)

    def dead_letters(self, *, limit: int = 100, after: DeadLetter | None = None) -> list[DeadLetter]:
        """Return what was given up, by key and number; ``after`` is the last one of the page before."""
        database = self._database()
        values = {
            **self._where(),
            "limit": check_limit(limit),
            "after_key": "" if after is None else after.key,
            "after_number": 0 if after is None else after.number,
        }
        rows = database.fetch_all(load_queries("persistence", database.kind).list_dead_letters, values)
        return [dead_from_row(self.topic, row) for row in rows]

    def put_again(self, letter: DeadLetter) -> int:
        """Put a dead letter behind the items of its key, as a new item, and return its number; one transaction.

        Raises:
            NotFoundError: it isn't there, or was put again already.
        """
        database = self._database()
        with database.transaction():
            payload = self._take_dead(database, letter)
            if payload is None:
                raise NotFoundError(
                    f"no dead letter {letter.number} of key {shown(letter.key)}",
                    hint="dead_letters() lists them",
                    operation="put_again",
                    connection=self._name,
                )
            return (self._put(database, [(letter.key, payload)]))[0]

    def delete_dead_letter(self, letter: DeadLetter) -> bool:
        """Delete a dead letter for good; tell whether it was there."""
        return self._take_dead(self._database(), letter) is not None

    def _take_dead(self, database: Database, letter: DeadLetter) -> bytes | None:
        values = {
            **self._where(),
            "key": check_id("the key", letter.key),
            "number": check_whole("number", letter.number),
        }
        found = database.fetch_value(load_queries("persistence", database.kind).delete_dead_letter, values)
        return None if found is None else bytes(found)

    def forget_keys(self, *, idle: Duration = 86400.0, limit: int = 1000) -> int:
        """Delete at most ``limit`` keys that have had nothing to deliver for ``idle`` seconds; return how many.

        A key costs a row as long as it is remembered. One that is used again begins with number 1.
        """
        age = check_timeout("idle", idle)
        database = self._database()
        values: dict[str, Any] = {**self._where(), "limit": check_limit(limit)}
        if database.kind == "postgresql":
            values["age"] = age
        else:
            values["before"] = _now() - int(age * 1_000_000)
        return database.execute(load_queries("persistence", database.kind).forget_outbox_keys, values)

    def _where(self) -> dict[str, Any]:
        return {"tenant": self._tenant, "topic": self.topic}

    def claim(self, keys: int, each: int, lease: float) -> list[tuple[int, list[OutboxItem]]]:
        """Take at most ``keys`` keys that are due for ``lease`` seconds; return the fence and first items of each.

        It is a ``Relay``'s call, and one round trip on PostgreSQL.
        """
        check_limit(keys, "keys")
        check_limit(each, "each")
        check_timeout("lease", lease)
        database = self._database()
        queries = load_queries("persistence", database.kind)
        values: dict[str, Any] = {**self._where(), "keys": keys}
        rows: list[Row]
        if database.kind == "postgresql":
            rows = database.fetch_all(queries.claim_from_outbox, {**values, "each": each, "lease": lease})
        else:
            now = _now()
            with database.transaction():
                claim = {**values, "now": now, "until": now + int(lease * 1_000_000)}
                claimed = database.fetch_all(queries.claim_from_outbox, claim)
                names = json.dumps([row["key"] for row in claimed])
                rows = database.fetch_all(
                    queries.claimed_items, {**self._where(), "claimed": names, "each": each}
                )
        found: dict[str, tuple[int, list[OutboxItem]]] = {}
        for row in rows:
            found.setdefault(row["key"], (row["fence"], []))[1].append(item_from_row(self.topic, row))
        return list(found.values())

    def settle(self, settled: Sequence[Settled]) -> set[str]:
        """Record how deliveries ended, in one commit; return the keys whose claim still held.

        It is a ``Relay``'s call.
        """
        database = self._database()
        queries = load_queries("persistence", database.kind)
        if database.kind == "postgresql":
            values = {
                **self._where(),
                "keys": [each.key for each in settled],
                "fences": [each.fence for each in settled],
                "dones": [each.done for each in settled],
                "attempts": [each.attempts for each in settled],
                "delays": [each.delay for each in settled],
                "deads": [each.dead for each in settled],
                "errors": [each.error for each in settled],
            }
            return {row["key"] for row in database.fetch_all(queries.settle_outbox, values)}
        calls: list[Call] = []
        now = _now()
        for each in settled:
            key = {**self._where(), "key": each.key, "fence": each.fence}
            values = {**key, "done": each.done, "attempts": each.attempts, "dead": each.dead}
            calls += [
                (queries.settle_outbox_key, {**values, "due": now + int(each.delay * 1_000_000)}),
                (
                    queries.bury_outbox_item,
                    {**key, "now": now, "attempts": each.attempts, "error": each.error or "", "dead": each.dead},
                ),
                (queries.drop_outbox_items, {**key, "done": each.done}),
            ]
        return {row["key"] for rows in (database.fetch_batch(calls))[::3] for row in rows}

    def next_due(self) -> float | None:
        """Return in how many seconds a key is due, 0 where one is; None where nothing waits."""
        database = self._database()
        values = self._where() if database.kind == "postgresql" else {**self._where(), "now": _now()}
        wait = database.fetch_value(load_queries("persistence", database.kind).outbox_next_due, values)
        return None if wait is None else max(0.0, float(wait))


def _now() -> int:
    return to_micros(datetime.now(UTC))

"""Listings of checkpoints and threads in PostgreSQL or SQLite, each one statement or one transaction that reads."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any

from checkpoint._async.sql_base import clock, described
from checkpoint._async.sql_writes import AsyncSQLWrites, with_writes
from checkpoint.blocks import LAST_ORDINAL
from checkpoint.decoding import Shared
from checkpoint.matching import contains
from checkpoint.pieces import cut
from checkpoint.records import Checkpoint, CheckpointInfo, PendingWrite, ThreadInfo
from persistence._async.database import AsyncDatabase
from persistence._async.executor import Row
from persistence.dialect import from_json
from persistence.errors import CapabilityError, TransactionError
from persistence.queries import load_queries

_PAGE = 500
INDEX_SECONDS = 86_400.0
"""How long an index may take to build."""


class AsyncSQLListing(AsyncSQLWrites):
    """The listings of AsyncDatabaseCheckpointer."""

    async def index_metadata(self) -> None:
        """Give PostgreSQL an index (GIN) for filters on metadata, without stopping writers; once for all tenants.

        Without it a filter looks at the checkpoints of a thread one by one, newest first, which is fast up to some
        thousands of them. The index costs each save some microseconds and, for LangGraph's metadata, about 100 bytes.

        Raises:
            CapabilityError: the connection is no PostgreSQL.
            TransactionError: it can't be made in a transaction.
        """
        database = await self._database()
        if database.kind != "postgresql":
            raise CapabilityError("only PostgreSQL has an index for filters on metadata", connection=self._place)
        if database.in_transaction:
            raise TransactionError("an index can't be made beside writers in a transaction", connection=self._place)
        queries = load_queries("checkpoint", "postgresql")
        if await database.fetch_value(queries.broken_index):
            await database.execute(queries.drop_metadata_index)
        await database.execute(queries.index_metadata, timeout=INDEX_SECONDS)

    async def _list(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[CheckpointInfo]:
        database = await self._database()
        rows = await self._list_rows(database, thread_id, limit, before, wanted, namespace)
        return [CheckpointInfo(thread_id=thread_id, namespace=namespace, **described(database, row)) for row in rows]

    async def _list_rows(
        self, database: AsyncDatabase, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str
    ) -> list[Row]:
        statement = load_queries("checkpoint", database.kind).list_checkpoints
        keys = self._keys(thread_id, namespace, **clock(database), **self._filter(database, wanted))
        if database.kind == "postgresql" or wanted is None:
            return await database.fetch_all(statement, {**keys, "limit": limit, "before": before})
        filter_ = json.loads(wanted)
        found: list[Row] = []
        async with database.transaction(read_only=not database.in_transaction):
            while len(found) < limit:
                page = await database.fetch_all(statement, {**keys, "limit": _PAGE, "before": before})
                found += [row for row in page if contains(from_json(row["metadata"]), filter_)]
                if len(page) < _PAGE:
                    break
                before = page[-1]["version"]
        return found[:limit]

    async def _list_states(
        self, thread_id: str, limit: int, before: int, wanted: str | None, namespace: str, writes: bool
    ) -> list[Checkpoint]:
        database = await self._database()
        queries = load_queries("checkpoint", database.kind)
        keys = self._keys(thread_id, namespace, **clock(database))
        # Neighbours have most blocks in common: PostgreSQL sends them once, and they are opened once.
        shared = Shared()
        if database.kind == "postgresql":
            statement = with_writes(queries.list_states, queries.with_writes) if writes else queries.list_states
            values = {**keys, **self._filter(database, wanted), "limit": limit, "before": before}
            with self._reading_refs(keys):
                rows = await database.fetch_all(statement, values, binary=True)
            return [
                self._loaded(
                    database,
                    thread_id,
                    namespace,
                    row,
                    self._refs_of(thread_id, namespace, row),
                    cut(row["data"], row["sizes"]),
                    self._cut_writes(row, keys) if writes else (),
                    shared,
                )
                for row in rows
            ]
        async with database.transaction(read_only=not database.in_transaction):
            rows = await self._list_rows(database, thread_id, limit, before, wanted, namespace)
            listed = await self._pieces(database, keys, rows)
            pending = await self._listed_writes(database, keys, rows) if writes else {}
        return [
            self._loaded(database, thread_id, namespace, row, refs, stored, pending.get(row["key"], ()), shared)
            for row, refs, stored in listed
        ]

    async def _listed_writes(
        self, database: AsyncDatabase, keys: dict[str, Any], rows: list[Row]
    ) -> dict[str, tuple[PendingWrite, ...]]:
        """Return the pending writes of listed checkpoints of SQLite by their keys."""
        place = {name: keys[name] for name in ("tenant", "thread", "namespace")}
        named = json.dumps([row["key"] for row in rows if row["key"] is not None])
        found = await database.fetch_all(
            load_queries("checkpoint", "sqlite").writes_of, {**place, "keys": named}, binary=True
        )
        return {
            key: tuple(self._opened([*writes], {**place, "key": key}))
            for key, writes in groupby(found, key=itemgetter("key"))
        }

    async def _pieces(
        self, database: AsyncDatabase, keys: dict[str, Any], rows: list[Row]
    ) -> list[tuple[Row, list[int], list[Any]]]:
        """Return listed checkpoints of SQLite with their manifests, each with its refs and the blocks of these."""
        queries = load_queries("checkpoint", "sqlite")
        place = {name: keys[name] for name in ("tenant", "thread", "namespace")}
        versions = {"versions": json.dumps([row["version"] for row in rows]), "limit": len(rows)}
        manifests = await database.fetch_all(queries.list_manifests, {**place, **versions})
        whole = [{**row, **manifest} for row, manifest in zip(rows, manifests, strict=True)]
        listed = [(row, row["version"], self._refs_of(keys["thread"], keys["namespace"], row)) for row in whole]
        places = sorted({(version - (ref >> 8), ref & LAST_ORDINAL) for _, version, refs in listed for ref in refs})
        wanted = {"places": json.dumps(places), "limit": len(places)}
        blocks = {
            (block["version"], block["ordinal"]): block["data"]
            for block in await database.fetch_all(queries.list_blocks, {**place, **wanted})
        }
        return [
            (row, refs, [blocks[version - (ref >> 8), ref & LAST_ORDINAL] for ref in refs])
            for row, version, refs in listed
        ]

    async def _list_threads(
        self, limit: int, after: str, wanted: str | None, cutoff: datetime | None = None
    ) -> list[ThreadInfo]:
        database = await self._database()
        statement = load_queries("checkpoint", database.kind).list_threads
        keys: dict[str, Any] = {"tenant": self._tenant, "cutoff": database.dialect.time(cutoff), **clock(database)}
        if database.kind == "postgresql":
            keys["filter"] = wanted
        else:
            keys["filtered"] = wanted is not None
        if database.kind == "postgresql" or wanted is None:
            found = await database.fetch_all(statement, {**keys, "limit": limit, "after": after})
        else:
            found, filter_ = [], json.loads(wanted)
            while len(found) < limit:
                page = await database.fetch_all(statement, {**keys, "limit": _PAGE, "after": after})
                found += [row for row in page if row["metadata"] and contains(from_json(row["metadata"]), filter_)]
                if len(page) < _PAGE:
                    break
                after = page[-1]["thread_id"]
        return [_thread(database, row) for row in found[:limit]]

    async def _list_user_threads(self, user_id: str, limit: int, after: str) -> list[ThreadInfo]:
        database = await self._database()
        keys = {"tenant": self._tenant, "user": user_id, "limit": limit, "after": after, **clock(database)}
        rows = await database.fetch_all(load_queries("checkpoint", database.kind).list_user_threads, keys)
        return [_thread(database, row) for row in rows]

    def _loaded(
        self,
        database: AsyncDatabase,
        thread_id: str,
        namespace: str,
        row: Row,
        refs: Sequence[int],
        stored: list[Any],
        pending: tuple[PendingWrite, ...],
        shared: Shared | None = None,
    ) -> Checkpoint:
        raise NotImplementedError


def _thread(database: AsyncDatabase, row: Row) -> ThreadInfo:
    moment: Any = database.dialect.moment
    return ThreadInfo(
        thread_id=row["thread_id"],
        versions=from_json(row["versions"]),
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
    )

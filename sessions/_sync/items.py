# Generated from ../_async/items.py by tests/unasync.py: edit that one.
"""Batches of namespaced items: one statement on PostgreSQL, one transaction on SQLite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from persistence import Database, SQLStore, MigrationLine, Row
from persistence.dialect import Dialect, compile_statement
from persistence.errors import CorruptError
from persistence.queries import load_queries
from sessions.contents import decoded
from sessions.item_batches import (
    Answers,
    Batch,
    Found,
    Listing,
    Search,
    above,
    filterable,
    fits,
    matches,
    scores,
    shortened,
    split,
)
from sessions.items import SHARED

PAGE = 1000
"""How many items are read at a time where the program filters them, and deleted at a time."""


class ItemStore(SQLStore):
    """The items that all users of a tenant share, read and written in batches."""

    line = MigrationLine.of_package("sessions")

    @property
    def in_transaction(self) -> bool:
        """Whether this task is in a transaction on the store's connection, which its calls join."""
        return self._manager.get_database(self._name).in_transaction

    def _prepared(self, database: Database, name: str, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        sql: str = getattr(load_queries("sessions", database.kind), name)
        common = {"tenant": self._tenant, "user_id": SHARED, "now": datetime.now(UTC)}
        names = compile_statement(sql, database.kind).names
        return sql, {**{key: value for key, value in common.items() if key in names}, **values}

    def run(self, batch: Batch) -> Answers:
        """Do what a batch says and return what it read.

        Raises:
            CapabilityError: it holds vectors, and the server has no pgvector to compare them, nor may it be created;
                nothing was written.
        """
        database = self._database()
        if database.kind == "postgresql":
            if batch.holds_vectors:
                self._ensure_vector(database)
            answers = self._run_at_once(database, batch)
            due = _due(batch, answers)
            if due:
                values = {"namespaces": [item.namespace for item in due], "keys": [item.key for item in due]}
                database.execute(*self._prepared(database, "item_refresh", values))
            return answers
        if not batch.puts and not batch.deletes:
            # One state of the file, which several statements see only in a transaction.
            alone = database.in_transaction or _is_one_statement(batch)
            with nullcontext() if alone else database.transaction(read_only=True):
                answers = self._read(database, batch)
            if not _due(batch, answers):
                return answers
        with database.transaction():
            answers = self._read(database, batch)
            self._write(database, batch, answers)
        return answers

    def delete_expired(self) -> int:
        """Remove every expired item of the tenant, so many at a time, and return how many there were."""
        database = self._database()
        removed, found = 0, PAGE
        while found == PAGE:
            found = database.execute(*self._prepared(database, "item_delete_expired", {"limit": PAGE}))
            removed += found
        return removed

    def _run_at_once(self, database: Database, batch: Batch) -> Answers:
        """Choose the leanest statements, one round trip: most batches are all of one kind."""
        alone: dict[int, list[Row]] = {}
        together: list[int] = []
        for place, search in enumerate(batch.searches):
            if search.vector is None:
                together.append(place)
            else:
                alone[place] = self._nearest(database, batch, search)
        writes = bool(batch.puts or batch.deletes)
        if len(together) == 1 and not (batch.gets or batch.listings or writes):
            place = together.pop()
            values = _search_values(batch.searches[place])
            alone[place] = database.fetch_all(*self._prepared(database, "list_items", values))
        rows: list[Row] = []
        if batch.gets and not (together or batch.listings or writes):
            one = {"namespace": batch.gets[0].namespace, "key": batch.gets[0].key}
            name, values = ("item_get", one) if len(batch.gets) == 1 else ("item_get_many", _get_values(batch))
            rows = database.fetch_all(*self._prepared(database, name, values))
        elif writes and not (together or batch.listings or batch.gets):
            database.execute(*self._writing(database, batch))
        elif together or batch.listings or writes:
            values = {**_get_values(batch), **_list_values(batch, together)}
            reading = self._prepared(database, "item_read_many", values)
            if writes:
                rows, _ = database.fetch_batch([reading, self._writing(database, batch)])
            else:
                rows = database.fetch_all(*reading)
        answers = _answers(batch, together, rows, database.dialect)
        for place, found in alone.items():
            answers.searches[place] = [_found(row, database.dialect) for row in found]
        return answers

    def _writing(self, database: Database, batch: Batch) -> tuple[str, dict[str, Any]]:
        """Return the statement that does all writes of a batch."""
        if len(batch.puts) > 1 or batch.deletes or batch.puts[0].vectors:
            return self._prepared(database, "item_write_many", _write_values(batch))
        put = batch.puts[0]
        place = {"namespace": put.namespace, "key": put.key}
        values = {**place, "value": put.value, "fields": filterable(put.value), "ttl": put.ttl}
        return self._prepared(database, "item_put", values)

    def _nearest(self, database: Database, batch: Batch, search: Search) -> list[Row]:
        vector = search.vector or []
        more = {"metric": batch.metric, "vector": json.dumps(vector), "dimensions": len(vector)}
        values = {**_search_values(search), **more}
        return database.fetch_all(*self._prepared(database, "item_nearest", values))

    def _read(self, database: Database, batch: Batch) -> Answers:
        answers = Answers([], [], [])
        for get in batch.gets:
            values = {"namespace": get.namespace, "key": get.key}
            row = database.fetch_one(*self._prepared(database, "item_get", values))
            answers.gets.append(None if row is None else _found(row, database.dialect))
        for search in batch.searches:
            answers.searches.append(self._search(database, batch, search))
        for listing in batch.listings:
            answers.listings.append(self._list(database, listing))
        return answers

    def _search(self, database: Database, batch: Batch, search: Search) -> list[Found]:
        """Return a page of what matches; SQLite counts it itself where nothing is filtered or compared."""
        scope = {"from": search.prefix, "below": above(search.prefix)}
        if not search.conditions and search.vector is None:
            page = {**scope, "limit": search.limit, "offset": search.offset}
            rows = database.fetch_all(*self._prepared(database, "list_items", page))
            return [_found(row, database.dialect) for row in rows]
        end = search.offset + search.limit
        found: list[Found] = []
        seen: dict[tuple[str, str], float] = {}
        if search.vector is not None:
            rows = database.fetch_all(*self._prepared(database, "item_vectors", scope))
            seen = _nearest_first(batch, search, rows)
            found = self._best(database, search, seen, end)
        offset = 0
        while len(found) < end:
            page = {**scope, "limit": PAGE, "offset": offset}
            rows = database.fetch_all(*self._prepared(database, "list_items", page))
            found += [
                _found(row, database.dialect)
                for row in rows
                if (row["namespace"], row["key"]) not in seen and matches(decoded(row["value"]), search.conditions)
            ]
            offset += PAGE
            if len(rows) < PAGE:
                break
        return found[search.offset : end]

    def _best(
        self, database: Database, search: Search, ranked: Mapping[tuple[str, str], float], end: int
    ) -> list[Found]:
        """Return the first items of a ranking that match, read one by one: seldom more than a page is wanted."""
        found: list[Found] = []
        for (namespace, key), score in ranked.items():
            if len(found) >= end:
                break
            place = {"namespace": namespace, "key": key}
            row = database.fetch_one(*self._prepared(database, "item_get", place))
            if row is not None and matches(decoded(row["value"]), search.conditions):
                found.append(_found(row, database.dialect)._replace(score=score))
        return found

    def _list(self, database: Database, listing: Listing) -> list[str]:
        scope = {"from": listing.prefix, "below": above(listing.prefix)}
        rows = database.fetch_all(*self._prepared(database, "item_namespaces", scope))
        names = {shortened(row["namespace"], listing.depth) for row in rows if fits(row["namespace"], listing)}
        return sorted(names)[listing.offset : listing.offset + listing.limit]

    def _write(self, database: Database, batch: Batch, answers: Answers) -> None:
        for namespace, key in batch.deletes:
            database.execute(*self._prepared(database, "item_delete", {"namespace": namespace, "key": key}))
        for item in _due(batch, answers):
            place = {"namespace": item.namespace, "key": item.key}
            database.execute(*self._prepared(database, "item_refresh", place))
        for put in batch.puts:
            place = {"namespace": put.namespace, "key": put.key}
            values = {**place, "value": put.value, "ttl": put.ttl}
            database.execute(*self._prepared(database, "item_put", values))
            database.execute(*self._prepared(database, "item_drop_vectors", place))
            for number, vector in enumerate(put.vectors):
                row = {**place, "place": number, "embedding": np.asarray(vector, "<f4").tobytes()}
                database.execute(*self._prepared(database, "item_put_vector", row))


def _is_one_statement(batch: Batch) -> bool:
    """Tell whether one statement reads on SQLite what a batch asks for; what is filtered or compared takes several."""
    several = any(search.conditions or search.vector is not None for search in batch.searches)
    return not several and len(batch.gets) + len(batch.searches) + len(batch.listings) == 1


def _due(batch: Batch, answers: Answers) -> list[Found]:
    """Return what was read, is to be renewed, and is neither written nor deleted by the batch itself."""
    read = [found for get, found in zip(batch.gets, answers.gets, strict=True) if found is not None and get.refresh]
    for search, found in zip(batch.searches, answers.searches, strict=True):
        read += found if search.refresh else []
    written = {(put.namespace, put.key) for put in batch.puts} | set(batch.deletes)
    due = {(item.namespace, item.key): item for item in read if item.is_due}
    return [item for place, item in due.items() if place not in written]


def _filters(search: Search) -> tuple[str, str]:
    contained, left = split(search.conditions)
    return filterable(json.dumps(contained)), filterable(json.dumps(left))


def _search_values(search: Search) -> dict[str, Any]:
    contains, conditions = _filters(search)
    return {**_spec(search), "contains": contains, "conditions": conditions}


def _get_values(batch: Batch) -> dict[str, Any]:
    return {
        "get_namespaces": [get.namespace for get in batch.gets],
        "get_keys": [get.key for get in batch.gets],
    }


def _list_values(batch: Batch, together: Sequence[int]) -> dict[str, Any]:
    searches = []
    for place in together:
        contains, conditions = _filters(batch.searches[place])
        more = {"contains": json.loads(contains), "conditions": json.loads(conditions)}
        searches.append({**_spec(batch.searches[place]), **more})
    listings = [
        {**_spec(listing), "conditions": listing.conditions, "depth": listing.depth} for listing in batch.listings
    ]
    return {"searches": json.dumps(searches), "listings": json.dumps(listings)}


def _write_values(batch: Batch) -> dict[str, Any]:
    """Return the writes of a batch as arrays, one a column, in the order in which all batches lock them."""
    puts = sorted(batch.puts, key=lambda put: (put.namespace, put.key))
    vectors = [
        (put.namespace, put.key, place, "{" + json.dumps(vector)[1:-1] + "}")
        for put in puts
        for place, vector in enumerate(put.vectors)
    ]
    return {
        "put_namespaces": [put.namespace for put in puts],
        "put_keys": [put.key for put in puts],
        "put_values": [put.value for put in puts],
        "put_fields": [filterable(put.value) for put in puts],
        "put_ttls": [put.ttl for put in puts],
        "put_vectors": [len(put.vectors) for put in puts],
        "delete_namespaces": [namespace for namespace, _ in batch.deletes],
        "delete_keys": [key for _, key in batch.deletes],
        "vector_namespaces": [row[0] for row in vectors],
        "vector_keys": [row[1] for row in vectors],
        "vector_places": [row[2] for row in vectors],
        "vectors": [row[3] for row in vectors],
    }


def _spec(part: Search | Listing) -> dict[str, Any]:
    return {"from": part.prefix, "below": above(part.prefix), "limit": part.limit, "offset": part.offset}


def _answers(batch: Batch, together: Sequence[int], rows: Sequence[Row], dialect: Dialect) -> Answers:
    """Sort the rows of a batch into its reads; ``together`` are the places of the searches that it made."""
    answers = Answers([None] * len(batch.gets), [[] for _ in batch.searches], [[] for _ in batch.listings])
    for row in rows:
        place = row["place"] - 1
        if row["kind"] == "list":
            answers.listings[place].append(row["namespace"])
        elif row["kind"] == "search":
            answers.searches[together[place]].append(_found(row, dialect))
        else:
            answers.gets[place] = _found(row, dialect)
    for found in answers.searches:
        found.sort(key=_newest)
    for names in answers.listings:
        names.sort()
    return answers


def _newest(found: Found) -> tuple[float, str, str]:
    return -found.updated_at.timestamp(), found.namespace, found.key


def _nearest_first(batch: Batch, search: Search, rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Return the score of each item that has one, by the nearest of its vectors, best first."""
    near = scores(batch.metric, search.vector or [], [row["embedding"] for row in rows])
    best: dict[tuple[str, str], float] = {}
    for row, score in zip(rows, near, strict=True):
        place = row["namespace"], row["key"]
        if score is not None:
            best[place] = max(score, best.get(place, score))
    return dict(sorted(best.items(), key=lambda entry: -entry[1]))


def _found(row: Row, dialect: Dialect) -> Found:
    created, updated, ends, now = (
        dialect.moment(row[name]) for name in ("created_at", "updated_at", "expires_at", "now")
    )
    if created is None or updated is None:
        raise CorruptError("a row without its time", hint="was it written by other means?")
    life = row["ttl_micros"]
    is_due = bool(life and ends and now and ends - now < timedelta(microseconds=life) * 0.95)
    return Found(row["namespace"], row["key"], row["value"], created, updated, row.get("score"), is_due)

# Generated from ../_async/pgvector.py by tests/unasync.py: edit that one.
"""Vectors in PostgreSQL with pgvector: one table a collection, one round trip a search, one statement a batch.

Batches are written in the order of their ids, so writers of the same documents wait for one another and never deadlock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from persistence._sync.postgresql import PgVectorDatabase
from persistence.arrays import TextColumn, VectorColumn
from persistence.dialect import Dialect
from persistence.errors import CapabilityError, ValidationError
from persistence.fields import Duration
from persistence.validation import ID_BYTES, shown
from vectorstore import adoption, schema
from vectorstore._sync.pgindex import PgIndexes
from vectorstore.distance import LONGEST, SHORTEST
from vectorstore.filters import Node
from vectorstore.records import Change, CheckedDocument, Document, Patch, metadata_value


class PgVectorStore(PgIndexes):
    """A vector store on the pgvector connection ``name`` of a manager.

    ``dimensions`` and ``metric`` are the connection's where they are left out; a collection keeps those that it was
    made with. ``vector_type`` is how pgvector holds the numbers: ``halfvec`` takes half the room, ``bit`` keeps whether
    each is above 0. There is no index of vectors until :meth:`build_index` is called, and a search compares all of
    them: below some 10,000 documents that is fast, and loading into a live hnsw index is thirty times slower.
    ``effort`` is hnsw's ``ef_search`` or ivfflat's ``probes`` (left out: 100, more where a filter leaves
    few, or the square root of the lists).

    Words and declared keys may be added to a collection later, by opening it with them; where it is large that takes
    its time, and its writers wait.
    """

    @property
    def database(self) -> PgVectorDatabase:
        """The connection that the documents are on."""
        return self._manager.get_pgvector(self._name)

    def takes_selected(self) -> bool:
        """Tell whether :meth:`store_selected` can be called: not on an adopted table, and not for bits."""
        _, known = self._ready()
        return known.columns is None and self._shape.type != "bit"

    def store_selected(self, sql: str, parameters: Mapping[str, Any], *, timeout: Duration | None = None) -> int:
        """Store what a SELECT of this database gives, all or nothing; return how many documents.

        ``sql`` is code of yours, with ``:name`` for each of ``parameters``. Its columns are ``id``, ``content``,
        ``metadata`` (jsonb) and ``embedding`` (vector); each id comes once. No document leaves the server, and what has
        the same id is replaced. The selected rows are read twice: they must be the same both times.

        Raises:
            ValidationError: a document is one that :meth:`store_documents` would refuse.
            CapabilityError: the collection can't; see :meth:`takes_selected`.
        """
        if not self.takes_selected():
            raise CapabilityError(
                f"the collection {self.collection!r} takes no selected rows",
                hint="store_documents; this is for tables of our own, and not for bits",
                connection=self._name,
            )
        database, places = self.database, {"source": f"({sql})"}
        limits = {
            "dimensions": self.dimensions,
            "id_bytes": ID_BYTES,
            "longest": LONGEST,
            "shortest": SHORTEST if self.metric == "cosine" else 0.0,
        }
        own = {"tenant": self._tenant, "namespace": self.namespace}
        with database.transaction(timeout=timeout):
            check = schema.fill(self._sql.selected_refused, places)
            refused = database.fetch_one(check, {**parameters, **limits}, timeout=timeout, prepare=False)
            if refused is not None:
                raise ValidationError(
                    f"document {shown(str(refused['id']))} {refused['reason']}", connection=self._name
                )
            store = schema.fill(self._sql.store_selected, places)
            return database.execute(store, {**parameters, **own}, timeout=timeout, prepare=False)

    def _may_look_ahead(self) -> bool:
        return not self.database.in_transaction

    def _write(self, batch: list[CheckedDocument]) -> None:
        database, known = self._ready()
        (self._upsert(database, batch) if known.columns is None else self._upsert_adopted(database, batch))

    def _upsert_adopted(self, database: PgVectorDatabase, batch: list[CheckedDocument]) -> None:
        self._check_adopted(any(each.source or each.expires_at for each in batch))
        parameters = self._batch(batch)
        database.execute(self._sql.upsert, parameters)

    def _check_adopted(self, is_more: bool) -> None:
        """Refuse what an adopted table has no column for."""
        if is_more or self.namespace != "default":
            raise adoption.refuse("namespaces, sources and expiry", self.collection)

    def _upsert(self, database: PgVectorDatabase, batch: list[CheckedDocument]) -> None:
        parameters = {
            "tenant": self._tenant,
            "namespace": self.namespace,
            **self._batch(batch),
            "sources": TextColumn([document.source for document in batch]),
            "expiries": TextColumn([_text_of(document.expires_at) for document in batch]),
        }
        database.execute(self._sql.upsert, parameters)

    @staticmethod
    def _batch(batch: list[CheckedDocument]) -> dict[str, Any]:
        return {
            "ids": TextColumn([document.id for document in batch]),
            "contents": TextColumn([document.content for document in batch]),
            "metadata": TextColumn([document.metadata for document in batch]),
            "embeddings": VectorColumn(np.stack([document.embedding for document in batch])),
        }

    def _replace(self, source: str, batches: Iterator[list[CheckedDocument]]) -> int:
        database, known = self._ready()
        if known.columns is not None:
            self._check_adopted(True)
        ids: list[str] = []
        own = {"tenant": self._tenant, "namespace": self.namespace, "source": source}
        with database.transaction():
            locks = (
                (self._sql.lock_source, {**own, "collection": self.collection}),
                (self._sql.lock_documents_of_source, own),
            )
            database.fetch_batch(locks)
            for batch in batches:
                self._upsert(database, batch)
                ids += [document.id for document in batch]
            database.execute(self._sql.delete_rest_of_source, {**own, "ids": TextColumn(ids)})
        return len(set(ids))

    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]:
        database, _ = self._ready()
        sql = schema.fill(self._sql.get_many, self._read_places(with_embeddings))
        parameters = {"tenant": self._tenant, "namespace": self.namespace, "ids": TextColumn(ids)}
        return [self._document(row) for row in database.fetch_all(sql, parameters, binary=True)]

    def _document(self, row: Mapping[str, Any]) -> Document:
        return Document(
            row["id"],
            row["content"],
            metadata_value(row["metadata"]),
            self._vector(row["embedding"]),
            source=row["source"],
            expires_at=_IN_UTC.moment(row["expires_at"]),
            created_at=_IN_UTC.moment(row["created_at"]),
            updated_at=_IN_UTC.moment(row["updated_at"]),
        )

    def _page(self, after: str | None, limit: int, node: Node | None, with_embeddings: bool) -> list[Document]:
        database, known = self._ready()
        condition = self._condition(known, node)
        sql = schema.fill(self._sql.list_page, {"filter": condition.sql, **self._read_places(with_embeddings)})
        own = {"tenant": self._tenant, "namespace": self.namespace, "after": after or "", "limit": limit}
        prepare = None if node is None else False
        rows = database.fetch_all(sql, own | condition.parameters, prepare=prepare, binary=True)
        return [self._document(row) for row in rows]

    def _change(self, id: str, change: Change) -> bool:
        database, known = self._ready()
        if known.columns is not None:
            self._check_adopted(change.source is not None or change.expires_at is not None or change.never)
            given = {"content": change.content, "metadata": change.metadata, "embedding": change.embedding}
            return database.execute(self._sql.update, {"id": id, **given}) > 0
        parameters = {"tenant": self._tenant, "namespace": self.namespace, "id": id, **change._asdict()}
        return database.execute(self._sql.update, parameters) > 0

    def _merge(self, id: str, patch: Patch) -> bool:
        database, known = self._ready()
        given = {"id": id, **patch._asdict()}
        if known.columns is not None:
            self._check_adopted(False)
        else:
            given |= {"tenant": self._tenant, "namespace": self.namespace}
        return database.execute(self._sql.patch, given) > 0

    def _remove(self, ids: list[str]) -> int:
        database, _ = self._ready()
        parameters = {"tenant": self._tenant, "namespace": self.namespace, "ids": TextColumn(ids)}
        return database.execute(self._sql.delete, parameters)

    def _remove_where(self, node: Node) -> int:
        database, known = self._ready()
        condition = self._condition(known, node)
        sql = schema.fill(self._sql.delete_where, {"filter": condition.sql})
        own = {"tenant": self._tenant, "namespace": self.namespace}
        return database.execute(sql, own | condition.parameters, prepare=False)

    def _purge(self, limit: int) -> int:
        database, _ = self._ready()
        return database.execute(self._sql.delete_expired, {"tenant": self._tenant, "limit": limit})

    def _count(self, node: Node | None) -> int:
        database, known = self._ready()
        condition = self._condition(known, node)
        sql = schema.fill(self._sql.count, {"filter": condition.sql})
        prepare = None if node is None else False
        own = {"tenant": self._tenant, "namespace": self.namespace}
        return int(database.fetch_value(sql, own | condition.parameters, prepare=prepare))


_IN_UTC = Dialect("postgresql")


def _text_of(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat()

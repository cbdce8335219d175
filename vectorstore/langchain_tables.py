"""The tables in which langchain-postgres keeps documents, as SELECTs that give them our columns.

``PGVector`` has two tables for all its collections, ``langchain_pg_collection`` and ``langchain_pg_embedding``.
``PGVectorStore`` has one table a collection, whose further columns are metadata.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from persistence.dialect import quote_identifier
from persistence.errors import NotFoundError, ValidationError
from persistence.validation import check_text
from vectorstore.adoption import AdoptedTable
from vectorstore.distance import Numbers

EMBEDDINGS = "langchain_pg_embedding"
COLLECTION = "SELECT name FROM langchain_pg_collection WHERE name = :collection"
_NO_METADATA = ("tsvector", "vector", "halfvec", "sparsevec", "bit")


class Source(NamedTuple):
    """A SELECT of documents: ``key`` orders and tells them apart in the table's own type; the rest are ours."""

    sql: str
    parameters: dict[str, str]

    @property
    def streamed(self) -> str:
        """The SELECT for reading documents here: metadata as text, vectors as the bytes that they are sent in."""
        return (
            "SELECT key, id, content, CAST(metadata AS text) AS metadata, vector_send(embedding) AS embedding"
            f" FROM ({self.sql}) AS n"
        )


def sent_vector(found: bytes) -> Numbers:
    """Return a vector that ``vector_send`` made bytes of: behind four of a head, a float of four bytes each."""
    return np.frombuffer(found, ">f4", offset=4).astype(np.float32)


def of_collection(name: object, types: Mapping[str, str]) -> Source:
    """Return the documents of a collection of ``PGVector``; ``types`` are the columns of its table.

    Raises:
        NotFoundError: there is no such table.
        ValidationError: it was written by a version older than langchain-postgres.
    """
    parameters = {"collection": check_text("the collection", name)}
    if not types:
        raise NotFoundError(f"there is no table {EMBEDDINGS}", hint="table= names one of PGVectorStore")
    if "id" not in types:
        raise ValidationError(
            f"the table {EMBEDDINGS} has no column 'id'",
            hint="it is older than langchain-postgres: rename its uuid to id",
        )
    sql = (
        "SELECT e.id AS key, CAST(e.id AS text) AS id, coalesce(e.document, '') AS content,"
        " coalesce(nullif(CAST(e.cmetadata AS jsonb), 'null'), '{}') AS metadata,"
        " CAST(e.embedding AS vector) AS embedding"
        f" FROM {EMBEDDINGS} AS e JOIN langchain_pg_collection AS c ON c.uuid = e.collection_id"
        " WHERE c.name = :collection"
    )
    return Source(sql, parameters)


def as_table(table: object) -> AdoptedTable:
    """Return a table of ``PGVectorStore``; a name alone has the columns that this makes by itself."""
    if isinstance(table, AdoptedTable):
        return table
    name = check_text("the table", table, may_be_empty=False)
    return AdoptedTable(name=name, id="langchain_id", metadata="langchain_metadata")


def of_table(table: AdoptedTable, types: Mapping[str, str]) -> Source:
    """Return the documents of a table of ``PGVectorStore``; ``types`` are its columns.

    Each further column is a key of the metadata, before one of the same name in the metadata column, which needn't
    be there.

    Raises:
        NotFoundError: there is no such table, or no such column in it.
    """
    if not types:
        raise NotFoundError(f"there is no table {table.name!r}")
    missing = [name for name in (table.id, table.content, table.embedding) if name not in types]
    if missing:
        raise NotFoundError(
            f"the table {table.name!r} has no column {', '.join(map(repr, missing))}",
            hint="AdoptedTable(name=…, id=…, content=…, metadata=…, embedding=…) names them",
        )
    identity, content, embedding = map(quote_identifier, (table.id, table.content, table.embedding))
    metadata = "CAST('{}' AS jsonb)"
    if table.metadata in types:
        metadata = f"coalesce(nullif(CAST(t.{quote_identifier(table.metadata)} AS jsonb), 'null'), '{{}}')"
    known = (table.id, table.content, table.embedding, table.metadata)
    parameters: dict[str, str] = {}
    for place, (name, kind) in enumerate(types.items()):
        if name not in known and kind.partition("(")[0].rpartition(".")[2] not in _NO_METADATA:
            parameters[f"key_{place}"] = name
            metadata += f" || jsonb_build_object(CAST(:key_{place} AS text), t.{quote_identifier(name)})"
    sql = (
        f"SELECT t.{identity} AS key, CAST(t.{identity} AS text) AS id, coalesce(t.{content}, '') AS content,"
        f" {metadata} AS metadata, CAST(t.{embedding} AS vector) AS embedding FROM {table.quoted} AS t"
    )
    return Source(sql, parameters)

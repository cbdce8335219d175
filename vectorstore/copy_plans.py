"""Own what a copy to another database must know of collections: the table that each has in PostgreSQL, and its rows.

In a SQLite file all documents are in one table, their vectors in another; in PostgreSQL each collection has a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from persistence.copied_columns import Column, Derived, RawRow, Route
from persistence.copy_planning import CopyPlan
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConfigError
from persistence.transfers import Numbered, TablePair
from persistence.validation import check_text, check_whole
from vectorstore.distance import METRICS
from vectorstore.records import check_collection
from vectorstore.requests import check_language
from vectorstore.schema import Shape, add_key, add_words, check_shape, create_table, relation
from vectorstore.text import check_stemmed

DOCUMENTS = "holdfast_documents"
GAP_BITS = 32
"""How far apart the positions of two writes lie by chance."""


def _vector(row: RawRow) -> str:
    return str(np.frombuffer(row["embedding"], "<f4").tolist())


def _same_vector(text: str) -> bytes:
    # Both sides as the numbers that are stored, however their digits are written.
    return np.asarray(json.loads(text), "<f4").tobytes()


_EMBEDDING = Derived(_vector, "CAST(… AS text)", _same_vector)
_COLLECTIONS = "holdfast_collections"
_POSTGRESQL_ALONE = ("indexed", "index_type", "index_options", "keys", "vector_type", "columns")
# Where merging found the document there, it kept its own vector.
_ADD_VECTOR = """
INSERT INTO holdfast_vectors (position, embedding)
SELECT :position, :embedding
WHERE EXISTS (
    SELECT 1 FROM holdfast_documents
    WHERE tenant_id = :tenant_id AND collection = :collection AND namespace = :namespace AND position = :position
)
"""

_BLOB = Column("embedding", "blob")
_POSITION = Numbered(
    "position", "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'holdfast_vectors'", GAP_BITS
)
ARCHIVE_PLAN = CopyPlan(left_out=frozenset({_COLLECTIONS}), of_user={DOCUMENTS: "copied.metadata→user_id = :user"})

COPY_PLANS: Mapping[Route, CopyPlan] = {
    ("sqlite", "postgresql"): CopyPlan(
        left_out=frozenset(
            {DOCUMENTS, "holdfast_vectors", "holdfast_collection_states"}
            | {f"{_COLLECTIONS}.{name}" for name in _POSTGRESQL_ALONE}
        ),
        derived={(_COLLECTIONS, "relation"): Derived(lambda row: relation(row["collection"]))},
    ),
    ("postgresql", "postgresql"): CopyPlan(left_out=frozenset({DOCUMENTS})),
    ("postgresql", "sqlite"): CopyPlan(
        left_out=frozenset(
            # A file has the words in tables of its own, and its triggers fill them.
            {DOCUMENTS, f"{DOCUMENTS}.words", f"{_COLLECTIONS}.relation"}
            | {f"{_COLLECTIONS}.{name}" for name in _POSTGRESQL_ALONE}
        ),
        keys={DOCUMENTS: ("tenant_id", "namespace", "id")},
        after={DOCUMENTS: _ADD_VECTOR},
        triggers=frozenset({"holdfast_documents_added"}),
    ),
}


def shape_of(row: Mapping[str, Any]) -> Shape:
    """Return the shape of the vectors of a collection, by its row in either database."""
    return check_shape(row["dimensions"], row["metric"], row.get("vector_type", "vector"))


def statements(row: Mapping[str, Any]) -> list[str]:
    """Return the statements that make a collection's table, without an index of vectors."""
    made = list(create_table(row["collection"], shape_of(row)))
    if row["language"] is not None:
        made += add_words(row["collection"], row["language"])
    for key, kind in row.get("keys", {}).items():
        made += add_key(row["collection"], key, kind)
    return made


def from_sqlite(collection: str, columns: Mapping[str, Column]) -> TablePair:
    """Return how a collection of a SQLite file becomes a table of its own."""
    kept = {name: each for name, each in columns.items() if name not in ("collection", "position")}
    source = _in_file(collection, kept)
    kept["embedding"] = _BLOB
    target = relation(collection)
    return TablePair(target, "vectorstore", source, kept, target, {"embedding": _EMBEDDING})


def to_sqlite(row: Mapping[str, Any], columns: Mapping[str, Column]) -> TablePair:
    """Return how the table of a collection, by its row, becomes one of the collections of a SQLite file.

    Raises:
        CapabilityError: a file has no vectors of its type, or no search by words of its language.
    """
    collection, name = row["collection"], str(row["relation"])
    if row["vector_type"] != "vector":
        raise CapabilityError(
            f"the collection {collection!r} has vectors of the type {row['vector_type']}, which a SQLite file has not",
            hint="copy the other packages alone (--only), and embed its documents anew",
        )
    try:
        check_stemmed(row["language"])
    except CapabilityError as exc:
        exc.message = f"the collection {collection!r}: {exc.message}"
        raise
    kept = {each: column for each, column in columns.items() if each not in ("words", "embedding")}
    return TablePair(
        name,
        "vectorstore",
        quote_identifier(name),
        columns,
        DOCUMENTS,
        {"collection": Derived(lambda _: collection)},
        shown=_in_file(collection, {**kept, "collection": Column("collection", "text")}),
        beside={"embedding": _BLOB},
        numbered=_POSITION,
        made=_made(row),
    )


def archived(row: Mapping[str, Any], columns: Mapping[str, Column]) -> TablePair:
    """Return how a collection of a SQLite file goes into an archive, or comes out of one into a file."""
    collection, name = row["collection"], relation(row["collection"])
    kept = {each: column for each, column in columns.items() if each not in ("position", "embedding")}
    source = _in_file(collection, kept)
    columns = {**kept, "embedding": _BLOB}
    return TablePair(
        name,
        "vectorstore",
        source,
        columns,
        DOCUMENTS,
        shown=source,
        beside={"embedding": _BLOB},
        numbered=_POSITION,
        made=_made(row),
    )


def checked(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an archive says of a collection.

    Raises:
        ConfigError: it is no name, no dimensions or no metric of one.
    """
    row = {name: made.get(name) for name in ("collection", "dimensions", "metric", "model", "language")}
    if row["model"] is not None:
        check_text("model", row["model"])
    if row["metric"] not in METRICS:
        raise ConfigError(f"{str(row['metric'])[:80]!r} is no metric of a collection")
    return {
        **row,
        "collection": check_collection(row["collection"]),
        "dimensions": check_whole("dimensions", row["dimensions"]),
        "language": check_language(row["language"]),
    }


def _made(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("collection", "dimensions", "metric", "model", "language")}


def _in_file(collection: str, columns: Mapping[str, Column]) -> str:
    """Return what stands after FROM for the documents of a collection in a file, with their embeddings."""
    literal = "'" + collection.replace("'", "''") + "'"
    names = ", ".join(f"d.{quote_identifier(name)}" for name in columns)
    return (
        f"(SELECT {names}, v.embedding FROM holdfast_documents AS d"
        f" CROSS JOIN holdfast_vectors AS v ON v.position = d.position WHERE d.collection = {literal})"
    )

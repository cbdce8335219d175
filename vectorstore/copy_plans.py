"""Own what a copy to another database must know of collections: the table that each has in PostgreSQL, and its rows.

In a SQLite file all documents are in one table, their vectors in another; in PostgreSQL each collection has a table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from persistence.dialect import quote_identifier
from persistence.transfers import Column, CopyPlan, Derived, RawRow, Route, TablePair
from vectorstore.schema import Shape, add_key, add_words, check_shape, create_table, relation

DOCUMENTS = "holdfast_documents"


def _vector(row: RawRow) -> str:
    return str(np.frombuffer(row["embedding"], "<f4").tolist())


def _same_vector(text: str) -> bytes:
    # Both sides as the numbers that are stored, however their digits are written.
    return np.asarray(json.loads(text), "<f4").tobytes()


_EMBEDDING = Derived(_vector, "CAST(… AS text)", _same_vector)
_COLLECTIONS = "holdfast_collections"

COPY_PLANS: Mapping[Route, CopyPlan] = {
    ("sqlite", "postgresql"): CopyPlan(
        left_out=frozenset(
            {DOCUMENTS, "holdfast_vectors", "holdfast_collection_states"}
            | {f"{_COLLECTIONS}.{name}" for name in ("indexed", "index_type", "index_options", "keys", "vector_type")}
            | {f"{_COLLECTIONS}.columns"}
        ),
        derived={(_COLLECTIONS, "relation"): Derived(lambda row: relation(row["collection"]))},
    ),
    ("postgresql", "postgresql"): CopyPlan(left_out=frozenset({DOCUMENTS})),
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
    literal = "'" + collection.replace("'", "''") + "'"
    kept = {name: each for name, each in columns.items() if name not in ("collection", "position")}
    names = ", ".join(f"d.{quote_identifier(name)}" for name in kept)
    source = (
        f"(SELECT {names}, v.embedding FROM holdfast_documents AS d"
        f" CROSS JOIN holdfast_vectors AS v ON v.position = d.position WHERE d.collection = {literal})"
    )
    kept["embedding"] = Column("embedding", "blob")
    target = relation(collection)
    return TablePair(target, "vectorstore", source, kept, target, {"embedding": _EMBEDDING})

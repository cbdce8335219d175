"""The names that a collection has in PostgreSQL, and its statements with those names and types filled in."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

from persistence.config import Metric
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConfigError
from persistence.migrations import MigrationLine
from persistence.queries import fill as fill
from persistence.queries import load_queries
from vectorstore.distance import BIT_METRICS, BitMetric
from vectorstore.filters import parse_path
from vectorstore.requests import KeyType

VectorType = Literal["vector", "halfvec", "bit", "sparsevec"]

LINE = MigrationLine.of_package("vectorstore")
MINIMUM_PGVECTOR = (0, 8)
"""The first version whose index scans go on until enough rows passed the filter."""
INLINE_BYTES = 7200
"""Up to so many bytes a vector fits a page of 8 KB beside the row's keys."""
WORDS_OF = 200_000
"""So many characters of a content are searched by words: PostgreSQL holds no more than 1 MB of them."""

_NEAR: dict[str, str] = {
    "cosine": "<=>",
    "l2": "<->",
    "inner_product": "<#>",
    "l1": "<+>",
    "hamming": "<~>",
    "jaccard": "<%>",
}
_OPERATORS: dict[str, str] = {
    "cosine": "cosine_ops",
    "l2": "l2_ops",
    "inner_product": "ip_ops",
    "l1": "l1_ops",
    "hamming": "hamming_ops",
    "jaccard": "jaccard_ops",
}
_BYTES: dict[VectorType, float] = {"vector": 4, "halfvec": 2, "bit": 1 / 8, "sparsevec": 8}
_INDEXED: dict[VectorType, int] = {"vector": 2000, "halfvec": 4000, "bit": 64000, "sparsevec": 16000}
"""pgvector indexes no longer ones of a type."""


def relation(collection: str) -> str:
    """Return the name of a collection's table."""
    return f"holdfast_documents_{collection}"


def vector_index(collection: str) -> str:
    """Return the name of a collection's index of vectors."""
    return f"{relation(collection)}_vector"


@dataclass(frozen=True, slots=True)
class Shape:
    """What the vectors of a collection are: how many numbers of which type, compared by which metric."""

    dimensions: int
    metric: Metric | BitMetric
    type: VectorType

    @property
    def column(self) -> str:
        """The type of the column."""
        return f"{self.type}({self.dimensions})"

    @property
    def bytes(self) -> int:
        """The bytes that a vector takes."""
        return 8 + int(_BYTES[self.type] * self.dimensions)

    @property
    def indexed_type(self) -> VectorType:
        """The type that an index holds: a long vector is indexed with halved precision, and compared with all of it."""
        return "halfvec" if self.type == "vector" and self.dimensions > _INDEXED["vector"] else self.type

    @property
    def operators(self) -> str:
        """The operator class of an index."""
        return f"{self.indexed_type}_{_OPERATORS[self.metric]}"

    def indexed_expression(self, column: str) -> str:
        """Return what an index is made of."""
        if self.indexed_type == self.type:
            return column
        return f"(CAST({column} AS {self.indexed_type}({self.dimensions})))"

    def places(self) -> dict[str, str]:
        """Return what stands in the marked places of a statement for vectors like these."""
        found = {"near": _NEAR[self.metric]}
        if self.type == "bit":
            packed = f"CAST(binary_quantize(CAST(… AS vector)) AS {self.column})"
            found |= {"stored": packed, "query": packed, "nearest": packed}
        elif self.type != "vector":
            packed = f"CAST(CAST(… AS vector) AS {self.column})"
            found |= {"stored": packed, "query": packed, "nearest": packed}
        elif self.indexed_type != "vector":
            found["column"] = self.indexed_expression("embedding")
            found["nearest"] = f"CAST(CAST(… AS vector) AS {self.indexed_type}({self.dimensions}))"
        return found

    def shown(self, column: str) -> str:
        """Return a vector's column as it is read."""
        if self.type == "vector":
            return column
        return f"CAST({column} AS {'text' if self.type == 'bit' else 'vector'})"


def postgresql_statements(collection: str, shape: Shape) -> SimpleNamespace:
    """Return the statements on one collection; what differs from call to call is still marked."""
    places = {"table": quote_identifier(relation(collection)), **shape.places()}
    return SimpleNamespace(
        **{name: fill(text, places) for name, text in vars(load_queries("vectorstore", "postgresql")).items()}
    )


def create_table(collection: str, shape: Shape) -> tuple[str, ...]:
    """Return the statements that make a collection's table and its keys.

    A vector that fits a page stays in its row: moved out it would cost every exact search a second look-up.
    """
    table = quote_identifier(relation(collection))
    storage = "plain" if shape.bytes <= INLINE_BYTES else "external"
    convert = "NULL" if shape.type == "bit" else f"CAST(embedding AS {shape.column})"
    return (
        f"CREATE TABLE {table} (LIKE holdfast_documents INCLUDING ALL)",
        f"ALTER TABLE {table} ALTER COLUMN embedding TYPE {shape.column} USING {convert},"
        f" ALTER COLUMN embedding SET STORAGE {storage}, ALTER COLUMN metadata SET STORAGE main",
        # Beside a vector most contents would be moved out of their row, which costs a load more than it saves.
        f"ALTER TABLE {table} SET (toast_tuple_target = 4080)",
    )


def add_words(collection: str, language: str) -> tuple[str, ...]:
    """Return the statements that make a collection's contents searchable by words."""
    table = quote_identifier(relation(collection))
    made = f"to_tsvector('{language}', left(content, {WORDS_OF}))"
    return (
        f"ALTER TABLE {table} DROP COLUMN words",
        f"ALTER TABLE {table} ADD COLUMN words tsvector GENERATED ALWAYS AS ({made}) STORED",
        f"ALTER TABLE {table} ALTER COLUMN words SET STATISTICS 300",
        f"CREATE INDEX ON {table} USING gin (words)",
    )


def key_expression(column: str, steps: Sequence[str], kind: KeyType) -> str:
    """Return a declared key's value where it is of its type, elsewhere NULL; ``steps`` are SQL of its keys."""
    found = column
    for step in steps:
        found = f"({found} -> {step})"
    if kind == "number":
        return f"(CASE WHEN jsonb_typeof({found}) = 'number' THEN CAST({found} AS numeric) END)"
    return f"((CASE WHEN jsonb_typeof({found}) = 'string' THEN {found} #>> '{{}}' END) COLLATE \"C\")"


def key_index(collection: str, key: str, kind: KeyType) -> str:
    """Return the name of a declared key's index, which no other collection has, however long the names are."""
    return _key_index(collection, f"{collection} {kind} {key}")


def has_key(indexes: Collection[str], collection: str, key: str, kind: KeyType) -> bool:
    """Tell whether a declared key's index is among those of a collection's table.

    One that was made before names were told apart by the whole collection's has another name, and goes on serving.
    """
    return key_index(collection, key, kind) in indexes or _key_index(collection, f"{kind} {key}") in indexes


def _key_index(collection: str, told_apart_by: str) -> str:
    return f"{relation(collection)[:40]}_k{hashlib.sha256(told_apart_by.encode()).hexdigest()[:16]}"


def add_key(collection: str, key: str, kind: KeyType) -> tuple[str, ...]:
    """Return the statement that makes the index of a declared key."""
    name = key_index(collection, key, kind)
    expression = key_expression("metadata", [_literal(step) for step in parse_path(key)], kind)
    table = quote_identifier(relation(collection))
    return (f"CREATE INDEX IF NOT EXISTS {quote_identifier(name)} ON {table} (tenant_id, namespace, {expression})",)


def _literal(text: str) -> str:
    escaped = text.replace("'", "''").replace("\\", "\\\\")
    return f"CAST(E'{escaped}' AS text)"


def check_shape(dimensions: int, metric: Metric | BitMetric, vector_type: object) -> Shape:
    """Return the shape of a collection's vectors.

    Raises:
        ConfigError: pgvector has no such type, or no such metric for it.
    """
    for known in _BYTES:
        if vector_type == known:
            break
    else:
        raise ConfigError(f"{vector_type!r} is no type of vector", hint=", ".join(_BYTES))
    if (known == "bit") != (metric in BIT_METRICS):
        hint = "hamming or jaccard" if known == "bit" else "vector_type='bit' with hamming and jaccard"
        raise ConfigError(f"vectors of the type {known} are not compared by {metric}", hint=hint)
    return Shape(dimensions, metric, known)


def check_indexable(shape: Shape, kind: str) -> None:
    """Raise a CapabilityError where pgvector has no index of this kind for such vectors."""
    limit = _INDEXED[shape.indexed_type]
    if shape.dimensions > limit:
        raise CapabilityError(
            f"pgvector indexes vectors of up to {limit} dimensions, and these have {shape.dimensions}",
            hint="search without an index, or embed with fewer dimensions",
        )
    if kind == "ivfflat" and (shape.metric in ("l1", "jaccard") or shape.type == "sparsevec"):
        of = shape.type if shape.type == "sparsevec" else f"the metric {shape.metric}"
        raise CapabilityError(f"pgvector has no ivfflat index for {of}", hint="index_type='hnsw'")
    if kind == "ivfflat" and shape.dimensions == 1 and shape.metric in ("cosine", "inner_product"):
        raise CapabilityError(
            f"pgvector has no ivfflat index for the metric {shape.metric} of one dimension", hint="index_type='hnsw'"
        )

"""Indexes of vectors: which there are, with which settings, when one pays, and the statements that make one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from persistence.config import PgVectorConfig
from persistence.dialect import quote_identifier
from persistence.errors import ConfigError
from vectorstore.schema import Shape, check_indexable, relation, vector_index

IndexType = Literal["hnsw", "ivfflat"]

MAX_EF_SEARCH = 1000
DEFAULT_EF_SEARCH = 100
"""More than pgvector's 40, whose recall falls below 0.95 at some 50,000 rows."""
_SPARE = 1.5
"""A scan ends with the first candidates of which k pass: so many times k shall, or some nearer ones are never seen."""
_MOST_FILTERED = 400
_ALWAYS_COMPARED = 500
_CHECKING = 0.3
_FOLLOWING = 10


class BuildProgress(NamedTuple):
    """How far the making of an index is: the server's name of the phase, and its tuples, 0 where it counts none."""

    phase: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Index:
    """An index of vectors that is there."""

    name: str
    type: str
    options: Mapping[str, int]

    def effort(self, wanted: int | None, k: int, passing: float) -> tuple[str, int]:
        """Return the setting that says how hard a scan tries, and its value; ``passing`` is the share that is found."""
        if self.type == "ivfflat":
            lists = self.options.get("lists", 100)
            return "ivfflat.probes", min(wanted or max(1, math.isqrt(lists - 1) + 1), lists)
        if wanted is None:
            wanted = max(DEFAULT_EF_SEARCH, min(_MOST_FILTERED, round(_SPARE * k / max(passing, 0.001))))
        return "hnsw.ef_search", max(min(wanted, MAX_EF_SEARCH), min(k, MAX_EF_SEARCH))


def found_index(row: Mapping[str, Any]) -> Index | None:
    """Return the index that the catalog tells of."""
    if row["index_name"] is None:
        return None
    pairs = [option.split("=", 1) for option in row["index_options"] or ()]
    return Index(row["index_name"], row["index_type"], {name: int(value) for name, value in pairs if value.isdigit()})


def compares_all(passing: float, rows: float, k: int, *, by_index: bool = True) -> bool:
    """Tell whether comparing each of the documents that pass is cheaper than an index, which passes over the others.

    Comparing costs a unit a document; finding those that pass costs some more for each of all ``rows`` where no index
    of the filter's keys does it (``by_index``). A scan that wants k of them looks at k * rows / passing neighbours,
    each worth some ten units, because it follows links and reads rows in no order.
    """
    comparing = passing if by_index else passing + _CHECKING * rows
    return comparing <= max(_ALWAYS_COMPARED, _FOLLOWING * k * rows / max(passing, 1))


def index_options(config: PgVectorConfig, shape: Shape, rows: int) -> dict[str, int]:
    """Return the options of a vector index over so many rows.

    Raises:
        ConfigError: the configuration wants none.
        CapabilityError: pgvector has none for such vectors.
    """
    kind = config.index_type
    if kind == "none":
        raise ConfigError("index_type is none", hint="pass index_type='hnsw' or 'ivfflat'")
    check_indexable(shape, kind)
    options = {name: int(value) for name, value in config.index_options.items()}
    if kind == "ivfflat":  # rows / 1000 up to a million rows, their square root beyond: pgvector's own advice
        options.setdefault("lists", max(1, min(32768, rows // 1000 if rows <= 10**6 else math.isqrt(rows))))
    return options


def create_index(
    collection: str,
    shape: Shape,
    kind: str,
    options: Mapping[str, int],
    *,
    columns: Mapping[str, str] | None,
    concurrently: bool,
) -> tuple[str, ...]:
    """Return the statements that make an index of vectors, which takes the old one's place when it is whole.

    The index over metadata is made with it, if it isn't there. ``columns`` are those of an adopted table, whose indexes
    over metadata are its owner's.
    """
    name, made = vector_index(collection), f"{vector_index(collection)}_"
    listed = ", ".join(f"{option} = {int(value)}" for option, value in sorted(options.items()))
    column = quote_identifier("embedding" if columns is None else columns["embedding"])
    made_of = f"({shape.indexed_expression(column)} {shape.operators}){f' WITH ({listed})' if listed else ''}"
    how = " CONCURRENTLY" if concurrently else ""
    table = quote_identifier(relation(collection)) if columns is None else columns["table"]
    place = schema_of(columns)
    metadata = quote_identifier(f"{relation(collection)}_metadata")
    # jsonb_path_ops answers containment alone, which is what equality compiles to, from an index a third as large.
    over_metadata = f"CREATE INDEX{how} IF NOT EXISTS {metadata} ON {table} USING gin (metadata jsonb_path_ops)"
    return (
        *([over_metadata] if columns is None else []),
        f"DROP INDEX{how} IF EXISTS {place}{quote_identifier(made)}",
        f"CREATE INDEX{how} {quote_identifier(made)} ON {table} USING {quote_identifier(kind)} {made_of}",
        f"DROP INDEX{how} IF EXISTS {place}{quote_identifier(name)}",
        f"ALTER INDEX {place}{quote_identifier(made)} RENAME TO {quote_identifier(name)}",
    )


def schema_of(columns: Mapping[str, str] | None) -> str:
    """Return what stands before the name of an index: the schema of an adopted table, where it was named with one."""
    schema, dot, _ = ("" if columns is None else columns["table"]).rpartition(".")
    return schema + dot


def memory_needed(shape: Shape, rows: int) -> int:
    """Return the megabytes in which an hnsw index is made at once: vectors and links, 1,024 at most."""
    return max(64, min(1024, round(rows * (shape.bytes + 400) / 2**20 * 1.2)))

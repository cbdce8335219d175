"""The names that a collection has in PostgreSQL, and its statements with those names filled in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from persistence.config import Metric, PgVectorConfig
from persistence.dialect import quote_identifier
from persistence.errors import CapabilityError, ConfigError
from persistence.migrations import MigrationLine
from persistence.queries import load_queries

LINE = MigrationLine.of_package("vectorstore")
MINIMUM_PGVECTOR = (0, 8)
"""The first version whose index scans go on until enough rows passed the filter."""
INLINE_DIMENSIONS = 1800
"""Up to so many numbers a vector fits a page of 8 KB beside the row's keys."""
INDEXED_DIMENSIONS = 2000
"""pgvector indexes no longer ones of the type vector."""
MAX_EF_SEARCH = 1000
DEFAULT_EF_SEARCH = 100
"""More than pgvector's 40, whose recall falls below 0.95 at some 50,000 rows."""

_NEAR: dict[Metric, str] = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>", "l1": "<+>"}
_OPERATORS: dict[Metric, str] = {
    "cosine": "vector_cosine_ops",
    "l2": "vector_l2_ops",
    "inner_product": "vector_ip_ops",
    "l1": "vector_l1_ops",
}


_PLACE = re.compile(r"/\* (\w+) \*/ (\w+|[^\w\s]+)")


def fill(sql: str, places: Mapping[str, str]) -> str:
    """Return a statement with other text in its marked places: ``/* name */ word`` becomes ``places[name]``."""
    return _PLACE.sub(lambda match: places.get(match[1], match[0]), sql)


def relation(collection: str) -> str:
    """Return the name of a collection's table."""
    return f"holdfast_documents_{collection}"


def postgresql_statements(collection: str, metric: Metric) -> SimpleNamespace:
    """Return the statements on one collection; what differs from call to call is still marked."""
    places = {"table": quote_identifier(relation(collection)), "near": _NEAR[metric]}
    return SimpleNamespace(
        **{name: fill(text, places) for name, text in vars(load_queries("vectorstore", "postgresql")).items()}
    )


def create_table(collection: str, dimensions: int) -> tuple[str, ...]:
    """Return the statements that make a collection's table, its keys and its index over metadata.

    A vector that fits a page stays in its row: moved out it would cost every exact search a second look-up.
    """
    table = quote_identifier(relation(collection))
    storage = "plain" if dimensions <= INLINE_DIMENSIONS else "external"
    return (
        f"CREATE TABLE {table} (LIKE holdfast_documents INCLUDING ALL)",
        f"ALTER TABLE {table} ALTER COLUMN embedding TYPE vector({int(dimensions)}),"
        f" ALTER COLUMN embedding SET STORAGE {storage}",
    )


def create_index(collection: str, metric: Metric, kind: str, options: Mapping[str, int]) -> tuple[str, ...]:
    """Return the statements that make an index of vectors, which takes the old one's place when it is whole."""
    table, name = relation(collection), f"{relation(collection)}_vector"
    listed = ", ".join(f"{option} = {int(value)}" for option, value in sorted(options.items()))
    return (
        f"CREATE INDEX {quote_identifier(f'{name}_')} ON {quote_identifier(table)}"
        f" USING {quote_identifier(kind)} (embedding {_OPERATORS[metric]}){f' WITH ({listed})' if listed else ''}",
        f"DROP INDEX IF EXISTS {quote_identifier(name)}",
        f"ALTER INDEX {quote_identifier(f'{name}_')} RENAME TO {quote_identifier(name)}",
    )


def index_options(config: PgVectorConfig, dimensions: int, metric: Metric, rows: int) -> dict[str, int]:
    """Return the options of a vector index over so many rows.

    Raises:
        ConfigError: the configuration wants none.
        CapabilityError: pgvector has none for such vectors.
    """
    kind = config.index_type
    if kind == "none":
        raise ConfigError("index_type is none", hint="pass index_type='hnsw' or 'ivfflat'")
    if dimensions > INDEXED_DIMENSIONS:
        raise CapabilityError(
            f"pgvector indexes vectors of up to {INDEXED_DIMENSIONS} dimensions, and these have {dimensions}",
            hint="search without an index, or embed with fewer dimensions",
        )
    if kind == "ivfflat" and metric == "l1":
        raise CapabilityError("pgvector has no ivfflat index for the metric l1", hint="index_type='hnsw'")
    options = {name: int(value) for name, value in config.index_options.items()}
    if kind == "ivfflat":  # rows / 1000 up to a million rows, their square root beyond: pgvector's own advice
        options.setdefault("lists", max(1, min(32768, rows // 1000 if rows <= 10**6 else math.isqrt(rows))))
    return options


def effort(index_type: str, options: Mapping[str, Any], wanted: int | None, k: int) -> tuple[str, int]:
    """Return the setting that says how hard an index scan tries, and its value."""
    if index_type == "ivfflat":
        lists = int(options.get("lists", 100))
        return "ivfflat.probes", min(wanted or max(1, math.isqrt(lists - 1) + 1), lists)
    return "hnsw.ef_search", max(min(wanted or DEFAULT_EF_SEARCH, MAX_EF_SEARCH), min(k, MAX_EF_SEARCH))

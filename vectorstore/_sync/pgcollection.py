# Generated from ../_async/pgcollection.py by tests/unasync.py: edit that one.
"""A collection in PostgreSQL: making its table, comparing it with what a store was opened for, and what is known of it.

Protocol: a collection's table is made on first use, under an advisory lock and in one transaction with its row in
``holdfast_collections``, which says what it was made for. What can change meanwhile (its index, its size) is looked at
anew every ``REFRESH_SECONDS``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from types import SimpleNamespace
from typing import Any, cast

from persistence._sync.manager import DatabaseManager, named_connection
from persistence._sync.postgresql import PgVectorDatabase
from persistence._sync.store import SQLStore
from persistence.config import Metric
from persistence.dialect import to_json
from persistence.errors import CapabilityError, ConfigError, MigrationError, NotFoundError, PersistenceError, QueryError
from persistence.validation import check_whole, shown
from vectorstore import adoption, schema
from vectorstore._sync.store import VectorStore
from vectorstore.adoption import AdoptedTable
from vectorstore.distance import BIT_METRICS, METRICS, BitMetric, Matrix, check_halved
from vectorstore.embedders import as_embedder
from vectorstore.estimates import Estimates
from vectorstore.filters import parse_path
from vectorstore.index import Index, found_index
from vectorstore.records import CheckedDocument, Document, Embedder
from vectorstore.requests import KeyType

REFRESH_SECONDS = 60.0
BUILD_SECONDS = 3600.0
"""How long making an index, or a column of words, may take."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an opened collection; ``rows`` is the server's figure for the whole table."""

    database: PgVectorDatabase
    until: float
    rows: int
    index: Index | None
    language: str | None
    columns: Mapping[str, str] | None
    """The columns of an adopted table."""
    base: str
    """The name of the table that has the rows."""
    keys: dict[tuple[str, ...], KeyType]


class PgCollection(VectorStore, SQLStore):
    """What every vector store on PostgreSQL stands on."""

    line = schema.LINE
    metrics = (*METRICS, *BIT_METRICS)

    @named_connection
    def __init__(
        self,
        manager: DatabaseManager,
        name: str,
        *,
        collection: str = "documents",
        namespace: str = "default",
        tenant: str = "default",
        dimensions: int | None = None,
        metric: Metric | BitMetric | None = None,
        vector_type: schema.VectorType = "vector",
        embedder: Embedder | None = None,
        model: str | None = None,
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
        effort: int | None = None,
        table: AdoptedTable | None = None,
        migrate: bool = True,
    ) -> None:
        config = manager.get_pgvector(name).config
        SQLStore.__init__(self, manager, name, tenant=tenant, migrate=migrate)
        embedder = as_embedder(embedder)
        if dimensions is None and getattr(embedder, "dimensions", None) is None:
            dimensions = config.dimensions
        VectorStore.__init__(
            self,
            collection=collection,
            dimensions=dimensions,
            metric=config.distance_metric if metric is None else cast("Metric", metric),
            namespace=namespace,
            embedder=embedder,
            model=model,
            text_search=text_search,
            keys=keys,
        )
        self._effort = None if effort is None else check_whole("effort", effort)
        self._shape = schema.check_shape(self.dimensions, self.metric, vector_type)
        self._sql = schema.postgresql_statements(self.collection, self._shape)
        self._table = table
        self._known: Known | None = None
        self._estimates = Estimates()

    def _as_vector(self, value: object, what: str) -> Matrix:
        vector = super()._as_vector(value, what)
        if self._shape.type == "halfvec":
            check_halved(vector, self.metric, what)
        return vector

    def _checked(self, batch: Sequence[Document]) -> list[CheckedDocument]:
        checked = super()._checked(batch)
        if self._shape.type == "halfvec":
            for each in checked:
                check_halved(each.embedding, self.metric, f"the embedding of document {shown(each.id)}")
        return checked

    def _ready(self) -> tuple[PgVectorDatabase, Known]:
        """Return the connection and what is known of the collection, which is there and as this store wants it."""
        database = self._manager.get_pgvector(self._name)
        known = self._known
        if known is None or known.database is not database or known.until < monotonic():
            self._database()
            known = self._open(database)
            if not database.in_transaction:  # a transaction may still roll the table back
                self._known = known
        return database, known

    def _open(self, database: PgVectorDatabase) -> Known:
        self._check_extension(database)
        row = self._registered(database)
        if row is None:
            if not self._migrate:
                raise self._not_made(self._name)
            row = self._create(database)
        self._check_registered(row)
        if row["vector_type"] != self._shape.type:
            made = row["vector_type"]
            raise ConfigError(
                f"the collection {self.collection!r} was made for the type {made}, not {self._shape.type}",
                hint="open it as it was made, or choose another collection",
            )
        missing = [key for key, kind in self._keys.items() if not self._has_key(row, key, kind)]
        if missing or (self.text_search is not None and row["language"] is None):
            row = self._extend(database)
        if row["model"] is None and self.model is not None:
            database.execute(self._sql.adopt_model, {"collection": self.collection, "model": self.model})
        keys = {parse_path(key): kind for key, kind in row["keys"].items()}
        columns = row["columns"]
        if columns is not None:
            self._sql = SimpleNamespace(**{**vars(self._sql), **adoption.writes(vars(self._sql), columns)})
        until = monotonic() + REFRESH_SECONDS
        return Known(database, until, row["rows"], found_index(row), row["language"], columns, row["base"], keys)

    def _check_extension(self, database: PgVectorDatabase) -> None:
        version = (database.capabilities()).vector or (0,)
        if version < schema.MINIMUM_PGVECTOR:
            found, wanted = (".".join(map(str, each)) for each in (version, schema.MINIMUM_PGVECTOR))
            raise CapabilityError(
                f"pgvector {found} is too old, {wanted} is needed",
                hint="install it on the server and run: ALTER EXTENSION vector UPDATE",
                connection=self._name,
            )

    def _registered(self, database: PgVectorDatabase) -> dict[str, Any] | None:
        """Return what the collection was made for; None where it, or its table, isn't there."""
        wanted = {"collection": self.collection, "operators": self._shape.operators}
        row = database.fetch_one(self._sql.collection, wanted)
        return row if row is not None and row["present"] else None

    def _create(self, database: PgVectorDatabase) -> dict[str, Any]:
        """Make the collection's table, or find that another program just has."""
        with database.transaction():
            database.execute(self._sql.lock_collections)
            row = self._registered(database)
            if row is None:
                columns = None if self._table is None else self._columns(database, self._table)
                database.execute(
                    self._sql.register,
                    {
                        "collection": self.collection,
                        "relation": schema.relation(self.collection),
                        "dimensions": self.dimensions,
                        "metric": self.metric,
                        "model": self.model,
                        "vector_type": self._shape.type,
                        "columns": None if columns is None else to_json(columns),
                    },
                )
                statements = schema.create_table(self.collection, self._shape)
                for statement in statements if columns is None else (adoption.create_view(self.collection, columns),):
                    database.execute(statement, prepare=False)
                row = self._registered(database)
        return row or {}

    def _columns(self, database: PgVectorDatabase, table: AdoptedTable) -> dict[str, str]:
        """Return what is remembered of a table that is adopted."""
        rows = database.fetch_all(self._sql.column_types, {"table": table.quoted})
        if not rows:
            raise NotFoundError(f"there is no table {table.name!r} to adopt", connection=self._name)
        types = {row["name"]: row["type"] for row in rows}
        table.check(types, self._shape)
        return table.record(types, self._tenant)

    def _extend(self, database: PgVectorDatabase) -> dict[str, Any]:
        """Add the text search and the declared keys that the collection hasn't yet."""
        with database.transaction():
            database.execute(self._sql.lock_collections)
            row = self._registered(database) or {}
            if row["columns"] is not None:
                raise adoption.refuse("text search and no declared keys", self.collection)
            statements: list[str] = []
            if self.text_search is not None and row["language"] is None:
                statements += schema.add_words(self.collection, self.text_search)
            for key, kind in self._keys.items():
                if key in row["keys"] and row["keys"][key] != kind:
                    raise ConfigError(
                        f"the key {key!r} of {self.collection!r} is declared as {row['keys'][key]}, not {kind}"
                    )
                if not self._has_key(row, key, kind):
                    statements += schema.add_key(self.collection, key, kind)
            if statements and not self._migrate:
                raise MigrationError(
                    f"the collection {self.collection!r} has no text search, or not each of the declared keys, yet",
                    hint="open it once with migrate=True, as its table's owner",
                    connection=self._name,
                )
            for statement in statements:
                try:
                    database.execute(statement, timeout=BUILD_SECONDS, prepare=False)
                except QueryError as exc:
                    raise self._no_language(exc) from exc
            added = {"collection": self.collection, "language": self.text_search, "keys": to_json(self._keys)}
            database.execute(self._sql.extend, added)
            return self._registered(database) or {}

    def _has_key(self, row: dict[str, Any], key: str, kind: KeyType) -> bool:
        """Tell whether a key is declared as this type, and has its index, where this store may make one."""
        is_there = not self._migrate or schema.has_key(row["indexes"], self.collection, key, kind)
        return row["keys"].get(key) == kind and is_there

    def _no_language(self, exc: PersistenceError) -> PersistenceError:
        if exc.code != "42704":
            return exc
        return ConfigError(
            f"the server has no text search in {self.text_search!r}", hint="SELECT cfgname FROM pg_ts_config"
        )

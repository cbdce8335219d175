# Generated from ../_async/pgindex.py by tests/unasync.py: edit that one.
"""Making the index of a collection's vectors in PostgreSQL, with the server's parallel workers, and watching it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from persistence._sync.compat import Parallel, sleep
from persistence._sync.postgresql import PgVectorDatabase
from persistence.config import PgVectorConfig
from persistence.dialect import quote_identifier
from persistence.errors import StorageFullError, TransactionError
from persistence.validation import check_whole
from vectorstore import index, schema
from vectorstore._sync.pgcollection import BUILD_SECONDS
from vectorstore._sync.pgsearch import PgSearch

WATCH_SECONDS = 0.25
"""How often a build tells how far it is."""


class PgIndexes(PgSearch):
    """The index of vectors of a store on PostgreSQL."""

    def build_index(
        self,
        *,
        index_type: index.IndexType | None = None,
        options: Mapping[str, int] | None = None,
        concurrently: bool = False,
        workers: int | None = None,
        memory: int | None = None,
        progress: Callable[[index.BuildProgress], object] | None = None,
    ) -> None:
        """Make the index of vectors, or make it anew, as the connection is configured unless told otherwise.

        Call it after a load; ivfflat also after much has changed. The index over metadata, by which equality filters
        find their rows, is made with it where it isn't there. Searches go on meanwhile, by the old index where there is
        one, and writes wait. With ``concurrently`` writes go on too, it takes about twice as long, and the server's own
        settings hold. ``workers`` is how many processes help (None: as the server is configured), ``memory`` how many
        megabytes it may take (None: what the index needs, 1 GB at most): an hnsw index that doesn't fit is made many
        times slower. ``progress`` is told four times a second how far it is.

        Raises:
            ConfigError: the configuration wants none, or the options are wrong.
            CapabilityError: pgvector has none for such vectors.
            TransactionError: ``concurrently`` or ``progress`` in a transaction.
        """
        database, _ = self._ready()
        if (concurrently or progress is not None) and database.in_transaction:
            raise TransactionError(
                "an index can't be made concurrently, or watched, in a transaction",
                operation="build_index",
                connection=self._name,
            )
        if workers is not None:
            check_whole("workers", workers, least=0, most=1024)
        if memory is not None:
            check_whole("memory", memory, most=2**20)
        config = database.config
        if index_type is not None or options is not None:
            kind = index_type or config.index_type
            kept = config.index_options if kind == config.index_type else {}
            config = dataclasses.replace(config, index_type=kind, index_options=kept if options is None else options)
        index.index_options(config, self._shape, 0)  # what can't be is refused before anything is waited for

        def build() -> None:
            if concurrently:
                self._build_concurrently(database, config)
            else:
                self._build_with(database, config, workers, memory)

        (build() if progress is None else self._watched(database, build, progress))
        self._known = None  # it is read again before the next call
        self._estimates.clear()

    def drop_index(self) -> bool:
        """Drop the index of vectors, so that a search compares all; False when there is none."""
        database, known = self._ready()
        if known.index is None:
            return False
        name = index.schema_of(known.columns) + quote_identifier(known.index.name)
        database.execute(f"DROP INDEX IF EXISTS {name}", prepare=False)
        database.execute(self._sql.mark_indexed, {"collection": self.collection, "indexed": False})
        self._known = None
        return True

    def _build_with(
        self, database: PgVectorDatabase, config: PgVectorConfig, workers: int | None, memory: int | None
    ) -> None:
        """Make the index in a transaction; once more without helpers, where there is no shared memory for them."""
        try:
            self._build(database, config, workers, memory)
        except StorageFullError:
            if workers == 0 or database.in_transaction:
                raise
            self._build(database, config, 0, memory)

    def _build(
        self, database: PgVectorDatabase, config: PgVectorConfig, workers: int | None, memory: int | None
    ) -> None:
        with database.transaction():
            rows = self._analysed(database)
            needed = index.memory_needed(self._shape, rows) if memory is None else memory
            database.execute(self._sql.limit_memory, {"least": memory is None, "megabytes": needed})
            if workers is not None:
                database.execute(self._sql.limit_workers, {"workers": str(workers)})
            for statement in self._statements(config, rows, concurrently=False):
                database.execute(statement, timeout=BUILD_SECONDS, prepare=False)
            database.execute(self._sql.mark_indexed, {"collection": self.collection, "indexed": True})

    def _build_concurrently(self, database: PgVectorDatabase, config: PgVectorConfig) -> None:
        rows = self._analysed(database)
        for statement in self._statements(config, rows, concurrently=True):
            database.execute(statement, timeout=BUILD_SECONDS, prepare=False)
        database.execute(self._sql.mark_indexed, {"collection": self.collection, "indexed": True})

    def _analysed(self, database: PgVectorDatabase) -> int:
        """Have the server look at the table, and return how many rows it has."""
        _, known = self._ready()
        table = quote_identifier(known.base) if known.columns is None else known.columns["table"]
        database.execute(f"ANALYZE {table}", timeout=BUILD_SECONDS, prepare=False)
        row = self._registered(database) or {"rows": 0}
        return int(row["rows"])

    def _statements(self, config: PgVectorConfig, rows: int, *, concurrently: bool) -> tuple[str, ...]:
        _, known = self._ready()
        chosen = index.index_options(config, self._shape, rows)
        return index.create_index(
            self.collection,
            self._shape,
            config.index_type,
            chosen,
            columns=known.columns,
            concurrently=concurrently,
        )

    def _watched(
        self,
        database: PgVectorDatabase,
        build: Callable[[], Any],
        progress: Callable[[index.BuildProgress], object],
    ) -> None:
        done = False

        def watched() -> None:
            nonlocal done
            try:
                build()
            finally:
                done = True

        _, known = self._ready()
        base = schema.relation(self.collection) if known.columns is None else known.columns["table"]

        def watch() -> None:
            while not done:
                row = database.fetch_apart(self._sql.index_progress, {"relation": base})
                if row is not None:
                    progress(index.BuildProgress(row["phase"], row["done"], row["total"]))
                sleep(WATCH_SECONDS)

        parallel = Parallel()
        try:
            parallel.run([watched, watch])
        finally:
            parallel.close()

# Generated from ../_async/sqlite_vectors.py by tests/unasync.py: edit that one.
"""What a process holds in memory of the vectors in a SQLite file, brought up to date with it before it is used.

Protocol: triggers raise a namespace's generation with each change of its documents. A copy belongs to one generation;
who finds another one in the file has the copy brought up to date, which reads only what has changed, in one read
transaction. Positions of vectors are never used twice and lie apart by chance, so they tell whether a copy, or a matrix
file beside the database, is of the history that the transaction sees: it may be an older state, or somebody has set the
file back. ``_lock`` is held while a copy is brought up to date, always behind the connection; a copy made in a
transaction that may still be rolled back is never shared.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from persistence._sync.compat import Lock, in_background
from persistence._sync.executor import Row
from persistence._sync.sqlite import SQLiteDatabase
from persistence.config import Metric
from persistence.errors import CorruptError
from vectorstore.distance import Matrix, Positions
from vectorstore.kept import KeptMetadata
from vectorstore.matrix import NEVER, VectorMatrix
from vectorstore.matrix_file import matrix_path, open_matrix, save_matrix

PAGE_ROWS = 5000
"""How many vectors are read at once, so that a large collection is no single long statement."""
MAX_NAMESPACES = 64
"""Of so many namespaces the vectors stay in memory, those that were searched last."""
MAX_FILTERS = 32
KEPT_CHARACTERS = 8_000_000
"""So many characters of documents that were found stay in memory for each namespace, until something changes."""
SAVED_NUMBERS = 2_000_000
"""From so many numbers on the matrix is kept in a file: fewer are read from the database as quickly."""
_GROWTH = 1.25


Known = tuple[str, str, KeptMetadata]
"""A document's id, content and metadata."""


@dataclass(slots=True)
class Copy:
    """The vectors of a namespace as of one generation of one database."""

    database: SQLiteDatabase
    generation: int
    removals: int
    matrix: VectorMatrix
    saved_rows: int = 0
    is_old: bool = False
    passing: OrderedDict[str, Positions] = field(default_factory=OrderedDict)
    """The positions that pass a filter, by the filter."""
    documents: dict[int, Known] = field(default_factory=dict)
    characters: int = 0

    def keep(self, rows: list[Row]) -> None:
        """Keep documents that were read, which are good as long as the copy is."""
        for row in rows:
            if row["position"] is not None and row["position"] not in self.documents:
                self.characters += len(row["content"]) + len(row["metadata"])
                if self.characters > KEPT_CHARACTERS:
                    self.documents, self.characters = {}, 0
                    return
                self.documents[row["position"]] = (row["id"], row["content"], KeptMetadata(row["metadata"]))

    def remember(self, key: str, positions: Positions) -> None:
        """Keep what passes a filter, which is good as long as the copy is."""
        self.passing[key] = positions
        if len(self.passing) > MAX_FILTERS:
            self.passing.popitem(last=False)


class VectorCopies:
    """The copies of one collection of one tenant, by namespace."""

    def __init__(
        self, sql: SimpleNamespace, own: dict[str, str], dimensions: int, metric: Metric, *, keep_file: bool
    ) -> None:
        self._sql = sql
        self._own = own
        self._dimensions = dimensions
        self._metric: Metric = metric
        self._keep_file = keep_file
        self._lock = Lock()
        self._copies: OrderedDict[str, Copy] = OrderedDict()

    def known(self, database: SQLiteDatabase, namespace: str) -> Copy | None:
        """Return a copy that may be out of date, None where there is none that may not be."""
        copy = self._copies.get(namespace)
        return None if copy is None or copy.database is not database or copy.is_old else copy

    def outdate(self, namespace: str) -> None:
        """Note that this process has written, which saves looking through a copy that is old for certain."""
        copy = self._copies.get(namespace)
        if copy is not None:
            copy.is_old = True

    def brought_up_to_date(self, database: SQLiteDatabase, namespace: str, *, share: bool) -> Copy:
        """Return a copy of what the transaction sees that we are in; ``share`` it where that is committed."""
        own = {**self._own, "namespace": namespace}
        state = database.fetch_one(self._sql.state, own) or {"generation": 0, "removals": 0}
        with self._lock:
            copy = self._copies.get(namespace)
            if copy is not None and copy.database is database and copy.generation == state["generation"]:
                copy.is_old = False
                return copy
            if copy is None or copy.database is not database:
                copy = self._opened(database, own)
            matrix = self._caught_up(database, own, copy, state["removals"])
            made = Copy(database, state["generation"], state["removals"], matrix, copy.saved_rows)
            if share:
                self._copies[namespace] = made
                self._copies.move_to_end(namespace)
                if len(self._copies) > MAX_NAMESPACES:
                    self._copies.popitem(last=False)
            return made

    def _empty(self, database: SQLiteDatabase) -> Copy:
        return Copy(database, 0, 0, VectorMatrix(self._dimensions, self._metric))

    def _caught_up(
        self, database: SQLiteDatabase, own: dict[str, str], copy: Copy, removals: int
    ) -> VectorMatrix:
        matrix = copy.matrix
        if matrix.size and not (copy.removals == removals and self._knows_last(database, own, matrix)):
            row = database.fetch_one(self._sql.positions, {**own, "last": int(matrix.positions[-1])})
            stays = as_positions(row)
            shared = not len(np.setdiff1d(stays, matrix.positions, assume_unique=True))
            matrix = matrix.kept(stays) if shared else VectorMatrix(self._dimensions, self._metric)
        after = int(matrix.positions[-1]) if matrix.size else 0
        while True:
            rows = database.fetch_all(self._sql.vectors_after, {**own, "after": after, "limit": PAGE_ROWS})
            if rows:
                after = rows[-1]["position"]
                places = np.fromiter((row["position"] for row in rows), np.int64, len(rows))
                ends = [NEVER if row["expires_at"] is None else max(1, row["expires_at"]) for row in rows]
                matrix = matrix.appended(places, self._vectors(rows, database.name), np.array(ends, np.int64))
            if len(rows) < PAGE_ROWS:
                return matrix

    def _knows_last(self, database: SQLiteDatabase, own: dict[str, str], matrix: VectorMatrix) -> bool:
        """Tell whether the last vector of a copy is in the file, which it isn't where that went another way since."""
        there = matrix.positions[matrix.ends != 0]
        if not len(there):
            return True
        return bool(database.fetch_value(self._sql.knows, {**own, "position": int(there[-1])}))

    def _vectors(self, rows: list[Row], connection: str) -> Matrix:
        stored = [row["embedding"] for row in rows]
        if {len(each) for each in stored} != {4 * self._dimensions}:
            raise CorruptError(
                f"a vector of {self._own['collection']!r} has not {self._dimensions} numbers",
                hint="the file was changed by other means: restore a backup",
                connection=connection,
            )
        found = np.frombuffer(b"".join(stored), "<f4").astype(np.float32)
        return found.reshape(len(stored), self._dimensions)

    def _file(self, database: SQLiteDatabase, own: dict[str, str]) -> Path | None:
        if not self._keep_file or database.config.path == ":memory:":
            return None
        return matrix_path(database.config.path, **own)

    def _opened(self, database: SQLiteDatabase, own: dict[str, str]) -> Copy:
        """Return what the matrix file holds, if it is of this database; an empty copy otherwise."""
        copy, path = self._empty(database), self._file(database, own)
        try:
            saved = None if path is None else open_matrix(path, self._dimensions, self._metric)
        except OSError:
            return copy  # it is a cache: the vectors are in the database too
        if saved is None:
            return copy
        last = int(saved.positions[-1])
        row: dict[str, Any] = database.fetch_one(self._sql.fingerprint, {**own, "last": last}) or {}
        as_saved = (row["rows"], row["places"]) == (saved.size, int(_places(saved.positions)))
        if as_saved:
            removals = (database.fetch_one(self._sql.state, own) or {"removals": 0})["removals"]
        else:
            removals = -1  # other than any: its positions are compared one by one
        return Copy(database, 0, removals, saved, saved.size)

    def save(self, copy: Copy, namespace: str) -> None:
        """Write the matrix file where there is none yet, or where much has changed since."""
        path, matrix = self._file(copy.database, {**self._own, "namespace": namespace}), copy.matrix
        rows = matrix.size - matrix.gone
        unchanged = copy.saved_rows and copy.saved_rows / _GROWTH < rows < copy.saved_rows * _GROWTH
        if path is None or unchanged or rows * self._dimensions < SAVED_NUMBERS or copy.database.config.read_only:
            return
        copy.saved_rows = rows
        try:
            in_background(partial(save_matrix, path, matrix))
        except OSError:
            return  # a full disk or a folder that others own: the vectors are read from the database


def as_positions(row: Row | None) -> Positions:
    """Return the positions of a row that has them as one JSON text, ascending."""
    found = np.array(json.loads(row["positions"]) if row is not None else [], np.int64)
    found.sort()
    return found


def _places(positions: Positions) -> int:
    return int((positions % 2147483647).sum())

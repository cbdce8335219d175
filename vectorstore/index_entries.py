"""What a file index holds in memory: ids with their vectors and metadata, changed and searched.

Protocol: ``_mutex`` guards the fields; a matrix never changes, a change puts another in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from threading import RLock
from typing import Any

import numpy as np

from persistence.config import Metric
from persistence.errors import NotFoundError, ValidationError
from persistence.validation import check_id, check_whole, shown
from vectorstore.distance import (
    Matrix,
    Numbers,
    Positions,
    as_vector,
    as_vectors,
    check_dimensions,
    check_metric,
    score,
)
from vectorstore.filters import Filter, matches, parse_filter
from vectorstore.graph import Graph
from vectorstore.index_files import Snapshot
from vectorstore.index_journal import Change
from vectorstore.matrix import NEVER, VectorMatrix
from vectorstore.records import Vector, metadata_value
from vectorstore.requests import check_min_score

_BLOCK_ROWS = 4096


@dataclass(frozen=True, slots=True)
class IndexMatch:
    """An entry that a search found; ``score`` and ``distance`` are those of ``SearchResult``."""

    id: str
    score: float
    distance: float
    metadata: dict[str, Any]


class IndexEntries:
    """The entries of an index; ``dimensions`` and ``metric`` are those given, until others are loaded."""

    def __init__(self, dimensions: int | None, metric: Metric | None) -> None:
        self._given_dimensions = None if dimensions is None else check_dimensions(dimensions)
        self._given_metric: Metric | None = None if metric is None else check_metric(metric)
        self._mutex = RLock()

    def _empty(self) -> None:
        self.dimensions: int | None = self._given_dimensions
        self.metric: Metric = self._given_metric or "cosine"
        self._matrix: VectorMatrix | None = None
        self._ids: list[str] = []
        self._rows: dict[str, int] | None = {}
        self._saved: Snapshot | None = None
        self._graph: Graph | None = None
        self._metadata: dict[int, str] = {}

    def __len__(self) -> int:
        return 0 if self._matrix is None else self._matrix.size - self._matrix.gone

    def __contains__(self, id: object) -> bool:
        with self._mutex:
            return id in self._by_id()

    def _by_id(self) -> dict[str, int]:
        """Return the place of each id; made when it is first asked for, since a search needs none."""
        if self._rows is None:
            self._rows = {id: place for place, id in enumerate(self._ids)}
        return self._rows

    @property
    def ids(self) -> list[str]:
        """All ids, in the order in which they were added."""
        with self._mutex:
            return list(self._by_id())

    def _apply(self, change: Change) -> None:
        """Make a change in memory."""
        matrix = self._matrix
        if matrix is None:
            matrix = VectorMatrix(self.dimensions or 0, self.metric)
        places = self._by_id()
        gone = [places.pop(id) for id in change.ids if id in places]
        if gone:
            matrix = matrix.without(np.array(gone, np.int64))
        if change.vectors is not None:
            first = len(self._ids)
            added = np.arange(first, first + len(change.ids))
            matrix = matrix.appended(added, change.vectors, np.full(len(added), NEVER))
            self._ids += change.ids
            for place, id, text in zip(added.tolist(), change.ids, change.metadata, strict=True):
                places[id] = place
                if text:
                    self._metadata[place] = text
        self._matrix = matrix

    def get(self, id: str) -> tuple[Matrix, dict[str, Any]] | None:
        """Return an entry's vector and metadata, or None when there is none of that id."""
        with self._mutex:
            place = self._by_id().get(check_id("the id", id))
            if place is None or self._matrix is None:
                return None
            return self._matrix.vectors_at(np.array([place]))[0].copy(), metadata_value(self._texts()(place))

    def _texts(self) -> Callable[[int], str]:
        """Return what gives the metadata at a place, whatever is loaded later."""
        saved, later = self._saved, self._metadata
        known = 0 if saved is None else len(saved.ids)

        def text(place: int) -> str:
            return (saved.metadata[place] if saved is not None and place < known else later.get(place)) or "{}"

        return text

    def search(
        self,
        query: Vector,
        k: int = 10,
        *,
        filter: Filter | None = None,
        min_score: float | None = None,
        exact: bool = False,
    ) -> list[IndexMatch]:
        """Return the ``k`` entries that are most similar to a vector, best first, equal ones by id.

        ``filter`` reads the metadata of each entry (see ``vectorstore.filters``), ``min_score`` leaves out those below.
        A graph, where the version has one and FAISS is installed, finds nearly all of the nearest among those that
        were saved; what was added since, and what passes a filter, is compared. ``exact=True`` compares all.

        Raises:
            ValidationError: the query is no such vector, ``k`` is below 1, or the filter is wrong.
            NotFoundError: nothing was loaded, and nothing added. One that was emptied gives an empty list.
        """
        k = check_whole("k", k)
        least = check_min_score(min_score)
        node = None if filter is None else parse_filter(filter)
        with self._mutex:
            matrix = self._matrix
            if matrix is None:
                raise NotFoundError(
                    "there is no index to search: nothing was loaded, and nothing added",
                    hint="load(name) first, which says False where nothing was saved, or add(ids, vectors)",
                    operation="search",
                )
            vector = as_vector(query, matrix.vectors.shape[1], self.metric, "the query")
            ids, text = self._ids, self._texts()
            among: Positions | None = None
            graph = None if exact or node is not None else self._graph
            if node is not None:
                places = sorted(self._by_id().values())
                among = np.array([each for each in places if matches(node, metadata_value(text(each)))], np.int64)
        positions, distances = _nearest(matrix, graph, vector, k, among)
        found = [
            IndexMatch(ids[place], score(distance, self.metric), distance, metadata_value(text(place)))
            for place, distance in zip(positions.tolist(), distances.tolist(), strict=True)
        ]
        found.sort(key=lambda each: (each.distance, each.id))
        return [each for each in found[:k] if least is None or each.score >= least]

    def _blocks(self, places: list[int]) -> Iterator[Matrix]:
        if self._matrix is not None:
            for start in range(0, len(places), _BLOCK_ROWS):
                yield self._matrix.vectors_at(np.array(places[start : start + _BLOCK_ROWS], np.int64))


def _nearest(
    matrix: VectorMatrix, graph: Graph | None, vector: Matrix, k: int, among: Positions | None
) -> tuple[Positions, Numbers]:
    """Return positions and distances of the nearest, by the graph and what isn't in it, or by comparing all."""
    if graph is not None:
        near = graph.nearest(vector, k)
        among = near[matrix.has(near)]
        if len(among) >= min(k, graph.rows):
            later = matrix.positions[np.searchsorted(matrix.positions, graph.rows) :]
            among = np.concatenate([among, later])
        else:  # much of what it knows is gone
            among = None
    positions, distances, _ = matrix.search(vector, k, 0, among)
    return positions, distances


def checked_vectors(ids: list[str], rows: list[Any], dimensions: int, metric: Metric) -> Matrix:
    """Return rows of vectors as they are stored, shape (n, dimensions); an error names the id of the wrong one."""
    if all(type(row) is np.ndarray and row.dtype.kind == "f" and row.shape == (dimensions,) for row in rows):
        found = as_vectors(rows, metric)
        if found is not None:
            return found
    checked = [
        as_vector(row, dimensions, metric, f"the vector of {shown(id)}") for id, row in zip(ids, rows, strict=True)
    ]
    return np.stack(checked)


def listed(what: str, given: Any) -> list[Any]:
    """Return what is given as a list; one text or mapping is none."""
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        raise ValidationError(f"{what} is one {type(given).__name__}", hint=f"give a list of {what}")
    return list(given)


def width_of(id: str, vector: Any) -> int:
    """Return how many numbers the vector of an id has."""
    try:
        return len(vector)
    except TypeError:
        raise ValidationError(f"the vector of {shown(id)} is no list of numbers") from None


def stored_metadata(text: str) -> str:
    """Return metadata as it is kept: nothing for an empty object."""
    return "" if text == "{}" else text

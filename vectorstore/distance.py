"""Distances and scores: one meaning on every backend, and exact search over a matrix for those that have no index.

The definitions are pgvector's: ``<=>`` is 1 - cosine, ``<#>`` the negative inner product, ``<->`` the euclidean and
``<+>`` the taxicab distance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from persistence.config import Metric
from persistence.errors import ConfigError, ValidationError

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Numbers = np.ndarray[Any, np.dtype[Any]]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "inner_product", "l1")
_LARGEST = 8e37
"""The largest squared length: a sum of two such vectors can still be squared in float32, as pgvector does."""
_SMALLEST = 1e-30
"""The smallest squared length whose parts float32 still tells from 0."""
_MARGIN = 1e-5
"""More than float32 rounding, relative to the lengths: nothing nearer is lost by a first pass in float32."""


def check_metric(metric: object) -> Metric:
    """Return a metric's name.

    Raises:
        ConfigError: it is none.
    """
    for known in METRICS:
        if metric == known:
            return known
    raise ConfigError(f"{metric!r} is no distance metric", hint=", ".join(METRICS))


def check_dimensions(dimensions: object) -> int:
    """Return a number of dimensions.

    Raises:
        ConfigError: it is not within 1 and 16,000.
    """
    if isinstance(dimensions, bool) or not isinstance(dimensions, int) or not 1 <= dimensions <= 16000:
        raise ConfigError(f"dimensions {dimensions!r} is no whole number within 1 and 16000")
    return dimensions


def as_vector(value: object, dimensions: int, metric: Metric, what: str) -> Matrix:
    """Return a list, tuple or array of numbers as a float32 array of its own, of shape ``(dimensions,)``.

    Raises:
        ValidationError: it is no such vector, has NaN or an infinity, or no direction where the metric is cosine;
            the message names ``what``.
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):  # lists of different lengths
        raise ValidationError(f"{what} is no list of numbers") from None
    if found.ndim != 1 or (found.dtype.kind not in "fiu" and found.size):
        raise ValidationError(f"{what} is no list of numbers")
    if found.shape[0] != dimensions:
        raise ValidationError(
            f"{what} has {found.shape[0]} dimensions, and the collection has {dimensions}",
            hint="embed it with the model that the collection was made for",
        )
    with np.errstate(over="ignore"):
        vector = found.astype(np.float32)
    length = float(np.einsum("i,i->", vector, vector, dtype=np.float64))
    if not np.isfinite(length):
        raise ValidationError(f"{what} has a NaN or an infinity")
    if length > _LARGEST:
        raise ValidationError(f"{what} is too long for float32 arithmetic", hint="normalise it")
    if metric == "cosine" and length < _SMALLEST:
        raise ValidationError(f"{what} has length 0, and so no cosine", hint="use the metric l2 or inner_product")
    return vector


def score(distance: float, metric: Metric) -> float:
    """Return the similarity that a distance stands for: higher is better."""
    if metric == "cosine":
        return max(-1.0, min(1.0, 1.0 - distance))
    if metric == "inner_product":
        return 0.0 - distance
    return 1.0 / (1.0 + distance)


def distances(vectors: Matrix, query: Matrix, metric: Metric) -> Numbers:
    """Return the distance of each row, shape ``(n,)``, in float64; equal rows have equal distances."""
    rows, wanted = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l1":
        return np.asarray(np.abs(rows - wanted).sum(axis=1))
    if metric == "l2":
        rows -= wanted
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))
    product = np.einsum("ij,j->i", rows, wanted)
    if metric == "inner_product":
        return np.asarray(-product)
    lengths = np.einsum("ij,ij->i", rows, rows) * np.einsum("j,j->", wanted, wanted)
    return np.asarray(1.0 - np.clip(product / np.sqrt(lengths), -1.0, 1.0))


class VectorMatrix:
    """Vectors by position: rows sorted by an ever growing number, searched exactly.

    It never changes: what adds or removes rows returns another one. Rows are added in spare room behind those that an
    older matrix looks at, so adding a few to many copies only the few; ``appended`` may be called once on each matrix
    at a time, which its owner's lock sees to.
    """

    def __init__(self, dimensions: int, capacity: int = 0) -> None:
        self._positions = np.empty(capacity, np.int64)
        self._vectors = np.empty((capacity, dimensions), np.float32)
        self._squares = np.empty(capacity, np.float32)
        self._filled = [0]
        self.size = 0

    @property
    def positions(self) -> Positions:
        """The rows' positions, ascending, shape ``(size,)``."""
        return self._positions[: self.size]

    def appended(self, positions: Positions, vectors: Matrix) -> VectorMatrix:
        """Return a matrix with these rows behind; their positions are higher than any here."""
        size = self.size + len(positions)
        made = VectorMatrix.__new__(VectorMatrix)
        made.size = size
        if size > len(self._positions) or self._filled[0] != self.size:
            made._grow(self, max(size, int(1.5 * self.size)))
        else:
            made._positions, made._vectors = self._positions, self._vectors
            made._squares, made._filled = self._squares, self._filled
        made._positions[self.size : size] = positions
        made._vectors[self.size : size] = vectors
        made._squares[self.size : size] = np.einsum("ij,ij->i", vectors, vectors)
        made._filled[0] = size
        return made

    def _grow(self, old: VectorMatrix, capacity: int) -> None:
        self._positions = np.empty(capacity, np.int64)
        self._vectors = np.empty((capacity, old._vectors.shape[1]), np.float32)
        self._squares = np.empty(capacity, np.float32)
        self._filled = [0]
        for new, given in (
            (self._positions, old._positions),
            (self._vectors, old._vectors),
            (self._squares, old._squares),
        ):
            new[: old.size] = given[: old.size]

    def kept(self, positions: Positions) -> VectorMatrix:
        """Return a matrix of only the rows whose positions are given."""
        mask = np.isin(self.positions, positions)
        made = VectorMatrix(self._vectors.shape[1])
        made._positions = self.positions[mask]
        made._vectors = self._vectors[: self.size][mask]
        made._squares = self._squares[: self.size][mask]
        made.size = len(made._positions)
        made._filled = [made.size]
        return made

    def search(
        self, query: Matrix, k: int, metric: Metric, among: Positions | None = None
    ) -> tuple[Positions, Numbers]:
        """Return positions and distances of the k nearest rows, nearest first, and of all that tie with the last.

        ``among`` limits it to rows of these positions. A first pass in float32 leaves the candidates, whose distances
        are then taken in float64.
        """
        positions, vectors, squares = self.positions, self._vectors[: self.size], self._squares[: self.size]
        if among is not None:
            rows = np.searchsorted(positions, among)
            positions, vectors, squares = positions[rows], vectors[rows], squares[rows]
        if len(positions) > k:
            near = _candidates(vectors, squares, query, k, metric)
            positions, vectors = positions[near], vectors[near]
        exact = distances(vectors, query, metric)
        if len(exact) > k:
            near = np.flatnonzero(exact <= np.partition(exact, k - 1)[k - 1])
            positions, exact = positions[near], exact[near]
        order = np.argsort(exact, kind="stable")
        return positions[order], exact[order]


def _candidates(vectors: Matrix, squares: Numbers, query: Matrix, k: int, metric: Metric) -> Numbers:
    """Return the rows among which the k nearest and their ties are."""
    rough = _ROUGH[metric](vectors, squares, query)
    if metric == "cosine":
        margin = _MARGIN
    elif metric == "l1":
        margin = _MARGIN * float(rough.max())
    else:
        own = float(np.einsum("i,i->", query, query))
        largest = float(squares.max())
        margin = 2 * _MARGIN * max(own, largest) if metric == "l2" else _MARGIN * (own * largest) ** 0.5
    return np.flatnonzero(rough <= np.partition(rough, k - 1)[k - 1] + 2 * margin)


def _rough_cosine(vectors: Matrix, squares: Numbers, query: Matrix) -> Numbers:
    length = np.sqrt(np.einsum("i,i->", query, query))
    return np.asarray(-np.einsum("ij,j->i", vectors, query / length) / np.sqrt(squares))


def _rough_product(vectors: Matrix, squares: Numbers, query: Matrix) -> Numbers:
    # einsum never starts BLAS's threads, which fall over each other under many callers.
    return np.asarray(-np.einsum("ij,j->i", vectors, query))


def _rough_square(vectors: Matrix, squares: Numbers, query: Matrix) -> Numbers:
    return np.asarray(squares - 2 * np.einsum("ij,j->i", vectors, query))


def _rough_sum(vectors: Matrix, squares: Numbers, query: Matrix) -> Numbers:
    found = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), 4096):  # in blocks, so that the differences stay in the cache
        found[start : start + 4096] = np.abs(vectors[start : start + 4096] - query).sum(axis=1)
    return found


_ROUGH: dict[Metric, Callable[[Matrix, Numbers, Matrix], Numbers]] = {
    "cosine": _rough_cosine,
    "inner_product": _rough_product,
    "l2": _rough_square,
    "l1": _rough_sum,
}

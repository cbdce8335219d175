"""Vectors in memory by position, searched exactly: what the stores without a server's index stand on.

A first pass bounds how near each row can be, and only rows that may be among the nearest are compared in float64. It
reads the rows in float32, or, where most of their length lies in few directions, their shadows in those: the rest of a
row adds at most the product of the two rests' lengths (Cauchy and Schwarz), so nothing near is ever passed over.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from persistence.config import Metric
from vectorstore.distance import Matrix, Numbers, Positions, distances, products

NEVER = 2**63 - 1
"""The end of a row that doesn't expire; a row that was taken out ended at 0."""
FIRST_PASS_ROWS = 4096
"""Fewer rows are compared as they are: their shadows would cost more than they save."""
_SAMPLE = 4096
_ENERGY = (0.9, 0.95)
"""How much of the rows' squared length the steps of their shadows must have; with less, too many rows pass."""
_MARGIN = 1e-5
"""More than float32 rounding, relative to the lengths: nothing nearer is lost by a first pass in float32."""
_UNIT = 2e-6
"""So far from 1 the squared lengths may be of rows whose products are taken for their cosines in a first pass."""
_FEW_OF = 200
"""Where more than one row in so many is wanted, comparing all is quicker than telling them apart by their shadows."""
_SEARCHES = 4
"""After so many searches the shadows are made, which takes as long as some dozens."""
_TWO_STEPS = 128
"""So few rows are compared as they are, without the second step."""
_FEW = 32
"""So few rows are compared in float64 at once."""
_BLOCKS = 32
_CROWD = 8
"""Of more than one row in so many, reading all in a row is quicker than picking those that are asked for."""


class Shadows(NamedTuple):
    """Rows in the few directions that hold most of them, in two steps, and how long the rest of each is behind them."""

    basis: Matrix
    first: Matrix
    second: Matrix
    first_rests: Numbers
    second_rests: Numbers


class VectorMatrix:
    """Vectors by position: rows sorted by an ever growing number, each until its end (microseconds UTC).

    It never changes: what adds or takes out rows returns another one. Rows are added in spare room behind those that an
    older matrix looks at, so adding a few to many copies only the few; ``appended`` may be called once on each matrix
    at a time, which its owner's lock sees to.
    """

    def __init__(self, dimensions: int, metric: Metric) -> None:
        self.metric = metric
        self.size = 0
        self.gone = 0
        self._positions = np.empty(0, np.int64)
        self._vectors = np.empty((0, dimensions), np.float32)
        self._squares = np.empty(0, np.float32)
        self._ends = np.empty(0, np.int64)
        self._first_end = NEVER
        self._is_unit = metric == "cosine"
        self._filled = [0]
        self._shadows: Shadows | None = None
        self._searches = 0

    @classmethod
    def of(cls, positions: Positions, vectors: Matrix, ends: Positions, metric: Metric) -> VectorMatrix:
        """Return a matrix that looks at these arrays, positions ascending; they may be mapped from a file."""
        made = cls(vectors.shape[1], metric)
        made.size = len(positions)
        made._filled = [made.size]
        made._positions, made._vectors = positions, vectors
        made._squares = np.einsum("ij,ij->i", vectors, vectors)
        made._is_unit = made._is_unit and _are_unit(made._squares)
        made._set_ends(ends)
        return made

    @property
    def positions(self) -> Positions:
        """The rows' positions, ascending, shape ``(size,)``, those taken out included."""
        return self._positions[: self.size]

    @property
    def vectors(self) -> Matrix:
        """The rows, shape ``(size, dimensions)``."""
        return self._vectors[: self.size]

    @property
    def ends(self) -> Positions:
        """When each row expires, in microseconds UTC."""
        return self._ends[: self.size]

    def _set_ends(self, ends: Positions) -> None:
        self._ends = ends
        self._first_end = int(ends[: self.size].min(initial=NEVER))
        self.gone = int(np.count_nonzero(ends[: self.size] == 0))

    def appended(self, positions: Positions, vectors: Matrix, ends: Positions) -> VectorMatrix:
        """Return a matrix with these rows behind; their positions are higher than any here."""
        size = self.size + len(positions)
        made = VectorMatrix(self._vectors.shape[1], self.metric)
        made.size = size
        room = len(self._positions)
        if size > room or self._filled[0] != self.size or not self._vectors.flags.writeable:
            made._grow(self, max(size, int(1.5 * self.size)))
        else:
            made._positions, made._vectors, made._squares = self._positions, self._vectors, self._squares
            made._filled = self._filled
        made._positions[self.size : size] = positions
        made._vectors[self.size : size] = vectors
        squares = made._squares[self.size : size] = np.einsum("ij,ij->i", vectors, vectors)
        made._is_unit = self._is_unit and _are_unit(squares)
        made._filled[0] = size
        made._set_ends(np.concatenate([self.ends, ends]))
        made._shadows, made._searches = self._shadows, self._searches
        return made

    def _grow(self, old: VectorMatrix, capacity: int) -> None:
        self._filled = [0]
        self._positions = np.empty(capacity, np.int64)
        self._vectors = np.empty((capacity, old._vectors.shape[1]), np.float32)
        self._squares = np.empty(capacity, np.float32)
        self._positions[: old.size] = old.positions
        self._vectors[: old.size] = old.vectors
        self._squares[: old.size] = old._squares[: old.size]

    def kept(self, positions: Positions) -> VectorMatrix:
        """Return a matrix of only the rows whose positions are given."""
        return self._only(np.isin(self.positions, positions))

    def without(self, positions: Positions) -> VectorMatrix:
        """Return a matrix without the rows at these positions, which are all there."""
        stays = self.ends != 0
        stays[np.searchsorted(self.positions, positions)] = False
        return self._only(stays)

    def _only(self, stays: np.ndarray[Any, np.dtype[np.bool_]]) -> VectorMatrix:
        """Return a matrix of these rows; the others are taken out in place until they are a quarter."""
        made = VectorMatrix(self._vectors.shape[1], self.metric)
        made._is_unit = self._is_unit
        if 4 * int(np.count_nonzero(stays)) < 3 * self.size:
            made.size = int(np.count_nonzero(stays))
            made._positions, made._vectors = self.positions[stays], self.vectors[stays]
            made._squares = self._squares[: self.size][stays]
            made._filled = [made.size]
            made._set_ends(self.ends[stays])
            return made
        made.size, made._filled = self.size, self._filled
        made._positions, made._vectors, made._squares = self._positions, self._vectors, self._squares
        made._shadows, made._searches = self._shadows, self._searches
        made._set_ends(np.where(stays, self.ends, 0))
        return made

    def search(self, query: Matrix, k: int, now: int, among: Positions | None = None) -> tuple[Positions, Numbers, int]:
        """Return positions and distances of the k nearest rows, nearest first, and of all that tie with the last.

        ``now`` leaves out the rows that have ended, ``among`` those of other positions. The last number is how many
        rows were looked at.
        """
        rows = None if among is None else np.searchsorted(self.positions, among)
        if self._first_end <= now:
            alive = self.ends > now
            rows = np.flatnonzero(alive) if rows is None else rows[alive[rows]]
        looked_at = self.size if rows is None else len(rows)
        rows = self._nearest(_scaled(query, self.metric), k, rows)
        found = distances(self._vectors[rows], query, self.metric)
        if len(found) > k:
            near = np.flatnonzero(found <= np.partition(found, k - 1)[k - 1])
            rows, found = rows[near], found[near]
        order = np.argsort(found, kind="stable")
        return self._positions[rows[order]], found[order], looked_at

    def has(self, positions: Positions) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Tell of each position whether a row is there that wasn't taken out."""
        rows = np.minimum(np.searchsorted(self.positions, positions), max(self.size - 1, 0))
        return np.asarray((self.positions[rows] == positions) & (self.ends[rows] != 0))

    def vectors_at(self, positions: Positions) -> Matrix:
        """Return copies of the rows at these positions."""
        return self._vectors[np.searchsorted(self.positions, positions)]

    def _nearest(self, wanted: Matrix, k: int, rows: Positions | None) -> Positions:
        """Return the rows, of these or of all, among which the k nearest and their ties are."""
        if (self.size if rows is None else len(rows)) <= k:
            return np.arange(self.size) if rows is None else rows
        if rows is not None and _CROWD * len(rows) < self.size:
            return rows[self._within(wanted, k, self._closeness(wanted, rows))]
        shadows = self._directions() if k * _FEW_OF <= self.size else None
        if shadows is not None:
            return self._by_shadows(wanted, k, rows, shadows)
        closeness = self._closeness(wanted, None)
        if rows is None:
            return self._within(wanted, k, closeness)
        return rows[self._within(wanted, k, closeness[rows])]

    def _within(self, wanted: Matrix, k: int, closeness: Numbers) -> Positions:
        """Return the places whose closeness may be among the k best, float32 rounding allowed for."""
        return _not_below(closeness, _kth_best(closeness, k) - 2 * self._margin(wanted, closeness))

    def _margin(self, wanted: Matrix, closeness: Numbers) -> float:
        if self.metric == "cosine":
            return _MARGIN
        if self.metric == "l1":
            return _MARGIN * float(-closeness.min())
        own, largest = float(wanted.dot(wanted)), float(self._squares[: self.size].max())
        return 2 * _MARGIN * max(own, largest) if self.metric == "l2" else _MARGIN * (own * largest) ** 0.5

    def _closeness(self, wanted: Matrix, rows: Positions | None) -> Numbers:
        """Return numbers that are greater for what is nearer, in float32, of these rows or of all."""
        vectors = self.vectors if rows is None else self._vectors[rows]
        if self.metric == "l1":
            found = np.empty(len(vectors), np.float32)
            for start in range(0, len(vectors), 4096):  # in blocks, so that the differences stay in the cache
                found[start : start + 4096] = -np.abs(vectors[start : start + 4096] - wanted).sum(axis=1)
            return found
        return self._finished(products(vectors, wanted), rows)

    def _finished(self, inner: Numbers, rows: Positions | None) -> Numbers:
        """Turn products with the query into closeness, in place."""
        if self._is_unit or self.metric == "inner_product":
            return inner
        squares = self._squares[: self.size] if rows is None else self._squares[rows]
        if self.metric == "cosine":
            inner /= np.sqrt(squares)
        else:
            inner *= 2
            inner -= squares
        return inner

    def _directions(self) -> Shadows | None:
        """Return the rows' shadows, made once some searches have shown that they are wanted; None where they don't pay.

        Rows that were added since are without; there are at most a third as many as others.
        """
        shadows = self._shadows
        if shadows is not None and 4 * len(shadows.first) >= 3 * self.size:
            return shadows
        if self.size < FIRST_PASS_ROWS or self.metric == "l1" or self._searches < 0:
            return None
        self._searches += 1
        if self._searches < _SEARCHES:
            return None
        self._searches = 0
        found = _few_directions(self.vectors, self.metric)
        if found is None:
            self._searches = -1
            return None
        self._shadows = _shadows(*found, self.vectors, self.metric)
        return self._shadows

    def _by_shadows(self, wanted: Matrix, k: int, rows: Positions | None, shadows: Shadows) -> Positions:
        few = products(shadows.basis, wanted)
        width, known_rows = shadows.first.shape[1], len(shadows.first)
        inner = products(shadows.first, few[:width])
        best = shadows.first_rests * _rest(wanted, few[:width])
        best += inner
        if known_rows < self.size:
            behind = products(self.vectors[known_rows:], wanted)
            if self.metric == "cosine" and not self._is_unit:
                behind /= np.sqrt(self._squares[known_rows : self.size])
            inner, best = np.concatenate([inner, behind]), np.concatenate([best, behind])
        shown = inner
        if self.metric == "l2":  # the shadows of a cosine's rows are those of rows of length 1
            shown, best = self._finished(inner.copy(), None), self._finished(best, None)
        if rows is not None:
            shown, best = shown[rows], best[rows]
        likely = _not_below(shown, _kth_best(shown, k))
        closeness = self._closeness(wanted, likely if rows is None else rows[likely])
        least = float(np.partition(closeness, -k)[-k]) - 2 * self._margin(wanted, closeness)
        places = _not_below(best, least)
        near = places if rows is None else rows[places]
        if _TWO_STEPS < len(near) < self.size // _CROWD:
            near = self._second_step(near, inner, few[width:], _rest(wanted, few), least, shadows)
        if len(near) <= max(_FEW, 2 * k):
            return near
        if _CROWD * len(near) > self.size:
            return near[self._within(wanted, k, self._closeness(wanted, None)[near])]
        return near[self._within(wanted, k, self._closeness(wanted, near))]

    def _second_step(
        self, near: Positions, inner: Numbers, few: Numbers, rest: np.float32, least: float, shadows: Shadows
    ) -> Positions:
        """Return those of the rows that may still be near, and those that have no shadow."""
        known, others = near[near < len(shadows.first)], near[near >= len(shadows.first)]
        best = inner[known] + products(shadows.second[known], few) + shadows.second_rests[known] * rest
        if self.metric == "l2":
            best = self._finished(best, known)
        return np.concatenate([known[best >= least], others])


def _rest(wanted: Matrix, few: Numbers) -> np.float32:
    """Return the length of what a query has beside these directions, rounded up."""
    own = float(wanted.dot(wanted))
    return np.float32(max(0.0, own - float(few.dot(few)) + 4e-6 * own) ** 0.5)


def _scaled(query: Matrix, metric: Metric) -> Matrix:
    """Return what the rows are compared with: for a cosine the query at length 1."""
    return query if metric != "cosine" else query / np.sqrt(query.dot(query))


def _are_unit(squares: Numbers) -> bool:
    return len(squares) == 0 or bool(squares.min() >= 1 - _UNIT and squares.max() <= 1 + _UNIT)


def _kth_best(numbers: Numbers, k: int) -> float:
    """Return a number that at least k are not below, near the k-th greatest: that of the best of equal stretches."""
    width = len(numbers) // _BLOCKS
    if width >= 4 * k:
        numbers = numbers[: width * _BLOCKS].reshape(_BLOCKS, width).max(axis=0)
    return float(np.partition(numbers, -k)[-k])


def _not_below(numbers: Numbers, least: float) -> Positions:
    return np.asarray((numbers >= least).nonzero()[0])


def _few_directions(vectors: Matrix, metric: Metric) -> tuple[Matrix, int] | None:
    """Return the directions that hold most of the rows' length, (few, dimensions), and how many of them come first.

    None where three fifths of all directions don't do.
    """
    sample = vectors[:: max(1, len(vectors) // _SAMPLE)]
    if metric == "cosine":
        sample = sample / np.sqrt(np.einsum("ij,ij->i", sample, sample))[:, None]
    values, found = np.linalg.eigh(sample.T @ sample)
    held = np.cumsum(values[::-1]) / values.sum()
    first, few = (int(place) + 1 + -(int(place) + 1) % 16 for place in np.searchsorted(held, _ENERGY))
    if 5 * few > 3 * vectors.shape[1]:
        return None
    return np.ascontiguousarray(found.T[::-1][:few], np.float32), first


def _shadows(basis: Matrix, width: int, vectors: Matrix, metric: Metric) -> Shadows:
    count, few = len(vectors), len(basis)
    first, second = np.empty((count, width), np.float32), np.empty((count, few - width), np.float32)
    rests = np.empty((2, count), np.float32)
    for start in range(0, count, 4096):
        block: Any = vectors[start : start + 4096]
        here = slice(start, start + len(block))
        squares = np.einsum("ij,ij->i", block, block)
        if metric == "cosine":
            block = block / np.sqrt(squares)[:, None]
            squares = np.ones_like(squares)
        shadow = block @ basis.T
        first[here], second[here] = shadow[:, :width], shadow[:, width:]
        for step, part in enumerate((shadow[:, :width], shadow)):
            left = squares - np.einsum("ij,ij->i", part, part)
            # A little more than float32 says, for what its rounding hides.
            rests[step, here] = np.sqrt(np.maximum(left, 0) + np.float32(4e-6) * squares)
    return Shadows(basis, first, second, rests[0], rests[1])

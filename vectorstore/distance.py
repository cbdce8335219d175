"""Distances and scores: one meaning on every backend, and exact search over a matrix for those that have no index.

The definitions are pgvector's: ``<=>`` is 1 - cosine, ``<#>`` the negative inner product, ``<->`` the euclidean and
``<+>`` the taxicab distance.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Literal, cast

import numpy as np

from persistence.config import Metric
from persistence.distances import cosine
from persistence.distances import distances as measured
from persistence.errors import ConfigError, ValidationError

Matrix = np.ndarray[Any, np.dtype[np.float32]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Numbers = np.ndarray[Any, np.dtype[Any]]

BitMetric = Literal["hamming", "jaccard"]

METRICS: tuple[Metric, ...] = ("cosine", "l2", "inner_product", "l1")
BIT_METRICS: tuple[BitMetric, ...] = ("hamming", "jaccard")
_LARGEST = 8e37
"""The largest squared length: a sum of two such vectors can still be squared in float32, as pgvector does."""
_SMALLEST = 1e-30
"""The smallest squared length whose parts float32 still tells from 0."""
LONGEST, SHORTEST = 8e18, 1e-15
"""The lengths between which a vector has a cosine, on their safe sides."""
_HALVED_TO_INFINITY, _HALVED_TO_ZERO = 65520, 2.0**-25
"""From the one on, and up to the other, a float32 is infinite and 0 when it is rounded to 16 bits."""

_ONE_THREAD = 9215
"""OpenBLAS multiplies a matrix of fewer than 9,216 numbers with a vector on one thread, and takes dot products so."""
_SHORT = 224
"""Up to so many numbers a row, some rows at a time are quicker than each by itself."""
_ALONE = os.environ.get("OPENBLAS_NUM_THREADS", os.environ.get("OMP_NUM_THREADS")) == "1"
"""BLAS was told to start no threads, so that all rows may be multiplied at once."""


def check_metric(metric: object, known: Sequence[str] = METRICS) -> Metric:
    """Return a metric's name, one of those that are ``known``.

    Raises:
        ConfigError: it is none.
    """
    if metric not in known:
        raise ConfigError(f"{metric!r} is no distance metric", hint=", ".join(known))
    return cast("Metric", metric)


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
    if found.dtype == np.float32:
        vector: Matrix = found.copy()
    else:
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


def check_halved(vector: Matrix, metric: Metric, what: str) -> None:
    """Make sure that a vector is one with halved precision, too.

    Raises:
        ValidationError: a number is too large for that, or all are so small that no direction is left where the metric
            is cosine; the message names ``what``.
    """
    largest = np.abs(vector).max()
    if largest >= _HALVED_TO_INFINITY:
        raise ValidationError(f"{what} has a number beyond 65504, the largest of a halfvec", hint="normalise it")
    if metric == "cosine" and largest <= _HALVED_TO_ZERO:
        raise ValidationError(f"{what} has length 0 as a halfvec, and so no cosine", hint="normalise it")


def as_vectors(values: Sequence[Numbers], metric: Metric) -> Matrix | None:
    """Return arrays of one shape as a float32 array of its own, ``(n, dimensions)``; None where one can't be taken."""
    with np.errstate(over="ignore"):
        vectors = np.asarray(values).astype(np.float32, copy=False)
    lengths = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    if not len(lengths) or not lengths.max() <= _LARGEST or (metric == "cosine" and lengths.min() < _SMALLEST):
        return None
    return vectors


def products(rows: Matrix, query: Matrix) -> Matrix:
    """Return the inner product of each row with a query, shape ``(n,)``, in float32, on the thread that calls.

    In pieces of which each is too small for BLAS to start its threads, which fall over each other under many callers:
    row by row, or, where rows are short, some rows at a time. Where BLAS was told to take one thread, at once.
    """
    if _ALONE:
        return np.asarray(np.matmul(rows, query))
    count, width = rows.shape
    if width > _SHORT:
        return np.asarray(np.matmul(rows[:, None, :], query)[:, 0])
    found = np.empty(count, np.float32)
    size = _ONE_THREAD // max(width, 1)
    whole = count - count % size
    if whole:
        np.matmul(rows[:whole].reshape(-1, size, width), query, out=found[:whole].reshape(-1, size))
    np.matmul(rows[whole:], query, out=found[whole:])
    return found


def score(distance: float, metric: Metric | BitMetric) -> float:
    """Return the similarity that a distance stands for: higher is better."""
    if metric == "cosine":
        return cosine(distance)
    if metric == "inner_product":
        return 0.0 - distance
    if metric == "jaccard":
        return 1.0 - distance
    return 1.0 / (1.0 + distance)


def distances(vectors: Matrix, query: Matrix, metric: Metric | BitMetric) -> Numbers:
    """Return the distance of each row, shape ``(n,)``, in float64; equal rows have equal distances."""
    if metric == "hamming" or metric == "jaccard":
        return _bit_distances(vectors > 0, query > 0, metric)
    return measured(vectors, query, metric)


def _bit_distances(rows: Numbers, wanted: Numbers, metric: BitMetric) -> Numbers:
    """Return how many bits differ, or the share of those set in either that are not set in both."""
    if metric == "hamming":
        return np.asarray(np.count_nonzero(rows != wanted, axis=1).astype(np.float64))
    either = np.count_nonzero(rows | wanted, axis=1)
    return np.asarray(1.0 - np.count_nonzero(rows & wanted, axis=1) / np.maximum(either, 1))

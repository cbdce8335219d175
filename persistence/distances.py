"""How far vectors lie apart: one meaning, and one rounding, for whatever compares them in this process.

The definitions are pgvector's: 1 - cosine, the negative inner product, the euclidean and the taxicab distance. A
cosine is computed in float64 and is never beyond 1 or below -1, as pgvector's isn't.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from persistence.config import Metric

Numbers = np.ndarray[Any, np.dtype[Any]]


def distances(vectors: Numbers, query: Numbers, metric: Metric) -> Numbers:
    """Return the distance of each row, shape ``(n,)``, in float64; equal rows have equal distances.

    A row of zeros has no cosine: its distance is NaN.
    """
    rows, wanted = vectors.astype(np.float64), query.astype(np.float64)
    if metric == "l1":
        return np.asarray(np.abs(rows - wanted).sum(axis=1))
    if metric == "l2":
        rows -= wanted
        return np.asarray(np.sqrt(np.einsum("ij,ij->i", rows, rows)))
    product = np.matmul(rows[:, None, :], wanted)[:, 0]  # each row by itself, so that equal ones are equal
    if metric == "inner_product":
        return np.asarray(-product)
    lengths = np.matmul(rows[:, None, :], rows[:, :, None])[:, 0, 0]
    lengths *= wanted.dot(wanted)
    with np.errstate(invalid="ignore"):
        product /= np.sqrt(lengths, out=lengths)
    return np.asarray(1.0 - np.minimum(np.maximum(product, -1.0), 1.0))


def cosine(distance: float) -> float:
    """Return the cosine that a distance stands for, within -1 and 1 whatever rounding a server did."""
    similarity = 1.0 - distance
    return similarity if -1.0 <= similarity <= 1.0 else 1.0 if similarity > 1.0 else -1.0

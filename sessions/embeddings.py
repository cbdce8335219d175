"""Embeddings as they are stored: what a model made of a text, checked."""

from __future__ import annotations

from typing import Any

import numpy as np

from persistence.errors import ValidationError

DIMENSIONS = 16_000
"""The most numbers of an embedding: pgvector's own limit."""


def as_embedding(value: object, what: str) -> np.ndarray[Any, Any]:
    """Return an embedding as float32, little-endian.

    Raises:
        ValidationError: it is no list of 1 to 16,000 finite numbers.
    """
    try:
        found = np.asarray(value)
    except (TypeError, ValueError):  # lists of different lengths
        found = np.empty(0)
    if found.dtype.kind not in "fiu" or found.ndim != 1 or not 1 <= len(found) <= DIMENSIONS:
        raise ValidationError(f"{what} is no list of 1 to {DIMENSIONS:,} numbers")
    with np.errstate(over="ignore"):  # what is beyond float32 becomes infinite, and is refused below
        vector = found.astype("<f4")
    if not np.isfinite(vector).all():
        raise ValidationError(f"{what} holds a number that is not finite, or beyond float32")
    return vector

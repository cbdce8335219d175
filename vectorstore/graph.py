"""A graph of neighbours (HNSW) over the rows of a saved index, by FAISS where it is installed.

It finds most of the nearest without comparing all, and is only ever a shortcut: what it finds is compared anew, and
where it isn't there, or there is no FAISS, all rows are.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from persistence.config import Metric
from persistence.errors import CapabilityError, CorruptError
from vectorstore.distance import Matrix, Positions

LINKS, BUILD_EFFORT = 16, 64
"""pgvector's own, so the recall is that of an index there."""
EFFORT = 200
_SPARE = 2
"""So many times k neighbours are asked for, because some of them may be gone, and FAISS rounds."""


def faiss_module() -> ModuleType | None:
    """Return FAISS, None where it isn't installed."""
    try:
        import faiss
    except ImportError:
        return None
    found: ModuleType = faiss
    return found


def required_faiss(metric: Metric) -> ModuleType:
    """Return FAISS.

    Raises:
        CapabilityError: it isn't installed, or has no graph for the metric.
    """
    faiss = faiss_module()
    if faiss is None:
        raise CapabilityError("a graph needs FAISS", hint='pip install "holdfast[faiss]"')
    if metric == "l1":
        raise CapabilityError("FAISS has no graph for the metric l1", hint="save(name) without graph=True")
    return faiss


class Graph:
    """The neighbours of the rows of one version, which stay as they were when it was saved."""

    def __init__(self, faiss: ModuleType, index: Any, metric: Metric) -> None:
        self._faiss = faiss
        self._index = index
        self._metric = metric
        self.rows = int(index.ntotal)

    @classmethod
    def of(cls, vectors: Matrix, metric: Metric) -> Graph:
        """Make a graph over rows, (n, dimensions); it takes 20 seconds for 100,000 of 384 numbers."""
        faiss = required_faiss(metric)
        by = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(vectors.shape[1], LINKS, by)
        index.hnsw.efConstruction = BUILD_EFFORT
        index.add(_placed(vectors, metric))  # all at once: FAISS mixes them, and copies in a row would link badly
        return cls(faiss, index, metric)

    def write(self, path: Path) -> None:
        """Write it to a file."""
        self._faiss.write_index(self._index, str(path))

    @classmethod
    def read(cls, path: Path, rows: int, dimensions: int, metric: Metric) -> Graph | None:
        """Read what :meth:`write` wrote for so many rows; None without FAISS.

        Raises:
            CorruptError: it is another file.
        """
        faiss = faiss_module()
        if faiss is None:
            return None
        try:
            index = faiss.read_index(str(path))
        except RuntimeError as exc:
            raise CorruptError(f"{path} is no graph of FAISS", hint="load an older version", operation="load") from exc
        if (index.ntotal, index.d) != (rows, dimensions) or not isinstance(index, faiss.IndexHNSWFlat):
            raise CorruptError(f"{path} is the graph of other vectors", hint="load an older version", operation="load")
        return cls(faiss, index, metric)

    def nearest(self, query: Matrix, k: int) -> Positions:
        """Return the rows of more than k near neighbours, in the order of the rows."""
        wanted = _SPARE * k
        options = self._faiss.SearchParametersHNSW(efSearch=max(EFFORT, wanted))
        found = self._index.search(_placed(query[None, :], self._metric), wanted, params=options)[1][0]
        return np.sort(found[found >= 0]).astype(np.int64)


def _placed(vectors: Matrix, metric: Metric) -> Matrix:
    """Return rows as the graph holds them: for a cosine at length 1."""
    if metric == "cosine":
        vectors = vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return np.ascontiguousarray(vectors, np.float32)

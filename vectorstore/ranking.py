"""Putting results in order: two lists fused into one, new scores, and results that differ from one another."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from persistence.config import Metric
from vectorstore.distance import Matrix, Numbers, distances
from vectorstore.records import SearchResult

if TYPE_CHECKING:
    from vectorstore.requests import Fusion

Key = TypeVar("Key", bound=Hashable)


def fuse(near: Sequence[SearchResult], matching: Sequence[SearchResult], fusion: Fusion) -> list[SearchResult]:
    """Return what either list has, each best first, as one list by their fused scores, equal ones by id.

    What only one of the lists has gets nothing for the other. Distances and embeddings come from ``near`` where it has
    them.
    """
    found = {result.id: result for result in (*matching, *near)}
    halves = [[(result.id, result.score) for result in half] for half in (near, matching)]
    return _ordered(found, fused_scores(halves[0], halves[1], fusion))


def fused_scores(
    near: Sequence[tuple[Key, float]], matching: Sequence[tuple[Key, float]], fusion: Fusion
) -> dict[Key, float]:
    """Return the fused score of each key that either list has; each list is best first."""
    found = dict.fromkeys([key for half in (near, matching) for key, _ in half], 0.0)
    for half, weight in ((near, fusion.weight), (matching, 1 - fusion.weight)):
        for key, share in _shares(half, fusion):
            found[key] += weight * share
    return found


def _shares(half: Sequence[tuple[Key, float]], fusion: Fusion) -> Iterator[tuple[Key, float]]:
    if fusion.method == "reciprocal_rank":
        ranks: dict[float, int] = {}  # equal scores share a rank, whatever their order
        for rank, (key, score) in enumerate(half, 1):
            yield key, 1 / (fusion.constant + ranks.setdefault(score, rank))
        return
    least = min((score for _, score in half), default=0.0)
    spread = max((score for _, score in half), default=0.0) - least
    for key, score in half:
        yield key, (score - least) / spread if spread > 0 else 1.0  # where all are equal, each is the best


def rescored(results: Sequence[SearchResult], scores: Sequence[float]) -> list[SearchResult]:
    """Return results with new scores, best first, equal ones in the order that they had."""
    found = [dataclasses.replace(result, score=score) for result, score in zip(results, scores, strict=True)]
    return sorted(found, key=lambda each: -each.score)


def _ordered(found: Mapping[str, SearchResult], scores: Mapping[str, float]) -> list[SearchResult]:
    best_first = sorted(scores, key=lambda id: (-scores[id], id))
    return [dataclasses.replace(found[id], score=scores[id]) for id in best_first]


def diversify(
    results: Sequence[SearchResult], k: int, balance: float, metric: Metric, query: Matrix | None
) -> list[SearchResult]:
    """Return ``k`` of the results by maximal marginal relevance, in the order in which they are chosen.

    The first is the most relevant. Each next one has the highest ``balance * relevance - (1 - balance) * redundancy``,
    equal ones in the order of ``results``: relevance is its similarity to the query (its score where there is no query
    vector, spread over [0, 1]), redundancy its greatest similarity to one that is chosen already, both on the scale of
    the metric's scores. The results keep their scores. Each must have its embedding (Carbonell and Goldstein, "The use
    of MMR", SIGIR 1998).
    """
    if not results:
        return []
    vectors = np.array([result.embedding for result in results], np.float32)
    relevance = _spread(results) if query is None else _similarities(vectors, query, metric)
    redundancy = np.full(len(results), -np.inf)
    left = np.ones(len(results), bool)
    chosen = [int(np.argmax(relevance))]
    while len(chosen) < min(k, len(results)):
        left[chosen[-1]] = False
        similar = _similarities(vectors, vectors[chosen[-1]], metric)
        redundancy = np.maximum(redundancy, similar)
        worth = balance * relevance - (1 - balance) * redundancy
        chosen.append(int(np.argmax(np.where(left, worth, -np.inf))))
    return [results[place] for place in chosen]


def _similarities(vectors: Matrix, query: Matrix, metric: Metric) -> Numbers:
    """Return the score of each row, as results have it."""
    found = distances(vectors, query, metric)
    if metric == "cosine":
        return 1.0 - found
    return -found if metric == "inner_product" else 1.0 / (1.0 + found)


def _spread(results: Sequence[SearchResult]) -> Numbers:
    given = np.array([result.score for result in results])
    spread = float(np.ptp(given))
    return np.asarray((given - given.min()) / spread if spread > 0 else np.ones_like(given))

"""What a search asks for, checked, and the settings of its ranking."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from persistence.errors import ConfigError, ValidationError
from persistence.validation import check_id, check_text, check_whole
from vectorstore.distance import Matrix
from vectorstore.filters import Node, parse_path
from vectorstore.records import SearchResult

Mode = Literal["vector", "text", "hybrid"]
KeyType = Literal["number", "text"]

MAX_K = 2**31 - 1
_KEY_TYPES: dict[object, KeyType] = {int: "number", float: "number", str: "text", "number": "number", "text": "text"}
_LANGUAGE_BYTES = 63


class Reranker(Protocol):
    """Gives each result the score of its relevance to a query, in their order: a cross-encoder, say."""

    def __call__(self, query: str, results: list[SearchResult], /) -> Sequence[float] | Awaitable[Sequence[float]]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """How the two halves of a hybrid search become one list; each gives its ``depth`` best.

    ``"min_max"`` spreads the scores of each half over [0, 1] and adds them up, ``weight`` for the vectors' and the rest
    for the texts'. ``"reciprocal_rank"`` adds up ``1 / (constant + rank)`` with the same weights, whatever the scores
    (Cormack, Clarke and Büttcher, SIGIR 2009).

    Raises:
        ValidationError: a value is out of its range.
    """

    method: Literal["min_max", "reciprocal_rank"] = "min_max"
    weight: float = 0.6
    depth: int = 200
    constant: int = 60

    def __post_init__(self) -> None:
        if self.method not in ("min_max", "reciprocal_rank"):
            raise ValidationError(f"{self.method!r} is no way to fuse", hint="min_max or reciprocal_rank")
        check_share("weight", self.weight)
        check_whole("depth", self.depth, most=10_000)
        check_whole("constant", self.constant, least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Diversity:
    """How far results shall differ from one another: maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    ``balance`` is its lambda: 1 is relevance alone, 0 has each result as far from those before it as can be.
    ``candidates`` is how many of the best it chooses from (None: four times k, at least 20).

    Raises:
        ValidationError: a value is out of its range.
    """

    balance: float = 0.5
    candidates: int | None = None

    def __post_init__(self) -> None:
        check_share("balance", self.balance)
        if self.candidates is not None:
            check_whole("candidates", self.candidates, most=10_000)

    def pool(self, k: int) -> int:
        """Return how many candidates there are for ``k`` results."""
        return max(k, max(20, 4 * k) if self.candidates is None else self.candidates)


class SearchRequest(NamedTuple):
    """What a backend is asked for: the ``k`` best without the first ``offset`` of them, so ``size`` results.

    ``vector`` is there unless words alone are searched, ``text`` where words are.
    """

    vector: Matrix | None
    text: str | None
    k: int
    node: Node | None
    namespace: str
    with_embeddings: bool = False
    exact: bool = False
    offset: int = 0

    @property
    def size(self) -> int:
        """How many results are wanted."""
        return self.k - self.offset


def check_page(k: object, offset: object) -> tuple[int, int]:
    """Return how far a search for ``k`` results behind the first ``offset`` goes, and the offset."""
    found = min(check_whole("k", k), MAX_K)
    left_out = check_whole("offset", offset, least=0, most=MAX_K)
    return found + left_out, left_out


def check_share(what: str, value: object) -> float:
    """Return a number within 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0 <= value <= 1:
        raise ValidationError(f"{what} {value!r} is no number within 0 and 1")
    return float(value)


def check_min_score(min_score: object) -> float | None:
    """Return a least score; None is none."""
    if min_score is None:
        return None
    if isinstance(min_score, bool) or not isinstance(min_score, int | float | np.floating):
        raise ValidationError(f"min_score {min_score!r} is no number")
    try:
        found = float(min_score)
    except OverflowError:
        raise ValidationError("min_score is beyond any float") from None
    if math.isnan(found):
        raise ValidationError(f"min_score {min_score!r} is no number")
    return found


def check_mode(mode: object) -> Mode:
    """Return what a search goes by."""
    for known in ("vector", "text", "hybrid"):
        if mode == known:
            return known
    raise ValidationError(f"{mode!r} is no mode of search", hint="vector, text or hybrid")


def check_fusion(fusion: object) -> Fusion:
    """Return how a hybrid is put together; None is ``Fusion()``."""
    if fusion is None:
        return Fusion()
    if not isinstance(fusion, Fusion):
        raise ValidationError(f"fusion is a {type(fusion).__name__}", hint="Fusion(weight=0.6)")
    return fusion


def check_diversity(diversity: object) -> Diversity | None:
    """Return a diversity; a number is its balance."""
    if diversity is None or isinstance(diversity, Diversity):
        return diversity
    return Diversity(balance=check_share("diversity", diversity))


def check_namespace(namespace: object) -> str:
    """Return a namespace: a text of 1 to 512 bytes."""
    return check_id("the namespace", namespace, limit=512)


def check_language(language: object) -> str | None:
    """Return the language that words are searched in; None is none."""
    if language is None:
        return None
    found = check_text("text_search", language, limit=_LANGUAGE_BYTES, may_be_empty=False)
    if not found.isidentifier():
        raise ConfigError(f"text_search {found!r} is no language", hint="english, german, …, or simple for any")
    return found


def check_keys(keys: object) -> dict[str, KeyType]:
    """Return declared metadata keys with their types.

    Raises:
        ConfigError: it is no mapping of keys to int, float or str.
    """
    if keys is None:
        return {}
    if not isinstance(keys, Mapping):
        raise ConfigError(f"keys is a {type(keys).__name__}", hint='a mapping: {"year": int, "section": str}')
    found: dict[str, KeyType] = {}
    for key, given in keys.items():
        parse_path(check_text("a declared key", key))
        if given not in _KEY_TYPES:
            raise ConfigError(f"the declared key {key[:80]!r} has the type {given!r}", hint="int, float or str")
        found[key] = _KEY_TYPES[given]
    return found


def as_scores(given: Any, count: int) -> list[float]:
    """Return what a re-ranker gave.

    Raises:
        ConfigError: it is not one number a result.
    """
    try:
        scores = [float(each) for each in given]
    except (TypeError, ValueError, OverflowError) as exc:
        raise ConfigError(f"the re-ranker gave no list of numbers: {exc}") from None
    if len(scores) != count:
        raise ConfigError(f"the re-ranker gave {len(scores)} scores for {count} results")
    if any(math.isnan(each) for each in scores):
        raise ConfigError("the re-ranker gave NaN for a score")
    return scores

"""The package descriptions, the questions about them, and how well a search answers these."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vectorstore import Document, SearchResult

DIMENSIONS = 384
FILES = ("corpus.jsonl", "corpus_minilm.npy", "queries.jsonl", "queries_minilm.npy")


@dataclass(frozen=True)
class Question:
    """A question, its vector, and the id of the one package that answers it."""

    id: str
    text: str
    vector: Any
    relevant: str


@dataclass(frozen=True)
class Quality:
    """How well a search did: mean reciprocal rank and share of right answers, both among the first ten."""

    mrr: float
    hit: float


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def read_documents(folder: Path) -> Iterator[Document]:
    """Yield the packages one by one, so that a corpus of any size needs little memory."""
    vectors = np.load(folder / "corpus_minilm.npy", mmap_mode="r")
    for row, vector in zip(_lines(folder / "corpus.jsonl"), vectors, strict=True):
        yield Document(id=row["id"], content=row["content"], metadata=row["metadata"], embedding=vector)


def count_documents(folder: Path) -> int:
    """Return how many packages there are."""
    return len(np.load(folder / "corpus_minilm.npy", mmap_mode="r"))


def read_questions(folder: Path) -> list[Question]:
    """Return all questions, in the order of the file."""
    vectors = np.load(folder / "queries_minilm.npy")
    rows = zip(_lines(folder / "queries.jsonl"), vectors, strict=True)
    return [Question(row["id"], row["text"], vector, row["relevant"]) for row, vector in rows]


class Ranking:
    """Ranks what a search found. Packages of equal score rank as in the corpus, which the known figures rest on."""

    SPARE = 10
    """How many results beyond the tenth are needed, so that a tie across the tenth is ranked as a whole."""

    def __init__(self, folder: Path) -> None:
        self._place = {row["id"]: place for place, row in enumerate(_lines(folder / "corpus.jsonl"))}

    def rank(self, question: Question, found: Sequence[SearchResult]) -> int | None:
        """Return the rank of the right answer; None where it isn't among the first ten."""
        ordered = sorted(found, key=lambda hit: (-round(hit.score, 5), self._place[hit.id]))
        return rank_as_found(question, ordered)


def rank_as_found(question: Question, found: Sequence[SearchResult]) -> int | None:
    """Return the rank of the right answer, from 1, as the store has ordered it: packages of equal score by id."""
    return next((rank for rank, hit in enumerate(found[:10], 1) if hit.id == question.relevant), None)


def judge(ranks: Sequence[int | None]) -> Quality:
    """Return the figures over all questions, from the rank of each one's right answer."""
    found = [rank for rank in ranks if rank is not None]
    return Quality(mrr=sum(1 / rank for rank in found) / len(ranks), hit=len(found) / len(ranks))

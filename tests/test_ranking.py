"""The order of results: fusion, diversity, words and their weights, the nearest rows of a matrix: each by its rule."""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import pytest

from persistence import CapabilityError
from tests.unasync import ROOT
from vectorstore import ranking
from vectorstore.distance import METRICS, distances
from vectorstore.matrix import FIRST_PASS_ROWS, NEVER, VectorMatrix
from vectorstore.records import SearchResult
from vectorstore.requests import Fusion
from vectorstore.text import TextIndex, check_stemmed, query_terms, stem, terms, words

NOW = 1_000_000
DATA = ROOT / "examples" / "data" / "debian2k" / "corpus.jsonl"


def result(id: str, score: float, embedding: Any = None, distance: float | None = None) -> SearchResult:
    vector = None if embedding is None else np.array(embedding, np.float32)
    return SearchResult(id, f"text {id}", {"id": id}, score, distance, vector)


def scored(results: list[SearchResult]) -> list[tuple[str, float]]:
    return [(each.id, round(each.score, 6)) for each in results]


# Fusion


def test_min_max_spreads_each_half_and_adds_them_by_weight() -> None:
    near = [result("a", 0.9), result("b", 0.7), result("c", 0.5)]
    matching = [result("c", 12.0), result("d", 7.0), result("a", 2.0)]
    fused = ranking.fuse(near, matching, Fusion(weight=0.7))
    assert scored(fused) == [("a", 0.7), ("b", 0.35), ("c", 0.3), ("d", 0.15)]


def test_reciprocal_rank_goes_by_the_places_alone() -> None:
    near = [result("a", 0.9), result("b", 0.1)]
    matching = [result("b", 1e9), result("c", 1e-9)]
    fused = ranking.fuse(near, matching, Fusion(method="reciprocal_rank", weight=0.5, constant=60))
    assert scored(fused) == scored([result("b", 0.5 / 62 + 0.5 / 61), result("a", 0.5 / 61), result("c", 0.5 / 62)])


@pytest.mark.parametrize("method", ["min_max", "reciprocal_rank"])
def test_equal_scores_of_a_fusion_come_by_id(method: Any) -> None:
    fused = ranking.fuse([result("b", 1.0)], [result("a", 5.0)], Fusion(method=method, weight=0.5))
    assert [each.id for each in fused] == ["a", "b"]


def test_equal_scores_share_a_rank() -> None:
    half = [result("b", 1.0), result("a", 1.0), result("c", 0.5)]
    fused = ranking.fuse(half, [], Fusion(method="reciprocal_rank", weight=1, constant=0))
    assert scored(fused) == [("a", 1.0), ("b", 1.0), ("c", 0.333333)]


@pytest.mark.parametrize("method", ["min_max", "reciprocal_rank"])
def test_a_half_that_is_empty_leaves_the_order_of_the_other(method: Any) -> None:
    half = [result("c", 3.0), result("a", 2.0), result("b", 1.0)]
    fusion = Fusion(method=method)
    assert [each.id for each in ranking.fuse(half, [], fusion)] == ["c", "a", "b"]
    assert [each.id for each in ranking.fuse([], half, fusion)] == ["c", "a", "b"]
    assert ranking.fuse([], [], fusion) == []


def test_all_equal_scores_of_a_half_are_its_best() -> None:
    assert scored(ranking.fuse([result("a", 0.5), result("b", 0.5)], [], Fusion(weight=0.6))) == [
        ("a", 0.6),
        ("b", 0.6),
    ]


def test_a_weight_of_one_or_nothing_is_one_half_alone() -> None:
    near, matching = [result("a", 0.9), result("b", 0.8)], [result("b", 5.0), result("c", 4.0)]
    assert scored(ranking.fuse(near, matching, Fusion(weight=1)))[0] == ("a", 1.0)
    assert scored(ranking.fuse(near, matching, Fusion(weight=0)))[0] == ("b", 1.0)


def test_a_fused_result_keeps_the_distance_and_the_embedding_of_its_vector() -> None:
    near, matching = [result("a", 0.9, [1, 0], 0.1)], [result("a", 5.0)]
    [found] = ranking.fuse(near, matching, Fusion())
    assert (found.distance, found.content, found.metadata) == (0.1, "text a", {"id": "a"})
    assert found.embedding is not None


def test_the_order_of_a_fusion_does_not_depend_on_the_scale_of_a_half() -> None:
    chance = random.Random(7)
    for _ in range(200):
        near = sorted((result(str(n), chance.random()) for n in range(9)), key=lambda each: -each.score)
        matching = sorted((result(str(n), chance.random()) for n in range(5, 14)), key=lambda each: -each.score)
        scaled = [result(each.id, 8 * each.score + 16) for each in matching]
        for fusion in (Fusion(), Fusion(method="reciprocal_rank")):
            one, other = ranking.fuse(near, matching, fusion), ranking.fuse(near, scaled, fusion)
            assert [each.id for each in one] == [each.id for each in other]
            assert {each.id for each in one} == {each.id for each in (*near, *matching)}
            assert all(0 <= each.score <= 1 for each in one)


def test_new_scores_order_results_anew() -> None:
    given = [result("c", 0.9), result("b", 0.8), result("a", 0.7)]
    assert scored(ranking.rescored(given, [1.0, 5.0, 1.0])) == [("b", 5.0), ("c", 1.0), ("a", 1.0)]


# Diversity


def similarity(one: Any, other: Any, metric: Any) -> float:
    found = float(distances(np.array([one], np.float32), np.array(other, np.float32), metric)[0])
    if metric == "cosine":
        return 1 - found
    return -found if metric == "inner_product" else 1 / (1 + found)


def chosen_one_by_one(results: list[SearchResult], k: int, balance: float, metric: Any, query: Any) -> list[str]:
    """The definition of maximal marginal relevance, word for word."""
    left, chosen = list(results), list[SearchResult]()
    while left and len(chosen) < k:

        def worth(each: SearchResult) -> float:
            relevance = similarity(each.embedding, query, metric)
            if not chosen:
                return relevance
            redundancy = max(similarity(each.embedding, other.embedding, metric) for other in chosen)
            return balance * relevance - (1 - balance) * redundancy

        best = max(left, key=worth)
        left.remove(best)
        chosen.append(best)
    return [each.id for each in chosen]


@pytest.mark.parametrize("metric", METRICS)
def test_diverse_results_are_those_of_the_definition(metric: Any) -> None:
    chance = np.random.default_rng(11)
    for _ in range(60):
        count = int(chance.integers(1, 15))
        query = chance.normal(size=5).astype(np.float32)
        vectors = query + chance.normal(size=(count, 5)).astype(np.float32)
        given = [result(str(place), 0.0, vector) for place, vector in enumerate(vectors)]
        given.sort(key=lambda each: -similarity(each.embedding, query, metric))
        for balance in (0.0, 0.3, 0.5, 1.0):
            k = int(chance.integers(1, 18))
            found = ranking.diversify(given, k, balance, metric, query)
            assert [each.id for each in found] == chosen_one_by_one(given, k, balance, metric, query)
            assert len(found) == min(k, count)


def test_a_balance_of_one_is_relevance_alone_and_of_nothing_is_difference_alone() -> None:
    near = [result("a", 0.99, [1, 0.1, 0]), result("b", 0.98, [1, 0.11, 0]), result("c", 0.1, [0.1, 0, 1])]
    query = np.array([1, 0, 0], np.float32)
    assert [each.id for each in ranking.diversify(near, 2, 1.0, "cosine", query)] == ["a", "b"]
    assert [each.id for each in ranking.diversify(near, 2, 0.0, "cosine", query)] == ["a", "c"]
    assert scored(ranking.diversify(near, 3, 0.0, "cosine", query)) == [("a", 0.99), ("c", 0.1), ("b", 0.98)]


def test_without_a_query_vector_the_scores_are_the_relevance() -> None:
    found = [result("a", 30.0, [1, 0]), result("b", 29.0, [1, 0.01]), result("c", 10.0, [0, 1])]
    assert [each.id for each in ranking.diversify(found, 2, 1.0, "cosine", None)] == ["a", "b"]
    assert [each.id for each in ranking.diversify(found, 2, 0.4, "cosine", None)] == ["a", "c"]


def test_copies_of_one_document_are_not_chosen_while_others_are_left() -> None:
    same = [result(f"same {n}", 0.9, [1, 0, 0]) for n in range(5)]
    others = [result("x", 0.6, [0.6, 0.8, 0]), result("y", 0.6, [0.6, 0, 0.8])]
    found = ranking.diversify(same + others, 3, 0.4, "cosine", np.array([1, 0, 0], np.float32))
    assert [each.id for each in found] == ["same 0", "x", "y"]


def test_nothing_to_diversify_is_nothing() -> None:
    assert ranking.diversify([], 5, 0.5, "cosine", None) == []


# Words


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = DATA.read_text("utf-8").splitlines()
    return [json.loads(line)["content"] for line in lines] + [
        "Ünïcödé ΛΟΓΟΣ λόγος ﬀ 日本語 naïve_café x² eed ied",
        "",
        "...",
    ]


@contextmanager
def words_table(texts: list[str], tokenizer: str) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE words USING fts5(content, content = '', tokenize = '{tokenizer}')")
        connection.executemany("INSERT INTO words (rowid, content) VALUES (?, ?)", enumerate(texts, 1))
        yield connection


TOKENIZERS = {"english": "porter unicode61 remove_diacritics 2", "simple": "unicode61 remove_diacritics 2"}


@pytest.mark.parametrize("language", TOKENIZERS)
def test_terms_are_those_of_fts5(texts: list[str], language: str) -> None:
    theirs: dict[int, list[str]] = {}
    with words_table(texts, TOKENIZERS[language]) as connection:
        connection.execute("CREATE VIRTUAL TABLE found USING fts5vocab(words, 'instance')")
        for place, term in connection.execute('SELECT doc, term FROM found ORDER BY doc, "offset"'):
            theirs.setdefault(place, []).append(term)
    ours = {place: terms(text, language) for place, text in enumerate(texts, 1)}
    assert {place: found for place, found in ours.items() if found} == theirs
    assert sum(map(len, theirs.values())) > 50_000


@pytest.mark.parametrize("language", TOKENIZERS)
def test_scores_are_those_of_fts5(texts: list[str], language: str) -> None:
    index = TextIndex(language)
    for key, text in enumerate(texts, 1):
        index.add(key, text)
    asked = ["fast web server for static files", "Λόγος", "editing sound recordings", "python library", "zzz", ""]
    with words_table(texts, TOKENIZERS[language]) as connection:
        for query in asked:
            ours = {key: score for key, score in index.search(query) if score > 1e-4}
            match = " OR ".join(f'"{word}"' for word in query_terms(query, language).values()) or '""'
            found = "SELECT rowid, -bm25(words) FROM words WHERE words MATCH ?"
            theirs = {key: score for key, score in connection.execute(found, [match]) if score > 1e-4}
            assert ours == pytest.approx(theirs, rel=1e-4)
    assert ours == {}


def test_what_was_taken_out_is_not_found_and_does_not_count() -> None:
    index, fresh = TextIndex("english"), TextIndex("english")
    for key, text in enumerate(["red apple", "green apple", "red car"]):
        index.add(key, text)
        if key != 1:
            fresh.add(key, text)
    index.remove(1)
    assert sorted(index.search("apple red")) == sorted(fresh.search("apple red"))
    assert index.search("green") == []


@pytest.mark.parametrize(
    ("word", "expected"),
    [("running", "run"), ("ponies", "poni"), ("hopping", "hop"), ("relational", "relat"), ("as", "as"), ("é", "é"),
     ("agreed", "agre"), ("sky", "sky"), ("x" * 65, "x" * 65), ("ion", "ion"), ("ing", "ing")],
)  # fmt: skip
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_words_have_no_case_and_no_accents() -> None:
    assert words("The Café's SERVER_2, naïve!") == ["the", "cafe", "s", "server", "2", "naive"]


def test_stop_words_are_no_terms_of_an_english_query() -> None:
    assert query_terms("The cats, and a dog", "english") == {"cat": "cats", "dog": "dog"}
    assert query_terms("to be or not to be", "english") == {}
    assert list(query_terms("to be or not to be", "simple")) == ["to", "be", "or", "not"]


def test_a_query_of_many_words_is_cut() -> None:
    assert len(query_terms(" ".join(f"w{n}" for n in range(1000)), "simple")) == 64


def test_a_language_without_stems_is_refused() -> None:
    with pytest.raises(CapabilityError, match=r"'german'.*simple"):
        check_stemmed("german", "main")


# The nearest rows


def nearest(rows: Any, query: Any, k: int, metric: Any, positions: list[int]) -> list[tuple[int, float]]:
    """All rows compared, with those that tie with the last."""
    found = sorted(zip(distances(rows, query, metric).tolist(), positions, strict=True))
    return [(place, distance) for distance, place in found if distance <= found[min(k, len(found)) - 1][0]]


def found_by(matrix: VectorMatrix, *args: Any) -> list[tuple[int, float]]:
    positions, apart, _ = matrix.search(*args)
    return list(zip(positions.tolist(), apart.tolist(), strict=True))


def rows_of(chance: np.random.Generator, count: int, kind: str) -> Any:
    """Rows of full rank, of few directions (as embeddings are), or with many equal ones; of different lengths."""
    if kind == "few directions":
        rows = chance.normal(size=(count, 8)) @ chance.normal(size=(8, 40)) + 0.1 * chance.normal(size=(count, 40))
    else:
        rows = chance.normal(size=(count, 40))
    if kind == "equal ones":
        rows = rows[chance.integers(0, 20, count)]
    if kind == "of length 1":
        rows = rows[:, :8] @ chance.normal(size=(8, 40)) + 0.1 * rows
        return (rows / np.linalg.norm(rows, axis=1)[:, None]).astype(np.float32)
    return (rows * chance.uniform(0.5, 2, (count, 1))).astype(np.float32) if kind != "equal ones" else rows.astype("f4")


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["full rank", "few directions", "equal ones", "of length 1"])
def test_the_nearest_are_those_of_comparing_all(metric: Any, kind: str) -> None:
    chance = np.random.default_rng(5)
    rows = rows_of(chance, FIRST_PASS_ROWS + 500, kind)
    positions = np.cumsum(chance.integers(1, 9, len(rows))).astype(np.int64)
    ends = np.where(chance.random(len(rows)) < 0.2, NOW, NEVER).astype(np.int64)
    matrix = VectorMatrix.of(positions, rows, ends, metric)
    alive = ends > NOW
    for turn in range(5):
        query = (rows[turn] + 0.1 * chance.normal(size=40)).astype(np.float32) if turn % 2 else rows[turn].copy()
        for k in (1, 10, 200):
            expected = nearest(rows[alive], query, k, metric, positions[alive].tolist())
            assert sorted(found_by(matrix, query, k, NOW)) == sorted(expected)
        for share in (0.01, 0.5):
            some = np.flatnonzero(chance.random(len(rows)) < share)
            both = some[alive[some]]
            expected = nearest(rows[both], query, 10, metric, positions[both].tolist())
            assert sorted(found_by(matrix, query, 10, NOW, positions[some])) == sorted(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_blas_of_one_thread_is_asked_once_and_says_the_same(monkeypatch: pytest.MonkeyPatch, metric: Any) -> None:
    chance = np.random.default_rng(5)
    rows = rows_of(chance, FIRST_PASS_ROWS + 500, "few directions")
    monkeypatch.setattr("vectorstore.distance._ALONE", True)
    matrix = VectorMatrix.of(np.arange(len(rows)), rows, np.full(len(rows), NEVER), metric)
    for query in rows[:8]:
        expected = nearest(rows, query, 10, metric, list(range(len(rows))))
        assert sorted(found_by(matrix, query, 10, NOW)) == sorted(expected)


def test_few_directions_are_used_where_they_pay_and_only_there() -> None:
    chance = np.random.default_rng(5)
    for kind, pays in (("few directions", True), ("full rank", False)):
        rows = rows_of(chance, FIRST_PASS_ROWS, kind)
        matrix = VectorMatrix.of(np.arange(len(rows)), rows, np.full(len(rows), NEVER), "cosine")
        for turn in range(8):
            matrix.search(rows[turn], 5, NOW)
        assert (matrix._shadows is not None) is pays


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_come_and_go_are_searched_as_if_made_anew(metric: Any) -> None:
    chance = np.random.default_rng(3)
    rows = rows_of(chance, 2 * FIRST_PASS_ROWS, "few directions")
    matrix, there = VectorMatrix(40, metric), dict[int, int]()
    older: list[tuple[VectorMatrix, dict[int, int]]] = []
    added = 0
    while added < len(rows):
        count = min(int(chance.integers(1, 2500)), len(rows) - added)
        places = np.arange(added, added + count)
        matrix = matrix.appended(places * 2, rows[added : added + count], np.full(count, NEVER))
        there.update({place * 2: place for place in places.tolist()})
        added += count
        if chance.random() < 0.5:
            gone = chance.choice(list(there), int(chance.integers(1, len(there) // 2 + 2)), replace=False)
            there = {position: place for position, place in there.items() if position not in set(gone.tolist())}
            matrix = matrix.kept(np.array(list(there), np.int64))
        older.append((matrix, dict(there)))
        for _ in range(5):
            query = rows[int(chance.integers(0, len(rows)))]
            expected = nearest(rows[list(there.values())], query, 10, metric, list(there))
            assert sorted(found_by(matrix, query, 10, NOW)) == sorted(expected)
    for matrix, there in older:  # what others hold doesn't change under them
        expected = nearest(rows[list(there.values())], rows[7], 10, metric, list(there))
        assert sorted(found_by(matrix, rows[7], 10, NOW)) == sorted(expected)


def test_fewer_rows_than_wanted_are_all() -> None:
    matrix = VectorMatrix(2, "l2")
    assert found_by(matrix, np.zeros(2, np.float32), 5, NOW) == []
    matrix = matrix.appended(np.array([4]), np.ones((1, 2), np.float32), np.array([NEVER]))
    assert found_by(matrix, np.ones(2, np.float32), 5, NOW) == [(4, 0.0)]
    assert found_by(matrix, np.ones(2, np.float32), 5, NOW, np.array([], np.int64)) == []
    assert found_by(matrix.kept(np.array([], np.int64)), np.ones(2, np.float32), 5, NOW) == []

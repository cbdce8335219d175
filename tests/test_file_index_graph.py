"""Graphs of neighbours in file indexes: near what comparing all gives, never more than a shortcut, and not needed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persistence import CapabilityError, CorruptError
from vectorstore import FileVectorIndex, IndexMatch

ROWS, DIMENSIONS = 3000, 24


@pytest.fixture(scope="module")
def vectors() -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(5)
    centers = generator.normal(size=(60, DIMENSIONS))
    rows = centers[generator.integers(60, size=ROWS)] + 0.4 * generator.normal(size=(ROWS, DIMENSIONS))
    return rows.astype(np.float32) * generator.uniform(0.5, 2, size=(ROWS, 1)).astype(np.float32)


@pytest.fixture
def root(tmp_path: Path, vectors: np.ndarray[Any, Any]) -> Path:
    """A saved index with a graph."""
    index = FileVectorIndex(tmp_path / "indexes")
    index.add([f"{n}" for n in range(ROWS)], vectors, [{"n": n % 10} for n in range(ROWS)])
    index.save(graph=True)
    return tmp_path / "indexes"


def opened(root: Path) -> FileVectorIndex:
    index = FileVectorIndex(root)
    assert index.load()
    return index


def ids(matches: list[IndexMatch]) -> list[str]:
    return [match.id for match in matches]


@pytest.mark.parametrize("metric", ["cosine", "l2", "inner_product"])
def test_a_graph_finds_what_comparing_all_finds(tmp_path: Path, vectors: np.ndarray[Any, Any], metric: Any) -> None:
    index = FileVectorIndex(tmp_path, metric=metric)
    index.add([f"{n}" for n in range(ROWS)], vectors)
    assert index.save(graph=True) == 1
    assert [each.graph for each in index.versions()] == [True]
    hits = 0
    for query in vectors[:50] + np.float32(0.1):
        found, exact = index.search(query), index.search(query, exact=True)
        hits += len(set(ids(found)) & set(ids(exact)))
        known = {match.id: match for match in exact}
        assert all(known.get(match.id, match) == match for match in found)
        assert [match.distance for match in found] == sorted(match.distance for match in found)
    assert hits >= 475


def test_what_changed_since_is_found_and_what_is_gone_is_not(root: Path, vectors: np.ndarray[Any, Any]) -> None:
    index = opened(root)
    nearest = ids(index.search(vectors[7]))
    index.remove(nearest[:3])
    index.add([nearest[3], "new"], [-vectors[7], vectors[7]])
    for each in (index, opened(root)):
        found = ids(each.search(vectors[7]))
        assert found[0] == "new"
        assert len(found) == 10
        assert not set(nearest[:4]) & set(found)
        assert set(found) <= set(ids(each.search(vectors[7], 20, exact=True)))


def test_where_most_is_gone_all_that_is_left_are_compared(root: Path, vectors: np.ndarray[Any, Any]) -> None:
    index = opened(root)
    index.remove([id for id in index.ids if int(id) % 100])
    assert ids(index.search(vectors[7], 12)) == ids(index.search(vectors[7], 12, exact=True))
    assert len(index.search(vectors[7], 50)) == 30


def test_a_filter_is_answered_by_comparing_what_passes(root: Path, vectors: np.ndarray[Any, Any]) -> None:
    index = opened(root)
    for query in vectors[:20]:
        found = index.search(query, filter={"n": 3})
        assert {match.metadata["n"] for match in found} == {3}
        assert found == index.search(query, filter={"n": 3}, exact=True)


def test_a_graph_goes_with_its_version(root: Path, tmp_path: Path, vectors: np.ndarray[Any, Any]) -> None:
    index = opened(root)
    assert index.save() == 2
    assert index.rollback(version=1) == 3
    index.backup(tmp_path / "copies")
    assert [each.graph for each in index.versions()] == [True, False, True]
    copy = opened(tmp_path / "copies")
    assert copy.verify().graph
    assert ids(copy.search(vectors[3])) == ids(index.search(vectors[3]))


def test_without_faiss_an_index_with_a_graph_is_searched_exactly(
    root: Path, vectors: np.ndarray[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    index = opened(root)
    for query in vectors[:20]:
        assert index.search(query) == index.search(query, exact=True)
    with pytest.raises(CapabilityError, match=r"holdfast\[faiss\]"):
        index.save(graph=True)
    assert index.version == 1


@pytest.mark.parametrize("damage", ["torn", "foreign", "of fewer"])
def test_a_damaged_graph_is_refused_and_the_version_before_loads(
    root: Path, vectors: np.ndarray[Any, Any], damage: str
) -> None:
    index = opened(root)
    index.save(graph=True)
    graph = root / "default" / "v000002" / "graph.faiss"
    data = graph.read_bytes()
    if damage == "of fewer":
        smaller = FileVectorIndex(root.parent / "others")
        smaller.add(["a"], vectors[:1])
        smaller.save(graph=True)
        data = (root.parent / "others/default/v000001/graph.faiss").read_bytes()
    graph.write_bytes({"torn": data[:-100], "foreign": b"x" * len(data), "of fewer": data}[damage])
    again = FileVectorIndex(root)
    with pytest.raises(CorruptError, match=r"graph\.faiss"):
        again.load(version=2)
    with pytest.warns(RuntimeWarning, match=r"version 1.*graph\.faiss"):
        assert again.load(verify=False)
    assert ids(again.search(vectors[0]))[0] == "0"


def test_a_metric_without_graphs_is_refused_and_nothing_is_saved(tmp_path: Path) -> None:
    index = FileVectorIndex(tmp_path, metric="l1")
    index.add(["a"], [[1.0, 2.0]])
    with pytest.raises(CapabilityError, match="l1"):
        index.save(graph=True)
    assert not index.versions()


def test_an_empty_index_has_no_graph(tmp_path: Path) -> None:
    index = FileVectorIndex(tmp_path, dimensions=2)
    assert index.save(graph=True) == 1
    assert [each.graph for each in index.versions()] == [False]
    assert index.search([1.0, 0.0]) == []

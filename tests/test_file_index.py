"""Indexes in files: what was acknowledged is there again, what is damaged is refused, versions come and go whole."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from persistence import (
    ConfigError,
    ConflictError,
    CorruptError,
    DuplicateError,
    NotFoundError,
    UnavailableError,
    ValidationError,
)
from tests.unasync import ROOT
from vectorstore import FileVectorIndex, IndexMatch
from vectorstore import index_files as files
from vectorstore.distance import METRICS, distances, score

X, Y, Z = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "indexes"


@pytest.fixture
def index(root: Path) -> FileVectorIndex:
    """An index with two entries, saved as version 1, and a third one in its journal."""
    made = FileVectorIndex(root, model="some model")
    assert made.add(["a", "b"], [X, Y], [{"n": 1}, {}]) == 2
    assert made.save() == 1
    assert made.add(["c"], [Z], [{"n": 3, "text": "ü\n"}]) == 1
    return made


def content(index: FileVectorIndex) -> dict[str, tuple[list[float], dict[str, Any]]]:
    """Return all that an index holds."""
    found = {}
    for id in index.ids:
        entry = index.get(id)
        assert entry is not None
        found[id] = (entry[0].tolist(), entry[1])
    assert len(index) == len(found)
    return found


def opened(root: Path, **options: Any) -> FileVectorIndex:
    index = FileVectorIndex(root)
    assert index.load(**options) is True
    return index


def ids(matches: list[IndexMatch]) -> list[str]:
    return [match.id for match in matches]


ALL = {"a": (X, {"n": 1}), "b": (Y, {}), "c": (Z, {"n": 3, "text": "ü\n"})}


# What is kept


def test_what_was_saved_and_what_was_added_since_is_loaded(index: FileVectorIndex, root: Path) -> None:
    assert content(index) == ALL
    again = opened(root)
    assert content(again) == ALL
    assert (again.dimensions, again.metric, again.model, again.version) == (3, "cosine", "some model", 1)
    assert again.ids == ["a", "b", "c"]
    assert ("a" in again, "x" in again, again.get("x")) == (True, False, None)


@pytest.mark.parametrize("dimensions", [None, 3])
def test_nothing_saved_is_no_error_until_it_is_searched(root: Path, dimensions: int | None) -> None:
    index = FileVectorIndex(root, dimensions=dimensions)
    for _ in range(2):
        with pytest.raises(NotFoundError, match="nothing was loaded, and nothing added"):
            index.search(X)
        assert index.load("nothing") is False
    assert (len(index), index.ids, index.versions("nothing")) == (0, [], [])
    assert not root.exists()
    index.add(["a"], [X])
    assert ids(index.search(X)) == ["a"]
    index.remove(["a"])
    assert index.search(X) == []


def test_what_is_removed_and_replaced_stays_so(index: FileVectorIndex, root: Path) -> None:
    assert index.remove(["a", "missing", "a"]) == 1
    assert index.add(["b", "d", "d"], [X, Y, Z], [{"new": True}, {"first": 1}, {"last": 2}]) == 2
    expected = {"c": ALL["c"], "b": (X, {"new": True}), "d": (Z, {"last": 2})}
    assert content(index) == content(opened(root)) == expected
    assert index.save() == 2
    assert content(index) == content(opened(root)) == expected
    assert opened(root).ids == ["c", "b", "d"]
    index.add(["a"], [Y])
    assert content(opened(root)) == {**expected, "a": (Y, {})}


def test_all_can_be_removed_and_saved(index: FileVectorIndex, root: Path) -> None:
    assert index.remove(index.ids) == 3
    assert index.save() == 2
    again = opened(root)
    assert (content(again), again.search(X), again.dimensions) == ({}, [], 3)
    again.add(["z"], [Z])
    assert content(opened(root)) == {"z": (Z, {})}


def test_names_are_apart(index: FileVectorIndex, root: Path) -> None:
    assert index.save("other") == 1
    index.add(["d"], [X])
    assert set(content(opened(root))) == {"a", "b", "c"}
    other = FileVectorIndex(root)
    assert other.load("other")
    assert set(content(other)) == {"a", "b", "c", "d"}


def test_without_a_save_nothing_is_written(root: Path) -> None:
    index = FileVectorIndex(root, dimensions=3)
    index.add(["a"], [X])
    index.remove(["a"])
    assert not root.exists()


def test_the_vectors_are_numpy_s_and_nothing_is_pickled(index: FileVectorIndex, root: Path) -> None:
    index.save()
    folder = root / "default" / "v000002"
    assert np.load(folder / "vectors.npy", allow_pickle=False).tolist() == [X, Y, Z]
    assert json.loads((folder / "ids.json").read_text("utf-8")) == ["a", "b", "c"]
    told = json.loads((folder / "manifest.json").read_text("utf-8"))
    assert {name: told[name] for name in ("count", "dimensions", "metric", "model", "version", "parent")} == {
        "count": 3, "dimensions": 3, "metric": "cosine", "model": "some model", "version": 2, "parent": 1
    }  # fmt: skip
    assert sorted(each.name for each in folder.iterdir()) == [
        "ids.json", "journal", "manifest.json", "metadata.bin", "vectors.npy"
    ]  # fmt: skip


# What is found


@pytest.mark.parametrize("metric", METRICS)
def test_the_nearest_are_those_of_comparing_all(root: Path, metric: Any) -> None:
    chance = np.random.default_rng(2)
    vectors = chance.normal(size=(300, 8)).astype(np.float32)
    index = FileVectorIndex(root, metric=metric)
    index.add([f"{n:03}" for n in range(200)], vectors[:200], [{"n": n} for n in range(200)])
    index.save()
    index.add([f"{n:03}" for n in range(200, 300)], vectors[200:], [{"n": n} for n in range(200, 300)])
    index.remove([f"{n:03}" for n in range(0, 300, 7)])
    left = [n for n in range(300) if n % 7]
    for each in (index, opened(root)):
        for query in vectors[:5]:
            apart = distances(vectors[left], query, metric)
            expected = sorted(zip(apart.tolist(), (f"{n:03}" for n in left), strict=True))
            found = each.search(query, 12)
            assert [(match.distance, match.id) for match in found] == expected[:12]
            assert [match.score for match in found] == [score(distance, metric) for distance, _ in expected[:12]]
            some = each.search(query, 5, filter={"n": {"$lt": 50}})
            assert ids(some) == [id for _, id in expected if int(id) < 50][:5]
            assert [match.metadata["n"] for match in some] == [int(match.id) for match in some]
            least = expected[3][0]
            assert ids(each.search(query, 10, min_score=score(least, metric))) == [id for _, id in expected[:4]]


# Bad input


def test_bad_input_is_refused_and_changes_nothing(index: FileVectorIndex, root: Path) -> None:
    for given, message in [
        ((["d", "e"], [X]), "2 ids, 1 vectors"),
        ((["d"], [X], []), "1 ids, 1 vectors and 0 metadata"),
        (("d", [X]), "ids is one str"),
        (([""], [X]), "the id is empty"),
        ((["d\0"], [X]), "NUL"),
        (([7], [X]), "the id is a int"),
        ((["d"], 0.5), "vectors is one float"),
        ((["e", "d"], [X, [1.0, 2.0]]), "'d' has 2 dimensions, and the collection has 3"),
        ((["d"], [[np.nan, 0, 0]]), "'d' has a NaN"),
        ((["d"], [[0, 0, 0]]), "'d' has length 0"),
        ((["d"], [["x", "y", "z"]]), "'d' is no list of numbers"),
        ((["e", "d"], [X, Y], [{}, {"n": float("nan")}]), "'d'"),
        ((["d"], [X], [{1: 2}]), "'d'"),
        ((["d"], [X], ["text"]), "'d'"),
    ]:
        with pytest.raises(ValidationError, match=message):
            index.add(*given)  # type: ignore[arg-type]
    for k in (0, -1, True, 1.5):
        with pytest.raises(ValidationError):
            index.search(X, k)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="2 dimensions"):
        index.search([1.0, 2.0])
    with pytest.raises(ValidationError, match="no operator"):
        index.search(X, filter={"n": {"$near": 1}})
    for wrong in (0.5, None, np.array(0.5), "abc"):
        with pytest.raises(ValidationError, match="'d' is no list of numbers"):
            FileVectorIndex(root).add(["d"], [wrong])  # type: ignore[list-item]
    assert content(index) == content(opened(root)) == ALL
    assert index.add([], []) == 0
    assert index.remove([]) == 0


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../up", "a\0", "x" * 65, "é", 7, None])
def test_a_name_that_is_no_folder_s_is_refused(root: Path, name: Any) -> None:
    index = FileVectorIndex(root, dimensions=3)
    for call in (index.save, index.load, index.versions, index.rollback, index.verify):
        with pytest.raises(ValidationError, match="no index's name"):
            call(name)
    assert not root.exists()


def test_an_index_of_other_vectors_is_refused(index: FileVectorIndex, root: Path) -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        ({"dimensions": 4}, "3 dimensions, not 4"),
        ({"metric": "l2"}, "the metric cosine, not l2"),
        ({"model": "another"}, "the embedding model 'some model', not 'another'"),
    ]
    for options, message in cases:
        with pytest.raises(ConfigError, match=message):
            FileVectorIndex(root, **options).load()
        other = FileVectorIndex(root, **({"dimensions": 3} | options))
        other.add(["z"], [np.ones(other.dimensions or 3)])
        with pytest.raises(ConfigError, match=message):
            other.save()
    with pytest.raises(ValidationError, match="no dimensions"):
        FileVectorIndex(root).save("new")
    assert content(opened(root)) == ALL


# Versions


def test_versions_are_listed_and_the_oldest_go(root: Path) -> None:
    index = FileVectorIndex(root, keep=2)
    for n in range(1, 5):
        index.add([f"{n}"], [X])
        assert index.save() == n
    assert [(each.version, each.parent, each.count) for each in index.versions()] == [(4, 3, 4), (3, 2, 3)]
    assert index.versions()[0].bytes == sum(
        (root / "default" / "v000004" / name).stat().st_size for name in ("vectors.npy", "ids.json", "metadata.bin")
    )
    assert sorted(each.name for each in (root / "default").iterdir()) == ["CURRENT", "LOCK", "v000003", "v000004"]


def test_a_version_is_loaded_as_it_was_saved_and_left_alone(index: FileVectorIndex, root: Path) -> None:
    index.save()
    old = opened(root, version=1)
    assert set(content(old)) == {"a", "b"}
    old.add(["x"], [X])
    assert content(opened(root)) == ALL
    assert set(content(opened(root, version=1))) == {"a", "b"}
    with pytest.raises(NotFoundError, match="no version 9"):
        old.load(version=9)


def test_a_rollback_is_a_new_version_and_can_be_rolled_back(index: FileVectorIndex, root: Path) -> None:
    index.remove(["a"])
    assert index.save() == 2
    index.add(["late"], [X])
    assert index.rollback() == 3
    assert set(content(index)) == set(content(opened(root))) == {"a", "b"}
    assert [(each.version, each.parent) for each in index.versions()] == [(3, 1), (2, 1), (1, None)]
    index.add(["more"], [X])
    assert set(content(opened(root))) == {"a", "b", "more"}
    assert index.rollback(version=2) == 4
    assert set(content(opened(root))) == {"b", "c"}
    for version in (1, 99):
        with pytest.raises(NotFoundError):
            index.rollback(version=version)
    with pytest.raises(NotFoundError):
        FileVectorIndex(root).rollback("none")


def test_a_backup_opens_as_it_is_and_goes_its_own_way(index: FileVectorIndex, root: Path, tmp_path: Path) -> None:
    assert index.backup(tmp_path / "copies") == tmp_path / "copies" / "default"
    index.add(["d"], [X])
    shutil.rmtree(root)
    assert content(opened(tmp_path / "copies")) == ALL
    with pytest.raises(NotFoundError):
        index.backup(tmp_path / "elsewhere")


def test_a_backup_replaces_nothing_and_copies_nothing_damaged(
    index: FileVectorIndex, root: Path, tmp_path: Path
) -> None:
    index.backup(tmp_path / "copies")
    with pytest.raises(DuplicateError, match="choose another destination"):
        index.backup(tmp_path / "copies")
    damage(root / "default" / "v000001" / "vectors.npy", 140)
    with pytest.raises(CorruptError):
        index.backup(tmp_path / "others")
    assert not (tmp_path / "others").exists()


# Several programs


def test_who_writes_after_another_is_told_and_loads_again(index: FileVectorIndex, root: Path) -> None:
    other = opened(root)
    index.add(["d"], [X])
    message = "another program has changed"
    with pytest.raises(ConflictError, match=message):
        other.add(["e"], [Y])
    with pytest.raises(ConflictError, match=message):
        other.remove(["a"])
    with pytest.raises(ConflictError, match=message):
        other.save()
    assert set(content(other)) == {"a", "b", "c"}
    other.load()
    other.add(["e"], [Y])
    other.save()
    with pytest.raises(ConflictError):
        index.add(["f"], [Y])
    index.load()
    assert set(content(index)) == {"a", "b", "c", "d", "e"}


def test_a_change_that_comes_while_another_loads_is_not_overwritten(index: FileVectorIndex, root: Path) -> None:
    index.add([f"n{n}" for n in range(20_000)], np.tile(np.array(X, np.float32), (20_000, 1)))  # takes a while to read
    other = FileVectorIndex(root)
    for turn in range(12):
        both = threading.Barrier(2)

        def write(id: str = f"late{turn}", both: threading.Barrier = both) -> None:
            both.wait()
            index.add([id], [X])

        writer = threading.Thread(target=write)
        writer.start()
        both.wait()
        other.load(verify=False)
        writer.join()
        with suppress(ConflictError):
            other.add([f"other{turn}"], [Y])
        index.load(verify=False)
        assert f"late{turn}" in index


class Interrupted(FileVectorIndex):
    """An index in whose loading something comes between."""

    before: Callable[[], object] | None = None
    between: Callable[[], object] | None = None

    def _take(self, *args: Any, **options: Any) -> None:
        if self.before is not None:
            self.before()
        super()._take(*args, **options)

    def _clear(self) -> None:
        super()._clear()
        if self.between is not None:
            self.between()


def test_a_version_that_comes_while_another_loads_goes_on_counting(index: FileVectorIndex, root: Path) -> None:
    other = Interrupted(root)
    other.between = index.save
    other.load()
    other.between = None
    with pytest.raises(ConflictError):
        other.add(["other"], [Y])
    index.add(["d"], [X])
    assert content(opened(root)) == content(index)


def test_a_version_that_is_deleted_while_another_loads_it_is_no_damage(root: Path) -> None:
    writer, reader = FileVectorIndex(root, keep=1), Interrupted(root)
    writer.add(["a"], [X])
    writer.save()
    saves = iter(range(2))
    reader.before = lambda: next(saves, None) is None or writer.save()
    reader.load()
    assert (reader.version, content(reader)) == (3, content(writer))
    reader.before = writer.save
    with pytest.raises(NotFoundError, match="no version 3") as gone:
        reader.load(version=3)
    assert gone.value.hint == "it has [4]"
    with pytest.raises(ConflictError, match="anew each time, 20 times"):
        reader.load()
    assert (reader.version, reader.verify().version, writer.version) == (3, 24, 24)


def test_a_version_that_is_deleted_half_read_is_no_damage(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer, loads = FileVectorIndex(root, keep=1), json.loads
    writer.add(["a"], [X], [{"n": 1}])
    writer.save()

    def saved_after_the_ids(text: Any) -> Any:
        if text[:1] == b"[":
            monkeypatch.undo()
            writer.save()
        return loads(text)

    monkeypatch.setattr(json, "loads", saved_after_the_ids)
    reader = opened(root)
    assert (reader.version, content(reader)) == (2, content(writer))


def test_a_reader_keeps_what_it_loaded_while_versions_go(index: FileVectorIndex, root: Path) -> None:
    reader = opened(root)
    for _ in range(5):
        index.remove(["a"])
        index.add(["a"], [Z])
        index.save()
    assert content(reader) == ALL
    assert ids(reader.search(X, 1)) == ["a"]


def test_threads_write_and_search_at_the_same_time(index: FileVectorIndex, root: Path) -> None:
    problems: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(20):
                id = f"{number}-{turn}"
                index.add([id], [[1.0, number, turn]], [{"id": id}])
                found = index.search([1.0, number, turn], 200)
                assert id in ids(found)
                assert all(match.metadata.get("id", match.id) == match.id for match in found if "-" in match.id)
                if turn % 5 == 0:
                    index.save()
                if turn % 2:
                    index.remove([id])
        except BaseException as exc:
            problems.append(exc)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(1, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    assert set(content(opened(root))) == {*ALL, *(f"{n}-{turn}" for n in range(1, 4) for turn in range(0, 20, 2))}


LIMITED = """
import resource, signal, sys
from persistence import UnavailableError
from vectorstore import FileVectorIndex
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
index = FileVectorIndex(sys.argv[1], dimensions=3)
index.add(["a"], [[1, 0, 0]])
index.save()
index.add(["b"], [[0, 1, 0]])
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (index.journal_bytes + 20, unlimited[1]))
try:
    index.add(["c"], [[0, 0, 1]])
except UnavailableError:
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert index.ids == ["a", "b"]
    index.add(["d"], [[0, 0, 1]])
"""


def test_a_change_that_found_no_room_is_taken_back_and_the_next_one_goes_on(root: Path) -> None:
    subprocess.run([sys.executable, "-c", LIMITED, str(root)], cwd=ROOT, check=True, timeout=60)
    assert opened(root).ids == ["a", "b", "d"]


WRITER = """
import sys
from vectorstore.file_index import FileVectorIndex
index = FileVectorIndex(sys.argv[1], dimensions=3, keep=2)
index.load() or index.save()
for turn in range(100000):
    index.add([f"{turn}-{n}" for n in range(50)], [[1, turn, n] for n in range(50)], [{"n": n} for n in range(50)])
    print(turn, flush=True)
    if turn % 7 == 6:
        index.save()
"""


@pytest.mark.parametrize("turns", [1, 7, 20])
def test_a_kill_loses_nothing_that_was_acknowledged(root: Path, turns: int) -> None:
    command = [sys.executable, "-c", WRITER, str(root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(turns)]
        process.send_signal(signal.SIGKILL)
    index = opened(root)
    found = set(index.ids)
    there = {int(id.partition("-")[0]) for id in found}
    assert set(told) <= there == set(range(len(there)))
    assert found == {f"{turn}-{n}" for turn in there for n in range(50)}
    index.add(["more"], [X])
    index.save()
    assert set(opened(root).ids) == {*found, "more"}
    assert {each.name for each in (root / "default").glob(".*")} == set()


# Damage


def damage(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x10
    path.write_bytes(bytes(data))


def versions_of(root: Path) -> list[Path]:
    return sorted((root / "default").glob("v*"))


@pytest.fixture
def two(index: FileVectorIndex, root: Path) -> Path:
    """The newest of two versions: 1, whose journal has c, and 2, which has c too, and d in its journal."""
    index.save()
    index.add(["d"], [X])
    return versions_of(root)[-1]


def break_file(folder: Path, how: str) -> None:
    name, _, what = how.partition(" ")
    path = folder / name
    match what:
        case "missing":
            path.unlink()
        case "torn":
            path.write_bytes(path.read_bytes()[:-3])
        case "empty":
            path.write_bytes(b"")
        case "foreign":
            path.write_bytes(b"\x80\x04some pickle.")
        case "changed":
            damage(path, path.stat().st_size - 3)


DAMAGE = [
    f"{name} {what}"
    for name in ("vectors.npy", "ids.json", "metadata.bin", "manifest.json")
    for what in ("missing", "torn", "empty", "foreign", "changed")
]


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_version_is_refused_and_the_last_good_one_loads(two: Path, root: Path, how: str) -> None:
    break_file(two, how)
    with pytest.raises(CorruptError, match=r"v000002 is no whole version"):
        FileVectorIndex(root).load(version=2)
    with pytest.raises(CorruptError, match=r"v000002 is no whole version"):
        FileVectorIndex(root).verify()
    index = FileVectorIndex(root)
    with pytest.warns(RuntimeWarning, match=r"loaded as of version 1: .*v000002 is no whole version"):
        assert index.load() is True
    assert content(index) == ALL
    index.add(["e"], [Y])  # from here on the good one counts
    again = opened(root)
    assert set(content(again)) == {"a", "b", "c", "e"}
    assert again.save() == 3
    assert set(content(opened(root))) == {"a", "b", "c", "e"}


def test_where_no_version_is_whole_that_is_an_error(two: Path, root: Path) -> None:
    for folder in versions_of(root):
        break_file(folder, "ids.json torn")
    with pytest.raises(CorruptError, match=r"v000002.*ids.json has") as caught:
        FileVectorIndex(root).load()
    assert caught.value.hint is not None
    assert "backup" in caught.value.hint


def test_a_vector_that_changed_on_disk_is_found_by_its_checksum(two: Path, root: Path) -> None:
    damage(two / "vectors.npy", 140)
    index = FileVectorIndex(root)
    assert index.load(verify=False)
    with pytest.raises(CorruptError, match=r"vectors.npy is not the file that was written"):
        index.verify()


@pytest.mark.parametrize("left", range(1, 60, 7))
def test_the_torn_end_of_a_journal_is_cut(index: FileVectorIndex, root: Path, left: int) -> None:
    journal = root / "default" / "v000001" / "journal"
    before = journal.read_bytes()
    index.add(["d"], [X], [{"n": 4}])
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(before) + left])
    again = opened(root)
    assert content(again) == ALL
    again.add(["e"], [Y])
    assert set(content(opened(root))) == {*ALL, "e"}


def test_zeros_behind_a_journal_are_what_a_power_cut_leaves(index: FileVectorIndex, root: Path) -> None:
    with open(root / "default" / "v000001" / "journal", "ab") as file:
        file.write(b"\0" * 100)
    again = opened(root)
    assert content(again) == ALL
    again.add(["e"], [Y])
    assert set(content(opened(root))) == {*ALL, "e"}


@pytest.mark.parametrize("place", [0, 19, 27, 31, 35, 60])
def test_a_journal_that_is_damaged_before_its_end_is_refused(index: FileVectorIndex, root: Path, place: int) -> None:
    index.add(["d"], [X])
    damage(root / "default" / "v000001" / "journal", place)
    with pytest.raises(CorruptError, match="journal"):
        FileVectorIndex(root).load()
    assert set(content(opened(root, version=1))) == {"a", "b"}


def test_a_folder_of_something_else_is_refused(root: Path) -> None:
    (root / "default" / "v000001").mkdir(parents=True)
    (root / "default" / "v000001" / "manifest.json").write_text('{"format": "another", "seal": ""}')
    with pytest.raises(CorruptError, match="its format is 'another'"):
        FileVectorIndex(root).load()
    (root / "default" / "v000001" / "manifest.json").write_text("[1, 2]")
    with pytest.raises(CorruptError, match="no manifest"):
        FileVectorIndex(root).load()


def test_without_the_file_that_says_which_version_counts_the_newest_does(two: Path, root: Path) -> None:
    (root / "default" / "CURRENT").unlink()
    index = opened(root)
    assert set(content(index)) == {*ALL, "d"}
    index.add(["e"], [Y])
    assert set(content(opened(root))) == {*ALL, "d", "e"}


def test_a_version_that_was_never_finished_does_not_count(index: FileVectorIndex, root: Path) -> None:
    draft = root / "default" / ".draft-x"
    draft.mkdir()
    (draft / "vectors.npy").write_bytes(b"half")
    shutil.copytree(root / "default" / "v000001", root / "default" / "v000002")  # killed before CURRENT
    assert content(opened(root)) == ALL
    assert index.save() == 3
    assert not draft.exists()


# What it costs


def test_opening_maps_the_vectors_instead_of_reading_them(root: Path) -> None:
    index = FileVectorIndex(root)
    index.add([f"{n}" for n in range(500)], np.random.default_rng(1).normal(size=(500, 64)))
    index.save()
    again = opened(root, verify=False)
    assert again._matrix is not None
    assert not again._matrix.vectors.flags.writeable
    journal = root / "default" / "v000001" / "journal"
    again.add(["a"], [np.ones(64)])
    assert journal.stat().st_size < 500  # one vector of 256 bytes, not all of them
    assert again.journal_bytes == journal.stat().st_size


def test_files_are_their_owner_s(index: FileVectorIndex, root: Path) -> None:
    folder = root / "default"
    assert oct(folder.stat().st_mode & 0o777) == "0o700"
    assert oct((folder / "v000001").stat().st_mode & 0o777) == "0o700"


def test_a_save_that_fails_leaves_what_was_there(root: Path) -> None:
    index = FileVectorIndex(root, dimensions=3)
    index.add(["a"], [X])
    index.save()
    (root / "default" / "CURRENT.draft").mkdir()  # so that it can't be written
    index.add(["b"], [Y])
    with pytest.raises(UnavailableError, match=r"can't be written.*draft"):
        index.save()
    assert set(content(opened(root))) == {"a", "b"}
    os.rmdir(root / "default" / "CURRENT.draft")
    assert index.save() == 3
    assert set(content(opened(root))) == {"a", "b"}
    assert files.version_numbers(root / "default") == [3, 2, 1]

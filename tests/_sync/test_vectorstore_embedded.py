# Generated from ../_async/test_vectorstore_embedded.py by tests/unasync.py: edit that one.
"""The stores that need no server: what their process holds is never stale, survives what a file does, finds words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest

from persistence import DatabaseManager, CapabilityError, ConfigError, SQLiteConfig
from tests._sync.side import together
from tests.unasync import ROOT
from vectorstore import (
    MemoryVectorStore,
    SQLiteVectorStore,
    VectorStore,
    Document,
    SearchResult,
)
from vectorstore._sync import sqlite_vectors
from vectorstore.matrix_file import open_matrix, save_matrix

DATA = Path(os.environ.get("HOLDFAST_BENCH_DATA", ROOT.parent / "shared" / "data"))
X, Y = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
WIDE = 8000
"""So many dimensions that a few documents are worth a file."""
MANY = sqlite_vectors.SAVED_NUMBERS // WIDE + 1
LATER = datetime.now(UTC) + timedelta(days=1)
EARLIER = datetime.now(UTC) - timedelta(days=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database file is."""
    return tmp_path / "main.db"


@pytest.fixture
def file(manager: DatabaseManager, path: Path) -> SQLiteVectorStore:
    """An empty store on the connection ``main``, a SQLite file."""
    manager.add_sqlite("main", SQLiteConfig(path=str(path)))
    return SQLiteVectorStore(manager, "main", dimensions=3)


@pytest.fixture
def other(path: Path) -> Iterator[DatabaseManager]:
    """Another manager on the same file, as another program has one."""
    with DatabaseManager() as made:
        made.add_sqlite("main", SQLiteConfig(path=str(path)))
        yield made


def doc(id: str, /, vector: Any = X, content: str = "text", **options: Any) -> Document:
    return Document(id, content, options.pop("metadata", {}), vector, **options)


def ids(results: list[SearchResult]) -> list[str]:
    return [result.id for result in results]


def wide(count: int = MANY, first: int = 0) -> list[Document]:
    """Documents whose nth one is nearest to ``ray(n)``."""
    return [doc(f"{n:05}", ray(n)) for n in range(first, first + count)]


def ray(n: int) -> Any:
    return np.random.default_rng(n).normal(size=WIDE).astype(np.float32)


def reopened(path: Path) -> tuple[DatabaseManager, SQLiteVectorStore]:
    manager = DatabaseManager()
    manager.add_sqlite("main", SQLiteConfig(path=str(path)))
    return manager, SQLiteVectorStore(manager, "main", dimensions=WIDE)


def nearest(path: Path, n: int) -> list[str]:
    """Return what a program that just began finds nearest to ``ray(n)``."""
    manager, store = reopened(path)
    with manager:
        return ids(store.search(ray(n), 1))


# Never stale


def test_a_change_of_another_program_is_seen_by_the_next_search(
    file: SQLiteVectorStore, other: DatabaseManager
) -> None:
    beside = SQLiteVectorStore(other, "main", dimensions=3)
    assert file.search(X) == []
    beside.store_documents([doc("a"), doc("b", Y)])
    assert ids(file.search(X, 1)) == ["a"]
    beside.store_documents([doc("b", X), doc("a", Y)])
    assert ids(file.search(X, 1)) == ["b"]
    beside.update_document("a", embedding=[1, 0.1, 0], metadata={"n": 1})
    assert ids(file.search(X)) == ["b", "a"]
    assert ids(file.search(X, filter={"n": 1})) == ["a"]
    beside.update_document("a", metadata={"n": 2})
    assert ids(file.search(X, filter={"n": 1})) == []
    beside.delete(["b"])
    assert ids(file.search(X)) == ["a"]
    beside.delete(filter={})
    assert ids(file.search(X)) == []


def test_what_was_found_before_is_found_again_as_it_is_now(
    file: SQLiteVectorStore, other: DatabaseManager
) -> None:
    beside = SQLiteVectorStore(other, "main", dimensions=3)
    large = "x" * (sqlite_vectors.KEPT_CHARACTERS // 2)
    file.store_documents(
        [doc("a", metadata={"n": 1}), doc("b", [1, 1, 0]), doc("c", Y, large), doc("d", Y, large)]
    )
    for content in ("one", "two"):
        beside.update_document("a", content=content)
        for _ in range(2):
            [found, *_] = file.search(X, 4, with_embeddings=True)
            assert (found.id, found.content, found.metadata, found.score) == ("a", content, {"n": 1}, 1.0)
            assert found.embedding is not None
            assert found.embedding.tolist() == X
            found.embedding[:] = 7  # theirs
            found.metadata["n"] = 2
            assert [len(each.content) for each in file.search(Y, 4)] == [len(large), len(large), 4, 3]


def test_a_file_that_is_set_back_and_goes_another_way_is_seen(
    file: SQLiteVectorStore, path: Path, tmp_path: Path
) -> None:
    file.store_documents([doc("a")])
    with closing(sqlite3.connect(path)) as by_hand, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        by_hand.backup(backup)
        file.store_documents([doc("b")])
        assert ids(file.search(X)) == ["a", "b"]
        backup.backup(by_hand)
    assert ids(file.search(X)) == ["a"]
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup, closing(sqlite3.connect(path)) as by_hand:
        file.store_documents([doc("b")])
        assert ids(file.search(X)) == ["a", "b"]
        backup.backup(by_hand)
    with DatabaseManager() as other:  # as many changes as before, and others
        other.add_sqlite("main", SQLiteConfig(path=str(path)))
        SQLiteVectorStore(other, "main", dimensions=3).store_documents([doc("c")])
    assert ids(file.search(X)) == ["a", "c"]


def test_a_change_by_hand_is_seen_by_the_next_search(file: SQLiteVectorStore, path: Path) -> None:
    file.store_documents([doc("a", metadata={"n": 1}), doc("b", metadata={"n": 1})])
    assert ids(file.search(X, filter={"n": 1})) == ["a", "b"]
    with closing(sqlite3.connect(path)) as by_hand, by_hand:
        by_hand.execute("DELETE FROM holdfast_documents WHERE id = 'a'")
    assert ids(file.search(X, filter={"n": 1})) == ["b"]
    with closing(sqlite3.connect(path)) as by_hand, by_hand:
        by_hand.execute("UPDATE holdfast_documents SET metadata = '{}'")
    assert ids(file.search(X, filter={"n": 1})) == []
    assert ids(file.search(X)) == ["b"]


WRITER = """
import sys
from persistence import DatabaseManager, SQLiteConfig
from vectorstore import Document, SQLiteVectorStore
with DatabaseManager() as manager:
    manager.add_sqlite("main", SQLiteConfig(path=sys.argv[1]))
    store = SQLiteVectorStore(manager, "main", dimensions=3, text_search="english")
    for line in sys.stdin:
        store.store_documents([Document(f"{line.strip()}-{n}", "some words", {}, [1, n, 0]) for n in range(50)])
        print(line.strip(), flush=True)
"""


def writer(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def write(process: subprocess.Popen[str], batch: str) -> None:
    """Have a writer store a batch, and wait until it says so."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{batch}\n")
    process.stdin.flush()
    assert process.stdout.readline().strip() == batch


def test_what_several_processes_write_is_there_once_they_say_so(file: SQLiteVectorStore, path: Path) -> None:
    file.count()
    with writer(path) as one, writer(path) as two:
        for turn in range(8):
            write(one, f"one{turn}")
            write(two, f"two{turn}")
            file.store_documents([doc(f"own{turn}")])
            found = ids(file.search(X, 1000))
            assert len(found) == 101 * (turn + 1)
            assert {f"one{turn}-49", f"two{turn}-49", f"own{turn}"} <= set(found)
            file.delete([f"one{turn}-49"])
            assert f"one{turn}-49" not in ids(file.search(X, 1000))
            file.store_documents([doc(f"one{turn}-49")])


def test_a_kill_in_the_middle_of_a_load_loses_no_batch_that_was_acknowledged(path: Path) -> None:
    lines = path.with_name("lines")
    lines.write_text("".join(f"{n}\n" for n in range(1000)))
    command = [sys.executable, "-c", WRITER, str(path)]
    with lines.open() as given, subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().decode().strip() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    with DatabaseManager() as manager:
        database = manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        store = SQLiteVectorStore(manager, "main", dimensions=3)
        found = ids(store.search(X, 10**6))
        batches = {id.partition("-")[0] for id in found}
        assert set(told) == {"0", "1", "2", "3"} <= batches
        assert len(batches) < 1000
        assert sorted(found) == sorted(f"{batch}-{n}" for batch in batches for n in range(50))
        assert database.fetch_value("SELECT count(*) FROM holdfast_vectors") == len(found)
        assert len(store.search("words", 10**6, mode="text")) == len(found)


def test_what_is_rolled_back_was_found_inside_and_never_elsewhere(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    file.store_documents([doc("a")])
    assert ids(file.search(X)) == ["a"]
    for others in ([], ["d"]):
        with pytest.raises(RuntimeError):
            with manager.get_sqlite("main").transaction():
                file.store_documents([doc("b"), doc("c")])
                file.delete(["a"])
                assert ids(file.search(X)) == ["b", "c", *others]
                assert ids(file.search(X, filter={})) == ["b", "c", *others]
                raise RuntimeError("and undone")
        assert ids(file.search(X)) == ["a", *others]
        file.store_documents([doc("d")])
        assert ids(file.search(X)) == ["a", "d"]


def test_searches_and_writes_at_the_same_time_see_whole_states(file: SQLiteVectorStore) -> None:
    file.store_documents([doc(f"{n}", metadata={"turn": 0}) for n in range(40)])

    def rewrite(turn: int) -> None:
        file.store_documents([doc(f"{n}", [1, turn, 0], metadata={"turn": turn}) for n in range(40)])

    def look() -> int:
        found = file.search(X, 100)
        assert len(found) == 40
        assert len({each.metadata["turn"] for each in found}) == 1
        some = file.search(X, 100, filter={"turn": {"$gte": 0}})
        assert len({each.metadata["turn"] for each in some}) == 1
        return len(some)

    for turn in range(1, 5):
        found = together(look, partial(rewrite, turn), look, look, look)
        assert found == [40, None, 40, 40, 40]


def test_a_search_is_one_statement_and_a_new_filter_one_more(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    file.store_documents([doc(f"{n}", metadata={"n": n}) for n in range(20)])

    def statements(**options: Any) -> int:
        before = manager.stats()["main"].requests
        file.search(X, **options)
        return manager.stats()["main"].requests - before

    assert statements() == 1  # with a transaction of its own, that reads what is new
    assert [statements() for _ in range(2)] == [1, 1]
    assert [statements(filter={"n": {"$lt": 5}}) for _ in range(2)] == [2, 1]


def test_more_namespaces_than_are_held_are_searched_all_the_same(file: SQLiteVectorStore) -> None:
    names = [f"space {n}" for n in range(sqlite_vectors.MAX_NAMESPACES + 5)]
    for name in names:
        file.in_namespace(name).store_documents([doc("a", content=name)])
    for name in names + names[:3]:
        assert [each.content for each in file.search(X, namespace=name)] == [name]
        assert [each.content for each in file.in_namespace(name).search(X)] == [name]


# The file beside the database


def matrix_files(path: Path) -> list[Path]:
    return sorted(Path(f"{path}-vectors").glob("*"))


@pytest.fixture
def kept(path: Path) -> Path:
    """A database whose vectors are in a file beside it; the name of that."""
    manager, store = reopened(path)
    with manager:
        store.store_documents(wide())
        assert ids(store.search(ray(7), 1)) == ["00007"]
    [found] = matrix_files(path)
    return found


def test_a_large_collection_is_opened_from_the_file_beside_it(kept: Path, path: Path) -> None:
    assert oct(kept.stat().st_mode & 0o777) == "0o600"
    with closing(sqlite3.connect(path)) as by_hand, by_hand:  # so that nothing can be read from the database
        by_hand.execute("UPDATE holdfast_vectors SET embedding = (SELECT embedding FROM holdfast_vectors LIMIT 1)")
    assert nearest(path, 7) == ["00007"]
    kept.unlink()
    assert nearest(path, 7) == ["00000"]


def test_what_was_written_since_the_file_is_found(kept: Path, path: Path) -> None:
    manager, store = reopened(path)
    with manager:
        store.delete(["00007"])
        store.store_documents(wide(1, 900))
        store.update_document("00009", embedding=-ray(9))
    assert (nearest(path, 7), nearest(path, 9)) != (["00007"], ["00009"])
    assert (nearest(path, 8), nearest(path, 900)) == (["00008"], ["00900"])
    stamp = kept.stat().st_mtime_ns
    manager, store = reopened(path)
    with manager:
        assert ids(store.search(-ray(9), 1)) == ["00009"]
        assert kept.stat().st_mtime_ns == stamp  # too little has changed to write it again
        store.store_documents(wide(MANY, 2000))
        assert ids(store.search(ray(2001), 1)) == ["02001"]
        assert kept.stat().st_mtime_ns != stamp


@pytest.mark.parametrize("same_ids", [True, False])
def test_a_file_of_another_history_is_not_taken(kept: Path, path: Path, tmp_path: Path, same_ids: bool) -> None:
    shutil.copy(path, tmp_path / "backup.db")
    manager, store = reopened(path)
    with manager:
        store.store_documents(wide(MANY, 1000))
        store.search(ray(0), 1)
    shutil.copy(tmp_path / "backup.db", path)
    manager, store = reopened(path)
    with manager:
        again = [doc(f"{n if same_ids else n + 5:05}", -ray(n)) for n in range(1000, 1000 + MANY)]
        store.store_documents(again)
    assert nearest(path, 7) == ["00007"]
    manager, store = reopened(path)
    with manager:
        assert ids(store.search(-ray(1003), 1)) == ["01003" if same_ids else "01008"]
        assert (store.search(ray(1003), 1))[0].score < 0.5


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign", "other numbers", "one byte"])
def test_a_file_that_is_not_whole_is_left_out_and_written_anew(kept: Path, path: Path, damage: str) -> None:
    data = kept.read_bytes()
    place = len(data) // 2 if damage == "torn" else 0
    changed = {
        "foreign": b"x" * len(data),
        "other numbers": data.replace(b'"dimensions": 8000', b'"dimensions": 4000', 1),
        "one byte": data[:4100] + bytes([data[4100] ^ 1]) + data[4101:],
    }.get(damage, data[:place])
    kept.write_bytes(changed)
    assert nearest(path, 7) == ["00007"]
    assert kept.stat().st_size == len(data)


def test_where_no_file_can_be_kept_all_works_without(path: Path) -> None:
    Path(f"{path}-vectors").write_text("not a folder")
    manager, store = reopened(path)
    with manager:
        store.store_documents(wide())
        assert ids(store.search(ray(7), 1)) == ["00007"]
    assert nearest(path, 8) == ["00008"]
    assert Path(f"{path}-vectors").read_text() == "not a folder"


def test_no_file_is_kept_where_none_is_wanted_or_worth_it(path: Path) -> None:
    with DatabaseManager() as manager:
        manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        manager.add_sqlite("memory", SQLiteConfig(path=":memory:"))
        for store in (
            SQLiteVectorStore(manager, "main", dimensions=WIDE, keep_file=False),
            SQLiteVectorStore(manager, "memory", dimensions=WIDE),
        ):
            store.store_documents(wide())
            assert ids(store.search(ray(7), 1)) == ["00007"]
        few = SQLiteVectorStore(manager, "main", dimensions=3, collection="few")
        few.store_documents([doc("a")])
        assert ids(few.search(X)) == ["a"]
    assert matrix_files(path) == []
    assert not Path(":memory:-vectors").exists()


def test_a_matrix_file_holds_its_rows_and_not_those_that_are_gone(tmp_path: Path) -> None:
    from vectorstore.matrix import NEVER, VectorMatrix

    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    ends = np.array([NEVER] * 9 + [5])
    matrix = VectorMatrix.of(np.arange(10) * 7, rows, ends, "l2").kept(np.arange(1, 10) * 7)
    save_matrix(tmp_path / "folder" / "one", matrix)
    found = open_matrix(tmp_path / "folder" / "one", 3, "l2")
    assert found is not None
    assert found.positions.tolist() == [7 * n for n in range(1, 10)]
    assert found.ends.tolist() == [NEVER] * 8 + [5]
    assert found.vectors.tolist() == rows[1:].tolist()
    assert open_matrix(tmp_path / "folder" / "one", 3, "cosine") is None
    assert open_matrix(tmp_path / "none", 3, "l2") is None
    assert [each.name for each in (tmp_path / "folder").iterdir()] == ["one"]


# Documents that end


def test_a_new_end_is_seen_by_those_who_hold_the_vector(
    file: SQLiteVectorStore, other: DatabaseManager
) -> None:
    beside = SQLiteVectorStore(other, "main", dimensions=3)
    file.store_documents([doc("a"), doc("b", expires_at=LATER)])
    assert ids(file.search(X)) == ["a", "b"]
    beside.update_document("a", expires_at=EARLIER)
    assert ids(file.search(X)) == ["b"]
    file.store_documents([doc("a")])
    fresh = file.get("a")
    assert fresh is not None
    assert fresh.created_at == fresh.updated_at  # what had ended was gone
    beside.update_document("b", expires_at="never")
    assert ids(file.search(X, filter={})) == ["a", "b"]
    assert file.delete_expired() == 0


def test_what_has_ended_leaves_the_file_when_asked_to(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    file.store_documents([doc(f"{n}", expires_at=EARLIER) for n in range(5)] + [doc("stays")])
    file.in_namespace("other").store_documents([doc("x", expires_at=EARLIER)])
    assert file.delete_expired(limit=4) == 4
    assert file.delete_expired() == 2
    assert manager.get_sqlite("main").fetch_value("SELECT count(*) FROM holdfast_vectors") == 1
    assert ids(file.search(X)) == ["stays"]


# Words


LINES = {
    "a": "The quick brown foxes are jumping over lazy dogs",
    "b": "A lazy afternoon in the garden with the dog",
    "c": "Nothing about animals: databases, transactions and indexes",
    "d": "foxes foxes foxes",
}


def both(manager: DatabaseManager, **options: Any) -> list[VectorStore]:
    """The same store in a file and in memory."""
    options = {"dimensions": 3, **options}
    return [SQLiteVectorStore(manager, "main", **options), MemoryVectorStore(**options)]


@pytest.mark.parametrize("language", ["english", "simple"])
def test_both_stores_give_words_the_same_scores(
    file: SQLiteVectorStore, manager: DatabaseManager, language: str
) -> None:
    answers = []
    for store in both(manager, collection="words", text_search=language):
        store.store_documents([doc(id, content=text, metadata={"id": id}) for id, text in LINES.items()])
        store.store_documents([doc(f"{n}", content=f"filler {n}") for n in range(10)])
        store.update_document("c", content="a fox, a jump and the index")
        store.delete(["b"])
        store.store_documents([doc("e", content="Lazy foxes"), doc("d", content="foxes, dogs, foxes")])
        for query in ("jumping fox", "LAZY dog's", "the a", "nothing", "", '"; DROP', "NOT a OR *", "ünïcode"):
            for filter in (None, {"id": {"$exists": True}}):
                found = store.search(query, 10, mode="text", filter=filter)
                assert found.plan == "text"
                assert {each.distance for each in found} <= {None}
                answers.append([(each.id, round(each.score, 5)) for each in found])
    half = len(answers) // 2
    assert answers[:half] == answers[half:]
    assert [id for id, _ in answers[0]] == (["c", "a", "d", "e"] if language == "english" else ["c", "a"])
    known = 0 if language == "english" else 1  # "a" is a stop word of English alone
    assert [len(found) for found in answers[6:half]] == [0, 0, 0, 0, 0, 0, known, known, 0, 0]


def test_equal_texts_come_by_id(file: SQLiteVectorStore, manager: DatabaseManager) -> None:
    for store in both(manager, collection="words", text_search="english"):
        for id in ("c", "e", "a", "d", "b"):
            store.store_documents([doc(id, content="a red fox"), doc(f"x{id}", content="something else")])
        for k in (1, 2, 5, 9):
            assert ids(store.search("fox", k, mode="text")) == ["a", "b", "c", "d", "e"][:k]


def test_each_text_has_its_words_once(file: SQLiteVectorStore, manager: DatabaseManager) -> None:
    store = SQLiteVectorStore(manager, "main", dimensions=3, collection="words", text_search="english")
    for _ in range(3):
        store.store_documents([doc(id, content=text) for id, text in LINES.items()])
        store.update_document("a", content="other words", embedding=Y)
        store.update_document("b", expires_at=LATER)
        store.update_document("c", metadata={"n": 1})
        store.replace_source("page", [doc("e", content="first"), doc("f", content="second")])
        store.replace_source("page", [doc("f", content="third")])
    store.delete(["d"])
    database = manager.get_sqlite("main")
    places = database.fetch_all("SELECT position FROM holdfast_documents ORDER BY position")
    words = database.fetch_all("SELECT id AS position FROM holdfast_words_english_docsize ORDER BY id")
    assert words == places
    vectors = database.fetch_all("SELECT position FROM holdfast_vectors ORDER BY position")
    assert vectors == places
    terms = database.fetch_all("SELECT term FROM holdfast_terms_english ORDER BY term")
    assert {"third", "other"} <= {row["term"] for row in terms}
    assert not {"first", "second", "quick", "fox"} & {row["term"] for row in terms}


def test_words_of_an_older_collection_are_searched_once_it_is_opened_for_them(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    file.store_documents([doc(id, content=text) for id, text in LINES.items()])
    with pytest.raises(ConfigError, match="text_search='english'"):
        file.search("fox", mode="text")
    store = SQLiteVectorStore(manager, "main", dimensions=3, text_search="english")
    assert set(ids(store.search("fox", mode="text"))) == {"a", "d"}
    plain = SQLiteVectorStore(manager, "main", dimensions=3)
    plain.store_documents([doc("g", content="a fox")])
    assert set(ids(plain.search("fox", mode="text"))) == {"a", "d", "g"}
    with pytest.raises(ConfigError, match="'english', not 'simple'"):
        SQLiteVectorStore(manager, "main", dimensions=3, text_search="simple").count()


def test_a_language_that_has_no_stems_here_is_refused(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    with pytest.raises(CapabilityError, match="german"):
        MemoryVectorStore(dimensions=3, text_search="german")
    with pytest.raises(CapabilityError, match="german"):
        SQLiteVectorStore(manager, "main", dimensions=3, text_search="german")


def test_words_of_other_tenants_and_namespaces_are_not_found(
    file: SQLiteVectorStore, manager: DatabaseManager
) -> None:
    options: dict[str, Any] = {"dimensions": 3, "collection": "words", "text_search": "english"}
    for tenant in ("one", "two"):
        for namespace in ("x", "y"):
            store = SQLiteVectorStore(manager, "main", tenant=tenant, namespace=namespace, **options)
            store.store_documents([doc("a", content=f"a fox of {tenant} {namespace}")])
    one = SQLiteVectorStore(manager, "main", tenant="one", namespace="x", **options)
    assert [each.content for each in one.search("fox", mode="text")] == ["a fox of one x"]
    assert [each.content for each in one.search("fox", mode="text", namespace="y")] == ["a fox of one y"]
    assert one.search("two", mode="text") == []
    assert [each.content for each in one.search(X, text="two", mode="hybrid")] == ["a fox of one x"]


# How good the answers are


def collection(name: str) -> tuple[list[Document], list[tuple[str, str, Any]], dict[str, dict[str, float]]]:
    """Return the documents of a test collection, its queries with their vectors, and what is relevant to each."""
    folder = DATA / name
    if not folder.is_dir():
        pytest.skip(f"the collection {name} is not in {DATA} (HOLDFAST_BENCH_DATA)")
    lines = {part: (folder / f"{part}.jsonl").read_text("utf-8").splitlines() for part in ("corpus", "queries")}
    documents = []
    for line, vector in zip(lines["corpus"], np.load(folder / "corpus_minilm.npy"), strict=True):
        found = json.loads(line)
        text = found.get("text") or found.get("content") or ""
        documents.append(doc(str(found["id"]), vector, ". ".join(filter(None, [found.get("title"), text]))))
    queries = []
    for line, vector in zip(lines["queries"], np.load(folder / "queries_minilm.npy"), strict=True):
        query = json.loads(line)
        queries.append((str(query["id"]), query["text"], vector))
    relevant: dict[str, dict[str, float]] = {}
    for line in (folder / "qrels.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")[:3]
        relevant.setdefault(query, {})[document] = float(grade)
    return documents, queries, relevant


def ndcg(found: list[str], grades: dict[str, float]) -> float:
    """Return the normalised discounted cumulative gain of the first ten."""
    discounts = 1 / np.log2(np.arange(2, 12))
    gains = np.array([grades.get(id, 0.0) for id in found[:10]])
    best = np.array(sorted(grades.values(), reverse=True)[:10])
    return float((gains @ discounts[: len(gains)]) / (best @ discounts[: len(best)]))


@pytest.mark.parametrize(("name", "dense", "hybrid"), [("cranfield", 0.377, 0.40), ("med", 0.787, 0.80)])
def test_hybrid_search_is_better_than_vectors_alone(
    file: SQLiteVectorStore, manager: DatabaseManager, name: str, dense: float, hybrid: float
) -> None:
    documents, queries, relevant = collection(name)
    stores = both(manager, dimensions=384, collection="papers", text_search="english")
    for store in stores if name == "med" else stores[:1]:  # both give the same, as other tests say
        store.store_documents(documents)
        scores: dict[str, list[float]] = {"vector": [], "hybrid": []}
        for id, text, vector in queries:
            scores["vector"].append(ndcg(ids(store.search(vector)), relevant[id]))
            scores["hybrid"].append(ndcg(ids(store.search(vector, text=text, mode="hybrid")), relevant[id]))
        assert float(np.mean(scores["vector"])) == pytest.approx(dense, abs=0.002)
        assert float(np.mean(scores["hybrid"])) >= hybrid

"""The stores that need no server: what their process holds is never stale, survives what a file does, finds words."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from persistence import AsyncDatabaseManager, CapabilityError, ConfigError, SQLiteConfig
from tests._async.side import together
from tests.unasync import ROOT
from vectorstore import (
    AsyncMemoryVectorStore,
    AsyncSQLiteVectorStore,
    AsyncVectorStore,
    Document,
    SearchResult,
)
from vectorstore._async import sqlite_vectors
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


@pytest_asyncio.fixture
async def file(manager: AsyncDatabaseManager, path: Path) -> AsyncSQLiteVectorStore:
    """An empty store on the connection ``main``, a SQLite file."""
    await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
    return AsyncSQLiteVectorStore(manager, "main", dimensions=3)


@pytest_asyncio.fixture
async def other(path: Path) -> AsyncIterator[AsyncDatabaseManager]:
    """Another manager on the same file, as another program has one."""
    async with AsyncDatabaseManager() as made:
        await made.add_sqlite("main", SQLiteConfig(path=str(path)))
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


async def reopened(path: Path) -> tuple[AsyncDatabaseManager, AsyncSQLiteVectorStore]:
    manager = AsyncDatabaseManager()
    await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
    return manager, AsyncSQLiteVectorStore(manager, "main", dimensions=WIDE)


async def nearest(path: Path, n: int) -> list[str]:
    """Return what a program that just began finds nearest to ``ray(n)``."""
    manager, store = await reopened(path)
    async with manager:
        return ids(await store.search(ray(n), 1))


# Never stale


async def test_a_change_of_another_program_is_seen_by_the_next_search(
    file: AsyncSQLiteVectorStore, other: AsyncDatabaseManager
) -> None:
    beside = AsyncSQLiteVectorStore(other, "main", dimensions=3)
    assert await file.search(X) == []
    await beside.store_documents([doc("a"), doc("b", Y)])
    assert ids(await file.search(X, 1)) == ["a"]
    await beside.store_documents([doc("b", X), doc("a", Y)])
    assert ids(await file.search(X, 1)) == ["b"]
    await beside.update_document("a", embedding=[1, 0.1, 0], metadata={"n": 1})
    assert ids(await file.search(X)) == ["b", "a"]
    assert ids(await file.search(X, filter={"n": 1})) == ["a"]
    await beside.update_document("a", metadata={"n": 2})
    assert ids(await file.search(X, filter={"n": 1})) == []
    await beside.delete(["b"])
    assert ids(await file.search(X)) == ["a"]
    await beside.delete(filter={})
    assert ids(await file.search(X)) == []


async def test_what_was_found_before_is_found_again_as_it_is_now(
    file: AsyncSQLiteVectorStore, other: AsyncDatabaseManager
) -> None:
    beside = AsyncSQLiteVectorStore(other, "main", dimensions=3)
    large = "x" * (sqlite_vectors.KEPT_CHARACTERS // 2)
    await file.store_documents(
        [doc("a", metadata={"n": 1}), doc("b", [1, 1, 0]), doc("c", Y, large), doc("d", Y, large)]
    )
    for content in ("one", "two"):
        await beside.update_document("a", content=content)
        for _ in range(2):
            [found, *_] = await file.search(X, 4, with_embeddings=True)
            assert (found.id, found.content, found.metadata, found.score) == ("a", content, {"n": 1}, 1.0)
            assert found.embedding is not None
            assert found.embedding.tolist() == X
            found.embedding[:] = 7  # theirs
            found.metadata["n"] = 2
            assert [len(each.content) for each in await file.search(Y, 4)] == [len(large), len(large), 4, 3]


async def test_a_file_that_is_set_back_and_goes_another_way_is_seen(
    file: AsyncSQLiteVectorStore, path: Path, tmp_path: Path
) -> None:
    await file.store_documents([doc("a")])
    with closing(sqlite3.connect(path)) as by_hand, closing(sqlite3.connect(tmp_path / "backup.db")) as backup:
        by_hand.backup(backup)
        await file.store_documents([doc("b")])
        assert ids(await file.search(X)) == ["a", "b"]
        backup.backup(by_hand)
    assert ids(await file.search(X)) == ["a"]
    with closing(sqlite3.connect(tmp_path / "backup.db")) as backup, closing(sqlite3.connect(path)) as by_hand:
        await file.store_documents([doc("b")])
        assert ids(await file.search(X)) == ["a", "b"]
        backup.backup(by_hand)
    async with AsyncDatabaseManager() as other:  # as many changes as before, and others
        await other.add_sqlite("main", SQLiteConfig(path=str(path)))
        await AsyncSQLiteVectorStore(other, "main", dimensions=3).store_documents([doc("c")])
    assert ids(await file.search(X)) == ["a", "c"]


async def test_a_change_by_hand_is_seen_by_the_next_search(file: AsyncSQLiteVectorStore, path: Path) -> None:
    await file.store_documents([doc("a", metadata={"n": 1}), doc("b", metadata={"n": 1})])
    assert ids(await file.search(X, filter={"n": 1})) == ["a", "b"]
    with closing(sqlite3.connect(path)) as by_hand, by_hand:
        by_hand.execute("DELETE FROM holdfast_documents WHERE id = 'a'")
    assert ids(await file.search(X, filter={"n": 1})) == ["b"]
    with closing(sqlite3.connect(path)) as by_hand, by_hand:
        by_hand.execute("UPDATE holdfast_documents SET metadata = '{}'")
    assert ids(await file.search(X, filter={"n": 1})) == []
    assert ids(await file.search(X)) == ["b"]


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


async def test_what_several_processes_write_is_there_once_they_say_so(file: AsyncSQLiteVectorStore, path: Path) -> None:
    await file.count()
    with writer(path) as one, writer(path) as two:
        for turn in range(8):
            write(one, f"one{turn}")
            write(two, f"two{turn}")
            await file.store_documents([doc(f"own{turn}")])
            found = ids(await file.search(X, 1000))
            assert len(found) == 101 * (turn + 1)
            assert {f"one{turn}-49", f"two{turn}-49", f"own{turn}"} <= set(found)
            await file.delete([f"one{turn}-49"])
            assert f"one{turn}-49" not in ids(await file.search(X, 1000))
            await file.store_documents([doc(f"one{turn}-49")])


async def test_a_kill_in_the_middle_of_a_load_loses_no_batch_that_was_acknowledged(path: Path) -> None:
    lines = path.with_name("lines")
    lines.write_text("".join(f"{n}\n" for n in range(1000)))
    command = [sys.executable, "-c", WRITER, str(path)]
    with lines.open() as given, subprocess.Popen(command, stdin=given, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().decode().strip() for _ in range(4)]
        process.send_signal(signal.SIGKILL)
    async with AsyncDatabaseManager() as manager:
        database = await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        store = AsyncSQLiteVectorStore(manager, "main", dimensions=3)
        found = ids(await store.search(X, 10**6))
        batches = {id.partition("-")[0] for id in found}
        assert set(told) == {"0", "1", "2", "3"} <= batches
        assert len(batches) < 1000
        assert sorted(found) == sorted(f"{batch}-{n}" for batch in batches for n in range(50))
        assert await database.fetch_value("SELECT count(*) FROM holdfast_vectors") == len(found)
        assert len(await store.search("words", 10**6, mode="text")) == len(found)


async def test_what_is_rolled_back_was_found_inside_and_never_elsewhere(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    await file.store_documents([doc("a")])
    assert ids(await file.search(X)) == ["a"]
    for others in ([], ["d"]):
        with pytest.raises(RuntimeError):
            async with manager.get_sqlite("main").transaction():
                await file.store_documents([doc("b"), doc("c")])
                await file.delete(["a"])
                assert ids(await file.search(X)) == ["b", "c", *others]
                assert ids(await file.search(X, filter={})) == ["b", "c", *others]
                raise RuntimeError("and undone")
        assert ids(await file.search(X)) == ["a", *others]
        await file.store_documents([doc("d")])
        assert ids(await file.search(X)) == ["a", "d"]


async def test_searches_and_writes_at_the_same_time_see_whole_states(file: AsyncSQLiteVectorStore) -> None:
    await file.store_documents([doc(f"{n}", metadata={"turn": 0}) for n in range(40)])

    async def rewrite(turn: int) -> None:
        await file.store_documents([doc(f"{n}", [1, turn, 0], metadata={"turn": turn}) for n in range(40)])

    async def look() -> int:
        found = await file.search(X, 100)
        assert len(found) == 40
        assert len({each.metadata["turn"] for each in found}) == 1
        some = await file.search(X, 100, filter={"turn": {"$gte": 0}})
        assert len({each.metadata["turn"] for each in some}) == 1
        return len(some)

    for turn in range(1, 5):
        found = await together(look, partial(rewrite, turn), look, look, look)
        assert found == [40, None, 40, 40, 40]


async def test_a_search_is_one_statement_and_a_new_filter_one_more(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    await file.store_documents([doc(f"{n}", metadata={"n": n}) for n in range(20)])

    async def statements(**options: Any) -> int:
        before = manager.stats()["main"].requests
        await file.search(X, **options)
        return manager.stats()["main"].requests - before

    assert await statements() == 1  # with a transaction of its own, that reads what is new
    assert [await statements() for _ in range(2)] == [1, 1]
    assert [await statements(filter={"n": {"$lt": 5}}) for _ in range(2)] == [2, 1]


async def test_more_namespaces_than_are_held_are_searched_all_the_same(file: AsyncSQLiteVectorStore) -> None:
    names = [f"space {n}" for n in range(sqlite_vectors.MAX_NAMESPACES + 5)]
    for name in names:
        await file.in_namespace(name).store_documents([doc("a", content=name)])
    for name in names + names[:3]:
        assert [each.content for each in await file.search(X, namespace=name)] == [name]
        assert [each.content for each in await file.in_namespace(name).search(X)] == [name]


# The file beside the database


def matrix_files(path: Path) -> list[Path]:
    return sorted(Path(f"{path}-vectors").glob("*"))


@pytest_asyncio.fixture
async def kept(path: Path) -> Path:
    """A database whose vectors are in a file beside it; the name of that."""
    manager, store = await reopened(path)
    async with manager:
        await store.store_documents(wide())
        assert ids(await store.search(ray(7), 1)) == ["00007"]
    [found] = matrix_files(path)
    return found


async def test_a_large_collection_is_opened_from_the_file_beside_it(kept: Path, path: Path) -> None:
    assert oct(kept.stat().st_mode & 0o777) == "0o600"
    with closing(sqlite3.connect(path)) as by_hand, by_hand:  # so that nothing can be read from the database
        by_hand.execute("UPDATE holdfast_vectors SET embedding = (SELECT embedding FROM holdfast_vectors LIMIT 1)")
    assert await nearest(path, 7) == ["00007"]
    kept.unlink()
    assert await nearest(path, 7) == ["00000"]


async def test_what_was_written_since_the_file_is_found(kept: Path, path: Path) -> None:
    manager, store = await reopened(path)
    async with manager:
        await store.delete(["00007"])
        await store.store_documents(wide(1, 900))
        await store.update_document("00009", embedding=-ray(9))
    assert (await nearest(path, 7), await nearest(path, 9)) != (["00007"], ["00009"])
    assert (await nearest(path, 8), await nearest(path, 900)) == (["00008"], ["00900"])
    stamp = kept.stat().st_mtime_ns
    manager, store = await reopened(path)
    async with manager:
        assert ids(await store.search(-ray(9), 1)) == ["00009"]
        assert kept.stat().st_mtime_ns == stamp  # too little has changed to write it again
        await store.store_documents(wide(MANY, 2000))
        assert ids(await store.search(ray(2001), 1)) == ["02001"]
        assert kept.stat().st_mtime_ns != stamp


@pytest.mark.parametrize("same_ids", [True, False])
async def test_a_file_of_another_history_is_not_taken(kept: Path, path: Path, tmp_path: Path, same_ids: bool) -> None:
    shutil.copy(path, tmp_path / "backup.db")
    manager, store = await reopened(path)
    async with manager:
        await store.store_documents(wide(MANY, 1000))
        await store.search(ray(0), 1)
    shutil.copy(tmp_path / "backup.db", path)
    manager, store = await reopened(path)
    async with manager:
        again = [doc(f"{n if same_ids else n + 5:05}", -ray(n)) for n in range(1000, 1000 + MANY)]
        await store.store_documents(again)
    assert await nearest(path, 7) == ["00007"]
    manager, store = await reopened(path)
    async with manager:
        assert ids(await store.search(-ray(1003), 1)) == ["01003" if same_ids else "01008"]
        assert (await store.search(ray(1003), 1))[0].score < 0.5


@pytest.mark.parametrize("damage", ["torn", "empty", "foreign", "other numbers", "one byte"])
async def test_a_file_that_is_not_whole_is_left_out_and_written_anew(kept: Path, path: Path, damage: str) -> None:
    data = kept.read_bytes()
    place = len(data) // 2 if damage == "torn" else 0
    changed = {
        "foreign": b"x" * len(data),
        "other numbers": data.replace(b'"dimensions": 8000', b'"dimensions": 4000', 1),
        "one byte": data[:4100] + bytes([data[4100] ^ 1]) + data[4101:],
    }.get(damage, data[:place])
    kept.write_bytes(changed)
    assert await nearest(path, 7) == ["00007"]
    assert kept.stat().st_size == len(data)


async def test_where_no_file_can_be_kept_all_works_without(path: Path) -> None:
    Path(f"{path}-vectors").write_text("not a folder")
    manager, store = await reopened(path)
    async with manager:
        await store.store_documents(wide())
        assert ids(await store.search(ray(7), 1)) == ["00007"]
    assert await nearest(path, 8) == ["00008"]
    assert Path(f"{path}-vectors").read_text() == "not a folder"


async def test_no_file_is_kept_where_none_is_wanted_or_worth_it(path: Path) -> None:
    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=str(path)))
        await manager.add_sqlite("memory", SQLiteConfig(path=":memory:"))
        for store in (
            AsyncSQLiteVectorStore(manager, "main", dimensions=WIDE, keep_file=False),
            AsyncSQLiteVectorStore(manager, "memory", dimensions=WIDE),
        ):
            await store.store_documents(wide())
            assert ids(await store.search(ray(7), 1)) == ["00007"]
        few = AsyncSQLiteVectorStore(manager, "main", dimensions=3, collection="few")
        await few.store_documents([doc("a")])
        assert ids(await few.search(X)) == ["a"]
    assert matrix_files(path) == []
    assert not Path(":memory:-vectors").exists()


async def test_a_matrix_file_holds_its_rows_and_not_those_that_are_gone(tmp_path: Path) -> None:
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


async def test_a_new_end_is_seen_by_those_who_hold_the_vector(
    file: AsyncSQLiteVectorStore, other: AsyncDatabaseManager
) -> None:
    beside = AsyncSQLiteVectorStore(other, "main", dimensions=3)
    await file.store_documents([doc("a"), doc("b", expires_at=LATER)])
    assert ids(await file.search(X)) == ["a", "b"]
    await beside.update_document("a", expires_at=EARLIER)
    assert ids(await file.search(X)) == ["b"]
    await file.store_documents([doc("a")])
    fresh = await file.get("a")
    assert fresh is not None
    assert fresh.created_at == fresh.updated_at  # what had ended was gone
    await beside.update_document("b", expires_at="never")
    assert ids(await file.search(X, filter={})) == ["a", "b"]
    assert await file.delete_expired() == 0


async def test_what_has_ended_leaves_the_file_when_asked_to(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    await file.store_documents([doc(f"{n}", expires_at=EARLIER) for n in range(5)] + [doc("stays")])
    await file.in_namespace("other").store_documents([doc("x", expires_at=EARLIER)])
    assert await file.delete_expired(limit=4) == 4
    assert await file.delete_expired() == 2
    assert await manager.get_sqlite("main").fetch_value("SELECT count(*) FROM holdfast_vectors") == 1
    assert ids(await file.search(X)) == ["stays"]


# Words


LINES = {
    "a": "The quick brown foxes are jumping over lazy dogs",
    "b": "A lazy afternoon in the garden with the dog",
    "c": "Nothing about animals: databases, transactions and indexes",
    "d": "foxes foxes foxes",
}


def both(manager: AsyncDatabaseManager, **options: Any) -> list[AsyncVectorStore]:
    """The same store in a file and in memory."""
    options = {"dimensions": 3, **options}
    return [AsyncSQLiteVectorStore(manager, "main", **options), AsyncMemoryVectorStore(**options)]


@pytest.mark.parametrize("language", ["english", "simple"])
async def test_both_stores_give_words_the_same_scores(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager, language: str
) -> None:
    answers = []
    for store in both(manager, collection="words", text_search=language):
        await store.store_documents([doc(id, content=text, metadata={"id": id}) for id, text in LINES.items()])
        await store.store_documents([doc(f"{n}", content=f"filler {n}") for n in range(10)])
        await store.update_document("c", content="a fox, a jump and the index")
        await store.delete(["b"])
        await store.store_documents([doc("e", content="Lazy foxes"), doc("d", content="foxes, dogs, foxes")])
        for query in ("jumping fox", "LAZY dog's", "the a", "nothing", "", '"; DROP', "NOT a OR *", "ünïcode"):
            for filter in (None, {"id": {"$exists": True}}):
                found = await store.search(query, 10, mode="text", filter=filter)
                assert found.plan == "text"
                assert {each.distance for each in found} <= {None}
                answers.append([(each.id, round(each.score, 5)) for each in found])
    half = len(answers) // 2
    assert answers[:half] == answers[half:]
    assert [id for id, _ in answers[0]] == (["c", "a", "d", "e"] if language == "english" else ["c", "a"])
    known = 0 if language == "english" else 1  # "a" is a stop word of English alone
    assert [len(found) for found in answers[6:half]] == [0, 0, 0, 0, 0, 0, known, known, 0, 0]


async def test_equal_texts_come_by_id(file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager) -> None:
    for store in both(manager, collection="words", text_search="english"):
        for id in ("c", "e", "a", "d", "b"):
            await store.store_documents([doc(id, content="a red fox"), doc(f"x{id}", content="something else")])
        for k in (1, 2, 5, 9):
            assert ids(await store.search("fox", k, mode="text")) == ["a", "b", "c", "d", "e"][:k]


async def test_each_text_has_its_words_once(file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager) -> None:
    store = AsyncSQLiteVectorStore(manager, "main", dimensions=3, collection="words", text_search="english")
    for _ in range(3):
        await store.store_documents([doc(id, content=text) for id, text in LINES.items()])
        await store.update_document("a", content="other words", embedding=Y)
        await store.update_document("b", expires_at=LATER)
        await store.update_document("c", metadata={"n": 1})
        await store.replace_source("page", [doc("e", content="first"), doc("f", content="second")])
        await store.replace_source("page", [doc("f", content="third")])
    await store.delete(["d"])
    database = manager.get_sqlite("main")
    places = await database.fetch_all("SELECT position FROM holdfast_documents ORDER BY position")
    words = await database.fetch_all("SELECT id AS position FROM holdfast_words_english_docsize ORDER BY id")
    assert words == places
    vectors = await database.fetch_all("SELECT position FROM holdfast_vectors ORDER BY position")
    assert vectors == places
    terms = await database.fetch_all("SELECT term FROM holdfast_terms_english ORDER BY term")
    assert {"third", "other"} <= {row["term"] for row in terms}
    assert not {"first", "second", "quick", "fox"} & {row["term"] for row in terms}


async def test_words_of_an_older_collection_are_searched_once_it_is_opened_for_them(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    await file.store_documents([doc(id, content=text) for id, text in LINES.items()])
    with pytest.raises(ConfigError, match="text_search='english'"):
        await file.search("fox", mode="text")
    store = AsyncSQLiteVectorStore(manager, "main", dimensions=3, text_search="english")
    assert set(ids(await store.search("fox", mode="text"))) == {"a", "d"}
    plain = AsyncSQLiteVectorStore(manager, "main", dimensions=3)
    await plain.store_documents([doc("g", content="a fox")])
    assert set(ids(await plain.search("fox", mode="text"))) == {"a", "d", "g"}
    with pytest.raises(ConfigError, match="'english', not 'simple'"):
        await AsyncSQLiteVectorStore(manager, "main", dimensions=3, text_search="simple").count()


async def test_a_language_that_has_no_stems_here_is_refused(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    with pytest.raises(CapabilityError, match="german"):
        AsyncMemoryVectorStore(dimensions=3, text_search="german")
    with pytest.raises(CapabilityError, match="german"):
        AsyncSQLiteVectorStore(manager, "main", dimensions=3, text_search="german")


async def test_words_of_other_tenants_and_namespaces_are_not_found(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager
) -> None:
    options: dict[str, Any] = {"dimensions": 3, "collection": "words", "text_search": "english"}
    for tenant in ("one", "two"):
        for namespace in ("x", "y"):
            store = AsyncSQLiteVectorStore(manager, "main", tenant=tenant, namespace=namespace, **options)
            await store.store_documents([doc("a", content=f"a fox of {tenant} {namespace}")])
    one = AsyncSQLiteVectorStore(manager, "main", tenant="one", namespace="x", **options)
    assert [each.content for each in await one.search("fox", mode="text")] == ["a fox of one x"]
    assert [each.content for each in await one.search("fox", mode="text", namespace="y")] == ["a fox of one y"]
    assert await one.search("two", mode="text") == []
    assert [each.content for each in await one.search(X, text="two", mode="hybrid")] == ["a fox of one x"]


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
async def test_hybrid_search_is_better_than_vectors_alone(
    file: AsyncSQLiteVectorStore, manager: AsyncDatabaseManager, name: str, dense: float, hybrid: float
) -> None:
    documents, queries, relevant = collection(name)
    stores = both(manager, dimensions=384, collection="papers", text_search="english")
    for store in stores if name == "med" else stores[:1]:  # both give the same, as other tests say
        await store.store_documents(documents)
        scores: dict[str, list[float]] = {"vector": [], "hybrid": []}
        for id, text, vector in queries:
            scores["vector"].append(ndcg(ids(await store.search(vector)), relevant[id]))
            scores["hybrid"].append(ndcg(ids(await store.search(vector, text=text, mode="hybrid")), relevant[id]))
        assert float(np.mean(scores["vector"])) == pytest.approx(dense, abs=0.002)
        assert float(np.mean(scores["hybrid"])) >= hybrid

"""The contract of vector stores beyond storing and finding: batches, sources, namespaces, expiry, ranking, words."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from functools import partial
from io import StringIO
from typing import Any

import numpy as np
import pytest

from persistence import (
    AsyncMigrator,
    CapabilityError,
    ConfigError,
    MigrationLine,
    NotFoundError,
    PgVectorConfig,
    ValidationError,
)
from tests._async.side import together
from tests._async.vectors import (
    Backend,
    X,
    Y,
    Z,
    doc,
    everywhere,
    ids,
    in_a_database,
    numbers,
    on_pgvector,
    vector_backend,  # noqa: F401
    where_others_look,
)
from vectorstore import (
    AsyncPgVectorStore,
    BatchError,
    Diversity,
    Document,
    Fusion,
    ProgressBar,
    SearchResult,
)

PAST, FUTURE = datetime(2020, 1, 1, tzinfo=UTC), datetime(2999, 1, 1, 12, 30, 1, 123456, tzinfo=UTC)


# Batches


@everywhere
async def test_batches_that_fail_are_named_and_the_others_stored(backend: Backend) -> None:
    store = backend.store()
    documents = [doc("a"), doc("b"), doc("c"), doc("bad", [1, 2]), doc("d"), doc("e", content="\0"), doc("f")]
    seen: list[int] = []
    with pytest.raises(BatchError, match=r"2 batches.*'c'.*'bad' has 2 dimensions") as caught:
        await store.store_documents(documents, batch_size=2, on_error="continue", progress=seen.append)
    assert caught.value.written == 3
    assert [failure.ids for failure in caught.value.failures] == [["c", "bad"], ["d", "e"]]
    assert [type(failure.error) for failure in caught.value.failures] == [ValidationError, ValidationError]
    assert seen == [2, 3]
    assert [each.id async for each in store.iterate()] == ["a", "b", "f"]
    with pytest.raises(ValidationError, match="on_error"):
        await store.store_documents(documents, on_error="ignore")  # type: ignore[arg-type]


# [async-only]
@everywhere
async def test_documents_may_come_from_an_asynchronous_source(backend: Backend) -> None:
    async def source() -> AsyncIterator[Document]:
        for n in range(5):
            yield doc(f"{n}")

    store = backend.store()
    assert await store.store_documents(source(), batch_size=2) == 5
    assert await store.replace_source("s", source(), batch_size=2) == 5
    assert await store.count() == 5


# [/async-only]
def test_a_bar_shows_how_far_a_load_has_come() -> None:
    stream = StringIO()
    with ProgressBar(40, stream=stream) as bar:
        for done in (10, 20, 21, 40):
            bar(done)
    shown = stream.getvalue().splitlines()
    assert [line.partition("]")[2].partition(",")[0] for line in shown] == [" 10 of 40", " 20 of 40", " 40 of 40"]
    assert shown[-1].startswith("[" + "#" * 30 + "]")


# Sources


@everywhere
async def test_a_source_is_replaced_as_a_whole(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc("other"), Document("theirs", "text", {}, X, source="their file")])
    assert await store.replace_source("file", [doc(f"{n}", content="old") for n in range(5)], batch_size=2) == 5
    assert await store.replace_source("file", [doc("3", Y, "new"), doc("7", Z, "new")]) == 2
    assert {each.id: (each.content, each.source) async for each in store.iterate()} == {
        "3": ("new", "file"),
        "7": ("new", "file"),
        "other": ("text", None),
        "theirs": ("text", "their file"),
    }
    assert ids(await store.search(Z, 1)) == ["7"]
    assert await store.replace_source("file", []) == 0
    assert [each.id async for each in store.iterate()] == ["other", "theirs"]


@everywhere
async def test_a_source_that_fails_half_way_stays_what_it_was(backend: Backend) -> None:
    store = backend.store()
    await store.replace_source("file", [doc("a", content="old"), doc("b", content="old")])

    def source() -> Iterator[Document]:
        yield doc("a", content="new")
        yield doc("c", content="new")
        raise ZeroDivisionError

    for documents in (source(), [doc("a", content="new"), doc("c", [1])], [doc("d"), doc("x" * 2000)]):
        with pytest.raises((ZeroDivisionError, ValidationError)):
            await store.replace_source("file", documents, batch_size=1)
        assert [(each.id, each.content) async for each in store.iterate()] == [("a", "old"), ("b", "old")]
    with pytest.raises(ValidationError, match="'a' is of another source than 'file'"):
        await store.replace_source("file", [Document("a", "text", {}, X, source="page")])
    for bad in ("", "a\0", None, 7):
        with pytest.raises(ValidationError, match="source"):
            await store.replace_source(bad, [])  # type: ignore[arg-type]


@in_a_database
async def test_replacing_a_source_joins_the_transaction(backend: Backend) -> None:
    store = backend.store()
    await store.replace_source("file", [doc("a", content="old"), doc("b", content="old")])
    with pytest.raises(ZeroDivisionError):
        async with backend.database.transaction():
            await store.replace_source("file", [doc("c")])
            assert ids(await store.search(X)) == ["c"]
            raise ZeroDivisionError
    assert ids(await store.search(X)) == ["a", "b"]


# Namespaces


@everywhere
async def test_namespaces_share_no_document(backend: Backend) -> None:
    store = backend.store()
    other = store.in_namespace("other")
    await store.store_documents([doc("a", X, "mine"), doc("b", X, "mine")])
    await other.store_documents([doc("a", Y, "other's")])
    assert (store.namespace, other.namespace) == ("default", "other")
    assert [result.content for result in await other.search(X)] == ["other's"]
    assert [result.content for result in await store.search(X, namespace="other")] == ["other's"]
    assert [[r.content for r in found] for found in await store.search_many([X], namespace="other")] == [["other's"]]
    assert (await store.get("a"), await other.get("a")) == (doc("a", X, "mine"), doc("a", Y, "other's"))
    assert (await store.count(), await other.count()) == (2, 1)
    await other.update_document("a", content="changed")
    with pytest.raises(NotFoundError):
        await other.update_document("b", content="changed")
    assert not await other.exists("b")
    assert await other.delete(["a", "b"]) == 1
    assert await other.delete(filter={}) == 0
    assert [each.content async for each in store.iterate()] == ["mine", "mine"]
    assert await store.search(X, namespace="nowhere") == []
    for bad in ("", "a\0", "x" * 513, 7):
        with pytest.raises(ValidationError, match="namespace"):
            store.in_namespace(bad)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="namespace"):
            await store.search(X, namespace=bad)  # type: ignore[arg-type]


@where_others_look
async def test_an_older_program_is_left_what_it_can_tell_apart(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc("a", X, "mine"), Document("ends", "text", {}, X, expires_at=FUTURE)])
    await store.in_namespace("other").store_documents([doc("a", X, "other's"), doc("b", X)])
    migrator, line = AsyncMigrator(backend.database), MigrationLine.of_package("vectorstore")
    await migrator.down(line, to=1)
    await migrator.up(line)
    again = await backend.beside()
    assert [each async for each in again.iterate()] == [doc("a", X, "mine")]
    assert ids(await again.search(X)) == ["a"]
    assert await again.in_namespace("other").count() == 0


@everywhere
async def test_replacing_a_source_leaves_other_namespaces_alone(backend: Backend) -> None:
    store = backend.store()
    await store.in_namespace("other").replace_source("file", [doc("a"), doc("b")])
    await store.replace_source("file", [doc("c")])
    assert await store.in_namespace("other").count() == 2


# Expiry and times


@everywhere
async def test_what_has_expired_is_gone_for_every_call(backend: Backend) -> None:
    store = backend.store()
    gone = Document("gone", "text", {"n": 1}, X, expires_at=PAST)
    kept = Document("kept", "text", {"n": 1}, X, expires_at=FUTURE)
    await store.store_documents([gone, kept, doc("ever", n=1)])
    assert ids(await store.search(X)) == ["ever", "kept"]
    assert [ids(found) for found in await store.search_many([X, Y], filter={"n": 1})] == [["ever", "kept"]] * 2
    assert await store.get("gone") is None
    assert await store.get("kept") == kept
    assert not await store.exists("gone")
    assert [await store.count(), await store.count({"n": 1})] == [2, 2]
    assert [each.id async for each in store.iterate()] == ["ever", "kept"]
    with pytest.raises(NotFoundError):
        await store.update_document("gone", content="new")
    assert await store.delete(["gone"]) == 0
    assert await store.delete_expired() == 1
    assert await store.delete_expired() == 0
    await store.store_documents([Document("gone", "again", {}, Y, expires_at=PAST)])
    await store.store_documents([doc("gone", Y, "back")])
    assert await store.get("gone") == doc("gone", Y, "back")


@everywhere
async def test_an_expiry_may_be_moved_and_taken_away(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc("a"), doc("b")])
    await store.update_document("a", expires_at=FUTURE)
    found = await store.get("a")
    assert (found, found and found.expires_at) == (Document("a", "text", {}, X, expires_at=FUTURE), FUTURE)
    await store.update_document("a", expires_at="never")
    assert await store.get("a") == doc("a")
    await store.update_document("b", expires_at=PAST)
    assert ids(await store.search(X)) == ["a"]
    beyond = datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
    for bad in (FUTURE.replace(tzinfo=None), 5, "soon", date(2999, 1, 1), beyond):
        with pytest.raises(ValidationError, match="expires_at"):
            await store.update_document("a", expires_at=bad)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="expires_at"):
            await store.store_documents([Document("c", "text", {}, X, expires_at=bad)])  # type: ignore[arg-type]
    odd = FUTURE.astimezone(timezone(timedelta(microseconds=7)))
    await store.update_document("a", expires_at=odd)
    found = await store.get("a")
    assert found is not None
    assert found.expires_at == FUTURE


@everywhere
async def test_expired_documents_are_deleted_a_bounded_number_at_a_time(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([Document(f"{n}", "text", {}, X, expires_at=PAST) for n in range(5)])
    await store.in_namespace("other").store_documents([Document("x", "text", {}, X, expires_at=PAST)])
    assert [await store.delete_expired(limit=4) for _ in range(3)] == [4, 2, 0]
    with pytest.raises(ValidationError, match="limit"):
        await store.delete_expired(limit=0)


@everywhere
async def test_the_store_keeps_when_a_document_was_made_and_changed(backend: Backend) -> None:
    store = backend.store()
    before = datetime.now(UTC) - timedelta(seconds=2)
    await store.store_documents([doc("a"), doc("b")])
    await store.update_document("a", content="new")
    await store.store_documents([doc("b", Y)])
    for id in "ab":
        found = await store.get(id)
        assert found is not None
        assert found.created_at is not None
        assert found.updated_at is not None
        assert found.created_at.tzinfo is UTC
        assert before < found.created_at < found.updated_at < datetime.now(UTC) + timedelta(seconds=2)
    for _ in range(2):
        await store.replace_source("file", [doc("c")])
        await store.store_documents([Document("d", "text", {}, X, expires_at=before)])
    await store.store_documents([doc("d")])  # what had expired was gone
    kept, anew = await store.get_many(["c", "d"])
    assert kept.created_at is not None
    assert kept.updated_at is not None
    assert kept.created_at < kept.updated_at
    assert anew.created_at == anew.updated_at


# Reading and deleting


@everywhere
async def test_iterating_gives_every_document_once_by_id(backend: Backend) -> None:
    store = backend.store()
    names = [f"{n * 7 % 23:02}" for n in range(23)] + ["é", "\U0001f9f6", "~"]
    await store.store_documents([doc(name, [1, n, 0], n=n) for n, name in enumerate(names)])
    wanted = sorted(names, key=str.encode)
    assert [each.id async for each in store.iterate(batch_size=5)] == wanted
    assert [each.embedding async for each in store.iterate()] == [None] * 26
    found = [each async for each in store.iterate(filter={"n": {"$lt": 2}}, batch_size=1, with_embeddings=True)]
    assert {each.id: numbers(each) for each in found} == {names[0]: [1, 0, 0], names[1]: [1, 1, 0]}
    for bad in (0, -1, 10_001, "5"):
        with pytest.raises(ValidationError, match="batch_size"):
            _ = [each async for each in store.iterate(batch_size=bad)]  # type: ignore[arg-type]


METADATA = {
    "keep": 1e16,
    "nested": {"a": 1, "b": None},
    "list": [1, {"x": None}],
    "k'\"é": "old",
    "big": 2**60,
    "gone": 0,
}


@everywhere
async def test_a_patch_merges_into_the_metadata_and_keeps_the_rest(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([Document("a", "text", METADATA, X, source="file"), doc("bare"), doc("b", n=1)])
    patches: list[dict[str, Any]] = [
        {"flag": True, "gone": None, "never there": None},
        {"nested": {"c": None}, "k'\"é": ["new", 0.1], "$.flag": "a path is a key"},
        {},
    ]
    for patch in patches:
        await store.patch_document("a", patch)
    wanted = {**METADATA, **patches[0], **patches[1]}
    wanted = {key: value for key, value in wanted.items() if value is not None}
    found = await store.get("a")
    assert (found, numbers(found)) == (Document("a", "text", wanted, X, source="file"), X)
    assert ids(await store.search(X, filter={"flag": True, "gone": {"$exists": False}})) == ["a"]
    await store.patch_document("bare", {"n": 1})
    assert await store.get("bare") == doc("bare", n=1)
    await store.patch_document("b", {"n": None})
    assert await store.get("b") == doc("b")
    for missing in ("nobody", "bare' --"):
        with pytest.raises(NotFoundError, match=r"there is no document .* in 'documents'"):
            await store.patch_document(missing, {"n": 1})
    with pytest.raises(NotFoundError):
        await store.in_namespace("other").patch_document("a", {"n": 1})
    for bad in ({"n": math.nan}, {1: 2}, {"n": {1, 2}}, [("n", 1)], None, "n", {"a\0": 1}, {"n": 2**64}):
        with pytest.raises(ValidationError, match="document 'b'"):
            await store.patch_document("b", bad)  # type: ignore[arg-type]
    for key in ("", "a\0", "x" * 10_000, 7):
        with pytest.raises(ValidationError, match="id"):
            await store.patch_document(key, {"n": 1})  # type: ignore[arg-type]
    assert await store.get("b") == doc("b")
    assert await store.count({"n": 1}) == 1


@everywhere
async def test_patches_at_the_same_time_are_all_kept(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc("a")])
    await together(*(partial(store.patch_document, "a", {f"k{n}": n}) for n in range(8)))
    assert await store.get("a") == doc("a", **{f"k{n}": n for n in range(8)})


@everywhere
async def test_documents_are_listed_by_id_in_pages(backend: Backend) -> None:
    store = backend.store()
    names = [*(f"{n:02}" for n in range(23)), "é", "\U0001f9f6", "%' --"]
    await store.store_documents([doc(name, [1, n, 0], f"text {n}", n=n) for n, name in enumerate(names)])
    await store.in_namespace("other").store_documents([doc("theirs")])
    found: list[str] = []
    while page := await store.list_documents(limit=6, after=found[-1] if found else None):
        found += [each.id for each in page]
        await store.delete(found[-1:])  # what a page ended with need not be there any more
    assert found == sorted(names, key=str.encode)
    assert await store.list_documents(limit=1, after="02", filter={"n": {"$gt": 7}}, with_embeddings=True) == [
        Document("08", "text 8", {"n": 8})
    ]
    assert [each.embedding for each in await store.list_documents(limit=2)] == [None] * 2
    assert [each.id for each in await store.in_namespace("other").list_documents()] == ["theirs"]
    assert [each.id async for each in store.iterate(after="20", batch_size=1)] == ["21", "é"]
    for bad in (0, -1, 10_001, 1.5, True, "5", None):
        with pytest.raises(ValidationError, match="limit"):
            await store.list_documents(limit=bad)  # type: ignore[arg-type]
    for after in ("", "a\0b", "x" * 10_000, 7):
        with pytest.raises(ValidationError, match="after"):
            await store.list_documents(after=after)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="after"):
            _ = [each async for each in store.iterate(after=after)]  # type: ignore[arg-type]


@everywhere
async def test_deleting_by_a_filter_takes_what_passes_and_nothing_else(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc(f"{n}", [1, n, 0], n=n) for n in range(10)])
    assert await store.delete(filter={"n": {"$gte": 7}}) == 3
    assert await store.delete(filter={"n": {"$gte": 7}}) == 0
    assert ids(await store.search(X, 20)) == [f"{n}" for n in range(7)]
    for call in (partial(store.delete), partial(store.delete, ["1"], filter={})):
        with pytest.raises(ValidationError, match="delete takes ids or a filter"):
            await call()
    with pytest.raises(ValidationError, match="operator"):
        await store.delete(filter={"n": {"$regex": 1}})
    assert await store.delete(filter={}) == 7
    assert await store.count() == 0


@everywhere
async def test_existence_is_told(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc("a")])
    assert [await store.exists("a"), await store.exists("b")] == [True, False]
    with pytest.raises(ValidationError):
        await store.exists("")


HOSTILE = "x'\"; DROP TABLE holdfast_documents; -- \\ :a %s $1"


@everywhere
async def test_keys_and_values_of_any_characters_are_only_data(backend: Backend) -> None:
    store = backend.store()
    metadata = {HOSTILE: HOSTILE, "a\"b.c'd": 1, "nested": {"x.y": {"z": 2}}}
    await store.store_documents([doc("other"), Document(HOSTILE, HOSTILE, metadata, X)])
    key = HOSTILE.replace("\\", "\\\\")
    for filter in (
        {key: HOSTILE},
        {key: {"$like": "%; DROP TABLE%"}},
        {key: {"$gte": HOSTILE}},
        {key: {"$in": [HOSTILE, None]}},
        {r"a\"b\.c'd": 1},
        {r"nested.x\.y.z": {"$gte": 2, "$lt": 3}},
    ):
        assert ids(await store.search(X, filter=filter)) == [HOSTILE]
    assert await store.get(HOSTILE) == Document(HOSTILE, HOSTILE, metadata, X)
    deep: dict[str, Any] = {"a": 1}
    for _ in range(200):
        deep = {"$not": deep}
    with pytest.raises(ValidationError, match="nested deeper than"):
        await store.search(X, filter=deep)
    with pytest.raises(ValidationError, match=r"'\$where' is no operator"):
        await store.search(X, filter={"$where": "1 = 1"})
    assert await store.delete([HOSTILE]) == 1
    assert await store.count() == 1


# Pages, many searches, plans


@everywhere
async def test_an_offset_leaves_out_what_comes_before(backend: Backend) -> None:
    store = backend.store(embedder=lambda texts: [Z for _ in texts], text_search="english")
    vectors = np.random.default_rng(9).normal(size=(60, 3)).astype(np.float32)
    vectors[20:50] = vectors[0]  # so that pages begin and end among equals
    await store.store_documents([doc(f"{n:02}", vector, f"word {n % 7}", n=n) for n, vector in enumerate(vectors)])
    ways: list[dict[str, Any]] = [
        {},
        {"filter": {"n": {"$lt": 40}}, "with_embeddings": True},
        {"min_score": 0.2},
        {"mode": "text", "text": "word 3"},
        {"mode": "hybrid", "text": "word 3"},
        {"diversity": Diversity(candidates=60)},
        {"text": "any", "rerank": lambda query, results: [int(each.id) for each in results]},
    ]
    for options in ways:
        every = await store.search(vectors[0], 60, **options)
        assert len(every) > 8
        for offset in (0, 1, 7, 31, len(every), 60, 2**31 - 1):
            page = await store.search(vectors[0], 5, offset=offset, **options)
            assert (page, page.plan) == (every[offset : offset + 5], every.plan), (options, offset)
            for one, other in zip(page, every[offset:], strict=False):
                assert (one.embedding is None) == (other.embedding is None)
    many = await store.search_many([vectors[0], "text"], 5, offset=31)
    assert many == [(await store.search(query, 36))[31:] for query in (vectors[0], "text")]
    assert await store.similarity_search_by_vector(X, 2, offset=3) == (await store.search(X, 5))[3:]
    assert await store.similarity_search("text", 2, offset=3) == (await store.search("text", 5))[3:]
    few = {"n": {"$lt": 4}}
    assert await store.similarity_search_with_filters(X, 9, few, offset=3) == (await store.search(X, filter=few))[3:]
    far = await store.search(X, 60, min_score=0.0)
    assert await store.similarity_search_with_threshold(X, 60, 0.0, offset=2) == far[2:]
    assert (await store.explain(X, 5, offset=5)).plan == "exact"
    for bad in (-1, 2**31, 1.5, True, "3", None):
        for call in (store.search, store.search_many, store.explain):
            with pytest.raises(ValidationError, match="offset"):
                await call([X] if call == store.search_many else X, offset=bad)  # type: ignore[operator]


@in_a_database
async def test_a_page_reads_no_document_that_it_leaves_out(backend: Backend) -> None:
    store = backend.store(text_search="english")
    await store.store_documents([doc(f"{n:02}", [1, n, 0], f"word {n}") for n in range(40)])
    await store.search(Y, 1)
    rows: list[int | None] = []
    backend.manager.on_statement.append(lambda event: rows.append(event.rows))
    assert ids(await store.search(X, 3, offset=30)) == ["30", "31", "32"]
    assert rows == [3]
    assert ids(await store.search(X, 3, offset=38)) == ["38", "39"]
    assert rows[1:] == [2]


@everywhere
async def test_many_searches_give_what_each_gives_alone(backend: Backend) -> None:
    store = backend.store(embedder=lambda texts: [Z for _ in texts])
    generator = np.random.default_rng(8)
    vectors = generator.normal(size=(60, 3)).astype(np.float32)
    await store.store_documents([doc(f"{n:02}", vector, n=n) for n, vector in enumerate(vectors)])
    queries = [X, Y, "text", vectors[3]]
    options: dict[str, Any]
    for options in ({}, {"filter": {"n": {"$gte": 30}}, "with_embeddings": True}, {"min_score": 0.9}):
        found = await store.search_many(queries, 7, **options)
        assert found == [await store.search(query, 7, **options) for query in queries]
        assert [each.plan for each in found] == ["exact"] * 4
    assert numbers((await store.search_many([X], 1, with_embeddings=True))[0][0]) is not None
    assert await store.search_many([]) == []
    for bad in ([[1, 2]], "text", [None], None):
        with pytest.raises(ValidationError, match="quer"):
            await store.search_many(bad)  # type: ignore[arg-type]


@everywhere
async def test_how_a_search_was_answered_is_told(backend: Backend) -> None:
    store = backend.store()
    await store.store_documents([doc(f"{n:03}", [1, n, 0], n=n) for n in range(100)])
    found = await store.explain(X, 5, filter={"n": {"$lt": 10}})
    assert (found.plan, found.index) == ("exact", None)
    assert found.seconds > 0
    assert found.rows is not None
    assert (await store.search(X, 5)).plan == "exact"
    with pytest.raises(ValidationError, match="the query"):
        await store.explain([1, 2])


# Ranking


@everywhere
async def test_diversity_chooses_from_candidates_beyond_k_in_its_own_order(backend: Backend) -> None:
    store = backend.store()
    near = {"a": [1, 0.1, 0], "b": [1, 0.11, 0], "c": [1, 0.12, 0], "d": [1, 0, 0.6], "e": [0, 1, 0]}
    await store.store_documents([doc(id, vector) for id, vector in near.items()])
    assert ids(await store.search(X, 3)) == ["a", "b", "c"]
    assert ids(await store.search(X, 3, diversity=1)) == ["a", "b", "c"]
    found = await store.search(X, 3, diversity=0.5)
    assert ids(found)[:2] == ["a", "d"]
    plain = {result.id: result.score for result in await store.search(X, 5)}
    assert [result.score for result in found] == [plain[id] for id in ids(found)]
    assert [result.embedding for result in found] == [None] * 3
    assert ids(await store.search(X, 2, diversity=0)) == ["a", "e"]
    assert ids(await store.search(X, 2, diversity=Diversity(balance=0, candidates=2))) == ["a", "b"]
    assert numbers((await store.search(X, 1, diversity=0.5, with_embeddings=True))[0]) == [1, np.float32(0.1), 0]
    for bad in (-0.1, 1.1, math.nan, "0.5", True):
        with pytest.raises(ValidationError, match="diversity"):
            await store.search(X, diversity=bad)


@everywhere
async def test_a_re_ranker_gives_the_candidates_new_scores(backend: Backend) -> None:
    asked: list[tuple[str, int]] = []

    def rerank(query: str, results: list[SearchResult]) -> list[float]:
        asked.append((query, len(results)))
        return [float(result.id) for result in results]

    store = backend.store(embedder=lambda texts: [X for _ in texts])
    await store.store_documents([doc(f"{n}", [1, n, 0]) for n in range(30)])
    found = await store.search("words", 3, rerank=rerank)
    assert [(result.id, result.score) for result in found] == [("29", 29.0), ("28", 28.0), ("27", 27.0)]
    assert ids(await store.search(X, 2, text="others", rerank=rerank, min_score=28.5)) == ["29"]
    assert asked == [("words", 30), ("others", 30)]
    with pytest.raises(ValidationError, match="re-ranker needs the query's words"):
        await store.search(X, rerank=rerank)
    answers: list[Any] = [[], [math.nan] * 30, None, ["high"] * 30, [10**400] * 30]
    for bad in answers:
        with pytest.raises(ConfigError, match="the re-ranker gave"):
            await store.search("words", rerank=lambda query, results, bad=bad: bad)
    with pytest.raises(ValidationError, match="rerank is a str, which can't be called"):
        await store.search("words", rerank="a model")  # type: ignore[arg-type]


# Words


TEXTS = {
    "cats": "Cats are small animals that purr and sleep",
    "dogs": "Dogs are animals that bark at cats in the night",
    "tax": "The tax on income is due in the spring",
    "bank": "A bank by the river, where animals drink",
    "none": "",
}


@everywhere
async def test_words_are_searched_by_what_documents_say(backend: Backend) -> None:
    store = backend.store(text_search="english")
    await store.store_documents([doc(id, X, text, n=n) for n, (id, text) in enumerate(TEXTS.items())])
    found = await store.search("cats that purr", mode="text")
    assert ids(found) == ["cats", "dogs"]
    assert found.plan == "text"
    assert found[0].score > found[1].score > 0
    assert [result.distance for result in found] == [None, None]
    assert (found[0].content, found[0].metadata) == (TEXTS["cats"], {"n": 0})
    assert ids(await store.search("animals", 1, mode="text", filter={"n": {"$gt": 1}})) == ["bank"]
    assert ids(await store.search("taxes", mode="text", min_score=0)) == ["tax"]
    assert await store.search("zebra", mode="text") == []
    assert await store.search("the in of", mode="text") == []
    assert await store.search("", mode="text") == []
    hostile = "cats' & | ! :* ( \" -- ; \\ <-> % _ NEAR AND OR NOT *"
    assert "cats" in ids(await store.search(hostile, mode="text"))


@everywhere
async def test_words_follow_the_documents_as_they_change(backend: Backend) -> None:
    store = backend.store(text_search="english")
    await store.store_documents([doc("a", X, "an old word"), doc("b", X, "another word")])
    await store.update_document("a", content="something else")
    assert ids(await store.search("word", mode="text")) == ["b"]
    await store.delete(["b"])
    assert await store.search("word", mode="text") == []
    await store.store_documents([doc("a", X, "a new word")])
    await store.in_namespace("other").store_documents([doc("x", X, "a word elsewhere")])
    assert ids(await store.search("word", mode="text")) == ["a"]
    assert ids(await store.search("word", mode="text", namespace="other")) == ["x"]
    await store.update_document("a", expires_at=PAST)
    assert await store.search("word", mode="text") == []


@everywhere
async def test_a_hybrid_finds_by_vectors_and_by_words(backend: Backend) -> None:
    store = backend.store(text_search="english", embedder=lambda texts: [Z for _ in texts])
    vectors = {"cats": X, "dogs": [1, 1, 0], "tax": [0, 1, 1], "bank": Z, "none": [0, 1, 2]}
    await store.store_documents([doc(id, vectors[id], text, id=id) for id, text in TEXTS.items()])
    found = await store.search("purr", 5, mode="hybrid")
    assert set(ids(found)) == set(TEXTS)
    assert (found[0].id, found[0].score) == ("bank", pytest.approx(0.6))
    by_id = {result.id: result for result in found}
    assert by_id["cats"].score == pytest.approx(0.4)
    assert by_id["cats"].distance == pytest.approx(1)
    assert (by_id["cats"].content, by_id["cats"].metadata) == (TEXTS["cats"], {"id": "cats"})
    words = Fusion(weight=0.2)
    assert ids(await store.search("purr", 1, mode="hybrid", fusion=words)) == ["cats"]
    assert ids(await store.search(X, 2, text="tax", mode="hybrid", fusion=Fusion(weight=0.5)))[0] in ("cats", "tax")
    ranked = await store.search("purr", 1, mode="hybrid", fusion=Fusion(method="reciprocal_rank", weight=0.5))
    assert ranked[0].id in ("cats", "bank")
    assert ids(await store.search("purr", mode="hybrid", filter={"id": "cats"})) == ["cats"]
    assert ids(await store.search("zebra", 1, mode="hybrid")) == ["bank"]
    for bad in ({"weight": 2}, {"depth": 0}, {"method": "best"}, {"constant": -1}):
        with pytest.raises(ValidationError, match=r"weight 2|depth 0|'best' is no way to fuse|constant -1"):
            Fusion(**bad)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="fusion is a float"):
        await store.search("purr", mode="hybrid", fusion=0.5)  # type: ignore[arg-type]


@everywhere
async def test_of_vectors_that_tie_a_hybrid_takes_no_more_than_its_depth(backend: Backend) -> None:
    store = backend.store(text_search="english")
    await store.store_documents([doc("c", X, "purr"), doc("b"), doc("a"), doc("d", Y)])
    for method in ("min_max", "reciprocal_rank"):
        fusion = Fusion(method=method, depth=1)  # type: ignore[arg-type]
        found = await store.search(X, 1, mode="hybrid", text="purr", fusion=fusion)
        two = await store.search(X, 2, mode="hybrid", text="purr", fusion=replace(fusion, weight=0.1))
        assert [(each.id, each.distance) for each in (*found, *two)] == [("a", 0), ("c", None), ("a", 0)]


@everywhere
async def test_words_need_a_collection_with_text_search(backend: Backend) -> None:
    store = backend.store(embedder=lambda texts: [X for _ in texts])
    await store.store_documents([doc("a", X, "a word")])
    for mode in ("text", "hybrid"):
        with pytest.raises(ConfigError, match="has no text search"):
            await store.search("word", mode=mode)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="the text is a list"):
        await store.search(X, mode="text")
    with pytest.raises(ValidationError, match="no mode of search"):
        await store.search(X, mode="both")  # type: ignore[arg-type]


@in_a_database
async def test_text_search_may_be_added_to_a_collection_later(backend: Backend) -> None:
    await backend.store().store_documents([doc("a", X, "a word"), doc("b", X, "others")])
    assert ids(await backend.store(text_search="english").search("words", mode="text")) == ["a"]
    assert ids(await backend.store().search("words", mode="text")) == ["a"]
    with pytest.raises(ConfigError, match="text search in 'english', not 'simple'"):
        await backend.store(text_search="simple").count()
    with pytest.raises((ConfigError, CapabilityError), match="klingon"):
        await backend.store(collection="other", text_search="klingon").count()
    for bad in ("", "a b", "x'y"):
        with pytest.raises((ConfigError, ValidationError), match="text_search"):
            backend.store(text_search=bad)


# Declared keys and embedders


@everywhere
async def test_declared_keys_change_no_answer(backend: Backend) -> None:
    keys: dict[str, type] = {"n": int, "owner.name": str, 'it\'s "a" \\ key': str}
    store = backend.store(keys=keys)
    values: list[Any] = [1, 1.5, "1", None, True, [1], -(2**62), "é", "a%b", {"x": 1}]
    documents = [doc(f"{n}", [1, n, 0], n=value, owner={"name": value}) for n, value in enumerate(values)]
    await store.store_documents([*documents, doc("none", Y)])
    plain = backend.store(collection="plain")
    await plain.store_documents([*documents, doc("none", Y)])
    conditions: list[Any] = [
        1,
        "1",
        None,
        {"$gt": 1},
        {"$lte": 1.5},
        {"$gt": "0"},
        {"$in": [1, "1"]},
        {"$in": [1, 1.5]},
        {"$in": []},
        {"$nin": [1, 1.5]},
        {"$ne": 1},
        {"$not": {"$gt": 1}},
        {"$not": {"$like": "a%"}},
        {"$like": "a\\%%"},
        {"$exists": True},
        {"$between": [0, 2]},
    ]
    for key in ("n", "owner.name"):
        for condition in conditions:
            for filter in ({key: condition}, {"$not": {"$or": [{key: condition}, {key: "é"}]}}):
                assert ids(await store.search(X, 20, filter=filter)) == ids(await plain.search(X, 20, filter=filter))
    for bad in ({"n": list}, ["n"], {7: int}, {"n": "float8"}):
        with pytest.raises((ConfigError, ValidationError), match=r"declared|keys"):
            backend.store(keys=bad)


class Model:
    """A model as sentence-transformers has them: callable, which gives no vectors."""

    model_name = "mini"

    def __call__(self, texts: Any) -> Any:
        raise AssertionError(texts)

    def encode(self, texts: list[str]) -> np.ndarray[Any, Any]:
        return np.array([[len(text), 1, 0] for text in texts], np.float32)

    def encode_query(self, texts: list[str]) -> np.ndarray[Any, Any]:
        return np.array([X for _ in texts])

    def get_sentence_embedding_dimension(self) -> int:
        return 3


class Embeddings:
    """An embeddings object as LangChain has them."""

    model = "large"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(len(text)), 1, 0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return X


@everywhere
@pytest.mark.parametrize(("given", "name"), [(Model(), "mini"), (Embeddings(), "large")], ids=["model", "langchain"])
async def test_models_of_other_libraries_are_embedders(backend: Backend, given: Any, name: str) -> None:
    store = backend.store(embedder=given)
    assert store.model == name
    await store.store_documents([doc("a", None, "12345"), doc("b", None, "1")])
    assert numbers(await store.get("a")) == [5, 1, 0]
    found = await store.search("anything")
    assert (ids(found), found[0].score) == (["a", "b"], pytest.approx(5 / math.sqrt(26)))


@everywhere
async def test_an_embedder_of_other_dimensions_is_refused(backend: Backend) -> None:
    with pytest.raises(ConfigError, match="makes 3 dimensions, and the store is opened for 4"):
        backend.store(embedder=Model(), dimensions=4)
    with pytest.raises(ConfigError, match="a int is no embedder"):
        backend.store(embedder=7)
    assert backend.store(embedder=Model(), dimensions=None).dimensions == 3


@on_pgvector
async def test_a_model_s_own_dimensions_go_before_the_connection_s(
    backend: Backend, pgvector_config: PgVectorConfig
) -> None:
    await backend.manager.add_pgvector("wide", replace(pgvector_config, dimensions=384))
    store = AsyncPgVectorStore(backend.manager, "wide", embedder=Model())
    await store.store_documents([doc("a", None, "12345")])
    assert (store.dimensions, numbers(await store.get("a"))) == (3, [5, 1, 0])
    assert AsyncPgVectorStore(backend.manager, "wide", embedder=Embeddings()).dimensions == 384


@where_others_look
async def test_readers_see_a_source_whole_before_and_after(backend: Backend) -> None:
    store, beside = backend.store(), await backend.beside()
    await store.replace_source("file", [doc(f"{n}", content="1") for n in range(3)])
    seen: list[set[str]] = []

    def source() -> Iterator[Document]:
        yield doc("0", content="2")
        yield doc("9", content="2")

    async with backend.database.transaction():
        await store.replace_source("file", source(), batch_size=1)
        seen.append({each.content for each in await beside.get_many(["0", "1", "2", "9"])})
    seen.append({each.content for each in await beside.get_many(["0", "1", "2", "9"])})
    assert seen == [{"1"}, {"2"}]

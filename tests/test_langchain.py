"""LangChain's vector store on ours: LangChain's own tests of one, and what they leave out, on both sides."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import VectorStore as LangChainVectorStore
from langchain_tests.integration_tests import VectorStoreIntegrationTests

from persistence import (
    AsyncDatabaseManager,
    CapabilityError,
    ClosedError,
    ConfigError,
    DatabaseManager,
    PgVectorConfig,
    SQLiteConfig,
    ValidationError,
)
from vectorstore import (
    AsyncMemoryVectorStore,
    AsyncPgVectorStore,
    AsyncSQLiteVectorStore,
    Fusion,
    MemoryVectorStore,
    PgVectorStore,
    SQLiteVectorStore,
)
from vectorstore.langchain import HoldfastVectorStore

TEXTS = {"east": [1.0, 0.0, 0.0], "north": [0.0, 1.0, 0.0], "north-east": [0.8, 0.6, 0.0], "west": [-1.0, 0.0, 0.0]}
METADATA: list[dict[str, Any]] = [{"n": 1, "tags": ["a"]}, {"n": 2}, {"n": 3, "deep": {"é": None}}, {"n": 4}]


class Directions(Embeddings):
    """Embeds the texts that it knows, and remembers how many it was given at once."""

    model = "directions"

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.sizes.append(len(texts))
        return [TEXTS.get(text, [0.0, 0.0, 1.0]) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return TEXTS.get(text, [0.0, 0.0, 1.0])


class AsyncDirections(Directions):
    """Embeds on the async side alone."""

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return super().embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        return super().embed_query(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise AssertionError("the sync side was called")

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError("the sync side was called")


@asynccontextmanager
async def opened(
    request: pytest.FixtureRequest, kind: str, embedding: Embeddings | None, **options: Any
) -> AsyncIterator[HoldfastVectorStore]:
    """Make a store with both sides on the same documents, but in memory, where each side has its own."""
    if kind == "memory":
        yield HoldfastVectorStore(MemoryVectorStore(**options), AsyncMemoryVectorStore(**options), embedding=embedding)
        return
    async with AsyncExitStack() as stack:
        async_manager = await stack.enter_async_context(AsyncDatabaseManager())
        manager = stack.enter_context(DatabaseManager())
        if kind == "postgresql":
            server: PgVectorConfig = request.getfixturevalue("pgvector_config")
            manager.add_pgvector("main", server)
            await async_manager.add_pgvector("main", server)
            pair: Any = (PgVectorStore, AsyncPgVectorStore)
        else:
            file = SQLiteConfig(path=str(request.getfixturevalue("tmp_path") / "main.db"))
            manager.add_sqlite("main", file)
            await async_manager.add_sqlite("main", file)
            pair = (SQLiteVectorStore, AsyncSQLiteVectorStore)
        made = (pair[0](manager, "main", **options), pair[1](async_manager, "main", **options))
        yield HoldfastVectorStore(*made, embedding=embedding)


class Conformance(VectorStoreIntegrationTests):
    __test__ = False
    kind: str

    @pytest_asyncio.fixture
    async def vectorstore(self, request: pytest.FixtureRequest) -> AsyncIterator[LangChainVectorStore]:
        async with opened(request, self.kind, self.get_embeddings(), dimensions=6) as store:
            yield store


class TestConformanceOnPostgreSQL(Conformance):
    __test__ = True
    kind = "postgresql"


class TestConformanceOnSQLite(Conformance):
    __test__ = True
    kind = "sqlite"


class TestConformanceInMemory(Conformance):
    __test__ = True
    kind = "memory"


Call = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["postgresql", "sqlite", "memory"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def embedding() -> Directions:
    return Directions()


@pytest_asyncio.fixture
async def store(request: pytest.FixtureRequest, kind: str, embedding: Directions) -> AsyncIterator[HoldfastVectorStore]:
    async with opened(request, kind, embedding, dimensions=3, text_search="english") as made:
        yield made


@pytest.fixture(params=["sync", "async"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def call(side: str, store: HoldfastVectorStore) -> Call:
    """Call a method of the store by its sync name, on one side."""

    async def of_side(name: str, *arguments: Any, **options: Any) -> Any:
        found = getattr(store, name if side == "sync" else f"a{name}")(*arguments, **options)
        return await found if isawaitable(found) else found

    return of_side


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


async def fill(call: Call) -> None:
    assert await call("add_texts", list(TEXTS), METADATA, ids=["e", "n", "ne", "w"]) == ["e", "n", "ne", "w"]


async def test_documents_come_back_as_they_were_in_the_order_asked_for(call: Call) -> None:
    await fill(call)
    assert await call("get_by_ids", ["w", "missing", "ne", "e"]) == [
        Document(id="w", page_content="west", metadata={"n": 4}),
        Document(id="ne", page_content="north-east", metadata={"n": 3, "deep": {"é": None}}),
        Document(id="e", page_content="east", metadata={"n": 1, "tags": ["a"]}),
    ]


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_ids_given_go_before_those_of_the_documents_and_missing_ones_are_made(call: Call) -> None:
    documents = [Document(id="a", page_content="east"), Document(page_content="north")]
    first, second = await call("add_documents", documents)
    assert first == "a"
    assert len(second) == 36
    assert await call("add_documents", documents, ids=["b", None]) != ["b", second]
    assert ids(await call("get_by_ids", ["a", "b", second])) == ["a", "b", second]


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_texts_are_embedded_batch_by_batch(call: Call, embedding: Directions) -> None:
    written: list[int] = []
    added = await call("add_texts", (f"text {n}" for n in range(5)), batch_size=2, progress=written.append)
    assert len(set(added)) == 5
    assert embedding.sizes == [2, 2, 1]
    assert written == [2, 4, 5]


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "options", "error"),
    [
        (("text",), {}, "texts is one str"),
        ((["a", "b"], [{}]), {}, "1 metadatas for 2 texts"),
        ((["a"], ["x"]), {}, "str for metadata"),
        ((["a", 3],), {}, "is a int, not a str"),
        ((["a", "b"],), {"ids": ["1"]}, "1 ids for 2 documents"),
        ((["a", "b"],), {"ids": "12"}, "ids is one str"),
        ((["a"],), {"ids": [""]}, "id is empty"),
        ((["a"],), {"ids": ["x" * 10_000]}, "more than the limit"),
        ((["a\0"],), {}, "NUL"),
        ((["\ud800"],), {}, "lone surrogate"),
        ((["a"], [{"x": float("nan")}]), {}, "metadata of document"),
        ((["a"],), {"batch_size": 0}, "batch_size"),
    ],
)
async def test_what_cannot_be_stored_is_refused_whole(
    call: Call, arguments: tuple[Any, ...], options: dict[str, Any], error: str
) -> None:
    with pytest.raises(ValidationError, match=error):
        await call("add_texts", *arguments, **options)
    assert await call("similarity_search", "east", k=10) == []


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
async def test_what_is_no_document_is_refused(call: Call) -> None:
    for documents in (Document(page_content="one"), ["text"], 3):
        with pytest.raises(ValidationError):
            await call("add_documents", documents)
    with pytest.raises(TypeError, match="unknown"):
        await call("add_texts", ["a"], unknown=1)


async def test_searches_give_scores_of_which_more_is_nearer(call: Call) -> None:
    await fill(call)
    found = await call("similarity_search_with_score", "east", k=3)
    assert [(document.id, pytest.approx(score, abs=1e-6)) for document, score in found] == [
        ("e", 1.0),
        ("ne", 0.8),
        ("n", 0.0),
    ]
    by_vector = await call("similarity_search_with_score_by_vector", TEXTS["east"], k=3)
    assert by_vector == found
    assert ids(await call("similarity_search_by_vector", TEXTS["north"], k=2)) == ["n", "ne"]
    assert len(await call("similarity_search", "east")) == 4


async def test_relevance_is_within_0_and_1_and_has_a_threshold(call: Call) -> None:
    await fill(call)
    found = await call("similarity_search_with_relevance_scores", "east", k=4)
    assert [(document.id, pytest.approx(score, abs=1e-6)) for document, score in found] == [
        ("e", 1.0),
        ("ne", 0.8),
        ("n", 0.0),
        ("w", 0.0),
    ]
    found = await call("similarity_search_with_relevance_scores", "east", k=4, score_threshold=0.7)
    assert [document.id for document, _ in found] == ["e", "ne"]
    for options in ({"mode": "text"}, {"mode": "hybrid"}, {"rerank": lambda query, results: [0.0] * len(results)}):
        with pytest.raises(ValidationError, match="relevance"):
            await call("similarity_search_with_relevance_scores", "east", **options)


async def test_filters_are_in_our_language(call: Call) -> None:
    await fill(call)
    wanted = {"$or": [{"n": {"$gte": 4}}, {"tags": {"$contains": "a"}}]}
    assert ids(await call("similarity_search", "west", filter=wanted)) == ["w", "e"]
    assert await call("similarity_search", "west", filter={"'; DROP TABLE x; --": 1}) == []
    for wrong in ({"n": {"$unknown": 1}}, "n = 1"):
        with pytest.raises(ValidationError):
            await call("similarity_search", "west", filter=wrong)


async def test_words_and_hybrids_are_searched_too(call: Call) -> None:
    await fill(call)
    assert ids(await call("similarity_search", "west", mode="text")) == ["w"]
    by_words = {"mode": "hybrid", "text": "west", "fusion": Fusion(weight=0.1)}
    assert ids(await call("similarity_search", "east", k=2, **by_words)) == ["w", "e"]
    seen: list[str] = []

    def rerank(query: str, results: list[Any]) -> list[float]:
        seen.append(query)
        return [float(result.id == "w") for result in results]

    assert ids(await call("similarity_search", "east", k=1, rerank=rerank)) == ["w"]
    assert seen == ["east"]


async def test_results_that_differ_are_chosen_in_their_order(call: Call) -> None:
    await fill(call)
    assert ids(await call("max_marginal_relevance_search", "east", k=2, lambda_mult=1.0)) == ["e", "ne"]
    assert ids(await call("max_marginal_relevance_search", "east", k=2, lambda_mult=0.0)) == ["e", "w"]
    near = await call("max_marginal_relevance_search", "east", k=2, fetch_k=2, lambda_mult=0.0)
    assert ids(near) == ["e", "ne"]
    different = await call(
        "max_marginal_relevance_search_by_vector", TEXTS["east"], k=2, lambda_mult=0.0, filter={"n": {"$lt": 4}}
    )
    assert ids(different) == ["e", "n"]
    with pytest.raises(ValidationError):
        await call("max_marginal_relevance_search", "east", lambda_mult=2.0)


@pytest.mark.parametrize(
    ("search_type", "options", "expected"),
    [
        ("similarity", {"k": 3}, ["e", "ne", "n"]),
        ("similarity", {"filter": {"n": {"$in": [2, 4]}}}, ["n", "w"]),
        ("mmr", {"k": 2, "fetch_k": 4, "lambda_mult": 0.0}, ["e", "w"]),
        ("similarity_score_threshold", {"score_threshold": 0.5}, ["e", "ne"]),
    ],
)
async def test_retrievers_search_in_each_way(
    store: HoldfastVectorStore,
    call: Call,
    side: str,
    search_type: str,
    options: dict[str, Any],
    expected: list[str],
) -> None:
    await fill(call)
    retriever = store.as_retriever(search_type=search_type, search_kwargs=options)
    assert retriever.tags == ["HoldfastVectorStore", "Directions"]
    found = retriever.invoke("east") if side == "sync" else await retriever.ainvoke("east")
    assert ids(found) == expected


async def test_deleting_goes_by_ids_or_a_filter_and_never_takes_all_by_accident(call: Call) -> None:
    await fill(call)
    assert await call("delete", ["e", "missing"]) is True
    assert await call("delete", filter={"n": {"$lt": 3}}) is True
    with pytest.raises(ValidationError, match="ids or a filter"):
        await call("delete")
    assert sorted(filter(None, ids(await call("similarity_search", "east")))) == ["ne", "w"]
    assert await call("delete", filter={}) is True
    assert await call("similarity_search", "east") == []


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.parametrize("k", [0, -1, 1.5, "3"])
async def test_a_k_that_is_none_is_refused(call: Call, k: Any) -> None:
    with pytest.raises(ValidationError):
        await call("similarity_search", "east", k=k)


@pytest.mark.parametrize("kind", ["memory"], indirect=True)
@pytest.mark.parametrize("query", [None, 3, "a\0b", ["east"]])
async def test_a_query_that_is_no_text_is_refused(call: Call, query: Any) -> None:
    with pytest.raises(ValidationError, match="query"):
        await call("similarity_search", query)


DOCUMENTS = [
    Document(page_content="east", metadata={"source": "one"}),
    Document(page_content="north", metadata={"source": "one"}),
    Document(page_content="west", metadata={"source": "two"}),
]


async def test_the_indexing_api_adds_skips_and_cleans_up(store: HoldfastVectorStore, call: Call, side: str) -> None:
    manager = InMemoryRecordManager(namespace="test")
    manager.create_schema()

    async def run(documents: list[Document], cleanup: Any) -> tuple[int, ...]:
        options: dict[str, Any] = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "sha256"}
        if side == "sync":
            done = index(documents, manager, store, **options)
        else:
            done = await aindex(documents, manager, store, **options)
        return tuple(done[key] for key in ("num_added", "num_updated", "num_skipped", "num_deleted"))

    async def there() -> list[str]:
        return sorted(document.page_content for document in await call("similarity_search", "east", k=10))

    changed = [Document(page_content="north-east", metadata={"source": "one"})]
    assert await run(DOCUMENTS, None) == (3, 0, 0, 0)
    assert await run(DOCUMENTS, None) == (0, 0, 3, 0)
    assert await run(changed, None) == (1, 0, 0, 0)
    assert await there() == ["east", "north", "north-east", "west"]
    assert await run(changed, "incremental") == (0, 0, 1, 2)
    assert await there() == ["north-east", "west"]
    assert await run(DOCUMENTS[:1], "full") == (1, 0, 0, 2)
    assert await there() == ["east"]


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"], indirect=True)
def test_each_call_is_one_statement(store: HoldfastVectorStore, kind: str) -> None:
    inner: Any = store._sync
    store.add_texts(list(TEXTS), METADATA, ids=["e", "n", "ne", "w"])
    store.similarity_search("east")
    calls: dict[str, Callable[[], object]] = {
        "search": lambda: store.similarity_search("east", 2),
        "mmr": lambda: store.max_marginal_relevance_search("east", 2),
        "relevance": lambda: store.similarity_search_with_relevance_scores("east", 2),
        "get": lambda: store.get_by_ids(["e", "w"]),
        "delete": lambda: store.delete(["e", "w"]),
    }
    if kind == "postgresql":
        calls = {"add": lambda: store.add_texts(["east"], ids=["e"]), **calls}
    for name, each in calls.items():
        before = inner._manager.stats()["main"].requests
        each()
        assert inner._manager.stats()["main"].requests - before == 1, name


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"], indirect=True)
async def test_calls_join_the_transaction_that_they_are_in(store: HoldfastVectorStore, call: Call) -> None:
    await fill(call)
    inner: Any = store._sync
    with pytest.raises(RuntimeError, match="undo"), inner._manager.get_database("main").transaction():
        store.add_texts(["west"], ids=["new"])
        store.delete(["e"])
        assert ids(store.get_by_ids(["new", "e"])) == ["new"]
        raise RuntimeError("undo")
    assert ids(await call("get_by_ids", ["new", "e"])) == ["e"]


@pytest.mark.parametrize("kind", ["sqlite"], indirect=True)
async def test_a_closed_manager_and_a_wrong_vector_are_errors_that_say_so(
    store: HoldfastVectorStore, call: Call, side: str
) -> None:
    with pytest.raises(ValidationError, match="2 dimensions"):
        await call("similarity_search_by_vector", [1.0, 2.0])
    inner: Any = store._sync if side == "sync" else store._async
    closed = inner._manager.close() if side == "sync" else await inner._manager.aclose()
    assert closed is None
    calls: list[tuple[str, Any]] = [("add_texts", ["east"]), ("similarity_search", "east"), ("delete", ["e"])]
    for name, argument in calls:
        with pytest.raises(ClosedError):
            await call(name, argument)


def test_without_an_embedding_the_stores_own_embedder_is_taken() -> None:
    embedding = Directions()
    store = HoldfastVectorStore(MemoryVectorStore(dimensions=3, embedder=embedding))
    assert store.embeddings is None
    store.add_texts(["east", "north"], ids=["e", "n"])
    assert ids(store.similarity_search("north", 1)) == ["n"]
    with pytest.raises(ConfigError, match="no embedder"):
        HoldfastVectorStore(MemoryVectorStore(dimensions=3)).similarity_search("north")


async def test_the_async_side_embeds_by_the_async_calls() -> None:
    store = HoldfastVectorStore(AsyncMemoryVectorStore(dimensions=3), embedding=AsyncDirections())
    await store.aadd_texts(["east", "north"], ids=["e", "n"])
    assert ids(await store.asimilarity_search("north", 1)) == ["n"]
    assert ids(await store.amax_marginal_relevance_search("north", 1)) == ["n"]
    async with HoldfastVectorStore.from_url("sqlite://", AsyncDirections()) as opened_store:
        await opened_store.aadd_texts(["east"], ids=["e"])
        assert ids(await opened_store.asimilarity_search("east")) == ["e"]


async def test_a_side_that_is_not_there_is_an_error_that_says_so() -> None:
    sync = HoldfastVectorStore(MemoryVectorStore(dimensions=3), embedding=Directions())
    with pytest.raises(CapabilityError, match="no async side"):
        await sync.asimilarity_search("east")
    other = HoldfastVectorStore(AsyncMemoryVectorStore(dimensions=3), embedding=Directions())
    for each in (lambda: other.add_texts(["east"]), lambda: other.delete(["e"]), lambda: other.get_by_ids(["e"])):
        with pytest.raises(CapabilityError, match="no sync side") as raised:
            each()
        assert "VectorStore" in str(raised.value.hint)


def test_what_is_no_store_and_no_embedding_is_refused() -> None:
    one = MemoryVectorStore(dimensions=3)
    wrong: Any
    for wrong in ((one, one), ("store",), (None,)):
        with pytest.raises(ValidationError, match="can't be used here"):
            HoldfastVectorStore(*wrong)
    wrong = len
    with pytest.raises(ConfigError, match="no Embeddings"):
        HoldfastVectorStore(one, embedding=wrong)


def test_a_url_opens_a_store_whose_dimensions_the_embedding_tells(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/main.db"
    store = HoldfastVectorStore.from_url(url, Directions(), tenant="ada")
    with pytest.raises(ClosedError, match="sync side"):
        store.similarity_search("east")
    with store:
        store.add_texts(["east"], ids=["e"])
        with pytest.raises(ValidationError, match="open already"), store:
            pass
    with pytest.raises(ClosedError):
        store.similarity_search("east")
    with HoldfastVectorStore.from_url(url, Directions(), tenant="ada") as again:
        assert ids(again.similarity_search("east")) == ["e"]
    with HoldfastVectorStore.from_url(url, Directions(), tenant="bo") as other:
        assert other.similarity_search("east") == []
    another = Directions()
    another.model = "another"
    with (
        HoldfastVectorStore.from_url(url, another) as refused,
        pytest.raises(ConfigError, match="the embedding model 'directions'"),
    ):
        refused.similarity_search("east")


@pytest.mark.parametrize(
    ("url", "options"), [("mysql://x", {}), ("redis://localhost/0", {"metric": "l2"}), ("nothing", {})]
)
async def test_a_url_of_no_such_server_is_refused(url: str, options: dict[str, Any]) -> None:
    store = HoldfastVectorStore.from_url(url, Directions(), **options)
    with pytest.raises(ConfigError), store:
        pass
    with pytest.raises(ConfigError):
        async with store:
            pass


async def test_a_url_of_postgresql_opens_both_sides(pgvector_config: PgVectorConfig) -> None:
    parameters = pgvector_config.connection_parameters()
    url = "postgresql://{user}:{password}@/{dbname}?host={host}&port={port}".format(**parameters)
    with HoldfastVectorStore.from_url(url, Directions(), metric="l2") as store:
        store.add_texts(["east", "north"], ids=["e", "n"])
        async with store:
            found = await store.asimilarity_search_with_score("east", 1)
    assert [(document.id, score) for document, score in found] == [("e", 1.0)]


async def test_a_store_is_made_from_texts_and_from_documents() -> None:
    documents = [Document(id="e", page_content="east"), Document(id="n", page_content="north", metadata={"n": 1})]
    inner = MemoryVectorStore(dimensions=3)
    store = HoldfastVectorStore.from_documents(documents, Directions(), store=inner)
    assert store.get_by_ids(["n", "e"]) == documents[::-1]
    HoldfastVectorStore.from_texts(["west"], Directions(), [{"n": 2}], ids=["w"], store=inner.in_namespace("other"))
    assert inner.count() == 2
    async_inner = AsyncMemoryVectorStore(dimensions=3)
    store = await HoldfastVectorStore.afrom_documents(documents, Directions(), store=async_inner)
    assert await store.aget_by_ids(["n", "e"]) == documents[::-1]
    await HoldfastVectorStore.afrom_texts(["west"], Directions(), ids=["w"], store=async_inner)
    assert await async_inner.count() == 3
    with pytest.raises(ConfigError, match="no store"):
        HoldfastVectorStore.from_texts(["west"], Directions())


def test_the_package_is_imported_without_langchain() -> None:
    program = "import sys; sys.modules['langchain_core'] = None; import vectorstore; print(vectorstore.PgVectorStore)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr

"""LangGraph's long-term memory on ours: ``BaseStore`` over PostgreSQL or SQLite (extra ``langgraph``).

::

    with HoldfastStore.from_url("postgresql://localhost/app") as store:
        store.put(("memories", "ada"), "food", {"likes": "figs"})
        graph = builder.compile(store=store)

A batch is planned once, its texts are embedded by the sync or the async side of the embedding function, and it runs as
one statement on PostgreSQL. Neither side runs the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, cast

from persistence._async.manager import AsyncDatabaseManager
from persistence._sync.manager import DatabaseManager
from persistence.errors import CapabilityError, ValidationError
from persistence.extras import extra
from persistence.validation import ID_BYTES, check_id, check_whole, shown
from sessions._async.items import AsyncItemStore
from sessions._sync.items import ItemStore
from sessions.contents import content_json, decoded
from sessions.embeddings import DIMENSIONS, as_embedding
from sessions.item_batches import Answers, Batch, Found, Get, Listing, Metric, Put, Search, conditions_of
from sessions.items import lifetime_micros, namespace_key, namespace_labels

with extra("langgraph"):
    from langchain_core.embeddings import Embeddings
    from langgraph.store.base import (
        BaseStore,
        GetOp,
        IndexConfig,
        InvalidNamespaceError,
        Item,
        ListNamespacesOp,
        Op,
        PutOp,
        Result,
        SearchItem,
        SearchOp,
        TTLConfig,
        ensure_embeddings,
        get_text_at_path,
        tokenize_path,
    )

__all__ = ["HoldfastStore"]

_ROOT = "langgraph"
_METRICS: tuple[Metric, ...] = ("cosine", "l2", "inner_product")
_AT_ONCE = 4
"""How many calls of one async store run at the same time."""


class HoldfastStore(BaseStore):
    """A LangGraph store over a ``DatabaseManager``, an ``AsyncDatabaseManager`` or one of each.

    ``index`` is LangGraph's ``IndexConfig`` and may hold ``distance_type``: ``cosine`` (the default), ``l2`` or
    ``inner_product``. A search with a ``query`` is exact: pgvector computes distances on PostgreSQL, numpy on SQLite.
    The first item that is embedded, or query, creates pgvector's extension where it is missing, as the first call
    creates the tables; with ``migrate=False`` what is missing is an error. Without ``index``, a ``query`` is ignored.
    ``ttl`` is LangGraph's ``TTLConfig``; what has expired is not there, and reads renew a time to live unless they say
    otherwise.

    The reads of a batch see nothing of its writes; of two writes of the same key the later one counts. Values are dicts
    of JSON and come back as they were; a tuple or NaN is refused.
    """

    supports_ttl = True

    def __init__(
        self,
        *managers: DatabaseManager | AsyncDatabaseManager,
        name: str = "main",
        tenant: str = "default",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        migrate: bool = True,
    ) -> None:
        self.index_config = index
        self.ttl_config = ttl
        self.embeddings: Embeddings | None = None
        self._metric: Metric = "cosine"
        if index is not None:
            self.embeddings = ensure_embeddings(index.get("embed"))
            self._metric = _metric_of(index)
            check_whole("dims", index["dims"], most=DIMENSIONS)
        self._name, self._tenant, self._migrate = name, tenant, migrate
        self._url: str | None = None
        self._sync: ItemStore | None = None
        self._async: AsyncItemStore | None = None
        # A graph may start a thousand calls at once; they wait here, not for the pool, whose patience has an end.
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._manager: DatabaseManager | None = None
        self._async_manager: AsyncDatabaseManager | None = None
        for manager in managers:
            if isinstance(manager, DatabaseManager) and self._sync is None:
                self._sync = ItemStore(manager, name, tenant=tenant, migrate=migrate)
            elif isinstance(manager, AsyncDatabaseManager) and self._async is None:
                self._async = AsyncItemStore(manager, name, tenant=tenant, migrate=migrate)
            else:
                raise ValidationError(
                    f"a {type(manager).__name__} can't be used here",
                    hint="HoldfastStore takes a DatabaseManager, an AsyncDatabaseManager, or one of each",
                )

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        tenant: str = "default",
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        migrate: bool = True,
    ) -> Self:
        """Return a store that ``with`` or ``async with`` connects and closes: PostgreSQL or SQLite by its URL.

        ``with`` opens the sync side, ``async with`` the async one on the loop that runs; both may be open at once.
        """
        store = cls(tenant=tenant, index=index, ttl=ttl, migrate=migrate)
        store._url = url
        return store

    def __enter__(self) -> Self:
        if self._url is not None:
            if self._manager is not None:
                raise _open_already()
            manager = DatabaseManager()
            try:
                manager.add(self._name, self._url)
                self._sync = ItemStore(manager, self._name, tenant=self._tenant, migrate=self._migrate)
            except BaseException:
                manager.close()
                raise
            self._manager = manager
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()

    async def __aenter__(self) -> Self:
        if self._url is not None:
            if self._async_manager is not None:
                raise _open_already()
            manager = AsyncDatabaseManager()
            try:
                await manager.add(self._name, self._url)
                self._async = AsyncItemStore(manager, self._name, tenant=self._tenant, migrate=self._migrate)
            except BaseException:
                await manager.aclose()
                raise
            self._async_manager = manager
            self._turns = asyncio.Semaphore(_AT_ONCE)  # it belongs to the loop on which calls first waited for it
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        manager, self._async_manager = self._async_manager, None
        if manager is not None:
            await manager.aclose()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Perform operations in one round trip (on PostgreSQL; each search by a query is another one).

        Raises:
            ValidationError: one can't be performed as it is; nothing was written.
            CapabilityError: one is embedded, and the PostgreSQL server has no pgvector, nor may it be created; nothing
                was written.
        """
        if self._sync is None:
            raise _missing("sync", "with", "DatabaseManager")
        plan = _Plan(self, ops)
        vectors = self.embeddings.embed_documents(plan.texts) if self.embeddings and plan.texts else []
        query_vectors = [self.embeddings.embed_query(query) for query in plan.queries] if self.embeddings else []
        return plan.results(self._sync.run(plan.batch(vectors, query_vectors)))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Perform operations as ``batch`` does."""
        if self._async is None:
            raise _missing("async", "async with", "AsyncDatabaseManager")
        plan = _Plan(self, ops)
        vectors = await self.embeddings.aembed_documents(plan.texts) if self.embeddings and plan.texts else []
        query_vectors = [await self.embeddings.aembed_query(query) for query in plan.queries] if self.embeddings else []
        batch = plan.batch(vectors, query_vectors)
        if (
            self._async.in_transaction
        ):  # its connection is taken already: waiting for others could be waiting for itself
            return plan.results(await self._async.run(batch))
        async with self._turns:
            return plan.results(await self._async.run(batch))

    def sweep_ttl(self) -> int:
        """Remove every expired item of the tenant and return how many; it takes room only, since nothing sees one."""
        if self._sync is None:
            raise _missing("sync", "with", "DatabaseManager")
        return self._sync.delete_expired()

    async def asweep_ttl(self) -> int:
        """Remove expired items as ``sweep_ttl`` does."""
        if self._async is None:
            raise _missing("async", "async with", "AsyncDatabaseManager")
        return await self._async.delete_expired()


class _Plan:
    """A batch of LangGraph's operations, as ours: what is to be embedded first, and which answer is whose."""

    def __init__(self, store: HoldfastStore, ops: Iterable[Op]) -> None:
        self._ops = list(ops)
        self._store = store
        self.texts: list[str] = []
        """What the puts are embedded by."""
        self.queries: list[str] = []
        """What searches look for, each once."""
        self._metric = store._metric
        self._puts: dict[tuple[str, str], tuple[Put, list[str]] | None] = {}
        self._gets: list[Get] = []
        self._searches: list[tuple[Search, str | None]] = []
        self._listings: list[Listing] = []
        for op in self._ops:
            self._add(op)
        for written in self._puts.values():
            self.texts += written[1] if written is not None else []

    def _add(self, op: Op) -> None:
        match op:
            case GetOp():
                self._gets.append(Get(_stored(op.namespace), check_id("the key", op.key), op.refresh_ttl))
            case SearchOp():
                self._add_search(op)
            case ListNamespacesOp():
                self._listings.append(_listing(op))
            case PutOp():
                self._add_put(op)
            case _:
                raise ValidationError(f"a {type(op).__name__} is no operation of a store")

    def _add_search(self, op: SearchOp) -> None:
        query = op.query if op.query and self._store.embeddings is not None else None
        if query is not None and query not in self.queries:
            self.queries.append(query)
        search = Search(
            _stored(op.namespace_prefix),
            conditions_of(op.filter or {}),
            check_whole("limit", op.limit, least=0),
            check_whole("offset", op.offset, least=0),
            op.refresh_ttl,
        )
        self._searches.append((search, query))

    def _add_put(self, op: PutOp) -> None:
        place = (_stored(op.namespace), check_id("the key", op.key))
        self._puts.pop(place, None)  # the later write counts, and stands where it came
        if op.value is None:
            self._puts[place] = None
            return
        if not isinstance(op.value, Mapping):
            raise ValidationError(f"the value is a {type(op.value).__name__}, not a dict")
        value = dict(op.value)
        text = content_json(value, "the value")
        life = lifetime_micros(None if op.ttl is None else op.ttl * 60)
        self._puts[place] = (Put(*place, text, life, []), self._texts(value, op.index))

    def _texts(self, value: Mapping[str, Any], index: object) -> list[str]:
        """Return the texts of an item that are embedded: those at the paths of its own index, or of the store's."""
        config = self._store.index_config
        if isinstance(index, str):
            raise ValidationError("index is a str, not a list of paths", hint=f"index=[{shown(index)}]")
        if config is None or index is False:
            return []
        paths = cast("Sequence[str]", index if index is not None else config.get("fields") or ["$"])
        return [
            text for path in paths for text in get_text_at_path(value, path if path == "$" else tokenize_path(path))
        ]

    def batch(self, vectors: Sequence[Sequence[float]], query_vectors: Sequence[Sequence[float]]) -> Batch:
        """Return the batch, its texts and queries embedded."""
        embedded = iter([self._checked(vector) for vector in vectors])
        sought = dict(zip(self.queries, map(self._checked, query_vectors), strict=True))
        batch = Batch(metric=self._metric, gets=self._gets, listings=self._listings)
        batch.searches = [
            search if query is None else search._replace(vector=sought[query]) for search, query in self._searches
        ]
        for place, written in self._puts.items():
            if written is None:
                batch.deletes.append(place)
            else:
                put, texts = written
                batch.puts.append(put._replace(vectors=[next(embedded) for _ in texts]))
        return batch

    def _checked(self, vector: Sequence[float]) -> list[float]:
        config = self._store.index_config
        if config is not None and len(vector) != config["dims"]:
            raise ValidationError(
                f"the embedding has {len(vector)} dimensions, not {config['dims']}", hint="dims of the index"
            )
        return cast("list[float]", as_embedding(vector, "the embedding").tolist())

    def results(self, answers: Answers) -> list[Result]:
        """Return the answers in the order of the operations."""
        gets, searches, listings = iter(answers.gets), iter(answers.searches), iter(answers.listings)
        results: list[Result] = []
        for op in self._ops:
            if isinstance(op, GetOp):
                found = next(gets)
                results.append(None if found is None else Item(**_fields(found)))
            elif isinstance(op, SearchOp):
                results.append([SearchItem(**_fields(item), score=item.score) for item in next(searches)])
            elif isinstance(op, ListNamespacesOp):
                results.append([namespace_labels(namespace)[1:] for namespace in next(listings)])
            else:
                results.append(None)
        return results


def _stored(labels: Sequence[object]) -> str:
    """Return a namespace as it is stored; LangGraph's own error for what it allows no store to take."""
    for label in labels:
        if not isinstance(label, str) or not label or "." in label:
            raise InvalidNamespaceError(f"{label!r} in {tuple(labels)!r} is no label: a text, not empty, without '.'")
    return namespace_key([_ROOT, *map(str, labels)])


def _listing(op: ListNamespacesOp) -> Listing:
    conditions = []
    for condition in op.match_conditions or ():
        if condition.match_type not in ("prefix", "suffix"):
            raise ValidationError(f"{condition.match_type!r} is no way to match", hint="prefix or suffix")
        path = [None if label == "*" else _stored([label])[len(_stored([])) : -1] for label in condition.path]
        conditions.append({"path": path, "suffix": condition.match_type == "suffix"})
    depth = None if op.max_depth is None else check_whole("max_depth", op.max_depth, least=0)
    limit, offset = check_whole("limit", op.limit, least=0), check_whole("offset", op.offset, least=0)
    # No namespace has as many labels as it may have bytes.
    return Listing(_stored(()), conditions, None if depth is None else min(depth, ID_BYTES), limit, offset)


def _fields(found: Found) -> dict[str, Any]:
    return {
        "namespace": namespace_labels(found.namespace)[1:],
        "key": found.key,
        "value": decoded(found.value),
        "created_at": found.created_at,
        "updated_at": found.updated_at,
    }


def _metric_of(index: IndexConfig) -> Metric:
    metric = cast("Mapping[str, Any]", index).get("distance_type", "cosine")
    if metric not in _METRICS:
        raise ValidationError(f"{metric!r} is no distance_type", hint=", ".join(_METRICS))
    return cast(Metric, metric)


def _open_already() -> ValidationError:
    return ValidationError("this store is open already", hint="make another one from the URL")


def _missing(side: str, block: str, manager: str) -> CapabilityError:
    return CapabilityError(f"this store has no {side} side", hint=f"open it in `{block}`, or give it a {manager}")

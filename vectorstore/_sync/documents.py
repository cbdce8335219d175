# Generated from ../_async/documents.py by tests/unasync.py: edit that one.
"""The life of a store's documents: what every backend stores, changes, gives back and deletes, and how it checks it."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Literal, Self

from persistence._sync.executor import Row
from persistence.config import Metric
from persistence.errors import (
    CapabilityError,
    ConfigError,
    MigrationError,
    NotFoundError,
    ValidationError,
)
from persistence.validation import check_id, check_limit, check_text, check_whole, shown
from vectorstore import requests
from vectorstore._sync import embedding as calls
from vectorstore._sync.loading import Load
from vectorstore.distance import METRICS, Matrix, as_vector, check_dimensions, check_metric
from vectorstore.embedders import as_embedder
from vectorstore.filters import Filter, Node, parse_filter
from vectorstore.records import (
    Change,
    CheckedDocument,
    Document,
    Embedder,
    Patch,
    Vector,
    check_batch,
    check_collection,
    check_expiry,
    check_ids,
    document_line,
    metadata_text,
)


class Documents(ABC):
    """What a vector store does besides searching; :class:`VectorStore` is the whole of it."""

    metrics: ClassVar[tuple[str, ...]] = METRICS
    """The metrics that this kind of store has."""
    dimensions: int
    metric: Metric
    collection: str
    namespace: str

    def __init__(
        self,
        *,
        collection: str,
        dimensions: int | None,
        metric: Metric,
        namespace: str = "default",
        embedder: Embedder | None = None,
        model: str | None = None,
        text_search: str | None = None,
        keys: Mapping[str, type] | None = None,
    ) -> None:
        self.collection = check_collection(collection)
        self.namespace = requests.check_namespace(namespace)
        self._embedder = as_embedder(embedder)
        made = getattr(self._embedder, "dimensions", None)
        self.dimensions = check_dimensions(made if dimensions is None else dimensions)
        if isinstance(made, int) and made != self.dimensions:
            raise ConfigError(f"the embedder makes {made} dimensions, and the store is opened for {self.dimensions}")
        self.metric = check_metric(metric, self.metrics)
        model = getattr(self._embedder, "model", None) if model is None else model
        self.model = None if model is None else check_text("model", model)
        self.text_search = requests.check_language(text_search)
        self._keys = requests.check_keys(keys)

    def in_namespace(self, namespace: str) -> Self:
        """Return the same store bound to another namespace."""
        other = copy.copy(self)
        other.namespace = requests.check_namespace(namespace)
        return other

    def store_documents(
        self,
        documents: Iterable[Document] | Iterable[Document],
        *,
        batch_size: int = 1000,
        progress: Callable[[int], object] | None = None,
        on_error: Literal["stop", "continue"] = "stop",
    ) -> int:
        """Store documents, replacing those whose ids are there, and return how many were written.

        The iterable is read batch by batch, at most one ahead of what is written. Each batch is stored as a whole or
        not at all, and is checked before anything of it is sent; batches before a bad one stay, and those behind it are
        stored too with ``on_error="continue"``, unless the server can't be used any more. Of equal ids in one batch the
        last wins and counts. ``progress`` is called after each batch with the number written so far (see
        ``ProgressBar``).

        Raises:
            ValidationError: a document can't be stored faithfully; the message names its id.
            BatchError: batches failed, and were passed over.
        """
        check_whole("batch_size", batch_size)
        if on_error not in ("stop", "continue"):
            raise ValidationError(f"on_error {on_error!r} is unknown", hint="stop or continue")
        load = Load(
            self._checked,
            self._write,
            embedder=self._embedder,
            progress=progress,
            goes_on=on_error == "continue",
            ahead=self._may_look_ahead(),
        )
        return load.run(calls.batches(calls.check_documents(documents), batch_size))

    def _may_look_ahead(self) -> bool:
        """Tell whether a batch may be written by another task than the caller's, and pays to be."""
        return False

    def _checked(self, batch: Sequence[Document]) -> list[CheckedDocument]:
        """Return a batch as it is sent: each id once, in their order, in which all loaders lock them."""
        checked = {each.id: each for each in check_batch(batch, self.dimensions, self.metric)}
        return [checked[id] for id in sorted(checked)]

    def _as_vector(self, value: object, what: str) -> Matrix:
        """Return a vector as it is sent; the message of an error names ``what``."""
        return as_vector(value, self.dimensions, self.metric, what)

    @abstractmethod
    def _write(self, batch: list[CheckedDocument]) -> None:
        """Store documents of different ids, all or none."""

    def replace_source(
        self, source: str, documents: Iterable[Document] | Iterable[Document], *, batch_size: int = 1000
    ) -> int:
        """Make these documents all that there is of a source, and return how many they are.

        What the source had before and is not among them is deleted. Others see what was there before until all is
        written, and all of the new from then on; when anything fails, nothing has changed.

        Raises:
            ValidationError: a document can't be stored faithfully, or is of another source.
        """
        name = check_id("the source", source)
        check_whole("batch_size", batch_size)
        found = calls.check_documents(documents)
        return self._replace(name, self._of_source(name, calls.batches(found, batch_size)))

    def _of_source(
        self, source: str, found: Iterator[list[Document]]
    ) -> Iterator[list[CheckedDocument]]:
        for batch in found:
            for document in batch:
                if getattr(document, "source", None) not in (None, source):
                    raise ValidationError(f"document {shown(document.id)} is of another source than {shown(source)}")
            checked = self._checked(calls.with_embeddings(self._embedder, batch))
            yield [each._replace(source=source) for each in checked]

    def _replace(self, source: str, batches: Iterator[list[CheckedDocument]]) -> int:
        """Write the batches and delete what else is of their source, all or none; return the number written."""
        raise self._lacks("replacing a source")

    def get(self, id: str, *, with_embedding: bool = True) -> Document | None:
        """Return a document, or None when there is none of that id."""
        found = self.get_many([id], with_embeddings=with_embedding)
        return found[0] if found else None

    def get_many(self, ids: Iterable[str], *, with_embeddings: bool = True) -> list[Document]:
        """Return documents in the order of their ids; those that are missing are left out."""
        wanted = check_ids(ids)
        return self._read(wanted, with_embeddings) if wanted else []

    @abstractmethod
    def _read(self, ids: list[str], with_embeddings: bool) -> list[Document]: ...

    def exists(self, id: str) -> bool:
        """Tell whether there is a document of that id."""
        return bool(self._read([check_id("the document's id", id)], False))

    def list_documents(
        self, *, limit: int = 100, after: str | None = None, filter: Filter | None = None, with_embeddings: bool = False
    ) -> list[Document]:
        """Return at most ``limit`` documents (up to 10,000) that pass a filter, by id.

        ``after`` is the id of the last document of the page before, be it there still or not; the last page is shorter
        than ``limit``.
        """
        last = None if after is None else check_id("after", after)
        node = None if filter is None else parse_filter(filter)
        return self._page(last, check_limit(limit), node, with_embeddings)

    def iterate(
        self,
        *,
        filter: Filter | None = None,
        after: str | None = None,
        batch_size: int = 1000,
        with_embeddings: bool = False,
    ) -> Iterator[Document]:
        """Yield the documents that pass a filter by id, those behind ``after``, in batches of one round trip each.

        Nothing is held between batches: documents changed meanwhile are given as they are then.
        """
        last = None if after is None else check_id("after", after)
        check_limit(batch_size, "batch_size")
        node = None if filter is None else parse_filter(filter)
        while True:
            page = self._page(last, batch_size, node, with_embeddings)
            for document in page:
                yield document
            if len(page) < batch_size:
                return
            last = page[-1].id

    def _page(self, after: str | None, limit: int, node: Node | None, with_embeddings: bool) -> list[Document]:
        """Return the first documents behind an id, by id."""
        raise self._lacks("iterating")

    def update_document(
        self,
        id: str,
        *,
        content: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        embedding: Vector | None = None,
        source: str | None = None,
        expires_at: datetime | Literal["never"] | None = None,
    ) -> None:
        """Change what is given of a document, and keep the rest.

        ``metadata`` is all that the document has from then on: keys that aren't among it are gone. To keep them, use
        :meth:`patch_document`.

        A new content without an embedding is embedded where the store has an embedder; elsewhere the embedding stays.
        ``expires_at="never"`` takes its expiry away.

        Raises:
            NotFoundError: there is no document of that id.
            ValidationError: nothing is given, or it can't be stored faithfully.
        """
        key = check_id("the document's id", id)
        what = f"document {shown(key)}"
        if content is None and metadata is None and embedding is None and source is None and expires_at is None:
            raise ValidationError(f"no change of {what} is given", hint="content=, metadata=, embedding=, …")
        text = None if content is None else check_text(f"the content of {what}", content)
        stored = None if metadata is None else metadata_text(metadata, what)
        origin = None if source is None else check_id(f"the source of {what}", source)
        never = isinstance(expires_at, str) and expires_at == "never"
        expiry = None if never else check_expiry(expires_at, what)
        if text is not None and embedding is None and self._embedder is not None:
            embedding = (calls.embed(self._embedder, [text]))[0]
        vector = None
        if embedding is not None:
            vector = self._as_vector(embedding, f"the embedding of {what}")
        if not self._change(key, Change(text, stored, vector, origin, expiry, never)):
            raise self._no_document(what, "update_document")

    @abstractmethod
    def _change(self, id: str, change: Change) -> bool:
        """Change a document; False when there is none of that id."""

    def patch_document(self, id: str, metadata: Mapping[str, Any]) -> None:
        """Merge into a document's metadata, atomically, and keep the rest.

        JSON Merge Patch (RFC 7396) at the top level: a key that is given replaces the whole value, None removes the
        key, every other key stays. Values are not merged below that, and nested None is stored.

        Raises:
            NotFoundError: there is no document of that id.
            ValidationError: it can't be stored faithfully.
        """
        key = check_id("the document's id", id)
        what = f"document {shown(key)}"
        if not self._merge(key, Patch.of(metadata, what)):
            raise self._no_document(what, "patch_document")

    def _merge(self, id: str, patch: Patch) -> bool:
        """Merge into a document's metadata; False when there is none of that id."""
        raise self._lacks("patching of metadata")

    def _no_document(self, what: str, operation: str) -> NotFoundError:
        return NotFoundError(
            f"there is no {what} in {self.collection!r}",
            hint="store_documents() writes new ones",
            operation=operation,
            connection=getattr(self, "_name", None),
        )

    def delete(self, ids: Iterable[str] | None = None, *, filter: Filter | None = None) -> int:
        """Delete documents by their ids, or all that pass a filter, and return how many were there.

        Raises:
            ValidationError: both are given, or neither; ``filter={}`` is all documents of the namespace.
        """
        if (ids is None) == (filter is None):
            raise ValidationError("delete takes ids or a filter", hint="delete(filter={}) deletes all")
        if filter is not None:
            return self._remove_where(parse_filter(filter))
        wanted = check_ids(ids)
        return self._remove(wanted) if wanted else 0

    @abstractmethod
    def _remove(self, ids: list[str]) -> int: ...

    def _remove_where(self, node: Node) -> int:
        raise self._lacks("deleting by a filter")

    def erase_user(self, user_id: str) -> dict[str, int]:
        """Delete the documents of a user: those of the namespace with the id as ``user_id`` in their metadata.

        Return under ``documents`` how many there were. What has expired is found no more, and goes with
        ``delete_expired``.
        """
        return {"documents": self.delete(filter={"user_id": check_id("user_id", user_id)})}

    def export_user(self, user_id: str) -> Iterator[str]:
        """Yield those documents as JSON lines of kind ``document``, by id, without their embeddings."""
        for document in self.iterate(filter={"user_id": check_id("user_id", user_id)}):
            yield document_line(document)

    def delete_expired(self, *, limit: int = 10_000) -> int:
        """Delete at most ``limit`` documents that have expired, of every namespace, and return how many they were.

        Nobody finds them anyhow: this gives their room back.
        """
        return self._purge(check_whole("limit", limit))

    def _purge(self, limit: int) -> int:
        raise self._lacks("expiry")

    def count(self, filter: Filter | None = None) -> int:
        """Return how many documents there are, or how many pass a filter (see ``vectorstore.filters``)."""
        return self._count(None if filter is None else parse_filter(filter))

    @abstractmethod
    def _count(self, node: Node | None) -> int: ...

    def _lacks(self, what: str) -> CapabilityError:
        return CapabilityError(f"{type(self).__name__} has no {what}", connection=getattr(self, "_name", None))

    def _no_text_search(self) -> ConfigError:
        """Return the error of a search by words in a collection that was made without."""
        return ConfigError(
            f"the collection {self.collection!r} has no text search", hint="open it with text_search='english'"
        )

    def _not_made(self, connection: str) -> MigrationError:
        return MigrationError(
            f"the collection {self.collection!r} was not made yet",
            hint="open it once with migrate=True",
            connection=connection,
        )

    def _check_registered(self, row: Row) -> None:
        """Compare what a collection was made for with what this store was opened for.

        Raises:
            ConfigError: they differ; the message names both.
        """
        dimensions, metric, model = row["dimensions"], row["metric"], row["model"]
        language = row.get("language")
        problems = []
        if dimensions != self.dimensions:
            problems.append(f"{dimensions} dimensions, not {self.dimensions}")
        if metric != self.metric:
            problems.append(f"the metric {metric}, not {self.metric}")
        if model is not None and self.model is not None and model != self.model:
            problems.append(f"the embedding model {model!r}, not {self.model!r}")
        if language is not None and self.text_search is not None and language != self.text_search:
            problems.append(f"text search in {language!r}, not {self.text_search!r}")
        if problems:
            raise ConfigError(
                f"the collection {self.collection!r} was made for {'; '.join(problems)}",
                problems=tuple(problems),
                hint="open it as it was made, or choose another collection",
            )

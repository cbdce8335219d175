"""Documents of LangChain as ours, and what its calls name otherwise; LangChain itself needn't be installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any
from uuid import uuid4

from persistence.config import PostgreSQLConfig, RedisConfig, SQLiteConfig
from persistence.errors import CapabilityError, ClosedError, ConfigError, ValidationError
from persistence.validation import check_id, check_text, shown
from vectorstore.records import Document, Vector
from vectorstore.requests import Diversity


def from_texts(
    texts: object, metadatas: Iterable[dict[str, Any] | None] | None, ids: Sequence[str | None] | None
) -> list[Document]:
    """Return texts with their metadata as documents; where an id is missing, one is made.

    Raises:
        ValidationError: one can't be stored, or there is another number of metadatas or ids.
    """
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ValidationError(f"texts is one {type(texts).__name__}", hint="give a list: [text]")
    contents = list(texts)
    given = list(metadatas or repeat({}, len(contents)))
    if len(given) != len(contents):
        raise ValidationError(f"there are {len(given)} metadatas for {len(contents)} texts")
    return _named([(None, *each) for each in zip(contents, given, strict=True)], ids)


def to_holdfast(documents: object, ids: Sequence[str | None] | None) -> list[Document]:
    """Return documents of LangChain as ours; an id goes before that of the document.

    Raises:
        ValidationError: one can't be stored, or there is another number of ids.
    """
    if hasattr(documents, "page_content") or isinstance(documents, str) or not isinstance(documents, Iterable):
        raise ValidationError(f"documents is one {type(documents).__name__}", hint="give a list: [document]")
    found = []
    for document in documents:
        if not hasattr(document, "page_content"):
            raise ValidationError(f"a {type(document).__name__} is no Document of LangChain")
        found.append((document.id, document.page_content, document.metadata))
    return _named(found, ids)


def _named(found: list[tuple[str | None, Any, Any]], ids: Sequence[str | None] | None) -> list[Document]:
    """Return documents, checked as far as embedding them needs."""
    if isinstance(ids, str):
        raise ValidationError("ids is one str", hint="give a list of ids: [id]")
    if ids is not None and len(ids) != len(found):
        raise ValidationError(f"there are {len(ids)} ids for {len(found)} documents")
    made = []
    for place, (own, content, metadata) in enumerate(found):
        name = own if ids is None or ids[place] is None else ids[place]
        key = str(uuid4()) if name is None else check_id("the document's id", name)
        text = check_text(f"the content of document {shown(key)}", content)
        made.append(Document(key, text, {} if metadata is None else metadata))
    return made


def embed_into(documents: Sequence[Document], vectors: Sequence[Vector]) -> None:
    """Give each document its embedding.

    Raises:
        ConfigError: there is another number of embeddings.
    """
    if len(vectors) != len(documents):
        raise ConfigError(f"the embedding gave {len(vectors)} vectors for {len(documents)} texts")
    for document, vector in zip(documents, vectors, strict=True):
        document.embedding = vector


def check_relevance(options: dict[str, Any]) -> None:
    """Refuse a search whose scores have no scale on which 0 and 1 mean anything."""
    if options.get("mode", "vector") != "vector" or options.get("rerank") is not None:
        raise ValidationError(
            "only a search by vectors has relevance scores", hint="similarity_search_with_score() for words and hybrids"
        )


def mmr(fetch_k: int, lambda_mult: float) -> Diversity:
    """Return how LangChain asks for results that differ."""
    return Diversity(balance=lambda_mult, candidates=fetch_k)


def kind_of(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return which kind of server a URL names, and the options that its store takes.

    Raises:
        ConfigError: it is of no kind that has vectors, or has no such metric.
    """
    scheme = url.partition("://")[0].removeprefix("embedded+")
    if scheme in PostgreSQLConfig.schemes:
        return "postgresql", options
    if scheme in SQLiteConfig.schemes:
        return "sqlite", options
    if scheme not in RedisConfig.schemes:
        raise ConfigError(f"{scheme[:20]!r} is no scheme known here", hint="postgresql, sqlite, redis or rediss")
    if options["metric"] != "cosine":
        raise ConfigError(f"Redis has no metric {options['metric']!r}", hint="cosine")
    return "redis", {name: value for name, value in options.items() if name != "metric"}


def missing_side(url: str | None, side: str, statement: str, kind: str) -> ClosedError | CapabilityError:
    """Return the error of a call on a side that isn't there."""
    if url is not None:
        hint = f"{statement} HoldfastVectorStore.from_url(…) as store:"
        return ClosedError(f"the {side} side of this store is not open", hint=hint)
    return CapabilityError(
        f"this store has no {side} side", hint=f"give HoldfastVectorStore one of type {kind} too, or use from_url()"
    )

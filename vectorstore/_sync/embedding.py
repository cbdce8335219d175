# Generated from ../_async/embedding.py by tests/unasync.py: edit that one.
"""Calling an embedder, a re-ranker or any other function of the caller's, which may be asynchronous or may block."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from persistence._sync.compat import finish, in_background
from persistence.errors import ConfigError, ValidationError
from persistence.validation import check_id, check_text, shown
from vectorstore.records import Document, Embedder, Vector


def call(what: str, function: Callable[[], Any]) -> Any:
    """Return what a function of the caller's gives, without holding up anything else meanwhile.

    Raises:
        ConfigError: it is asynchronous, and this is the sync side.
    """
    return finish(what, in_background(function))


def embed(embedder: Embedder | None, texts: list[str], *, queries: bool = False) -> list[Vector]:
    """Return one vector a text.

    Raises:
        ConfigError: there is no embedder, or it gave another number of vectors.
    """
    if embedder is None:
        raise ConfigError("the store has no embedder for texts", hint="pass embedder=, or give a vector")
    function = getattr(embedder, "embed_queries", embedder) if queries else embedder
    vectors = list(call("the embedder", partial(function, texts)))
    if len(vectors) != len(texts):
        raise ConfigError(f"the embedder gave {len(vectors)} vectors for {len(texts)} texts")
    return vectors


def with_embeddings(embedder: Embedder | None, batch: Sequence[Document]) -> Sequence[Document]:
    """Return documents, the missing embeddings made in one call."""
    bare = [each for each in batch if getattr(each, "embedding", 0) is None]
    if embedder is None or not bare:
        return batch
    for each in bare:
        key = check_id("the document's id", each.id)
        check_text(f"the content of document {shown(key)}", each.content)
    vectors = iter(embed(embedder, [each.content for each in bare]))
    missing = set(map(id, bare))
    return [dataclasses.replace(each, embedding=next(vectors)) if id(each) in missing else each for each in batch]


def batches(documents: Iterable[Document] | Iterable[Document], size: int) -> Iterator[list[Document]]:
    """Yield the documents in lists of ``size``, read as they are wanted."""
    source = iter(documents)
    while found := list(islice(source, size)):
        yield found


def check_documents(documents: object) -> Any:
    """Refuse what is no collection of documents.

    Raises:
        ValidationError: it is one document, or nothing that can be iterated over.
    """
    several: Any = Iterable
    if isinstance(documents, Document | str | Mapping) or not isinstance(documents, several):
        raise ValidationError(f"documents is one {type(documents).__name__}", hint="give a list: [document]")
    return documents

"""Embedding models of other libraries as the embedders that a store takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from persistence.errors import ConfigError
from persistence.validation import check_text
from vectorstore.records import Embedder, Vectors


class EmbedderAdapter:
    """A model object as an embedder: one of sentence-transformers (``encode``) or LangChain (``embed_documents``).

    ``model`` and ``dimensions`` are what it tells of itself, unless they are given.

    Raises:
        ConfigError: it has neither method.
    """

    def __init__(self, given: Any, *, model: str | None = None, dimensions: int | None = None) -> None:
        self.model = _name_of(given) if model is None else check_text("model", model, may_be_empty=False)
        self.dimensions = _dimensions_of(given) if dimensions is None else dimensions
        self._documents: Callable[[list[str]], Vectors | Awaitable[Vectors]]
        self._queries: Callable[[list[str]], Vectors | Awaitable[Vectors]]
        if callable(getattr(given, "embed_documents", None)):
            self._documents = given.embed_documents
            self._queries = lambda texts: [given.embed_query(text) for text in texts]
        elif callable(getattr(given, "encode", None)):
            self._documents = getattr(given, "encode_document", given.encode)
            self._queries = getattr(given, "encode_query", given.encode)
        else:
            raise ConfigError(
                f"a {type(given).__name__} is no embedder", hint="a callable that turns a list of texts into vectors"
            )

    def __call__(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]:
        """Return one vector a text."""
        return self._documents(texts)

    def embed_queries(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]:
        """Return one vector a query, which some models embed in another way."""
        return self._queries(texts)


def as_embedder(given: object) -> Embedder | None:
    """Return an embedder, a model of another library adapted; None is none.

    Raises:
        ConfigError: it is none.
    """
    if given is None or isinstance(given, EmbedderAdapter):
        return given
    # Before `callable`: a model of sentence-transformers is callable, and gives no vectors then.
    if any(callable(getattr(given, name, None)) for name in ("embed_documents", "encode")):
        return EmbedderAdapter(given)
    if not callable(given):
        raise ConfigError(
            f"a {type(given).__name__} is no embedder", hint="a callable that turns a list of texts into vectors"
        )
    return given


def _name_of(given: Any) -> str | None:
    for attribute in ("model_name", "model", "model_id"):
        found = getattr(given, attribute, None)
        if isinstance(found, str) and found:
            return found
    return None


def _dimensions_of(given: Any) -> int | None:
    tell = getattr(given, "get_sentence_embedding_dimension", None)
    found = tell() if callable(tell) else getattr(given, "dimensions", None)
    return found if isinstance(found, int) else None

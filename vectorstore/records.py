"""What a vector store takes and gives, and the checks that every document, id and name passes before any I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from persistence.config import Metric
from persistence.dialect import to_json
from persistence.errors import ValidationError
from persistence.validation import check_id, check_text
from vectorstore.distance import Matrix, as_vector

Vector = Sequence[float] | np.ndarray[Any, Any]
Vectors = Sequence[Vector] | np.ndarray[Any, Any]

METADATA_DEPTH = 64
_COLLECTION = re.compile(r"[a-z][a-z0-9_]{0,31}")
_INT64 = 2**63
_EXACT = 2**53
"""From here on a float is a whole number."""


class Embedder(Protocol):
    """Turns texts into one vector each, in their order; a sync store takes none that is asynchronous."""

    def __call__(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]: ...


@dataclass(slots=True)
class Document:
    """A text with its metadata and its embedding.

    ``metadata`` is a JSON object: texts, whole numbers of 64 bits, floats, booleans, None, lists and objects; a tuple
    comes back as a list. ``embedding`` is any sequence or array of numbers, and comes back as a float32 array of shape
    ``(dimensions,)``; left out, the store's embedder makes it of ``content``. Two documents are equal when all but
    their embeddings are.
    """

    id: str
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    embedding: Vector | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A document that a search found.

    ``score`` is its similarity, higher is better, on the same scale on every backend: the cosine in [-1, 1]; the inner
    product as it is; ``1 / (1 + distance)`` for l2 and l1. ``distance`` is lower for what is nearer: 1 - cosine, the
    negative inner product, or the length of the difference. ``embedding`` is there when it was asked for.
    """

    id: str
    content: str
    metadata: dict[str, Any]
    score: float
    distance: float
    embedding: Matrix | None = field(default=None, compare=False, repr=False)


class CheckedDocument(NamedTuple):
    """A document as it is sent: checked, its metadata as JSON text, its embedding as float32."""

    id: str
    content: str
    metadata: str
    embedding: Matrix


def check_ids(ids: object) -> list[str]:
    """Return a collection of ids as a list, each once, in their order.

    Raises:
        ValidationError: it is one text, or one of them is no id.
    """
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ValidationError(f"ids is one {type(ids).__name__}", hint="give a list of ids: [id]")
    return list(dict.fromkeys(check_id("the document's id", value) for value in ids))


def check_collection(name: object) -> str:
    """Return a collection's name, which becomes part of a table's.

    Raises:
        ValidationError: it is none.
    """
    if not isinstance(name, str) or not _COLLECTION.fullmatch(name):
        shown = repr(name[:40]) if isinstance(name, str) else f"a {type(name).__name__}"
        raise ValidationError(
            f"{shown} is no collection's name", hint="1 to 32 of a-z, 0-9 and _, beginning with a letter"
        )
    return name


def metadata_text(metadata: object, what: str) -> str:
    """Return metadata as the JSON text that is stored.

    Raises:
        ValidationError: it is no JSON object that every backend holds faithfully; the message names ``what``.
    """
    if not isinstance(metadata, Mapping):
        raise ValidationError(f"{what} has a {type(metadata).__name__} for metadata, not a mapping")
    try:
        return to_json(_normal(metadata, METADATA_DEPTH))
    except ValidationError as exc:
        raise ValidationError(f"the metadata of {what}: {exc.message}", hint=exc.hint) from None


def _normal(value: object, depth: int) -> object:
    """Return a JSON value in the one form that PostgreSQL's numeric and SQLite's int64 and double agree about."""
    if depth == 0:
        raise ValidationError(f"it is nested deeper than {METADATA_DEPTH} levels")
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValidationError(f"the key {key!r} is a {type(key).__name__}, not a text")
        return {key: _normal(item, depth - 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_normal(item, depth - 1) for item in value]
    if isinstance(value, float):
        return whole_number(value)
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValidationError("a whole number needs more than 64 bits", hint="store it as text")
    return value


def whole_number(value: float) -> int | float:
    """Return a float that only whole numbers are near as one, up to 64 bits.

    PostgreSQL's numeric would take its shortest decimal form, which is another whole number.
    """
    return int(value) if _EXACT <= abs(value) < _INT64 else value


def metadata_value(stored: str) -> dict[str, Any]:
    """Return the metadata that :func:`metadata_text` wrote."""
    found: dict[str, Any] = json.loads(stored, parse_int=_whole)
    return found


def _whole(text: str) -> int | float:
    """Return a whole number; beyond 64 bits it is a float, whose digits jsonb wrote out."""
    value = int(text) if len(text) < 400 else float(text)
    return value if -_INT64 <= value < _INT64 else float(value)


def check_document(document: object, dimensions: int, metric: Metric) -> CheckedDocument:
    """Return a document in the form that is sent.

    Raises:
        ValidationError: something of it can't be stored faithfully; the message names its id.
    """
    if not isinstance(document, Document):
        raise ValidationError(f"a {type(document).__name__} is no Document")
    key = check_id("the document's id", document.id)
    what = f"document {key[:80]!r}"
    if document.embedding is None:
        raise ValidationError(f"{what} has no embedding", hint="give it one, or give the store an embedder")
    return CheckedDocument(
        key,
        check_text(f"the content of {what}", document.content),
        metadata_text(document.metadata, what),
        as_vector(document.embedding, dimensions, metric, f"the embedding of {what}"),
    )

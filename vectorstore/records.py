"""What a vector store takes and gives, and the checks that every document, id and name passes before any I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, Protocol, cast

import numpy as np

from persistence.config import Metric
from persistence.dialect import to_json
from persistence.errors import CorruptError, PersistenceError, ValidationError
from persistence.validation import check_id, check_moment, check_text, shown
from vectorstore.distance import Matrix, as_vector, as_vectors

Vector = Sequence[float] | np.ndarray[Any, Any]
Vectors = Sequence[Vector] | np.ndarray[Any, Any]
Plan = Literal["exact", "index", "text"]

METADATA_DEPTH = 64
_COLLECTION = re.compile(r"[a-z][a-z0-9_]{0,31}")
_INT64 = 2**63
_MANY_DIGITS = re.compile(r"\d{19}")
_EXACT = 2**53
"""From here on a float is a whole number."""


class Embedder(Protocol):
    """Turns texts into one vector each, in their order; a sync store takes none that is asynchronous.

    Its ``model`` and ``dimensions``, where it has them, are the store's unless told otherwise. An ``embed_queries``
    with the same signature, where there is one, embeds what is searched for.
    """

    def __call__(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]: ...


@dataclass(slots=True)
class Document:
    """A text with its metadata and its embedding.

    ``metadata`` is a JSON object: texts, whole numbers of 64 bits, floats, booleans, None, lists and objects; a tuple
    comes back as a list. ``embedding`` is any sequence or array of numbers, and comes back as a float32 array of shape
    ``(dimensions,)``; left out, the store's embedder makes it of ``content``. ``source`` names what it is a part of (a
    file, a page; see ``replace_source``). From ``expires_at`` on it is gone. ``created_at`` and ``updated_at`` are set
    by the store alone. Two documents are equal when all but their embeddings and these two times are.
    """

    id: str
    content: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    embedding: Vector | None = field(default=None, compare=False, repr=False)
    source: str | None = field(default=None, kw_only=True)
    expires_at: datetime | None = field(default=None, kw_only=True)
    created_at: datetime | None = field(default=None, compare=False, repr=False, kw_only=True)
    updated_at: datetime | None = field(default=None, compare=False, repr=False, kw_only=True)


def document_line(document: Document) -> str:
    """Return a document as one line of JSON, as the export of a user has it."""
    times = {"expires_at": document.expires_at, "created_at": document.created_at, "updated_at": document.updated_at}
    found = {
        "kind": "document",
        "id": document.id,
        "content": document.content,
        "metadata": document.metadata,
        "source": document.source,
        **{name: None if moment is None else moment.isoformat() for name, moment in times.items()},
    }
    return json.dumps(found, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A document that a search found.

    ``score`` is its similarity, higher is better, on the same scale on every backend: the cosine in [-1, 1]; the inner
    product as it is; ``1 / (1 + distance)`` for l2 and l1. A search by words, a hybrid and a re-ranked one have scores
    of their own, which only order their results. ``distance`` is lower for what is nearer: 1 - cosine, the negative
    inner product, or the length of the difference; None for what was found by its words alone. ``embedding`` is there
    when it was asked for.
    """

    id: str
    content: str
    metadata: dict[str, Any]
    score: float
    distance: float | None
    embedding: Matrix | None = field(default=None, compare=False, repr=False)


class SearchResults(list[SearchResult]):
    """The results of one search, best first, and the ``plan`` that found them.

    ``"exact"``: each document that passes the filter was compared. ``"index"``: an index of vectors chose those that
    were, which may miss some of the nearest. ``"text"``: words alone were searched. A hybrid has the plan of its
    vectors' half.
    """

    __slots__ = ("plan",)

    def __init__(self, results: Iterable[SearchResult] = (), plan: Plan = "exact") -> None:
        super().__init__(results)
        self.plan: Plan = plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """How a search is answered.

    ``index`` names the index of vectors that was read. ``rows`` is how many documents pass the filter by the server's
    estimate (exact where there is no server), ``compared`` how many were compared, both None where nobody knows;
    ``seconds`` is what the search took, ``detail`` the server's own account of it, ``hint`` what would make it faster.
    """

    plan: Plan
    index: str | None = None
    rows: int | None = None
    compared: int | None = None
    seconds: float = 0.0
    detail: str = ""
    hint: str = ""


class BatchFailure(NamedTuple):
    """A batch that was not stored: the ids in it, and why."""

    ids: list[str]
    error: PersistenceError


class BatchError(PersistenceError):
    """Some batches could not be stored; ``written`` counts the documents of the others, which are."""

    def __init__(self, written: int, failures: Sequence[BatchFailure]) -> None:
        first = failures[0]
        super().__init__(
            f"{len(failures)} batches were not stored, the first with document {shown(first.ids[0])}:"
            f" {first.error.message}",
            hint="see .failures; the other batches are stored",
            operation="store_documents",
            connection=first.error.connection,
        )
        self.written = written
        self.failures = list(failures)


class CheckedDocument(NamedTuple):
    """A document as it is sent: checked, its metadata as JSON text, its embedding as float32."""

    id: str
    content: str
    metadata: str
    embedding: Matrix
    source: str | None = None
    expires_at: datetime | None = None


class Change(NamedTuple):
    """What an update changes of a document: None stays as it is; ``never`` takes its expiry away."""

    content: str | None = None
    metadata: str | None = None
    embedding: Matrix | None = None
    source: str | None = None
    expires_at: datetime | None = None
    never: bool = False


class Patch(NamedTuple):
    """What a patch changes of a document's metadata, as JSON texts.

    ``touched`` has the keys that it names, each with null, ``changes`` those that stay, with their values.
    """

    touched: str
    changes: str

    @classmethod
    def of(cls, metadata: object, what: str) -> Patch:
        """Return the patch that some metadata are: None at the top level takes its key away.

        Raises:
            ValidationError: they are nothing that could be stored; the message names ``what``.
        """
        changes = metadata_text(metadata, what)
        given = cast("Mapping[str, Any]", metadata)
        if None in given.values():
            changes = metadata_text({key: value for key, value in given.items() if value is not None}, what)
        return cls(metadata_text(dict.fromkeys(given), what), changes)

    def merged(self, stored: str) -> str:
        """Return stored metadata with this patch in them."""
        kept = metadata_value(stored)
        for key in metadata_value(self.touched):
            kept.pop(key, None)
        return metadata_text(kept | metadata_value(self.changes), "the document")


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
    if not metadata:
        return "{}"
    try:
        normal = _normal(metadata, METADATA_DEPTH)
        try:
            text = _encode(normal)
            is_plain = "\\u0000" not in text and (text.isascii() or bool(text.encode()))
        except (TypeError, ValueError):
            is_plain = False
        return text if is_plain else to_json(normal)  # which says what is wrong, if anything is
    except ValidationError as exc:
        raise ValidationError(f"the metadata of {what}: {exc.message}", hint=exc.hint) from None


def _normal(value: object, depth: int) -> object:
    """Return a JSON value in the one form that PostgreSQL's numeric and SQLite's int64 and double agree about."""
    if depth == 0:
        raise ValidationError(f"it is nested deeper than {METADATA_DEPTH} levels")
    if isinstance(value, Mapping):
        found = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValidationError(f"the key {key!r} is a {type(key).__name__}, not a text")
            kind = type(item)  # most values are what they are: no call for those
            if kind is str or (kind is int and -_EXACT < item < _EXACT):
                found[key] = item
            else:
                found[key] = _normal(item, depth - 1)
        return found
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
    return int(value) if abs(value) >= _EXACT and -_INT64 <= value < _INT64 else value


def metadata_value(stored: str) -> dict[str, Any]:
    """Return the metadata that :func:`metadata_text` wrote.

    Raises:
        CorruptError: it is no JSON, or is nested deeper than anything that was ever stored.
    """
    try:
        found: dict[str, Any] = (_decode_large if _MANY_DIGITS.search(stored) else _decode)(stored)[0]
    except (ValueError, RecursionError):
        raise CorruptError("the stored metadata of a document is not what was written") from None
    return found


def _whole(text: str) -> int | float:
    """Return a whole number; beyond 64 bits it is a float, whose digits jsonb wrote out."""
    value = int(text) if len(text) < 400 else float(text)
    return value if -_INT64 <= value < _INT64 else float(value)


# Made once: json.dumps and json.loads make one each time that they are called with options.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder().raw_decode
_decode_large = json.JSONDecoder(parse_int=_whole).raw_decode


def check_batch(documents: Sequence[Document], dimensions: int, metric: Metric) -> list[CheckedDocument]:
    """Return documents in the form that is sent, their vectors checked together where they are arrays.

    Raises:
        ValidationError: something of one can't be stored faithfully; the message names its id.
    """
    embeddings: list[Any] = [getattr(document, "embedding", None) for document in documents]
    if all(type(each) is np.ndarray and each.dtype.kind == "f" and each.shape == (dimensions,) for each in embeddings):
        vectors = as_vectors(embeddings, metric)
        if vectors is not None:
            return [
                check_document(document, dimensions, metric, vector)
                for document, vector in zip(documents, vectors, strict=True)
            ]
    return [check_document(document, dimensions, metric) for document in documents]


def check_document(document: object, dimensions: int, metric: Metric, vector: Matrix | None = None) -> CheckedDocument:
    """Return a document in the form that is sent; ``vector`` is its embedding, where that was checked already.

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
        as_vector(document.embedding, dimensions, metric, f"the embedding of {what}") if vector is None else vector,
        None if document.source is None else check_id(f"the source of {what}", document.source),
        check_expiry(document.expires_at, what),
    )


def check_expiry(expires_at: object, what: str) -> datetime | None:
    """Return a time in UTC; None is never.

    Raises:
        ValidationError: it is no time with a zone, or in UTC none of the years 1 to 9999; the message names ``what``.
    """
    if expires_at is None:
        return None
    return check_moment(f"expires_at of {what}", expires_at, "datetime.now(UTC) + timedelta(hours=1)")

"""Own the records of messages: what they hold, what is refused, and how rows become records."""

from __future__ import annotations

import json
from base64 import b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, Literal, cast

from persistence.dialect import Dialect, from_json, from_micros, to_micros
from persistence.errors import ValidationError
from persistence.validation import check_id, check_limit, check_whole, metadata_json
from sessions.contents import content_json, decoded

ROLE_BYTES = 100
"""The longest role in bytes of UTF-8."""
BATCH = 10_000
"""The most messages of one append."""
MAX_COST = Decimal(1_000_000_000)
"""The largest cost of one message."""

NO_SEQ = 2**62
"""Above every message's number."""

UsageBy = Literal["day", "models", "session", "thread", "user"]

_NANO = Decimal("1e-9")
_MICROSECOND = timedelta(microseconds=1)


@dataclass(kw_only=True, slots=True)
class Message:
    """One message of a thread.

    ``content`` is any JSON value (a text, a list of typed parts, …) and comes back equal to the last bit: the order of
    keys, NUL, lone surrogates and the digits of numbers included. ``cost`` is kept to nine decimals; its currency, as
    that of every other message, is yours. ``models`` are those that made it, ``latency`` the time that it took,
    ``sources`` any JSON values that it rests on, ``answers`` the number of the message that it answers.

    ``thread_id``, ``seq`` (its number in the thread, which grows and is never used twice), ``version`` (the
    conversation's version once it was there), ``created_at`` and ``summary_through`` (a summary says what it covers)
    are the store's: what a new message holds there is not stored.
    """

    role: str
    content: Any
    metadata: dict[str, Any] = field(default_factory=dict)
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | float | None = None
    models: list[str] | None = None
    latency: timedelta | None = None
    sources: list[Any] | None = None
    answers: int | None = None
    thread_id: str | None = None
    seq: int | None = None
    version: int | None = None
    created_at: datetime | None = None
    summary_through: int | None = None

    @property
    def cursor(self) -> str:
        """Where a search goes on after this message: pass it as ``after``. Opaque, and safe within a URL.

        Raises:
            ValidationError: the message was not read from a store.
        """
        if self.created_at is None or self.seq is None or self.thread_id is None:
            raise ValidationError("a message that is not stored has no cursor")
        return encode_place(self.created_at, self.seq, self.thread_id)


@dataclass(kw_only=True, slots=True)
class Query:
    """A question and its answer, as one record of the query history; stored as two messages of a thread.

    ``thread_id`` left out is the user's own thread of queries. ``mode`` is how it was asked, ``latency`` the time that
    the answer took, ``models`` those that gave it. ``seq`` is the number of the answer, and like ``created_at`` the
    store's. ``question`` is None once it was pruned.
    """

    question: Any
    answer: Any
    user_id: str
    thread_id: str | None = None
    mode: str | None = None
    models: list[str] | None = None
    latency: timedelta | None = None
    sources: list[Any] | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Decimal | float | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    seq: int | None = None
    created_at: datetime | None = None

    @property
    def cursor(self) -> str:
        """Where a listing goes on after this record: pass it as ``after``."""
        if self.created_at is None or self.seq is None or self.thread_id is None:
            raise ValidationError("a query that is not stored has no cursor")
        return encode_place(self.created_at, self.seq, self.thread_id)


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """The state of a thread's messages.

    ``version`` counts the changes of the messages, ``last_seq`` is the newest number ever given. The context begins
    after ``window_seq``, with the message ``summary_seq`` before it. A fork names the thread that it came from, and the
    last message that it copied.
    """

    thread_id: str
    version: int
    last_seq: int
    window_seq: int
    summary_seq: int | None
    parent_id: str | None
    parent_seq: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Sums over messages; ``key`` is the day (``2026-11-21``, in UTC), thread, … that they are of, None for all.

    ``latency`` is the mean over the messages that have one. A message without tokens or cost counts as 0 of them.
    """

    key: str | None = None
    messages: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost: Decimal = Decimal(0)
    latency: timedelta | None = None

    @property
    def tokens(self) -> int:
        """Input and output together."""
        return self.input_tokens + self.output_tokens


def encode_place(moment: datetime, seq: int, thread_id: str) -> str:
    """Return the place of a message in a listing over several threads."""
    return urlsafe_b64encode(f"{to_micros(moment)}:{seq}:{thread_id}".encode()).decode().rstrip("=")


def place_values(limit: object, after: object) -> dict[str, Any]:
    """Return what listings over several threads take: how many records, and the place they follow."""
    values: dict[str, Any] = {"limit": check_limit(limit), "after_time": None, "after_seq": None, "after_thread": None}
    if after is None:
        return values
    try:
        text = cast(str, after)
        decoded = b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        micros, seq, thread_id = decoded.split(":", 2)
        place = {"after_time": from_micros(int(micros)), "after_seq": int(seq)}
        check_whole("the cursor's number", place["after_seq"])
    except (TypeError, ValueError, OverflowError, ValidationError):
        raise ValidationError("after is no cursor", hint="pass the cursor of a record that the listing gave") from None
    return {**values, **place, "after_thread": check_id("the cursor's thread", thread_id)}


def cost_nanos(what: str, cost: object) -> int | None:
    """Return a cost in billionths.

    Raises:
        ValidationError: it is no number, below 0 or above a billion.
    """
    if cost is None:
        return None
    if isinstance(cost, bool) or not isinstance(cost, int | float | Decimal):
        raise ValidationError(f"{what} is a {type(cost).__name__}, not a Decimal or a number")
    try:
        exact = Decimal(repr(cost)) if isinstance(cost, float) else Decimal(cost)
        if not 0 <= exact <= MAX_COST:
            raise ValidationError(f"{what} {cost!r} is not within 0 and {MAX_COST:,}")
    except InvalidOperation:
        raise ValidationError(f"{what} {cost!r} is no number") from None
    return int((exact / _NANO).to_integral_value())


def from_nanos(nanos: Any) -> Decimal:
    """Return the cost that :func:`cost_nanos` wrote, or a sum of such."""
    return (Decimal(int(nanos)) * _NANO).normalize() + Decimal(0)


def _latency_micros(latency: object) -> int | None:
    if latency is None:
        return None
    if not isinstance(latency, timedelta):
        raise ValidationError(f"latency is a {type(latency).__name__}, not a timedelta")
    if not timedelta(0) <= latency <= timedelta(days=36_525):
        raise ValidationError(f"latency {latency} is not within 0 and a hundred years")
    return latency // _MICROSECOND


def _models_json(models: object) -> str | None:
    if models is None:
        return None
    if not isinstance(models, list):
        raise ValidationError(f"models is a {type(models).__name__}, not a list")
    return json.dumps([check_id("a model's name", model) for model in models], ensure_ascii=False)


def _sources_json(sources: object) -> str | None:
    if sources is None:
        return None
    if not isinstance(sources, list):
        raise ValidationError(f"sources is a {type(sources).__name__}, not a list")
    return content_json(sources, "sources")


def _tokens(what: str, count: object) -> int | None:
    return None if count is None else check_whole(what, count, least=0, most=2**53)


def message_values(message: object) -> dict[str, Any]:
    """Return what the statements store of a message, checked."""
    if type(message) is not Message:
        raise ValidationError(f"a {type(message).__name__} is no Message")
    return {
        "role": check_id("the message's role", message.role, limit=ROLE_BYTES),
        "content": content_json(message.content),
        "metadata": metadata_json(message.metadata) if message.metadata != {} else None,
        "input_tokens": _tokens("input_tokens", message.input_tokens),
        "output_tokens": _tokens("output_tokens", message.output_tokens),
        "cost_nanos": cost_nanos("cost", message.cost),
        "latency_micros": _latency_micros(message.latency),
        "models": _models_json(message.models),
        "sources": _sources_json(message.sources),
        "question_seq": None if message.answers is None else check_whole("answers", message.answers),
    }


def check_batch(messages: object) -> list[Message]:
    """Return the messages of an append: 1 to 10,000."""
    if not isinstance(messages, list | tuple):
        raise ValidationError(f"messages is a {type(messages).__name__}, not a list")
    if not 1 <= len(messages) <= BATCH:
        raise ValidationError(f"{len(messages):,} messages are not within 1 and {BATCH:,}")
    return list(messages)


def _span(micros: Any) -> timedelta | None:
    return None if micros is None else timedelta(microseconds=int(micros))


def message_from_row(row: dict[str, Any], dialect: Dialect) -> Message:
    """Return the message that a row holds."""
    metadata, cost, latency = row["metadata"], row["cost_nanos"], row["latency_micros"]
    models, sources = row["models"], row["sources"]
    return Message(
        role=row["role"],
        content=decoded(row["content"]),
        metadata={} if metadata is None else from_json(metadata),
        input_tokens=row["input_tokens"],
        output_tokens=row["output_tokens"],
        cost=None if cost is None else from_nanos(cost),
        models=None if models is None else decoded(models),
        latency=None if latency is None else _span(latency),
        sources=None if sources is None else decoded(sources),
        answers=row["question_seq"],
        thread_id=row["thread_id"],
        seq=row["seq"],
        version=row["version"],
        created_at=dialect.moment(row["created_at"]),
        summary_through=row["summary_through"],
    )


def content_from_row(row: dict[str, Any], dialect: Dialect) -> tuple[int, Any]:
    """Return a message's number and its content."""
    return row["seq"], decoded(row["content"])


def with_place(
    message: Message, thread_id: str, seq: int, version: int, created_at: datetime | None, through: int | None
) -> Message:
    """Return a message as the store keeps it, with what the store gave it."""
    cost = message.cost
    return Message(
        role=message.role,
        content=message.content,
        metadata=message.metadata,
        input_tokens=message.input_tokens,
        output_tokens=message.output_tokens,
        cost=None if cost is None else from_nanos(cost_nanos("cost", cost)),
        models=message.models,
        latency=message.latency,
        sources=message.sources,
        answers=message.answers,
        thread_id=thread_id,
        seq=seq,
        version=version,
        created_at=created_at,
        summary_through=through,
    )


def query_from_row(row: dict[str, Any], dialect: Dialect) -> Query:
    """Return the question and answer that a row holds."""
    question = None if row["question"] is None else decoded(row["question"])
    return query_of(message_from_row(row, dialect), question, row["asked_by"])


def query_of(answer: Message, question: Any, user_id: str) -> Query:
    """Return the record of an answer and its question."""
    metadata = dict(answer.metadata)
    return Query(
        question=question,
        answer=answer.content,
        user_id=user_id,
        thread_id=answer.thread_id,
        mode=metadata.pop("mode", None),
        models=answer.models,
        latency=answer.latency,
        sources=answer.sources,
        input_tokens=answer.input_tokens,
        output_tokens=answer.output_tokens,
        cost=answer.cost,
        metadata=metadata,
        seq=answer.seq,
        created_at=answer.created_at,
    )


def conversation_from_row(row: dict[str, Any], dialect: Dialect) -> Conversation:
    """Return the state of a thread's messages that a row holds."""
    return Conversation(
        thread_id=row["id"],
        version=row["message_version"],
        last_seq=row["last_seq"],
        window_seq=row["window_seq"],
        summary_seq=row["summary_seq"],
        parent_id=row["parent_id"],
        parent_seq=row["parent_seq"],
    )


def usage_from_row(row: dict[str, Any], dialect: Dialect) -> Usage:
    """Return the sums that a row holds."""
    return Usage(
        key=row["key"],
        messages=int(row["messages"]),
        input_tokens=int(row["input_tokens"] or 0),
        output_tokens=int(row["output_tokens"] or 0),
        cost=from_nanos(row["cost_nanos"] or 0),
        latency=_span(row["latency_micros"]),
    )

"""Own what a batch of reads and writes of namespaced items says: its parts, its filters, its answers; no I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from persistence.distances import cosine, distances
from persistence.errors import ValidationError
from persistence.validation import check_text, shown
from sessions.contents import content_json
from sessions.items import LABEL_END

Metric = Literal["cosine", "l2", "inner_product"]
Condition = dict[str, Any]

_ORDERS = ("$gt", "$gte", "$lt", "$lte")
_BLOCK = 4096
OPERATORS = ("$eq", "$ne", *_ORDERS)


class Get(NamedTuple):
    """Read one item by its stored namespace and key."""

    namespace: str
    key: str
    refresh: bool


class Search(NamedTuple):
    """Read items below a stored namespace, newest first, or by the nearest of their vectors."""

    prefix: str
    conditions: list[Condition]
    limit: int
    offset: int
    refresh: bool
    vector: list[float] | None = None


class Listing(NamedTuple):
    """Read the namespaces below a stored one; a condition is a path of labels (None: any) and whether it ends them."""

    prefix: str
    conditions: list[dict[str, Any]]
    depth: int | None
    limit: int
    offset: int


class Put(NamedTuple):
    """Write one item: its value as JSON text, its time to live in microseconds, what its texts were embedded as."""

    namespace: str
    key: str
    value: str
    ttl: int | None
    vectors: list[list[float]]


class Found(NamedTuple):
    """An item as it was read; the value is JSON text."""

    namespace: str
    key: str
    value: str
    created_at: datetime
    updated_at: datetime
    score: float | None = None
    is_due: bool = False
    """Whether a twentieth of its time to live has passed, so that a read which renews it writes."""


@dataclass(slots=True)
class Batch:
    """Reads, which see nothing of the writes, and writes, each of another item."""

    metric: Metric = "cosine"
    gets: list[Get] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    listings: list[Listing] = field(default_factory=list)
    puts: list[Put] = field(default_factory=list)
    deletes: list[tuple[str, str]] = field(default_factory=list)

    @property
    def holds_vectors(self) -> bool:
        """Whether vectors are written or searched by."""
        return any(put.vectors for put in self.puts) or any(search.vector is not None for search in self.searches)


@dataclass(slots=True)
class Answers:
    """What a batch read, in the order of its reads; a listing gives stored namespaces."""

    gets: list[Found | None]
    searches: list[list[Found]]
    listings: list[list[str]]


def above(prefix: str) -> str:
    """Return the text that ends the range of the namespaces below a stored one."""
    return prefix[:-1] + chr(ord(LABEL_END) + 1)


def conditions_of(wanted: Mapping[str, Any], path: tuple[str, ...] = ()) -> list[Condition]:
    """Return a filter as a list of conditions, each on one value by its path.

    A dict of operators (``{"$gt": 3}``) compares, any other dict is a filter of what lies below, and everything else is
    compared by ``$eq``.

    Raises:
        ValidationError: an operator is unknown, or a value isn't JSON.
    """
    found: list[Condition] = []
    for key, value in wanted.items():
        place = [*path, check_text("a key of the filter", key)]
        if not isinstance(value, dict):
            value = {"$eq": list(value) if isinstance(value, tuple) else value}
        elif not any(isinstance(name, str) and name.startswith("$") for name in value):
            found += [{"path": place, "op": "$object", "value": None}, *conditions_of(value, (*path, key))]
            continue
        for operator, operand in value.items():
            if operator not in OPERATORS:
                raise ValidationError(f"{shown(str(operator))} is no operator", hint=", ".join(OPERATORS))
            content_json(operand, "a value of the filter")
            found.append({"path": place, "op": operator, "value": operand})
    return found


def split(conditions: Sequence[Condition]) -> tuple[dict[str, Any], list[Condition]]:
    """Return what jsonb's containment decides, which is fast, and the conditions that are left."""
    contained: dict[str, Any] = {}
    left: list[Condition] = []
    inside: set[tuple[str, ...]] = set()
    for condition in conditions:
        path, value = condition["path"], condition["value"]
        if condition["op"] != "$eq" or value is None or isinstance(value, dict | list):
            left.append(condition)
            continue
        place = contained
        for depth, step in enumerate(path[:-1], 1):
            place = place.setdefault(step, {})
            inside.add(tuple(path[:depth]))
        place[path[-1]] = value
    return contained, [entry for entry in left if entry["op"] != "$object" or tuple(entry["path"]) not in inside]


def filterable(text: str) -> str:
    """Return a value's JSON text as jsonb takes it: NUL and lone surrogates, which it refuses, are replaced."""
    if "\\u0000" in text or "\\ud" in text:
        return json.dumps(_clean(json.loads(text)), separators=(",", ":"))
    return text


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def matches(value: object, conditions: Sequence[Condition]) -> bool:
    """Tell whether a value meets every condition, as the function ``holdfast_matches`` of PostgreSQL does."""
    return all(_meets(value, condition) for condition in conditions)


def _meets(value: Any, condition: Condition) -> bool:
    for step in condition["path"]:
        value = value.get(step) if isinstance(value, dict) else None
    wanted = condition["value"]
    match condition["op"]:
        case "$eq":
            return _equal(value, wanted)
        case "$ne":
            return not _equal(value, wanted)
        case "$object":
            return isinstance(value, dict)
    if not (_is_number(value) and _is_number(wanted)) and not (isinstance(value, str) and isinstance(wanted, str)):
        return False
    sign = (value > wanted) - (value < wanted)
    return bool({"$gt": sign > 0, "$gte": sign >= 0, "$lt": sign < 0, "$lte": sign <= 0}[condition["op"]])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(left: Any, right: Any) -> bool:
    """Compare as jsonb does: 1 is 1.0, but True is not 1."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def fits(namespace: str, listing: Listing) -> bool:
    """Tell whether a stored namespace meets the conditions of a listing."""
    labels = namespace.split(LABEL_END)[1:-1]
    for condition in listing.conditions:
        path = condition["path"]
        if len(path) > len(labels):
            return False
        part = labels[len(labels) - len(path) :] if condition["suffix"] else labels[: len(path)]
        if any(label is not None and label != own for label, own in zip(path, part, strict=True)):
            return False
    return True


def shortened(namespace: str, depth: int | None) -> str:
    """Return a stored namespace cut to ``depth`` labels below the first."""
    labels = namespace.split(LABEL_END)[:-1]
    return "".join(label + LABEL_END for label in (labels if depth is None else labels[: 1 + depth]))


def scores(metric: Metric, wanted: Sequence[float], embeddings: Sequence[bytes]) -> list[float | None]:
    """Return how near each embedding (float32, little-endian) is to a vector; None where that has no meaning.

    It is the cosine, the negative length of the difference, or the inner product, as PostgreSQL's statements have it.
    """
    target = np.asarray(wanted, np.float32)
    usable = [place for place, embedding in enumerate(embeddings) if len(embedding) == target.nbytes]
    found: list[float | None] = [None] * len(embeddings)
    if not usable:
        return found
    matrix = np.frombuffer(b"".join(embeddings[place] for place in usable), "<f4").reshape(len(usable), -1)
    for start in range(0, len(usable), _BLOCK):  # in blocks: float64 takes twice the room
        apart = distances(matrix[start : start + _BLOCK], target, metric)
        for place, distance in zip(usable[start : start + _BLOCK], cast("list[float]", apart.tolist()), strict=True):
            if distance == distance:
                found[place] = cosine(distance) if metric == "cosine" else 0.0 - distance
    return found

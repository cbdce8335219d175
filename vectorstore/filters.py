r"""The filter language over metadata: one grammar, three ways to evaluate it, the same rows from each.

::

    {"category": "framework"}                        equal; several keys are joined by and
    {"year": {"$gte": 2020, "$lt": 2024}}            several operators on a key are joined by and
    {"author.name": {"$in": ["Ann", "Bo"]}}          a dot steps into an object; ``\.`` is a dot in a key, ``\$`` a $
    {"$or": [{"a": 1}, {"$not": {"b": {"$exists": True}}}]}

=========================  ===========================================================================================
``$eq`` ``$ne``            a text, number, boolean or None; None is JSON's null, which is there, unlike a missing key
``$gt $gte $lt $lte``      numbers with numbers, texts with texts (by code point); anything else doesn't match
``$between``               ``[low, high]``, both included
``$in`` ``$nin``           a list of what ``$eq`` takes
``$exists``                whether the key is there
``$contains``              a list holds this text, number, boolean or None
``$like``                  a text matches: ``%`` any characters, ``_`` one, ``\`` takes the next as it is; case counts
``$and $or $not``          of filters; ``$not`` also of a key's operators. No ``$and`` is true, no ``$or`` false
=========================  ===========================================================================================

A date stands for its ISO 8601 text (``2024-05-01``), a time for that in UTC (``2024-05-01T12:30:00+00:00``): metadata
that hold them so, in one precision, are compared in time.

A condition on a missing key is false, so ``$ne``, ``$nin`` and ``$not``, which only turn the answer round, are true for
it. 1 equals 1.0, and neither equals True. :func:`matches` is the reference, which the SQL of ``vectorstore.filter_sql``
agrees with.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from typing import Any

from persistence.errors import ValidationError
from persistence.validation import check_moment, check_text
from vectorstore.records import whole_number

Filter = Mapping[str, Any]
Scalar = str | int | float | bool | None

MAX_DEPTH = 32
MAX_CONDITIONS = 500
"""SQLite takes a thousand terms in a row."""

_OPERATORS = "$eq $ne $gt $gte $lt $lte $between $in $nin $exists $contains $like $not"


@dataclass(frozen=True, slots=True)
class Condition:
    """One operator on one key; ``operand`` is checked, and for ``$like`` a glob pattern beside the SQL one."""

    path: tuple[str, ...]
    operator: str
    operand: Any


@dataclass(frozen=True, slots=True)
class All:
    """Every part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part doesn't hold."""

    part: Node


Node = Condition | All | AnyOf | Not


def parse_filter(filter: Filter) -> Node:
    """Return a filter as a tree.

    Raises:
        ValidationError: an operator is unknown, an operand of the wrong type, or the whole too deep or too large.
    """
    node = _parse(filter, 1)
    count = sum(1 for _ in _conditions(node))
    if count > MAX_CONDITIONS:
        raise ValidationError(f"the filter has {count} conditions", hint=f"at most {MAX_CONDITIONS}")
    return node


def _conditions(node: Node) -> Iterator[Condition]:
    match node:
        case Condition():
            yield node
        case Not(part):
            yield from _conditions(part)
        case All(parts) | AnyOf(parts):
            for part in parts:
                yield from _conditions(part)


def _parse(given: object, depth: int) -> Node:
    if depth > MAX_DEPTH:
        raise ValidationError(f"the filter is nested deeper than {MAX_DEPTH} levels")
    if not isinstance(given, Mapping):
        raise ValidationError(f"a {type(given).__name__} is no filter", hint='a mapping: {"key": value}')
    return _joined([_parse_entry(key, value, depth) for key, value in given.items()])


def _joined(parts: list[Node]) -> Node:
    return parts[0] if len(parts) == 1 else All(tuple(parts))


def _parse_entry(key: object, value: object, depth: int) -> Node:
    text = check_text("a filter's key", key)
    if text in ("$and", "$or"):
        if not isinstance(value, list | tuple):
            raise ValidationError(f"{text} takes a list of filters, not a {type(value).__name__}")
        parts = tuple(_parse(part, depth + 1) for part in value)
        return All(parts) if text == "$and" else AnyOf(parts)
    if text == "$not":
        return Not(_parse(value, depth + 1))
    if text.startswith("$"):
        raise ValidationError(
            f"{text[:40]!r} is no operator here", hint=r"$and, $or, $not, or a key; a key that begins with $: '\$key'"
        )
    return _parse_operators(parse_path(text), value, depth)


def parse_path(text: str) -> tuple[str, ...]:
    """Return the keys that a dotted key steps through."""
    path = [""]
    characters = iter(text)
    for character in characters:
        if character == ".":
            path.append("")
        else:
            path[-1] += next(characters, "\\") if character == "\\" else character
    if len(path) > MAX_DEPTH:
        raise ValidationError(f"a filter's key steps deeper than {MAX_DEPTH} levels")
    return tuple(path)


def joined_path(path: tuple[str, ...]) -> str:
    """Return the dotted key that :func:`parse_path` makes these steps of."""
    return ".".join(step.replace("\\", "\\\\").replace(".", "\\.") for step in path)


def _parse_operators(path: tuple[str, ...], value: object, depth: int) -> Node:
    if not isinstance(value, Mapping):
        return Condition(path, "$eq", _scalar("$eq", value))
    if not value:
        raise ValidationError(f"{_shown(path)} has no operator", hint="{'$eq': value}, or the value itself")
    return _joined([_parse_operator(path, operator, operand, depth) for operator, operand in value.items()])


def _shown(path: tuple[str, ...]) -> str:
    return repr(".".join(path)[:80])


def _parse_operator(path: tuple[str, ...], operator: object, operand: object, depth: int) -> Node:
    match operator:
        case "$not":
            if depth >= MAX_DEPTH:
                raise ValidationError(f"the filter is nested deeper than {MAX_DEPTH} levels")
            return Not(_parse_operators(path, operand, depth + 1))
        case "$ne":
            return Not(Condition(path, "$eq", _scalar(operator, operand)))
        case "$eq" | "$contains":
            return Condition(path, operator, _scalar(operator, operand))
        case "$in" | "$nin":
            if not isinstance(operand, list | tuple | set | frozenset):
                raise ValidationError(f"{operator} takes a list, not a {type(operand).__name__}")
            found = Condition(path, "$in", tuple(_scalar(operator, item) for item in operand))
            return found if operator == "$in" else Not(found)
        case "$gt" | "$gte" | "$lt" | "$lte":
            return Condition(path, operator, _comparable(operator, operand))
        case "$between":
            if not isinstance(operand, list | tuple) or len(operand) != 2:
                raise ValidationError("$between takes [low, high]")
            low, high = (_comparable(operator, item) for item in operand)
            return All((Condition(path, "$gte", low), Condition(path, "$lte", high)))
        case "$exists":
            if not isinstance(operand, bool):
                raise ValidationError(f"$exists takes True or False, not a {type(operand).__name__}")
            return Condition(path, "$exists", None) if operand else Not(Condition(path, "$exists", None))
        case "$like":
            return Condition(path, "$like", _pattern(check_text("the pattern of $like", operand)))
    raise ValidationError(
        f"{str(operator)[:40]!r} on the key {_shown(path)} is no operator",
        hint=f"{_OPERATORS}; a key within an object: 'a.b'",
    )


def _scalar(operator: str, value: object) -> Scalar:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return check_text(f"the operand of {operator}", value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ValidationError(f"the operand of {operator} is a whole number of more than 64 bits")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValidationError(f"the operand of {operator} is {value}, which no metadata holds")
        return whole_number(float(value))
    if isinstance(value, datetime):
        return check_moment(f"the operand of {operator}", value).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    hint = "$in for one of several, $contains for a list's item, 'a.b' for a key within an object"
    raise ValidationError(f"{operator} takes a text, number, boolean or None, not a {type(value).__name__}", hint=hint)


def _comparable(operator: str, value: object) -> Scalar:
    found = _scalar(operator, value)
    if found is None or isinstance(found, bool):
        raise ValidationError(f"{operator} compares numbers or texts, not {found}")
    return found


def _pattern(like: str) -> tuple[str, str]:
    """Return a LIKE pattern and the GLOB pattern that means the same, since SQLite's LIKE disregards case."""
    glob = []
    characters = iter(like)
    for character in characters:
        if character == "\\":
            character = next(characters, "")
            if not character:
                raise ValidationError("the pattern of $like ends in a backslash", hint=r"'\\' stands for one")
        elif character in "%_":
            glob.append("*" if character == "%" else "?")
            continue
        glob.append(f"[{character}]" if character in "*?[" else character)
    return like, "".join(glob)


def matches(node: Node, metadata: Mapping[str, Any]) -> bool:
    """Tell whether metadata, as it comes back from storage, passes a filter."""
    match node:
        case All(parts):
            return all(matches(part, metadata) for part in parts)
        case AnyOf(parts):
            return any(matches(part, metadata) for part in parts)
        case Not(part):
            return not matches(part, metadata)
        case Condition(path, operator, operand):
            found: Any = metadata
            for key in path:
                if not isinstance(found, Mapping) or key not in found:
                    return False
                found = found[key]
            return _CHECKS[operator](found, operand)


def kind_of(value: object) -> str:
    """Return what a value may be equal to: only its own kind."""
    if value is None or isinstance(value, bool):
        return repr(value)
    if isinstance(value, int | float):
        return "number"
    return "text" if isinstance(value, str) else "container"


def _equals(found: Any, operand: Any) -> bool:
    return kind_of(found) == kind_of(operand) and bool(found == operand)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    return lambda found, operand: kind_of(found) == kind_of(operand) and compare(found, operand)


@lru_cache(maxsize=256)
def _expression(glob: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(glob))  # which backtracks in linear time


_CHECKS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": _equals,
    "$in": lambda found, operand: any(_equals(found, item) for item in operand),
    "$exists": lambda found, operand: True,
    "$contains": lambda found, operand: isinstance(found, list) and any(_equals(item, operand) for item in found),
    "$like": lambda found, operand: isinstance(found, str) and _expression(operand[1]).match(found) is not None,
    "$gt": _ordered(lambda found, operand: found > operand),
    "$gte": _ordered(lambda found, operand: found >= operand),
    "$lt": _ordered(lambda found, operand: found < operand),
    "$lte": _ordered(lambda found, operand: found <= operand),
}

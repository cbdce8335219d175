"""What differs between PostgreSQL's and SQLite's SQL, and the tokenizer that reads both.

Statements are written once with ``:name`` parameters. The tokenizer knows literals, comments, dollar quotes, quoted
names and ``::`` casts, so a parameter is never found inside one of them, and text is never replaced blindly.
"""

from __future__ import annotations

import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar, cast
from uuid import UUID

from persistence.errors import CorruptError, ValidationError

Kind = Literal["postgresql", "sqlite"]
T = TypeVar("T")

_TOKEN = re.compile(
    r"""
      (?P<literal> [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' )
    | (?P<quoted>  "(?:[^"]|"")*" | `[^`]*` )
    | (?P<dollar>  \$(?P<tag>[A-Za-z_][A-Za-z_0-9]*|)\$ .*? \$(?P=tag)\$ )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<cast>    :: | := )
    | (?P<param>   :[A-Za-z_][A-Za-z_0-9]* )
    | (?P<word>    [A-Za-z_][A-Za-z_0-9$]* )
    | (?P<end>     ; )
    | (?P<other>   \s+ | \d[\w.]* | . )
    """,
    re.S | re.X,
)
_WRITES = frozenset(("INSERT", "UPDATE", "DELETE", "REPLACE", "MERGE"))
_BEFORE = frozenset(("", "(", ")", ";", "EXPLAIN", "ANALYZE", "ANALYSE", "VERBOSE", "PLAN"))
"""What a statement may follow, also within another one."""
_READS = frozenset(("SELECT", "VALUES", "EXPLAIN", "WITH"))


class Token(NamedTuple):
    """A piece of SQL text: its kind (``literal``, ``param``, ``word``, …) and the text itself."""

    kind: str
    text: str


def tokens(sql: str) -> Iterator[Token]:
    """Yield the tokens of a statement; joined, they are the statement again."""
    for match in _TOKEN.finditer(sql):
        # lastgroup is the innermost named group that closed last, which is `dollar` around `tag`.
        yield Token(match.lastgroup or "other", match.group())


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as a driver takes it: its text, the names of its parameters in order, and what it does.

    ``reads``: it changes nothing; ``returns``: it changes rows, and returns them.
    """

    text: str
    names: tuple[str, ...]
    reads: bool
    returns: bool
    verb: str

    def values(self, parameters: Mapping[str, Any] | None) -> tuple[Any, ...]:
        """Return the parameters in the statement's order.

        Raises:
            ValidationError: one is missing, one is given that the statement doesn't name, or they are no mapping.
        """
        if not parameters:
            if self.names:
                raise ValidationError(f"the statement needs :{', :'.join(self.names)}")
            return ()
        try:
            found = tuple([parameters[name] for name in self.names])
        except KeyError as exc:
            raise ValidationError(f"the statement needs :{exc.args[0]}") from None
        except TypeError:
            raise _unnamed(parameters) from None
        if len(parameters) != len(self.names):
            if not isinstance(cast(object, parameters), Mapping):
                raise _unnamed(parameters)
            unknown = sorted(set(parameters) - set(self.names))
            raise ValidationError(f"the statement has no :{', :'.join(unknown)}")
        return found


def _unnamed(parameters: object) -> ValidationError:
    return ValidationError(
        f"the parameters are a {type(parameters).__name__}, not a mapping",
        hint='name them: "… WHERE id = :id", {"id": 7}',
    )


@lru_cache(maxsize=4096)
def compile_statement(sql: str, kind: Kind) -> Statement:
    """Return a statement with ``:name`` parameters in a driver's own form: ``$1``, or on SQLite as they are.

    A parameter used twice is sent once. The result is kept, so text that is built anew for each call belongs in
    parameters.
    """
    parts: list[str] = []
    names: dict[str, int] = {}
    said: list[Token] = []
    for token in tokens(sql):
        if token.kind == "param":
            number = names.setdefault(token.text[1:], len(names) + 1)
            parts.append(f"${number}" if kind == "postgresql" else token.text)
        else:
            parts.append(token.text)
        if token.kind != "comment" and not token.text.isspace():
            said.append(Token(token.kind, token.text.upper()))
    words = [token.text for token in said if token.kind == "word"]
    verb = words[0] if words else ""
    reads = verb in _READS and not (_WRITES.intersection(words) and _has_write(said, verb))
    return Statement("".join(parts), tuple(names), reads, not reads and "RETURNING" in words, verb)


def _has_write(said: Sequence[Token], verb: str) -> bool:
    """Tell whether a statement writes, or locks rows; functions and columns may have such names too: replace(x, …)."""
    edge = Token("other", "")
    for before, token, after in zip((edge, *said), said, (*said[1:], edge), strict=False):
        if token.kind != "word" or token.text not in _WRITES:
            continue
        # Behind the last table expression of WITH, SEARCH and CYCLE may stand, which end in a name.
        begins = before.text in _BEFORE or (verb == "WITH" and before.kind in ("word", "quoted"))
        if begins and (after.kind in ("word", "quoted", "literal") or after.text == "["):
            return True
        if token.text == "UPDATE" and before.text in ("FOR", "KEY"):
            return True
    return False


def split_statements(script: str) -> list[str]:
    """Split a script at its semicolons, but not inside literals, comments, dollar quotes or SQLite's triggers."""
    found: list[str] = []
    current: list[str] = []
    meaningful = False
    trigger = False
    words: list[str] = []
    for token in tokens(script):
        if token.kind == "end" and not (trigger and not sqlite3.complete_statement("".join(current) + ";")):
            if meaningful:
                found.append("".join(current).strip())
            current, words, meaningful, trigger = [], [], False, False
            continue
        current.append(token.text)
        if token.kind == "word" and len(words) < 4:
            words.append(token.text.upper())
            trigger = words[0] == "CREATE" and "TRIGGER" in words[1:]
        meaningful = meaningful or (token.kind != "comment" and bool(token.text.strip()))
    if meaningful:
        found.append("".join(current).strip())
    return found


def quote_identifier(name: str) -> str:
    """Return a name quoted for either database; the only way in which a name enters a statement.

    Raises:
        ValidationError: the name is empty, too long for PostgreSQL (63 bytes) or has a NUL.
    """
    if not name or "\0" in name or len(name.encode("utf-8", "replace")) > 63:
        raise ValidationError(f"{name[:80]!r} can't be a name in SQL", hint="1 to 63 bytes, no NUL")
    return '"' + name.replace('"', '""') + '"'


def chunked(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` values, in order.

    Raises:
        ValidationError: ``size`` is below 1.
    """
    if size < 1:
        raise ValidationError(f"a batch of {size} holds nothing")
    rest = iter(values)
    while part := list(islice(rest, size)):
        yield part


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(moment: datetime) -> int:
    """Return a time as microseconds since 1970 in UTC, SQLite's column form.

    Raises:
        ValidationError: the time has no time zone.
    """
    if moment.tzinfo is None:
        raise ValidationError(f"{moment.isoformat()} has no time zone", hint="datetime.now(timezone.utc)")
    return (moment - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """Return the time in UTC that :func:`to_micros` wrote."""
    return _EPOCH + timedelta(microseconds=micros)


def to_json(value: object) -> str:
    """Return a value as JSON text that both databases hold faithfully.

    Raises:
        ValidationError: it holds NaN, an infinity, a NUL, a lone surrogate, or what JSON has no form for.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except UnicodeEncodeError:
        raise ValidationError("JSON text with a lone surrogate can't be stored") from None
    except (TypeError, ValueError, RecursionError) as exc:
        raise ValidationError(f"not storable as JSON: {exc}") from None
    if "\\u0000" in text and "\0" in _strings(value):
        raise ValidationError("JSON text with a NUL character can't be stored")
    return text


def _strings(value: object) -> str:
    """Return every string of a JSON value, joined: keys and values."""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        return "".join(_strings(key) + _strings(item) for key, item in value.items())
    if isinstance(value, Sequence):
        return "".join(_strings(item) for item in value)
    return ""


def from_json(value: Any) -> Any:
    """Return the value of a JSON object column: PostgreSQL gives it decoded, SQLite as text.

    Raises:
        CorruptError: the text is no JSON, or is nested deeper than anything that was ever stored.
    """
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise CorruptError("a stored JSON value is not what was written") from None


def sqlite_value(value: object) -> Any:
    """Return a parameter as SQLite stores it; times become microseconds, containers JSON text.

    Raises:
        ValidationError: SQLite would change it silently (NaN) or can't hold it.
    """
    match value:
        case float():
            if math.isnan(value):
                raise ValidationError("SQLite stores NaN as NULL", hint="store it in a bytes column, or leave it out")
            return value
        case datetime():
            return to_micros(value)
        case Decimal() | UUID():
            return str(value)
        case dict() | list():
            return to_json(value)
        case memoryview() | bytearray():
            return bytes(value)
    raise ValidationError(f"a {type(value).__name__} can't be a parameter")


def _json_key(value: object) -> Any:
    if not isinstance(value, UUID | Decimal | datetime):
        raise ValidationError(f"a {type(value).__name__} can't be one of many keys on SQLite")
    return sqlite_value(value)


@dataclass(frozen=True, slots=True)
class Dialect:
    """The few pieces of SQL that each database spells differently."""

    kind: Kind

    def json(self, parameter: str) -> str:
        """Return the expression that stores a JSON text parameter in a JSON column."""
        return f"CAST({parameter} AS jsonb)" if self.kind == "postgresql" else parameter

    def among(self, column: str, parameter: str) -> str:
        """Return the condition that a column is one of the values in a parameter that :meth:`keys` made."""
        if self.kind == "postgresql":
            return f"{column} = ANY({parameter})"
        return f"{column} IN (SELECT value FROM json_each({parameter}))"

    def keys(self, values: Sequence[Any]) -> Any:
        """Return values as one parameter, whatever their number.

        Raises:
            ValidationError: SQLite stores one neither as text nor as a whole number (bytes, say).
        """
        if self.kind == "postgresql":
            return list(values)
        return to_json([value if isinstance(value, str | int) else _json_key(value) for value in values])

    def time(self, moment: datetime | None) -> Any:
        """Return a time as this database's column holds it."""
        return moment if moment is None or self.kind == "postgresql" else to_micros(moment)

    def moment(self, stored: Any) -> datetime | None:
        """Return the time that a column holds, in UTC."""
        if stored is None:
            return None
        return stored.astimezone(UTC) if isinstance(stored, datetime) else from_micros(stored)

"""Entities and rows: a dataclass or a pydantic model, field by field, as the columns of a table. No I/O.

PostgreSQL gives most values as they are. SQLite has fewer types: a time is microseconds there, a bool a number, and
what JSON holds, a UUID or a Decimal is text; a field's type says what it was.
"""

from __future__ import annotations

import dataclasses
import enum
import re
import typing
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar
from uuid import UUID

from persistence.dialect import Kind, from_json, from_micros, to_json
from persistence.errors import ConfigError, ValidationError

T = TypeVar("T")

_JSON_COLUMNS = ("json", "jsonb")
_TEXT_COLUMN = re.compile("char|clob|text")
_OPERATORS = ("=", "!=", "<", "<=", ">", ">=", "in", "contains")


class EntityMap(Generic[T]):
    """How entities of a class become rows, and rows entities."""

    def __init__(self, entity: type[T], kind: Kind, columns: Mapping[str, str]) -> None:
        """``columns`` are the types of the table's columns by name.

        Raises:
            ConfigError: the class is neither, or has a field that is no column.
        """
        self._entity = entity
        self._is_model = hasattr(entity, "model_validate")
        if not self._is_model and not dataclasses.is_dataclass(entity):
            raise ConfigError(f"{entity.__name__} is neither a dataclass nor a pydantic model")
        hints = typing.get_type_hints(entity)
        fields: Any = entity
        names = list(fields.model_fields) if self._is_model else [each.name for each in dataclasses.fields(fields)]
        missing = [name for name in names if name not in columns]
        if missing:
            raise ConfigError(
                f"the table has no column {', '.join(map(repr, missing))} for {entity.__name__}",
                hint=f"its columns are {', '.join(columns)}",
            )
        self.names = tuple(names)
        self._kinds = {name: _kind_of(hints[name]) for name in names}
        self.json_columns = frozenset(name for name in names if columns[name] in _JSON_COLUMNS and kind == "postgresql")
        self._packed = frozenset(
            name for name in names if self._kinds[name] in (dict, list) or name in self.json_columns
        )
        self._checked = {name: kind_ for name in names if (kind_ := self._written_as(name, kind)) is not None}
        self._zoned = frozenset(name for name in names if columns[name] == "timestamp with time zone")
        self.unordered = frozenset(
            name for name in names if self._kinds[name] is Decimal and _TEXT_COLUMN.search(columns[name])
        )
        """Fields that lie as text in another order than their own."""
        self._loaders = {name: loader for name in names if (loader := self._loader(name, kind)) is not None}

    def _written_as(self, name: str, kind: Kind) -> Any:
        """Return the class by which a value is checked before it is stored; else it would fail each read."""
        wanted = self._kinds[name]
        if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
            return wanted
        return wanted if kind == "sqlite" and wanted in (float, datetime, UUID, Decimal) else None

    def _loader(self, name: str, kind: Kind) -> Callable[[Any], Any] | None:
        wanted = self._kinds[name]
        if name in self._packed:
            return from_json
        if wanted is datetime:
            return lambda stored: from_micros(stored) if isinstance(stored, int) else stored.astimezone(UTC)
        if kind == "sqlite" and wanted in (bool, float, UUID, Decimal):
            return typing.cast("Callable[[Any], Any]", wanted)
        if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
            return wanted
        return None

    def values(self, entity: T) -> dict[str, Any]:
        """Return an entity's fields as the values of columns."""
        if type(entity) is not self._entity:
            raise ValidationError(f"a {type(entity).__name__} is no {self._entity.__name__}")
        return {name: self.written(name, getattr(entity, name)) for name in self.names}

    def written(self, name: str, value: Any) -> Any:
        """Return one value that is to be stored as its column takes it.

        Raises:
            ValidationError: its field's class has no such value, or it is a time without a zone.
        """
        wanted = self._checked.get(name)
        if wanted is not None and value is not None and not isinstance(value, wanted):
            make = datetime.fromisoformat if wanted is datetime else wanted
            try:
                value = make(value if issubclass(wanted, enum.Enum) else str(value))
            except (ValueError, ArithmeticError):
                raise ValidationError(f"{name!r} is {str(value)[:80]!r}, which is no {wanted.__name__}") from None
        return self.value(name, value)

    def value(self, name: str, value: Any) -> Any:
        """Return one value as its column takes it.

        Raises:
            ValidationError: a time has no zone.
        """
        if value is None:
            return None
        if isinstance(value, enum.Enum):
            value = value.value
        if name in self._zoned and isinstance(value, datetime) and value.tzinfo is None:
            raise ValidationError(f"{value.isoformat()} has no time zone", hint="datetime.now(timezone.utc)")
        return to_json(value) if name in self._packed else value

    def loaded(self, name: str, stored: Any) -> Any:
        """Return one value of a field as its column holds it."""
        load = self._loaders.get(name)
        return stored if load is None or stored is None else load(stored)

    def entity(self, row: Mapping[str, Any]) -> T:
        """Return the entity of a row."""
        values = {name: row[name] for name in self.names}
        for name, load in self._loaders.items():
            if values[name] is not None:
                values[name] = load(values[name])
        make: Any = self._entity
        made: T = make.model_validate(values) if self._is_model else make(**values)
        return made

    def changed(self, entity: T, **changes: Any) -> T:
        """Return a copy of an entity with some fields changed."""
        either: Any = entity
        made: T = either.model_copy(update=changes) if self._is_model else dataclasses.replace(either, **changes)
        return made


def _kind_of(hint: Any) -> Any:
    """Return the class that a type hint names, without None and type arguments."""
    members = [each for each in typing.get_args(hint) if each is not type(None)]
    if type(None) in typing.get_args(hint) and len(members) == 1:
        return _kind_of(members[0])
    return typing.get_origin(hint) or hint


def check_operator(column: str, condition: Any) -> tuple[str, Any]:
    """Return the operator and the value of a filter's condition: a value alone, a list, or a pair.

    Raises:
        ValidationError: the operator is none, or ``in`` is not followed by values.
    """
    if isinstance(condition, list):
        return "in", condition
    if not isinstance(condition, tuple):
        return "=", condition
    if len(condition) != 2 or condition[0] not in _OPERATORS:
        raise ValidationError(f"the filter of {column!r} is no operator and value", hint=", ".join(_OPERATORS))
    operator, value = condition
    if operator != "in":
        return operator, value
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ValidationError(f"the filter of {column!r} is in a {type(value).__name__}, not in a list of values")
    return operator, list(value)


def like(text: str) -> str:
    """Return the pattern of LIKE … ESCAPE '\\' for texts that contain this one."""
    return "%" + re.sub(r"([\\%_])", r"\\\1", text) + "%"


def slug_of(text: str, limit: int = 80) -> str:
    """Return a text as a slug: ``a-z 0-9`` and hyphens, at most ``limit`` of them.

    Raises:
        ValidationError: nothing of it is left.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    slug = "-".join(re.findall("[a-z0-9]+", plain))[:limit].strip("-")
    if not slug:
        raise ValidationError(f"{text[:80]!r} has nothing that a slug is made of", hint="letters a to z, or digits")
    return slug

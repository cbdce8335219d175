# Generated from ../_async/keyed.py by tests/unasync.py: edit that one.
"""Stores of values by key that a ``DualWrite`` moves between: the protocol, and adapters for what the package has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from persistence._sync.keyvalue import KeyValueStore
from persistence._sync.manager import DatabaseManager
from persistence._sync.redis import RedisConnection
from persistence._sync.repository import Repository
from persistence.errors import ConfigError, ValidationError
from persistence.validation import check_id

T = TypeVar("T")


class KeyedStore(Protocol):
    """Values, which are bytes or JSON, by keys of text."""

    @property
    def home(self) -> tuple[DatabaseManager, str] | None:
        """The manager and name of the SQL database whose transactions its writes join; None where there is none."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that there are."""

    def put(self, key: str, value: Any) -> None:
        """Store a value, new or changed."""

    def delete(self, key: str) -> bool:
        """Delete a value; tell whether it was there."""

    def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs whose keys come after ``after`` in an order of the store's own that doesn't change."""


class KeyedValues:
    """A ``KeyValueStore`` as a keyed store: the whole namespace, or what has ``prefix``. Lifetimes are not carried."""

    def __init__(self, store: KeyValueStore, *, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    @property
    def home(self) -> tuple[DatabaseManager, str] | None:
        """The manager and name of its SQL database; None on Redis."""
        manager, name = self._store._manager, self._store._name
        return None if isinstance(manager.get(name), RedisConnection) else (manager, name)

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that there are; a round trip a thousand keys."""
        found = self._store.get_many([self._prefix + key for key in keys])
        return {key.removeprefix(self._prefix): value for key, value in found.items()}

    def put(self, key: str, value: Any) -> None:
        """Store a value, for ever."""
        self._store.put(self._prefix + key, value)

    def delete(self, key: str) -> bool:
        """Delete a value; tell whether it was there."""
        return self._store.delete(self._prefix + key)

    def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs in the order of code points."""
        cursor = None if after is None else self._prefix + after
        page = self._store.scan(self._prefix, limit=limit, after=cursor)
        return [(item.key.removeprefix(self._prefix), item.value) for item in page]


class KeyedEntities(Generic[T]):
    """A ``Repository`` with keys of text as a keyed store: the value of an entity is its fields as JSON.

    ``dump`` and ``load`` turn an entity into JSON and back; left out, those of a pydantic model, or of a dataclass
    whose fields are JSON. A repository with a ``version`` field is refused: its numbers are its own.
    """

    def __init__(
        self,
        repository: Repository[T],
        *,
        dump: Callable[[T], Any] | None = None,
        load: Callable[[Any], T] | None = None,
    ) -> None:
        if repository._version is not None:
            raise ConfigError("entities with a version can't be written by two", hint="a Repository without version=")
        entity: Any = repository._entity
        is_model = hasattr(entity, "model_validate")
        self._repository = repository
        self._dump: Callable[[Any], Any] = dump or (_dump_model if is_model else dataclasses.asdict)
        self._load: Callable[[Any], T] = load or (
            entity.model_validate if is_model else (lambda fields: entity(**fields))
        )

    @property
    def home(self) -> tuple[DatabaseManager, str] | None:
        """The manager and name of its database."""
        return self._repository._manager, self._repository._name

    def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the entities that there are; a statement a thousand keys."""
        found = self._repository.get_many(keys)
        return {key: self._dump(entity) for key, entity in found.items()}

    def put(self, key: str, value: Any) -> None:
        """Store an entity, new or changed.

        Raises:
            ValidationError: it has another key.
        """
        entity = self._load(value)
        if getattr(entity, self._repository._key) != key:
            raise ValidationError("the entity has another key than it is put under")
        self._repository.save(entity)

    def delete(self, key: str) -> bool:
        """Delete an entity; tell whether it was there."""
        return self._repository.delete(key)

    def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs in the order of the key's column."""
        name = self._repository._key
        page = self._repository.find(None if after is None else {name: (">", after)}, limit=limit)
        return [(check_id("the key", getattr(entity, name)), self._dump(entity)) for entity in page]


def _dump_model(entity: Any) -> Any:
    return entity.model_dump(mode="json")

"""Stores of values by key that a ``DualWrite`` moves between: the protocol, and adapters for what the package has."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from persistence._async.keyvalue import AsyncKeyValueStore
from persistence._async.manager import AsyncDatabaseManager
from persistence._async.redis import AsyncRedisConnection
from persistence._async.repository import AsyncRepository
from persistence.errors import ConfigError, ValidationError
from persistence.validation import check_id

T = TypeVar("T")


class AsyncKeyedStore(Protocol):
    """Values, which are bytes or JSON, by keys of text."""

    @property
    def home(self) -> tuple[AsyncDatabaseManager, str] | None:
        """The manager and name of the SQL database whose transactions its writes join; None where there is none."""

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that there are."""

    async def put(self, key: str, value: Any) -> None:
        """Store a value, new or changed."""

    async def delete(self, key: str) -> bool:
        """Delete a value; tell whether it was there."""

    async def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs whose keys come after ``after`` in an order of the store's own that doesn't change."""


class AsyncKeyedValues:
    """A ``KeyValueStore`` as a keyed store: the whole namespace, or what has ``prefix``. Lifetimes are not carried."""

    def __init__(self, store: AsyncKeyValueStore, *, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    @property
    def home(self) -> tuple[AsyncDatabaseManager, str] | None:
        """The manager and name of its SQL database; None on Redis."""
        manager, name = self._store._manager, self._store._name
        return None if isinstance(manager.get(name), AsyncRedisConnection) else (manager, name)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the values that there are; a round trip a thousand keys."""
        found = await self._store.get_many([self._prefix + key for key in keys])
        return {key.removeprefix(self._prefix): value for key, value in found.items()}

    async def put(self, key: str, value: Any) -> None:
        """Store a value, for ever."""
        await self._store.put(self._prefix + key, value)

    async def delete(self, key: str) -> bool:
        """Delete a value; tell whether it was there."""
        return await self._store.delete(self._prefix + key)

    async def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs in the order of code points."""
        cursor = None if after is None else self._prefix + after
        page = await self._store.scan(self._prefix, limit=limit, after=cursor)
        return [(item.key.removeprefix(self._prefix), item.value) for item in page]


class AsyncKeyedEntities(Generic[T]):
    """A ``Repository`` with keys of text as a keyed store: the value of an entity is its fields as JSON.

    ``dump`` and ``load`` turn an entity into JSON and back; left out, those of a pydantic model, or of a dataclass
    whose fields are JSON. A repository with a ``version`` field is refused: its numbers are its own.
    """

    def __init__(
        self,
        repository: AsyncRepository[T],
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
    def home(self) -> tuple[AsyncDatabaseManager, str] | None:
        """The manager and name of its database."""
        return self._repository._manager, self._repository._name

    async def get_many(self, keys: Sequence[str]) -> dict[str, Any]:
        """Return the entities that there are; a statement a thousand keys."""
        found = await self._repository.get_many(keys)
        return {key: self._dump(entity) for key, entity in found.items()}

    async def put(self, key: str, value: Any) -> None:
        """Store an entity, new or changed.

        Raises:
            ValidationError: it has another key.
        """
        entity = self._load(value)
        if getattr(entity, self._repository._key) != key:
            raise ValidationError("the entity has another key than it is put under")
        await self._repository.save(entity)

    async def delete(self, key: str) -> bool:
        """Delete an entity; tell whether it was there."""
        return await self._repository.delete(key)

    async def scan(self, after: str | None, limit: int) -> list[tuple[str, Any]]:
        """Return pairs in the order of the key's column."""
        name = self._repository._key
        page = await self._repository.find(None if after is None else {name: (">", after)}, limit=limit)
        return [(check_id("the key", getattr(entity, name)), self._dump(entity)) for entity in page]


def _dump_model(entity: Any) -> Any:
    return entity.model_dump(mode="json")

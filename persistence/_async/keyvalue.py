"""Keys and values by namespace, on PostgreSQL, SQLite or Redis."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from persistence._async.keyvalue_backends import AsyncRedisValues, AsyncSQLValues, AsyncValues
from persistence._async.locks import AsyncLeaseLock
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.redis import AsyncRedisConnection
from persistence.errors import ConflictError, ValidationError
from persistence.fields import Duration
from persistence.keyvalues import KeyValue, check_items, check_key, check_ttl, end_of, pack, unpack
from persistence.validation import check_id, check_limit, check_tenant, check_text, check_whole, shown


class AsyncKeyValueStore:
    """Values by key in one namespace of one tenant, on a PostgreSQL, SQLite or Redis connection of a manager.

    A value is bytes or JSON (None, bool, int, float, str, lists, dicts with str keys) and comes back equal, of the
    same type. Each may have a lifetime, after which it isn't there, and has a version that grows with every change.
    That of a new one is the server's clock in microseconds, so none comes back when a key ends and is put again. Every
    call is atomic by itself, and on a SQL database joins the transaction of its task.

    On Redis a namespace lies on one slot of a cluster. On a SQL database what has expired is not given, and stays until
    ``delete_expired``.
    """

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        *,
        namespace: str = "default",
        tenant: str = "default",
        migrate: bool = True,
    ) -> None:
        self._manager = manager
        self._name = name
        self._namespace = check_id("the namespace", namespace, limit=512)
        self._tenant = check_tenant(tenant)
        self._sql: AsyncSQLValues | None = None
        if not isinstance(manager.get(name), AsyncRedisConnection):
            self._sql = AsyncSQLValues(manager, name, tenant=tenant, migrate=migrate)
            self._sql.bind(self._namespace)
        self._redis: AsyncRedisValues | None = None
        self._on: object = None

    def _values(self) -> AsyncValues:
        if self._sql is not None:
            return self._sql
        connection = self._manager.get_redis(self._name)
        if self._redis is None or self._on is not connection:
            self._redis, self._on = AsyncRedisValues(connection, self._tenant, self._namespace), connection
        return self._redis

    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value, or ``default`` when there is none."""
        found = await self._values().get(check_key(key))
        return default if found is None else unpack(found)

    async def get_item(self, key: str) -> KeyValue | None:
        """Return the value with its version and expiry, None when there is none."""
        found = await self._values().get_item(check_key(key))
        return None if found is None else KeyValue(found.key, unpack(found.value), found.version, found.expires_at)

    async def get_many(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the values that there are by key; any number of keys, a thousand to a round trip."""
        wanted = _keys(keys)
        found = await self._values().get_many(wanted) if wanted else {}
        return {key: unpack(found[key]) for key in wanted if key in found}

    async def exists(self, key: str) -> bool:
        """Tell whether there is a value."""
        return await self._values().get(check_key(key)) is not None

    async def put(
        self, key: str, value: Any, *, ttl: Duration | None = None, expected_version: int | None = None
    ) -> int:
        """Store a value and return its version.

        ``ttl`` (seconds) is how long it lives; None is for ever, also for a key that had a lifetime.
        ``expected_version`` is the version that must be there, 0 for none.

        Raises:
            ConflictError: another version is there; nothing was changed.
            ValidationError: the value would not come back as it is.
        """
        version = await self._put(key, value, ttl, expected_version)
        if version is None:
            raise ConflictError(
                f"the value of {shown(key)} has another version than {expected_version}",
                expected=expected_version,
                hint="read it again, and repeat the change on what is there now",
                operation="put",
                connection=self._name,
            )
        return version

    async def compare_and_set(
        self, key: str, value: Any, *, expected_version: int, ttl: Duration | None = None
    ) -> bool:
        """Store a value where the version is ``expected_version`` (0: nothing is there); tell whether it was."""
        check_whole("expected_version", expected_version, least=0)
        return await self._put(key, value, ttl, expected_version) is not None

    async def _put(self, key: str, value: Any, ttl: Duration | None, expected: int | None) -> int | None:
        if expected is not None:
            check_whole("expected_version", expected, least=0)
        return await self._values().put(check_key(key), pack(value), check_ttl(ttl), expected)

    async def put_many(self, values: Mapping[str, Any], *, ttl: Duration | None = None) -> None:
        """Store values by key: on a SQL database all or none, on Redis by the thousand."""
        packed, lifetime = check_items(values), check_ttl(ttl)
        if packed:
            await self._values().put_many(packed, lifetime)

    async def increment(self, key: str, by: int = 1, *, ttl: Duration | None = None) -> int:
        """Add to a whole number, 0 where there is none, and return the sum. ``ttl`` is for one that begins.

        Raises:
            ValidationError: a value is there that is no whole number of 64 bits, or the sum would be none.
        """
        check_whole("by", by, least=-(2**63), most=2**63 - 1)
        total = await self._values().increment(check_key(key), by, check_ttl(ttl))
        if total is None:
            raise ValidationError(
                f"the value of {shown(key)} is no whole number of 64 bits", operation="increment", connection=self._name
            )
        return total

    async def delete(self, key: str, *, expected_version: int | None = None) -> bool:
        """Delete a value; tell whether it was there, and had the version that is expected."""
        if expected_version is not None:
            check_whole("expected_version", expected_version)
        return await self._values().delete(check_key(key), expected_version)

    async def delete_many(self, keys: Iterable[str]) -> int:
        """Delete values and return how many were there; any number of keys, a thousand to a round trip."""
        wanted = _keys(keys)
        return await self._values().delete_many(wanted) if wanted else 0

    async def expire(self, key: str, ttl: Duration | None) -> bool:
        """Set how long a value lives from now on, None for ever; tell whether it is there."""
        return await self._values().expire(check_key(key), check_ttl(ttl))

    async def ttl(self, key: str) -> float | None:
        """Return how many seconds a value has left; None for one that lives for ever, and where there is none."""
        return await self._values().left(check_key(key))

    async def scan(self, prefix: str = "", *, limit: int = 100, after: str | None = None) -> list[KeyValue]:
        """Return values whose keys begin with ``prefix``, in the order of the keys' code points.

        ``after`` is the last key of the page before; the last page is shorter than ``limit``.
        """
        check_text("the prefix", prefix, limit=1024)
        cursor = "" if after is None else check_key(after)
        found = await self._values().scan(prefix, cursor, end_of(prefix), check_limit(limit))
        return [KeyValue(each.key, unpack(each.value), each.version, each.expires_at) for each in found]

    def lease(self, key: str, *, ttl: Duration, timeout: Duration) -> AsyncLeaseLock:
        """Return a lock of this namespace, for programs that agree on what ``key`` stands for."""
        name = hashlib.sha256(f"{self._namespace}\0{check_text('the key', key)}".encode()).hexdigest()
        return AsyncLeaseLock(
            self._manager, self._name, f"keyvalue:{name}", ttl=ttl, timeout=timeout, tenant=self._tenant
        )

    async def clear(self) -> int:
        """Delete everything in this namespace of this tenant, and return how much it was."""
        return await self._values().clear()

    async def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete what has expired, the oldest first, and return how much it was; on Redis there is nothing to do."""
        return await self._values().delete_expired(check_limit(limit))


def _keys(keys: Iterable[str]) -> list[str]:
    if isinstance(keys, str | bytes):
        raise ValidationError(f"the keys are a {type(keys).__name__}, not several of them")
    return list(dict.fromkeys(check_key(key) for key in keys))

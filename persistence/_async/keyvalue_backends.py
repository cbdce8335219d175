"""Where keys and values lie: a table of PostgreSQL or SQLite, or hashes of Redis.

Both take values as ``pack`` made them, lifetimes in seconds, and keys that were checked. Each call is one statement or
one script, so it is atomic by itself; on a SQL database it joins the transaction of its task.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from persistence._async.redis import AsyncRedisConnection
from persistence._async.store import AsyncSQLStore
from persistence.dialect import Dialect, chunked, compile_statement, from_micros
from persistence.errors import ConstraintError, PersistenceError, QueryError, ValidationError
from persistence.keyvalues import MANY
from persistence.migrations import MigrationLine
from persistence.queries import load_queries
from persistence.scripts import Script, call_script, packaged_script

Packed = int | bytes


class Item(NamedTuple):
    """A key with its stored value."""

    key: str
    value: Packed
    version: int
    expires_at: datetime | None


class AsyncValues(Protocol):
    """What a store of keys and values asks of the place where they lie."""

    async def get(self, key: str) -> Packed | None:
        """Return a value, None where there is none."""

    async def get_item(self, key: str) -> Item | None:
        """Return a value with all that is known of it."""

    async def get_many(self, keys: Sequence[str]) -> dict[str, Packed]:
        """Return the values that there are."""

    async def put(self, key: str, value: Packed, ttl: float | None, expected: int | None) -> int | None:
        """Store a value and return its version; None where it isn't the expected one (0: nothing is there)."""

    async def put_many(self, values: Mapping[str, Packed], ttl: float | None) -> None:
        """Store values."""

    async def increment(self, key: str, by: int, ttl: float | None) -> int | None:
        """Return the sum; None where a value is there that is no number."""

    async def delete(self, key: str, expected: int | None) -> bool:
        """Delete a value; tell whether it was there, and of the expected version."""

    async def delete_many(self, keys: Sequence[str]) -> int:
        """Delete values and return how many were there."""

    async def expire(self, key: str, ttl: float | None) -> bool:
        """Set when a value ends; tell whether it is there."""

    async def left(self, key: str) -> float | None:
        """Return how many seconds a value has left by the clock that its end was set by; None: no value, or no end."""

    async def scan(self, prefix: str, after: str, until: str, limit: int) -> list[Item]:
        """Return values in the order of their keys."""

    async def clear(self) -> int:
        """Delete everything in the namespace and return how much it was."""

    async def delete_expired(self, limit: int) -> int:
        """Delete what has expired, at most ``limit`` of it, and return how much it was."""


class AsyncSQLValues(AsyncSQLStore):
    """Rows of the table ``holdfast_key_values``."""

    line = MigrationLine.of_package("persistence")

    def bind(self, namespace: str) -> None:
        """Say which namespace the calls are about."""
        self._namespace = namespace

    async def _prepared(self, name: str, values: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
        """Return the database, a statement and its parameters; PostgreSQL reads its own clock, SQLite is given ours."""
        database = await self._database()
        sql: str = getattr(load_queries("persistence", database.kind), name)
        given = {"tenant": self._tenant, "namespace": self._namespace, **values}
        if database.kind == "sqlite":
            given["now"] = datetime.now(UTC)
            if "ttl" in values:
                ttl = values["ttl"]
                given["expires"] = None if ttl is None else given["now"] + timedelta(seconds=ttl)
        return database, sql, {each: given[each] for each in compile_statement(sql, database.kind).names}

    async def _rows(self, name: str, /, **values: Any) -> list[dict[str, Any]]:
        database, sql, given = await self._prepared(name, values)
        found: list[dict[str, Any]] = await database.fetch_all(sql, given)
        return found

    async def _change(self, name: str, /, **values: Any) -> int:
        database, sql, given = await self._prepared(name, values)
        count: int = await database.execute(sql, given)
        return count

    async def get(self, key: str) -> Packed | None:
        rows = await self._rows("get_value", key=key)
        return _packed(rows[0]) if rows else None

    async def get_item(self, key: str) -> Item | None:
        rows = await self._rows("get_key_value", key=key)
        return _item(rows[0]) if rows else None

    async def get_many(self, keys: Sequence[str]) -> dict[str, Packed]:
        found: dict[str, Packed] = {}
        for part in chunked(keys, MANY):
            rows = await self._rows("get_many_values", keys=self._keys(part))
            found |= {row["key"]: _packed(row) for row in rows}
        return found

    def _keys(self, keys: Sequence[str]) -> Any:
        return Dialect(self._manager.get_database(self._name).kind).keys(keys)

    async def put(self, key: str, value: Packed, ttl: float | None, expected: int | None) -> int | None:
        name = "put_value" if expected is None else "put_expected_value" if expected else "put_new_value"
        rows = await self._rows(name, key=key, ttl=ttl, expected=expected, **_columns(value))
        return rows[0]["version"] if rows else None

    async def put_many(self, values: Mapping[str, Packed], ttl: float | None) -> None:
        prepared = [await self._prepared("put_value", {"key": key, "ttl": ttl, **_columns(value)})
                    for key, value in values.items()]  # fmt: skip
        if prepared:
            database, sql, _ = prepared[0]
            await database.execute_many(sql, [given for _, _, given in prepared])

    async def increment(self, key: str, by: int, ttl: float | None) -> int | None:
        try:
            rows = await self._rows("increment_value", key=key, number=by, ttl=ttl)
        except (ConstraintError, ValidationError) as exc:  # a CHECK of SQLite, PostgreSQL's own error
            raise too_large(exc) from exc
        return rows[0]["number"] if rows else None

    async def delete(self, key: str, expected: int | None) -> bool:
        return bool(await self._change("delete_value", key=key, expected=expected))

    async def delete_many(self, keys: Sequence[str]) -> int:
        count = 0
        for part in chunked(keys, MANY):
            count += await self._change("delete_many_values", keys=self._keys(part))
        return count

    async def expire(self, key: str, ttl: float | None) -> bool:
        return bool(await self._change("expire_value", key=key, ttl=ttl))

    async def left(self, key: str) -> float | None:
        rows = await self._rows("get_value_left", key=key)
        return rows[0]["seconds_left"] if rows else None

    async def scan(self, prefix: str, after: str, until: str, limit: int) -> list[Item]:
        rows = await self._rows("scan_key_values", prefix=prefix, after=after, until=until, limit=limit)
        return [_item(row) for row in rows]

    async def clear(self) -> int:
        return await self._change("clear_values")

    async def delete_expired(self, limit: int) -> int:
        return await self._change("delete_expired_values", limit=limit)


def _columns(value: Packed) -> dict[str, Any]:
    number = isinstance(value, int)
    return {"value": None if number else value, "number": value if number else None}


def _packed(row: Mapping[str, Any]) -> Packed:
    value: Packed = row["value"] if row["number"] is None else row["number"]
    return value


def _item(row: Mapping[str, Any]) -> Item:
    expires: Any = row["expires_at"]
    if isinstance(expires, int):
        expires = from_micros(expires)
    return Item(row["key"], _packed(row), row["version"], None if expires is None else expires.astimezone(UTC))


def too_large(exc: PersistenceError) -> ValidationError:
    """Return the error of a sum that needs more than 64 bits."""
    return ValidationError(
        "the sum needs more than 64 bits; nothing was changed", operation="increment", connection=exc.connection
    )


_PUT = packaged_script("persistence", "put_value")
_INCREMENT = packaged_script("persistence", "increment_value")


class AsyncRedisValues:
    """Hashes of Redis under one root; see ``lua/keyvalues.lua``."""

    def __init__(self, connection: AsyncRedisConnection, tenant: str, namespace: str) -> None:
        self._connection = connection
        self._root = f"holdfast:{{{quote(tenant, safe='')}:{quote(namespace, safe='')}}}:kv"

    async def _run(self, name: str, *arguments: Any, reads: bool = False) -> Any:
        script = call_script("persistence", "keyvalues", name)
        return await self._connection.run_script(script, [self._root], [name, *arguments], reads=reads)

    async def _run_one(self, script: Script, key: str, value: Packed, ttl: float | None) -> Any:
        given = (key, value) if ttl is None else (key, value, _millis(ttl))
        return await self._connection.run_script(script, (f"{self._root}:{key}", f"{self._root}#"), given)

    async def get(self, key: str) -> Packed | None:
        found: Any = await self._connection.client.hget(f"{self._root}:{key}", "v")
        return None if found is None else bytes(found)

    async def get_item(self, key: str) -> Item | None:
        found = await self._run("item", key, reads=True)
        return None if found is None else _item_of(found)

    async def get_many(self, keys: Sequence[str]) -> dict[str, Packed]:
        found: dict[str, Packed] = {}
        for part in chunked(keys, MANY):
            values = await self._run("many", *part, reads=True)
            found |= {key: value for key, value in zip(part, values, strict=True) if value is not None}
        return found

    async def put(self, key: str, value: Packed, ttl: float | None, expected: int | None) -> int | None:
        if expected is None:
            version: int = await self._run_one(_PUT, key, value, ttl)
            return version
        answer = await self._run("put_expected", key, value, _millis(ttl), expected)
        return answer if isinstance(answer, int) else None

    async def put_many(self, values: Mapping[str, Packed], ttl: float | None) -> None:
        for part in chunked(values.items(), MANY):
            await self._run("put_many", _millis(ttl), *[each for pair in part for each in pair])

    async def increment(self, key: str, by: int, ttl: float | None) -> int | None:
        try:
            answer = await self._run_one(_INCREMENT, key, by, ttl)
        except QueryError as exc:
            if "overflow" in exc.message:
                raise too_large(exc) from exc
            raise
        return None if answer is None else int(answer)

    async def delete(self, key: str, expected: int | None) -> bool:
        return bool(await self._run("delete", key, "" if expected is None else expected))

    async def delete_many(self, keys: Sequence[str]) -> int:
        count = 0
        for part in chunked(keys, MANY):
            count += await self._run("delete_many", *part)
        return count

    async def expire(self, key: str, ttl: float | None) -> bool:
        return bool(await self._run("expire", key, _millis(ttl)))

    async def left(self, key: str) -> float | None:
        millis: int = await self._connection.client.pttl(f"{self._root}:{key}")
        return millis / 1000 if millis >= 0 else None

    async def scan(self, prefix: str, after: str, until: str, limit: int) -> list[Item]:
        start = f"({after}" if after >= prefix and after else f"[{prefix}" if prefix else "-"
        # It forgets keys of what has expired, which is as well done twice.
        return [_item_of(found) for found in await self._run("scan", start, f"({until}", limit, reads=True)]

    async def clear(self) -> int:
        count: int = await self._run("clear")
        return count

    async def delete_expired(self, limit: int) -> int:
        return 0  # Redis does so by itself


def _millis(ttl: float | None) -> int | str:
    return "" if ttl is None else max(1, round(ttl * 1000))


def _item_of(found: Sequence[Any]) -> Item:
    expires = None if found[3] < 0 else from_micros(found[3] * 1000)
    return Item(found[0].decode(), found[1], int(found[2]), expires)

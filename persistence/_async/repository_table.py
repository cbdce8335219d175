"""What a repository stands on: its table's columns, and the texts of its statements.

Protocol: what the table's columns are is asked once, on the first call; every name in a statement is one of these,
quoted. Texts of statements depend on names only, never on values, so they are prepared and kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar

from persistence._async.database import AsyncDatabase
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence.dialect import chunked, quote_identifier, to_micros
from persistence.entities import EntityMap, check_operator, like
from persistence.errors import ConfigError, NotFoundError, ValidationError
from persistence.keyvalues import pack, unpack
from persistence.queries import load_queries
from persistence.secrets import Cipher
from persistence.validation import check_text, shown

T = TypeVar("T")


class Untouched(Exception):
    """A write found no row, so what went to the history is rolled back."""


class AsyncRepositoryTable(Generic[T]):
    """What a repository knows of its table, and the statements that it makes of that."""

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        table: str,
        entity: type[T],
        *,
        key: str = "id",
        scope: Mapping[str, Any] | None = None,
        version: str | None = None,
        slug: str | None = None,
        history: str | None = None,
        encrypted: Sequence[str] = (),
        cipher: Cipher | None = None,
    ) -> None:
        manager.get_database(name)
        if bool(encrypted) != (cipher is not None):
            raise ConfigError("encrypted fields and a cipher go together")
        self._manager, self._name = manager, name
        self._table, self._entity, self._key = table, entity, key
        self._scope = dict(scope or {})
        self._version, self._slug, self._history = version, slug, history
        self._encrypted, self._cipher = frozenset(encrypted), cipher
        self._known: EntityMap[T] | None = None
        self._required: frozenset[str] = frozenset()
        self._on: AsyncDatabase | None = None
        self._texts: dict[tuple[str, ...], str] = {}

    async def _ready(self) -> tuple[AsyncDatabase, EntityMap[T]]:
        """Return the database and how the table's rows are read; ask for its columns the first time."""
        database = self._manager.get_database(self._name)
        if self._known is None or self._on is not database:
            self._known = await self._learn(database)
            self._on, self._texts = database, {}
        return database, self._known

    async def _learn(self, database: AsyncDatabase) -> EntityMap[T]:
        table = quote_identifier(self._table)
        given = table if database.kind == "postgresql" else self._table
        rows = await database.fetch_all(load_queries("persistence", database.kind).list_table_columns, {"table": given})
        if not rows:
            raise NotFoundError(f"there is no table {shown(self._table)}", hint="migrate first", connection=self._name)
        known: EntityMap[T] = EntityMap(self._entity, database.kind, {row["name"]: row["type"] for row in rows})
        self._required = frozenset(row["name"] for row in rows if row["required"])
        columns = {row["name"] for row in rows}
        fields = [self._key, *filter(None, (self._version, self._slug)), *self._encrypted]
        wrong = [name for name in fields if name not in known.names] + [n for n in self._scope if n not in columns]
        if wrong:
            raise ConfigError(f"the table {self._table!r} with {self._entity.__name__} has no {', '.join(wrong)}")
        return known

    def _where(self, *conditions: str) -> str:
        scope = [f"{quote_identifier(name)} = :scope_{n}" for n, name in enumerate(self._scope)]
        return " AND ".join((*scope, *conditions)) or "TRUE"

    def _given(self, **values: Any) -> dict[str, Any]:
        return {**{f"scope_{n}": value for n, value in enumerate(self._scope.values())}, **values}

    def _columns(self, known: EntityMap[T]) -> str:
        return ", ".join(map(quote_identifier, known.names))

    def _select(self, known: EntityMap[T], *conditions: str, table: str | None = None) -> str:
        source = quote_identifier(table or self._table)
        return f"SELECT {self._columns(known)} FROM {source} WHERE {self._where(*conditions)}"

    def _is_key(self) -> str:
        return f"{quote_identifier(self._key)} = :key"

    def _parts(self, known: EntityMap[T], keys: Iterable[Any]) -> Iterator[list[Any]]:
        """Yield keys as their column takes them, each once, a thousand at a time."""
        return chunked(dict.fromkeys(known.value(self._key, key) for key in keys), 1000)

    def _check_column(self, known: EntityMap[T], name: object) -> str:
        if name not in known.names or not isinstance(name, str):
            raise ValidationError(
                f"{self._entity.__name__} has no field {str(name)[:80]!r}", hint=", ".join(known.names)
            )
        return name

    def _check_order(self, known: EntityMap[T], name: str) -> str:
        """Return a field that has an order in this database."""
        if name in known.unordered:
            raise ValidationError(f"{name!r} lies as text, where 10 is less than 9", hint="a NUMERIC or INTEGER column")
        return name

    def _missing(self, key: Any) -> NotFoundError:
        return NotFoundError(f"there is no {self._entity.__name__} {shown(str(key))}", connection=self._name)

    def _read(self, known: EntityMap[T], row: Mapping[str, Any]) -> T:
        if self._cipher is not None:
            opened = dict(row)
            for name in self._encrypted:
                if row[name] is not None:
                    opened[name] = unpack(self._cipher.decrypt(row[name], self._place(name, row[self._key])))
            row = opened
        return known.entity(row)

    def _place(self, column: str, key: Any) -> bytes:
        """Return the associated data of a sealed field: a row that is copied elsewhere does not open there."""
        parts = [str(each) for each in (*self._scope.values(), key)]
        return Cipher.associate("repository", self._table, column, *parts)

    def _key_as_read(self, known: EntityMap[T], key: Any) -> Any:
        """Return a key as a row has it, by which its fields are opened."""
        value = known.value(self._key, key)
        is_number = isinstance(value, datetime) and self._on is not None and self._on.kind == "sqlite"
        return to_micros(value) if is_number else value

    def _seal(self, values: dict[str, Any], entity: Mapping[str, Any], key: Any) -> dict[str, Any]:
        if self._cipher is not None:
            for name in self._encrypted & values.keys():
                if entity[name] is not None:
                    packed = pack(entity[name])
                    plain = packed if isinstance(packed, bytes) else str(packed).encode()
                    values[name] = self._cipher.encrypt(plain, self._place(name, key))
        return values

    def _values(self, known: EntityMap[T], entity: T) -> dict[str, Any]:
        values = known.values(entity)
        key = getattr(entity, self._key)
        if self._encrypted and key is None:
            raise ValidationError("an entity with encrypted fields needs its key before it is stored")
        own = {name: getattr(entity, name) for name in self._encrypted}
        return self._seal(values, own, self._key_as_read(known, key)) if own else values

    def _filter(self, known: EntityMap[T], filters: Mapping[str, Any] | None) -> tuple[list[str], dict[str, Any]]:
        conditions: list[str] = []
        given: dict[str, Any] = {}
        dialect = self._manager.get_database(self._name).dialect
        for number, (name, condition) in enumerate((filters or {}).items()):
            column, parameter = quote_identifier(self._check_column(known, name)), f"f{number}"
            operator, value = check_operator(name, condition)
            if name in self._encrypted:
                raise ValidationError(f"{name!r} is encrypted, and can't be looked for")
            if value is None and operator in ("=", "!="):
                conditions.append(f"{column} IS {'NOT ' if operator == '!=' else ''}NULL")
                continue
            if operator == "in":
                either = dialect.among(column, f":{parameter}")
                conditions.append(f"({either} OR {column} IS NULL)" if None in value else either)
                given[parameter] = dialect.keys([known.value(name, each) for each in value if each is not None])
            elif operator == "contains":
                conditions.append(self._contains(column, parameter))
                given[parameter] = like(check_text("what is looked for", value))
            else:
                if operator not in ("=", "!="):
                    self._check_order(known, name)
                conditions.append(f"{column} {operator} :{parameter}")
                given[parameter] = known.value(name, value)
        return conditions, given

    def _contains(self, column: str, parameter: str) -> str:
        word = "ILIKE" if self._manager.get_database(self._name).kind == "postgresql" else "LIKE"
        return f"{column} {word} :{parameter} ESCAPE '\\'"

    def _insert(self, known: EntityMap[T], names: Sequence[str]) -> str:
        columns = ", ".join(map(quote_identifier, (*self._scope, *names)))
        marks = [f":scope_{n}" for n in range(len(self._scope))]
        marks += [self._mark(known, name, f"v{n}") for n, name in enumerate(names)]
        return f"INSERT INTO {quote_identifier(self._table)} ({columns}) VALUES ({', '.join(marks)})"

    def _mark(self, known: EntityMap[T], name: str, parameter: str) -> str:
        return f"CAST(:{parameter} AS jsonb)" if name in known.json_columns else f":{parameter}"

    def _upsert(self, known: EntityMap[T], names: Sequence[str]) -> str:
        target = ", ".join(map(quote_identifier, (*self._scope, self._key)))
        changes = [f"{quote_identifier(n)} = excluded.{quote_identifier(n)}" for n in names if n != self._key]
        changes = changes or [f"{quote_identifier(self._key)} = excluded.{quote_identifier(self._key)}"]
        return f"{self._insert(known, names)} ON CONFLICT ({target}) DO UPDATE SET {', '.join(changes)}"

    def _returning(self, known: EntityMap[T]) -> str:
        return f" RETURNING {self._columns(known)}"

    async def _write(
        self, database: AsyncDatabase, known: EntityMap[T], key: Any, text: str, given: dict[str, Any]
    ) -> T:
        row = await self._write_row(database, known, key, text, given)
        if row is None:
            raise self._missing(key)
        return self._read(known, row)

    async def _write_row(
        self, database: AsyncDatabase, known: EntityMap[T], key: Any, text: str, given: dict[str, Any]
    ) -> dict[str, Any] | None:
        """Run a write, after what it changes went to the history; return the row that it gives."""
        if self._history is None or key is None:
            return await database.fetch_one(text, given)
        columns = ", ".join(map(quote_identifier, (*self._scope, *known.names)))
        source = f"SELECT {columns} FROM {quote_identifier(self._table)} WHERE {self._where(self._is_key())}"
        if database.kind == "postgresql":
            source += " FOR UPDATE"  # or what another writes in between would be in no history
        copy = f"INSERT INTO {quote_identifier(self._history)} ({columns}) {source}"
        async with database.transaction():
            await database.execute(copy, self._given(key=key))
            row = await database.fetch_one(text, given)
            if row is None:
                raise Untouched
        return row

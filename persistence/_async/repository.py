"""Typed reads and writes of one table of the user's: ``Repository``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from persistence._async.database import AsyncDatabase
from persistence._async.repository_table import AsyncRepositoryTable, Untouched
from persistence.dialect import quote_identifier
from persistence.entities import EntityMap, like, slug_of
from persistence.errors import UNIQUE_VIOLATION, ConflictError, DuplicateError, ValidationError
from persistence.validation import check_limit, check_text, check_whole, shown

T = TypeVar("T")
SLUG_TRIES = 100
"""How often a slug that somebody else took meanwhile is made anew."""


class AsyncRepository(AsyncRepositoryTable[T]):
    """The rows of one table as entities of one class, on a PostgreSQL or SQLite connection of a manager.

    ``entity`` is a dataclass or a pydantic model, each of whose fields is a column. ``key`` is the column that tells
    rows apart, within ``scope``: columns with values that are in every row, bound once and for all (a tenant, a user).
    The table needs a primary key or unique index over the columns of ``scope``, in their order, and ``key``.

    ``version`` names an int field that grows with every change; a write of what is not the newest is refused. ``slug``
    names the column of ``save_with_slug``. ``history`` names a table with the same columns and a ``history_id`` that
    counts up by itself: it gets each row as it was before it is changed or deleted. The fields in ``encrypted`` lie
    sealed by ``cipher`` in columns of bytes, each bound to its table, row and column.

    Every call is one statement unless it says otherwise, and joins the transaction of its task.
    """

    async def get(self, key: Any) -> T | None:
        """Return the entity, None where there is none."""
        database, known = await self._ready()
        text = self._texts.get(("get",))
        if text is None:
            text = self._texts["get",] = self._select(known, self._is_key())
        row = await database.fetch_one(text, self._given(key=known.value(self._key, key)))
        return None if row is None else self._read(known, row)

    async def get_or_raise(self, key: Any) -> T:
        """Return the entity.

        Raises:
            NotFoundError: there is none.
        """
        found = await self.get(key)
        if found is None:
            raise self._missing(key)
        return found

    async def get_many(self, keys: Iterable[Any]) -> dict[Any, T]:
        """Return the entities that there are by key; any number of keys, a thousand to a statement."""
        database, known = await self._ready()
        text = self._select(known, database.dialect.among(quote_identifier(self._key), ":keys"))
        found: dict[Any, T] = {}
        for part in self._parts(known, keys):
            rows = await database.fetch_all(text, self._given(keys=database.dialect.keys(part)))
            found |= {known.loaded(self._key, row[self._key]): self._read(known, row) for row in rows}
        return found

    async def exists(self, key: Any) -> bool:
        """Tell whether there is an entity of that key."""
        return bool(await self.exists_many([key]))

    async def exists_many(self, keys: Iterable[Any]) -> set[Any]:
        """Return those keys that there are; any number of them, a thousand to a statement."""
        database, known = await self._ready()
        column = quote_identifier(self._key)
        where = self._where(database.dialect.among(column, ":keys"))
        text = f"SELECT {column} FROM {quote_identifier(self._table)} WHERE {where}"
        found: set[Any] = set()
        for part in self._parts(known, keys):
            rows = await database.fetch_all(text, self._given(keys=database.dialect.keys(part)))
            found.update(known.loaded(self._key, row[self._key]) for row in rows)
        return found

    async def find(
        self,
        filters: Mapping[str, Any] | None = None,
        *,
        order: str | None = None,
        limit: int = 100,
        after: T | None = None,
    ) -> list[T]:
        """Return the entities that meet every condition, in the order of a field, and of the key among equals.

        A condition is a value (None: no value), a list of values, or a pair such as ``(">=", 5)`` or
        ``("contains", "text")``. ``order`` is a field, with a hyphen before it for the largest first; left out, the
        key. ``after`` is the last entity of the page before.
        """
        database, known = await self._ready()
        conditions, given = self._filter(known, filters)
        name = self._check_order(known, self._check_column(known, (order or self._key).removeprefix("-")))
        descending = order is not None and order.startswith("-")
        if name not in self._required and name != self._key:
            raise ValidationError(f"{name!r} may be NULL, which has no place in an order", hint="make it NOT NULL")
        by = [name] if name == self._key else [name, self._key]
        if after is not None:
            values = known.values(after)
            marks = ", ".join(f":after_{n}" for n in range(len(by)))
            columns = ", ".join(map(quote_identifier, by))
            conditions.append(f"({columns}) {'<' if descending else '>'} ({marks})")
            given |= {f"after_{n}": values[each] for n, each in enumerate(by)}
        ordered = ", ".join(f"{quote_identifier(each)}{' DESC' if descending else ''}" for each in by)
        text = f"{self._select(known, *conditions)} ORDER BY {ordered} LIMIT :page_limit"
        rows = await database.fetch_all(text, self._given(**given, page_limit=check_limit(limit)))
        return [self._read(known, row) for row in rows]

    async def find_one(self, filters: Mapping[str, Any]) -> T | None:
        """Return the first entity in the order of the key that meets every condition, None where none does."""
        found = await self.find(filters, limit=1)
        return found[0] if found else None

    async def iterate(
        self, filters: Mapping[str, Any] | None = None, *, order: str | None = None, batch_size: int = 1000
    ) -> AsyncIterator[T]:
        """Yield the entities as ``find`` gives them, in batches of one statement each; no connection is held."""
        page = await self.find(filters, order=order, limit=batch_size)
        while page:
            for entity in page:
                yield entity
            page = (
                await self.find(filters, order=order, limit=batch_size, after=page[-1])
                if len(page) == batch_size
                else []
            )

    async def count(self, filters: Mapping[str, Any] | None = None) -> int:
        """Return how many entities meet every condition."""
        database, known = await self._ready()
        conditions, given = self._filter(known, filters)
        text = f"SELECT count(*) FROM {quote_identifier(self._table)} WHERE {self._where(*conditions)}"
        count: int = await database.fetch_value(text, self._given(**given))
        return count

    async def search(self, text: str, fields: Sequence[str], *, order: str | None = None, limit: int = 20) -> list[T]:
        """Return entities one of whose text fields contains ``text``, whatever the case (of a to z on SQLite)."""
        database, known = await self._ready()
        pattern = like(check_text("what is looked for", text, may_be_empty=False))
        if not fields or set(fields) & self._encrypted:
            raise ValidationError("search needs fields that are not encrypted")
        either = " OR ".join(
            self._contains(quote_identifier(self._check_column(known, each)), "text") for each in fields
        )
        name = self._check_order(known, self._check_column(known, (order or f"-{self._key}").removeprefix("-")))
        direction = "DESC" if order is None or order.startswith("-") else "ASC"
        by = f"{quote_identifier(name)} {direction}, {quote_identifier(self._key)} {direction}"
        statement = f"{self._select(known, f'({either})')} ORDER BY {by} LIMIT :page_limit"
        rows = await database.fetch_all(statement, self._given(text=pattern, page_limit=check_limit(limit)))
        return [self._read(known, row) for row in rows]

    async def save(self, entity: T) -> T:
        """Store an entity, new or changed, and return it as it is then.

        A key of None is the database's to give. With a ``version`` field, 0 is a new entity, and any other must be the
        newest; the one that is returned has the next. With a history, it is two statements in a transaction.

        Raises:
            ConflictError: another version is stored; nothing was changed.
            DuplicateError: a new entity has the key of one that is there, or a unique index refuses it.
        """
        database, known = await self._ready()
        values = self._values(known, entity)
        if self._version is not None:
            return await self._save_version(database, known, entity, values)
        names = [name for name in known.names if name != self._key or values[name] is not None]
        is_new = values[self._key] is None
        text = self._insert(known, names) if is_new else self._upsert(known, names)
        given = self._given(**{f"v{n}": values[name] for n, name in enumerate(names)})
        return await self._write(
            database, known, None if is_new else values[self._key], f"{text}{self._returning(known)}", given
        )

    async def _save_version(self, database: AsyncDatabase, known: EntityMap[T], entity: T, values: dict[str, Any]) -> T:
        assert self._version is not None  # noqa: S101 - the caller looked
        expected = check_whole("the version", getattr(entity, self._version), least=0)
        if expected:
            changes = {name: values[name] for name in known.names if name not in (self._key, self._version)}
            return await self._update(database, known, values[self._key], changes, expected)
        values[self._version] = 1
        names = [name for name in known.names if name != self._key or values[name] is not None]
        given = self._given(**{f"v{n}": values[name] for n, name in enumerate(names)})
        return await self._write(database, known, None, self._insert(known, names) + self._returning(known), given)

    async def _update(
        self, database: AsyncDatabase, known: EntityMap[T], key: Any, values: Mapping[str, Any], expected: int | None
    ) -> T:
        sets = [f"{quote_identifier(name)} = {self._mark(known, name, f'v{n}')}" for n, name in enumerate(values)]
        given = {f"v{n}": value for n, value in enumerate(values.values())}
        conditions = [self._is_key()]
        if self._version is not None:
            column = quote_identifier(self._version)
            sets.append(f"{column} = {column} + 1")
            if expected is not None:
                conditions.append(f"{column} = :expected")
                given["expected"] = expected
        where = self._where(*conditions)
        text = f"UPDATE {quote_identifier(self._table)} SET {', '.join(sets)} WHERE {where}{self._returning(known)}"
        try:
            row = await self._write_row(database, known, key, text, self._given(**given, key=key))
        except Untouched:
            row = None
        if row is not None:
            return self._read(known, row)
        current = None if expected is None else await self.get(key)
        if current is None or self._version is None:
            raise self._missing(key)
        actual = getattr(current, self._version)
        raise ConflictError(
            f"{self._entity.__name__} {shown(str(key))} has version {actual}, not {expected}",
            expected=expected,
            actual=actual,
            hint="read it again, and repeat the change on what is there now",
            connection=self._name,
        )

    async def save_many(self, entities: Iterable[T]) -> None:
        """Store entities as ``save`` does, all or none; by the thousand, where there is no version and no history."""
        database, known = await self._ready()
        every = list(entities)
        plain = self._version is None and self._history is None
        if plain and all(getattr(entity, self._key) is not None for entity in every):
            rows = [self._values(known, entity) for entity in every]
            text = self._upsert(known, known.names)
            given = [self._given(**{f"v{n}": row[name] for n, name in enumerate(known.names)}) for row in rows]
            if given:
                await database.execute_many(text, given)
            return
        async with database.transaction():
            for entity in every:
                await self.save(entity)

    async def patch(self, key: Any, changes: Mapping[str, Any], *, expected_version: int | None = None) -> T:
        """Change some fields of an entity and return it as it is then.

        Raises:
            NotFoundError: there is none.
            ConflictError: it has another version than ``expected_version``.
        """
        database, known = await self._ready()
        if expected_version is not None:
            check_whole("expected_version", expected_version)
            if self._version is None:
                raise ValidationError("the repository has no version field to compare")
        if not changes:
            raise ValidationError("there is nothing to change")
        for name in changes:
            if self._check_column(known, name) in (self._key, self._version):
                raise ValidationError(f"{name!r} is not for patch to change")
        ordered = {name: changes[name] for name in sorted(changes)}
        stored = {name: known.written(name, value) for name, value in ordered.items()}
        values = self._seal(stored, ordered, self._key_as_read(known, key))
        return await self._update(database, known, known.value(self._key, key), values, expected_version)

    async def increment(self, key: Any, field: str, by: int = 1) -> int:
        """Add to a whole number where it lies and return the sum. With a history, it is two statements.

        Raises:
            NotFoundError: there is no such entity.
            ValidationError: the field is NULL, or the sum has no room in its column; nothing was changed.
        """
        database, known = await self._ready()
        column = quote_identifier(self._check_column(known, field))
        check_whole("by", by, least=-(2**63), most=2**63 - 1)
        if field in (self._key, self._version) or field in self._encrypted:
            raise ValidationError(f"{field!r} is not for increment to change")
        sets = f"{column} = {column} + :by"
        if self._version is not None:
            sets += f", {quote_identifier(self._version)} = {quote_identifier(self._version)} + 1"
        conditions = [self._is_key(), f"{column} IS NOT NULL"]
        if database.kind == "sqlite":  # which makes a float of a sum beyond 64 bits
            conditions.append(f"(typeof({column}) <> 'integer' OR typeof({column} + :by) = 'integer')")
        text = f"UPDATE {quote_identifier(self._table)} SET {sets} WHERE {self._where(*conditions)} RETURNING {column}"
        key = known.value(self._key, key)
        try:
            row = await self._write_row(database, known, key, text, self._given(key=key, by=by))
        except Untouched:
            row = None
        if row is None:
            await self._explain_increment(database, key, field, by)
        total: int = row[field]
        return total

    async def _explain_increment(self, database: AsyncDatabase, key: Any, field: str, by: int) -> NoReturn:
        """Raise why nothing could be added."""
        text = (
            f"SELECT {quote_identifier(field)} FROM {quote_identifier(self._table)} WHERE {self._where(self._is_key())}"
        )
        row = await database.fetch_one(text, self._given(key=key))
        if row is None:
            raise self._missing(key)
        what = f"{field!r} of {self._entity.__name__} {shown(str(key))}"
        if row[field] is None:
            raise ValidationError(f"{what} is NULL, to which nothing can be added", hint="patch() it to 0 first")
        if -(2**63) <= row[field] + by < 2**63:
            raise ConflictError(f"{what} was changed meanwhile", hint="repeat it", connection=self._name)
        raise ValidationError(f"{what} is {row[field]}, and {by} more would be beyond 64 bits")

    async def delete(self, key: Any) -> bool:
        """Delete an entity; tell whether it was there."""
        database, known = await self._ready()
        column, key = quote_identifier(self._key), known.value(self._key, key)
        text = f"DELETE FROM {quote_identifier(self._table)} WHERE {self._where(self._is_key())} RETURNING {column}"
        try:
            return await self._write_row(database, known, key, text, self._given(key=key)) is not None
        except Untouched:
            return False

    async def history(self, key: Any, *, limit: int = 100) -> list[T]:
        """Return an entity as it was before each change, the latest first."""
        database, known = await self._ready()
        if self._history is None:
            raise ValidationError("the repository keeps no history", hint='Repository(…, history="table")')
        text = f"{self._select(known, self._is_key(), table=self._history)} ORDER BY history_id DESC LIMIT :page_limit"
        given = self._given(key=known.value(self._key, key), page_limit=check_limit(limit))
        rows = await database.fetch_all(text, given)
        return [self._read(known, row) for row in rows]

    async def save_with_slug(self, entity: T, text: str) -> T:
        """Store a new entity under a slug made of ``text``, or of it and ``-2``, ``-3``, … where that is taken.

        The slug's column needs a unique index, with the columns of ``scope``. Two who save the same text at once get
        different slugs: a slug that somebody else took meanwhile is made anew.

        Raises:
            DuplicateError: something else than the slug is there already.
        """
        database, known = await self._ready()
        if self._slug is None:
            raise ValidationError("the repository has no slug", hint='Repository(…, slug="column")')
        base = slug_of(text)
        version = {} if self._version is None else {self._version: 1}
        table, column, slug = quote_identifier(self._table), quote_identifier(self._slug), base
        for _ in range(SLUG_TRIES):
            values = self._values(known, known.changed(entity, **{self._slug: slug}, **version))
            names = [name for name in known.names if name != self._key or values[name] is not None]
            given = self._given(**{f"v{n}": values[name] for n, name in enumerate(names)})
            statement = f"{self._insert(known, names)} ON CONFLICT DO NOTHING{self._returning(known)}"
            row = await database.fetch_one(statement, given)
            if row is not None:
                return self._read(known, row)
            where = self._where(f"({column} = :base OR {column} LIKE :pattern ESCAPE '\\')")
            taken = await database.fetch_all(
                f"SELECT {column} AS slug FROM {table} WHERE {where} ORDER BY {column} LIMIT 10000",
                self._given(base=base, pattern=f"{base}-%"),
            )
            if slug not in (each["slug"] for each in taken):
                raise DuplicateError(
                    f"{self._entity.__name__} with the slug {slug!r} is refused by another unique index",
                    hint="its key, or another column, is there already",
                    connection=self._name,
                    code=UNIQUE_VIOLATION,
                )
            numbers = [each["slug"].removeprefix(f"{base}-") for each in taken if each["slug"] != base]
            slug = f"{base}-{max([1, *(int(n) for n in numbers if n.isdecimal() and len(n) < 10)]) + 1}"
        raise ConflictError(f"the slug {base!r} was taken by others {SLUG_TRIES} times", connection=self._name)

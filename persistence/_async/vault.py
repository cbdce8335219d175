"""A vault for secrets: taken out of values, stored encrypted, and given back with a record of each access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar, cast

from persistence._async.compat import Mutex
from persistence._async.database import AsyncDatabase
from persistence._async.manager import AsyncDatabaseManager, named_connection
from persistence._async.store import AsyncSQLStore
from persistence.dialect import to_json, to_micros
from persistence.errors import ConfigError, CorruptError, NotFoundError, PersistenceError
from persistence.fields import Duration
from persistence.keyvalues import check_ttl
from persistence.migrations import MigrationLine
from persistence.queries import load_queries
from persistence.secrets import Cipher
from persistence.validation import check_id, check_limit, check_whole
from persistence.vaults import (
    KnownSecrets,
    Protection,
    SecretAccess,
    SecretAccessError,
    SecretOutcome,
    SecretReference,
    StoredSecret,
    access_from_row,
    opened,
    reference_of,
    references_in,
    refusal,
    stored_from_row,
)

V = TypeVar("V")

CONTEXT_BYTES = 2048
"""The longest context in bytes of UTF-8: one index entry of PostgreSQL holds it with tenant and id."""
BATCH = 1000
"""How many secrets one statement stores."""


class AsyncSecretVault(AsyncSQLStore):
    """The secrets of one tenant, on a PostgreSQL or SQLite connection of a manager.

    ``protect`` replaces the secrets in a value by references and stores them, each encrypted by ``cipher`` for its
    tenant, id, kind and context: bytes that lie elsewhere do not decrypt. ``reveal`` and ``restore`` give them back, to
    an ``actor`` who says the same context, and to whom ``may_reveal(actor, context, kind)`` allows it (None: to all).

    With ``remember`` the references of that many of the last secrets are known to this object, by keyed hashes: the
    same secret in the same context gets the same reference again, as long as it is stored, and isn't stored anew. That
    is for states that are saved again and again; who deletes such a secret deletes it for all that refer to it.

    Every access is recorded, for good: one that is given in the transaction that read it, one that is refused in a
    transaction of its own, since the caller's may be rolled back for it. SQLite has room for one writer only, so there
    a refusal within a transaction is recorded in that one.
    """

    line = MigrationLine.of_package("persistence")

    @named_connection
    def __init__(
        self,
        manager: AsyncDatabaseManager,
        name: str,
        cipher: Cipher,
        *,
        tenant: str = "default",
        migrate: bool = True,
        may_reveal: Callable[[str, str, str], bool] | None = None,
        remember: int = 0,
    ) -> None:
        if not isinstance(cast(object, cipher), Cipher):
            raise ConfigError(
                f"a vault needs a Cipher, not a {type(cipher).__name__}",
                hint="Cipher.from_env(): a key that is made here would be lost with the program",
            )
        super().__init__(manager, name, tenant=tenant, migrate=migrate)
        self._cipher = cipher
        self._may_reveal = may_reveal
        self._known = KnownSecrets(check_whole("remember", remember, least=0, most=1_000_000))
        self._mutex = Mutex()

    async def protect(self, value: V, *, context: str, expires_in: Duration | None = None) -> V:
        """Return a text, or a value nested from dicts, lists and tuples, with references in place of its secrets.

        They are those that ``find_secrets`` finds, and in a dict those that a key tells. References to secrets of this
        context stay as they are, so that a value that was read can be changed and written again; what only looks like
        one is escaped, and comes back from ``restore`` as it was. ``expires_in`` (seconds or a timedelta) is how long
        the secrets can be revealed.

        Without a secret it costs no statement; with any number one, and one more where it holds references or
        remembered secrets. It joins the transaction that its task is in.

        Raises:
            ValidationError: the value is nested deeper than 200 levels; the context or the time is none.
        """
        place, ttl = _context(context), check_ttl(expires_in)
        own = await self._own(references_in(value), place)
        while True:
            protection = Protection(own, partial(self._recall, place) if ttl is None else _recall_none)
            protected = protection.of(value)
            gone = protection.recalled - await self._own(list(protection.recalled), place)
            if not gone:
                break
            with self._mutex:
                self._known.drop(gone)  # deleted, or stored in a transaction that was rolled back
        if protection.taken:
            await self._keep(protection.taken, place, ttl)
            if ttl is None:
                with self._mutex:
                    self._known.add(place, protection.taken)
        return cast(V, protected)

    def _recall(self, context: str, kind: str, secret: str) -> SecretReference | None:
        with self._mutex:
            return self._known.get(context, kind, secret)

    async def _own(self, references: Sequence[SecretReference], context: str) -> frozenset[SecretReference]:
        if not references:
            return frozenset()
        database = await self._database()
        values = {**self._tenants(), "ids": _ids(database, references), "context": context}
        rows = await database.fetch_all(load_queries("persistence", database.kind).own_secrets, values)
        return frozenset(SecretReference(row["id"], row["kind"]) for row in rows)

    async def _keep(self, taken: dict[SecretReference, str], context: str, ttl: float | None) -> None:
        sealed = [
            (
                each.id,
                each.kind,
                self._cipher.encrypt(text.encode("utf-8", "surrogatepass"), self._place(each, context)),
            )
            for each, text in taken.items()
        ]
        database = await self._database()
        sql = load_queries("persistence", database.kind).keep_secrets
        values = {**self._tenants(), "context": context, "key_id": self._cipher.current}
        if database.kind == "postgresql":
            calls = []
            for start in range(0, len(sealed), BATCH):
                ids, kinds, data = zip(*sealed[start : start + BATCH], strict=True)
                calls.append(
                    (sql, {**values, "ttl": ttl, "ids": list(ids), "kinds": list(kinds), "sealed": list(data)})
                )
        else:
            now = _now()
            values |= {"now": now, "expires_at": None if ttl is None else now + round(ttl * 1_000_000)}
            calls = [(sql, {**values, "id": id, "kind": kind, "sealed": data}) for id, kind, data in sealed]
        await database.fetch_batch(calls)

    async def reveal(self, reference: str | SecretReference, *, context: str, actor: str) -> str:
        """Return the secret that a reference stands for, and record that the actor got it.

        Raises:
            SecretAccessError: it is of another context, or the actor may not have it; that was recorded.
            NotFoundError: it isn't there, or has expired; that was recorded.
            CorruptError: it isn't what was stored, or another key had its key's id; that was recorded.
            ConfigError: the cipher hasn't the key that sealed it; that was recorded.
            ValidationError: it is no reference.
        """
        wanted = reference_of(reference)
        return (await self._reveal([wanted], context, actor, False))[wanted]

    async def restore(self, value: V, *, context: str, actor: str, keep_missing: bool = False) -> V:
        """Return a protected value as it was, all or nothing, and record that the actor got each of its secrets.

        With ``keep_missing`` a reference whose secret was deleted or has expired stays; that is recorded too.

        Raises:
            As ``reveal``, for the first reference that can't be revealed.
        """
        references = references_in(value)
        revealed = await self._reveal(references, context, actor, keep_missing) if references else {}
        return cast(V, opened(value, revealed))

    async def _reveal(
        self, references: list[SecretReference], context: str, actor: str, keep_missing: bool
    ) -> dict[SecretReference, str]:
        place, who = _context(context), check_id("the actor", actor)
        database = await self._database()
        revealed: dict[SecretReference, str] = {}
        ended: dict[SecretReference, SecretOutcome] = {}
        failed: list[tuple[SecretReference, PersistenceError]] = []
        async with database.transaction():
            sql = load_queries("persistence", database.kind).open_secrets
            values = {**self._tenants(), "ids": _ids(database, references), **_clock(database)}
            rows = {SecretReference(row["id"], row["kind"]): row for row in await database.fetch_all(sql, values)}
            for each in references:
                ended[each] = self._outcome(each, rows.get(each), place, who)
                if ended[each] == "revealed":
                    try:
                        revealed[each] = self._open(rows[each]["sealed"], each, place)
                    except (CorruptError, ConfigError) as exc:
                        ended[each] = "unreadable"
                        failed.append((each, exc))
                elif not (keep_missing and ended[each] in ("missing", "expired")):
                    failed.append((each, self._refused(each, ended[each], place, who)))
            if not failed:
                await database.fetch_all(*self._record(database, ended, place, who))
        if failed:
            await self._record_apart(database, {each: ended[each] for each, _ in failed}, place, who)
            raise failed[0][1]
        return revealed

    def _outcome(
        self, reference: SecretReference, row: dict[str, Any] | None, context: str, actor: str
    ) -> SecretOutcome:
        if row is None:
            return "missing"
        if row["context"] != context:
            return "other context"
        if row["expired"]:
            return "expired"
        if self._may_reveal is not None and self._may_reveal(actor, context, reference.kind) is not True:
            return "not allowed"
        return "revealed"

    def _refused(
        self, reference: SecretReference, outcome: SecretOutcome, context: str, actor: str
    ) -> PersistenceError:
        kind = NotFoundError if outcome in ("missing", "expired") else SecretAccessError
        message, hint = refusal(reference, outcome, context, actor)
        return kind(message, hint=hint, operation="reveal", connection=self._name)

    def _open(self, sealed: bytes, reference: SecretReference, context: str) -> str:
        try:
            return self._cipher.decrypt(sealed, self._place(reference, context)).decode("utf-8", "surrogatepass")
        except (CorruptError, ConfigError) as exc:
            exc.message, exc.connection = f"the secret {reference}: {exc.message}", self._name
            raise

    def _record(
        self, database: AsyncDatabase, ended: dict[SecretReference, SecretOutcome], context: str, actor: str
    ) -> tuple[str, dict[str, Any]]:
        values = {**self._tenants(), "context": context, "actor": actor}
        if database.kind == "postgresql":
            values |= {
                "ids": [each.id for each in ended],
                "kinds": [each.kind for each in ended],
                "outcomes": list(ended.values()),
            }
        else:
            accesses = [[each.id, each.kind, outcome] for each, outcome in ended.items()]
            values |= {"accesses": to_json(accesses), "now": _now()}
        return load_queries("persistence", database.kind).record_secret_accesses, values

    async def _record_apart(
        self, database: AsyncDatabase, ended: dict[SecretReference, SecretOutcome], context: str, actor: str
    ) -> None:
        sql, values = self._record(database, ended, context, actor)
        if database.kind == "postgresql":
            await database.run_apart(sql, values, answers=True)
        else:
            await database.fetch_all(sql, values)

    async def accesses(
        self,
        *,
        reference: str | SecretReference | None = None,
        actor: str | None = None,
        limit: int = 100,
        before: int | None = None,
    ) -> list[SecretAccess]:
        """Return accesses, of one secret or of one actor or all, newest first, at most ``limit`` (up to 10,000).

        ``before`` is the ``number`` of the last of the page before.
        """
        values: dict[str, Any] = {
            **self._tenants(),
            "actor": None if actor is None else check_id("the actor", actor),
            "limit": check_limit(limit),
            "before": 2**62 if before is None else check_whole("before", before),
        }
        database = await self._database()
        queries = load_queries("persistence", database.kind)
        sql = queries.list_secret_accesses
        if reference is not None:
            sql = queries.list_accesses_of_secret
            values["id"] = reference_of(reference).id
        return [access_from_row(row, database.dialect) for row in await database.fetch_all(sql, values)]

    async def list_secrets(self, context: str, *, limit: int = 100, after: str | None = None) -> list[StoredSecret]:
        """Return what is stored of a context, expired or not, by id, at most ``limit`` (up to 10,000); no secret.

        ``after`` is the ``cursor`` of the last of the page before.
        """
        values = {
            **self._tenants(),
            "context": _context(context),
            "limit": check_limit(limit),
            "after": "" if after is None else check_id("after", after),
        }
        database = await self._database()
        rows = await database.fetch_all(load_queries("persistence", database.kind).list_secrets, values)
        return [stored_from_row(row, database.dialect) for row in rows]

    async def delete(self, reference: str | SecretReference, *, context: str) -> bool:
        """Delete a secret of a context for good; tell whether it was there. Its accesses stay."""
        wanted = reference_of(reference)
        values = {"id": wanted.id, "kind": wanted.kind, "context": _context(context)}
        return bool(await self._execute("delete_secret", values))

    async def forget(self, context: str, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` secrets of a context (up to 10,000); return how many. Call it until it is 0."""
        return await self._execute("forget_secrets", {"context": _context(context), "limit": check_limit(limit)})

    async def delete_expired(self, *, limit: int = 1000) -> int:
        """Delete at most ``limit`` secrets that have expired (up to 10,000); return how many."""
        database = await self._database()
        return await self._execute("forget_expired_secrets", {"limit": check_limit(limit), **_clock(database)})

    async def rotate_keys(self, *, batch: int = 100) -> int:
        """Encrypt with the current key what another key did; return how many secrets that were.

        Each ``batch`` is a commit of its own, beside readers and writers. One that was cut off is run again, and goes
        on with what is left. The old key must stay in every cipher until it has ended: see ``keys_in_use``.

        Raises:
            ConfigError: the cipher lacks a key that is in use.
            CorruptError: a secret isn't what was stored; what was done before stays done.
        """
        size = check_limit(batch, "batch")
        database = await self._database()
        queries = load_queries("persistence", database.kind)
        count, after_key, after = 0, "", ""
        values = {**self._tenants(), "key_id": self._cipher.current}
        while True:
            page = {**values, "after_key": after_key, "after": after, "limit": size}
            rows = await database.fetch_all(queries.list_sealed_secrets, page)
            calls = []
            for row in rows:
                reference = SecretReference(row["id"], row["kind"])
                place = self._place(reference, row["context"])
                try:
                    new = self._cipher.rotate(row["sealed"], place)
                except (CorruptError, ConfigError) as exc:
                    exc.message, exc.connection = f"the secret {reference}: {exc.message}", self._name
                    raise
                calls.append((queries.seal_secret_anew, {**values, "id": row["id"], "old": row["sealed"], "new": new}))
            # Nothing where somebody else rotated or deleted it meanwhile.
            count += sum(len(changed) for changed in await database.fetch_batch(calls))
            if len(rows) < size:
                return count
            after_key, after = rows[-1]["key_id"], rows[-1]["id"]

    async def keys_in_use(self) -> dict[str, int]:
        """Return how many secrets each key has encrypted, by its id: a key that isn't there may be dropped."""
        database = await self._database()
        sql = load_queries("persistence", database.kind).count_secrets_by_key
        return {row["key_id"]: row["secrets"] for row in await database.fetch_all(sql, self._tenants())}

    async def _execute(self, name: str, values: dict[str, Any]) -> int:
        database = await self._database()
        sql: str = getattr(load_queries("persistence", database.kind), name)
        return await database.execute(sql, {**self._tenants(), **values})

    def _tenants(self) -> dict[str, Any]:
        return {"tenant": self._tenant}

    def _place(self, reference: SecretReference, context: str) -> bytes:
        return Cipher.associate("holdfast_secrets", self._tenant, reference.id, reference.kind, context)


def _recall_none(kind: str, secret: str) -> None:
    return None


def _context(context: object) -> str:
    return check_id("the context", context, limit=CONTEXT_BYTES)


def _ids(database: AsyncDatabase, references: Sequence[SecretReference]) -> Any:
    return database.dialect.keys([each.id for each in references])


def _clock(database: AsyncDatabase) -> dict[str, int]:
    """Return the time for the databases that have no clock of their own."""
    return {} if database.kind == "postgresql" else {"now": _now()}


def _now() -> int:
    return to_micros(datetime.now(UTC))

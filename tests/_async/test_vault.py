"""A vault: what is stored is sealed, references are unambiguous, accesses are recorded, keys rotate."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncSecretVault,
    Cipher,
    ClosedError,
    ConfigError,
    CorruptError,
    NotFoundError,
    PersistenceError,
    SecretAccess,
    SecretAccessError,
    SecretReference,
    SQLiteConfig,
    ValidationError,
)
from tests._async.side import elsewhere, together

pytestmark = pytest.mark.tables("persistence")

OLD, NEW = bytes(range(32)), bytes(range(32, 64))
CIPHER = Cipher({"old": OLD}, "old")
PASSWORD = "hunter2!"
TEXT = f"password={PASSWORD}"


@pytest.fixture
def vault(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncSecretVault:
    return AsyncSecretVault(manager, "main", CIPHER)


def reference_in(text: str) -> str:
    return text[text.index("{SECRET:") : text.rindex("}") + 1]


async def log_of(vault: AsyncSecretVault) -> list[tuple[str, str, str, str]]:
    found = [
        (str(each.reference), each.context, each.actor, each.outcome) for each in await vault.accesses(limit=10_000)
    ]
    return found[::-1]


async def rows_of(database: AsyncDatabase, table: str = "holdfast_secrets") -> list[dict[str, Any]]:
    return [dict(row) for row in await database.fetch_all(f"SELECT * FROM {table} ORDER BY 1, 2")]


async def test_secrets_become_references_and_come_back(vault: AsyncSecretVault, database: AsyncDatabase) -> None:
    value = {
        "note": f"the {TEXT} and pay with 4111 1111 1111 1111.",
        "db": {"password": "\ud800 any\0thing", "port": 5432},
        "list": [1, None, ("postgresql://u:pässword@h/d", b"raw")],
    }
    before = repr(value)
    protected = await vault.protect(value, context="agents/ada")
    assert repr(value) == before
    assert protected["note"].startswith("the password={SECRET:")
    assert protected["note"].endswith(":card-number}.")
    assert protected["db"]["port"] == 5432
    assert protected["list"][2][0].startswith("postgresql://u:{SECRET:")
    assert await vault.restore(protected, context="agents/ada", actor="ada") == value
    stored = await rows_of(database)
    assert sorted(row["kind"] for row in stored) == ["card-number", "connection-password", "password", "password"]
    assert {(row["tenant_id"], row["context"], row["key_id"]) for row in stored} == {("default", "agents/ada", "old")}
    plain = (PASSWORD, "4111 1111 1111 1111", "pässword", "any")
    for row in stored:
        sealed = bytes(row["sealed"])
        assert not [secret for secret in plain if secret.encode() in sealed]
        place = Cipher.associate("holdfast_secrets", "default", row["id"], row["kind"], row["context"])
        assert CIPHER.decrypt(sealed, place)
    everything = repr(await rows_of(database)) + repr(await rows_of(database, "holdfast_secret_accesses"))
    assert not [secret for secret in plain if secret in everything]


async def test_a_value_without_secrets_costs_nothing_and_is_the_same_object(
    manager: AsyncDatabaseManager, vault: AsyncSecretVault
) -> None:
    await vault.protect(TEXT, context="c")
    seen: list[str] = []
    manager.on_statement.append(lambda event: seen.append(event.operation))
    value = {"a": ["plain", {"b": 1}]}
    assert await vault.protect(value, context="c") is value
    assert await vault.restore(value, context="c", actor="a") is value
    assert seen == []
    await vault.protect([TEXT] * 50, context="c")
    assert len(seen) == 1
    assert await vault.accesses() == []
    del seen[:]


async def test_every_text_comes_back_as_it_was_whatever_looks_like_a_reference(vault: AsyncSecretVault) -> None:
    other = reference_in(await vault.protect(TEXT, context="other"))
    fake = "{SECRET:" + "0" * 32 + ":password}"
    pieces = [
        other,
        fake,
        fake.replace(":", "\\:", 1),
        fake.replace(":", "\\\\\\:", 1),
        fake[:-1],
        "{SECRET:",
        "{SECRET",
    ]
    pieces += ["\\", ":", "}", TEXT, " ", "token=", "{", "x", '"', other.replace("SECRET", "secret")]
    source = random.Random(5)
    texts = [*pieces, *("".join(source.choices(pieces, k=source.randint(2, 8))) for _ in range(200))]
    protected = await vault.protect(texts, context="c")
    assert await vault.restore(protected, context="c", actor="a") == texts
    assert other not in protected
    assert PASSWORD not in repr(protected)
    # What was read can be changed and written again: its references stay.
    again = await vault.protect({"old": protected[pieces.index(TEXT)], "new": TEXT}, context="c")
    assert again["old"] == protected[pieces.index(TEXT)]
    assert await vault.restore(again, context="c", actor="a") == {"old": TEXT, "new": TEXT}


async def test_a_secret_is_given_only_with_its_context_and_every_access_is_recorded(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    asked: list[tuple[str, str, str]] = []

    def may_reveal(actor: str, context: str, kind: str) -> bool:
        asked.append((actor, context, kind))
        return actor == "ada"

    vault = AsyncSecretVault(manager, "main", CIPHER, may_reveal=may_reveal)
    reference = reference_in(await vault.protect(TEXT, context="c"))
    assert await vault.reveal(reference, context="c", actor="ada") == PASSWORD
    for context, actor, part in [("d", "ada", "it is another's"), ("c", "eve", "may_reveal says no")]:
        with pytest.raises(SecretAccessError, match=part) as refused:
            await vault.reveal(reference, context=context, actor=actor)
        assert refused.value.connection == "main"
        assert PASSWORD not in str(refused.value)
    missing = SecretReference("f" * 32, "password")
    with pytest.raises(NotFoundError, match="there is no secret"):
        await vault.reveal(missing, context="c", actor="ada")
    with pytest.raises(NotFoundError):  # the kind is part of it
        await vault.reveal(reference.replace(":password}", ":token}"), context="c", actor="ada")
    assert await log_of(vault) == [
        (reference, "c", "ada", "revealed"),
        (reference, "d", "ada", "other context"),
        (reference, "c", "eve", "not allowed"),
        (str(missing), "c", "ada", "missing"),
        (reference.replace(":password}", ":token}"), "c", "ada", "missing"),
    ]
    assert asked == [("ada", "c", "password"), ("eve", "c", "password")]


async def test_a_restore_is_all_or_nothing_unless_what_is_missing_may_stay(vault: AsyncSecretVault) -> None:
    one, two = await vault.protect([TEXT, TEXT], context="c")
    three = await vault.protect(TEXT, context="d")
    with pytest.raises(SecretAccessError):
        await vault.restore([one, two, three], context="c", actor="a")
    assert await log_of(vault) == [(reference_in(three), "c", "a", "other context")]
    assert await vault.delete(reference_in(two), context="d") is False
    assert await vault.delete(reference_in(two), context="c") is True
    with pytest.raises(NotFoundError):
        await vault.restore([one, two], context="c", actor="a")
    assert await vault.restore([one, two, one], context="c", actor="a", keep_missing=True) == [TEXT, two, TEXT]
    assert (await log_of(vault))[1:] == [
        (reference_in(two), "c", "a", "missing"),
        (reference_in(one), "c", "a", "revealed"),
        (reference_in(two), "c", "a", "missing"),
    ]


async def test_accesses_are_paged_by_secret_and_by_actor(vault: AsyncSecretVault) -> None:
    one, two = (reference_in(each) for each in await vault.protect([TEXT, TEXT], context="c"))
    for reference, actor in [(one, "a"), (two, "a"), (one, "b"), (one, "a")]:
        await vault.reveal(reference, context="c", actor=actor)
    found = await vault.accesses()
    assert [(str(each.reference), each.actor) for each in found] == [(one, "a"), (one, "b"), (two, "a"), (one, "a")]
    assert [each.number for each in found] == sorted((each.number for each in found), reverse=True)
    assert await vault.accesses(limit=2) == found[:2]
    assert await vault.accesses(limit=2, before=found[1].number) == found[2:]
    assert await vault.accesses(reference=two) == [found[2]]
    assert await vault.accesses(reference=one, actor="a", limit=1) == [found[0]]
    assert await vault.accesses(actor="b") == [found[1]]
    assert isinstance(found[0], SecretAccess)
    assert found[0].at.tzinfo is not None


async def test_what_is_rolled_back_was_neither_stored_nor_given_and_a_refusal_stays_recorded(
    vault: AsyncSecretVault, database: AsyncDatabase
) -> None:
    kept = reference_in(await vault.protect(TEXT, context="c"))
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            lost = await vault.protect(TEXT, context="c")
            assert await vault.restore(lost, context="c", actor="a") == TEXT
            raise ZeroDivisionError
    assert len(await rows_of(database)) == 1
    assert await vault.accesses() == []
    with pytest.raises(SecretAccessError):
        async with database.transaction():
            await vault.reveal(kept, context="d", actor="eve")
    if database.kind == "postgresql":  # SQLite has one writer only, which was that transaction
        assert await log_of(vault) == [(kept, "d", "eve", "other context")]
    async with database.transaction():
        with pytest.raises(SecretAccessError):
            await vault.reveal(kept, context="e", actor="eve")
        assert await vault.reveal(kept, context="c", actor="ada") == PASSWORD
    assert [outcome for *_, outcome in await log_of(vault)][-2:] == ["other context", "revealed"]


async def test_a_secret_expires_and_is_swept(vault: AsyncSecretVault, database: AsyncDatabase) -> None:
    gone = reference_in(await vault.protect(TEXT, context="c", expires_in=0.001))
    kept = reference_in(await vault.protect(TEXT, context="c", expires_in=timedelta(hours=1)))
    await database.execute(
        f"UPDATE holdfast_secrets SET expires_at = {'1' if database.kind == 'sqlite' else 'now()'} "
        "WHERE id = :id", {"id": gone[8:40]},
    )  # fmt: skip
    with pytest.raises(NotFoundError, match="has expired"):
        await vault.reveal(gone, context="c", actor="a")
    assert await vault.reveal(kept, context="c", actor="a") == PASSWORD
    assert await log_of(vault) == [(gone, "c", "a", "expired"), (kept, "c", "a", "revealed")]
    assert await vault.delete_expired() == 1
    assert await vault.delete_expired() == 0
    [left] = await vault.list_secrets("c")
    assert (str(left.reference), left.context, left.key_id) == (kept, "c", "old")
    assert left.expires_at is not None
    assert left.expires_at - left.created_at > timedelta(minutes=59)


async def test_a_context_is_listed_in_pages_and_forgotten_in_batches(vault: AsyncSecretVault) -> None:
    await vault.protect([TEXT] * 5, context="c")
    await vault.protect(TEXT, context="d")
    pages, after = [], None
    while page := await vault.list_secrets("c", limit=2, after=after):
        pages.append([each.reference.id for each in page])
        after = page[-1].cursor
    assert [len(page) for page in pages] == [2, 2, 1]
    ids = [id for page in pages for id in page]
    assert ids == sorted(ids)
    assert [await vault.forget("c", limit=3) for _ in range(3)] == [3, 2, 0]
    assert len(await vault.list_secrets("d")) == 1


async def test_each_flipped_bit_a_moved_row_and_a_wrong_key_are_noticed_and_recorded(
    manager: AsyncDatabaseManager, vault: AsyncSecretVault, database: AsyncDatabase
) -> None:
    reference, other = (reference_in(each) for each in await vault.protect([TEXT, TEXT], context="c"))
    rows = {row["id"]: bytes(row["sealed"]) for row in await rows_of(database)}
    sealed = rows[reference[8:40]]
    put = "UPDATE holdfast_secrets SET sealed = :sealed WHERE id = :id"

    async def reveals(sealed: bytes) -> str:
        await database.execute(put, {"id": reference[8:40], "sealed": sealed})
        return await vault.reveal(reference, context="c", actor="a")

    flips = random.Random(7).sample(range(len(sealed) * 8), 40)
    for bit in flips:
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptError, ConfigError), match=f"the secret {reference}: "):
            await reveals(bytes(changed))
    for broken in (b"", sealed[:-1], rows[other[8:40]], b"\x01\x03oldplaintext"):
        with pytest.raises(CorruptError):
            await reveals(broken)
    assert await reveals(sealed) == PASSWORD
    outcomes = [outcome for *_, outcome in await log_of(vault)]
    assert outcomes == ["unreadable"] * (len(flips) + 4) + ["revealed"]
    wrong = AsyncSecretVault(manager, "main", Cipher({"old": NEW}, "old"))
    with pytest.raises(CorruptError, match="another key had this id"):
        await wrong.reveal(reference, context="c", actor="a")
    without = AsyncSecretVault(manager, "main", Cipher({"new": NEW}, "new"))
    with pytest.raises(ConfigError, match="no key 'old' to decrypt with"):
        await without.restore(f"x {reference}", context="c", actor="a")
    await database.execute("UPDATE holdfast_secrets SET context = 'd'")
    with pytest.raises(CorruptError):  # the place is authenticated, so a row can't be moved to another context
        await vault.reveal(reference, context="d", actor="a")


async def test_keys_rotate_in_batches_beside_readers_and_go_on_where_they_were_cut_off(
    manager: AsyncDatabaseManager, vault: AsyncSecretVault, database: AsyncDatabase
) -> None:
    protected = await vault.protect([f"password=secret{n}!" for n in range(25)], context="c")
    expected = [f"password=secret{n}!" for n in range(25)]
    both = AsyncSecretVault(manager, "main", Cipher({"old": OLD, "new": NEW}, "new"))
    late = AsyncSecretVault(manager, "main", Cipher({"old": OLD, "new": NEW}, "old"))
    broken = reference_in(protected[0])[8:40]
    [good] = [bytes(row["sealed"]) for row in await rows_of(database) if row["id"] == broken]
    await database.execute(
        "UPDATE holdfast_secrets SET sealed = :x WHERE id = :id", {"id": broken, "x": good[:-1] + bytes([good[-1] ^ 1])}
    )
    with pytest.raises(CorruptError, match=broken):
        await both.rotate_keys(batch=1)
    done = (await both.keys_in_use()).get("new", 0)
    await database.execute("UPDATE holdfast_secrets SET sealed = :x WHERE id = :id", {"id": broken, "x": good})
    assert await vault.restore(protected[1:1], context="c", actor="a") == []
    read = await together(
        lambda: both.rotate_keys(batch=4),
        *[lambda: late.restore(protected, context="c", actor="reader") for _ in range(4)],
        lambda: late.protect(TEXT, context="late"),
    )
    assert not [each for each in read if isinstance(each, BaseException)]
    assert read[1:5] == [expected] * 4
    in_use = await both.keys_in_use()
    assert in_use["new"] in (25, 26)
    assert read[0] == in_use["new"] - done
    await both.rotate_keys()
    assert await both.keys_in_use() == {"new": 26}
    assert await both.rotate_keys() == 0
    only = AsyncSecretVault(manager, "main", Cipher({"new": NEW}, "new"))
    assert await only.restore(protected, context="c", actor="a") == expected
    with pytest.raises(ConfigError, match="no key 'new'"):
        await vault.rotate_keys()


async def test_a_remembered_secret_gets_its_reference_again_as_long_as_it_is_there(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    vault = AsyncSecretVault(manager, "main", CIPHER, remember=2)
    one = await vault.protect(TEXT, context="c")
    assert await vault.protect([TEXT, {"password": PASSWORD}], context="c") == [one, {"password": reference_in(one)}]
    assert await vault.protect(TEXT, context="d") != one
    assert await vault.protect(TEXT, context="c", expires_in=60) != one
    assert PASSWORD not in repr(vars(vault._known))
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            lost = await vault.protect("password=secret-2!", context="c")
            assert await vault.protect("password=secret-2!", context="c") == lost
            raise ZeroDivisionError
    found = await vault.protect("password=secret-2!", context="c")
    assert found != lost
    assert await vault.restore(found, context="c", actor="a") == "password=secret-2!"
    await vault.delete(reference_in(found), context="c")
    again = await vault.protect("password=secret-2!", context="c")
    assert again != found
    assert await vault.restore(again, context="c", actor="a") == "password=secret-2!"
    count = sum((await vault.keys_in_use()).values())
    for _ in range(3):
        await vault.protect(["password=secret-2!"] * 3, context="c")
    assert sum((await vault.keys_in_use()).values()) == count
    for n in range(5):  # the oldest is forgotten
        await vault.protect(f"password=other-{n}!", context="c")
    assert await vault.protect("password=secret-2!", context="c") != again
    with pytest.raises(ValidationError, match="remember"):
        AsyncSecretVault(manager, "main", CIPHER, remember=-1)


async def test_tenants_are_apart(manager: AsyncDatabaseManager, vault: AsyncSecretVault) -> None:
    other = AsyncSecretVault(manager, "main", CIPHER, tenant="other")
    reference = reference_in(await vault.protect(TEXT, context="c"))
    with pytest.raises(NotFoundError):
        await other.reveal(reference, context="c", actor="a")
    assert await other.delete(reference, context="c") is False
    assert await other.forget("c") == 0
    assert await other.keys_in_use() == {}
    assert await other.protect(reference, context="c") != reference
    assert [outcome for *_, outcome in await log_of(other)] == ["missing"]
    assert await vault.accesses() == []


@pytest.mark.parametrize(
    ("context", "actor", "reference", "part"),
    [
        ("", "a", None, "the context is empty"),
        ("c\0", "a", None, "NUL"),
        ("c" * 10_000, "a", None, "more than the limit"),
        (7, "a", None, "not a str"),
        ("c", "", None, "the actor is empty"),
        ("c", None, None, "not a str"),
        ("c", "a", "hunter2", "it is no reference"),
        ("c", "a", "{SECRET\\:" + "0" * 32 + ":token}", "it is no reference"),
        ("c", "a", 7, "it is no reference"),
        ("c", "a", "{SECRET:'; DROP TABLE holdfast_secrets; --:x}", "it is no reference"),
    ],
)
async def test_what_is_no_reference_context_or_actor_is_refused(
    vault: AsyncSecretVault, context: Any, actor: Any, reference: Any, part: str
) -> None:
    known = reference_in(await vault.protect(TEXT, context="c"))
    with pytest.raises(ValidationError, match=part) as refused:
        await vault.reveal(known if reference is None else reference, context=context, actor=actor)
    assert "hunter2" not in str(refused.value)
    assert await vault.accesses() == []


async def test_names_with_sql_in_them_are_names(vault: AsyncSecretVault) -> None:
    names = ["'; DROP TABLE holdfast_secrets; --", '"', "%", "😀" * 200]
    for name in names:
        reference = reference_in(await vault.protect(TEXT, context=name))
        assert await vault.reveal(reference, context=name, actor=name) == PASSWORD
        [entry] = await vault.accesses(actor=name)
        assert (entry.context, entry.outcome) == (name, "revealed")


async def test_options_are_checked_before_anything_is_written(
    manager: AsyncDatabaseManager, vault: AsyncSecretVault, database: AsyncDatabase
) -> None:
    for cipher in (None, OLD, "key"):
        with pytest.raises(ConfigError, match="a vault needs a Cipher"):
            AsyncSecretVault(manager, "main", cipher)  # type: ignore[arg-type]
    calls: list[Any] = [
        lambda: vault.protect(TEXT, context="c", expires_in=0),
        lambda: vault.protect(TEXT, context="c", expires_in=float("nan")),
        lambda: vault.accesses(limit=0),
        lambda: vault.accesses(before=-1),
        lambda: vault.rotate_keys(batch=0),
        lambda: vault.forget("c", limit=10**9),
        lambda: vault.list_secrets("c", after="x" * 5000),
    ]
    for call in calls:
        with pytest.raises(ValidationError):
            await call()
    with pytest.raises(TypeError):
        await vault.protect(TEXT, contex="c")  # type: ignore[call-arg]
    await vault.delete_expired()
    assert await rows_of(database) == []


async def test_a_vault_works_in_another_task_and_from_a_second_connection(
    manager: AsyncDatabaseManager, vault: AsyncSecretVault, database: AsyncDatabase
) -> None:
    protected = await elsewhere(lambda: vault.protect({"secret": "x"}, context="c"))
    again = AsyncSecretVault(manager, "main", Cipher({"old": OLD}, "old"), migrate=False)
    assert await again.restore(protected, context="c", actor="a") == {"secret": "x"}


async def test_a_missing_table_and_a_closed_manager_say_so(tmp_path: Path) -> None:
    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "v.db")))
        with pytest.raises(PersistenceError, match="persistence"):
            await AsyncSecretVault(manager, "main", CIPHER, migrate=False).protect(TEXT, context="c")
        vault = AsyncSecretVault(manager, "main", CIPHER)
        await vault.protect(TEXT, context="c")
    with pytest.raises(ClosedError):
        await vault.protect(TEXT, context="c")

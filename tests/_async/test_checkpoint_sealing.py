"""Encryption: nothing of a state can be read in the tables, and nothing opens anywhere but where it was stored."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import AsyncDatabase, AsyncDatabaseManager, Cipher, ConfigError, CorruptError

pytestmark = pytest.mark.tables("checkpoint")

KEYS = {"old": bytes(range(32)), "new": bytes(range(1, 33))}
SECRET = "swordfish "
STATE: dict[str, Any] = {"hidden name": SECRET * 9, "small": SECRET, "list": [SECRET * 5], "n": 1}


def checkpointer_on(manager: AsyncDatabaseManager, current: str | None = "old", **keys: bytes) -> Any:
    cipher = None if current is None else Cipher(keys or KEYS, current)
    return AsyncDatabaseCheckpointer(manager, "main", cipher=cipher)


@pytest_asyncio.fixture
async def sealed(manager: AsyncDatabaseManager, database: AsyncDatabase) -> AsyncDatabaseCheckpointer:
    """A checkpointer with a cipher on each SQL database."""
    made: AsyncDatabaseCheckpointer = checkpointer_on(manager)
    return made


async def stored(database: AsyncDatabase) -> bytes:
    """Return all that lies in the columns of bytes."""
    found = []
    for query in (
        "SELECT manifest FROM holdfast_checkpoints",
        "SELECT data FROM holdfast_checkpoints WHERE data IS NOT NULL",
        "SELECT data FROM holdfast_checkpoint_blocks",
        "SELECT data FROM holdfast_checkpoint_writes",
    ):
        found += [bytes(next(iter(row.values()))) for row in await database.fetch_all(query)]
    assert all(data[:1] == b"\2" for data in found)
    return b"".join(found)


async def fill(checkpointer: AsyncDatabaseCheckpointer, thread_id: str = "t", count: int = 4) -> list[dict[str, Any]]:
    states = []
    for number in range(count):
        states.append({**STATE, "n": number, "large": [SECRET * 200 * number], "larger": SECRET * 300 * number})
        key = f"k{number}"
        await checkpointer.save_checkpoint(Checkpoint(thread_id, states[-1], key=key, metadata={"n": number}))
        await checkpointer.put_writes(thread_id, key, "task", [("c", SECRET * 9), ("d", number)])
    return states


async def test_nothing_of_a_state_is_readable_in_the_tables(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    states = await fill(sealed)
    raw = await stored(database)
    assert b"swordfish" not in raw
    assert b"hidden name" not in raw
    for reader in (sealed, checkpointer_on(manager, "new")):
        listed = await reader.list_checkpoints("t", states=True, writes=True)
        assert [found.state for found in listed] == states[::-1]
        assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 1, 0)]
        assert (await reader.load_checkpoint("t", 2)).state == states[1]
        assert (await reader.load_checkpoint("t", key="k2", writes=True)).writes[0].value == SECRET * 9
        assert [write.value for write in await reader.pending_writes("t", "k1")] == [SECRET * 9, 1]


async def test_a_save_goes_on_from_what_another_process_saved(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    other = checkpointer_on(manager)
    for number in range(6):
        state = {**STATE, "n": number}
        saved = await (sealed if number % 2 else other).save_checkpoint(Checkpoint("t", state))
        assert (saved.version, saved.parent_version) == (number + 1, number or None)
        assert (await checkpointer_on(manager).load_checkpoint("t")).state == state
    explicit = await other.save_checkpoint(Checkpoint("t", STATE, version=20))
    assert (explicit.version, (await sealed.load_checkpoint("t")).version) == (20, 20)
    assert (await sealed.save_checkpoint(Checkpoint("t", STATE), expected_version=20)).version == 21
    assert (await sealed.save_checkpoint(Checkpoint("new", STATE, version=7))).version == 7


async def test_forks_copies_rewinds_and_prunes_open_where_they_lie(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    states = await fill(sealed)
    await sealed.put_writes("forked", "own", "task", [("cost", 7)])
    assert (await sealed.fork("t", 3, "forked")).state == states[2]
    assert await sealed.copy_thread("t", "copied") == 4
    assert (await sealed.rewind("t", 2)).state == states[1]
    await sealed.prune("t", keep_last=1)
    await sealed.fork("forked", 1, "again")
    await sealed.save_checkpoint(Checkpoint("again", {**states[2], "n": "on"}))
    await stored(database)
    reader = checkpointer_on(manager)
    assert (await reader.load_checkpoint("forked")).state == states[2]
    assert [write.value for write in await reader.pending_writes("forked", "own")] == [7]
    assert [found.state for found in await reader.list_checkpoints("copied", states=True)] == states[::-1]
    assert [write.value for write in await reader.pending_writes("copied", "k3")] == [SECRET * 9, 3]
    assert (await reader.load_checkpoint("t")).state == states[1]
    assert (await reader.load_checkpoint("again", 1)).state == states[2]
    assert (await reader.load_checkpoint("again")).state == {**states[2], "n": "on"}


async def test_what_is_moved_to_another_place_does_not_open_there(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await fill(sealed)
    await fill(sealed, "other")
    for change in (
        "UPDATE holdfast_checkpoints SET version = 40 WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET key = 'else' WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET manifest = (SELECT o.manifest FROM holdfast_checkpoints AS o "
        "WHERE o.thread_id = 'other' AND o.version = 4) WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET data = (SELECT o.data FROM holdfast_checkpoints AS o "
        "WHERE o.thread_id = 't' AND o.version = 3) WHERE thread_id = 't' AND version = 4",
    ):
        with pytest.raises(RuntimeError, match="undo"):
            async with database.transaction():
                assert await database.execute(change) == 1
                with pytest.raises(CorruptError, match="of thread 't'"):
                    await checkpointer_on(manager).load_checkpoint("t")
                raise RuntimeError("undo")
    assert await database.execute("UPDATE holdfast_checkpoint_writes SET key = 'k9' WHERE key = 'k1'") == 4
    with pytest.raises(CorruptError):
        await sealed.pending_writes("t", "k9")


async def test_each_flipped_bit_of_a_block_and_a_manifest_is_noticed(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await sealed.save_checkpoint(Checkpoint("t", {"a": SECRET * 9}))
    for column in ("manifest", "data"):
        whole = bytes(await database.fetch_value(f"SELECT {column} FROM holdfast_checkpoints"))
        for place in range(0, len(whole), 3):
            wrong = whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :]
            await database.execute(f"UPDATE holdfast_checkpoints SET {column} = :wrong", {"wrong": wrong})
            with pytest.raises((CorruptError, ConfigError)):
                await checkpointer_on(manager).load_checkpoint("t")
        await database.execute(f"UPDATE holdfast_checkpoints SET {column} = :whole", {"whole": whole})
    assert (await checkpointer_on(manager).load_checkpoint("t")).state == {"a": SECRET * 9}


async def test_without_the_key_or_the_cipher_the_error_says_what_is_missing(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await fill(sealed)
    with pytest.raises(ConfigError, match="no key 'old'"):
        await checkpointer_on(manager, "mine", mine=bytes(32)).load_checkpoint("t")
    for call in (lambda c: c.load_checkpoint("t"), lambda c: c.pending_writes("t", "k1"), lambda c: c.latest("t")):
        with pytest.raises(ConfigError, match="it is encrypted"):
            await call(checkpointer_on(manager, None))
    with pytest.raises(CorruptError, match="of thread 't'"):
        await checkpointer_on(manager, "old", old=bytes(32)).load_checkpoint("t")
    with pytest.raises(ConfigError, match="has no cipher"):
        await checkpointer_on(manager, None).rotate_keys()


async def test_rotating_seals_everything_with_the_current_key(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    states = await fill(sealed)
    await sealed.fork("t", 2, "forked")
    await sealed.prune("t", keep_last=1)
    rotating = checkpointer_on(manager, "new")
    assert await rotating.rotate_keys() > 4
    assert await rotating.rotate_keys() == 0
    only_new = checkpointer_on(manager, "new", new=KEYS["new"])
    assert (await only_new.load_checkpoint("t")).state == states[3]
    assert (await only_new.load_checkpoint("forked")).state == states[1]
    assert [write.value for write in await only_new.pending_writes("t", "k3")] == [SECRET * 9, 3]
    # A base from before goes on.
    assert (await sealed.save_checkpoint(Checkpoint("t", {**states[3], "n": 9}))).version == 5
    assert (await checkpointer_on(manager).load_checkpoint("t")).state == {**states[3], "n": 9}


async def test_what_was_saved_without_a_cipher_is_refused_until_it_was_rotated(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    states = await fill(checkpointer_on(manager, None))
    sealed = checkpointer_on(manager)
    with pytest.raises(CorruptError, match="is not encrypted"):
        await sealed.load_checkpoint("t")
    await sealed.rotate_keys("t")
    assert b"swordfish" not in await stored(database)
    assert (await sealed.load_checkpoint("t")).state == states[3]


async def test_tenants_do_not_open_each_others(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    cipher = Cipher(KEYS, "old")
    one = AsyncDatabaseCheckpointer(manager, "main", tenant="one", cipher=cipher)
    await one.save_checkpoint(Checkpoint("t", STATE))
    for table in ("threads", "blocks"):
        await database.execute(f"UPDATE holdfast_checkpoint_{table} SET tenant_id = 'two'")
    await database.execute("UPDATE holdfast_checkpoints SET tenant_id = 'two'")
    with pytest.raises(CorruptError):
        await AsyncDatabaseCheckpointer(manager, "main", tenant="two", cipher=cipher).load_checkpoint("t")


async def test_a_sealed_save_is_one_request_once_its_thread_is_known(
    sealed: AsyncDatabaseCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await fill(sealed, count=2)
    for call in (
        lambda: sealed.save_checkpoint(Checkpoint("t", {**STATE, "n": 5})),
        lambda: sealed.load_checkpoint("t"),
        lambda: sealed.list_checkpoints("t", states=True),
    ):
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1

# Generated from ../_async/test_checkpoint_sealing.py by tests/unasync.py: edit that one.
"""Encryption: nothing of a state can be read in the tables, and nothing opens anywhere but where it was stored."""

from __future__ import annotations

from typing import Any

import pytest
import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import Database, DatabaseManager, Cipher, ConfigError, CorruptError

pytestmark = pytest.mark.tables("checkpoint")

KEYS = {"old": bytes(range(32)), "new": bytes(range(1, 33))}
SECRET = "swordfish "
STATE: dict[str, Any] = {"hidden name": SECRET * 9, "small": SECRET, "list": [SECRET * 5], "n": 1}


def checkpointer_on(manager: DatabaseManager, current: str | None = "old", **keys: bytes) -> Any:
    cipher = None if current is None else Cipher(keys or KEYS, current)
    return DatabaseCheckpointer(manager, "main", cipher=cipher)


@pytest.fixture
def sealed(manager: DatabaseManager, database: Database) -> DatabaseCheckpointer:
    """A checkpointer with a cipher on each SQL database."""
    made: DatabaseCheckpointer = checkpointer_on(manager)
    return made


def stored(database: Database) -> bytes:
    """Return all that lies in the columns of bytes."""
    found = []
    for query in (
        "SELECT manifest FROM holdfast_checkpoints",
        "SELECT data FROM holdfast_checkpoints WHERE data IS NOT NULL",
        "SELECT data FROM holdfast_checkpoint_blocks",
        "SELECT data FROM holdfast_checkpoint_writes",
    ):
        found += [bytes(next(iter(row.values()))) for row in database.fetch_all(query)]
    assert all(data[:1] == b"\2" for data in found)
    return b"".join(found)


def fill(checkpointer: DatabaseCheckpointer, thread_id: str = "t", count: int = 4) -> list[dict[str, Any]]:
    states = []
    for number in range(count):
        states.append({**STATE, "n": number, "large": [SECRET * 200 * number], "larger": SECRET * 300 * number})
        key = f"k{number}"
        checkpointer.save_checkpoint(Checkpoint(thread_id, states[-1], key=key, metadata={"n": number}))
        checkpointer.put_writes(thread_id, key, "task", [("c", SECRET * 9), ("d", number)])
    return states


def test_nothing_of_a_state_is_readable_in_the_tables(
    sealed: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    states = fill(sealed)
    raw = stored(database)
    assert b"swordfish" not in raw
    assert b"hidden name" not in raw
    for reader in (sealed, checkpointer_on(manager, "new")):
        listed = reader.list_checkpoints("t", states=True, writes=True)
        assert [found.state for found in listed] == states[::-1]
        assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 1, 0)]
        assert (reader.load_checkpoint("t", 2)).state == states[1]
        assert (reader.load_checkpoint("t", key="k2", writes=True)).writes[0].value == SECRET * 9
        assert [write.value for write in reader.pending_writes("t", "k1")] == [SECRET * 9, 1]


def test_a_save_goes_on_from_what_another_process_saved(
    sealed: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    other = checkpointer_on(manager)
    for number in range(6):
        state = {**STATE, "n": number}
        saved = (sealed if number % 2 else other).save_checkpoint(Checkpoint("t", state))
        assert (saved.version, saved.parent_version) == (number + 1, number or None)
        assert (checkpointer_on(manager).load_checkpoint("t")).state == state
    explicit = other.save_checkpoint(Checkpoint("t", STATE, version=20))
    assert (explicit.version, (sealed.load_checkpoint("t")).version) == (20, 20)
    assert (sealed.save_checkpoint(Checkpoint("t", STATE), expected_version=20)).version == 21
    assert (sealed.save_checkpoint(Checkpoint("new", STATE, version=7))).version == 7


def test_forks_copies_rewinds_and_prunes_open_where_they_lie(
    sealed: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    states = fill(sealed)
    sealed.put_writes("forked", "own", "task", [("cost", 7)])
    assert (sealed.fork("t", 3, "forked")).state == states[2]
    assert sealed.copy_thread("t", "copied") == 4
    assert (sealed.rewind("t", 2)).state == states[1]
    sealed.prune("t", keep_last=1)
    sealed.fork("forked", 1, "again")
    sealed.save_checkpoint(Checkpoint("again", {**states[2], "n": "on"}))
    stored(database)
    reader = checkpointer_on(manager)
    assert (reader.load_checkpoint("forked")).state == states[2]
    assert [write.value for write in reader.pending_writes("forked", "own")] == [7]
    assert [found.state for found in reader.list_checkpoints("copied", states=True)] == states[::-1]
    assert [write.value for write in reader.pending_writes("copied", "k3")] == [SECRET * 9, 3]
    assert (reader.load_checkpoint("t")).state == states[1]
    assert (reader.load_checkpoint("again", 1)).state == states[2]
    assert (reader.load_checkpoint("again")).state == {**states[2], "n": "on"}


def test_what_is_moved_to_another_place_does_not_open_there(
    sealed: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    fill(sealed)
    fill(sealed, "other")
    for change in (
        "UPDATE holdfast_checkpoints SET version = 40 WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET key = 'else' WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET manifest = (SELECT o.manifest FROM holdfast_checkpoints AS o "
        "WHERE o.thread_id = 'other' AND o.version = 4) WHERE thread_id = 't' AND version = 4",
        "UPDATE holdfast_checkpoints SET data = (SELECT o.data FROM holdfast_checkpoints AS o "
        "WHERE o.thread_id = 't' AND o.version = 3) WHERE thread_id = 't' AND version = 4",
    ):
        with pytest.raises(RuntimeError, match="undo"):
            with database.transaction():
                assert database.execute(change) == 1
                with pytest.raises(CorruptError, match="of thread 't'"):
                    checkpointer_on(manager).load_checkpoint("t")
                raise RuntimeError("undo")
    assert database.execute("UPDATE holdfast_checkpoint_writes SET key = 'k9' WHERE key = 'k1'") == 4
    with pytest.raises(CorruptError):
        sealed.pending_writes("t", "k9")


def test_each_flipped_bit_of_a_block_and_a_manifest_is_noticed(
    sealed: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    sealed.save_checkpoint(Checkpoint("t", {"a": SECRET * 9}))
    for column in ("manifest", "data"):
        whole = bytes(database.fetch_value(f"SELECT {column} FROM holdfast_checkpoints"))
        for place in range(0, len(whole), 3):
            wrong = whole[:place] + bytes((whole[place] ^ 1,)) + whole[place + 1 :]
            database.execute(f"UPDATE holdfast_checkpoints SET {column} = :wrong", {"wrong": wrong})
            with pytest.raises((CorruptError, ConfigError)):
                checkpointer_on(manager).load_checkpoint("t")
        database.execute(f"UPDATE holdfast_checkpoints SET {column} = :whole", {"whole": whole})
    assert (checkpointer_on(manager).load_checkpoint("t")).state == {"a": SECRET * 9}


def test_without_the_key_or_the_cipher_the_error_says_what_is_missing(
    sealed: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    fill(sealed)
    with pytest.raises(ConfigError, match="no key 'old'"):
        checkpointer_on(manager, "mine", mine=bytes(32)).load_checkpoint("t")
    for call in (lambda c: c.load_checkpoint("t"), lambda c: c.pending_writes("t", "k1"), lambda c: c.latest("t")):
        with pytest.raises(ConfigError, match="it is encrypted"):
            call(checkpointer_on(manager, None))
    with pytest.raises(CorruptError, match="of thread 't'"):
        checkpointer_on(manager, "old", old=bytes(32)).load_checkpoint("t")
    with pytest.raises(ConfigError, match="has no cipher"):
        checkpointer_on(manager, None).rotate_keys()


def test_rotating_seals_everything_with_the_current_key(
    sealed: DatabaseCheckpointer, manager: DatabaseManager, database: Database
) -> None:
    states = fill(sealed)
    sealed.fork("t", 2, "forked")
    sealed.prune("t", keep_last=1)
    rotating = checkpointer_on(manager, "new")
    assert rotating.rotate_keys() > 4
    assert rotating.rotate_keys() == 0
    only_new = checkpointer_on(manager, "new", new=KEYS["new"])
    assert (only_new.load_checkpoint("t")).state == states[3]
    assert (only_new.load_checkpoint("forked")).state == states[1]
    assert [write.value for write in only_new.pending_writes("t", "k3")] == [SECRET * 9, 3]
    # A base from before goes on.
    assert (sealed.save_checkpoint(Checkpoint("t", {**states[3], "n": 9}))).version == 5
    assert (checkpointer_on(manager).load_checkpoint("t")).state == {**states[3], "n": 9}


def test_what_was_saved_without_a_cipher_is_refused_until_it_was_rotated(
    manager: DatabaseManager, database: Database
) -> None:
    states = fill(checkpointer_on(manager, None))
    sealed = checkpointer_on(manager)
    with pytest.raises(CorruptError, match="is not encrypted"):
        sealed.load_checkpoint("t")
    sealed.rotate_keys("t")
    assert b"swordfish" not in stored(database)
    assert (sealed.load_checkpoint("t")).state == states[3]


def test_tenants_do_not_open_each_others(manager: DatabaseManager, database: Database) -> None:
    cipher = Cipher(KEYS, "old")
    one = DatabaseCheckpointer(manager, "main", tenant="one", cipher=cipher)
    one.save_checkpoint(Checkpoint("t", STATE))
    for table in ("threads", "blocks"):
        database.execute(f"UPDATE holdfast_checkpoint_{table} SET tenant_id = 'two'")
    database.execute("UPDATE holdfast_checkpoints SET tenant_id = 'two'")
    with pytest.raises(CorruptError):
        DatabaseCheckpointer(manager, "main", tenant="two", cipher=cipher).load_checkpoint("t")


def test_a_sealed_save_is_one_request_once_its_thread_is_known(
    sealed: DatabaseCheckpointer, manager: DatabaseManager
) -> None:
    fill(sealed, count=2)
    for call in (
        lambda: sealed.save_checkpoint(Checkpoint("t", {**STATE, "n": 5})),
        lambda: sealed.load_checkpoint("t"),
        lambda: sealed.list_checkpoints("t", states=True),
    ):
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1

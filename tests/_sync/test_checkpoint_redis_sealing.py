# Generated from ../_async/test_checkpoint_redis_sealing.py by tests/unasync.py: edit that one.
"""Encryption on Redis: nothing of a state can be read there, and nothing opens anywhere but where it was stored."""

from __future__ import annotations

from typing import Any

import pytest
import pytest

from checkpoint import Checkpoint
from checkpoint._sync.redis import RedisCheckpointer
from checkpoint.redis_format import thread_keys
from persistence import (
    DatabaseManager,
    RedisConnection,
    Cipher,
    ConfigError,
    ConflictError,
    CorruptError,
    DuplicateError,
    NotFoundError,
    RedisConfig,
)
from tests._sync.checkpoints import together

KEYS = {"old": bytes(range(32)), "new": bytes(range(1, 33))}
SECRET = "swordfish "
STATE: dict[str, Any] = {"hidden name": SECRET * 9, "small": SECRET, "list": [SECRET * 5], "n": 1}


def checkpointer_on(manager: DatabaseManager, current: str | None = "old", **options: Any) -> Any:
    cipher = None if current is None else Cipher(options.pop("keys", KEYS), current)
    return RedisCheckpointer(manager, "main", cipher=cipher, **options)


@pytest.fixture
def redis(manager: DatabaseManager, redis_config: RedisConfig) -> RedisConnection:
    """The connection ``main``, on an empty database."""
    return manager.add_redis("main", redis_config)


@pytest.fixture
def sealed(manager: DatabaseManager, redis: RedisConnection) -> RedisCheckpointer:
    """A checkpointer with a cipher."""
    made: RedisCheckpointer = checkpointer_on(manager)
    return made


def fill(checkpointer: RedisCheckpointer, count: int = 4) -> list[dict[str, Any]]:
    states = []
    for number in range(count):
        states.append({**STATE, "n": number, "large": [SECRET * 200 * number], "larger": SECRET * 300 * number})
        checkpointer.save_checkpoint(Checkpoint("t", states[-1], key=f"k{number}", metadata={"n": number}))
        checkpointer.put_writes("t", f"k{number}", "task", [("c", SECRET * 9), ("d", number)])
    return states


def test_nothing_of_a_state_is_readable_on_the_server(
    sealed: RedisCheckpointer, manager: DatabaseManager, redis: RedisConnection
) -> None:
    states = fill(sealed)
    assert (sealed.rewind("t", 2)).state == states[1]
    assert (sealed.fork("t", 3, "fork")).state == states[2]
    for thread in ("t", "fork"):
        data, writes = thread_keys("default", thread)[1], thread_keys("default", thread)[3]
        values = [*(redis.client.hvals(data)), *(redis.client.hvals(writes))]
        assert not [value for value in values if b"swordfish" in value or b"hidden name" in value]
    assert sealed.delete_checkpoint("t", 5)
    for reader in (sealed, checkpointer_on(manager, "new")):
        listed = reader.list_checkpoints("t", states=True, writes=True)
        assert [found.state for found in listed] == states[::-1]
        assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 1, 0)]
        assert (reader.load_checkpoint("t", 2)).state == states[1]
        assert (reader.load_checkpoint("t", key="k2", writes=True)).writes[0].value == SECRET * 9
        assert [write.value for write in reader.pending_writes("t", "k1")] == [SECRET * 9, 1]
        assert (reader.load_checkpoint("fork")).state == states[2]


def test_a_fork_is_like_one_that_is_not_sealed(
    sealed: RedisCheckpointer, manager: DatabaseManager
) -> None:
    states = fill(sealed)
    forked = sealed.fork("t", 3, "fork")
    assert (forked.version, forked.parent_version, forked.key, forked.metadata) == (1, None, "k2", {"n": 2})
    assert forked.timestamp == (sealed.load_checkpoint("t", 3)).timestamp
    assert forked.writes == ()
    with pytest.raises(DuplicateError):
        sealed.fork("t", 2, "fork")
    sealed.delete_checkpoint("fork", 1)
    with pytest.raises(DuplicateError):
        sealed.fork("t", 2, "fork")
    with pytest.raises(NotFoundError):
        sealed.fork("t", 99, "other")
    sealed.put_writes("waiting", "k", "task", [("a", 1)])
    assert (sealed.fork("t", 1, "waiting")).state == states[0]
    assert {found.thread_id for found in sealed.list_threads()} == {"fork", "t", "waiting"}


def test_sealed_saves_of_many_writers_have_versions_without_holes(
    sealed: RedisCheckpointer, manager: DatabaseManager
) -> None:
    def save(writer: Any, number: int) -> int:
        for _ in range(20):
            try:
                return int((writer.save_checkpoint(Checkpoint("t", {**STATE, "n": number}))).version)
            except ConflictError:  # ten times another was faster
                continue
        return 0

    writers = [checkpointer_on(manager) for _ in range(6)]
    won = together([lambda w=w, n=n: save(w, n) for n, w in enumerate(writers)])
    assert sorted(won) == [1, 2, 3, 4, 5, 6]
    listed = checkpointer_on(manager).list_checkpoints("t", states=True)
    assert {one.version: one.state["n"] for one in listed} == {version: n for n, version in enumerate(won)}
    explicit = checkpointer_on(manager).save_checkpoint(Checkpoint("t", STATE, version=20), expected_version=6)
    assert (explicit.version, (sealed.load_checkpoint("t")).version) == (20, 20)


def test_what_lies_elsewhere_or_was_changed_does_not_open(
    sealed: RedisCheckpointer, manager: DatabaseManager, redis: RedisConnection
) -> None:
    for number in range(3):
        sealed.save_checkpoint(Checkpoint("t", {"a": SECRET * 9, "n": number, "own": f"{number}" * 50}))
    data = thread_keys("default", "t")[1]
    records = {version: redis.client.hget(data, f"c\0{version}") for version in (1, 2, 3)}
    blocks = {version: redis.client.hget(data, f"b\0{version}.0") for version in (1, 2, 3)}
    for field, value in (
        (b"c\x003", records[2]),
        (b"c\x003", records[3][:-1] + bytes([records[3][-1] ^ 1])),
        (b"b\x003.0", blocks[2]),
        (b"b\x003.0", blocks[3][:-1] + bytes([blocks[3][-1] ^ 1])),
    ):
        before = redis.client.hget(data, field)
        redis.client.hset(data, field, value)
        with pytest.raises(CorruptError, match="checkpoint 3 of thread 't'"):
            checkpointer_on(manager).load_checkpoint("t", 3)
        redis.client.hset(data, field, before)
    assert (checkpointer_on(manager).load_checkpoint("t", 3)).state["n"] == 2
    with pytest.raises(ConfigError, match="it is encrypted"):
        checkpointer_on(manager, None).load_checkpoint("t")
    with pytest.raises(ConfigError):
        checkpointer_on(manager, "new", keys={"new": KEYS["new"]}).load_checkpoint("t")
    checkpointer_on(manager, None).save_checkpoint(Checkpoint("plain", STATE))
    with pytest.raises(CorruptError, match="it is not encrypted"):
        sealed.load_checkpoint("plain")


def test_a_sealed_save_is_one_request_once_its_thread_is_known(
    sealed: RedisCheckpointer, redis: RedisConnection
) -> None:
    sealed.save_checkpoint(Checkpoint("t", STATE))
    sealed.load_checkpoint("t")
    for call in (
        lambda: sealed.save_checkpoint(Checkpoint("t", {**STATE, "n": 2})),
        lambda: sealed.load_checkpoint("t"),
        lambda: sealed.put_writes("t", "k", "task", [("a", 1)]),
    ):
        call()  # a server learns each script by its first call
        before = redis.requests
        call()
        assert redis.requests - before == 1


def test_a_copy_is_sealed_to_its_new_thread_and_nothing_is_left_beside_it(
    sealed: RedisCheckpointer, manager: DatabaseManager, redis: RedisConnection
) -> None:
    states = fill(sealed)
    sealed.save_checkpoint(Checkpoint("t", STATE, namespace="sub", node="n", step=3))
    sealed.delete_checkpoint("t", 2)
    sealed.set_ttl("t", 3600)
    assert sealed.copy_thread("t", "copy") == 4
    with pytest.raises(DuplicateError):
        sealed.copy_thread("t", "copy")
    with pytest.raises(NotFoundError):
        sealed.copy_thread("nobody", "other")
    named = {name for name in redis.client.scan_iter("*copy*")}
    assert named == set(thread_keys("default", "copy"))
    for key in named:
        assert redis.client.pttl(key) == -1
    sealed.delete_thread("t")
    reader = checkpointer_on(manager, "new")
    listed = reader.list_checkpoints("copy", states=True, writes=True)
    assert [(found.version, found.key, found.state) for found in listed] == [
        (number + 1, f"k{number}", states[number]) for number in (3, 2, 0)
    ]
    assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 0)]
    assert (reader.load_checkpoint("copy", namespace="sub")).state == STATE
    assert (reader.save_checkpoint(Checkpoint("copy", states[0]))).version == 5


def test_a_copy_that_does_not_open_is_not_made(
    sealed: RedisCheckpointer, redis: RedisConnection
) -> None:
    fill(sealed)
    data = thread_keys("default", "t")[1]
    field = next(field for field in redis.client.hkeys(data) if field.startswith(b"b"))
    redis.client.hset(data, field, b"\2changed")
    with pytest.raises(CorruptError, match="thread 't'"):
        sealed.copy_thread("t", "copy")
    assert sealed.latest("copy") is None
    assert [found.thread_id for found in sealed.list_threads()] == ["t"]
    for name in [name for name in redis.client.scan_iter("*copy*")]:
        assert 0 < redis.client.pttl(name) <= 3_600_000


def test_rotating_seals_everything_with_the_current_key(
    sealed: RedisCheckpointer, manager: DatabaseManager, redis: RedisConnection
) -> None:
    states = fill(sealed)
    sealed.fork("t", 2, "forked")
    sealed.save_checkpoint(Checkpoint("t", STATE, namespace="sub"))
    sealed.put_writes("t", "early", "task", [("c", SECRET)], namespace="sub")
    sealed.set_ttl("t", 3600)
    sealed.prune("t", keep_last=1)
    rotating = checkpointer_on(manager, "new")
    assert rotating.rotate_keys() > 8
    assert rotating.rotate_keys() == 0
    only_new = checkpointer_on(manager, "new", keys={"new": KEYS["new"]})
    assert (only_new.load_checkpoint("t")).state == states[3]
    assert (only_new.load_checkpoint("t", namespace="sub")).state == STATE
    assert (only_new.load_checkpoint("forked")).state == states[1]
    assert [write.value for write in only_new.pending_writes("t", "k3")] == [SECRET * 9, 3]
    assert [write.value for write in only_new.pending_writes("t", "early", namespace="sub")] == [SECRET]
    for key in thread_keys("default", "t"):
        assert redis.client.pttl(key) > 0
    # A base from before goes on.
    assert (sealed.save_checkpoint(Checkpoint("t", {**states[3], "n": 9}))).version == 5
    assert (checkpointer_on(manager).load_checkpoint("t")).state == {**states[3], "n": 9}


def test_what_was_saved_without_a_cipher_is_refused_until_it_was_rotated(
    manager: DatabaseManager, redis: RedisConnection
) -> None:
    states = fill(checkpointer_on(manager, None))
    sealed = checkpointer_on(manager)
    with pytest.raises(CorruptError, match="is not encrypted"):
        sealed.load_checkpoint("t")
    assert sealed.rotate_keys("nobody") == 0
    assert sealed.rotate_keys("t") > 8
    for key in thread_keys("default", "t")[1], thread_keys("default", "t")[3]:
        assert not [value for value in redis.client.hvals(key) if b"swordfish" in value]
    assert (sealed.load_checkpoint("t", writes=True)).state == states[3]
    with pytest.raises(ConfigError, match="has no cipher"):
        checkpointer_on(manager, None).rotate_keys()
    data = thread_keys("default", "t")[1]
    field = next(field for field in redis.client.hkeys(data) if field.startswith(b"b"))
    redis.client.hset(data, field, b"\2moved")
    with pytest.raises(CorruptError, match="thread 't'"):
        checkpointer_on(manager, "new").rotate_keys("t")


def test_rotating_beside_writers_loses_nothing(
    sealed: RedisCheckpointer, manager: DatabaseManager
) -> None:
    fill(sealed)
    rotating = checkpointer_on(manager, "new")

    def save() -> None:
        for number in range(20):
            state = {**STATE, "n": number, "large": [SECRET * 50 * number]}
            sealed.save_checkpoint(Checkpoint("t", state, metadata={"n": number}))

    def rotate() -> None:
        for _ in range(6):
            rotating.rotate_keys("t")

    together([save, rotate])
    rotating.rotate_keys("t")
    listed = checkpointer_on(manager, "new", keys={"new": KEYS["new"]}).list_checkpoints(
        "t", states=True, limit=20
    )
    assert [found.state["n"] for found in listed] == [*range(19, -1, -1)]
    assert [found.state["large"] for found in listed] == [[SECRET * 50 * number] for number in range(19, -1, -1)]

"""Encryption on Redis: nothing of a state can be read there, and nothing opens anywhere but where it was stored."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_asyncio

from checkpoint import Checkpoint
from checkpoint._async.redis import AsyncRedisCheckpointer
from checkpoint.redis_format import thread_keys
from persistence import (
    AsyncDatabaseManager,
    AsyncRedisConnection,
    Cipher,
    ConfigError,
    ConflictError,
    CorruptError,
    DuplicateError,
    NotFoundError,
    RedisConfig,
)
from tests._async.checkpoints import together

KEYS = {"old": bytes(range(32)), "new": bytes(range(1, 33))}
SECRET = "swordfish "
STATE: dict[str, Any] = {"hidden name": SECRET * 9, "small": SECRET, "list": [SECRET * 5], "n": 1}


def checkpointer_on(manager: AsyncDatabaseManager, current: str | None = "old", **options: Any) -> Any:
    cipher = None if current is None else Cipher(options.pop("keys", KEYS), current)
    return AsyncRedisCheckpointer(manager, "main", cipher=cipher, **options)


@pytest_asyncio.fixture
async def redis(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncRedisConnection:
    """The connection ``main``, on an empty database."""
    return await manager.add_redis("main", redis_config)


@pytest_asyncio.fixture
async def sealed(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> AsyncRedisCheckpointer:
    """A checkpointer with a cipher."""
    made: AsyncRedisCheckpointer = checkpointer_on(manager)
    return made


async def fill(checkpointer: AsyncRedisCheckpointer, count: int = 4) -> list[dict[str, Any]]:
    states = []
    for number in range(count):
        states.append({**STATE, "n": number, "large": [SECRET * 200 * number], "larger": SECRET * 300 * number})
        await checkpointer.save_checkpoint(Checkpoint("t", states[-1], key=f"k{number}", metadata={"n": number}))
        await checkpointer.put_writes("t", f"k{number}", "task", [("c", SECRET * 9), ("d", number)])
    return states


async def test_nothing_of_a_state_is_readable_on_the_server(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    states = await fill(sealed)
    assert (await sealed.rewind("t", 2)).state == states[1]
    assert (await sealed.fork("t", 3, "fork")).state == states[2]
    for thread in ("t", "fork"):
        data, writes = thread_keys("default", thread)[1], thread_keys("default", thread)[3]
        values = [*(await redis.client.hvals(data)), *(await redis.client.hvals(writes))]
        assert not [value for value in values if b"swordfish" in value or b"hidden name" in value]
    assert await sealed.delete_checkpoint("t", 5)
    for reader in (sealed, checkpointer_on(manager, "new")):
        listed = await reader.list_checkpoints("t", states=True, writes=True)
        assert [found.state for found in listed] == states[::-1]
        assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 1, 0)]
        assert (await reader.load_checkpoint("t", 2)).state == states[1]
        assert (await reader.load_checkpoint("t", key="k2", writes=True)).writes[0].value == SECRET * 9
        assert [write.value for write in await reader.pending_writes("t", "k1")] == [SECRET * 9, 1]
        assert (await reader.load_checkpoint("fork")).state == states[2]


async def test_a_fork_is_like_one_that_is_not_sealed(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    states = await fill(sealed)
    forked = await sealed.fork("t", 3, "fork")
    assert (forked.version, forked.parent_version, forked.key, forked.metadata) == (1, None, "k2", {"n": 2})
    assert forked.timestamp == (await sealed.load_checkpoint("t", 3)).timestamp
    assert forked.writes == ()
    with pytest.raises(DuplicateError):
        await sealed.fork("t", 2, "fork")
    await sealed.delete_checkpoint("fork", 1)
    with pytest.raises(DuplicateError):
        await sealed.fork("t", 2, "fork")
    with pytest.raises(NotFoundError):
        await sealed.fork("t", 99, "other")
    await sealed.put_writes("waiting", "k", "task", [("a", 1)])
    assert (await sealed.fork("t", 1, "waiting")).state == states[0]
    assert {found.thread_id for found in await sealed.list_threads()} == {"fork", "t", "waiting"}


async def test_sealed_saves_of_many_writers_have_versions_without_holes(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    async def save(writer: Any, number: int) -> int:
        for _ in range(20):
            try:
                return int((await writer.save_checkpoint(Checkpoint("t", {**STATE, "n": number}))).version)
            except ConflictError:  # ten times another was faster
                continue
        return 0

    writers = [checkpointer_on(manager) for _ in range(6)]
    won = await together([lambda w=w, n=n: save(w, n) for n, w in enumerate(writers)])
    assert sorted(won) == [1, 2, 3, 4, 5, 6]
    listed = await checkpointer_on(manager).list_checkpoints("t", states=True)
    assert {one.version: one.state["n"] for one in listed} == {version: n for n, version in enumerate(won)}
    explicit = await checkpointer_on(manager).save_checkpoint(Checkpoint("t", STATE, version=20), expected_version=6)
    assert (explicit.version, (await sealed.load_checkpoint("t")).version) == (20, 20)


async def test_what_lies_elsewhere_or_was_changed_does_not_open(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    for number in range(3):
        await sealed.save_checkpoint(Checkpoint("t", {"a": SECRET * 9, "n": number, "own": f"{number}" * 50}))
    data = thread_keys("default", "t")[1]
    records = {version: await redis.client.hget(data, f"c\0{version}") for version in (1, 2, 3)}
    blocks = {version: await redis.client.hget(data, f"b\0{version}.0") for version in (1, 2, 3)}
    for field, value in (
        (b"c\x003", records[2]),
        (b"c\x003", records[3][:-1] + bytes([records[3][-1] ^ 1])),
        (b"b\x003.0", blocks[2]),
        (b"b\x003.0", blocks[3][:-1] + bytes([blocks[3][-1] ^ 1])),
    ):
        before = await redis.client.hget(data, field)
        await redis.client.hset(data, field, value)
        with pytest.raises(CorruptError, match="checkpoint 3 of thread 't'"):
            await checkpointer_on(manager).load_checkpoint("t", 3)
        await redis.client.hset(data, field, before)
    assert (await checkpointer_on(manager).load_checkpoint("t", 3)).state["n"] == 2
    with pytest.raises(ConfigError, match="it is encrypted"):
        await checkpointer_on(manager, None).load_checkpoint("t")
    with pytest.raises(ConfigError):
        await checkpointer_on(manager, "new", keys={"new": KEYS["new"]}).load_checkpoint("t")
    await checkpointer_on(manager, None).save_checkpoint(Checkpoint("plain", STATE))
    with pytest.raises(CorruptError, match="it is not encrypted"):
        await sealed.load_checkpoint("plain")


async def test_a_sealed_save_is_one_request_once_its_thread_is_known(
    sealed: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await sealed.save_checkpoint(Checkpoint("t", STATE))
    await sealed.load_checkpoint("t")
    for call in (
        lambda: sealed.save_checkpoint(Checkpoint("t", {**STATE, "n": 2})),
        lambda: sealed.load_checkpoint("t"),
        lambda: sealed.put_writes("t", "k", "task", [("a", 1)]),
    ):
        await call()  # a server learns each script by its first call
        before = redis.requests
        await call()
        assert redis.requests - before == 1


async def test_a_copy_is_sealed_to_its_new_thread_and_nothing_is_left_beside_it(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    states = await fill(sealed)
    await sealed.save_checkpoint(Checkpoint("t", STATE, namespace="sub", node="n", step=3))
    await sealed.delete_checkpoint("t", 2)
    await sealed.set_ttl("t", 3600)
    assert await sealed.copy_thread("t", "copy") == 4
    with pytest.raises(DuplicateError):
        await sealed.copy_thread("t", "copy")
    with pytest.raises(NotFoundError):
        await sealed.copy_thread("nobody", "other")
    named = {name async for name in redis.client.scan_iter("*copy*")}
    assert named == set(thread_keys("default", "copy"))
    for key in named:
        assert await redis.client.pttl(key) == -1
    await sealed.delete_thread("t")
    reader = checkpointer_on(manager, "new")
    listed = await reader.list_checkpoints("copy", states=True, writes=True)
    assert [(found.version, found.key, found.state) for found in listed] == [
        (number + 1, f"k{number}", states[number]) for number in (3, 2, 0)
    ]
    assert [[write.value for write in found.writes] for found in listed] == [[SECRET * 9, n] for n in (3, 2, 0)]
    assert (await reader.load_checkpoint("copy", namespace="sub")).state == STATE
    assert (await reader.save_checkpoint(Checkpoint("copy", states[0]))).version == 5


async def test_a_copy_that_does_not_open_is_not_made(
    sealed: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await fill(sealed)
    data = thread_keys("default", "t")[1]
    field = next(field for field in await redis.client.hkeys(data) if field.startswith(b"b"))
    await redis.client.hset(data, field, b"\2changed")
    with pytest.raises(CorruptError, match="thread 't'"):
        await sealed.copy_thread("t", "copy")
    assert await sealed.latest("copy") is None
    assert [found.thread_id for found in await sealed.list_threads()] == ["t"]
    for name in [name async for name in redis.client.scan_iter("*copy*")]:
        assert 0 < await redis.client.pttl(name) <= 3_600_000


async def test_rotating_seals_everything_with_the_current_key(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    states = await fill(sealed)
    await sealed.fork("t", 2, "forked")
    await sealed.save_checkpoint(Checkpoint("t", STATE, namespace="sub"))
    await sealed.put_writes("t", "early", "task", [("c", SECRET)], namespace="sub")
    await sealed.set_ttl("t", 3600)
    await sealed.prune("t", keep_last=1)
    rotating = checkpointer_on(manager, "new")
    assert await rotating.rotate_keys() > 8
    assert await rotating.rotate_keys() == 0
    only_new = checkpointer_on(manager, "new", keys={"new": KEYS["new"]})
    assert (await only_new.load_checkpoint("t")).state == states[3]
    assert (await only_new.load_checkpoint("t", namespace="sub")).state == STATE
    assert (await only_new.load_checkpoint("forked")).state == states[1]
    assert [write.value for write in await only_new.pending_writes("t", "k3")] == [SECRET * 9, 3]
    assert [write.value for write in await only_new.pending_writes("t", "early", namespace="sub")] == [SECRET]
    for key in thread_keys("default", "t"):
        assert await redis.client.pttl(key) > 0
    # A base from before goes on.
    assert (await sealed.save_checkpoint(Checkpoint("t", {**states[3], "n": 9}))).version == 5
    assert (await checkpointer_on(manager).load_checkpoint("t")).state == {**states[3], "n": 9}


async def test_what_was_saved_without_a_cipher_is_refused_until_it_was_rotated(
    manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    states = await fill(checkpointer_on(manager, None))
    sealed = checkpointer_on(manager)
    with pytest.raises(CorruptError, match="is not encrypted"):
        await sealed.load_checkpoint("t")
    assert await sealed.rotate_keys("nobody") == 0
    assert await sealed.rotate_keys("t") > 8
    for key in thread_keys("default", "t")[1], thread_keys("default", "t")[3]:
        assert not [value for value in await redis.client.hvals(key) if b"swordfish" in value]
    assert (await sealed.load_checkpoint("t", writes=True)).state == states[3]
    with pytest.raises(ConfigError, match="has no cipher"):
        await checkpointer_on(manager, None).rotate_keys()
    data = thread_keys("default", "t")[1]
    field = next(field for field in await redis.client.hkeys(data) if field.startswith(b"b"))
    await redis.client.hset(data, field, b"\2moved")
    with pytest.raises(CorruptError, match="thread 't'"):
        await checkpointer_on(manager, "new").rotate_keys("t")


async def test_rotating_beside_writers_loses_nothing(
    sealed: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await fill(sealed)
    rotating = checkpointer_on(manager, "new")

    async def save() -> None:
        for number in range(20):
            state = {**STATE, "n": number, "large": [SECRET * 50 * number]}
            await sealed.save_checkpoint(Checkpoint("t", state, metadata={"n": number}))

    async def rotate() -> None:
        for _ in range(6):
            await rotating.rotate_keys("t")

    await together([save, rotate])
    await rotating.rotate_keys("t")
    listed = await checkpointer_on(manager, "new", keys={"new": KEYS["new"]}).list_checkpoints(
        "t", states=True, limit=20
    )
    assert [found.state["n"] for found in listed] == [*range(19, -1, -1)]
    assert [found.state["large"] for found in listed] == [[SECRET * 50 * number] for number in range(19, -1, -1)]

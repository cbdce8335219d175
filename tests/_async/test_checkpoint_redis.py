"""What checkpoints on Redis promise besides the contract: keys, blocks, registration, expiry, requests, damage."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis.crc import key_slot

from checkpoint import Checkpoint, PruneReport
from checkpoint._async.redis import AsyncRedisCheckpointer
from checkpoint.redis_format import tenant_keys, thread_keys, unpack_record
from checkpoint.redis_pruning import plan
from checkpoint.redis_scripts import script
from persistence import (
    AsyncDatabaseManager,
    AsyncRedisConnection,
    ClosedError,
    ConflictError,
    CorruptError,
    DuplicateError,
    EmbeddedRedis,
    NotFoundError,
    RedisConfig,
    SQLiteConfig,
    ValidationError,
    WrongKindError,
)
from tests._async.checkpoints import LONG, cut, together, versions
from tests._async.side import sleep
from tests._async.test_checkpoint_walk import Thread, Walk

NAMES = ("heads", "data", "versions", "writes", "tasks")
STRANGE = ("a:b", "a", "b", "{a}", "}a{", "{}", "a}:{b", "%7B", "%", "*", "a?[b]", "holdfast:{x}", "naïve 😀", "\x01")


@pytest_asyncio.fixture
async def redis(manager: AsyncDatabaseManager, redis_config: RedisConfig) -> AsyncRedisConnection:
    """The connection ``main``, on an empty database."""
    return await manager.add_redis("main", redis_config)


@pytest_asyncio.fixture
async def stored(manager: AsyncDatabaseManager, redis: AsyncRedisConnection) -> AsyncRedisCheckpointer:
    """A checkpointer on the connection ``main``, whose server has seen the scripts."""
    checkpointer = fresh(manager)
    await checkpointer.latest("t")
    return checkpointer


def fresh(manager: AsyncDatabaseManager, tenant: str = "default") -> AsyncRedisCheckpointer:
    """Return a checkpointer that remembers nothing, as in another process."""
    return AsyncRedisCheckpointer(manager, "main", tenant=tenant)


async def all_keys(redis: AsyncRedisConnection) -> set[bytes]:
    return set(await redis.client.keys("*"))


async def data_of(redis: AsyncRedisConnection, thread_id: str = "t") -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = await redis.client.hgetall(thread_keys("default", thread_id)[1])
    return found


async def check_blocks(redis: AsyncRedisConnection) -> None:
    """Find that every block that a checkpoint refers to is stored, and none that nobody refers to."""
    for key in await redis.client.keys("holdfast:*:data"):
        needed, found = set(), set()
        for field, value in (await redis.client.hgetall(key)).items():
            namespace, _, rest = field[1:].partition(b"\0")
            if field[:1] == b"b":
                version, _, ordinal = rest.partition(b".")
                found.add((namespace, int(version), int(ordinal)))
            elif field[:1] == b"c":
                version = int(rest)
                needed |= {(namespace, version - (ref >> 8), ref & 255) for ref in unpack_record(version, value).refs}
        assert needed - found == set(), "blocks are missing"
        assert found - needed == set(), "nobody needs these blocks"


# Keys


async def test_a_thread_lies_in_the_keys_that_the_documentation_names(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    moment = datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    given = Checkpoint("t", {"long": LONG, "n": 1}, metadata={"tag": "ü"}, timestamp=moment, node="né", key="k")
    await stored.save_checkpoint(given)
    await stored.save_checkpoint(Checkpoint("t", {"long": LONG, "n": 2}, step=-3, namespace="sub"))
    await stored.save_checkpoint(Checkpoint("t", {"long": LONG, "n": 3}, step=-3))
    await stored.put_writes("t", "k", "task", [("channel", 1)], task_path="path")
    thread = [f"holdfast:{{default:t}}:checkpoint:{name}".encode() for name in NAMES]
    assert await all_keys(redis) == {
        *thread,
        b"holdfast:{default}:checkpoint:threads",
        b"holdfast:{default}:checkpoint:registered",
    }
    data = await data_of(redis)
    assert sorted(data) == [b"b\x001.0", b"bsub\x001.0", b"c\x001", b"c\x002", b"csub\x001", b"k\x00k"]
    header, _, rest = data[b"c\x001"].partition(b"\n")
    assert header == b"- 0 063839761445678901 - t 1 3 12"
    assert rest.startswith('kné{"tag":"ü"}'.encode())
    assert data[b"c\x002"].startswith(b"1 256 0639")
    assert data[b"c\x002"].partition(b"\n")[0].endswith(b" -3 - - - 2")
    assert data[b"k\x00k"] == b"1"
    assert [piece.kind for piece in cut(data[b"b\x001.0"])] == [0]
    assert await redis.client.zrange(thread[2], 0, -1) == [
        b"\x000000000000000000001",
        b"\x000000000000000000002",
        b"sub\x000000000000000000001",
    ]
    heads = await redis.client.hgetall(thread[0])
    assert {name: head.split()[1:3] for name, head in heads.items()} == {b"": [b"2", b"2"], b"sub": [b"1", b"1"]}
    assert list(await redis.client.hgetall(thread[3])) == [b"\x00k\x00task\x000"]
    assert await redis.client.zrange(thread[4], 0, -1) == [b"\x00k\x00task\x000"]
    assert await redis.client.zrange("holdfast:{default}:checkpoint:threads", 0, -1) == [b"t"]


async def test_ids_of_any_characters_stay_apart_and_a_thread_is_in_one_slot(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    pairs = [(tenant, thread) for tenant in STRANGE for thread in STRANGE]
    assert len({key for tenant, thread in pairs for key in thread_keys(tenant, thread)}) == 5 * len(pairs)
    assert len({key for tenant in STRANGE for key in tenant_keys(tenant)}) == 3 * len(STRANGE)
    for tenant, thread in pairs:
        keys = thread_keys(tenant, thread)
        tag = keys[0][len(b"holdfast:{") : -len(b"}:checkpoint:heads")]
        assert {key_slot(key) for key in keys} == {key_slot(tag)}
    for n, (tenant, thread) in enumerate(pairs[::5]):
        await fresh(manager, tenant).save_checkpoint(Checkpoint(thread, {"n": n}, namespace=thread, key=thread))
    for n, (tenant, thread) in enumerate(pairs[::5]):
        mine = fresh(manager, tenant)
        assert [one.state for one in await mine.list_checkpoints(thread, namespace=thread, states=True)] == [{"n": n}]
        assert (await mine.load_checkpoint(thread, key=thread, namespace=thread)).state == {"n": n}
        assert thread in [found.thread_id for found in await mine.list_threads()]
    for tenant, thread in pairs[::5]:
        assert await fresh(manager, tenant).delete_thread(thread) == 1


async def test_versions_to_the_largest_are_exact(stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager) -> None:
    largest = [2**53 - 1, 2**53, 2**53 + 1, 10**14 - 1, 10**15 - 1, 10**18, 999_999_999_999_999_999, 2**62 - 1]
    for start in largest:
        thread = f"t{start}"
        for n in range(3):
            state = {"same": LONG, "n": n}
            saved = await stored.save_checkpoint(Checkpoint(thread, state, version=start if not n else None))
            assert (saved.version, saved.parent_version) == (start + n, start + n - 1 if n else None)
        listed = await fresh(manager).list_checkpoints(thread, states=True)
        assert [(one.version, one.state["n"]) for one in listed] == [(start + 2, 2), (start + 1, 1), (start, 0)]
        assert [one.version for one in await stored.list_checkpoints(thread, before=start + 1)] == [start]
        assert await stored.delete_checkpoint(thread, start)
        assert [one.version for one in await stored.history(thread)] == [start + 2, start + 1]
        assert (await fresh(manager).load_checkpoint(thread)).state == {"same": LONG, "n": 2}
        with pytest.raises(DuplicateError, match="others still need a part"):
            await stored.save_checkpoint(Checkpoint(thread, {}, version=start))
        assert (await stored.rewind(thread, start + 1)).version == start + 3
        assert (await stored.prune(thread, keep_last=1)).checkpoints == 2
        assert (await fresh(manager).load_checkpoint(thread)).state == {"same": LONG, "n": 1}


# Blocks


class RedisWalk(Walk):
    """A walk on Redis, which joins no transaction."""

    redis: AsyncRedisConnection

    async def step(self) -> None:
        weights = {"save": 30, "load": 8, "delete": 8, "prune": 5, "fork": 4, "rewind": 5, "copy_thread": 2}
        chosen = self.chance.choices([*weights, "save_version", "delete_thread"], [*weights.values(), 5, 1])[0]
        thread = self.chance.choice([*self.threads, "t", "t"])
        self.done.append(f"{chosen} {thread}")
        await getattr(self, chosen)(thread)
        await self.check(thread)
        await check_blocks(self.redis)

    async def save_version(self, name: str) -> None:
        thread = self.threads.setdefault(name, Thread())
        version = self.chance.choice((self.chance.randint(1, thread.counter + 5), thread.counter + 2**23))
        state = self.state(thread)
        data = await data_of(self.redis, name)
        is_held = any(field.startswith(b"b\0%d." % version) for field in data)
        try:
            await self.process().save_checkpoint(Checkpoint(name, state, version=version))
        except DuplicateError:
            assert version in thread.states or is_held
            return
        assert version not in thread.states
        assert not is_held
        thread.states[version] = deepcopy(state)
        thread.counter = max(thread.counter, version)


@pytest.mark.parametrize("seed", [1, None])
async def test_every_state_is_as_it_was_saved_after_any_walk_and_no_block_is_left_over(
    manager: AsyncDatabaseManager, redis: AsyncRedisConnection, redis_config: RedisConfig, seed: int | None
) -> None:
    seed = secrets.randbits(32) if seed is None else seed
    await manager.add_redis("second", redis_config)
    processes: Any = [fresh(manager), fresh(manager), AsyncRedisCheckpointer(manager, "second")]
    nothing: Any = None
    walk = RedisWalk(seed, processes, lambda: fresh(manager), nothing)
    walk.redis = redis
    try:
        for _ in range(120):
            await walk.step()
    except BaseException as exc:
        exc.add_note(f"seed {seed}: {', '.join(walk.done)}")
        raise


async def test_prunes_forks_and_writers_beside_each_other_lose_nothing(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    def state(n: int, worker: int) -> dict[str, Any]:
        return {"n": n, "by": worker, "same": LONG, "items": [f"{item} " * 20 for item in range(n % 7)]}

    async def save(worker: int) -> list[tuple[int, dict[str, Any]]]:
        mine, saved = fresh(manager), []
        for n in range(25):
            done = await mine.save_checkpoint(Checkpoint("t", state(n, worker)))
            saved.append((done.version or 0, done.state))
        return saved

    async def prune(worker: int) -> list[tuple[int, dict[str, Any]]]:
        for n in range(10):
            await fresh(manager).prune("t", keep_last=5, batch=3)
            latest = await fresh(manager).latest("t")
            if latest is not None:
                try:
                    await fresh(manager).fork("t", latest.version or 0, f"fork {worker} {n}")
                except NotFoundError:
                    continue  # pruned meanwhile
        return []

    calls: list[Callable[[], Any]] = [lambda worker=worker: save(worker) for worker in range(4)]
    calls += [lambda worker=worker: prune(worker) for worker in range(2)]
    saved = dict(entry for entries in await together(calls) for entry in entries)
    assert sorted(saved) == list(range(1, 101))
    left = await fresh(manager).list_checkpoints("t", states=True)
    assert len(left) >= 5
    assert all(one.state == saved[one.version or 0] for one in left)
    for thread in await stored.list_threads():
        forked = await fresh(manager).load_checkpoint(thread.thread_id)
        assert forked.state in saved.values()
    await check_blocks(redis)


async def test_of_sixteen_that_expect_the_same_version_one_saves_each_round(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    writers = [fresh(manager) for _ in range(16)]

    async def save(writer: AsyncRedisCheckpointer, expected: int) -> int:
        try:
            return (await writer.save_checkpoint(Checkpoint("t", {"a": LONG}), expected_version=expected)).version or 0
        except ConflictError as exc:
            assert (exc.expected, exc.actual) == (expected, expected + 1)  # noqa: PT017 - fifteen of sixteen
            return 0

    for expected in range(4):
        won = await together([lambda writer=writer, expected=expected: save(writer, expected) for writer in writers])
        assert sorted(won) == [0] * 15 + [expected + 1]


async def test_a_dry_prune_says_what_a_prune_frees(stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection) -> None:
    for n in range(1, 6):
        await stored.save_checkpoint(Checkpoint("t", {"same": LONG, "own": f"{n} " * 30}))
    before = await data_of(redis)
    planned = await stored.prune("t", keep_last=2, dry_run=True)
    assert await data_of(redis) == before
    assert await stored.prune("t", keep_last=2) == planned
    after = await data_of(redis)
    gone = [unpack_record(n, before[b"c\0%d" % n]) for n in (1, 2, 3)]
    freed = sum(len(record.manifest) + 4 * len(record.refs) for record in gone)
    freed += sum(len(value) for field, value in before.items() if field[:1] == b"b" and field not in after)
    assert planned == PruneReport(checkpoints=3, bytes=freed)
    await check_blocks(redis)


async def test_a_prune_keeps_what_was_saved_since_it_looked_and_begins_anew_after_a_delete(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    first, second = {"a": LONG}, {"a": LONG * 2}
    for state in (first, second, second):
        await stored.save_checkpoint(Checkpoint("t", state))
    keys = thread_keys("default", "t")
    read = await stored._lines(keys, "")
    assert read is not None
    epoch, seen, lines = read
    (batch,) = plan(lines, [1], 10)
    assert batch == ([1], [b"1.0"])
    # Nobody needed block 1.0 but version 1, and now version 4 does.
    await stored.save_checkpoint(Checkpoint("t", first))
    assert unpack_record(4, (await data_of(redis))[b"c\0004"]).refs == [3 << 8]
    asked = (len(batch.versions), *batch.versions, *batch.blocks)
    gone, _, after = await stored._run("forget", keys, "", 7, 0, epoch, seen, *asked)
    assert (gone, after) == (1, b"7")
    assert (await fresh(manager).load_checkpoint("t")).state == first
    assert await versions(stored) == [4, 3, 2]
    await check_blocks(redis)
    # A delete and a save below the latest change what was known; a save of the next version doesn't.
    assert await stored._run("forget", keys, "", 8, 1, epoch, seen, 0) is None
    for change, is_known in (
        (lambda: stored.save_checkpoint(Checkpoint("t", second)), True),
        (lambda: stored.save_checkpoint(Checkpoint("t", second, version=100)), True),
        (lambda: stored.rewind("t", 2), True),
        (lambda: stored.put_writes("t", "k", "task", [("a", 1)]), True),
        (lambda: stored.save_checkpoint(Checkpoint("t", second, version=50)), False),
        (lambda: stored.delete_checkpoint("t", 2), False),
        (lambda: stored.prune("t", keep_last=3), False),
    ):
        read = await stored._lines(keys, "")
        assert read is not None
        await change()
        answer = await stored._run("forget", keys, "", 9, 1, read[0], read[1], 0)
        assert (answer is not None) is is_known


# Requests


async def test_each_call_is_one_request(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    for n in range(3):
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": n}, key=f"k{n}"))
    await stored.set_ttl("t", 1000)
    for file in (files("checkpoint") / "lua").iterdir():  # a server is sent each script as text once
        await redis.client.script_load(script(file.name.removesuffix(".lua")).text)
    calls: list[Callable[[], Any]] = [
        lambda: stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 9})),
        lambda: stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 9}, version=50), expected_version=4),
        lambda: fresh(manager).save_checkpoint(Checkpoint("new", {"a": LONG, "n": 9}, key="k")),
        lambda: stored.latest("t"),
        lambda: fresh(manager).load_checkpoint("t", writes=True),
        lambda: stored.load_checkpoint("t", key="k1"),
        lambda: stored.put_writes("t", "k1", "task", [("a", 1), ("b", 2)]),
        lambda: fresh(manager).put_writes("unknown", "k1", "task", [("a", 1)]),
        lambda: stored.pending_writes("t", "k1"),
        lambda: stored.list_checkpoints("t"),
        lambda: stored.list_checkpoints("t", states=True, writes=True),
        lambda: stored.history("t"),
        lambda: stored.at_step("t", 5),
    ]
    for call in calls:
        before = redis.requests
        await call()
        assert redis.requests - before == 1


async def test_the_latest_is_not_sent_again_to_who_has_it(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager, redis: AsyncRedisConnection
) -> None:
    state: dict[str, Any] = {"a": LONG, "items": [LONG * 2, {"deep": [1]}]}
    await stored.save_checkpoint(Checkpoint("t", state))
    await redis.client.hdel(thread_keys("default", "t")[1], "b\0001.0")  # so that sending it is an error
    assert (await stored.load_checkpoint("t")).state == state
    with pytest.raises(CorruptError, match=r"checkpoint 1 of thread 't'.*is missing"):
        await fresh(manager).load_checkpoint("t")


async def test_long_walks_go_on_where_a_script_stopped(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    for n in range(1, 1106):
        await stored.save_checkpoint(Checkpoint("t", {}, metadata={"n": n}, step=n, node="first" if n == 1 else "any"))
    assert [one.version for one in await stored.history("t", limit=3, before=5)] == [4, 3, 2]
    assert len(await stored.history("t", limit=2000)) == 1105
    found = await stored.at_node("t", "first")
    assert found is not None
    assert found.version == 1
    assert await stored.at_step("t", 1106) is None
    assert [one.version for one in await stored.list_checkpoints("t", filter={"n": 2})] == [2]
    assert len(await stored.list_checkpoints("t", limit=10_000)) == 1105
    assert (await stored.prune("t", keep_last=3, batch=1000)).checkpoints == 1102
    assert await versions(stored) == [1105, 1104, 1103]


# Threads


async def register(stored: AsyncRedisCheckpointer, *threads: str) -> None:
    """Do what a call does that is cut off before it makes the threads."""
    await stored._run_many([("register", tenant_keys("default")[:2], (thread,)) for thread in threads])


async def age(redis: AsyncRedisConnection, thread: str) -> None:
    """Let a registration be two hours old."""
    await redis.client.zincrby("holdfast:{default}:checkpoint:registered", -7_200_000_000, thread)


async def test_a_name_without_a_thread_is_passed_over_and_kept_for_who_is_about_to_make_it(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await register(stored, "a", "b", "d")
    await age(redis, "b")
    await age(redis, "d")
    await stored.save_checkpoint(Checkpoint("c", {}))
    await stored.save_checkpoint(Checkpoint("d", {}))
    await age(redis, "c")
    assert [found.thread_id for found in await stored.list_threads()] == ["c", "d"]
    # "b" was registered long ago, and nobody makes it any more.
    assert await redis.client.zrange("holdfast:{default}:checkpoint:threads", 0, -1) == [b"a", b"c", b"d"]
    assert await redis.client.zcard("holdfast:{default}:checkpoint:registered") == 3


async def test_a_deleted_thread_that_comes_back_is_listed(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {}))
    await age(redis, "t")
    assert await stored.delete_thread("t") == 1
    assert await all_keys(redis) == set()
    await stored.put_writes("t", "k", "task", [("a", 1)])
    assert [(found.thread_id, found.versions) for found in await stored.list_threads()] == [("t", {"": 0})]
    # Made and deleted within the hour: the name stays a while, and nothing shows it.
    assert await stored.delete_thread("t") == 0
    assert await stored.list_threads() == []
    assert await redis.client.zrange("holdfast:{default}:checkpoint:threads", 0, -1) == [b"t"]


async def test_deleting_what_expired_forgets_names_too(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await register(stored, "gone", "lately")
    for thread in ("a", "b", "c"):
        await stored.save_checkpoint(Checkpoint(thread, {}))
    for thread in ("gone", "a", "b"):
        await age(redis, thread)
    assert await stored.delete_expired() == 0
    assert await redis.client.zrange("holdfast:{default}:checkpoint:threads", 0, -1) == [b"a", b"b", b"c", b"lately"]
    seen = await redis.client.zrange("holdfast:{default}:checkpoint:registered", 0, -1)
    assert seen == [b"lately", b"c", b"a", b"b"]  # what was looked at comes last


async def test_threads_behind_many_names_are_found(stored: AsyncRedisCheckpointer) -> None:
    await register(stored, *[f"gone {n:04}" for n in range(600)])
    await stored.save_checkpoint(Checkpoint("here", {}, metadata={"user": "ada"}))
    assert [found.thread_id for found in await stored.list_threads(limit=1)] == ["here"]
    assert [found.thread_id for found in await stored.list_threads(filter={"user": "ada"})] == ["here"]
    assert await stored.list_threads(after="here") == []


async def test_what_was_saved_to_meanwhile_is_not_deleted(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    for namespace in ("", "sub"):
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG}, namespace=namespace))
    found = await stored._find_threads(10, "", None, None)
    fields = found[0].heads.fields
    assert await stored._drop("t", *fields[:2]) is None  # a namespace that was not seen
    await fresh(manager).save_checkpoint(Checkpoint("t", {"a": 2}, namespace="sub"))
    assert await stored._drop("t", *fields) is None
    assert await stored._drop("t", *(await stored._find_threads(10, "", None, None))[0].heads.fields) == 3


# Expiry


async def test_all_keys_of_a_thread_go_at_the_same_moment(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
    await stored.set_ttl("t", timedelta(hours=1), sliding=False)
    await stored.put_writes("t", "k", "task", [("a", 1)])
    keys = thread_keys("default", "t")
    moments = {await redis.client.pttl(key) // 1000 for key in keys}
    assert max(moments) - min(moments) <= 1
    assert 3590 < min(moments) <= 3600
    await stored.set_ttl("t", timedelta(hours=2))
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}, namespace="sub"))
    left = [await redis.client.pttl(key) for key in keys]
    assert all(7190_000 < each <= 7200_001 for each in left)
    await stored.set_ttl("t", None)
    assert {await redis.client.pttl(key) for key in keys} == {-1}
    await stored.set_ttl("t", timedelta(hours=1))
    assert await stored.copy_thread("t", "copy") == 2
    assert {await redis.client.pttl(key) for key in thread_keys("default", "copy")} == {-1}


async def test_threads_that_redis_deleted_are_counted_once(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    for thread in ("a", "b", "c", "d"):
        await stored.save_checkpoint(Checkpoint(thread, {"a": LONG}))
        await age(redis, thread)
    for thread in ("a", "b", "c"):
        await stored.set_ttl(thread, 0.05)
    await stored.set_ttl("c", 1000)  # which moves it
    while await redis.client.exists(*thread_keys("default", "a"), *thread_keys("default", "b")):
        await sleep(0.01)
    assert [found.thread_id for found in await stored.list_threads()] == ["c", "d"]
    assert await stored.delete_expired(limit=1) == 1
    assert await stored.delete_expired() == 1
    assert await stored.delete_expired() == 0
    assert await redis.client.zrange("holdfast:{default}:checkpoint:expiring", 0, -1) == [b"c"]
    assert await redis.client.zrange("holdfast:{default}:checkpoint:threads", 0, -1) == [b"c", b"d"]
    await stored.save_checkpoint(Checkpoint("a", {"a": 1}))
    assert await versions(stored, "a") == [1]
    assert len(await stored.list_threads()) == 3


async def test_what_an_expired_thread_left_behind_is_not_seen_by_the_next(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}, key="k"))
    await stored.put_writes("t", "k", "task", [("a", 1)])
    await redis.client.delete(thread_keys("default", "t")[0])  # as if the heads had been deleted first
    assert await stored.latest("t") is None
    assert (await stored.save_checkpoint(Checkpoint("t", {"a": LONG * 2}, key="k"))).version == 1
    assert (await fresh(manager).load_checkpoint("t", writes=True)).writes == ()
    await check_blocks(redis)


# Damage, and connections


async def test_damage_is_named(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection, manager: AsyncDatabaseManager
) -> None:
    await stored.save_checkpoint(Checkpoint("t", {"a": LONG}, key="k"))
    await stored.put_writes("t", "k", "task", [("a", LONG)])
    data, writes = thread_keys("default", "t")[1], thread_keys("default", "t")[3]
    record, block = await redis.client.hmget(data, "c\x001", "b\x001.0")
    for broken in (b"", b"x", record[:20], record.replace(b" 2\n", b" 9999\n"), record[:-1], b"\xff" + record):
        assert broken != record
        await redis.client.hset(data, "c\x001", broken)
        with pytest.raises(CorruptError, match=r"checkpoint 1 of thread 't': its (record|manifest) is damaged"):
            await fresh(manager).load_checkpoint("t")
    for call in (
        lambda: stored.list_checkpoints("t"),
        lambda: stored.history("t"),
        lambda: stored.rewind("t", 1),
        lambda: stored.prune("t", keep_last=1),
    ):
        with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its record is damaged"):
            await call()
    await redis.client.hset(data, "c\x001", record)
    await redis.client.hset(data, "b\x001.0", block[:-1] + bytes([block[-1] ^ 1]))
    with pytest.raises(CorruptError, match=r"checkpoint 1 of thread 't': channel 'a': piece [0-9a-f]{16} is damaged"):
        await fresh(manager).load_checkpoint("t")
    ((field, value),) = (await redis.client.hgetall(writes)).items()
    for broken in (b"", b"4 1", value[:5], value[:-1]):
        await redis.client.hset(writes, field, broken)
        with pytest.raises(CorruptError, match="task 'task'"):
            await stored.pending_writes("t", "k")
    await redis.client.hdel(data, "c\x001")
    with pytest.raises(CorruptError, match="checkpoint 1 of thread 't': its record is missing"):
        await stored.list_checkpoints("t")
    assert await stored.delete_checkpoint("t", 1) is False
    assert await stored.list_checkpoints("t") == []


async def test_a_damaged_checkpoint_may_be_deleted_and_its_key_used_again(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection
) -> None:
    for n in (1, 2):
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG * n}, key=f"k{n}"))
    await redis.client.hset(thread_keys("default", "t")[1], "c\x001", b"?")
    assert await stored.delete_checkpoint("t", 1)
    assert await versions(stored) == [2]
    assert (await stored.save_checkpoint(Checkpoint("t", {"a": 1}, key="k1"))).version == 3
    assert (await stored.load_checkpoint("t", key="k1")).version == 3


async def test_a_save_after_a_server_lost_its_data_sends_everything(
    stored: AsyncRedisCheckpointer, redis: AsyncRedisConnection, manager: AsyncDatabaseManager
) -> None:
    for n in range(3):
        await stored.save_checkpoint(Checkpoint("t", {"same": LONG, "n": n}))
    await redis.client.flushdb()
    saved = await stored.save_checkpoint(Checkpoint("t", {"same": LONG, "n": 3}))
    assert saved.version == 1
    assert (await fresh(manager).load_checkpoint("t")).state == {"same": LONG, "n": 3}
    await redis.client.flushdb()
    await stored.put_writes("t", "k", "task", [("a", 1)])
    assert [found.thread_id for found in await stored.list_threads()] == ["t"]


async def test_a_server_that_forgot_the_scripts_is_told_again(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as own:  # on the one that all share, others count their requests
        redis = await manager.add_redis("own", own.config())
        stored = AsyncRedisCheckpointer(manager, "own")
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG}))
        await redis.client.script_flush()
        await stored.save_checkpoint(Checkpoint("t", {"a": LONG, "n": 2}))
        await redis.client.script_flush()
        await stored.save_checkpoint(Checkpoint("new", {"a": LONG}))
        await redis.client.script_flush()
        assert [found.thread_id for found in await stored.list_threads()] == ["new", "t"]
        assert await versions(stored) == [2, 1]
        await manager.aclose()


async def test_other_connections_and_options_are_refused(
    stored: AsyncRedisCheckpointer, manager: AsyncDatabaseManager
) -> None:
    await manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(WrongKindError, match="'file' is a sqlite connection"):
        AsyncRedisCheckpointer(manager, "file")
    for options in ({"tenant": ""}, {"tenant": "a\0b"}, {"durability": "never"}):
        with pytest.raises(ValidationError):
            AsyncRedisCheckpointer(manager, "main", **options)  # type: ignore[arg-type]
    await manager.aclose()
    for call in (
        lambda: stored.save_checkpoint(Checkpoint("t", {})),
        lambda: stored.latest("t"),
        lambda: stored.list_threads(),
        lambda: stored.put_writes("t", "k", "task", [("a", 1)]),
        lambda: stored.fork("t", 1, "new"),
    ):
        with pytest.raises(ClosedError):
            await call()

"""Dual writes: a program moves from one store to another while it writes, and nothing is lost on the way or back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncDualWrite,
    AsyncKeyedEntities,
    AsyncKeyedValues,
    AsyncKeyValueStore,
    AsyncRepository,
    Backoff,
    ClosedError,
    ConfigError,
    ConflictError,
    CorruptError,
    Divergence,
    SQLiteConfig,
    ValidationError,
)
from persistence.embedded import EmbeddedRedis
from tests._async.side import Started, sleep, together

pytestmark = pytest.mark.tables("persistence")

QUICK = 0.1
"""How long the phase is known in these tests, in seconds."""
AT_ONCE = Backoff(retries=50, base=0.001, cap=0.01)


@dataclass(frozen=True)
class Pair:
    """Two stores that hold nothing yet, and where the phase lies."""

    old: AsyncKeyedValues
    new: AsyncKeyedValues
    phases: AsyncKeyValueStore

    def dual(self, cache_for: float = QUICK) -> AsyncDualWrite:
        """Return the view of another program."""
        return AsyncDualWrite("models", self.old, self.new, self.phases, cache_for=cache_for, timeout=10)


async def add(manager: AsyncDatabaseManager, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
    if kind == "sqlite":
        await manager.add_sqlite(kind, SQLiteConfig(path=str(folder / "main.db")))
    elif kind == "postgresql":
        await manager.add_postgresql(kind, request.getfixturevalue("postgresql_config"))
    else:
        await manager.add_redis(kind, request.getfixturevalue("redis_config"))


@pytest_asyncio.fixture(params=("sqlite-postgresql", "postgresql-redis"))
async def pair(request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path) -> Pair:
    old, new = request.param.split("-")
    for kind in (old, new):
        await add(manager, kind, request, tmp_path)
    return Pair(
        AsyncKeyedValues(AsyncKeyValueStore(manager, old, namespace="models")),
        AsyncKeyedValues(AsyncKeyValueStore(manager, new, namespace="models")),
        AsyncKeyValueStore(manager, "postgresql", namespace="moves"),
    )


async def contents(store: AsyncKeyedValues) -> dict[str, Any]:
    return dict(await store.scan(None, 10_000))


async def backfill(dual: AsyncDualWrite, batch: int = 100) -> int:
    """Carry over everything and return how many keys that were."""
    done = await dual.backfill(batch=batch)
    carried = done.carried
    while done.after is not None:
        done = await dual.backfill(batch=batch, after=done.after)
        carried += done.carried
    return carried


async def eventually(move: Any) -> None:
    """Make a move that may be refused while writers are quicker than what carries over."""
    for _ in range(50):
        try:
            await move()
            return
        except ConflictError:
            await sleep(0.02)
    await move()


async def test_a_program_that_writes_all_the_time_is_moved_there_and_back_and_loses_nothing(pair: Pair) -> None:
    for number in range(30):
        await pair.old.put(f"before-{number:02}", {"n": number})
    model: dict[str, Any] = {f"before-{number:02}": {"n": number} for number in range(30)}
    programs = [pair.dual(), pair.dual()]
    ended: list[bool] = []

    async def write(program: int) -> None:
        dual, number = programs[program], 0
        while not ended:
            number += 1
            key = f"p{program}-{number % 20}" if number % 3 else f"before-{number % 15 + 15 * program:02}"
            try:
                if number % 7 == 0:
                    await dual.delete(key)
                    model.pop(key, None)
                else:
                    await dual.put(key, [program, number])
                    model[key] = [program, number]
            except ConflictError:
                continue  # it came too late, and is as if it had not been
            await sleep(0.001)

    writers = [Started(lambda: write(0)), Started(lambda: write(1))]
    mover = pair.dual()
    relays = [mover.relay("new", backoff=AT_ONCE)]
    if pair.new.home is not None:
        relays.append(mover.relay("old", backoff=AT_ONCE))
    for relay in relays:
        relay.start()
    try:
        await mover.start()
        assert await backfill(mover) > 0
        await eventually(mover.switch)
        assert await mover.phase() == "new_first"
        await sleep(QUICK)
        await eventually(mover.roll_back)
        assert await mover.phase() == "old_first"
        await sleep(QUICK)
        await eventually(mover.switch)
        await mover.finish()
        await sleep(3 * QUICK)
    finally:
        ended.append(True)
        for writer in writers:
            await writer.result()
        for relay in relays:
            await relay.stop()
    assert await mover.phase() == "new"
    assert await contents(pair.new) == model
    assert await mover.get("before-29") == model.get("before-29")
    status = await mover.status()
    assert (status.paused, status.dead, status.failed) == (False, 0, 0)


async def test_each_phase_writes_and_reads_the_stores_that_it_says(pair: Pair) -> None:
    dual = pair.dual()
    assert await dual.phase() == "old"
    await dual.put("a", 1)
    assert (await contents(pair.old), await contents(pair.new)) == ({"a": 1}, {})
    await dual.start()
    await dual.put("b", 2)
    assert await dual.get("b") == 2
    assert await contents(pair.new) == {}
    assert (await dual.relay().flush(timeout=5)).delivered == 1
    assert await contents(pair.new) == {"b": 2}
    assert await backfill(dual) == 1
    await dual.switch()
    assert await contents(pair.new) == {"a": 1, "b": 2}
    await dual.put("b", None)
    assert await dual.delete("a")
    assert not await dual.delete("a")
    assert await dual.get_many(["a", "b"]) == {"b": None}
    if pair.new.home is not None:
        await dual.relay("old").flush(timeout=5)
    assert await contents(pair.old) == {"b": None}
    await dual.finish()
    await dual.put("c", b"\0")
    assert await dual.scan() == [("b", None), ("c", b"\0")]
    assert await contents(pair.old) == {"b": None}
    assert await dual.roll_back() == "new_first"
    assert await dual.compare() == [Divergence("c", "missing")]
    with pytest.raises(ConflictError, match="'c' \\(missing\\)"):
        await dual.roll_back()
    assert await dual.phase() == "new_first"
    assert await backfill(dual) == 1
    assert await dual.roll_back() == "old_first"
    assert await dual.roll_back() == "old"
    assert await contents(pair.old) == {"b": None, "c": b"\0"}
    with pytest.raises(ConflictError, match="no phase before"):
        await dual.roll_back()


async def test_differences_are_named_refuse_the_switch_and_are_repaired(pair: Pair) -> None:
    dual = pair.dual()
    for key, value in (("a", 1), ("b", 2), ("c", 1)):
        await pair.old.put(key, value)
    for key, value in (("b", 3), ("c", 1.0), ("d", 4)):
        await pair.new.put(key, value)
    await dual.start()
    found = await dual.compare()
    assert found == [
        Divergence("a", "missing"),
        Divergence("b", "different"),
        Divergence("c", "different"),  # 1 is not 1.0
        Divergence("d", "extra"),
    ]
    assert await dual.compare(limit=2) == found[:2]
    with pytest.raises(ConflictError, match="4 keys differ, such as 'a' \\(missing\\)"):
        await dual.switch()
    assert (await dual.phase(), (await dual.status()).paused) == ("old_first", False)
    await dual.put("b", 2)  # writers are not held up any more
    assert await dual.repair(found) == 4
    await dual.switch()
    assert await contents(pair.new) == {"a": 1, "b": 2, "c": 1}
    assert type((await contents(pair.new))["c"]) is int


async def test_a_backfill_resumes_where_it_was_and_overwrites_nothing_newer(pair: Pair) -> None:
    dual = pair.dual()
    for number in range(10):
        await pair.old.put(f"k{number}", number)
    await pair.new.put("k3", 3)
    await dual.start()
    first = await dual.backfill(batch=4)
    assert (first.seen, first.carried, first.after) == (4, 3, "k3")
    await dual.put("k1", "newer")  # after its key was told
    again = await pair.dual().backfill(batch=4, after=first.after)
    assert (again.seen, again.carried, again.after) == (4, 4, "k7")
    last = await dual.backfill(batch=4, after=again.after)
    assert (last.seen, last.carried, last.after) == (2, 2, None)
    await dual.relay().flush(timeout=5)
    assert await contents(pair.new) == {**{f"k{n}": n for n in range(10)}, "k1": "newer"}
    assert await dual.compare() == []


async def test_of_two_who_move_at_once_one_does(pair: Pair) -> None:
    one, other = pair.dual(), pair.dual()
    told = await together(one.start, other.start)
    assert sum(isinstance(result, ConflictError) for result in told) == 1
    told = await together(one.switch, other.switch)
    assert sum(isinstance(result, ConflictError) for result in told) == 1
    assert (await one.phase(), await other.phase()) == ("new_first", "new_first")
    with pytest.raises(ConflictError, match="is new_first, not old"):
        await one.start()


async def test_a_program_that_has_not_seen_the_switch_yet_loses_nothing_and_one_that_has_waits(pair: Pair) -> None:
    mover, unaware, aware = pair.dual(0.4), pair.dual(0.4), pair.dual(0.4)
    await mover.start()
    await mover.compare()
    await unaware.get("k")  # it knows the phase for a while from now on
    switching = Started(mover.switch)
    for _ in range(1000):
        if (await aware.status()).paused:
            break
        await sleep(0.005)
    await unaware.put("unaware", 1)
    assert "unaware" in await contents(pair.old)
    assert "unaware" not in await contents(pair.new)
    await aware.put("aware", 2)
    assert await aware.phase() == "new_first"
    await switching.result()
    assert await contents(pair.new) == {"unaware": 1, "aware": 2}


async def test_a_write_that_comes_too_late_is_rolled_back_and_made_again(pair: Pair) -> None:
    class Slow(AsyncKeyedValues):
        late = 1
        takes = 0.6

        async def put(self, key: str, value: Any) -> None:
            await super().put(key, value)
            if self.late:
                self.late -= 1
                await sleep(self.takes)

    slow = Slow(pair.old._store)
    dual = AsyncDualWrite("models", slow, pair.new, pair.phases, cache_for=0.25, timeout=10)
    await dual.start()
    await dual.put("a", 1)
    assert await contents(pair.old) == {"a": 1}
    assert (slow.late, (await dual.status()).pending) == (0, 1)
    always = Slow(pair.old._store)
    always.late, always.takes = 3, 0.1
    late = AsyncDualWrite("models", always, pair.new, pair.phases, cache_for=0.02, timeout=10)
    with pytest.raises(ConflictError, match=f"^{pair.old.home[1]}: .*rolled back"):
        await late.put("b", 1)
    assert await contents(pair.old) == {"a": 1}
    assert (always.late, (await dual.status()).pending) == (0, 1)


async def test_what_is_written_while_the_second_store_is_away_waits_for_it(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    await add(manager, "sqlite", request, tmp_path)
    server = EmbeddedRedis(tmp_path / "redis").start()
    await manager.add_redis("redis", server.config())
    old, new = (AsyncKeyedValues(AsyncKeyValueStore(manager, name)) for name in ("sqlite", "redis"))
    phases = AsyncKeyValueStore(manager, "sqlite", namespace="moves")
    dual = AsyncDualWrite("m", old, new, phases, cache_for=QUICK, timeout=1)
    await dual.start()
    await new.put("x", 1)
    server.stop()
    for number in range(5):
        await dual.put(f"k{number}", number)
    assert (await dual.status()).pending == 5
    relay = dual.relay(backoff=Backoff(retries=10_000, base=0.001, cap=0.01))
    await relay.run_once()
    assert (await dual.status()).pending == 5
    server = EmbeddedRedis(tmp_path / "redis").start()
    try:
        assert (await relay.flush(timeout=10)).left == 0
        assert await new.get_many([f"k{n}" for n in range(5)]) == {f"k{n}": n for n in range(5)}
    finally:
        server.stop()


async def test_a_direct_second_write_that_fails_is_recorded_and_tried_again(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    for kind in ("redis", "sqlite"):
        await add(manager, kind, request, tmp_path)
    await manager.add_sqlite("moves", SQLiteConfig(path=str(tmp_path / "moves.db")))
    old, new = (AsyncKeyedValues(AsyncKeyValueStore(manager, name)) for name in ("redis", "sqlite"))
    dual = AsyncDualWrite("m", old, new, AsyncKeyValueStore(manager, "moves"), cache_for=QUICK, timeout=2)
    await dual.start()
    await dual.put("a", 1)
    assert await contents(new) == {"a": 1}
    with pytest.raises(ValidationError, match="directly"):
        dual.relay("new")
    await manager.remove("sqlite")
    await dual.put("b", 2)
    await dual.delete("a")
    assert (await dual.status()).failed == 2
    with pytest.raises(Exception, match="sqlite"):
        await dual.retry_failed()
    await add(manager, "sqlite", request, tmp_path)
    assert await dual.retry_failed() == 2
    assert await contents(new) == {"b": 2}
    assert (await dual.status()).failed == 0
    # Of many who write one key directly the last is carried over last.
    await together(*[lambda n=n: dual.put("b", n) for n in range(8)])
    assert await new.get_many(["b"]) == await old.get_many(["b"])


@dataclass(frozen=True)
class Model:
    """A model of a registry."""

    id: str
    settings: dict[str, Any]


async def test_entities_of_a_table_are_moved_into_keys_and_values(
    request: pytest.FixtureRequest, manager: AsyncDatabaseManager, tmp_path: Path
) -> None:
    await add(manager, "sqlite", request, tmp_path)
    database = manager.get_database("sqlite")
    await database.execute("CREATE TABLE models (id TEXT PRIMARY KEY, settings TEXT NOT NULL, version INTEGER)")
    models = AsyncRepository(manager, "sqlite", "models", Model)
    old = AsyncKeyedEntities(models)
    new = AsyncKeyedValues(AsyncKeyValueStore(manager, "sqlite"), prefix="models/")
    phases = AsyncKeyValueStore(manager, "sqlite", namespace="moves")
    dual = AsyncDualWrite("m", old, new, phases, cache_for=QUICK, timeout=5)
    for number in range(3):
        await models.save(Model(f"m{number}", {"n": number}))
    await dual.start()
    await dual.put("m9", {"id": "m9", "settings": {"n": 9}})
    with pytest.raises(ValidationError, match="another key"):
        await dual.put("m9", {"id": "m8", "settings": {}})
    assert await models.get("m9") == Model("m9", {"n": 9})
    assert await backfill(dual, batch=2) == 4
    await dual.switch()
    assert await dual.get("m2") == {"id": "m2", "settings": {"n": 2}}
    assert await dual.delete("m1")
    await dual.relay("old").flush(timeout=5)
    assert [model.id for model in await models.find()] == ["m0", "m2", "m9"]
    versioned = AsyncRepository(manager, "sqlite", "models", Model, version="id")
    with pytest.raises(ConfigError, match="version"):
        AsyncKeyedEntities(versioned)


async def test_what_cannot_be_is_refused(request: pytest.FixtureRequest, manager: AsyncDatabaseManager) -> None:
    await manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    store = AsyncKeyValueStore(manager, "main")
    keyed, other = AsyncKeyedValues(store, prefix="a/"), AsyncKeyedValues(store, prefix="b/")
    wrong: Any
    for wrong in ({"cache_for": 0}, {"timeout": 1.0}, {"timeout": float("inf")}, {"tenant": ""}):
        with pytest.raises(ValidationError):
            AsyncDualWrite("m", keyed, other, store, **wrong)
    for wrong in ("", "a:b", "x" * 101, None):
        with pytest.raises(ValidationError):
            AsyncDualWrite(wrong, keyed, other, store)
    dual = AsyncDualWrite("m", keyed, other, store, cache_for=QUICK, timeout=1)
    for call in (dual.compare, dual.backfill, dual.retry_failed, lambda: dual.repair([])):
        with pytest.raises(ConflictError, match="one store is written"):
            await call()
    await dual.start()
    for wrong in ("", "a\0b", "x" * 10_000, 7, None):
        for change in (lambda key=wrong: dual.put(key, 1), lambda key=wrong: dual.delete(key)):
            with pytest.raises(ValidationError):
                await change()
    for wrong in (float("nan"), (1,), object()):
        with pytest.raises(ValidationError):
            await dual.put("a", wrong)
    for wrong in (0, 10_001, "1", True):
        for refused in (lambda n=wrong: dual.compare(limit=n), lambda n=wrong: dual.backfill(batch=n)):
            with pytest.raises(ValidationError):
                await refused()
    wrong = "elsewhere"
    with pytest.raises(ValidationError, match="elsewhere"):
        dual.relay(wrong)
    hostile = "'; DROP TABLE holdfast_key_values; --"
    await dual.put(hostile, hostile)
    await dual.relay().flush(timeout=5)
    assert await contents(other) == {hostile: hostile}
    assert (await dual.status()).pending == 0
    await store.put("m:phase", {"phase": "sideways"})
    with pytest.raises(CorruptError):
        await dual.phase()
    await manager.aclose()
    with pytest.raises(ClosedError):
        await dual.phase()

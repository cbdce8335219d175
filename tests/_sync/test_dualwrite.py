# Generated from ../_async/test_dualwrite.py by tests/unasync.py: edit that one.
"""Dual writes: a program moves from one store to another while it writes, and nothing is lost on the way or back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import (
    DatabaseManager,
    DualWrite,
    KeyedEntities,
    KeyedValues,
    KeyValueStore,
    Repository,
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
from tests._sync.side import Started, sleep, together

pytestmark = pytest.mark.tables("persistence")

QUICK = 0.1
"""How long the phase is known in these tests, in seconds."""
AT_ONCE = Backoff(retries=50, base=0.001, cap=0.01)


@dataclass(frozen=True)
class Pair:
    """Two stores that hold nothing yet, and where the phase lies."""

    old: KeyedValues
    new: KeyedValues
    phases: KeyValueStore

    def dual(self, cache_for: float = QUICK) -> DualWrite:
        """Return the view of another program."""
        return DualWrite("models", self.old, self.new, self.phases, cache_for=cache_for, timeout=10)


def add(manager: DatabaseManager, kind: str, request: pytest.FixtureRequest, folder: Path) -> None:
    if kind == "sqlite":
        manager.add_sqlite(kind, SQLiteConfig(path=str(folder / "main.db")))
    elif kind == "postgresql":
        manager.add_postgresql(kind, request.getfixturevalue("postgresql_config"))
    else:
        manager.add_redis(kind, request.getfixturevalue("redis_config"))


@pytest.fixture(params=("sqlite-postgresql", "postgresql-redis"))
def pair(request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path) -> Pair:
    old, new = request.param.split("-")
    for kind in (old, new):
        add(manager, kind, request, tmp_path)
    return Pair(
        KeyedValues(KeyValueStore(manager, old, namespace="models")),
        KeyedValues(KeyValueStore(manager, new, namespace="models")),
        KeyValueStore(manager, "postgresql", namespace="moves"),
    )


def contents(store: KeyedValues) -> dict[str, Any]:
    return dict(store.scan(None, 10_000))


def backfill(dual: DualWrite, batch: int = 100) -> int:
    """Carry over everything and return how many keys that were."""
    done = dual.backfill(batch=batch)
    carried = done.carried
    while done.after is not None:
        done = dual.backfill(batch=batch, after=done.after)
        carried += done.carried
    return carried


def eventually(move: Any) -> None:
    """Make a move that may be refused while writers are quicker than what carries over."""
    for _ in range(50):
        try:
            move()
            return
        except ConflictError:
            sleep(0.02)
    move()


def test_a_program_that_writes_all_the_time_is_moved_there_and_back_and_loses_nothing(pair: Pair) -> None:
    for number in range(30):
        pair.old.put(f"before-{number:02}", {"n": number})
    model: dict[str, Any] = {f"before-{number:02}": {"n": number} for number in range(30)}
    programs = [pair.dual(), pair.dual()]
    ended: list[bool] = []

    def write(program: int) -> None:
        dual, number = programs[program], 0
        while not ended:
            number += 1
            key = f"p{program}-{number % 20}" if number % 3 else f"before-{number % 15 + 15 * program:02}"
            try:
                if number % 7 == 0:
                    dual.delete(key)
                    model.pop(key, None)
                else:
                    dual.put(key, [program, number])
                    model[key] = [program, number]
            except ConflictError:
                continue  # it came too late, and is as if it had not been
            sleep(0.001)

    writers = [Started(lambda: write(0)), Started(lambda: write(1))]
    mover = pair.dual()
    relays = [mover.relay("new", backoff=AT_ONCE)]
    if pair.new.home is not None:
        relays.append(mover.relay("old", backoff=AT_ONCE))
    for relay in relays:
        relay.start()
    try:
        mover.start()
        assert backfill(mover) > 0
        eventually(mover.switch)
        assert mover.phase() == "new_first"
        sleep(QUICK)
        eventually(mover.roll_back)
        assert mover.phase() == "old_first"
        sleep(QUICK)
        eventually(mover.switch)
        mover.finish()
        sleep(3 * QUICK)
    finally:
        ended.append(True)
        for writer in writers:
            writer.result()
        for relay in relays:
            relay.stop()
    assert mover.phase() == "new"
    assert contents(pair.new) == model
    assert mover.get("before-29") == model.get("before-29")
    status = mover.status()
    assert (status.paused, status.dead, status.failed) == (False, 0, 0)


def test_each_phase_writes_and_reads_the_stores_that_it_says(pair: Pair) -> None:
    dual = pair.dual()
    assert dual.phase() == "old"
    dual.put("a", 1)
    assert (contents(pair.old), contents(pair.new)) == ({"a": 1}, {})
    dual.start()
    dual.put("b", 2)
    assert dual.get("b") == 2
    assert contents(pair.new) == {}
    assert (dual.relay().flush(timeout=5)).delivered == 1
    assert contents(pair.new) == {"b": 2}
    assert backfill(dual) == 1
    dual.switch()
    assert contents(pair.new) == {"a": 1, "b": 2}
    dual.put("b", None)
    assert dual.delete("a")
    assert not dual.delete("a")
    assert dual.get_many(["a", "b"]) == {"b": None}
    if pair.new.home is not None:
        dual.relay("old").flush(timeout=5)
    assert contents(pair.old) == {"b": None}
    dual.finish()
    dual.put("c", b"\0")
    assert dual.scan() == [("b", None), ("c", b"\0")]
    assert contents(pair.old) == {"b": None}
    assert dual.roll_back() == "new_first"
    assert dual.compare() == [Divergence("c", "missing")]
    with pytest.raises(ConflictError, match="'c' \\(missing\\)"):
        dual.roll_back()
    assert dual.phase() == "new_first"
    assert backfill(dual) == 1
    assert dual.roll_back() == "old_first"
    assert dual.roll_back() == "old"
    assert contents(pair.old) == {"b": None, "c": b"\0"}
    with pytest.raises(ConflictError, match="no phase before"):
        dual.roll_back()


def test_differences_are_named_refuse_the_switch_and_are_repaired(pair: Pair) -> None:
    dual = pair.dual()
    for key, value in (("a", 1), ("b", 2), ("c", 1)):
        pair.old.put(key, value)
    for key, value in (("b", 3), ("c", 1.0), ("d", 4)):
        pair.new.put(key, value)
    dual.start()
    found = dual.compare()
    assert found == [
        Divergence("a", "missing"),
        Divergence("b", "different"),
        Divergence("c", "different"),  # 1 is not 1.0
        Divergence("d", "extra"),
    ]
    assert dual.compare(limit=2) == found[:2]
    with pytest.raises(ConflictError, match="4 keys differ, such as 'a' \\(missing\\)"):
        dual.switch()
    assert (dual.phase(), (dual.status()).paused) == ("old_first", False)
    dual.put("b", 2)  # writers are not held up any more
    assert dual.repair(found) == 4
    dual.switch()
    assert contents(pair.new) == {"a": 1, "b": 2, "c": 1}
    assert type((contents(pair.new))["c"]) is int


def test_a_backfill_resumes_where_it_was_and_overwrites_nothing_newer(pair: Pair) -> None:
    dual = pair.dual()
    for number in range(10):
        pair.old.put(f"k{number}", number)
    pair.new.put("k3", 3)
    dual.start()
    first = dual.backfill(batch=4)
    assert (first.seen, first.carried, first.after) == (4, 3, "k3")
    dual.put("k1", "newer")  # after its key was told
    again = pair.dual().backfill(batch=4, after=first.after)
    assert (again.seen, again.carried, again.after) == (4, 4, "k7")
    last = dual.backfill(batch=4, after=again.after)
    assert (last.seen, last.carried, last.after) == (2, 2, None)
    dual.relay().flush(timeout=5)
    assert contents(pair.new) == {**{f"k{n}": n for n in range(10)}, "k1": "newer"}
    assert dual.compare() == []


def test_of_two_who_move_at_once_one_does(pair: Pair) -> None:
    one, other = pair.dual(), pair.dual()
    told = together(one.start, other.start)
    assert sum(isinstance(result, ConflictError) for result in told) == 1
    told = together(one.switch, other.switch)
    assert sum(isinstance(result, ConflictError) for result in told) == 1
    assert (one.phase(), other.phase()) == ("new_first", "new_first")
    with pytest.raises(ConflictError, match="is new_first, not old"):
        one.start()


def test_a_program_that_has_not_seen_the_switch_yet_loses_nothing_and_one_that_has_waits(pair: Pair) -> None:
    mover, unaware, aware = pair.dual(0.4), pair.dual(0.4), pair.dual(0.4)
    mover.start()
    mover.compare()
    unaware.get("k")  # it knows the phase for a while from now on
    switching = Started(mover.switch)
    for _ in range(1000):
        if (aware.status()).paused:
            break
        sleep(0.005)
    unaware.put("unaware", 1)
    assert "unaware" in contents(pair.old)
    assert "unaware" not in contents(pair.new)
    aware.put("aware", 2)
    assert aware.phase() == "new_first"
    switching.result()
    assert contents(pair.new) == {"unaware": 1, "aware": 2}


def test_a_write_that_comes_too_late_is_rolled_back_and_made_again(pair: Pair) -> None:
    class Slow(KeyedValues):
        late = 1
        takes = 0.6

        def put(self, key: str, value: Any) -> None:
            super().put(key, value)
            if self.late:
                self.late -= 1
                sleep(self.takes)

    slow = Slow(pair.old._store)
    dual = DualWrite("models", slow, pair.new, pair.phases, cache_for=0.25, timeout=10)
    dual.start()
    dual.put("a", 1)
    assert contents(pair.old) == {"a": 1}
    assert (slow.late, (dual.status()).pending) == (0, 1)
    always = Slow(pair.old._store)
    always.late, always.takes = 3, 0.1
    late = DualWrite("models", always, pair.new, pair.phases, cache_for=0.02, timeout=10)
    with pytest.raises(ConflictError, match=f"^{pair.old.home[1]}: .*rolled back"):
        late.put("b", 1)
    assert contents(pair.old) == {"a": 1}
    assert (always.late, (dual.status()).pending) == (0, 1)


def test_what_is_written_while_the_second_store_is_away_waits_for_it(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> None:
    add(manager, "sqlite", request, tmp_path)
    server = EmbeddedRedis(tmp_path / "redis").start()
    manager.add_redis("redis", server.config())
    old, new = (KeyedValues(KeyValueStore(manager, name)) for name in ("sqlite", "redis"))
    phases = KeyValueStore(manager, "sqlite", namespace="moves")
    dual = DualWrite("m", old, new, phases, cache_for=QUICK, timeout=1)
    dual.start()
    new.put("x", 1)
    server.stop()
    for number in range(5):
        dual.put(f"k{number}", number)
    assert (dual.status()).pending == 5
    relay = dual.relay(backoff=Backoff(retries=10_000, base=0.001, cap=0.01))
    relay.run_once()
    assert (dual.status()).pending == 5
    server = EmbeddedRedis(tmp_path / "redis").start()
    try:
        assert (relay.flush(timeout=10)).left == 0
        assert new.get_many([f"k{n}" for n in range(5)]) == {f"k{n}": n for n in range(5)}
    finally:
        server.stop()


def test_a_direct_second_write_that_fails_is_recorded_and_tried_again(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> None:
    for kind in ("redis", "sqlite"):
        add(manager, kind, request, tmp_path)
    manager.add_sqlite("moves", SQLiteConfig(path=str(tmp_path / "moves.db")))
    old, new = (KeyedValues(KeyValueStore(manager, name)) for name in ("redis", "sqlite"))
    dual = DualWrite("m", old, new, KeyValueStore(manager, "moves"), cache_for=QUICK, timeout=2)
    dual.start()
    dual.put("a", 1)
    assert contents(new) == {"a": 1}
    with pytest.raises(ValidationError, match="directly"):
        dual.relay("new")
    manager.remove("sqlite")
    dual.put("b", 2)
    dual.delete("a")
    assert (dual.status()).failed == 2
    with pytest.raises(Exception, match="sqlite"):
        dual.retry_failed()
    add(manager, "sqlite", request, tmp_path)
    assert dual.retry_failed() == 2
    assert contents(new) == {"b": 2}
    assert (dual.status()).failed == 0
    # Of many who write one key directly the last is carried over last.
    together(*[lambda n=n: dual.put("b", n) for n in range(8)])
    assert new.get_many(["b"]) == old.get_many(["b"])


@dataclass(frozen=True)
class Model:
    """A model of a registry."""

    id: str
    settings: dict[str, Any]


def test_entities_of_a_table_are_moved_into_keys_and_values(
    request: pytest.FixtureRequest, manager: DatabaseManager, tmp_path: Path
) -> None:
    add(manager, "sqlite", request, tmp_path)
    database = manager.get_database("sqlite")
    database.execute("CREATE TABLE models (id TEXT PRIMARY KEY, settings TEXT NOT NULL, version INTEGER)")
    models = Repository(manager, "sqlite", "models", Model)
    old = KeyedEntities(models)
    new = KeyedValues(KeyValueStore(manager, "sqlite"), prefix="models/")
    phases = KeyValueStore(manager, "sqlite", namespace="moves")
    dual = DualWrite("m", old, new, phases, cache_for=QUICK, timeout=5)
    for number in range(3):
        models.save(Model(f"m{number}", {"n": number}))
    dual.start()
    dual.put("m9", {"id": "m9", "settings": {"n": 9}})
    with pytest.raises(ValidationError, match="another key"):
        dual.put("m9", {"id": "m8", "settings": {}})
    assert models.get("m9") == Model("m9", {"n": 9})
    assert backfill(dual, batch=2) == 4
    dual.switch()
    assert dual.get("m2") == {"id": "m2", "settings": {"n": 2}}
    assert dual.delete("m1")
    dual.relay("old").flush(timeout=5)
    assert [model.id for model in models.find()] == ["m0", "m2", "m9"]
    versioned = Repository(manager, "sqlite", "models", Model, version="id")
    with pytest.raises(ConfigError, match="version"):
        KeyedEntities(versioned)


def test_what_cannot_be_is_refused(request: pytest.FixtureRequest, manager: DatabaseManager) -> None:
    manager.add_sqlite("main", SQLiteConfig(path=":memory:"))
    store = KeyValueStore(manager, "main")
    keyed, other = KeyedValues(store, prefix="a/"), KeyedValues(store, prefix="b/")
    wrong: Any
    for wrong in ({"cache_for": 0}, {"timeout": 1.0}, {"timeout": float("inf")}, {"tenant": ""}):
        with pytest.raises(ValidationError):
            DualWrite("m", keyed, other, store, **wrong)
    for wrong in ("", "a:b", "x" * 101, None):
        with pytest.raises(ValidationError):
            DualWrite(wrong, keyed, other, store)
    dual = DualWrite("m", keyed, other, store, cache_for=QUICK, timeout=1)
    for call in (dual.compare, dual.backfill, dual.retry_failed, lambda: dual.repair([])):
        with pytest.raises(ConflictError, match="one store is written"):
            call()
    dual.start()
    for wrong in ("", "a\0b", "x" * 10_000, 7, None):
        for change in (lambda key=wrong: dual.put(key, 1), lambda key=wrong: dual.delete(key)):
            with pytest.raises(ValidationError):
                change()
    for wrong in (float("nan"), (1,), object()):
        with pytest.raises(ValidationError):
            dual.put("a", wrong)
    for wrong in (0, 10_001, "1", True):
        for refused in (lambda n=wrong: dual.compare(limit=n), lambda n=wrong: dual.backfill(batch=n)):
            with pytest.raises(ValidationError):
                refused()
    wrong = "elsewhere"
    with pytest.raises(ValidationError, match="elsewhere"):
        dual.relay(wrong)
    hostile = "'; DROP TABLE holdfast_key_values; --"
    dual.put(hostile, hostile)
    dual.relay().flush(timeout=5)
    assert contents(other) == {hostile: hostile}
    assert (dual.status()).pending == 0
    store.put("m:phase", {"phase": "sideways"})
    with pytest.raises(CorruptError):
        dual.phase()
    manager.close()
    with pytest.raises(ClosedError):
        dual.phase()

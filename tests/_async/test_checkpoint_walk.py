"""Random walks of saves, loads, deletes, prunes, forks, rewinds and copies, against a model that is a plain dict."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pytest

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import AsyncDatabase, AsyncDatabaseManager, DuplicateError, ValidationError
from tests._async.checkpoints import LONG, another, blocks, check_blocks, fresh

pytestmark = pytest.mark.tables("checkpoint")

CHANNELS = ("a", "b", "items", "text", "large", "other", "small", "\ud800" * 20)
FAR = 2**23


class UndoError(Exception):
    """Ends a transaction that is to be rolled back."""


@dataclass
class Thread:
    """What a thread should hold."""

    counter: int = 0
    states: dict[int, dict[str, Any]] = field(default_factory=dict)

    def copy(self) -> Thread:
        return Thread(self.counter, dict(self.states))


class Walk:
    """One walk: what is done is drawn from ``chance``, the result is compared with ``threads``."""

    def __init__(
        self, seed: int, processes: list[AsyncDatabaseCheckpointer], reader: Any, database: AsyncDatabase
    ) -> None:
        self.chance = random.Random(seed)
        self.processes = processes
        self.reader = reader
        self.database = database
        self.threads: dict[str, Thread] = {}
        self.made = 0
        self.given: dict[str, Any] | None = None
        self.done: list[str] = []

    async def step(self) -> None:
        calls: list[tuple[int, Callable[[str], Any]]] = [
            (30, self.save),
            (5, self.save_version),
            (8, self.load),
            (8, self.delete),
            (5, self.prune),
            (4, self.fork),
            (5, self.rewind),
            (2, self.copy_thread),
            (1, self.delete_thread),
            (3, self.undo),
        ]
        call = self.chance.choices([call for _, call in calls], [weight for weight, _ in calls])[0]
        thread = self.chance.choice([*self.threads, "t", "t"])
        self.done.append(f"{call.__name__} {thread}")
        await call(thread)
        await self.check(thread)
        await check_blocks(self.database)

    async def check(self, name: str) -> None:
        """Compare all states of a thread, as who knows nothing of it lists them, and one as it is loaded alone."""
        thread = self.threads.get(name)
        expected = {} if thread is None else thread.states
        reader = self.reader()
        before: int | None = None
        found: dict[int, Any] = {}
        limit = self.chance.choice((1, 3, 1000))
        while page := await reader.list_checkpoints(name, states=True, limit=limit, before=before):
            found.update({one.version: one.state for one in page})
            before = page[-1].version
        assert repr(found) == repr(dict(sorted(expected.items(), reverse=True)))
        if expected:
            version = self.chance.choice([*expected])
            loaded = await self.reader().load_checkpoint(name, version)
            assert repr(loaded.state) == repr(expected[version])

    def process(self) -> AsyncDatabaseCheckpointer:
        return self.chance.choice(self.processes)

    def value(self, before: Any) -> Any:
        chance = self.chance
        kind = chance.randrange(8)
        if kind == 0 and isinstance(before, list):
            return [*before, *[chance.randbytes(chance.randrange(90)).hex() for _ in range(chance.choice((1, 1, 5)))]]
        if kind == 1 and isinstance(before, str):
            return before + "and more " * chance.randrange(30)
        makers: list[Callable[[], Any]] = [
            lambda: chance.randrange(3),
            lambda: LONG * chance.randrange(5),
            lambda: chance.choice("ab") * 700,
            lambda: chance.randbytes(chance.choice((300, 700, 3000))).hex(),
            lambda: [LONG] * chance.randrange(9),
            lambda: {"k": LONG, "n": chance.randrange(2)},
            # Equal, or of the same bytes, and yet others.
            lambda: chance.choice((True, 1, 1.0, 0.0, -0.0, None, b"b" * 70, bytearray(b"b" * 70))),
            lambda: [LONG * 2, chance.choice((True, 1, 1.0, b"x", bytearray(b"x"), (1,), [1]))],
            lambda: chance.choice(([LONG, LONG * 2], {LONG: LONG * 2}, (LONG, LONG * 2))),
        ]
        return chance.choice(makers)()

    def state(self, thread: Thread) -> dict[str, Any]:
        """Return the latest or any other state of the thread with some channels changed, added, gone or moved."""
        chance = self.chance
        state: dict[str, Any] = {}
        if self.given is not None and chance.random() < 0.3:
            state = self.given  # the objects that were saved last, changed in place
            for value in state.values():
                if type(value) is list and chance.random() < 0.4:
                    value[chance.randrange(len(value)) if value else 0 :] = [chance.choice((1, True, LONG * 2, [LONG]))]
        elif thread.states:
            state = deepcopy(thread.states[chance.choice([max(thread.states), max(thread.states), *thread.states])])
        for channel in chance.sample(CHANNELS, chance.choice((0, 1, 1, 2, 8))):
            if chance.random() < 0.15:
                state.pop(channel, None)
            elif chance.random() < 0.1:
                state[channel] = state.pop(channel, None)
            else:
                state[channel] = self.value(state.get(channel))
        self.given = state
        return state

    async def save(self, name: str) -> None:
        thread = self.threads.setdefault(name, Thread())
        state = self.state(thread)
        expected = max(thread.states, default=0) if self.chance.random() < 0.2 else None
        saved = await self.process().save_checkpoint(Checkpoint(name, state), expected_version=expected)
        thread.counter += 1
        assert saved.version == thread.counter
        thread.states[thread.counter] = deepcopy(state)

    async def save_version(self, name: str) -> None:
        thread = self.threads.setdefault(name, Thread())
        chance = self.chance
        most = max(thread.counter, 1)
        version = chance.choice(
            (
                chance.randint(1, most),
                chance.choice([*thread.states, 1]),
                thread.counter + chance.randint(1, 5),
                thread.counter + FAR + chance.randint(-2, 2) if chance.random() < 0.1 else chance.randint(1, most),
            )
        )
        state = self.state(thread)
        held = any(key[1] == name and key[3] == version for key in await blocks(self.database))
        try:
            await self.process().save_checkpoint(Checkpoint(name, state, version=version))
        except DuplicateError as exc:
            assert version in thread.states or held
            said = "others still need a part" if version not in thread.states else "already exists"
            assert said in str(exc), said  # noqa: PT017 - whether it is refused depends on the walk
            if not thread.states and not thread.counter:
                del self.threads[name]
            return
        assert version not in thread.states
        assert not held
        thread.states[version] = deepcopy(state)
        thread.counter = max(thread.counter, version)

    async def load(self, name: str) -> None:
        found = await self.process().latest(name)
        states = self.threads[name].states if name in self.threads else {}
        expected = max(states.items(), default=None, key=lambda item: item[0])
        assert repr(None if found is None else (found.version, found.state)) == repr(expected)

    async def delete(self, name: str) -> None:
        thread = self.threads.get(name, Thread())
        version = self.chance.choice([*thread.states, 1])
        assert await self.process().delete_checkpoint(name, version) is (version in thread.states)
        thread.states.pop(version, None)

    async def prune(self, name: str) -> None:
        thread = self.threads.get(name, Thread())
        keep, batch = self.chance.randint(1, 8), self.chance.randint(1, 4)
        gone = sorted(thread.states)[:-keep]
        dry = await self.process().prune(name, keep_last=keep, batch=batch, dry_run=True)
        report = await self.process().prune(name, keep_last=keep, batch=batch)
        assert report == dry
        assert report.checkpoints == len(gone)
        assert (report.bytes > 0) == bool(gone)
        for version in gone:
            del thread.states[version]

    async def fork(self, name: str) -> None:
        thread = self.threads.get(name)
        if thread is None or not thread.states:
            return
        version = self.chance.choice([*thread.states])
        self.made += 1
        forked = await self.process().fork(name, version, f"fork {self.made}")
        assert forked.state == thread.states[version]
        self.threads[f"fork {self.made}"] = Thread(1, {1: thread.states[version]})
        await self.check(f"fork {self.made}")

    async def rewind(self, name: str) -> None:
        thread = self.threads.get(name)
        if thread is None or not thread.states:
            return
        version = self.chance.choice([*thread.states])
        try:
            found = await self.process().rewind(name, version)
        except ValidationError:
            assert thread.counter >= FAR
            return
        thread.counter += 1
        assert (found.version, found.state) == (thread.counter, thread.states[version])
        thread.states[thread.counter] = thread.states[version]

    async def copy_thread(self, name: str) -> None:
        thread = self.threads.get(name)
        if thread is None:
            return
        self.made += 1
        assert await self.process().copy_thread(name, f"copy {self.made}") == len(thread.states)
        self.threads[f"copy {self.made}"] = thread.copy()
        await self.check(f"copy {self.made}")

    async def delete_thread(self, name: str) -> None:
        thread = self.threads.pop(name, Thread())
        assert await self.process().delete_thread(name) == len(thread.states)

    async def undo(self, name: str) -> None:
        """Do some of the above in a transaction that is rolled back."""
        kept = {thread: found.copy() for thread, found in self.threads.items()}
        with pytest.raises(UndoError):
            async with self.database.transaction():
                for _ in range(3):
                    call = self.chance.choice([self.save, self.save, self.delete, self.prune, self.rewind, self.load])
                    self.done.append(f"  {call.__name__} {name}")
                    # What is on another connection would wait for this transaction, which waits for it.
                    processes, self.processes = self.processes, self.processes[:2]
                    try:
                        await call(name)
                    finally:
                        self.processes = processes
                raise UndoError
        self.threads = kept


@pytest.mark.parametrize("seed", [1, 2, None])
async def test_every_state_is_as_it_was_saved_after_any_walk_and_no_block_is_left_over(
    manager: AsyncDatabaseManager, database: AsyncDatabase, seed: int | None
) -> None:
    seed = secrets.randbits(32) if seed is None else seed
    processes = [fresh(manager), fresh(manager), await another(manager, database)]
    walk = Walk(seed, processes, lambda: fresh(manager), database)
    try:
        for process in processes:
            await process.latest("t")
        for _ in range(70):
            await walk.step()
        for name in list(walk.threads):
            await walk.check(name)
    except BaseException as exc:
        exc.add_note(f"seed {seed}: {', '.join(walk.done)}")
        raise

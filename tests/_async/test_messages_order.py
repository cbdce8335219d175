"""The order of messages under writers, readers, lost answers and lost connections."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    PostgreSQLConfig,
    UnavailableError,
)
from sessions import AsyncMessageStore, AsyncThreadManager, Message, Thread
from tests._async.side import together
from tests.proxy import FaultyProxy

pytestmark = pytest.mark.tables("sessions")

WRITERS, EACH = 16, 6


def said(content: Any) -> Message:
    return Message(role="user", content=content)


async def test_sixteen_writers_of_one_thread_leave_no_gap_and_every_reader_sees_a_prefix(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    await AsyncThreadManager(manager, "main").create_thread(Thread(id="t1", user_id="ada"))
    messages = AsyncMessageStore(manager, "main")
    writing = set(range(WRITERS))

    async def write(writer: int) -> None:
        for turn in range(EACH):
            if turn % 3 == 0:
                await messages.append_many("t1", [said([writer, turn, part]) for part in range(3)])
            else:
                await messages.append("t1", said([writer, turn, 0]))
        writing.discard(writer)

    async def read() -> list[list[Any]]:
        views = []
        while writing:
            views.append([(message.seq, message.content) for message in await messages.last("t1", 10_000)])
        return views

    results = await together(*[partial(write, writer) for writer in range(WRITERS)], read, read)
    assert results[:WRITERS] == [None] * WRITERS
    final = [(message.seq, message.content) for message in await messages.last("t1", 10_000)]
    assert [seq for seq, _ in final] == list(range(1, len(final) + 1))
    expected = {
        (writer, turn, part)
        for writer in range(WRITERS)
        for turn in range(EACH)
        for part in range(1 if turn % 3 else 3)
    }
    assert len(final) == len(expected)
    assert {tuple(content) for _, content in final} == expected
    for views in results[WRITERS:]:
        assert [view for view in views if view != final[: len(view)]] == []
        assert [len(view) for view in views] == sorted(len(view) for view in views)
    # Of each writer in its order, and the parts of one append side by side.
    for writer in range(WRITERS):
        own = [content for _, content in final if content[0] == writer]
        assert own == sorted(own)
    places = {tuple(content): place for place, (_, content) in enumerate(final)}
    for writer, turn, part in expected:
        assert places[writer, turn, part] == places[writer, turn, 0] + part


@pytest_asyncio.fixture
async def store(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> AsyncMessageStore:
    """Messages on PostgreSQL, beside the thread ``t1``."""
    await manager.add_postgresql("main", postgresql_config)
    await AsyncThreadManager(manager, "main").create_thread(Thread(id="t1", user_id="ada"))
    return AsyncMessageStore(manager, "main")


async def test_an_append_whose_answer_is_lost_is_repeated_by_its_key(
    manager: AsyncDatabaseManager, store: AsyncMessageStore, postgresql_config: PostgreSQLConfig
) -> None:
    with FaultyProxy(f"{postgresql_config.host}/.s.PGSQL.{postgresql_config.port}") as proxy:
        through = replace(postgresql_config, host="127.0.0.1", port=proxy.port, timeout=0.5)
        await manager.add_postgresql("proxied", through)
        messages = AsyncMessageStore(manager, "proxied")
        await messages.append("t1", said("a"))
        proxy.mode = "swallow replies"
        lost = (await together(partial(messages.append, "t1", said("b"), key="k")))[0]
        assert isinstance(lost, UnavailableError)
        proxy.mode = "pass"
        stored = await messages.append("t1", said("b"), key="k")
        assert (stored.seq, stored.version) == (2, 2)
        await messages.append("t1", said("c"))
    assert [(message.seq, message.content) for message in await store.last("t1")] == [(1, "a"), (2, "b"), (3, "c")]


async def test_following_survives_the_loss_of_every_connection(
    manager: AsyncDatabaseManager, store: AsyncMessageStore, postgresql_config: PostgreSQLConfig
) -> None:
    admin = await manager.add_postgresql("admin", postgresql_config)
    writer = AsyncMessageStore(manager, "admin")
    await writer.append("t1", said(1))
    seen: list[int | None] = []
    async for message in store.follow("t1", after=0, timeout=20):
        seen.append(message.seq)
        if len(seen) == 5:
            break
        ended = await admin.fetch_all(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database()"
        )
        assert ended
        await writer.append("t1", said(len(seen)))
    assert seen == [1, 2, 3, 4, 5]


async def test_transactions_that_wait_for_each_other_are_run_again_and_all_succeed(
    manager: AsyncDatabaseManager, store: AsyncMessageStore
) -> None:
    database = manager.get_database("main")
    assert isinstance(database, AsyncPostgreSQLDatabase)
    await AsyncThreadManager(manager, "main").create_thread(Thread(id="t2", user_id="ada"))

    async def both(first: str, second: str) -> None:
        async def work(transaction: Any) -> None:
            await store.append(first, said(first))
            await store.append(second, said(second))

        await database.run_transaction(work)

    results = await together(*[partial(both, *pair) for pair in [("t1", "t2"), ("t2", "t1")] * 2])
    assert results == [None] * 4
    for thread in ("t1", "t2"):
        assert [message.seq for message in await store.last(thread)] == list(range(1, 5))

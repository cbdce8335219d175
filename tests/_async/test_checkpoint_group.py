"""Group commit: saves that come while others are on their way share a commit, and each is told how it went."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import AsyncDatabaseManager, PostgreSQLConfig, ValidationError
from persistence._async.compat import Parallel

pytestmark = pytest.mark.tables("checkpoint")

WRITERS = 8


async def grouped(manager: AsyncDatabaseManager, config: PostgreSQLConfig) -> AsyncDatabaseCheckpointer:
    await manager.add_postgresql("grouped", replace(config, max_connections=4))
    return AsyncDatabaseCheckpointer(manager, "grouped", group_commit=True)


async def at_once(*calls: object) -> None:
    parallel = Parallel()
    try:
        await parallel.run(list(calls))  # type: ignore[arg-type]
    finally:
        parallel.close()


async def test_every_writer_finds_its_own_checkpoints(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = await grouped(manager, postgresql_config)

    async def run(writer: int) -> None:
        for number in range(40):
            saved = await checkpointer.save_checkpoint(
                Checkpoint(f"t{writer}", {"n": number, "text": f"{writer} {number} " * 20})
            )
            assert (saved.version, saved.parent_version) == (number + 1, number or None)

    await at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    reader = AsyncDatabaseCheckpointer(manager, "grouped")
    for writer in range(WRITERS):
        listed = await reader.list_checkpoints(f"t{writer}", states=True)
        assert [found.state["n"] for found in listed] == [*range(39, -1, -1)]
        assert listed[0].state["text"] == f"{writer} 39 " * 20


async def test_writers_share_round_trips(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> None:
    checkpointer = await grouped(manager, postgresql_config)
    for writer in range(64):
        await checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 0}))
    before = manager.stats()["grouped"].requests
    await at_once(
        *[
            lambda writer=writer: checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 1}))
            for writer in range(64)
        ]
    )
    assert manager.stats()["grouped"].requests - before < 64
    for writer in range(64):
        assert (await checkpointer.load_checkpoint(f"t{writer}")).version == 2


async def test_many_writers_of_one_thread_leave_neither_holes_nor_doubles(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = await grouped(manager, postgresql_config)
    versions: list[int | None] = []

    async def run(writer: int) -> None:
        for number in range(10):
            saved = await checkpointer.save_checkpoint(Checkpoint("t", {"writer": writer, "n": number}))
            versions.append(saved.version)

    await at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    assert sorted(version or 0 for version in versions) == [*range(1, 81)]


async def test_a_save_that_its_key_refuses_undoes_nobody_elses(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = await grouped(manager, postgresql_config)
    for writer in range(WRITERS):
        await checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 0}, key="first"))

    async def run(writer: int) -> None:
        for number in range(10):
            key = "first" if writer % 2 else f"k{number}"
            saved = await checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": number}, key=key))
            assert saved.version == (1 if writer % 2 else number + 2)

    await at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    for writer in range(WRITERS):
        assert (await checkpointer.load_checkpoint(f"t{writer}")).version == (1 if writer % 2 else 11)


async def test_a_save_that_cannot_be_stored_is_refused_alone(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = await grouped(manager, postgresql_config)

    async def wrong() -> None:
        with pytest.raises(ValidationError, match="isn't registered"):
            await checkpointer.save_checkpoint(Checkpoint("wrong", {"n": object()}))

    async def right(writer: int) -> None:
        await checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": writer}))

    await at_once(wrong, *[lambda writer=writer: right(writer) for writer in range(WRITERS)], wrong)
    assert len(await checkpointer.list_threads()) == WRITERS

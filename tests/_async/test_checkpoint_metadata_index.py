"""The index for filters on metadata: made beside writers, made again after a build that was cut off, and used."""

from __future__ import annotations

import pytest

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    CapabilityError,
    PostgreSQLConfig,
    SQLiteConfig,
    TransactionError,
)

VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'holdfast_checkpoints_metadata'::regclass"


async def filled(
    manager: AsyncDatabaseManager, config: PostgreSQLConfig
) -> tuple[AsyncDatabaseCheckpointer, AsyncDatabase]:
    database = await manager.add_postgresql("main", config)
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    for number in range(40):
        await checkpointer.save_checkpoint(Checkpoint("t", {}, metadata={"n": number, "deep": {"odd": number % 2}}))
    return checkpointer, database


async def test_filters_give_the_same_with_the_index_and_can_use_it(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = await filled(manager, postgresql_config)
    before = await checkpointer.list_checkpoints("t", filter={"deep": {"odd": 1}})
    await checkpointer.index_metadata()
    await checkpointer.index_metadata()
    assert await checkpointer.list_checkpoints("t", filter={"deep": {"odd": 1}}) == before
    assert len(before) == 20
    async with database.transaction():
        await database.execute("SET LOCAL enable_seqscan = off")
        plan = await database.fetch_all(
            "EXPLAIN SELECT version FROM holdfast_checkpoints WHERE metadata @> '{\"n\": 7}'"
        )
    assert "holdfast_checkpoints_metadata" in str(plan)


async def test_an_index_whose_build_was_cut_off_is_made_again(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = await filled(manager, postgresql_config)
    await checkpointer.index_metadata()
    await database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'holdfast_checkpoints_metadata'::regclass"
    )
    await checkpointer.index_metadata()
    assert await database.fetch_value(VALID) is True


async def test_where_it_cannot_be_made_is_said(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = await filled(manager, postgresql_config)
    with pytest.raises(TransactionError, match="in a transaction"):
        async with database.transaction():
            await checkpointer.index_metadata()
    await manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(CapabilityError, match="only PostgreSQL"):
        await AsyncDatabaseCheckpointer(manager, "file").index_metadata()

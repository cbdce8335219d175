# Generated from ../_async/test_checkpoint_metadata_index.py by tests/unasync.py: edit that one.
"""The index for filters on metadata: made beside writers, made again after a build that was cut off, and used."""

from __future__ import annotations

import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    CapabilityError,
    PostgreSQLConfig,
    SQLiteConfig,
    TransactionError,
)

VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'holdfast_checkpoints_metadata'::regclass"


def filled(
    manager: DatabaseManager, config: PostgreSQLConfig
) -> tuple[DatabaseCheckpointer, Database]:
    database = manager.add_postgresql("main", config)
    checkpointer = DatabaseCheckpointer(manager, "main")
    for number in range(40):
        checkpointer.save_checkpoint(Checkpoint("t", {}, metadata={"n": number, "deep": {"odd": number % 2}}))
    return checkpointer, database


def test_filters_give_the_same_with_the_index_and_can_use_it(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = filled(manager, postgresql_config)
    before = checkpointer.list_checkpoints("t", filter={"deep": {"odd": 1}})
    checkpointer.index_metadata()
    checkpointer.index_metadata()
    assert checkpointer.list_checkpoints("t", filter={"deep": {"odd": 1}}) == before
    assert len(before) == 20
    with database.transaction():
        database.execute("SET LOCAL enable_seqscan = off")
        plan = database.fetch_all(
            "EXPLAIN SELECT version FROM holdfast_checkpoints WHERE metadata @> '{\"n\": 7}'"
        )
    assert "holdfast_checkpoints_metadata" in str(plan)


def test_an_index_whose_build_was_cut_off_is_made_again(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = filled(manager, postgresql_config)
    checkpointer.index_metadata()
    database.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'holdfast_checkpoints_metadata'::regclass"
    )
    checkpointer.index_metadata()
    assert database.fetch_value(VALID) is True


def test_where_it_cannot_be_made_is_said(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer, database = filled(manager, postgresql_config)
    with pytest.raises(TransactionError, match="in a transaction"):
        with database.transaction():
            checkpointer.index_metadata()
    manager.add_sqlite("file", SQLiteConfig(path=":memory:"))
    with pytest.raises(CapabilityError, match="only PostgreSQL"):
        DatabaseCheckpointer(manager, "file").index_metadata()

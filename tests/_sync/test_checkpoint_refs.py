# Generated from ../_async/test_checkpoint_refs.py by tests/unasync.py: edit that one.
"""The column of refs: what a migration makes of it on PostgreSQL, and what is said of damage on either database."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from checkpoint.layout import LARGEST_REF
from checkpoint.states import unpack_manifest
from persistence import (
    Database,
    DatabaseManager,
    Migrator,
    CorruptError,
    MigrationLine,
    PostgreSQLConfig,
)
from tests._sync.checkpoints import LONG, check_blocks, fresh, refs

pytestmark = pytest.mark.tables("checkpoint")

LINE = MigrationLine.of_package("checkpoint")
AS_ARRAYS = 3
"""The migration after which refs are an array of integers."""


def filled(
    manager: DatabaseManager, database: Database
) -> tuple[DatabaseCheckpointer, dict[int, Any]]:
    """Return a thread whose refs are to blocks of all kinds, and its states by version."""
    checkpointer = DatabaseCheckpointer(manager, "main")
    state: dict[str, Any] = {f"c{n}": random.Random(n).randbytes(3000) for n in range(6)}
    states: dict[int, Any] = {}
    for saved in ({}, *({**state, f"c{n}": f"{n}" * 50, "same": LONG} for n in range(4)), state):
        version = (checkpointer.save_checkpoint(Checkpoint("t", saved))).version
        assert version is not None
        states[version] = saved
    checkpointer.delete_checkpoint("t", 3)
    del states[3]
    found = refs(database)
    assert found["default", "t", "", 1, 0] == []
    assert any(ref & 255 for ref in found["default", "t", "", 5, 0])
    assert any(ref and not ref & 255 for ref in found["default", "t", "", 5, 0])
    return checkpointer, states


def test_what_is_stored_is_turned_into_text_and_back_without_a_change(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    database = manager.add_postgresql("main", postgresql_config)
    _, states = filled(manager, database)
    migrator, before = Migrator(database), refs(database)
    migrator.down(LINE, to=AS_ARRAYS)
    rows = database.fetch_all("SELECT version, manifest, refs FROM holdfast_checkpoints ORDER BY version")
    assert [row["refs"] for row in rows] == [*before.values()]
    for row in rows:
        unpack_manifest(bytes(row["manifest"]), row["refs"])  # whose CRC is over them
    edges = [0, 1, 255, 256, 257, LARGEST_REF - 255, LARGEST_REF]
    database.execute(
        "INSERT INTO holdfast_checkpoints (tenant_id, thread_id, namespace, version, created_at, metadata, manifest,"
        " refs) VALUES ('default', 'edges', '', 1, now(), '{}', '', :refs)",
        {"refs": edges},
    )
    assert migrator.validate(LINE) == ()
    migrator.up(LINE)
    assert migrator.validate(LINE) == ()
    found = refs(database)
    assert found.pop(("default", "edges", "", 1, 0)) == edges
    assert found == before
    assert (
        database.fetch_value("SELECT refs FROM holdfast_checkpoints WHERE thread_id = 'edges'")
        == "0,-1,-255,1,-257,8388607,-2147483647"
    )
    database.execute("DELETE FROM holdfast_checkpoints WHERE thread_id = 'edges'")
    for version, state in states.items():
        assert (fresh(manager).load_checkpoint("t", version)).state == state
    listed = fresh(manager).list_checkpoints("t", states=True)
    assert {one.version: one.state for one in listed} == states
    check_blocks(database)


DAMAGED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "postgresql": (("0,NULL", "{0}", "0,8388608"), ("abc", "0,,1", "[0]", "99999999999")),
    "sqlite": (("null", "7", '["0"]', "[1.5]", "[true]", "[[0]]", "[-1]", "[2147483648]"), ("", "abc", "[0", "[0,]")),
}
"""What is no refs: texts that the server can read all the same, and those that it can't."""


def test_refs_that_are_none_are_told_by_whoever_reads_them(
    manager: DatabaseManager, database: Database
) -> None:
    checkpointer, states = filled(manager, database)
    readers: list[Callable[[], Any]] = [
        lambda: fresh(manager).load_checkpoint("t", 5),
        lambda: fresh(manager).list_checkpoints("t", states=True),
        lambda: fresh(manager).load_checkpoint("t", 5, writes=True),
        lambda: fresh(manager).rewind("t", 5),
    ]
    others: list[Callable[[], Any]] = [
        lambda: fresh(manager).fork("t", 5, "other"),
        lambda: fresh(manager).delete_checkpoint("t", 2),
    ]
    legible, illegible = DAMAGED[database.kind]
    for damage, calls in [*((each, readers) for each in legible), *((each, readers + others) for each in illegible)]:
        database.execute("UPDATE holdfast_checkpoints SET refs = :refs WHERE version = 5", {"refs": damage})
        for call in calls:
            with pytest.raises(CorruptError, match=r"thread 't'.*refs are damaged"):
                call()
    assert (checkpointer.load_checkpoint("t", 4)).state == states[4]
    assert checkpointer.delete_thread("t") == len(states)

# Generated from ../_async/test_checkpoint_group.py by tests/unasync.py: edit that one.
"""Group commit: saves that come while others are on their way share a commit, and each is told how it went."""

from __future__ import annotations

from dataclasses import replace

import pytest

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import DatabaseManager, PostgreSQLConfig, ValidationError
from persistence._sync.compat import Parallel

pytestmark = pytest.mark.tables("checkpoint")

WRITERS = 8


def grouped(manager: DatabaseManager, config: PostgreSQLConfig) -> DatabaseCheckpointer:
    manager.add_postgresql("grouped", replace(config, max_connections=4))
    return DatabaseCheckpointer(manager, "grouped", group_commit=True)


def at_once(*calls: object) -> None:
    parallel = Parallel()
    try:
        parallel.run(list(calls))  # type: ignore[arg-type]
    finally:
        parallel.close()


def test_every_writer_finds_its_own_checkpoints(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = grouped(manager, postgresql_config)

    def run(writer: int) -> None:
        for number in range(40):
            saved = checkpointer.save_checkpoint(
                Checkpoint(f"t{writer}", {"n": number, "text": f"{writer} {number} " * 20})
            )
            assert (saved.version, saved.parent_version) == (number + 1, number or None)

    at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    reader = DatabaseCheckpointer(manager, "grouped")
    for writer in range(WRITERS):
        listed = reader.list_checkpoints(f"t{writer}", states=True)
        assert [found.state["n"] for found in listed] == [*range(39, -1, -1)]
        assert listed[0].state["text"] == f"{writer} 39 " * 20


def test_writers_share_round_trips(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> None:
    checkpointer = grouped(manager, postgresql_config)
    for writer in range(64):
        checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 0}))
    before = manager.stats()["grouped"].requests
    at_once(
        *[
            lambda writer=writer: checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 1}))
            for writer in range(64)
        ]
    )
    assert manager.stats()["grouped"].requests - before < 64
    for writer in range(64):
        assert (checkpointer.load_checkpoint(f"t{writer}")).version == 2


def test_many_writers_of_one_thread_leave_neither_holes_nor_doubles(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = grouped(manager, postgresql_config)
    versions: list[int | None] = []

    def run(writer: int) -> None:
        for number in range(10):
            saved = checkpointer.save_checkpoint(Checkpoint("t", {"writer": writer, "n": number}))
            versions.append(saved.version)

    at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    assert sorted(version or 0 for version in versions) == [*range(1, 81)]


def test_a_save_that_its_key_refuses_undoes_nobody_elses(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = grouped(manager, postgresql_config)
    for writer in range(WRITERS):
        checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": 0}, key="first"))

    def run(writer: int) -> None:
        for number in range(10):
            key = "first" if writer % 2 else f"k{number}"
            saved = checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": number}, key=key))
            assert saved.version == (1 if writer % 2 else number + 2)

    at_once(*[lambda writer=writer: run(writer) for writer in range(WRITERS)])
    for writer in range(WRITERS):
        assert (checkpointer.load_checkpoint(f"t{writer}")).version == (1 if writer % 2 else 11)


def test_a_save_that_cannot_be_stored_is_refused_alone(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    checkpointer = grouped(manager, postgresql_config)

    def wrong() -> None:
        with pytest.raises(ValidationError, match="isn't registered"):
            checkpointer.save_checkpoint(Checkpoint("wrong", {"n": object()}))

    def right(writer: int) -> None:
        checkpointer.save_checkpoint(Checkpoint(f"t{writer}", {"n": writer}))

    at_once(wrong, *[lambda writer=writer: right(writer) for writer in range(WRITERS)], wrong)
    assert len(checkpointer.list_threads()) == WRITERS

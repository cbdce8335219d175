# Generated from ../_async/test_events_audit.py by tests/unasync.py: edit that one.
"""Chains of audit events: every append is the next entry, and whoever meddles is found."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest

from persistence import DatabaseManager, PostgreSQLConfig, ValidationError
from sessions import EventLog, ChainHead, ChainReport, Event, EventPolicy
from tests._sync.events import BACKENDS, DAY, HOUR, database_of, is_postgresql, metric, open_log
from tests._sync.side import together

pytestmark = pytest.mark.tables("sessions")


@pytest.fixture(params=BACKENDS)
def log(manager: DatabaseManager, request: pytest.FixtureRequest, tmp_path: Path) -> EventLog:
    return open_log(manager, request, tmp_path)


TAGS: list[dict[str, Any]] = [
    {},
    {"zero": -0.0, "large": 1e16, "small": 1e-7, "whole": 1.0, "n": 2**63 - 1},
    {"b": {"y": [1, None, True], "x": "é\u2028"}, "a": "\U0001f9f6"},
]


def filled(log: EventLog, entries: int = 9) -> None:
    for number in range(3):
        log.audit(f"step {number}", "m'", tags=TAGS[number], service="s", time=DAY + number * HOUR)
    log.append_many(
        [
            Event(kind="audit", name=f"step {number}", value=-0.0, correlation="c", tags=TAGS[number % 3], time=DAY)
            for number in range(3, entries)
        ]
        + [metric(1)]
    )


def test_a_chain_is_whole_however_its_entries_were_appended(log: EventLog) -> None:
    filled(log)
    other = log.audit("x", chain="other")
    assert log.verify() == ChainReport(chain="main", entries=9)
    assert log.verify("other") == ChainReport(chain="other", entries=1)
    assert bool(log.verify("nothing"))
    assert log.chain_head("nothing") is None
    heads = log.list_chains()
    assert [(head.chain, head.seq) for head in heads] == [("main", 9), ("other", 1)]
    assert heads[1] == ChainHead(chain="other", seq=1, hash=other.hash or b"")
    assert log.list_chains(after="main", limit=1) == heads[1:]
    assert log.verify(anchor=heads[0])


def test_the_hash_is_the_same_on_every_database(manager: DatabaseManager, log: EventLog) -> None:
    manager.add_sqlite("lite", "sqlite://")
    twin = EventLog(manager, "lite")
    for number in range(3):
        event = Event(kind="audit", name="x", value=-0.0, tags=TAGS[number], time=DAY)
        assert (log.append(event)).hash == (twin.append(event)).hash


def test_an_entry_that_was_changed_is_named(log: EventLog) -> None:
    filled(log)
    database = database_of(log)
    cast = "CAST(:value AS jsonb)" if is_postgresql(log) else ":value"
    changes = [("name", ":value", "z"), ("message", ":value", "z"), ("service", ":value", "z"),
               ("tags", cast, '{"x":1}'), ("correlation", ":value", "z"), ("id", "id + :value", 1),
               ("value", ":value", 0.5), ("level", ":value", "info"), ("tenant_id", ":value", "default")]  # fmt: skip
    for column, expression, value in changes:
        with pytest.raises(ZeroDivisionError):
            with database.transaction():
                database.execute(
                    f"UPDATE holdfast_events SET {column} = {expression} WHERE chain_seq = 5", {"value": value}
                )
                report = log.verify()
                assert (report.broken_at, report.entries) == ((None, 9) if column == "tenant_id" else (5, 4)), column
                _ = 1 / 0


MEDDLING: dict[str, tuple[list[str], int, str]] = {
    "removed": (["DELETE FROM holdfast_events WHERE chain_seq = 4"], 4, "missing"),
    "the first removed": (["DELETE FROM holdfast_events WHERE chain_seq = 1"], 1, "missing"),
    "cut off": (["DELETE FROM holdfast_events WHERE chain_seq >= 8"], 8, "cut off"),
    "all cut off": (["DELETE FROM holdfast_events WHERE chain = 'main'"], 1, "cut off"),
    "moved": (
        [
            "UPDATE holdfast_events SET chain_seq = 100 WHERE chain_seq = 3",
            "UPDATE holdfast_events SET chain_seq = 3 WHERE chain_seq = 4",
            "UPDATE holdfast_events SET chain_seq = 4 WHERE chain_seq = 100",
        ],
        3,
        "moved",
    ),
    "the head removed": (["DELETE FROM holdfast_event_chains"], 1, "no head"),
    "the head set back": (
        [
            "DELETE FROM holdfast_events WHERE chain_seq >= 8",
            "UPDATE holdfast_event_chains SET seq = 7",
        ],
        7,
        "head's",
    ),
}


def test_meddling_is_found_at_the_first_entry_that_does_not_fit(log: EventLog) -> None:
    filled(log)
    for way, (statements, place, reason) in MEDDLING.items():
        with pytest.raises(ZeroDivisionError):
            with database_of(log).transaction():
                for statement in statements:
                    database_of(log).execute(statement)
                report = log.verify()
                assert not report, way
                assert (report.broken_at, report.entries) == (place, place - 1), way
                assert reason in (report.reason or ""), way
                _ = 1 / 0
    assert log.verify()


def test_a_chain_that_was_written_anew_is_found_by_an_anchor(log: EventLog) -> None:
    filled(log)
    anchor = log.chain_head()
    assert anchor is not None
    database_of(log).execute("DELETE FROM holdfast_events WHERE chain = 'main'")
    database_of(log).execute("DELETE FROM holdfast_event_chains")
    filled(log, entries=7)
    assert (log.verify()).entries == 7
    report = log.verify(anchor=anchor)
    assert (report.broken_at, report.reason) == (8, "it is missing: the anchor is further on")
    log.append_many([Event(kind="audit"), Event(kind="audit")])
    assert (log.verify(anchor=anchor)).broken_at == 9
    wrong: Any = "x"
    for anchor in (wrong, ChainHead(chain="other", seq=1, hash=b"")):
        with pytest.raises(ValidationError):
            log.verify(anchor=anchor)


def test_appends_at_once_are_entries_one_after_the_other(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    logs = []
    for number in range(4):
        manager.add_postgresql(f"c{number}", postgresql_config)
        logs.append(EventLog(manager, f"c{number}"))
    logs[0].audit("first")

    def write(log: EventLog) -> None:
        for _ in range(5):
            log.audit("x")
            log.append_many([Event(kind="audit"), Event(kind="audit", chain="b"), Event(kind="audit")])

    assert together(*[lambda log=log: write(log) for log in logs]) == [None] * 4  # type: ignore[misc]
    assert logs[0].verify() == ChainReport(chain="main", entries=61)
    assert logs[0].verify("b") == ChainReport(chain="b", entries=20)


def test_no_policy_touches_an_audit_event(log: EventLog) -> None:
    filled(log)
    log.append(Event(kind="note", retention="kept", time=DAY))
    report = log.roll_up(EventPolicy(delete_after=timedelta(days=1)), now=DAY + timedelta(days=9000))
    assert report.deleted == 1
    assert log.verify() == ChainReport(chain="main", entries=9)
    assert [event.kind for event in log.query(limit=1000)].count("note") == 1
    with pytest.raises(ValidationError, match="kept for good"):
        EventPolicy(delete_after=timedelta(days=1), kinds=("audit",))

"""Threads that LangGraph's own savers wrote, imported into ours: the same history, and the graph goes on."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command, Send
from psycopg.rows import dict_row
from pydantic import BaseModel

from checkpoint import MemoryCheckpointer
from checkpoint.langgraph import HoldfastSaver, Imported, import_langgraph
from persistence import NotFoundError, PostgreSQLConfig, ValidationError
from tests.langgraph_workflow import CONFIG, Workflow, report
from tests.servers import url_of
from tests.test_langgraph import Person, made, named
from tests.test_langgraph_graphs import DONE


@pytest.fixture(params=["postgresql", "sqlite", "memory"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """One of LangGraph's own savers."""
    if request.param == "postgresql":
        config: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        parameters = config.connection_parameters()
        with psycopg.connect(**parameters, autocommit=True, prepare_threshold=0, row_factory=dict_row) as connection:
            saver = PostgresSaver(connection)
            saver.setup()
            yield saver
    elif request.param == "sqlite":
        with closing(sqlite3.connect(tmp_path / "theirs.db", check_same_thread=False)) as connection:
            yield SqliteSaver(connection)
    else:
        yield InMemorySaver()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[HoldfastSaver]:
    with HoldfastSaver.from_url(f"sqlite:///{tmp_path / 'ours.db'}") as saver:
        yield saver


def histories(graph: Any) -> list[Any]:
    return [
        (each.values, each.next, each.config, each.parent_config, each.metadata)
        for each in graph.get_state_history(CONFIG)
    ]


def test_an_imported_thread_has_its_history_and_goes_on(source: Any, target: HoldfastSaver, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "journal")
    theirs, ours = workflow.build(source), workflow.build(target)
    theirs.invoke({}, CONFIG)
    source.put(named("other"), made({"a": 1}), {"source": "input", "step": -1, "parents": {}}, {"a": 1})
    done = import_langgraph(source, target)
    assert (done.threads, done.checkpoints) == (2, len(list(source.list(None))))
    assert done.writes > 0
    assert histories(ours) == histories(theirs)
    assert report(ours.get_state(CONFIG)) == report(theirs.get_state(CONFIG))
    ours.invoke(Command(resume="good"), CONFIG)
    assert report(ours.get_state(CONFIG)) == DONE
    # Done again, it changes nothing: what is there stays.
    before = histories(ours)
    assert import_langgraph(source, target) == done
    assert histories(ours) == before


def test_pending_writes_keep_their_order(source: Any, target: HoldfastSaver) -> None:
    config = source.put(named(), made(), {}, {})
    for task in ("00000000-0000-0000-0000-00000000000b", "00000000-0000-0000-0000-00000000000a"):
        source.put_writes(config, [("x", task), ("y", 2)], task, f"~{task[-1] == 'a'}")
    import_langgraph(source, target)
    assert target.get_tuple(config) == source.get_tuple(config)


def test_threads_are_chosen_by_name(source: Any, target: HoldfastSaver) -> None:
    for thread in ("a", "b"):
        source.put(named(thread), made({"x": thread}), {}, {"x": 1})
    assert import_langgraph(source, target, threads=["b"]) == Imported(1, 1, 0)
    assert target.get_tuple(named("a")) is None
    with pytest.raises(NotFoundError, match="'c'"):
        import_langgraph(source, target, threads=["b", "c"])


def test_a_class_that_the_target_does_not_know_stops_the_import(target: HoldfastSaver) -> None:
    source = InMemorySaver()
    source.put(named(), made({"who": Person(name="Ada")}), {}, {"who": 1})
    with pytest.raises(ValidationError, match=r"Person.*classes=\["):
        import_langgraph(source, target)
    knowing = HoldfastSaver(MemoryCheckpointer(), classes=[Person])
    assert import_langgraph(source, knowing) == Imported(1, 1, 0)
    found = knowing.get_tuple(named())
    assert found is not None
    assert found.checkpoint["channel_values"] == {"who": Person(name="Ada")}


class Gone(BaseModel):
    """A class that can't be imported, once it has been taken away."""

    name: str


class GoneColour(Enum):
    RED = "red"


@dataclass
class GonePoint:
    x: int


LOST = {
    "model": Gone(name="Ada"),
    "enum": GoneColour.RED,
    "dataclass": [{"a": (1, GonePoint(1))}],
    "snapshot": _DeltaSnapshot(GonePoint(1)),
}


@pytest.mark.parametrize("is_written", [False, True])
@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_value_whose_class_can_not_be_imported_stops_the_import_before_anything_is_written(
    source: Any, target: HoldfastSaver, monkeypatch: pytest.MonkeyPatch, lost: Any, is_written: bool
) -> None:
    config = source.put(named(), made({"a": 1} if is_written else {"a": lost}), {}, {"a": 1})
    if is_written:
        source.put_writes(config, [("x", lost)], "task")
    usual = source.serde
    with monkeypatch.context() as patch:
        for cls in (Gone, GoneColour, GonePoint):
            patch.delattr(sys.modules[__name__], cls.__name__)
        with pytest.raises(ValidationError, match=r"Gone\w* can't be made here.*--class"):
            import_langgraph(source, target)
    assert source.serde is usual
    assert list(target.list(None)) == []


class Reversing:
    """A cipher of LangGraph's kind."""

    def encrypt(self, plaintext: bytes) -> tuple[str, bytes]:
        return "reversed", plaintext[::-1]

    def decrypt(self, ciphername: str, ciphertext: bytes) -> bytes:
        return ciphertext[::-1]


def test_a_value_whose_class_langgraph_may_not_import_stops_the_import() -> None:
    for within in (False, True):
        serde: Any = JsonPlusSerializer(allowed_msgpack_modules=None)
        source = InMemorySaver(serde=EncryptedSerializer(Reversing(), serde) if within else serde)
        source.put(named(), made({"who": Person(name="Ada")}), {}, {"who": 1})
        with pytest.raises(ValidationError, match="Person can't be made here"):
            import_langgraph(source, HoldfastSaver(MemoryCheckpointer(), classes=[Person]))


def test_an_object_that_langgraph_once_wrote_as_json_stops_the_import_where_it_reads_nothing() -> None:
    class Old(InMemorySaver):
        """A saver whose states are of the time before msgpack."""

        def get_tuple(self, config: Any) -> Any:
            written = {"lc": 2, "type": "constructor", "id": [*__name__.split("."), "Person"], "kwargs": {"name": "A"}}
            self.serde.loads_typed(("json", json.dumps({"a": [written]}).encode()))
            return super().get_tuple(config)

    source = Old(serde=JsonPlusSerializer(allowed_json_modules=[(*__name__.split("."), "Person")]))
    source.put(named(), made({"a": 1}), {}, {"a": 1})
    assert import_langgraph(source, HoldfastSaver(MemoryCheckpointer())) == Imported(1, 1, 0)
    source = Old()
    source.put(named(), made({"a": 1}), {}, {"a": 1})
    with pytest.raises(ValidationError, match="Person can't be made here"):
        import_langgraph(source, HoldfastSaver(MemoryCheckpointer()))


def test_what_langgraph_makes_by_itself_is_imported(source: Any, target: HoldfastSaver) -> None:
    values = {
        "moments": [
            datetime(2026, 1, 2, tzinfo=UTC),
            date(2026, 1, 2),
            time(3),
            timedelta(1),
            ZoneInfo("Europe/Berlin"),
        ],
        "numbers": [Decimal("1.50"), UUID(int=7), IPv4Address("10.0.0.1")],
        "sets": [{1, 2}, frozenset({3}), deque([1])],
        "texts": [re.compile("a+", re.IGNORECASE), Path("/a/b")],
        "messages": [AIMessage("x", id="1"), HumanMessage("y", id="2")],
        "sent": [Send("node", {"a": 1})],
    }
    config = source.put(named(), made(values), {}, dict.fromkeys(values, 1))
    assert import_langgraph(source, target) == Imported(1, 1, 0)
    found = target.get_tuple(config)
    assert found is not None
    assert found.checkpoint["channel_values"] == values


def test_threads_of_a_postgresql_saver_come_into_the_same_database(postgresql_config: PostgreSQLConfig) -> None:
    parameters = postgresql_config.connection_parameters()
    with psycopg.connect(**parameters, autocommit=True, prepare_threshold=0, row_factory=dict_row) as connection:
        source = PostgresSaver(connection)
        source.setup()
        stored = source.put(named(), made({"a": [1, {"b": None}]}), {}, {"a": 1})
        with HoldfastSaver.from_url(url_of(postgresql_config)) as target:
            assert import_langgraph(source, target) == Imported(1, 1, 0)
            assert target.get_tuple(stored) == source.get_tuple(stored)

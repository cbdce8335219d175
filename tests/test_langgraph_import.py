"""Threads that LangGraph's own savers wrote, imported into ours: the same history, and the graph goes on."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command
from psycopg.rows import dict_row

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


def test_threads_of_a_postgresql_saver_come_into_the_same_database(postgresql_config: PostgreSQLConfig) -> None:
    parameters = postgresql_config.connection_parameters()
    with psycopg.connect(**parameters, autocommit=True, prepare_threshold=0, row_factory=dict_row) as connection:
        source = PostgresSaver(connection)
        source.setup()
        stored = source.put(named(), made({"a": [1, {"b": None}]}), {}, {"a": 1})
        with HoldfastSaver.from_url(url_of(postgresql_config)) as target:
            assert import_langgraph(source, target) == Imported(1, 1, 0)
            assert target.get_tuple(stored) == source.get_tuple(stored)

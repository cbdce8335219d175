"""Stored and imported JSON that nobody could have written: one error of ours, no matter how deep, and little memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import CorruptError, DatabaseManager, KeyValueStore, ValidationError
from persistence.cli import main
from sessions import (
    ContextStore,
    EventLog,
    MemoryGraph,
    Message,
    MessageStore,
    Node,
    Session,
    SessionManager,
    Task,
    TaskStore,
    Thread,
    ThreadManager,
)
from vectorstore import Document, FileVectorIndex, SQLiteVectorStore
from vectorstore.matrix_file import open_matrix

DEEP = "[" * 100_000
BAD = (DEEP, '{"a":' * 100_000, '{"a": ', "no JSON")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[DatabaseManager]:
    with DatabaseManager() as made:
        made.add_sqlite("main", f"sqlite:///{tmp_path}/main.db")
        yield made


def test_stored_json_that_is_damaged_or_endless_is_corrupt_wherever_it_lies(manager: DatabaseManager) -> None:
    sessions, threads = SessionManager(manager, "main"), ThreadManager(manager, "main")
    messages, checkpoints = MessageStore(manager, "main"), DatabaseCheckpointer(manager, "main")
    graph, events, tasks = MemoryGraph(manager, "main"), EventLog(manager, "main"), TaskStore(manager, "main")
    vectors, values = SQLiteVectorStore(manager, "main", dimensions=3), KeyValueStore(manager, "main")
    sessions.create_session(Session(id="a", user_id="u"))
    threads.create_thread(Thread(id="m", user_id="u"))
    messages.append("m", Message(role="user", content="hello"))
    checkpoints.save_checkpoint(Checkpoint("t", {"a": 1}))
    graph.add_node(Node("n", "t", {"a": 1}))
    events.log("info", "hello", tags={"a": 1})
    task = tasks.add(Task(kind="k", metadata={"a": 1}))
    vectors.store_documents([Document("d", "text", {"a": 1}, [1, 0, 0])])
    values.put("k", {"a": 1})
    damaged: list[tuple[str, Callable[[], Any]]] = [
        ("holdfast_sessions SET metadata", lambda: sessions.get_session("a")),
        ("holdfast_threads SET metadata", lambda: threads.get_thread("m")),
        ("holdfast_messages SET content", lambda: messages.last("m")),
        ("holdfast_checkpoints SET metadata", lambda: checkpoints.list_checkpoints("t")),
        ("holdfast_graph_nodes SET attributes", lambda: graph.get_node("n")),
        ("holdfast_events SET tags", lambda: events.query()),
        ("holdfast_tasks SET metadata", lambda: tasks.get(task.id or "")),
        ("holdfast_documents SET metadata", lambda: vectors.get("d")),
        ("holdfast_key_values SET value", lambda: values.get("k")),
    ]
    database = manager.get_sqlite("main")
    tables = {row["name"] for row in database.fetch_all("SELECT name FROM sqlite_master ORDER BY name")}
    for what, read in damaged:
        table, _, column = what.partition(" SET ")
        assert table in tables, tables
        column_value = database.fetch_value(f"SELECT {column} FROM {table}")
        for bad in BAD:
            stored: Any = b"j" + bad.encode() if isinstance(column_value, bytes) else bad
            database.execute(f"UPDATE {table} SET {column} = :bad", {"bad": stored})
            with pytest.raises(CorruptError):
                read()
        database.execute(f"UPDATE {table} SET {column} = :good", {"good": column_value})
        read()


def test_an_import_of_endless_json_is_refused_and_writes_nothing(manager: DatabaseManager) -> None:
    messages, graph = MessageStore(manager, "main"), MemoryGraph(manager, "main")
    context = ContextStore(manager, "main")
    for bad in BAD:
        for read in (
            lambda: messages.import_messages([bad], thread_id="m"),  # noqa: B023
            lambda: graph.import_graph([bad]),  # noqa: B023
            lambda: context.import_([bad]),  # noqa: B023
        ):
            with pytest.raises(ValidationError):
                read()
    assert (graph.count(), context.items()) == (0, [])
    assert ThreadManager(manager, "main").list_user_threads("u") == []


def test_a_command_line_of_endless_json_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["threads", "--url", f"sqlite:///{tmp_path}/main.db", "--filter", DEEP]) == 1
    assert "no JSON" in capsys.readouterr().err


def test_the_files_of_vectors_are_refused_when_their_json_is_endless(tmp_path: Path) -> None:
    index = FileVectorIndex(tmp_path / "index", dimensions=3)
    index.add(["a"], np.eye(3)[:1])
    index.save()
    index.add(["b"], np.eye(3)[1:2])
    index.save()
    newest = tmp_path / "index" / "default" / "v000002" / "manifest.json"
    whole = newest.read_text()
    for bad in (*BAD, json.dumps({**json.loads(whole), "count": 2**60})):
        newest.write_text(bad)
        fallen_back = FileVectorIndex(tmp_path / "index")
        with pytest.warns(RuntimeWarning, match="loaded as of version 1"):
            assert fallen_back.load()
        assert fallen_back.ids == ["a", "b"]  # the journal of the first has it
        with pytest.raises(CorruptError):
            FileVectorIndex(tmp_path / "index").load(version=2)
    matrix = tmp_path / "kept"
    huge = json.dumps({"rows": 2**60, "dimensions": 3, "metric": "cosine", "crc": 0})
    for bad in (DEEP[:3000], huge, huge.replace(str(2**60), '"x"'), huge.replace(str(2**60), "-1")):
        matrix.write_bytes((b"holdfast vectors 1\n" + bad.encode() + b"\n").ljust(8192, b"\0"))
        assert open_matrix(matrix, 3, "cosine") is None

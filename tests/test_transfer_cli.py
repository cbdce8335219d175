"""`holdfast export`, `import` and `copy`: what they write, what they refuse, and how they end."""

from __future__ import annotations

import json
import re
import sqlite3
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    CapabilityError,
    Cipher,
    DatabaseManager,
    KeyValueStore,
    RedisConfig,
    SecretVault,
    TenantArchive,
)
from persistence.cli import main
from persistence.fields import reveal
from sessions import (
    ContextStore,
    Event,
    EventLog,
    MemoryGraph,
    Message,
    MessageStore,
    Node,
    Task,
    TaskStore,
    Thread,
    ThreadManager,
)
from vectorstore import Document, SQLiteVectorStore


@pytest.fixture
def urls(tmp_path: Path) -> tuple[str, str]:
    """A database with a thread, a graph and a context, and an empty one."""
    first, second = f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"
    with DatabaseManager() as manager:
        manager.add("main", first)
        ThreadManager(manager, "main").create_thread(Thread(id="t1", user_id="ada"))
        MessageStore(manager, "main").append_many(
            "t1", [Message(role="user", content=f"{n}\u2028\ud800") for n in (1, 2)]
        )
        MemoryGraph(manager, "main").add_node(Node("n", "thing", {"a": 1}))
        ContextStore(manager, "main").for_user("ada").push("note", [1])
        KeyValueStore(manager, "main").put("k", 1)
    return first, second


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    code = main([*arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else told.err


def test_what_was_exported_is_imported_elsewhere(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    for what, of, lines, imported in (("messages", "t1", 3, 2), ("graph", None, 2, 1), ("context", "ada", 1, 1)):
        file, options = str(tmp_path / what), ["--of", of] if of else []
        assert run(capsys, "export", what, file, "--url", urls[0], *options) == (0, {"path": file, "lines": lines})
        assert Path(file).stat().st_mode & 0o777 == 0o600
        assert run(capsys, "import", what, file, "--url", urls[1], *options) == (0, {"imported": imported})
    with DatabaseManager() as manager:
        manager.add("first", urls[0])
        manager.add("second", urls[1])
        assert MessageStore(manager, "second").last("t1") == MessageStore(manager, "first").last("t1")
        assert MemoryGraph(manager, "second").find()[0].attributes == {"a": 1}
        assert ContextStore(manager, "second").for_user("ada").get("note") == [1]
    assert run(capsys, "export", "user", str(tmp_path / "u"), "--of", "ada", "--url", urls[0])[1]["lines"] == 4


def test_all_of_a_tenant_goes_into_a_file_and_out_of_it(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "all.jsonl.zst")
    code, found = run(capsys, "export", file, "--url", urls[0])
    assert (code, found["path"], found["rows"]) == (0, file, sum(found["tables"].values()))
    assert {name: found["tables"][f"holdfast_{name}"] for name in ("messages", "items", "key_values")} == {
        "messages": 2,
        "items": 1,
        "key_values": 1,
    }
    for expected in ((0, found["rows"], 0), (1, None, None)):
        code, told = run(capsys, "import", "--url", urls[1], file, "--tenant", "new", "--verify")
        assert code == expected[0]
        if not code:
            assert (told["imported"], told["kept"], told["tenant"]) == (*expected[1:], "new")
            assert told["differences"] == []
    assert "the tenant 'new' has rows in holdfast_" in told
    code, told = run(capsys, "import", "all", file, "--url", urls[1], "--tenant", "new", "--merge")
    assert (code, told["imported"], told["kept"]) == (0, 0, found["rows"])
    with DatabaseManager() as manager:
        manager.add("first", urls[0])
        manager.add("second", urls[1])
        copied = MessageStore(manager, "second", tenant="new")
        assert copied.last("t1") == MessageStore(manager, "first").last("t1")
        copied.append("t1", Message(role="user", content="more"))
        KeyValueStore(manager, "second", tenant="new").put("k", 2)
    code, told = run(capsys, "import", file, "--url", urls[1], "--tenant", "new", "--merge", "--verify")
    assert (code, sorted({each["table"] for each in told["differences"]})) == (
        3,
        ["holdfast_key_values", "holdfast_messages", "holdfast_threads"],
    )


def test_what_is_on_redis_is_in_no_archive_and_that_is_said(
    tmp_path: Path, urls: tuple[str, str], redis_config: RedisConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    file, config = str(tmp_path / "all.jsonl"), tmp_path / "holdfast.toml"
    password = urllib.parse.quote(reveal(redis_config.password), safe="")
    place = redis_config.unix_socket or f"{redis_config.host}:{redis_config.port}"
    cache = f"{'unix' if redis_config.unix_socket else 'redis'}://:{password}@{place}?database={redis_config.database}"
    config.write_text(f'[connections]\nmain = "{urls[0]}"\ncache = "{cache}"\n')
    with DatabaseManager() as manager:
        manager.add("cache", cache)
        ContextStore(manager, "cache").for_user("ada").push("note", [2])
        with pytest.raises(CapabilityError, match="cache: an archive holds rows of PostgreSQL or SQLite, and nothing"):
            TenantArchive(manager.get_redis("cache"))  # type: ignore[arg-type]
    code, found = run(capsys, "export", file, "--config", str(config), "--connection", "main")
    assert (code, found["left_out"], found["tables"]["holdfast_items"]) == (0, ["cache"], 1)
    assert main(["export", f"{file}.2", "--config", str(config), "--connection", "main"]) == 0
    assert "not in it: cache, for an archive holds nothing of Redis" in capsys.readouterr().out
    assert run(capsys, "export", f"{file}.3", "--url", urls[0])[1]["left_out"] == []
    for command, path in (("export", f"{file}.4"), ("import", file)):
        code, told = run(capsys, command, path, "--config", str(config), "--connection", "cache")
        assert (code, "cache: an archive holds rows" in told, "messages or user" in told) == (1, True, True)
    assert not Path(f"{file}.4").exists()
    of_ada = ("--of", "ada", "--config", str(config), "--connection", "cache")
    assert run(capsys, "export", "context", f"{file}.5", *of_ada)[1]["lines"] == 1


def test_all_of_a_user_is_exported_to_be_read_and_to_be_imported(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    read, whole = str(tmp_path / "read"), str(tmp_path / "whole")
    with DatabaseManager() as manager:
        manager.add("main", urls[0])
        of_ada = {"user_id": "ada"}
        DatabaseCheckpointer(manager, "main").save_checkpoint(Checkpoint("c", {"a": 1}, metadata=of_ada))
        TaskStore(manager, "main").add_many([Task(kind="work", metadata=of_ada)])
        MemoryGraph(manager, "main").in_scope("identity").add_node(Node("me", "thing", of_ada), approved_by="eve")
        EventLog(manager, "main").append_many([Event(kind="log", message="m", tags=of_ada)])
        for namespace in ("default", "second"):
            store = SQLiteVectorStore(manager, "main", dimensions=2, namespace=namespace)
            store.store_documents([Document("d", "text", of_ada, [1.0, 0.0])])
    assert run(capsys, "export", "user", read, "--of", "ada", "--url", urls[0])[0] == 0
    kinds = sorted(json.loads(line).get("kind", "") for line in Path(read).read_text().split("\n")[:-1])
    assert kinds == [
        "",
        "checkpoint",
        "document",
        "document",
        "event",
        "item",
        "message",
        "message",
        "node",
        "task",
        "thread",
    ]
    code, found = run(capsys, "export", whole, "--user", "ada", "--url", urls[0])
    assert (code, found["tables"]["holdfast_documents"], found["tables"]["holdfast_graph_nodes"]) == (0, 2, 1)
    assert run(capsys, "import", whole, "--url", urls[1], "--verify")[1]["differences"] == []
    again = run(capsys, "import", whole, "--url", urls[1])[1]
    assert (again["imported"], again["kept"]) == (0, found["rows"])
    with DatabaseManager() as manager:
        manager.add("main", urls[1])
        assert DatabaseCheckpointer(manager, "main").latest("c").state == {"a": 1}


def test_an_option_of_another_form_is_wrong_usage(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(tmp_path / "x")
    for given, said in (
        (["export", file, "--of", "t1"], "--of is not for all"),
        (["export", "context", file, "--user", "ada"], "--user is not for context"),
        (["import", "messages", file, "--merge"], "--merge is not for messages"),
        (["import", file, "--approved-by", "eve"], "--approved-by is not for all"),
    ):
        code, told = run(capsys, *given, "--url", urls[0])
        assert (code, said in told) == (2, True), told
    for given in (["export", "--url", urls[0]], ["export", "nothing", file], ["import", "user", file]):
        with pytest.raises(SystemExit) as raised:
            main(given)
        assert raised.value.code == 2
    assert not list(tmp_path.glob("x*"))


def test_a_file_that_is_not_whole_is_refused(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    assert run(capsys, "export", "messages", str(file), "--of", "t1", "--url", urls[0])[0] == 0
    code, told = run(capsys, "export", "messages", str(file), "--of", "t1", "--url", urls[0])
    assert (code, "is there already" in told) == (1, True)
    whole = file.read_text().splitlines(keepends=True)
    for torn in (whole[:-1], whole[1:], [whole[0].replace("ada", "bob"), *whole[1:]], [], ["no JSON\n"]):
        file.write_text("".join(torn))
        code, told = run(capsys, "import", "messages", str(file), "--url", urls[1])
        assert (code, "is torn or was edited" in told) == (1, True)
    assert run(capsys, "import", "messages", str(tmp_path / "none"), "--url", urls[1])[0] == 1
    assert run(capsys, "export", "messages", str(tmp_path / "x"), "--url", urls[0])[0] == 2
    assert {each.name for each in tmp_path.iterdir() if each.name[0] in ".fx"} == {"file"}


def test_an_export_is_its_owner_s_alone_whatever_lies_beside_it(
    tmp_path: Path, urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, other = tmp_path / "file", tmp_path / "file.part"
    other.write_text("of another run")
    other.chmod(0o666)
    for code in (0, 1):
        assert run(capsys, "export", "messages", str(file), "--of", "t1", "--url", urls[0])[0] == code
        assert (file.stat().st_mode & 0o777, other.read_text()) == (0o600, "of another run")


def test_a_copy_is_counted_made_and_compared(urls: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["copy", "--from", urls[0], "--to", urls[1], "--only", "persistence"]
    code, found = run(capsys, *arguments, "--dry-run")
    assert (code, found["tables"]["holdfast_key_values"]) == (0, 1)
    code, found = run(capsys, *arguments, "--verify")
    assert (code, found["differences"]) == (0, [])
    assert {each["name"]: each["rows"] for each in found["tables"]}["holdfast_key_values"] == 1
    with DatabaseManager() as manager:
        manager.add("main", urls[1])
        KeyValueStore(manager, "main").put("own", 1)
    code, found = run(capsys, *arguments, "--verify")
    assert code == 3
    assert [(each["key"], each["what"]) for each in found["differences"]] == [
        (["default", "default", "own"], "is only in the target")
    ]


def test_all_of_a_user_is_counted_and_erased_in_every_store(
    urls: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with DatabaseManager() as manager:
        manager.add("main", urls[0])
        vault = SecretVault(manager, "main", Cipher({"k": bytes(32)}, "k"))
        for number, user in enumerate(("ada", "bob")):
            named = {"user_id": user}
            ContextStore(manager, "main", secrets=vault).for_user(user).push("login", {"password": "hunter2-hunter2"})
            flow = Checkpoint(f"flow of {user}", {"n": 1}, metadata=named)
            DatabaseCheckpointer(manager, "main").save_checkpoint(flow)
            for namespace in ("one", "two"):
                store = SQLiteVectorStore(manager, "main", dimensions=2, namespace=namespace)
                store.store_documents([Document(f"of {user}", "text", named, [1, 0])])
            MemoryGraph(manager, "main").in_scope("COMMUNITY").add_node(Node(f"note {number}", "thing", named))
            graph = MemoryGraph(manager, "main").in_scope("IDENTITY")
            graph.add_node(Node(f"who {number} is", "thing", named), approved_by="wise")
            EventLog(manager, "main").append(Event(kind="seen", tags=named))
            TaskStore(manager, "main").for_owner("o").add(Task(kind="mail", metadata=named))
    command = ("erase-user", "--user", "ada", "--url", urls[0])
    with pytest.raises(SystemExit) as raised:
        main(command)
    assert raised.value.code == 2
    capsys.readouterr()
    found = {"thread": 1, "item": 2, "node": 2, "event": 1, "task": 1, "secret": 1, "checkpoint": 1, "document": 2}
    code, told = run(capsys, *command, "--dry-run")
    assert (code, told["dry_run"]) == (0, True)
    assert told["counts"].items() >= found.items()
    code, refused = run(capsys, *command, "--yes")  # IDENTITY wants an approval
    assert code == 1
    assert "approv" in refused
    assert run(capsys, *command, "--dry-run")[1] == told  # all or nothing
    code, gone = run(capsys, *command, "--approved-by", "wise", "--yes")
    assert (code, gone["user"], gone["dry_run"]) == (0, "ada", False)
    plural = {"threads": 1, "items": 2, "nodes": 2, "events": 1, "tasks": 1, "secrets": 1, "checkpoints": 1}
    assert gone["counts"].items() >= {**plural, "documents": 2}.items()
    assert run(capsys, *command, "--dry-run")[1]["counts"] == {}
    assert run(capsys, "erase-user", "--user", "bob", "--url", urls[0], "--dry-run")[1]["counts"]["document"] == 2
    with sqlite3.connect(urls[0].removeprefix("sqlite:///")) as connection:
        assert re.findall(r".*\bada\b.*", "\n".join(connection.iterdump())) == []
    connection.close()

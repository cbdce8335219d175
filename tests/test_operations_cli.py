"""The operator's subcommands of ``holdfast`` on real servers: what they print, and how they end."""

from __future__ import annotations

import io
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import DatabaseManager, KeyValueStore, PgVectorConfig, PostgreSQLConfig, RedisConfig
from persistence.cli import main
from persistence.connections_cli import table
from tests.servers import redis_url, url_of
from vectorstore import Document, PgVectorStore, SQLiteVectorStore


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty database."""
    for name in ("HOLDFAST_URL", "HOLDFAST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    if request.param == "postgresql":
        return url_of(request.getfixturevalue("postgresql_config"))
    return f"sqlite:///{tmp_path}/main.db"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Return the exit code, and the JSON that the command wrote, or else what it said."""
    code = main([*arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else told.err


def fill(url: str) -> None:
    with DatabaseManager() as manager:
        manager.add("main", url)
        store = DatabaseCheckpointer(manager, "main")
        for thread in ("a", "b"):
            for step in range(3):
                metadata: dict[str, Any] = {"user": thread} | ({"tag": "kept"} if step == 0 else {})
                store.save_checkpoint(Checkpoint(thread_id=thread, state={"step": step}, metadata=metadata, node="n"))


def test_threads_and_checkpoints_are_listed_and_pruned(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    code, told = run(capsys, "threads", "--url", url, "--filter", '{"user": "b"}')
    assert code == 0
    assert [(each["thread_id"], each["versions"]) for each in told["threads"]] == [("b", {"": 3})]
    code, told = run(capsys, "threads", "--url", url, "--limit", "1", "--after", "a")
    assert [each["thread_id"] for each in told["threads"]] == ["b"]
    code, told = run(capsys, "checkpoints", "a", "--url", url, "--before", "3")
    assert [(each["version"], each["node"], each["metadata"]) for each in told["checkpoints"]] == [
        (2, "n", {"user": "a"}),
        (1, "n", {"user": "a", "tag": "kept"}),
    ]
    code, told = run(capsys, "prune", "--url", url, "--keep-last", "1", "--dry-run")
    assert (code, told["checkpoints"]) == (0, 2)
    code, told = run(capsys, "prune", "--url", url, "--keep-last", "1")
    assert (code, told["checkpoints"]) == (0, 2)
    code, told = run(capsys, "checkpoints", "a", "--url", url)
    assert [each["version"] for each in told["checkpoints"]] == [3, 1]
    code, told = run(capsys, "prune", "--url", url)
    assert code == 2
    assert "prune what?" in told
    assert main(["threads", "--url", url]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["thread", "version", "updated"]


def test_health_names_what_is_ill(
    url: str, redis_config: RedisConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dead = "dead=redis://localhost:1/0"
    fill(url)
    code, told = run(capsys, "health", "--url", f"main={url}", "--url", f"cache={redis_url(redis_config)}")
    assert code == 0
    assert [(each["name"], each["healthy"]) for each in told["health"]] == [("main", True), ("cache", True)]
    code, told = run(capsys, "health", "--url", url, "--url", dead, "--timeout", "1")
    assert code == 3
    assert [(each["name"], each["healthy"]) for each in told["health"]] == [("main", True), ("dead", False)]
    assert told["health"][1]["error"]
    assert main(["health", "--url", url, "--watch", "0.01", "--times", "3"]) == 0
    assert capsys.readouterr().out.count("healthy") == 3


def test_connections_come_from_flags_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("HOLDFAST_URL", raising=False)
    monkeypatch.delenv("HOLDFAST_CONFIG", raising=False)
    code, told = run(capsys, "health")
    assert code == 1
    assert "no connection is named" in told
    file = tmp_path / "holdfast.toml"
    file.write_text('[connections]\none = "sqlite://"\ntwo = {env = "SECOND_URL"}\n')
    code, told = run(capsys, "health", "--config", str(file))
    assert code == 1
    assert "wants the variable SECOND_URL" in told
    monkeypatch.setenv("SECOND_URL", "sqlite://")
    monkeypatch.setenv("HOLDFAST_CONFIG", str(file))
    code, told = run(capsys, "health")
    assert [each["name"] for each in told["health"]] == ["one", "two"]
    monkeypatch.setenv("HOLDFAST_URL", "sqlite://")
    code, told = run(capsys, "health")
    assert [each["name"] for each in told["health"]] == ["main"]
    for text, part in (("connections = 7", "no table"), ("[", "no TOML"), ("[connections]\na = 7", "neither a URL")):
        file.write_text(text)
        code, told = run(capsys, "health", "--config", str(file))
        assert code == 1
        assert part in told
    code, told = run(capsys, "backup", "x", "--url", "a=sqlite://", "--url", "b=sqlite://")
    assert "which connection: a, b?" in told


def test_sizes_are_told_the_largest_first(
    url: str, redis_config: RedisConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    code, told = run(capsys, "stats", "--url", url, "--url", f"cache={redis_url(redis_config)}", "--limit", "100")
    assert code == 0
    main_, tables = told["connections"]["main"], told["connections"]["main"]["tables"]
    assert main_["bytes"] > sum(each["bytes"] for each in tables) > 0
    assert [each["bytes"] for each in tables] == sorted((each["bytes"] for each in tables), reverse=True)
    rows = {each["name"]: (each["rows"], each["rows_are"]) for each in tables}
    assert rows["holdfast_checkpoints"] == (6, "counted")
    assert rows["holdfast_checkpoint_threads"] == (2, "counted")
    assert rows["holdfast_checkpoint_writes"] == (0, "counted")
    assert told["connections"]["cache"]["keys"] == 0
    assert main(["stats", "--url", url, "--limit", "3"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == ["table", "rows", "bytes"]
    assert [(line[0], line[-1]) for line in lines[2:]] == [(each["name"], f"{each['bytes']:,}") for each in tables[:3]]


def test_a_tenant_is_erased_once_somebody_is_sure(
    url: str, redis_config: RedisConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url)
    cache = redis_url(redis_config)
    with DatabaseManager() as manager:
        manager.add("main", url)
        manager.add("cache", cache)
        KeyValueStore(manager, "main", tenant="acme").put("k", 1)
        KeyValueStore(manager, "cache", tenant="acme").put("k", 1)
    given = ("erase-tenant", "--url", url, "--tenant", "acme")
    for wrong in (given, (*given, "--yes", "--dry-run"), (*given[:3], "--yes")):
        with pytest.raises(SystemExit) as raised:
            main(wrong)
        assert raised.value.code == 2
    capsys.readouterr()
    whole = {"tenant": "acme", "rows": 1, "tables": {"holdfast_key_values": 1}, "left_out": []}
    assert run(capsys, *given, "--dry-run") == (0, {**whole, "dry_run": True})
    assert run(capsys, *given, "--yes") == (0, {**whole, "dry_run": False})
    assert run(capsys, *given, "--yes") == (0, {**whole, "rows": 0, "tables": {}, "dry_run": False})
    told = run(capsys, "threads", "--url", url)[1]
    assert [each["thread_id"] for each in told["threads"]] == ["a", "b"]
    both = ("erase-tenant", "--url", f"main={url}", "--url", f"cache={cache}", "--tenant", "acme")
    assert "which connection: main, cache?" in run(capsys, *both, "--yes")[1]
    assert main([*both, "--connection", "cache", "--yes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["keys"], ["kv", "2"]]
    assert lines[2:] == ["cache: 2 keys of acme are gone", "not looked at: main"]


def test_a_backup_is_restored(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    code, told = run(capsys, "backup", str(tmp_path / "kept"), "--url", url)
    assert (code, told["bytes"]) == (0, (tmp_path / "kept").stat().st_size)
    run(capsys, "prune", "--url", url, "--keep-last", "1", "--tagged-too")
    code, told = run(capsys, "restore", str(tmp_path / "kept"), "--url", url, "--yes")
    assert (code, told) == (0, {"restored": "main"})
    code, told = run(capsys, "checkpoints", "a", "--url", url)
    assert [each["version"] for each in told["checkpoints"]] == [3, 2, 1]


def test_the_doctor_finds_what_was_broken(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(url)
    with DatabaseManager() as manager:
        manager.add("main", url)
        database = manager.get_database("main")
        code, told = run(capsys, "doctor", "--url", url)
        known = {each["what"] for each in told["findings"]}
        database.execute("ALTER TABLE holdfast_checkpoint_threads ADD COLUMN mine integer")
        code, told = run(capsys, "doctor", "--url", url)
        assert code == 3
        new = [each for each in told["findings"] if each["what"] not in known]
        assert [(each["severity"], each["what"]) for each in new] == [
            ("problem", "unexpected column holdfast_checkpoint_threads.mine")
        ]
        if database.kind == "postgresql":
            # The tests' server runs without fsync.
            assert {what.partition(" is off")[0] for what in known} >= {"fsync", "full_page_writes"}
            database.execute("CREATE TABLE twice (n integer)")
            database.execute("INSERT INTO twice VALUES (1), (1)")
            with pytest.raises(Exception, match="could not create unique index"):
                database.execute("CREATE UNIQUE INDEX CONCURRENTLY twice_n ON twice (n)")
            code, told = run(capsys, "doctor", "--url", url)
            assert "index twice_n of twice is not valid" in " ".join(each["what"] for each in told["findings"])


def test_the_doctor_goes_on_for_a_role_that_may_make_no_schema(
    postgresql_config: PostgreSQLConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(url_of(postgresql_config))
    name = f"reader_{postgresql_config.database[-12:]}"
    with DatabaseManager() as manager:
        owner = manager.add_postgresql("owner", postgresql_config)
        owner.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader'")
        owner.execute(f'GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{name}"')
        try:
            role = replace(postgresql_config, username=name, password="reader")
            code, told = run(capsys, "doctor", "--url", url_of(role))
        finally:
            owner.execute(f'DROP OWNED BY "{name}"')
            owner.execute(f'DROP ROLE "{name}"')
    found = {each["what"]: each["severity"] for each in told["findings"]}
    assert code == 3
    assert "problem" in found.values()  # the tests' server runs without fsync
    (refused,) = [what for what in found if "can't be compared" in what]
    assert found[refused] == "advice"


def test_the_doctor_says_what_redis_would_lose(redis_config: RedisConfig, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(capsys, "doctor", "--url", redis_url(redis_config), "--url", "dead=redis://localhost:1/0")
    assert code == 3
    assert {each["connection"] for each in told["findings"]} == {"main", "dead"}
    assert told["findings"][0]["what"].startswith("appendfsync is everysec")
    assert "it can't be examined" in told["findings"][-1]["what"]


def test_documents_are_searched_by_words_and_by_a_vector(
    url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with DatabaseManager() as manager:
        if url.startswith("sqlite"):
            manager.add("main", url)
            store: Any = SQLiteVectorStore(manager, "main", collection="notes", dimensions=3, text_search="english")
        else:
            settings = PostgreSQLConfig.from_url(url)
            given = {field.name: getattr(settings, field.name) for field in fields(PostgreSQLConfig)}
            manager.add_pgvector("main", PgVectorConfig(**given, dimensions=3))
            store = PgVectorStore(manager, "main", collection="notes", text_search="english")
        store.store_documents(
            Document(id=f"n{at}", content=content, metadata={"at": at}, embedding=np.eye(3)[at])
            for at, content in enumerate(["a bridge of steel", "a tunnel", "bridges and tunnels"])
        )
    own = ("--url", url, "--collection", "notes")
    code, told = run(capsys, "search", "bridge", *own, "--filter", '{"at": {"$gte": 1}}')
    assert code == 0
    assert [each["id"] for each in told["results"]] == ["n2"]
    monkeypatch.setattr("sys.stdin", io.StringIO("[0, 1, 0]"))
    code, told = run(capsys, "search", *own, "-k", "1")
    assert [(each["id"], each["score"]) for each in told["results"]] == [("n1", 1.0)]
    monkeypatch.setattr("sys.stdin", io.StringIO("[0, 1, 0]"))
    assert [each["id"] for each in run(capsys, "search", *own, "--offset", "1")[1]["results"]] == ["n0", "n2"]
    code, told = run(capsys, "search", "x", "--url", url, "--collection", "none")
    assert code == 1
    assert "there is no collection 'none'" in told


def test_a_table_has_numbers_to_the_right_and_says_what_is_missing() -> None:
    assert table([("a", 1234, None), ("long", 5, 2.5)], ("name", "n", "x")).splitlines() == [
        "name      n     x",
        "a     1,234     -",
        "long      5  2.50",
    ]


def test_the_demo_resumes_where_it_was_killed(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(capsys, "demo", "--url", url, "--steps", "40")
    assert code == 0
    assert told["each_step_once"] is True
    assert told["checkpoints"] == 40
    assert 20 <= told["killed_at"] <= 40
    assert told["healthy"] is True

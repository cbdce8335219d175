"""``holdfast migrate`` on PostgreSQL and SQLite: what it does, what it prints, how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from persistence import DatabaseManager, Migration
from persistence.cli import main
from persistence.migration_advice import advice
from persistence.migrations import parse_migration
from tests.servers import url_of

FIRST = "-- up\nCREATE TABLE customers (id INTEGER PRIMARY KEY);\n-- down\nDROP TABLE customers;\n"
SECOND = "-- up\nALTER TABLE customers RENAME TO clients;\n-- down\nALTER TABLE clients RENAME TO customers;\n"


@pytest.fixture(params=["postgresql", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty database; the working folder is empty too."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("HOLDFAST_URL", raising=False)
    if request.param == "postgresql":
        return url_of(request.getfixturevalue("postgresql_config"))
    return f"sqlite:///{tmp_path}/main.db"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Return the exit code, and the JSON that the command wrote."""
    code = main(["migrate", *arguments, "--json"])
    told = capsys.readouterr()
    return code, json.loads(told.out) if told.out else told.err


def test_a_line_of_ones_own_goes_up_and_down(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    kind = url.partition(":")[0]
    own = ("--url", url, "--line", "shop", "--folder", "migrations")
    for name, text in (("customers", FIRST), ("clients", SECOND)):
        code, told = run(capsys, "create", name, *own)
        assert code == 0
        Path(told["created"]).write_text(text)
    assert sorted(path.name for path in Path("migrations", kind).iterdir()) == [
        "0001_customers.sql",
        "0002_clients.sql",
    ]
    code, told = run(capsys, "status", *own)
    assert code == 3
    pending = ["shop/0001_customers", "shop/0002_clients"]
    assert told == {"lines": {"shop": {"current": 0, "target": 2, "pending": pending, "begun": None}}}
    code, told = run(capsys, "up", "--dry-run", "--to", "1", *own)
    statement = "CREATE TABLE customers (id INTEGER PRIMARY KEY)"
    assert told == {"dry_run": [{"migration": "shop/0001_customers", "tried": True, "statements": [statement]}]}
    code, told = run(capsys, "up", "--backup", "before", *own)
    assert (code, told) == (0, {"applied": pending, "backup": "before"})
    assert Path("before").stat().st_size > 0
    assert run(capsys, "up", *own) == (0, {"applied": [], "backup": None})
    assert run(capsys, "validate", *own) == (0, {"differences": []})
    code, told = run(capsys, "history", *own)
    assert [each["migration"] for each in told["history"]] == pending[::-1]
    assert run(capsys, "down", "--no-backup", *own) == (0, {"undone": ["shop/0002_clients"], "backup": None})
    code, told = run(capsys, "advice", *own)
    assert code == 3
    assert [each["problem"] for each in told["advice"]] == ["breaks programs that still use the old name"]
    with DatabaseManager() as manager:
        manager.add("main", url)
        manager.get_database("main").execute("DROP TABLE customers")
    code, told = run(capsys, "validate", *own)
    assert code == 3
    assert [(each["kind"], each["table"]) for each in told["differences"]] == [("missing table", "customers")]


def test_the_lines_that_ship_go_up_and_are_as_they_should_be(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = run(capsys, "up", "--url", url)
    assert code == 0
    assert {name.partition("/")[0] for name in told["applied"]} >= {"checkpoint", "vectorstore", "sessions"}
    assert (told["backup"], list(Path().iterdir())) == (None, [])  # there was nothing to lose
    assert run(capsys, "down", "--line", "sessions", "--no-backup", "--url", url)[0] == 0
    code, told = run(capsys, "up", "--url", url)
    [backup] = Path().iterdir()
    assert (code, told["backup"]) == (0, str(backup))
    code, told = run(capsys, "status", "--url", url)
    assert code == 0
    assert all(line["current"] == line["target"] for line in told["lines"].values())
    assert run(capsys, "validate", "--url", url) == (0, {"differences": []})


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("down", "--url", "sqlite://"), "down needs one --line"),
        (("create", "x", "--line", "shop", "--url", "sqlite://"), "create needs --folder"),
        (("create", "--url", "sqlite://"), "create needs its NAME or N"),
        (("status", "x", "--url", "sqlite://"), "status takes no NAME"),
        (("adopt", "x", "--line", "sessions", "--url", "sqlite://"), "adopt needs a number"),
        (("status", "--line", "shop", "--url", "sqlite://"), "no line is called 'shop'"),
    ],
)
def test_a_command_line_that_says_too_little_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], part: str
) -> None:
    assert main(["migrate", *arguments]) == 2
    assert part in capsys.readouterr().err


def found(text: str) -> list[str]:
    migration: Migration = parse_migration("app", "0002_x.sql", f"-- up\n{text}")
    return [each.problem for each in advice(migration, "postgresql")]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("CREATE INDEX a_b ON a (b);", "keeps writers of the table out"),
        ("CREATE UNIQUE INDEX a_b ON a (b);", "keeps writers of the table out"),
        ("DROP INDEX a_b;", "waits for every transaction"),
        ("ALTER TABLE a ADD COLUMN b text NOT NULL;", "fails where the table has rows"),
        ("ALTER TABLE a ALTER COLUMN b TYPE bigint;", "rewrites the table"),
        ("ALTER TABLE a ALTER COLUMN b SET NOT NULL;", "reads the whole table"),
        ("ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d;", "reads the whole table"),
        ("ALTER TABLE a RENAME COLUMN b TO c;", "old name"),
        ("ALTER TABLE a DROP COLUMN b;", "still use it"),
        ("DROP TABLE a;", "still use it"),
    ],
)
def test_what_stops_a_program_in_use_is_named(text: str, part: str) -> None:
    [problem] = found(text)
    assert part in problem


@pytest.mark.parametrize(
    "text",
    [
        "CREATE INDEX CONCURRENTLY a_b ON a (b);",
        "CREATE TABLE n (b integer NOT NULL); CREATE INDEX n_b ON n (b);",
        "ALTER TABLE a ADD COLUMN b text NOT NULL DEFAULT 'x';",
        "ALTER TABLE a ADD COLUMN b text;",
        "ALTER TABLE a ADD CONSTRAINT c FOREIGN KEY (b) REFERENCES d NOT VALID;",
        "INSERT INTO a VALUES ('DROP TABLE a; RENAME');",
    ],
)
def test_what_only_expands_is_fine(text: str) -> None:
    assert found(text) == []

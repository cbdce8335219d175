"""Statements in several files: all of a package's are found by name, and a name is given once."""

from __future__ import annotations

from pathlib import Path

import pytest

from persistence import ConfigError
from persistence.queries import load_queries, query_files


def package(folder: Path, name: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a package with an sql folder and return its name."""
    (folder / name / "sql").mkdir(parents=True)
    (folder / name / "__init__.py").write_text("")
    for filename, text in files.items():
        (folder / name / "sql" / filename).write_text(text)
    monkeypatch.syspath_prepend(folder)
    return name


def test_the_statements_of_every_file_of_a_kind_are_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "sqlite.sql": "-- name: one\nSELECT 1;\n",
        "more_sqlite.sql": "-- Says what they share.\n\n-- name: two\n-- hot\nSELECT 2;\n",
        "postgresql.sql": "-- name: one\nSELECT 3;\n",
        "notsqlite.sql": "-- name: other\nSELECT 4;\n",
        "notes.md": "",
    }
    name = package(tmp_path, "queries_in_files", files, monkeypatch)
    assert [entry.name for entry in query_files(name, "sqlite")] == ["more_sqlite.sql", "sqlite.sql"]
    assert vars(load_queries(name, "sqlite")) == {"one": "SELECT 1", "two": "-- hot\nSELECT 2"}
    assert vars(load_queries(name, "postgresql")) == {"one": "SELECT 3"}


def test_a_name_in_two_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"sqlite.sql": "-- name: one\nSELECT 1;\n", "more_sqlite.sql": "-- name: one\nSELECT 2;\n"}
    name = package(tmp_path, "queries_twice", files, monkeypatch)
    with pytest.raises(ConfigError, match="one"):
        load_queries(name, "sqlite")

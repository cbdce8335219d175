"""The page of faults names tests: each of them exists, and no row of the plan is missing."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tests.unasync import ROOT

PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| ([A-Z][A-Za-z]*) ?(\d+) \|(.*)\|$", PAGE, re.MULTILINE)
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)))


def defined_in(path: Path) -> set[str]:
    """Return the names of the tests in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {item.name for item in tree.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_the_page_names_is_there() -> None:
    there = {path: defined_in(ROOT / "tests" / path) for path in {path for path, _ in NAMED}}
    assert [f"{path}::{name}" for path, name in NAMED if name not in there[path]] == []
    assert len(NAMED) > 100


def test_the_rows_are_numbered_without_gaps() -> None:
    least = {"F": 31, "L": 8, "B": 10, "S": 11, "SYNAPSE": 5, "GoLangGraph": 12, "CIRIS": 12, "Aragora": 12}
    for kind, count in least.items():
        numbers = [int(number) for each, number, _ in ROWS if each == kind]
        assert numbers == list(range(1, len(numbers) + 1)), kind
        assert len(numbers) >= count, kind
    assert {kind for kind, _, _ in ROWS} == set(least)


def test_every_row_names_a_test() -> None:
    assert [(kind, number) for kind, number, rest in ROWS if "::test_" not in rest] == []

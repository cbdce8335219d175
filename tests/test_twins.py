"""The generated side is what the generator gives today, and each of its rules does what it says."""

import ast
import re
from pathlib import Path

import pytest

from tests import unasync


def test_every_twin_is_what_its_source_gives_today() -> None:
    found = unasync.survey()
    stale = [str(path.relative_to(unasync.ROOT)) for path in (*found.stale(), *found.orphans)]
    assert not stale, f"stale, run `{unasync.COMMAND}`: {', '.join(stale)}"
    assert not found.faults, "\n".join(found.faults)


def test_every_rule_is_needed_by_some_source() -> None:
    used = unasync.survey().used
    unused = [rule for rule in unasync.RULES if not used[rule]]
    assert not unused, f"no source needs these rules, take them out of tests/unasync.py: {unused}"


HAND_WRITTEN = [
    path
    for package in unasync.PACKAGES
    for path in sorted((unasync.ROOT / package / "_async").glob("*.py"))
    if unasync.SKIP in path.read_text().partition("\n")[0]
]


def names_offered(path: Path) -> set[str]:
    """Return the module's `__all__`, or without one the public names that it defines."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            bound = {target.id for target in targets if isinstance(target, ast.Name)}
            if "__all__" in bound and node.value is not None:
                return set(ast.literal_eval(node.value))
            names |= bound
    return {name for name in names if not name.startswith("_")}


def test_the_hand_written_pairs_are_found() -> None:
    assert unasync.ROOT / "persistence/_async/compat.py" in HAND_WRITTEN


@pytest.mark.parametrize("source", HAND_WRITTEN, ids=lambda path: str(path.relative_to(unasync.ROOT)))
def test_a_hand_written_pair_offers_the_same_names(source: Path) -> None:
    offered = {unasync.twin(name) for name in names_offered(source)}
    assert offered == names_offered(source.parent.parent / "_sync" / source.name)


RULE_EXAMPLES = [
    ("x = 1\n# [async-only]\ny = 2\n# [/async-only]\nz = 3\n", "x = 1\nz = 3\n"),
    ("x = 1\ny = 2  # async-only\nz = 3\n", "x = 1\nz = 3\n"),
    ("    # sync-only: x = 1\n", "    x = 1\n"),
    ("import redis.asyncio as driver\n", "import redis as driver\n"),
    ("from redis.asyncio.client import Pipeline\n", "from redis.client import Pipeline\n"),
    ("@pytest_asyncio.fixture\n", "@pytest.fixture\n"),
    ("async def f(): ...\n", "def f(): ...\n"),
    ("[x async for x in y]\n", "[x for x in y]\n"),
    ("return (await f(await g())).h\n", "return (f(g())).h\n"),
    ('"""Call ``await db.execute`` in ``async with db``."""\n', '"""Call ``db.execute`` in ``with db``."""\n'),
    ("class AsyncStore(AsyncConnection[Row]):\n", "class Store(Connection[Row]):\n"),
    ("raise StopAsyncIteration\n", "raise StopIteration\n"),
    ("AbstractAsyncContextManager, AsyncExitStack\n", "AbstractContextManager, ExitStack\n"),
    ("await self.aclose()\nawait self._aclose_all()\n", "self.close()\nself._close_all()\n"),
    ("async with aclosing(rows):\n", "with closing(rows):\n"),
    ("__aenter__ __aexit__ __aiter__ __anext__\n", "__enter__ __exit__ __iter__ __next__\n"),
    ("from x import Awaitable, Callable\n", "from x import Callable\n"),
    ("Callable[[int], Awaitable[dict[str, list[T]]]]\n", "Callable[[int], dict[str, list[T]]]\n"),
    ("from persistence._async.database import AsyncDatabase\n", "from persistence._sync.database import Database\n"),
    ("from x import AsyncIterator, Callable, Iterator\n", "from x import Iterator, Callable\n"),
    ("from x import (\n    AsyncA,\n    A,\n    B,\n)\n", "from x import (\n    A,\n    B,\n)\n"),
]


@pytest.mark.parametrize(("source", "expected"), RULE_EXAMPLES)
def test_a_source_turns_into_its_twin(source: str, expected: str) -> None:
    assert unasync.twin(source) == expected


def test_every_rule_has_an_example() -> None:
    assert not [rule for rule in unasync.RULES if not any(re.search(rule, source) for source, _ in RULE_EXAMPLES)]


@pytest.mark.parametrize(
    "source",
    [
        "an asynchronous call, awaited\n",
        "the async side\n",
        "enclosed, disclosing, a close call\n",
        "in_async = not_async_only\n",
        "from x import Row, Row as Record\n",
    ],
)
def test_what_is_not_async_stays_as_it_is(source: str) -> None:
    assert unasync.twin(source) == source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for package in unasync.PACKAGES:
        (tmp_path / package / "_async").mkdir(parents=True)
    (tmp_path / "sessions/_async/tasks.py").write_text("async def take(): ...\n")
    return tmp_path


def test_generating_writes_each_twin_under_a_line_that_names_its_source(tree: Path) -> None:
    assert unasync.main([], tree) == 0
    header = "# Generated from ../_async/tasks.py by tests/unasync.py: edit that one.\n"
    assert (tree / "sessions/_sync/tasks.py").read_text() == header + "def take(): ...\n"


def test_check_names_the_stale_file_and_writes_nothing(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert unasync.main(["--check"], tree) == 1
    message = capsys.readouterr().out
    assert "sessions/_sync/tasks.py" in message
    assert unasync.COMMAND in message
    assert not (tree / "sessions/_sync").exists()


def test_check_passes_once_generated_and_fails_after_an_edit_of_the_source(tree: Path) -> None:
    unasync.main([], tree)
    assert unasync.main(["--check"], tree) == 0
    (tree / "sessions/_async/tasks.py").write_text("async def give(): ...\n")
    assert unasync.main(["--check"], tree) == 1


def test_a_twin_whose_source_is_gone_is_reported_then_removed(tree: Path) -> None:
    unasync.main([], tree)
    (tree / "sessions/_async/tasks.py").unlink()
    assert unasync.main(["--check"], tree) == 1
    assert unasync.main([], tree) == 0
    assert not (tree / "sessions/_sync/tasks.py").exists()


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (None, "x = 1\n"),
        ("# unasync: skip\n", None),
        ("# unasync: skip\n", "x = 1\n"),
        ("x = 1\n", "# unasync: skip\n"),
    ],
)
def test_a_file_written_by_hand_on_one_side_is_a_fault_and_is_never_overwritten(
    tree: Path, source: str | None, target: str | None
) -> None:
    (tree / "sessions/_sync").mkdir()
    for side, text in (("_async", source), ("_sync", target)):
        if text is not None:
            (tree / f"sessions/{side}/compat.py").write_text(text)
    assert unasync.main([], tree) == 1
    assert not (tree / "sessions/_sync/tasks.py").exists()
    if target is not None:
        assert (tree / "sessions/_sync/compat.py").read_text() == target


def test_a_test_of_what_only_async_can_do_needs_no_twin(tree: Path) -> None:
    (tree / "tests/_async").mkdir(parents=True)
    (tree / "tests/_async/test_cancellation.py").write_text("# unasync: skip\n")
    assert unasync.main([], tree) == 0
    assert not (tree / "tests/_sync").exists()

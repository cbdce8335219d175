"""A store that is given the manager of the other side, or none, says so before anything is done."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import checkpoint
import persistence
import sessions
import vectorstore
from persistence import AsyncDatabaseManager, Cipher, DatabaseManager, SQLiteConfig, WrongKindError
from sessions import AsyncTaskStore, Task
from sessions.openai_agents import HoldfastSession


@dataclass
class Note:
    id: str


OTHERS: dict[str, Any] = {
    "name": "main",
    "lock": "a",
    "topic": "a",
    "table": "notes",
    "entity": Note,
    "cache": "main",
    "cipher": Cipher({"k": bytes(32)}, "k"),
    "session_id": "s",
    "tenant": "t",
}


def taking_a_manager() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield all that is exported and takes a manager, and what else it has to be given."""
    for package in (persistence, checkpoint, vectorstore, sessions):
        for name in package.__all__:
            found = getattr(package, name)
            if not callable(found) or not (name.endswith("examine") or isinstance(found, type)):
                continue
            try:
                taken = inspect.signature(found).parameters
            except ValueError:
                continue
            if "manager" in taken:
                given = [each for each in taken.values() if each.default is each.empty or each.name == "name"]
                yield found, {each.name: OTHERS[each.name] for each in given if each.name in OTHERS}


STORES = {found.__name__: (found, others) for found, others in taking_a_manager()}


def test_all_are_there() -> None:
    assert {"TaskStore", "AsyncTaskStore", "HealthMonitor", "LeaseLock", "PgVectorStore", "DatabaseCheckpointer"} < {
        *STORES
    }
    assert len(STORES) > 40


@pytest.mark.parametrize("name", STORES)
async def test_a_manager_of_the_other_side_is_refused(name: str, tmp_path: Path) -> None:
    found, others = STORES[name]
    given: Any = DatabaseManager() if "Async" in name else AsyncDatabaseManager()
    wanted = "AsyncDatabaseManager" if "Async" in name else "DatabaseManager"
    for manager in (given, "sqlite:///app.db", SQLiteConfig(path=":memory:")):
        with pytest.raises(WrongKindError, match=f"a {type(manager).__name__} is no {wanted} "):
            found(manager, **others)


async def test_what_was_refused_leaves_the_manager_as_it_is(tmp_path: Path) -> None:
    async with AsyncDatabaseManager() as manager:
        await manager.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "app.db")))
        wrong: Any = manager
        with pytest.raises(WrongKindError):
            sessions.TaskStore(wrong, "main")
        stored = await AsyncTaskStore(manager, "main").add(Task(kind="k"))
        assert await AsyncTaskStore(manager, "main").find() == [stored]
    with DatabaseManager() as other:
        other.add_sqlite("main", SQLiteConfig(path=str(tmp_path / "app.db")))
        wrong = other
        with pytest.raises(WrongKindError):
            HoldfastSession("s", wrong)

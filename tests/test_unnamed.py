"""What is said where a store is made without the name of its connection: which names there are, of every store."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

import pytest

from persistence import AsyncDatabaseManager, DatabaseManager, UnknownConnectionError, WrongKindError
from tests.unasync import PACKAGES


def stores() -> list[Any]:
    """Return every public class that takes a manager and a name."""
    faces = [import_module(package) for package in PACKAGES]
    classes = [found for face in faces for name in face.__all__ if inspect.isclass(found := getattr(face, name))]
    return [each for each in classes if [*inspect.signature(each).parameters][:2] == ["manager", "name"]]


@pytest.mark.parametrize("store", stores(), ids=lambda store: str(store.__name__))
def test_a_store_without_a_name_says_which_there_are(store: Any) -> None:
    if store.__name__.startswith("Async"):
        manager, there = AsyncDatabaseManager(), "none"
        other: Any = DatabaseManager()
    else:
        manager, there = DatabaseManager(), "main, other"  # type: ignore[assignment]
        manager.add_sqlite("other", "sqlite://", lazy=True)
        manager.add_sqlite("main", "sqlite://", lazy=True)
        other = AsyncDatabaseManager()
    with pytest.raises(UnknownConnectionError) as raised:
        store(manager)
    assert str(raised.value) == f"the name of a connection is missing (there are: {there})"
    with pytest.raises(WrongKindError):
        store(other)
    # Type checkers and help() still see what is to be given.
    if "Checkpointer" not in store.__name__:
        assert inspect.signature(store).parameters["name"].default is inspect.Parameter.empty


def test_a_name_that_is_none_says_which_there_are() -> None:
    with DatabaseManager() as manager:
        given: Any = None
        with pytest.raises(UnknownConnectionError, match=r"^the name of a connection is missing \(there are: none\)$"):
            manager.get_database(given)
        with pytest.raises(UnknownConnectionError, match=r"^no connection is named 7 \(there are: none\)$"):
            manager.get_database(7)  # type: ignore[arg-type]


def test_every_kind_of_store_is_among_them() -> None:
    names = {store.__name__ for store in stores()}
    assert names >= {
        "PgVectorStore",
        "DatabaseCheckpointer",
        "KeyValueStore",
        "TaskStore",
        "AsyncEventLog",
        "LeaseLock",
    }
    assert len(names) >= 44

"""Where a connection was taken: in the program, not in the packages between it and the connection."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import checkpoint
import persistence
import sessions
import vectorstore
from persistence.places import calling_place, show_place


@pytest.mark.parametrize("package", [persistence, checkpoint, vectorstore, sessions])
def test_a_place_is_the_programs_also_where_a_store_took_the_connection(package: ModuleType) -> None:
    within: dict[str, Any] = {"calling_place": calling_place}
    source = str(Path(package.__path__[0]) / "_sync" / "store.py")
    exec(compile("def call(): return calling_place()", source, "exec"), within)
    assert Path(__file__).name in show_place(within["call"]())

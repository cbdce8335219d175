# Generated from ../_async/redis_contract.py by tests/unasync.py: edit that one.
"""The tests of a contract that a backend without tables can be held to."""

from __future__ import annotations

import inspect
import re
from types import ModuleType
from typing import Any

from persistence import DatabaseManager, RedisConnection
from persistence.scripts import call_script, packaged_text


def repeated(module: ModuleType, *without: str) -> dict[str, Any]:
    """Return the tests of a module and their fixtures, by name, to be run in another place; but for some."""
    missing = [name for name in without if name not in vars(module)]
    if missing:
        raise ValueError(f"{module.__name__} has no {', '.join(missing)}")
    return {
        name: found
        for name, found in vars(module).items()
        if name not in without and (name.startswith("test_") or type(found).__name__ == "FixtureFunctionDefinition")
    }


def reused(contract: ModuleType) -> dict[str, Any]:
    """Return the tests of a module that don't ask for its SQL database, by name."""
    return {
        name: found
        for name, found in vars(contract).items()
        if name.startswith("test_") and "database" not in inspect.signature(found).parameters
    }


def teach(manager: DatabaseManager) -> None:
    """Let ``main``, where it is a Redis, know the scripts of sessions: it learns each by the first call of it."""
    main = manager.get("main")
    if isinstance(main, RedisConnection):
        for file in ("sessions", "tasks", "context"):
            for name in set(re.findall(r"\b(?:run|commands)\.(\w+)", packaged_text("sessions", file))):
                main.client.script_load(call_script("sessions", file, name).text)

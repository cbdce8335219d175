# Generated from ../_async/redis_contract.py by tests/unasync.py: edit that one.
"""The tests of a contract that a backend without tables can be held to."""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any


def reused(contract: ModuleType) -> dict[str, Any]:
    """Return the tests of a module that don't ask for its SQL database, by name."""
    return {
        name: found
        for name, found in vars(contract).items()
        if name.startswith("test_") and "database" not in inspect.signature(found).parameters
    }

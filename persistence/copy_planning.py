"""How a package tells what a copy, or an archive, can't see of its tables: in its module ``copy_plans``.

``COPY_PLANS`` there has a ``CopyPlan`` by route, ``ARCHIVE_PLAN`` what archives need. Nothing is left out in silence: a
table or a column that only one side has is told by the plan, or the copy is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from persistence.copied_columns import Derived, RawRow, Route


@dataclass(frozen=True, slots=True)
class Before:
    """A statement that runs before a batch is written, once for each different set of parameters of its rows."""

    sql: str
    values: Callable[[RawRow], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Bound:
    """Rows that are true of their tenant alone: why, which, and whether the others make sense without them."""

    why: str
    holds: Callable[[RawRow], bool]
    may_be_left_out: bool = True


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """How a package's tables are copied where those of the two sides differ.

    ``left_out`` names tables (``t``) of the source and columns (``t.c``) of either side that need no copy; ``derived``
    is by table and column; ``keys`` are unique columns that both sides have, in place of the target's primary key.
    ``after`` are statements that run for each row once its batch is written, with the row's values by their columns.
    ``triggers`` of a SQLite file stay while rows are written: they write what the source has no table of.

    For archives: ``heads`` names by table the one whose row stands for a whole, with its column for each of ours; where
    merging leaves that row alone, it leaves alone the rest. ``bound`` tells by table which rows are true of their
    tenant alone, and why. ``of_user`` is by table the condition on a row ``copied`` that it is the user's, with ``→``
    between a JSON column and its key; ``cut`` are the expressions of columns that refer to what may be another's.
    """

    left_out: frozenset[str] = frozenset()
    derived: Mapping[tuple[str, str], Derived] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    before: Mapping[str, Before] = field(default_factory=dict)
    after: Mapping[str, str] = field(default_factory=dict)
    triggers: frozenset[str] = frozenset()
    heads: Mapping[str, tuple[str, Mapping[str, str]]] = field(default_factory=dict)
    bound: Mapping[str, Bound] = field(default_factory=dict)
    of_user: Mapping[str, str] = field(default_factory=dict)
    cut: Mapping[tuple[str, str], str] = field(default_factory=dict)


def plans_of(package: str) -> Any:
    """Return a package's module ``copy_plans``, None where it has none."""
    if find_spec(package) is None or find_spec(f"{package}.copy_plans") is None:
        return None
    return import_module(f"{package}.copy_plans")


def plan_of(package: str, route: Route) -> CopyPlan:
    """Return a package's plan for a route; one that says nothing where it has none."""
    plans = cast("Mapping[Route, CopyPlan]", getattr(plans_of(package), "COPY_PLANS", {}))
    return plans.get(route, CopyPlan())

"""Which rows of which tables are a tenant's, or a user's, and how they go into an archive and out of it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import cast

from persistence.copy_planning import CopyPlan, plan_of, plans_of
from persistence.dialect import Kind
from persistence.transfers import TableCopy

_KEY_OF_JSON = re.compile(r"([\w.]+)→(\w+)")


def archiving_plan(package: str, kind: Kind) -> CopyPlan:
    """Return how a package's tables go from a database into an archive.

    Its rows are as a SQLite file has them, without what the file derives.
    """
    to_file, to_server = plan_of(package, ("postgresql", "sqlite")), plan_of(package, ("sqlite", "postgresql"))
    if kind == "sqlite":
        to_file = replace(to_file, derived={}, left_out=to_file.left_out | to_server.left_out)
    return _with_archive(package, to_file)


def restoring_plan(package: str, kind: Kind) -> CopyPlan:
    """Return how a package's tables go from an archive into a database."""
    if kind == "sqlite":
        return _with_archive(package, replace(plan_of(package, ("postgresql", "sqlite")), derived={}))
    return _with_archive(package, plan_of(package, ("sqlite", "postgresql")))


def _with_archive(package: str, plan: CopyPlan) -> CopyPlan:
    own = cast("CopyPlan", getattr(plans_of(package), "ARCHIVE_PLAN", CopyPlan()))
    return replace(
        plan,
        left_out=plan.left_out | own.left_out,
        heads=own.heads,
        bound=own.bound,
        of_user=own.of_user,
        cut=own.cut,
    )


def choice(plan: CopyPlan, table: str, kind: Kind, user: str | None) -> str | None:
    """Return the condition on the rows of a tenant, or of a user of it; None: a user has none there."""
    if user is None:
        return "copied.tenant_id = :tenant"
    if table not in plan.of_user:
        return None
    return f"copied.tenant_id = :tenant AND ({_spelled(plan.of_user[table], kind)})"


def of_rows(copied: TableCopy, chosen: str, plan: CopyPlan, kind: Kind, user: str | None) -> TableCopy:
    """Return how the rows are copied that a condition chooses; of a user's, what refers to another's is cut."""
    cut = {name: _spelled(text, kind) for (table, name), text in plan.cut.items() if table == copied.pair.target}
    if user is None or not cut:
        return replace(copied, chosen=chosen)
    columns = tuple(
        replace(each, read=cut[each.name], shown=cut[each.name]) if each.name in cut else each
        for each in copied.columns
    )
    return replace(copied, chosen=chosen, columns=columns)


def _spelled(condition: str, kind: Kind) -> str:
    """Return a condition of a plan in a database's own SQL: ``column→key`` is the text under a key of an object."""
    way = r"\1 ->> '\2'" if kind == "postgresql" else r"json_extract(\1, '$.\2')"
    return _KEY_OF_JSON.sub(way, condition)

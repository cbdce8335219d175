"""Which rows and keys are a tenant's, and in which order its rows go."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from persistence.dialect import quote_identifier
from persistence.transfers import TablePair, in_order


@dataclass(frozen=True, slots=True)
class ErasedTable:
    """How many rows of a table went; on Redis how many keys, under the word that their names have behind the tenant."""

    name: str
    rows: int


@dataclass(frozen=True, slots=True)
class ErasingPlan:
    """The tables whose rows are locked first, and all of them as they are emptied: what refers to a row before it."""

    locked: tuple[TablePair, ...]
    emptied: tuple[TablePair, ...]


def erasing_plan(
    pairs: Sequence[TablePair], heads: Collection[tuple[str, str]], references: Iterable[tuple[str, str]]
) -> ErasingPlan:
    """Return the order for tables with their heads, whose rows writers lock for all that belongs to them, and keys.

    Locked are heads, and what has neither a head nor a parent. A table that has a parent comes before it, as writers
    lock a thread before its session.
    """
    links = [*heads, *(each for each in references if each[0] != each[1])]
    emptied = tuple(reversed(in_order(pairs, links)))
    are_heads, belong = {head for _, head in heads}, {table for table, _ in links}
    return ErasingPlan(tuple(each for each in emptied if each.name in are_heads or each.name not in belong), emptied)


def count_statement(pair: TablePair) -> str:
    """Return the statement that counts a tenant's rows of a table."""
    return f"SELECT count(*) AS rows FROM {quote_identifier(pair.name)} WHERE tenant_id = :tenant"


def lock_statement(pair: TablePair) -> str:
    """Return PostgreSQL's statement that locks a tenant's rows of a table, in the order of their key."""
    places = sorted((each.place, name) for name, each in pair.columns.items() if each.place is not None)
    order = ", ".join(quote_identifier(name) for _, name in places) or "tenant_id"
    rows = f"SELECT 1 FROM {quote_identifier(pair.name)} WHERE tenant_id = :tenant ORDER BY {order} FOR UPDATE"
    return f"SELECT count(*) FROM ({rows}) AS locked"


def delete_statement(pair: TablePair) -> str:
    """Return the statement that deletes a tenant's rows of a table."""
    return f"DELETE FROM {quote_identifier(pair.name)} WHERE tenant_id = :tenant"


class TenantKeys:
    """Tells the keys of a tenant on Redis from those of others by their names.

    They are ``holdfast:{tenant}…``, ``holdfast:{tenant:id}…`` and ``holdfast:{vectors:tenant:collection}…``, each id
    percent-encoded, so that it has no colon: the number of colons tells the last form from a tenant named ``vectors``.
    """

    def __init__(self, tenant: str) -> None:
        name = quote(tenant, safe="")
        self.pattern = f"holdfast:{{*{name}*"
        """What SCAN is to look for: all of them, and some of others."""
        exact = re.escape(name)
        self._form = re.compile(
            rf"holdfast:\{{(?:{exact}(?::[^:}}]*)?|(?P<vectors>vectors):{exact}:[^:}}]*)\}}(?::(?P<part>[\w-]+))?.*",
            re.DOTALL | re.ASCII,
        )

    def part(self, key: bytes) -> str | None:
        """Return the word behind the tenant in a key's name (``vectors`` for those of documents); None: not its key."""
        found = self._form.fullmatch(key.decode("utf-8", "surrogateescape"))
        return None if found is None else found["vectors"] or found["part"] or "other"

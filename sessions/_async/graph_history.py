"""The memory graph over time: versions of nodes, approvals, and configuration that changes while programs run."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from persistence.dialect import Dialect
from persistence.errors import ValidationError
from persistence.validation import check_limit, check_text, check_whole
from sessions._async.graph_base import AsyncGraphBase
from sessions.contents import to_text
from sessions.graph import CONFIG, ConfigVersion, GraphChange, Node, approvals_place, node_id
from sessions.graph_rows import (
    CONFIG_PREFIX,
    after_prefix,
    change_from_row,
    config_from_change,
    config_from_node,
    config_id,
    node_from_row,
    node_row,
)
from sessions.records import expected_of, moment_or_none
from sessions.scopes import Approval

PAGE = 1000
"""How many nodes are looked at at once when the histories of all are pruned."""


class AsyncGraphHistory(AsyncGraphBase):
    """The part of the memory graph that knows what was, and who agreed to it."""

    async def history(self, id: str, *, limit: int = 100, before: int | None = None) -> list[GraphChange]:
        """Return the versions of a node, newest first, at most ``limit`` (up to 10,000), also of one that was deleted.

        ``before`` is the ``version`` of the last of the page before.
        """
        values = {"id": node_id(id), "limit": check_limit(limit), "before": _before(before)}
        self._may_read()
        return await self._read_all(change_from_row, "list_graph_history", values)

    async def as_of(self, id: str, *, version: int | None = None, time: datetime | None = None) -> Node | None:
        """Return a node as it was in a version, or at a time; None when it wasn't there then.

        Raises:
            ValidationError: not one of the two is given.
        """
        values = {"id": node_id(id)}
        name, place = _moment(version, time)
        self._may_read()
        return await self._read_one(_live_node_from_row, name, {**values, **place})

    async def approvals(self, *, limit: int = 100, after: str | None = None) -> list[GraphChange]:
        """Return what was approved in the scope, deletions too, newest first, at most ``limit`` (up to 10,000).

        ``after`` is the ``cursor`` of the last of the page before.
        """
        values = approvals_place(after, limit)
        self._may_read()
        return await self._read_all(change_from_row, "list_graph_approvals", values)

    async def prune_history(self, *, keep_last: int, id: str | None = None) -> int:
        """Delete versions of a node (None: of every node that is there) but the newest ``keep_last``; return how many.

        What was approved stays, so it takes no approval. It is one statement a node.

        Raises:
            NotPermittedError: the policy of the scope doesn't allow it.
        """
        keep = check_whole("keep_last", keep_last)
        self._may_change()
        if id is not None:
            return await self._change("graph_prune_history", {"id": node_id(id), "keep": keep})
        removed, after = 0, ""
        while True:
            values = {"after": after, "limit": PAGE}
            ids = await self._read_all(_id_of, "list_all_graph_nodes", values)
            for name in ids:
                removed += await self._change("graph_prune_history", {"id": name, "keep": keep})
            if len(ids) < PAGE:
                return removed
            after = ids[-1]

    async def set_config(
        self,
        key: str,
        value: Any,
        *,
        expected_version: int | None = None,
        approved_by: str | Approval | None = None,
    ) -> ConfigVersion:
        """Set a key of the configuration to any JSON value and return it; earlier values stay in its history.

        It is a node of the type CONFIG, with the id ``config/`` and the key, so ``search`` and ``find`` see it too.

        Raises:
            ConflictError: it has another version than ``expected_version`` (0: it isn't there); nothing was written.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        id, expected = config_id(key), expected_of(None, expected_version)
        node = Node(id, CONFIG, {"value": value})
        [row] = await self._guarded_rows([node], node_row, [node_row(node, self._scope)])
        values = {"rows": to_text([row]), "expected": expected, "replace": True}
        database, rows = await self._written("graph_put_nodes", {**values, **self._may_write(approved_by)})
        if not rows:
            await self._explain("set_config", id, expected)
        return config_from_node(node_from_row(rows[0], database.dialect))

    async def get_config(self, key: str, default: Any = None, *, as_of: int | datetime | None = None) -> Any:
        """Return the value of a key, now, in a version or at a time; ``default`` where it had none."""
        id = config_id(key)
        if as_of is None:
            self._may_read()
            found = await self._read_one(node_from_row, "graph_get_node", {"id": id})
        elif isinstance(as_of, datetime):
            found = await self.as_of(id, time=as_of)
        else:
            found = await self.as_of(id, version=as_of)
        return default if found is None else config_from_node(found).value

    async def config_history(self, key: str, *, limit: int = 100, before: int | None = None) -> list[ConfigVersion]:
        """Return the values that a key had, newest first, at most ``limit`` (up to 10,000); paged as ``history``."""
        return [config_from_change(each) for each in await self.history(config_id(key), limit=limit, before=before)]

    async def configs(self, prefix: str = "", *, limit: int = 100, after: str | None = None) -> list[ConfigVersion]:
        """Return what is configured below a prefix of keys, by key, at most ``limit`` (up to 10,000).

        ``after`` is the ``key`` of the last of the page before.
        """
        start = CONFIG_PREFIX + check_text("the prefix", prefix, limit=1024)
        values = {"from": start, "below": after_prefix(start), "limit": check_limit(limit)}
        values["after"] = "" if after is None else config_id(after)
        self._may_read()
        return [config_from_node(node) for node in await self._read_all(node_from_row, "list_graph_range", values)]


def _before(before: object) -> int:
    return 2**62 if before is None else check_whole("before", before)


def _moment(version: object, time: object) -> tuple[str, dict[str, Any]]:
    """Return the statement that looks back, and what it takes."""
    if (version is None) == (time is None):
        raise ValidationError("as_of takes a version or a time", hint="one of the two")
    if version is not None:
        return "graph_at_version", {"version": check_whole("version", version)}
    return "graph_at_time", {"moment": moment_or_none("time", time)}


def _live_node_from_row(row: dict[str, Any], dialect: Dialect) -> Node | None:
    return None if row["deleted"] else node_from_row(row, dialect)


def _id_of(row: dict[str, Any], dialect: object) -> str:
    return str(row["id"])

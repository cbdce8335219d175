"""The memory graph as a whole, and its nodes: written, read, found and deleted, each call one statement."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from persistence.errors import ValidationError
from persistence.fields import Duration
from persistence.validation import check_limit, shown
from sessions._async.erasing import erase_nodes, export_nodes
from sessions._async.graph_edges import AsyncGraphEdges
from sessions._async.graph_history import AsyncGraphHistory
from sessions._async.graph_recall import AsyncGraphRecall
from sessions._async.graph_transfer import AsyncGraphTransfer
from sessions._async.graph_walk import AsyncGraphWalk
from sessions.contents import to_text
from sessions.graph import BATCH, Deleted, Found, Node, find_place, node_id, type_name
from sessions.graph_rows import escaped, node_from_row, node_row, rows_of, where_text, words_json
from sessions.records import expected_of, micros_of, patch_values
from sessions.scopes import Approval
from sessions.words import search_words, words_value


class AsyncMemoryGraph(AsyncGraphEdges, AsyncGraphWalk, AsyncGraphHistory, AsyncGraphRecall, AsyncGraphTransfer):
    """What agents know, as nodes and edges: one tenant's, in one scope, on PostgreSQL or SQLite.

    It is bound to the scope LOCAL; ``in_scope`` binds it to another, ``for_actor`` to who acts. ``policies`` say who
    may read and write in a scope and what needs an approval, as each write in IDENTITY does unless it is given another
    policy. An approval (``approved_by=``, a name or an ``Approval``) is stored with the write, in the same transaction.

    ``secrets`` says what becomes of secrets in attributes: a ``SecretVault`` keeps them, under the context ``graph/``
    and the scope, and references stand in their place; ``"redact"`` takes them out; ``"refuse"`` is a ValidationError.

    Every call commits before it returns, or joins the transaction that its task is in. Neither a conflict nor a missing
    node fails that transaction.
    """

    async def add_node(
        self,
        node: Node,
        *,
        expected_version: int | None = None,
        replace: bool = False,
        approved_by: str | Approval | None = None,
    ) -> Node:
        """Write a node and return it as stored: a new one with its first version, or one that is there, changed.

        Its attributes are merged into those that are there, atomically: a key that is given replaces the whole value,
        every other key stays; with ``replace`` none stays. The type is the one given. ``expected_version=0`` writes
        only a node that isn't there, another number only one of that version.

        Raises:
            ConflictError: it has another version, which is in ``actual``; nothing was written.
            NotFoundError: a version is expected, and it isn't there.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
            ValidationError: something in it can't be stored; nothing was written.
        """
        [row] = await self._guarded_rows([node], node_row, [node_row(node, self._scope)])
        expected = expected_of(None, expected_version)
        values = {"rows": to_text([row]), "expected": expected, "replace": bool(replace)}
        database, rows = await self._written("graph_put_nodes", {**values, **self._may_write(approved_by)})
        if not rows:
            await self._explain("add_node", row["id"], expected)
        return node_from_row(rows[0], database.dialect)

    async def add_nodes(
        self, nodes: list[Node], *, replace: bool = False, approved_by: str | Approval | None = None
    ) -> list[Node]:
        """Write up to 10,000 nodes, all or none, in one round trip, and return them as stored, in their order.

        Each is written as by ``add_node``; none may be named twice.

        Raises:
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
            ValidationError: something in one can't be stored; it is named by its place, and nothing was written.
        """
        rows = await self._guarded_rows(nodes, node_row, rows_of(nodes, node_row, ["id"], self._scope))
        values = {"rows": to_text(rows), "expected": None, "replace": bool(replace)}
        database, stored = await self._written("graph_put_nodes", {**values, **self._may_write(approved_by)})
        by_id = {row["id"]: row for row in stored}
        return [node_from_row(by_id[row["id"]], database.dialect) for row in rows]

    async def get_node(self, id: str) -> Node | None:
        """Return a node; None when it isn't there."""
        self._may_read()
        return await self._read_one(node_from_row, "graph_get_node", {"id": node_id(id)})

    async def get_nodes(self, ids: list[str]) -> list[Node]:
        """Return those of up to 10,000 nodes that are there, in the order of ``ids``, each once, in one round trip."""
        if not isinstance(cast(object, ids), list | tuple) or len(ids) > BATCH:
            raise ValidationError(f"the ids are no list of at most {BATCH:,}")
        names = list(dict.fromkeys(node_id(id) for id in ids))
        self._may_read()
        if not names:
            return []
        found = await self._read_all(node_from_row, "graph_get_nodes", {"ids": json.dumps(names)})
        by_id = {node.id: node for node in found}
        return [by_id[name] for name in names if name in by_id]

    async def patch(
        self,
        id: str,
        attributes: dict[str, Any],
        *,
        expected_version: int | None = None,
        approved_by: str | Approval | None = None,
    ) -> Node:
        """Merge into a node's attributes, atomically, and return the node.

        JSON Merge Patch (RFC 7396) at the top level: a key that is given replaces the whole value, None removes the
        key, every other key stays.

        Raises:
            NotFoundError: it isn't there.
            ConflictError: it has another version than ``expected_version``; nothing was written.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        expected = expected_of(None, expected_version)
        values = {"id": node_id(id), "expected": expected, **patch_values(escaped(attributes))}
        if self._secrets is not None:
            [attributes] = await self._guarded([(id, attributes)])
            values |= patch_values(escaped(attributes))
        values["words"] = words_json({name: value for name, value in attributes.items() if value is not None})
        database, rows = await self._written("graph_patch_node", {**values, **self._may_write(approved_by)})
        if not rows:
            await self._explain("patch", id, expected)
        return node_from_row(rows[0], database.dialect)

    async def delete_node(
        self,
        id: str,
        *,
        expected_version: int | None = None,
        forget_history: bool = False,
        approved_by: str | Approval | None = None,
    ) -> Deleted:
        """Delete a node and its edges in both directions; return how many went.

        Its history stays, with the deletion as its last version; with ``forget_history`` nothing of it does but, where
        the scope wants one, the approval. That of a node that was deleted before goes, too, where no version is
        expected.

        Raises:
            ConflictError: it has another version than ``expected_version``; nothing was deleted.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        expected = expected_of(None, expected_version)
        values = {"id": node_id(id), "expected": expected, "keep": not forget_history}
        parts = ("graph_delete_history", "graph_delete_kept", "graph_delete_edges", "graph_delete_node")
        gone = await self._gone(parts, {**values, **self._may_write(approved_by)})
        if not gone and expected is not None:
            current = await self._read_one(node_from_row, "graph_get_node", {"id": id})
            if current is not None:
                self._raise_conflict("delete_node", f"node {shown(id)}", current.version, expected)
        return gone

    async def forget(
        self,
        *,
        older_than: Duration,
        type: str | None = None,
        limit: int = 1000,
        approved_by: str | Approval | None = None,
    ) -> Deleted:
        """Delete nodes, of a type or all, that nobody has written for ``older_than`` (seconds or a timedelta).

        Their edges and their history go along. At most ``limit`` nodes go (up to 10,000), those that were written
        longest ago first; call it again until fewer go. On PostgreSQL one that somebody is writing is skipped.

        Raises:
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        before = datetime.now(UTC) - timedelta(microseconds=micros_of("older_than", older_than))
        values = {"before": before, "type": type_name(type), "limit": check_limit(limit)}
        parts = ("graph_forget_history", "graph_forget_kept", "graph_forget_edges", "graph_forget")
        return await self._gone(parts, {**values, **self._may_write(approved_by)})

    async def _gone(self, parts: tuple[str, ...], values: dict[str, Any]) -> Deleted:
        """Delete nodes and edges: on PostgreSQL by the last statement alone, on SQLite by all of them."""
        database = await self._database()
        if database.kind == "postgresql":
            sql, parameters = self._prepared(database, parts[-1], values)
            row = await database.fetch_one(sql, parameters)
            return Deleted(0, 0) if row is None else Deleted(row["nodes"], row["edges"])
        *_, edges, nodes = await database.fetch_batch([self._prepared(database, name, values) for name in parts])
        return Deleted(len(nodes), len(edges))

    async def find(
        self,
        *,
        type: str | None = None,
        where: dict[str, Any] | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Node]:
        """Return nodes, those written last first, at most ``limit`` (up to 10,000).

        ``where`` are those whose attributes have each of its keys with an equal value: a text, a number (1 is 1.0), a
        bool or None. ``since`` is within, ``until`` is not; both are of ``updated_at``. ``after`` is the ``cursor`` of
        the last node of the page before; a node that is written between two pages moves to the front.
        """
        values = {"type": type_name(type), "where": where_text(where), **find_place(limit, after, since, until)}
        self._may_read()
        database = await self._database()
        name = "find_graph_nodes"
        if type is not None and database.kind != "postgresql":
            name = "find_graph_nodes_of_type"
        sql, parameters = self._prepared(database, name, values)
        rows = await database.fetch_all(sql, parameters, prepare=False)
        return [node_from_row(row, database.dialect) for row in rows]

    async def search(self, query: str, *, type: str | None = None, limit: int = 20) -> list[Found]:
        """Return the nodes that have any word of the query, those with most of them first, at most ``limit``.

        Equal ones come in the order of ``find``. The words of a node, 2,500 at most, are those of its id and of the
        texts in its attributes; a word is a run of letters, digits and underscores, upper and lower case alike.

        Raises:
            ValidationError: the query has no word, or more than 32.
        """
        words = search_words(query)
        values = {"type": type_name(type), "limit": check_limit(limit)}
        self._may_read()
        database = await self._database()
        given: Any = words if database.kind == "postgresql" else words_value(database.dialect, words)
        sql, parameters = self._prepared(
            database, "search_graph_nodes", {**values, "words": given, "query": " | ".join(words)}
        )
        rows = await database.fetch_all(sql, parameters, prepare=False)
        return [Found(node_from_row(row, database.dialect), row["matched"] / len(words)) for row in rows]

    async def count(self, *, type: str | None = None) -> int:
        """Return how many nodes there are, of a type or of all."""
        self._may_read()
        return int(await self._read_value("graph_count", {"type": type_name(type)}))

    def export_user(self, user_id: str) -> AsyncIterator[str]:
        """Yield a user's nodes of this scope as JSON lines, each followed by its edges; an edge comes once.

        They are those whose attribute ``user_id`` is the id. Each node is a statement; histories aren't exported.
        """
        return export_nodes(self, user_id)

    async def erase_user(self, user_id: str, *, approved_by: str | Approval | None = None) -> dict[str, int]:
        """Delete a user's nodes of this scope with their edges and histories; return how many ``nodes`` and ``edges``.

        They are those whose attribute ``user_id`` is the id. Of those that were deleted before the history goes too,
        with what was approved. Each node is a statement.

        Raises:
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        return await erase_nodes(self, user_id, approved_by)

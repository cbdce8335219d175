# Generated from ../_async/graph_edges.py by tests/unasync.py: edit that one.
"""The edges of the memory graph: written, read, listed and deleted, each call one statement."""

from __future__ import annotations

import json
from typing import Any

from persistence.errors import FOREIGN_KEY_VIOLATION, ForeignKeyError
from persistence.validation import shown
from sessions._sync.graph_base import TRIES, GraphBase
from sessions.contents import to_text
from sessions.graph import Direction, Edge, edges_place, node_id, relationship_name, relationship_names
from sessions.graph_rows import edge_from_row, edge_name, edge_row, rows_of
from sessions.records import expected_of
from sessions.scopes import Approval


class GraphEdges(GraphBase):
    """The part of the memory graph that has to do with edges."""

    def add_edge(
        self,
        edge: Edge,
        *,
        expected_version: int | None = None,
        replace: bool = False,
        approved_by: str | Approval | None = None,
    ) -> Edge:
        """Write an edge between two nodes of the scope and return it as stored.

        Where it is there already its weight is replaced and its attributes are merged, as those of a node by
        ``add_node``.

        Raises:
            ForeignKeyError: one of its nodes isn't there; nothing was written.
            ConflictError: it has another version, which is in ``actual``; nothing was written.
            NotFoundError: a version is expected, and it isn't there.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
            ValidationError: something in it can't be stored; nothing was written.
        """
        expected = expected_of(None, expected_version)
        [row] = self._guarded_rows([edge], edge_row, [edge_row(edge, self._scope)])
        stored = self._put_edges("add_edge", [row], expected, replace, approved_by)
        if not stored:
            current = self._read_one(edge_from_row, "graph_get_edge", _edge_key(row))
            self._raise_conflict(
                "add_edge", f"edge {edge_name(row)}", None if current is None else current.version, expected
            )
        return stored[0]

    def add_edges(
        self, edges: list[Edge], *, replace: bool = False, approved_by: str | Approval | None = None
    ) -> list[Edge]:
        """Write up to 10,000 edges, all or none, in one round trip, and return them as stored, in their order.

        Each is written as by ``add_edge``; none may be named twice.

        Raises:
            ForeignKeyError: a node of one isn't there; nothing was written.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
            ValidationError: something in one can't be stored; it is named by its place, and nothing was written.
        """
        checked = rows_of(edges, edge_row, ["source", "relationship", "target"], self._scope)
        rows = self._guarded_rows(edges, edge_row, checked)
        stored = self._put_edges("add_edges", rows, None, replace, approved_by)
        by_key = {(edge.source, edge.relationship, edge.target): edge for edge in stored}
        return [by_key[row["source"], row["relationship"], row["target"]] for row in rows]

    def _put_edges(
        self,
        operation: str,
        rows: list[dict[str, Any]],
        expected: int | None,
        replace: bool,
        approved_by: str | Approval | None,
    ) -> list[Edge]:
        ids = json.dumps(sorted({row[end] for row in rows for end in ("source", "target")}))
        values = {"rows": to_text(rows), "ids": ids, "expected": expected, "replace": bool(replace)}
        values |= self._may_write(approved_by)
        for _ in range(TRIES):
            try:
                database, stored = self._written("graph_put_edges", values)
            except ForeignKeyError as exc:
                # A node was deleted after the statement had seen it.
                raise self._no_node("one of its nodes is gone", operation, exc.code) from exc
            if stored or expected:  # none of an expected version: the caller tells why
                return [edge_from_row(row, database.dialect) for row in stored]
            missing = self._read_value("graph_missing_nodes", {"ids": ids})
            if missing is not None:
                raise self._no_node(f"there is no node {shown(missing)} for the edge", operation)
            if expected is not None:
                current = self._read_one(edge_from_row, "graph_get_edge", _edge_key(rows[0]))
                if current is not None:
                    return []
            # Somebody added the missing node after the statement had looked for it.
        raise self._no_node("one of its nodes comes and goes", operation)

    def _no_node(self, message: str, operation: str, code: str | None = FOREIGN_KEY_VIOLATION) -> ForeignKeyError:
        return ForeignKeyError(
            f"{message} in the scope {self._scope}",
            hint="add_node() first",
            operation=operation,
            connection=self._name,
            code=code,
        )

    def get_edge(self, source: str, relationship: str, target: str) -> Edge | None:
        """Return an edge; None when it isn't there."""
        self._may_read()
        return self._read_one(edge_from_row, "graph_get_edge", _edge_values(source, relationship, target))

    def delete_edge(
        self, source: str, relationship: str, target: str, *, approved_by: str | Approval | None = None
    ) -> bool:
        """Delete an edge; tell whether it was there.

        Raises:
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
        """
        values = {**_edge_values(source, relationship, target), **self._may_write(approved_by)}
        database = self._database()
        if database.kind == "postgresql":
            return bool(database.fetch_value(*self._prepared(database, "graph_delete_edge", values)))
        parts = ("graph_delete_edge_kept", "graph_delete_edge")
        _, gone = database.fetch_batch([self._prepared(database, name, values) for name in parts])
        return bool(gone)

    def edges(
        self,
        node: str,
        *,
        direction: Direction = "out",
        relationship: str | list[str] | None = None,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Edge]:
        """Return a node's edges, of one relationship, of several or of all, at most ``limit`` (up to 10,000).

        Those that go out come first, by relationship and target, then those that come in, by relationship and source. A
        node that isn't there has none. ``after`` is the ``cursor`` of the last edge of the page before.
        """
        values = edges_place(node_id(node), direction, after, limit)
        self._may_read()
        return self._read_all(
            edge_from_row, "list_graph_edges", {**values, "relationships": relationship_names(relationship)}
        )

    def count_edges(self, *, relationship: str | None = None) -> int:
        """Return how many edges there are, of a relationship or of all."""
        self._may_read()
        name = None if relationship is None else relationship_name(relationship)
        return int(self._read_value("graph_count_edges", {"relationship": name}))


def _edge_values(source: object, relationship: object, target: object) -> dict[str, str]:
    return {
        "source": node_id(source, "the edge's source"),
        "relationship": relationship_name(relationship),
        "target": node_id(target, "the edge's target"),
    }


def _edge_key(row: dict[str, Any]) -> dict[str, str]:
    return {name: row[name] for name in ("source", "relationship", "target")}

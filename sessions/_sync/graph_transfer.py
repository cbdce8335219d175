# Generated from ../_async/graph_transfer.py by tests/unasync.py: edit that one.
"""A memory graph as JSON lines: exported a page at a time, and imported all or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Iterable
from itertools import islice
from typing import Any

from persistence.errors import FOREIGN_KEY_VIOLATION, ForeignKeyError, ValidationError
from sessions._sync.graph_base import GraphBase
from sessions.contents import to_text
from sessions.graph import Edge, Node
from sessions.graph_rows import edge_from_row, edge_row, node_from_row, node_row
from sessions.graph_transfer import check_header, edge_line, header_line, node_line, read_record
from sessions.scopes import Approval

PAGE = 1000
"""How many nodes or edges are read or written at once."""


class GraphTransfer(GraphBase):
    """The part of the memory graph that exports and imports."""

    def export_graph(self) -> Iterator[str]:
        """Yield the scope as JSON lines: first what they are, then nodes, then edges; no line ends in a newline.

        No connection is held between pages; run it in a ``repeatable read`` transaction for one moment.
        """
        self._may_read()
        yield header_line(self._scope)
        after = ""
        while nodes := self._read_all(node_from_row, "list_all_graph_nodes", {"after": after, "limit": PAGE}):
            for node in nodes:
                yield node_line(node)
            after = nodes[-1].id
        place = {"after_source": "", "after_relationship": "", "after_target": ""}
        while edges := self._read_all(edge_from_row, "list_all_graph_edges", {**place, "limit": PAGE}):
            for edge in edges:
                yield edge_line(edge)
            last = edges[-1]
            place = {
                "after_source": last.source,
                "after_relationship": last.relationship,
                "after_target": last.target,
            }

    def import_graph(self, lines: Iterable[str], *, approved_by: str | Approval | None = None) -> tuple[int, int]:
        """Write what ``export_graph`` gave into this scope, all or nothing; return how many nodes and edges there were.

        Each is written as by ``add_node`` and ``add_edge``, so what is there already is merged. Nodes come before the
        edges that need them.

        Raises:
            ForeignKeyError: a node of an edge is neither there nor on an earlier line; nothing was written.
            NotPermittedError: the policy of the scope doesn't allow it, or wants an approval.
            ValidationError: a line is not what an export gives; it is named by its number, and nothing was written.
        """
        numbered = iter(enumerate(lines, 1))
        check_header(next(numbered, (1, ""))[1])
        approval = {"expected": None, "replace": False, **self._may_write(approved_by)}
        counts = {"nodes": 0, "edges": 0}
        database = self._database()
        with database.transaction():
            for kind, records in _batches(numbered, self._scope):
                row = edge_row if kind == "edges" else node_row
                given = [record for record, _ in records.values()]
                rows = self._guarded_rows(given, row, [checked for _, checked in records.values()])
                values = {"rows": to_text(rows), **approval}
                if kind == "edges":
                    values["ids"] = to_text(sorted({row[end] for row in rows for end in ("source", "target")}))
                    self._import_edges(values)
                else:
                    self._written("graph_put_nodes", values)
                counts[kind] += len(rows)
        return counts["nodes"], counts["edges"]

    def _import_edges(self, values: dict[str, Any]) -> None:
        _, stored = self._written("graph_put_edges", values)
        if not stored:
            missing = self._read_value("graph_missing_nodes", {"ids": values["ids"]})
            raise ForeignKeyError(
                f"there is no node {str(missing)[:80]!r} for an edge",
                hint="an export has every node before the first edge",
                operation="import_graph",
                connection=self._name,
                code=FOREIGN_KEY_VIOLATION,
            )


def _batches(numbered: Iterator[tuple[int, str]], scope: str) -> Iterator[tuple[str, dict[Any, tuple[Any, Any]]]]:
    """Yield nodes and edges with their rows, by their keys, a page at a time; of what comes twice the last counts."""
    while page := list(islice(numbered, PAGE)):
        nodes: dict[Any, tuple[Any, Any]] = {}
        edges: dict[Any, tuple[Any, Any]] = {}
        for number, line in page:
            try:
                record = read_record(number, line)
                if isinstance(record, Node):
                    nodes[record.id] = record, node_row(record, scope)
                elif isinstance(record, Edge):
                    key = record.source, record.relationship, record.target
                    edges[key] = record, edge_row(record, scope)
            except ValidationError as exc:
                message = exc.message if exc.message.startswith("line ") else f"line {number}: {exc.message}"
                raise ValidationError(message, hint=exc.hint) from None
        if nodes:
            yield "nodes", nodes
        if edges:
            yield "edges", edges

"""Own the form of an exported graph: JSON lines, of which the first says what they are, then nodes, then edges."""

from __future__ import annotations

from persistence.errors import ValidationError
from sessions.contents import content_json, json_object
from sessions.graph import Edge, Node

FORMAT = "holdfast graph"
VERSION = 1

_NODE = {"node", "type", "attributes"}
_EDGE = {"source", "relationship", "target", "weight", "attributes"}


def header_line(scope: str) -> str:
    """Return the first line of an export."""
    return content_json({"format": FORMAT, "version": VERSION, "scope": scope})


def node_line(node: Node) -> str:
    """Return a node as one line."""
    return content_json({"node": node.id, "type": node.type, "attributes": node.attributes})


def edge_line(edge: Edge) -> str:
    """Return an edge as one line."""
    return content_json(
        {
            "source": edge.source,
            "relationship": edge.relationship,
            "target": edge.target,
            "weight": edge.weight,
            "attributes": edge.attributes,
        }
    )


def check_header(line: str) -> None:
    """Check the first line of an export.

    Raises:
        ValidationError: it is none, or of a later version than this.
    """
    found = json_object(1, line)
    if found.get("format") != FORMAT or found.get("version") != VERSION:
        raise ValidationError(
            f"line 1 is not that of an export: format {FORMAT!r}, version {VERSION}",
            hint="import what export_graph() or from_networkx() gave",
        )


def read_record(number: int, line: str) -> Node | Edge:
    """Return the node or the edge that a line holds.

    Raises:
        ValidationError: it holds neither, or has an unknown field.
    """
    found = json_object(number, line)
    if set(found) == _NODE:
        return Node(found["node"], found["type"], found["attributes"])
    if set(found) == _EDGE:
        return Edge(
            found["source"],
            found["relationship"],
            found["target"],
            weight=found["weight"],
            attributes=found["attributes"],
        )
    raise ValidationError(f"line {number} is neither a node nor an edge")

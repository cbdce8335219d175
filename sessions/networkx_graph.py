"""A memory graph as a networkx graph and back, through the lines of an export: no I/O, so it serves both sides.

::

    graph = export_networkx(memory.export_graph())
    memory.import_graph(from_networkx(graph))

Needs the extra ``networkx``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from persistence.errors import ValidationError
from persistence.extras import extra
from sessions.graph import CONCEPT, Edge, Node
from sessions.graph_transfer import check_header, edge_line, header_line, node_line, read_record

with extra("networkx"):
    import networkx


def export_networkx(lines: Iterable[str]) -> networkx.MultiDiGraph:
    """Return what ``export_graph`` gave as a directed graph whose edges have their relationship as key.

    The data of a node are its ``type`` and its ``attributes``, those of an edge its ``weight``, which networkx's
    algorithms read, and its ``attributes``.

    Raises:
        ValidationError: a line is not what an export gives; it is named by its number.
    """
    graph = networkx.MultiDiGraph()
    numbered = iter(enumerate(lines, 1))
    check_header(next(numbered, (1, ""))[1])
    for number, line in numbered:
        record = read_record(number, line)
        if isinstance(record, Node):
            graph.add_node(record.id, type=record.type, attributes=record.attributes)
        else:
            data = {"weight": record.weight, "attributes": record.attributes}
            graph.add_edge(record.source, record.target, key=record.relationship, **data)
    return graph


def from_networkx(
    graph: networkx.Graph, *, node_type: str = CONCEPT, relationship: str = "related", scope: str = "LOCAL"
) -> Iterator[str]:
    """Yield any networkx graph as lines that ``import_graph`` takes.

    What ``export_networkx`` gave comes out as it went in. Of other graphs a node's type is its ``type`` or else
    ``node_type``; an edge's relationship is its key, its ``relationship`` or else ``relationship``; its ``weight`` is 1
    where it has none; all other data are attributes. An edge of an undirected graph goes one way, as networkx lists it.

    Raises:
        ValidationError: a node is no str, or two edges have the same ends and relationship.
    """
    yield header_line(scope)
    for name, data in graph.nodes(data=True):
        rest = dict(data)
        yield node_line(Node(_name(name), rest.pop("type", node_type), _attributes(rest)))
    seen = set()
    for source, target, key, data in _edges(graph):
        rest = dict(data)
        own = rest.pop("relationship", relationship)
        edge = Edge(_name(source), key if isinstance(key, str) else own, _name(target), weight=rest.pop("weight", 1.0))
        place = (edge.source, edge.relationship, edge.target)
        if place in seen:
            raise ValidationError(
                f"two edges lead from {edge.source!r} to {edge.target!r} as {edge.relationship!r}",
                hint="give parallel edges different keys, which are their relationships",
            )
        seen.add(place)
        edge.attributes = _attributes(rest)
        yield edge_line(edge)


def _edges(graph: networkx.Graph) -> Iterator[tuple[Any, Any, Any, dict[str, Any]]]:
    if graph.is_multigraph():
        yield from graph.edges(keys=True, data=True)
    else:
        for source, target, data in graph.edges(data=True):
            yield source, target, None, data


def _name(name: object) -> str:
    if not isinstance(name, str):
        raise ValidationError(
            f"the node {str(name)[:80]!r} is a {type(name).__name__}, not a str",
            hint="networkx.relabel_nodes(graph, str)",
        )
    return name


def _attributes(data: dict[str, Any]) -> dict[str, Any]:
    own = data.pop("attributes", {})
    return {**own, **data} if isinstance(own, dict) else {"attributes": own, **data}

"""Walks through the memory graph: the neighbourhood of a node, and the shortest path between two."""

from __future__ import annotations

import json
from typing import Any

from persistence.dialect import Dialect
from persistence.errors import ValidationError
from persistence.validation import check_whole
from sessions._async.graph_base import AsyncGraphBase
from sessions.graph import (
    DEPTH,
    Direction,
    GraphPath,
    Neighbour,
    directions,
    node_id,
    relationship_names,
    walk_place,
)
from sessions.graph_rows import node_from_row
from sessions.paths import HopSearch, Step, WeightSearch


class AsyncGraphWalk(AsyncGraphBase):
    """The part of the memory graph that follows edges."""

    async def neighbours(
        self,
        node: str,
        *,
        relationship: str | list[str] | None = None,
        direction: Direction = "out",
        depth: int = 1,
        limit: int = 100,
        after: str | None = None,
    ) -> list[Neighbour]:
        """Return the nodes within ``depth`` steps of a node (up to 32), nearest first, then by id, at most ``limit``.

        Each comes once, at its least depth, whatever cycles there are; the node itself is not among them. It follows
        the edges of one relationship, of several or of all, as they go ``out``, as they come ``in``, or ``both``. It is
        one recursive statement, whose cost is that of the edges within reach. ``after`` is the ``cursor`` of the last
        of the page before (``limit`` up to 10,000). A node that isn't there has none.
        """
        values = {**directions(direction), **walk_place(node_id(node), depth, after, limit)}
        values["relationships"] = relationship_names(relationship)
        self._may_read()
        name = "list_graph_neighbours"
        if (await self._database()).kind == "postgresql":
            name += f"_{direction}"
        return await self._read_all(_neighbour_from_row, name, values)

    async def shortest_path(
        self,
        source: str,
        target: str,
        *,
        relationship: str | list[str] | None = None,
        direction: Direction = "out",
        max_depth: int = 6,
        weighted: bool = False,
        max_edges: int = 100_000,
    ) -> GraphPath | None:
        """Return the path of the fewest steps from a node to another; None when none has at most ``max_depth`` (to 32).

        With ``weighted`` it is the one whose weights have the least sum. It takes at most ``max_depth`` statements,
        each of which reads the edges of one more step; what is written between two of them may be seen in part (call it
        in a ``repeatable read`` transaction for one moment). By steps it searches from both ends.

        Raises:
            ValidationError: it met more than ``max_edges`` edges, or, with ``weighted``, a negative weight.
        """
        values = {**directions(direction), "relationships": relationship_names(relationship)}
        steps_left = check_whole("max_depth", max_depth, most=DEPTH)
        edges_left = check_whole("max_edges", max_edges)
        source, target = node_id(source, "the source"), node_id(target, "the target")
        self._may_read()
        if source == target:
            found = await self._read_one(node_from_row, "graph_get_node", {"id": source})
            return None if found is None else GraphPath((source,), (), 0.0)
        search: HopSearch | WeightSearch = WeightSearch(source, target) if weighted else HopSearch(source, target)
        while steps_left and (ids := search.next()):
            steps = await self._steps(ids, values, search.backward, edges_left)
            path = search.took(steps)
            if path is not None:
                return path
            steps_left -= 1
            edges_left -= len(steps)
        return search.path() if isinstance(search, WeightSearch) else None

    async def _steps(self, ids: list[str], values: dict[str, Any], backward: bool, limit: int) -> list[Step]:
        """Return the edges of one step from each of several nodes."""
        asked = {**values, "ids": json.dumps(ids), "limit": limit + 1}
        if backward:
            asked |= {"outward": values["inward"], "inward": values["outward"]}
        steps = await self._read_all(_step_from_row, "list_graph_steps", asked)
        if len(steps) > limit:
            raise ValidationError(
                "the search for a path met more edges than max_edges", hint="name relationships, or raise max_edges"
            )
        return steps


def _neighbour_from_row(row: dict[str, Any], dialect: Dialect) -> Neighbour:
    return Neighbour(node_from_row(row, dialect), row["depth"])


def _step_from_row(row: dict[str, Any], dialect: object) -> Step:
    return Step(row["here"], row["there"], row["relationship"], float(row["weight"]))

"""Own the search for a shortest path: what is asked of the database next, and what its answer means.

A search reads one step of edges at a time: of hops from both ends at once, the smaller side first, so that few are met;
of weights from the source, level by level (Bellman and Ford), leaving out what is dearer than a path already found.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from persistence.errors import ValidationError
from persistence.validation import shown
from sessions.graph import GraphPath


class Step(NamedTuple):
    """An edge as it was met, from a node that the search had to the next one."""

    here: str
    there: str
    relationship: str
    weight: float


class _Way(NamedTuple):
    """The way to a node: its end, what it weighs, and the way that it goes on from."""

    end: str
    weight: float
    relationship: str = ""
    before: _Way | None = None

    def parts(self) -> tuple[list[str], list[str]]:
        """Return its nodes and its relationships, from its start."""
        nodes, relationships, way = [self.end], [], self
        while way.before is not None:
            relationships.append(way.relationship)
            way = way.before
            nodes.append(way.end)
        return nodes[::-1], relationships[::-1]


class HopSearch:
    """The path of the fewest steps."""

    def __init__(self, source: str, target: str) -> None:
        start, end = _Way(source, 0.0), _Way(target, 0.0)
        self._sides = ({source: start}, {target: end})
        self._fronts = ([source], [target])
        self.backward = False
        """Whether the next step goes from the target back."""

    def next(self) -> list[str]:
        """Return the nodes whose edges are to be read; none when there is no path."""
        ahead, back = self._fronts
        self.backward = len(back) < len(ahead)
        return (back if self.backward else ahead) if ahead and back else []

    def took(self, steps: Iterable[Step]) -> GraphPath | None:
        """Take the edges in; return the path once both sides met."""
        own, other = self._sides[self.backward], self._sides[not self.backward]
        front = self._fronts[self.backward]
        front.clear()
        met = []
        for step in steps:
            if step.there not in own:
                before = own[step.here]
                own[step.there] = _Way(step.there, before.weight + step.weight, step.relationship, before)
                front.append(step.there)
                if step.there in other:
                    met.append(step.there)
        # Whatever they meet in now is as near as any: had it been nearer, they would have met before.
        return self._joined(min(met)) if met else None

    def _joined(self, middle: str) -> GraphPath:
        ahead, back = self._sides[0][middle], self._sides[1][middle]
        nodes, relationships = ahead.parts()
        rest, names = back.parts()
        return GraphPath(tuple(nodes + rest[-2::-1]), tuple(relationships + names[::-1]), ahead.weight + back.weight)


class WeightSearch:
    """The path of the least weight."""

    backward = False

    def __init__(self, source: str, target: str) -> None:
        self._target = target
        self._best = {source: _Way(source, 0.0)}
        self._front = {source: self._best[source]}

    def next(self) -> list[str]:
        """Return the nodes whose edges are to be read; none when nothing can become better."""
        known = self._best.get(self._target)
        return [end for end, way in self._front.items() if known is None or way.weight < known.weight]

    def took(self, steps: Iterable[Step]) -> None:
        """Take the edges in.

        Raises:
            ValidationError: a weight is negative.
        """
        front, self._front = self._front, {}
        for step in steps:
            if step.weight < 0:
                raise ValidationError(
                    f"the edge between {shown(step.here)} and {shown(step.there)} has the weight {step.weight}",
                    hint="a path by weight needs weights from 0 on; name the relationships that have them",
                )
            before = front[step.here]
            weight, known = before.weight + step.weight, self._best.get(step.there)
            if known is None or weight < known.weight:
                way = _Way(step.there, weight, step.relationship, before)
                self._best[step.there] = self._front[step.there] = way

    def path(self) -> GraphPath | None:
        """Return the best path that was found."""
        found = self._best.get(self._target)
        if found is None:
            return None
        nodes, relationships = found.parts()
        return GraphPath(tuple(nodes), tuple(relationships), found.weight)

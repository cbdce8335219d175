"""Own the records of a memory graph: nodes, edges, what a walk finds, and how both changed."""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

from persistence.dialect import from_micros, to_micros
from persistence.errors import ValidationError
from persistence.validation import ID_BYTES, check_id, check_limit, check_text, check_whole
from sessions.contents import decoded, to_text
from sessions.records import encode_cursor, moment_or_none, page_values
from sessions.scopes import Approval

NODE_ID_BYTES = 768
"""The longest id of a node in bytes of UTF-8: with two of them an edge fits into one index entry of PostgreSQL."""
TYPE_BYTES = 256
"""The longest type of a node and the longest relationship, in bytes of UTF-8."""
RELATIONSHIPS = 100
"""The most relationships that one call looks at."""
BATCH = 10_000
"""The most nodes or edges of one call."""
DEPTH = 32
"""The most steps of one walk."""
AGENT, USER, CHANNEL, CONCEPT, CONFIG = "AGENT", "USER", "CHANNEL", "CONCEPT", "CONFIG"

Direction = Literal["out", "in", "both"]


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(slots=True)
class Node:
    """A thing that an agent remembers: ``Node("ada", "USER", {"name": "Ada"})``.

    ``id`` is its own within the scope, up to 768 bytes. ``attributes`` is any JSON object. ``scope`` None is that of
    the graph that it is written to; a node that was read always has one.

    What follows is the database's: what a new record holds there is not stored. ``version`` counts the writes from 1,
    and goes on where it ended when a deleted node is added again; None says: not read from the database. ``created_by``
    and ``updated_by`` are the actors that the graph was bound to, ``approval`` that of the last write, if it had one.
    """

    id: str
    type: str
    attributes: dict[str, Any] = field(default_factory=dict)
    _: KW_ONLY
    scope: str | None = None
    version: int | None = None
    created_by: str | None = None
    updated_by: str | None = None
    approval: Approval | None = None
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)

    @property
    def cursor(self) -> str:
        """Where ``find`` goes on after this node: pass it as ``after``. Opaque, and safe within a URL."""
        return encode_cursor(self.updated_at, self.id)


@dataclass(slots=True)
class Edge:
    """What one node has to do with another: ``Edge("ada", "knows", "bob", weight=0.9)``.

    There is one edge of each relationship from a source to a target; both are nodes of the edge's scope. The other
    fields are as those of a ``Node``.
    """

    source: str
    relationship: str
    target: str
    _: KW_ONLY
    weight: float = 1.0
    attributes: dict[str, Any] = field(default_factory=dict)
    scope: str | None = None
    version: int | None = None
    created_by: str | None = None
    updated_by: str | None = None
    approval: Approval | None = None
    created_at: datetime = field(default_factory=_now)
    updated_at: datetime = field(default_factory=_now)

    @property
    def cursor(self) -> str:
        """Where ``edges`` goes on after this edge: pass it as ``after``. Opaque, and safe within a URL."""
        return _encode([self.source, self.relationship, self.target])


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A node that a walk met, and the least number of steps that it takes to get there."""

    node: Node
    depth: int

    @property
    def cursor(self) -> str:
        """Where ``neighbours`` goes on after this one: pass it as ``after``. Opaque, and safe within a URL."""
        return _encode([self.depth, self.node.id])


@dataclass(frozen=True, slots=True)
class Found:
    """A node that was found, and how well it fits.

    Of ``search`` the score is the share of the query's words that it has, above 0 and up to 1; of ``recall`` the cosine
    between both embeddings.
    """

    node: Node
    score: float


@dataclass(frozen=True, slots=True)
class GraphPath:
    """A way through the graph: the ids of its nodes, the relationships between them, and the sum of the weights."""

    nodes: tuple[str, ...]
    relationships: tuple[str, ...]
    weight: float

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.relationships)

    def __bool__(self) -> bool:
        """Return True: a path of no steps is one too."""
        return True


@dataclass(frozen=True, kw_only=True, slots=True)
class GraphChange:
    """A version of a node, or an approved one of an edge, as it was written.

    Of an edge ``id`` is the source, and ``relationship``, ``target`` and ``weight`` are set. ``deleted`` says that this
    version is the deletion. ``by`` is the actor, ``at`` the time of the write.
    """

    id: str
    scope: str
    version: int
    type: str | None
    attributes: dict[str, Any]
    deleted: bool
    by: str | None
    at: datetime
    approval: Approval | None
    relationship: str | None = None
    target: str | None = None
    weight: float | None = None

    @property
    def cursor(self) -> str:
        """Where ``approvals`` goes on after this one: pass it as ``after``. Opaque, and safe within a URL."""
        return _encode([to_micros(self.at), self.id, self.relationship or "", self.target or "", self.version])


@dataclass(frozen=True, slots=True)
class Deleted:
    """How many nodes and edges went; true when a node did."""

    nodes: int
    edges: int

    def __bool__(self) -> bool:
        """Tell whether a node was there to delete."""
        return self.nodes > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigVersion:
    """A value of the configuration as it was set; ``deleted`` says that this version took it away."""

    key: str
    value: Any
    version: int
    deleted: bool
    by: str | None
    at: datetime
    approval: Approval | None


def _encode(place: list[Any]) -> str:
    return urlsafe_b64encode(to_text(place).encode()).decode().rstrip("=")


def _decode(after: object, *kinds: type) -> list[Any]:
    """Return the parts of a cursor, each of its kind.

    Raises:
        ValidationError: it is no cursor of this listing.
    """
    try:
        text = cast(str, after)
        found = decoded(b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode())
        if type(found) is list and [type(part) for part in found] == list(kinds):
            for part in found:
                if type(part) is str:
                    check_text("the cursor", part, limit=ID_BYTES)
                else:
                    check_whole("the cursor", part, least=0)
            return found
    except (TypeError, ValueError, OverflowError, RecursionError, ValidationError):
        pass
    raise ValidationError("after is no cursor", hint="pass the cursor of a record that the listing gave")


def node_id(value: object, what: str = "the node's id") -> str:
    """Return an id of a node, checked."""
    return check_id(what, value, limit=NODE_ID_BYTES)


def relationship_name(value: object) -> str:
    """Return a relationship, checked."""
    return check_id("the relationship", value, limit=TYPE_BYTES)


def type_name(value: object) -> str | None:
    """Return a type of nodes to look for, checked; None is any."""
    return None if value is None else check_id("the type", value, limit=TYPE_BYTES)


def relationship_names(value: object) -> list[str] | None:
    """Return the relationships that a call looks at: one, several, or None for all.

    Raises:
        ValidationError: it is neither a text nor a list of 1 to 100.
    """
    if value is None:
        return None
    if isinstance(value, str):
        return [relationship_name(value)]
    if not isinstance(value, list | tuple | set | frozenset) or not 1 <= len(value) <= RELATIONSHIPS:
        raise ValidationError(f"relationship is neither a text nor a list of 1 to {RELATIONSHIPS}")
    return sorted({relationship_name(name) for name in value})


def directions(direction: object) -> dict[str, bool]:
    """Return which edges a call follows.

    Raises:
        ValidationError: it is neither ``out``, ``in`` nor ``both``.
    """
    if direction not in get_args(Direction):
        raise ValidationError(f"{str(direction)[:80]!r} is no direction", hint="out, in or both")
    return {"outward": direction != "in", "inward": direction != "out"}


def edges_place(node: str, direction: object, after: object, limit: object) -> dict[str, Any]:
    """Return what the listing of a node's edges takes: which of them, and the place that they follow."""
    values: dict[str, Any] = {"id": node, "limit": check_limit(limit), **directions(direction)}
    values |= {"loops": not values["outward"]}
    values |= {"out_relationship": "", "out_other": "", "in_relationship": "", "in_other": ""}
    if after is None:
        return values
    source, relationship, target = _decode(after, str, str, str)
    if source == node and values["outward"]:
        return {**values, "out_relationship": relationship, "out_other": target}
    if target != node or not values["inward"]:
        raise ValidationError("after is no cursor of this listing", hint="pass the cursor of an edge that it gave")
    return {**values, "outward": False, "in_relationship": relationship, "in_other": source}


def walk_place(node: str, depth: object, after: object, limit: object) -> dict[str, Any]:
    """Return what a walk takes: how far it goes, how many it gives, and the place that they follow."""
    values = {
        "id": node,
        "depth": check_whole("depth", depth, most=DEPTH),
        "limit": check_limit(limit),
        # The start is all that lies at depth 0; what follows it is everything else.
        "after_depth": 0,
        "after_id": node,
    }
    if after is not None:
        values["after_depth"], values["after_id"] = _decode(after, int, str)
        check_whole("the cursor's depth", values["after_depth"], most=DEPTH)
    return values


def approvals_place(after: object, limit: object) -> dict[str, Any]:
    """Return what the listing of approvals takes."""
    values: dict[str, Any] = {"limit": check_limit(limit), "after_time": None, "after_id": ""}
    values |= {"after_relationship": "", "after_target": "", "after_version": 0}
    if after is None:
        return values
    micros, id, relationship, target, version = _decode(after, int, str, str, str, int)
    try:
        moment = from_micros(micros)
    except OverflowError:
        raise ValidationError("after is no cursor", hint="pass the cursor of a record that the listing gave") from None
    places = {"after_id": id, "after_relationship": relationship, "after_target": target, "after_version": version}
    return {**values, **places, "after_time": moment}


def find_place(limit: object, after: object, since: object, until: object) -> dict[str, Any]:
    """Return what ``find`` takes besides type and filter."""
    page = page_values(limit, after)
    del page["where"]
    return {**page, "since": moment_or_none("since", since), "until": moment_or_none("until", until)}

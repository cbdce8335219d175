"""Own how nodes and edges are stored: what is refused, what is escaped, which words are kept, and rows as records.

Attributes are jsonb, which refuses NUL and lone surrogates. Each of them, in keys and texts at any depth, is stored as
U+001A and its four hexadecimal digits, and U+001A itself alike, so every text comes back as it was and different keys
stay different. Filters are escaped the same way.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, cast

from persistence.dialect import Dialect, from_json
from persistence.errors import ValidationError
from persistence.validation import METADATA_DEPTH, check_id, is_plain_json, metadata_json, shown
from sessions.contents import to_text
from sessions.graph import (
    BATCH,
    CONFIG,
    ConfigVersion,
    Edge,
    GraphChange,
    Node,
    node_id,
    relationship_name,
    type_name,
)
from sessions.records import record_time, where_json
from sessions.scopes import Approval
from sessions.words import words_of

CONFIG_PREFIX = "config/"
"""What the ids of the configuration's nodes begin with; the key follows."""
ID_WORDS = "\x1aid"
"""Where the words of a node's id are kept; no escaped attribute has that name."""

_REFUSED = re.compile("[\0\x1a\ud800-\udfff]")
_ESCAPED = re.compile("\x1a([0-9a-f]{4})")


def _escape(text: str) -> str:
    return _REFUSED.sub(lambda found: f"\x1a{ord(found[0]):04x}", text)


def _unescape(text: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text)


def _mapped(value: Any, change: Callable[[str], str], depth: int = METADATA_DEPTH) -> Any:
    """Return a JSON value with every text changed; what lies too deep stays, and is refused after this."""
    if isinstance(value, str):
        return change(value)
    if depth and type(value) is dict:
        return {
            change(key) if isinstance(key, str) else key: _mapped(item, change, depth - 1)
            for key, item in value.items()
        }
    if depth and type(value) is list:
        return [_mapped(item, change, depth - 1) for item in value]
    return value


def escaped(attributes: object) -> Any:
    """Return attributes with what jsonb refuses escaped."""
    if not isinstance(attributes, dict) or (is_plain_json(attributes) and "\\u001a" not in to_text(attributes)):
        return attributes
    return _mapped(attributes, _escape)


def attributes_json(attributes: object, what: str = "attributes") -> str:
    """Return attributes as the JSON text that is stored.

    Raises:
        ValidationError: they are no dict, or hold what JSON would give back as something else: a key that is no str, a
            tuple, NaN, an int of more than 64 bits, 100 levels, ….
    """
    return metadata_json(escaped(attributes), what)


def attributes_of(stored: Any) -> dict[str, Any]:
    """Return the attributes that a column holds, as text."""
    found = from_json(stored)
    return cast("dict[str, Any]", _mapped(found, _unescape) if "\\u001a" in stored else found)


def where_text(where: object) -> str | None:
    """Return a filter of attributes as the statements take it."""
    return where_json(escaped(where))


def words_json(attributes: dict[str, Any], id: str | None = None) -> str:
    """Return the words of attributes, of each by its escaped name, and those of the id."""
    found = {_escape(name): words_of(value) for name, value in attributes.items()}
    if id is not None:
        found[ID_WORDS] = words_of(id)
    return to_text(found)


def node_row(node: object, scope: str) -> dict[str, str]:
    """Return what the statements store of a node, checked.

    Raises:
        ValidationError: something in it can't be stored, or it is of another scope.
    """
    if not isinstance(node, Node):
        raise ValidationError(f"a {type(node).__name__} is no Node")
    id = node_id(node.id)
    _check_scope(f"node {shown(id)}", node.scope, scope)
    kind = type_name(check_id("the node's type", node.type))
    if id.startswith(CONFIG_PREFIX) and kind != CONFIG:
        raise ValidationError(
            f"ids that begin with {CONFIG_PREFIX} are those of the configuration", hint="set_config()"
        )
    attributes = attributes_json(node.attributes)
    return {"id": id, "type": str(kind), "attributes": attributes, "words": words_json(node.attributes, id)}


def edge_row(edge: object, scope: str) -> dict[str, Any]:
    """Return what the statements store of an edge, checked.

    Raises:
        ValidationError: something in it can't be stored, or it is of another scope.
    """
    if not isinstance(edge, Edge):
        raise ValidationError(f"a {type(edge).__name__} is no Edge")
    weight = cast(object, edge.weight)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValidationError(f"the weight {shown(str(weight))} is no finite number")
    row = {
        "source": node_id(edge.source, "the edge's source"),
        "relationship": relationship_name(edge.relationship),
        "target": node_id(edge.target, "the edge's target"),
        "weight": float(weight),
        "attributes": attributes_json(edge.attributes),
    }
    _check_scope(f"edge {edge_name(row)}", edge.scope, scope)
    return row


def edge_name(row: dict[str, Any]) -> str:
    """Return an edge as messages name it."""
    return shown(f"{row['source']} -{row['relationship']}-> {row['target']}")


def _check_scope(what: str, own: object, scope: str) -> None:
    if own is not None and own != scope:
        raise ValidationError(
            f"{what} is of the scope {str(own)[:80]!r}, the graph is bound to {scope!r}", hint="graph.in_scope(…)"
        )


def rows_of(items: object, row: Callable[[object, str], dict[str, Any]], key: Sequence[str], scope: str) -> list[Any]:
    """Return the rows of a batch, checked; ``key`` tells them apart.

    Raises:
        ValidationError: it is no list of 1 to 10,000, one of it can't be stored, or two are the same.
    """
    if not isinstance(items, list | tuple):
        raise ValidationError(f"a {type(items).__name__} is no list of records")
    if not 1 <= len(items) <= BATCH:
        raise ValidationError(f"{len(items):,} records are not within 1 and {BATCH:,}")
    rows: list[dict[str, Any]] = []
    seen = set()
    for place, item in enumerate(items):
        try:
            found = row(item, scope)
        except ValidationError as exc:
            raise ValidationError(f"[{place}]: {exc.message}", hint=exc.hint) from None
        name = tuple(found[part] for part in key)
        if name in seen:
            raise ValidationError(f"[{place}]: {shown(' '.join(name))} is twice in the batch", hint="merge them first")
        seen.add(name)
        rows.append(found)
    return rows


def named_attributes(id: str, attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes under names that tell of secrets: the value of a configuration under its key."""
    if id.startswith(CONFIG_PREFIX) and attributes.keys() == {"value"}:
        return {id.removeprefix(CONFIG_PREFIX): attributes["value"]}
    return attributes


def with_names(attributes: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Return what ``named_attributes`` gave, changed, under the attributes' own names."""
    return {"value": next(iter(changed.values()))} if attributes.keys() == {"value"} else changed


def config_id(key: object) -> str:
    """Return the id of the node that holds a key of the configuration."""
    return node_id(CONFIG_PREFIX + check_id("the key", key), "the key")


def after_prefix(prefix: str) -> str:
    """Return the first text, in the order of code points, that comes after all that begin with a prefix."""
    kept = prefix.rstrip("\U0010ffff")
    last = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if last == 0xD800 else last)


def _approval(row: dict[str, Any]) -> Approval | None:
    by = row["approved_by"]
    return None if by is None else Approval(by, row["approval_reason"])


def node_from_row(row: dict[str, Any], dialect: Dialect) -> Node:
    """Return the node that a row holds."""
    return Node(
        row["id"],
        row["type"],
        attributes_of(row["attributes"]),
        scope=row["scope"],
        version=row["version"],
        created_by=row["created_by"],
        updated_by=row["updated_by"],
        approval=_approval(row),
        created_at=record_time(dialect, row["created_at"]),
        updated_at=record_time(dialect, row["updated_at"]),
    )


def edge_from_row(row: dict[str, Any], dialect: Dialect) -> Edge:
    """Return the edge that a row holds."""
    return Edge(
        row["source"],
        row["relationship"],
        row["target"],
        weight=float(row["weight"]),
        attributes=attributes_of(row["attributes"]),
        scope=row["scope"],
        version=row["version"],
        created_by=row["created_by"],
        updated_by=row["updated_by"],
        approval=_approval(row),
        created_at=record_time(dialect, row["created_at"]),
        updated_at=record_time(dialect, row["updated_at"]),
    )


def change_from_row(row: dict[str, Any], dialect: Dialect) -> GraphChange:
    """Return the change that a row of the history holds."""
    return GraphChange(
        id=row["id"],
        scope=row["scope"],
        version=row["version"],
        type=row["type"],
        attributes=attributes_of(row["attributes"]),
        deleted=bool(row["deleted"]),
        by=row["updated_by"],
        at=record_time(dialect, row["updated_at"]),
        approval=_approval(row),
        relationship=row["relationship"] or None,
        target=row["target"] or None,
        weight=None if row["weight"] is None else float(row["weight"]),
    )


def config_from_node(node: Node) -> ConfigVersion:
    """Return the value of the configuration that a node holds."""
    return ConfigVersion(
        key=node.id.removeprefix(CONFIG_PREFIX),
        value=node.attributes.get("value"),
        version=node.version or 0,
        deleted=False,
        by=node.updated_by,
        at=node.updated_at,
        approval=node.approval,
    )


def config_from_change(change: GraphChange) -> ConfigVersion:
    """Return the value of the configuration that a change set, or took away."""
    return ConfigVersion(
        key=change.id.removeprefix(CONFIG_PREFIX),
        value=change.attributes.get("value"),
        version=change.version,
        deleted=change.deleted,
        by=change.by,
        at=change.at,
        approval=change.approval,
    )

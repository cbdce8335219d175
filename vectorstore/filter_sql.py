"""Filters as SQL whose every key and value is a parameter, with the rows that the reference gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from persistence.dialect import to_json
from vectorstore.filters import All, AnyOf, Condition, Node, Not, Scalar, joined_path, kind_of
from vectorstore.requests import KeyType
from vectorstore.schema import key_expression

INDEXED_VALUES = 32
"""Up to so many values, $in is an or of containments, which PostgreSQL's GIN index answers."""

_ORDER = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}


class _Writer(ABC):
    """Writes a tree as SQL, and collects its parameters, each value once."""

    def __init__(self, column: str) -> None:
        self.column = column
        self.parameters: dict[str, Any] = {}
        self._names: dict[tuple[type, Any], str] = {}

    def bind(self, value: Any) -> str:
        """Return the placeholder of a text or number."""
        name = self._names.setdefault((type(value), value), f"filter_{len(self._names)}")
        self.parameters[name] = value
        return f":{name}"

    def write(self, node: Node) -> str:
        """Return an expression that is true or false, never NULL."""
        match node:
            case All(parts) | AnyOf(parts):
                if not parts:
                    return "(1 = 1)" if isinstance(node, All) else "(1 = 0)"
                joint = " AND " if isinstance(node, All) else " OR "
                return "(" + joint.join(self.write(part) for part in parts) + ")"
            case Not(part):
                return f"(NOT {self.write(part)})"
            case Condition():
                return self.condition(node)

    @abstractmethod
    def condition(self, node: Condition) -> str:
        """Return the expression of one condition."""


class Written(NamedTuple):
    """A filter as SQL: a condition, its parameters (``filter_…``), and whether the planner has figures on it.

    ``undeclared`` are the keys for whose conditions there would be an index, and figures, if they were declared.
    """

    sql: str
    parameters: dict[str, Any]
    estimable: bool = True
    undeclared: Mapping[str, KeyType] = MappingProxyType({})


class _PostgreSQL(_Writer):
    def __init__(self, column: str, keys: Mapping[tuple[str, ...], KeyType]) -> None:
        super().__init__(column)
        self.estimable = True
        self.undeclared: dict[str, KeyType] = {}
        self._keys = keys
        self._negated = False

    def write(self, node: Node) -> str:
        if not isinstance(node, Not):
            return super().write(node)
        before, self._negated = self._negated, True
        try:
            return super().write(node)
        finally:
            self._negated = before

    def condition(self, node: Condition) -> str:
        path, operator, operand = node.path, node.operator, node.operand
        if path in self._keys and (declared := self._declared(self._keys[path], node)):
            return declared
        if operator == "$eq":
            return self._holds(path, operand)
        if operator == "$contains":
            return self._holds(path, [operand])
        if operator == "$in" and len(operand) <= INDEXED_VALUES:
            return self.write(AnyOf(tuple(Condition(path, "$eq", item) for item in operand)))
        found = self._value(path)
        self.estimable = False
        if operator == "$exists":
            return f"({found} IS NOT NULL)"
        if path not in self._keys:
            first = operand[0] if operator in ("$in", "$like") else operand
            self.undeclared[joined_path(path)] = "text" if isinstance(first, str) else "number"
        if operator == "$in":
            items = self.bind(to_json(operand))
            return f"coalesce({found} IN (SELECT jsonb_array_elements(CAST({items} AS jsonb))), false)"
        text = f"({found} #>> '{{}}') COLLATE \"C\""
        if operator == "$like":
            return self._typed(found, "string", f"{text} LIKE {self._operand('text', operand[0])}")
        sign = _ORDER[operator]
        if isinstance(operand, str):
            return self._typed(found, "string", f"{text} {sign} {self._operand('text', operand)}")
        return self._typed(found, "number", f"CAST({found} AS numeric) {sign} {self._operand('number', operand)}")

    def _declared(self, kind: KeyType, node: Condition) -> str | None:
        """Return the condition on a declared key's index; None where it can't answer."""
        operator, operand = node.operator, node.operand
        items = operand if operator == "$in" else (operand[0] if operator == "$like" else operand,)
        wanted = "text" if kind == "text" else "number"
        if operator in ("$exists", "$contains") or any(kind_of(item) != wanted for item in items):
            return None
        if not items:
            return "false"
        found = key_expression(self.column, [f"CAST({self.bind(step)} AS text)" for step in node.path], kind)
        values = [self._operand(kind, item) for item in items]
        if operator == "$in":
            condition = f"{found} IN ({', '.join(values)})"
        else:
            sign = {"$eq": "=", "$like": "LIKE", **_ORDER}[operator]
            condition = f"{found} {sign} {values[0]}"
        # An index answers a bare comparison only. Its NULL, for a value of another type, is as good as false until
        # it is turned round.
        return f"coalesce({condition}, false)" if self._negated else f"({condition})"

    def _operand(self, kind: KeyType, value: Any) -> str:
        if kind == "text":
            return f"CAST({self.bind(value)} AS text)"
        # As text: a float8 parameter would lose digits on its way to numeric.
        return f"CAST(CAST({self.bind(to_json(value))} AS text) AS numeric)"

    def _holds(self, path: tuple[str, ...], value: Any) -> str:
        for key in reversed(path):
            value = {key: value}
        return f"({self.column} @> CAST({self.bind(to_json(value))} AS jsonb))"

    def _value(self, path: tuple[str, ...]) -> str:
        # `->` with a text steps into objects only; `#>` would also count an array's items.
        found = self.column
        for key in path:
            found = f"({found} -> CAST({self.bind(key)} AS text))"
        return found

    def _typed(self, found: str, kind: str, expression: str) -> str:
        # CASE alone promises that a value of another type never reaches the cast.
        return f"(CASE WHEN jsonb_typeof({found}) = '{kind}' THEN {expression} ELSE false END)"


class _SQLite(_Writer):
    def write(self, node: Node) -> str:
        """Write a tree so that SQLite's parser, whose stack has 100 places, takes it as deep as a filter may be.

        What is turned round is turned round at the leaves, and the deepest part comes first: a place a level.
        """
        match node:
            case Not(Not(part)):
                return self.write(part)
            case Not(All(parts)):
                return self.write(AnyOf(tuple(map(Not, parts))))
            case Not(AnyOf(parts)):
                return self.write(All(tuple(map(Not, parts))))
            case All(parts) | AnyOf(parts):
                return super().write(type(node)(tuple(sorted(parts, key=_depth, reverse=True))))
        return super().write(node)

    def condition(self, node: Condition) -> str:
        operator, operand = node.operator, node.operand
        if operator == "$in" and not operand:
            return "(1 = 0)"
        found, kind = self._found(node.path)
        if operator == "$exists":
            return f"({kind} IS NOT NULL)"
        if operator == "$contains":
            item = self._equal("item.value", "item.type", operand)
            items = f"EXISTS (SELECT 1 FROM json_each({found}) AS item WHERE {item})"
            return self._typed(kind, "'array'", items)
        if operator == "$eq":
            return self._equal(found, kind, operand)
        if operator == "$in":
            return self._in(found, kind, operand)
        if operator == "$like":
            return self._typed(kind, "'text'", f"{found} GLOB {self.bind(operand[1])}")
        return self._typed(kind, _sqlite_types(operand), f"{found} {_ORDER[operator]} {self.bind(operand)}")

    def _in(self, found: str, kind: str, operand: tuple[Scalar, ...]) -> str:
        choices = [self._equal(found, kind, item) for item in (None, True, False) if any(item is o for o in operand)]
        for example in ("", 0):
            items = [item for item in operand if kind_of(item) == kind_of(example)]
            if items:
                listed = f"{found} IN (SELECT value FROM json_each({self.bind(to_json(items))}))"
                choices.append(self._typed(kind, _sqlite_types(example), listed))
        return f"({' OR '.join(choices)})"

    def _equal(self, found: str, kind: str, operand: Scalar) -> str:
        if operand is None or isinstance(operand, bool):
            return f"({kind} IS '{to_json(operand)}')"
        return self._typed(kind, _sqlite_types(operand), f"{found} = {self.bind(operand)}")

    def _typed(self, kind: str, types: str, expression: str) -> str:
        return f"(CASE WHEN {kind} IN ({types}) THEN {expression} ELSE 0 END)"

    def _found(self, path: tuple[str, ...]) -> tuple[str, str]:
        """Return the expressions of a path's value and type."""
        if all(map(_fits_a_path, path)):
            place = self.bind("$" + "".join(f'."{key}"' for key in path))
            return f"json_extract({self.column}, {place})", f"json_type({self.column}, {place})"
        # A JSON path has no way to write a quote, a backslash or an empty key: step by step instead.
        each, wanted, inner = [], [], self.column
        for number, key in enumerate(path):
            each.append(f"json_each({inner}) AS step_{number}")
            wanted.append(f"step_{number}.key = {self.bind(key)}")
            inner = f"CASE step_{number}.type WHEN 'object' THEN step_{number}.value END"
        last, steps = f"step_{len(path) - 1}", f"FROM {' CROSS JOIN '.join(each)} WHERE {' AND '.join(wanted)}"
        return f"(SELECT {last}.value {steps})", f"(SELECT {last}.type {steps})"


def _depth(node: Node) -> int:
    match node:
        case Not(part):
            return _depth(part)
        case All(parts) | AnyOf(parts):
            return 1 + max(map(_depth, parts), default=0)
    return 0


def _fits_a_path(key: str) -> bool:
    return bool(key) and to_json(key) == f'"{key}"'


def _sqlite_types(operand: Scalar) -> str:
    return "'text'" if isinstance(operand, str) else "'integer', 'real'"


def to_postgresql(node: Node, column: str, keys: Mapping[tuple[str, ...], KeyType] | None = None) -> Written:
    """Return a condition on a jsonb column; ``keys`` are those that are declared, by their path."""
    writer = _PostgreSQL(column, keys or {})
    return Written(writer.write(node), writer.parameters, writer.estimable, writer.undeclared)


def to_sqlite(node: Node, column: str) -> tuple[str, dict[str, Any]]:
    """Return a condition on a column of JSON text, and its parameters, all named ``filter_…``."""
    writer = _SQLite(column)
    return writer.write(node), writer.parameters

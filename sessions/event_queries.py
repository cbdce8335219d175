"""What is asked of events: conditions and groups as SQL whose values are parameters, and sums as records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple, cast, get_args

from persistence.dialect import Dialect, Kind
from persistence.errors import ValidationError
from persistence.fields import Duration
from persistence.validation import ID_BYTES, LIMIT, check_id
from sessions.events import (
    AUDIT,
    FIRST_MOMENT,
    KIND_BYTES,
    LAST_MOMENT,
    LEVELS,
    EventRetention,
    check_level,
    check_stage,
    check_time,
    check_word,
)
from sessions.records import micros_of, where_json

EventSum = Literal["count", "sum", "avg", "min", "max", "p50", "p95", "p99", "rate"]
EventGroup = Literal["kind", "name", "service", "level", "correlation"]

ORIGIN = datetime(1969, 12, 29, tzinfo=UTC)
"""Where buckets begin: a Monday before every event, so that weeks begin on Mondays and days at midnight, in UTC."""
MAX_GROUPS = 8
MAX_BUCKET = timedelta(days=366)

_MICROSECOND = timedelta(microseconds=1)
_PERCENTILES: dict[str, float] = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# SQLite writes a float with 15 digits: its own text is what is left when the other tags, and its key, are taken away.
_TAG = {
    "postgresql": "CAST(NULLIF(e.tags -> CAST(:{name} AS text), 'null') AS text)",
    "sqlite": "(SELECT CASE j.type WHEN 'null' THEN NULL WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' "
    "WHEN 'real' THEN rtrim(substr(json_patch(e.tags, ("
    "SELECT json_group_object(o.key, NULL) FROM json_each(e.tags) AS o WHERE o.key <> :{name}"
    ")), length(json_object(:{name}, NULL)) - 4), '}}') "
    "ELSE json_quote(j.value) END FROM json_each(e.tags) AS j WHERE j.key = :{name})",
}
_PERCENTILE = (
    "percentile_cont(CAST(:fractions AS float8[])) WITHIN GROUP (ORDER BY e.value) FILTER (WHERE e.samples IS NULL)"
)
_KINDS = {
    "postgresql": "e.kind = ANY(CAST(:kinds AS text[]))",
    "sqlite": "e.kind IN (SELECT value FROM json_each(:kinds))",
}
_LEVELS = {
    "postgresql": "e.level = ANY(CAST(:levels AS text[]))",
    "sqlite": "e.level IN (SELECT value FROM json_each(:levels))",
}
# Top-level keys with equal values, 1 being 1.0, as jsonb's @> has it.
_TAGS = {
    "postgresql": "e.tags @> CAST(:tags AS jsonb)",
    "sqlite": "NOT EXISTS (SELECT 1 FROM json_tree(:tags) AS w WHERE w.key IS NOT NULL AND NOT EXISTS ("
    "SELECT 1 FROM json_each(e.tags) AS j WHERE j.key = w.key AND j.atom IS w.atom AND ("
    "j.type = w.type OR j.type IN ('integer', 'real') AND w.type IN ('integer', 'real'))))",
}


class Condition(NamedTuple):
    """A condition on events ``e``: SQL that names its parameters, and these."""

    sql: str
    parameters: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class EventBucket:
    """Sums over the events of a bucket of time that begins at ``start``, and of a group of them.

    ``group`` holds the fields and tags that the sums are apart by; one that an event doesn't have is None. ``values``
    holds what was asked for, by name. ``sum``, ``avg``, ``min``, ``max`` and percentiles are over the values; they are
    None where no event has one.
    """

    start: datetime
    group: dict[str, Any]
    values: dict[EventSum, float | None]

    @property
    def value(self) -> float | None:
        """The one thing that was asked for.

        Raises:
            ValidationError: several were.
        """
        if len(self.values) != 1:
            raise ValidationError(f"the bucket has {', '.join(self.values)}", hint="take one from values")
        return next(iter(self.values.values()))


def many(kind: Kind, values: Sequence[str]) -> Any:
    """Return texts as the one parameter in which each database takes many."""
    return list(values) if kind == "postgresql" else json.dumps(list(values), ensure_ascii=False)


def check_kinds(kinds: object) -> tuple[str, ...] | None:
    """Return the kinds that are asked for; None for all.

    Raises:
        ValidationError: they are one text, or none, or one can't be a kind.
    """
    if kinds is None:
        return None
    if isinstance(kinds, str) or not isinstance(kinds, Sequence):
        raise ValidationError(f"kinds is a {type(kinds).__name__}, not a list", hint='kinds=["metric"]')
    if not kinds:
        raise ValidationError("kinds is empty", hint="leave it out for all kinds")
    return tuple(check_word("a kind", kind, KIND_BYTES) for kind in kinds)


def condition_of(
    kind: Kind,
    *,
    kinds: object = None,
    name: object = None,
    service: object = None,
    correlation: object = None,
    level: object = None,
    tags: object = None,
    retention: object = None,
) -> Condition:
    """Return the condition of a query. What is None doesn't matter; a level means itself and the graver ones.

    Raises:
        ValidationError: a value is none that an event could have.
    """
    found, parameters = [], dict[str, Any]()
    wanted = check_kinds(kinds)
    if wanted is not None:
        found.append(_KINDS[kind])
        parameters["kinds"] = many(kind, wanted)
    for what, value in (("name", name), ("service", service), ("correlation", correlation)):
        if value is not None:
            found.append(f"e.{what} = :{what}")
            parameters[what] = check_id(what, value)
    if level is not None:
        least = LEVELS.index(cast(Any, check_level(level)))
        found.append(_LEVELS[kind])
        parameters["levels"] = many(kind, LEVELS[least:])
    where = where_json(tags)
    if where is not None:
        found.append(_TAGS[kind])
        parameters["tags"] = where
    stage = _stage_of(retention, wanted)
    if stage is not None:
        found.append("e.retention = :retention")
        parameters["retention"] = stage
    return Condition(" AND ".join(found) or "true", parameters)


def _stage_of(retention: object, kinds: tuple[str, ...] | None) -> EventRetention | None:
    if retention is not None:
        return check_stage(retention)
    # An audit event is always kept, and so stands in no other partition.
    return "kept" if kinds == (AUDIT,) else None


def check_window(since: object, until: object) -> dict[str, datetime]:
    """Return the window of a query: from ``since`` to below ``until``, None being all."""
    begins = FIRST_MOMENT if since is None else check_time("since", since)
    ends = LAST_MOMENT if until is None else check_time("until", until)
    if begins > ends:
        raise ValidationError(f"since {begins.isoformat()} is after until {ends.isoformat()}")
    return {"since": begins, "until": ends}


class Sums:
    """What ``aggregate`` was asked for, as SQL, and its rows as records."""

    def __init__(self, bucket: Duration, sums: object, by: object, by_tags: object) -> None:
        """Check it.

        Raises:
            ValidationError: the bucket is longer than 366 days, or a sum or a group is unknown, or comes twice.
        """
        self.micros = micros_of("bucket", bucket)
        if self.micros * _MICROSECOND > MAX_BUCKET:
            raise ValidationError(f"bucket is longer than {MAX_BUCKET.days} days")
        self.sums: list[EventSum] = cast(Any, _distinct("a sum", sums, get_args(EventSum)))
        if not self.sums:
            raise ValidationError("no sum is asked for", hint=", ".join(get_args(EventSum)))
        self.by = _distinct("a group", by, get_args(EventGroup))
        self.by_tags = _distinct("a tag", by_tags, None)
        if len(self.by) + len(self.by_tags) > MAX_GROUPS:
            raise ValidationError(f"more than {MAX_GROUPS} groups")
        if set(self.by) & set(self.by_tags):
            raise ValidationError("a tag has the name of a field that is a group too", hint="group by one of them")
        self.fractions = [_PERCENTILES[name] for name in self.sums if name in _PERCENTILES]

    def places(self, kind: Kind, condition: Condition) -> dict[str, str]:
        """Return what the marked places of a statement become."""
        names = [f"group_{number}" for number in range(len(self.by) + len(self.by_tags))]
        tags = [_TAG[kind].format(name=f"tag_{number}") for number in range(len(self.by_tags))]
        groups = [f"e.{name}" for name in self.by] + tags
        return {
            "groups": ", ".join(f"{group} AS {name}" for group, name in zip(groups, names, strict=True)) or "NULL",
            "listed": ", ".join(["…", *names]),
            "percentiles": _PERCENTILE if self.fractions and kind == "postgresql" else "NULL",
            "filter": condition.sql,
        }

    def parameters(self, kind: Kind, condition: Condition) -> dict[str, Any]:
        """Return the parameters of the statement, but for the tenant and the window."""
        tags = {f"tag_{number}": tag for number, tag in enumerate(self.by_tags)}
        bucket: Any = timedelta(microseconds=self.micros) if kind == "postgresql" else self.micros
        fractions: Any = self.fractions if kind == "postgresql" else json.dumps(self.fractions)
        named = {"bucket": bucket, "origin": ORIGIN, "limit": LIMIT + 1, "fractions": fractions}
        return {**condition.parameters, **tags, **named}

    def with_percentiles(
        self, rows: Sequence[Mapping[str, Any]], ranked: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return SQLite's rows of sums with the percentiles that another statement gave."""
        names = ["start", *(f"group_{number}" for number in range(len(self.by) + len(self.by_tags)))]
        found: dict[tuple[Any, ...], list[float | None]] = {}
        for row in ranked:
            places = found.setdefault(tuple(row[name] for name in names), [None] * len(self.fractions))
            places[int(row["fraction"])] = row["percentile"]
        return [{**row, "percentiles": found.get(tuple(row[name] for name in names))} for row in rows]

    def buckets(
        self, rows: Sequence[Mapping[str, Any]], dialect: Dialect, window: Mapping[str, datetime]
    ) -> list[EventBucket]:
        """Return the rows as records, in the order of the buckets, then of the groups."""
        names = [*self.by, *self.by_tags]
        found = []
        for row in rows:
            group = {
                name: row[f"group_{number}"] if number < len(self.by) else _decoded(row[f"group_{number}"])
                for number, name in enumerate(names)
            }
            start = cast(datetime, dialect.moment(row["start"]))
            found.append(EventBucket(start=start, group=group, values=self._values(row, start, window)))
        found.sort(key=lambda bucket: (bucket.start, [_order(value) for value in bucket.group.values()]))
        return found

    def _values(
        self, row: Mapping[str, Any], start: datetime, window: Mapping[str, datetime]
    ) -> dict[EventSum, float | None]:
        # A percentile of what was rolled up can't be told any more.
        exact = row["percentiles"] if not row["rolled"] and row["percentiles"] is not None else None
        percentiles = iter(exact or [None] * len(self.fractions))
        valued, total = int(row["valued"] or 0), row["total"]
        found: dict[EventSum, float | None] = {}
        for name in self.sums:
            if name == "count":
                found[name] = int(row["events"])
            elif name == "sum":
                found[name] = total
            elif name == "avg":
                found[name] = total / valued if valued else None
            elif name == "min":
                found[name] = row["low"]
            elif name == "max":
                found[name] = row["high"]
            elif name == "rate":
                ends = min(start + self.micros * _MICROSECOND, window["until"])
                found[name] = int(row["events"]) / (ends - max(start, window["since"])).total_seconds()
            else:
                found[name] = next(percentiles)
        return found


def _distinct(what: str, given: object, known: Sequence[str] | None) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple):
        raise ValidationError(f"{what} is a {type(given).__name__}, not a text or a list of texts")
    for name in names:
        check_id(what, name, limit=ID_BYTES)
        if known is not None and name not in known:
            raise ValidationError(f"{str(name)[:80]!r} is not {what}", hint=", ".join(known))
    if len(set(names)) != len(names):
        raise ValidationError(f"{what} comes twice")
    return list(names)


def _decoded(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _order(value: Any) -> tuple[int, Any]:
    """Return a key by which any JSON values have an order: None, bools, numbers, texts, the rest."""
    if value is None:
        return 0, 0
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    return (3, value) if isinstance(value, str) else (4, json.dumps(value, sort_keys=True))

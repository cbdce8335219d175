"""The filter language: what each operator means, what is refused, and that both databases give the reference's rows."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from persistence import Database, DatabaseManager, SQLiteConfig, ValidationError
from tests.servers import TestServers
from vectorstore.filter_sql import INDEXED_VALUES, to_postgresql, to_sqlite
from vectorstore.filters import MAX_CONDITIONS, MAX_DEPTH, matches, parse_filter
from vectorstore.records import metadata_text, metadata_value

DOCUMENT = {
    "category": "framework",
    "year": 2021,
    "price": 9.5,
    "free": False,
    "owner": None,
    "tags": ["a", 1, True, None],
    "author": {"name": "Ann", "first.name": "A", "tags": ["x"]},
    "a.b": "dotted",
    "$cost": 3,
    'quote"d': {"back\\slash": "it's"},
    "": {"": "empty"},
    "100%": "50_50 [x]*?",
}
TRUE: list[dict[str, Any]] = [
    {},
    {"category": "framework"},
    {"category": "framework", "year": 2021},
    {"year": 2021.0},
    {"year": {"$gt": 2020, "$lt": 2022}},
    {"year": {"$gte": 2021, "$lte": 2021}},
    {"price": {"$between": [9.5, 10]}},
    {"category": {"$gt": "frame", "$lt": "g"}},
    {"category": {"$ne": "library"}},
    {"missing": {"$ne": 1}},
    {"missing": {"$nin": [1]}},
    {"missing": {"$exists": False}},
    {"owner": None},
    {"owner": {"$exists": True}},
    {"free": False},
    {"free": {"$ne": 0}},
    {"year": {"$in": [1, "x", None, 2021]}},
    {"free": {"$in": [False]}},
    {"category": {"$nin": []}},
    {"tags": {"$contains": "a"}},
    {"tags": {"$contains": True}},
    {"tags": {"$contains": None}},
    {"author.tags": {"$contains": "x"}},
    {"author.name": "Ann"},
    {r"author.first\.name": "A"},
    {r"a\.b": "dotted"},
    {r"\$cost": 3},
    {'quote"d.back\\\\slash': "it's"},
    {".": "empty"},
    {"100%": {"$like": r"50\_50 [x]*?"}},
    {"category": {"$like": "fr%w_rk"}},
    {"category": {"$not": {"$eq": "library"}}},
    {"$or": [{"year": 1}, {"year": 2021}]},
    {"$and": [{"year": 2021}, {"free": False}]},
    {"$and": []},
    {"$not": {"year": 1}},
    {"$not": {"$or": []}},
]
FALSE: list[dict[str, Any]] = [
    {"category": "Framework"},
    {"free": 0},
    {"year": True},
    {"year": "2021"},
    {"year": {"$gt": "2020"}},
    {"category": {"$gt": 0}},
    {"missing": None},
    {"missing": {"$gt": 0}},
    {"missing": {"$like": "%"}},
    {"owner": {"$exists": False}},
    {"category": {"$in": []}},
    {"tags": "a"},
    {"tags": {"$contains": "b"}},
    {"category": {"$contains": "framework"}},
    {"tags.0": "a"},
    {"a.b": "dotted"},
    {"author.first.name": "A"},
    {"category": {"$like": "FR%"}},
    {"category": {"$like": "frame"}},
    {"100%": {"$like": "50*"}},
    {"year": {"$like": "2021"}},
    {"$or": []},
    {"$not": {}},
]
REFUSED: list[tuple[Any, str]] = [
    ({"$nor": []}, r"'\$nor' is no operator"),
    ({"year": {"$regex": "x"}}, r"'\$regex' on the key 'year' is no operator"),
    ({"year": {"plain": 1}}, "a key within an object"),
    ({"year": {}}, "'year' has no operator"),
    ({"tags": ["a"]}, r"\$contains for a list's item"),
    ({"year": {"$gt": None}}, r"\$gt compares numbers or texts"),
    ({"year": {"$gt": True}}, r"\$gt compares numbers or texts"),
    ({"year": {"$between": [1]}}, r"\[low, high\]"),
    ({"year": {"$in": "abc"}}, "takes a list"),
    ({"year": {"$exists": 1}}, "True or False"),
    ({"year": float("nan")}, "nan"),
    ({"year": float("inf")}, "inf"),
    ({"year": 2**63}, "64 bits"),
    ({"year": b"x"}, "bytes"),
    ({"name": "a\0b"}, "NUL"),
    ({"a\0b": 1}, "NUL"),
    ({"name": "\ud800"}, "surrogate"),
    ({1: 2}, "int"),
    ({"name": {"$like": "50\\"}}, "backslash"),
    ({"name": {"$like": 5}}, "int"),
    ({"$or": {"a": 1}}, "list of filters"),
    ({"$and": [1]}, "is no filter"),
    ({"$not": None}, "is no filter"),
    ("category = 1", "is no filter"),
]


def passes(filter: dict[str, Any], metadata: dict[str, Any] = DOCUMENT) -> bool:
    return matches(parse_filter(filter), metadata)


@pytest.mark.parametrize("filter", TRUE, ids=str)
def test_a_document_passes(filter: dict[str, Any]) -> None:
    assert passes(filter)
    assert not passes({"$not": filter})


@pytest.mark.parametrize("filter", FALSE, ids=str)
def test_a_document_does_not_pass(filter: dict[str, Any]) -> None:
    assert not passes(filter)
    assert passes({"$not": filter})


@pytest.mark.parametrize(("filter", "message"), REFUSED, ids=str)
def test_a_wrong_filter_is_refused(filter: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        parse_filter(filter)


def nested(levels: int, operator: str) -> dict[str, Any]:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(levels - 1):
        filter = {operator: filter} if operator == "$not" else {operator: [filter]}
    return filter


@pytest.mark.parametrize("operator", ["$and", "$or", "$not"])
def test_a_filter_nests_to_the_limit_and_no_deeper(operator: str) -> None:
    assert passes(nested(MAX_DEPTH, operator), {"a": 1 if operator != "$not" else 2})
    for levels in (MAX_DEPTH + 1, 200, 5000):
        with pytest.raises(ValidationError, match=f"deeper than {MAX_DEPTH} levels"):
            parse_filter(nested(levels, operator))


def test_a_key_s_operators_and_its_steps_nest_to_the_limit_too() -> None:
    operators: dict[str, Any] = {"$eq": 1}
    for _ in range(200):
        operators = {"$not": operators}
    for filter in ({"a": operators}, {"a" + ".a" * MAX_DEPTH: 1}):
        with pytest.raises(ValidationError, match="deeper"):
            parse_filter(filter)


def test_a_filter_has_a_limit_of_conditions() -> None:
    parse_filter({"$or": [{"a": n} for n in range(MAX_CONDITIONS)]})
    with pytest.raises(ValidationError, match=f"at most {MAX_CONDITIONS}"):
        parse_filter({"$or": [{"a": n} for n in range(MAX_CONDITIONS + 1)]})


def test_no_key_and_no_value_enters_the_text_of_a_statement() -> None:
    hostile = "x'); DROP TABLE t; --"
    filter = parse_filter(
        {hostile: hostile, "$or": [{f"{hostile}.b": {op: hostile}} for op in ("$gt", "$like", "$contains")]}
    )
    for sql, parameters in (to_postgresql(filter, "metadata")[:2], to_sqlite(filter, "metadata")):
        assert "DROP" not in sql
        assert any("DROP" in str(value) for value in parameters.values())


def test_a_date_is_its_iso_text_and_a_time_that_in_utc() -> None:
    zone = timezone(timedelta(hours=2))
    metadata = {"day": "2024-05-01", "at": datetime(2024, 5, 1, 10, 30, tzinfo=UTC).isoformat()}
    for condition, passes in (
        ({"day": date(2024, 5, 1)}, True),
        ({"day": {"$between": [date(2024, 4, 30), date(2024, 5, 2)]}}, True),
        ({"day": {"$gt": date(2024, 5, 1)}}, False),
        ({"at": datetime(2024, 5, 1, 12, 30, tzinfo=zone)}, True),
        ({"at": {"$lt": datetime(2024, 5, 1, 12, 30, 1, tzinfo=zone)}}, True),
        ({"at": {"$in": [datetime(2024, 5, 1, 12, 30, tzinfo=UTC)]}}, False),
    ):
        assert matches(parse_filter(condition), metadata) is passes
    with pytest.raises(ValidationError, match="no time zone"):
        parse_filter({"at": datetime(2024, 5, 1, tzinfo=UTC).replace(tzinfo=None)})
    with pytest.raises(ValidationError, match="years 1 to 9999"):
        parse_filter({"at": datetime(1, 1, 1, tzinfo=zone)})


# The same rows from each


class Databases:
    """A table of metadata on each database, and the reference's list of it."""

    def __init__(self, postgresql: Database, sqlite: Database) -> None:
        self.postgresql, self.sqlite = postgresql, sqlite
        postgresql.execute("CREATE TABLE t (id integer PRIMARY KEY, metadata jsonb NOT NULL)")
        postgresql.execute("CREATE INDEX ON t USING gin (metadata jsonb_path_ops)")
        sqlite.execute("CREATE TABLE t (id integer PRIMARY KEY, metadata TEXT NOT NULL)")
        self.reference: list[dict[str, Any]] = []

    def fill(self, documents: list[dict[str, Any]]) -> None:
        texts = [metadata_text(document, "a document") for document in documents]
        rows = [{"id": n, "metadata": text} for n, text in enumerate(texts)]
        self.postgresql.execute_many("INSERT INTO t VALUES (:id, CAST(:metadata AS jsonb))", rows)
        self.sqlite.execute_many("INSERT INTO t VALUES (:id, :metadata)", rows)
        self.reference = [metadata_value(text) for text in texts]

    def rows(self, filter: dict[str, Any]) -> dict[str, list[int]]:
        node = parse_filter(filter)
        found = {"reference": [n for n, metadata in enumerate(self.reference) if matches(node, metadata)]}
        for database, write in ((self.postgresql, to_postgresql), (self.sqlite, to_sqlite)):
            condition, parameters = write(node, "metadata")[:2]
            rows = database.fetch_all(f"SELECT id FROM t WHERE {condition} ORDER BY id", parameters, prepare=False)
            found[database.kind] = [row["id"] for row in rows]
        return found


@pytest.fixture
def databases(servers: TestServers, tmp_path: Path) -> Iterator[Databases]:
    config = servers.fresh_database()
    with DatabaseManager() as manager:
        sqlite = manager.add_sqlite("sqlite", SQLiteConfig(path=str(tmp_path / "filters.db")))
        yield Databases(manager.add_postgresql("postgresql", config), sqlite)
    servers.drop_database(config)


def agreed(databases: Databases, filter: dict[str, Any]) -> list[int]:
    found = databases.rows(filter)
    assert found["postgresql"] == found["reference"], filter
    assert found["sqlite"] == found["reference"], filter
    return found["reference"]


def test_every_example_gives_the_same_answer_on_each_database(databases: Databases) -> None:
    databases.fill([DOCUMENT])
    for filter in TRUE:
        assert agreed(databases, filter) == [0]
    for filter in FALSE:
        assert agreed(databases, filter) == []


def test_the_least_number_of_64_bits_is_one_as_a_float_too(databases: Databases) -> None:
    databases.fill([{"n": -(2.0**63)}, {"n": -(2**63)}, {"n": 2.0**63}])
    for filter in ({"n": -(2**63)}, {"n": -(2.0**63)}, {"n": {"$lte": -(2**63)}}):
        assert agreed(databases, filter) == [0, 1]


def test_a_long_list_of_values_and_a_large_filter_work_on_each_database(databases: Databases) -> None:
    databases.fill([{"n": n, "t": str(n)} for n in range(100)])
    assert agreed(databases, {"n": {"$in": list(range(50, 5000))}}) == list(range(50, 100))
    mixed: list[Any] = [None, True, "7", *range(INDEXED_VALUES)]
    assert agreed(databases, {"n": {"$in": mixed}}) == list(range(INDEXED_VALUES))
    assert agreed(databases, {"t": {"$nin": [str(n) for n in range(1, 5000)]}}) == [0]
    assert agreed(databases, {"$or": [{"n": {"$gt": n}} for n in range(MAX_CONDITIONS)]}) == list(range(1, 100))
    assert agreed(databases, nested(MAX_DEPTH, "$and") | {"n": 3}) == []


def test_a_filter_as_deep_as_it_may_be_works_on_each_database(databases: Databases) -> None:
    odd: dict[str, Any] = {'"': [1, "x"], "n": 1}
    for _ in range(MAX_DEPTH - 1):
        odd = {'"': odd}
    databases.fill([odd, {'"': 1}])
    path = ".".join(['"'] * MAX_DEPTH)
    for leaf in ({path: {"$contains": 1}}, {path: {"$not": {"$in": [1, "x", None]}}}):
        either: dict[str, Any] = leaf
        for _ in range(MAX_DEPTH // 2 - 1):
            either = {"$or": [{"missing": 1}, {"$not": either}]}
        neither: dict[str, Any] = leaf
        for _ in range(MAX_DEPTH - 2):
            neither = {"$not": {**neither, "n": {"$ne": 1}}}
        for filter in (leaf, either, neither):
            agreed(databases, filter)
        assert 0 in agreed(databases, leaf)


KEYS = ["a", "b", "A", "c.d", 'q"x', "it's", "\\", "$k", "é", "", "0", "a b", ":id", "%", "\n", "$.a", "a]"]
NUMBERS = [0, 1, 2, -1, 0.0, -0.0, 1.0, 1.5, 0.1, 1e-300, 1e300, 2**53, 2**53 + 1, 2**63 - 1, -(2**63)]
NUMBERS += [2.0**53, 2.0**60, 2.0**63, -(2.0**63), 2.0**70, 1e16, 123456789.123456789]
TEXTS = ["", "a", "A", "aa", "ab", "b", "é", "\U0001f9f6", "%", "_", "a_b", "[a]", "*", "?", "\\", "x'y", '"', "a\nb"]
TEXTS += ["true", "1", "null", "[]", "{}", "ﬀ", "z"]
PATTERNS = ["%", "_", "a%", "%b", "a_%", r"\%", r"a\_b", "[a]", "*", "?", "%é%", "", r"\\", "__", "%a%b%"]


def random_scalar(choose: random.Random) -> Any:
    kind = choose.randrange(10)
    if kind < 4:
        return choose.choice(NUMBERS)
    if kind < 8:
        return choose.choice(TEXTS)
    return choose.choice([True, False, None])


def random_value(choose: random.Random, depth: int) -> Any:
    kind = choose.randrange(10)
    if depth and kind < 2:
        return {key: random_value(choose, depth - 1) for key in choose.sample(KEYS, choose.randrange(5))}
    if depth and kind == 2:
        return [random_value(choose, depth - 1) for _ in range(choose.randrange(4))]
    return random_scalar(choose)


def random_metadata(choose: random.Random) -> dict[str, Any]:
    return {key: random_value(choose, 3) for key in choose.sample(KEYS, choose.randrange(4, 16))}


def random_operators(choose: random.Random) -> Any:
    comparable = choose.choice([NUMBERS, TEXTS])
    operator = choose.choice("$eq $ne $gt $gte $lt $lte $in $nin $exists $contains $like $between $not plain".split())
    match operator:
        case "plain":
            return random_scalar(choose)
        case "$in" | "$nin":
            return {operator: [random_scalar(choose) for _ in range(choose.choice([0, 1, 3, INDEXED_VALUES + 5]))]}
        case "$exists":
            return {operator: choose.random() < 0.5}
        case "$like":
            return {operator: choose.choice(PATTERNS)}
        case "$between":
            return {operator: [choose.choice(comparable), choose.choice(comparable)]}
        case "$gt" | "$gte" | "$lt" | "$lte":
            return {operator: choose.choice(comparable)}
        case "$not":
            operators = random_operators(choose)
            return {operator: operators if isinstance(operators, dict) else {"$eq": operators}}
    return {operator: random_scalar(choose)}


def random_filter(choose: random.Random, depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {}
    for _ in range(choose.choice([1, 1, 2])):
        kind = choose.randrange(6)
        if depth and kind < 2:
            parts = [random_filter(choose, depth - 1) for _ in range(choose.randrange(4))]
            filter[choose.choice(["$and", "$or"])] = parts
        elif depth and kind == 2:
            filter["$not"] = random_filter(choose, depth - 1)
        else:
            steps = [choose.choice(KEYS) for _ in range(choose.choice([1, 1, 1, 1, 2, 3]))]
            path = ".".join(step.replace("\\", "\\\\").replace(".", r"\.").replace("$", r"\$") for step in steps)
            filter[path] = random_operators(choose)
    return filter


def test_random_filters_give_the_same_rows_on_each_database(databases: Databases) -> None:
    choose = random.Random(20261121)
    databases.fill([random_metadata(choose) for _ in range(250)])
    some = 0
    for _ in range(2500):
        some += 0 < len(agreed(databases, random_filter(choose, 3))) < 250
    assert some > 1000, "too few filters tell documents apart for this to prove anything"

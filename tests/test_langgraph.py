"""HoldfastSaver against LangGraph's own conformance suite, and what the suite doesn't ask: sides, values, requests."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import math
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum, StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pydantic
import pytest
from langchain_core import messages
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.serde.types import ERROR, INTERRUPT, _DeltaSnapshot
from langgraph.types import Command, Interrupt, Send

from checkpoint import (
    AsyncDatabaseCheckpointer,
    AsyncMemoryCheckpointer,
    Checkpoint,
    DatabaseCheckpointer,
    MemoryCheckpointer,
)
from checkpoint.langgraph import HoldfastSaver
from persistence import (
    AsyncDatabaseManager,
    CapabilityError,
    ClosedError,
    CorruptError,
    DatabaseManager,
    ValidationError,
)
from tests.servers import redis_url, url_of

pytestmark = pytest.mark.tables("checkpoint")

BACKENDS = ("postgresql", "sqlite", "memory", "redis")
SUITE = {
    "put": 17,
    "put_writes": 10,
    "get_tuple": 10,
    "list": 16,
    "delete_thread": 5,
    "delete_for_runs": 7,
    "copy_thread": 8,
    "prune": 8,
}
"""How many tests langgraph-checkpoint-conformance 0.0.2 has for each capability."""


class Colour(Enum):
    RED = "red"


class Name(StrEnum):
    ADA = "ada"


@dataclass
class Point:
    x: int
    y: float


class Person(pydantic.BaseModel):
    name: str
    born: int | None = None


class Stranger(pydantic.BaseModel):
    name: str


class Blocking(BaseCheckpointSaver[Any]):
    """The sync side under the async names, for the suite, which calls only those."""

    def __init__(self, saver: HoldfastSaver) -> None:
        super().__init__()
        self.saver = saver

    async def aget_tuple(self, config: Any) -> Any:
        return self.saver.get_tuple(config)

    async def alist(self, config: Any, **options: Any) -> AsyncIterator[Any]:
        for found in self.saver.list(config, **options):
            yield found

    async def aput(self, *arguments: Any) -> Any:
        return self.saver.put(*arguments)

    async def aput_writes(self, *arguments: Any, **options: Any) -> None:
        self.saver.put_writes(*arguments, **options)

    async def adelete_thread(self, *arguments: Any) -> None:
        self.saver.delete_thread(*arguments)

    async def adelete_for_runs(self, *arguments: Any) -> None:
        self.saver.delete_for_runs(*arguments)

    async def acopy_thread(self, *arguments: Any) -> None:
        self.saver.copy_thread(*arguments)

    async def aprune(self, *arguments: Any, **options: Any) -> None:
        self.saver.prune(*arguments, **options)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Where a saver keeps its checkpoints; None: in a MemoryCheckpointer."""
    if backend == "postgresql":
        return url_of(request.getfixturevalue("postgresql_config"))
    if backend == "redis":
        return redis_url(request.getfixturevalue("redis_config"))
    return f"sqlite:///{tmp_path / 'graphs.db'}" if backend == "sqlite" else None


@pytest.fixture
def saver(url: str | None) -> Iterator[HoldfastSaver]:
    """The sync side."""
    if url is None:
        yield HoldfastSaver(MemoryCheckpointer(), classes=[Colour, Point, Person])
    else:
        with HoldfastSaver.from_url(url, classes=[Colour, Point, Person]) as opened:
            yield opened


def named(thread_id: Any = "t", checkpoint_id: str | None = None, ns: str = "") -> Any:
    config = {"thread_id": thread_id, "checkpoint_ns": ns}
    return {"configurable": {**config, **({"checkpoint_id": checkpoint_id} if checkpoint_id else {})}}


def made(values: dict[str, Any] | None = None, **fields: Any) -> Any:
    values = values or {}
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, 1), **fields}


def put(saver: HoldfastSaver, config: Any, values: dict[str, Any] | None = None, **metadata: Any) -> Any:
    """Save a checkpoint, and return the config that names it."""
    described: Any = {"source": "loop", "step": 0, "parents": {}, **metadata}
    return saver.put(config, made(values), described, {})


def loaded(saver: HoldfastSaver, values: dict[str, Any]) -> dict[str, Any]:
    found = saver.get_tuple(put(saver, named(), values))
    return {} if found is None else found.checkpoint["channel_values"]


# The suite.


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[HoldfastSaver]:
    if url is None:
        yield HoldfastSaver(AsyncMemoryCheckpointer())
    else:
        async with HoldfastSaver.from_url(url) as saver:
            yield saver


async def conforms(name: str, factory: Callable[[], AsyncIterator[BaseCheckpointSaver[Any]]]) -> None:
    report = await validate(checkpointer_test(name=name)(factory))
    failures = {capability: result.failures for capability, result in report.results.items() if result.failures}
    assert failures == {}
    assert {capability: result.tests_skipped for capability, result in report.results.items()} == dict.fromkeys(
        SUITE, 0
    )
    assert {capability: result.tests_passed for capability, result in report.results.items()} == SUITE
    assert report.conformance_level() == "FULL"


async def test_the_async_side_passes_every_test_of_the_suite(url: str | None, backend: str) -> None:
    async def factory() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        async with opened(url) as saver:
            yield saver

    await conforms(f"async {backend}", factory)


async def test_the_sync_side_passes_every_test_of_the_suite(saver: HoldfastSaver, backend: str) -> None:
    async def factory() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        yield Blocking(saver)

    await conforms(f"sync {backend}", factory)


# Fidelity.

VALUES: dict[str, Any] = {
    "human": messages.HumanMessage("hi", id="1", name="me"),
    "ai": messages.AIMessage(
        [{"type": "text", "text": "x\0\udcff"}],
        tool_calls=[{"name": "look", "args": {"at": 1}, "id": "c", "type": "tool_call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    "chunk": messages.AIMessageChunk("part"),
    "tool": messages.ToolMessage("seen", tool_call_id="c", artifact={"raw": b"\0"}),
    "removal": messages.RemoveMessage(id="1"),
    "send": Send("node", {"a": (1, 2)}),
    "interrupt": Interrupt({"ask": "?"}, id="i"),
    "command": Command(goto=["a"], update={"x": {1, 2}}),
    "snapshot": _DeltaSnapshot([1]),
    "point": Point(1, 2.5),
    "person": Person(name="Ada", born=1815),
    "colour": Colour.RED,
    "decimal": Decimal("1.10"),
    "set": frozenset({1, 2}),
    "big": 2**100,
    "address": ipaddress.ip_network("10.0.0.0/8"),
    "pattern": re.compile("a+", re.IGNORECASE),
    "none": None,
    "langgraph.step": "a channel with a name of ours",
    "langgraph.=x": 1,
    "": "a channel without a name",
}


def test_a_value_comes_back_equal_and_of_the_same_type(saver: HoldfastSaver) -> None:
    found = loaded(saver, VALUES)
    assert found == VALUES
    assert list(found) == list(VALUES)
    assert {name: type(value) for name, value in found.items()} == {name: type(each) for name, each in VALUES.items()}
    assert math.isnan(loaded(saver, {"nan": math.nan})["nan"])


def test_a_channel_with_a_name_of_ours_goes_on_from_put_to_put(saver: HoldfastSaver) -> None:
    config = named()
    values: dict[str, Any] = {"a": ["x" * 100], "langgraph.step": ["y" * 100], "b": 1}
    versions = {"a": 1, "langgraph.step": 1, "langgraph.layout": 1, "b": 1}
    for n in range(2, 5):
        values, versions = {**values, "b": n}, {**versions, "b": n}
        if n == 4:
            values, versions = {**values, "langgraph.step": ["z"]}, {**versions, "langgraph.step": 2}
        saved = made(values, channel_versions=versions)
        config = saver.put(config, saved, {"step": n}, {})
        found = saver.get_tuple(config)
        assert found is not None
        assert found.checkpoint == saved


def test_a_message_comes_back_whole(saver: HoldfastSaver) -> None:
    given = messages.AIMessage("x", name=None, foo={"a": (1,)}, response_metadata={"model": "m"})
    found = loaded(saver, {"m": [given, messages.HumanMessage("y")]})["m"]
    assert found == [given, messages.HumanMessage("y")]
    assert found[0].model_fields_set == given.model_fields_set
    assert found[0].model_extra == {"foo": {"a": (1,)}}
    assert found[1].model_extra == messages.HumanMessage("y").model_extra
    assert found[0].model_dump_json() == given.model_dump_json()
    found[1].additional_kwargs["changed"] = 1
    assert found[1].model_copy(update={"id": "2"}).id == "2"


def test_a_message_of_another_release_gets_defaults_and_keeps_what_is_gone() -> None:
    checkpointer = MemoryCheckpointer()
    HoldfastSaver(checkpointer)
    serializer = checkpointer._serializer
    entry = serializer._registry.by_type[messages.HumanMessage]
    assert entry.from_state is not None
    found = entry.from_state([{"content": "x", "type": "human", "gone": 1}, ["content"]])
    assert found == messages.HumanMessage("x", gone=1)
    assert found.additional_kwargs == {}


def test_every_field_of_a_checkpoint_comes_back_as_it_was(saver: HoldfastSaver) -> None:
    checkpoint = made(
        {"a": 1, "b": [2]},
        v=4,
        ts="2024-05-04T06:32:42.235444+00:00",
        channel_versions={"a": 7, "b": "00000000000000000000000000000003.0.5", "gone": 2.5},
        versions_seen={"__input__": {}, "node": {"a": 6, "unlisted": 1}, "other": {"gone": 2.5}},
        updated_channels=["b", "unlisted"],
        pending_sends=["s"],
        another={"key": (1,)},
    )
    for change in ({}, {"updated_channels": None}, {"ts": ""}, {"ts": "2024-05-04T08:32:42+02:00"}, {"ts": "x"}):
        saved = {**checkpoint, **change, "id": str(uuid6())}
        found = saver.get_tuple(saver.put(named(), saved, {}, {}))
        assert found is not None
        assert found.checkpoint == saved
    del checkpoint["updated_channels"]
    found = saver.get_tuple(saver.put(named(), checkpoint, {}, {}))
    assert found is not None
    assert found.checkpoint == checkpoint


def test_metadata_that_is_no_json_comes_back_and_the_rest_is_filtered_by(saver: HoldfastSaver) -> None:
    metadata: Any = {
        "source": "loop",
        "step": 3,
        "nested": {"a": {"b": [1]}},
        "tuple": (1, 2),
        "set": {1},
        "nul": "a\0b",
        "huge": 2**70,
        "keys": {1: "one"},
        "person": Person(name="Ada"),
    }
    config = {**named(), "metadata": {"user": Name.ADA, "step": 9, "__secret": 1, "object": object()}}
    found = saver.get_tuple(saver.put(config, made(), metadata, {}))
    assert found is not None
    assert found.metadata == {**metadata, "user": "ada"}
    put(saver, named(), step=4, user="bob")
    for filter, steps in (
        ({"user": "ada"}, [3]),
        ({"nested": {"a": {"b": [1]}}}, [3]),
        ({"step": 4}, [4]),
        ({}, [4, 3]),
    ):
        assert [each.metadata["step"] for each in saver.list(named(), filter=filter)] == steps


def test_counters_of_delta_channels_are_kept_as_lists(saver: HoldfastSaver) -> None:
    found = saver.get_tuple(put(saver, named(), counters_since_delta_snapshot={"log": (1, 2)}))
    assert found is not None
    assert found.metadata["counters_since_delta_snapshot"] == {"log": [1, 2]}
    assert list(saver.list(named(), filter={"counters_since_delta_snapshot": {"log": [1, 2]}}))


def test_an_unregistered_class_is_refused_with_the_way_out(saver: HoldfastSaver) -> None:
    with pytest.raises(ValidationError, match=r"Stranger.*classes=\[") as refused:
        put(saver, named(), {"who": [Stranger(name="x")]})
    assert "who" in refused.value.message
    assert saver.get_tuple(named()) is None


def test_a_class_that_is_not_registered_here_is_an_error_on_load(url: str | None) -> None:
    if url is None:
        checkpointer = MemoryCheckpointer()
        writer = HoldfastSaver(checkpointer, classes=[Stranger])
        put(writer, named(), {"who": Stranger(name="x")})
        checkpointer._serializer._registry.by_name.clear()
        with pytest.raises(CorruptError, match=r"Stranger.*classes=\["):
            writer.get_tuple(named())
        return
    with HoldfastSaver.from_url(url, classes=[Stranger]) as writer:
        put(writer, named(), {"who": Stranger(name="x")})
    with HoldfastSaver.from_url(url) as reader, pytest.raises(CorruptError, match=r"Stranger.*classes=\["):
        reader.get_tuple(named())


def test_the_allowlist_of_a_graph_registers_the_classes_it_names(saver: HoldfastSaver) -> None:
    names = {(Stranger.__module__, "Stranger"), ("builtins", "dict"), ("no.such.module", "X"), ("re", "Nothing")}
    assert saver.with_allowlist(names) is saver
    assert loaded(saver, {"who": Stranger(name="x")}) == {"who": Stranger(name="x")}


def test_an_exception_is_kept_as_its_repr(saver: HoldfastSaver) -> None:
    config = put(saver, named())
    saver.put_writes(config, [(ERROR, ValueError("broken"))], "task")
    found = saver.get_tuple(config)
    assert found is not None
    assert found.pending_writes == [("task", ERROR, "ValueError('broken')")]


# Order, keys, writes.


def test_the_latest_is_what_was_saved_last_whatever_its_id(saver: HoldfastSaver) -> None:
    for checkpoint_id in ("ffff", "0000", "7777"):
        saver.put(named(), made(id=checkpoint_id), {}, {})
    found = saver.get_tuple(named())
    assert found is not None
    assert found.checkpoint["id"] == "7777"
    assert [each.checkpoint["id"] for each in saver.list(named())] == ["7777", "0000", "ffff"]
    assert [each.checkpoint["id"] for each in saver.list(named(), before=named(checkpoint_id="7777"))] == [
        "0000",
        "ffff",
    ]


def test_a_cursor_that_is_not_there_is_compared_by_id(saver: HoldfastSaver) -> None:
    for checkpoint_id in ("10", "20", "30"):
        saver.put(named(), made(id=checkpoint_id), {}, {})
    found = saver.list(named(), before=named(checkpoint_id="25"), limit=1)
    assert [each.checkpoint["id"] for each in found] == ["20"]


def test_putting_a_checkpoint_again_changes_nothing(saver: HoldfastSaver) -> None:
    checkpoint = made({"a": 1})
    first = saver.put(named(), checkpoint, {"step": 1}, {})
    assert saver.put(named(), checkpoint, {"step": 1}, {}) == first
    assert len(list(saver.list(named()))) == 1


def test_the_first_write_of_a_place_stays_and_special_ones_are_replaced(saver: HoldfastSaver) -> None:
    config = put(saver, named())
    saver.put_writes(config, [("a", 1), (INTERRUPT, 1), (INTERRUPT, 2)], "task", "~path")
    saver.put_writes(config, [("a", 2), (INTERRUPT, 3), ("b", 4)], "task", "~path")
    saver.put_writes(config, [], "task")
    found = saver.get_tuple(config)
    assert found is not None
    assert sorted(found.pending_writes or (), key=str) == sorted(
        [("task", "a", 1), ("task", INTERRUPT, 3), ("task", "b", 4)], key=str
    )


def test_writes_come_in_the_order_of_their_paths(saver: HoldfastSaver) -> None:
    config = put(saver, named())
    for path, task in (("b", "1"), ("a", "3"), ("a", "2"), ("", "9")):
        saver.put_writes(config, [("x", path), ("y", path)], task, path)
    found = saver.get_tuple(config)
    assert found is not None
    assert [(task, channel) for task, channel, _ in found.pending_writes or ()] == [
        (task, channel) for task in ("9", "2", "3", "1") for channel in ("x", "y")
    ]


def test_writes_may_come_before_their_checkpoint(saver: HoldfastSaver) -> None:
    checkpoint = made()
    saver.put_writes(named(checkpoint_id=checkpoint["id"]), [("a", [1])], "task")
    found = saver.get_tuple(saver.put(named(), checkpoint, {}, {}))
    assert found is not None
    assert found.pending_writes == [("task", "a", [1])]


def test_a_thread_id_may_be_a_number_and_must_be_there(saver: HoldfastSaver) -> None:
    stored = put(saver, named(7), {"a": 1})
    assert stored["configurable"]["thread_id"] == "7"
    assert saver.get_tuple(named("7")) == saver.get_tuple(named(7))
    saver.put_writes(named(7, stored["configurable"]["checkpoint_id"]), [("a", 1)], "t")
    with pytest.raises(ValidationError, match="thread"):
        saver.get_tuple({"configurable": {}})
    with pytest.raises(ValidationError, match="no checkpoint"):
        saver.put_writes(named(), [("a", 1)], "t")


@pytest.mark.parametrize("thread_id", ["a:b*?[x]", "'; DROP TABLE x; --", "ü\U0001f600", "\x01", "\ue000", " "])
def test_any_text_is_a_thread_id(saver: HoldfastSaver, thread_id: str) -> None:
    for neighbour in (thread_id, thread_id + "!", "a"):
        put(saver, named(neighbour), {"a": neighbour})
        put(saver, named(neighbour, ns="child:1"), {"a": neighbour})
    config: Any = {"configurable": {"thread_id": thread_id}}
    found = [
        (each.config["configurable"]["checkpoint_ns"], each.checkpoint["channel_values"]) for each in saver.list(config)
    ]
    assert found == [("", {"a": thread_id}), ("child:1", {"a": thread_id})]
    saver.prune([thread_id], strategy="delete")
    assert list(saver.list(config)) == []
    assert len(list(saver.list(None))) == 4


def test_a_list_without_a_thread_has_all_and_the_limit_holds_across_threads(saver: HoldfastSaver) -> None:
    for thread in range(40):
        put(saver, named(f"thread-{thread:02}"), {"a": thread}, even=thread % 2 == 0)
        put(saver, named(f"thread-{thread:02}", ns="sub"), {"a": -thread})
    assert len(list(saver.list(None))) == 80
    assert len(list(saver.list(None, limit=5))) == 5
    assert len(list(saver.list(None, limit=0))) == 0
    assert len(list(saver.list({"configurable": {}}, filter={"even": True}))) == 20


def test_a_list_may_be_interrupted_by_other_calls(saver: HoldfastSaver) -> None:
    ids = [put(saver, named(), {"a": index})["configurable"]["checkpoint_id"] for index in range(70)]
    seen = []
    for each in saver.list(named()):
        assert saver.get_tuple(each.config) == each
        seen.append(each.checkpoint["id"])
    assert seen == ids[::-1]


def test_a_config_that_names_a_checkpoint_lists_only_that(saver: HoldfastSaver) -> None:
    configs = [put(saver, named(), {"a": index}, even=index % 2 == 0) for index in range(3)]
    assert [each.config for each in saver.list(configs[1])] == [configs[1]]
    assert [each.config for each in saver.list(configs[1], filter={"even": False})] == [configs[1]]
    assert list(saver.list(configs[1], filter={"even": True})) == []
    assert list(saver.list(configs[1], limit=0)) == []
    assert list(saver.list(named(checkpoint_id="other"))) == []
    inner = put(saver, named(ns="inner"), {"a": 3})
    anywhere = {"configurable": {**inner["configurable"]}}
    del anywhere["configurable"]["checkpoint_ns"]
    assert [each.config for each in saver.list(anywhere)] == [inner]


# Delta channels.


def chain(saver: HoldfastSaver, steps: list[dict[str, Any]], parent: Any = None) -> list[Any]:
    """Save checkpoints one upon the other, each with its writes (``w``) and its value (``v``), if any."""
    configs = []
    for step, each in enumerate(steps):
        config = named(checkpoint_id=parent and parent["configurable"]["checkpoint_id"])
        values = {"log": each["v"]} if "v" in each else {}
        counters = {} if "v" in each else {"counters_since_delta_snapshot": {"log": [1, 1]}}
        parent = put(saver, config, values, step=step, **counters)
        for place, write in enumerate(each.get("w", ())):
            saver.put_writes(parent, [("other", 0), ("log", write)], f"task-{9 - place}", f"path-{place}")
        configs.append(parent)
    return configs


def history(saver: HoldfastSaver, config: Any) -> Any:
    found = saver.get_delta_channel_history(config=config, channels=["log", "none"])
    assert found == BaseCheckpointSaver.get_delta_channel_history(saver, config=config, channels=["log", "none"])
    assert found["none"] == {"writes": []} or "seed" not in found["none"]
    return found["log"].get("seed"), [value for _, _, value in found["log"]["writes"]]


def test_the_history_of_a_delta_channel_follows_the_parents_of_its_own_branch(saver: HoldfastSaver) -> None:
    trunk = chain(saver, [{"w": [0]}, {"v": "seed", "w": [1]}, {"w": [2, 3]}, {}, {"w": [4]}])
    branch = chain(saver, [{"w": [f"b{step}"]} for step in range(50)], trunk[2])
    chain(saver, [{"w": ["later"]}], trunk[-1])
    assert history(saver, trunk[-1]) == ("seed", [1, 2, 3])
    assert history(saver, branch[-1]) == ("seed", [1, 2, 3, *(f"b{step}" for step in range(49))])
    assert history(saver, trunk[0]) == (None, [])
    assert history(saver, named("unknown")) == (None, [])
    assert history(saver, named()) == ("seed", [1, 2, 3, 4])
    assert saver.get_delta_channel_history(config=trunk[-1], channels=[]) == {}


def test_pruning_keeps_what_a_delta_channel_is_rebuilt_from(saver: HoldfastSaver) -> None:
    trunk = chain(saver, [{"w": [0]}, {"v": "seed", "w": [1]}, {"w": [2, 3]}, {}, {"w": [4]}])
    before = history(saver, trunk[-1])
    saver.prune(["t"])
    assert [each.config for each in saver.list(named())] == trunk[:0:-1]
    assert history(saver, trunk[-1]) == before
    last = chain(saver, [{"v": "all"}], trunk[-1])
    saver.prune(["t"])
    assert [each.config for each in saver.list(named())] == last


# The sides.


def test_a_side_that_is_not_there_is_a_clear_error() -> None:
    saver = HoldfastSaver(MemoryCheckpointer())
    with pytest.raises(CapabilityError, match="no async side"):
        asyncio.run(saver.aget_tuple(named()))
    other = HoldfastSaver(AsyncMemoryCheckpointer())
    with pytest.raises(CapabilityError, match="no sync side"):
        other.get_tuple(named())
    with pytest.raises(ValidationError, match="MemoryCheckpointer"):
        HoldfastSaver(MemoryCheckpointer(), MemoryCheckpointer())
    with pytest.raises(ValidationError, match="str"):
        HoldfastSaver("postgresql://x")  # type: ignore[arg-type]


async def test_a_url_opens_each_side_for_its_own_with_statement(tmp_path: Path) -> None:
    saver = HoldfastSaver.from_url(f"sqlite:///{tmp_path / 'graphs.db'}")
    with pytest.raises(ClosedError, match="the sync side"):
        saver.get_tuple(named())
    with saver as same:
        assert same is saver
        stored = put(saver, named(), {"a": 1})
        with pytest.raises(ClosedError, match="the async side"):
            await saver.aget_tuple(named())
        with pytest.raises(ValidationError, match="open already"), saver:
            pass
        async with saver:
            found = await saver.aget_tuple(named())
            assert found == saver.get_tuple(stored)
            with pytest.raises(ValidationError, match="open already"):
                await saver.__aenter__()
    with pytest.raises(ClosedError):
        saver.get_tuple(named())
    with saver:
        assert saver.get_tuple(named()) == found


def test_a_url_takes_a_durability(url: str | None) -> None:
    with HoldfastSaver.from_url(url or "sqlite://", durability="async") as saver:
        stored = put(saver, named(), {"a": 1})
        assert saver.get_tuple(stored) is not None
    with pytest.raises(ValidationError, match="durab"), HoldfastSaver.from_url("sqlite://", durability="some"):  # type: ignore[arg-type]
        pass


def test_savers_of_two_tenants_see_nothing_of_each_other(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'graphs.db'}"
    with HoldfastSaver.from_url(url, tenant="a") as one, HoldfastSaver.from_url(url, tenant="b") as two:
        stored = put(one, named(), {"a": 1})
        assert two.get_tuple(stored) is None
        assert list(two.list(None)) == []
        two.delete_thread("t")
        assert one.get_tuple(stored) is not None


def test_what_was_not_saved_by_langgraph_is_refused() -> None:
    checkpointer = MemoryCheckpointer()
    checkpointer.save_checkpoint(Checkpoint("t", {"a": 1}))
    with pytest.raises(CorruptError, match="wasn't saved by LangGraph"):
        HoldfastSaver(checkpointer).get_tuple(named())


# Requests.


@pytest.fixture
def counted(url: str | None) -> Iterator[Any]:
    """A saver on a database, and a function that returns how many requests a call made."""
    with DatabaseManager() as manager:
        manager.add("main", str(url))
        saver = HoldfastSaver(DatabaseCheckpointer(manager, "main"))
        put(saver, named("warm"))
        saver.put_writes(put(saver, named("warm")), [("a", 1)], "t")

        def count(call: Callable[[], Any]) -> int:
            before = manager.stats()["main"].requests
            call()
            return manager.stats()["main"].requests - before

        yield SimpleNamespace(saver=saver, count=count)


@pytest.mark.parametrize("backend", ["postgresql", "sqlite"], indirect=True)
def test_each_call_of_a_graph_is_one_request(counted: Any) -> None:
    saver, count = counted.saver, counted.count
    parent = put(saver, named(), {"a": "x" * 100, "b": [1]})
    config = named(checkpoint_id=parent["configurable"]["checkpoint_id"])
    assert count(lambda: put(saver, named("new"), {"a": 1})) == 1
    assert count(lambda: put(saver, config, {"a": "y" * 100, "b": [1, 2]})) == 1
    assert count(lambda: saver.put_writes(config, [("a", 1), ("b", "z" * 1000)], "task")) == 1
    assert count(lambda: saver.get_tuple(named())) == 1
    assert count(lambda: saver.get_tuple(config)) == 1
    assert count(lambda: list(saver.list(named(), limit=10))) == 1
    assert count(lambda: list(saver.list(named(), before=config, limit=10))) == 1


@pytest.mark.parametrize("backend", ["postgresql", "sqlite"], indirect=True)
async def test_each_call_of_an_async_graph_is_one_request(url: str | None) -> None:
    async with AsyncDatabaseManager() as manager:
        await manager.add("main", str(url))
        saver = HoldfastSaver(AsyncDatabaseCheckpointer(manager, "main"))
        config = await saver.aput(named(), made({"a": 1}), {}, {})
        before = manager.stats()["main"].requests
        await saver.aput(config, made({"a": 2}), {}, {})
        await saver.aput_writes(config, [("a", 1)], "task")
        await saver.aget_tuple(named())
        assert [each async for each in saver.alist(named(), limit=10)]
        assert manager.stats()["main"].requests - before == 4


def test_what_langgraph_needs_beside_the_values_is_small() -> None:
    """Ten channels at step 1,000, each seen by a node: the bytes that a step adds for versions, parent and names."""
    names = [f"channel_{place}" for place in range(10)]
    graph = made(
        {},
        channel_versions={name: 1000 + place for place, name in enumerate(names)},
        versions_seen={f"node_{place}": {name: 990 + place} for place, name in enumerate(names)},
        updated_channels=names[:1],
    )
    checkpointer = MemoryCheckpointer()
    parent = HoldfastSaver(checkpointer).put(named(), made(), {}, {})
    HoldfastSaver(checkpointer).put(parent, graph, {"source": "loop", "step": 1000}, {})
    state = checkpointer.load_checkpoint("t").state
    assert len(checkpointer._serializer.dumps(state["langgraph.step"])) < 120


def test_a_version_goes_on_from_whatever_the_thread_has() -> None:
    saver = HoldfastSaver(MemoryCheckpointer())
    assert saver.get_next_version(None, None) == 1
    assert saver.get_next_version(41, None) == 42
    old = "00000000000000000000000000000041.0.7390456"
    assert old < saver.get_next_version(old, None) < saver.get_next_version(saver.get_next_version(old, None), None)


def test_a_registration_of_the_user_is_left_as_it_is() -> None:
    checkpointer = MemoryCheckpointer()
    checkpointer._serializer.register(Point, None, lambda each: [each.x], lambda stored: Point(stored[0], 0.0))
    saver = HoldfastSaver(checkpointer, classes=[Point])
    assert loaded(saver, {"p": Point(1, 2.0)}) == {"p": dataclasses.replace(Point(1, 2.0), y=0.0)}


def test_a_channel_of_the_same_version_as_its_parents_is_not_looked_at(tmp_path: Path) -> None:
    with HoldfastSaver.from_url(f"sqlite:///{tmp_path / 'a.db'}") as saver:
        first = saver.put(named(), made({"kept": ["x"] * 50, "n": 1}, channel_versions={"kept": 1, "n": 1}), {}, {})
        other = made({"kept": object(), "n": 2}, channel_versions={"kept": 1, "n": 2})
        second = saver.put(first, other, {}, {})
        assert saver.get_tuple(second).checkpoint["channel_values"] == {"kept": ["x"] * 50, "n": 2}
        # From an older parent it is looked at.
        with pytest.raises(ValidationError, match="object"):
            saver.put(first, {**made({"kept": object()}, channel_versions={"kept": 1})}, {}, {})


# Channels that are only appended to.


def test_of_a_channel_that_is_only_appended_to_no_more_than_the_new_items_is_looked_at(url: str | None) -> None:
    shared = MemoryCheckpointer()

    def side() -> HoldfastSaver:
        return HoldfastSaver(shared) if url is None else HoldfastSaver.from_url(url, append_only=["messages", "gone"])

    with side() as saver:
        config, history = named(), list[Any]()
        for n in range(40):
            history = [*history, messages.HumanMessage(f"question {n}" * 9, id=str(n))]
            versions = {"messages": n, "~holdfast": n}
            graph = made({"messages": history, "~holdfast": n}, channel_versions=versions)
            config = saver.put(config, graph, {"source": "loop", "step": n, "parents": {}}, {})
            with side() as other:
                found = other.get_tuple(config)
            assert found is not None
            assert found.checkpoint["channel_values"] == {"messages": history, "~holdfast": n}
        edited = [messages.HumanMessage("edited", id="0"), *history[1:]]  # another object, so all are looked at
        found = saver.get_tuple(
            saver.put(config, made({"messages": edited}, channel_versions={"messages": 40}), {}, {})
        )
        assert found is not None
        assert found.checkpoint["channel_values"] == {"messages": edited}


def test_an_item_changed_in_place_goes_unnoticed_only_where_a_channel_is_said_to_be_appended_to(
    url: str | None,
) -> None:
    if url is None:
        return  # memory keeps no bytes that could be appended to
    for append_only, expected in ((["messages"], "x" * 99), ([], "changed")):
        with HoldfastSaver.from_url(url, append_only=append_only) as saver:
            items = [{"text": "x" * 99}]
            graph = made({"messages": items}, channel_versions={"messages": 1})
            config = saver.put(named(f"t{len(expected)}"), graph, {}, {})
            items[0]["text"] = "changed"
            graph = made({"messages": [*items, {"text": "new"}]}, channel_versions={"messages": 2})
            found = saver.get_tuple(saver.put(config, graph, {}, {}))
            assert found is not None
            assert found.checkpoint["channel_values"]["messages"] == [{"text": expected}, {"text": "new"}]


def test_the_channels_that_are_only_appended_to_are_no_single_text() -> None:
    with pytest.raises(ValidationError, match="append_only"):
        HoldfastSaver(append_only="messages")


async def test_a_checkpointer_that_holds_saves_back_is_refused() -> None:
    for checkpointer in (MemoryCheckpointer(durability="exit"), AsyncMemoryCheckpointer(durability="exit")):
        with pytest.raises(ValidationError, match=r'durability="exit" would hold back.*invoke'):
            HoldfastSaver(checkpointer)

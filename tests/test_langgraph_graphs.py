"""Real LangGraph graphs on HoldfastSaver: parallel branches, subgraphs, retries, a human, time travel, and SIGKILL."""

from __future__ import annotations

import asyncio
import json
import operator
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt
from pydantic import BaseModel
from typing_extensions import TypedDict

from checkpoint import AsyncMemoryCheckpointer, MemoryCheckpointer
from checkpoint.langgraph import HoldfastSaver
from tests.langgraph_workflow import CONFIG, Workflow, report
from tests.servers import redis_url, url_of
from tests.unasync import ROOT

pytestmark = pytest.mark.tables("checkpoint")

BACKENDS = ("postgresql", "sqlite", "memory", "redis")
SERVERS = ("postgresql", "sqlite")
FOUND = ["LAKES", "MOORS", "RIVERS", "checked"]
DRAFT = "A draft on LAKES, MOORS, RIVERS, checked."
DONE = {
    "found": FOUND,
    "messages": [["HumanMessage", "Write about water."], ["AIMessage", DRAFT]],
    "article": f"good: {DRAFT}",
    "interrupts": [],
    "next": [],
}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if backend == "postgresql":
        return url_of(request.getfixturevalue("postgresql_config"))
    if backend == "redis":
        return redis_url(request.getfixturevalue("redis_config"))
    return f"sqlite:///{tmp_path / 'graphs.db'}" if backend == "sqlite" else None


@pytest.fixture
def saver(url: str | None) -> Iterator[HoldfastSaver]:
    if url is None:
        yield HoldfastSaver(MemoryCheckpointer())
    else:
        with HoldfastSaver.from_url(url) as opened:
            yield opened


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[HoldfastSaver]:
    if url is None:
        yield HoldfastSaver(AsyncMemoryCheckpointer())
    else:
        async with HoldfastSaver.from_url(url) as saver:
            yield saver


def of_thread(thread_id: str, **options: Any) -> Any:
    return {"configurable": {"thread_id": thread_id, **options}}


# The workflow.


def test_a_workflow_stops_for_a_human_and_goes_on(saver: HoldfastSaver, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "journal")
    graph = workflow.build(saver)
    graph.invoke({}, CONFIG)
    assert report(graph.get_state(CONFIG))["interrupts"] == [{"question": "publish?", "draft": DRAFT}]
    # Another graph object, as another process would have.
    graph = workflow.build(saver)
    graph.invoke(Command(resume="good"), CONFIG)
    assert report(graph.get_state(CONFIG)) == DONE
    ran = workflow.lines()
    assert sorted(ran[:5]) == ["check", "fetch lakes", "fetch moors", "fetch rivers", "plan"]
    assert ran[5:] == ["draft", "review", "review", "reviewed", "publish", "publish"]


async def test_an_async_workflow_stops_for_a_human_and_goes_on(url: str | None, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "journal")
    async with opened(url) as saver:
        graph = workflow.build(saver)
        await graph.ainvoke({}, CONFIG)
        assert report(await graph.aget_state(CONFIG))["interrupts"] == [{"question": "publish?", "draft": DRAFT}]
        await graph.ainvoke(Command(resume="good"), CONFIG)
        assert report(await graph.aget_state(CONFIG)) == DONE
    assert workflow.lines()[5:] == ["draft", "review", "review", "reviewed", "publish", "publish"]


def process(side: str, url: str, journal: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "tests.langgraph_workflow", side, url, str(journal), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("backend", SERVERS, indirect=True)
@pytest.mark.parametrize("side", ["sync", "async"])
def test_a_killed_workflow_goes_on_in_another_process_without_repeating_what_was_done(
    url: str, side: str, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    killed = process(side, url, journal, "check")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert sorted(journal.read_text().splitlines()) == ["check", "fetch lakes", "fetch moors", "fetch rivers", "plan"]
    asked = process(side, url, journal)
    assert asked.returncode == 0, asked.stderr
    assert json.loads(asked.stdout)["interrupts"] == [{"question": "publish?", "draft": DRAFT}]
    assert journal.read_text().splitlines()[5:] == ["check", "draft", "review"]
    killed = process(side, url, journal, "review")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    done = process(side, url, journal)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == DONE
    assert journal.read_text().splitlines()[8:] == ["review", "reviewed", "review", "reviewed", "publish", "publish"]


# Small graphs.


class Counting(TypedDict, total=False):
    total: int
    trail: Annotated[list[str], operator.add]


def counting(saver: Any) -> Any:
    graph = StateGraph(Counting)
    for name, add in (("one", 1), ("two", 2), ("three", 3)):

        def node(state: Counting, name: str = name, add: int = add) -> Counting:
            return {"total": state.get("total", 0) + add, "trail": [name]}

        graph.add_node(name, node)
    graph.add_edge(START, "one")
    graph.add_edge("one", "two")
    graph.add_edge("two", "three")
    graph.add_edge("three", END)
    return graph.compile(checkpointer=saver)


def test_time_travel_forks_a_thread_and_leaves_the_old_branch(saver: HoldfastSaver) -> None:
    graph, config = counting(saver), of_thread("t")
    assert graph.invoke({"total": 0}, config)["total"] == 6
    history = list(graph.get_state_history(config))
    assert [each.next for each in history] == [(), ("three",), ("two",), ("one",), ("__start__",)]
    assert [each.values.get("total") for each in history] == [6, 3, 1, 0, None]
    assert [each.parent_config for each in history] == [*(each.config for each in history[1:]), None]
    changed = graph.update_state(history[2].config, {"total": 100})
    assert graph.invoke(None, changed)["total"] == 105
    state = graph.get_state(config)
    assert state.values == {"total": 105, "trail": ["one", "two", "three"]}
    assert graph.get_state(history[0].config).values["total"] == 6
    assert graph.invoke(None, history[1].config)["total"] == 6
    assert len(list(graph.get_state_history(config))) == 10
    latest = list(graph.get_state_history(config, limit=2, before=changed))
    assert [each.values["total"] for each in latest] == [6, 3]


def test_time_travel_before_a_subgraph_runs_it_anew_from_what_it_had_then(saver: HoldfastSaver) -> None:
    inner = StateGraph(Counting).add_node("ask", lambda state: {"trail": [interrupt("more?")]})
    inner.add_edge(START, "ask")
    outer = StateGraph(Counting).add_node("inner", inner.compile(checkpointer=True))
    graph, config = outer.add_edge(START, "inner").compile(checkpointer=saver), of_thread("t")
    for answer in ("first", "second"):
        graph.invoke({"total": 1}, config)
        assert graph.invoke(Command(resume=answer), config)["trail"][-1] == answer
    again = [each.config for each in graph.get_state_history(config) if each.next == ("inner",)]
    assert graph.invoke(None, again[-1])["__interrupt__"][0].value == "more?"
    assert graph.get_state(config, subgraphs=True).tasks[0].state.values == {"total": 1, "trail": []}
    assert graph.invoke(Command(resume="another"), config)["trail"] == ["another"]


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_each_durability_of_langgraph_ends_in_the_same_state(saver: HoldfastSaver, durability: Any) -> None:
    graph, config = counting(saver), of_thread("t")
    for turn in range(3):
        result = graph.invoke({"total": turn}, config, durability=durability)
    assert result == {"total": 8, "trail": ["one", "two", "three"] * 3}
    assert graph.get_state(config).values == result
    assert len(list(graph.get_state_history(config))) == (3 if durability == "exit" else 15)


def test_threads_of_one_saver_run_at_the_same_time(saver: HoldfastSaver) -> None:
    graph = counting(saver)

    def run(place: int) -> int:
        for _ in range(3):
            total: int = graph.invoke({"total": place}, of_thread(f"thread-{place}"))["total"]
        return total

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, range(16))) == [place + 6 for place in range(16)]
    for place in range(16):
        config = of_thread(f"thread-{place}")
        assert graph.get_state(config).values["total"] == place + 6
        assert len(list(graph.get_state_history(config))) == 15


async def test_threads_of_one_async_saver_run_at_the_same_time(url: str | None) -> None:
    async with opened(url) as saver:
        graph = counting(saver)
        runs = [graph.ainvoke({"total": place}, of_thread(f"thread-{place}")) for place in range(16)]
        assert [each["total"] for each in await asyncio.gather(*runs)] == [place + 6 for place in range(16)]


class Address(BaseModel):
    street: str


class Person(BaseModel):
    name: str
    address: Address | None = None


def test_a_state_that_is_a_pydantic_model_comes_back_as_one(url: str | None) -> None:
    def move(state: Person) -> dict[str, Any]:
        return {"address": Address(street=f"{state.name} Street")}

    graph = StateGraph(Person)
    graph.add_node("move", move)
    graph.add_edge(START, "move")
    graph.add_edge("move", END)
    classes = [Person, Address]
    memory = MemoryCheckpointer()
    made = HoldfastSaver(memory, classes=classes) if url is None else HoldfastSaver.from_url(url, classes=classes)
    with made as saver:
        built = graph.compile(checkpointer=saver)
        built.invoke(Person(name="Ada"), of_thread("t"))
        values = built.get_state(of_thread("t")).values
    assert values == {"name": "Ada", "address": Address(street="Ada Street")}


def extend(state: list[str] | None, writes: Sequence[Any]) -> list[str]:
    return [*(state or []), *(each for write in writes for each in write)]


def test_a_delta_channel_is_rebuilt_from_snapshots_and_writes(saver: HoldfastSaver) -> None:
    class Logging(TypedDict, total=False):
        log: Annotated[list[str], DeltaChannel(extend, snapshot_frequency=5)]
        turn: int

    def note(state: Logging) -> Logging:
        return {"log": [f"turn {state['turn']}"]}

    def left(state: Logging) -> Logging:
        return {"log": ["left"]}

    graph = StateGraph(Logging)
    graph.add_node("note", note)
    graph.add_node("left", left)
    for name in ("note", "left"):
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    built = graph.compile(checkpointer=saver)
    expected: list[str] = []
    for turn in range(13):
        built.invoke({"turn": turn, "log": [f"input {turn}"]}, of_thread("t"))
        expected = built.get_state(of_thread("t")).values["log"]
        assert len(expected) == 3 * (turn + 1)
    # A saver that has seen nothing yet reads the same, and so does a copy, and what pruning left.
    assert built.get_state(of_thread("t")).values["log"] == expected
    saver.copy_thread("t", "copy")
    before = len(list(saver.list(of_thread("t"))))
    saver.prune(["t"])
    assert 1 < len(list(saver.list(of_thread("t")))) < before
    for thread in ("t", "copy"):
        assert built.get_state(of_thread(thread)).values["log"] == expected
        built.invoke({"turn": 99, "log": []}, of_thread(thread))
        assert sorted(built.get_state(of_thread(thread)).values["log"]) == sorted([*expected, "turn 99", "left"])


def test_a_copied_thread_goes_on_by_itself(saver: HoldfastSaver, tmp_path: Path) -> None:
    workflow = Workflow(tmp_path / "journal")
    graph = workflow.build(saver)
    graph.invoke({}, CONFIG)
    saver.copy_thread("article", "copy")
    graph.invoke(Command(resume="bad"), of_thread("copy"))
    assert graph.get_state(of_thread("copy")).values["article"] == f"bad: {DRAFT}"
    assert report(graph.get_state(CONFIG))["interrupts"] == [{"question": "publish?", "draft": DRAFT}]
    graph.invoke(Command(resume="good"), CONFIG)
    assert report(graph.get_state(CONFIG)) == DONE

"""OpenAI Agents SDK sessions on ours: the protocol, a real run that restarts, many writers, on every backend."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from agents import (
    Agent,
    Model,
    ModelResponse,
    RunConfig,
    Runner,
    SessionSettings,
    Usage,
    function_tool,
)
from agents.memory import Session
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from persistence import AsyncDatabaseManager, ClosedError, PostgreSQLConfig, RedisConfig, SQLiteConfig, ValidationError
from sessions.openai_agents import HoldfastSession

pytestmark = pytest.mark.tables("sessions")

Config = PostgreSQLConfig | RedisConfig | SQLiteConfig


@pytest.fixture(params=["postgresql", "sqlite", "redis"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    if request.param == "postgresql":
        found: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        return found
    if request.param == "redis":
        redis: RedisConfig = request.getfixturevalue("redis_config")
        return redis
    return SQLiteConfig(path=str(tmp_path / "main.db"))


async def opened(config: Config) -> AsyncDatabaseManager:
    """Return a manager with the connection ``main``."""
    manager = AsyncDatabaseManager()
    if isinstance(config, SQLiteConfig):
        await manager.add_sqlite("main", config)
    elif isinstance(config, RedisConfig):
        await manager.add_redis("main", config)
    else:
        await manager.add_postgresql("main", config)
    return manager


@pytest_asyncio.fixture
async def manager(config: Config) -> AsyncIterator[AsyncDatabaseManager]:
    async with await opened(config) as made:
        yield made


@pytest.fixture
def session(manager: AsyncDatabaseManager) -> HoldfastSession:
    return HoldfastSession("chat-1", manager, user_id="ada")


def item(text: str) -> Any:
    return {"role": "user", "content": text}


ITEMS: list[Any] = [
    item("hello"),
    {"content": [{"type": "output_text", "text": "a\0b \ud800 \U0001f9f6"}], "role": "assistant", "id": "m1"},
    {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a":1}'},
    {"type": "function_call_output", "call_id": "c1", "output": "x" * 100_000},
    {"type": "reasoning", "summary": [], "nested": {"z": 1, "a": [1.5, None, True, 1e16]}},
    {"odd": 1},
]


async def test_it_is_a_session_of_the_sdk(session: HoldfastSession) -> None:
    assert isinstance(session, Session)
    assert session.session_id == "chat-1"


async def test_items_come_back_as_they_were_in_their_order(session: HoldfastSession, config: Config) -> None:
    await session.add_items(ITEMS[:2])
    await session.add_items(ITEMS[2:])
    await session.add_items([])
    async with await opened(config) as other:
        again = HoldfastSession("chat-1", other, user_id="ada")
        assert json.dumps(await again.get_items()) == json.dumps(ITEMS)


async def test_a_limit_is_the_latest_items_oldest_first(
    manager: AsyncDatabaseManager, session: HoldfastSession
) -> None:
    await session.add_items([item(str(n)) for n in range(30)])
    for limit, first in ((0, 30), (1, 29), (7, 23), (30, 0), (500, 0), (20_000, 0)):
        assert [one["content"] for one in await session.get_items(limit)] == [str(n) for n in range(first, 30)]
    limited = HoldfastSession("chat-1", manager, session_settings=SessionSettings(limit=2))
    assert await limited.get_items() == [item("28"), item("29")]
    assert len(await limited.get_items(limit=3)) == 3


async def test_settings_may_be_a_dict_as_for_the_sessions_of_the_sdk(manager: AsyncDatabaseManager) -> None:
    session = HoldfastSession("chat-1", manager, session_settings={"limit": 2})
    await session.add_items([item(text) for text in "abc"])
    assert await session.get_items() == [item("b"), item("c")]
    with pytest.raises(TypeError):
        HoldfastSession("chat-1", manager, session_settings={"unknown": 2})


async def test_a_history_longer_than_a_page_is_whole(session: HoldfastSession) -> None:
    for start in range(0, 10_500, 3500):
        await session.add_items([item(str(n)) for n in range(start, start + 3500)])
    assert [one["content"] for one in await session.get_items()] == [str(n) for n in range(10_500)]
    assert [one["content"] for one in await session.get_items(10_200)] == [str(n) for n in range(300, 10_500)]


async def test_pop_takes_the_last_item_and_clear_takes_all(session: HoldfastSession) -> None:
    assert await session.pop_item() is None
    await session.add_items([item("a"), item("b")])
    assert await session.pop_item() == item("b")
    assert await session.get_items() == [item("a")]
    await session.add_items([item("c")])
    assert await session.get_items() == [item("a"), item("c")]
    await session.clear_session()
    assert await session.get_items() == []
    assert await session.pop_item() is None
    await session.clear_session()
    await session.add_items([item("d")])
    assert await session.get_items() == [item("d")]


async def test_sessions_and_tenants_are_apart(manager: AsyncDatabaseManager, session: HoldfastSession) -> None:
    others = [HoldfastSession("chat-2", manager), HoldfastSession("chat-1", manager, tenant="other")]
    for one in (session, *others):
        await one.add_items([item(f"{one.session_id}")])
    await session.clear_session()
    assert [await one.get_items() for one in others] == [[item("chat-2")], [item("chat-1")]]


async def test_batches_of_many_writers_stay_together_from_the_first_on(
    manager: AsyncDatabaseManager, session: HoldfastSession
) -> None:
    async def write(writer: int) -> None:
        mine = HoldfastSession("chat-1", manager)
        for batch in range(5):
            await mine.add_items([item(f"{writer}/{batch}/{n}") for n in range(3)])

    await asyncio.gather(*[write(writer) for writer in range(6)])
    found: list[Any] = await session.get_items()
    triples = [tuple(one["content"] for one in found[at : at + 3]) for at in range(0, len(found), 3)]
    expected = [tuple(f"{w}/{b}/{n}" for n in range(3)) for w in range(6) for b in range(5)]
    assert sorted(triples) == sorted(expected)
    for writer in range(6):
        assert [t for t in triples if t[0].startswith(f"{writer}/")] == [
            tuple(f"{writer}/{b}/{n}" for n in range(3)) for b in range(5)
        ]


async def test_adding_and_reading_are_one_statement(manager: AsyncDatabaseManager, session: HoldfastSession) -> None:
    await session.add_items([item("first")])
    calls: list[Any] = [lambda: session.add_items([item("a"), item("b")]), lambda: session.get_items(20)]
    for call in calls:
        await call()  # Redis knows the script of each from here on
        before = manager.stats()["main"].requests
        await call()
        assert manager.stats()["main"].requests - before == 1


async def test_what_cannot_be_kept_is_refused_whole(manager: AsyncDatabaseManager, session: HoldfastSession) -> None:
    bad: list[Any] = [{"role": "user", "content": (1, 2)}, {1: 2}, {"x": float("nan")}, "text", None, {"x": object()}]
    for one in bad:
        with pytest.raises(ValidationError):
            await session.add_items([item("fine"), one])
    assert await session.get_items() == []
    names: list[Any] = ["", "a\0", "x" * 10_000, None]
    for name in names:
        with pytest.raises(ValidationError):
            HoldfastSession(name, manager)
    for limit in (-1, "5", True):
        with pytest.raises(ValidationError):
            await session.get_items(limit)  # type: ignore[arg-type]


async def test_a_closed_manager_says_so(manager: AsyncDatabaseManager, session: HoldfastSession) -> None:
    await manager.aclose()
    with pytest.raises(ClosedError):
        await session.get_items()


class Scripted(Model):
    """Answers by a script and remembers what it was asked."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[Any] = []

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **options: Any) -> ModelResponse:
        self.asked.append(input)
        return ModelResponse(output=[self.answers.pop(0)], usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **options: Any) -> Any:
        raise NotImplementedError


def said(text: str) -> ResponseOutputMessage:
    content = ResponseOutputText(annotations=[], text=text, type="output_text", logprobs=[])
    return ResponseOutputMessage(id="m", content=[content], role="assistant", status="completed", type="message")


@function_tool
def double(number: int) -> int:
    """Double a number."""
    return 2 * number


async def test_a_run_restarts_and_continues_where_it_was(config: Config) -> None:
    quiet = RunConfig(tracing_disabled=True)
    call = ResponseFunctionToolCall(arguments='{"number": 21}', call_id="c1", name="double", type="function_call")
    first = Scripted(call, said("It is 42."))
    async with await opened(config) as manager:
        agent = Agent(name="Counter", model=first, tools=[double])
        session = HoldfastSession("chat-1", manager, user_id="ada")
        result = await Runner.run(agent, "Double 21", session=session, run_config=quiet)
        assert result.final_output == "It is 42."
    second = Scripted(said("You asked about 21."))
    async with await opened(config) as manager:
        agent = Agent(name="Counter", model=second, tools=[double])
        session = HoldfastSession("chat-1", manager, user_id="ada")
        result = await Runner.run(agent, "What did I ask?", session=session, run_config=quiet)
        assert result.final_output == "You asked about 21."
        kept: list[Any] = await session.get_items()
    kinds = [one.get("role") or one["type"] for one in kept]
    assert kinds == ["user", "function_call", "function_call_output", "assistant", "user", "assistant"]
    assert kept[2]["output"] == "42"
    assert [one.get("content") for one in second.asked[0] if one.get("role") == "user"] == [
        "Double 21",
        "What did I ask?",
    ]
    assert len(second.asked[0]) == 5

"""LangChain's chat message history on ours: what it keeps, on both sides, on PostgreSQL and SQLite."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from langchain_core._api.deprecation import LangChainDeprecationWarning
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from persistence import (
    AsyncDatabaseManager,
    CapabilityError,
    DatabaseManager,
    PostgreSQLConfig,
    SQLiteConfig,
    ValidationError,
)
from sessions import MessageStore
from sessions.langchain_history import HoldfastChatMessageHistory

pytestmark = pytest.mark.tables("sessions")

Config = PostgreSQLConfig | SQLiteConfig

MESSAGES: list[Any] = [
    SystemMessage("be brief"),
    HumanMessage("a\0b \ud800 é", name="ada"),
    AIMessage(
        "",
        tool_calls=[{"name": "add", "args": {"a": 1, "b": [2.5, None]}, "id": "c1", "type": "tool_call"}],
        usage_metadata={"input_tokens": 12, "output_tokens": 3, "total_tokens": 15},
    ),
    ToolMessage("3.5", tool_call_id="c1", artifact={"raw": [1, 2]}),
    AIMessage([{"type": "text", "text": "It is 3.5"}], response_metadata={"model": "m"}, id="m1"),
]


@pytest.fixture(params=["postgresql", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    if request.param == "postgresql":
        found: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        return found
    return SQLiteConfig(path=str(tmp_path / "main.db"))


@pytest.fixture
def manager(config: Config) -> Iterator[DatabaseManager]:
    with DatabaseManager() as made:
        made.add_sqlite("main", config) if isinstance(config, SQLiteConfig) else made.add_postgresql("main", config)
        yield made


@pytest_asyncio.fixture
async def async_manager(config: Config) -> AsyncIterator[AsyncDatabaseManager]:
    async with AsyncDatabaseManager() as made:
        if isinstance(config, SQLiteConfig):
            await made.add_sqlite("main", config)
        else:
            await made.add_postgresql("main", config)
        yield made


def test_messages_come_back_as_they_were(manager: DatabaseManager) -> None:
    history = HoldfastChatMessageHistory("chat-1", manager, user_id="ada")
    assert history.messages == []
    history.add_messages(MESSAGES[:3])
    history.add_messages(MESSAGES[3:])
    history.add_messages([])
    assert HoldfastChatMessageHistory("chat-1", manager).messages == MESSAGES
    assert HoldfastChatMessageHistory("chat-1", manager, limit=2).messages == MESSAGES[-2:]
    assert HoldfastChatMessageHistory("chat-2", manager).messages == []
    assert HoldfastChatMessageHistory("chat-1", manager, tenant="other").messages == []


def test_tokens_and_roles_are_those_of_the_messages(manager: DatabaseManager) -> None:
    HoldfastChatMessageHistory("chat-1", manager).add_messages(MESSAGES)
    kept = MessageStore(manager, "main").list_messages("chat-1")
    assert [message.role for message in kept] == ["system", "human", "ai", "tool", "ai"]
    assert [(message.input_tokens, message.output_tokens) for message in kept][2:4] == [(12, 3), (None, None)]


def test_clearing_removes_all_and_the_history_begins_anew(manager: DatabaseManager) -> None:
    history = HoldfastChatMessageHistory("chat-1", manager)
    history.clear()
    history.add_user_message("hello")
    history.add_ai_message("hi")
    assert [message.content for message in history.messages] == ["hello", "hi"]
    history.clear()
    assert history.messages == []
    history.add_user_message("again")
    assert [message.content for message in history.messages] == ["again"]


async def test_the_async_side_does_the_same(async_manager: AsyncDatabaseManager) -> None:
    history = HoldfastChatMessageHistory("chat-1", async_manager, user_id="ada")
    assert await history.aget_messages() == []
    await history.aadd_messages(MESSAGES)
    assert await history.aget_messages() == MESSAGES
    assert await HoldfastChatMessageHistory("chat-1", async_manager, limit=1).aget_messages() == MESSAGES[-1:]
    await history.aclear()
    assert await history.aget_messages() == []


def test_adding_and_reading_are_one_statement(manager: DatabaseManager) -> None:
    history = HoldfastChatMessageHistory("chat-1", manager, limit=20)
    history.add_messages(MESSAGES)
    calls: list[Any] = [lambda: history.add_messages(MESSAGES), lambda: history.messages]
    for call in calls:
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1


def test_what_cannot_be_kept_is_refused_whole(manager: DatabaseManager) -> None:
    history = HoldfastChatMessageHistory("chat-1", manager)
    for bad in (HumanMessage("x", additional_kwargs={"n": float("nan")}), {"type": "human"}, "text"):
        with pytest.raises(ValidationError):
            history.add_messages([HumanMessage("fine"), bad])  # type: ignore[list-item]
    assert history.messages == []
    for options in ({"limit": -1}, {"limit": "5"}, {"user_id": ""}):
        with pytest.raises(ValidationError):
            HoldfastChatMessageHistory("chat-1", manager, **options)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        HoldfastChatMessageHistory("", manager)


def test_a_side_that_is_not_there_says_so(manager: DatabaseManager) -> None:
    with pytest.raises(CapabilityError, match="DatabaseManager"):
        HoldfastChatMessageHistory("chat-1").messages  # noqa: B018
    with pytest.raises(CapabilityError, match="AsyncDatabaseManager"):
        HoldfastChatMessageHistory("chat-1", manager).aclear().send(None)  # type: ignore[attr-defined]
    with pytest.raises(ValidationError):
        HoldfastChatMessageHistory("chat-1", manager, manager)


def opened(manager: DatabaseManager, session_id: str) -> HoldfastChatMessageHistory:
    return HoldfastChatMessageHistory(session_id, manager)


def test_a_runnable_keeps_its_history_across_restarts(config: Config) -> None:
    seen: list[int] = []

    def answer(messages: list[Any]) -> AIMessage:
        seen.append(len(messages))
        return AIMessage(f"answer {len(messages)}")

    for question in ("one", "two"):
        with DatabaseManager() as manager:
            manager.add_sqlite("main", config) if isinstance(config, SQLiteConfig) else manager.add_postgresql(
                "main", config
            )
            with pytest.warns(LangChainDeprecationWarning):
                chain = RunnableWithMessageHistory(RunnableLambda(answer), partial(opened, manager))
            chain.invoke([HumanMessage(question)], {"configurable": {"session_id": "chat-1"}})
    assert seen == [1, 3]

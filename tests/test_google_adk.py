"""Google ADK's session service on ours: sessions, events and the scopes of state, on PostgreSQL and SQLite."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest
import pytest_asyncio
from google.adk.agents import BaseAgent
from google.adk.errors.already_exists_error import AlreadyExistsError
from google.adk.errors.session_not_found_error import SessionNotFoundError
from google.adk.events.event import Event
from google.adk.events.event_actions import EventActions
from google.adk.runners import Runner
from google.adk.sessions.base_session_service import GetSessionConfig
from google.adk.sessions.in_memory_session_service import InMemorySessionService
from google.adk.sessions.session import Session
from google.genai import types

from persistence import AsyncDatabaseManager, ClosedError, PostgreSQLConfig, SQLiteConfig, ValidationError
from sessions import AsyncMessageStore, AsyncUserData
from sessions.google_adk import HoldfastSessionService

pytestmark = pytest.mark.tables("sessions")

Config = PostgreSQLConfig | SQLiteConfig
ADA: dict[str, Any] = {"app_name": "app", "user_id": "ada"}


@pytest.fixture(params=["postgresql", "sqlite"])
def config(request: pytest.FixtureRequest, tmp_path: Path) -> Config:
    if request.param == "postgresql":
        found: PostgreSQLConfig = request.getfixturevalue("postgresql_config")
        return found
    return SQLiteConfig(path=str(tmp_path / "main.db"))


async def opened(config: Config) -> AsyncDatabaseManager:
    """Return a manager with the connection ``main``."""
    manager = AsyncDatabaseManager()
    if isinstance(config, SQLiteConfig):
        await manager.add_sqlite("main", config)
    else:
        await manager.add_postgresql("main", config)
    return manager


@pytest_asyncio.fixture
async def manager(config: Config) -> AsyncIterator[AsyncDatabaseManager]:
    async with await opened(config) as made:
        yield made


@pytest.fixture
def service(manager: AsyncDatabaseManager) -> HoldfastSessionService:
    return HoldfastSessionService(manager)


def event(text: str = "hello", **options: Any) -> Event:
    delta = options.pop("delta", {})
    content = types.Content(role="user", parts=[types.Part(text=text)])
    return Event(id=Event.new_id(), author="user", content=content, actions=EventActions(state_delta=delta), **options)


def texts(session: Session | None) -> list[str]:
    assert session is not None
    return [str(one.content.parts[0].text) for one in session.events if one.content and one.content.parts]


async def test_a_session_comes_back_as_it_was_made(service: HoldfastSessionService, config: Config) -> None:
    before = time.time() - 5
    made = await service.create_session(**ADA, state={"n": [1, {"a": None}], "temp:t": 1, "user:u": 2, "app:a": 3})
    assert made.id
    assert made.state == {"n": [1, {"a": None}], "user:u": 2, "app:a": 3}
    assert before < made.last_update_time < time.time() + 5
    async with await opened(config) as other:
        assert await HoldfastSessionService(other).get_session(**ADA, session_id=made.id) == made
    assert await service.get_session(**ADA, session_id="other") is None
    with pytest.raises(AlreadyExistsError):
        await service.create_session(**ADA, session_id=made.id, state={"n": "lost"})
    again = await service.get_session(**ADA, session_id=f"  {made.id} ")
    assert again == made
    assert (await service.create_session(**ADA, session_id="  padded ")).id == "padded"


async def test_an_event_comes_back_as_it_was_appended(service: HoldfastSessionService) -> None:
    session = await service.create_session(**ADA)
    whole = Event(
        id=Event.new_id(),
        invocation_id="i1",
        author="model",
        content=types.Content(
            role="model",
            parts=[
                types.Part.from_bytes(data=b"\0\xff image", mime_type="image/png"),
                types.Part.from_function_call(name="f", args={"x": [1, 2.5, None]}),
                types.Part(text="a\0b \U0001f9f6"),
            ],
        ),
        actions=EventActions(artifact_delta={"file": 0}, transfer_to_agent="other", escalate=True),
        long_running_tool_ids={"t1"},
        error_code="E",
        turn_complete=True,
        branch="a.b",
        custom_metadata={"k": "v"},
        usage_metadata=types.GenerateContentResponseUsageMetadata(prompt_token_count=1, total_token_count=3),
    )
    assert await service.append_event(session, whole) is whole
    assert await service.get_session(**ADA, session_id=session.id) == session
    assert session.events == [whole]


async def test_the_last_update_is_the_time_of_the_last_event(service: HoldfastSessionService) -> None:
    session = await service.create_session(**ADA)
    moment = session.last_update_time + 10
    await service.append_event(session, event(timestamp=moment))
    for config in (None, GetSessionConfig(num_recent_events=0), GetSessionConfig(after_timestamp=moment + 1)):
        found = await service.get_session(**ADA, session_id=session.id, config=config)
        assert found is not None
        assert found.last_update_time == session.last_update_time == moment
    listed = (await service.list_sessions(**ADA)).sessions
    assert [each.last_update_time for each in listed] == [moment]


async def test_state_is_of_the_app_the_user_and_the_session(service: HoldfastSessionService) -> None:
    first = await service.create_session(**ADA, session_id="s1", state={"own": 1, "user:u": 1, "app:a": 1})
    await service.append_event(first, event(delta={"own": 2, "user:v": 2, "app:b": 2, "temp:t": 2}))
    assert first.state == {"own": 2, "user:u": 1, "user:v": 2, "app:a": 1, "app:b": 2, "temp:t": 2}
    assert first.events[0].actions.state_delta == {"own": 2, "user:v": 2, "app:b": 2}
    second = await service.create_session(**ADA, session_id="s2")
    assert second.state == {"user:u": 1, "user:v": 2, "app:a": 1, "app:b": 2}
    bobs = await service.create_session(app_name="app", user_id="bob", session_id="s1", state={"app:a": 9})
    assert bobs.state == {"app:a": 9, "app:b": 2}
    assert (await service.create_session(app_name="other", user_id="ada")).state == {}
    assert await service.get_user_state(**ADA) == {"u": 1, "v": 2}
    assert await service.get_user_state(app_name="app", user_id="bob") == {}
    read = await service.get_session(**ADA, session_id="s1")
    assert read is not None
    assert read.state == {"own": 2, "user:u": 1, "user:v": 2, "app:a": 9, "app:b": 2}


async def test_sessions_are_listed_by_activity_oldest_first_with_state_and_without_events(
    service: HoldfastSessionService,
) -> None:
    made = {}
    for n, (user, name) in enumerate([("ada", "s1"), ("ada", "s2"), ("bob", "s1"), ("ada", "s3")]):
        session = await service.create_session(app_name="app", user_id=user, session_id=name, state={"n": n})
        made[user, name] = session
    await service.create_session(app_name="other", user_id="ada", session_id="s1")
    late = time.time() + 100
    await service.append_event(made["ada", "s1"], event(delta={"user:u": 1, "app:a": 1}, timestamp=late))
    ours = (await service.list_sessions(**ADA)).sessions
    assert [(session.id, session.events) for session in ours] == [("s2", []), ("s3", []), ("s1", [])]
    assert [session.state for session in ours] == [{"n": n, "user:u": 1, "app:a": 1} for n in (1, 3, 0)]
    everyone = (await service.list_sessions(app_name="app")).sessions
    assert [(session.user_id, session.id) for session in everyone] == [
        ("ada", "s2"),
        ("bob", "s1"),
        ("ada", "s3"),
        ("ada", "s1"),
    ]
    assert everyone[1].state == {"n": 2, "app:a": 1}
    assert (await service.list_sessions(app_name="none")).sessions == []
    assert (await service.list_sessions(app_name="app", user_id="ad")).sessions == []


async def test_events_can_be_read_from_the_end_and_from_a_time(service: HoldfastSessionService) -> None:
    reference = InMemorySessionService()
    for each in (service, reference):
        session = await each.create_session(**ADA, session_id="s1")
        for n in range(1, 7):
            await each.append_event(session, event(str(n), timestamp=float(n)))
    for recent in (None, 0, 1, 3, 100, 20_000):
        for after in (None, 0.0, 4.0, 4.5, 50.0):
            wanted = GetSessionConfig(num_recent_events=recent, after_timestamp=after)
            found = [
                texts(await each.get_session(**ADA, session_id="s1", config=wanted)) for each in (service, reference)
            ]
            assert (wanted, found[0]) == (wanted, found[1])


async def test_partial_events_are_not_stored(service: HoldfastSessionService) -> None:
    session = await service.create_session(**ADA)
    await service.append_event(session, event(partial=True, delta={"n": 1}))
    found = await service.get_session(**ADA, session_id=session.id)
    assert found is not None
    assert (session.events, found.events, found.state) == ([], [], {})


async def test_an_event_delivered_twice_is_stored_once_and_takes_nothing_back(service: HoldfastSessionService) -> None:
    session = await service.create_session(**ADA)
    first = event("one", delta={"n": 1})
    copy = first.model_copy(deep=True)
    await service.append_event(session, first)
    await service.append_event(session, event("two", delta={"n": 2}))
    await service.append_event(session, copy)
    alike = first.model_copy(deep=True, update={"author": "model"})
    await service.append_event(session, alike)
    found = await service.get_session(**ADA, session_id=session.id)
    assert found is not None
    assert (texts(found), texts(session)) == (["one", "two", "one"], ["one", "two", "one"])
    assert found.state == {"n": 1}


async def test_writers_with_stale_sessions_lose_nothing(
    service: HoldfastSessionService, manager: AsyncDatabaseManager
) -> None:
    made = await service.create_session(**ADA, session_id="s1")

    async def write(writer: int) -> None:
        stale = made.model_copy(deep=True)
        for n in range(5):
            await HoldfastSessionService(manager).append_event(stale, event(f"{writer}/{n}", delta={f"k{writer}": n}))

    await asyncio.gather(*[write(writer) for writer in range(4)])
    found = await service.get_session(**ADA, session_id="s1")
    assert found is not None
    assert found.state == {f"k{writer}": 4 for writer in range(4)}
    for writer in range(4):
        own = [text for text in texts(found) if text.startswith(f"{writer}/")]
        assert own == [f"{writer}/{n}" for n in range(5)]
    assert len(found.events) == 20


async def test_deleting_removes_events_and_own_state_and_leaves_the_rest(
    service: HoldfastSessionService, manager: AsyncDatabaseManager
) -> None:
    session = await service.create_session(**ADA, session_id="s1", state={"own": 1, "user:u": 1})
    await service.create_session(app_name="app", user_id="bob", session_id="s1", state={"own": 2})
    await service.append_event(session, event())
    await service.delete_session(**ADA, session_id="s1")
    await service.delete_session(**ADA, session_id="s1")
    assert await service.get_session(**ADA, session_id="s1") is None
    assert await manager.get_database("main").fetch_value("SELECT count(*) FROM holdfast_messages") == 0
    assert (await service.list_sessions(app_name="app", user_id="ada")).sessions == []
    with pytest.raises(SessionNotFoundError):
        await service.append_event(session, event())
    assert (await service.create_session(**ADA, session_id="s1")).state == {"user:u": 1}
    bobs = await service.get_session(app_name="app", user_id="bob", session_id="s1")
    assert bobs is not None
    assert bobs.state == {"own": 2}


async def test_what_fails_leaves_neither_event_nor_state(service: HoldfastSessionService) -> None:
    session = await service.create_session(**ADA, session_id="s1")
    for delta in ({"ok": 1, "bad": object()}, {"ok": 1, "": 2}, {"ok": 1, "user:": 2}, {"x" * 2000: 1}):
        with pytest.raises((ValidationError, TypeError, ValueError)):
            await service.append_event(session, event(delta=delta))
    found = await service.get_session(**ADA, session_id="s1")
    assert found is not None
    assert (found.events, found.state) == ([], {})
    for bad in ("", "a\0", "x" * 2000):
        with pytest.raises(ValidationError):
            await service.create_session(app_name=bad, user_id="ada")
        with pytest.raises(ValidationError):
            await service.create_session(app_name="app", user_id=bad)


async def test_no_names_run_into_each_other(service: HoldfastSessionService, manager: AsyncDatabaseManager) -> None:
    places = [("a/b", "c", "d"), ("a", "b/c", "d"), ("a", "b", "c/d"), ("a%2Fb", "c", "d"), ("a\x1f", "b", "c")]
    other = HoldfastSessionService(manager, tenant="other")
    for each in (service, other):
        for n, (app, user, name) in enumerate(places):
            state = {"n": n, "app:a": n, "user:u": n}
            await each.create_session(app_name=app, user_id=user, session_id=name, state=state)
    await other.delete_session(app_name="a/b", user_id="c", session_id="d")
    for n, (app, user, name) in enumerate(places):
        found = await service.get_session(app_name=app, user_id=user, session_id=name)
        assert found is not None
        assert (found.state["n"], found.state["user:u"]) == (n, n)


async def test_erasing_a_user_leaves_nothing_of_them_in_any_app(
    service: HoldfastSessionService, manager: AsyncDatabaseManager
) -> None:
    for app in ("app", "other/app"):
        for user in ("ada", "bob", "ada2"):
            state = {"own": 1, "user:u": 1, "app:a": 1}
            session = await service.create_session(app_name=app, user_id=user, session_id="s1", state=state)
            await service.append_event(session, event(f"of {user}"))
    users = AsyncUserData(manager, "main", stores=[service])
    exported = [json.loads(line) async for line in users.export_user("ada")]
    assert [(line["namespace"][1:], line["key"], line["value"]) for line in exported if line["kind"] == "adk_item"][
        :3
    ] == [
        (["app", "sessions", "ada"], "s1", ANY),
        (["app", "state", "ada", "s1"], "own", 1),
        (["app", "user", "ada"], "u", 1),
    ]
    assert [line["content"]["author"] for line in exported if line["kind"] == "message"] == ["user"] * 2
    assert (await users.erase_user("ada"))["adk_items"] == 6
    assert await service.erase_user("ada") == {"adk_items": 0}
    database = manager.get_database("main")
    for table, columns in {"holdfast_items": "namespace || key", "holdfast_threads": "id || user_id"}.items():
        rows = await database.fetch_all(f"SELECT {columns} AS place FROM {table}")
        assert [row["place"] for row in rows if "ada" in row["place"].replace("ada2", "")] == []
    assert await database.fetch_value("SELECT count(*) FROM holdfast_messages") == 4
    for app in ("app", "other/app"):
        sessions = (await service.list_sessions(app_name=app)).sessions
        assert sorted((session.user_id, session.state["user:u"]) for session in sessions) == [("ada2", 1), ("bob", 1)]


async def test_a_closed_manager_says_so(manager: AsyncDatabaseManager, service: HoldfastSessionService) -> None:
    await manager.aclose()
    with pytest.raises(ClosedError):
        await service.get_session(**ADA, session_id="s1")


class Counter(BaseAgent):
    """Answers how often it was asked, which it keeps in the state."""

    async def _run_async_impl(self, ctx: Any) -> AsyncIterator[Event]:
        count = ctx.session.state.get("count", 0) + 1
        content = types.Content(role="model", parts=[types.Part(text=f"asked {count} times")])
        actions = EventActions(state_delta={"count": count})
        yield Event(author=self.name, invocation_id=ctx.invocation_id, content=content, actions=actions)


async def test_a_runner_restarts_and_continues_where_it_was(config: Config) -> None:
    answers = []
    for _ in range(3):
        async with await opened(config) as manager:
            service = HoldfastSessionService(manager)
            if await service.get_session(**ADA, session_id="s1") is None:
                await service.create_session(**ADA, session_id="s1")
            runner = Runner(agent=Counter(name="counter"), app_name="app", session_service=service)
            question = types.Content(role="user", parts=[types.Part(text="how often?")])
            async for one in runner.run_async(user_id="ada", session_id="s1", new_message=question):
                if one.author == "counter" and one.content and one.content.parts:
                    answers.append(one.content.parts[0].text)
            await runner.close()
            messages = await AsyncMessageStore(manager, "main").last("adk/app/ada/s1", 100)
    assert answers == ["asked 1 times", "asked 2 times", "asked 3 times"]
    assert [message.role for message in messages] == ["user", "counter"] * 3
    assert json.dumps(messages[-1].content["actions"]["state_delta"]) == '{"count": 3}'


async def test_an_event_and_its_state_are_one_statement_on_postgresql(
    service: HoldfastSessionService, manager: AsyncDatabaseManager
) -> None:
    session = await service.create_session(app_name="app", user_id="ada", session_id="s1")
    first = await service.append_event(session, event("first"))
    changed = event("hi", delta={"own": 1, "user:u": [2], "app:a": {"b": 3}, "temp:t": 4})
    before = manager.stats()["main"].requests
    await service.append_event(session, changed)
    if manager.get("main").kind == "postgresql":
        assert manager.stats()["main"].requests - before == 1
    again = await service.append_event(session, changed)  # stored once, its state too
    assert again.id == changed.id
    found = await service.get_session(app_name="app", user_id="ada", session_id="s1")
    assert found is not None
    assert found.state == {"own": 1, "user:u": [2], "app:a": {"b": 3}}
    assert [one.id for one in found.events] == [first.id, changed.id]
    versions = await manager.get_database("main").fetch_all("SELECT version FROM holdfast_items WHERE key = 'own'")
    assert [row["version"] for row in versions] == [1]

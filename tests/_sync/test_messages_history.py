# Generated from ../_async/test_messages_history.py by tests/unasync.py: edit that one.
"""The contract of messages across threads and over time: search, sums, queries, retention, export, following."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
import pytest

from persistence import (
    Database,
    DatabaseManager,
    CapabilityError,
    ClosedError,
    ConflictError,
    NotFoundError,
    ValidationError,
)
from sessions import (
    MessageStore,
    SessionManager,
    ThreadManager,
    UserData,
    Message,
    Query,
    Session,
    Thread,
    Usage,
)
from tests._sync.side import Started

pytestmark = pytest.mark.tables("sessions")

HOUR = timedelta(hours=1)
ALL_ROWS = "SELECT thread_id, seq FROM holdfast_messages ORDER BY thread_id, seq"


@pytest.fixture
def messages(manager: DatabaseManager, database: Database) -> MessageStore:
    """Messages with their words, beside ``t1`` and ``t2`` of ``ada`` in ``s1``, and ``t3`` of ``bob`` by itself."""
    SessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    threads = ThreadManager(manager, "main")
    for thread in (
        Thread(id="t1", session_id="s1"),
        Thread(id="t2", session_id="s1"),
        Thread(id="t3", user_id="bob", title="T", metadata={"a": 1}),
    ):
        threads.create_thread(thread)
    return MessageStore(manager, "main", searchable=True)


def said(content: Any, role: str = "user", **fields: Any) -> Message:
    return Message(role=role, content=content, **fields)


def set_time(database: Database, thread_id: str, seq: int, moment: datetime) -> None:
    changed = database.execute(
        "UPDATE holdfast_messages SET created_at = :moment WHERE thread_id = :thread AND seq = :seq",
        {"moment": moment, "thread": thread_id, "seq": seq},
    )
    assert changed == 1


def expire(database: Database) -> None:
    moment = datetime.now(UTC) - timedelta(seconds=1)
    database.execute("UPDATE holdfast_sessions SET expires_at = :moment", {"moment": moment})


def found(messages: MessageStore, query: str, **filters: Any) -> list[tuple[str | None, int | None]]:
    return [(message.thread_id, message.seq) for message in messages.search(query, **filters)]


def test_a_search_finds_the_messages_that_have_every_word(
    messages: MessageStore, database: Database
) -> None:
    messages.append("t1", said("The bridge over the Rhône\0"))
    messages.append_many("t2", [said([{"text": "A BRIDGE, over nothing!", "bridge_key": 1}]), said("river")])
    messages.replace_tail("t3", 1, [said({"a": "bridge-over_x O'Brien's 42 \ud800end ẞ"})])
    assert found(messages, "bridge") == [("t3", 1), ("t2", 1), ("t1", 1)]
    assert found(messages, "Over BRIDGE") == [("t2", 1), ("t1", 1)]
    assert found(messages, "RHÔNE") == [("t1", 1)]
    for words in ("over_x", "o'brien", "42", "end", "ss"):
        assert found(messages, words) == [("t3", 1)]
    for words in ("bridg", "bridge_key", "text", "u0000", "bridge river", "a|b"):
        assert found(messages, words) == []
    assert messages.search("rhône") == messages.last("t1")


def test_a_search_is_within_a_thread_a_session_a_user_or_a_role(messages: MessageStore) -> None:
    for thread in ("t1", "t2", "t3"):
        messages.append(thread, said("x y"))
        messages.append(thread, said("x z", "assistant"))
    assert len(found(messages, "x")) == 6
    assert found(messages, "x", thread_id="t2") == [("t2", 2), ("t2", 1)]
    assert found(messages, "x", session_id="s1", role="user") == [("t2", 1), ("t1", 1)]
    assert found(messages, "x", user_id="bob") == [("t3", 2), ("t3", 1)]
    assert found(messages.for_user("bob"), "x") == [("t3", 2), ("t3", 1)]
    assert found(messages.for_user("bob"), "x", thread_id="t1") == []
    assert found(messages, "z", user_id="nobody") == []
    with pytest.raises(ValidationError, match="another user"):
        messages.for_user("bob").search("x", user_id="ada")


def test_pages_of_a_search_show_each_message_once(messages: MessageStore, database: Database) -> None:
    for thread in ("t1", "t2", "t3"):
        messages.append_many(thread, [said("x") for _ in range(5)])
    moment = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    database.execute("UPDATE holdfast_messages SET created_at = :moment", {"moment": moment})
    seen: list[Any] = []
    after = None
    while page := messages.search("x", limit=4, after=after):
        seen += [(message.thread_id, message.seq) for message in page]
        after = page[-1].cursor
    assert seen == [(thread, seq) for thread in ("t3", "t2", "t1") for seq in (5, 4, 3, 2, 1)]


def test_what_is_gone_is_not_found(
    manager: DatabaseManager, messages: MessageStore, database: Database
) -> None:
    messages.append_many("t3", [said("x"), said("x")])
    messages.append_many("t1", [said("x"), said("x")])
    messages.pop_last("t3")
    assert found(messages, "x") == [("t1", 2), ("t1", 1), ("t3", 1)]
    ThreadManager(manager, "main").delete_thread("t3")
    assert found(messages, "x") == [("t1", 2), ("t1", 1)]
    assert MessageStore(manager, "main", tenant="other", searchable=True).search("x") == []
    expire(database)
    assert found(messages, "x") == []


def test_what_was_written_without_words_is_found_once_it_is_indexed(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    plain = MessageStore(manager, "main")
    plain.append_many("t1", [said(f"x {number}\0") for number in range(25)])
    with pytest.raises(CapabilityError, match="no words"):
        plain.search("x")
    with pytest.raises(CapabilityError, match="no words"):
        plain.index_messages()
    assert found(messages, "x") == []
    assert [messages.index_messages(limit=10) for _ in range(4)] == [10, 10, 5, 0]
    assert len(messages.search("x", limit=100)) == 25
    assert found(messages, "x 7") == [("t1", 8)]


def test_a_message_of_very_many_words_is_stored_and_found(messages: MessageStore) -> None:
    messages.append("t1", said(" ".join(f"word{number:07}" for number in range(200_000)) + " " + "long" * 5000))
    assert found(messages, "word0000007") == [("t1", 1)]


def test_sums_are_those_of_the_stored_messages(messages: MessageStore, database: Database) -> None:
    assert messages.usage() == Usage()
    second = timedelta(seconds=1)
    messages.append_many(
        "t1",
        [
            said("q", input_tokens=10, cost=0.1),
            said("a", output_tokens=5, cost=Decimal("0.2"), models=["m"], latency=second),
        ],
    )
    messages.append("t2", said("a", input_tokens=1, output_tokens=2, models=["m", "n"], latency=3 * second))
    messages.append("t3", said("a", cost=999_999_999, input_tokens=2**53))
    messages.append("t3", said("a", cost=Decimal("0.000000001")))
    assert messages.usage(session_id="s1") == Usage(
        messages=3, input_tokens=11, output_tokens=7, cost=Decimal("0.3"), latency=2 * second
    )
    everything = messages.usage()
    assert (everything.messages, everything.cost) == (5, Decimal("999999999.300000001"))
    assert everything.tokens == 2**53 + 18
    assert messages.usage(thread_id="t2") == Usage(
        messages=1, input_tokens=1, output_tokens=2, latency=3 * second
    )
    assert [(sums.key, sums.messages) for sums in messages.usage_by("thread")] == [
        ("t1", 2),
        ("t2", 1),
        ("t3", 2),
    ]
    assert [(sums.key, sums.messages) for sums in messages.usage_by("user")] == [("ada", 3), ("bob", 2)]
    assert [(sums.key, sums.messages) for sums in messages.usage_by("session")] == [("s1", 3)]
    assert [sums.key for sums in messages.usage_by("models")] == ['["m", "n"]', '["m"]']
    assert [sums.key for sums in messages.usage_by("thread", limit=1, after="t1")] == ["t2"]
    assert (messages.for_user("bob").usage()).messages == 2


def test_sums_by_long_lists_of_models_are_paged(messages: MessageStore) -> None:
    lists = [[f"{number} " + "m" * 1000, "ä" * 500] for number in range(3)]
    for models in lists:
        messages.append("t1", said("a", models=models, output_tokens=1))
    found: list[Usage] = []
    while page := messages.usage_by("models", limit=2, after=found[-1].key if found else None):
        found += page
    assert [(json.loads(sums.key or ""), sums.output_tokens) for sums in found] == [(each, 1) for each in lists]
    for after in ("", "\0", "\ud800", 7):
        with pytest.raises(ValidationError, match="after"):
            messages.usage_by("models", after=after)  # type: ignore[arg-type]


def test_sums_by_day_are_of_days_in_utc(messages: MessageStore, database: Database) -> None:
    messages.append_many("t1", [said(number, input_tokens=1) for number in range(4)])
    midnight = datetime(2024, 3, 1, tzinfo=UTC)
    micro = timedelta(microseconds=1)
    for seq, moment in enumerate((midnight - micro, midnight, midnight + 24 * HOUR - micro, midnight + 24 * HOUR), 1):
        set_time(database, "t1", seq, moment)
    days = messages.usage_by("day")
    assert [(sums.key, sums.messages) for sums in days] == [("2024-02-29", 1), ("2024-03-01", 2), ("2024-03-02", 1)]
    assert (messages.usage(since=midnight, until=midnight + 24 * HOUR)).messages == 2


def test_what_a_fork_copied_counts_once(messages: MessageStore) -> None:
    messages.save_query(Query(question="q", answer="a", user_id="bob", thread_id="t3", output_tokens=3))
    fork = messages.fork("t3")
    messages.append(fork.id, said("more", output_tokens=4))
    assert (messages.usage()).output_tokens == 7
    assert (messages.usage(thread_id=fork.id)).output_tokens == 4
    assert len(messages.recent_queries()) == 1


def test_a_query_comes_back_as_it_is_stored(messages: MessageStore, manager: DatabaseManager) -> None:
    given = Query(
        question="Why\0?",
        answer=[{"type": "text", "text": "Because."}],
        user_id="eve",
        mode="council",
        models=["a", "b"],
        latency=timedelta(milliseconds=12),
        sources=[{"chunk": 7}],
        input_tokens=3,
        output_tokens=4,
        cost=0.25,
        metadata={"ip": "::1"},
    )
    stored = messages.save_query(given, key="k")
    assert stored == replace(given, thread_id="queries:eve", cost=Decimal("0.25"), seq=2, created_at=stored.created_at)
    assert messages.save_query(given, key="k") == stored
    assert messages.recent_queries() == [stored]
    assert messages.recent_queries(user_id="eve") == [stored]
    assert [(message.role, message.answers) for message in messages.last("queries:eve")] == [
        ("user", None),
        ("assistant", 1),
    ]
    before = manager.stats()["main"].requests
    messages.save_query(given)
    messages.recent_queries()
    assert manager.stats()["main"].requests - before == 2


def test_queries_are_listed_newest_first_and_by_user(
    messages: MessageStore, database: Database
) -> None:
    for number in range(12):
        messages.save_query(Query(question=number, answer=-number, user_id=("ada", "bob", "0")[number % 3]))
    messages.append("t1", said("q"))
    messages.append("t1", said("a", "assistant", answers=1))
    assert [query.question for query in messages.recent_queries(limit=4)] == ["q", 11, 10, 9]
    assert [query.question for query in messages.recent_queries(user_id="0")] == [11, 8, 5, 2]
    assert [query.question for query in messages.recent_queries(user_id="ada")] == ["q", 9, 6, 3, 0]
    assert [query.question for query in messages.for_user("bob").recent_queries()] == [10, 7, 4, 1]
    assert [query.question for query in messages.recent_queries(thread_id="t1")] == ["q"]
    seen: list[Any] = []
    after = None
    while page := messages.recent_queries(limit=5, after=after):
        seen += [query.question for query in page]
        after = page[-1].cursor
    assert seen == ["q", *range(11, -1, -1)]
    messages.prune(thread_id="t1", keep_last=1)
    assert [query.question for query in messages.recent_queries(thread_id="t1")] == [None]


def test_a_query_stays_with_its_user(messages: MessageStore) -> None:
    with pytest.raises(NotFoundError):
        messages.save_query(Query(question="q", answer="a", user_id="eve", thread_id="t1"))
    with pytest.raises(ValidationError, match="another user"):
        messages.for_user("bob").save_query(Query(question="q", answer="a", user_id="eve"))
    assert messages.recent_queries() == []


def test_what_a_user_asked_stays_theirs_when_the_thread_becomes_anothers(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    threads = ThreadManager(manager, "main")

    def asked(user: str) -> list[Any]:
        found = messages.recent_queries(user_id=user)
        assert messages.for_user(user).recent_queries() == found
        assert {query.user_id for query in found} <= {user}
        return [query.question for query in found]

    for number, user in enumerate(("bob", "eve", "zoe", "bob", "ada")):
        threads.update_thread(Thread(id="t3", user_id=user))
        if user != "zoe":
            messages.save_query(Query(question=number, answer=-number, user_id=user, thread_id="t3"))
    assert [asked(user) for user in ("bob", "eve", "zoe", "ada")] == [[3, 0], [1], [], [4]]
    assert [query.user_id for query in messages.recent_queries(thread_id="t3")] == ["ada", "bob", "eve", "bob"]
    assert len(messages.recent_queries(thread_id="t3", user_id="bob", limit=1)) == 1
    assert messages.for_user("bob").last("t3") == []
    assert len(messages.for_user("ada").last("t3")) == 8
    erased = UserData(manager, "main").erase_user("eve")
    assert erased["messages"] == 0
    assert [asked(user) for user in ("bob", "eve", "ada")] == [[3, 0], [], [4]]
    assert [query.user_id for query in messages.recent_queries(thread_id="t3")] == ["ada", "bob", None, "bob"]
    threads.delete_thread("t3")
    assert [asked(user) for user in ("bob", "eve", "zoe", "ada")] == [[], [], [], []]


def test_old_messages_are_pruned_by_number_age_and_tokens(
    messages: MessageStore, database: Database
) -> None:
    def left(thread_id: str) -> list[int | None]:
        return [message.seq for message in messages.last(thread_id, 100)]

    for thread in ("t1", "t2", "t3"):
        messages.append_many(thread, [said(number, input_tokens=10, output_tokens=1) for number in range(10)])
    assert messages.prune(thread_id="t1", keep_last=8) == 2
    assert [left("t1"), left("t2")] == [list(range(3, 11)), list(range(1, 11))]
    assert messages.prune(thread_id="t1", keep_tokens=65) == 3
    assert left("t1") == [6, 7, 8, 9, 10]
    assert messages.prune(thread_id="t1", keep_tokens=55) == 0
    for seq in (6, 7):
        set_time(database, "t1", seq, datetime.now(UTC) - 2 * HOUR)
    assert messages.prune(older_than=3600) == 2
    assert left("t1") == [8, 9, 10]
    assert messages.for_user("bob").prune(thread_id="t1", keep_last=0) == 0
    assert messages.for_user("bob").prune(keep_last=9) == 1
    assert [left("t2"), left("t3")] == [list(range(1, 11)), list(range(2, 11))]
    assert [messages.prune(keep_last=4, limit=7) for _ in range(3)] == [7, 4, 0]
    assert [left(thread) for thread in ("t1", "t2", "t3")] == [[8, 9, 10], [7, 8, 9, 10], [7, 8, 9, 10]]
    assert (messages.append("t1", said("next"))).seq == 11
    assert messages.prune(thread_id="t1", keep_last=0) == 4
    assert left("t1") == []


def test_pruning_keeps_the_summary_in_use(messages: MessageStore) -> None:
    messages.append_many("t1", [said(number) for number in range(4)])
    messages.compact("t1", said("old"), through=2)
    summary = messages.compact("t1", said("new"), through=4)
    messages.append_many("t1", [said("a"), said("b")])
    assert messages.prune(thread_id="t1", keep_last=1) == 6
    assert [message.seq for message in messages.context("t1")] == [summary.seq, 8]


def lines_of(messages: MessageStore, thread_id: str) -> list[str]:
    return [line for line in messages.export_messages(thread_id)]


def test_an_export_is_imported_as_it_was(
    manager: DatabaseManager, messages: MessageStore, database: Database
) -> None:
    content = [{"z": "\0\ud800é", "a": -0.0}, 10**30, None]
    messages.append_many("t3", [said(content, cost=0.5), said("gone"), *[said(n) for n in range(1200)]])
    messages.append("t3", said("a", "assistant", answers=1, models=["m"], latency=HOUR, sources=[1]))
    messages.replace_tail("t3", 1201, [said("tail")])
    messages.append("t3", said("a", "assistant", answers=1, metadata={"k": 1}))
    messages.compact("t3", said("S"), through=4)
    lines = lines_of(messages, "t3")
    assert [line for line in lines if "\n" in line] == []
    assert json.loads(lines[1])["content"] == content
    others = MessageStore(manager, "main", tenant="others", searchable=True)
    assert others.import_messages(f"{line}\n" for line in lines) == len(lines) - 1
    assert others.last("t3", 10_000) == messages.last("t3", 10_000)
    assert others.conversation("t3") == messages.conversation("t3")
    assert lines_of(others, "t3") == lines
    assert len(others.search("tail")) == 1
    assert [query.user_id for query in others.recent_queries()] == ["bob"]
    copied = ThreadManager(manager, "main", tenant="others").get_thread("t3")
    assert (copied.user_id, copied.title, copied.metadata) == ("bob", "T", {"a": 1})
    threads = ThreadManager(manager, "main", tenant="others")
    for id in ("older", "newer"):
        threads.create_thread(Thread(id=id, user_id="bob"))
    others.import_messages(lines[:2], thread_id="older")
    assert [thread.id for thread in threads.list_user_threads("bob")] == ["older", "newer", "t3"]
    following = others.append("t3", said("next"))
    assert following.seq == (messages.conversation("t3")).last_seq + 1
    with pytest.raises(ConflictError, match="'t3'"):
        others.import_messages(lines)
    assert others.import_messages(lines, thread_id="copy") == len(lines) - 1
    assert messages.for_user("eve").import_messages(lines[:3], thread_id="eve's") == 2
    assert (ThreadManager(manager, "main").get_thread("eve's")).user_id == "eve"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda lines: [],
        lambda lines: lines[1:],
        lambda lines: [lines[0].replace('"version":1', '"version":2'), *lines[1:]],
        lambda lines: [*lines, "not json"],
        lambda lines: [*lines, "{}"],
        lambda lines: [*lines, lines[1].replace('"seq":1', '"seq":"x"')],
        lambda lines: [*lines, lines[1].replace('"role"', '"rule"')],
        lambda lines: [*lines, lines[1].replace("+00:00", "")],
        lambda lines: [*lines, re.sub('"created_at":"[^"]*"', '"created_at":"9999-12-31T23:59:59-01:00"', lines[1])],
        lambda lines: [*lines, "[" * 100_000],
    ],
    ids=range(10),
)
def test_a_spoiled_export_is_refused_and_nothing_is_written(
    messages: MessageStore, database: Database, spoil: Callable[[list[str]], list[str]]
) -> None:
    messages.append_many("t3", [said(number) for number in range(600)])
    lines = lines_of(messages, "t3")
    before = database.fetch_all(ALL_ROWS)
    with pytest.raises(ValidationError, match="line"):
        messages.import_messages(spoil(lines), thread_id="new")
    assert database.fetch_all(ALL_ROWS) == before
    with pytest.raises(NotFoundError):
        messages.conversation("new")


def test_following_gives_each_message_once_and_in_order(messages: MessageStore) -> None:
    messages.append_many("t1", [said(number) for number in range(1, 4)])

    def follow(after: int | None) -> list[Any]:
        seen = []
        for message in messages.follow("t1", after=after, timeout=20):
            seen.append(message.content)
            if message.content == "end":
                break
        return seen

    all_of_them = Started(partial(follow, 0))
    for number in range(4, 30):
        messages.append("t1", said(number))
    messages.append_many("t1", [said(number) for number in range(30, 700)])
    messages.append("t1", said("end"))
    assert all_of_them.result() == [*range(1, 700), "end"]


def test_following_ends_after_its_timeout(messages: MessageStore) -> None:
    messages.append("t1", said("old"))
    assert [message for message in messages.follow("t1", timeout=0.02)] == []
    assert [message.content for message in messages.follow("t1", after=0, timeout=0.02)] == ["old"]
    with pytest.raises(NotFoundError):
        _ = [message for message in messages.follow("nix", timeout=0.02)]


def test_what_is_out_of_range_is_refused_before_anything_is_sent(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    wrong: Any = 7
    query = Query(question="q", answer="a", user_id="ada")
    naive = datetime(2024, 1, 1)  # noqa: DTZ001
    calls: list[Callable[[], Any]] = [
        *[partial(messages.search, text) for text in ("", "!?", "a\0", "\ud800", wrong, "x" * 10_001)],
        partial(messages.search, " ".join(f"w{number}" for number in range(33))),
        partial(messages.search, "x", user_id=""),
        partial(messages.search, "x", limit=0),
        partial(messages.search, "x", after="x"),
        partial(messages.usage, thread_id=""),
        partial(messages.usage, since=naive),
        partial(messages.usage, until=wrong),
        partial(messages.usage_by, "month"),
        partial(messages.usage_by, wrong),
        partial(messages.usage_by, "day", limit=10_001),
        partial(messages.save_query, wrong),
        partial(messages.save_query, replace(query, user_id="")),
        partial(messages.save_query, replace(query, question=float("nan"))),
        partial(messages.save_query, replace(query, metadata={"mode": 1})),
        partial(messages.save_query, replace(query, metadata=wrong)),
        partial(messages.save_query, replace(query, latency=wrong)),
        partial(messages.recent_queries, user_id=wrong),
        partial(messages.recent_queries, after=wrong),
        partial(messages.prune),
        partial(messages.prune, keep_last=-1),
        partial(messages.prune, older_than=0),
        partial(messages.prune, keep_tokens=1.5),
        partial(messages.prune, keep_last=1, limit=0),
    ]
    before = manager.stats()["main"].requests
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    assert manager.stats()["main"].requests == before


def test_a_closed_manager_is_a_clear_error(manager: DatabaseManager, messages: MessageStore) -> None:
    manager.close()
    calls: list[Callable[[], Any]] = [
        partial(messages.search, "x"),
        partial(messages.usage),
        partial(messages.usage_by, "day"),
        partial(messages.recent_queries),
        partial(messages.save_query, Query(question="q", answer="a", user_id="ada")),
        partial(messages.prune, keep_last=1),
        partial(messages.index_messages),
        partial(lines_of, messages, "t1"),
    ]
    for call in calls:
        with pytest.raises(ClosedError):
            call()

# Generated from ../_async/test_messages.py by tests/unasync.py: edit that one.
"""The contract of messages: order, what comes back, retries, versions, and what is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Callable
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
    PostgreSQLDatabase,
    SQLiteDatabase,
    ClosedError,
    ConflictError,
    DuplicateError,
    NotFoundError,
    PersistenceError,
    ValidationError,
)
from persistence._sync.compat import Parallel
from sessions import (
    MessageStore,
    SessionManager,
    ThreadManager,
    Conversation,
    Message,
    Session,
    Thread,
)

pytestmark = pytest.mark.tables("sessions")

ALL_ROWS = "SELECT * FROM holdfast_messages ORDER BY tenant_id, thread_id, seq"
ALL_THREADS = "SELECT * FROM holdfast_threads ORDER BY tenant_id, id"


@pytest.fixture
def messages(manager: DatabaseManager, database: Database) -> MessageStore:
    """Messages, beside the thread ``t1`` of ``ada`` in the session ``s1``."""
    SessionManager(manager, "main").create_session(Session(id="s1", user_id="ada"))
    ThreadManager(manager, "main").create_thread(Thread(id="t1", session_id="s1"))
    return MessageStore(manager, "main")


@pytest.fixture
def elsewhere(manager: DatabaseManager, database: Database) -> MessageStore:
    """The same messages through a second connection; a database in memory has only the one."""
    if isinstance(database, PostgreSQLDatabase):
        manager.add_postgresql("elsewhere", database.config)
    elif isinstance(database, SQLiteDatabase) and database.config.path != ":memory:":
        manager.add_sqlite("elsewhere", database.config)
    else:
        return MessageStore(manager, "main")
    return MessageStore(manager, "elsewhere")


@pytest.fixture
def parallel() -> Iterator[Parallel]:
    made = Parallel()
    yield made
    made.close()


def said(content: Any, role: str = "user") -> Message:
    return Message(role=role, content=content)


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except PersistenceError as exc:
        return exc


def contents(messages: MessageStore, thread_id: str = "t1") -> list[tuple[int | None, Any]]:
    return [(message.seq, message.content) for message in messages.list_messages(thread_id, limit=10_000)]


def expire(database: Database, session_id: str) -> None:
    changed = database.execute(
        "UPDATE holdfast_sessions SET expires_at = :moment WHERE id = :id",
        {"moment": datetime.now(UTC) - timedelta(seconds=1), "id": session_id},
    )
    assert changed == 1


FULL = Message(
    role="assistant",
    content=[{"type": "text", "text": "é"}, {"type": "image", "url": "x"}],
    metadata={"mode": "fast", "n": 1e16},
    input_tokens=12,
    output_tokens=0,
    cost=Decimal("0.000000150"),
    models=["a", "b"],
    latency=timedelta(microseconds=1234567),
    sources=[{"doc": "d1", "page": 3}, "http://x"],
    answers=1,
)


def test_a_message_comes_back_as_it_is_stored(
    messages: MessageStore, elsewhere: MessageStore, database: Database
) -> None:
    before = datetime.now(UTC) - timedelta(seconds=5)
    question = messages.append("t1", said("why?"))
    stored = messages.append("t1", FULL)
    assert stored.created_at is not None
    assert before < stored.created_at < before + timedelta(seconds=60)
    assert stored == replace(FULL, thread_id="t1", seq=2, version=2, created_at=stored.created_at)
    assert FULL.seq is None
    assert messages.last("t1") == [question, stored]
    assert elsewhere.last("t1") == [question, stored]
    assert elsewhere.get_message("t1", 2) == stored
    row = (database.fetch_all(ALL_ROWS))[1]
    raw = {"tenant_id": "default", "thread_id": "t1", "seq": 2, "version": 2, "role": "assistant", "input_tokens": 12}
    raw |= {"output_tokens": 0, "cost_nanos": 150, "latency_micros": 1234567, "question_seq": 1, "asked_by": "ada"}
    raw |= {"summary_through": None, "key": None, "words": None, "created_at": database.dialect.time(stored.created_at)}
    assert {name: row[name] for name in raw} == raw


CONTENTS: list[Any] = [
    "",
    "plain",
    "nul \0 and \x1f",
    "lone \ud800 surrogates \udfff",
    "\U0001f9f6 é ﷽",
    None,
    True,
    0,
    -(10**40),
    1.0,
    -0.0,
    1e16,
    5e-324,
    0.1 + 0.2,
    [],
    {},
    {"z": 1, "a": {"y": [None, "\0\ud83d"], "\0": 1, "": 2}, "é": 1e400 > 1},
    [[[["deep"]]]],
    {"$json": "x", "NaN": "NaN"},
    "\\u0000 \\ud800 \\\\",
]


def test_content_is_kept_to_the_last_bit(
    messages: MessageStore, elsewhere: MessageStore, database: Database
) -> None:
    messages.append_many("t1", [said(content) for content in CONTENTS])
    for content in CONTENTS:
        messages.append("t1", said(content))
    messages.replace_tail("t1", 999, [said(content) for content in CONTENTS])
    found = [message.content for message in elsewhere.last("t1", 1000)]
    assert [repr(content) for content in found] == [repr(content) for content in CONTENTS * 3]
    texts = database.fetch_all("SELECT CAST(content AS text) AS text FROM holdfast_messages ORDER BY seq")
    assert [repr(json.loads(row["text"])) for row in texts] == [repr(content) for content in CONTENTS * 3]


def test_a_megabyte_of_content_is_kept(messages: MessageStore, elsewhere: MessageStore) -> None:
    content = {"output": "\0é\ud800" * 300_000}
    messages.append("t1", said(content))
    assert (elsewhere.last("t1"))[0].content == content


def test_many_are_appended_at_once_and_in_order(
    messages: MessageStore, elsewhere: MessageStore
) -> None:
    first = messages.append("t1", said(0))
    stored = messages.append_many("t1", [said(1), FULL, said(3, "tool")])
    assert [(message.seq, message.version) for message in stored] == [(2, 2), (3, 2), (4, 2)]
    assert elsewhere.last("t1") == [first, *stored]
    assert (messages.append("t1", said(4))).version == 3
    assert len(messages.append_many("t1", [said(number) for number in range(10_000)])) == 10_000
    assert (elsewhere.conversation("t1")).last_seq == 10_005


def test_pages_lead_both_ways(messages: MessageStore) -> None:
    stored = messages.append_many("t1", [said(number) for number in range(1, 26)])
    forward, after = [], 0
    while page := messages.list_messages("t1", after=after, limit=7):
        forward += page
        after = page[-1].seq or 0
    assert forward == stored
    backward, before = [], 26
    while page := messages.list_messages("t1", before=before, limit=7):
        backward = page + backward
        before = page[0].seq or 0
    assert backward == stored
    assert messages.last("t1", 3) == stored[-3:]
    assert messages.list_messages("t1", limit=2) == stored[:2]
    assert messages.list_messages("t1", after=25) == []


def test_a_retry_with_its_key_changes_nothing(messages: MessageStore, elsewhere: MessageStore) -> None:
    one = messages.append("t1", said("a"), key="k1")
    many = messages.append_many("t1", [said("b"), said("c")], key="k2")
    messages.append("t1", said("d"))
    for store in (messages, elsewhere):
        assert store.append("t1", said("a"), key="k1") == one
        assert store.append_many("t1", [said("b"), said("c")], key="k2") == many
    # A lost answer: the version that was expected has moved, by the very append that is repeated.
    assert messages.append("t1", said("a"), key="k1", expected_version=0) == one
    assert contents(elsewhere) == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert (elsewhere.conversation("t1")).version == 3


def test_a_key_goes_with_its_message(messages: MessageStore, elsewhere: MessageStore) -> None:
    removals: list[Callable[[], Any]] = [
        lambda: messages.pop_last("t1"),
        lambda: messages.replace_tail("t1", 2, []),
        lambda: messages.prune(thread_id="t1", keep_last=0),
    ]
    messages.append("t1", said("a"), key="first")
    for seq, remove in enumerate(removals, 2):
        assert (messages.append("t1", said("b"), key="k")).seq == seq
        remove()
        assert "b" not in [content for _, content in contents(elsewhere)]
    again = messages.append("t1", said("b"), key="k")
    assert again == messages.append("t1", said("b"), key="k")
    assert contents(elsewhere) == [(5, "b")]


def test_a_key_belongs_to_its_thread(manager: DatabaseManager, messages: MessageStore) -> None:
    ThreadManager(manager, "main").create_thread(Thread(id="t2", user_id="ada"))
    messages.append("t1", said("a"), key="k")
    messages.append("t2", said("b"), key="k")
    assert [contents(messages, "t1"), contents(messages, "t2")] == [[(1, "a")], [(1, "b")]]


def test_of_equal_keys_at_the_same_time_one_is_stored(messages: MessageStore, parallel: Parallel) -> None:
    keys = [f"k{number % 4}" for number in range(24)]
    calls = [partial(messages.append, "t1", said(key), key=key) for key in keys]
    stored = parallel.run([partial(outcome, call) for call in calls])
    assert sorted(content for _, content in contents(messages)) == ["k0", "k1", "k2", "k3"]
    assert {(key, message.seq) for key, message in zip(keys, stored, strict=True)} == {
        (content, seq) for seq, content in contents(messages)
    }


def test_an_expected_version_is_checked(messages: MessageStore, elsewhere: MessageStore) -> None:
    first = messages.append("t1", said("a"), expected_version=0)
    elsewhere.append("t1", said("b"), expected_version=first.version)
    calls: list[Callable[[], Any]] = [
        lambda: messages.append("t1", said("c"), expected_version=first.version),
        lambda: messages.append_many("t1", [said("c")], expected_version=first.version),
        lambda: messages.compact("t1", said("c"), through=1, expected_version=first.version),
        lambda: messages.pop_last("t1", expected_version=first.version),
        lambda: messages.replace_tail("t1", 1, [said("c")], expected_version=first.version),
        lambda: messages.replace_tail("t1", 1, [], expected_version=first.version),
    ]
    for call in calls:
        with pytest.raises(ConflictError, match="'t1' have version 2, not 1") as caught:
            call()
        assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert contents(elsewhere) == [(1, "a"), (2, "b")]


def test_of_concurrent_appends_to_one_version_one_wins(messages: MessageStore, parallel: Parallel) -> None:
    calls = [partial(messages.append, "t1", said(number), expected_version=0) for number in range(16)]
    results = parallel.run([partial(outcome, call) for call in calls])
    assert sorted(type(result).__name__ for result in results) == ["ConflictError"] * 15 + ["Message"]
    assert len(contents(messages)) == 1


def test_a_message_changes_neither_the_version_nor_the_title_of_its_thread(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    threads = ThreadManager(manager, "main")
    read = threads.get_thread("t1")
    stored = messages.append("t1", said("a"))
    seen = threads.get_thread("t1")
    assert seen == replace(read, updated_at=stored.created_at)
    assert (threads.update_thread(replace(read, title="T"))).version == 2
    assert (messages.append("t1", said("b"), expected_version=1)).version == 2


def test_a_message_puts_its_thread_first(manager: DatabaseManager, messages: MessageStore) -> None:
    threads = ThreadManager(manager, "main")
    for name in ("t2", "t3"):
        threads.create_thread(Thread(id=name, session_id="s1"))
    messages.append("t1", said("a"))
    assert [thread.id for thread in threads.list_session_threads("s1")] == ["t1", "t3", "t2"]


def test_the_last_message_is_taken_back(messages: MessageStore, elsewhere: MessageStore) -> None:
    assert messages.pop_last("t1") is None
    stored = messages.append_many("t1", [said("a"), said("b"), FULL])
    assert messages.pop_last("t1") == stored[2]
    assert messages.pop_last("t1", expected_version=2) == stored[1]
    assert contents(elsewhere) == [(1, "a")]
    assert (messages.append("t1", said("c"))).seq == 4  # a number is never used twice
    assert contents(elsewhere) == [(1, "a"), (4, "c")]
    assert (elsewhere.conversation("t1")).version == 4


def test_of_concurrent_takers_each_gets_another_message(messages: MessageStore, parallel: Parallel) -> None:
    messages.append_many("t1", [said(number) for number in range(8)])
    taken = parallel.run([partial(messages.pop_last, "t1") for _ in range(10)])
    assert sorted(message.content for message in taken if message is not None) == list(range(8))
    assert taken.count(None) == 2


def test_a_tail_is_replaced(messages: MessageStore, elsewhere: MessageStore) -> None:
    messages.append_many("t1", [said("q1"), said("a1"), said("q2"), said("a2")])
    stored = messages.replace_tail("t1", 3, [said("q2, edited"), FULL], expected_version=1)
    assert [(message.seq, message.version) for message in stored] == [(5, 2), (6, 2)]
    assert (elsewhere.last("t1"))[2:] == stored
    assert contents(elsewhere) == [(1, "q1"), (2, "a1"), (5, "q2, edited"), (6, FULL.content)]
    assert messages.replace_tail("t1", 2, []) == []
    assert contents(elsewhere) == [(1, "q1")]
    assert messages.conversation("t1") == Conversation(
        thread_id="t1", version=3, last_seq=6, window_seq=0, summary_seq=None, parent_id=None, parent_seq=None
    )


def test_a_tail_that_grows_while_it_is_replaced_leaves_nothing_behind(
    messages: MessageStore, parallel: Parallel
) -> None:
    messages.append("t1", said("first"))
    calls: list[Callable[[], Any]] = []
    for number in range(6):
        calls.append(partial(messages.append, "t1", said("old")))
        calls.append(partial(messages.replace_tail, "t1", 2, [said(f"new {number}")]))
    parallel.run([partial(outcome, call) for call in calls])
    found = [content for _, content in contents(messages)]
    assert found[0] == "first"
    assert [content for content in found[1:] if str(content).startswith("new")] == found[1:2]
    assert set(found[2:]) <= {"old"}


def test_a_summary_moves_the_context_and_deletes_nothing(
    messages: MessageStore, elsewhere: MessageStore
) -> None:
    stored = messages.append_many("t1", [said(number) for number in range(1, 11)])
    assert messages.context("t1") == stored
    first = messages.compact("t1", said("1 to 6", "system"), through=6)
    assert (first.seq, first.summary_through) == (11, 6)
    assert elsewhere.context("t1") == [first, *stored[6:]]
    later = messages.append("t1", said(12))
    second = messages.compact("t1", said("1 to 9", "system"), through=9, expected_version=3)
    assert elsewhere.context("t1") == [second, stored[9], later]
    assert elsewhere.context("t1", limit=1) == [second, later]
    assert elsewhere.last("t1", 100) == [*stored, first, later, second]
    state = elsewhere.conversation("t1")
    assert (state.window_seq, state.summary_seq) == (9, 13)
    for through in (8, 14):
        with pytest.raises(ValidationError, match=f"through {through} is not within 9 and 13"):
            messages.compact("t1", said("x"), through=through)


def test_taking_back_what_a_summary_covers_takes_the_summary_too(messages: MessageStore) -> None:
    stored = messages.append_many("t1", [said(number) for number in range(1, 7)])
    first = messages.compact("t1", said("1 to 3"), through=3)
    messages.compact("t1", said("all"), through=6)
    assert messages.pop_last("t1") == stored[5]
    assert messages.context("t1") == [first, *stored[3:5]]
    messages.replace_tail("t1", 5, [])
    assert messages.context("t1") == [first, stored[3]]
    new = messages.replace_tail("t1", 2, [said("new")])
    assert messages.context("t1") == [stored[0], *new]
    state = messages.conversation("t1")
    assert (state.window_seq, state.summary_seq) == (0, None)


def test_a_fork_copies_the_beginning_and_goes_its_own_way(
    manager: DatabaseManager, messages: MessageStore, elsewhere: MessageStore
) -> None:
    stored = messages.append_many("t1", [said("a"), FULL, said("c")], key="k")
    summary = messages.compact("t1", said("S"), through=2)
    fork = messages.fork("t1", at=2, new_thread_id="t2", title="Other")
    assert (fork.id, fork.session_id, fork.user_id, fork.title, fork.version) == ("t2", "s1", "ada", "Other", 1)
    assert ThreadManager(manager, "main").get_thread("t2") == fork
    assert elsewhere.last("t2") == [replace(message, thread_id="t2") for message in stored[:2]]
    state = elsewhere.conversation("t2")
    assert (state.last_seq, state.window_seq, state.parent_id, state.parent_seq) == (2, 0, "t1", 2)
    assert (messages.append("t2", said("there"), key="k")).seq == 3
    messages.append("t1", said("here"))
    assert [content for _, content in contents(elsewhere, "t2")] == ["a", FULL.content, "there"]
    assert [content for _, content in contents(elsewhere, "t1")] == ["a", FULL.content, "c", "S", "here"]
    whole = messages.fork("t1")
    assert whole.title is None
    assert [message.seq for message in messages.context(whole.id)] == [summary.seq, 3, 5]
    assert ThreadManager(manager, "main").delete_thread("t1") is True
    assert [content for _, content in contents(elsewhere, "t2")] == ["a", FULL.content, "there"]
    with pytest.raises(DuplicateError, match="'t2'"):
        messages.fork(whole.id, new_thread_id="t2")
    with pytest.raises(NotFoundError, match="'t1'"):
        messages.fork("t1")


CHANGES: list[tuple[str, Callable[[MessageStore, str], Any]]] = [
    ("append", lambda messages, thread: messages.append(thread, said("new"))),
    ("append with a key", lambda messages, thread: messages.append(thread, said("new"), key="k")),
    ("append a version", lambda messages, thread: messages.append(thread, said("new"), expected_version=1)),
    ("append many", lambda messages, thread: messages.append_many(thread, [said("new"), said("newer")])),
    ("pop", lambda messages, thread: messages.pop_last(thread)),
    ("replace", lambda messages, thread: messages.replace_tail(thread, 1, [said("new")])),
    ("cut", lambda messages, thread: messages.replace_tail(thread, 1, [])),
    ("compact", lambda messages, thread: messages.compact(thread, said("new"), through=1)),
    ("fork", lambda messages, thread: messages.fork(thread)),
]
READS: list[tuple[str, Callable[[MessageStore, str], Any]]] = [
    ("last", lambda messages, thread: messages.last(thread)),
    ("list", lambda messages, thread: messages.list_messages(thread)),
    ("context", lambda messages, thread: messages.context(thread)),
]


@pytest.mark.parametrize("change", [change for _, change in CHANGES], ids=[name for name, _ in CHANGES])
def test_a_change_joins_the_transaction_it_is_called_in(
    manager: DatabaseManager,
    messages: MessageStore,
    elsewhere: MessageStore,
    database: Database,
    change: Callable[[MessageStore, str], Any],
) -> None:
    other = manager.get_database(elsewhere._name)
    messages.append("t1", said("old"))

    def stored(where: Database) -> list[Any]:
        return [where.fetch_all(ALL_ROWS), where.fetch_all(ALL_THREADS)]

    before = stored(other)
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            change(messages, "t1")
            changed = stored(database)
            if other is not database:
                assert stored(other) == before
            _ = 1 / 0
    assert changed != before
    assert stored(other) == before

    with database.transaction():
        change(messages, "t1")
        changed = stored(database)
    assert stored(other) == changed != before


def test_a_refusal_does_not_fail_the_transaction_it_is_in(
    messages: MessageStore, elsewhere: MessageStore, database: Database
) -> None:
    messages.append("t1", said("a"), key="k")
    with database.transaction():
        for call in (
            partial(messages.append, "nix", said("x")),
            partial(messages.append, "t1", said("x"), expected_version=7),
            partial(messages.pop_last, "t1", expected_version=7),
            partial(messages.fork, "t1", new_thread_id="t1"),
        ):
            assert isinstance(outcome(call), PersistenceError)
        assert (messages.append("t1", said("a"), key="k")).seq == 1
        messages.append("t1", said("b"))
    assert contents(elsewhere) == [(1, "a"), (2, "b")]


def test_a_thread_that_expired_or_is_anothers_cannot_be_told_from_one_that_never_was(
    messages: MessageStore, database: Database
) -> None:
    messages.append("t1", said("secret"))
    before = database.fetch_all(ALL_ROWS)
    texts: dict[str, set[str]] = {name: set() for name, _ in CHANGES}
    for store, thread in ((messages, "nix"), (messages.for_user("eve"), "t1"), (messages, "t1")):
        if store is messages and thread == "t1":
            expire(database, "s1")
        for name, change in CHANGES:
            with pytest.raises(NotFoundError) as caught:
                change(store, thread)
            texts[name].add(str(caught.value).replace("nix", "t1"))
        for _, read in READS:
            assert read(store, thread) == []
        with pytest.raises(NotFoundError):
            store.conversation(thread)
        with pytest.raises(NotFoundError):
            store.get_message(thread, 1)
    assert [name for name, told in texts.items() if len(told) != 1] == []
    assert database.fetch_all(ALL_ROWS) == before


def test_a_bound_store_creates_the_threads_that_it_appends_to(
    manager: DatabaseManager, messages: MessageStore, parallel: Parallel
) -> None:
    bob = messages.for_user("bob")
    parallel.run([partial(bob.append, "new", said(number)) for number in range(8)])
    assert [seq for seq, _ in contents(bob, "new")] == list(range(1, 9))
    assert sorted(content for _, content in contents(messages, "new")) == list(range(8))
    threads = ThreadManager(manager, "main")
    assert [(thread.id, thread.session_id) for thread in threads.list_user_threads("bob")] == [("new", None)]
    assert (bob.append_many("newer", [said("a")], key="k", expected_version=0))[0].seq == 1
    with pytest.raises(NotFoundError):
        bob.append("newest", said("a"), expected_version=3)
    with pytest.raises(NotFoundError, match="'nobody'"):
        messages.append("nobody", said("a"))


def test_the_id_of_a_thread_of_an_expired_session_can_be_used_again(
    messages: MessageStore, database: Database
) -> None:
    messages.append("t1", said("old"))
    expire(database, "s1")
    assert (messages.for_user("bob").append("t1", said("new"))).seq == 1
    assert contents(messages) == [(1, "new")]
    assert contents(messages.for_user("ada")) == []


def test_tenants_with_equal_ids_never_meet(manager: DatabaseManager, messages: MessageStore) -> None:
    ours = messages.append("t1", said("ours"), key="k")
    others = MessageStore(manager, "main", tenant="others")
    assert others.last("t1") == []
    with pytest.raises(NotFoundError):
        others.append("t1", said("theirs"))
    ThreadManager(manager, "main", tenant="others").create_thread(Thread(id="t1", user_id="ada"))
    assert (others.append("t1", said("theirs"), key="k")).seq == 1
    others.replace_tail("t1", 1, [])
    assert messages.last("t1") == [ours]


def test_messages_go_with_their_thread_and_their_session(
    manager: DatabaseManager, messages: MessageStore, database: Database
) -> None:
    threads = ThreadManager(manager, "main")
    for name in ("t2", "t3"):
        threads.create_thread(Thread(id=name, session_id="s1" if name == "t2" else None, user_id="ada"))
    for name in ("t1", "t2", "t3"):
        messages.append(name, said(name))
    assert threads.delete_thread("t2") is True
    assert {row["thread_id"] for row in database.fetch_all(ALL_ROWS)} == {"t1", "t3"}
    assert SessionManager(manager, "main").delete_session("s1") is True
    assert {row["thread_id"] for row in database.fetch_all(ALL_ROWS)} == {"t3"}


def test_each_call_is_one_statement(
    manager: DatabaseManager, messages: MessageStore, database: Database
) -> None:
    messages.append_many("t1", [said("a"), said("b"), said("c")])
    calls: list[Callable[[], Any]] = [
        lambda: messages.append("t1", said("d"), key="k", expected_version=1),
        lambda: messages.append_many("t1", [said("e"), said("f")]),
        lambda: messages.last("t1"),
        lambda: messages.list_messages("t1", after=2),
        lambda: messages.context("t1"),
        lambda: messages.conversation("t1"),
        lambda: messages.compact("t1", said("s"), through=2),
    ]
    if isinstance(database, PostgreSQLDatabase):
        calls += [
            lambda: messages.pop_last("t1"),
            lambda: messages.replace_tail("t1", 3, [said("g"), said("h")]),
            lambda: messages.replace_tail("t1", 3, []),
            lambda: messages.fork("t1"),
        ]
    for call in calls:
        before = manager.stats()["main"].requests
        call()
        assert manager.stats()["main"].requests - before == 1


def test_a_closed_manager_is_a_clear_error(manager: DatabaseManager, messages: MessageStore) -> None:
    messages.append("t1", said("a"))
    manager.close()
    for _, call in CHANGES + READS:
        with pytest.raises(ClosedError):
            call(messages, "t1")


def test_any_text_is_an_id_a_key_and_a_user(messages: MessageStore) -> None:
    for text in ("'; DROP TABLE holdfast_messages; --", "%", "a:b", ":id", "\U0001f9f6" * 256):
        check_any_text(messages, text)


def check_any_text(messages: MessageStore, text: str) -> None:
    bound = messages.for_user(text)
    stored = bound.append(text, said(text), key=text)
    assert bound.append(text, said(text), key=text) == stored
    assert messages.last(text) == [stored]
    assert messages.for_user("ada").last(text) == []
    assert bound.pop_last(text) == stored


LOOP: list[Any] = []
LOOP.append(LOOP)
BAD_CONTENT: list[Any] = [
    float("nan"),
    [float("inf")],
    {1: "a"},
    {"a": (1, 2)},
    {"a": {1}},
    b"x",
    object(),
    10**5000,
    LOOP,
    datetime(2024, 1, 1, tzinfo=UTC),
    "\ud83d\ude00",
]


def test_what_cannot_be_stored_is_refused_before_anything_is_sent(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    wrong: Any
    bad: list[Any] = [said(content) for content in BAD_CONTENT]
    for role in ("", "a\0b", "\ud800", "x" * 101, 7, None):
        bad.append(Message(role=role, content="x"))  # type: ignore[arg-type]
    for wrong in (
        {"metadata": {"a": "\0"}},
        {"metadata": None},
        {"input_tokens": -1},
        {"output_tokens": 1.5},
        {"input_tokens": True},
        {"cost": -1},
        {"cost": float("nan")},
        {"cost": Decimal("Infinity")},
        {"cost": "1"},
        {"models": "gpt"},
        {"models": [""]},
        {"latency": 1.5},
        {"latency": timedelta(-1)},
        {"sources": {"a": 1}},
        {"sources": [float("nan")]},
        {"answers": 0},
    ):
        bad.append(Message(role="user", content="x", **wrong))
    bad += [None, "text", {"role": "user", "content": "x"}]
    before = manager.stats()["main"].requests
    for message in bad:
        for call in (
            partial(messages.append, "t1", message),
            partial(messages.append_many, "t1", [said("x"), message]),
            partial(messages.replace_tail, "t1", 1, [message]),
            partial(messages.compact, "t1", message, through=1),
        ):
            with pytest.raises(ValidationError):
                call()
    assert manager.stats()["main"].requests == before


def test_what_is_no_id_is_refused_before_anything_is_sent(
    manager: DatabaseManager, messages: MessageStore
) -> None:
    for text in ("", "a\0b", "\ud800", "x" * 1025, 7, b"x"):
        check_no_id(manager, messages, text)


def check_no_id(manager: DatabaseManager, messages: MessageStore, text: Any) -> None:
    calls: list[Callable[[], Any]] = [partial(call, messages, text) for _, call in CHANGES + READS]
    calls += [
        partial(messages.append, "t1", said("x"), key=text),
        partial(messages.append, "t1", said("x"), expected_version=-1),
        partial(messages.append_many, "t1", []),
        partial(messages.append_many, "t1", [said("x")] * 10_001),
        partial(messages.append_many, "t1", text),
        partial(messages.replace_tail, "t1", 0, []),
        partial(messages.replace_tail, "t1", 1, text),
        partial(messages.compact, "t1", said("x"), through=0),
        partial(messages.fork, "t1", new_thread_id=text),
        partial(messages.fork, "t1", at=0),
        partial(messages.last, "t1", 0),
        partial(messages.last, "t1", 10_001),
        partial(messages.list_messages, "t1", after=1, before=3),
        partial(messages.list_messages, "t1", after=-1),
        partial(messages.list_messages, "t1", before="3"),
        partial(messages.get_message, "t1", str(text)),
        partial(messages.get_message, "t1", 0),
        partial(messages.conversation, text),
    ]
    before = manager.stats()["main"].requests
    for call in calls:
        with pytest.raises(ValidationError):
            call()
    with pytest.raises(ValidationError):
        messages.for_user(text)
    assert manager.stats()["main"].requests == before


def test_content_that_is_nested_too_deeply_is_refused(messages: MessageStore) -> None:
    content: Any = "x"
    for _ in range(200):
        content = [content]
    messages.append("t1", said(content))
    assert (messages.last("t1"))[0].content == content
    with pytest.raises(ValidationError, match="deeper than 200"):
        messages.append("t1", said([content]))


def test_order_holds_when_the_clock_goes_back(messages: MessageStore, database: Database) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=1)
    database.execute("UPDATE holdfast_threads SET updated_at = :moment", {"moment": ahead})
    stored = [messages.append("t1", said(number)) for number in range(3)]
    assert [message.created_at for message in stored] == [ahead] * 3
    assert messages.last("t1") == stored

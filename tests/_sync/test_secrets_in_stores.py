# Generated from ../_async/test_secrets_in_stores.py by tests/unasync.py: edit that one.
"""The option ``secrets`` of stores: what was a secret is in no table, and comes back through the vault alone."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest

from checkpoint import (
    Checkpointer,
    DatabaseCheckpointer,
    FileCheckpointer,
    MemoryCheckpointer,
    Checkpoint,
)
from persistence import (
    Database,
    DatabaseManager,
    RedisConnection,
    SecretVault,
    Cipher,
    CorruptError,
    PersistenceError,
    ValidationError,
)
from persistence._sync.guards import SecretsOption
from sessions import (
    ContextStore,
    EventLog,
    MemoryContextStore,
    MemoryGraph,
    UserData,
    Edge,
    Event,
    Node,
)

pytestmark = pytest.mark.tables("checkpoint", "sessions")

CANARY = "Canary-4711-Nobody"
TEXT = f"log in with password={CANARY} now"
REDACTED = "log in with password=[REDACTED password] now"
VALUE = {"note": TEXT, "password": CANARY, "list": [CANARY[:3], f"postgresql://u:{CANARY}@h/d"], "n": 1}
GONE = {
    "note": REDACTED,
    "password": "[REDACTED password]",
    "list": [CANARY[:3], "postgresql://u:[REDACTED connection-password]@h/d"],
    "n": 1,
}
CIPHER = Cipher({"k": bytes(range(32))}, "k")

Written = tuple[Any, str]
"""What a store gives back of VALUE, and the vault's context."""


def in_graph(manager: DatabaseManager, secrets: SecretsOption) -> list[Written]:
    graph = MemoryGraph(manager, "main", secrets=secrets)
    added = graph.add_node(Node("a", "T", dict(VALUE)))
    found = graph.get_node("a")
    assert found is not None
    assert found.attributes == added.attributes
    graph.add_nodes([Node("b", "T"), Node("c", "T", dict(VALUE))])
    patched = graph.patch("b", dict(VALUE))
    edge = graph.add_edge(Edge("a", "r", "b", attributes=dict(VALUE)))
    edges = graph.add_edges([Edge("b", "r", "c", attributes=dict(VALUE))])
    config = graph.in_scope("LOCAL").set_config("password", CANARY)
    lines = [line.replace("[REDACTED password]", CANARY) for line in graph.export_graph()]
    graph.import_graph(lines)
    [third] = graph.get_nodes(["c"])
    values = [found.attributes, third.attributes, patched.attributes, edge.attributes, edges[0].attributes]
    values.append({**values[0], "password": config.value})
    patched_config = graph.patch("config/password", {"value": CANARY})
    values.append({**values[0], "password": patched_config.attributes["value"]})
    found_by_words = sorted(each.node.id for each in graph.search("Nobody 4711"))
    assert found_by_words == ([] if secrets else ["a", "b", "c", "config/password"])
    return [(value, "graph/LOCAL") for value in values]


def in_events(manager: DatabaseManager, secrets: SecretsOption) -> list[Written]:
    log = EventLog(manager, "main", secrets=secrets)
    given = Event(kind="k", message=TEXT, tags=dict(VALUE))
    stored = log.append(given)
    assert given.message == TEXT
    log.append_many([Event(kind="k", message=TEXT, tags=dict(VALUE)) for _ in range(2)])
    log.audit("login", TEXT, tags=dict(VALUE))
    with log.writer() as writer:
        writer.add(Event(kind="k", message=TEXT, tags=dict(VALUE)))
    found = log.query()
    assert len(found) == 5
    assert (stored.message, stored.tags) in [(event.message, event.tags) for event in found]
    assert log.verify()
    return [({**event.tags, "note": event.message}, "events") for event in found]


def in_context(manager: DatabaseManager, secrets: SecretsOption) -> list[Written]:
    written: list[Written] = []
    store = ContextStore(manager, "main", secrets=secrets)
    for place, context in [(store, "context"), (store.for_user("ada"), "context/ada")]:
        item = place.push("k", dict(VALUE))
        assert place.get("k") == item.value
        named = place.push("password", CANARY)
        written += [(item.value, context), ({**item.value, "password": named.value}, context)]
        lines = [line.replace("[REDACTED password]", CANARY) for line in place.export()]
        place.import_(lines)
        written.append((place.get("k"), context))
    return written


def in_checkpoints(manager: DatabaseManager, secrets: SecretsOption) -> list[Written]:
    checkpointer = DatabaseCheckpointer(manager, "main", secrets=secrets)
    state = {"v": dict(VALUE), "pair": (TEXT, b"bytes", {1: 2})}
    saved = checkpointer.save_checkpoint(Checkpoint("t", state, key="k1"))
    again = checkpointer.save_checkpoint(Checkpoint("t", saved.state))
    assert again.state == saved.state
    checkpointer.put_writes("t", "k1", "task", [("v", dict(VALUE)), ("password", CANARY)])
    found = checkpointer.load_checkpoint("t", key="k1", writes=True)
    assert found.state["v"] == saved.state["v"]
    assert found.state["pair"][1:] == (b"bytes", {1: 2})
    checkpointer.fork("t", 1, "fork")
    fork = checkpointer.save_checkpoint(
        Checkpoint("fork", (checkpointer.load_checkpoint("fork")).state), durability="exit"
    )
    checkpointer.flush()
    assert fork.thread_id == "fork"
    forked = checkpointer.load_checkpoint("fork")
    values = [found.state["v"], forked.state["v"], found.writes[0].value]
    values += [{**values[0], "note": found.state["pair"][0]}, {**values[0], "password": found.writes[1].value}]
    return [(value, "checkpoints") for value in values]


Store = Callable[[DatabaseManager, SecretsOption], list[Written]]
STORES = pytest.mark.parametrize("store", [in_graph, in_events, in_context, in_checkpoints])


def everything(database: Database) -> str:
    """Return every column of every table of ours, bytes as text too."""
    if database.kind == "postgresql":
        names = "SELECT relname AS n FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE 'holdfast%'"
    else:
        names = "SELECT name AS n FROM sqlite_master WHERE type = 'table' AND name LIKE 'holdfast%'"
    found = []
    for name in database.fetch_all(names):
        for row in database.fetch_all(f"SELECT * FROM {name['n']}"):
            for value in row.values():
                found.append(
                    bytes(value).decode("latin-1") if isinstance(value, bytes | memoryview | bytearray) else repr(value)
                )
    return "\n".join(found)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says, at every level."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield text
    root.removeHandler(handler)
    root.setLevel(level)


@STORES
def test_a_vault_keeps_the_secrets_of_a_store_and_gives_them_back(
    manager: DatabaseManager, database: Database, store: Store
) -> None:
    vault = SecretVault(manager, "main", CIPHER)
    for value, context in store(manager, vault):
        assert CANARY not in repr(value)
        assert "{SECRET:" in repr(value)
        assert vault.restore(value, context=context, actor="test") == VALUE
    assert CANARY not in everything(database)
    assert {entry.outcome for entry in vault.accesses()} == {"revealed"}


def test_the_secrets_of_a_users_context_are_erased_with_the_user(
    manager: DatabaseManager, database: Database
) -> None:
    vault = SecretVault(manager, "main", CIPHER)
    context = ContextStore(manager, "main", secrets=vault)
    for user in ("ada", "bob"):
        context.for_user(user).push("login", VALUE)
    context.push("shared", VALUE)
    kept = [len(vault.list_secrets(each)) for each in ("context/ada", "context/bob", "context")]
    assert kept[0] == kept[1] == kept[2] > 0
    users = UserData(manager, "main", secrets=vault)
    lines = [line for line in users.export_user("ada")]
    assert len(lines) == 1
    assert CANARY not in lines[0]
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            users.erase_user("ada")
            raise ZeroDivisionError
    assert len(vault.list_secrets("context/ada")) == kept[0]
    report = users.erase_user("ada")
    assert (report["secrets"], report["items"]) == (kept[0], 1)
    assert [len(vault.list_secrets(each)) for each in ("context/ada", "context/bob", "context")] == [0, *kept[1:]]
    assert (users.erase_user("ada"))["secrets"] == 0


@STORES
def test_redacted_secrets_are_gone(manager: DatabaseManager, database: Database, store: Store) -> None:
    for value, _ in store(manager, "redact"):
        assert value == GONE
    assert CANARY not in everything(database)


@STORES
def test_without_the_option_everything_is_stored_as_it_was_given(
    manager: DatabaseManager, database: Database, store: Store
) -> None:
    for value, _ in store(manager, None):
        assert value == VALUE
    if store is not in_checkpoints:  # which packs states
        assert CANARY in everything(database)


@STORES
def test_a_secret_that_is_refused_is_written_nowhere_and_said_nowhere(
    manager: DatabaseManager, database: Database, store: Store, log: io.StringIO
) -> None:
    with pytest.raises(ValidationError, match=r"holds a secret \(password\)") as refused:
        store(manager, "refuse")
    assert CANARY not in f"{refused.value}{refused.value!r}{vars(refused.value)}{log.getvalue()}"
    assert CANARY not in everything(database)


def test_what_holds_no_secret_is_stored_whatever_the_option(
    manager: DatabaseManager, database: Database
) -> None:
    plain = {"note": "nothing of note", "n": [1, {"a": None}]}
    options: list[SecretsOption] = ["redact", "refuse", SecretVault(manager, "main", CIPHER)]
    for option in options:
        graph = MemoryGraph(manager, "main", secrets=option)
        assert (graph.add_node(Node("a", "T", plain), replace=True)).attributes == plain
        assert (graph.patch("a", {"x": 1})).attributes == {**plain, "x": 1}
        assert (ContextStore(manager, "main", secrets=option).push("k", plain)).value == plain
        event = EventLog(manager, "main", secrets=option).append(Event(kind="k", message="m", tags=plain))
        assert event.tags == plain
        checkpointer = DatabaseCheckpointer(manager, "main", secrets=option)
        assert (checkpointer.save_checkpoint(Checkpoint("t", plain))).state is plain


def test_an_unknown_option_is_refused(manager: DatabaseManager, database: Database) -> None:
    for option in ("hide", True, 7, CIPHER):
        for make in (MemoryGraph, EventLog, ContextStore, DatabaseCheckpointer):
            with pytest.raises(ValidationError, match="secrets is no vault"):
                make(manager, "main", secrets=option)  # type: ignore[arg-type, operator]


def test_what_is_invalid_leaves_nothing_in_the_vault(
    manager: DatabaseManager, database: Database
) -> None:
    vault = SecretVault(manager, "main", CIPHER)
    graph = MemoryGraph(manager, "main", secrets=vault)
    log = EventLog(manager, "main", secrets=vault)
    calls: list[Callable[[], Any]] = [
        lambda: graph.add_node(Node("", "T", {"password": CANARY})),
        lambda: graph.add_nodes([Node("a", "T", {"password": CANARY}), Node("b", "T", {"x": float("nan")})]),
        lambda: graph.patch("a", {"password": CANARY, "x": (1,)}),
        lambda: log.append(Event(kind="", message=TEXT)),
        lambda: log.append_many([Event(kind="k", message=TEXT), Event(kind="k", tags={"x": {1}})]),
        lambda: ContextStore(manager, "main", secrets=vault).push("k", {"password": CANARY, "x": {1}}),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as failed:
            call()
        assert CANARY not in str(failed.value)
    assert vault.keys_in_use() == {}


@pytest.fixture
def cache(manager: DatabaseManager, request: pytest.FixtureRequest) -> Iterator[RedisConnection]:
    yield manager.add_redis("cache", request.getfixturevalue("redis_config"))


def test_on_redis_contexts_and_checkpoints_are_guarded_alike(
    manager: DatabaseManager, cache: RedisConnection
) -> None:
    store = ContextStore(manager, "cache", secrets="redact")
    assert (store.push("k", VALUE)).value == GONE
    checkpointer = DatabaseCheckpointer(manager, "cache", secrets="redact")
    checkpointer.save_checkpoint(Checkpoint("t", {"v": VALUE}, key="k"))
    checkpointer.put_writes("t", "k", "task", [("password", CANARY)])
    found = checkpointer.load_checkpoint("t", writes=True)
    assert found.state == {"v": GONE}
    assert found.writes[0].value == "[REDACTED password]"
    with pytest.raises(ValidationError, match="holds a secret"):
        DatabaseCheckpointer(manager, "cache", secrets="refuse").save_checkpoint(Checkpoint("t", VALUE))
    assert (MemoryCheckpointer().save_checkpoint(Checkpoint("t", VALUE))).state == VALUE


def test_stores_that_need_no_manager_are_guarded_alike(manager: DatabaseManager, tmp_path: Path) -> None:
    manager.add_sqlite("vault", "sqlite://")
    vault = SecretVault(manager, "vault", CIPHER)
    file = tmp_path / "checkpoints.db"
    makers: list[Callable[[SecretsOption], Checkpointer]] = [
        lambda option: FileCheckpointer(file, secrets=option),
        lambda option: MemoryCheckpointer(secrets=option),
    ]
    for make in makers:
        with make(vault) as checkpointer:
            checkpointer.save_checkpoint(Checkpoint("t", {"v": VALUE}, key="k"))
            checkpointer.put_writes("t", "k", "task", [("password", CANARY)])
            found = checkpointer.load_checkpoint("t", writes=True)
            for value in (found.state["v"], {**found.state["v"], "password": found.writes[0].value}):
                assert CANARY not in repr(value)
                assert vault.restore(value, context="checkpoints", actor="test") == VALUE
        with make("refuse") as checkpointer:
            with pytest.raises(ValidationError, match=r"holds a secret \(password\)"):
                checkpointer.save_checkpoint(Checkpoint("t", VALUE))
    assert CANARY.encode() not in b"".join(each.read_bytes() for each in tmp_path.iterdir())
    context = MemoryContextStore(secrets=vault).for_user("ada")
    value = (context.push("k", VALUE)).value
    assert CANARY not in repr(context.get("k"))
    assert vault.restore(value, context="context/ada", actor="test") == VALUE
    for wrong in (*makers, lambda option: MemoryContextStore(secrets=option)):
        with pytest.raises(ValidationError, match="secrets is no vault"):
            wrong("hide")  # type: ignore[arg-type]


def test_the_canary_is_in_no_log_repr_error_or_table(
    manager: DatabaseManager, database: Database, log: io.StringIO
) -> None:
    vault = SecretVault(manager, "main", CIPHER, may_reveal=lambda actor, context, kind: actor == "ada")
    wrong = SecretVault(manager, "main", Cipher({"k": bytes(32)}, "k"))
    protected = vault.protect(VALUE, context="c")
    said = [repr(each) for each in (vault, protected, CIPHER, manager, database, manager.stats())]
    for store in (in_graph, in_events, in_context, in_checkpoints):
        said.append(repr(store(manager, vault)))
    failing: list[Callable[[], Any]] = [
        lambda: vault.restore(protected, context="c", actor="eve"),
        lambda: vault.restore(protected, context="d", actor="ada"),
        lambda: wrong.restore(protected, context="c", actor="ada"),
        lambda: vault.reveal(CANARY, context="c", actor="ada"),
        lambda: vault.protect({"password": CANARY}, context=""),
        lambda: vault.protect({"password": CANARY}, context="c", expires_in=-1),
        lambda: MemoryGraph(manager, "main", secrets="refuse").add_node(Node("x", "T", {"password": CANARY})),
        lambda: MemoryGraph(manager, "main", secrets=vault).patch("nobody", {"password": CANARY}),
        lambda: MemoryGraph(manager, "main", secrets=vault).add_node(
            Node("a", "T", {"password": CANARY}), expected_version=99
        ),
        lambda: database.execute("INSERT INTO holdfast_secrets (tenant_id) VALUES (:x)", {"x": CANARY}),
    ]
    for call in failing:
        with pytest.raises(PersistenceError) as failed:
            call()
        exc: BaseException | None = failed.value
        while exc is not None:
            said.append("".join(traceback.TracebackException.from_exception(exc).format_exception_only()))
            said.append(f"{exc!r}{exc.args}{vars(exc)}")
            exc = exc.__cause__ or exc.__context__
    said += [repr(vault.accesses(limit=1000)), repr(vault.list_secrets("c")), log.getvalue()]
    assert "eve" in said[-3]
    assert CANARY not in "\n".join(said)
    assert CANARY not in everything(database)
    with pytest.raises(CorruptError):
        wrong.restore(protected, context="c", actor="ada")
    assert vault.restore(protected, context="c", actor="ada") == VALUE

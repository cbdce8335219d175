"""The option ``secrets`` of stores: what was a secret is in no table, and comes back through the vault alone."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from checkpoint import (
    AsyncCheckpointer,
    AsyncDatabaseCheckpointer,
    AsyncFileCheckpointer,
    AsyncMemoryCheckpointer,
    Checkpoint,
)
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncRedisConnection,
    AsyncSecretVault,
    Cipher,
    CorruptError,
    PersistenceError,
    ValidationError,
)
from persistence._async.guards import AsyncSecretsOption
from sessions import (
    AsyncContextStore,
    AsyncEventLog,
    AsyncMemoryContextStore,
    AsyncMemoryGraph,
    AsyncUserData,
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


async def in_graph(manager: AsyncDatabaseManager, secrets: AsyncSecretsOption) -> list[Written]:
    graph = AsyncMemoryGraph(manager, "main", secrets=secrets)
    added = await graph.add_node(Node("a", "T", dict(VALUE)))
    found = await graph.get_node("a")
    assert found is not None
    assert found.attributes == added.attributes
    await graph.add_nodes([Node("b", "T"), Node("c", "T", dict(VALUE))])
    patched = await graph.patch("b", dict(VALUE))
    edge = await graph.add_edge(Edge("a", "r", "b", attributes=dict(VALUE)))
    edges = await graph.add_edges([Edge("b", "r", "c", attributes=dict(VALUE))])
    config = await graph.in_scope("LOCAL").set_config("password", CANARY)
    lines = [line.replace("[REDACTED password]", CANARY) async for line in graph.export_graph()]
    await graph.import_graph(lines)
    [third] = await graph.get_nodes(["c"])
    values = [found.attributes, third.attributes, patched.attributes, edge.attributes, edges[0].attributes]
    values.append({**values[0], "password": config.value})
    patched_config = await graph.patch("config/password", {"value": CANARY})
    values.append({**values[0], "password": patched_config.attributes["value"]})
    found_by_words = sorted(each.node.id for each in await graph.search("Nobody 4711"))
    assert found_by_words == ([] if secrets else ["a", "b", "c", "config/password"])
    return [(value, "graph/LOCAL") for value in values]


async def in_events(manager: AsyncDatabaseManager, secrets: AsyncSecretsOption) -> list[Written]:
    log = AsyncEventLog(manager, "main", secrets=secrets)
    given = Event(kind="k", message=TEXT, tags=dict(VALUE))
    stored = await log.append(given)
    assert given.message == TEXT
    await log.append_many([Event(kind="k", message=TEXT, tags=dict(VALUE)) for _ in range(2)])
    await log.audit("login", TEXT, tags=dict(VALUE))
    async with log.writer() as writer:
        await writer.add(Event(kind="k", message=TEXT, tags=dict(VALUE)))
    found = await log.query()
    assert len(found) == 5
    assert (stored.message, stored.tags) in [(event.message, event.tags) for event in found]
    assert await log.verify()
    return [({**event.tags, "note": event.message}, "events") for event in found]


async def in_context(manager: AsyncDatabaseManager, secrets: AsyncSecretsOption) -> list[Written]:
    written: list[Written] = []
    store = AsyncContextStore(manager, "main", secrets=secrets)
    for place, context in [(store, "context"), (store.for_user("ada"), "context/ada")]:
        item = await place.push("k", dict(VALUE))
        assert await place.get("k") == item.value
        named = await place.push("password", CANARY)
        written += [(item.value, context), ({**item.value, "password": named.value}, context)]
        lines = [line.replace("[REDACTED password]", CANARY) async for line in place.export()]
        await place.import_(lines)
        written.append((await place.get("k"), context))
    return written


async def in_checkpoints(manager: AsyncDatabaseManager, secrets: AsyncSecretsOption) -> list[Written]:
    checkpointer = AsyncDatabaseCheckpointer(manager, "main", secrets=secrets)
    state = {"v": dict(VALUE), "pair": (TEXT, b"bytes", {1: 2})}
    saved = await checkpointer.save_checkpoint(Checkpoint("t", state, key="k1"))
    again = await checkpointer.save_checkpoint(Checkpoint("t", saved.state))
    assert again.state == saved.state
    await checkpointer.put_writes("t", "k1", "task", [("v", dict(VALUE)), ("password", CANARY)])
    found = await checkpointer.load_checkpoint("t", key="k1", writes=True)
    assert found.state["v"] == saved.state["v"]
    assert found.state["pair"][1:] == (b"bytes", {1: 2})
    await checkpointer.fork("t", 1, "fork")
    fork = await checkpointer.save_checkpoint(
        Checkpoint("fork", (await checkpointer.load_checkpoint("fork")).state), durability="exit"
    )
    await checkpointer.flush()
    assert fork.thread_id == "fork"
    forked = await checkpointer.load_checkpoint("fork")
    values = [found.state["v"], forked.state["v"], found.writes[0].value]
    values += [{**values[0], "note": found.state["pair"][0]}, {**values[0], "password": found.writes[1].value}]
    return [(value, "checkpoints") for value in values]


Store = Callable[[AsyncDatabaseManager, AsyncSecretsOption], Awaitable[list[Written]]]
STORES = pytest.mark.parametrize("store", [in_graph, in_events, in_context, in_checkpoints])


async def everything(database: AsyncDatabase) -> str:
    """Return every column of every table of ours, bytes as text too."""
    if database.kind == "postgresql":
        names = "SELECT relname AS n FROM pg_class WHERE relkind IN ('r', 'p') AND relname LIKE 'holdfast%'"
    else:
        names = "SELECT name AS n FROM sqlite_master WHERE type = 'table' AND name LIKE 'holdfast%'"
    found = []
    for name in await database.fetch_all(names):
        for row in await database.fetch_all(f"SELECT * FROM {name['n']}"):
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
async def test_a_vault_keeps_the_secrets_of_a_store_and_gives_them_back(
    manager: AsyncDatabaseManager, database: AsyncDatabase, store: Store
) -> None:
    vault = AsyncSecretVault(manager, "main", CIPHER)
    for value, context in await store(manager, vault):
        assert CANARY not in repr(value)
        assert "{SECRET:" in repr(value)
        assert await vault.restore(value, context=context, actor="test") == VALUE
    assert CANARY not in await everything(database)
    assert {entry.outcome for entry in await vault.accesses()} == {"revealed"}


async def test_the_secrets_of_a_users_context_are_erased_with_the_user(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    vault = AsyncSecretVault(manager, "main", CIPHER)
    context = AsyncContextStore(manager, "main", secrets=vault)
    for user in ("ada", "bob"):
        await context.for_user(user).push("login", VALUE)
    await context.push("shared", VALUE)
    kept = [len(await vault.list_secrets(each)) for each in ("context/ada", "context/bob", "context")]
    assert kept[0] == kept[1] == kept[2] > 0
    users = AsyncUserData(manager, "main", secrets=vault)
    lines = [line async for line in users.export_user("ada")]
    assert len(lines) == 1
    assert CANARY not in lines[0]
    with pytest.raises(ZeroDivisionError):
        async with database.transaction():
            await users.erase_user("ada")
            raise ZeroDivisionError
    assert len(await vault.list_secrets("context/ada")) == kept[0]
    report = await users.erase_user("ada")
    assert (report["secrets"], report["items"]) == (kept[0], 1)
    assert [len(await vault.list_secrets(each)) for each in ("context/ada", "context/bob", "context")] == [0, *kept[1:]]
    assert (await users.erase_user("ada"))["secrets"] == 0


@STORES
async def test_redacted_secrets_are_gone(manager: AsyncDatabaseManager, database: AsyncDatabase, store: Store) -> None:
    for value, _ in await store(manager, "redact"):
        assert value == GONE
    assert CANARY not in await everything(database)


@STORES
async def test_without_the_option_everything_is_stored_as_it_was_given(
    manager: AsyncDatabaseManager, database: AsyncDatabase, store: Store
) -> None:
    for value, _ in await store(manager, None):
        assert value == VALUE
    if store is not in_checkpoints:  # which packs states
        assert CANARY in await everything(database)


@STORES
async def test_a_secret_that_is_refused_is_written_nowhere_and_said_nowhere(
    manager: AsyncDatabaseManager, database: AsyncDatabase, store: Store, log: io.StringIO
) -> None:
    with pytest.raises(ValidationError, match=r"holds a secret \(password\)") as refused:
        await store(manager, "refuse")
    assert CANARY not in f"{refused.value}{refused.value!r}{vars(refused.value)}{log.getvalue()}"
    assert CANARY not in await everything(database)


async def test_what_holds_no_secret_is_stored_whatever_the_option(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    plain = {"note": "nothing of note", "n": [1, {"a": None}]}
    options: list[AsyncSecretsOption] = ["redact", "refuse", AsyncSecretVault(manager, "main", CIPHER)]
    for option in options:
        graph = AsyncMemoryGraph(manager, "main", secrets=option)
        assert (await graph.add_node(Node("a", "T", plain), replace=True)).attributes == plain
        assert (await graph.patch("a", {"x": 1})).attributes == {**plain, "x": 1}
        assert (await AsyncContextStore(manager, "main", secrets=option).push("k", plain)).value == plain
        event = await AsyncEventLog(manager, "main", secrets=option).append(Event(kind="k", message="m", tags=plain))
        assert event.tags == plain
        checkpointer = AsyncDatabaseCheckpointer(manager, "main", secrets=option)
        assert (await checkpointer.save_checkpoint(Checkpoint("t", plain))).state is plain


async def test_an_unknown_option_is_refused(manager: AsyncDatabaseManager, database: AsyncDatabase) -> None:
    for option in ("hide", True, 7, CIPHER):
        for make in (AsyncMemoryGraph, AsyncEventLog, AsyncContextStore, AsyncDatabaseCheckpointer):
            with pytest.raises(ValidationError, match="secrets is no vault"):
                make(manager, "main", secrets=option)  # type: ignore[arg-type, operator]


async def test_what_is_invalid_leaves_nothing_in_the_vault(
    manager: AsyncDatabaseManager, database: AsyncDatabase
) -> None:
    vault = AsyncSecretVault(manager, "main", CIPHER)
    graph = AsyncMemoryGraph(manager, "main", secrets=vault)
    log = AsyncEventLog(manager, "main", secrets=vault)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: graph.add_node(Node("", "T", {"password": CANARY})),
        lambda: graph.add_nodes([Node("a", "T", {"password": CANARY}), Node("b", "T", {"x": float("nan")})]),
        lambda: graph.patch("a", {"password": CANARY, "x": (1,)}),
        lambda: log.append(Event(kind="", message=TEXT)),
        lambda: log.append_many([Event(kind="k", message=TEXT), Event(kind="k", tags={"x": {1}})]),
        lambda: AsyncContextStore(manager, "main", secrets=vault).push("k", {"password": CANARY, "x": {1}}),
    ]
    for call in calls:
        with pytest.raises(ValidationError) as failed:
            await call()
        assert CANARY not in str(failed.value)
    assert await vault.keys_in_use() == {}


@pytest_asyncio.fixture
async def cache(manager: AsyncDatabaseManager, request: pytest.FixtureRequest) -> AsyncIterator[AsyncRedisConnection]:
    yield await manager.add_redis("cache", request.getfixturevalue("redis_config"))


async def test_on_redis_contexts_and_checkpoints_are_guarded_alike(
    manager: AsyncDatabaseManager, cache: AsyncRedisConnection
) -> None:
    store = AsyncContextStore(manager, "cache", secrets="redact")
    assert (await store.push("k", VALUE)).value == GONE
    checkpointer = AsyncDatabaseCheckpointer(manager, "cache", secrets="redact")
    await checkpointer.save_checkpoint(Checkpoint("t", {"v": VALUE}, key="k"))
    await checkpointer.put_writes("t", "k", "task", [("password", CANARY)])
    found = await checkpointer.load_checkpoint("t", writes=True)
    assert found.state == {"v": GONE}
    assert found.writes[0].value == "[REDACTED password]"
    with pytest.raises(ValidationError, match="holds a secret"):
        await AsyncDatabaseCheckpointer(manager, "cache", secrets="refuse").save_checkpoint(Checkpoint("t", VALUE))
    assert (await AsyncMemoryCheckpointer().save_checkpoint(Checkpoint("t", VALUE))).state == VALUE


async def test_stores_that_need_no_manager_are_guarded_alike(manager: AsyncDatabaseManager, tmp_path: Path) -> None:
    await manager.add_sqlite("vault", "sqlite://")
    vault = AsyncSecretVault(manager, "vault", CIPHER)
    file = tmp_path / "checkpoints.db"
    makers: list[Callable[[AsyncSecretsOption], AsyncCheckpointer]] = [
        lambda option: AsyncFileCheckpointer(file, secrets=option),
        lambda option: AsyncMemoryCheckpointer(secrets=option),
    ]
    for make in makers:
        async with make(vault) as checkpointer:
            await checkpointer.save_checkpoint(Checkpoint("t", {"v": VALUE}, key="k"))
            await checkpointer.put_writes("t", "k", "task", [("password", CANARY)])
            found = await checkpointer.load_checkpoint("t", writes=True)
            for value in (found.state["v"], {**found.state["v"], "password": found.writes[0].value}):
                assert CANARY not in repr(value)
                assert await vault.restore(value, context="checkpoints", actor="test") == VALUE
        async with make("refuse") as checkpointer:
            with pytest.raises(ValidationError, match=r"holds a secret \(password\)"):
                await checkpointer.save_checkpoint(Checkpoint("t", VALUE))
    assert CANARY.encode() not in b"".join(each.read_bytes() for each in tmp_path.iterdir())
    context = AsyncMemoryContextStore(secrets=vault).for_user("ada")
    value = (await context.push("k", VALUE)).value
    assert CANARY not in repr(await context.get("k"))
    assert await vault.restore(value, context="context/ada", actor="test") == VALUE
    for wrong in (*makers, lambda option: AsyncMemoryContextStore(secrets=option)):
        with pytest.raises(ValidationError, match="secrets is no vault"):
            wrong("hide")  # type: ignore[arg-type]


async def test_the_canary_is_in_no_log_repr_error_or_table(
    manager: AsyncDatabaseManager, database: AsyncDatabase, log: io.StringIO
) -> None:
    vault = AsyncSecretVault(manager, "main", CIPHER, may_reveal=lambda actor, context, kind: actor == "ada")
    wrong = AsyncSecretVault(manager, "main", Cipher({"k": bytes(32)}, "k"))
    protected = await vault.protect(VALUE, context="c")
    said = [repr(each) for each in (vault, protected, CIPHER, manager, database, manager.stats())]
    for store in (in_graph, in_events, in_context, in_checkpoints):
        said.append(repr(await store(manager, vault)))
    failing: list[Callable[[], Awaitable[Any]]] = [
        lambda: vault.restore(protected, context="c", actor="eve"),
        lambda: vault.restore(protected, context="d", actor="ada"),
        lambda: wrong.restore(protected, context="c", actor="ada"),
        lambda: vault.reveal(CANARY, context="c", actor="ada"),
        lambda: vault.protect({"password": CANARY}, context=""),
        lambda: vault.protect({"password": CANARY}, context="c", expires_in=-1),
        lambda: AsyncMemoryGraph(manager, "main", secrets="refuse").add_node(Node("x", "T", {"password": CANARY})),
        lambda: AsyncMemoryGraph(manager, "main", secrets=vault).patch("nobody", {"password": CANARY}),
        lambda: AsyncMemoryGraph(manager, "main", secrets=vault).add_node(
            Node("a", "T", {"password": CANARY}), expected_version=99
        ),
        lambda: database.execute("INSERT INTO holdfast_secrets (tenant_id) VALUES (:x)", {"x": CANARY}),
    ]
    for call in failing:
        with pytest.raises(PersistenceError) as failed:
            await call()
        exc: BaseException | None = failed.value
        while exc is not None:
            said.append("".join(traceback.TracebackException.from_exception(exc).format_exception_only()))
            said.append(f"{exc!r}{exc.args}{vars(exc)}")
            exc = exc.__cause__ or exc.__context__
    said += [repr(await vault.accesses(limit=1000)), repr(await vault.list_secrets("c")), log.getvalue()]
    assert "eve" in said[-3]
    assert CANARY not in "\n".join(said)
    assert CANARY not in await everything(database)
    with pytest.raises(CorruptError):
        await wrong.restore(protected, context="c", actor="ada")
    assert await vault.restore(protected, context="c", actor="ada") == VALUE

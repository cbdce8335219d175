"""Row-level security of the shared context: it holds for SQL written by hand, by a role of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from persistence import (
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    CapabilityError,
    PersistenceError,
    PostgreSQLConfig,
)
from sessions import AsyncContextStore, AsyncUserData, ContextAgent


@pytest_asyncio.fixture
async def owner(manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig) -> AsyncContextStore:
    """The store as the owner of the tables, row-level security switched on, one item of each of three scopes."""
    await manager.add_postgresql("owner", postgresql_config)
    store = AsyncContextStore(manager, "owner")
    await store.push("k", "shared")
    for user in ("ada", "bob"):
        await store.for_user(user).push("k", user)
        await store.for_user(user).register_topics("agent", [user])
    await AsyncContextStore(manager, "owner", tenant="other").for_user("ada").push("k", "other tenant")
    await store.enable_row_security()
    await store.enable_row_security()
    return store


@pytest_asyncio.fixture
async def role(
    manager: AsyncDatabaseManager, owner: AsyncContextStore, postgresql_config: PostgreSQLConfig
) -> AsyncIterator[AsyncPostgreSQLDatabase]:
    """The connection ``role`` of a role that may read and write the tables, and owns nothing."""
    admin = manager.get_postgresql("owner")
    name = f"reader_{postgresql_config.database[-12:]}"
    await admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader'")
    await admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
    yield await manager.add_postgresql("role", replace(postgresql_config, username=name, password="reader"))
    await manager.remove("role")
    await admin.execute(f'DROP OWNED BY "{name}"')
    await admin.execute(f'DROP ROLE "{name}"')


async def scope_to(role: AsyncPostgreSQLDatabase, user: str, tenant: str = "default") -> None:
    """Say in a transaction for whom it is."""
    await role.fetch_one(
        "SELECT set_config('holdfast.tenant_id', :tenant, true), set_config('holdfast.user_id', :user, true)",
        {"tenant": tenant, "user": user},
    )


async def values(role: AsyncPostgreSQLDatabase) -> list[str]:
    """Return every value that a SELECT without any condition shows."""
    return [row["value"] for row in await role.fetch_all("SELECT value FROM holdfast_items ORDER BY created_at")]


async def test_without_a_scope_hand_written_sql_sees_nothing(role: AsyncPostgreSQLDatabase) -> None:
    assert await values(role) == []
    assert await role.fetch_value("SELECT count(*) FROM holdfast_context_agents") == 0
    assert await role.execute("DELETE FROM holdfast_items") == 0


async def test_hand_written_sql_sees_and_changes_the_rows_of_its_scope_only(
    owner: AsyncContextStore, role: AsyncPostgreSQLDatabase
) -> None:
    async with role.transaction():
        await scope_to(role, "ada")
        assert await values(role) == ["ada"]
        assert await role.fetch_all("SELECT topics FROM holdfast_context_agents") == [{"topics": ["ada"]}]
        assert await role.execute("UPDATE holdfast_items SET version = 7") == 1
    assert await values(role) == []
    async with role.transaction():
        await scope_to(role, "ada", "other")
        assert await values(role) == ["other tenant"]
    bob = await owner.for_user("bob").get_item("k")
    assert bob is not None
    assert bob.version == 1


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE holdfast_items SET user_id = 'bob', key = 'stolen'",
        "INSERT INTO holdfast_items SELECT 'default', 'bob', namespace, 'planted', value, fields, topics, subscribers,"
        " 1, NULL, NULL, created_at, updated_at FROM holdfast_items",
        "INSERT INTO holdfast_context_agents VALUES ('default', 'bob', 'spy', '{}', NULL, now())",
    ],
)
async def test_hand_written_sql_cannot_write_into_another_scope(
    owner: AsyncContextStore, role: AsyncPostgreSQLDatabase, statement: str
) -> None:
    with pytest.raises(PersistenceError, match="row-level security"):
        async with role.transaction():
            await scope_to(role, "ada")
            await role.execute(statement)
    assert [item.key for item in await owner.for_user("bob").items()] == ["k"]
    assert [agent.agent for agent in await owner.for_user("bob").agents()] == ["agent"]


async def test_a_store_of_that_role_works_with_row_security_and_is_blind_without(
    manager: AsyncDatabaseManager, owner: AsyncContextStore, role: AsyncPostgreSQLDatabase
) -> None:
    blind = AsyncContextStore(manager, "role", migrate=False).for_user("ada")
    assert await blind.get("k") is None
    with pytest.raises(PersistenceError, match="row-level security"):
        await blind.push("k", 2)
    ada = AsyncContextStore(manager, "role", migrate=False, row_security=True).for_user("ada")
    assert [item.value for item in await ada.items()] == ["ada"]
    await ada.push("new", 1, topics=["t"], ttl=0)
    assert (await ada.push("k", 2, expected_version=1)).version == 2
    await ada.set_permissions("agent", [])
    assert await ada.agents() == [ContextAgent(agent="agent", topics=["ada"], permissions=[])]
    assert await ada.cleanup_expired() == 1
    lines = [line async for line in ada.export()]
    assert await ada.clear() == 1
    assert await ada.import_(lines) == 2
    assert await ada.delete_topic("ada") == 0
    assert (await ada.stats()).items == 1
    assert await owner.for_user("ada").get("k") == 2
    assert await owner.for_user("bob").get("k") == "bob"


@pytest.mark.parametrize("row_security", [True, False])
async def test_that_role_cannot_clean_up_for_all_users_and_is_told_so(
    manager: AsyncDatabaseManager, owner: AsyncContextStore, role: AsyncPostgreSQLDatabase, row_security: bool
) -> None:
    for user in ("ada", "bob"):
        await owner.for_user(user).push("gone", 1, ttl=0)
    store = AsyncContextStore(manager, "role", migrate=False, row_security=row_security)
    with pytest.raises(CapabilityError, match="row-level security hides the items of other users") as refused:
        await store.cleanup_expired(all_users=True)
    assert (refused.value.operation, refused.value.connection) == ("cleanup_expired", "role")
    with_scope = AsyncContextStore(manager, "role", migrate=False, row_security=True)
    assert await with_scope.for_user("ada").cleanup_expired() == 1
    by_the_owner = AsyncContextStore(manager, "owner", row_security=row_security)
    assert [await by_the_owner.cleanup_expired(all_users=True) for _ in range(2)] == [1, 0]


async def test_a_user_is_exported_and_erased_by_that_role_too(
    manager: AsyncDatabaseManager, owner: AsyncContextStore, role: AsyncPostgreSQLDatabase
) -> None:
    users = AsyncUserData(manager, "role", migrate=False)
    found = [json.loads(line) async for line in users.export_user("ada")]
    assert [(line["kind"], line.get("value", line.get("topics"))) for line in found] == [
        ("item", "ada"),
        ("agent", ["ada"]),
    ]
    erased = await users.erase_user("ada")
    assert (erased["items"], erased["agents"]) == (1, 1)
    assert await values(role) == []
    assert await owner.for_user("ada").items() == await owner.for_user("ada").agents() == []
    assert await owner.for_user("bob").get("k") == "bob"
    assert await AsyncContextStore(manager, "owner", tenant="other").for_user("ada").get("k") == "other tenant"


async def test_the_scope_ends_with_the_call(manager: AsyncDatabaseManager, role: AsyncPostgreSQLDatabase) -> None:
    await AsyncContextStore(manager, "role", migrate=False, row_security=True).for_user("ada").items()
    assert await values(role) == []


async def test_switched_off_it_no_longer_holds(owner: AsyncContextStore, role: AsyncPostgreSQLDatabase) -> None:
    await owner.disable_row_security()
    assert sorted(await values(role)) == ["ada", "bob", "other tenant", "shared"]

# Generated from ../_async/test_context_row_security.py by tests/unasync.py: edit that one.
"""Row-level security of the shared context: it holds for SQL written by hand, by a role of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import pytest

from persistence import (
    DatabaseManager,
    PostgreSQLDatabase,
    CapabilityError,
    PersistenceError,
    PostgreSQLConfig,
)
from sessions import ContextStore, UserData, ContextAgent


@pytest.fixture
def owner(manager: DatabaseManager, postgresql_config: PostgreSQLConfig) -> ContextStore:
    """The store as the owner of the tables, row-level security switched on, one item of each of three scopes."""
    manager.add_postgresql("owner", postgresql_config)
    store = ContextStore(manager, "owner")
    store.push("k", "shared")
    for user in ("ada", "bob"):
        store.for_user(user).push("k", user)
        store.for_user(user).register_topics("agent", [user])
    ContextStore(manager, "owner", tenant="other").for_user("ada").push("k", "other tenant")
    store.enable_row_security()
    store.enable_row_security()
    return store


@pytest.fixture
def role(
    manager: DatabaseManager, owner: ContextStore, postgresql_config: PostgreSQLConfig
) -> Iterator[PostgreSQLDatabase]:
    """The connection ``role`` of a role that may read and write the tables, and owns nothing."""
    admin = manager.get_postgresql("owner")
    name = f"reader_{postgresql_config.database[-12:]}"
    admin.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader'")
    admin.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
    yield manager.add_postgresql("role", replace(postgresql_config, username=name, password="reader"))
    manager.remove("role")
    admin.execute(f'DROP OWNED BY "{name}"')
    admin.execute(f'DROP ROLE "{name}"')


def scope_to(role: PostgreSQLDatabase, user: str, tenant: str = "default") -> None:
    """Say in a transaction for whom it is."""
    role.fetch_one(
        "SELECT set_config('holdfast.tenant_id', :tenant, true), set_config('holdfast.user_id', :user, true)",
        {"tenant": tenant, "user": user},
    )


def values(role: PostgreSQLDatabase) -> list[str]:
    """Return every value that a SELECT without any condition shows."""
    return [row["value"] for row in role.fetch_all("SELECT value FROM holdfast_items ORDER BY created_at")]


def test_without_a_scope_hand_written_sql_sees_nothing(role: PostgreSQLDatabase) -> None:
    assert values(role) == []
    assert role.fetch_value("SELECT count(*) FROM holdfast_context_agents") == 0
    assert role.execute("DELETE FROM holdfast_items") == 0


def test_hand_written_sql_sees_and_changes_the_rows_of_its_scope_only(
    owner: ContextStore, role: PostgreSQLDatabase
) -> None:
    with role.transaction():
        scope_to(role, "ada")
        assert values(role) == ["ada"]
        assert role.fetch_all("SELECT topics FROM holdfast_context_agents") == [{"topics": ["ada"]}]
        assert role.execute("UPDATE holdfast_items SET version = 7") == 1
    assert values(role) == []
    with role.transaction():
        scope_to(role, "ada", "other")
        assert values(role) == ["other tenant"]
    bob = owner.for_user("bob").get_item("k")
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
def test_hand_written_sql_cannot_write_into_another_scope(
    owner: ContextStore, role: PostgreSQLDatabase, statement: str
) -> None:
    with pytest.raises(PersistenceError, match="row-level security"):
        with role.transaction():
            scope_to(role, "ada")
            role.execute(statement)
    assert [item.key for item in owner.for_user("bob").items()] == ["k"]
    assert [agent.agent for agent in owner.for_user("bob").agents()] == ["agent"]


def test_a_store_of_that_role_works_with_row_security_and_is_blind_without(
    manager: DatabaseManager, owner: ContextStore, role: PostgreSQLDatabase
) -> None:
    blind = ContextStore(manager, "role", migrate=False).for_user("ada")
    assert blind.get("k") is None
    with pytest.raises(PersistenceError, match="row-level security"):
        blind.push("k", 2)
    ada = ContextStore(manager, "role", migrate=False, row_security=True).for_user("ada")
    assert [item.value for item in ada.items()] == ["ada"]
    ada.push("new", 1, topics=["t"], ttl=0)
    assert (ada.push("k", 2, expected_version=1)).version == 2
    ada.set_permissions("agent", [])
    assert ada.agents() == [ContextAgent(agent="agent", topics=["ada"], permissions=[])]
    assert ada.cleanup_expired() == 1
    lines = [line for line in ada.export()]
    assert ada.clear() == 1
    assert ada.import_(lines) == 2
    assert ada.delete_topic("ada") == 0
    assert (ada.stats()).items == 1
    assert owner.for_user("ada").get("k") == 2
    assert owner.for_user("bob").get("k") == "bob"


@pytest.mark.parametrize("row_security", [True, False])
def test_that_role_cannot_clean_up_for_all_users_and_is_told_so(
    manager: DatabaseManager, owner: ContextStore, role: PostgreSQLDatabase, row_security: bool
) -> None:
    for user in ("ada", "bob"):
        owner.for_user(user).push("gone", 1, ttl=0)
    store = ContextStore(manager, "role", migrate=False, row_security=row_security)
    with pytest.raises(CapabilityError, match="row-level security hides the items of other users") as refused:
        store.cleanup_expired(all_users=True)
    assert (refused.value.operation, refused.value.connection) == ("cleanup_expired", "role")
    with_scope = ContextStore(manager, "role", migrate=False, row_security=True)
    assert with_scope.for_user("ada").cleanup_expired() == 1
    by_the_owner = ContextStore(manager, "owner", row_security=row_security)
    assert [by_the_owner.cleanup_expired(all_users=True) for _ in range(2)] == [1, 0]


def test_a_user_is_exported_and_erased_by_that_role_too(
    manager: DatabaseManager, owner: ContextStore, role: PostgreSQLDatabase
) -> None:
    users = UserData(manager, "role", migrate=False)
    found = [json.loads(line) for line in users.export_user("ada")]
    assert [(line["kind"], line.get("value", line.get("topics"))) for line in found] == [
        ("item", "ada"),
        ("agent", ["ada"]),
    ]
    erased = users.erase_user("ada")
    assert (erased["items"], erased["agents"]) == (1, 1)
    assert values(role) == []
    assert owner.for_user("ada").items() == owner.for_user("ada").agents() == []
    assert owner.for_user("bob").get("k") == "bob"
    assert ContextStore(manager, "owner", tenant="other").for_user("ada").get("k") == "other tenant"


def test_the_scope_ends_with_the_call(manager: DatabaseManager, role: PostgreSQLDatabase) -> None:
    ContextStore(manager, "role", migrate=False, row_security=True).for_user("ada").items()
    assert values(role) == []


def test_switched_off_it_no_longer_holds(owner: ContextStore, role: PostgreSQLDatabase) -> None:
    owner.disable_row_security()
    assert sorted(values(role)) == ["ada", "bob", "other tenant", "shared"]

"""Tenants behind PgBouncer in transaction mode: on server connections that all share, each sees what is its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import NamedTuple

import pytest

from persistence import DatabaseManager, PostgreSQLConfig, PostgreSQLDatabase
from sessions import ContextStore, Message, MessageStore, Thread, ThreadManager
from tests.test_pooler import pooled, pytestmark, reader_of

__all__ = ["pooled", "pytestmark"]

SCOPES = list(product(("one", "two"), ("ada", "bob")))
"""Two tenants, in each of which there are two users of the same names."""
TURNS = 25
SCOPE = "SELECT set_config('holdfast.tenant_id', :tenant, {0}), set_config('holdfast.user_id', :user, {0})"
ROWS = "SELECT tenant_id, user_id, pg_backend_pid() AS pid FROM holdfast_items"


class Seen(NamedTuple):
    """What a caller of one scope saw: rows of others, rows without a scope, and who served how many reads of it."""

    foreign: int
    unscoped: int
    servers: set[int]


@pytest.fixture
def manager(pooled: PostgreSQLConfig, postgresql_config: PostgreSQLConfig) -> Iterator[DatabaseManager]:
    """``owner``, and through PgBouncer ``pooled`` and ``role``: one that owns nothing, under row-level security."""
    with DatabaseManager() as made:
        owner = made.add_postgresql("owner", postgresql_config)
        for tenant, user in SCOPES:
            ContextStore(made, "owner", tenant=tenant).for_user(user).push("k", [tenant, user])
        ContextStore(made, "owner").enable_row_security()
        name = reader_of(postgresql_config)
        owner.execute(f"CREATE ROLE \"{name}\" LOGIN PASSWORD 'reader'")
        owner.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{name}"')
        many = replace(pooled, max_connections=8, max_idle_connections=8)
        made.add_postgresql("pooled", many)
        made.add_postgresql("role", replace(many, username=name, password="reader"))
        yield made
        made.remove("role")
        owner.execute(f'DROP OWNED BY "{name}"')
        owner.execute(f'DROP ROLE "{name}"')


def looked_at(role: PostgreSQLDatabase, scoped: Callable[[str, str], list[dict[str, object]]]) -> list[Seen]:
    """Have two callers of each scope read by turns with their scope, as ``scoped`` does, and without any."""

    def work(scope: tuple[str, str]) -> Seen:
        foreign = unscoped = 0
        servers = set()
        for _ in range(TURNS):
            rows = scoped(*scope)
            foreign += [(row["tenant_id"], row["user_id"]) for row in rows] != [scope]
            servers |= {int(str(row["pid"])) for row in rows}
            unscoped += len(role.fetch_all(ROWS))
        return Seen(foreign, unscoped, servers)

    with ThreadPoolExecutor(8) as executor:
        return list(executor.map(work, SCOPES * 2))


def test_a_scope_holds_for_its_transaction_and_for_no_other(manager: DatabaseManager) -> None:
    role = manager.get_postgresql("role")

    def in_transaction(tenant: str, user: str) -> list[dict[str, object]]:
        with role.transaction():
            role.fetch_one(SCOPE.format("true"), {"tenant": tenant, "user": user})
            return role.fetch_all(ROWS)

    seen = looked_at(role, in_transaction)
    assert [(each.foreign, each.unscoped) for each in seen] == [(0, 0)] * 8
    served = [each.servers for each in seen]
    assert len(set.union(*served)) <= 2 < len(served)  # they shared what they were served by


def test_the_control_with_the_scope_of_a_session_sees_what_is_anothers(manager: DatabaseManager) -> None:
    role = manager.get_postgresql("role")

    def in_session(tenant: str, user: str) -> list[dict[str, object]]:
        role.fetch_one(SCOPE.format("false"), {"tenant": tenant, "user": user})
        return role.fetch_all(ROWS)

    seen = looked_at(role, in_session)
    assert sum(each.foreign for each in seen) > 0
    assert sum(each.unscoped for each in seen) > 0


def test_stores_of_two_tenants_never_meet(manager: DatabaseManager) -> None:
    for tenant, _ in SCOPES[::2]:
        ThreadManager(manager, "owner", tenant=tenant).create_thread(Thread(id="t", user_id="ada"))

    def work(scope: tuple[str, str]) -> None:
        tenant, user = scope
        context = ContextStore(manager, "role", tenant=tenant, migrate=False, row_security=True).for_user(user)
        messages = MessageStore(manager, "pooled", tenant=tenant)
        for turn in range(TURNS):
            assert [item.value for item in context.items()] == [[tenant, user]]
            context.push("k", [tenant, user])
            messages.append("t", Message(role=user, content=[tenant, turn]))
            assert {message.content[0] for message in messages.last("t")} == {tenant}

    with ThreadPoolExecutor(8) as executor:
        list(executor.map(work, SCOPES * 2))
    for tenant, user in SCOPES:
        item = ContextStore(manager, "owner", tenant=tenant).for_user(user).get_item("k")
        assert item is not None
        assert (item.value, item.version) == ([tenant, user], 1 + 2 * TURNS)
        stored = MessageStore(manager, "owner", tenant=tenant).last("t", 1000)
        assert [message.seq for message in stored] == list(range(1, 4 * TURNS + 1))
        assert sorted(message.content[1] for message in stored if message.role == user) == sorted([*range(TURNS)] * 2)

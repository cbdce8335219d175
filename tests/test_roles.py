"""The roles that docs/security.md proposes: each can do its work, and no more."""

import re
from dataclasses import replace
from uuid import uuid4

import pytest

from checkpoint import Checkpoint, DatabaseCheckpointer
from persistence import (
    DatabaseManager,
    KeyValueStore,
    MigrationError,
    Outbox,
    PersistenceError,
    PostgreSQLConfig,
)
from sessions import Event, EventLog, Message, MessageStore
from tests.unasync import ROOT

ROLES = ("holdfast_owner", "holdfast_app", "holdfast_reader")


@pytest.fixture
def blocks() -> tuple[str, list[str]]:
    """The page's SQL, its roles under names that no other run has."""
    mark = uuid4().hex[:8]
    page = (ROOT / "docs" / "security.md").read_text()
    found = [text for text in re.findall(r"```sql\n(.*?)```", page, re.S) if "holdfast_app" in text]
    assert len(found) == 2
    for role in ROLES:
        found = [re.sub(rf"\b{role}\b", f"{role}_{mark}", text) for text in found]
    return mark, found


def test_the_roles_of_the_page_can_do_their_work_and_no_more(
    postgresql_config: PostgreSQLConfig, blocks: tuple[str, list[str]]
) -> None:
    mark, (create, revoke) = blocks
    names = {role.removeprefix("holdfast_"): f"{role}_{mark}" for role in ROLES}
    with DatabaseManager() as manager:
        admin = manager.add_postgresql("admin", postgresql_config)
        for statement in filter(str.strip, create.split(";")):
            admin.execute(statement)
        try:
            for short, name in names.items():
                admin.execute(f"ALTER ROLE \"{name}\" PASSWORD 'known'")
                manager.add_postgresql(short, replace(postgresql_config, username=name, password="known"), lazy=True)
            with pytest.raises(MigrationError):
                KeyValueStore(manager, "app", migrate=False).put("k", 1)
            KeyValueStore(manager, "owner").put("k", 0)
            DatabaseCheckpointer(manager, "owner").latest("t")
            MessageStore(manager, "owner").last("t")
            EventLog(manager, "owner").latest()
            admin.execute(revoke)

            values = KeyValueStore(manager, "app", migrate=False)
            values.put("k", 1)
            assert values.get("k") == 1
            checkpoints = DatabaseCheckpointer(manager, "app", migrate=False)
            checkpoints.save_checkpoint(Checkpoint(thread_id="t", state={"a": 1}))
            MessageStore(manager, "app", migrate=False).for_user("ada").append(
                "t", Message(role="user", content="hello")
            )
            assert Outbox(manager, "app", "topic", migrate=False).put("k", 1) == 1
            assert values.delete("k")
            with pytest.raises(PersistenceError, match=r"(permission denied|must be owner).*made by their owner"):
                EventLog(manager, "app", migrate=False).append(Event(kind="metric", value=1.0))

            app, reader = manager.get_postgresql("app"), manager.get_postgresql("reader")
            assert reader.fetch_value("SELECT count(*) FROM holdfast_outbox") == 1
            for connection, refused in (
                (app, "CREATE TABLE mine (id int)"),
                (app, "DROP TABLE holdfast_key_values"),
                (app, "ALTER TABLE holdfast_key_values ADD COLUMN mine int"),
                (app, "DELETE FROM holdfast_migrations"),
                (reader, "DELETE FROM holdfast_outbox"),
                (reader, "CREATE TABLE mine (id int)"),
            ):
                with pytest.raises(PersistenceError, match=r"permission denied|must be owner"):
                    connection.execute(refused)
        finally:
            for short in names:
                if short in manager.names():
                    manager.remove(short)
            for name in names.values():
                admin.execute(f'DROP OWNED BY "{name}" CASCADE')
                admin.execute(f'DROP ROLE "{name}"')

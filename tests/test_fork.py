"""A fork after connecting: the child gets connections of its own, the parent keeps its."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from persistence import (
    AsyncDatabaseManager,
    ClosedError,
    DatabaseManager,
    Notice,
    PostgreSQLConfig,
    PubSub,
    RedisConfig,
    SQLiteConfig,
    TransactionError,
    WriteBehind,
    WrongLoopError,
)


def in_child(work: Callable[[], None]) -> None:
    """Run ``work`` in a forked child and fail when it fails."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_parent_and_child_each_read_their_own_answers(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig, tmp_path: Path
) -> None:
    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", postgresql_config)
        local = manager.add_sqlite("local", SQLiteConfig(path=str(tmp_path / "x.db")))
        cache = manager.add_redis("cache", redis_config)
        parent = main.fetch_value("SELECT pg_backend_pid()")
        local.execute("CREATE TABLE t (id integer)")

        def child() -> None:
            assert main.fetch_value("SELECT pg_backend_pid()") != parent
            for number in range(300):
                assert main.fetch_value("SELECT :n + 0", {"n": number}) == number
                local.execute("INSERT INTO t VALUES (:n)", {"n": number})
                cache.client.incr("n")
            assert all(manager.health_check().values())
            manager.close()

        pid = os.fork()
        if pid == 0:
            try:
                child()
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        for number in range(1000, 1300):
            assert main.fetch_value("SELECT :n + 0", {"n": number}) == number
            local.execute("INSERT INTO t VALUES (:n)", {"n": number})
            cache.client.incr("n")
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert main.fetch_value("SELECT pg_backend_pid()") == parent
        assert local.fetch_value("SELECT count(*) FROM t") == 600
        assert cache.client.get("n") == b"600"


def test_a_transaction_of_the_parent_is_refused_in_the_child(postgresql_config: PostgreSQLConfig) -> None:
    with DatabaseManager() as manager:
        main = manager.add_postgresql("main", postgresql_config)
        main.execute("CREATE TABLE t (id integer)")
        with main.transaction() as transaction:
            transaction.execute("INSERT INTO t VALUES (1)")

            def child() -> None:
                with pytest.raises(TransactionError, match="forked"):
                    transaction.execute("INSERT INTO t VALUES (2)")
                main.execute("INSERT INTO t VALUES (3)")  # on a connection of the child's own

            in_child(child)
            transaction.execute("INSERT INTO t VALUES (4)")
        assert main.fetch_all("SELECT id FROM t ORDER BY id") == [{"id": 1}, {"id": 3}, {"id": 4}]


def test_an_async_manager_of_the_parent_is_refused_in_the_child(postgresql_config: PostgreSQLConfig) -> None:
    async def parent() -> None:
        async with AsyncDatabaseManager() as manager:
            main = await manager.add_postgresql("main", postgresql_config)
            await main.fetch_value("SELECT 1")

            def child() -> None:
                async def use() -> None:
                    with pytest.raises(WrongLoopError, match="another event loop"):
                        await main.fetch_value("SELECT 1")

                asyncio.new_event_loop().run_until_complete(use())

            in_child(child)
            assert await main.fetch_value("SELECT 1") == 1

    asyncio.run(parent())


def test_an_async_manager_is_refused_on_another_event_loop(
    postgresql_config: PostgreSQLConfig, redis_config: RedisConfig
) -> None:
    manager = AsyncDatabaseManager()

    async def open_both() -> None:
        await manager.add_postgresql("main", postgresql_config)
        await manager.add_redis("cache", redis_config)

    async def use() -> None:
        with pytest.raises(WrongLoopError, match="another event loop"):
            await manager.get_postgresql("main").fetch_value("SELECT 1")
        with pytest.raises(WrongLoopError, match="another event loop"):
            await manager.get_redis("cache").client.get("k")

    loop = asyncio.new_event_loop()
    loop.run_until_complete(open_both())
    asyncio.run(use())
    loop.run_until_complete(manager.aclose())
    loop.close()


@pytest.mark.parametrize("kind", ["postgresql", "redis"])
def test_a_subscription_of_the_child_has_a_connection_of_its_own(kind: str, request: pytest.FixtureRequest) -> None:
    with DatabaseManager() as manager:
        if kind == "redis":
            manager.add_redis("main", request.getfixturevalue("redis_config"))
        else:
            manager.add_postgresql("main", request.getfixturevalue("postgresql_config"))
        pubsub = PubSub(manager, "main")
        with pubsub.subscribe("a") as subscription:

            def child() -> None:
                assert subscription.get(timeout=5) == Notice("", "", missed=True)
                pubsub.publish("a", "from the child")
                assert subscription.get(timeout=5) == Notice("a", "from the child")
                manager.close()

            in_child(child)
            assert subscription.get(timeout=5) == Notice("a", "from the child")
            pubsub.publish("a", "from the parent")
            assert subscription.get(timeout=5) == Notice("a", "from the parent")


def test_what_a_parents_writer_holds_is_written_by_the_parent_alone(tmp_path: Path) -> None:
    file = tmp_path / "written"

    def write(items: list[str]) -> None:
        with file.open("a") as out:
            out.writelines(f"{item}\n" for item in items)

    with WriteBehind[str](write, size=100, age=60) as writer:
        writer.add("parent")

        def child() -> None:
            with pytest.raises(ClosedError, match="call start"):
                writer.add("refused")
            with writer:
                writer.add("child")

        in_child(child)
        assert file.read_text() == "child\n"
        assert writer.pending == ["parent"]
    assert file.read_text() == "child\nparent\n"

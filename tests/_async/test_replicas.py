"""Reads from streaming replicas: who answers, who is left out and comes back, and reading what was just written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from checkpoint import AsyncDatabaseCheckpointer, Checkpoint
from persistence import (
    AsyncDatabase,
    AsyncDatabaseManager,
    AsyncPostgreSQLDatabase,
    ClosedError,
    ConnectError,
    DeadlineError,
    PostgreSQLConfig,
    ReadOnlyError,
    SQLiteConfig,
    TransactionError,
    ValidationError,
)
from persistence.routing import parse_position
from tests._async.side import elsewhere, sleep, together
from tests.proxy import FaultyProxy
from tests.servers import TestServers

WHO = "SELECT current_setting('cluster_name')"
PRIMARY, FIRST, SECOND = "primary", "replica-1", "replica-2"
PAUSE, RESUME = sql.SQL("SELECT pg_wal_replay_pause()"), sql.SQL("SELECT pg_wal_replay_resume()")
IS_PAUSED = sql.SQL("SELECT pg_get_wal_replay_pause_state() = 'paused'")
EVERY_TIME: dict[str, Any] = {"replica_check_interval": 0}


def socket_of(config: PostgreSQLConfig) -> str:
    return f"{config.host}/.s.PGSQL.{config.port}"


def through(proxy: FaultyProxy, config: PostgreSQLConfig) -> PostgreSQLConfig:
    return replace(config, host="127.0.0.1", port=proxy.port)


def pause(servers: TestServers, number: int) -> None:
    servers.replica_set.wait_for_replicas(number)  # one that has replayed no transaction can't say how far it lags
    servers.replica_set.run(number, PAUSE)
    servers.replica_set.wait_until(number, IS_PAUSED)


async def readers(database: AsyncDatabase, reads: int = 6) -> set[str]:
    return {await database.fetch_value(WHO, read_only=True) for _ in range(reads)}


async def made(manager: AsyncDatabaseManager, config: PostgreSQLConfig, **options: Any) -> AsyncPostgreSQLDatabase:
    database = await manager.add_postgresql("main", replace(config, **options))
    await database.execute("CREATE TABLE t (n integer)")
    return database


async def test_reads_go_to_the_primary_unless_asked_and_then_to_each_replica_in_turn(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = await manager.add_postgresql("main", replicated)
    assert {await main.fetch_value(WHO) for _ in range(4)} == {PRIMARY}
    assert await readers(main) == {FIRST, SECOND}
    who = {"current_setting": FIRST}, {"current_setting": SECOND}
    assert await main.fetch_one(WHO, read_only=True) in who
    assert (await main.fetch_all(WHO, read_only=True))[0] in who
    assert (await main.fetch_batch([(WHO, None), ("SELECT 1 AS one", None)], read_only=True))[0][0] in who
    numbered = f"{WHO} AS who, n FROM generate_series(1, 5) AS n"
    found = [row async for row in main.iterate(numbered, key="n", batch_size=2, read_only=True)]
    assert [row["n"] for row in found] == [1, 2, 3, 4, 5]
    assert {row["who"] for row in found} <= {FIRST, SECOND}
    async with main.transaction(read_only=True, isolation="repeatable read") as transaction:
        assert await transaction.fetch_value(WHO) in (FIRST, SECOND)
        assert await main.fetch_value(WHO, read_only=True) == await main.fetch_value(WHO)
    async with main.transaction(read_only=True, isolation="serializable"):
        assert await main.fetch_value(WHO) == PRIMARY  # replicas have no such transactions
    assert await main.run_transaction(lambda tx: tx.fetch_value(WHO), read_only=True) in (FIRST, SECOND)
    stats = main.replica_stats()
    assert list(stats) == ["main/replica-1", "main/replica-2"]
    assert all(each.requests > 3 and each.in_use == 0 for each in stats.values())


async def test_the_least_busy_replica_answers(manager: AsyncDatabaseManager, replicated: PostgreSQLConfig) -> None:
    main = await manager.add_postgresql("main", replicated)
    async with main.transaction(read_only=True) as transaction:
        busy = await transaction.fetch_value(WHO)
        free = {FIRST, SECOND} - {busy}

        async def read() -> set[str]:
            return await readers(main, 4)

        assert await together(read) == [free]
    assert await readers(main) == {FIRST, SECOND}


async def test_what_was_said_to_read_only_writes_nowhere(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = await made(manager, replicated)
    for write in ("INSERT INTO t VALUES (1) RETURNING n", "WITH x AS (DELETE FROM t RETURNING n) SELECT n FROM x"):
        with pytest.raises(ReadOnlyError, match="read_only=True"):
            await main.fetch_all(write, read_only=True)
        with pytest.raises(ReadOnlyError):
            await main.fetch_batch([(WHO, None), (write, None)], read_only=True)
        async with main.transaction() as transaction:
            with pytest.raises(ReadOnlyError):
                await transaction.fetch_all(write, read_only=True)
    with pytest.raises(ReadOnlyError):
        async with main.transaction(read_only=True):
            await main.execute("INSERT INTO t VALUES (1)")
    assert await main.fetch_value("SELECT count(*) FROM t") == 0


async def test_a_read_whose_time_is_up_ends_at_its_deadline(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = await made(manager, replicated)
    for read in (
        lambda: main.fetch_value("SELECT pg_sleep(1)", read_only=True, timeout=0),
        lambda: main.fetch_batch([("SELECT pg_sleep(1)", None)], read_only=True, timeout=0),
    ):
        with pytest.raises(DeadlineError):
            await read()
    assert await main.fetch_value("SELECT 1", read_only=True) == 1


async def test_a_lagging_replica_is_left_out_and_returns_by_itself(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig, servers: TestServers
) -> None:
    main = await made(manager, replicated, max_replica_lag=0.05, **EVERY_TIME)
    pause(servers, 1)
    await main.execute("INSERT INTO t VALUES (1)")
    servers.replica_set.wait_for_replicas(2)  # on a busy machine it lags as well at first
    await sleep(0.06)  # so long does the lag have to last
    assert await readers(main) == {SECOND}
    status = (await manager.health_check())["main"]
    assert status.healthy
    assert [(each.name, each.healthy) for each in status.replicas] == [
        ("main/replica-1", False),
        ("main/replica-2", True),
    ]
    first, second = status.replicas
    assert (first.lag or 0) > 0.05
    assert "max_replica_lag 0.05" in (first.error or "")
    assert second.lag is not None
    assert (second.error, second.server_version) == (None, status.server_version)
    pause(servers, 2)
    await main.execute("INSERT INTO t VALUES (2)")
    await sleep(0.06)
    assert await readers(main) == {PRIMARY}
    for number in (1, 2):
        servers.replica_set.run(number, RESUME)
    servers.replica_set.wait_for_replicas()
    assert await readers(main) == {FIRST, SECOND}
    assert [each.healthy for each in (await manager.health_check())["main"].replicas] == [True, True]


async def test_a_read_after_a_write_sees_it_though_every_replica_is_behind(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig, servers: TestServers
) -> None:
    main = await made(manager, replicated, replica_wait=0.02)
    checkpointer = AsyncDatabaseCheckpointer(manager, "main")
    await checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}))
    servers.replica_set.wait_for_replicas()
    await readers(main)
    for number in (1, 2):
        pause(servers, number)
    async with main.transaction() as transaction:
        await transaction.execute("INSERT INTO t VALUES (7)")
        await checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}))
        assert transaction.position is None
    token = transaction.position
    assert token is not None
    count = "SELECT count(*) FROM t"
    # The control: without the token they are read from all the same, and are stale.
    assert await main.fetch_value(count, read_only=True) == 0
    assert await main.fetch_value(count, read_only=True, after=token) == 1
    assert await main.fetch_value(WHO, read_only=True, after=token) == PRIMARY
    assert await main.fetch_batch([(count, None)], read_only=True, after=token) == [[{"count": 1}]]
    assert await main.run_transaction(lambda each: each.fetch_value(count), read_only=True, after=token) == 1
    async with main.transaction(read_only=True):
        assert (await checkpointer.load_checkpoint("t")).state == {"n": 1}
    async with main.transaction(read_only=True, after=token):
        assert (await checkpointer.load_checkpoint("t")).state == {"n": 2}
    assert parse_position(await main.position()) >= parse_position(token)
    for number in (1, 2):
        servers.replica_set.run(number, RESUME)
    servers.replica_set.wait_for_replicas()
    assert {await main.fetch_value(WHO, read_only=True, after=token) for _ in range(6)} <= {FIRST, SECOND}


async def test_a_replica_that_is_busy_is_not_ill(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    likewise = replace(postgresql_config, max_connections=1)  # the server itself, as its own replica
    main = await made(manager, postgresql_config, replicas=[likewise], replica_check_interval=60, replica_wait=0.05)
    assert await main.fetch_value("SELECT count(*) FROM t", read_only=True) == 0
    await main.execute("INSERT INTO t VALUES (1)")
    token = await main.position()
    async with main.transaction(read_only=True) as transaction:
        assert await transaction.fetch_value("SELECT count(*) FROM t") == 1
        read = partial(main.fetch_value, "SELECT count(*) FROM t", read_only=True, after=token)
        assert await elsewhere(read) == 1
        assert main.replicas is not None
        assert [(each.state.is_usable, each.state.error) for each in main.replicas.all] == [(True, None)]
        assert main.replica_stats()["main/replica-1"].in_use == 1


async def test_a_replica_that_does_not_say_in_time_how_far_it_is_is_not_ill(
    manager: AsyncDatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    with FaultyProxy(socket_of(postgresql_config)) as proxy:
        likewise = through(proxy, postgresql_config)
        main = await made(manager, postgresql_config, replicas=[likewise], replica_check_interval=60, replica_wait=0.05)
        assert await main.fetch_value("SELECT count(*) FROM t", read_only=True) == 0
        await main.execute("INSERT INTO t VALUES (1)")
        token = await main.position()
        proxy.mode = "black hole"
        assert await main.fetch_value("SELECT count(*) FROM t", read_only=True, after=token) == 1  # the primary
        assert main.replicas is not None
        assert [(each.state.is_usable, each.state.error) for each in main.replicas.all] == [(True, None)]


async def test_reads_right_after_writes_are_never_stale(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = await made(manager, replicated)
    await main.execute("INSERT INTO t VALUES (0)")
    seen = []
    for turn in range(1, 101):
        await main.execute("UPDATE t SET n = :n", {"n": turn})
        token = await main.position()
        seen.append(await main.fetch_value("SELECT n FROM t", read_only=True, after=token))
    assert seen == list(range(1, 101))
    assert sum(each.requests for each in main.replica_stats().values()) > 50  # it was not the primary that answered


async def test_a_replica_that_was_down_at_start_is_left_out_and_returns(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    first, second = replicated.replicas
    assert isinstance(first, PostgreSQLConfig)
    with FaultyProxy(socket_of(first)) as proxy:
        proxy.mode = "refuse"
        config = replace(replicated, replicas=[through(proxy, first), second], **EVERY_TIME)
        main = await manager.add_postgresql("main", config)
        assert await readers(main) == {SECOND}
        status = (await manager.health_check())["main"]
        assert [each.healthy for each in status.replicas] == [False, True]
        assert "can't connect" in (status.replicas[0].error or "")
        proxy.mode = "pass"
        assert await readers(main) == {FIRST, SECOND}
        # It goes away under open connections: the read that finds out is answered by somebody else.
        proxy.mode = "refuse"
        proxy.cut()
        assert await readers(main) == {SECOND}
        await manager.aclose()


async def test_reads_go_on_without_any_replica_and_without_the_primary(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    with FaultyProxy(socket_of(replicated)) as primary, FaultyProxy(socket_of(replicated)) as other:
        config = replace(through(primary, replicated), max_connections=2, **EVERY_TIME)
        main = await manager.add_postgresql("main", config)
        gone = through(other, replace(replicated, replicas=()))
        none = await manager.add_postgresql("none", replace(replicated, replicas=[gone], **EVERY_TIME))
        other.mode = "refuse"
        assert await readers(none) == {PRIMARY}
        assert await readers(main) == {FIRST, SECOND}
        primary.mode = "refuse"
        primary.cut()
        assert await readers(main) == {FIRST, SECOND}
        with pytest.raises(ConnectError):
            await main.fetch_value(WHO)
        status = (await manager.health_check())["main"]
        assert (status.healthy, [each.healthy for each in status.replicas]) == (False, [True, True])
        await manager.aclose()


async def test_of_several_hosts_the_one_that_was_asked_for_is_found(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig
) -> None:
    first = replicated.replicas[0]
    assert isinstance(first, PostgreSQLConfig)
    config = replace(replicated, replicas=(), host=f"/nowhere,{first.host},{replicated.host}")
    for wanted, name in (("read-write", PRIMARY), ("primary", PRIMARY), ("standby", FIRST), ("any", FIRST)):
        database = await manager.add_postgresql(wanted, replace(config, target_session_attrs=wanted))
        assert await database.fetch_value(WHO) == name
    with pytest.raises(ConnectError, match="session is read-only"):
        only = f"/nowhere,{first.host}"
        await manager.add_postgresql(
            "x", replace(config, host=only, target_session_attrs="read-write", connect_timeout=1)
        )


async def test_no_password_and_no_url_is_shown(manager: AsyncDatabaseManager, replicated: PostgreSQLConfig) -> None:
    secret = "S3cret-of-a-replica"
    urls = [f"postgresql://postgres:{secret}@/?host={replicated.host}", f"postgresql://:{secret}@127.0.0.1:1/x"]
    config = replace(replicated, replicas=urls)
    main = await manager.add_postgresql("main", config)
    assert await readers(main, 2) == {PRIMARY}
    shown = repr(await manager.health_check()) + repr(main.replica_stats()) + repr(config)
    assert secret not in shown
    assert "postgresql://" not in shown
    assert shown.count("main/replica-2") == 2
    assert [(each.database, each.username, each.port) for each in main.config.replicas] == [
        (replicated.database, "postgres", 5432),
        ("x", "postgres", 1),
    ]


async def test_wrong_arguments_are_refused(
    manager: AsyncDatabaseManager, replicated: PostgreSQLConfig, tmp_path: Path
) -> None:
    files = await manager.add_sqlite("files", SQLiteConfig(path=str(tmp_path / "x.db")))
    main = await manager.add_postgresql("main", replicated)
    for database in (main, files):
        token = await database.position()
        for wrong in ("", "now", "0/", "0/0; DROP TABLE t", "0/" + "F" * 9, "\0", 5, token.encode()):
            with pytest.raises(ValidationError, match="no position"):
                await database.fetch_value("SELECT 1", read_only=True, after=wrong)  # type: ignore[arg-type]
            with pytest.raises(ValidationError, match="no position"):
                database.transaction(read_only=True, after=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="read_only=True"):
            await database.fetch_value("SELECT 1", after=token)
        with pytest.raises(ReadOnlyError):
            await database.fetch_value("CREATE TABLE x (n integer)", read_only=True)
        assert await database.fetch_value("SELECT 1", read_only=True, after=token) == 1
    async with main.transaction(read_only=True) as transaction:
        with pytest.raises(TransactionError, match="on the transaction"):
            await transaction.fetch_value("SELECT 1", read_only=True, after="0/1")
        with pytest.raises(TransactionError, match="on the outermost"):
            async with transaction.transaction(read_only=True, after="1/0"):
                raise AssertionError
    await main.aclose()
    with pytest.raises(ClosedError):
        await main.fetch_value("SELECT 1", read_only=True)
    with pytest.raises(ClosedError):
        await main.position()

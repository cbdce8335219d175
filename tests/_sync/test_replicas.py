# Generated from ../_async/test_replicas.py by tests/unasync.py: edit that one.
"""Reads from streaming replicas: who answers, who is left out and comes back, and reading what was just written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from checkpoint import DatabaseCheckpointer, Checkpoint
from persistence import (
    Database,
    DatabaseManager,
    PostgreSQLDatabase,
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
from tests._sync.side import elsewhere, sleep, together
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


def readers(database: Database, reads: int = 6) -> set[str]:
    return {database.fetch_value(WHO, read_only=True) for _ in range(reads)}


def made(manager: DatabaseManager, config: PostgreSQLConfig, **options: Any) -> PostgreSQLDatabase:
    database = manager.add_postgresql("main", replace(config, **options))
    database.execute("CREATE TABLE t (n integer)")
    return database


def test_reads_go_to_the_primary_unless_asked_and_then_to_each_replica_in_turn(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = manager.add_postgresql("main", replicated)
    assert {main.fetch_value(WHO) for _ in range(4)} == {PRIMARY}
    assert readers(main) == {FIRST, SECOND}
    who = {"current_setting": FIRST}, {"current_setting": SECOND}
    assert main.fetch_one(WHO, read_only=True) in who
    assert (main.fetch_all(WHO, read_only=True))[0] in who
    assert (main.fetch_batch([(WHO, None), ("SELECT 1 AS one", None)], read_only=True))[0][0] in who
    numbered = f"{WHO} AS who, n FROM generate_series(1, 5) AS n"
    found = [row for row in main.iterate(numbered, key="n", batch_size=2, read_only=True)]
    assert [row["n"] for row in found] == [1, 2, 3, 4, 5]
    assert {row["who"] for row in found} <= {FIRST, SECOND}
    with main.transaction(read_only=True, isolation="repeatable read") as transaction:
        assert transaction.fetch_value(WHO) in (FIRST, SECOND)
        assert main.fetch_value(WHO, read_only=True) == main.fetch_value(WHO)
    with main.transaction(read_only=True, isolation="serializable"):
        assert main.fetch_value(WHO) == PRIMARY  # replicas have no such transactions
    assert main.run_transaction(lambda tx: tx.fetch_value(WHO), read_only=True) in (FIRST, SECOND)
    stats = main.replica_stats()
    assert list(stats) == ["main/replica-1", "main/replica-2"]
    assert all(each.requests > 3 and each.in_use == 0 for each in stats.values())


def test_the_least_busy_replica_answers(manager: DatabaseManager, replicated: PostgreSQLConfig) -> None:
    main = manager.add_postgresql("main", replicated)
    with main.transaction(read_only=True) as transaction:
        busy = transaction.fetch_value(WHO)
        free = {FIRST, SECOND} - {busy}

        def read() -> set[str]:
            return readers(main, 4)

        assert together(read) == [free]
    assert readers(main) == {FIRST, SECOND}


def test_what_was_said_to_read_only_writes_nowhere(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = made(manager, replicated)
    for write in ("INSERT INTO t VALUES (1) RETURNING n", "WITH x AS (DELETE FROM t RETURNING n) SELECT n FROM x"):
        with pytest.raises(ReadOnlyError, match="read_only=True"):
            main.fetch_all(write, read_only=True)
        with pytest.raises(ReadOnlyError):
            main.fetch_batch([(WHO, None), (write, None)], read_only=True)
        with main.transaction() as transaction:
            with pytest.raises(ReadOnlyError):
                transaction.fetch_all(write, read_only=True)
    with pytest.raises(ReadOnlyError):
        with main.transaction(read_only=True):
            main.execute("INSERT INTO t VALUES (1)")
    assert main.fetch_value("SELECT count(*) FROM t") == 0


def test_a_read_whose_time_is_up_ends_at_its_deadline(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = made(manager, replicated)
    for read in (
        lambda: main.fetch_value("SELECT pg_sleep(1)", read_only=True, timeout=0),
        lambda: main.fetch_batch([("SELECT pg_sleep(1)", None)], read_only=True, timeout=0),
    ):
        with pytest.raises(DeadlineError):
            read()
    assert main.fetch_value("SELECT 1", read_only=True) == 1


def test_a_lagging_replica_is_left_out_and_returns_by_itself(
    manager: DatabaseManager, replicated: PostgreSQLConfig, servers: TestServers
) -> None:
    main = made(manager, replicated, max_replica_lag=0.05, **EVERY_TIME)
    pause(servers, 1)
    main.execute("INSERT INTO t VALUES (1)")
    servers.replica_set.wait_for_replicas(2)  # on a busy machine it lags as well at first
    sleep(0.06)  # so long does the lag have to last
    assert readers(main) == {SECOND}
    status = (manager.health_check())["main"]
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
    main.execute("INSERT INTO t VALUES (2)")
    sleep(0.06)
    assert readers(main) == {PRIMARY}
    for number in (1, 2):
        servers.replica_set.run(number, RESUME)
    servers.replica_set.wait_for_replicas()
    assert readers(main) == {FIRST, SECOND}
    assert [each.healthy for each in (manager.health_check())["main"].replicas] == [True, True]


def test_a_read_after_a_write_sees_it_though_every_replica_is_behind(
    manager: DatabaseManager, replicated: PostgreSQLConfig, servers: TestServers
) -> None:
    main = made(manager, replicated, replica_wait=0.02)
    checkpointer = DatabaseCheckpointer(manager, "main")
    checkpointer.save_checkpoint(Checkpoint("t", {"n": 1}))
    servers.replica_set.wait_for_replicas()
    readers(main)
    for number in (1, 2):
        pause(servers, number)
    with main.transaction() as transaction:
        transaction.execute("INSERT INTO t VALUES (7)")
        checkpointer.save_checkpoint(Checkpoint("t", {"n": 2}))
        assert transaction.position is None
    token = transaction.position
    assert token is not None
    count = "SELECT count(*) FROM t"
    # The control: without the token they are read from all the same, and are stale.
    assert main.fetch_value(count, read_only=True) == 0
    assert main.fetch_value(count, read_only=True, after=token) == 1
    assert main.fetch_value(WHO, read_only=True, after=token) == PRIMARY
    assert main.fetch_batch([(count, None)], read_only=True, after=token) == [[{"count": 1}]]
    assert main.run_transaction(lambda each: each.fetch_value(count), read_only=True, after=token) == 1
    with main.transaction(read_only=True):
        assert (checkpointer.load_checkpoint("t")).state == {"n": 1}
    with main.transaction(read_only=True, after=token):
        assert (checkpointer.load_checkpoint("t")).state == {"n": 2}
    assert parse_position(main.position()) >= parse_position(token)
    for number in (1, 2):
        servers.replica_set.run(number, RESUME)
    servers.replica_set.wait_for_replicas()
    assert {main.fetch_value(WHO, read_only=True, after=token) for _ in range(6)} <= {FIRST, SECOND}


def test_a_replica_that_is_busy_is_not_ill(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    likewise = replace(postgresql_config, max_connections=1)  # the server itself, as its own replica
    main = made(manager, postgresql_config, replicas=[likewise], replica_check_interval=60, replica_wait=0.05)
    assert main.fetch_value("SELECT count(*) FROM t", read_only=True) == 0
    main.execute("INSERT INTO t VALUES (1)")
    token = main.position()
    with main.transaction(read_only=True) as transaction:
        assert transaction.fetch_value("SELECT count(*) FROM t") == 1
        read = partial(main.fetch_value, "SELECT count(*) FROM t", read_only=True, after=token)
        assert elsewhere(read) == 1
        assert main.replicas is not None
        assert [(each.state.is_usable, each.state.error) for each in main.replicas.all] == [(True, None)]
        assert main.replica_stats()["main/replica-1"].in_use == 1


def test_a_replica_that_does_not_say_in_time_how_far_it_is_is_not_ill(
    manager: DatabaseManager, postgresql_config: PostgreSQLConfig
) -> None:
    with FaultyProxy(socket_of(postgresql_config)) as proxy:
        likewise = through(proxy, postgresql_config)
        main = made(manager, postgresql_config, replicas=[likewise], replica_check_interval=60, replica_wait=0.05)
        assert main.fetch_value("SELECT count(*) FROM t", read_only=True) == 0
        main.execute("INSERT INTO t VALUES (1)")
        token = main.position()
        proxy.mode = "black hole"
        assert main.fetch_value("SELECT count(*) FROM t", read_only=True, after=token) == 1  # the primary
        assert main.replicas is not None
        assert [(each.state.is_usable, each.state.error) for each in main.replicas.all] == [(True, None)]


def test_reads_right_after_writes_are_never_stale(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    main = made(manager, replicated)
    main.execute("INSERT INTO t VALUES (0)")
    seen = []
    for turn in range(1, 101):
        main.execute("UPDATE t SET n = :n", {"n": turn})
        token = main.position()
        seen.append(main.fetch_value("SELECT n FROM t", read_only=True, after=token))
    assert seen == list(range(1, 101))
    assert sum(each.requests for each in main.replica_stats().values()) > 50  # it was not the primary that answered


def test_a_replica_that_was_down_at_start_is_left_out_and_returns(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    first, second = replicated.replicas
    assert isinstance(first, PostgreSQLConfig)
    with FaultyProxy(socket_of(first)) as proxy:
        proxy.mode = "refuse"
        config = replace(replicated, replicas=[through(proxy, first), second], **EVERY_TIME)
        main = manager.add_postgresql("main", config)
        assert readers(main) == {SECOND}
        status = (manager.health_check())["main"]
        assert [each.healthy for each in status.replicas] == [False, True]
        assert "can't connect" in (status.replicas[0].error or "")
        proxy.mode = "pass"
        assert readers(main) == {FIRST, SECOND}
        # It goes away under open connections: the read that finds out is answered by somebody else.
        proxy.mode = "refuse"
        proxy.cut()
        assert readers(main) == {SECOND}
        manager.close()


def test_reads_go_on_without_any_replica_and_without_the_primary(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    with FaultyProxy(socket_of(replicated)) as primary, FaultyProxy(socket_of(replicated)) as other:
        config = replace(through(primary, replicated), max_connections=2, **EVERY_TIME)
        main = manager.add_postgresql("main", config)
        gone = through(other, replace(replicated, replicas=()))
        none = manager.add_postgresql("none", replace(replicated, replicas=[gone], **EVERY_TIME))
        other.mode = "refuse"
        assert readers(none) == {PRIMARY}
        assert readers(main) == {FIRST, SECOND}
        primary.mode = "refuse"
        primary.cut()
        assert readers(main) == {FIRST, SECOND}
        with pytest.raises(ConnectError):
            main.fetch_value(WHO)
        status = (manager.health_check())["main"]
        assert (status.healthy, [each.healthy for each in status.replicas]) == (False, [True, True])
        manager.close()


def test_of_several_hosts_the_one_that_was_asked_for_is_found(
    manager: DatabaseManager, replicated: PostgreSQLConfig
) -> None:
    first = replicated.replicas[0]
    assert isinstance(first, PostgreSQLConfig)
    config = replace(replicated, replicas=(), host=f"/nowhere,{first.host},{replicated.host}")
    for wanted, name in (("read-write", PRIMARY), ("primary", PRIMARY), ("standby", FIRST), ("any", FIRST)):
        database = manager.add_postgresql(wanted, replace(config, target_session_attrs=wanted))
        assert database.fetch_value(WHO) == name
    with pytest.raises(ConnectError, match="session is read-only"):
        only = f"/nowhere,{first.host}"
        manager.add_postgresql(
            "x", replace(config, host=only, target_session_attrs="read-write", connect_timeout=1)
        )


def test_no_password_and_no_url_is_shown(manager: DatabaseManager, replicated: PostgreSQLConfig) -> None:
    secret = "S3cret-of-a-replica"
    urls = [f"postgresql://postgres:{secret}@/?host={replicated.host}", f"postgresql://:{secret}@127.0.0.1:1/x"]
    config = replace(replicated, replicas=urls)
    main = manager.add_postgresql("main", config)
    assert readers(main, 2) == {PRIMARY}
    shown = repr(manager.health_check()) + repr(main.replica_stats()) + repr(config)
    assert secret not in shown
    assert "postgresql://" not in shown
    assert shown.count("main/replica-2") == 2
    assert [(each.database, each.username, each.port) for each in main.config.replicas] == [
        (replicated.database, "postgres", 5432),
        ("x", "postgres", 1),
    ]


def test_wrong_arguments_are_refused(
    manager: DatabaseManager, replicated: PostgreSQLConfig, tmp_path: Path
) -> None:
    files = manager.add_sqlite("files", SQLiteConfig(path=str(tmp_path / "x.db")))
    main = manager.add_postgresql("main", replicated)
    for database in (main, files):
        token = database.position()
        for wrong in ("", "now", "0/", "0/0; DROP TABLE t", "0/" + "F" * 9, "\0", 5, token.encode()):
            with pytest.raises(ValidationError, match="no position"):
                database.fetch_value("SELECT 1", read_only=True, after=wrong)  # type: ignore[arg-type]
            with pytest.raises(ValidationError, match="no position"):
                database.transaction(read_only=True, after=wrong)  # type: ignore[arg-type]
        with pytest.raises(ValidationError, match="read_only=True"):
            database.fetch_value("SELECT 1", after=token)
        with pytest.raises(ReadOnlyError):
            database.fetch_value("CREATE TABLE x (n integer)", read_only=True)
        assert database.fetch_value("SELECT 1", read_only=True, after=token) == 1
    with main.transaction(read_only=True) as transaction:
        with pytest.raises(TransactionError, match="on the transaction"):
            transaction.fetch_value("SELECT 1", read_only=True, after="0/1")
        with pytest.raises(TransactionError, match="on the outermost"):
            with transaction.transaction(read_only=True, after="1/0"):
                raise AssertionError
    main.close()
    with pytest.raises(ClosedError):
        main.fetch_value("SELECT 1", read_only=True)
    with pytest.raises(ClosedError):
        main.position()

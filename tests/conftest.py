"""What every test may ask for: the servers of this run, and a database or key space of its own."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from persistence import PgVectorConfig, PostgreSQLConfig, RedisConfig
from tests.canary import (  # noqa: F401 - pytest's hooks
    pytest_configure,
    pytest_runtest_makereport,
    pytest_runtest_teardown,
    pytest_warning_recorded,
)
from tests.servers import TestServers


def pytest_collection_finish() -> None:
    """Spare the garbage collector what was collected: going through 13,000 tests takes it a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def servers() -> Iterator[TestServers]:
    """Start the servers on first use and stop them at the end of the run."""
    with TestServers() as running:
        yield running


@pytest.fixture
def postgresql_config(request: pytest.FixtureRequest, servers: TestServers) -> Iterator[PostgreSQLConfig]:
    """A fresh database, with the extension ``vector`` and the tables of the packages that the mark ``tables`` names.

    The mark spares a test the migrations, most of the time of a small one; one that wants none of its module's tables
    says ``tables()``.
    """
    mark = request.node.get_closest_marker("tables")
    config = servers.fresh_database(*(() if mark is None else mark.args))
    yield config
    servers.drop_database(config)


@pytest.fixture(scope="module")
def open_folder() -> Iterator[Path]:
    """A folder in which servers of other users find their files.

    It is not below pytest's, which any other run of pytest, such as one that a test begins, closes to other users.
    """
    with tempfile.TemporaryDirectory(prefix="holdfast-tests-open-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def pgvector_config(postgresql_config: PostgreSQLConfig) -> PgVectorConfig:
    """The same fresh database, for vectors of 3 dimensions."""
    return PgVectorConfig(
        **{item.name: getattr(postgresql_config, item.name) for item in fields(postgresql_config)}, dimensions=3
    )


@pytest.fixture
def replicated(servers: TestServers) -> Iterator[PostgreSQLConfig]:
    """An empty database on a primary and, as its ``replicas``, on two streaming ones; nobody else uses them now."""
    with servers.replica_set.database() as config:
        yield config


@pytest.fixture
def redis_config(servers: TestServers) -> Iterator[RedisConfig]:
    """An empty Redis database."""
    config = servers.fresh_redis()
    yield config
    servers.release_redis(config)

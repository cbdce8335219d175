# Generated from ../_async/cluster/conftest.py by tests/unasync.py: edit that one.
"""Here ``redis_config`` is a Redis Cluster of six, and the contracts are those of the stores on one Redis.

``HOLDFAST_FAULTS=full`` runs them whole; otherwise it is the tests in FAST, of each the first form: those that touch
several threads, users or slots, or many calls at once, for one slot behaves as one server does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest

from checkpoint import DatabaseCheckpointer
from persistence import DatabaseManager, RedisConfig
from tests.servers import TestServers

FULL = os.environ.get("HOLDFAST_FAULTS") == "full"
FAST = frozenset(
    """
    test_a_rich_state_comes_back_equal_and_of_the_same_types
    test_two_threads_have_the_same_versions_and_their_own_states
    test_threads_are_listed_by_id_with_a_cursor
    test_a_delete_never_reaches_another_thread_or_namespace
    test_of_writers_that_expect_the_same_version_exactly_one_wins_each_round
    test_a_fork_begins_a_thread_that_shares_nothing_with_the_old_one
    test_a_fork_of_what_is_not_there_or_onto_what_is_there_is_refused
    test_a_copied_thread_has_everything_and_is_its_own
    test_a_copy_onto_a_thread_that_is_there_is_refused
    test_a_copy_is_sealed_to_its_new_thread_and_nothing_is_left_beside_it
    test_writes_forks_and_copies_to_an_expired_thread_begin_it_anew
    test_a_rewind_saves_an_earlier_state_again_and_keeps_everything
    test_pending_writes_register_their_thread
    test_threads_are_found_by_the_metadata_of_their_latest_checkpoint
    test_a_prune_of_every_thread_reaches_each_namespace_in_batches
    test_expired_threads_are_deleted_and_no_others
    test_threads_that_nobody_uses_are_deleted_by_age_and_by_metadata
    test_a_value_comes_back_as_it_was
    test_an_agent_reads_what_is_for_everybody_for_it_and_for_its_topics
    test_a_cleanup_for_all_users_is_for_the_tenant_to_call
    test_users_do_not_see_count_or_remove_what_is_anothers
    test_tenants_with_equal_ids_are_apart
    test_every_call_is_one_request
    test_a_closed_manager_says_so
    test_pages_lead_both_ways
    test_a_fork_copies_the_beginning_and_goes_its_own_way
    test_a_summary_moves_the_context_and_deletes_nothing
    test_tenants_with_equal_ids_never_meet
    test_tenants_with_odd_names_have_keys_of_their_own
    test_a_users_sessions_are_listed_by_their_newest_activity
    test_of_sixteen_writers_of_different_keys_none_is_lost
    test_each_call_is_one_statement
    test_keys_end_by_themselves_and_are_forgotten
    test_threads_are_listed_by_their_newest_activity
    test_a_thread_is_moved_to_a_known_session_only
    """.split()
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests of a contract that need no Redis, and all but a few in a quick run."""
    here, seen = Path(__file__).parent, set()

    def is_wanted(item: pytest.Item) -> bool:
        if here not in item.path.parents:
            return True
        if not isinstance(item, pytest.Function) or "redis_config" not in item.fixturenames:
            return False
        name = f"{item.path.name}::{item.originalname}"
        first = name not in seen
        seen.add(name)
        return FULL or item.path.name == "test_cluster.py" or (first and item.originalname in FAST)

    items[:] = [item for item in items if is_wanted(item)]


@pytest.fixture
def redis_config(servers: TestServers) -> Iterator[RedisConfig]:
    """An empty cluster, which nobody else uses now."""
    with servers.redis_cluster.empty() as config:
        yield config


@pytest.fixture
def checkpointer(manager: DatabaseManager, redis_config: RedisConfig) -> DatabaseCheckpointer:
    """An empty checkpointer."""
    manager.add_redis("main", redis_config)
    return DatabaseCheckpointer(manager, "main")

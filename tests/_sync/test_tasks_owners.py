# Generated from ../_async/test_tasks_owners.py by tests/unasync.py: edit that one.
"""The contract of owners: who sees, moves and deletes what, and that upkeep touches nobody's running work."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import pytest

from persistence import (
    Database,
    DatabaseManager,
    ConflictError,
    ForeignKeyError,
    NotFoundError,
    ValidationError,
)
from persistence._sync.compat import Parallel
from sessions import EventLog, TaskStore, LeaseLostError, Task
from tests._sync import taskstores
from tests._sync.taskstores import Backend

pytestmark = pytest.mark.tables("sessions")

backend, tasks, elsewhere = taskstores.backend, taskstores.tasks, taskstores.elsewhere
shared_config, parallel = taskstores.shared_config, taskstores.parallel

DAY = timedelta(days=1)


def test_an_owner_sees_changes_and_counts_nothing_of_another(
    tasks: TaskStore, elsewhere: TaskStore
) -> None:
    mine, theirs = tasks.for_owner("i1"), elsewhere.for_owner("i2")
    own = mine.add(Task(kind="work", key="k", metadata={"n": 1}))
    other = theirs.add(Task(kind="work", key="k", metadata={"n": 1}))
    common = tasks.add(Task(kind="work", key="k"))
    assert (own.owner, own.shared, mine.owner, tasks.owner) == ("i1", False, "i1", None)
    assert [store.find() for store in (mine, theirs, tasks)] == [[own], [other], [common]]
    assert tasks.all_owners().find() == [common, other, own]
    assert [(store.counts())["pending"] for store in (mine, theirs, tasks, tasks.all_owners())] == [1, 1, 1, 3]
    assert mine.get_many([own.id or "", other.id or "", "nobody"]) == [own]
    assert mine.get_many([]) == []
    ids = sorted(task.id or "" for task in (common, other, own))
    assert [task.id for task in tasks.all_owners().get_many(ids[::-1])] == ids
    new = Task(kind="k", id="new")
    with pytest.raises(ForeignKeyError):
        tasks.add_many([Task(kind="k", id=own.id), new, Task(kind="k", parent_id="nobody")])
    assert [task.id for task in tasks.all_owners().add_many([Task(kind="k", id=own.id), new])] == [own.id, "new"]
    assert mine.latest("work") == own
    for call in (mine.get, mine.cancel, mine.escalate, mine.retry):
        with pytest.raises(NotFoundError):
            call(other.id or "")
    with pytest.raises(NotFoundError):
        mine.defer(other.id or "", 5)
    assert mine.delete(other.id or "") is False
    (held,) = theirs.claim_next("work", n=1)
    assert held.id == other.id
    for call in (mine.complete, mine.renew, mine.release):
        with pytest.raises(NotFoundError):
            call(held)
    assert [task.id for task in mine.claim_next("work", n=9)] == [own.id, common.id]
    assert mine.find(status="active") == mine.find()
    assert theirs.claim_next("work", n=9) == []
    assert theirs.get(other.id or "") == held


def test_tenants_are_apart(backend: Backend, tasks: TaskStore) -> None:
    other = backend.store(tenant="other")
    assert (tasks.claim("WAKEUP", "i1", key="d"))[1] is True
    assert (other.claim("WAKEUP", "i1", key="d"))[1] is True
    assert other.find() == [other.get("WAKEUP:d")]
    assert other.delete_finished(1) == other.hand_over("i2") == 0


def test_who_was_given_what_is_audited_in_the_transaction_that_moves_it(
    manager: DatabaseManager, database: Database
) -> None:
    log = EventLog(manager, "main")
    tasks = TaskStore(manager, "main", audit=log)
    tasks.for_owner("i1").add(Task(id="t", kind="work"))
    tasks.transfer("t", "i1", "i2")
    with pytest.raises(ConflictError):
        tasks.transfer("t", "i1", "i3")
    with pytest.raises(ZeroDivisionError):
        with database.transaction():
            tasks.for_owner("i2").transfer("t", "i2", None, with_children=False)
            raise ZeroDivisionError
    assert tasks.hand_over("i2", "i4") == 1
    assert tasks.hand_over("i2", "i4") == 0
    assert (tasks.all_owners().get("t")).owner == "i4"
    found = [(event.name, event.chain, event.tags) for event in log.query(kinds=["audit"], order="oldest")]
    moved = {"task": "t", "kind": "work", "from": "i1", "to": "i2", "with_children": True}
    assert found == [
        ("task.transfer", "tasks", moved),
        ("task.hand_over", "tasks", {"from": "i2", "to": "i4", "tasks": 1}),
    ]
    assert log.verify("tasks")
    manager.add_sqlite("elsewhere", "sqlite://")
    with pytest.raises(ValidationError, match="another connection"):
        TaskStore(manager, "main", audit=EventLog(manager, "elsewhere"))


def test_a_transfer_takes_place_if_the_owner_still_is_the_one(tasks: TaskStore) -> None:
    tasks.for_owner("i1").add(Task(id="t", kind="work"))
    (held,) = tasks.for_owner("i1").claim_next("work")
    for wrong in ("i2", None):
        with pytest.raises(ConflictError, match="owner 'i1'"):
            tasks.transfer("t", wrong, "i3")
    with pytest.raises(NotFoundError):
        tasks.transfer("nobody", "i1", "i2")
    assert tasks.all_owners().get("t") == held
    moved = tasks.transfer("t", "i1", "i2")
    assert (moved.owner, moved.status, moved.attempts, moved.token) == ("i2", "pending", 0, held.token + 1)
    with pytest.raises(LeaseLostError):
        tasks.complete(held)
    with pytest.raises(ConflictError):
        tasks.transfer("t", "i1", "i2")
    assert tasks.claim_next("work", "i1") == []
    assert [task.id for task in tasks.claim_next("work", "i2")] == ["t"]


def test_a_transfer_takes_along_the_children_that_the_same_owner_has(tasks: TaskStore) -> None:
    mine = tasks.for_owner("i1")
    mine.add_many([Task(id="t", kind="task"), Task(id="c1", kind="thought", parent_id="t")])
    mine.add_many([Task(id="c2", kind="thought", parent_id="c1"), Task(id="done", kind="d", parent_id="t")])
    tasks.for_owner("i3").add(Task(id="theirs", kind="thought", parent_id="t"))
    mine.complete((mine.claim_next("d"))[0])
    (held,) = mine.claim_next("thought")
    assert held.id == "c1"
    tasks.transfer("t", "i1", "i2")
    everyone = {task.id: (task.owner, task.status) for task in tasks.all_owners().find()}
    assert everyone == {
        "t": ("i2", "pending"),
        "c1": ("i2", "pending"),
        "c2": ("i2", "pending"),
        "done": ("i1", "completed"),
        "theirs": ("i3", "pending"),
    }
    tasks.transfer("t", "i2", "i4", with_children=False)
    assert [task.id for task in tasks.for_owner("i4").find()] == ["t"]


def test_a_shared_task_is_seen_by_everybody_after_it_was_handed_on(tasks: TaskStore) -> None:
    tasks.claim("WAKEUP", "i1", key="d")
    moved = tasks.transfer("WAKEUP:d", "i1", "i2")
    assert (moved.shared, moved.owner) == (True, "i2")
    assert tasks.latest("WAKEUP", within=DAY) == moved
    assert tasks.claim("WAKEUP", "i3", key="d") == (moved, False)
    held, created = tasks.claim("WAKEUP", "i2", key="d")
    assert created
    tasks.complete(held)
    assert tasks.is_completed("WAKEUP", within=DAY) is True
    assert tasks.claim("WAKEUP", "i3", key="d") == (tasks.get("WAKEUP:d"), False)


def test_a_shared_task_that_its_new_owner_does_not_claim_is_anybodys_again(
    tasks: TaskStore, backend: Backend, parallel: Parallel
) -> None:
    handed = []
    for key in ("freed", "keyed", "next", "late"):
        tasks.claim("WAKEUP", "i1", key=key)
        handed.append(tasks.transfer(f"WAKEUP:{key}", "i1", "i2", lease=90))
    freed, keyed, following, late = handed
    assert freed.wake_at is not None
    assert freed.updated_at is not None
    assert (freed.wake_at - freed.updated_at, freed.status, freed.attempts) == (timedelta(seconds=90), "pending", 0)
    assert tasks.release_expired() == 0
    assert tasks.claim_next("WAKEUP", "i3", 9) == []
    assert tasks.claim("WAKEUP", "i3", key="keyed") == (keyed, False)

    backend.lapse(freed)
    assert tasks.release_expired() == 1
    found = tasks.get("WAKEUP:freed")
    assert (found.owner, found.status, found.wake_at, found.error) == (None, "pending", None, None)
    backend.lapse(keyed)
    results = parallel.run([partial(tasks.claim, "WAKEUP", f"i{n}", key="keyed") for n in range(3, 11)])
    (held,) = [task for task, created in results if created]
    assert (held.status, held.attempts, held.token > keyed.token) == ("active", 1, True)
    backend.lapse(following)
    assert [task.id for task in tasks.claim_next("WAKEUP", "i3", 9)] == ["WAKEUP:freed", "WAKEUP:next"]
    backend.lapse(late)
    assert [task.id for task in tasks.claim_next("WAKEUP", "i2", 9)] == ["WAKEUP:late"]
    own = tasks.for_owner("i1").add(Task(kind="chore"))
    moved = tasks.transfer(own.id or "", "i1", "i2")
    assert (moved.owner, moved.shared, moved.wake_at) == ("i2", False, None)


def test_a_deferred_task_that_was_handed_on_waits_for_its_new_owner_when_it_is_due(
    tasks: TaskStore, backend: Backend
) -> None:
    for task_id in ("first", "second", "WAKEUP:third"):
        tasks.add(Task(kind="WAKEUP", **{"key": "third"} if ":" in task_id else {"id": task_id}))
        tasks.defer(task_id, 60)
    first, second, third = [
        tasks.transfer(task_id, None, "i2", lease=90) for task_id in ("first", "second", "WAKEUP:third")
    ]
    assert {(task.owner, task.status) for task in (first, second, third)} == {("i2", "deferred")}
    for task in (first, second, third):
        backend.lapse(task)
    assert tasks.claim("WAKEUP", "i3", key="third") == (tasks.get("WAKEUP:third"), False)
    assert tasks.claim_next("WAKEUP", "i3", 9) == []  # it sees that they are due
    due = tasks.get("first")
    assert (due.owner, due.status, due.lease) == ("i2", "pending", timedelta(seconds=90))
    assert due.wake_at is not None
    assert due.updated_at is not None
    assert timedelta(seconds=60) < due.wake_at - due.updated_at <= timedelta(seconds=90)
    assert [task.id for task in tasks.claim_next("WAKEUP", "i2")] == ["first"]
    backend.lapse(second)
    assert [task.id for task in tasks.claim_next("WAKEUP", "i3", 9)] == ["second"]
    tasks.defer("WAKEUP:third", 60)
    backend.lapse(third, -91)
    assert (tasks.claim("WAKEUP", "i3", key="third"))[1] is True


def test_an_owner_that_shuts_down_gives_back_what_was_handed_to_it(tasks: TaskStore) -> None:
    tasks.claim("WAKEUP", "i1", key="d")
    tasks.add(Task(id="later", kind="work"))
    tasks.defer("later", 60)
    tasks.transfer("later", None, "i1")
    assert tasks.hand_over("i1", "i2", lease=90) == 2
    handed = tasks.get("WAKEUP:d")
    assert (handed.owner, handed.lease, handed.wake_at is not None) == ("i2", timedelta(seconds=90), True)
    tasks.for_owner("i2").add(Task(id="own", kind="work"))
    assert tasks.hand_over("i2") == 2
    states = {task.id: (task.owner, task.status) for task in tasks.all_owners().find()}
    assert states == {"WAKEUP:d": (None, "pending"), "later": (None, "deferred"), "own": ("i2", "pending")}
    assert (tasks.get("WAKEUP:d")).wake_at is None
    assert tasks.hand_over("i2") == 0
    assert (tasks.claim("WAKEUP", "i3", key="d"))[1] is True


def test_an_owner_that_shuts_down_lets_go_of_what_it_holds(tasks: TaskStore) -> None:
    mine = tasks.for_owner("i1")
    mine.add_many([Task(id="own", kind="work"), Task(id="waits", kind="work")])
    tasks.add(Task(id="shared", kind="work", priority=1))
    held = mine.claim_next("work", n=2)
    assert [task.id for task in held] == ["shared", "own"]
    assert mine.hand_over() == 2
    states = {task.id: (task.owner, task.status, task.attempts) for task in tasks.all_owners().find()}
    assert states == {
        "own": ("i1", "pending", 0),
        "waits": ("i1", "pending", 0),
        "shared": (None, "pending", 0),
    }
    for task in held:
        with pytest.raises(LeaseLostError):
            tasks.complete(task)
    assert mine.hand_over() == 0
    assert tasks.hand_over("i1", "i2") == 2
    assert [task.id for task in tasks.for_owner("i2").find()] == ["waits", "own"]
    assert mine.find() == []


def test_upkeep_touches_nobodys_running_work(tasks: TaskStore, backend: Backend) -> None:
    kept = []
    for owner in ("i1", "i2"):
        store = tasks.for_owner(owner)
        store.add(Task(id=f"{owner} old", kind="work"))
        backend.age((store.claim_next("work"))[0], 10 * 86400)
        kept.append(store.get(f"{owner} old"))
    fresh = tasks.add(Task(id="fresh", kind="work", priority=1))
    backend.age(fresh, 10 * 86400)
    assert tasks.release_expired() == 0
    assert tasks.delete_finished(1) == 0
    assert [tasks.all_owners().get(task.id or "") for task in kept] == kept
    backend.lapse(kept[0])
    assert tasks.release_expired() == 1
    assert [(tasks.all_owners().get(task.id or "")).status for task in kept] == ["pending", "active"]
    assert (tasks.complete(kept[1])).status == "completed"


def test_what_ended_long_ago_is_deleted_in_batches_children_first(
    tasks: TaskStore, backend: Backend
) -> None:
    tasks.add_many([Task(id=f"t{n}", kind="work") for n in range(5)])
    tasks.add_many([Task(id="child", kind="part", parent_id="t0"), Task(id="open", kind="p", parent_id="t1")])
    for task in tasks.claim_next(["work", "part"], "i1", 6):
        backend.age(tasks.complete(task), 2 * 86400)
    backend.age(tasks.get("t4"), 60)
    assert tasks.delete_finished(DAY, status="failed") == 0
    assert tasks.delete_finished(DAY, batch=2) == 4
    assert {task.id for task in tasks.find()} == {"t1", "open", "t4"}
    assert tasks.delete("t4") is True
    assert tasks.delete("t4") is False
    for task_id in ("t1", "open"):
        with pytest.raises(ConflictError):
            tasks.delete(task_id)


def test_latest_and_completed_look_at_one_kind_within_a_time(tasks: TaskStore, backend: Backend) -> None:
    assert tasks.latest("W_K", within=DAY) is None
    assert tasks.status("W_K") is None
    tasks.claim("WxK", "i1", key="d")
    tasks.claim("W_K_SHARED", "i1", key="d")
    assert tasks.latest("W_K") is None
    first, _ = tasks.claim("W_K", "i1", key="1")
    assert (tasks.status("W_K"), tasks.is_completed("W_K")) == ("active", False)
    done = tasks.complete(first)
    assert tasks.latest("W_K", within=60) == done
    assert tasks.is_completed("W_K", within=60) is True
    second, _ = tasks.claim("W_K", "i2", key="2")
    assert tasks.latest("W_K") == second
    assert tasks.latest("W_K", status="completed") == done
    backend.age(done, 2 * 86400)
    backend.age(second, 100_000)
    assert tasks.latest("W_K", within=DAY) is None
    assert tasks.is_completed("W_K", within=DAY) is False
    assert tasks.is_completed("W_K", within=3 * DAY) is True


def test_counts_are_right_and_cover_every_status(tasks: TaskStore, backend: Backend) -> None:
    none = dict.fromkeys(("pending", "active", "deferred", "completed", "failed", "cancelled", "rejected", "dead"), 0)
    assert tasks.counts() == none
    tasks.add_many([Task(kind="a") for _ in range(6)] + [Task(kind="b"), Task(kind="b", max_attempts=1)])
    held = tasks.claim_next("a", "i1", 5)
    tasks.complete(held[0])
    tasks.fail(held[1], "no")
    tasks.fail(held[2], "no", retry=False)
    tasks.reject(held[3], "no")
    tasks.cancel((tasks.find(kind="b"))[1].id or "")
    tasks.fail((tasks.claim_next("b", "i1"))[0], "no")
    every = {**none, "pending": 1, "active": 1, "deferred": 1, "completed": 1, "failed": 1, "rejected": 1}
    assert tasks.counts() == {**every, "cancelled": 1, "dead": 1}
    assert tasks.counts(kind="a") == every
    assert tasks.counts(kind=["b", "c"]) == {**none, "cancelled": 1, "dead": 1}
    for task in tasks.find(kind="b"):
        backend.age(task, 2 * 86400)
    assert tasks.counts(within=DAY) == every


def test_tasks_are_found_by_every_filter_newest_first_in_pages(tasks: TaskStore, backend: Backend) -> None:
    stored = tasks.add_many(
        [Task(kind="ab"[n % 2], level=n, metadata={"n": n, "even": n % 2 == 0}) for n in range(10)]
    )
    newest = stored[::-1]
    assert tasks.find() == newest
    assert tasks.find(limit=4) == newest[:4]
    pages = tasks.find(limit=4)
    while more := tasks.find(limit=4, after=pages[-1].cursor):
        pages += more
    assert pages == newest
    assert tasks.find(kind="a", level=5) == [task for task in newest if task.level in (6, 8)]
    assert tasks.find(kind=["a", "b"], where={"even": True, "n": 4.0}) == [stored[4]]
    assert tasks.find(where={"even": 1}) == []
    (held,) = tasks.claim_next("b", "i1")
    assert tasks.find(status="active") == [held]
    assert tasks.find(status=["active", "completed"], kind="a") == []
    backend.age(stored[0], 1000)
    assert [task.id for task in tasks.find(within=500)] == [task.id for task in newest[:-1]]

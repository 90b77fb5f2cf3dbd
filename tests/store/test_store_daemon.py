"""The store as the daemon uses it, on each supported database."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.core import identity
from reconciler.core.errors import LeaseLost
from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind, Spec, TaskKey, Workload
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import writing
from tests.conftest import ids

if TYPE_CHECKING:
    from tests.conftest import Deployment

AT = datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=UTC)
LATER = timedelta(hours=1)


def intent(w: Workload, at: datetime = AT) -> tuple[Workload, Workload]:
    return w, w.moved(Phase.LAUNCHING, at, attempt=w.attempt + 1, intent_at=at, cluster="c", family="f", params={})


def test_every_field_of_a_workload_comes_back_as_it_went_in(prod: Deployment) -> None:
    key = TaskKey("dag", "täsk", "manual__2026-03-29T01:30:00+00:00", 3, 2)
    spec = Spec(
        '{"type": "ExecuteTask", "name": "ü"}', {"overrides": {"containerOverrides": [{"name": "a", "cpu": 1}]}}
    )
    berlin = timezone(timedelta(hours=2))
    status: dict[str, Any] = {
        "attempt": 3,
        "start_failures": 1,
        "not_before": AT.astimezone(berlin),
        "intent_at": AT + timedelta(microseconds=1),
        "profile": "gpu",
        "cluster": "arn:aws:ecs:eu-central-1:1:cluster/c",
        "family": "f" * 300,
        "params": {"tags": [{"key": "k", "value": "ü"}], "count": 1},
        "logs": {"group": "g", "region": "r", "prefix": "p/c"},
        "task_arn": "arn",
        "ecs_version": 2**40,
        "last_status": "RUNNING",
        "started_at": AT,
        "stopped_at": AT,
        "exit_code": 0,
        "stop_code": "s",
        "reason": "r" * 5000,
    }
    prod.queue(
        "x", kind=Kind.CALLBACK, ti_id="t", key=key, queue="q", team="red", priority=-3, owner_job_id=9, spec=spec
    )

    old = prod.get("x")
    new = old.moved(Phase.LAUNCHING, AT, **status)
    assert prod.store.save([(old, new)], prod.lease) == [new]

    assert prod.get("x") == replace(
        new, kind=Kind.CALLBACK, key=key, spec=spec, team="red", owner_job_id=9, created_at=old.created_at
    )
    not_before = prod.get("x").not_before
    assert not_before == AT
    assert not_before is not None
    assert not_before.tzinfo is UTC


def test_a_time_without_a_zone_is_refused(prod: Deployment) -> None:
    old = prod.queue("x")
    with pytest.raises(Exception, match="has no time zone"):
        prod.store.save([(old, old.moved(Phase.CANCELLED, AT.replace(tzinfo=None)))], prod.lease)
    assert prod.get("x") == old


def test_a_save_from_an_old_version_changes_nothing(prod: Deployment) -> None:
    old = prod.queue("x")
    current = prod.move("x", Phase.LAUNCHING)

    assert prod.store.save([(old, old.moved(Phase.CANCELLED, AT))], prod.lease) == []

    assert prod.get("x") == current


def test_the_winners_of_a_mixed_batch_are_written_and_the_losers_are_not(prod: Deployment) -> None:
    stale, fresh, intended = prod.queue("a"), prod.queue("b"), prod.queue("c")
    moved = prod.move("a", Phase.LAUNCHING)
    gone = replace(fresh, exec_id="gone")

    changes = [
        (stale, stale.moved(Phase.CANCELLED, AT)),
        (gone, gone.moved(Phase.CANCELLED, AT)),
        (fresh, fresh.moved(Phase.CANCELLED, AT, reason="because")),
        intent(intended),
        (fresh, fresh.moved(Phase.FAILED_START, AT)),
    ]
    won = prod.store.save(changes, prod.lease)

    assert {w.exec_id: w.phase for w in won} == {"b": Phase.CANCELLED, "c": Phase.LAUNCHING}
    assert prod.get("a") == moved
    assert prod.get("b").reason == "because"
    assert prod.get("c").phase is Phase.LAUNCHING


def test_a_save_whose_commit_was_not_heard_of_can_be_repeated(prod: Deployment) -> None:
    change = intent(prod.queue("x"))
    assert prod.store.save([change], prod.lease) == [change[1]]
    row, attempts = prod.get("x"), prod.attempts("x")

    assert prod.store.save([change], prod.lease) == []

    assert prod.get("x") == row
    assert prod.attempts("x") == attempts


def test_the_daemon_never_writes_the_columns_of_the_shim(prod: Deployment) -> None:
    prod.queue("x")
    read = prod.move("x", Phase.LAUNCHING, Phase.STARTED)
    prod.set("x", owner_job_id=8, acked_version=1, priority=5)
    forged = replace(read, desired=Desired.STOP, desired_reason="?", desired_at=AT, refused=True, owner_job_id=1)
    forged = replace(forged, spec=Spec("other"), queue="other", created_at=AT, acked_version=9)

    assert prod.store.save([(read, forged.moved(Phase.RUNNING, AT))], prod.lease)

    row = prod.get("x")
    assert row.phase is Phase.RUNNING
    assert (row.desired, row.desired_reason, row.desired_at, row.refused) == (Desired.RUN, None, None, False)
    assert (row.owner_job_id, row.acked_version, row.priority, row.queue) == (8, 1, 5, "default")
    assert (row.spec, row.created_at) == (read.spec, read.created_at)


def test_a_refused_workload_that_is_launched_again_is_not_refused_any_more(prod: Deployment) -> None:
    prod.queue("x")
    exited = prod.move("x", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    with writing(prod.engine).begin() as conn:
        shim.refuse(conn, [exited])
    assert ids(prod.store.failed_starts()) == ["x"]

    prod.move("x", Phase.PENDING)

    assert not prod.get("x").refused
    assert prod.store.failed_starts().workloads == ()


# The fence and the lease.


def test_a_leader_that_lost_its_lease_writes_nothing(prod: Deployment) -> None:
    old = prod.queue("x")
    prod.queue("done")
    prod.move("done", Phase.CANCELLED)
    prod.set("done", acked_version=2)
    prod.store.release(prod.lease)
    other = SqlStore(prod.engine, prod.name)
    taken = other.hold(prod.lease.name, "second", timedelta(minutes=5))
    assert taken is not None
    assert taken.epoch == prod.lease.epoch + 1

    with pytest.raises(LeaseLost, match="prod/shard"):
        prod.store.save([intent(old)], prod.lease)
    with pytest.raises(LeaseLost, match="prod/shard"):
        prod.store.prune(-LATER, 10, prod.lease)

    assert prod.get("x") == old
    assert prod.attempts("x") == []
    assert prod.store.prune(-LATER, 10, taken) == 1


def test_a_lease_that_has_run_out_still_counts_while_nobody_has_taken_it(prod: Deployment) -> None:
    old = prod.queue("x")
    prod.store.release(prod.lease)

    assert prod.store.save([intent(old)], prod.lease)

    assert prod.store.hold(prod.lease.name, prod.lease.holder, LATER) == prod.lease


def test_a_lease_is_not_given_to_another_while_it_runs(prod: Deployment) -> None:
    assert prod.store.hold(prod.lease.name, "second", LATER) is None
    assert prod.store.hold(prod.lease.name, prod.lease.holder, LATER) == prod.lease
    assert prod.store.hold("prod/other-shard", "second", LATER) is not None


def test_a_lease_that_ran_out_goes_to_whoever_asks_first_and_raises_the_epoch(prod: Deployment) -> None:
    assert prod.store.hold(prod.lease.name, prod.lease.holder, timedelta(seconds=-1)) == prod.lease

    second = prod.store.hold(prod.lease.name, "second", LATER)

    assert second is not None
    assert second.epoch == prod.lease.epoch + 1
    assert prod.store.hold(prod.lease.name, prod.lease.holder, LATER) is None


def test_only_the_holder_of_an_epoch_can_release_it(prod: Deployment) -> None:
    prod.store.release(replace(prod.lease, epoch=prod.lease.epoch - 1))
    prod.store.release(replace(prod.lease, holder="second"))

    assert prod.store.hold(prod.lease.name, "second", LATER) is None


# What is launchable.


def test_the_most_urgent_come_first_and_then_the_oldest(prod: Deployment) -> None:
    for exec_id, priority, minutes in [("a", 1, 0), ("b", 5, 2), ("c", 5, 1), ("d", 1, 0), ("e", 9, 9)]:
        prod.queue(exec_id, priority=priority)
        prod.set(exec_id, created_at=AT + timedelta(minutes=minutes))

    assert ids(prod.store.launchable(10)) == ["e", "c", "b", "a", "d"]
    assert ids(prod.store.launchable(2)) == ["e", "c"]
    assert prod.store.launchable(1).workloads[0].spec == Spec('{"id": "e"}', {"overrides": {"cpu": "256"}})


def test_only_what_is_pending_wanted_due_and_understood_is_launchable(prod: Deployment) -> None:
    for exec_id in ("due", "early", "late", "unwanted", "launching", "newer-form"):
        prod.queue(exec_id)
    now = prod.store.now()
    prod.set("early", not_before=now + LATER)
    prod.set("late", not_before=now - LATER)
    prod.set("unwanted", desired="STOP")
    prod.set("newer-form", spec_version=2)
    prod.move("launching", Phase.LAUNCHING)

    assert sorted(ids(prod.store.launchable(10))) == ["due", "late"]


@pytest.mark.parametrize(
    ("phases", "exit_code", "free"),
    [
        ([Phase.LAUNCHING], None, False),
        ([Phase.LAUNCHING], 1, False),
        ([Phase.LAUNCHING, Phase.STARTED], None, False),
        ([Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING], None, False),
        ([Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING], 0, True),
        ([Phase.LAUNCHING, Phase.STARTED, Phase.STOPPING], None, False),
        ([Phase.LAUNCHING, Phase.STARTED, Phase.STOPPING], 143, True),
        ([Phase.LAUNCHING, Phase.STARTED, Phase.EXITED], None, True),
        ([Phase.LAUNCHING, Phase.LOST], None, True),
        ([Phase.CANCELLED], None, True),
    ],
)
def test_a_live_container_of_the_same_task_instance_bars_the_next_launch(
    prod: Deployment, phases: list[Phase], exit_code: int | None, free: bool
) -> None:
    prod.queue("old", ti_id="ti")
    prod.move("old", *phases, exit_code=exit_code)
    new = prod.queue("new", ti_id="ti")

    assert ids(prod.store.launchable(10)) == (["new"] if free else [])
    change = intent(new)
    assert prod.store.save([change], prod.lease) == ([change[1]] if free else [])
    assert prod.get("new") == (change[1] if free else new)
    assert len(prod.attempts("new")) == (1 if free else 0)


def test_of_several_waiting_for_one_task_instance_only_the_newest_is_launched(prod: Deployment) -> None:
    for minutes, exec_id in enumerate(["c", "b", "a"]):
        prod.queue(exec_id, ti_id="ti")
        prod.set(exec_id, created_at=AT + timedelta(minutes=minutes))
    assert ids(prod.store.launchable(10)) == ["a"]

    prod.set("b", created_at=AT + timedelta(minutes=2))
    assert ids(prod.store.launchable(10)) == ["b"], "of the same moment, one"


def test_two_intents_for_one_task_instance_in_one_batch_make_one_launch(prod: Deployment) -> None:
    a, b = prod.queue("a", ti_id="ti"), prod.queue("b", ti_id="ti")

    won = prod.store.save([intent(a), intent(b)], prod.lease)

    assert len(won) == 1
    assert sorted(prod.get(exec_id).phase for exec_id in "ab") == [Phase.LAUNCHING, Phase.PENDING]


def test_workloads_without_a_task_instance_do_not_bar_each_other(prod: Deployment) -> None:
    a, b = prod.queue("a", ti_id=None), prod.queue("b", ti_id=None)
    assert len(prod.store.save([intent(a), intent(b)], prod.lease)) == 2


# The launch attempts.


def test_an_attempt_is_opened_by_its_intent_and_closed_by_its_end(prod: Deployment) -> None:
    prod.queue("x")
    launching = prod.move("x", Phase.LAUNCHING)
    (attempt,) = prod.attempts("x")
    assert attempt == {
        "exec_id": "x",
        "attempt": 1,
        "cluster": "c",
        "family": "f",
        "client_token": identity.client_token("c", "x", 1),
        "started_by": "prod/x/1",
        "intent_at": launching.intent_at,
        "epoch": prod.lease.epoch,
        "closed_at": None,
        "verdict": None,
        "task_arn": None,
        "told": 0,
    }

    again = prod.move("x", Phase.PENDING, reason="no capacity")
    (attempt,) = prod.attempts("x")
    assert (attempt["closed_at"], attempt["verdict"]) == (again.updated_at, "PENDING: no capacity")

    prod.move("x", Phase.LAUNCHING, Phase.STARTED)
    assert prod.attempts("x")[0] == attempt
    second = prod.attempts("x")[1]
    assert (second["attempt"], second["task_arn"], second["closed_at"]) == (2, "arn:x/2", None)

    prod.move("x", Phase.RUNNING)
    exited = prod.move("x", Phase.EXITED)
    second = prod.attempts("x")[1]
    assert (second["task_arn"], second["closed_at"], second["verdict"]) == ("arn:x/2", exited.updated_at, "EXITED")

    prod.move("x", Phase.PENDING)
    assert prod.attempts("x") == [attempt, second]


# Others' rows, and old ones.


def test_rows_of_another_deployment_do_not_exist(prod: Deployment) -> None:
    """A copy of a database, for one: its rows bar nothing, and nothing is done to them."""
    other = SqlStore(prod.engine, "copy")
    lease = other.hold("copy/shard", "first", LATER)
    assert lease is not None
    prod.queue("old", ti_id="ti")
    prod.move("old", Phase.LAUNCHING)
    done = prod.queue("done")
    prod.move("done", Phase.CANCELLED)
    prod.set("done", acked_version=2, updated_at=AT)
    pending = prod.queue("pending", priority=9)
    stopped = prod.set(prod.queue("stopped").exec_id, desired="STOP")
    prod.queue("new", deployment="copy", ti_id="ti")

    assert ids(other.launchable(9)) == ["new"]
    assert ids(other.in_phase(*Phase)) == ["new"]
    assert other.launching(lease).workloads == other.unwanted().workloads == ()
    assert other.find(["old", "pending"]).workloads == ()
    assert other.counts().in_flight == 0
    assert other.save([intent(pending), (stopped, stopped.moved(Phase.CANCELLED, AT))], lease) == []
    assert other.prune(timedelta(0), 9, lease) == 0
    assert len(other.save([intent(other.launchable(1).workloads[0])], lease)) == 1
    assert prod.get("pending") == pending
    assert prod.get(done.exec_id).phase is Phase.CANCELLED


# Forgetting.


def test_pruning_deletes_the_oldest_acknowledged_ends_with_their_attempts(prod: Deployment) -> None:
    now = prod.store.now()
    for number, exec_id in enumerate(["b", "c", "a", "young", "unacked", "live"]):
        prod.queue(exec_id)
        if exec_id != "live":
            prod.move(exec_id, Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
        version = 0 if exec_id == "unacked" else 9
        age = timedelta(hours=1 if exec_id == "young" else 48 - number)
        prod.set(exec_id, acked_version=version, updated_at=now - age)

    assert prod.store.prune(timedelta(hours=24), 2, prod.lease) == 2
    assert {w.exec_id for w in prod.store.in_phase(*Phase).workloads} == {"a", "young", "unacked", "live"}
    assert prod.attempts("b") == []
    assert len(prod.attempts("a")) == 1
    assert prod.store.prune(timedelta(hours=24), 2, prod.lease) == 1
    assert prod.store.prune(timedelta(hours=24), 2, prod.lease) == 0
    assert prod.count() == 3

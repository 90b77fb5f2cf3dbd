"""Each can be broken, and each is then counted; nothing that the daemon does breaks one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Desired, Phase
from reconciler.store.daemon import SqlStore
from tests.metrics.meter import NOW, Meter, launching, started, workload
from tests.world import World

if TYPE_CHECKING:
    from reconciler.core.task import Workload


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("version_by_one", [(workload(), launching(version=3))]),
        ("attempt_by_intent_only", [(workload(), launching(attempt=2))]),
        ("attempt_by_intent_only", [(launching(), replace(started(), attempt=2))]),
        ("no_launch_of_the_unwanted", [(workload(desired=Desired.STOP), launching())]),
        ("no_relaunch_after_user_code",
         [(started(started_at=NOW), started().moved(Phase.PENDING, NOW, task_arn=None))]),
        ("one_task_per_launch", [(started(), started().moved(Phase.RUNNING, NOW, task_arn="arn:2"))]),
        ("one_launch_per_task", [(launching(), started()), (launching(exec_id="b"), started(exec_id="b"))]),
    ],
)  # fmt: skip
def test_a_broken_one_is_counted(name: str, changes: list[tuple[Workload, Workload]]) -> None:
    meter = Meter()
    for old, new in changes:
        meter.shard.moved(replace(old, updated_at=NOW), replace(new, updated_at=NOW))
    assert meter.value("invariant_violations_total", invariant=name) == 1


def test_two_live_tasks_of_one_launch_are_counted() -> None:
    meter = Meter()
    world = World()
    world.replica.adopt._on_twins = meter.shard.twins
    world.behaviour.seconds = 600
    world.queue("a")
    world.run_until(lambda: len(world.live("a")) == 1)
    (first,) = world.live("a")
    world.start_foreign(first["startedBy"], first["overrides"])
    world.run(70)
    assert len({task["taskArn"] for task in world.tasks("a")}) == 2
    assert (meter.value("invariant_violations_total", invariant="one_task_per_launch") or 0) >= 1
    world.close()


def test_a_daemon_among_faults_breaks_none() -> None:
    meter = Meter()
    world = World()
    store = world.replica.launch._store
    assert isinstance(store, SqlStore)
    store._on_written, store._on_lost = meter.shard.moved, meter.shard.lost_race
    world.model.faults.on_start("CannotPullContainerError: no such image", times=3)
    world.model.faults.on_placement("RESOURCE:MEMORY", times=3)
    world.queue(*(f"w{n}" for n in range(20)))
    world.run_until(lambda: all(world.row(f"w{n}").terminal for n in range(20)))
    assert meter.value("invariant_violations_total") == 0
    assert meter.value("workloads_ended_total", outcome="exited_zero") == 20
    assert meter.value("launch_failures_total", reason="image", action="again") == 3
    assert meter.value("launch_failures_total", reason="capacity", action="again") == 3
    world.close()

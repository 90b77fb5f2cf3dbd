"""Sweep: what ECS shows of the tasks that are known is recorded, and what it does not show is not lost too soon."""

from __future__ import annotations

import pytest

from reconciler.core.errors import NoSuchCluster
from reconciler.core.phase import Phase
from reconciler.localecs import Settings
from tests.controllers.steps import SERVER_ERROR, ended, unwanted
from tests.world import CLUSTER, Replica, World


def test_missing_right_after_a_launch_means_nothing() -> None:
    world = World(Settings(visibility_lag=90, list_lag=120, rates={}))
    world.behaviour.seconds = 300
    world.queue("a")
    ended(world, "a")
    assert (world.row("a").phase, world.row("a").attempt) == (Phase.EXITED, 1)
    world.close()


def test_a_task_that_ecs_has_forgotten_is_lost(world: World) -> None:
    world.queue("a")
    world.run(5)
    world.replica.close()
    world.run(2 * 3600, daemon=False)
    world.restart()
    world.run(290)
    assert world.row("a").phase is Phase.RUNNING
    world.run(20)
    assert world.row("a").phase is Phase.LOST


def test_a_task_that_was_launched_long_after_its_intent_may_be_missing_for_a_while_too() -> None:
    world = World(Settings(visibility_lag=90, list_lag=120, rates={}))
    world.behaviour.seconds = 600
    away = world.model.faults.on_call("RunTask", SERVER_ERROR, times=None)
    world.queue("a")
    world.run(12 * 60, step=5)
    world.model.faults.remove(away)
    ended(world, "a")
    assert (world.row("a").phase, world.row("a").attempt) == (Phase.EXITED, 1)
    world.close()


def test_misses_from_an_earlier_term_are_not_misses_in_a_row(world: World) -> None:
    world.behaviour.seconds = 7200
    world.queue("a")
    world.run(400, step=10)
    arn = world.tasks("a")[0]["taskArn"]
    world.model.faults.hide(arn)
    world.run(2)
    first, world.replica = world.replica, Replica(world, "second")
    world.model.faults.show(arn)
    world.run(1200, step=10)
    world.replica.close()
    world.run(20, daemon=False)
    world.replica = first
    world.model.faults.hide(arn)
    world.run(5)
    assert world.row("a").phase is Phase.RUNNING


def test_when_everything_is_missing_nothing_is_declared_lost(world: World) -> None:
    world.behaviour.seconds = 7200
    names = [f"w{n}" for n in range(20)]
    world.queue(*names)
    world.run(400, step=10)
    for task in world.tasks():
        world.model.faults.hide(task["taskArn"])
    world.run(600, step=10)
    assert world.replica.sweep.breaker.tripped
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    world.model.faults.clear()
    world.run(5)
    assert not world.replica.sweep.breaker.tripped


def test_what_nobody_wants_does_not_hide_from_the_breaker_that_all_others_are_missing() -> None:
    world = World(max_running_tasks=50)
    world.behaviour.seconds = 7200
    wanted, others = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(40)]
    world.queue(*wanted, *others)
    world.run(400, step=10)
    for name in wanted:
        world.model.faults.hide(world.row(name).task_arn or "")
    world.run(200, step=10)
    unwanted(world, *others)
    world.run(130, step=10)
    assert {world.row(name).phase for name in others} == {Phase.RUNNING}
    assert world.replica.sweep.breaker.tripped
    assert {world.row(name).phase for name in wanted} == {Phase.RUNNING}
    world.close()


@pytest.mark.parametrize("shown", [120, 200], ids=["not overdue yet", "seen a moment ago"])
def test_what_ecs_began_to_hide_later_counts_as_well(world: World, shown: int) -> None:
    world.behaviour.seconds = 7200
    world.queue("first")
    world.run(10)
    world.model.faults.hide(world.row("first").task_arn or "")
    world.run(100, step=10)
    later = [f"w{n}" for n in range(11)]
    world.queue(*later)
    world.run(shown, step=10)
    for name in later:
        world.model.faults.hide(world.row(name).task_arn or "")
    world.run(100, step=10)
    assert world.replica.sweep.breaker.tripped
    assert world.row("first").phase is Phase.RUNNING


def test_a_full_quota_that_ecs_has_forgotten_empties_as_airflow_gives_its_tasks_up() -> None:
    world = World(max_running_tasks=20)
    names = [f"w{n}" for n in range(20)]
    world.queue(*names)
    world.run(8)
    world.replica.close()
    world.run(2 * 3600, daemon=False)
    world.restart()
    world.queue("next")
    world.run(600, step=5)
    assert world.replica.sweep.breaker.tripped
    unwanted(world, *names)
    world.run(900, step=5)
    assert {world.row(name).phase for name in names} == {Phase.LOST}
    assert world.row("next").phase is Phase.EXITED
    world.close()


def test_a_cluster_that_can_not_be_asked_hides_no_other(world: World) -> None:
    world.behaviour.seconds = 60
    world.queue("here", "there")
    world.run(5)
    with world.engine.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE ecs_workload SET cluster = 'a-gone', version = version + 1 WHERE exec_id = 'there'"
        )
    world.run(120, step=2)
    assert world.row("here").phase is Phase.EXITED
    assert world.replica.errors


def deleted(world: World, *exec_ids: str) -> None:
    """The cluster of these is gone, and no task is in it any more."""
    with world.engine.begin() as conn:
        for exec_id in exec_ids:
            conn.exec_driver_sql(
                "UPDATE ecs_workload SET cluster = 'deleted', version = version + 1 WHERE exec_id = ?", (exec_id,)
            )


def restored(world: World) -> None:
    """It was another region or account, and all is as it was."""
    with world.engine.begin() as conn:
        conn.exec_driver_sql(f"UPDATE ecs_workload SET cluster = '{CLUSTER}', version = version + 1")


def test_what_ended_in_a_cluster_that_was_deleted_is_lost_while_others_are_shown(world: World) -> None:
    world.queue("there")
    world.run(5)
    world.replica.close()
    world.run(2 * 3600, daemon=False)
    deleted(world, "there")
    world.restart()
    world.behaviour.seconds = 7200
    world.queue("here")
    world.run(290)
    assert world.row("there").phase is Phase.RUNNING
    world.run(20)
    assert world.row("there").phase is Phase.LOST
    world.replica.errors.clear()
    world.run(130)
    assert not world.replica.errors


def test_a_cluster_that_was_deleted_keeps_nobody_else_waiting(world: World) -> None:
    world.behaviour.seconds = 7200
    world.queue("here", "there", "stopping")
    world.run(10)
    deleted(world, "there", "stopping")
    unwanted(world, "stopping")
    world.run(150)
    assert world.row("stopping").phase is Phase.STOPPING
    for _ in range(60):
        world.run(1, daemon=False)
        world.replica.sweep.reconcile(world.lease())
        world.replica.cleanup.reconcile(world.lease())
    assert world.row("there").phase is Phase.RUNNING


def test_while_no_task_is_shown_a_cluster_that_is_not_there_loses_no_wanted_one(world: World) -> None:
    """Fewer than the breaker holds for: the wrong region."""
    world.behaviour.seconds = 1e6
    names = [f"w{n}" for n in range(5)]
    world.queue(*names)
    world.run(10)
    deleted(world, *names)
    world.restart()
    world.run(2 * 3600, step=10)
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    with pytest.raises(NoSuchCluster, match="deleted"):
        world.replica.sweep.reconcile(world.lease())
    restored(world)
    world.run(600, step=10)
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}


def test_tasks_of_another_account_do_not_show_that_a_cluster_was_deleted(world: World) -> None:
    world.behaviour.seconds = 1e6
    world.queue("there", "here")
    world.run(10)
    deleted(world, "there")
    with world.engine.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE ecs_workload SET task_arn = replace(task_arn, '123456789012', '210987654321')"
            " WHERE exec_id = 'there'"
        )
    world.run(2 * 3600, step=10)
    assert world.row("there").phase is Phase.RUNNING


def test_what_airflow_gives_up_in_a_cluster_that_is_not_there_frees_its_slot(world: World) -> None:
    world.behaviour.seconds = 1e6
    world.queue("a")
    world.run(10)
    deleted(world, "a")
    world.run(3600, step=10)
    assert world.row("a").phase is Phase.RUNNING
    unwanted(world, "a")
    world.run(600, step=10)
    assert world.row("a").phase is Phase.LOST


def test_when_all_clusters_are_gone_nothing_is_declared_lost() -> None:
    world = World()
    world.behaviour.seconds = 1e6
    names = [f"w{n}" for n in range(12)]
    world.queue(*names)
    world.run(10)
    deleted(world, *names)
    world.run(3600, step=10)
    assert world.replica.sweep.breaker.tripped
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    restored(world)
    world.run(400, step=10)
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    world.close()


def test_when_a_cluster_with_most_of_the_tasks_is_gone_the_breaker_holds_although_others_are_shown(
    world: World,
) -> None:
    world.behaviour.seconds = 1e6
    names = [f"w{n}" for n in range(12)]
    world.queue("here", *names)
    world.run(10)
    deleted(world, *names)
    world.run(3600, step=10)
    assert world.replica.sweep.breaker.tripped
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}

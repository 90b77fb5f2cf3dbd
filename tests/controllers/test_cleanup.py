"""Cleanup: end what is not wanted any more."""

from __future__ import annotations

from types import SimpleNamespace

from reconciler.core.phase import Desired, Phase
from reconciler.localecs import ResponseLost
from reconciler.store import shim
from tests.controllers.steps import SERVER_ERROR, ended, unwanted
from tests.world import World


def test_a_pending_workload_is_cancelled() -> None:
    world = World(max_running_tasks=1)
    world.behaviour.seconds = 7200
    world.queue("a")
    world.run(2)
    world.queue("b")
    unwanted(world, "b")
    world.run(2)
    assert (world.row("b").phase, world.row("b").reason) == (Phase.CANCELLED, "cleared")
    world.close()


def test_a_start_is_stopped_at_once(world: World) -> None:
    world.model.faults.on_start(None, times=None)
    world.queue("a")
    world.run(5)
    unwanted(world, "a")
    ended(world, "a")
    assert not world.live()
    assert not world.started


def test_a_start_that_runs_by_now_unseen_gets_the_time_to_end_itself(world: World) -> None:
    world.behaviour.seconds = 7200
    world.queue("a")
    world.run(1)
    assert world.row("a").phase is Phase.STARTED
    world.run(20, daemon=False)
    unwanted(world, "a")
    world.replica.cleanup.reconcile(world.lease())
    world.run(120)
    assert [task["desiredStatus"] for task in world.tasks("a")] == ["RUNNING"]
    ended(world, "a")


def test_what_waits_is_cancelled_although_ecs_can_not_be_asked_about_the_starts(world: World) -> None:
    world.model.faults.on_start(None, times=None)
    world.queue("a")
    world.run(5)
    world.replica.launch = SimpleNamespace(name="launch", reconcile=lambda _: None)  # type: ignore[assignment] # nothing more is launched
    world.queue("b")
    unwanted(world, "a", "b")
    world.model.faults.on_call("DescribeTasks", SERVER_ERROR, times=None)
    world.run(2)
    assert world.row("b").phase is Phase.CANCELLED


def test_a_running_container_gets_the_time_to_end_itself(world: World) -> None:
    world.behaviour.seconds = 7200
    world.queue("a")
    world.run(10)
    unwanted(world, "a")
    world.run(130)
    assert world.row("a").phase is Phase.RUNNING
    world.run(30)
    assert (world.row("a").phase, world.row("a").desired) == (Phase.EXITED, Desired.STOP)
    assert not world.live()


def test_a_start_that_takes_too_long_is_stopped(world: World) -> None:
    world.model.faults.on_start(None, times=None)
    world.queue("a")
    world.run(590, step=5)
    assert world.row("a").phase is Phase.STARTED
    world.run(30)
    assert not world.live()
    assert "start_timeout" in (world.row("a").reason or "")


def test_a_start_that_was_late_only_because_nobody_looked_is_left_running(world: World) -> None:
    world.behaviour.seconds = 7200
    world.queue("a")
    world.run(1)
    assert world.row("a").phase is Phase.STARTED
    world.replica.close()
    world.run(1800, daemon=False)
    world.restart()
    assert world.replica.cleanup.reconcile(world.lease()).changed == 0
    world.run(5)
    assert world.row("a").phase is Phase.RUNNING


def test_a_start_that_ecs_does_not_show_is_not_called_late() -> None:
    """A fleet that has just started, and then ECS hides it: its containers run."""
    world = World()
    world.behaviour.seconds = 7200
    names = [f"w{n}" for n in range(12)]
    world.queue(*names)
    world.run_until(lambda: {world.row(name).phase for name in names} == {Phase.STARTED})
    for task in world.tasks():
        world.model.faults.hide(task["taskArn"])
    world.run(1200, step=10)
    assert {world.row(name).phase for name in names} == {Phase.STARTED}
    world.model.faults.clear()
    world.run(10)
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    world.close()


def test_an_unwanted_launch_with_a_lost_answer_is_found_and_stopped(world: World) -> None:
    world.behaviour.seconds = 7200
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True, times=3)
    world.queue("a")
    world.run(1)
    unwanted(world, "a")
    world.run_until(lambda: world.row("a").terminal)
    assert not world.live()


def test_a_lost_answer_to_a_stop_is_repeated(world: World) -> None:
    world.model.faults.on_start(None, times=None)
    world.model.faults.on_call("StopTask", ResponseLost(), times=3)
    world.queue("a")
    world.run(5)
    unwanted(world, "a")
    ended(world, "a")
    assert not world.live()


def test_rows_are_forgotten_only_when_acknowledged_and_old(world: World) -> None:
    world.queue("told", "untold")
    ended(world, "told", "untold")
    with world.engine.begin() as conn:
        shim.acknowledge(conn, [world.row("told")])
    world.run(47 * 3600, step=600)
    assert len(world.store.find(["told", "untold"]).workloads) == 2
    world.run(2 * 3600, step=600)
    assert [w.exec_id for w in world.store.find(["told", "untold"]).workloads] == ["untold"]

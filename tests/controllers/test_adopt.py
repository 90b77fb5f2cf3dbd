"""Adopt: what runs under our name goes back to its workload, or out of the world."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.controllers.adopt import LIST_FOR
from reconciler.core.errors import EcsUnavailable
from reconciler.core.phase import Phase
from reconciler.core.profiles import Profiles
from reconciler.localecs import ResponseLost
from tests.controllers.steps import SERVER_ERROR, ended
from tests.world import CONTAINER, DEPLOYMENT, FAMILY, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.core.task import EcsTask

LATER = "later-task"
"""A task definition. Of two, the one whose name comes later is listed first."""


def lost_answer(world: World, minutes: float, *, after_effect: bool) -> None:
    """RunTask's answer is lost, and the daemon with it, for so long."""
    world.run(1)  # the first listing, which would find the task at once
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=after_effect)
    world.queue("a")
    world.run(1)
    world.replica.close()
    world.run(minutes * 60, daemon=False)
    world.restart()


def test_a_task_whose_answer_was_lost_is_found_by_listing(world: World) -> None:
    world.behaviour.seconds = 7200
    lost_answer(world, 30, after_effect=True)
    world.run(61)
    assert world.row("a").phase is Phase.RUNNING
    assert world.replica.orphans == ["adopted"]
    assert len(world.tasks("a")) == 1


def test_a_task_that_was_never_made_is_launched_once_its_absence_is_proven(world: World) -> None:
    lost_answer(world, 25, after_effect=False)
    world.run(10 * 60, step=10)
    assert world.row("a").phase is Phase.LAUNCHING
    ended(world, "a")
    assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 2)]


def hidden_when_absence_may_be_proof(world: World) -> None:
    """ECS shows neither the task of a lost answer nor the one that is known."""
    world.behaviour.seconds = 7200
    world.queue("known")
    world.run(10)
    lost_answer(world, 41, after_effect=True)
    for task in world.tasks():
        world.model.faults.hide(task["taskArn"])


def test_while_ecs_hides_tasks_that_are_known_absence_proves_nothing(world: World) -> None:
    hidden_when_absence_may_be_proof(world)
    world.run(130, step=5)
    assert world.row("a").phase is Phase.LAUNCHING
    world.model.faults.clear()
    world.run(130, step=5)
    assert (world.row("a").phase, world.row("a").attempt) == (Phase.RUNNING, 1)


def test_a_cluster_that_can_not_be_asked_for_what_is_known_proves_nothing(world: World) -> None:
    hidden_when_absence_may_be_proof(world)
    world.model.faults.on_call("DescribeTasks", SERVER_ERROR, times=None)
    world.run(130, step=5)
    assert world.row("a").phase is Phase.LAUNCHING


def test_a_silent_look_at_many_clusters_holds_no_pass_up_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.behaviour.seconds = 7200
    world.queue(*(f"w{n}" for n in range(20)))
    world.run(10)
    lost_answer(world, 25, after_effect=False)
    with world.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET cluster = exec_id, version = version + 1 WHERE exec_id <> 'a'")
    asked: list[str] = []

    def silent(cluster: str, _arns: object) -> None:
        asked.append(cluster)
        world.clock.wait(20)
        raise EcsUnavailable("no answer")

    monkeypatch.setattr(world.replica.gateway, "describe", silent)
    began = world.clock.now
    with pytest.raises(EcsUnavailable):
        world.replica.adopt.reconcile(world.lease())
    assert asked
    assert world.clock.now - began <= LIST_FOR + 20


def test_a_silent_ecs_holds_no_pass_up_for_long_and_each_task_definition_has_its_turn(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as DAGs. One pass that asked for all of them would last for hours, and `/livez` would call it dead."""
    world.behaviour.seconds = 7200
    names = [f"w{n}" for n in range(20)]
    world.queue(*names)
    world.run(10)
    with world.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET family = 'family-' || exec_id, version = version + 1")
    world.model.faults.on_call("RunTask", ResponseLost(), times=None)
    world.queue("waits")
    world.run(2)
    asked: list[str] = []

    def silent(_cluster: str, family: str, *, stopped: bool) -> None:
        asked.append(family)
        world.clock.wait(20)
        raise EcsUnavailable(f"no answer, {stopped=}")

    monkeypatch.setattr(world.replica.gateway, "list_tasks", silent)
    world.run(60, daemon=False)
    while len(asked) <= len(names):
        began = world.clock.now
        with pytest.raises(EcsUnavailable):
            world.replica.adopt.reconcile(world.lease())
        assert world.clock.now - began <= LIST_FOR + 20
    assert asked == [FAMILY, *sorted((f"family-{name}" for name in names), reverse=True)], "those that wait come first"


def test_after_an_hour_nothing_can_be_proven_and_nothing_is_launched_again(world: World) -> None:
    lost_answer(world, 65, after_effect=False)
    world.run(120)
    assert world.row("a").phase is Phase.LOST
    assert not world.started


def test_a_stopped_task_whose_answer_was_lost_is_found_in_time(world: World) -> None:
    lost_answer(world, 45, after_effect=True)
    ended(world, "a")
    assert (world.row("a").phase, world.row("a").exit_code) == (Phase.EXITED, 0)


def test_a_task_of_ours_that_no_row_claims_is_stopped_after_its_grace(world: World) -> None:
    world.behaviour.seconds = 1e6
    arn = world.start_foreign(f"{DEPLOYMENT}/nobody/1")
    world.run(590, step=5)
    assert [task["taskArn"] for task in world.live()] == [arn]
    world.run(300, step=5)
    assert not world.live()
    assert world.replica.orphans == ["stopped"]


def while_one_round_lists(world: World, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """The first round of adopt, in which so much time passes for all else between one listing and the next."""
    listed: list[str] = []
    real = world.replica.gateway.list_tasks

    def slow(cluster: str, family: str, *, stopped: bool) -> Sequence[EcsTask]:
        if listed:
            world.run(seconds)
        listed.append(family)
        return real(cluster, family, stopped=stopped)

    monkeypatch.setattr(world.replica.gateway, "list_tasks", slow)
    world.replica.adopt.reconcile(world.lease())
    assert listed == [LATER, FAMILY]
    world.replica.adopt.reconcile(world.lease())


@pytest.fixture
def two_families() -> Iterator[World]:
    """With a queue whose task definition is another. It is listed before the default's, when the test says so."""
    world = World()
    later = replace(world.profile, name="later", run_task={**world.profile.run_task, "taskDefinition": LATER})
    world.profiles = Profiles(world.profile, {"later": later})
    world.model.call(
        "RegisterTaskDefinition",
        {
            "family": LATER,
            "networkMode": "awsvpc",
            "requiresCompatibilities": ["FARGATE"],
            "cpu": "256",
            "memory": "512",
            "containerDefinitions": [{"name": CONTAINER, "image": "airflow"}],
        },
        world.ecs_now,
    )
    world.restart()
    world.replica.controllers.remove(world.replica.adopt)
    yield world
    world.close()


def test_what_ends_while_others_are_listed_is_no_orphan(two_families: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world = two_families
    world.behaviour.seconds = 100
    names = [f"w{n}" for n in range(12)]
    world.queue(*names, queue="later")
    world.run(10)
    assert {world.row(name).phase for name in names} == {Phase.RUNNING}
    while_one_round_lists(world, monkeypatch, 120)
    assert {world.row(name).phase for name in names} == {Phase.EXITED}
    assert world.replica.adopt.orphans == {}
    assert not world.replica.adopt.breaker.tripped


def test_what_is_launched_again_while_others_are_listed_is_no_orphan(
    two_families: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = two_families
    world.behaviour.seconds = 7200
    world.model.faults.on_start("CannotPullContainerError: no")
    world.queue("a", queue="later")
    world.replica.step()
    while_one_round_lists(world, monkeypatch, 60)
    assert (world.row("a").phase, world.row("a").attempt) == (Phase.RUNNING, 2)
    assert world.replica.adopt.orphans == {}


def test_a_task_whose_workload_has_ended_long_ago_is_stopped_after_its_grace(world: World) -> None:
    world.queue("a")
    ended(world, "a")
    world.run(3600, step=20)
    world.behaviour.seconds = 1e6
    arn = world.start_foreign(f"{DEPLOYMENT}/a/1")
    world.run(590, step=5)
    assert [task["taskArn"] for task in world.live()] == [arn]
    world.run(300, step=5)
    assert not world.live()


def test_an_orphan_is_stopped_although_ecs_can_not_be_asked_for_it_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.behaviour.seconds = 1e6
    world.start_foreign(f"{DEPLOYMENT}/nobody/1")
    world.run(590, step=5)

    def refused(*_: object) -> None:
        raise EcsUnavailable("no answer")

    monkeypatch.setattr(world.replica.gateway, "describe", refused)
    world.run(300, step=5)
    assert not world.live()


@pytest.mark.parametrize("started_by", ["other/a/1", "somebody", f"{DEPLOYMENT}x/a/1", f"{DEPLOYMENT}/a"])
def test_tasks_of_others_are_never_touched(world: World, started_by: str) -> None:
    world.behaviour.seconds = 1e6
    arn = world.start_foreign(started_by)
    world.run(3600, step=20)
    assert [task["taskArn"] for task in world.live()] == [arn]


def test_when_most_tasks_look_like_orphans_none_is_stopped(world: World) -> None:
    world.behaviour.seconds = 1e6
    for n in range(12):
        world.start_foreign(f"{DEPLOYMENT}/nobody{n}/1")
    world.run(3600, step=20)
    assert len(world.live()) == 12
    assert world.replica.adopt.breaker.tripped


def test_a_second_task_of_a_claimed_workload_is_an_orphan(world: World) -> None:
    world.behaviour.seconds = 1e6
    world.queue("a")
    world.run(10)
    world.start_foreign(f"{DEPLOYMENT}/a/7")
    world.run(900, step=5)
    assert [task["startedBy"] for task in world.live()] == [f"{DEPLOYMENT}/a/1"]

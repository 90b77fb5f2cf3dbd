"""Queues in the virtual universe: each has its own profile, share and gate, and none starves another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.core.holds import Mode
from reconciler.core.phase import Phase
from reconciler.core.runtask import Profile
from reconciler.localecs import AwsError, ResponseLost
from reconciler.store.holds import hold, resume
from tests.world import CLUSTER, CONTAINER, DEPLOYMENT, FAMILY, World

if TYPE_CHECKING:
    from collections.abc import Iterator

PROFILE = Profile(
    name="gpu",
    cluster=CLUSTER,
    container_name=CONTAINER,
    run_task={
        "taskDefinition": FAMILY,
        "launchType": "FARGATE",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    },
)


@pytest.fixture
def worlds() -> Iterator[Any]:
    made: list[World] = []

    def make(**options: Any) -> World:
        made.append(World(**options))
        return made[-1]

    yield make
    for world in made:
        world.close()


def running(world: World) -> Counter[str]:
    return Counter(w.queue for w in world._all() if w.in_flight)


def test_each_queue_runs_where_its_profile_says_and_what_was_chosen_is_frozen(worlds: Any) -> None:
    elsewhere = replace(PROFILE, run_task={**PROFILE.run_task, "tags": [{"key": "queue", "value": "gpu"}]})
    world = worlds(profiles=[elsewhere])
    world.queue("a", queue="gpu")
    world.queue("b", queue="whatever")
    world.run(3)
    a, b = world.row("a"), world.row("b")
    assert (a.profile, b.profile) == ("gpu", "default")
    assert a.params is not None
    assert b.params is not None
    assert {"key": "queue", "value": "gpu"} in a.params["tags"]
    assert {"key": "queue", "value": "gpu"} not in b.params["tags"]


def test_a_queue_takes_no_more_than_its_share_and_leaves_the_rest_to_others(worlds: Any) -> None:
    world = worlds(max_running_tasks=10, profiles=[replace(PROFILE, max_running_tasks=4)])
    world.behaviour.seconds = 7200.0
    world.queue(*[f"long{n:03}" for n in range(50)], queue="gpu", priority=9)
    world.queue(*[f"other{n}" for n in range(20)])
    world.behaviour.by_exec_id.update({f"other{n}": (5.0, 0) for n in range(20)})
    world.run_until(lambda: all(world.row(f"other{n}").phase is Phase.EXITED for n in range(20)), within=120)
    assert running(world) == {"gpu": 4}


def test_without_shares_queues_take_turns_when_there_is_not_enough_for_all(worlds: Any) -> None:
    world = worlds(max_running_tasks=10, profiles=[PROFILE])
    world.behaviour.seconds = 7200.0
    world.queue(*[f"a{n:03}" for n in range(50)], queue="gpu", priority=9)
    world.queue(*[f"b{n:03}" for n in range(50)])
    world.run(5)
    assert running(world) == {"gpu": 5, "default": 5}


def test_within_a_queue_the_more_important_goes_first(worlds: Any) -> None:
    world = worlds(max_running_tasks=10, profiles=[replace(PROFILE, max_running_tasks=1)])
    world.behaviour.seconds = 7200.0
    world.queue("low", queue="gpu", priority=1)
    world.queue("high", queue="gpu", priority=5)
    world.run(3)
    assert (world.row("high").in_flight, world.row("low").phase) == (True, Phase.PENDING)


def test_a_queue_that_finds_no_capacity_holds_up_nobody_else(worlds: Any) -> None:
    world = worlds(profiles=[replace(PROFILE, run_task={**PROFILE.run_task, "group": "gpu"})])
    world.model.faults.on_placement("RESOURCE:GPU", times=None, where=lambda request: request.get("group") == "gpu")
    world.queue(*[f"gpu{n}" for n in range(30)], queue="gpu")
    world.run(20)
    world.queue(*[f"other{n}" for n in range(30)])
    world.run(2)
    assert running(world)["default"] == 30
    assert all(world.row(f"gpu{n}").start_failures == 0 for n in range(30)), "waiting for capacity counts against none"


def test_a_role_that_a_profile_may_not_pass_fails_none_of_its_tasks_however_well_others_do(worlds: Any) -> None:
    world = worlds(profiles=[replace(PROFILE, run_task={**PROFILE.run_task, "group": "gpu"})])
    denied = AwsError("AccessDeniedException", "not authorized to perform iam:PassRole")
    world.model.faults.on_call("RunTask", denied, times=None, where=lambda request: request.get("group") == "gpu")
    world.queue("held", queue="gpu")
    for n in range(200):
        world.queue(f"other{n}")
        world.run(2)
    assert world.row("held").phase in (Phase.PENDING, Phase.LAUNCHING)


def test_a_held_queue_launches_nothing_and_others_go_on(worlds: Any) -> None:
    world = worlds(profiles=[PROFILE])
    hold(world.engine, DEPLOYMENT, "gpu", Mode.PAUSED, "me")
    world.queue("a", queue="gpu")
    world.queue("b")
    world.run(10)
    assert (world.row("a").attempt, world.row("b").attempt) == (0, 1)
    resume(world.engine, DEPLOYMENT, "gpu")
    world.run_until(lambda: world.row("a").terminal, within=60)


def test_a_launch_whose_answer_was_lost_is_settled_while_all_queues_are_held(worlds: Any) -> None:
    world = worlds()
    world.run(2)  # the first listing would find it at once
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True, times=3)
    world.queue("a")
    world.run_until(lambda: world.row("a").phase is Phase.LAUNCHING)
    hold(world.engine, DEPLOYMENT, "", Mode.DRAINING, "me")
    world.run_until(lambda: world.row("a").phase is Phase.EXITED, within=60)
    assert len(world.started) == 1

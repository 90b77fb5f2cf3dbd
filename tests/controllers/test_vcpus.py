"""The vCPU quota in the virtual universe: filled, never exceeded, and fair between sizes and queues."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from reconciler.core.phase import Phase
from reconciler.core.quota import CpuQuota
from reconciler.core.size import VCPU
from reconciler.core.task import Spec
from reconciler.localecs import AwsError, Settings
from tests.controllers.test_queues import PROFILE
from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

BIG = Spec("{}", {"overrides": {"cpu": "1024", "memory": "2048"}})


@pytest.fixture
def worlds() -> Iterator[Any]:
    made: list[World] = []

    def make(vcpus: float, **options: Any) -> World:
        settings = Settings(rates={}, max_vcpus=vcpus)
        made.append(World(settings, max_cpu=int(vcpus * VCPU), **options))
        return made[-1]

    yield make
    for world in made:
        world.close()


def refused(world: World) -> int:
    """How often ECS had no room for a task."""
    return sum(type(answer).__name__ == "NotStarted" for answer in world.replica.answers)


def vcpus(world: World) -> float:
    return sum(int(task["cpu"]) for task in world.live()) / VCPU


def test_the_quota_is_filled_and_ecs_never_has_to_refuse(worlds: Any) -> None:
    world = worlds(3)
    for n in range(12):
        world.queue(f"small{n}")
        world.queue(f"big{n}", spec=BIG)
    most = 0.0
    while not all(w.terminal for w in world._all()):
        world.run(1)
        most = max(most, vcpus(world))
    assert most == 3
    assert refused(world) == 0
    assert Counter(w.phase for w in world._all()) == {Phase.EXITED: 24}
    assert Counter(w.cpu for w in world._all()) == {256: 12, 1024: 12}


def test_the_check_above_notices_a_quota_that_is_not_kept(worlds: Any) -> None:
    world = worlds(3)
    world.queue(*[f"big{n}" for n in range(12)], spec=BIG)
    with patch.object(CpuQuota, "fitting", lambda _, wanted, *__: [True] * len(wanted)):
        world.run(2)
    assert refused(world) > 0


def test_a_big_task_at_the_head_holds_up_no_small_one_and_gets_its_turn(worlds: Any) -> None:
    world = worlds(1, profiles=[PROFILE])
    world.queue(*[f"first{n}" for n in range(4)])
    world.run(1)
    world.queue("big", spec=BIG, priority=9)
    for n in range(200):
        world.queue(f"same{n:03}")
        world.queue(f"other{n:03}", queue="gpu")
        world.run(4)
        if n == 5:
            begun = Counter(exec_id[:4] for exec_id, _, _ in world.started)
            assert begun["same"] >= 1
            assert begun["othe"] >= 1
        if world.row("big").phase is not Phase.PENDING:
            break
    assert world.row("big").in_flight
    assert n < 60
    assert refused(world) == 0


def test_a_task_that_can_never_fit_fails_with_a_sentence(worlds: Any) -> None:
    world = worlds(0.5)
    world.queue("big", spec=BIG)
    world.queue("small")
    world.run(2)
    assert world.row("small").in_flight
    row = world.row("big")
    assert (row.phase, row.attempt) == (Phase.FAILED_START, 0)
    assert row.reason is not None
    assert "needs 1 vCPU" in row.reason
    assert "raise [ecs_reconciler] max_running_vcpus" in row.reason


def test_a_queue_is_held_to_its_own_vcpus(worlds: Any) -> None:
    world = worlds(4, profiles=[replace(PROFILE, max_cpu=512)])
    world.behaviour.seconds = 7200.0
    world.queue(*[f"a{n}" for n in range(20)], queue="gpu", priority=9)
    world.queue(*[f"b{n}" for n in range(20)])
    world.run(5)
    assert Counter(w.queue for w in world._all() if w.in_flight) == {"gpu": 2, "default": 14}


def test_what_fargate_does_not_run_is_not_counted_and_not_held_up(worlds: Any) -> None:
    instances = replace(PROFILE, run_task={**PROFILE.run_task, "launchType": "EXTERNAL"})
    world = worlds(1, profiles=[instances])
    world.behaviour.seconds = 7200.0
    world.queue(*[f"a{n}" for n in range(9)])
    world.run(3)
    world.queue(*[f"b{n}" for n in range(9)], queue="gpu")
    world.run(3)
    rows = world._all()
    assert sum(w.in_flight for w in rows if w.queue == "default") == 4
    assert all(w.attempt == 1 and w.cpu == 0 for w in rows if w.queue == "gpu")


def test_a_task_whose_size_can_not_be_seen_is_taken_for_the_largest(worlds: Any) -> None:
    world = worlds(2)
    world.behaviour.seconds = 7200.0
    world.replica.launch._definition_of = lambda _: None
    world.queue("a", "b")
    world.run(3)
    assert sorted(w.cpu for w in world._all()) == [0, 2 * VCPU]


def test_the_size_is_frozen_with_the_intent(worlds: Any) -> None:
    world = worlds(1)
    world.behaviour.seconds = 7200.0
    lost = world.model.faults.on_call("RunTask", AwsError("ServerException", "x", 500), after_effect=True, times=2)
    world.queue(*[f"a{n}" for n in range(9)])
    world.run(1)
    world.replica.launch._definition_of = lambda _: {"cpu": "4096"}
    world.run(120)
    assert {w.cpu for w in world._all() if w.in_flight} == {256}
    assert vcpus(world) == 1
    world.model.faults.remove(lost)

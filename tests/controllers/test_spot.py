"""Spot in the virtual universe: what it takes away before the start is launched again, and On-Demand stands in."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Phase
from reconciler.core.spot import TRY_SPOT_AGAIN
from reconciler.core.task import Container, EcsTask
from tests.controllers.test_queues import PROFILE
from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator

STRATEGY = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}, {"capacityProvider": "FARGATE", "weight": 0}]
SPOT = replace(
    PROFILE,
    name="spot",
    run_task={
        **{name: value for name, value in PROFILE.run_task.items() if name != "launchType"},
        "capacityProviderStrategy": STRATEGY,
    },
    spot_fallback_after=2,
)


@pytest.fixture
def world() -> Iterator[World]:
    made = World(profiles=[SPOT])
    yield made
    made.close()


def interrupt(world: World, exec_id: str) -> None:
    (task,) = world.live(exec_id)
    world.model.interrupt_spot(task["taskArn"], world.ecs_now)


def providers(world: World, exec_id: str) -> list[str]:
    params = world.row(exec_id).params
    assert params is not None
    return [item["capacityProvider"] for item in params["capacityProviderStrategy"]]


def never_started(**facts: object) -> bool:
    shown = EcsTask("arn", "STOPPED", stop_code="SpotInterruption", container=Container())
    return replace(shown, **facts).never_started  # type: ignore[arg-type] # fields by name


def test_an_interruption_is_proof_only_if_ecs_shows_that_the_container_was_never_made() -> None:
    assert never_started()
    assert never_started(stop_code="TerminationNotice")
    assert not never_started(container=None)
    assert not never_started(container=Container(exit_code=143))
    assert not never_started(container=Container(runtime_id="1"))
    assert not never_started(stop_code="UserInitiated")
    assert not never_started(last_status="DEPROVISIONING")


def test_what_spot_takes_before_the_start_is_launched_again_and_counts_against_nobody(world: World) -> None:
    world.queue("a", queue="spot")
    for attempt in range(1, 6):
        world.run_until(lambda n=attempt: world.row("a").attempt == n and bool(world.live("a")), step=0.2)  # type: ignore[misc] # the default binds it
        interrupt(world, "a")
        world.run_until(lambda n=attempt: world.row("a").attempt > n or world.row("a").phase is Phase.PENDING)  # type: ignore[misc] # the default binds it
        assert world.row("a").start_failures == 0
    world.run_until(lambda: world.row("a").terminal)
    assert world.row("a").phase is Phase.EXITED
    assert len(world.started) == 1


def test_what_spot_takes_after_the_start_has_failed_with_its_reason(world: World) -> None:
    world.behaviour.seconds = 3600
    world.queue("a", queue="spot")
    world.run_until(lambda: world.row("a").phase is Phase.RUNNING)
    interrupt(world, "a")
    world.run_until(lambda: world.row("a").terminal)
    row = world.row("a")
    assert (row.phase, row.outcome) == (Phase.EXITED, "spot_interrupted")
    assert row.reason is not None
    assert row.reason.startswith("SpotInterruption: Your Spot Task was interrupted.")


def test_after_enough_failures_on_demand_stands_in_for_a_while(world: World) -> None:
    rule = world.model.faults.on_placement(
        "Capacity is unavailable at this time",
        times=None,
        where=lambda request: (
            request.get("capacityProviderStrategy", [{}])[0].get("capacityProvider") == "FARGATE_SPOT"
        ),
    )
    world.queue("a", "b", "c", queue="spot")
    world.run_until(lambda: all(world.row(exec_id).terminal for exec_id in "abc"), within=120)
    assert [providers(world, exec_id) for exec_id in "abc"] == [["FARGATE"]] * 3
    assert world.tasks("a")[0]["capacityProviderName"] == "FARGATE"

    world.model.faults.remove(rule)
    world.run(TRY_SPOT_AGAIN)
    world.queue("d", queue="spot")
    world.run_until(lambda: world.row("d").terminal)
    assert providers(world, "d") == ["FARGATE_SPOT", "FARGATE"]


def test_by_default_it_waits_for_spot(world: World) -> None:
    world.replica.launch._profiles = replace(world.profiles, named={"spot": replace(SPOT, spot_fallback_after=0)})
    world.model.faults.on_placement("Capacity is unavailable at this time", times=8)
    world.queue("a", queue="spot")
    world.run_until(lambda: world.row("a").terminal)
    assert providers(world, "a") == ["FARGATE_SPOT", "FARGATE"]
    assert world.row("a").start_failures == 0

"""Retry: give a start another try, but only with proof that no user code ran."""

from __future__ import annotations

from typing import NoReturn

import pytest

from reconciler.core.errors import StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.store import shim
from tests.controllers.steps import ended
from tests.world import DEPLOYMENT, OWNER, World


def test_a_start_that_failed_is_tried_again(world: World) -> None:
    world.model.faults.on_start("CannotPullContainerError: no such image", times=2)
    world.queue("a")
    ended(world, "a")
    row = world.row("a")
    assert (row.phase, row.attempt, row.start_failures) == (Phase.EXITED, 3, 2)
    assert len(world.started) == 1


def test_the_last_failed_start_fails_the_workload_with_ecs_words(world: World) -> None:
    world.model.faults.on_start("CannotPullContainerError: no such image", times=None)
    world.queue("a")
    ended(world, "a")
    row = world.row("a")
    assert (row.phase, row.attempt) == (Phase.FAILED_START, 3)
    assert "CannotPullContainerError: no such image" in (row.reason or "")
    assert not world.started


@pytest.mark.parametrize("code", [0, 1, 137])
def test_what_ran_is_never_launched_again_by_us(world: World, code: int) -> None:
    world.behaviour.exit_code = code
    world.queue("a")
    world.run(600, step=10)
    assert (world.row("a").phase, world.row("a").exit_code) == (Phase.EXITED, code)
    assert len(world.started) == 1


def refuse(world: World, *admitted: str) -> None:
    """What the shim does: task instances are still QUEUED after their container's end, except for `admitted`."""
    with world.engine.begin() as conn:
        rows = [w for w in shim.undelivered(conn, DEPLOYMENT, OWNER, 1000).workloads if not w.refused]
        shim.acknowledge(conn, [w for w in rows if w.exec_id in admitted])
        shim.refuse(conn, [w for w in rows if w.exec_id not in admitted])


def test_a_container_that_airflow_never_admitted_is_launched_again(world: World) -> None:
    world.queue("a")
    ended(world, "a")
    refuse(world)
    world.run(10)
    ended(world, "a")
    assert [n for _, n, _ in world.started] == [1, 2]
    assert world.row("a").start_failures == 1


def test_a_lone_workload_does_not_run_out_of_attempts_while_the_api_server_is_down(world: World) -> None:
    world.queue("before")
    ended(world, "before")
    refuse(world, "before")
    world.behaviour.exit_code = 1
    world.queue("a")
    for _ in range(45 * 6):
        world.run(10, step=10)
        refuse(world)
    assert world.row("a").start_failures == 0
    assert 18 <= world.row("a").attempt <= 50  # two minutes apart at last


def test_a_refusal_that_can_not_be_written_is_not_another_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> NoReturn:
        raise StoreUnavailable("the database is down for writing")

    world.queue("a")
    ended(world, "a")
    refuse(world)
    with monkeypatch.context() as patched:
        patched.setattr(world.store, "save", fail)
        world.run(50, step=1)
    assert world.replica.gates["api_server"].reason is None
    world.run(60)
    assert [n for _, n, _ in world.started] == [1, 2]


def test_a_lone_workload_that_is_refused_while_others_are_admitted_is_counted(world: World) -> None:
    world.behaviour.by_exec_id["broken"] = (5.0, 1)
    world.queue("broken")
    good = [f"good{n}" for n in range(6)]
    for name in good:
        world.queue(name)
        world.run(30)
        refuse(world, *good)
    assert world.row("broken").start_failures >= 2


def test_while_airflows_api_server_is_down_launches_are_held_and_nobody_runs_out_of_attempts(world: World) -> None:
    world.behaviour.exit_code = 1
    names = [f"w{n}" for n in range(30)]
    world.queue(*names)
    for _ in range(6 * 60):
        world.run(5, step=5)
        refuse(world)
    assert world.replica.gates["api_server"].reason is not None
    assert all(world.row(name).start_failures <= 1 for name in names)
    assert len(world.started) < 30 + 32 + 40
    world.behaviour.exit_code = 0
    world.behaviour.seconds = 600
    for _ in range(15 * 6):
        world.run(10, step=10)
        # Only those that had begun before are refused now.
        refuse(world, *[name for name in names if world.row(name).exit_code == 0])
    assert {world.row(name).phase for name in names} <= {Phase.RUNNING, Phase.EXITED}
    assert not any(world.row(name).refused for name in names)
    assert world.replica.gates["api_server"].reason is None

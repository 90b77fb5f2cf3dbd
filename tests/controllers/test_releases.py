"""Shim and daemon of two releases side by side, in either order.

What the first release writes is frozen here as text, so that it stays what it was when the code moves on.
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from reconciler.core.phase import Phase
from reconciler.localecs import AwsError, ResponseLost
from reconciler.store import shim, told
from reconciler.store.schema import SPEC_VERSION
from tests.world import CLUSTER, DEPLOYMENT, FAMILY, OWNER, World

FIRST_SHIM = """
INSERT INTO ecs_workload (
  exec_id, deployment, kind, ti_id, dag_id, task_id, run_id, map_index, try_number, queue, team, priority, owner_job_id,
  workload, executor_config, spec_version, desired, refused, acked_version, created_at, phase, version, attempt,
  start_failures, profile, shard, ecs_version, updated_at
) VALUES (
  'old', 'test', 'task', 'ti-old', 'etl', 'load', 'run', -1, 1, 'default', NULL, 0, 1,
  '{}', '{"overrides": {"cpu": "512"}}', 1, 'RUN', 0, 0, '2026-01-01 00:00:00.000', 'PENDING', 1, 0,
  0, 'default', '', 0, '2026-01-01 00:00:00.000'
)"""
"""How the first release queues a task."""

FIRST_DAEMON = """
UPDATE ecs_workload SET phase = 'STARTED', version = 3, attempt = 1, intent_at = '2026-01-01 00:00:01.000',
  cluster = 'airflow', family = 'airflow-task', params = '{}', task_arn = :arn, updated_at = '2026-01-01 00:00:02.000'
WHERE exec_id = 'old'"""
FIRST_ATTEMPT = """
INSERT INTO ecs_launch_attempt (
  exec_id, attempt, cluster, family, client_token, started_by, intent_at, epoch, task_arn
) VALUES ('old', 1, 'airflow', 'airflow-task', 'token', 'test/old/1', '2026-01-01 00:00:01.000', 1, :arn)"""
"""How the first release launches it."""


def execute(world: World, *statements: str, **values: str) -> None:
    with world.engine.begin() as conn:
        for statement in statements:
            conn.exec_driver_sql(statement, values)


def of_release(world: World, spec_version: int, *exec_ids: str) -> None:
    world.queue(*exec_ids)
    execute(world, f"UPDATE ecs_workload SET spec_version = {spec_version}")


def ended(world: World, exec_id: str) -> None:
    world.run_until(lambda: world.row(exec_id).terminal)


def test_what_the_first_shim_queues_runs(world: World) -> None:
    execute(world, FIRST_SHIM)
    ended(world, "old")
    assert (world.row("old").phase, world.row("old").exit_code) == (Phase.EXITED, 0)
    (task,) = world.tasks("old")
    assert task["cpu"] == "512"


@pytest.mark.parametrize("spec_version", [SPEC_VERSION - 1, SPEC_VERSION])
def test_a_daemon_launches_what_its_own_and_the_former_release_queue(world: World, spec_version: int) -> None:
    of_release(world, spec_version, "a")
    ended(world, "a")
    assert world.row("a").phase is Phase.EXITED


def test_what_the_first_daemon_launched_is_observed_told_and_ended(world: World) -> None:
    """A newer shim and a newer daemon take over its rows in the middle."""
    execute(world, FIRST_SHIM)
    world.behaviour.seconds = 60
    task = world.model.call(
        "RunTask",
        {
            "cluster": CLUSTER,
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "startedBy": "test/old/1",
            "overrides": {"containerOverrides": [{"name": "airflow", "command": ["x", "old", "1"]}]},
        },
        world.ecs_now,
    )["tasks"][0]
    execute(world, FIRST_DAEMON, FIRST_ATTEMPT, arn=task["taskArn"])
    world.run_until(lambda: world.row("old").phase is Phase.RUNNING)
    assert world.row("old").logs is None
    ended(world, "old")
    assert len(world.tasks("old")) == 1
    with world.engine.begin() as conn:
        (untold,) = told.untold(conn, DEPLOYMENT, OWNER, 10, lock=False)
    assert (untold.told, untold.verdict) == (0, f"EXITED: {world.row('old').reason}")


def test_what_a_newer_shim_queues_waits_for_a_newer_daemon_and_can_be_given_back(world: World) -> None:
    of_release(world, SPEC_VERSION + 1, "a", "b")
    world.run(300, step=10)
    assert not world.started
    with world.engine.begin() as conn:
        waiting = shim.waiting(conn, DEPLOYMENT, OWNER, timedelta(seconds=200), 10)
        shed = shim.shed(conn, [w for w in waiting if w.exec_id == "a"])
        shim.want_stop(conn, ["b"], "cleared")
    assert [w.exec_id for w in shed] == ["a"]
    world.run(5)
    assert {world.row(exec_id).phase for exec_id in "ab"} == {Phase.CANCELLED}
    assert not world.started


@pytest.mark.parametrize("made", [True, False])
def test_a_launch_of_a_newer_daemon_is_settled_by_listing_after_a_downgrade(world: World, made: bool) -> None:
    """Its request could not be made again as it was, so it is not sent again."""
    world.run(1)  # the first listing, which would find the task at once
    world.behaviour.seconds = 7200
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=made, times=1)
    world.queue("a")
    world.run(0.5, step=0.5)
    execute(world, f"UPDATE ecs_workload SET spec_version = {SPEC_VERSION + 1}")
    assert world.row("a").phase is Phase.LAUNCHING
    world.model.faults.on_call("RunTask", AwsError("ServerException", "Nobody may call this again."), times=None)
    calls = world.model.stats()["operations"]["RunTask"]
    world.restart()
    world.run(61 if made else 45 * 60, step=1 if made else 10)
    assert world.row("a").phase is (Phase.RUNNING if made else Phase.PENDING)
    assert world.model.stats()["operations"]["RunTask"] == calls

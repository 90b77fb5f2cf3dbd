"""StopTask, and the other ways a task is stopped from outside."""

from __future__ import annotations

import pytest

from reconciler.localecs import Settings, SignalContainer
from tests.localecs.world import DEFINITION, World, refused


def test_stop_answers_before_the_task_is_stopped() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    task = world.call("StopTask", task=arn, reason="enough")["task"]
    assert (task["lastStatus"], task["desiredStatus"]) == ("RUNNING", "STOPPED")
    assert (task["stopCode"], task["stoppedReason"]) == ("UserInitiated", "enough")
    assert "stoppedAt" not in task


def test_a_stopped_container_gets_sigterm_and_gives_its_own_exit_code() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    world.call("StopTask", task=arn)
    world.reach(arn, "STOPPING")
    assert world.signals(arn) == ["SIGTERM"]
    world.wait(10)
    world.exit(arn, 0)
    world.settle(60)
    task = world.describe(arn)
    assert task["lastStatus"] == "STOPPED"
    assert task["containers"][0]["exitCode"] == 0
    assert world.signals(arn) == ["SIGTERM"]


@pytest.mark.parametrize(("stop_timeout", "kills_after"), [(None, 30), (5, 5), (120, 120)])
def test_a_container_that_ignores_sigterm_is_killed_after_its_stop_timeout(
    stop_timeout: int | None, kills_after: int
) -> None:
    world = World()
    container = DEFINITION["containerDefinitions"][0] | ({"stopTimeout": stop_timeout} if stop_timeout else {})
    world.call("RegisterTaskDefinition", **{**DEFINITION, "containerDefinitions": [container]})
    arn = world.launch()
    world.start(arn)
    world.call("StopTask", task=arn)
    world.reach(arn, "STOPPING")
    world.wait(kills_after - 0.001)
    assert world.signals(arn) == ["SIGTERM"]
    assert world.wait(0.002) == [SignalContainer(arn, "airflow", "SIGKILL")]
    assert world.describe(arn)["lastStatus"] == "STOPPING"
    world.exit(arn, 137)
    world.reach(arn, "STOPPED")
    assert world.describe(arn)["containers"][0]["exitCode"] == 137


def test_each_container_has_its_own_stop_timeout() -> None:
    world = World()
    containers = [
        {"name": "airflow", "image": "a", "stopTimeout": 20},
        {"name": "proxy", "image": "b", "stopTimeout": 10},
    ]
    world.call("RegisterTaskDefinition", **{**DEFINITION, "containerDefinitions": containers})
    arn = world.launch()
    world.start(arn)
    world.call("StopTask", task=arn)
    world.reach(arn, "STOPPING")
    world.wait(10)
    assert world.effects[-1] == SignalContainer(arn, "proxy", "SIGKILL")
    world.exit(arn, 137, container="proxy")
    world.wait(10)
    assert world.effects[-1] == SignalContainer(arn, "airflow", "SIGKILL")


@pytest.mark.parametrize("status", ["PROVISIONING", "PENDING", "ACTIVATING"])
def test_a_task_that_is_stopped_before_running_never_starts(status: str) -> None:
    world = World()
    arn = world.launch()
    world.reach(arn, status)
    world.call("StopTask", task=arn, reason="changed my mind")
    world.settle(60)
    task = world.describe(arn)
    assert (task["lastStatus"], task["stopCode"]) == ("STOPPED", "UserInitiated")
    assert "startedAt" not in task
    assert "executionStoppedAt" not in task
    assert "exitCode" not in task["containers"][0]
    assert not world.started(arn)
    assert world.signals(arn) == []


def test_stopping_twice_changes_nothing() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    first = world.call("StopTask", task=arn, reason="first")["task"]
    assert world.call("StopTask", task=arn, reason="second")["task"] == first
    world.settle(5)
    world.call("StopTask", task=arn, reason="third")
    world.settle(60)
    assert world.signals(arn) == ["SIGTERM", "SIGKILL"]
    assert world.describe(arn)["stoppedReason"] == "first"


def test_stopping_a_task_that_ends_by_itself_keeps_its_stop_code() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    world.exit(arn, 1)
    assert world.call("StopTask", task=arn, reason="too late")["task"]["stopCode"] == "EssentialContainerExited"


def test_stop_deletes_the_tags() -> None:
    world = World()
    arn = world.launch(tags=[{"key": "owner", "value": "me"}], startedBy="me")
    assert world.call("StopTask", task=arn)["task"]["tags"] == []
    task = world.describe(arn, include=["TAGS"])
    assert task["tags"] == []
    assert task["startedBy"] == "me"


def test_stop_takes_a_bare_id_too() -> None:
    world = World()
    arn = world.launch()
    assert world.call("StopTask", task=arn.rpartition("/")[2])["task"]["taskArn"] == arn


def test_stopping_what_is_not_there_is_an_error() -> None:
    world = World()
    world.call("CreateCluster", clusterName="other")
    elsewhere = world.launch(cluster="other")
    forgotten = world.launch()
    world.finish(forgotten)
    world.wait(3600)
    for task in ("0" * 32, elsewhere, forgotten):
        with refused("InvalidParameterException", "The referenced task was not found."):
            world.call("StopTask", task=task)
    with refused("ClusterNotFoundException"):
        world.call("StopTask", cluster="nowhere", task=elsewhere)


def test_a_spot_interruption_is_a_stop_with_its_own_code() -> None:
    world = World()
    strategy = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    arn = _launch_on(world, strategy)
    world.start(arn)
    world.model.interrupt_spot(arn, world.now)
    assert world.describe(arn)["desiredStatus"] == "STOPPED"
    world.settle(5)
    assert world.signals(arn) == ["SIGTERM"]
    world.exit(arn, 143)
    world.reach(arn, "STOPPED")
    task = world.describe(arn)
    assert (task["stopCode"], task["capacityProviderName"]) == ("SpotInterruption", "FARGATE_SPOT")
    assert task["stoppedReason"] == "Your Spot Task was interrupted."


def test_a_lost_host_leaves_a_stopped_task_without_exit_code() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    world.model.lose_host(arn, world.now)
    task = world.describe(arn)
    assert (task["lastStatus"], task["stopCode"]) == ("STOPPED", "InfrastructureHealth")
    assert "startedAt" in task
    assert "exitCode" not in task["containers"][0]
    world.wait(0)
    assert world.signals(arn) == ["SIGKILL"]  # so that no process is left behind
    world.exit(arn, 137)
    assert world.describe(arn) == task


def test_a_host_lost_while_stopping_keeps_the_first_stop_code() -> None:
    world = World()
    arn = world.launch()
    world.start(arn)
    world.call("StopTask", task=arn, reason="mine")
    world.reach(arn, "STOPPING")
    world.model.lose_host(arn, world.now)
    assert world.describe(arn)["stoppedReason"] == "mine"
    assert world.describe(arn)["lastStatus"] == "STOPPED"
    world.settle(3000)
    assert world.describe(arn)["lastStatus"] == "STOPPED"


def test_losing_the_host_of_a_stopped_task_changes_nothing() -> None:
    world = World(Settings())
    arn = world.launch()
    world.finish(arn)
    before = world.describe(arn)
    world.model.lose_host(arn, world.now)
    assert world.describe(arn) == before


def _launch_on(world: World, strategy: list[dict[str, object]]) -> str:
    answer = world.call(
        "RunTask",
        taskDefinition="airflow-task",
        capacityProviderStrategy=strategy,
        networkConfiguration={"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
    )
    return str(answer["tasks"][0]["taskArn"])

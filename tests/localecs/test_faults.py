"""Faults that are asked for happen exactly as often as asked for."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.localecs import AwsError, ResponseLost
from tests.localecs.world import FARGATE, World, refused

DENIED = AwsError("AccessDeniedException", "User is not authorized to perform: ecs:RunTask")
EXPIRED = AwsError("ExpiredTokenException", "The security token included in the request is expired")
BROKEN = AwsError("ServerException", "Service unavailable.", 500)


def managed(world: World, provider: str = "asg") -> dict[str, Any]:
    request = {name: value for name, value in FARGATE.items() if name != "launchType"}
    strategy = [{"capacityProvider": provider, "weight": 1}]
    return world.call("RunTask", **request, capacityProviderStrategy=strategy)


def test_an_error_before_the_effect_leaves_nothing_behind() -> None:
    world = World()
    world.model.faults.on_call("RunTask", BROKEN)
    with pytest.raises(AwsError, match="ServerException") as caught:
        world.run()
    assert caught.value.status == 500
    assert world.listed() == []
    assert len(world.run()["tasks"]) == 1


@pytest.mark.parametrize("error", [BROKEN, ResponseLost()])
def test_an_error_after_the_effect_leaves_the_effect(error: AwsError | ResponseLost) -> None:
    world = World()
    world.model.faults.on_call("RunTask", error, after_effect=True)
    with pytest.raises(type(error)):
        world.run()
    assert len(world.listed()) == 1


def test_a_call_that_was_refused_anyway_does_not_use_up_a_fault_after_the_effect() -> None:
    world = World()
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
    with refused("InvalidParameterException"):
        world.run(count=0)
    with pytest.raises(ResponseLost):
        world.run()


def test_a_fault_lasts_as_many_calls_as_it_was_given() -> None:
    world = World()
    world.model.faults.on_call("ListTasks", EXPIRED, times=2)
    for _ in range(2):
        with refused("ExpiredTokenException"):
            world.listed()
    assert world.listed() == []


def test_a_standing_fault_lasts_until_it_is_removed() -> None:
    world = World()
    rule = world.model.faults.on_call("RunTask", DENIED, times=None)
    for _ in range(20):
        with refused("AccessDeniedException"):
            world.run()
    world.model.faults.remove(rule)
    world.model.faults.remove(rule)
    world.launch()


def test_a_fault_can_concern_all_operations_or_some_requests() -> None:
    world = World()
    world.model.faults.on_call("*", EXPIRED, times=None, where=lambda request: request.get("startedBy") == "mine")
    with refused("ExpiredTokenException"):
        world.run(startedBy="mine")
    with refused("ExpiredTokenException"):
        world.listed(startedBy="mine")
    world.launch(startedBy="theirs")
    world.model.faults.clear()
    world.launch(startedBy="mine")


def test_the_oldest_fault_comes_first() -> None:
    world = World()
    world.model.faults.on_call("RunTask", DENIED)
    world.model.faults.on_call("RunTask", EXPIRED)
    with refused("AccessDeniedException"):
        world.run()
    with refused("ExpiredTokenException"):
        world.run()


def test_an_injected_throttle_costs_no_token_of_the_bucket() -> None:
    world = World()
    world.model.faults.on_call("ListTasks", AwsError("ThrottlingException", "Rate exceeded"))
    with refused("ThrottlingException"):
        world.listed()
    assert "cluster-resource-read" not in world.model.stats()["groups"]
    assert world.model.stats()["operations"]["ListTasks"]["throttled"] == 1


def test_placement_can_fail_for_some_tasks_of_a_call() -> None:
    world = World()
    reason = "Capacity is unavailable at this time. Please try again later or in a different availability zone"
    world.model.faults.on_placement(reason, times=2)
    answer = world.run(count=3)
    assert len(answer["tasks"]) == 1
    assert answer["failures"] == [{"reason": reason}] * 2
    assert world.run()["failures"] == []


def test_a_start_can_fail_while_the_image_is_pulled() -> None:
    world = World()
    reason = "CannotPullContainerError: pull image manifest has been retried 5 time(s): i/o timeout"
    world.model.faults.on_start(reason, status="ACTIVATING")
    arn = world.launch()
    world.settle(60)
    task = world.describe(arn)
    assert (task["lastStatus"], task["stopCode"]) == ("STOPPED", "TaskFailedToStart")
    assert task["stoppedReason"] == reason
    assert task["containers"][0]["reason"] == reason
    assert "startedAt" not in task
    assert "exitCode" not in task["containers"][0]
    assert "runtimeId" not in task["containers"][0]
    assert not world.started(arn)
    world.start(world.launch())


def test_a_capacity_provider_accepts_first_and_fails_to_place_later() -> None:
    world = World()
    world.model.faults.on_start("TaskFailedToStart: EMPTY CAPACITY PROVIDER")
    answer = managed(world)
    assert answer["failures"] == []
    [task] = answer["tasks"]
    assert (task["lastStatus"], task["containers"]) == ("PROVISIONING", [])
    assert (task["launchType"], task["capacityProviderName"]) == ("EC2", "asg")
    world.settle(60)
    stopped = world.describe(task["taskArn"])
    assert stopped["containers"] == []
    assert stopped["stopCode"] == "TaskFailedToStart"
    assert stopped["stoppedReason"] == "TaskFailedToStart: EMPTY CAPACITY PROVIDER"


def test_a_task_on_a_capacity_provider_shows_its_containers_once_it_is_placed() -> None:
    world = World()
    arn = managed(world)["tasks"][0]["taskArn"]
    world.reach(arn, "PENDING")
    assert [container["name"] for container in world.describe(arn)["containers"]] == ["airflow"]


def test_fargate_as_capacity_provider_is_fargate() -> None:
    task = managed(World(), "FARGATE")["tasks"][0]
    assert (task["launchType"], task["capacityProviderName"]) == ("FARGATE", "FARGATE")
    assert len(task["containers"]) == 1


def test_the_cluster_s_default_strategy_counts_when_the_request_names_nothing() -> None:
    world = World()
    strategy = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
    world.call("CreateCluster", clusterName="spot", defaultCapacityProviderStrategy=strategy)
    request = {name: value for name, value in FARGATE.items() if name != "launchType"}
    [task] = world.call("RunTask", cluster="spot", **request)["tasks"]
    assert task["capacityProviderName"] == "FARGATE_SPOT"
    assert "capacityProviderName" not in world.run(cluster="spot")["tasks"][0]


@pytest.mark.parametrize("status", ["PROVISIONING", "PENDING", "ACTIVATING"])
def test_a_task_can_be_stuck_until_it_is_stopped(status: str) -> None:
    world = World()
    world.model.faults.on_start(None, status=status)
    arn = world.launch()
    world.settle()
    assert world.describe(arn)["lastStatus"] == status
    world.call("StopTask", task=arn)
    world.settle(60)
    assert world.describe(arn)["stopCode"] == "UserInitiated"
    assert world.describe(arn)["lastStatus"] == "STOPPED"


def test_a_hidden_task_is_missing_and_not_listed_until_it_is_shown() -> None:
    world = World()
    hidden, other = world.launch(), world.launch()
    world.model.faults.hide(hidden)
    assert world.missing(hidden)
    assert world.listed() == [other]
    world.model.faults.show(hidden)
    assert not world.missing(hidden)
    assert world.listed() == [hidden, other]


def test_faults_that_make_no_sense_are_refused_with_a_sentence() -> None:
    faults = World().model.faults
    with pytest.raises(ValueError, match="status 'RUNNING' is not a state of starting"):
        faults.on_start("x", status="RUNNING")
    with pytest.raises(ValueError, match="times is 0"):
        faults.on_call("RunTask", DENIED, times=0)

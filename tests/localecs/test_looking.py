"""DescribeTasks and ListTasks: what they show, what they do not show yet, and what they never show."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.localecs import Settings
from tests.localecs.world import World, refused


def settings(**changes: Any) -> Settings:
    return replace(Settings.unthrottled(), **changes)


def test_a_new_task_is_missing_until_the_visibility_lag_has_passed() -> None:
    world = World(settings(visibility_lag=1.0))
    arn = world.launch()
    assert world.missing(arn)
    world.wait(0.9)
    assert world.missing(arn)
    world.wait(0.1)
    assert world.describe(arn)["taskArn"] == arn


def test_unknown_and_foreign_tasks_are_missing() -> None:
    world = World()
    world.call("CreateCluster", clusterName="other")
    elsewhere = world.launch(cluster="other")
    assert world.missing("arn:aws:ecs:us-east-1:123456789012:task/default/" + "0" * 32)
    assert world.missing(elsewhere)
    assert not world.missing(elsewhere, cluster="other")


def test_a_missing_bare_id_is_reported_by_its_arn() -> None:
    world = World()
    answer = world.call("DescribeTasks", tasks=["abc"])
    assert answer["failures"] == [{"arn": "arn:aws:ecs:us-east-1:123456789012:task/default/abc", "reason": "MISSING"}]


def test_what_is_found_comes_with_what_is_not() -> None:
    world = World()
    arn = world.launch()
    answer = world.call("DescribeTasks", tasks=[arn, "abc", arn.rpartition("/")[2]])
    assert {task["taskArn"] for task in answer["tasks"]} == {arn}
    assert [failure["reason"] for failure in answer["failures"]] == ["MISSING"]


def test_a_hundred_tasks_may_be_described_and_no_more() -> None:
    world = World()
    assert len(world.call("DescribeTasks", tasks=[f"{n}" for n in range(100)])["failures"]) == 100
    with refused("InvalidParameterException", "at most 100"):
        world.call("DescribeTasks", tasks=[f"{n}" for n in range(101)])
    with refused("InvalidParameterException", "Tasks cannot be empty"):
        world.call("DescribeTasks", tasks=[])


def test_tags_are_shown_only_when_asked_for() -> None:
    world = World()
    arn = world.launch(tags=[{"key": "a", "value": "1"}])
    assert world.describe(arn)["tags"] == []
    assert world.describe(arn, include=["TAGS"])["tags"] == [{"key": "a", "value": "1"}]


def test_a_list_shows_tasks_that_should_run_unless_told_otherwise() -> None:
    world = World()
    starting, running, stopping, stopped = (world.launch() for _ in range(4))
    world.finish(stopped)
    world.start(running)
    world.start(stopping)
    world.call("StopTask", task=stopping)
    assert world.listed() == [starting, running]
    assert world.listed(desiredStatus="RUNNING") == [starting, running]
    assert world.listed(desiredStatus="STOPPED") == [stopping, stopped]


def test_nothing_is_ever_pending_in_a_list() -> None:
    world = World()
    world.launch()
    assert world.listed(desiredStatus="PENDING") == []


def test_a_list_can_be_narrowed_by_one_thing() -> None:
    world = World()
    world.call("CreateCluster", clusterName="other")
    world.call(
        "RegisterTaskDefinition", family="bridge", containerDefinitions=[{"name": "c", "image": "i", "memory": 64}]
    )
    mine, theirs = world.launch(startedBy="mine"), world.launch(startedBy="theirs")
    [bridge] = world.call("RunTask", taskDefinition="bridge")["tasks"]
    elsewhere = world.launch(cluster="other", startedBy="mine")
    assert world.listed(startedBy="mine") == [mine]
    assert world.listed(family="airflow-task") == [mine, theirs]
    assert world.listed(launchType="EC2") == [bridge["taskArn"]]
    assert world.listed(cluster="other") == [elsewhere]
    assert world.listed(family="airflow-task", launchType="FARGATE", desiredStatus="RUNNING") == [mine, theirs]


@pytest.mark.parametrize(
    "other",
    [{"family": "airflow-task"}, {"desiredStatus": "STOPPED"}, {"desiredStatus": "RUNNING"}, {"launchType": "FARGATE"}],
)
def test_started_by_must_be_the_only_filter(other: dict[str, str]) -> None:
    with refused("InvalidParameterException", "cannot specify startedBy with other arguments"):
        World().call("ListTasks", startedBy="mine", **other)


def test_started_by_goes_with_the_cluster_and_paging() -> None:
    world = World()
    arns = [world.launch(startedBy="mine") for _ in range(3)]
    assert world.listed(startedBy="mine", cluster="default", maxResults=2) == arns


def test_a_list_comes_in_pages_of_at_most_a_hundred() -> None:
    world = World()
    arns = [task["taskArn"] for _ in range(25) for task in world.run(count=10)["tasks"]]
    first = world.call("ListTasks")
    assert len(first["taskArns"]) == 100
    assert world.listed() == arns
    assert len(world.call("ListTasks", maxResults=7)["taskArns"]) == 7
    for wrong in (0, 101):
        with refused("InvalidParameterException", "maxResults"):
            world.call("ListTasks", maxResults=wrong)


def test_pages_may_be_shorter_than_asked_for() -> None:
    world = World(settings(list_page_size=3))
    arns = [task["taskArn"] for task in world.run(count=10)["tasks"]]
    assert len(world.call("ListTasks", maxResults=100)["taskArns"]) == 3
    assert world.listed(maxResults=100) == arns


def test_a_page_goes_on_where_the_last_one_ended_while_tasks_come_and_go() -> None:
    world = World()
    arns = [task["taskArn"] for task in world.run(count=4)["tasks"]]
    first = world.call("ListTasks", maxResults=2)
    world.call("StopTask", task=arns[0])
    world.call("StopTask", task=arns[3])
    late = world.launch()
    rest = world.call("ListTasks", nextToken=first["nextToken"])
    assert first["taskArns"] == arns[:2]
    assert rest["taskArns"] == [arns[2], late]


@pytest.mark.parametrize("token", ["junk", "", "YWZ0ZXI6eA==", "é"])
def test_a_made_up_page_token_is_refused(token: str) -> None:
    with refused("InvalidParameterException", "Invalid token"):
        World().call("ListTasks", nextToken=token)


def test_a_list_hears_of_a_launch_and_of_a_stop_later() -> None:
    world = World(settings(list_lag=2.0))
    arn = world.launch()
    assert world.listed() == []
    world.wait(2)
    assert world.listed() == [arn]
    world.call("StopTask", task=arn)
    assert (world.listed(), world.listed(desiredStatus="STOPPED")) == ([arn], [])
    world.wait(2)
    assert (world.listed(), world.listed(desiredStatus="STOPPED")) == ([], [arn])


def test_a_cluster_that_does_not_exist_is_an_error() -> None:
    world = World()
    for operation, request in (("ListTasks", {}), ("DescribeTasks", {"tasks": ["a"]})):
        with refused("ClusterNotFoundException", "Cluster not found."):
            world.call(operation, cluster="nowhere", **request)


def test_there_are_no_services() -> None:
    with refused("ServiceNotFoundException"):
        World().call("ListTasks", serviceName="web")


def test_looking_does_not_change_anything() -> None:
    world = World()
    arn = world.launch()
    before = world.model.next_event_at()
    for _ in range(10):
        assert world.describe(arn)["version"] == 1
        world.listed()
    assert world.model.next_event_at() == before

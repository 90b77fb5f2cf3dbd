"""What is refused, with which code, and that nothing happened."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.localecs import PUBLISHED_RATES
from reconciler.localecs.throttle import GROUPS
from tests.localecs.world import DEFINITION, FARGATE, World, refused

INVALID = "InvalidParameterException"
AWSVPC = FARGATE["networkConfiguration"]["awsvpcConfiguration"]


def overrides_of(length: int) -> dict[str, Any]:
    """Overrides whose compact JSON has exactly `length` characters."""
    empty = '{"containerOverrides":[{"name":"airflow","command":[""]}]}'
    return {"containerOverrides": [{"name": "airflow", "command": ["x" * (length - len(empty))]}]}


def strategy(*items: dict[str, Any]) -> dict[str, Any]:
    return {"capacityProviderStrategy": [{"capacityProvider": "FARGATE", **item} for item in items]}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"count": 0}, "count must be between 1 and 10"),
        ({"count": 11}, "count must be between 1 and 10"),
        ({"clientToken": ""}, "clientToken"),
        ({"clientToken": "x" * 65}, "clientToken"),
        ({"clientToken": "with space"}, "clientToken"),
        ({"clientToken": "é"}, "clientToken"),
        ({"startedBy": ""}, "startedBy"),
        ({"startedBy": "x" * 129}, "startedBy"),
        ({"startedBy": "manual__2026-01-01T00:00:00+00:00"}, "startedBy"),
        ({"startedBy": "a\n"}, "startedBy"),
        ({"overrides": overrides_of(8193)}, "Container Overrides length must be at most 8192"),
        ({"overrides": {"containerOverrides": [{"name": "web"}]}}, "Override for container named web is not"),
        ({"overrides": {"containerOverrides": [{"command": ["x"]}]}}, "Override for container named None"),
        ({"tags": [{"key": f"k{n}", "value": ""} for n in range(51)]}, "tags must have at most 50"),
        ({"tags": [{"key": "x" * 129}]}, "Tag key"),
        ({"tags": [{"key": "a"}, {"key": "a"}]}, "more than once"),
        ({"tags": [{"key": "AWS:mine"}]}, "Tag key"),
        ({"tags": [{"key": "a", "value": "x" * 257}]}, "value of tag"),
        ({"tags": [{"key": "a", "value": "<"}]}, "value of tag"),
        ({"propagateTags": "SERVICE"}, "propagateTags"),
        ({"launchType": "MOON"}, "launchType"),
        ({"launchType": "MANAGED_INSTANCES"}, "MANAGED_INSTANCES"),
        (strategy({"weight": 1}), "both a launch type and capacity provider strategy"),
        ({"networkConfiguration": {}}, "Network Configuration must be provided"),
        ({"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s"] * 17}}}, "subnets must have at most 16"),
        ({"networkConfiguration": {"awsvpcConfiguration": AWSVPC | {"securityGroups": ["s"] * 6}}}, "securityGroups"),
        ({"placementConstraints": [{"type": "distinctInstance"}] * 11}, "placementConstraints"),
        ({"placementStrategy": [{"type": "random"}] * 6}, "placementStrategy"),
        ({"taskDefinition": "unknown"}, "TaskDefinition not found"),
        ({"taskDefinition": "airflow-task:2"}, "TaskDefinition not found"),
        ({"taskDefinition": "airflow-task:x"}, "TaskDefinition not found"),
    ],
)
def test_run_task_refuses(parameters: dict[str, Any], message: str) -> None:
    world = World()
    with refused(INVALID, message):
        world.run(**parameters)
    assert world.listed() == []


@pytest.mark.parametrize(
    "parameters",
    [
        {"count": 10},
        {"clientToken": "x" * 64},
        {"clientToken": "!~"},
        {"startedBy": "x" * 128},
        {"startedBy": "prod/0b54-9c/12_A"},
        {"overrides": overrides_of(8192)},
        {"tags": [{"key": f"k{n}", "value": "v"} for n in range(50)]},
        {"propagateTags": "NONE"},
        {"taskDefinition": "airflow-task:1"},
        {"taskDefinition": "arn:aws:ecs:us-east-1:123456789012:task-definition/airflow-task:1"},
        {"cluster": "arn:aws:ecs:us-east-1:123456789012:cluster/default"},
    ],
)
def test_run_task_accepts(parameters: dict[str, Any]) -> None:
    world = World()
    assert len(world.run(**parameters)["tasks"]) == parameters.get("count", 1)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([{"weight": 0}], "weight greater than zero"),
        ([{"weight": 1001}], "weight must be between"),
        ([{"weight": 1, "base": 100_001}], "base must be between"),
        ([{"weight": 1, "base": 1}, {"weight": 1, "base": 1}], "Only one item"),
        ([{"weight": 1}] * 21, "at most 20"),
        ([{"weight": 1}, {"weight": 1, "capacityProvider": "asg"}], "cannot mix"),
    ],
)
def test_a_capacity_provider_strategy_is_checked(items: list[dict[str, Any]], message: str) -> None:
    request = {name: value for name, value in FARGATE.items() if name != "launchType"}
    with refused(INVALID, message):
        World().call_unchecked("RunTask", **request, **strategy(*items))


def test_a_cluster_that_does_not_exist_has_its_own_error() -> None:
    with refused("ClusterNotFoundException", "Cluster not found."):
        World().run(cluster="nowhere")
    with refused("ClusterNotFoundException", "Cluster not found."):
        World().run(cluster="arn:aws:ecs:eu-west-1:123456789012:cluster/default")


def test_an_inactive_definition_cannot_be_run_but_described() -> None:
    world = World()
    definition = world.call("DeregisterTaskDefinition", taskDefinition="airflow-task:1")["taskDefinition"]
    assert definition["status"] == "INACTIVE"
    with refused(INVALID, "TaskDefinition is inactive"):
        world.run(taskDefinition="airflow-task:1")
    with refused(INVALID, "TaskDefinition not found"):
        world.run(taskDefinition="airflow-task")
    assert world.call("DescribeTaskDefinition", taskDefinition="airflow-task:1")["taskDefinition"] == definition


def test_fargate_needs_awsvpc_and_bridge_forbids_a_network_configuration() -> None:
    world = World()
    world.call(
        "RegisterTaskDefinition", family="bridge", containerDefinitions=[{"name": "c", "image": "i", "memory": 64}]
    )
    with refused(INVALID, "does not support launch_type FARGATE"):
        world.run(taskDefinition="bridge")
    with refused(INVALID, "not valid for the given networkMode"):
        world.run(taskDefinition="bridge", launchType="EC2")
    with refused(INVALID, "platform version"):
        world.run(launchType="EC2", platformVersion="1.4.0")


def test_the_latest_active_revision_of_a_family_is_run() -> None:
    world = World()
    world.call("RegisterTaskDefinition", **DEFINITION)
    world.call("RegisterTaskDefinition", **DEFINITION)
    world.call("DeregisterTaskDefinition", taskDefinition="airflow-task:3")
    [task] = world.run()["tasks"]
    assert task["taskDefinitionArn"].endswith(":task-definition/airflow-task:2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "with space"}, "family"),
        ({"containerDefinitions": []}, "1 to 10 containers"),
        ({"containerDefinitions": [{"name": f"c{n}", "image": "i"} for n in range(11)]}, "1 to 10 containers"),
        ({"containerDefinitions": [{"name": "c", "image": "i"}] * 2}, "name of its own"),
        ({"containerDefinitions": [{"image": "i"}]}, "name of its own"),
        ({"containerDefinitions": [{"name": "c"}]}, "image should not be null"),
        ({"containerDefinitions": [{"name": "c", "image": "i", "essential": False}]}, "essential"),
        ({"containerDefinitions": [{"name": "c", "image": "i", "stopTimeout": 121}]}, "stopTimeout"),
        ({"containerDefinitions": [{"name": "c", "image": "i", "command": ["x" * 65536]}]}, "64 KB"),
        ({"networkMode": "bridge"}, "awsvpc"),
        ({"memory": "4096"}, "No Fargate configuration"),
        ({"cpu": "300"}, "No Fargate configuration"),
        ({"cpu": "one"}, "No Fargate configuration"),
    ],
)
def test_a_task_definition_is_checked(changes: dict[str, Any], message: str) -> None:
    with refused("ClientException", message):
        World().call("RegisterTaskDefinition", **{**DEFINITION, **changes})


def test_revisions_are_counted_and_defaults_filled_in() -> None:
    world = World()
    answer = world.call("RegisterTaskDefinition", **DEFINITION, tags=[{"key": "a", "value": "b"}])
    definition = answer["taskDefinition"]
    assert definition["revision"] == 2
    assert definition["compatibilities"] == ["EC2", "FARGATE"]
    assert definition["containerDefinitions"][0]["essential"] is True
    described = world.call("DescribeTaskDefinition", taskDefinition="airflow-task", include=["TAGS"])
    assert described == {"taskDefinition": definition, "tags": [{"key": "a", "value": "b"}]}
    with refused("ClientException", "Unable to describe task definition"):
        world.call("DescribeTaskDefinition", taskDefinition="airflow-task:3")
    with refused("ClientException", "A revision must be specified"):
        world.call("DeregisterTaskDefinition", taskDefinition="airflow-task")
    with refused("ClientException", "does not exist"):
        world.call("DeregisterTaskDefinition", taskDefinition="airflow-task:3")


def test_clusters_are_made_once_and_counted() -> None:
    world = World()
    first = world.call("CreateCluster", clusterName="jobs", tags=[{"key": "a", "value": "b"}])["cluster"]
    assert world.call("CreateCluster", clusterName="jobs")["cluster"] == first
    running = world.launch(cluster="jobs")
    world.start(running)
    world.run(cluster="jobs", count=2)
    answer = world.call("DescribeClusters", clusters=["jobs", "nowhere"], include=["TAGS"])
    [cluster] = answer["clusters"]
    assert (cluster["runningTasksCount"], cluster["pendingTasksCount"]) == (1, 2)
    assert cluster["tags"] == [{"key": "a", "value": "b"}]
    assert [(failure["arn"].rpartition("/")[2], failure["reason"]) for failure in answer["failures"]] == [
        ("nowhere", "MISSING")
    ]
    assert [cluster["clusterName"] for cluster in world.call("DescribeClusters")["clusters"]] == ["default"]
    with refused(INVALID, "clusterName"):
        world.call("CreateCluster", clusterName="with space")
    with refused(INVALID, "at most 100"):
        world.call("DescribeClusters", clusters=["a"] * 101)


def test_tags_can_be_added_and_listed() -> None:
    world = World()
    arn = world.launch(tags=[{"key": "a", "value": "1"}])
    world.call("TagResource", resourceArn=arn, tags=[{"key": "a", "value": "2"}, {"key": "b", "value": "3"}])
    expected = [{"key": "a", "value": "2"}, {"key": "b", "value": "3"}]
    assert world.call("ListTagsForResource", resourceArn=arn)["tags"] == expected
    for kind in ("cluster/default", "task-definition/airflow-task:1"):
        other = f"arn:aws:ecs:us-east-1:123456789012:{kind}"
        world.call("TagResource", resourceArn=other, tags=[{"key": "c", "value": "4"}])
        assert world.call("ListTagsForResource", resourceArn=other)["tags"] == [{"key": "c", "value": "4"}]


def test_tags_have_limits() -> None:
    world = World()
    arn = world.launch(tags=[{"key": f"k{n}", "value": ""} for n in range(50)])
    with refused(INVALID, "at most 50"):
        world.call("TagResource", resourceArn=arn, tags=[{"key": "more", "value": ""}])
    with refused(INVALID, "could not be found"):
        world.call("ListTagsForResource", resourceArn=arn + "0")
    world.finish(arn)
    with refused(INVALID, "is stopped"):
        world.call("TagResource", resourceArn=arn, tags=[{"key": "a", "value": ""}])


def test_tags_are_propagated_from_the_definition_and_added_by_ecs() -> None:
    world = World()
    world.call("RegisterTaskDefinition", **DEFINITION, tags=[{"key": "a", "value": "1"}, {"key": "b", "value": "1"}])
    arn = world.launch(propagateTags="TASK_DEFINITION", enableECSManagedTags=True, tags=[{"key": "b", "value": "2"}])
    tags = {tag["key"]: tag["value"] for tag in world.describe(arn, include=["TAGS"])["tags"]}
    assert tags == {"a": "1", "b": "2", "aws:ecs:clusterName": "default"}


def test_an_operation_that_is_not_modelled_says_so() -> None:
    with refused("UnknownOperationException", "CreateService"):
        World().call_unchecked("CreateService")


def test_every_operation_belongs_to_a_throttling_group_that_has_a_published_rate() -> None:
    assert set(World().model._operations) == set(GROUPS)
    assert set(GROUPS.values()) <= set(PUBLISHED_RATES)


def test_a_request_may_be_reused_and_changed_by_its_caller() -> None:
    world = World()
    command = ["first"]
    overrides = {"containerOverrides": [{"name": "airflow", "command": command}]}
    arn = world.launch(overrides=overrides)
    command[0] = "second"
    assert world.describe(arn)["overrides"]["containerOverrides"][0]["command"] == ["first"]

"""Token buckets with the published rates, and the quota of concurrent tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.localecs import AwsError, Rate, Settings
from reconciler.localecs.task_operations import NO_TASKS, NO_VCPUS
from tests.localecs.world import DEFINITION, World, refused

ON_EC2 = {"launchType": "EC2"}


def accepted(world: World, operation: str, limit: int = 1000, **request: Any) -> int:
    """How many calls in a row, at this very moment, are not throttled."""
    for number in range(limit):
        try:
            world.call(operation, **request)
        except AwsError as error:
            if error.code != "ThrottlingException":
                raise
            return number
    return limit


def runs(world: World, **parameters: Any) -> int:
    """How many RunTask calls in a row are not throttled."""
    for number in range(1000):
        try:
            world.run(**parameters)
        except AwsError as error:
            if error.code != "ThrottlingException":
                raise
            return number
    raise AssertionError("never throttled")


@pytest.mark.parametrize(
    ("operation", "request_", "burst", "refill"),
    [
        ("DescribeTasks", {"tasks": ["a"]}, 100, 20),
        ("ListTasks", {}, 100, 20),
        ("DescribeClusters", {}, 50, 20),
        ("CreateCluster", {}, 19, 1),  # the world has made one
        ("DescribeTaskDefinition", {"taskDefinition": "airflow-task"}, 50, 20),
        ("RegisterTaskDefinition", DEFINITION, 19, 1),  # the world has registered one
        (
            "TagResource",
            {"resourceArn": "arn:aws:ecs:us-east-1:123456789012:cluster/default", "tags": [{"key": "a", "value": "b"}]},
            20,
            10,
        ),
        ("ListTagsForResource", {"resourceArn": "arn:aws:ecs:us-east-1:123456789012:cluster/default"}, 50, 20),
    ],
)
def test_each_group_has_its_published_burst_and_refill(
    operation: str, request_: dict[str, Any], burst: int, refill: int
) -> None:
    world = World(Settings())
    assert accepted(world, operation, **request_) == burst
    world.wait(1)
    assert accepted(world, operation, **request_) == refill
    world.wait(10_000)
    assert accepted(world, operation, **request_) == burst + (burst == 19)


def test_throttling_is_an_http_400_that_says_rate_exceeded() -> None:
    world = World(Settings(rates={"cluster-read": Rate(0, 1)}))
    with refused("ThrottlingException", "Rate exceeded"):
        world.call("DescribeClusters")


def test_run_task_on_ec2_drains_only_the_bucket_of_its_group() -> None:
    world = World(Settings())
    assert runs(world, **ON_EC2) == 100
    world.wait(1)
    assert runs(world, **ON_EC2) == 40


def test_run_task_on_fargate_is_held_to_twenty_calls_a_second() -> None:
    world = World(Settings())
    assert runs(world) == 20
    world.wait(1)
    assert runs(world) == 20
    stats = world.model.stats()["groups"]
    assert stats["fargate-run-task"] == {"accepted": 40, "refused": 2}
    assert stats["fargate-launches"] == {"accepted": 40, "refused": 0}


def test_launches_on_fargate_are_counted_by_task() -> None:
    world = World(Settings())
    assert runs(world, count=10) == 10
    world.wait(1)
    assert runs(world, count=10) == 2


def test_five_hundred_tasks_on_fargate_take_twenty_four_seconds() -> None:
    world = World(Settings())
    launched = 0
    start = world.now
    while True:
        launched += min(runs(world), 500 - launched)
        if launched == 500:
            break
        world.wait(0.05)
    assert world.now - start == pytest.approx(24.0, abs=0.06)


def test_spot_launches_have_a_bucket_of_their_own() -> None:
    world = World(replace(Settings(), rates={"fargate-launches": Rate(0, 0), "fargate-spot-launches": Rate(5, 0)}))
    with refused("ThrottlingException"):
        world.run()
    spot: dict[str, Any] = {
        "taskDefinition": "airflow-task",
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["s"]}},
        "capacityProviderStrategy": [{"capacityProvider": "FARGATE_SPOT", "weight": 1}],
    }
    assert accepted(world, "RunTask", **spot) == 5


def test_stop_task_shares_its_bucket_with_run_task() -> None:
    world = World(Settings())
    arn = world.run(**ON_EC2)["tasks"][0]["taskArn"]
    assert accepted(world, "StopTask", task=arn) == 99
    with refused("ThrottlingException"):
        world.run(**ON_EC2)


def test_describe_tasks_shares_its_bucket_with_list_tasks() -> None:
    world = World(Settings())
    assert accepted(world, "ListTasks") == 100
    with refused("ThrottlingException"):
        world.call("DescribeTasks", tasks=["a"])


def test_a_refused_call_costs_no_launch() -> None:
    world = World(Settings(rates={"fargate-launches": Rate(1, 0), "fargate-run-task": Rate(2, 0)}))
    with refused("ThrottlingException"):
        world.run(count=2)
    assert len(world.run()["tasks"]) == 1


def test_a_repeated_token_costs_a_call_but_no_launch() -> None:
    world = World(Settings(rates={"fargate-launches": Rate(1, 0), "fargate-run-task": Rate(3, 0)}))
    arn = world.launch(clientToken="t")
    assert world.launch(clientToken="t") == arn
    assert world.launch(clientToken="t") == arn
    with refused("ThrottlingException"):
        world.run(clientToken="t")


def test_another_tenant_of_the_account_drains_the_same_buckets() -> None:
    world = World(Settings())
    world.model.throttle.take({"cluster-resource-read": 95}, world.now)
    assert accepted(world, "ListTasks") == 5


def test_without_rates_nothing_is_throttled_and_calls_are_still_counted() -> None:
    world = World(Settings.unthrottled())
    assert accepted(world, "ListTasks", limit=500) == 500
    assert world.model.stats()["groups"]["cluster-resource-read"] == {"accepted": 500, "refused": 0}
    assert world.model.stats()["operations"]["ListTasks"] == {"answered": 500, "throttled": 0, "failed": 0}


def test_calls_are_counted_by_how_they_ended() -> None:
    world = World(Settings(rates={"cluster-resource-read": Rate(2, 0)}))
    world.call("ListTasks")
    with refused("InvalidParameterException"):
        world.call("ListTasks", maxResults=0)
    with refused("ThrottlingException"):
        world.call("ListTasks")
    assert world.model.stats()["operations"]["ListTasks"] == {"answered": 1, "throttled": 1, "failed": 1}


def test_the_quota_of_tasks_answers_failures_and_frees_at_stopped() -> None:
    world = World(replace(Settings.unthrottled(), max_running_tasks=2))
    answer = world.run(count=3)
    assert len(answer["tasks"]) == 2
    assert answer["failures"] == [{"reason": NO_TASKS}]
    first = answer["tasks"][0]["taskArn"]
    world.start(first)
    world.exit(first)
    world.reach(first, "DEPROVISIONING")
    assert world.run()["tasks"] == []
    world.reach(first, "STOPPED")
    assert len(world.run()["tasks"]) == 1


def test_the_vcpu_quota_counts_cpu_units_also_when_overridden() -> None:
    world = World(replace(Settings.unthrottled(), max_vcpus=1.0))
    assert len(world.run(count=2)["tasks"]) == 2
    assert world.run(overrides={"cpu": "1024"}) == {"tasks": [], "failures": [{"reason": NO_VCPUS}]}
    assert len(world.run(overrides={"cpu": "512"})["tasks"]) == 1
    assert world.run()["failures"] == [{"reason": NO_VCPUS}]


def test_the_vcpu_quota_is_fargate_s() -> None:
    world = World(replace(Settings.unthrottled(), max_vcpus=0.0))
    assert len(world.run(**ON_EC2)["tasks"]) == 1

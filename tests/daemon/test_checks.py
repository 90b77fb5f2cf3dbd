"""What is said of a cluster and a task definition before the first launch, each in one line."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.checks import check_profile
from reconciler.core.finding import Level
from reconciler.core.runtask import Profile
from reconciler.core.size import fargate_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping

NETWORK = {"awsvpcConfiguration": {"subnets": ["subnet-1"]}}
PROFILE = Profile(
    cluster="airflow",
    container_name="main",
    run_task={"taskDefinition": "task:3", "launchType": "FARGATE", "networkConfiguration": NETWORK, "count": 1},
)
SPOT, INSTANCES = {"capacityProvider": "FARGATE_SPOT"}, {"capacityProvider": "instances"}
CLUSTER = {"clusterName": "airflow", "status": "ACTIVE"}
LOGS = {"logDriver": "awslogs", "options": {}}
DEFINITION = {
    "taskDefinitionArn": "arn:task:3",
    "status": "ACTIVE",
    "networkMode": "awsvpc",
    "compatibilities": ["EC2", "FARGATE"],
    "executionRoleArn": "arn:role",
    "containerDefinitions": [
        {"name": "main", "image": "1.dkr.ecr.eu-central-1.amazonaws.com/airflow", "logConfiguration": LOGS}
    ],
}


class Ecs:
    """An ECS that shows what the test says."""

    def __init__(self, cluster: Mapping[str, Any] | None = CLUSTER, **changes: Any) -> None:
        self._cluster, self._definition = cluster, {**DEFINITION, **changes}

    def describe_cluster(self, cluster: str) -> Mapping[str, Any] | None:
        return self._cluster if cluster == "airflow" else None

    def describe_task_definition(self, name: str) -> Mapping[str, Any] | None:
        return self._definition if name == "task:3" else None


def findings(ecs: Ecs, profile: Profile = PROFILE) -> list[str]:
    _, found = check_profile(profile, ecs, region="eu-central-1")
    return [f"{f.level}: {f}" for f in found if f.level is not Level.OK]


def run_task(**changes: Any) -> Profile:
    members = {**PROFILE.run_task, **changes}
    return replace(PROFILE, run_task={name: value for name, value in members.items() if value is not None})


def test_nothing_is_found_where_all_is_well() -> None:
    assert findings(Ecs()) == []


@pytest.mark.parametrize(
    ("ecs", "profile", "words"),
    [
        (Ecs(None), PROFILE, ["error: [aws_ecs_executor] cluster", "no active cluster 'airflow' in eu-central-1"]),
        (Ecs({**CLUSTER, "status": "INACTIVE"}), PROFILE, ["error", "no active cluster"]),
        (Ecs(), run_task(taskDefinition="none"), ["error: [aws_ecs_executor] task_definition", "'none'", "register"]),
        (Ecs(status="INACTIVE"), PROFILE, ["error", "arn:task:3 is INACTIVE", "name an ACTIVE revision"]),
        (Ecs(), run_task(networkConfiguration=None), ["error: [aws_ecs_executor] subnets", "awsvpc", "one subnet"]),
        (Ecs(networkMode="bridge"), run_task(launchType="EC2"), ["error", "networkMode is bridge", "unset subnets"]),
        (Ecs(networkMode=None), run_task(launchType="EC2"), ["error", "networkMode is bridge"]),
        (
            Ecs(networkMode="host"),
            run_task(launchType="EC2", networkConfiguration=None),
            ["warning", "networkMode host", "use awsvpc or bridge"],
        ),
        (Ecs(compatibilities=["EC2"]), PROFILE, ["error", "can not run on Fargate", "launch_type"]),
        (Ecs(executionRoleArn=None), PROFILE, ["warning", "no executionRoleArn", "pull from ECR"]),
        (
            Ecs(containerDefinitions=[{"name": "main", "image": "public", "logConfiguration": None}]),
            PROFILE,
            ["warning", "no logConfiguration", "awslogs"],
        ),
        (Ecs(), run_task(tag=[]), ["error: [aws_ecs_executor] run_task_kwargs", 'Unknown parameter in input: "tag"']),
        (Ecs(), run_task(tags={"key": "a"}), ["error", "run_task_kwargs", "Invalid type for parameter tags"]),
    ],
)
def test_each_fault_is_one_line_with_where_what_and_the_way_out(ecs: Ecs, profile: Profile, words: list[str]) -> None:
    (line,) = findings(ecs, profile)
    for word in words:
        assert word in line


def test_a_container_that_is_not_there_is_named_with_those_that_are() -> None:
    (line,) = findings(Ecs(), replace(PROFILE, container_name="airflow"))
    assert line.startswith("error: [aws_ecs_executor] container_name")
    assert "has no container 'airflow', only main" in line


@pytest.mark.parametrize(
    ("strategy", "launch"),
    [
        ([], {"launchType": "FARGATE", "platformVersion": "LATEST"}),
        ([SPOT], {"capacityProviderStrategy": [SPOT], "platformVersion": "LATEST"}),
        ([INSTANCES], {"capacityProviderStrategy": [INSTANCES]}),
    ],
)
def test_the_clusters_default_capacity_completes_the_profile(
    strategy: list[dict[str, Any]], launch: dict[str, Any]
) -> None:
    ecs = Ecs({**CLUSTER, "defaultCapacityProviderStrategy": strategy})
    profile, _ = check_profile(run_task(launchType=None, platformVersion="LATEST"), ecs, region="eu-central-1")
    chosen = ("launchType", "capacityProviderStrategy", "platformVersion")
    assert {name: value for name, value in profile.run_task.items() if name in chosen} == launch


def test_what_a_cluster_runs_on_fargate_by_default_has_a_size() -> None:
    """Or no limit of vCPUs would hold it."""
    ecs = Ecs({**CLUSTER, "defaultCapacityProviderStrategy": [SPOT]})
    profile, _ = check_profile(run_task(launchType=None), ecs, region="eu-central-1")
    assert fargate_cpu(profile.run_task, {"cpu": "1 vCPU"}) == 1024

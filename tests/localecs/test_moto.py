"""The same calls against moto and against the local ECS, field by field, where moto behaves like ECS.

Where moto does not (it ignores clientToken, has no MISSING, no exit codes, no stop codes, no paging, no limits, and a
task is RUNNING in the answer of RunTask), there is nothing to compare; docs/local-ecs.md lists those.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from reconciler.localecs import LocalEcs, Settings
from tests.localecs.world import DEFINITION

if TYPE_CHECKING:
    from collections.abc import Callable

DOCS = Path(__file__).parents[2] / "docs" / "local-ecs.md"
TASK_ID = re.compile(r"[0-9a-f]{32}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Every call and field that is compared. docs/local-ecs.md repeats the list.
COMPARED = [
    "CreateCluster cluster.clusterArn",
    "CreateCluster cluster.clusterName",
    "CreateCluster cluster.status",
    "CreateCluster cluster.registeredContainerInstancesCount",
    "CreateCluster cluster.runningTasksCount",
    "CreateCluster cluster.pendingTasksCount",
    "CreateCluster cluster.activeServicesCount",
    "DescribeClusters clusters[].clusterArn",
    "DescribeClusters clusters[].status",
    "DescribeClusters failures[].arn",
    "DescribeClusters failures[].reason",
    "RegisterTaskDefinition taskDefinition.taskDefinitionArn",
    "RegisterTaskDefinition taskDefinition.family",
    "RegisterTaskDefinition taskDefinition.revision",
    "RegisterTaskDefinition taskDefinition.status",
    "RegisterTaskDefinition taskDefinition.networkMode",
    "RegisterTaskDefinition taskDefinition.cpu",
    "RegisterTaskDefinition taskDefinition.memory",
    "RegisterTaskDefinition taskDefinition.requiresCompatibilities",
    "RegisterTaskDefinition taskDefinition.compatibilities",
    "RegisterTaskDefinition taskDefinition.volumes",
    "RegisterTaskDefinition taskDefinition.placementConstraints",
    "RegisterTaskDefinition taskDefinition.containerDefinitions[].name",
    "RegisterTaskDefinition taskDefinition.containerDefinitions[].image",
    "RegisterTaskDefinition taskDefinition.containerDefinitions[].essential",
    "RegisterTaskDefinition taskDefinition.containerDefinitions[].command",
    "RegisterTaskDefinition taskDefinition.containerDefinitions[].portMappings",
    "RegisterTaskDefinition the second revision",
    "DescribeTaskDefinition by family: the latest revision",
    "DescribeTaskDefinition by ARN: its revision",
    "DescribeTaskDefinition unknown: error code",
    "DescribeTaskDefinition unknown: error message",
    "DeregisterTaskDefinition taskDefinition.status",
    "RunTask tasks[].taskArn",
    "RunTask tasks[].clusterArn",
    "RunTask tasks[].taskDefinitionArn",
    "RunTask tasks[].launchType",
    "RunTask tasks[].startedBy",
    "RunTask tasks[].desiredStatus",
    "RunTask tasks[].overrides",
    "RunTask tasks[].tags",
    "RunTask tasks[].containers[].name",
    "RunTask tasks[].attachments[].type",
    "RunTask failures",
    "RunTask count=3: number of tasks",
    "RunTask awsvpc without networkConfiguration: error code",
    "RunTask awsvpc without networkConfiguration: error message",
    "RunTask unknown cluster: error code",
    "RunTask unknown cluster: error message",
    "DescribeTasks tasks[].taskArn",
    "DescribeTasks tasks[].startedBy",
    "DescribeTasks by bare id: tasks[].taskArn",
    "DescribeTasks include TAGS: tasks[].tags",
    "DescribeTasks unknown cluster: error code",
    "ListTasks startedBy: number of tasks",
    "ListTasks family: number of tasks",
    "ListTasks unknown cluster: error code",
    "TagResource and ListTagsForResource of a task: tags",
    "StopTask task.taskArn",
    "StopTask task.desiredStatus",
    "StopTask task.stoppedReason",
    "StopTask unknown cluster: error code",
]


def error(call: Callable[[], Any]) -> dict[str, str]:
    with pytest.raises(ClientError) as caught:
        call()
    return {name: str(value) for name, value in caught.value.response["Error"].items()}


def anonymous(arn: str) -> str:
    return TASK_ID.sub("<id>", arn)


def story(client: Any, subnet: str) -> dict[str, Any]:
    """One course of events; what was answered, by the names of COMPARED."""
    noted: dict[str, Any] = {}

    def note(call: str, answer: dict[str, Any], *fields: str) -> None:
        for field in fields:
            value: Any = answer
            for name in field.replace("[]", ".0").split("."):
                value = value[int(name)] if name.isdecimal() else value[name]
            noted[f"{call} {field}"] = value

    counts = [f"cluster.{kind}Count" for kind in ("registeredContainerInstances", "runningTasks", "pendingTasks")]
    names = ("cluster.clusterArn", "cluster.clusterName", "cluster.status", "cluster.activeServicesCount")
    note("CreateCluster", client.create_cluster(clusterName="jobs"), *names, *counts)
    clusters = client.describe_clusters(clusters=["jobs", "nowhere"])
    note("DescribeClusters", clusters, "clusters[].clusterArn", "clusters[].status")
    note("DescribeClusters", clusters, "failures[].arn", "failures[].reason")

    members = "taskDefinitionArn family revision status networkMode cpu memory requiresCompatibilities compatibilities"
    members += " volumes placementConstraints containerDefinitions[].name containerDefinitions[].image"
    members += " containerDefinitions[].essential containerDefinitions[].command containerDefinitions[].portMappings"
    container = {"name": "airflow", "image": "airflow:3", "memory": 256, "command": ["true"]}
    definition = {**DEFINITION, "containerDefinitions": [container]}
    fields = [f"taskDefinition.{member}" for member in members.split()]
    note("RegisterTaskDefinition", client.register_task_definition(**definition), *fields)
    second = client.register_task_definition(**definition)["taskDefinition"]
    noted["RegisterTaskDefinition the second revision"] = second["revision"]
    for reference, name in (("airflow-task", "family: the latest"), (second["taskDefinitionArn"], "ARN: its")):
        found = client.describe_task_definition(taskDefinition=reference)["taskDefinition"]
        noted[f"DescribeTaskDefinition by {name} revision"] = found["revision"]
    unknown = error(lambda: client.describe_task_definition(taskDefinition="unknown"))
    noted["DescribeTaskDefinition unknown: error code"] = unknown["Code"]
    noted["DescribeTaskDefinition unknown: error message"] = unknown["Message"]

    request: dict[str, Any] = {
        "cluster": "jobs",
        "taskDefinition": "airflow-task",
        "launchType": "FARGATE",
        "startedBy": "me/1",
        "tags": [{"key": "a", "value": "1"}],
        "overrides": {"containerOverrides": [{"name": "airflow", "command": ["false"]}]},
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": [subnet], "securityGroups": []}},
    }
    answer = client.run_task(**request)
    [task] = answer["tasks"]
    arn = task["taskArn"]
    noted["RunTask tasks[].taskArn"] = anonymous(arn)
    noted["RunTask failures"] = answer["failures"]
    noted["RunTask tasks[].overrides"] = task["overrides"]["containerOverrides"]
    shown = ["clusterArn", "taskDefinitionArn", "launchType", "startedBy", "desiredStatus", "tags"]
    note("RunTask", answer, *(f"tasks[].{name}" for name in (*shown, "containers[].name", "attachments[].type")))
    more = client.run_task(**{**request, "count": 3, "startedBy": "me/2"})
    noted["RunTask count=3: number of tasks"] = len(more["tasks"])
    bare = {name: value for name, value in request.items() if name != "networkConfiguration"}
    refused = error(lambda: client.run_task(**bare))
    noted["RunTask awsvpc without networkConfiguration: error code"] = refused["Code"]
    noted["RunTask awsvpc without networkConfiguration: error message"] = refused["Message"]
    refused = error(lambda: client.run_task(**{**request, "cluster": "nowhere"}))
    noted["RunTask unknown cluster: error code"] = refused["Code"]
    noted["RunTask unknown cluster: error message"] = refused["Message"]

    described = client.describe_tasks(cluster="jobs", tasks=[arn])["tasks"][0]
    noted["DescribeTasks tasks[].taskArn"] = described["taskArn"] == arn
    noted["DescribeTasks tasks[].startedBy"] = described["startedBy"]
    by_id = client.describe_tasks(cluster="jobs", tasks=[arn.rpartition("/")[2]])["tasks"][0]
    noted["DescribeTasks by bare id: tasks[].taskArn"] = by_id["taskArn"] == arn
    tagged = client.describe_tasks(cluster="jobs", tasks=[arn], include=["TAGS"])["tasks"][0]
    noted["DescribeTasks include TAGS: tasks[].tags"] = tagged["tags"]
    lost = error(lambda: client.describe_tasks(cluster="nowhere", tasks=[arn]))
    noted["DescribeTasks unknown cluster: error code"] = lost["Code"]
    noted["ListTasks startedBy: number of tasks"] = len(client.list_tasks(cluster="jobs", startedBy="me/2")["taskArns"])
    family = client.list_tasks(cluster="jobs", family="airflow-task")
    noted["ListTasks family: number of tasks"] = len(family["taskArns"])
    noted["ListTasks unknown cluster: error code"] = error(lambda: client.list_tasks(cluster="nowhere"))["Code"]

    client.tag_resource(resourceArn=arn, tags=[{"key": "b", "value": "2"}])
    tags = client.list_tags_for_resource(resourceArn=arn)["tags"]
    noted["TagResource and ListTagsForResource of a task: tags"] = sorted((tag["key"], tag["value"]) for tag in tags)
    stopped = client.stop_task(cluster="jobs", task=arn, reason="enough")["task"]
    noted["StopTask task.taskArn"] = stopped["taskArn"] == arn
    noted["StopTask task.desiredStatus"] = stopped["desiredStatus"]
    noted["StopTask task.stoppedReason"] = stopped["stoppedReason"]
    nowhere = error(lambda: client.stop_task(cluster="nowhere", task=arn))
    noted["StopTask unknown cluster: error code"] = nowhere["Code"]
    gone = client.deregister_task_definition(taskDefinition=second["taskDefinitionArn"])
    noted["DeregisterTaskDefinition taskDefinition.status"] = gone["taskDefinition"]["status"]
    return noted


@pytest.fixture(scope="module")
def of_moto() -> dict[str, Any]:
    with mock_aws():
        session = boto3.session.Session("anything", "goes", region_name="us-east-1")
        ec2, client = session.client("ec2"), session.client("ecs")
        noted = story(client, ec2.describe_subnets()["Subnets"][0]["SubnetId"])
        ec2.close()
        client.close()
    return noted


@pytest.fixture(scope="module")
def of_ours() -> dict[str, Any]:
    with LocalEcs(settings=Settings.unthrottled(), task_definition=False) as server:
        session = boto3.session.Session("anything", "goes", region_name="us-east-1")
        client = session.client("ecs", endpoint_url=server.endpoint_url)
        noted = story(client, "subnet-1")
        client.close()
    return noted


@pytest.mark.parametrize("name", COMPARED)
def test_moto_and_the_local_ecs_agree_on(name: str, of_moto: dict[str, Any], of_ours: dict[str, Any]) -> None:
    assert of_ours[name] == of_moto[name]


def test_what_is_compared_is_all_that_is_noted_and_at_least_twenty(of_ours: dict[str, Any]) -> None:
    assert set(COMPARED) == set(of_ours)
    assert len(COMPARED) >= 20


def test_the_docs_list_every_comparison() -> None:
    lines = set(DOCS.read_text().splitlines())
    assert [name for name in COMPARED if f"- {name}" not in lines] == []

"""DescribeTasks, ListTasks and StopTask over HTTP."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from msgspec import Raw

from reconciler.core.errors import EcsThrottled, EcsUnavailable, NoSuchCluster
from reconciler.ecs.shown import ecs_task
from reconciler.localecs import AwsError, ResponseLost, Settings
from reconciler.seams import Description
from tests.ecs.world import PROFILE, REGION, T0, eventually, launching

if TYPE_CHECKING:
    from collections.abc import Callable

    import boto3

    from tests.ecs.conftest import MakeWorld
    from tests.ecs.world import World

NETWORK = PROFILE.run_task["networkConfiguration"]


def launch(world: World, count: int) -> list[str]:
    return [world.run(launching(f"w-{n}")).task.arn for n in range(count)]


def fill(world: World, count: int) -> list[str]:
    """Many tasks of ours, straight into the model: HTTP takes its time."""
    with world.ecs.lock:
        return [
            world.ecs.model.call("RunTask", {**PROFILE.run_task, "startedBy": f"test/w-{n}/1"}, world.ecs.now())[
                "tasks"
            ][0]["taskArn"]
            for n in range(count)
        ]


def foreign(world: World, **request: Any) -> str:
    """A task that somebody else started."""
    answer = world.client.run_task(
        **{"taskDefinition": "airflow-task", "launchType": "FARGATE", "networkConfiguration": NETWORK} | request
    )
    return str(answer["tasks"][0]["taskArn"])


def test_any_number_of_tasks_can_be_described(world: World) -> None:
    arns = fill(world, 230)
    shown = world.gateway.describe("default", arns)
    assert [task.arn for task in shown.tasks] == arns
    assert shown.missing == frozenset()
    assert world.heard("DescribeTasks") == 3


def test_nothing_to_describe_is_no_call(world: World) -> None:
    assert world.gateway.describe("default", []).tasks == ()
    assert world.heard("DescribeTasks") == 0


def test_missing_tasks_are_named_and_the_others_shown(world: World) -> None:
    there, hidden = launch(world, 2)
    world.faults.hide(hidden)
    shown = world.gateway.describe("default", [there, hidden])
    assert [task.arn for task in shown.tasks] == [there]
    assert shown.missing == {hidden}


def test_a_task_is_shown_with_its_times_in_utc(world: World) -> None:
    (arn,) = launch(world, 1)
    eventually(lambda: world.gateway.describe("default", [arn]).tasks[0].last_status == "RUNNING")
    (task,) = world.gateway.describe("default", [arn]).tasks
    assert task.created_at is not None
    assert task.started_at is not None
    assert task.created_at.utcoffset() == T0.utcoffset()
    assert task.created_at <= task.started_at
    assert task.version > 1


def test_answers_read_as_plain_json_say_what_botocore_says(world: World, aws: boto3.Session) -> None:
    running, stopped, hidden = launch(world, 3)
    world.gateway.stop("default", stopped, "test")
    world.faults.hide(hidden)
    eventually(lambda: world.gateway.describe("default", [stopped]).tasks[0].stopped)
    eventually(lambda: world.gateway.describe("default", [running]).tasks[0].last_status == "RUNNING")
    botocores = aws.client("ecs", region_name=REGION)
    answer = botocores.describe_tasks(cluster="default", tasks=[running, stopped, hidden])
    botocores.close()
    shown = world.gateway.describe("default", [running, stopped, hidden])
    assert list(shown.tasks) == [ecs_task(task) for task in answer["tasks"]]
    assert shown.missing == {failure["arn"] for failure in answer["failures"]}
    assert isinstance(answer["tasks"][0]["createdAt"], datetime), "what was compared was read by us"
    assert isinstance(world.client.describe_tasks(tasks=[running])["tasks"][0], Raw)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"tasks": null, "failures": []}',
        b'{"tasks": [{"taskArn": "arn"}]}',
        b'{"tasks": ["arn"]}',
        b'{"tasks": [{"taskArn": "arn", "lastStatus": "RUNNING", "createdAt": []}]}',
        b'{"tasks": [], "failures": [7]}',
        b'{"tasks": [], "failures": 7}',
        b"\xbf\x65tasks\x80\xff",
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_none_is_a_call_that_failed(world: World, body: bytes) -> None:
    def answered(**_: Any) -> AWSResponse:
        return AWSResponse("http://localhost", 200, HTTPHeaders(), SimpleNamespace(stream=lambda: [body]))

    world.client.meta.events.register_last("before-send.ecs.DescribeTasks", answered)
    with pytest.raises(EcsUnavailable):
        world.gateway.describe("default", ["arn"])
    assert world.calls[-1] == ("DescribeTasks", "network")


@pytest.mark.parametrize(
    "spoilt",
    [
        {"createdAt": []},
        {"lastStatus": None},
        {"version": 2**70},
        {"version": "4"},
        {"stopCode": "a\n"},
        {"containers": [{"exitCode": 2**31}]},
        {"overrides": []},
    ],
)
def test_a_task_that_can_not_be_read_keeps_no_other_from_being_seen(world: World, spoilt: dict[str, Any]) -> None:
    good, bad = sorted(launch(world, 2))

    def spoil(response_dict: dict[str, Any], **_: Any) -> None:
        answer = json.loads(response_dict["body"])
        for task in answer["tasks"]:
            if task["taskArn"] == bad:
                task.update(spoilt)
        response_dict["body"] = json.dumps(answer).encode()

    world.client.meta.events.register_first("before-parse.ecs.DescribeTasks", spoil)
    shown = world.gateway.describe("default", [good, bad])
    assert ([task.arn for task in shown.tasks], shown.missing, shown.unreadable) == ([good], frozenset(), (bad,))
    # Nor does a listing without it pass for one that shows all.
    with pytest.raises(EcsUnavailable, match=bad):
        world.gateway.list_tasks("default", "airflow-task", stopped=True)


def test_only_our_own_container_decides(make_world: MakeWorld) -> None:
    world = make_world()
    containers = [
        {"name": "sidecar", "image": "busybox", "essential": False},
        {"name": "main", "image": "apache/airflow", "essential": True},
    ]
    world.client.register_task_definition(
        family="two",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=containers,
    )
    run_task = {
        **PROFILE.run_task,
        "taskDefinition": "two",
        "overrides": {"containerOverrides": [{"name": "sidecar", "environment": [{"name": "A", "value": "b"}]}]},
    }
    profile = replace(PROFILE, container_name="main", run_task=run_task)
    arn = world.run(launching(profile=profile)).task.arn
    eventually(lambda: world.gateway.describe("default", [arn]).tasks[0].last_status == "RUNNING")
    world.ecs.container_exited(arn, "sidecar", 9)
    world.ecs.container_exited(arn, "main", 3)
    eventually(lambda: world.gateway.describe("default", [arn]).tasks[0].stopped)
    (task,) = world.gateway.describe("default", [arn]).tasks
    assert task.container is not None
    assert task.container.exit_code == 3


def test_a_listing_shows_running_and_stopped_tasks_of_all_pages_and_owners(make_world: MakeWorld) -> None:
    world = make_world(Settings(rates={}, list_page_size=37))
    arns = fill(world, 120)
    theirs = foreign(world, startedBy="somebody-else")
    with world.ecs.lock:
        for arn in arns[:50]:
            world.ecs.model.call("StopTask", {"task": arn}, world.ecs.now())
        world.ecs.wake()
    eventually(lambda: all(task.stopped for task in world.gateway.describe("default", arns[:50]).tasks))
    listed = {task.arn: task for task in world.gateway.list_tasks("default", "airflow-task", stopped=True)}
    assert set(listed) == {*arns, theirs}
    assert [task.stopped for task in listed.values()].count(True) == 50
    assert listed[arns[0]].started_by == "test/w-0/1"
    assert listed[theirs].started_by == "somebody-else"
    assert listed[theirs].container is None


def test_a_listing_leaves_other_families_out(world: World) -> None:
    world.client.register_task_definition(
        family="other",
        networkMode="awsvpc",
        requiresCompatibilities=["FARGATE"],
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "airflow", "image": "x"}],
    )
    (ours,) = launch(world, 1)
    foreign(world, taskDefinition="other")
    assert [task.arn for task in world.gateway.list_tasks("default", "airflow-task", stopped=True)] == [ours]


def test_a_listed_task_that_is_missing_is_not_listed(make_world: MakeWorld) -> None:
    world = make_world(Settings(rates={}, visibility_lag=3600.0))
    launch(world, 2)
    assert len(world.client.list_tasks()["taskArns"]) == 2
    assert list(world.gateway.list_tasks("default", "airflow-task", stopped=True)) == []


def test_a_task_that_stops_during_the_listing_is_listed_once(world: World) -> None:
    # More than one batch, or ECS itself would show it once.
    arns = fill(world, 150)
    listings: list[object] = []

    def stop_between(**_: Any) -> None:
        listings.append(None)
        if len(listings) == 2:
            with world.ecs.lock:
                world.ecs.model.call("StopTask", {"task": arns[0]}, world.ecs.now())

    world.client.meta.events.register("before-send.ecs.ListTasks", stop_between)
    assert sorted(task.arn for task in world.gateway.list_tasks("default", "airflow-task", stopped=True)) == sorted(
        arns
    )


def test_an_empty_cluster_lists_nothing(world: World) -> None:
    assert list(world.gateway.list_tasks("default", "airflow-task", stopped=True)) == []


def test_a_stopped_task_says_why(world: World) -> None:
    (arn,) = launch(world, 1)
    world.gateway.stop("default", arn, "not wanted any more")
    eventually(lambda: world.gateway.describe("default", [arn]).tasks[0].stopped)
    (task,) = world.gateway.describe("default", [arn]).tasks
    assert (task.stop_code, task.stopped_reason) == ("UserInitiated", "not wanted any more")
    assert task.stopped_at is not None


def test_stopping_again_and_stopping_what_is_gone_succeed(world: World) -> None:
    (arn,) = launch(world, 1)
    world.gateway.stop("default", arn, "test")
    world.gateway.stop("default", arn, "test")
    world.gateway.stop("default", arn[:-4] + "0000", "test")


def test_in_a_cluster_that_is_not_there_all_tasks_are_missing_and_none_is_to_be_stopped(world: World) -> None:
    (arn,) = launch(world, 1)
    assert world.gateway.describe("elsewhere", [arn]) == Description(missing=frozenset({arn}), no_cluster=True)
    world.gateway.stop("elsewhere", arn, "test")


def test_a_listing_of_a_cluster_that_is_not_there_is_not_empty_but_an_error(world: World) -> None:
    with pytest.raises(NoSuchCluster, match="Cluster not found"):
        world.gateway.list_tasks("elsewhere", "airflow-task", stopped=True)


@pytest.mark.parametrize("operation", ["DescribeTasks", "ListTasks", "StopTask"])
@pytest.mark.parametrize(
    ("error", "raised", "result"),
    [
        (AwsError("ThrottlingException", "Rate exceeded"), EcsThrottled, "throttled"),
        (AwsError("AccessDeniedException", "no"), EcsUnavailable, "credentials"),
        (AwsError("ServerException", "no", 500), EcsUnavailable, "server_error"),
        (AwsError("InvalidParameterException", "Tasks cannot be empty."), EcsUnavailable, "client_error"),
        (ResponseLost(), EcsUnavailable, "network"),
    ],
)
def test_every_other_call_raises_what_the_core_knows(
    world: World, operation: str, error: AwsError | ResponseLost, raised: type[Exception], result: str
) -> None:
    (arn,) = launch(world, 1)
    world.faults.on_call(operation, error)
    calls: dict[str, Callable[[], object]] = {
        "DescribeTasks": lambda: world.gateway.describe("default", [arn]),
        "ListTasks": lambda: world.gateway.list_tasks("default", "airflow-task", stopped=True),
        "StopTask": lambda: world.gateway.stop("default", arn, "test"),
    }
    with pytest.raises(raised):
        calls[operation]()
    assert world.calls[-1] == (operation, result)
    calls[operation]()


def test_one_batch_that_fails_fails_the_whole_look(world: World) -> None:
    arns = fill(world, 150)
    world.faults.on_call("DescribeTasks", AwsError("ServerException", "no", 500))
    with pytest.raises(EcsUnavailable):
        world.gateway.describe("default", arns)


def test_a_refused_stop_slows_down_what_shares_its_rate(world: World) -> None:
    (arn,) = launch(world, 1)
    world.faults.on_call("StopTask", AwsError("ThrottlingException", "Rate exceeded"))
    with pytest.raises(EcsThrottled):
        world.gateway.stop("default", arn, "test")
    levels = world.limiter.levels()
    assert levels["modify"].allowed < 0.6 * levels["modify"].rate
    assert levels["read"].allowed == levels["read"].rate


def test_clusters_and_task_definitions_can_be_checked(world: World) -> None:
    cluster = world.gateway.describe_cluster("default")
    assert cluster is not None
    assert cluster["status"] == "ACTIVE"
    assert world.gateway.describe_cluster("elsewhere") is None
    definition = world.gateway.describe_task_definition("airflow-task")
    assert definition is not None
    assert definition["family"] == "airflow-task"
    assert world.gateway.describe_task_definition("nothing") is None

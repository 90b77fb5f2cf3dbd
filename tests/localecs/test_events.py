"""What EventBridge tells of a task: which changes, in what words, and that listening changes nothing."""

from __future__ import annotations

import json
import random
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.localecs import Event, Settings
from tests.localecs.conformance import task_problems
from tests.localecs.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

# The documented event of a Fargate task that is RUNNING, with values of our own. Left out is what is not modelled: a
# container's imageDigest, and an attachment's details but for the subnet.
DOCUMENTED: Event = {
    "version": "0",
    "id": "0b1d2c3e-0000-4000-8000-000000000000",
    "detail-type": "ECS Task State Change",
    "source": "aws.ecs",
    "account": "123456789012",
    "time": "2001-01-01T00:00:00Z",
    "region": "us-east-1",
    "resources": ["arn"],
    "detail": {
        "attachments": [
            {
                "id": "x",
                "type": "eni",
                "status": "ATTACHED",
                "details": [{"name": "subnetId", "value": "subnet-1"}],
            }
        ],
        "availabilityZone": "us-east-1a",
        "clusterArn": "arn",
        "containers": [
            {
                "containerArn": "arn",
                "lastStatus": "RUNNING",
                "name": "airflow",
                "image": "airflow:3",
                "runtimeId": "x",
                "taskArn": "arn",
                "networkInterfaces": [{"attachmentId": "x", "privateIpv4Address": "10.0.0.1"}],
                "cpu": "0",
            }
        ],
        "createdAt": "2001-01-01T00:00:00.000Z",
        "launchType": "FARGATE",
        "cpu": "256",
        "memory": "512",
        "desiredStatus": "RUNNING",
        "group": "family:airflow-task",
        "lastStatus": "RUNNING",
        "overrides": {"containerOverrides": [{"name": "airflow"}]},
        "connectivity": "CONNECTED",
        "connectivityAt": "2001-01-01T00:00:00.000Z",
        "pullStartedAt": "2001-01-01T00:00:00.000Z",
        "startedAt": "2001-01-01T00:00:00.000Z",
        "pullStoppedAt": "2001-01-01T00:00:00.000Z",
        "updatedAt": "2001-01-01T00:00:00.000Z",
        "taskArn": "arn",
        "taskDefinitionArn": "arn",
        "version": 4,
        "platformVersion": "1.4.0",
    },
}
SAME = {"version", "detail-type", "source", "account", "region", "type", "status", "launchType", "lastStatus", "name"}
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def differences(shown: Any, documented: Any, path: str = "") -> list[str]:
    """What of the documented event is missing, is of another type, or says something else where it must not."""
    if type(shown) is not type(documented):
        return [f"{path} is {shown!r}"]
    if isinstance(documented, dict):
        missing = [f"{path}.{name} is missing" for name in documented if name not in shown]
        return missing + [
            found
            for name, value in documented.items()
            if name in shown
            for found in differences(shown[name], value, f"{path}.{name}")
        ]
    if isinstance(documented, list):
        return [found for pair in zip(shown, documented, strict=True) for found in differences(*pair, f"{path}[]")]
    if path.endswith("At") and not TIME.fullmatch(shown):
        return [f"{path} is {shown!r}"]
    return [f"{path} is {shown!r}"] if path.rpartition(".")[2] in SAME and shown != documented else []


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def as_described(event: Event) -> dict[str, Any]:
    """The task of an event in the words of DescribeTasks."""
    task = json.loads(json.dumps(event["detail"]))
    task["tags"] = []
    for container in task["containers"]:
        container["healthStatus"] = "UNKNOWN"
    for attachment in task["attachments"]:
        attachment["type"] = "ElasticNetworkInterface"
    return {name: seconds(value) if name.endswith("At") else value for name, value in task.items()}


def rounded(task: dict[str, Any]) -> dict[str, Any]:
    """An event has milliseconds."""
    return {name: round(value, 3) if name.endswith("At") else value for name, value in task.items()}


def told(world: World, happens: Callable[[], Any]) -> list[tuple[int, str, str]]:
    """The events of something: version, lastStatus, desiredStatus."""
    world.model.take_events()
    happens()
    details = [event["detail"] for event in world.model.take_events()]
    return [(detail["version"], detail["lastStatus"], detail["desiredStatus"]) for detail in details]


def test_an_event_is_the_documented_one() -> None:
    world = World(events=True)
    overrides = {"containerOverrides": [{"name": "airflow", "command": ["true"]}]}
    arn = world.launch(startedBy="prod/x/1", tags=[{"key": "a", "value": "b"}], overrides=overrides)
    world.start(arn)
    event = world.model.take_events()[-1]
    assert differences(event, DOCUMENTED) == []
    assert set(event) == set(DOCUMENTED)
    assert event["resources"] == [arn]
    assert event["detail"]["taskArn"] == arn
    assert event["detail"]["startedBy"] == "prod/x/1"
    assert "tags" not in event["detail"]
    assert "healthStatus" not in event["detail"]["containers"][0]
    assert seconds(event["time"]) == int(seconds(event["detail"]["updatedAt"])) == int(world.now)
    assert event["detail"]["updatedAt"] == event["detail"]["startedAt"]


def test_the_comparison_finds_what_is_missing_or_of_another_type() -> None:
    worse = json.loads(json.dumps(DOCUMENTED))
    del worse["detail"]["startedAt"]
    worse["detail"]["version"] = "4"
    worse["detail"]["createdAt"] = "2001-01-01T00:00:00+00:00"
    assert {found.partition(" ")[0] for found in differences(worse, DOCUMENTED)} == {
        ".detail.startedAt",
        ".detail.version",
        ".detail.createdAt",
    }


def test_a_life_is_told_in_all_its_versions() -> None:
    world = World(events=True)
    world.finish(world.launch(), 3)
    events = world.model.take_events()
    assert [(event["detail"]["version"], event["detail"]["lastStatus"]) for event in events] == [
        (1, "PROVISIONING"),
        (2, "PENDING"),
        (3, "ACTIVATING"),
        (4, "RUNNING"),
        (5, "RUNNING"),
        (6, "RUNNING"),
        (7, "DEACTIVATING"),
        (8, "STOPPING"),
        (9, "DEPROVISIONING"),
        (10, "STOPPED"),
    ]
    assert [event["detail"]["desiredStatus"] for event in events] == ["RUNNING"] * 5 + ["STOPPED"] * 5
    assert [event["detail"]["containers"][0].get("exitCode") for event in events] == [None] * 4 + [3] * 6
    assert ["executionStoppedAt" in event["detail"] for event in events] == [False] * 4 + [True] * 6
    assert events[-1]["detail"]["stopCode"] == "EssentialContainerExited"
    assert len({event["id"] for event in events}) == len(events)
    assert world.model.take_events() == []


@pytest.mark.parametrize("seed", range(10))
def test_an_event_says_what_describe_tasks_says_of_that_version(seed: int) -> None:
    chance = random.Random(seed)
    world = World(events=True)
    arns = [world.launch() for _ in range(3)]
    described = [world.describe(arn) for arn in arns]

    def end(arn: str) -> None:
        if world.started(arn):
            world.exit(arn, chance.randrange(3))

    actions: list[Callable[[str], object]] = [
        end,
        lambda arn: world.model.lose_host(arn, world.now),
        lambda arn: world.call("StopTask", task=arn),
        lambda _: world.wait(0.01),
    ]
    while (at := world.model.next_event_at()) is not None and at < world.now + 100:
        world.wait(at - world.now)
        described += [world.describe(arn) for arn in arns]
        chance.choices(actions, [1, 1, 1, 10])[0](chance.choice(arns))
        described += [world.describe(arn) for arn in arns]
    events = {(event["resources"][0], event["detail"]["version"]): event for event in world.model.take_events()}
    for task in described:
        shown = as_described(events[task["taskArn"], task["version"]])
        assert shown.pop("updatedAt") <= world.now
        assert rounded(shown) == rounded(task)
        assert task_problems(shown) == []
    for arn in arns:
        versions = [version for of, version in events if of == arn]
        assert versions == list(range(1, len(versions) + 1))
        assert len(versions) == world.describe(arn)["version"]


def test_a_stop_is_told_once_and_a_lost_host_at_once() -> None:
    world = World(events=True)
    arn, other = world.launch(), world.launch()
    world.start(arn)
    world.start(other)
    assert told(world, lambda: world.call("StopTask", task=arn)) == [(5, "RUNNING", "STOPPED")]
    assert told(world, lambda: world.call("StopTask", task=arn)) == []
    lost = told(world, lambda: world.model.lose_host(other, world.now))
    assert lost == [(5, "RUNNING", "STOPPED"), (6, "STOPPED", "STOPPED")]


def test_the_end_of_a_sidecar_is_told_although_the_task_goes_on() -> None:
    world = World(events=True)
    sidecar = {"name": "proxy", "image": "p", "memory": 64, "essential": False}
    containers = [{"name": "airflow", "image": "a", "memory": 64}, sidecar]
    world.call("RegisterTaskDefinition", family="two", containerDefinitions=containers)
    arn = world.call("RunTask", taskDefinition="two")["tasks"][0]["taskArn"]
    world.start(arn)
    assert told(world, lambda: world.exit(arn, 1, "proxy")) == [(5, "RUNNING", "RUNNING")]


def test_what_changes_no_task_is_not_told() -> None:
    world = World(events=True)
    arn = world.launch(clientToken="t")
    world.finish(arn)
    running = world.launch()
    world.model.faults.on_placement("RESOURCE:CPU")
    assert told(world, world.run) == []
    assert told(world, lambda: world.run(clientToken="t")) == []
    assert told(world, lambda: world.call("TagResource", resourceArn=running, tags=[{"key": "a", "value": "b"}])) == []
    world.call("StopTask", task=running)
    world.settle(60)
    assert told(world, lambda: world.wait(7200)) == []
    assert world.missing(arn)


def test_a_start_that_fails_is_told_with_its_reason() -> None:
    world = World(events=True)
    world.model.faults.on_start("CannotPullContainerError: no", status="PENDING")
    world.launch()
    world.settle(60)
    last = world.model.take_events()[-1]["detail"]
    assert (last["lastStatus"], last["stopCode"]) == ("STOPPED", "TaskFailedToStart")
    assert last["stoppedReason"] == "CannotPullContainerError: no"
    assert "exitCode" not in last["containers"][0]


def test_listening_changes_nothing() -> None:
    def life(*, events: bool) -> list[Any]:
        world = World(Settings.realistic(), seed=7, events=events)
        arns = [world.launch() for _ in range(5)]
        world.settle(200)
        world.call("StopTask", task=arns[0])
        world.settle(200)
        return [world.describe(arn) for arn in arns]

    assert life(events=True) == life(events=False)
    silent = World()
    silent.finish(silent.launch())
    assert silent.model.take_events() == []

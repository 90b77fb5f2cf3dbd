"""What each option makes of the RunTask request: the rules of the official executor's own tests, and more.

`peer` says whether the official executor sends the very same. If not, it names the row of docs/migrating.md ("Chosen
differences") that says why. tests/peer holds both claims against the real one.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

__all__ = ["BASE", "NETWORK", "RULES", "Refused", "Rule"]

BASE = {
    "cluster": "some-cluster",
    "container_name": "container-name",
    "task_definition": "some-task-def",
    "launch_type": "FARGATE",
    "platform_version": "LATEST",
    "security_groups": "sg1,sg2",
    "subnets": "sub1,sub2",
    "region_name": "us-east-1",
}
"""The options that every rule starts from. None in a rule takes one away."""

NETWORK = {
    "awsvpcConfiguration": {
        "subnets": ["sub1", "sub2"],
        "securityGroups": ["sg1", "sg2"],
        "assignPublicIp": "DISABLED",
    }
}
REQUEST: dict[str, Any] = {
    "cluster": "some-cluster",
    "count": 1,
    "taskDefinition": "some-task-def",
    "launchType": "FARGATE",
    "platformVersion": "LATEST",
    "networkConfiguration": NETWORK,
    "overrides": {"containerOverrides": [{"name": "container-name"}]},
}
"""What the base makes, without what is added to every container."""


@dataclass(frozen=True)
class Refused:
    """Not sent: the problem contains these words."""

    words: str


@dataclass(frozen=True)
class Rule:
    """Options and executor_config in, the exact request out."""

    name: str
    request: dict[str, Any] | Refused
    options: dict[str, str | None] = field(default_factory=dict)
    executor_config: dict[str, Any] = field(default_factory=dict)
    peer: str = "same"


def kwargs(**members: Any) -> dict[str, str | None]:
    return {"run_task_kwargs": json.dumps(members)}


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in REQUEST.items() if name not in names} | changes


def container(**members: Any) -> dict[str, Any]:
    return {"containerOverrides": [{"name": "container-name", **members}]}


def network(**members: Any) -> dict[str, Any]:
    return {"awsvpcConfiguration": {**NETWORK["awsvpcConfiguration"], **members}}


def env(name: str, value: str) -> list[dict[str, str]]:
    return [{"name": name, "value": value}]


CP1, FOO = {"capacityProvider": "cp1", "weight": 5}, [{"key": "FOO", "value": "BAR"}]
BAR = [{"key": "X", "value": "Y"}]
SPOT = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
FROM_OPERATOR = container(memory=500, cpu=10, environment=env("X", "Y"))
FROM_AUTHOR = container(memory=300, environment=env("W", "Z"))

RULES = [
    # -- options -------------------------------------------------------------------------------------------------------
    Rule("options alone", REQUEST),
    Rule("an explicit platform version", without(platformVersion="1.4.0"), {"platform_version": "1.4.0"}),
    Rule("platform_version is LATEST by default", REQUEST, {"platform_version": None}),
    Rule(
        "EC2 has neither platform version nor public address",
        without(
            "platformVersion",
            launchType="EC2",
            networkConfiguration={
                "awsvpcConfiguration": {"subnets": ["sub1", "sub2"], "securityGroups": ["sg1", "sg2"]}
            },
        ),
        {"launch_type": "EC2"},
    ),
    Rule(
        "a public address",
        without(networkConfiguration=network(assignPublicIp="ENABLED")),
        {"assign_public_ip": "True"},
    ),
    Rule(
        "booleans are Airflow's",
        without(networkConfiguration=network(assignPublicIp="ENABLED")),
        {"assign_public_ip": "true"},
        peer="boolean",
    ),
    Rule("lists are stripped", REQUEST, {"subnets": "sub1, sub2", "security_groups": " sg1 ,sg2"}, peer="strip"),
    Rule("no network options, no network", without("networkConfiguration"), {"subnets": None, "security_groups": None}),
    Rule("subnets are needed", Refused("subnets is empty"), {"subnets": None}, peer="sentence"),
    Rule(
        "a capacity provider strategy, as Python shows it",
        without("launchType", "platformVersion", capacityProviderStrategy=[CP1]),
        {"launch_type": None, "capacity_provider_strategy": str([CP1])},
        peer="strategy",
    ),
    Rule(
        "a capacity provider strategy, as JSON, on Fargate",
        without("launchType", capacityProviderStrategy=SPOT),
        {"launch_type": None, "capacity_provider_strategy": json.dumps(SPOT)},
        peer="strategy",
    ),
    Rule(
        "launch type and strategy exclude one another",
        Refused("exclude one another"),
        {"capacity_provider_strategy": str([CP1])},
        peer="sentence",
    ),
    Rule("without either, Fargate, if the cluster has no default", REQUEST, {"launch_type": None}),
    Rule(
        "without either, the cluster's default",
        without("launchType", cluster="with-default", capacityProviderStrategy=[{"capacityProvider": "FARGATE_SPOT"}]),
        {"launch_type": None, "cluster": "with-default"},
        peer="default-strategy",
    ),
    Rule(
        "the cluster's default may not be Fargate",
        without(
            *("launchType", "platformVersion"),
            cluster="on-ec2",
            capacityProviderStrategy=[{"capacityProvider": "instances"}],
        ),
        {"launch_type": None, "cluster": "on-ec2"},
        peer="default-strategy",
    ),
    # -- run_task_kwargs over options ----------------------------------------------------------------------------------
    Rule(
        "an option by its own name",
        without(platformVersion="1"),
        {**kwargs(platform_version="1"), "platform_version": "2"},
    ),
    Rule("the cluster, and never the count", without(cluster="other"), kwargs(cluster="other", count=2)),
    Rule(
        "members of RunTask",
        without(tags=FOO, taskDefinition="foobar", overrides=FROM_OPERATOR),
        kwargs(tags=FOO, taskDefinition="foobar", overrides=FROM_OPERATOR),
    ),
    Rule(
        "who started it is not the operator's to say",
        REQUEST,
        kwargs(startedBy="Banana"),
        peer="identity",
    ),
    Rule(
        "snake case becomes camel case",
        without(enableEcsManagedTags=True, placementStrategy=[{"type": "random"}]),
        kwargs(enable_ecs_managed_tags=True, placement_strategy=[{"type": "random"}]),
    ),
    Rule("tags are not renamed", without(tags={"a_key": "Airflow"}), kwargs(tags={"a_key": "Airflow"})),
    Rule(
        "the first container is the task's own",
        without(overrides=container(cpu=10)),
        kwargs(overrides={"containerOverrides": [{"cpu": 10}]}),
    ),
    Rule(
        "a container of another name stays what it is",
        without(overrides={"containerOverrides": [{"name": "proxy", "cpu": 10}, {"name": "container-name"}]}),
        kwargs(overrides={"containerOverrides": [{"name": "proxy", "cpu": 10}]}),
        peer="container-name",
    ),
    Rule(
        "networkConfiguration wins over the options",
        without(networkConfiguration={"awsvpcConfiguration": {"subnets": ["sub9"]}}),
        kwargs(networkConfiguration={"awsvpcConfiguration": {"subnets": ["sub9"]}}),
        peer="network",
    ),
    Rule(
        "a strategy replaces the launch type",
        without("launchType", capacityProviderStrategy=SPOT),
        kwargs(capacityProviderStrategy=SPOT),
        peer="capacity",
    ),
    Rule(
        "a strategy without a launch type",
        without("launchType", "platformVersion", capacityProviderStrategy=[CP1]),
        {"launch_type": None, **kwargs(capacity_provider_strategy=[CP1])},
        peer="platform-version",
    ),
    # -- executor_config over both -------------------------------------------------------------------------------------
    Rule(
        "mappings are merged, and the container is the author's",
        without(tags=FOO, overrides=FROM_OPERATOR),
        executor_config={"tags": FOO, "overrides": FROM_OPERATOR},
    ),
    Rule(
        "lists are replaced, and what they held is gone",
        without(taskDefinition="foobar", tags=BAR, overrides=FROM_AUTHOR),
        kwargs(tags=FOO, taskDefinition="foobar", overrides=FROM_OPERATOR),
        {"tags": BAR, "overrides": FROM_AUTHOR},
    ),
    Rule(
        "size of the whole task beside the operator's container",
        without(overrides={"cpu": "1024", "memory": "2048", **FROM_OPERATOR}),
        kwargs(overrides=FROM_OPERATOR),
        {"overrides": {"cpu": "1024", "memory": "2048"}},
    ),
    Rule(
        "a part of the network",
        without(networkConfiguration=network(subnets=["sub3"])),
        executor_config={"networkConfiguration": {"awsvpcConfiguration": {"subnets": ["sub3"]}}},
    ),
    Rule(
        "a strategy of its own",
        without("launchType", "platformVersion", capacityProviderStrategy=[CP1]),
        executor_config={"capacityProviderStrategy": [CP1]},
        peer="capacity",
    ),
    Rule(
        "EC2 for one task",
        without("platformVersion", launchType="EC2"),
        executor_config={"launchType": "EC2"},
        peer="platform-version",
    ),
    Rule(
        "only a sidecar's override",
        without(overrides={"containerOverrides": [{"name": "proxy", "memory": 64}, {"name": "container-name"}]}),
        executor_config={"overrides": {"containerOverrides": [{"name": "proxy", "memory": 64}]}},
        peer="sidecar",
    ),
    # -- what an author may not set ------------------------------------------------------------------------------------
    *(
        Rule(f"{name} is not the author's", Refused(name), executor_config=config, peer=peer)
        for name, config, peer in (
            ("count", {"count": 5}, "identity"),
            ("cluster", {"cluster": "other"}, "identity"),
            ("startedBy", {"startedBy": "Fish"}, "identity"),
            ("clientToken", {"clientToken": "mine"}, "identity"),
            ("enableExecuteCommand", {"enableExecuteCommand": True}, "rights"),
            ("overrides.taskRoleArn", {"overrides": {"taskRoleArn": "arn"}}, "rights"),
            ("name", {"name": "x"}, "crash"),
            ("command", {"command": ["x"]}, "crash"),
        )
    ),
    Rule(
        "the author's command is refused, not ignored",
        Refused("command"),
        executor_config={"overrides": container(command=["x"])},
        peer="command",
    ),
    Rule(
        "a container without a name is the task's own",
        without(overrides=container(cpu=10)),
        executor_config={"overrides": {"containerOverrides": [{"cpu": 10}]}},
        peer="container-name",
    ),
]

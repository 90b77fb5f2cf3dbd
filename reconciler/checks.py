"""What ECS shows of a profile: whether its tasks can run at all. For the daemon's start, and for `doctor`.

Nothing here launches, stops or changes anything.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from reconciler.core import runtask
from reconciler.core.errors import EventsUnavailable
from reconciler.core.finding import Finding, error, fine, warning
from reconciler.core.parameters import on_fargate, placed
from reconciler.ecs.validation import request_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from reconciler.core.runtask import Profile

__all__ = ["CLUSTER", "Counted", "Shown", "check_events", "check_profile"]

SECTION: Final = "[aws_ecs_executor]"
CLUSTER: Final = f"{SECTION} cluster"
EVENTS_QUEUE: Final = "[ecs_reconciler] events_queue_url"


class Counted(Protocol):
    """The look at the queue of events that is needed. Raises EventsUnavailable."""

    def backlog(self) -> int: ...


class Shown(Protocol):
    """The looks at ECS that are needed. Raises EcsThrottled and EcsUnavailable."""

    def describe_cluster(self, cluster: str) -> Mapping[str, Any] | None: ...

    def describe_task_definition(self, name: str) -> Mapping[str, Any] | None: ...


def check_profile(profile: Profile, ecs: Shown, *, region: str) -> tuple[Profile, list[Finding]]:
    """The profile, completed by the cluster's default capacity, and what is wrong with it."""
    cluster = ecs.describe_cluster(profile.cluster)
    if cluster is None or cluster.get("status", "ACTIVE") != "ACTIVE":
        mend = "create it, or name another cluster or region_name"
        return profile, [error(CLUSTER, f"ECS has no active cluster {profile.cluster!r} in {region}", mend)]
    profile = replace(profile, run_task=placed(profile.run_task, cluster.get("defaultCapacityProviderStrategy", ())))
    name = str(profile.run_task["taskDefinition"])
    definition = ecs.describe_task_definition(name)
    found = [fine(CLUSTER, f"{profile.cluster} is ACTIVE"), *_request(profile)]
    if definition is None:
        what = f"ECS has no task definition {name!r} in {region}"
        return profile, [*found, error(f"{SECTION} task_definition", what, "register it, or name another one")]
    return profile, [*found, *_definition(profile, definition)]


def check_events(queue: Counted) -> list[Finding]:
    """Whether the queue of events is there. It is no error if not: tasks are looked at the more often.

    A message that was received to see whether it may be would be kept from the daemon, and count as received.
    """
    try:
        waiting = queue.backlog()
    except EventsUnavailable as failed:
        mend = (
            "allow sqs:ReceiveMessage, sqs:DeleteMessage and sqs:GetQueueAttributes on it, or correct the URL; until "
            "then tasks are looked at every few seconds"
        )
        return [warning(EVENTS_QUEUE, f"can not be read: {failed}", mend)]
    return [fine(EVENTS_QUEUE, f"is there, about {waiting} messages wait")]


def _request(profile: Profile) -> Iterator[Finding]:
    """Whether boto3 would send what the options and `run_task_kwargs` make."""
    request = runtask.compose(runtask.plan(profile, "x", {}), ["python"], "token", "name")
    for problem in request_problems(request):
        option = "capacity_provider_strategy" if "capacityProviderStrategy[" in problem else "run_task_kwargs"
        yield error(f"{SECTION} {option}", problem, "spell it as RunTask does")


def _definition(profile: Profile, definition: Mapping[str, Any]) -> Iterator[Finding]:
    arn, run_task = definition.get("taskDefinitionArn"), profile.run_task
    if definition.get("status", "ACTIVE") != "ACTIVE":
        yield error(f"{SECTION} task_definition", f"{arn} is {definition['status']}", "name an ACTIVE revision")
    containers = {c["name"]: c for c in definition.get("containerDefinitions", ())}
    ours = containers.get(profile.container_name)
    if ours is None:
        names = ", ".join(containers)
        what = f"{arn} has no container {profile.container_name!r}, only {names}"
        yield error(f"{SECTION} container_name", what, "name one of these")
    else:
        yield fine(f"{SECTION} task_definition", f"{arn} has the container {profile.container_name}")
    yield from _network(definition, run_task)
    fargate = on_fargate(run_task)
    if fargate and "FARGATE" not in definition.get("compatibilities", ("FARGATE",)):
        mend = "register one for Fargate (awsvpc, with cpu and memory), or choose another launch_type"
        yield error(f"{SECTION} task_definition", f"{arn} can not run on Fargate", mend)
    logged = bool(ours and ours.get("logConfiguration"))
    if ours and not logged:
        what = f"the container {profile.container_name} of {arn} has no logConfiguration"
        mend = "what it prints before Airflow's own logging begins is lost: add the driver awslogs"
        yield warning(f"{SECTION} task_definition", what, mend)
    if fargate and not definition.get("executionRoleArn") and (logged or _private(ours)):
        what = f"{arn} has no executionRoleArn"
        mend = "Fargate needs it to pull from ECR and to write to CloudWatch Logs"
        yield warning(f"{SECTION} task_definition", what, mend)


def _network(definition: Mapping[str, Any], run_task: Mapping[str, Any]) -> Iterator[Finding]:
    """ECS refuses a network configuration without awsvpc, and awsvpc without one."""
    mode = definition.get("networkMode") or "bridge"
    configured = bool(run_task.get("networkConfiguration"))
    where = f"{SECTION} subnets"
    if mode == "awsvpc" and not configured:
        yield error(where, "the task definition's networkMode is awsvpc, and there is none", "name at least one subnet")
    elif mode != "awsvpc" and configured:
        what = f"the task definition's networkMode is {mode}, which takes no network options"
        yield error(where, what, "unset subnets, security_groups and assign_public_ip, or use awsvpc")
    elif mode == "host":
        what = "networkMode host shares the machine's name and process ids between containers"
        mend = "Airflow's API tells tasks apart by them: use awsvpc or bridge"
        yield warning(f"{SECTION} task_definition", what, mend)


def _private(container: Mapping[str, Any] | None) -> bool:
    """Whether its image is in ECR."""
    return ".dkr.ecr." in str((container or {}).get("image", ""))

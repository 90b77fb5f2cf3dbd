"""From a RunTask request and a task definition to a task record."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from reconciler.localecs.task import Container, Task
from reconciler.localecs.validate import FARGATE_PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random  # noqa: TID251 - the type; the instance is an argument

    from reconciler.localecs.registry import Cluster, Definition, Tags
    from reconciler.localecs.settings import Settings


def task_strategy(request: Mapping[str, Any], cluster: Cluster) -> Sequence[Mapping[str, Any]]:
    """The strategy that decides: the request's, or the cluster's default when no launch type is given either."""
    if request.get("launchType"):
        return ()
    return request.get("capacityProviderStrategy") or cluster.default_strategy


def on_fargate(request: Mapping[str, Any], strategy: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tasks go to Fargate; with neither launch type nor strategy ECS takes EC2."""
    if strategy:
        return strategy[0]["capacityProvider"] in FARGATE_PROVIDERS
    return bool(request.get("launchType") == "FARGATE")


def pick_provider(strategy: Sequence[Mapping[str, Any]], rng: Random) -> str | None:
    """A capacity provider by weight. The base is not modelled."""
    if not strategy:
        return None
    weights = [item.get("weight", 0) for item in strategy]
    return str(rng.choices([item["capacityProvider"] for item in strategy], weights)[0])


def vcpus(request: Mapping[str, Any], definition: Mapping[str, Any]) -> float:
    """What one task takes from the vCPU quota: its cpu units over 1024."""
    cpu = request.get("overrides", {}).get("cpu") or definition.get("cpu")
    return int(cpu) / 1024 if cpu and str(cpu).isdecimal() else 0.0


def pulls(definition: Mapping[str, Any]) -> tuple[bool, str | None]:
    """Whether the images of a task can be pulled, and if not, with what error: None for a pull that never ends.

    There are no images here, but two names that stand for a bad one, from whatever registry and with whatever tag.
    """
    for container in definition["containerDefinitions"]:
        image = str(container["image"])
        match image.rpartition("/")[2].partition(":")[0].partition("@")[0]:
            case "no-such-image":
                retried = "CannotPullContainerError: pull image manifest has been retried 1 time(s)"
                return False, f"{retried}: failed to resolve ref {image}: {image}: not found"
            case "endless-image":
                return False, None
    return True, None


def make_task(
    request: Mapping[str, Any],
    cluster: Cluster,
    definition: Definition,
    provider: str | None,
    *,
    fargate: bool,
    sequence: int,
    now: float,
    settings: Settings,
    rng: Random,
) -> Task:
    """A task in PROVISIONING. A task on an EC2 capacity provider shows no containers until it is placed."""
    described = definition.described
    identity = f"{rng.getrandbits(128):032x}"
    prefix = cluster.arn.partition(":cluster/")[0]
    arn = f"{prefix}:task/{cluster.name}/{identity}"
    # A copy: a caller in this process may reuse its request.
    overrides = deepcopy(request.get("overrides", {}))
    attachment = _attachment(request, rng) if described.get("networkMode") == "awsvpc" else None
    by_name = {override["name"]: override for override in overrides.get("containerOverrides", ())}
    fixed: dict[str, Any] = {
        "clusterArn": cluster.arn,
        "taskDefinitionArn": definition.arn,
        "group": request.get("group") or f"family:{definition.family}",
        "launchType": "FARGATE" if fargate else request.get("launchType", "EC2"),
        "cpu": str(overrides.get("cpu") or described.get("cpu") or "0"),
        "memory": str(overrides.get("memory") or described.get("memory") or "0"),
        "availabilityZone": f"{settings.region}a",
        "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        "enableExecuteCommand": request.get("enableExecuteCommand", False),
        "inferenceAccelerators": [],
        "overrides": {"inferenceAcceleratorOverrides": [], **overrides, "containerOverrides": list(by_name.values())},
    }
    if fargate:
        version = request.get("platformVersion", "LATEST")
        fixed |= {"platformVersion": "1.4.0" if version == "LATEST" else version, "platformFamily": "Linux"}
    if provider is not None:
        fixed["capacityProviderName"] = provider
    if "startedBy" in request:
        fixed["startedBy"] = request["startedBy"]
    latencies = settings.latencies
    straggles = latencies.stragglers > 0 and rng.random() < latencies.stragglers
    return Task(
        arn=arn,
        sequence=sequence,
        cluster_arn=cluster.arn,
        family=definition.family,
        fixed=fixed,
        containers=[
            _make_container(container, by_name.get(container["name"], {}), arn, attachment, settings=settings, rng=rng)
            for container in described["containerDefinitions"]
        ],
        created_at=now,
        pace=latencies.straggler_factor if straggles else 1.0,
        spot=provider == "FARGATE_SPOT",
        fargate=fargate,
        vcpus=vcpus(request, described),
        attachment=attachment,
        tags=_tags(request, cluster, definition),
        token=(cluster.arn, request["clientToken"]) if "clientToken" in request else None,
        show_containers=provider is None or fargate,
    )


def _make_container(
    defined: Mapping[str, Any],
    override: Mapping[str, Any],
    task_arn: str,
    attachment: Mapping[str, Any] | None,
    *,
    settings: Settings,
    rng: Random,
) -> Container:
    command = [*defined.get("entryPoint", ()), *(override.get("command") or defined.get("command", ()))]
    pairs = [*defined["environment"], *override.get("environment", ())]
    size = {"cpu": override.get("cpu", defined["cpu"])}
    for name in ("memory", "memoryReservation"):
        if name in defined or name in override:
            size[name] = override.get(name, defined.get(name))
    return Container(
        name=defined["name"],
        arn=f"{task_arn.replace(':task/', ':container/', 1)}/{rng.getrandbits(128):032x}",
        image=defined["image"],
        essential=defined["essential"],
        stop_timeout=float(defined.get("stopTimeout", settings.default_stop_timeout)),
        command=tuple(command),
        environment={pair["name"]: pair.get("value", "") for pair in pairs},
        runtime_id=f"{rng.getrandbits(128):032x}-{rng.getrandbits(32):010d}",
        size={name: str(value) for name, value in size.items()},
        interface=attachment and {"attachmentId": attachment["id"], "privateIpv4Address": "127.0.0.1"},
    )


def _attachment(request: Mapping[str, Any], rng: Random) -> dict[str, Any]:
    subnets = request["networkConfiguration"]["awsvpcConfiguration"]["subnets"]
    return {
        "id": f"{rng.getrandbits(128):032x}",
        "type": "ElasticNetworkInterface",
        "status": "PRECREATED",
        "details": [{"name": "subnetId", "value": rng.choice(subnets)}],
    }


def _tags(request: Mapping[str, Any], cluster: Cluster, definition: Definition) -> Tags:
    """The task's tags: those of the request win over propagated ones; ECS's own are added when asked for."""
    tags: dict[str, str] = {}
    if request.get("propagateTags") == "TASK_DEFINITION":
        tags |= {tag["key"]: tag.get("value", "") for tag in definition.tags}
    tags |= {tag["key"]: tag.get("value", "") for tag in request.get("tags", ())}
    if request.get("enableECSManagedTags"):
        tags["aws:ecs:clusterName"] = cluster.name
    return [{"key": key, "value": value} for key, value in tags.items()]

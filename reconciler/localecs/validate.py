"""What ECS refuses before it does anything. Each check raises the AwsError that ECS would answer.

The limits are those of botocore's documentation of the operations; where AWS's own wording of a message is known from
reports of its users it is used, otherwise the message says which parameter is wrong and what would be right.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from reconciler.localecs.errors import client_error, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_OVERRIDES = 8192
MAX_DEFINITION = 64 * 1024
STARTED_BY = re.compile(r"[A-Za-z0-9/_-]{1,128}")
TOKEN = re.compile(r"[!-~]{1,64}")
NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
TAG = re.compile(r"[\w\s.:/=+\-@]*")
DESIRED = ("RUNNING", "PENDING", "STOPPED")
LAUNCH_TYPES = ("EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES")
FARGATE_PROVIDERS = ("FARGATE", "FARGATE_SPOT")

# Task cpu units -> allowed MiB (developer guide, "Task CPU and memory" of Fargate).
FARGATE_SIZES: Mapping[int, Sequence[int]] = {
    256: (512, 1024, 2048),
    512: range(1024, 4096 + 1, 1024),
    1024: range(2048, 8192 + 1, 1024),
    2048: range(4096, 16384 + 1, 1024),
    4096: range(8192, 30720 + 1, 1024),
    8192: range(16384, 61440 + 1, 4096),
    16384: range(32768, 122880 + 1, 8192),
}


def between(name: str, value: int | None, low: int, high: int) -> None:
    """A number that is absent or within its range."""
    if value is not None and not low <= value <= high:
        raise invalid(f"{name} must be between {low} and {high}, but was {value}.")


def at_most(name: str, values: Sequence[Any] | None, limit: int) -> None:
    """A list that is absent or not too long."""
    if values is not None and len(values) > limit:
        raise invalid(f"{name} must have at most {limit} items, but has {len(values)}.")


def one_of(name: str, value: str | None, choices: Sequence[str]) -> None:
    """A word that is absent or known."""
    if value is not None and value not in choices:
        raise invalid(f"{name} must be one of {', '.join(choices)}, but was {value!r}.")


def tags(values: Sequence[Mapping[str, str]] | None) -> None:
    """At most 50 tags, each with a legal and unique key; `aws:` belongs to AWS."""
    at_most("tags", values, 50)
    seen: set[str] = set()
    for tag in values or ():
        key, value = tag.get("key", ""), tag.get("value", "")
        if not 1 <= len(key) <= 128 or not TAG.fullmatch(key) or key.lower().startswith("aws:"):
            raise invalid(
                f"Tag key {key!r} is not valid: 1 to 128 letters, digits, spaces or _.:/=+-@, no aws: prefix."
            )
        if len(value) > 256 or not TAG.fullmatch(value) or value.lower().startswith("aws:"):
            raise invalid(f"The value of tag {key!r} is not valid: at most 256 letters, digits, spaces or _.:/=+-@.")
        if key in seen:
            raise invalid(f"Tag key {key!r} is given more than once.")
        seen.add(key)


def run_task(request: Mapping[str, Any]) -> None:
    """The checks of RunTask that need nothing but the request."""
    between("count", request.get("count"), 1, 10)
    token = request.get("clientToken")
    if token is not None and not TOKEN.fullmatch(token):
        raise invalid("clientToken must be 1 to 64 ASCII characters in the range 33-126.")
    started_by = request.get("startedBy")
    if started_by is not None and not STARTED_BY.fullmatch(started_by):
        raise invalid("startedBy must be 1 to 128 letters, digits, hyphens, forward slashes or underscores.")
    overrides = request.get("overrides", {})
    if len(json.dumps(overrides, separators=(",", ":"), ensure_ascii=False)) > MAX_OVERRIDES:
        raise invalid(f"Container Overrides length must be at most {MAX_OVERRIDES}")
    tags(request.get("tags"))
    one_of("propagateTags", request.get("propagateTags"), ("TASK_DEFINITION", "NONE"))
    one_of("launchType", request.get("launchType"), LAUNCH_TYPES)
    if request.get("launchType") == "MANAGED_INSTANCES":
        raise invalid("MANAGED_INSTANCES can only be used by a capacityProviderStrategy.")
    strategy(request)
    at_most("placementConstraints", request.get("placementConstraints"), 10)
    at_most("placementStrategy", request.get("placementStrategy"), 5)
    network = request.get("networkConfiguration", {}).get("awsvpcConfiguration", {})
    at_most("subnets", network.get("subnets"), 16)
    at_most("securityGroups", network.get("securityGroups"), 5)


def strategy(request: Mapping[str, Any]) -> None:
    """A capacity provider strategy: instead of a launch type, at most 20 items, one base, some weight."""
    items = request.get("capacityProviderStrategy")
    if not items:
        return
    if request.get("launchType") is not None:
        raise invalid("Specifying both a launch type and capacity provider strategy is not supported.")
    at_most("capacityProviderStrategy", items, 20)
    if len({item["capacityProvider"] in FARGATE_PROVIDERS for item in items}) > 1:
        raise invalid("A capacityProviderStrategy cannot mix Fargate with Auto Scaling group capacity providers.")
    for item in items:
        between("weight", item.get("weight"), 0, 1000)
        between("base", item.get("base"), 0, 100_000)
    if sum(1 for item in items if item.get("base", 0)) > 1:
        raise invalid("Only one item of a capacityProviderStrategy can have a base.")
    if not any(item.get("weight", 0) for item in items):
        raise invalid("At least one item of a capacityProviderStrategy must have a weight greater than zero.")


def against_definition(request: Mapping[str, Any], definition: Mapping[str, Any], *, fargate: bool) -> None:
    """The checks of RunTask that need the task definition."""
    awsvpc = definition.get("networkMode") == "awsvpc"
    if fargate and (not awsvpc or "FARGATE" not in definition["compatibilities"]):
        raise invalid("Task definition does not support launch_type FARGATE.")
    if not fargate and request.get("platformVersion"):
        raise invalid("The platform version must be null when specifying an EC2 launch type.")
    network = request.get("networkConfiguration", {}).get("awsvpcConfiguration")
    if awsvpc and not network:
        raise invalid("Network Configuration must be provided when networkMode 'awsvpc' is specified.")
    if network and not awsvpc:
        raise invalid("Network Configuration is not valid for the given networkMode of this task definition.")
    names = {container["name"] for container in definition["containerDefinitions"]}
    for override in request.get("overrides", {}).get("containerOverrides", []):
        if override.get("name") not in names:
            raise invalid(
                f"Override for container named {override.get('name')} is not a container in the TaskDefinition."
            )


def list_tasks(request: Mapping[str, Any]) -> None:
    """ListTasks: `startedBy` "must be the only filter that you use", besides the cluster and paging."""
    between("maxResults", request.get("maxResults"), 1, 100)
    one_of("desiredStatus", request.get("desiredStatus"), DESIRED)
    one_of("launchType", request.get("launchType"), LAUNCH_TYPES)
    if "startedBy" in request and set(request) - {"startedBy", "cluster", "maxResults", "nextToken"}:
        raise invalid("cannot specify startedBy with other arguments")


def describe_tasks(request: Mapping[str, Any]) -> None:
    """DescribeTasks: 1 to 100 tasks."""
    if not request["tasks"]:
        raise invalid("Tasks cannot be empty.")
    at_most("tasks", request["tasks"], 100)
    for word in request.get("include", []):
        one_of("include", word, ("TAGS",))


def cluster_name(name: str) -> None:
    """The name of a new cluster."""
    if not NAME.fullmatch(name):
        raise invalid("clusterName must be 1 to 255 letters, digits, underscores or hyphens.")


def register_task_definition(request: Mapping[str, Any]) -> None:
    """A task definition: names, at least one essential container, and sizes that Fargate knows."""
    if not NAME.fullmatch(request["family"]):
        raise client_error("family must be 1 to 255 letters, digits, underscores or hyphens.")
    if len(json.dumps(request, separators=(",", ":"))) > MAX_DEFINITION:
        raise client_error("A task definition must be at most 64 KB.")
    containers = request["containerDefinitions"]
    if not 1 <= len(containers) <= 10:
        raise client_error("A task definition must have 1 to 10 containers.")
    names = [container.get("name", "") for container in containers]
    if len(set(names)) < len(names) or not all(NAME.fullmatch(name) for name in names):
        raise client_error("Each container must have a name of its own: letters, digits, underscores or hyphens.")
    if not all(container.get("image") for container in containers):
        raise client_error("Container.image should not be null or empty.")
    if not any(container.get("essential", True) for container in containers):
        raise client_error("A task definition must have at least one essential container.")
    tags(request.get("tags"))
    if "FARGATE" in request.get("requiresCompatibilities", []):
        _fargate_definition(request)


def _fargate_definition(request: Mapping[str, Any]) -> None:
    if request.get("networkMode") != "awsvpc":
        raise client_error("Fargate only supports network mode 'awsvpc'.")
    cpu, memory = request.get("cpu", ""), request.get("memory", "")
    if not cpu.isdecimal() or not memory.isdecimal() or int(memory) not in FARGATE_SIZES.get(int(cpu), ()):
        raise client_error("No Fargate configuration exists for given values.")
    for container in request["containerDefinitions"]:
        if not 0 <= container.get("stopTimeout", 0) <= 120:
            raise client_error("stopTimeout must be at most 120 seconds on Fargate.")

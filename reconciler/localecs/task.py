"""One ECS task as the model keeps it, and as an answer shows it. What moves it is in `lifecycle`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# The order a task goes through (developer guide, "Amazon ECS task lifecycle"). It may skip states, never go back.
STATUSES = (
    "PROVISIONING",
    "PENDING",
    "ACTIVATING",
    "RUNNING",
    "DEACTIVATING",
    "STOPPING",
    "DEPROVISIONING",
    "STOPPED",
)
STARTING = frozenset(STATUSES[:3])


@dataclass(frozen=True)
class StartContainer:
    """Run this command now. `environment` is what the task definition and the override set, nothing else."""

    task_arn: str
    container: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


@dataclass(frozen=True)
class SignalContainer:
    """Send "SIGTERM" or "SIGKILL" to a container that was started."""

    task_arn: str
    container: str
    signal: str


Effect = StartContainer | SignalContainer


@dataclass
class Container:
    """A container of a task. `exit_code` stays None until it exits, and for ever if it never ran."""

    name: str
    arn: str
    image: str
    essential: bool
    stop_timeout: float
    command: tuple[str, ...]
    environment: Mapping[str, str]
    runtime_id: str
    size: Mapping[str, str]
    interface: Mapping[str, str] | None = None
    status: str = "PENDING"
    exit_code: int | None = None
    reason: str | None = None
    kill_at: float | None = None

    @property
    def alive(self) -> bool:
        return self.status == "RUNNING"


@dataclass
class Task:
    """A task. `due` is when it next moves by itself (None: not by itself); `fixed` are the members that never change.

    `listed_status` is the desiredStatus that ListTasks shows until `desired_since` plus the list lag.
    """

    arn: str
    sequence: int
    cluster_arn: str
    family: str
    fixed: Mapping[str, Any]
    containers: list[Container]
    created_at: float
    pace: float
    spot: bool
    fargate: bool
    vcpus: float
    attachment: dict[str, Any] | None
    tags: list[dict[str, str]]
    token: tuple[str, str] | None
    show_containers: bool
    fails_at: str | None = None
    fails_with: str | None = None
    status: str = "PROVISIONING"
    desired: str = "RUNNING"
    desired_since: float = 0.0
    version: int = 1
    due: float | None = None
    stop_code: str | None = None
    stopped_reason: str | None = None
    times: dict[str, float] = field(default_factory=dict)

    @property
    def stopped(self) -> bool:
        return self.status == "STOPPED"

    def container(self, name: str) -> Container:
        """The container of that name. Raises KeyError: the caller made the name up."""
        for container in self.containers:
            if container.name == name:
                return container
        raise KeyError(f"task {self.arn} has no container {name!r}")


def short_view(task: Task) -> dict[str, Any]:
    """What a repeated RunTask says about a stopped task (developer guide, "Ensuring idempotency")."""
    return {"taskArn": task.arn, "lastStatus": task.status, "desiredStatus": task.desired}


def view(task: Task, *, tags: bool) -> dict[str, Any]:
    """The `Task` structure of an answer. Members without a value are left out, as ECS does.

    Nothing in it changes afterwards: what the model will change is copied.
    """
    shown: dict[str, Any] = {
        **task.fixed,
        **task.times,
        "taskArn": task.arn,
        "lastStatus": task.status,
        "desiredStatus": task.desired,
        "version": task.version,
        "containers": [_container_view(task, container) for container in task.containers if task.show_containers],
        "attachments": [dict(task.attachment)] if task.attachment else [],
        "tags": [dict(tag) for tag in task.tags] if tags else [],
    }
    if "connectivityAt" in task.times:
        shown["connectivity"] = "CONNECTED"
    if task.stop_code is not None:
        shown["stopCode"] = task.stop_code
    if task.stopped_reason is not None:
        shown["stoppedReason"] = task.stopped_reason
    return shown


def _container_view(task: Task, container: Container) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "containerArn": container.arn,
        "taskArn": task.arn,
        "name": container.name,
        "image": container.image,
        "lastStatus": container.status,
        "networkInterfaces": [dict(container.interface)] if container.interface else [],
        "healthStatus": "UNKNOWN",
        **container.size,
    }
    if "startedAt" in task.times:
        shown["runtimeId"] = container.runtime_id
    if container.exit_code is not None:
        shown["exitCode"] = container.exit_code
    if container.reason is not None:
        shown["reason"] = container.reason
    return shown

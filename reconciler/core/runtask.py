"""The RunTask request: what the operator configured, what the DAG's author asked for, and who may decide what.

`executor_config` comes from DAG authors and the table is untrusted input, so the daemon checks every request here
before the intent. Precedence, lowest to highest: options, `run_task_kwargs`, `executor_config`; mappings are merged,
lists and plain values replaced. Parameters: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "EXEC_ID_VARIABLE",
    "OVERRIDES_LIMIT",
    "Profile",
    "RequestRefusedError",
    "compose",
    "family_of",
    "merge",
    "plan",
]

EXEC_ID_VARIABLE: Final = "ECS_RECONCILER_EXEC_ID"
"""Environment variable that tells a container which workload it is, and us which container is ours."""

OVERRIDES_LIMIT: Final = 8192
"""RunTask refuses `overrides` with more characters of JSON than this."""

_NEVER: Final = frozenset({"cluster", "count", "clientToken", "startedBy", "referenceId"})
"""Who a task is and where it runs. Never a DAG author's to decide."""

_ALLOWED: Final = frozenset(
    {
        "capacityProviderStrategy",
        "enableECSManagedTags",
        "group",
        "launchType",
        "networkConfiguration",
        "overrides",
        "placementConstraints",
        "placementStrategy",
        "platformVersion",
        "propagateTags",
        "tags",
        "taskDefinition",
    }
)
_OVERRIDES_ALLOWED: Final = frozenset({"containerOverrides", "cpu", "memory", "ephemeralStorage"})
_CONTAINER_ALLOWED: Final = frozenset(
    {"name", "environment", "cpu", "memory", "memoryReservation", "resourceRequirements"}
)

_BY_OPTION: Final = {
    "taskRoleArn": "overrides",
    "executionRoleArn": "overrides",
    "enableExecuteCommand": "",
    "volumeConfigurations": "",
}
"""Members that grant rights: allowed only if `[ecs_reconciler] allowed_run_task_parameters` names them."""

_RESERVED_VARIABLES: Final = ("AIRFLOW__", "AIRFLOW_IS_EXECUTOR_CONTAINER", "ECS_RECONCILER_", "AWS_", "LD_")


class RequestRefusedError(ValueError):
    """The request of one workload can never be sent. The message names what is wrong and the way out."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Where and how workloads run: one cluster, one container of one task definition, and the operator's parameters."""

    cluster: str
    container_name: str
    run_task: Mapping[str, Any]
    """RunTask parameters from options and `run_task_kwargs`, `taskDefinition` among them."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """What every container is given besides its identity."""
    name: str = "default"
    region: str = ""
    allowed: frozenset[str] = frozenset()
    """Rights-granting members that DAG authors may set. See `[ecs_reconciler] allowed_run_task_parameters`."""
    max_running_tasks: int | None = None
    """How many of its ECS tasks may exist at once. None: as many as the deployment may have."""
    start_timeout: timedelta = timedelta(seconds=600)
    """What is not RUNNING this long after its intent is stopped."""
    spot_fallback_after: int = 0
    """After so many failures for want of capacity the strategy is used without its first item. 0: never."""

    @property
    def family(self) -> str:
        """The task definition's family, by which ECS can list tasks."""
        return family_of(str(self.run_task["taskDefinition"]))


def merge(low: Any, high: Any) -> Any:
    """`high` over `low`: mappings member by member, everything else replaced whole."""
    if isinstance(low, Mapping) and isinstance(high, Mapping):
        both = {key: merge(low[key], high[key]) if key in low else high[key] for key in high}
        return {**low, **both}
    return high


def family_of(task_definition: str) -> str:
    """The family of `family`, `family:revision` or a task definition's ARN."""
    return task_definition.rsplit("/", 1)[-1].split(":", 1)[0]


def plan(profile: Profile, exec_id: str, executor_config: Mapping[str, Any]) -> dict[str, Any]:
    """The RunTask parameters of a workload, without identity and command. Raises RequestRefusedError.

    They are frozen by the intent: a repeated call must send the same bytes, whatever has been configured since.
    """
    _check(executor_config, profile)
    request: dict[str, Any] = merge(profile.run_task, executor_config)
    environment = {**profile.environment, "AIRFLOW_IS_EXECUTOR_CONTAINER": "true", EXEC_ID_VARIABLE: exec_id}
    containers = list(request.get("overrides", {}).get("containerOverrides", []))
    ours = next((c for c in containers if c.get("name") == profile.container_name), {"name": profile.container_name})
    added = [{"name": name, "value": value} for name, value in sorted(environment.items())]
    mine = {**ours, "environment": [*ours.get("environment", []), *added]}
    others = [c for c in containers if c.get("name") != profile.container_name]
    request["overrides"] = {**request.get("overrides", {}), "containerOverrides": [mine, *others]}
    request["count"] = 1
    request["cluster"] = profile.cluster
    return request


def compose(params: Mapping[str, Any], command: Sequence[str], token: str, started_by: str) -> dict[str, Any]:
    """The whole request: frozen parameters, plus the launch's identity and command.

    Raises RequestRefusedError if it is too long for ECS. Our container is the first override (see `plan`).
    """
    first, *others = params["overrides"]["containerOverrides"]
    overrides = {**params["overrides"], "containerOverrides": [{**first, "command": list(command)}, *others]}
    size = len(json.dumps(overrides, separators=(",", ":")))
    if size > OVERRIDES_LIMIT:
        raise RequestRefusedError(
            f"the overrides are {size} characters long and ECS takes {OVERRIDES_LIMIT}: shorten executor_config "
            "(environment variables most of all) or move it into the task definition"
        )
    return {**params, "overrides": overrides, "clientToken": token, "startedBy": started_by}


def _check(config: object, profile: Profile) -> None:
    """Refuse what a DAG author may not decide."""
    config = _mapping(config, "the whole")
    _check_members(config, _ALLOWED, "", profile)
    overrides = _mapping(config.get("overrides", {}), "overrides")
    _check_members(overrides, _OVERRIDES_ALLOWED, "overrides", profile)
    containers = overrides.get("containerOverrides", [])
    if not isinstance(containers, list):
        raise RequestRefusedError("executor_config: overrides.containerOverrides must be a list")
    for container in containers:
        entry = _mapping(container, "overrides.containerOverrides[]")
        if not isinstance(entry.get("name"), str):
            raise RequestRefusedError(
                f'executor_config: each of overrides.containerOverrides needs a "name"; '
                f'the one that runs the task is "{profile.container_name}"'
            )
        _check_members(entry, _CONTAINER_ALLOWED, "overrides.containerOverrides[]", profile)
        variables = entry.get("environment", [])
        if not isinstance(variables, list):
            raise RequestRefusedError("executor_config: overrides.containerOverrides[].environment must be a list")
        for variable in variables:
            _check_variable(_mapping(variable, "overrides.containerOverrides[].environment[]"))


def _check_members(config: Mapping[str, Any], allowed: frozenset[str], where: str, profile: Profile) -> None:
    for member in config:
        if member in allowed:
            continue
        path = f"{where}.{member}" if where else member
        if _BY_OPTION.get(member) == where:
            if member in profile.allowed:
                continue
            raise RequestRefusedError(
                f"executor_config sets {path}, which grants rights: an operator may allow it with "
                f"[ecs_reconciler] allowed_run_task_parameters = {member}"
            )
        why = "only the operator's configuration decides it" if member in _NEVER else "it is not one a DAG may set"
        raise RequestRefusedError(f"executor_config sets {path}, but {why}: remove it")


def _check_variable(variable: Mapping[str, Any]) -> None:
    name, value = variable.get("name"), variable.get("value")
    if not isinstance(name, str) or not isinstance(value, str):
        raise RequestRefusedError("executor_config: environment variables are given as {name, value}, both strings")
    if name.startswith(_RESERVED_VARIABLES) or name in ("PATH", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP"):
        raise RequestRefusedError(f"executor_config sets the reserved environment variable {name}: choose another name")


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise RequestRefusedError(f"executor_config: {where} must be a mapping, not {type(value).__name__}")
    return value

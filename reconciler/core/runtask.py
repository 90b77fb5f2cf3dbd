"""The RunTask request: what the operator configured, what the DAG's author asked for, and our own part.

Who may decide what is in `policy`. Precedence, lowest to highest: options, `run_task_kwargs`, `executor_config`;
mappings are merged, lists and plain values replaced.
Parameters: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from reconciler.core import policy
from reconciler.core.policy import RequestRefusedError

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
    allowed: frozenset[str] = frozenset()
    """What DAG authors may set besides, or only: the words of `[ecs_reconciler] allowed_run_task_parameters`."""

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
    policy.check(executor_config, profile.allowed, profile.container_name)
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

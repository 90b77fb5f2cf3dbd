"""The RunTask request: what the operator configured, what the DAG's author asked for, and our own part.

Who may decide what is in `policy`. Precedence, lowest to highest: options, `run_task_kwargs`, `executor_config`;
mappings are merged, lists and plain values replaced.
Parameters: https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html
"""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from reconciler.core import policy
from reconciler.core.parameters import over, settled
from reconciler.core.policy import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from reconciler.core.task import Workload

__all__ = [
    "EXEC_ID_VARIABLE",
    "NOTHING",
    "OVERRIDES_LIMIT",
    "Profile",
    "RequestRefusedError",
    "compose",
    "cost_tags",
    "family_of",
    "plan",
    "shard_of",
    "tag_text",
]

EXEC_ID_VARIABLE: Final = "ECS_RECONCILER_EXEC_ID"
"""Environment variable that tells a container which workload it is, and us which container is ours."""

_IDENTITY: Final = ("AIRFLOW_IS_EXECUTOR_CONTAINER", EXEC_ID_VARIABLE)

OVERRIDES_LIMIT: Final = 8192
"""RunTask refuses `overrides` with more characters of JSON than this."""

NOTHING: Final = ("python", "-c", "raise SystemExit(1)")
"""The command of a container that ends at once and calls nobody. Not with 0: that would pass for a container that has
reported its outcome, and so for proof that Airflow's API server admits containers."""

TAGS_LIMIT: Final = 50
"""How many tags an ECS task may have."""
TAG_KEY, TAG_VALUE = 128, 256
"""How many characters a tag's key and value may have."""


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
    role_arn: str | None = None
    """A role of another account to act as there."""
    events_queue_url: str | None = None
    """The queue of its account's and region's events, if this profile names it."""
    allowed: frozenset[str] = frozenset()
    """What DAG authors may set besides, or only: the words of `[ecs_reconciler] allowed_run_task_parameters`."""

    cost_tags: bool = True
    """Whether each ECS task is tagged with what it runs. See `[ecs_reconciler] cost_tags`."""
    max_running_tasks: int | None = None
    """How many of its ECS tasks may exist at once. None: as many as the deployment may have."""
    max_cpu: int | None = None
    """How many CPU units its ECS tasks on Fargate may have at once. None: as many as the shard may have."""
    start_timeout: timedelta = timedelta(seconds=600)
    """What is not RUNNING this long after its intent is stopped."""
    spot_fallback_after: int = 0
    """After so many failures for want of capacity the strategy is used without its first item. 0: never."""

    @property
    def shard(self) -> str:
        """The account and region whose rate limits its calls draw on. Named by the region alone in our own account."""
        return shard_of(self.region, self.role_arn)

    @property
    def family(self) -> str:
        """The task definition's family, by which ECS can list tasks."""
        return family_of(str(self.run_task["taskDefinition"]))


def shard_of(region: str, role_arn: str | None) -> str:
    """The name of the account and region in which a profile of this region and role runs."""
    return f"{region}/{role_arn.split(':')[4]}" if role_arn else region


def family_of(task_definition: str) -> str:
    """The family of `family`, `family:revision` or a task definition's ARN."""
    return task_definition.rsplit("/", 1)[-1].split(":", 1)[0]


def tag_text(text: str, limit: int) -> str:
    """`text` with nothing in it that AWS does not take in a tag, and not longer than `limit`.

    AWS takes letters, numbers and blanks of any script, and _ . : / = + - @:
    https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs-using-tags.html
    """
    good = (c if unicodedata.category(c)[0] in "LNZ" or c in "_.:/=+-@" else "_" for c in text[:limit])
    return "".join(good)


def cost_tags(w: Workload) -> dict[str, str]:
    """What an ECS task is run for, as tags by which AWS can split the bill. A callback belongs to no task."""
    facts = {"dag_id": w.key.dag_id, "task_id": w.key.task_id, "run_id": w.key.run_id, "team": w.team}
    return {f"airflow:{name}": tag_text(value, TAG_VALUE) for name, value in facts.items() if value}


def plan(
    profile: Profile, exec_id: str, executor_config: Mapping[str, Any], tags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The RunTask parameters of a workload, without identity and command. Raises RequestRefusedError.

    They are frozen by the intent: a repeated call must send the same bytes, whatever has been configured since.
    A container override without a name is that of the container that runs the task.
    """
    policy.check(executor_config, profile.allowed, profile.container_name)
    request = settled(over(profile.run_task, executor_config))
    identity = dict(zip(_IDENTITY, ("true", exec_id), strict=True))
    environment = {**profile.environment, **identity}
    mine: dict[str, Any] = {"name": profile.container_name}
    others = []
    for container in request.get("overrides", {}).get("containerOverrides", []):
        if container.get("name", profile.container_name) == profile.container_name:
            mine |= container
        else:
            others.append(container)
    given = [v for v in mine.get("environment", []) if v.get("name") not in _IDENTITY]
    # What the operator sets in `run_task_kwargs` wins over what the options say; a DAG may set none of these.
    set_before = {v.get("name") for v in given}
    added = [{"name": name, "value": environment[name]} for name in sorted(environment.keys() - set_before)]
    mine["environment"] = [*given, *added]
    request["overrides"] = {**request.get("overrides", {}), "containerOverrides": [mine, *others]}
    given_tags = request.get("tags", [])
    if tags and profile.cost_tags and isinstance(given_tags, list):  # what is no list boto3 refuses, in its own words
        request["tags"] = _tagged(given_tags, tags)
    request["cluster"] = profile.cluster
    return request


def _tagged(given: Sequence[Mapping[str, str]], tags: Mapping[str, str]) -> list[Mapping[str, str]]:
    """The tags that were asked for, and ours, which nobody else may set: a bill is no place for a forged name."""
    kept = [tag for tag in given if tag.get("key") not in tags]
    room = max(TAGS_LIMIT - len(kept), 0)
    return [*kept, *({"key": key, "value": value} for key, value in list(tags.items())[:room])]


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

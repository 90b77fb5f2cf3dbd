"""From the options that users set to the frozen values that the rest of the program is given, or to sentences."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from reconciler.core.decide import Policy
from reconciler.core.parameters import over, settled
from reconciler.core.profiles import DEFAULT, Profiles
from reconciler.core.runtask import Profile
from reconciler.core.shares import Shares
from reconciler.core.size import in_units
from reconciler.kwargs import misshapen, named
from reconciler.options import EcsExecutorOptions, ReconcilerOptions, SharedEcsOptions, SharedOptions
from reconciler.queues import QueueOptions, own_options, profile_options, shard_problems, shares

__all__ = [
    "AIRFLOW_SETTINGS",
    "ConfigError",
    "DaemonSettings",
    "ShimSettings",
    "daemon_settings",
    "shim_settings",
    "variable",
]

Read = Callable[[str, str], str | None]
"""Looks up (section, option) in Airflow's configuration. None: not set."""


class ConfigError(ValueError):
    """Options are missing or wrong. `problems` holds one sentence for each, all of them at once."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def variable(section: str, option: str) -> str:
    """The environment variable that sets an option of Airflow's configuration."""
    return f"AIRFLOW__{section.upper()}__{option.upper()}"


Model = TypeVar("Model", bound=BaseModel)
ALIASES: Final = {("aws_ecs_executor", "conn_id"): "aws_conn_id"}
"""Names that the official executor's documentation uses for an option of another name."""
AIRFLOW_SETTINGS: Final = (
    ("core", "parallelism"),
    ("core", "max_active_tasks_per_dag"),
    ("core", "max_active_runs_per_dag"),
    ("core", "default_pool_task_slot_count"),
    ("scheduler", "max_tis_per_query"),
    ("scheduler", "task_queued_timeout"),
    ("scheduler", "scheduler_health_check_threshold"),
    ("scheduler", "task_instance_heartbeat_timeout"),
    ("workers", "min_heartbeat_interval"),
    ("workers", "max_failed_heartbeats"),
    ("workers", "execution_api_timeout"),
    ("api", "workers"),
    ("database", "sql_alchemy_pool_size"),
    ("database", "sql_alchemy_max_overflow"),
    ("logging", "remote_logging"),
)
"""Settings of Airflow's own that decide how many tasks run at once, and how long they may take to begin."""
_REGISTERED: Final = "aws_default"
"""What an unset conn_id reads as where the Amazon provider is installed: it must not hide the other name."""


@dataclass(frozen=True, slots=True)
class ShimSettings:
    """What the executor in the scheduler needs to know. It needs no AWS."""

    deployment: str
    max_running_tasks: int
    max_run_task_attempts: int
    backlog: int
    shares: Shares = field(default_factory=Shares)
    """How many tasks of which queues may run at once."""


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What the daemon needs to know, validated."""

    options: ReconcilerOptions
    ecs: EcsExecutorOptions
    profiles: Profiles
    policy: Policy
    sql_alchemy_conn: str
    shared: ShimSettings
    """What a scheduler with this configuration would be set to."""
    airflow_url: str | None = None
    """Where Airflow's pages are, for links."""

    @property
    def longest_start_timeout(self) -> timedelta:
        """How long a container of any queue may take until it begins its task."""
        return max(profile.start_timeout for profile in self.profiles.all())


def shim_settings(read: Read) -> ShimSettings:
    """What the shim needs of the configuration. Raises ConfigError with all problems at once.

    The daemon reports the rest: the scheduler must start even where AWS is configured for the daemon alone.
    """
    problems: list[str] = []
    ours = _validate(read, "ecs_reconciler", SharedOptions, problems)
    ecs = _validate(read, "aws_ecs_executor", SharedEcsOptions, problems)
    if ours is None or ecs is None:
        raise ConfigError(problems)
    region = _read(read, "aws_ecs_executor", EcsExecutorOptions).get("region_name", "")
    said = shares(ours.queues, region, ours.max_running_tasks)
    return ShimSettings(shares=said, **ours.model_dump(exclude={"queues"}), **ecs.model_dump())


def daemon_settings(read: Read) -> DaemonSettings:
    """The daemon's whole configuration. Raises ConfigError with all problems at once."""
    problems: list[str] = []
    options = _validate(read, "ecs_reconciler", ReconcilerOptions, problems)
    ecs = _validate(read, "aws_ecs_executor", EcsExecutorOptions, problems)
    connection = (options and options.sql_alchemy_conn) or read("database", "sql_alchemy_conn")
    if not connection:
        problems.append(
            "[ecs_reconciler] sql_alchemy_conn is not set, nor is [database] sql_alchemy_conn: give the URL of "
            "Airflow's metadata database"
        )
    api = (options and options.execution_api_server_url) or read("core", "execution_api_server_url")
    if not api:
        problems.append(
            "[ecs_reconciler] execution_api_server_url is not set, nor is [core] execution_api_server_url: give the "
            "address of Airflow's API server as a container in ECS reaches it, such as https://airflow.internal/execution/"
        )
    if problems or options is None or ecs is None or not connection or not api:
        raise ConfigError(problems)
    profiles = _profiles(read, options, ecs, api, problems)
    if problems:
        raise ConfigError(problems)
    limits = Policy(max_run_task_attempts=ecs.max_run_task_attempts)
    return DaemonSettings(
        options=options,
        ecs=ecs,
        profiles=profiles,
        policy=limits,
        sql_alchemy_conn=connection,
        airflow_url=read("api", "base_url") or None,
        shared=shim_settings(read),
    )


def _profiles(
    read: Read, options: ReconcilerOptions, ecs: EcsExecutorOptions, api: str, problems: list[str]
) -> Profiles:
    """One profile from `[aws_ecs_executor]` alone, and one for each queue that differs."""
    default = _profile(DEFAULT, ecs, QueueOptions.model_validate({}), options, api, problems)
    common = _read(read, "aws_ecs_executor", EcsExecutorOptions)
    named: dict[str, Profile] = {}
    for queue, said in options.queues.items():
        found: list[str] = []
        merged = profile_options(queue, said, common, EcsExecutorOptions.model_fields, problems)
        its_ecs = _checked(merged, "aws_ecs_executor", EcsExecutorOptions, found)
        own = _checked(own_options(said), "ecs_reconciler", QueueOptions, found)
        if its_ecs and own:
            named[queue] = _profile(queue, its_ecs, own, options, api, found)
        problems += [f'[ecs_reconciler] queues: "{queue}": {problem}' for problem in found]
    profiles = Profiles(
        default=named.pop(DEFAULT, default),
        named=named,
        default_queue=read("operators", "default_queue") or DEFAULT,
        unknown_fails=options.unknown_queue == "fail",
    )
    if not problems:
        problems += shard_problems(profiles, options.max_running_tasks)
    return profiles


def _profile(  # noqa: PLR0917 - what a profile is made of
    name: str, ecs: EcsExecutorOptions, own: QueueOptions, options: ReconcilerOptions, api: str, problems: list[str]
) -> Profile:
    """The profile that one set of options makes."""
    if own.spot_fallback_after and len(ecs.capacity_provider_strategy or ()) < 2:
        problems.append(
            "spot_fallback_after is set, but capacity_provider_strategy does not name a Spot provider first and an "
            'On-Demand one after it, such as [{"capacityProvider": "FARGATE_SPOT", "weight": 1}, '
            '{"capacityProvider": "FARGATE", "weight": 0}]'
        )
    problems += _conflicts(ecs)
    if wrong := misshapen(ecs.run_task_kwargs):
        problems += wrong
        ecs = ecs.model_copy(update={"run_task_kwargs": {}})
    return Profile(
        name=name,
        region=ecs.region_name,
        role_arn=own.role_arn,
        events_queue_url=own.events_queue_url or (options.events_queue_url if name == DEFAULT else None),
        cluster=ecs.cluster,
        container_name=ecs.container_name,
        run_task=_run_task(ecs),
        environment={"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api},
        allowed=frozenset(options.allowed_run_task_parameters),
        cost_tags=options.cost_tags,
        max_running_tasks=own.max_running_tasks,
        max_cpu=in_units(own.max_running_vcpus),
        start_timeout=timedelta(seconds=own.start_timeout or options.start_timeout),
        spot_fallback_after=own.spot_fallback_after,
    )


def _conflicts(ecs: EcsExecutorOptions) -> list[str]:
    """Options that are right one by one and wrong together."""
    problems = []
    if ecs.launch_type and ecs.capacity_provider_strategy:
        problems.append(
            "[aws_ecs_executor] launch_type and capacity_provider_strategy exclude one another: remove one of them"
        )
    if not ecs.subnets and (ecs.security_groups or ecs.assign_public_ip):
        problems.append(
            "[aws_ecs_executor] subnets is empty, but security_groups or assign_public_ip is set: name at least one "
            "subnet"
        )
    return problems


def _run_task(ecs: EcsExecutorOptions) -> dict[str, Any]:
    """RunTask parameters from the options, with `run_task_kwargs` over them (top level, as the official executor)."""
    kwargs = ecs.run_task_kwargs
    request: dict[str, Any] = {"taskDefinition": ecs.task_definition, "platformVersion": ecs.platform_version}
    if ecs.capacity_provider_strategy:
        request["capacityProviderStrategy"] = ecs.capacity_provider_strategy
    elif ecs.launch_type:
        request["launchType"] = ecs.launch_type
    if ecs.subnets:
        network: dict[str, Any] = {"subnets": ecs.subnets}
        if ecs.security_groups:
            network["securityGroups"] = ecs.security_groups
        # RunTask refuses it for the launch type EC2.
        if kwargs.get("launchType", ecs.launch_type) != "EC2":
            network["assignPublicIp"] = "ENABLED" if ecs.assign_public_ip else "DISABLED"
        request["networkConfiguration"] = {"awsvpcConfiguration": network}
    low = {name: value for name, value in over(request, dict.fromkeys(kwargs)).items() if name not in kwargs}
    return settled({**low, **named(kwargs, ecs.container_name)})


def _read(read: Read, section: str, model: type[BaseModel]) -> dict[str, Any]:
    """The options of a section that are set. An empty value is an unset one."""
    found: dict[str, Any] = {}
    for name in model.model_fields:
        value = read(section, name)
        if (alias := ALIASES.get((section, name))) and value in (None, "", _REGISTERED):
            value = read(section, alias) or value
        if value is not None and value.strip():
            found[name] = value.strip()
    return found


def _validate(read: Read, section: str, model: type[Model], problems: list[str]) -> Model | None:
    return _checked(_read(read, section, model), section, model, problems)


def _checked(values: dict[str, Any], section: str, model: type[Model], problems: list[str]) -> Model | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems += [_sentence(section, model, dict(e)) for e in error.errors()]
        return None


def _sentence(section: str, model: type[BaseModel], error: dict[str, Any]) -> str:
    """One problem, for the person who has to mend it: which option, what is wrong, what would be right."""
    name, *inside = (str(part) for part in error["loc"])
    info = model.model_fields[name]
    example = f", for example {info.examples[0]}" if info.examples else ""
    where = f"[{section}] {name}"
    if error["type"] == "missing":
        return f"{where} is not set: {info.description} Set it{example}, there or as {variable(section, name)}."
    secret = isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("sensitive")
    value = "its value" if secret else repr(error.get("input"))
    message = _PLAIN.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    of_what = f"{' '.join(json.dumps(part) for part in inside)}: " if inside else ""
    told = f"{where}: {of_what}{value} {message[:1].lower()}{message[1:]}. {info.description}"
    return f"{told} Example: {info.examples[0]}" if info.examples else told


_PLAIN: Final = {
    "dict_type": "should be a JSON object",
    "list_type": "should be a JSON list",
    "string_pattern_mismatch": "can not be one",
    "bool_parsing": "should be True or False",
}
"""Kinds of mistakes of which pydantic speaks as to a programmer."""

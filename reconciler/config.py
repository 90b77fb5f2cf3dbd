"""The options that users set, and the frozen values that the rest of the program is given.

Two sections of Airflow's configuration: `[aws_ecs_executor]`, whose names and meaning are those of Airflow's official
ECS executor, and `[ecs_reconciler]`, which is ours. The models below are the single source of names, defaults and
documentation: Airflow's registration and `docs/configuration.md` are made from them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from reconciler.core import policy
from reconciler.core.decide import Policy
from reconciler.core.identity import DEPLOYMENT
from reconciler.core.parameters import camel_case, over, settled
from reconciler.core.profiles import DEFAULT, Profiles
from reconciler.core.runtask import Profile
from reconciler.core.size import VCPU
from reconciler.kwargs import misshapen, named
from reconciler.queues import QueueOptions, own_options, profile_options, shard_problems, shares

__all__ = [
    "AIRFLOW_SETTINGS",
    "ConfigError",
    "DaemonSettings",
    "EcsExecutorOptions",
    "ReconcilerOptions",
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


def _words(value: Any) -> Any:
    """A comma separated list, blanks around the commas allowed."""
    return [word for word in (part.strip() for part in value.split(",")) if word] if isinstance(value, str) else value


def _literal(value: Any) -> Any:
    """JSON, or a Python literal: the documentation of the official executor shows single quotes."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            raise ValueError("is neither JSON nor a Python literal") from None


def _permissions(words: list[str]) -> list[str]:
    try:
        policy.parse(frozenset(words))
    except ValueError as error:
        raise ValueError(f"can not be used: {error}") from None
    return words


def _strategy(value: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    if value is not None and not all(isinstance(item.get("capacityProvider"), str) for item in value):
        raise ValueError('needs a "capacityProvider" in each of its items')
    return value or None


def _units(vcpus: float | None) -> int | None:
    return None if vcpus is None else int(vcpus * VCPU)


Model = TypeVar("Model", bound=BaseModel)
Words = Annotated[list[str], BeforeValidator(_words)]
Seconds = Annotated[float, Field(gt=0)]


class SharedEcsOptions(BaseModel):
    """What shim and daemon both read of section `[aws_ecs_executor]`."""

    model_config = ConfigDict(frozen=True)

    max_run_task_attempts: int = Field(
        3, ge=1, description="How many failed starts fail a task. Waiting for capacity, quota or rate does not count."
    )


class EcsExecutorOptions(SharedEcsOptions):
    """Section `[aws_ecs_executor]`. Each set of these is one profile (see `profile_of`)."""

    cluster: str = Field(description="Name or ARN of the ECS cluster in which tasks run.", examples=["airflow"])
    container_name: str = Field(
        description="Name of the container, in the task definition, that runs Airflow's task.", examples=["airflow"]
    )
    region_name: str = Field(
        pattern=r"^[a-z0-9-]+$", description="AWS region of the cluster.", examples=["eu-central-1"]
    )
    task_definition: str = Field(
        description="Task definition to run: family, family:revision or ARN.", examples=["airflow-task:7"]
    )
    conn_id: str | None = Field(
        None,
        description="Airflow connection with AWS credentials, from AIRFLOW_CONN_... or a secrets backend; needs the "
        "extra `amazon`. Unset, or aws_default without such a connection: boto3's own chain.",
        examples=["aws_default"],
    )
    launch_type: Literal["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"] | None = Field(
        None,
        description="ECS launch type. Unset, with no capacity_provider_strategy either: the cluster's default "
        "strategy, or FARGATE if it has none.",
        examples=["FARGATE"],
    )
    capacity_provider_strategy: Annotated[
        list[dict[str, Any]] | None, BeforeValidator(_literal), AfterValidator(_strategy)
    ] = Field(
        None,
        max_length=20,
        description="Capacity provider strategy as JSON. Excludes launch_type.",
        examples=['[{"capacityProvider": "FARGATE_SPOT", "weight": 1}]'],
    )
    platform_version: str = Field("LATEST", description="Fargate platform version. Sent only where Fargate runs it.")
    assign_public_ip: bool = Field(False, description="Whether the task's network interface gets a public address.")
    security_groups: Words = Field(
        [], max_length=5, description="Security groups of the task, comma separated, at most 5."
    )
    subnets: Words = Field(
        [], max_length=16, description="Subnets of the task, comma separated, at most 16.", examples=["subnet-1"]
    )
    run_task_kwargs: Annotated[dict[str, Any], BeforeValidator(_literal)] = Field(
        {},
        description="Further parameters of RunTask, as JSON. Each wins over the option of the same name, spelled as "
        "RunTask or as the option spells it.",
        examples=['{"tags": [{"key": "schema", "value": "1.0"}]}'],
    )
    check_health_on_startup: bool = Field(
        True, description="Whether the daemon checks cluster and task definition before it starts to work."
    )

    @model_validator(mode="before")
    @classmethod
    def _kwargs_win(cls, given: Any) -> Any:
        """What `run_task_kwargs` says under the name of an option is that option's value."""
        try:
            kwargs = _literal(given.get("run_task_kwargs"))
        except ValueError:
            return given  # the field's own validator says so
        if not isinstance(kwargs, dict):
            return given
        named = {name: value for name, value in kwargs.items() if name in _IN_KWARGS}
        rest = {name: value for name, value in kwargs.items() if name not in named}
        other = {"launch_type": "capacity_provider_strategy", "capacity_provider_strategy": "launch_type"}
        replaced = {other[name] for name in named if name in other}
        kept = {name: value for name, value in given.items() if name not in replaced}
        return {**kept, **named, "run_task_kwargs": camel_case(rest)}


_IN_KWARGS: Final = frozenset(
    (
        *("cluster", "container_name", "task_definition", "launch_type", "capacity_provider_strategy"),
        *("platform_version", "assign_public_ip", "security_groups", "subnets"),
    )
)
"""Options that `run_task_kwargs` may set under their own names, as with the official executor."""


class SharedOptions(BaseModel):
    """What shim and daemon both read of section `[ecs_reconciler]`."""

    model_config = ConfigDict(frozen=True)

    deployment: Annotated[str, Field(pattern=f"^{DEPLOYMENT.pattern}$")] = Field(
        description="Whose ECS tasks these are: 1 to 40 of A-Z a-z 0-9 _ -. Two Airflows that share a cluster need "
        "two names, and so does a copy of a metadata database.",
        examples=["prod"],
    )
    max_running_tasks: int = Field(
        500,
        ge=1,
        description="How many ECS tasks of this deployment may exist at once. The shim passes it on to Airflow as "
        "free slots.",
    )
    backlog: int = Field(
        50,
        ge=0,
        description="How many tasks beyond the free slots may wait in the table, so that a free slot is used at once.",
    )
    queues: Annotated[dict[str, dict[str, Any]], BeforeValidator(_literal)] = Field(
        {},
        description="What tasks of a queue need that others do not, as JSON: for each queue the options of "
        "[aws_ecs_executor] that differ, and its own max_running_tasks, max_running_vcpus, start_timeout, role_arn, "
        "events_queue_url and spot_fallback_after. See queues.md.",
        examples=['{"gpu": {"task_definition": "train:4", "max_running_tasks": 40}}'],
    )


class ReconcilerOptions(SharedOptions):
    """Section `[ecs_reconciler]`."""

    execution_api_server_url: str | None = Field(
        None,
        description="Airflow's Execution API as a task's container reaches it. Default: [core] "
        "execution_api_server_url.",
        examples=["https://airflow.internal/execution/"],
    )
    conn_id_from_database: bool = Field(
        False,
        description="Whether [aws_ecs_executor] conn_id is looked up in Airflow's metadata database too. The daemon "
        "then needs [database] sql_alchemy_conn with SELECT on the table connection, and [core] fernet_key.",
    )
    sql_alchemy_conn: str | None = Field(
        None,
        description="Database that the daemon uses. Default: [database] sql_alchemy_conn.",
        json_schema_extra={"sensitive": True},
    )
    unknown_queue: Literal["default", "fail"] = Field(
        "default", description="What becomes of a task whose queue has no profile: it uses the default one, or fails."
    )
    max_running_vcpus: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="How many Fargate vCPUs the ECS tasks of this deployment may have at once in each account and "
        "region, as AWS's own quota counts them. Unset: what AWS refuses waits. See queues.md.",
        examples=["1000"],
    )
    launch_rate: float = Field(
        19.8, gt=0, description="RunTask calls per second. Fargate accepts 20, shared by the whole account and region."
    )
    launch_burst: int = Field(16, ge=1, description="RunTask calls at once after a pause. Fargate accepts 20.")
    start_timeout: Seconds = Field(
        600.0, description="Seconds from RunTask's intent after which a task that is not RUNNING is stopped."
    )
    allowed_run_task_parameters: Annotated[Words, AfterValidator(_permissions)] = Field(
        [],
        description="What DAG authors may set in executor_config besides what is harmless: taskRoleArn, "
        "executionRoleArn, enableExecuteCommand, volumeConfigurations. NAME=PATTERN permits only such values, of these "
        "and of any other parameter that is text.",
        examples=["taskRoleArn=arn:aws:iam::*:role/etl-*, taskDefinition=etl-*"],
    )
    cost_tags: bool = Field(
        True,
        description="Whether each ECS task gets the tags airflow:dag_id, airflow:task_id, airflow:run_id and "
        "airflow:team, by which AWS can split the bill. Needs the permission ecs:TagResource.",
    )
    retention: Seconds = Field(
        172800.0, ge=7200, description="Seconds for which acknowledged workloads are kept, at least 7200."
    )
    lease_seconds: Seconds = Field(
        15.0, ge=3, description="Seconds after which a replica that died is replaced by another, at least 3."
    )
    sweep_interval: Seconds = Field(
        0.4,
        description="Seconds between two looks at a task, at least: where more than a hundred run it is up to two, and "
        "a minute while events from events_queue_url tell what happens.",
    )
    events_queue_url: str | None = Field(
        None,
        description="URL of the SQS queue into which EventBridge puts the state changes of the tasks, in their account "
        "and region. Ends are then noticed sooner and with far fewer calls. See events.md.",
        examples=["https://sqs.eu-central-1.amazonaws.com/123456789012/airflow-events"],
    )
    listing_interval: Seconds = Field(60.0, description="Seconds between two listings of the cluster for orphans.")
    orphan_grace: Seconds = Field(
        600.0, description="Seconds for which an ECS task that no workload claims is left alone before it is stopped."
    )
    http_host: str = Field("127.0.0.1", description="Address on which metrics, probes and page are served.")
    http_port: int = Field(9102, ge=0, le=65535, description="Port of the same. 0: any free port.")
    status_page: bool = Field(True, description="Whether the same port serves the status page and its JSON.")
    status_page_token: str | None = Field(
        None,
        description="What a reader of the status page must give (as `Authorization: Bearer ...`, or on the page). "
        "Unset: whoever reaches the port may read it.",
        json_schema_extra={"sensitive": True},
    )
    traces: bool = Field(
        False,
        description="Whether the daemon sends a trace of each workload by OpenTelemetry, to where the variables "
        "OTEL_EXPORTER_OTLP_... say. Needs the extra `otel`. See traces.md.",
    )
    log_format: Literal["console", "json"] = Field("console", description="How the daemon writes its log.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="What the daemon logs.")

    @property
    def max_cpu(self) -> int | None:
        """`max_running_vcpus` in CPU units."""
        return _units(self.max_running_vcpus)


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
    shares: Mapping[str, int] = field(default_factory=dict)
    """How many tasks of a queue may run at once, for the queues that have a limit of their own."""


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
    return ShimSettings(shares=shares(ours.queues), **ours.model_dump(exclude={"queues"}), **ecs.model_dump())


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
        max_cpu=_units(own.max_running_vcpus),
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

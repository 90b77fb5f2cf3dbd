"""The options that users set, and the frozen values that the rest of the program is given.

Two sections of Airflow's configuration: `[aws_ecs_executor]`, whose names and meaning are those of Airflow's official
ECS executor, and `[ecs_reconciler]`, which is ours. The models below are the single source of names, defaults and
documentation: Airflow's registration and `docs/configuration.md` are made from them.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from reconciler.core.decide import Policy
from reconciler.core.identity import DEPLOYMENT
from reconciler.core.runtask import Profile

__all__ = [
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
    """Section `[aws_ecs_executor]`."""

    cluster: str = Field(description="Name or ARN of the ECS cluster in which tasks run.", examples=["airflow"])
    container_name: str = Field(
        description="Name of the container, in the task definition, that runs Airflow's task.", examples=["airflow"]
    )
    region_name: str = Field(description="AWS region of the cluster.", examples=["eu-central-1"])
    task_definition: str = Field(
        description="Task definition to run: family, family:revision or ARN.", examples=["airflow-task:7"]
    )
    conn_id: str | None = Field(
        None, description="Airflow connection with AWS credentials. Unset: boto3's own chain.", examples=["aws_default"]
    )
    launch_type: Literal["EC2", "FARGATE", "EXTERNAL", "MANAGED_INSTANCES"] | None = Field(
        None,
        description="ECS launch type. Unset, with no capacity_provider_strategy either: the cluster's default "
        "strategy, or FARGATE if it has none.",
        examples=["FARGATE"],
    )
    capacity_provider_strategy: Annotated[list[dict[str, Any]] | None, BeforeValidator(_literal)] = Field(
        None,
        description="Capacity provider strategy as JSON. Excludes launch_type.",
        examples=['[{"capacityProvider": "FARGATE_SPOT", "weight": 1}]'],
    )
    platform_version: str = Field("LATEST", description="Fargate platform version. Sent only where Fargate runs it.")
    assign_public_ip: bool = Field(False, description="Whether the task's network interface gets a public address.")
    security_groups: Words = Field([], description="Security groups of the task, comma separated, at most 5.")
    subnets: Words = Field([], description="Subnets of the task, comma separated, at most 16.", examples=["subnet-1"])
    run_task_kwargs: Annotated[dict[str, Any], BeforeValidator(_literal)] = Field(
        {}, description="Further parameters of RunTask, as JSON, merged over the options above.", examples=["{}"]
    )
    check_health_on_startup: bool = Field(
        True, description="Whether the daemon checks cluster and task definition before it starts to work."
    )


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


class ReconcilerOptions(SharedOptions):
    """Section `[ecs_reconciler]`."""

    execution_api_server_url: str | None = Field(
        None,
        description="Airflow's Execution API as a task's container reaches it. Default: [core] "
        "execution_api_server_url.",
        examples=["https://airflow.internal/execution/"],
    )
    sql_alchemy_conn: str | None = Field(
        None,
        description="Database that the daemon uses. Default: [database] sql_alchemy_conn.",
        json_schema_extra={"sensitive": True},
    )
    launch_rate: float = Field(
        19.8, gt=0, description="RunTask calls per second. Fargate accepts 20, shared by the whole account and region."
    )
    launch_burst: int = Field(16, ge=1, description="RunTask calls at once after a pause. Fargate accepts 20.")
    start_timeout: Seconds = Field(
        600.0, description="Seconds from RunTask's intent after which a task that is not RUNNING is stopped."
    )
    allowed_run_task_parameters: Words = Field(
        [],
        description="Rights-granting RunTask parameters that DAG authors may set in executor_config, of taskRoleArn, "
        "executionRoleArn, enableExecuteCommand, volumeConfigurations.",
    )
    retention: Seconds = Field(
        172800.0, ge=7200, description="Seconds for which acknowledged workloads are kept, at least 7200."
    )
    lease_seconds: Seconds = Field(
        15.0, ge=3, description="Seconds after which a replica that died is replaced by another, at least 3."
    )
    sweep_interval: Seconds = Field(1.0, description="Seconds between two looks at the tasks that run.")
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
    log_format: Literal["console", "json"] = Field("console", description="How the daemon writes its log.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="What the daemon logs.")


ALIASES: Final = {("aws_ecs_executor", "conn_id"): "aws_conn_id"}
"""Names that the official executor's documentation uses for an option of another name."""


@dataclass(frozen=True, slots=True)
class ShimSettings:
    """What the executor in the scheduler needs to know. It needs no AWS."""

    deployment: str
    max_running_tasks: int
    max_run_task_attempts: int
    backlog: int


@dataclass(frozen=True, slots=True)
class DaemonSettings:
    """What the daemon needs to know, validated."""

    options: ReconcilerOptions
    ecs: EcsExecutorOptions
    profile: Profile
    policy: Policy
    sql_alchemy_conn: str
    airflow_url: str | None = None
    """Where Airflow's pages are, for links."""


def shim_settings(read: Read) -> ShimSettings:
    """What the shim needs of the configuration. Raises ConfigError with all problems at once.

    The daemon reports the rest: the scheduler must start even where AWS is configured for the daemon alone.
    """
    problems: list[str] = []
    ours = _validate(read, "ecs_reconciler", SharedOptions, problems)
    ecs = _validate(read, "aws_ecs_executor", SharedEcsOptions, problems)
    if ours is None or ecs is None:
        raise ConfigError(problems)
    return ShimSettings(**ours.model_dump(), **ecs.model_dump())


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
    run_task = _run_task(ecs, problems) if ecs else {}
    if problems or options is None or ecs is None or not connection or not api:
        raise ConfigError(problems)
    profile = Profile(
        cluster=ecs.cluster,
        container_name=ecs.container_name,
        run_task=run_task,
        environment={"AIRFLOW__CORE__EXECUTION_API_SERVER_URL": api},
        allowed=frozenset(options.allowed_run_task_parameters),
    )
    policy = Policy(
        max_run_task_attempts=ecs.max_run_task_attempts, start_timeout=timedelta(seconds=options.start_timeout)
    )
    return DaemonSettings(
        options=options,
        ecs=ecs,
        profile=profile,
        policy=policy,
        sql_alchemy_conn=connection,
        airflow_url=read("api", "base_url") or None,
    )


def _run_task(ecs: EcsExecutorOptions, problems: list[str]) -> dict[str, Any]:
    """RunTask parameters from the options, with `run_task_kwargs` over them (top level, as the official executor)."""
    request: dict[str, Any] = {"taskDefinition": ecs.task_definition}
    if ecs.launch_type and ecs.capacity_provider_strategy:
        problems.append(
            "[aws_ecs_executor] launch_type and capacity_provider_strategy exclude one another: remove one of them"
        )
    if ecs.capacity_provider_strategy:
        request["capacityProviderStrategy"] = ecs.capacity_provider_strategy
    elif ecs.launch_type:
        request["launchType"] = ecs.launch_type
    if ecs.launch_type == "FARGATE":
        request["platformVersion"] = ecs.platform_version
    if ecs.subnets or ecs.security_groups or ecs.assign_public_ip:
        if not ecs.subnets:
            problems.append(
                "[aws_ecs_executor] subnets is empty, but security_groups or assign_public_ip is set: name at least "
                "one subnet"
            )
        network: dict[str, Any] = {"subnets": ecs.subnets}
        if ecs.security_groups:
            network["securityGroups"] = ecs.security_groups
        if ecs.launch_type != "EC2":
            network["assignPublicIp"] = "ENABLED" if ecs.assign_public_ip else "DISABLED"
        request["networkConfiguration"] = {"awsvpcConfiguration": network}
    return {**request, **ecs.run_task_kwargs}


def _read(read: Read, section: str, model: type[BaseModel]) -> dict[str, str]:
    """The options of a section that are set. An empty value is an unset one."""
    found: dict[str, str] = {}
    for name in model.model_fields:
        value = read(section, name) or read(section, ALIASES.get((section, name), name))
        if value is not None and value.strip():
            found[name] = value.strip()
    return found


def _validate(read: Read, section: str, model: type[Model], problems: list[str]) -> Model | None:
    try:
        return model.model_validate(_read(read, section, model))
    except ValidationError as error:
        problems += [_sentence(section, model, dict(e)) for e in error.errors()]
        return None


def _sentence(section: str, model: type[BaseModel], error: dict[str, Any]) -> str:
    """One problem, for the person who has to mend it: which option, what is wrong, what would be right."""
    name = str(error["loc"][0])
    info = model.model_fields[name]
    example = f", for example {info.examples[0]}" if info.examples else ""
    where = f"[{section}] {name}"
    if error["type"] == "missing":
        return f"{where} is not set: {info.description} Set it{example}, there or as {variable(section, name)}."
    secret = isinstance(info.json_schema_extra, dict) and info.json_schema_extra.get("sensitive")
    value = "its value" if secret else repr(error.get("input"))
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return f"{where}: {value} {message[:1].lower()}{message[1:]}. {info.description}"

"""The options that users set: two sections of Airflow's configuration.

`[aws_ecs_executor]`, whose names and meaning are those of Airflow's official ECS executor, and `[ecs_reconciler]`,
which is ours. These models are the single source of names, defaults and documentation: Airflow's registration and
`docs/configuration.md` are made from them.
"""

from __future__ import annotations

import ast
import json
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from reconciler.core import policy
from reconciler.core.identity import DEPLOYMENT
from reconciler.core.parameters import camel_case
from reconciler.core.size import in_units

__all__ = ["MANY", "Amount", "EcsExecutorOptions", "ReconcilerOptions", "Seconds", "SharedEcsOptions", "SharedOptions"]


def _words(value: Any) -> Any:
    """A comma separated list, blanks around the commas allowed."""
    return [word for word in (part.strip() for part in value.split(",")) if word] if isinstance(value, str) else value


def _literal(value: Any) -> Any:
    """JSON, or a Python literal: the documentation of the official executor shows single quotes."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (json.JSONDecodeError, RecursionError):
        try:
            return ast.literal_eval(value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
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


TEN_YEARS: Final = 315_360_000
"""In seconds. More is a slip, and not all that counts time could hold it."""
MANY: Final = 1_000_000
"""More than any account has of anything. More is a slip, and too large a number can not be reckoned with."""

Words = Annotated[list[str], BeforeValidator(_words)]
Seconds = Annotated[float, Field(gt=0, le=TEN_YEARS, allow_inf_nan=False)]
Amount = Annotated[float, Field(gt=0, le=MANY, allow_inf_nan=False)]


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
        le=MANY,
        description="How many ECS tasks of this deployment may exist at once. The shim passes it on to Airflow as "
        "free slots.",
    )
    backlog: int = Field(
        50,
        ge=0,
        le=MANY,
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
    max_running_vcpus: Amount | None = Field(
        None,
        description="How many Fargate vCPUs the ECS tasks of this deployment may have at once in each account and "
        "region, as AWS's own quota counts them. Unset: what AWS refuses waits. See queues.md.",
        examples=["1000"],
    )
    launch_rate: Amount = Field(
        19.8, description="RunTask calls per second. Fargate accepts 20, shared by the whole account and region."
    )
    launch_burst: int = Field(16, ge=1, le=MANY, description="RunTask calls at once after a pause. Fargate accepts 20.")
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
    http_host: str = Field(
        "127.0.0.1",
        description="Address on which metrics, probes and page are served. `::`: every one, of IPv6 and IPv4.",
    )
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
        return in_units(self.max_running_vcpus)

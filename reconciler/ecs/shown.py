"""From AWS's words to ours: the `Task` structure of an answer, or of an event's `detail`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

from msgspec import Meta, MsgspecError, Raw, Struct, convert
from msgspec.json import Decoder, decode

from reconciler.core.runtask import EXEC_ID_VARIABLE
from reconciler.core.task import Container, EcsTask
from reconciler.ecs.errors import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["NO_TASK", "arn_of", "ecs_task", "read_plainly"]

NO_TASK: Final = (MsgspecError, ValueError, TypeError, OverflowError, OSError)
"""What reading one may raise. OSError: a time of which this machine's C library can not make a date."""

_Moment = datetime | float | None
"""JSON has seconds since 1970, botocore makes of them datetimes in the zone of this machine, and events have ISO 8601
text."""


class _Variable(Struct):
    name: str | None = None


class _ContainerOverride(Struct):
    name: str | None = None
    environment: list[_Variable] | None = None


class _Overrides(Struct, rename="camel"):
    container_overrides: list[_ContainerOverride] | None = None


class _Container(Struct, rename="camel"):
    name: str | None = None
    exit_code: Annotated[int, Meta(ge=-(2**31), lt=2**31)] | None = None
    reason: str | None = None
    runtime_id: str | None = None


class _Task(Struct, rename="camel"):
    """What a daemon needs of ECS's `Task`. A member may be null, which says as much as that it is missing.

    https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Task.html
    """

    task_arn: str
    last_status: str
    desired_status: str | None = None
    started_by: str | None = None
    version: int | None = None
    created_at: _Moment = None
    started_at: _Moment = None
    stopped_at: _Moment = None
    stop_code: str | None = None
    stopped_reason: str | None = None
    overrides: _Overrides | None = None
    containers: list[_Container] | None = None


class _Tasks(Struct):
    """The answer of DescribeTasks. One task that can not be read must not keep the others from being seen, so that each
    is read by itself."""

    tasks: list[Raw] | None = None
    failures: list[dict[str, Any]] | None = None


_task: Final = Decoder(_Task)
_tasks: Final = Decoder(_Tasks)


def read_plainly(*, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """A hook of botocore's, `before-parse.ecs.DescribeTasks`: leave each task the JSON that it is, for `ecs_task`.

    botocore makes an object of each of the hundred members of a task, and asks for the time zone of this machine at
    each of its five times. For a hundred tasks, of which a daemon needs a tenth, that takes six times as long as all
    the rest of the call. What is not plainly an answer, such as an error, is left to botocore.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        answer = _tasks.decode(response_dict["body"])
    except (MsgspecError, ValueError):
        return
    response_dict["body"] = b"{}"
    lists = {"tasks": answer.tasks, "failures": answer.failures}
    customized_response_dict |= {name: items for name, items in lists.items() if items is not None}


def ecs_task(shown: Mapping[str, Any] | Raw) -> EcsTask:
    """The task that ECS shows, in an answer or an event.

    Raises one of `NO_TASK` for what is no task, or holds what the table does not take: one task must not keep those
    that are written with it from being written.
    """
    it = _task.decode(shown) if isinstance(shown, Raw) else convert(shown, _Task)
    task = EcsTask(
        arn=it.task_arn,
        last_status=it.last_status,
        desired_status=it.desired_status or "RUNNING",
        started_by=it.started_by,
        version=it.version or 0,
        created_at=_time(it.created_at),
        started_at=_time(it.started_at),
        stopped_at=_time(it.stopped_at),
        stop_code=it.stop_code,
        stopped_reason=clean(it.stopped_reason or "") or None,
        container=_our_container(it),
    )
    words = (task.arn, task.last_status, task.started_by or "", task.stop_code or "")
    if not all(map(str.isprintable, words)) or not -(2**63) <= task.version < 2**63:
        raise ValueError("it shows a task with values that ECS does not give")
    return task


def arn_of(shown: Mapping[str, Any] | Raw) -> str:
    """The name of a task that can not be read. Raises what that raises where it has none."""
    task: Mapping[str, Any] = decode(shown) if isinstance(shown, Raw) else shown
    return str(task["taskArn"])


def _our_container(it: _Task) -> Container | None:
    """The container whose override names a workload. A sidecar's exit code must never pass for ours.

    Or says that it runs one of Airflow's: the official executor's, adopted when the executor was changed, say no more.

    `containers` is empty or missing right after a launch on a capacity provider and in shortened answers.
    """
    overrides = (it.overrides and it.overrides.container_overrides) or ()
    ours = _marked(overrides, EXEC_ID_VARIABLE) or _marked(overrides, "AIRFLOW_IS_EXECUTOR_CONTAINER")
    for container in it.containers or ():
        if container.name in ours:
            return Container(
                exit_code=container.exit_code,
                reason=clean(container.reason or "") or None,
                runtime_id=container.runtime_id,
            )
    return None


def _marked(overrides: Iterable[_ContainerOverride], variable: str) -> set[str | None]:
    """The names of the containers whose override sets this variable."""
    return {o.name for o in overrides if any(v.name == variable for v in o.environment or ())}


def _time(value: _Moment) -> datetime | None:
    """In UTC."""
    if isinstance(value, float):
        return datetime.fromtimestamp(value, UTC)
    return None if value is None else value.astimezone(UTC)

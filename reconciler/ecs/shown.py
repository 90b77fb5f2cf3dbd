"""From AWS's words to ours: the `Task` structure of an answer, or of an event's `detail`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import from_json

from reconciler.core.runtask import EXEC_ID_VARIABLE
from reconciler.core.task import Container, EcsTask
from reconciler.ecs.errors import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["NO_TASK", "ecs_task", "read_plainly"]

NO_TASK: Final = (ValueError, KeyError, TypeError, AttributeError, OverflowError)
"""What reading one may raise."""
_LISTS: Final = ("tasks", "failures")


def read_plainly(*, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: Any) -> None:
    """A hook of botocore's, `before-parse.ecs.DescribeTasks`: read the answer as the JSON that it is.

    botocore makes an object of each of the hundred members of a task, and asks for the time zone of this machine at
    each of its five times. For a hundred tasks, of which a daemon needs a tenth, that takes six times as long as all
    the rest of the call. What is not plainly an answer, such as an error, is left to botocore.
    """
    if response_dict["status_code"] != 200:
        return
    try:
        answer = from_json(response_dict["body"])
    except ValueError:
        return
    if isinstance(answer, dict):
        response_dict["body"] = b"{}"
        customized_response_dict |= {name: answer[name] for name in _LISTS if answer.get(name) is not None}


def ecs_task(shown: Mapping[str, Any]) -> EcsTask:
    """The task that ECS shows. Answers and events differ only in how they write times. A member may be null, which
    says as much as that it is missing.

    Raises one of `NO_TASK` for what is no task, or holds what the table does not take: one task must not keep those
    that are written with it from being written.
    """
    task = EcsTask(
        arn=shown["taskArn"],
        last_status=shown["lastStatus"],
        desired_status=shown.get("desiredStatus") or "RUNNING",
        started_by=shown.get("startedBy"),
        version=shown.get("version") or 0,
        created_at=_time(shown.get("createdAt")),
        started_at=_time(shown.get("startedAt")),
        stopped_at=_time(shown.get("stoppedAt")),
        stop_code=shown.get("stopCode"),
        stopped_reason=clean(shown.get("stoppedReason") or "") or None,
        container=_our_container(shown),
    )
    if not _sound(task):
        raise ValueError("it shows a task with values that ECS does not give")
    return task


def _sound(task: EcsTask) -> bool:
    words: tuple[Any, ...] = (task.arn, task.last_status, task.started_by or "", task.stop_code or "")
    code: Any = task.container.exit_code if task.container else None
    numbers: tuple[tuple[Any, int], ...] = ((task.version, 2**63), (0 if code is None else code, 2**31))
    good = [isinstance(word, str) and word.isprintable() for word in words]
    good += [type(number) is int and -limit <= number < limit for number, limit in numbers]
    return all(good)


def _our_container(shown: Mapping[str, Any]) -> Container | None:
    """The container whose override names a workload. A sidecar's exit code must never pass for ours.

    Or says that it runs one of Airflow's: the official executor's, adopted when the executor was changed, say no more.

    `containers` is empty or missing right after a launch on a capacity provider and in shortened answers.
    """
    overrides = (shown.get("overrides") or {}).get("containerOverrides") or ()
    ours = _marked(overrides, EXEC_ID_VARIABLE) or _marked(overrides, "AIRFLOW_IS_EXECUTOR_CONTAINER")
    for container in shown.get("containers") or ():
        if container.get("name") in ours:
            return Container(
                exit_code=container.get("exitCode"),
                reason=clean(container.get("reason") or "") or None,
                runtime_id=container.get("runtimeId"),
            )
    return None


def _marked(overrides: Iterable[Mapping[str, Any]], variable: str) -> set[Any]:
    """The names of the containers whose override sets this variable."""
    return {o.get("name") for o in overrides if any(v.get("name") == variable for v in o.get("environment") or ())}


def _time(value: datetime | str | float | None) -> datetime | None:
    """JSON has seconds since 1970, botocore makes of them datetimes in the zone of this machine, and events have
    ISO 8601 text. All become UTC."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    moment = datetime.fromisoformat(value) if isinstance(value, str) else value
    return None if moment is None else moment.astimezone(UTC)

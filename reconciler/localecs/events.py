"""What EventBridge tells of a task: the event "ECS Task State Change".

Its `detail` is the task as DescribeTasks shows it, with times in words, the kind of an attachment as "eni", the time of
the change, and neither tags nor health. Source, with an example:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/ecs_task_events.html
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_URL, uuid5

from reconciler.localecs.task import view

if TYPE_CHECKING:
    from reconciler.localecs.task import Task

__all__ = ["Event", "task_state_change"]

Event = dict[str, Any]
"""An event as EventBridge hands it to a target: what `json.loads` makes of an SQS message's body."""


def task_state_change(task: Task, at: float) -> Event:
    """The event for the task's present version, which it got `at` these epoch seconds.

    The id follows from the task and the version: no chance is drawn, so listening changes nothing else.
    """
    detail = view(task, tags=False)
    del detail["tags"]
    for container in detail["containers"]:
        del container["healthStatus"]
    for attachment in detail["attachments"]:
        attachment["type"] = "eni"
    detail |= {name: _iso(seconds, "milliseconds") for name, seconds in task.times.items()}
    detail["updatedAt"] = _iso(at, "milliseconds")
    _, _, _, region, account, _ = task.arn.split(":", 5)
    return {
        "version": "0",
        "id": str(uuid5(NAMESPACE_URL, f"{task.arn}/{task.version}")),
        "detail-type": "ECS Task State Change",
        "source": "aws.ecs",
        "account": account,
        "time": _iso(at, "seconds"),
        "region": region,
        "resources": [task.arn],
        "detail": detail,
    }


def _iso(seconds: float, precision: str) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec=precision).replace("+00:00", "Z")

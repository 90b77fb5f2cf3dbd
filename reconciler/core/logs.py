"""Where a container's output is in CloudWatch Logs.

Only the log driver awslogs with a stream prefix has a name that can be known beforehand, PREFIX/CONTAINER/TASK-ID:
https://docs.aws.amazon.com/AmazonECS/latest/developerguide/using_awslogs.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["awslogs", "stream_of"]


def awslogs(definition: Mapping[str, Any], container_name: str) -> dict[str, str] | None:
    """`group`, `region` and `prefix` (of the stream, up to the task's id) of a container, or None if not knowable."""
    for container in definition.get("containerDefinitions", []):
        if container.get("name") != container_name:
            continue
        config = container.get("logConfiguration") or {}
        options = config.get("options") or {}
        group, prefix = options.get("awslogs-group"), options.get("awslogs-stream-prefix")
        if config.get("logDriver") == "awslogs" and group and prefix:
            return {"group": group, "region": options.get("awslogs-region", ""), "prefix": f"{prefix}/{container_name}"}
    return None


def stream_of(logs: Mapping[str, str], task_arn: str) -> str:
    """The log stream of one ECS task."""
    return f"{logs['prefix']}/{task_arn.rpartition('/')[2]}"

"""GetLogEvents of CloudWatch Logs, for containers whose definition has the log driver awslogs with a stream prefix.

The stream is the captured output, a line an event. Source:
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_GetLogEvents.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from reconciler.localecs.errors import AwsError, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["get_log_events", "no_such_stream", "stream_prefix"]

MAX_EVENTS: Final = 10000


def stream_prefix(definition: Mapping[str, Any], container_name: str, group: str) -> str | None:
    """The stream's name up to the task's id, or None if this container does not write into this group."""
    for container in definition.get("containerDefinitions", ()):
        options = container.get("logConfiguration", {}).get("options", {})
        prefix = options.get("awslogs-stream-prefix")
        if container["name"] == container_name and options.get("awslogs-group") == group and prefix:
            return f"{prefix}/{container_name}"
    return None


def no_such_stream() -> AwsError:
    """The error for a group or a stream that does not exist, or not yet."""
    return AwsError("ResourceNotFoundException", "The specified log stream does not exist.")


def get_log_events(request: Mapping[str, Any], lines: Sequence[str], written_at: float) -> dict[str, Any]:
    """One page. Every event has the time of the last write: the output carries none of its own.

    From the end unless `startFromHead`; the token of the last page comes back as it was, which is how a reader knows.
    """
    limit = request.get("limit", MAX_EVENTS)
    if not 1 <= limit <= MAX_EVENTS:
        raise invalid(f"limit must be between 1 and {MAX_EVENTS}.")
    first, last = _page(request, len(lines), limit)
    at = int(written_at * 1000)
    return {
        "events": [{"timestamp": at, "message": line, "ingestionTime": at} for line in lines[first:last]],
        "nextForwardToken": f"f/{last}",
        "nextBackwardToken": f"b/{first}",
    }


def _page(request: Mapping[str, Any], count: int, limit: int) -> tuple[int, int]:
    token = request.get("nextToken")
    if token is None:
        first = 0 if request.get("startFromHead") else max(count - limit, 0)
        return first, min(first + limit, count)
    direction, _, number = token.partition("/")
    if direction not in ("f", "b") or not number.isdecimal():
        raise invalid("The specified nextToken is invalid.")
    at = min(int(number), count)
    return (at, min(at + limit, count)) if direction == "f" else (max(at - limit, 0), at)

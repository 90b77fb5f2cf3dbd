"""Where task definitions send the output of our container. Remembered, because a launch must not wait for it twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from reconciler.core import logs
from reconciler.core.errors import EcsThrottled, EcsUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.ecs.gateway import Gateway
    from reconciler.seams import Clock

__all__ = ["LogGroups"]

REMEMBER: Final = 300.0
"""Seconds for which an answer holds: a family may get a new revision."""
KEEP: Final = 1000
"""So many task definitions at most: DAG authors name them."""


class LogGroups:
    """By task definition and container. None where it is not known: the launch goes on, and its logs are not shown."""

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self._gateway, self._clock = gateway, clock
        self._known: dict[tuple[str, str], tuple[float, Mapping[str, str] | None]] = {}

    def __call__(self, task_definition: str, container_name: str) -> Mapping[str, str] | None:
        now, key = self._clock.monotonic(), (task_definition, container_name)
        until, found = self._known.get(key, (now, None))
        if until > now:
            return found
        try:
            definition = self._gateway.describe_task_definition(task_definition)
            found = logs.awslogs(definition, container_name) if definition else None
        except (EcsThrottled, EcsUnavailable):
            found = None
        if len(self._known) >= KEEP:
            self._known.clear()
        self._known[key] = (now + REMEMBER, found)
        return found

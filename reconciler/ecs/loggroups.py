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
    """By task definition. None where it is not known: the launch goes on, and its logs are not shown."""

    def __init__(self, gateway: Gateway, container_name: str, clock: Clock) -> None:
        self._gateway, self._container_name, self._clock = gateway, container_name, clock
        self._known: dict[str, tuple[float, Mapping[str, str] | None]] = {}

    def __call__(self, task_definition: str) -> Mapping[str, str] | None:
        now = self._clock.monotonic()
        until, found = self._known.get(task_definition, (now, None))
        if until > now:
            return found
        try:
            definition = self._gateway.describe_task_definition(task_definition)
            found = logs.awslogs(definition, self._container_name) if definition else None
        except (EcsThrottled, EcsUnavailable):
            found = None
        if len(self._known) >= KEEP:
            self._known.clear()
        self._known[task_definition] = (now + REMEMBER, found)
        return found

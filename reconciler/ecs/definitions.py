"""Task definitions as ECS shows them. Remembered, because a launch must not wait for one twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from reconciler.core.errors import EcsThrottled, EcsUnavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from reconciler.ecs.gateway import Gateway
    from reconciler.seams import Clock

__all__ = ["Definitions"]

REMEMBER: Final = 300.0
"""Seconds for which what was learned holds, and longer while ECS does not answer: a family may get a new revision."""
ASK_AGAIN: Final = 5.0
"""Seconds before what could not be learned is asked again: soon, because a launch in between says nothing of logs."""
KEEP: Final = 1000
"""So many task definitions at most: DAG authors name them."""


class Definitions:
    """By name. None where it is not known: the launch goes on, and says nothing of logs."""

    def __init__(self, gateway: Gateway, clock: Clock) -> None:
        self._gateway, self._clock = gateway, clock
        self._known: dict[str, tuple[float, Mapping[str, Any] | None]] = {}
        self._silent_until = float("-inf")

    def __call__(self, name: str) -> Mapping[str, Any] | None:
        now = self._clock.monotonic()
        until, found = self._known.get(name, (now, None))
        # An ECS that hangs holds up one launch, and not one for each name.
        if now < max(until, self._silent_until):
            return found
        try:
            found = self._gateway.describe_task_definition(name)
        except (EcsThrottled, EcsUnavailable):
            self._silent_until = self._clock.monotonic() + ASK_AGAIN
            return found  # what it was before is the best guess
        if len(self._known) >= KEEP:
            self._known.clear()
        self._known[name] = (now + (REMEMBER if found else ASK_AGAIN), found)
        return found

"""Which tasks to look at next, and when: the longest unseen first, in equal parts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["ROUND_WITH_EVENTS", "Pace", "Staleness", "polling", "with_events"]

BATCH: Final = 100
"""How many tasks one DescribeTasks shows."""
CALM_CALLS: Final = 6
CALM_RATE: Final = 2.97
CALM_WITHIN: Final = 2.0
"""Up to so many calls are made at so many per second, and all of them within so many seconds."""
BUSY_WITHIN: Final = 1.3
"""Seconds in which all are made where there are more of them, which exceed that rate anyway, or while tasks are being
launched: a scheduler that queues hears of an end later than one that idles."""
GREATEST_RATE: Final = 12.0
"""Calls per second at most, of the 20 that an account has for reading: listings, other looks and others need some."""
STEPS: Final = 5
"""A round is made in so many steps at most."""
ROUND_WITH_EVENTS: Final = 60.0
STEP_WITH_EVENTS: Final = 6.0
"""Seconds of a round, and of its steps, while events tell what happens. Small and frequent steps notice the sooner that
they do not."""


@dataclass(frozen=True, slots=True)
class Pace:
    """Look at so many tasks `every` so many seconds."""

    every: float
    tasks: int


def polling(live: int, interval: float, *, busy: bool = False, at_once: bool = False) -> Pace:
    """The pace without events: each of `live` tasks every `interval` seconds, or less often if that takes more calls
    than are allowed.

    `busy`: tasks are being launched. `at_once`: the whole round in one step.
    """
    calls = max(1, math.ceil(live / BATCH))
    calm = calls <= CALM_CALLS and not busy
    seen_within = min(calls / CALM_RATE, CALM_WITHIN if calm else BUSY_WITHIN)
    seconds = max(interval, seen_within, calls / GREATEST_RATE)
    # Whole calls: a step of 102 tasks would take two for what costs one.
    calls_at_once = calls if at_once else math.ceil(calls / STEPS)
    return Pace(seconds * calls_at_once / calls, calls_at_once * BATCH)


def with_events(live: int) -> Pace:
    """The pace while events are fresh."""
    return Pace(STEP_WITH_EVENTS, math.ceil(live * STEP_WITH_EVENTS / ROUND_WITH_EVENTS))


class Staleness:
    """When each task was last looked at, in monotonic seconds. A new one counts as seen when it is first heard of."""

    def __init__(self) -> None:
        self._seen: dict[str, float] = {}

    def clear(self) -> None:
        self._seen.clear()

    def stalest(self, arns: Iterable[str], count: int, now: float) -> list[str]:
        """The `count` of them that have not been looked at for longest. Whoever is not among `arns` is forgotten."""
        self._seen = {arn: self._seen.get(arn, now) for arn in arns}
        return sorted(self._seen, key=self._seen.__getitem__)[:count]

    def looked(self, arns: Iterable[str], now: float) -> None:
        """They have been asked for."""
        self._seen.update(dict.fromkeys(arns, now))

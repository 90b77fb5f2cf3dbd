"""What an operator holds back: nothing new is launched, what runs goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

__all__ = ["Hold", "Holds", "Mode"]


class Mode(StrEnum):
    """Why it is held. Nothing is launched either way."""

    PAUSED = "paused"
    """For a while: what waits goes on waiting, as long as Airflow's time-out for queued tasks allows."""
    DRAINING = "draining"
    """Until nothing is left: what waits is given back to Airflow at once if all queues are drained."""


@dataclass(frozen=True, slots=True)
class Hold:
    """One queue, or all of them if its name is empty, held by somebody since some time."""

    queue: str
    mode: Mode
    held_by: str
    since: datetime

    def __str__(self) -> str:
        what = f'the queue "{self.queue}" is' if self.queue else "all queues are"
        return f"{what} {self.mode} by {self.held_by} since {self.since.isoformat(sep=' ', timespec='seconds')}"


@dataclass(frozen=True, slots=True)
class Holds:
    """All holds of a deployment, by queue."""

    by_queue: Mapping[str, Hold] = field(default_factory=dict)

    @property
    def everything(self) -> Hold | None:
        """The hold of all queues."""
        return self.by_queue.get("")

    def of(self, queue: str) -> Hold | None:
        """Why nothing of this queue is launched, or None."""
        return self.everything or self.by_queue.get(queue)

    def all(self) -> list[Hold]:
        """That of all queues first."""
        return [self.by_queue[queue] for queue in sorted(self.by_queue)]

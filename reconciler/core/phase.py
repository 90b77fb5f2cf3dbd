"""The phases of a workload and the only edges between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["EDGES", "IN_FLIGHT", "LIVE", "TERMINAL", "Desired", "Phase", "check_edge"]


class Desired(StrEnum):
    """What Airflow wants. Written by the shim, and only once: from RUN to STOP."""

    RUN = "RUN"
    STOP = "STOP"


class Phase(StrEnum):
    """Where a workload stands, in one word."""

    PENDING = "PENDING"
    """Wanted, and provably without a container. Waits as long as it must: waiting never fails a workload."""
    LAUNCHING = "LAUNCHING"
    """The intent to call RunTask is committed. Whether the call was made, or did anything, may be unknown."""
    STARTED = "STARTED"
    """ECS gave a task ARN. The container does not run yet, or is not known to."""
    RUNNING = "RUNNING"
    """ECS shows the task RUNNING, or showed that it was."""
    STOPPING = "STOPPING"
    """StopTask is wanted or sent. ECS has not said STOPPED yet."""
    EXITED = "EXITED"
    """ECS says STOPPED and the container may have run."""
    FAILED_START = "FAILED_START"
    """No container of this workload ever ran, and none will."""
    CANCELLED = "CANCELLED"
    """Not wanted any more, and provably without a container."""
    LOST = "LOST"
    """What became of the container can not be known. Never launched again by us."""


TERMINAL: Final = frozenset({Phase.EXITED, Phase.FAILED_START, Phase.CANCELLED, Phase.LOST})
LIVE: Final = frozenset({Phase.STARTED, Phase.RUNNING, Phase.STOPPING})
"""Phases that own an ECS task whose ARN is known."""
IN_FLIGHT: Final = LIVE | {Phase.LAUNCHING}
"""Phases that count against the quota."""

EDGES: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.PENDING: frozenset({Phase.LAUNCHING, Phase.CANCELLED, Phase.FAILED_START}),
    Phase.LAUNCHING: frozenset({Phase.STARTED, Phase.PENDING, Phase.FAILED_START, Phase.CANCELLED, Phase.LOST}),
    Phase.STARTED: frozenset(
        {Phase.RUNNING, Phase.STOPPING, Phase.PENDING, Phase.FAILED_START, Phase.EXITED, Phase.LOST}
    ),
    Phase.RUNNING: frozenset({Phase.STOPPING, Phase.EXITED, Phase.LOST}),
    Phase.STOPPING: frozenset({Phase.EXITED, Phase.LOST}),
    # The one way out of a terminal phase: Airflow never admitted the container, so no user code ran.
    Phase.EXITED: frozenset({Phase.PENDING}),
    Phase.FAILED_START: frozenset(),
    Phase.CANCELLED: frozenset(),
    Phase.LOST: frozenset(),
}


def check_edge(old: Phase, new: Phase) -> None:
    """Raise ValueError unless a workload may go from `old` to `new`. Staying is always allowed."""
    if new is not old and new not in EDGES[old]:
        raise ValueError(f"a workload can not go from {old} to {new}")

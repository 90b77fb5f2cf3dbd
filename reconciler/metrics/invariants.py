"""What must hold of every write, checked in production on what a pass has read anyway.

Simulation and tests check far more; these are the checks that cost nothing, and that would tell of a fault in the code,
in the database or in ECS's promises before anybody misses a task. A violation is counted and logged, never acted upon.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reconciler.core.phase import Desired, Phase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.core.task import Workload

__all__ = ["Invariants"]


class Invariants:
    """Remembers which launch each live task was recorded for, and looks at each change that was committed."""

    def __init__(self) -> None:
        self._launch_of: dict[str, tuple[str, int]] = {}

    def broken(self, old: Workload, new: Workload) -> Iterator[str]:
        """The names of the invariants that this change breaks."""
        intent = old.phase is Phase.PENDING and new.phase is Phase.LAUNCHING
        if new.version != old.version + 1:
            yield "version_by_one"
        if new.attempt != old.attempt + intent:
            yield "attempt_by_intent_only"
        if intent and old.desired is Desired.STOP:
            yield "no_launch_of_the_unwanted"
        # A refused start ran our supervisor and no user code; every other container that ran may have run some.
        ran = old.exit_code is not None or old.started_at is not None
        if new.phase is Phase.PENDING and ran and not old.refused:
            yield "no_relaunch_after_user_code"
        if old.task_arn and not intent and new.in_flight and new.task_arn != old.task_arn:
            yield "one_task_per_launch"
        yield from self._shared(new)

    def _shared(self, new: Workload) -> Iterator[str]:
        """Whether a task is recorded for two launches at once."""
        if not new.task_arn:
            return
        launch = (new.exec_id, new.attempt)
        if self._launch_of.get(new.task_arn, launch) != launch:
            yield "one_launch_per_task"
        elif new.in_flight:
            self._launch_of[new.task_arn] = launch
        else:
            self._launch_of.pop(new.task_arn, None)

    def forget(self) -> None:
        """Another replica leads: what is recorded meanwhile is not seen here."""
        self._launch_of.clear()

"""Controllers of one shape: read table and ECS, compare, let `core` decide, write, act. Safe to repeat at any time.

| controller | moves |
| --- | --- |
| launch  | PENDING to LAUNCHING to STARTED: intent before effect |
| adopt   | tasks without a workload back to it, or out of the world |
| retry   | starts that provably did not happen back to PENDING, or to FAILED_START |
| cleanup | what is not wanted any more to its end; rows that nobody needs out of the table |
| sweep   | what ECS shows of the tasks that are known into the table |
| listen  | what ECS's events tell into the table, where there is a queue of them |

A controller holds nothing that a restart may not lose.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from reconciler.core.errors import EcsThrottled, EcsUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.seams import Lease

__all__ = ["Controller", "Failures", "Result"]


@dataclass(frozen=True, slots=True)
class Result:
    """What a pass did. Waiting is a duration; failure is an exception."""

    requeue_after: float
    """Seconds until the next look."""
    changed: int = 0
    """Rows written and tasks stopped. Zero for a pass that found everything as it should be."""


class Controller(Protocol):
    """One loop with one responsibility."""

    name: str

    def reconcile(self, lease: Lease) -> Result:
        """One pass. Raises what the seams raise; the manager backs off and counts."""


class Failures:
    """Keeps what ECS refuses for one cluster or task from keeping the others from their turn."""

    def __init__(self) -> None:
        self._errors: list[EcsThrottled | EcsUnavailable] = []

    @contextmanager
    def contained(self) -> Iterator[None]:
        """Remember an error of ECS and go on."""
        try:
            yield
        except (EcsThrottled, EcsUnavailable) as error:
            self.add(error)

    def add(self, error: EcsThrottled | EcsUnavailable) -> None:
        """Remember an error that was found otherwise."""
        self._errors.append(error)

    def throw(self) -> None:
        """At the end of the pass: raise the first of them, so that the manager backs off and counts."""
        if self._errors:
            raise self._errors[0]

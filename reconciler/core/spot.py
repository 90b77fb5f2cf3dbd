"""On-Demand capacity in place of Spot, for a while, when Spot has none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from reconciler.core.runtask import Profile
    from reconciler.core.task import Workload

__all__ = ["Fallback", "Fallbacks", "on_demand"]

TRY_SPOT_AGAIN: Final = 600.0
"""Seconds until Spot is tried again. Each trial may fail some launches, but costs no task any of its attempts."""


@dataclass(slots=True)
class Fallback:
    """Counts one profile's failures for want of capacity. Times are monotonic seconds, given by the caller."""

    after: int
    """So many failures, with no container that began between them, mean that Spot has no capacity. 0: never."""
    _failures: int = 0
    _until: float = float("-inf")

    def active(self, now: float) -> bool:
        """Whether launches are to leave Spot out."""
        return now < self._until

    def failed(self, now: float) -> None:
        """A launch found no capacity, or lost it before its container began."""
        if self.after == 0 or self.active(now):
            return
        self._failures += 1
        if self._failures >= self.after:
            self._failures, self._until = 0, now + TRY_SPOT_AGAIN

    def began(self) -> None:
        """A container began to run."""
        self._failures = 0


class Fallbacks:
    """Those of all profiles. Kept in memory only: who forgets them meets a few more failures, and nothing else."""

    def __init__(self) -> None:
        self._by_profile: dict[str, Fallback] = {}

    def chosen(self, profile: Profile, now: float) -> Profile:
        """The profile as it is to be used now."""
        return on_demand(profile) if self._of(profile.name, profile.spot_fallback_after).active(now) else profile

    def no_capacity(self, w: Workload, now: float) -> None:
        """RunTask found no capacity."""
        self._of(w.profile).failed(now)

    def moved(self, old: Workload, new: Workload, now: float) -> None:
        """A workload's row was written."""
        if old.phase is Phase.STARTED and new.phase is Phase.RUNNING:
            self._of(new.profile).began()
        elif old.phase is not Phase.PENDING and new.phase is Phase.PENDING and old.interrupted:
            self._of(old.profile).failed(now)

    def _of(self, name: str, after: int | None = None) -> Fallback:
        found = self._by_profile.setdefault(name, Fallback(after or 0))
        found.after = found.after if after is None else after
        return found


def on_demand(profile: Profile) -> Profile:
    """The profile without the first item of its capacity provider strategy, which is the Spot one.

    What is left takes all of the launches, so a weight of 0, which means "never alone", becomes 1.
    """
    rest = [
        {**item, "weight": max(1, int(item.get("weight", 0)))}
        for item in profile.run_task.get("capacityProviderStrategy", ())[1:]
    ]
    return replace(profile, run_task={**profile.run_task, "capacityProviderStrategy": rest}) if rest else profile

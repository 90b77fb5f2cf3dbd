"""How many tasks of which queues may run at once, for those who have the configuration's numbers and no profiles."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from reconciler.core.profiles import DEFAULT

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NO_SHARES", "Shares"]


@dataclass(frozen=True, slots=True)
class Shares:
    """What launches keep to within `max_running_tasks`. They count by profile, and so does this."""

    of: Mapping[str, int | None] = field(default_factory=dict)
    """Of the queues that have a profile of their own; what "default" has is for all others. None: no limit of its own.
    """

    def room(self, queue: str, running: Mapping[str, int], limit: int) -> int:
        """How many more tasks of a queue may run, with so many running of each queue and `limit` in all."""
        profile = self._profile(queue)
        share = self.of.get(profile)
        free = limit - sum(running.values())
        return max(0, free if share is None else min(free, share - self._by_profile(running)[profile]))

    def beyond(self, waiting: Mapping[str, int], running: Mapping[str, int]) -> int:
        """How many of those that wait have no slot in their profile's share, however many are free in all."""
        used = self._by_profile(running)
        found = 0
        for profile, wanted in self._by_profile(waiting).items():
            share = self.of.get(profile)
            found += 0 if share is None else max(0, wanted - max(0, share - used[profile]))
        return found

    def _profile(self, queue: str) -> str:
        return queue if queue in self.of else DEFAULT

    def _by_profile(self, counts: Mapping[str, int]) -> Counter[str]:
        found: Counter[str] = Counter()
        for queue, count in counts.items():
            found[self._profile(queue)] += count
        return found


NO_SHARES: Final = Shares()
"""No queue has a limit of its own."""

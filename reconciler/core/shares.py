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
    """What launches keep to within `max_running_tasks`. They count by profile and by shard, and so does this."""

    of: Mapping[str, int | None] = field(default_factory=dict)
    """Of the queues that have a profile of their own; what "default" has is for all others. None: no limit of its own.
    """
    away: tuple[str, ...] = ()
    """Those whose tasks run apart from the default profile's, in another account or region."""
    home: int | None = None
    """What is left for all others together. None: all, because nothing is set aside."""

    def most(self, queue: str, limit: int) -> int:
        """How many tasks of a queue may run, of `limit` in all, while no other queue has any."""
        return self.room(queue, {}, limit)

    def room(self, queue: str, running: Mapping[str, int], limit: int) -> int:
        """How many more tasks of a queue may run, with so many running of each queue and `limit` in all."""
        profile, used = self._profile(queue), self._by_profile(running)
        free = limit - used.total()
        if self.home is not None and profile not in self.away:
            free = min(free, self.home - self._at_home(used))
        share = self.of.get(profile)
        return max(0, free if share is None else min(free, share - used[profile]))

    def beyond(self, waiting: Mapping[str, int], running: Mapping[str, int]) -> tuple[int, int]:
        """How many of those that wait can not start, however many slots are free in all.

        First those beyond their profile's share, then those of the others that are beyond what is left at home.
        """
        used, wanted = self._by_profile(running), self._by_profile(waiting)
        within: Counter[str] = Counter()
        for profile, count in wanted.items():
            share = self.of.get(profile)
            within[profile] = count if share is None else min(count, max(0, share - used[profile]))
        beyond_home = 0
        if self.home is not None:
            beyond_home = max(0, self._at_home(within) - max(0, self.home - self._at_home(used)))
        return wanted.total() - within.total(), beyond_home

    def _at_home(self, by_profile: Mapping[str, int]) -> int:
        return sum(count for profile, count in by_profile.items() if profile not in self.away)

    def _profile(self, queue: str) -> str:
        return queue if queue in self.of else DEFAULT

    def _by_profile(self, counts: Mapping[str, int]) -> Counter[str]:
        found: Counter[str] = Counter()
        for queue, count in counts.items():
            found[self._profile(queue)] += count
        return found


NO_SHARES: Final = Shares()
"""Every queue may have all slots."""

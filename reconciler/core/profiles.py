"""Which profile a workload is launched with: Airflow's queue says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from reconciler.core.runtask import Profile, RequestRefusedError
from reconciler.core.task import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

    from reconciler.core.task import Workload

__all__ = ["DEFAULT", "Profiles"]

DEFAULT: Final = "default"
"""The name of the profile that section `[aws_ecs_executor]` alone makes."""


@dataclass(frozen=True, slots=True)
class Profiles:
    """The profiles of a deployment. Each but the default one bears the name of the queue that uses it."""

    default: Profile
    named: Mapping[str, Profile] = field(default_factory=dict)
    default_queue: str = DEFAULT
    """Airflow's `[operators] default_queue`, in which tasks are that name none."""
    unknown_fails: bool = False
    """Whether a queue without a profile fails its tasks, or uses the default profile."""

    def of_queue(self, queue: str) -> Profile:
        """The profile of a queue. One that may not be used has the default's, until `of` refuses the workload."""
        return self.named.get(queue, self.default)

    def of(self, w: Workload) -> Profile:
        """The profile for the next launch of a workload. Raises RequestRefusedError."""
        if self.unknown_fails and w.kind is Kind.TASK and w.queue not in {*self.named, self.default_queue, DEFAULT}:
            raise RequestRefusedError(
                f'no profile is configured for the queue "{w.queue}": add it to [ecs_reconciler] queues, set '
                f"[ecs_reconciler] unknown_queue = default, or use one of {', '.join(self.queues())}"
            )
        return self.of_queue(w.queue)

    def queues(self) -> list[str]:
        """The queues that have a profile."""
        return sorted({*self.named, self.default_queue})

    def all(self) -> list[Profile]:
        """The default one first, then by name."""
        return [self.default, *(self.named[name] for name in sorted(self.named))]

    def of_shard(self, shard: str) -> list[Profile]:
        """Those that launch in an account and region."""
        return [profile for profile in self.all() if profile.shard == shard]

    def events_queue(self, shard: str) -> str | None:
        """The URL of the queue of events of an account and region, if one of its profiles names it."""
        return next((profile.events_queue_url for profile in self.of_shard(shard) if profile.events_queue_url), None)

    def limits(self, max_running_tasks: int) -> dict[str, int]:
        """How many tasks each shard may run at once: together no more than `max_running_tasks`.

        The others have what their queues may have, and the default profile's has the rest. So each can keep to its own
        limit without asking the others.
        """
        home = self.default.shard
        limits: dict[str, int] = {}
        for profile in self.all():
            if profile.shard != home:
                limits[profile.shard] = limits.get(profile.shard, 0) + (profile.max_running_tasks or 0)
        return {home: max_running_tasks - sum(limits.values()), **limits}

    def start_timeout(self, w: Workload) -> timedelta:
        """That of the profile which a workload was launched with; the default's if it is not configured any more."""
        return self.named.get(w.profile, self.default).start_timeout

"""Everything the outside world can do to the daemon passes through these protocols.

Whoever implements them owns the daemon's universe: PostgreSQL, boto3 and the machine's clock in production, the
simulator in tests. A transaction never outlives one method, so no lock is ever held across a call to AWS.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from reconciler.core.phase import IN_FLIGHT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta

    from reconciler.core.answer import Answer
    from reconciler.core.holds import Holds
    from reconciler.core.identity import Launched
    from reconciler.core.phase import Phase
    from reconciler.core.task import EcsTask, Snapshot, Workload

__all__ = ["Calls", "Change", "Clock", "Counts", "Delivery", "Description", "Ecs", "Event", "Events", "Lease", "Store"]
__all__ += ["replica_lease", "shard_lease"]

Change = tuple["Workload", "Workload"]
"""(as read, as wanted): one compare-and-swap."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to act for one shard. `epoch` rises with each new holder, and every write names it."""

    name: str
    holder: str
    epoch: int


def shard_lease(deployment: str, shard: str) -> str:
    """The name of a shard's lease. Whoever holds it acts there."""
    return f"{deployment}/{shard}"


def replica_lease(deployment: str, holder: str) -> str:
    """The name under which a replica tells the others that it lives. No deployment's name begins like this."""
    return f"@{deployment}/{holder}"


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows by phase, by queue and phase, and how long the oldest PENDING one has waited, in seconds."""

    by_phase: Mapping[Phase, int]
    oldest_pending: float
    by_queue: Mapping[str, Mapping[Phase, int]]
    """For each queue that has any: Airflow's, not the profile's."""
    by_profile: Mapping[str, int]
    """How many workloads count against the quota, by the profile that they were launched with."""
    by_shard: Mapping[str, int]
    """The same by account and region."""
    holds: Holds
    """What an operator holds back."""
    cpu_by_profile: Mapping[str, int] = field(default_factory=dict)
    """CPU units on Fargate of what counts against the quota."""
    cpu_by_shard: Mapping[str, int] = field(default_factory=dict)

    @property
    def in_flight(self) -> int:
        """Workloads that count against the quota."""
        return sum(count for phase, count in self.by_phase.items() if phase in IN_FLIGHT)


@dataclass(frozen=True, slots=True)
class Description:
    """DescribeTasks' answer: the tasks it shows, and the ARNs it calls MISSING.

    `unreadable` are those shown in a form that is not ECS's: nothing is known of such a task, least that it is gone.
    """

    tasks: tuple[EcsTask, ...] = ()
    missing: frozenset[str] = frozenset()
    unreadable: tuple[str, ...] = ()
    no_cluster: bool = False
    """ECS knows no such cluster, so that all that was asked for is MISSING. It was deleted, or it was looked for in
    another region or account."""


class Store(Protocol):
    """The table of desired state, as the daemon sees it. Raises StoreUnavailable; writes raise LeaseLost."""

    def hold(self, name: str, holder: str, ttl: timedelta) -> Lease | None:
        """Take or renew a lease for `ttl`. None: somebody else holds it."""

    def release(self, lease: Lease) -> None:
        """Let the next holder begin at once."""

    def leases(self) -> Collection[str]:
        """The names of the deployment's leases that are held: those of its shards, and those of its replicas."""

    def now(self) -> datetime:
        """The database's clock. No other clock is ever compared with a row's times."""

    def counts(self) -> Counts:
        """Of the whole deployment."""

    def counts_here(self) -> Counts:
        """Of what waits for a launch anywhere, and, if anything does, of what is in flight in this shard, and held."""

    def freed(self) -> int:
        """A number that rises when this process has taken a workload out of flight: a slot may be free again."""

    def launchable(self, limit: int, queues: Collection[str] | None = None) -> Snapshot:
        """PENDING workloads of these queues that are wanted and due, the most urgent first, with their spec.

        None: of all queues. One per task instance, and none whose task instance has another workload with a live
        container.
        """

    def in_phase(self, *phases: Phase) -> Snapshot:
        """All workloads of this shard in these phases, without their spec."""

    def launching(self, lease: Lease) -> Snapshot:
        """LAUNCHING workloads of this shard, with their spec: the same request may have to be sent again. None of them
        once another holds the lease."""

    def unwanted(self) -> Snapshot:
        """Workloads with desired STOP that are not terminal: of this shard, and all that wait for a launch."""

    def failed_starts(self) -> Snapshot:
        """STARTED workloads whose task stopped before it ran, and EXITED ones that Airflow refused."""

    def admitted(self, since: datetime, running_for: timedelta) -> bool:
        """Whether containers have reached Airflow's API server since then.

        One that ended since and was acknowledged, with exit code 0: its supervisor has told how its task ended. Or one
        whose intent is not older than `since` and that has been RUNNING for `running_for`.
        """

    def find(self, exec_ids: Collection[str]) -> Snapshot:
        """The workloads with these ids, as far as they exist."""

    def save(self, changes: Sequence[Change], lease: Lease) -> list[Workload]:
        """Write each change whose row still has the version that was read; return what was written.

        One transaction. An intent also opens a launch attempt, and what ends one closes it.
        """

    def prune(self, older_than: timedelta, limit: int, lease: Lease) -> int:
        """Delete acknowledged terminal workloads that ended before `older_than` ago. Returns how many."""


class Ecs(Protocol):
    """Amazon ECS in the words of the protocol. Except for `run`, raises EcsThrottled and EcsUnavailable."""

    def run(self, workload: Workload, command: Sequence[str]) -> Answer:
        """RunTask with this launch's token. Idempotent while the token lives. Never raises for what ECS answers."""

    def describe(self, cluster: str, arns: Sequence[str]) -> Description:
        """Look at tasks, any number of them."""

    def list_tasks(self, cluster: str, family: str, *, stopped: bool) -> Sequence[EcsTask]:
        """All tasks of a family that ECS shows as running, and if wanted the `stopped` ones, whoever started them."""

    def stop(self, cluster: str, arn: str, reason: str) -> None:
        """StopTask. A task that is already gone is a success, and so is one whose cluster is."""


@dataclass(frozen=True, slots=True)
class Event:
    """A message of the queue of events. It comes again, later, unless it is deleted."""

    receipt: str
    """What it is deleted by."""
    task: EcsTask | None = None
    """What it tells of a task. None: nothing, either because it is about something else or because it has a flaw."""
    at: datetime | None = None
    """When that was so, by AWS's clock."""
    flaw: str | None = None
    """Why it can not be read, if it can not."""


class Events(Protocol):
    """A queue into which ECS's state changes are put: late, twice, in any order, or not at all.

    Raises EventsUnavailable.
    """

    def receive(self) -> Sequence[Event]:
        """What waits, or what comes within a second. Other receivers do not see these messages for a while."""

    def delete(self, receipts: Sequence[str]) -> None:
        """Forget these messages, any number of them. Those that could not be deleted come again."""

    def backlog(self) -> int:
        """About how many messages wait, or have been received and not deleted."""


class Calls(Protocol):
    """RunTask calls under way, beside the loop that decides about them."""

    def submit(self, workload: Workload) -> None:
        """Begin a call."""

    def collect(self) -> list[tuple[Workload, Answer]]:
        """The calls that have ended since the last look, with their answers."""

    def under_way(self) -> set[Launched]:
        """The launches whose answer has not been collected yet."""

    def room(self) -> int:
        """How many more calls may begin now."""


class Delivery(Protocol):
    """How a workload reaches its container."""

    def command(self, workload: Workload) -> Sequence[str]:
        """The container's command: a pure function of the intent, so that a repeated request is the same request."""


class Clock(Protocol):
    """The machine's clock, for pacing only. Seconds."""

    def monotonic(self) -> float: ...

    def wait(self, seconds: float) -> None:
        """Wait this long, or less if the process is told to stop."""

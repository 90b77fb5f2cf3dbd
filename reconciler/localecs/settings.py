"""Everything about the model that can be chosen, with units, defaults and where each number comes from."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random  # noqa: TID251 - the type; the instance is an argument

_NORMAL_P99: Final = 2.3263
"""Of a normal distribution 99 in 100 lie below so many standard deviations."""


@dataclass(frozen=True)
class Rate:
    """A token bucket: `burst` tokens when full, `refill` tokens per second."""

    burst: float
    refill: float


# "Request throttling for the Amazon ECS API" (API reference, request-throttling.html): one bucket for all actions
# of a group, per account and Region. The three Fargate buckets: "AWS Fargate throttling quotas" (developer guide,
# throttling.html); they are drained in addition to the bucket of the group.
PUBLISHED_RATES: Mapping[str, Rate] = {
    "cluster-resource-modify": Rate(100, 40),
    "cluster-resource-read": Rate(100, 20),
    "cluster-modify": Rate(20, 1),
    "cluster-read": Rate(50, 20),
    "task-definition-modify": Rate(20, 1),
    "task-definition-read": Rate(50, 20),
    "tag-modify": Rate(20, 10),
    "tag-read": Rate(50, 20),
    "fargate-run-task": Rate(20, 20),
    "fargate-launches": Rate(100, 20),
    "fargate-spot-launches": Rate(100, 20),
}


@dataclass(frozen=True)
class Latencies:
    """How long a task stays in each state, in seconds. The default is for a laptop: RUNNING after 0.25 s.

    `notice` is the time between desiredStatus STOPPED and the moment a task leaves RUNNING; `stopping` counts from
    the exit of the last container. With `jitter` j each stay is multiplied by a number from 1-j to 1+j; a share of
    `stragglers` (0 to 1) of the tasks takes `straggler_factor` times as long to start.
    """

    provisioning: float = 0.1
    pending: float = 0.05
    activating: float = 0.1
    notice: float = 0.02
    deactivating: float = 0.02
    stopping: float = 0.02
    deprovisioning: float = 0.05
    jitter: float = 0.0
    stragglers: float = 0.0
    straggler_factor: float = 4.0

    def __post_init__(self) -> None:
        for name in ("jitter", "stragglers"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"latencies.{name} is {getattr(self, name)}; give a share between 0 and 1")


@dataclass(frozen=True)
class Spread:
    """Seconds that differ from call to call, as those of networks do: half of them are below `median`, 99 in 100 below
    `p99`, and there is no longest (a lognormal distribution)."""

    median: float
    p99: float

    def __post_init__(self) -> None:
        if not 0 < self.median <= self.p99:
            raise ValueError(f"a spread of {self.median} to {self.p99} s; give 0 < median <= p99")

    def draw(self, chance: Random) -> float:
        """One of them."""
        return self.median * math.exp(chance.normalvariate(0.0, 1.0) * math.log(self.p99 / self.median) / _NORMAL_P99)


@dataclass(frozen=True)
class Settings:
    """The account that the model pretends to be. Times are seconds.

    `visibility_lag`: DescribeTasks answers MISSING for a task younger than this. `list_lag`: ListTasks shows a new
    task, and a changed desiredStatus, this much later. `stopped_retention`: a stopped task is forgotten after this
    ("at least one hour", DescribeTasks). A client token lives the shorter of `token_ttl` and the time its last task
    stops plus `token_after_stop` (developer guide, "Ensuring idempotency").
    `max_running_tasks` and `max_vcpus` bound the tasks that are not STOPPED; None means no bound. What does not fit
    comes back in `failures`. `rates` without a group means that the group is never throttled.
    `list_page_size` makes ListTasks answer shorter pages than were asked for, as ECS may.
    `answer_latency` (operation to seconds, or to a `Spread` of them) is for the server only: it holds the answer back
    after the effect, outside of the model's lock and by a chance of its own.
    """

    region: str = "us-east-1"
    account_id: str = "123456789012"
    latencies: Latencies = field(default_factory=Latencies)
    visibility_lag: float = 0.0
    list_lag: float = 0.0
    stopped_retention: float = 3600.0
    token_ttl: float = 86400.0
    token_after_stop: float = 3600.0
    default_stop_timeout: float = 30.0
    max_running_tasks: int | None = None
    max_vcpus: float | None = None
    list_page_size: int = 100
    rates: Mapping[str, Rate] = field(default_factory=lambda: dict(PUBLISHED_RATES))
    answer_latency: Mapping[str, float | Spread] = field(default_factory=dict)

    @classmethod
    def unthrottled(cls) -> Self:
        """The fast profile without any rate limit, for tests that are not about limits."""
        return cls(rates={})

    @classmethod
    def realistic(cls) -> Self:
        """The pace of Fargate: 50 s to RUNNING (Airflow's ECS executor page), a second of MISSING, slow answers."""
        return cls(
            latencies=Latencies(
                provisioning=15.0,
                pending=5.0,
                activating=30.0,
                notice=1.0,
                deactivating=1.0,
                stopping=1.0,
                deprovisioning=10.0,
                jitter=0.3,
                stragglers=0.02,
            ),
            visibility_lag=1.0,
            list_lag=2.0,
            answer_latency={"RunTask": 0.15, "StopTask": 0.05, "DescribeTasks": 0.05, "ListTasks": 0.05},
        )

"""Every metric of the daemon: name, type, unit, labels, help, buckets, stability. Nothing else makes one.

The objects of prometheus-client (`board`), docs/metrics.md and the checks of dashboards and alerts are made from this
list. Vocabulary for controllers after controller-runtime:
https://book.kubebuilder.io/reference/metrics-reference - names after https://prometheus.io/docs/practices/naming/

No ids in labels: a DAG, a task or an ARN would make a time series each. They are in exemplars and in the log.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["CATALOGUE", "CONTROLLERS", "PREFIX", "SHIM", "Kind", "Metric", "Scope", "Stability"]

PREFIX: Final = "ecs_reconciler_"
CONTROLLERS: Final = ("launch", "sweep", "adopt", "retry", "cleanup", "report")


class Kind(StrEnum):
    """Prometheus's type."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Scope(StrEnum):
    """Who exports it. What a standby knows of the shared state is stale, so it says nothing of it."""

    PROCESS = "every replica"
    LEADER = "replicas that lead a shard"


class Stability(StrEnum):
    """Whether a release may change it. STABLE: only with a new major version."""

    STABLE = "stable"
    BETA = "beta"


Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """One metric. `labels` are its own; `deployment` is put in front of them everywhere."""

    name: str
    """Whole, with prefix, unit and `_total`."""
    kind: Kind
    help: str
    labels: Labels = ()
    unit: str = ""
    buckets: tuple[float, ...] = ()
    scope: Scope = Scope.LEADER
    stability: Stability = Stability.STABLE
    values: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """All values of a label, where they are few and known. If all labels but `shard` are here the series exist from the
    beginning: otherwise an alert could not see the first increase of a counter."""

    @property
    def all_labels(self) -> Labels:
        """With `deployment`, and what a histogram adds."""
        return ("deployment", *self.labels, *(("le",) if self.kind is Kind.HISTOGRAM else ()))

    @property
    def series(self) -> tuple[str, ...]:
        """The names that a scrape shows."""
        if self.kind is Kind.HISTOGRAM:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "count", "sum"))
        return (self.name,)


CATALOGUE: Final[list[Metric]] = []

_LAUNCH_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300, 600, 1800)
_LAG_BUCKETS: Final = (0.1, 0.25, 0.5, 1, 1.5, 2.5, 5, 10, 30, 60, 300, 1800)
_PASS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_API_BUCKETS: Final = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2, 5, 10, 20)
_DATABASE_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


def _add(
    kind: Kind,
    name: str,
    text: str,
    *labels: str,
    unit: str = "",
    buckets: tuple[float, ...] = (),
    scope: Scope = Scope.LEADER,
    stability: Stability = Stability.STABLE,
    values: Mapping[str, Sequence[str]] | None = None,
) -> Metric:
    made = Metric(PREFIX + name, kind, text, labels, unit, buckets, scope, stability, values or {})
    CATALOGUE.append(made)
    return made


# -- who acts ----------------------------------------------------------------------------------------------------------

BUILD_INFO: Final = _add(
    Kind.GAUGE, "build_info", "Always 1; the labels say what runs.", "version", "python_version", scope=Scope.PROCESS
)
LEADER: Final = _add(
    Kind.GAUGE,
    "leader",
    "1 on the replica that holds the shard's lease, otherwise 0. A shard is an AWS account and region.",
    "shard",
    scope=Scope.PROCESS,
)
LEADER_EPOCH: Final = _add(
    Kind.GAUGE,
    "leader_epoch",
    "Epoch of the lease that this replica held last; it rises with each new holder.",
    "shard",
    scope=Scope.PROCESS,
)
LEADER_TRANSITIONS: Final = _add(
    Kind.COUNTER, "leader_transitions_total", "Times this replica became leader.", "shard", scope=Scope.PROCESS
)

# -- controllers -------------------------------------------------------------------------------------------------------

RECONCILE: Final = _add(
    Kind.COUNTER,
    "reconcile_total",
    "Passes of a controller by result: success (something changed), requeue (nothing to do), error, lease_lost.",
    "shard",
    "controller",
    "result",
    values={"controller": CONTROLLERS, "result": ("success", "requeue", "error", "lease_lost")},
)
RECONCILE_SECONDS: Final = _add(
    Kind.HISTOGRAM,
    "reconcile_duration_seconds",
    "Wall time of one pass of a controller.",
    "shard",
    "controller",
    unit="seconds",
    buckets=_PASS_BUCKETS,
    values={"controller": CONTROLLERS},
)
LAST_SUCCESS: Final = _add(
    Kind.GAUGE,
    "reconcile_last_success_timestamp_seconds",
    "Unix time of the last pass without an error; before the first one, of the moment in which this replica began to "
    "lead.",
    "shard",
    "controller",
    unit="seconds",
)
BREAKER: Final = _add(
    Kind.GAUGE,
    "breaker_tripped",
    "1 while so much looks wrong at once that nothing is declared lost (missing) or stopped as an orphan (orphans).",
    "shard",
    "breaker",
)

# -- the table ---------------------------------------------------------------------------------------------------------

WORKLOADS: Final = _add(
    Kind.GAUGE,
    "workloads",
    "Workloads in the table by phase and Airflow queue; of the terminal phases those that no scheduler has "
    "acknowledged.",
    "shard",
    "queue",
    "phase",
)
OLDEST_PENDING: Final = _add(
    Kind.GAUGE,
    "oldest_pending_seconds",
    "How long the oldest PENDING workload of a queue has waited; 0 if none waits.",
    "shard",
    "queue",
    "profile",
    unit="seconds",
)
UNACKNOWLEDGED: Final = _add(
    Kind.GAUGE,
    "unacknowledged_outcomes",
    "Workloads that have ended and whose outcome no scheduler has acknowledged.",
    "shard",
)
OLDEST_UNACKNOWLEDGED: Final = _add(
    Kind.GAUGE,
    "oldest_unacknowledged_seconds",
    "How long the oldest of these outcomes has waited for its scheduler; 0 if none does.",
    "shard",
    unit="seconds",
)
UNREADABLE: Final = _add(
    Kind.COUNTER,
    "unreadable_workloads_total",
    "Rows that this release can not read and leaves alone, each counted once.",
    "shard",
    stability=Stability.BETA,
)

# -- the way to the quota ----------------------------------------------------------------------------------------------

QUOTA_DEPLOYMENT: Final = _add(
    Kind.GAUGE,
    "quota_deployment_limit",
    "How many ECS tasks may exist at once in the shard. Over all shards it is max_running_tasks.",
    "shard",
)
QUOTA_LIMIT: Final = _add(
    Kind.GAUGE, "quota_limit", "How many ECS tasks of a profile may exist at once: its share.", "shard", "profile"
)
QUOTA_USED: Final = _add(
    Kind.GAUGE,
    "quota_used",
    "ECS tasks that exist or may exist: workloads in LAUNCHING, STARTED, RUNNING and STOPPING.",
    "shard",
    "profile",
)
QUOTA_HEADROOM: Final = _add(
    Kind.GAUGE,
    "quota_headroom",
    "How many more may be launched now: what the profile's share and the deployment's total leave; 0 while "
    "max_running_vcpus leaves less than Fargate's smallest task needs, a quarter of a vCPU.",
    "shard",
    "profile",
)
QUOTA_VCPUS_LIMIT: Final = _add(
    Kind.GAUGE,
    "quota_vcpus_limit",
    "How many Fargate vCPUs the tasks of a profile may have at once; +Inf if max_running_vcpus is not set.",
    "shard",
    "profile",
    stability=Stability.BETA,
)
QUOTA_VCPUS_USED: Final = _add(
    Kind.GAUGE,
    "quota_vcpus_used",
    "Fargate vCPUs of the tasks that exist or may exist, by the size that their launch was frozen with.",
    "shard",
    "profile",
    stability=Stability.BETA,
)
EXCEEDED_BY: Final = ("unclaimed", "limit_lowered")
QUOTA_EXCEEDED: Final = _add(
    Kind.GAUGE,
    "quota_exceeded_tasks",
    "ECS tasks above the shard's limit, by what explains them: unclaimed (the last listing showed live tasks that no "
    "workload claims, such as those of LOST ones), limit_lowered (the workloads in the table alone).",
    "shard",
    "cause",
    stability=Stability.BETA,
    values={"cause": EXCEEDED_BY},
)
QUOTA_FULL_IN: Final = _add(
    Kind.GAUGE,
    "quota_full_in_seconds",
    "Seconds until the quota is full if it goes on filling as in the last minute; +Inf while it does not fill, 0 while "
    "there is no headroom.",
    "shard",
    "profile",
    unit="seconds",
    stability=Stability.BETA,
)
LAUNCH_RATE: Final = _add(
    Kind.GAUGE, "launches_per_second", "Tasks that ECS accepted per second, over the last minute.", "shard"
)
CALL_RATE: Final = _add(
    Kind.GAUGE,
    "call_rate_allowed",
    "Calls per second that a rate limit allows now. ECS's throttling lowers it for a while.",
    "shard",
    "bucket",
)
CALL_RATE_LIMIT: Final = _add(
    Kind.GAUGE, "call_rate_limit", "Calls per second that a rate limit allows at best.", "shard", "bucket"
)
TOKENS: Final = _add(
    Kind.GAUGE, "token_bucket_tokens", "Calls that a rate limit lets through at once.", "shard", "bucket"
)
CALLS_WAITING: Final = _add(
    Kind.GAUGE, "calls_waiting", "Calls that wait for their turn at a rate limit.", "shard", "bucket"
)

# -- launches ----------------------------------------------------------------------------------------------------------

LAUNCHES: Final = _add(
    Kind.COUNTER,
    "launches_total",
    "RunTask calls by what they came to: accepted, existing (recognised by its token), not_started, throttled, "
    "blocked (account, credentials, cluster), invalid, unknown (no answer).",
    "shard",
    "queue",
    "result",
)
LAUNCH_SECONDS: Final = _add(
    Kind.HISTOGRAM,
    "launch_stage_seconds",
    "Time of each stage of a launch: queued_to_claimed (first attempt), claimed_to_accepted, accepted_to_running, and "
    "queued_to_running as a whole. Airflow's first heartbeat is not known to the daemon.",
    "shard",
    "queue",
    "stage",
    unit="seconds",
    buckets=_LAUNCH_BUCKETS,
)
LAUNCH_FAILURES: Final = _add(
    Kind.COUNTER,
    "launch_failures_total",
    "Launches that came to nothing, by normalised reason and what follows: again (waits and is launched again) or "
    "given_up.",
    "shard",
    "queue",
    "reason",
    "action",
)
ENDED: Final = _add(
    Kind.COUNTER,
    "workloads_ended_total",
    "Workloads that ended, by outcome: exited_zero, exited_nonzero, exited_unknown, stopped_by_us, spot_interrupted, "
    "out_of_memory, failed_start, cancelled, lost.",
    "shard",
    "queue",
    "outcome",
)
HELD: Final = _add(
    Kind.GAUGE,
    "launches_held",
    "1 while launches are held behind one probe, by cause: ecs (account, capacity, no answer), credentials (AWS "
    "refuses them), api_server (containers do not reach Airflow). The latter two hold `all` profiles.",
    "shard",
    "profile",
    "cause",
)
QUEUE_HELD: Final = _add(
    Kind.GAUGE,
    "queue_held",
    "1 while an operator holds a queue's launches, or those of `all`, with `ecs-reconciler pause` or `drain`.",
    "shard",
    "queue",
    "mode",
)
OBSERVATION_LAG: Final = _add(
    Kind.HISTOGRAM,
    "observation_lag_seconds",
    "From ECS's own time of a start or an end to its record in the table, however it was heard of.",
    "shard",
    "moment",
    unit="seconds",
    buckets=_LAG_BUCKETS,
    values={"moment": ("started", "stopped")},
)

# -- safety ------------------------------------------------------------------------------------------------------------

INVARIANTS: Final = (
    "one_task_per_launch",
    "one_launch_per_task",
    "no_launch_of_the_unwanted",
    "version_by_one",
    "attempt_by_intent_only",
    "no_relaunch_after_user_code",
    "epoch_rises",
)
VIOLATIONS: Final = _add(
    Kind.COUNTER,
    "invariant_violations_total",
    "Checks on every write and listing that must stay zero. See the runbook of EcsReconcilerInvariantViolated.",
    "shard",
    "invariant",
    values={"invariant": INVARIANTS},
)
GUARDS: Final = ("client_token", "conflict", "listing", "compare_and_swap", "lease")
PREVENTED: Final = _add(
    Kind.COUNTER,
    "double_launches_prevented_total",
    "Launches that could have become a second container, by what kept them from it: client_token (ECS returned the "
    "task of an earlier call), conflict (it named that task), listing (it was found by name), compare_and_swap (the "
    "row had moved on, or an older container lived), lease (another replica led).",
    "shard",
    "guard",
    values={"guard": GUARDS},
)
ORPHANS: Final = _add(
    Kind.GAUGE, "orphans", "Live ECS tasks of this deployment that no workload claims, at the last listing.", "shard"
)
ORPHANS_HANDLED: Final = _add(
    Kind.COUNTER,
    "orphans_handled_total",
    "ECS tasks given back to their workload (adopted) or stopped.",
    "shard",
    "action",
    values={"action": ("adopted", "stopped")},
)

# -- AWS ---------------------------------------------------------------------------------------------------------------

AWS_RESULTS: Final = ("ok", "throttled", "client_error", "server_error", "timeout", "network", "credentials")
AWS_CALLS: Final = _add(
    Kind.COUNTER,
    "aws_api_requests_total",
    "AWS API calls by result: ok, throttled, client_error, server_error, timeout, network, credentials.",
    "shard",
    "operation",
    "result",
    values={"result": AWS_RESULTS},
)
AWS_SECONDS: Final = _add(
    Kind.HISTOGRAM,
    "aws_api_request_duration_seconds",
    "Duration of one AWS API call, without the wait for its turn.",
    "shard",
    "operation",
    unit="seconds",
    buckets=_API_BUCKETS,
)
CREDENTIALS: Final = _add(
    Kind.GAUGE, "credentials_valid", "1 while AWS accepts the credentials, 0 after it refused them.", "shard"
)
CREDENTIALS_EXPIRY: Final = _add(
    Kind.GAUGE,
    "credentials_expiry_timestamp_seconds",
    "Unix time at which the credentials in use expire, where they do.",
    "shard",
    unit="seconds",
    stability=Stability.BETA,
)
EVENTS: Final = _add(
    Kind.COUNTER,
    "events_received_total",
    "State change events by what they came to: applied, stale, foreign, poison.",
    "shard",
    "source",
    "result",
)
EVENT_LAG: Final = _add(
    Kind.HISTOGRAM,
    "event_lag_seconds",
    "From an event's own time to its handling.",
    "shard",
    "source",
    unit="seconds",
    buckets=_LAG_BUCKETS,
)
EVENT_BACKLOG: Final = _add(
    Kind.GAUGE, "event_queue_messages", "Messages that wait in the queue of events.", "shard", "source"
)
EVENTS_FRESH: Final = _add(
    Kind.GAUGE,
    "events_fresh",
    "1 while events tell what happens and looks at tasks are rare, 0 while tasks are looked at every few seconds.",
    "shard",
    "source",
    stability=Stability.BETA,
)
SKEW: Final = _add(
    Kind.GAUGE,
    "clock_skew_seconds",
    "How far another clock (database, ecs) is ahead of this machine's. ECS's is known to the second only.",
    "against",
    unit="seconds",
)

# -- the database ------------------------------------------------------------------------------------------------------

STATEMENT_SECONDS: Final = _add(
    Kind.HISTOGRAM,
    "db_statement_duration_seconds",
    "Duration of one execution of a named statement.",
    "statement",
    unit="seconds",
    buckets=_DATABASE_BUCKETS,
)
TRANSACTION_SECONDS: Final = _add(
    Kind.HISTOGRAM,
    "db_transaction_duration_seconds",
    "From the begin of a transaction until its connection is free again, commit included.",
    unit="seconds",
    buckets=_DATABASE_BUCKETS,
)
DATABASE_ERROR_KINDS: Final = ("connection", "timeout", "serialization", "other")
DATABASE_ERRORS: Final = _add(
    Kind.COUNTER,
    "db_errors_total",
    "Errors of the database by kind and named statement; `connect` is no statement but the making of a connection.",
    "statement",
    "kind",
)
POOL: Final = _add(
    Kind.GAUGE, "db_pool_connections", "Database connections of this process: used, idle, limit.", "state"
)

SHIM: Final = (
    ("ecs_reconciler.heartbeat_duration", "timer", "Time of one heartbeat of the executor, which blocks scheduling."),
    ("ecs_reconciler.queue_duration", "timer", "Time to take in one workload, in the scheduler's critical section."),
    ("ecs_reconciler.executor_errors", "counter", "Errors that stopped at the executor, by tag `what`."),
)
"""What the executor in the scheduler reports through Airflow's own metrics (StatsD or OpenTelemetry)."""

PHASES: Final = tuple(phase.value for phase in Phase)

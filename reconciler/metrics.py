"""Every metric of the daemon: name, help and labels in one place. No ids in labels: those belong in the log.

Vocabulary for controllers after controller-runtime: https://book.kubebuilder.io/reference/metrics-reference
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

import reconciler
from reconciler.core.phase import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from reconciler.controllers.adopt import Adopt
    from reconciler.core.answer import Answer
    from reconciler.core.task import Workload
    from reconciler.ecs.ratelimit import Level
    from reconciler.seams import Counts

__all__ = ["Metrics", "ShardMetrics"]

PREFIX: Final = "ecs_reconciler"
CONTROLLERS: Final = ("launch", "adopt", "retry", "cleanup")
PASS_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
API_BUCKETS: Final = (0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 0.75, 1, 2, 5, 10, 20)


class Metrics:
    """The hooks of controllers and gateway. One registry, never the global one."""

    def __init__(self, max_running_tasks: int) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus-client left this one untyped
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)

        def counter(name: str, text: str, labels: Iterable[str] = ()) -> Counter:
            return Counter(name, text, list(labels), namespace=PREFIX, registry=registry)

        def gauge(name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, text, list(labels), namespace=PREFIX, registry=registry)

        def histogram(name: str, text: str, labels: Iterable[str], buckets: Iterable[float]) -> Histogram:
            return Histogram(name, text, list(labels), namespace=PREFIX, registry=registry, buckets=list(buckets))

        gauge("build_info", "Always 1. The version that runs is in the label.", ["version"]).labels(
            reconciler.__version__
        ).set(1)
        self._leader = gauge("leader", "1 on the replica that holds the shard's lease, otherwise 0.", ["shard"])
        self._transitions = counter("leader_transitions", "Times this replica became leader.")
        self._workloads = gauge("workloads", "Workloads in the table, by phase.", ["phase"])
        self._oldest = gauge("oldest_pending_seconds", "How long the oldest PENDING workload has waited.")
        self._limit = gauge("quota_limit", "How many ECS tasks may exist at once ([ecs_reconciler] max_running_tasks).")
        self._used = gauge("quota_used", "ECS tasks that exist or may exist: LAUNCHING, STARTED, RUNNING, STOPPING.")
        self._headroom = gauge("quota_headroom", "How many more may be launched now.")
        self._launches = counter(
            "launches",
            "RunTask calls by what they came to (accepted, existing, not_started, throttled, blocked, ...).",
            ["result"],
        )
        self._retries = counter("launch_retries", "Failed starts, by what was done (again, given_up).", ["action"])
        self._ended = counter(
            "workloads_ended",
            "Workloads that ended, by outcome (exited, spot_interrupted, failed_start, cancelled, lost).",
            ["outcome", "queue"],
        )
        self._orphans = gauge("orphans", "Live ECS tasks of this deployment that no workload claims.", ["shard"])
        self._handled = counter("orphans_handled", "Orphans dealt with (adopted, stopped).", ["action"])
        self._held = gauge("launches_held", "1 while launches are held behind one probe, by cause.", ["shard", "cause"])
        self._paused = gauge("queue_held", "1 while an operator holds a queue's launches.", ["queue", "mode"])
        self._tripped = gauge(
            "breaker_tripped", "1 while too much looks wrong at once to act on it.", ["shard", "breaker"]
        )
        self._tokens = gauge(
            "token_bucket_tokens", "Calls that a rate limit lets through at once.", ["shard", "bucket"]
        )
        self._allowed = gauge(
            "call_rate_allowed", "Calls per second that a rate limit allows now.", ["shard", "bucket"]
        )
        self._calls = counter("aws_api_requests", "AWS API calls by operation and result.", ["operation", "result"])
        self._call_time = histogram(
            "aws_api_request_duration_seconds", "Duration of one AWS API call.", ["operation"], API_BUCKETS
        )
        self._passes = counter("reconcile", "Reconcile passes by result.", ["controller", "result"])
        self._pass_time = histogram(
            "reconcile_duration_seconds", "Wall time of one reconcile pass.", ["controller"], PASS_BUCKETS
        )
        self._last_success = gauge(
            "reconcile_last_success_timestamp_seconds", "Unix time of the last pass without an error.", ["controller"]
        )
        self._unreadable = counter(
            "unreadable_workloads", "Rows that this release can not read and leaves alone, each counted once."
        )
        self._unread: set[str] = set()
        self._led: set[str] = set()
        self._limit.set(max_running_tasks)
        self._max_running_tasks = max_running_tasks
        # A counter that alerts must exist before it first counts, or the first increase can not be seen.
        for controller in CONTROLLERS:
            for result in ("success", "requeue", "error", "lease_lost"):
                self._passes.labels(controller, result)
        for action in ("adopted", "stopped"):
            self._handled.labels(action)
        for action in ("again", "given_up"):
            self._retries.labels(action)

    def passed(self, controller: str, result: str, seconds: float) -> None:
        self._passes.labels(controller, result).inc()
        self._pass_time.labels(controller).observe(seconds)
        if result in ("success", "requeue"):
            self._last_success.labels(controller).set(time.time())  # noqa: TID251 - a timestamp for Prometheus

    def shard(self, name: str) -> ShardMetrics:
        """The hooks of one shard, an AWS account and region."""
        self._leader.labels(name).set(0)
        return ShardMetrics(self, name)

    def leading(self, shard: str, epoch: int | None) -> None:
        self._leader.labels(shard).set(0 if epoch is None else 1)
        if epoch is not None:
            self._led.add(shard)
            self._transitions.inc()
            return
        self._led.discard(shard)
        # What a standby knows is stale: leave the shared gauges to the leader.
        for gauge in (self._held, self._tripped, self._tokens, self._allowed, self._orphans):
            gauge.remove_by_labels({"shard": shard})
        if not self._led:
            for gauge in (self._workloads, self._paused):
                gauge.clear()
            for gauge in (self._used, self._headroom, self._oldest):
                gauge.set(float("nan"))

    # Hooks of the controllers and the gateway.
    def answered(self, workload: Workload, answer: Answer) -> None:  # noqa: ARG002 - no ids in labels
        self._launches.labels(_snake(type(answer).__name__)).inc()

    def moved(self, old: Workload, new: Workload) -> None:
        if new.terminal and not old.terminal:
            self._ended.labels(new.outcome, new.queue).inc()

    def retried(self, action: str) -> None:
        self._retries.labels(action).inc()

    def unreadable(self, exec_id: str, why: str) -> None:  # noqa: ARG002 - the log has it
        if exec_id not in self._unread:
            self._unread.add(exec_id)
            self._unreadable.inc()

    def orphan(self, action: str) -> None:
        self._handled.labels(action).inc()

    def called(self, operation: str, result: str, seconds: float) -> None:
        self._calls.labels(operation, result).inc()
        self._call_time.labels(operation).observe(seconds)

    def counted(self, counts: Counts) -> None:
        """What a leader sees now. Called by its own loop, so that a scrape never waits on the database."""
        for phase in Phase:
            self._workloads.labels(phase.value).set(counts.by_phase.get(phase, 0))
        self._oldest.set(counts.oldest_pending)
        self._used.set(counts.in_flight)
        self._headroom.set(max(0, self._max_running_tasks - counts.in_flight))
        self._paused.clear()
        for hold in counts.holds.all():
            self._paused.labels(hold.queue or "all", str(hold.mode)).set(1)

    def seen(self, shard: str, held: Mapping[str, bool], adopt: Adopt, levels: Mapping[str, Level]) -> None:
        """What a leader sees of one shard."""
        self._orphans.labels(shard).set(len(adopt.orphans))
        for cause, closed in held.items():
            self._held.labels(shard, cause).set(closed)
        for bucket, level in levels.items():
            self._tokens.labels(shard, bucket).set(level.tokens)
            self._allowed.labels(shard, bucket).set(level.allowed)
        self._tripped.labels(shard, "missing").set(adopt.missing_breaker.tripped)
        self._tripped.labels(shard, "orphans").set(adopt.orphan_breaker.tripped)


class ShardMetrics:
    """The hooks of one shard. Implements `manager.Observer`."""

    def __init__(self, metrics: Metrics, shard: str) -> None:
        self._metrics, self._shard = metrics, shard
        self.passed, self.answered, self.retried = metrics.passed, metrics.answered, metrics.retried
        self.orphan, self.called, self.moved = metrics.orphan, metrics.called, metrics.moved

    def leading(self, epoch: int | None) -> None:
        self._metrics.leading(self._shard, epoch)

    def seen(self, held: Mapping[str, bool], adopt: Adopt, levels: Mapping[str, Level]) -> None:
        self._metrics.seen(self._shard, held, adopt, levels)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

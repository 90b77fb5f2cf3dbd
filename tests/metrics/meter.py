"""A meter to hold against what happens: the metrics of one process and shard, and workloads to tell it of."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.core.phase import Phase
from reconciler.core.profiles import Profiles
from reconciler.core.runtask import Profile
from reconciler.core.task import Workload
from reconciler.metrics import Metrics
from reconciler.metrics.shard import Shard

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARD = "eu-central-1"
SMALL = Profile("c", "airflow", {}, name="small", region=SHARD, max_running_tasks=3)
PROFILES = Profiles(Profile("c", "airflow", {}, region=SHARD), {"small": SMALL})


class Meter:
    """Metrics of one process, one shard, and two clocks, wall and monotonic, that stand where they are put."""

    def __init__(self, *, leads: bool = True) -> None:
        self.metrics = Metrics("prod")
        self.wall, self.seconds = NOW, 0.0
        self.shard = Shard(
            self.metrics._board, SHARD, self.metrics._lead_changed, lambda: self.wall, lambda: self.seconds
        )
        self.metrics._shards[SHARD] = self.shard
        self.shard.quota(10, PROFILES)
        if leads:
            self.shard.leading(1)

    def families(self) -> dict[str, Any]:
        shown = generate_latest(self.metrics.registry).decode()
        return {family.name: family for family in text_string_to_metric_families(shown)}

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples with these labels; None if there are none."""
        found = [
            sample.value
            for family in self.families().values()
            for sample in family.samples
            if sample.name == f"ecs_reconciler_{name}" and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


def workload(**changes: Any) -> Workload:
    return replace(Workload(exec_id="a", deployment="prod", queue="gpu", created_at=NOW), **changes)


def launching(**changes: Any) -> Workload:
    facts = {"phase": Phase.LAUNCHING, "version": 2, "attempt": 1, "intent_at": NOW + timedelta(seconds=3)}
    return workload(**{**facts, **changes})


def started(**changes: Any) -> Workload:
    at = NOW + timedelta(seconds=4)
    w = launching(exec_id=changes.get("exec_id", "a")).moved(Phase.STARTED, at, task_arn="arn:1")
    return replace(w, **changes)

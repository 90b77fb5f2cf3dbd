"""Who may say something of the shared state."""

from __future__ import annotations

from reconciler.core.phase import Phase
from reconciler.metrics.catalogue import CATALOGUE, Scope
from reconciler.store.census import Census, Group
from tests.metrics.meter import NOW, PROFILES, SHARD, Meter


def test_a_standby_exports_its_process_and_who_leads() -> None:
    meter = Meter(leads=False)
    meter.shard.called("DescribeClusters", "ok", 0.1)
    ours = {name for name in meter.families() if name.startswith("ecs_reconciler")}
    process = {metric.name.removesuffix("_total") for metric in CATALOGUE if metric.scope is Scope.PROCESS}
    assert ours == process
    assert meter.value("leader") == 0


def test_what_a_former_leader_knows_is_gone_and_counters_go_on_when_it_leads_again() -> None:
    meter = Meter()
    meter.shard.count(lambda: Census(NOW, (Group("gpu", "default", Phase.PENDING, 3, NOW),)))
    meter.shard.called("RunTask", "ok", 0.1)
    assert meter.value("workloads", phase="PENDING") == 3
    meter.shard.leading(None)
    meter.shard.seen(5, {"missing": True}, {})  # a pass that was under way
    assert meter.value("workloads", phase="PENDING") is None
    meter.shard.leading(3)
    assert meter.value("workloads", phase="PENDING") is None
    assert meter.value("orphans") is None
    assert meter.value("aws_api_requests_total", operation="RunTask") == 1
    assert meter.value("leader_epoch") == 3
    assert meter.value("leader_transitions_total") == 2


def test_of_two_shards_only_the_lost_one_is_forgotten() -> None:
    meter = Meter()
    other = meter.metrics.shard("us-east-1")
    other.quota(7, PROFILES)
    other.leading(1)
    for shard in (meter.shard, other):
        shard.count(lambda: Census(NOW, ()))
    other.leading(None)
    assert meter.value("quota_deployment_limit") == 10
    assert meter.value("leader", shard="us-east-1") == 0
    assert meter.value("leader", shard=SHARD) == 1


def test_an_epoch_that_falls_is_a_violation() -> None:
    meter = Meter()
    meter.shard.leading(5)
    assert meter.value("invariant_violations_total") == 0
    meter.shard.leading(4)
    assert meter.value("invariant_violations_total", invariant="epoch_rises") == 1

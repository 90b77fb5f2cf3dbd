"""Who may say something of the shared state."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

from reconciler.core.holds import Hold, Holds, Mode
from reconciler.core.phase import Phase
from reconciler.metrics.catalogue import CATALOGUE, Scope
from reconciler.store.census import Census, Group
from tests.metrics.meter import NOW, PROFILES, SHARD, Meter

if TYPE_CHECKING:
    from collections.abc import Iterator


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


GROUPS = (Group("gpu", "default", Phase.PENDING, 3, NOW),)
HOLDS = Holds({"gpu": Hold("gpu", Mode.PAUSED, "somebody", NOW)})


def gauges(meter: Meter) -> set[str]:
    """What is shown of the first shard as it is now, beside who leads it. Another one is led meanwhile."""
    families = (family for family in meter.families().values() if family.type == "gauge")
    shown = {sample.name for family in families for sample in family.samples if sample.labels.get("shard") == SHARD}
    return {name.removeprefix("ecs_reconciler_") for name in shown if "leader" not in name}


def test_a_census_that_was_under_way_when_the_lead_was_lost_shows_nothing() -> None:
    meter = Meter()
    meter.metrics.shard("us-east-1").leading(1)
    meter.shard.count(lambda: Census(NOW, GROUPS, HOLDS))
    assert gauges(meter) >= {"workloads", "oldest_pending_seconds", "queue_held"}

    def take() -> Census:
        meter.shard.leading(None)
        return Census(NOW + timedelta(seconds=7), GROUPS, HOLDS)

    meter.shard.count(take)
    assert gauges(meter) == set()
    assert meter.value("clock_skew_seconds", against="database") == 7


def test_the_lead_is_lost_before_or_after_a_census_is_shown_and_not_half_way() -> None:
    meter = Meter()
    meter.metrics.shard("us-east-1").leading(1)
    keeper = threading.Thread(target=meter.shard.leading, args=(None,))

    class Meanwhile(tuple[Group, ...]):
        __slots__ = ()

        def __iter__(self) -> Iterator[Group]:
            keeper.start()
            keeper.join(0.2)  # it waits for the one who reads here
            return super().__iter__()

    meter.shard.count(lambda: Census(NOW, Meanwhile(GROUPS), HOLDS))
    keeper.join()
    assert gauges(meter) == set()


def test_an_epoch_that_falls_is_a_violation() -> None:
    meter = Meter()
    meter.shard.leading(5)
    assert meter.value("invariant_violations_total") == 0
    meter.shard.leading(4)
    assert meter.value("invariant_violations_total", invariant="epoch_rises") == 1

"""What the table holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from reconciler.core.answer import Accepted
from reconciler.core.holds import Mode
from reconciler.core.phase import Phase
from reconciler.core.profiles import Profiles
from reconciler.core.runtask import Profile
from reconciler.core.task import EcsTask
from reconciler.metrics.shard import QUEUES
from reconciler.store.census import Census, Group, take_census
from reconciler.store.holds import hold, resume
from tests.metrics.meter import NOW, PROFILES, SHARD, SMALL, Meter, launching

if TYPE_CHECKING:
    from tests.conftest import Deployment


def test_rows_are_shown_by_queue_and_phase_and_a_queue_that_is_empty_goes() -> None:
    meter = Meter()
    old = NOW - timedelta(seconds=90)
    groups = (
        Group("gpu", "default", Phase.PENDING, 3, old),
        Group("gpu", "default", Phase.RUNNING, 4, old),
        Group("etl", "default", Phase.LAUNCHING, 2, old),
        Group("etl", "default", Phase.EXITED, 5, NOW - timedelta(seconds=30)),
    )
    meter.shard.count(lambda: Census(NOW, groups))
    assert meter.value("workloads", queue="gpu", phase="PENDING") == 3
    assert meter.value("workloads", queue="gpu", phase="STOPPING") == 0
    assert meter.value("oldest_pending_seconds", queue="gpu") == 90
    assert meter.value("oldest_pending_seconds", queue="etl") == 0
    assert (meter.value("quota_used"), meter.value("quota_headroom", profile="default")) == (6, 4)
    assert meter.value("unacknowledged_outcomes") == 5
    assert meter.value("oldest_unacknowledged_seconds") == 30
    meter.shard.count(lambda: Census(NOW, groups[:1]))
    assert meter.value("workloads", queue="etl") is None
    assert meter.value("unacknowledged_outcomes") == 0


def test_the_time_to_a_full_quota_is_judged_by_the_last_minute() -> None:
    meter = Meter()
    for seconds, used in ((0, 2), (10, 3), (20, 4)):
        meter.seconds = seconds
        group = Group("gpu", "default", Phase.RUNNING, used, NOW)
        meter.shard.count(lambda group=group: Census(NOW, (group,)))  # type: ignore[misc] # mypy can not infer it
    assert meter.value("quota_full_in_seconds", profile="default") == pytest.approx(60)
    meter.seconds = 200
    meter.shard.count(lambda: Census(NOW, (Group("gpu", "default", Phase.RUNNING, 4, NOW),)))
    assert meter.value("quota_full_in_seconds", profile="default") == float("inf")


def test_a_clock_that_is_set_back_does_not_change_what_the_last_minute_was() -> None:
    meter = Meter()

    def count(used: int) -> None:
        meter.shard.count(lambda: Census(NOW, (Group("gpu", "default", Phase.RUNNING, used, NOW),)))

    def launch(launches: int) -> None:
        for _ in range(launches):
            meter.shard.answered(launching(), Accepted(EcsTask("arn:1", "PENDING")))

    launch(6)
    count(2)
    meter.seconds, meter.wall = 30, NOW - timedelta(minutes=20)
    launch(12)
    count(4)
    assert meter.value("quota_full_in_seconds", profile="default") == pytest.approx(90)
    assert meter.value("launches_per_second") == pytest.approx(18 / 60)
    meter.seconds = 70
    count(4)
    assert meter.value("launches_per_second") == pytest.approx(12 / 60)
    meter.seconds = 100
    count(4)
    assert meter.value("launches_per_second") == 0
    assert meter.value("quota_full_in_seconds", profile="default") == float("inf")


def test_the_databases_clock_is_compared_with_ours() -> None:
    meter = Meter()
    meter.shard.count(lambda: Census(NOW + timedelta(seconds=7), ()))
    assert meter.value("clock_skew_seconds", against="database") == 7


def test_ecss_clock_is_read_from_its_answers_and_nonsense_there_harms_nobody() -> None:
    meter = Meter()
    meter.shard.heard({"ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 00:01:00 GMT"}}})
    assert meter.value("clock_skew_seconds", against="ecs") == 60.5
    for nonsense in (None, {}, {"ResponseMetadata": {"HTTPHeaders": {"date": "yesterday"}}}):
        meter.shard.heard(nonsense)
    assert meter.value("clock_skew_seconds", against="ecs") == 60.5


def test_each_profile_has_its_share_and_no_more_than_the_total_leaves() -> None:
    meter = Meter()
    groups = [Group("small", "small", Phase.RUNNING, 1, NOW), Group("etl", "default", Phase.RUNNING, 5, NOW)]
    meter.shard.count(lambda: Census(NOW, tuple(groups)))
    assert meter.value("quota_headroom", profile="small") == 2
    assert meter.value("quota_headroom", profile="default") == 4
    groups.append(Group("etl", "default", Phase.STARTED, 3, NOW))
    groups.append(Group("small", "gone", Phase.PENDING, 1, NOW - timedelta(seconds=9)))
    meter.shard.count(lambda: Census(NOW, tuple(groups)))
    assert meter.value("quota_headroom", profile="small") == 1
    assert meter.value("oldest_pending_seconds", queue="small", profile="small") == 9


def test_vcpus_are_shown_beside_their_limit() -> None:
    meter = Meter()
    meter.shard.count(lambda: Census(NOW, (Group("etl", "default", Phase.RUNNING, 5, NOW, cpu=2560),)))
    assert meter.value("quota_vcpus_used", profile="default") == 2.5
    assert meter.value("quota_vcpus_limit", profile="default") == float("inf")
    meter.shard.quota(8, PROFILES, 4096)
    meter.shard.count(lambda: Census(NOW, ()))
    assert meter.value("quota_vcpus_used", profile="default") == 0
    assert meter.value("quota_vcpus_limit", profile="default") == 4


@pytest.mark.parametrize(
    ("default", "small", "headroom"),
    [
        ((0, 0), (0, 0), {"default": 10, "small": 3, "instances": 10}),
        # What is left of 4 vCPU is one task of the smallest size, and then less than that.
        ((5, 3840), (0, 0), {"default": 5, "small": 3, "instances": 5}),
        ((5, 3841), (0, 0), {"default": 0, "small": 0, "instances": 5}),
        ((4, 2048), (1, 2048), {"default": 0, "small": 0, "instances": 5}),
        # The queue's own limit is 0.5 vCPU.
        ((4, 1024), (1, 256), {"default": 5, "small": 2, "instances": 5}),
        ((4, 1024), (1, 512), {"default": 5, "small": 0, "instances": 5}),
    ],
)
def test_there_is_no_headroom_where_no_vcpus_are_left(
    default: tuple[int, int], small: tuple[int, int], headroom: dict[str, int]
) -> None:
    """As the daemon decides: where Fargate runs the profile's tasks, and whatever slots are free."""
    fargate = {"launchType": "FARGATE"}
    profiles = Profiles(
        replace(PROFILES.default, run_task=fargate),
        {
            "small": replace(SMALL, run_task=fargate, max_cpu=512),
            "instances": replace(SMALL, name="instances", run_task={"launchType": "EC2"}, max_running_tasks=None),
        },
    )
    meter = Meter()
    meter.shard.quota(10, profiles, 4096)
    both = (("default", default), ("small", small))
    groups = tuple(Group(name, name, Phase.RUNNING, count, NOW, cpu=cpu) for name, (count, cpu) in both)
    meter.shard.count(lambda: Census(NOW, groups))
    assert {name: meter.value("quota_headroom", profile=name) for name in headroom} == headroom
    full = {name for name in headroom if meter.value("quota_full_in_seconds", profile=name) == 0}
    assert full == {name for name, room in headroom.items() if room == 0}


@pytest.mark.parametrize(
    ("used", "orphans", "lowered", "unclaimed"), [(5, 0, 0, 0), (8, 2, 0, 0), (8, 3, 0, 1), (12, 1, 2, 1)]
)
def test_tasks_above_the_limit_are_explained(used: int, orphans: int, lowered: int, unclaimed: int) -> None:
    meter = Meter()
    meter.shard.seen(orphans, {}, {})
    meter.shard.count(lambda: Census(NOW, (Group("etl", "default", Phase.RUNNING, used, NOW),)))
    assert meter.value("quota_exceeded_tasks", cause="limit_lowered") == lowered
    assert meter.value("quota_exceeded_tasks", cause="unclaimed") == unclaimed


def test_what_an_operator_holds_is_shown_until_it_is_resumed(prod: Deployment) -> None:
    meter = Meter()
    hold(prod.engine, prod.name, "gpu", Mode.PAUSED, "somebody")
    hold(prod.engine, prod.name, "", Mode.DRAINING, "somebody")
    meter.shard.count(lambda: take_census(prod.engine, prod.name))
    assert meter.value("queue_held", queue="gpu", mode="paused") == 1
    assert meter.value("queue_held", queue="all", mode="draining") == 1
    resume(prod.engine, prod.name, "gpu")
    meter.shard.count(lambda: take_census(prod.engine, prod.name))
    assert meter.value("queue_held", queue="gpu") is None


def test_a_row_that_can_not_be_read_is_counted_once() -> None:
    meter = Meter()
    for exec_id in ("a", "b", "a"):
        meter.shard.unreadable(exec_id, "an unknown phase")
    assert meter.value("unreadable_workloads_total") == 2


def test_queues_without_end_make_no_series_without_end() -> None:
    meter = Meter()
    groups = tuple(Group(f"q{n}", "default", Phase.PENDING, 1, NOW) for n in range(QUEUES + 30))
    meter.shard.count(lambda: Census(NOW, groups))
    assert meter.value("workloads", queue="others", phase="PENDING") == 30
    assert meter.value("workloads", phase="PENDING") == QUEUES + 30


def test_the_census_is_what_the_table_holds(prod: Deployment) -> None:
    for exec_id in ("a", "b", "c"):
        prod.queue(exec_id, queue="gpu")
    prod.queue("d")
    prod.move("b", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)
    prod.move("c", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    census = take_census(prod.engine, prod.name)
    found = {(g.queue, g.phase): g.count for g in census.groups}
    assert found == {
        ("gpu", Phase.PENDING): 1,
        ("gpu", Phase.RUNNING): 1,
        ("gpu", Phase.EXITED): 1,
        ("default", Phase.PENDING): 1,
    }
    assert all(timedelta(0) <= census.now - g.oldest < timedelta(minutes=1) for g in census.groups)
    assert take_census(prod.engine, "another").groups == ()


def test_each_shard_counts_its_own_and_what_waits_where_its_queue_will_have_it(prod: Deployment) -> None:
    far = Profile("c", "airflow", {}, name="far", region="west", max_running_tasks=4)
    profiles = Profiles(Profile("c", "airflow", {}, region=SHARD), {"far": far})
    near, limits = Meter(), profiles.limits(10)
    west = near.metrics.shard("west")
    for name, shard in ((SHARD, near.shard), ("west", west)):
        shard.quota(limits[name], profiles)
        shard.leading(1)
    for exec_id in ("run-far", "wait-far", "end-far", "never-far"):
        prod.queue(exec_id, queue="far")
    for exec_id in ("run-near", "wait-near"):
        prod.queue(exec_id)
    prod.move("run-near", Phase.LAUNCHING, Phase.STARTED, shard=SHARD, profile="default")
    prod.move("run-far", Phase.LAUNCHING, Phase.STARTED, shard="west", profile="far")
    prod.move("end-far", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED, shard="west", profile="far")
    prod.move("never-far", Phase.CANCELLED)
    for name, shard in ((SHARD, near.shard), ("west", west)):
        shard.count(partial(take_census, prod.engine, prod.name, name))
    for name, queue, phases in (
        (SHARD, "default", {"PENDING": 1, "STARTED": 1}),
        ("west", "far", {"PENDING": 1, "STARTED": 1, "EXITED": 1, "CANCELLED": 1}),
    ):
        for phase, count in phases.items():
            assert near.value("workloads", phase=phase, shard=name, queue=queue) == count, (name, phase)
        assert near.value("workloads", shard=name) == sum(phases.values())
    assert near.value("quota_deployment_limit") == 10
    assert near.value("quota_limit", shard="west", profile="far") == 4
    assert near.value("quota_headroom", shard="west") == 3
    assert near.value("quota_headroom", shard=SHARD) == 5
    assert near.value("unacknowledged_outcomes", shard=SHARD) == 0

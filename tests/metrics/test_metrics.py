"""The daemon's own metrics: what they say of what happened, and who may say it."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from reconciler.core.answer import Accepted, Existing, Throttled, Unknown
from reconciler.core.holds import Mode
from reconciler.core.phase import Desired, Phase
from reconciler.core.profiles import Profiles
from reconciler.core.runtask import Profile
from reconciler.core.task import EcsTask, Workload
from reconciler.metrics import Metrics
from reconciler.metrics.catalogue import CATALOGUE, INVARIANTS, Kind, Scope
from reconciler.metrics.reasons import REASONS, WAITING, outcome, reason_of
from reconciler.metrics.shard import QUEUES, Shard
from reconciler.store.census import Census, Group, take_census
from reconciler.store.daemon import SqlStore
from reconciler.store.holds import hold, resume
from reconciler.store.names import statement_names
from tests.tools.metrics_page import PAGE, metrics_page
from tests.world import World

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.conftest import Deployment

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SHARD = "eu-central-1"
SMALL = Profile("c", "airflow", {}, name="small", region=SHARD, max_running_tasks=3)
PROFILES = Profiles(Profile("c", "airflow", {}, region=SHARD), {"small": SMALL})


class Meter:
    """Metrics of one process, one shard, and a wall clock that stands where it is put."""

    def __init__(self, *, leads: bool = True) -> None:
        self.metrics = Metrics("prod")
        self.wall = NOW
        self.shard = Shard(self.metrics._board, SHARD, self.metrics._lead_changed, lambda: self.wall)
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


class TestCatalogue:
    """Names and documentation."""

    def test_the_page_is_made_from_it(self) -> None:
        assert PAGE.read_text() == metrics_page(), "run `make docs`"

    def test_every_metric_is_exported_by_a_leader_under_its_name_type_and_labels(self) -> None:
        families = Meter().families()
        for metric in CATALOGUE:
            family = families[metric.name.removesuffix("_total") if metric.kind is Kind.COUNTER else metric.name]
            assert family.type == metric.kind.value
            for sample in family.samples:
                assert sample.name in metric.series
                assert set(sample.labels) <= set(metric.all_labels)

    def test_units_and_totals_are_in_the_names(self) -> None:
        for metric in CATALOGUE:
            assert metric.name.endswith("_total") == (metric.kind is Kind.COUNTER), metric.name
            assert not metric.unit or f"_{metric.unit}" in metric.name, metric.name
            assert not {"exec_id", "task_id", "dag_id", "arn"} & set(metric.labels), metric.name

    def test_counters_whose_labels_are_known_exist_before_they_count(self) -> None:
        meter = Meter()
        for name in INVARIANTS:
            assert meter.value("invariant_violations_total", invariant=name) == 0
        assert meter.value("reconcile_total", controller="launch", result="error") == 0
        assert meter.value("double_launches_prevented_total", guard="client_token") == 0

    def test_promtool_accepts_what_is_exported(self, promtool: str) -> None:
        meter = Meter()
        meter.shard.called("RunTask", "ok", 0.1)
        meter.shard.answered(launching(), Throttled("x"))
        shown = generate_latest(meter.metrics.registry)
        done = subprocess.run([promtool, "check", "metrics"], input=shown, capture_output=True, check=False)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        assert b"_created" not in shown


class TestLeader:
    """Who may say something of the shared state."""

    def test_a_standby_exports_its_process_and_who_leads(self) -> None:
        meter = Meter(leads=False)
        meter.shard.called("DescribeClusters", "ok", 0.1)
        ours = {name for name in meter.families() if name.startswith("ecs_reconciler")}
        process = {metric.name.removesuffix("_total") for metric in CATALOGUE if metric.scope is Scope.PROCESS}
        assert ours == process
        assert meter.value("leader") == 0

    def test_what_a_former_leader_knows_is_gone_and_counters_go_on_when_it_leads_again(self) -> None:
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

    def test_of_two_shards_only_the_lost_one_is_forgotten(self) -> None:
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

    def test_an_epoch_that_falls_is_a_violation(self) -> None:
        meter = Meter()
        meter.shard.leading(5)
        assert meter.value("invariant_violations_total") == 0
        meter.shard.leading(4)
        assert meter.value("invariant_violations_total", invariant="epoch_rises") == 1


class TestCount:
    """What the table holds."""

    def test_rows_are_shown_by_queue_and_phase_and_a_queue_that_is_empty_goes(self) -> None:
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

    def test_the_time_to_a_full_quota_is_judged_by_the_last_minute(self) -> None:
        meter = Meter()
        for seconds, used in ((0, 2), (10, 3), (20, 4)):
            meter.wall = NOW + timedelta(seconds=seconds)
            group = Group("gpu", "default", Phase.RUNNING, used, NOW)
            meter.shard.count(lambda group=group: Census(NOW, (group,)))  # type: ignore[misc] # mypy can not infer it
        assert meter.value("quota_full_in_seconds", profile="default") == pytest.approx(60)
        meter.wall = NOW + timedelta(seconds=200)
        meter.shard.count(lambda: Census(NOW, (Group("gpu", "default", Phase.RUNNING, 4, NOW),)))
        assert meter.value("quota_full_in_seconds", profile="default") == float("inf")

    def test_the_databases_clock_is_compared_with_ours(self) -> None:
        meter = Meter()
        meter.shard.count(lambda: Census(NOW + timedelta(seconds=7), ()))
        assert meter.value("clock_skew_seconds", against="database") == 7

    def test_ecss_clock_is_read_from_its_answers_and_nonsense_there_harms_nobody(self) -> None:
        meter = Meter()
        meter.shard.heard({"ResponseMetadata": {"HTTPHeaders": {"date": "Thu, 01 Jan 2026 00:01:00 GMT"}}})
        assert meter.value("clock_skew_seconds", against="ecs") == 60.5
        for nonsense in (None, {}, {"ResponseMetadata": {"HTTPHeaders": {"date": "yesterday"}}}):
            meter.shard.heard(nonsense)
        assert meter.value("clock_skew_seconds", against="ecs") == 60.5

    def test_each_profile_has_its_share_and_no_more_than_the_total_leaves(self) -> None:
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

    def test_vcpus_are_shown_beside_their_limit(self) -> None:
        meter = Meter()
        meter.shard.count(lambda: Census(NOW, (Group("etl", "default", Phase.RUNNING, 5, NOW, cpu=2560),)))
        assert meter.value("quota_vcpus_used", profile="default") == 2.5
        assert meter.value("quota_vcpus_limit", profile="default") == float("inf")
        meter.shard.quota(8, PROFILES, 4096)
        meter.shard.count(lambda: Census(NOW, ()))
        assert meter.value("quota_vcpus_used", profile="default") == 0
        assert meter.value("quota_vcpus_limit", profile="default") == 4

    @pytest.mark.parametrize(
        ("used", "orphans", "lowered", "unclaimed"), [(5, 0, 0, 0), (8, 2, 0, 0), (8, 3, 0, 1), (12, 1, 2, 1)]
    )
    def test_tasks_above_the_limit_are_explained(self, used: int, orphans: int, lowered: int, unclaimed: int) -> None:
        meter = Meter()
        meter.shard.seen(orphans, {}, {})
        meter.shard.count(lambda: Census(NOW, (Group("etl", "default", Phase.RUNNING, used, NOW),)))
        assert meter.value("quota_exceeded_tasks", cause="limit_lowered") == lowered
        assert meter.value("quota_exceeded_tasks", cause="unclaimed") == unclaimed

    def test_what_an_operator_holds_is_shown_until_it_is_resumed(self, prod: Deployment) -> None:
        meter = Meter()
        hold(prod.engine, prod.name, "gpu", Mode.PAUSED, "somebody")
        hold(prod.engine, prod.name, "", Mode.DRAINING, "somebody")
        meter.shard.count(lambda: take_census(prod.engine, prod.name))
        assert meter.value("queue_held", queue="gpu", mode="paused") == 1
        assert meter.value("queue_held", queue="all", mode="draining") == 1
        resume(prod.engine, prod.name, "gpu")
        meter.shard.count(lambda: take_census(prod.engine, prod.name))
        assert meter.value("queue_held", queue="gpu") is None

    def test_a_row_that_can_not_be_read_is_counted_once(self) -> None:
        meter = Meter()
        for exec_id in ("a", "b", "a"):
            meter.shard.unreadable(exec_id, "an unknown phase")
        assert meter.value("unreadable_workloads_total") == 2

    def test_queues_without_end_make_no_series_without_end(self) -> None:
        meter = Meter()
        groups = tuple(Group(f"q{n}", "default", Phase.PENDING, 1, NOW) for n in range(QUEUES + 30))
        meter.shard.count(lambda: Census(NOW, groups))
        assert meter.value("workloads", queue="others", phase="PENDING") == 30
        assert meter.value("workloads", phase="PENDING") == QUEUES + 30

    def test_the_census_is_what_the_table_holds(self, prod: Deployment) -> None:
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

    def test_each_shard_counts_its_own_and_what_waits_where_its_queue_will_have_it(self, prod: Deployment) -> None:
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


class TestChanges:
    """What a committed change tells."""

    def test_each_stage_of_a_launch_is_timed_with_an_exemplar(self) -> None:
        meter = Meter()
        pending = workload()
        claimed = pending.moved(Phase.LAUNCHING, NOW, attempt=1, intent_at=NOW + timedelta(seconds=3))
        accepted = claimed.moved(Phase.STARTED, NOW + timedelta(seconds=4), task_arn="arn:1")
        runs = accepted.moved(
            Phase.RUNNING, NOW + timedelta(seconds=11), started_at=NOW + timedelta(seconds=10), last_status="RUNNING"
        )
        for change in ((pending, claimed), (claimed, accepted), (accepted, runs)):
            meter.shard.moved(*change)
        stages = {"queued_to_claimed": 3, "claimed_to_accepted": 1, "accepted_to_running": 6, "queued_to_running": 10}
        for stage, seconds in stages.items():
            assert meter.value("launch_stage_seconds_sum", stage=stage, queue="gpu") == seconds
        assert meter.value("observation_lag_seconds_sum", moment="started") == 1
        shown: bytes = openmetrics(meter.metrics.registry)  # type: ignore[no-untyped-call]  # prometheus-client's
        assert '# {attempt="1",exec_id="a"} 3.0' in shown.decode()

    @pytest.mark.parametrize(
        ("old", "changes", "labels"),
        [
            (launching(), {"phase": Phase.PENDING, "reason": "RESOURCE:MEMORY"}, ("capacity", "again")),
            (started(stop_code="TaskFailedToStart"), {"phase": Phase.PENDING, "reason": "x: CannotPullContainerError"},
             ("image", "again")),
            (launching(), {"phase": Phase.FAILED_START, "reason": "InvalidParameterException: x"},
             ("invalid", "given_up")),
        ],
    )  # fmt: skip
    def test_a_launch_that_came_to_nothing_is_counted_by_its_reason(
        self, old: Workload, changes: dict[str, Any], labels: tuple[str, str]
    ) -> None:
        meter = Meter()
        new = replace(old, version=old.version + 1, **changes)
        meter.shard.moved(old, new)
        reason, action = labels
        assert meter.value("launch_failures_total", queue="gpu", reason=reason, action=action) == 1

    def test_an_intent_that_lost_the_race_is_a_launch_prevented(self) -> None:
        meter = Meter()
        meter.shard.lost_race(workload(), launching())
        meter.shard.lost_race(launching(), started())
        assert meter.value("double_launches_prevented_total", guard="compare_and_swap") == 1

    def test_a_task_that_an_unanswered_call_made_is_a_launch_prevented(self) -> None:
        meter = Meter()
        w = launching()
        meter.wall = NOW + timedelta(seconds=10)
        meter.shard.answered(w, Unknown("reset"))
        meter.wall = NOW + timedelta(seconds=12)
        meter.shard.answered(w, Accepted(EcsTask("arn:1", "PENDING", created_at=NOW + timedelta(seconds=9))))
        assert meter.value("double_launches_prevented_total", guard="client_token") == 1
        meter.shard.answered(w, Accepted(EcsTask("arn:2", "PENDING", created_at=NOW + timedelta(seconds=12))))
        assert meter.value("double_launches_prevented_total", guard="client_token") == 1
        meter.shard.answered(w, Existing(("arn:1",)))
        assert meter.value("double_launches_prevented_total", guard="conflict") == 1
        assert meter.value("launches_total", result="accepted") == 2

    def test_gates_and_breakers(self) -> None:
        meter = Meter()
        meter.shard.held({"default": "no capacity", "credentials": "expired"})
        meter.shard.seen(2, {"missing": False, "orphans": True}, {})
        assert meter.value("launches_held", cause="ecs", profile="default") == 1
        assert meter.value("launches_held", cause="ecs", profile="small") == 0
        assert meter.value("launches_held", cause="api_server", profile="all") == 0
        assert meter.value("launches_held", cause="credentials", profile="all") == 1
        assert meter.value("breaker_tripped", breaker="orphans") == 1
        assert meter.value("orphans") == 2


class TestInvariants:
    """Each can be broken, and each is then counted; nothing that the daemon does breaks one."""

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("version_by_one", [(workload(), launching(version=3))]),
            ("attempt_by_intent_only", [(workload(), launching(attempt=2))]),
            ("attempt_by_intent_only", [(launching(), replace(started(), attempt=2))]),
            ("no_launch_of_the_unwanted", [(workload(desired=Desired.STOP), launching())]),
            ("no_relaunch_after_user_code",
             [(started(started_at=NOW), started().moved(Phase.PENDING, NOW, task_arn=None))]),
            ("one_task_per_launch", [(started(), started().moved(Phase.RUNNING, NOW, task_arn="arn:2"))]),
            ("one_launch_per_task", [(launching(), started()), (launching(exec_id="b"), started(exec_id="b"))]),
        ],
    )  # fmt: skip
    def test_a_broken_one_is_counted(self, name: str, changes: list[tuple[Workload, Workload]]) -> None:
        meter = Meter()
        for old, new in changes:
            meter.shard.moved(replace(old, updated_at=NOW), replace(new, updated_at=NOW))
        assert meter.value("invariant_violations_total", invariant=name) == 1

    def test_two_live_tasks_of_one_launch_are_counted(self) -> None:
        meter = Meter()
        world = World()
        world.replica.adopt._on_twins = meter.shard.twins
        world.behaviour.seconds = 600
        world.queue("a")
        world.run_until(lambda: len(world.live("a")) == 1)
        request = {**_run_task(world, "a"), "clientToken": "another"}
        world.model.call("RunTask", request, world.ecs_now)
        world.run(70)
        assert len({task["taskArn"] for task in world.tasks("a")}) == 2
        assert (meter.value("invariant_violations_total", invariant="one_task_per_launch") or 0) >= 1
        world.close()

    def test_a_daemon_among_faults_breaks_none(self) -> None:
        meter = Meter()
        world = World()
        store = world.replica.launch._store
        assert isinstance(store, SqlStore)
        store._on_written, store._on_lost = meter.shard.moved, meter.shard.lost_race
        world.model.faults.on_start("CannotPullContainerError: no such image", times=3)
        world.model.faults.on_placement("RESOURCE:MEMORY", times=3)
        world.queue(*(f"w{n}" for n in range(20)))
        world.run_until(lambda: all(world.row(f"w{n}").terminal for n in range(20)))
        assert meter.value("invariant_violations_total") == 0
        assert meter.value("workloads_ended_total", outcome="exited_zero") == 20
        assert meter.value("launch_failures_total", reason="image", action="again") == 3
        assert meter.value("launch_failures_total", reason="capacity", action="again") == 3
        world.close()


class TestReasons:
    """AWS's sentences as words."""

    @pytest.mark.parametrize(
        ("text", "word"),
        [
            ("CannotPullContainerError: pull image manifest has been retried 5 time(s)", "image"),
            ("RESOURCE:ENI", "network"),
            ("Capacity is unavailable at this time. Please try again later", "capacity"),
            ("You've reached the limit on the number of tasks you can run concurrently", "quota"),
            ("ThrottlingException: Rate exceeded", "throttled"),
            ("ExpiredTokenException: The security token included in the request is expired", "credentials"),
            ("AccessDeniedException: is not authorized to perform: iam:PassRole", "permission"),
            ("ResourceInitializationError: unable to pull secrets or registry auth", "secrets"),
            ("Timeout waiting for network interface provisioning to complete", "network"),
            ("not RUNNING within start_timeout (600 s): PENDING", "start_timeout"),
            ("attempt 1 exited before Airflow admitted it (x); starting again", "refused"),
            ("Your Spot Task was interrupted.", "spot_interrupted"),
            ("a sentence of next year", "other"),
            (None, "other"),
        ],
    )
    def test_a_sentence_has_its_word(self, text: str | None, word: str) -> None:
        assert reason_of(text) == word
        assert word in REASONS

    def test_waiting_reasons_are_reasons(self) -> None:
        assert set(WAITING) <= set(REASONS)

    @pytest.mark.parametrize(
        ("old", "facts", "word"),
        [
            (Phase.RUNNING, {"exit_code": 0}, "exited_zero"),
            (Phase.RUNNING, {"exit_code": 1}, "exited_nonzero"),
            (Phase.RUNNING, {}, "exited_unknown"),
            (Phase.STOPPING, {"exit_code": 143}, "stopped_by_us"),
            (Phase.RUNNING, {"exit_code": 137, "reason": "OutOfMemoryError: killed"}, "out_of_memory"),
            (Phase.RUNNING, {"exit_code": 143, "stop_code": "SpotInterruption"}, "spot_interrupted"),
        ],
    )
    def test_an_end_has_its_word(self, old: Phase, facts: dict[str, Any], word: str) -> None:
        assert outcome(workload(phase=old), workload(phase=Phase.EXITED, **facts)) == word


class TestDatabase:
    """Latency and errors by named statement."""

    def test_statements_are_named_and_timed_and_errors_counted(self, engine: Engine) -> None:
        meter = Meter()
        meter.metrics.watch(engine)
        store = SqlStore(engine, "prod")
        store.in_phase(Phase.RUNNING)
        store.launchable(5)
        lease = store.hold("prod/x", "me", timedelta(minutes=1))
        assert lease is not None
        for statement in ("in_phase", "launchable", "hold", "now"):
            assert (meter.value("db_statement_duration_seconds_count", statement=statement) or 0) >= 1, statement
        assert meter.value("db_statement_duration_seconds_count", statement="other") is None
        assert meter.value("db_transaction_duration_seconds_count") == 3
        assert meter.value("db_errors_total") == 0
        with pytest.raises(DBAPIError), engine.begin() as conn:
            conn.execute(text("SELECT no_such_column FROM ecs_workload"))
        assert meter.value("db_errors_total") == 1
        assert meter.value("db_pool_connections", state="used") == 0

    def test_everything_that_the_daemon_does_has_a_name(self, prod: Deployment) -> None:
        meter = Meter()
        meter.metrics.watch(prod.engine)
        prod.queue("a")
        before = meter.value("db_statement_duration_seconds_count", statement="other") or 0  # the shim's insert
        old = prod.store.launchable(1).workloads[0]
        at = prod.store.now()
        new = old.moved(Phase.LAUNCHING, at, attempt=1, intent_at=at, cluster="c", family="f", params={})
        prod.store.save([(old, new)], prod.lease)
        prod.store.prune(timedelta(days=1), 10, prod.lease)
        prod.store.unwanted()
        prod.store.failed_starts()
        prod.store.find(["a"])
        assert (meter.value("db_statement_duration_seconds_count", statement="other") or 0) == before
        for statement in ("intend", "fence", "lock", "open_attempt"):
            assert (meter.value("db_statement_duration_seconds_count", statement=statement) or 0) >= 1, statement

    def test_a_scrape_asks_the_database_nothing(self, engine: Engine) -> None:
        meter = Meter()
        meter.metrics.watch(engine)
        meter.shard.count(lambda: take_census(engine, "prod"))
        asked: list[str] = []
        event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
        event.listen(engine, "checkout", lambda *_: asked.append("a connection"))
        assert meter.value("workloads", phase="PENDING") == 0
        assert asked == []

    def test_names_are_those_of_the_constants(self) -> None:
        names = statement_names()
        assert {"launchable", "update", "intend", "census", "count_open"} <= set(names)
        assert len(names) == len(set(names))


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed: apt-get install prometheus")
    return found


def _run_task(world: World, exec_id: str) -> dict[str, Any]:
    """A request that carries a workload's name, as its own launch did."""
    (task,) = world.live(exec_id)
    return {
        "cluster": "airflow",
        "taskDefinition": "airflow-task",
        "launchType": "FARGATE",
        "startedBy": task["startedBy"],
        "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
        "overrides": task["overrides"],
    }

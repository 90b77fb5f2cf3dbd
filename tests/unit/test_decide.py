"""Every decision of the daemon about one workload."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core import decide
from reconciler.core.answer import Accepted, Answer, Blocked, Existing, Invalid, NotStarted, Throttled, Unknown
from reconciler.core.phase import EDGES, LIVE, TERMINAL, Desired, Phase
from reconciler.core.task import Container, EcsTask, Workload

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
POLICY = decide.Policy()
TIMEOUT = timedelta(seconds=600)
ARN = "arn:aws:ecs:us-east-1:000000000000:task/airflow/1"


def minutes(n: float) -> timedelta:
    return timedelta(minutes=n)


def workload(phase: Phase, **changes: Any) -> Workload:
    age = changes.pop("age", minutes(1))
    base = Workload(exec_id="x", deployment="d", phase=phase, attempt=1, intent_at=NOW - age, updated_at=NOW - age)
    return replace(base, task_arn=ARN if phase in LIVE or phase is Phase.EXITED else None, **changes)


def ecs_task(status: str = "STOPPED", **facts: Any) -> EcsTask:
    return EcsTask(arn=ARN, last_status=status, version=facts.pop("version", 1), **facts)


answers: st.SearchStrategy[Answer] = st.one_of(
    st.just(Accepted(EcsTask(arn=ARN, last_status="PROVISIONING"))),
    st.sampled_from([(), (ARN,)]).map(Existing),
    st.booleans().map(lambda capacity: NotStarted("why", capacity)),
    st.sampled_from([Throttled("why"), Blocked("why"), Invalid("why"), Unknown("why")]),
)


class TestAnswers:
    """What RunTask's answer makes of a LAUNCHING workload."""

    def test_an_accepted_launch_is_started(self) -> None:
        new = decide.answered(workload(Phase.LAUNCHING), Accepted(ecs_task()), NOW, POLICY, certain=False)
        assert new is not None
        assert (new.phase, new.task_arn) == (Phase.STARTED, ARN)

    def test_a_conflict_is_a_success_in_disguise(self) -> None:
        new = decide.answered(workload(Phase.LAUNCHING), Existing((ARN,)), NOW, POLICY, certain=False)
        assert new is not None
        assert (new.phase, new.task_arn) == (Phase.STARTED, ARN)

    def test_a_conflict_that_names_no_task_says_nothing(self) -> None:
        assert decide.answered(workload(Phase.LAUNCHING), Existing(()), NOW, POLICY, certain=True) is None

    @pytest.mark.parametrize("answer", [Throttled("why"), Unknown("why")])
    def test_throttled_and_unknown_launches_keep_their_attempt(self, answer: Answer) -> None:
        assert decide.answered(workload(Phase.LAUNCHING), answer, NOW, POLICY, certain=True) is None

    @pytest.mark.parametrize("answer", [Blocked("why"), Invalid("why")])
    def test_a_refused_repeat_says_nothing_about_the_call_before_it(self, answer: Answer) -> None:
        assert decide.answered(workload(Phase.LAUNCHING), answer, NOW, POLICY, certain=False) is None

    def test_a_refused_account_fails_nobody(self) -> None:
        w = workload(Phase.LAUNCHING, start_failures=2)
        new = decide.answered(w, Blocked("expired"), NOW, POLICY, certain=True)
        assert new is not None
        assert (new.phase, new.start_failures, new.reason) == (Phase.PENDING, 2, "expired")

    def test_an_invalid_request_fails_at_once_with_its_text(self) -> None:
        new = decide.answered(workload(Phase.LAUNCHING), Invalid("no such role"), NOW, POLICY, certain=True)
        assert new is not None
        assert (new.phase, new.reason) == (Phase.FAILED_START, "no such role")

    def test_want_of_capacity_is_never_counted(self) -> None:
        w = workload(Phase.LAUNCHING, attempt=500)
        new = decide.answered(w, NotStarted("RESOURCE:CPU", capacity=True), NOW, POLICY, certain=False)
        assert new is not None
        assert (new.phase, new.start_failures) == (Phase.PENDING, 0)
        assert new.not_before is not None
        assert NOW < new.not_before <= NOW + minutes(2)

    def test_other_failures_are_counted_until_the_attempts_are_used_up(self) -> None:
        w, phases = workload(Phase.LAUNCHING), []
        for _ in range(POLICY.max_run_task_attempts):
            new = decide.answered(w, NotStarted("ATTRIBUTE", capacity=False), NOW, POLICY, certain=False)
            assert new is not None
            phases.append(new.phase)
            w = replace(new, phase=Phase.LAUNCHING)
        assert phases == [Phase.PENDING, Phase.PENDING, Phase.FAILED_START]

    @given(answers, st.booleans())
    def test_an_unwanted_launch_never_goes_back_to_pending(self, answer: Answer, certain: bool) -> None:
        w = workload(Phase.LAUNCHING, desired=Desired.STOP, desired_reason="cleared")
        new = decide.answered(w, answer, NOW, POLICY, certain=certain)
        assert new is None or new.phase in {Phase.STARTED, Phase.CANCELLED, Phase.FAILED_START}

    @given(answers, st.booleans(), st.integers(0, 10))
    def test_every_outcome_is_an_edge_of_the_table(self, answer: Answer, certain: bool, failures: int) -> None:
        new = decide.answered(workload(Phase.LAUNCHING, start_failures=failures), answer, NOW, POLICY, certain=certain)
        assert new is None or new.phase in EDGES[Phase.LAUNCHING]


class TestAbsence:
    """A launch whose answer was lost, and that a listing does not show."""

    def age(self, began: float, ended: float | None = None) -> Phase | None:
        w = workload(Phase.LAUNCHING, age=minutes(0))
        new = decide.absent(w, NOW + minutes(began), NOW + minutes(ended or began), POLICY)
        return new.phase if new else None

    def test_absence_proves_nothing_while_a_request_may_be_on_its_way(self) -> None:
        assert self.age(0) is None
        assert self.age(39.9) is None

    def test_absence_is_judged_as_of_the_moment_the_listing_began(self) -> None:
        assert self.age(39, 50) is None

    def test_absence_is_proof_while_a_stopped_task_must_still_be_shown(self) -> None:
        assert self.age(41) is Phase.PENDING
        assert self.age(57.9) is Phase.PENDING

    def test_later_the_workload_is_lost_and_never_launched_again(self) -> None:
        assert self.age(57, 58) is Phase.LOST
        assert self.age(600) is Phase.LOST

    def test_the_token_is_not_sent_any_more_when_absence_can_be_proven(self) -> None:
        """Twenty minutes of repeats, five of a signature's life and five of eventual consistency must fit before."""
        assert POLICY.resend_for + minutes(15) <= POLICY.absent_after
        assert POLICY.absent_after < POLICY.absent_before < minutes(60)


class TestObservation:
    """What ECS shows of a task makes of its row."""

    def test_running_is_running(self) -> None:
        new = decide.observed(workload(Phase.STARTED), ecs_task("RUNNING"), NOW)
        assert new is not None
        assert new.phase is Phase.RUNNING

    def test_older_news_is_no_news(self) -> None:
        w = workload(Phase.RUNNING, ecs_version=5, last_status="RUNNING")
        assert decide.observed(w, ecs_task("STOPPED", version=4), NOW) is None

    def test_the_same_again_changes_nothing(self) -> None:
        once = decide.observed(workload(Phase.STARTED), ecs_task("RUNNING", version=3), NOW)
        assert once is not None
        assert decide.observed(once, ecs_task("RUNNING", version=3), NOW) is None

    def test_a_stopped_container_has_exited_with_its_code_and_reason(self) -> None:
        task = ecs_task(stop_code="EssentialContainerExited", container=Container(exit_code=137, reason="OutOfMemory"))
        new = decide.observed(workload(Phase.RUNNING), task, NOW)
        assert new is not None
        assert (new.phase, new.exit_code, new.reason) == (
            Phase.EXITED,
            137,
            "EssentialContainerExited: OutOfMemory",
        )

    def test_an_exit_code_is_kept_before_the_task_has_stopped(self) -> None:
        new = decide.observed(workload(Phase.RUNNING), ecs_task("DEACTIVATING", container=Container(exit_code=0)), NOW)
        assert new is not None
        assert (new.phase, new.exit_code) == (Phase.RUNNING, 0)

    def test_a_missing_exit_code_is_not_zero(self) -> None:
        new = decide.observed(workload(Phase.RUNNING), ecs_task(container=Container()), NOW)
        assert new is not None
        assert (new.phase, new.exit_code) == (Phase.EXITED, None)

    def test_a_start_that_failed_waits_for_the_retry_controller(self) -> None:
        task = ecs_task(stop_code="TaskFailedToStart", stopped_reason="CannotPullContainerError")
        new = decide.observed(workload(Phase.STARTED), task, NOW)
        assert new is not None
        assert (new.phase, new.last_status) == (Phase.STARTED, "STOPPED")

    @pytest.mark.parametrize(
        "task",
        [
            ecs_task(stop_code="UserInitiated"),
            ecs_task(stop_code="TaskFailedToStart", started_at=NOW),
            ecs_task(stop_code="TaskFailedToStart", container=Container(exit_code=1)),
            ecs_task(stop_code="TaskFailedToStart", container=Container(runtime_id="abc")),
            ecs_task(stop_code=None),
        ],
    )
    def test_what_may_have_run_has_exited(self, task: EcsTask) -> None:
        new = decide.observed(workload(Phase.STARTED), task, NOW)
        assert new is not None
        assert new.phase is Phase.EXITED

    @given(st.sampled_from(sorted(LIVE)), st.sampled_from(["PENDING", "RUNNING", "STOPPED"]), st.booleans())
    def test_every_outcome_is_an_edge_of_the_table(self, phase: Phase, status: str, failed: bool) -> None:
        task = ecs_task(status, stop_code="TaskFailedToStart" if failed else "EssentialContainerExited")
        new = decide.observed(workload(phase), task, NOW)
        assert new is None or new.phase is phase or new.phase in EDGES[phase]

    @pytest.mark.parametrize("phase", sorted(TERMINAL))
    def test_terminal_workloads_do_not_change(self, phase: Phase) -> None:
        assert decide.observed(workload(phase), ecs_task("RUNNING", version=99), NOW) is None

    @pytest.mark.parametrize("age", [minutes(6), minutes(60)])
    def test_missing_for_a_short_while_means_not_yet_visible_however_old_the_intent(self, age: timedelta) -> None:
        w = workload(Phase.STARTED, age=age)
        assert decide.missing(w, NOW - minutes(4), NOW, POLICY) is None
        lost = decide.missing(w, NOW - minutes(6), NOW, POLICY)
        assert lost is not None
        assert lost.phase is Phase.LOST


class TestHearing:
    """What an event makes of the row that its task names."""

    def test_only_a_newer_version_is_news(self) -> None:
        w = workload(Phase.RUNNING, cluster="airflow", ecs_version=5, last_status="RUNNING")
        for version, heard in ((4, False), (5, False), (6, True)):
            assert (decide.heard(w, ecs_task(version=version), 1, NOW) is not None) is heard

    def test_another_attempt_and_another_task_are_not_this_one(self) -> None:
        w = workload(Phase.RUNNING, cluster="airflow")
        assert decide.heard(w, ecs_task(), 2, NOW) is None
        assert decide.heard(replace(w, task_arn=ARN + "1"), ecs_task(), 1, NOW) is None

    @pytest.mark.parametrize("age", [0, 30, 70])
    @pytest.mark.parametrize("cluster", ["airflow", "arn:aws:ecs:us-east-1:000000000000:cluster/airflow"])
    def test_a_launch_is_given_its_task_at_any_age(self, cluster: str, age: float) -> None:
        new = decide.heard(workload(Phase.LAUNCHING, cluster=cluster, age=minutes(age)), ecs_task(), 1, NOW)
        assert new is not None
        assert (new.phase, new.task_arn, new.version, new.ecs_version) == (Phase.STARTED, ARN, 2, 0)

    @pytest.mark.parametrize("cluster", ["other", None])
    def test_a_launch_elsewhere_is_not(self, cluster: str | None) -> None:
        assert decide.heard(workload(Phase.LAUNCHING, cluster=cluster), ecs_task(), 1, NOW) is None

    @pytest.mark.parametrize("phase", sorted(TERMINAL | {Phase.PENDING}))
    def test_what_has_ended_or_waits_hears_nothing(self, phase: Phase) -> None:
        assert decide.heard(workload(phase, cluster="airflow"), ecs_task(version=9), 1, NOW) is None


class TestRetry:
    """Starts that provably did not happen."""

    def test_a_failed_start_is_tried_again_and_counted(self) -> None:
        w = workload(Phase.STARTED, last_status="STOPPED", reason="CannotPull", start_failures=1)
        new = decide.start_failed(w, NOW, POLICY)
        assert new is not None
        assert (new.phase, new.start_failures, new.reason) == (Phase.PENDING, 2, "CannotPull")

    def test_the_last_failed_start_fails_the_workload(self) -> None:
        w = workload(Phase.STARTED, last_status="STOPPED", reason="CannotPull", start_failures=2)
        new = decide.start_failed(w, NOW, POLICY)
        assert new is not None
        assert (new.phase, new.reason) == (Phase.FAILED_START, "CannotPull")

    def test_a_start_under_way_is_left_alone(self) -> None:
        assert decide.start_failed(workload(Phase.STARTED, last_status="PENDING"), NOW, POLICY) is None

    def test_an_unwanted_start_is_not_tried_again(self) -> None:
        w = workload(Phase.STARTED, last_status="STOPPED", desired=Desired.STOP)
        new = decide.start_failed(w, NOW, POLICY)
        assert new is not None
        assert new.phase is Phase.FAILED_START

    def test_a_refused_container_is_launched_again(self) -> None:
        w = workload(Phase.EXITED, refused=True, exit_code=1, reason="EssentialContainerExited")
        new = decide.refused(w, NOW, counts=True)
        assert new is not None
        assert (new.phase, new.refused, new.start_failures) == (Phase.PENDING, False, 1)

    def test_what_was_not_refused_is_never_launched_again(self) -> None:
        assert decide.refused(workload(Phase.EXITED, exit_code=1), NOW, counts=True) is None
        assert decide.refused(workload(Phase.EXITED, refused=True, desired=Desired.STOP), NOW, counts=True) is None

    def test_many_refusals_at_once_are_not_counted(self) -> None:
        new = decide.refused(workload(Phase.EXITED, refused=True), NOW, counts=False)
        assert new is not None
        assert new.start_failures == 0


class TestStopping:
    """What must end, and when."""

    def test_a_pending_workload_is_cancelled_only_when_unwanted(self) -> None:
        assert decide.cancelled(workload(Phase.PENDING), NOW) is None
        new = decide.cancelled(workload(Phase.PENDING, desired=Desired.STOP, desired_reason="cleared"), NOW)
        assert new is not None
        assert (new.phase, new.reason) == (Phase.CANCELLED, "cleared")

    def test_an_unwanted_start_is_stopped_at_once(self) -> None:
        w = workload(Phase.STARTED, desired=Desired.STOP, desired_at=NOW, desired_reason="cleared")
        assert decide.unwanted(w, NOW, POLICY, may_run=False) == "cleared"

    def test_a_start_that_ecs_does_not_show_may_run_and_end_itself_first(self) -> None:
        w = workload(Phase.STARTED, desired=Desired.STOP, desired_at=NOW, desired_reason="cleared")
        assert decide.unwanted(w, NOW, POLICY, may_run=True) is None

    def test_an_admitted_container_may_end_itself_first(self) -> None:
        w = workload(Phase.RUNNING, desired=Desired.STOP, desired_at=NOW, desired_reason="cleared")
        assert decide.unwanted(w, NOW + POLICY.stop_grace - minutes(0.1), POLICY, may_run=True) is None
        assert decide.unwanted(w, NOW + POLICY.stop_grace, POLICY, may_run=True) == "cleared"

    def test_a_start_that_takes_too_long_is_stopped_with_a_reason_that_says_so(self) -> None:
        w = workload(Phase.STARTED, age=minutes(10.1), last_status="PROVISIONING")
        assert decide.late(w, NOW, TIMEOUT) == "not RUNNING within start_timeout (600 s): PROVISIONING"

    def test_what_runs_may_run_for_ever(self) -> None:
        assert decide.late(workload(Phase.RUNNING, age=minutes(100_000)), NOW, TIMEOUT) is None

    def test_the_reason_for_a_stop_outlives_it(self) -> None:
        stopping = decide.stopping(workload(Phase.STARTED), NOW, "too slow")
        assert stopping is not None
        new = decide.observed(stopping, ecs_task(stop_code="UserInitiated"), NOW)
        assert new is not None
        assert (new.phase, new.reason) == (Phase.EXITED, "too slow")

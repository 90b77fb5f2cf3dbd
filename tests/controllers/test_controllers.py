"""Each controller on real SQL and the model of ECS: what the world looks like afterwards."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, NoReturn
from unittest.mock import Mock

import pytest
from sqlalchemy import text

from reconciler.core.errors import StoreUnavailable
from reconciler.core.phase import Desired, Phase
from reconciler.localecs import AwsError, ResponseLost, Settings
from reconciler.store import shim
from tests.world import CLUSTER, DEPLOYMENT, FAMILY, OWNER, Replica, World

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reconciler.seams import Change, Lease

SERVER_ERROR = AwsError("ServerException", "The server failed.", 500)
THROTTLED = AwsError("ThrottlingException", "Rate exceeded")
EXPIRED = AwsError("ExpiredTokenException", "The security token included in the request is expired")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


def ended(world: World, *exec_ids: str) -> None:
    world.run_until(lambda: all(world.row(exec_id).terminal for exec_id in exec_ids))


def unwanted(world: World, *exec_ids: str) -> None:
    with world.engine.begin() as conn:
        shim.want_stop(conn, list(exec_ids), "cleared")


class TestLaunch:
    """Start what is wanted, due and within the quota."""

    def test_a_workload_runs_to_its_end_in_one_task(self, world: World) -> None:
        world.queue("a")
        ended(world, "a")
        row = world.row("a")
        assert (row.phase, row.exit_code, row.attempt) == (Phase.EXITED, 0, 1)
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]
        assert not world.live()

    def test_while_nothing_is_launching_that_is_asked_once_a_second(self, world: World) -> None:
        asked = Mock(wraps=world.replica.launch._store.launching)
        world.replica.launch._store.launching = asked  # type: ignore[method-assign]
        world.run(10, step=0.1)
        assert 9 <= asked.call_count <= 11

    def test_an_intent_whose_commit_was_not_answered_is_sent_with_the_next_pass(self, world: World) -> None:
        store = world.replica.launch._store
        save = store.save

        def unanswered(changes: Sequence[Change], lease: Lease) -> NoReturn:
            save(changes, lease)
            store.save = save  # type: ignore[method-assign]
            raise StoreUnavailable("the commit's answer was lost")

        world.run(1.5, step=0.1)  # in the middle of a second in which nothing is asked
        world.queue("a")
        store.save = unanswered  # type: ignore[method-assign]
        world.run(0.1, step=0.1)
        assert (world.row("a").phase, world.tasks()) == (Phase.LAUNCHING, [])
        world.run(0.1, step=0.1)
        assert len(world.tasks("a")) == 1

    def test_the_quota_is_filled_and_never_exceeded(self) -> None:
        world = World(max_running_tasks=3)
        world.queue(*"abcdefgh")
        most = 0
        while not all(world.row(exec_id).terminal for exec_id in "abcdefgh"):
            world.run(1)
            most = max(most, len(world.live()))
            assert most <= 3
        assert most == 3
        assert Counter(exec_id for exec_id, _, _ in world.started) == Counter("abcdefgh")
        world.close()

    def test_the_most_urgent_goes_first(self) -> None:
        world = World(max_running_tasks=1)
        world.queue("low", priority=1)
        world.queue("high", priority=9)
        ended(world, "low", "high")
        assert [exec_id for exec_id, _, _ in world.started] == ["high", "low"]
        world.close()

    @pytest.mark.parametrize("after_effect", [False, True])
    @pytest.mark.parametrize("error", [SERVER_ERROR, ResponseLost()])
    def test_an_answer_that_is_lost_starts_no_second_task(
        self, world: World, error: AwsError | ResponseLost, after_effect: bool
    ) -> None:
        world.model.faults.on_call("RunTask", error, after_effect=after_effect, times=2)
        world.queue("a")
        ended(world, "a")
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]

    def test_throttling_is_not_counted_and_not_a_new_attempt(self, world: World) -> None:
        world.model.faults.on_call("RunTask", THROTTLED, times=5)
        world.queue("a")
        ended(world, "a")
        row = world.row("a")
        assert (row.phase, row.attempt, row.start_failures) == (Phase.EXITED, 1, 0)

    def test_throttled_for_minutes_it_waits_like_any_other_and_can_be_given_back(self, world: World) -> None:
        throttled = world.model.faults.on_call("RunTask", THROTTLED, times=None)
        world.queue("a")
        world.run_until(lambda: world.row("a").phase is Phase.PENDING, within=180)
        world.run(20 * 60, step=5)
        assert 3 <= world.row("a").attempt <= 10
        world.model.faults.remove(throttled)
        ended(world, "a")
        assert (world.row("a").phase, world.row("a").start_failures) == (Phase.EXITED, 0)

    def test_expired_credentials_fail_nobody_and_are_tried_by_one_probe_at_a_time(self, world: World) -> None:
        expired = world.model.faults.on_call("RunTask", EXPIRED, times=None)
        world.queue(*[f"w{n}" for n in range(100)])
        world.run(600, step=2)
        refused = world.model.stats()["operations"]["RunTask"]["failed"]
        assert refused < 32 + 20  # those under way when it began, then one probe after each pause
        assert world.replica.gates["ecs"].reason is not None
        world.model.faults.remove(expired)
        world.run_until(lambda: len(world.started) == 100)
        assert not any(row.phase is Phase.FAILED_START for row in world.store.in_phase(*Phase).workloads)

    def test_what_is_refused_while_others_are_accepted_is_the_workloads_own_fault(self, world: World) -> None:
        denied = AwsError("AccessDeniedException", "not authorized to pass the role")
        world.model.faults.on_call(
            "RunTask", denied, times=None, where=lambda request: "/bad/" in request.get("startedBy", "")
        )
        world.queue("bad")
        for n in range(50):
            world.queue(f"good{n}")
            world.run(30, step=5)
        assert (world.row("bad").phase, world.row("bad").reason) == (
            Phase.FAILED_START,
            "AccessDeniedException: not authorized to pass the role",
        )

    def test_the_strikes_of_workloads_that_are_gone_are_forgotten(self, world: World) -> None:
        denied = AwsError("AccessDeniedException", "not authorized to pass the role")
        world.model.faults.on_call("RunTask", denied, times=None)
        for n in range(20):
            world.queue(f"w{n}")
            world.run(120, step=5)
            with world.engine.begin() as conn:
                conn.execute(text("DELETE FROM ecs_workload"))
        assert len(world.replica.launch._strikes) <= 1

    def test_want_of_capacity_is_waited_for(self, world: World) -> None:
        full = world.model.faults.on_placement("RESOURCE:CPU", times=None)
        world.queue(*[f"w{n}" for n in range(40)])
        world.run(3600, step=10)
        assert {row.phase for row in world.store.in_phase(*Phase).workloads} <= {Phase.PENDING, Phase.LAUNCHING}
        world.model.faults.remove(full)
        world.run_until(lambda: len(world.started) == 40)

    def test_a_spec_that_can_not_be_read_fails_its_workload_alone(self, world: World) -> None:
        world.queue("bad", "good")
        with world.engine.begin() as conn:
            conn.execute(text("UPDATE ecs_workload SET executor_config = 'half' WHERE exec_id = 'bad'"))
        ended(world, "good")
        assert world.row("good").phase is Phase.EXITED
        assert world.row("bad").phase is Phase.FAILED_START
        assert "executor_config in the table is not a JSON object: half" in (world.row("bad").reason or "")

    def test_a_request_that_ecs_refuses_fails_at_once_with_ecs_words(self, world: World) -> None:
        world.queue("a", spec=None)
        with world.engine.begin() as conn:
            conn.exec_driver_sql(
                "UPDATE ecs_workload SET workload = '{}', executor_config = '{\"taskDefinition\": \"nope\"}'"
            )
        ended(world, "a")
        row = world.row("a")
        assert row.phase is Phase.FAILED_START
        assert "TaskDefinition" in (row.reason or "")

    def test_what_policy_forbids_is_never_sent(self, world: World) -> None:
        world.queue("a")
        with world.engine.begin() as conn:
            conn.exec_driver_sql("UPDATE ecs_workload SET executor_config = '{\"count\": 5}'")
        ended(world, "a")
        assert world.row("a").phase is Phase.FAILED_START
        assert "count" in (world.row("a").reason or "")
        assert "RunTask" not in world.model.stats()["operations"]

    @pytest.mark.parametrize("poison", ["[1, 2]", "{", '{"tags":' + "[" * 100000, '{"group": NaN}', '"text"'])
    def test_one_poisoned_row_does_not_stop_its_neighbours(self, world: World, poison: str) -> None:
        world.queue("bad", "good")
        with world.engine.begin() as conn:
            conn.exec_driver_sql("UPDATE ecs_workload SET executor_config = ? WHERE exec_id = 'bad'", (poison,))
        ended(world, "bad", "good")
        assert (world.row("bad").phase, world.row("good").phase) == (Phase.FAILED_START, Phase.EXITED)

    def test_a_successor_waits_until_its_predecessors_container_has_ended(self, world: World) -> None:
        world.behaviour.by_exec_id["first"] = (100.0, 0)
        world.queue("first", ti_id="same")
        world.run(10)
        world.queue("second", ti_id="same")
        world.run(60)
        assert [exec_id for exec_id, _, _ in world.started] == ["first"]
        ended(world, "second")
        assert [exec_id for exec_id, _, _ in world.started] == ["first", "second"]

    def test_a_daemon_that_dies_between_intent_and_answer_is_taken_over(self, world: World) -> None:
        world.run(1)  # the first listing, which would find the task at once
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        world.queue("a")
        world.run(1)
        assert world.row("a").phase is Phase.LAUNCHING
        world.restart()
        ended(world, "a")
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]

    def test_a_lost_answer_whose_recording_failed_leaves_no_certainty_behind(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world.run(1)  # the first listing, which would find the task at once
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        world.queue("a")
        world.run(1)
        with monkeypatch.context() as broken:
            broken.setattr(world.store, "now", Mock(side_effect=StoreUnavailable("gone")))
            world.run(1)
        world.model.faults.on_call("RunTask", EXPIRED, times=3)
        ended(world, "a")
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]

    def test_a_conflict_that_names_no_task_leaves_no_certainty_behind(self, world: World) -> None:
        world.run(1)
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
        world.queue("a")
        world.run(0.5, step=0.5)
        conflict = AwsError("ConflictException", "in use", extra={"resourceIds": []})
        world.model.faults.on_call("RunTask", conflict)
        world.model.faults.on_call("RunTask", EXPIRED, times=3)
        ended(world, "a")
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]

    def test_a_few_that_can_never_be_placed_do_not_keep_out_the_rest(self, world: World) -> None:
        world.model.faults.on_placement(
            "RESOURCE:GPU", times=None, where=lambda request: "/gpu" in request.get("startedBy", "")
        )
        world.queue("gpu1", "gpu2", "gpu3", priority=9)
        world.run(30)
        names = [f"w{n}" for n in range(20)]
        world.queue(*names)
        world.run(3600, step=5)
        assert {exec_id for exec_id, _, _ in world.started} == set(names)

    def test_an_unwanted_launch_that_provably_never_happened_is_cancelled_and_not_sent(self, world: World) -> None:
        throttled = world.model.faults.on_call("RunTask", THROTTLED, times=None)
        world.queue("a")
        world.run(5)
        unwanted(world, "a")
        world.model.faults.remove(throttled)
        ended(world, "a")
        assert world.row("a").phase is Phase.CANCELLED
        assert not world.tasks("a")


class TestAdopt:
    """Match what ECS shows to what was asked for."""

    def lost_answer(self, world: World, minutes: float, *, after_effect: bool) -> None:
        """RunTask's answer is lost, and the daemon with it, for so long."""
        world.run(1)  # the first listing, which would find the task at once
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=after_effect)
        world.queue("a")
        world.run(1)
        world.replica.close()
        world.run(minutes * 60, daemon=False)
        world.restart()

    def test_a_task_whose_answer_was_lost_is_found_by_listing(self, world: World) -> None:
        world.behaviour.seconds = 7200
        self.lost_answer(world, 30, after_effect=True)
        world.run(61)
        assert world.row("a").phase is Phase.RUNNING
        assert world.replica.orphans == ["adopted"]
        assert len(world.tasks("a")) == 1

    def test_a_task_that_was_never_made_is_launched_once_its_absence_is_proven(self, world: World) -> None:
        self.lost_answer(world, 25, after_effect=False)
        world.run(10 * 60, step=10)
        assert world.row("a").phase is Phase.LAUNCHING
        ended(world, "a")
        assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 2)]

    def test_while_ecs_hides_tasks_that_are_known_absence_proves_nothing(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.queue("known")
        world.run(10)
        self.lost_answer(world, 41, after_effect=True)
        for task in world.tasks():
            world.model.faults.hide(task["taskArn"])
        world.run(130, step=5)
        assert world.row("a").phase is Phase.LAUNCHING
        world.model.faults.clear()
        world.run(130, step=5)
        assert (world.row("a").phase, world.row("a").attempt) == (Phase.RUNNING, 1)

    def test_after_an_hour_nothing_can_be_proven_and_nothing_is_launched_again(self, world: World) -> None:
        self.lost_answer(world, 65, after_effect=False)
        world.run(120)
        assert world.row("a").phase is Phase.LOST
        assert not world.started

    def test_a_stopped_task_whose_answer_was_lost_is_found_in_time(self, world: World) -> None:
        self.lost_answer(world, 45, after_effect=True)
        ended(world, "a")
        assert (world.row("a").phase, world.row("a").exit_code) == (Phase.EXITED, 0)

    def test_missing_right_after_a_launch_means_nothing(self) -> None:
        world = World(Settings(visibility_lag=90, list_lag=120, rates={}))
        world.behaviour.seconds = 300
        world.queue("a")
        ended(world, "a")
        assert (world.row("a").phase, world.row("a").attempt) == (Phase.EXITED, 1)
        world.close()

    def test_a_task_that_ecs_has_forgotten_is_lost(self, world: World) -> None:
        world.queue("a")
        world.run(5)
        world.replica.close()
        world.run(2 * 3600, daemon=False)
        world.restart()
        world.run(290)
        assert world.row("a").phase is Phase.RUNNING
        world.run(20)
        assert world.row("a").phase is Phase.LOST

    def test_a_task_that_was_launched_long_after_its_intent_may_be_missing_for_a_while_too(self) -> None:
        world = World(Settings(visibility_lag=90, list_lag=120, rates={}))
        world.behaviour.seconds = 600
        away = world.model.faults.on_call("RunTask", SERVER_ERROR, times=None)
        world.queue("a")
        world.run(12 * 60, step=5)
        world.model.faults.remove(away)
        ended(world, "a")
        assert (world.row("a").phase, world.row("a").attempt) == (Phase.EXITED, 1)
        world.close()

    def test_misses_from_an_earlier_term_are_not_misses_in_a_row(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.queue("a")
        world.run(400, step=10)
        arn = world.tasks("a")[0]["taskArn"]
        world.model.faults.hide(arn)
        world.run(2)
        first, world.replica = world.replica, Replica(world, "second")
        world.model.faults.show(arn)
        world.run(1200, step=10)
        world.replica.close()
        world.run(20, daemon=False)
        world.replica = first
        world.model.faults.hide(arn)
        world.run(5)
        assert world.row("a").phase is Phase.RUNNING

    def test_when_everything_is_missing_nothing_is_declared_lost(self, world: World) -> None:
        world.behaviour.seconds = 7200
        names = [f"w{n}" for n in range(20)]
        world.queue(*names)
        world.run(400, step=10)
        for task in world.tasks():
            world.model.faults.hide(task["taskArn"])
        world.run(600, step=10)
        assert world.replica.adopt.missing_breaker.tripped
        assert {world.row(name).phase for name in names} == {Phase.RUNNING}
        world.model.faults.clear()
        world.run(5)
        assert not world.replica.adopt.missing_breaker.tripped

    def test_what_nobody_wants_does_not_hide_from_the_breaker_that_all_others_are_missing(self) -> None:
        world = World(max_running_tasks=50)
        world.behaviour.seconds = 7200
        wanted, others = [f"a{n}" for n in range(10)], [f"b{n}" for n in range(40)]
        world.queue(*wanted, *others)
        world.run(400, step=10)
        for name in wanted:
            world.model.faults.hide(world.row(name).task_arn or "")
        world.run(200, step=10)
        unwanted(world, *others)
        world.run(130, step=10)
        assert {world.row(name).phase for name in others} == {Phase.RUNNING}
        assert world.replica.adopt.missing_breaker.tripped
        assert {world.row(name).phase for name in wanted} == {Phase.RUNNING}
        world.close()

    def test_what_was_launched_while_ecs_shows_nothing_counts_although_it_is_not_overdue_yet(
        self, world: World
    ) -> None:
        world.behaviour.seconds = 7200
        world.queue("first")
        world.run(10)
        world.model.faults.hide(world.row("first").task_arn or "")
        world.run(100, step=10)
        later = [f"w{n}" for n in range(11)]
        world.queue(*later)
        world.run(120, step=10)
        for name in later:
            world.model.faults.hide(world.row(name).task_arn or "")
        world.run(100, step=10)
        assert world.replica.adopt.missing_breaker.tripped
        assert world.row("first").phase is Phase.RUNNING

    def test_a_full_quota_that_ecs_has_forgotten_empties_as_airflow_gives_its_tasks_up(self) -> None:
        world = World(max_running_tasks=20)
        names = [f"w{n}" for n in range(20)]
        world.queue(*names)
        world.run(8)
        world.replica.close()
        world.run(2 * 3600, daemon=False)
        world.restart()
        world.queue("next")
        world.run(600, step=5)
        assert world.replica.adopt.missing_breaker.tripped
        unwanted(world, *names)
        world.run(900, step=5)
        assert {world.row(name).phase for name in names} == {Phase.LOST}
        assert world.row("next").phase is Phase.EXITED
        world.close()

    def test_a_cluster_that_can_not_be_asked_hides_no_other(self, world: World) -> None:
        world.behaviour.seconds = 60
        world.queue("here", "there")
        world.run(5)
        with world.engine.begin() as conn:
            conn.exec_driver_sql(
                "UPDATE ecs_workload SET cluster = 'a-gone', version = version + 1 WHERE exec_id = 'there'"
            )
        world.run(120, step=2)
        assert world.row("here").phase is Phase.EXITED
        assert world.replica.errors

    def foreign(self, world: World, started_by: str) -> str:
        request = {
            "cluster": CLUSTER,
            "taskDefinition": FAMILY,
            "launchType": "FARGATE",
            "startedBy": started_by,
            "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
            "overrides": {"containerOverrides": [{"name": "airflow", "command": ["x", "foreign", "1"]}]},
        }
        arn: str = world.model.call("RunTask", request, world.ecs_now)["tasks"][0]["taskArn"]
        return arn

    def test_a_task_of_ours_that_no_row_claims_is_stopped_after_its_grace(self, world: World) -> None:
        world.behaviour.seconds = 1e6
        arn = self.foreign(world, f"{DEPLOYMENT}/nobody/1")
        world.run(590, step=5)
        assert [task["taskArn"] for task in world.live()] == [arn]
        world.run(300, step=5)
        assert not world.live()
        assert world.replica.orphans == ["stopped"]

    @pytest.mark.parametrize("started_by", ["other/a/1", "somebody", f"{DEPLOYMENT}x/a/1", f"{DEPLOYMENT}/a"])
    def test_tasks_of_others_are_never_touched(self, world: World, started_by: str) -> None:
        world.behaviour.seconds = 1e6
        arn = self.foreign(world, started_by)
        world.run(3600, step=20)
        assert [task["taskArn"] for task in world.live()] == [arn]

    def test_when_most_tasks_look_like_orphans_none_is_stopped(self, world: World) -> None:
        world.behaviour.seconds = 1e6
        for n in range(12):
            self.foreign(world, f"{DEPLOYMENT}/nobody{n}/1")
        world.run(3600, step=20)
        assert len(world.live()) == 12
        assert world.replica.adopt.orphan_breaker.tripped

    def test_a_second_task_of_a_claimed_workload_is_an_orphan(self, world: World) -> None:
        world.behaviour.seconds = 1e6
        world.queue("a")
        world.run(10)
        self.foreign(world, f"{DEPLOYMENT}/a/7")
        world.run(900, step=5)
        assert [task["startedBy"] for task in world.live()] == [f"{DEPLOYMENT}/a/1"]


class TestRetry:
    """Give a start another try, but only with proof that no user code ran."""

    def test_a_start_that_failed_is_tried_again(self, world: World) -> None:
        world.model.faults.on_start("CannotPullContainerError: no such image", times=2)
        world.queue("a")
        ended(world, "a")
        row = world.row("a")
        assert (row.phase, row.attempt, row.start_failures) == (Phase.EXITED, 3, 2)
        assert len(world.started) == 1

    def test_the_last_failed_start_fails_the_workload_with_ecs_words(self, world: World) -> None:
        world.model.faults.on_start("CannotPullContainerError: no such image", times=None)
        world.queue("a")
        ended(world, "a")
        row = world.row("a")
        assert (row.phase, row.attempt) == (Phase.FAILED_START, 3)
        assert "CannotPullContainerError: no such image" in (row.reason or "")
        assert not world.started

    @pytest.mark.parametrize("code", [0, 1, 137])
    def test_what_ran_is_never_launched_again_by_us(self, world: World, code: int) -> None:
        world.behaviour.exit_code = code
        world.queue("a")
        world.run(600, step=10)
        assert (world.row("a").phase, world.row("a").exit_code) == (Phase.EXITED, code)
        assert len(world.started) == 1

    def refuse(self, world: World, *admitted: str) -> None:
        """What the shim does: task instances are still QUEUED after their container's end, except for `admitted`."""
        with world.engine.begin() as conn:
            rows = [w for w in shim.undelivered(conn, DEPLOYMENT, OWNER, 1000).workloads if not w.refused]
            shim.acknowledge(conn, [w for w in rows if w.exec_id in admitted])
            shim.refuse(conn, [w for w in rows if w.exec_id not in admitted])

    def test_a_container_that_airflow_never_admitted_is_launched_again(self, world: World) -> None:
        world.queue("a")
        ended(world, "a")
        self.refuse(world)
        world.run(10)
        ended(world, "a")
        assert [n for _, n, _ in world.started] == [1, 2]
        assert world.row("a").start_failures == 1

    def test_a_lone_workload_does_not_run_out_of_attempts_while_the_api_server_is_down(self, world: World) -> None:
        world.queue("before")
        ended(world, "before")
        self.refuse(world, "before")
        world.behaviour.exit_code = 1
        world.queue("a")
        for _ in range(45 * 6):
            world.run(10, step=10)
            self.refuse(world)
        assert world.row("a").start_failures == 0
        assert 18 <= world.row("a").attempt <= 50  # two minutes apart at last

    def test_a_refusal_that_can_not_be_written_is_not_another_one(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: object) -> NoReturn:
            raise StoreUnavailable("the database is down for writing")

        world.queue("a")
        ended(world, "a")
        self.refuse(world)
        with monkeypatch.context() as patched:
            patched.setattr(world.store, "save", fail)
            world.run(50, step=1)
        assert world.replica.gates["api_server"].reason is None
        world.run(60)
        assert [n for _, n, _ in world.started] == [1, 2]

    def test_a_lone_workload_that_is_refused_while_others_are_admitted_is_counted(self, world: World) -> None:
        world.behaviour.by_exec_id["broken"] = (5.0, 1)
        world.queue("broken")
        good = [f"good{n}" for n in range(6)]
        for name in good:
            world.queue(name)
            world.run(30)
            self.refuse(world, *good)
        assert world.row("broken").start_failures >= 2

    def test_while_airflows_api_server_is_down_launches_are_held_and_nobody_runs_out_of_attempts(
        self, world: World
    ) -> None:
        world.behaviour.exit_code = 1
        names = [f"w{n}" for n in range(30)]
        world.queue(*names)
        for _ in range(6 * 60):
            world.run(5, step=5)
            self.refuse(world)
        assert world.replica.gates["api_server"].reason is not None
        assert all(world.row(name).start_failures <= 1 for name in names)
        assert len(world.started) < 30 + 32 + 40
        world.behaviour.exit_code = 0
        world.behaviour.seconds = 600
        for _ in range(15 * 6):
            world.run(10, step=10)
            # Only those that had begun before are refused now.
            self.refuse(world, *[name for name in names if world.row(name).exit_code == 0])
        assert {world.row(name).phase for name in names} <= {Phase.RUNNING, Phase.EXITED}
        assert not any(world.row(name).refused for name in names)
        assert world.replica.gates["api_server"].reason is None


class TestCleanup:
    """End what is not wanted any more."""

    def test_a_pending_workload_is_cancelled(self) -> None:
        world = World(max_running_tasks=1)
        world.behaviour.seconds = 7200
        world.queue("a")
        world.run(2)
        world.queue("b")
        unwanted(world, "b")
        world.run(2)
        assert (world.row("b").phase, world.row("b").reason) == (Phase.CANCELLED, "cleared")
        world.close()

    def test_a_start_is_stopped_at_once(self, world: World) -> None:
        world.model.faults.on_start(None, times=None)
        world.queue("a")
        world.run(5)
        unwanted(world, "a")
        ended(world, "a")
        assert not world.live()
        assert not world.started

    def test_a_start_that_runs_by_now_unseen_gets_the_time_to_end_itself(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.queue("a")
        world.run(1)
        assert world.row("a").phase is Phase.STARTED
        world.run(20, daemon=False)
        unwanted(world, "a")
        world.replica.cleanup.reconcile(world.lease())
        world.run(120)
        assert [task["desiredStatus"] for task in world.tasks("a")] == ["RUNNING"]
        ended(world, "a")

    def test_what_waits_is_cancelled_although_ecs_can_not_be_asked_about_the_starts(self, world: World) -> None:
        world.model.faults.on_start(None, times=None)
        world.queue("a")
        world.run(5)
        world.replica.launch = SimpleNamespace(name="launch", reconcile=lambda _: None)  # type: ignore[assignment] # nothing more is launched
        world.queue("b")
        unwanted(world, "a", "b")
        world.model.faults.on_call("DescribeTasks", SERVER_ERROR, times=None)
        world.run(2)
        assert world.row("b").phase is Phase.CANCELLED

    def test_a_running_container_gets_the_time_to_end_itself(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.queue("a")
        world.run(10)
        unwanted(world, "a")
        world.run(130)
        assert world.row("a").phase is Phase.RUNNING
        world.run(30)
        assert (world.row("a").phase, world.row("a").desired) == (Phase.EXITED, Desired.STOP)
        assert not world.live()

    def test_a_start_that_takes_too_long_is_stopped(self, world: World) -> None:
        world.model.faults.on_start(None, times=None)
        world.queue("a")
        world.run(590, step=5)
        assert world.row("a").phase is Phase.STARTED
        world.run(30)
        assert not world.live()
        assert "start_timeout" in (world.row("a").reason or "")

    def test_a_start_that_was_late_only_because_nobody_looked_is_left_running(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.queue("a")
        world.run(1)
        assert world.row("a").phase is Phase.STARTED
        world.replica.close()
        world.run(1800, daemon=False)
        world.restart()
        assert world.replica.cleanup.reconcile(world.lease()).changed == 0
        world.run(5)
        assert world.row("a").phase is Phase.RUNNING

    def test_a_start_that_ecs_does_not_show_is_not_called_late(self) -> None:
        """A fleet that has just started, and then ECS hides it: its containers run."""
        world = World()
        world.behaviour.seconds = 7200
        names = [f"w{n}" for n in range(12)]
        world.queue(*names)
        world.run_until(lambda: {world.row(name).phase for name in names} == {Phase.STARTED})
        for task in world.tasks():
            world.model.faults.hide(task["taskArn"])
        world.run(1200, step=10)
        assert {world.row(name).phase for name in names} == {Phase.STARTED}
        world.model.faults.clear()
        world.run(10)
        assert {world.row(name).phase for name in names} == {Phase.RUNNING}
        world.close()

    def test_an_unwanted_launch_with_a_lost_answer_is_found_and_stopped(self, world: World) -> None:
        world.behaviour.seconds = 7200
        world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True, times=3)
        world.queue("a")
        world.run(1)
        unwanted(world, "a")
        world.run_until(lambda: world.row("a").terminal)
        assert not world.live()

    def test_a_lost_answer_to_a_stop_is_repeated(self, world: World) -> None:
        world.model.faults.on_start(None, times=None)
        world.model.faults.on_call("StopTask", ResponseLost(), times=3)
        world.queue("a")
        world.run(5)
        unwanted(world, "a")
        ended(world, "a")
        assert not world.live()

    def test_rows_are_forgotten_only_when_acknowledged_and_old(self, world: World) -> None:
        world.queue("told", "untold")
        ended(world, "told", "untold")
        with world.engine.begin() as conn:
            shim.acknowledge(conn, [world.row("told")])
        world.run(47 * 3600, step=600)
        assert len(world.store.find(["told", "untold"]).workloads) == 2
        world.run(2 * 3600, step=600)
        assert [w.exec_id for w in world.store.find(["told", "untold"]).workloads] == ["untold"]


class TestTwoReplicas:
    """A leader that was paused can do no harm."""

    def test_only_the_leader_acts(self, world: World) -> None:
        other = Replica(world, "other")
        world.queue(*"abc")
        for _ in range(60):
            world.run(1)
            other.step()
        assert Counter(exec_id for exec_id, _, _ in world.started) == Counter("abc")
        assert not other.answers
        other.close()

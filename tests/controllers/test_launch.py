"""Launch: start what is wanted, due and within the quota."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NoReturn
from unittest.mock import Mock

import pytest
from sqlalchemy import text

from reconciler.core.errors import StoreUnavailable
from reconciler.core.phase import Phase
from reconciler.core.task import Spec
from reconciler.localecs import AwsError, ResponseLost
from tests.controllers.steps import SERVER_ERROR, ended, unwanted
from tests.world import World

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reconciler.seams import Change, Lease

THROTTLED = AwsError("ThrottlingException", "Rate exceeded")
EXPIRED = AwsError("ExpiredTokenException", "The security token included in the request is expired")


def test_a_workload_runs_to_its_end_in_one_task(world: World) -> None:
    world.queue("a")
    ended(world, "a")
    row = world.row("a")
    assert (row.phase, row.exit_code, row.attempt) == (Phase.EXITED, 0, 1)
    assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]
    assert not world.live()


def test_while_nothing_is_launching_that_is_asked_once_a_second(world: World) -> None:
    asked = Mock(wraps=world.replica.launch._store.launching)
    world.replica.launch._store.launching = asked  # type: ignore[method-assign]
    world.run(10, step=0.1)
    assert 9 <= asked.call_count <= 11


@pytest.mark.parametrize(("under_way", "asked"), [(25, False), (24, True)])
def test_while_most_calls_are_under_way_no_others_are_begun(
    world: World, under_way: int, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To count the quota for each that ends would take the database more than all the rest."""
    calls, store = world.replica.launch._calls, world.replica.launch._store
    counted = Mock(wraps=store.counts_here)
    monkeypatch.setattr(store, "counts_here", counted)
    monkeypatch.setattr(calls, "under_way", lambda: {(f"w{n}", 1) for n in range(under_way)})
    monkeypatch.setattr(calls, "room", lambda: 32 - under_way)
    world.queue("a")
    world.replica.launch.reconcile(world.lease())
    assert counted.called is asked
    assert world.row("a").phase is (Phase.LAUNCHING if asked else Phase.PENDING)


def test_an_intent_whose_commit_was_not_answered_is_sent_with_the_next_pass(world: World) -> None:
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


def test_the_quota_is_filled_and_never_exceeded() -> None:
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


def test_the_most_urgent_goes_first() -> None:
    world = World(max_running_tasks=1)
    world.queue("low", priority=1)
    world.queue("high", priority=9)
    ended(world, "low", "high")
    assert [exec_id for exec_id, _, _ in world.started] == ["high", "low"]
    world.close()


@pytest.mark.parametrize("after_effect", [False, True])
@pytest.mark.parametrize("error", [SERVER_ERROR, ResponseLost()])
def test_an_answer_that_is_lost_starts_no_second_task(
    world: World, error: AwsError | ResponseLost, after_effect: bool
) -> None:
    world.model.faults.on_call("RunTask", error, after_effect=after_effect, times=2)
    world.queue("a")
    ended(world, "a")
    assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]


def test_throttling_is_not_counted_and_not_a_new_attempt(world: World) -> None:
    world.model.faults.on_call("RunTask", THROTTLED, times=5)
    world.queue("a")
    ended(world, "a")
    row = world.row("a")
    assert (row.phase, row.attempt, row.start_failures) == (Phase.EXITED, 1, 0)


def test_throttled_for_minutes_it_waits_like_any_other_and_can_be_given_back(world: World) -> None:
    throttled = world.model.faults.on_call("RunTask", THROTTLED, times=None)
    world.queue("a")
    world.run_until(lambda: world.row("a").phase is Phase.PENDING, within=180)
    world.run(20 * 60, step=5)
    assert 3 <= world.row("a").attempt <= 10
    world.model.faults.remove(throttled)
    ended(world, "a")
    assert (world.row("a").phase, world.row("a").start_failures) == (Phase.EXITED, 0)


def test_expired_credentials_fail_nobody_and_are_tried_by_one_probe_at_a_time(world: World) -> None:
    expired = world.model.faults.on_call("RunTask", EXPIRED, times=None)
    world.queue(*[f"w{n}" for n in range(100)])
    world.run(600, step=2)
    refused = world.model.stats()["operations"]["RunTask"]["failed"]
    assert refused < 32 + 20  # those under way when it began, then one probe after each pause
    assert world.replica.gates["ecs"].reason is not None
    world.model.faults.remove(expired)
    world.run_until(lambda: len(world.started) == 100)
    assert not any(row.phase is Phase.FAILED_START for row in world.store.in_phase(*Phase).workloads)


def test_what_is_refused_while_others_are_accepted_is_the_workloads_own_fault(world: World) -> None:
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


def test_the_strikes_of_workloads_that_are_gone_are_forgotten(world: World) -> None:
    denied = AwsError("AccessDeniedException", "not authorized to pass the role")
    world.model.faults.on_call("RunTask", denied, times=None)
    for n in range(20):
        world.queue(f"w{n}")
        world.run(120, step=5)
        with world.engine.begin() as conn:
            conn.execute(text("DELETE FROM ecs_workload"))
    assert len(world.replica.launch._strikes) <= 1


def test_want_of_capacity_is_waited_for(world: World) -> None:
    full = world.model.faults.on_placement("RESOURCE:CPU", times=None)
    world.queue(*[f"w{n}" for n in range(40)])
    world.run(3600, step=10)
    assert {row.phase for row in world.store.in_phase(*Phase).workloads} <= {Phase.PENDING, Phase.LAUNCHING}
    world.model.faults.remove(full)
    world.run_until(lambda: len(world.started) == 40)


def test_a_spec_that_can_not_be_read_fails_its_workload_alone(world: World) -> None:
    world.queue("bad", "good")
    with world.engine.begin() as conn:
        conn.execute(text("UPDATE ecs_workload SET executor_config = 'half' WHERE exec_id = 'bad'"))
    ended(world, "good")
    assert world.row("good").phase is Phase.EXITED
    assert world.row("bad").phase is Phase.FAILED_START
    assert "executor_config in the table is not a JSON object: half" in (world.row("bad").reason or "")


def test_a_request_that_ecs_refuses_fails_at_once_with_ecs_words(world: World) -> None:
    world.queue("a", spec=None)
    with world.engine.begin() as conn:
        conn.exec_driver_sql(
            "UPDATE ecs_workload SET workload = '{}', executor_config = '{\"taskDefinition\": \"nope\"}'"
        )
    ended(world, "a")
    row = world.row("a")
    assert row.phase is Phase.FAILED_START
    assert "TaskDefinition" in (row.reason or "")


def test_what_policy_forbids_is_never_sent(world: World) -> None:
    world.queue("a")
    with world.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET executor_config = '{\"count\": 5}'")
    ended(world, "a")
    assert world.row("a").phase is Phase.FAILED_START
    assert "count" in (world.row("a").reason or "")
    assert "RunTask" not in world.model.stats()["operations"]


@pytest.mark.parametrize("poison", ["[1, 2]", "{", '{"tags":' + "[" * 100000, '{"group": NaN}', '"text"'])
def test_one_poisoned_row_does_not_stop_its_neighbours(world: World, poison: str) -> None:
    world.queue("bad", "good")
    with world.engine.begin() as conn:
        conn.exec_driver_sql("UPDATE ecs_workload SET executor_config = ? WHERE exec_id = 'bad'", (poison,))
    ended(world, "bad", "good")
    assert (world.row("bad").phase, world.row("good").phase) == (Phase.FAILED_START, Phase.EXITED)


@pytest.mark.parametrize("cpu", ["9" * 11, "9" * 20, "9" * 5000, "9999999 vCPU"], ids=["11", "20", "5000", "vcpu"])
def test_a_task_of_an_absurd_size_does_not_stop_its_neighbours(world: World, cpu: str) -> None:
    world.queue("bad", spec=Spec("{}", {"overrides": {"cpu": cpu}}))
    world.queue("good")
    ended(world, "bad", "good")
    assert (world.row("bad").phase, world.row("good").phase) == (Phase.FAILED_START, Phase.EXITED)
    assert "cpu" in (world.row("bad").reason or "")


def test_a_successor_waits_until_its_predecessors_container_has_ended(world: World) -> None:
    world.behaviour.by_exec_id["first"] = (100.0, 0)
    world.queue("first", ti_id="same")
    world.run(10)
    world.queue("second", ti_id="same")
    world.run(60)
    assert [exec_id for exec_id, _, _ in world.started] == ["first"]
    ended(world, "second")
    assert [exec_id for exec_id, _, _ in world.started] == ["first", "second"]


def test_a_daemon_that_dies_between_intent_and_answer_is_taken_over(world: World) -> None:
    world.run(1)  # the first listing, which would find the task at once
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
    world.queue("a")
    world.run(1)
    assert world.row("a").phase is Phase.LAUNCHING
    world.restart()
    ended(world, "a")
    assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]


def test_a_lost_answer_whose_recording_failed_leaves_no_certainty_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
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


@pytest.mark.parametrize("made", [True, False])
def test_an_answer_to_what_was_withdrawn_during_its_call_is_not_lost(world: World, made: bool) -> None:
    """What is asked under this token from now on is another request, to which ECS repeats no `failures[]`."""
    world.run(1)  # the first listing, which would find the task at once
    world.model.faults.on_call("RunTask", ResponseLost())
    world.queue("a")
    world.run_until(lambda: world.row("a").phase is Phase.LAUNCHING)
    if not made:
        world.model.faults.on_placement("RESOURCE:MEMORY")
    answers = len(world.replica.answers)
    world.run_until(lambda: len(world.replica.answers) > answers)
    world.run_until(lambda: bool(world.replica.calls.under_way()))
    unwanted(world, "a")
    world.turn()
    assert world.row("a").phase is (Phase.STOPPING if made else Phase.CANCELLED)
    ended(world, "a")
    assert len(world.tasks("a")) == made


def test_a_conflict_that_names_no_task_leaves_no_certainty_behind(world: World) -> None:
    world.run(1)
    world.model.faults.on_call("RunTask", ResponseLost(), after_effect=True)
    world.queue("a")
    world.run(0.5, step=0.5)
    conflict = AwsError("ConflictException", "in use", extra={"resourceIds": []})
    world.model.faults.on_call("RunTask", conflict)
    world.model.faults.on_call("RunTask", EXPIRED, times=3)
    ended(world, "a")
    assert [(exec_id, n) for exec_id, n, _ in world.started] == [("a", 1)]


def test_a_few_that_can_never_be_placed_do_not_keep_out_the_rest(world: World) -> None:
    world.model.faults.on_placement(
        "RESOURCE:GPU", times=None, where=lambda request: "/gpu" in request.get("startedBy", "")
    )
    world.queue("gpu1", "gpu2", "gpu3", priority=9)
    world.run(30)
    names = [f"w{n}" for n in range(20)]
    world.queue(*names)
    world.run(3600, step=5)
    assert {exec_id for exec_id, _, _ in world.started} == set(names)


def test_an_unwanted_launch_that_provably_never_happened_is_cancelled_and_not_sent(world: World) -> None:
    throttled = world.model.faults.on_call("RunTask", THROTTLED, times=None)
    world.queue("a")
    world.run(5)
    unwanted(world, "a")
    world.model.faults.remove(throttled)
    ended(world, "a")
    assert world.row("a").phase is Phase.CANCELLED
    assert not world.tasks("a")

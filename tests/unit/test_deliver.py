"""What a scheduler does about a terminal workload."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.deliver import (
    Acknowledge,
    CallbackView,
    Fail,
    Refuse,
    Succeed,
    TaskInstanceView,
    Verdict,
    Wait,
    deliver_callback,
    deliver_task,
)
from reconciler.core.phase import TERMINAL, Desired, Phase
from reconciler.core.task import Kind, TaskKey, Workload

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
ENDED = NOW - timedelta(seconds=30)
ROW = Workload(
    exec_id="x",
    deployment="d",
    ti_id="t",
    key=TaskKey("dag", "task", "run", -1, 1),
    phase=Phase.EXITED,
    attempt=1,
    exit_code=1,
    stopped_at=ENDED,
    updated_at=ENDED,
    reason="EssentialContainerExited",
)
TI = TaskInstanceView(id="t", state="queued", try_number=1, external_executor_id="x")


def verdict(row: dict[str, Any], ti: dict[str, Any] | None, *, newest: bool = True) -> Verdict:
    view = None if ti is None else replace(TI, **ti)
    return deliver_task(replace(ROW, **row), view, NOW, max_run_task_attempts=3, newest=newest)


def test_a_container_that_was_never_admitted_may_be_launched_again() -> None:
    assert verdict({}, {}) == Refuse()
    assert verdict({"exit_code": 0}, {}) == Refuse()


def test_a_refused_workload_waits_for_the_daemon() -> None:
    assert isinstance(verdict({"refused": True}, {}), Wait)


def test_the_last_refusal_fails_the_task_with_its_reason() -> None:
    said = verdict({"start_failures": 2, "attempt": 3}, {})
    assert isinstance(said, Fail)
    assert "exit code 1" in said.info
    assert "after 3 attempts" in said.info
    assert "EssentialContainerExited" in said.info


@pytest.mark.parametrize("phase", [Phase.FAILED_START, Phase.LOST, Phase.CANCELLED])
def test_what_can_not_be_launched_again_fails_the_queued_task(phase: Phase) -> None:
    assert isinstance(verdict({"phase": phase}, {}), Fail)


def test_an_unwanted_workload_is_not_launched_again() -> None:
    assert isinstance(verdict({"desired": Desired.STOP}, {}), Fail)


def test_a_running_task_whose_container_ended_has_failed() -> None:
    assert isinstance(verdict({}, {"state": "running", "last_heartbeat_at": ENDED - timedelta(seconds=1)}), Fail)
    assert isinstance(verdict({}, {"state": "running"}), Fail)


def test_a_heartbeat_from_after_the_end_proves_that_something_else_runs_it() -> None:
    assert isinstance(verdict({}, {"state": "running", "last_heartbeat_at": ENDED + timedelta(seconds=1)}), Wait)


def test_a_lost_container_that_was_heard_a_moment_ago_is_not_declared_dead() -> None:
    just_now = {"state": "running", "last_heartbeat_at": NOW - timedelta(seconds=45)}
    assert isinstance(verdict({"phase": Phase.LOST}, just_now), Wait)
    assert isinstance(verdict({"phase": Phase.LOST}, {**just_now, "last_heartbeat_at": NOW - timedelta(90)}), Fail)


def test_a_task_cleared_while_it_ran_hears_that_it_has_ended() -> None:
    assert verdict({}, {"state": "restarting", "id": "another"}) == Succeed()


def test_only_the_newest_workload_speaks_for_a_restarting_task() -> None:
    assert isinstance(verdict({}, {"state": "restarting", "id": "another"}, newest=False), Acknowledge)
    assert isinstance(verdict({}, {"state": "restarting", "try_number": 2}), Acknowledge)


@pytest.mark.parametrize(
    "state",
    [None, "scheduled", "deferred", "awaiting_input", "up_for_retry", "up_for_reschedule", "success", "failed"],
)
def test_a_task_that_has_moved_on_is_left_alone(state: str | None) -> None:
    assert isinstance(verdict({}, {"state": state}), Acknowledge)


def test_a_task_queued_again_is_not_this_workloads_business() -> None:
    assert isinstance(verdict({}, {"external_executor_id": "y"}), Acknowledge)
    assert isinstance(verdict({}, {"external_executor_id": "y", "state": "running"}), Acknowledge)
    assert isinstance(verdict({}, None), Acknowledge)


states = st.sampled_from([None, "scheduled", "queued", "running", "restarting", "success", "failed", "deferred"])


@given(st.sampled_from(sorted(TERMINAL)), states, st.booleans(), st.integers(0, 5), st.sampled_from(["x", "y", None]))
def test_success_is_told_to_restarting_tasks_only(
    phase: Phase, state: str | None, refused: bool, failures: int, executor_id: str | None
) -> None:
    said = verdict(
        {"phase": phase, "refused": refused, "start_failures": failures},
        {"state": state, "external_executor_id": executor_id},
    )
    assert isinstance(said, Succeed) == (state == "restarting")
    if isinstance(said, Fail | Refuse):
        assert state in ("queued", "running")
        assert executor_id == "x"


@pytest.mark.parametrize(
    ("phase", "code", "state", "expected"),
    [
        (Phase.EXITED, 0, "running", Succeed),
        (Phase.EXITED, 0, "queued", Succeed),
        (Phase.EXITED, 1, "running", Fail),
        (Phase.EXITED, None, "running", Fail),
        (Phase.LOST, None, "running", Fail),
        (Phase.FAILED_START, None, "queued", Fail),
        (Phase.EXITED, 0, "success", Acknowledge),
        (Phase.LOST, None, "failed", Acknowledge),
    ],
)
def test_a_callbacks_exit_code_is_its_outcome(
    phase: Phase, code: int | None, state: str, expected: type[Verdict]
) -> None:
    row = replace(ROW, kind=Kind.CALLBACK, phase=phase, exit_code=code)
    assert isinstance(deliver_callback(row, CallbackView(state)), expected)


def test_a_callback_that_is_gone_needs_nothing() -> None:
    assert isinstance(deliver_callback(ROW, None), Acknowledge)

"""The shim inside a real Airflow: real scheduler, real Execution API, tasks as processes of a local ECS."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from reconciler.core.phase import Phase
from reconciler.demo.stack import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

    from reconciler.demo.stack import Stack
    from tests.airflow.conftest import Scenario, Scenarios

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1200)]

TOKEN = re.compile(r"eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,}")


def test_a_task_that_succeeds_runs_once_in_one_ecs_task(plain: dict[str, Scenario]) -> None:
    scenario = plain["succeeds"]
    scenario.assert_clean()
    (w,) = scenario.launched()
    assert (w.phase, w.exit_code) == (Phase.EXITED, 0)
    assert scenario.evidence == [["ran", w.exec_id, "1"]]


def test_a_task_that_fails_is_failed_though_its_container_exits_with_0(plain: dict[str, Scenario]) -> None:
    scenario = plain["fails"]
    scenario.assert_clean()
    (w,) = scenario.launched()
    assert (scenario.state, w.phase, w.exit_code) == ("failed", Phase.EXITED, 0)


def test_a_retry_is_a_new_queueing_with_an_ecs_task_of_its_own(plain: dict[str, Scenario]) -> None:
    scenario = plain["retries"]
    scenario.assert_clean()
    first, second = scenario.launched()
    assert scenario.evidence == [["ran", first.exec_id, "1"], ["ran", second.exec_id, "2"]]


def test_a_deferred_task_resumes_in_new_ecs_tasks_within_the_same_try(plain: dict[str, Scenario]) -> None:
    scenario = plain["defers"]
    scenario.assert_clean()
    launched = scenario.launched()
    assert [w.key.try_number for w in launched] == [1, 1, 1]
    assert scenario.evidence == [["ran", w.exec_id, "1"] for w in launched]


def test_a_task_cleared_while_it_runs_runs_again_after_its_container_has_ended(scenarios: Scenarios) -> None:
    scenario = scenarios.start("holds")
    scenario.wait_for_code()
    scenario.clear()
    scenario.stack.wait("its second start", lambda: len(scenario.evidence) == 2, 240)
    scenario.release()
    scenario.wait_for("success")
    scenario.assert_clean()
    first, second = scenario.launched()
    assert [what for what, *_ in scenario.evidence] == ["ran", "ran", "ended"]
    assert scenario.evidence[-1][1] == second.exec_id
    assert first.stopped_at is not None
    assert second.intent_at is not None
    assert first.stopped_at <= second.intent_at


def test_a_task_marked_failed_in_the_ui_ends_its_container(scenarios: Scenarios) -> None:
    scenario = scenarios.start("holds")
    scenario.wait_for_code()
    scenario.stack.api.mark(scenario.dag_id, scenario.run_id, "work", "failed")
    scenario.assert_clean()
    assert scenario.state == "failed"
    assert [what for what, *_ in scenario.evidence] == ["ran"]


@contextmanager
def frozen(stack: Stack) -> Iterator[None]:
    """ECS does not answer for a while: what Airflow queues stays queued."""
    ecs = stack.processes["local-ecs"]
    os.kill(ecs.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(ecs.pid, signal.SIGCONT)


def test_what_is_cleared_or_stuck_while_queued_is_queued_again_and_runs_once(scenarios: Scenarios) -> None:
    """Both in one test, because both need an ECS that hangs, and Airflow is slow to find that a task is stuck."""
    stack = scenarios.stack
    stuck, cleared = scenarios.make("succeeds"), scenarios.make("succeeds")
    with frozen(stack):
        stuck.start()
        cleared.start()
        stack.wait("both to be queued", lambda: stuck.state == cleared.state == "queued", 60)
        before = cleared.rows()[0].exec_id
        cleared.clear()
        stack.wait("the cleared one to be queued again", lambda: len(cleared.rows()) > 1, 60)
        stack.wait("the stuck one to be queued again", lambda: len(stuck.rows()) > 1, 300)
        assert cleared.rows()[0].exec_id == before
    for scenario in (stuck, cleared):
        scenario.wait_for("success")
        scenario.assert_clean()
        assert len(scenario.evidence) == 1
    # A cleared task instance has a new id, so the old container can not run it. A stuck one keeps its id: if its first
    # container comes to life after all, before it is stopped, it is as good as the second. One of them runs it.
    assert cleared.evidence[0][1] != before
    assert stuck.try_number == 1


def test_another_scheduler_adopts_what_a_killed_one_left(scenarios: Scenarios) -> None:
    stack = scenarios.stack
    running, ends_meanwhile = scenarios.start("holds"), scenarios.start("holds")
    running.wait_for_code()
    ends_meanwhile.wait_for_code()
    (before,) = running.launched()
    scheduler = stack.processes["scheduler"]
    scheduler.kill()
    ends_meanwhile.release()
    stack.wait("its container to end", lambda: ends_meanwhile.rows()[0].terminal, 120)
    scheduler.start()
    stack.wait("the new owner", lambda: running.rows()[0].owner_job_id != before.owner_job_id, 120)
    running.release()
    for scenario in (running, ends_meanwhile):
        scenario.wait_for("success")
        scenario.assert_clean()
        (w,) = scenario.launched()
        assert [what for what, *_ in scenario.evidence] == ["ran", "ended"]
        assert w.attempt == 1


def test_a_killed_daemon_finds_what_it_started_and_what_ended_without_it(scenarios: Scenarios) -> None:
    stack = scenarios.stack
    running, ends_meanwhile, waits = scenarios.start("holds"), scenarios.start("holds"), scenarios.make("succeeds")
    running.wait_for_code()
    ends_meanwhile.wait_for_code()
    daemon = stack.processes["daemon"]
    daemon.kill()
    ends_meanwhile.release()
    ends_meanwhile.wait_for("success")
    waits.start()
    daemon.start()
    stack.wait("the daemon to lead again", stack.daemon_ready, 120)
    running.release()
    for scenario in (running, ends_meanwhile, waits):
        scenario.wait_for("success")
        scenario.assert_clean()
        (w,) = scenario.launched()
        assert w.attempt == 1


def test_no_token_and_no_secret_is_in_any_row_or_log(stack: Stack, plain: dict[str, Scenario]) -> None:
    # The pattern is right: this is where a token must be.
    commands = [str(task["overrides"]) for scenario in plain.values() for task in scenario.tasks()]
    assert commands
    assert all(TOKEN.search(command) for command in commands)
    logs = [path for path in stack.directory.rglob("*.log*") if path.is_file()]
    assert {"scheduler.log", "daemon.log", "local-ecs.log", "api-server.log"} <= {path.name for path in logs}
    assert [path for path in logs if leaks(path.read_text(errors="replace"))] == []
    with closing(sqlite3.connect(stack.directory / "airflow.db")) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert "ecs_workload" in tables
        assert [name for name in tables if leaks(str(connection.execute(f'SELECT * FROM "{name}"').fetchall()))] == []


def leaks(text: str) -> bool:
    return SECRET in text or TOKEN.search(text) is not None

"""What users ask for, in a real Airflow: why a task did not start, its log while it runs, cancel means cancel."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.core.phase import Desired, Phase
from reconciler.core.task import Kind
from reconciler.demo.api import ApiError
from reconciler.demo.stack import StackTimeoutError
from reconciler.demo.world import rows
from tests.airflow.conftest import on_newest

if TYPE_CHECKING:
    from reconciler.core.task import Workload
    from reconciler.demo.stack import Stack
    from tests.airflow.conftest import Scenario, Scenarios

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1200)]

POOL = 8
PULL = "CannotPullContainerError: pull image manifest has been retried"


def entries(scenario: Scenario) -> list[tuple[str, str]]:
    """What we wrote into the audit log of a run, the first first."""
    found = scenario.stack.api.events(scenario.dag_id, scenario.run_id)
    ours = sorted((e for e in found if e["owner"] == "ecs-reconciler"), key=lambda e: datetime.fromisoformat(e["when"]))
    return [(e["event"], e["extra"]) for e in ours]


def test_the_audit_log_tells_every_launch_of_a_task_that_can_not_start(unpullable: Scenario) -> None:
    scenario = unpullable
    scenario.stack.wait("the last entry", lambda: len(entries(scenario)) == 8, 60)
    found = entries(scenario)
    launched, failed, again = "ecs task launched", "ecs start failed", "ecs task launched again"
    assert [event for event, _ in found] == [launched, failed, *([again, failed] * 3)]
    assert all(PULL in extra for event, extra in found if event == failed)
    (w,) = scenario.rows()
    assert (w.phase, w.attempt) == (Phase.FAILED_START, 4)


def test_the_failure_that_a_user_sees_has_the_reason_of_ecs(unpullable: Scenario) -> None:
    events = unpullable.stack.api.events(unpullable.dag_id, unpullable.run_id)
    (message,) = [str(e["extra"]) for e in events if e["event"] == "state mismatch"]
    assert f"The ECS container could not be started, after 4 attempts: TaskFailedToStart: {PULL}" in message


def test_a_running_task_shows_its_output_from_cloudwatch(scenarios: Scenarios) -> None:
    scenario = scenarios.start("holds")
    scenario.wait_for_code()
    (w,) = scenario.launched()
    api = scenario.stack.api

    def shown() -> str:
        text = api.log("holds", scenario.run_id, "work")
        return text if "the task holds until it is told to end" in text else ""

    page = scenario.stack.wait("the output of a running task", shown, 60)
    stream = f"ecs/airflow/{str(w.task_arn).rpartition('/')[2]}"
    assert f"CloudWatch Logs, group /ecs/airflow-task, stream {stream}" in page
    scenario.release()
    scenario.wait_for("success")
    scenario.assert_clean()


class Cancelled:
    """A run that is cancelled at a certain moment, in a certain way."""

    def __init__(self, scenario: Scenario, how: str) -> None:
        self.scenario = scenario
        self.how = how
        self.exec_id = ""
        """The queueing that is cancelled. A slow machine may have seen others before: Airflow calls them stuck."""
        self._heartbeat = ""
        self._cleared = False

    def row(self) -> Workload:
        (found,) = [w for w in self.scenario.rows() if w.exec_id == self.exec_id]
        return found

    def after(self) -> list[Workload]:
        """What was queued after it."""
        ids = [w.exec_id for w in self.scenario.rows()]
        return self.scenario.rows()[ids.index(self.exec_id) + 1 :]

    def reached(self, dag_id: str) -> bool:
        """Whether its moment has come, or has been."""
        if self.exec_id:
            return True
        rows = self.scenario.rows()
        if dag_id == "unpullable":
            return any(w.start_failures for w in rows)
        if dag_id == "endless":
            return any(w.task_arn for w in rows)
        return bool(self.scenario.evidence)

    def give_up(self) -> None:
        try:
            self.scenario.stack.api.mark(self.scenario.dag_id, self.scenario.run_id, "work", "failed")
        except ApiError as error:
            if "already in failed state" not in str(error):
                raise

    def ended(self) -> bool:
        return self.row().terminal

    def cancel(self) -> bool:
        """Returns whether it is done."""
        api, dag_id, run_id = self.scenario.stack.api, self.scenario.dag_id, self.scenario.run_id
        self.exec_id = self.exec_id or self.scenario.rows()[-1].exec_id
        if self.how in ("failed", "success"):
            api.mark(dag_id, run_id, "work", self.how)
        elif self.how == "clear":
            if not self._cleared:
                self.scenario.clear()
                self._cleared = True
            # What was cleared is queued again, and would begin anew for ever. But the next action is named, too.
            if not self.after() or not (self.row().desired is Desired.STOP or self.ended()):
                return False
            self.give_up()
        elif self.how == "delete":
            # Only a run that has ended can be deleted; and if it goes while Airflow's scheduler is at work on it, the
            # scheduler dies of an ObjectDeletedError. So a heartbeat of the scheduler's must lie between the two.
            if not self._heartbeat:
                api.mark_run(dag_id, run_id, "failed")
                self._heartbeat = heartbeat(self.scenario)
            if heartbeat(self.scenario) == self._heartbeat:
                return False
            api.delete_run(dag_id, run_id)
        return True


def heartbeat(scenario: Scenario) -> str:
    return str(scenario.stack.api.health()["scheduler"]["latest_scheduler_heartbeat"])


TRIALS = 4
"""A busy machine may need longer for the first start than such a run is given."""
HOW = ("failed", "success", "clear", "delete", "in_time")
WHO = {
    "failed": "(patch_task_instance by ",
    "success": "(patch_task_instance by ",
    "clear": "(post_clear_task_instances by ",
    "delete": "_dag_run by ",
    "in_time": "(its DAG run timed out)",
}
CASES = [
    (dag_id, how)
    for dag_id in ("holds", "endless", "unpullable")  # runs, is being provisioned, waits for its next attempt
    for how in HOW
    if (dag_id, how) != ("unpullable", "in_time")  # it has failed before its time is over
]


def _in_time(scenarios: Scenarios, dag_id: str) -> Cancelled | None:
    """A run whose time is limited, if its moment comes before its time is over."""
    run, api = Cancelled(scenarios.start(f"{dag_id}_in_time"), "in_time"), scenarios.stack.api
    scenario = run.scenario
    scenarios.stack.wait(
        f"the moment of {scenario.run_id}, or the end of its time",
        lambda: run.reached(dag_id) or api.run_state(scenario.dag_id, scenario.run_id) == "failed",
        240,
    )
    return run if run.reached(dag_id) else None


@pytest.fixture(scope="session")
def cancelled(images: None, scenarios: Scenarios) -> dict[tuple[str, str], Cancelled]:
    """Every moment and every way at once: these runs mostly wait."""
    stack = scenarios.stack
    runs: dict[tuple[str, str], Cancelled] = {}
    for dag_id in ("holds", "endless"):
        trials = (_in_time(scenarios, dag_id) for _ in range(TRIALS))
        run = next((run for run in trials if run), None)
        assert run, f"{TRIALS} runs of {dag_id} were over before they came to their moment"
        runs[dag_id, "in_time"] = run
    for dag_id, how in CASES:
        if (dag_id, how) not in runs:
            runs[dag_id, how] = Cancelled(scenarios.start(dag_id), how)
    # The last first: what can not be pulled is given up after a quarter of a minute.
    waiting = dict(reversed(runs.items()))

    def cancel_what_is_due() -> bool:
        for (dag_id, how), run in list(waiting.items()):
            if run.reached(dag_id) and run.cancel():
                del waiting[dag_id, how]
        return not waiting

    try:
        stack.wait("every run to come to its moment", cancel_what_is_due, 300)
    except StackTimeoutError:
        late = {case: (run.scenario.state, [w.phase for w in run.scenario.rows()]) for case, run in waiting.items()}
        pytest.fail(f"never came to their moment, or could not be cancelled: {late}")
    for (dag_id, how), run in runs.items():
        stack.wait(f"the end of {dag_id} by {how}", run.ended, 240)
    for run in runs.values():
        run.scenario.wait_until_settled()
    return runs


@on_newest
@pytest.mark.parametrize(("dag_id", "how"), CASES)
def test_cancel_means_cancel(cancelled: dict[tuple[str, str], Cancelled], dag_id: str, how: str) -> None:
    run = cancelled[dag_id, how]
    scenario, w = run.scenario, run.row()
    scenario.assert_clean_of_retries()
    assert bool(run.after()) == (how == "clear")
    assert w.phase in (Phase.CANCELLED, Phase.EXITED, Phase.FAILED_START)
    # A container that Airflow refused the next heartbeat may have ended itself before its scheduler has looked twice.
    assert w.desired is Desired.STOP or (dag_id, w.phase) == ("holds", Phase.EXITED)
    if w.desired_at is not None:
        assert WHO[how] in str(w.desired_reason)
        # Nothing is launched once the stop is wanted, and what was stopped says who asked.
        assert w.intent_at is None or w.intent_at <= w.desired_at
    if dag_id == "endless" and w.task_arn:
        (task,) = [t for t in scenario.tasks() if t["taskArn"] == w.task_arn]
        assert task["stoppedReason"] == f"ecs-reconciler: {w.desired_reason}"
    if dag_id == "holds":
        later = {each.exec_id for each in run.after()}
        assert [what for what, exec_id, _ in scenario.evidence if exec_id not in later] == ["ran"]


@on_newest
def test_a_run_that_is_deleted_is_gone(cancelled: dict[tuple[str, str], Cancelled]) -> None:
    scenario = cancelled["endless", "delete"].scenario
    with pytest.raises(ApiError, match="404"):
        scenario.stack.api.run_state(scenario.dag_id, scenario.run_id)


@pytest.fixture(scope="session")
def everything(images: None, scenarios: Scenarios) -> Scenario:
    """A run with most of what Airflow offers, ended."""
    api = scenarios.stack.api
    api.make_pool("narrow", POOL)
    # Fifty containers take a minute, so once is enough.
    scenario = scenarios.start("everything", mapped=50 if api.version().startswith("3.3") else 5)
    ended = ("success", "failed")
    scenario.stack.wait("its end", lambda: api.run_state("everything", scenario.run_id) in ended, 450)
    return scenario


def test_everything_that_airflow_offers_runs_in_containers(everything: Scenario) -> None:
    scenario = everything
    scenario.assert_clean()
    instances = scenario.stack.api.instances("everything", scenario.run_id)
    states = {(i["task_id"], i["map_index"]): i["state"] for i in instances}
    squares = {index: state for (task_id, index), state in states.items() if task_id == "group.square"}
    assert squares == dict.fromkeys(range(len(squares)), "success")
    rest = {task_id: state for (task_id, index), state in states.items() if index == -1}
    assert rest == {
        **dict.fromkeys(("begin", "finish", "group.numbers", "rescheduled", "poked", "total", "alarm"), "success"),
        "group.fails": "failed",
        "never": "upstream_failed",
    }
    ran = [what for what, *_ in scenario.evidence]
    assert sorted(ran) == sorted(
        ["begin", "finish", "fails", "total", "alarm", "poke", "poke", *(f"square-{n}" for n in squares)]
    )
    assert (ran[0], ran[-1]) == ("begin", "finish")
    # A reschedule is a new queueing of the same try, with a container of its own.
    assert len([w for w in scenario.launched() if w.key.task_id == "rescheduled"]) == 2


def test_a_pool_caps_how_many_of_its_tasks_run_at_once(everything: Scenario) -> None:
    """By Airflow's own events: its slot is free when the task has told its end, not when the container is gone."""
    events = everything.stack.api.events("everything", everything.run_id)
    assert 1 < _most_at_once(events) <= POOL


def _most_at_once(events: list[dict[str, Any]]) -> int:
    """How many squares were running at once, by Airflow's own events."""
    changes = sorted(
        (str(e["when"]), 1 if e["event"] == "running" else -1)
        for e in events
        if e["task_id"] == "group.square" and e["event"] in ("running", "success")
    )
    running = most = 0
    for _, change in changes:
        running += change
        most = max(most, running)
    return most


@on_newest
def test_of_what_waits_for_a_full_queue_the_most_urgent_runs_first(images: None, scenarios: Scenarios) -> None:
    scenario = scenarios.start("ranked")

    def wait_behind_the_first() -> bool:
        waiting = [w for w in scenario.rows() if w.phase is Phase.PENDING]
        return {w.key.task_id for w in waiting} == {"low", "high"} and bool(scenario.evidence)

    scenario.stack.wait("two tasks to wait for the first", wait_behind_the_first, 240)
    queued = [w.key.task_id for w in scenario.rows()]
    assert queued.index("low") < queued.index("high")
    scenario.release()
    ended = lambda: scenario.stack.api.run_state("ranked", scenario.run_id) == "success"  # noqa: E731 - read once
    scenario.stack.wait("its end", ended, 240)
    scenario.assert_clean()
    ran = [what for what, *_ in scenario.evidence if what != "gate"]
    assert ran == ["ran", "ended", "high", "low"]


def test_the_callback_of_a_missed_deadline_runs_once_in_a_container(images: None, scenarios: Scenarios) -> None:
    scenario = scenarios.start("late")
    stack = scenario.stack

    def done() -> bool:
        return any(w.terminal and w.acked_version >= w.version for w in callbacks(stack))

    stack.wait("the callback of the missed deadline", done, 240)
    scenario.release()
    scenario.wait_for("success")
    (w,) = callbacks(stack)
    assert (w.phase, w.exit_code, w.attempt) == (Phase.EXITED, 0, 1)
    assert (stack.directory / "deadline-missed").is_dir()
    with closing(sqlite3.connect(stack.directory / "airflow.db")) as connection:
        assert connection.execute("SELECT state FROM callback").fetchall() == [("success",)]


def callbacks(stack: Stack) -> list[Workload]:
    """The callbacks that have been queued: they have no DAG's name."""
    return [w for w in rows(stack, "", "") if w.kind is Kind.CALLBACK]

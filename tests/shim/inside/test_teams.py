"""Two teams, each with an executor of its own, in one scheduler of Airflow's."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.models.team import Team
from airflow.utils.session import create_session

from reconciler.core import runtask
from tests.shim.inside.world import Scheduler, World, make_dag, sql

if TYPE_CHECKING:
    from collections.abc import Iterator

EXECUTOR = "reconciler.airflow.executor.EcsReconcilerExecutor"
TEAMS = ("blue", "green")


@pytest.fixture
def teams(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A global executor and one for each team; the DAG etl_blue is blue's, and so on."""
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    for team in TEAMS:
        make_dag(f"etl_{team}", bundle=f"dags-of-{team}")
        with create_session() as session:
            session.merge(Team(name=team))
        sql("INSERT INTO dag_bundle_team (dag_bundle_name, team_name) VALUES (:b, :t)", b=f"dags-of-{team}", t=team)
    beside = World(";".join([EXECUTOR, *(f"{team}={EXECUTOR}" for team in TEAMS)]), monkeypatch)
    for executor in beside.runner.executors[1:]:
        executor.start()
        executor.heartbeat()
    yield beside
    sql("DELETE FROM dag_bundle_team")
    sql("DELETE FROM team")


def test_each_team_has_its_own_executor_rows_outcomes_and_bill(teams: World) -> None:
    executors = {executor.team_name: executor for executor in teams.runner.executors}
    assert set(executors) == {None, *TEAMS}
    for dag_id in ("etl", "etl_blue", "etl_green"):
        teams.schedule(1, dag_id)
    assert teams.queue() == 3

    rows = {w.team: w for w in teams.rows()}
    assert {team: w.key.dag_id for team, w in rows.items()} == {None: "etl", "blue": "etl_blue", "green": "etl_green"}
    assert {team: len(executor.running) for team, executor in executors.items()} == {None: 1, "blue": 1, "green": 1}
    assert runtask.cost_tags(rows["blue"])["airflow:team"] == "blue"

    teams.daemon(rows["blue"].exec_id, phase="FAILED_START", attempt=1, reason="no such image")
    for executor in executors.values():
        executor.heartbeat()
        with create_session() as session:
            teams.runner._process_executor_events(executor, session)

    assert {team: teams.ti(w)["state"] for team, w in rows.items()} == {
        None: "queued",
        "blue": "failed",
        "green": "queued",
    }
    assert {team: len(executor.running) for team, executor in executors.items()} == {None: 1, "blue": 0, "green": 1}


def test_what_a_team_left_behind_is_delivered_by_the_executor_that_adopts_it(
    teams: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        teams.schedule(1, "etl_blue")
    assert teams.queue() == 2
    waits, fails = teams.rows()
    teams.die()
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "False")
    other = Scheduler(EXECUTOR, monkeypatch)
    assert other.runner.adopt_or_reset_orphaned_tasks() == 0
    assert {w.owner_job_id for w in teams.rows()} == {other.job.id}

    teams.daemon(fails.exec_id, phase="FAILED_START", attempt=1, reason="no such image")
    teams.set_ti(waits, state="skipped")
    for _ in range(3):
        other.beat()

    assert teams.ti(fails)["state"] == "failed"
    assert teams.row(waits.exec_id).desired == "STOP"
    assert other.executor.slots_occupied == 1

"""`airflow dags test --use-executor`: a DAG run without a scheduler, in the terminal of its author."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.airflow.executor import EcsReconcilerExecutor
from reconciler.core.phase import Phase
from tests.shim.inside.world import World, sql

if TYPE_CHECKING:
    from collections.abc import Callable

DAG = """
from datetime import datetime
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

with DAG("tested", schedule=None, start_date=datetime(2026, 1, 1)) as dag:
    BashOperator(task_id="first", bash_command="true") >> BashOperator(task_id="second", bash_command="true")
"""


@pytest.fixture
def dag(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A DAG in Airflow's own folder, because `dags test` looks there."""
    folder = Path(os.environ["AIRFLOW_HOME"]) / "dags"
    folder.mkdir(exist_ok=True)
    (folder / "tested.py").write_text(DAG)
    monkeypatch.syspath_prepend(folder)
    yield import_module("tested").dag
    (folder / "tested.py").unlink()
    del sys.modules["tested"]


def play(world: World, monkeypatch: pytest.MonkeyPatch, step: Callable[[], None]) -> None:
    """Let daemon and containers do a step after each heartbeat."""
    real = EcsReconcilerExecutor.heartbeat

    def heartbeat(self: EcsReconcilerExecutor) -> None:
        real(self)
        step()

    monkeypatch.setattr(EcsReconcilerExecutor, "heartbeat", heartbeat)


@pytest.mark.usefixtures("world")
def test_its_tasks_run_in_ecs_one_after_the_other(world: World, dag: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def step() -> None:
        for w in world.rows():
            if w.phase is Phase.PENDING:
                world.daemon(w.exec_id, phase="RUNNING", attempt=1)
                world.set_ti(w, state="running")
            elif w.phase is Phase.RUNNING:
                world.set_ti(w, state="success")
                world.daemon(w.exec_id, phase="EXITED", exit_code=0)

    play(world, monkeypatch, step)

    run = dag.test(use_executor=True)

    assert run.state == "success"
    assert [(w.key.task_id, w.phase, w.owner_job_id) for w in world.rows()] == [
        ("first", "EXITED", 0),
        ("second", "EXITED", 0),
    ]
    # The last container ended after the run: the next scheduler puts an end to it.
    world.beat()
    world.beat()
    assert all(w.acked_version == w.version for w in world.rows())


def test_a_task_that_is_queued_again_is_another_workload(
    world: World, dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a deferral, or for a sensor that is rescheduled."""

    def step() -> None:
        rows = world.rows()
        for w in rows:
            if w.phase is Phase.PENDING:
                again = len(rows) == 1
                world.set_ti(w, state="scheduled" if again else "success")
                world.daemon(w.exec_id, phase="EXITED", attempt=1, exit_code=0)

    play(world, monkeypatch, step)

    assert dag.test(use_executor=True).state == "success"

    assert [w.key.task_id for w in world.rows()] == ["first", "first", "second"]
    assert len({w.exec_id for w in world.rows()}) == 3


def test_a_task_that_can_not_start_fails_and_its_author_reads_why(
    world: World, dag: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step() -> None:
        for w in world.rows():
            if w.phase is Phase.PENDING:
                world.daemon(w.exec_id, phase="FAILED_START", attempt=3, reason="no such image")

    play(world, monkeypatch, step)

    assert dag.test(use_executor=True).state == "failed"

    assert any("no such image" in row["extra"] for row in sql("SELECT extra FROM log") if row["extra"])
    assert [w.key.task_id for w in world.rows()] == ["first"]


def test_what_it_is_still_at_is_left_to_it_by_a_scheduler(world: World) -> None:
    (w,) = world.queued()
    world.overwrite(w.exec_id, owner_job_id=0)
    world.set_ti(w, queued_by_job_id=None)

    world.beat()
    world.beat()
    assert world.row(w.exec_id).owner_job_id == 0

    world.set_ti(w, state=None, external_executor_id=None)  # it was interrupted, and the task cleared
    world.executor._parts._upkeep._take_over_due._last = None
    for _ in range(3):
        world.beat()
    assert (world.row(w.exec_id).owner_job_id, world.row(w.exec_id).desired) == (world.job.id, "STOP")

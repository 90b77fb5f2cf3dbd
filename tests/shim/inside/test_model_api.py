"""Is the simulation's Execution API the real one? The same containers come to `/run` of both, and are compared.

Each request goes through Airflow's own application, with a token that was signed as the daemon signs it.
"""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import pytest
from airflow import settings
from airflow.api_fastapi.common.dagbag import create_dag_bag
from airflow.api_fastapi.execution_api.app import create_task_execution_api_app
from airflow.jobs.scheduler_job_runner import TASK_STUCK_IN_QUEUED_RESCHEDULE_EVENT
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.version import version
from fastapi.testclient import TestClient
from sqlalchemy import insert, select, update

from reconciler.airflow.push import Push
from reconciler.core.task import Workload
from tests.shim.inside.both import STATES, Case, Outcome, numbered, same, sample
from tests.shim.inside.sides import TI, Model, Real
from tests.sim import airflow as sim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.shim.inside.world import World

COUNT: Final = 510 if os.environ.get("SHIM_DATABASE", "sqlite").startswith("sqlite") else 120
"""Not all of them twice: the route itself knows of no database, only its lock does."""
START_TIMEOUT: Final = 600.0
CLIENT: Final = {"hostname": "10.0.0.1", "unixname": "airflow", "pid": 7}


@dataclass(frozen=True)
class Asking(Case):
    """A task instance whose container comes to begin it."""

    names: str = "current"
    """Which id the container was given: the current one, one from before the task was cleared, or of no task."""
    same_client: bool = False
    """Of a RUNNING one: it was this container that began it, and the answer got lost."""
    stuck: int = 0
    """So often Airflow has found it stuck in QUEUED in this try."""


_FIELDS = {
    "state": (*STATES, "queued", "queued", "queued", "restarting", "restarting", "running", "running"),
    "task": ("once", "again"),
    "tries": (1, 2),
    "max_tries": (0, 2),
    "job": ("mine", "another's", "nobody's"),
    "ext": ("this", "another", None),
    "resumes": (False, True),
    "exists": (True,) * 9 + (False,),
    "names": ("current", "current", "current", "former", "nobody's"),
    "same_client": (False, True),
    "stuck": (0, 0, 1, 2),
}


@dataclass(frozen=True)
class Answered:
    """What became of a request, of its repetition if it was granted, and of the task instance."""

    admitted: bool
    admitted_again: bool
    stuck: int | None
    outcome: Outcome | None


@pytest.fixture(scope="module")
def api() -> Iterator[TestClient]:
    app = create_task_execution_api_app()
    app.state.dag_bag = create_dag_bag()
    with TestClient(app) as client:
        yield client


def run(api: TestClient, ti_id: str, age: float = 0.0) -> int:
    """PATCH /run as the supervisor sends it in a container whose intent is `age` seconds old. Returns the status."""
    intent_at = datetime.now(UTC) - timedelta(seconds=age)
    workload = Workload(exec_id="e", deployment="test", ti_id=ti_id, attempt=1, intent_at=intent_at)
    token = Push(timedelta(seconds=START_TIMEOUT))._token(workload)
    body = {"state": "running", "start_date": datetime.now(UTC).isoformat(), **CLIENT}
    answer = api.patch(f"/task-instances/{ti_id}/run", json=body, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in (200, 403, 404, 409), answer.text
    return int(answer.status_code)


def test_who_may_begin_a_task(world: World, api: TestClient, capsys: pytest.CaptureFixture[str]) -> None:
    admitted = admit(world, api, capsys, COUNT)

    assert COUNT // 20 < len(admitted) < COUNT - COUNT // 20
    assert {case.state for case in admitted} == {"queued", "restarting", "running"}


def admit(world: World, api: TestClient, capsys: pytest.CaptureFixture[str], count: int) -> list[Asking]:
    """Compare so many cases. Returns those whose container may begin."""
    cases = numbered([Asking(0, **values) for values in sample(version, count, **_FIELDS)])
    real, model = Real(world, cases), Model(cases)
    _prepare(real, cases)

    ours = {case.number: _ask_the_model(model, case) for case in cases}
    airflow = {case.number: _ask_airflow(real, api, case) for case in cases}
    afterwards, stuck = real.outcomes(), _stuck(world)
    for case in cases:
        told = replace(airflow[case.number], outcome=afterwards[case.number], stuck=stuck.get(case.number))
        airflow[case.number] = told

    same(capsys, cases, airflow, ours)
    return [case for case in cases if airflow[case.number].admitted]


@pytest.mark.parametrize(
    "age",
    [
        pytest.param(-50.0, id="the database is ahead of the API server"),
        pytest.param(0.0, id="at once"),
        pytest.param(START_TIMEOUT + 100.0, id="it was RUNNING in the last second, and Airflow takes long to import"),
        pytest.param(START_TIMEOUT + 200.0, id="too late"),
    ],
)
def test_how_old_an_intent_may_be(world: World, api: TestClient, age: float) -> None:
    case = Case(0)
    real, model = Real(world, [case]), Model([case])
    runner = _container("t0#1", valid=sim.valid_for(model.sim.now - age, START_TIMEOUT))

    assert (run(api, str(real.ids[0]), age) == 200) is model.airflow.api_run(runner) is (age < START_TIMEOUT + 150)


def test_a_difference_would_be_found(
    world: World, api: TestClient, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a container that was started before the task was cleared may still begin it."""
    monkeypatch.setattr(sim.Airflow, "_of", lambda self, ti_id: self.tis.get(ti_id.partition("#")[0]))

    with pytest.raises(pytest.fail.Exception, match=r"(?s)names='former'.*Airflow: .*admitted=False.*model: "):
        admit(world, api, capsys, count=60)


def _prepare(real: Real, cases: list[Asking]) -> None:
    logs = [
        {"event": TASK_STUCK_IN_QUEUED_RESCHEDULE_EVENT, "dttm": real.at, "map_index": case.number}
        | {"dag_id": "trial", "task_id": case.task, "run_id": "run", "try_number": case.tries}
        for case in cases
        for _ in range(case.stuck)
    ]
    clients = [case.number for case in cases if case.same_client and case.state == "running"]
    with settings.get_engine().begin() as conn:
        conn.execute(insert(Log.__table__), logs)
        conn.execute(update(TI).where(TI.c.map_index.in_(clients)).values(**CLIENT))


def _ask_airflow(real: Real, api: TestClient, case: Asking) -> Answered:
    name = str({"current": real.ids[case.number]}.get(case.names, uuid.UUID(int=case.number)))
    admitted = run(api, name) == 200
    return Answered(admitted, admitted and run(api, name) == 200, None, None)


def _stuck(world: World) -> dict[int, int]:
    """By Airflow's own count."""
    with create_session() as session:
        tis = session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "trial")).all()
        count: Any = world.runner._get_num_times_stuck_in_queued
        return {ti.map_index: count(ti, session=session) for ti in tis}


def _ask_the_model(model: Model, case: Asking) -> Answered:
    ti = model.airflow.tis[case.name]
    ti.stuck = case.stuck
    names = {"current": ti.id, "former": f"{case.name}#0"}.get(case.names, "nobody#1")
    runner = _container(names)
    if case.same_client and ti.state == "running":
        ti.runner = runner
    admitted = model.airflow.api_run(runner)
    again = admitted and model.airflow.api_run(runner)
    outcome = model.outcomes()[case.number]
    return Answered(admitted, again, ti.stuck if outcome else None, outcome)


def _container(ti_id: str, valid: tuple[float, float] = (0.0, float("inf"))) -> Any:
    """As much of a simulated container as the simulated API asks for."""
    return SimpleNamespace(arn="", exec_id="", attempt=1, ti_id=ti_id, valid=valid, works=False, notice=lambda: None)

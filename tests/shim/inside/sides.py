"""The two sides of a comparison: Airflow's metadata database, and the simulation's model of it."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import random
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow import settings
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from sqlalchemy import delete, insert, select, text

from reconciler.core.task import TaskKey
from reconciler.store.schema import workloads
from tests.shim.inside.both import Outcome, rows_in, rows_of
from tests.shim.inside.world import make_dag, make_run
from tests.sim import airflow as model
from tests.sim.database import Database
from tests.sim.engine import Process, Sim
from tests.sim.scheduler import Scheduler
from tests.world import DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from tests.shim.inside.both import Case, Job, Owner, Row
    from tests.shim.inside.world import World
    from tests.sim.airflow import Buffered

DAG: Final = "trial"
RETRIES: Final = {"once": 0, "again": 2}
"""The tasks of the DAG, and their retries."""
OTHER_JOB: Final = 4711
DEAD_JOB: Final = 4712
NOW: Final = 10_000.0
"""The moment of a test by the model's clock. Airflow's is the real one: ages are what both understand."""

TI = TaskInstance.__table__


class Real:
    """The cases as rows of Airflow's metadata database."""

    def __init__(self, world: World, cases: Sequence[Case]) -> None:
        self.world, self.cases = world, cases
        self.at = datetime.now(UTC)
        self.owners: dict[int, Owner] = {world.job.id: "mine", OTHER_JOB: "another's", DEAD_JOB: "of the dead"}
        self.ids = {case.number: uuid.UUID(int=random.Random(case.number).getrandbits(128)) for case in cases}
        make_dag(DAG, RETRIES)
        make_run("run", DAG)
        with settings.get_engine().begin() as conn:
            job = text("INSERT INTO job (id, job_type, state) VALUES (:id, 'SchedulerJob', :state)")
            conn.execute(job, [{"id": OTHER_JOB, "state": "running"}, {"id": DEAD_JOB, "state": "failed"}])
            made = {row["task_id"]: dict(row) for row in conn.execute(select(TI)).mappings()}
            conn.execute(delete(TI))
            conn.execute(insert(TI), [self._row(made[case.task], case) for case in cases if case.exists])

    def _row(self, made: Mapping[str, Any], case: Case) -> dict[str, Any]:
        return {
            **made,
            "id": self.ids[case.number],
            "map_index": case.number,
            "state": case.state,
            "try_number": case.tries,
            "max_tries": case.max_tries,
            "queued_by_job_id": {"mine": self.world.job.id, "another's": OTHER_JOB}.get(case.job),
            "external_executor_id": case.exec_id(case.ext),
            "next_method": "execute_complete" if case.resumes else None,
            "last_heartbeat_at": None if case.beat is None else self.at - timedelta(seconds=case.beat),
        }

    def key(self, case: Case, tries: int | None = None) -> TaskInstanceKey:
        return TaskInstanceKey(DAG, case.task, "run", case.tries if tries is None else tries, case.number)

    @contextmanager
    def locked(self, cases: Sequence[Case]) -> Iterator[None]:
        """Somebody else holds the rows of these. SQLite knows no such locks."""
        ids = [self.ids[case.number] for case in cases]
        with settings.get_engine().connect() as conn, conn.begin():
            if ids and conn.dialect.name == "postgresql":
                conn.execute(select(TI.c.id).where(TI.c.id.in_(ids)).with_for_update()).all()
            yield

    @property
    def locks(self) -> bool:
        return bool(settings.get_engine().dialect.name == "postgresql")

    def write_rows(self, cases: Sequence[Any]) -> None:
        rows = [
            row
            for case in cases
            for row in rows_of(
                case,
                now=datetime.now(UTC),
                key=TaskKey(*self.key(case, 1)[:3], case.number, 1),
                ti_id=str(uuid.UUID(int=case.number) if case.cleared else self.ids[case.number]),
                owners=self.owners,
                deployment="test",
            )
        ]
        with settings.get_engine().begin() as conn:
            conn.execute(insert(workloads), rows)

    def rows(self) -> dict[int, Row | None]:
        with settings.get_engine().begin() as conn:
            table = conn.execute(select(workloads)).mappings().all()
            return rows_in(table, self.cases, self.owners, lambda case: self.key(case, 1) in self.world.running)

    def outcomes(self) -> dict[int, Outcome | None]:
        with settings.get_engine().begin() as conn:
            rows = {row["map_index"]: row for row in conn.execute(select(TI)).mappings()}
        found: dict[int, Outcome | None] = dict.fromkeys(case.number for case in self.cases)
        jobs: dict[int | None, Job] = {self.world.job.id: "mine", OTHER_JOB: "another's", None: "nobody's"}
        for number, row in rows.items():
            found[number] = Outcome(
                row["state"],
                row["try_number"],
                row["max_tries"],
                jobs[row["queued_by_job_id"]],
                row["external_executor_id"],
                row["next_method"] is not None,
                row["id"] != self.ids[number],
            )
        return found

    def heard(self) -> set[int]:
        """Those whose event was taken for news: Airflow writes that into its audit log."""
        with settings.get_engine().begin() as conn:
            return set(conn.execute(select(Log.map_index).where(Log.event == "state mismatch")).scalars())


def _alone(label: str) -> None:
    """A seam where nobody else may come in between: a test goes step by step."""


class Model:
    """The cases as task instances of the simulation's Airflow, with one of its schedulers."""

    def __init__(self, cases: Sequence[Case]) -> None:
        self.cases = cases
        self.sim = Sim(0)
        self.sim.now, self.sim.pace = NOW, 0.0
        self.airflow = model.Airflow(self.sim, random.Random(0), 0.0)
        self.database = Database(self.sim, 0.0)
        self.scheduler = self._scheduler(1)
        self._scheduler(2)
        self._scheduler(3)
        self.airflow.jobs[3].state = "failed"
        self.owners: dict[int, Owner] = {1: "mine", 2: "another's", 3: "of the dead"}
        for case in cases:
            self.airflow.tis[case.name] = model.TaskInstance(
                case.name,
                [(1.0, "success")],
                RETRIES[case.task],
                priority=1,
                breaks=0,
                born=0.0,
                state=case.state,
                try_number=case.tries,
                max_tries=case.max_tries,
                ext=case.exec_id(case.ext),
                job={"mine": 1, "another's": 2}.get(case.job),
                resumes=case.resumes,
                gone=not case.exists,
                beat=None if case.beat is None else NOW - case.beat,
            )

    def _scheduler(self, number: int) -> Scheduler:
        process = Process(self.sim, f"scheduler{number}", "scheduler")
        process.seam = _alone  # type: ignore[method-assign] # ours for this test
        job = self.airflow.jobs[number] = model.Job(number, process)
        return Scheduler(
            self.sim, process, self.database, self.airflow, job, max_running_tasks=10_000, max_run_task_attempts=3
        )

    def key(self, case: Case, tries: int | None = None) -> TaskKey:
        return TaskKey("dag", case.name, "run", -1, case.tries if tries is None else tries)

    def process_events(self, locked: Sequence[Case]) -> None:
        """The scheduler reads its executor's events, of which those for locked rows are lost."""
        buffer = self.scheduler.buffer
        lost = [key for case in locked for key in buffer if isinstance(key, TaskKey) and key.task_id == case.name]
        seen = {key: event for key, event in buffer.items() if key not in lost}
        batches: list[tuple[float, dict[Any, Buffered]]] = [(1.0, {key: buffer[key] for key in lost}), (0.0, seen)]
        for self.airflow.weather.locked, self.scheduler.buffer in batches:
            self.scheduler._process_events()

    def outcomes(self) -> dict[int, Outcome | None]:
        found: dict[int, Outcome | None] = {}
        jobs: dict[int | None, Job] = {1: "mine", 2: "another's", None: "nobody's"}
        for case in self.cases:
            ti = self.airflow.tis[case.name]
            renewed = ti.incarnation > 1
            outcome = Outcome(ti.state, ti.try_number, ti.max_tries, jobs[ti.job], ti.ext, ti.resumes, renewed)
            found[case.number] = None if ti.gone else outcome
        return found

    def heard(self) -> set[int]:
        return {int(event["name"][1:]) for event in self.sim.trace if event["kind"] == "applied"}

    def write_rows(self, cases: Sequence[Any]) -> None:
        rows = [
            row
            for case in cases
            for row in rows_of(
                case,
                now=self.database.now(),
                key=self.key(case, 1),
                ti_id=f"{case.name}#{0 if case.cleared else 1}",
                owners=self.owners,
                deployment=DEPLOYMENT,
            )
        ]
        with self.database.engine.begin() as conn:
            conn.execute(insert(workloads), rows)

    def rows(self) -> dict[int, Row | None]:
        held = self.scheduler.running
        return rows_in(self.database.rows(), self.cases, self.owners, lambda case: self.key(case, 1) in held)

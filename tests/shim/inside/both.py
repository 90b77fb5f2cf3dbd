"""Task instances put before both: Airflow itself, and the model of Airflow that the simulation leans on.

A `Case` is one task instance. Airflow gets all cases of a test at once, as the mapped task instances of one run; the
model gets them as task instances of their own. What both made of each is an `Outcome`, in words that mean the same.
"""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import random
import uuid
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

import pytest
from airflow import settings
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState
from airflow.version import version
from sqlalchemy import delete, insert, select, text

from reconciler.core.phase import TERMINAL, Desired, Phase
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.store.rows import row_of
from reconciler.store.schema import workloads
from tests.shim.inside.world import make_dag, make_run
from tests.sim import airflow as model
from tests.sim.database import Database
from tests.sim.engine import Process, Sim
from tests.sim.scheduler import Scheduler
from tests.world import DEPLOYMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from sqlalchemy import Connection

    from tests.shim.inside.world import World

DAG: Final = "trial"
RETRIES: Final = {"once": 0, "again": 2}
"""The tasks of the DAG, and their retries."""
STATES: Final = (None, *(state.value for state in TaskInstanceState))
ACTIVE: Final = ("scheduled", "queued", "running", "restarting")
OTHER_JOB: Final = 4711
DEAD_JOB: Final = 4712
NOW: Final = 10_000.0
"""The moment of a test by the model's clock. Airflow's is the real one: ages are what both understand."""

TI = TaskInstance.__table__

Job = Literal["mine", "another's", "nobody's"]
Owner = Literal["mine", "another's", "of the dead"]


@dataclass(frozen=True)
class Case:
    """One task instance as a test finds it, and what is asked of it."""

    number: int
    state: str | None = "queued"
    task: str = "once"
    tries: int = 1
    max_tries: int = 0
    job: Job = "mine"
    ext: str | None = "this"
    """Whose id it bears: of this case's queueing, of another, or none."""
    resumes: bool = False
    """It goes on after a deferral: `next_method` is set."""
    exists: bool = True
    beat: float | None = None
    """Seconds since its last heartbeat."""

    def __str__(self) -> str:
        plain = type(self)(self.number)
        told = [f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.name != "number"]
        changed = [f.name for f in fields(self) if getattr(self, f.name) != getattr(plain, f.name)]
        return ", ".join(word for word in told if word.partition("=")[0] in changed) or "nothing special"

    @property
    def name(self) -> str:
        return f"t{self.number}"

    def exec_id(self, whose: str | None) -> str | None:
        return whose and f"{self.name}-{whose}"


@dataclass(frozen=True)
class Outcome:
    """A task instance afterwards. None where there is none."""

    state: str | None
    tries: int
    max_tries: int
    job: Job
    ext: str | None
    resumes: bool
    renewed: bool
    """It has a new id."""


@dataclass(frozen=True)
class Row:
    """A workload afterwards."""

    phase: str
    desired: str
    refused: bool
    acknowledged: bool
    owner: Owner
    version: int
    held: bool
    """Its key occupies the executor."""


def rows_of(
    case: Any, *, now: datetime, key: TaskKey, ti_id: str, owners: Mapping[int, Owner], deployment: str
) -> list[dict[str, Any]]:
    """The row of a case's workload, and that of a later queueing if there is one."""

    def ago(seconds: float) -> datetime:
        return now - timedelta(seconds=seconds)

    (owner,) = [job_id for job_id, whose in owners.items() if whose == case.owner]
    (mine,) = [job_id for job_id, whose in owners.items() if whose == "mine"]
    common = {"deployment": deployment, "ti_id": ti_id, "key": key, "spec": Spec("{}"), "version": 5}
    this = Workload(
        exec_id=case.exec_id("this"),
        owner_job_id=owner,
        phase=Phase(case.phase),
        desired=Desired(case.desired),
        refused=case.refused and case.phase == "EXITED",
        attempt=1,
        exit_code=case.exit_code,
        start_failures=case.start_failures,
        stopped_at=ago(case.stopped),
        acked_version=5 if case.acknowledged and Phase(case.phase) in TERMINAL else 0,
        **common,
    )
    made = [row_of(this) | {"created_at": ago(case.waited + 10.0), "updated_at": ago(case.stopped)}]
    if case.later:
        later = Workload(exec_id=case.exec_id("another"), owner_job_id=mine, phase=Phase(case.later), **common)
        made.append(row_of(later) | {"created_at": ago(1.0), "updated_at": ago(1.0)})
    return made


def rows_in(
    conn: Connection, cases: Sequence[Case], owners: Mapping[int, Owner], held: Callable[[Case], bool]
) -> dict[int, Row | None]:
    """What the table says of the cases' workloads."""
    found: dict[int, Row | None] = dict.fromkeys(case.number for case in cases)
    of = {case.exec_id("this"): case for case in cases}
    for row in conn.execute(select(workloads).where(workloads.c.exec_id.like("%-this"))).mappings():
        case = of[row["exec_id"]]
        found[case.number] = Row(
            row["phase"],
            row["desired"],
            row["refused"],
            row["acked_version"] == row["version"],
            owners[row["owner_job_id"]],
            row["version"],
            held(case),
        )
    return found


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
            return rows_in(conn, self.cases, self.owners, lambda case: self.key(case, 1) in self.world.running)

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
        process.seam = lambda _: None  # type: ignore[method-assign]  # one after the other, and nobody else
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
        for self.airflow.weather.locked, self.scheduler.buffer in (
            (1.0, {key: buffer[key] for key in lost}),
            (0.0, seen),
        ):
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
        with self.database.engine.begin() as conn:
            return rows_in(conn, self.cases, self.owners, lambda case: self.key(case, 1) in self.scheduler.running)


def differences(
    cases: Sequence[Case], airflow: Mapping[int, object], simulated: Mapping[int, object], limit: int = 10
) -> str:
    """Each case of which Airflow and the model made different things, for people. Empty if there is none."""
    lines = []
    for case in cases:
        real, ours = airflow[case.number], simulated[case.number]
        if real != ours:
            lines.append(f"{case.name}: {case}\n    Airflow: {real}\n    model:   {ours}")
    more = f"\nand {len(lines) - limit} more" if len(lines) > limit else ""
    return "\n".join(lines[:limit]) + more


def same(
    capsys: pytest.CaptureFixture[str], cases: Sequence[Case], airflow: Mapping[int, object], ours: Mapping[int, object]
) -> None:
    """Fail with what differs, and without the thousand lines that Airflow has logged."""
    capsys.readouterr()
    if differ := differences(cases, airflow, ours):
        pytest.fail(f"Airflow {version} and the model of it differ:\n{differ}", pytrace=False)


def sample(seed: str, count: int, **choices: Sequence[Any]) -> list[dict[str, Any]]:
    """So many different combinations of these choices, always the same ones for the same seed."""
    chance = random.Random(seed)
    seen: dict[tuple[Any, ...], None] = {}
    while len(seen) < count:
        seen[tuple(chance.choice(values) for values in choices.values())] = None
    return [dict(zip(choices, combination, strict=True)) for combination in seen]


def numbered(cases: Sequence[Case]) -> list[Any]:
    return [replace(case, number=number) for number, case in enumerate(cases)]

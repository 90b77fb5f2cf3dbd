"""Airflow's scheduler and a hand-driven daemon, on the metadata database."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from airflow import settings
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.executors import executor_loader
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.workloads.callback import CallbackFetchMethod
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.callback import ExecutorCallback
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance, clear_task_instances
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.callback import SyncCallback
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import CallbackState, DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import delete, insert, select, text, update

from reconciler.core.task import Kind
from reconciler.store.rows import WHOLE, read
from reconciler.store.schema import leases, workloads

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.orm import Session

    from reconciler.core.task import Workload

TI = TaskInstance.__table__


def make_dag(
    dag_id: str = "etl", retries: Mapping[str, int] = MappingProxyType({"work": 0}), bundle: str = "dags-folder"
) -> None:
    """A DAG of these tasks, with so many retries each."""
    with DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        for task_id, times in retries.items():
            BashOperator(task_id=task_id, bash_command="true", retries=times)
    with create_session() as session:
        session.merge(DagBundleModel(name=bundle))
        session.flush()
        lazy = LazyDeserializedDAG.from_dag(dag)
        SerializedDAG.bulk_write_to_db(bundle, None, [lazy], session=session)
        SerializedDagModel.write_dag(lazy, bundle_name=bundle, session=session)


def make_run(run_id: str, dag_id: str = "etl") -> int:
    """The id of a new run of the DAG, in the state RUNNING."""
    now = datetime.now(UTC)
    with create_session() as session:
        dag: Any = SerializedDagModel.get_dag(dag_id, session=session)
        run = dag.create_dagrun(
            run_id=run_id,
            run_after=now,
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            start_date=now,
            session=session,
        )
        made: int = run.id
    return made


def forget_everything() -> None:
    with settings.get_engine().begin() as conn:
        for table in (
            "task_instance",
            "dag_run",
            "callback",
            "log",
            "job",
            "ecs_workload",
            "ecs_lease",
            "ecs_launch_attempt",
            "ecs_hold",
        ):
            conn.execute(text(f"DELETE FROM {table}"))


def sql(statement: str, **values: Any) -> list[dict[str, Any]]:
    with settings.get_engine().begin() as conn:
        result = conn.execute(text(statement), values)
        return [dict(row) for row in result.mappings()] if result.returns_rows else []


def new_session() -> Session:
    made: Session = cast(Any, settings.Session)()
    return made


class Scheduler:
    """One scheduler: its job, and its executors as Airflow loads them."""

    def __init__(self, executors: str | None = None, monkeypatch: Any = None) -> None:
        if executors is not None:
            monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", executors)
        for cache in (
            executor_loader._alias_to_executors_per_team,
            executor_loader._module_to_executors_per_team,
            executor_loader._classname_to_executors_per_team,
            executor_loader._team_name_to_executors,
            executor_loader._executor_names,
        ):
            cache.clear()
        self.job = Job(job_type="SchedulerJob", state="running")
        with create_session() as session:
            session.add(self.job)
            session.flush()
            session.expunge(self.job)
        self.job.max_tis_per_query = 0
        self.runner = SchedulerJobRunner(job=self.job, executors=ExecutorLoader.init_executors())
        for executor in self.runner.executors:
            executor.job_id = self.job.id
            executor.callback_sink = DatabaseCallbackSink()
        self.executor: Any = next(e for e in self.runner.executors if type(e).__name__ == "EcsReconcilerExecutor")
        self.executor.start()

    def queue(self) -> int:
        """The critical section, as `_do_scheduling` runs it."""
        with create_session() as session, prohibit_commit(session) as guard:
            queued: int = self.runner._critical_section_enqueue_task_instances(session)
            guard.commit()
        return queued

    def beat(self) -> None:
        """One heartbeat, and the events it brought."""
        self.executor.heartbeat()
        self.process_events()

    def process_events(self) -> None:
        with create_session() as session:
            self.runner._process_executor_events(self.executor, session)

    def die(self) -> None:
        sql("UPDATE job SET state = 'failed' WHERE id = :id", id=self.job.id)


class World(Scheduler):
    """A scheduler, what it schedules, and the daemon's side of the table."""

    def __init__(self, executors: str | None = None, monkeypatch: Any = None) -> None:
        super().__init__(executors, monkeypatch)
        self._runs = 0
        self.daemon_holds_its_lease(for_seconds=600)
        self.beat()  # until then it does not know of any free slot

    def daemon_holds_its_lease(self, *, for_seconds: float) -> None:
        expires = datetime.now(UTC) + timedelta(seconds=for_seconds)
        with settings.get_engine().begin() as conn:
            conn.execute(delete(leases))
            conn.execute(insert(leases).values(name="test/shard", holder="daemon", epoch=1, expires_at=expires))

    def schedule(self, count: int = 1, dag_id: str = "etl", **fields: Any) -> list[uuid.UUID]:
        """So many SCHEDULED task instances of one new run. They are told apart by their map_index."""
        self._runs += 1
        make_run(f"run_{self._runs}", dag_id)
        with settings.get_engine().begin() as conn:
            (made,) = conn.execute(select(TI).where(TI.c.run_id == f"run_{self._runs}")).mappings()
            values = {**made, "state": "scheduled", "try_number": 1, **fields}
            conn.execute(delete(TI).where(TI.c.id == made["id"]))
            tis = [{**values, "id": uuid.uuid4(), "map_index": i if count > 1 else -1} for i in range(count)]
            conn.execute(insert(TI), tis)
        return [ti["id"] for ti in tis]

    def queued(self, count: int = 1, **fields: Any) -> list[Workload]:
        """So many task instances, scheduled and queued."""
        before = {w.exec_id for w in self.rows()}
        self.schedule(count, **fields)
        assert self.queue() == count
        return [w for w in self.rows() if w.exec_id not in before]

    def queued_callback(self, path: str = "os.getcwd") -> Workload:
        """A callback of a deadline, enqueued as the scheduler's loop does it."""
        self._runs += 1
        run = make_run(f"run_{self._runs}")
        with create_session() as session:
            callback = ExecutorCallback(SyncCallback(path), CallbackFetchMethod.IMPORT_PATH)
            callback.data |= {"dag_run_id": run, "dag_id": "etl"}
            callback.state = CallbackState.PENDING
            session.add(callback)
        with create_session() as session:
            self.runner._enqueue_executor_callbacks(session)
        (row,) = [w for w in self.rows() if w.kind is Kind.CALLBACK]
        return row

    def callback_state(self) -> str | None:
        (row,) = sql("SELECT state FROM callback")
        state: str | None = row["state"]
        return state

    def rows(self) -> list[Workload]:
        with settings.get_engine().begin() as conn:
            return list(read(conn, select(*WHOLE).order_by(workloads.c.created_at, workloads.c.exec_id)))

    def wanted(self, w: Workload) -> tuple[str, str | None]:
        """What is wanted of a workload, and why."""
        row = self.row(w.exec_id)
        return row.desired, row.desired_reason

    def clear(self) -> None:
        """A user clears the one task instance that there is."""
        with create_session() as session:
            clear_task_instances([session.scalars(select(TaskInstance)).one()], session)

    def row(self, exec_id: str) -> Workload:
        (found,) = [w for w in self.rows() if w.exec_id == exec_id]
        return found

    def daemon(self, exec_id: str, **changes: Any) -> None:
        """The daemon writes a row."""
        version = self.row(exec_id).version + 1
        self.overwrite(exec_id, version=version, updated_at=datetime.now(UTC), **changes)

    def overwrite(self, exec_id: str, **changes: Any) -> None:
        with settings.get_engine().begin() as conn:
            conn.execute(update(workloads).where(workloads.c.exec_id == exec_id).values(**changes))

    def ti(self, workload: Workload) -> dict[str, Any]:
        """The task instance of a workload, by its natural key."""
        key = workload.key
        named = (TI.c.task_id == key.task_id, TI.c.run_id == key.run_id, TI.c.map_index == key.map_index)
        statement = select(TI).where(*named)
        with settings.get_engine().begin() as conn:
            (found,) = conn.execute(statement).mappings()
        return dict(found)

    def set_ti(self, workload: Workload, **values: Any) -> None:
        with settings.get_engine().begin() as conn:
            conn.execute(update(TI).where(TI.c.id == self.ti(workload)["id"]).values(**values))

    def audit(self) -> list[str]:
        """What a user finds in the audit log."""
        return [row["extra"] or "" for row in sql("SELECT extra FROM log ORDER BY id")]

    @property
    def running(self) -> set[Any]:
        keys: set[Any] = self.executor.running
        return keys

"""Airflow's metadata database with two DAGs in it, from which each run gets a copy. A process of its own, which has
Airflow's settings in its environment."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airflow import settings
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.db import initdb
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import text

from tests.bench.dags.mapped import many
from tests.bench.database import BENCH, MAPPED


def main() -> None:
    initdb()
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    with DAG(BENCH, schedule=None, start_date=begin) as bench:
        BashOperator(task_id="work", bash_command="true")
    many.relative_fileloc = f"{MAPPED}.py"
    with create_session() as session:
        session.merge(DagBundleModel(name="dags-folder"))
        session.flush()
        for dag in (bench, many):
            lazy = LazyDeserializedDAG.from_dag(dag)
            SerializedDAG.bulk_write_to_db("dags-folder", None, [lazy], session=session)
            SerializedDagModel.write_dag(lazy, bundle_name="dags-folder", session=session)
    for dag_id, run_id, state in (
        (BENCH, "template", DagRunState.SUCCESS),
        (BENCH, "run", DagRunState.RUNNING),
        (MAPPED, MAPPED, DagRunState.QUEUED),
    ):
        with create_session() as session:
            stored: Any = SerializedDagModel.get_dag(dag_id, session=session)
            stored.create_dagrun(
                run_id=run_id,
                run_after=begin,
                run_type=DagRunType.MANUAL,
                triggered_by=DagRunTriggeredByType.TEST,
                state=state,
                start_date=datetime.now(UTC),
                session=session,
            )
    with settings.get_engine().begin() as connection:
        # Of the run that the benchmark fills, and of the one whose task instance all others are copies of.
        connection.execute(text("DELETE FROM task_instance WHERE dag_id = 'bench' AND run_id = 'run'"))
        connection.execute(text("UPDATE task_instance SET state = 'removed' WHERE run_id = 'template'"))
    settings.dispose_orm()


if __name__ == "__main__":
    main()

"""Airflow's audit log: the rows that we add to it, and what it tells of what users did."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import Table, insert, or_, select

from reconciler.store import schema
from reconciler.store.rows import KEY, as_records, batches, recordset

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy import Connection

    from reconciler.airflow.audit import Entry

__all__ = ["asked_by", "write"]

_log: Final = cast(Table, Log.__table__).c
_run: Final = cast(Table, DagRun.__table__).c
_ti: Final = cast(Table, TaskInstance.__table__).c
_w: Final = schema.workloads.c
_WRITTEN: Final = [_log[name] for name in (*KEY, "dttm", "event", "owner", "extra")]
_INSERT: Final = insert(Log.__table__).from_select(_WRITTEN, select(*recordset("rows", _WRITTEN).c))


def write(connection: Connection, entries: Sequence[Entry]) -> None:
    """Add rows, as airflow/models/log.py makes them for a task instance."""
    rows = [
        {
            **{name: getattr(entry.key, name) for name in KEY},
            "dttm": entry.at,
            "event": entry.event,
            "owner": "ecs-reconciler",
            "extra": entry.text,
        }
        for entry in entries
    ]
    if connection.dialect.name == "postgresql":
        connection.execute(_INSERT, {"rows": as_records(rows)})
    else:
        connection.execute(insert(Log.__table__), rows)


_ACTIONS: Final = (
    *("patch_task_instance", "patch_task_group_instances", "post_clear_task_instances", "delete_task_instance"),
    *("patch_dag_run", "clear_dag_run", "delete_dag_run", "delete_dag"),
    *("bulk_task_instances", "bulk_dag_runs", "clear_dag_runs"),
)
"""What users do to end a task, as the audit log calls it: the routes of airflow/api_fastapi/core_api/routes/public."""


def asked_by(connection: Connection, exec_ids: Collection[str]) -> dict[str, str]:
    """Who ended the task instances of these workloads, as far as Airflow knows: a user's last action, or the clock."""
    found: dict[str, str] = {}
    for some in batches(exec_ids):
        acted = (
            select(_w.exec_id, _log.event, _log.owner)
            .join_from(schema.workloads, cast(Table, Log.__table__), _log.dag_id == _w.dag_id)
            .where(
                _w.exec_id.in_(some),
                or_(_log.run_id == _w.run_id, _log.run_id.is_(None)),
                or_(_log.task_id == _w.task_id, _log.task_id.is_(None)),
                or_(_log.map_index == _w.map_index, _log.map_index.is_(None)),
                _log.event.in_(_ACTIONS),
                _log.dttm >= _w.created_at,
                # What the UI asks while its dialog is open.
                or_(_log.extra.is_(None), ~_log.extra.contains('"dry_run": true')),
            )
            .order_by(_log.dttm)
        )
        found |= {exec_id: f"{event} by {owner or 'nobody'}" for exec_id, event, owner in connection.execute(acted)}
        # Only a run that has timed out is failed, and its tasks skipped, with nobody's doing.
        # Source: airflow/jobs/scheduler_job_runner.py, _schedule_dag_run.
        on = (_run.dag_id == _w.dag_id) & (_run.run_id == _w.run_id)
        late = (
            select(_w.exec_id)
            .join_from(schema.workloads, cast(Table, DagRun.__table__), on)
            .join(cast(Table, TaskInstance.__table__), (_ti.dag_id == _w.dag_id) & (_ti.run_id == _w.run_id))
            .where(
                *(_w.exec_id.in_(some), _ti.task_id == _w.task_id, _ti.map_index == _w.map_index),
                *(_run.state == DagRunState.FAILED.value, _ti.state == TaskInstanceState.SKIPPED.value),
            )
        )
        found = dict.fromkeys(connection.execute(late).scalars(), "its DAG run timed out") | found
    return found

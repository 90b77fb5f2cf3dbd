"""Airflow's audit log: the rows that we add to it, and what it tells of what users did."""

from __future__ import annotations

import json
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, cast

from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import Table, and_, insert, or_, select

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


# What users do to end a task, as the audit log calls it: the routes of airflow/api_fastapi/core_api/routes/public.
_MARKS: Final = ("patch_task_instance", "patch_task_group_instances", "patch_dag_run")
_CLEARS: Final = ("post_clear_task_instances", "clear_dag_run", "clear_dag_runs")
_DELETES: Final = ("delete_task_instance", "delete_dag_run", "delete_dag")
_BULK: Final = ("bulk_task_instances", "bulk_dag_runs")


def asked_by(connection: Connection, exec_ids: Collection[str]) -> dict[str, str]:
    """Who ended the task instances of these workloads, as far as Airflow knows: a user's last action, or the clock."""
    found: dict[str, str] = {}
    of_the_workload = [_w[name] for name in ("exec_id", "ti_id", "task_id", "run_id", "map_index")]
    its = and_(*(_ti[name] == _w[name] for name in ("dag_id", "task_id", "run_id", "map_index")))
    for some in batches(exec_ids):
        actions = (
            select(_log.event, _log.owner, _log.extra, *of_the_workload, _ti.id, _ti.state)
            .join_from(schema.workloads, cast(Table, Log.__table__), _log.dag_id == _w.dag_id)
            .join(cast(Table, TaskInstance.__table__), its, isouter=True)
            .where(
                _w.exec_id.in_(some),
                or_(_log.run_id == _w.run_id, _log.run_id.is_(None)),
                or_(_log.task_id == _w.task_id, _log.task_id.is_(None)),
                or_(_log.map_index == _w.map_index, _log.map_index.is_(None)),
                _log.event.in_((*_MARKS, *_CLEARS, *_DELETES, *_BULK)),
                _log.dttm >= _w.created_at,
                # What the UI asks while its dialog is open.
                or_(_log.extra.is_(None), ~_log.extra.contains('"dry_run": true')),
            )
            .order_by(_log.dttm)
        )
        acted = [row for row in connection.execute(actions) if _fits(row)]
        found |= {row.exec_id: f"{row.event} by {row.owner or 'nobody'}" for row in acted}
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


def _fits(row: Any) -> bool:
    """Whether the task instance is what such an action makes of it. Others end by themselves, and nobody is to blame.

    `extra` is JSON: the request's body, and what of its path and query has no column of its own. It is searched and not
    parsed: whatever is in there, the workload is withdrawn.
    Source: airflow/api_fastapi/logging/decorators.py.
    """
    event, extra, gone, state = row.event, row.extra or "", row.id is None, row.state or ""

    def says(name: str, *values: Any) -> bool:
        return any(f"{json.dumps(name)}: {json.dumps(value)}" in extra for value in values)

    def names(name: str) -> bool:
        return json.dumps(name) in extra

    if event in _DELETES:
        return gone
    if event in _CLEARS:
        cleared = not gone and str(row.id) != row.ti_id and state != "up_for_retry"  # a retry has a new id as well
        relatives = says("include_upstream", True) or says("include_downstream", True)
        its_task = '"task_ids": [' not in extra or names(row.task_id) or relatives
        its_run = '"dag_runs": [' not in extra or names(row.run_id)
        return cleared and its_task and its_run
    if event in _BULK and not names(row.run_id if event == "bulk_dag_runs" else row.task_id):
        return False
    if gone:
        return says("action", "delete")
    if event in ("patch_dag_run", "bulk_dag_runs"):
        # Tasks that run become what the run becomes, and those that wait are skipped.
        return says("state", *(("success", "failed") if state == "skipped" else (state,)))
    groups = accumulate(row.task_id.split(".")[:-1], "{}.{}".format)
    its_group = event != "patch_task_group_instances" or says("group_id", *groups)
    its_index = '"map_index": ' not in extra or says("map_index", row.map_index, str(row.map_index))
    return says("new_state", state) and its_group and its_index

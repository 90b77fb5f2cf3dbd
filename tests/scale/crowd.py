"""Tables as they look after months: made in the database itself, because a million rows are many."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["Crowd", "fill"]

_WORKLOAD: Final = json.dumps({"ti": {"id": "0" * 36, "dag_id": "dag"}, "dag_rel_path": "x" * 200, "bundle": "y" * 600})
_PARAMS: Final = json.dumps({
    "taskDefinition": "airflow-task", "launchType": "FARGATE", "count": 1,
    "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"] * 3}},
    "overrides": {"containerOverrides": [{"name": "airflow", "environment": [{"name": "A", "value": "b" * 60}] * 4}]},
    "tags": [{"key": f"airflow:{name}", "value": "c" * 30} for name in ("dag_id", "task_id", "run_id")],
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Crowd:
    """So many rows of each kind. The finished ones end one after the other, the last of them just now."""

    finished: int = 100_000
    live: int = 5_000
    pending: int = 10_000
    shard: str = ""
    deployment: str = "prod"
    owner: int = 7
    """The scheduler job that owns all of it."""
    first: int = 0
    """The number of the first, for a second crowd in one table."""


def fill(engine: Engine, crowd: Crowd) -> None:
    """Insert a crowd, a launch attempt for each row that has been launched, and tell the database to look at it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("SET statement_timeout = 0")
        # Of a thousand finished ones three end otherwise, and one is not acknowledged yet. One ends in a second.
        for kind, count in (("f", crowd.finished), ("l", crowd.live), ("p", crowd.pending)):
            conn.exec_driver_sql(_ROWS, {
                "kind": kind, "first": crowd.first, "last": crowd.first + count - 1,
                "of": crowd.deployment, "owner": crowd.owner, "shard": crowd.shard,
                "workload": _WORKLOAD, "params": _PARAMS,
            })  # fmt: skip
        conn.exec_driver_sql(_ATTEMPTS)
        for table in ("ecs_workload", "ecs_launch_attempt"):
            conn.exec_driver_sql(f"VACUUM ANALYZE {table}")


_ROWS: Final = """
INSERT INTO ecs_workload (
    exec_id, deployment, kind, ti_id, dag_id, task_id, run_id, map_index, try_number, queue, priority, owner_job_id,
    workload, executor_config, spec_version, desired, refused, acked_version, created_at, phase, version, attempt,
    start_failures, intent_at, profile, shard, cluster, family, params, cpu, task_arn, ecs_version, last_status,
    started_at, stopped_at, exit_code, updated_at)
SELECT
    id, %(of)s, 'task', 'ti-' || id, 'dag' || n %% 50, 'task' || n %% 20, %(kind)s || n / 1000, n, 1, 'default',
    n %% 10, %(owner)s, %(workload)s, '{}', 1,
    CASE WHEN p = 'RUNNING' AND n %% 500 = 499 THEN 'STOP' ELSE 'RUN' END, false,
    CASE WHEN ended AND n %% 1000 <> 999 THEN 6 ELSE 0 END, moment - interval '10 minutes', p,
    CASE WHEN p = 'PENDING' THEN 1 ELSE 6 END, CASE WHEN p = 'PENDING' THEN 0 ELSE 1 END, 0,
    CASE WHEN p = 'PENDING' THEN NULL ELSE moment - interval '9 minutes' END, 'default',
    CASE WHEN p = 'PENDING' THEN '' ELSE %(shard)s END, 'airflow', 'airflow-task',
    CASE WHEN p = 'PENDING' THEN NULL ELSE %(params)s END, CASE WHEN p = 'PENDING' THEN 0 ELSE 256 END,
    CASE WHEN p IN ('PENDING', 'LAUNCHING', 'FAILED_START', 'CANCELLED') THEN NULL
        ELSE 'arn:aws:ecs:us-east-1:123456789012:task/airflow/' || id END,
    4, CASE WHEN ended THEN 'STOPPED' ELSE 'RUNNING' END, moment - interval '8 minutes',
    CASE WHEN ended THEN moment END, CASE WHEN p = 'EXITED' THEN 0 END, moment
FROM (
    SELECT n, %(kind)s || lpad(n::text, 9, '0') AS id, %(kind)s = 'f' AS ended,
        CASE WHEN %(kind)s = 'f' THEN clock_timestamp() - n * interval '1 second' ELSE clock_timestamp() END AS moment,
        CASE %(kind)s
            WHEN 'p' THEN 'PENDING'
            WHEN 'l' THEN CASE WHEN n < 30 THEN 'LAUNCHING' WHEN n %% 20 = 0 THEN 'STARTED'
                WHEN n %% 100 = 1 THEN 'STOPPING' ELSE 'RUNNING' END
            ELSE CASE n %% 1000 WHEN 0 THEN 'FAILED_START' WHEN 1 THEN 'CANCELLED' WHEN 2 THEN 'LOST' ELSE 'EXITED' END
        END AS p
    FROM generate_series(%(first)s::int, %(last)s::int) AS n
) AS made
"""
_ATTEMPTS: Final = """
INSERT INTO ecs_launch_attempt
    (exec_id, attempt, cluster, family, client_token, started_by, intent_at, epoch, closed_at, verdict, task_arn, told)
SELECT exec_id, 1, cluster, family, exec_id, deployment || '/' || exec_id || '/1', intent_at, 1, stopped_at, phase,
    task_arn, CASE WHEN stopped_at IS NULL THEN 1 ELSE 2 END
FROM ecs_workload WHERE attempt > 0
ON CONFLICT DO NOTHING
"""

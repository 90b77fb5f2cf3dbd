"""The first tables: workloads, launch attempts, leases, holds, components."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)
_OPEN = "phase IN ('PENDING', 'LAUNCHING', 'STARTED', 'RUNNING', 'STOPPING')"
_UNTOLD = "told = 0 AND task_arn IS NOT NULL OR told < 2 AND closed_at IS NOT NULL"
_BEHIND = "CASE WHEN (version > acked_version) THEN 1 ELSE 0 END = 1"
_TERMINAL = "phase IN ('EXITED', 'FAILED_START', 'CANCELLED', 'LOST')"


def upgrade() -> None:
    # "if not exists": Airflow makes the tables from the metadata, and may die before it has noted the revision.
    op.create_table(
        "ecs_workload",
        sa.Column("exec_id", sa.String(36), primary_key=True),
        sa.Column("deployment", sa.String(40), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("ti_id", sa.String(36)),
        sa.Column("dag_id", sa.String(250), nullable=False),
        sa.Column("task_id", sa.String(250), nullable=False),
        sa.Column("run_id", sa.String(250), nullable=False),
        sa.Column("map_index", sa.Integer, nullable=False),
        sa.Column("try_number", sa.Integer, nullable=False),
        sa.Column("queue", sa.String(256), nullable=False),
        sa.Column("team", sa.String(50)),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("owner_job_id", sa.Integer),
        sa.Column("workload", sa.Text),
        sa.Column("executor_config", sa.Text),
        sa.Column("spec_version", sa.Integer, nullable=False),
        sa.Column("desired", sa.String(4), nullable=False),
        sa.Column("desired_reason", sa.Text),
        sa.Column("desired_at", _TIME),
        sa.Column("refused", sa.Boolean, nullable=False),
        sa.Column("acked_version", sa.BigInteger, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("phase", sa.String(12), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("start_failures", sa.Integer, nullable=False),
        sa.Column("not_before", _TIME),
        sa.Column("intent_at", _TIME),
        sa.Column("profile", sa.Text, nullable=False),
        sa.Column("shard", sa.Text, nullable=False),
        sa.Column("cluster", sa.Text),
        sa.Column("family", sa.Text),
        sa.Column("params", sa.Text),
        sa.Column("logs", sa.Text),
        sa.Column("cpu", sa.Integer, nullable=False, server_default="0"),
        sa.Column("task_arn", sa.Text),
        sa.Column("ecs_version", sa.BigInteger, nullable=False),
        sa.Column("last_status", sa.Text),
        sa.Column("started_at", _TIME),
        sa.Column("stopped_at", _TIME),
        sa.Column("exit_code", sa.Integer),
        sa.Column("stop_code", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("updated_at", _TIME, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "ecs_launch_attempt",
        sa.Column("exec_id", sa.String(36), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("cluster", sa.Text),
        sa.Column("family", sa.Text),
        sa.Column("client_token", sa.String(64), nullable=False),
        sa.Column("started_by", sa.String(128), nullable=False),
        sa.Column("intent_at", _TIME, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("closed_at", _TIME),
        sa.Column("verdict", sa.Text),
        sa.Column("task_arn", sa.Text),
        sa.Column("told", sa.Integer, nullable=False, server_default="0"),
        if_not_exists=True,
    )
    op.create_table(
        "ecs_lease",
        sa.Column("name", sa.String(250), primary_key=True),
        sa.Column("holder", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "ecs_hold",
        sa.Column("deployment", sa.String(40), primary_key=True),
        sa.Column("queue", sa.String(256), primary_key=True),
        sa.Column("mode", sa.String(8), nullable=False),
        sa.Column("held_by", sa.Text, nullable=False),
        sa.Column("since", _TIME, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "ecs_component",
        sa.Column("deployment", sa.String(40), primary_key=True),
        sa.Column("kind", sa.String(8), primary_key=True),
        sa.Column("instance", sa.String(250), primary_key=True),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("trouble", sa.Text),
        sa.Column("seen_at", _TIME, nullable=False),
        if_not_exists=True,
    )
    if op.get_context().dialect.name == "postgresql":
        for table in ("ecs_workload", "ecs_launch_attempt", "ecs_lease", "ecs_hold", "ecs_component"):
            op.execute(
                f"ALTER TABLE {table} SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
                "autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
            )
    refused = "refused = 1" if op.get_context().dialect.name == "sqlite" else "refused"
    pending: list[str | sa.TextClause] = ["deployment", sa.text("priority DESC"), "created_at", "exec_id"]
    _index("pending", pending, "phase = 'PENDING' AND desired = 'RUN'")
    _index("open", ["deployment", "shard", "phase"], _OPEN)
    _index("ti", ["ti_id"], _OPEN, using="hash")
    _index("unwanted", ["deployment"], f"{_OPEN} AND desired = 'STOP'")
    _index("refused", ["deployment"], f"phase = 'EXITED' AND desired = 'RUN' AND {refused}")
    _index("undelivered", ["deployment", "owner_job_id", "updated_at"], f"{_TERMINAL} AND {_BEHIND}")
    _index("finished", ["deployment", "updated_at"], _TERMINAL)
    _index("key", ["dag_id", "task_id", "run_id", "map_index", "try_number"], None)
    _index("untold", ["exec_id"], _UNTOLD, "ecs_launch_attempt")


def _index(
    name: str,
    columns: list[str | sa.TextClause],
    predicate: str | None,
    table: str = "ecs_workload",
    using: str | None = None,
) -> None:
    where = None if predicate is None else sa.text(predicate)
    op.create_index(
        f"ix_{table}_{name}",
        table,
        columns,
        postgresql_where=where,
        sqlite_where=where,
        postgresql_using=using,
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("ecs_component")
    op.drop_table("ecs_hold")
    op.drop_table("ecs_lease")
    op.drop_table("ecs_launch_attempt")
    op.drop_table("ecs_workload")

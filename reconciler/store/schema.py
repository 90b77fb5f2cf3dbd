"""The tables, their indexes, and the predicates that queries and partial indexes share."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    case,
    event,
    literal_column,
    or_,
)
from sqlalchemy.types import TypeDecorator

from reconciler.core.phase import IN_FLIGHT, TERMINAL, Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sqlalchemy import FromClause

__all__ = ["SPEC_VERSION", "VERSION_TABLE", "Json", "NotJson", "UtcDateTime", "attempts", "components", "finished"]
__all__ += ["holds", "in_flight", "leases", "metadata", "opened", "pending", "phase_in", "refused", "standing"]
__all__ += ["undelivered", "untold", "unwanted", "workloads"]

SPEC_VERSION: Final = 1
"""The form of a row's spec. A daemon leaves rows of a newer form alone until it is upgraded itself."""

VERSION_TABLE: Final = "alembic_version_ecs_reconciler"
"""Alembic's version table, apart from Airflow's own."""


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC: timestamptz on PostgreSQL, naive text on SQLite, always aware in Python."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"the time {value.isoformat()} has no time zone")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if dialect.name == "sqlite" else value.astimezone(UTC)


class NotJson(str):
    """What is in a column for JSON and is none. An exception here would hide all rows of the same read."""

    __slots__ = ()


class Json(TypeDecorator["Mapping[str, Any]"]):
    """A JSON object kept as text: nothing is ever searched in it, and text comes back as it went in."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, Any] | None, dialect: Dialect) -> str | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else json.dumps(value, separators=(",", ":"))

    def process_result_value(self, value: str | None, dialect: Dialect) -> Mapping[str, Any] | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            read = None
        return read if isinstance(read, dict) else cast(Any, NotJson(value[:80]))


metadata: Final = MetaData()

# Strings that AWS or an operator makes are of type text: one that does not fit would fail a whole batch of rows.
workloads: Final = Table(
    "ecs_workload",
    metadata,
    Column("exec_id", String(36), primary_key=True),
    Column("deployment", String(40), nullable=False),
    Column("kind", String(8), nullable=False),
    Column("ti_id", String(36)),
    Column("dag_id", String(250), nullable=False),
    Column("task_id", String(250), nullable=False),
    Column("run_id", String(250), nullable=False),
    Column("map_index", Integer, nullable=False),
    Column("try_number", Integer, nullable=False),
    Column("queue", String(256), nullable=False),
    Column("team", String(50)),
    Column("priority", Integer, nullable=False),
    Column("owner_job_id", Integer),
    Column("workload", Text),
    Column("executor_config", Json),
    Column("spec_version", Integer, nullable=False),
    Column("desired", String(4), nullable=False),
    Column("desired_reason", Text),
    Column("desired_at", UtcDateTime),
    Column("refused", Boolean, nullable=False),
    Column("acked_version", BigInteger, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("phase", String(12), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("start_failures", Integer, nullable=False),
    Column("not_before", UtcDateTime),
    Column("intent_at", UtcDateTime),
    Column("profile", Text, nullable=False),
    Column("shard", Text, nullable=False),
    Column("cluster", Text),
    Column("family", Text),
    Column("params", Json),
    Column("logs", Json),
    Column("cpu", Integer, nullable=False, server_default="0"),
    Column("task_arn", Text),
    Column("ecs_version", BigInteger, nullable=False),
    Column("last_status", Text),
    Column("started_at", UtcDateTime),
    Column("stopped_at", UtcDateTime),
    Column("exit_code", Integer),
    Column("stop_code", Text),
    Column("reason", Text),
    Column("updated_at", UtcDateTime, nullable=False),
)

# No foreign key to ecs_workload: should a row be deleted by hand, this still says whose its ECS tasks are.
attempts: Final = Table(
    "ecs_launch_attempt",
    metadata,
    Column("exec_id", String(36), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("cluster", Text),
    Column("family", Text),
    Column("client_token", String(64), nullable=False),
    Column("started_by", String(128), nullable=False),
    Column("intent_at", UtcDateTime, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("closed_at", UtcDateTime),
    Column("verdict", Text),
    Column("task_arn", Text),
    # With a default of the database's own: a daemon of the release before does not know this column.
    Column("told", Integer, nullable=False, server_default="0"),
)

leases: Final = Table(
    "ecs_lease",
    metadata,
    Column("name", String(250), primary_key=True),
    Column("holder", Text, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
)

# What an operator holds back. One row for a queue, and one with an empty name for all of them.
holds: Final = Table(
    "ecs_hold",
    metadata,
    Column("deployment", String(40), primary_key=True),
    Column("queue", String(256), primary_key=True),
    Column("mode", String(8), nullable=False),
    Column("held_by", Text, nullable=False),
    Column("since", UtcDateTime, nullable=False),
)

# What schedulers and daemons say of themselves: doctor compares it. Settings hold no secret.
components: Final = Table(
    "ecs_component",
    metadata,
    Column("deployment", String(40), primary_key=True),
    Column("kind", String(8), primary_key=True),
    Column("instance", String(250), primary_key=True),
    Column("version", Text, nullable=False),
    Column("settings", Json, nullable=False),
    Column("trouble", Text),
    Column("seen_at", UtcDateTime, nullable=False),
)


# Rows are rewritten some seven times in their life: leave room beside them, and clean up early.
for _table in metadata.tables.values():
    _storage = DDL(  # type: ignore[no-untyped-call]  # SQLAlchemy's
        f"ALTER TABLE {_table.name} SET (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, "
        "autovacuum_analyze_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0)"
    )
    event.listen(_table, "after_create", _storage.execute_if(dialect="postgresql"))


# A partial index serves a query only if the query repeats its predicate. SQLite compares the two as written, and
# neither database can see through a bound parameter: so both sides come from these functions, the words as literals.


def _word(word: str) -> ColumnElement[str]:
    return literal_column(f"'{word}'", String)


def phase_in(table: FromClause, phases: Iterable[Phase]) -> ColumnElement[bool]:
    """`phase IN (...)` with literal words, in the order of `Phase`."""
    wanted = frozenset(phases)
    return table.c.phase.in_([_word(phase.value) for phase in Phase if phase in wanted])


def opened(table: FromClause) -> ColumnElement[bool]:
    """Not terminal."""
    return phase_in(table, frozenset(Phase) - TERMINAL)


def in_flight(table: FromClause) -> ColumnElement[bool]:
    """May own an ECS task. The first term is for the index."""
    return and_(opened(table), phase_in(table, IN_FLIGHT))


def finished(table: FromClause) -> ColumnElement[bool]:
    """Terminal."""
    return phase_in(table, TERMINAL)


def pending(table: FromClause) -> ColumnElement[bool]:
    """Wanted and without a container."""
    return and_(table.c.phase == _word("PENDING"), table.c.desired == _word("RUN"))


def unwanted(table: FromClause) -> ColumnElement[bool]:
    """To be stopped or cancelled."""
    return and_(opened(table), table.c.desired == _word("STOP"))


def refused(table: FromClause) -> ColumnElement[bool]:
    """Exited without having been admitted by Airflow."""
    return and_(table.c.phase == _word("EXITED"), table.c.desired == _word("RUN"), table.c.refused)


def standing(table: FromClause) -> ColumnElement[bool]:
    """Not over: not terminal, or about to be opened again."""
    return or_(opened(table), refused(table))


def undelivered(table: FromClause) -> ColumnElement[bool]:
    """Terminal, and its owner has not acknowledged it yet.

    USE CAUTION when rewording this. Of a comparison of two columns PostgreSQL expects that a third of the rows pass,
    and would rather read the whole table than the index in which the few are; of an equation it expects few.
    """
    behind = case((table.c.version > table.c.acked_version, literal_column("1")), else_=literal_column("0"))
    return and_(finished(table), behind == literal_column("1"))


def untold(table: FromClause) -> ColumnElement[bool]:
    """A launch, or its end, that Airflow's audit log does not have yet. `told` counts what it has: 0, 1 or 2."""
    launched = and_(table.c.told == literal_column("0"), table.c.task_arn.is_not(None))
    ended = and_(table.c.told < literal_column("2"), table.c.closed_at.is_not(None))
    return or_(launched, ended)


def _partial(
    name: str, predicate: ColumnElement[bool], *columns: ColumnElement[Any], using: str | None = None
) -> Index:
    return Index(name, *columns, postgresql_where=predicate, sqlite_where=predicate, postgresql_using=using)


_c = workloads.c
_partial("ix_ecs_workload_pending", pending(workloads), _c.deployment, _c.priority.desc(), _c.created_at, _c.exec_id)
_partial("ix_ecs_workload_open", opened(workloads), _c.deployment, _c.shard, _c.phase)
# A hash finds a task instance and serves for nothing else. Ids that rise with time would make PostgreSQL prefer an
# ordered index to that of open rows, and read what waits along with what runs.
_partial("ix_ecs_workload_ti", opened(workloads), _c.ti_id, using="hash")
_partial("ix_ecs_workload_unwanted", unwanted(workloads), _c.deployment)
_partial("ix_ecs_workload_refused", refused(workloads), _c.deployment)
_partial("ix_ecs_workload_undelivered", undelivered(workloads), _c.deployment, _c.owner_job_id, _c.updated_at)
_partial("ix_ecs_workload_finished", finished(workloads), _c.deployment, _c.updated_at)
Index(
    "ix_ecs_launch_attempt_untold",
    attempts.c.exec_id,
    postgresql_where=untold(attempts),
    sqlite_where=untold(attempts),
)
Index("ix_ecs_workload_key", _c.dag_id, _c.task_id, _c.run_id, _c.map_index, _c.try_number)

"""The table as a scheduler's shim sees it: plain functions on a connection whose transaction the caller owns.

The connection is usually Airflow's own, in the very transaction that Airflow writes its task instances in: nothing here
commits, nothing assumes this project's engine settings, and rows are written in the order of their ids so that two
schedulers never wait for each other in a circle. All ages are the database's.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Integer,
    and_,
    bindparam,
    case,
    exists,
    func,
    literal_column,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from reconciler.core.phase import IN_FLIGHT, Desired, Phase
from reconciler.core.shares import NO_SHARES
from reconciler.core.task import Kind
from reconciler.store import schema
from reconciler.store.rows import (
    LIGHT,
    DbNow,
    among,
    as_records,
    batches,
    columns_of,
    joined,
    now,
    read,
    recordset,
    row_of,
    seconds,
    snapshot,
)
from reconciler.store.schema import holds, leases, workloads

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import timedelta

    from sqlalchemy import BindParameter, Connection

    from reconciler.core.shares import Shares
    from reconciler.core.task import Snapshot, Workload

__all__ = ["Demand", "acknowledge", "adopt", "demand", "hurry", "impatient", "insert", "lose_patience", "newest"]
__all__ += ["open_workloads", "own", "refuse", "shed", "undelivered", "waiting", "want_stop"]

_w: Final = workloads.c
_ids: Final = among(_w.exec_id, "ids")
_owned: Final = (_w.deployment == bindparam("deployment"), _w.owner_job_id == bindparam("owner"))
_limit: Final = bindparam("limit", type_=Integer)


@dataclass(frozen=True, slots=True)
class Demand:
    """What tells a scheduler how many more task instances it may queue."""

    in_flight: int
    """Workloads that count against the quota."""
    pending: int
    """Workloads that wait for their launch."""
    finished_last_minute: int
    """Workloads that gave a slot back within the last minute."""
    daemon_alive: bool
    """Some replica holds a lease of this deployment."""
    blocked: int = 0
    """Those of `pending` that can not start whatever is free in all: their queue is held, or their profile, or all that
    run where the default one does, have used up their share of the quota."""
    held: bool = False
    """An operator holds all queues."""
    at_home: int = 0
    """Those of `blocked` that will have what becomes free where the default profile's tasks run."""


_NAMES: Final = [column.name for column in workloads.c if column.name not in ("created_at", "updated_at")]
_JSON: Final = [column.name for column in workloads.c if isinstance(column.type, schema.Json)]
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_records: Final = recordset("records", [_w[name] for name in _NAMES])
_common: Final = recordset("common", [_w[name] for name in _NAMES])
_INSERT: Final = (
    postgresql.insert(workloads)
    .from_select(
        [*_NAMES, "created_at", "updated_at"],
        select(*(func.coalesce(_records.c[name], _common.c[name]) for name in _NAMES), DbNow(), DbNow()).select_from(
            _records.join(_common, true())
        ),
    )
    .on_conflict_do_nothing(index_elements=[_w.exec_id])
)
_INSERT_EACH: Final = (
    sqlite.insert(workloads)
    .values(created_at=DbNow(), updated_at=DbNow())
    .on_conflict_do_nothing(index_elements=[_w.exec_id])
)
_IMPATIENCE: Final = text("SELECT current_setting('lock_timeout'), set_config('lock_timeout', '1s', true)")
_PATIENCE: Final = text("SELECT set_config('lock_timeout', :before, true)")
_NO_PATIENCE: Final = text("SET LOCAL lock_timeout = '1s'")
_HURRY: Final = text("SELECT set_config('lock_timeout', '1s', true), set_config('synchronous_commit', 'off', true)")


@contextmanager
def impatient(conn: Connection) -> Iterator[None]:
    """Wait for no lock longer than a second in this block, which belongs into a savepoint of its own.

    Somebody may be altering our tables, or a daemon's connection may have died with locks in its hands: the scheduler,
    which holds locks of Airflow's at that moment, must not wait for them. What is not written now is written later.
    The transaction goes on with the patience that it had before; after an error the end of the savepoint sees to that.
    """
    if conn.dialect.name != "postgresql":
        yield  # on SQLite whoever began has had its only lock already
        return
    before = conn.execute(_IMPATIENCE).scalar_one()
    yield
    conn.execute(_PATIENCE, {"before": before})


def lose_patience(conn: Connection) -> None:
    """The same for a whole transaction of ours, from here to its end."""
    if conn.dialect.name == "postgresql":
        conn.execute(_NO_PATIENCE)


def hurry(conn: Connection) -> None:
    """The same, and its COMMIT does not wait for the disk either: for what would be found to be undone, and done again.

    A server that dies within the next second may forget such a transaction, as a whole. Whoever acts on it outside of
    the database commits something before, and PostgreSQL writes commits down in their order: nobody has acted on what
    is forgotten.
    Source: https://www.postgresql.org/docs/current/wal-async-commit.html
    """
    if conn.dialect.name == "postgresql":
        conn.execute(_HURRY)


def insert(conn: Connection, new: Sequence[Workload]) -> None:
    """Queue workloads: PENDING, or FAILED_START if rejected at once. One that is there already stays as it is."""
    if not new:
        return
    ordered = sorted(new, key=lambda w: w.exec_id)
    if conn.dialect.name == "sqlite":
        conn.execute(_INSERT_EACH, [row_of(w) for w in ordered])
        return
    columns = columns_of(ordered)
    for name in _JSON:
        columns[name] = [None if value is None else _encode(value) for value in columns[name]]
    # Most columns are the same in all new rows. Sent once, and not with each, they cost half as much.
    common = {name: values[0] for name, values in columns.items() if values.count(values[0]) == len(values)}
    varying = {name: values for name, values in columns.items() if name not in common}
    records = [dict(zip(varying, row, strict=True)) for row in zip(*varying.values(), strict=True)] or [{}]
    conn.execute(_INSERT, {"records": as_records(records), "common": as_records([common])})


_UNDELIVERED: Final = (
    select(*LIGHT).where(*_owned, schema.undelivered(workloads)).order_by(_w.updated_at, _w.exec_id).limit(_limit)
)


def undelivered(conn: Connection, deployment: str, owner_job_id: int, limit: int) -> Snapshot:
    """Terminal workloads of this owner that it has not acknowledged, the oldest first, without their spec.

    There is no cursor that could run ahead of a slow commit: a row is shown until it is acknowledged.
    """
    return snapshot(conn, _UNDELIVERED, deployment=deployment, owner=owner_job_id, limit=limit)


_later: Final = workloads.alias("later")
_NEWEST: Final = select(_w.exec_id).where(
    _ids,
    ~exists().where(
        _later.c.dag_id == _w.dag_id,
        _later.c.task_id == _w.task_id,
        _later.c.run_id == _w.run_id,
        _later.c.map_index == _w.map_index,
        _later.c.try_number == _w.try_number,
        _later.c.deployment == _w.deployment,
        _later.c.created_at > _w.created_at,
    ),
)


def newest(conn: Connection, some: Collection[Workload]) -> set[str]:
    """Those of these exec_ids whose task instance, by its key and try, has not been queued again since."""
    return {
        exec_id
        for ids in batches([w.exec_id for w in some])
        for exec_id in conn.execute(_NEWEST, {"ids": ids}).scalars()
    }


_as_read: Final = (_w.exec_id == bindparam("id"), _w.version == bindparam("read_version"))
_ACKNOWLEDGE: Final = update(workloads).where(*_as_read, schema.finished(workloads)).values(acked_version=_w.version)
_REFUSE: Final = (
    update(workloads)
    .where(*_as_read, _w.phase == Phase.EXITED.value, _w.desired == Desired.RUN.value)
    .values(refused=true(), version=_w.version + 1)
)


def acknowledge(conn: Connection, some: Sequence[Workload]) -> None:
    """There is nothing left to tell about these terminal workloads, as they were read."""
    if some:
        conn.execute(_ACKNOWLEDGE, _versions(some))


def refuse(conn: Connection, some: Sequence[Workload]) -> None:
    """Airflow never admitted the containers of these exited workloads: the daemon may launch them again."""
    if some:
        conn.execute(_REFUSE, _versions(some))


def _versions(some: Sequence[Workload]) -> list[dict[str, Any]]:
    return [{"id": w.exec_id, "read_version": w.version} for w in sorted(some, key=lambda w: w.exec_id)]


_LOCK: Final = select(_w.exec_id).where(_ids).order_by(_w.exec_id).with_for_update()
_WANT_STOP: Final = (
    update(workloads)
    .where(_ids, schema.standing(workloads), _w.desired == Desired.RUN.value)
    .values(desired=Desired.STOP.value, desired_reason=bindparam("why"), desired_at=DbNow(), version=_w.version + 1)
)


def want_stop(conn: Connection, exec_ids: Collection[str], reason: str) -> int:
    """Airflow does not want these any more. Wanted once, it stays wanted. Returns how many were still wanted to run."""
    stopped = 0
    for ids in batches(exec_ids):
        conn.execute(_LOCK, {"ids": ids})
        stopped += conn.execute(_WANT_STOP, {"ids": ids, "why": reason}).rowcount
    return stopped


_OPEN: Final = select(*LIGHT).where(*_owned, schema.opened(workloads)).order_by(_w.created_at, _w.exec_id)


def open_workloads(conn: Connection, deployment: str, owner_job_id: int) -> Snapshot:
    """The workloads of this owner that are not terminal, without their spec."""
    return snapshot(conn, _OPEN, deployment=deployment, owner=owner_job_id)


_OWN: Final = update(workloads).where(_ids).values(owner_job_id=bindparam("owner"))
_ADOPT: Final = _OWN.values(team=bindparam("new_team")).returning(_w.exec_id)


def own(conn: Connection, exec_ids: Collection[str], owner_job_id: int) -> None:
    """Make this scheduler job the owner. Its executor for the same team has them from now on."""
    for ids in batches(exec_ids):
        conn.execute(_LOCK, {"ids": ids})
        conn.execute(_OWN, {"ids": ids, "owner": owner_job_id})


def adopt(conn: Connection, exec_ids: Collection[str], owner_job_id: int, team: str | None) -> set[str]:
    """Make this scheduler job the owner, and its executor for this team. Returns the ids that exist.

    Airflow has given them to that executor. It may be another team's than the one that queued them: teams come and go.
    """
    adopted: set[str] = set()
    for ids in batches(exec_ids):
        conn.execute(_LOCK, {"ids": ids})
        adopted.update(conn.execute(_ADOPT, {"ids": ids, "owner": owner_job_id, "new_team": team}).scalars())
    return adopted


_WAITING: Final = (
    select(*LIGHT)
    .where(
        *(*_owned, _w.team.is_not_distinct_from(bindparam("team")), _w.kind == Kind.TASK.value),
        *(schema.pending(workloads), _w.created_at < now(seconds("age")), _w.start_failures <= bindparam("failures")),
    )
    .order_by(_w.created_at, _w.exec_id)
    .limit(_limit)
)
_ANY_NUMBER: Final = 2**31 - 1


def waiting(
    conn: Connection,
    deployment: str,
    owner_job_id: int,
    older_than: timedelta,
    limit: int,
    *,
    team: str | None = None,
    failed: bool = False,
) -> list[Workload]:
    """Tasks of this owner that were queued `older_than` ago and still wait for their launch, the oldest first.

    `failed`: those as well that have failed to start before.
    """
    their = {"deployment": deployment, "owner": owner_job_id, "team": team, "failures": _ANY_NUMBER if failed else 0}
    return read(conn, _WAITING, **their, age=-older_than.total_seconds(), limit=limit)


_GIVEN_BACK: Final = "given back to Airflow: it could not be launched in time"
_SHED: Final = (
    update(workloads)
    .where(
        _ids,  # no index finds the triples
        # Its owner's as well: one handed over meanwhile is in the books of another scheduler.
        among(joined(_w.exec_id, _w.version, _w.owner_job_id), "read"),
        _w.phase == Phase.PENDING.value,
    )
    .values(
        phase=Phase.CANCELLED.value,
        reason=_GIVEN_BACK,
        updated_at=DbNow(),
        version=_w.version + 1,
        acked_version=_w.version + 1,
    )
    .returning(_w.exec_id, _w.updated_at)
)


def shed(conn: Connection, some: Sequence[Workload]) -> list[Workload]:
    """Cancel workloads that still wait for their launch; the caller gives their task instances back to Airflow.

    Returns those that were cancelled here: whatever has an intent by now is not touched. Already acknowledged.
    """
    as_read = {w.exec_id: w for w in some}
    cancelled = []
    for ids in batches(as_read):
        conn.execute(_LOCK, {"ids": ids})
        read = [f"{exec_id} {as_read[exec_id].version} {as_read[exec_id].owner_job_id}" for exec_id in ids]
        won = conn.execute(_SHED, {"ids": ids, "read": read})
        for exec_id, at in won:
            w = as_read[exec_id]
            cancelled.append(w.moved(Phase.CANCELLED, at, reason=_GIVEN_BACK, acked_version=w.version + 1))
    return cancelled


_deployment: Final[BindParameter[str]] = bindparam("deployment")
_held: Final = holds.c.deployment == _deployment
_ALL: Final = select(
    # Neither what was rejected or given back before its launch: no slot was ever taken.
    select(func.count())
    .where(
        *(_w.deployment == _deployment, schema.finished(workloads)),
        # Of a range with two ends PostgreSQL expects few rows, of one with one end a third of the table.
        *(_w.updated_at > now(seconds("age")), _w.updated_at < now(seconds("ahead"))),
        *(_w.attempt > 0, _w.phase != literal_column("'CANCELLED'")),
    )
    .scalar_subquery()
    .label("finished"),
    # Not LIKE: an underscore in a name would be a wildcard, and SQLite does not tell capitals apart.
    exists()
    .where(
        func.substr(leases.c.name, 1, func.length(bindparam("prefix"))) == bindparam("prefix"),
        leases.c.expires_at > now(),
    )
    .label("alive"),
    exists().where(_held, holds.c.queue == literal_column("''")).label("held"),
).subquery("all_queues")
_EACH: Final = (
    select(
        _w.queue,
        func.sum(case((schema.phase_in(workloads, IN_FLIGHT), 1), else_=0)).label("running"),
        func.sum(case((schema.pending(workloads), 1), else_=0)).label("waiting"),
    )
    .where(_w.deployment == _deployment, schema.opened(workloads))
    .group_by(_w.queue)
    .subquery("each_queue")
)
_DEMAND: Final = select(
    *(*_ALL.c, _EACH.c.queue),
    func.coalesce(_EACH.c.running, 0).label("running"),
    func.coalesce(_EACH.c.waiting, 0).label("waiting"),
    holds.c.queue.is_not(None).label("queue_held"),
).select_from(_ALL.outerjoin(_EACH, true()).outerjoin(holds, and_(_held, holds.c.queue == _EACH.c.queue)))
"""A row for each queue, and one without any if there is none. One statement: a scheduler waits for it each second."""


def demand(conn: Connection, deployment: str, shares: Shares = NO_SHARES) -> Demand:
    """What this deployment runs, what waits, and whether anybody works on it."""
    asked = {"deployment": deployment, "prefix": f"{deployment}/", "age": -60.0, "ahead": 3600.0}
    rows = conn.execute(_DEMAND, asked).all()
    held = {row.queue: row.waiting for row in rows if row.held or row.queue_held}
    waiting = {row.queue: row.waiting for row in rows if row.queue not in held}
    of_queues, at_home = shares.beyond(waiting, {row.queue: row.running for row in rows})
    return Demand(
        in_flight=sum(row.running for row in rows),
        pending=sum(row.waiting for row in rows),
        finished_last_minute=rows[0].finished,
        daemon_alive=bool(rows[0].alive),
        blocked=sum(held.values()) + of_queues + at_home,
        held=bool(rows[0].held),
        at_home=at_home,
    )

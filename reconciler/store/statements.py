"""The daemon's statements. Each is constant, so that SQLAlchemy compiles it once and partial indexes can serve it.

All of them name the deployment: rows of others do not exist here.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    Column,
    ColumnElement,
    DateTime,
    Integer,
    Select,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite

from reconciler.core.phase import TERMINAL, Phase
from reconciler.store import schema
from reconciler.store.rows import LIGHT, STATUS, WHOLE, DbNow, Joined, among, joined, now, seconds
from reconciler.store.schema import attempts, holds, leases, workloads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Executable, FromClause

_w: Final = workloads.c
_mine: Final = _w.deployment == bindparam("of")
_here: Final = (_mine, _w.shard == bindparam("shard"))
"""What is, or was, in one account and region."""
_ids: Final = among(_w.exec_id, "ids")


def _none(table: FromClause, *conditions: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether no other workload of the same task instance fulfils these conditions: one look into the index by `ti_id`.

    USE CAUTION when rewording this. NOT EXISTS lets PostgreSQL join all waiting rows with all waiting rows, a million
    comparisons where a hundred look-ups do; IS NULL makes it expect that hardly any row passes, and look up and sort
    all of them; and a bare comparison of `deployment` makes both databases prefer the index of open rows, which says
    nothing about the task instance.
    """
    same = table.c.ti_id == _w.ti_id
    hidden = table.c.deployment.concat(literal_column("''")) == _w.deployment
    found = select(false()).where(same, hidden, table.c.exec_id != _w.exec_id, *conditions).limit(1)
    return func.coalesce(found.scalar_subquery(), true())


def _unbarred() -> ColumnElement[bool]:
    """The barrier is open: no other workload of the task instance has a container that may be alive.

    An exit code opens it early, before ECS says STOPPED: the container is gone, only its network is being torn down.
    """
    other = workloads.alias("other")
    alive = or_(schema.phase_in(other, [Phase.LAUNCHING]), other.c.exit_code.is_(None))
    return _none(other, schema.in_flight(other), alive)


def _newest() -> ColumnElement[bool]:
    """The task instance has not been queued again since, for a launch that waits too."""
    newer = workloads.alias("newer")
    later = or_(
        newer.c.created_at > _w.created_at,
        (newer.c.created_at == _w.created_at) & (newer.c.exec_id > _w.exec_id),
    )
    return _none(newer, schema.opened(newer), schema.pending(newer), later)


LAUNCHABLE: Final = (
    select(*WHOLE)
    .where(
        _mine,
        schema.pending(workloads),
        _w.spec_version <= schema.SPEC_VERSION,
        or_(_w.not_before.is_(None), _w.not_before <= now()),
        _unbarred(),
        _newest(),
    )
    .order_by(_w.priority.desc(), _w.created_at, _w.exec_id)
    .limit(bindparam("limit", type_=Integer))
)


LAUNCHABLE_IN: Final = LAUNCHABLE.where(among(_w.queue, "queues"))
"""The same of some queues."""


def _oldest_first(*conditions: ColumnElement[bool], columns: Sequence[Column[Any]] = LIGHT) -> Select[Any]:
    return select(*columns).where(*conditions).order_by(_w.created_at, _w.exec_id)


@cache
def in_phase(*phases: Phase) -> Select[Any]:
    """The states of the workloads in these phases, as one text, in no order: exec_id, version, phase, and when it was
    last written to. The index of open ones serves if no phase is terminal.

    The time, too: a row that was deleted by hand, or that a backup brought back, counts its versions anew.
    """
    within = [] if TERMINAL.intersection(phases) else [schema.opened(workloads)]
    # Only compared, so it need not become a time in UTC.
    written_at = type_coerce(_w.updated_at, DateTime(timezone=True))
    found = select(Joined(joined(_w.exec_id, _w.version, _w.phase, written_at))).where(
        *_here, *within, schema.phase_in(workloads, phases)
    )
    return found.execution_options(statement="in_phase")


LAUNCHING: Final = _oldest_first(
    *_here,
    schema.opened(workloads),
    schema.phase_in(workloads, [Phase.LAUNCHING]),
    # A request that cannot be made again as it was is not sent again: after a downgrade, a listing settles the launch.
    _w.spec_version <= schema.SPEC_VERSION,
    # Nor what a later leader intends: it believes a refusal of its own call, because nobody else makes the same one.
    exists().where(schema.leases.c.name == bindparam("lease"), schema.leases.c.epoch == bindparam("epoch")),
    columns=WHOLE,
)
UNWANTED: Final = _oldest_first(
    _mine, schema.unwanted(workloads), or_(_w.phase == literal_column("'PENDING'"), _w.shard == bindparam("shard"))
)
"""What waits is nowhere yet, and may be cancelled by anybody."""
NEVER_RAN: Final = _oldest_first(
    *_here,
    schema.opened(workloads),
    schema.phase_in(workloads, [Phase.STARTED]),
    _w.last_status.in_([literal_column("'STOPPED'"), literal_column("'DELETED'")]),
)
REFUSED: Final = _oldest_first(*_here, schema.refused(workloads))
ADMITTED: Final = select(
    # In the order of the index: for a mere EXISTS PostgreSQL expects to meet one soon wherever it begins, and while
    # nobody is admitted it would read the whole table for nothing.
    select(true())
    .where(
        *_here,
        schema.finished(workloads),
        schema.phase_in(workloads, [Phase.EXITED]),
        _w.kind == literal_column("'task'"),
        # The supervisor exits with 0 only after it has told the API what happened; and Airflow agrees.
        _w.exit_code == 0,
        ~_w.refused,
        _w.acked_version >= _w.version,
        _w.updated_at > bindparam("since", type_=_w.updated_at.type),
        _w.stopped_at >= bindparam("since", type_=_w.stopped_at.type),
    )
    .order_by(_w.updated_at.desc())
    .limit(1)
    .scalar_subquery()
    .is_not(None)
    | exists().where(
        *_here,
        schema.opened(workloads),
        schema.phase_in(workloads, [Phase.RUNNING]),
        _w.kind == literal_column("'task'"),
        _w.exit_code.is_(None),
        _w.intent_at >= bindparam("since", type_=_w.intent_at.type),
        _w.started_at < now(seconds("age")),
    )
)
FIND: Final = _oldest_first(_mine, _ids)
_groups: Final = (_w.phase, _w.queue, _w.profile, _w.shard)
_counted: Final = (*_groups, func.count(), func.min(_w.created_at), func.sum(_w.cpu))
COUNT_OPEN: Final = select(*_counted).where(_mine, schema.opened(workloads)).group_by(*_groups)
COUNT_HERE: Final = select(*_counted).where(*_here, schema.in_flight(workloads)).group_by(*_groups)
COUNT_PENDING: Final = select(*_counted).where(_mine, schema.pending(workloads)).group_by(*_groups)
COUNT_UNDELIVERED: Final = (
    select(_w.phase, _w.queue, func.count()).where(_mine, schema.undelivered(workloads)).group_by(_w.phase, _w.queue)
)

FENCE: Final = (
    select(leases.c.epoch)
    .where(leases.c.name == bindparam("name"), leases.c.epoch == bindparam("epoch"))
    .with_for_update(read=True)
)


def _hold(insert: sqlite.Insert | postgresql.Insert) -> Executable:
    free = or_(leases.c.holder == insert.excluded.holder, leases.c.expires_at <= DbNow())
    return (
        insert.values(
            name=bindparam("its_name"), holder=bindparam("its_holder"), epoch=1, expires_at=DbNow(seconds("ttl"))
        )
        .on_conflict_do_update(
            index_elements=[leases.c.name],
            set_={
                "holder": insert.excluded.holder,
                "expires_at": insert.excluded.expires_at,
                "epoch": leases.c.epoch + case((leases.c.holder == insert.excluded.holder, 0), else_=1),
            },
            where=free,
        )
        .returning(leases.c.epoch)
    )


HOLD: Final = {"sqlite": _hold(sqlite.insert(leases)), "postgresql": _hold(postgresql.insert(leases))}
"""Take the lease or renew it, by dialect; gives the epoch, or no row if somebody else holds it."""
LEASES: Final = select(leases.c.name).where(
    or_(
        *(
            func.substr(leases.c.name, 1, func.length(bindparam(name))) == bindparam(name)
            for name in ("ours", "replicas")
        )
    ),
    leases.c.expires_at > DbNow(),
)
FORGET_REPLICAS: Final = delete(leases).where(
    func.substr(leases.c.name, 1, func.length(bindparam("replicas"))) == bindparam("replicas"),
    leases.c.expires_at < DbNow(seconds("age")),
)
RELEASE: Final = (
    update(leases)
    .where(
        leases.c.name == bindparam("its_name"),
        leases.c.holder == bindparam("its_holder"),
        leases.c.epoch == bindparam("its_epoch"),
    )
    .values(expires_at=DbNow())
)

PEERS: Final = select(_w.exec_id).where(_mine, schema.opened(workloads), among(_w.ti_id, "ids"))
LOCK: Final = select(_w.exec_id, _w.version).where(_mine, _ids).order_by(_w.exec_id).with_for_update()
VERSIONS: Final = select(_w.exec_id, _w.version).where(_mine, _ids)
UPDATE: Final = (
    update(workloads)
    .where(_w.exec_id == bindparam("id"), _w.version == bindparam("read_version"), _mine)
    .values(
        {name: bindparam(f"new_{name}", type_=_w[name].type) for name in STATUS}
        # The one column of the shim that the daemon touches: a workload that is launched again is not refused any more.
        | {"refused": case((bindparam("new_phase") == Phase.PENDING.value, false()), else_=_w.refused)}
    )
)
"""The compare-and-swap. It writes the daemon's columns and none of the shim's, but for the one reset."""
INTEND: Final = UPDATE.where(
    _unbarred(),
    ~exists().where(
        holds.c.deployment == _w.deployment, or_(holds.c.queue == literal_column("''"), holds.c.queue == _w.queue)
    ),
)
"""The same, behind the barrier, and not while an operator holds the queue: what was read may be older than the hold."""
OPEN_ATTEMPT: Final = {
    "sqlite": sqlite.insert(attempts).on_conflict_do_nothing(),
    "postgresql": postgresql.insert(attempts).on_conflict_do_nothing(),
}
NOTE_ATTEMPT: Final = (
    update(attempts)
    .where(attempts.c.exec_id == bindparam("id"), attempts.c.attempt == bindparam("number"))
    .values(
        task_arn=func.coalesce(bindparam("arn", type_=attempts.c.task_arn.type), attempts.c.task_arn),
        closed_at=func.coalesce(attempts.c.closed_at, bindparam("at", type_=attempts.c.closed_at.type)),
        verdict=func.coalesce(attempts.c.verdict, bindparam("why", type_=attempts.c.verdict.type)),
    )
)

PRUNABLE: Final = (
    select(_w.exec_id)
    .where(_mine, schema.finished(workloads), _w.acked_version >= _w.version, _w.updated_at < now(seconds("age")))
    .order_by(_w.updated_at, _w.exec_id)
    .limit(bindparam("limit", type_=Integer))
    .with_for_update(skip_locked=True)
)
FORGET_ATTEMPTS: Final = delete(attempts).where(among(attempts.c.exec_id, "ids"))
FORGET: Final = delete(workloads).where(_ids)

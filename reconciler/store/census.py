"""What the gauges show of the table: one statement over the indexes of what is open and what is to be acknowledged.

It counts what is, or was, in one account and region, and all that waits for a launch: the queue says where.

Acknowledged rows are not counted: to count them is to read the whole table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import String, bindparam, func, literal_column, or_, select, union_all

from reconciler.core.holds import Holds
from reconciler.core.phase import Phase
from reconciler.store import schema
from reconciler.store.engine import translated
from reconciler.store.holds import read_holds
from reconciler.store.rows import DbNow
from reconciler.store.schema import workloads

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Engine

__all__ = ["CENSUS", "Census", "Group", "take_census"]


@dataclass(frozen=True, slots=True)
class Group:
    """So many workloads in one phase. `oldest` is when the oldest was queued, or, if they have ended, when it ended.

    `shard` is where they were launched, "" if they never were or are to be launched again.
    """

    queue: str
    profile: str
    phase: Phase
    count: int
    oldest: datetime
    shard: str = ""
    cpu: int = 0
    """CPU units on Fargate of those that are in flight."""


@dataclass(frozen=True, slots=True)
class Census:
    """All groups, and the database's clock when they were counted."""

    now: datetime
    groups: tuple[Group, ...]
    holds: Holds = field(default_factory=Holds)


_w: Final = workloads.c
_by: Final = (_w.queue, _w.profile, _w.phase)
_mine: Final = _w.deployment == bindparam("of")
_here: Final = _w.shard == bindparam("shard")
_none: Final[ColumnElement[str]] = literal_column("''", String)
_zero: Final[ColumnElement[int]] = literal_column("0")
CENSUS: Final = union_all(
    select(_none.label("queue"), _none.label("profile"), _none.label("phase"), _zero, DbNow(), _none, _zero),
    select(*_by, func.count(), func.min(_w.created_at), _none, _zero)
    .where(_mine, schema.opened(workloads), schema.phase_in(workloads, [Phase.PENDING]))
    .group_by(*_by),
    select(*_by, func.count(), func.min(_w.created_at), _w.shard, func.sum(_w.cpu))
    .where(_mine, _here, schema.in_flight(workloads))
    .group_by(*_by, _w.shard),
    select(*_by, func.count(), func.min(_w.updated_at), _w.shard, _zero)
    .where(_mine, or_(_here, _w.shard == _none), schema.undelivered(workloads))
    .group_by(*_by, _w.shard),
)
"""The first row is the clock."""


def take_census(engine: Engine, deployment: str, shard: str = "") -> Census:
    """Count a deployment's workloads: those of a shard, and those that are nowhere yet. Raises StoreUnavailable."""
    with translated(), engine.begin() as conn:
        rows = conn.execute(CENSUS, {"of": deployment, "shard": shard}).all()
        holds = read_holds(conn, deployment)
    (now,) = (row[4] for row in rows if row[2] == "")
    groups = tuple(Group(row[0], row[1], Phase(row[2]), *row[3:7]) for row in rows if row[2])
    return Census(now, groups, holds)

"""The table of what an operator holds back. Daemon and schedulers read it; the command line writes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, case, delete, func, literal_column, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from reconciler.core.holds import Hold, Holds, Mode
from reconciler.core.phase import IN_FLIGHT
from reconciler.core.task import Kind
from reconciler.store import schema
from reconciler.store.engine import translated, writing
from reconciler.store.rows import DbNow
from reconciler.store.schema import holds

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Executable

__all__ = ["Left", "hold", "left", "read_holds", "resume"]

_READ: Final = select(holds.c.queue, holds.c.mode, holds.c.held_by, holds.c.since).where(
    holds.c.deployment == bindparam("of")
)


def _upsert(insert: sqlite.Insert | postgresql.Insert) -> Executable:
    stamped = insert.values(since=DbNow())
    new = {name: stamped.excluded[name] for name in ("mode", "held_by", "since")}
    return stamped.on_conflict_do_update(index_elements=[holds.c.deployment, holds.c.queue], set_=new)


_HOLD: Final = {"sqlite": _upsert(sqlite.insert(holds)), "postgresql": _upsert(postgresql.insert(holds))}
_RESUME: Final = delete(holds).where(holds.c.deployment == bindparam("of"), holds.c.queue == bindparam("its_queue"))


_w: Final = schema.workloads.c
_LEFT: Final = select(
    func.coalesce(func.sum(case((schema.phase_in(schema.workloads, IN_FLIGHT), 1), else_=0)), 0),
    # A callback can not be given back: it waits until launches go on.
    func.coalesce(func.sum(case((schema.pending(schema.workloads) & (_w.kind == Kind.TASK.value), 1), else_=0)), 0),
).where(
    _w.deployment == bindparam("of"),
    schema.opened(schema.workloads),
    or_(bindparam("its_queue", type_=_w.queue.type) == literal_column("''"), _w.queue == bindparam("its_queue")),
)


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a queue that is held, or of all of them."""

    in_flight: int
    """ECS tasks that exist or may exist."""
    waiting: int
    """Task instances that wait for their launch."""


def left(engine: Engine, deployment: str, queue: str) -> Left:
    """What is left of a queue, or of all of them if `queue` is empty. Raises StoreUnavailable."""
    with translated(), engine.begin() as conn:
        return Left(*conn.execute(_LEFT, {"of": deployment, "its_queue": queue}).one())


def read_holds(conn: Connection, deployment: str) -> Holds:
    """All holds of a deployment, in the caller's transaction."""
    found = (Hold(queue, Mode(mode), by, since) for queue, mode, by, since in conn.execute(_READ, {"of": deployment}))
    return Holds({hold.queue: hold for hold in found})


def hold(engine: Engine, deployment: str, queue: str, mode: Mode, by: str) -> None:
    """Hold a queue, or all of them if `queue` is empty. A hold that is there takes the new mode and name."""
    with translated(), writing(engine).begin() as conn:
        its = {"deployment": deployment, "queue": queue, "mode": mode.value, "held_by": by}
        conn.execute(_HOLD[conn.dialect.name], its)


def resume(engine: Engine, deployment: str, queue: str) -> bool:
    """End a hold. Returns whether there was one."""
    with translated(), writing(engine).begin() as conn:
        return conn.execute(_RESUME, {"of": deployment, "its_queue": queue}).rowcount > 0

"""What schedulers and daemons say of themselves: version, settings, trouble. Each writes a row of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Executable, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from reconciler.store.engine import translated
from reconciler.store.rows import DbNow, now, seconds
from reconciler.store.schema import components

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Connection, Engine

__all__ = ["ANNOUNCE_EVERY", "Component", "announce", "announced"]

ANNOUNCE_EVERY: Final = 60.0
"""Seconds between two writes of the same row."""
LIVE_FOR: Final = 5 * ANNOUNCE_EVERY
"""What has not been heard of for so long does not run any more."""
KEEP_FOR: Final = 86400.0
"""And for so long: it is forgotten."""


@dataclass(frozen=True, slots=True)
class Component:
    """`kind` is shim or daemon, `instance` tells those of one kind apart. `settings` are JSON without a secret."""

    kind: str
    instance: str
    version: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    trouble: str | None = None
    """Why it can not do its work now, for people."""


_c: Final = components.c


def _announce(insert: sqlite.Insert | postgresql.Insert) -> Executable:
    given: dict[str, Any] = {name: bindparam(name) for name in Component.__slots__}
    stamped = insert.values(deployment=bindparam("of"), seen_at=DbNow(), **given)
    told = {name: stamped.excluded[name] for name in ("version", "settings", "trouble")}
    key = [_c.deployment, _c.kind, _c.instance]
    return stamped.on_conflict_do_update(index_elements=key, set_={**told, "seen_at": DbNow()})


_ANNOUNCE: Final = {
    "sqlite": _announce(sqlite.insert(components)),
    "postgresql": _announce(postgresql.insert(components)),
}
_FORGET: Final = delete(components).where(
    _c.deployment == bindparam("of"), _c.kind == bindparam("its_kind"), _c.seen_at < now(seconds("age"))
)
_LIVE: Final = (
    select(*(_c[name] for name in Component.__slots__))
    .where(_c.deployment == bindparam("of"), _c.seen_at > now(seconds("age")))
    .order_by(_c.kind, _c.instance)
)


def announce(conn: Connection, deployment: str, me: Component) -> None:
    """Write this component's row, and forget those of its kind that have long been silent."""
    values = {name: getattr(me, name) for name in Component.__slots__}
    conn.execute(_ANNOUNCE[conn.dialect.name], {**values, "of": deployment})
    conn.execute(_FORGET, {"of": deployment, "its_kind": me.kind, "age": -KEEP_FOR})


def announced(engine: Engine, deployment: str) -> list[Component]:
    """Those that have been heard of within five minutes. Raises StoreUnavailable."""
    with translated(), engine.connect() as conn:
        rows = conn.execute(_LIVE, {"of": deployment, "age": -LIVE_FOR}).mappings()
        return [Component(**row) for row in rows]

"""The database: its version, our tables and our rights in them, its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import text

from reconciler.core.finding import Finding, error, fine, warning
from reconciler.store.engine import translated
from reconciler.store.migrate import at_head
from reconciler.store.rows import read_now
from reconciler.store.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine

__all__ = ["check_database"]

OLDEST: Final = 13
"""The oldest PostgreSQL that Airflow supports: https://airflow.apache.org/docs/apache-airflow/stable/installation/prerequisites.html"""
SKEW: Final = 60.0


def check_database(engine: Engine, now: float) -> Iterator[Finding]:
    """Raises StoreUnavailable."""
    with translated(), engine.connect() as conn:
        version = tuple(int(part) for part in conn.dialect.server_version_info or (0,))
        database_now = read_now(conn).timestamp()
    name = f"{engine.dialect.name} {'.'.join(str(part) for part in version)}"
    if engine.dialect.name == "sqlite":
        yield warning("database", name, "it is for one machine: use PostgreSQL where schedulers and daemon are apart")
    elif version[0] < OLDEST:
        yield error("database", f"{name} is older than Airflow supports", f"upgrade it to {OLDEST} or newer")
    else:
        yield fine("database", name)
    skew = abs(database_now - now)
    if skew > SKEW:
        yield warning("clock", f"{skew:.0f} s off from the database's", "synchronise both: it dates the tasks' tokens")
    else:
        yield fine("clock", "agrees with the database")
    if not at_head(engine):
        yield error("tables", "they are missing or of another version", "run `airflow db migrate`")
        return
    yield fine("tables", "at head")
    if engine.dialect.name == "postgresql":
        yield from _rights(engine)


def _rights(engine: Engine) -> Iterator[Finding]:
    with translated(), engine.connect() as conn:
        role = conn.execute(text("SELECT current_user")).scalar_one()
        missing = [
            f"{right} on {table}"
            for table in sorted(metadata.tables)
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
            if not conn.execute(text("SELECT has_table_privilege(:t, :r)"), {"t": table, "r": right}).scalar()
        ]
    if missing:
        yield error(f"database role {role}", f"it lacks {', '.join(missing)}", "GRANT them to the role")
    else:
        yield fine(f"database role {role}", "it may read and write the reconciler's tables")

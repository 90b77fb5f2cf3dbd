"""Bring a database to the newest schema. Airflow's `db migrate` uses the same files through its own manager."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from reconciler.store.engine import translated, writing
from reconciler.store.schema import VERSION_TABLE

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

__all__ = ["ALEMBIC_INI", "MIGRATIONS", "NO_TABLES", "at_head", "lock", "migrate"]

ALEMBIC_INI: Final = Path(__file__).with_name("alembic.ini")
MIGRATIONS: Final = Path(__file__).with_name("migrations")

NO_TABLES: Final = (
    "the reconciler's tables are missing or of another version: run `airflow db migrate`, or `ecs-reconciler migrate` "
    "with the same database"
)
"""What to do where `at_head` says no."""

_LOCK: Final = 0x6563735F726563  # "ecs_rec"


def migrate(engine: Engine) -> None:
    """Make or upgrade the tables. May be repeated, and may be run by several processes at once.

    Raises StoreUnavailable. A database that a later release has migrated is left as it is.
    """
    with translated(), writing(engine).begin() as connection:
        lock(connection)
        if not _at_head(connection):
            config = Config(ALEMBIC_INI)
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def at_head(engine: Engine) -> bool:
    """Whether the tables are as this release needs them: at its own revision or a later one.

    A later release only adds to the tables, so that daemon and shim can be upgraded in either order.
    Raises StoreUnavailable.
    """
    with translated(), engine.connect() as connection:
        return _at_head(connection)


def lock(connection: Connection) -> None:
    """Let one process migrate at a time, until the transaction ends. SQLite's transaction is such a lock itself."""
    if connection.dialect.name == "postgresql":
        # Patience that statements of a running daemon must not have: the other process may be at work on a large table.
        connection.exec_driver_sql(
            "SELECT set_config('statement_timeout', '0', true), set_config('lock_timeout', '120s', true)"
        )
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _at_head(connection: Connection) -> bool:
    current = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE}).get_current_revision()
    script = ScriptDirectory(str(MIGRATIONS))
    known = {revision.revision for revision in script.walk_revisions()}
    return current is not None and (current == script.get_current_head() or current not in known)

"""Rights of a database role that sees the reconciler's tables and nothing else: what the daemon needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import text

from reconciler.store.engine import translated, writing
from reconciler.store.schema import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["grant"]


def grant(engine: Engine, role: str) -> None:
    """Let `role`, which exists, do what a daemon does. May be repeated, and is after each migration.

    The daemon writes rows of every table but the version table, and creates none. Raises ValueError on SQLite, which
    has no roles, and for a role that does not exist; StoreUnavailable.
    """
    if engine.dialect.name != "postgresql":
        raise ValueError(f"--grant {role}: only PostgreSQL has roles; leave the option out")
    quote = engine.dialect.identifier_preparer.quote_identifier
    with translated(), writing(engine).begin() as connection:
        if connection.scalar(text("SELECT 1 FROM pg_roles WHERE rolname = :role"), {"role": role}) is None:
            raise ValueError(
                f"--grant {role}: there is no such role; make it first: CREATE ROLE {quote(role)} LOGIN PASSWORD '...'"
            )
        tables = ", ".join(quote(table.name) for table in metadata.sorted_tables)
        for statement in (
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO {quote(role)}",
            f"GRANT SELECT ON {quote(VERSION_TABLE)} TO {quote(role)}",
        ):
            connection.execute(text(statement))

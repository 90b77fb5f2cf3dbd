"""What Alembic runs: on the connection that `migrate` gives, or on the engine that Airflow's manager gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from reconciler.store.migrate import lock
from reconciler.store.schema import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


def _on(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


def _as_sql(url: str | None) -> None:
    context.configure(url=url, target_metadata=metadata, version_table=VERSION_TABLE, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _by(engine: Engine) -> None:
    with engine.begin() as connection:
        if connection.dialect.name == "sqlite":
            # The driver begins before the first INSERT or UPDATE only.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        lock(connection)
        _on(connection)


_given = context.config.attributes
if context.is_offline_mode():
    _as_sql(context.config.get_main_option("sqlalchemy.url"))
elif "connection" in _given:
    _on(_given["connection"])
else:
    _by(_given["engine"])

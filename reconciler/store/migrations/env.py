"""What Alembic runs: on the connection that `migrate` gives, or on the URL that Airflow's manager sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alembic import context

from reconciler.store.engine import make_engine, writing
from reconciler.store.migrate import lock
from reconciler.store.schema import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from sqlalchemy import Connection


def _on(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()


def _as_sql(url: str | None) -> None:
    context.configure(url=url, target_metadata=metadata, version_table=VERSION_TABLE, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


def _on_url(url: str) -> None:
    engine = make_engine(url)
    try:
        with writing(engine).begin() as connection:
            lock(connection)
            _on(connection)
    finally:
        engine.dispose()


_url = context.config.get_main_option("sqlalchemy.url")
_connection = context.config.attributes.get("connection")
if context.is_offline_mode():
    _as_sql(_url)
elif _connection is not None:
    _on(_connection)
else:
    _on_url(_url or "")

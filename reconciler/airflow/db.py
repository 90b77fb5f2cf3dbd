"""Our tables, for `airflow db migrate`, `airflow db reset` and `airflow db check-migrations`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.utils.db_manager import BaseDBManager
from alembic import command

from reconciler.store import schema
from reconciler.store.migrate import ALEMBIC_INI, MIGRATIONS, at_head

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection, Engine

__all__ = ["EcsReconcilerDBManager"]


class EcsReconcilerDBManager(BaseDBManager):
    """The tables are made by the same migrations that the daemon runs, so either may come first.

    On MySQL there are none, and Airflow's own commands work as if we were not installed.
    """

    metadata = schema.metadata
    migration_dir = str(MIGRATIONS)
    alembic_file = str(ALEMBIC_INI)
    version_table_name = schema.VERSION_TABLE
    supports_table_dropping = True

    def check_migration(self) -> bool:
        return not self._supported() or at_head(self._engine())

    def create_db_from_orm(self) -> None:
        command.upgrade(self.get_alembic_config(), "head")

    def initdb(self, use_migration_files: bool = False) -> None:
        if self._supported():
            super().initdb(use_migration_files=use_migration_files)  # type: ignore[no-untyped-call]  # Airflow's

    def upgradedb(
        self,
        to_revision: str | None = None,
        from_revision: str | None = None,
        show_sql_only: bool = False,
        use_migration_files: bool = False,
    ) -> None:
        if not self._supported():
            return
        if to_revision is None and not show_sql_only and at_head(self._engine()):
            self.log.info("The tables of the ECS reconciler are up to date")
            return
        super().upgradedb(  # type: ignore[no-untyped-call]  # Airflow's
            to_revision, from_revision, show_sql_only, use_migration_files
        )

    def downgrade(self, to_revision: str, from_revision: str | None = None, show_sql_only: bool = False) -> None:
        if self._supported():
            revision = f"{from_revision}:{to_revision}" if from_revision and show_sql_only else to_revision
            command.downgrade(self.get_alembic_config(), revision, sql=show_sql_only)

    def drop_tables(self, connection: Connection) -> None:
        if self._supported():
            super().drop_tables(connection)  # type: ignore[no-untyped-call]  # Airflow's

    def get_alembic_config(self) -> Config:
        """With Airflow's engine: its connections may need arguments, or a token, that the URL does not tell."""
        config: Config = super().get_alembic_config()  # type: ignore[no-untyped-call]  # Airflow's
        config.attributes["engine"] = self._engine()
        return config

    def _engine(self) -> Engine:
        bind: Any = self.session.get_bind()
        engine: Engine = bind.engine
        return engine

    def _supported(self) -> bool:
        dialect = self._engine().dialect.name
        if dialect in ("postgresql", "sqlite"):
            return True
        self.log.info("The ECS reconciler has no tables on %s: it needs PostgreSQL or SQLite", dialect)
        return False

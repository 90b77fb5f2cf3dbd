"""The migrations and the metadata make the same tables, and may be run by anybody at any time."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import NullPool, create_engine, inspect, text

from reconciler.store.engine import make_engine, writing
from reconciler.store.migrate import ALEMBIC_INI, MIGRATIONS, at_head, migrate
from reconciler.store.schema import VERSION_TABLE, metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def engine(empty_url: str) -> Iterator[Engine]:
    """Overrides the common one: this database has no tables yet."""
    engine = make_engine(empty_url)
    yield engine
    engine.dispose()


def config_of_airflow(url: str) -> Config:
    """As our manager in Airflow makes it. Source: airflow/utils/db_manager.py, get_alembic_config."""
    config = Config(str(ALEMBIC_INI))
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes["engine"] = create_engine(url, poolclass=NullPool)
    return config


def definitions(engine: Engine) -> set[tuple[str, ...]]:
    """All tables and indexes as the database itself words them, with predicates and storage parameters."""
    if engine.dialect.name == "sqlite":
        statement = "SELECT name, tbl_name, sql FROM sqlite_master WHERE name LIKE '%ecs%' AND sql IS NOT NULL"
    else:
        statement = (
            "SELECT indexname, tablename, indexdef FROM pg_indexes WHERE schemaname = 'public' UNION ALL "
            "SELECT relname, relkind::text, reloptions::text FROM pg_class WHERE relkind = 'r' AND relname LIKE 'ecs%' "
            "UNION ALL SELECT table_name || '.' || column_name, data_type || character_maximum_length, is_nullable "
            "FROM information_schema.columns WHERE table_schema = 'public'"
        )
    with engine.connect() as conn:
        return {tuple(" ".join(str(part).split()) for part in row) for row in conn.execute(text(statement))}


def test_migrations_and_metadata_make_the_same_database(engine: Engine) -> None:
    migrate(engine)
    migrated = definitions(engine)
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"version_table": VERSION_TABLE, "compare_type": True})
        assert compare_metadata(context, metadata) == []

    with writing(engine).begin() as conn:
        metadata.drop_all(conn)
        metadata.create_all(conn)
    assert definitions(engine) == migrated
    assert engine.dialect.name == "sqlite" or sum("fillfactor=80" in str(found) for found in migrated) == len(
        metadata.tables
    )
    assert len(inspect(engine).get_indexes("ecs_workload")) == 8


def test_a_missing_index_would_be_noticed(engine: Engine) -> None:
    migrate(engine)
    before = definitions(engine)
    with writing(engine).begin() as conn:
        conn.execute(text("DROP INDEX ix_ecs_workload_refused"))
        conn.execute(text("CREATE INDEX ix_ecs_workload_refused ON ecs_workload (deployment)"))
    assert definitions(engine) != before


def test_migrating_again_changes_nothing(engine: Engine) -> None:
    assert not at_head(engine)
    migrate(engine)
    assert at_head(engine)
    before = definitions(engine)
    migrate(engine)
    assert definitions(engine) == before
    assert at_head(engine)


def test_two_processes_may_migrate_at_once(empty_url: str) -> None:
    start = Barrier(3)

    def run() -> bool:
        engine = make_engine(empty_url)
        start.wait(60)
        migrate(engine)
        done = at_head(engine)
        engine.dispose()
        return done

    with ThreadPoolExecutor(3) as threads:
        assert [future.result(60) for future in [threads.submit(run) for _ in range(3)]] == [True] * 3


def test_tables_that_were_made_without_a_revision_are_taken_over(engine: Engine) -> None:
    """Airflow made the tables and died before it could note the revision."""
    with writing(engine).begin() as conn:
        metadata.create_all(conn)
    before = definitions(engine)
    migrate(engine)
    assert at_head(engine)
    assert definitions(engine) >= before


def test_a_database_of_a_later_release_is_left_alone_and_accepted(engine: Engine) -> None:
    migrate(engine)
    with writing(engine).begin() as conn:
        conn.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    migrate(engine)
    assert at_head(engine)
    with engine.connect() as conn:
        assert conn.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar() == "9999"


def test_the_manager_of_airflow_finds_its_way_up_and_down(engine: Engine, empty_url: str) -> None:
    config = config_of_airflow(empty_url)
    command.upgrade(config, "heads")
    assert at_head(engine)
    command.downgrade(config, "base")
    assert not at_head(engine)
    assert set(inspect(engine).get_table_names()) == {VERSION_TABLE}

    with writing(engine).begin() as conn:
        metadata.create_all(conn)
    command.stamp(config, "head")
    assert at_head(engine)


def test_the_migration_can_be_printed_as_sql(empty_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    command.upgrade(config_of_airflow(empty_url), "head", sql=True)
    printed = capsys.readouterr().out
    assert "CREATE TABLE IF NOT EXISTS ecs_workload" in printed
    assert f"INSERT INTO {VERSION_TABLE}" in printed


def test_migrating_leaves_the_logging_of_the_host_as_it_is(engine: Engine) -> None:
    ours = logging.getLogger("some.library")
    root = logging.getLogger()
    before = (root.handlers[:], root.level, ours.disabled, logging.getLogger("alembic").handlers[:])
    migrate(engine)
    assert (root.handlers[:], root.level, ours.disabled, logging.getLogger("alembic").handlers[:]) == before

"""What Airflow learns of us without being told."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import airflow
import jsonschema  # type: ignore[import-untyped]  # it has no types
import pytest
from airflow import settings
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager
from airflow.utils.db_manager import RunDBManager
from airflow.utils.session import create_session
from sqlalchemy import inspect

from reconciler.airflow.db import EcsReconcilerDBManager
from reconciler.airflow.options import read
from reconciler.airflow.provider import get_provider_info
from reconciler.config import daemon_settings, shim_settings
from reconciler.options import EcsExecutorOptions, ReconcilerOptions
from reconciler.store.schema import metadata as tables
from tests.shim.inside.world import forget_everything, sql

if TYPE_CHECKING:
    from pydantic import BaseModel


def test_our_provider_info_is_as_airflow_wants_it() -> None:
    schema = json.loads((Path(airflow.__file__).parent / "provider_info.schema.json").read_text())

    jsonschema.validate(get_provider_info(), schema)


def test_airflow_finds_our_executor_commands_and_tables() -> None:
    manager = ProvidersManager()

    assert "airflow-ecs-reconciler" in manager.providers
    assert "reconciler.airflow.executor.EcsReconcilerExecutor" in manager.executor_class_names
    assert "reconciler.airflow.db.EcsReconcilerDBManager" in manager.db_managers


@pytest.mark.parametrize(
    ("section", "model"), [("ecs_reconciler", ReconcilerOptions), ("aws_ecs_executor", EcsExecutorOptions)]
)
def test_every_option_is_registered_with_the_default_that_it_has(section: str, model: type[BaseModel]) -> None:
    described = conf.configuration_description[section]["options"]
    assert set(described) == set(model.model_fields)
    defaults = {name: read(section, name) for name in model.model_fields if name != "deployment"}

    # Where the Amazon provider has registered the section, an unset conn_id reads like this.
    given = {name: value for name, value in defaults.items() if value and (name, value) != ("conn_id", "aws_default")}
    required = {name: "x" for name, info in model.model_fields.items() if info.is_required()}
    assert model.model_validate(_parsed(model, {**required, **given})) == model.model_validate(required)


def _parsed(model: type[BaseModel], values: dict[str, str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in model.model_fields}


def test_options_are_read_where_airflow_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN_CMD", "echo sqlite:////from/a/command")
    monkeypatch.setenv("AIRFLOW__ECS_RECONCILER__BACKLOG", "7")
    monkeypatch.setenv("AIRFLOW__BLUE___ECS_RECONCILER__BACKLOG", "8")

    assert (read("ecs_reconciler", "sql_alchemy_conn") or "").strip() == "sqlite:////from/a/command"
    assert [read("ecs_reconciler", "backlog", team) for team in (None, "blue", "green")] == ["7", "8", "7"]
    assert read("aws_ecs_executor", "cluster") is None
    assert shim_settings(read).backlog == 7


def test_the_daemons_settings_are_complete_with_what_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cluster", "container_name", "region_name", "task_definition"):
        monkeypatch.setenv(f"AIRFLOW__AWS_ECS_EXECUTOR__{name.upper()}", "airflow")
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://api/execution/")

    assert daemon_settings(read).options.deployment == "test"


def test_where_the_amazon_provider_is_installed_it_describes_its_own_section(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)

    assert set(get_provider_info()["config"]) == {"ecs_reconciler", "aws_ecs_executor"}

    monkeypatch.setattr(metadata, "distribution", lambda _name: "installed")

    assert set(get_provider_info()["config"]) == {"ecs_reconciler"}


class TestTables:
    def test_airflow_makes_them_with_its_own(self) -> None:
        there = set(inspect(settings.get_engine()).get_table_names())

        assert {"task_instance", "alembic_version_ecs_reconciler", *tables.tables} <= there

    def test_airflow_accepts_the_manager_and_sees_that_nothing_is_left_to_do(self) -> None:
        run = RunDBManager()
        run.validate()
        with create_session() as session:
            assert run.check_migration(session)
            run.upgradedb(session)

    def test_a_later_release_may_have_migrated_them(self) -> None:
        (before,) = sql("SELECT version_num FROM alembic_version_ecs_reconciler")
        sql("UPDATE alembic_version_ecs_reconciler SET version_num = 'later'")
        try:
            with create_session() as session:
                manager = EcsReconcilerDBManager(session)
                assert manager.check_migration()
                manager.initdb()
        finally:
            sql("UPDATE alembic_version_ecs_reconciler SET version_num = :v", v=before["version_num"])

    def test_they_can_be_dropped_and_made_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By Airflow's own engine, whose connections may need arguments or a token that its URL does not tell."""
        monkeypatch.setattr(settings, "SQL_ALCHEMY_CONN", "postgresql://nobody@127.0.0.1:1/nothing")
        forget_everything()
        with create_session() as session:
            manager = EcsReconcilerDBManager(session)
            with settings.get_engine().begin() as connection:
                manager.drop_tables(connection)
        assert not set(tables.tables) & set(inspect(settings.get_engine()).get_table_names())

        with create_session() as session:
            manager = EcsReconcilerDBManager(session)
            assert not manager.check_migration()
            manager.initdb()
            assert manager.check_migration()
        assert set(tables.tables) <= set(inspect(settings.get_engine()).get_table_names())

    def test_on_mysql_there_is_nothing_to_do_and_airflow_goes_on(self) -> None:
        dialect = type("Dialect", (), {"name": "mysql"})
        engine = type("Engine", (), {"dialect": dialect})
        session: Any = type("Session", (), {"get_bind": lambda _self: type("Bind", (), {"engine": engine})})()
        manager = EcsReconcilerDBManager(session)
        written: list[str] = []
        manager._log = type("Log", (), {"info": lambda _self, text, *args: written.append(text % args)})()

        assert manager.check_migration()
        manager.initdb()
        manager.upgradedb()
        manager.downgrade("base")
        manager.drop_tables(session)

        assert set(written) == {"The ECS reconciler has no tables on mysql: it needs PostgreSQL or SQLite"}

"""A scheduler of Airflow's on a real metadata database, anew for each test."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

_home = tempfile.mkdtemp(prefix="airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
_url = os.environ.get("SHIM_DATABASE", f"sqlite:///{_home}/airflow.db")

# Airflow reads its configuration when it is imported.
os.environ |= {
    "AIRFLOW_HOME": _home,
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _url,
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": _url.replace("sqlite:", "sqlite+aiosqlite:").replace(
        "postgresql:", "postgresql+psycopg:"
    ),
    "AIRFLOW__CORE__EXECUTOR": "reconciler.airflow.executor.EcsReconcilerExecutor",
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "AIRFLOW__CORE__PARALLELISM": "2000",
    "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "2000",
    "AIRFLOW__CORE__DEFAULT_POOL_TASK_SLOT_COUNT": "2000",
    "AIRFLOW__SCHEDULER__MAX_TIS_PER_QUERY": "0",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of this test alone, long enough for HS512 and then some more of it",
    "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": "test",
}

from airflow import settings  # noqa: E402 - after the environment
from airflow.utils.db import initdb  # noqa: E402 - after the environment

from reconciler.airflow import parts  # noqa: E402 - after the environment
from reconciler.airflow.upkeep import Every  # noqa: E402 - after the environment
from tests.shim.inside.world import World, forget_everything, make_dag  # noqa: E402 - after the environment

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", autouse=True)
def _database() -> Iterator[None]:
    initdb()
    make_dag()
    yield
    settings.dispose_orm()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """A scheduler, and a daemon that is alive. Whatever is done from time to time is done with each heartbeat."""
    monkeypatch.setattr(parts, "UPKEEP_EVERY", timedelta(0))
    monkeypatch.setattr(parts, "DEMAND_EVERY", timedelta(0))
    monkeypatch.setattr(parts, "AUDIT_EVERY", timedelta(0))
    forget_everything()
    return World()


@pytest.fixture
def rested(world: World) -> None:
    """Upkeep has just been, and is not due: it puts off by a heartbeat what can wait."""
    world.executor._parts._upkeep_due = Every(timedelta(hours=1))
    world.executor._parts._upkeep_due.due(datetime.now(UTC) - timedelta(minutes=1))


@pytest.fixture
def postgres_only() -> None:
    if settings.get_engine().dialect.name != "postgresql":
        pytest.skip("SQLite has no locks on rows")


@pytest.fixture
def sqlite_only() -> None:
    if settings.get_engine().dialect.name != "sqlite":
        pytest.skip("PostgreSQL locks rows, and whoever waits for one is not refused")

"""What a replica does about accounts and regions in which rows say that tasks run."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import boto3
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from reconciler import daemon
from reconciler.clock import SystemClock
from reconciler.config import daemon_settings
from reconciler.core.phase import Phase
from reconciler.core.task import Workload
from reconciler.daemon import Shards
from reconciler.metrics import Metrics
from reconciler.page.board import Board
from reconciler.store import shim
from reconciler.store.engine import writing
from tests.world import EchoDelivery

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def shards(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shards]:
    """Those of a daemon that has not begun its work yet, on AWS itself: no call is made here."""
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS"):
        monkeypatch.delenv(name, raising=False)
    given = {
        ("ecs_reconciler", "deployment"): "prod",
        ("database", "sql_alchemy_conn"): "sqlite:///x.db",
        ("core", "execution_api_server_url"): "http://api/execution/",
        ("aws_ecs_executor", "cluster"): "airflow",
        ("aws_ecs_executor", "region_name"): "eu-central-1",
        ("aws_ecs_executor", "container_name"): "airflow",
        ("aws_ecs_executor", "task_definition"): "airflow",
        ("aws_ecs_executor", "subnets"): "subnet-1",
    }
    settings = daemon_settings(lambda section, option: given.get((section, option)))
    metrics, board = Metrics("prod"), Board(time.time)
    session = boto3.Session("a", "key")
    made = Shards(settings, engine, metrics, board, EchoDelivery(), SystemClock(), session, None)
    yield made
    made.close()


def runs_in(engine: Engine, shard: str) -> None:
    """A task whose row names this account and region."""
    row = replace(
        Workload(exec_id="a", deployment="prod"), phase=Phase.STARTED, attempt=1, shard=shard, cluster="airflow"
    )
    with writing(engine).begin() as conn:
        shim.insert(conn, [row])


def test_where_no_queue_runs_tasks_are_tended(shards: Shards, engine: Engine) -> None:
    runs_in(engine, "eu-west-1")
    assert [shard.name for shard in shards._look_round()] == ["eu-west-1"]


@pytest.mark.parametrize("nowhere", ["", "no region"])
def test_a_row_that_names_no_region_ends_nobody(shards: Shards, engine: Engine, nowhere: str) -> None:
    runs_in(engine, nowhere)
    with capture_logs() as logs:
        assert shards._look_round() == []
    assert [entry["shard"] for entry in logs if entry["log_level"] == "error"] == [nowhere]


def test_tables_that_are_away_for_a_while_end_nobody(
    shards: Shards, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a restore."""
    monkeypatch.setattr(daemon, "LOOK_ROUND_EVERY", 0.0)
    runs_in(engine, "eu-west-1")
    with engine.begin() as conn:
        conn.execute(text("ALTER TABLE ecs_workload RENAME TO away"))
    try:
        assert shards._look_round() == []
    finally:
        with engine.begin() as conn:
            conn.execute(text("ALTER TABLE away RENAME TO ecs_workload"))
    assert [shard.name for shard in shards._look_round()] == ["eu-west-1"]

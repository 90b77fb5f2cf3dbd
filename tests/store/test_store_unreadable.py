"""A row that this release can not read harms nobody but itself."""

from __future__ import annotations

import json
import logging
from argparse import Namespace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from reconciler.airflow.delivery import Owner
from reconciler.airflow.upkeep import open_rows
from reconciler.cli import common, look
from reconciler.core.phase import Phase
from reconciler.core.task import TaskKey
from reconciler.metrics import Metrics
from reconciler.store import rows, shim
from reconciler.store.daemon import SqlStore

if TYPE_CHECKING:
    from tests.conftest import Deployment

KEY = TaskKey("dag", "task", "run", -1, 1)
MARKS = [
    pytest.param("kind", "'sensor'", id="a kind that is not known yet"),
    pytest.param("desired", "'WAIT'", id="a wish that is not known yet"),
    pytest.param("params", "'{half'", id="parameters that are not JSON"),
    pytest.param("params", "'[1]'", id="parameters that are JSON, but no object"),
]


def spoil(prod: Deployment, exec_id: str, column: str, value: str) -> None:
    with prod.engine.begin() as conn:
        conn.execute(text(f"UPDATE ecs_workload SET {column} = {value} WHERE exec_id = '{exec_id}'"))


@pytest.fixture(autouse=True)
def _nothing_has_been_said() -> None:
    rows.say_unreadable.cache_clear()


@pytest.mark.parametrize(("column", "value"), MARKS)
def test_it_is_left_out_of_every_read_said_once_and_counted_once(
    prod: Deployment, column: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics("prod")
    shard = metrics.shard("us-east-1")
    shard.leading(1)
    store = SqlStore(prod.engine, "prod", on_unreadable=shard.unreadable)
    for name in ("bad", "good"):
        prod.queue(name)
        prod.move(name, Phase.LAUNCHING, Phase.STARTED)
    spoil(prod, "bad", column, value)

    with caplog.at_level(logging.ERROR), prod.engine.connect() as conn:
        for _ in range(3):
            for snapshot in (
                store.in_phase(Phase.STARTED),
                store.find(["bad", "good"]),
                shim.open_workloads(conn, "prod", 7),
            ):
                assert [w.exec_id for w in snapshot.workloads] == ["good"]
            if column != "params":
                assert set(open_rows(conn, Owner("prod", 7))) == {"good"}

    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert "the row bad of ecs_workload can not be read" in said[0]
    labels = {"deployment": "prod", "shard": "us-east-1"}
    assert metrics.registry.get_sample_value("ecs_reconciler_unreadable_workloads_total", labels) == 1
    assert store.counts().by_phase[Phase.STARTED] == 2  # its task may live, so it takes its place in the quota


def test_a_phase_that_is_not_known_yet_is_nobodys_work_here(prod: Deployment) -> None:
    prod.queue("bad")
    prod.queue("good")
    spoil(prod, "bad", "phase", "'PAUSED'")

    assert [w.exec_id for w in prod.store.launchable(10).workloads] == ["good"]
    assert [w.exec_id for w in prod.store.find(["bad", "good"]).workloads] == ["good"]
    assert prod.store.counts().by_phase[Phase.PENDING] == 1
    assert prod.move("good", Phase.LAUNCHING).phase is Phase.LAUNCHING


def test_a_spec_that_is_not_json_says_so_to_whoever_would_launch_it(prod: Deployment) -> None:
    for name in ("bad", "good"):
        prod.queue(name)
    spoil(prod, "bad", "executor_config", "'{half'")

    found = {w.exec_id: w.spec for w in prod.store.launchable(10).workloads}

    assert found["bad"]
    assert found["bad"].flaw == "its executor_config in the table is not a JSON object: {half"
    assert found["good"]
    assert found["good"].flaw is None


@pytest.mark.parametrize("as_json", [True, False])
def test_describe_shows_it(
    prod: Deployment, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    prod.queue("bad", key=KEY)
    spoil(prod, "bad", "phase", "'PAUSED'")
    url = prod.engine.url.render_as_string(hide_password=False)
    settings = SimpleNamespace(sql_alchemy_conn=url, options=SimpleNamespace(deployment="prod"))
    monkeypatch.setattr(common, "settings", lambda: settings)

    code = look.describe(Namespace(dag_id="dag", task_id="task", run_id=None, map=None, try_number=None, json=as_json))

    told = " ".join(capsys.readouterr().out.split())
    assert code == 0
    if as_json:
        assert json.loads(told) == [{"exec_id": "bad", "unreadable": "'PAUSED' is not a valid Phase"}]
    else:
        assert "The row bad of this task can not be read" in told
        assert "'PAUSED' is not a valid Phase" in told

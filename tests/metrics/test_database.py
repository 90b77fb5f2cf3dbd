"""Latency and errors by named statement."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from reconciler.core.phase import Phase
from reconciler.store.census import take_census
from reconciler.store.daemon import SqlStore
from reconciler.store.names import statement_names
from tests.metrics.meter import Meter

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.conftest import Deployment


def test_statements_are_named_and_timed_and_errors_counted(engine: Engine) -> None:
    meter = Meter()
    meter.metrics.watch(engine)
    store = SqlStore(engine, "prod")
    store.in_phase(Phase.RUNNING)
    store.launchable(5)
    lease = store.hold("prod/x", "me", timedelta(minutes=1))
    assert lease is not None
    for statement in ("in_phase", "launchable", "hold", "now"):
        assert (meter.value("db_statement_duration_seconds_count", statement=statement) or 0) >= 1, statement
    assert meter.value("db_statement_duration_seconds_count", statement="other") is None
    assert meter.value("db_transaction_duration_seconds_count") == 3
    assert meter.value("db_errors_total") == 0
    with pytest.raises(DBAPIError), engine.begin() as conn:
        conn.execute(text("SELECT no_such_column FROM ecs_workload"))
    assert meter.value("db_errors_total") == 1
    assert meter.value("db_pool_connections", state="used") == 0


def test_everything_that_the_daemon_does_has_a_name(prod: Deployment) -> None:
    meter = Meter()
    meter.metrics.watch(prod.engine)
    prod.queue("a")
    before = meter.value("db_statement_duration_seconds_count", statement="other") or 0  # the shim's insert
    old = prod.store.launchable(1).workloads[0]
    at = prod.store.now()
    new = old.moved(Phase.LAUNCHING, at, attempt=1, intent_at=at, cluster="c", family="f", params={})
    prod.store.save([(old, new)], prod.lease)
    prod.store.prune(timedelta(days=1), 10, prod.lease)
    prod.store.unwanted()
    prod.store.failed_starts()
    prod.store.find(["a"])
    assert (meter.value("db_statement_duration_seconds_count", statement="other") or 0) == before
    for statement in ("intend", "fence", "lock", "open_attempt"):
        assert (meter.value("db_statement_duration_seconds_count", statement=statement) or 0) >= 1, statement


def test_a_scrape_asks_the_database_nothing(engine: Engine) -> None:
    meter = Meter()
    meter.metrics.watch(engine)
    meter.shard.count(lambda: take_census(engine, "prod"))
    asked: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _k, statement, *_: asked.append(statement))
    event.listen(engine, "checkout", lambda *_: asked.append("a connection"))
    assert meter.value("workloads", phase="PENDING") == 0
    assert asked == []


def test_names_are_those_of_the_constants() -> None:
    names = statement_names()
    assert {"launchable", "update", "intend", "census", "count_open"} <= set(names)
    assert len(names) == len(set(names))

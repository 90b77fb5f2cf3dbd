"""Airflow's settings that hold tasks back, and addresses that no container can reach."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, text

from reconciler.config import DaemonSettings, daemon_settings
from reconciler.core.finding import Level
from reconciler.core.shares import Shares
from reconciler.doctor.airflow import check_address, check_airflow
from reconciler.doctor.pools import Pools, check_pools, read_pools

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOD = {
    "[core] parallelism": "1000",
    "[core] max_active_tasks_per_dag": "1000",
    "[core] max_active_runs_per_dag": "64",
    "[scheduler] max_tis_per_query": "0",
    "[scheduler] task_queued_timeout": "900",
    "[scheduler] task_instance_heartbeat_timeout": "300",
    "[workers] min_heartbeat_interval": "10",
    "[workers] max_failed_heartbeats": "6",
    "[api] workers": "4",
    "[database] sql_alchemy_pool_size": "20",
    "[database] sql_alchemy_max_overflow": "20",
    "[logging] remote_logging": "True",
}
POOLS = Pools({"default_pool": 1000})


def settings(api: str = "https://airflow.example.com/execution/", tasks: int = 500) -> DaemonSettings:
    given = {
        ("ecs_reconciler", "deployment"): "prod",
        ("ecs_reconciler", "max_running_tasks"): str(tasks),
        ("database", "sql_alchemy_conn"): "sqlite:///x.db",
        ("core", "execution_api_server_url"): api,
        **{("aws_ecs_executor", name): "x" for name in ("cluster", "container_name", "region_name", "task_definition")},
    }
    return daemon_settings(lambda section, option: given.get((section, option)))


def findings(changes: Mapping[str, str], pools: Any = POOLS, scheduler: Mapping[str, Any] | None = None) -> list[str]:
    its = {**GOOD, **changes}

    def read(section: str, option: str) -> str | None:
        return its.get(f"[{section}] {option}")

    found = check_airflow(settings(), read, scheduler or {}, pools)
    return [f"{f.level}: {f}" for f in found if f.level is not Level.OK]


def test_settings_that_suit_are_not_mentioned() -> None:
    assert findings({}) == []


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("[core] parallelism", "32", ["32", "below max_running_tasks = 500", "each scheduler"]),
        ("[core] max_active_tasks_per_dag", "16", ["16", "below max_running_tasks = 500"]),
        ("[core] max_active_runs_per_dag", "0.1", ["one DAG can not use 500"]),
        ("[scheduler] max_tis_per_query", "16", ["16 tasks are queued in one loop", "0"]),
        ("[scheduler] task_queued_timeout", "600", ["600 s", "start_timeout of 600 s", "set [scheduler]", "900"]),
        ("[workers] max_failed_heartbeats", "2", ["2 heartbeats in 20 s"]),
        ("[scheduler] task_instance_heartbeat_timeout", "60", ["60 s", "120 or more"]),
        ("[api] workers", "1", ["500 tasks send 100 heartbeats a second", "2 workers"]),
        ("[database] sql_alchemy_pool_size", "5", ["5 and 20 more", "PgBouncer"]),
        ("[logging] remote_logging", "False", ["it is off", "S3 or CloudWatch"]),
    ],
)
def test_a_setting_that_holds_tasks_back_is_named(name: str, value: str, words: list[str]) -> None:
    (line,) = findings({name: value} | ({"[database] sql_alchemy_max_overflow": "20"} if "pool" in name else {}))
    assert name in line
    for word in words:
        assert word in line


def test_what_a_running_scheduler_has_said_counts_and_not_what_this_process_reads() -> None:
    (line,) = findings({}, scheduler={**GOOD, "[core] parallelism": "64"})
    assert "[core] parallelism: 64 in a scheduler" in line
    assert findings({"[core] parallelism": "64"}, scheduler=GOOD) == []


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        (Pools({"default_pool": 128}), "warning: default_pool: 128 slots"),
        ("ProgrammingError", "note: pools: Airflow's pools could not be seen (ProgrammingError)"),
        (None, "note: pools"),
    ],
)
def test_pools(pools: Any, words: str) -> None:
    (line,) = findings({}, pools)
    assert words in line


def test_a_pool_without_limit_is_fine() -> None:
    assert findings({}, Pools({"default_pool": -1})) == []


@pytest.mark.parametrize(
    ("pools", "words"),
    [
        (Pools({"gpu": 40}), 'ok: pool of the queue "gpu": gpu, of no more slots than the queue\'s 40 tasks'),
        (Pools({"gpu": 41}), "'gpu' has 41 slots, and 40 tasks of the queue can run; airflow pools set gpu 40"),
        (Pools({"gpu": -1}), "'gpu' has no limit, and 40"),
        (Pools({}), "there is no pool 'gpu', and 40 tasks of the queue can run"),
        # What its tasks are in counts, whatever the name.
        (Pools({"cards": 40, "gpu": 90}, {"gpu": frozenset({"cards"})}), 'ok: pool of the queue "gpu": cards'),
        (Pools({"gpu": 40}, {"gpu": frozenset({"default_pool"})}), "'default_pool' has 500 slots"),
        (Pools({"gpu": 40, "a": 40}, {"gpu": frozenset({"a", "default_pool"})}), "'default_pool' has 500 slots"),
    ],
)
def test_a_queue_with_a_limit_wants_a_pool_of_that_size(pools: Pools, words: str) -> None:
    with_default = Pools({"default_pool": 500, **pools.slots}, pools.used)
    # One that may have everything needs none, and what is said for "default" is the default pool's.
    found = [f"{f.level}: {f}" for f in check_pools(with_default, 500, Shares({"gpu": 40, "cheap": None}))]
    (line,) = found
    assert words in line


def test_the_default_pool_need_not_be_larger_than_what_the_default_profile_may_have() -> None:
    assert list(check_pools(Pools({"default_pool": 300}), 500, Shares({"default": 300}))) == []
    (found,) = check_pools(Pools({"default_pool": 299}), 500, Shares({"default": 300}))
    assert "299 slots, below max_running_tasks = 300" in str(found)


@pytest.mark.parametrize(
    ("slots", "words"),
    [
        (199, ["199 slots, below the 200 tasks that can run"]),
        (200, []),
        (201, ["201 slots, and 200 tasks can run"]),
        (-1, ["no limit, and 200 tasks can run"]),
    ],
)
def test_the_default_pool_is_as_large_as_what_other_regions_leave(slots: int, words: list[str]) -> None:
    shares = Shares({"us": 300, "cheap": None}, away=("us",), home=200)
    *found, us = (str(f) for f in check_pools(Pools({"default_pool": slots, "us": 300}), 500, shares))
    assert us == 'pool of the queue "us": us, of no more slots than the queue\'s 300 tasks'
    assert len(found) == len(words)
    for word in words:
        assert word in found[0]
        assert "airflow pools set default_pool 200 " in found[0]


def test_pools_are_read_with_those_whose_tasks_are_active() -> None:
    engine = create_engine("sqlite://")
    with engine.begin() as conn:
        for statement in (
            "CREATE TABLE slot_pool (pool TEXT, slots INTEGER)",
            "CREATE TABLE task_instance (queue TEXT, pool TEXT, state TEXT)",
            "INSERT INTO slot_pool VALUES ('default_pool', 128), ('gpu', 40)",
            "INSERT INTO task_instance VALUES ('gpu', 'gpu', 'queued'), ('gpu', 'gpu', 'running')",
            "INSERT INTO task_instance VALUES ('gpu', 'default_pool', 'scheduled'), ('gpu', 'former', 'success')",
        ):
            conn.execute(text(statement))
    assert read_pools(engine) == Pools({"default_pool": 128, "gpu": 40}, {"gpu": frozenset({"gpu", "default_pool"})})
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "level"),
    [
        ("https://airflow.example.com/execution/", "ok"),
        ("http://10.0.0.7:8080/execution", "ok"),
        ("http://localhost:8080/execution/", "error"),
        ("http://127.0.0.1:8080/execution/", "error"),
        ("http://[::1]:8080/execution/", "error"),
        ("http://0.0.0.0:8080/execution/", "error"),
        ("http://airflow-api-server:8080/execution/", "error"),
        ("http://airflow-api-server.airflow.svc:8080/execution/", "error"),
        ("http://airflow-api-server.airflow.svc.cluster.local/execution/", "error"),
        ("airflow.example.com/execution/", "error"),
        ("https://airflow.example.com/", "warning"),
    ],
)
def test_an_address_is_judged_as_a_container_sees_it(url: str, level: str) -> None:
    (found,) = check_address(settings(url).profiles.default, local=False)
    assert found.level == level
    assert "execution_api_server_url" in found.where


def test_containers_on_this_machine_may_use_its_own_address() -> None:
    (found,) = check_address(settings("http://127.0.0.1:8080/execution/").profiles.default, local=True)
    assert found.level is Level.OK

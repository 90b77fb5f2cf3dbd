"""The table as a scheduler uses it: on engines like those of Airflow, in transactions that the caller owns."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import create_engine, event, update
from sqlalchemy.orm import Session

from reconciler.airflow.slots import free_slots
from reconciler.core.holds import Mode
from reconciler.core.phase import Desired, Phase
from reconciler.core.shares import Shares
from reconciler.core.task import Kind, Spec, TaskKey, Workload
from reconciler.store import shim
from reconciler.store.holds import hold
from reconciler.store.schema import workloads
from reconciler.store.shim import Demand
from tests.conftest import ids

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sqlalchemy import Connection, Engine

    from tests.conftest import Deployment, Postgres

AT = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture(
    params=[
        ("sqlite", "sqlite"),
        pytest.param(("postgres", "postgresql+psycopg2"), marks=pytest.mark.postgres),
        pytest.param(("postgres", "postgresql+psycopg"), marks=pytest.mark.postgres),
    ],
    ids=lambda param: param[1],
)
def driver(request: pytest.FixtureRequest) -> str:
    name: str = request.param[1]
    return name


@pytest.fixture
def database_url(driver: str, request: pytest.FixtureRequest) -> str:
    """Overrides the common one, so that the daemon's engine looks at the same database."""
    url: str
    if driver == "sqlite":
        url = request.getfixturevalue("sqlite_migrated_url")
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.url(request.getfixturevalue("postgres_database"))
    return url


@pytest.fixture
def airflow(driver: str, database_url: str) -> Iterator[Engine]:
    """An engine made as Airflow makes it. Source: airflow/settings.py and airflow/utils/orm_event_handlers.py."""
    if driver == "postgresql+psycopg2":
        url = database_url.replace("postgresql", driver, 1)
        engine = create_engine(url, executemany_mode="values_plus_batch", executemany_batch_page_size=2000)
    else:
        engine = create_engine(database_url.replace("postgresql", driver, 1))
    if driver == "sqlite":

        @event.listens_for(engine, "connect")
        def prepare(connection: sqlite3.Connection, _record: object) -> None:
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA journal_mode=WAL")

    yield engine
    engine.dispose()


@pytest.fixture
def conn(airflow: Engine, prod: Deployment) -> Iterator[Connection]:
    """A connection that commits each statement, for tests that are not about transactions."""
    with airflow.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def exited(prod: Deployment, exec_id: str, **fields: Any) -> Workload:
    prod.queue(exec_id, **fields)
    return prod.move(exec_id, Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING, Phase.EXITED)


# Queueing.


def test_a_batch_is_queued_with_the_clock_of_the_database(conn: Connection, prod: Deployment) -> None:
    spec = Spec('{"a": 1}', {"overrides": {}})
    given = Workload(exec_id="a", deployment="prod", key=TaskKey("d", "t", "r", 1, 2), priority=3, spec=spec)
    rejected = Workload(exec_id="b", deployment="prod", phase=Phase.FAILED_START, reason="a set is no JSON", spec=spec)
    before = prod.store.now()

    shim.insert(conn, [given, rejected, Workload(exec_id="c", deployment="prod", kind=Kind.CALLBACK)])

    a, b = prod.get("a"), prod.get("b")
    assert a == replace(given, created_at=a.created_at, updated_at=a.updated_at)
    assert b.phase is Phase.FAILED_START
    assert b.reason == "a set is no JSON"
    assert prod.get("c").kind is Kind.CALLBACK
    assert a.created_at is not None
    assert before <= a.created_at <= prod.store.now()


def test_a_thousand_workloads_are_one_statement_with_text_of_every_kind(airflow: Engine, prod: Deployment) -> None:
    odd = "quote ' percent %s backslash \\ brace {} unicode \u20ac \U0001f680 newline \n"
    spec = Spec(json.dumps({"odd": odd}), {"overrides": {"cpu": odd, "none": None, "deep": [1, 2.5, True]}})
    new = [
        Workload(exec_id=f"w{n}", deployment="prod", key=TaskKey(odd, f"t{n}", odd, n, 1), queue=odd, spec=spec)
        for n in range(1000)
    ]
    sent: list[str] = []
    event.listen(airflow, "before_cursor_execute", lambda *args: sent.append(args[2]))

    with airflow.begin() as conn:
        shim.insert(conn, new)

    assert len([statement for statement in sent if "INSERT" in statement]) == 1
    assert prod.count() == 1000
    row = prod.get("w999")
    assert row == replace(new[999], created_at=row.created_at, updated_at=row.updated_at)


def test_rows_that_are_almost_the_same_are_not_made_the_same(conn: Connection, prod: Deployment) -> None:
    # To Python 1 and True are equal, and so are objects with them.
    configs: list[dict[str, object]] = [{"n": True}, {"n": 1}, {"n": 1.0}]
    new = [
        Workload(exec_id=f"w{n}", deployment="prod", team=team, spec=Spec("{}", config))
        for n, (config, team) in enumerate(zip(configs, ["red", None, ""], strict=True))
    ]

    shim.insert(conn, new)

    rows = conn.exec_driver_sql("SELECT executor_config, team FROM ecs_workload ORDER BY exec_id").all()
    assert [tuple(row) for row in rows] == [('{"n":true}', "red"), ('{"n":1}', None), ('{"n":1.0}', "")]


def test_queueing_again_leaves_the_row_as_it_is(conn: Connection, prod: Deployment) -> None:
    prod.queue("a")
    row = prod.move("a", Phase.LAUNCHING)

    shim.insert(conn, [Workload(exec_id="a", deployment="other", priority=9), Workload(exec_id="b", deployment="prod")])

    assert prod.get("a") == row
    assert prod.get("b").phase is Phase.PENDING


def test_empty_lists_are_welcome(conn: Connection) -> None:
    shim.insert(conn, [])
    shim.acknowledge(conn, [])
    shim.refuse(conn, [])
    assert shim.newest(conn, []) == shim.adopt(conn, [], 1, None) == set()
    assert shim.want_stop(conn, [], "why") == 0
    assert shim.shed(conn, []) == []


def test_nothing_stays_if_the_caller_rolls_back(airflow: Engine, prod: Deployment) -> None:
    """Airflow's QUEUED and the row are committed together, or neither is."""
    with airflow.connect() as connection:
        shim.insert(connection, [Workload(exec_id="a", deployment="prod")])
        connection.rollback()
    assert prod.count() == 0


def test_a_savepoint_that_fails_leaves_the_transaction_of_airflow_usable(airflow: Engine, prod: Deployment) -> None:
    with Session(airflow) as session, session.begin():
        connection = session.connection()
        shim.insert(connection, [Workload(exec_id="a", deployment="prod")])
        savepoint = connection.begin_nested()
        shim.insert(connection, [Workload(exec_id="b", deployment="prod")])
        savepoint.rollback()
        shim.insert(connection, [Workload(exec_id="c", deployment="prod")])
    assert [w.exec_id for w in prod.store.in_phase(Phase.PENDING).workloads] == ["a", "c"]


def test_a_thousand_workloads_are_queued_in_one_call(airflow: Engine, prod: Deployment) -> None:
    with airflow.begin() as connection:
        shim.insert(connection, [Workload(exec_id=f"{n:04}", deployment="prod") for n in range(1000)])
    assert prod.count() == 1000


# Delivering.


def test_ends_are_shown_to_their_owner_until_they_are_acknowledged(conn: Connection, prod: Deployment) -> None:
    first, second = exited(prod, "b"), exited(prod, "a")
    exited(prod, "of-another", owner_job_id=8)
    exited(prod, "elsewhere", deployment="prod")
    prod.set("elsewhere", deployment="copy")
    prod.queue("pending")

    shown = shim.undelivered(conn, "prod", 7, 10)
    assert ids(shown) == ["b", "a"]
    assert ids(shim.undelivered(conn, "prod", 7, 1)) == ["b"]
    assert shown.workloads[0] == replace(first, spec=None)
    assert shown.workloads[0].updated_at is not None
    assert shown.now >= shown.workloads[0].updated_at

    shim.acknowledge(conn, [first])
    assert ids(shim.undelivered(conn, "prod", 7, 10)) == ["a"]
    assert prod.get("b") == replace(first, acked_version=first.version)
    assert prod.get("a") == second


def test_only_what_was_read_is_acknowledged_and_only_ends_are(conn: Connection, prod: Deployment) -> None:
    read, running = exited(prod, "x"), prod.queue("running")
    shim.refuse(conn, [read])

    shim.acknowledge(conn, [read, running])

    assert ids(shim.undelivered(conn, "prod", 7, 10)) == ["x"]
    assert prod.get("running").acked_version == 0


def test_an_end_is_new_again_when_the_row_goes_on(conn: Connection, prod: Deployment) -> None:
    """Acknowledged is a version and not a workload."""
    read = exited(prod, "x")
    shim.acknowledge(conn, [read])
    assert ids(shim.undelivered(conn, "prod", 7, 10)) == []

    shim.refuse(conn, [read])

    assert ids(shim.undelivered(conn, "prod", 7, 10)) == ["x"]


def test_a_start_that_airflow_did_not_admit_is_refused_once(conn: Connection, prod: Deployment) -> None:
    read, pending, stopped = exited(prod, "x"), prod.queue("pending"), exited(prod, "stopped")
    prod.set("stopped", desired="STOP")

    shim.refuse(conn, [read, pending, stopped])
    shim.refuse(conn, [read])

    assert prod.get("x") == replace(read, refused=True, version=read.version + 1)
    assert prod.get("pending") == pending
    assert not prod.get("stopped").refused
    assert [w.exec_id for w in prod.store.failed_starts().workloads] == ["x"]


def test_a_refusal_is_meant_for_one_attempt_and_never_for_the_next(conn: Connection, prod: Deployment) -> None:
    first = exited(prod, "x")
    shim.refuse(conn, [first])
    second = prod.move("x", Phase.PENDING, Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)

    shim.refuse(conn, [first])

    assert prod.get("x") == second


def test_the_newest_of_a_task_instance_has_no_later_row_of_its_key(conn: Connection, prod: Deployment) -> None:
    key = TaskKey("d", "t", "r", 0, 1)
    others = [replace(key, map_index=1), replace(key, try_number=2), replace(key, run_id="s")]
    old, new = prod.queue("old", key=key), prod.queue("new", key=key)
    for number, other in enumerate(others):
        prod.queue(f"other-{number}", key=other)
        prod.set(f"other-{number}", created_at=AT + timedelta(hours=9))
    prod.queue("copy", key=key, deployment="copy")
    prod.set("copy", created_at=AT + timedelta(hours=9))
    prod.set("old", created_at=AT)
    prod.set("new", created_at=AT + timedelta(milliseconds=1))
    assert shim.newest(conn, [old, new]) == {"new"}
    assert shim.newest(conn, [old]) == set()


# Stopping, owning and giving back.


def test_stop_is_wanted_once_and_only_of_what_has_not_ended(conn: Connection, prod: Deployment) -> None:
    pending, ended = prod.queue("a"), exited(prod, "c")
    prod.queue("b")
    running = prod.move("b", Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)

    assert shim.want_stop(conn, ["a", "b", "c", "none"], "cleared") == 2
    assert shim.want_stop(conn, ["a"], "again") == 0

    stopped = prod.get("a")
    assert stopped.desired_at is not None
    assert stopped == replace(
        pending,
        desired=Desired.STOP,
        desired_reason="cleared",
        desired_at=stopped.desired_at,
        version=pending.version + 1,
    )
    assert prod.get("b").version == running.version + 1
    assert prod.get("c") == ended
    assert sorted(w.exec_id for w in prod.store.unwanted().workloads) == ["a", "b"]


def test_a_wish_to_stop_makes_the_launch_that_read_before_it_fail(conn: Connection, prod: Deployment) -> None:
    read = prod.queue("x")
    shim.want_stop(conn, ["x"], "cleared")
    assert prod.store.save([(read, read.moved(Phase.LAUNCHING, AT, attempt=1, intent_at=AT))], prod.lease) == []


def test_an_owner_sees_what_it_took_over(conn: Connection, prod: Deployment) -> None:
    open_one, ended = prod.queue("a"), exited(prod, "b")
    prod.queue("c")

    assert shim.adopt(conn, ["a", "b", "none"], 9, None) == {"a", "b"}

    assert ids(shim.open_workloads(conn, "prod", 9)) == ["a"]
    assert ids(shim.open_workloads(conn, "prod", 7)) == ["c"]
    assert ids(shim.undelivered(conn, "prod", 9, 10)) == ["b"]
    assert (prod.get("a").version, prod.get("b").version) == (open_one.version, ended.version)
    assert shim.open_workloads(conn, "prod", 9).workloads[0].spec is None


def test_what_is_handed_over_stays_with_its_team_and_what_is_adopted_has_its_adopters(
    conn: Connection, prod: Deployment
) -> None:
    for exec_id in ("handed-over", "adopted"):
        prod.queue(exec_id, team="blue")

    shim.own(conn, ["handed-over"], 9)
    shim.adopt(conn, ["adopted"], 9, None)

    owners = {w.exec_id: (w.owner_job_id, w.team) for w in shim.open_workloads(conn, "prod", 9).workloads}
    assert owners == {"handed-over": (9, "blue"), "adopted": (9, None)}


def test_waiting_are_those_that_nobody_has_launched_for_a_while(conn: Connection, prod: Deployment) -> None:
    different: dict[str, dict[str, Any]] = {
        "of-another": {"owner_job_id": 8},
        "of-a-team": {"team": "blue"},
        "callback": {"kind": Kind.CALLBACK},
        "failed": {"start_failures": 1},
    }
    for exec_id in ("young", "old", "older", *different, "unwanted", "launching"):
        prod.queue(exec_id, **{"owner_job_id": 7, **different.get(exec_id, {})})
        prod.set(exec_id, created_at=prod.store.now() - timedelta(seconds=200))
    prod.set("failed", created_at=prod.store.now() - timedelta(seconds=400))
    prod.set("young", created_at=prod.store.now() - timedelta(seconds=20))
    prod.set("older", created_at=prod.store.now() - timedelta(seconds=300))
    prod.set("unwanted", desired="STOP")
    prod.move("launching", Phase.LAUNCHING)

    def waiting(limit: int, **which: Any) -> list[str]:
        return [w.exec_id for w in shim.waiting(conn, "prod", 7, timedelta(seconds=150), limit, **which)]

    assert waiting(10) == ["older", "old"]
    assert waiting(1) == ["older"]
    assert waiting(10, failed=True) == ["failed", "older", "old"]
    assert waiting(10, team="blue") == ["of-a-team"]


def test_what_is_given_back_to_airflow_can_never_be_launched(conn: Connection, prod: Deployment) -> None:
    a, b, c = prod.queue("a"), prod.queue("b"), prod.queue("c")
    launched = prod.move("b", Phase.LAUNCHING)
    shim.want_stop(conn, ["c"], "cleared")

    (given,) = shim.shed(conn, [a, b, c])

    assert given == replace(prod.get("a"), spec=a.spec)
    assert (given.phase, given.version, given.acked_version) == (Phase.CANCELLED, 2, 2)
    assert given.reason is not None
    assert given.reason.startswith("given back to Airflow: ")
    assert prod.get("b") == launched
    assert prod.get("c").phase is Phase.PENDING
    assert ids(shim.undelivered(conn, "prod", 7, 10)) == []
    assert prod.store.save([(a, a.moved(Phase.LAUNCHING, AT, attempt=1, intent_at=AT))], prod.lease) == []
    assert shim.shed(conn, [a]) == []


def test_what_another_scheduler_was_given_meanwhile_is_not_given_back(conn: Connection, prod: Deployment) -> None:
    read = prod.queue("a")
    shim.own(conn, ["a"], 8)
    assert shim.shed(conn, [read]) == []
    assert prod.get("a").phase is Phase.PENDING


def test_demand_counts_what_takes_a_slot_what_waits_and_what_gave_one_back(conn: Connection, prod: Deployment) -> None:
    assert shim.demand(conn, "prod") == Demand(0, 0, 0, daemon_alive=True)
    for exec_id in ("a", "b", "c", "d", "unwanted", "rejected"):
        prod.queue(exec_id)
    prod.set("unwanted", desired="STOP")
    prod.move("b", Phase.LAUNCHING)
    prod.move("c", Phase.LAUNCHING, Phase.STARTED, Phase.STOPPING)
    prod.move("d", Phase.LAUNCHING, Phase.STARTED, Phase.EXITED)
    prod.move("rejected", Phase.FAILED_START)
    exited(prod, "long-ago")
    prod.set("long-ago", updated_at=prod.store.now() - timedelta(seconds=61))
    shim.shed(conn, [prod.queue("given-back")])

    assert shim.demand(conn, "prod") == Demand(2, 1, 1, daemon_alive=True)
    assert shim.demand(conn, "copy") == Demand(0, 0, 0, daemon_alive=False)


def test_what_waits_for_a_full_or_held_queue_is_told_apart(conn: Connection, prod: Deployment) -> None:
    for n in range(3):
        prod.queue(f"gpu{n}", queue="gpu")
        prod.queue(f"etl{n}", queue="etl")
        prod.queue(f"other{n}")
    prod.move("gpu0", Phase.LAUNCHING)
    assert shim.demand(conn, "prod").blocked == 0
    assert shim.demand(conn, "prod", Shares({"gpu": 9})).blocked == 0
    assert shim.demand(conn, "prod", Shares({"gpu": 2})).blocked == 1
    assert shim.demand(conn, "prod", Shares({"gpu": 0})).blocked == 2
    hold(prod.engine, "prod", "etl", Mode.PAUSED, "me")
    assert shim.demand(conn, "prod", Shares({"gpu": 2})) == Demand(1, 8, 0, daemon_alive=True, blocked=4)
    hold(prod.engine, "prod", "", Mode.PAUSED, "me")
    assert shim.demand(conn, "prod").held


def test_a_limit_of_the_default_profile_holds_for_all_queues_that_have_none(conn: Connection, prod: Deployment) -> None:
    for n in range(3):
        prod.queue(f"gpu{n}", queue="gpu")
        prod.queue(f"etl{n}", queue="etl")
        prod.queue(f"other{n}")
    prod.move("etl0", Phase.LAUNCHING)
    assert shim.demand(conn, "prod", Shares({"default": 4, "gpu": None})).blocked == 2
    assert shim.demand(conn, "prod", Shares({"default": 4})).blocked == 5
    hold(prod.engine, "prod", "etl", Mode.PAUSED, "me")
    assert shim.demand(conn, "prod", Shares({"default": 4, "gpu": None})).blocked == 2


def test_what_waits_for_a_slot_at_home_takes_none_of_another_region(conn: Connection, prod: Deployment) -> None:
    """500 in all, 300 of them in another region: 200 run at home, and 300 more wait there."""
    shares = Shares({"us": 300, "gpu": 40}, away=("us",), home=200)
    shim.insert(conn, [Workload(f"home{n:03}", "prod", ti_id=f"home{n}", queue=f"q{n % 3}") for n in range(499)])
    conn.execute(update(workloads).where(workloads.c.exec_id < "home199").values(phase=Phase.RUNNING))
    shim.insert(conn, [Workload("gpu", "prod", ti_id="gpu", queue="gpu", phase=Phase.RUNNING)])

    full = shim.demand(conn, "prod", shares)
    assert (full.in_flight, full.pending, full.blocked) == (200, 300, 300)
    assert free_slots(full, 500, backlog=50) == 300

    # What may start there is taken from what is free there.
    shim.insert(conn, [Workload(f"us{n:03}", "prod", ti_id=f"us{n}", queue="us") for n in range(310)])
    both = shim.demand(conn, "prod", shares)
    assert (both.pending, both.blocked) == (610, 310)
    assert free_slots(both, 500, backlog=50) == 1


def test_the_daemon_is_alive_while_any_lease_of_the_deployment_runs(conn: Connection, prod: Deployment) -> None:
    prod.store.hold("xprod_a/shard", "me", timedelta(minutes=5))
    prod.store.hold("prodXa/shard", "me", timedelta(minutes=5))
    assert not shim.demand(conn, "prod_a").daemon_alive
    assert not shim.demand(conn, "PROD").daemon_alive

    prod.store.release(prod.lease)
    assert not shim.demand(conn, "prod").daemon_alive

    prod.store.hold("prod/another", "me", timedelta(minutes=5))
    assert shim.demand(conn, "prod").daemon_alive

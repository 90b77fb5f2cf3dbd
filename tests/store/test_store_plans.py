"""Each hot statement is served by an index, however many finished rows there are: the real statements are explained."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from inspect import isfunction
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert

from reconciler.core.phase import LIVE, Desired, Phase
from reconciler.core.task import TaskKey, Workload
from reconciler.store import shim
from reconciler.store.census import take_census
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import writing
from reconciler.store.history import history
from reconciler.store.holds import left
from reconciler.store.listing import MOST, Wanted, listing, pulse
from reconciler.store.rows import row_of
from reconciler.store.schema import workloads
from reconciler.store.told import mark, untold

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from tests.conftest import Deployment

AGE = timedelta(hours=1)


def intend(prod: Deployment) -> None:
    w = prod.store.launchable(1).workloads[0]
    at = prod.store.now()
    assert prod.store.save([(w, w.moved(Phase.LAUNCHING, at, attempt=1, intent_at=at))], prod.lease)


def progress(prod: Deployment) -> None:
    w = prod.store.in_phase(Phase.LAUNCHING).workloads[0]
    assert prod.store.save([(w, w.moved(Phase.STARTED, prod.store.now(), task_arn="arn"))], prod.lease)


def some(conn: Connection, phase: str) -> list[Workload]:
    return [w for w in shim.open_workloads(conn, "prod", 7).workloads if w.phase == phase][:5]


def untell(conn: Connection) -> None:
    mark(conn, untold(conn, "prod", 7, 5, lock=False))


HOT: dict[str, Sequence[Callable[[Deployment], object]]] = {
    "launchable": [
        lambda prod: prod.store.launchable(100),
        lambda prod: prod.store.launchable(100, ["default", "other"]),
    ],
    "launching": [lambda prod: prod.store.launching(prod.lease)],
    "in_phase": [
        lambda prod: prod.store.in_phase(*LIVE),
        lambda prod: prod.store.in_phase(Phase.LAUNCHING, *LIVE),
        lambda prod: prod.store.in_phase(Phase.STARTED),
        lambda prod: prod.store.in_phase(Phase.STOPPING),
    ],
    "unwanted": [lambda prod: prod.store.unwanted()],
    "failed_starts": [lambda prod: prod.store.failed_starts()],
    "admitted": [
        lambda prod: prod.store.admitted(prod.store.now() - AGE, AGE),
        lambda prod: prod.store.admitted(prod.store.now() + AGE, AGE),
    ],
    "find": [lambda prod: prod.store.find(["w010", "w011-4"])],
    "counts": [lambda prod: prod.store.counts()],
    "counts_here": [lambda prod: prod.store.counts_here()],
    "save": [intend, progress],
    "prune": [lambda prod: prod.store.prune(AGE, 100, prod.lease)],
    "take_census": [lambda prod: take_census(prod.engine, prod.name, prod.shard)],
    "listing": [
        lambda prod: listing(prod.engine, prod.name, Wanted()),
        lambda prod: listing(prod.engine, prod.name, Wanted(dag_id="dag", task_id="t1", run_id="run1")),
    ],
    "history": [
        lambda prod: history(prod.engine, prod.name, Wanted(limit=50)),
        lambda prod: history(prod.engine, prod.name, Wanted(limit=MOST)),
        lambda prod: history(prod.engine, prod.name, Wanted(phase=Phase.LOST)),
    ],
    "pulse": [lambda prod: pulse(prod.engine, prod.name)],
    "left": [lambda prod: left(prod.engine, prod.name, ""), lambda prod: left(prod.engine, prod.name, "default")],
}
"""By the method that runs them. A method that is missing here fails a test below."""
NO_WORKLOADS = {"hold", "release", "leases", "now", "freed"}
"""Methods that look at leases and clock only, or at no table."""
SHIM: dict[str, Callable[[Connection], object]] = {
    "insert": lambda conn: shim.insert(conn, [Workload("new", "prod", ti_id="new", owner_job_id=7)]),
    "undelivered": lambda conn: shim.undelivered(conn, "prod", 7, 100),
    "open_workloads": lambda conn: shim.open_workloads(conn, "prod", 7),
    "newest": lambda conn: shim.newest(conn, some(conn, "PENDING")),
    "acknowledge": lambda conn: shim.acknowledge(conn, some(conn, "PENDING")),
    "refuse": lambda conn: shim.refuse(conn, some(conn, "PENDING")),
    "want_stop": lambda conn: shim.want_stop(conn, [w.exec_id for w in some(conn, "STARTED")], "why"),
    "own": lambda conn: shim.own(conn, [w.exec_id for w in some(conn, "STARTED")], 7),
    "adopt": lambda conn: shim.adopt(conn, [w.exec_id for w in some(conn, "STARTED")], 7, "blue"),
    "waiting": lambda conn: shim.waiting(conn, "prod", 7, timedelta(seconds=-60), 100),
    "shed": lambda conn: shim.shed(conn, some(conn, "PENDING")),
    "demand": lambda conn: shim.demand(conn, "prod"),
    "untold": untell,
}
NO_STATEMENT = {"hurry", "impatient", "lose_patience"}


@pytest.fixture
def crowded(prod: Deployment) -> Deployment:
    """20,000 finished rows, the last of them just now and a few not acknowledged; and 600 open ones."""
    at = prod.store.now()
    rows: list[dict[str, Any]] = []
    for n in range(200):
        w = Workload(
            exec_id=f"w{n:03}", deployment="prod", ti_id=f"t{n}", key=TaskKey("dag", f"t{n % 10}", f"run{n}"),
            phase=Phase.EXITED, version=6, acked_version=6, attempt=1, owner_job_id=7,
        )  # fmt: skip
        rows.append(row_of(w) | {"created_at": at, "updated_at": at - timedelta(minutes=n)})
    for n in range(600):
        phase = (Phase.PENDING, Phase.LAUNCHING, Phase.STARTED, Phase.RUNNING)[n % 4]
        w = Workload(
            exec_id=f"o{n:05}", deployment="prod", ti_id=f"o{n}", key=TaskKey("dag", f"t{n % 100}", f"open{n // 100}"),
            phase=phase, owner_job_id=7, desired=Desired.STOP if n % 50 == 3 else Desired.RUN,
        )  # fmt: skip
        rows.append(row_of(w) | {"created_at": at, "updated_at": at})
    with writing(prod.engine).begin() as conn:
        conn.execute(insert(workloads), rows)
        copies = [column.name for column in workloads.c]
        as_copied = [
            {"exec_id": "exec_id || '-' || n", "run_id": "run_id || '-' || n"}.get(name, name) for name in copies
        ]
        conn.exec_driver_sql(
            "WITH RECURSIVE counted(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < 99) "
            f"INSERT INTO ecs_workload ({', '.join(copies)}) "
            f"SELECT {', '.join(as_copied)} FROM ecs_workload, counted WHERE phase = 'EXITED'"
        )
        conn.exec_driver_sql(
            "UPDATE ecs_workload SET acked_version = 0 WHERE exec_id IN ('w005-5', 'w006-6', 'w007-7')"
        )
    assert prod.count() == 20_600
    with prod.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as conn:
        conn.exec_driver_sql("ANALYZE")
    return prod


@contextmanager
def recorded(engine: Engine) -> Iterator[dict[str, Any]]:
    """The statements that run on this engine, each with the parameters of one run."""
    statements: dict[str, Any] = {}

    def note(_conn: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, executemany: bool) -> None:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")) and "ecs_" in statement:
            statements[statement] = parameters[0] if executemany else parameters

    event.listen(engine, "before_cursor_execute", note)
    yield statements
    event.remove(engine, "before_cursor_execute", note)


def full_scans(engine: Engine, statements: dict[str, Any]) -> list[str]:
    """The plans of those statements that read all workloads."""
    explain, full = (
        ("EXPLAIN QUERY PLAN", ("SCAN ecs_workload", "SCAN other", "SCAN newer", "SCAN later"))
        if engine.dialect.name == "sqlite"
        else ("EXPLAIN", ("Seq Scan on ecs_workload",))
    )
    bad = []
    with engine.connect() as conn:
        for statement, parameters in statements.items():
            lines = [str(row[-1]) for row in conn.exec_driver_sql(f"{explain} {statement}", parameters)]
            # SQLite says "SCAN table USING INDEX" where it walks through a partial index in order.
            if any(word in line and "USING" not in line for line in lines for word in full):
                bad.append("\n".join([statement, *lines]))
    return bad


def test_no_statement_of_the_daemon_reads_all_workloads(crowded: Deployment) -> None:
    for name, calls in HOT.items():
        for call in calls:
            with recorded(crowded.engine) as statements:
                call(crowded)
            assert statements, name
            assert full_scans(crowded.engine, statements) == [], name


def test_no_statement_of_the_shim_reads_all_workloads(crowded: Deployment) -> None:
    for name, call in SHIM.items():
        with recorded(crowded.engine) as statements, writing(crowded.engine).begin() as conn:
            call(conn)
        assert statements or name == "insert", name
        assert full_scans(crowded.engine, statements) == [], name


def test_none_is_forgotten_here() -> None:
    methods = {name for name, value in vars(SqlStore).items() if isfunction(value) and not name.startswith("_")}
    assert methods - NO_WORKLOADS <= HOT.keys()
    functions = {name for name, value in vars(shim).items() if isfunction(value) and value.__module__ == shim.__name__}
    assert {name for name in functions if not name.startswith("_")} - NO_STATEMENT <= SHIM.keys()


def test_the_check_above_notices_a_statement_without_an_index(crowded: Deployment) -> None:
    with recorded(crowded.engine) as statements, crowded.engine.connect() as conn:
        conn.exec_driver_sql("SELECT exec_id FROM ecs_workload WHERE reason = 'x'").all()
    assert len(full_scans(crowded.engine, statements)) == 1

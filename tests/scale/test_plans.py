"""With 100,000 finished rows each hot statement reads what it is about, and nothing of the rest."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from reconciler.store.engine import writing
from tests.scale.conftest import CROWD
from tests.scale.plans import explained, recorded
from tests.store.test_store_plans import HOT, SHIM

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from tests.conftest import Deployment
    from tests.scale.plans import Plan

pytestmark = pytest.mark.postgres

FEW = 600
"""What a statement may read that changes, or shows, a few rows. Each is called for a hundred or less."""
OPEN = CROWD.live + CROWD.pending
BOUNDS = {
    "in_phase": CROWD.live,
    "counts": OPEN,
    "counts_here": CROWD.pending,
    "take_census": OPEN,
    "listing": OPEN + 10_000,
    "history": OPEN + 10_000,
    "pulse": OPEN,
    "left": OPEN,
    "open_workloads": OPEN,
    "waiting": CROWD.pending,
    "demand": OPEN,
    "admitted": CROWD.live,
}
"""Those that read more, and why it can not grow with the table: it is about what is open, or looks back so far."""


def plans(engine: Engine, statements: dict[str, Any]) -> list[Plan]:
    found = []
    for statement, parameters in statements.items():
        for generic in (False, True):
            with engine.connect() as conn:
                found.append(explained(conn, statement, parameters, generic=generic))
                conn.rollback()
    return found


def excess(name: str, found: list[Plan]) -> list[Plan]:
    """The plans that read or sort more than they may."""
    bound = BOUNDS.get(name, 0) + FEW
    return [plan for plan in found if plan.full_scans or plan.rows_read > bound or plan.rows_sorted > bound]


def test_the_daemon_reads_what_it_is_about(crowd: Deployment) -> None:
    for name, calls in HOT.items():
        for call in calls:
            with recorded(crowd.engine) as statements:
                call(crowd)
            assert statements, name
            assert excess(name, plans(crowd.engine, statements)) == [], name


def test_a_scheduler_reads_what_it_is_about(crowd: Deployment) -> None:
    found = {}
    for name, call in SHIM.items():
        with writing(crowd.engine).connect() as conn, recorded(crowd.engine) as found[name]:
            call(conn)
            conn.rollback()
    for name, statements in found.items():
        if name != "open_workloads":
            # By this one the other calls here find something to do.
            for statement in found["open_workloads"]:
                statements.pop(statement, None)
        assert statements, name
        assert excess(name, plans(crowd.engine, statements)) == [], name


@pytest.mark.parametrize(
    "careless",
    [
        "SELECT exec_id FROM ecs_workload WHERE reason = 'ecs_x'",
        "SELECT count(*) FROM ecs_workload WHERE deployment = 'prod' AND phase = 'EXITED' AND version > acked_version",
        "SELECT exec_id FROM ecs_workload ORDER BY dag_id DESC, exec_id LIMIT 5",
    ],
)
def test_the_check_above_notices_what_is_careless(crowd: Deployment, careless: str) -> None:
    assert excess("find", plans(crowd.engine, {careless: {}}))


def test_what_nobody_needs_goes_in_bounded_batches(crowd: Deployment) -> None:
    with crowd.engine.connect() as conn, conn.begin() as everything:
        before = conn.execute(text("SELECT count(*) FROM ecs_workload")).scalar_one()
        everything.rollback()
    with recorded(crowd.engine) as statements:
        assert crowd.store.prune(timedelta(hours=1), 1000, crowd.lease) == 1000
    with crowd.engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM ecs_workload")).scalar_one() == before - 1000
        orphaned = (
            "SELECT count(*) FROM ecs_launch_attempt a "
            "WHERE NOT EXISTS (SELECT 1 FROM ecs_workload w WHERE w.exec_id = a.exec_id)"
        )
        assert conn.execute(text(orphaned)).scalar_one() == 0
    assert max(plan.rows_read for plan in plans(crowd.engine, statements)) <= 1500

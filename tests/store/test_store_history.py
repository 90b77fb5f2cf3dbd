"""What happened to workloads, told from the table, on each database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import update

from reconciler.core.phase import Phase
from reconciler.core.task import TaskKey
from reconciler.core.why import is_problem
from reconciler.store import shim
from reconciler.store.engine import writing
from reconciler.store.history import history
from reconciler.store.listing import Wanted, listing
from reconciler.store.schema import attempts, workloads

if TYPE_CHECKING:
    from tests.conftest import Deployment


EVERYTHING = Wanted()


def lines(prod: Deployment, wanted: Wanted = EVERYTHING) -> list[tuple[str, int, str, bool]]:
    return [(e.workload.exec_id, e.attempt, e.phase.value, e.problem) for e in history(prod.engine, prod.name, wanted)]


def test_a_start_that_failed_once_is_told_from_its_queueing_to_its_end(prod: Deployment) -> None:
    prod.queue("a", queue="gpu")
    prod.move("a", Phase.LAUNCHING, Phase.PENDING, reason="RESOURCE:CPU", start_failures=1)
    prod.move("a", Phase.LAUNCHING, Phase.STARTED, task_arn="arn:aws:ecs:eu-west-1:1:task/airflow/0123")
    prod.move("a", Phase.RUNNING, started_at=prod.store.now())
    prod.move("a", Phase.EXITED, exit_code=1, reason="OutOfMemoryError")

    assert lines(prod) == [
        ("a", 0, "PENDING", False),
        ("a", 1, "LAUNCHING", False),
        ("a", 1, "PENDING", True),
        ("a", 2, "LAUNCHING", False),
        ("a", 2, "RUNNING", False),
        ("a", 2, "EXITED", True),
    ]
    said = [event.what for event in history(prod.engine, prod.name, EVERYTHING)]
    assert said[0] == "queued in gpu"
    assert said[2] == "did not start, will be tried again: RESOURCE:CPU"
    assert said[3].endswith("after it was queued, ECS task 0123")
    assert said[5] == "exit code 1: OutOfMemoryError"


def test_what_is_not_wanted_any_more_says_why(prod: Deployment) -> None:
    prod.queue("a")
    with writing(prod.engine).begin() as conn:
        shim.want_stop(conn, ["a"], "cleared by a user")
    prod.move("a", Phase.CANCELLED)

    assert [event.what for event in history(prod.engine, prod.name, EVERYTHING)] == [
        "queued in default",
        "is to end: cleared by a user",
        "cleared by a user",
    ]


def test_the_newest_come_last_and_the_oldest_are_left_out(prod: Deployment) -> None:
    for number in range(5):
        prod.queue(f"w{number}", key=TaskKey("etl", "load", "run", number, 1))
        prod.set(f"w{number}", created_at=prod.store.now() - timedelta(minutes=5 - number))
    prod.move("w1", Phase.LAUNCHING)

    assert lines(prod, Wanted(limit=3)) == [
        ("w3", 0, "PENDING", False),
        ("w4", 0, "PENDING", False),
        ("w1", 1, "LAUNCHING", False),
    ]


def test_old_problems_do_not_hide_what_has_just_happened(prod: Deployment) -> None:
    long_ago = prod.store.now() - timedelta(hours=5)
    for number in range(6):
        prod.queue(f"lost{number}")
        prod.move(f"lost{number}", Phase.LAUNCHING, Phase.LOST, reason="nobody knows")
        prod.queue(f"again{number}")
        prod.set(f"again{number}", start_failures=1)
    with writing(prod.engine).begin() as conn:
        conn.execute(update(workloads).values(created_at=long_ago, updated_at=long_ago))
        conn.execute(update(attempts).values(intent_at=long_ago, closed_at=long_ago))
    for number in range(6):
        prod.queue(f"new{number}")
    for number in range(6):
        prod.move(f"new{number}", Phase.LAUNCHING)

    assert lines(prod, Wanted(limit=5)) == [(f"new{number}", 1, "LAUNCHING", False) for number in range(1, 6)]
    # What went wrong is still found by its phase, and comes first in a listing.
    assert len(lines(prod, Wanted(limit=6, phase=Phase.LOST))) == 6
    assert len(lines(prod, Wanted(limit=2, phase=Phase.LOST))) == 2
    assert all(is_problem(w) for w in listing(prod.engine, prod.name, Wanted(limit=12)).workloads)


def test_only_of_what_was_asked_for(prod: Deployment) -> None:
    prod.queue("a", key=TaskKey("etl", "load", "run", 0, 1))
    prod.queue("b", key=TaskKey("etl", "load", "run", 1, 1))
    prod.queue("c", key=TaskKey("etl", "load", "other", 1, 1))
    prod.queue("d", key=TaskKey("etl", "dump", "run", 1, 1))
    prod.queue("e", key=TaskKey("payroll", "load", "run", 1, 1))
    prod.move("a", Phase.LAUNCHING, Phase.LOST, reason="nobody knows")

    def found(wanted: Wanted) -> set[str]:
        listed = {w.exec_id for w in listing(prod.engine, prod.name, wanted).workloads}
        assert listed == {line[0] for line in lines(prod, wanted)}
        return listed

    assert found(Wanted(dag_id="etl")) == {"a", "b", "c", "d"}
    assert found(Wanted(dag_id="etl", task_id="load")) == {"a", "b", "c"}
    assert found(Wanted(dag_id="etl", task_id="load", run_id="run")) == {"a", "b"}
    assert found(Wanted(dag_id="etl", task_id="load", run_id="run", map_index=0)) == {"a"}
    assert found(Wanted(map_index=1)) == {"b", "c", "d", "e"}
    assert found(Wanted(dags=frozenset({"payroll", "gone"}))) == {"e"}
    assert found(Wanted(dags=frozenset())) == set()
    assert {line[2] for line in lines(prod, Wanted(phase=Phase.LOST))} == {"LOST"}

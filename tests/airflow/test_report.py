"""The demo's checks: each one holds for what should happen, and fails for what should not."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from reconciler.core.identity import started_by
from reconciler.core.phase import Phase
from reconciler.core.task import TaskKey, Workload
from reconciler.demo.report import EXPECTED, checks, show_checks, show_totals, show_tries
from reconciler.demo.stack import DEPLOYMENT
from reconciler.demo.world import World

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTES = timedelta(seconds=123.4)


def ecs_task(w: Workload, **changes: Any) -> Any:
    return {
        "taskArn": f"arn:aws:ecs:us-east-1:123456789012:task/demo/{w.exec_id}",
        "lastStatus": "STOPPED",
        "startedBy": started_by(DEPLOYMENT, w.exec_id, 1),
        **changes,
    }


def perfect() -> World:
    """What the demo is when all went well."""
    instances, rows = [], []
    for task_id, expected in EXPECTED.items():
        for index in range(expected.instances) if expected.instances > 1 else (-1,):
            instance = {"task_id": task_id, "map_index": index, "state": expected.state, "try_number": expected.tries}
            instances.append(instance)
            for number in range(1, expected.tries + 1):
                for time in range(expected.queued_per_try):
                    key = TaskKey("demo", task_id, "demo", index, number)
                    exec_id = f"{task_id}-{index}-{number}-{time}"
                    row = Workload(exec_id, DEPLOYMENT, key=key, phase=Phase.EXITED, version=5, acked_version=5)
                    row = replace(row, attempt=1, exit_code=0, created_at=NOW, intent_at=NOW + MINUTES)
                    row = replace(row, started_at=NOW + 2 * MINUTES, stopped_at=NOW + 3 * MINUTES)
                    rows.append(replace(row, updated_at=NOW + 4 * MINUTES))
    return World("failed", instances, rows, [ecs_task(w) for w in rows])


def failed(world: World) -> list[str]:
    return [check.name for check in checks(world) if not check.holds]


def test_all_checks_hold_when_all_went_well() -> None:
    assert failed(perfect()) == []


def first(world: World, **changes: Any) -> World:
    return replace(world, rows=[replace(world.rows[0], **changes), *world.rows[1:]])


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        (lambda w: replace(w, instances=w.instances[1:]), "every task instance is in the expected state"),
        (
            lambda w: replace(w, instances=[{**w.instances[0], "state": "failed"}, *w.instances[1:]]),
            "every task instance is in the expected state",
        ),
        (
            lambda w: replace(w, instances=[{**w.instances[0], "try_number": 2}, *w.instances[1:]]),
            "every task instance is in the expected state",
        ),
        (lambda w: replace(w, tasks=w.tasks[1:]), "exactly one ECS task ran for each queueing"),
        (lambda w: replace(w, tasks=[*w.tasks, w.tasks[0]]), "exactly one ECS task ran for each queueing"),
        (
            lambda w: replace(w, tasks=[*w.tasks, {**w.tasks[0], "startedBy": "somebody"}]),
            "exactly one ECS task ran for each queueing",
        ),
        (
            lambda w: replace(w, tasks=[{**w.tasks[0], "lastStatus": "RUNNING"}, *w.tasks[1:]]),
            "nothing is left running",
        ),
        (lambda w: first(w, phase=Phase.RUNNING), "nothing is left running"),
        (lambda w: first(w, acked_version=4), "Airflow has been told every outcome"),
        (
            lambda w: replace(w, rows=w.rows[1:], tasks=w.tasks[1:]),
            "every try was queued as often as it has to be",
        ),
        (
            lambda w: replace(
                w,
                rows=[*w.rows, replace(w.rows[0], exec_id="again")],
                tasks=[*w.tasks, ecs_task(replace(w.rows[0], exec_id="again"))],
            ),
            "every try was queued as often as it has to be",
        ),
    ],
)
def test_what_went_wrong_fails_its_check_and_no_other(damage: Callable[[World], World], name: str) -> None:
    assert failed(damage(perfect())) == [name]


def test_the_report_fits_into_80_columns_and_says_what_is_wrong() -> None:
    world = first(perfect(), acked_version=4)
    console = Console(file=StringIO(), width=80)
    show_tries(console, world)
    show_totals(console, world, 12.0)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert sum(line.startswith("square[") for line in lines) == 20
    assert not [line for line in lines if "…" in line]
    assert "26 task instances, 27 tries, queued 31 times, 31 launches, 31 ECS tasks; the DAG run took 12 s." in lines
    show_checks(console, checks(world))
    assert "FAILED  Airflow has been told every outcome" in console.file.getvalue()
    assert world.rows[0].exec_id in console.file.getvalue()

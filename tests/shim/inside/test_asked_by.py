"""Who is named for the end of a task: the user whose action made of the task instance what it is, and nobody else."""

# Much of Airflow is not typed.
# mypy: allow-untyped-calls

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.log import Log
from airflow.utils.session import create_session

from tests.shim.inside.world import sql

if TYPE_CHECKING:
    from reconciler.core.task import Workload
    from tests.shim.inside.world import World

BULK = '{"actions": [{"action": "update", "entities": [%s]}], "method": "PATCH"}'
DELETED = BULK.replace("update", "delete")


def acted(w: Workload, event: str, *, later: float = 1, **columns: Any) -> None:
    """A user's action, as Airflow's API server notes it."""
    given = {"task_id": None, "run_id": w.key.run_id, "owner": "ada", "extra": "{}", **columns}
    assert w.created_at is not None
    with create_session() as session:
        row = Log(event, **{name: given[name] for name in ("task_id", "run_id", "owner", "extra")}, dag_id="etl")
        row.dttm = w.created_at + timedelta(seconds=later)
        session.add(row)


def become(world: World, w: Workload, what: str) -> None:
    """The task instance is marked so, cleared, or deleted."""
    if what == "gone":
        sql("DELETE FROM task_instance")
    elif what == "cleared":
        world.clear()
    else:
        world.set_ti(w, state=what)


FAILED = {"task_id": "work", "extra": '{"new_state": "failed", "method": "PATCH"}'}
CLEARED = '"dry_run": false, "only_failed": false'


@pytest.mark.parametrize(
    ("what", "event", "columns"),
    [
        ("failed", "patch_task_instance", FAILED),
        ("failed", "patch_task_instance", {**FAILED, "extra": '{"map_index": "-1", "new_state": "failed"}'}),
        ("failed", "patch_dag_run", {"extra": '{"state": "failed", "note": null}'}),
        ("skipped", "patch_dag_run", {"extra": '{"state": "success"}'}),
        ("failed", "bulk_dag_runs", {"run_id": None, "extra": BULK % '{"dag_run_id": "run_1", "state": "failed"}'}),
        ("cleared", "post_clear_task_instances", {"extra": f'{{{CLEARED}, "task_ids": ["another", "work"]}}'}),
        ("cleared", "post_clear_task_instances", {"extra": f'{{{CLEARED}, "task_ids": [["work", -1]]}}'}),
        ("cleared", "post_clear_task_instances", {"extra": f'{{{CLEARED}, "task_ids": null}}'}),
        (
            "cleared",
            "post_clear_task_instances",
            {"extra": f'{{{CLEARED}, "task_ids": ["before"], "include_downstream": true}}'},
        ),
        ("cleared", "clear_dag_run", {"extra": f"{{{CLEARED}}}"}),
        ("cleared", "clear_dag_runs", {"run_id": None, "extra": '{"dag_runs": [{"dag_run_id": "run_1"}]}'}),
        ("gone", "delete_dag_run", {}),
        ("gone", "delete_dag", {"run_id": None}),
        ("gone", "bulk_dag_runs", {"run_id": None, "extra": DELETED % '"run_1"'}),
    ],
)
def test_the_reason_names_the_user_who_ended_it(world: World, what: str, event: str, columns: Any) -> None:
    (w,) = world.queued()
    become(world, w, what)
    acted(w, event, **columns)
    world.beat()
    world.beat()
    desired, reason = world.wanted(w)
    assert desired == "STOP"
    assert str(reason).endswith(f" ({event} by ada)")


@pytest.mark.parametrize(
    ("what", "event", "columns"),
    [
        ("failed", "patch_task_instance", {**FAILED, "task_id": "another"}),
        ("success", "patch_task_instance", FAILED),
        ("failed", "patch_task_instance", {**FAILED, "extra": '{"note": "it has \\"new_state\\": \\"failed\\""}'}),
        ("failed", "patch_task_instance", {**FAILED, "extra": '{"map_index": "3", "new_state": "failed"}'}),
        ("failed", "patch_task_group_instances", {"extra": '{"group_id": "group", "new_state": "failed"}'}),
        ("failed", "patch_dag_run", {"run_id": "another", "extra": '{"state": "failed"}'}),
        ("failed", "patch_dag_run", {"later": -60, "extra": '{"state": "failed"}'}),
        ("failed", "patch_dag_run", {"extra": '{"note": "look at this"}'}),
        ("success", "patch_dag_run", {"extra": '{"state": "queued"}'}),
        ("failed", "bulk_dag_runs", {"run_id": None, "extra": BULK % '{"dag_run_id": "run_2", "state": "failed"}'}),
        ("failed", "bulk_dag_runs", {"run_id": None, "extra": BULK % '{"dag_run_id": "run_1", "note": "this"}'}),
        ("failed", "trigger_dag_run", {"extra": '{"state": "failed"}'}),
        ("cleared", "post_clear_task_instances", {"extra": f'{{{CLEARED}, "task_ids": ["another"]}}'}),
        ("cleared", "post_clear_task_instances", {"extra": '{"dry_run": true}'}),
        ("cleared", "clear_dag_runs", {"run_id": None, "extra": '{"dag_runs": [{"dag_run_id": "run_2"}]}'}),
        *(
            (state, "post_clear_task_instances", {"extra": f'{{{CLEARED}, "task_ids": ["work"]}}'})
            for state in ("success", "failed", "deferred", "up_for_reschedule")
        ),
        ("failed", "delete_dag_run", {}),
        ("gone", "bulk_dag_runs", {"run_id": None, "extra": DELETED % '"run_2"'}),
        ("gone", "patch_dag_run", {"extra": '{"state": "failed"}'}),
        ("failed", "patch_task_instance", {**FAILED, "extra": "no JSON at all"}),
        ("failed", "patch_task_instance", {**FAILED, "extra": None}),
    ],
)
def test_nobody_is_named_who_did_something_else(world: World, what: str, event: str, columns: Any) -> None:
    (w,) = world.queued()
    become(world, w, what)
    acted(w, event, **columns)
    world.beat()
    world.beat()
    desired, reason = world.wanted(w)
    assert desired == "STOP"
    assert " by " not in str(reason)


@pytest.mark.parametrize(("group", "named"), [("outer", True), ("outer.inner", True), ("inner", False)])
def test_the_reason_names_the_user_who_marked_its_group(world: World, group: str, named: bool) -> None:
    (w,) = world.queued()
    sql("UPDATE task_instance SET task_id = 'outer.inner.work', state = 'failed'")
    world.overwrite(w.exec_id, task_id="outer.inner.work")
    acted(w, "patch_task_group_instances", extra=f'{{"group_id": "{group}", "new_state": "failed"}}')
    world.beat()
    world.beat()
    who = " (patch_task_group_instances by ada)" if named else ""
    assert world.wanted(w) == ("STOP", f"the task instance is failed{who}")


def test_nobody_is_named_for_a_task_that_is_tried_again(world: World) -> None:
    """Airflow gives it a new id, as if it had been cleared."""
    (w,) = world.queued()
    become(world, w, "cleared")
    world.set_ti(w, state="up_for_retry")
    acted(w, "post_clear_task_instances", extra=f'{{{CLEARED}, "task_ids": ["before"], "include_downstream": true}}')
    world.beat()
    world.beat()
    assert world.wanted(w) == ("STOP", "the task instance is up_for_retry")


def test_a_run_that_took_too_long_is_named_as_such(world: World) -> None:
    (w,) = world.queued()
    world.set_ti(w, state="skipped")
    sql("UPDATE dag_run SET state = 'failed'")
    world.beat()
    world.beat()
    assert world.wanted(w) == ("STOP", "the task instance is skipped (its DAG run timed out)")

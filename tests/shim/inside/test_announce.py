"""What a scheduler says of itself, for `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import airflow
import pytest
from airflow import settings

import reconciler
from reconciler.store.components import announced
from tests.shim.inside.world import sql

if TYPE_CHECKING:
    from tests.shim.inside.world import World


pytestmark = pytest.mark.usefixtures("rested")


def test_a_scheduler_says_what_it_is_set_to_and_which_versions_it_has(
    world: World,
) -> None:
    sql("DELETE FROM ecs_component")
    world.executor._parts._announce_due._last = None
    world.beat()
    (me,) = announced(settings.get_engine(), "test")  # type: ignore[no-untyped-call]  # Airflow's
    assert (me.kind, me.instance, me.version) == ("shim", f"scheduler job {world.job.id}", reconciler.__version__)
    assert me.settings["options"]["max_running_tasks"] == 500
    assert me.settings["airflow"]["version"] == airflow.__version__
    assert me.settings["airflow"]["[core] parallelism"] == "2000"
    assert me.settings["airflow"]["[scheduler] task_queued_timeout"] == "600.0"


def test_a_table_that_can_not_be_written_keeps_no_scheduler_from_its_work(world: World) -> None:
    sql("ALTER TABLE ecs_component RENAME TO away")
    try:
        world.executor._parts._announce_due._last = None
        (w,) = world.queued()
        world.beat()
        assert world.ti(w)["state"] == "queued"
        assert world.executor.slots_occupied == 1
    finally:
        sql("ALTER TABLE away RENAME TO ecs_component")

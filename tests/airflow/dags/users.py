"""DAGs of what users do: images that can not be pulled, runs that are cancelled, and most of what Airflow offers.

Tasks leave evidence as in `scenarios`: the run's conf names the file.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, TriggerRule, dag, get_current_context, setup, task, task_group, teardown
from airflow.sdk.bases.sensor import PokeReturnValue
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

from reconciler.airflow import ecs_config

HOLD_SECONDS = 240


def testify(what: str) -> None:
    context = get_current_context()
    line = f"{what} {os.environ['ECS_RECONCILER_EXEC_ID']} {context['ti'].try_number}\n"
    with Path(context["dag_run"].conf["evidence"]).open("a") as evidence:
        evidence.write(line)


def hold() -> None:
    testify("ran")
    print("the task holds until it is told to end", flush=True)
    release = Path(get_current_context()["dag_run"].conf["release"])
    deadline = time.monotonic() + HOLD_SECONDS
    while not release.exists():
        if time.monotonic() > deadline:
            raise TimeoutError("nobody released this task")
        time.sleep(0.2)  # a task's own code, which looks for a file: nothing tells it
    testify("ended")


def one_task(dag_id: str, task_definition: str | None, timeout: timedelta | None = None) -> DAG:
    config = ecs_config(task_definition=task_definition)
    with DAG(dag_id, schedule=None, dagrun_timeout=timeout) as made:
        task(task_id="work", executor_config=config)(hold)()
    return made


ALLOWED = timedelta(seconds=60)
unpullable = one_task("unpullable", "unpullable")
endless = one_task("endless", "endless")
endless_in_time = one_task("endless_in_time", "endless", ALLOWED)
holds_in_time = one_task("holds_in_time", None, ALLOWED)


@dag(schedule=None, max_active_tasks=64)
def everything():
    """Mapped tasks, a task group, setup and teardown, a trigger rule, sensors, a pool."""

    @setup
    @task
    def begin():
        testify("begin")

    @teardown(on_failure_fail_dagrun=False)
    @task
    def finish():
        testify("finish")

    @task_group
    def group():
        @task
        def numbers() -> list[int]:
            return list(range(get_current_context()["dag_run"].conf["mapped"]))

        @task(pool="narrow", retries=0)
        def square(number: int) -> int:
            testify(f"square-{number}")
            return number * number

        @task(retries=0)
        def fails():
            testify("fails")
            raise RuntimeError("as it should")

        return square.expand(number=numbers()), fails()

    @task.sensor(poke_interval=1, mode="reschedule")
    def rescheduled() -> PokeReturnValue:
        """Looks twice: once before its evidence is there, and once after."""
        testify("poke")
        evidence = Path(get_current_context()["dag_run"].conf["evidence"]).read_text()
        return PokeReturnValue(is_done=evidence.count("poke ") > 1)

    @task.sensor(poke_interval=0.2, mode="poke")
    def poked() -> PokeReturnValue:
        return PokeReturnValue(is_done=True)

    @task(trigger_rule=TriggerRule.ALL_DONE)
    def total(numbers: Any) -> int:
        testify("total")
        return sum(numbers)

    @task(trigger_rule=TriggerRule.ONE_FAILED)
    def alarm():
        testify("alarm")

    @task(trigger_rule=TriggerRule.ALL_SUCCESS)
    def never():
        testify("never")

    start, end = begin(), finish()
    squares, failed = group()
    start >> [squares, failed] >> end
    start >> [rescheduled(), poked()] >> end
    total(squares) >> end
    failed >> [alarm(), never()]


everything()


@dag(schedule=None)
def ranked():
    """Three tasks of a queue in which one may run at once. The most urgent of them is queued last."""

    @task(queue="one-at-a-time", priority_weight=100, weight_rule="absolute", retries=0)
    def first():
        hold()

    @task(queue="one-at-a-time", priority_weight=1, weight_rule="absolute")
    def low():
        testify("low")

    @task
    def gate():
        testify("gate")

    @task(queue="one-at-a-time", priority_weight=10, weight_rule="absolute")
    def high():
        testify("high")

    first()
    low()
    gate() >> high()


ranked()


with DAG(
    "late",
    schedule=None,
    # Something that any container can import, leaves a trace, and would fail if it ran twice.
    deadline=DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=1),
        callback=SyncCallback("os.mkdir", {"path": str(Path(os.environ["AIRFLOW_HOME"]) / "deadline-missed")}),
    ),
):
    task(task_id="work")(hold)()

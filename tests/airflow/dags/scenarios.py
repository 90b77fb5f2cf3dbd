"""DAGs of one task each. Every task leaves evidence of each time that its code ran.

The run's conf: `evidence` is the file to which a line is appended, `release` (if given) the file to wait for.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator, dag, get_current_context, task

HOLD_SECONDS = 240


def testify(what: str) -> None:
    context = get_current_context()
    line = f"{what} {os.environ['ECS_RECONCILER_EXEC_ID']} {context['ti'].try_number}\n"
    with Path(context["dag_run"].conf["evidence"]).open("a") as evidence:
        evidence.write(line)


class Defers(BaseOperator):
    def execute(self, context: Any, event: Any = None, pauses: int = 0) -> None:
        testify("ran")
        if pauses < 2:
            trigger = TimeDeltaTrigger(timedelta(seconds=2))
            self.defer(trigger=trigger, method_name="execute", kwargs={"pauses": pauses + 1})


@dag(schedule=None)
def succeeds():
    @task
    def work():
        testify("ran")

    work()


@dag(schedule=None)
def fails():
    @task(retries=0)
    def work():
        testify("ran")
        raise RuntimeError("as it should")

    work()


@dag(schedule=None)
def retries():
    @task(retries=1, retry_delay=timedelta(seconds=1))
    def work(ti: Any = None):
        testify("ran")
        if ti.try_number == 1:
            raise RuntimeError("the first try fails")

    work()


@dag(schedule=None)
def defers():
    Defers(task_id="work")


@dag(schedule=None)
def holds():
    @task(retries=0)
    def work(dag_run: Any = None):
        testify("ran")
        print("the task holds until it is told to end")
        release = Path(dag_run.conf["release"])
        deadline = time.monotonic() + HOLD_SECONDS
        while not release.exists():
            if time.monotonic() > deadline:
                raise TimeoutError("nobody released this task")
            time.sleep(0.2)  # a task's own code, which looks for a file: nothing tells it
        testify("ended")

    work()


succeeds()
fails()
retries()
defers()
holds()

"""DAGs that know nothing of any executor: the same before and after a switch.

The run's conf: `evidence` is the file to which a line is appended, `release` the file to wait for.
"""

from __future__ import annotations

import time
from pathlib import Path

from airflow.sdk import dag, get_current_context, task

HOLD_SECONDS = 240
BIG = {
    "tags": [{"key": "team", "value": "etl"}],
    "overrides": {
        "cpu": "512",
        "containerOverrides": [
            {"name": "airflow", "memory": 400, "environment": [{"name": "MODE", "value": "full"}]},
        ],
    },
}


def testify(what: str) -> None:
    with Path(get_current_context()["dag_run"].conf["evidence"]).open("a") as evidence:
        evidence.write(f"{what}\n")


@dag(schedule=None)
def plain():
    @task
    def work():
        testify("ran")

    work()


@dag(schedule=None)
def big():
    @task(executor_config=BIG)
    def work():
        testify("ran")

    work()


@dag(schedule=None)
def held():
    @task
    def work():
        testify("ran")
        release = Path(get_current_context()["dag_run"].conf["release"])
        deadline = time.monotonic() + HOLD_SECONDS
        while not release.exists() and time.monotonic() < deadline:
            time.sleep(0.2)  # a task's own code, which looks for a file: nothing tells it
        testify("ended")

    work()


plain()
big()
held()

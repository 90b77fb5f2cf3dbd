"""One whole stack (Airflow, local ECS, daemon) per version of Airflow, shared by all tests of that version."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from reconciler.clock import SystemClock
from reconciler.demo.stack import Stack
from reconciler.demo.world import ecs_tasks, rows, started_for
from reconciler.localecs.server import DEMO_DEFINITION

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mypy_boto3_ecs.type_defs import TaskTypeDef

    from reconciler.core.task import Workload

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
DAGS = ("succeeds", "fails", "retries", "defers", "holds")
SECONDS = 240.0
IMAGES = {"unpullable": "registry.example.com/team/no-such-image:1.2", "endless": "team/endless-image"}

SETTINGS = {
    # Sixteen containers that import Airflow on two busy cores may take a minute, and are queued again after this time.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
    "AIRFLOW__ECS_RECONCILER__MAX_RUNNING_TASKS": "16",
    "AIRFLOW__AWS_ECS_EXECUTOR__MAX_RUN_TASK_ATTEMPTS": "4",
    "AIRFLOW__ECS_RECONCILER__QUEUES": '{"one-at-a-time": {"max_running_tasks": 1}}',
    # Nothing waits as PENDING: what waits for a third of task_queued_timeout is given back, and queued once more.
    "AIRFLOW__ECS_RECONCILER__BACKLOG": "0",
}


def interpreter(version: str) -> str:
    """The Python with this version of Airflow. Skips, or fails in CI, where there is none."""
    if version == "3.3":
        return sys.executable
    python = os.environ.get("AIRFLOW_3_2_PYTHON") or str(CHECKOUT / ".venv-3.2" / "bin" / "python")
    if not Path(python).exists():
        reason = f"there is no Airflow 3.2 at {python}: run `make install`, or set AIRFLOW_3_2_PYTHON"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return python


@dataclass
class Scenario:
    """One run of one of the DAGs, whose only task is `work`."""

    stack: Stack
    dag_id: str
    run_id: str
    evidence_file: Path
    release_file: Path

    def start(self, **further: Any) -> None:
        """Begin the run. What is given becomes part of its conf."""
        conf = {"evidence": str(self.evidence_file), "release": str(self.release_file), **further}
        self.stack.api.trigger(self.dag_id, self.run_id, conf)

    def release(self) -> None:
        """Let the task of `holds` end."""
        self.release_file.touch()

    @property
    def state(self) -> str | None:
        state = self.stack.api.instance(self.dag_id, self.run_id, "work")["state"]
        return None if state is None else str(state)

    @property
    def try_number(self) -> int:
        return int(self.stack.api.instance(self.dag_id, self.run_id, "work")["try_number"])

    def clear(self) -> None:
        self.stack.api.clear(self.dag_id, self.run_id, "work")

    @property
    def evidence(self) -> list[list[str]]:
        """What the task's code wrote: [what, exec_id, try number] each time."""
        text = self.evidence_file.read_text() if self.evidence_file.exists() else ""
        return [line.split() for line in text.splitlines()]

    def rows(self) -> list[Workload]:
        return rows(self.stack, self.dag_id, self.run_id)

    def launched(self) -> list[Workload]:
        """The queueings that have, or had, an ECS task."""
        return [w for w in self.rows() if w.attempt]

    def wait_for_code(self) -> None:
        """Wait until the task's code runs."""
        self.stack.wait(f"the code of {self.run_id} to run", lambda: bool(self.evidence), SECONDS)

    def wait_for(self, state: str) -> None:
        self.stack.wait(f"{self.run_id} to be {state}", lambda: self.state == state, SECONDS)

    def wait_until_settled(self) -> None:
        """Wait until nothing of it runs and Airflow has been told everything."""

        def settled() -> bool:
            return all(w.terminal and w.acked_version >= w.version for w in self.rows())

        self.stack.wait(f"{self.run_id} to settle", settled, SECONDS)

    def tasks(self) -> list[TaskTypeDef]:
        """The ECS tasks that were started for it."""
        mine = {w.exec_id for w in self.rows()}
        with closing(self.stack.ecs()) as client:
            return [task for task in ecs_tasks(client) if started_for(task) in mine]

    def assert_clean(self) -> None:
        """Each queueing had at most one ECS task, none of them is left, and user code ran at most once in each."""
        self.assert_clean_of_retries()
        by_row = [started_for(task) for task in self.tasks()]
        assert len(by_row) == len(set(by_row)), f"launched twice: {by_row}"

    def assert_clean_of_retries(self) -> None:
        """The same where a start may fail and be tried again: each launch had at most one ECS task."""
        self.wait_until_settled()
        tasks = self.tasks()
        launches = [task.get("startedBy") for task in tasks]
        assert len(launches) == len(set(launches)), f"launched twice: {launches}"
        assert {task["lastStatus"] for task in tasks} <= {"STOPPED"}
        ran = [exec_id for what, exec_id, _ in self.evidence if what == "ran"]
        assert len(ran) == len(set(ran)), f"ran twice: {ran}"


class Scenarios:
    """Makes scenarios, each with files and a run of its own."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self._numbers = count(1)

    def make(self, dag_id: str) -> Scenario:
        name = f"{dag_id}-{next(self._numbers)}"
        folder = self.stack.directory / "evidence"
        folder.mkdir(exist_ok=True)
        return Scenario(self.stack, dag_id, name, folder / name, folder / f"{name}.release")

    def start(self, dag_id: str, **conf: Any) -> Scenario:
        scenario = self.make(dag_id)
        scenario.start(**conf)
        return scenario


POLLS = {"AIRFLOW__ECS_RECONCILER__EVENTS_QUEUE_URL": ""}
"""The daemon of one of the stacks gets no events, that of the other does."""

VERSIONS = [pytest.param(version, marks=pytest.mark.xdist_group(f"airflow-{version}")) for version in ("3.3", "3.2")]
"""A stack of each version, and one worker for all that share it: a second stack would cost half a minute."""
on_newest = pytest.mark.parametrize("stack", VERSIONS[:1], indirect=True)
"""For what is tested on one version. A bare "3.3" would have no worker of its own, and every worker a stack for it."""


@pytest.fixture(scope="session", params=VERSIONS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Everything up, and the DAGs parsed."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        try:
            (tmp_path_factory.getbasetemp().parent / f"stack-{request.param}").mkdir()  # where all workers' folders lie
        except FileExistsError:
            # Six Airflows at once, and each test's fixtures three times, would only look like a slow machine.
            pytest.fail(
                f"another worker has Airflow {request.param} up already: is --dist loadgroup missing, or broken?"
            )
    directory = tmp_path_factory.mktemp(f"airflow-{request.param}")
    clock, python = SystemClock(), interpreter(request.param)
    settings = SETTINGS | (POLLS if request.param == "3.2" else {})

    def say(what: str) -> None:
        sys.stdout.write(f"{clock.monotonic():.1f} waiting for {what}\n")

    with Stack(directory, dags=HERE / "dags", clock=clock, python=python, settings=settings, say=say) as stack:
        for dag_id in DAGS:
            stack.has_parsed(dag_id)
        yield stack


@pytest.fixture(scope="session")
def scenarios(stack: Stack) -> Scenarios:
    return Scenarios(stack)


@pytest.fixture(scope="session")
def plain(scenarios: Scenarios) -> dict[str, Scenario]:
    """Runs that need nobody's help, all at once, and ended: one after the other they would take minutes."""
    expected = {"succeeds": "success", "fails": "failed", "retries": "success", "defers": "success"}
    plain = {dag_id: scenarios.start(dag_id) for dag_id in expected}
    for dag_id, state in expected.items():
        plain[dag_id].wait_for(state)
    return plain


@pytest.fixture(scope="session")
def images(stack: Stack) -> None:
    """Task definitions with images that can not be pulled, or are pulled for ever."""
    with closing(stack.ecs()) as client:
        for family, image in IMAGES.items():
            (container,) = DEMO_DEFINITION["containerDefinitions"]
            definition: Any = {**DEMO_DEFINITION, "containerDefinitions": [{**container, "image": image}]}
            client.register_task_definition(**{**definition, "family": family})
    for dag_id in ("unpullable", "endless_in_time", "everything", "ranked", "late"):
        stack.has_parsed(dag_id)


@pytest.fixture(scope="session")
def unpullable(images: None, scenarios: Scenarios) -> Scenario:
    """A task whose image can not be pulled, at its end."""
    scenario = scenarios.start("unpullable")
    scenario.wait_for("failed")
    scenario.wait_until_settled()
    return scenario

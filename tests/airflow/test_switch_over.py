"""From Airflow's official ECS executor to ours and back, with one configuration and tasks that run meanwhile.

The real official executor in a real scheduler, a local ECS that notes every RunTask request, and our daemon.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import pytest

from reconciler.clock import SystemClock
from reconciler.core.phase import Phase
from reconciler.demo.stack import CLUSTER, Stack
from reconciler.demo.world import rows
from reconciler.localecs import LocalEcs, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(1200)]

PEER = "airflow.providers.amazon.aws.executors.ecs.AwsEcsExecutor"
OURS = "reconciler.airflow.executor.EcsReconcilerExecutor"
SECONDS = 180.0
PARTS = ("api-server", "scheduler", "dag-processor")
SETTINGS = {
    # What somebody has who uses the official executor.
    "AIRFLOW__CORE__EXECUTOR": PEER,
    "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": CLUSTER,
    "AIRFLOW__AWS_ECS_EXECUTOR__SECURITY_GROUPS": "sg-1,sg-2",
    "AIRFLOW__AWS_ECS_EXECUTOR__ASSIGN_PUBLIC_IP": "True",
    "AIRFLOW__AWS_ECS_EXECUTOR__RUN_TASK_KWARGS": json.dumps(
        {"propagate_tags": "TASK_DEFINITION", "tags": [{"key": "stage", "value": "test"}]}
    ),
    # To find out soon that a scheduler was killed.
    "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
}
ADDED = {"AIRFLOW_IS_EXECUTOR_CONTAINER", "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "ECS_RECONCILER_EXEC_ID"}


class NotingEcs(LocalEcs):
    """A local ECS that notes what RunTask was asked for."""

    def __init__(self, **settings: Any) -> None:
        self.requests: list[dict[str, Any]] = []
        super().__init__(**settings)

    def call(self, operation: str, request: Any) -> dict[str, Any]:
        if operation == "RunTask":
            self.requests.append(request)
        return super().call(operation, request)


@dataclass
class Drain:
    """A drain that counts down."""

    process: subprocess.Popen[bytes]
    output: Path

    def said(self, words: str) -> bool:
        return words in self.output.read_text()


class Site:
    """Airflow with its official ECS executor, and our daemon installed but not running."""

    def __init__(self, stack: Stack, ecs: NotingEcs) -> None:
        self.stack, self.ecs = stack, ecs

    def run(self, dag_id: str, run_id: str) -> None:
        conf = {"evidence": str(self.evidence_of(run_id)), "release": str(self.release_of(run_id))}
        self.stack.api.trigger(dag_id, run_id, conf)

    def evidence_of(self, run_id: str) -> Path:
        return self.stack.directory / f"{run_id}.evidence"

    def release_of(self, run_id: str) -> Path:
        return self.stack.directory / f"{run_id}.release"

    def evidence(self, run_id: str) -> list[str]:
        path = self.evidence_of(run_id)
        return path.read_text().split() if path.exists() else []

    def until_success(self, dag_id: str, run_id: str) -> None:
        def succeeded() -> bool:
            state = self.stack.api.run_state(dag_id, run_id)
            assert state != "failed"
            return state == "success"

        self.stack.wait(f"{run_id} to succeed", succeeded, SECONDS)

    def requests_of(self, run_id: str) -> list[dict[str, Any]]:
        """The RunTask requests for this run, as they were sent."""
        return [request for request in self.ecs.requests if f'"{run_id}"' in _command(request)]

    @contextmanager
    def draining(self) -> Iterator[Drain]:
        """`ecs-reconciler drain --wait`, under way."""
        environment = self.stack.processes["daemon"]._environment
        output = self.stack.directory / "drain.log"
        with output.open("wb") as log:
            command = [sys.executable, "-m", "reconciler", "drain", "--wait"]
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield Drain(process, output)
        finally:
            process.kill()
            process.wait()

    def switch(self, executor: str) -> None:
        """Change the executor's line, and restart the scheduler. It dies as in the worst case."""
        scheduler = self.stack.processes["scheduler"]
        scheduler.kill()
        scheduler._environment["AIRFLOW__CORE__EXECUTOR"] = executor
        scheduler.start()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if importlib.util.find_spec("airflow.providers.amazon") is None:
        pytest.skip("the Amazon provider is not installed: pip install apache-airflow-providers-amazon")
    directory, clock = tmp_path_factory.mktemp("switch"), SystemClock()

    def say(what: str) -> None:
        sys.stdout.write(f"{clock.monotonic():.1f} waiting for {what}\n")

    dags = Path(__file__).parent / "switch_dags"
    stack = Stack(directory, dags=dags, clock=clock, settings=SETTINGS, say=say)
    image = stack.processes["local-ecs"]._environment
    with ExitStack() as undo:
        undo.callback(stack.close)
        with patch.dict(os.environ, image, clear=True):
            ecs = NotingEcs(
                settings=Settings.unthrottled(),
                directory=directory / "containers",
                port=stack.ecs_port,
                cluster=CLUSTER,
            )
        undo.enter_context(ecs)
        with closing(stack.ecs()) as client:
            # The image that somebody has knows where Airflow's API is.
            address = stack.processes["scheduler"]._environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
            client.register_task_definition(
                family="airflow-task",
                networkMode="awsvpc",
                requiresCompatibilities=["FARGATE"],
                cpu="256",
                memory="512",
                containerDefinitions=[
                    {
                        "name": "airflow",
                        "image": "my/airflow",
                        "environment": [{"name": "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "value": address}],
                    }
                ],
            )
        # The official executor's scheduler has to reach AWS; ours does not.
        stack.processes["scheduler"]._environment.update(stack._aws_environment())
        stack.migrate()
        for name in PARTS:
            stack.processes[name].start()
        for dag_id in ("plain", "big", "held"):
            stack.has_parsed(dag_id)
        yield Site(stack, ecs)


def _command(request: dict[str, Any]) -> str:
    return " ".join(request["overrides"]["containerOverrides"][0]["command"])


def parameters(request: dict[str, Any]) -> dict[str, Any]:
    """A RunTask request without identity, and without the command and the variables that each executor adds."""
    (container,) = request["overrides"]["containerOverrides"]
    variables = [v for v in container["environment"] if v["name"] not in ADDED]
    container = {**container, "environment": variables, "command": container["command"][:4]}
    rest = {name: value for name, value in request.items() if name not in ("clientToken", "startedBy")}
    # What is run is said for the bill, by option.
    rest["tags"] = [tag for tag in request.get("tags", []) if not tag["key"].startswith("airflow:")]
    return {**rest, "overrides": {**request["overrides"], "containerOverrides": [container]}}


def test_there_and_back_with_one_configuration_and_tasks_that_run_meanwhile(site: Site) -> None:
    stack = site.stack

    # The official executor does its work.
    for dag_id in ("plain", "big", "held"):
        site.run(dag_id, f"{dag_id}-peer")
    site.until_success("plain", "plain-peer")
    site.until_success("big", "big-peer")
    stack.wait("the held task's code to run", lambda: site.evidence("held-peer") == ["ran"], SECONDS)

    # The executor's line is changed and the daemon added, while one of its tasks runs.
    stack.processes["daemon"].start()
    site.switch(OURS)
    stack.wait("the daemon", stack.daemon_ready, SECONDS)

    def adopted() -> bool:
        return [w.phase for w in rows(stack, "held", "held-peer")] == [Phase.RUNNING]

    stack.wait("the running task to be adopted", adopted, SECONDS)
    for dag_id in ("plain", "big"):
        site.run(dag_id, f"{dag_id}-ours")
        site.until_success(dag_id, f"{dag_id}-ours")
        (before,), (after,) = site.requests_of(f"{dag_id}-peer"), site.requests_of(f"{dag_id}-ours")
        assert parameters(after) == parameters(before)
        assert after["startedBy"].startswith("demo/")
    site.release_of("held-peer").touch()
    site.until_success("held", "held-peer")

    def settled() -> bool:
        found = [w for dag_id in ("plain", "big", "held") for w in rows(stack, dag_id, _last(dag_id))]
        return len(found) == 3 and all(w.phase is Phase.EXITED and w.acked_version >= w.version for w in found)

    stack.wait("all of it to end and to be told", settled, SECONDS)
    (held,) = rows(stack, "held", "held-peer")
    assert (held.exit_code, held.attempt) == (0, 1)
    assert site.evidence("held-peer") == ["ran", "ended"]
    assert len(site.requests_of("held-peer")) == 1

    # And back: a drain lets what runs end, and what comes meanwhile waits in Airflow for the official executor.
    site.run("held", "held-ours")
    stack.wait("the held task's code to run", lambda: site.evidence("held-ours") == ["ran"], SECONDS)
    with site.draining() as drain:
        stack.wait("the countdown", lambda: drain.said("1 ECS tasks are left"), SECONDS)
        site.run("plain", "plain-back")
        stack.wait("its task", lambda: stack.api.instances("plain", "plain-back")[0]["state"] == "scheduled", SECONDS)
        assert drain.process.poll() is None
        site.release_of("held-ours").touch()
        stack.wait("the end of the drain", lambda: drain.process.poll() is not None, SECONDS)
    assert drain.process.returncode == 0
    assert drain.said("0 ECS tasks are left")
    assert site.evidence("held-ours") == ["ran", "ended"]
    assert site.requests_of("plain-back") == []
    stack.processes["daemon"].stop(stack._clock)
    site.switch(PEER)
    site.until_success("plain", "plain-back")
    (back,) = site.requests_of("plain-back")
    assert parameters(back) == parameters(site.requests_of("plain-peer")[0])
    assert not back.get("startedBy", "").startswith("demo/")
    assert len(site.ecs.requests) == 7


def _last(dag_id: str) -> str:
    return "held-peer" if dag_id == "held" else f"{dag_id}-ours"

"""What the chart renders starts a real daemon: its command, its environment, its airflow.cfg, its probes' paths."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from reconciler.awssetup import task_definition
from reconciler.clock import SystemClock
from reconciler.ending import END_SECONDS
from reconciler.localecs import LocalEcs
from tests.chart.conftest import CHART

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chart.conftest import Helm, Objects

SECRETS = {"airflow-jwt-secret": "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00"}
AIRFLOW_CFG = """
[core]
executor = reconciler.airflow.executor.EcsReconcilerExecutor
execution_api_server_url = http://airflow-api-server:8080/execution/
[ecs_reconciler]
deployment = prod
[aws_ecs_executor]
region_name = us-east-1
cluster = default
container_name = airflow
task_definition = airflow
subnets = subnet-1
"""
"""As Airflow's chart writes it, of `config` in its values."""


def environment(rendered: Objects, container: dict[str, Any], home: Path, secrets: dict[str, str]) -> dict[str, str]:
    """What Kubernetes would give the container, with its mounts moved to `home`, and nothing of ours but PATH."""
    moved = {mount["mountPath"]: str(home / mount["name"]) for mount in container["volumeMounts"]}
    given = {"PATH": os.environ["PATH"], "HOME": str(home)}
    if "envFrom" in container:
        given |= rendered.options
    for entry in container["env"]:
        value = entry.get("value")
        if value is None:
            value = secrets[entry["valueFrom"]["secretKeyRef"]["name"]]
        for path, place in moved.items():
            value = place + value[len(path) :] if value == path or value.startswith(f"{path}/") else value
        given[entry["name"]] = value
    return given


@dataclass
class Pod:
    """The daemon's container as a process."""

    process: subprocess.Popen[bytes]
    log: Path
    probes: dict[str, str]
    """Path of each probe, by its name in the pod."""

    def get(self, path: str) -> str:
        """What its port answers, nothing before it listens."""
        address = self.log.read_text().partition('"address": "')[2].partition('"')[0]
        try:
            with urllib.request.urlopen(address + path, timeout=5) as answer:
                body: bytes = answer.read()
                return body.decode()
        except (OSError, ValueError):
            return ""

    def until_ready(self, how: str) -> None:
        """Wait until its readiness probe says `how`."""
        clock = SystemClock()
        deadline = clock.monotonic() + 240
        while how not in self.get(self.probes["readinessProbe"]):
            assert self.process.poll() is None, self.log.read_text()
            assert clock.monotonic() < deadline, self.log.read_text()
            clock.wait(0.1)


@contextmanager
def started(rendered: Objects, given: dict[str, str], log: Path) -> Iterator[Pod]:
    """The daemon as it is rendered, ended at the end."""
    daemon = rendered.daemon
    probes = {name: daemon[name]["httpGet"]["path"] for name in ("livenessProbe", "readinessProbe")}
    command = [sys.executable, *daemon["command"][1:], *daemon["args"]]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=given, stdout=output, stderr=output, cwd=log.parent)
    pod = Pod(process, log, probes)
    try:
        yield pod
    finally:
        process.terminate()
        process.wait(timeout=rendered.pod["spec"]["terminationGracePeriodSeconds"])
    assert process.returncode == 0, log.read_text()


@pytest.mark.parametrize("own_role", [False, True], ids=["airflows-database-url", "a-url-of-its-own"])
def test_what_is_rendered_runs_and_is_replaced(helm: Helm, tmp_path: Path, own_role: bool) -> None:
    """The job, then a daemon, then a rolling update as the deployment's strategy has it: the new one first."""
    url = f"sqlite:///{tmp_path}/airflow.db"
    values: dict[str, Any] = {"config": {"ecs_reconciler": {"lease_seconds": 6}, "aws_ecs_executor": {}}}
    values |= {"database": {"existingSecret": "own"}} if own_role else {}
    rendered = helm.render(values)
    secrets = SECRETS | {"airflow-metadata": url, "own": url}
    for folder in ("home", "tmp", "airflow-config"):
        (tmp_path / folder).mkdir()
    (tmp_path / "airflow-config/airflow.cfg").write_text(AIRFLOW_CFG)

    (job,) = rendered.one("Job")["spec"]["template"]["spec"]["containers"]
    python = [sys.executable, "-m", "reconciler"]
    assert job["command"] == rendered.daemon["command"] == ["python", *python[1:]]
    migrated = environment(rendered, job, tmp_path, secrets)
    subprocess.run([*python, *job["args"]], env=migrated, check=True, capture_output=True, timeout=120, cwd=tmp_path)

    with LocalEcs() as ecs:
        register(ecs)
        given = environment(rendered, rendered.daemon, tmp_path, secrets)
        port = rendered.daemon["ports"][0]["containerPort"]
        assert given["AIRFLOW__ECS_RECONCILER__HTTP_PORT"] == str(port)
        # Two pods must not want one port here, nor the whole network; and this ECS is not AWS.
        given |= {"AIRFLOW__ECS_RECONCILER__HTTP_PORT": "0", "AIRFLOW__ECS_RECONCILER__HTTP_HOST": "127.0.0.1"}
        given |= {"AWS_ENDPOINT_URL_ECS": ecs.endpoint_url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        with started(rendered, given, tmp_path / "old.log") as old:
            old.until_ready("leading")
            assert "ok" in old.get(old.probes["livenessProbe"])
            assert "ecs_reconciler_leader" in old.get("/metrics")
            before = lease(tmp_path / "airflow.db")
            with started(rendered, given, tmp_path / "new.log") as new:
                # Ready as a standby: only so does the update get on. Nobody but the old one leads.
                new.until_ready("standing by")
                assert lease(tmp_path / "airflow.db")["holder"] == before["holder"]
                old.process.terminate()
                assert old.process.wait(timeout=rendered.pod["spec"]["terminationGracePeriodSeconds"]) == 0
                # Given back and not left to run out, so that a standby takes it with its next look.
                given_back = lease(tmp_path / "airflow.db")
                assert given_back["holder"] != before["holder"] or _expired(given_back)
                new.until_ready("leading")
                after = lease(tmp_path / "airflow.db")
                assert (after["holder"] != before["holder"], after["epoch"]) == (True, before["epoch"] + 1)


def lease(database: Path) -> dict[str, Any]:
    """The one lease there is: nobody can lead beside its holder."""
    with closing(sqlite3.connect(database, timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        (row,) = connection.execute("SELECT * FROM ecs_lease").fetchall()
        return dict(row)


def _expired(row: dict[str, Any]) -> bool:
    return datetime.fromisoformat(row["expires_at"]).replace(tzinfo=UTC) <= datetime.now(UTC)


def test_an_update_replaces_daemons_one_by_one_and_waits_for_each(helm: Helm) -> None:
    rendered = helm.render()
    spec = rendered.one("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    # Longer than the daemon needs to end, whatever does not answer; and no value of the chart can make it shorter.
    assert rendered.pod["spec"]["terminationGracePeriodSeconds"] > END_SECONDS
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["terminationGracePeriodSeconds"]
    assert schema["minimum"] > END_SECONDS


def register(ecs: LocalEcs) -> None:
    """The task definition that `ecs-reconciler render` makes."""
    definition = task_definition(
        family="airflow",
        container_name="airflow",
        image="example/airflow:1",
        region="us-east-1",
        log_group="/ecs/airflow",
        execution_role_arn="arn:aws:iam::123456789012:role/airflow-execution",
        task_role_arn=None,
        cpu=1024,
        memory=2048,
        architecture="X86_64",
    )
    client = boto3.Session("a", "b").client("ecs", region_name="us-east-1", endpoint_url=ecs.endpoint_url)
    client.register_task_definition(**definition)
    client.close()

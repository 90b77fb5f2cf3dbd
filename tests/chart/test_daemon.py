"""What the chart renders starts a real daemon: its command, its environment, its airflow.cfg, its probes' paths."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from reconciler.awssetup import task_definition
from reconciler.clock import SystemClock
from reconciler.localecs import LocalEcs

if TYPE_CHECKING:
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


@pytest.mark.parametrize("own_role", [False, True], ids=["airflows-database-url", "a-url-of-its-own"])
def test_what_is_rendered_runs(helm: Helm, tmp_path: Path, own_role: bool) -> None:
    url = f"sqlite:///{tmp_path}/airflow.db"
    values: dict[str, Any] = {"config": {"ecs_reconciler": {"lease_seconds": 3}, "aws_ecs_executor": {}}}
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

    clock = SystemClock()
    daemon = rendered.daemon
    with LocalEcs() as ecs:
        register(ecs)
        given = environment(rendered, daemon, tmp_path, secrets)
        assert given["AIRFLOW__ECS_RECONCILER__HTTP_PORT"] == str(daemon["ports"][0]["containerPort"])
        # Two tests must not want one port, nor the whole network; and this ECS is not AWS.
        given |= {"AIRFLOW__ECS_RECONCILER__HTTP_PORT": "0", "AIRFLOW__ECS_RECONCILER__HTTP_HOST": "127.0.0.1"}
        given |= {"AWS_ENDPOINT_URL_ECS": ecs.endpoint_url, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        log = tmp_path / "daemon.log"
        with log.open("wb") as output:
            command = [*python, *daemon["args"]]
            process = subprocess.Popen(command, env=given, stdout=output, stderr=output, cwd=tmp_path)
        try:
            deadline = clock.monotonic() + 90
            address = ""
            while "leading" not in (_get(address + daemon["readinessProbe"]["httpGet"]["path"]) if address else ""):
                assert process.poll() is None, log.read_text()
                assert clock.monotonic() < deadline, log.read_text()
                clock.wait(0.1)
                address = log.read_text().partition('"address": "')[2].partition('"')[0]
            assert "ok" in _get(address + daemon["livenessProbe"]["httpGet"]["path"])
            assert "ecs_reconciler_leader" in _get(f"{address}/metrics")
        finally:
            process.terminate()
            process.wait(timeout=daemon_grace(rendered))
    assert process.returncode == 0, log.read_text()


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


def daemon_grace(rendered: Objects) -> float:
    return float(rendered.pod["spec"]["terminationGracePeriodSeconds"])


def _get(url: str) -> str:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body.decode()
    except OSError:
        return ""

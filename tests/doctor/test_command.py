"""`ecs-reconciler doctor` as somebody types it: a local ECS, a real database, a daemon."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from sqlalchemy import create_engine, text

import reconciler
from reconciler.config import ShimSettings
from reconciler.core.finding import Finding, Level
from reconciler.localecs import LocalEcs, Settings
from reconciler.store.components import Component, announce
from reconciler.store.engine import writing
from reconciler.store.migrate import migrate
from tests.site import Site

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.5) as ecs:
        made = Site(ecs, tmp_path)
        migrate(made.engine)
        yield made
        made.engine.dispose()


def doctor(site: Site, **changes: str) -> tuple[int, list[Finding]]:
    done = site.call("doctor", "--json", **changes)
    assert done.stdout.startswith("["), done.stderr
    return done.returncode, [Finding(**{**f, "level": Level(f["level"])}) for f in json.loads(done.stdout)]


def about(findings: list[Finding], where: str) -> list[str]:
    return [f"{f.level}: {f}" for f in findings if f.where.startswith(where)]


def announced(site: Site, kind: str, **changes: Any) -> None:
    options = {
        **asdict(ShimSettings(deployment="test", max_running_tasks=500, max_run_task_attempts=3, backlog=50)),
        **changes,
    }
    with writing(site.engine).begin() as conn:
        announce(conn, "test", Component(kind, f"{kind} 1", reconciler.__version__, {"options": options}))


def test_a_deployment_that_works(site: Site) -> None:
    announced(site, "shim")
    with site.daemon() as daemon:
        daemon.until_it_says("this replica leads")
        site.until(lambda: "test" in site.call("status").stdout, daemon.log)
        code, found = doctor(site)
        shown = site.call("doctor")
    errors = [str(f) for f in found if f.level is Level.ERROR]
    assert (code, errors) == (0, [])
    for where, words in (
        ("configuration", "complete"),
        ("tables", "at head"),
        ("[api_auth]", "signs tasks' tokens"),
        ("clock", "agrees with"),
        ("[aws_ecs_executor] cluster", "default is ACTIVE"),
        ("[aws_ecs_executor] task_definition", "has the container airflow"),
        ("ECS tasks", "the table knows them all"),
        ("daemon", "one leads"),
    ):
        assert any(words in line for line in about(found, where)), (where, found)
    assert shown.returncode == 0
    assert "0 errors" in shown.stdout


def test_everything_that_is_wrong_is_found_at_once(site: Site) -> None:
    client = boto3.client(
        "ecs",
        endpoint_url=site.ecs.endpoint_url,
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
    )
    with site.ecs.lock:
        # It must be alive when it is looked for.
        site.ecs.model.call(
            "RunTask",
            {
                "cluster": "default",
                "taskDefinition": "airflow-task",
                "launchType": "FARGATE",
                "startedBy": "test/nobody/1",
                "networkConfiguration": {"awsvpcConfiguration": {"subnets": ["subnet-1"]}},
                "overrides": {"containerOverrides": [{"name": "airflow", "command": ["sleep", "600"]}]},
            },
            site.ecs.now(),
        )
        site.ecs.wake()
    client.close()
    announced(site, "shim", max_running_tasks=100)
    announced(site, "daemon")
    queues = {"far": {"cluster": "nowhere", "max_running_tasks": 40}, "near": {"container_name": "sidecar"}}
    code, found = doctor(
        site,
        AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME="main",
        AIRFLOW__CORE__PARALLELISM="32",
        AIRFLOW__API_AUTH__JWT_SECRET="",
        AIRFLOW__ECS_RECONCILER__QUEUES=json.dumps(queues),
    )
    assert code == 1
    for where, words in (
        ("[api_auth]", "neither jwt_secret nor"),
        # What is wrong with one queue hides nothing of the next.
        ('queue "far", [aws_ecs_executor] cluster', "no active cluster 'nowhere'"),
        ('queue "near", [aws_ecs_executor] container_name', "no container 'sidecar'"),
        ("[aws_ecs_executor] container_name", "has no container 'main', only airflow"),
        ("[core] parallelism", "32"),
        ("ECS tasks", "1 live ones of 'test' that the table does not know"),
        ("max_running_tasks", "100 in shim 1, 500 in the daemon daemon 1"),
        ("daemon", "none leads"),
    ):
        assert any(words in line for line in about(found, where)), (where, found)


def test_options_that_are_missing_are_findings_too(site: Site) -> None:
    code, found = doctor(site, AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER="", AIRFLOW__ECS_RECONCILER__LAUNCH_RATE="fast")
    assert code == 1
    assert {f.where for f in found} == {"[aws_ecs_executor] cluster is not set", "[ecs_reconciler] launch_rate"}


def test_a_database_without_tables_and_an_ecs_that_is_away_do_not_hide_each_other(site: Site) -> None:
    code, found = doctor(
        site,
        AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN=f"sqlite:///{site.home}/empty.db",
        AWS_ENDPOINT_URL_ECS="http://127.0.0.1:1",
    )
    assert code == 1
    assert "run `airflow db migrate`" in str(about(found, "tables"))
    assert "Could not connect" in str(about(found, "AWS"))


@pytest.mark.postgres
def test_a_role_that_lacks_a_right_is_told_which(site: Site, postgres: Any, postgres_url: str) -> None:
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    migrate(engine)
    with engine.connect() as conn:
        for statement in (
            "CREATE ROLE doctors_patient LOGIN",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO doctors_patient",
            "REVOKE DELETE ON ecs_workload FROM doctors_patient",
        ):
            conn.execute(text(statement))
    try:
        own = engine.url.set(username="doctors_patient").render_as_string(hide_password=False)
        code, found = doctor(site, AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN=own)
        assert code == 1
        assert "it lacks DELETE on ecs_workload; GRANT" in str(about(found, "database role doctors_patient"))
    finally:
        with engine.connect() as conn:
            conn.execute(text("DROP OWNED BY doctors_patient"))
            conn.execute(text("DROP ROLE doctors_patient"))
        engine.dispose()

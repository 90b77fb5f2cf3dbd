"""The daemon as a process, and the command line, against the local ECS and a real database."""

from __future__ import annotations

import json
import re
import signal

import pytest
from sqlalchemy import text

from reconciler.core.phase import Phase
from reconciler.core.task import Spec
from reconciler.localecs import AwsError
from reconciler.store.engine import make_engine, writing
from tests.site import IPV6, SECRET, Site


def test_it_launches_observes_and_ends_in_order(site: Site) -> None:
    with site.daemon() as daemon:
        daemon.until_it_says("this replica leads")
        site.queue(*[f"w{n}" for n in range(5)])
        # The container's command is Airflow's, which has nowhere to report to here: it exits with 1.
        site.until(lambda: all(site.row(f"w{n}").phase is Phase.EXITED for n in range(5)), daemon.log)
        assert {site.row(f"w{n}").exit_code for n in range(5)} == {1}
        assert daemon.get("/livez") == (200, "ok\n")
        assert daemon.get("/readyz") == (200, "leading\n")
        assert daemon.get("/nothing")[0] == 404
        site.until(lambda: daemon.metric('ecs_reconciler_launches_total{result="accepted"}') == 5)
        assert daemon.metric('ecs_reconciler_leader{shard="us-east-1"}') == 1
        site.until(lambda: daemon.metric('ecs_reconciler_workloads{phase="EXITED"}') == 5)
        assert daemon.metric("ecs_reconciler_quota_limit") == 500
        assert daemon.metric('ecs_reconciler_aws_api_requests_total{operation="RunTask",result="ok"}') == 5

        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0
        shown = json.loads(site.call("status", "--json").stdout)
        assert [leader["valid"] for leader in shown["leaders"]] == [False]
        assert SECRET not in daemon.log.read_text()
        assert not re.search(r"eyJ[\w-]+\.[\w-]+\.", daemon.log.read_text())


@pytest.mark.parametrize("host", ["0.0.0.0", *IPV6])  # noqa: S104 - for as long as the test takes
def test_it_serves_where_it_is_told_and_logs_an_address_that_can_be_opened(site: Site, host: str) -> None:
    with site.daemon(AIRFLOW__ECS_RECONCILER__HTTP_HOST=host) as daemon:
        daemon.until_it_says("serving metrics")
        assert daemon.get("/livez")[0] == 200


def test_the_headroom_is_judged_by_the_capacity_that_the_cluster_gives(site: Site) -> None:
    """Nothing here names Fargate, and its smallest task does not fit."""
    with site.daemon(AIRFLOW__ECS_RECONCILER__MAX_RUNNING_VCPUS="0.2") as daemon:
        daemon.until_it_says("this replica leads")
        site.until(lambda: daemon.metric("ecs_reconciler_quota_deployment_limit") == 500, daemon.log)
        assert daemon.metric("ecs_reconciler_quota_limit") == 500
        assert daemon.metric("ecs_reconciler_quota_headroom") == 0


def test_a_second_replica_stands_by_and_takes_over_at_once_when_the_first_is_told_to_go(site: Site) -> None:
    with site.daemon("one.log") as one:
        one.until_it_says("this replica leads")
        with site.daemon("two.log") as two:
            two.until_it_says("serving metrics")
            site.until(lambda: two.get("/readyz") == (200, "standing by\n"))
            assert two.metric('ecs_reconciler_leader{shard="us-east-1"}') == 0
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(60) == 0
            two.until_it_says("this replica leads")
            site.queue("a")
            site.until(lambda: site.row("a").terminal, two.log)


def test_credentials_that_are_refused_are_seen_in_readiness_and_heal_by_themselves(site: Site) -> None:
    with site.daemon() as daemon:
        daemon.until_it_says("this replica leads")
        with site.ecs.lock:
            expired = site.ecs.model.faults.on_call(
                "RunTask", AwsError("ExpiredTokenException", "The security token is expired"), times=None
            )
        site.queue("a")
        site.until(lambda: daemon.get("/readyz")[0] == 503, daemon.log)
        assert "ExpiredTokenException" in daemon.get("/readyz")[1]
        site.until(lambda: daemon.metric('ecs_reconciler_launches_held{cause="ecs",shard="us-east-1"}') == 1)
        assert site.row("a").phase in (Phase.PENDING, Phase.LAUNCHING)
        site.until(lambda: "ExpiredTokenException" in site.call("status").stdout, daemon.log)
        daemon.until_it_says("launches are held")
        assert "ExpiredTokenException" in next(e["reason"] for e in daemon.events if e["event"] == "launches are held")
        with site.ecs.lock:
            site.ecs.model.faults.remove(expired)
        site.until(lambda: site.row("a").terminal, daemon.log)
        assert daemon.get("/readyz") == (200, "leading\n")
        daemon.until_it_says("launches are held no longer")


def test_a_daemon_that_starts_before_its_credentials_says_so_and_goes_on_when_they_come(site: Site) -> None:
    keys = site.home / "credentials"
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    with site.daemon(**nobody, AWS_SHARED_CREDENTIALS_FILE=str(keys)) as daemon:
        daemon.until_it_says("can not start yet")
        status, reason = daemon.get("/readyz")
        assert status == 503
        assert "Unable to locate credentials" in reason
        assert daemon.metric('ecs_reconciler_aws_api_requests_total{operation="DescribeClusters",result="credentials"}')
        assert "Unable to locate credentials" in site.call("status").stdout
        keys.write_text("[default]\naws_access_key_id = late\naws_secret_access_key = late\n")
        daemon.until_it_says("this replica leads")
        site.until(lambda: "trouble" not in site.call("status").stdout, daemon.log)


@pytest.mark.parametrize(
    "missing",
    [
        {"AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN": "postgresql://nobody@127.0.0.1:1/nothing"},
        {"AWS_ENDPOINT_URL_ECS": "http://127.0.0.1:1"},
    ],
    ids=["database", "ecs"],
)
def test_one_that_is_told_to_end_while_it_waits_for_its_start_has_not_failed(
    site: Site, missing: dict[str, str]
) -> None:
    with site.daemon(**missing) as daemon:
        daemon.until_it_says("can not start yet")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(60) == 0, daemon.log.read_text()


def test_everything_that_is_wrong_with_the_options_is_said_at_once(site: Site) -> None:
    done = site.call(
        "run",
        AIRFLOW__ECS_RECONCILER__DEPLOYMENT="two words",
        AIRFLOW__ECS_RECONCILER__LAUNCH_RATE="fast",
        AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER="",
    )
    assert done.returncode == 2
    for option in ("deployment", "launch_rate", "cluster"):
        assert option in done.stderr


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": "nowhere"}, "no active cluster 'nowhere' in us-east-1"),
        ({"AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": "none"}, "no task definition 'none' in us-east-1"),
        ({"AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": "main"}, "has no container 'main', only airflow"),
        ({"AIRFLOW__API_AUTH__JWT_SECRET": ""}, "jwt_secret"),
        ({"AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN": "mysql://u@h/d"}, "not mysql"),
        ({"AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN": "sqlite:////{home}/empty.db"}, "ecs-reconciler migrate"),
        ({"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "airflow"}, "Airflow can not read its own configuration"),
        (
            {"AIRFLOW__ECS_RECONCILER__HTTP_HOST": "192.0.2.1"},
            "choose another [ecs_reconciler] http_port, or http_host",
        ),
        ({"AIRFLOW__ECS_RECONCILER__HTTP_HOST": "2001:db8::1"}, "can not listen on [2001:db8::1]:0: "),
        ({"AIRFLOW__ECS_RECONCILER__HTTP_HOST": "a..b"}, "can not listen on a..b:0: "),
    ],
)
def test_what_can_not_work_is_said_in_a_sentence(site: Site, change: dict[str, str], words: str) -> None:
    done = site.call("run", **{name: value.replace("{home}", str(site.home)) for name, value in change.items()})
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["status", "describe etl load", "pause", "resume"])
def test_a_command_without_tables_says_how_to_make_them(site: Site, command: str) -> None:
    empty = f"sqlite:///{site.home}/empty.db"
    done = site.call(*command.split(), AIRFLOW__ECS_RECONCILER__SQL_ALCHEMY_CONN=empty)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "run `airflow db migrate`" in line


def test_migrate_makes_the_tables_and_may_be_repeated(site: Site) -> None:
    url = f"sqlite:///{site.home}/new.db"
    for _ in range(2):
        done = site.call("migrate", AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=url)
        assert done.returncode == 0, done.stderr
    engine = make_engine(url)
    with engine.connect() as conn:
        assert conn.execute(text("SELECT count(*) FROM ecs_workload")).scalar() == 0
    engine.dispose()


def test_describe_tells_the_whole_story_of_one_task(site: Site) -> None:
    site.queue("a", spec=Spec('{"ti": {}}', {"overrides": {"cpu": "512"}}))
    with site.daemon() as daemon:
        site.until(lambda: site.row("a").terminal, daemon.log)
    shown = site.call("describe", "etl", "load").stdout
    for words in ("EXITED", "EssentialContainerExited", "exit code", "512", "scheduler job 1", "attempt"):
        assert words in shown
    (story,) = json.loads(site.call("describe", "etl", "load", "--run", "run", "--try", "1", "--json").stdout)
    assert story["workload"]["exec_id"] == "a"
    assert [attempt["attempt"] for attempt in story["attempts"]] == [1]
    nothing = site.call("describe", "etl", "load", "--try", "7")
    assert nothing.returncode == 1
    assert "No workload of etl.load is in the table of 'test'" in nothing.stdout


def test_status_says_that_nobody_leads(site: Site) -> None:
    site.queue("a", "b")
    shown = site.call("status").stdout
    assert "none: nothing is launched or observed" in shown
    assert re.search(r"PENDING\s+2", shown)
    found = json.loads(site.call("status", "--json").stdout)
    assert found["phases"]["PENDING"] == 2
    assert found["quota"] == {"limit": 500, "used": 0, "headroom": 500}


def test_launches_are_paused_drained_and_resumed_from_the_command_line(site: Site) -> None:
    said = site.call("pause", "--queue", "gpu")
    assert said.returncode == 0
    assert 'The queue "gpu" has no profile of its own; these have one: default.' in said.stdout
    assert 'launched any more until `ecs-reconciler resume --queue "gpu"`. What runs goes on.' in said.stdout
    site.queue("a", queue="gpu")
    with site.daemon() as daemon:
        daemon.until_it_says("this replica leads")
        site.queue("b")
        site.until(lambda: site.row("b").terminal, daemon.log)
        assert site.row("a").phase is Phase.PENDING
        site.until(lambda: daemon.metric('ecs_reconciler_queue_held{mode="paused",queue="gpu"}') == 1)
        assert daemon.get("/readyz") == (200, "leading\n")
        shown = site.call("status").stdout
        assert re.search(r"held +queue gpu: paused by \S+@\S+ since \d", shown)
        assert re.search(r"gpu +default +1 +0 +paused", shown)

        drained = site.call("drain", "--wait", "--queue", "gpu")
        assert drained.stdout.splitlines()[2:] == ["0 ECS tasks are left, 1 task instances wait."]
        found = json.loads(site.call("status", "--json").stdout)
        assert [hold["mode"] for hold in found["holds"]] == ["draining"]

        assert site.call("resume", "--queue", "gpu").stdout == 'Launches of the queue "gpu" go on.\n'
        site.until(lambda: site.row("a").terminal, daemon.log)
    assert site.call("resume").stdout == "There was no hold of all queues.\n"


def test_queues_run_in_several_regions_and_one_that_is_not_configured_any_more_is_tended(site: Site) -> None:
    queues = {"far": {"region_name": "eu-west-1", "max_running_tasks": 3}}
    with site.daemon("one.log", AIRFLOW__ECS_RECONCILER__QUEUES=json.dumps(queues)) as daemon:
        site.queue("here")
        site.queue("there", queue="far")
        site.until(lambda: site.row("here").terminal and site.row("there").terminal, daemon.log)
        assert (site.row("here").shard, site.row("there").shard) == ("us-east-1", "eu-west-1")
        site.until(lambda: daemon.get("/readyz") == (200, "leading 2 of 2 shards\n"), daemon.log)
        for shard in ("us-east-1", "eu-west-1"):
            assert daemon.metric(f'ecs_reconciler_launches_total{{shard="{shard}",result="accepted"}}') == 1
            exited = f'ecs_reconciler_workloads{{shard="{shard}",phase="EXITED"}}'
            site.until(lambda exited=exited: daemon.metric(exited) == 1, daemon.log)  # type: ignore[misc] # mypy can not infer it
        assert daemon.metric("ecs_reconciler_quota_deployment_limit") == 500
        page = json.loads(daemon.get("/api/v1/status")[1])
        assert {"us-east-1/launch", "eu-west-1/launch"} <= page["launches"]["buckets"].keys()
        assert page["this_replica"]["leads"] == ["eu-west-1", "us-east-1"]
        assert {shown["shard"] for shown in page["controllers"]} <= {"eu-west-1", "us-east-1"}
        shown = json.loads(site.call("status", "--json", AIRFLOW__ECS_RECONCILER__QUEUES=json.dumps(queues)).stdout)
        assert sorted(leader["name"] for leader in shown["leaders"]) == ["test/eu-west-1", "test/us-east-1"]

    # As if its container still ran when the queue was taken out of the configuration.
    with writing(site.engine).begin() as conn:
        conn.execute(text("UPDATE ecs_workload SET phase = 'RUNNING', ecs_version = 0 WHERE exec_id = 'there'"))
    assert "no queue names it any more" in site.call("status").stdout
    with site.daemon("two.log") as daemon:
        daemon.until_it_says("tended until they end")
        site.until(lambda: site.row("there").terminal, daemon.log)


def test_a_port_that_is_taken_is_said_in_a_sentence(site: Site) -> None:
    port = site.ecs.endpoint_url.rsplit(":", 1)[-1]
    done = site.call("local-ecs", "--port", port, "--directory", str(site.home / "other"))
    assert done.returncode == 2
    assert "choose another --port" in done.stderr

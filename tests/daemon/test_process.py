"""The daemon as a process, and the command line, against the local ECS and a real database."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text

from reconciler.clock import SystemClock
from reconciler.core.phase import Phase
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.localecs import AwsError, LocalEcs, Settings
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, writing
from reconciler.store.migrate import migrate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

SECRET = "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00"


class Site:
    """A database, a local ECS and an environment in which commands run."""

    def __init__(self, ecs: LocalEcs, home: Path) -> None:
        self.ecs, self.home = ecs, home
        self.url = f"sqlite:///{home}/airflow.db"
        self.engine: Engine = make_engine(self.url)
        self.store = SqlStore(self.engine, "test")
        self.clock = SystemClock()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": "http://127.0.0.1:1/execution/",
            "AIRFLOW__API_AUTH__JWT_SECRET": SECRET,
            "AIRFLOW__ECS_RECONCILER__DEPLOYMENT": "test",
            "AIRFLOW__ECS_RECONCILER__HTTP_PORT": "0",
            "AIRFLOW__ECS_RECONCILER__LOG_FORMAT": "json",
            "AIRFLOW__ECS_RECONCILER__SWEEP_INTERVAL": "0.2",
            "AIRFLOW__AWS_ECS_EXECUTOR__CLUSTER": "default",
            "AIRFLOW__AWS_ECS_EXECUTOR__CONTAINER_NAME": "airflow",
            "AIRFLOW__AWS_ECS_EXECUTOR__REGION_NAME": "us-east-1",
            "AIRFLOW__AWS_ECS_EXECUTOR__TASK_DEFINITION": "airflow-task",
            "AIRFLOW__AWS_ECS_EXECUTOR__SUBNETS": "subnet-1",
            "AWS_ENDPOINT_URL_ECS": ecs.endpoint_url,
            "AWS_ACCESS_KEY_ID": "anything",
            "AWS_SECRET_ACCESS_KEY": "goes",
            "COLUMNS": "200",
        }

    def call(self, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "reconciler", *arguments]
        environment = {**self.environment, **changes}
        return subprocess.run(
            command, env=environment, cwd=self.home, capture_output=True, text=True, check=False, timeout=120
        )

    @contextmanager
    def daemon(self, log: str = "daemon.log", **changes: str) -> Iterator[Daemon]:
        with (self.home / log).open("wb") as output:
            environment = {**self.environment, **changes}
            command = [sys.executable, "-m", "reconciler", "run"]
            process = subprocess.Popen(command, env=environment, cwd=self.home, stdout=output, stderr=output)
        daemon = Daemon(self, process, self.home / log)
        try:
            yield daemon
        finally:
            process.kill()
            process.wait()

    def queue(self, *exec_ids: str, **changes: Any) -> None:
        rows = [
            replace(
                Workload(
                    exec_id=exec_id,
                    deployment="test",
                    ti_id=f"ti-{exec_id}",
                    key=TaskKey("etl", "load", "run", -1, 1),
                    owner_job_id=1,
                    spec=Spec('{"ti": {}}'),
                ),
                **changes,
            )
            for exec_id in exec_ids
        ]
        with writing(self.engine).begin() as conn:
            shim.insert(conn, rows)

    def row(self, exec_id: str) -> Workload:
        (found,) = self.store.find([exec_id]).workloads
        return found

    def until(self, condition: Callable[[], bool], log: Path | None = None) -> None:
        deadline = self.clock.monotonic() + 60
        while not condition():
            assert self.clock.monotonic() < deadline, log.read_text() if log else "not in time"
            self.clock.wait(0.05)


class Daemon:
    """A daemon that runs."""

    def __init__(self, site: Site, process: subprocess.Popen[bytes], log: Path) -> None:
        self._site, self.process, self.log = site, process, log

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def until_it_says(self, words: str) -> None:
        self._site.until(lambda: words in self.log.read_text() or self.process.poll() is not None, self.log)
        assert words in self.log.read_text(), self.log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        address = next(event["address"] for event in self.events if "address" in event)
        try:
            with urllib.request.urlopen(f"{address}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def metric(self, sample: str) -> float:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(found.group(1)) if found else float("nan")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with LocalEcs(settings=Settings.unthrottled(), directory=tmp_path, stop_grace=0.5) as ecs:
        made = Site(ecs, tmp_path)
        migrate(made.engine)
        yield made
        made.engine.dispose()


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
        assert daemon.metric("ecs_reconciler_leader") == 1
        site.until(lambda: daemon.metric('ecs_reconciler_workloads{phase="EXITED"}') == 5)
        assert daemon.metric("ecs_reconciler_quota_limit") == 500
        assert daemon.metric('ecs_reconciler_aws_api_requests_total{operation="RunTask",result="ok"}') == 5

        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(timeout=10) == 0
        shown = json.loads(site.call("status", "--json").stdout)
        assert [leader["valid"] for leader in shown["leaders"]] == [False]
        assert SECRET not in daemon.log.read_text()
        assert not re.search(r"eyJ[\w-]+\.[\w-]+\.", daemon.log.read_text())


def test_a_second_replica_stands_by_and_takes_over_at_once_when_the_first_is_told_to_go(site: Site) -> None:
    with site.daemon("one.log") as one:
        one.until_it_says("this replica leads")
        with site.daemon("two.log") as two:
            two.until_it_says("serving metrics")
            site.until(lambda: two.get("/readyz") == (200, "standing by\n"))
            assert two.metric("ecs_reconciler_leader") == 0
            one.process.send_signal(signal.SIGTERM)
            assert one.process.wait(timeout=10) == 0
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
        site.until(lambda: daemon.metric('ecs_reconciler_launches_held{cause="ecs"}') == 1)
        assert site.row("a").phase in (Phase.PENDING, Phase.LAUNCHING)
        assert "ExpiredTokenException" in site.call("status").stdout
        with site.ecs.lock:
            site.ecs.model.faults.remove(expired)
        site.until(lambda: site.row("a").terminal, daemon.log)
        assert daemon.get("/readyz") == (200, "leading\n")


def test_a_daemon_that_starts_before_its_credentials_says_so_and_goes_on_when_they_come(site: Site) -> None:
    keys = site.home / "credentials"
    nobody = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
    with site.daemon(**nobody, AWS_SHARED_CREDENTIALS_FILE=str(keys)) as daemon:
        daemon.until_it_says("can not start yet")
        status, reason = daemon.get("/readyz")
        assert status == 503
        assert "Unable to locate credentials" in reason
        assert daemon.metric('ecs_reconciler_aws_api_requests_total{operation="DescribeClusters",result="credentials"}')
        keys.write_text("[default]\naws_access_key_id = late\naws_secret_access_key = late\n")
        daemon.until_it_says("this replica leads")


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
    ],
)
def test_what_can_not_work_is_said_in_a_sentence(site: Site, change: dict[str, str], words: str) -> None:
    done = site.call("run", **{name: value.replace("{home}", str(site.home)) for name, value in change.items()})
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


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
        assert drained.stdout.splitlines()[1:] == ["0 ECS tasks are left, 1 task instances wait."]
        found = json.loads(site.call("status", "--json").stdout)
        assert [hold["mode"] for hold in found["holds"]] == ["draining"]

        assert site.call("resume", "--queue", "gpu").stdout == 'Launches of the queue "gpu" go on.\n'
        site.until(lambda: site.row("a").terminal, daemon.log)
    assert site.call("resume").stdout == "There was no hold of all queues.\n"


def test_a_port_that_is_taken_is_said_in_a_sentence(site: Site) -> None:
    port = site.ecs.endpoint_url.rsplit(":", 1)[-1]
    done = site.call("local-ecs", "--port", port, "--directory", str(site.home / "other"))
    assert done.returncode == 2
    assert "choose another --port" in done.stderr

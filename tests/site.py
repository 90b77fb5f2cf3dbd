"""A database, a local ECS and real daemon processes, for tests that look at the daemon from outside."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from prometheus_client.parser import text_string_to_metric_families

from reconciler.clock import SystemClock
from reconciler.core.task import Spec, TaskKey, Workload
from reconciler.store import shim
from reconciler.store.daemon import SqlStore
from reconciler.store.engine import make_engine, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy import Engine

    from reconciler.localecs import LocalEcs


def _ipv6() -> tuple[str, ...]:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return "::1", "::"
    return ()


IPV6 = _ipv6()
"""Where to listen for IPv6. Nowhere, if this machine has none, as a container may have none."""
SECRET = "a-secret-of-sixty-four-characters-or-more-that-nobody-else-knows-00"


class Site:
    """A database, a local ECS and an environment in which commands run."""

    def __init__(self, ecs: LocalEcs, home: Path) -> None:
        self.ecs, self.home = ecs, home
        self.clock = SystemClock()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "AWS_"))},
            "AIRFLOW_HOME": str(home),
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
        self.use(f"sqlite:///{home}/airflow.db")

    def use(self, url: str) -> None:
        """Let everything of this site work on the database at `url`."""
        self.url = self.environment["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = url
        self.engine: Engine = make_engine(url)
        self.store = SqlStore(self.engine, "test")

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
        deadline = self.clock.monotonic() + 300
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
        """The sum of all samples with this name and at least these labels: `name` or `name{label="value",...}`."""
        name, _, rest = sample.partition("{")
        wanted = dict(re.findall(r'(\w+)="([^"]*)"', rest))
        found = [
            shown.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for shown in family.samples
            if shown.name == name and wanted.items() <= shown.labels.items()
        ]
        return sum(found) if found else float("nan")
